"""Attention patterns of a few prompts, cut to length and to the heads of a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.text import visible

if TYPE_CHECKING:
    pass

Numbers = np.ndarray[Any, np.dtype[np.float64]]

LONGEST = 128
"""Most tokens that a pattern is drawn with; a longer one is block-averaged."""

MOST_HEADS = 12
"""Most heads in one view: CircuitsVis spends seconds on each."""

NO_EXHIBITS = "This run kept no attention patterns, so there is nothing to show here."


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibit:
    """One prompt's attention.

    Attributes
    ----------
    prompt, category
        Its id, and its category or nothing.
    tokens
        Every token, made visible.
    heads
        Labels of the heads, such as ``L3H2``.
    pattern
        Attention ``[head, query, key]``; where ``block`` is above one, means over blocks of tokens.
    block
        How many tokens one row or column of ``pattern`` stands for.
    pattern_tokens
        One label for each row and column of ``pattern``.
    received
        Attention that each token receives, ``[head, token]``: the mean of its column over the
        queries that can see it.
    causal
        Whether no query attends to a later key.
    """

    prompt: str
    category: str
    tokens: tuple[str, ...]
    heads: tuple[str, ...]
    pattern: Numbers
    block: int
    pattern_tokens: tuple[str, ...]
    received: Numbers
    causal: bool

    @property
    def name(self) -> str:
        """Id and category of the prompt."""
        return f"{self.prompt} ({self.category})" if self.category else self.prompt

    @property
    def scale(self) -> Numbers:
        """For each head, where its colours end: the most that a token after the first receives.

        The first token often receives far more than all others, which would then look alike.
        """
        later = self.received[:, 1:] if self.length > 1 else self.received
        ends: Numbers = np.maximum(later.max(axis=1), 1e-6)
        return ends

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


def exhibits(view: ViewSpec, result: Result) -> tuple[tuple[Exhibit, ...], tuple[str, ...]]:
    """Return the exhibits for the heads of a view, and what was left out."""
    data = result.exhibits
    if data is None:
        return (), (NO_EXHIBITS,)
    kept = list(zip(data["layer"].values.tolist(), data["head"].values.tolist(), strict=True))
    asked = view.heads or tuple((t.layer, t.head) for t in result.ranked if t.head is not None)
    wanted = [pair for pair in dict.fromkeys(asked or kept) if pair in kept]
    notes = []
    absent = [f"L{layer}H{head}" for layer, head in view.heads if (layer, head) not in kept]
    if absent:
        notes.append(f"The run kept no patterns of {', '.join(absent)}.")
    if len(wanted) > MOST_HEADS:
        notes.append(f"The first {MOST_HEADS} of {len(wanted)} heads are shown.")
        wanted = wanted[:MOST_HEADS]
    if not wanted:
        return (), (*notes, NO_EXHIBITS)
    indices = [kept.index(pair) for pair in wanted]
    shown = tuple(_exhibit(data, i, indices) for i in range(data.sizes["exhibit"]))
    longer = [exhibit for exhibit in shown if exhibit.block > 1]
    if longer and view.kind == "attention_heads":
        block = max(exhibit.block for exhibit in longer)
        notes.append(
            f"Prompts longer than {LONGEST} tokens are block-averaged: each cell is the mean of up "
            f"to {block} x {block} cells."
        )
    return shown, tuple(notes)


def block_average(pattern: Numbers, block: int) -> Numbers:
    """Return the means of ``[head, query, key]`` over blocks of queries and keys.

    The last block of each side holds what is left and is the mean of that.
    """
    length = pattern.shape[-1]
    starts = np.arange(0, length, block)
    sizes = np.minimum(block, length - starts)
    sums = np.add.reduceat(np.add.reduceat(pattern, starts, axis=1), starts, axis=2)
    means: Numbers = sums / (sizes[:, None] * sizes[None, :])  # [head, blocks, blocks]
    return means


def _exhibit(data: xr.Dataset, index: int, heads: list[int]) -> Exhibit:
    one = data.isel(exhibit=index)
    length = int(one["length"])
    values = one["pattern"].transpose("head_label", "query", "key").values[heads, :length, :length]
    pattern = np.nan_to_num(values.astype(np.float64))  # [head, query, key]
    causal = not bool((np.triu(pattern, 1) > 1e-6).any())
    visible_to = length - np.arange(length) if causal else np.full(length, length)
    tokens = tuple(visible(str(token)) for token in one["token"].values[:length])
    block = -(-length // LONGEST)
    labels = tokens
    if block > 1:
        labels = tuple(f"{i}: {tokens[i]}\u2026" for i in range(0, length, block))
    return Exhibit(
        prompt=visible(str(one["prompt"].item())).replace("\u00b7", " "),
        category=str(one["category"].item() or ""),
        tokens=tokens,
        heads=tuple(str(one["head_label"].values[i]) for i in heads),
        pattern=block_average(pattern, block) if block > 1 else pattern,
        block=block,
        pattern_tokens=labels,
        received=pattern.sum(axis=1) / visible_to,
        causal=causal,
    )
