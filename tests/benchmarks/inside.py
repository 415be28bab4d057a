"""Where the time of analyses goes: ``python -m tests.benchmarks.inside [--pairs 9] [ANALYSIS ...]``.

Time inside each analysis while all of them run together, its part of the pass and what it does for all
layers at once, beside a bare forward pass in the same process just before. Each call is made a second time
at once, on the same signals: the last column is what it takes then, with code and numbers in the caches of
the processor. The difference is what coming after a layer of the model costs.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from resonance_lens.engine import choose_analyses
from tests.benchmarks.__main__ import load, ratios, row, sample
from tests.benchmarks.tasks import SIGNALS, bare, engine

Spent = dict[tuple[str, str, str], list[float]]
"""Seconds of each call, by analysis, method and whether it was the first or the second time."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.inside", description=__doc__)
    parser.add_argument("analyses", nargs="*", default=SIGNALS, metavar="ANALYSIS", help="names")
    parser.add_argument("--tokens", type=int, default=512, help="length of the prompt")
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs of the pass and the bare pass")
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    options = parser.parse_args()
    names = tuple(options.analyses)
    model = load(options.model)
    tokens, task = sample(model, options.tokens), engine(model, names)
    print(f"{options.model}, 1 prompt of {options.tokens} tokens, {torch.get_num_threads()} threads")
    print(f"{'':28}{'ms':>8}{'ratio':>8}   95 % interval")
    seconds, ratio = ratios(bare(model), task, tokens, options.pairs)
    print(row("all together", seconds, ratio))
    spent: Spent = defaultdict(list)
    with calls_timed(names, spent):
        for _ in range(options.pairs):
            task(tokens)
    print(f"\n{'inside, ms a pass':28}{'layers':>8}{'joined':>8}{'sum':>8}{'again':>8}")
    table = {name: each(spent, name, options.pairs) for name in names}
    table["together"] = tuple(np.sum(list(table.values()), axis=0))
    for name, numbers in table.items():
        print(f"{name:28}" + "".join(f"{ms:8.1f}" for ms in numbers))


@contextmanager
def calls_timed(names: tuple[str, ...], spent: Spent) -> Iterator[None]:
    """Have every call of ``observe`` and ``join`` made twice and timed for the time of the block."""
    with ExitStack() as stack:
        for analysis in choose_analyses(names):
            for method in ("observe", "join"):
                timed = _twice(getattr(type(analysis), method), analysis.name, method, spent)
                stack.enter_context(mock.patch.object(type(analysis), method, timed))
        yield


def _twice(function: Callable[..., Any], name: str, method: str, spent: Spent) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        found = None
        signals = tuple(args[1].values()) if method == "observe" else ()
        known = [dict(signal._memo) for signal in signals]
        for turn in ("first", "second"):
            for signal, before in zip(signals, known, strict=True):
                # What analyses before this one have left is there both times, what it leaves is not.
                signal._memo.clear()
                signal._memo.update(before)
            began = time.perf_counter()
            found = function(*args)
            spent[name, method, turn].append(time.perf_counter() - began)
        return found

    return timed


def each(spent: Spent, name: str, passes: int) -> tuple[float, ...]:
    """Return milliseconds a pass: in layers, joined, both, and both the second time."""

    def total(method: str, turn: str) -> float:
        return sum(spent[name, method, turn]) / passes * 1e3

    first = total("observe", "first"), total("join", "first")
    return (*first, sum(first), total("observe", "second") + total("join", "second"))


if __name__ == "__main__":
    main()
