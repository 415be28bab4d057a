"""How much of its attention each token gives to itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from resonance_lens.contract import Accumulated, Analysis, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts, permuted_rows, softmax_rows
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal

LENGTHS = (24, 30, 36, 28, 40, 33, 26, 38)


@dataclass(frozen=True, kw_only=True)
class AttentionToSelf(Analysis):
    """How much of its attention each token gives to itself.

    The mean over queries of the weight that query ``i`` puts on key ``i``.

    Notes
    -----
    A query that sees ``i + 1`` keys gives each ``1 / (i + 1)`` if it has no preference, so a raw weight
    is large in short prompts whatever the head does: read ``self_weight_effect``. A head without use
    for its input may also rest on its own position.
    """

    name: ClassVar[str] = "attention_to_self"
    title: ClassVar[str] = "Attention of each token to itself"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_causal",)
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "self_weight"
    source: ClassVar[str] = "Diagonal of the attention pattern."

    min_keys: int = parameter(8, minimum=2, help="leave out queries that see fewer keys")
    scale: str = parameter(
        "weight", choices=("weight", "share"), help="the weight itself, or as a share of uniform attention"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return the mean over queries of the diagonal, and of what uniform attention has there."""
        pattern = signals["pattern"]
        layer = where.layer or 0
        seen = attention.window(
            pattern, causal=where.facts.causal, sliding=where.facts.sliding_windows[layer]
        )
        own = pattern.values.diagonal(dim1=2, dim2=3)  # [batch, head, query]
        even = (1 / seen.size)[:, None].expand_as(own)
        if self.scale == "share":
            own, even = own / even, even / even
        counts = (pattern.mask("query") & (seen.size >= self.min_keys))[:, None]
        mean = attention.mean_over_queries
        return Features.of(
            where.prompts,
            rows={"own": mean(own, counts), "even": mean(even, counts)},  # [prompt, head]
        )

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return the weight beside that of uniform attention, and their difference."""
        own, even = seen.plain.rows["own"], seen.plain.rows["even"]  # [prompt, layer, head]
        dims = ("layer", "head")
        out = Labelled(seen, self.name)
        out.add_mean("self_weight", dims, own, "attention to oneself", "1", by_prompt=True)
        out.add_mean("self_weight_uniform", dims, even, "uniform attention to oneself", "1", interval=False)
        out.add_mean("self_weight_effect", dims, own - even, "attention to oneself above uniform", "1")
        return out.dataset()

    def summary(self, result: Result) -> str:
        """Return how many heads attend to themselves."""
        low = result.data.self_weight_effect_low.sel(category="all")
        return (
            f"{int((low > self.minimum_effect).sum())} of {low.size} heads give themselves more attention "
            f"than uniform attention would, by more than {self.minimum_effect} (lower 95 % bound)."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return the weight over depth, and the map of heads."""
        return [
            ViewSpec(
                kind="lines",
                title="Attention to oneself over depth",
                says="Mean over heads of the weight of each token on itself, beside uniform attention.",
                misleads="prompts are short: uniform attention is then high.",
                variables=("self_weight",),
                references=("self_weight_uniform",),
                select={"category": "all"},
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Heads that attend to themselves",
                says="Weight of each token on itself, above uniform attention.",
                misleads="a head rests on its own position because it has nothing else to do.",
                variables=("self_weight_effect",),
                select={"category": "all"},
                colours="diverging",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads that attend to themselves most surely."""
        low = result.data.self_weight_effect_low.sel(category="all")
        return [
            Target(site="pattern", layer=layer, head=head, score=score, reason="attention to oneself")
            for layer, head, score in rank_heads(low, k)
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer of heads that look at themselves, and one of heads that do not."""
        facts = attention_facts(n_layers=2, n_heads=3)
        lengths = torch.tensor(LENGTHS)
        n = max(LENGTHS)
        scores = rng.normal(0, 0.5, size=(len(LENGTHS), 3, n, n)) + 3 * np.eye(n)
        layers = [
            {"pattern": softmax_rows(scores, facts, lengths)},
            {"pattern": permuted_rows(rng, facts, lengths)},
        ]

        def expect(data: xr.Dataset) -> None:
            low = data.self_weight_effect_low.sel(category="all")
            assert bool((low.sel(layer=0) > self.minimum_effect).all()), "the planted heads were not found"
            assert not bool((low.sel(layer=1) > self.minimum_effect).any()), "other heads were found"

        return Planted(layers, lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads whose weights stand on keys in random order."""
        facts = attention_facts(n_layers=2, n_heads=3)
        lengths = torch.tensor(LENGTHS)
        layers = [{"pattern": permuted_rows(rng, facts, lengths)} for _ in range(2)]

        def expect(data: xr.Dataset) -> None:
            low = data.self_weight_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), "a head was found in noise"

        return Planted(layers, lengths, facts, expect)
