"""Samples: what counts as a difference, and the units of a jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from resonance_lens.stats.intervals import unit_interval
from resonance_lens.stats.samples import RESOLUTION, Sample, of_jackknife, of_prompts


def test_what_float32_cannot_tell_apart_is_no_difference() -> None:
    null = np.array([[10.0, -3.0, 0.0, 2.0]])
    value = null + np.array([[10.0, -3.0, 0.0, 2.0]]) * RESOLUTION * np.array([0.9, -0.9, 1.0, 1.2])
    np.testing.assert_array_equal(Sample(value, null).difference != 0, [[False, False, False, True]])


def test_rounding_of_what_is_next_to_nothing_is_no_difference() -> None:
    value, null = np.array([[3e-9, 3e-6]]), np.array([[1e-9, 1e-6]])
    assert (Sample(value, null).difference != 0).all()
    np.testing.assert_array_equal(Sample(value, null, scale=0.05).difference != 0, [[False, True]])


def test_what_does_not_exist_stays_so() -> None:
    sample = Sample(np.array([[np.nan, 1.0]]), np.array([[0.0, np.nan]]))
    assert np.isnan(sample.difference).all()


def test_each_category_has_its_prompts() -> None:
    value, null = np.arange(6.0).reshape(3, 2), np.ones((3, 2))
    groups = {"all": np.array([True, True, True]), "verse": np.array([False, True, True])}
    samples = of_prompts(value, null, groups)
    np.testing.assert_array_equal(samples["verse"].value, value[1:])
    assert list(samples) == ["all", "verse"] and samples["all"].unit == "prompt"


def test_pseudo_values_are_those_of_the_textbook() -> None:
    """Tukey's pseudo-values of a ratio of means: their spread is the estimate's, their mean our estimate."""
    rng = np.random.default_rng(1)
    x, y = rng.gamma(3, 1, 9), rng.gamma(5, 1, 9)
    whole = x.mean() / y.mean()
    without = [np.array(np.delete(x, i).mean() / np.delete(y, i).mean()) for i in range(9)]
    sample = of_jackknife(np.array(whole), np.array(0.0), without, [np.array(0.0)] * 9)
    pseudo = 9 * whole - 8 * np.array(without)
    mean, low, high = unit_interval(sample.value, "group", np.random.default_rng(0))
    assert float(mean) == pytest.approx(whole)
    assert float(high - low) == pytest.approx(2 * stats.t.ppf(0.975, 8) * pseudo.std(ddof=1) / 3)
    assert (sample.null == 0).all()


def test_of_a_mean_they_are_the_values_themselves() -> None:
    rows = np.random.default_rng(2).normal(size=(7, 3))
    without = [np.delete(rows, i, axis=0).mean(0) for i in range(7)]
    sample = of_jackknife(rows.mean(0), np.zeros(3), without, [np.zeros(3)] * 7)
    np.testing.assert_allclose(sample.value, rows)


@pytest.mark.parametrize("n", [5, 12, 24, 60])
def test_deleting_groups_covers_a_mean(n: int) -> None:
    """Groups of one prompt, of unequal size, and of six prompts."""
    rng = np.random.default_rng(n)
    rows = rng.normal(1.0, 1.0, (n, 4000))
    block = np.arange(n) % 10
    without = [rows[block != b].mean(0) for b in np.unique(block)]
    sample = of_jackknife(rows.mean(0), np.zeros(4000), without, [np.zeros(4000)] * len(without))
    _, low, high = unit_interval(sample.value, "group", rng)
    assert 0.935 <= np.mean((low <= 1) & (high >= 1)) <= 0.975


def test_one_group_is_one_unit() -> None:
    sample = of_jackknife(np.ones(2), np.zeros(2), [], [])
    assert sample.value.shape == (1, 2)
