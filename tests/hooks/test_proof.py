"""The proof of an adapter passes where it should, and catches what is wrong with one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.hooks import Adapter, ModelAdapter, Proof, attach, proof, prove
from resonance_lens.hooks.adapter import HOOK_NAMES, Receive, Wanted
from resonance_lens.signal import Signal
from tests.models import Host, batch_of, cases, hosts
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture

pytestmark = pytest.mark.host

each_host = pytest.mark.parametrize("host", hosts(), ids=str)


def attached(host: Host, arch: Architecture = LLAMA) -> ModelAdapter:
    """Return an adapter of a fresh model."""
    adapter = attach(host.build(arch))
    assert isinstance(adapter, ModelAdapter)
    return adapter


def problems(adapter: Adapter) -> dict[str, str]:
    """Return what is wrong, by site."""
    return {found.site: found.problem for found in prove(adapter) if found.problem}


@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
def test_every_host_proves_itself(host: Host, arch: Architecture) -> None:
    adapter = attached(host, arch)
    proofs = prove(adapter)
    assert [found.site for found in proofs] == list(SITE_AXES)
    assert not problems(adapter)
    missing = {"gpt2": {"rot_q", "rot_k"}, "llama": set(), "neox": {"resid_mid"}}[arch.name]
    assert {found.site for found in proofs if found.missing} == missing
    for found in proofs:
        wanted = () if found.missing else (2,) if found.site == "logits" else (0, 1, 2)
        assert found.layers == wanted
    proof.require(adapter, ["pattern", "z", "logits"])


@each_host
def test_wrong_facts(host: Host) -> None:
    adapter = attached(host, GPT2)
    for fact, site, axis, size in (
        ("n_heads", "pattern", "head", 4),
        ("d_head", "q", "d_head", 8),
        ("d_model", "resid_mid", "d_model", 32),
    ):
        sentence = (
            f"Site {site!r} of layer 0 has {size} entries along {axis!r}; the model's facts say {size + 1}."
        )
        right = adapter.facts
        changed: dict[str, Any] = {fact: size + 1}
        adapter.facts = dataclasses.replace(right, **changed)
        assert problems(adapter)[site] == sentence
        with pytest.raises(AdapterError, match=f"^gpt2: {re.escape(sentence)} Run resonance-lens check"):
            proof.require(adapter, [site])
        adapter.facts = right


@each_host
def test_rows_that_do_not_sum_to_one(host: Host) -> None:
    adapter = attached(host)
    adapter.model.add_hook("blocks.1.attn.hook_pattern", lambda values, hook: 0.9 * values)
    assert problems(adapter) == {"pattern": "Attention rows of layer 1 sum to 1 only within 0.1."}


@each_host
def test_attention_to_the_future(host: Host) -> None:
    adapter = attached(host)
    adapter.model.add_hook(
        "blocks.2.attn.hook_pattern", lambda values, hook: torch.full_like(values, 1 / values.shape[-1])
    )
    sentence = "Layer 2 attends to the future although the model is called causal."
    assert problems(adapter)["pattern"] == sentence
    adapter.facts = dataclasses.replace(adapter.facts, causal=False)
    assert "pattern" not in problems(adapter) or "future" not in problems(adapter)["pattern"]


@each_host
def test_a_hook_that_is_not_upstream(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook point sees the right values, but what is made of them there nobody uses."""
    adapter = attached(host)
    assert "z" not in problems(adapter)
    plain_hooks = adapter.model.hooks

    def hooks(fwd_hooks: list[tuple[str, Callable[..., Any]]]) -> Any:
        def looking(act: Callable[..., Any]) -> Callable[..., None]:
            def look(values: Tensor, hook: Any) -> None:
                act(values, hook=hook)

            return look

        return plain_hooks(
            fwd_hooks=[(n, looking(act) if n.endswith("hook_z") else act) for n, act in fwd_hooks]
        )

    monkeypatch.setattr(adapter.model, "hooks", hooks)
    assert problems(adapter) == {
        "z": "Overwriting 'z' at any layer leaves the logits as they are, so its hook is not upstream "
        "of the output."
    }


@each_host
def test_reading_that_changes_the_logits(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attached(host)
    honest = adapter.signal

    def careless(site: str, layer: int, values: Tensor, batch: Batch) -> Signal:
        if site == "resid_mid":
            values += 1.0
        return honest(site, layer, values, batch)

    monkeypatch.setattr(adapter, "signal", careless)
    assert problems(adapter) == {"resid_mid": "Reading 'resid_mid' changes the logits."}


@each_host
def test_a_rotation_of_our_own_must_give_the_scores(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attached(host, NEOX)
    ours = len(adapter.sources("rot_q", 0, adapter.firing)) > 1
    assert ours == (host.name == "transformer_bridge")
    monkeypatch.setattr(adapter, "derive", lambda site, values: values[0])  # no rotation at all
    found = problems(adapter)
    assert set(found) == ({"rot_q", "rot_k"} if ours else set())
    for sentence in found.values():
        assert sentence.startswith("Rotated queries and keys of layer 0 give its attention scores only")


@each_host
def test_a_missing_site_is_said(host: Host) -> None:
    with pytest.raises(AdapterError, match="gpt2 has no 'rot_q': .* Run resonance-lens check-model"):
        proof.require(attached(host, GPT2), ["pattern", "rot_q"])


@each_host
def test_a_cache_has_to_hold_what_is_required(host: Host) -> None:
    model = host.build(GPT2)
    names = ["blocks.0.attn.hook_pattern"]
    cache = model.run_with_cache(batch_of([[1, 2, 3]]).tokens, names_filter=names)[1]
    proof.require(attach(cache), ["pattern"])
    with pytest.raises(AdapterError, match="The cache holds no blocks.0.attn.hook_z"):
        proof.require(attach(cache), ["z"])


class Plain(Adapter):
    """An adapter as another package may write one: it reads, and cannot overwrite."""

    def __init__(self, inner: ModelAdapter, scale: float) -> None:
        self.inner, self.scale, self.facts = inner, scale, inner.facts

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether it is mine."""
        return False

    def why_not(self, site: str, layer: int) -> str | None:
        """Serve a few sites."""
        return None if site in ("pattern", *HOOK_NAMES) else "not here"

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Scale what the other gives."""

        def scaled(signal: Signal) -> None:
            receive(dataclasses.replace(signal, values=self.scale * signal.values))

        self.inner.run(batch, wanted, scaled)

    def readout(self, residual: Tensor) -> Tensor:
        """Read out."""
        return self.inner.readout(residual)


@each_host
def test_an_adapter_that_only_reads(host: Host) -> None:
    assert prove(Plain(attached(host), 1.0), ["pattern"]) == [Proof("pattern", (0, 1, 2))]
    assert "sum to 1 only within 0.5" in problems(Plain(attached(host), 0.5))["pattern"]
