"""Two sets of units that are not paired: a permutation of their labels, and Welch's interval.

If it did not matter which set a unit is in, every arrangement of the labels would be as likely. The
statistic is Welch's t with its own degrees of freedom, computed anew for each arrangement. Where the two
sets have one distribution the test is exact. Where only their means are the same, p keeps its level in
large samples (Janssen 1997; Welch's degrees of freedom are Beran's prepivoting, 1988). The same
arrangements go to all places, and the largest statistic of each gives q (Westfall and Young 1993, single
step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.stats.inference import FLIPS, FLIPS_AT_ONCE, LEVEL, TIES
from resonance_lens.stats.intervals import CONFIDENCE
from resonance_lens.stats.samples import RESOLUTION, Unit

Floats = NDArray[np.float64]

ARRANGEMENTS = FLIPS
"""Random arrangements of the labels, where there are more than these to make."""

FEWEST = 2
"""Units of a set below which it has no spread."""

SURE = 1e-24
"""Squared standard error, relative to the squared difference, below which it is rounding."""


@dataclass(frozen=True, eq=False)
class Relabelled:
    """What a permutation of labels says, place by place.

    Attributes
    ----------
    p, q
        In ``(0, 1]``, of the place and over its family; not-a-number where a set has fewer than two
        values, or the test was refused.
    smallest
        The smallest p that could come out.
    refused
        Why there is no test, or an empty string.
    """

    p: Floats
    q: Floats
    smallest: float
    refused: str = ""


def infer_labels(
    a: NDArray[Any],
    b: NDArray[Any],
    family: Sequence[int],
    rng: np.random.Generator,
    *,
    unit: Unit = "prompt",
) -> Relabelled:
    """Test at every place whether two sets of units have one mean.

    Parameters
    ----------
    a, b
        ``[unit, ...]``, alike but for the number of units. A unit whose value is not-a-number does not
        count for that place.
    family
        Axes of one row (without the unit) over which places are tested together; places that differ
        along other axes are families of their own.
    rng
        Random stream of the arrangements, where there are too many for all of them.
    unit
        What the units are called if the test is refused.

    Returns
    -------
    Relabelled
        Arrays of the shape of one row.

    Notes
    -----
    p is two-sided: the share of all arrangements whose statistic is at least the observed, or
    ``(1 + #{arrangements}) / (1 + n)`` of ``n`` random ones. An arrangement that leaves a set with fewer
    than two values at a place has the statistic 0 there. Sets of the same mean that differ in spread and
    are skewed besides get a q that is too small: at 24 units a side, exponential with spreads of 1 and 3,
    some of 20 places have q <= 0.05 in a quarter of cases, and p <= 0.05 in a twentieth.
    """
    shape = a.shape[1:]
    smallest = smallest_p_of_labels(len(a), len(b))
    refused = refusal_of_labels(unit, len(a), len(b))
    if refused:
        nothing = np.full(shape, np.nan)
        return Relabelled(p=nothing, q=nothing.copy(), smallest=smallest, refused=refused)
    rows = np.concatenate([a, b]).astype(np.float64)
    others = [axis for axis in range(len(shape)) if axis not in family]
    order = [*others, *family]
    n_places = math.prod(shape[axis] for axis in family)
    moved = np.transpose(rows, [0, *(axis + 1 for axis in order)])
    statistic = _Welch(moved.reshape(len(rows), -1))

    given = np.repeat([0.0, 1.0], [len(a), len(b)])
    observed = statistic.of(given[None])[0]
    known = statistic.defined(given[None])[0]
    by_family = (-1, n_places)
    reached = np.zeros(observed.shape)
    reached_by_largest = np.zeros(observed.reshape(by_family).shape)
    n = 0
    for labels in _arrangements(len(a), len(b), rng):
        drawn = statistic.of(labels)
        n += len(labels)
        reached += (drawn >= observed - TIES).sum(axis=0)
        largest = np.where(known, drawn, 0.0).reshape(len(labels), *reached_by_largest.shape)
        ordered = np.sort(largest.max(axis=-1), axis=0)  # [arrangement, family]
        for which, row in enumerate(observed.reshape(by_family)):
            reached_by_largest[which] += len(labels) - np.searchsorted(ordered[:, which], row - TIES)
    extra = 0 if _are_few(len(a), len(b)) else 1  # the given labels are one of all arrangements

    def back(counted: Floats) -> Floats:
        shares = np.where(known, (counted.ravel() + extra) / (n + extra), np.nan)
        return np.transpose(shares.reshape([shape[axis] for axis in order]), np.argsort(order))

    return Relabelled(p=back(reached), q=back(reached_by_largest), smallest=smallest)


class _Welch:
    """Welch's t of rows ``[unit, place]`` for any arrangement of the labels, on a scale from 0 to 1.

    The scale is ``z / sqrt(1 + z^2)``, with z the normal deviate that is as far out as t is with its degrees
    of freedom (Wallace 1959): the same in every place, 1 for constants that differ.
    """

    def __init__(self, rows: Floats) -> None:
        self.known = (~np.isnan(rows)).astype(np.float64)
        filled = np.where(self.known > 0, rows, 0.0)
        mean = filled.sum(axis=0) / np.maximum(self.known.sum(axis=0), 1.0)
        centred = filled - mean
        # What float32 cannot tell from the mean is no difference.
        same = np.abs(centred) <= RESOLUTION * np.maximum(np.abs(filled), np.abs(mean))
        self.centred = np.where((self.known > 0) & ~same, centred, 0.0)
        self.squares = self.centred**2

    def of(self, labels: Floats) -> Floats:
        """Return the statistic ``[arrangement, place]`` of labels ``[arrangement, unit]``, 1 for ``b``."""
        sums = []
        for side in (1.0 - labels, labels):
            count, total, squares = side @ self.known, side @ self.centred, side @ self.squares
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / count
                error = np.maximum(squares - total * mean, 0.0) / (count - 1) / count
            sums.append((mean, error, count))
        (mean_a, error_a, count_a), (mean_b, error_b, count_b) = sums
        with np.errstate(invalid="ignore", divide="ignore"):
            square, error = (mean_b - mean_a) ** 2, error_a + error_b
            freedom = error**2 / (error_a**2 / (count_a - 1) + error_b**2 / (count_b - 1))
            normal = (
                freedom * np.log1p(square / error / freedom) * ((8 * freedom + 1) / (8 * freedom + 3)) ** 2
            )
            scaled = np.sqrt(normal / (1 + normal))
        # Without any spread: the same constants, or constants apart.
        sure = (error <= SURE * square) & (square > 0)
        scaled = np.where(sure, 1.0, np.nan_to_num(scaled, nan=0.0))
        return np.where(self.defined(labels), scaled, 0.0)

    def defined(self, labels: Floats) -> NDArray[np.bool_]:
        """Return where both sets have at least two values."""
        enough = [side @ self.known >= FEWEST - 0.5 for side in (1.0 - labels, labels)]
        return enough[0] & enough[1]


def smallest_p_of_labels(n_a: int, n_b: int) -> float:
    """Return the smallest two-sided p that permuting the labels of two sets can give."""
    if not _are_few(n_a, n_b):
        return 1 / (ARRANGEMENTS + 1)
    # Sets of one size that change places have the same difference, with the other sign.
    return (2 if n_a == n_b else 1) / math.comb(n_a + n_b, n_b) if n_a and n_b else 1.0


def refusal_of_labels(unit: Unit, n_a: int, n_b: int) -> str:
    """Return why a permutation of labels cannot find anything, with the numbers that could, or ``""``.

    Parameters
    ----------
    unit
        ``prompt`` or ``group``.
    n_a, n_b
        Units of each set.
    """
    what = {"prompt": "prompts", "group": "groups of prompts"}[unit]
    needed = next(n for n in range(FEWEST, 100) if smallest_p_of_labels(n, n) <= LEVEL)
    could = f"{needed} on each side could"
    if min(n_a, n_b) < FEWEST:
        return f"{n_a} and {n_b} {what} cannot be told apart, for one alone has no spread; {could}"
    smallest = smallest_p_of_labels(n_a, n_b)
    return "" if smallest <= LEVEL else f"{n_a} and {n_b} {what} can reach no p below {smallest:.2g}; {could}"


def labels_words(n_a: int, n_b: int) -> str:
    """Return how many arrangements `infer_labels` makes, as a phrase."""
    if _are_few(n_a, n_b):
        return f"all {math.comb(n_a + n_b, n_b):,} arrangements"
    return f"{ARRANGEMENTS:,} random arrangements"


def welch_difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return the mean of ``b`` minus that of ``a`` with Welch's interval: for groups of prompts.

    Groups are the pseudo-values of a jackknife, too few to resample.

    Parameters
    ----------
    a, b
        ``[unit, ...]``, alike but for the number of units, and without not-a-number where bounds are
        wanted.

    Returns
    -------
    tuple of arrays
        Difference, lower and upper 95 % bound; bounds are not-a-number for fewer than two units.
    """
    mean_a, mean_b = (np.asarray(rows, dtype=np.float64).mean(axis=0) for rows in (a, b))
    difference = mean_b - mean_a
    if min(len(a), len(b)) < FEWEST:
        return difference, np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    errors = [np.asarray(rows, dtype=np.float64).var(axis=0, ddof=1) / len(rows) for rows in (a, b)]
    error = errors[0] + errors[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = error**2 / sum(e**2 / (len(r) - 1) for e, r in zip(errors, (a, b), strict=True))
        # Without any spread the degrees of freedom are 0/0, and the difference is sure.
        quantile = np.where(error > 0, stats.t.ppf((1 + CONFIDENCE) / 2, df=freedom), 0.0)
    half = np.where(np.isnan(error), np.nan, quantile * np.sqrt(error))
    return difference, difference - half, difference + half


def _are_few(n_a: int, n_b: int) -> bool:
    return math.comb(n_a + n_b, n_b) <= ARRANGEMENTS + 1


def _arrangements(n_a: int, n_b: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield labels ``[arrangement, unit]`` in pieces, 1 for the second set: all of them, or random ones."""
    n = n_a + n_b
    if _are_few(n_a, n_b):
        chosen = np.array(list(combinations(range(n), n_b)))
        labels = np.zeros((len(chosen), n))
        labels[np.arange(len(chosen))[:, None], chosen] = 1.0
        yield from np.array_split(labels, math.ceil(len(labels) / FLIPS_AT_ONCE))
        return
    given = np.repeat([0.0, 1.0], [n_a, n_b])
    for start in range(0, ARRANGEMENTS, FLIPS_AT_ONCE):
        size = min(FLIPS_AT_ONCE, ARRANGEMENTS - start)
        yield rng.permuted(np.tile(given, (size, 1)), axis=1)
