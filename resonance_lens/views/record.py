"""The back end that draws nothing: what each view would show, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.build import build
from resonance_lens.views.content import Heads, Levels, Lines, Map, Marking
from resonance_lens.views.text import listing, words

if TYPE_CHECKING:
    from resonance_lens.runs import Run


def record(run: Run) -> list[dict[str, Any]]:
    """Return, for every view of every result, what would be drawn.

    Each entry is plain data (it can be written as JSON): ``analysis``, ``kind``, ``title``,
    ``says``, ``misleads``, ``evidence``, ``selection``, ``notes``, and then, by kind, the panels
    with their axis labels, units and lines; the maps with their sizes and colours; or the prompts
    with their heads and token texts. A view that cannot be drawn has ``error`` instead.
    """
    return [record_view(view, result) for result in run.results.values() for view in result.views]


def record_view(view: ViewSpec, result: Result) -> dict[str, Any]:
    """Return what one view would show."""
    said: dict[str, Any] = {
        "analysis": result.name,
        "kind": view.kind,
        "title": view.title,
        "says": view.says,
        "misleads": view.misleads,
    }
    try:
        shown = build(view, result)
    except ResultError as error:
        return {**said, "error": str(error)}
    said |= {"evidence": shown.evidence, "selection": shown.selection, "notes": list(shown.notes)}
    if isinstance(shown, Lines):
        return {**said, **_lines(shown)}
    if isinstance(shown, Map):
        return {**said, **_map(shown)}
    return {**said, **_heads(shown)}


def describe(shown: Lines | Map | Heads) -> str:
    """Return one sentence for those who do not see the figure."""
    if isinstance(shown, Lines):
        panels = listing([f"{panel.label} ({panel.units})" for panel in shown.panels])
        names = [line.label for line in shown.panels[0].lines]
        said = f" Marks: {shown.marking.legend}." if shown.marking else ""
        return f"Lines over {shown.x_label}: {panels}. Lines: {', '.join(names)}.{said}"
    if isinstance(shown, Map):
        rows, columns = len(shown.y), len(shown.x)
        return (
            f"Heat map of {shown.label} ({shown.units}): {rows} rows ({shown.y_label}) by "
            f"{columns} columns ({shown.x_label})."
            + (f" Marks: {shown.marking.legend}." if shown.marking else "")
        )
    prompts = [exhibit.name for exhibit in shown.exhibits]
    heads = list(shown.exhibits[0].heads) if shown.exhibits else []
    what = words(shown.view.kind).replace("colored", "coloured").capitalize()
    return f"{what} of {listing(heads)} on {listing(prompts)}."


def _lines(shown: Lines) -> dict[str, Any]:
    panels = [
        {
            "title": panel.title,
            "x": shown.x_label,
            "y": panel.label,
            "units": panel.units,
            "lines": [
                {
                    "variable": line.name,
                    "label": line.label,
                    "points": len(line.x),
                    "band": line.low is not None,
                    "heads": 0 if line.points is None else line.points.shape[1],
                    "reference": line.reference,
                    "role": line.role,
                    "marks": _at_levels(shown.marking, line.levels, [f"{x:g}" for x in line.x]),
                }
                for line in panel.lines
            ],
        }
        for panel in shown.panels
    ]
    return {"series": shown.series, "legend": shown.legend, "panels": panels}


def _at_levels(marking: Marking | None, levels: Levels | None, places: list[str]) -> dict[str, list[str]]:
    """Return, for each meaning of a mark, the places that have at least that level."""
    if marking is None or levels is None:
        return {}
    return {
        meaning: [place for place, found in zip(places, levels.ravel(), strict=True) if found >= level]
        for level, meaning in enumerate(marking.means, start=1)
    }


def _map(shown: Map) -> dict[str, Any]:
    return {
        "x": shown.x_label,
        "y": shown.y_label,
        "colour": shown.label,
        "units": shown.units,
        "colours": shown.view.colours,
        "limits": [float(limit) for limit in shown.limits],
        "columns": len(shown.x),
        "rows": len(shown.y),
        "cells": [int(grid.values.size) for grid in shown.grids],
        "panels": [grid.title for grid in shown.grids],
        "framed": [f"L{layer}H{head}" for layer, head in shown.outlined],
        "marks": [
            _at_levels(
                shown.marking, grid.levels, [f"L{layer}H{head}" for head in shown.y for layer in shown.x]
            )
            for grid in shown.grids
        ],
    }


def _heads(shown: Heads) -> dict[str, Any]:
    prompts = [
        {
            "prompt": exhibit.prompt,
            "category": exhibit.category,
            "tokens": list(exhibit.tokens),
            "heads": list(exhibit.heads),
            "cells": int(exhibit.pattern.size),
            "block": exhibit.block,
            "causal": exhibit.causal,
        }
        for exhibit in shown.exhibits
    ]
    return {"prompts": prompts}
