"""Static figures with matplotlib, for every kind of view, in a light and a dark theme.

Nothing here touches pyplot, and importing `resonance_lens` does not import this module.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure, SubFigure

from resonance_lens.errors import ParameterError, ResultError, wrong_parameter
from resonance_lens.files import write_atomically
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views import (
    plots,
    plots_heads,
    plots_images,
    plots_maps,
    plots_network,
    plots_scatter,
    plots_scope,
    plots_tokens,
)
from resonance_lens.views.build import Shown, build
from resonance_lens.views.content import Heads, Lines, Map
from resonance_lens.views.images import Image
from resonance_lens.views.networks import Network
from resonance_lens.views.oscilloscopes import Oscilloscope
from resonance_lens.views.plotting import FONT, drawable
from resonance_lens.views.scatters import Scatter
from resonance_lens.views.sweeps import Sweep
from resonance_lens.views.theme import LIGHT, THEMES, Theme
from resonance_lens.views.token_values import TokenValues

if TYPE_CHECKING:
    pass

WIDTH, PANELS_WIDTH = 7.6, 10.4
"""Inches, of most figures and of lines in panels beside each other."""

CAPTION_CHARACTERS = 112
"""Longest line under a figure."""

FORMATS = ("png", "svg", "pdf")


def draw(
    view: ViewSpec,
    result: Result,
    *,
    theme: str = "light",
    title: bool = True,
) -> Figure:
    """Return one view as a figure.

    Parameters
    ----------
    view
        What to draw, one of ``result.views`` or your own.
    result
        Where its numbers are.
    theme
        ``light`` or ``dark``.
    title
        Whether the figure carries the view's title.
    """
    return draw_content(build(view, result), theme=_theme(theme), title=title)


def draw_result(result: Result, *, theme: str = "light") -> Figure:
    """Return every view of a result in one figure; without exhibits, the attention views are left out.

    Raises
    ------
    ResultError
        If the result has no view that can be drawn.
    """
    colours = _theme(theme)
    shown = [build(view, result) for view in result.views]
    shown = [one for one in shown if not isinstance(one, Heads) or one.exhibits]
    if not shown:
        raise ResultError(f"The result {result.name!r} has no view to draw without its run.")
    heights = [height(one, title=True) for one in shown]
    with style(colours):
        whole = Figure(figsize=(max(map(width, shown)), sum(heights)), layout="constrained")
        parts = whole.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, one in zip(parts, shown, strict=True):
            _fill(part, one, colours, title=True)
    return whole


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF, by the ending of ``path``; equal figures give equal bytes.

    Raises
    ------
    ParameterError
        If the ending is another one.
    """
    path = Path(path)
    ending = path.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        wanted = "a file ending in " + ", ".join(f".{known}" for known in FORMATS)
        raise ParameterError(wrong_parameter("save", "path", wanted, str(path)))
    settings: dict[str, Any] = {"format": ending, "dpi": 200, "metadata": undated(ending)}
    with matplotlib.rc_context({"svg.hashsalt": "resonance_lens"}):
        write_atomically(path, lambda file: figure.savefig(file, **settings))
    return path


def draw_content(
    shown: Shown,
    *,
    theme: Theme = LIGHT,
    title: bool = True,
    interpolation: str = "nearest",
) -> Figure:
    """Return what a view shows as a figure.

    With ``interpolation="none"`` an SVG holds one pixel for each cell, which browsers scale without
    smoothing; other programs may smooth.
    """
    with style(theme, interpolation=interpolation):
        made = Figure(figsize=(width(shown), height(shown, title=title)), layout="constrained")
        _fill(made, shown, theme, title=title)
    return made


def width(shown: Shown) -> float:
    """Return the width in inches that a view needs: lines in panels beside each other are wider."""
    if isinstance(shown, Lines):
        return PANELS_WIDTH if len(shown.panels) > 1 and not shown.stacked else WIDTH
    if isinstance(shown, Image):
        return PANELS_WIDTH if len(shown.grids) > 1 else WIDTH
    if isinstance(shown, Scatter):
        return PANELS_WIDTH if len(shown.clouds) > 1 else WIDTH
    if isinstance(shown, Map):
        return PANELS_WIDTH if shown.view.kind == "layer_head_map" and len(shown.grids) > 2 else WIDTH
    return PANELS_WIDTH if isinstance(shown, Oscilloscope | Sweep) else WIDTH


