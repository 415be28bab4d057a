"""Linear probes in closed form, each row predicted by one that was learned without it: by folds in turn.

Of k folds one is held out, the next chooses how strongly to regularise, and the others are learned from; then
the next is held out. So every row is predicted once. Sums over folds are added up (see `Scatter`), so that
rows are gone through once, however many folds and labellings there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resonance_lens.stats.scatter import Scatter, Solver

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

N_FOLDS = 5
"""As many as there are prompts, if these are fewer."""

FEWEST_FOLDS = 3
"""One to learn from, one to choose with, one to test on."""

SHRINKAGES = (0.01, 0.1, 0.5)
"""Of the covariance within classes: what is chosen from; see `Solver.discriminant`."""

PENALTIES = (0.01, 1.0, 100.0)
"""Of a ridge regression: what is chosen from; see `Solver.ridge`."""


@dataclass(frozen=True, eq=False)
class Labelling:
    """What is to be read from rows.

    Attributes
    ----------
    values
        ``[row]``: classes as integers from 0, or ordered values; none is missing.
    n_classes
        How many classes there are; 0 for ordered values.
    """

    values: NDArray[np.float64] | NDArray[np.int64]
    n_classes: int = 0

    @property
    def kind(self) -> Literal["classes", "ordered"]:
        """Linear discriminants are learned of classes, ridge regression of ordered values."""
        return "classes" if self.n_classes else "ordered"

    @property
    def targets(self) -> Floats:
        """``[row, class]`` of ones and zeros, or ``[row, 1]``."""
        if self.kind == "ordered":
            return np.asarray(self.values, dtype=np.float64)[:, None]
        return np.eye(self.n_classes)[self.values.astype(np.int64)]


def held_out(features: Floats, labellings: Sequence[Labelling], folds: Integers) -> Floats:
    """Return what linear probes predict for rows that they were not learned from.

    Parameters
    ----------
    features
        ``[row, feature]``.
    labellings
        Of the same rows; all share one decomposition of the features.
    folds
        ``[row]``: what is held out together. Rows of one prompt belong to one fold.

    Returns
    -------
    array
        ``[labelling, row]``: classes or values; not-a-number everywhere if there are fewer than
        `FEWEST_FOLDS` folds.

    Notes
    -----
    The strength of the regularisation is the one with the smallest squared error on the fold after the one
    that is held out; of classes, that of their probabilities (Brier), which unlike a count of errors does not
    jump. Of equal ones the stronger. Ordered values are predicted within the range of those that were learned
    from: one row of a size that none of them has would else be far outside.
    """
    found = np.full((len(labellings), len(folds)), np.nan)
    names = np.unique(folds)
    if len(names) < FEWEST_FOLDS:
        return found
    targets = np.concatenate([each.targets for each in labellings], axis=1)
    rows = torch.from_numpy(np.asarray(features, dtype=np.float64))
    sums = []
    for name in names:
        members = torch.from_numpy(folds == name)
        sums.append(Scatter.like(rows, targets.shape[1]))
        sums[-1].add(rows[members], torch.from_numpy(targets)[members])
    for at, name in enumerate(names):
        following = (at + 1) % len(names)
        others = [each for place, each in enumerate(sums) if place not in (at, following)]
        solver = reduce(Scatter.merge, others).solver()
        test, validation = folds == name, folds == names[following]
        start = 0
        for place, labelling in enumerate(labellings):
            columns = range(start, start + max(labelling.n_classes, 1))
            start = columns.stop
            weight, bias = _chosen(solver, labelling, columns, features[validation], targets[validation])
            outputs = features[test] @ weight + bias
            if labelling.kind == "classes":
                found[place, test] = outputs.argmax(1)
            else:
                known = labelling.values[~(test | validation)]
                found[place, test] = np.clip(outputs[:, 0], known.min(), known.max())
    return found


def _chosen(
    solver: Solver, labelling: Labelling, columns: range, features: Floats, targets: Floats
) -> tuple[Floats, Floats]:
    """Return the weights and biases that do best on a fold."""
    wanted = targets[:, columns]
    if labelling.kind == "classes":
        candidates = solver.discriminant(columns, SHRINKAGES)
    else:
        candidates = solver.ridge(columns.start, PENALTIES)
    errors = []
    for weight, bias in candidates:
        outputs = features @ weight + bias
        if labelling.kind == "classes":
            outputs = np.exp(outputs - outputs.max(1, keepdims=True))
            outputs /= outputs.sum(1, keepdims=True)
        errors.append(float(((outputs - wanted) ** 2).sum()))
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return candidates[best]


def deal_folds(lots: Floats, categories: Sequence[str | None]) -> Integers:
    """Return the fold of each prompt: every category is spread over all of them as evenly as can be.

    Parameters
    ----------
    lots
        ``[prompt]``: numbers drawn for the prompts, which decide their order, so that it does not matter in
        which they come. Prompts with the same number are the same, and stay together.
    categories
        Of the prompts.
    """
    order = sorted(range(len(lots)), key=lambda i: (categories[i] or "", float(lots[i])))
    folds: dict[float, int] = {}  # by lot: prompts that are the same stay together
    n = min(N_FOLDS, len(set(lots.tolist())))
    for index in order:
        folds.setdefault(float(lots[index]), len(folds) % n)
    return np.array([folds[float(lot)] for lot in lots], dtype=np.int64)
