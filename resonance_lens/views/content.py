"""What a view holds, worked out once: the figures, the page and the record all draw from this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from resonance_lens.errors import ResultError, unknown
from resonance_lens.methods import READINGS
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.exhibits import Exhibit
from resonance_lens.views.text import given, visible, words

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Levels = np.ndarray[Any, np.dtype[np.int64]]

TEXT = "token_text"
"""The coordinate that holds the tokens, along ``token``."""

Role = Literal["value", "null", "baseline", "random_weights", "shuffled_tokens"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What every view has.

    Attributes
    ----------
    view
        As the analysis asked for it.
    analysis, evidence
        Name of the analysis, and its level of evidence.
    selection
        Which part of the data is shown, in words.
    notes
        What was left out or changed in drawing, one sentence each.
    """

    view: ViewSpec
    analysis: str
    evidence: str
    selection: str = ""
    notes: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """The line under every figure: analysis, evidence, selection."""
        parts = (self.analysis, f"evidence: {self.evidence}", self.selection, self.legend)
        return "  \u00b7  ".join(part for part in parts if part)

    @property
    def legend(self) -> str:
        """What the marks of the figure are, where its axes do not say it."""
        return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marking:
    """What a claim found at the places of a view: its levels in words, and how many reach each.

    Attributes
    ----------
    means
        What the levels mean, from 1 up; each includes those before.
    counts
        How many places of the view have at least that level.
    """

    means: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def legend(self) -> str:
        """The three marks, what they mean, and how many there are."""
        parts = zip(SHAPES, self.means, self.counts, strict=False)
        return ", ".join(f"{shape}: {meaning} ({count})" for shape, meaning, count in parts)


