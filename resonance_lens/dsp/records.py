"""Records: what every estimator along an ordered axis works on, whether it was given a signal or a tensor.

This is where signals of prompts of unequal length are taken apart. Nothing is ever filled with zeros: a
record is cut to its own length, and records of one length are worked on together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resonance_lens.errors import ActivationError, AxisError, RecordError
from resonance_lens.signal import POSITION_AXES, UNORDERED_AXES, Signal


@dataclass(frozen=True, eq=False)
class Records:
    """Values along one ordered axis, as a table of records.

    Attributes
    ----------
    rows
        ``[record, position]``, contiguous, in float32 or float64 (complex64 or complex128 for analytic
        signals).
    lengths
        Integers ``[record]``: real positions come first; what lies beyond is not looked at.
    shape
        Shape of the input without the axis; ``rows`` is it flattened.
    """

    rows: Tensor
    lengths: Tensor
    shape: tuple[int, ...]

    @staticmethod
    def of(x: Signal | Tensor, dim: str | int, operation: str, *, lengths: Tensor | None = None) -> Records:
        """Take records out of a signal or a tensor.

        Parameters
        ----------
        x
            A signal, or a tensor of real or complex floating-point numbers.
        dim
            The axis: its name for a signal, its number for a tensor.
        operation
            What is about to be done, for the messages: ``a spectrum``.
        lengths
            For a tensor: integers that broadcast to its shape without the axis. A signal brings its own.

        Raises
        ------
        AxisError
            If the axis has no order, or there is no such axis.
        ActivationError
            If a real position holds a value that is not finite.
        RecordError
            If there is nothing in a record.
        """
        if isinstance(x, Signal):
            if not isinstance(dim, str):
                raise AxisError(f"A signal's axis goes by its name, one of {', '.join(x.axes)}; got {dim!r}.")
            axis = x.ordered(dim, operation)
            values, lengths = x.values, None
            if x.lengths is not None and dim in POSITION_AXES:
                along_batch = [1] * values.ndim
                along_batch[x.dim("batch")] = -1
                lengths = x.lengths.to(values.device).reshape(along_batch).movedim(axis, -1).squeeze(-1)
        else:
            if isinstance(dim, str):
                if dim in UNORDERED_AXES:
                    what = operation.removeprefix("a ").removeprefix("an ")
                    raise AxisError(f"There is no {what} over {dim!r}: {UNORDERED_AXES[dim]}.")
                raise AxisError(f"A tensor's axis goes by its number; got {dim!r}. Signals have named axes.")
            if not -x.ndim <= dim < x.ndim:
                raise AxisError(f"A tensor of shape {tuple(x.shape)} has no dimension {dim}.")
            axis, values = dim, x
        moved = values.movedim(axis, -1)
        if not moved.is_floating_point() and not moved.is_complex():
            raise RecordError(f"{_begin(operation)} needs floating-point numbers; got {moved.dtype}.")
        if moved.dtype in (torch.float16, torch.bfloat16):
            moved = moved.float()
        shape = tuple(moved.shape[:-1])
        rows = moved.reshape(-1, moved.shape[-1]).contiguous()
        if lengths is None:
            counts = torch.full((len(rows),), rows.shape[1], device=rows.device)
        else:
            counts = lengths.to(rows.device).expand(shape).reshape(-1)
        records = Records(rows, counts, shape)
        if not len(rows) or int(counts.min()) < 1:
            raise RecordError(
                f"{_begin(operation)} needs at least one position in every record; one has none."
            )
        if int(counts.max()) > rows.shape[1]:
            raise RecordError(
                f"A record cannot have {int(counts.max())} real positions out of {rows.shape[1]}."
            )
        if not _finite(records):
            raise ActivationError(f"{_begin(operation)} needs finite numbers; a record holds others.")
        return records

    @property
    def equal(self) -> bool:
        """Whether all records have the same length."""
        return bool((self.lengths == self.lengths[0]).all())

    def one_length(self, operation: str) -> Tensor:
        """Return the records ``[record, length]`` if all have one length.

        Raises
        ------
        RecordError
            If they have not: transforms of whole records then have no grid of frequencies in common.
        """
        if not self.equal:
            short, long = int(self.lengths.min()), int(self.lengths.max())
            raise RecordError(
                f"{_begin(operation)} of records of {short} to {long} positions has no grid of frequencies "
                "in common; use an estimator that takes segments of one length, such as welch."
            )
        return self.rows[:, : int(self.lengths[0])]

    def at_least(self, n: int, operation: str, unit: str = "positions") -> None:
        """Raise `RecordError` unless every record has n positions."""
        shortest = int(self.lengths.min())
        if shortest < n:
            raise RecordError(
                f"{_begin(operation)} needs records of at least {n} {unit}; the shortest has {shortest}."
            )

    def by_length(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the records of each length: which they are, and their values ``[record, length]``."""
        for length in torch.unique(self.lengths).tolist():
            which = torch.nonzero(self.lengths == length).squeeze(1)
            yield which, self.rows[which, :length]

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``[*shape, position]``: a function of records of one length, which keeps their length.

        Beyond the length of a record there are zeros.
        """
        if self.equal and int(self.lengths[0]) == self.rows.shape[1]:
            return function(self.rows).reshape(*self.shape, -1)
        out: Tensor | None = None
        for which, values in self.by_length():
            made = function(values)
            if out is None:
                out = made.new_zeros(self.rows.shape)
            out[which, : made.shape[1]] = made
        assert out is not None
        return out.reshape(*self.shape, -1)

    def summary(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``[*shape, ...]``: a function of records of one length whose result has one shape."""
        if self.equal:
            made = function(self.rows[:, : int(self.lengths[0])])
            return made.reshape((*self.shape, *made.shape[1:]))
        out: Tensor | None = None
        for which, values in self.by_length():
            made = function(values)
            if out is None:
                out = made.new_zeros((len(self.rows), *made.shape[1:]))
            out[which] = made
        assert out is not None
        return out.reshape((*self.shape, *out.shape[1:]))


def real_records(
    x: Signal | Tensor, dim: str | int, operation: str, lengths: Tensor | None = None
) -> Records:
    """Return `Records.of` the same; raise `RecordError` if the numbers are complex."""
    records = Records.of(x, dim, operation, lengths=lengths)
    if records.rows.is_complex():
        raise RecordError(f"{_begin(operation)} needs real numbers; got {records.rows.dtype}.")
    return records


def like(x: Signal | Tensor, dim: str | int, values: Tensor) -> Signal | Tensor:
    """Return ``values`` (axis last) laid out as ``x`` is: a signal for a signal, a tensor for a tensor."""
    axis = x.dim(dim) if isinstance(x, Signal) and isinstance(dim, str) else dim
    assert isinstance(axis, int)
    moved = values.movedim(-1, axis)
    return replace(x, values=moved, _memo={}) if isinstance(x, Signal) else moved


def _finite(records: Records) -> bool:
    rows = records.rows
    if bool(torch.isfinite(rows.sum().abs())):  # a fourth of the time of looking at each
        return True
    real = torch.arange(rows.shape[1], device=rows.device) < records.lengths[:, None]
    return bool(torch.isfinite(torch.where(real, rows, torch.zeros_like(rows))).all())


def _begin(operation: str) -> str:
    return operation[:1].upper() + operation[1:]
