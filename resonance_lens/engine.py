"""Prompts in, results out: passes over the prompts, accumulated, concluded, labelled."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from resonance_lens import provenance
from resonance_lens.batches import Tokenized, make_batches, require_long_enough, token_strings
from resonance_lens.claims import with_baselines, with_claims
from resonance_lens.contract import Accumulated, Analysis
from resonance_lens.design import BASELINE_CONDITIONS, Condition
from resonance_lens.driving import observe_under
from resonance_lens.errors import (
    AdapterError,
    AnalysisError,
    ModelError,
    ParameterError,
    PromptError,
    wrong_parameter,
)
from resonance_lens.exhibits import show_heads
from resonance_lens.facts import Batch
from resonance_lens.features import Features, deal
from resonance_lens.hooks import ModelAdapter, attach, proof
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.hooks.twin import random_twin
from resonance_lens.methods import findings, methods
from resonance_lens.observing import layers_of, observe_batch, require_tokenizer
from resonance_lens.partial import Partial
from resonance_lens.plan import Plan, make_plan
from resonance_lens.preparing import Wanted, choose_analyses, require_task
from resonance_lens.prompts import Prompt, prompts_digest
from resonance_lens.result import Result
from resonance_lens.runs import Run
from resonance_lens.stats.streams import stream

BATCH_TOKENS = 2048
"""Tokens of one pass, padding included, unless the user says otherwise."""


def run(
    model: Any,
    prompts: Any,
    analyses: str | Analysis | Iterable[str | Analysis],
    *,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    prepend_bos: bool | None = None,
    padding_side: str = "right",
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    baselines: Iterable[str] | Literal["all"] = "all",
    progress: bool = True,
    check: bool = True,
) -> Run:
    """Measure prompts with several analyses in one pass over each batch.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer, or a name or folder for `load_model`.
    prompts
        A list of texts, ``{category: [texts]}``, a JSONL or text file, token ids, or ``"demo"``: see
        `read_prompts`. Prompts of different lengths are batched by length and never cut off. Or a
        `Task`, whose inputs are ordered values.
    analyses
        Names, or instances that carry parameters of their own; ``"all"`` for every one that can be made of
        what is given: those that need a `Task` only of one.
    parameters
        ``{analysis: {parameter: value}}`` for analyses given by name.
    out
        A folder for the results. Partial results are kept there while the run goes on, and the same
        call resumes a run that was stopped.
    seed
        Of everything random.
    batch_tokens
        Tokens of one pass, padding included: lower it if memory runs out.
    prepend_bos
        Whether texts get a beginning-of-sequence token; by default as the model is used to.
    padding_side
        ``right`` or ``left``; results do not depend on it.
    device, dtype
        Where and in what type to load a model that is given by name.
    baselines
        Which of the baselines that take passes of their own to make, of those that an analysis names:
        ``random_weights`` (a twin of the model whose weights are drawn anew) and ``shuffled_tokens``; or
        ``"all"``. Each costs as much as the run itself, and the twin as much memory as the weights.
    progress
        Whether to show a progress bar on standard error.
    check
        Whether the adapter first proves, at the sites needed, that it reads what it says.

    Returns
    -------
    Run
        Results by analysis name.

    Raises
    ------
    ResonanceLensError
        In one sentence: a prompt that is empty, too short or too long, an unknown analysis or
        model, a site that the model does not serve, activations that are not finite, a folder that
        cannot be written.
    """
    started = time.perf_counter()
    wanted = Wanted.of(analyses, parameters, baselines, prompts)
    if type(batch_tokens) is not int or batch_tokens < 1:
        raise ParameterError(wrong_parameter("run", "batch_tokens", "an integer of at least 1", batch_tokens))
    if padding_side not in ("right", "left"):
        raise ParameterError(wrong_parameter("run", "padding_side", "'right' or 'left'", padding_side))
    adapter = attach(_model(model, device, dtype, progress))
    if not adapter.runs:
        raise ModelError("run needs a model; for an ActivationCache call analyze(cache, name).")
    ready = wanted.on(adapter, prepend_bos)
    task, tokenized, chosen, layers = ready.task, ready.prompts, ready.analyses, ready.layers
    texts = [one.prompt for one in tokenized]
    conditions = ready.conditions
    if progress:
        for name, why in ready.left_out.items():
            tqdm.write(f"{name} is left out: {why}", file=sys.stderr)
    record = provenance.of_run(
        adapter, texts, tokenized, seed=seed, prepend_bos=prepend_bos, batch_tokens=batch_tokens
    )
    record["left_out"] = dict(ready.left_out)
    record["conditions"] = {name: [c.name for c in those] for name, those in conditions.items()}
    record["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    partial = Partial.open(None if out is None else Path(out), record, chosen)
    if partial.finished is not None:
        return partial.finished
    if check and isinstance(adapter, ModelAdapter):
        proof.require(adapter, sorted({site for analysis in chosen for site in analysis.observes}))
    adapters, missing = _adapters(adapter, conditions, seed)
    record["baselines_missing"] = missing
    conditions = {name: [c for c in those if c.name not in missing] for name, those in conditions.items()}
    groups = deal([p.category for p in texts])
    # Batches of what is left to do: a run may be resumed with another batch size.
    batches = make_batches(tokenized, batch_tokens, padding_side, done=partial.done)

    with tqdm(
        total=len(tokenized),
        initial=len(partial.done),
        unit="prompt",
        desc="measuring",
        disable=not progress,
    ) as bar:
        for batch in batches:
            features: dict[str, dict[str, Features]] = {analysis.name: {} for analysis in chosen}
            for condition in dict.fromkeys(c for those in conditions.values() for c in those):
                observed = observe_under(
                    condition,
                    adapters[condition.weights],
                    batch if condition.tokens == "given" else _shuffled(batch, tokenized, seed),
                    [analysis for analysis in chosen if condition in conditions[analysis.name]],
                    layers,
                    groups=groups,
                    seed=seed,
                    shortest=ready.shortest,
                    budget=batch_tokens,
                    task=task,
                )
                for name, found in observed.items():
                    features[name][condition.name] = found
            partial.add(features)
            bar.update(len(batch.prompts))

    adapters.clear()  # the twin's weights are not needed any more
    results = {}
    for analysis in chosen:
        accumulated = Accumulated(
            features={c: f.sorted() for c, f in partial.features.pop(analysis.name).items()},
            facts=adapter.facts,
            layers=layers[analysis.name],
            prompt_ids=tuple(p.id for p in texts),
            categories=tuple(p.category for p in texts),
            seed=seed,
            specimen=token_strings(adapter.tokenizer, tokenized[0].tokens),
            task=task,
        )
        results[analysis.name] = conclude(analysis, accumulated, record)
    exhibits = show_heads(adapter, tokenized, results.values())
    record["seconds"] = round(time.perf_counter() - started, 3)
    return partial.finish(Run(results=results, provenance=record, exhibits=exhibits))


def analyze(
    cache: Any,
    analysis: str | Analysis,
    *,
    tokens: Any = None,
    attention_mask: Any = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """Measure an ``ActivationCache`` that you already have, without another forward pass.

    Parameters
    ----------
    cache
        From ``model.run_with_cache``.
    analysis
        A name, or an instance that carries parameters.
    tokens
        The ids of the cached pass, ``[batch, token]``; only analyses that look at ids need them.
    attention_mask
        Ones on real tokens and zeros on padding, on the left or on the right; without one, all tokens
        are taken as real.
    parameters
        For an analysis given by name.
    seed
        Of everything random.

    Raises
    ------
    ResonanceLensError
        If the cache does not hold what the analysis needs, or the mask has gaps.
    """
    started = time.perf_counter()
    if parameters and not isinstance(analysis, str):
        raise AnalysisError(
            f"parameters are for an analysis given by name; {analysis.name} was given as an instance."
        )
    given = {analysis: parameters} if isinstance(analysis, str) and parameters else None
    chosen, *others = choose_analyses(analysis, given)
    if others:
        raise AnalysisError("analyze makes one analysis of a cache; call it once for each name.")
    adapter = attach(cache)
    if "forward" in chosen.needs and not adapter.runs:
        raise AnalysisError(f"{chosen.name} needs a model that can be run; call run(model, ...) instead.")
    require_tokenizer(adapter, chosen)
    batch = _cached_batch(adapter, tokens, attention_mask)
    prompts = [
        Prompt(text=None, tokens=tuple(ids), id=f"prompt-{i:03d}") for i, ids in enumerate(_ids(batch))
    ]
    tokenized = [Tokenized(prompt, prompt.tokens or ()) for prompt in prompts]
    require_long_enough(tokenized, [chosen])
    layers = layers_of(adapter, [chosen])
    require_task([chosen], None)
    groups = deal([None] * len(prompts))
    observed = observe_batch(
        adapter, batch, [chosen], layers, groups=groups, seed=seed, shortest=int(batch.lengths.min())
    )
    features = observed[chosen.name]
    record = provenance.of_run(adapter, prompts, tokenized, seed=seed, prepend_bos=None, batch_tokens=None)
    record["baselines_missing"] = dict.fromkeys(
        BASELINE_CONDITIONS, "a cache holds one pass; run(model, ...) measures it."
    )
    accumulated = Accumulated(
        features={"plain": features.sorted()},
        facts=adapter.facts,
        layers=layers[chosen.name],
        prompt_ids=tuple(p.id for p in prompts),
        categories=(None,) * len(prompts),
        seed=seed,
        specimen=token_strings(adapter.tokenizer, tokenized[0].tokens),
    )
    record["seconds"] = round(time.perf_counter() - started, 3)
    return conclude(chosen, accumulated, record)


def plan(
    model: Any,
    prompts: Any,
    analyses: str | Analysis | Iterable[str | Analysis],
    *,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    prepend_bos: bool | None = None,
    out: str | Path | None = None,
    baselines: Iterable[str] | Literal["all"] = "all",
    progress: bool = False,
) -> Plan:
    """Return what `run` would do with the same arguments: passes, hooks, memory, files, what it can find."""
    wanted = Wanted.of(analyses, parameters, baselines, prompts)
    ready = wanted.on(attach(_model(model, None, None, progress)), prepend_bos)
    return make_plan(ready, make_batches(ready.prompts, batch_tokens), out)


def conclude(analysis: Analysis, accumulated: Accumulated, record: Mapping[str, Any]) -> Result:
    """Return the result of one analysis from everything observed, with what it says as data."""
    data, tests, samples = with_claims(analysis.conclude(accumulated), analysis, accumulated)
    data = with_baselines(data, analysis, accumulated, samples)
    about = provenance.of_result(analysis, record, accumulated, tests)
    bare = Result(name=analysis.name, data=data, provenance=about)
    return Result(
        name=bare.name,
        data=data,
        provenance=bare.provenance,
        summary=f"{analysis.summary(bare)} {findings(bare)}".strip(),
        methods=methods(bare),
        views=tuple(analysis.views(bare)),
        ranked=tuple(analysis.targets(bare, 50)),
    )


def _model(model: Any, device: str | None, dtype: Any, progress: bool) -> Any:
    if isinstance(model, str | Path):
        from resonance_lens.models import load_model

        return load_model(model, device=device, dtype=dtype, progress=progress)
    if device is not None or dtype is not None:
        raise ModelError(
            "device and dtype are for a model given by name; move this model yourself, with model.to(...)."
        )
    return model


def _adapters(
    adapter: Adapter, conditions: Mapping[str, Sequence[Condition]], seed: int
) -> tuple[dict[str, Adapter], dict[str, str]]:
    """Return the adapters by kind of weights, and why there is no twin where there can be none."""
    adapters: dict[str, Adapter] = {"given": adapter}
    needing = {c.name for those in conditions.values() for c in those if c.weights == "random"}
    if not needing:
        return adapters, {}
    try:
        adapters["random"] = random_twin(adapter, seed)
    except AdapterError as error:
        return adapters, dict.fromkeys(sorted(needing), str(error))
    return adapters, {}


def _shuffled(batch: Batch, prompts: Sequence[Tokenized], seed: int) -> Batch:
    """Return the batch with the tokens of each prompt in random order, the first kept in place."""
    shuffled = list(prompts)
    for index in batch.prompts:
        one = prompts[index]
        rng = stream(seed, "shuffled tokens", one.prompt.id)
        rest = rng.permutation(one.tokens[1:]).tolist()
        shuffled[index] = Tokenized(one.prompt, (one.tokens[0], *rest))
    width = batch.tokens.shape[1]
    tokens = torch.zeros_like(batch.tokens)
    for row, index in enumerate(batch.prompts):
        ids = torch.tensor(shuffled[index].tokens)
        start = width - len(ids) if batch.padding_side == "left" else 0
        tokens[row, start : start + len(ids)] = ids
    return Batch(tokens, batch.lengths, batch.prompts, batch.padding_side)


def _cached_batch(adapter: Adapter, tokens: Any, attention_mask: Any) -> Batch:
    shape = adapter.shape() if hasattr(adapter, "shape") else None
    if tokens is None:
        if shape is None:
            raise PromptError("analyze needs the tokens of the pass for this kind of host.")
        ids = torch.zeros(shape, dtype=torch.long)
    else:
        ids = torch.as_tensor(tokens).long()
        ids = ids[None] if ids.ndim == 1 else ids
    if attention_mask is None:
        lengths = torch.full((ids.shape[0],), ids.shape[1])
        return Batch(ids, lengths, tuple(range(len(ids))))
    mask = torch.as_tensor(attention_mask).bool()
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != ids.shape:
        raise PromptError(
            f"The attention mask has shape {tuple(mask.shape)}, and the tokens have {tuple(ids.shape)}."
        )
    lengths = mask.sum(1)
    positions = torch.arange(ids.shape[1])
    right = bool((mask == (positions < lengths[:, None])).all())
    left = bool((mask == (positions >= ids.shape[1] - lengths[:, None])).all())
    if not (right or left) or bool((lengths == 0).any()):
        raise PromptError(
            "The attention mask must have its ones in one piece, at the left or at the right of every row."
        )
    return Batch(ids, lengths, tuple(range(len(ids))), "right" if right else "left")


def _ids(batch: Batch) -> list[list[int]]:
    from resonance_lens.batches import front_tokens

    rows = front_tokens(batch).tolist()
    return [row[:length] for row, length in zip(rows, batch.lengths.tolist(), strict=True)]


__all__ = ["analyze", "choose_analyses", "conclude", "plan", "prompts_digest", "run"]
