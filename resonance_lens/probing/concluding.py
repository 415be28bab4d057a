"""From tallies to a result: scores beside their controls, with intervals over documents, and the sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.probing.asked import Asked
from resonance_lens.probing.controls import CONTROL_TASK, SHUFFLED
from resonance_lens.probing.documents import PARTS
from resonance_lens.probing.names import NEXT
from resonance_lens.probing.places import Scored
from resonance_lens.probing.showing import views
from resonance_lens.probing.specimen import filters
from resonance_lens.probing.tally import Tally
from resonance_lens.result import Result, Target
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]
Place = tuple[str, int, str]
"""Probe, layer, band."""

VERSION = "1"
DIMS = ("probe", "band", "layer")

NO_MEAN = (
    "A band without frequency 0 adds up to nothing in every window, so that a linear probe of single tokens "
    "cannot read a label of documents there, whatever it holds."
)
"""What makes the low band the best for a label of documents by arithmetic alone."""

LOOKS_AHEAD = (
    "Filters of the {method} method look ahead: in a band a token holds some of the following one, whose "
    "label this is. Only the band 'all' and the method 'causal' tell what is known of it beforehand."
)
"""What makes bands good for a label of the following token, whatever the model knows."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was scored.

    Attributes
    ----------
    scored
        By place.
    random_features
        The label read from random features, by probe and band.
    random_weights
        By place, of the twin; empty where it was not asked for.
    curve
        Score on validation by probe, for each of `fractions` of the training documents, at its best place.
    fractions
        Of the training documents.
    shown
        What probes say along a test window: see `resonance_lens.probing.specimen.specimen`.
    """

    scored: Mapping[Place, Scored]
    random_features: Mapping[tuple[str, str], Scored]
    random_weights: Mapping[Place, Scored]
    curve: Mapping[str, Sequence[float]]
    fractions: tuple[float, ...]
    shown: xr.Dataset


def best_places(asked: Asked, scored: Mapping[Place, Scored]) -> dict[str, Place]:
    """Return for each probe the place that validation chooses."""
    return {
        probe.name: max(
            (place for place in scored if place[0] == probe.name), key=lambda place: scored[place].validation
        )
        for probe in asked.probes
    }


def conclude(asked: Asked, found: Found, record: Mapping[str, Any]) -> Result:
    """Return the result of `resonance_lens.probe`."""
    data = xr.merge(
        [_dataset(asked, found), found.shown, filters(asked, found.scored)],
        join="exact",
        compat="no_conflicts",
    )
    best = best_places(asked, found.scored)
    provenance = {
        **record,
        "analysis": "probe",
        "title": f"What can be read of {asked.material.labels.says}",
        "version": VERSION,
        "headline": "score",
        "evidence": "measured",
        "baselines": ["majority", "random_features", "untrained", *asked.baselines],
        "conditions": ["plain", *asked.baselines],
        "baselines_missing": {},
        "nulls": [],
        "claims": [],
        "tests": {},
        "calibrated": {},
        "minimum_effect": 0.0,
        "source": "SCIENCE 3, 7, 9; Tamkin et al. 2020, 2011.04823; Hewitt and Liang 2019, 1909.03368",
        "parameters": {
            **{name: record["probe"][name] for name in ("label", "site", "bands", "method", "probes")},
        },
        "best": {name: {"layer": layer, "band": band} for name, (_, layer, band) in best.items()},
    }
    ranked = sorted(found.scored, key=lambda place: -found.scored[place].validation)
    targets = tuple(
        Target(
            site=asked.site,
            layer=layer,
            score=found.scored[name, layer, band].validation,
            reason=f"score on validation of {name} in the band {band}",
        )
        for name, layer, band in _first_of_layers(ranked)
    )
    return Result(
        name="probe",
        data=data,
        provenance=provenance,
        summary=_summary(asked, data, best),
        methods=_methods(asked),
        views=tuple(views(data, asked.material.labels.kind, provenance["best"])),
        ranked=targets,
    )


def _first_of_layers(ranked: Sequence[Place]) -> list[Place]:
    first: dict[int, Place] = {}
    for place in ranked:
        first.setdefault(place[1], place)
    return list(first.values())


def _dataset(asked: Asked, found: Found) -> xr.Dataset:
    material = asked.material
    probes, bands, layers = [p.name for p in asked.probes], list(asked.bands), list(asked.layers)
    some = next(iter(found.scored.values())).test[0]
    seen = some.seen
    shape = (int(seen.sum()), len(probes), len(bands), len(layers))
    at = {
        (p, layer, b): (i, j, k)
        for i, p in enumerate(probes)
        for j, b in enumerate(bands)
        for k, layer in enumerate(layers)
    }
    rows: dict[str, Floats] = {name: np.full(shape, np.nan) for name in ("score", "balanced")}
    rows |= {f"score_{name}": np.full(shape, np.nan) for name in ("shuffled", "random_features", "untrained")}
    single = {
        name: np.full(shape[1:], np.nan)
        for name in ("score_majority", "score_validation", "n_parameters", "strength")
    }
    if CONTROL_TASK in material.names:
        rows["score_control_task"] = np.full(shape, np.nan)
    if found.random_weights:
        rows["score_random_weights"] = np.full(shape, np.nan)
    majority = _majority(asked, some)
    for place, scored in found.scored.items():
        where = (slice(None), *at[place])
        single["score_majority"][at[place]] = majority
        single["score_validation"][at[place]] = scored.validation
        single["n_parameters"][at[place]] = scored.n_parameters
        single["strength"][at[place]] = scored.strength
        rows["score"][where] = scored.test[0].rows()
        rows["balanced"][where] = scored.test[0].rows(balanced=True)
        for kind, name in ((SHUFFLED, "score_shuffled"), (CONTROL_TASK, "score_control_task")):
            those = [t for t, what in zip(scored.test, material.names, strict=False) if what == kind]
            if those:
                rows[name][where] = np.mean([tally.rows() for tally in those], axis=0)
        if place in found.random_weights:
            rows["score_random_weights"][where] = found.random_weights[place].test[0].rows()
        rows["score_untrained"][where] = scored.untrained.rows()
        rows["score_random_features"][where] = found.random_features[place[0], place[2]].test[0].rows()
    against = rows.get("score_control_task", rows["score_shuffled"])
    rows["selectivity"] = rows["score"] - against
    words = _words(asked)
    variables: dict[str, Any] = {}
    for name, values in rows.items():
        rng = stream(material.seed, "probe", "intervals")  # one set of resamples: intervals are comparable
        mean, low, high = bootstrap_mean(values, rng)
        if material.labels.kind == "classes" and name != "selectivity":
            low, high = low.clip(0, 1), high.clip(0, 1)  # an accuracy is nowhere else
        for ending, part, says in (
            ("", mean, ""),
            ("_low", low, ", lower 95 % bound"),
            ("_high", high, ", upper 95 % bound"),
        ):
            variables[name + ending] = (
                DIMS,
                part,
                {"long_name": words[name] + says, "units": words["units"]},
            )
    for name, values in single.items():
        units = words["units"] if name.startswith("score") else "1"
        variables[name] = (DIMS, values, {"long_name": words[name], "units": units})
    for name in ("score", "selectivity"):
        says = f"{words[name]} of each test document"
        variables[f"{name}_prompt"] = (
            ("prompt", *DIMS),
            rows[name].astype(np.float32),
            {"long_name": says, "units": words["units"]},
        )
    variables["learning_curve"] = (
        ("probe", "fraction"),
        np.array([found.curve[name] for name in probes]),
        {"long_name": f"{words['units']} on validation at the best place", "units": words["units"]},
    )
    coords = {
        "probe": probes,
        "band": bands,
        "layer": layers,
        "fraction": ("fraction", list(found.fractions), {"long_name": "share of the training documents"}),
        "prompt": [material.documents.ids[i] for i in np.flatnonzero(seen)],
    }
    return xr.Dataset(variables, coords=coords)


def _majority(asked: Asked, test: Tally) -> float:
    """Return the score of always saying the class that is most frequent in training, or its mean."""
    material = asked.material
    if material.labels.kind == "ordered":
        return 0.0
    counts = np.zeros(len(material.labels.classes))
    for window in material.windows_of("train"):
        values = material.labellings[material.rows[window] : material.rows[window + 1], 0]
        counts += np.bincount(values[~np.isnan(values)].astype(int), minlength=len(counts))
    return float(test.count[:, counts.argmax()].sum() / test.count.sum())


def _words(asked: Asked) -> dict[str, str]:
    kind = asked.material.labels.kind
    score = "accuracy" if kind == "classes" else "R squared"
    against = "the control task" if CONTROL_TASK in asked.material.names else "shuffled labels"
    return {
        "units": score,
        "score": f"{score} on test documents",
        "balanced": "accuracy, each class counted alike" if kind == "classes" else score,
        "score_shuffled": f"{score}, shuffled labels",
        "score_control_task": f"{score}, control task (a class drawn for each word)",
        "score_random_features": f"{score} from random features (a vector drawn for each word)",
        "score_random_weights": f"{score}, model with random weights",
        "score_untrained": f"{score} of the probe before training",
        "score_majority": f"{score} of the most frequent class"
        if kind == "classes"
        else "R squared of the mean",
        "score_validation": f"{score} on validation",
        "selectivity": f"{score} less that of {against}",
        "n_parameters": "parameters of the probe",
        "strength": "regularisation that validation chose",
    }


def _summary(asked: Asked, data: xr.Dataset, best: Mapping[str, Place]) -> str:
    labels, material = asked.material.labels, asked.material
    score = "accuracy" if labels.kind == "classes" else "R squared"
    sentences = []
    first, layer, band = best[asked.probes[0].name]
    here = data.sel(probe=first, layer=layer, band=band)
    what = f"{labels.name} ({len(labels.classes)} classes)" if labels.classes else labels.name
    beside = [
        f"{float(here[name]):.2f} {says}"
        for name, says in (
            ("score_majority", "for the most frequent class" if labels.classes else "for the mean"),
            ("score_shuffled", "for shuffled labels"),
            ("score_random_features", "from random features of the words"),
            ("score_untrained", "of the probe before training"),
        )
    ]
    if "score_random_weights" in data:
        beside.append(f"{float(here['score_random_weights']):.2f} with random weights")
    sentences.append(
        f"Of {what}, {first} reads most from {asked.site} at layer {layer} in the band {band}, as validation "
        f"chose: {score} {_with_bounds(here, 'score')} on {data.sizes['prompt']} test documents, beside "
        f"{', '.join(beside)}; selectivity {_with_bounds(here, 'selectivity')}."
    )
    parts = [name for name in asked.bands if name != "all"]
    if len(parts) > 1:
        sentences.append(_bands_sentence(data.sel(probe=first), parts, asked.material.seed))
        if labels.level == "document" and material.method == "dct":
            sentences.append(NO_MEAN)
    if parts and labels.name.startswith(NEXT) and material.method != "causal":
        sentences.append(LOOKS_AHEAD.format(method=material.method))
    for probe in asked.probes[1:]:
        _, other_layer, other_band = best[probe.name]
        other = data.sel(probe=probe.name, layer=other_layer, band=other_band)
        there = other["score_prompt"].values
        mine = data["score_prompt"].sel(probe=first, layer=layer, band=band).values
        mean, low, high = (float(x) for x in bootstrap_mean(there - mine, stream(material.seed, probe.name)))
        verdict = (
            f"reads more than {first}"
            if low > 0
            else f"reads less than {first}"
            if high < 0
            else f"is as good as {first}, as far as these documents tell"
        )
        sentences.append(
            f"{probe.name} {verdict}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], each at its best place, with "
            f"{int(other['n_parameters'])} parameters against {int(here['n_parameters'])}."
        )
    if labels.left_out:
        sentences.append(f"Not measured, for too few documents: {', '.join(labels.left_out)}.")
    return " ".join(sentences)


def _bands_sentence(data: xr.Dataset, bands: Sequence[str], seed: int) -> str:
    """Return which single band is best, and whether it surely is: chosen on validation, compared on test."""
    validation = data["score_validation"].sel(band=list(bands)).max("layer")
    if not bool(validation.notnull().any()):
        return ""
    order = np.argsort(-validation.values)
    names = [bands[i] for i in order[:2]]
    layers = [int(data["score_validation"].sel(band=name).idxmax("layer")) for name in names]
    one, two = (
        data["score_prompt"].sel(band=name, layer=layer).values
        for name, layer in zip(names, layers, strict=True)
    )
    mean, low, high = (float(x) for x in bootstrap_mean(one - two, stream(seed, "bands")))
    sure = "more than" if low > 0 else "not surely more than"
    return (
        f"Of single bands {names[0]} (layer {layers[0]}) holds {sure} {names[1]} (layer {layers[1]}): "
        f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]."
    )


def _with_bounds(here: xr.Dataset, name: str) -> str:
    low, high = float(here[f"{name}_low"]), float(here[f"{name}_high"])
    return f"{float(here[name]):.2f} [{low:.2f}, {high:.2f}]"


def _methods(asked: Asked) -> str:
    material = asked.material
    counts = {name: int((material.part == number).sum()) for number, name in enumerate(PARTS)}
    control = (
        "the control task gives each word of the vocabulary one class or value for good"
        if CONTROL_TASK in material.names
        else "labels of documents have no control task but shuffled labels"
    )
    return (
        f"Documents are split ({', '.join(f'{count} {name}' for name, count in counts.items())}); "
        "regularisation, early stopping and places are chosen on validation, and each place is scored on "
        "test once. Bands are filtered within windows of one document, without the first position. Intervals "
        f"(95 %) resample test documents. Shuffled labels: the mean of {material.names.count(SHUFFLED)}; "
        f"{control}. "
        "Selectivity is the score less that of the control. No p is given: a place chosen among many is the "
        "best of many."
    )