def height(shown: Shown, *, title: bool) -> float:
    """Return the height in inches that a view needs."""
    extra = (0.32 if title else 0.0) + 0.13 * _caption(shown).count("\n")
    if isinstance(shown, Lines):
        unnamed = [panel for panel in shown.panels if not plots.labelled(panel)]
        most = max((sum(line.shade is None for line in panel.lines) for panel in unnamed), default=0)
        rows = math.ceil(most / plots.legend_columns(shown)) + bool(shown.series and most)
        titled = any(panel.title for panel in shown.panels)
        rows += 5 + 10 * (len(shown.panels) - 1) if shown.stacked else 0
        return extra + 2.8 + (0.42 if shown.periods else 0.0) + 0.16 * rows + (0.5 if titled else 0.0)
    if isinstance(shown, Heads):
        return extra + plots_heads.heads_height(shown, WIDTH)
    if isinstance(shown, Image):
        above = (0.42 if shown.x.periods else 0.0) + (0.2 if any(one.title for one in shown.grids) else 0.0)
        return extra + above + 0.75 + min(3.6, max(2.2, 0.12 * shown.y.values.size))
    if isinstance(shown, Oscilloscope):
        return extra + 3.9
    if isinstance(shown, Sweep):
        return extra + plots_scope.screens_height(shown)
    if isinstance(shown, Network):
        return extra + plots_network.network_height(shown)
    if isinstance(shown, Scatter):
        return extra + plots_scatter.scatter_height(shown)
    if isinstance(shown, TokenValues):
        return extra + plots_tokens.token_values_height(shown)
    if shown.view.kind == "layer_head_map":
        return extra + 0.95 + min(4.2, max(1.5, 0.24 * len(shown.y)))
    if shown.x != shown.y:
        return extra + 1.1 + min(4.5, max(1.0, 0.34 * len(shown.y)))
    # What is compared with itself has square cells: a few rows need no more than their share.
    return extra + (5.6 if len(shown.grids) == 1 else 0.9 + WIDTH / len(shown.grids))


@contextmanager
def style(theme: Theme, *, interpolation: str = "nearest") -> Iterator[None]:
    """Draw in the colours of a theme, with names and tokens never read as mathematics."""
    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "image.interpolation": interpolation,
        "font.family": [FONT],
        "font.size": 8.5,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8.5,
        "legend.fontsize": 8,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": theme.rule,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.facecolor": theme.panel,
        "figure.facecolor": theme.panel,
        "savefig.facecolor": "auto",
        "text.color": theme.ink,
        "xtick.color": theme.rule,
        "ytick.color": theme.rule,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(settings):
        yield


def _fill(where: Figure | SubFigure, shown: Shown, theme: Theme, *, title: bool) -> None:
    DRAWERS[shown.view.kind](where, shown, theme)
    if title:
        said = drawable(shown.view.title, 90)
        where.suptitle(said, x=0.012, ha="left", fontsize=11, fontweight="bold")
    where.supxlabel(_caption(shown), x=0.012, ha="left", fontsize=7.5, color=theme.muted)


DRAWERS: dict[str, Callable[..., None]] = {
    "lines": plots.lines,
    "bode": plots.lines,
    "layer_head_map": plots_maps.heat_map,
    "matrix": plots_maps.heat_map,
    "image": plots_images.image,
    "oscilloscope": plots_scope.screens,
    "network": plots_network.network,
    "scatter": plots_scatter.scatter,
    "token_values": plots_tokens.token_values,
    "attention_heads": plots_heads.patterns,
    "colored_tokens": plots_heads.token_strips,
}


def _caption(shown: Shown) -> str:
    longest = int(CAPTION_CHARACTERS * width(shown) / WIDTH)
    return textwrap.fill(drawable(shown.caption, 600), longest)


def _theme(name: str) -> Theme:
    if name not in THEMES:
        wanted = "one of " + ", ".join(map(repr, THEMES))
        raise ParameterError(wrong_parameter("draw", "theme", wanted, name))
    return THEMES[name]


def undated(ending: str) -> dict[str, Any]:
    """Return the metadata that keeps the date, and the version of matplotlib, out of a file."""
    if ending == "png":
        return {"Software": None}
    if ending == "svg":
        return {"Date": None, "Creator": None}
    return {"CreationDate": None, "Creator": None, "Producer": None}
