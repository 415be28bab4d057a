"""Intervals by resampling prompts, which are the unit of inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
COLUMNS_AT_ONCE = 128
"""Columns whose resampled means are held at one time."""

FEWEST = 8
"""Prompts below which resampling cannot tell: n of them cover a mean with at most ``1 - 2^(1-n)``."""


def bootstrap_mean(
    rows: NDArray[Any],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = 1999,
) -> tuple[Floats, Floats, Floats]:
    """Return the mean over prompts and an interval around it.

    Percentiles of the means of resampled prompts, at levels widened for small samples as in
    Hesterberg (2015), "What teachers should know about the bootstrap", section 4.2: a plain percentile
    interval of n prompts is too narrow by about ``sqrt((n - 1) / n)`` and by normal against t
    quantiles. All columns share their resamples, so intervals of different heads are comparable.
    Fewer than `FEWEST` prompts get Student's interval.

    Parameters
    ----------
    rows
        ``[prompt, ...]``. A prompt whose value is not-a-number does not count for that column.
    rng
        Random stream.
    confidence
        Coverage aimed at, between 0 and 1.
    n_resamples
        Number of resamples.

    Returns
    -------
    tuple of arrays
        Mean, lower and upper bound, each of the shape of one row. Bounds are not-a-number for fewer
        than two prompts, the mean for none.
    """
    values = np.asarray(rows, dtype=np.float64)
    n, shape = values.shape[0], values.shape[1:]
    flat = values.reshape(n, -1)
    known = ~np.isnan(flat)
    filled = np.where(known, flat, 0.0)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if n >= 2:
        weights = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
        for m in np.unique(count[count >= 2]):
            columns = np.flatnonzero(count == m)
            if m < FEWEST:
                error = np.nanstd(flat[:, columns], axis=0, ddof=1) / np.sqrt(m)
                half = stats.t.ppf((1 + confidence) / 2, df=m - 1) * error
                low[columns], high[columns] = mean[columns] - half, mean[columns] + half
                continue
            tail = stats.norm.cdf(np.sqrt(m / (m - 1)) * stats.t.ppf((1 - confidence) / 2, df=m - 1))
            # A resample may hold none of the prompts that a column knows.
            quantile = np.quantile if m == n else np.nanquantile
            for part in np.array_split(columns, 1 + len(columns) // COLUMNS_AT_ONCE):
                with np.errstate(invalid="ignore", divide="ignore"):
                    means = (weights @ filled[:, part]) / (weights @ known[:, part])
                low[part], high[part] = quantile(means, [tail, 1 - tail], axis=0)
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


def crossed_bounds(by_prompt: Floats, without: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return 95 % bounds of a mean over prompts and over draws that all prompts share.

    Prompts and draws (directions of a drive) are crossed: each prompt has a value of every draw. The
    variance is that of a mean over prompts plus that of a mean over draws, by leaving out one; the part that
    is neither's is counted twice. Student's t, with Satterthwaite's degrees of freedom. Of one prompt or one
    draw there is no variance, and the bounds are those of the other.

    Parameters
    ----------
    by_prompt
        What each prompt gives with all draws, ``[prompt, ...]``.
    without
        The same without one of the draws, each in turn; empty if there is only one.
    """
    mean = by_prompt.mean(0)
    parts = []  # variances and their degrees of freedom
    if (m := len(by_prompt)) > 1:
        parts.append((by_prompt.var(0, ddof=1) / m, m - 1))
    if (n := len(without)) > 1:
        parts.append(((n - 1) * np.var([one.mean(0) for one in without], axis=0), n - 1))
    if not parts:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    variance = np.sum([each for each, _ in parts], axis=0)
    with np.errstate(invalid="ignore"):  # where nothing varies at all
        freedom = np.square(variance) / np.sum([np.square(each) / k for each, k in parts], axis=0)
    width = np.where(variance > 0, stats.t.ppf(0.975, np.where(variance > 0, freedom, 1)), 0) * np.sqrt(
        variance
    )
    return mean - width, mean + width


def unit_interval(rows: NDArray[Any], unit: str, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return the mean over units and its 95 % interval: by resampling prompts, or Student's of groups.

    Groups are the pseudo-values of a jackknife; Student's interval around their mean is the jackknife's
    (delete-a-group, Kott 2001).

    Parameters
    ----------
    rows
        ``[unit, ...]``.
    unit
        ``prompt`` or ``group``.
    rng
        Random stream.

    Returns
    -------
    tuple of arrays
        Mean, lower and upper bound; as in `bootstrap_mean`.
    """
    if unit == "prompt":
        return bootstrap_mean(rows, rng)
    values = np.asarray(rows, dtype=np.float64)
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        nothing = np.full_like(mean, np.nan)
        return mean, nothing, nothing.copy()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, df=n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


def bootstrap_difference(
    rows_a: NDArray[Any],
    rows_b: NDArray[Any],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = 1999,
) -> tuple[Floats, Floats, Floats]:
    """Return the mean of one set of prompts minus that of another, and an interval around it.

    Each set is resampled on its own. As in `bootstrap_mean` the interval is widened for small samples:
    the deviations of each set's resampled means by ``sqrt(n / (n - 1))``, those of the difference by the
    ratio of the quantiles of Student's t, with Welch's degrees of freedom, and of the normal.

    Parameters
    ----------
    rows_a, rows_b
        ``[prompt, ...]``, alike but for the number of prompts. A prompt whose value is not-a-number
        does not count for that column.
    rng
        Random stream.
    confidence
        Coverage aimed at, between 0 and 1.
    n_resamples
        Number of resamples.

    Returns
    -------
    tuple of arrays
        Mean of ``b`` minus mean of ``a``, lower and upper bound, each of the shape of one row. Bounds are
        not-a-number where either set has fewer than two values, the difference where one has none.
    """
    shape = np.shape(rows_a)[1:]
    means, deviations, errors, counts = [], [], [], []
    for rows in (rows_a, rows_b):
        values = np.asarray(rows, dtype=np.float64)
        n = values.shape[0]
        values = values.reshape(n, -1)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, values, 0.0).sum(axis=0) / count
            centred = np.where(known, values - mean, 0.0)
            errors.append((centred**2).sum(axis=0) / (count - 1) / count)  # squared standard error
            resampled = (weights @ centred) / (weights @ known)
            deviations.append(resampled * np.sqrt(count / (count - 1)))
        means.append(mean)
        counts.append(count)
    difference = means[1] - means[0]
    low, high = np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    enough = (counts[0] >= 2) & (counts[1] >= 2)
    if enough.any():
        tail = (1 - confidence) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = (errors[0] + errors[1]) ** 2 / sum(
                error**2 / (count - 1) for error, count in zip(errors, counts, strict=True)
            )
            wider = stats.t.ppf(tail, df=freedom[enough]) / stats.norm.ppf(tail)
        spread = deviations[1][:, enough] - deviations[0][:, enough]
        # Without any spread the degrees of freedom are 0/0, and there is nothing to widen.
        bounds = np.nanquantile(spread, [tail, 1 - tail], axis=0) * np.nan_to_num(wider, nan=1.0)
        low[enough], high[enough] = difference[enough] + bounds
    return difference.reshape(shape), low.reshape(shape), high.reshape(shape)
