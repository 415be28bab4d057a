"""Sets that are not paired: against scipy's permutation test, naive loops, Welch, and by size under nulls."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from resonance_lens.stats.two_samples import (
    ARRANGEMENTS,
    infer_labels,
    labels_words,
    refusal_of_labels,
    smallest_p_of_labels,
    welch_difference,
)

Rows = np.ndarray[Any, np.dtype[np.float64]]


def normal(n: int, *shape: int, seed: int = 0, shift: float = 0.0) -> Rows:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, *shape))


def welch(x: Rows, y: Rows, axis: int = 0) -> Any:
    """Return how far out Welch's t is, with its degrees of freedom: the larger, the farther."""
    return -stats.ttest_ind(x, y, axis=axis, equal_var=False).pvalue


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Against others --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (4, 6), (7, 3)])
def test_exact_p_is_that_of_scipy(n_a: int, n_b: int) -> None:
    a, b = normal(n_a, 2, 2), normal(n_b, 2, 2, seed=1, shift=1.0)
    found = infer_labels(a, b, (0, 1), rng())
    for place in np.ndindex(2, 2):
        x, y = a[:, place[0], place[1]], b[:, place[0], place[1]]
        expected = stats.permutation_test(
            (x, y), welch, permutation_type="independent", alternative="greater", n_resamples=np.inf
        )
        assert found.p[place] == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.refused == "" and found.smallest == smallest_p_of_labels(n_a, n_b)


def test_random_arrangements_estimate_scipys_p() -> None:
    a, b = normal(12, 3), normal(15, 3, seed=1, shift=0.7)
    found = infer_labels(a, b, (0,), rng())
    assert math.comb(27, 12) > ARRANGEMENTS
    for place in range(3):
        expected = stats.permutation_test(
            (a[:, place], b[:, place]), welch, vectorized=True, alternative="greater", n_resamples=9999
        ).pvalue
        error = math.sqrt(2 * expected * (1 - expected) / ARRANGEMENTS)
        assert abs(found.p[place] - expected) < 5 * error + 2 / ARRANGEMENTS


def test_q_is_that_of_a_naive_loop_over_all_arrangements() -> None:
    """The surest Welch test of a family, for each of the 126 arrangements; two families of three."""
    a, b = normal(4, 2, 3, seed=2), normal(5, 2, 3, seed=3, shift=0.8)
    found = infer_labels(a, b, (1,), rng())
    rows = np.concatenate([a, b])
    drawn = [
        welch(np.delete(rows, chosen, axis=0), rows[list(chosen)]) for chosen in combinations(range(9), 5)
    ]
    observed = welch(a, b)
    for family, place in np.ndindex(2, 3):
        reached = [t[family].max() >= observed[family, place] - 1e-12 for t in drawn]
        assert found.q[family, place] == pytest.approx(np.mean(reached))


def test_two_sets_that_do_not_overlap_have_the_closed_form() -> None:
    """Of C(8, 4) = 70 arrangements two separate the sets: the given one and its mirror image."""
    a, b = np.arange(4.0)[:, None], 100 + np.arange(4.0)[:, None]
    found = infer_labels(a, b, (0,), rng())
    assert found.p.tolist() == found.q.tolist() == [2 / 70]
    # Sets of different sizes have no mirror image.
    assert infer_labels(a, 100 + np.arange(5.0)[:, None], (0,), rng()).p.tolist() == [1 / 126]


def test_welch_interval_is_that_of_scipy() -> None:
    a, b = normal(10, 4), normal(7, 4, seed=1) * 3 + 1
    difference, low, high = welch_difference(a, b)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    np.testing.assert_allclose(difference, b.mean(0) - a.mean(0))
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    same = welch_difference(np.ones((3, 1)), np.full((4, 1), 2.0))
    assert [values.tolist() for values in same] == [[1.0]] * 3
    assert np.isnan(welch_difference(a[:1], b)[1:]).all()


# What is undefined -----------------------------------------------------------------------------


def test_what_is_undefined_does_not_count() -> None:
    """A place with missing rows has the p of the rows that it has, if they are missing alike in both."""
    a, b = normal(6, 3, seed=4), normal(6, 3, seed=5, shift=1.0)
    b[2:, 1] = np.nan
    a[:, 2] = np.nan
    found = infer_labels(a, b, (0,), rng())
    whole = infer_labels(a[:, :1], b[:, :1], (0,), rng())
    assert found.p[0] == whole.p[0]
    assert np.isfinite(found.p[1]) and np.isnan([found.p[2], found.q[2]]).all()
    # A naive loop over the rows with their gaps; a set with fewer than two values says nothing.
    rows = np.concatenate([a, b])[:, 1]
    observed, reached, n = welch(a[:, 1], b[:2, 1]), 0, 0
    for chosen in combinations(range(12), 6):
        y = rows[list(chosen)]
        x = np.delete(rows, chosen)
        x, y = x[~np.isnan(x)], y[~np.isnan(y)]
        n += 1
        reached += bool(len(x) >= 2 and len(y) >= 2 and welch(x, y) >= observed - 1e-12)
    assert found.p[1] == pytest.approx(reached / n)


def test_too_few_values_at_a_place_are_no_test_there() -> None:
    a, b = normal(6, 2), normal(6, 2, seed=1)
    b[1:, 1] = np.nan
    found = infer_labels(a, b, (0,), rng())
    assert np.isfinite(found.p[0]) and np.isnan(found.p[1]) and np.isnan(found.q[1])


