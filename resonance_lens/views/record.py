"""The back end that draws nothing: what each view would show, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import Axis
from resonance_lens.views.build import Shown, build
from resonance_lens.views.content import Heads, Levels, Lines, Map, Marking
from resonance_lens.views.images import Image
from resonance_lens.views.networks import Network
from resonance_lens.views.oscilloscopes import Oscilloscope
from resonance_lens.views.scatters import Scatter
from resonance_lens.views.sweeps import Sweep
from resonance_lens.views.text import listing, words
from resonance_lens.views.token_values import TokenValues

if TYPE_CHECKING:
    from resonance_lens.runs import Run


def record(run: Run) -> list[dict[str, Any]]:
    """Return, for every view of every result, what would be drawn.

    Each entry is plain data (it can be written as JSON): ``analysis``, ``kind``, ``title``,
    ``says``, ``misleads``, ``evidence``, ``selection``, ``notes``, and then, by kind, the panels
    with their axis labels, units and lines; the maps and images with their axes, sizes and colours; the
    traces; the pairs of heads; the points; or the prompts with their heads and token texts. A view that
    cannot be drawn has ``error`` instead.
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
    return {**said, **_content(shown)}


def _content(shown: Shown) -> dict[str, Any]:
    if isinstance(shown, Lines):
        return _lines(shown)
    if isinstance(shown, Map):
        return _map(shown)
    if isinstance(shown, Image):
        return _image(shown)
    if isinstance(shown, Oscilloscope):
        return _oscilloscope(shown)
    if isinstance(shown, Sweep):
        return _sweep(shown)
    if isinstance(shown, Network):
        return _network(shown)
    if isinstance(shown, Scatter):
        return _scatter(shown)
    return _tokens(shown) if isinstance(shown, TokenValues) else _heads(shown)


def describe(shown: Shown) -> str:
    """Return one sentence for those who do not see the figure."""
    if isinstance(shown, Lines):
        panels = listing([f"{panel.label} ({panel.units})" for panel in shown.panels])
        every = shown.panels[0].lines
        names = [line.label for line in every if line.shade is None]
        if shown.shades is not None:
            label, low, high = shown.shades
            names.insert(0, f"{len(every) - len(names)} shaded by {label} from {low:g} to {high:g}")
        said = f" Marks: {shown.marking.legend}." if shown.marking else ""
        return f"Lines over {shown.x_label}: {panels}. Lines: {', '.join(names)}.{said}"
    if isinstance(shown, Map):
        rows, columns = len(shown.y), len(shown.x)
        return (
            f"Heat map of {shown.label} ({shown.units}): {rows} rows ({shown.y_label}) by "
            f"{columns} columns ({shown.x_label})."
            + (f" Marks: {shown.marking.legend}." if shown.marking else "")
        )
    if isinstance(shown, Image):
        return (
            f"Heat map of {shown.label} ({shown.units}): {shown.y.values.size} rows ({shown.y.label}) by "
            f"{shown.x.values.size} columns ({shown.x.label})."
        )
    if isinstance(shown, Oscilloscope):
        return (
            f"Traces of {listing(list(shown.names))} over {shown.x.label}, and the second against the first: "
            f"{shown.label} ({shown.units})."
        )
    if isinstance(shown, Sweep):
        first = shown.screens[0]
        return (
            f"Oscilloscope: {first.names[1]} ({first.units}) against {first.names[0]} over {first.x.label}, "
            f"at each {shown.along} from {shown.titles[0]} to {shown.titles[-1]}."
        )
    if isinstance(shown, Network):
        return f"Network of heads by {shown.label} ({shown.units}); {shown.legend}."
    if isinstance(shown, Scatter):
        cloud = shown.clouds[0]
        return (
            f"{shown.y_label}{_in_brackets(shown.y_units)} against "
            f"{shown.x_label}{_in_brackets(shown.x_units)} of "
            f"{len(cloud.labels)} {shown.places}; named: {listing([cloud.labels[i] for i in cloud.named])}."
        )
    if isinstance(shown, TokenValues):
        tracks = [track.label for group in shown.groups for track in group.tracks]
        return f"{len(shown.tokens)} tokens, coloured by {listing(tracks)}."
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
            "uprights": [list(upright) for upright in panel.uprights],
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
    scales = {"x_scale": shown.view.x_scale, "y_scale": shown.view.y_scale}
    return {
        "series": shown.series,
        "legend": shown.legend,
        "periods": shown.periods,
        "shades": None if shown.shades is None else list(shown.shades),
        **scales,
        "panels": panels,
    }


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
        "classes": list(shown.classes),
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


