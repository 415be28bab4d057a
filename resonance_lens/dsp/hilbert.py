"""Analytic signals: amplitude, phase and frequency at every position of a narrow band.

A phase at a position means something only in a narrow band: of a broad one it is the phase of whatever is
loudest there. So the band comes first; without one the whole spectrum is taken, as scipy does. Frequencies
are in cycles per token, 0 to 0.5; group delays in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from resonance_lens.dsp.records import like, real_records
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

X = TypeVar("X", Signal, Tensor)
Band = tuple[float, float]

CYCLES = 3.0
"""Cycles of a band's centre that a record must hold: of fewer it shows a piece of a wave, and no phase."""

SKIRT = 0.25
"""Width of each of the slopes beside a band, as a share of the band's width."""

SMALLEST_GAIN = 1e-6
"""Of the largest gain: where a kernel lets less through, its delay is that of a rounding error."""


def analytic_signal(x: X, dim: str | int, *, band: Band | None = None, lengths: Tensor | None = None) -> X:
    """Return the analytic signal: the values, and in quadrature to them their Hilbert transform.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The axis: a name for a signal, a number for a tensor.
    band
        ``(low, high)`` in cycles per token: what lies outside is taken away first, see Notes.
    lengths
        Positions of each record of a tensor, as in `Records.of`.

    Returns
    -------
    Signal or Tensor
        As ``x``, complex, zero beyond the length of a record. Each record is transformed in its own length.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If the edges of the band are not ``0 < low < high < 0.5``.
    RecordError
        If a record cannot resolve the band: it holds less than three cycles of the band's centre, or the
        band is narrower than the resolution, 1/N.

    Notes
    -----
    ``a = ifft(h X)`` with h = 2 at positive frequencies, 0 at negative ones, 1 at zero and (for even N) at
    0.5: `scipy.signal.hilbert`. With a band, h is 2 inside it and falls to 0 beside it as a squared cosine,
    over a quarter of the band's width on either side (no further than 0 and 0.5); the mean of the record is
    taken away before. This looks ahead, moves nothing, and takes the record for a circle: values within a
    cycle of either end know the other end. Differentiable. float32 stays float32: within 1e-5 of float64,
    relative to the largest value.
    """
    records = real_records(x, dim, "an analytic signal", lengths)
    if band is not None:
        require_cycles(int(records.lengths.min()), band)
    return like(x, dim, records.each(lambda rows: _analytic(rows, band)))  # type: ignore[return-value]


def instantaneous_amplitude(
    x: X, dim: str | int, *, band: Band | None = None, lengths: Tensor | None = None
) -> X:
    """Return the envelope, in the units of ``x``: the modulus of `analytic_signal`, which takes the same."""
    return _of(x, dim, band, lengths, lambda rows: rows.abs())


def instantaneous_phase(
    x: X, dim: str | int, *, band: Band | None = None, lengths: Tensor | None = None
) -> X:
    """Return the phase in (-pi, pi], 0 at a crest: the angle of `analytic_signal`, which takes the same."""
    return _of(x, dim, band, lengths, lambda rows: rows.angle())


def instantaneous_frequency(
    x: X, dim: str | int, *, band: Band | None = None, lengths: Tensor | None = None
) -> X:
    """Return by how much the phase advances to the next position, in cycles per token, in (-0.5, 0.5].

    The last position has that of the one before. Takes what `analytic_signal` takes. It is a frequency
    only where the band is narrow: between two waves of different frequency it jumps, and may be negative.

    Raises
    ------
    RecordError
        If a record has a single position.
    """
    real_records(x, dim, "an instantaneous frequency", lengths).at_least(2, "an instantaneous frequency")

    def advance(rows: Tensor) -> Tensor:
        turned = (rows[:, 1:] * rows[:, :-1].conj()).angle() / (2 * math.pi)
        return torch.cat([turned, turned[:, -1:]], dim=1)

    return _of(x, dim, band, lengths, advance)


