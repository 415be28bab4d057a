"""Every registered analysis under every check: on what it plants, and on every host."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.checks import CHECKS, HOST_CHECKS, Check
from resonance_lens.checks.common import difference
from resonance_lens.contract import Planted
from resonance_lens.errors import ActivationError, AdapterError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import Adapter, attach
from resonance_lens.observing import layers_of
from resonance_lens.planting import attention_facts
from resonance_lens.registry import catalogue, get_analysis
from resonance_lens.signal import POSITION_AXES
from resonance_lens.testing import PlantedAdapter, check_analysis, check_model, measure, result_of
from tests import reference_transformer as reference
from tests.models import Host, build, cases, cases_with, hosts, prompts
from tests.reference_transformer import ARCHITECTURES, GPT2, LLAMA, Architecture

NAMES = sorted(catalogue())
OF_PROMPTS = [name for name in NAMES if "task" not in get_analysis(name).needs]
PARITY = 1e-5
"""Relative to the largest value of a variable, and absolute below one."""

LENGTHS = (9, 24, 8, 17, 30, 12, 21, 10, 27, 15)
CATEGORIES = ["a", "b"] * 5
RARITY = torch.from_numpy(np.random.default_rng(5).permutation(np.linspace(0, 1, GPT2.d_vocab)))
"""Of the tokens of the tiny models, which occur in no corpus."""


def rows_of(name: str) -> list[list[int]]:
    """Return prompts of mixed lengths, the shortest as long as an analysis needs or 8."""
    extra = max(0, get_analysis(name)().min_tokens - min(LENGTHS))
    return prompts(seed=3, lengths=tuple(length + extra for length in LENGTHS))


def rarity(corpus: str, tokens: torch.Tensor) -> torch.Tensor:
    return RARITY[tokens]


def classes(rule: str, tokens: torch.Tensor) -> torch.Tensor:
    """Return three classes, and none for every fourth of the tokens, which are no English words."""
    return tokens % 4 - 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, check: Check) -> None:
    if check.__name__ == "check_gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    check(get_analysis(name), None)


def test_the_whole_battery_at_once() -> None:
    check_analysis(get_analysis(NAMES[0]), build(GPT2))


# ------------------------------------------------------------------------------------ on every host


@cache
def attached(host: Host, arch: Architecture) -> Adapter:
    adapter = attach(host.build(arch, text=True))
    adapter.token_rarity = rarity  # type: ignore[method-assign]
    adapter.token_labels = classes  # type: ignore[method-assign]
    return adapter


def turn_of(name: str) -> Architecture:
    """Return the architecture that an analysis is tried on where it is not tried on all: see `cases_with`."""
    rotary = {"rot_q", "rot_k"} & set(get_analysis(name).sites)
    able = [arch for arch in ARCHITECTURES if arch.rotary_dims or not rotary]
    return able[OF_PROMPTS.index(name) % len(able)]


def refusal(name: str, adapter: Adapter) -> str:
    """Return why a host cannot serve an analysis, or nothing if it can."""
    try:
        layers_of(adapter, [get_analysis(name)()])
    except AdapterError as error:
        return str(error)
    return ""


@cache
def planted_reference(name: str, arch: Architecture) -> Planted:
    """Return what the independent transformer finds for `rows_of` an analysis, real tokens first."""
    weights = reference.make_weights(arch)
    rows = rows_of(name)
    found = [reference.run(arch, weights, row) for row in rows]
    lengths = [len(row) for row in rows]
    width = max(lengths)
    layers: list[dict[str, torch.Tensor]] = [{} for _ in range(arch.n_layers)]
    for site, layer in found[0]:
        values = []
        for one, length in zip(found, lengths, strict=True):
            array = one[site, layer]
            axes = SITE_AXES[site][1:]
            grown = [(0, width - length) if axis in POSITION_AXES else (0, 0) for axis in axes]
            values.append(np.pad(np.where(np.isfinite(array), array, 0.0), grown))
        layers[layer][site] = torch.from_numpy(np.stack(values))
    facts = attention_facts(
        n_layers=arch.n_layers,
        n_heads=arch.n_heads,
        n_kv_heads=arch.n_kv_heads,
        d_model=arch.d_model,
        d_vocab=arch.d_vocab,
        rotary_dims=arch.rotary_dims,
        rotary_base=arch.rotary_base or 1.0,
    )
    facts = replace(facts, d_head=arch.d_head)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)

    def readout(residual: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(reference.readout(arch, weights, residual.numpy()))

    def ov_alignment(layer: int) -> torch.Tensor:
        return torch.from_numpy(reference.ov_alignment(arch, weights, layer))

    def respond(
        layer: int, added: torch.Tensor, prompts: tuple[int, ...]
    ) -> dict[int, dict[str, torch.Tensor]]:
        responses = {at: torch.zeros_like(added) for at in range(layer, arch.n_layers)}
        for row, values in enumerate(added.numpy()):
            prompt = prompts[row % len(prompts)]
            length = lengths[prompt]
            driven = reference.run(arch, weights, rows[prompt], (layer, values[:length]))
            for at, response in responses.items():
                change = driven["resid_post", at] - found[prompt]["resid_post", at]
                response[row, :length] = torch.from_numpy(change)
        return {at: {"resid_post": response} for at, response in responses.items()}

    @cache
    def read(ids: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
        again = reference.run(arch, weights, ids)
        return [
            {site: torch.from_numpy(value) for (site, at), value in again.items() if at == layer}
            for layer in range(arch.n_layers)
        ]

    return Planted(
        layers,
        torch.tensor(lengths),
        facts,
        lambda data: None,
        readout,
        ov_alignment=ov_alignment,
        token_rarity=rarity,
        token_labels=classes,
        tokens=tokens,
        respond=respond,
        read=read,
    )


STEPS = {"complexity": "lempel_ziv"}
"""Analyses one quantity of which is a count of symbols, and its name: symbols of values beside the median."""


@cache
def expected(name: str, arch: Architecture) -> xr.Dataset:
    adapter = PlantedAdapter(planted_reference(name, arch))
    return result_of(
        get_analysis(name)(), adapter, adapter.tokens(), batch_size=1, categories=CATEGORIES
    ).data


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "host", "arch"),
    [(name, *case) for name in OF_PROMPTS for case in cases_with(turn_of(name))],
    ids=str,
)
class TestHost:
    @pytest.mark.parametrize("check", HOST_CHECKS, ids=lambda check: check.__name__)
    def test_contract(self, name: str, host: Host, arch: Architecture, check: Check) -> None:
        check(get_analysis(name), attached(host, arch))

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_equals_the_reference(self, name: str, host: Host, arch: Architecture, side: str) -> None:
        """All hosts equal one transformer that shares nothing with them, and so each other."""
        if why := refusal(name, attached(host, arch)):
            assert why.startswith(arch.name) and "use " in why, "a refusal names the model and a way out"
            with pytest.raises(AdapterError):
                layers_of(PlantedAdapter(planted_reference(name, arch)), [get_analysis(name)()])
            return
        got = result_of(
            get_analysis(name)(),
            attached(host, arch),
            rows_of(name),
            padding_side=side,
            categories=CATEGORIES,
        ).data
        wanted = expected(name, arch)
        spread = float(wanted[f"{get_analysis(name).headline}_prompt"].std())
        assert spread > 1e-2, "there is nothing to agree on"
        if steps := STEPS.get(name):
            # Rounding moves a value across a step in a prompt or two of a hundred, and means with it.
            same = np.isclose(got[f"{steps}_prompt"], wanted[f"{steps}_prompt"], atol=1e-4, equal_nan=True)
            assert same.mean() > 0.97
            left = [variable for variable in map(str, wanted) if variable.startswith(steps)]
            wanted, got = wanted.drop_vars(left), got.drop_vars(left)
        if "scope_response" in wanted:  # token by token, where rounding is not averaged out
            np.testing.assert_allclose(got.scope_response, wanted.scope_response, atol=1e-3)
            wanted, got = wanted.drop_vars("scope_response"), got.drop_vars("scope_response")
        assert difference(wanted, got, PARITY, smallest=1.0) is None


@pytest.mark.host
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
def test_check_model(host: Host, arch: Architecture) -> None:
    table = check_model(host.build(arch))
    assert all(proof.problem is None for proof in table)
    assert sum(not proof.missing for proof in table) >= 12


@pytest.mark.parametrize("name", [name for name in NAMES if "pattern" in get_analysis(name).sites])
def test_rows_of_zeros_are_refused(name: str) -> None:
    """Which is what HookedTransformer makes of rows that are not a number."""
    planted = get_analysis(name)().plant(np.random.default_rng(0))
    row, length = 1, int(planted.lengths[1])
    planted.layers[1]["pattern"][row, 0, length - 1] = 0.0
    with pytest.raises(ActivationError, match="'pattern' at layer 1 hold rows that are all zero"):
        measure(get_analysis(name)(), planted)


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
@pytest.mark.parametrize("name", OF_PROMPTS)
def test_broken_weights_are_refused(name: str, host: Host) -> None:
    """One weight that is not a number: the first layer that it reaches is named."""
    if refusal(name, attached(host, LLAMA)):
        return
    model = host.build(LLAMA, text=True)
    adapter = attach(model)
    adapter.token_rarity = rarity  # type: ignore[method-assign]
    adapter.token_labels = classes  # type: ignore[method-assign]
    block = model.blocks[1]
    with torch.no_grad():
        next(iter(block.mlp.parameters())).fill_(float("nan"))
    # The residual after the MLP holds it at once, attention in the next layer.
    sites = get_analysis(name).sites
    layer = 1 if {"resid_post", "mlp_out"} & set(sites) else 2
    with pytest.raises(ActivationError, match=rf"'({'|'.join(sites)})' at layer {layer} .*not-a-number"):
        result_of(get_analysis(name)(), adapter, rows_of(name))
