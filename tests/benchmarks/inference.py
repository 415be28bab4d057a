"""What inference adds to a run: ``python -m tests.benchmarks.inference``.

The bare forward passes over the demo prompts, in the batches of a run, against what comes after them in the
same process: results with their intervals, p and q.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

import resonance_lens as rl
from resonance_lens.batches import make_batches, tokenize
from resonance_lens.claims import samples_of, with_claims
from resonance_lens.contract import Accumulated
from resonance_lens.engine import BATCH_TOKENS, choose_analyses
from resonance_lens.features import Features, deal
from resonance_lens.hooks import attach
from resonance_lens.observing import layers_of, observe_batch
from resonance_lens.stats.inference import infer
from resonance_lens.stats.streams import stream


def main() -> None:
    """Measure and print."""
    model = rl.load_model("smollm2-135m", progress=False)
    adapter, prompts = attach(model), rl.demo_prompts()
    tokenized = tokenize(prompts, adapter.facts, adapter.tokenizer, None)
    batches = make_batches(tokenized, BATCH_TOKENS)
    analyses = choose_analyses("all")
    layers = layers_of(adapter, analyses)
    groups = deal([prompt.category for prompt in prompts])

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                adapter.forward(batch.tokens, {}, unembed=False)  # type: ignore[attr-defined]

    forward()
    bare = timed(forward)
    shortest = min(len(one.tokens) for one in tokenized)
    parts = [
        observe_batch(adapter, batch, analyses, layers, groups=groups, seed=0, shortest=shortest)
        for batch in batches
    ]
    print(f"bare forward passes over {len(prompts)} prompts: {bare:.2f} s")
    for analysis in analyses:
        seen = Accumulated(
            features={"plain": functools.reduce(Features.merge, (p[analysis.name] for p in parts)).sorted()},
            facts=adapter.facts,
            layers=layers[analysis.name],
            prompt_ids=tuple(prompt.id for prompt in prompts),
            categories=(None,) * len(prompts),
            seed=0,
        )
        data = analysis.conclude(seen)
        whole = timed(functools.partial(with_claims, data, analysis, seen))
        drawn = timed(functools.partial(samples_of, analysis, seen))
        tested = 0.0
        for claim in analysis.claims:
            sample = samples_of(analysis, seen)[claim.variable]["all"]
            family = [claim.dims.index(dim) for dim in claim.family]
            tested += timed(functools.partial(infer, sample, family, stream(0, claim.variable)))
        concluded = timed(functools.partial(analysis.conclude, seen))
        print(
            f"{analysis.name:18} conclude {concluded / bare:6.3f} x, claims {whole / bare:6.3f} x "
            f"(their samples {drawn / bare:.3f}, p and q {tested / bare:.3f})"
        )


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of some times, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
