"""A first pass by gradient: which targets to patch exactly, and whether the gradient was right about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.stats.intervals import CONFIDENCE
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Screened:
    """Targets that are patched exactly.

    Attributes
    ----------
    top
        Indices of the targets with the largest estimates, largest first.
    sample
        Indices of as many others, drawn at random: they show what the estimates miss.
    """

    top: Integers
    sample: Integers

    @property
    def confirmed(self) -> Integers:
        """Indices of both, in the order of the targets."""
        return np.sort(np.concatenate([self.top, self.sample]))


def screen(estimates: NDArray[Any], k: int, seed: int, *labels: str | int) -> Screened:
    """Return the ``k`` targets with the largest estimates, and as many of the others at random.

    Parameters
    ----------
    estimates
        ``[target, pair]``: attribution. A target ranks by the size of its mean.
    k
        How many; fewer others where not so many are left.
    seed, labels
        Of the random stream.

    Raises
    ------
    ParameterError
        If ``k`` is not from 1 to the number of targets.
    """
    n = len(estimates)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n:
        raise ParameterError(wrong_parameter("patch", "prescreen", f"an integer from 1 to {n}, or None", k))
    order = _by_size(np.asarray(estimates, dtype=np.float64).mean(1))
    top, rest = order[:k], order[k:]
    chosen = stream(seed, "prescreen", *labels).permutation(len(rest))[:k]
    return Screened(top, np.sort(rest[chosen]))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well estimates by gradient stand for the effects of exact patching.

    Attributes
    ----------
    rank_correlation, low, high
        Spearman's correlation of the mean estimates with the mean effects over the targets that were
        patched, sign included, with a 95 % interval over pairs.
    rank_correlation_of_sample
        The same over the targets drawn at random alone, where there were any: selection has no part in it.
    overlap
        Share of the ``k`` targets with the largest estimates that are among the ``k`` with the largest exact
        effects, of those that were patched.
    relative_error
        Sum of the sizes of the differences between estimates and effects, over the sum of the sizes of the
        effects, among the ``k``.
    wrong
        Targets among the ``k`` whose exact effect has the other sign, or an interval that holds 0.
    missed
        Targets drawn at random whose exact effect is larger than that of half of the ``k``.
    k, confirmed, of
        The number in question, the targets that were patched, and all targets.
    """

    rank_correlation: float
    low: float
    high: float
    rank_correlation_of_sample: float
    overlap: float
    relative_error: float
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    k: int
    confirmed: int
    of: int

    def sentence(self) -> str:
        """Return what is to be said of it."""
        patched = "all" if self.confirmed == self.of else f"{self.confirmed} of {self.of}"
        said = (
            f"Attribution agrees with exact patching over {patched} targets with a rank correlation of "
            f"{self.rank_correlation:.2f} [{self.low:.2f}, {self.high:.2f}]; of its top {self.k}, "
            f"{round(self.overlap * self.k)} are among the {self.k} largest exact effects, and it is off by "
            f"{self.relative_error:.0%} of the effects there."
        )
        if self.wrong:
            said += f" It is wrong about {_some(self.wrong)}: no effect, or one of the other sign."
        if self.missed:
            said += f" It missed {_some(self.missed)}, drawn at random, with effects as large as those."
        return said


