"""What SmolLM2 does with waves: three roads give one response, and another seed says the same.

These are small versions of what docs/frequency_response.md reports: fewer prompts, directions and tokens. The
limits were set after the large runs were seen.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
import xarray as xr
from torch import Tensor

import resonance_lens as rl
from tests.benchmarks import roads
from tests.models import smollm2

pytestmark = pytest.mark.slow

SETUP = roads.Setup(layer=15, heard=(15, 22), tokens=32, period=8, directions=1, draws=8, at_once=31)


@cache
def responses() -> dict[str, Tensor]:
    return roads.measure(smollm2(), roads.documents(smollm2(), 4, SETUP.tokens), SETUP)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two sets of responses, as a share of the second, at any layer."""
    size = other.abs().square().sum((0, 1, 3, 4))
    return float(((one - other).abs().square().sum((0, 1, 3, 4)) / size).sqrt().max())


def test_tones_and_impulses_give_one_response_in_each_prompt() -> None:
    found = responses()
    assert apart(found["tones"], found["impulses"]) < 0.06  # what is left is not linear
    # Without the second tone of a pair the mirror image stays: the model is no filter.
    turned = found["tones"][:, :, :, torch.arange(len(SETUP.timing.lines)).flip(0)]
    assert apart(turned, found["impulses"]) > 0.2


@pytest.mark.parametrize("pair", [("tones", "impulses"), ("tones", "multisine"), ("impulses", "multisine")])
def test_coherent_gains_agree_within_their_intervals(pair: tuple[str, str]) -> None:
    one, other = (roads.coherent(responses()[road]) for road in pair)
    assert bool(one.agrees(other).all()), (one, other)
    # Intervals of four prompts are wide, so that gains themselves are held together, too.
    limit = 0.01 if "multisine" not in pair else 0.1
    assert float((one.gain / other.gain - 1).abs().max()) < limit


@cache
def seed(number: int) -> xr.Dataset:
    rows = roads.documents(smollm2(), 2, 96)
    given = {"frequency_response": {"layer": 15, "directions": 2}}
    run = rl.run(
        smollm2(),
        rows,
        "frequency_response",
        parameters=given,
        baselines=["random_weights"],
        seed=number,
        progress=False,
    )
    data: xr.Dataset = run["frequency_response"].data.sel(driven=15)
    return data


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_said_of_smollm2_holds_for_each_seed(number: int) -> None:
    data = seed(number)
    last = data.sel(category="all").isel(layer=-1)
    slow, fast = last.gain_rms.values[[0, -1]]
    assert slow > 1.3 * fast
    slow, fast = last.gain_rms_random_weights.values[[0, -1]]
    assert abs(slow / fast - 1) < 0.05
    share = data.time_invariant.sel(layer=[15, 18, 25, 29]).values
    assert share[0] > 0.6 and (share[:-1] > share[1:]).all()
    assert float(data.nonlinear.max()) < 0.04
    assert bool(data.resonance.isnull().all())
    assert float(data.before_onset) == 0
