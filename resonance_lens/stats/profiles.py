"""Whether something has a maximum inside the depth of a model, and not only somewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.stats.intervals import CONFIDENCE

FEWEST = 3
"""Prompts below which there is no telling how much a mean of them varies."""


def inner_maximum(rows: NDArray[np.float64], smallest: float) -> tuple[int, float, float, float]:
    """Look for a layer between the first and the last one that exceeds both.

    The highest of many inner layers of a mean exceeds the ends by chance alone. So the bounds are those of
    Student's t at a level divided by the number of inner layers (Bonferroni): they hold for whichever of
    them is the highest. Both ends have to be exceeded, which needs no further correction.

    Parameters
    ----------
    rows
        ``[prompt, layer]``; prompts with a value that is not-a-number do not count.
    smallest
        The lower bound must exceed this.

    Returns
    -------
    tuple
        Index of the inner maximum, or -1 if there is none; by how much the best inner layer exceeds the
        higher end, with the lower and upper 95 % bound. Not-a-number for fewer than three layers or prompts.
    """
    rows = rows[~np.isnan(rows).any(axis=1)]
    n_prompts, n_layers = rows.shape
    if n_layers < 3 or n_prompts < FEWEST:
        return -1, np.nan, np.nan, np.nan
    gain = rows[:, 1:-1, None] - rows[:, None, [0, -1]]  # [prompt, inner layer, end]
    mean, error = gain.mean(axis=0), gain.std(axis=0, ddof=1) / np.sqrt(n_prompts)
    half = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / (n_layers - 2), df=n_prompts - 1) * error
    mean, low, high = (bound.min(axis=1) for bound in (mean, mean - half, mean + half))
    best = int(mean.argmax())
    return best + 1 if low[best] > smallest else -1, float(mean[best]), float(low[best]), float(high[best])
