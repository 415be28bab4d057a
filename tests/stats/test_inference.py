"""Inference: against scipy's permutation tests, naive loops, closed forms, and by its size under nulls."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from resonance_lens.stats.inference import (
    EXACT_UNITS,
    FLIPS,
    RESAMPLES,
    Inference,
    infer,
    places_at_floor,
    refusal,
    smallest_p,
)
from resonance_lens.stats.power import detectable_effect
from resonance_lens.stats.samples import Sample, Surrogates


def sample(rows: Any) -> Sample:
    rows = np.asarray(rows, dtype=float)
    return Sample(rows + 1.0, np.ones_like(rows))


def normal(n: int, *shape: int, seed: int = 0, shift: float = 0.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, *shape))


def test_p_is_that_of_scipy() -> None:
    rows = normal(9, 2, 3, shift=0.5)
    found = infer(sample(rows), (0, 1), np.random.default_rng(0))
    for place in np.ndindex(2, 3):
        expected = stats.permutation_test(
            (rows[:, place[0], place[1]],),
            lambda x, axis: abs(x.mean(axis=axis)),
            permutation_type="samples",
            alternative="greater",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert found.p[place] == pytest.approx(expected.pvalue, abs=1e-12)


def student(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(x.mean(0) / (x.std(0, ddof=1) / np.sqrt(len(x))))


def test_q_is_that_of_naive_loops_over_flips_and_resamples() -> None:
    """The largest of |t| over a family for each of 2^7 sign patterns, and t of resamples around the mean."""
    rows = normal(7, 2, 3, shift=1.2, seed=3)
    found = infer(sample(rows), (1,), np.random.default_rng(0))
    observed = student(rows)
    flips = [np.abs(student(rows * np.array(s)[:, None, None])) for s in product((1.0, -1.0), repeat=7)]
    weights = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=RESAMPLES)
    centred = rows - rows.mean(0)
    resampled = np.stack([student(np.repeat(centred, w, axis=0)) for w in weights])
    for family, place in np.ndindex(2, 3):
        t = observed[family, place]
        by_flips = np.mean([flip[family].max() >= abs(t) - 1e-9 for flip in flips])
        side = np.nan_to_num(resampled[:, family] * np.sign(t), posinf=np.inf, neginf=-np.inf).max(1)
        by_resamples = min(1.0, 2 * (1 + (side >= abs(t) * (1 - 1e-9)).sum()) / (1 + RESAMPLES))
        assert found.q[family, place] == pytest.approx(max(by_flips, by_resamples))


def test_skew_does_not_make_large_families_find_what_is_not_there() -> None:
    """Right-skewed differences of mean zero in 272 places: sign flips alone find some far too often."""
    rng = np.random.default_rng(7)
    trials, hits = 150, 0
    for _ in range(trials):
        rows = np.exp(rng.normal(size=(16, 272))) - np.exp(0.5)
        hits += bool((infer(sample(rows), (0,), rng).q <= 0.05).any())
    assert hits <= stats.binom.ppf(0.9995, trials, 0.05)


def test_random_flips_estimate_the_exact_p() -> None:
    rows = normal(13, 40, shift=0.3, seed=1)
    found = infer(sample(rows), (0,), np.random.default_rng(0))
    signs = np.array(list(product((1.0, -1.0), repeat=13)))
    exact = (np.abs(signs @ rows) >= np.abs(rows.sum(0)) - 1e-9).mean(0)
    error = np.sqrt(exact * (1 - exact) / FLIPS)
    assert (np.abs(found.p - exact) <= 5 * error + 1 / FLIPS).all()
    assert found.smallest == 1 / (FLIPS + 1) == found.p.min() or found.p.min() > found.smallest


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_laws_of_p_and_q(n: int, places: int, seed: int) -> None:
    """q is at least p and at most 1, the scale of a place does not matter, nor the sign of all of them,
    and p is a multiple of the smallest."""
    rows = normal(n, places, seed=seed)

    def tested(rows: np.ndarray[Any, Any]) -> Inference:
        return infer(Sample(rows, np.zeros_like(rows)), (0,), np.random.default_rng(0))

    found = tested(rows)
    if found.refused:
        assert np.isnan(found.p).all() and np.isnan(found.q).all() and smallest_p(n) > 0.05
        return
    assert (found.q >= found.p - 1e-12).all() and (found.q <= 1).all()
    multiple = found.p / found.smallest
    np.testing.assert_allclose(multiple, np.round(multiple))
    scale = np.where(np.arange(places) % 2, 3.0, 0.01)
    again = tested(rows * scale)
    np.testing.assert_array_equal(found.p, again.p)
    np.testing.assert_array_equal(found.q, again.q)
    mirrored = tested(-rows)
    np.testing.assert_array_equal(found.q, mirrored.q)


def test_effect_size_is_the_mean_over_the_standard_deviation() -> None:
    rows = normal(20, 4, shift=1.0)
    found = infer(sample(rows), (0,), np.random.default_rng(0))
    np.testing.assert_allclose(found.effect_size, rows.mean(0) / rows.std(0, ddof=1))


def test_the_null_band_holds_what_flipped_means_hold() -> None:
    rows = normal(30, 3, shift=0.2)
    found = infer(sample(rows), (0,), np.random.default_rng(0))
    signs = 1.0 - 2.0 * np.random.default_rng(1).integers(0, 2, (20000, 30))
    means = 1.0 + signs @ rows / 30
    np.testing.assert_allclose(found.null_low, np.quantile(means, 0.025, axis=0), atol=0.02)
    np.testing.assert_allclose(found.null_high, np.quantile(means, 0.975, axis=0), atol=0.02)


def test_a_place_without_values_has_no_p_and_takes_none_from_others() -> None:
    rows = normal(10, 3, shift=1.0)
    alone = infer(sample(rows[:, :2]), (0,), np.random.default_rng(0))
    rows[:, 2] = np.nan
    found = infer(sample(rows), (0,), np.random.default_rng(0))
    np.testing.assert_array_equal(found.p[:2], alone.p)
    np.testing.assert_allclose(found.q[:2], alone.q)
    assert np.isnan([found.p[2], found.q[2], found.effect_size[2]]).all()


def test_missing_units_are_left_out_of_their_place() -> None:
    rows = normal(11, 2, shift=0.8)
    holed = rows.copy()
    holed[3:5, 0] = np.nan
    found = infer(sample(holed), (0,), np.random.default_rng(0))
    alone = infer(sample(np.delete(rows[:, :1], [3, 4], axis=0)), (0,), np.random.default_rng(0))
    assert found.p[0] == pytest.approx(alone.p[0])
    assert found.effect_size[0] == pytest.approx(alone.effect_size[0])


def test_no_difference_anywhere_is_no_effect() -> None:
    found = infer(sample(np.zeros((8, 2))), (0,), np.random.default_rng(0))
    np.testing.assert_array_equal(found.p, 1)
    assert np.isnan(found.effect_size).all()


@pytest.mark.parametrize(
    ("unit", "n", "needed"), [("prompt", 5, 6), ("group", 1, 6), ("draw", 18, 19), ("prompt", 1, 6)]
)
def test_what_can_find_nothing_is_refused_with_the_number_that_could(unit: str, n: int, needed: int) -> None:
    said = refusal(unit, n)
    assert str(n) in said and f"{needed} " in said.split(";")[1]
    assert refusal(unit, needed) == ""


def test_smallest_p() -> None:
    assert smallest_p(6) == 2 / 2**6
    assert smallest_p(EXACT_UNITS) == 2 / 2**EXACT_UNITS
    assert smallest_p(96) == 1e-4


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    rows = normal(40, 2, 30, shift=0.35, seed=5)
    found = infer(sample(rows), (1,), np.random.default_rng(0), correction="false_discovery")
    for family in range(2):
        expected = stats.false_discovery_control(found.p[family])
        np.testing.assert_allclose(found.q[family], expected)


def test_places_at_floor_are_those_of_the_formula() -> None:
    """One among 270 needs 5,399 surrogates; with 999, six must sit at the floor."""
    assert places_at_floor(270, 1 / 5400) == 1
    assert places_at_floor(270, 1 / 1000) == 6
    p = np.array([1e-3] * 6 + [0.9] * 264)
    assert (stats.false_discovery_control(p) <= 0.05).sum() == 6
    p[5] = 0.9
    assert (stats.false_discovery_control(p) <= 0.05).sum() == 0


def test_surrogates_are_counted_by_hand() -> None:
    """Two places of different scale: each is studentised by its own draws, both see the same draw."""
    draws = np.random.default_rng(0).normal(size=(199, 2)) * [1.0, 100.0] + [0.0, 50.0]
    value = np.array([2.4, 60.0])
    found = infer(Surrogates(value, draws), (0,), np.random.default_rng(0))
    pooled = np.vstack([value, draws])
    z = np.abs(pooled - pooled.mean(0)) / pooled.std(0)
    z, observed = z[1:], z[0]
    np.testing.assert_allclose(found.p, (1 + (z >= observed).sum(0)) / 200)
    np.testing.assert_allclose(found.q, (1 + (z.max(1)[:, None] >= observed).sum(0)) / 200)
    assert found.smallest == 1 / 200 and found.units == 199


def test_nineteen_surrogates_are_exact() -> None:
    """Under the null the value is one of twenty draws like the others: any level is met exactly."""
    rng = np.random.default_rng(0)
    trials = 1000
    hits = 0
    for _ in range(trials):
        pooled = rng.exponential(size=(20, 5))
        hits += bool((infer(Surrogates(pooled[0], pooled[1:]), (0,), rng).q <= 0.05).any())
    low, high = stats.binom.ppf([0.0005, 0.9995], trials, 0.05)
    assert low <= hits <= high


def test_draws_that_differ_by_rounding_alone_are_no_spread() -> None:
    draws = 1.0 + 1e-8 * np.random.default_rng(0).normal(size=(99, 2))
    found = infer(Surrogates(np.array([1.0 + 1e-6, 2.0]), draws), (0,), np.random.default_rng(0))
    assert found.p[0] == 1 and found.p[1] == 1 / 100
    assert np.isnan(found.effect_size).all()


def test_surrogates_of_a_place_that_does_not_exist() -> None:
    draws = np.random.default_rng(0).normal(size=(99, 2))
    draws[:, 1] = np.nan
    found = infer(Surrogates(np.array([3.0, np.nan]), draws), (0,), np.random.default_rng(0))
    assert found.q[0] == pytest.approx(found.p[0]) and np.isnan(found.p[1])


@pytest.mark.parametrize("n", [8, 24, 60])
def test_size_and_family_wise_rate(n: int) -> None:
    """2,000 families of 20 correlated places without an effect: p is uniform, any q <= .05 in 5 %."""
    rng = np.random.default_rng(n)
    hits, any_hit, trials = 0, 0, 400
    for _ in range(trials):
        rows = rng.normal(size=(n, 20)) + rng.normal(size=(n, 1))
        found = infer(sample(rows), (0,), rng)
        hits += bool(found.p[0] <= 0.05)
        any_hit += bool((found.q <= 0.05).any())
    low, high = stats.binom.ppf([0.0005, 0.9995], trials, 0.05)
    assert hits <= high and any_hit <= high
    assert n == 8 or hits >= low  # few sign flips are discrete, and q is made for skew: conservative


def test_detectable_effect_is_found_as_often_as_it_says() -> None:
    n, places = 24, 30
    effect = detectable_effect(n, places)
    rng = np.random.default_rng(0)
    rows = rng.normal(effect, 1.0, (4000, n))
    p = stats.ttest_1samp(rows, 0.0, axis=1).pvalue
    assert np.mean(p <= 0.05 / places) == pytest.approx(0.8, abs=0.02)
    assert detectable_effect(1) == np.inf
    assert detectable_effect(96, 270) < detectable_effect(24, 270) < detectable_effect(24, 36315)
