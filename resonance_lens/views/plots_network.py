"""The drawing of pairs of heads as arcs between heads that stand at their layer."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from resonance_lens.views.networks import Arc, Network, Node
from resonance_lens.views.plotting import drawable
from resonance_lens.views.theme import Theme

SHAPES = ("o", "s", "^", "D", "v", "P")
"""Of the heads of each community, besides its colour."""

NAMED = 10
"""Heads of the strongest pairs that are named."""

WIDEST, NARROWEST = 3.0, 0.5
"""Widths of arcs in points."""


def network(where: Figure | SubFigure, shown: Network, theme: Theme) -> None:
    """Draw the heads, a column for each layer, and the strongest pairs as arcs."""
    ax = where.subplots()
    ax.grid(True, axis="x")
    for arc in reversed(shown.arcs):
        _arc(ax, arc, shown, theme)
    members = {node.community for node in shown.nodes}
    for community in sorted(members, key=lambda one: -1 if one is None else one):
        _nodes(ax, [node for node in shown.nodes if node.community == community], community, theme)
    _names(ax, shown, theme)
    layers = [node.layer for node in shown.nodes]
    heads = [node.head for node in shown.nodes]
    ax.set_xlim(min(layers) - 0.7, max(layers) + 0.7)
    ax.set_ylim(min(heads) - 0.7, max(heads) + 0.7)
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(length=0)
    ax.set_xlabel("layer")
    ax.set_ylabel("head")
    _legend(ax, shown, theme)


def _strength(arc: Arc, shown: Network) -> float:
    """Return how strong a pair is among those drawn, from 0 to 1."""
    last, first = (abs(shown.arcs[i].strength) for i in (-1, 0))
    return (abs(arc.strength) - last) / (first - last) if first > last else 1.0


def _colour(community: int | None, theme: Theme) -> str:
    return theme.null if community is None else theme.series[community % len(theme.series)]


def _arc(ax: Axes, arc: Arc, shown: Network, theme: Theme) -> None:
    a, b = shown.nodes[arc.a], shown.nodes[arc.b]
    share = _strength(arc, shown)
    same = a.community is not None and a.community == b.community
    bend = 0.35 if a.layer == b.layer else 0.16
    ax.add_patch(
        FancyArrowPatch(
            (a.layer, a.head), (b.layer, b.head), arrowstyle="-", connectionstyle=f"arc3,rad={bend}",
            color=_colour(a.community, theme) if same else theme.muted, alpha=0.25 + 0.65 * share,
            linewidth=NARROWEST + (WIDEST - NARROWEST) * share, shrinkA=2, shrinkB=2,
            linestyle="dashed" if arc.strength < 0 else "solid", zorder=2,
        )
    )  # fmt: skip


def _nodes(ax: Axes, nodes: list[Node], community: int | None, theme: Theme) -> None:
    """Draw heads: those in a drawn pair full, the others faint."""
    for tied in (False, True):
        some = [node for node in nodes if bool(node.pairs) == tied]
        if some:
            ax.plot(
                [node.layer for node in some], [node.head for node in some], linestyle="none",
                marker=SHAPES[(community or 0) % len(SHAPES)] if community is not None else "o",
                color=_colour(community, theme), markersize=5.0 if tied else 2.6,
                alpha=1.0 if tied else 0.45, mew=0, zorder=3 if tied else 1,
            )  # fmt: skip


def _names(ax: Axes, shown: Network, theme: Theme) -> None:
    """Name the heads of the strongest pairs."""
    ends = [end for arc in shown.arcs for end in (arc.a, arc.b)]
    for index in list(dict.fromkeys(ends))[:NAMED]:
        node = shown.nodes[index]
        ax.annotate(
            drawable(node.label, 12), (node.layer, node.head), xytext=(0, 5), textcoords="offset points",
            ha="center", va="bottom", fontsize=7, color=theme.ink, zorder=5,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": theme.panel, "alpha": 0.75, "linewidth": 0},
        )  # fmt: skip


def _legend(ax: Axes, shown: Network, theme: Theme) -> None:
    handles = [
        Line2D(
            [], [], color=_colour(i, theme), marker=SHAPES[i % len(SHAPES)], linestyle="none", markersize=5,
            mew=0, label=f"{size} heads",
        )
        for i, size in enumerate(shown.sizes)
    ]  # fmt: skip
    if shown.arcs:
        first, last = (abs(shown.arcs[i].strength) for i in (0, -1))
        for strength, share in ((first, 1.0), (last, 0.0 if first > last else 1.0)):
            width = NARROWEST + (WIDEST - NARROWEST) * share
            handles.append(
                Line2D(
                    [], [], color=theme.muted, linewidth=width, alpha=0.25 + 0.65 * share,
                    label=f"{strength:.3g}",
                )
            )  # fmt: skip
    said = f"{textwrap.fill(drawable(shown.label, 80), 90)} ({drawable(shown.units, 30)})"
    if shown.grouped:
        said += f"; {drawable(shown.grouped, 40)}"
    legend = ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=max(1, len(handles)),
        frameon=False, borderaxespad=0.2, handlelength=1.6, columnspacing=1.3, title=said,
        title_fontsize=8, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(theme.muted)


def network_height(shown: Network) -> float:
    """Return the height in inches that the heads of a layer need."""
    heads = np.unique([node.head for node in shown.nodes]).size
    return min(5.2, max(2.6, 0.95 + 0.34 * heads)) + 0.16 * math.ceil(len(shown.label) / 90)
