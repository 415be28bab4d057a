"""Bode plots: a gain in decibels over the logarithm of frequency, and its phase below it."""

from __future__ import annotations

from dataclasses import replace

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import refusal
from resonance_lens.views.content import Lines, lookup, units
from resonance_lens.views.decibels import in_decibels
from resonance_lens.views.lines import lines


def bode(view: ViewSpec, result: Result) -> Lines:
    """Return what a view of kind ``bode`` shows: lines over frequency in one panel, or two with a phase."""
    if not 1 <= len(view.variables) <= 2:
        problem = f"a Bode plot needs a gain, and may have a phase; it names {len(view.variables)} variables."
        raise refusal(view, result, problem)
    for phase in view.variables[1:]:
        said = units(lookup(view, result, phase))
        if said != "radians":
            raise refusal(view, result, f"a phase is in radians, and {phase!r} is in {said!r}.")
    if view.panels is not None:
        raise refusal(view, result, "a Bode plot has no panels beside each other.")
    shown = lines(replace(view, x_scale="log", y_scale="linear"), result)
    gain, *phases = shown.panels
    angles = (replace(panel, angle=True, zero=True) for panel in phases)
    return replace(shown, panels=(in_decibels(gain), *angles), stacked=True)
