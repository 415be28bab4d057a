"""CircuitsVis views: its bundle, found without importing it, and the props of its components.

Only the bundle of CircuitsVis is used. Its Python side embeds the bundle once for every view, asks
the network which copy to show, and does not escape tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.views.content import Heads
from resonance_lens.views.exhibits import Exhibit, Numbers
from resonance_lens.views.text import number
from resonance_lens.views.token_values import TokenValues, Tracks

DIGITS = 4
"""Decimal places of the numbers on the page."""

POSITIVE = "#1668b5"

MISSING = (
    "The interactive view needs the package circuitsvis, which is not installed; "
    "the still picture shows the same numbers."
)

NO_CIRCLE = "CircuitsVis has no colours that meet at the ends of a circle; angles have none of its views."

RECEIVED = (
    "A token's value is the attention that it receives: the mean of its column of the pattern, "
    "over the queries that can see it."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mount:
    """One CircuitsVis component and what it is given.

    Attributes
    ----------
    component
        ``AttentionHeads`` or ``ColoredTokensMulti``.
    props
        Plain data, finite, with the tokens already escaped as the component needs.
    title
        Which prompt it shows.
    caption
        What its colours mean.
    """

    component: str
    props: dict[str, Any]
    title: str
    caption: str


def bundle() -> str | None:
    """Return the script of CircuitsVis for one classic ``<script>``, or `None` without the package."""
    spec = find_spec("circuitsvis")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "dist" / "cdn" / "iife.js"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    # The source map is a file that a page does not have beside it.
    code = "\n".join(line for line in lines if not line.startswith("//# sourceMappingURL"))
    return code.replace("</script", "<\\/script")


def mounts(shown: Heads | TokenValues) -> list[Mount]:
    """Return one CircuitsVis view for each prompt of an attention view, or for each group of tracks.

    Angles get none: the component has no colours that meet at the ends of a circle.
    """
    if isinstance(shown, TokenValues):
        return [] if shown.cyclic else [token_values(shown.tokens, group) for group in shown.groups]
    make = attention_heads if shown.view.kind == "attention_heads" else colored_tokens
    return [make(exhibit) for exhibit in shown.exhibits]


def attention_heads(exhibit: Exhibit) -> Mount:
    """Return the patterns of one prompt, one for each head; tokens are drawn on a canvas."""
    largest = rounded(max(float(exhibit.pattern.max()), 10.0**-DIGITS))
    caption = f"White is 0, blue is {number(largest)}, the largest value here."
    if exhibit.block > 1:
        caption += (
            f" Each cell is the mean of {exhibit.block} x {exhibit.block} cells: the prompt has "
            f"{exhibit.length} tokens."
        )
    props = {
        "attention": _numbers(exhibit.pattern),
        "attentionHeadNames": list(exhibit.heads),
        "tokens": list(exhibit.pattern_tokens),
        "maskUpperTri": exhibit.causal,
        "maxValue": largest,
        # Attention is never negative; the component's own default is -1.
        "minValue": -largest,
        "positiveColor": POSITIVE,
    }
    return Mount(component="AttentionHeads", props=props, title=exhibit.name, caption=caption)


def colored_tokens(exhibit: Exhibit) -> Mount:
    """Return the tokens of one prompt, coloured by the attention that they receive from each head."""
    # The component takes its bound from the first head and keeps it for the others.
    bound = rounded(float(exhibit.scale.max()), digits=6)
    caption = (
        f"{RECEIVED} Blue is {number(bound)} and above, the most that a token after the first "
        "receives; the first often receives far more."
    )
    props = {
        "tokens": [markup_safe(token) for token in exhibit.tokens],
        "values": _numbers(exhibit.received.T),
        "labels": list(exhibit.heads),
        "positiveBounds": [bound] * len(exhibit.heads),
        "negativeBounds": [-bound] * len(exhibit.heads),
    }
    return Mount(component="ColoredTokensMulti", props=props, title=exhibit.name, caption=caption)


def token_values(tokens: Sequence[str], group: Tracks) -> Mount:
    """Return the tokens of one prompt, coloured by the values of each track of a group."""
    bound = rounded(max(abs(limit) for limit in group.limits), digits=6) or 1e-6
    low = f", red is {number(-bound)}" if group.signed else ""
    values = np.stack([track.values for track in group.tracks], axis=1)  # [token, track]
    missing = "" if np.isfinite(values).all() else " White without a number is no value."
    in_units = group.units if group.units == "dimensionless" else f"in {group.units}"
    props = {
        "tokens": [markup_safe(token) for token in tokens],
        "values": _numbers(np.nan_to_num(values)),
        "labels": [markup_safe(track.label) for track in group.tracks],
        "positiveBounds": [bound] * len(group.tracks),
        "negativeBounds": [-bound] * len(group.tracks),
    }
    return Mount(
        component="ColoredTokensMulti",
        props=props,
        title=group.label,
        caption=f"White is 0, blue is {number(bound)} and above{low}, {in_units}.{missing}",
    )


def markup_safe(token: str) -> str:
    """Return a token that stays text where a component writes it as HTML, and as text elsewhere.

    A word joiner, which has no width, stands after every ``<`` and ``&``: no tag or entity begins.
    """
    return token.replace("<", "<\u2060").replace("&", "&\u2060")


def rounded(value: float, *, digits: int = DIGITS) -> float:
    """Round for the page."""
    return round(value, digits)


def _numbers(values: Numbers) -> list[Any]:
    listed: list[Any] = np.round(values, DIGITS).tolist()
    return listed


class Packer:
    """Collects the views of a page as data, each pattern once, up to a number of characters.

    Attributes
    ----------
    views
        By the id of the element that a view is mounted in: component, props, and instead of
        ``attention`` the indices of its patterns.
    patterns
        Rows of whole numbers, in units of ``10 ** -DIGITS``; a causal pattern ends at the diagonal.
    """

    def __init__(self, budget: int) -> None:
        self.views: dict[str, Any] = {}
        self.patterns: list[Any] = []
        self._known: dict[str, int] = {}
        self._left = budget

    def add(self, key: str, mount: Mount) -> bool:
        """Add a view, unless its patterns would take more than what is left of the budget."""
        props = dict(mount.props)
        packed = [pack(one, causal=props["maskUpperTri"]) for one in props.pop("attention", [])]
        texts = [json.dumps(one, separators=(",", ":")) for one in packed]
        size = sum(len(text) for text in set(texts) if text not in self._known)
        if size > self._left:
            return False
        self._left -= size
        indices = []
        for one, text in zip(packed, texts, strict=True):
            if text not in self._known:
                self._known[text] = len(self.patterns)
                self.patterns.append(one)
            indices.append(self._known[text])
        self.views[key] = {"component": mount.component, "props": props, "patterns": indices}
        return True


def pack(pattern: list[list[float]], *, causal: bool) -> list[list[int]]:
    """Return a pattern as whole numbers; what a causal pattern has above its diagonal is left out."""
    return [
        [round(value * 10**DIGITS) for value in (row[: i + 1] if causal else row)]
        for i, row in enumerate(pattern)
    ]
