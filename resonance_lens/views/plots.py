"""The drawing of each kind of view into a matplotlib figure or part of one."""

from __future__ import annotations

import functools
import itertools
import math
import re
import textwrap
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

from resonance_lens.views.content import Grid, Heads, Line, Lines, Map, Panel
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


def lines(where: Figure | SubFigure, shown: Lines, theme: Theme) -> None:
    """Draw lines over the layers, one panel for each variable."""
    axes = where.subplots(1, len(shown.panels), squeeze=False)[0]
    for ax, panel in zip(axes, shown.panels, strict=True):
        _panel(ax, panel, shown, theme)


def _panel(ax: Axes, panel: Panel, shown: Lines, theme: Theme) -> None:
    ax.grid(True)
    if panel.zero:
        ax.axhline(0, color=theme.rule, linewidth=1, zorder=1)
    plain = [line for line in panel.lines if not line.reference]
    for line in panel.lines:
        _spread(ax, line, theme, n_lines=len(plain))
        _line(ax, line, theme)
    if shown.view.limits is not None:
        low, high = shown.view.limits
        margin = 0.03 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel(shown.x_label)
    ax.set_ylabel(f"{textwrap.fill(drawable(panel.label, 70), 40)}\n({drawable(panel.units, 40)})")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(length=3)
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


def legend_columns(shown: Lines) -> int:
    """Return how many legend entries fit beside each other."""
    longest = max(len(line.label) for panel in shown.panels for line in panel.lines)
    return max(1, int(100 / len(shown.panels) / (longest + 7)))


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
        ax.fill_between(line.x, low, high, color=colour, alpha=0.14, linewidth=0)
        return
    beside = 0.24 * ((line.colour or 0) / (n_lines - 1) - 0.5) if n_lines > 1 else 0.0
    x = np.repeat(line.x + beside, n_heads)
    ax.plot(x, line.points.ravel(), ".", color=colour, alpha=0.45, markersize=5, mew=0)


def _line(ax: Axes, line: Line, theme: Theme) -> None:
    colour = _colour(line, theme)
    if line.low is not None and line.high is not None:
        ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(
        line.x,
        line.y,
        color=colour,
        label=drawable(line.label, 80),
        linestyle=(0, (4, 2.5)) if line.reference else "solid",
        linewidth=1.2 if line.reference else 1.7,
        marker="o" if len(line.x) == 1 else "",
        markersize=4,
    )


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
    for layer, head in shown.outlined:
        corner = (shown.x.index(str(layer)) - 0.5, shown.y.index(str(head)) - 0.5)
        for colour, width in ((theme.panel, 3.2), (theme.outline, 1.4)):
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width))
    return image


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
