"""Rank correlations between numbers of places, what is left of them beyond others, and how sure they are.

A place is a head or a layer. Two numbers of places are turned into ranks; numbers that are to be accounted
for are regressed out of both; the correlation of what is left is tested by what can change places under the
null, the same in every column, so that the largest of all columns gives q (Westfall and Young 1993).

- `Heads`: within a layer heads can change places. Those that share keys and values do so as a block, and
  inside it, for they are alike; so depth, whatever it does, is never taken for an effect.
- `Depth`: layers have an order, and neighbours are alike. What is left is taken apart into cosines along
  depth, whose signs are drawn anew: the smoothness stays, and nothing else.
- `Free`: all places are alike.

Residuals are moved, not the numbers themselves (Freedman and Lane 1983), so that what was regressed out stays
where it was.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from resonance_lens.stats.inference import TIES

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

DRAWS = 1999
"""Rearrangements of the places."""

NOTHING_LEFT = 1e-6
"""Share of the variance of ranks below which nothing is left beside others: the number is one of them."""


class Shuffle(abc.ABC):
    """What the null leaves as likely as what was seen."""

    @abc.abstractmethod
    def draws(self, n: int, rng: np.random.Generator) -> Any:
        """Return how to rearrange, ``n`` times."""

    @abc.abstractmethod
    def moved(self, values: Floats, drawn: Any) -> Floats:
        """Return values ``[place]`` rearranged, ``[draw, place]``."""


@dataclass(frozen=True, eq=False)
class Heads(Shuffle):
    """Heads change places with heads of their layer, in blocks of equal size.

    Attributes
    ----------
    layer, block
        Integers ``[place]``: the layer, and which heads share keys and values in it.
    """

    layer: Integers
    block: Integers

    def draws(self, n: int, rng: np.random.Generator) -> Integers:
        """Return indices ``[draw, place]``."""
        _, block = np.unique(np.stack([self.layer, self.block]), axis=1, return_inverse=True)
        block = block.ravel()
        size = np.bincount(block)
        _, kind = np.unique(np.stack([self.layer, size[block]]), axis=1, return_inverse=True)
        at = np.lexsort((np.arange(len(block)), block, kind.ravel()))
        order = rng.random((n, len(size))).argsort(axis=1).argsort(axis=1)
        # Blocks of one layer and size in random order, and the heads of each in random order.
        key = kind.ravel() * len(size) + order[:, block] + rng.random((n, len(block)))
        drawn = np.empty((n, len(block)), dtype=np.int64)
        drawn[:, at] = key.argsort(axis=1)
        return drawn

    def moved(self, values: Floats, drawn: Integers) -> Floats:
        """Return values at other heads of their layers."""
        return values[drawn]


@dataclass(frozen=True, eq=False)
class Free(Shuffle):
    """Every place changes places with any other.

    Attributes
    ----------
    n_places
        How many there are.
    """

    n_places: int

    def draws(self, n: int, rng: np.random.Generator) -> Integers:
        """Return indices ``[draw, place]``."""
        return rng.random((n, self.n_places)).argsort(axis=1)

    def moved(self, values: Floats, drawn: Integers) -> Floats:
        """Return values at other places."""
        return values[drawn]


@dataclass(frozen=True, eq=False)
class Depth(Shuffle):
    """Cosines along depth get other signs; places are in the order of their layers.

    Attributes
    ----------
    n_places
        How many there are.
    """

    n_places: int

    def draws(self, n: int, rng: np.random.Generator) -> Floats:
        """Return signs ``[draw, cosine]``."""
        return np.asarray(1.0 - 2.0 * rng.integers(0, 2, size=(n, self.n_places)), dtype=np.float64)

    def moved(self, values: Floats, drawn: Floats) -> Floats:
        """Return series of the same spectrum along depth."""
        spectrum = fft.dct(values, norm="ortho")
        return np.asarray(fft.idct(drawn * spectrum, axis=-1, norm="ortho"))


@dataclass(frozen=True, eq=False)
class RankTest:
    """Partial rank correlations of numbers ``[variable, column]`` and how sure they are.

    Attributes
    ----------
    correlation
        From -1 to 1; not-a-number where nothing is left of a number, or of a column.
    p, q
        Two-sided, of the place in the table and over the whole table.
    """

    correlation: Floats
    p: Floats
    q: Floats


def ranked(values: NDArray[Any]) -> Floats:
    """Return ranks along the last axis, ties shared, from 1."""
    return np.asarray(stats.rankdata(values, axis=-1), dtype=np.float64)


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Return Spearman's rank correlation along the last axis; other axes are broadcast."""
    return _correlation(_centred(ranked(x)), _centred(ranked(y)))


def auroc(values: NDArray[Any], positive: Booleans) -> Floats:
    """Return how often a positive place has the larger value, ties counting half, along the last axis.

    Parameters
    ----------
    values
        ``[..., place]``.
    positive
        ``[place]``.

    Returns
    -------
    array
        The area under the ROC curve, 0 to 1; not-a-number where all places are positive, or none.
    """
    n, n_positive = len(positive), int(positive.sum())
    if n_positive in (0, n):
        return np.full(np.shape(values)[:-1], np.nan)
    total = ranked(values)[..., positive].sum(axis=-1)
    return np.asarray((total - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))


