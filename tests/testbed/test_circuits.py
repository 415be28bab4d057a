"""Every circuit is what it says: its attention, its truth, its prompts, and how it is loaded."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens import testbed
from resonance_lens.errors import ModelError, ParameterError
from resonance_lens.testbed.expectation import MINIMUM_EFFECTS, claims
from resonance_lens.testing import check_model
from tests.models import hosts
from tests.testbed import plain_transformer

NAMES = [circuit.name for circuit in testbed.list_circuits()]
OTHERS: dict[str, dict[str, Any]] = {
    "previous_token": {"n_ctx": 30, "lag": 3, "rank": 8},
    "lag_kernels": {"n_ctx": 20, "kernels": [[0, 0, 1, 2.5], [1]], "gains": [0.5, -1]},
    "opposed_pair": {"n_ctx": 30, "decay": 0.7, "frequency": 0.2},
    "sinks": {"n_ctx": 12, "masses": [0.01]},
    "content_rule": {"n_ctx": 20, "n_tokens": 4, "sharpness": 3.0},
    "induction": {"n_ctx": 40, "n_tokens": 12},
    "rotary": {"n_ctx": 40, "base": 16, "dims": 4, "heads": [[(1, 3.0, 0.5), (0, 1.0, -2.0)], []]},
    "locked": {"n_ctx": 30, "n_contents": 2, "sharpness": 4.0},
    "band_locked": {"n_ctx": 40, "frequency": 0.3, "levels": 8},
    "delay_chain": {"n_ctx": 24, "n_layers": 2, "gain": -0.7},
    "alternating": {"n_ctx": 20},
    "limiter": {"n_ctx": 20, "level": 0.3},
    "idle": {"n_ctx": 20, "n_layers": 1, "n_heads": 3, "values": 3, "spread": 0.5, "seed": 7},
}
"""Parameters other than the defaults."""

CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in NAMES), *OTHERS.items()]
each_case = pytest.mark.parametrize(
    ("name", "parameters"), CASES, ids=[f"{name}-{'other' if p else 'default'}" for name, p in CASES]
)
each_host = pytest.mark.parametrize("host", [host.name for host in hosts()])


def rows_of(circuit: testbed.Circuit, n_prompts: int = 3) -> list[list[int]]:
    length = min(circuit.default_length, circuit.shape.n_ctx)
    return circuit.tokens(np.random.default_rng(3), n_prompts, length)


@cache
def loaded(name: str) -> testbed.Circuit:
    return testbed.load_circuit(name)


@each_case
def test_planted_attention_is_what_the_weights_give(name: str, parameters: dict[str, Any]) -> None:
    circuit = testbed.load_circuit(name, **parameters)
    for row in rows_of(circuit, 2):
        planted = circuit.patterns(row)
        found = plain_transformer.run(circuit.shape, circuit.weights, row)
        computed = np.stack([found["pattern", layer] for layer in range(circuit.shape.n_layers)])
        assert planted.shape == computed.shape
        assert abs(planted - computed).max() < 1e-9
        assert np.allclose(planted.sum(-1), 1) and not np.triu(planted, 1).any()


@pytest.mark.host
@each_host
@each_case
def test_every_host_shows_the_planted_attention(host: str, name: str, parameters: dict[str, Any]) -> None:
    circuit = testbed.load_circuit(name, **parameters)
    model = circuit.model(host=host)
    rows = rows_of(circuit)
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor(rows))
    for number, row in enumerate(rows):
        planted = circuit.patterns(row)
        found = plain_transformer.run(circuit.shape, circuit.weights, row)
        for layer in range(circuit.shape.n_layers):
            measured = cache[f"blocks.{layer}.attn.hook_pattern"][number].double().numpy()
            assert abs(measured - planted[layer]).max() < 2e-5
        wanted = found["logits", circuit.shape.n_layers - 1]
        assert abs(logits[number].double().numpy() - wanted).max() < 1e-3


@pytest.mark.host
@each_host
@pytest.mark.parametrize("name", NAMES)
def test_measured_attention_gives_the_effects_of_the_truth(host: str, name: str) -> None:
    circuit = loaded(name)
    truth = circuit.truth
    rows = circuit.tokens(np.random.default_rng(11), 32, truth["length"])
    with torch.no_grad():
        _, cache = circuit.model(host=host).run_with_cache(torch.tensor(rows))
    layers = range(circuit.shape.n_layers)
    measured = np.stack([cache[f"blocks.{layer}.attn.hook_pattern"].double().numpy() for layer in layers], 1)
    planted = np.stack([circuit.patterns(row) for row in rows])
    found, known = claims(measured, (), ()), claims(planted, (), ())
    for claim, parts in truth["claims"].items():
        for first_position in ("keep", "drop"):
            of_model, of_plan, stated = (
                np.array(part[first_position]["effect"], dtype=float)
                for part in (found[claim], known[claim], parts)
            )
            assert np.allclose(of_model, of_plan, atol=5e-4, equal_nan=True)
            for place in map(tuple, parts[first_position]["finds"]):
                assert of_model[place] / stated[place] > 0.5  # other prompts: the same up to sampling


@pytest.mark.host
@each_host
@pytest.mark.parametrize("name", NAMES)
def test_every_circuit_passes_the_checks_of_a_model(host: str, name: str) -> None:
    # Heads whose scores come from biases, or not at all, read nothing at some sites: those may be
    # silent. What a circuit is for, its attention, must be served and matter.
    circuit = loaded(name)
    proofs = {proof.site: proof for proof in check_model(circuit.model(host=host))}
    for site in ("pattern", "scores", "z", "head_out", "attn_out", "logits"):
        assert proofs[site].missing is None


@each_case
def test_truth_is_plain_data(name: str, parameters: dict[str, Any]) -> None:
    truth = testbed.load_circuit(name, **parameters).truth
    assert json.loads(json.dumps(truth, allow_nan=False)) == truth
    assert truth["name"] == name
    assert {**truth["parameters"], **{k: truth["parameters"][k] for k in parameters}} == truth["parameters"]
    again = testbed.load_circuit(name, **truth["parameters"])
    assert {**again.parameters} == truth["parameters"] and {**again.heads} == truth["heads"]
    assert all(truth[fact] == value for fact, value in again.facts.items())


@pytest.mark.parametrize("name", NAMES)
def test_truth_names_every_head_and_every_claim(name: str) -> None:
    circuit = loaded(name)
    shape, truth = circuit.shape, circuit.truth
    heads = [[layer, head] for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    assert set(truth["heads"]) == {f"{layer}.{head}" for layer, head in heads}
    assert set(truth["claims"]) == set(MINIMUM_EFFECTS)
    for claim, parts in truth["claims"].items():
        places = [[layer] for layer in range(shape.n_layers)] if claim.startswith("head_sync") else heads
        for first_position in ("keep", "drop"):
            part = parts[first_position]
            assert all(place in places for place in part["finds"] + part["nothing"])
            assert not [place for place in part["finds"] if place in part["nothing"]]
            effect = np.array(part["effect"], dtype=float)
            for place in part["finds"]:
                assert abs(effect[tuple(place)]) >= parts["minimum_effect"]
            for place in places:
                if place not in part["finds"] + part["nothing"]:
                    assert not abs(effect[tuple(place)]) >= parts["minimum_effect"]


FINDS: dict[str, dict[str, list[list[int]]]] = {
    "previous_token": {"distance": [[0, 0]], "coherence_squared": [], "consistency": []},
    "lag_kernels": {
        "distance": [[0, head] for head in range(4)],
        "coherence_squared": [[0, head] for head in range(4)],
        "consistency": [],
    },
    "opposed_pair": {
        "distance": [[0, 0], [0, 1]],
        "coherence_squared": [[0, 0], [0, 1]],
        "consistency": [],
    },
    "sinks": {"distance": [], "coherence_squared": [], "consistency": []},
    "content_rule": {"distance": [], "coherence_squared": [], "consistency": []},
    "induction": {"distance": [[0, 0], [1, 0]], "coherence_squared": [], "consistency": []},
    "rotary": {"distance": [[0, 0], [0, 2]], "coherence_squared": [[0, 1], [0, 2]], "consistency": []},
    "locked": {
        "distance": [[layer, head] for layer in range(2) for head in range(2)],
        "coherence_squared": [],
        "consistency": [[0]],
    },
    "band_locked": {
        "distance": [[0, head] for head in range(4)],
        "coherence_squared": [],
        "consistency": [],
    },
    "delay_chain": {
        "distance": [[layer, 0] for layer in range(3)],
        "coherence_squared": [],
        "consistency": [],
    },
    "alternating": {"distance": [[0, 0]], "coherence_squared": [], "consistency": []},
    "limiter": {"distance": [], "coherence_squared": [], "consistency": []},
    "idle": {"distance": [], "coherence_squared": [], "consistency": []},
}


@pytest.mark.parametrize("name", NAMES)
def test_what_the_analyses_should_find(name: str) -> None:
    found = {
        claim.partition(".")[2]: parts["drop"]["finds"]
        for claim, parts in loaded(name).truth["claims"].items()
    }
    assert found == FINDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_seeds_make_prompts_again(name: str) -> None:
    circuit = loaded(name)

    def drawn(seed: int) -> list[list[int]]:
        return circuit.tokens(np.random.default_rng(seed), 4, 20)

    assert drawn(1) == drawn(1) != drawn(2)
    rows = drawn(1)
    assert len(rows) == 4 and {len(row) for row in rows} == {20}
    assert all(0 <= token < circuit.shape.d_vocab for row in rows for token in row)
    for length in (2, 3, circuit.shape.n_ctx):
        assert len(circuit.tokens(np.random.default_rng(0), 1, length)[0]) == length


@pytest.mark.parametrize("name", NAMES)
def test_making_it_again_gives_the_same_weights(name: str) -> None:
    first, second = (testbed.load_circuit(name).weights for _ in range(2))
    assert all((first[key] == second[key]).all() for key in first)


def test_the_seed_of_the_idle_model_counts() -> None:
    first, second = (testbed.load_circuit("idle", seed=seed).weights for seed in (0, 1))
    assert (first["embed.W_E"] != second["embed.W_E"]).any()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: testbed.load_circuit("inducton"), "content_rule, delay_chain, idle, induction,"),
        (
            lambda: testbed.load_circuit("induction", tokens=3),
            "The circuit 'induction' has no parameter 'tokens'; it has n_ctx, n_tokens. Did you mean 'n_tok",
        ),
        (lambda: testbed.load_circuit("induction", n_tokens=3), "a whole number from 4 to 64; got 3."),
        (lambda: testbed.load_circuit("sinks", n_ctx=4), "of sinks must be from 8 to 512 tokens; got 4."),
        (lambda: testbed.load_circuit("sinks", masses=[1.0]), "at least one share above 0 and below 1"),
        (lambda: testbed.load_circuit("sinks", masses=[]), "at least one share above 0 and below 1"),
        (lambda: testbed.load_circuit("previous_token", lag=0), "must be 1, 2, 3 or 4 tokens; got 0."),
        (lambda: testbed.load_circuit("previous_token", rank=7), "an even number from 4 to 62; got 7."),
        (lambda: testbed.load_circuit("lag_kernels", kernels=[[0, 0]]), "weights of at least 0, not all 0"),
        (lambda: testbed.load_circuit("lag_kernels", kernels=[[1, -1]]), "for each head; got [1, -1]."),
        (lambda: testbed.load_circuit("lag_kernels", kernels=[[1] * 65]), "1 to 64 weights"),
        (lambda: testbed.load_circuit("lag_kernels", kernels=[]), "at least one list of weights; got []."),
        (lambda: testbed.load_circuit("lag_kernels", gains=[1]), "a finite number for each kernel; got [1]."),
        (lambda: testbed.load_circuit("opposed_pair", decay=1.0), "above 0 and at most 0.97; got 1.0."),
        (lambda: testbed.load_circuit("opposed_pair", frequency=0.5), "from 0.05 to 0.4 cycles per token"),
        (lambda: testbed.load_circuit("content_rule", n_tokens=2), "a whole number from 3 to 64; got 2."),
        (lambda: testbed.load_circuit("content_rule", sharpness=0), "above 0 and at most 50 nats; got 0."),
        (lambda: testbed.load_circuit("rotary", dims=5), "an even number from 4 to 64; got 5."),
        (lambda: testbed.load_circuit("rotary", base=1.5), "a whole number of at least 2; got 1.5."),
        (lambda: testbed.load_circuit("rotary", heads=[[(8, 1, 0)]]), "pair from 0 to 7, amplitude"),
        (lambda: testbed.load_circuit("rotary", heads=[[(1, -1, 0)]]), "amplitude from 0 to 50 nats"),
        (lambda: testbed.load_circuit("rotary", heads=[[3]]), "lists of (pair, amplitude, phase)"),
        (lambda: testbed.load_circuit("rotary", heads=[[(0, 1, 0)] * 2]), "lists with each pair once"),
        (lambda: testbed.load_circuit("locked", sharpness=0), "above 0 and at most 50 nats; got 0."),
        (lambda: testbed.load_circuit("locked", n_contents=0), "a whole number from 1 to 16; got 0."),
        (lambda: testbed.load_circuit("band_locked", frequency=0.5), "above 0 and below 0.5 cycles per"),
        (lambda: testbed.load_circuit("band_locked", levels=1), "a whole number from 2 to 64; got 1."),
        (lambda: testbed.load_circuit("idle", values=16), "with at most 20000 tokens (5 parts); got 16."),
        (lambda: testbed.load_circuit("idle", n_heads=4), "with at most 6 heads in all; got 4."),
        (lambda: testbed.load_circuit("idle", spread=0), "above 0 and at most 10 nats; got 0."),
        (lambda: testbed.load_circuit("idle", seed=0.5), "a whole number; got 0.5."),
        (lambda: loaded("idle").tokens(np.random.default_rng(0), 0, 9), "of idle.tokens must be at least 1"),
        (lambda: loaded("idle").tokens(np.random.default_rng(0), 1, 65), "from 2 to 64 tokens; got 65."),
    ],
)  # fmt: skip
def test_parameters_out_of_range(call: Any, sentence: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        call()


def test_the_list_says_what_there_is() -> None:
    for info in testbed.list_circuits():
        circuit = loaded(info.name)
        assert info.description and info.description[0].islower() and info.description.endswith(".")
        assert set(info.parameters) == set(circuit.parameters)
        assert str(circuit) == info.name


@pytest.mark.host
def test_models_by_name() -> None:
    model = testbed.load_model_named("testbed:rotary")
    assert model.cfg.model_name == "testbed:rotary"
    with pytest.raises(
        ModelError, match="There is no testbed model 'rotry'. Known: .* Did you mean 'rotary'"
    ):
        testbed.load_model_named("testbed:rotry")
