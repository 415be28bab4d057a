"""Series that keep some of what a series has and lose the rest: draws of a null for series along tokens.

====================  =========================================  =====================================
surrogate             keeps                                      loses
====================  =========================================  =====================================
`circular_shift`      values, spectrum, but for the seam         where it stands beside other series
`phase_randomised`    spectrum; with ``together`` also           values (they become normal), anything
                      cross-spectra between series               that is not in second moments
`iaaft`               values, and the spectrum nearly            the same, but for the values
====================  =========================================  =====================================

Never on attention: a row of it is a share of one over the keys that exist, and none of these keeps that.
For attention see `resonance_lens.dsp.surrogates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.records import Records, real_records
from resonance_lens.errors import AxisError, ParameterError, RecordError, wrong_parameter
from resonance_lens.signal import Signal

Generators = np.random.Generator | Sequence[np.random.Generator]
"""One generator for everything, or one for each index of the first axis (each prompt): then what is drawn
for a prompt does not depend on what stands beside it."""

Draw = Callable[[Tensor, np.random.Generator, Tensor, int], Tensor]
"""From rows ``[record, position]``, a generator, the group of each record and how many groups there are, to
``[surrogate, record, position]``; members of a group share what is drawn."""

ATTENTION_SITES = ("pattern", "scores")

ITERATIONS = 200
"""Of `iaaft`, for rows that have not settled before."""

ROWS_AT_ONCE = 2048
"""Rows of a few hundred positions that stay in the cache."""


def circular_shift(
    x: Signal | Tensor,
    dim: str | int,
    n_surrogates: int,
    rng: Generators,
    *,
    together: str | int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return series turned around, each by another number of positions in each draw.

    Parameters
    ----------
    x
        A signal, or a real tensor.
    dim
        The axis of time: a name for a signal, a number for a tensor.
    n_surrogates
        How many; at most N - 1 for records of N positions, all of them different.
    rng
        A generator, or one for each index of the first axis.
    together
        An axis whose series are turned by the same number, so that they stay beside each other.
    lengths
        Positions of each record of a tensor, as in `Records.of`.

    Returns
    -------
    Tensor
        ``[surrogate, ...]``, each laid out as ``x``, zero beyond the length of a record.

    Raises
    ------
    AxisError
        If the axis has no order, or ``x`` is attention.
    ParameterError
        If there are not so many shifts.
    RecordError
        If series that are kept together have different lengths.

    Notes
    -----
    Where trends run from one end to the other, the seam is a jump that the series does not have. Two series
    that are turned apart stand as they were in one of N draws.
    """
    drawing = _Drawing.of(x, dim, "a circular shift", n_surrogates, rng, together, lengths)
    shortest = int(drawing.records.lengths.min())
    if n_surrogates > shortest - 1:
        raise ParameterError(
            f"A record of {shortest} positions has {shortest - 1} circular shifts; got n_surrogates = "
            f"{n_surrogates}."
        )

    def draw(rows: Tensor, generator: np.random.Generator, group: Tensor, n_groups: int) -> Tensor:
        n = rows.shape[1]
        chosen = _distinct(generator, n_groups, n, n_surrogates)  # [surrogate, group]
        shifts = torch.from_numpy(chosen).to(rows.device)[:, group]
        at = (torch.arange(n, device=rows.device) - shifts[..., None]) % n  # [surrogate, record, position]
        return rows.expand(n_surrogates, *rows.shape).gather(2, at)

    return drawing.make(draw)


