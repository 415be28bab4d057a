"""What analyses claim becomes variables: values beside their nulls, effects, p and q.

An analysis says what a claim is tested on (`Analysis.samples`); the test, its correction and its
intervals are the same for all, and made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.contract import Accumulated, Analysis, Claim
from resonance_lens.design import BASELINE_CONDITIONS
from resonance_lens.errors import AnalysisError
from resonance_lens.labels import Labelled
from resonance_lens.prompts import EVERYTHING
from resonance_lens.stats.inference import Inference, infer
from resonance_lens.stats.intervals import unit_interval
from resonance_lens.stats.samples import AnySample, Sample, Surrogates, estimates_of, scaled
from resonance_lens.stats.streams import stream

Array = NDArray[Any]


Tests = dict[str, dict[str, dict[str, Any]]]
"""By variable and category: which ``unit``, how many ``units``, the ``smallest`` p, why ``refused``."""

Samples = Mapping[str, Mapping[str, AnySample]]


def with_claims(data: xr.Dataset, analysis: Analysis, seen: Accumulated) -> tuple[xr.Dataset, Tests, Samples]:
    """Return the dataset with the variables of every claim, what their tests were, and on what.

    See `Claim` for the names of the variables.

    Raises
    ------
    AnalysisError
        If the analysis does not give a sample of every claim in every category, of the shape it says.
    """
    tests: Tests = {}
    samples = samples_of(analysis, seen)
    for claim in analysis.claims:
        data, tests[claim.variable] = _with_claim(data, analysis, seen, claim, samples[claim.variable])
    return data, tests, samples


def samples_of(analysis: Analysis, seen: Accumulated) -> Samples:
    """Return what every claim is tested on, with the scale of the claim.

    Raises
    ------
    AnalysisError
        If there is no sample of a claim in a category.
    """
    samples = analysis.samples(seen) if analysis.claims else {}
    for claim in analysis.claims:
        missing = next((c for c in seen.groups if c not in samples.get(claim.variable, {})), None)
        if missing is not None:
            raise AnalysisError(
                f"{analysis.name} claims {claim.variable!r} and gives no sample of it for the category "
                f"{missing!r}; return one from samples()."
            )
    return {
        claim.variable: {
            category: scaled(sample, claim.minimum_effect)
            for category, sample in samples[claim.variable].items()
        }
        for claim in analysis.claims
    }


def with_baselines(data: xr.Dataset, analysis: Analysis, seen: Accumulated, samples: Samples) -> xr.Dataset:
    """Return the dataset with what every number is under the baselines that took passes of their own.

    For each variable ``y`` that is kept for each prompt, ``y_<baseline>``. For each claim ``x`` also
    ``x_null_<baseline>``, ``x_effect_<baseline>`` with bounds and ``x_q_<baseline>``, and
    ``x_beyond_<baseline>`` with bounds: the effect minus that under the baseline, paired.
    """
    for condition in BASELINE_CONDITIONS:
        if condition not in seen.features:
            continue
        under = seen.under(condition)
        other, _, theirs = with_claims(analysis.conclude(under), analysis, under)
        words = condition.replace("_", " ")
        kept = [str(name).removesuffix("_prompt") for name in data if str(name).endswith("_prompt")]
        for name in kept:
            if name in other and not name.endswith("_effect"):
                data[f"{name}_{condition}"] = _renamed(other[name], words)
        for claim in analysis.claims:
            x = claim.variable
            for name in (x, f"{x}_null", f"{x}_effect", f"{x}_q"):
                data[f"{name}_{condition}"] = _renamed(other[name], words)
            for end in ("low", "high"):
                if f"{x}_effect_{end}" in other:
                    data[f"{x}_effect_{condition}_{end}"] = _renamed(other[f"{x}_effect_{end}"], words)
        data = data.assign(_beyond(analysis, seen, samples, theirs, condition))
    return data


def _with_claim(
    data: xr.Dataset,
    analysis: Analysis,
    seen: Accumulated,
    claim: Claim,
    samples: Mapping[str, AnySample],
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    x, units = claim.variable, claim.units
    family = [claim.dims.index(dim) for dim in claim.family]
    found: dict[str, list[Array]] = {}
    about: dict[str, dict[str, Any]] = {}
    for category in seen.groups:
        sample = samples[category]
        _require_shape(analysis, claim, sample, data, seen)
        flips = stream(seen.seed, analysis.name, x, "flips", category)
        tested = infer(sample, family, flips, correction=claim.correction)
        rng = stream(seen.seed, analysis.name, x, category)
        for name, values in _numbers(sample, tested, rng).items():
            found.setdefault(name, []).append(values)
        about[category] = {
            "unit": sample.unit,
            "units": tested.units,
            "smallest": tested.smallest,
            "refused": tested.refused,
        }
    coords: dict[str, Any] = {str(dim): data[dim].values for dim in data.dims if dim in data.coords}
    out = Labelled(seen, analysis.name, coords)
    dims = ("category", *claim.dims)
    for name, columns in found.items():
        end, dimensionless = name.removeprefix("x"), name in ("x_p", "x_q", "x_effect_size")
        words = claim.long_name + WORDS[end].format(null=claim.null.replace("_", " "))
        words += "" if dimensionless or not claim.undefined else f"; not-a-number: {claim.undefined}"
        out.add(f"{x}{end}", dims, np.stack(columns), words, "1" if dimensionless else units)
    whole = estimates_of(samples[EVERYTHING])
    if whole is not None:
        undefined = f"; not-a-number: {claim.undefined}" if claim.undefined else ""
        each = (f"{whole.unit}", *claim.dims)
        if whole.unit == "group":
            out.coords["group"] = np.arange(len(whole.value))
        else:
            what = f"{claim.long_name} of each prompt{undefined}"
            out.add(f"{x}_prompt", each, whole.value.astype(np.float32), what, units)
        rows = whole.difference.astype(np.float32)
        what = f"{claim.long_name} minus its null, of each {whole.unit}{undefined}"
        out.add(f"{x}_effect_{whole.unit}", each, rows, what, units)
    made = out.dataset()
    for end in ("p", "q"):
        made[f"{x}_{end}"].attrs["smallest"] = about[EVERYTHING]["smallest"]
    return data.assign(made.data_vars), about


WORDS = {
    "": "",
    "_low": ", lower 95 % bound",
    "_high": ", upper 95 % bound",
    "_null": ", mean under the null ({null})",
    "_null_low": ", below which 2.5 % of means lie under the null ({null})",
    "_null_high": ", above which 2.5 % of means lie under the null ({null})",
    "_effect": " minus its null ({null})",
    "_effect_low": " minus its null ({null}), lower 95 % bound",
    "_effect_high": " minus its null ({null}), upper 95 % bound",
    "_effect_size": " minus its null ({null}), in standard deviations; not-a-number: no spread",
    "_p": ", p against its null ({null}); not-a-number: no test",
    "_q": ", q over its family against its null ({null}); not-a-number: no test",
}
"""What stands beside a value, by the end of its name."""


def _numbers(sample: AnySample, tested: Inference, rng: np.random.Generator) -> dict[str, Array]:
    """Return the variables of one category, by name with ``x`` for the claim's."""
    estimates = estimates_of(sample)
    if estimates is not None:
        # One stream for both, so that value and effect are resampled alike.
        state = rng.bit_generator.state
        value, low, high = unit_interval(estimates.value, estimates.unit, rng)
        rng.bit_generator.state = state
        effect, effect_low, effect_high = unit_interval(estimates.difference, estimates.unit, rng)
        extra = {"x_low": low, "x_high": high, "x_effect_low": effect_low, "x_effect_high": effect_high}
        null = _mean(np.where(np.isnan(estimates.difference), np.nan, estimates.null))
    else:
        assert isinstance(sample, Surrogates)
        value, null = sample.value, sample.draws.mean(axis=0)
        effect, extra = value - null, {}
    return {
        "x": value,
        **extra,
        "x_null": null,
        "x_null_low": tested.null_low,
        "x_null_high": tested.null_high,
        "x_effect": effect,
        "x_effect_size": tested.effect_size,
        "x_p": tested.p,
        "x_q": tested.q,
    }


