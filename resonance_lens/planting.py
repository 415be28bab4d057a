"""Attention patterns and residual streams made by hand, for what analyses plant."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resonance_lens.dsp.rotary import pair_frequencies
from resonance_lens.facts import Facts


def attention_facts(
    *,
    n_layers: int,
    n_heads: int,
    d_model: int = 16,
    d_vocab: int = 16,
    causal: bool = True,
    n_kv_heads: int | None = None,
    rotary_dims: int | None = None,
    rotary_base: float = 10_000.0,
    rotary_pairs: Literal["halves", "adjacent"] = "halves",
) -> Facts:
    """Return the facts of an imagined model: with rotary positions if some dimensions turn, else learned."""
    rotary = rotary_dims is not None
    return Facts(
        host="planted",
        model_name="planted",
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        d_model=d_model,
        d_head=max(1, d_model // n_heads),
        d_vocab=d_vocab,
        n_ctx=4096,
        causal=causal,
        sliding_windows=(None,) * n_layers,
        positions="rotary" if rotary else "learned",
        rotary_base=rotary_base if rotary else None,
        rotary_dims=rotary_dims,
        rotary_pairs=rotary_pairs if rotary else None,
        rotary_frequencies=tuple(pair_frequencies(rotary_dims, rotary_base).tolist())
        if rotary_dims is not None
        else None,
        parallel=False,
        normalization="none",
        prepends_bos=False,
        bos_token=None,
        dtype="float32",
        weight_processing="none",
    )


def softmax_rows(scores: np.ndarray, facts: Facts, lengths: Tensor) -> Tensor:
    """Return attention ``[batch, head, query, key]`` from scores, over what each query sees."""
    n = scores.shape[-1]
    rows = torch.tensor(scores, dtype=torch.float32)  # a copy: what is broadcast cannot be shared
    visible = torch.arange(n) < lengths[:, None]  # [batch, key]
    seen = visible[:, None, None, :].expand_as(rows)
    if facts.causal:
        seen = seen & torch.ones(n, n, dtype=torch.bool).tril()
    pattern = rows.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num(0.0)
    return pattern * visible[:, None, :, None]


def permuted_rows(rng: np.random.Generator, facts: Facts, lengths: Tensor) -> Tensor:
    """Return attention whose weights stand on keys in random order: softmax of independent scores."""
    n = int(lengths.max())
    scores = rng.normal(0, 1.5, size=(len(lengths), facts.n_heads, n, n))
    return softmax_rows(scores, facts, lengths)


def peaked_rows(
    rng: np.random.Generator, facts: Facts, lengths: Tensor, *, width: float, place: float
) -> Tensor:
    """Return attention around one place of the window of each query.

    Parameters
    ----------
    width
        Standard deviation of the peak as a share of the window.
    place
        Where the peak is: 0 the oldest key, 1 the newest.
    """
    n = int(lengths.max())
    window = np.arange(1, n + 1)[:, None]
    index = np.arange(n)[None, :] / window
    peak = -0.5 * ((index - place) / np.maximum(width, 1.0 / window)) ** 2
    noise = rng.normal(0, 0.1, size=(len(lengths), facts.n_heads, n, n))
    return softmax_rows(peak + noise, facts, lengths)
