"""The drawing of maps of heads, and of any matrix."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from resonance_lens.views.content import Grid, Map
from resonance_lens.views.plots import MARKS
from resonance_lens.views.plotting import (
    INK_ON_DARK,
    INK_ON_LIGHT,
    class_colours,
    colour_bar,
    colour_map,
    drawable,
    finish,
)
from resonance_lens.views.theme import Theme

MOST_TICKS = 16
"""Of an axis; panels beside each other share them."""


def heat_map(where: Figure | SubFigure, shown: Map, theme: Theme) -> None:
    """Draw one heat map, or several beside each other with one colour bar."""
    axes = where.subplots(1, len(shown.grids), squeeze=False, sharey=True)[0]
    colours = class_colours(len(shown.classes)) if shown.classes else colour_map(shown.view.colours, theme)
    norm = Normalize(*shown.limits)
    for ax, grid in zip(axes, shown.grids, strict=True):
        image = _grid(ax, grid, shown, theme, colours, norm)
    axes[0].set_ylabel(drawable(shown.y_label, 40))
    if shown.classes:
        counts = [
            sum(int((grid.values == i).sum()) for grid in shown.grids) for i in range(len(shown.classes))
        ]
        names = [f"{drawable(name, 24)} ({n})" for name, n in zip(shown.classes, counts, strict=True)]
        bar = where.colorbar(image, ax=list(axes), aspect=30, pad=0.02, ticks=range(len(names)))
        finish(bar, theme)
        bar.ax.tick_params(length=0)
        bar.set_ticklabels(names)
        return
    colour_bar(
        where, image, list(axes), theme, label=shown.label, units=shown.units, extend=shown.extend,
        cyclic=shown.view.colours == "cyclic",
    )  # fmt: skip


def _grid(ax: Axes, grid: Grid, shown: Map, theme: Theme, colours: Colormap, norm: Normalize) -> Any:
    layered = shown.view.kind == "layer_head_map"
    image = ax.imshow(
        grid.values,
        aspect="auto" if layered or shown.x != shown.y else "equal",
        cmap=colours,
        norm=norm,
        origin="lower" if layered else "upper",
    )
    ax.set_title(drawable(grid.title, 60), loc="left")
    ax.set_xlabel(drawable(shown.x_label, 40))
    _ticks(ax.xaxis, ax.axvline, shown.x, theme, most=max(4, MOST_TICKS // len(shown.grids)))
    _ticks(ax.yaxis, ax.axhline, shown.y, theme)
    _marks(ax, grid, image)
    for layer, head in shown.outlined:
        corner = (shown.x.index(str(layer)) - 0.5, shown.y.index(str(head)) - 0.5)
        for colour, width in ((theme.panel, 3.2), (theme.outline, 1.4)):
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width))
    return image


def _marks(ax: Axes, grid: Grid, image: Any) -> None:
    """Mark the cells where the claim found something."""
    if grid.levels is None:
        return
    faces = image.cmap(image.norm(np.ma.masked_invalid(grid.values)))  # [row, column, 4]
    bright = faces[..., :3] @ np.array([0.299, 0.587, 0.114]) > 0.5
    for mark in MARKS:
        for ink, on in ((INK_ON_LIGHT, bright), (INK_ON_DARK, ~bright)):
            rows, columns = np.nonzero((grid.levels == mark.level) & on)
            if len(rows):
                style = mark.of(ink, "none")
                ax.plot(columns, rows, "o", **{**style, "mew": 0 if mark.filled else 0.9})


def _ticks(axis: Any, boundary: Any, labels: tuple[str, ...], theme: Theme, most: int = MOST_TICKS) -> None:
    """Label an axis: heads such as ``L3H2`` by layer, with a line between layers; else by value."""
    layers = [re.fullmatch(r"L(\d+)H\d+", label) for label in labels]
    axis.set_tick_params(length=0)
    if not labels or not all(layers):
        step = max(1, math.ceil(len(labels) / most))
        shown = [drawable(label, 24) for label in labels[::step]]
        axis.set_ticks(range(0, len(labels), step), shown)
        return
    groups = [(key, len(list(group))) for key, group in
              itertools.groupby(match[1] for match in layers if match)]  # fmt: skip
    starts = np.cumsum([0, *(size for _, size in groups)])
    for start in starts[1:-1]:
        boundary(start - 0.5, color=theme.muted, linewidth=0.35, alpha=0.45)
    step = max(1, math.ceil(len(groups) / most))
    centres = [start + (size - 1) / 2 for start, (_, size) in zip(starts, groups, strict=False)]
    axis.set_ticks(centres[::step], [f"L{key}" for key, _ in groups][::step])
