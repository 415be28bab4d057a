"""The continuous (Morlet) wavelet transform: how strong each frequency is around each position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.dsp.records import real_records
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

HIGHEST_FREQUENCY = 0.3
"""Cycles per token. A Morlet wavelet covers a band around its frequency; beyond this the band reaches over
0.5, where frequencies are those of a wavelet of another frequency (17 % error near 0.5, measured)."""

FEWEST_CYCLES = 2.0
"""Below it a wavelet is hardly one: taking out its mean changes its frequency."""

REACH = 5.0
"""Standard deviations of the envelope at which a wavelet is cut off, where it is below 4e-6 of its height."""


@dataclass(frozen=True, eq=False)
class Scalogram:
    """Amplitude and phase by frequency and position.

    Attributes
    ----------
    values
        Complex ``[*shape, frequency, position]``: a cosine of amplitude a and phase p has modulus a and
        argument p there, at its own frequency and away from the edges. Beyond the length of a record there
        are zeros.
    frequencies
        ``[frequency]`` in cycles per token.
    inside
        Booleans, like ``values``: positions that the edges of the record do not reach, ``sqrt(2)`` standard
        deviations of the envelope away from both (Torrence and Compo 1998). Outside of it, in the
        cone of influence, values are lower than they should be: beyond the edges the record is taken as zero.
    widths
        ``[frequency]``: standard deviation of the envelope in tokens, ``n_cycles / (2 pi f)``; that of the
        band is ``f / n_cycles`` in cycles per token.
    """

    values: Tensor
    frequencies: Tensor
    inside: Tensor
    widths: Tensor

    @property
    def power(self) -> Tensor:
        """Squared modulus, ``[*shape, frequency, position]``: of a cosine, its amplitude squared."""
        return self.values.real.square() + self.values.imag.square()


def scalogram(
    x: Signal | Tensor,
    dim: str | int = "token",
    *,
    frequencies: Sequence[float] | Tensor,
    n_cycles: float = 6.0,
    demean: bool = True,
    lengths: Tensor | None = None,
) -> Scalogram:
    """Return the Morlet scalogram of records along an axis that has an order.

    The wavelet of frequency f is ``exp(-t^2 / (2 s^2)) (exp(2 pi i f t) - exp(-n_cycles^2 / 2))`` at whole t,
    with ``s = n_cycles / (2 pi f)``; the second term takes out its mean. It is slid along the record.

    Parameters
    ----------
    x, dim, lengths
        A signal and the name of its axis, or a tensor and its dimension, with the lengths of its records.
    frequencies
        In cycles per token, above 0 and at most `HIGHEST_FREQUENCY`.
    n_cycles
        Cycles within ``2 pi`` standard deviations of the envelope, at least `FEWEST_CYCLES`. More of them
        resolve frequencies better and positions worse.
    demean
        Whether the mean of each record is taken out, which at its edges would look like a step.

    Returns
    -------
    Scalogram
        ``[*shape, frequency, position]``, in the precision of x.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If a frequency or the number of cycles is out of range.
    RecordError
        If a record is so short that all of it lies in the cone of influence of the lowest frequency.

    Notes
    -----
    With the kernels of `mne.time_frequency.morlet` (``zero_mean=True``), up to one factor for each
    frequency: theirs have unit energy, ours unit gain.
    """
    records = real_records(x, dim, "a scalogram", lengths)
    grid = _checked(frequencies, n_cycles).to(records.rows.device)
    widths = n_cycles / (2 * math.pi * grid)  # [frequency]
    shortest, cone = int(records.lengths.min()), math.sqrt(2) * float(widths.max())
    if shortest - 1 < 2 * cone:
        raise RecordError(
            f"A scalogram at {float(grid.min()):.3g} cycles per token with {n_cycles:g} cycles needs records "
            f"of at least {math.ceil(2 * cone) + 1} positions; the shortest has {shortest}."
        )
    out = torch.complex(records.rows, torch.zeros_like(records.rows))
    out = out.new_zeros(len(records.rows), len(grid), records.rows.shape[1])
    inside = torch.zeros(out.shape, dtype=torch.bool, device=out.device)
    for which, values in records.by_length():
        n = values.shape[-1]
        rows = values - values.mean(-1, keepdim=True) if demean else values
        out[which, :, :n] = _slid(rows, grid, widths)
        at = torch.arange(n, device=out.device)
        edge = torch.minimum(at, n - 1 - at)
        inside[which, :, :n] = edge >= math.sqrt(2) * widths[:, None]
    shape = (*records.shape, len(grid), records.rows.shape[1])
    return Scalogram(out.reshape(shape), grid.to(records.rows.dtype), inside.reshape(shape), widths)


def _slid(rows: Tensor, frequencies: Tensor, widths: Tensor) -> Tensor:
    """Return complex ``[record, frequency, position]``: the wavelets slid along records of one length."""
    n = rows.shape[-1]
    whole = math.ceil(REACH * float(widths.max()))
    kernels = _kernels(frequencies, widths, whole).to(rows.dtype.to_complex())  # [frequency, 2 whole + 1]
    reach = min(n - 1, whole)  # positions of a record are no farther apart
    kernels = kernels[:, whole - reach : whole + reach + 1]
    size = _fast(n + 2 * reach)
    product = torch.fft.fft(rows, n=size)[:, None] * torch.fft.fft(kernels, n=size)
    slid: Tensor = torch.fft.ifft(product)[..., reach : reach + n]
    return slid


def _kernels(frequencies: Tensor, widths: Tensor, reach: int) -> Tensor:
    """Return complex128 ``[frequency, 2 reach + 1]``: wavelets whose gain at their own frequency is 2.

    2, because a cosine has half of its amplitude at the positive frequency.
    """
    t = torch.arange(-reach, reach + 1, device=widths.device, dtype=torch.float64)
    f, s = frequencies.double()[:, None], widths.double()[:, None]
    turns = 2 * math.pi * f * t
    envelope = torch.exp(-(t**2) / (2 * s**2)) * (t.abs() <= REACH * s)
    mean = torch.exp(-2 * (math.pi * f * s) ** 2)
    wavelet = torch.complex(envelope * (turns.cos() - mean), envelope * turns.sin())
    carrier = torch.complex(turns.cos(), -turns.sin())
    gain = (wavelet * carrier).sum(-1, keepdim=True).real
    return 2 * wavelet / gain


def _checked(frequencies: Sequence[float] | Tensor, n_cycles: float) -> Tensor:
    """Return the frequencies in float64, having looked at their range and at the number of cycles."""
    grid = torch.as_tensor(frequencies, dtype=torch.float64).reshape(-1)
    if not math.isfinite(n_cycles) or n_cycles < FEWEST_CYCLES:
        raise ParameterError(
            wrong_parameter("scalogram", "n_cycles", f"at least {FEWEST_CYCLES:g}", n_cycles)
        )
    if not len(grid) or not bool((grid > 0).all()):
        raise ParameterError(
            wrong_parameter("scalogram", "frequencies", "one number or more above 0", grid.tolist())
        )
    highest = float(grid.max())
    if not highest <= HIGHEST_FREQUENCY:
        raise ParameterError(
            f"A scalogram goes up to {HIGHEST_FREQUENCY} cycles per token: beyond that the band of a Morlet "
            f"wavelet reaches over 0.5, where frequencies fold; got {highest:g}. Take a wavelet transform "
            "(dwt) for them."
        )
    return grid


def _fast(n: int) -> int:
    """Return the next length at which a Fourier transform is quick."""
    return int(2 ** math.ceil(math.log2(n)))
