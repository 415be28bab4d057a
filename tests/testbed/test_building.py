"""A model that is built computes what its weights say, at every site and on every host."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens.errors import ModelError, ParameterError
from resonance_lens.hooks import attach
from resonance_lens.testbed import HOSTS, Shape, build_model, empty_weights, weight_shapes
from resonance_lens.testbed.building import Weights
from resonance_lens.testing import check_model
from tests.hooks.reading import ROWS, collect
from tests.models import batch_of, hosts
from tests.testbed import plain_transformer

HOST_NAMES = [host.name for host in hosts()]
ABSENT = [name for name in HOSTS if name not in HOST_NAMES]

LEARNED = Shape(n_layers=2, n_heads=3, d_model=10, d_head=6, d_vocab=53, n_ctx=16)
SHAPES = {
    "attention only": LEARNED,
    "relu": dataclasses.replace(LEARNED, d_mlp=14),
    "gelu": dataclasses.replace(LEARNED, d_mlp=14, activation="gelu"),
    "silu": dataclasses.replace(LEARNED, d_mlp=14, activation="silu"),
    "rotary": dataclasses.replace(LEARNED, positions="rotary", rotary_base=50),
    "partly rotary": dataclasses.replace(LEARNED, positions="rotary", rotary_dims=4, d_mlp=8),
}

each_host = pytest.mark.parametrize("host", HOST_NAMES)
each_shape = pytest.mark.parametrize("kind", SHAPES)


def weights_of(shape: Shape, seed: int = 0) -> Weights:
    """Return random weights that single precision can hold."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.4, size).astype(np.float32).astype(float)
        for name, size in weight_shapes(shape).items()
    }


@cache
def built(host: str, kind: str) -> Any:
    """Return a model that nobody changes."""
    return build_model(SHAPES[kind], weights_of(SHAPES[kind]), name="tried", host=host)


def tokens_of(rows: list[list[int]]) -> list[list[int]]:
    return [[token % LEARNED.d_vocab for token in row] for row in rows]


@pytest.mark.host
@each_host
@each_shape
@pytest.mark.parametrize("side", ["right", "left"])
def test_every_site_is_what_the_weights_say(host: str, kind: str, side: str) -> None:
    shape, weights = SHAPES[kind], weights_of(SHAPES[kind])
    rows = tokens_of(ROWS)
    together = collect(attach(built(host, kind)), batch_of(rows, side))
    for number, row in enumerate(rows):
        expected = plain_transformer.run(shape, weights, row)
        assert set(together) == set(expected)
        for (site, layer), signal in together.items():
            n = len(row)
            values = signal.values[number]
            values = values[:, :n, :n] if site in ("pattern", "scores") else values[:n]
            wanted = torch.from_numpy(expected[site, layer])
            torch.testing.assert_close(values.double(), wanted, rtol=0, atol=2e-5)
            assert n == 1 or wanted[wanted.isfinite()].std() > 0.05


@pytest.mark.host
@each_host
@each_shape
def test_it_passes_the_checks_of_a_model(host: str, kind: str) -> None:
    shape = SHAPES[kind]
    missing = {proof.site for proof in check_model(built(host, kind)) if proof.missing}
    absent = set() if shape.positions == "rotary" else {"rot_q", "rot_k"}
    absent |= set() if shape.d_mlp else {"resid_mid", "mlp_out", "mlp_post"}
    assert missing == absent
    facts = attach(built(host, kind)).facts
    sizes = {field.name: getattr(shape, field.name) for field in dataclasses.fields(Shape)}
    for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx"):
        assert getattr(facts, name) == sizes[name]
    assert facts.rotary_dims == (shape.turning_dims or None)
    assert facts.rotary_base == (shape.rotary_base if shape.positions == "rotary" else None)
    assert (facts.host, facts.model_name, facts.prepends_bos) == (host, "tried", False)


