"""The analyses find what was planted: their effects are those of planted attention, on every host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from resonance_lens import testbed
from resonance_lens.claims import samples_of
from resonance_lens.contract import Analysis
from resonance_lens.features import Features
from resonance_lens.hooks import Adapter, attach
from resonance_lens.prompts import EVERYTHING
from resonance_lens.registry import get_analysis
from resonance_lens.stats.inference import infer
from resonance_lens.stats.streams import stream
from resonance_lens.testbed.circuit import Circuit
from resonance_lens.testbed.expectation import MINIMUM_EFFECTS, claims
from resonance_lens.trials import accumulated, observe, result_of
from tests.models import hosts

NAMES = [circuit.name for circuit in testbed.list_circuits()]
DRIVEN = ("delay_chain", "alternating", "limiter")
"""Circuits that are made for their answer to a wave; their attention is that of others."""
SEEDED = [name for name in NAMES if name not in DRIVEN]


@pytest.mark.host
@pytest.mark.parametrize("host", [host.name for host in hosts()])
@pytest.mark.parametrize("name", NAMES)
def test_effects_are_those_of_planted_attention(host: str, name: str) -> None:
    circuit = testbed.load_circuit(name)
    rows = circuit.tokens(np.random.default_rng(4), 24, 40)
    planted = claims(np.stack([circuit.patterns(row) for row in rows]), (), ())
    adapter = attach(circuit.model(host=host))
    for claim in MINIMUM_EFFECTS:
        analysis, _, variable = claim.partition(".")
        data = result_of(get_analysis(analysis)(), adapter, rows).data.sel(category="all")
        for first_position in ("keep", "drop"):
            measured = data[f"{variable}_effect"].sel(first_position=first_position).values
            wanted = np.array(planted[claim][first_position]["effect"], dtype=float)
            assert np.allclose(measured, wanted, atol=2e-4), (claim, first_position)


def q_values(analysis: Analysis, adapter: Adapter, rows: Any, seed: int) -> dict[str, xr.DataArray]:
    """Return q of each claim from the engine's own parts, without the bounds and words of a result.

    These take most of the time, and nothing here looks at them; that q is the same is tested below.
    """
    features = reduce(Features.merge, observe(analysis, adapter, rows))
    samples = samples_of(analysis, accumulated(analysis, adapter, features, seed=seed))
    found = {}
    for claim in analysis.claims:
        flips = stream(seed, analysis.name, claim.variable, "flips", EVERYTHING)
        family = [claim.dims.index(dim) for dim in claim.family]
        sample = samples[claim.variable][EVERYTHING]
        q = infer(sample, family, flips, correction=claim.correction).q
        found[claim.variable] = xr.DataArray(q, {"first_position": ["keep", "drop"]}, claim.dims)
    return found


def drawn(circuit: Circuit, seed: int) -> Any:
    """Return prompts of a circuit."""
    # Where a head follows a token that may be anywhere, distances differ by as much as they mean.
    n_prompts = 96 if circuit.name == "locked" else 24
    return circuit.tokens(np.random.default_rng([4, seed]), n_prompts, 40)


@dataclass(frozen=True)
class Seeds:
    """What twenty seeds of a circuit gave.

    Attributes
    ----------
    missed
        Planted places with q above 0.05: seed, claim, place.
    proportions
        Of the discoveries of each seed, claim and first position: the share that is false.
    wrong
        By claim and first position: in how many seeds there was a false discovery.
    """

    missed: list[tuple[Any, ...]]
    proportions: list[float]
    wrong: dict[tuple[str, str], int]


@cache
def over_seeds(name: str) -> Seeds:
    circuit = testbed.load_circuit(name)
    adapter = attach(circuit.model())
    missed: list[tuple[Any, ...]] = []
    proportions: list[float] = []
    wrong: dict[tuple[str, str], int] = {}
    for seed in range(20):
        rows = drawn(circuit, seed)
        for claim, expected in circuit.truth["claims"].items():
            analysis, _, variable = claim.partition(".")
            q = q_values(get_analysis(analysis)(), adapter, rows, seed)[variable]
            for first_position in ("keep", "drop"):
                found = q.sel(first_position=first_position).values <= 0.05
                truth = expected[first_position]
                missed += [(seed, claim, place) for place in truth["finds"] if not found[tuple(place)]]
                false = sum(bool(found[tuple(place)]) for place in truth["nothing"])
                proportions.append(false / max(1, int(found.sum())))
                if truth["nothing"]:
                    family = (claim, first_position)
                    wrong[family] = wrong.get(family, 0) + (false > 0)
    return Seeds(missed, proportions, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDED)
def test_what_is_planted_is_found_and_nothing_else_over_twenty_seeds(name: str) -> None:
    """Every planted place has q <= .05 in every seed, and families with a false one are few."""
    found = over_seeds(name)
    assert not found.missed
    most = stats.binom.ppf(0.9999, 20, 0.05)
    assert {family: n for family, n in found.wrong.items() if n > most} == {}


@pytest.mark.slow
def test_the_share_of_discoveries_that_are_false_is_that_of_the_level() -> None:
    assert np.mean([share for name in SEEDED for share in over_seeds(name).proportions]) <= 0.05


@pytest.mark.parametrize("name", SEEDED)
def test_q_is_that_of_the_whole_result(name: str) -> None:
    circuit = testbed.load_circuit(name)
    adapter, rows = attach(circuit.model()), drawn(circuit, 3)
    for analysis in {claim.partition(".")[0] for claim in circuit.truth["claims"]}:
        data = result_of(get_analysis(analysis)(), adapter, rows, seed=3).data.sel(category="all")
        for variable, q in q_values(get_analysis(analysis)(), adapter, rows, 3).items():
            np.testing.assert_array_equal(data[f"{variable}_q"].transpose(*q.dims), q)


def test_the_smallest_effects_are_those_of_the_claims() -> None:
    for claim, smallest in MINIMUM_EFFECTS.items():
        analysis, _, variable = claim.partition(".")
        stated = {each.variable: each.minimum_effect for each in get_analysis(analysis).claims}
        assert stated[variable] == smallest
