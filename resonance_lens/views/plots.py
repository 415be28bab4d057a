"""The drawing of lines into a matplotlib figure or part of one."""

from __future__ import annotations

import itertools
import math
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import ScaledTranslation

from resonance_lens.result import Scale
from resonance_lens.views.content import Line, Lines, Panel, Role
from resonance_lens.views.decibels import DECIBELS
from resonance_lens.views.lines import MOST_SPREADS, POINTS
from resonance_lens.views.plotting import (
    drawable,
    finish,
    number_ticks,
    period_axis,
    shade_colours,
    unbroken,
)
from resonance_lens.views.theme import Theme

MOST_LABELLED = 8
"""Up to this many lines are named beside their ends; above, by a legend."""

LABEL_CHARACTERS = 20
"""Longest line of a label beside the end of a line."""

LABEL_HEIGHT = 0.066
"""Height of one line of such a label, as a share of the panel's."""

LABEL_GAP, LABEL_SAMPLE = 0.03, 0.055
"""Before the piece of line that a label begins with, and its length, as shares of the panel's width."""

STACKED = (1.6, 1.0)
"""Heights of panels below each other, as shares."""

DEEPEST = 6.0
"""Decibels beyond the lines at which bounds leave a panel."""

PERIODS_HEIGHT = 0.42
"""Inches that the periods above a panel take."""

DASHES: dict[Role, Any] = {
    "value": "solid",
    "null": (0, (5, 2)),
    "baseline": (0, (2.5, 1.5)),
    "random_weights": (0, (1, 1.3)),
    "shuffled_tokens": (0, (6, 1.5, 1, 1.5)),
}


@dataclass(frozen=True)
class Mark:
    """How a place with a level of a claim is marked: by size and filling, not by colour."""

    level: int
    size: float
    filled: bool

    def of(self, colour: Any, ground: Any) -> dict[str, Any]:
        """Return the mark in a colour, its hole in that of the ground."""
        face = colour if self.filled else ground
        return {"ms": self.size, "mfc": face, "mec": colour, "mew": 0 if self.filled else 1.1}


MARKS = (Mark(1, 2.2, True), Mark(2, 5.2, False), Mark(3, 6.0, True))


