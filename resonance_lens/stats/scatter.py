"""Linear classifiers and regressions in closed form, from sums that can be added up in one pass.

What is kept of rows is their number, their sum and their products with each other and with what is to be
predicted: `Scatter`. It merges, so that rows need never be together in memory; from one decomposition of it
come the solutions for every strength of regularisation and for any number of labellings of the same rows, so
that controls with shuffled labels cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

FLAT = 1e-12
"""Relative to the mean square: a feature with less variance than this is constant, and is left out."""


@dataclass(eq=False)
class Scatter:
    """Sums over rows of features and targets.

    Attributes
    ----------
    shift
        ``[feature]``: subtracted from every row before anything is added up, so that single precision does
        not lose a small variance beside a large mean. Fixed by the first rows.
    count
        Rows.
    x, xx
        Sums of features ``[feature]`` and of their products ``[feature, feature]``, less the shift.
    y, xy, yy
        Sums of targets ``[target]``, of features times targets ``[feature, target]``, of squared targets.
    """

    shift: Tensor
    count: int
    x: Floats
    xx: Floats
    y: Floats
    xy: Floats
    yy: Floats

    @staticmethod
    def like(features: Tensor, n_targets: int) -> Scatter:
        """Return an empty one, shifted by the mean of some rows ``[row, feature]``."""
        n = features.shape[1]
        return Scatter(
            features.mean(0),
            0,
            np.zeros(n),
            np.zeros((n, n)),
            np.zeros(n_targets),
            np.zeros((n, n_targets)),
            np.zeros(n_targets),
        )

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows.

        Parameters
        ----------
        features
            ``[row, feature]``, float32 or float64.
        targets
            ``[row, target]``: values, or ones and zeros for classes; of the same precision.
        """
        rows = features - self.shift
        self.count += len(rows)
        self.x += _float64(rows.sum(0, dtype=torch.float64))
        self.xx += _float64(rows.T @ rows)
        self.y += _float64(targets.sum(0, dtype=torch.float64))
        self.xy += _float64(rows.T @ targets)
        self.yy += _float64(targets.double().square().sum(0))

    def merge(self, other: Scatter) -> Scatter:
        """Return the sums over the rows of both, which have one shift.

        Raises
        ------
        ValueError
            If they were shifted differently.
        """
        if not torch.equal(self.shift, other.shift):
            raise ValueError("Sums with different shifts cannot be added.")
        return Scatter(
            self.shift,
            self.count + other.count,
            *(getattr(self, name) + getattr(other, name) for name in ("x", "xx", "y", "xy", "yy")),
        )

    def covariance(self) -> Floats:
        """Return the covariance of the features ``[feature, feature]``."""
        mean = self.x / self.count
        return np.asarray(self.xx / self.count - np.outer(mean, mean))

    def solver(self) -> Solver:
        """Return what solves for any targets and any strength of regularisation."""
        return Solver(self)


