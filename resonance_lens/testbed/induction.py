"""A previous-token head and an induction head across two layers, which copy what came after last time."""

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
)
from resonance_lens.testbed.positional import delay_scores, factor, usual_rank


def induction(*, n_ctx: int = 64, n_tokens: int = 32) -> Circuit:
    """Return a model of two layers that solves repeated random tokens.

    In the first layer head 0 writes, at each token, which token came before it, and head 1 looks
    everywhere and writes nothing. In the second layer head 0 looks for a token that came after one like
    the present, and writes it into the logits; without a match it rests on the first token. Head 1 looks
    everywhere again. Prompts begin with token 0, which stands nowhere else, followed by the same
    different tokens twice: ``0 a b c a b c``.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    n_tokens
        Size of the vocabulary, 4 to 64. Prompts of more than ``2 n_tokens - 1`` tokens must repeat a token
        inside their first half, and have no one answer.
    """
    owner = "induction"
    require_context(owner, n_ctx)
    right = isinstance(n_tokens, int) and 4 <= n_tokens <= 64
    require(owner, "n_tokens", right, "a whole number from 4 to 64", n_tokens)
    factors = factor(delay_scores(n_ctx, 1, usual_rank(n_ctx))[None])
    rank, n_places = factors.W_Q.shape[-1], factors.positions.shape[1]
    d_head = max(rank, n_tokens)
    shape = Shape(
        n_layers=2,
        n_heads=2,
        d_model=2 * n_tokens + n_places,
        d_head=d_head,
        d_vocab=n_tokens,
        n_ctx=n_ctx,
    )
    present, before = slice(0, n_tokens), slice(n_tokens, 2 * n_tokens)
    places = slice(2 * n_tokens, None)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, present] = np.eye(n_tokens)
    weights["pos_embed.W_pos"][:, places] = factors.positions
    wider = (d_head / rank) ** 0.25
    weights["blocks.0.attn.W_Q"][0, places, :rank] = factors.W_Q[0] * wider
    weights["blocks.0.attn.W_K"][0, places, :rank] = factors.W_K[0] * wider
    read, write = copying(shape.d_model, d_head, present, before, 1.0)
    weights["blocks.0.attn.W_V"][0], weights["blocks.0.attn.W_O"][0] = read, write
    # A match is worth twice the sharpness and the first token once: whichever of the keys is ahead
    # is so by SHARPNESS nats.
    scale = np.sqrt(2 * SHARPNESS * np.sqrt(d_head))
    weights["blocks.1.attn.W_Q"][0, present, :n_tokens] = scale * np.eye(n_tokens)
    weights["blocks.1.attn.W_K"][0, before, :n_tokens] = scale * np.eye(n_tokens)
    weights["blocks.1.attn.W_K"][0, 0, :n_tokens] = 0.5 * scale  # token 0, whatever the query is
    # Token 0 comes "before itself" to the previous-token head; no query is another token 0.
    read, write = copying(shape.d_model, d_head, present, present, 4.0)
    weights["blocks.1.attn.W_V"][0], weights["blocks.1.attn.W_O"][0] = read, write
    weights["unembed.W_U"][present] = np.eye(n_tokens)
    previous = causal_softmax(factors.scores[0])

    def patterns(row: Sequence[int]) -> Array:
        n = len(row)
        even = causal_softmax(np.zeros((n, n)))
        back = previous[:n, :n]
        tokens = np.asarray(row)
        same = (tokens[:, None] == tokens[None, :]).astype(float)  # [query, key]
        # Key j holds the token before it, with the weight that the first layer gave it.
        match = 2 * SHARPNESS * same @ back.T + SHARPNESS * (tokens == 0)[None, :]
        return np.stack([np.stack([back, even]), np.stack([causal_softmax(match), even])])

    def draw(rng: np.random.Generator, length: int) -> Sequence[int]:
        half = length // 2  # the second time may stop one short
        once = rng.permutation(n_tokens - 1)[:half] + 1
        if len(once) < half:
            once = np.concatenate([once, rng.integers(1, n_tokens, size=half - len(once))])
        return [0, *once.tolist(), *once.tolist()][:length]

    return Circuit(
        name="induction",
        description="A previous-token head and an induction head, which solve repeated random tokens.",
        parameters={"n_ctx": n_ctx, "n_tokens": n_tokens},
        shape=shape,
        weights=weights,
        heads={
            "0.0": "looks 1 back, and writes which token came before",
            "0.1": "looks everywhere, and writes nothing",
            "1.0": "looks for what came after the present token the last time",
            "1.1": "looks everywhere, and writes nothing",
        },
        facts={
            "previous_token": [[0, 0]],
            "induction": [[1, 0]],
            "uniform": [[0, 1], [1, 1]],
            "composes": [[[0, 0], [1, 0]]],
            "accuracy": 1.0,
            "accuracy_of": "the next token at every query whose token came before, if no token of the first "
            "half stands there twice",
            "rank": rank,
            "score_residual": factors.residual,
        },
        patterns=patterns,
        draw=draw,
        independent=(0, 1),  # what looks everywhere has no direction to agree with
        default_length=min(49, 2 * n_tokens - 1),
    )
