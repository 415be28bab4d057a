"""Two heads that are locked by a common source, beside two that are independent of each other."""

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

MARKS = 3
"""Kinds of mark: a token carries any of them, or none, whatever its content is."""


def locked(*, n_ctx: int = 64, n_contents: int = 4, sharpness: float = SHARPNESS) -> Circuit:
    """Return a layer whose two heads look at the same marked token, and one whose heads do not.

    A token is ``8 content + marks``, with marks 1, 2 and 4. Each mark stands on one token of a prompt,
    anywhere from the second to the middle, independently of the other marks: at another place
    in each prompt. Both heads of the first layer look at mark 1, the heads of the second layer at marks
    2 and 4. Before its mark has come, a head looks everywhere.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    n_contents
        Tokens are this many times 8: 1 to 16.
    sharpness
        How far the marked token is above the others: above 0, at most 50 nats.
    """
    owner = "locked"
    require_context(owner, n_ctx)
    right = isinstance(n_contents, int) and 1 <= n_contents <= 16
    require(owner, "n_contents", right, "a whole number from 1 to 16", n_contents)
    require(owner, "sharpness", 0 < sharpness <= 50, "above 0 and at most 50 nats", sharpness)
    kinds = 2**MARKS
    n_tokens = n_contents * kinds
    d_head = n_contents
    shape = Shape(
        n_layers=2,
        n_heads=2,
        d_model=MARKS + n_contents,
        d_head=d_head,
        d_vocab=n_tokens,
        n_ctx=n_ctx,
    )
    token = np.arange(n_tokens)
    marks = (token[:, None] // 2 ** np.arange(MARKS)) % 2 == 1  # [token, mark]
    content = slice(MARKS, None)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, :MARKS] = marks
    weights["embed.W_E"][token, MARKS + token // kinds] = 1.0
    looks_at = ((0, 0), (1, 2))  # mark of each head of each layer
    for layer, heads in enumerate(looks_at):
        at = f"blocks.{layer}.attn"
        for head, mark in enumerate(heads):
            weights[f"{at}.b_Q"][head, 0] = sharpness * np.sqrt(d_head)
            weights[f"{at}.W_K"][head, mark, 0] = 1.0
            read, write = copying(
                shape.d_model, d_head, slice(MARKS, MARKS + n_contents), slice(MARKS, MARKS + n_contents), 1.0
            )
            weights[f"{at}.W_V"][head], weights[f"{at}.W_O"][head] = read, write
    weights["unembed.W_U"][content] = weights["embed.W_E"][:, content].T

    def patterns(row: Sequence[int]) -> Array:
        on = marks[np.asarray(row)].astype(float)  # [key, mark]
        scores = np.stack([[sharpness * on[:, mark] for mark in heads] for heads in looks_at])
        return causal_softmax(np.repeat(scores[:, :, None, :], len(row), axis=2))

    def draw(rng: np.random.Generator, length: int) -> Sequence[int]:
        found = kinds * rng.integers(n_contents, size=length)
        for mark in range(MARKS):
            found[rng.integers(1, max(2, length // 2))] += 2**mark
        return [int(each) for each in found]

    return Circuit(
        name="locked",
        description="Two heads that look at one marked token, beside two that look at marks of their own.",
        parameters={"n_ctx": n_ctx, "n_contents": n_contents, "sharpness": float(sharpness)},
        shape=shape,
        weights=weights,
        heads={
            f"{layer}.{head}": f"looks at mark {2**mark}"
            for layer, heads in enumerate(looks_at)
            for head, mark in enumerate(heads)
        },
        facts={
            "locked_pairs": [[[0, 0], [0, 1]]],
            "independent_pairs": [
                [[1, 0], [1, 1]],
                *([[0, a], [1, b]] for a in (0, 1) for b in (0, 1)),
            ],
            "source": "the place of the token with mark 1",
        },
        patterns=patterns,
        draw=draw,
        independent=(1,),
    )
