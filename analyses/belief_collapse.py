"""What the model would predict if it stopped at each layer, and where that settles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.errors import AnalysisError
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, Surrogates, estimates_of, of_prompts
from resonance_lens.stats.streams import stream

ROWS_AT_ONCE = 32
"""Distributions over the vocabulary that are held at one time."""


@register
@dataclass(frozen=True, kw_only=True)
class BeliefCollapse(Analysis):
    """What the model would predict if it stopped at each layer, and where that settles.

    The residual stream after each layer is read through the model's own final norm (once) and
    unembedding: the logit lens. Of that distribution over the next token: its entropy in nats, its
    divergence from the final one (KL of the final distribution from it), and the rank it gives to the
    token that the model finally prefers. The collapse layer is the one with the largest drop in mean
    entropy, if there is one that prompts agree on.

    Notes
    -----
    Low entropy early is not belief: in a model with tied embeddings the first layers confidently
    predict a copy of the input token. Read entropy beside the divergence: a belief has settled where
    both are small.
    """

    name: ClassVar[str] = "belief_collapse"
    title: ClassVar[str] = "Where in depth the next-token distribution settles"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_vocabulary", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("exchanged_layers",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="entropy_drop",
            long_name="fall of entropy from the layer before",
            units="nat",
            null="exchanged_layers",
            against="the falls of the same prompt in random order of layers",
            dims=("layer",),
            family=("layer",),
            places="layers",
            minimum_effect=0.5,
            undefined="the first layer has none before it",
        ),
    )
    minimum_effect: ClassVar[float] = 0.5
    headline: ClassVar[str] = "entropy"
    source: ClassVar[str] = (
        "Logit lens (nostalgebraist 2020); divergence from the final distribution as in Belrose et al. 2023."
    )

    positions: int = parameter(
        4,
        minimum=1,
        help="how many positions of each prompt are read, evenly spaced and always the last one",
    )

    surrogates: int = parameter(
        999,
        minimum=19,
        maximum=9_999,
        help="random orders of the layers that falls of entropy are held against",
    )

    @property
    def min_tokens(self) -> int:
        """A prediction needs one token besides the first, which is no prompt."""
        return 2

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the residual stream at the positions that are read."""
        residual = signals["resid_post"]
        chosen = spread_positions(residual.prompt_lengths(), self.positions)  # [batch, positions]
        index = chosen[..., None].expand(-1, -1, residual.size("d_model"))
        vectors = residual.values.gather(1, index.to(residual.values.device))
        return Features.of(where.prompts, carry={"vectors": vectors})

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Read every layer out, and compare it with the last."""
        if where.layers[-1] != where.facts.n_layers - 1:
            raise AnalysisError(
                "belief_collapse compares each layer with the last, and the last layer was not observed."
            )
        vectors = torch.stack([f.carry["vectors"] for f in layers])  # [layer, batch, positions, d_model]
        n_layers, batch, positions, _ = vectors.shape
        found = _compare_with_last(vectors.flatten(1, 2), where.readout)
        rows = {
            name: values.view(n_layers, batch, positions).mean(-1).T for name, values in found.items()
        }  # [prompt, layer]
        return Features.of(where.prompts, rows=rows)

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return the three quantities by layer, and the layer of the largest drop with its interval."""
        rows = seen.plain.rows
        out = Labelled(seen, self.name)
        out.add_mean(
            "entropy", ("layer",), rows["entropy"], "entropy of the next-token distribution", "nat",
            by_prompt=True,
        )  # fmt: skip
        uniform = np.log(seen.facts.d_vocab)
        shape = (len(seen.groups), len(seen.layers))
        out.add(
            "entropy_uniform", ("category", "layer"), np.full(shape, uniform),
            "entropy of a uniform distribution over the vocabulary", "nat",
        )  # fmt: skip
        out.add_mean(
            "entropy_effect", ("layer",), rows["entropy"] - uniform,
            "entropy minus that of a uniform distribution", "nat",
        )  # fmt: skip
        out.add_mean(
            "kl_to_final", ("layer",), rows["kl_to_final"], "KL of the final distribution from it", "nat",
            by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "log_rank",
            ("layer",),
            rows["log_rank"],
            "log of the rank of the final token (0 is first)",
            "nat",
        )
        layer, low, high, drop = [], [], [], []
        for category, members in seen.groups.items():
            rng = stream(seen.seed, self.name, "collapse", category)
            found = collapse(rows["entropy"][members], rng, self.minimum_effect)
            at = np.array([np.nan, *seen.layers], dtype=float)
            layer.append(at[found[0] + 1])
            low.append(at[found[1] + 1])
            high.append(at[found[2] + 1])
            drop.append(found[3])
        about = "layer of the largest drop in entropy"
        out.add("collapse_layer", ("category",), layer, f"{about}; not-a-number: none", "layer")
        out.add("collapse_layer_low", ("category",), low, f"{about}, lower 95 % bound", "layer")
        out.add("collapse_layer_high", ("category",), high, f"{about}, upper 95 % bound", "layer")
        out.add(
            "collapse_drop",
            ("category",),
            drop,
            "largest drop in mean entropy between layers",
            "nat",
        )
        return out.dataset()

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the fall of entropy at each layer, beside those of each prompt in random order.

        The first layer has none before it: not-a-number.
        """
        entropy = seen.plain.rows["entropy"]  # [prompt, layer]
        n_prompts, n_layers = entropy.shape
        fall, even = np.full_like(entropy, np.nan), np.full_like(entropy, np.nan)
        drawn = np.full((len(seen.groups), self.surrogates, n_layers), np.nan)
        if n_layers > 1:
            fall[:, 1:] = -np.diff(entropy, axis=1)
            even[:, 1:] = fall[:, 1:].mean(axis=1, keepdims=True)
            rng = stream(seen.seed, self.name, "exchanged layers")
            for index in range(self.surrogates):
                order = rng.permuted(fall[:, 1:], axis=1)
                for group, members in enumerate(seen.groups.values()):
                    drawn[group, index, 1:] = order[members].mean(axis=0)
        estimates = of_prompts(fall, even, seen.groups)
        return {
            "entropy_drop": {
                category: Surrogates(fall[members].mean(axis=0), draws, estimates_of(estimates[category]))
                for (category, members), draws in zip(seen.groups.items(), drawn, strict=True)
            }
        }

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are the orders of layers that are drawn."""
        return "draw", self.surrogates

    def summary(self, result: Result) -> str:
        """Return where belief settles, or that it settles nowhere in particular."""
        data = result.data.sel(category="all")
        layer, drop = float(data.collapse_layer), float(data.collapse_drop)
        span = f"{float(data.collapse_layer_low):.0f} to {float(data.collapse_layer_high):.0f}"
        if np.isnan(float(data.collapse_layer_low)):
            verdict = "One prompt, or one layer, cannot tell where belief settles."
        elif np.isnan(layer):
            verdict = (
                f"There is no collapse layer: prompts do not agree on where the largest drop in entropy "
                f"({drop:.2f} nat) is ({span}), or it is too small."
            )
        else:
            verdict = (
                f"The largest drop in entropy ({drop:.2f} nat) is at layer {layer:.0f} "
                f"(95 % interval {span})."
            )
        first, last = float(data.entropy[0]), float(data.entropy[-1])
        return (
            f"{verdict} Entropy goes from {first:.2f} nat after the first layer to {last:.2f} after the "
            "last; the divergence from the final distribution starts at "
            f"{float(data.kl_to_final[0]):.1f} nat."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return the three quantities over depth."""
        series = "category" if result.data.sizes["category"] > 1 else None
        select = {} if series else {"category": "all"}
        return [
            ViewSpec(
                kind="lines",
                title="Entropy of the next-token distribution over depth",
                says="Mean over prompts and positions of the entropy of the distribution read out after each "
                "layer.",
                misleads="a low entropy in the first layers of a model with tied embeddings is a copy of the "
                "input token, not a belief.",
                variables=("entropy",),
                references=("entropy_uniform", "entropy_random_weights", "entropy_shuffled_tokens"),
                select=select,
                series=series,
            ),
            ViewSpec(
                kind="lines",
                title="Where entropy falls faster than evenly",
                says="Fall of the entropy from the layer before, averaged over prompts, beside the same "
                "fall of each prompt spread evenly over its layers. Below zero the entropy rises.",
                misleads="prompts settle at different layers: their mean falls gently although each falls at "
                "once.",
                variables=("entropy_drop",),
                references=(
                    "entropy_drop_null",
                    "entropy_drop_random_weights",
                    "entropy_drop_shuffled_tokens",
                ),
                select={"category": "all"},
                claim="entropy_drop",
            ),
            ViewSpec(
                kind="lines",
                title="Divergence from the final distribution",
                says="How far the distribution after each layer is from the one that the model ends with: "
                "zero at the last layer by definition.",
                misleads="early layers may hold the answer in a form that the final unembedding cannot read.",
                variables=("kl_to_final",),
                references=("kl_to_final_random_weights", "kl_to_final_shuffled_tokens"),
                select=select,
                series=series,
            ),
            ViewSpec(
                kind="lines",
                title="Rank of the final token",
                says="Mean logarithm of the rank that each layer gives to the token that the model ends "
                "with: zero means first place.",
                misleads="ranks among tokens that all have small probability say little.",
                variables=("log_rank",),
                select=select,
                series=series,
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers after which the divergence from the final distribution falls most."""
        kl = result.data.kl_to_final.sel(category="all")
        fall = -kl.diff("layer")
        fall = fall[fall.values > 0]
        fall = fall[np.argsort(-fall.values, kind="stable")[:k]]
        return [
            Target(
                site="resid_post",
                layer=int(value.layer),
                score=float(value),
                reason="fall of the divergence from the final distribution, in nat",
            )
            for value in fall
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a residual stream that becomes certain at one layer."""
        facts = attention_facts(n_layers=8, n_heads=1, d_model=16, d_vocab=16)
        lengths = torch.tensor([10, 14, 12, 9, 11, 13])
        certain = rng.integers(0, facts.d_vocab, size=(len(lengths), int(lengths.max())))
        layers = []
        for layer in range(facts.n_layers):
            stream_ = rng.normal(0, 0.1, size=(*certain.shape, facts.d_model))
            if layer >= 5:
                np.put_along_axis(stream_, certain[..., None], 12.0, axis=-1)
            layers.append({"resid_post": torch.as_tensor(stream_, dtype=torch.float32)})

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all")
            assert float(data.collapse_layer) == 5, "the planted collapse was not found at its layer"
            assert float(data.log_rank.sel(layer=5)) == 0, "the final token is not first after the collapse"
            assert abs(float(data.kl_to_final.sel(layer=7))) < 1e-6, "the last layer is not itself"

        return Planted(layers, lengths, facts, expect, readout=lambda residual: residual)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return a residual stream that never becomes certain."""
        facts = attention_facts(n_layers=8, n_heads=1, d_model=16, d_vocab=16)
        lengths = torch.tensor([10, 14, 12, 9, 11, 13])
        layers = [
            {"resid_post": torch.as_tensor(rng.normal(0, 1, size=(6, 14, 16)), dtype=torch.float32)}
            for _ in range(facts.n_layers)
        ]

        def expect(data: xr.Dataset) -> None:
            assert bool(np.isnan(data.collapse_layer).all()), "a collapse was found in noise"

        return Planted(layers, lengths, facts, expect, readout=lambda residual: residual)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return entropies that fall alike at every layer, and at one more: see `worlds.descents`."""
        return worlds.descents(rng, world, strength, "entropy_drop")


def _compare_with_last(
    vectors: torch.Tensor, readout: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return entropy, divergence from the last layer and log rank of its first token, ``[layer, place]``.

    Several layers are read out together: the unembedding is the largest matrix of most models, and
    reading it from memory once for each layer would take most of the time.
    """
    n_layers, n_places, _ = vectors.shape
    found = {
        name: torch.empty(n_layers, n_places, dtype=torch.float64)
        for name in ("entropy", "kl_to_final", "log_rank")
    }
    for places in torch.arange(n_places).split(ROWS_AT_ONCE):
        final = readout(vectors[-1, places]).log_softmax(-1)  # [place, vocab]
        probability = final.exp()
        preferred = final.argmax(-1, keepdim=True)
        negative_entropy = torch.linalg.vecdot(probability, final)
        for some in torch.arange(n_layers).split(max(1, ROWS_AT_ONCE // len(places))):
            lens = readout(vectors[some][:, places]).log_softmax(-1)  # [layer, place, vocab]
            chosen = lens.gather(-1, preferred.expand(len(some), -1, -1))
            rank = (lens > chosen).sum(-1) + 1
            cross = torch.linalg.vecdot(probability, lens)
            at = (some[:, None], places)
            found["log_rank"][at] = rank.double().log().cpu()
            found["kl_to_final"][at] = (negative_entropy - cross).clamp_min(0).double().cpu()
            found["entropy"][at] = -torch.linalg.vecdot(lens.exp(), lens).double().cpu()
    return found


def spread_positions(lengths: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``[batch, count]`` positions evenly spaced from the second to the last of each prompt.

    A prompt with fewer positions repeats some of them, so that each still has the same weight in the mean.
    """
    share = torch.arange(1, count + 1, device=lengths.device) / count
    return (1 + ((lengths[:, None] - 2) * share).round()).long().clamp_min(1)


def collapse(
    entropy: np.ndarray, rng: np.random.Generator, smallest_drop: float, n_resamples: int = 1999
) -> tuple[int, int, int, float]:
    """Find the layer at which mean entropy drops most, if prompts agree on one.

    Parameters
    ----------
    entropy
        ``[prompt, layer]`` in nats.
    rng
        Random stream.
    smallest_drop
        The lower 95 % bound of the drop must exceed this.
    n_resamples
        Resamples of the prompts.

    Returns
    -------
    tuple
        Index of the layer or -1 for none, lower and upper 95 % bound of the index over resampled
        prompts (-1 for fewer than two prompts or layers), and the drop in nats. There is none if the
        drop is too small or the interval spans more than a quarter of the layers.
    """
    n_prompts, n_layers = entropy.shape
    if n_layers < 2:
        return -1, -1, -1, float("nan")
    drops = -np.diff(entropy, axis=1)  # [prompt, layer - 1]
    mean = drops.mean(0)
    found = int(mean.argmax())
    if n_prompts < 2:
        return -1, -1, -1, float(mean[found])
    weights = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples) / n_prompts
    resampled = weights @ drops  # [resample, layer - 1]
    low, high = np.quantile(resampled.argmax(1), [0.025, 0.975], method="nearest").astype(int) + 1
    sure = np.quantile(resampled[:, found], 0.025) > smallest_drop and high - low <= n_layers / 4
    return (found + 1 if sure else -1), int(low), int(high), float(mean[found])
