"""Power and cross spectra along an ordered axis.

Frequencies are in cycles per token, from 0 to 0.5. A density is one-sided, in the square of the signal's
units per cycle per token: its integral over frequency is the variance. All goes on in the precision of the
signal; single precision is within 1e-5 of the largest density. What is returned has the frequency as its last
axis, whatever the place of the axis that was transformed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import windows
from torch import Tensor

from resonance_lens.dsp.records import Records, real_records
from resonance_lens.dsp.segments import (
    NUMBERS_AT_ONCE,
    Detrend,
    SegmentTransform,
    drift,
    fourier_segments,
    one_sided,
    require_choice,
    series_segments,
    square,
    trend,
)
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

Weights = Literal["eigenvalue", "equal", "adaptive"]
WEIGHTS = ("eigenvalue", "equal", "adaptive")

LEAST_CONCENTRATION = 0.9
"""Of the tapers that are used: the share of their energy inside the band."""

ADAPTIVE_STEPS = 250
ADAPTED = 1e-10
"""Adaptive weights are found when their mean square changes by less than this."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power by frequency.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    power
        ``[..., frequency]``, one-sided density in units^2 per cycle per token.
    segments
        Integers ``[...]``: how many segments (or tapers) each record's density is a mean of. For noise, the
        standard deviation of a density is about itself divided by the root of this, more where segments
        overlap.
    bandwidth
        What it resolves, in cycles per token: the equivalent noise bandwidth of the window, or the width of
        the band of the tapers.
    dc
        ``[...]``, units^2: the mean over segments of the square of their mean. It is apart from ``power``,
        whose first bin holds what the window leaks once segments are detrended.
    """

    frequencies: Tensor
    power: Tensor
    segments: Tensor
    bandwidth: float
    dc: Tensor


@dataclass(frozen=True, eq=False)
class CrossSpectrum:
    """Power that two signals have in common, by frequency, beside that of each.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    xy
        Complex ``[..., frequency]``: the mean of ``conj(X) Y``, one-sided, scaled as a density. Where y lags
        behind x its phase is negative.
    xx, yy
        ``[..., frequency]``: the densities.
    segments, bandwidth
        As of a `Spectrum`.
    """

    frequencies: Tensor
    xy: Tensor
    xx: Tensor
    yy: Tensor
    segments: Tensor
    bandwidth: float


def periodogram(
    x: Signal | Tensor,
    dim: str | int,
    *,
    window: str | Tensor = "boxcar",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Spectrum:
    """Return the density of whole records, each as one segment.

    Parameters
    ----------
    x
        A signal, or a tensor of real numbers.
    dim
        The axis: its name for a signal, its number for a tensor.
    window
        A name that `scipy.signal.get_window` knows (periodic), or one weight for each position.
    detrend
        What is taken out first: ``none``, the mean (``constant``) or a straight line (``linear``).
    lengths
        For a tensor: the real positions of each record, as in `Records.of`.

    Returns
    -------
    Spectrum
        With one segment a record.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If records have different lengths: their frequencies then differ.
    ParameterError
        If the window or the detrending is unknown.

    Notes
    -----
    Equal to `scipy.signal.periodogram`. Not consistent: at every frequency its standard deviation is as large
    as its mean, however long the record is. Resolution: 1 / length for a boxcar. Differentiable.
    """
    records = real_records(x, dim, "a periodogram", lengths)
    length = records.one_length("a periodogram").shape[1]
    return _mean_of_segments(records, SegmentTransform.of(records, length, length, window, detrend))


def welch(
    x: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Spectrum:
    """Return the density averaged over overlapping segments (Welch 1967).

    Parameters
    ----------
    x, dim, window, detrend, lengths
        As in `periodogram`; detrending is that of each segment.
    segment
        Positions of a segment, at least 2. Only segments that lie wholly inside a record count.
    hop
        From the start of one segment to that of the next; half a segment, rounded up, if not said.

    Returns
    -------
    Spectrum
        On one grid for records of any length: ``k / segment``.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If a record is shorter than a segment. It is never filled with zeros.
    ParameterError
        If segment, hop, window or detrending is out of range.

    Notes
    -----
    Equal to `scipy.signal.welch`. Bias: the density is smoothed over the bandwidth, 1.5 / segment for the
    Hann window, and power leaks from strong frequencies through the side lobes. Differentiable.
    """
    records = real_records(x, dim, "a Welch spectrum", lengths)
    return _mean_of_segments(records, SegmentTransform.of(records, segment, hop, window, detrend))


def multitaper(
    x: Signal | Tensor,
    dim: str | int,
    *,
    half_bandwidth: float = 4.0,
    weights: Weights = "eigenvalue",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Spectrum:
    """Return the density averaged over orthogonal tapers (Thomson 1982).

    Parameters
    ----------
    x, dim, detrend, lengths
        As in `periodogram`.
    half_bandwidth
        The product of the record's length and half the bandwidth, at least 1. Of the ``2 half_bandwidth``
        discrete prolate spheroidal sequences (periodic, ``sym=False``) those are used that hold more than 90
        % of their energy in the band.
    weights
        ``eigenvalue``: by that share; ``equal``; or ``adaptive``: found by iteration, less of what leaks
        (Percival and Walden 1993, equations 368a and 370a). With fewer than three tapers they are those of
        ``eigenvalue``.

    Returns
    -------
    Spectrum
        ``segments`` counts the tapers, ``bandwidth`` is ``2 half_bandwidth / length``.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If records have different lengths, or are too short for one taper of this bandwidth.
    ParameterError
        If a parameter is out of range.

    Notes
    -----
    The conventions are those of ``mne.time_frequency.psd_array_multitaper``. Other libraries taper with
    ``sym=True`` (another density by .7 %), do not take out the mean, or weight equally (by 1 to 2 %).
    """
    if not half_bandwidth >= 1:
        raise ParameterError(wrong_parameter("multitaper", "half_bandwidth", "at least 1", half_bandwidth))
    require_choice("multitaper", "weights", weights, WEIGHTS)
    records = real_records(x, dim, "a multitaper spectrum", lengths)
    rows = records.one_length("a multitaper spectrum")
    length = rows.shape[1]
    if length <= 2 * half_bandwidth:
        raise RecordError(
            f"A multitaper spectrum of half bandwidth {half_bandwidth:g} needs records of more than "
            f"{2 * half_bandwidth:g} positions; they have {length}."
        )
    made, shares = _tapers(length, float(half_bandwidth))
    tapers = torch.tensor(made, dtype=rows.dtype, device=rows.device)
    share = torch.tensor(shares, dtype=rows.dtype, device=rows.device)[:, None]  # [taper, 1]
    basis = drift(length, detrend, rows)
    sided = one_sided(length, rows)

    def power(some: Tensor) -> Tensor:
        tapered = (some - trend(some, basis))[:, None] * tapers  # [record, taper, position]
        each = square(torch.fft.rfft(tapered)) * sided  # [record, taper, frequency]
        if weights == "equal":
            return each.mean(dim=1)
        if weights == "eigenvalue" or len(share) < 3:
            return (share * each).sum(dim=1) / share.sum()
        return _adapted(each, share)

    at_once = max(1, NUMBERS_AT_ONCE // (length * len(share)))
    return Spectrum(
        frequencies=torch.fft.rfftfreq(length, device=rows.device, dtype=rows.dtype),
        power=torch.cat([power(some) for some in rows.split(at_once)]).reshape(*records.shape, -1),
        segments=torch.full(records.shape, len(share), device=rows.device),
        bandwidth=2 * float(half_bandwidth) / length,
        dc=rows.mean(dim=1).square().reshape(records.shape),
    )


def cross_spectrum(
    x: Signal | Tensor,
    y: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> CrossSpectrum:
    """Return the cross spectrum of pairs of records by Welch's method, beside the spectrum of each.

    Parameters and errors are those of `welch`; x and y have one shape and the same lengths. ``xy`` is equal
    to `scipy.signal.csd`.

    Raises
    ------
    RecordError
        If the records of y are not as many and as long as those of x.
    """
    mine, theirs = (
        fourier_segments(each, dim, segment=segment, hop=hop, window=window, detrend=detrend, lengths=lengths)
        for each in (x, y)
    )
    one, other = mine.coefficients, theirs.coefficients
    if one.shape != other.shape or not torch.equal(mine.counts, theirs.counts):
        raise RecordError("A cross spectrum needs records of y that are as many and as long as those of x.")
    counts = mine.counts[..., None]
    return CrossSpectrum(
        frequencies=mine.frequencies,
        xy=(one.conj() * other).sum(dim=-2) / counts,
        xx=square(one).sum(dim=-2) / counts,
        yy=square(other).sum(dim=-2) / counts,
        segments=mine.counts,
        bandwidth=mine.bandwidth,
    )


def cross_spectra(
    x: Signal | Tensor,
    dim: str | int,
    series: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the cross spectra of all pairs of series by Welch's method.

    Parameters and errors are those of `resonance_lens.dsp.segments.series_segments`.

    Returns
    -------
    Tensor
        Complex ``[frequency, series, series]``: the mean over samples of ``conj(X_i) X_j``, one-sided; the
        diagonal holds the densities. For R series it has R^2 numbers at each frequency.
    """
    found = series_segments(
        x, dim, series, segment=segment, hop=hop, window=window, detrend=detrend, lengths=lengths
    )
    coefficients = found.coefficients  # [frequency, sample, series]
    return coefficients.mH @ coefficients / coefficients.shape[1]


