"""The random-weight twin: fresh, repeatable, like the model in all else, and refused in one sentence."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.errors import AdapterError
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.hooks.twin import random_twin
from resonance_lens.testing import check_model
from tests.hooks.reading import ROWS, model_adapter
from tests.models import Host, batch_of, build, cases, hosts, prompts
from tests.reference_transformer import GPT2, LLAMA, Architecture

pytestmark = pytest.mark.host

ANALYSES = ("attention_entropy", "belief_collapse", "head_sync", "phase_coherence")

each_host = pytest.mark.parametrize("host", hosts(), ids=str)
each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)


def only(name: str) -> list[Host]:
    """Return the host of a name, if the installed TransformerLens has it."""
    return [host for host in hosts() if host.name == name]


def parameters(adapter: ModelAdapter) -> dict[str, torch.Tensor]:
    """Return copies of all parameters of a model, under the names of the network inside."""
    network = getattr(adapter.model, "original_model", adapter.model)
    return {
        name.replace("._original_component", ""): value.detach().clone()
        for name, value in network.named_parameters()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of parameters are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def evenness(adapter: ModelAdapter, rows: list[list[int]] = ROWS) -> float:
    """Return the mean entropy of next-token predictions, relative to that of a uniform one."""
    logits = adapter.logits(batch_of(rows)).double()
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return float(entropy.mean()) / math.log(adapter.facts.d_vocab)


@each_case
def test_every_parameter_is_fresh(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    old, new = parameters(adapter), parameters(random_twin(adapter, 0))
    assert old.keys() == new.keys()
    for name, values in new.items():
        assert values.shape == old[name].shape and values.dtype == old[name].dtype
        if values.ndim == 1 or float(values.std()) == 0:  # norms and biases have yet to learn
            assert bool((values == values.flatten()[0]).all()) and float(values.flatten()[0]) in (0.0, 1.0)
        else:
            assert not bool((values == old[name]).any()), name


@each_case
def test_weights_have_the_size_that_the_architecture_starts_with(host: Host, arch: Architecture) -> None:
    """Sizes worked out by hand: .02 in Hugging Face, where GPT-2 divides what it writes by the root of
    twice its depth; .8 over the root of d_model in TransformerLens."""
    model = random_twin(model_adapter(host.build(arch)), 0).model
    for name, values in parameters(model_adapter(model)).items():
        if float(values.std()) == 0:
            continue
        expected = 0.02
        if host.name == "hooked_transformer":
            expected = 0.8 / math.sqrt(arch.d_model)
        elif arch is GPT2 and re.search(r"attn\.(o|c_proj)\.|mlp\.(out|c_proj)\.", name):
            expected /= math.sqrt(2 * arch.n_layers)
        spread = 4 / math.sqrt(2 * values.numel())  # four standard errors of a standard deviation
        # The padding token of a Hugging Face embedding is a row of zeros.
        found = values[1:] if values.shape[0] == arch.d_vocab else values
        assert float(found.std()) == pytest.approx(expected, rel=spread), name


@each_case
def test_embeddings_are_tied_where_the_model_ties_them(host: Host, arch: Architecture) -> None:
    model = random_twin(model_adapter(host.build(arch)), 0).model
    network = getattr(model, "original_model", None)
    if network is None:
        embed, unembed = model.embed.W_E, model.unembed.W_U.T
    else:
        embed, unembed = (
            network.get_input_embeddings().weight,
            network.get_output_embeddings().weight,
        )
    assert torch.equal(embed, unembed) is arch.tied


def test_embeddings_are_tied_behind_folded_norms_too() -> None:
    for host in only("hooked_transformer"):
        for arch in (GPT2, dataclasses.replace(GPT2, tied=False)):
            model = host.build(arch)
            model.process_weights_()
            twin = random_twin(model_adapter(model), 0)
            assert twin.facts.weight_processing == "folded_norms" and twin.facts.normalization == "LN"
            assert torch.equal(twin.model.embed.W_E.T, twin.model.unembed.W_U) is arch.tied
            assert same(parameters(twin), parameters(random_twin(twin, 0)))
            check_model(twin.model)


@each_case
def test_a_seed_is_all_that_decides(host: Host, arch: Architecture) -> None:
    adapter, other = model_adapter(host.build(arch)), model_adapter(host.build(arch, seed=1))
    first = parameters(random_twin(adapter, 3))
    torch.rand(5)
    assert same(first, parameters(random_twin(adapter, 3)))
    assert same(first, parameters(random_twin(other, 3)))  # nothing of the trained weights is in it
    second = parameters(random_twin(adapter, 4))
    assert not any(torch.equal(first[name], second[name]) for name in first if float(first[name].std()) > 0)


@each_case
def test_the_model_and_all_random_states_stay_as_they_are(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    adapter.model.train()
    called = []
    adapter.model.add_hook("blocks.0.hook_resid_post", lambda value, hook: called.append(hook.name))
    weights, facts = parameters(adapter), adapter.facts
    modes = [module.training for module in adapter.modules()]
    config = repr(adapter.model.cfg)
    states = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    settings = (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())

    twin = random_twin(adapter, 0)
    twin.logits(batch_of(ROWS))

    assert not called and not any(module.training for module in twin.modules())
    assert same(weights, parameters(adapter)) and facts == adapter.facts == adapter.read_facts(adapter.model)
    assert modes == [module.training for module in adapter.modules()] and config == repr(adapter.model.cfg)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == repr(np.random.get_state())  # noqa: NPY002
    assert settings == (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())
    storages = {value.data_ptr() for value in adapter.model.parameters()}
    assert not storages & {value.data_ptr() for value in twin.model.parameters()}


@each_case
def test_a_twin_is_a_model_like_the_other(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch, text=True))
    twin = random_twin(adapter, 7)
    assert twin.facts.model_name == f"{arch.name} (random weights, seed 7)"
    assert dataclasses.replace(twin.facts, model_name=arch.name) == adapter.facts
    assert twin.tokenizer is adapter.tokenizer and twin.device == adapter.device
    mine, theirs = check_model(twin.model), check_model(adapter.model)
    assert [(proof.site, proof.layers) for proof in mine] == [(proof.site, proof.layers) for proof in theirs]


@each_case
def test_a_twin_predicts_nearly_all_tokens_alike(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    # TransformerLens's weights are larger, so that logits have a standard deviation near .8 (entropy
    # lower by .8 ** 2 / 2 nats of log 53), and with tied embeddings the token itself stands out.
    least = 0.99 if host.name == "transformer_bridge" else 0.85
    assert evenness(random_twin(adapter, 0)) > max(least, evenness(adapter))


@each_host
def test_a_twin_keeps_the_precision(host: Host) -> None:
    adapter = model_adapter(host.build(LLAMA, dtype=torch.bfloat16))
    twin = random_twin(adapter, 0)
    assert twin.facts.dtype == "bfloat16"
    assert {value.dtype for value in parameters(twin).values()} == {torch.bfloat16}
    assert evenness(twin) > 0.85


@pytest.mark.parametrize("no_processing", [False, True])
def test_a_twin_is_in_compatibility_mode_if_the_model_is(no_processing: bool) -> None:
    for host in only("transformer_bridge"):
        for arch in (GPT2, LLAMA):
            model = host.build(arch)
            model.enable_compatibility_mode(disable_warnings=True, no_processing=no_processing)
            twin = random_twin(model_adapter(model), 0)
            assert twin.facts.weight_processing == "compatibility_mode"
            raw = random_twin(model_adapter(host.build(arch)), 0)
            probabilities = [each.logits(batch_of(ROWS)).softmax(-1) for each in (twin, raw)]
            torch.testing.assert_close(*probabilities, rtol=1e-4, atol=1e-6)
            changed = not torch.equal(twin.model.unembed.weight, raw.model.unembed.weight)
            assert changed is not no_processing  # the processed unembedding is centred
            check_model(twin.model)


def test_the_twin_of_a_native_model() -> None:
    for _ in only("transformer_bridge"):
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        config = TransformerBridgeConfig(
            d_model=16, d_head=4, n_heads=4, n_layers=2, n_ctx=12, d_vocab=11, d_mlp=24, act_fn="gelu", seed=5
        )
        bridge: Any = TransformerBridge
        adapter = model_adapter(bridge.boot_native(config))
        twin = random_twin(adapter, 0)
        old, new = parameters(adapter), parameters(twin)
        drawn = [name for name in new if float(new[name].std()) > 0]
        assert len(drawn) >= 2 * 6 + 2 and not any(bool((new[name] == old[name]).any()) for name in drawn)
        assert same(new, parameters(random_twin(adapter, 0)))
        assert not same(new, parameters(random_twin(adapter, 1)))
        assert dataclasses.replace(twin.facts, model_name=adapter.facts.model_name) == adapter.facts
        assert evenness(twin, rows=[[1, 2, 3]]) > 0.9


@each_case
def test_analyses_run_on_a_twin(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    rows = prompts(lengths=(40, 48, 56, 40))
    of_model, of_twin = (
        rl.run(each.model, rows, ANALYSES, baselines=(), progress=False)
        for each in (adapter, random_twin(adapter, 0))
    )
    # Its attention is far closer to uniform than that of a model whose weights are large.
    first, second = (float(run["attention_entropy"].data["entropy"].mean()) for run in (of_model, of_twin))
    assert second > first


@each_host
def test_a_cache_has_no_twin(host: Host) -> None:
    _, cache = host.build(GPT2).run_with_cache(torch.tensor(ROWS[:1]))
    with pytest.raises(
        AdapterError, match=r"^gpt2 has no random-weight twin on this host \(activation_cache\)"
    ):
        random_twin(attach(cache), 0)


def test_quantised_weights_have_no_twin() -> None:
    for host in only("transformer_bridge"):
        adapter = model_adapter(host.build(LLAMA))
        adapter.model.original_model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
        with pytest.raises(AdapterError, match="^llama has no random-weight twin: its weights are quantised"):
            random_twin(adapter, 0)


@each_host
def test_packed_weights_have_no_twin(host: Host) -> None:
    adapter = model_adapter(host.build(LLAMA))
    weight = next(adapter.model.parameters())
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.uint8)
    with pytest.raises(AdapterError, match="^llama has no random-weight twin: its weights are quantised"):
        random_twin(adapter, 0)


def test_weights_out_of_memory_have_no_twin() -> None:
    for host in only("transformer_bridge"):
        adapter = model_adapter(host.build(LLAMA))
        adapter.model.original_model.to("meta")
        with pytest.raises(AdapterError, match="^llama has no random-weight twin: .* not in memory"):
            random_twin(adapter, 0)


def test_a_parameter_that_nothing_initialises_is_noticed() -> None:
    for host in only("transformer_bridge"):
        from transformer_lens.model_bridge.sources import build_bridge_from_module
        from transformers import LlamaForCausalLM

        class Forgetful(LlamaForCausalLM):  # type: ignore[misc, unused-ignore]
            """A network with a parameter whose start it does not say."""

            def __init__(self, config: Any) -> None:
                super().__init__(config)
                self.model.embed_tokens.weight = torch.nn.Parameter(
                    torch.empty(config.vocab_size, LLAMA.d_model)
                )

        config = host.build(LLAMA).original_model.config
        model = build_bridge_from_module(
            Forgetful(config).train(False), "LlamaForCausalLM", hf_config=config, model_name="forgetful"
        )
        with pytest.raises(AdapterError, match=r"how the parameter model\.embed_tokens\.weight starts"):
            random_twin(model_adapter(model), 0)


def test_a_config_that_has_changed_is_noticed() -> None:
    for host in only("transformer_bridge"):
        adapter = model_adapter(host.build(LLAMA))
        adapter.model.original_model.config.max_position_embeddings = 32
        with pytest.raises(AdapterError, match="made anew from its config, it differs in n_ctx; leave"):
            random_twin(adapter, 0)


def test_a_context_that_was_cut_stays_cut() -> None:
    model = build(LLAMA)
    if hosts()[0].name == "hooked_transformer":
        model.cfg.n_ctx = 16
    assert random_twin(model_adapter(model), 0).facts.n_ctx == model.cfg.n_ctx


def test_a_network_that_cannot_be_made_anew_is_said_so() -> None:
    for host in only("transformer_bridge"):
        adapter = model_adapter(host.build(LLAMA))
        network = adapter.model.original_model
        network.config.hidden_act = "unheard"
        with pytest.raises(AdapterError, match=r"making it anew from its config fails \(KeyError: "):
            random_twin(adapter, 0)
        assert torch.get_default_dtype() == torch.float32
        assert not torch.are_deterministic_algorithms_enabled()
        network.config = None
        with pytest.raises(AdapterError, match="a LlamaForCausalLM has no config to be made from; leave"):
            random_twin(adapter, 0)