def group_delay(spectrum: Tensor, spacing: float) -> Tensor:
    """Return the group delay ``-d phase / d omega`` of a cross-spectrum or a transfer function, in tokens.

    Parameters
    ----------
    spectrum
        Complex ``[..., frequency]``, at evenly spaced frequencies: of output times conjugate of input.
    spacing
        Cycles per token between one frequency and the next, above 0.

    Returns
    -------
    Tensor
        ``[..., frequency - 1]``, halfway between the frequencies: how far the output comes after the input,
        unwrapped from one frequency to the next, so that it is in ``(-1, 1] / (2 spacing)``. Not-a-number
        where one of the two is zero.
    """
    if not spectrum.is_complex() or spectrum.ndim == 0 or spectrum.shape[-1] < 2:
        raise RecordError(
            f"A group delay needs complex numbers at two frequencies or more; got {spectrum.dtype} of shape "
            f"{tuple(spectrum.shape)}."
        )
    if not 0 < spacing < 0.5:
        requirement = "above 0 and below 0.5 cycles per token"
        raise ParameterError(wrong_parameter("group_delay", "spacing", requirement, spacing))
    turned = spectrum[..., 1:] * spectrum[..., :-1].conj()
    delay = -turned.angle() / (2 * math.pi * spacing)
    return torch.where(turned == 0, torch.full_like(delay, torch.nan), delay)


def kernel_group_delay(kernel: Tensor, frequency: Tensor) -> Tensor:
    """Return the group delay of a causal filter, in tokens.

    ``Re[(sum_d d k(d) e^(-i 2 pi f d)) / H(f)]`` with ``H(f) = sum_d k(d) e^(-i 2 pi f d)``: exact at any
    frequency, where `group_delay` has differences.

    Parameters
    ----------
    kernel
        Real ``[..., lag]``, from lag 0 on.
    frequency
        ``[frequency]``, in cycles per token.

    Returns
    -------
    Tensor
        ``[..., frequency]``; not-a-number where next to nothing passes.
    """
    lag = torch.arange(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    angle = -2 * math.pi * lag[:, None] * frequency.to(kernel)
    waves = torch.polar(torch.ones_like(angle), angle)  # [lag, frequency]
    gain, slope = (values.to(waves.dtype) @ waves for values in (kernel, kernel * lag))
    most = kernel.abs().sum(-1, keepdim=True)
    passes = gain.abs() > SMALLEST_GAIN * most
    delay = (slope / torch.where(passes, gain, torch.ones_like(gain))).real
    return torch.where(passes, delay, torch.full_like(delay, torch.nan))


def require_cycles(n: int, band: Band) -> None:
    """Raise unless records of n positions resolve a band, and hold enough of its cycles for a phase.

    Raises
    ------
    ParameterError
        If the edges are not ``0 < low < high < 0.5``.
    RecordError
        If they do not; with the resolution and the cycles that there are.
    """
    low, high = band
    if not 0 < low < high < 0.5:
        requirement = "(low, high) with 0 < low < high < 0.5 cycles per token"
        raise ParameterError(wrong_parameter("analytic_signal", "band", requirement, band))
    centre, width = (low + high) / 2, high - low
    needed = math.ceil(max(CYCLES / centre, 1 / width) - 1e-9)
    if n < needed:
        raise RecordError(
            f"A band from {low:g} to {high:g} cycles per token needs records of at least {needed} positions; "
            f"the shortest, of {n}, has a resolution of {1 / n:.3g} and holds {n * centre:.2g} cycles of the "
            "band's centre."
        )


def _of(
    x: X, dim: str | int, band: Band | None, lengths: Tensor | None, function: Callable[[Tensor], Tensor]
) -> X:
    """Return a function of the analytic rows of each length, laid out as ``x``."""
    records = real_records(x, dim, "an analytic signal", lengths)
    if band is not None:
        require_cycles(int(records.lengths.min()), band)
    made = records.each(lambda rows: function(_analytic(rows, band)))
    return like(x, dim, made)  # type: ignore[return-value]


def _analytic(rows: Tensor, band: Band | None) -> Tensor:
    """Return the analytic signal of records of one length, ``[record, position]``."""
    n = rows.shape[1]
    if band is not None:
        rows = rows - rows.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(rows)
    frequency = torch.fft.rfftfreq(n, dtype=rows.dtype, device=rows.device)
    doubled = torch.full_like(frequency, 2.0)
    doubled[0] = 1.0
    if n % 2 == 0:
        doubled[-1] = 1.0
    if band is not None:
        doubled = 2 * _taper(frequency, band)
    waves: Tensor = torch.fft.ifft(spectrum * doubled, n=n)  # zero at the negative frequencies
    return waves


def _taper(frequency: Tensor, band: Band) -> Tensor:
    """Return 1 in the band, and beside it a squared cosine down to 0; exactly 0 at frequency 0 and 0.5."""
    low, high = band
    skirt = SKIRT * (high - low)
    below, above = min(skirt, low), min(skirt, 0.5 - high)
    beyond = torch.maximum((low - frequency) / below, (frequency - high) / above).clamp(0.0, 1.0)
    return torch.cos(0.5 * math.pi * beyond).square().masked_fill(beyond >= 1, 0.0)
