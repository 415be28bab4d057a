"""Spectra of series of vectors, averaged over their features.

Hundreds of features are transformed along the same few positions, and only means over features are kept. So
series stand with their positions side by side in memory, ``[..., feature, position]``, for a fast transform
to run along; and the few low indices of a cosine transform are two products, of sums and differences of what
lies as far from either end. All is that of `resonance_lens.dsp.spectra.welch` with a Hann window, segments
without their mean.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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
class VectorSeries:
    """Series of features without their means, and how features count in means over them.

    Attributes
    ----------
    values
        ``[..., feature, position]``, of mean zero.
    weights
        ``[..., 2, feature]``: one over the number of features, for the plain mean; and that divided by the
        feature's variance, for a mean in which all features count alike. Features that do not vary have no
        weight; those that do share it in the second.
    variance
        ``[..., 2]``: the means, so weighted, of the variances over positions: in the second 1, or 0 if none
        varies.
    dc
        ``[..., 2]``: the means, so weighted, of the squares of what was taken out.
    """

    values: Tensor
    weights: Tensor
    variance: Tensor
    dc: Tensor

    @staticmethod
    def of(sites: Sequence[Tensor]) -> VectorSeries:
        """Return the series of some sites, each ``[position, feature]``, one after another."""
        n, n_features = sites[0].shape
        values = sites[0].new_empty(len(sites), n_features, n)
        means = torch.stack([x.mean(0) for x in sites])  # [site, feature]
        for into, x, mean in zip(values, sites, means, strict=True):
            torch.sub(x.T, mean[:, None], out=into)
        variance = torch.linalg.vecdot(values, values) / n  # [site, feature]
        varies = variance > (ROUNDING * torch.finfo(values.dtype).eps * means).square()
        kept = varies.to(values.dtype)
        alike = kept / torch.where(varies, variance, 1.0) / kept.sum(-1, keepdim=True).clamp_min(1)
        weights = torch.stack([kept / n_features, alike], dim=-2)
        total = weights @ torch.stack([variance, means.square()], dim=-1)  # [site, 2, 2]
        return VectorSeries(values, weights, *total.unbind(-1))


def mean_power(values: Tensor, segment: int, weights: Tensor) -> Tensor:
    """Return weighted sums over features of their Welch densities.

    Parameters
    ----------
    values
        ``[..., feature, position]``, at least a segment of positions.
    segment
        Positions of a segment, even. Segments are spread evenly: see `spread_hop`.
    weights
        ``[..., k, feature]``.

    Returns
    -------
    Tensor
        ``[..., k, frequency]``, frequencies ``0, 1/segment, ..., 0.5``: one-sided densities.

    Raises
    ------
    RecordError
        If there are fewer positions than a segment has.
    ParameterError
        If the segment is not an even number of at least 4.
    """
    n = values.shape[-1]
    window, scale = _window(segment, values.dtype, values.device)
    if n < segment:
        raise RecordError(f"A spectrum of segments of {segment} needs as many positions; there are {n}.")
    segments = values.unfold(-1, segment, spread_hop(n, segment))  # [..., feature, start, position]
    tapered = (segments - segments.mean(-1, keepdim=True)).mul_(window)
    parts = torch.view_as_real(torch.fft.rfft(tapered))  # [..., feature, start, frequency, 2]
    total = weights @ parts.square_().flatten(-3)
    power: Tensor = total.unflatten(-1, parts.shape[-3:]).sum((-3, -1))
    return power * (scale / parts.shape[-3])


def band_power(series: VectorSeries) -> Tensor:
    """Return weighted means over features of their power in `PRISM_BANDS`, index 0 left out.

    Returns
    -------
    Tensor
        ``[..., 2, band]``: sums of squares of the orthonormal cosine transform, divided by the number of
        positions, so that all bands together are the variance. The highest band is what the others leave of
        it.
    """
    values = series.values
    n = values.shape[-1]
    matrices = _cosines(n, values.dtype, values.device)
    half = matrices.even.shape[0]
    front, back = values[..., :half], values[..., n - half :].flip(-1)
    found = series.variance.new_zeros(())
    for mirrored, waves, member in (
        (front + back, matrices.even, matrices.even_bands),
        (front - back, matrices.odd, matrices.odd_bands),
    ):
        # Of each feature and index; then the mean over features; then the sum over the indices of a band.
        found = found + series.weights @ (mirrored @ waves).square_() @ member
    return torch.cat([found, (series.variance - found.sum(-1)).clamp_min(0.0)[..., None]], dim=-1)


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
    return covariances @ torch.from_numpy(_lag_matrix(segment)).to(covariances).mT


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


def _require_segment(segment: int) -> None:
    require_whole("a spectrum", "segment", segment, 4)
    if segment % 2:
        raise ParameterError(wrong_parameter("a spectrum", "segment", "even", segment))


def _segment_matrix(segment: int) -> Floats:
    """Return ``[segment, segment]``: cosines 0 to 0.5, then sines, through the window, without the mean."""
    _require_segment(segment)
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


@functools.lru_cache(maxsize=32)
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


@dataclass(frozen=True, eq=False)
class _Cosines:
    """The cosines of the bands but the highest, over half of a record, and which of them each band has.

    A cosine of even index is its own mirror image, one of odd index the negative of it.

    Attributes
    ----------
    even, odd
        ``[position, index]``; the middle of an odd number of positions counts half in ``even``, where it
        is added to itself.
    even_bands, odd_bands
        ``[index, band]``: one where the index is in the band, divided by the number of positions.
    """

    even: Tensor
    odd: Tensor
    even_bands: Tensor
    odd_bands: Tensor


@functools.lru_cache(maxsize=64)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> _Cosines:
    """Return the rows of the orthonormal cosine transform of n positions; all layers ask for the same."""
    edges = np.array(_edges(n))
    index = np.arange(1, edges[-2])
    at = np.outer(np.arange(n - n // 2) + 0.5, index)
    waves = np.cos(at * (np.pi / n)) * np.sqrt(2 / n)
    member = ((index[:, None] >= edges[:-2]) & (index[:, None] < edges[1:-1])) / n
    is_even = index % 2 == 0
    if n % 2:
        waves[-1, is_even] /= 2
    parts = (waves[:, is_even], waves[:, ~is_even], member[is_even], member[~is_even])
    return _Cosines(*(torch.tensor(part, dtype=dtype, device=device) for part in parts))


@functools.lru_cache(maxsize=32)
def _window(segment: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the window, and what makes one-sided densities of squares, by frequency."""
    _require_segment(segment)
    window = window_weights("hann", segment)
    scale = one_sided(segment, window) / window.square().sum()
    return window.to(device, dtype), scale.to(device, dtype)
