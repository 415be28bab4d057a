"""What probing the corpus costs: ``python -m tests.benchmarks.probing [--layers 0 10] [--documents N]``.

One label, the linear probe in every band and at every layer, with shuffled labels and the control task. It
says the time, the peak of memory beside that of the model alone, and what lay on disk. Without options it
reads 200,000 tokens at all layers of SmolLM2-135M: give ``--documents`` and ``--layers`` for a first look.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import resonance_lens as rl
from resonance_lens.probing.probe import plan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.probing", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--label", default="word_class")
    parser.add_argument("--layers", type=int, nargs="+", help="these layers, not all")
    parser.add_argument("--documents", type=int, help="so many documents, evenly spread, not all")
    parser.add_argument("--folder", help="where the features lie for a time (default: the temporary folder)")
    options = parser.parse_args()
    model = rl.load_model(options.model, progress=False)
    documents = rl.corpus()
    if options.documents is not None:
        step = len(documents) / options.documents
        documents = [documents[int((i + 0.5) * step)] for i in range(options.documents)]
    print(plan(model, documents, options.label, layers=options.layers), flush=True)
    alone = peak()
    with TemporaryDirectory(dir=options.folder) as folder:
        began = time.perf_counter()
        result = rl.probe(
            model, documents, options.label, layers=options.layers, features=folder, progress=False
        )
        seconds = time.perf_counter() - began
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*"))
    print(f"time      {seconds / 60:.1f} min, {torch.get_num_threads()} threads")
    print(f"memory    {peak():.2f} GiB at most, {alone:.2f} before the first pass")
    print(f"disk      {disk / 2**30:.2f} GiB")
    print(result.summary)


def peak() -> float:
    """Return the most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
