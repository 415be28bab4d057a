"""`patch`: what an operation at a place inside a model does to its answers, beside controls."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from resonance_lens import provenance
from resonance_lens.batches import Tokenized
from resonance_lens.hooks import proof
from resonance_lens.models import given_or_loaded
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching import asked
from resonance_lens.patching.asked import CONTROLS, Operations
from resonance_lens.patching.attention import attention
from resonance_lens.patching.attribution import STEPS, attribute
from resonance_lens.patching.choosing import choose_rows, make_sweep
from resonance_lens.patching.concluding import conclude
from resonance_lens.patching.kept import Kept
from resonance_lens.patching.metrics import Metric, NamedMetric
from resonance_lens.patching.patched import PatchResult
from resonance_lens.patching.places import Targets, labels_of
from resonance_lens.patching.prescreen import screen
from resonance_lens.patching.sweep import Measured, Sweep, run_sweep
from resonance_lens.result import Result
from resonance_lens.runs import Run


def patch(
    model: Any,
    pairs: PromptPairs | str,
    targets: Targets = "heads",
    *,
    operation: Operations = "patch",
    metric: str | Metric | NamedMetric = "logit_difference",
    direction: Literal["denoise", "noise"] | None = None,
    controls: Collection[str] = CONTROLS,
    prescreen: int | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    allow_look_ahead: bool = False,
    kernels: Result | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> PatchResult:
    """Do something at places inside a model, one at a time, and return what it does to the answers.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer, or a name or folder for `load_model`.
    pairs
        `PromptPairs`, or the name of a ready task (`prompt_pairs`).
    targets
        ``"heads"``: every head, at site ``z``. ``"layers"``: what attention and MLP of every layer write. A
        site, such as ``"q"`` or ``"resid_pre"``: every head or layer of it. Or a list of `Target`, as
        ``run["attention_filter"].targets(20)`` returns it.
    operation
        A name, an `Operation` with parameters of its own, or several: see
        `resonance_lens.patching.operations.list_operations`.
    metric
        ``logit_difference``, ``loss``, ``kl``, ``rank``, or a function of logits and answers: see
        `resonance_lens.patching.metrics`.
    direction
        ``denoise``: the corrupted prompt is run, and values come from the clean one. ``noise``: the reverse.
        If not said, operations that take values from the other prompt denoise, and all others are done to
        the clean prompt.
    controls
        Which to make: ``others``, the same operation at other targets of the same kind and layer (for a
        whole layer: at other layers), at no cost in a full sweep; ``placebo``, a change of the same size in a
        random direction, as many passes again; ``complement``, the operation on everything that this one
        leaves alone, where there is one, as many again.
    prescreen
        Rank all targets by attribution, and patch only this many of the highest, and as many others drawn at
        random.
    seed
        Of everything random.
    batch_tokens
        Tokens of one pass, padding included: lower it if memory runs out.
    allow_look_ahead
        Whether operations are allowed that let a causal model see later tokens.
    kernels
        A result of ``attention_filter``, for operations that put a head's kernel in place of its pattern.
    out
        A folder for the result. What has been measured is kept there while the sweep goes on, and the same
        call resumes one that was stopped.
    progress
        Whether to show a progress bar on standard error.

    Returns
    -------
    PatchResult
        Effects beside their controls, with bounds, p and q over pairs.

    Raises
    ------
    ResonanceLensError
        In one sentence: prompts or targets that do not fit the model, a site that the host cannot patch, an
        unknown site, operation, metric or control, an operation that looks ahead, a metric that is not finite
        or of the wrong shape, a folder of other settings.

    Notes
    -----
    Every pass begins at the layer that is patched, with the residual stream of the unpatched run, and only
    the positions that are read are unembedded. Held in memory, for as many pairs at a time as fit in a
    gigabyte: that stream at each patched layer, and the other prompt's values of the sites.
    """
    started = time.perf_counter()
    model = given_or_loaded(model, progress)
    adapter = asked.adapter_of(model)
    if isinstance(pairs, str):
        from resonance_lens.patching.ready import prompt_pairs

        pairs = prompt_pairs(pairs, model, seed=seed)
    sweep = make_sweep(
        adapter,
        pairs,
        targets,
        operation=operation,
        metric=metric,
        direction=direction,
        controls=controls,
        seed=seed,
        batch_tokens=batch_tokens,
        allow_look_ahead=allow_look_ahead,
        kernels=kernels,
    )
    places, operations = sweep.places, sweep.operations
    record = _record(sweep, controls, prescreen, kernels)
    kept = Kept.open(None if out is None else Path(out), record)
    if kept.finished is not None:
        return _patched(kept.finished)
    proof.require(adapter, sorted({place.site for place in places}))
    estimates, screened = None, []
    chosen = np.ones((len(operations), len(places)), dtype=np.bool_)
    if prescreen is not None:
        estimates = attribute(sweep, steps=STEPS)
        screened = [
            screen(rows, prescreen, seed, each.label)
            for rows, each in zip(estimates, operations, strict=True)
        ]
        for index, one in enumerate(screened):
            chosen[index] = np.isin(np.arange(len(places)), one.confirmed)
    sweep, others, wanted = choose_rows(sweep, chosen, controls)
    measured = Measured.nothing(sweep)
    kept.take_up(measured)
    record["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with tqdm(
        total=int(wanted.sum()),
        initial=int((wanted & ~np.isnan(measured.values)).sum()),
        unit="row",
        desc="patching",
        disable=not progress,
        file=sys.stderr,
    ) as bar:
        run_sweep(sweep, wanted, measured, keep=kept.keep, progress=bar.update)
    record["seconds"] = round(time.perf_counter() - started, 3)
    record["resumed_at_layer"] = measured.resumes
    result = conclude(sweep, places, measured, others, record, estimates, screened)
    seen = attention(sweep, result)
    return _patched(kept.finish(Run(results={result.name: result}, provenance=record, exhibits=seen)))


def _patched(run: Run) -> PatchResult:
    result = run["patch"]
    assert isinstance(result, PatchResult)
    return result


def _record(
    sweep: Sweep, controls: Collection[str], prescreen: int | None, kernels: Result | None
) -> dict[str, Any]:
    """Return what a result is made of, as plain data."""
    pairs = sweep.pairs
    prompts = pairs.prompts("clean")
    tokenized = [Tokenized(prompt, tuple(row)) for prompt, row in zip(prompts, pairs.clean, strict=True)]
    record = provenance.of_run(
        sweep.adapter, prompts, tokenized, seed=sweep.seed, prepend_bos=None, batch_tokens=sweep.batch_tokens
    )
    return {
        **record,
        "task": {
            "name": pairs.name,
            "digest": pairs.digest(),
            "pairs": len(pairs),
            "accuracy": pairs.accuracy,
            "tried": pairs.tried,
            "notes": list(pairs.notes),
        },
        "patch": {
            "operations": [
                {"name": each.name, "label": each.label, "parameters": dataclasses.asdict(each)}
                for each in sweep.operations
            ],
            "looks_ahead": [each.label for each in sweep.operations if each.looks_ahead],
            "metric": sweep.metric.name,
            "units": sweep.metric.units,
            "base": sweep.base,
            "targets": labels_of(sweep.places),
            "sites": sorted({place.site for place in sweep.places}),
            "controls": sorted(controls),
            "prescreen": prescreen,
            "kernels": None if kernels is None else asked.digest_of(kernels),
        },
    }
