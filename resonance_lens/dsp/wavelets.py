"""Discrete wavelet transforms along an ordered axis, and the energy and entropy of their scales.

The transforms are those of PyWavelets. On the CPU, where no gradient is wanted, it does them; on a GPU, or
for a gradient, records are multiplied with a matrix that it made once, from an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from resonance_lens.dsp.records import Records, real_records
from resonance_lens.errors import ParameterError, RecordError, unknown, wrong_parameter
from resonance_lens.signal import Signal

MODES: dict[str, str] = {
    "symmetric": "mirrored at its edge, which is repeated",
    "reflect": "mirrored at its edge, which is not repeated",
    "periodic": "repeated as a whole",
    "periodization": "repeated as a whole, with the fewest coefficients: the only one that keeps energy",
    "zero": "followed and preceded by zeros",
    "constant": "continued with its first and last value",
}
"""How a record goes on beyond its edges, for filters that reach over them."""

SMALLEST_SHARE = 1e-10
"""A scale with less of the energy than this holds rounding errors of float32, and has no entropy."""

CACHE_BYTES = 2**26
"""How much is kept of matrices and responses that transforms are made with."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The wavelet coefficients of records, by scale.

    Attributes
    ----------
    details
        One tensor ``[*shape, place]`` for each level, the finest first: level j holds periods of about
        ``2^j`` to ``2^(j + 1)`` tokens. Beyond the places of a record there are zeros.
    approximation
        ``[*shape, place]``: what is slower than the last level, the mean included.
    wavelet, mode
        What they were made with; see `MODES`.
    """

    details: tuple[Tensor, ...]
    approximation: Tensor
    wavelet: str
    mode: str

    @property
    def level(self) -> int:
        """How many levels there are."""
        return len(self.details)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """The details, finest first, then the approximation."""
        return (*self.details, self.approximation)

    @property
    def periods(self) -> tuple[tuple[float, float], ...]:
        """Shortest and longest period of each level in tokens; filters overlap, so it is a label."""
        return tuple((2.0**j, 2.0 ** (j + 1)) for j in range(1, self.level + 1))

    def energy(self) -> Tensor:
        """Return the sum of squares of each scale, ``[*shape, level + 1]``, the approximation last.

        The scales add up to the sum of squares of the record for an orthogonal wavelet with
        ``mode="periodization"`` and a length that is a multiple of ``2^level``, and for `swt` with
        ``mode="periodic"``. Otherwise edges count more than once.
        """
        return self._energy

    def shares(self) -> Tensor:
        """Return the share of each scale in the energy, ``[*shape, level + 1]``; not-a-number for zeros."""
        energy = self.energy()
        return energy / energy.sum(-1, keepdim=True)

    def scale_entropy(self) -> Tensor:
        """Return the wavelet entropy of each scale, ``[*shape, level + 1]`` in nat.

        ``-sum_k p_k ln p_k`` with ``p_k = c_k^2 / sum c^2`` over the coefficients of the scale: 0 where one
        of them holds all, ``ln K`` where all K are alike. Not-a-number for a scale with less than
        `SMALLEST_SHARE` of the energy.
        """
        energy, weighted = self._energy, self._weighted
        tiny = torch.finfo(energy.dtype).tiny
        found = energy.clamp_min(tiny).log() - weighted / energy.clamp_min(tiny)
        return torch.where(energy > SMALLEST_SHARE * energy.sum(-1, keepdim=True), found, torch.nan)

    def entropy(self) -> Tensor:
        """Return the wavelet entropy over all coefficients of a record, ``[*shape]`` in nat.

        Normalised over the whole record, it is the entropy of the shares of the scales plus the mean of the
        entropies of the scales, weighted with their shares. Not-a-number for a record of zeros.
        """
        energy, weighted = self._energy.sum(-1), self._weighted.sum(-1)
        tiny = torch.finfo(energy.dtype).tiny
        found = energy.clamp_min(tiny).log() - weighted / energy.clamp_min(tiny)
        return torch.where(energy > 0, found, torch.nan)

    @cached_property
    def _squares(self) -> list[Tensor]:
        """The squares of the coefficients of each scale."""
        return [scale.square() for scale in self.scales]

    @cached_property
    def _energy(self) -> Tensor:
        """The sum of ``c^2`` over each scale."""
        return torch.stack([square.sum(-1) for square in self._squares], dim=-1)

    @cached_property
    def _weighted(self) -> Tensor:
        """The sum of ``c^2 ln c^2`` over each scale."""
        tiny = torch.finfo(self.approximation.dtype).tiny
        return torch.stack(
            [torch.linalg.vecdot(square, square.clamp_min(tiny).log()) for square in self._squares], dim=-1
        )


def max_level(n: int, wavelet: str = "db2") -> int:
    """Return the deepest level of a record of n positions: ``floor(log2(n / (filter length - 1)))``.

    Beyond it a coefficient depends on the edges more than on the record (`pywt.dwt_max_level`).

    Raises
    ------
    ParameterError
        If there is no such wavelet.
    """
    longest = n // (_filter_length(wavelet) - 1)
    return max(0, longest.bit_length() - 1)


def shortest_record(level: int, wavelet: str = "db2") -> int:
    """Return how many positions a record needs for a level."""
    return int((_filter_length(wavelet) - 1) * 2**level)


def dwt(
    x: Signal | Tensor,
    dim: str | int = "token",
    *,
    wavelet: str = "db2",
    level: int | None = None,
    mode: str = "symmetric",
    lengths: Tensor | None = None,
) -> Coefficients:
    """Return the discrete wavelet transform of records along an axis that has an order.

    Parameters
    ----------
    x, dim, lengths
        A signal and the name of its axis, or a tensor and its dimension, with the lengths of its records.
        Records of unequal length are cut to their own.
    wavelet
        A discrete wavelet of PyWavelets: ``db2``, ``haar``, ``sym4``, ``bior2.2``.
    level
        How many times the approximation is split; ``None`` for the deepest of the shortest record, so
        that all records have the same scales.
    mode
        One of `MODES`.

    Returns
    -------
    Coefficients
        Axes as those of x without the axis, places last. In the precision of x.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If a record is too short for the level.
    ParameterError
        If there is no such wavelet or mode.

    Notes
    -----
    Equal to `pywt.wavedec` (1e-10 in float64). The matrix of a record of n positions takes ``8 n^2`` bytes.
    """
    records = real_records(x, dim, "a wavelet transform", lengths)
    depth = _depth(records, wavelet, level, mode)
    return _by_length(records, depth, wavelet, mode, _dwt)


def swt(
    x: Signal | Tensor,
    dim: str | int = "token",
    *,
    wavelet: str = "db2",
    level: int | None = None,
    mode: str = "symmetric",
    lengths: Tensor | None = None,
) -> Coefficients:
    """Return the stationary (undecimated) wavelet transform: one coefficient for each position and scale.

    A record that is shifted has shifted coefficients, which is not so for `dwt`. Filters are scaled so that
    with ``mode="periodic"`` and an orthogonal wavelet the scales add up to the energy of the record.

    Parameters
    ----------
    x, dim, wavelet, level, lengths
        As in `dwt`.
    mode
        One of `MODES`; ``periodization`` is ``periodic``. The record is continued so on both sides, as far
        as the longest filter reaches, transformed, and cut again, so it may be of any length.

    Returns
    -------
    Coefficients
        Each scale as long as the records.

    Raises
    ------
    AxisError, RecordError, ParameterError
        As in `dwt`.

    Notes
    -----
    Equal to `pywt.swt` with ``norm=True, trim_approx=True`` of the record continued. The transform is the
    same at every position, so it is done as a product of spectra with the response to one impulse.
    """
    records = real_records(x, dim, "a stationary wavelet transform", lengths)
    depth = _depth(records, wavelet, level, mode)
    return _by_length(records, depth, wavelet, mode, _swt)


# ------------------------------------------------------------------------- one length at a time


Transform = Callable[[Tensor, int, str, str], tuple[Tensor, ...]]


def _by_length(records: Records, level: int, wavelet: str, mode: str, transform: Transform) -> Coefficients:
    """Return the coefficients of all records, those of each length made together."""
    if records.equal:
        values = records.rows[:, : int(records.lengths[0])]
        found = [scale.reshape(*records.shape, -1) for scale in transform(values, level, wavelet, mode)]
    else:
        made = [(which, transform(values, level, wavelet, mode)) for which, values in records.by_length()]
        found = []
        for index in range(level + 1):
            widest = max(scales[index].shape[-1] for _, scales in made)
            out = records.rows.new_zeros(len(records.rows), widest)
            for which, scales in made:
                out[which, : scales[index].shape[-1]] = scales[index]
            found.append(out.reshape(*records.shape, -1))
    return Coefficients(tuple(found[:-1]), found[-1], wavelet, mode)


def _dwt(values: Tensor, level: int, wavelet: str, mode: str) -> tuple[Tensor, ...]:
    """Return the scales of records of one length, the finest first."""
    import pywt

    if values.device.type == "cpu" and not (values.requires_grad and torch.is_grad_enabled()):
        array = np.ascontiguousarray(values.detach().numpy())
        made = pywt.wavedec(array, wavelet, mode=mode, level=level, axis=-1)
        return tuple(torch.from_numpy(scale) for scale in made[::-1])
    matrix, sizes = _matrix(values.shape[-1], level, wavelet, mode, values)
    scales: tuple[Tensor, ...] = (values @ matrix).split(sizes, dim=-1)
    return scales


def _swt(values: Tensor, level: int, wavelet: str, mode: str) -> tuple[Tensor, ...]:
    """Return the scales of records of one length, the finest first."""
    n = values.shape[-1]
    reach = (_filter_length(wavelet) - 1) * (2**level - 1)
    width = -(-(n + 2 * reach) // 2**level) * 2**level
    # Continued by the reach to the left, and to a whole number of blocks to the right.
    places = _places(n, reach, width - n - reach, mode).to(values.device)
    longer = values[:, places.clamp_min(0)] * (places >= 0)
    responses = _responses(width, level, wavelet, values)  # [scale, frequency]
    spectrum = torch.fft.rfft(longer)  # [record, frequency]
    return tuple(torch.fft.irfft(spectrum * each, n=width)[:, reach : reach + n] for each in responses)


def _places(n: int, before: int, after: int, mode: str) -> Tensor:
    """Return which position stands where when a record of n is continued; -1 for a zero."""
    at = torch.arange(-before, n + after)
    if mode == "zero":
        return torch.where((at >= 0) & (at < n), at, -1)
    if mode == "constant":
        return at.clamp(0, n - 1)
    if mode in ("periodic", "periodization"):
        return at.remainder(n)
    # symmetric: the edge is there twice; reflect: once.
    last = 2 * n - 1 if mode == "symmetric" else 2 * (n - 1)
    folded = at.remainder(2 * n if mode == "symmetric" else 2 * (n - 1))
    return torch.minimum(folded, last - folded)


# ---------------------------------------------------------------- what is made once by PyWavelets

_cache: dict[object, Tensor] = {}


def _matrix(n: int, level: int, wavelet: str, mode: str, like: Tensor) -> tuple[Tensor, list[int]]:
    """Return ``[n, coefficient]``, the transform of an identity, and how many coefficients a scale has."""
    import pywt

    sizes = []
    size, taps = n, _filter_length(wavelet)
    for _ in range(level):
        size = pywt.dwt_coeff_len(size, taps, mode)
        sizes.append(size)

    def make() -> Tensor:
        scales: Sequence[np.ndarray] = pywt.wavedec(np.eye(n), wavelet, mode=mode, level=level, axis=-1)
        return torch.from_numpy(np.concatenate(scales[::-1], axis=-1))

    key = ("dwt", n, level, wavelet, mode, like.dtype, like.device)
    return _kept(key, make, like), [*sizes, size]


def _responses(width: int, level: int, wavelet: str, like: Tensor) -> Tensor:
    """Return ``[scale, frequency]``: the spectrum of what each scale makes of an impulse at position 0."""
    import pywt

    def make() -> Tensor:
        impulse = np.zeros(width)
        impulse[0] = 1.0
        scales = pywt.swt(impulse, wavelet, level=level, trim_approx=True, norm=True)
        responses: Tensor = torch.fft.rfft(torch.from_numpy(np.stack(scales[::-1])))
        return responses

    key = ("swt", width, level, wavelet, like.dtype, like.device)
    return _kept(key, make, like)


def _kept(key: object, make: Callable[[], Tensor], like: Tensor) -> Tensor:
    """Return what ``make`` makes, on the device and in the precision of a tensor; made once while kept."""
    if key not in _cache:
        made = make()
        dtype = like.dtype.to_complex() if made.is_complex() else like.dtype
        made = made.to(like.device, dtype)
        size = made.nbytes
        while _cache and size + sum(each.nbytes for each in _cache.values()) > CACHE_BYTES:
            _cache.pop(next(iter(_cache)))
        _cache[key] = made
    return _cache[key]


@lru_cache(maxsize=32)
def _filter_length(wavelet: str) -> int:
    """Return the number of taps of a wavelet's filters; raise `ParameterError` if there is none."""
    import pywt

    known = pywt.wavelist(kind="discrete")
    if wavelet not in known and wavelet != "haar":
        raise ParameterError(unknown("wavelet", str(wavelet), known))
    return int(pywt.Wavelet(wavelet).dec_len)


def _depth(records: Records, wavelet: str, level: int | None, mode: str) -> int:
    """Return the level to go to, having looked whether the records are long enough for it."""
    if mode not in MODES:
        raise ParameterError(unknown("mode", str(mode), MODES))
    if level is not None and (type(level) is not int or level < 1):
        raise ParameterError(
            wrong_parameter("a wavelet transform", "level", "a whole number above zero", level)
        )
    shortest = int(records.lengths.min())
    depth = max_level(shortest, wavelet) if level is None else level
    needed = shortest_record(max(1, depth), wavelet)
    if shortest < needed:
        raise RecordError(
            f"A wavelet transform with {wavelet} to level {max(1, depth)} needs records of at least {needed} "
            f"positions; the shortest has {shortest}."
        )
    return depth
