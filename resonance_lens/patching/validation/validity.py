"""Does a number of an analysis predict what its places do, beyond what is known of them anyway?

An effect is the mean over pairs of prompts of what patching a head, or a layer, changes. Its size is what is
to be predicted; its sign is reported beside it. Three correlations say how far a number gets: with the
effects; with what is left of both within layers; and with what is left when attention entropy and output norm
are accounted for as well. See docs/validation.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.patching.validation.columns import Column, read_columns, require_other_rows, task_of
from resonance_lens.patching.validation.correlations import Places, correlate
from resonance_lens.patching.validation.numbers import read_numbers, read_predictors
from resonance_lens.patching.validation.verdicts import methods, summary
from resonance_lens.result import Result, ViewSpec
from resonance_lens.stats.ranks import DRAWS
from resonance_lens.stats.streams import stream

SMALLEST = 0.02
"""The share of the distance between clean and corrupted prompts from which an effect counts."""

VERSION = "1"


def validate(
    result: Result,
    effects: Result | Sequence[Result],
    *,
    variable: str | Sequence[str] | Mapping[str, xr.DataArray] | None = None,
    select: Mapping[str, str] | None = None,
    predictors: xr.Dataset | None = None,
    smallest: float = SMALLEST,
    seed: int = 0,
    n_draws: int = DRAWS,
) -> Result:
    """Return whether numbers of an analysis predict the effects of patching the same places.

    Parameters
    ----------
    result
        Of an analysis.
    effects
        Results of `resonance_lens.patch` over all heads (or all layers, for numbers by layer) of the same
        model, on at least two tasks, on other prompts than the result's.
    variable
        Names of variables of the result. By default its headline, and its effects against baseline and
        nulls, which rank its targets. Or arrays of your own by name, over ``layer`` and ``head`` (or
        ``layer``, perhaps with ``site``), and over ``prompt`` if they can be resampled.
    select
        Where variables are read along other dimensions: ``{"first_position": "keep"}``. By default all
        prompts, without the first position; every place along any other dimension is a number of its own.
    predictors
        What else is known of the places, from `resonance_lens.patching.validation.predictors`: see
        `measure_predictors`. Without them the numbers are held against depth alone.
    smallest
        The share of the distance between clean and corrupted prompts from which an effect counts.
    seed
        Of everything random.
    n_draws
        Rearrangements of the places for each test.

    Returns
    -------
    Result
        With the name ``validation``. Over ``variable``, ``task`` and ``of`` (``size`` of the effect, and the
        effect with its ``sign``): ``rank_correlation``, ``beyond_depth`` (what is left beyond depth),
        ``beyond_predictors`` (and beyond the predictors), each with ``_low`` and ``_high`` (95 % over pairs,
        and over the prompts of the number where it is kept by prompt), ``_p``, and ``_q`` over variables and
        tasks together. ``auroc``: how often a place that matters has the larger number.
        ``predictor_correlation`` and ``predictor_auroc`` over ``task`` and ``predictor``, ``layer`` and
        ``together`` fitted on other layers; ``with_number`` is ``together`` with the number added.
        ``reliability``: how well effects of half of the pairs predict those of the others. ``value`` and
        ``effect`` of every ``target``, and whether it ``matters``.

    Raises
    ------
    ResultError
        In one sentence: effects of one task, of some heads only, of another model, on the same prompts.
    """
    if not 0 <= smallest < 1:
        raise ParameterError(wrong_parameter("validate", "smallest", "from 0 to below 1", smallest))
    effects = [effects] if isinstance(effects, Result) else list(effects)
    kind, columns = read_columns(result, effects, smallest)
    numbers = read_numbers(result, variable, dict(select or {}), kind, columns)
    known = read_predictors(predictors, result, kind, columns)
    for each in effects if predictors is not None else ():
        require_other_rows("the predictors", {"rows": predictors.attrs.get("rows")}, each)  # type: ignore[union-attr]
    places = Places.of(kind, result, numbers, columns, known)
    rng = stream(seed, "validate", result.name)
    data = correlate(places, rng, n_draws)
    about = _provenance(result, effects, columns, places, smallest, seed, n_draws)
    bare = Result(name="validation", data=data, provenance=about)
    return Result(
        name=bare.name,
        data=data,
        provenance=about,
        summary=summary(bare),
        methods=methods(bare),
        views=(_scatter(bare),),
    )


def _provenance(
    result: Result,
    effects: Sequence[Result],
    columns: Sequence[Column],
    places: Places,
    smallest: float,
    seed: int,
    n_draws: int,
) -> dict[str, Any]:
    ours = result.provenance
    kept = ("model", "weights_fingerprint", "versions", "prompts", "device")
    return {
        **{name: ours[name] for name in kept if name in ours},
        "analysis": "validation",
        "version": VERSION,
        "title": "Do the numbers predict the effects?",
        "headline": "rank_correlation",
        "evidence": "measured",
        "source": "Spearman (1904); Freedman and Lane (1983); Westfall and Young (1993).",
        "of": {"analysis": result.name, "version": ours.get("version"), "parameters": ours.get("parameters")},
        "kind": places.kind,
        "places": len(places.labels),
        "left_out": places.left_out,
        "effects": [
            {
                "task": task_of(each),
                "accuracy": each.provenance["task"]["accuracy"],
                "tried": each.provenance["task"]["tried"],
                "metric": each.provenance["patch"]["metric"],
                "direction": each.provenance["parameters"]["direction"],
                "operation": each.provenance["parameters"]["operation"],
                "pairs": int(each.data.sizes["pair"]),
                "digest": each.provenance["task"]["digest"],
            }
            for each in effects
        ],
        "columns": {column.label: {"scale": column.scale, "units": column.units} for column in columns},
        "by_prompt": {number.label: number.rows is not None for number in places.numbers},
        "numbers": {number.label: number.long_name for number in places.numbers},
        "predictors": list(places.known),
        "minimum_effect": smallest,
        "parameters": {"smallest": smallest, "n_draws": n_draws},
        "seed": seed,
        "claims": [],
        "baselines": [],
        "nulls": [],
    }


def _scatter(result: Result) -> ViewSpec:
    first = str(result.data["variable"].values[0])
    return ViewSpec(
        kind="scatter",
        title=f"{first} against the size of the effect",
        says="Whether places with a larger number do more.",
        misleads="What follows depth alone looks like a prediction here: read beyond_depth beside it.",
        variables=("value", "effect_size"),
        select={"variable": first},
        panels="task",
        series="matters",
    )
