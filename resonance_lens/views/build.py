"""From a view, as data, to what it shows."""

from __future__ import annotations

from typing import get_args

from resonance_lens.errors import ResultError, unknown
from resonance_lens.result import Result, ViewKind, ViewSpec
from resonance_lens.views.content import Heads, Lines, Map, common
from resonance_lens.views.exhibits import exhibits
from resonance_lens.views.lines import lines
from resonance_lens.views.maps import heat_map


def build(view: ViewSpec, result: Result) -> Lines | Map | Heads:
    """Return what a view shows; the attention views need the result's exhibits.

    Raises
    ------
    ResultError
        If the result does not have what the view names; the message says what it has.
    """
    if view.kind == "lines":
        return lines(view, result)
    if view.kind in ("layer_head_map", "matrix"):
        return heat_map(view, result)
    if view.kind in ("attention_heads", "colored_tokens"):
        shown, notes = exhibits(view, result)
        return Heads(**common(view, result), exhibits=shown, notes=notes)
    raise ResultError(unknown("kind of view", view.kind, get_args(ViewKind)))
