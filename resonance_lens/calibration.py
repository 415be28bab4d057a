"""How often the tests of an analysis are wrong when they must not be: the record, and its verdict.

An analysis that claims a p is tried many times on input where its nulls are true, and where something is
planted (`resonance_lens.testing.calibrate`). What came out is kept in a file beside the analysis. Reading it
takes no trial: a result says by it whether its claims are calibrated.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from resonance_lens.contract import Analysis
from resonance_lens.errors import AnalysisError
from resonance_lens.stats.inference import LEVEL
from resonance_lens.worlds import WHERE, WORLDS

LEVELS = (0.01, 0.05, 0.1)
"""At which p must come out no more often than it says."""

CONFIDENCE = 0.999
"""Of the binomial intervals, so that a sound analysis fails one of its dozens of cells about once in a
hundred calibrations."""

FEWEST_TRIALS = 400
"""Of one cell."""

STRENGTHS = (1.0, 4.0)
"""Of what is planted."""

POWER = 0.8
"""The share of what is planted most strongly that must be found."""

FIRST = 20
"""Trials of a cell whose p is kept, so that a record can be held against its analysis."""

BUILT_IN = Path(__file__).parent / "data" / "calibration"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one claim said in the trials of one world at one strength.

    Attributes
    ----------
    variable
        Of the claim.
    world, strength
        Of the trials; at strength 0 nothing is planted.
    along
        Which family: by dim of the claim outside its family, the place.
    places
        Of the family, those without a value left out.
    trials
        How many.
    reached
        For each of `LEVELS` the trials in which p was at most that, at one place of the null for each
        trial, in turn: so they are independent, and their number is binomial.
    pooled
        For each of `LEVELS` the share of all places of the null at which p was at most that.
    family
        Trials in which any place of the null had q at most `LEVEL`.
    found
        Share of the planted places with q at most `LEVEL`; ``None`` at strength 0.
    false
        Sum over trials of the share of places of the null among those with q at most `LEVEL`.
    below
        Share of the places of the null with q at most `LEVEL` whose value is below the null; ``None``
        if there are none.
    covered
        Share of the places of the null whose 95 % interval of the effect holds zero; ``None`` for what
        has no interval, and above strength 0.
    first
        p at the one place, in the first trials.
    """

    variable: str
    world: str
    strength: float
    along: Mapping[str, str]
    places: int
    trials: int
    reached: tuple[int, ...]
    pooled: tuple[float, ...]
    family: int
    found: float | None
    false: float
    below: float | None
    covered: float | None
    first: tuple[float | None, ...]

    @property
    def where(self) -> str:
        """The world, and which family of it, as a phrase."""
        others = ", ".join(f"{dim} {place}" for dim, place in self.along.items())
        return WHERE[self.world] + (f" ({others})" if others else "")

    def problems(self, strongest: float) -> Iterator[str]:
        """Yield what is wrong in this cell, one phrase each."""
        what, trials = repr(self.variable), f"{self.trials} trials {self.where}"
        planted = f" with a plant of strength {self.strength:g}" if self.strength else ""
        if self.trials < FEWEST_TRIALS:
            yield f"{what} was tried {self.trials} times {self.where}, and {FEWEST_TRIALS} are needed"
        for level, count in zip(LEVELS, self.reached, strict=True):
            if count > most(level, self.trials):
                share = count / self.trials
                yield f"p of {what} is at most {level:g} in {share:.1%} of {trials}{planted}"
        if self.family > most(LEVEL, self.trials):
            share = self.family / self.trials
            yield f"some q of {what} is at most {LEVEL:g} without reason in {share:.1%} of {trials}{planted}"
        if self.found is None:
            return
        if self.false > most(LEVEL, self.trials):
            yield f"{self.false / self.trials:.1%} of what {what} finds is false in {trials}{planted}"
        if self.strength == strongest and not self.found >= POWER:
            yield f"q of {what} finds {self.found:.1%} of what is planted in {trials}{planted}"


@functools.cache
def most(rate: float, trials: int) -> int:
    """Return the largest number of trials that something of this rate may happen in.

    The upper end of the two-sided binomial interval of confidence `CONFIDENCE`. There is no lower end: a test
    that rejects less often than it says claims nothing wrongly (exact flips of few units have few p), and one
    that never rejects is caught by its power. A share in [0, 1] whose mean is the rate has a sum that is
    no more spread out than the number of trials is, so that false-discovery proportions are held to it too.
    """
    return int(stats.binom.ppf((1 + CONFIDENCE) / 2, trials, rate))