def agreement(
    estimates: NDArray[Any], effects: NDArray[Any], screened: Screened, labels: Sequence[str]
) -> Agreement:
    """Return how well estimates by gradient stand for the effects of exact patching.

    Parameters
    ----------
    estimates, effects
        ``[target, pair]``: attribution, and metric minus unpatched metric. Effects that were not measured are
        not-a-number for every pair.
    screened
        Which targets were chosen. Where all were patched, ``sample`` may be empty.
    labels
        Of the targets.

    Notes
    -----
    The interval is a jackknife over pairs of Fisher's z. Prompts that differ much lower the correlation, as
    noise does: it is of the means over these prompts.
    """
    estimates, effects = (np.asarray(each, dtype=np.float64) for each in (estimates, effects))
    measured = np.flatnonzero(~np.isnan(effects).any(1))
    k, mean, exact = len(screened.top), estimates.mean(1), effects.mean(1)
    rho, low, high = _rank_correlation(estimates[measured], effects[measured])
    of_sample = _rank_correlation(estimates[screened.sample], effects[screened.sample])[0]
    largest = measured[_by_size(exact[measured])][:k]
    top = screened.top
    size = np.abs(exact[top])
    half = _half_width(effects[top])
    wrong = (size <= half) | (np.sign(exact[top]) != np.sign(mean[top]))
    missed = [target for target in screened.sample if abs(exact[target]) > np.median(size)]
    return Agreement(
        rank_correlation=rho,
        low=low,
        high=high,
        rank_correlation_of_sample=of_sample,
        overlap=len(set(top.tolist()) & set(largest.tolist())) / k,
        relative_error=float(np.abs(mean[top] - exact[top]).sum() / size.sum()) if size.sum() else np.nan,
        wrong=tuple(labels[target] for target in top[wrong]),
        missed=tuple(labels[target] for target in missed),
        k=k,
        confirmed=len(measured),
        of=len(estimates),
    )


def among_all(data: xr.Dataset) -> xr.Dataset:
    """Return effects of chosen targets with a q that counts those that they were chosen from.

    Targets were chosen by estimates from the same pairs, so the largest of many are tested: q is no less than
    p times the number of all targets (Bonferroni), which holds however they were chosen.

    Parameters
    ----------
    data
        Of a sweep: ``effect_p`` and ``effect_q``, and those of ``effect_beyond``; not-a-number where nothing
        was patched.
    """
    columns: dict[str, xr.DataArray] = {}
    for name in ("effect", "effect_beyond"):
        p, q = data[f"{name}_p"], data[f"{name}_q"]
        least = np.minimum(1.0, p.values * data.sizes["target"])
        columns[f"{name}_q"] = q.copy(data=np.maximum(q.values, least))
    corrected: xr.Dataset = data.assign(columns)
    return corrected


def _by_size(means: Floats) -> Integers:
    """Return indices by size, largest first; equal ones in their order."""
    return np.argsort(-np.abs(means), kind="stable")


def _rank_correlation(estimates: Floats, effects: Floats) -> tuple[float, float, float]:
    """Return Spearman's correlation of means over pairs, and its interval; not-a-number for none."""
    n_targets, n_pairs = estimates.shape
    if n_targets < 3:
        return np.nan, np.nan, np.nan

    def spearman(a: Floats, b: Floats) -> Floats:  # [..., target] -> [...]
        ranks = [stats.rankdata(each, axis=-1) - (n_targets + 1) / 2 for each in (a, b)]
        spread = np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
        with np.errstate(invalid="ignore"):  # no ranks where all are equal
            found: Floats = (ranks[0] * ranks[1]).sum(-1) / spread
        return found

    rho = float(spearman(estimates.mean(1), effects.mean(1)))
    if n_pairs < 3:
        return rho, np.nan, np.nan
    without = spearman(*((each.sum(1)[:, None] - each).T / (n_pairs - 1) for each in (estimates, effects)))
    limit = 1 - 1e-9  # Fisher's z of a perfect correlation is infinite
    z = np.arctanh(np.clip(without, -limit, limit))
    error = np.sqrt((n_pairs - 1) / n_pairs * ((z - z.mean()) ** 2).sum())
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n_pairs - 1) * error
    centre = np.arctanh(np.clip(rho, -limit, limit))
    return rho, min(rho, float(np.tanh(centre - half))), max(rho, float(np.tanh(centre + half)))


def _half_width(rows: Floats) -> Floats:
    """Return half of Student's interval of the mean over pairs, ``[target]``."""
    n = rows.shape[1]
    if n < 2:
        return np.zeros(len(rows))
    half: Floats = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * rows.std(1, ddof=1) / np.sqrt(n)
    return half


def _some(names: Sequence[str], most: int = 6) -> str:
    """Return names in a row, the first few of many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
