"""What a sweep is made of, and which of its rows are measured: all that is known before the first pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from resonance_lens.hooks import ModelAdapter
from resonance_lens.hooks.writing import why_not_write
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching import asked
from resonance_lens.patching.metrics import Metric, NamedMetric, get_metric
from resonance_lens.patching.operations.placebo import placebo
from resonance_lens.patching.places import Place, Targets, others_of, places_of
from resonance_lens.patching.sweep import VARIANTS, Sweep, Wanted
from resonance_lens.result import Result
from resonance_lens.stats.streams import stream

OTHERS = 4
"""Other targets that one is held against, where not all of them are patched anyway."""

Indices = list[list[list[int]]]
"""By operation and target, the indices of the places that it is held against."""


def make_sweep(
    adapter: ModelAdapter,
    pairs: PromptPairs,
    targets: Targets,
    *,
    operation: asked.Operations,
    metric: str | Metric | NamedMetric,
    direction: str | None,
    controls: Collection[str],
    seed: int,
    batch_tokens: int,
    allow_look_ahead: bool,
    kernels: Result | None,
) -> Sweep:
    """Return the sweep that was asked for; the arguments are those of `resonance_lens.patch`.

    Raises
    ------
    ResonanceLensError
        If it cannot be made: every refusal that needs no pass.
    """
    asked.require_pairs(pairs, adapter)
    asked.require_settings(controls, batch_tokens, direction)
    operations = asked.operations_of(operation)
    asked.require_operations(operations, adapter.facts, allow_look_ahead, kernels is not None)
    places = places_of(targets, adapter)
    asked.require_places(places, operations, pairs)
    return Sweep(
        adapter=adapter,
        pairs=pairs,
        base=asked.base_of(operations, direction),
        places=places,
        operations=operations,
        metric=get_metric(metric),
        placebo=placebo,
        kernels=None if kernels is None else asked.kernels_of(kernels, adapter.facts),
        seed=seed,
        batch_tokens=batch_tokens,
    )


def choose_rows(sweep: Sweep, chosen: Wanted, controls: Collection[str]) -> tuple[Sweep, Indices, Wanted]:
    """Return the sweep with the places that its targets are held against, these, and the rows to measure.

    Parameters
    ----------
    sweep
        Its places are the targets.
    chosen
        Booleans ``[operation, target]``: which are patched.
    controls
        Which are made.

    Returns
    -------
    sweep
        With further places after the targets.
    others
        Where each target's others stand among the places.
    wanted
        Booleans ``[variant, operation, place, pair]``.
    """
    places = sweep.places
    others = _others(sweep, chosen) if "others" in controls else [[[] for _ in places] for _ in chosen]
    extra = list(dict.fromkeys(o for rows in others for row in rows for o in row if o not in places))
    wider = replace(sweep, places=[*places, *extra])
    index_of = {place: index for index, place in enumerate(wider.places)}
    indices = [[[index_of[other] for other in row] for row in rows] for rows in others]
    return wider, indices, _wanted(wider, chosen, indices, controls)


def _others(sweep: Sweep, chosen: Wanted) -> list[list[list[Place]]]:
    """Return the places that each target is held against, by operation.

    They are all of its kind where all of these are patched anyway, and else a few at random.
    """
    facts, places = sweep.adapter.facts, list(sweep.places)
    layers = {
        site: [n for n in range(facts.n_layers) if why_not_write(sweep.adapter, site, n) is None]
        for site in {place.site for place in places}
    }
    found: list[list[list[Place]]] = []
    for patched in chosen:
        there = {place for place, yes in zip(places, patched, strict=True) if yes}
        rows: list[list[Place]] = []
        for place in places:
            alike = others_of(place, facts, layers[place.site]) if place in there else []
            if not there.issuperset(alike) and len(alike) > OTHERS:
                rng = stream(sweep.seed, "others", place.site, place.at, place.where)
                alike = [alike[i] for i in sorted(rng.permutation(len(alike))[:OTHERS])]
            rows.append(alike)
        found.append(rows)
    return found


def _wanted(
    sweep: Sweep, chosen: Wanted, others: Sequence[Sequence[Sequence[int]]], controls: Collection[str]
) -> Wanted:
    """Return which rows are to be measured: ``[variant, operation, place, pair]``."""
    n_targets = chosen.shape[1]
    wanted = np.zeros((len(VARIANTS), len(sweep.operations), len(sweep.places), len(sweep.pairs)), np.bool_)
    scores = np.array([place.site == "scores" for place in sweep.places[:n_targets]])
    for index, operation in enumerate(sweep.operations):
        wanted[0, index, :n_targets] = chosen[index, :, None]
        for row in others[index]:
            wanted[0, index, list(row)] = True
        if "placebo" in controls:
            wanted[1, index, :n_targets] = (chosen[index] & ~scores)[:, None]
        if "complement" in controls and operation.complement() is not None:
            wanted[2, index, :n_targets] = chosen[index, :, None]
    return wanted
