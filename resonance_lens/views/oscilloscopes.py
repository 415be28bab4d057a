"""Two traces over tokens, and one against the other, as on an oscilloscope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import Axis, axis_along, refusal
from resonance_lens.views.content import (
    Content,
    Numbers,
    array,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)
from resonance_lens.views.text import plural, words

FINEST, MOST_POINTS = 8, 1536
"""Most points of a curve for each token, and about as many in all: a page holds each."""

ALIKE = 2.0
"""Traces whose ranges differ by less than this factor share one."""

DOTTED = 160
"""Up to this many tokens are marked by points."""

LOBES = 6
"""Neighbours on each side that a point between tokens is made from."""

SMOOTHED = "Between tokens the curves are interpolated as a digital oscilloscope does (windowed sin x / x)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Oscilloscope(Content):
    """Two traces and the figure that one draws against the other.

    Attributes
    ----------
    x
        What both run over.
    names
        Of the traces: the first goes to the right in the figure, the second upwards.
    traces
        ``[2, place]``.
    between
        Where the points of the curves lie, in units of places: the places alone, or more.
    curves
        ``[2, point]``, the traces at ``between``.
    limits
        Range of each: the same where they are about as large.
    """

    x: Axis
    names: tuple[str, str]
    traces: Numbers
    between: Numbers
    curves: Numbers
    label: str
    units: str
    limits: tuple[tuple[float, float], tuple[float, float]]


def oscilloscope(view: ViewSpec, result: Result) -> Oscilloscope:
    """Return what a view of kind ``oscilloscope`` shows of one variable; see `sweeps` for two."""
    (name,) = view.variables
    variable = lookup(view, result, name)
    if view.series is None or view.series not in variable.dims:
        raise refusal(view, result, f"{name!r} has no dimension {view.series!r} for the two traces.")
    series = [str(value) for value in variable[view.series].values]
    if len(series) != 2:
        raise refusal(
            view, result, f"an oscilloscope needs two coordinates of {view.series!r}; it has {len(series)}."
        )
    x, places, _ = axis_along(view, result, variable, view.over)
    values, chosen = select(view, result, name, (view.over, view.series))
    left = [str(d) for d in values.dims if d not in (view.over, view.series)]
    if left:
        raise refusal(view, result, f"{name!r} needs a selection along {' and '.join(left)}.")
    traces = array(values, view.series, view.over)[:, places]
    return screen(
        view,
        result,
        x,
        (series[0], series[1]),
        traces,
        MOST_POINTS,
        selection=in_words(chosen),
        label=long_name(variable),
        units=units(variable),
    )


def screen(
    view: ViewSpec, result: Result, x: Axis, names: tuple[str, str], traces: Numbers, most: int, **said: Any
) -> Oscilloscope:
    """Return the screen of two traces ``[2, place]``, their curves of about as many points as ``most``."""
    notes = []
    known = np.asarray(np.isfinite(traces).all(axis=0))
    n = known.size
    if not known.all():
        notes.append(f"{plural(words(view.over)).capitalize()} without a value are left open.")
    first, last = (int(np.argmax(known)), n - int(np.argmax(known[::-1]))) if known.any() else (0, 0)
    between, curves = np.arange(n, dtype=np.float64), traces
    # Open ends are no hindrance; an open place between is.
    whole = bool(known[first:last].all()) and last - first > 2 * LOBES
    if whole and x.even and view.colours != "cyclic":
        between, curves = finer(traces[:, first:last], max(2, min(FINEST, most // n)))
        between = between + first
        notes.append(SMOOTHED + ("; the points are the tokens." if n <= DOTTED else "."))
    limits = _limits(view, curves)
    if limits[0] != limits[1]:
        notes.append("Each trace has a scale of its own.")
    return Oscilloscope(
        **common(view, result),
        **said,
        notes=tuple(notes),
        x=x,
        names=names,
        traces=traces,
        between=between,
        curves=curves,
        limits=limits,
    )


def finer(traces: Numbers, steps: int = FINEST) -> tuple[Numbers, Numbers]:
    """Return places between those of ``[trace, place]``, and the traces there, through every point.

    From one place to the next there are so many steps.

    Lanczos' kernel, ``sinc(t) sinc(t / LOBES)``, its weights made to add to one; beyond its ends a trace
    is taken to continue as its point reflection there.
    """
    n = traces.shape[1]
    between = np.arange((n - 1) * steps + 1) / steps
    at = np.arange(-LOBES, n + LOBES)
    first, last = traces[:, :1], traces[:, -1:]
    before = 2 * first - traces[:, LOBES:0:-1]
    after = 2 * last - traces[:, -2 : -LOBES - 2 : -1]
    longer = np.concatenate([before, traces, after], axis=1)
    apart = between[:, None] - at[None, :]
    kernel = np.where(np.abs(apart) < LOBES, np.sinc(apart) * np.sinc(apart / LOBES), 0.0)
    kernel /= kernel.sum(axis=1, keepdims=True)
    return between, longer @ kernel.T


def _limits(view: ViewSpec, curves: Numbers) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range of each trace: about zero where it crosses it, so that the figure is centred."""
    both = view.limits or ((-np.pi, np.pi) if view.colours == "cyclic" else None)
    if both is not None:
        return both, both
    first, second = (_range(curve) for curve in curves)
    spans = first[1] - first[0], second[1] - second[0]
    whole = min(first[0], second[0]), max(first[1], second[1])
    # Also not shared by traces of one size that lie far apart.
    if max(whole[1] - whole[0], *spans) < ALIKE * min(spans):
        return whole, whole
    return first, second


def _range(curve: Numbers) -> tuple[float, float]:
    known = curve[np.isfinite(curve)]
    low, high = (float(known.min()), float(known.max())) if known.size else (-1.0, 1.0)
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return (low - 0.5, high + 0.5) if low == high else (low, high)
