"""Whether heads point to the same place, within a layer and across layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention, circular
from resonance_lens.errors import AnalysisError
from resonance_lens.features import N_BLOCKS, Features, block_sums
from resonance_lens.labels import FIRST_POSITION, Labelled
from resonance_lens.planting import attention_facts, peaked_rows, permuted_rows
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.across_prompts import match, own_pairs
from resonance_lens.stats.jackknife import of_groups
from resonance_lens.stats.samples import AnySample


@register
@dataclass(frozen=True, kw_only=True)
class HeadSync(Analysis):
    """Whether heads point to the same place, within a layer and across layers.

    Each head's attention is a phasor on the circle of positions (see `phase_coherence`); its direction
    is the head's phase. The order parameter is the modulus of the mean unit phasor over the heads of
    a layer: 1 when all point to one place. It is a **proxy**, as the phase is.

    Notes
    -----
    H independent heads have an order parameter of about ``sqrt(pi / (4 H))``, not zero
    (``order_parameter_independent``). The pairwise phase consistency has no such floor. But heads also
    agree because they see the same positions, whatever the words: ``consistency_null`` pairs each
    head with the other heads *in other prompts*, at the same queries of each prompt. Only what exceeds
    that belongs to the prompt (or to what its category has in common). Queries that only the longest
    prompt reaches have no such pair, and are left out of both. Permuting the keys of a row is no null
    between heads.

    A head that leaves nothing for keys beyond the first, or whose weights cancel, has no direction at
    that query. The order parameter and the dispersion are over the heads that have one, where two do;
    in consistency and similarity a pair with such a head counts as no agreement.
    """

    name: ClassVar[str] = "head_sync"
    title: ClassVar[str] = "Synchrony of heads on the circle of positions"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "proxy"
    baselines: ClassVar[tuple[str, ...]] = ("independent_heads", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("paired_across_prompts",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="consistency",
            long_name="pairwise phase consistency of heads",
            units="1",
            null="paired_across_prompts",
            against="pairs of heads from different prompts at the same queries",
            dims=("first_position", "layer"),
            family=("layer",),
            places="layers",
            minimum_effect=0.05,
            reading=(("first_position", "drop"),),
            undefined="one prompt has no other to be paired with",
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "order_parameter"
    source: ClassVar[str] = (
        "Kuramoto order parameter; pairwise phase consistency (Vinck et al. 2010); circular standard "
        "deviation (Mardia and Jupp 2000)."
    )

    undefined: ClassVar[tuple[str, ...]] = (
        "order_parameter",
        "independent",
        "dispersion",
        "network",
        "network_independent",
    )

    circle: str = parameter(
        "full",
        choices=("full", "half"),
        help="lay the keys out on the whole circle or on half of it",
    )
    min_keys: int = parameter(
        8, minimum=4, help="leave out queries that see fewer keys: their windows are too short"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the sums over keys of each attention row."""
        if where.facts.n_heads < 2:
            raise AnalysisError(
                f"head_sync compares the heads of a layer, and {where.facts.model_name} has one head."
            )
        rows = attention.Rows.read(
            signals["pattern"],
            causal=where.facts.causal,
            sliding=where.facts.sliding_windows[where.layer or 0],
            circle=self.circle,  # type: ignore[arg-type]
        )
        return Features.of(where.prompts, carry=rows.carry())

    def _order(self, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the order parameter of ``[..., head, grid]``, of how many heads, and by chance."""
        n = (units.abs() > 0.5).sum(-2)  # [..., grid]
        resultant = units.sum(-2).abs() / n.clamp_min(1)
        chance = torch.ones(units.shape[-2] + 1, device=units.device)
        for count in n.unique().tolist():
            chance[count] = circular.expected_resultant(max(count, 1), self.circle)
        return resultant, n, chance[n]

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return synchrony in layers and across them, and the sums that pair heads across prompts."""
        rows = attention.Rows.fold([features.carry for features in layers])
        sums, seen = rows.moments, rows.window
        grid = query_grid(sums.first.shape[-1], self.min_keys)
        # A head that leaves nothing for keys beyond the first has no direction there: zero.
        beyond = sums.free_phasor * (sums.free >= attention.SMALLEST_FREE_WEIGHT)
        phasors = torch.stack([sums.phasor, beyond], dim=1)[..., grid]
        counts = (rows.real & (seen.size >= self.min_keys))[:, grid]  # [layer * batch, grid]
        units = circular.unit_phasors(phasors) * counts[:, None, None]
        units = attention.unfold(units, len(layers)).transpose(1, 2)  # [batch, 2, layer, head, grid]
        counts = attention.unfold(counts, len(layers))  # [batch, layer, grid]
        weights = counts * steps_of(grid)
        resultant, n_pointing, independent = self._order(units)  # [batch, 2, layer, grid]
        pointing = weights[:, None] * (n_pointing >= 2)
        consistency = own_pairs(units) / (units.shape[3] * (units.shape[3] - 1))

        heads = units.flatten(2, 3)  # [batch, 2, all heads, grid]
        # Queries that count at every layer are those that count across layers.
        counts, weights = counts.all(1), weights.amin(1)  # [batch, grid]
        network, n_network, network_independent = self._order(heads)
        everywhere = weights[:, None] * (n_network >= 2)
        weighted = heads * weights[:, None, None].sqrt()
        flat = weighted.permute(1, 2, 0, 3).flatten(2)  # [2, all heads, prompts * grid]
        within = weights[:, None, None].expand_as(consistency)
        return Features.of(
            where.prompts,
            rows={
                "order_parameter": _mean(resultant, pointing).transpose(1, 2),  # [prompt, layer, 2]
                "independent": _mean(independent, pointing).transpose(1, 2),
                "consistency": _mean(consistency, within).transpose(1, 2),
                "dispersion": _mean(circular.circular_deviation(resultant), pointing).transpose(1, 2),
                "network": _mean(network, everywhere),  # [prompt, 2]
                "network_independent": _mean(network_independent, everywhere),
                "queries": counts.sum(-1),  # [prompt]
            },
            sums={
                "alike": (flat @ flat.mH).real,  # [2, all heads, all heads]
                "weight": weights.double().sum()[None],
            },
            blocks={
                "phasors": block_sums(units, where.groups),  # [block, 2, layer, head, grid]
                "own_pairs": block_sums(own_pairs(units), where.groups),  # [block, 2, layer, grid]
                "prompts": block_sums(counts, where.groups),  # [block, grid]
            },
        )

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return order parameter, dispersion, and the head-by-head matrix."""
        features = seen.plain
        rows = {n: np.swapaxes(v, 1, 2) for n, v in features.rows.items() if v.ndim == 3}
        n_heads = seen.facts.n_heads
        labels = [f"L{layer}H{head}" for layer in seen.layers for head in range(n_heads)]
        out = Labelled(seen, self.name, {"head_a": labels, "head_b": labels})
        dims = ("first_position", "layer")
        out.add_mean(
            "order_parameter", dims, rows["order_parameter"],
            "order parameter over the heads of a layer", "1", by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "order_parameter_independent", dims, rows["independent"],
            "order parameter of as many independent heads", "1", interval=False,
        )  # fmt: skip
        out.add_mean("dispersion", dims, rows["dispersion"], "circular standard deviation over heads", "rad")
        out.add_mean(
            "network_order_parameter", ("first_position",),
            features.rows["network"], "order parameter over all heads of all layers", "1",
        )  # fmt: skip
        out.add_mean(
            "network_order_parameter_independent", ("first_position",),
            features.rows["network_independent"], "order parameter of as many independent heads", "1",
            interval=False,
        )  # fmt: skip
        alike = features.sums["alike"] / features.sums["weight"]
        out.add(
            "similarity", ("first_position", "head_a", "head_b"), alike.astype(np.float32),
            "mean cosine of the phase difference of two heads", "1",
        )  # fmt: skip
        return out.dataset()

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are jackknife groups: what pairs prompts has no value for each prompt."""
        return "group", min(n_prompts, N_BLOCKS) if n_prompts > 2 else 1

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return consistency beside that across prompts, as estimates that leave groups of prompts out."""
        features, block = seen.plain, seen.jackknife
        rows = np.swapaxes(features.rows["consistency"], 1, 2)  # [prompt, 2, layer]
        size = features.blocks["prompts"].shape[1]
        grid = query_grid(512 + 64 * size + self.min_keys, self.min_keys)[:size]
        steps, queries = steps_of(grid).numpy(), features.rows["queries"]

        def paired(left_out: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
            """Return value and null of each prompt, from the prompts of all groups but one."""
            kept = [b for b in range(N_BLOCKS) if b != left_out]
            parts = {name: blocks[kept].sum(0) for name, blocks in features.blocks.items()}
            return match(parts, rows, queries, steps)

        return {"consistency": of_groups(paired, block, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return the order parameter beside chance, with the first position and without it."""
        data = result.data.sel(category="all")
        keep, drop = (data.order_parameter.sel(first_position=f).mean() for f in FIRST_POSITION)
        chance = float(data.order_parameter_independent.mean())
        return (
            f"Averaged over layers, the order parameter is {float(keep):.2f} with the first position and "
            f"{float(drop):.2f} without it; independent heads would give {chance:.2f}."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return both measures over depth beside their chance levels, and the matrix of heads."""
        return [
            ViewSpec(
                kind="lines",
                title="Order parameter over depth",
                says="How far the heads of each layer point to one place, beside the level of as many "
                "independent heads.",
                misleads="all heads park on the first token: that alone raises the line with it kept.",
                variables=("order_parameter",),
                references=(
                    "order_parameter_independent",
                    "order_parameter_random_weights",
                    "order_parameter_shuffled_tokens",
                ),
                select={"category": "all"},
                panels="first_position",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Consistency within prompts and across prompts",
                says="Mean agreement of pairs of heads in the same prompt, beside that of pairs taken from "
                "different prompts at the same query. The difference belongs to the prompt.",
                misleads="heads that attend by position alone agree across prompts just as well.",
                variables=("consistency",),
                references=(
                    "consistency_null",
                    "consistency_random_weights",
                    "consistency_shuffled_tokens",
                ),
                select={"category": "all", "first_position": "drop"},
                claim="consistency",
            ),
            ViewSpec(
                kind="lines",
                title="Phase dispersion over depth",
                says="Circular standard deviation of the heads' directions at each layer.",
                misleads="read with the first position kept: a shared sink makes it small.",
                variables=("dispersion",),
                select={"category": "all"},
                series="first_position",
            ),
            ViewSpec(
                kind="matrix",
                title="Which heads point alike",
                says="Mean cosine of the phase difference of each pair of heads, over prompts and queries, "
                "first position left out.",
                misleads="heads that look a fixed distance back point alike whatever the text is.",
                variables=("similarity",),
                select={"first_position": "drop"},
                colours="diverging",
                limits=(-1.0, 1.0),
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers whose heads agree most beyond what other prompts give."""
        low = result.data.consistency_effect_low.sel(category="all", first_position="drop")
        low = low[low.values > 0]
        low = low[np.argsort(-low.values, kind="stable")[:k]]
        return [
            Target(
                site="attn_out",
                layer=int(value.layer),
                score=float(value),
                reason="agreement of heads above that across prompts (lower 95 % bound)",
            )
            for value in low
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer whose heads look at one place that changes with the prompt, and one of noise."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = torch.tensor([30, 26, 34, 28, 32, 30, 36, 29, 31, 33, 27, 35])
        n = int(lengths.max())
        together = torch.zeros(len(lengths), facts.n_heads, n, n)
        for row, place in enumerate(rng.uniform(0, 1, len(lengths))):
            pattern = peaked_rows(rng, facts, lengths[row : row + 1], width=0.05, place=float(place))
            size = pattern.shape[-1]
            together[row, :, :size, :size] = pattern[0]

        def expect(data: xr.Dataset) -> None:
            effect = data.consistency_effect_low.sel(category="all", first_position="drop")
            assert float(effect.sel(layer=0)) > self.minimum_effect, "heads that move together were not found"
            assert float(effect.sel(layer=1)) < self.minimum_effect, "independent heads were found in step"

        noise = permuted_rows(rng, facts, lengths)
        return Planted([{"pattern": together}, {"pattern": noise}], lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads that agree because they look at the same place in every prompt."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = torch.tensor([30, 26, 34, 28, 32, 30, 36, 29, 31, 33, 27, 35])
        layers = [
            {"pattern": peaked_rows(rng, facts, lengths, width=0.2, place=0.7)},
            {"pattern": permuted_rows(rng, facts, lengths)},
        ]

        def expect(data: xr.Dataset) -> None:
            low = data.consistency_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), (
                "heads that share a position were found to agree by more than that"
            )

        return Planted(layers, lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads that agree by position alone, and layers in step: see `worlds.layers_in_step`."""
        return worlds.layers_in_step(rng, world, strength, "consistency")


def query_grid(n_queries: int, first: int) -> torch.Tensor:
    """Return the queries at which phases are compared: all up to 64, then every 8th, then every 64th.

    Sums over prompts are kept for each of them, so their number must not grow with the record. The
    first query that sees enough keys is always one of them, and those of a shorter prompt are the first
    of those of a longer one.
    """
    spaced = (*range(64), *range(64, min(n_queries, 512), 8), *range(512, n_queries, 64))
    later = [query for query in spaced if first - 1 < query < n_queries]
    return torch.tensor([first - 1, *later] if n_queries >= first else [], dtype=torch.long)


def steps_of(grid: torch.Tensor) -> torch.Tensor:
    """Return how many queries each one of a grid stands for: means over a grid are weighted by these."""
    return 1.0 + 7 * (grid >= 64) + 56 * (grid >= 512)


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean over the last axis; not-a-number where no weight is above zero."""
    total = torch.where(weights > 0, values * weights, 0.0).double().sum(-1)
    return total / weights.double().sum(-1)
