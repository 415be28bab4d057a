"""What an adapter leaves as it was, and what it says of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import Facts
from resonance_lens.hooks import ModelAdapter, attach, prove
from resonance_lens.signal import Signal
from tests import reference_transformer as reference
from tests.hooks.reading import ROWS, collect, model_adapter, served
from tests.models import Host, batch_of, build, cases, hosts, tokenizer
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture

pytestmark = pytest.mark.host

each_host = pytest.mark.parametrize("host", hosts(), ids=str)
each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)


def modules(model: Any) -> list[torch.nn.Module]:
    """Return all modules, those of a wrapped Hugging Face model included."""
    inner = getattr(model, "original_model", None)
    return list(model.modules()) + (list(inner.modules()) if inner is not None else [])


def state(model: Any) -> dict[str, Any]:
    """Return all that a pass might change."""
    return {
        "hooks": [
            (list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks))
            for module in modules(model)
        ],
        "listed": [
            [id(handle) for name in ("fwd_hooks", "bwd_hooks") for handle in vars(module).get(name, ())]
            for module in modules(model)
        ],
        "level": getattr(model, "context_level", None),
        "training": [module.training for module in modules(model)],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [parameter.grad is None for parameter in model.parameters()],
        "values": [float(parameter.detach().double().sum()) for parameter in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "grad_enabled": torch.is_grad_enabled(),
        "use_attn_result": model.cfg.use_attn_result,
    }


class Stop(Exception):
    """What a careless ``receive`` raises."""


def stop(signal: Signal) -> None:
    """Raise on the first signal."""
    raise Stop


def use(adapter: ModelAdapter) -> None:
    """Do everything that can be done with an adapter."""
    for side in ("right", "left"):
        collect(adapter, batch_of(ROWS, side))
    adapter.readout(torch.ones(2, adapter.facts.d_model))
    prove(adapter)


def use_and_raise(adapter: ModelAdapter) -> None:
    """Have ``receive`` raise, at each site."""
    for layer, sites in served(adapter).items():
        for site in sites:
            with pytest.raises(Stop):
                adapter.run(batch_of(ROWS), {layer: [site]}, stop)


def use_and_break(adapter: ModelAdapter) -> None:
    """Have the model itself raise: there is no such token."""
    wanted = served(adapter)
    with pytest.raises((IndexError, RuntimeError)):
        adapter.run(batch_of([[1, 999]]), wanted, lambda signal: None)


@pytest.mark.parametrize("act", [use, use_and_raise, use_and_break], ids=lambda f: f.__name__)
@each_case
def test_nothing_is_left_behind(host: Host, arch: Architecture, act: Callable[[ModelAdapter], None]) -> None:
    model = host.build(arch)
    model(batch_of(ROWS).tokens)  # a bridge wires hooks of its own in its first pass, whoever makes it
    # Some modules in training mode, some not; a parameter frozen; a hook of the user's.
    for i, module in enumerate(modules(model)):
        module.training = i % 3 == 0
    next(iter(model.parameters())).requires_grad_(False)
    heard: list[int] = []
    model.add_hook("blocks.1.hook_resid_post", lambda values, hook: heard.append(1))
    model.add_hook("blocks.0.attn.hook_pattern", lambda values, hook: heard.append(2), is_permanent=True)
    before = state(model)
    act(model_adapter(model))
    after = state(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == value, name
    assert 2 in heard
    heard.clear()
    model(batch_of(ROWS).tokens)
    assert sorted(heard) == [1, 2]


@each_host
def test_the_users_hooks_act_in_our_passes(host: Host) -> None:
    model = host.build(GPT2)
    adapter = attach(model)
    before = collect(adapter, batch_of(ROWS))["resid_post", 2].values
    model.add_hook("blocks.0.hook_resid_pre", lambda values, hook: values + 1.0)
    found = collect(adapter, batch_of(ROWS))
    assert not torch.allclose(found["resid_post", 2].values, before)
    model.reset_hooks()
    assert torch.equal(collect(adapter, batch_of(ROWS))["resid_post", 2].values, before)


@each_host
def test_a_model_in_training_mode_is_measured_in_evaluation_mode(host: Host) -> None:
    model = host.build(GPT2)
    adapter = attach(model)
    quiet = collect(adapter, batch_of(ROWS))
    model.train()
    assert any(module.training for module in modules(model))
    loud = collect(adapter, batch_of(ROWS))
    for at, signal in quiet.items():
        assert torch.equal(loud[at].values, signal.values)


@each_case
def test_no_graph_is_kept(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    with torch.enable_grad():
        for signal in collect(adapter, batch_of(ROWS)).values():
            assert not signal.values.requires_grad
        residual = torch.ones(2, arch.d_model, requires_grad=True)
        assert not adapter.readout(residual).requires_grad


@pytest.mark.parametrize("before", [False, True])
@each_case
def test_use_attn_result_is_put_back(host: Host, arch: Architecture, before: bool) -> None:
    model = host.build(arch)
    model.set_use_attn_result(before)
    adapter = attach(model)
    seen: list[bool] = []

    def receive(signal: Signal) -> None:
        seen.append(bool(model.cfg.use_attn_result))

    adapter.run(batch_of(ROWS), {1: ["head_out"]}, receive)
    assert seen == [True]
    assert model.cfg.use_attn_result is before
    adapter.run(batch_of(ROWS), {1: ["z"]}, receive)
    assert seen == [True, before]
    with pytest.raises(Stop):
        adapter.run(batch_of(ROWS), {1: ["head_out"]}, stop)
    assert model.cfg.use_attn_result is before
    for block in model.blocks:
        config = getattr(block.attn, "config", None) or block.attn.cfg
        assert config.use_attn_result is before


@each_host
def test_a_host_without_head_outputs_serves_the_rest(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model = host.build(LLAMA)

    def refuse(use_attn_result: bool) -> None:
        if use_attn_result:
            raise NotImplementedError("no attention bridge supports it")

    monkeypatch.setattr(model, "set_use_attn_result", refuse)
    adapter = attach(model)
    assert adapter.layers(["pattern", "z"]) == (0, 1, 2)
    with pytest.raises(AdapterError, match="llama does not serve 'head_out' at layer 0"):
        adapter.layers(["pattern", "head_out"])


@each_case
def test_reading_changes_nothing(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    adapter = attach(model)
    tokens = torch.tensor([ROWS[2]])
    with torch.no_grad():
        wanted = model(tokens)
    found: list[Signal] = []
    adapter.run(batch_of([ROWS[2]]), served(adapter, but=("head_out",)), found.append)
    assert found[-1].site == "logits"
    assert torch.equal(found[-1].values, wanted)
    with torch.no_grad():
        assert torch.equal(model(tokens), wanted)


@each_case
def test_signals_come_in_the_order_of_the_computation(host: Host, arch: Architecture) -> None:
    adapter = attach(host.build(arch))
    order: list[tuple[int, str]] = []
    wanted = served(adapter)
    wanted = {layer: list(reversed(wanted[layer])) for layer in reversed(wanted)}
    adapter.run(batch_of(ROWS), wanted, lambda s: order.append((s.layer or 0, s.site)))
    assert [layer for layer, _ in order] == sorted(layer for layer, _ in order)
    for layer in range(3):
        sites = [site for at, site in order if at == layer]
        assert sites.index("resid_pre") == 0
        assert sites.index("q") < sites.index("scores") < sites.index("pattern") < sites.index("z")
        assert sites.index("mlp_post") < sites.index("mlp_out") < sites.index("resid_post")


@each_case
def test_logits_that_nobody_wants_are_not_computed(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    adapter = attach(model)
    served(adapter)
    computed: list[int] = []
    model.unembed.register_forward_hook(lambda module, args, out: computed.append(out.shape[1]))
    adapter.run(batch_of(ROWS), {2: ["resid_post"]}, lambda signal: None)
    assert sum(computed) <= 1  # a bridge gives the last position's
    adapter.run(batch_of(ROWS), {2: ["resid_post", "logits"]}, lambda signal: None)
    assert computed[-1] == 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_case
def test_half_precision_is_measured_in_single(host: Host, arch: Architecture, dtype: torch.dtype) -> None:
    adapter = attach(host.build(arch, dtype=dtype))
    assert adapter.facts.dtype == str(dtype).removeprefix("torch.")
    wanted = reference.run(arch, reference.make_weights(arch), ROWS[0])
    found = collect(adapter, batch_of(ROWS))
    for (site, layer), signal in found.items():
        assert signal.values.dtype == torch.float32, site
        if layer == 0:
            values = signal.values[0, :, :7, :7] if site in ("pattern", "scores") else signal.values[0, :7]
            rough = 0.02 if dtype == torch.float16 else 0.15
            torch.testing.assert_close(
                values.double(), torch.from_numpy(wanted[site, layer]), rtol=rough, atol=rough
            )
    assert adapter.readout(found["resid_post", 2].values).dtype == torch.float32
    assert not [proof for proof in prove(adapter) if proof.problem]


@each_host
def test_double_precision_stays(host: Host) -> None:
    adapter = attach(host.build(GPT2, dtype=torch.float64))
    for signal in collect(adapter, batch_of(ROWS)).values():
        assert signal.values.dtype == torch.float64
    assert adapter.readout(torch.ones(32)).dtype == torch.float64


@each_host
def test_grouped_keys_and_values_are_repeated(host: Host) -> None:
    found = collect(attach(host.build(LLAMA)), batch_of(ROWS))
    for site in ("k", "v", "rot_k"):
        values = found[site, 1].values
        assert values.shape[2] == 4
        assert torch.equal(values[:, :, 0], values[:, :, 1])
        assert torch.equal(values[:, :, 2], values[:, :, 3])
        assert not torch.allclose(values[:, :, 1], values[:, :, 2])
    assert not torch.allclose(found["q", 1].values[:, :, 0], found["q", 1].values[:, :, 1])


@each_case
def test_facts(host: Host, arch: Architecture) -> None:
    rotary = arch.rotary_dims is not None
    wanted = Facts(
        host=host.name,
        model_name=arch.name,
        n_layers=3,
        n_heads=4,
        n_kv_heads={"gpt2": 4, "llama": 2, "neox": 4}[arch.name],
        d_model={"gpt2": 32, "llama": 24, "neox": 32}[arch.name],
        d_head=8,
        d_vocab=53,
        n_ctx=64,
        causal=True,
        sliding_windows=(None, None, None),
        positions="rotary" if rotary else "standard",
        rotary_base={"gpt2": None, "llama": 5000.0, "neox": 2500.0}[arch.name],
        rotary_dims={"gpt2": None, "llama": 8, "neox": 4}[arch.name],
        rotary_pairs="halves" if rotary else None,
        rotary_frequencies=attach(host.build(arch)).facts.rotary_frequencies,  # see test_rotary.py
        parallel=arch.name == "neox",
        normalization="RMS" if arch.name == "llama" else "LN",
        prepends_bos=arch.name != "neox",
        bos_token=None,
        dtype="float32",
        weight_processing="none",
    )
    assert attach(host.build(arch)).facts == wanted
    adapter = attach(host.build(arch, text=True))
    assert adapter.facts == dataclasses.replace(wanted, bos_token=1)
    assert adapter.tokenizer.bos_token == tokenizer().bos_token


@each_host
def test_sliding_windows(host: Host) -> None:
    if host.name == "transformer_bridge":
        model = gemma()
        wanted: tuple[int | None, ...] = (4, None)
    else:
        model = host.build(GPT2)
        wanted = (4, None, 4)
        model.cfg.use_local_attn, model.cfg.window_size = True, 4
        model.cfg.attn_types = ["local", "global", "local"]
    assert attach(model).facts.sliding_windows == wanted


@each_host
def test_unknown_sites_and_layers(host: Host) -> None:
    adapter = attach(host.build(GPT2))
    with pytest.raises(AdapterError, match="There is no site 'patern'.* Did you mean 'pattern'"):
        adapter.layers(["patern"])
    assert adapter.layers(["logits"]) == (2,)
    assert adapter.layers(["logits", "pattern"]) == (2,)
    assert adapter.why_not("logits", 0) == "Logits belong to the last layer."
    with pytest.raises(AdapterError, match="gpt2 has no 'rot_q'"):
        adapter.layers(["logits", "rot_q"])


@each_host
def test_a_value_of_the_wrong_rank_is_refused(host: Host) -> None:
    adapter = attach(host.build(GPT2))
    with pytest.raises(AdapterError, match=r"'z' of layer 1 has axes .* tensor of shape \(2, 2\)"):
        adapter.signal("z", 1, torch.ones(2, 2), batch_of(ROWS))


def test_a_soft_cap_is_applied_once() -> None:
    if hosts()[0].name == "transformer_bridge":
        model, cap = gemma(), 3.0
    else:
        model, cap = build(LLAMA), 1.5
        model.cfg.output_logits_soft_cap = cap
    found = collect(attach(model), batch_of([ROWS[2]]))
    logits = found["logits", model.cfg.n_layers - 1].values
    assert cap / 2 < logits.abs().max() < cap
    residual = found["resid_post", model.cfg.n_layers - 1].values
    torch.testing.assert_close(attach(model).readout(residual), logits, rtol=0, atol=1e-5)


def gemma() -> Any:
    """Return a bridge of a tiny Gemma 2, which caps its logits and slides a window."""
    import transformers
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    options: dict[str, Any] = {"attn_implementation": "eager"}
    config = transformers.Gemma2Config(
        vocab_size=53,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=4,
        final_logit_softcapping=3.0,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        **options,
    )
    with torch.random.fork_rng():
        model = transformers.Gemma2ForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return build_bridge_from_module(
        model.eval(), "Gemma2ForCausalLM", hf_config=model.config, model_name="gemma"
    )


def ones(values: Tensor, hook: Any) -> Tensor:
    """Overwrite with ones."""
    return torch.ones_like(values)


@each_case
def test_logits_with_hooks(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    batch = batch_of([ROWS[2]])
    plain = adapter.logits(batch)
    for site in ("resid_post", "head_out", "pattern"):
        assert not torch.allclose(adapter.logits(batch, [(adapter.hook_name(site, 1), ones)]), plain)
    assert torch.equal(adapter.logits(batch), plain)


@each_host
def test_neox_rotation_is_served(host: Host) -> None:
    """A bridge has no hook after this rotation; the adapter rotates what the host says it rotates."""
    adapter = model_adapter(host.build(NEOX))
    sources = adapter.sources("rot_q", 1, adapter.firing)
    if host.name == "transformer_bridge":
        assert sources == tuple(f"blocks.1.attn.hook_{name}" for name in ("q", "cos", "sin"))
    else:
        assert sources == ("blocks.1.attn.hook_rot_q",)
    found = collect(adapter, batch_of([ROWS[2]]))
    q, turned = found["q", 1].values, found["rot_q", 1].values
    assert torch.equal(q[..., 4:], turned[..., 4:])
    assert torch.equal(q[:, 0], turned[:, 0])
    assert not torch.allclose(q[:, 1:, :, :4], turned[:, 1:, :, :4])
    torch.testing.assert_close(q.norm(dim=-1), turned.norm(dim=-1))
