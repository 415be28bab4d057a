"""Coherence between series along an ordered axis: of pairs, and of all pairs at once by matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resonance_lens.dsp.large import large_empty, one_thread
from resonance_lens.dsp.segments import Detrend, require_choice, series_segments, square
from resonance_lens.dsp.spectra import CrossSpectrum, cross_spectrum
from resonance_lens.errors import RecordError
from resonance_lens.signal import Signal

Measure = Literal["squared", "imaginary"]
MEASURES = ("squared", "imaginary")

BINS_AT_ONCE = 4
"""Frequencies whose matrices of all pairs are made together: they fit in the cache."""

SILENT = 100.0
"""Amplitude, in roundings of the largest one of a series, below which a series is taken to have no power."""


@dataclass(frozen=True, eq=False)
class Coherence:
    """What two series, or all pairs of series, have in common, by frequency.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    values
        ``[..., frequency]`` for pairs, ``[frequency, series, series]`` for all pairs. Zero at a frequency
        where a series has no power, such as 0 once the mean is taken out: nothing is shared there.
    samples
        Integers ``[...]``, or one for all pairs: segments averaged over.
    bandwidth
        Equivalent noise bandwidth of the window, in cycles per token.
    """

    frequencies: Tensor
    values: Tensor
    samples: Tensor
    bandwidth: float


@dataclass(frozen=True, eq=False)
class Transfer:
    """The time-invariant filter that makes the most of y out of x.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    response
        Complex ``[..., frequency]``: ``H = S_xy / S_xx``. Zero where x has no power.
    gain
        Its modulus, in units of y per unit of x.
    phase
        Its angle in radians, in (-pi, pi].
    delay
        Group delay in tokens, ``-(1 / 2 pi) d phase / d frequency``, from each frequency and its neighbours,
        weighted by their gains; between minus and plus half a segment, since neighbouring phases are known up
        to a turn. Not a number where the gain is zero.
    coherence
        Magnitude-squared coherence: the share of the power of y that H explains.
    segments, bandwidth
        As of a `CrossSpectrum`.
    """

    frequencies: Tensor
    response: Tensor
    gain: Tensor
    phase: Tensor
    delay: Tensor
    coherence: Tensor
    segments: Tensor
    bandwidth: float


def coherence(
    x: Signal | Tensor,
    y: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Coherence:
    """Return the magnitude-squared coherence of pairs of records: ``abs(S_xy)^2 / (S_xx S_yy)``.

    Parameters
    ----------
    x, y
        Signals, or tensors of real numbers, of one shape.
    dim, segment, hop, window, detrend, lengths
        As in `resonance_lens.dsp.spectra.welch`.

    Returns
    -------
    Coherence
        In [0, 1]: 1 where a time-invariant filter makes y out of x.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If a record has fewer than two segments (coherence is then 1 whatever the signals are), is constant,
        or has no counterpart of its length.
    ParameterError
        If a parameter is out of range.

    Notes
    -----
    Equal to `scipy.signal.coherence`. Bias: n independent segments of unrelated signals have 1/n on average,
    and segments that overlap count for less. The mean of products of segments, not of the signals: a delay
    that is not short against a segment lowers it. Differentiable.
    """
    found = _pairs(x, y, dim, segment, hop, window, detrend, lengths)
    return _of_pairs(found, square(found.xy) * _inverse(found.xx) * _inverse(found.yy))


def imaginary_coherency(
    x: Signal | Tensor,
    y: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Coherence:
    """Return the imaginary part of the coherency of pairs of records: ``Im S_xy / sqrt(S_xx S_yy)``.

    Parameters and errors are those of `coherence`.

    Returns
    -------
    Coherence
        In [-1, 1]: above zero where x follows y, zero for what both share at once.

    Notes
    -----
    Nolte et al. (2004) use it where one source reaches all sensors at once. Nothing does so in a transformer:
    a lag of zero is a legitimate way to share. It is lag-specific, not cleaner.
    """
    found = _pairs(x, y, dim, segment, hop, window, detrend, lengths)
    return _of_pairs(found, found.xy.imag * (_inverse(found.xx) * _inverse(found.yy)).sqrt())


def transfer(
    x: Signal | Tensor,
    y: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Transfer:
    """Return gain, phase and delay from x to y.

    Parameters
    ----------
    x, y
        What goes in and what comes out, of one shape.
    dim, segment, hop, window, detrend, lengths
        As in `coherence`, whose errors it raises but for the number of segments: one will do.

    Notes
    -----
    What is not linear or changes with position, and noise in y, lowers the coherence and leaves H unbiased;
    noise in x lowers the gain. So does a delay that is not short against a segment: what is left is the
    autocorrelation of the window at that delay (with segments of 128 tokens and a Hann window .98 at 7).
    """
    found = _pairs(x, y, dim, segment, hop, window, detrend, lengths, least=1)
    response = found.xy * _inverse(found.xx)
    shared = square(found.xy) * _inverse(found.xx) * _inverse(found.yy)
    turns = response[..., :-1].conj() * response[..., 1:]  # [..., between two frequencies]
    around = torch.nn.functional.pad(turns, (1, 0)) + torch.nn.functional.pad(turns, (0, 1))
    delay = -around.angle() * segment / (2 * math.pi)
    return Transfer(
        frequencies=found.frequencies,
        response=response,
        gain=response.abs(),
        phase=response.angle(),
        delay=torch.where(around.abs() > 0, delay, torch.nan),
        coherence=shared,
        segments=found.segments,
        bandwidth=found.bandwidth,
    )


@one_thread()
def coherence_matrix(
    x: Signal | Tensor,
    dim: str | int,
    series: str | int,
    *,
    measure: Measure = "squared",
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Coherence:
    """Return the coherence of all pairs of series, over the segments of all prompts.

    Parameters
    ----------
    x, dim, series, segment, hop, window, detrend, lengths
        As in `resonance_lens.dsp.segments.series_segments`.
    measure
        ``squared``: magnitude-squared coherence; ``imaginary``: the imaginary part of coherency.

    Returns
    -------
    Coherence
        ``values`` is ``[frequency, series, series]``; the diagonal of ``squared`` is 1, that of ``imaginary``
        0, and entry (i, j) is that of `coherence` (x_i, x_j).

    Raises
    ------
    AxisError
        If the axis has no order, or the series are not along another axis.
    RecordError
        If there are fewer than two segments, a record is too short, or a series is constant.
    ParameterError
        If a parameter is out of range.
    """
    require_choice("coherence_matrix", "measure", measure, MEASURES)
    found = series_segments(
        x, dim, series, segment=segment, hop=hop, window=window, detrend=detrend, lengths=lengths
    )
    samples = found.coefficients.shape[1]
    _require_segments(samples, 2)
    return Coherence(
        frequencies=found.frequencies,
        values=all_pairs(found.coefficients, measure),
        samples=torch.tensor(samples, device=found.coefficients.device),
        bandwidth=found.bandwidth,
    )


def all_pairs(coefficients: Tensor, measure: Measure = "squared") -> Tensor:
    """Return ``[frequency, series, series]`` from Fourier coefficients ``[frequency, sample, series]``.

    Parameters
    ----------
    coefficients
        Complex, of any scale that is one for all samples.
    measure
        As in `coherence_matrix`.

    Raises
    ------
    RecordError
        If a series has no power at any frequency.

    Notes
    -----
    Coefficients are brought to unit power, so that what is left is products of real matrices, a few
    frequencies at a time into one result. With ``P = Re(X)^T Im(X)`` the imaginary part is ``P - P^T``: one
    product of half the size.
    """
    power = square(coefficients).sum(dim=1)  # [frequency, series]
    scale = _inverse(power, dim=0).sqrt()[:, None]
    real, imaginary = coefficients.real * scale, coefficients.imag * scale  # [frequency, sample, series]
    both = torch.cat([real, imaginary], dim=1)
    n_frequencies, _, n_series = both.shape
    out = large_empty((n_frequencies, n_series, n_series), both)
    # Rooms to work in, one for each matrix: to come by new ones for every few frequencies takes longer than
    # to fill them. For a gradient all of them are needed again.
    rooms: list[Tensor | None] = [None] * 3
    if not (torch.is_grad_enabled() and both.requires_grad):
        rooms = list(both.new_empty(3, BINS_AT_ONCE, n_series, n_series))
    for start in range(0, n_frequencies, BINS_AT_ONCE):
        here = slice(start, start + BINS_AT_ONCE)
        mine = [None if room is None else room[: len(both[here])] for room in rooms]
        product = torch.bmm(real[here].mT, imaginary[here], out=mine[0])
        turned = torch.sub(product, product.mT, out=mine[1])
        if measure == "imaginary":  # of conj(X_i) X_j
            out[here] = turned
            continue
        cosine = torch.bmm(both[here].mT, both[here], out=mine[2])
        out[here] = cosine.square_().addcmul_(turned, turned)
    return out


def _pairs(
    x: Signal | Tensor,
    y: Signal | Tensor,
    dim: str | int,
    segment: int,
    hop: int | None,
    window: str | Tensor,
    detrend: Detrend,
    lengths: Tensor | None,
    least: int = 2,
) -> CrossSpectrum:
    found = cross_spectrum(
        x, y, dim, segment=segment, hop=hop, window=window, detrend=detrend, lengths=lengths
    )
    _require_segments(int(found.segments.min()), least)
    return found


def _require_segments(n: int, least: int) -> None:
    if n < least:
        raise RecordError(
            f"A coherence needs at least {least} segments, since that of one is 1 whatever the signals are; "
            "take shorter segments or a smaller hop."
        )


def _of_pairs(found: CrossSpectrum, values: Tensor) -> Coherence:
    return Coherence(found.frequencies, values, found.segments, found.bandwidth)


def _inverse(power: Tensor, dim: int = -1) -> Tensor:
    """Return one over the power; zero where there is none beside that at other frequencies, along ``dim``.

    Raises
    ------
    RecordError
        If there is none at any frequency.
    """
    largest = power.amax(dim=dim, keepdim=True)
    if bool((largest <= 0).any()):
        raise RecordError("A coherence needs series that vary; one is constant.")
    least = largest * (SILENT * torch.finfo(power.dtype).eps) ** 2
    heard = power > least
    return torch.where(heard, 1 / torch.where(heard, power, 1.0), 0.0)
