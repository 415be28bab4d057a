"""Two heads that are driven by one band-limited source, beside two that are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resonance_lens.testbed.building import Array, Shape, empty_weights
from resonance_lens.testbed.circuit import Circuit, causal_softmax, require, require_context
from resonance_lens.testbed.positional import delay_scores, factor, usual_rank

NOISES = 4
"""Noises that a token carries beside the source, one for each head."""

NOISE_LEVELS = 3
"""Values of a noise: -1, 0 and 1, equally likely."""

GAIN = 1.5
"""Of the source, beside a noise of variance 2/3: well above it in the band, far below it elsewhere."""

WANDER = 0.1
"""Standard deviation of the steps of the source's phase, in radians: it is forgotten in some 200 tokens."""


def band_locked(*, n_ctx: int = 64, frequency: float = 0.1875, levels: int = 16) -> Circuit:
    """Return four heads that each write one number of their token, of which two share a narrow-band source.

    A token stands for five numbers: a source, ``cos(phase)`` in steps, and four noises. Along a prompt
    the phase of the source advances by ``frequency`` turns a token and wanders a little, from a start of the
    prompt's own; the noises are white, and independent of it and of each other. All heads look at their own
    token. What heads 0 and 1 read of it is the source and a noise each, head 1 the source with the other
    sign; heads 2 and 3 read a noise each. Heads 0 and 1 are locked, half a cycle apart, around that
    frequency and nowhere else.

    Parameters
    ----------
    n_ctx
        The longest prompt, 8 to 512 tokens.
    frequency
        Of the source: above 0 and below 0.5 cycles per token.
    levels
        Values that the source takes: 2 to 64.
    """
    owner = "band_locked"
    require_context(owner, n_ctx)
    right = 0 < frequency < 0.5
    require(owner, "frequency", right, "above 0 and below 0.5 cycles per token", frequency)
    right = isinstance(levels, int) and 2 <= levels <= 64
    require(owner, "levels", right, "a whole number from 2 to 64", levels)
    rank = usual_rank(n_ctx)
    factors = factor(delay_scores(n_ctx, 0, rank)[None], rank)
    n_tokens = levels * NOISE_LEVELS**NOISES
    values = 1 + NOISES  # the numbers of a token are the first dimensions
    shape = Shape(
        n_layers=1,
        n_heads=NOISES,
        d_model=values + factors.positions.shape[1],
        d_head=max(rank, 4),
        d_vocab=n_tokens,
        n_ctx=n_ctx,
    )
    token = np.arange(n_tokens)
    weights = empty_weights(shape)
    weights["embed.W_E"][:, 0] = 2 * (token % levels) / (levels - 1) - 1
    for noise in range(NOISES):
        level = token // levels // NOISE_LEVELS**noise % NOISE_LEVELS
        weights["embed.W_E"][:, 1 + noise] = level - 1.0
    weights["pos_embed.W_pos"][:, values:] = factors.positions
    wider = (shape.d_head / rank) ** 0.25
    at = "blocks.0.attn"
    for head in range(NOISES):
        weights[f"{at}.W_Q"][head, values:, :rank] = factors.W_Q[0] * wider
        weights[f"{at}.W_K"][head, values:, :rank] = factors.W_K[0] * wider
        weights[f"{at}.W_V"][head, 1 + head, :] = 1.0  # along all dimensions of the head
        weights[f"{at}.W_O"][head, :, 1 + head] = 1.0 / shape.d_head
    weights[f"{at}.W_V"][0, 0, :] = GAIN
    weights[f"{at}.W_V"][1, 0, :] = -GAIN
    weights["unembed.W_U"][:values] = weights["embed.W_E"][:, :values].T
    planted = causal_softmax(np.repeat(factors.scores, NOISES, axis=0))

    def patterns(row: Sequence[int]) -> Array:
        return planted[None, :, : len(row), : len(row)]

    def draw(rng: np.random.Generator, length: int) -> Sequence[int]:
        turns = frequency * np.arange(length) + rng.uniform()
        phase = 2 * np.pi * turns + rng.normal(0, WANDER, size=length).cumsum()
        source = np.rint((np.cos(phase) + 1) / 2 * (levels - 1)).astype(int)
        noise = rng.integers(NOISE_LEVELS**NOISES, size=length)
        return [int(each) for each in source + levels * noise]

    return Circuit(
        name="band_locked",
        description="Two heads that share a source in a narrow band, beside two that share nothing.",
        parameters={"n_ctx": n_ctx, "frequency": float(frequency), "levels": levels},
        shape=shape,
        weights=weights,
        heads={
            "0.0": "writes the source and a noise",
            "0.1": "writes the source turned round and a noise",
            "0.2": "writes a noise",
            "0.3": "writes a noise",
        },
        facts={
            "locked_in_band": [[[0, 0], [0, 1]]],
            "independent_pairs": [
                [[0, a], [0, b]] for a in range(NOISES) for b in range(max(a + 1, 2), NOISES)
            ],
            "frequency": float(frequency),
        },
        patterns=patterns,
        draw=draw,
    )
