"""What a sweep says of itself, made from its numbers: summary, methods, and what to look at next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from resonance_lens.patching.patched import PatchResult
from resonance_lens.patching.places import Place
from resonance_lens.result import Result, Target
from resonance_lens.stats.inference import EXACT_UNITS, FLIPS, LEVEL, RESAMPLES, refusal, smallest_p

NAMED = 3
"""How many of the strongest targets the summary names."""

CONTROLS = ("others", "placebo", "complement")

COUNTS = 0.01
"""The smallest effect that counts, as a share of the difference between the two prompts."""


def minimum_effect(data: xr.Dataset) -> float:
    """Return the smallest effect that counts, in units of the metric."""
    return COUNTS * abs(float((data.metric_clean - data.metric_corrupted).mean()))


def summary(result: Result) -> str:
    """Return what was found, beside the controls."""
    data, task = result.data, result.provenance["task"]
    about = result.provenance["patch"]
    units = "" if data.metric.attrs["units"] == "1" else f" {data.metric.attrs['units']}"
    solved = ""
    if task["accuracy"] is not None:
        solved = f" (solved by the model in {task['accuracy']:.0%} of {task['tried']} drawn)"
    clean, corrupted = float(data.metric_clean.mean()), float(data.metric_corrupted.mean())
    sentences = [
        f"{task['pairs']} pairs of {task['name']}{solved}: {_metric(result)} is {clean:.2f}{units} on clean "
        f"and {corrupted:.2f} on corrupted prompts."
    ]
    sentences += [_of_operation(result, index, units) for index in range(data.sizes["operation"])]
    if about["looks_ahead"]:
        sentences.append(
            f"{_listed(about['looks_ahead'])} {'lets' if len(about['looks_ahead']) == 1 else 'let'} the "
            "model see later tokens, which it never does on its own."
        )
    for control, labels in result.provenance["controls_missing"].items():
        sentences.append(f"There is no {control} of {_listed(labels)}.")
    return " ".join(sentences)


def _of_operation(result: Result, index: int, units: str) -> str:
    data = result.data.isel(operation=index)
    label = str(data.operation.item())
    effect = data.effect.values
    patched = np.flatnonzero(~np.isnan(effect))
    order = patched[np.argsort(-np.abs(effect[patched]), kind="stable")][:NAMED]
    named = []
    for target in order:
        one = data.isel(target=int(target))
        bounds = f"[{_number(one.effect_low)}, {_number(one.effect_high)}]"
        text = f"{one.target.item()} {_number(one.effect)} {bounds}"
        if bool(one.normalized.notnull()):
            text += f", {float(one.normalized):.0%} of the difference"
        beside = [f"{name} {_number(one[name])}" for name in CONTROLS if bool(one[name].notnull())]
        named.append(text + (f" ({', '.join(beside)})" if beside else ""))
    base = result.provenance["patch"]["base"]
    said = (
        f"{label} of {len(patched)} targets on the {base} prompts: strongest are {'; '.join(named)}{units}."
    )
    why = refusal("prompt", result.data.sizes["pair"])
    if why:
        return f"{said} Nothing is claimed: {why.replace('prompt', 'pair')}."
    differ = int((data.effect_q <= LEVEL).sum())
    said += f" {differ} of {len(patched)} have an effect (q <= {LEVEL})"
    least = minimum_effect(data)
    sure = (data.effect_low > least) | (data.effect_high < -least)
    matter = int(((data.effect_q <= LEVEL) & sure).sum())
    said += f", {matter} of them surely one of more than {COUNTS:.0%} of the difference between the prompts"
    if bool(data.effect_beyond_q.notnull().any()):
        beyond = int(((data.effect_q <= LEVEL) & (data.effect_beyond_q <= LEVEL)).sum())
        said += f", and {beyond} one that differs from the placebo's"
    return said + "."


def methods(result: Result) -> str:
    """Return how it was measured and tested."""
    data, about = result.data, result.provenance["patch"]
    n = data.sizes["pair"]
    base = about["base"]
    other = "clean" if base == "corrupted" else "corrupted"
    sentences = [
        f"One place at a time was changed in a run over the {base} prompt of each pair; what operations take "
        f"from another run comes from the {other} prompt. The effect is {_metric(result)} at the position of "
        "the answer, minus that of the unpatched run, averaged over pairs, with 95 % intervals over pairs.",
    ]
    if "others" in about["controls"]:
        sentences.append(
            "Others: the same operation at the other targets of the same kind in the layer (of whole layers: "
            "at other layers), all of them where all were patched, else four drawn at random."
        )
    if "placebo" in about["controls"]:
        sentences.append(
            "Placebo: a change of the same size at each token turned into a random direction; of attention "
            "patterns the same change on other keys of the window."
        )
    if "complement" in about["controls"]:
        sentences.append("Complement: the operation on everything that the first one leaves alone.")
    why = refusal("prompt", n)
    if why:
        sentences.append(f"There are no tests: {why.replace('prompt', 'pair')}.")
    else:
        flips = f"all {2**n:,} sign flips" if n <= EXACT_UNITS else f"{FLIPS:,} random sign flips"
        sentences.append(
            f"p is by {flips} of the {n} differences (smallest p attainable {smallest_p(n):.2g}); q is "
            f"corrected by the largest studentised statistic over the flips, and over {RESAMPLES:,} "
            "resamples, in the family of the targets of one operation."
        )
        if about["prescreen"] is not None:
            sentences.append(
                "Targets were chosen by attribution on the same pairs, so q is no less than p times the "
                "number of all targets."
            )
    sentences.append(
        "Passes begin at the patched layer with the residual stream of the unpatched run."
        if result.provenance["resumed_at_layer"]
        else "This model hands more from block to block than the residual stream, so every pass is whole."
    )
    return " ".join(sentences)


def ranked(result: PatchResult, places: Sequence[Place], k: int = 50) -> list[Target]:
    """Return the targets by the size of their largest effect, among the operations."""
    effect = result.data.effect
    size = np.nan_to_num(np.abs(effect.values), nan=-1.0)
    best = size.max(0)
    order = [int(i) for i in np.argsort(-best, kind="stable")[:k] if best[i] >= 0]
    labels = effect.operation.values[size.argmax(0)]
    return [
        Target(
            site=places[i].site,
            layer=places[i].layer,
            head=places[i].head,
            positions=places[i].positions,
            score=float(best[i]),
            reason=f"size of the effect of {labels[i]} on {_metric(result)} ({effect.attrs['units']})",
        )
        for i in order
    ]


def _metric(result: Result) -> str:
    name: str = result.provenance["patch"]["metric"]
    return name.replace("_", " ")


def _number(value: xr.DataArray) -> str:
    return f"{float(value):+.2f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
