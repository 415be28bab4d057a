"""Every registered analysis under every check: on what it plants, and on every host."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.checks import CHECKS, HOST_CHECKS, Check
from resonance_lens.checks.common import difference
from resonance_lens.contract import Planted
from resonance_lens.errors import ActivationError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import Adapter, attach
from resonance_lens.planting import attention_facts
from resonance_lens.registry import catalogue, get_analysis
from resonance_lens.signal import POSITION_AXES
from resonance_lens.testing import PlantedAdapter, check_analysis, check_model, measure, result_of
from tests import reference_transformer as reference
from tests.models import Host, build, cases, prompts
from tests.reference_transformer import GPT2, Architecture

NAMES = sorted(catalogue())
OF_PROMPTS = [name for name in NAMES if "task" not in get_analysis(name).needs]
PARITY = 1e-5
"""Relative to the largest value of a variable, and absolute below one."""

LENGTHS = (9, 24, 8, 17, 30, 12, 21, 10, 27, 15)
ROWS = prompts(seed=3, lengths=LENGTHS)
CATEGORIES = ["a", "b"] * 5


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
    return attach(host.build(arch))


@cache
def planted_reference(arch: Architecture) -> Planted:
    """Return what the independent transformer finds for `ROWS`, real tokens first."""
    weights = reference.make_weights(arch)
    found = [reference.run(arch, weights, row) for row in ROWS]
    width = max(LENGTHS)
    layers: list[dict[str, torch.Tensor]] = [{} for _ in range(arch.n_layers)]
    for site, layer in found[0]:
        values = []
        for one, length in zip(found, LENGTHS, strict=True):
            array = one[site, layer]
            axes = SITE_AXES[site][1:]
            grown = [(0, width - length) if axis in POSITION_AXES else (0, 0) for axis in axes]
            values.append(np.pad(np.where(np.isfinite(array), array, 0.0), grown))
        layers[layer][site] = torch.from_numpy(np.stack(values))
    facts = attention_facts(
        n_layers=arch.n_layers, n_heads=arch.n_heads, d_model=arch.d_model, d_vocab=arch.d_vocab
    )

    def readout(residual: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(reference.readout(arch, weights, residual.numpy()))

    return Planted(layers, torch.tensor(LENGTHS), facts, lambda data: None, readout)


@cache
def expected(name: str, arch: Architecture) -> xr.Dataset:
    adapter = PlantedAdapter(planted_reference(arch))
    return result_of(
        get_analysis(name)(), adapter, adapter.tokens(), batch_size=1, categories=CATEGORIES
    ).data


@pytest.mark.host
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
@pytest.mark.parametrize("name", OF_PROMPTS)
class TestHost:
    @pytest.mark.parametrize("check", HOST_CHECKS, ids=lambda check: check.__name__)
    def test_contract(self, name: str, host: Host, arch: Architecture, check: Check) -> None:
        check(get_analysis(name), attached(host, arch))

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_equals_the_reference(self, name: str, host: Host, arch: Architecture, side: str) -> None:
        """All hosts equal one transformer that shares nothing with them, and so each other."""
        got = result_of(
            get_analysis(name)(), attached(host, arch), ROWS, padding_side=side, categories=CATEGORIES
        ).data
        assert difference(expected(name, arch), got, PARITY, smallest=1.0) is None

    def test_there_is_something_to_agree_on(self, name: str, host: Host, arch: Architecture) -> None:
        analysis = get_analysis(name)()
        data = result_of(analysis, attached(host, arch), ROWS).data
        assert float(data[f"{analysis.headline}_prompt"].std()) > 1e-2


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
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
@pytest.mark.parametrize("name", OF_PROMPTS)
def test_broken_weights_are_refused(name: str, host: Host, arch: Architecture) -> None:
    """One weight that is not a number: the first layer that it reaches is named."""
    model = host.build(arch)
    adapter = attach(model)
    block = model.blocks[1]
    with torch.no_grad():
        next(iter(block.mlp.parameters())).fill_(float("nan"))
    site = get_analysis(name).sites[0]
    layer = 1 if site.startswith("resid") else 2
    with pytest.raises(ActivationError, match=rf"'{site}' at layer {layer} .*not-a-number"):
        result_of(get_analysis(name)(), adapter, ROWS)
