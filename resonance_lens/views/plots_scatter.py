"""The drawing of points, with their intervals and the names of the extreme ones."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from resonance_lens.views.content import Numbers
from resonance_lens.views.plots_network import SHAPES
from resonance_lens.views.plotting import drawable, finish, number_ticks, shade_colours
from resonance_lens.views.scatters import CROSSES, Cloud, Scatter
from resonance_lens.views.theme import Theme

HEIGHT = 3.7
"""Inches of a panel with its labels."""

NAME_SIZE = 7.0
"""Points, of the letters of a name."""

LETTER, LINE, GAP = 0.62 * NAME_SIZE / 72, 1.25 * NAME_SIZE / 72, 0.055
"""Inches: width of a letter, height of a name, and between a name and its point."""

AROUND = (
    (1, 0),
    (-1, 0),
    (0, 1),
    (0, -1),
    (1, 1),
    (-1, 1),
    (1, -1),
    (-1, -1),
    (2, 2),
    (-2, 2),
    (2, -2),
    (-2, -2),
)
"""Where a name may stand beside its point, the best place first."""


def scatter(where: Figure | SubFigure, shown: Scatter, theme: Theme) -> None:
    """Draw the points, panels beside each other on the same axes."""
    axes = where.subplots(1, len(shown.clouds), squeeze=False, sharex=True, sharey=True)[0]
    for panel, (ax, cloud) in enumerate(zip(axes, shown.clouds, strict=True)):
        _points(ax, cloud, shown, theme, panel)
    for ax in axes:
        _lines_of_reference(ax, shown, theme)
    inches = _panel_inches(where, len(axes))
    for ax, cloud in zip(axes, shown.clouds, strict=True):
        _names(ax, cloud, theme, inches)
    axes[0].set_ylabel(_axis_label(shown.y_label, shown.y_units, 36, "\n"))
    if shown.shades is not None:
        label, low, high = shown.shades
        bar = where.colorbar(
            ScalarMappable(Normalize(low, high), shade_colours()), ax=list(axes), aspect=30, pad=0.02
        )
        finish(bar, theme)
        bar.set_label(drawable(label, 40))
        if all(value == round(value) for value in (low, high)):
            bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    elif shown.classes:
        _legend(axes[0], shown, theme)


def tips(shown: Scatter) -> dict[str, list[str]]:
    """Return, by the id of each group of points, what they say when they are pointed at."""
    return {
        _identity(panel, group): [shown.tip(cloud, i) for i in members]
        for panel, cloud in enumerate(shown.clouds)
        for group, members in _groups(cloud)
    }


def scatter_height(shown: Scatter) -> float:
    """Return the height in inches that points need with their axes, titles and legend."""
    titled = any(cloud.title for cloud in shown.clouds)
    return HEIGHT + (0.3 if titled else 0.0) + (0.36 if shown.classes else 0.0)


def _groups(cloud: Cloud) -> list[tuple[int, list[int]]]:
    """Return the indices of the points of each class; of all points, as class 0, without classes."""
    if cloud.group is None:
        return [(0, list(range(len(cloud.labels))))] if cloud.labels else []
    return [(int(g), np.flatnonzero(cloud.group == g).tolist()) for g in np.unique(cloud.group)]


def _identity(panel: int, group: int) -> str:
    return f"points-{panel}-{group}"


def _points(ax: Axes, cloud: Cloud, shown: Scatter, theme: Theme, panel: int) -> None:
    ax.grid(True)
    if shown.view.x_scale == "log":
        ax.set_xscale("log")
    if shown.view.y_scale == "log":
        ax.set_yscale("log")
    ax.margins(0.07)
    many = len(cloud.labels) > CROSSES
    colours = _colours(cloud, theme)
    crossed = list(cloud.crossed)
    of_crosses = [colours[i] for i in crossed]
    if cloud.x_low is not None and cloud.x_high is not None and crossed:
        ax.hlines(cloud.y[crossed], cloud.x_low[crossed], cloud.x_high[crossed], colors=of_crosses,
                  linewidth=0.8, alpha=0.55, zorder=2)  # fmt: skip
    if cloud.y_low is not None and cloud.y_high is not None and crossed:
        ax.vlines(cloud.x[crossed], cloud.y_low[crossed], cloud.y_high[crossed], colors=of_crosses,
                  linewidth=0.8, alpha=0.55, zorder=2)  # fmt: skip
    for group, members in _groups(cloud):
        drawn: PathCollection = ax.scatter(
            cloud.x[members], cloud.y[members], s=14 if many else 26, c=[colours[i] for i in members],
            marker=SHAPES[group % len(SHAPES)], alpha=0.85, linewidths=0, zorder=3 + group, clip_on=False,
        )  # fmt: skip
        drawn.set_gid(_identity(panel, group))
    if cloud.title:
        ax.set_title(drawable(cloud.title, 60), loc="left", fontweight="bold")
    ax.set_xlabel(_axis_label(shown.x_label, shown.x_units, 60, " "))
    ax.tick_params(length=3)


def _axis_label(label: str, units: str, width: int, between: str) -> str:
    said = textwrap.fill(drawable(label, 90), width)
    return f"{said}{between}({drawable(units, 40)})" if units else said


def _colours(cloud: Cloud, theme: Theme) -> list[Any]:
    """Return the colour of each point; the first of several classes is grey, for others to stand out from."""
    if cloud.shade is not None:
        return list(map(tuple, shade_colours()(cloud.shade)))
    if cloud.group is not None:
        return [_class_colour(int(group), theme) for group in cloud.group]
    return [theme.series[0]] * len(cloud.labels)


def _class_colour(group: int, theme: Theme) -> str:
    return theme.null if group == 0 else theme.series[(group - 1) % len(theme.series)]


def _lines_of_reference(ax: Axes, shown: Scatter, theme: Theme) -> None:
    """Draw zero, and where both axes are in one unit the diagonal; the ends of the axes stay."""
    ends = (ax.get_xlim(), ax.get_ylim())
    for scale, units, (low, high), line in (
        (shown.view.x_scale, shown.x_units, ends[0], ax.axvline),
        (shown.view.y_scale, shown.y_units, ends[1], ax.axhline),
    ):
        if scale == "linear" and units and low < 0 < high:  # the zeroth layer is a layer like others
            line(0, color=theme.muted, linewidth=0.8, zorder=1)
    low, high = max(one[0] for one in ends), min(one[1] for one in ends)
    if shown.equal and low < high:
        ax.plot([low, high], [low, high], color=theme.muted, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    ax.set_xlim(*ends[0])
    ax.set_ylim(*ends[1])
    for axis, scale in ((ax.xaxis, shown.view.x_scale), (ax.yaxis, shown.view.y_scale)):
        number_ticks(axis, None, scale, panels=len(shown.clouds))
    if shown.view.x_scale == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(min(9, 12 // len(shown.clouds)), steps=[1, 2, 2.5, 5, 10]))


def _panel_inches(where: Figure | SubFigure, panels: int) -> tuple[float, float]:
    """Return about how large a panel will be, before the layout is known."""
    width, height = where.bbox.width / where.figure.dpi, where.bbox.height / where.figure.dpi
    return max(1.0, (width - 1.7) / panels), max(1.0, height - 1.1)


def _names(ax: Axes, cloud: Cloud, theme: Theme, inches: tuple[float, float]) -> None:
    """Name the extreme points, each where it covers the fewest other points and no other name."""
    if not cloud.named:
        return
    shares = (ax.transScale + ax.transLimits).transform(np.column_stack([cloud.x, cloud.y]))
    at = shares * inches  # [point, 2], in inches from the lower left corner
    taken: list[tuple[float, float, float, float]] = []
    for i in cloud.named:
        boxes = [_box(at[i], cloud.labels[i], side) for side in AROUND]
        costs = [_cost(box, taken, at, inches) for box in boxes]
        best = int(np.argmin(costs))
        box = boxes[best]
        taken.append(box)
        far = max(map(abs, AROUND[best])) > 1
        middle = ((box[0] + box[2]) / 2 - at[i][0], (box[1] + box[3]) / 2 - at[i][1])
        ax.annotate(
            drawable(cloud.labels[i], 24), (cloud.x[i], cloud.y[i]), fontsize=NAME_SIZE, color=theme.ink,
            xytext=(72 * middle[0], 72 * middle[1]), textcoords="offset points", ha="center", va="center",
            zorder=9, annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.05", "facecolor": theme.panel, "alpha": 0.6, "linewidth": 0},
            arrowprops={"arrowstyle": "-", "color": theme.muted, "linewidth": 0.6} if far else None,
        )  # fmt: skip


def _box(point: Numbers, label: str, side: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the corners of a name at one side of its point."""
    width, height = LETTER * len(label), LINE
    far = max(abs(side[0]), abs(side[1]))
    across = point[0] + np.sign(side[0]) * (width / 2 + GAP) * (1 if far < 2 else 1.4)
    up = point[1] + np.sign(side[1]) * (height / 2 + GAP) * (1 if far < 2 else 2.2)
    return (across - width / 2, up - height / 2, across + width / 2, up + height / 2)


