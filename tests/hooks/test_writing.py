"""Writing in the common form and resuming in the middle: on every host, for every site, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from resonance_lens import testbed
from resonance_lens.errors import AdapterError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.hooks.writing import heads_at, read, why_not_write, write
from tests.hooks.reading import ROWS, model_adapter
from tests.models import Host, batch_of, cases, hosts
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture

pytestmark = pytest.mark.host

each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
each_host = pytest.mark.parametrize("host", hosts(), ids=str)
each_side = pytest.mark.parametrize("side", ["right", "left"])

SITES = [site for site in SITE_AXES if site != "logits"]


def writable(adapter: ModelAdapter, layer: int = 1) -> list[str]:
    """Return the sites that can be written to."""
    return [site for site in SITES if why_not_write(adapter, site, layer) is None]


def real(values: Tensor, batch: Batch) -> Tensor:
    """Return values at real tokens only, ``[token of any row, ...]``, row by row."""
    return values[batch.attention_mask().bool()]


def recorded(adapter: ModelAdapter, batch: Batch, *spots: tuple[str, int], hooks: Any = ()) -> list[Tensor]:
    """Return the values at sites in the form in which they are written."""
    found: list[Tensor] = []
    adapter.look(batch, [*hooks, *(read(adapter, *spot, batch, found.append) for spot in spots)])
    return found


def scrambled(site: str) -> Callable[[Tensor], Tensor]:
    """Return a change that nothing is left alone by, the same whatever the padding."""

    def change(values: Tensor) -> Tensor:
        width = values.shape[-1 if site in ("pattern", "scores") else 1]
        factor = 1 + 0.3 * torch.sin(torch.arange(width, dtype=values.dtype))
        if site in ("pattern", "scores"):
            return values * factor  # by key
        return values * factor.reshape(1, -1, *[1] * (values.ndim - 2))

    return change


# ------------------------------------------------------------------------------------- writing


@each_side
@each_case
def test_what_is_put_back_changes_nothing(host: Host, arch: Architecture, side: str) -> None:
    adapter, batch = model_adapter(host.build(arch)), batch_of(ROWS, side)
    plain = adapter.logits(batch)
    for site in writable(adapter):
        expected = plain
        if site == "head_out":  # the host adds up single heads in another order
            expected = adapter.logits(batch, [(adapter.hook_name(site, 1), lambda values, hook: values)])
        same = adapter.logits(batch, write(adapter, site, 1, batch, lambda values: values))
        assert torch.equal(real(same, batch), real(expected, batch)), site


@each_case
def test_what_is_written_is_the_same_whatever_the_padding(host: Host, arch: Architecture) -> None:
    adapter, rows = model_adapter(host.build(arch)), ROWS[:2]
    plain = adapter.logits(batch_of([rows[0]]))[0]
    for site in writable(adapter):
        alone = []
        for row in rows:
            batch = batch_of([row])
            alone.append(adapter.logits(batch, write(adapter, site, 1, batch, scrambled(site)))[0])
        assert not torch.allclose(alone[0], plain, atol=1e-3), site
        for side in ("right", "left"):
            batch = batch_of(rows, side)
            together = adapter.logits(batch, write(adapter, site, 1, batch, scrambled(site)))
            torch.testing.assert_close(real(together, batch), torch.cat(alone), atol=2e-5, rtol=1e-5)


@each_side
@each_case
def test_what_is_written_is_there(host: Host, arch: Architecture, side: str) -> None:
    adapter, batch = model_adapter(host.build(arch)), batch_of(ROWS, side)
    for site in writable(adapter):
        (before,) = recorded(adapter, batch, (site, 1))
        expected = scrambled(site)(before)
        (after,) = recorded(adapter, batch, (site, 1), hooks=write(adapter, site, 1, batch, scrambled(site)))
        torch.testing.assert_close(after, expected)


@each_host
def test_grouped_keys_and_values_have_their_own_heads(host: Host) -> None:
    adapter, batch = model_adapter(host.build(LLAMA)), batch_of(ROWS)
    assert (LLAMA.n_heads, LLAMA.n_kv_heads) == (4, 2)
    counts = {site: heads_at(site, adapter.facts) for site in SITES}
    assert {site for site, n in counts.items() if n == 2} == {"k", "v", "rot_k"}
    assert {site for site, n in counts.items() if n == 4} == {
        "q", "z", "rot_q", "head_out", "pattern", "scores",
    }  # fmt: skip
    for site in ("k", "v", "rot_k"):
        (values,) = recorded(adapter, batch, (site, 1))
        assert values.shape == (len(ROWS), 12, 2, LLAMA.d_head)
    # A key-value head is that of two query heads, and of no other.
    before, after = (
        recorded(adapter, batch, ("z", 1), hooks=hooks)[0]
        for hooks in (
            (),
            write(
                adapter, "v", 1, batch, lambda values: torch.cat([values[:, :, :1], values[:, :, 1:] * 0], 2)
            ),
        )
    )
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not after[:, :, 2:].any() and before[:, :, 2:].any()


@each_host
@pytest.mark.parametrize("arch", [GPT2, LLAMA], ids=str)
def test_the_stream_between_attention_and_mlp_is_written_whole(host: Host, arch: Architecture) -> None:
    adapter, batch = model_adapter(host.build(arch)), batch_of(ROWS)
    hooks = write(adapter, "resid_mid", 1, batch, lambda values: 2 * values)
    mid, mlp, post = recorded(
        adapter, batch, ("resid_mid", 1), ("mlp_out", 1), ("resid_post", 1), hooks=hooks
    )
    torch.testing.assert_close(post, mid + mlp)


@each_host
def test_masks_of_the_host_stay(host: Host) -> None:
    adapter, batch = model_adapter(host.build(LLAMA)), batch_of(ROWS)
    hooks = write(adapter, "scores", 1, batch, lambda values: values.masked_fill(values == -torch.inf, 9.0))
    assert torch.equal(real(adapter.logits(batch, hooks), batch), real(adapter.logits(batch), batch))


@each_host
def test_half_precision(host: Host) -> None:
    adapter, batch = model_adapter(host.build(LLAMA, dtype=torch.bfloat16)), batch_of(ROWS)
    plain = adapter.logits(batch)
    seen: list[torch.dtype] = []

    def change(values: Tensor) -> Tensor:
        seen.append(values.dtype)
        return values.clone()

    for site in ("z", "resid_pre", "mlp_out"):
        assert torch.equal(adapter.logits(batch, write(adapter, site, 1, batch, change)), plain)
    assert seen == [torch.float32] * 3


@each_host
def test_wrong_shape(host: Host) -> None:
    adapter, batch = model_adapter(host.build(LLAMA)), batch_of(ROWS)
    hooks = write(adapter, "v", 1, batch, lambda values: values.repeat_interleave(2, 2))
    sentence = (
        r"^What is written to 'v' of layer 1 must have the shape \(4, 12, 2, 8\) of what is there; got "
        r"\(4, 12, 4, 8\)\.$"
    )
    with pytest.raises(AdapterError, match=sentence):
        adapter.logits(batch, hooks)


@each_case
def test_what_cannot_be_written(host: Host, arch: Architecture) -> None:
    adapter = model_adapter(host.build(arch))
    assert why_not_write(adapter, "logits", 2) == (
        "Nothing comes after 'logits'; patch 'resid_post' of the last layer instead."
    )
    turned = {site: why_not_write(adapter, site, 1) or "" for site in ("rot_q", "rot_k")}
    if arch == LLAMA or (arch == NEOX and host.name == "hooked_transformer"):
        assert not any(turned.values())
    elif arch == NEOX:
        assert turned["rot_k"] == (
            "neox (transformer_bridge) cannot be patched at 'rot_k' of layer 1: its attention turns them "
            "where no hook can change them; patch 'k' instead."
        )
    else:
        assert turned["rot_q"].startswith("gpt2 has no 'rot_q'")


def test_a_cache_cannot_be_written() -> None:
    model = hosts()[0].build(LLAMA)
    _, cache = model.run_with_cache(torch.tensor([ROWS[0]]))
    why = why_not_write(attach(cache), "z", 1)
    assert why is not None and why.endswith("(activation_cache): it makes no passes; give a model.")


# ------------------------------------------------------------------------------------ resuming


@each_side
@each_case
def test_a_resumed_pass_ends_like_the_whole_one(host: Host, arch: Architecture, side: str) -> None:
    adapter, batch = model_adapter(host.build(arch)), batch_of(ROWS, side)
    entered: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor, Any], None]:
        return lambda values, hook: entered.__setitem__(layer, values.clone())

    last = arch.n_layers - 1
    hooks = [(adapter.hook_name("resid_pre", layer), keep(layer)) for layer in range(arch.n_layers)]
    whole = adapter.logits(batch, [*hooks, (adapter.hook_name("resid_post", last), keep(-1))])
    for layer in range(arch.n_layers):
        end = adapter.resume(batch, layer, entered[layer])
        assert torch.equal(real(end, batch), real(entered[-1], batch))
    torch.testing.assert_close(real(adapter.readout(end), batch), real(whole, batch), atol=1e-6, rtol=1e-6)


@each_case
def test_a_resumed_pass_runs_hooks_and_leaves_no_trace(host: Host, arch: Architecture) -> None:
    adapter, batch = model_adapter(host.build(arch)), batch_of(ROWS)
    plain = adapter.logits(batch)
    pre, end = recorded(adapter, batch, ("resid_pre", 2), ("resid_post", 2))
    ran: list[int] = []
    hooks = [
        (adapter.hook_name("z", layer), lambda values, hook, layer=layer: ran.append(layer))
        for layer in range(3)
    ]
    hooks += write(adapter, "z", 2, batch, lambda values: values * 0)
    changed = adapter.resume(batch, 2, pre, hooks)
    assert ran == [2]
    assert not torch.allclose(real(changed, batch), real(end, batch), atol=1e-3)

    def fail(values: Tensor, hook: Any) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="^stop$"):
        adapter.resume(batch, 2, pre, [(adapter.hook_name("z", 2), fail)])
    assert not any("forward" in vars(block) for block in adapter.model.blocks)
    assert torch.equal(adapter.logits(batch), plain)


@each_host
def test_a_resumed_pass_of_a_planted_model(host: Host) -> None:
    circuit = testbed.load_circuit("induction")
    adapter = model_adapter(circuit.model(host.name))
    batch = batch_of([[0, 3, 5, 3], [0, 4, 6, 9, 4, 6]])
    pre, end = recorded(adapter, batch, ("resid_pre", 1), ("resid_post", 1))
    assert torch.equal(real(adapter.resume(batch, 1, pre), batch), real(end, batch))