def test_the_same_constant_does_not_differ_and_other_constants_do() -> None:
    a, b = np.full((5, 3), 0.1), np.full((5, 3), 0.1)
    b[:, 1] += 1e-9  # less than float32 can tell
    b[:, 2] = 0.2
    found = infer_labels(a, b, (0,), rng())
    assert found.p.tolist() == [1.0, 1.0, 2 / math.comb(10, 5)]


# What cannot find anything -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_a", "n_b", "sentence"),
    [
        (3, 3, "3 and 3 prompts can reach no p below 0.1; 4 on each side could"),
        (2, 4, "2 and 4 prompts can reach no p below 0.067; 4 on each side could"),
        (1, 40, "1 and 40 prompts cannot be told apart, for one alone has no spread; 4 on each side could"),
        (3, 4, ""),
        (2, 5, ""),
        (4, 4, ""),
    ],
)
def test_refusals_say_the_numbers_that_could(n_a: int, n_b: int, sentence: str) -> None:
    assert refusal_of_labels("prompt", n_a, n_b) == sentence
    found = infer_labels(normal(n_a, 2), normal(n_b, 2, seed=1), (0,), rng())
    assert found.refused == sentence
    assert np.isnan(found.p).all() == np.isnan(found.q).all() == bool(sentence)
    assert refusal_of_labels("group", 4, 4) == ""


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 4), (2, 5), (4, 4), (6, 6), (9, 3)])
def test_the_smallest_p_is_attained(n_a: int, n_b: int) -> None:
    a, b = np.arange(n_a)[:, None] * 0.01, 10 + np.arange(n_b)[:, None] * 0.01
    assert infer_labels(a, b, (0,), rng()).p.item() == pytest.approx(smallest_p_of_labels(n_a, n_b))


def test_words() -> None:
    assert labels_words(4, 4) == "all 70 arrangements"
    assert labels_words(20, 20) == "9,999 random arrangements"


# Laws ----------------------------------------------------------------------------------------------


@given(st.integers(3, 6), st.integers(4, 6), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=40)
def test_laws_of_p_and_q(n_a: int, n_b: int, places: int, seed: int) -> None:
    """q is at least p; sides, order, shift and scale of a place do not matter; p is a multiple of 1/C."""
    a, b = normal(n_a, places, seed=seed), normal(n_b, places, seed=seed + 1)
    found = infer_labels(a, b, (0,), rng())
    assert (found.q >= found.p - 1e-12).all() and (found.q <= 1).all() and (found.p > 0).all()
    shares = found.p * math.comb(n_a + n_b, n_b)
    np.testing.assert_allclose(shares, np.round(shares), atol=1e-9)
    scale, shift = np.arange(1, places + 1) * 3.0, np.arange(places) * 5.0
    turned = infer_labels(b[::-1] * -scale + shift, a[::-1] * -scale + shift, (0,), rng())
    np.testing.assert_allclose(turned.p, found.p)
    np.testing.assert_allclose(turned.q, found.q)


def test_axes_of_the_family_may_stand_anywhere() -> None:
    a, b = normal(5, 3, 2), normal(6, 3, 2, seed=1, shift=0.5)
    found = infer_labels(a, b, (0,), rng())
    other = infer_labels(a.swapaxes(1, 2), b.swapaxes(1, 2), (1,), rng())
    np.testing.assert_allclose(found.p, other.p.T)
    np.testing.assert_allclose(found.q, other.q.T)
    assert not np.allclose(found.q, infer_labels(a, b, (0, 1), rng()).q)
    scalar = infer_labels(a[:, 0, 0], b[:, 0, 0], (), rng())
    assert scalar.p.shape == () and scalar.p == scalar.q == pytest.approx(found.p[0, 0])


# Size and power ------------------------------------------------------------------------------------

TRIALS = 400


def share_found(draw: Any, n_a: int, n_b: int, places: int = 5, shift: float = 0.0) -> tuple[float, float]:
    """Return how often the p of the first place, and any q of its family, is at most 0.05."""
    p, q = [], []
    for trial in range(TRIALS):
        source = np.random.default_rng(trial)
        a, b = draw(source, (n_a, places)), draw(source, (n_b, places)) + shift
        found = infer_labels(a, b, (0,), source)
        p.append(found.p[0] <= 0.05)
        q.append(found.q.min() <= 0.05)
    return float(np.mean(p)), float(np.mean(q))


def together(source: np.random.Generator, shape: tuple[int, int]) -> Rows:
    """Places that go together, as heads do."""
    return source.normal(size=(shape[0], 1)) + 0.5 * source.normal(size=shape)


@pytest.mark.parametrize(
    ("draw", "n_a", "n_b"),
    [
        (lambda source, shape: source.normal(size=shape), 5, 5),
        (lambda source, shape: source.exponential(size=shape), 4, 6),
        (together, 6, 5),
    ],
    ids=["normal", "skewed", "together"],
)
def test_size_under_the_null(draw: Any, n_a: int, n_b: int) -> None:
    high = stats.binom.ppf(0.9995, TRIALS, 0.05) / TRIALS
    p, q = share_found(draw, n_a, n_b)
    assert p <= high and q <= high


def test_a_difference_is_found() -> None:
    _, q = share_found(lambda source, shape: source.normal(size=shape), 6, 6, shift=3.0)
    assert q >= 0.9
