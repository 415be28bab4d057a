"""What a sweep costs: ``python -m tests.benchmarks.patching [--pairs 32] [--layers 5] [--rounds 3]``.

Patching every head at once is held against what a user would write: a loop over ``run_with_hooks``, one head
and one prompt at a time, and a loop over heads with the prompts batched. All three patch ``z`` of the same
heads on the same pairs and read the logit difference of the last token. A sample of layers stands for all of
them: each loop is timed on one head of each (and one prompt), the sweep on all heads of each, and scaled up.
The three take turns in one process, so that the machine's speed drifts out of the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import resonance_lens as rl
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.metrics import get_metric
from resonance_lens.patching.operations import get_operation
from resonance_lens.patching.operations.placebo import placebo
from resonance_lens.patching.places import Place
from resonance_lens.patching.sweep import Measured, Sweep, run_sweep


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.patching", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--layers", type=int, default=5, help="layers that stand for all, evenly spread")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = rl.load_model(options.model, progress=False)
    pairs = rl.prompt_pairs("induction", model, n_pairs=options.pairs)
    adapter = attach(model)
    assert isinstance(adapter, ModelAdapter)
    facts = adapter.facts
    # In the middle of equal pieces, so that the mean depth is that of all layers.
    layers = [int((i + 0.5) * facts.n_layers / options.layers) for i in range(options.layers)]
    lengths = sorted({len(row) for row in pairs.clean})
    print(
        f"{options.model}, {facts.n_layers * facts.n_heads} heads, {len(pairs)} pairs of {lengths} tokens, "
        f"{torch.get_num_threads()} threads, layers {layers} of {facts.n_layers}"
    )
    base, donors = unpatched(model, adapter, pairs, layers)
    tasks: dict[str, tuple[Callable[[], Any], float]] = {
        "sweep": (lambda: swept(adapter, pairs, layers, 1), facts.n_layers / len(layers)),
        "loop over heads, prompts batched": (
            lambda: [batched(model, base, donors, layer, pairs) for layer in layers],
            facts.n_layers * facts.n_heads / len(layers),
        ),
        "loop over heads and prompts": (
            lambda: [single(model, base, donors, layer, pairs, layer % len(pairs)) for layer in layers],
            facts.n_layers * facts.n_heads * len(pairs) / len(layers),
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for name, (task, _) in tasks.items():
        if name != "sweep":
            task()  # warm
    for _ in range(options.rounds):
        for name, (task, times) in tasks.items():
            began = time.perf_counter()
            task()
            taken[name].append((time.perf_counter() - began) * times)
    sweep = np.array(taken["sweep"])
    print(f"{'':36}{'s, scaled':>10}{'ratio':>8}   range over rounds")
    for name, seconds in taken.items():
        ratio = np.array(seconds) / sweep
        spread = f"{ratio.min():.2f} to {ratio.max():.2f}"
        print(f"{name:36}{np.median(seconds):10.0f}{np.median(ratio):8.2f}   {spread}")


def unpatched(
    model: Any, adapter: ModelAdapter, pairs: PromptPairs, layers: list[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the corrupted prompts as one batch, and ``z`` of the clean ones at some layers."""
    names = [adapter.hook_name("z", layer) for layer in layers]
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(pairs.clean), names_filter=names)
    return torch.tensor(pairs.corrupted), {
        layer: cache[name].clone() for layer, name in zip(layers, names, strict=True)
    }


def swept(adapter: ModelAdapter, pairs: PromptPairs, layers: list[int], variants: int) -> Measured:
    """Patch every head of some layers: the passes of `resonance_lens.patch`, without statistics."""
    places = [Place("z", layer, head) for layer in layers for head in range(adapter.facts.n_heads)]
    sweep = Sweep(
        adapter=adapter,
        pairs=pairs,
        base="corrupted",
        places=places,
        operations=[get_operation("patch")],
        metric=get_metric("logit_difference"),
        placebo=placebo,
    )
    measured = Measured.nothing(sweep)
    wanted = np.zeros(measured.values.shape, dtype=np.bool_)
    wanted[:variants] = True
    run_sweep(sweep, wanted, measured, keep=lambda measured: None, progress=lambda n: None)
    return measured


def batched(model: Any, base: Tensor, donors: dict[int, Tensor], layer: int, pairs: PromptPairs) -> Tensor:
    """Patch one head in all prompts at once, as a user would."""

    def put(values: Tensor, hook: Any) -> Tensor:
        values = values.clone()
        values[:, :, 0] = donors[layer][:, :, 0]
        return values

    with torch.no_grad():
        logits = model.run_with_hooks(base, fwd_hooks=[(ModelAdapter.hook_name("z", layer), put)])[:, -1]
    rows = torch.arange(len(base))
    right, wrong = (logits[rows, torch.tensor(each.tolist())] for each in (pairs.right, pairs.wrong))
    difference: Tensor = right - wrong
    return difference


def single(
    model: Any, base: Tensor, donors: dict[int, Tensor], layer: int, pairs: PromptPairs, pair: int
) -> Tensor:
    """Patch one head in one prompt, as a user would."""
    one = pairs.take([pair])
    return batched(model, base[pair : pair + 1], {layer: donors[layer][pair : pair + 1]}, layer, one)


if __name__ == "__main__":
    main()
