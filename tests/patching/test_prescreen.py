"""The first pass by gradient: which targets it chooses, and what is said of how well it agrees."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import resonance_lens as rl
from resonance_lens.errors import ParameterError
from resonance_lens.patching.prescreen import Agreement, Screened, agreement, screen
from tests.models import build
from tests.patching.by_transformer_lens import random_pairs
from tests.reference_transformer import LLAMA

N_TARGETS, N_PAIRS = 40, 16
LABELS = [f"L0H{index}" for index in range(N_TARGETS)]
Floats = NDArray[np.float64]


def rows(means: Any, noise: float, seed: int = 0) -> Floats:
    """Return values around their means ``[target, pair]``."""
    rng = np.random.default_rng(seed)
    return np.asarray(means)[:, None] + noise * rng.normal(size=(len(means), N_PAIRS))


def effects() -> Floats:
    return np.random.default_rng(0).standard_t(2, size=N_TARGETS)


# ------------------------------------------------------------------------------------------- the choice


def test_the_largest_are_chosen_whatever_their_sign() -> None:
    means = np.array([0.1, -3.0, 0.0, 2.0, -0.2, 1.0])
    chosen = screen(rows(means, 0.0), 2, 0)
    assert chosen.top.tolist() == [1, 3]
    assert len(chosen.sample) == 2 and not set(chosen.sample) & {1, 3}
    assert chosen.confirmed.tolist() == sorted({1, 3, *chosen.sample.tolist()})


def test_the_sample_depends_on_the_seed_alone() -> None:
    estimates = rows(effects(), 0.1)
    draws = [screen(estimates, 8, seed, "patch").sample.tolist() for seed in range(60)]
    assert screen(estimates, 8, 3, "patch").sample.tolist() == draws[3]
    assert len({tuple(draw) for draw in draws}) > 50
    # Every one of the 32 others is as likely as any other.
    counts = np.bincount(np.concatenate(draws), minlength=N_TARGETS)
    others = np.setdiff1d(np.arange(N_TARGETS), screen(estimates, 8, 0).top)
    assert counts[others].sum() == counts.sum()
    assert stats.chisquare(counts[others]).pvalue > 1e-3


def test_no_more_others_than_there_are() -> None:
    chosen = screen(rows(effects()[:5], 0.1), 4, 0)
    assert (len(chosen.top), len(chosen.sample)) == (4, 1)
    assert len(screen(rows(effects()[:5], 0.1), 5, 0).sample) == 0


@pytest.mark.parametrize("k", [0, 41, -1, 2.0, True])
def test_a_number_out_of_range_is_refused(k: Any) -> None:
    with pytest.raises(
        ParameterError, match="'prescreen' parameter of patch must be an integer from 1 to 40"
    ):
        screen(rows(effects(), 0.1), k, 0)


# ---------------------------------------------------------------------------------------- the agreement


def test_estimates_that_are_right_agree() -> None:
    exact = rows(effects(), 0.01)
    chosen = screen(exact, 8, 0)
    found = agreement(exact, exact, chosen, LABELS)
    assert found.rank_correlation == pytest.approx(1)
    assert found.rank_correlation_of_sample == pytest.approx(1)
    assert (found.overlap, found.relative_error) == (1, 0)
    assert (found.wrong, found.missed) == ((), ())
    assert (found.k, found.confirmed, found.of) == (8, 40, 40)
    assert "over all targets" in found.sentence()


def test_only_what_was_patched_counts() -> None:
    estimates, exact = rows(effects(), 2.0, 1), rows(effects(), 2.0, 2)
    chosen = screen(estimates, 8, 0)
    known = np.full_like(exact, np.nan)
    known[chosen.confirmed] = exact[chosen.confirmed]
    found = agreement(estimates, known, chosen, LABELS)
    some = chosen.confirmed
    expected = stats.spearmanr(estimates[some].mean(1), exact[some].mean(1)).statistic
    assert found.rank_correlation == pytest.approx(expected)
    of_sample = stats.spearmanr(estimates[chosen.sample].mean(1), exact[chosen.sample].mean(1)).statistic
    assert found.rank_correlation_of_sample == pytest.approx(of_sample)
    assert found.low < expected < found.high
    assert (found.confirmed, found.of) == (16, 40)
    assert "over 16 of 40 targets" in found.sentence()


def test_wrong_ones_are_named() -> None:
    means = effects()
    order = np.argsort(-np.abs(means))
    exact = means.copy()
    exact[order[1]] *= -1  # the other sign
    exact[order[3]] = 0.0  # no effect
    estimates = rows(means, 0.001)
    chosen = screen(estimates, 6, 0)
    exact[chosen.sample[0]] = 50.0  # missed
    found = agreement(estimates, rows(exact, 0.001), chosen, LABELS)
    assert set(found.wrong) == {LABELS[order[1]], LABELS[order[3]]}
    assert found.missed == (LABELS[chosen.sample[0]],)
    assert found.overlap == pytest.approx(5 / 6)
    top = chosen.top
    expected = np.abs(means[top] - exact[top]).sum() / np.abs(exact[top]).sum()
    assert found.relative_error == pytest.approx(expected, rel=1e-2)
    for name in (*found.wrong, *found.missed):
        assert name in found.sentence()


def test_the_interval_covers_what_more_pairs_would_show() -> None:
    means = effects()
    estimated = means + 0.4 * np.abs(means) * np.random.default_rng(5).normal(size=N_TARGETS)
    truth = stats.spearmanr(means, estimated).statistic
    covered = 0
    for seed in range(200):
        shared = rows(np.zeros(N_TARGETS), 0.4, seed)
        estimates, exact = (
            estimated[:, None] + shared,
            means[:, None] + shared + rows(0 * means, 0.2, 999 + seed),
        )
        found = agreement(estimates, exact, Screened(np.arange(5), np.arange(5, 10)), LABELS)
        covered += found.low <= truth <= found.high
    assert covered >= 180


def test_few_targets_or_pairs_have_no_interval() -> None:
    exact = rows(effects(), 0.1)
    one = Screened(np.array([0]), np.array([1]))
    found = agreement(exact[:2], exact[:2], one, LABELS[:2])
    assert np.isnan(found.rank_correlation)
    found = agreement(exact[:, :1], exact[:, :1], one, LABELS)
    assert found.rank_correlation == pytest.approx(1) and np.isnan(found.low)


# -------------------------------------------------------------------------------------------- in a sweep


@cache
def swept() -> Any:
    return rl.patch(build(LLAMA), random_pairs(8), prescreen=4, controls=("placebo",), progress=False)


def test_the_top_and_a_sample_are_patched_exactly() -> None:
    whole = rl.patch(build(LLAMA), random_pairs(8), controls=(), progress=False).data
    data = swept().data
    known = data.effect[0].notnull()
    assert int(known.sum()) == 8
    np.testing.assert_allclose(data.effect[0][known], whole.effect[0][known], atol=1e-5)
    order = np.argsort(-np.abs(data.attribution[0].values))
    assert known.values[order[:4]].all()


def test_the_agreement_is_in_the_result() -> None:
    result = swept()
    (found,) = result.provenance["attribution"]
    assert found["k"] == 4 and found["confirmed"] == 8 and found["of"] == LLAMA.n_layers * LLAMA.n_heads
    names = {name for name in Agreement.__dataclass_fields__}
    assert set(found) == names
    assert "Attribution agrees with exact patching over 8 of 12 targets" in result.summary


@pytest.mark.parametrize("name", ["effect", "effect_beyond"])
def test_chosen_targets_are_tested_among_all(name: str) -> None:
    """The largest of many are no find: q is no less than that of Bonferroni over all that were screened."""
    data = swept().data
    known = data.effect[0].notnull()
    p, q = data[f"{name}_p"][0][known], data[f"{name}_q"][0][known]
    assert q.notnull().all()
    assert (q >= np.minimum(1, p * data.sizes["target"]) - 1e-12).all()
    assert "of all targets" in swept().methods
