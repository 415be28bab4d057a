"""Synchrony of heads, against loops over pairs of heads and pairs of prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from resonance_lens.analyses.head_sync import HeadSync, query_grid, steps_of
from resonance_lens.dsp.circular import expected_resultant
from resonance_lens.errors import AnalysisError
from tests.by_hand import (
    attention_from,
    facts,
    keys_of,
    measure,
    one_key,
    phasor,
    random_attention,
    without_first,
)

TURN = {"full": 2 * math.pi, "half": math.pi}
Units = dict[tuple[int, int, int, int, int], complex]
"""By first position, prompt, layer, head and query; zero where there is no direction."""


def units_of(layers: Sequence[torch.Tensor], lengths: list[int], circle: str, first: int) -> Units:
    units: Units = {}
    for layer, pattern in enumerate(layers):
        for p, length in enumerate(lengths):
            for h in range(pattern.shape[1]):
                for i in range(first - 1, length):
                    row, keys = pattern[p, h, i].double().numpy(), keys_of(i, length)
                    for f in range(2):
                        z = 0j
                        if not f:
                            z = phasor(row, keys, TURN[circle])
                        elif row[1:].sum() >= 1e-3:
                            z = phasor(*without_first(row, keys), TURN[circle])
                        units[f, p, layer, h, i] = z / abs(z) if abs(z) > 1e-5 else 0j
    return units


def agreement(one: complex, other: complex) -> float:
    return (one.conjugate() * other).real


def order_by_hand(units: Units, f: int, p: int, at: Sequence[tuple[int, int]], i: int) -> tuple[float, int]:
    found = [units[f, p, layer, h, i] for layer, h in at if units[f, p, layer, h, i] != 0]
    return abs(sum(found)) / max(len(found), 1), len(found)


def weighted(values: list[float], steps: list[float]) -> float:
    return float(np.average(values, weights=steps)) if values else math.nan


def step(i: int) -> float:
    return 1.0 if i < 64 else 8.0 if i < 512 else 64.0


def grid_of(length: int, first: int) -> list[int]:
    return [i for i in range(first - 1, length) if i < 64 or (i < 512 and i % 8 == 0)]


def expected(
    layers: list[torch.Tensor], lengths: list[int], circle: str, first: int
) -> dict[str, NDArray[np.float64]]:
    """Return every quantity from its definition."""
    units = units_of(layers, lengths, circle, first)
    n_layers, n_heads, n = len(layers), layers[0].shape[1], len(lengths)
    shared = sorted(lengths)[-2]
    pairs = list(permutations(range(n_heads), 2))
    rows = {
        k: np.full((2, n, n_layers), np.nan) for k in ("order", "independent", "dispersion", "value", "null")
    }
    network = np.full((2, n), np.nan)
    alike = np.zeros((2, n_layers * n_heads, n_layers * n_heads))
    for f in range(2):
        total = 0.0
        for p in range(n):
            everyone = [(layer, h) for layer in range(n_layers) for h in range(n_heads)]
            found = [(*order_by_hand(units, f, p, everyone, i), i) for i in grid_of(lengths[p], first)]
            network[f, p] = weighted(
                [r for r, m, _ in found if m > 1], [step(i) for _, m, i in found if m > 1]
            )
            for i in grid_of(lengths[p], first):
                total += step(i)
                for a, (la, ha) in enumerate(everyone):
                    for b, (lb, hb) in enumerate(everyone):
                        alike[f, a, b] += step(i) * agreement(units[f, p, la, ha, i], units[f, p, lb, hb, i])
            for layer in range(n_layers):
                heads = [(layer, h) for h in range(n_heads)]
                found = [(*order_by_hand(units, f, p, heads, i), i) for i in grid_of(lengths[p], first)]
                steps = [step(i) for _, m, i in found if m > 1]
                rows["order"][f, p, layer] = weighted([r for r, m, _ in found if m > 1], steps)
                rows["independent"][f, p, layer] = weighted(
                    [expected_resultant(m, circle) for _, m, _ in found if m > 1], steps
                )
                rows["dispersion"][f, p, layer] = weighted(
                    [math.sqrt(-2 * math.log(min(r, 1))) for r, m, _ in found if m > 1], steps
                )
                both = grid_of(min(lengths[p], shared), first)
                value = [
                    np.mean([agreement(units[f, p, layer, g, i], units[f, p, layer, h, i]) for g, h in pairs])
                    for i in both
                ]
                null = []
                for i in both:
                    reach = [q for q in range(n) if lengths[q] > i]
                    null.append(
                        np.mean([
                            agreement(units[f, a, layer, g, i], units[f, b, layer, h, i])
                            for a, b in permutations(reach, 2)
                            for g, h in pairs
                        ])
                    )  # fmt: skip
                weights = [step(i) for i in both]
                rows["value"][f, p, layer] = np.average(value, weights=weights)
                rows["null"][f, p, layer] = np.average(null, weights=weights)
        alike[f] /= total
    return {**rows, "network": network, "alike": alike}


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("lengths", [[9, 14, 6, 11, 6], [20, 5], [70, 85, 78]], ids=str)
def test_numbers_are_those_of_a_loop(circle: str, lengths: list[int]) -> None:
    first = 5 if max(lengths) < 30 else 60
    layers = [random_attention(lengths, 3, seed=seed) for seed in (0, 1)]
    layers[1][0, 1, :, 1:] = 0  # a head of one prompt is a pure sink
    layers[1][0, 1, : lengths[0], 0] = 1
    analysis = HeadSync(circle=circle, min_keys=first)
    data = measure(analysis, [{"pattern": each} for each in layers], lengths, facts(2, 3))
    found, by_hand = data.sel(category="all"), expected(layers, lengths, circle, first)
    assert_close = np.testing.assert_allclose
    assert_close(found.order_parameter, np.nanmean(by_hand["order"], 1), atol=1e-5)
    assert_close(found.order_parameter_prompt, np.moveaxis(by_hand["order"], 1, 0), atol=1e-5)
    assert_close(found.order_parameter_independent, np.nanmean(by_hand["independent"], 1), atol=1e-6)
    assert_close(found.dispersion, np.nanmean(by_hand["dispersion"], 1), atol=1e-4)
    assert_close(found.network_order_parameter, np.nanmean(by_hand["network"], 1), atol=1e-5)
    assert_close(found.consistency, by_hand["value"].mean(1), atol=1e-5)
    assert_close(found.consistency_null, by_hand["null"].mean(1), atol=1e-5)
    assert_close(found.consistency_effect, (by_hand["value"] - by_hand["null"]).mean(1), atol=1e-5)
    assert_close(found.similarity, by_hand["alike"], atol=1e-5)


def test_categories_have_the_values_and_nulls_of_their_own_prompts() -> None:
    lengths, categories = [9, 14, 6, 11, 6, 12], ["a", "b", "b", "a", "b", "a"]
    layers = [random_attention(lengths, 3, seed=0)]
    data = measure(
        HeadSync(min_keys=5), [{"pattern": layers[0]}], lengths, facts(1, 3), categories=categories
    )
    by_hand = expected(layers, lengths, "full", 5)
    for name in ("a", "b"):
        rows = [i for i, c in enumerate(categories) if c == name]
        found = data.sel(category=name)
        np.testing.assert_allclose(found.order_parameter, by_hand["order"][:, rows].mean(1), atol=1e-5)
        np.testing.assert_allclose(found.consistency, by_hand["value"][:, rows].mean(1), atol=1e-5)
        np.testing.assert_allclose(found.consistency_null, by_hand["null"][:, rows].mean(1), atol=1e-5)


def test_bounds_are_those_of_a_jackknife_over_groups_of_prompts() -> None:
    """Each estimate leaves out a group, from the value and from what it is paired with: 24 in 20 groups."""
    lengths = [6, 9, 7, 8, 5, 9, 8, 6, 9, 7, 8, 5] * 2
    pattern = random_attention(lengths, 3, seed=4)
    data = measure(HeadSync(min_keys=5), [{"pattern": pattern}], lengths, facts(1, 3)).sel(category="all")

    def estimates(rows: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = expected([pattern[rows]], [lengths[r] for r in rows], "full", 5)
        return found["value"].mean(1), (found["value"] - found["null"]).mean(1)

    everyone = list(range(24))
    without = [estimates([p for p in everyone if p % 20 != b]) for b in range(20)]
    for index, name in enumerate(("consistency", "consistency_effect")):
        left = np.stack([each[index] for each in without])
        half = scipy_stats.t.ppf(0.975, 19) * np.sqrt(0.95 * ((left - left.mean(0)) ** 2).sum(0))
        whole = estimates(everyone)[index]
        np.testing.assert_allclose(data[f"{name}_low"], whole - half, atol=1e-4)
        np.testing.assert_allclose(data[f"{name}_high"], whole + half, atol=1e-4)


def test_heads_that_follow_position_alone_do_not_exceed_other_prompts() -> None:
    """The same pattern in every prompt, its agreement changing along the record, and lengths that differ."""
    lengths = [10, 12, 14, 60, 50, 11, 60, 13]
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 1, (4, 60))

    def score(p: int, h: int, i: int, j: int) -> float:
        at = 0.3 if i < 14 else place[h, i]
        return float(-60 * (j / (i + 1) - at) ** 2)

    pattern = attention_from(score, lengths, 4)
    categories = ["short" if n < 20 else "long" for n in lengths]
    data = measure(HeadSync(), [{"pattern": pattern}], lengths, facts(1, 4), categories=categories)
    agreed = data.consistency.sel(first_position="drop", layer=0)
    assert float(agreed.sel(category="short")) > 0.8 > 0.5 > float(agreed.sel(category="long"))
    assert float(abs(data.consistency_effect).max()) < 1e-6


def test_uniform_heads_point_nowhere_and_do_not_agree_by_rounding() -> None:
    lengths = [20, 24, 30]
    even = attention_from(lambda p, h, i, j: 0.0, lengths, 4)
    data = measure(HeadSync(), [{"pattern": even}], lengths, facts(1, 4)).sel(category="all")
    for name in ("order_parameter", "dispersion", "order_parameter_independent"):
        assert bool(data[name].isnull().all()), name
    for name in ("consistency", "consistency_null", "consistency_effect", "similarity"):
        np.testing.assert_allclose(data[name], 0, atol=1e-9)


def test_heads_that_look_nowhere_else_are_not_in_disagreement() -> None:
    """Pure sinks: in step with the first position, and nothing at all without it."""
    lengths = [12, 20, 16]
    data = measure(HeadSync(), [{"pattern": one_key(lambda i: 0, lengths, 4)}], lengths, facts(1, 4))
    keep, drop = (data.sel(category="all", first_position=f, layer=0) for f in ("keep", "drop"))
    assert float(keep.order_parameter) == pytest.approx(1)
    assert float(keep.consistency) == pytest.approx(1)
    assert float(keep.dispersion) == pytest.approx(0, abs=1e-3)
    assert float(keep.consistency_effect) == pytest.approx(0, abs=1e-9)
    assert bool(drop.order_parameter.isnull()) and bool(drop.dispersion.isnull())
    assert float(drop.consistency_effect) == 0


def test_heads_that_move_together_from_prompt_to_prompt() -> None:
    rng = np.random.default_rng(0)
    lengths = [24] * 20
    place = rng.uniform(0, 1, 20)
    together = attention_from(lambda p, h, i, j: -300 * (j / (i + 1) - place[p]) ** 2, lengths, 3)
    data = measure(HeadSync(), [{"pattern": together}], lengths, facts(1, 3)).sel(category="all", layer=0)
    np.testing.assert_allclose(data.order_parameter, 1, atol=1e-3)
    np.testing.assert_allclose(data.network_order_parameter, 1, atol=1e-3)
    assert float(data.consistency_effect_low.min()) > 0.5
    assert float(data.similarity.min()) > 0.99


def test_two_opposite_heads() -> None:
    lengths = [24, 24]
    pattern = torch.zeros(2, 2, 24, 24)
    for i in range(24):
        pattern[:, 0, i, 0] = 1
        pattern[:, 1, i, (i + 1) // 2] = 1
    data = measure(HeadSync(min_keys=24), [{"pattern": pattern}], lengths, facts(1, 2))
    keep = data.sel(category="all", first_position="keep", layer=0)
    assert float(keep.order_parameter) == pytest.approx(0, abs=1e-6)
    assert float(keep.consistency) == pytest.approx(-1, abs=1e-6)
    np.testing.assert_allclose(keep.similarity, [[1, -1], [-1, 1]], atol=1e-6)


def test_heads_that_point_independently_are_at_chance() -> None:
    """Each query of each head looks at one key at random: H = 6 heads, from .36 down to no PPC."""
    rng = np.random.default_rng(0)
    lengths = [60] * 12
    for circle in ("full", "half"):
        pattern = torch.zeros(12, 6, 60, 60)
        for p in range(12):
            for h in range(6):
                for i in range(60):
                    pattern[p, h, i, rng.integers(0, i + 1)] = 1
        data = measure(HeadSync(min_keys=30, circle=circle), [{"pattern": pattern}], lengths, facts(1, 6))
        keep = data.sel(category="all", first_position="keep", layer=0)
        chance = float(keep.order_parameter_independent)
        assert chance == pytest.approx(expected_resultant(6, circle), abs=1e-6)
        assert float(keep.order_parameter) == pytest.approx(chance, abs=0.03)
        assert float(keep.consistency_effect) == pytest.approx(0, abs=0.03)
        if circle == "full":
            assert float(keep.consistency) == pytest.approx(0, abs=0.03)
            assert float(keep.network_order_parameter_independent) == pytest.approx(chance, abs=1e-6)


@pytest.mark.parametrize("batches", [[[i] for i in range(5)], [[4, 0], [1, 3, 2]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    """Their widths differ, and with them how far each batch's sums reach."""
    lengths = [9, 100, 12, 30, 140]
    layers = [{"pattern": random_attention(lengths, 2, seed=s)} for s in range(2)]
    one = measure(HeadSync(), layers, lengths, facts(2, 2))
    other = measure(HeadSync(), layers, lengths, facts(2, 2), batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-5)