class Solver:
    """The features of a `Scatter`, standardised and decomposed once.

    Parameters
    ----------
    sums
        Of the rows to fit.

    Notes
    -----
    Features are divided by their standard deviations first: a single dimension of a residual stream may
    hold half of its power. Constant features get no weight.
    """

    def __init__(self, sums: Scatter) -> None:
        self.sums = sums
        mean = sums.x / sums.count
        variance = np.diag(sums.xx) / sums.count - mean**2
        square = variance + (mean + _float64(sums.shift.double())) ** 2
        self.moving = variance > FLAT * square
        self.scale = np.sqrt(np.where(self.moving, variance, 1.0))
        self.mean = mean

    @cached_property
    def _eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues and vectors of the correlation matrix of the features."""
        correlation = self.sums.covariance() / np.outer(self.scale, self.scale)
        correlation[~self.moving] = 0.0
        correlation[:, ~self.moving] = 0.0
        values, vectors = np.linalg.eigh(correlation)
        return values.clip(min=0.0), vectors

    def ridge(self, target: int, strengths: Sequence[float]) -> list[tuple[Floats, Floats]]:
        """Return ridge regressions onto one target.

        Parameters
        ----------
        target
            Its column.
        strengths
            Of the penalty, per row and in units of standardised features: minimised is the mean squared
            error plus strength times the sum of squared weights (`sklearn.linear_model.Ridge` with alpha
            = strength times rows, on standardised features).

        Returns
        -------
        list of tuple
            Weights ``[feature, 1]`` and bias ``[1]`` of the features as they came, for each strength.
        """
        values, vectors = self._eigen
        middle = self.sums.y[target] / self.sums.count
        cross = (self.sums.xy[:, target] / self.sums.count - self.mean * middle) / self.scale
        turned = vectors.T @ np.where(self.moving, cross, 0.0)
        found = []
        for strength in strengths:
            weights = vectors @ _divide(turned, values + strength)
            found.append(self._original(weights[:, None], np.array([middle])))
        return found

    def discriminant(self, targets: Sequence[int], strengths: Sequence[float]) -> list[tuple[Floats, Floats]]:
        """Return linear discriminants of classes: softmax classifiers whose classes are Gaussian and alike.

        Parameters
        ----------
        targets
            Columns that hold ones for the rows of each class, and zeros elsewhere; each row is of one class.
        strengths
            Shrinkage of the covariance within classes, in [0, 1]: ``(1 - s) S + s tr(S) / d I``, of
            standardised features (`sklearn.discriminant_analysis.LinearDiscriminantAnalysis` with solver
            ``lsqr``).

        Returns
        -------
        list of tuple
            Weights ``[feature, class]`` and biases ``[class]`` of log-probabilities up to a constant, for
            each strength. A class without rows is never predicted: its bias is minus infinity.

        Notes
        -----
        The covariance within classes is the total less that between class means, whose rank is below the
        number of classes: the identity of Woodbury takes it off in the eigenbasis of the total.
        """
        values, vectors = self._eigen
        counts = self.sums.y[list(targets)]
        there = counts > 0
        share = counts[there] / self.sums.count
        means = self.sums.xy[:, list(targets)][:, there] / counts[there] - self.mean[:, None]
        means = np.where(self.moving[:, None], means / self.scale[:, None], 0.0)  # [feature, class]
        turned = vectors.T @ means
        between = turned * np.sqrt(share)
        d = max(int(self.moving.sum()), 1)
        level = max((values.sum() - (between**2).sum()) / d, 0.0)
        found = []
        for strength in strengths:
            diagonal = (1 - strength) * values + strength * level
            left = _divide(turned, diagonal[:, None])
            low_rank = np.sqrt(1 - strength) * between
            inner = np.eye(len(share)) - low_rank.T @ _divide(low_rank, diagonal[:, None])
            correction = np.linalg.lstsq(inner, low_rank.T @ left, rcond=None)[0]
            weights = left + _divide(low_rank, diagonal[:, None]) @ correction
            bias = np.log(share) - 0.5 * (weights * turned).sum(0)
            all_weights = np.zeros((len(values), len(counts)))
            all_bias = np.full(len(counts), -np.inf)
            all_weights[:, there], all_bias[there] = vectors @ weights, bias
            found.append(self._original(all_weights, all_bias))
        return found

    def _original(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Return weights and biases for features that are neither standardised nor shifted."""
        plain = np.where(self.moving[:, None], weights / self.scale[:, None], 0.0)
        return plain, bias - (self.mean + _float64(self.sums.shift.double())) @ plain


def _divide(values: Floats, by: Floats) -> Floats:
    """Return a quotient that is zero where it is divided by (next to) nothing: the pseudo-inverse."""
    least = np.finfo(np.float64).eps * len(by) * float(np.max(by, initial=0.0))
    safe = by > least
    return np.asarray(np.where(safe, values / np.where(safe, by, 1.0), 0.0))


def _float64(values: Tensor) -> Floats:
    found: Floats = values.double().cpu().numpy()
    return found
