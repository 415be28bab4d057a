"""Causal filters, for interventions: what comes out at a token depends on it and on earlier ones alone."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import signal as scipy_signal
from torch import Tensor

from resonance_lens.dsp.filters import butterworth_sections, impulse_response, require_band
from resonance_lens.dsp.records import like, real_records
from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.signal import Signal

X = TypeVar("X", Signal, Tensor)

POSITIONS_AT_ONCE = 1024
"""How many outputs one matrix product makes."""


def butterworth_kernel(low: float, high: float, n: int, *, order: int = 4) -> Tensor:
    """Return the first n values of the impulse response of a Butterworth filter, for `causal_filter`.

    Parameters
    ----------
    low, high
        Edges in cycles per token, where half of the power is left; 0 and 0.5 stand for no edge.
    n
        How many values. As many as a record has positions make the filter exact for that record.
    order
        Of the prototype; a band has twice that many poles.

    Returns
    -------
    Tensor
        float64 ``[n]``.

    Raises
    ------
    ParameterError
        If a parameter is outside its range.
    """
    require_band(low, high)
    return impulse_response(butterworth_sections(float(low), float(high), order), _count(n))


def one_pole_kernel(cutoff: float, n: int) -> Tensor:
    """Return the first n values of a leaky integrator: ``(1 - a) a^d`` at lag d.

    Parameters
    ----------
    cutoff
        In cycles per token, above 0 and below 0.5: where half of the power is left.
    n
        How many values.

    Returns
    -------
    Tensor
        float64 ``[n]``, with gain 1 at frequency 0 (less what lies beyond n, ``a^n``).

    Raises
    ------
    ParameterError
        If a parameter is outside its range.

    Notes
    -----
    ``a = c - sqrt(c^2 - 1)`` with ``c = 2 - cos(2 pi cutoff)``, from
    ``(1 - a)^2 / (1 - 2 a cos(2 pi f) + a^2) = 1/2``.
    """
    if not 0 < cutoff < 0.5:
        raise ParameterError(
            wrong_parameter("one_pole_kernel", "cutoff", "above 0 and below 0.5 cycles per token", cutoff)
        )
    c = 2 - math.cos(2 * math.pi * cutoff)
    pole = c - math.sqrt(c * c - 1)
    return (1 - pole) * pole ** torch.arange(_count(n), dtype=torch.float64)


def resonator_kernel(frequency: float, quality: float, n: int) -> Tensor:
    """Return the first n values of a resonator of two poles (a biquad peak filter).

    Parameters
    ----------
    frequency
        Of the peak, in cycles per token, above 0 and below 0.5; the gain there is 1.
    quality
        Q: frequency over the width at half power, above 0.
    n
        How many values. It rings for about ``Q / frequency`` tokens.

    Returns
    -------
    Tensor
        float64 ``[n]``.

    Raises
    ------
    ParameterError
        If a parameter is outside its range.
    """
    if not 0 < frequency < 0.5:
        raise ParameterError(
            wrong_parameter(
                "resonator_kernel", "frequency", "above 0 and below 0.5 cycles per token", frequency
            )
        )
    if not (quality > 0 and math.isfinite(quality)):
        raise ParameterError(wrong_parameter("resonator_kernel", "quality", "above 0 and finite", quality))
    numerator, denominator = scipy_signal.iirpeak(frequency, quality, fs=1.0)
    return impulse_response(np.concatenate([numerator, denominator])[None], _count(n))


def causal_filter(x: X, dim: str | int, kernel: Tensor, *, lengths: Tensor | None = None) -> X:
    """Return ``y(t) = sum_d kernel(d) x(t - d)`` over d from 0: nothing of what comes after t.

    Parameters
    ----------
    x, dim, lengths
        As in `band_pass`.
    kernel
        Real ``[lag]``, from lag 0 on. What lies beyond the length of a record has no effect on it.

    Returns
    -------
    Signal or Tensor
        As ``x``, zero beyond the length of a record.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If the kernel is not one finite real vector.

    Notes
    -----
    Before the start there are zeros: the filter starts at rest, as `scipy.signal.lfilter` does. A product
    with a triangular matrix, not a fast convolution, which would let rounding errors of the future
    through: changing inputs after t leaves every bit of the output up to t as it is. Differentiable in
    both.
    """
    if kernel.ndim != 1 or not len(kernel) or kernel.is_complex() or not bool(torch.isfinite(kernel).all()):
        raise ParameterError(
            wrong_parameter("causal_filter", "kernel", "a vector of finite real numbers", tuple(kernel.shape))
        )
    records = real_records(x, dim, "a causal filter", lengths)
    taps = kernel.to(records.rows)
    return like(x, dim, records.each(lambda rows: _causal(rows, taps)))  # type: ignore[return-value]


def _causal(rows: Tensor, kernel: Tensor) -> Tensor:
    n, taps = rows.shape[1], len(kernel)
    made = []
    for start in range(0, n, POSITIONS_AT_ONCE):
        stop = min(start + POSITIONS_AT_ONCE, n)
        first = max(0, start - taps + 1)
        inputs = torch.arange(first, stop, device=rows.device)
        lag = torch.arange(start, stop, device=rows.device) - inputs[:, None]  # [input, output]
        weights = torch.where((lag >= 0) & (lag < taps), kernel[lag.clamp(0, taps - 1)], 0.0)
        made.append(rows[:, first:stop] @ weights)
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def _count(n: Any) -> int:
    if not (isinstance(n, int) and n >= 1):
        raise ParameterError(wrong_parameter("a kernel", "n", "an integer of at least 1", n))
    return n
