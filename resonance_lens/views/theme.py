"""Colours: one palette for each theme, shared by the figures and the page."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one theme.

    Attributes
    ----------
    paper, panel, ink, muted, rule, grid
        Of the page, of a panel on it, of text, of secondary text, of lines, of graticules.
    accent
        Of links and marks.
    null
        Of everything that is a baseline or a null.
    outline
        Of the frame around a target in a heat map.
    series
        Of the lines of a figure, in order.
    measured, proxy, synthetic
        Of the evidence badges.
    diverging
        From negative through what is neutral in this theme to positive; positive is blue, as in
        CircuitsVis.
    beam
        Of time on an oscilloscope, from the beginning to the end.
    """

    paper: str
    panel: str
    ink: str
    muted: str
    rule: str
    grid: str
    accent: str
    null: str
    outline: str
    series: tuple[str, ...]
    measured: str
    proxy: str
    synthetic: str
    diverging: tuple[str, ...]
    beam: tuple[str, ...]


BEAM_STEPS = 24
"""Colours that time runs through on an oscilloscope."""


def _between(*ends: str) -> tuple[str, ...]:
    """Return `BEAM_STEPS` colours that run evenly through those given."""
    given = np.array([[int(end[i : i + 2], 16) for i in (1, 3, 5)] for end in ends], dtype=np.float64)
    at = np.linspace(0, len(ends) - 1, BEAM_STEPS)
    mixed = np.stack([np.interp(at, np.arange(len(ends)), channel) for channel in given.T], axis=1)
    return tuple("#" + "".join(f"{round(value):02x}" for value in colour) for colour in mixed)


LIGHT = Theme(
    paper="#f4f6f4",
    panel="#ffffff",
    ink="#16201d",
    muted="#53605b",
    rule="#cfd7d3",
    grid="#e4e9e6",
    accent="#00695c",
    null="#6f7b76",
    outline="#101614",
    series=("#00796b", "#bf540a", "#6a4bc4", "#1668b5", "#b0326e", "#66730b", "#855a36", "#4f6470"),
    measured="#00695c",
    proxy="#97480b",
    synthetic="#6443bd",
    diverging=(
        "#67001f",
        "#b2182b",
        "#d6604d",
        "#f4a582",
        "#fddbc7",
        "#f7f7f7",
        "#d1e5f0",
        "#92c5de",
        "#4393c3",
        "#2166ac",
        "#053061",
    ),  # ColorBrewer's RdBu
    beam=_between("#6a4bc4", "#1668b5", "#00796b"),
)

DARK = Theme(
    paper="#0d1211",
    panel="#141b19",
    ink="#e3ebe7",
    muted="#9aa8a2",
    rule="#2f3b37",
    grid="#222c29",
    accent="#5fd7b5",
    null="#8d9a95",
    outline="#f2f7f4",
    series=("#4fd1b0", "#f5a35c", "#b39df3", "#74b7f2", "#f08ab5", "#c3cf5b", "#d0a987", "#a5b6c0"),
    measured="#5fd7b5",
    proxy="#f5a35c",
    synthetic="#b9a5f5",
    diverging=(
        "#ffc2b0",
        "#ef8466",
        "#b84a30",
        "#702c1e",
        "#37201b",
        "#171d1c",
        "#162d3d",
        "#1b4f73",
        "#2f7db5",
        "#6cb0e6",
        "#bfe0ff",
    ),
    beam=_between("#b39df3", "#74b7f2", "#4fd1b0"),
)

THEMES = {"light": LIGHT, "dark": DARK}


def names(theme: Theme) -> dict[str, str]:
    """Return the colours of a theme by the name of their CSS variable, such as ``series-1``."""
    named = {
        field.name: getattr(theme, field.name)
        for field in fields(theme)
        if field.name not in {"series", "diverging", "beam"}
    }
    for name in ("series", "beam"):
        named |= {f"{name}-{i}": colour for i, colour in enumerate(getattr(theme, name), start=1)}
    return named


def variables(theme: Theme) -> str:
    """Return the theme as CSS custom properties."""
    return " ".join(f"--{name}: {colour};" for name, colour in names(theme).items())
