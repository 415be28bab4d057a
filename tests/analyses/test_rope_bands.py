"""Rotary bands against loops over tokens and pairs, on circuits whose frequencies are known, and on hosts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.analyses.rope_bands import RopeBands
from resonance_lens.contract import Planted
from resonance_lens.dsp.rotary import Layout
from resonance_lens.errors import AdapterError, AnalysisError
from resonance_lens.facts import Facts
from resonance_lens.hooks import attach
from resonance_lens.planting import attention_facts
from resonance_lens.testing import measure, result_of
from tests.by_hand import keys_of
from tests.models import Host, hosts, prompts
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture

Floats = NDArray[np.float64]
LENGTHS = [9, 30, 14]

each_host = pytest.mark.parametrize("host", hosts(), ids=str)


def facts_of(layout: Layout, dims: int = 8, sliding: int | None = None) -> Facts:
    """Return the facts of two layers of four heads of eight dimensions; two heads share keys and values."""
    facts = attention_facts(
        n_layers=2,
        n_heads=4,
        d_model=32,
        n_kv_heads=2,
        rotary_dims=dims,
        rotary_base=50.0,
        rotary_pairs=layout,
    )
    return replace(facts, sliding_windows=(sliding, None))


def drawn(facts: Facts, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Planted:
    """Return queries, keys and values without any plan, the first position large."""
    rng = np.random.default_rng(seed)
    shared = facts.n_heads // facts.n_kv_heads
    layers = []
    for _ in range(facts.n_layers):
        sites = {}
        for site in ("rot_q", "rot_k", "v"):
            n_own = facts.n_heads if site == "rot_q" else facts.n_kv_heads
            values = rng.normal(rng.normal(size=facts.d_head), rng.uniform(0.2, 2, facts.d_head), (
                len(lengths), max(lengths), n_own, facts.d_head
            ))  # fmt: skip
            values[:, 0] *= 30
            sites[site] = torch.tensor(values).repeat_interleave(facts.n_heads // n_own, dim=2)
        layers.append(sites)
    assert shared == 2
    return Planted(layers, torch.tensor(lengths), facts, lambda data: None)


def members(dims: int, layout: str) -> list[list[int]]:
    """Return which two dimensions are a pair, spelled out, the fastest first."""
    half = dims // 2
    return [[k, k + half] if layout == "halves" else [2 * k, 2 * k + 1] for k in range(half)]


def by_loops(planted: Planted, layer: int, prompt: int, head: int) -> dict[str, Any]:
    """Return what one head does in one prompt, token by token and pair by pair."""
    facts = planted.facts
    assert facts.rotary_dims is not None and facts.rotary_pairs is not None
    length = int(planted.lengths[prompt])
    pairs = members(facts.rotary_dims, facts.rotary_pairs)
    rest = list(range(facts.rotary_dims, facts.d_head))
    period = [2 * math.pi * 50 ** (2 * k / facts.rotary_dims) for k in range(len(pairs))]
    q, k, v = (
        planted.layers[layer][site][prompt, :, head].double().numpy() for site in ("rot_q", "rot_k", "v")
    )
    found: dict[str, Any] = {}
    for name, x in (("q", q), ("k", k), ("v", v)):
        norms = np.array([np.mean([np.hypot(*x[t, at]) for t in range(1, length)]) for at in pairs])
        share = norms / norms.sum()
        first = np.array([np.hypot(*x[0, at]) for at in pairs])
        found |= {
            f"norm_{name}": norms,
            f"share_{name}": share,
            f"first_{name}": first / first.sum(),
            f"slow_{name}": sum(s for s, p in zip(share, period, strict=True) if p > length),
            f"fast_{name}": sum(s for s, p in zip(share, period, strict=True) if p < 8),
            f"centroid_{name}": math.exp(-(share * np.log(period)).sum()),
            f"unrotated_{name}": (x[1:length, rest] ** 2).sum() / (x[1:length] ** 2).sum(),
        }
    means, variances = [], []
    for at in [*pairs, rest]:
        rows = []
        for i in range(1, length):
            keys = [j for j in keys_of(i, length, True, facts.sliding_windows[layer]) if j > 0]
            rows.append(np.array([q[i, at] @ k[j, at] for j in keys]) / math.sqrt(facts.d_head))
        means.append(np.concatenate(rows).mean())
        variances.append(np.concatenate([(row - row.mean()) ** 2 for row in rows]).mean())
    share_of = np.array(variances) / sum(variances)
    return found | {
        "mean": means[:-1],
        "variance": variances[:-1],
        "score_share": share_of,
        "score_slow": sum(s for s, p in zip(share_of, period, strict=False) if p > length),
        "score_fast": sum(s for s, p in zip(share_of, period, strict=False) if p < 8),
    }


@pytest.mark.parametrize(
    ("layout", "dims", "sliding"),
    [("halves", 8, None), ("adjacent", 8, 5), ("adjacent", 4, 5), ("halves", 6, None)],
)
def test_numbers_are_those_of_loops(layout: Layout, dims: int, sliding: int | None) -> None:
    facts = facts_of(layout, dims, sliding)
    planted = drawn(facts)
    data = measure(RopeBands(), planted, batch_size=2, padding_side="left").sel(category="all")
    assert facts.rotary_frequencies is not None
    np.testing.assert_allclose(data.frequency[::-1] * 2 * np.pi, facts.rotary_frequencies)
    np.testing.assert_allclose(data.period * data.frequency, 1)
    assert data.pair.values.tolist() == list(range(dims // 2))[::-1]
    data = data.isel(frequency=slice(None, None, -1))
    for layer in range(2):
        found = [[by_loops(planted, layer, p, h) for h in range(4)] for p in range(3)]

        def over(name: str, found: list[list[dict[str, Any]]] = found) -> Floats:
            return np.array([[of_head[name] for of_head in row] for row in found])

        at = data.sel(layer=layer)
        for part in "qkv":
            here = at.sel(part=part)
            np.testing.assert_allclose(here.norm, over(f"norm_{part}").mean(0), rtol=1e-9)
            np.testing.assert_allclose(here.norm_share, over(f"share_{part}").mean((0, 1)), rtol=1e-9)
            np.testing.assert_allclose(here.norm_share_first, over(f"first_{part}").mean((0, 1)), rtol=1e-9)
            for name in ("slow", "fast"):
                np.testing.assert_allclose(here[f"{name}_share"], over(f"{name}_{part}").mean(0), atol=1e-12)
            np.testing.assert_allclose(here.centroid, over(f"centroid_{part}").mean(0), rtol=1e-9)
            if dims < 8:
                np.testing.assert_allclose(here.unrotated_share, over(f"unrotated_{part}").mean(0), rtol=1e-9)
        for name in ("mean", "variance"):
            np.testing.assert_allclose(at[f"score_{name}"], over(name).mean(0), rtol=1e-9, atol=1e-12)
        share = over("score_share").mean((0, 1))
        np.testing.assert_allclose(at.score_share, share[:-1], rtol=1e-9)
        for name in ("slow", "fast"):
            np.testing.assert_allclose(at[f"score_{name}_share"], over(f"score_{name}").mean(0), atol=1e-9)
        if dims < 8:
            np.testing.assert_allclose(at.score_share_unrotated, share[-1], rtol=1e-9)
        bound = over("norm_q").mean(0) * over("norm_k").mean(0) / math.sqrt(8)
        np.testing.assert_allclose(at.norm_bound, bound, rtol=1e-9)
        value = (over("slow_q") + over("slow_k")) / 2
        np.testing.assert_allclose(at.slow_share_qk, value.mean(0), atol=1e-12)
        np.testing.assert_allclose(at.slow_share_qk_effect, (value - over("slow_v")).mean(0), atol=1e-12)
    assert ("unrotated_share" in data) == (dims < 8) == ("score_share_unrotated" in data)


def test_what_is_slow_depends_on_each_prompt() -> None:
    """Periods of 6.3, 16.7, 44 and 118 tokens: three, two and three of the four are slow."""
    data = measure(RopeBands(), drawn(facts_of("halves")))
    assert float(data.slow_share_even.sel(category="all")) == pytest.approx((3 / 4 + 2 / 4 + 3 / 4) / 3)


def test_bounds_are_students_over_prompts() -> None:
    planted = drawn(facts_of("halves"))
    data = measure(RopeBands(), planted).isel(frequency=slice(None, None, -1))
    rows = np.array([by_loops(planted, 1, p, 2)["norm_k"] for p in range(3)])
    half = stats.t.ppf(0.975, 2) * rows.std(0, ddof=1) / math.sqrt(3)
    at = data.sel(layer=1, head=2, part="k")
    np.testing.assert_allclose(at.norm_low, rows.mean(0) - half, rtol=1e-6)
    np.testing.assert_allclose(at.norm_high, rows.mean(0) + half, rtol=1e-6)


@pytest.mark.parametrize("dims", [8, 4])
def test_a_part_that_is_zero_has_no_shares(dims: int) -> None:
    planted = drawn(facts_of("halves", dims))
    planted.layers[1]["rot_q"][:, :, 3] = 0
    data = measure(RopeBands(), planted).sel(category="all", layer=1)
    assert bool(data.slow_share.sel(part="q", head=3).isnull())
    assert data.slow_share_qk_effect.isnull().values.tolist() == [False, False, False, True]
    assert bool(data.norm_share.notnull().all()) and bool(data.score_share.notnull().all())
    assert dims == 8 or bool(data.unrotated_share.sel(part="q", head=3).isnull())
    for site in ("rot_q", "rot_k"):
        for layer in planted.layers:
            layer[site][:] = 0
    data = measure(RopeBands(), planted).sel(category="all")
    assert bool(data.score_spectrum.isnull().all())


def test_keys_that_do_not_differ_make_no_scores_differ() -> None:
    """A pair that is large and alike in all keys has a norm and a mean, and nothing that a softmax sees."""
    planted = drawn(facts_of("halves"))
    at = [1, 5]  # pair 1
    for layer in planted.layers:
        layer["rot_k"][..., at] = torch.tensor([100.0, 50.0], dtype=torch.float64)
    data = measure(RopeBands(), planted).sel(category="all").swap_dims(frequency="pair").sel(pair=1)
    assert float(data.norm_share.sel(part="k").min()) > 0.9
    assert float(abs(data.score_mean).min()) > 0
    assert float(data.score_share.max()) < 1e-12


# ------------------------------------------------------------------------------------------ circuits


def test_frequencies_planted_in_a_circuit_are_found() -> None:
    """One head on one pair each: all of the norm, and all of how the scores differ, is there."""
    terms = [[(0, 4.0, 0.0)], [(2, 6.0, 0.3)], [(5, 3.0, 1.0)], [(1, 2.0, 0.0), (4, 2.0, 0.0)]]
    circuit = testbed.load_circuit("rotary", n_ctx=64, base=1000, dims=16, heads=terms)
    rows = circuit.tokens(np.random.default_rng(0), 4, 48)
    data = result_of(RopeBands(), attach(circuit.model()), rows).data
    data = data.sel(category="all", layer=0).swap_dims(frequency="pair").sortby("pair")
    np.testing.assert_allclose(data.frequency, circuit.truth["frequencies"], rtol=1e-5)
    for head, (pair, amplitude, phase) in enumerate(term[0] for term in terms[:3]):
        w = 2 * math.pi * circuit.truth["frequencies"][pair]
        wanted = np.zeros(8)
        wanted[pair] = math.sqrt(amplitude * math.sqrt(16))
        for part in ("q", "k"):
            np.testing.assert_allclose(data.norm.sel(head=head, part=part), wanted, atol=1e-4)
            assert float(data.centroid.sel(head=head, part=part)) == pytest.approx(
                w / (2 * math.pi), rel=1e-4
            )
        assert float(data.norm_bound.sel(head=head, pair=pair)) == pytest.approx(amplitude, rel=1e-4)
        scores = [
            amplitude * np.cos(w * np.arange(i) + phase) for i in range(1, 48)
        ]  # the first key left out
        mean = np.concatenate(scores).mean()
        spread = np.concatenate([(row - row.mean()) ** 2 for row in scores]).mean()
        assert float(data.score_mean.sel(head=head, pair=pair)) == pytest.approx(mean, abs=1e-4)
        assert float(data.score_variance.sel(head=head, pair=pair)) == pytest.approx(spread, rel=1e-3)
    both = data.norm.sel(head=3, part="q")
    assert sorted(np.argsort(both.values)[-2:].tolist()) == [1, 4]
    assert float(both.sum()) == pytest.approx(2 * math.sqrt(2 * math.sqrt(16)), rel=1e-4)


# --------------------------------------------------------------------------------------------- hosts


@pytest.mark.host
@each_host
@pytest.mark.parametrize("arch", [LLAMA, NEOX], ids=str)
def test_pairs_and_the_rest_add_up_to_the_scores_of_a_host(host: Host, arch: Architecture) -> None:
    """Means of what pairs add, and of what the other dimensions add, against the scores the host makes."""
    rows = prompts(seed=5, lengths=(20,))
    adapter = attach(host.build(arch))
    data = result_of(RopeBands(), adapter, rows).data.sel(category="all")
    _, cache = adapter.model.run_with_cache(torch.tensor(rows))  # type: ignore[attr-defined]
    for layer in range(arch.n_layers):
        q, k = (cache[f"blocks.{layer}.attn.hook_{name}"][0] for name in ("q", "k"))
        q, k = (x.reshape(20, -1, arch.d_head) for x in (q, k))
        dims = adapter.facts.rotary_dims
        assert dims is not None
        # The norm of a pair is that before it turns.
        pairs = members(dims, "halves")
        wanted = [[x[1:, head, at].norm(dim=-1).mean() for at in pairs] for x in (q,) for head in range(4)]
        found = data.norm.sel(layer=layer, part="q").isel(frequency=slice(None, None, -1))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][0][:, 1:, 1:]
        seen = torch.ones(19, 19, dtype=torch.bool).tril()
        total = scores[:, seen].mean(-1)
        shared = arch.n_heads // arch.n_kv_heads
        rest = torch.einsum("ihd,jhd->hij", q[1:, :, dims:], k[1:, :, dims:].repeat_interleave(shared, 1))
        rest = rest[:, seen].mean(-1) / math.sqrt(arch.d_head)
        added = data.score_mean.sel(layer=layer).sum("frequency")
        np.testing.assert_allclose(added, total - rest, rtol=1e-3, atol=1e-4)
    assert ("unrotated_share" in data) == (arch == NEOX)


@pytest.mark.host
@each_host
def test_models_without_rotary_positions_are_refused(host: Host) -> None:
    model = host.build(GPT2)
    with pytest.raises(AdapterError) as refusal:
        rl.run(model, prompts(lengths=(20, 20)), "rope_bands", progress=False)
    assert str(refusal.value) == (
        "gpt2 has no 'rot_q': its positions are standard, not rotary, so its queries and keys do not turn; "
        "use 'q' and 'k' instead."
    )


def test_models_that_do_not_say_how_they_turn_are_refused() -> None:
    planted = drawn(facts_of("halves"))
    unsaid = replace(planted, facts=replace(planted.facts, rotary_frequencies=None))
    with pytest.raises(AnalysisError, match="does not say which dimensions turn together"):
        measure(RopeBands(), unsaid)
    learned = replace(planted, facts=replace(planted.facts, rotary_dims=None, positions="learned"))
    with pytest.raises(AnalysisError, match="measures rotary positions, and those of planted are learned"):
        measure(RopeBands(), learned)
