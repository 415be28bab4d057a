"""Print the table: ``python -m tests.benchmarks [--tokens 512] [--pairs 15] [--only TASK ...]``.

Times are ratios to a bare forward pass that runs in the same process just before, so that the machine's
speed drifts out. Memory is the peak of a process of its own for each task.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from tests.benchmarks.tasks import FOUR, TASKS, bare

BASELINE = "bare forward"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="length of the prompt")
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of each task and the bare pass")
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="TASK", help="these tasks, not all")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options)))
        return
    model = load(options.model)
    tokens = sample(model, options.tokens)
    print(f"{options.model}, 1 prompt of {options.tokens} tokens, {torch.get_num_threads()} threads")
    print(f"{'':28}{'ms':>8}{'ratio':>8}   95 % interval")
    tasks = options.only or list(TASKS)
    for name in tasks:
        print(row(name, *ratios(bare(model), TASKS[name](model), tokens, options.pairs)), flush=True)
    del model
    print("\npeak memory of a process, MiB")
    base = spawn(options, BASELINE)["peak"]
    for name in tasks:
        found = spawn(options, name)
        print(f"{name:28}{found['peak']:8.0f}{found['peak'] / base:8.2f}")
    if options.only:
        return
    print("\npeak memory of a whole run of the four analyses, prompts of 64 tokens, MiB")
    first = 0.0
    for count in (16, 64, 256):
        found = spawn(options, "run", count)
        first = first or found["peak"]
        print(
            f"{count:4} prompts {found['peak']:20.0f}{found['peak'] / first:8.3f}   {found['seconds']:.1f} s"
        )


def load(name: str) -> Any:
    """Return the model."""
    from resonance_lens.models import load_model

    return load_model(name, progress=False)


def sample(model: Any, n_tokens: int) -> torch.Tensor:
    """Return token ids of prose from the shipped corpus, ``[1, n_tokens]``."""
    from resonance_lens.prompts import corpus

    ids: list[int] = []
    for document in corpus("prose"):
        ids = model.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        if len(ids) >= n_tokens:
            break
    return torch.tensor([ids[:n_tokens]])


def ratios(first: Any, second: Any, tokens: torch.Tensor, pairs: int) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the median time of ``second`` in seconds, and its ratio to ``first`` pair by pair."""
    first(tokens)
    second(tokens)
    times = []
    for _ in range(pairs):
        marks = [time.perf_counter()]
        for task in (first, second):
            task(tokens)
            marks.append(time.perf_counter())
        times.append(np.diff(marks))
    a, b = np.array(times).T
    return float(np.median(b)), b / a


def row(name: str, seconds: float, ratio: np.ndarray[Any, Any]) -> str:
    """Return a line: milliseconds, median ratio, interval of the median by resampling pairs."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratio, size=(2000, len(ratio))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{name:28}{seconds * 1e3:8.0f}{np.median(ratio):8.3f}   {low:.3f} to {high:.3f}"


def spawn(options: argparse.Namespace, task: str, prompts: int = 0) -> dict[str, float]:
    """Return the peak memory and time of a task in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks", "--peak", task, "--tokens", str(options.tokens)]
    command += ["--model", options.model, "--prompts", str(prompts)]
    # Freed blocks go back to the system at once: the peak is what is held, not what the allocator keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak(options: argparse.Namespace) -> dict[str, float]:
    """Do one task and return the peak resident memory of this process in MiB."""
    model = load(options.model)
    forget_peak()
    began = time.perf_counter()
    if options.peak == "run":
        from resonance_lens.engine import run

        text = sample(model, 2048)[0].tolist()
        starts = np.linspace(0, len(text) - 64, options.prompts).astype(int)
        prompts = [text[s : s + 64] for s in starts]
        run(model, prompts, FOUR, progress=False, batch_tokens=1024)  # passes of one size, however many
    else:
        task, tokens = TASKS[options.peak](model), sample(model, options.tokens)
        for _ in range(3):
            task(tokens)
    seconds = time.perf_counter() - began
    return {"peak": peak_resident(), "seconds": seconds}


def forget_peak() -> None:
    """Begin anew to look for the peak, so that reading the weights does not count; on Linux only."""
    if pathlib.Path("/proc/self/clear_refs").exists():
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> float:
    """Return the largest resident memory since `forget_peak`, in MiB; elsewhere since the start."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
