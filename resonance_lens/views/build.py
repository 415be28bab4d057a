"""From a view, as data, to what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, get_args

from resonance_lens.errors import ResultError, unknown
from resonance_lens.result import Result, ViewKind, ViewSpec
from resonance_lens.views.content import Heads, Lines, Map, common
from resonance_lens.views.exhibits import exhibits
from resonance_lens.views.images import Image, image
from resonance_lens.views.lines import lines
from resonance_lens.views.maps import heat_map
from resonance_lens.views.networks import Network, network
from resonance_lens.views.oscilloscopes import Oscilloscope, oscilloscope
from resonance_lens.views.scatters import Scatter, scatter
from resonance_lens.views.token_values import TokenValues, token_values

Shown: TypeAlias = Lines | Map | Image | Oscilloscope | Network | Scatter | TokenValues | Heads
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
    return BUILDERS[view.kind](view, result)


def _heads(view: ViewSpec, result: Result) -> Heads:
    shown, notes = exhibits(view, result)
    return Heads(**common(view, result), exhibits=shown, notes=notes)


BUILDERS: dict[str, Callable[[ViewSpec, Result], Shown]] = {
    "lines": lines,
    "layer_head_map": heat_map,
    "matrix": heat_map,
    "image": image,
    "oscilloscope": oscilloscope,
    "network": network,
    "scatter": scatter,
    "token_values": token_values,
    "attention_heads": _heads,
    "colored_tokens": _heads,
}
