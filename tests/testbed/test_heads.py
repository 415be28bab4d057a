"""What the induction, rotary, locked and idle circuits are made for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from resonance_lens import testbed
from resonance_lens.testbed.circuit import causal_softmax
from tests.models import hosts

each_host = pytest.mark.parametrize("host", [host.name for host in hosts()])

# --------------------------------------------------------------------------------------- induction


@pytest.mark.host
@each_host
@pytest.mark.parametrize("length", [9, 48, 63])
def test_induction_solves_repeated_random_tokens(host: str, length: int) -> None:
    circuit = testbed.load_circuit("induction")
    rows = torch.tensor(circuit.tokens(np.random.default_rng(0), 50, length))
    half = length // 2
    assert (rows[:, 0] == 0).all() and (rows[:, 1:] > 0).all()
    assert all(len(set(row[1 : half + 1].tolist())) == half for row in rows)
    with torch.no_grad():
        said = circuit.model(host=host)(rows).argmax(-1)
    # The first token of the second half is a surprise; from it on, every next one is known.
    right = (said[:, half + 1 : -1] == rows[:, half + 2 :]).double().mean()
    assert float(right) == circuit.truth["accuracy"] == 1.0
    before = (said[:, 1:half] == rows[:, 2 : half + 1]).double().mean()
    assert float(before) < 0.1


def test_the_two_heads_of_induction() -> None:
    circuit = testbed.load_circuit("induction")
    row = circuit.tokens(np.random.default_rng(2), 1, 41)[0]
    half = 20
    attention = circuit.patterns(row)
    previous, found = attention[0, 0], attention[1, 0]
    assert abs(np.diagonal(previous, -1) - 1).max() < 1e-6
    for query in range(half + 1, 41):
        assert found[query, query - half + 1] > 1 - 1e-4
    assert (found[1 : half + 1, 0] > 1 - 1e-4).all()


@pytest.mark.host
@each_host
def test_without_its_first_layer_induction_fails(host: str) -> None:
    """Head 0.0 writes what head 1.0 looks for: the composition is causal, not a coincidence."""
    circuit = testbed.load_circuit("induction")
    rows = torch.tensor(circuit.tokens(np.random.default_rng(0), 20, 49))

    def silence(z: torch.Tensor, hook: object) -> torch.Tensor:
        kept = z.clone()
        kept[:, :, 0] = 0
        return kept

    with torch.no_grad():
        said = circuit.model(host=host).run_with_hooks(rows, fwd_hooks=[("blocks.0.attn.hook_z", silence)])
    assert float((said.argmax(-1)[:, 25:-1] == rows[:, 26:]).double().mean()) < 0.1


# ------------------------------------------------------------------------------------------ rotary


def test_rotary_scores_are_sums_of_cosines() -> None:
    terms = [[(0, 2.0, 0.3), (3, 5.0, -1.0)], [(1, 7.0, 0.0)]]
    circuit = testbed.load_circuit("rotary", base=100, dims=8, heads=terms)
    frequencies = [100 ** (-2 * k / 8) / (2 * math.pi) for k in range(4)]
    assert circuit.truth["frequencies"] == pytest.approx(frequencies)
    attention = circuit.patterns([0] * 64)[0]
    for head, parts in enumerate(terms):
        by_lag = np.array(
            [
                sum(a * math.cos(2 * math.pi * frequencies[k] * lag + p) for k, a, p in parts)
                for lag in range(64)
            ]
        )
        for query in (0, 1, 20, 63):
            scores = by_lag[: query + 1][::-1]
            wanted = np.exp(scores) / np.exp(scores).sum()
            assert np.allclose(attention[head, query, : query + 1], wanted, atol=1e-9)
        kernel = np.exp(by_lag) / np.exp(by_lag).sum()
        assert circuit.truth["kernels"][f"0.{head}"] == pytest.approx(kernel)


def test_a_rotation_by_one_step_moves_the_peak_by_one_lag() -> None:
    step = 100 ** (-2 / 8)  # the second pair
    circuit = testbed.load_circuit("rotary", base=100, dims=8, heads=[[(1, 9.0, 0.0)], [(1, 9.0, -step)]])
    attention = circuit.patterns([0] * 12)[0]
    assert [int(attention[head, 11].argmax()) for head in (0, 1)] == [11, 10]


# ------------------------------------------------------------------------------------------ locked


def test_locked_heads_follow_one_mark() -> None:
    circuit = testbed.load_circuit("locked")
    rows = circuit.tokens(np.random.default_rng(0), 200, 48)
    places = np.array([[[int(t) >> mark & 1 for t in row].index(1) for mark in range(3)] for row in rows])
    assert all(sum(int(t) >> mark & 1 for t in row) == 1 for row in rows for mark in range(3))
    assert places.min() == 1 and places.max() == 23
    for row, place in zip(rows[:20], places, strict=False):
        attention = circuit.patterns(row)
        for (layer, head), mark in {(0, 0): 0, (0, 1): 0, (1, 0): 1, (1, 1): 2}.items():
            assert (attention[layer, head, place[mark] :, place[mark]] > 1 - 1e-4).all()
            early = attention[layer, head, : place[mark]]
            assert np.allclose(early, causal_softmax(np.zeros((48, 48)))[: place[mark]])
    assert [circuit.truth["locked_pairs"]] == [[[[0, 0], [0, 1]]]]
    # Marks stand independently of each other: no pair of places is correlated at the 1 % level.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert stats.pearsonr(places[:, a], places[:, b]).pvalue > 0.01


def test_only_the_locked_layer_is_in_step() -> None:
    part = testbed.load_circuit("locked").truth["claims"]["head_sync.consistency"]["drop"]
    assert part["finds"] == [[0]] and part["nothing"] == [[1]]
    assert part["effect"][0] > 0.5


# -------------------------------------------------------------------------------------------- idle


def test_keys_of_the_idle_model_are_exchangeable() -> None:
    """No place in the window holds more than another: one test over models and prompts.

    For each of 40 seeds, one prompt: the rank of the newest key, of the query's own place therefore,
    and of the oldest among the keys of the last query is uniform if keys are exchangeable (ties broken
    at random). Kolmogorov and Smirnov at the level .001, for each head and place: 8 tests, so that a
    false alarm happens to less than one in a hundred choices of seeds.
    """
    length, n_seeds = 30, 40
    rng = np.random.default_rng(0)
    ranks: dict[tuple[int, int, int], list[float]] = {}
    for seed in range(n_seeds):
        circuit = testbed.load_circuit("idle", seed=seed)
        row = circuit.tokens(np.random.default_rng([1, seed]), 1, length)[0]
        attention = circuit.patterns(row)
        for layer in range(2):
            for head in range(2):
                last = attention[layer, head, -1]
                order = np.lexsort((rng.uniform(size=length), np.round(last, 12)))
                rank = np.empty(length)
                rank[order] = (np.arange(length) + rng.uniform(size=length)) / length
                for place in (0, length - 1):
                    ranks.setdefault((layer, head, place), []).append(float(rank[place]))
    assert len(ranks) == 8 and all(len(each) == n_seeds for each in ranks.values())
    assert min(stats.kstest(each, "uniform").pvalue for each in ranks.values()) > 0.001


def test_a_model_with_positions_is_not_exchangeable_by_the_same_test() -> None:
    """The test above can fail: a moving average is found at once."""
    circuit = testbed.load_circuit("lag_kernels")
    ranks = []
    for seed in range(40):
        row = circuit.tokens(np.random.default_rng(seed), 1, 30)[0]
        last = circuit.patterns(row)[0, 1, -1]
        ranks.append(float((last < last[-1]).mean()))
    assert stats.kstest(ranks, "uniform").pvalue < 1e-9


def test_effects_of_the_idle_model_vanish_over_prompts() -> None:
    """Exactly exchangeable, not nearly: over 1,000 prompts the mean effects are within 3.5 errors of zero."""
    from resonance_lens.testbed.expectation import _distance, _mean_over_queries, _rows, _squared_resultant

    circuit = testbed.load_circuit("idle", seed=3)
    rows = circuit.tokens(np.random.default_rng(8), 1000, 20)
    planted = np.stack([circuit.patterns(row) for row in rows])
    for drop in (False, True):
        kept, counts = _rows(planted, drop)
        for value, null in (_squared_resultant(kept), _distance(kept)):
            effects = _mean_over_queries(value - null, counts)
            t = effects.mean(0) / (effects.std(0) / math.sqrt(len(rows)))
            assert abs(t).max() < 3.5


def test_scores_of_the_idle_model_have_the_spread_that_is_asked_for() -> None:
    """Log ratios of attention weights are differences of scores: twice their variance."""
    for spread in (0.3, 1.5):
        circuit = testbed.load_circuit("idle", spread=spread)
        rows = circuit.tokens(np.random.default_rng(0), 400, 3)
        differences = np.array([np.diff(np.log(circuit.patterns(row)[..., 2, :2])) for row in rows])
        assert math.sqrt((differences**2).mean() / 2) == pytest.approx(spread, rel=0.15)
