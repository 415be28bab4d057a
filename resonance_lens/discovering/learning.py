"""Directions of a site that hold more of a band than of everything: learned from training documents.

Everything is made of indices of the cosine transform of windows, the mean of a window (index 0) left out, so
that power is a sum over indices and no filter has an edge. Only sums of the size of a covariance are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.cosine import PRISM_BANDS, dct, frequency_indices
from resonance_lens.errors import ActivationError, ParameterError, RecordError, wrong_parameter
from resonance_lens.patching.operations.bands import frequency_bands

Floats = NDArray[np.float64]
Stream = Callable[[], Iterable[Tensor]]
"""Returns the windows of one document after another, ``[window, token, feature]``; may be called again."""

Scaling = Literal["features", "none"]
MEDIAN_OF, OF_ONE = 96, 4
"""Training windows whose median is taken at each position, at most about, and how many one document gives."""

SCALINGS: tuple[Scaling, ...] = ("features", "none")


@dataclass(frozen=True, eq=False)
class Bands:
    """Bands of windows of one length.

    Attributes
    ----------
    names
        In order.
    tokens
        Of a window.
    members
        Booleans ``[band, index]``: which indices of the cosine transform, from 1 on, are in each band.
    """

    names: tuple[str, ...]
    tokens: int
    members: NDArray[np.bool_]

    @staticmethod
    def of(names: Sequence[str], tokens: int) -> Bands:
        """Return bands by their names: Prism's, or ranges in cycles per token.

        Raises
        ------
        ParameterError
            If there is no such band, or one is named twice.
        RecordError
            If windows of so many tokens have nothing but their mean in a band.
        """
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ParameterError(wrong_parameter("discover", "bands", "names of bands, each once", names))
        rows = []
        for name in names:
            inside = np.zeros(tokens, dtype=np.bool_)
            for low, high in frequency_bands(name):
                inside[slice(*frequency_indices(low, high, tokens))] = True
            if not inside[1:].any():
                raise RecordError(
                    f"The band {name!r} cannot be resolved in windows of {tokens} measured tokens: they "
                    "have nothing in it but their mean, which is taken out; give longer windows, or leave it "
                    "out."
                )
            rows.append(inside[1:])
        return Bands(tuple(names), tokens, np.stack(rows))

    @property
    def frequencies(self) -> Floats:
        """Of the indices, in cycles per token."""
        return np.arange(1, self.tokens) / (2 * self.tokens)

    @property
    def white(self) -> Floats:
        """Share of the power of white noise in each band."""
        return np.asarray(self.members.mean(1))

    def beside(self, band: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which indices lie in the octave below a band, and in that above it."""
        at, inside = self.frequencies, self.frequencies[self.members[band]]
        low, high = inside.min(), inside.max()
        return (at < low) & (at >= low / 2), (at > high) & (at <= 2 * high)

    def contrast(self, spectra: Floats) -> Floats:
        """Return the power at a frequency in each band over that in the stronger of the octaves beside it.

        Parameters
        ----------
        spectra
            ``[..., band, component, index]``: of the components of each band.

        Returns
        -------
        array
            ``[..., band, component]``; not-a-number where a band fills the axis, infinite where nothing is
            beside it.
        """
        out = np.full(spectra.shape[:-1], np.nan)
        for band, inside in enumerate(self.members):
            of_band = spectra[..., band, :, :]
            beside = [of_band[..., side].mean(-1) for side in self.beside(band) if side.any()]
            if beside:
                with np.errstate(divide="ignore"):
                    out[..., band, :] = of_band[..., inside].mean(-1) / np.max(beside, axis=0)
        return out


