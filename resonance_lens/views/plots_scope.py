"""The drawing of traces, and of one against the other, on the graticule of an oscilloscope."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from resonance_lens.views.content import Numbers
from resonance_lens.views.oscilloscopes import DOTTED, Oscilloscope
from resonance_lens.views.plotting import drawable, turns
from resonance_lens.views.sweeps import Sweep
from resonance_lens.views.theme import Theme

BEAM, HALO, FAINT = 1.4, 5.0, 0.12
"""Widths of a trace and of the light around it in points, and how strong that light is."""

CLEAR = 16
"""Cycles up to which a figure is drawn in full light."""

DIVISIONS = 8


COLUMNS = 4
"""Most screens beside each other."""


def screens(where: Figure | SubFigure, shown: Oscilloscope | Sweep, theme: Theme) -> None:
    """Draw one oscilloscope with both traces, or the screens of several beside each other."""
    if isinstance(shown, Oscilloscope):
        _oscilloscope(where, shown, theme)
        return
    columns = min(COLUMNS, len(shown.still))
    rows = -(-len(shown.still) // columns)
    axes = where.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(shown.still) :]:
        ax.set_axis_off()
    for place, (ax, i) in enumerate(zip(axes, shown.still, strict=False)):
        one = shown.screens[i]
        _against(ax, one, theme)
        ax.set_title(drawable(f"{shown.along} {shown.titles[i]}", 40), loc="left")
        if place % columns:
            ax.tick_params(labelleft=False)
        if place + columns < len(shown.still):
            ax.tick_params(labelbottom=False)
    first = shown.screens[0]
    where.supylabel(drawable(f"{first.names[1]} ({first.units})", 60), fontsize=8.5)
    below = axes[columns * (rows - 1)]
    below.set_xlabel(drawable(first.names[0], 40), loc="left")


def screens_height(shown: Sweep) -> float:
    """Return the height in inches that screens beside each other need."""
    rows = -(-len(shown.still) // COLUMNS)
    return 0.9 + 2.55 * rows


def _against(ax: Axes, shown: Oscilloscope, theme: Theme) -> None:
    """Draw the figure of one trace against the other."""
    times, norm = _times(shown)
    _screen(ax, theme)
    _divide(ax, "x", shown, 0, theme)
    _divide(ax, "y", shown, 1, theme)
    ax.set_box_aspect(1)
    _beam(ax, shown.curves[0], shown.curves[1], times, norm, shown, theme, light=_light(shown))
    _points(ax, shown.traces[0], shown.traces[1], theme)


def _times(shown: Oscilloscope) -> tuple[Numbers, Normalize]:
    """Return the times of a curve, and what makes colours of them."""
    places = shown.x.values
    ends = (places[0], places[-1]) if places.size > 1 else (places[0] - 0.5, places[0] + 0.5)
    return np.interp(shown.between, np.arange(places.size), places), Normalize(*ends)


def _oscilloscope(where: Figure | SubFigure, shown: Oscilloscope, theme: Theme) -> None:
    """Draw both traces on the left, and on the right the figure of the first against the second.

    The traces show which colour is which time.
    """
    grid = where.add_gridspec(2, 2, width_ratios=(1.62, 1))
    first = where.add_subplot(grid[0, 0])
    second = where.add_subplot(grid[1, 0])
    against = where.add_subplot(grid[:, 1])
    times, norm = _times(shown)
    for i, ax in enumerate((first, second)):
        _screen(ax, theme)
        _divide(ax, "y", shown, i, theme)
        ax.set_xlim(norm.vmin, norm.vmax)
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        _beam(ax, times, shown.curves[i], times, norm, shown, theme)
        _points(ax, shown.x.values, shown.traces[i], theme)
        ax.set_ylabel(drawable(shown.names[i], 24))
    first.tick_params(labelbottom=False)
    second.set_xlabel(drawable(shown.x.label, 60))
    _against(against, shown, theme)
    against.set_xlabel(drawable(shown.names[0], 40))
    against.set_ylabel(drawable(shown.names[1], 40))
    said = f"{textwrap.fill(drawable(shown.label, 90), 60)} ({drawable(shown.units, 40)})"
    first.set_title(said, loc="left")
    against.set_title("one against the other", loc="left")


def _screen(ax: Axes, theme: Theme) -> None:
    ax.set_facecolor(theme.paper)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(theme.rule)
    ax.grid(True, color=theme.rule, linewidth=0.5)
    ax.tick_params(length=0)


def _divide(ax: Axes, axis: str, shown: Oscilloscope, trace: int, theme: Theme) -> None:
    """Draw the divisions of an axis with the values of a trace, the middle one stronger."""
    low, high = shown.limits[trace]
    margin = 0.08 * (high - low)
    ticks, labels = _divisions(shown, trace)
    middle: Any = {"color": theme.rule, "linewidth": 1.1, "zorder": 1}
    if axis == "x":
        ax.set_xlim(low - margin, high + margin)
        ax.set_xticks(ticks, labels=labels)
        ax.axvline((low + high) / 2, **middle)
    else:
        ax.set_ylim(low - margin, high + margin)
        ax.set_yticks(ticks, labels=labels)
        ax.axhline((low + high) / 2, **middle)


def _divisions(shown: Oscilloscope, trace: int) -> tuple[list[float], list[str]]:
    """Return where the divisions of a trace lie, and the values beside every other one."""
    low, high = shown.limits[trace]
    if shown.view.colours == "cyclic":
        return turns(low, high)
    every = MaxNLocator(DIVISIONS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    ticks = [float(tick) for tick in every if low - slack <= tick <= high + slack]
    said = [f"{tick:.3g}".replace("-", "\u2212") for tick in ticks]
    return ticks, [text if i % 2 == len(ticks) // 2 % 2 else "" for i, text in enumerate(said)]


def _light(shown: Oscilloscope) -> float:
    """Return how strongly a figure is drawn, from 0 to 1: faintly where many cycles lie over each other."""
    curve = shown.curves[0][np.isfinite(shown.curves[0])]
    above = curve > curve.mean() if curve.size else curve
    cycles = np.count_nonzero(np.diff(above.astype(int))) / 2
    return min(1.0, CLEAR / max(cycles, 1.0))


def _beam(
    ax: Axes,
    x: Numbers,
    y: Numbers,
    time: Numbers,
    norm: Normalize,
    shown: Oscilloscope,
    theme: Theme,
    light: float = 1.0,
) -> None:
    """Draw a curve whose colour runs along time, with a little light around it."""
    points = np.column_stack([x, y])
    if len(points) < 2:
        return
    if shown.view.colours == "cyclic":
        # An angle that passes the end of its range does not cross the screen; time has no such end.
        angles = points[:, 1:] if x is time else points
        jumps = np.flatnonzero((np.abs(np.diff(angles, axis=0)) > np.pi).any(axis=1)) + 1
        points, time = np.insert(points, jumps, np.nan, axis=0), np.insert(time, jumps, time[jumps])
    starts = np.unique(np.linspace(0, len(points) - 1, len(theme.beam) + 1).astype(int))
    ends = list(zip(starts[:-1], starts[1:], strict=True))
    pieces: list[Any] = [points[a : b + 1] for a, b in ends]
    middle = norm(np.array([(time[a] + time[b]) / 2 for a, b in ends]))
    steps = np.clip(np.asarray(middle) * len(theme.beam), 0, len(theme.beam) - 1).astype(int)
    faces = [theme.beam[step] for step in steps]
    strong = 0.4 + 0.6 * light
    for width, alpha in ((HALO, FAINT * light), (BEAM * strong, strong)):
        ax.add_collection(
            LineCollection(pieces, colors=faces, linewidths=width, alpha=alpha, capstyle="round", zorder=2)
        )


def _points(ax: Axes, x: Numbers, y: Numbers, theme: Theme) -> None:
    if len(x) > DOTTED:
        return
    ax.plot(x, y, ".", color=theme.ink, markersize=2.4, alpha=0.6, mew=0, zorder=3)
