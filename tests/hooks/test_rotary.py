"""What adapters say of rotary positions, against the rotation that the hosts make."""

from __future__ import annotations

import dataclasses
import math
from importlib.metadata import version
from typing import Any

import pytest
import torch

from resonance_lens import testbed
from resonance_lens.dsp.rotary import pair_frequencies, rotate
from resonance_lens.hooks import attach
from tests.hooks.reading import collect
from tests.models import Host, batch_of, cases, hosts, prompts
from tests.reference_transformer import GPT2, Architecture

pytestmark = pytest.mark.host

ROWS = prompts(seed=1, lengths=(12,))
MAJOR = int(version("transformer-lens").split(".")[0])

FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("GPTJ", "adjacent", {}),
    ("Glm", "adjacent", {"head_dim": 8}),
    ("Llama", "halves", {"head_dim": 8}),
]
if MAJOR >= 4:  # 3 turns the queries of this family otherwise than Hugging Face does
    FAMILIES.append(("Cohere", "adjacent", {}))


def assert_turned(model: Any) -> None:
    """Queries and keys that are turned as the facts say are those of the host."""
    adapter = attach(model)
    facts = adapter.facts
    assert facts.rotary_dims is not None and facts.rotary_pairs is not None
    assert facts.rotary_frequencies is not None and len(facts.rotary_frequencies) == facts.rotary_dims // 2
    found = collect(adapter, batch_of(ROWS))
    last = facts.n_layers - 1
    turned = {
        name: rotate(found[name, last].values, facts.rotary_frequencies, facts.rotary_pairs)
        for name in ("q", "k")
    }
    scores = torch.einsum("bihd,bjhd->bhij", turned["q"], turned["k"]) / math.sqrt(facts.d_head)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    torch.testing.assert_close(pattern, found["pattern", last].values, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(turned["q"], found["q", last].values, atol=1e-3)
    if ("rot_q", last) in found:
        for name in ("q", "k"):
            host_made = found[f"rot_{name}", last].values
            torch.testing.assert_close(turned[name], host_made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
def test_models_of_the_reference(host: Host, arch: Architecture) -> None:
    facts = attach(host.build(arch)).facts
    if arch == GPT2:
        assert facts.rotary_pairs is None and facts.rotary_frequencies is None
        return
    assert arch.rotary_dims is not None and arch.rotary_base is not None
    assert facts.rotary_pairs == "halves"
    assert facts.rotary_frequencies == pytest.approx(pair_frequencies(arch.rotary_dims, arch.rotary_base))
    assert_turned(host.build(arch))
    assert facts.as_dict()["rotary_frequencies"] == list(facts.rotary_frequencies or ())


def test_models_of_the_testbed() -> None:
    """Neighbouring dimensions are pairs, and only some of them turn."""
    circuit = testbed.load_circuit("rotary", n_ctx=40, base=16, dims=4)
    model = circuit.model()
    facts = attach(model).facts
    assert facts.rotary_pairs == "adjacent" and facts.rotary_dims == 4 < facts.d_head
    speed = [2 * math.pi * frequency for frequency in circuit.truth["frequencies"]]
    assert facts.rotary_frequencies == pytest.approx(speed, rel=1e-5)


def tiny(kind: str, **more: Any) -> Any:
    """Return a bridge to a tiny model of Hugging Face with weights drawn at random."""
    import transformers
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    sizes: dict[str, Any] = dict(vocab_size=53, attn_implementation="eager", bos_token_id=1, eos_token_id=1)
    sizes |= dict(pad_token_id=0)
    if kind == "GPTJ":
        sizes |= dict(n_positions=64, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_inner=24)
    else:
        sizes |= dict(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
    config = getattr(transformers, f"{kind}Config")(**sizes, **more)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(10)  # so that scores are not all next to nothing
    torch.set_rng_state(state)
    return build_bridge_from_module(
        model, type(model).__name__, hf_config=config, tokenizer=None, model_name=kind
    )


if MAJOR >= 3:  # the bridge came with TransformerLens 3

    class TestBridge:
        """Models of Hugging Face behind a bridge."""

        @pytest.mark.parametrize(
            ("kind", "pairs", "more"),
            FAMILIES,
            ids=lambda value: value if isinstance(value, str) else "",
        )
        def test_layouts_of_families(self, kind: str, pairs: str, more: dict[str, Any]) -> None:
            model = tiny(kind, **more)
            assert attach(model).facts.rotary_pairs == pairs
            assert_turned(model)

        @pytest.mark.parametrize("rope_type", ["llama3", "linear", "yarn"])
        def test_scaled_frequencies_are_read_from_the_model(self, rope_type: str) -> None:
            scaling: dict[str, Any] = {"rope_type": rope_type, "rope_theta": 100.0, "factor": 4.0}
            if rope_type != "linear":
                scaling["original_max_position_embeddings"] = 64
            if rope_type == "llama3":
                scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
            if rope_type == "yarn":
                scaling |= {"attention_factor": 1.0}  # it would scale queries and keys as well
            model = tiny("Llama", head_dim=8, rope_parameters=scaling)
            facts = attach(model).facts
            assert facts.rotary_frequencies is not None
            plain = pair_frequencies(8, 100.0)
            if rope_type == "linear":
                assert facts.rotary_frequencies == pytest.approx(plain / 4)
            else:
                assert facts.rotary_frequencies[-1] == pytest.approx(plain[-1] / 4)
                assert facts.rotary_frequencies[0] == pytest.approx(plain[0])
            assert_turned(model)

        def test_layers_that_turn_at_different_frequencies_have_none_in_common(self) -> None:
            model = tiny("Llama", head_dim=8)
            speed = torch.tensor([1.0, 0.5, 0.2, 0.1])
            model.original_model.register_buffer("sliding_attention_inv_freq", speed)  # as Gemma 3 calls it
            facts = attach(model).facts
            assert facts.rotary_frequencies is None and facts.rotary_dims == 8


def test_facts_without_rotary_positions_need_not_speak_of_them() -> None:
    """Adapters of other packages are older than these facts."""
    facts = attach(hosts()[0].build(GPT2)).facts
    given = {
        field.name: getattr(facts, field.name)
        for field in dataclasses.fields(facts)
        if field.default is dataclasses.MISSING
    }
    assert type(facts)(**given) == facts
