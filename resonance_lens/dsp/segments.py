"""Segments of records, detrended, windowed and transformed: what all spectra are means of."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import windows
from torch import Tensor

from resonance_lens.dsp.records import Records, real_records
from resonance_lens.errors import AxisError, ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

Detrend = Literal["none", "constant", "linear"]
DETREND = ("none", "constant", "linear")

NUMBERS_AT_ONCE = 2**17
"""Numbers of one segment of many records that are transformed together: they fit in the cache."""

ROUNDING = 64
"""Units in the last place, of the largest value: what a sum over a segment may be wrong by."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The Fourier coefficients of the segments of records.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    coefficients
        Complex ``[..., segment, frequency]``, scaled so that the mean over segments of their squared modulus
        is the one-sided density. Zero beyond the segments that a record has.
    counts
        Integers ``[...]``: segments of each record.
    bandwidth
        Equivalent noise bandwidth of the window, in cycles per token.
    """

    frequencies: Tensor
    coefficients: Tensor
    counts: Tensor
    bandwidth: float


@dataclass(frozen=True, eq=False)
class SeriesSegments:
    """The Fourier coefficients of several series in the same samples.

    Attributes
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    coefficients
        Complex ``[frequency, sample, series]``, scaled as those of `Segments`.
    bandwidth
        As of a `Segments`.
    """

    frequencies: Tensor
    coefficients: Tensor
    bandwidth: float


def fourier_segments(
    x: Signal | Tensor,
    dim: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> Segments:
    """Return the Fourier coefficients of every segment, of which all cross spectra are means.

    Parameters, errors and scale are those of `resonance_lens.dsp.spectra.welch`; the phase of a coefficient
    is counted from the first position of its segment.
    """
    records = real_records(x, dim, "a Fourier transform of segments", lengths)
    transform = SegmentTransform.of(records, segment, hop, window, detrend)
    parts = []
    for rows, counts in transform.pieces(records):
        views = rows.unfold(1, transform.segment, transform.hop)[:, : int(counts.max())]
        there = torch.arange(views.shape[1], device=rows.device) < counts[:, None]
        made = transform.coefficients(torch.where(there[..., None], views, 0.0))
        parts.append(torch.nn.functional.pad(made, (0, 0, 0, int(transform.counts.max()) - made.shape[1])))
    coefficients = torch.cat(parts)
    return Segments(
        frequencies=transform.frequencies(records.rows),
        coefficients=coefficients.reshape(*records.shape, *coefficients.shape[1:]),
        counts=transform.counts.reshape(records.shape),
        bandwidth=transform.bandwidth,
    )


def series_segments(
    x: Signal | Tensor,
    dim: str | int,
    series: str | int,
    *,
    segment: int,
    hop: int | None = None,
    window: str | Tensor = "hann",
    detrend: Detrend = "constant",
    lengths: Tensor | None = None,
) -> SeriesSegments:
    """Return the Fourier coefficients of several series, sample by sample: what all their pairs are made of.

    Parameters
    ----------
    x, dim, segment, hop, window, detrend, lengths
        As in `resonance_lens.dsp.spectra.welch`.
    series
        The axis that counts the series: its name for a signal, its number for a tensor. The segments of all
        that x has along other axes (prompts, epochs) are the samples.

    Raises
    ------
    AxisError
        If the axis has no order, or the series are not along another axis of x.
    RecordError
        If a record is shorter than a segment, or two series have records of different lengths.
    """
    if isinstance(x, Signal):
        if not isinstance(series, str):
            raise AxisError(f"A signal's axis goes by its name, one of {', '.join(x.axes)}; got {series!r}.")
        at, along = x.dim(series), x.dim(str(dim))
    else:
        if isinstance(series, str) or not -x.ndim <= series < x.ndim:
            raise AxisError(f"A tensor of shape {tuple(x.shape)} has no dimension {series!r}.")
        at, along = series % x.ndim, int(dim) % x.ndim
    if at == along:
        raise AxisError(f"Series along {series!r} cannot be compared along the same axis.")
    found = fourier_segments(
        x, dim, segment=segment, hop=hop, window=window, detrend=detrend, lengths=lengths
    )
    at -= at > along
    counts = found.counts.movedim(at, 0)  # [series, ...]
    if not bool((counts == counts[0]).all()):
        raise RecordError("Series can be compared where their records have the same lengths; theirs differ.")
    coefficients = found.coefficients.movedim((-1, at), (0, -1)).flatten(1, -2)  # [frequency, sample, series]
    n_segments = found.coefficients.shape[-2]
    there = torch.arange(n_segments, device=counts.device) < counts[0].reshape(-1, 1)  # [record, segment]
    if not bool(there.all()):
        coefficients = coefficients[:, there.flatten()]
    return SeriesSegments(found.frequencies, coefficients.contiguous(), found.bandwidth)


@dataclass(frozen=True, eq=False)
class SegmentTransform:
    """How segments are cut, detrended, windowed and transformed.

    Attributes
    ----------
    segment, hop
        Positions of a segment, and from the start of one to that of the next.
    window
        ``[position]``: the weights.
    drift
        What detrending takes out; see `drift`.
    scale
        ``[frequency]``: makes the mean square of coefficients a one-sided density.
    counts
        Integers ``[record]``: segments of each record.
    bandwidth
        Equivalent noise bandwidth of the window, in cycles per token.
    """

    segment: int
    hop: int
    window: Tensor
    drift: Tensor
    scale: Tensor
    counts: Tensor
    bandwidth: float

    @staticmethod
    def of(
        records: Records, segment: int, hop: int | None, window: str | Tensor, detrend: Detrend
    ) -> SegmentTransform:
        """Return the transform of some records; see `resonance_lens.dsp.spectra.welch` for the parameters."""
        require_whole("a spectrum", "segment", segment, 2)
        hop = segment - segment // 2 if hop is None else hop
        require_whole("a spectrum", "hop", hop, 1)
        records.at_least(segment, "a spectrum of segments", unit=f"positions, as a segment has {segment},")
        weights = window_weights(window, segment).to(records.rows)
        total = weights.double().square().sum()
        sided = one_sided(segment, records.rows)
        return SegmentTransform(
            segment=segment,
            hop=hop,
            window=weights,
            drift=drift(segment, detrend, records.rows),
            scale=(sided / total.to(sided)).sqrt(),
            counts=(records.lengths - segment) // hop + 1,
            bandwidth=float(total / weights.double().sum() ** 2),
        )

    def frequencies(self, like: Tensor) -> Tensor:
        """Return the frequencies ``[frequency]`` in cycles per token, in the type of ``like``."""
        found: Tensor = torch.fft.rfftfreq(self.segment, device=like.device, dtype=like.dtype)
        return found

    def pieces(self, records: Records) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some records and how many segments each has, few enough to fit in the cache."""
        at_once = max(1, NUMBERS_AT_ONCE // self.segment)
        yield from zip(records.rows.split(at_once), self.counts.split(at_once), strict=True)

    def coefficients(self, segments: Tensor) -> Tensor:
        """Return the scaled coefficients ``[..., frequency]`` of segments ``[..., position]``."""
        left = segments - trend(segments, self.drift)
        if len(self.drift):
            left = torch.where(level(segments, left)[..., None], 0.0, left)
        made: Tensor = torch.fft.rfft(left * self.window)
        return made * self.scale


def window_weights(window: str | Tensor, n: int) -> Tensor:
    """Return the n weights of a window in float64: of a name (periodic, as for spectra), or those given.

    Raises
    ------
    ParameterError
        If there is no window of that name, or not one weight for each position.
    """
    if isinstance(window, str):
        return torch.from_numpy(_window(window, n).copy())
    if tuple(window.shape) != (n,):
        raise ParameterError(
            wrong_parameter("a spectrum", "window", f"a name or {n} weights", tuple(window.shape))
        )
    return window.double()


@functools.lru_cache(maxsize=64)
def _window(name: str, n: int) -> NDArray[np.float64]:
    try:
        return np.asarray(windows.get_window(name, n), dtype=np.float64)
    except ValueError as error:
        raise ParameterError(
            wrong_parameter("a spectrum", "window", "a name that scipy.signal.get_window knows", name)
        ) from error


def drift(n: int, detrend: Detrend, like: Tensor) -> Tensor:
    """Return an orthonormal basis ``[degree, position]`` of what detrending takes out."""
    require_choice("a spectrum", "detrend", detrend, DETREND)
    basis = torch.zeros(DETREND.index(detrend), n, dtype=torch.float64)
    if detrend != "none":
        basis[0] = n**-0.5
    if detrend == "linear":
        line = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        basis[1] = line / line.norm()
    return basis.to(like)


def trend(rows: Tensor, drift: Tensor) -> Tensor:
    """Return the part of rows ``[..., position]`` that lies in a basis."""
    if len(drift) == 1:
        return rows.mean(dim=-1, keepdim=True)  # exact for a constant
    return (rows @ drift.mT) @ drift


def level(rows: Tensor, left: Tensor) -> Tensor:
    """Return ``[...]``: whether what is left of rows without their trend is nothing but rounding."""
    return left.abs().amax(dim=-1) <= ROUNDING * torch.finfo(rows.dtype).eps * rows.abs().amax(dim=-1)


def one_sided(n: int, like: Tensor) -> Tensor:
    """Return 2 for frequencies that stand for their negative too, 1 for zero and for 0.5."""
    sided = torch.full((n // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    sided[0] = 1.0
    if n % 2 == 0:
        sided[-1] = 1.0
    return sided


def square(values: Tensor) -> Tensor:
    """Return the squared modulus of complex numbers."""
    return values.real.square() + values.imag.square()


def require_choice(owner: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise `ParameterError` unless a value is one of those known."""
    if value not in known:
        choices = ", ".join(repr(each) for each in known)
        raise ParameterError(wrong_parameter(owner, name, f"one of {choices}", value))


def require_whole(owner: str, name: str, value: Any, least: int) -> None:
    """Raise `ParameterError` unless a value is a whole number of at least so much."""
    if type(value) is not int or value < least:
        raise ParameterError(wrong_parameter(owner, name, f"a whole number, at least {least}", value))
