"""Rank correlations held against scipy, and their tests against places that are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, signal, stats

from resonance_lens.calibration import most
from resonance_lens.stats.ranks import (
    Depth,
    Floats,
    Free,
    Heads,
    auroc,
    design,
    infer_ranks,
    partial_spearman,
    predicted,
    ranked,
    spearman,
)

LEVEL = 0.05
TRIALS = 400
N_LAYERS, N_HEADS, SHARED = 10, 6, 3
LAYER = np.repeat(np.arange(N_LAYERS), N_HEADS)
BLOCK = np.tile(np.repeat(np.arange(N_HEADS // SHARED), SHARED), N_LAYERS)
N = len(LAYER)

values = st.lists(st.integers(-3, 3).map(float), min_size=5, max_size=30)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_spearman_is_that_of_scipy(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 20))
    if ties:
        x, y = np.round(x), np.round(y)
    if np.ptp(x) and np.ptp(y):
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        bare = design([np.zeros(20)])
        assert partial_spearman(x, y, bare) == pytest.approx(spearman(x, y), abs=1e-12)


@given(values, st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_statistic_of_mann_and_whitney(numbers: list[float], seed: int) -> None:
    positive = np.random.default_rng(seed).random(len(numbers)) < 0.4
    found = auroc(np.array(numbers), positive)
    if positive.all() or not positive.any():
        assert np.isnan(found)
        return
    some, others = np.array(numbers)[positive], np.array(numbers)[~positive]
    pairs = len(some) * len(others)
    assert found == pytest.approx(stats.mannwhitneyu(some, others).statistic / pairs)


def test_a_partial_correlation_is_that_of_the_inverse_correlation_matrix() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 200))
    x, y = rng.normal(size=(2, 200)) + common.sum(0)
    rows = np.stack([ranked(each) for each in (x, y, *common)])
    inverse = np.linalg.inv(np.corrcoef(rows))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    found = partial_spearman(x, y, design([ranked(each) for each in common]))
    assert found == pytest.approx(expected, abs=1e-10)


def test_layers_as_classes_leave_what_differs_within_layers() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, N)) + 5 * rng.normal(size=N_LAYERS)[LAYER]
    within = [
        ranked(each) - np.array([ranked(each)[LAYER == one].mean() for one in range(N_LAYERS)])[LAYER]
        for each in (x, y)
    ]
    basis = design([np.zeros(N)], LAYER)
    assert partial_spearman(x, y, basis) == pytest.approx(np.corrcoef(within)[0, 1], abs=1e-10)


def test_nothing_is_left_of_a_number_that_is_regressed_out() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, N))
    basis = design([ranked(x)], LAYER)
    assert np.isnan(partial_spearman(np.exp(x), y, basis))
    found = infer_ranks(np.exp(x)[None, None], y[None], [basis], Heads(LAYER, BLOCK), rng, n_draws=19)
    assert np.isnan([found.correlation, found.p, found.q]).all()


# What changes places ------------------------------------------------------------------------------------


def test_heads_change_places_within_their_layer_and_blocks_as_a_whole() -> None:
    drawn = Heads(LAYER, BLOCK).draws(50, np.random.default_rng(0))
    assert (np.sort(drawn, axis=1) == np.arange(N)).all()
    assert (LAYER[drawn] == LAYER).all()
    # The heads of a block come from one block, and are not always in their order.
    together = BLOCK[drawn].reshape(50, -1, SHARED)
    assert (together == together[..., :1]).all()
    assert (drawn.reshape(50, -1, SHARED)[..., 0] % SHARED != 0).any()
    assert (BLOCK[drawn] != BLOCK).any()


def test_a_block_that_lacks_a_head_stays_where_it_is() -> None:
    keep = np.ones(N, dtype=bool)
    keep[0] = False  # of the first block of the first layer
    drawn = Heads(LAYER[keep], BLOCK[keep]).draws(50, np.random.default_rng(0))
    assert (np.sort(drawn, axis=1) == np.arange(N - 1)).all()
    assert (drawn[:, : SHARED - 1] < SHARED - 1).all()
    assert (LAYER[keep][drawn] == LAYER[keep]).all()


def test_every_arrangement_of_heads_is_as_likely() -> None:
    layer, block = np.zeros(4, dtype=int), np.array([0, 0, 1, 1])
    drawn = Heads(layer, block).draws(8000, np.random.default_rng(3))
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(kinds) == 8  # 2! of the blocks, 2! in each
    assert stats.chisquare(counts).pvalue > 1e-3


def test_new_signs_of_cosines_keep_the_spectrum_along_depth() -> None:
    rng = np.random.default_rng(4)
    series, shuffle = rng.normal(size=30).cumsum(), Depth(30)
    moved = shuffle.moved(series, shuffle.draws(20, rng))
    spectra = np.abs(fft.dct(moved, norm="ortho"))
    np.testing.assert_allclose(spectra, np.abs(fft.dct(series, norm="ortho"))[None].repeat(20, 0), atol=1e-10)
    assert np.abs(moved - series).max(1).min() > 0.1


# Level and power ---------------------------------------------------------------------------------------


def alike(rng: np.random.Generator, n: int) -> Floats:
    """Return ``n`` noises of heads; those that share keys and values are alike."""
    return np.repeat(rng.normal(size=(n, N // SHARED)), SHARED, axis=1) + rng.normal(size=(n, N))


def rejected(trials: int, rng: np.random.Generator, shuffle: Heads, depth: Floats) -> tuple[int, int]:
    """Return in how many trials p of one place, and any q, is at most the level, where there is nothing."""
    basis = design([np.zeros(N)], LAYER)
    p = q = 0
    for _ in range(trials):
        x, y = alike(rng, 2) + depth, alike(rng, 2) + depth
        found = infer_ranks(x[:, None].repeat(2, 1), y, [basis] * 2, shuffle, rng, n_draws=199)
        p += int(found.p[0, 1] <= LEVEL)
        q += int((found.q <= LEVEL).any())
    return p, q


def test_what_follows_a_layer_is_not_credited_whatever_depth_does() -> None:
    """Number and effect both peak at one layer, and heads of a block are alike."""
    depth = 4 * np.exp(-0.5 * (LAYER - 4) ** 2)
    p, q = rejected(TRIALS, np.random.default_rng(5), Heads(LAYER, BLOCK), depth)
    assert p <= most(LEVEL, TRIALS) and q <= most(LEVEL, TRIALS)


def test_heads_moved_one_by_one_are_credited_too_often() -> None:
    """What the blocks are for."""
    one_by_one = Heads(LAYER, np.zeros(N, dtype=int))
    _, q = rejected(TRIALS, np.random.default_rng(5), one_by_one, np.zeros(N))
    assert q > most(LEVEL, TRIALS)


def test_smooth_series_along_depth_are_not_credited_and_free_permutation_would_credit_them() -> None:
    rng = np.random.default_rng(6)
    place = np.linspace(-1, 1, 30)
    basis, hits = design([place, place**2]), np.zeros(2)
    for _ in range(TRIALS):
        x, y = signal.lfilter([1], [1, -0.9], rng.normal(size=(2, 60)))[:, 30:] + 3 * place
        for index, shuffle in enumerate((Depth(30), Free(30))):
            found = infer_ranks(x[None, None], y[None], [basis], shuffle, rng, n_draws=199)
            hits[index] += found.p[0, 0] <= LEVEL
    assert hits[0] <= most(LEVEL, TRIALS) < hits[1]


@pytest.mark.parametrize("correlation", [-0.5, 0.3, 0.7])
def test_a_correlation_within_layers_is_found_at_its_size(correlation: float) -> None:
    """Of two normal numbers that correlate by r, ranks correlate by 6 / pi asin(r / 2)."""
    rng = np.random.default_rng(7)
    basis = design([np.zeros(N)], LAYER)
    found, sure = [], 0
    for _ in range(200):
        x, other = rng.normal(size=(2, N))
        y = correlation * x + np.sqrt(1 - correlation**2) * other
        # Layers differ by less than heads do, so that ranks keep what is within a layer.
        shift = 0.3 * rng.normal(size=(2, N_LAYERS))[:, LAYER]
        one = infer_ranks(
            (x + shift[0])[None, None], (y + shift[1])[None], [basis], Heads(LAYER, BLOCK), rng, n_draws=199
        )
        found.append(one.correlation[0, 0])
        sure += int(one.q[0, 0] <= LEVEL)
    assert np.mean(found) == pytest.approx(6 / np.pi * np.arcsin(correlation / 2), abs=0.025)
    assert sure > (170 if abs(correlation) >= 0.5 else 80)  # of 200


def test_predictions_of_other_folds_are_right_and_noise_predicts_nothing() -> None:
    rng = np.random.default_rng(8)
    said, nothing = [], []
    for _ in range(200):
        x, noise = rng.normal(size=(2, N))
        said.append(spearman(predicted(x + noise, [x], LAYER), x + noise))
        nothing.append(spearman(predicted(noise, [x, x**2], LAYER), noise))
    assert np.mean(said) == pytest.approx(6 / np.pi * np.arcsin(np.sqrt(0.5) / 2), abs=0.03)
    # Numbers that say nothing must hardly seem to say the opposite, as the means of other folds alone would.
    other_means = spearman(np.array([noise[LAYER != each].mean() for each in LAYER]), noise)
    assert other_means < -0.2 < -0.08 < np.mean(nothing) < 0.08
