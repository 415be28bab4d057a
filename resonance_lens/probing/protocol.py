"""What a probe is, for everything that fits, scores and saves probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.probing.examples import Examples


class Fitted(Protocol):
    """A probe that has learned."""

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned."""

    def predict(self, features: Tensor) -> NDArray[np.float64]:
        """Return numbers of classes, or values, ``[window, token]``, of ``[window, token, feature]``."""

    def probabilities(self, features: Tensor) -> NDArray[np.float64]:
        """Return the probability of each class, or of each bin of an ordered label.

        ``[window, token, outcome]`` of ``[window, token, feature]``; no outcomes where a probe gives a value
        alone.
        """

    def card(self) -> dict[str, Any]:
        """Return what it takes, beside the tensors, to make it again: plain JSON, with ``kind`` in it."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what was learned, by name."""


class Probe(Protocol):
    """What learns to read a label from features."""

    @property
    def name(self) -> str:
        """What results call it; one name in one call of `resonance_lens.probe`."""

    @property
    def whole_records(self) -> bool:
        """Whether it looks along tokens itself, and is fitted on unfiltered features alone."""

    @property
    def labellings(self) -> int | None:
        """How many labellings it learns, from the first on; ``None`` for all that there are."""

    def why_not(self, kind: str, classes: Sequence[str]) -> str | None:
        """Return why it cannot learn such a label, or ``None`` if it can."""

    def fit(self, train: Examples, validation: Examples) -> Sequence[Fitted]:
        """Learn from one part, choose by the other, and return a fitted probe for each labelling."""

    def untrained(self, train: Examples) -> Fitted:
        """Return it as it is before training, for features on the scale of the first windows of a part."""
