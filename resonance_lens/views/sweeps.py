"""What one trace draws against another at each layer: the screens of an oscilloscope, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import axis_along, axis_label, refusal
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
from resonance_lens.views.oscilloscopes import MOST_POINTS, Oscilloscope, screen

MOST_SCREENS = 8
"""Most screens of the still picture: the first, the last, and evenly between them."""

SCALE = 1000
"""Steps from the middle of a screen to its edge, in a page: finer than its pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep(Content):
    """Screens that have the first trace and all scales in common.

    Attributes
    ----------
    along
        What changes from screen to screen, such as ``layer``.
    titles
        Its coordinates.
    screens
        One for each.
    """

    along: str
    titles: tuple[str, ...]
    screens: tuple[Oscilloscope, ...]

    @property
    def still(self) -> tuple[int, ...]:
        """Which screens the still picture has."""
        n = len(self.screens)
        chosen = np.linspace(0, n - 1, min(n, MOST_SCREENS))
        return tuple(int(i) for i in np.round(chosen))


def sweep(view: ViewSpec, result: Result) -> Sweep:
    """Return what an oscilloscope view of two variables shows: the second against the first."""
    if len(view.variables) != 2:
        problem = f"an oscilloscope needs one variable or two; it names {len(view.variables)}."
        raise refusal(view, result, problem)
    names = view.variables
    second = lookup(view, result, names[1])
    series = view.series
    if series is None or series not in second.dims:
        raise refusal(view, result, f"{names[1]!r} has no dimension {series!r} for its screens.")
    x, places, _ = axis_along(view, result, second, view.over)
    drive, _ = _selected(view, result, names[0], (view.over,))
    values, chosen = _selected(view, result, names[1], (series, view.over))
    drive, responses = array(drive, view.over)[places], array(values, series, view.over)[:, places]
    known = np.isfinite(responses).any(axis=1)
    if not known.any() or not np.isfinite(drive).all() or not np.isfinite(responses[known]).all():
        raise refusal(view, result, f"{names[1]!r} against {names[0]!r} has places without a value.")
    said = {"selection": in_words(chosen), "label": long_name(second), "units": units(second)}
    # Beside a screen there is no room for what a trace is of.
    first, other = (long_name(result.data[name]).partition(" of ")[0] for name in names)
    screens = [
        screen(view, result, x, (first, other), np.stack([drive, response]), MOST_POINTS // 2, **said)
        for response in responses[known]
    ]
    shared = tuple(
        (min(one.limits[i][0] for one in screens), max(one.limits[i][1] for one in screens)) for i in (0, 1)
    )
    notes = dict.fromkeys(note for one in screens for note in one.notes)
    titles = [str(value) for value in second[series].values[known]]
    made = Sweep(
        **common(view, result),
        selection=said["selection"],
        along=axis_label(second, series),
        titles=tuple(titles),
        screens=tuple(replace(one, limits=(shared[0], shared[1])) for one in screens),
    )
    if len(made.still) < len(screens):
        shown = (
            f"The still picture has {len(made.still)} of {len(screens)} screens; all have the same scales."
        )
        notes = {**notes, shown: None}
    return replace(made, notes=tuple(notes))


def _selected(view: ViewSpec, result: Result, name: str, keep: tuple[str, ...]) -> Any:
    values, chosen = select(view, result, name, keep)
    if set(values.dims) != set(keep):
        missing = [d for d in keep if d not in values.dims]
        left = [str(d) for d in values.dims if d not in keep]
        lacking = f"the dimension {missing[0]!r}" if missing else f"a selection along {' and '.join(left)}"
        raise refusal(view, result, f"{name!r} needs {lacking}.")
    return values, chosen


def packed(shown: Sweep) -> dict[str, Any]:
    """Return what the script of a page draws: curves as whole numbers, ``SCALE`` at the ends of the range."""
    first = shown.screens[0]
    return {
        "along": shown.along,
        "titles": list(shown.titles),
        "names": list(first.names),
        "over": first.x.label,
        "scale": SCALE,
        "ends": [float(first.x.values[0]), float(first.x.values[-1])],
        "limits": [list(limits) for limits in first.limits],
        "drive": _integers(first.curves[0], first.limits[0]),
        "responses": [_integers(one.curves[1], one.limits[1]) for one in shown.screens],
    }


def _integers(curve: Numbers, limits: tuple[float, float]) -> list[int]:
    middle, half = (limits[1] + limits[0]) / 2, (limits[1] - limits[0]) / 2
    return [round(float(step)) for step in SCALE * (curve - middle) / half]