def _image(shown: Image) -> dict[str, Any]:
    return {
        "x": _axis(shown.x),
        "y": _axis(shown.y),
        "colour": shown.label,
        "units": shown.units,
        "colours": shown.view.colours,
        "limits": [float(limit) for limit in shown.limits],
        "columns": int(shown.x.values.size),
        "rows": int(shown.y.values.size),
        "panels": [grid.title for grid in shown.grids],
        "missing": [int((~np.isfinite(grid.values)).sum()) for grid in shown.grids],
        "points": shown.points_label,
    }


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "label": axis.label,
        "scale": axis.scale,
        "first": float(axis.values[0]),
        "last": float(axis.values[-1]),
        "periods": axis.periods,
    }


def _oscilloscope(shown: Oscilloscope) -> dict[str, Any]:
    return {
        "x": _axis(shown.x),
        "y": shown.label,
        "units": shown.units,
        "traces": list(shown.names),
        "points": int(shown.traces.shape[1]),
        "curve": int(shown.curves.shape[1]),
        "limits": [[float(limit) for limit in limits] for limits in shown.limits],
    }


def _sweep(shown: Sweep) -> dict[str, Any]:
    return {
        **_oscilloscope(shown.screens[0]),
        "along": shown.along,
        "screens": list(shown.titles),
        "still": [shown.titles[i] for i in shown.still],
    }


def _network(shown: Network) -> dict[str, Any]:
    return {
        "colour": shown.label,
        "units": shown.units,
        "heads": [node.label for node in shown.nodes],
        "pairs": [[shown.nodes[arc.a].label, shown.nodes[arc.b].label, arc.strength] for arc in shown.arcs],
        "possible": shown.possible,
        "legend": shown.legend,
        "communities": {
            "name": shown.grouped,
            "heads": [
                [node.label for node in shown.nodes if node.community == i] for i in range(len(shown.sizes))
            ],
        },
    }


def _in_brackets(units: str) -> str:
    return f" ({units})" if units else ""


def _scatter(shown: Scatter) -> dict[str, Any]:
    panels = [
        {
            "title": cloud.title,
            "points": len(cloud.labels),
            "named": [cloud.labels[i] for i in cloud.named],
            "crosses": len(cloud.crossed) if shown.bounded else 0,
            "classes": {
                name: int((cloud.group == i).sum())
                for i, name in enumerate(shown.classes)
                if cloud.group is not None
            },
        }
        for cloud in shown.clouds
    ]
    return {
        "x": shown.x_label,
        "y": shown.y_label,
        "units": [shown.x_units, shown.y_units],
        "x_scale": shown.view.x_scale,
        "y_scale": shown.view.y_scale,
        "places": shown.places,
        "shades": None if shown.shades is None else list(shown.shades),
        "grouped": shown.grouped,
        "legend": shown.legend,
        "panels": panels,
    }


def _tokens(shown: TokenValues) -> dict[str, Any]:
    groups = [
        {
            "label": group.label,
            "units": group.units,
            "limits": [float(limit) for limit in group.limits],
            "tracks": [track.label for track in group.tracks],
        }
        for group in shown.groups
    ]
    return {"tokens": list(shown.tokens), "colours": shown.view.colours, "groups": groups}


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
