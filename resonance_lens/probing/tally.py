"""Scores of predictions, by document: so that intervals resample documents, and differences are paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resonance_lens.text_labels import Kind

Floats = NDArray[np.float64]


@dataclass(eq=False)
class Tally:
    """Sums over the tokens of each document, for predictions of one labelling.

    Attributes
    ----------
    kind
        Of the label.
    right, count
        ``[document, class]``: tokens of the class that were predicted, and all of them. For ordered values
        there is one column: squared errors, and tokens.
    values
        ``[document, 2]``: sums of the values and of their squares; of ordered values only.
    """

    kind: Kind
    right: Floats
    count: Floats
    values: Floats

    @staticmethod
    def empty(kind: Kind, n_documents: int, n_classes: int) -> Tally:
        """Return one with nothing in it."""
        shape = (n_documents, n_classes if kind == "classes" else 1)
        return Tally(kind, np.zeros(shape), np.zeros(shape), np.zeros((n_documents, 2)))

    def add(self, documents: NDArray[np.int64], labels: Floats, predicted: Floats) -> None:
        """Add tokens: index of the document, label and prediction of each, ``[row]``."""
        if self.kind == "classes":
            classes = labels.astype(np.int64)
            np.add.at(self.count, (documents, classes), 1.0)
            np.add.at(self.right, (documents, classes), predicted == labels)
        else:
            np.add.at(self.count[:, 0], documents, 1.0)
            np.add.at(self.right[:, 0], documents, (predicted - labels) ** 2)
            np.add.at(self.values, documents, np.stack([labels, labels**2], axis=1))

    @property
    def seen(self) -> NDArray[np.bool_]:
        """``[document]``: which documents have a token with a label."""
        return np.asarray(self.count.sum(1) > 0)

    def score(self) -> float:
        """Return the accuracy, or R squared: the share of the variance around the mean that is explained."""
        if self.kind == "classes":
            return float(self.right.sum() / self.count.sum())
        return float(1 - self.right.sum() / self._spread().sum())

    def balanced(self) -> float:
        """Return the mean over classes of the share of their tokens that was predicted; R squared again."""
        if self.kind == "ordered":
            return self.score()
        there = self.count.sum(0) > 0
        return float((self.right.sum(0)[there] / self.count.sum(0)[there]).mean())

    def rows(self, *, balanced: bool = False) -> Floats:
        """Return a value for each document that was seen, whose mean is the score.

        Notes
        -----
        Scores are (means of) ratios of sums over documents. A document's value is the score plus its
        influence on it (the linearised ratio: numerator less score times denominator, over the mean
        denominator), so that resampling these values gives the interval of the score, and values of two
        probes are paired by document.
        """
        seen = self.seen
        if self.kind == "ordered":
            ratio = influence(self.right[seen, 0], self._spread()[seen])
            return np.asarray(1 - ratio)
        if not balanced:
            return influence(self.right[seen].sum(1), self.count[seen].sum(1))
        there = np.flatnonzero(self.count.sum(0) > 0)
        return np.asarray(
            np.mean([influence(self.right[seen, c], self.count[seen, c]) for c in there], axis=0)
        )

    def _spread(self) -> Floats:
        """Return the squared distance of the values of each document from the mean of all: ``[document]``."""
        count, (total, squares) = self.count[:, 0], self.values.T
        mean = total.sum() / count.sum()
        return np.asarray(squares - 2 * mean * total + count * mean**2)


def influence(numerator: Floats, denominator: Floats) -> Floats:
    """Return values by document whose mean is a ratio of sums, for resampling: see `Tally.rows`."""
    ratio = numerator.sum() / denominator.sum()
    return np.asarray(ratio + (numerator - ratio * denominator) / denominator.mean())