def _cost(
    box: tuple[float, float, float, float],
    taken: list[tuple[float, float, float, float]],
    at: Numbers,
    inches: tuple[float, float],
) -> float:
    left, low, right, high = box
    covered = (at[:, 0] > left) & (at[:, 0] < right) & (at[:, 1] > low) & (at[:, 1] < high)
    crossed = sum(
        left < other[2] and other[0] < right and low < other[3] and other[1] < high for other in taken
    )
    outside = left < 0 or low < 0 or right > inches[0] or high > inches[1]
    return float(covered.sum()) + 40 * crossed + 60 * outside


def _legend(ax: Axes, shown: Scatter, theme: Theme) -> None:
    counts = [
        sum(int((cloud.group == i).sum()) for cloud in shown.clouds if cloud.group is not None)
        for i in range(len(shown.classes))
    ]
    handles = [
        Line2D(
            [], [], color=_class_colour(i, theme), marker=SHAPES[i % len(SHAPES)], linestyle="none",
            markersize=5, mew=0, label=f"{drawable(name, 30)} ({count})",
        )
        for i, (name, count) in enumerate(zip(shown.classes, counts, strict=True))
    ]  # fmt: skip
    raised = 1.0 + (0.09 if any(cloud.title for cloud in shown.clouds) else 0.0)
    legend = ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, raised), ncols=max(1, math.ceil(len(handles))),
        frameon=False, borderaxespad=0.2, handlelength=1.2, columnspacing=1.3,
        title=drawable(shown.grouped, 80), title_fontsize=8, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.muted)
