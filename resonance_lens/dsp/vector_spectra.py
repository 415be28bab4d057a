"""Spectra of series of vectors, averaged over their features, by matrix products.

Where hundreds of features are transformed along the same few positions, one product with a matrix of windowed
cosines and sines takes no longer than a fast transform along the wrong axis, and only means over features are
kept. All is that of `resonance_lens.dsp.spectra.welch` with a Hann window, segments without their mean.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.dsp.segments import ROUNDING, drift, one_sided, require_whole, window_weights
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter

Floats = NDArray[np.float64]


def spread_hop(n: int, segment: int) -> int:
    """Return the hop with which the fewest segments that can cover n positions are spread evenly over them.

    Examples
    --------
    >>> spread_hop(511, 128), spread_hop(26, 16), spread_hop(16, 16)
    (127, 10, 16)
    """
    count = -(-n // segment)
    return (n - segment) // (count - 1) if count > 1 else segment


@dataclass(frozen=True, eq=False)
class FeatureWeights:
    """How features count in means over them.

    Attributes
    ----------
    weights
        ``[feature, 2]``: one over the number of features, for the plain mean; and that divided by the
        feature's variance, for a mean in which all features count alike. Features that do not vary have no
        weight; those that do share it in the second.
    variance
        ``[2]``: the means, so weighted, of the variances over positions: in the second 1, or 0 if none
        varies.
    """

    weights: Tensor
    variance: Tensor
    dc: Tensor

    @staticmethod
    def of(x: Tensor) -> FeatureWeights:
        """Return the weights of the features of ``x`` (``[position, feature]``)."""
        n, n_features = x.shape
        ones = x.new_ones(1, n)
        mean = ones @ x / n  # a product with ones takes a tenth of the time of a sum over the outer axis
        squares = ones @ (x - mean).square_()
        variance, mean = squares[0] / n, mean[0]
        varies = variance > (ROUNDING * torch.finfo(x.dtype).eps * mean).square()
        kept = varies.to(x.dtype)
        safe = torch.where(varies, variance, 1.0)
        weights = torch.stack([kept / n_features, kept / (safe * kept.sum().clamp_min(1))], dim=1)
        return FeatureWeights(weights, variance @ weights, mean.square() @ weights)


def mean_power(x: Tensor, segment: int, weights: Tensor) -> Tensor:
    """Return weighted sums over features of their Welch densities.

    Parameters
    ----------
    x
        ``[position, feature]``, at least a segment of positions.
    segment
        Positions of a segment, even. Segments are spread evenly: see `spread_hop`.
    weights
        ``[feature, k]``.

    Returns
    -------
    Tensor
        ``[frequency, k]``, frequencies ``0, 1/segment, ..., 0.5``: one-sided densities.

    Raises
    ------
    RecordError
        If there are fewer positions than a segment has.
    ParameterError
        If the segment is not an even number of at least 4.
    """
    if len(x) < segment:
        raise RecordError(f"A spectrum of segments of {segment} needs as many positions; there are {len(x)}.")
    matrix = _matrix("segment", segment, 0, x.dtype, x.device)
    starts = range(0, len(x) - segment + 1, spread_hop(len(x), segment))
    squares = torch.zeros((), dtype=x.dtype, device=x.device)
    for start in starts:
        squares = (matrix @ x[start : start + segment]).square_().add_(squares)  # [cosine or sine, feature]
    total = squares @ weights  # [cosine or sine, k]
    half = segment // 2
    power = total[: half + 1].clone()
    power[1:half] += total[half + 1 :]
    return power / len(starts)


def band_power(x: Tensor, features: FeatureWeights) -> Tensor:
    """Return weighted means over features of their power in `PRISM_BANDS`, index 0 left out.

    Parameters
    ----------
    x
        ``[position, feature]``.
    features
        Of ``x``.

    Returns
    -------
    Tensor
        ``[band, 2]``: sums of squares of the orthonormal cosine transform, divided by the number of
        positions, so that all bands together are the variance. The highest band is what the others leave of
        it.
    """
    n = len(x)
    edges = _edges(n)
    waves = _matrix("cosine", n, edges[-2], x.dtype, x.device) @ x  # [index from 1, feature]
    power = waves.square_() @ features.weights / n
    parts = [power[first - 1 : stop - 1].sum(dim=0) for first, stop in zip(edges, edges[1:-1], strict=False)]
    return torch.stack([*parts, (features.variance - power.sum(dim=0)).clamp_min(0.0)])


def band_indices(n: int) -> tuple[int, ...]:
    """Return how many indices of the cosine transform of n positions each band has, index 0 left out."""
    edges = _edges(n)
    return tuple(stop - first for first, stop in zip(edges, edges[1:], strict=False))


def expected_power(covariances: Tensor, segment: int) -> Tensor:
    """Return the mean of the density of stationary noise, seen through the window and without the mean.

    Parameters
    ----------
    covariances
        ``[..., segment]``: at lags 0 to ``segment - 1``.
    segment
        As in `mean_power`.

    Returns
    -------
    Tensor
        ``[..., frequency]``. Exact: what windows leak and detrending takes out is in it.
    """
    return covariances @ _matrix("lag", segment, 0, covariances.dtype, covariances.device).mT


def correlations(power: Tensor, segment: int) -> Tensor:
    """Return autocorrelations from a density of `mean_power`, without a second transform.

    Parameters
    ----------
    power
        ``[..., frequency]``, with frequency 0, not zero everywhere.
    segment
        As in `mean_power`.

    Returns
    -------
    Tensor
        ``[..., lag]`` for lags 0 to a fourth of a segment: the inverse transform of the density divided by
        the autocorrelation of the window. Beyond, the other end of the segment would come in (below .2 % of
        it here). Since segments lose their mean, they are too small by about (autocorrelation time) /
        segment.
    """
    lags = segment // 4 + 1
    at = torch.arange(segment // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(lags)
    turns = torch.cos(2 * math.pi * at / segment)
    window = window_weights("hann", segment)
    own = torch.stack([window[: segment - lag] @ window[lag:] for lag in range(lags)]) / window.square().sum()
    found = power @ (turns / own).to(power)
    return found / found[..., :1]


def _edges(n: int) -> list[int]:
    """Return the first index of each band among n, from 1, and the one after the last."""
    stops = [min(max(band.indices(n)[1], 1), n) for band in PRISM_BANDS]
    return [1, *stops]


@functools.lru_cache(maxsize=32)
def _segment_matrix(segment: int) -> Floats:
    """Return ``[segment, segment]``: cosines 0 to 0.5, then sines, through the window, without the mean."""
    require_whole("a spectrum", "segment", segment, 4)
    if segment % 2:
        raise ParameterError(wrong_parameter("a spectrum", "segment", "even", segment))
    half = segment // 2
    at = np.outer(np.arange(half + 1), np.arange(segment)) * (2 * np.pi / segment)
    waves = np.concatenate([np.cos(at), np.sin(at[1:half])])
    window = window_weights("hann", segment)
    like = torch.zeros(0, dtype=torch.float64)
    sided = one_sided(segment, like).numpy()
    scale = np.sqrt(np.concatenate([sided, sided[1:half]]) / float(window.square().sum()))
    basis = drift(segment, "constant", like).numpy()
    rows = waves * window.numpy() * scale[:, None]
    return np.asarray(rows - (rows @ basis.T) @ basis)


def _lag_matrix(segment: int) -> Floats:
    """Return ``[frequency, lag]``: how much of each covariance is in the mean density."""
    matrix = _segment_matrix(segment)
    spectra = np.abs(np.fft.rfft(matrix, n=2 * segment, axis=1)) ** 2
    products: Floats = np.fft.irfft(spectra, axis=1)[:, :segment]
    products[:, 1:] *= 2  # lags of both signs
    half = segment // 2
    found: Floats = products[: half + 1].copy()
    found[1:half] += products[half + 1 :]
    return found


def _cosine_matrix(n: int, stop: int) -> Floats:
    """Return rows 1 to ``stop - 1`` of the orthonormal cosine transform of n positions."""
    at = np.outer(np.arange(1, stop), np.arange(n) + 0.5)
    return np.asarray(np.cos(at * (np.pi / n)) * np.sqrt(2 / n))


@functools.lru_cache(maxsize=128)
def _matrix(kind: str, n: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return one of the matrices as a tensor, which nobody changes or hands out."""
    if kind == "cosine":
        matrix = _cosine_matrix(n, stop)
    else:
        matrix = _segment_matrix(n) if kind == "segment" else _lag_matrix(n)
    return torch.tensor(matrix, dtype=dtype, device=device)
