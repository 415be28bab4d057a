"""One ordered series for each head, along tokens, and its spectra in segments that all prompts share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from resonance_lens.dsp.circular import SMALLEST_RESULTANT
from resonance_lens.errors import RecordError
from resonance_lens.signal import Signal

Kind = Literal["projection", "norm"]

SEGMENTS = 6
"""Segments of a record that are read: what is kept of their pairs must not grow with the record."""

ENOUGH = 4
"""Segments that the shortest record should have, if that leaves them `LONG_ENOUGH`."""

SHORTEST, LONG_ENOUGH, LONGEST = 8, 16, 64
"""Positions of a segment whose length is chosen, powers of two."""

BINS = ((2, 3), (4, 6), (8, 10, 12, 14))
"""Frequencies that are read of an octave, in cycles of its window: of the lowest, the next, and all others.
Under a Hann window neighbours know nearly the same, and no wave falls between two that are two apart."""


def head_series(z: Signal, kind: Kind, draw: int, directions: Callable[[], Tensor]) -> Tensor:
    """Return one number for each token and head, calculated once for all analyses of a pass.

    Parameters
    ----------
    z
        What the heads of one layer read: axes ``batch, token, head, d_head``.
    kind
        ``projection``: onto a direction of the head's own. ``norm``: the Euclidean norm.
    draw
        Which directions they are; part of the name of the computation.
    directions
        Returns unit vectors ``[head, d_head]``, if they are needed.

    Returns
    -------
    Tensor
        ``[batch, token, head]``, zero in the padding.
    """

    def compute(signal: Signal) -> Tensor:
        if kind == "norm":
            norm: Tensor = torch.linalg.vector_norm(signal.values, dim=-1)
            return norm
        return torch.einsum("bthd,hd->bth", signal.values, directions().to(signal.values))

    return z.memo(("head series", kind, draw), compute)


@dataclass(frozen=True)
class Segments:
    """Where the segments of a run stand, and the frequencies that are read of them.

    Attributes
    ----------
    length
        Positions of a segment, a power of two of at least 8: the longest window.
    starts
        Where they begin, counted from the prompt's first position, which is left out: 1 is the first start.
    """

    length: int
    starts: tuple[int, ...]

    @staticmethod
    def of(shortest: int, longest: int, length: int = 0) -> Segments:
        """Return the segments of prompts of some lengths; all but how many there are is set by the shortest.

        Parameters
        ----------
        shortest, longest
            Tokens of the shortest prompt of a run, and of the longest one that is looked at.
        length
            Positions of a segment. 0: the largest power of two of which four segments, overlapping by
            half, fit into the shortest prompt; up to 64; 16 if that leaves room for two; 8 at least.

        Raises
        ------
        RecordError
            If two segments, overlapping by five eighths, do not fit into the shortest prompt.
        """
        free = shortest - 1
        if length == 0:
            length = SHORTEST
            while length < LONGEST and free >= length * (ENOUGH + 1):  # four of twice that
                length *= 2
            if shortest >= Segments.least(LONG_ENOUGH):
                length = max(length, LONG_ENOUGH)
        if shortest < Segments.least(length):
            raise RecordError(
                f"Two segments of {length} positions need prompts of {Segments.least(length)} tokens; the "
                f"shortest has {shortest}."
            )
        hop = max(min(length // 2, free - length), (free - length) // (SEGMENTS - 1))
        fit = (longest - 1 - length) // hop + 1
        return Segments(length, tuple(1 + hop * index for index in range(min(SEGMENTS, fit))))

    @staticmethod
    def least(length: int) -> int:
        """Return the tokens of the shortest prompt that holds two segments, beside its first position."""
        return 1 + length + length * 3 // 8

    @cached_property
    def bands(self) -> tuple[tuple[int, ...], ...]:
        """The frequencies that are read of each octave, the lowest first, in cycles of its window.

        Octaves go from two cycles of a segment up to 0.5 cycles per token.
        """
        n_bands = int(math.log2(self.length)) - 2
        return tuple(BINS[min(band, len(BINS) - 1)] for band in range(n_bands))

    @property
    def windows(self) -> tuple[int, ...]:
        """Positions of the window of each octave, which stands in the middle of the segment.

        It holds eight to sixteen cycles, so that a wave anywhere in an octave is seen alike. Only the lowest
        two octaves have no longer window than the next one, and are seen less sharply.
        """
        return tuple(self.length >> max(band - len(BINS) + 1, 0) for band in range(len(self.bands)))

    @property
    def edges(self) -> tuple[tuple[float, float], ...]:
        """Lower and upper edge of each band, in cycles per token."""
        return tuple((2 ** (k + 1) / self.length, 2 ** (k + 2) / self.length) for k in range(len(self.bands)))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of segments, those among the first k segments first, for every k."""
        return tuple((one, other) for other in range(len(self.starts)) for one in range(other))

    def reached(self, lengths: Tensor) -> Tensor:
        """Return booleans ``[batch, segment]``: which segments lie in prompts of these lengths."""
        starts = torch.tensor(self.starts, device=lengths.device)
        return starts + self.length <= lengths[:, None]

    def spectra(self, series: Tensor, level: Tensor | float = 0.0) -> Tensor:
        """Return the spectra of segments, the mean of each window taken away, under a periodic Hann window.

        Parameters
        ----------
        series
            Real ``[..., token]``.
        level
            What was taken away from it before, ``[..., 1]``: it has left a rounding error.

        Returns
        -------
        Tensor
            Complex ``[..., segment, bin]``, the bins of all bands one after another, lowest first. Exactly
            zero where it is the rounding error of a constant.
        """
        found = []
        for size, bins in zip(self.windows, self.bands, strict=True):
            skipped = (self.length - size) // 2
            starts = [start + skipped for start in self.starts]
            pieces = torch.stack([series[..., at : at + size] for at in starts], dim=-2)
            window = torch.hann_window(size, dtype=series.dtype, device=series.device)
            spectrum = torch.fft.rfft((pieces - pieces.mean(-1, keepdim=True)) * window)[..., list(bins)]
            whole = pieces.square().sum(-1) + size * torch.as_tensor(level).square()
            smallest = SMALLEST_RESULTANT**2 * whole[..., None]
            found.append(spectrum * (power(spectrum) > smallest))
        return torch.cat(found, dim=-1)


def power(values: Tensor) -> Tensor:
    """Return the squared modulus of complex numbers: five times as fast as squaring ``abs``, a safe root."""
    return torch.view_as_real(values).square().sum(-1)