def design(controls: Sequence[NDArray[Any]], layer: Integers | None = None) -> Floats:
    """Return an orthonormal basis ``[place, column]`` of what is regressed out.

    Parameters
    ----------
    controls
        Numbers ``[place]``, taken as they are.
    layer
        Integers ``[place]``: with them each layer has a mean of its own.
    """
    columns = [np.asarray(control, dtype=np.float64) for control in controls]
    if layer is None:
        columns.append(np.ones(len(columns[0])))
    else:
        columns += [(layer == each).astype(np.float64) for each in np.unique(layer)]
    scaled = np.stack([column / max(float(np.abs(column).max()), 1e-300) for column in columns], axis=1)
    basis, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.asarray(basis[:, sizes > 1e-10 * sizes[0]])


def left_over(values: Floats, basis: Floats) -> Floats:
    """Return what is left of values ``[..., place]`` beyond a basis."""
    return np.asarray(values - (values @ basis) @ basis.T)


def partial_spearman(x: NDArray[Any], y: NDArray[Any], basis: Floats) -> Floats:
    """Return the correlation of what is left of the ranks of two numbers beyond a basis.

    Parameters
    ----------
    x, y
        ``[..., place]``; the axes before the last are broadcast.
    basis
        See `design`.

    Returns
    -------
    array
        Not-a-number where nothing is left of either.
    """
    return _correlation(_kept(ranked(x), basis), _kept(ranked(y), basis))


def infer_ranks(
    x: NDArray[Any],
    y: NDArray[Any],
    bases: Sequence[Floats],
    shuffle: Shuffle,
    rng: np.random.Generator,
    *,
    n_draws: int = DRAWS,
) -> RankTest:
    """Test partial rank correlations between numbers and columns of effects.

    Parameters
    ----------
    x
        ``[variable, column, place]``: numbers; they may differ between columns.
    y
        ``[column, place]``: effects.
    bases
        For each column what is regressed out.
    shuffle
        What the null leaves as likely.
    rng
        Random stream; all columns get the same rearrangements.
    n_draws
        How many.

    Returns
    -------
    RankTest
        ``[variable, column]``.
    """
    drawn = shuffle.draws(n_draws, rng)
    observed = np.empty(x.shape[:2])
    reached = np.zeros(x.shape[:2])
    largest = np.zeros(n_draws)
    for column, basis in enumerate(bases):
        of_x = _kept(ranked(x[:, column]), basis)
        of_y = _kept(ranked(y[column]), basis)
        observed[:, column] = _correlation(of_x, of_y)
        moved = left_over(shuffle.moved(of_y, drawn), basis)
        correlation = np.abs(_correlation(of_x[:, None], moved[None]))  # [variable, draw]
        reached[:, column] = (correlation >= np.abs(observed[:, column, None]) - TIES).sum(axis=1)
        largest = np.fmax(largest, np.nan_to_num(correlation).max(axis=0))
    known = ~np.isnan(observed)
    ordered = np.sort(largest)
    beyond = n_draws - np.searchsorted(ordered, np.abs(observed) - TIES)
    return RankTest(
        correlation=observed,
        p=np.where(known, (1 + reached) / (1 + n_draws), np.nan),
        q=np.where(known, (1 + beyond) / (1 + n_draws), np.nan),
    )


def predicted(y: NDArray[Any], numbers: Sequence[NDArray[Any]], fold: Integers) -> Floats:
    """Return what numbers predict of the ranks of ``y``, each fold from the slopes of all others.

    Parameters
    ----------
    y
        ``[place]``.
    numbers
        Each ``[place]``, taken as they are.
    fold
        Integers ``[place]``.

    Returns
    -------
    array
        ``[place]``, up to a constant. The means of the others are left out: a fold with large effects would
        be predicted low by them, and numbers that say nothing would seem to say the opposite.
    """
    columns = np.stack([np.asarray(number, dtype=np.float64) for number in numbers], axis=1)
    columns = columns - columns.mean(axis=0)
    columns /= np.maximum(np.abs(columns).max(axis=0), 1e-300)
    goal = ranked(y)
    made = np.empty(len(goal))
    for each in np.unique(fold):
        out = fold == each
        known = columns[~out] - columns[~out].mean(axis=0)
        slopes, *_ = np.linalg.lstsq(known, goal[~out] - goal[~out].mean(), rcond=None)
        made[out] = columns[out] @ slopes
    return made


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean(axis=-1, keepdims=True))


def _kept(ranks: Floats, basis: Floats) -> Floats:
    """Return what is left of ranks; not-a-number where it is rounding."""
    left = left_over(ranks, basis)
    before = (_centred(ranks) ** 2).sum(axis=-1, keepdims=True)
    # Any two ranks that differ have a variance of at least one half; a constant has that of rounding.
    enough = NOTHING_LEFT * np.maximum(before, 0.5)
    return np.where((left**2).sum(axis=-1, keepdims=True) > enough, left, np.nan)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Return the cosine along the last axis; not-a-number where one side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
        return np.asarray((a * b).sum(axis=-1) / size)
