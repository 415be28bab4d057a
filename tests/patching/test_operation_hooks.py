"""Operations as hooks of plain TransformerLens, on every host, against hooks written by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError, ParameterError, RecordError
from resonance_lens.patching.hooks import operation_hooks
from resonance_lens.patching.operations import get_operation
from resonance_lens.result import Target
from tests.models import Host, cases, hosts, prompts
from tests.reference_transformer import GPT2, LLAMA, Architecture

pytestmark = pytest.mark.host

each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)

N = 9
CLEAN, OTHER = (torch.tensor(prompts(seed, (N, N))) for seed in (0, 1))


@functools.cache
def built(host: Host, arch: Architecture) -> Any:
    """Return a model that no test changes."""
    return host.build(arch)


def target(
    site: str, layer: int, head: int | None = None, positions: tuple[int, ...] | None = None
) -> Target:
    return Target(site=site, layer=layer, head=head, score=0.0, reason="a test", positions=positions)


def logits(model: Any, tokens: Tensor, hooks: list[tuple[str, Callable[..., Any]]]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
    return found


def cached(model: Any, tokens: Tensor) -> Any:
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]


@each_case
def test_patching_is_what_a_hook_by_hand_does(host: Host, arch: Architecture) -> None:
    model = built(host, arch)
    donor = cached(model, OTHER)
    plain = logits(model, CLEAN, [])
    for site, hook, heads in (
        ("z", "attn.hook_z", arch.n_heads),
        ("k", "attn.hook_k", arch.n_kv_heads),
        ("pattern", "attn.hook_pattern", arch.n_heads),
        ("mlp_out", "hook_mlp_out", None),
    ):
        name, head = f"blocks.1.{hook}", None if heads is None else heads - 1
        theirs = donor[name].clone()

        def by_hand(values: Tensor, hook: Any, theirs: Tensor = theirs, head: int | None = head,
                    site: str = site) -> Tensor:  # fmt: skip
            values = values.clone()
            if head is None:
                values[:, 4] = theirs[:, 4]
            elif site == "pattern":
                values[:, head, 4] = theirs[:, head, 4]
            else:
                apart = values.view(2, N, -1, arch.d_head)  # some hosts give heads in one axis
                apart[:, 4, head] = theirs.view(2, N, -1, arch.d_head)[:, 4, head]
            return values

        wanted = logits(model, CLEAN, [(name, by_hand)])
        hooks = operation_hooks(model, "patch", [target(site, 1, head, (4 - N,))], donor=donor)
        made = logits(model, CLEAN, hooks)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(made[:, 4:], plain[:, 4:], atol=1e-4), site
        # Hooks serve one pass after another, and leave nothing behind.
        assert torch.equal(logits(model, CLEAN, hooks), made)
        assert torch.equal(logits(model, CLEAN, []), plain)


@each_case
def test_patching_everything_gives_the_other_run_and_patching_from_itself_nothing(
    host: Host, arch: Architecture
) -> None:
    model = built(host, arch)
    wanted = logits(model, OTHER, [])
    hooks = operation_hooks(model, "patch", [target("resid_pre", 1)], donor=cached(model, OTHER))
    torch.testing.assert_close(logits(model, CLEAN, hooks), wanted, rtol=0, atol=1e-5)
    hooks = operation_hooks(model, "patch", "heads", donor=cached(model, CLEAN))
    torch.testing.assert_close(logits(model, CLEAN, hooks), logits(model, CLEAN, []), rtol=0, atol=1e-5)


@each_case
def test_uniform_attention_and_means_are_those_of_a_hook_by_hand(host: Host, arch: Architecture) -> None:
    model = built(host, arch)
    even = torch.ones(N, N).tril() / torch.arange(1, N + 1)[:, None]

    def uniform(values: Tensor, hook: Any) -> Tensor:
        return even.expand_as(values).clone()

    hooks = operation_hooks(model, "uniform", [target("pattern", 0)])
    wanted = logits(model, CLEAN, [("blocks.0.attn.hook_pattern", uniform)])
    torch.testing.assert_close(logits(model, CLEAN, hooks), wanted, rtol=0, atol=1e-5)

    donor = cached(model, OTHER)
    theirs = donor["blocks.2.hook_mlp_out"]
    mean = theirs[:, 1:].mean((0, 1)).expand(N, -1).clone()
    mean[0] = theirs[:, 0].mean(0)
    hooks = operation_hooks(model, "mean_ablate", [target("mlp_out", 2)], donor=donor)
    wanted = logits(
        model, CLEAN, [("blocks.2.hook_mlp_out", lambda values, hook: mean.expand_as(values).clone())]
    )
    torch.testing.assert_close(logits(model, CLEAN, hooks), wanted, rtol=0, atol=1e-5)


@each_case
def test_a_rotary_pair_is_two_dimensions_of_a_head(host: Host, arch: Architecture) -> None:
    model = built(host, arch)
    where = [target("q", 1, 2)]
    if arch.rotary_dims is None:
        hooks = operation_hooks(model, "remove_rotary_pair", where)
        with pytest.raises(AdapterError, match="has no rotary pairs"):
            logits(model, CLEAN, hooks)
        return
    half = arch.rotary_dims // 2

    def by_hand(values: Tensor, hook: Any) -> Tensor:
        values = values.clone()
        values.view(2, N, -1, arch.d_head)[:, :, 2, [1, 1 + half]] = 0.0
        return values

    hooks = operation_hooks(model, get_operation("remove_rotary_pair", pairs="1"), where)
    made = logits(model, CLEAN, hooks)
    torch.testing.assert_close(
        made, logits(model, CLEAN, [("blocks.1.attn.hook_q", by_hand)]), rtol=0, atol=1e-6
    )
    assert not torch.allclose(made, logits(model, CLEAN, []), atol=1e-5)


@each_case
def test_each_row_of_a_padded_batch_is_what_it_would_be_alone(host: Host, arch: Architecture) -> None:
    model = built(host, arch)
    rows = prompts(3, (12, 7))
    tokens = torch.zeros(2, 12, dtype=torch.long)
    for row, each in enumerate(rows):
        tokens[row, : len(each)] = torch.tensor(each)
    kernels = np.abs(np.random.default_rng(0).normal(size=(arch.n_layers, arch.n_heads, 12)))
    edits = [
        (get_operation("remove_band", band="0.2-0.4"), [target("z", 1, 1)]),
        (get_operation("keep_band", band="0.2-0.5", method="causal"), [target("resid_mid", 1)]),
        (get_operation("kernel"), [target("pattern", 0, 3), target("pattern", 1)]),
        (get_operation("shift", tokens=2), [target("attn_out", 2)]),
    ]
    for done, places in edits:
        if places[0].site == "resid_mid" and arch.parallel:
            continue
        hooks = operation_hooks(model, done, places, lengths=[12, 7], kernels=kernels)
        made = logits(model, tokens, hooks)
        for row, each in enumerate(rows):
            alone = operation_hooks(model, done, places, kernels=kernels)
            wanted = logits(model, torch.tensor([each]), alone)
            torch.testing.assert_close(made[row, : len(each)], wanted[0], rtol=0, atol=1e-5)


def test_what_is_drawn_is_a_function_of_the_seed() -> None:
    model = built(hosts()[0], GPT2)
    first, again, other = (
        logits(model, CLEAN, operation_hooks(model, "scramble_phase", "layers", seed=seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    # A donor is not asked for, and another prompt is drawn among the rows.
    hooks = operation_hooks(model, "resample_ablate", [target("resid_pre", 1)])
    made, plain = logits(model, CLEAN, hooks), logits(model, CLEAN, [])
    torch.testing.assert_close(made, plain.flip(0), rtol=0, atol=1e-5)


def test_what_cannot_be_hooked_is_refused() -> None:
    model = built(hosts()[0], LLAMA)
    cache = cached(model, OTHER)
    with pytest.raises(ParameterError, match="no operation 'pach'.*Did you mean 'patch'?"):
        operation_hooks(model, "pach", "heads")
    with pytest.raises(ParameterError, match="key-value heads"):
        operation_hooks(model, "patch", [target("k", 0, LLAMA.n_heads - 1)], donor=cache)
    with pytest.raises(ParameterError, match="uniform is done to 'pattern', and cannot be done to 'z'"):
        operation_hooks(model, "uniform", "heads")
    with pytest.raises(ParameterError, match="patch needs the values of the same place"):
        operation_hooks(model, "patch", "heads")
    with pytest.raises(ParameterError, match="kernel needs the head's attention by lag"):
        operation_hooks(model, "kernel", [target("pattern", 0, 0)])
    with pytest.raises(ParameterError, match="an array over 3 layers, 4 heads and lags"):
        operation_hooks(model, "kernel", [target("pattern", 0, 0)], kernels=np.ones((3, 5)))
    with pytest.raises(ParameterError, match="must be an ActivationCache or a mapping from hook names"):
        operation_hooks(model, "patch", "heads", donor=CLEAN)
    with pytest.raises(AdapterError, match="The donor holds no blocks.0.attn.hook_z"):
        operation_hooks(model, "patch", "heads", donor={"blocks.1.attn.hook_z": CLEAN})
    with pytest.raises(AdapterError, match="makes no passes"):
        operation_hooks(cache, "patch", "heads", donor=cache)
    hooks = operation_hooks(model, "zero_ablate", [target("z", 0, 0)], lengths=[3])
    with pytest.raises(RecordError, match="A pass over 2 prompts of 9 tokens needs as many lengths"):
        logits(model, CLEAN, hooks)
    hooks = operation_hooks(model, "patch", [target("z", 0, 0)], donor=cache)
    with pytest.raises(RecordError, match="take it from prompts as many and as long"):
        logits(model, CLEAN[:, :5], hooks)
