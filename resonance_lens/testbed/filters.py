"""Heads that pass a band together, and heads that follow content: what one head's kernel cannot be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resonance_lens.testbed.building import Array, Shape, empty_weights
from resonance_lens.testbed.circuit import (
    SHARPNESS,
    Circuit,
    causal_softmax,
    copying,
    require,
    require_context,
    uniform_tokens,
)
from resonance_lens.testbed.positional import from_scores, scores_of

FINE = 4097
"""Frequencies from 0 to one half among which the peak of a pair is looked for."""


def opposed_pair(*, n_ctx: int = 64, decay: float = 0.85, frequency: float = 0.125) -> Circuit:
    """Return two heads of opposite sign that pass a band together: a resonator.

    The first head has the kernel ``r^d (1 + cos(2 pi f d))`` and adds what it attends to, the second has
    ``r^d`` and takes it away. Each alone is a low-pass, as every head is; their difference is zero at
    frequency zero and largest near f.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    decay
        r: above 0 and at most 0.97. The larger, the narrower the band.
    frequency
        f in cycles per token, from 0.05 to 0.4.
    """
    owner = "opposed_pair"
    require_context(owner, n_ctx)
    require(owner, "decay", 0 < decay <= 0.97, "above 0 and at most 0.97", decay)
    require(owner, "frequency", 0.05 <= frequency <= 0.4, "from 0.05 to 0.4 cycles per token", frequency)
    lag = np.arange(n_ctx)
    fading = decay**lag
    kernels = np.stack([fading * (1 + np.cos(2 * np.pi * frequency * lag)), fading])
    query, key = np.mgrid[:n_ctx, :n_ctx]
    table = np.where(key <= query, kernels[:, abs(query - key)], 0.0)
    wanted = table / table.sum(-1, keepdims=True)
    normalised = kernels / kernels.sum(-1, keepdims=True)
    fine = np.linspace(0, 0.5, FINE)
    gain = abs((normalised[0] - normalised[1]) @ np.exp(-2j * np.pi * lag[:, None] * fine))
    return from_scores(
        "opposed_pair",
        "Two heads of opposite sign that pass a band together, which no head alone can.",
        wanted,
        scores_of(wanted, sharpness=2 * SHARPNESS),  # so that weights far back are not cut off
        ["adds a fading cosine", "takes a fading average away"],
        {
            "kernels": {f"0.{head}": [float(k) for k in kernel] for head, kernel in enumerate(normalised)},
            "opposed": [[[0, 0], [0, 1]]],
            "frequency": float(fine[gain.argmax()]),
            "peak_gain": float(gain.max()),
        },
        rank=None,
        parameters={"n_ctx": n_ctx, "decay": float(decay), "frequency": float(frequency)},
        gains=(1.0, -1.0),
    )


def content_rule(*, n_ctx: int = 64, n_tokens: int = 8, sharpness: float = SHARPNESS) -> Circuit:
    """Return a head that follows content, wherever it is, beside one that looks everywhere.

    At token t the head looks evenly at all earlier tokens that are t + 1 (token 0 follows the last). Where
    there is none, it looks everywhere. Tokens are independent draws, so that what it looks at may be at
    any lag: it has no kernel.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    n_tokens
        Tokens of the vocabulary, from 3 to 64.
    sharpness
        How far those tokens are above the others: above 0, at most 50 nats.
    """
    owner = "content_rule"
    require_context(owner, n_ctx)
    right = isinstance(n_tokens, int) and 3 <= n_tokens <= 64
    require(owner, "n_tokens", right, "a whole number from 3 to 64", n_tokens)
    require(owner, "sharpness", 0 < sharpness <= 50, "above 0 and at most 50 nats", sharpness)
    shape = Shape(n_layers=1, n_heads=2, d_model=2 * n_tokens, d_head=n_tokens, d_vocab=n_tokens, n_ctx=n_ctx)
    weights = empty_weights(shape)
    own, written = slice(0, n_tokens), slice(n_tokens, None)
    weights["embed.W_E"][:, own] = np.eye(n_tokens)
    following = np.roll(np.eye(n_tokens), 1, axis=1)  # token t asks for t + 1
    weights["blocks.0.attn.W_Q"][0, own] = sharpness * np.sqrt(n_tokens) * following
    weights["blocks.0.attn.W_K"][0, own] = np.eye(n_tokens)
    for head in range(2):
        read, write = copying(shape.d_model, n_tokens, own, written, 1.0)
        weights["blocks.0.attn.W_V"][head], weights["blocks.0.attn.W_O"][head] = read, write
    weights["unembed.W_U"][written] = np.eye(n_tokens)

    def patterns(row: Sequence[int]) -> Array:
        tokens = np.asarray(row)
        matches = tokens[None, :] == (tokens[:, None] + 1) % n_tokens  # [query, key]
        return causal_softmax(np.stack([sharpness * matches, np.zeros(matches.shape)])[None])

    return Circuit(
        name="content_rule",
        description="A head that looks at earlier tokens that are its own plus one, wherever they are.",
        parameters={"n_ctx": n_ctx, "n_tokens": n_tokens, "sharpness": float(sharpness)},
        shape=shape,
        weights=weights,
        heads={"0.0": "looks at earlier tokens that are its own plus one", "0.1": "looks everywhere"},
        facts={"content": [[0, 0]], "uniform": [[0, 1]]},
        patterns=patterns,
        draw=uniform_tokens(n_tokens),
    )
