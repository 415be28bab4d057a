"""Attention entropy, sink mass and reach, against loops over prompts, heads and queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from resonance_lens.analyses.attention_entropy import AttentionEntropy
from tests.by_hand import (
    Floats,
    attention_from,
    facts,
    keys_of,
    measure,
    one_key,
    random_attention,
    without_first,
)

LENGTHS = [9, 14, 6, 11]
SHAPES = [(True, None), (True, 5), (False, None)]


def by_hand(
    pattern: object, lengths: list[int], min_keys: int, causal: bool, sliding: int | None
) -> dict[str, Floats]:
    """Return ``[first_position, prompt, head]`` means over queries, from the definitions."""
    weights = np.asarray(pattern, dtype=float)
    n_heads = weights.shape[1]
    names = (
        "entropy", "entropy_uniform", "normalized_entropy", "effective_keys", "effective_keys_uniform",
        "distance", "distance_uniform", "distance_null", "sink_mass", "sink_mass_uniform",
    )  # fmt: skip
    out = {name: np.zeros((2, len(lengths), n_heads)) for name in names}
    for p, length in enumerate(lengths):
        for h in range(n_heads):
            for f in range(2):
                each: dict[str, list[float]] = {name: [] for name in names}
                for i in range(length):
                    row, keys = weights[p, h, i], keys_of(i, length, causal, sliding)
                    if len(keys) < min_keys:
                        continue
                    each["sink_mass"].append(row[0] if 0 in keys else 0.0)
                    each["sink_mass_uniform"].append(1 / len(keys) if 0 in keys else 0.0)
                    first = row[0] if 0 in keys else None
                    if f and row[1:].sum() < 1e-3:
                        continue
                    if f:
                        row, keys = without_first(row, keys)
                        first = None
                    entropy = float(scipy_stats.entropy(row[keys]))
                    each["entropy"].append(entropy)
                    each["entropy_uniform"].append(math.log(len(keys)))
                    each["normalized_entropy"].append(entropy / math.log(len(keys)))
                    each["effective_keys"].append(math.exp(entropy))
                    each["effective_keys_uniform"].append(len(keys))
                    each["distance"].append(sum(row[j] * (i - j) for j in keys))
                    each["distance_uniform"].append(float(np.mean([i - j for j in keys])))
                    # Permuting the free keys makes the free weight even on average.
                    free = keys if first is None else keys[1:]
                    even = sum(row[j] for j in free) / len(free)
                    null = sum(even * (i - j) for j in free) + (0.0 if first is None else first * i)
                    each["distance_null"].append(null)
                for name, values in each.items():
                    out[name][f, p, h] = np.mean(values)
    return out


@pytest.mark.parametrize("causal, sliding", SHAPES, ids=["causal", "sliding", "bidirectional"])
def test_numbers_are_those_of_a_loop(causal: bool, sliding: int | None) -> None:
    pattern = random_attention(LENGTHS, 3, causal=causal, sliding=sliding)
    about = facts(n_heads=3, causal=causal, sliding=sliding)
    data = measure(AttentionEntropy(min_keys=4), [{"pattern": pattern}], LENGTHS, about)
    data = data.sel(category="all", layer=0)
    expected = by_hand(pattern, LENGTHS, 4, causal, sliding)
    for name in ("entropy", "entropy_uniform", "normalized_entropy", "effective_keys",
                 "effective_keys_uniform", "distance", "distance_uniform", "distance_null"):  # fmt: skip
        np.testing.assert_allclose(data[name], expected[name].mean(1), rtol=2e-4, atol=2e-5, err_msg=name)
    for name in ("sink_mass", "sink_mass_uniform"):
        np.testing.assert_allclose(data[name], expected[name][0].mean(0), atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        data.entropy_effect, (expected["entropy"] - expected["entropy_uniform"]).mean(1), atol=1e-4
    )
    np.testing.assert_allclose(
        data.distance_effect, (expected["distance"] - expected["distance_null"]).mean(1), atol=1e-4
    )


def test_the_distance_null_is_what_permutations_give() -> None:
    pattern = random_attention([12], 1, seed=2)
    data = measure(AttentionEntropy(min_keys=12), [{"pattern": pattern}], [12], facts(n_heads=1))
    rng = np.random.default_rng(0)
    row = pattern[0, 0, 11].double().numpy()
    back = 11 - np.arange(12)
    drawn = np.array([row[0] * 11 + rng.permutation(row[1:]) @ back[1:] for _ in range(20_000)])
    found = float(data.distance_null.sel(category="all", first_position="keep", layer=0, head=0))
    assert abs(found - drawn.mean()) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_uniform_attention_is_its_own_baseline() -> None:
    lengths = [12, 30]
    even = attention_from(lambda p, h, i, j: 0.0, lengths, 2)
    data = measure(AttentionEntropy(), [{"pattern": even}], lengths, facts(n_heads=2)).sel(category="all")
    np.testing.assert_allclose(data.normalized_entropy, 1, atol=1e-5)
    np.testing.assert_allclose(data.entropy_effect, 0, atol=1e-5)
    np.testing.assert_allclose(data.effective_keys, data.effective_keys_uniform, rtol=1e-5)
    np.testing.assert_allclose(data.distance, data.distance_uniform, atol=1e-4)
    np.testing.assert_allclose(data.sink_mass, data.sink_mass_uniform, atol=1e-6)
    keep = data.sel(first_position="keep")
    mean = np.mean([np.mean([math.log(i + 1) for i in range(7, n)]) for n in lengths])
    assert float(keep.entropy_uniform[0, 0]) == pytest.approx(mean, abs=1e-6)


def test_a_previous_token_head_has_one_key_at_a_distance_of_one() -> None:
    lengths = [12, 25]
    pattern = one_key(lambda i: max(i - 1, 0), lengths, 1)
    data = measure(AttentionEntropy(), [{"pattern": pattern}], lengths, facts(n_heads=1)).sel(category="all")
    np.testing.assert_allclose(data.entropy, 0, atol=1e-6)
    np.testing.assert_allclose(data.effective_keys, 1, atol=1e-6)
    np.testing.assert_allclose(data.distance, 1, atol=1e-5)
    np.testing.assert_allclose(data.sink_mass, 0)
    assert float(data.distance_effect.max()) < -3


def test_a_pure_sink_has_no_entropy_and_nothing_beyond() -> None:
    lengths = [12, 25, 9]
    pattern = one_key(lambda i: 0, lengths, 2)
    data = measure(AttentionEntropy(), [{"pattern": pattern}], lengths, facts(n_heads=2)).sel(category="all")
    np.testing.assert_allclose(data.sink_mass, 1)
    keep, drop = (data.sel(first_position=f) for f in ("keep", "drop"))
    np.testing.assert_allclose(keep.entropy, 0, atol=1e-6)
    np.testing.assert_allclose(keep.distance_effect, 0, atol=1e-5)
    for name in ("entropy", "entropy_effect", "normalized_entropy", "distance", "distance_effect"):
        assert bool(drop[name].isnull().all()), name


@pytest.mark.parametrize("sink", [0.5, 0.99])
def test_a_sink_does_not_sharpen_what_it_leaves(sink: float) -> None:
    lengths = [20, 30]
    even = attention_from(lambda p, h, i, j: 0.0, lengths, 1)
    pattern = (1 - sink) * even
    for p, n in enumerate(lengths):
        pattern[p, :, :n, 0] += sink
    data = measure(AttentionEntropy(), [{"pattern": pattern}], lengths, facts(n_heads=1)).sel(category="all")
    np.testing.assert_allclose(data.normalized_entropy.sel(first_position="drop"), 1, atol=1e-3)
    assert float(data.normalized_entropy.sel(first_position="keep").max()) < 1 - sink / 4


def test_baseline_and_null_are_over_the_queries_that_the_head_s_mean_is_over() -> None:
    """A pure sink until query 30 that is uniform from there on is uniform where it is defined."""
    lengths = [45, 45]
    pattern = attention_from(lambda p, h, i, j: 0.0 if i >= 30 or j == 0 else -60.0, lengths, 1)
    data = measure(AttentionEntropy(), [{"pattern": pattern}], lengths, facts(n_heads=1))
    drop = data.sel(category="all", first_position="drop", layer=0, head=0)
    assert float(drop.entropy_effect) == pytest.approx(0, abs=1e-5)
    assert float(drop.distance_effect) == pytest.approx(0, abs=1e-4)
    assert float(drop.effective_keys) == pytest.approx(float(drop.effective_keys_uniform), rel=1e-4)
    assert float(drop.entropy) == pytest.approx(float(drop.entropy_uniform), abs=1e-5)
    assert float(drop.distance) == pytest.approx(float(drop.distance_uniform), abs=1e-4)


@pytest.mark.parametrize("batches", [[[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    lengths = [9, 70, 12, 30]
    layers = [{"pattern": random_attention(lengths, 2, seed=s)} for s in range(2)]
    about = facts(n_layers=2, n_heads=2)
    one = measure(AttentionEntropy(), layers, lengths, about)
    other = measure(AttentionEntropy(), layers, lengths, about, batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-5)


def test_a_category_has_the_values_of_its_own_prompts() -> None:
    pattern, about = random_attention(LENGTHS, 2), facts(n_heads=2)
    analysis = AttentionEntropy(min_keys=4)
    data = measure(analysis, [{"pattern": pattern}], LENGTHS, about, categories=["a", "b", "a", "b"])
    for name, rows in (("a", [0, 2]), ("b", [1, 3])):
        alone = measure(analysis, [{"pattern": pattern[rows]}], [LENGTHS[r] for r in rows], about)
        for variable in alone.data_vars:
            if not str(variable).endswith(("_low", "_high", "_prompt")):
                np.testing.assert_allclose(
                    data[variable].sel(category=name),
                    alone[variable].sel(category="all"),
                    rtol=1e-5,
                    atol=1e-6,
                )
