"""The drawing of each kind of view into a matplotlib figure or part of one."""

from __future__ import annotations

import functools
import itertools
import math
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from resonance_lens.views.content import Grid, Heads, Line, Lines, Map, Panel, Role
from resonance_lens.views.exhibits import Exhibit
from resonance_lens.views.lines import MOST_SPREADS, POINTS
from resonance_lens.views.theme import Theme

STATIC_PROMPTS, STATIC_HEADS = 4, 8
"""Most prompts, and heads, of the static attention figure."""

STRIP_TOKENS = 160
"""Most tokens of a static token strip."""

STRIP_CHARACTERS = 105

STRIP_DARKEST = 0.6
"""How much of the full colour the strongest token gets, so that its text stays readable."""

FONT, MONOSPACED = "DejaVu Sans", "DejaVu Sans Mono"
"""They come with matplotlib, so that figures look the same everywhere."""

MISSING = "#8a8f8d"

MOST_LABELLED = 8
"""Up to this many lines are named beside their ends; above, by a legend."""

LABEL_CHARACTERS = 20
"""Longest line of a label beside the end of a line."""

LABEL_HEIGHT = 0.066
"""Height of one line of such a label, as a share of the panel's."""

LABEL_GAP, LABEL_SAMPLE = 0.03, 0.055
"""Before the piece of line that a label begins with, and its length, as shares of the panel's width."""

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

INK_ON_LIGHT, INK_ON_DARK = "#101614", "#f2f7f4"
"""Of marks in a heat map, whichever stands out from the colour of the cell."""


def lines(where: Figure | SubFigure, shown: Lines, theme: Theme) -> None:
    """Draw lines over one dimension, panels beside each other."""
    facets = len({panel.label for panel in shown.panels}) == 1
    axes = where.subplots(1, len(shown.panels), squeeze=False, sharey=facets)[0]
    for i, (ax, panel) in enumerate(zip(axes, shown.panels, strict=True)):
        _panel(ax, panel, shown, theme)
        if facets and i:
            ax.set_ylabel("")
    for ax, panel in zip(axes, shown.panels, strict=True):
        # The ends of the vertical axis are settled only now: panels may share it.
        if labelled(panel):
            _labels(ax, panel, theme)


def _panel(ax: Axes, panel: Panel, shown: Lines, theme: Theme) -> None:
    ax.grid(True)
    every = np.concatenate([line.x for line in panel.lines])
    first, last = every.min(), every.max()
    ax.set_xlim(first - 0.02 * (last - first or 1), last + 0.02 * (last - first or 1))
    if panel.title:
        ax.set_title(drawable(panel.title, 60), loc="left", fontweight="bold")
    if panel.zero:
        ax.axhline(0, color=theme.rule, linewidth=1, zorder=1)
    plain = [line for line in panel.lines if not line.reference]
    for line in panel.lines:
        _spread(ax, line, theme, n_lines=len(plain))
        _line(ax, line, theme, stems=shown.view.stems)
    if shown.view.limits is not None:
        low, high = shown.view.limits
        margin = 0.03 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel(drawable(shown.x_label, 60))
    ax.set_ylabel(f"{textwrap.fill(drawable(panel.label, 90), 36)}\n({drawable(panel.units, 40)})")
    whole = all((line.x == np.round(line.x)).all() for line in panel.lines)
    ax.xaxis.set_major_locator(MaxNLocator(integer=whole))
    ax.tick_params(length=3)
    if labelled(panel):
        return
    legend = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
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


def labelled(panel: Panel) -> bool:
    """Whether each line is named beside its end; a legend names them where they are too many."""
    return len(panel.lines) <= MOST_LABELLED


def legend_columns(shown: Lines) -> int:
    """Return how many legend entries fit beside each other."""
    longest = max(len(line.label) for panel in shown.panels for line in panel.lines)
    return max(1, int(100 / len(shown.panels) / (longest + 7)))