def _beyond(
    analysis: Analysis, seen: Accumulated, ours: Samples, theirs: Samples, condition: str
) -> dict[str, xr.Variable]:
    """Return effect minus effect under a baseline, with bounds over the same units."""
    made: dict[str, xr.Variable] = {}
    for claim in analysis.claims:
        columns: list[tuple[Array, Array, Array]] = []
        if estimates_of(ours[claim.variable][EVERYTHING]) is None:
            continue
        for category in seen.groups:
            a, b = (estimates_of(each[claim.variable][category]) for each in (ours, theirs))
            assert a is not None and b is not None
            rng = stream(seen.seed, analysis.name, claim.variable, condition, category)
            columns.append(unit_interval(a.difference - b.difference, a.unit, rng))
        name = f"{claim.variable}_beyond_{condition}"
        words = f"{claim.long_name}: effect minus that under {condition.replace('_', ' ')}"
        for (end, bound), column in zip(BOUNDS.items(), zip(*columns, strict=True), strict=True):
            about = {"long_name": words + bound, "units": claim.units}
            made[name + end] = xr.Variable(("category", *claim.dims), np.stack(column), about)
    return made


def _mean(rows: Array) -> Array:
    """Return the mean over units, those left out whose value is not-a-number."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, rows, 0.0).sum(axis=0) / known.sum(axis=0))


BOUNDS = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}


def _renamed(variable: xr.DataArray, words: str) -> xr.DataArray:
    """Return a variable whose long name says under which baseline it was measured."""
    what, *reason = variable.attrs["long_name"].split(";")
    renamed: xr.DataArray = variable.assign_attrs(long_name=";".join([f"{what}, {words}", *reason]))
    return renamed


def _require_shape(
    analysis: Analysis, claim: Claim, sample: AnySample, data: xr.Dataset, seen: Accumulated
) -> None:
    """Raise `AnalysisError` unless a sample has the dims that its claim says."""
    sizes = {**data.sizes, "layer": len(seen.layers), "head": seen.facts.n_heads}
    wanted = tuple(sizes.get(dim, -1) for dim in claim.dims)
    shapes = (
        [sample.value.shape[1:], sample.null.shape[1:]]
        if isinstance(sample, Sample)
        else [sample.value.shape, sample.draws.shape[1:]]
    )
    for shape in shapes:
        if len(shape) != len(wanted) or any(w not in (-1, s) for w, s in zip(wanted, shape, strict=True)):
            raise AnalysisError(
                f"{analysis.name} gives a sample of {claim.variable!r} of shape {shape} in each unit; its "
                f"claim says ({', '.join(claim.dims)}), which is {wanted}."
            )
