"""How spread out attention is, how much of it the first key holds, and how far back it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts, softmax_rows
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, of_prompts


@register
@dataclass(frozen=True, kw_only=True)
class AttentionEntropy(Analysis):
    """How spread out attention is, how much of it the first key holds, and how far back it reaches.

    The entropy ``-sum_j A_ij ln A_ij`` of a query's attention, in nats; the same divided by its largest
    value ``ln(i + 1)``, because early queries see few keys; ``exp(entropy)``, the effective number of
    keys; the weight of the first key (sink mass); and the mean distance back in tokens.
    It is **measured**: no coordinate is invented.

    Notes
    -----
    Entropy does not change when keys are permuted, so no permutation can test it: uniform attention
    over the same window is its baseline. The mean distance does change, and has the mean over
    permutations of the keys, first key fixed, as its null. Low entropy with a large sink mass
    means that a head is idle, not that it is precise: read ``first_position="drop"``.
    """

    name: ClassVar[str] = "attention_entropy"
    title: ClassVar[str] = "Entropy, sink mass and reach of attention"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_causal", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="distance",
            long_name="mean attended distance",
            units="tokens",
            null="permuted_keys",
            against="the same weights on permuted keys, the first key fixed",
            dims=("first_position", "layer", "head"),
            family=("layer", "head"),
            places="heads",
            minimum_effect=1.0,
            reading=(("first_position", "drop"),),
        ),
    )
    minimum_effect: ClassVar[float] = 0.1
    headline: ClassVar[str] = "entropy"
    source: ClassVar[str] = "Shannon entropy of attention rows, normalised by ln(i + 1) for each query."
    undefined: ClassVar[tuple[str, ...]] = (
        "entropy",
        "normalized",
        "effective_keys",
        "distance",
        "distance_null",
        "entropy_uniform",
        "distance_uniform",
        "keys",
    )

    min_keys: int = parameter(
        8, minimum=4, help="leave out queries that see fewer keys: their windows are too short"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the entropy of each attention row, and its sums over keys."""
        pattern = signals["pattern"]
        rows = attention.Rows.read(
            pattern,
            causal=where.facts.causal,
            sliding=where.facts.sliding_windows[where.layer or 0],
            circle="full",
        )
        return Features.of(
            where.prompts, carry=rows.carry(entropy=attention.row_entropy(pattern, rows.window))
        )

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return means over queries of entropy, effective keys, sink mass and distance."""
        rows = attention.Rows.fold([features.carry for features in layers])
        sums, seen, whole = rows.moments, rows.window, rows.extra["entropy"]
        first = sums.first.clamp_min(0)
        free = sums.free.clamp_min(attention.SMALLEST_FREE_WEIGHT)
        # Taking out the first key and renormalising: H' = (H + w0 ln w0) / W + ln W.
        rest = (whole + torch.special.xlogy(first, first)) / free + free.log()
        entropy = torch.stack([whole, rest], dim=1).clamp_min(0)  # [batch, 2, head, query]

        query = torch.arange(first.shape[-1], device=first.device)
        mean_key = torch.stack([sums.position, sums.position / free], dim=1)
        distance = query - mean_key
        window_mean = seen.start + (seen.size - 1) / 2  # [row, query]
        free_mean = window_mean + seen.holds_first * 0.5
        shuffled = torch.stack(
            [query - sums.free * free_mean[:, None], (query - free_mean)[:, None].expand_as(first)],
            dim=1,
        )
        counts = (rows.real & (seen.size >= self.min_keys))[:, None]  # [batch, 1, query]
        enough = counts & (sums.free >= attention.SMALLEST_FREE_WEIGHT)
        valid = torch.stack([counts.expand_as(enough), enough], dim=1)
        sizes = torch.stack([seen.size, seen.free.clamp_min(1)], dim=1).float()  # [row, 2, query]
        most = sizes.log()
        evenly = torch.stack([query - window_mean, query - free_mean], dim=1)  # [row, 2, query]

        def mean(values: torch.Tensor, counted: torch.Tensor = valid) -> torch.Tensor:
            # A baseline and a null are those of the queries that a head's own mean is over.
            means = attention.mean_over_queries(values.expand_as(counted), counted)
            return attention.unfold(means, len(layers))

        whole_head = counts.expand_as(first)
        return Features.of(
            where.prompts,
            rows={
                "entropy": mean(entropy),  # [prompt, layer, 2, head]
                "normalized": mean(entropy / most[:, :, None]),
                "effective_keys": mean(entropy.exp()),
                "distance": mean(distance),
                "distance_null": mean(shuffled),
                "entropy_uniform": mean(most[:, :, None]),
                "distance_uniform": mean(evenly[:, :, None]),
                "keys": mean(sizes[:, :, None]),
                "sink_mass": mean(first, whole_head),  # [prompt, layer, head]
                "sink_uniform": mean((seen.holds_first / seen.size)[:, None], whole_head),
            },
        )

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return every quantity beside uniform attention."""
        rows = seen.plain.rows
        per_head = {n: np.moveaxis(v, 2, 1) for n, v in rows.items() if v.ndim == 4}
        dims = ("first_position", "layer", "head")
        out = Labelled(seen, self.name)
        entropy = per_head["entropy"]
        out.add_mean("entropy", dims, entropy, "attention entropy", "nat", by_prompt=True)
        out.add_mean(
            "entropy_uniform", dims, per_head["entropy_uniform"],
            "entropy of uniform attention", "nat", interval=False,
        )  # fmt: skip
        out.add_mean(
            "entropy_effect", dims, entropy - per_head["entropy_uniform"],
            "entropy minus that of uniform attention", "nat",
        )  # fmt: skip
        out.add_mean(
            "normalized_entropy", dims, per_head["normalized"],
            "entropy divided by that of uniform attention", "1",
        )  # fmt: skip
        out.add_mean("effective_keys", dims, per_head["effective_keys"], "effective number of keys", "keys")
        out.add_mean("effective_keys_uniform", dims, per_head["keys"], "keys seen", "keys", interval=False)
        out.add_mean(
            "distance_uniform", dims, per_head["distance_uniform"],
            "distance of uniform attention", "tokens", interval=False,
        )  # fmt: skip
        out.add_mean(
            "sink_mass", ("layer", "head"), rows["sink_mass"], "attention to the first key", "1",
            by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "sink_mass_uniform", ("layer", "head"), rows["sink_uniform"],
            "uniform attention to the first key", "1", interval=False,
        )  # fmt: skip
        return out.dataset()

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the mean attended distance of each prompt beside its mean over permutations of the keys."""
        value, null = (np.moveaxis(seen.plain.rows[name], 2, 1) for name in ("distance", "distance_null"))
        return {"distance": of_prompts(value, null, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return how much the first key holds, and how sharp attention is without it."""
        data = result.data.sel(category="all")
        sink = data.sink_mass.mean("head")
        share = data.normalized_entropy.sel(first_position="drop").mean()
        sharper = data.entropy_effect_high.sel(first_position="drop") < -self.minimum_effect
        deepest = sink.idxmax()
        return (
            f"The first key holds {float(sink.mean()):.0%} of all attention (uniform attention would give "
            f"it {float(data.sink_mass_uniform.mean()):.0%}), most at layer {int(deepest)} "
            f"({float(sink.max()):.0%}). Among the other keys, entropy is {float(share):.0%} of its maximum, "
            f"and {int(sharper.sum())} of {sharper.size} heads are sharper than uniform by more than "
            f"{self.minimum_effect} nat (upper 95 % bound)."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return sink mass and entropy over depth, and maps of entropy and reach."""
        sinks = rank_heads(result.data.sink_mass.sel(category="all"), 4)
        return [
            ViewSpec(
                kind="lines",
                title="How much attention the first key holds",
                says="Mean over heads of the weight on the first key, beside uniform attention.",
                misleads="short prompts: a uniform head gives the first of n keys 1/n.",
                variables=("sink_mass",),
                references=("sink_mass_uniform", "sink_mass_random_weights", "sink_mass_shuffled_tokens"),
                select={"category": "all"},
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Attention entropy over depth, with and without the first position",
                says="Mean over heads of the entropy of attention rows, beside that of uniform attention "
                "over the same windows.",
                misleads="a sink lowers the entropy without any head having become precise.",
                variables=("entropy",),
                references=("entropy_uniform", "entropy_random_weights", "entropy_shuffled_tokens"),
                select={"category": "all"},
                panels="first_position",
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Sharpness of each head",
                says="Entropy relative to its maximum for the window, first position left out: 1 is uniform.",
                misleads="heads that give almost nothing to keys beyond the first are averages over the few "
                "queries where they do.",
                variables=("normalized_entropy",),
                select={"category": "all", "first_position": "drop"},
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Reach of each head beyond chance",
                says="Mean attended distance minus that of the same weights on permuted keys, first position "
                "left out: below zero a head looks nearby, above zero far back.",
                misleads="in tokens: it grows with the length of the prompts.",
                variables=("distance_effect",),
                select={"category": "all", "first_position": "drop"},
                claim="distance",
                colours="diverging",
            ),
            ViewSpec(
                kind="lines",
                title="Mean attended distance beside the permuted-key null",
                says="Mean over heads of the attended distance, first position left out, beside that of the "
                "same weights on permuted keys.",
                misleads="heads that look nearby and heads that look far back cancel in a mean over heads: "
                "see the map.",
                variables=("distance",),
                references=("distance_null", "distance_random_weights", "distance_shuffled_tokens"),
                select={"category": "all", "first_position": "drop"},
            ),
            ViewSpec(
                kind="attention_heads",
                title="The heads with the largest sinks",
                says="Attention of each query (row) to each key (column): the first column is the sink.",
                misleads="one prompt is an illustration, not evidence.",
                heads=tuple((layer, head) for layer, head, _ in sinks),
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads that are surely sharpest beyond the first position."""
        high = result.data.entropy_effect_high.sel(category="all", first_position="drop")
        return [
            Target(
                site="pattern",
                layer=layer,
                head=head,
                score=-score,
                reason="nats below uniform attention, first position left out (95 % bound)",
            )
            for layer, head, score in rank_heads(high, k, smallest=True)
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a sink that holds half of the attention, beside heads that look one token back."""
        facts = attention_facts(n_layers=2, n_heads=2)
        lengths = torch.tensor([24, 32, 40])
        n = int(lengths.max())
        even = softmax_rows(np.zeros((3, 2, n, n)), facts, lengths)
        sink = 0.5 * even
        sink[..., 0] += 0.5 * (torch.arange(n) < lengths[:, None])[:, None]
        back = np.where(np.arange(n)[:, None] - np.arange(n)[None, :] == 1, 20.0, 0.0)
        previous = softmax_rows(np.broadcast_to(back, (3, 2, n, n)), facts, lengths)

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all")
            drop = data.sel(first_position="drop")
            assert np.allclose(
                data.sink_mass.sel(layer=0),
                0.5 + 0.5 * data.sink_mass_uniform.sel(layer=0),
                atol=1e-5,
            ), "the planted sink was not measured"
            assert np.allclose(drop.normalized_entropy.sel(layer=0), 1, atol=1e-4), (
                "a uniform head with a sink is not uniform without it"
            )
            assert np.allclose(drop.distance.sel(layer=1), 1, atol=1e-3), "the distance is not one token"
            assert np.allclose(drop.effective_keys.sel(layer=1), 1, atol=1e-3), "one key is not one key"

        return Planted([{"pattern": sink}, {"pattern": previous}], lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return uniform attention."""
        facts = attention_facts(n_layers=2, n_heads=2)
        lengths = torch.tensor([24, 32, 40])
        n = int(lengths.max())
        even = softmax_rows(np.zeros((3, 2, n, n)), facts, lengths)

        def expect(data: xr.Dataset) -> None:
            assert bool((abs(data.entropy_effect) < 1e-4).all()), "uniform attention is not uniform"
            assert bool((abs(data.distance_effect) < 1e-3).all()), "uniform attention has a reach"

        return Planted([{"pattern": even}, {"pattern": even}], lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads whose keys can be exchanged, some with a peak: see `worlds.heads`."""
        return worlds.heads(rng, world, strength, "distance")
