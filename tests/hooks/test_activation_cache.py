"""A cache gives the signals of the pass that it was made of, and makes no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from resonance_lens.errors import AdapterError
from resonance_lens.facts import Batch
from resonance_lens.hooks import ActivationCacheAdapter, attach
from tests.hooks.reading import ROWS, collect
from tests.models import Host, batch_of, cases, hosts
from tests.reference_transformer import GPT2, LLAMA, Architecture

pytestmark = pytest.mark.host

each_host = pytest.mark.parametrize("host", hosts(), ids=str)
each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)


@pytest.fixture
def no_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function after which a model cannot be run any more."""

    def forbid(model: Any) -> None:
        def forward(self: Any, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("A forward pass was made.")

        monkeypatch.setattr(type(model), "forward", forward)

    return forbid


def cached(model: Any, batch: Batch, **options: Any) -> Any:
    """Return the cache of a pass."""
    model.set_use_attn_result(True)
    mask: dict[str, Any] = {}
    if batch.padded:
        mask = {"attention_mask": batch.attention_mask()}
        if type(model).__name__ == "HookedTransformer":
            mask["padding_side"] = batch.padding_side
    with torch.no_grad():
        return model.run_with_cache(batch.tokens, **mask, **options)[1]


@pytest.mark.parametrize("side", ["right", "left"])
@each_case
def test_a_cache_gives_the_same_signals(
    host: Host, arch: Architecture, side: str, no_pass: Callable[[Any], None]
) -> None:
    model = host.build(arch)
    batch = batch_of(ROWS, side)
    wanted = collect(attach(model), batch)
    cache = cached(model, batch)
    no_pass(model)
    adapter = attach(cache)
    assert isinstance(adapter, ActivationCacheAdapter) and not adapter.runs
    assert adapter.facts.host == "activation_cache"
    assert adapter.shape() == (4, 12)
    found = collect(adapter, batch)
    assert found.keys() == wanted.keys()
    for at, signal in wanted.items():
        torch.testing.assert_close(found[at].values, signal.values, rtol=0, atol=1e-5)
        assert found[at].lengths is not None


@each_case
def test_a_cache_without_a_batch_axis(host: Host, arch: Architecture, no_pass: Callable[[Any], None]) -> None:
    model = host.build(arch)
    batch = batch_of([ROWS[2]])
    wanted = collect(attach(model), batch)
    cache = cached(model, batch, remove_batch_dim=True)
    no_pass(model)
    adapter = attach(cache)
    assert isinstance(adapter, ActivationCacheAdapter) and adapter.shape() == (1, 12)
    found = collect(adapter, batch)
    for at, signal in wanted.items():
        torch.testing.assert_close(found[at].values, signal.values, rtol=0, atol=1e-5)


@each_host
def test_a_cache_of_a_few_names(host: Host, no_pass: Callable[[Any], None]) -> None:
    model = host.build(LLAMA)
    batch = batch_of([ROWS[0]])
    point = model.hook_dict["blocks.2.hook_resid_post"].name  # a bridge has a name of its own
    cache = cached(model, batch, names_filter=["blocks.1.attn.hook_pattern", point])
    no_pass(model)
    adapter = attach(cache)
    assert isinstance(adapter, ActivationCacheAdapter) and adapter.shape() == (1, 7)
    assert adapter.layers(["pattern"]) == (1,)
    assert adapter.layers(["resid_post"]) == adapter.layers(["logits"]) == (2,)
    sentence = (
        "The cache holds no blocks.0.attn.hook_z, which serves 'z' at layer 0; add that name to the "
        "names_filter of run_with_cache."
    )
    with pytest.raises(AdapterError, match=f"^{re.escape(sentence)}$"):
        adapter.layers(["z"])
    with pytest.raises(AdapterError, match="call model.set_use_attn_result.True. first"):
        adapter.layers(["head_out"])
    assert adapter.why_not("logits", 0) == "Logits belong to the last layer."


@each_host
def test_a_cache_and_other_tokens(host: Host) -> None:
    model = host.build(GPT2)
    adapter = attach(cached(model, batch_of([ROWS[0]])))
    with pytest.raises(AdapterError, match="1 prompts of 7 tokens, but .* are 1 prompts of 12"):
        adapter.run(batch_of([ROWS[2]]), {0: ["z"]}, lambda signal: None)


@each_host
def test_a_cache_of_nothing(host: Host) -> None:
    model = host.build(GPT2)
    adapter = attach(cached(model, batch_of([ROWS[0]]), names_filter=lambda name: False))
    assert isinstance(adapter, ActivationCacheAdapter)
    with pytest.raises(AdapterError, match="holds nothing at any site; make it with run_with_cache"):
        adapter.shape()


@each_host
def test_a_cache_without_its_model(host: Host) -> None:
    cache = cached(host.build(GPT2), batch_of([ROWS[0]]))
    cache.model = None
    with pytest.raises(AdapterError, match="does not know the model that made it"):
        attach(cache)
