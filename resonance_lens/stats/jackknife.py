"""Samples of what has no value for each prompt alone: estimates that leave one group of prompts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.stats.samples import AnySample, of_jackknife

Array = NDArray[Any]
Paired = Callable[[int | None], tuple[Array, Array]]
"""Given the group that is left out, or none: value and null of every prompt, ``[prompt, ...]``, where what
they share comes from the prompts of the other groups."""


def of_groups(
    paired: Paired, block: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, AnySample]:
    """Return the sample of each category, whose units are groups of prompts.

    Parameters
    ----------
    paired
        See `Paired`.
    block
        The jackknife group of each prompt: ``Accumulated.jackknife``.
    groups
        Which prompts belong to each category: ``Accumulated.groups``.
    """
    used = [int(b) for b in np.unique(block)]
    value, null = paired(None)
    without = {b: paired(b) for b in used if len(used) > 2}
    samples: dict[str, AnySample] = {}
    for category, members in groups.items():
        # Where one group holds a whole category, nothing is left without it.
        inside = [b for b in without if (members & (block == b)).any() and (members & (block != b)).any()]
        left = [members & (block != b) for b in inside]
        samples[category] = of_jackknife(
            value[members].mean(0),
            null[members].mean(0),
            [without[b][0][kept].mean(0) for b, kept in zip(inside, left, strict=True)],
            [without[b][1][kept].mean(0) for b, kept in zip(inside, left, strict=True)],
        )
    return samples
