"""`carriers`: which heads, layers and mechanisms carry a wave along the tokens, and in which band."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from tqdm import tqdm

from resonance_lens import provenance
from resonance_lens.carrying import asked
from resonance_lens.carrying.asked import Asked, Kernels
from resonance_lens.carrying.concluding import conclude
from resonance_lens.carrying.fitting import fit
from resonance_lens.carrying.interventions import Known
from resonance_lens.carrying.kept import Kept
from resonance_lens.carrying.measuring import measure
from resonance_lens.errors import AdapterError
from resonance_lens.facts import Batch
from resonance_lens.hooks import proof
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.hooks.twin import random_twin
from resonance_lens.models import given_or_loaded
from resonance_lens.patching.asked import digest_of
from resonance_lens.patching.ground import batch_of, means
from resonance_lens.patching.places import Targets
from resonance_lens.prompts import prompts_digest, read_prompts
from resonance_lens.result import Result, Target
from resonance_lens.runs import Run

GIVEN, RANDOM = "given", "random"
"""Whose weights: the model's own, or those of its twin."""


def carriers(
    model: Any,
    prompts: Any,
    *,
    layer: int,
    heard: int | None = None,
    targets: Targets = asked.HEADS,
    interventions: Collection[str] | None = None,
    ablate: Sequence[Target] = (),
    ablation: str = "zero_ablate",
    kernels: Kernels = None,
    epsilon: float = 0.03,
    directions: int = 2,
    vectors: Sequence[ArrayLike] | None = None,
    period: int | None = None,
    baselines: Collection[str] = (),
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Drive a model with small waves along the tokens, and find out whose work the response is.

    Before ``layer`` a multisine is added to the residual stream, as in ``frequency_response``. What comes
    out is measured once with everything free to respond, and again with parts of the model *held*: they keep,
    in the driven pass, the values that they have in the undriven one, so that they go on with their work and
    hand no wave on.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer, or a name or folder for `load_model`.
    prompts
        As of `resonance_lens.run`. All are listened to over the tokens of the shortest.
    layer
        Before which the drive enters.
    heard
        Layer at whose end responses are heard when one place is held; the last one if not said.
    targets
        What is held one at a time: ``"heads"``, every head and every attention and MLP from ``layer`` to
        ``heard``; ``"layers"``, the attention and MLP of each layer; ``"none"``; or a list of `Target`.
    interventions
        Which to make, out of `resonance_lens.carrying.interventions.HELD`; all that the model can make if
        not said. Responses under them are heard at every layer.
    ablate, ablation
        Places that are ablated together, in the driven and in the undriven pass, and by which operation:
        ``zero_ablate`` or ``mean_ablate``.
    kernels
        Where the kernels come from that patterns are replaced by: a result of ``attention_filter`` on other
        prompts, other prompts to measure it on, or ``None`` for the other half of these prompts.
    epsilon
        Amplitude in median norms of a token.
    directions, vectors
        How many random directions the stream is driven in, one after the other; or those directions.
    period
        Tokens of the longest wave; by default as of `resonance_lens.dsp.excitation.Timing.fit`.
    baselines
        ``random_weights``: the same of the model's twin, whose weights are drawn anew, with kernels of its
        own; it costs as much again.
    seed
        Of everything random.
    batch_tokens
        Tokens of one pass: lower it if memory runs out.
    prepend_bos
        Whether texts get a beginning-of-sequence token; by default as the model is used to.
    out
        A folder for the result. Responses are kept there while they are measured, and the same call resumes
        one that was stopped.
    progress
        Whether to show a progress bar on standard error.

    Returns
    -------
    Result
        ``frequency_carriers``. Frequencies are in cycles per token; ``layer`` counts from the driven one on.

        ``carried[layer, head, band]``: share of the root mean square response at ``heard`` that is gone when
        the head is held; below zero where the response grows. ``carried_others``: the mean of the other heads
        of its layer. ``carried_coherent``: the same of the coherent gain. ``through``: the part of the
        response that comes through the head, along the response.
        ``carried_by_layer[part, layer, band]`` and ``through_by_layer``: of all that attention or MLP of a
        layer writes.
        ``carried_by[intervention, layer, frequency]`` and ``carried_by_coherent``: root mean square and
        coherent gain under each intervention. ``explained``: share of each prompt's own response that is
        still there.
        ``kernel_chain[layer, frequency]``: share of the coherent response that the chain of measured kernels
        explains; ``chain_share[intervention, layer]`` of all frequencies together.
        ``kernels_of_patterns[layer, frequency]`` and ``kernels_of_patterns_coherent[layer]``: share that the
        same chain explains of a chain of the patterns that prompts really have.
        With ``_low`` and ``_high`` (95 % over prompts), ``_prompt`` and ``_random_weights`` where they apply.

    Raises
    ------
    ResonanceLensError
        In one sentence: a model that makes no passes, looks ahead or hands on more than the residual stream,
        a layer or place that does not exist or that the drive does not reach, prompts that are too short, a
        drive that is lost in rounding, a folder of other settings.

    Notes
    -----
    Every pass begins at the layer that is held, with the residual stream of the driven run: what is before
    cannot have changed. What is kept while it is measured is on disk: for each prompt one complex number for
    each place, direction, frequency and dimension of the stream; see
    `resonance_lens.carrying.planning.plan`. To hold a place is to patch a driven run with values of the
    undriven one (activation patching, for a small drive).
    """
    started = time.perf_counter()
    model = given_or_loaded(model, progress)
    what = asked.make(
        model,
        prompts,
        layer=layer,
        heard=heard,
        targets=targets,
        interventions=interventions,
        ablate=ablate,
        ablation=ablation,
        kernels=kernels,
        epsilon=epsilon,
        directions=directions,
        vectors=vectors,
        period=period,
        baselines=baselines,
        seed=seed,
        batch_tokens=batch_tokens,
        prepend_bos=prepend_bos,
    )
    record = _record(what, prepend_bos)
    kept = Kept.open(None if out is None else Path(out), record)
    if kept.finished is not None:
        return kept.finished["frequency_carriers"]
    _require_proof(what)
    _require_resuming(what)
    record["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    adapters: dict[str, ModelAdapter] = {GIVEN: what.adapter}
    if what.baselines:
        adapters[RANDOM] = random_twin(what.adapter, seed)
    whole = False
    try:
        _measure(what, adapters, kept, progress)
        responses = {
            weights: [kept.get(weights, index) for index in range(len(what.prompts))] for weights in adapters
        }
        record["seconds"] = round(time.perf_counter() - started, 3)
        result = conclude(what, responses[GIVEN], responses.get(RANDOM), record)
        run = kept.finish(Run(results={result.name: result}, provenance=record))
        whole = True
    finally:
        kept.clear(whole=whole)
    return run[result.name]


def _measure(what: Asked, adapters: Mapping[str, ModelAdapter], kept: Kept, progress: bool) -> None:
    """Measure every prompt that is not there yet."""
    setup = what.setup
    rows = [
        len(setup.interventions) * (1 + len(setup.drives))
        + sum(len(some) for _, some in setup.passes(len(one.tokens)))
        for one in what.prompts
    ]
    done = {weights: [(weights, i) in kept for i in range(len(rows))] for weights in adapters}
    with tqdm(
        total=len(adapters) * sum(rows),
        initial=sum(n for those in done.values() for n, there in zip(rows, those, strict=True) if there),
        unit="row",
        desc="carrying",
        disable=not progress,
        file=sys.stderr,
    ) as bar:
        for weights, adapter in adapters.items():
            if all(done[weights]):
                continue
            # A result holds the kernels of the model's own weights.
            twin = weights == RANDOM and isinstance(what.kernels, Result)
            known = _known(what, adapter, None if twin else what.kernels)
            for index, one in enumerate(what.prompts):
                if not done[weights][index]:
                    found = measure(setup, adapter, one.tokens, index, known[index], bar.update)
                    kept.put(weights, index, found)


def _known(what: Asked, adapter: ModelAdapter, kernels: Kernels) -> list[Known]:
    """Return what operations are told for each prompt."""
    setup = what.setup
    rows = [one.tokens for one in what.prompts]
    spots = sorted({spot for each in setup.interventions for spot in each.means})
    mean = means(adapter, rows, spots, setup.batch_tokens) if spots else {}
    if not what.needs_kernels:
        return [Known(means=mean)] * len(rows)
    tables = fit(adapter, what.prompts, kernels, seed=setup.seed, batch_tokens=setup.batch_tokens)
    return [Known(kernels=table, means=mean) for table in tables]


def _require_proof(what: Asked) -> None:
    setup = what.setup
    sites = {place.site for each in setup.interventions for place, _ in each.places}
    sites |= {place.site for place in setup.places} | {"resid_pre", "resid_post"}
    proof.require(what.adapter, sorted(sites))


def _require_resuming(what: Asked) -> None:
    """Raise `AdapterError` unless a pass that begins at the last layer ends like the whole one."""
    adapter, deepest = what.adapter, what.adapter.facts.n_layers - 1
    batch: Batch = batch_of([what.prompts[0].tokens], [0])
    found: dict[str, Any] = {}
    adapter.run(
        batch, {deepest: ["resid_pre", "resid_post"]}, lambda s: found.update({s.site: s.values.clone()})
    )
    if not adapter.resumes(batch, deepest, found["resid_pre"], found["resid_post"]):
        raise AdapterError(
            f"carriers cannot follow waves through {adapter.facts.model_name} ({adapter.facts.host}): a "
            f"pass that begins at layer {deepest} does not end like the whole one, so blocks hand on more "
            "than the residual stream."
        )


def _record(what: Asked, prepend_bos: bool | None) -> dict[str, Any]:
    """Return what a result is made of, as plain data."""
    setup = what.setup
    record = provenance.of_run(
        what.adapter,
        [one.prompt for one in what.prompts],
        what.prompts,
        seed=setup.seed,
        prepend_bos=prepend_bos,
        batch_tokens=setup.batch_tokens,
    )
    if what.kernels is None:
        kernels = "the other half of the prompts"
    elif isinstance(what.kernels, Result):
        kernels = digest_of(what.kernels)
    else:
        kernels = prompts_digest(read_prompts(what.kernels))
    return {
        **record,
        "baselines_missing": {},
        "carriers": {
            "layer": setup.layer,
            "heard": setup.heard,
            "interventions": [
                [each.name, [[p.site, p.layer, p.head] for p, _ in each.places], _operation(each)]
                for each in setup.interventions
            ],
            "held": [[place.site, place.layer, place.head] for place in setup.places],
            "epsilon": what.epsilon,
            "directions": [list(drive.vector) if drive.vector else drive.direction for drive in setup.drives],
            "timing": [getattr(setup.timing, name) for name in ("onset", "settle", "period", "periods")],
            "kernels": kernels,
            "baselines": list(what.baselines),
        },
        "left_out": dict(what.left_out),
    }


def _operation(intervention: Any) -> str | None:
    labels = {operation.label for _, operation in intervention.places if operation is not None}
    return ", ".join(sorted(labels)) or None
