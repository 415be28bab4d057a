"""The drawing of values of tokens, on their text."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from resonance_lens.views.plots_heads import STRIP_CHARACTERS, STRIP_DARKEST, rows_of_text
from resonance_lens.views.plotting import CIRCLE, MONOSPACED, colour_bar, drawable, ink_on
from resonance_lens.views.theme import Theme
from resonance_lens.views.token_values import DRAWN, TokenValues, Tracks

STATIC_TRACKS = 4
"""Most tracks of each group in the static figure."""


POSITIVE, NEGATIVE = 3, 1
"""Which of the theme's series colours stand for values above and below 0."""


def token_values(where: Figure | SubFigure, shown: TokenValues, theme: Theme) -> None:
    """Draw each track as a strip of text, and beside each group of tracks its colours."""
    axes = where.subplots(
        len(shown.groups), 1, squeeze=False, height_ratios=[_rows(shown, group) for group in shown.groups]
    )[:, 0]
    lines = rows_of_text(shown.tokens[:DRAWN])
    for ax, group in zip(axes, shown.groups, strict=True):
        ax.set_axis_off()
        ax.set_xlim(0, STRIP_CHARACTERS)
        colours, norm = track_colours(group, theme, cyclic=shown.cyclic), Normalize(*group.limits)
        y = 0.0
        for track in group.tracks[:STATIC_TRACKS]:
            y += 1.5
            ax.text(0, y, drawable(track.label, 100), fontsize=7.5, color=theme.muted, va="center")
            for line in lines:
                y += 1
                for start, token, text in line:
                    _token(ax, (start, y), text, track.values[token], colours, norm, theme, shown.cyclic)
        ax.set_ylim(y + 0.8, 0.6)
        colour_bar(
            where, ScalarMappable(norm, colours), [ax], theme, label=group.label, units=group.units,
            cyclic=shown.cyclic, location="bottom", aspect=50, shrink=0.45, anchor=(0, 1), pad=0.01,
        )  # fmt: skip


def _token(
    ax: matplotlib.axes.Axes,
    at: tuple[float, float],
    text: str,
    value: float,
    colours: Colormap,
    norm: Normalize,
    theme: Theme,
    cyclic: bool,
) -> None:
    ink = theme.ink
    if np.isfinite(value):
        face = colours(float(norm(value)))
        box = Rectangle((at[0], at[1] - 0.42), len(text), 0.84, facecolor=face, linewidth=0)
        ax.add_patch(box)
        if cyclic:
            ink = ink_on(face)
    ax.text(
        at[0] + len(text) / 2, at[1], text, color=ink, fontsize=7, family=MONOSPACED, ha="center", va="center"
    )


def track_colours(group: Tracks, theme: Theme, *, cyclic: bool) -> Colormap:
    """Return the colours of values: a circle, or up to as much colour as leaves text readable."""
    if cyclic:
        return matplotlib.colormaps[CIRCLE]
    none = np.array(to_rgb(theme.panel))
    positive, negative = (
        tuple(none + STRIP_DARKEST * (np.array(to_rgb(theme.series[i])) - none)) for i in (POSITIVE, NEGATIVE)
    )
    ends = [negative, tuple(none), positive] if group.signed else [tuple(none), positive]
    return LinearSegmentedColormap.from_list("values", ends)


def token_values_height(shown: TokenValues) -> float:
    """Return the height in inches that the strips need."""
    return 0.3 + sum(0.65 + 0.19 * _rows(shown, group) for group in shown.groups)


def _rows(shown: TokenValues, group: Tracks) -> float:
    lines = len(rows_of_text(shown.tokens[:DRAWN]))
    return min(STATIC_TRACKS, len(group.tracks)) * (lines + 1.5)
