"""Bands of the discrete cosine transform along tokens: from document to word (Prism)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from resonance_lens.dsp.records import like, real_records
from resonance_lens.errors import ParameterError, RecordError, unknown
from resonance_lens.signal import Signal

X = TypeVar("X", Signal, Tensor)


@dataclass(frozen=True)
class Band:
    """A band of indices of the discrete cosine transform of `PRISM_TOKENS` tokens.

    Attributes
    ----------
    name
        ``low``, ``mid-low``, ``mid``, ``mid-high`` or ``high``.
    first, last
        Indices, both included, in records of `PRISM_TOKENS` tokens.
    """

    name: str
    first: int
    last: int

    @property
    def frequencies(self) -> tuple[float, float]:
        """Edges in cycles per token, half an index outside the band: bands tile 0 to 0.5.

        Index k of N tokens is the frequency ``k / (2 N)``, in records of any length.
        """
        low = (self.first - 0.5) / (2 * PRISM_TOKENS) if self.first else 0.0
        high = (self.last + 0.5) / (2 * PRISM_TOKENS) if self.last < PRISM_TOKENS - 1 else 0.5
        return low, high

    @property
    def periods(self) -> tuple[float, float]:
        """Shortest and longest wavelength in tokens, ``2 N / k``; infinite for index 0, the mean."""
        longest = 2 * PRISM_TOKENS / self.first if self.first else math.inf
        return 2 * PRISM_TOKENS / self.last, longest

    @property
    def nominal_periods(self) -> tuple[float, float]:
        """What the paper calls the periods of the band: ``N / (2 k)``, a fourth of the wavelength."""
        shortest, longest = self.periods
        return shortest / 4, longest / 4

    @property
    def label(self) -> str:
        """Both, for an axis: ``mid (31 to 114 tokens; nominal 7.8 to 28)``."""
        periods = [f"{p:.1f}" if p < 10 else f"{p:.0f}" for p in (*self.periods, *self.nominal_periods)]
        return "{} ({} to {} tokens; nominal {} to {})".format(self.name, *periods)

    def indices(self, n: int) -> tuple[int, int]:
        """Return the first index and the one after the last, in records of n positions."""
        return frequency_indices(*self.frequencies, n)


def frequency_indices(low: float, high: float, n: int) -> tuple[int, int]:
    """Return the first index from ``low`` on and the first from ``high`` on, in records of n positions.

    Parameters
    ----------
    low, high
        In cycles per token; an upper edge of 0.5 lets the last index in.
    n
        Positions. Index k is the frequency ``k / (2 n)``.
    """
    first = math.ceil(low * 2 * n)
    return first, n if high == 0.5 else max(first, math.ceil(high * 2 * n))


PRISM_TOKENS = 512
"""Tokens of the records that the bands are defined on."""

PRISM_BANDS = (
    Band("low", 0, 1),
    Band("mid-low", 2, 8),
    Band("mid", 9, 33),
    Band("mid-high", 34, 129),
    Band("high", 130, 511),
)
"""Bands from document to word, after Tamkin et al. (2020), "Language through a prism", arXiv 2011.04823."""


def dct(x: Signal | Tensor, dim: str | int, *, lengths: Tensor | None = None) -> Tensor:
    """Return the orthonormal discrete cosine transform (DCT-II) along an axis.

    Parameters
    ----------
    x, dim, lengths
        As in `resonance_lens.dsp.filters.band_pass`; records of one length.

    Returns
    -------
    Tensor
        ``[..., index]``, the index last, whatever the place of the axis was. Index k is the frequency
        ``k / (2 N)`` cycles per token; the sum of squares is that of the record.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If the records have different lengths: they then have no indices in common.

    Notes
    -----
    Equal to ``scipy.fft.dct(type=2, norm="ortho")``. Differentiable.
    """
    records = real_records(x, dim, "a cosine transform", lengths)
    return _dct(records.one_length("a cosine transform")).reshape(*records.shape, -1)


def dct_band(
    x: X, dim: str | int, band: Band | str | tuple[float, float], *, lengths: Tensor | None = None
) -> X:
    """Return the part of a signal that lies in one band of its cosine transform.

    Parameters
    ----------
    x, dim, lengths
        As in `resonance_lens.dsp.filters.band_pass`.
    band
        One of `PRISM_BANDS`, its name, or two edges in cycles per token, ``0 <= low < high <= 0.5``: indices
        from ``low`` on and below ``high``, so that ranges side by side share none. The mean is frequency 0;
        the highest index belongs to ranges up to 0.5.

    Returns
    -------
    Signal or Tensor
        As ``x``. The parts in all bands add up to the signal, and are orthogonal to each other.

    Raises
    ------
    AxisError
        If the axis has no order.
    ParameterError
        If there is no such band, or edges are not in order.
    RecordError
        If a record is too short to have an index in the band.

    Notes
    -----
    In a record of another length than `PRISM_TOKENS` a band holds the indices of the same wavelengths. In
    one of fewer than 341 positions ``low`` holds index 0 alone: the mean.
    """
    name = f"{band[0]:g} to {band[1]:g}" if isinstance(band, tuple) else prism_band(band).name
    low, high = band if isinstance(band, tuple) else prism_band(band).frequencies
    if not 0 <= low < high <= 0.5:
        raise ParameterError(
            f"A band needs edges 0 <= low < high <= 0.5 in cycles per token; got {low!r} and {high!r}."
        )
    records = real_records(x, dim, "a band of the cosine transform", lengths)
    for n in sorted(set(records.lengths.tolist())):
        first, stop = frequency_indices(low, high, n)
        if first >= stop:
            # Indices 1 / (2 m) apart cannot miss the band from some m on.
            enough = math.ceil(1 / (2 * (high - low))) + 1
            needed = next(m for m in range(n + 1, enough + 1) if len(range(*frequency_indices(low, high, m))))
            longest = f"{1 / low:.3g}" if low else "inf"
            raise RecordError(
                f"Records of {n} positions have no index in the band {name!r} (periods of "
                f"{1 / high:.3g} to {longest} tokens); {needed} positions would do."
            )

    def part(rows: Tensor) -> Tensor:
        first, stop = frequency_indices(low, high, rows.shape[1])
        index = torch.arange(rows.shape[1], device=rows.device)
        return _inverse_dct(_dct(rows) * ((index >= first) & (index < stop)))

    return like(x, dim, records.each(part))  # type: ignore[return-value]


def dct_band_shares(
    x: Signal | Tensor, dim: str | int, *, mean: bool = False, lengths: Tensor | None = None
) -> Tensor:
    """Return how the power of a signal divides among `PRISM_BANDS`.

    Parameters
    ----------
    x, dim, lengths
        As in `resonance_lens.dsp.filters.band_pass`.
    mean
        Whether index 0, the mean of the record, counts. It often holds most of the power.

    Returns
    -------
    Tensor
        ``[..., 5]`` in [0, 1], low first; they add up to 1. Not-a-number for a band that has no index in
        a record of its length, and for all bands of a record without power (a constant one).

    Raises
    ------
    AxisError
        If the axis has no order.
    """
    records = real_records(x, dim, "a cosine transform", lengths)

    def shares(rows: Tensor) -> Tensor:
        n = rows.shape[1]
        # The mean taken out beforehand leaves no rounding error of a large one in the other indices.
        power = _dct(rows if mean else rows - rows.mean(dim=1, keepdim=True)) ** 2
        power = power if mean else power[:, 1:]
        skipped = 0 if mean else 1
        parts = []
        for band in PRISM_BANDS:
            first, stop = (max(index - skipped, 0) for index in band.indices(n))
            inside = power[:, first:stop].sum(dim=1)
            parts.append(inside if stop > first else torch.full_like(inside, torch.nan))
        found = torch.stack(parts, dim=1)
        total = power.sum(dim=1, keepdim=True)
        # A constant leaves the rounding error of its mean.
        least = n * (torch.finfo(rows.dtype).eps * rows.abs().amax(dim=1, keepdim=True)) ** 2
        return torch.where(total > least, found / total.clamp_min(torch.finfo(rows.dtype).tiny), torch.nan)

    return records.summary(shares)


def prism_band(band: Band | str) -> Band:
    """Return a band by its name; raise `ParameterError` if there is none of that name."""
    if isinstance(band, Band):
        return band
    for known in PRISM_BANDS:
        if known.name == band:
            return known
    raise ParameterError(unknown("band", band, [known.name for known in PRISM_BANDS]))


def _dct(rows: Tensor) -> Tensor:
    """Return the DCT-II of rows by one Fourier transform of the same length (Makhoul 1980)."""
    n = rows.shape[1]
    order = torch.cat([rows[:, ::2], rows[:, 1::2].flip(1)], dim=1)
    spectrum: Tensor = torch.fft.fft(order) * _turns(n, rows)
    return spectrum.real * _dct_scale(n, rows)


def _inverse_dct(rows: Tensor) -> Tensor:
    n = rows.shape[1]
    values = rows / _dct_scale(n, rows)
    mirrored = torch.cat([torch.zeros_like(values[:, :1]), values[:, 1:].flip(1)], dim=1)
    order: Tensor = torch.fft.ifft(torch.complex(values, -mirrored) * _turns(n, rows).conj()).real
    at = torch.arange(n, device=rows.device)
    return order[:, torch.where(at % 2 == 0, at // 2, n - 1 - at // 2)]


def _turns(n: int, rows: Tensor) -> Tensor:
    angle = -math.pi * torch.arange(n, device=rows.device, dtype=torch.float64) / (2 * n)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex(rows[:0], rows[:0]).dtype)


def _dct_scale(n: int, rows: Tensor) -> Tensor:
    scale = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64, device=rows.device)
    scale[0] = math.sqrt(1 / n)
    return scale.to(rows.dtype)
