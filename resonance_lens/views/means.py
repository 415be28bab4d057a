"""Means over heads, of which some may have no value."""

from __future__ import annotations

import numpy as np

from resonance_lens.views.content import Numbers


def mean_over_heads(points: Numbers, *, cyclic: bool = False) -> Numbers:
    """Return the mean of ``[layer, head]`` over the heads that have a value; NaN where none has.

    Angles are averaged as directions.
    """
    known = np.isfinite(points)
    counts = np.maximum(known.sum(axis=1), 1)
    filled = np.where(known, points, 0.0)
    if cyclic:
        directions = np.where(known, np.exp(1j * filled), 0.0).sum(axis=1)
        return np.where(known.any(axis=1), np.angle(directions), np.nan)
    return np.where(known.any(axis=1), filled.sum(axis=1) / counts, np.nan)


def share_of_mean(rows: Numbers) -> Numbers:
    """Return one row for each unit whose mean over units is the mean over heads of the heads' means.

    Where every head has a value in every unit, this is the mean over heads. Where a head ``h`` has values
    in ``n_h`` of ``n`` units, a unit counts with its deviation from the head's mean, times ``n / n_h``: the
    mean over heads is then that of the figure, and resampling the rows is resampling it to first order.

    Parameters
    ----------
    rows
        ``[unit, place, head]``; not-a-number where a head has no value in a unit.

    Returns
    -------
    array
        ``[unit, place]``; not-a-number where no head has a value in any unit.
    """
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    filled = np.where(known, rows, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    shares = mean + np.where(known, (filled - mean) * (len(rows) / np.maximum(count, 1)), 0.0)
    shares = np.where(count > 0, shares, 0.0).sum(axis=-1)
    heads = (count > 0).sum(axis=-1)
    return np.where(heads > 0, shares / np.maximum(heads, 1), np.nan)
