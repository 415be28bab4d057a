"""Attention patterns and residual streams made by hand, and analyses run on them without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.claims import with_claims
from resonance_lens.contract import Accumulated, Analysis, Where
from resonance_lens.design import Drive
from resonance_lens.facts import SITE_AXES, Facts
from resonance_lens.features import Features, deal
from resonance_lens.signal import Signal

Floats = NDArray[np.float64]


def facts(
    n_layers: int = 1,
    n_heads: int = 3,
    *,
    causal: bool = True,
    sliding: int | None = None,
    d_model: int = 8,
    d_vocab: int = 16,
) -> Facts:
    """Return the facts of an imagined model."""
    return Facts(
        host="by hand",
        model_name="by hand",
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_model=d_model,
        d_head=4,
        d_vocab=d_vocab,
        n_ctx=4096,
        causal=causal,
        sliding_windows=(sliding,) * n_layers,
        positions="learned",
        rotary_base=None,
        rotary_dims=None,
        parallel=False,
        normalization="none",
        prepends_bos=False,
        bos_token=None,
        dtype="float32",
        weight_processing="none",
    )


def keys_of(query: int, length: int, causal: bool = True, sliding: int | None = None) -> list[int]:
    """Return the keys that a query sees."""
    if not causal:
        return list(range(length))
    return list(range(0 if sliding is None else max(0, query + 1 - sliding), query + 1))


def attention_from(
    score: Callable[[int, int, int, int], float],
    lengths: Sequence[int],
    n_heads: int,
    *,
    causal: bool = True,
    sliding: int | None = None,
) -> Tensor:
    """Return softmax attention ``[batch, head, query, key]`` of scores ``(prompt, head, query, key)``."""
    width = max(lengths)
    pattern = np.zeros((len(lengths), n_heads, width, width))
    for p, length in enumerate(lengths):
        for h in range(n_heads):
            for i in range(length):
                keys = keys_of(i, length, causal, sliding)
                weights = np.exp([score(p, h, i, j) for j in keys])
                pattern[p, h, i, keys] = weights / weights.sum()
    return torch.tensor(pattern, dtype=torch.float32)


def random_attention(
    lengths: Sequence[int],
    n_heads: int,
    *,
    seed: int = 0,
    causal: bool = True,
    sliding: int | None = None,
) -> Tensor:
    """Return attention with random scores, a random sink and a random place in each prompt."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    noise = rng.normal(0, 1.5, (len(lengths), n_heads, width, width))
    sink = rng.normal(0, 2, (len(lengths), n_heads))
    place = rng.uniform(0, 1, len(lengths))

    def score(p: int, h: int, i: int, j: int) -> float:
        near = -8 * (j / (i + 1) - place[p]) ** 2
        return float(noise[p, h, i, j] + near + (sink[p, h] if j == 0 else 0.0))

    return attention_from(score, lengths, n_heads, causal=causal, sliding=sliding)


def one_key(choose: Callable[[int], int], lengths: Sequence[int], n_heads: int) -> Tensor:
    """Return attention of which each query gives all to one key."""
    pattern = torch.zeros(len(lengths), n_heads, max(lengths), max(lengths))
    for p, length in enumerate(lengths):
        for i in range(length):
            pattern[p, :, i, choose(i)] = 1.0
    return pattern


def signal(pattern: Tensor, lengths: Sequence[int] | None = None, **about: Any) -> Signal:
    """Return attention as a signal."""
    return Signal(
        pattern,
        ("batch", "head", "query", "key"),
        lengths=None if lengths is None else torch.tensor(lengths),
        **about,
    )


def observe(
    analysis: Analysis,
    layers: Sequence[Mapping[str, Tensor]],
    lengths: Sequence[int],
    about: Facts,
    prompts: Sequence[int] | None = None,
    readout: Callable[[Tensor], Tensor] | None = None,
    groups: Sequence[int] | None = None,
) -> Features:
    """Return the features of some of the prompts, as one batch as wide as its longest."""
    groups = deal([None] * len(lengths)) if groups is None else groups
    prompts = list(range(len(lengths))) if prompts is None else list(prompts)
    chosen = torch.tensor([lengths[p] for p in prompts])
    width = int(chosen.max())

    def unused(*_: object) -> Tensor:
        raise AssertionError("this analysis has no business with logits or weights")

    where = Where(
        facts=about,
        layer=None,
        layers=tuple(range(len(layers))),
        prompts=tuple(prompts),
        lengths=chosen,
        tokens=torch.zeros(len(prompts), width, dtype=torch.long),
        groups=tuple(int(groups[prompt]) for prompt in prompts),
        seed=0,
        condition="plain",
        shortest=min(lengths),
        readout=readout or unused,
        ov_alignment=unused,
        token_rarity=unused,
        token_labels=unused,
    )
    seen = []
    for layer, values in enumerate(layers):
        signals = {}
        for site, tensor in values.items():
            cut = tensor[prompts][:, :, :width, :width] if tensor.ndim == 4 else tensor[prompts][:, :width]
            signals[site] = Signal(cut, SITE_AXES[site], lengths=chosen, site=site, layer=layer)
        seen.append(analysis.observe(signals, replace(where, layer=layer)))
    return analysis.join(seen, where)


def measure(
    analysis: Analysis,
    layers: Sequence[Mapping[str, Tensor]],
    lengths: Sequence[int],
    about: Facts,
    *,
    categories: Sequence[str | None] | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    readout: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return the result of an analysis on arrays, with its claims, in one batch or in those named."""
    groups = deal(categories or [None] * len(lengths))
    parts = [
        observe(analysis, layers, lengths, about, prompts, readout, groups)
        for prompts in (batches or [range(len(lengths))])
    ]
    features = parts[0]
    for part in parts[1:]:
        features = features.merge(part)
    accumulated = Accumulated(
        features={"plain": features.sorted()},
        facts=about,
        layers=tuple(range(len(layers))),
        prompt_ids=tuple(f"p{i}" for i in range(len(lengths))),
        categories=tuple(categories or [None] * len(lengths)),
        seed=seed,
    )
    data, *_ = with_claims(analysis.conclude(accumulated), analysis, accumulated)
    return data


def phasor(row: Floats, keys: Sequence[int], turn: float) -> complex:
    """Return the sum of a row's weights on some keys, laid out evenly over an angle, oldest first."""
    total = 0j
    for place, key in enumerate(keys):
        total += row[key] * np.exp(1j * turn * place / len(keys))
    return complex(total)


def without_first(row: Floats, keys: Sequence[int]) -> tuple[Floats, list[int]]:
    """Return a row renormalised over the keys that are not the prompt's first, and those keys."""
    free = [key for key in keys if key != 0]
    left = np.zeros_like(row)
    total = sum(row[key] for key in free)
    for key in free:
        left[key] = row[key] / total
    return left, free


def as_first_row(drive: Drive, prompt: int) -> Drive:
    """Return a drive whose first row is driven as another is: for a pass over that prompt alone."""

    class OfPrompt(Drive):
        def signal(self, seed: int, row: int) -> torch.Tensor:
            return super().signal(seed, prompt)

    return OfPrompt(**{name: getattr(drive, name) for name in drive.__dataclass_fields__})
