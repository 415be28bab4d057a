"""Time and memory of surrogates of attention: ``python -m tests.benchmarks.surrogates [--tokens 256]``.

Times are ratios to a bare forward pass in the same process, as in ``python -m tests.benchmarks``. What is
timed: reading the chosen rows of random attention as large as that of the model, drawing the orders of
keys, and the resultants of all heads under each of them. Memory is what a process of its own needs for
this beyond what it held before (the model and the patterns of all layers).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from resonance_lens.dsp import attention, surrogates
from resonance_lens.signal import Signal
from tests.benchmarks.__main__ import forget_peak, load, peak_resident, ratios, row, sample
from tests.benchmarks.tasks import Task, bare

MIN_KEYS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.surrogates", description=__doc__)
    parser.add_argument("--tokens", type=int, default=256, help="length of the prompt")
    parser.add_argument("--surrogates", type=int, default=999, help="orders of the keys")
    parser.add_argument("--queries", type=int, nargs="+", default=[surrogates.QUERIES], help="queries read")
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of the task and the bare pass")
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = load(options.model)
    tokens = sample(model, options.tokens)
    if options.peak:
        task = with_surrogates(model, options.tokens, options.surrogates, options.queries[0])
        forget_peak()
        before = peak_resident()
        task(tokens)
        print(peak_resident() - before)
        return
    about = f"{options.model}, 1 prompt of {options.tokens} tokens, {torch.get_num_threads()} threads"
    print(f"{about}, {options.surrogates} surrogates")
    print(f"{'':28}{'ms':>8}{'ratio':>8}   95 % interval")
    print(row("bare forward", *ratios(bare(model), bare(model), tokens, options.pairs)))
    for count in options.queries:
        task = with_surrogates(model, options.tokens, options.surrogates, count)
        print(row(f"surrogates, {count} queries", *ratios(bare(model), task, tokens, options.pairs)))
        print(f"{'peak memory, MiB':28}{spawn(options, count):8.0f}")


def with_surrogates(model: Any, n_tokens: int, n_surrogates: int, n_queries: int) -> Task:
    """Return a task that draws surrogates of random softmax attention of the model's size."""
    rng = np.random.default_rng(0)
    hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool).triu(1)
    layers = []
    for _ in range(model.cfg.n_layers):
        scores = torch.from_numpy(rng.standard_normal((1, model.cfg.n_heads, n_tokens, n_tokens), np.float32))
        weights = scores.masked_fill_(hidden, -torch.inf).softmax(-1)
        layers.append(Signal(weights, ("batch", "head", "query", "key")))

    def run(tokens: torch.Tensor) -> object:
        chosen = []
        for pattern in layers:
            seen = attention.window(pattern, causal=True, sliding=None)
            counts = pattern.mask("query") & (seen.size >= MIN_KEYS)
            chosen.append(surrogates.ChosenRows.read(pattern, seen, counts, n_queries))
        orders = surrogates.key_orders([np.random.default_rng(1)], torch.tensor([n_tokens]), n_surrogates)
        return surrogates.surrogate_resultants(chosen, orders, "full")

    return run


def spawn(options: argparse.Namespace, n_queries: int) -> float:
    """Return the memory in MiB that a process of its own needs for the task."""
    command = [sys.executable, "-m", "tests.benchmarks.surrogates", "--peak", "--model", options.model]
    command += ["--tokens", str(options.tokens), "--surrogates", str(options.surrogates)]
    command += ["--queries", str(n_queries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
