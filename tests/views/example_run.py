"""A synthetic run with the four first analyses and one of signals along tokens, for everything that draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.methods import methods
from resonance_lens.result import Result
from resonance_lens.runs import Run
from tests.views.example_results import (
    CATEGORIES,
    attention_entropy,
    belief_collapse,
    head_sync,
    phase_coherence,
)
from tests.views.example_signals import signals

HOSTILE = (
    "<script>alert(1)</script>",
    "</script>",
    "<s>",
    "&amp;",
    "<img src=x onerror=alert(1)>",
    "two\nlines",
    " \U0001f642\U0001f44d\U0001f3fd",
    " \u05e9\u05dc\u05d5\u05dd",
    " \u202eevil",
    "$x^2$",
    "\"quoted'",
    "\u2028",
    "]]>-->",
    "{{ 7 * 7 }}",
    "\x00\x1b",
    "",
)
"""Tokens that are markup, control text, or template code to something on the way to the screen."""

SENTENCE = ("<|im_start|>", "The", " pendulum", " swings", ",", " and", " the", " clock", " keeps",
            " time", " with", " it", ".")  # fmt: skip


def make_run(
    *,
    n_layers: int = 6,
    n_heads: int = 4,
    length: int = 24,
    exhibits: int = 4,
    hostile: bool = False,
    seed: int = 0,
) -> Run:
    """Return a run with five analyses whose numbers have the shape of real ones."""
    rng = np.random.default_rng(seed)
    results = [
        phase_coherence(rng, n_layers, n_heads),
        head_sync(rng, n_layers, n_heads),
        attention_entropy(rng, n_layers, n_heads),
        belief_collapse(rng, n_layers),
        signals(rng, n_layers, n_heads, HOSTILE if hostile else ()),
    ]
    pairs = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    heads = sorted({pair for result in results for view in result.views for pair in view.heads})
    shared = provenance(n_layers, n_heads)
    named = {
        result.name: Result(
            name=result.name,
            data=result.data,
            provenance={**shared, **result.provenance},
            summary=result.summary,
            methods=methods(result),
            views=result.views,
            ranked=result.ranked,
        )
        for result in results
    }
    data = make_exhibits(rng, heads or pairs[:3], length, exhibits, hostile=hostile)
    return Run(results=named, provenance=shared, exhibits=data)


def provenance(n_layers: int, n_heads: int) -> dict[str, Any]:
    return {
        "model": {
            "host": "transformer_bridge",
            "model_name": "smollm2-135m",
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": max(1, n_heads // 3),
            "d_model": 576,
            "d_head": 64,
            "d_vocab": 49152,
            "n_ctx": 8192,
            "causal": True,
            "positions": "rotary",
            "rotary_base": 100000.0,
            "normalization": "RMS",
            "dtype": "float32",
            "weight_processing": "none",
        },
        "weights_fingerprint": "5af571cbf074e6d2",
        "versions": {
            "resonance_lens": "0.1.0",
            "transformer_lens": "4.3.0",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "xarray": "2026.9.0",
        },
        "prompts": {
            "count": 96,
            "digest": "9d1c7e2240aa",
            "categories": dict.fromkeys(CATEGORIES[1:], 24),
            "tokens": 3712,
        },
        "seed": 0,
        "device": "cpu",
        "dtype": "float32",
        "prepend_bos": False,
        "batch_tokens": 4096,
        "started": "2026-11-22T06:30:00+00:00",
        "seconds": 41.7,
    }


def make_exhibits(
    rng: np.random.Generator,
    heads: list[tuple[int, int]],
    length: int,
    count: int,
    *,
    hostile: bool = False,
) -> xr.Dataset:
    lengths = [max(1, length - 3 * i) for i in range(count)]
    tokens = np.full((count, length), "", dtype=object)
    pattern = np.zeros((count, len(heads), length, length), dtype=np.float32)
    for i, n in enumerate(lengths):
        source = HOSTILE if hostile else SENTENCE
        tokens[i, :n] = [source[t % len(source)] for t in range(n)]
        scores = rng.normal(0, 1.2, (len(heads), n, n))
        scores[:, :, 0] += 2.5
        weights = np.exp(scores) * np.tril(np.ones((n, n)))
        pattern[i, :, :n, :n] = weights / weights.sum(axis=-1, keepdims=True)
    categories = CATEGORIES[1:]
    prompts = [f"{categories[i % 4]}-{i:02d}" for i in range(count)]
    if hostile:
        prompts[0] = "<b onmouseover=alert(1)>id</b>"
    dims = ("exhibit", "head_label", "query", "key")
    return xr.Dataset(
        {"pattern": (dims, pattern), "token": (("exhibit", "key"), tokens)},
        {
            "prompt": ("exhibit", prompts),
            "category": ("exhibit", [categories[i % 4] for i in range(count)]),
            "length": ("exhibit", lengths),
            "head_label": [f"L{a}H{b}" for a, b in heads],
            "layer": ("head_label", [a for a, _ in heads]),
            "head": ("head_label", [b for _, b in heads]),
        },
    )