@dataclass(frozen=True, eq=False)
class Learned:
    """Components of a layer.

    Attributes
    ----------
    common
        ``[token, feature]``: what windows have alike at each position, the median of training windows.
    scale
        ``[feature]``: what features are divided by; infinite for a feature that never changes.
    weights
        ``[band, component, feature]``: unit vectors on scaled features, the strongest first. The course of a
        component is the scaled features, less what is common, along it.
    gained
        ``[band, component]``: share of the band's power less share of all power, mean over training
        documents.
    """

    common: Tensor
    scale: Tensor
    weights: Tensor
    gained: Floats

    def coefficients(self, windows: Tensor) -> Tensor:
        """Return the cosine transform of scaled windows ``[window, index, feature]``, index 0 left out."""
        return dct((windows.double() - self.common) / self.scale, 1)[..., 1:].transpose(1, 2)

    @property
    def reads(self) -> Tensor:
        """``[band, component, feature]``: directions along which features as they are give the course."""
        return self.weights / self.scale

    @property
    def writes(self) -> Tensor:
        """``[band, component, feature]``: what features have of a unit of the course."""
        return torch.where(torch.isfinite(self.scale), self.weights * self.scale, 0.0)


def learn(documents: Stream, bands: Bands, n_components: int, scaling: Scaling = "features") -> Learned:
    """Return the directions that hold most more of each band than of all power.

    Parameters
    ----------
    documents
        Of training; gone through three times.
    bands
        Of their windows.
    n_components
        Of each band; no more than there are features.
    scaling
        ``features``: each is divided by its standard deviation; ``none``.

    Raises
    ------
    ActivationError
        If nothing changes along tokens, in any document.

    Notes
    -----
    The eigenvectors, with the largest eigenvalues, of the mean over documents of
    ``C_b / tr C_b - C / tr C``, with the covariance ``C_b`` of a document in the band and ``C`` of all its
    indices: of all directions, they gain most. A direction that is strong at all frequencies (a massive
    dimension) gains nothing, and neither does one that another document does not share. Documents count
    alike, whatever their length and power.
    """
    common = _common(documents)
    variance = _variance(documents, common)
    if not bool((variance > 0).any()):
        raise ActivationError("Nothing changes along tokens in any document; there are no components.")
    alive = variance > 0
    spread = variance.sqrt() if scaling == "features" else torch.ones_like(variance)
    scale = torch.where(alive, spread, torch.inf)
    bare = Learned(common, scale, torch.zeros(0), np.zeros(0))
    total = torch.zeros(len(bands.names), len(scale), len(scale), dtype=torch.float64)
    count = 0
    for windows in documents():
        found = bare.coefficients(windows)
        whole = found.flatten(0, 1)
        power = whole.square().sum()
        if not bool(power > 0):
            continue
        everything = whole.T @ whole / power
        for at, members in enumerate(torch.from_numpy(bands.members)):
            part = found[:, members].flatten(0, 1)
            held = part.square().sum()
            if bool(held > 0):
                total[at] += part.T @ part / held - everything
        count += 1
    total /= count
    # A feature that never changes gains nothing, which others may fall short of; it is no component.
    torch.diagonal(total, dim1=1, dim2=2)[:, ~alive] = -2.0
    values, vectors = torch.linalg.eigh(total)  # ascending
    weights = vectors.flip(-1)[..., :n_components].transpose(1, 2)
    gained = values.flip(-1)[:, :n_components].numpy()
    return Learned(common, scale, weights.contiguous(), gained)


def _common(documents: Stream) -> Tensor:
    """Return the median at each position, ``[token, feature]``: of at most about `MEDIAN_OF` windows.

    A mean would put the rhythm of a single document into what is taken out of all.
    """
    kept: list[Tensor] = []
    for windows in documents():
        kept += windows[:OF_ONE]
        if len(kept) >= MEDIAN_OF:
            break
    return torch.from_numpy(np.median(torch.stack(kept).numpy(), axis=0)).double()


def _variance(documents: Stream, common: Tensor) -> Tensor:
    """Return the variance of each feature around the mean of a window; zero where it is rounding."""
    squares = total = torch.zeros(())
    count = 0
    for windows in documents():
        values = windows.double() - common
        squares = squares + (values - values.mean(1, keepdim=True)).square().sum((0, 1))
        total = total + windows.double().square().sum((0, 1))
        count += values.shape[0] * values.shape[1]
    return torch.where(squares > 1e-10 * total, squares, 0.0) / count


def prism_bands() -> tuple[str, ...]:
    """Return Prism's bands but for the lowest, which is the mean alone in windows of up to 341 tokens."""
    return tuple(band.name for band in PRISM_BANDS[1:])
