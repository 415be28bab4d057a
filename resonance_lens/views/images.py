"""Heat maps over two axes of numbers: layer by frequency, layer by lag, scale by token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import Axis, axis_along, merged, refusal
from resonance_lens.views.content import (
    Content,
    Grid,
    Numbers,
    along,
    array,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)
from resonance_lens.views.decibels import DECIBELS, decibels
from resonance_lens.views.maps import FACETS, colour_limits
from resonance_lens.views.text import words

MOST_CELLS = 1024
"""Most rows, and columns, of a heat map; more are block-averaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Image(Content):
    """Heat maps over two axes of numbers, with the same axes and colours.

    ``points`` are values on the vertical axis along the horizontal one, and ``points_label`` says of what.
    """

    x: Axis
    y: Axis
    label: str
    units: str
    limits: tuple[float, float]
    extend: str
    grids: tuple[Grid, ...]
    points: Numbers | None = None
    points_label: str = ""

    @property
    def legend(self) -> str:
        """What the points are."""
        return f"points: {self.points_label}" if self.points_label else ""


def image(view: ViewSpec, result: Result) -> Image:
    """Return what a view of kind ``image`` shows: ``over`` to the right, ``down`` upwards."""
    if len(view.variables) != 1:
        raise refusal(view, result, f"an image needs exactly one variable; it names {len(view.variables)}.")
    if view.over == view.down:
        raise refusal(view, result, f"both of its axes are {view.over!r}.")
    variable = lookup(view, result, view.variables[0])
    x, columns, left_of_x = axis_along(view, result, variable, view.over, view.x_scale)
    y, rows, left_of_y = axis_along(view, result, variable, view.down, view.y_scale)
    keep = [view.over, view.down, *([view.panels] if view.panels else [])]
    values, chosen = select(view, result, view.variables[0], keep)
    left = [str(d) for d in values.dims if d not in (view.over, view.down)]
    if len(left) > 1:
        lacking = " or ".join(d for d in left if d != view.panels)
        raise refusal(view, result, f"{view.variables[0]!r} needs a selection along {lacking}.")
    notes = [note for note in (left_of_x, left_of_y) if note]
    cells = values.isel({view.over: columns, view.down: rows})
    as_drawn = decibels if view.decibels else np.asarray
    grids = [
        Grid(title=title, values=as_drawn(array(cells.isel(at), view.down, view.over)))
        for at, title in along(left[0] if left else None, cells)
    ]
    if len(grids) > FACETS:
        notes.append(f"The first {FACETS} of {len(grids)} values of {words(left[0])} are shown.")
        grids = grids[:FACETS]
    points, points_label = _points(view, result, columns)
    across, up = (-(-axis.values.size // MOST_CELLS) for axis in (x, y))
    if across > 1 or up > 1:
        notes.append(f"Block-averaged: each cell is the mean of up to {across} x {up} cells.")
        cyclic = view.colours == "cyclic"
        grids = [replace(grid, values=block_means(grid.values, up, across, cyclic=cyclic)) for grid in grids]
        x, y = merged(x, across), merged(y, up)
        points = None if points is None else block_means(points[None], 1, across)[0]
    if points is not None:
        beyond = int(((points < y.edges[0]) | (points > y.edges[-1])).sum())
        if beyond:
            notes.append(f"{beyond} of the points lie beyond the vertical axis.")
    limits, extend = colour_limits(view, grids, square=False)
    if not all(np.isfinite(grid.values).all() for grid in grids):
        notes.append("Cells without a value are grey.")
    if extend != "neither":
        notes.append("Values beyond the ends of the colour bar have the colour of its ends.")
    return Image(
        **common(view, result),
        selection=in_words(chosen),
        notes=tuple(notes),
        x=x,
        y=y,
        label=long_name(variable),
        units=DECIBELS if view.decibels else units(variable),
        limits=limits,
        extend=extend,
        grids=tuple(grids),
        points=points,
        points_label=points_label,
    )


def _points(view: ViewSpec, result: Result, columns: list[int]) -> tuple[Numbers | None, str]:
    """Return the reference that is drawn as points, and what it is."""
    if not view.references:
        return None, ""
    if len(view.references) > 1:
        raise refusal(view, result, f"an image has points of one reference; it names {len(view.references)}.")
    variable, _ = select(view, result, view.references[0], (view.over,))
    if variable.dims != (view.over,):
        raise refusal(
            view, result, f"the reference {view.references[0]!r} needs the dimension {view.over!r} alone."
        )
    return array(variable, view.over)[columns], long_name(variable)


def block_means(values: Numbers, up: int, across: int, *, cyclic: bool = False) -> Numbers:
    """Return the means of ``[row, column]`` over blocks of rows and columns, of what has a value.

    Angles are averaged as directions. The last block of each side is the mean of what is left.
    """
    known = np.isfinite(values)
    filled = np.where(known, np.exp(1j * np.where(known, values, 0.0)) if cyclic else values, 0.0)
    starts = [np.arange(0, size, block) for size, block in zip(values.shape, (up, across), strict=True)]

    def total(cells: Any) -> Any:
        return np.add.reduceat(np.add.reduceat(cells, starts[0], axis=0), starts[1], axis=1)

    sums, counts = total(filled), total(known.astype(np.int64))
    means = np.angle(sums) if cyclic else sums / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan)
