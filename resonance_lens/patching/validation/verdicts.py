"""What a validation says, in sentences; also when it is "no"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from resonance_lens.result import Result
from resonance_lens.stats.inference import LEVEL

SIZE = "size"


def summary(result: Result) -> str:
    """Return one sentence for each number, and one on which places matter."""
    sentences = [sentence(result, str(name)) for name in result.data["variable"].values]
    return " ".join([*sentences, _areas(result)])


def sentence(result: Result, variable: str) -> str:
    """Return whether a number predicts the size of effects, on what, and beyond what."""
    data = result.data.sel(variable=variable, of=SIZE)
    name, test = f"`{variable}`", "rank_correlation"
    known = [str(task) for task in data["task"].values if np.isfinite(float(data[test].sel(task=task)))]
    if not known:
        return f"{name} is the same in all {result.provenance['kind']}, and predicts nothing."
    found = _found(data, test)
    missed = [task for task in known if task not in found]
    beyond = _beyond(result, data, found)
    if not found:
        tasks = _with(data, test, missed, "or")
        return f"{name} is not shown to predict how large the effect is on {tasks}{beyond}."
    said = f"{name} predicts how large the effect is on {_with(data, test, found, 'and')}"
    if missed:
        said += f", but not surely on {_with(data, test, missed, 'or')}"
    return f"{said}{beyond}."


def _beyond(result: Result, data: xr.Dataset, predicted: Sequence[str]) -> str:
    """Return what is left beyond depth, and beyond the predictors, as a clause."""
    within, more = _found(data, "beyond_depth"), _found(data, "beyond_predictors")
    others = [name.replace("_", " ") for name in result.provenance["predictors"]]
    everything = _listed(["layer", *others], "and")
    if not others:
        more, everything = within, "layer"
    if more:
        test = "beyond_predictors" if others else "beyond_depth"
        return f"; it adds to {everything} on {_with(data, test, more, 'and')}"
    if within:
        heads = "within layers" if result.provenance["kind"] == "heads" else "beyond depth"
        return (
            f"; {heads} something of it is left on {_with(data, 'beyond_depth', within, 'and')}, but it "
            f"adds nothing sure to {everything}"
        )
    if predicted:
        return f", and only as depth does: it adds nothing sure to {everything}"
    return f", and adds nothing sure to {everything}"


def _found(data: xr.Dataset, test: str) -> list[str]:
    """Return the tasks on which a correlation is sure."""
    q = data[f"{test}_q"]
    return [str(task) for task in data["task"].values if float(q.sel(task=task)) <= LEVEL]


def _with(data: xr.Dataset, test: str, tasks: Sequence[str], last: str) -> str:
    """Return tasks with their correlations and intervals."""
    said = []
    for index, task in enumerate(tasks):
        value, low, high = (float(data[f"{test}{end}"].sel(task=task)) for end in ("", "_low", "_high"))
        what = ("rank correlation " if test == "rank_correlation" else "what is left ") if index == 0 else ""
        said.append(f"{task} ({what}{number(value)}, {number(low)} to {number(high)})")
    return _listed(said, last)


def number(value: float) -> str:
    """Return a correlation as text: ``-.31``, ``.08``."""
    if value != value:
        return "none"
    text = f"{value:.2f}".replace("0.", ".")
    return "0" if text in (".00", "-.00") else text


def _listed(items: Sequence[str], last: str) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def _areas(result: Result) -> str:
    """Return how many places matter, and what that means for AUROC."""
    data, kind, n = result.data, result.provenance["kind"], int(result.provenance["places"])
    smallest = float(result.provenance["minimum_effect"])
    counts = {str(task): int(data.n_matter.sel(task=task)) for task in data["task"].values}
    said = _listed([f"{count} on {task}" for task, count in counts.items()], "and")
    text = (
        f"Of {n} {kind} these matter, surely more than a placebo and by at least {smallest:.0%} of the "
        f"distance between clean and corrupted prompts: {said}."
    )
    none = [task for task, count in counts.items() if count == 0]
    every = [task for task, count in counts.items() if count == n]
    for tasks, what in ((none, "none does"), (every, "all do")):
        if tasks:
            text += f" There is no AUROC on {_listed(tasks, 'and')}, where {what}."
    return text


def methods(result: Result) -> str:
    """Return how it was done."""
    about = result.provenance
    kind, n = about["kind"], about["places"]
    pairs = [str(n) for n in sorted({each["pairs"] for each in about["effects"]})]
    left = f" {about['left_out']} {kind} lack a number and are left out." if about["left_out"] else ""
    if kind == "heads":
        how = (
            "heads of all layers change places for the rank correlation, and only heads of one layer, those "
            "that share keys and values together, for what is left beyond depth"
        )
        depth = "a mean of each layer"
    else:
        how = "cosines along depth get other signs, so that the smoothness along the layers stays"
        depth = "the layer and its square"
    resampled = [label for label, yes in about["by_prompt"].items() if yes]
    kept = [label for label, yes in about["by_prompt"].items() if not yes]
    bounds = "Intervals resample the pairs of the effects"
    if resampled:
        bounds += f", and the prompts of {_listed(resampled, 'and')}"
    if kept:
        are = "is" if len(kept) == 1 else "are"
        bounds += f"; {_listed(kept, 'and')} {are} not kept by prompt, and taken as sure"
    known = [name.replace("_", " ") for name in about["predictors"]]
    beyond = "; attention entropy and output norm were not given"
    if known:
        beyond = f", and the others by rank regression on {_listed(known, 'and')}"
    return (
        f"Spearman correlations over {n} {kind} with the mean effect over {_listed(pairs, 'and')} pairs of "
        f"other prompts.{left} Depth is accounted for by {depth}{beyond}. "
        f"p: {about['parameters']['n_draws']:,} rearrangements of the residuals, two-sided: {how}; q by the "
        f"largest correlation of all variables and tasks. {bounds}; the {kind} are those of this model, and "
        "no sample. What layer, and all predictors together, say of a layer is fitted on the other layers."
    )
