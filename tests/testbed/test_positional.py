"""Factoring wanted attention into positional embeddings and query-key weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens import testbed
from resonance_lens.testbed.circuit import SHARPNESS, causal_softmax
from tests.testbed import plain_transformer

shapes = st.tuples(st.integers(1, 3), st.integers(3, 14), st.integers(0, 2**32 - 1))


@given(shape=shapes, share=st.floats(0.05, 1.0))
def test_the_residual_is_bounded_by_what_is_left_out(shape: tuple[int, int, int], share: float) -> None:
    n_heads, n, seed = shape
    scores = np.random.default_rng(seed).normal(0, 3, (n_heads, n, n))
    rank = max(1, round(share * n))
    factors = testbed.factor(scores, rank)
    given_scores = (
        (factors.positions @ factors.W_Q)
        @ np.swapaxes(factors.positions @ factors.W_K, 1, 2)
        / math.sqrt(factors.W_Q.shape[-1])
    )
    assert factors.W_Q.shape == factors.W_K.shape == (n_heads, factors.positions.shape[1], rank)
    assert np.allclose(factors.positions.T @ factors.positions, np.eye(factors.positions.shape[1]))
    assert np.allclose(given_scores, factors.scores, atol=1e-9)
    # Eckart and Young: per head, in the sum of squares and in the spectral norm.
    values = np.linalg.svd(scores, compute_uv=False)
    left_out = values[:, rank:]
    error = factors.scores - scores
    assert np.allclose((error**2).sum((1, 2)), (left_out**2).sum(-1), atol=1e-8)
    largest = left_out[:, 0].max() if rank < n else 0.0
    assert factors.residual == pytest.approx(abs(error).max())
    assert factors.residual <= largest + 1e-8
    assert (np.linalg.matrix_rank(factors.scores, tol=1e-8) <= rank).all()


@given(shape=shapes)
def test_without_a_rank_the_scores_are_exact(shape: tuple[int, int, int]) -> None:
    n_heads, n, seed = shape
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, n + 1))
    scores = rng.normal(size=(n_heads, n, rank)) @ rng.normal(size=(n_heads, rank, n))
    factors = testbed.factor(scores)
    assert factors.W_Q.shape[-1] == rank
    assert factors.residual < 1e-9


def test_scores_of_nothing() -> None:
    factors = testbed.factor(np.zeros((2, 5, 5)))
    assert not factors.scores.any() and factors.residual == 0
    assert np.isfinite(factors.W_Q).all()


@given(n=st.integers(2, 20), seed=st.integers(0, 2**32 - 1), zeros=st.floats(0, 0.9))
def test_scores_of_a_pattern_give_it_back(n: int, seed: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    pattern = np.tril(rng.uniform(0.01, 1, (n, n)) * (rng.uniform(size=(n, n)) >= zeros))
    pattern[pattern.sum(-1) == 0, 0] = 1.0
    pattern /= pattern.sum(-1, keepdims=True)
    assert abs(causal_softmax(testbed.scores_of(pattern)) - pattern).max() < n * math.exp(-SHARPNESS) * 1.01


def test_a_row_of_zeros_becomes_even() -> None:
    scores = testbed.scores_of(np.zeros((4, 4)))
    assert np.allclose(causal_softmax(scores), np.tri(4) / np.arange(1, 5)[:, None])


@given(n=st.integers(8, 80), lag=st.integers(1, 4), half=st.integers(2, 8))
def test_delay_scores(n: int, lag: int, half: int) -> None:
    rank = min(2 * half, (n - 2) // 2 * 2)
    scores = testbed.delay_scores(n, lag, rank)
    assert np.linalg.matrix_rank(scores, tol=1e-6 * abs(scores).max()) == rank
    attention = causal_softmax(scores)
    for query in range(lag, n):
        assert attention[query, query - lag] == attention[query].max() > 0.999
    peak = scores[n - 1, n - 1 - lag]
    assert peak - scores[n - 1, n - lag] == pytest.approx(SHARPNESS)
    assert peak - np.delete(scores[n - 1], n - 1 - lag).max() == pytest.approx(SHARPNESS)


def test_the_previous_token_head() -> None:
    circuit = testbed.load_circuit("previous_token")
    pattern = circuit.patterns(list(range(16)) * 4)[0]
    assert abs(pattern[0, 1:] - np.eye(64)[:-1]).max() < 1e-6
    assert abs(pattern[0, 0, 0] - 1) < 1e-12
    assert circuit.truth["pattern_residual"] < 1e-6
    row = circuit.tokens(np.random.default_rng(0), 1, 40)[0]
    logits = plain_transformer.run(circuit.shape, circuit.weights, row)["logits", 0]
    # Two heads of gain 2: twice the token before, and twice the mean of all.
    counts = np.cumsum(np.eye(16)[row], axis=0) / np.arange(1, 41)[:, None]
    before = np.eye(16)[[row[0], *row[:-1]]]
    assert np.allclose(logits, np.eye(16)[row] + 2 * before + 2 * counts, atol=1e-5)


@pytest.mark.parametrize(
    "kernels", [[[1, 1, 1]], [[0, 0, 0.2, 0.8], [0.5**d for d in range(10)]], [[1, 0, 3]]]
)
def test_kernels_are_causal_filters(kernels: list[list[float]]) -> None:
    circuit = testbed.load_circuit("lag_kernels", kernels=kernels, n_ctx=24)
    row = circuit.tokens(np.random.default_rng(1), 1, 24)[0]
    pattern = circuit.patterns(row)[0]
    for head, kernel in enumerate(kernels):
        for query in range(24):
            weights = [kernel[query - key] if query - key < len(kernel) else 0.0 for key in range(query + 1)]
            total = sum(weights)
            wanted = [w / total for w in weights] if total else [1 / (query + 1)] * (query + 1)
            assert abs(pattern[head, query, : query + 1] - wanted).max() < 1e-5
    signal = np.eye(16)[row]
    logits = plain_transformer.run(circuit.shape, circuit.weights, row)["logits", 0]
    last = signal[-1] + sum(
        np.array(kernel) @ signal[::-1][: len(kernel)] / sum(kernel) for kernel in kernels
    )
    assert np.allclose(logits[-1], last, atol=1e-4)
    for head, kernel in enumerate(kernels):
        assert circuit.truth["kernels"][f"0.{head}"] == pytest.approx(np.array(kernel) / sum(kernel))


def test_sinks_hold_their_mass() -> None:
    circuit = testbed.load_circuit("sinks", masses=[0.05, 0.5, 0.99])
    pattern = circuit.patterns([0] * 64)[0]
    for head, mass in enumerate([0.05, 0.5, 0.99]):
        assert circuit.truth["sink_mass"][f"0.{head}"] == mass
        assert np.allclose(pattern[head, 1:, 0], mass, atol=1e-9)
        for query in range(1, 64):
            assert np.allclose(pattern[head, query, 1 : query + 1], (1 - mass) / query, atol=1e-9)
