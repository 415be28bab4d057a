"""Pairs of heads as a network: the strongest ones, between heads that stand at their layer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import xarray as xr

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import refusal
from resonance_lens.views.content import (
    Content,
    Numbers,
    array,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)

HEAD = re.compile(r"L(\d+)H(\d+)")

COMMUNITIES = 6
"""Most communities that are told apart; the heads of smaller ones look like those of none."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A head.

    Attributes
    ----------
    community
        Place of its community among the communities, the largest first; ``None`` without one.
    pairs
        How many drawn pairs it belongs to.
    """

    label: str
    layer: int
    head: int
    community: int | None
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Arc:
    """A pair of heads, by their places among the nodes."""

    a: int
    b: int
    strength: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Content):
    """Heads, and the strongest of their pairs, the strongest first.

    Attributes
    ----------
    possible
        How many pairs have a value.
    grouped
        What the communities are called; empty without them.
    sizes
        Heads of each community, the largest first.
    """

    label: str
    units: str
    nodes: tuple[Node, ...]
    arcs: tuple[Arc, ...]
    possible: int
    grouped: str = ""
    sizes: tuple[int, ...] = ()

    @property
    def legend(self) -> str:
        """How many of the pairs are drawn, and how strong they are."""
        if not self.arcs:
            return f"none of {self.possible} pairs is drawn"
        first, last = self.arcs[0].strength, self.arcs[-1].strength
        negative = ", dashed: below 0" if any(arc.strength < 0 for arc in self.arcs) else ""
        return (
            f"arcs: the strongest {len(self.arcs)} of {self.possible} pairs, from {first:.3g} (wide) "
            f"to {last:.3g}{negative}"
        )


def network(view: ViewSpec, result: Result) -> Network:
    """Return what a view of kind ``network`` shows."""
    if len(view.variables) not in (1, 2):
        raise refusal(
            view,
            result,
            "a network needs one variable over pairs, and one for communities if there are any; "
            f"it names {len(view.variables)}.",
        )
    if view.pairs < 1:
        raise refusal(view, result, f"its 'pairs' must be at least 1; it is {view.pairs}.")
    pairs, chosen = _over(view, result, view.variables[0], ("head_a", "head_b"))
    labels = [str(label) for label in pairs["head_a"].values]
    if labels != [str(label) for label in pairs["head_b"].values]:
        raise refusal(view, result, "the heads along 'head_a' and 'head_b' are not the same.")
    heads = [HEAD.fullmatch(label) for label in labels]
    wrong = [label for label, head in zip(labels, heads, strict=True) if head is None]
    if wrong:
        raise refusal(view, result, f"heads are labelled as L3H2; {wrong[0]!r} is not.")
    rows, columns, strengths = _pairs(view, result, array(pairs, "head_a", "head_b"))
    strongest = np.argsort(-np.abs(strengths), kind="stable")[: view.pairs]
    strongest = strongest[strengths[strongest] != 0]
    arcs = tuple(Arc(a=int(rows[i]), b=int(columns[i]), strength=float(strengths[i])) for i in strongest)
    notes = []
    members: list[int | None] = [None] * len(labels)
    sizes: tuple[int, ...] = ()
    grouped = ""
    if len(view.variables) == 2:
        values, also = _over(view, result, view.variables[1], ("head_a",))
        chosen |= also
        grouped = long_name(values)
        members, sizes, left = _communities(array(values, "head_a"))
        if left:
            notes.append(
                f"The {COMMUNITIES} largest of {len(sizes) + left} communities are told apart by colour "
                "and shape."
            )
    degree = np.bincount([end for arc in arcs for end in (arc.a, arc.b)], minlength=len(labels))
    nodes = tuple(
        Node(label=label, layer=int(head[1]), head=int(head[2]), community=member, pairs=int(n))
        for label, head, member, n in zip(labels, heads, members, degree, strict=True)
        if head is not None
    )
    variable = lookup(view, result, view.variables[0])
    return Network(
        **common(view, result),
        selection=in_words(chosen),
        notes=tuple(notes),
        label=long_name(variable),
        units=units(variable),
        nodes=nodes,
        arcs=arcs,
        possible=len(strengths),
        grouped=grouped,
        sizes=sizes,
    )


def _over(
    view: ViewSpec, result: Result, name: str, dims: tuple[str, ...]
) -> tuple[xr.DataArray, dict[str, str]]:
    """Return a variable over these dimensions alone."""
    variable = lookup(view, result, name)
    missing = [d for d in dims if d not in variable.dims]
    if missing:
        raise refusal(view, result, f"{name!r} needs the dimension {missing[0]!r}.")
    values, chosen = select(view, result, name, dims)
    left = [str(d) for d in values.dims if d not in dims]
    if left:
        raise refusal(view, result, f"{name!r} needs a selection along {' and '.join(left)}.")
    return values, chosen


def _pairs(view: ViewSpec, result: Result, values: Numbers) -> tuple[np.ndarray, np.ndarray, Numbers]:
    """Return both heads and the value of each pair that has one; a pair may stand in one triangle only."""
    rows, columns = np.triu_indices(len(values), 1)
    above, below = values[rows, columns], values[columns, rows]
    both = np.isfinite(above) & np.isfinite(below)
    if not np.allclose(above[both], below[both], rtol=1e-4, atol=1e-6):
        raise refusal(view, result, f"{view.variables[0]!r} depends on the order of the heads of a pair.")
    strengths = np.where(np.isfinite(above), above, below)
    known = np.isfinite(strengths)
    return rows[known], columns[known], strengths[known]


def _communities(values: Numbers) -> tuple[list[int | None], tuple[int, ...], int]:
    """Return the community of each head by size, the sizes, and how many are not told apart.

    Negative numbers, not-a-number, and communities of one head are no community.
    """
    numbers, counts = np.unique(values[np.isfinite(values) & (values >= 0)], return_counts=True)
    real = counts > 1
    numbers, counts = numbers[real], counts[real]
    order = np.argsort(-counts, kind="stable")
    shown = order[:COMMUNITIES]
    rank = {float(numbers[i]): place for place, i in enumerate(shown)}
    members = [rank.get(float(value)) for value in values]
    return members, tuple(int(counts[i]) for i in shown), len(order) - len(shown)
