"""A tensor whose axes have names, and the difference between axes that have an order and axes that have none.

A Fourier transform, a filter or a Hilbert phase means something only along an axis whose
neighbouring indices are neighbours: tokens, lags, layers. Embedding dimensions, neurons and
heads can be permuted without changing the model, so a spectrum over them is an accident of
numbering. :meth:`Signal.ordered` is the one gate through which every transform passes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from resonance_lens.errors import AxisError

T = TypeVar("T")

ORDERED_AXES: dict[str, str] = {
    "query": "position of the token that attends",
    "key": "position of the token that is attended to",
    "token": "position in the record",
    "lag": "query position minus key position",
    "layer": "depth",
    "step": "training step or time step",
    "value": "an input value that has an order, such as a number",
    "frequency": "cycles per token",
}
"""Axes along which neighbours are neighbours; the values say what the axis counts."""

UNORDERED_AXES: dict[str, str] = {
    "d_model": "residual-stream dimensions can be rotated into one another without changing the model",
    "d_head": "dimensions inside a head can be rotated into one another without changing the model",
    "neuron": "neurons can be renumbered without changing the model",
    "head": "heads can be renumbered without changing the model",
    "vocab": "token ids are an arbitrary numbering of the vocabulary",
    "prompt": "prompts are a sample, not a sequence",
    "batch": "prompts are a sample, not a sequence",
    "category": "categories are labels",
    "drive": "drives are a choice, not a sequence",
}
"""Axes whose numbering is arbitrary; the values say why."""

POSITION_AXES = ("token", "query", "key")
"""Axes that count positions of a prompt, and so are subject to its length."""


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor with named axes and the number of real positions of each prompt in it.

    Parameters
    ----------
    values
        The numbers.
    axes
        One name per dimension of ``values``, each from `ORDERED_AXES` or `UNORDERED_AXES`.
    lengths
        Integers of shape ``[batch]``: real positions are ``0 .. length-1`` along every axis of
        `POSITION_AXES`, and what lies beyond is padding, set to zero (to minus infinity for
        attention scores). ``None`` when there is no padding.
    site, layer
        Where in the model the signal was taken; empty when it was made by hand.

    Raises
    ------
    AxisError
        If the names do not fit the tensor, are unknown or repeat, or ``lengths`` do not fit.
    """

    values: Tensor
    axes: tuple[str, ...]
    lengths: Tensor | None = None
    site: str = ""
    layer: int | None = None
    _memo: dict[Hashable, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.axes) != self.values.ndim:
            raise AxisError(
                f"A signal with axes ({', '.join(self.axes)}) needs a tensor of {len(self.axes)} "
                f"dimensions; got shape {tuple(self.values.shape)}."
            )
        for axis in self.axes:
            if axis not in ORDERED_AXES and axis not in UNORDERED_AXES:
                known = ", ".join((*ORDERED_AXES, *UNORDERED_AXES))
                raise AxisError(f"There is no axis {axis!r}. Known: {known}.")
        if len(set(self.axes)) != len(self.axes):
            raise AxisError(f"A signal names each axis once; got ({', '.join(self.axes)}).")
        if self.lengths is None:
            return
        if "batch" not in self.axes:
            raise AxisError("A signal with lengths needs a batch axis that they belong to.")
        if tuple(self.lengths.shape) != (self.size("batch"),):
            raise AxisError(
                f"A signal over {self.size('batch')} prompts needs as many lengths; "
                f"got shape {tuple(self.lengths.shape)}."
            )

    def dim(self, axis: str) -> int:
        """Return the dimension of ``values`` that ``axis`` names; raise `AxisError` if it has none."""
        try:
            return self.axes.index(axis)
        except ValueError:
            raise AxisError(f"This signal has axes ({', '.join(self.axes)}) and no axis {axis!r}.") from None

    def size(self, axis: str) -> int:
        """Return the number of indices along ``axis``."""
        return self.values.shape[self.dim(axis)]

    def ordered(self, axis: str, operation: str) -> int:
        """Return the dimension of ``axis`` if it has an order, and refuse otherwise.

        Parameters
        ----------
        axis
            Name of the axis that ``operation`` runs along.
        operation
            What is about to be done, as a noun for the message: "a spectrum", "a filter".

        Raises
        ------
        AxisError
            If ``axis`` has no order: which axis, why, and which axes of this signal would do.
        """
        dim = self.dim(axis)
        if axis in UNORDERED_AXES:
            usable = [name for name in self.axes if name in ORDERED_AXES]
            advice = (
                f"use {' or '.join(repr(name) for name in usable)} instead"
                if usable
                else "take the signal at a site that has a token axis instead"
            )
            raise AxisError(
                f"There is no {operation.removeprefix('a ').removeprefix('an ')} over {axis!r}: "
                f"{UNORDERED_AXES[axis]}; {advice}."
            )
        return dim

    def mask(self, axis: str) -> Tensor:
        """Return booleans of shape ``[batch, size]``: which positions along ``axis`` are real."""
        if axis not in POSITION_AXES:
            raise AxisError(f"Only {', '.join(POSITION_AXES)} have padding; {axis!r} has none.")
        size = self.size(axis)
        positions = torch.arange(size, device=self.values.device)
        if self.lengths is None:
            return torch.ones(self.size("batch"), size, dtype=torch.bool, device=positions.device)
        return positions < self.lengths[:, None]  # [batch, size]

    def prompt_lengths(self) -> Tensor:
        """Return integers of shape ``[batch]``: the number of real positions of each prompt."""
        if self.lengths is not None:
            return self.lengths
        axis = next((name for name in POSITION_AXES if name in self.axes), None)
        if axis is None:
            raise AxisError(f"Axes ({', '.join(self.axes)}) do not count positions of a prompt.")
        return torch.full((self.size("batch"),), self.size(axis), device=self.values.device)

    def to(self, dtype: torch.dtype) -> Signal:
        """Return the same signal in another floating-point type."""
        return replace(self, values=self.values.to(dtype), _memo={})

    def memo(self, key: Hashable, compute: Callable[[Signal], T]) -> T:
        """Return ``compute(self)``, calculated once for as long as this signal lives.

        Analyses of one pass see the same signal; what several of them need of it (the moments
        of an attention pattern) is then read out of memory once. ``key`` must name the
        computation and all its parameters.
        """
        if key not in self._memo:
            self._memo[key] = compute(self)
        return self._memo[key]  # type: ignore[return-value]
