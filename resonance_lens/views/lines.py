"""Lines over the layers, with their intervals and with the baselines and nulls beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.content import (
    Line,
    Lines,
    Numbers,
    Panel,
    array,
    beside,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)
from resonance_lens.views.text import words

SEPARATE_REFERENCES = 3
"""Up to this many series each has its own reference line; above, the references become one band."""

POINTS = 16
"""Up to this many heads are drawn as points; above, as the range that holds the middle 80 %."""


MOST_SPREADS = 2
"""Up to this many series show their single heads; above, only the means."""


def lines(view: ViewSpec, result: Result) -> Lines:
    """Return what a view of kind ``layer_lines`` shows: one panel for each variable."""
    if not view.variables:
        raise ResultError(f"The view {view.title!r} of {result.name} names no variable.")
    panels = []
    chosen: dict[str, str] = {}
    for name in view.variables:
        references = [r for r in view.references if belongs(r, name, view.variables)]
        panel, selection = _panel(view, result, name, references)
        panels.append(panel)
        chosen |= selection
    every = [line for panel in panels for line in panel.lines]
    notes = []
    if not all(np.isfinite(line.y).all() for line in every):
        notes.append("Layers without a value are left open.")
    return Lines(
        **common(view, result),
        selection=in_words(chosen),
        x_label="layer",
        series="" if view.series is None else words(view.series),
        band=_band(panels),
        panels=tuple(panels),
        notes=tuple(notes),
    )


def belongs(reference: str, name: str, variables: Sequence[str]) -> bool:
    """Whether a reference belongs to a variable: the longest one it begins with, else the first.

    Examples
    --------
    >>> belongs("coherence_squared_null", "coherence_squared", ["coherence", "coherence_squared"])
    True
    """
    owners = [v for v in variables if reference.startswith(f"{v}_")]
    return name == (max(owners, key=len) if owners else variables[0])


def _band(panels: Sequence[Panel]) -> str:
    """Return what the points, bands and dashes of a figure are."""
    every = [line for panel in panels for line in panel.lines]
    plain = max(sum(not line.reference for line in panel.lines) for panel in panels)
    spread = [line.points for line in every if line.points is not None and not line.reference]
    said = []
    if spread and plain <= MOST_SPREADS:
        n_heads = spread[0].shape[1]
        said.append("points: single heads" if n_heads <= POINTS else "shaded: middle 80 % of heads")
    if any(line.low is not None and not line.reference for line in every):
        said.append("shaded: interval over prompts")
    if any(line.reference for line in every):
        said.append("dashed: baseline or null")
    return ", ".join(said)


def _panel(
    view: ViewSpec, result: Result, name: str, references: Sequence[str]
) -> tuple[Panel, dict[str, str]]:
    variable = lookup(view, result, name)
    series = _series(view, variable)
    shown: list[Line] = []
    chosen: dict[str, str] = {}
    for reference in references:
        shown += _reference(view, result, reference, len(series))
    for i, label in enumerate(series or [long_name(variable)]):
        at = {view.series: i} if series else {}
        line, selection = _line(view, result, name, label=label, colour=i, at=at)
        shown.append(line)
        chosen |= selection
    averaged = any(line.points is not None for line in shown)
    lowest = min(float(np.nanmin(line.y, initial=0.0)) for line in shown)
    panel = Panel(
        label=long_name(variable) + (", mean over heads" if averaged else ""),
        units=units(variable),
        lines=tuple(shown),
        zero=lowest < 0 or name.endswith("_effect"),
    )
    return panel, chosen


def _series(view: ViewSpec, variable: xr.DataArray) -> list[str]:
    """Return the coordinates that become separate lines; none where there is no such dimension."""
    if view.series is None or view.series not in variable.dims:
        return []
    return [str(value) for value in variable[view.series].values]


def _line(
    view: ViewSpec,
    result: Result,
    name: str,
    *,
    label: str,
    colour: int | None,
    at: Mapping[Any, int],
    reference: bool = False,
) -> tuple[Line, dict[str, str]]:
    keep = ["layer", "head", *([view.series] if view.series else [])]

    def one(variable_name: str) -> tuple[xr.DataArray, dict[str, str]]:
        variable, chosen = select(view, result, variable_name, keep)
        return variable.isel({d: i for d, i in at.items() if d in variable.dims}), chosen

    variable, chosen = one(name)
    left = [str(d) for d in variable.dims if d not in ("layer", "head")]
    if left or "layer" not in variable.dims:
        lacking = f"a selection along {', '.join(left)}" if left else "the dimension 'layer'"
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: {name!r} needs {lacking}."
        )
    x = np.asarray(variable["layer"].values, dtype=np.float64)
    points = low = high = None
    if "head" in variable.dims:
        points = array(variable, "layer", "head")
        y = mean_over_heads(points, cyclic=view.colours == "cyclic")
    else:
        y = array(variable, "layer")
        if beside(result, name):
            low, high = (array(one(f"{name}_{end}")[0], "layer") for end in ("low", "high"))
    return (
        Line(
            name=name,
            label=label,
            x=x,
            y=y,
            low=low,
            high=high,
            points=points,
            colour=colour,
            reference=reference,
        ),
        chosen,
    )


def _reference(view: ViewSpec, result: Result, name: str, n_series: int) -> list[Line]:
    """Return the lines of a baseline or null: one if all series share it, else each or a band."""
    variable = lookup(view, result, name)
    series = _series(view, variable)
    label = long_name(variable)
    each = []
    for i, value in enumerate(series or [""]):
        line, _ = _line(
            view,
            result,
            name,
            label=f"{label}, {value}" if value else label,
            colour=i if series else None,
            at={view.series: i} if series else {},
            reference=True,
        )
        each.append(line)
    first = each[0]
    same = all(np.allclose(line.y, first.y, equal_nan=True, atol=1e-9) for line in each)
    if not same and n_series <= SEPARATE_REFERENCES:
        return each
    low, high = first.low, first.high
    if not same:
        ys = np.stack([line.y for line in each])
        low, high = ys.min(axis=0), ys.max(axis=0)
        label = f"{label} (range over {words(str(view.series))})"
    return [
        Line(
            name=name,
            label=label,
            x=first.x,
            y=first.y if same else np.stack([line.y for line in each]).mean(axis=0),
            low=low,
            high=high,
            points=first.points if same else None,
            reference=True,
        )
    ]


def mean_over_heads(points: Numbers, *, cyclic: bool = False) -> Numbers:
    """Return the mean of ``[layer, head]`` over the heads that have a value; NaN where none has.

    Angles are averaged as directions.
    """
    known = np.isfinite(points)
    counts = np.maximum(known.sum(axis=1), 1)
    filled = np.where(known, points, 0.0)
    if cyclic:
        directions = np.where(known, np.exp(1j * filled), 0.0).sum(axis=1)
        return np.where(known.any(axis=1), np.angle(directions), np.nan)
    return np.where(known.any(axis=1), filled.sum(axis=1) / counts, np.nan)
