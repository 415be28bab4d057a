"""Bins that an ordered label is cut into, for heads that say a probability for each."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS, FEWEST = 32, 4
"""Bins at most and at least; always an even number, so that heads of both kinds can be of one size."""

MARGIN = 0.25
"""Of the range between the 1st and 99th percentile of training, what bins reach beyond it on each side: the
density of a Fourier head is the same at both ends, and labels need not be alike there."""


def bin_edges(values: Floats) -> Floats:
    """Return the edges of bins of equal width for values of a training part: ``[bin + 1]``.

    Each bin of whole numbers holds the same count of them, one if they are few: else some bins would be empty
    for no reason but rounding, and no smooth density could follow.
    """
    low, high = np.quantile(values, [0.01, 0.99])
    if low == high:
        low, high = values.min(), values.max()
    if bool((values == np.round(values)).all()):
        margin = math.ceil(MARGIN * (high - low))
        first, last = math.floor(low) - margin, math.ceil(high) + margin
        width = math.ceil((last - first + 1) / BINS)
        count = max(math.ceil((last - first + 1) / width), FEWEST)
        return np.asarray(first - 0.5 + width * np.arange(count + count % 2 + 1.0))
    margin = MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, BINS + 1)


def bin_of(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return the bin of each value; what lies beyond the outermost bins counts as these."""
    return np.clip(np.digitize(values, edges[1:-1]), 0, len(edges) - 2).astype(np.int64)
