"""Trials of the claims of analyses: ``python -m resonance_lens.calibrating NAME``.

Every trial goes through the same functions as a run: what an analysis observes of its own `Analysis.trial`,
its samples, and the engine's test. It draws from a stream of its own, so that any trial can be made again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from resonance_lens import __version__
from resonance_lens.calibration import (
    FEWEST_TRIALS,
    FIRST,
    LEVELS,
    STRENGTHS,
    Calibration,
    Cell,
    calibration_of,
    plain_claims,
    record_path,
    uncalibrated,
)
from resonance_lens.claims import samples_of
from resonance_lens.contract import Accumulated, Analysis, Claim, Planted
from resonance_lens.dsp.large import one_thread
from resonance_lens.errors import AnalysisError, ResonanceLensError
from resonance_lens.files import make_folder, write_text
from resonance_lens.labels import FIRST_POSITION
from resonance_lens.registry import catalogue, get_analysis
from resonance_lens.stats.inference import LEVEL, infer
from resonance_lens.stats.intervals import unit_interval
from resonance_lens.stats.samples import AnySample, Sample
from resonance_lens.stats.streams import stream
from resonance_lens.trials import PlantedAdapter, accumulated, observe
from resonance_lens.worlds import WORLDS, heads

SIZED = (8, 12, 16, 24, 48, 96)
"""Numbers of prompts that `sizes` tries."""

SIZED_PROMPTS = 600

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

AGREE = 0.005
"""How far p of one trial may be from its record: float32 differs from machine to machine in the last bit."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What a claim said in one trial: arrays ``[family, place]``.

    Attributes
    ----------
    p, q
        Not-a-number where there is no value.
    low
        Whether the value is below its null.
    covered
        Whether the 95 % interval of the effect holds zero; ``None`` for what has no interval, and where
        something was planted.
    truth
        Where something was planted.
    """

    p: Floats
    q: Floats
    low: Booleans
    covered: Booleans | None
    truth: Booleans


def calibrate(
    analysis: Analysis,
    *,
    trials: int = FEWEST_TRIALS,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    worlds: Sequence[str] = WORLDS,
    progress: bool = True,
) -> Calibration:
    """Try every claim of an analysis in every world, with nothing planted and with something.

    Parameters
    ----------
    analysis
        An instance, with its parameters. Its ``trial`` makes the input.
    trials
        Of each world and strength.
    seed
        Of everything random: the same seed gives the same record.
    strengths
        Of what is planted, all above zero.
    worlds
        Of `WORLDS`; a record that leaves one out is not accepted.
    progress
        Whether to show a progress bar on standard error.

    Returns
    -------
    Calibration
        Its ``problems()`` say what is wrong.

    Raises
    ------
    AnalysisError
        If the analysis has no claims, or a trial does not say where its plants are.
    """
    if not analysis.claims:
        raise AnalysisError(f"{analysis.name} has no claims, so there is nothing to calibrate.")
    settings = list(itertools.product(worlds, (0.0, *strengths)))
    found: dict[str, list[Cell]] = {claim.variable: [] for claim in analysis.claims}
    with (
        one_thread(),
        tqdm(total=len(settings) * trials, unit="trial", desc=analysis.name, disable=not progress) as bar,
    ):
        for world, strength in settings:
            made: dict[str, list[Trial]] = {claim.variable: [] for claim in analysis.claims}
            for index in range(trials):
                for variable, trial in try_once(analysis, world, strength, seed, index).items():
                    made[variable].append(trial)
                bar.update()
            for claim in analysis.claims:
                found[claim.variable] += _cells(claim, made[claim.variable], world, strength)
    return Calibration(
        analysis=analysis.name,
        version=analysis.version,
        parameters=analysis.parameters(),
        claims=plain_claims(analysis),
        library=__version__,
        seed=seed,
        cells=tuple(cell for cells in found.values() for cell in cells),
    )


def try_once(analysis: Analysis, world: str, strength: float, seed: int, index: int) -> dict[str, Trial]:
    """Return what each claim says, by its variable, in one trial of a world."""
    labels = (analysis.name, world, f"{strength:g}", index)
    planted = analysis.trial(stream(seed, *labels, "input"), world, float(strength))
    seen = _seen(analysis, planted, int(stream(seed, *labels, "test").integers(2**31)))
    samples = samples_of(analysis, seen)
    return {
        claim.variable: _trial(analysis, claim, samples[claim.variable]["all"], planted, seen)
        for claim in analysis.claims
    }


def stale(analysis: Analysis, record: Calibration, trials: int = 5) -> str:
    """Return how the first trials of a record come out otherwise today, as a phrase, or an empty string."""
    kept = {(c.variable, c.world, tuple(c.along.values())): c for c in record.cells if not c.strength}
    for world in dict.fromkeys(cell.world for cell in kept.values()):
        with one_thread():
            made = [try_once(analysis, world, 0.0, record.seed, index) for index in range(trials)]
        for claim in analysis.claims:
            for again in _cells(claim, [each[claim.variable] for each in made], world, 0.0):
                cell = kept.get((claim.variable, world, tuple(again.along.values())))
                if cell is None:
                    return f"it has no trials of {claim.variable!r} {again.where}"
                for index, (was, now) in enumerate(zip(cell.first, again.first, strict=False)):
                    if (was is None) != (now is None) or abs((was or 0) - (now or 0)) > AGREE:
                        return (
                            f"p of {claim.variable!r} in trial {index} {cell.where} is {now} and was {was} "
                            "when the record was made"
                        )
    return ""


def _seen(analysis: Analysis, planted: Planted, seed: int) -> Accumulated:
    adapter = PlantedAdapter(planted)
    (features,) = observe(analysis, adapter, adapter.tokens())
    return accumulated(analysis, adapter, features, seed=seed)


def _trial(analysis: Analysis, claim: Claim, sample: AnySample, planted: Planted, seen: Accumulated) -> Trial:
    family = [claim.dims.index(dim) for dim in claim.family]
    rng = stream(seen.seed, analysis.name, claim.variable, "flips", "all")  # as in a run
    tested = infer(sample, family, rng, correction=claim.correction)
    truth = planted.truth.get(claim.variable)
    shape = tuple(tested.p.shape[axis] for axis in family)
    if truth is None or truth.shape != shape:
        got = "nothing" if truth is None else f"shape {truth.shape}"
        raise AnalysisError(
            f"trial() of {analysis.name} must say in truth[{claim.variable!r}] where it planted something, "
            f"booleans of shape {shape} over ({', '.join(claim.family)}); got {got}."
        )
    covered = None
    if isinstance(sample, Sample) and not truth.any():  # resampling takes most of the time of a trial
        rng = stream(seen.seed, analysis.name, claim.variable, "all")
        _, low, high = unit_interval(sample.difference, sample.unit, rng)
        covered = _places((low <= 0) & (high >= 0), family)
    return Trial(
        p=_places(tested.p, family),
        q=_places(tested.q, family),
        low=_places(tested.effect_size < 0, family),
        covered=covered,
        truth=truth.ravel(),
    )


def _places(values: NDArray[Any], family: Sequence[int]) -> NDArray[Any]:
    """Return ``[family, place]`` from the axes of one value."""
    others = [axis for axis in range(values.ndim) if axis not in family]
    size = int(np.prod([values.shape[axis] for axis in family]))
    return np.asarray(values.transpose(*others, *family).reshape(-1, size))


def _cells(claim: Claim, made: Sequence[Trial], world: str, strength: float) -> Iterator[Cell]:
    """Yield one cell for each family."""
    others = [dim for dim in claim.dims if dim not in claim.family]
    n_families = made[0].p.shape[0]
    for family, along in enumerate(_labels(others, n_families)):
        yield _cell(claim, [_of(trial, family) for trial in made], world, strength, along)


def _of(trial: Trial, family: int) -> Trial:
    """Return one family of a trial: arrays ``[place]``."""
    covered = None if trial.covered is None else trial.covered[family]
    return Trial(trial.p[family], trial.q[family], trial.low[family], covered, trial.truth)


def _labels(others: Sequence[str], n_families: int) -> list[dict[str, str]]:
    """Return which family is which, by dim outside the family."""
    if list(others) == ["first_position"]:
        return [{"first_position": place} for place in FIRST_POSITION]
    if len(others) == 1:
        return [{others[0]: str(index)} for index in range(n_families)]
    return [{" and ".join(others): str(index)} if others else {} for index in range(n_families)]


def _cell(claim: Claim, made: Sequence[Trial], world: str, strength: float, along: dict[str, str]) -> Cell:
    ones: list[float] = []
    at_most = np.zeros(len(LEVELS))
    family, false, below, rejected, held, places = 0, 0.0, 0, 0, 0, 0
    hits, planted = 0, 0
    for index, trial in enumerate(made):
        null = np.flatnonzero(~np.isnan(trial.p) & ~trial.truth)
        ones.append(float(trial.p[null[index % len(null)]]) if len(null) else float("nan"))
        at_most += [(trial.p[null] <= level).sum() for level in LEVELS]
        places += len(null)
        wrong = null[trial.q[null] <= LEVEL]
        right = int((trial.q[trial.truth] <= LEVEL).sum())
        family += bool(len(wrong))
        false += len(wrong) / max(1, len(wrong) + right)
        rejected += len(wrong)
        below += int(trial.low[wrong].sum())
        hits, planted = hits + right, planted + int(trial.truth.sum())
        held += 0 if trial.covered is None else int(trial.covered[null].sum())
    chosen = np.array(ones)
    return Cell(
        variable=claim.variable,
        world=world,
        strength=float(strength),
        along=along,
        places=int((~np.isnan(made[0].p)).sum()),
        trials=len(made),
        reached=tuple(int((chosen <= level).sum()) for level in LEVELS),
        pooled=tuple(round(float(share), 4) for share in at_most / max(1, places)),
        family=family,
        found=round(hits / planted, 4) if planted else None,
        false=round(false, 4),
        below=round(below / rejected, 4) if rejected else None,
        covered=None if made[0].covered is None else round(held / max(1, places), 4),
        first=tuple(None if np.isnan(p) else round(p, 4) for p in ones[:FIRST]),
    )


def sizes(
    analysis: Analysis, *, trials: int = FEWEST_TRIALS, seed: int = 0, progress: bool = True
) -> list[dict[str, float]]:
    """Return how often the test is wrong for several numbers of prompts and several sizes of family.

    In the persistent world, whose differences are most skewed. `SIZED_PROMPTS` prompts of each of 64 heads
    are made once, the mean difference of each head is set to zero, and trials draw prompts from them.

    Parameters
    ----------
    analysis
        One that claims something of heads, by prompts.
    trials
        Of each number of prompts.
    seed, progress
        As in `calibrate`.

    Returns
    -------
    list of dict
        For each of `SIZED`: ``prompts``, the share of trials ``p`` with p at most `LEVEL` at one place, and
        for 8 and 64 heads that ``q8`` and ``q64`` with some q at most `LEVEL`.
    """
    (claim,) = analysis.claims
    rng = stream(seed, analysis.name, "sizes")
    with one_thread():
        planted = heads(
            rng, "persistent", 0.0, claim.variable, n_prompts=SIZED_PROMPTS, n_layers=8, n_heads=8
        )
        sample = analysis.samples(_seen(analysis, planted, seed))[claim.variable]["all"]
        if not isinstance(sample, Sample):
            raise AnalysisError(f"{analysis.name} is tested on surrogates, of which any number can be made.")
        rows = sample.difference[:, -1].reshape(SIZED_PROMPTS, -1)  # [prompt, head], first position dropped
        rows = rows - rows.mean(axis=0)
        found = []
        for n in tqdm(SIZED, unit="size", disable=not progress):
            wrong = np.zeros(3)
            for index in range(trials):
                chosen = np.stack([rng.choice(column, n) for column in rows.T], axis=-1)
                few, many = (
                    infer(Sample(some, np.zeros_like(some)), [0], rng) for some in (chosen[:, ::8], chosen)
                )
                one = many.p[index % many.p.size]
                wrong += [one <= LEVEL, few.q.min() <= LEVEL, many.q.min() <= LEVEL]
            found.append({"prompts": n, **dict(zip(("p", "q8", "q64"), wrong / trials, strict=True))})
    return found


# The command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Make records, and say what is wrong with them; the exit code is 1 if something is."""
    parser = argparse.ArgumentParser(prog="python -m resonance_lens.calibrating", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of analyses that claim something")
    parser.add_argument("--all", action="store_true", help="every built-in one, and their page")
    parser.add_argument(
        "--page", action="store_true", help="only their page, from the records that are there"
    )
    parser.add_argument("--out", type=Path, help="a folder for the records, instead of where they belong")
    parser.add_argument("--trials", type=int, default=FEWEST_TRIALS, help="of each world and strength")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of calibration.md")
    parser.add_argument("--sizes", action="store_true", help="print how wrong they are by number of prompts")
    options = parser.parse_args(arguments)
    if bool(options.names) + options.all + options.page != 1:
        parser.error("name analyses, or say --all or --page")
    try:
        analyses = [get_analysis(name)() for name in options.names or _built_in()]
        if options.sizes:
            for analysis in analyses:
                _print_sizes(analysis, options)
            return 0
        made = _kept if options.page else _record
        records = [made(analysis, options) for analysis in analyses]
        if not options.names:
            from resonance_lens.views.calibration import write_page

            write_page(records, options.docs)
    except ResonanceLensError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if any(record.problems() for record in records) else 0


def _built_in() -> list[str]:
    """Return the names of our analyses that claim something."""
    names = [name for name, entry in catalogue().items() if entry.package == "resonance-lens"]
    return [name for name in names if get_analysis(name).claims]


def _record(analysis: Analysis, options: argparse.Namespace) -> Calibration:
    """Make the record of an analysis, write it, and say what is wrong with it."""
    path = record_path(analysis)
    if options.out is not None:
        path = options.out / f"{analysis.name}.json"
    if path is None:
        raise AnalysisError(f"{analysis.name} stands in no file; say with --out where its record belongs.")
    record = calibrate(analysis, trials=options.trials)
    make_folder(path.parent)
    write_text(path, record.to_json())
    listing = "".join(f"  uncalibrated: {problem}\n" for problem in record.problems())
    sys.stdout.write(f"{analysis.name}: {path}\n{listing}")
    return record


def _kept(analysis: Analysis, options: argparse.Namespace) -> Calibration:
    """Return the record of an analysis that is there."""
    record = calibration_of(analysis)
    if record is None:
        raise AnalysisError(f"{analysis.name} is uncalibrated: {uncalibrated(analysis)}.")
    return record


def _print_sizes(analysis: Analysis, options: argparse.Namespace) -> None:
    sys.stdout.write(f"{analysis.name}\n| prompts | p, one head | some q of 8 heads | some q of 64 heads |\n")
    sys.stdout.write("| --- | --- | --- | --- |\n")
    for row in sizes(analysis, trials=options.trials):
        shares = " | ".join(f"{row[name]:.3f}" for name in ("p", "q8", "q64"))
        sys.stdout.write(f"| {row['prompts']} | {shares} |\n")


if __name__ == "__main__":
    sys.exit(main())
