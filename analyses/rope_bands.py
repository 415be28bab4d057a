"""At which rotary frequencies queries and keys are large, and which of them make the attention scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp.rotary import Layout, contributions, pair_norms
from resonance_lens.errors import AnalysisError
from resonance_lens.facts import Facts
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, of_prompts

Array = NDArray[Any]

PARTS = ("q", "k", "v")


@register
@dataclass(frozen=True, kw_only=True)
class RopeBands(Analysis):
    """At which rotary frequencies queries and keys are large, and which of them make the attention scores.

    Rotary positions turn each pair of dimensions of a query and a key at a frequency of its own. A pair
    that turns less than once in the prompt says nearly the same at every distance; a fast one tells
    neighbours apart. For every pair: the mean over tokens of its 2-norm in queries and in keys, and in
    values, which do not turn, as control; the product of the two, which bounds what the pair can add to a
    score; and what it does add, summed over all queries and the keys that they see.

    Notes
    -----
    Norms say where a head could work, not where it does: a large pair that is the same in all keys adds
    the same to all scores of a query, and a softmax does not see it. Read ``score_share``, which counts
    only how scores differ between the keys of a query; what two pairs do together is not in it. What is
    slow depends on the length of the prompt. The first position is left out, and shown apart.
    """

    name: ClassVar[str] = "rope_bands"
    title: ClassVar[str] = "Rotary frequencies that queries, keys and scores use"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("rot_q", "rot_k", "v")
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("even", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("v_control",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="slow_share_qk",
            long_name="share of the norm of queries and keys on slow pairs",
            units="1",
            null="v_control",
            against="the share of the norm of values on the same dimensions, which do not turn",
            dims=("layer", "head"),
            family=("layer", "head"),
            places="heads",
            minimum_effect=0.05,
            undefined="queries, keys or values are zero",
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "slow_share_qk"
    source: ClassVar[str] = (
        "Barbero et al. 2024, Round and round we go! What makes rotary positional encodings useful? "
        "(2410.06205): 2-norm of every rotary pair of queries and keys."
    )
    undefined: ClassVar[tuple[str, ...]] = (
        "norm_share",
        "first_share",
        "slow",
        "fast",
        "centroid",
        "unrotated",
        "score_share",
        "score_slow",
        "score_fast",
        "score_unrotated",
    )

    fast_period: float = parameter(
        8.0, minimum=6.5, maximum=256.0, help="pairs are fast that turn once in fewer tokens"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs some queries that see several keys beyond the first."""
        return 8

    # ------------------------------------------------------------------------------------- observing

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry sums over tokens of the norm of each pair, and what the pairs add to the scores."""
        facts = where.facts
        dims, layout, _ = _rotary(facts)
        shared = max(1, facts.n_heads // facts.n_kv_heads)  # heads with the same keys and values
        # Heads of keys and values that others share are there once for each: one of them is looked at.
        q, k, v = (signals[site].values for site in self.sites)
        parts = (q, k[:, :, ::shared], v[:, :, ::shared])  # [batch, token, head, d_head]
        carry = {}
        for name, part in zip(PARTS, parts, strict=True):
            norms = pair_norms(part, dims, layout)  # [batch, token, head, pair]
            carry[f"first_{name}"] = norms[:, 0]
            carry[f"norm_{name}"] = norms[:, 1:].sum(1)  # of padding there is nothing to add
            if dims < facts.d_head:
                squares = part[:, 1:].square().sum(1)  # [batch, head, d_head]
                both = squares[..., :dims].sum(-1), squares[..., dims:].sum(-1)
                carry[f"squares_{name}"] = torch.stack(both, dim=-1)
        added = contributions(
            parts[0][:, 1:],
            parts[1][:, 1:],
            dims=dims,
            layout=layout,
            causal=facts.causal,
            sliding=facts.sliding_windows[where.layer or 0],
            lengths=None if signals["v"].lengths is None else signals["v"].lengths - 1,
        )
        carry["mean"] = torch.cat([added.mean, added.rest_mean[..., None]], -1)
        carry["variance"] = torch.cat([added.variance, added.rest_variance[..., None]], -1)
        return Features.of(where.prompts, carry=carry)

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return shares and centroids of each prompt, and sums over prompts of norms and scores."""
        facts = where.facts
        dims, _, speed = _rotary(facts)
        carry = {
            name: torch.stack([features.carry[name] for features in layers], 1).double().cpu()
            for name in layers[0].carry
        }  # [batch, layer, head, pair]
        lengths = where.lengths.double().cpu()[:, None, None, None]
        period = torch.as_tensor(2 * math.pi / speed)
        slow, fast = (period > lengths).double(), (period < self.fast_period).double()
        shares = {name: _share(carry[f"norm_{name}"]) for name in PARTS}
        first = [_share(carry[f"first_{name}"]).nanmean(2) for name in PARTS]
        shared = max(1, facts.n_heads // facts.n_kv_heads)

        def of_heads(found: Mapping[str, Tensor]) -> Tensor:
            """Return ``[batch, part, layer, head]``; heads that share keys and values share numbers."""
            k, v = (found[name].repeat_interleave(shared, dim=2) for name in ("k", "v"))
            return torch.stack([found["q"], k, v], dim=1)

        def of_pairs(weights: Tensor) -> Tensor:
            return of_heads({name: (share * weights).sum(-1) for name, share in shares.items()})

        scores = _share(carry["variance"])  # [batch, layer, head, pair and the rest]
        score = scores.nanmean(2)
        rows = {
            "norm_share": torch.stack([shares[name].nanmean(2) for name in PARTS], dim=1),
            "first_share": torch.stack(first, dim=1),
            "slow": of_pairs(slow),
            "fast": of_pairs(fast),
            "even": slow.mean(-1)[:, 0, 0],
            "centroid": of_pairs(-period.log()).exp(),  # cycles per token
            "score_share": score[..., :-1],
            "score_slow": (scores[..., :-1] * slow).sum(-1),
            "score_fast": (scores[..., :-1] * fast).sum(-1),
        }
        if dims < facts.d_head:
            rows["unrotated"] = of_heads({name: _share(carry[f"squares_{name}"])[..., 1] for name in PARTS})
            rows["score_unrotated"] = score[..., -1]
        scale = math.sqrt(facts.d_head)
        kept = {f"norm_{name}": carry[f"norm_{name}"] / (lengths - 1) for name in PARTS}
        kept |= {"mean": carry["mean"] / scale, "variance": carry["variance"] / scale**2}
        sums = {name: values.sum(0) for name, values in kept.items()}
        sums |= {f"{name}_squares": values.square().sum(0) for name, values in kept.items()}
        return Features.of(where.prompts, rows=rows, sums=sums)

    # ------------------------------------------------------------------------------------ concluding

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return norms and scores by frequency, and what of them is slow and fast, head by head."""
        facts, rows = seen.facts, seen.plain.rows
        dims, _, speed = _rotary(facts)
        order = np.argsort(speed)
        out = Labelled(
            seen, self.name, {"part": list(PARTS), "frequency": (speed[order] / (2 * np.pi)).tolist()}
        )
        zero = "; not-a-number: they are zero"
        flat = "; not-a-number: no scores differ"

        shares = rows["norm_share"][..., order]  # [prompt, part, layer, pair]
        what = "share of the norm, mean over heads"
        spectrum = ("part", "frequency")
        out.add_mean(
            "norm_spectrum", spectrum, _mean(shares, 2), what + " and layers" + zero, "1", by_prompt=True
        )
        even = np.full((len(seen.groups), len(PARTS), len(order)), 1 / len(order))
        out.add("norm_spectrum_even", ("category", *spectrum), even, "the same share for every pair", "1")
        out.add_mean("norm_share", ("part", "layer", "frequency"), shares, what + zero, "1")
        out.add_mean(
            "norm_share_first", ("part", "layer", "frequency"), rows["first_share"][..., order],
            what + ", at the first position" + zero, "1", interval=False,
        )  # fmt: skip
        each = ("part", "layer", "head")
        out.add_mean(
            "slow_share", each, rows["slow"], "share of the norm on slow pairs" + zero, "1", by_prompt=True
        )
        out.add_mean(
            "slow_share_even", (), rows["even"], "share of the pairs that are slow", "1", interval=False
        )
        out.add_mean("fast_share", each, rows["fast"], "share of the norm on fast pairs" + zero, "1")
        out.add_mean(
            "centroid", each, rows["centroid"],
            "frequency around which norms lie, geometric mean" + zero, "cycles per token", by_prompt=True,
        )  # fmt: skip
        score = rows["score_share"][..., order]  # [prompt, layer, pair]
        what = "share of how scores differ, mean over heads"
        out.add_mean(
            "score_spectrum",
            ("frequency",),
            _mean(score, 1),
            what + " and layers" + flat,
            "1",
            by_prompt=True,
        )
        out.add_mean("score_share", ("layer", "frequency"), score, what + flat, "1")
        for name in ("slow", "fast"):
            what = f"share of how scores differ on {name} pairs{flat}"
            out.add_mean(
                f"score_{name}_share", ("layer", "head"), rows[f"score_{name}"], what, "1", by_prompt=True
            )
        if dims < facts.d_head:
            what = "share of the squares on dimensions that do not turn" + zero
            out.add_mean("unrotated_share", each, rows["unrotated"], what, "1")
            what = "share of how scores differ made by dimensions that do not turn, mean over heads" + flat
            out.add_mean("score_share_unrotated", ("layer",), rows["score_unrotated"], what, "1")
        self._add_heads(out, seen, order)
        data: xr.Dataset = out.dataset().assign_coords(
            pair=("frequency", order), period=("frequency", 2 * np.pi / speed[order])
        )
        data["frequency"].attrs |= {"long_name": "rotary frequency", "units": "cycles per token"}
        data["period"].attrs |= {"long_name": "tokens in which a pair turns once", "units": "tokens"}
        data["pair"].attrs |= {"long_name": "rotary pair, from 0, as the model numbers them", "units": "1"}
        return data

    def _add_heads(self, out: Labelled, seen: Accumulated, order: Array) -> None:
        """Add what each head does at each frequency, over all prompts."""
        facts, sums = seen.facts, seen.plain.sums
        n_prompts, shared = len(seen.prompt_ids), max(1, facts.n_heads // facts.n_kv_heads)
        norms = []
        for name in PARTS:
            found = np.stack(_interval(sums[f"norm_{name}"], sums[f"norm_{name}_squares"], n_prompts))
            norms.append(found if name == "q" else found.repeat(shared, axis=2))
        mean, low, high = np.stack(norms, axis=1)[..., order]  # [part, layer, head, pair]
        dims = ("layer", "head", "frequency")
        _add_interval(out, "norm", ("part", *dims), (mean, low, high), "mean 2-norm of the pair", "1")
        bound = mean[0] * mean[1] / math.sqrt(facts.d_head)
        out.add(
            "norm_bound", dims, bound, "product of the mean norms of q and k, by Cauchy and Schwarz", "nat"
        )
        for name, long_name, units in (
            ("mean", "mean of what the pair adds to a score", "nat"),
            ("variance", "variance over the keys of a query of what the pair adds to scores", "nat^2"),
        ):
            found = np.stack(_interval(sums[name], sums[f"{name}_squares"], n_prompts))[..., order]
            _add_interval(out, f"score_{name}", dims, tuple(found), long_name, units)

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the slow share of queries and keys, in each prompt, beside that of values."""
        q, k, v = np.moveaxis(seen.plain.rows["slow"], 1, 0)
        return {"slow_share_qk": of_prompts((q + k) / 2, v, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return how much of the norm is slow, in how many heads more than in values, and who is fastest."""
        data = result.data.sel(category="all")
        slow = data.slow_share.mean(("layer", "head"))
        if bool(slow.isnull().any()):
            return "Queries, keys or values are zero in every head, so nothing turns."
        q, k, v = (float(slow.sel(part=part)) for part in PARTS)
        text = (
            f"Pairs that turn less than once in a prompt have {q:.2f} of the norm of queries, {k:.2f} of "
            f"that of keys and {v:.2f} of that of values, which do not turn "
            f"({float(data.slow_share_even):.2f} if all pairs were alike)"
        )
        low = data.slow_share_qk_effect_low
        if bool(low.notnull().any()):
            text += (
                f"; in {int((low > self.minimum_effect).sum())} of {low.size} heads queries and keys have "
                f"more than {self.minimum_effect} above values (lower 95 % bound)"
            )
        fast = data.score_fast_share.stack(place=("layer", "head"))
        if bool(fast.notnull().any()):
            layer, head = fast.place.values[int(np.nanargmax(fast.values))]
            text += (
                f"; pairs that turn in fewer than {self.fast_period:g} tokens make {float(fast.max()):.2f} "
                f"of how the scores of L{layer}H{head} differ, more than of any other head"
            )
        return f"{text}."

    def views(self, result: Result) -> list[ViewSpec]:
        """Return norms and scores by frequency, over depth, and the map of heads."""
        everything = {"category": "all"}
        return [
            ViewSpec(
                kind="lines",
                title="Norm of queries, keys and values by rotary frequency",
                says="Share of the norm of each rotary pair, mean over heads and layers: of queries and "
                "keys, which turn, and of values, which do not.",
                misleads="a large pair is taken for one that matters: one that is alike in all keys changes "
                "no attention.",
                variables=("norm_spectrum",),
                references=("norm_spectrum_even",),
                select=everything,
                over="frequency",
                series="part",
                x_scale="log",
            ),
            ViewSpec(
                kind="lines",
                title="What makes scores differ, by rotary frequency",
                says="Share of each rotary pair in how the scores of a query differ from key to key, mean "
                "over heads and layers.",
                misleads="two pairs that work against each other both count: shares are of the sum of the "
                "pairs' own variances, not of that of the scores.",
                variables=("score_spectrum",),
                references=("score_spectrum_random_weights", "score_spectrum_shuffled_tokens"),
                select=everything,
                over="frequency",
                x_scale="log",
            ),
            ViewSpec(
                kind="image",
                title="Norm by layer and rotary frequency",
                says="Share of the norm of each rotary pair at every layer, mean over heads.",
                misleads="one head of a layer does it all: see the map of heads.",
                variables=("norm_share",),
                select=everything,
                over="frequency",
                panels="part",
                x_scale="log",
            ),
            ViewSpec(
                kind="image",
                title="What makes scores differ, by layer and rotary frequency",
                says="Share of each rotary pair in how the scores of a query differ from key to key, mean "
                "over heads.",
                misleads="layers are compared by size: shares say nothing of how far the scores differ.",
                variables=("score_share",),
                select=everything,
                over="frequency",
                x_scale="log",
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Heads that prefer slow pairs",
                says="Share of the norm of queries and keys on pairs that turn less than once in the prompt, "
                "minus that of values on the same dimensions.",
                misleads="prompts of other lengths are compared: what is slow depends on the length.",
                variables=("slow_share_qk_effect",),
                select=everything,
                claim="slow_share_qk",
                colours="diverging",
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Heads whose scores are made by fast pairs",
                says=f"Share of pairs that turn in fewer than {self.fast_period:g} tokens in how the scores "
                "of a query differ from key to key. Heads that look at neighbours stand out.",
                misleads="a head whose scores hardly differ has shares too.",
                variables=("score_fast_share",),
                select=everything,
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Frequency around which queries lie",
                says="Geometric mean of the rotary frequencies, each weighted by its share of the norm of "
                "the queries. Heads that look at neighbours are among the fastest.",
                misleads="a head that uses fast and slow pairs and none between has its centroid where it "
                "does nothing.",
                variables=("centroid",),
                select={**everything, "part": "q"},
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads that most surely prefer slow pairs."""
        low = result.data.slow_share_qk_effect_low.sel(category="all")
        reason = "norm of queries and keys on slow rotary pairs, above that of values"
        return [
            Target(site="q", layer=layer, head=head, score=score, reason=reason)
            for layer, head, score in rank_heads(low, k)
        ]

    # --------------------------------------------------------------------------------------- planted

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer without preference, and one with two slow heads, two fast ones and two others."""
        facts, lengths = _imagined(), torch.tensor([24, 40, 31, 37, 28, 22, 33, 30])
        gains = np.ones((facts.n_layers, facts.n_heads, facts.d_head // 2))
        gains[1, :2, -3:] = 4.0
        gains[1, 2:4, :2] = 4.0

        def expect(data: xr.Dataset) -> None:
            found = data.sel(category="all")
            effect = found.slow_share_qk_effect.sel(layer=1)
            if not (effect[:2] > 0.1).all() or not (effect[2:4] < -0.1).all():
                raise AssertionError(f"two slow heads and two fast ones have effects of {effect.values}")
            turns = found.centroid.sel(layer=1, part="q")
            if not turns[2:4].min() > turns[4:].max() > turns[4:].min() > turns[:2].max():
                raise AssertionError(f"heads of known frequencies have centroids of {turns.values}")
            if not abs(found.slow_share_qk_effect.sel(layer=0)).max() < 0.1:
                raise AssertionError("heads without a preference have one")

        return _planted(rng, facts, lengths, "iid", gains, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return queries, keys and values whose dimensions are all alike."""
        facts, lengths = _imagined(), torch.tensor([24, 40, 31, 37, 28, 22, 33, 30])
        gains = np.ones((facts.n_layers, facts.n_heads, facts.d_head // 2))

        def expect(data: xr.Dataset) -> None:
            effect = data.slow_share_qk_effect.sel(category="all")
            if not abs(effect).max() < 0.1:
                raise AssertionError(
                    f"dimensions that are alike have effects of up to {abs(effect).max():.2f}"
                )

        return _planted(rng, facts, lengths, "iid", gains, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return dimensions that can be exchanged; planted are larger slow pairs in some heads of a layer."""
        facts = _imagined(n_heads=12)
        lengths = worlds.lengths(rng, world, worlds.PROMPTS)
        gains = np.ones((facts.n_layers, facts.n_heads, facts.d_head // 2))
        truth = np.zeros((facts.n_layers, facts.n_heads), dtype=bool)
        if strength > 0:
            truth[-1, :6] = True
            gains[-1, :6, -3:] += strength
        planted = _planted(rng, facts, lengths, world, gains, lambda data: None)
        return Planted(planted.layers, lengths, facts, planted.expect, truth={"slow_share_qk": truth})


def _rotary(facts: Facts) -> tuple[int, Layout, Array]:
    """Return how many dimensions turn, which turn together, and radians per token of each pair.

    Raises
    ------
    AnalysisError
        If the model does not turn queries and keys, or its adapter does not say how.
    """
    if facts.rotary_dims is None:
        raise AnalysisError(
            f"rope_bands measures rotary positions, and those of {facts.model_name} are {facts.positions}."
        )
    if facts.rotary_pairs is None or facts.rotary_frequencies is None:
        raise AnalysisError(
            f"rope_bands needs one set of rotary frequencies, and {facts.model_name} ({facts.host}) does not "
            "say which dimensions turn together, or turns them at other frequencies in other layers."
        )
    return facts.rotary_dims, facts.rotary_pairs, np.asarray(facts.rotary_frequencies)


def _share(values: Tensor) -> Tensor:
    """Return values divided by their sum along the last axis; not-a-number where it is zero."""
    total = values.sum(-1, keepdim=True)
    return torch.where(total > 0, values / total, torch.nan)


def _mean(rows: Array, axis: int) -> Array:
    """Return the mean along an axis of what is a number; not-a-number where nothing is."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, rows, 0.0).sum(axis) / known.sum(axis))


def _interval(total: Array, squares: Array, n: int) -> tuple[Array, Array, Array]:
    """Return the mean over n prompts and Student's 95 % bounds, from sums and sums of squares.

    Bounds of a single prompt are not-a-number.
    """
    mean = total / n
    if n < 2:
        nothing = np.full_like(mean, np.nan)
        return mean, nothing, nothing
    spread = np.sqrt(np.maximum(squares / n - mean**2, 0.0) / (n - 1))
    half = stats.t.ppf(0.975, df=n - 1) * spread
    return mean, mean - half, mean + half


def _add_interval(
    out: Labelled, name: str, dims: Sequence[str], found: Sequence[Array], long_name: str, units: str
) -> None:
    alone = "; not-a-number: a single prompt"
    for end, words, values in zip(
        ("", "_low", "_high"),
        ("", f", lower 95 % bound{alone}", f", upper 95 % bound{alone}"),
        found,
        strict=True,
    ):
        out.add(name + end, dims, values, long_name + words, units)


def _imagined(n_heads: int = 6) -> Facts:
    """Return the facts of a model with eight pairs that turn once in 6 to 350 tokens, some of them slow."""
    return attention_facts(
        n_layers=2, n_heads=n_heads, d_model=16 * n_heads, rotary_dims=16, rotary_base=100.0
    )


def _planted(
    rng: np.random.Generator, facts: Facts, lengths: Tensor, world: str, gains: Array, expect: Any
) -> Planted:
    """Return queries, keys and values of a world, and the pairs of the first two times ``gains``.

    The first position is as large as models make it, and every head and part has a size of its own.
    """
    n = int(lengths.max())
    real = (torch.arange(n) < lengths[:, None])[:, :, None, None]
    layers = []
    for gain in gains:
        sites = {}
        for site in ("rot_q", "rot_k", "v"):
            shape = (len(lengths), facts.n_heads, n, facts.d_head)
            drawn = worlds.scores(rng, world, shape) * rng.uniform(0.5, 3, size=(facts.n_heads, 1, 1))
            drawn = np.moveaxis(drawn, 1, 2).copy()
            if site != "v":
                drawn *= np.concatenate([gain, gain], axis=-1)
            drawn[:, 0] *= 20
            sites[site] = torch.tensor(drawn, dtype=torch.float32) * real
        layers.append(sites)
    return Planted(layers, lengths, facts, expect)
