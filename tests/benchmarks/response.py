"""`frequency_response` beside the bare passes that it needs: ``python -m tests.benchmarks.response``.

Bare are the same passes of the same prompts and nothing else: undriven ones whole, driven ones from the layer
that is driven, in the same batches, of the model and of its twin with random weights, without hooks, without
differences, without logits. Ours is the whole of `resonance_lens.run` but for making the twin, which is timed
apart: differences, estimators, merging, results. The two take turns in one process, so that the speed of the
machine drifts out.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resonance_lens import engine
from resonance_lens.analyses.frequency_response import FrequencyResponse
from resonance_lens.batches import make_batches
from resonance_lens.facts import Batch
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.hooks.twin import random_twin
from resonance_lens.preparing import Wanted
from resonance_lens.signal import Signal
from tests.benchmarks.__main__ import forget_peak, load, peak_resident

Floats = NDArray[np.float64]


def bare(
    adapters: list[ModelAdapter], batches: list[Batch], analysis: FrequencyResponse, budget: int
) -> None:
    """Make the passes that a run of the analysis needs."""
    width = int(batches[0].lengths.min())
    (condition,) = analysis.design(adapters[0].facts, width).conditions
    for adapter in adapters:
        for batch in batches:
            n = max(1, budget // (batch.tokens.shape[1] * len(condition.drives[0])))
            for start in range(0, len(batch.prompts), n):
                rows = slice(start, start + n)
                part = Batch(batch.tokens[rows], batch.lengths[rows], batch.prompts[rows])
                entering: dict[int, torch.Tensor] = {}
                layers = sorted({group[0].layer for group in condition.drives})

                def keep(signal: Signal, entering: dict[int, torch.Tensor] = entering) -> None:
                    assert signal.layer is not None
                    entering[signal.layer] = signal.values.clone()

                adapter.run(part, {layer: ["resid_pre"] for layer in layers}, keep)
                for group in condition.drives:
                    m = len(group)
                    again = Batch(part.tokens.repeat(m, 1), part.lengths.repeat(m), part.prompts * m)
                    residual = entering[group[0].layer].repeat(m, 1, 1)
                    adapter.resume(again, group[0].layer, residual)


def now() -> Floats:
    """Return the time by the clock and of the processors, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def texts(model: Any, count: int, n_tokens: int) -> list[list[int]]:
    """Return pieces of the shipped prose, so many tokens each."""
    from resonance_lens.prompts import corpus

    ids = [i for p in corpus("prose") for i in model.tokenizer(p.text, add_special_tokens=False)["input_ids"]]
    return [ids[start * n_tokens : (start + 1) * n_tokens] for start in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.response", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--directions", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="times that both are timed")
    options = parser.parse_args()
    model = load(options.model)
    prompts = texts(model, options.prompts, options.tokens)
    analysis = FrequencyResponse(directions=options.directions)
    adapter = attach(model)
    assert isinstance(adapter, ModelAdapter)
    began = now()
    twin = random_twin(adapter, 0)
    made = now() - began
    assert isinstance(twin, ModelAdapter)
    plan = engine.plan(model, prompts, analysis)
    wanted = Wanted.of(analysis, None, "all", prompts).on(adapter, None)
    batches = make_batches(wanted.prompts, engine.BATCH_TOKENS)
    adapters = [adapter, twin, adapter]  # as given, of random weights, of shuffled text
    seconds = []
    forget_peak()
    for _ in range(options.repeats):
        marks = [now()]
        bare(adapters, batches, analysis, engine.BATCH_TOKENS)
        marks.append(now())
        engine.run(model, prompts, analysis, progress=False)
        marks.append(now())
        seconds.append(np.diff(marks, axis=0))  # [bare and ours, by the clock and of the processors]
    bare_, ours = np.median(seconds, axis=0)
    print(
        f"{options.model}, {options.prompts} prompts of {options.tokens} tokens, {options.directions} "
        f"directions, {plan.sequences} sequences, {torch.get_num_threads()} threads; "
        f"peak {peak_resident():.0f} MiB"
    )
    for what, one, other, apart in zip(("by the clock", "of the processors"), bare_, ours, made, strict=True):
        print(
            f"{what:20} bare {one:.1f} s, run {other:.1f} s with {apart:.1f} s for the twin: ratio "
            f"{other / one:.3f}, without the twin {(other - apart) / one:.3f}"
        )


if __name__ == "__main__":
    main()
