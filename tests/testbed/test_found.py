"""The analyses find what was planted: their effects are those of planted attention, on every host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from resonance_lens import testbed
from resonance_lens.hooks import attach
from resonance_lens.registry import get_analysis
from resonance_lens.testbed.expectation import MINIMUM_EFFECTS, claims
from resonance_lens.trials import result_of
from tests.models import hosts

NAMES = [circuit.name for circuit in testbed.list_circuits()]
DRIVEN = ("delay_chain", "alternating", "limiter")
"""Circuits that are made for their answer to a wave; their attention is that of others."""


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


@pytest.mark.slow
def test_what_is_planted_is_found_and_nothing_else_over_twenty_seeds() -> None:
    """Every planted place has q <= .05 in every seed, and false ones are few: by the share of discoveries
    that are false, and by the families of a circuit and a claim in which there is one."""
    proportions: list[float] = []
    missed: list[tuple[Any, ...]] = []
    wrong: dict[tuple[str, ...], list[bool]] = {}
    for name in (name for name in NAMES if name not in DRIVEN):
        circuit = testbed.load_circuit(name)
        adapter = attach(circuit.model())
        for seed in range(20):
            # Where a head follows a token that may be anywhere, distances differ by as much as they mean.
            n_prompts = 96 if name == "locked" else 24
            rows = circuit.tokens(np.random.default_rng([4, seed]), n_prompts, 40)
            for claim, expected in circuit.truth["claims"].items():
                analysis, _, variable = claim.partition(".")
                data = result_of(get_analysis(analysis)(), adapter, rows, seed=seed).data.sel(category="all")
                for first_position in ("keep", "drop"):
                    q = data[f"{variable}_q"].sel(first_position=first_position).values
                    found = q <= 0.05
                    truth = expected[first_position]
                    for place in truth["finds"]:
                        if not found[tuple(place)]:
                            missed.append((name, seed, claim, place))
                    false = sum(bool(found[tuple(place)]) for place in truth["nothing"])
                    proportions.append(false / max(1, int(found.sum())))
                    if truth["nothing"]:
                        wrong.setdefault((name, claim, first_position), []).append(false > 0)
    assert not missed
    assert np.mean(proportions) <= 0.05
    most = stats.binom.ppf(0.9999, 20, 0.05)
    assert {family: sum(each) for family, each in wrong.items() if sum(each) > most} == {}


def test_the_smallest_effects_are_those_of_the_claims() -> None:
    for claim, smallest in MINIMUM_EFFECTS.items():
        analysis, _, variable = claim.partition(".")
        stated = {each.variable: each.minimum_effect for each in get_analysis(analysis).claims}
        assert stated[variable] == smallest
