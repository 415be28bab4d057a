"""Rotary positions: which dimensions turn together, how fast, how large they are, what they add to scores.

Rotary positions turn each pair of dimensions of a query and a key by an angle that grows with the
position, at a frequency that belongs to the pair (Su et al. 2021). A turn keeps the length of a pair, and
what a pair adds to the score of a query and a key is the inner product of the two turned pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.query_grid import DENSE, STEP, query_grid
from resonance_lens.errors import ParameterError

Layout = Literal["halves", "adjacent"]
"""Which dimensions turn together. ``halves``: j and j + dims / 2 (Llama, GPT-NeoX). ``adjacent``: 2 j and
2 j + 1 (GPT-J, Cohere, GLM)."""

LAYOUTS: tuple[Layout, ...] = ("halves", "adjacent")


def pair_frequencies(dims: int, base: float) -> NDArray[np.float64]:
    """Return ``base ** (-2 k / dims)`` for pair k: radians per token, ``[dims / 2]``, the fastest first.

    Parameters
    ----------
    dims
        How many dimensions of a head turn: an even number of at least 2.
    base
        Above 1.

    Raises
    ------
    ParameterError
        If one of them is out of its range.
    """
    if dims < 2 or dims % 2:
        raise ParameterError(f"Rotary dimensions turn in pairs, so their number is even; got {dims}.")
    if not base > 1:
        raise ParameterError(f"The base of rotary frequencies is above 1; got {base}.")
    return np.asarray(float(base) ** (-np.arange(0, dims, 2) / dims))


def split_pairs(values: Tensor, dims: int, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the first and the second dimension of every pair, ``[..., dims / 2]`` each; views, no copies.

    Parameters
    ----------
    values
        ``[..., d_head]``; the first ``dims`` of them turn.
    dims
        How many turn.
    layout
        One of `LAYOUTS`.

    Raises
    ------
    ParameterError
        If there are not so many dimensions, or there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ParameterError(
            f"Rotary pairs are laid out in {' or '.join(map(repr, LAYOUTS))}; got {layout!r}."
        )
    if dims < 2 or dims % 2 or dims > values.shape[-1]:
        raise ParameterError(
            f"Of {values.shape[-1]} dimensions an even number turns, at least 2 and not more; got {dims}."
        )
    if layout == "halves":
        return values[..., : dims // 2], values[..., dims // 2 : dims]
    return values[..., 0:dims:2], values[..., 1:dims:2]


def pair_norms(values: Tensor, dims: int, layout: Layout) -> Tensor:
    """Return the 2-norm of every pair, ``[..., dims / 2]``; see `split_pairs`."""
    first, second = split_pairs(values, dims, layout)
    return first.square().addcmul_(second, second).sqrt_()


def rotate(
    values: Tensor, frequencies: Sequence[float] | NDArray[np.float64] | Tensor, layout: Layout
) -> Tensor:
    """Return queries or keys turned by their positions, which count from 0 along ``token``.

    Parameters
    ----------
    values
        ``[batch, token, head, d_head]``, before they turn.
    frequencies
        Radians per token of each pair; dimensions beyond the pairs are left as they are.
    layout
        One of `LAYOUTS`.
    """
    speed = torch.as_tensor(frequencies, dtype=torch.float64, device=values.device)
    dims = 2 * len(speed)
    angle = torch.arange(values.shape[1], device=values.device)[:, None] * speed
    cos, sin = (part.to(values.dtype)[:, None] for part in (angle.cos(), angle.sin()))  # [token, 1, pair]
    first, second = split_pairs(values, dims, layout)
    turned = first * cos - second * sin, second * cos + first * sin
    together = torch.cat(turned, -1) if layout == "halves" else torch.stack(turned, -1).flatten(-2)
    return torch.cat([together, values[..., dims:]], dim=-1)


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the pairs of dimensions add to the scores of the keys that queries see.

    Attributes
    ----------
    mean
        Mean over the pairs of a query and a key, ``[batch, head, pair]``.
    variance
        Mean over them of the squared deviation from the mean over the keys of the same query: what is left
        of it after a softmax, which does not see what all keys of a query have in common.
    rest_mean, rest_variance
        The same of all dimensions that do not turn, together: ``[batch, head]``.
    """

    mean: Tensor
    variance: Tensor
    rest_mean: Tensor
    rest_variance: Tensor


