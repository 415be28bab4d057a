"""Axes of numbers: what they are called, where their cells end, and the periods beside frequencies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, Scale, ViewSpec
from resonance_lens.views.content import Numbers, long_name
from resonance_lens.views.text import words

PER = "cycles per "
"""How the units of a frequency begin; its period is counted in what follows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """An axis whose coordinates are numbers.

    Attributes
    ----------
    label
        What it is, with units.
    values
        Coordinates, ascending.
    scale
        ``log`` where powers of ten are as far apart as each other.
    periods
        Label of the periods beside an axis of frequencies, such as ``period (tokens)``; else empty.
    """

    label: str
    values: Numbers
    scale: Scale = "linear"
    periods: str = ""

    @property
    def even(self) -> bool:
        """Whether neighbours are all as far apart on the axis, so that cells have one size."""
        steps = np.diff(self.placed)
        return bool(np.allclose(steps, steps[:1], rtol=1e-6)) if steps.size else True

    @property
    def placed(self) -> Numbers:
        """The coordinates as they lie on the axis: their logarithms where it is logarithmic."""
        return np.log(self.values) if self.scale == "log" else self.values

    @property
    def edges(self) -> Numbers:
        """Where the cell of each coordinate ends: half-way to its neighbours, on the axis."""
        at = self.placed
        if at.size > 1:
            inner = (at[1:] + at[:-1]) / 2
            ends = (at[0] - (inner[0] - at[0]), at[-1] + (at[-1] - inner[-1]))
        else:
            inner = np.empty(0)
            half = 0.5 * np.log(2) if self.scale == "log" else 0.5
            ends = (at[0] - half, at[0] + half)
        edges: Numbers = np.concatenate([ends[:1], inner, ends[1:]])
        return np.exp(edges) if self.scale == "log" else edges


def refusal(view: ViewSpec, result: Result, problem: str) -> ResultError:
    """Return the error of a view that cannot be drawn."""
    return ResultError(f"The view {view.title!r} of {result.name} cannot be drawn: {problem}")


def axis_label(variable: xr.DataArray, dimension: str) -> str:
    """Return what a dimension is called, with the units that its coordinate states."""
    if dimension not in variable.coords:
        return words(dimension)
    coordinate = variable[dimension]
    stated = str(coordinate.attrs.get("units") or "")
    return long_name(coordinate) + (f" ({stated})" if stated not in ("", "1") else "")


def period_label(variable: xr.DataArray, dimension: str) -> str:
    """Return what the periods beside a frequency are called; empty where the dimension is none."""
    if dimension not in variable.coords:
        return ""
    stated = str(variable[dimension].attrs.get("units") or "")
    return f"period ({stated.removeprefix(PER)}s)" if stated.startswith(PER) else ""


def numbers_along(view: ViewSpec, result: Result, variable: xr.DataArray, dimension: str) -> Numbers:
    """Return the coordinates of a dimension, or say that they are no numbers."""
    if dimension not in variable.dims:
        raise refusal(view, result, f"{str(variable.name)!r} needs the dimension {dimension!r}.")
    values = variable[dimension].values
    if not np.issubdtype(values.dtype, np.number):
        what = words(view.kind) + ("" if view.kind == "lines" else "s")
        raise refusal(
            view, result, f"{what} need numbers along {dimension!r}; its coordinates are {values.dtype.name}."
        )
    return np.asarray(values, dtype=np.float64)


def axis_along(
    view: ViewSpec, result: Result, variable: xr.DataArray, dimension: str, scale: Scale = "linear"
) -> tuple[Axis, list[int], str]:
    """Return an axis, the indices of its coordinates in ascending order, and what was left out.

    Coordinates that are not above 0 have no place on a logarithmic axis and are left out.
    """
    values = numbers_along(view, result, variable, dimension)
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    note = ""
    if scale == "log":
        positive = order[values[order] > 0]
        if not positive.size:
            raise refusal(view, result, f"nothing along {dimension!r} is above 0, for a logarithmic axis.")
        note = left_out(words(dimension), values[order][values[order] <= 0])
        order = positive
    label, periods = axis_label(variable, dimension), period_label(variable, dimension)
    axis = Axis(label=label, values=values[order], scale=scale, periods=periods)
    if not axis.values.size or (np.diff(axis.values) <= 0).any():
        raise refusal(view, result, f"the coordinates of {dimension!r} are not distinct numbers.")
    return axis, [int(i) for i in order], note


def left_out(name: str, values: Numbers) -> str:
    """Return what a logarithmic axis has no place for, as a sentence; nothing where there is none."""
    if not values.size:
        return ""
    which = ", ".join(f"{value:g}" for value in values[:3]) + (", ..." if values.size > 3 else "")
    return f"The logarithmic axis has no place for {name} {which}."


def merged(axis: Axis, block: int) -> Axis:
    """Return the axis of means over blocks of neighbours."""
    starts = np.arange(0, axis.values.size, block)
    sizes = np.diff(np.append(starts, axis.values.size))
    return replace(axis, values=np.add.reduceat(axis.values, starts) / sizes)


def round_periods(low: float, high: float) -> list[float]:
    """Return periods to mark between two frequencies, those first that are marked before others.

    Powers of two, then what lies between; over more than three decades powers of ten and what lies between.

    Examples
    --------
    >>> round_periods(0.1, 0.5)
    [2.0, 4.0, 8.0, 3.0, 6.0, 2.5, 5.0, 10.0]
    >>> round_periods(1e-4, 0.5)
    [10.0, 100.0, 1000.0, 10000.0, 2.0, 20.0, 200.0, 2000.0, 5.0, 50.0, 500.0, 5000.0]
    """
    low = max(low, 1e-12)
    if high < 1000 * low:
        wanted = [factor * 2.0**k for factor in (1.0, 1.5, 1.25) for k in range(1, 31)]
    else:
        wanted = [factor * 10.0**k for factor in (1, 2, 5) for k in range(13)]
    slack = 1e-9
    return [period for period in wanted if low * (1 - slack) <= 1 / period <= high * (1 + slack)]