@functools.cache
def least(rate: float, trials: int) -> int:
    """Return the lower end of the same interval: fewer, and the test is conservative."""
    return int(stats.binom.ppf((1 - CONFIDENCE) / 2, trials, rate))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The record of one analysis.

    Attributes
    ----------
    analysis, version
        Its name and version.
    parameters
        That it was tried with.
    claims
        As they were, as plain data.
    library
        Version of this library that made the record.
    seed
        Of the trials.
    cells
        By claim, world, strength and family.
    """

    analysis: str
    version: str
    parameters: Mapping[str, Any]
    claims: tuple[Mapping[str, Any], ...]
    library: str
    seed: int
    cells: tuple[Cell, ...]

    @property
    def strengths(self) -> tuple[float, ...]:
        """Of what was planted, weakest first."""
        return tuple(sorted({cell.strength for cell in self.cells} - {0.0}))

    def problems(self) -> list[str]:
        """Return what is wrong, one phrase for each; none if the claims are calibrated."""
        tried = {(cell.variable, cell.world, cell.strength > 0) for cell in self.cells}
        missing = [
            f"{claim['variable']!r} was not tried {WHERE[world]} with {what} planted"
            for claim in self.claims
            for world in WORLDS
            for planted, what in ((False, "nothing"), (True, "something"))
            if (claim["variable"], world, planted) not in tried
        ]
        strongest = max(self.strengths, default=0.0)
        return missing + [problem for cell in self.cells for problem in cell.problems(strongest)]

    def to_json(self) -> str:
        """Return the record as text, one cell on a line."""
        about = dataclasses.asdict(self)
        cells = ",\n".join(f"  {json.dumps(cell)}" for cell in about.pop("cells"))
        head = json.dumps(about, indent=1)
        return f'{head.removesuffix("}").rstrip()},\n "cells": [\n{cells}\n ]\n}}\n'

    @staticmethod
    def from_json(text: str) -> Calibration:
        """Return the record that :meth:`to_json` wrote.

        Raises
        ------
        AnalysisError
            If it is none.
        """
        try:
            about = json.loads(text)
            cells = tuple(Cell(**{**cell, **_tuples(cell)}) for cell in about.pop("cells"))
            return Calibration(**{**about, "claims": tuple(about["claims"])}, cells=cells)
        except (ValueError, KeyError, TypeError) as error:
            raise AnalysisError(
                f"This is no record of a calibration ({error}); make one with {command('NAME')}."
            ) from error


def _tuples(cell: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(cell[name]) for name in ("reached", "pooled", "first")}


def command(name: str) -> str:
    """Return the command that makes the record of an analysis."""
    return f"`python -m resonance_lens.calibrating {name}`"


def plain_claims(analysis: Analysis) -> tuple[Mapping[str, Any], ...]:
    """Return the claims of an analysis as JSON gives them back."""
    found = json.loads(json.dumps([dataclasses.asdict(claim) for claim in analysis.claims]))
    return tuple(found)


def record_path(analysis: Analysis) -> Path | None:
    """Return where the record of an analysis belongs: ``calibration/<name>.json`` beside its module.

    Of a class that stands in no file there is none.
    """
    module = type(analysis).__module__
    if module == f"resonance_lens.analyses.{analysis.name}":
        return BUILT_IN / f"{analysis.name}.json"
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).parent / "calibration" / f"{analysis.name}.json" if file else None


def calibration_of(analysis: Analysis) -> Calibration | None:
    """Return the record of an analysis, or ``None`` where there is none of this version and these claims."""
    path = record_path(analysis)
    record = _read(path) if path is not None else None
    return None if record is None or _outdated(record, analysis) else record


def uncalibrated(analysis: Analysis) -> str:
    """Return why the claims of an analysis are not calibrated, as a phrase, or an empty string if they are.

    An analysis without claims has nothing to calibrate. Nothing is run: a record is read once in a process.
    """
    if not analysis.claims:
        return ""
    path = record_path(analysis)
    record = _read(path) if path is not None else None
    if record is None:
        return f"there is no record of trials; make one with {command(analysis.name)}"
    outdated = _outdated(record, analysis)
    if outdated:
        return f"its record is of {outdated}; make another with {command(analysis.name)}"
    changed = [name for name, value in analysis.parameters().items() if record.parameters.get(name) != value]
    if changed:
        name = changed[0]
        was, now = record.parameters.get(name), analysis.parameters()[name]
        return f"it was tried with {name}={was!r}, and this is {name}={now!r}"
    problems = record.problems()
    if not problems:
        return ""
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"


def is_calibrated(analysis: Analysis) -> bool:
    """Return whether every claim of an analysis has trials behind it that bear it out."""
    return not uncalibrated(analysis)


def _outdated(record: Calibration, analysis: Analysis) -> str:
    """Return what else a record is of than this analysis, or an empty string."""
    if record.analysis != analysis.name:
        return f"{record.analysis!r}"
    if record.version != analysis.version:
        return f"version {record.version}, and this is version {analysis.version}"
    return "" if record.claims == plain_claims(analysis) else "other claims"


def _read(path: Path) -> Calibration | None:
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, AnalysisError):
        return None


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Calibration:
    return Calibration.from_json(text)
