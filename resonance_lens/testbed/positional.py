"""Heads that attend by position alone: a wanted pattern, factored into weights.

A wanted attention pattern A fixes attention scores up to a constant in each query's row: their
logarithms. The singular value decomposition of a table of scores ``S [query, key]`` gives vectors of
queries and keys whose inner products it is; written in a basis that all heads share, these are
absolute positional embeddings P and query-key weights with ``P W_Q W_K^T P^T = S sqrt(d_head)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

N_TOKENS = 16
"""Vocabulary of the circuits in this file: each token is a dimension of its own."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Positional embeddings and query-key weights that give wanted scores.

    Attributes
    ----------
    positions
        Absolute positional embeddings ``[position, dims]``, with orthonormal columns.
    W_Q, W_K
        ``[head, dims, rank]``; a model divides the inner products by the root of its ``d_head``,
        which is taken to be ``rank`` here.
    scores
        What they give: ``[head, query, key]``, in nats.
    residual
        The largest difference from the wanted scores anywhere, in nats: at most the largest singular
        value that was left out.
    """

    positions: Array
    W_Q: Array
    W_K: Array
    scores: Array
    residual: float


def scores_of(pattern: Array, sharpness: float = SHARPNESS) -> Array:
    """Return scores in nats whose softmax is a wanted pattern.

    Parameters
    ----------
    pattern
        Attention ``[..., query, key]``: rows of non-negative weights, zero above the diagonal.
    sharpness
        A weight of zero becomes one of ``exp(-sharpness)`` times the largest of its row; a row of
        zeros becomes an even one.

    Returns
    -------
    array
        The largest of each row is 0. Above the diagonal, where a causal head looks at nothing, the
        table is mirrored.
    """
    n = pattern.shape[-1]
    seen = np.where(np.tri(n, dtype=bool), pattern, 0.0)
    top = seen.max(-1, keepdims=True)
    even = np.where(top > 0, seen / np.where(top > 0, top, 1.0), 1.0)
    scores = np.log(np.maximum(even, math.exp(-sharpness)))
    mirrored = np.swapaxes(scores, -1, -2)
    return np.asarray(np.where(np.tri(n, dtype=bool), scores, mirrored))


def delay_scores(n_ctx: int, lag: int, rank: int, sharpness: float = SHARPNESS) -> Array:
    """Return scores ``[query, key]`` of few dimensions that are largest at one lag.

    ``S_ij = b sum_k cos(2 pi k (i - j - lag) / n_ctx)`` over the first ``rank / 2`` harmonics of the
    context: a table of exactly this rank, with b such that the neighbours of the lag are ``sharpness``
    nats below it.
    """
    step = 2 * np.pi * np.arange(1, rank // 2 + 1) / n_ctx
    query, key = np.mgrid[:n_ctx, :n_ctx]
    scale = sharpness / (1 - np.cos(step)).sum()
    return np.asarray(scale * np.cos(step * (query - key - lag)[..., None]).sum(-1))


def usual_rank(n_ctx: int) -> int:
    """Return how many dimensions `delay_scores` is given unless told otherwise: 16, or what fits."""
    return min(16, (n_ctx - 2) // 2 * 2)


def factor(scores: Array, rank: int | None = None) -> Factors:
    """Factor tables of scores into positional embeddings and query-key weights.

    Parameters
    ----------
    scores
        Wanted scores ``[head, query, key]`` in nats.
    rank
        Dimensions of queries and keys; as many as the tables need, if not said.

    Returns
    -------
    Factors
        Of each table the part with the ``rank`` largest singular values: no other table of that rank
        is nearer in the sum of squares (Eckart and Young 1936).
    """
    n_heads, n, _ = scores.shape
    left, values, right = np.linalg.svd(scores)
    needed = int((values > 1e-12 * values.max(initial=1e-300)).sum(-1).max())
    rank = max(1, needed) if rank is None else rank
    root = np.sqrt(values[:, None, :rank] * math.sqrt(rank))
    queries = left[..., :rank] * root  # [head, position, rank]
    keys = np.swapaxes(right, 1, 2)[..., :rank] * root
    # What positions all heads' queries and keys tell apart is the span of their columns.
    columns = np.concatenate([*queries, *keys], axis=1)  # [position, heads * 2 * rank]
    basis, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    positions = basis[:, sizes > 1e-12 * max(sizes[0], 1e-300)]
    W_Q, W_K = positions.T @ queries, positions.T @ keys
    given = (positions @ W_Q) @ np.swapaxes(positions @ W_K, 1, 2) / math.sqrt(rank)
    return Factors(positions, W_Q, W_K, given, float(abs(given - scores).max(initial=0.0)))


def from_scores(
    name: str,
    description: str,
    wanted: Array,
    scores: Array,
    heads: Sequence[str],
    facts: Mapping[str, Any],
    *,
    rank: int | None,
    parameters: Mapping[str, Any],
    gains: Sequence[float] | None = None,
) -> Circuit:
    """Return a circuit of one layer whose heads have these scores, whatever the tokens are.

    Each head adds to the token's own vector, one dimension for each token of the vocabulary, its gain
    times the mean of the vectors that it attends to; the logits are that sum.

    Parameters
    ----------
    name, description, parameters
        Of the circuit.
    wanted
        Wanted attention ``[head, query, key]``.
    scores
        Scores that give it, ``[head, query, key]`` in nats.
    heads
        A phrase for each head.
    facts
        What else is true.
    rank
        See `factor`.
    gains
        One for each head; 1 if not said.
    """
    n_heads, n_ctx, _ = scores.shape
    factors = factor(scores, rank)
    needed = factors.W_Q.shape[-1]
    n_positions = factors.positions.shape[1]
    d_head = max(needed, N_TOKENS)
    shape = Shape(
        n_layers=1,
        n_heads=n_heads,
        d_model=N_TOKENS + n_positions,
        d_head=d_head,
        d_vocab=N_TOKENS,
        n_ctx=n_ctx,
    )
    tokens, places = slice(0, N_TOKENS), slice(N_TOKENS, None)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, tokens] = np.eye(N_TOKENS)
    weights["pos_embed.W_pos"][:, places] = factors.positions
    # A head that is wider than its queries divides by a larger root.
    wider = (d_head / needed) ** 0.25
    weights["blocks.0.attn.W_Q"][:, places, :needed] = factors.W_Q * wider
    weights["blocks.0.attn.W_K"][:, places, :needed] = factors.W_K * wider
    for head, gain in enumerate(gains or [1.0] * n_heads):
        read, write = copying(shape.d_model, d_head, tokens, tokens, gain)
        weights["blocks.0.attn.W_V"][head], weights["blocks.0.attn.W_O"][head] = read, write
    weights["unembed.W_U"][tokens] = np.eye(N_TOKENS)
    planted = causal_softmax(factors.scores)

    def patterns(row: Sequence[int]) -> Array:
        return planted[None, :, : len(row), : len(row)]

    return Circuit(
        name=name,
        description=description,
        parameters=parameters,
        shape=shape,
        weights=weights,
        heads={f"0.{head}": phrase for head, phrase in enumerate(heads)},
        facts={
            **facts,
            "rank": needed,
            "score_residual": factors.residual,
            "pattern_residual": float(abs(planted - wanted).max()),
        },
        patterns=patterns,
        draw=uniform_tokens(N_TOKENS),
    )


def previous_token(*, n_ctx: int = 64, lag: int = 1, rank: int | None = None) -> Circuit:
    """Return a head that looks one token back, beside one that looks everywhere.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    lag
        How far back it looks, 1 to 4 tokens. Queries with fewer tokens before them look at the oldest.
    rank
        Dimensions of its queries and keys: an even number from 4 to ``n_ctx - 2``; 16, or what fits, if not
        said. Fewer dimensions need larger scores for the same sharpness.
    """
    owner = "previous_token"
    require_context(owner, n_ctx)
    require(owner, "lag", lag in (1, 2, 3, 4), "1, 2, 3 or 4 tokens", lag)
    rank = usual_rank(n_ctx) if rank is None else rank
    right = isinstance(rank, int) and 4 <= rank <= n_ctx - 2 and rank % 2 == 0
    require(owner, "rank", right, f"an even number from 4 to {n_ctx - 2}", rank)
    query, key = np.mgrid[:n_ctx, :n_ctx]
    wanted = np.stack([key == np.maximum(query - lag, 0), (key <= query) / (query + 1)])
    scores = np.stack([delay_scores(n_ctx, lag, rank), np.zeros((n_ctx, n_ctx))])
    return from_scores(
        "previous_token",
        f"A head that looks {lag} token{'s' if lag > 1 else ''} back, beside one that looks everywhere.",
        wanted,
        scores,
        [f"looks {lag} back", "looks everywhere"],
        {
            "previous_token": [[0, 0]],
            "uniform": [[0, 1]],
            "kernels": {"0.0": [float(d == lag) for d in range(lag + 1)]},
        },
        rank=rank,
        parameters={"n_ctx": n_ctx, "lag": lag, "rank": rank},
        gains=(2.0, 2.0),
    )


KERNELS: tuple[tuple[float, ...], ...] = (
    (1, 1, 1, 1),
    tuple(0.8**lag for lag in range(24)),
    tuple(math.exp(-0.5 * ((lag - 6) / 2) ** 2) for lag in range(13)),
    (1, 0, 0, 0, 1, 0, 0, 0, 1),
)
"""A moving average, a leaky integrator, a bump six tokens back, a comb."""


def lag_kernels(
    *, n_ctx: int = 64, kernels: Sequence[Sequence[float]] = KERNELS, gains: Sequence[float] | None = None
) -> Circuit:
    """Return heads whose attention at each lag is given: causal filters along the tokens.

    A head of kernel ``(1,)`` and gain -1 takes away the token's own vector, so that the stream is what the
    others write and nothing else: with signs, any finite impulse response.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    kernels
        For each head its weight at lag 0, 1, 2, ...: at least 0, not all 0, at most ``n_ctx`` of them.
        They are divided by their sum over the lags that a query can see; a query that sees none of
        them looks everywhere.
    gains
        For each head a finite number that what it attends to is multiplied by; 1 if not said.
    """
    owner = "lag_kernels"
    require_context(owner, n_ctx)
    require(owner, "kernels", len(kernels) >= 1, "at least one list of weights", kernels)
    given = [1.0] * len(kernels) if gains is None else [float(gain) for gain in gains]
    right = len(given) == len(kernels) and bool(np.isfinite(given).all())
    require(owner, "gains", right, "a finite number for each kernel", gains)
    query, key = np.mgrid[:n_ctx, :n_ctx]
    even = (key <= query) / (query + 1)
    wanted = []
    for kernel in kernels:
        values = np.asarray(kernel, dtype=float)
        right = values.ndim == 1 and 1 <= values.size <= n_ctx and bool(np.isfinite(values).all())
        right = right and bool((values >= 0).all()) and bool(values.any())
        requirement = f"1 to {n_ctx} weights of at least 0, not all 0, for each head"
        require(owner, "kernels", right, requirement, kernel)
        padded = np.pad(values, (0, n_ctx - values.size))
        table = np.where(key <= query, padded[abs(query - key)], 0.0)
        total = table.sum(-1, keepdims=True)
        wanted.append(np.where(total > 0, table / np.where(total > 0, total, 1.0), even))
    normalised = [[float(k) / sum(map(float, kernel)) for k in kernel] for kernel in kernels]
    return from_scores(
        "lag_kernels",
        "Heads whose attention at each lag is given: causal filters along the tokens.",
        np.stack(wanted),
        scores_of(np.stack(wanted)),
        [f"{gain:g} times kernel {number} by lag" for number, gain in enumerate(given)],
        {"kernels": {f"0.{head}": kernel for head, kernel in enumerate(normalised)}},
        rank=None,
        parameters={
            "n_ctx": n_ctx,
            "kernels": [[float(k) for k in kernel] for kernel in kernels],
            "gains": given,
        },
        gains=given,
    )


def sinks(*, n_ctx: int = 64, masses: Sequence[float] = (0.2, 0.5, 0.8, 0.95)) -> Circuit:
    """Return heads that leave a given share of their attention on the first token.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    masses
        For each head the weight on the first token, above 0 and below 1; the rest is spread evenly over
        the other tokens.
    """
    owner = "sinks"
    require_context(owner, n_ctx)
    right = len(masses) >= 1 and all(0 < mass < 1 for mass in masses)
    require(owner, "masses", right, "at least one share above 0 and below 1", masses)
    query, key = np.mgrid[:n_ctx, :n_ctx]
    others = (key <= query) / np.maximum(query, 1)
    first = np.where(query == 0, 1.0, np.reshape(masses, (-1, 1, 1)))  # [head, query, key]
    wanted = np.where(key == 0, first, (1 - first) * others)
    return from_scores(
        "sinks",
        "Heads that leave a given share of their attention on the first token and spread the rest evenly.",
        wanted,
        scores_of(wanted),
        [f"leaves {mass:g} on the first token" for mass in masses],
        {"sink_mass": {f"0.{head}": float(mass) for head, mass in enumerate(masses)}},
        rank=None,
        parameters={"n_ctx": n_ctx, "masses": [float(mass) for mass in masses]},
    )