def test_few_prompts() -> None:
    """One has no null, two have no interval, three have a wide one."""
    for n in (1, 2, 3, 4):
        lengths = [20, 24, 30, 22][:n]
        pattern = random_attention(lengths, 3)
        data = measure(HeadSync(), [{"pattern": pattern}], lengths, facts(1, 3)).sel(category="all")
        assert bool(data.consistency.notnull().all())
        assert bool(data.consistency_null.notnull().all()) == (n > 1)
        assert bool(data.consistency_effect_low.notnull().all()) == (n > 2)


def test_one_head_has_nobody_to_agree_with() -> None:
    with pytest.raises(AnalysisError, match="compares the heads of a layer, and by hand has one head"):
        measure(HeadSync(), [{"pattern": random_attention([12], 1)}], [12], facts(1, 1))


@given(st.integers(4, 700), st.integers(4, 90), st.integers(0, 500))
def test_the_grid_of_a_shorter_prompt_begins_that_of_a_longer_one(n: int, first: int, more: int) -> None:
    short, long = query_grid(n, first).tolist(), query_grid(n + more, first).tolist()
    assert long[: len(short)] == short
    assert all(first - 1 <= query < n for query in short)
    assert short == sorted(set(short))
    assert bool(short) == (n >= first)
    if n >= first:
        assert short[0] == first - 1  # so that the shortest prompt allowed has a query to look at


def test_means_over_the_grid_are_means_over_all_queries() -> None:
    grid = query_grid(1025, 8)
    assert len(grid) < 130
    steps = steps_of(grid)
    assert float(steps.sum()) == pytest.approx(1025 - 7, abs=70)
    assert float((steps * grid).sum() / steps.sum()) == pytest.approx(512, abs=40)