def _labels(ax: Axes, panel: Panel, theme: Theme) -> None:
    """Name each line beside its end, after a piece of it that shows its dashes."""
    if len(panel.lines) == 1:
        return
    low, high = ax.get_ylim()
    ends = []
    for line in panel.lines:
        known = np.flatnonzero(np.isfinite(line.y))
        if known.size:
            x, y = line.x[known[-1]], (line.y[known[-1]] - low) / (high - low)
            ends.append(
                (line, x, float(np.clip(y, 0, 1)), textwrap.fill(drawable(line.short, 60), LABEL_CHARACTERS))
            )
    ends.sort(key=lambda end: end[2])
    sizes = [LABEL_HEIGHT * (1 + text.count("\n")) for *_, text in ends]
    places = spread_out([y for _, _, y, _ in ends], sizes)
    across = ax.transAxes
    for (line, x, y, text), place in zip(ends, places, strict=True):
        colour = _colour(line, theme)
        start = (ax.transLimits.transform((x, 0))[0], y)
        ax.plot(
            [start[0], 1.0 + LABEL_GAP], [start[1], place], transform=across, clip_on=False,
            color=theme.rule, linewidth=0.6, zorder=0,
        )  # fmt: skip
        ax.plot(
            [1.0 + LABEL_GAP, 1.0 + LABEL_GAP + LABEL_SAMPLE], [place, place],
            transform=across, clip_on=False, color=colour, **_style(line),
        )  # fmt: skip
        ax.text(
            1.0 + LABEL_GAP + LABEL_SAMPLE + 0.015, place, text, transform=across, va="center", fontsize=8,
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
    offsets = [0.0]
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


def _line(ax: Axes, line: Line, theme: Theme, *, stems: bool) -> None:
    colour = _colour(line, theme)
    if line.low is not None and line.high is not None:
        alpha = 0.3
        ax.fill_between(line.x, line.low, line.high, color=colour, alpha=alpha, linewidth=0)
    label = drawable(line.label, 80)
    if stems and not line.reference:
        ax.vlines(line.x, 0, line.y, color=colour, linewidth=1.4)
        ax.plot(line.x, line.y, "o", color=colour, label=label, markersize=4)
    else:
        marker = "o" if len(line.x) == 1 else ""
        ax.plot(line.x, line.y, color=colour, label=label, marker=marker, markersize=4, **_style(line))
    if line.levels is not None:
        for style in MARKS:
            at = line.levels == style.level
            drawn = style.of(colour, theme.panel)
            ax.plot(line.x[at], line.y[at], "o", **{**drawn, "ms": drawn["ms"] + 1.4}, zorder=4)


def _style(line: Line) -> dict[str, Any]:
    """Return the dashes and the width of a line: each baseline and null has dashes of its own."""
    return {"linestyle": DASHES[line.role], "linewidth": 1.3 if line.reference else 1.7}


def _middle(points: Any) -> tuple[Any, Any]:
    known = np.isfinite(points).any(axis=1)
    low, high = np.full((2, len(points)), np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(points[known], [0.1, 0.9], axis=1)
    return low, high


# Heat maps


def heat_map(where: Figure | SubFigure, shown: Map, theme: Theme) -> None:
    """Draw one heat map, or several beside each other with one colour bar."""
    axes = where.subplots(1, len(shown.grids), squeeze=False, sharey=True)[0]
    colours = colour_map(shown.view.colours, theme)
    norm = Normalize(*shown.limits)
    for ax, grid in zip(axes, shown.grids, strict=True):
        image = _grid(ax, grid, shown, theme, colours, norm)
    axes[0].set_ylabel(drawable(shown.y_label, 40))
    bar = where.colorbar(image, ax=list(axes), extend=shown.extend, aspect=30, pad=0.02)
    _finish(bar, theme)
    bar.set_label(f"{textwrap.fill(drawable(shown.label, 70), 40)}\n({drawable(shown.units, 40)})")
    if shown.view.colours == "cyclic":
        low, high = (limit / (math.pi / 2) for limit in shown.limits)
        quarters = range(math.ceil(low - 1e-6), math.floor(high + 1e-6) + 1)
        bar.set_ticks([q * math.pi / 2 for q in quarters], labels=[_angle(q) for q in quarters])


def _finish(bar: Colorbar, theme: Theme) -> None:
    if bar.solids is not None:
        # As vectors, 256 small polygons.
        bar.solids.set_rasterized(True)
    bar.outline.set_edgecolor(theme.rule)


def _angle(quarters: int) -> str:
    """Return a number of quarter turns as a multiple of pi."""
    if quarters == 0:
        return "0"
    halves, half = divmod(abs(quarters), 2)
    size = abs(quarters) if half else halves
    text = ("" if size == 1 else str(size)) + "\u03c0" + ("/2" if half else "")
    return ("\u2212" if quarters < 0 else "") + text


def colour_map(family: str, theme: Theme) -> Colormap:
    """Return the colour map of a family: missing values grey in each."""
    if family == "diverging":
        colours: Colormap = LinearSegmentedColormap.from_list("diverging", theme.diverging)
    else:
        colours = matplotlib.colormaps["twilight" if family == "cyclic" else "viridis"]
    return colours.with_extremes(bad=MISSING)


def _grid(ax: Axes, grid: Grid, shown: Map, theme: Theme, colours: Colormap, norm: Normalize) -> Any:
    layered = shown.view.kind == "layer_head_map"
    image = ax.imshow(
        grid.values,
        aspect="auto" if layered else "equal",
        cmap=colours,
        norm=norm,
        origin="lower" if layered else "upper",
    )
    ax.set_title(drawable(grid.title, 60), loc="left")
    ax.set_xlabel(drawable(shown.x_label, 40))
    _ticks(ax.xaxis, ax.axvline, shown.x, theme)
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


def _ticks(axis: Any, boundary: Any, labels: tuple[str, ...], theme: Theme) -> None:
    """Label an axis: heads such as ``L3H2`` by layer, with a line between layers; else by value."""
    layers = [re.fullmatch(r"L(\d+)H\d+", label) for label in labels]
    axis.set_tick_params(length=0)
    if not labels or not all(layers):
        step = max(1, math.ceil(len(labels) / 16))
        shown = [drawable(label, 24) for label in labels[::step]]
        axis.set_ticks(range(0, len(labels), step), shown)
        return
    groups = [(key, len(list(group))) for key, group in
              itertools.groupby(match[1] for match in layers if match)]  # fmt: skip
    starts = np.cumsum([0, *(size for _, size in groups)])
    for start in starts[1:-1]:
        boundary(start - 0.5, color=theme.muted, linewidth=0.35, alpha=0.45)
    step = max(1, math.ceil(len(groups) / 16))
    centres = [start + (size - 1) / 2 for start, (_, size) in zip(starts, groups, strict=False)]
    axis.set_ticks(centres[::step], [f"L{key}" for key, _ in groups][::step])


# Static twins of the CircuitsVis views


def heads_height(shown: Heads, width: float) -> float:
    """Return the height in inches of an attention figure."""
    if not shown.exhibits:
        return 0.9
    if shown.view.kind == "colored_tokens":
        rows = sum(len(e.heads) * (len(strips) + 1.5) for e, strips in _strips(shown))
        return 0.6 + 0.19 * rows
    columns = min(STATIC_HEADS, len(shown.exhibits[0].heads))
    side = min(1.7, (width - 1.3) / columns)
    return 0.75 + min(STATIC_PROMPTS, len(shown.exhibits)) * (side + 0.12)


def patterns(where: Figure | SubFigure, shown: Heads, theme: Theme) -> None:
    """Draw attention patterns as small multiples: a row for each prompt, a column for each head."""
    rows = shown.exhibits[:STATIC_PROMPTS]
    if not rows:
        return _say(where, shown, theme)
    n_heads = min(STATIC_HEADS, len(rows[0].heads))
    axes = where.subplots(len(rows), n_heads, squeeze=False)
    largest = max(float(exhibit.pattern[:n_heads].max()) for exhibit in rows)
    norm = PowerNorm(0.5, vmin=0, vmax=largest or 1.0)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))
    for i, exhibit in enumerate(rows):
        for j in range(n_heads):
            ax = axes[i, j]
            values = exhibit.pattern[j]
            if exhibit.causal:
                values = np.where(np.tri(len(values), dtype=bool), values, np.nan)
            image = ax.imshow(values, cmap=colours, norm=norm)
            ax.set_xticks([])
            ax.set_yticks([])
            if i == 0:
                ax.set_title(exhibit.heads[j])
        said = (drawable(exhibit.prompt, 26), drawable(exhibit.category, 26))
        label = "\n".join((*said, f"{exhibit.length} tokens"))
        axes[i, 0].set_ylabel(label, fontsize=7.5, color=theme.muted)
    bar = where.colorbar(image, ax=axes, aspect=30, pad=0.02)
    _finish(bar, theme)
    bar.set_label("attention of query (row)\nto key (column)")
    return None


