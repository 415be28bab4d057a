"""Heat maps: one variable over layers and heads, or over any two dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.content import (
    Grid,
    Map,
    Marking,
    array,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)
from resonance_lens.views.marks import claim_of, levels, marking, refused
from resonance_lens.views.text import words

MEANINGS = "flag_meanings"
"""The attribute, of the CF conventions, that names the classes 0, 1, 2, ... of a variable."""

FACETS = 6
"""Most panels that one map is split into along a dimension that the view did not select."""


def heat_map(view: ViewSpec, result: Result) -> Map:
    """Return what a view of kind ``layer_head_map`` or ``matrix`` shows.

    A dimension that the view does not select becomes panels beside each other.
    """
    if len(view.variables) != 1:
        raise ResultError(
            f"The view {view.title!r} of {result.name} needs exactly one variable; "
            f"it names {len(view.variables)}."
        )
    (name,) = view.variables
    variable = lookup(view, result, name)
    rows, columns = _dimensions(view, result, name)
    values, chosen = select(view, result, name, (rows, columns))
    left = [str(d) for d in values.dims if d not in (rows, columns)]
    if len(left) > 1:
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: {name!r} needs a selection "
            f"along {' or '.join(left)}."
        )
    claim = None if view.claim is None else claim_of(view, result)
    found = None if claim is None else levels(result, claim, chosen)
    grids = []
    for i in range(values.sizes[left[0]] if left else 1):
        part = values.isel({left[0]: i}) if left else values
        title = f"{words(left[0])}: {part[left[0]].item()}" if left else ""
        marked = None
        if found is not None:
            cut = found.isel({left[0]: i}) if left else found
            marked = np.asarray(cut.transpose(rows, columns).values, dtype=np.int64)
        grids.append(Grid(title=title, values=array(part, rows, columns), levels=marked))
    notes = []
    if claim is not None and refused(result, claim, chosen):
        notes.append(refused(result, claim, chosen))
    if len(grids) > FACETS:
        notes.append(f"The first {FACETS} of {len(grids)} values of {words(left[0])} are shown.")
        grids = grids[:FACETS]
    x, y = (tuple(str(v) for v in values[d].values) for d in (columns, rows))
    layered = view.kind == "layer_head_map"
    limits, extend = colour_limits(view, grids, square=not layered and x == y)
    classes = tuple(words(name) for name in str(variable.attrs.get(MEANINGS, "")).split())
    if classes:
        limits, extend = (-0.5, len(classes) - 0.5), "neither"
        _check_classes(view, result, grids, classes)
    if not all(np.isfinite(grid.values).all() for grid in grids):
        notes.append("Cells without a value are grey.")
    if extend != "neither":
        notes.append("Values beyond the ends of the colour bar have the colour of its ends.")
    return Map(
        **common(view, result),
        selection=in_words(chosen),
        notes=tuple(notes),
        x=x,
        y=y,
        x_label=_axis(columns),
        y_label=_axis(rows),
        label=long_name(variable),
        units=units(variable),
        limits=limits,
        extend=extend,
        classes=classes,
        marking=None if claim is None else _marking(result, claim, grids),
        outlined=_outlined(view, result, x, y) if layered else (),
        grids=tuple(grids),
    )


def _dimensions(view: ViewSpec, result: Result, name: str) -> tuple[str, str]:
    dims = [str(d) for d in lookup(view, result, name).dims]
    if view.kind == "layer_head_map":
        needed = ["head", "layer"]
    else:
        needed = [d for d in dims if d not in view.select and d != "category"][-2:]
    missing = [d for d in needed if d not in dims]
    if missing or len(needed) < 2:
        lacking = f"no dimension {missing[0]!r}" if missing else "fewer than two dimensions to draw"
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: {name!r} has {lacking}; "
            f"it has {', '.join(dims)}."
        )
    return needed[0], needed[1]


def _check_classes(view: ViewSpec, result: Result, grids: list[Grid], classes: tuple[str, ...]) -> None:
    every = np.concatenate([grid.values[np.isfinite(grid.values)] for grid in grids])
    if not np.isin(every, np.arange(len(classes))).all():
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: {view.variables[0]!r} has values "
            f"that are none of its {len(classes)} classes."
        )


def _outlined(
    view: ViewSpec, result: Result, layers: tuple[str, ...], heads: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the heads that the view names, or else the first targets, where the map has them."""
    asked = view.heads or [(t.layer, t.head) for t in result.targets(5) if t.head is not None]
    return tuple((a, b) for a, b in asked if str(a) in layers and str(b) in heads)


def _marking(result: Result, claim: Mapping[str, Any], grids: list[Grid]) -> Marking:
    found = [grid.levels for grid in grids if grid.levels is not None]
    return marking(result, claim, np.stack(found))


def _axis(dimension: str) -> str:
    return "head" if dimension in ("head_a", "head_b") else words(dimension)


def colour_limits(view: ViewSpec, grids: list[Grid], *, square: bool) -> tuple[tuple[float, float], str]:
    """Return the range of the colours, and at which ends values lie beyond it."""
    every = np.concatenate([grid.values[np.isfinite(grid.values)] for grid in grids])
    values = every
    size = grids[0].values.shape[0]
    if square and size > 1:
        # A thing compared with itself says nothing, and would set the range alone.
        others = ~np.eye(size, dtype=bool)
        values = np.concatenate([g.values[others & np.isfinite(g.values)] for g in grids])
    if view.limits is not None:
        low, high = view.limits
    elif view.colours == "cyclic":
        low, high = -np.pi, np.pi
    elif not values.size:
        low, high = 0.0, 1.0
    elif view.colours == "diverging":
        high = float(np.abs(values).max()) or 1.0
        low = -high
    else:
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
    if view.colours == "cyclic" or not every.size:
        return (low, high), "neither"
    slack = 1e-6 * (high - low)
    below, above = bool(every.min() < low - slack), bool(every.max() > high + slack)
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
    return (low, high), ends.get((below, above), "neither")
