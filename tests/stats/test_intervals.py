"""Intervals: against scipy and a textbook, and how often they hold what they should hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from resonance_lens.stats.intervals import bootstrap_mean, crossed_bounds, unit_interval

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.normal(1.0, 1.0, shape)


def exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.exponential(1.0, shape)


def widened(n: int, confidence: float = 0.95) -> float:
    """Return the confidence level of a percentile interval that Hesterberg (2015) asks for."""
    quantile = scipy_stats.t.ppf((1 - confidence) / 2, df=n - 1)
    return float(1 - 2 * scipy_stats.norm.cdf(np.sqrt(n / (n - 1)) * quantile))


def test_bounds_are_those_of_scipy_at_the_widened_level() -> None:
    rows = np.random.default_rng(0).gamma(2.0, 1.0, (12, 3))
    mean, low, high = bootstrap_mean(rows, np.random.default_rng(1), n_resamples=20_000)
    for column in range(3):
        expected = scipy_stats.bootstrap(
            (rows[:, column],),
            np.mean,
            method="percentile",
            confidence_level=widened(12),
            n_resamples=20_000,
            rng=np.random.default_rng(2),
        ).confidence_interval
        scale = rows[:, column].std() / np.sqrt(12)
        assert mean[column] == pytest.approx(rows[:, column].mean())
        assert low[column] == pytest.approx(expected.low, abs=0.15 * scale)
        assert high[column] == pytest.approx(expected.high, abs=0.15 * scale)


def test_widening_is_that_of_the_source() -> None:
    """For n = 10 the tails hold .0086 each instead of .025; without end, .025."""
    assert (1 - widened(10)) / 2 == pytest.approx(0.0086, abs=1e-4)
    assert (1 - widened(10_000)) / 2 == pytest.approx(0.025, abs=1e-4)


@pytest.mark.parametrize(
    "n, draw, at_least",
    [
        (3, normal, 0.94),
        (5, normal, 0.94),
        (8, normal, 0.93),
        (24, normal, 0.94),
        (5, exponential, 0.86),
        (8, exponential, 0.87),
        (24, exponential, 0.915),
    ],
)
def test_intervals_hold_the_mean_as_often_as_they_say(n: int, draw: Draw, at_least: float) -> None:
    """Both distributions have mean 1. A skewed one is covered less often, as with any such interval."""
    held = []
    for repeat in range(8):
        rows = draw(np.random.default_rng([n, repeat]), (n, 500))
        _, low, high = bootstrap_mean(rows, np.random.default_rng(repeat), n_resamples=999)
        held.append((low <= 1) & (high >= 1))
    assert at_least <= np.mean(held) <= 0.965


def test_few_prompts_get_student_s_interval() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2, 3))
    mean, low, high = bootstrap_mean(rows, np.random.default_rng(1))
    expected = scipy_stats.t.interval(0.95, 4, rows.mean(0), scipy_stats.sem(rows, axis=0))
    np.testing.assert_allclose((low, high), expected)
    np.testing.assert_allclose(mean, rows.mean(0))


def test_a_prompt_without_a_value_does_not_count() -> None:
    full = np.random.default_rng(0).normal(size=(9, 1))
    holed = np.concatenate([full, np.full((31, 1), np.nan)])
    mean, low, high = bootstrap_mean(holed, np.random.default_rng(1), n_resamples=20_000)
    _, narrow, wide = bootstrap_mean(full, np.random.default_rng(2), n_resamples=20_000)
    assert mean[0] == pytest.approx(full.mean())
    # At least as wide as nine prompts make it, however many others there are; a little wider, because
    # a resample may hold more of the nine or fewer.
    assert 0.99 < (high[0] - low[0]) / (wide[0] - narrow[0]) < 1.25


def test_too_few_values_have_no_interval() -> None:
    rows = np.array([[1.0, np.nan, np.nan], [2.0, 3.0, np.nan]])
    mean, low, high = bootstrap_mean(rows, np.random.default_rng(0))
    np.testing.assert_array_equal(mean, [1.5, 3.0, np.nan])
    np.testing.assert_array_equal(np.isnan(low), [False, True, True])
    np.testing.assert_array_equal(np.isnan(high), [False, True, True])
    one = bootstrap_mean(np.ones((1, 4)), np.random.default_rng(0))
    assert [bool(np.isnan(each).all()) for each in one] == [False, True, True]


def test_columns_share_their_resamples() -> None:
    column = np.random.default_rng(0).normal(size=(20, 1))
    mean, low, high = bootstrap_mean(np.tile(column, (1, 3)), np.random.default_rng(1))
    for each in (mean, low, high):
        assert len(set(each.tolist())) == 1
    assert low[0] < mean[0] < high[0]


def test_a_column_does_not_depend_on_those_beside_it() -> None:
    """Resamples are shared, the prompts that it does not know are its own; 300 columns make three parts."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(12, 300))
    rows[rng.integers(0, 12, 300), np.arange(300)] = np.nan
    together = bootstrap_mean(rows, np.random.default_rng(1))
    for column in (0, 131, 299):
        alone = bootstrap_mean(rows[:, [column]], np.random.default_rng(1))
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(all_[column], one[0], rtol=1e-12)


def test_groups_get_student_s_interval() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3))
    mean, low, high = unit_interval(rows, "group", np.random.default_rng(0))
    expected = scipy_stats.t.interval(0.95, 6, rows.mean(0), scipy_stats.sem(rows, axis=0))
    np.testing.assert_allclose((low, high), expected)
    np.testing.assert_allclose(mean, rows.mean(0))
    alone = unit_interval(rows[:1], "group", np.random.default_rng(0))
    assert [bool(np.isnan(each).all()) for each in alone] == [False, True, True]


def test_prompts_are_resampled() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3))
    for one, other in zip(
        unit_interval(rows, "prompt", np.random.default_rng(4)),
        bootstrap_mean(rows, np.random.default_rng(4)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("of_prompts", "of_draws"), [(1.0, 1.0), (0.2, 2.0), (2.0, 0.2), (0.0, 1.0)])
def test_bounds_over_prompts_and_draws_hold_the_mean_of_both(of_prompts: float, of_draws: float) -> None:
    """The mean that is looked for is that of all prompts and all draws; over prompts alone it is missed."""
    rng = np.random.default_rng(3)
    n_prompts, n_draws, trials = 8, 5, 2000
    values = (
        of_prompts * rng.normal(size=(n_prompts, 1, trials))
        + of_draws * rng.normal(size=(1, n_draws, trials))
        + 0.3 * rng.normal(size=(n_prompts, n_draws, trials))
    )
    without = [np.delete(values, i, axis=1).mean(1) for i in range(n_draws)]
    low, high = crossed_bounds(values.mean(1), without)
    held = float(((low <= 0) & (0 <= high)).mean())
    assert 0.93 <= held <= 0.995
    if of_draws >= 1:
        _, low, high = bootstrap_mean(values.mean(1), rng, n_resamples=199)
        assert float(((low <= 0) & (0 <= high)).mean()) < held - 0.1


def test_bounds_over_prompts_alone_are_students() -> None:
    rows = np.random.default_rng(4).normal(size=(6, 3))
    low, high = crossed_bounds(rows, [rows])
    for column in range(3):
        expected = scipy_stats.ttest_1samp(rows[:, column], 0).confidence_interval()
        np.testing.assert_allclose([low[column], high[column]], expected, rtol=1e-10)
    low, high = crossed_bounds(np.ones((6, 1)), [np.ones((6, 1))] * 3)
    assert low.item() == high.item() == 1