def token_strips(where: Figure | SubFigure, shown: Heads, theme: Theme) -> None:
    """Draw tokens as strips of text, coloured by the attention that they receive."""
    if not shown.exhibits:
        return _say(where, shown, theme)
    ax = where.subplots()
    ax.set_axis_off()
    ax.set_xlim(0, STRIP_CHARACTERS)
    colours = LinearSegmentedColormap.from_list("strip", [theme.panel, theme.series[3]])
    y = 0.0
    for exhibit, strips in _strips(shown):
        top = exhibit.scale
        for j, head in enumerate(exhibit.heads):
            y += 1.5
            said = f"{head}, {drawable(exhibit.name, 60)}; strongest colour: {top[j]:.3g} and above"
            ax.text(0, y, said, fontsize=7.5, color=theme.muted, va="center")
            for row in strips:
                y += 1
                for start, token, text in row:
                    share = min(1.0, float(exhibit.received[j, token]) / top[j])
                    face = colours(STRIP_DARKEST * share)
                    box = Rectangle((start, y - 0.42), len(text), 0.84, facecolor=face, linewidth=0)
                    ax.add_patch(box)
                    ax.text(
                        start + len(text) / 2, y, text, color=theme.ink, fontsize=7,
                        family=MONOSPACED, ha="center", va="center",
                    )  # fmt: skip
    ax.set_ylim(y + 0.8, 0.6)
    return None