def _mean_of_segments(records: Records, transform: SegmentTransform) -> Spectrum:
    powers, means = [], []
    for rows, counts in transform.pieces(records):
        power, mean = torch.zeros((), device=rows.device), torch.zeros((), device=rows.device)
        for index in range(int(counts.max())):
            start = index * transform.hop
            here = counts > index
            segments = rows[:, start : start + transform.segment]
            if not bool(here.all()):
                segments = torch.where(here[:, None], segments, 0.0)
            power = power + square(transform.coefficients(segments))
            mean = mean + segments.mean(dim=1).square()
        powers.append(power / counts[:, None])
        means.append(mean / counts)
    return Spectrum(
        frequencies=transform.frequencies(records.rows),
        power=torch.cat(powers).reshape(*records.shape, -1),
        segments=transform.counts.reshape(records.shape),
        bandwidth=transform.bandwidth,
        dc=torch.cat(means).reshape(records.shape),
    )


@functools.lru_cache(maxsize=16)
def _tapers(n: int, half_bandwidth: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tapers ``[taper, position]`` of unit energy, and their shares of energy in the band."""
    tapers, shares = windows.dpss(n, half_bandwidth, int(2 * half_bandwidth), sym=False, return_ratios=True)
    kept = shares > LEAST_CONCENTRATION
    kept[0] = True
    return tapers[kept].copy(), shares[kept].copy()


def _adapted(each: Tensor, share: Tensor) -> Tensor:
    """Return the mean over tapers ``[record, taper, frequency]`` with adaptive weights, record by record."""
    n = each.shape[-1]
    fixed = (share * each).sum(dim=1) / share.sum()
    variance = torch.trapezoid(fixed, dx=math.pi / n, dim=-1)[:, None, None] / (2 * math.pi)
    power = ((share[:2] * each[:, :2]).sum(dim=1) / share[:2].sum())[:, None]
    before = torch.zeros_like(each)
    open_ = torch.ones(len(each), 1, 1, dtype=torch.bool, device=each.device)
    tiny = torch.finfo(each.dtype).tiny
    for _ in range(ADAPTIVE_STEPS):
        weight = power / (share * power + (1 - share) * variance).clamp_min(tiny) * share.sqrt()
        change = (weight - before).square().mean(dim=1, keepdim=True).amax(dim=2, keepdim=True)
        open_ = open_ & (change >= ADAPTED)
        if not bool(open_.any()):
            break
        squares = weight.square()
        made = (squares * each).sum(dim=1, keepdim=True) / squares.sum(dim=1, keepdim=True).clamp_min(tiny)
        power = torch.where(open_, made, power)
        before = weight
    return power.squeeze(1)
