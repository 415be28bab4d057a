"""Values of the tokens of one prompt, on its text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import refusal
from resonance_lens.views.content import (
    TEXT,
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
from resonance_lens.views.text import visible

DRAWN = 160
"""Most tokens of a figure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One value for each token.

    Attributes
    ----------
    label
        Which one it is.
    values
        ``[token]``; not-a-number where a token has none.
    """

    label: str
    values: Numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """Tracks that share their units, and so their colours.

    Attributes
    ----------
    limits
        Range of the colours. Where it holds both signs it is symmetric about 0.
    """

    label: str
    units: str
    limits: tuple[float, float]
    tracks: tuple[Track, ...]

    @property
    def signed(self) -> bool:
        """Whether some values may lie below 0."""
        return self.limits[0] < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenValues(Content):
    """The tokens of one prompt, made visible, and what each is worth on one or more tracks."""

    tokens: tuple[str, ...]
    groups: tuple[Tracks, ...]

    @property
    def legend(self) -> str:
        """How many of the tokens a figure has, where it has not all."""
        n = len(self.tokens)
        return f"the first {DRAWN} of {n} tokens" if n > DRAWN else ""

    @property
    def cyclic(self) -> bool:
        """Whether values are angles."""
        return self.view.colours == "cyclic"


def token_values(view: ViewSpec, result: Result) -> TokenValues:
    """Return what a view of kind ``token_values`` shows: a track for each variable, or along ``series``."""
    if not view.variables:
        raise refusal(view, result, "it names no variable.")
    named = [lookup(view, result, name) for name in view.variables]
    for variable in named:
        if "token" not in variable.dims:
            raise refusal(view, result, f"{str(variable.name)!r} needs the dimension 'token'.")
    if TEXT not in named[0].coords or named[0][TEXT].dims != ("token",):
        raise refusal(view, result, f"the result has no coordinate {TEXT!r} along 'token'.")
    chosen: dict[str, str] = {}
    tracks: dict[str, list[Track]] = {}
    names: dict[str, list[str]] = {}
    for name in view.variables:
        keep = ("token", *([view.series] if view.series else []))
        values, also = select(view, result, name, keep)
        chosen |= also
        left = [str(d) for d in values.dims if d not in keep]
        if left:
            raise refusal(view, result, f"{name!r} needs a selection along {' and '.join(left)}.")
        several = view.series is not None and view.series in values.dims
        rows = array(values, str(view.series), "token") if several else array(values, "token")[None]
        labels = [str(one) for one in values[view.series].values] if several else [long_name(values)]
        if several and len(view.variables) > 1:
            labels = [f"{long_name(values)}, {label}" for label in labels]
        tracks.setdefault(units(values), []).extend(
            Track(label=label, values=row) for label, row in zip(labels, rows, strict=True)
        )
        names.setdefault(units(values), []).append(long_name(values))
    groups = tuple(
        Tracks(label="; ".join(names[unit]), units=unit, limits=_limits(view, same), tracks=tuple(same))
        for unit, same in tracks.items()
    )
    notes = []
    if not all(np.isfinite(track.values).all() for group in groups for track in group.tracks):
        notes.append("Tokens without a value have no colour.")
    return TokenValues(
        **common(view, result),
        selection=in_words(chosen),
        notes=tuple(notes),
        tokens=tuple(visible(str(token)) for token in named[0][TEXT].values),
        groups=groups,
    )


def _limits(view: ViewSpec, tracks: list[Track]) -> tuple[float, float]:
    if view.limits is not None:
        return view.limits
    if view.colours == "cyclic":
        return -np.pi, np.pi
    every = np.concatenate([track.values for track in tracks])
    every = every[np.isfinite(every)]
    size = float(np.abs(every).max(initial=0.0)) or 1.0
    signed = view.colours == "diverging" or bool((every < 0).any())
    return (-size if signed else 0.0), size