def phase_randomised(
    x: Signal | Tensor,
    dim: str | int,
    n_surrogates: int,
    rng: Generators,
    *,
    together: str | int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return series with the power of each frequency and random phases.

    Parameters
    ----------
    x, dim, n_surrogates, rng, lengths
        As in `circular_shift`, but for the number, which has no limit.
    together
        An axis whose series get the same phases added: cross-spectra between them, and so coherence and
        phase differences, are kept (Prichard and Theiler 1994).

    Returns
    -------
    Tensor
        ``[surrogate, ...]``, each laid out as ``x``, zero beyond the length of a record.

    Raises
    ------
    AxisError, ParameterError, RecordError
        As in `circular_shift`.

    Notes
    -----
    Theiler et al. (1992). The mean, and at an even number of positions the highest frequency, stay what
    they are: they have no phase. Values become normal whatever they were.
    """
    drawing = _Drawing.of(x, dim, "a phase-randomised series", n_surrogates, rng, together, lengths)

    def draw(rows: Tensor, generator: np.random.Generator, group: Tensor, n_groups: int) -> Tensor:
        n = rows.shape[1]
        spectrum = torch.fft.rfft(rows)
        free = (n - 1) // 2  # frequencies that have a phase
        angle = generator.uniform(0.0, 2 * math.pi, size=(n_surrogates, n_groups, free))
        turns = torch.ones(n_surrogates, n_groups, spectrum.shape[1], dtype=torch.complex128)
        turns[..., 1 : free + 1] = torch.from_numpy(np.exp(1j * angle))
        turned = spectrum * turns.to(spectrum)[:, group]
        made: Tensor = torch.fft.irfft(turned, n)
        return made

    return drawing.make(draw)


def iaaft(
    x: Signal | Tensor,
    dim: str | int,
    n_surrogates: int,
    rng: Generators,
    *,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return series with the same values in another order that has nearly the same spectrum.

    Parameters
    ----------
    x, dim, n_surrogates, rng, lengths
        As in `circular_shift`, but for the number, which has no limit.

    Returns
    -------
    Tensor
        ``[surrogate, ...]``, each laid out as ``x``, zero beyond the length of a record.

    Raises
    ------
    AxisError, ParameterError
        As in `circular_shift`.

    Notes
    -----
    Iterative amplitude-adjusted Fourier transform (Schreiber and Schmitz 1996): amplitudes are put in place
    of those of a shuffled series, then the values by rank, in turn, until the order of a row does not change
    any more (or `ITERATIONS` times). Values are those of the series to the bit. Amplitudes of a few hundred
    nearly normal values differ by less than 2 % (in norm); of skewed ones by up to 20 %, of binary ones by
    25 %: the values then do not leave the spectrum much room.
    """
    drawing = _Drawing.of(x, dim, "an IAAFT surrogate", n_surrogates, rng, None, lengths)

    def draw(rows: Tensor, generator: np.random.Generator, group: Tensor, n_groups: int) -> Tensor:
        n = rows.shape[1]
        order = np.tile(np.arange(n), (n_surrogates, len(rows), 1))
        start = torch.from_numpy(generator.permuted(order, axis=2)).to(rows.device).reshape(-1, n)
        source = rows.expand(n_surrogates, *rows.shape).reshape(-1, n)
        pieces = zip(source.split(ROWS_AT_ONCE), start.split(ROWS_AT_ONCE), strict=True)
        return torch.cat([_settled(*piece) for piece in pieces]).reshape(n_surrogates, *rows.shape)

    return drawing.make(draw)


def _settled(rows: Tensor, order: Tensor) -> Tensor:
    """Return rows put in the order that their amplitudes and their values agree on."""
    n = rows.shape[1]
    values = rows.sort(dim=1).values
    amplitude = torch.fft.rfft(rows).abs()
    series = rows.gather(1, order)
    found = series.clone()
    ranks = torch.full_like(order, -1)
    active = torch.arange(len(rows), device=rows.device)
    for _ in range(ITERATIONS):
        spectrum = torch.fft.rfft(series)
        size = spectrum.abs()
        # An amplitude of zero has no phase; 1 is as good as any.
        phase = torch.where(size > 0, spectrum / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
        adjusted = torch.fft.irfft(amplitude * phase, n)
        new = adjusted.argsort(dim=1, stable=True)
        series = torch.empty_like(series).scatter_(1, new, values)
        moving = (new != ranks).any(dim=1)
        found[active] = series
        if not bool(moving.any()):
            break
        active, ranks = active[moving], new[moving]
        series, values, amplitude = series[moving], values[moving], amplitude[moving]
    return found


def _distinct(generator: np.random.Generator, n_groups: int, n: int, n_draws: int) -> NDArray[np.int64]:
    """Return shifts ``[draw, group]`` from 1 to n - 1, different in each draw of a group."""
    all_shifts = np.tile(np.arange(1, n), (n_groups, 1))
    return np.ascontiguousarray(generator.permuted(all_shifts, axis=1)[:, :n_draws].T)


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Records, which of them share a draw, and who draws for them."""

    records: Records
    group: Tensor  # integers [record]
    axis: int
    n_surrogates: int
    generators: Generators

    @staticmethod
    def of(
        x: Signal | Tensor,
        dim: str | int,
        operation: str,
        n_surrogates: int,
        generators: Generators,
        together: str | int | None,
        lengths: Tensor | None,
    ) -> _Drawing:
        if isinstance(x, Signal):
            _refuse_attention(x, operation)
        if not (isinstance(n_surrogates, int) and n_surrogates >= 1):
            raise ParameterError(
                wrong_parameter(operation, "n_surrogates", "an integer of at least 1", n_surrogates)
            )
        records = real_records(x, dim, operation, lengths)
        axis, ndim = _number(x, dim), len(records.shape) + 1
        if not isinstance(generators, np.random.Generator):
            if axis == 0 or len(generators) != records.shape[0]:
                raise ParameterError(
                    wrong_parameter(
                        operation, "rng", "one generator for each index of the first axis", len(generators)
                    )
                )
        shape = list(records.shape)
        group = torch.arange(math.prod(shape)).reshape(shape)
        if together is not None:
            shared = _number(x, together) % ndim
            if shared == axis % ndim:
                raise AxisError(f"Series are kept together along another axis than their own, {dim!r}.")
            group = group.narrow(shared - (shared > axis % ndim), 0, 1).expand(shape)
        return _Drawing(records, group.reshape(-1), axis % ndim, n_surrogates, generators)

    def make(self, draw: Draw) -> Tensor:
        """Return ``[surrogate, ...]`` from a function of rows, generator and groups."""
        rows = self.records.rows
        out = rows.new_zeros(self.n_surrogates, *rows.shape)
        for generator, which, length in self._blocks():
            members, group = torch.unique(self.group[which], return_inverse=True)
            which = which.to(rows.device)
            out[:, which, :length] = draw(
                rows[which, :length], generator, group.to(rows.device), len(members)
            )
        made = out.reshape(self.n_surrogates, *self.records.shape, rows.shape[1])
        return made.movedim(-1, self.axis + 1)

    def _blocks(self) -> Iterator[tuple[np.random.Generator, Tensor, int]]:
        """Yield who draws, for which records, of which length."""
        lengths = self.records.lengths.cpu()
        first = torch.zeros_like(self.group).scatter_reduce(0, self.group, lengths, "amax")
        if bool((first[self.group] != lengths).any()):
            raise RecordError("Series that are kept together need one length; some of them differ.")
        if isinstance(self.generators, np.random.Generator):
            for length in torch.unique(lengths).tolist():
                yield self.generators, torch.nonzero(lengths == length).squeeze(1), int(length)
            return
        for generator, which in zip(
            self.generators, torch.arange(len(lengths)).reshape(len(self.generators), -1), strict=True
        ):
            for length in torch.unique(lengths[which]).tolist():
                yield generator, which[lengths[which] == length], int(length)


def _refuse_attention(x: Signal, operation: str) -> None:
    if x.site in ATTENTION_SITES or {"query", "key"} <= set(x.axes):
        raise AxisError(
            f"{operation[:1].upper()}{operation[1:]} of attention is no attention: it breaks the sum of one "
            "over the keys of a query, and the causal mask; put the keys in other orders instead, with "
            "resonance_lens.dsp.surrogates.key_orders."
        )


def _number(x: Signal | Tensor, axis: str | int) -> int:
    if isinstance(x, Signal):
        if not isinstance(axis, str):
            raise AxisError(f"A signal's axis goes by its name, one of {', '.join(x.axes)}; got {axis!r}.")
        return x.dim(axis)
    if isinstance(axis, str) or not -x.ndim <= axis < x.ndim:
        raise AxisError(f"A tensor of shape {tuple(x.shape)} has no dimension {axis!r}.")
    return axis % x.ndim
