"""From samples to p and q: one test for places, one correction for the family that they are a part of.

The default test flips signs: if a value has the mean of its null in every unit, the sign of each
difference is as likely as its opposite. Its statistic is the self-normalised mean, ``sum(x) /
sqrt(sum(x^2))``: a monotone function of Student's t, with variance 1 under the flips in every place, so
that places of different spread and with missing units stand on one scale. The same flips go to
all places, and the largest statistic of each flip gives q (Westfall and Young 1993, single step).

Differences are often skewed, and far out in the tail, where the largest of many places lies, sign flips then
call too many places different: P(any q <= .05) was .07 to .18 in families of 272 heads. So q is the larger of
that and of a second one, from the largest and the smallest bootstrap-t of resampled units (Romano and Wolf
2005): it sees the skew. See docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.stats.samples import RESOLUTION, AnySample, Sample, Surrogates

LEVEL = 0.05
"""The level that claims are made at."""

FLIPS = 9999
"""Random sign flips, where there are too many units for all of them."""

EXACT_UNITS = 12
"""Up to this many units every sign flip is made."""

RESAMPLES = 1999
"""Resamples of the units, for the part of q that sees skew."""

FLIPS_AT_ONCE = 1000
TIES = 1e-9
"""Statistics that differ by less are the same: sums of the same terms in another order."""

FEWEST_UNITS = 6
"""Fewer sign flips than those of 6 units can reach no p of `LEVEL`: two of 2^5."""

Correction = Literal["maximum", "false_discovery"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Inference:
    """What a test says, place by place.

    Attributes
    ----------
    p, q
        In ``(0, 1]``, of the place and over its family; not-a-number where nothing was measured, or the
        test was refused.
    effect_size
        Mean difference over its spread between units (or value minus mean draw over the spread of draws).
    null_low, null_high
        Where 95 % of the means would lie under the null.
    units
        Prompts, groups or draws.
    smallest
        The smallest p that could come out.
    refused
        Why there is no test, or an empty string.
    """

    p: Floats
    q: Floats
    effect_size: Floats
    null_low: Floats
    null_high: Floats
    units: int
    smallest: float
    refused: str = ""


def infer(
    sample: AnySample,
    family: Sequence[int],
    rng: np.random.Generator,
    *,
    correction: Correction = "maximum",
) -> Inference:
    """Test every place of a sample.

    Parameters
    ----------
    sample
        Values beside their null.
    family
        Axes of a value (without the unit) over which places are tested together; places that differ
        along other axes are families of their own.
    rng
        Random stream of the sign flips and resamples.
    correction
        ``maximum``: q is the share of flips, or of resamples if that is more, whose largest statistic
        in the family is at least that of the place (control of the family-wise error).
        ``false_discovery``: Benjamini-Hochberg.

    Returns
    -------
    Inference
        Arrays of the shape of one value.

    Notes
    -----
    p is two-sided: ``(1 + #{null >= observed}) / (1 + n)``, or the exact share of all flips.
    """
    if isinstance(sample, Sample):
        return _of_units(sample, family, rng, correction)
    return _of_draws(sample, family, correction)


def _of_draws(sample: Surrogates, family: Sequence[int], correction: Correction) -> Inference:
    value = np.asarray(sample.value, dtype=np.float64)
    draws = np.asarray(sample.draws, dtype=np.float64)
    n = len(draws)
    # The value is one of the draws if the null is true: it has its part in their mean and their spread.
    pooled = np.concatenate([value[None], draws])
    center = pooled.mean(axis=0)
    deviation = pooled - center
    size = np.maximum(np.maximum(np.abs(pooled), np.abs(center)), sample.scale)
    deviation = np.where(np.abs(deviation) <= RESOLUTION * size, 0.0, deviation)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((deviation**2).mean(axis=0))
        statistic = np.where(spread > 0, np.abs(deviation) / spread, np.where(np.isnan(spread), np.nan, 0.0))
        mean = draws.sum(axis=0) / n
        own = np.sqrt(((draws - mean) ** 2).sum(axis=0) / (n - 1))
        effect_size = np.where(own > RESOLUTION * np.abs(center), (value - mean) / own, np.nan)
    observed = _places(statistic[0], family)
    known = ~np.isnan(observed)
    counter = _Counter(np.where(known, observed, 0.0), known)
    for some in np.array_split(statistic[1:], 1 + n // FLIPS_AT_ONCE):
        if len(some):
            counter.add(np.nan_to_num(np.stack([_places(one, family) for one in some])))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if n else np.full((2, *value.shape), np.nan)
    return _concluded(
        counter, correction, value.shape, family,
        effect_size=effect_size, null_low=low, null_high=high, units=n, smallest=1 / (n + 1), exact=False,
        refused=refusal("draw", n),
    )  # fmt: skip


def _of_units(
    sample: Sample, family: Sequence[int], rng: np.random.Generator, correction: Correction
) -> Inference:
    difference = np.asarray(sample.difference, dtype=np.float64)
    n, shape = difference.shape[0], difference.shape[1:]
    places = np.stack([_places(one, family) for one in difference])  # [unit, family, place]
    counted = ~np.isnan(places)
    filled = np.where(counted, places, 0.0)
    count = counted.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
        effect_size = mean / np.sqrt(((filled - mean * counted) ** 2).sum(axis=0) / (count - 1))
        root = np.sqrt((filled**2).sum(axis=0))
        unit = np.where(root > 0, filled / root, 0.0)  # its sum under any flip has variance 1
        spread = root / count
        nulls = np.stack([_places(one, family) for one in sample.null])
        null = np.where(counted, nulls, 0.0).sum(axis=0) / count
    smallest = smallest_p(n)
    counter = _Counter(np.abs(unit.sum(axis=0)), count >= 2)
    exact = n <= EXACT_UNITS
    refused = refusal(sample.unit, n)
    skewed = np.zeros_like(mean)
    if not refused:
        flat = unit.reshape(n, -1)
        for signs in _flips(n, rng):
            counter.add(np.abs(signs @ flat).reshape(len(signs), *unit.shape[1:]))
        skewed = _bootstrap_t(filled, counted, rng)
    half = stats.norm.ppf(0.975) * spread

    def back(values: Floats) -> Floats:
        return _back(values, shape, family)

    return _concluded(
        counter, correction, shape, family,
        effect_size=back(np.where(np.isfinite(effect_size), effect_size, np.nan)),
        null_low=back(null - half), null_high=back(null + half),
        units=n, smallest=smallest, exact=exact, refused=refused, at_least=skewed,
    )  # fmt: skip


def _bootstrap_t(filled: Floats, counted: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Return q ``[family, place]`` by the extremes over a family of Student's t of resampled units.

    Units are resampled around the mean of each place, the same ones in all places. A place above zero
    is held against the largest t of each resample, one below against the smallest: at half the level each.
    """
    n, shape = filled.shape[0], filled.shape[1:]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    known = counted.reshape(n, -1).astype(np.float64)
    values = filled.reshape(n, -1)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(axis=0) / count
        centred = np.where(known > 0, values - mean, 0.0)
        centred = np.where(np.abs(centred) <= RESOLUTION * np.abs(mean), 0.0, centred)
        error = np.sqrt((centred**2).sum(axis=0) / count / (count - 1))
        observed = np.where(mean == 0, 0.0, mean / error).reshape(shape)
        # A place with so few units can reach no p that counts, and its t may be anything.
        takes_part = (count >= FEWEST_UNITS) & (error > 0)
        largest, smallest = [], []
        for some in np.array_split(weights, 1 + len(weights) // FLIPS_AT_ONCE):
            there = np.full((1, 1), float(n)) if known.all() else some @ known
            means = (some @ centred) / there
            squares = (some @ centred**2) / there
            errors = np.sqrt(np.maximum(squares - means**2, 0.0) / (there - 1))
            drawn = np.where(takes_part, means / errors, 0.0).reshape(len(some), *shape)
            # Units that are all the same have no t: an infinite one if they are not the mean.
            drawn = np.nan_to_num(drawn, nan=0.0, posinf=np.inf, neginf=-np.inf)
            largest.append(drawn.max(axis=-1, initial=0.0))
            smallest.append(drawn.min(axis=-1, initial=0.0))
    above, below = np.sort(np.concatenate(largest), axis=0), np.sort(-np.concatenate(smallest), axis=0)
    q = np.empty(shape)
    for which, row in enumerate(np.nan_to_num(observed, nan=0.0, posinf=np.inf, neginf=-np.inf)):
        for side, ordered in ((row >= 0, above[:, which]), (row < 0, below[:, which])):
            reached = RESAMPLES - np.searchsorted(ordered, np.abs(row[side]) * (1 - TIES))
            q[which, side] = np.minimum(1.0, 2 * (1 + reached) / (1 + RESAMPLES))
    return q


class _Counter:
    """Counts the draws that reach the observed statistic, in its place and anywhere in its family."""

    def __init__(self, observed: Floats, known: NDArray[np.bool_]) -> None:
        self.observed = observed  # [family, place]
        self.known = known
        self.n = 0
        self._reached = np.zeros(observed.shape)
        self._largest: list[Floats] = []

    def add(self, drawn: Floats) -> None:
        """Count draws ``[draw, family, place]``."""
        self.n += len(drawn)
        self._reached += (drawn >= self.observed - TIES).sum(axis=0)
        self._largest.append(np.where(self.known, drawn, 0.0).max(axis=-1, initial=0.0))

    def shares(self, *, exact: bool) -> tuple[Floats, Floats]:
        """Return p, and q by the largest statistic; without the observation among the draws, plus one."""
        extra = 0 if exact else 1
        p = (self._reached + extra) / (self.n + extra)
        largest = np.concatenate(self._largest)  # [draw, family]
        q = np.empty_like(p)
        for which, row in enumerate(self.observed):
            ordered = np.sort(largest[:, which])
            reached = len(ordered) - np.searchsorted(ordered, row - TIES)
            q[which] = (reached + extra) / (self.n + extra)
        return p, q


def _concluded(
    counter: _Counter,
    correction: Correction,
    shape: tuple[int, ...],
    family: Sequence[int],
    *,
    effect_size: Floats,
    null_low: Floats,
    null_high: Floats,
    units: int,
    smallest: float,
    exact: bool,
    refused: str,
    at_least: Floats | None = None,
) -> Inference:
    if refused:
        p = q = np.full(shape, np.nan)
    else:
        places, corrected = counter.shares(exact=exact)
        places = np.where(counter.known, places, np.nan)
        if correction == "false_discovery":
            corrected = _false_discovery(places)
        elif at_least is not None:
            corrected = np.maximum(corrected, at_least)
        corrected = np.where(counter.known, corrected, np.nan)
        p, q = _back(places, shape, family), _back(corrected, shape, family)
    return Inference(
        p=p, q=q, effect_size=effect_size, null_low=null_low, null_high=null_high,
        units=units, smallest=smallest, refused=refused,
    )  # fmt: skip


def _false_discovery(p: Floats) -> Floats:
    q = np.full_like(p, np.nan)
    for which, row in enumerate(p):
        known = ~np.isnan(row)
        if known.any():
            q[which, known] = stats.false_discovery_control(row[known])
    return q


def smallest_p(n_units: int) -> float:
    """Return the smallest two-sided p that flipping the signs of ``n_units`` differences can give."""
    if n_units <= EXACT_UNITS:
        return min(1.0, 2.0 ** (1 - n_units))
    return 1 / (FLIPS + 1)


def refusal(unit: str, n: int) -> str:
    """Return why a test cannot find anything, with the number that could, or an empty string.

    Parameters
    ----------
    unit
        ``prompt``, ``group`` or ``draw``.
    n
        How many there are.

    Notes
    -----
    No correction needs more: the largest statistic of a family can be the smallest p's, and
    Benjamini-Hochberg finds something if enough places are at it (`places_at_floor`).
    """
    what = {"prompt": "prompts", "group": "groups of prompts", "draw": "surrogates"}[unit]
    if unit == "draw" and n == 0:
        return "its null is drawn for all prompts together"
    if unit == "draw":
        needed = math.ceil(1 / LEVEL) - 1
        smallest = 1 / (n + 1)
    else:
        needed, smallest = FEWEST_UNITS, smallest_p(n)
    if n >= needed:
        return ""
    have = f"{n} {what if n != 1 else what.replace('prompts', 'prompt').removesuffix('s')}"
    return f"{have} can reach no p below {smallest:.2g}; {needed} {what} could"


def places_at_floor(n_places: int, smallest: float) -> int:
    """Return how many places must have the smallest p before Benjamini-Hochberg finds any at `LEVEL`."""
    return max(1, math.ceil(n_places * smallest / LEVEL - TIES))


def _flips(n: int, rng: np.random.Generator) -> list[Floats]:
    """Return signs ``[flip, unit]``, in pieces: all with the first one up, or random ones."""
    if n <= EXACT_UNITS:
        codes = np.arange(2 ** max(n - 1, 0))[:, None] >> np.arange(n)
        return [np.asarray(1.0 - 2.0 * (codes & 1)[:, ::-1])]
    sizes = [FLIPS_AT_ONCE] * (FLIPS // FLIPS_AT_ONCE) + [FLIPS % FLIPS_AT_ONCE]
    return [np.asarray(1.0 - 2.0 * rng.integers(0, 2, size=(size, n))) for size in sizes if size]


def _places(values: NDArray[Any], family: Sequence[int]) -> Floats:
    """Return ``[family, place]`` from the axes of one value."""
    others = [axis for axis in range(values.ndim) if axis not in family]
    moved = np.transpose(values, [*others, *family])
    size = math.prod(values.shape[axis] for axis in family)
    return np.asarray(moved.reshape(-1, size), dtype=np.float64)


def _back(places: Floats, shape: tuple[int, ...], family: Sequence[int]) -> Floats:
    """Return what `_places` took apart."""
    order = [*(axis for axis in range(len(shape)) if axis not in family), *family]
    moved = places.reshape([shape[axis] for axis in order])
    return np.transpose(moved, np.argsort(order))
