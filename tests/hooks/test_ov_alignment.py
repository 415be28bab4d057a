"""How alike what heads write is, against the products of their weights as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens.errors import AdapterError
from resonance_lens.hooks import attach
from tests.hooks.test_activation_cache import cached
from tests.models import Host, batch_of, cases, hosts
from tests.reference_transformer import GPT2, LLAMA, Architecture, make_weights, ov_alignment

pytestmark = pytest.mark.host

each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)


def cosines(arch: Architecture, layer: int) -> np.ndarray[Any, Any]:
    """Return the cosines between the matrices, made from the weights of the reference."""
    return ov_alignment(arch, make_weights(arch), layer)


@each_case
def test_cosines_are_those_of_the_matrices(host: Host, arch: Architecture) -> None:
    adapter = attach(host.build(arch))
    for layer in range(arch.n_layers):
        found = adapter.ov_alignment(layer)
        assert found.shape == (arch.n_heads, arch.n_heads)
        np.testing.assert_allclose(found.numpy(), cosines(arch, layer), atol=1e-6)
        assert adapter.ov_alignment(layer) is found  # it is worked out once


@each_case
def test_a_cache_asks_the_model_that_made_it(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    adapter = attach(cached(model, batch_of([[3, 4, 5]])))
    np.testing.assert_allclose(adapter.ov_alignment(1).numpy(), cosines(arch, 1), atol=1e-6)


@pytest.mark.parametrize("host", hosts(), ids=str)
def test_heads_that_write_the_opposite_or_nothing(host: Host) -> None:
    model = host.build(GPT2)
    write = model.blocks[0].attn.W_O
    with torch.no_grad():
        if host.name == "hooked_transformer":
            model.blocks[0].attn.W_O[1] = 0.0
        else:
            d_head = write.shape[1]
            model.original_model.transformer.h[0].attn.c_proj.weight[d_head : 2 * d_head] = 0.0
    found = attach(model).ov_alignment(0)
    assert bool((found[1] == 0).all()) and float(found[0, 0]) == pytest.approx(1.0)


def test_half_precision_is_read_in_single() -> None:
    host = hosts()[0]
    found = attach(host.build(LLAMA, dtype=torch.bfloat16)).ov_alignment(0)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), cosines(LLAMA, 0), atol=0.02)


def test_a_host_that_hides_its_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hosts()[0].build(GPT2)
    adapter = attach(model)

    def packed(self: Any) -> torch.Tensor:
        raise AttributeError("they are packed")

    monkeypatch.setattr(type(model.blocks[0].attn), "W_O", property(packed), raising=False)
    monkeypatch.delitem(model.blocks[0].attn._parameters, "W_O", raising=False)
    sentence = "gpt2 .* does not give the weights of the heads of layer 0: "
    with pytest.raises(AdapterError, match=sentence):
        adapter.ov_alignment(0)
