"""What all drawings share: text that the font has, colour maps and bars, axes of numbers and of periods."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator, NullLocator

from resonance_lens.result import Scale
from resonance_lens.views.axes import round_periods
from resonance_lens.views.content import Numbers
from resonance_lens.views.theme import Theme

FONT, MONOSPACED = "DejaVu Sans", "DejaVu Sans Mono"
"""They come with matplotlib, so that figures look the same everywhere."""

MISSING = "#8a8f8d"

CLASSES = ("#0072b2", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#56b4e9", "#d55e00", "#b0b7b3")
"""Okabe and Ito's colours, which colour-blind readers tell apart, and grey."""

SHADES = ("#7a55cf", "#2f7fd1", "#1f9f8f", "#7fa52a", "#d9932b")

INK_ON_LIGHT, INK_ON_DARK = "#101614", "#f2f7f4"
"""Of marks and text on a colour, whichever stands out from it."""

CIRCLE = "twilight"
"""The colour map of angles: its ends are one colour."""

FEWEST_TICKS, MOST_TICKS = 3, 12
"""Of a logarithmic axis; panels beside each other share the most."""

RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

NOT_BAR, BAR_CHARACTERS = 1.0, 14
"""Inches of a figure above and below a colour bar, and characters of a label beside an inch of it."""

PERIOD_GAP = 0.0125
"""Least distance between marked periods for each of their characters, as a share of their axis."""


def colour_map(family: str, theme: Theme) -> Colormap:
    """Return the colour map of a family: missing values grey in each."""
    if family == "diverging":
        colours: Colormap = LinearSegmentedColormap.from_list("diverging", theme.diverging)
    else:
        colours = matplotlib.colormaps[CIRCLE if family == "cyclic" else "viridis"]
    return colours.with_extremes(bad=MISSING)


def class_colours(n: int) -> Colormap:
    """Return one colour for each of so many classes, which have no order; more than there are begin again."""
    return ListedColormap([CLASSES[i % len(CLASSES)] for i in range(n)]).with_extremes(bad=MISSING)


def shade_colours() -> Colormap:
    """Return the colours of lines that are shaded by a number: none is lost on a light or a dark page."""
    return LinearSegmentedColormap.from_list("shades", SHADES)


def ink_on(face: Sequence[float]) -> str:
    """Return the colour of text that stands out from a colour."""
    bright = float(np.dot(face[:3], (0.299, 0.587, 0.114))) > 0.5
    return INK_ON_LIGHT if bright else INK_ON_DARK


def colour_bar(
    where: Figure | SubFigure,
    image: Any,
    axes: Sequence[Axes],
    theme: Theme,
    *,
    label: str,
    units: str,
    extend: str = "neither",
    cyclic: bool = False,
    **more: Any,
) -> Colorbar:
    """Add the colour bar of an image, labelled with what it is and its units; angles in quarter turns."""
    bar = where.colorbar(image, ax=list(axes), extend=extend, **{"aspect": 30, "pad": 0.02, **more})
    finish(bar, theme)
    if more.get("location") == "bottom":
        bar.set_label(f"{drawable(label, 90)} ({drawable(units, 40)})")
    else:
        tall = where.bbox.height / where.dpi - NOT_BAR
        room = max(18, int(BAR_CHARACTERS * tall))
        lines = textwrap.wrap(drawable(label, 120), room, max_lines=3, placeholder=" \u2026")
        bar.set_label("\n".join((*lines, f"({drawable(units, 40)})")))
    if cyclic:
        ticks, labels = turns(*image.get_clim())
        bar.set_ticks(ticks, labels=labels)
    return bar


def finish(bar: Colorbar, theme: Theme) -> None:
    """Draw the colours of a bar as pixels, and its frame in the colour of the theme."""
    if bar.solids is not None:
        # As vectors, 256 small polygons.
        bar.solids.set_rasterized(True)
    bar.outline.set_edgecolor(theme.rule)


