"""Attention patterns of a few prompts, for the heads that results want to show.

Nothing is kept of the patterns during a run; which heads are worth a look is known only after it.
So one short pass over a few prompts fetches them, and they are saved with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from resonance_lens.batches import Tokenized, make_batches, token_strings
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.result import Result
from resonance_lens.signal import Signal

MAX_PROMPTS = 4
MAX_TOKENS = 128
MAX_HEADS = 24


def show_heads(
    adapter: Adapter, prompts: Sequence[Tokenized], results: Iterable[Result]
) -> xr.Dataset | None:
    """Return the patterns of the heads that the results' views ask for, or ``None`` if none do.

    Prompts: the first of each category, or the first few, of at most `MAX_TOKENS` tokens. Dimensions
    ``exhibit, head_label, query, key``; zero, and empty token strings, beyond each prompt's length.
    """
    heads = list(dict.fromkeys(h for r in results for v in r.views for h in v.heads))[:MAX_HEADS]
    shown = _choose(prompts)
    if not heads or not shown:
        return None
    width = max(len(p.tokens) for p in shown)
    pattern = np.zeros((len(shown), len(heads), width, width), dtype=np.float32)
    batch = make_batches(shown, budget=width * len(shown))[0]

    def receive(signal: Signal) -> None:
        for index, (layer, head) in enumerate(heads):
            if layer == signal.layer:
                size = signal.size("key")
                values = signal.values[:, head].float().cpu().numpy()
                for row, exhibit in enumerate(batch.prompts):
                    pattern[exhibit, index, :size, :size] = values[row]

    adapter.run(batch, {layer: ["pattern"] for layer, _ in heads}, receive)
    tokens = np.full((len(shown), width), "", dtype=object)
    for exhibit, prompt in enumerate(shown):
        tokens[exhibit, : len(prompt.tokens)] = token_strings(adapter.tokenizer, prompt.tokens)
    return xr.Dataset(
        {
            "pattern": (
                ("exhibit", "head_label", "query", "key"),
                pattern,
                {"long_name": "attention", "units": "1"},
            ),
            "token": (("exhibit", "key"), tokens.astype(str)),
        },
        coords={
            "prompt": ("exhibit", [p.prompt.id for p in shown]),
            "category": ("exhibit", [p.prompt.category or "" for p in shown]),
            "length": ("exhibit", [len(p.tokens) for p in shown]),
            "head_label": [f"L{layer}H{head}" for layer, head in heads],
            "layer": ("head_label", [layer for layer, _ in heads]),
            "head": ("head_label", [head for _, head in heads]),
        },
    )


def _choose(prompts: Sequence[Tokenized]) -> list[Tokenized]:
    short = [p for p in prompts if 1 < len(p.tokens) <= MAX_TOKENS]
    by_category = {p.prompt.category: p for p in reversed(short)}
    if len(by_category) > 1:
        first = [p for p in short if by_category[p.prompt.category] is p]
        return first[:MAX_PROMPTS]
    return short[:MAX_PROMPTS]
