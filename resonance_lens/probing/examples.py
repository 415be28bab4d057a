"""What a probe learns from: features of windows in one band at one layer, with labels, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ParameterError, RecordError
from resonance_lens.patching.operations.bands import METHODS, band_matrix, frequency_bands, wavelet_scales
from resonance_lens.probing.names import ALL
from resonance_lens.text_labels import Kind


@dataclass(frozen=True, eq=False)
class Windows:
    """Some windows of one length.

    Attributes
    ----------
    features
        float32 ``[window, token, feature]``.
    labels
        float64 ``[window, token, labelling]``: numbers of classes, or values; not-a-number where there is no
        label. Labelling 0 is the label itself, the others are controls.
    documents
        ``[window]``: index of the document of each.
    """

    features: Tensor
    labels: NDArray[np.float64]
    documents: NDArray[np.int64]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """``[window, token]``: which tokens have a label; all labellings have it for the same ones."""
        return ~np.isnan(self.labels[..., 0])

    def rows(self) -> tuple[Tensor, NDArray[np.float64], NDArray[np.int64]]:
        """Return the tokens that have a label.

        Returns
        -------
        tuple
            Features ``[row, feature]``, labels ``[row, labelling]``, index of the document ``[row]``.
        """
        known = self.measured
        documents = np.broadcast_to(self.documents[:, None], known.shape)[known]
        return self.features[torch.from_numpy(known)], self.labels[known], documents


@dataclass(frozen=True, eq=False)
class Examples:
    """One part of a split at one place, which can be gone through any number of times.

    Attributes
    ----------
    stream
        Returns windows, in a fixed order.
    kind, classes
        Of the label; no classes for ordered values.
    n_features, n_labellings
        Sizes.
    seed
        Of everything that a probe draws.
    """

    stream: Callable[[], Iterator[Windows]]
    kind: Kind
    classes: tuple[str, ...]
    n_features: int
    n_labellings: int
    seed: int = 0

    def __iter__(self) -> Iterator[Windows]:
        return self.stream()

    def first(self) -> Examples:
        """Return the first windows alone: those of one shard and one length."""
        return replace(self, stream=lambda: itertools.islice(self.stream(), 1))


def require_band(band: str, method: str, lengths: Any) -> None:
    """Raise unless records of all lengths resolve a band.

    Raises
    ------
    ParameterError
        If there is no such band or method.
    RecordError
        If a window is too short for it.
    """
    if method not in METHODS:
        raise ParameterError(f"Bands are made by {', '.join(METHODS)}; got {method!r}.")
    if band == "none":
        raise ParameterError("The band 'none' has nothing in it to read; choose another.")
    if band != ALL:
        (wavelet_scales if method == "wavelet" else frequency_bands)(band)  # whatever the lengths
    for n in sorted({int(length) for length in lengths}):
        try:
            band_matrix(band, method, n)
        except RecordError as error:
            raise RecordError(
                f"The band {band!r} cannot be read from windows of {n} measured tokens: {error}"
            ) from error


def in_band(features: Tensor, band: str, method: str) -> Tensor:
    """Return the part of windows ``[window, token, feature]`` that lies in a band along tokens."""
    if band == ALL:
        return features
    matrix = band_matrix(band, method, features.shape[1]).to(features)
    return matrix @ features
