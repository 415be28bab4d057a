"""How far the phases of different heads agree within a prompt, beside how far they do across prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def own_pairs(units: Any) -> Any:
    """Return the sum of cosines over ordered pairs of different heads, from ``[..., head, grid]``."""
    return abs(units.sum(-2)) ** 2 - (abs(units) ** 2).sum(-2)


def match(parts: Mapping[str, Array], rows: Array, places: Array, steps: Array) -> tuple[Array, Array]:
    """Return consistency within each prompt, and across prompts over the same positions.

    For each position, the sum over ordered pairs of prompts p, q and of heads g, h, both different, of
    ``Re(conj(u_pg) u_qh)`` is what the sums over prompts give, less the same-prompt terms. Each prompt's
    null is the mean of that over the prompt's own positions.

    Parameters
    ----------
    parts
        Sums over prompts: ``phasors``, ``[..., head, grid]``; ``own_pairs``, of the single prompts,
        ``[..., grid]``; ``prompts``, how many have the position, ``[grid]``.
    rows
        ``[prompt, ...]``: consistency over all positions of each prompt.
    places
        ``[prompt]``: how many positions of the grid each prompt has; they are the first ones.
    steps
        ``[grid]``: the weight of each position in a mean.

    Returns
    -------
    tuple of arrays
        Value and null, both ``[prompt, ...]``, over the positions that two prompts reach. What only one
        reaches is taken out of its value: there, the sums over prompts are that prompt's. If there is no
        such position the null is not-a-number.
    """
    phasors, own, n = parts["phasors"], parts["own_pairs"], parts["prompts"]
    shared = int((n >= 2).sum())
    if shared == 0:
        return rows, np.full_like(rows, np.nan)
    n_heads = phasors.shape[-2]
    n_pairs = n_heads * (n_heads - 1)
    total = np.cumsum(steps)
    across = (own_pairs(phasors) - own)[..., :shared] / ((n * (n - 1))[:shared] * n_pairs)
    null = np.cumsum(across * steps[:shared], axis=-1) / total[:shared]  # over the first 1, 2, ... positions
    null = np.moveaxis(null[..., np.minimum(places, shared) - 1], -1, 0)  # [prompt, ...]
    alone = (own * steps)[..., shared:].sum(-1) / n_pairs
    each = (slice(None), *[None] * (rows.ndim - 1))
    reach = total[places - 1][each]
    value = np.where(places[each] > shared, (rows * reach - alone) / total[shared - 1], rows)
    return value, null