SHAPES = ("dot", "ring", "disc")
"""The marks of the levels of a claim, told apart by their shape and size, not by colour."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One line over an ordered dimension.

    Attributes
    ----------
    name
        Of the variable.
    label, short
        In a legend, and beside the end of the line.
    y, low, high
        Values, and the bounds of the band where there is one.
    points
        Values ``[place, head]`` behind a mean over heads.
    role
        ``value``, or which baseline or null it is; they are drawn with different dashes.
    colour
        Index of the series' colour; ``None`` for the colour of nulls.
    shade
        Where its series' coordinate lies among those of all series, from 0 to 1, where lines are too many to
        be told apart by name; else ``None``.
    levels
        What the view's claim found at each place, as in `Marking`; ``None`` without a claim.
    ranged
        Of what the band is the range, where it is one: ``category``.
    """

    name: str
    label: str
    short: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    points: Numbers | None = None
    role: Role = "value"
    colour: int | None = None
    shade: float | None = None
    levels: Levels | None = None
    ranged: str = ""

    @property
    def reference(self) -> bool:
        """Whether it is a baseline or null."""
        return self.role != "value"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Lines that share their axes.

    ``zero`` draws the line of zero; an ``angle`` is drawn around the circle. ``uprights`` are places on the
    horizontal axis, with what each is.
    """

    title: str = ""
    label: str
    units: str
    lines: tuple[Line, ...]
    zero: bool = False
    angle: bool = False
    uprights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines(Content):
    """Lines over one dimension, one panel for each variable, or for each coordinate of a dimension.

    Attributes
    ----------
    periods
        Label of the periods beside an axis of frequencies; else empty.
    shades
        Label and ends of what lines are shaded by, where they are too many to be told apart by name.
    stacked
        Whether panels stand below each other, over one horizontal axis.
    """

    x_label: str
    periods: str = ""
    shades: tuple[str, float, float] | None = None
    series: str
    band: str
    panels: tuple[Panel, ...]
    stacked: bool = False
    marking: Marking | None = None

    @property
    def legend(self) -> str:
        """What the points, bands, dashes, upright lines and marks are."""
        names = dict.fromkeys(name for panel in self.panels for name, _ in panel.uprights)
        upright = f"upright line: {', '.join(names)}" if names else ""
        return "  \u00b7  ".join(part for part in (self.band, upright, _marks(self.marking)) if part)


def _marks(marking: Marking | None) -> str:
    return "" if marking is None else marking.legend


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """One heat map: ``values[row, column]``, and the levels of a claim at each cell, as in `Marking`."""

    title: str
    values: Numbers
    levels: Levels | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Map(Content):
    """Heat maps that share their axes and their colours.

    ``classes`` names what the values 0, 1, 2, ... stand for, where they are no amounts.
    """

    x: tuple[str, ...]
    y: tuple[str, ...]
    x_label: str
    y_label: str
    label: str
    units: str
    limits: tuple[float, float]
    extend: str
    classes: tuple[str, ...] = ()
    outlined: tuple[tuple[int, int], ...] = ()
    marking: Marking | None = None
    grids: tuple[Grid, ...]

    @property
    def legend(self) -> str:
        """What the marks mean, and which heads have a frame."""
        heads = ", ".join(f"L{layer}H{head}" for layer, head in self.outlined)
        parts = (_marks(self.marking), f"framed: {heads}" if heads else "")
        return "  \u00b7  ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads(Content):
    """Attention patterns of a few prompts, for a few heads."""

    exhibits: tuple[Exhibit, ...]


def long_name(variable: xr.DataArray) -> str:
    """Return what a variable is called in words, without what it says of not-a-number."""
    return given(str(variable.attrs.get("long_name") or words(str(variable.name))))


def units(variable: xr.DataArray) -> str:
    """Return the units of a variable; a plain number is ``dimensionless``."""
    stated = str(variable.attrs.get("units") or "")
    return "dimensionless" if stated in ("", "1") else stated


def common(view: ViewSpec, result: Result) -> dict[str, Any]:
    """Return the fields that every content has."""
    evidence = str(result.provenance.get("evidence", "not stated"))
    return {"view": view, "analysis": result.name, "evidence": evidence}


def lookup(view: ViewSpec, result: Result, name: str) -> xr.DataArray:
    """Return a variable of the result, or say which there are."""
    if name not in result.data:
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: "
            + unknown("variable", name, map(str, result.data.data_vars))
        )
    return result.data[name]


def select(
    view: ViewSpec, result: Result, name: str, keep: Sequence[str]
) -> tuple[xr.DataArray, dict[str, str]]:
    """Return a variable with only the dimensions in ``keep`` and those that nothing selects."""
    variable = lookup(view, result, name)
    chosen: dict[str, str] = {}
    for dimension in map(str, variable.dims):
        if dimension in keep:
            continue
        values = [str(value) for value in variable[dimension].values]
        if isinstance(view.select.get(dimension), list | tuple):
            continue  # it was cut to these before
        if dimension in view.select:
            value = str(view.select[dimension])
        elif dimension == "category":
            value = "all" if "all" in values else values[0]
        elif len(values) == 1:
            value = values[0]
        else:
            continue
        if value not in values:
            raise ResultError(
                f"The view {view.title!r} of {result.name} cannot be drawn: "
                + unknown(f"{words(dimension)}", value, values)
            )
        variable = variable.isel({dimension: values.index(value)}, drop=True)
        chosen[dimension] = value
    return variable, chosen


def in_words(chosen: dict[str, str]) -> str:
    """Return a selection as ``category: all, first position: keep``."""
    return ", ".join(f"{words(dimension)}: {value}" for dimension, value in chosen.items())


def array(variable: xr.DataArray, *dims: str) -> Numbers:
    """Return the values of a variable with its dimensions in this order."""
    return np.asarray(variable.transpose(*dims).values, dtype=np.float64)


def along(dimension: str | None, variable: xr.DataArray) -> list[tuple[dict[str, int], str]]:
    """Return a place and a title for each coordinate along a dimension; one place without one."""
    if dimension is None or dimension not in variable.dims:
        return [({}, "")]
    values = [str(value) for value in variable[dimension].values]
    texts = variable[TEXT].values if dimension == "token" and TEXT in variable.coords else None
    return [
        (
            {dimension: i},
            READINGS.get((dimension, value), f"{words(dimension)}: {value}")
            + ("" if texts is None else f" {visible(str(texts[i]))}"),
        )
        for i, value in enumerate(values)
    ]


def beside(result: Result, name: str) -> bool:
    """Whether an interval stands beside a variable."""
    return f"{name}_low" in result.data and f"{name}_high" in result.data