def contributions(
    queries: Tensor,
    keys: Tensor,
    *,
    dims: int,
    layout: Layout,
    causal: bool = True,
    sliding: int | None = None,
    lengths: Tensor | None = None,
) -> Contributions:
    """Return how much each pair of dimensions adds to the scores, without making the scores.

    The inner product of turned pairs ``s_ij = q_i . k_j``, summed over all keys that a query sees, is
    ``q_i . sum_j k_j``; the sum of its squares is ``q_i' (sum_j k_j k_j') q_i``. Sums over the keys are
    cumulative, so N tokens cost N steps. All keys count, and the queries of `query_grid`. Keys are centred
    first: what is taken from all of them moves all scores of a query alike, and would drown the rest in
    rounding. Dimensions that do not turn are one part of many dimensions, and are multiplied out.

    Parameters
    ----------
    queries
        ``[batch, token, head, d_head]``, turned.
    keys
        ``[batch, token, kv_head, d_head]``, turned; ``head`` is a multiple of ``kv_head``, and heads
        that share keys stand beside each other.
    dims, layout
        As in `split_pairs`.
    causal
        Whether query i sees keys up to i; else it sees all.
    sliding
        How many keys back a causal query sees, itself included; ``None`` for all.
    lengths
        Integers ``[batch]``: real tokens, which come first.

    Returns
    -------
    Contributions
        In the units of ``queries`` times ``keys``: not yet divided by the square root of d_head.
    """
    batch, n = queries.shape[:2]
    device, dtype = keys.device, keys.dtype
    grid = query_grid(n)
    index, step = grid.index.to(device), grid.counts.to(device)
    sizes = torch.full((batch, 1), n, device=device) if lengths is None else lengths.to(device)[:, None]
    seen = (index + 1).clamp(max=sliding or n).expand(batch, -1) if causal else sizes.expand(-1, len(index))
    count = torch.where(index < sizes, step, 0)  # [batch, query]
    total = (count * seen).sum(1)[:, None, None].to(dtype)  # [batch, 1, 1]

    queries = queries.index_select(1, index)
    if lengths is None:
        center = keys.mean(1, keepdim=True)
        keys = keys - center
    else:
        real = (torch.arange(n, device=device) < sizes)[:, :, None, None]
        keys = keys.masked_fill(~real, 0.0)
        center = keys.sum(1, keepdim=True) / sizes[:, :, None, None]
        keys = (keys - center).masked_fill(~real, 0.0)
    groups = queries.unflatten(2, (keys.shape[2], -1))  # [batch, query, kv_head, group, d_head]
    weight, number = (each.to(dtype)[:, :, None, None] for each in (count, seen))

    x, y = split_pairs(keys, dims, layout)
    moments = torch.stack([x, y, x.square(), x * y, y.square()], dim=2)
    # Sums over the keys that each query sees, [batch, query, kv_head, pair]; squares less those of the mean.
    x, y, xx, xy, yy = _over_keys(moments, index, causal, sliding).unbind(2)
    xx, xy, yy = xx - x * x / number, xy - x * y / number, yy - y * y / number
    # What was taken from the keys goes back into the mean. What heads that share keys have in common is
    # worked out once for all of them.
    u, v = split_pairs(center, dims, layout)
    x, y, xx, xy, yy = (
        (weight * each)[:, :, :, None] for each in (x + number * u, y + number * v, xx, 2 * xy, yy)
    )
    a, b = split_pairs(groups, dims, layout)
    mean = a * x + b * y
    variance = a * (a * xx + b * xy) + b * b * yy
    others, their_keys, their_center = (each[..., dims:] for each in (groups, keys, center))
    rest, rest_variance = _rest(others, their_keys, their_center, index, seen, causal, sliding, weight)
    return Contributions(
        mean.sum(1).flatten(1, 2) / total,
        variance.sum(1).flatten(1, 2).clamp_min(0) / total,
        rest / total[..., 0],
        rest_variance.clamp_min(0) / total[..., 0],
    )


def _over_keys(values: Tensor, index: Tensor, causal: bool, sliding: int | None) -> Tensor:
    """Return sums over the keys that each query of the grid sees; dimension 1 of the values counts keys."""
    n = values.shape[1]
    if not causal:
        return values.sum(1, keepdim=True).expand(-1, len(index), *values.shape[2:])
    if sliding is not None and sliding < n:
        sums = values.cumsum(1)
        before = (index - sliding).clamp_min(-1) + 1
        return sums[:, index] - torch.nn.functional.pad(sums, (0, 0) * (values.ndim - 2) + (1, 0))[:, before]
    early = values[:, :DENSE].cumsum(1)
    n_late = (n - early.shape[1]) // STEP
    late = values[:, DENSE : DENSE + n_late * STEP].unflatten(1, (n_late, STEP)).sum(2).cumsum(1)
    return torch.cat([early, early[:, -1:] + late], dim=1)


def _rest(
    groups: Tensor,
    keys: Tensor,
    center: Tensor,
    index: Tensor,
    seen: Tensor,
    causal: bool,
    sliding: int | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return sums of scores, and of their squared deviations in each query, ``[batch, head]``."""
    batch, _, n_kv, n_shared, size = groups.shape
    if not size:
        nothing = groups.new_zeros(batch, n_kv * n_shared)
        return nothing, nothing
    scores = torch.einsum("bikgd,bjkd->bikgj", groups, keys)  # [batch, query, kv_head, group, key]
    if causal:
        lag = index[:, None] - torch.arange(keys.shape[1], device=keys.device)  # [query, key]
        hidden = (lag < 0) if sliding is None else (lag < 0) | (lag >= sliding)
        scores = scores.masked_fill(hidden[:, None, None], 0.0)
    sums = scores.sum(-1)
    squares = scores.square().sum(-1) - sums.square() / seen.to(keys.dtype)[:, :, None, None]
    common = (groups * center[..., None, :]).sum(-1) * seen.to(keys.dtype)[:, :, None, None]
    return ((sums + common) * weight).sum(1).flatten(1), (squares * weight).sum(1).flatten(1)
