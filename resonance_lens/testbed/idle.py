"""The model that does nothing: attention scores are independent draws, whatever the positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resonance_lens.stats.streams import stream
from resonance_lens.testbed.building import Array, Shape, empty_weights
from resonance_lens.testbed.circuit import (
    Circuit,
    causal_softmax,
    require,
    require_context,
    uniform_tokens,
)

WIDTH = 6
"""Dimensions of the embedding of each part of a token."""


def idle(
    *,
    n_ctx: int = 64,
    n_layers: int = 2,
    n_heads: int = 2,
    values: int = 4,
    spread: float = 1.5,
    seed: int = 0,
) -> Circuit:
    """Return a model of random embeddings and random query-key weights, without positions.

    A token has one part that queries read and one for each head that its keys read, each part with as
    many values, and every combination is a token. Parts have random embeddings, of dimensions of their
    own; in a row of tokens drawn evenly they are independent of each other, at the query's own place
    too. Given the parts that queries read, the scores of every head are therefore independent
    draws, one for each key: keys are exchangeable exactly, and heads independent of each other.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    n_layers, n_heads
        At least 1; at most 6 heads in all.
    values
        How many values each part has, from 2 to 16; the vocabulary, this to the power of heads and one,
        is at most 20,000.
    spread
        Standard deviation of each head's scores around the mean of their query, above 0 and at most 10
        nats.
    seed
        Of all weights: a whole number.
    """
    owner = "idle"
    require_context(owner, n_ctx)
    right = isinstance(n_layers, int) and n_layers >= 1
    require(owner, "n_layers", right, "a whole number of at least 1", n_layers)
    right = isinstance(n_heads, int) and n_heads >= 1 and n_layers * n_heads <= 6
    require(owner, "n_heads", right, "a whole number of at least 1, with at most 6 heads in all", n_heads)
    right = isinstance(values, int) and 2 <= values <= 16
    n_parts = 1 + n_layers * n_heads
    right = right and values**n_parts <= 20_000
    require(owner, "values", right, f"from 2 to 16, with at most 20000 tokens ({n_parts} parts)", values)
    require(owner, "spread", 0 < spread <= 10, "above 0 and at most 10 nats", spread)
    require(owner, "seed", isinstance(seed, int), "a whole number", seed)
    n_tokens = values**n_parts
    parts = np.arange(n_tokens)[:, None] // values ** np.arange(n_parts) % values  # [token, part]
    written = slice(n_parts * WIDTH, (n_parts + 1) * WIDTH)
    shape = Shape(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=written.stop,
        d_head=WIDTH,
        d_vocab=n_tokens,
        n_ctx=n_ctx,
    )
    rng = stream(seed, "testbed", "idle")
    weights = empty_weights(shape)
    embeddings = rng.normal(size=(n_parts, values, WIDTH))

    def dims(part: int) -> slice:
        return slice(part * WIDTH, (part + 1) * WIDTH)

    for part in range(n_parts):
        weights["embed.W_E"][:, dims(part)] = embeddings[part, parts[:, part]]
    tables = np.zeros((n_layers, n_heads, values, values))  # scores [layer, head, query's part, key's part]
    for layer in range(n_layers):
        at = f"blocks.{layer}.attn"
        for head in range(n_heads):
            part = 1 + layer * n_heads + head
            queries, keys = rng.normal(size=(2, WIDTH, WIDTH))
            table = embeddings[0] @ queries @ keys.T @ embeddings[part].T / np.sqrt(WIDTH)
            # What all keys of a query have in common changes no attention.
            scale = spread / (table - table.mean(-1, keepdims=True)).std()
            tables[layer, head] = scale * table
            weights[f"{at}.W_Q"][head, dims(0)] = scale * queries
            weights[f"{at}.W_K"][head, dims(part)] = keys
            # What heads write is random, and no later head reads it.
            weights[f"{at}.W_V"][head, : written.start] = rng.normal(size=(written.start, WIDTH))
            weights[f"{at}.W_O"][head, :, written] = rng.normal(size=(WIDTH, WIDTH))
    weights["unembed.W_U"][:] = rng.normal(size=weights["unembed.W_U"].shape) / WIDTH

    def patterns(row: Sequence[int]) -> Array:
        held = parts[np.asarray(row)]  # [token, part]
        scores = np.zeros((n_layers, n_heads, len(row), len(row)))
        for layer in range(n_layers):
            for head in range(n_heads):
                of_key = held[:, 1 + layer * n_heads + head]
                scores[layer, head] = tables[layer, head][held[:, 0][:, None], of_key[None, :]]
        return causal_softmax(scores)

    heads = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    return Circuit(
        name="idle",
        description="Random weights without positions: scores are independent draws, one for each key.",
        parameters={
            "n_ctx": n_ctx,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "values": values,
            "spread": float(spread),
            "seed": seed,
        },
        shape=shape,
        weights=weights,
        heads={f"{layer}.{head}": "scores are independent draws" for layer, head in heads},
        facts={"exchangeable": [list(place) for place in heads]},
        patterns=patterns,
        draw=uniform_tokens(n_tokens),
        exchangeable=heads,
        independent=range(n_layers),
    )
