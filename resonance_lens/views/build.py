"""From a view, as data, to what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias, get_args

from resonance_lens.errors import ResultError, unknown
from resonance_lens.result import Result, ViewKind, ViewSpec
from resonance_lens.views.axes import refusal
from resonance_lens.views.bodes import bode
from resonance_lens.views.content import Heads, Lines, Map, common
from resonance_lens.views.exhibits import exhibits
from resonance_lens.views.images import Image, image
from resonance_lens.views.lines import lines
from resonance_lens.views.maps import heat_map
from resonance_lens.views.networks import Network, network
from resonance_lens.views.oscilloscopes import Oscilloscope, oscilloscope
from resonance_lens.views.scatters import Scatter, scatter
from resonance_lens.views.sweeps import Sweep, sweep
from resonance_lens.views.text import words
from resonance_lens.views.token_values import TokenValues, token_values

Shown: TypeAlias = Lines | Map | Image | Oscilloscope | Sweep | Network | Scatter | TokenValues | Heads
"""What a view shows, of any kind."""


def build(view: ViewSpec, result: Result) -> Shown:
    """Return what a view shows; the attention views need the result's exhibits.

    Raises
    ------
    ResultError
        If the result does not have what the view names; the message says what it has.
    """
    if view.kind not in BUILDERS:
        raise ResultError(unknown("kind of view", view.kind, get_args(ViewKind)))
    return BUILDERS[view.kind](view, _restricted(view, result))


def _restricted(view: ViewSpec, result: Result) -> Result:
    """Return the result with only those coordinates of a dimension that a view lists."""
    listed = {name: list(value) for name, value in view.select.items() if isinstance(value, list | tuple)}
    for dimension, values in listed.items():
        known = result.data[dimension].values.tolist() if dimension in result.data.dims else []
        missing = [str(value) for value in values if value not in known]
        if missing:
            raise refusal(view, result, unknown(words(dimension), missing[0], map(str, known)))
        if not values:
            raise refusal(view, result, f"nothing is selected along {dimension}.")
    return replace(result, data=result.data.sel(listed)) if listed else result


def _oscilloscope(view: ViewSpec, result: Result) -> Oscilloscope | Sweep:
    return oscilloscope(view, result) if len(view.variables) == 1 else sweep(view, result)


def _heads(view: ViewSpec, result: Result) -> Heads:
    shown, notes = exhibits(view, result)
    return Heads(**common(view, result), exhibits=shown, notes=notes)


BUILDERS: dict[str, Callable[[ViewSpec, Result], Shown]] = {
    "lines": lines,
    "bode": bode,
    "layer_head_map": heat_map,
    "matrix": heat_map,
    "image": image,
    "oscilloscope": _oscilloscope,
    "network": network,
    "scatter": scatter,
    "token_values": token_values,
    "attention_heads": _heads,
    "colored_tokens": _heads,
}
