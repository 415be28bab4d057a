"""The effects that truth states, against definitions written out as loops and random permutations."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from resonance_lens.dsp import attention, circular
from resonance_lens.testbed import expectation
from resonance_lens.testbed.circuit import causal_softmax

Array = NDArray[np.float64]


def planted(n: int = 11, n_prompts: int = 4, n_heads: int = 3) -> Array:
    """Return attention of random scores, different in each prompt."""
    return causal_softmax(np.random.default_rng(5).normal(0, 2, (n_prompts, 2, n_heads, n, n)))


def row_of(row: Array, query: int, drop: bool) -> list[tuple[int, float]]:
    """Return the keys of a query with their weights, with the first key or without it."""
    keys = range(1 if drop else 0, query + 1)
    total = sum(row[key] for key in keys)
    return [(key, row[key] / total) for key in keys]


def phasor(row: list[tuple[int, float]]) -> complex:
    first = row[0][0]
    return sum(weight * cmath.exp(2j * math.pi * (key - first) / len(row)) for key, weight in row)


def permuted(rng: np.random.Generator, row: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the weights on the keys in random order; the first key of the prompt keeps its own."""
    fixed = [entry for entry in row if entry[0] == 0]
    free = [entry for entry in row if entry[0] > 0]
    weights = rng.permutation([weight for _, weight in free])
    return [*fixed, *((key, weight) for (key, _), weight in zip(free, weights, strict=True))]


@pytest.mark.parametrize("first_position", ["keep", "drop"])
def test_effects_of_heads(first_position: str) -> None:
    patterns = planted()
    stated = expectation.claims(patterns, (), ())
    rng = np.random.default_rng(0)
    n_draws = 400
    for layer, head in ((0, 0), (1, 2)):
        squared, back, draws = [], [], []
        for prompt in range(len(patterns)):
            for query in range(expectation.MIN_KEYS - 1, patterns.shape[-1]):
                row = row_of(patterns[prompt, layer, head, query], query, first_position == "drop")
                squared.append(abs(phasor(row)) ** 2)
                back.append(sum(weight * (query - key) for key, weight in row))
                shuffled = [permuted(rng, row) for _ in range(n_draws)]
                draws.append(
                    [
                        (abs(phasor(each)) ** 2, sum(weight * (query - key) for key, weight in each))
                        for each in shuffled
                    ]
                )
        null = np.mean(draws, axis=(0, 1))
        error = np.std(np.mean(draws, axis=0), axis=0) / math.sqrt(n_draws)
        for claim, value, k in (
            ("phase_coherence.coherence_squared", np.mean(squared), 0),
            ("attention_entropy.distance", np.mean(back), 1),
        ):
            effect = stated[claim][first_position]["effect"][layer][head]
            assert abs(effect - (value - null[k])) < 5 * error[k] + 1e-6
            assert error[k] < 0.05 * stated[claim]["minimum_effect"] * (20 if k == 0 else 1)


@pytest.mark.parametrize("first_position", ["keep", "drop"])
def test_effect_of_layers(first_position: str) -> None:
    patterns = planted()
    n_prompts, n_layers, n_heads, n, _ = patterns.shape
    for layer in range(n_layers):
        within: list[float] = []
        across: list[float] = []
        for query in range(expectation.MIN_KEYS - 1, n):
            angles = [
                [
                    cmath.phase(phasor(row_of(patterns[p, layer, h, query], query, first_position == "drop")))
                    for h in range(n_heads)
                ]
                for p in range(n_prompts)
            ]
            for p in range(n_prompts):
                for q in range(n_prompts):
                    for g in range(n_heads):
                        for h in range(n_heads):
                            if g != h:
                                (within if p == q else across).append(math.cos(angles[p][g] - angles[q][h]))
        effect = expectation.claims(patterns, (), ())["head_sync.consistency"][first_position]["effect"]
        assert effect[layer] == pytest.approx(np.mean(within) - np.mean(across), abs=1e-6)


def test_limits_are_those_of_the_analyses() -> None:
    assert expectation.SMALLEST_FREE_WEIGHT == attention.SMALLEST_FREE_WEIGHT
    assert expectation.SMALLEST_RESULTANT == circular.SMALLEST_RESULTANT


def test_what_is_said_to_be_nothing_has_no_effect() -> None:
    found = expectation.claims(planted(), [(0, 1)], [1])
    part = found["phase_coherence.coherence_squared"]["drop"]
    assert part["nothing"] == [[0, 1]] and part["effect"][0][1] == 0 != part["effect"][0][0]
    part = found["head_sync.consistency"]["drop"]
    assert part["nothing"] == [[1]] and part["effect"][1] == 0 != part["effect"][0]


def test_a_head_that_rests_on_the_first_key_has_no_value_without_it() -> None:
    patterns = planted()
    patterns[:, 0, 0] = np.eye(patterns.shape[-1])[0]
    found = expectation.claims(patterns, (), ())["attention_entropy.distance"]
    assert found["drop"]["effect"][0][0] is None and found["keep"]["effect"][0][0] is not None
    assert [0, 0] not in found["drop"]["finds"] + found["drop"]["nothing"]


def test_prompts_that_are_too_short() -> None:
    assert expectation.claims(planted(n=expectation.MIN_KEYS - 1), (), ()) == {}
    one_head = expectation.claims(planted(n_heads=1), (), ())
    assert "head_sync.consistency" not in one_head and len(one_head) == 2
