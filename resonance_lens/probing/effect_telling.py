"""From measured losses to effects beside their controls, with intervals over documents, and the sentence."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from resonance_lens.probing.asked import Asked
from resonance_lens.probing.effect import (
    CONTROLS,
    LINEAR,
    MEASURES,
    REMOVALS,
    Causal,
    Effect,
    Losses,
    Place,
    measure_effect,
    variants_of,
    windows_checked,
)
from resonance_lens.probing.names import ALL
from resonance_lens.probing.store import Store
from resonance_lens.probing.tally import influence
from resonance_lens.result import Result, ViewSpec
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]

DIMS = ("place", "removed")
NATS = "nats per token"

MINIMUM_EFFECT = 0.01
"""In nats per token: less than this is not called a use."""

BOUNDS = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}


VIEW = ViewSpec(
    kind="matrix",
    title="What the model loses without what the probe reads",
    says="The rise of the loss on the next token, or on its class where tokens have the label by themselves: "
    "less that of a change of the same size in random directions.",
    misleads="what goes along with a label is taken out with it, and filters that look ahead tell of later "
    "tokens.",
    variables=("effect_beyond_placebo",),
    colours="diverging",
)


def places_to_check(asked: Asked, data: xr.Dataset, causal: Causal) -> list[Place]:
    """Return where effects are measured: where the user says, or the best place and the best single band.

    Places are those that validation chose, of every linear probe.
    """
    names = [probe.name for probe in asked.probes if isinstance(probe, LINEAR)]
    if not isinstance(causal, bool):
        return [
            (name, int(layer), str(band))
            for name in names
            for layer, band in dict.fromkeys((layer, band) for layer, band in causal)
        ]
    found: list[Place] = []
    for name in names:
        scores = data["score_validation"].sel(probe=name)
        for bands in (list(asked.bands), [band for band in asked.bands if band != ALL]):
            if bands:
                # Of equal places the one that `best_places` takes: layers first.
                best = scores.sel(band=bands).stack(at=("layer", "band")).idxmax("at").item()
                found.append((name, int(best[0]), str(best[1])))
    return list(dict.fromkeys(found))


def lacks_effects(asked: Asked, result: Result, causal: Causal) -> bool:
    """Return whether effects are wanted that a result does not have."""
    if causal is False:
        return False
    wanted = [list(place) for place in places_to_check(asked, result.data, causal)]
    return bool(result.provenance.get("effect", {}).get("places") != wanted)


def add_effects(
    asked: Asked, result: Result, store: Store, causal: Causal, batch_tokens: int, progress: bool
) -> Result:
    """Measure effects and return the result with them.

    Parameters
    ----------
    asked
        What was probed.
    result
        Of it.
    store
        Features, with the layers of `places_to_check` among them.
    causal
        Where.
    batch_tokens, progress
        As of `resonance_lens.probe`.
    """
    places = places_to_check(asked, result.data, causal)
    windows = len(windows_checked(asked))
    total = windows * sum(1 + len(variants_of(band)) for _, _, band in places)
    with tqdm(total=total, unit="window", desc="removing", disable=not progress, file=sys.stderr) as bar:
        effects = [measure_effect(asked, store, place, batch_tokens, bar.update) for place in places]
    return with_effects(asked, result, effects)


def label_of(place: Place) -> str:
    """Return what a place is called: ``linear L15 high``."""
    name, layer, band = place
    return f"{name} L{layer} {band}"


def with_effects(asked: Asked, result: Result, effects: Sequence[Effect]) -> Result:
    """Return the result of `resonance_lens.probe` with effects in it, in place of those that it has."""
    old = [name for name in result.data.variables if set(DIMS) & set(result.data[name].dims)]
    plain = result.data.drop_vars(old)
    effect = _dataset(asked, effects, plain["prompt"].values.tolist())
    data = xr.merge([plain, effect], join="exact", compat="no_conflicts", combine_attrs="no_conflicts")
    before = result.provenance.get("effect", {}).get("says", "")
    summary = result.summary.removesuffix(before).strip()
    says = _says(asked, effect, effects)
    about = {
        "places": [list(each.place) for each in effects],
        "windows": len(windows_checked(asked)),
        "looks_ahead": [each.looks_ahead for each in effects],
        "minimum_effect": MINIMUM_EFFECT,
        "says": says,
    }
    return dataclasses.replace(
        result,
        data=data,
        summary=f"{summary} {says}",
        views=(*(view for view in result.views if view != VIEW), VIEW),
        provenance={**result.provenance, "effect": about},
    )


def _dataset(asked: Asked, effects: Sequence[Effect], prompts: Sequence[str]) -> xr.Dataset:
    labels, material = asked.material.labels, asked.material
    ids = {name: index for index, name in enumerate(material.documents.ids)}
    rows = np.array([ids[name] for name in prompts])
    shape = (len(rows), len(effects), len(REMOVALS))
    measures = MEASURES if labels.alone is not None else ("rest",)
    main = measures[0]
    columns = {(measure, control): np.full(shape, np.nan) for measure in measures for control in CONTROLS}
    names = {measure: "effect" if measure == main else f"effect_{measure}" for measure in measures}
    before = {measure: np.full((len(rows), len(effects)), np.nan) for measure in measures}
    scores = np.full((len(effects), 1 + len(REMOVALS)), np.nan)
    n_classes = len(labels.classes)
    by_class = {control: np.full((len(effects), len(REMOVALS), n_classes), np.nan) for control in CONTROLS}
    for i, each in enumerate(effects):
        there = each.unedited.count[rows].sum(1) > 0
        for measure in measures:
            before[measure][there, i] = _by_document(each.unedited, measure, rows[there])
        scores[i, 0] = each.unedited.right.sum() / each.unedited.count.sum()
        for (removal, control), losses in each.edited.items():
            j = REMOVALS.index(removal)
            for measure in measures:
                columns[measure, control][there, i, j] = _by_document(
                    losses, measure, rows[there], each.unedited
                )
            if not control:
                scores[i, 1 + j] = losses.right.sum() / losses.count.sum()
            change = (losses.sums - each.unedited.sums).sum((0, 1))  # [label], of the whole loss
            if n_classes:
                count = each.unedited.count.sum(0)
                by_class[control][i, j] = np.divide(
                    change, count, out=np.full(n_classes, np.nan), where=count > 0
                )
    variables: dict[str, Any] = {}

    def add(name: str, values: Floats, words: str, dims: tuple[str, ...] = DIMS) -> None:
        # One set of resamples, so that intervals are comparable.
        found = bootstrap_mean(values, stream(material.seed, "probe", "effects"))
        for (ending, bound), part in zip(BOUNDS.items(), found, strict=True):
            variables[name + ending] = (dims, part, {"long_name": words + bound, "units": NATS})

    for measure, name in names.items():
        what = _words(asked, measure)
        add(f"{name}_unedited", before[measure], f"{what}, of the model as it is", ("place",))
        for control, says in zip(CONTROLS, SAYS, strict=True):
            add(name + control, columns[measure, control], f"what {what} rises by, {says}")
        for control in CONTROLS[1:]:
            beyond = columns[measure, ""] - columns[measure, control]
            add(f"{name}_beyond{control}", beyond, f"what {what} rises by, beyond that of {control[1:]}")
    variables["effect_by_document"] = (
        ("prompt", *DIMS),
        columns[main, ""].astype(np.float32),
        {"long_name": f"what {_words(asked, main)} rises by, by document", "units": NATS},
    )
    if n_classes:
        for control, says in zip(CONTROLS, SAYS, strict=True):
            variables[f"effect_by_class{control}"] = (
                (*DIMS, "class"),
                by_class[control],
                {"long_name": f"what the loss rises by at tokens of a class, {says}", "units": NATS},
            )
        for name, dims, values in (
            ("score_unedited", ("place",), scores[:, 0]),
            ("score_edited", DIMS, scores[:, 1:]),
        ):
            words = f"accuracy of the probe on what is {name.removeprefix('score_')}"
            variables[name] = (dims, values, {"long_name": words, "units": "1"})
    for name, numbers, words in (
        ("directions_read", [each.rank for each in effects], "directions that the probe reads"),
        ("directions_others", [each.others_rank for each in effects], "drawn directions that hold as much"),
        ("power_read", [each.share for each in effects], "share of the band's power along the directions"),
    ):
        variables[name] = (
            ("place",),
            np.array(numbers, dtype=np.float64),
            {"long_name": words, "units": "1"},
        )
    coords: dict[str, Any] = {
        "place": [label_of(each.place) for each in effects],
        "place_layer": ("place", [each.place[1] for each in effects]),
        "removed": list(REMOVALS),
        "prompt": list(prompts),
    }
    if n_classes:
        coords["class"] = list(labels.classes)
    return xr.Dataset(variables, coords=coords)


SAYS = (
    "with it taken out",
    "with a change of the same size in random directions",
    "without drawn directions that hold as much power",
)


def _by_document(losses: Losses, measure: str, rows: NDArray[np.int64], less: Losses | None = None) -> Floats:
    """Return values by document whose mean is a loss per token, or its difference."""
    at = MEASURES.index(measure)
    sums = losses.sums[at] if less is None else losses.sums[at] - less.sums[at]
    return influence(sums[rows].sum(1), losses.count[rows].sum(1))


def _words(asked: Asked, measure: str) -> str:
    if measure == "class":
        return "the cross-entropy of the next token's class"
    alone = asked.material.labels.alone is not None
    return "the cross-entropy of the next token within its class" if alone else "the loss"


def _says(asked: Asked, data: xr.Dataset, effects: Sequence[Effect]) -> str:
    labels = asked.material.labels
    what = "the class of the next token" if labels.alone is not None else "the next token"
    sentences = []
    for each in effects:
        name, layer, band = each.place
        here = data.sel(place=label_of(each.place))
        at = f"{asked.site} of layer {layer}" + ("" if band == ALL else f", band {band},")
        cost = here.sel(removed="directions")
        controls = (
            f"{_nats(cost, 'effect_placebo')} with a change of the same size in random directions, "
            f"{_nats(cost, 'effect_others')} without {each.others_rank} drawn directions that hold as much"
        )
        sentences.append(
            f"Taking what {name} reads ({each.rank} direction{'s' * (each.rank != 1)}) out of {at} costs the "
            f"model {_nats(cost, 'effect')} nats a token on {what}, {controls}: {_verdict(cost)}."
        )
        if "effect_rest" in data:
            sentences.append(f"Which token of its class it is costs {_nats(cost, 'effect_rest')} more.")
        if band != ALL:
            whole = here.sel(removed="band")
            sentences.append(
                f"Without the whole band it is {_nats(whole, 'effect')}, with a change of the same size in "
                f"random directions {_nats(whole, 'effect_placebo')}."
            )
            if each.looks_ahead:
                sentences.append(
                    "The filter of that band looks ahead, so that the edit tells of later tokens."
                )
    left = [probe.name for probe in asked.probes if not isinstance(probe, LINEAR)]
    if left:
        sentences.append(
            f"What {', '.join(left)} read is not taken out: that is done for linear probes alone."
        )
    return " ".join(sentences)


def _verdict(cost: xr.Dataset) -> str:
    """Return what follows: a use is more than both controls cost, and more than next to nothing."""
    if not float(cost["effect"]) >= MINIMUM_EFFECT or not float(cost["effect_beyond_placebo_low"]) > 0:
        return "nothing shows that the model uses it"
    if not float(cost["effect_beyond_others_low"]) > 0:
        return "the model uses what lies there, but no more than anything else that it holds as much of"
    return "the model uses it"


def _nats(here: xr.Dataset, name: str) -> str:
    return f"{float(here[name]):.3f} [{float(here[f'{name}_low']):.3f}, {float(here[f'{name}_high']):.3f}]"
