"""From what a sweep measured to its result: dataset, summary, methods, views, targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.hooks.writing import heads_at
from resonance_lens.patching.effects import Numbers, effects, with_maps
from resonance_lens.patching.patched import PatchResult
from resonance_lens.patching.places import Place, labels_of
from resonance_lens.patching.prescreen import Agreement, Screened, agreement, among_all
from resonance_lens.patching.showing import views
from resonance_lens.patching.sweep import Measured, Sweep
from resonance_lens.patching.telling import methods, minimum_effect, ranked, summary

Array = NDArray[np.float64]

TITLE = "Effect of patching on the answers"


def conclude(
    sweep: Sweep,
    places: Sequence[Place],
    measured: Measured,
    others: Sequence[Sequence[Sequence[int]]],
    record: Mapping[str, Any],
    estimates: Array | None = None,
    screened: Sequence[Screened] = (),
) -> PatchResult:
    """Return the result of a sweep.

    Parameters
    ----------
    sweep
        What was swept: the targets, and after them the places that they are held against.
    places
        The targets.
    measured
        The metric of every row.
    others
        By operation and target, the indices of the places that it is held against.
    record
        What the result is made of.
    estimates
        ``[operation, target, pair]`` by attribution, if it chose the targets.
    screened
        By operation, which targets it chose.
    """
    n = len(places)
    facts = sweep.adapter.facts
    base, donor = measured.sides
    clean, corrupted = (base, donor) if sweep.base == "clean" else (donor, base)
    numbers = Numbers(
        labels=[each.label for each in sweep.operations],
        looks_ahead=[each.looks_ahead for each in sweep.operations],
        donors=[each.donor for each in sweep.operations],
        exact=measured.values[0],
        placebo=measured.values[1][:, :n],
        complement=measured.values[2][:, :n],
        base=base,
        donor=donor,
        clean=clean,
        corrupted=corrupted,
        others=others,
        units=sweep.metric.units or "1",
        seed=sweep.seed,
    )
    labels = labels_of(places)
    coords = {
        "target": ("target", labels),
        "site": ("target", [place.site for place in places]),
        "target_layer": ("target", [place.layer for place in places], {"long_name": "layer"}),
        "target_head": ("target", [-1 if p.head is None else p.head for p in places], {"long_name": "head"}),
        "position": ("target", [place.where for place in places]),
    }
    data = effects(numbers, coords, sweep.pairs.ids)
    found: list[Agreement] = []
    if estimates is not None:
        data = among_all(data)
        data["attribution"] = xr.Variable(
            ("operation", "target"),
            estimates.mean(-1),
            {"long_name": "effect, by attribution", "units": numbers.units},
        )
        difference = measured.values[0][:, :n] - base
        found = [agreement(*each, labels) for each in zip(estimates, difference, screened, strict=True)]
    data = with_maps(data, facts.n_layers, {p.site: heads_at(p.site, facts) for p in places})
    missing = {
        control: [label for label, known in zip(numbers.labels, there, strict=True) if not known]
        for control, there in (
            (control, data[control].notnull().any("target").values) for control in record["patch"]["controls"]
        )
    }
    provenance = {
        **record,
        "analysis": "patch",
        "version": "1",
        "title": TITLE,
        "headline": "effect",
        "evidence": "measured",
        "minimum_effect": minimum_effect(data),
        "claims": [],
        "tests": {},
        "parameters": {
            "operation": ", ".join(numbers.labels),
            "metric": sweep.metric.name,
            "direction": "denoise" if sweep.base == "corrupted" else "noise",
            "targets": f"{n} at {', '.join(sorted({place.site for place in places}))}",
        },
        "controls_missing": {control: labels for control, labels in missing.items() if labels},
        "attribution": [_plain(each) for each in found],
    }
    bare = PatchResult(name="patch", data=data, provenance=provenance)
    bare = replace(bare, ranked=tuple(ranked(bare, places)))
    return replace(
        bare,
        summary=" ".join([summary(bare), *(each.sentence() for each in found)]),
        methods=methods(bare),
        views=tuple(views(bare)),
    )


def _plain(found: Agreement) -> dict[str, Any]:
    """Return the agreement as plain data; what is not a number as ``None``, which JSON has."""
    return {
        name: None
        if isinstance(value, float) and np.isnan(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in vars(found).items()
    }