def lines(where: Figure | SubFigure, shown: Lines, theme: Theme) -> None:
    """Draw lines over one dimension, panels beside or below each other."""
    facets = not shown.stacked and len({panel.label for panel in shown.panels}) == 1
    if shown.stacked:
        ratios = STACKED[: len(shown.panels)]
        axes = where.subplots(len(shown.panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
    else:
        axes = where.subplots(1, len(shown.panels), squeeze=False, sharey=facets)[0]
    for i, (ax, panel) in enumerate(zip(axes, shown.panels, strict=True)):
        _panel(ax, panel, shown, theme)
        if facets and i:
            ax.set_ylabel("")
        if shown.stacked and i < len(axes) - 1:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
    # Many panels with lines of the same names have no room to name them in each.
    once = len(shown.panels) > 2 and len({tuple(sorted(_names(panel))) for panel in shown.panels}) == 1
    for i, (ax, panel) in enumerate(zip(axes, shown.panels, strict=True)):
        # The ends of the vertical axis are settled only now: panels may share it.
        if shown.view.y_scale == "log":
            number_ticks(ax.yaxis, None, "log")
        if labelled(panel) and (i == len(axes) - 1 or not once):
            _labels(ax, panel, theme, narrow=max(1.0, len(axes) / 2))
    if shown.shades is not None:
        label, low, high = shown.shades
        bar = where.colorbar(
            ScalarMappable(Normalize(low, high), shade_colours()), ax=list(axes), aspect=30, pad=0.02
        )
        finish(bar, theme)
        bar.set_label(drawable(label, 40))


def _panel(ax: Axes, panel: Panel, shown: Lines, theme: Theme) -> None:
    ax.grid(True)
    _across(ax, panel, shown.view.x_scale, len(shown.panels))
    if shown.view.y_scale == "log":
        ax.set_yscale("log")
    if panel.title:
        ax.set_title(drawable(panel.title, 60), loc="left", fontweight="bold")
    if panel.zero and shown.view.y_scale == "linear":
        ax.axhline(0, color=theme.rule, linewidth=1, zorder=1)
    for _, place in panel.uprights:
        ax.axvline(place, color=theme.outline, linewidth=1.1, zorder=3)
    _slopes(ax, panel, shown.view.slopes, theme)
    plain = [line for line in panel.lines if not line.reference]
    for line in panel.lines:
        _spread(ax, line, theme, n_lines=len(plain))
        _line(ax, line, theme, stems=shown.view.stems, angle=panel.angle)
    _upwards(ax, panel, shown, theme)
    beside = 1 if shown.stacked else len(shown.panels)
    ax.set_xlabel(textwrap.fill(drawable(shown.x_label, 60), max(18, 100 // beside)))
    ax.set_ylabel(f"{textwrap.fill(drawable(panel.label, 90), 36)}\n({drawable(panel.units, 40)})")
    ax.tick_params(length=3)
    if shown.periods and not (shown.stacked and panel is not shown.panels[0]):
        frequencies = np.concatenate([line.x for line in panel.lines])
        period_axis(ax, "top", shown.periods, theme, frequencies, panels=beside)
    if labelled(panel):
        return
    above = ScaledTranslation(0, PERIODS_HEIGHT if shown.periods else 0, ax.figure.dpi_scale_trans)
    legend = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        bbox_transform=ax.transAxes + above,
        ncols=legend_columns(shown),
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.8,
        columnspacing=1.4,
        labelspacing=0.25,
        title=drawable(shown.series, 40) or None,
        title_fontsize=8,
        alignment="left",
    )
    legend.get_title().set_color(theme.muted)


def _upwards(ax: Axes, panel: Panel, shown: Lines, theme: Theme) -> None:
    """Set the ends of the vertical axis, where they are not those of the data."""
    if panel.angle:
        _around(ax, panel, theme)
        return
    limits = shown.view.limits
    if limits is None and panel.units == DECIBELS:
        limits = _reach(panel)
    if limits is None:
        return
    low, high = limits
    if shown.view.y_scale == "log":
        ax.set_ylim(low, high)
    else:
        margin = 0.03 * (high - low)
        ax.set_ylim(low - margin, high + margin)


def _around(ax: Axes, panel: Panel, theme: Theme) -> None:
    """Set the ends of an axis of angles: as much of the circle as is used, with degrees on the right."""
    largest = max(float(np.nanmax(np.abs(line.y), initial=0.0)) for line in panel.lines)
    end = next(math.pi / part for part in (8, 4, 2, 1) if largest < 0.9 * math.pi / part or part == 1)
    ax.set_ylim(-end, end)
    ticks = [end * share for share in (-1, -0.5, 0, 0.5, 1)]
    ax.set_yticks(ticks, labels=[_part_of_pi(tick) for tick in ticks])
    degrees = ax.secondary_yaxis("right", functions=(np.degrees, np.radians))
    said = [f"{math.degrees(tick):g}\u00b0".replace("-", "\u2212") for tick in ticks]
    degrees.set_yticks([math.degrees(tick) for tick in ticks], labels=said)
    degrees.tick_params(length=3, color=theme.rule)
    degrees.spines[:].set_visible(False)


def _part_of_pi(angle: float) -> str:
    """Return an angle as a part of pi, such as a sixteenth."""
    if angle == 0:
        return "0"
    part = round(math.pi / abs(angle))
    return ("\u2212" if angle < 0 else "") + "\u03c0" + (f"/{part}" if part > 1 else "")


def _reach(panel: Panel) -> tuple[float, float] | None:
    """Return the ends of lines in decibels, with their bands: bounds near zero reach down without end."""
    ys = np.concatenate([line.y for line in panel.lines])
    ys = ys[np.isfinite(ys)]
    if not ys.size:
        return None
    low, high = float(ys.min()), float(ys.max())
    bounds = [b for line in panel.lines for b in (line.low, line.high) if b is not None]
    every = np.concatenate([ys, *bounds])
    every = every[(every >= low - DEEPEST) & (every <= high + DEEPEST)]
    low, high = float(every.min()), float(every.max())
    return (low, high) if high - low > 1 else (low - 0.5, high + 0.5)


def _slopes(ax: Axes, panel: Panel, slopes: tuple[float, ...], theme: Theme) -> None:
    """Draw powers of what is to the right as guides through the middle of the first values."""
    if not slopes:
        return
    values = [line for line in panel.lines if not line.reference and np.isfinite(line.y[0])]
    if not values:
        return
    x = values[0].x
    start = float(np.exp(np.median([np.log(line.y[0]) for line in values])))
    for slope in slopes:
        y = start * (x / x[0]) ** slope
        ax.plot(x, y, color=theme.muted, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1.5)
        ax.annotate(
            f"slope {slope:g}", (x[-1], y[-1]), (-4, 3), textcoords="offset points", ha="right",
            va="bottom", fontsize=7.5, color=theme.muted,
        )  # fmt: skip


def _across(ax: Axes, panel: Panel, scale: Scale, panels: int) -> None:
    """Set the ends and the ticks of the horizontal axis."""
    every = np.concatenate([line.x for line in panel.lines])
    ends = [every.min(), every.max(), *(place for _, place in panel.uprights)]
    first, last = float(min(ends)), float(max(ends))
    if scale == "log":
        ax.set_xscale("log")
        margin = (last / first) ** 0.02 if last > first else 2.0
        ax.set_xlim(first / margin, last * margin)
    else:
        margin = 0.02 * (last - first or 1)
        ax.set_xlim(first - margin, last + margin)
    number_ticks(ax.xaxis, np.unique(every), scale, panels=panels)


def labelled(panel: Panel) -> bool:
    """Whether each line is named beside its end; a legend names them where they are too many."""
    return sum(line.shade is None for line in panel.lines) <= MOST_LABELLED


def _names(panel: Panel) -> list[str]:
    return [line.short for line in panel.lines]


def legend_columns(shown: Lines) -> int:
    """Return how many legend entries fit beside each other."""
    every = [line for panel in shown.panels for line in panel.lines]
    longest = max((len(line.label) for line in every if line.shade is None), default=0)
    return max(1, int(100 / len(shown.panels) / (longest + 7)))


def _labels(ax: Axes, panel: Panel, theme: Theme, *, narrow: float) -> None:
    """Name each line beside its end, after a piece of it that shows its dashes.

    In a narrow panel the piece is a larger share of the width.
    """
    gap, sample = LABEL_GAP * narrow, LABEL_SAMPLE * narrow
    if len(panel.lines) == 1:
        return
    shares = ax.transScale + ax.transLimits
    ends = []
    for line in panel.lines:
        if line.shade is not None:
            continue
        known = np.flatnonzero(np.isfinite(line.y))
        if known.size:
            x, y = shares.transform((line.x[known[-1]], line.y[known[-1]]))
            said = textwrap.fill(drawable(line.short, 60), LABEL_CHARACTERS)
            ends.append((line, float(x), float(np.clip(y, 0, 1)), said))
    ends.sort(key=lambda end: end[2])
    sizes = [LABEL_HEIGHT * (1 + text.count("\n")) for *_, text in ends]
    places = spread_out([y for _, _, y, _ in ends], sizes)
    across = ax.transAxes
    for (line, x, y, text), place in zip(ends, places, strict=True):
        colour = _colour(line, theme)
        ax.plot(
            [x, 1.0 + gap], [y, place], transform=across, clip_on=False,
            color=theme.rule, linewidth=0.6, zorder=0,
        )  # fmt: skip
        ax.plot(
            [1.0 + gap, 1.0 + gap + sample], [place, place],
            transform=across, clip_on=False, color=colour, **_style(line),
        )  # fmt: skip
        ax.text(
            1.0 + gap + sample + 0.015 * narrow, place, text, transform=across, va="center", fontsize=8,
            color=theme.muted if line.reference else theme.ink, linespacing=1.05,
        )  # fmt: skip


def spread_out(wanted: list[float], sizes: list[float]) -> list[float]:
    """Return places in the same order that leave room for sizes, as near as can be to those wanted,
    inside 0 to 1 (and a little).

    Examples
    --------
    >>> spread_out([0.5, 0.5], [0.25, 0.25])
    [0.375, 0.625]
    """
    # Less the room that those before it take, places need only not fall: neighbours that would are pooled.
    offsets = [0.0] * bool(sizes)
    for before, after in itertools.pairwise(sizes):
        offsets.append(offsets[-1] + (before + after) / 2)
    pools: list[list[float]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        pools.append([want - offset])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    free = [float(np.clip(np.mean(pool), -0.02, 1.02 - offsets[-1])) for pool in pools for _ in pool]
    return [place + offset for place, offset in zip(free, offsets, strict=True)]


def _colour(line: Line, theme: Theme) -> str:
    if line.shade is not None:
        return to_hex(shade_colours()(line.shade))
    return theme.null if line.colour is None else theme.series[line.colour % len(theme.series)]


def _spread(ax: Axes, line: Line, theme: Theme, *, n_lines: int) -> None:
    """Draw the single heads behind their mean; heads have no order, so no line joins them."""
    if line.points is None or line.reference or n_lines > MOST_SPREADS:
        return
    colour = _colour(line, theme)
    n_heads = line.points.shape[1]
    if n_heads > POINTS:
        low, high = _middle(line.points)
        ax.fill_between(line.x, low, high, color=colour, alpha=0.1, linewidth=0)
        return
    beside = 0.24 * ((line.colour or 0) / (n_lines - 1) - 0.5) if n_lines > 1 else 0.0
    x = np.repeat(line.x + beside, n_heads)
    ax.plot(x, line.points.ravel(), ".", color=colour, alpha=0.35, markersize=4, mew=0)


def _line(ax: Axes, line: Line, theme: Theme, *, stems: bool, angle: bool) -> None:
    colour = _colour(line, theme)
    if line.low is not None and line.high is not None:
        alpha = 0.3 if line.shade is None else 0.14
        ax.fill_between(line.x, line.low, line.high, color=colour, alpha=alpha, linewidth=0)
    label = drawable(line.label, 80)
    if stems and not line.reference:
        ax.vlines(line.x, 0, line.y, color=colour, linewidth=1.4)
        ax.plot(line.x, line.y, "o", color=colour, label=label, markersize=4)
    else:
        # Where neither neighbour has a value, no line would show the one that there is.
        known = np.concatenate([[False], np.isfinite(line.y), [False]])
        alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()
        x, y = (line.x, line.y) if not angle else unbroken(line.x, line.y)
        ax.plot(
            x, y, color=colour, label=label, marker="o" if alone else "", markevery=alone or None,
            markersize=4, **_style(line),
        )  # fmt: skip
    if line.levels is not None:
        for style in MARKS:
            at = line.levels == style.level
            drawn = style.of(colour, theme.panel)
            ax.plot(line.x[at], line.y[at], "o", **{**drawn, "ms": drawn["ms"] + 1.4}, zorder=4)


def _style(line: Line) -> dict[str, Any]:
    """Return the dashes and the width of a line: each baseline and null has dashes of its own."""
    thin = line.reference or line.shade is not None
    return {"linestyle": DASHES[line.role], "linewidth": 1.3 if thin else 1.7}


def _middle(points: Any) -> tuple[Any, Any]:
    known = np.isfinite(points).any(axis=1)
    low, high = np.full((2, len(points)), np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(points[known], [0.1, 0.9], axis=1)
    return low, high
