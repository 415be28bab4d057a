"""Heads whose attention depends on the lag through rotary frequencies that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resonance_lens.errors import ParameterError
from resonance_lens.testbed.building import Array, Shape, empty_weights
from resonance_lens.testbed.circuit import (
    Circuit,
    causal_softmax,
    copying,
    require,
    require_context,
    uniform_tokens,
)

N_TOKENS = 16


def rotary(
    *,
    n_ctx: int = 64,
    base: int = 10000,
    dims: int = 16,
    heads: Sequence[Sequence[tuple[int, float, float]]] | None = None,
) -> Circuit:
    """Return heads with ``score(lag) = sum over pairs k of a_k cos(w_k lag + phi_k)``, whatever the tokens.

    Queries and keys are constant vectors before they turn. Pair k of dimensions turns by
    ``w_k = base ** (-2 k / dims)`` radians per token, so that the frequencies are those of this
    series and no others.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    base
        Of the series, a whole number of at least 2.
    dims
        Dimensions that turn, an even number from 4 to 64: half as many pairs.
    heads
        For each head its terms ``(k, a_k, phi_k)``: pair from 0 (the fastest) to ``dims / 2 - 1``,
        amplitude in nats from 0 to 50, phase in radians. If not said: a head that looks one back (all
        pairs, each turned back by its own step), one on the fastest pair alone (a comb), one on the pair
        whose period is nearest to the context (near tokens before far ones), and one without terms.
    """
    owner = "rotary"
    require_context(owner, n_ctx)
    require(owner, "base", isinstance(base, int) and base >= 2, "a whole number of at least 2", base)
    right = isinstance(dims, int) and 4 <= dims <= 64 and dims % 2 == 0
    require(owner, "dims", right, "an even number from 4 to 64", dims)
    d_head = max(dims, N_TOKENS)
    n_pairs = dims // 2
    speed = float(base) ** (-2 * np.arange(n_pairs) / dims)
    slow = int(abs(np.log(2 * math.pi / speed / n_ctx)).argmin())
    usual: dict[str, list[tuple[int, float, float]]] = {
        "looks 1 back": [(pair, 16.0, -float(speed[pair])) for pair in range(n_pairs)],
        "a comb": [(0, 4.0, 0.0)],
        "looks nearby": [(slow, 4.0, 0.0)],
        "looks everywhere": [],
    }
    heads = list(usual.values()) if heads is None else heads
    require(owner, "heads", len(heads) >= 1, "at least one list of terms", heads)
    terms_of = [_checked(owner, terms, n_pairs) for terms in heads]
    phrases = [
        next((phrase for phrase, known in usual.items() if known == terms), "a sum of rotary terms")
        for terms in terms_of
    ]
    shape = Shape(
        n_layers=1,
        n_heads=len(heads),
        d_model=N_TOKENS,
        d_head=d_head,
        d_vocab=N_TOKENS,
        n_ctx=n_ctx,
        positions="rotary",
        rotary_dims=dims,
        rotary_base=base,
    )
    weights = empty_weights(shape)
    weights["embed.W_E"][:] = weights["unembed.W_U"][:] = np.eye(N_TOKENS)
    query, key = np.mgrid[:n_ctx, :n_ctx]
    scores = np.zeros((len(heads), n_ctx, n_ctx))
    for head, terms in enumerate(terms_of):
        for pair, amplitude, phase in terms:
            size = math.sqrt(amplitude * math.sqrt(d_head))
            at = [2 * pair, 2 * pair + 1]
            weights["blocks.0.attn.b_Q"][head, at] = size * math.cos(phase), size * math.sin(phase)
            weights["blocks.0.attn.b_K"][head, at] = size, 0.0
            scores[head] += amplitude * np.cos(speed[pair] * (query - key) + phase)
        read, write = copying(N_TOKENS, d_head, slice(0, N_TOKENS), slice(0, N_TOKENS), 1.0)
        weights["blocks.0.attn.W_V"][head], weights["blocks.0.attn.W_O"][head] = read, write
    planted = causal_softmax(scores)

    def patterns(row: Sequence[int]) -> Array:
        return planted[None, :, : len(row), : len(row)]

    by_lag = np.exp(scores[:, -1, ::-1] - scores[:, -1].max(-1, keepdims=True))  # [head, lag]
    facts: Mapping[str, Any] = {
        "frequencies": [float(w) / (2 * math.pi) for w in speed],  # cycles per token
        "terms": {
            f"0.{head}": [{"pair": k, "amplitude": a, "phase": p} for k, a, p in terms]
            for head, terms in enumerate(terms_of)
        },
        "kernels": {f"0.{head}": (k / k.sum()).tolist() for head, k in enumerate(by_lag)},
    }
    return Circuit(
        name="rotary",
        description="Heads whose attention depends on the lag through rotary frequencies that are given.",
        parameters={
            "n_ctx": n_ctx,
            "base": base,
            "dims": dims,
            "heads": [[list(term) for term in terms] for terms in terms_of],
        },
        shape=shape,
        weights=weights,
        heads={f"0.{head}": phrase for head, phrase in enumerate(phrases)},
        facts=facts,
        patterns=patterns,
        draw=uniform_tokens(N_TOKENS),
    )


def _checked(
    owner: str, terms: Sequence[tuple[int, float, float]], n_pairs: int
) -> list[tuple[int, float, float]]:
    """Return the terms of a head, or say what is wrong with one."""
    requirement = (
        f"lists of (pair, amplitude, phase) with pair from 0 to {n_pairs - 1}, amplitude from 0 to 50 nats "
        "and phase in radians"
    )
    found: list[tuple[int, float, float]] = []
    for term in terms:
        try:
            pair, amplitude, phase = term
        except (TypeError, ValueError):
            raise ParameterError(
                f"The 'heads' parameter of {owner} must be {requirement}; got {term!r}."
            ) from None
        right = isinstance(pair, int) and 0 <= pair < n_pairs and 0 <= amplitude <= 50
        require(owner, "heads", right and math.isfinite(phase), requirement, term)
        require(owner, "heads", pair not in [k for k, _, _ in found], "lists with each pair once", terms)
        found.append((pair, float(amplitude), float(phase)))
    return found