def _strips(shown: Heads) -> list[tuple[Exhibit, list[list[tuple[int, int, str]]]]]:
    """Break the tokens of each prompt into rows of ``(start, token, text)``."""
    broken = []
    for exhibit in shown.exhibits[:STATIC_PROMPTS]:
        rows: list[list[tuple[int, int, str]]] = [[]]
        start = 0
        for i, token in enumerate(exhibit.tokens[:STRIP_TOKENS]):
            text = drawable(token, 24)
            if start + len(text) > STRIP_CHARACTERS:
                rows.append([])
                start = 0
            rows[-1].append((start, i, text))
            start += len(text)
        broken.append((exhibit, rows))
    return broken


def _say(where: Figure | SubFigure, shown: Heads, theme: Theme) -> None:
    where.text(0.012, 0.5, drawable(" ".join(shown.notes), 200), color=theme.muted, va="center")


def drawable(text: str, longest: int) -> str:
    """Return text that the figure's font can draw: other characters by their code points."""
    known = _characters()
    shown = "".join(c if ord(c) in known else f"[U+{ord(c):04X}]" for c in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "\u2026"


@functools.cache
def _characters() -> frozenset[int]:
    sets = [
        set(get_font(findfont(FontProperties(family=[family]))).get_charmap())
        for family in (FONT, MONOSPACED)
    ]
    # Scripts that are written from right to left, or joined, are drawn wrongly without shaping.
    return frozenset(code for code in sets[0] & sets[1] if not 0x0590 <= code <= 0x08FF)
