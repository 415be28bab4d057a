"""The sweep equals a plain loop, on every host: one place and one prompt at a time, whole passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import resonance_lens as rl
from resonance_lens.hooks import ModelAdapter
from resonance_lens.hooks.writing import heads_at, why_not_write
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.operations import get_operation
from resonance_lens.result import Target
from tests.hooks.reading import model_adapter
from tests.models import Host, cases, hosts
from tests.patching.small_pairs import random_pairs
from tests.reference_transformer import GPT2, LLAMA, Architecture

pytestmark = pytest.mark.host

each_case = pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
each_host = pytest.mark.parametrize("host", hosts(), ids=str)

HEADS, LAYERS = ("z", "q", "k", "v", "pattern"), ("resid_pre", "attn_out", "mlp_out")


def sweep(model: Any, pairs: PromptPairs, targets: Any, **options: Any) -> rl.PatchResult:
    """Return a sweep without controls."""
    return rl.patch(model, pairs, targets, controls=options.pop("controls", ()), progress=False, **options)


Place = tuple[str, int, int | None, int | None]
"""Site, layer, head, position; all heads or positions if there is none."""


def by_hand(model: Any, pairs: PromptPairs, places: Sequence[Place], base: str) -> list[list[float]]:
    """Return the logit difference of every pair with one place patched: whole passes, one prompt each.

    Returns
    -------
    list
        ``[place][pair]``. What is put in comes from one pass of the other prompt, for all places.
    """
    found: list[list[float]] = [[] for _ in places]
    names = {ModelAdapter.hook_name(site, layer) for site, layer, _, _ in places}
    for index, read in enumerate(pairs.read.tolist()):
        sides = {"clean": pairs.clean[index], "corrupted": pairs.corrupted[index]}
        run = torch.tensor([sides.pop(base)])
        (other,) = sides.values()
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept: dict[str, Tensor] = kept) -> Callable[..., None]:
            return lambda values, hook: kept.__setitem__(name, values.clone())

        with torch.no_grad():
            model.run_with_hooks(torch.tensor([other]), fwd_hooks=[(name, keep(name)) for name in names])
        for (site, layer, head, at), of_place in zip(places, found, strict=True):
            tokens = slice(None) if at is None else [at]
            name = ModelAdapter.hook_name(site, layer)
            donor = kept[name]

            def put(
                values: Tensor,
                hook: Any,
                donor: Tensor = donor,
                site: str = site,
                head: Any = head,
                tokens: Any = tokens,
            ) -> Tensor:
                values = values.clone()
                if site == "pattern":
                    values[:, head, tokens] = donor[:, head, tokens]
                elif head is None:
                    values[:, tokens] = donor[:, tokens]
                else:
                    values[:, tokens, head] = donor[:, tokens, head]
                return values

            with torch.no_grad():
                logits = model.run_with_hooks(run, fwd_hooks=[(name, put)])[0, read]
            of_place.append(float(logits[pairs.right[index]] - logits[pairs.wrong[index]]))
    return found


@each_case
def test_a_sweep_equals_a_plain_loop(host: Host, arch: Architecture) -> None:
    model, pairs = host.build(arch), random_pairs()
    facts = model_adapter(model).facts
    places: list[Place] = [(site, n, None, None) for site in LAYERS for n in (1, 2)]
    for site in HEADS:
        n_heads = heads_at(site, facts)
        assert n_heads is not None
        places += [(site, 1, n_heads - 1, None), (site, 2, 0, None)]
    targets = [
        Target(site=site, layer=layer, head=head, score=0.0, reason="test") for site, layer, head, _ in places
    ]
    for direction, base in (("denoise", "corrupted"), ("noise", "clean")):
        found = sweep(model, pairs, targets, direction=direction, batch_tokens=40).data
        expected = by_hand(model, pairs, places, base)
        for metric, wanted, place in zip(found.metric.values[0], expected, places, strict=True):
            np.testing.assert_allclose(metric, wanted, atol=2e-5, rtol=1e-5, err_msg=str(place))


@each_host
def test_grouped_heads_are_no_phantoms(host: Host) -> None:
    model, pairs = host.build(LLAMA), random_pairs()
    found = sweep(model, pairs, "k").data
    assert found.target.values.tolist() == [f"L{layer}H{head}" for layer in range(3) for head in range(2)]
    assert found.effect_map.shape == (1, 3, 2)
    np.testing.assert_array_equal(found.effect_map.values.ravel(), found.effect.values.ravel())
    assert bool((abs(found.effect) > 1e-4).all())
    one = found.sel(target="L1H1")  # of the whole dataset, whose maps have dimensions of their own
    assert (int(one.target_layer), int(one.target_head)) == (1, 1)
    assert one.effect.item() == found.effect_map[0, 1, 1].item()


@each_case
def test_positions(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    pairs = random_pairs(lengths=(7, 5, 9), read=-2)
    places = [("z", 1, 2), ("pattern", 1, 2), ("resid_pre", 2, None), ("v", 0, 1)]
    targets = [
        Target(site=site, layer=layer, head=head, positions=(at,), score=0.0, reason="test")
        for site, layer, head in places
        for at in (1, -1)
    ]
    found = sweep(model, pairs, targets)
    assert found.data.target.values.tolist()[:3] == ["L1H2 z @1", "L1H2 z @-1", "L1H2 pattern @1"]
    assert found.data.position.values.tolist() == ["1", "-1"] * 4
    for index, target in enumerate(targets):
        assert target.positions is not None
        at = target.positions[0]
        metric = found.data.metric.isel(operation=0, target=index)
        if at == -1:  # behind the position that is read: what comes later changes nothing
            np.testing.assert_allclose(metric, found.data.metric_base, atol=1e-6)
            continue
        ((*expected,),) = by_hand(model, pairs, [(target.site, target.layer, target.head, at)], "corrupted")
        np.testing.assert_allclose(metric, expected, atol=2e-5, rtol=1e-5)


@each_case
def test_patching_from_itself_changes_nothing(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    pairs = random_pairs()
    same = PromptPairs(
        name="same", clean=pairs.clean, corrupted=pairs.clean, right=pairs.right, wrong=pairs.wrong
    )
    adapter = model_adapter(model)
    sites = [
        site
        for site in (*HEADS, *LAYERS, "scores", "head_out", "resid_mid", "resid_post", "mlp_post")
        if why_not_write(adapter, site, 1) is None
    ]
    targets = [
        Target(site=site, layer=layer, head=head, score=0.0, reason="test")
        for site in sites
        for layer in range(arch.n_layers)
        for head in range(heads_at(site, adapter.facts) or 0) or (None,)
    ]
    assert set(HEADS) <= set(sites) and len(targets) > 50
    for at, controls in ((targets, ()), ("z", ("placebo",))):
        found = sweep(model, same, at, controls=controls)
        np.testing.assert_allclose((found.data.metric - found.data.metric_base).values, 0, atol=5e-6)
        assert float(abs(found.data.effect).max()) < 1e-6
        assert not bool((found.data.effect_q <= 0.05).any())


@each_case
def test_patching_the_whole_stream_gives_the_other_output(host: Host, arch: Architecture) -> None:
    model = host.build(arch)
    pairs = random_pairs()
    found = sweep(model, pairs, "resid_pre").data
    np.testing.assert_allclose(found.metric[0, 0], found.metric_clean, atol=1e-5)
    np.testing.assert_allclose(found.normalized[0, 0], 1.0, atol=1e-5)
    noised = sweep(model, pairs, "resid_post", direction="noise").data
    np.testing.assert_allclose((noised.metric - noised.metric_corrupted).values, 0, atol=1e-5)
    np.testing.assert_allclose(noised.metric_base, noised.metric_clean)


@each_case
def test_patching_every_head_and_mlp_gives_the_other_output(host: Host, arch: Architecture) -> None:
    # Every head and every MLP of the other run: all but the embedding, which is the same where it is read.
    from resonance_lens.hooks.writing import read, write
    from tests.models import batch_of

    adapter, pairs = model_adapter(host.build(arch)), random_pairs()
    batch, other = batch_of(list(map(list, pairs.corrupted))), batch_of(list(map(list, pairs.clean)))
    spots = [(site, layer) for site in ("z", "mlp_out") for layer in range(arch.n_layers)]
    kept: dict[tuple[str, int], Tensor] = {}

    def keep(spot: tuple[str, int]) -> Callable[[Tensor], None]:
        return lambda values: kept.__setitem__(spot, values)

    wanted = adapter.logits(other, [read(adapter, *spot, other, keep(spot)) for spot in spots])
    hooks = [
        hook
        for spot in spots
        for hook in write(adapter, *spot, batch, lambda values, spot=spot: kept[spot])  # type: ignore[misc]
    ]
    got = adapter.logits(batch, hooks)
    rows, at = torch.arange(len(pairs)), torch.tensor(pairs.read.tolist())
    torch.testing.assert_close(got[rows, at], wanted[rows, at], atol=1e-5, rtol=1e-5)


@each_host
def test_operations_see_each_row_alone(host: Host) -> None:
    """Neither the size of a pass nor what else is swept changes a number."""
    model, pairs = host.build(LLAMA), random_pairs(lengths=(7, 5, 9, 7, 5, 9))
    operations = [get_operation(name) for name in ("mean_ablate", "resample_ablate", "zero_ablate")]
    options: dict[str, Any] = {"operation": operations, "controls": ("placebo",)}
    targets = [Target(site="z", layer=1, head=head, score=0.0, reason="test") for head in range(3)]
    whole = sweep(model, pairs, targets, **options).data
    small = sweep(model, pairs, targets, batch_tokens=1, **options).data
    alone = sweep(model, pairs, targets[2:], **options).data
    for found, same in ((small, whole), (alone, whole.isel(target=[2]))):
        np.testing.assert_allclose(found.metric, same.metric, atol=1e-5)
        np.testing.assert_allclose(found.placebo, same.placebo, atol=1e-4)


@each_host
def test_every_registered_operation_runs(host: Host) -> None:
    from resonance_lens.patching.operations import list_operations

    model = host.build(LLAMA)
    pairs = random_pairs(lengths=(24, 24, 21, 21))
    kernels = rl.run(
        model,
        [list(row) for row in pairs.corrupted],
        "attention_filter",
        parameters={"attention_filter": {"min_rows": 1}},
        progress=False,
        baselines=(),
    )["attention_filter"]
    for entry in list_operations():
        operation = get_operation(entry.name)
        site = next(site for site in ("z", "pattern", "rot_q", "q") if site in operation.sites)
        targets = [Target(site=site, layer=1, head=3, score=0.0, reason="test")]
        found = rl.patch(
            model, pairs, targets, operation=operation, allow_look_ahead=True, kernels=kernels, progress=False
        )
        assert bool(np.isfinite(found.data.metric).all()), entry.name
        assert found.data.looks_ahead.values.tolist() == [operation.looks_ahead]
        assert bool(found.data.placebo.notnull().all())
        assert bool(found.data.complement.notnull().all()) == (operation.complement() is not None)


def test_a_model_that_hands_on_more_than_its_stream_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = hosts()[0].build(GPT2), random_pairs()
    expected = sweep(model, pairs, "z")
    assert expected.provenance["resumed_at_layer"]
    resume = ModelAdapter.resume
    entered: list[int] = []

    def unlike(self: Any, batch: Any, layer: int, residual: Tensor, hooks: Any = ()) -> Tensor:
        entered.append(layer)
        return resume(self, batch, layer, residual, hooks) + (layer > 0)

    monkeypatch.setattr(ModelAdapter, "resume", unlike)
    found = sweep(model, pairs, "z")
    assert entered[0] == 2 and set(entered[1:]) == {0}
    assert not found.provenance["resumed_at_layer"]
    assert found.methods.endswith(
        "more from block to block than the residual stream, so every pass is whole."
    )
    np.testing.assert_allclose(found.data.metric, expected.data.metric, atol=1e-5)


def test_pairs_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = hosts()[0].build(LLAMA), random_pairs(lengths=(7, 5, 9, 7, 5, 9))
    whole = sweep(model, pairs, "z", operation="resample_ablate")
    monkeypatch.setattr("resonance_lens.patching.ground.KEPT_BYTES", 1)
    chunked = sweep(model, pairs, "z", operation="resample_ablate")
    np.testing.assert_allclose(chunked.data.metric, whole.data.metric, atol=1e-5)