def turns(low: float, high: float) -> tuple[list[float], list[str]]:
    """Return where quarter turns lie between two angles, and what they are called."""
    first, last = (limit / (math.pi / 2) for limit in (low, high))
    quarters = range(math.ceil(first - 1e-6), math.floor(last + 1e-6) + 1)
    return [q * math.pi / 2 for q in quarters], [quarter_turns(q) for q in quarters]


def unbroken(x: Numbers, angles: Numbers) -> tuple[Numbers, Numbers]:
    """Return the points of a line of angles, cut where it passes the end of their range."""
    with np.errstate(invalid="ignore"):
        jumps = np.flatnonzero(np.abs(np.diff(angles)) > np.pi) + 1
    return np.insert(x, jumps, x[jumps]), np.insert(angles, jumps, np.nan)


def quarter_turns(quarters: int) -> str:
    """Return a number of quarter turns as a multiple of pi."""
    if quarters == 0:
        return "0"
    halves, half = divmod(abs(quarters), 2)
    size = abs(quarters) if half else halves
    text = ("" if size == 1 else str(size)) + "\u03c0" + ("/2" if half else "")
    return ("\u2212" if quarters < 0 else "") + text


def number_ticks(axis: Any, values: Numbers | None, scale: Scale, *, panels: int = 1) -> None:
    """Tick an axis whose coordinates are these: whole numbers where they are whole; powers in plain text.

    Without coordinates the axis is one of values. The ends of a logarithmic axis must be settled.

    Parameters
    ----------
    axis
        Of matplotlib.
    panels
        How many such axes stand beside each other: they have less room.
    """
    whole = values is not None and bool((values == np.round(values)).all())
    if scale == "linear":
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=whole))
        return
    most = max(MOST_TICKS // 2, MOST_TICKS // panels)
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [step * 10.0**decade for decade in decades[::apart] for step in steps]
        for steps, apart in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4))
    ]
    choices.append([float(tick) for tick in MaxNLocator(6).tick_values(low, high)])
    if whole and values is not None:
        choices.insert(0, [float(value) for value in values])
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in choices]
    ticks = next((ticks for ticks in inside if FEWEST_TICKS <= len(ticks) <= most), inside[-1])
    axis.set_ticks(ticks, labels=[plain(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def plain(value: float) -> str:
    """Return a round number as it is said, and powers of ten far from one as such.

    Examples
    --------
    >>> plain(0.02), plain(8.0), plain(1e-5), plain(2e6)
    ('0.02', '8', '10⁻⁵', '2·10⁶')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if value == round(value) else f"{value:.4g}"
    digits, power = f"{value:.2e}".split("e")
    raised = str(int(power)).translate(RAISED)
    digits = digits.rstrip("0").rstrip(".")
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


def period_axis(
    ax: Axes, side: str, label: str, theme: Theme, frequencies: Numbers, *, panels: int = 1
) -> None:
    """Mark periods at the top or right of an axis of these frequencies, whose ends are settled."""
    across = side == "top"
    other = ax.secondary_xaxis("top") if across else ax.secondary_yaxis("right")
    axis, parent = (other.xaxis, ax.xaxis) if across else (other.yaxis, ax.yaxis)
    low, high = sorted(ax.get_xlim() if across else ax.get_ylim())
    scale = (lambda value: math.log(value)) if parent.get_scale() == "log" else (lambda value: value)
    start, length = scale(low), scale(high) - scale(low)
    # An axis of cells begins half a cell before the first frequency.
    periods = round_periods(float(frequencies[frequencies > 0].min(initial=high)), high)
    characters = max((len(plain(period)) for period in periods), default=0)
    gap = (1 + characters) * PERIOD_GAP * (1 if panels == 1 else 0.7 * panels)
    kept: list[tuple[float, float]] = []
    for period in periods:
        place = (scale(1 / period) - start) / length
        if all(abs(place - taken) >= gap for taken, _ in kept):
            kept.append((place, period))
    axis.set_ticks([1 / period for _, period in kept], labels=[plain(period) for _, period in kept])
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(length=3, color=theme.rule)
    axis.set_label_text(drawable(label, 40), color=theme.muted)
    for spine in other.spines.values():
        spine.set_visible(False)


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
