"""Zero-phase filters along an ordered axis, to describe with. Frequencies are in cycles per token, 0 to 0.5.

A zero-phase filter moves nothing in time, and pays for it by looking ahead. In a description that does no
harm. In an intervention on a causal model it lets the future into the past: see `resonance_lens.dsp.causal`.
The bands of the cosine transform are in `resonance_lens.dsp.cosine`.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from scipy.fft import next_fast_len
from torch import Tensor

from resonance_lens.dsp.cosine import PRISM_BANDS as PRISM_BANDS
from resonance_lens.dsp.cosine import Band as Band
from resonance_lens.dsp.cosine import dct as dct
from resonance_lens.dsp.cosine import dct_band as dct_band
from resonance_lens.dsp.cosine import dct_band_shares as dct_band_shares
from resonance_lens.dsp.records import like, real_records
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

X = TypeVar("X", Signal, Tensor)
Design = Literal["butterworth", "fir"]

DECAYED = 1e-15
"""Relative to its largest value: what an impulse response is cut off below, in a zero-phase filter."""

LONGEST_RESPONSE = 65_536
"""Positions after which an impulse response is cut off, whatever is left of it."""

HAMMING_WIDTH = 3.3
"""Taps times width of the transition of a sinc under a Hamming window."""


def band_pass(
    x: X, dim: str | int, low: float, high: float, *, design: Design = "butterworth", order: int = 4,
    taps: int = 0, lengths: Tensor | None = None,
) -> X:  # fmt: skip
    """Return what a signal does between two frequencies, without moving it in time.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The axis: a name for a signal, a number for a tensor.
    low, high
        Edges in cycles per token. ``low`` 0 makes a low-pass of it, ``high`` 0.5 a high-pass.
    design
        ``butterworth``: forwards and backwards, so that an edge keeps half of the amplitude (-6 dB).
        ``fir``: a sinc under a Hamming window, of odd length, centred; an edge keeps half as well.
    order
        Of the Butterworth prototype; a band has twice that many poles.
    taps
        Of the FIR, odd; 0: as many as make the transition half as wide as the narrowest of the band and
        what lies below and above it.
    lengths
        Positions of each record of a tensor, as in `Records.of`.

    Returns
    -------
    Signal or Tensor
        As ``x``, zero beyond the length of a record. Each record is filtered in its own length.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If the edges are not ``0 <= low < high <= 0.5``, or leave nothing out.
    RecordError
        If a record cannot resolve the band: an edge below 1/N, a band narrower than that, or a filter
        that is longer than the record.

    Notes
    -----
    Ends are continued by odd reflection, ``2 x(0) - x(k)``, as `scipy.signal.sosfiltfilt` does, with its
    number of positions where the record has them; values there are the least certain, over about
    ``1 / (high - low)`` positions. Equal to `scipy.signal.sosfiltfilt` (its initial states are those of a
    constant before the start), and to `scipy.signal.convolve` with the kernel of `fir_kernel`.
    Differentiable. float32 stays float32: within 1e-5 of float64, relative to the largest value.
    """
    records = real_records(x, dim, "a band-pass filter", lengths)
    shortest = int(records.lengths.min())
    require_resolved(shortest, low, high)
    if design == "butterworth":
        sections = butterworth_sections(float(low), float(high), order)
        filtered = records.each(lambda rows: _forward_and_back(rows, sections))
    elif design == "fir":
        kernel = fir_kernel(low, high, taps or _taps(low, high))
        if len(kernel) > shortest:
            longest = shortest - 1 + shortest % 2
            raise RecordError(
                f"A FIR filter of {len(kernel)} taps is longer than the shortest record, of {shortest} "
                f"positions; set taps to {longest} or less, or take design='butterworth'."
            )
        filtered = records.each(lambda rows: _centred(rows, kernel))
    else:
        raise ParameterError(wrong_parameter("band_pass", "design", "one of 'butterworth', 'fir'", design))
    return like(x, dim, filtered)  # type: ignore[return-value]


def low_pass(
    x: X, dim: str | int, high: float, *, design: Design = "butterworth", order: int = 4, taps: int = 0,
    lengths: Tensor | None = None,
) -> X:  # fmt: skip
    """Return what a signal does below a frequency; see `band_pass`."""
    return band_pass(x, dim, 0.0, high, design=design, order=order, taps=taps, lengths=lengths)


def high_pass(
    x: X, dim: str | int, low: float, *, design: Design = "butterworth", order: int = 4, taps: int = 0,
    lengths: Tensor | None = None,
) -> X:  # fmt: skip
    """Return what a signal does above a frequency; see `band_pass`."""
    return band_pass(x, dim, low, 0.5, design=design, order=order, taps=taps, lengths=lengths)


def require_resolved(n: int, low: float, high: float) -> None:
    """Raise unless records of n positions can resolve a band.

    Parameters
    ----------
    n
        Positions of the shortest record.
    low, high
        Edges in cycles per token; 0 and 0.5 stand for no edge.

    Raises
    ------
    ParameterError
        If the edges are not ``0 <= low < high <= 0.5``, or leave nothing out.
    RecordError
        If an edge is below 1/n, or the band is narrower than 1/n: n positions hold no whole period of it.
    """
    require_band(low, high)
    narrowest = min(edge for edge in (low, high, high - low) if edge > 0)
    # A band of exactly one over n is resolved, whatever rounding says of its width.
    if narrowest * n < 1 - 1e-9:
        needed = math.ceil(1 / narrowest - 1e-9)
        raise RecordError(
            f"Records of {n} positions resolve 1/{n} = {1 / n:.3g} cycles per token, and the band {low:g} to "
            f"{high:g} asks for {narrowest:.3g}; records of at least {needed} positions would do."
        )


def require_band(low: float, high: float) -> None:
    """Raise `ParameterError` unless ``0 <= low < high <= 0.5`` and something is left out."""
    if not 0 <= low < high <= 0.5:
        raise ParameterError(
            f"A band needs edges 0 <= low < high <= 0.5 in cycles per token; got {low!r} and {high!r}."
        )
    if low == 0 and high == 0.5:
        raise ParameterError("A band from 0 to 0.5 leaves nothing out; set low above 0 or high below 0.5.")


# Kernels ---------------------------------------------------------------------------------------


def fir_kernel(low: float, high: float, taps: int) -> Tensor:
    """Return a symmetric FIR kernel that passes a band: a sinc under a Hamming window.

    Parameters
    ----------
    low, high
        Edges in cycles per token, where half of the amplitude is left; 0 and 0.5 stand for no edge.
    taps
        Odd, at least 3. The transition at an edge is ``3.3 / taps`` wide. As a causal filter it delays
        by ``(taps - 1) / 2`` tokens.

    Returns
    -------
    Tensor
        float64 ``[taps]``; its gain is 1 in the middle of the band (at 0, or at 0.5, if it holds that).

    Raises
    ------
    ParameterError
        If the edges or the taps are outside their range.
    """
    require_band(low, high)
    if taps < 3 or taps % 2 == 0:
        raise ParameterError(wrong_parameter("fir_kernel", "taps", "an odd number of at least 3", taps))
    edges = [edge for edge in (low, high) if 0 < edge < 0.5]
    return torch.from_numpy(scipy_signal.firwin(taps, edges, pass_zero=low == 0, fs=1.0))


# Zero phase ------------------------------------------------------------------------------------


def _centred(rows: Tensor, kernel: Tensor) -> Tensor:
    """Return a convolution with a symmetric kernel, its middle at lag 0, ends reflected."""
    taps = kernel.to(rows)
    extended = _reflected(rows, len(kernel) // 2)
    return _convolved(extended, taps)[:, len(kernel) - 1 : extended.shape[1]]


def _forward_and_back(rows: Tensor, sections: NDArray[np.float64]) -> Tensor:
    """Return what `scipy.signal.sosfiltfilt` does, by convolution with the impulse response."""
    n = rows.shape[1]
    edge = min(_edge(sections), n - 1)
    response = _decayed_response(sections.tobytes(), len(sections)).to(rows)
    out = _reflected(rows, edge)
    for _ in range(2):
        # A state that has settled on the first value is a past in which there was nothing else.
        before = out[:, :1].expand(-1, len(response) - 1)
        width = out.shape[1]
        out = _convolved(torch.cat([before, out], dim=1), response)[:, len(response) - 1 :][:, :width].flip(1)
    return out[:, edge : edge + n]


def _reflected(rows: Tensor, n: int) -> Tensor:
    """Return rows with n more positions at both ends, turned about the end points."""
    if n == 0:
        return rows
    before = 2 * rows[:, :1] - rows[:, 1 : n + 1].flip(1)
    after = 2 * rows[:, -1:] - rows[:, -n - 1 : -1].flip(1)
    return torch.cat([before, rows, after], dim=1)


def _convolved(rows: Tensor, kernel: Tensor) -> Tensor:
    """Return the full convolution along the last axis, by Fourier transform."""
    size = rows.shape[1] + len(kernel) - 1
    padded = int(next_fast_len(size, real=True))
    product = torch.fft.rfft(rows, padded) * torch.fft.rfft(kernel, padded)
    whole: Tensor = torch.fft.irfft(product, padded)
    return whole[:, :size]


def _edge(sections: NDArray[np.float64]) -> int:
    """Return by how many positions `scipy.signal.sosfiltfilt` continues a record."""
    taps = 2 * len(sections) + 1
    taps -= min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    return 3 * taps


@functools.lru_cache(maxsize=64)
def butterworth_sections(low: float, high: float, order: int) -> NDArray[np.float64]:
    """Return the second-order sections ``[section, 6]`` of a Butterworth filter; edges as in `band_pass`."""
    if not (isinstance(order, int) and 1 <= order <= 12):
        raise ParameterError(wrong_parameter("a Butterworth filter", "order", "between 1 and 12", order))
    kind, edges = ("lowpass", high) if low == 0 else ("highpass", low) if high == 0.5 else ("bandpass", None)
    sections = scipy_signal.butter(order, edges or [low, high], btype=kind, output="sos", fs=1.0)
    return np.asarray(sections, dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _decayed_response(sections: bytes, n_sections: int) -> Tensor:
    """Return an impulse response up to where nothing is left of it."""
    coefficients = np.frombuffer(sections).reshape(n_sections, 6).copy()  # scipy asks for a writable one
    size = 256
    while True:
        response = impulse_response(coefficients, size)
        if float(response[-size // 4 :].abs().max()) < DECAYED * float(response.abs().max()):
            last = int(torch.nonzero(response.abs() >= DECAYED * response.abs().max()).max())
            return response[: last + 1]
        if size >= LONGEST_RESPONSE:
            return response
        size *= 2


def impulse_response(sections: NDArray[np.float64], n: int) -> Tensor:
    """Return the first n values of the impulse response of second-order sections ``[section, 6]``."""
    impulse = np.zeros(n)
    impulse[0] = 1.0
    return torch.from_numpy(np.asarray(scipy_signal.sosfilt(sections, impulse)))


def _taps(low: float, high: float) -> int:
    widths = [width for width in (low, high - low, 0.5 - high) if width > 0]
    return int(math.ceil(HAMMING_WIDTH / (min(widths) / 2))) | 1
