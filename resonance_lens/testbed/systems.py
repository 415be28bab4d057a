"""Circuits whose answer to a wave along the tokens is known: a chain of delays, a switch, a limiter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resonance_lens.testbed.building import Array, Shape, empty_weights
from resonance_lens.testbed.circuit import (
    Circuit,
    causal_softmax,
    copying,
    require,
    require_context,
    uniform_tokens,
)
from resonance_lens.testbed.positional import (
    N_TOKENS,
    delay_scores,
    factor,
    from_scores,
    scores_of,
    usual_rank,
)

IDLE = "looks everywhere, and writes nothing"


def delay_chain(*, n_ctx: int = 64, n_layers: int = 3, gain: float = 0.5) -> Circuit:
    """Return layers of previous-token heads, one after the other: a finite impulse response.

    The head of each layer looks one token back, and adds ``gain`` times the vector that it finds there. Over
    L layers the stream is ``(1 + gain z^-1)^L`` times what it was, where z^-1 is a delay of one token.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    n_layers
        L, from 1 to 8.
    gain
        Of each head: from -1 to 1, not 0.
    """
    owner = "delay_chain"
    require_context(owner, n_ctx)
    right = isinstance(n_layers, int) and 1 <= n_layers <= 8
    require(owner, "n_layers", right, "a whole number from 1 to 8", n_layers)
    require(owner, "gain", -1 <= gain <= 1 and gain != 0, "from -1 to 1, not 0", gain)
    factors = factor(delay_scores(n_ctx, 1, usual_rank(n_ctx))[None])
    rank, n_places = factors.W_Q.shape[-1], factors.positions.shape[1]
    d_head = max(rank, N_TOKENS)
    shape = Shape(
        n_layers=n_layers,
        n_heads=2,
        d_model=N_TOKENS + n_places,
        d_head=d_head,
        d_vocab=N_TOKENS,
        n_ctx=n_ctx,
    )
    tokens, places = slice(0, N_TOKENS), slice(N_TOKENS, None)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, tokens] = np.eye(N_TOKENS)
    weights["pos_embed.W_pos"][:, places] = factors.positions
    wider = (d_head / rank) ** 0.25
    for layer in range(n_layers):
        at = f"blocks.{layer}.attn"
        weights[f"{at}.W_Q"][0, places, :rank] = factors.W_Q[0] * wider
        weights[f"{at}.W_K"][0, places, :rank] = factors.W_K[0] * wider
        read, write = copying(shape.d_model, d_head, tokens, tokens, gain)
        weights[f"{at}.W_V"][0], weights[f"{at}.W_O"][0] = read, write
    weights["unembed.W_U"][tokens] = np.eye(N_TOKENS)
    every = causal_softmax(np.stack([factors.scores[0], np.zeros((n_ctx, n_ctx))]))

    def patterns(row: Sequence[int]) -> Array:
        return np.repeat(every[None, :, : len(row), : len(row)], n_layers, axis=0)

    return Circuit(
        name="delay_chain",
        description="Layers of previous-token heads, one after the other: a finite impulse response.",
        parameters={"n_ctx": n_ctx, "n_layers": n_layers, "gain": float(gain)},
        shape=shape,
        weights=weights,
        heads={
            f"{layer}.{head}": what
            for layer in range(n_layers)
            for head, what in enumerate((f"adds {gain:g} times the token before", IDLE))
        },
        facts={
            "previous_token": [[layer, 0] for layer in range(n_layers)],
            "carries": [0, N_TOKENS],
            "response": [float(c) for c in np.polynomial.polynomial.polypow([1.0, gain], n_layers)],
            "rank": rank,
            "score_residual": factors.residual,
        },
        patterns=patterns,
        draw=uniform_tokens(N_TOKENS),
    )


def alternating(*, n_ctx: int = 64) -> Circuit:
    """Return a head that looks at its own token and at the one before, in turn: linear, and no filter.

    At even tokens it writes what is there, at odd ones what was before. A wave of frequency f comes out at f,
    ``(1 + exp(-2 pi i f)) / 2`` times as large, and at f + 1/2, ``(1 - exp(-2 pi i f)) / 2`` times: the share
    of the power that a filter explains is ``cos(pi f)^2``.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    """
    require_context("alternating", n_ctx)
    query, key = np.mgrid[:n_ctx, :n_ctx]
    wanted = np.stack([key == query - query % 2, (key <= query) / (query + 1)]).astype(float)
    return from_scores(
        "alternating",
        "A head that looks at its own token and at the one before, in turn: linear, and no filter.",
        wanted,
        scores_of(wanted),
        ["looks at itself at even tokens, and one back at odd ones", IDLE],
        {"carries": [0, N_TOKENS]},
        rank=None,
        parameters={"n_ctx": n_ctx},
        gains=(1.0, 0.0),
    )


def limiter(*, n_ctx: int = 64, level: float = 1.0) -> Circuit:
    """Return an MLP that hands on one dimension up to a level: linear for small waves only.

    Its last dimension is empty until something is put there. The MLP writes to the stream
    ``max(-level, min(level, x))`` of what it finds there, so that waves come out twice as large as long as
    they are small, and lose their tops, to odd harmonics, where they are not. In other dimensions a head
    looks at tokens that are its own plus one a little more than at others, and the MLP adds half of what it
    finds.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    level
        Above 0.
    """
    owner = "limiter"
    require_context(owner, n_ctx)
    require(owner, "level", level > 0, "above 0", level)
    shape = Shape(
        n_layers=1,
        n_heads=2,
        d_model=N_TOKENS + 1,
        d_head=N_TOKENS,
        d_vocab=N_TOKENS,
        n_ctx=n_ctx,
        d_mlp=N_TOKENS + 2,
    )
    tokens = slice(0, N_TOKENS)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, tokens] = np.eye(N_TOKENS)
    weights["unembed.W_U"][tokens] = np.eye(N_TOKENS)
    weights["unembed.W_U"][N_TOKENS, 0] = 1.0
    read, write = copying(shape.d_model, N_TOKENS, tokens, tokens, 1.0)
    weights["blocks.0.attn.W_V"][0], weights["blocks.0.attn.W_O"][0] = read, write
    following = np.roll(np.eye(N_TOKENS), 1, axis=1)
    weights["blocks.0.attn.W_Q"][0, tokens] = np.sqrt(N_TOKENS) * following
    weights["blocks.0.attn.W_K"][0, tokens] = np.eye(N_TOKENS)
    weights["blocks.0.mlp.W_in"][tokens, 2:] = np.eye(N_TOKENS)
    weights["blocks.0.mlp.W_out"][2:, tokens] = 0.5 * np.eye(N_TOKENS)
    # max(-c, min(c, x)) = relu(x + c) - relu(x - c) - c
    weights["blocks.0.mlp.W_in"][N_TOKENS, :2] = 1.0
    weights["blocks.0.mlp.b_in"][:2] = level, -level
    weights["blocks.0.mlp.W_out"][:2, N_TOKENS] = 1.0, -1.0
    weights["blocks.0.mlp.b_out"][N_TOKENS] = -level

    def patterns(row: Sequence[int]) -> Array:
        tokens = np.asarray(row)
        matches = tokens[None, :] == (tokens[:, None] + 1) % N_TOKENS  # [query, key]
        return causal_softmax(np.stack([matches.astype(float), np.zeros(matches.shape)])[None])

    return Circuit(
        name="limiter",
        description="An MLP that hands on one dimension up to a level: linear for small waves only.",
        parameters={"n_ctx": n_ctx, "level": float(level)},
        shape=shape,
        weights=weights,
        heads={"0.0": "looks a little more at earlier tokens that are its own plus one", "0.1": IDLE},
        facts={"uniform": [[0, 1]], "carries": [N_TOKENS, N_TOKENS + 1], "level": float(level)},
        patterns=patterns,
        draw=uniform_tokens(N_TOKENS),
    )
