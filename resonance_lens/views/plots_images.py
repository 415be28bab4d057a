"""The drawing of heat maps over two axes of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure

from resonance_lens.views.content import Grid
from resonance_lens.views.images import Image
from resonance_lens.views.plotting import (
    INK_ON_DARK,
    INK_ON_LIGHT,
    colour_bar,
    colour_map,
    drawable,
    number_ticks,
    period_axis,
)
from resonance_lens.views.theme import Theme


def image(where: Figure | SubFigure, shown: Image, theme: Theme) -> None:
    """Draw one heat map, or several beside each other with one colour bar."""
    axes = where.subplots(1, len(shown.grids), squeeze=False, sharey=True)[0]
    colours = colour_map(shown.view.colours, theme)
    norm = Normalize(*shown.limits)
    for ax, grid in zip(axes, shown.grids, strict=True):
        cells = _cells(ax, grid, shown, colours, norm)
        if shown.points is not None:
            # Light inside of dark: seen on every colour.
            for ink, size in ((INK_ON_LIGHT, 3.4), (INK_ON_DARK, 2.0)):
                ax.plot(shown.x.values, shown.points, "o", color=ink, markersize=size, mew=0, zorder=3)
        ax.set_title(drawable(grid.title, 60), loc="left", fontweight="bold")
        ax.set_xlabel(drawable(shown.x.label, 60))
        ax.tick_params(length=3)
        number_ticks(ax.xaxis, shown.x.values, shown.x.scale, panels=len(axes))
        if shown.x.periods:
            period_axis(ax, "top", shown.x.periods, theme, shown.x.values, panels=len(axes))
    number_ticks(axes[0].yaxis, shown.y.values, shown.y.scale)
    axes[0].set_ylabel(drawable(shown.y.label, 60))
    if shown.y.periods:
        period_axis(axes[-1], "right", shown.y.periods, theme, shown.y.values)
    colour_bar(
        where, cells, list(axes), theme, label=shown.label, units=shown.units, extend=shown.extend,
        cyclic=shown.view.colours == "cyclic",
    )  # fmt: skip


def _cells(ax: Axes, grid: Grid, shown: Image, colours: Colormap, norm: Normalize) -> Any:
    """Draw the cells: one pixel each where all have one size, else as pixels of the figure."""
    x, y = shown.x.edges, shown.y.edges
    for axis, scale in ((ax.set_xscale, shown.x.scale), (ax.set_yscale, shown.y.scale)):
        if scale == "log":
            axis("log")
    even = shown.x.even and shown.y.even and "log" not in (shown.x.scale, shown.y.scale)
    values = np.ma.masked_invalid(grid.values)
    if even:
        cells: Any = ax.imshow(
            values, aspect="auto", origin="lower", extent=(x[0], x[-1], y[0], y[-1]), cmap=colours, norm=norm
        )
    else:
        # As vectors, each cell would be a polygon: megabytes, and seconds to show.
        cells = ax.pcolormesh(x, y, values, cmap=colours, norm=norm, rasterized=True)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    return cells