@pytest.mark.host
@each_host
def test_building_draws_nothing_from_the_global_state(host: str) -> None:
    def numpy_state() -> str:
        return repr(np.random.get_state())  # noqa: NPY002

    before = torch.get_rng_state(), random.getstate(), numpy_state()
    model = build_model(LEARNED, weights_of(LEARNED), name="tried", host=host)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy_state() == before[2]
    assert not any(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
    assert str(next(iter(model.parameters())).device) == "cpu"


@pytest.mark.host
@each_host
def test_gradients_and_copies(host: str) -> None:
    """The bridge's attention is replaced by ours: a copy has its own, and gradients pass through it."""
    model = build_model(LEARNED, weights_of(LEARNED), name="tried", host=host)
    batch = batch_of(tokens_of(ROWS), "left")
    mask = batch.attention_mask()
    tokens = batch.tokens
    twin = copy.deepcopy(model)
    plain = model(tokens, attention_mask=mask)
    plain[0, -1, 0].backward()
    assert all(weight.grad is None or bool(weight.grad.isfinite().all()) for weight in model.parameters())
    assert sum(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters()) > 10
    assert all(weight.grad is None for weight in twin.parameters())
    hooked = twin.run_with_hooks(
        tokens,
        attention_mask=mask,
        fwd_hooks=[("blocks.0.attn.hook_pattern", lambda values, hook: values * 0)],
    )
    assert float((hooked - plain).detach().abs().max()) > 0.1
    assert torch.equal(twin(tokens, attention_mask=mask), plain)


@pytest.mark.host
@each_host
def test_biases_that_are_missing_are_zero(host: str) -> None:
    weights = weights_of(LEARNED)
    zeroed = {name: value * (".b_" not in name) for name, value in weights.items()}
    fewer = {name: value for name, value in weights.items() if ".b_" not in name}
    tokens = torch.tensor(tokens_of([ROWS[0]]))
    logits = [build_model(LEARNED, w, name="tried", host=host)(tokens) for w in (zeroed, fewer)]
    assert torch.equal(*logits)


def test_hosts() -> None:
    assert set(HOST_NAMES) | set(ABSENT) == set(HOSTS)
    model = build_model(LEARNED, weights_of(LEARNED), name="tried")
    assert attach(model).facts.host == HOST_NAMES[0]
    with pytest.raises(ModelError, match="There is no host 'bridge'. Known: hooked_transformer, tr"):
        build_model(LEARNED, weights_of(LEARNED), name="tried", host="bridge")
    for name in ABSENT:
        sentence = (
            f"The host {name!r} is not part of the installed TransformerLens "
            f"{version('transformer-lens')}: use {HOST_NAMES[0]!r}, or leave the host out."
        )
        with pytest.raises(ModelError, match=f"^{re.escape(sentence)}$"):
            build_model(LEARNED, weights_of(LEARNED), name="tried", host=name)


def test_weights_that_do_not_fit() -> None:
    def build(**changes: Any) -> None:
        weights = {**weights_of(LEARNED), **changes}
        build_model(LEARNED, {k: v for k, v in weights.items() if v is not None}, name="tried")

    with pytest.raises(
        ModelError, match="needs the weight 'embed.W_E' of size \\(53, 10\\), which is missing"
    ):
        build(**{"embed.W_E": None})
    with pytest.raises(ModelError, match="called 'embed.W_e'. Known: .* Did you mean 'embed.W_E'"):
        build(**{"embed.W_e": np.zeros((53, 10))})
    with pytest.raises(
        ModelError, match="'unembed.W_U' of the model 'tried' has size \\(53, 10\\), not \\(10"
    ):
        build(**{"unembed.W_U": np.zeros((53, 10))})
    with pytest.raises(ModelError, match="'embed.W_E' of the model 'tried' holds values that are not finite"):
        build(**{"embed.W_E": np.full((53, 10), np.nan)})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_layers": 0}, "The 'n_layers' parameter of Shape must be a whole number of at least 1; got 0."),
        ({"d_mlp": 1.5}, "The 'd_mlp' parameter of Shape must be a whole number of at least 1; got 1.5."),
        ({"activation": "tanh"}, "must be one of 'relu', 'gelu', 'silu'; got 'tanh'."),
        ({"positions": "alibi"}, "must be one of 'learned', 'rotary'; got 'alibi'."),
        ({"positions": "rotary", "rotary_dims": 8}, "must be an even number from 2 to d_head (6); got 8."),
        ({"positions": "rotary", "rotary_dims": 3}, "must be an even number from 2 to d_head (6); got 3."),
        ({"positions": "rotary", "rotary_base": 37.5}, "must be a whole number of at least 2; got 37.5."),
    ],
)
def test_shapes_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        dataclasses.replace(LEARNED, **changes)


def test_empty_weights_and_frequencies() -> None:
    empty = empty_weights(LEARNED)
    assert {name: value.shape for name, value in empty.items()} == weight_shapes(LEARNED)
    assert not any(value.any() for value in empty.values())
    assert LEARNED.rotary_frequencies.size == LEARNED.turning_dims == 0
    assert SHAPES["rotary"].rotary_frequencies == pytest.approx([1, 50 ** (-1 / 3), 50 ** (-2 / 3)])
    assert SHAPES["partly rotary"].rotary_frequencies == pytest.approx([1, 0.01])
