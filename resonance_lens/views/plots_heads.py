"""The static twins of the CircuitsVis views: patterns as small multiples, tokens as strips of text."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from resonance_lens.views.content import Heads
from resonance_lens.views.exhibits import Exhibit
from resonance_lens.views.plotting import MONOSPACED, drawable, finish
from resonance_lens.views.theme import Theme

STATIC_PROMPTS, STATIC_HEADS = 4, 8
"""Most prompts, and heads, of the static attention figure."""

STRIP_TOKENS = 160
"""Most tokens of a static token strip."""

STRIP_CHARACTERS = 105

STRIP_DARKEST = 0.6
"""How much of the full colour the strongest token gets, so that its text stays readable."""


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
    finish(bar, theme)
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
    return [
        (exhibit, rows_of_text(exhibit.tokens[:STRIP_TOKENS])) for exhibit in shown.exhibits[:STATIC_PROMPTS]
    ]


def rows_of_text(tokens: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Break tokens into rows of ``(start, token, text)``."""
    rows: list[list[tuple[int, int, str]]] = [[]]
    start = 0
    for i, token in enumerate(tokens):
        text = drawable(token, 24)
        if start + len(text) > STRIP_CHARACTERS:
            rows.append([])
            start = 0
        rows[-1].append((start, i, text))
        start += len(text)
    return rows


def _say(where: Figure | SubFigure, shown: Heads, theme: Theme) -> None:
    where.text(0.012, 0.5, drawable(" ".join(shown.notes), 200), color=theme.muted, va="center")
