"""Where the truth is planted, sweeps find it, and nothing else more often than the level says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.pairs import PromptPairs
from resonance_lens.stats.streams import stream
from resonance_lens.testbed.circuit import Circuit
from tests.models import hosts
from tests.patching.small_pairs import induction_pairs, random_pairs
from tests.reference_transformer import GPT2

pytestmark = pytest.mark.host

LEVEL = 0.05
SEEDS = range(5)

COPYING = ("previous_token", "lag_kernels", "sinks", "opposed_pair")
"""Circuits of one layer whose heads add what they look at to the logits, as it is or negated."""


def found(data: Any, name: str = "effect") -> set[str]:
    """Return the targets that are found at `LEVEL`."""
    return set(data.target.values[(data[f"{name}_q"] <= LEVEL).values[0]].tolist())


def changed_token(circuit: Circuit, rng: np.random.Generator, n_pairs: int = 10) -> tuple[PromptPairs, Any]:
    """Return pairs of which one token before the last differs, with it as the answer; and where it stands."""
    length, n_tokens = 20, circuit.shape.d_vocab
    clean = circuit.tokens(rng, n_pairs, length)
    at = rng.integers(length - 9, length - 1, size=n_pairs)
    corrupted, right, wrong = [], [], []
    for row, place in zip(clean, at, strict=True):
        answer, other = (int(token) for token in rng.permutation(n_tokens)[:2])
        row[place] = answer
        corrupted.append([*row[:place], other, *row[place + 1 :]])
        right.append(answer)
        wrong.append(other)
    pairs = PromptPairs(
        name="changed", clean=clean, corrupted=corrupted, right=np.array(right), wrong=np.array(wrong)
    )
    return pairs, at


@pytest.mark.parametrize("host", hosts(), ids=str)
@pytest.mark.parametrize("name", COPYING)
def test_every_head_has_the_effect_that_its_planted_attention_says(host: Any, name: str) -> None:
    circuit = testbed.load_circuit(name)
    pairs, at = changed_token(circuit, stream(0, name))
    data = rl.patch(circuit.model(host.name), pairs, controls=("placebo",), progress=False).data
    # A head takes the changed token from where it stands, once for the right answer and once for the wrong.
    heads = range(circuit.shape.n_heads)
    read, write = (circuit.weights[f"blocks.0.attn.W_{name}"] for name in "VO")
    gain = np.array([(read[head] @ write[head])[0, 0] for head in heads])
    expected = [
        2 * gain * circuit.patterns(row)[0, :, -1, place] for row, place in zip(pairs.clean, at, strict=True)
    ]
    effect = (data.metric - data.metric_base).values[0]
    np.testing.assert_allclose(effect, np.transpose(expected), atol=1e-5)


@pytest.mark.parametrize("operation", ["patch", "mean_ablate", "zero_ablate"])
def test_the_induction_circuit_is_found_and_nothing_else(operation: str) -> None:
    model = testbed.load_circuit("induction").model()
    for seed in SEEDS:
        pairs = induction_pairs(seed)
        data = rl.patch(model, pairs, operation=operation, progress=False, seed=seed).data
        # What a head copies decides the answer of the corrupted prompt; without the head before it, which
        # says what came before each token, the induction head finds no match.
        causes = {"L1H0"} if operation == "patch" else {"L0H0", "L1H0"}
        assert found(data) == causes
        bounds = data.effect_beyond_low if operation == "patch" else -data.effect_beyond_high
        assert set(data.target.values[(bounds > 2).values[0]].tolist()) == causes
        strongest = data.effect.sel(target="L1H0").item()
        assert strongest == pytest.approx(8.0 if operation == "patch" else -4.0, abs=0.2)
        assert float(data.others.sel(target="L1H1").item()) == pytest.approx(strongest)


def test_the_induction_circuit_by_position_and_pattern() -> None:
    model, pairs = testbed.load_circuit("induction").model(), induction_pairs()
    targets = [
        rl.Target(site="z", layer=1, head=0, positions=(at,), score=0.0, reason="test") for at in (-1, -2, 0)
    ]
    data = rl.patch(model, pairs, targets, progress=False).data
    assert found(data) == {"L1H0 @-1"}
    uniform = rl.patch(model, pairs, "pattern", operation="uniform", progress=False).data
    assert found(uniform) == {"L0H0", "L1H0"}  # the others look everywhere anyway


def test_heads_that_look_at_other_marks_are_not_found() -> None:
    circuit = testbed.load_circuit("locked")
    model = circuit.model()
    for seed in SEEDS:
        pairs = marked_pairs(circuit, stream(seed, "marks"))
        data = rl.patch(model, pairs, controls=(), progress=False, seed=seed).data
        assert found(data) == {"L1H0"}  # the one that looks at mark 2
        assert abs(data.effect.sel(target=["L0H0", "L0H1", "L1H1"])).max() < 1e-4


def marked_pairs(circuit: Circuit, rng: np.random.Generator, n_pairs: int = 10) -> PromptPairs:
    """Return pairs that differ in what the token with mark 2 says, where mark 1 came before it."""
    clean: list[list[int]] = []
    corrupted, right, wrong = [], [], []
    while len(clean) < n_pairs:
        (row,) = circuit.tokens(rng, 1, 20)
        first, second, third = (next(i for i, token in enumerate(row) if token & mark) for mark in (1, 2, 4))
        if not first < second or second == third:
            continue
        content = row[second] // 8
        other = (content + 1 + int(rng.integers(3))) % 4
        clean.append(row)
        corrupted.append([*row[:second], row[second] + 8 * (other - content), *row[second + 1 :]])
        right.append(8 * content)
        wrong.append(8 * other)
    return PromptPairs(
        name="marks", clean=clean, corrupted=corrupted, right=np.array(right), wrong=np.array(wrong)
    )


def test_answers_that_have_nothing_to_do_with_the_prompts_are_found_no_more_often_than_the_level() -> None:
    """Prompts and answers can be exchanged, so that any effect is as likely as its opposite."""
    model = hosts()[0].build(GPT2)
    n_seeds = 24
    hits = 0
    for seed in range(n_seeds):
        pairs = random_pairs(seed, lengths=(8,) * 12)
        data = rl.patch(model, pairs, controls=(), progress=False, seed=seed).data
        assert data.sizes["target"] == 12
        hits += bool(found(data))
    assert hits <= stats.binom.ppf(0.995, n_seeds, LEVEL)
