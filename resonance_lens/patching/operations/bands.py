"""Interventions on a band along tokens: take it out, keep it alone, or take it from the other run.

What a band of a record is depends on the method:

============  ====================================================================  ===========
method        bands                                                                 looks ahead
============  ====================================================================  ===========
``dct``       of the cosine transform: ``low`` ... ``high`` (Prism), ``0.1-0.25``    yes
``wavelet``   scales of db2: ``level2``, ``approximation3``                          yes
``causal``    Butterworth filters of order 4: ``low`` ... ``high``, ``0.1-0.25``     no
============  ====================================================================  ===========

A wavelet goes on beyond the ends of a record by its mirror image, so that there parts of scales are not at
right angles, though they add up. All methods are linear along tokens and the same for every feature: a band
is a matrix over the tokens of a record, and it makes no difference whether the features are mixed before or
after, as by the output matrix of a head.

Frequencies are in cycles per token; a range holds its lower edge and not its upper one, but for 0.5. The mean
of the record is frequency 0: it is in ``low``, in ranges from 0 and in an approximation, and in nothing else.
Prism's ``low`` is the mean alone in records of up to 341 tokens. Level j of a wavelet holds periods of
about 2^j to 2^(j + 1) tokens, and the approximation of level j what is slower. A causal filter starts at
rest, and its output comes late by its group delay: what is left after taking it out is the record less the
late band, and not a band-stop.

Examples
--------
>>> import torch
>>> from resonance_lens.patching.operations.bands import band_matrix
>>> band_matrix("low", "dct", 4)  # the mean
tensor([[0.2500, 0.2500, 0.2500, 0.2500],
        [0.2500, 0.2500, 0.2500, 0.2500],
        [0.2500, 0.2500, 0.2500, 0.2500],
        [0.2500, 0.2500, 0.2500, 0.2500]], dtype=torch.float64)
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import parameter
from resonance_lens.dsp.causal import butterworth_kernel, causal_filter
from resonance_lens.dsp.cosine import PRISM_BANDS, dct_band
from resonance_lens.dsp.filters import require_resolved
from resonance_lens.dsp.wavelets import shortest_record
from resonance_lens.errors import ParameterError, RecordError, nearest
from resonance_lens.patching.operations.base import TOKEN_SITES, Operation, Scene, operation

METHODS = ("dct", "wavelet", "causal")
WAVELET = "db2"

Edges = tuple[float, float]

_PRISM: dict[str, Edges] = {band.name: band.frequencies for band in PRISM_BANDS}
_NUMBER = r"\d*\.?\d+"
_RANGE = re.compile(f"({_NUMBER})-({_NUMBER})")
_SCALE = re.compile(r"(level|approximation)([1-9]\d?)")


def frequency_bands(band: str) -> tuple[Edges, ...]:
    """Return the edges of the bands that a text names, the lowest first.

    Parameters
    ----------
    band
        Names of Prism bands and ranges in cycles per token, joined by ``+``: ``low``, ``mid+mid-high``,
        ``0.1-0.25``.

    Raises
    ------
    ParameterError
        If there is no such band, edges are not in order, or bands overlap.
    """
    found = []
    for part in band.split("+"):
        numbers = _RANGE.fullmatch(part)
        if part not in _PRISM and numbers is None:
            raise ParameterError(
                f"There is no band {part!r} along tokens: bands are none, all, {', '.join(_PRISM)}, or a "
                f"range in cycles per token such as 0.1-0.25, joined by '+'.{nearest(part, _PRISM)}"
            )
        low, high = _PRISM[part] if numbers is None else (float(numbers[1]), float(numbers[2]))
        if not low < high <= 0.5:
            raise ParameterError(
                f"A band needs edges 0 <= low < high <= 0.5 in cycles per token; got {part!r}."
            )
        found.append((low, high))
    found.sort()
    for (_, high), (low, _) in zip(found, found[1:], strict=False):
        if low < high:
            raise ParameterError(f"The bands of {band!r} overlap, and would count twice; name each once.")
    return tuple(found)


def wavelet_scales(band: str) -> tuple[tuple[int, ...], int | None]:
    """Return the levels that a text names, and that of the approximation or ``None``.

    Parameters
    ----------
    band
        Scales joined by ``+``: ``level1``, ``level1+level2``, ``level3+approximation3``.

    Raises
    ------
    ParameterError
        If there is no such scale, or scales overlap.
    """
    levels: list[int] = []
    approximations: list[int] = []
    for part in band.split("+"):
        scale = _SCALE.fullmatch(part)
        if scale is None:
            raise ParameterError(
                f"There is no scale {part!r} of a wavelet: scales are none, all, level1, level2, ..., "
                "approximation1, approximation2, ..., joined by '+'."
            )
        (levels if scale[1] == "level" else approximations).append(int(scale[2]))
    beyond = approximations and any(level > min(approximations) for level in levels)
    if len(set(levels)) < len(levels) or len(approximations) > 1 or beyond:
        raise ParameterError(f"The scales of {band!r} overlap, and would count twice; name each once.")
    return tuple(sorted(levels)), approximations[0] if approximations else None


@functools.lru_cache(maxsize=64)
def band_matrix(band: str, method: str, n: int) -> Tensor:
    """Return the matrix that takes a band out of a record.

    Parameters
    ----------
    band
        ``none``, ``all``, or as in `frequency_bands` and `wavelet_scales`.
    method
        One of `METHODS`.
    n
        Tokens of the record.

    Returns
    -------
    Tensor
        float64 ``[n, n]``, from token (second axis) to token (first); do not change it. Below the diagonal
        and on it alone for ``causal``.

    Raises
    ------
    ParameterError
        If there is no such band.
    RecordError
        If a record of so many tokens cannot resolve the band.
    """
    identity = torch.eye(n, dtype=torch.float64)
    if band in ("none", "all"):
        return identity if band == "all" else torch.zeros_like(identity)
    if method == "wavelet":
        return _wavelet_matrix(band, n)
    if method == "dct":
        parts = [dct_band(identity, 1, _named(edges)) for edges in frequency_bands(band)]
        return torch.stack(parts).sum(0).T
    out = torch.zeros_like(identity)
    for low, high in _merged(frequency_bands(band)):
        if (low, high) == (0.0, 0.5):
            return identity
        require_resolved(n, low, high)
        out += causal_filter(identity, 1, butterworth_kernel(low, high, n)).T
    return out


def _named(edges: Edges) -> str | Edges:
    """Return the name of a Prism band for its edges, for the messages."""
    return next((name for name, known in _PRISM.items() if known == edges), edges)


def _merged(bands: tuple[Edges, ...]) -> tuple[Edges, ...]:
    """Return bands with those that touch made one."""
    found = [bands[0]]
    for low, high in bands[1:]:
        if low == found[-1][1]:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return tuple(found)


def _wavelet_matrix(band: str, n: int) -> Tensor:
    import pywt

    levels, approximation = wavelet_scales(band)
    depth = approximation or max(levels)
    needed = shortest_record(depth, WAVELET)
    if n < needed:
        raise RecordError(
            f"A wavelet transform with {WAVELET} to level {depth} needs records of at least {needed} "
            f"positions; one has {n}."
        )
    # The parts of a record in each scale, the slowest first; they add up to the record.
    identity = torch.eye(n, dtype=torch.float64).numpy()
    parts = pywt.mra(identity, WAVELET, level=depth, axis=-1, transform="dwt", mode="symmetric")
    chosen = [parts[depth + 1 - level] for level in levels] + ([] if approximation is None else [parts[0]])
    return torch.from_numpy(sum(chosen)).T


@dataclass(frozen=True, kw_only=True)
class _OfBand(Operation):
    """What the operations on a band have in common: `matrix`, and records of one length."""

    sites: ClassVar[tuple[str, ...]] = TOKEN_SITES

    band: str = parameter(
        "high",
        help="along tokens: none, all, low, mid-low, mid, mid-high, high, a range such as 0.1-0.25 in cycles "
        "per token, or level2, approximation3 of a wavelet; several joined by '+'",
    )
    method: str = parameter("dct", choices=METHODS, help="what a band is a part of")
    first_position: str = parameter(
        "keep", choices=("keep", "edit"), help="leave the first position alone, or make it part of the record"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.band not in ("none", "all"):
            (wavelet_scales if self.method == "wavelet" else frequency_bands)(self.band)

    @property
    def looks_ahead(self) -> bool:
        """All methods but the causal one see whole records."""
        return self.method != "causal" and self.band not in ("none", "all")

    def taken(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the part of real values in the band, zero elsewhere: float64, shaped like the values."""
        out = torch.zeros_like(values, dtype=torch.float64)
        for rows, tokens in scene.records(self.first_position):
            record = values[rows, tokens].double()  # [row, token, feature]
            matrix = band_matrix(self.band, self.method, record.shape[1])
            out[rows, tokens] = matrix.to(values.device) @ record
        return out

    def at(self, values: Tensor, scene: Scene) -> Tensor:
        """Return booleans ``[row, token, 1]``: the tokens of records."""
        return scene.mask(values, self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class RemoveBand(_OfBand):
    """Take a band along tokens out, and keep the rest."""

    name: ClassVar[str] = "remove_band"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values less their band; see `Operation.edit`."""
        self.require(values, scene)
        rest = values.double() - self.taken(values, scene)
        return torch.where(self.at(values, scene), rest.to(values.dtype), values)

    def complement(self) -> Operation | None:
        """Return the operation that keeps the band and takes out the rest."""
        return KeepBand(band=self.band, method=self.method, first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class KeepBand(_OfBand):
    """Keep a band along tokens, and take the rest out."""

    name: ClassVar[str] = "keep_band"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the band of the values; see `Operation.edit`."""
        self.require(values, scene)
        kept = self.taken(values, scene)
        return torch.where(self.at(values, scene), kept.to(values.dtype), values)

    def complement(self) -> Operation:
        """Return the operation that takes the band out."""
        return RemoveBand(band=self.band, method=self.method, first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class SwapBand(_OfBand):
    """Take a band along tokens from the other run, and keep the rest of this one."""

    name: ClassVar[str] = "swap_band"
    donor: ClassVar[bool] = True

    rest: bool = parameter(False, help="swap everything but the band")

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values with the donor's band; see `Operation.edit`."""
        self.require(values, scene)
        assert scene.donor is not None
        # The band of a difference: what both runs have in common is not rounded.
        change = scene.donor.to(values.device).double() - values.double()
        change = torch.where(self.at(values, scene), change, 0.0)
        band = self.taken(change, scene)
        swapped = values.double() + (change - band if self.rest else band)
        return torch.where(self.at(values, scene), swapped.to(values.dtype), values)

    def complement(self) -> Operation:
        """Return the swap of everything but what this one swaps."""
        return replace(self, rest=not self.rest)
