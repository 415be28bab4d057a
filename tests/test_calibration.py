"""Calibration catches tests that claim too much or nothing, and its records are those of the analyses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from resonance_lens import calibrating
from resonance_lens.analyses.phase_coherence import PhaseCoherence
from resonance_lens.calibrating import calibrate, main, stale, try_once
from resonance_lens.calibration import (
    BUILT_IN,
    LEVELS,
    Calibration,
    Cell,
    calibration_of,
    is_calibrated,
    least,
    most,
    record_path,
    uncalibrated,
)
from resonance_lens.checks.calibrated import check_calibrated
from resonance_lens.contract import Accumulated, Analysis, Planted, Where
from resonance_lens.errors import AnalysisError, ResultError
from resonance_lens.features import Features, stack_layers
from resonance_lens.registry import catalogue, get_analysis
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, Sample, Surrogates
from resonance_lens.stats.streams import stream
from resonance_lens.testing import PlantedAdapter, result_of
from resonance_lens.views.calibration import BEGIN, END, tables, write_page
from resonance_lens.worlds import WORLDS
from tests.plugin_package.attention_extras.to_self import AttentionToSelf

DOCS = Path(__file__).resolve().parents[1] / "docs"
CLAIMING = sorted(name for name in catalogue() if get_analysis(name).claims)
VARIABLE = "coherence_squared"


def cell(**others: Any) -> Cell:
    """Return a cell in which nothing is wrong."""
    sound: dict[str, Any] = {
        "variable": VARIABLE, "world": "iid", "strength": 0.0, "along": {"first_position": "drop"},
        "places": 8, "trials": 400, "reached": (4, 20, 40), "pooled": (0.01, 0.05, 0.1), "family": 20,
        "found": None, "false": 20.0, "below": 0.5, "covered": 0.95, "first": (0.5, 0.25),
    }  # fmt: skip
    return Cell(**{**sound, **others})


def record(*cells: Cell, **others: Any) -> Calibration:
    """Return a record of `PhaseCoherence`, by default with a sound cell of each kind."""
    every = [cell(world=world, strength=s, found=1.0 if s else None) for world in WORLDS for s in (0.0, 2.0)]
    about: dict[str, Any] = {
        "analysis": "phase_coherence", "version": PhaseCoherence.version, "library": "1",
        "parameters": PhaseCoherence().parameters(),
        "claims": json.loads(json.dumps([dataclasses.asdict(c) for c in PhaseCoherence.claims])),
        "seed": 0, "cells": (*every, *cells),
    }  # fmt: skip
    about["claims"] = tuple(about["claims"])
    return Calibration(**{**about, **others})


# -------------------------------------------------------------------------------- sabotaged tests


@dataclass(frozen=True, kw_only=True)
class PermutesEachRow(PhaseCoherence):
    """Permutes the keys of every row on its own, as if the rows of a prompt were independent."""

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        pattern = signals["pattern"].values[..., 1:, 1:]  # the first key left out
        pattern = pattern / pattern.sum(-1, keepdim=True).clamp_min(1e-12)
        n = pattern.shape[-1]
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        slots = torch.arange(n)
        turns = torch.polar(torch.ones(n, n), 2 * torch.pi * slots / (slots[:, None] + 1.0))
        counts = (slots >= self.min_keys) & (slots[None] < where.lengths[:, None] - 1)
        generator = torch.Generator().manual_seed(1 + (where.layer or 0))

        def mean_square(order: torch.Tensor) -> torch.Tensor:
            square = (pattern.gather(-1, order) * turns).sum(-1).abs() ** 2  # [batch, head, query]
            return (square * counts[:, None]).sum(-1) / counts.sum(-1)[:, None]

        def shuffled() -> torch.Tensor:
            keys = torch.rand(pattern.shape, generator=generator).masked_fill(~seen, 2.0)
            return keys.argsort(-1)

        given = mean_square(slots.expand(pattern.shape))
        draws = torch.stack([mean_square(shuffled()) for _ in range(19)], dim=-1)
        return Features.of(where.prompts, rows={"value": given, "draws": draws})

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        return stack_layers(layers)

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        value, draws = (seen.plain.rows[name].mean(0) for name in ("value", "draws"))
        twice = Surrogates(np.stack([value] * 2), np.moveaxis(np.stack([draws] * 2), -1, 0))
        return {VARIABLE: {"all": twice}}


@dataclass(frozen=True, kw_only=True)
class NeverSaysAnything(PhaseCoherence):
    """Its differences cancel whatever the heads do."""

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        given = super().samples(seen)[VARIABLE]["all"]
        assert isinstance(given, Sample)
        sign = (-1.0) ** np.arange(len(given.value))
        return {VARIABLE: {"all": Sample(given.null + sign[:, None, None, None], given.null)}}


def test_a_permutation_of_each_row_is_caught_where_noise_persists() -> None:
    found = calibrate(PermutesEachRow(), trials=30, strengths=(), worlds=["persistent"], progress=False)
    (worst,) = [
        problem
        for problem in found.problems()
        if problem.startswith(f"p of '{VARIABLE}' is at most 0.05 in ") and "position drop" in problem
    ]
    assert worst.endswith(" of 30 trials where noise persists (first_position drop)")
    keep = next(each for each in found.cells)
    assert keep.reached[1] / 30 > 0.3, "it is anti-conservative by far"


def test_the_same_permutation_keeps_its_word_where_rows_are_independent() -> None:
    """So what is caught is the persistence, not the implementation."""
    found = calibrate(PermutesEachRow(), trials=30, strengths=(), worlds=["iid"], progress=False)
    assert not [problem for problem in found.problems() if problem.startswith("p of")]


def test_a_test_that_never_rejects_is_caught_by_its_power() -> None:
    found = calibrate(NeverSaysAnything(), trials=20, strengths=(3.0,), worlds=["iid"], progress=False)
    said = [problem for problem in found.problems() if "finds" in problem]
    assert said and said[0] == (
        "q of 'coherence_squared' finds 0.0% of what is planted in 20 trials where all is independent "
        "(first_position keep) with a plant of strength 3"
    )
    assert not [problem for problem in found.problems() if problem.startswith(("p of", "some q"))]


def test_a_q_that_is_a_p_is_caught_by_its_family() -> None:
    analysis = PhaseCoherence()
    made = [try_once(analysis, "iid", 0.0, 0, index)[VARIABLE] for index in range(40)]
    (claim,) = analysis.claims
    sound, careless = (
        list(calibrating._cells(claim, trials, "iid", 0.0))
        for trials in (made, [replace(trial, q=trial.p) for trial in made])
    )
    assert not [problem for each in sound for problem in each.problems(0.0) if "some q" in problem]
    for each in careless:
        (problem,) = [problem for problem in each.problems(0.0) if "some q" in problem]
        assert problem.startswith("some q of 'coherence_squared' is at most 0.05 without reason in ")


# ------------------------------------------------------------------------------------ the verdict


def test_a_sound_record_has_no_problems() -> None:
    assert record().problems() == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"reached": (4, 60, 60)}, "p of 'coherence_squared' is at most 0.05 in 15.0% of 400 trials where"),
        ({"reached": (30, 30, 40)}, "is at most 0.01 in 7.5% of 400 trials"),
        ({"family": 50}, "some q of 'coherence_squared' is at most 0.05 without reason in 12.5% of 400"),
        ({"strength": 2.0, "found": 0.5}, "finds 50.0% of what is planted in 400 trials"),
        ({"strength": 2.0, "found": float("nan")}, "finds nan% of what is planted"),
        ({"strength": 2.0, "found": 1.0, "false": 60.0}, "15.0% of what 'coherence_squared' finds is false"),
        ({"trials": 399}, "was tried 399 times where noise persists .*, and 400 are needed"),
    ],
)
def test_a_cell_that_fails_is_named(wrong: dict[str, Any], says: str) -> None:
    (problem,) = record(cell(world="persistent", **wrong)).problems()
    assert problem.find("persists (first_position drop)") > 0
    assert re.search(says, problem), problem


def test_conservative_tests_and_weak_plants_are_let_pass() -> None:
    weak = cell(strength=1.0, found=0.1)
    assert record(cell(reached=(0, 0, 0), family=0), weak).problems() == []


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_no_world_can_be_left_out(world: str, strength: float) -> None:
    whole = record()
    left = tuple(c for c in whole.cells if (c.world, c.strength) != (world, strength))
    (problem,) = replace(whole, cells=left).problems()
    assert problem.startswith("'coherence_squared' was not tried where ")


@pytest.mark.parametrize("rate", LEVELS)
@pytest.mark.parametrize("trials", [60, 400, 1000])
def test_bounds_are_those_of_the_binomial(rate: float, trials: int) -> None:
    high, low = most(rate, trials), least(rate, trials)
    assert stats.binom.sf(high, trials, rate) <= 0.0005 < stats.binom.sf(high - 1, trials, rate)
    assert stats.binom.cdf(low - 1, trials, rate) < 0.0005 <= stats.binom.cdf(low, trials, rate)


# ------------------------------------------------------------------------------------- the trials


def test_the_same_seed_gives_the_same_record() -> None:
    def made(seed: int) -> str:
        settings: dict[str, Any] = {"strengths": (1.0,), "worlds": ["iid"], "progress": False}
        return calibrate(PhaseCoherence(), trials=3, seed=seed, **settings).to_json()

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_a_trial_says_what_a_run_says() -> None:
    """p and q of a trial are those of the engine, from the same input and seed."""
    analysis = PhaseCoherence()
    labels = (analysis.name, "persistent", "3", 7)
    planted = analysis.trial(stream(0, *labels, "input"), "persistent", 3.0)
    rows = [[0] * int(length) for length in planted.lengths]
    seed = int(stream(0, *labels, "test").integers(2**31))
    data = result_of(analysis, PlantedAdapter(planted), rows, seed=seed).data.sel(category="all")
    trial = try_once(analysis, "persistent", 3.0, 0, 7)[VARIABLE]
    assert np.array_equal(trial.p, data.coherence_squared_p.values.reshape(2, -1))
    assert np.array_equal(trial.q, data.coherence_squared_q.values.reshape(2, -1))
    assert np.array_equal(trial.low, data.coherence_squared_effect.values.reshape(2, -1) < 0)
    assert np.array_equal(trial.truth, planted.truth[VARIABLE].ravel())


def test_counts_by_hand() -> None:
    """Three trials of four places, the last one planted."""
    truth = np.array([False, False, False, True])
    p = [[0.004, 0.5, 0.5, 0.001], [0.5, 0.03, 0.5, 0.5], [0.5, np.nan, 0.08, 0.01]]
    q = [[0.01, 0.9, 0.9, 0.004], [0.9, 0.09, 0.9, 0.9], [0.9, np.nan, 0.2, 0.03]]
    low = np.array([True, False, True, False])
    trials = [
        calibrating.Trial(np.array(a), np.array(b), low, None, truth) for a, b in zip(p, q, strict=True)
    ]
    found = calibrating._cell(PhaseCoherence.claims[0], trials, "iid", 2.0, {})
    # One place in turn: the first, the second; of the third trial the first, for the second has no value.
    assert found.first == (0.004, 0.03, 0.5)
    assert found.reached == (1, 2, 2)
    assert found.pooled == (round(1 / 8, 4), round(2 / 8, 4), round(3 / 8, 4))
    assert found.family == 1
    assert found.found == round(2 / 3, 4)
    assert found.false == 0.5, "one of two in the first trial, none of one in the last"
    assert found.below == 1.0
    assert found.places == 4


def test_truth_is_asked_for() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(PhaseCoherence):
        """Plants, and does not say where."""

        def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
            return replace(super().trial(rng, world, strength), truth={})

    with pytest.raises(
        AnalysisError, match=r"truth\['coherence_squared'\] .* shape \(2, 12\) over \(layer, h"
    ):
        try_once(Silent(), "iid", 0.0, 0, 0)


def test_an_analysis_that_claims_nothing_is_refused() -> None:
    with pytest.raises(AnalysisError, match="attention_to_self has no claims"):
        calibrate(AttentionToSelf(), progress=False)


# ------------------------------------------------------------------------------------ the records


def test_a_record_comes_back_from_its_text() -> None:
    given = record()
    assert Calibration.from_json(given.to_json()) == given
    with pytest.raises(AnalysisError, match="no record of a calibration"):
        Calibration.from_json('{"cells": 3}')


def third_party(folder: Path, text: str = "") -> Analysis:
    """Return an analysis of a module of its own."""
    path = folder / "theirs.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from resonance_lens.analyses.phase_coherence import PhaseCoherence\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        f"class Theirs(PhaseCoherence):\n    '''Theirs.'''\n{text}"
    )
    spec = importlib.util.spec_from_file_location("theirs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["theirs"] = module
    spec.loader.exec_module(module)
    made: Analysis = module.Theirs()
    return made


def test_a_record_is_found_beside_its_module(tmp_path: Path) -> None:
    theirs = third_party(tmp_path)
    path = tmp_path / "calibration" / "phase_coherence.json"
    assert record_path(theirs) == path
    assert calibration_of(theirs) is None and not is_calibrated(theirs)
    said = (
        "there is no record of trials; make one with `python -m resonance_lens.calibrating phase_coherence`"
    )
    assert uncalibrated(theirs) == said
    path.parent.mkdir()
    path.write_text(record().to_json())
    assert calibration_of(theirs) == record() and is_calibrated(theirs)
    path.write_text(record(cell(family=50)).to_json())
    assert uncalibrated(theirs).startswith("some q of 'coherence_squared' is at most 0.05 without reason")
    path.write_text(record(version="0").to_json())
    assert calibration_of(theirs) is None
    assert uncalibrated(theirs).startswith("its record is of version 0, and this is version 1; make another")
    path.write_text(record(claims=()).to_json())
    assert calibration_of(theirs) is None
    assert uncalibrated(theirs).startswith("its record is of other claims")


def test_the_check_says_what_is_missing(tmp_path: Path) -> None:
    check_calibrated(AttentionToSelf)  # which claims nothing
    with pytest.raises(AssertionError, match="^uncalibrated: there is no record of trials"):
        check_calibrated(third_party(tmp_path))

    @dataclass(frozen=True, kw_only=True)
    class NamesANull(AttentionToSelf):
        """Names a null, and tests nothing."""

        nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)

    with pytest.raises(AssertionError, match="permuted_keys is named, and nothing is claimed against it"):
        check_calibrated(NamesANull)


def test_a_record_of_another_analysis_than_today_s_is_stale() -> None:
    kept = calibrate(PhaseCoherence(), trials=3, strengths=(), worlds=["iid"], progress=False)
    assert stale(PhaseCoherence(), kept) == ""
    said = stale(PhaseCoherence(circle="half"), kept)
    assert said.startswith(
        "p of 'coherence_squared' in trial 0 where all is independent (first_position keep)"
    )
    assert "when the record was made" in said


@pytest.mark.parametrize("name", CLAIMING)
def test_every_built_in_analysis_is_calibrated(name: str) -> None:
    """That its record comes out again today is one of the common checks: `check_calibrated`."""
    assert calibration_of(get_analysis(name)()) is not None
    assert uncalibrated(get_analysis(name)()) == ""


# ------------------------------------------------------------------------- the command and the page


def test_the_command_makes_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["belief_collapse", "--trials", "2", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "belief_collapse.json").read_text()
    assert {each.trials for each in Calibration.from_json(text).cells} == {2}
    assert (
        "uncalibrated: 'entropy_drop' was tried 2 times where all is independent" in capsys.readouterr().out
    )
    assert main(["no_such_analysis"]) == 2
    assert "no_such_analysis" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


def test_the_page_holds_the_records() -> None:
    records = [Calibration.from_json((BUILT_IN / f"{name}.json").read_text()) for name in CLAIMING]
    page = (DOCS / "calibration.md").read_text()
    assert page.split(BEGIN)[1].split(END)[0].strip() == tables(records).strip()
    assert (DOCS / "images" / "calibration.svg").is_file()


def test_the_page_is_written_between_its_markers(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="has no place for the table"):
        write_page([record()], tmp_path)
    (tmp_path / "images").mkdir()
    page = tmp_path / "calibration.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    bad = cell(world="persistent", family=50, reached=(0, 0, 0))
    kept = [c for c in record().cells if (c.world, c.strength) != ("persistent", 0.0)]
    shown = replace(record(), cells=(*kept, bad))
    write_page([shown], tmp_path)
    once, picture = page.read_text(), (tmp_path / "images" / "calibration.svg").read_bytes()
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once
    assert "**0.125**" in once and "*0.000*" in once, "what fails is bold, what is conservative in italics"
    write_page([shown], tmp_path)
    assert page.read_text() == once
    assert (tmp_path / "images" / "calibration.svg").read_bytes() == picture


def test_sizes_of_a_symmetric_null_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences that are symmetric about zero: sign flips are exact whatever the number of prompts."""

    @dataclass(frozen=True, kw_only=True)
    class Symmetric(PhaseCoherence):
        """Its differences are normal."""

        def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
            value = np.random.default_rng(seen.seed).normal(size=(len(seen.prompt_ids), 2, 8, 8))
            return {VARIABLE: {"all": Sample(value, np.zeros_like(value))}}

    monkeypatch.setattr(calibrating, "SIZED", (12,))
    monkeypatch.setattr(calibrating, "SIZED_PROMPTS", 100)
    (row,) = calibrating.sizes(Symmetric(), trials=120, progress=False)
    assert row["prompts"] == 12
    assert all(row[name] <= most(0.05, 120) / 120 for name in ("p", "q8", "q64"))
