"""A transformer without norms in plain numpy and double precision: what every host must agree with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.testbed import Shape

Array = NDArray[np.float64]


def run(shape: Shape, weights: Mapping[str, Array], tokens: Sequence[int]) -> dict[tuple[str, int], Array]:
    """Return what is found at each site and layer for one prompt, without a batch axis.

    Query by query and head by head, so that nothing is shared with how a host does it.
    """
    found: dict[tuple[str, int], Array] = {}
    n = len(tokens)
    residual = np.array([weights["embed.W_E"][token] for token in tokens])
    if shape.positions == "learned":
        residual = residual + weights["pos_embed.W_pos"][:n]
    for layer in range(shape.n_layers):

        def of(name: str, layer: int = layer) -> Any:
            return weights[f"blocks.{layer}.{name}"]

        found["resid_pre", layer] = residual
        q, k, v = (
            np.stack(
                [residual @ of(f"attn.W_{x}")[h] + of(f"attn.b_{x}")[h] for h in range(shape.n_heads)], 1
            )
            for x in "QKV"
        )  # [token, head, d_head]
        found["q", layer], found["k", layer], found["v", layer] = q, k, v
        if shape.positions == "rotary":
            q, k = turned(shape, q), turned(shape, k)
            found["rot_q", layer], found["rot_k", layer] = q, k
        pattern = np.zeros((shape.n_heads, n, n))
        scores = np.full((shape.n_heads, n, n), -np.inf)
        for head in range(shape.n_heads):
            for i in range(n):
                row = np.array([q[i, head] @ k[j, head] for j in range(i + 1)]) / math.sqrt(shape.d_head)
                scores[head, i, : i + 1] = row
                pattern[head, i, : i + 1] = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        found["scores", layer], found["pattern", layer] = scores, pattern
        z = np.stack([pattern[head] @ v[:, head] for head in range(shape.n_heads)], 1)
        found["z", layer] = z
        head_out = np.stack([z[:, head] @ of("attn.W_O")[head] for head in range(shape.n_heads)], 1)
        found["head_out", layer] = head_out
        found["attn_out", layer] = head_out.sum(1) + of("attn.b_O")
        residual = residual + found["attn_out", layer]
        if shape.d_mlp is not None:
            found["resid_mid", layer] = residual
            inner = residual @ of("mlp.W_in") + of("mlp.b_in")
            found["mlp_post", layer] = activate(shape.activation, inner)
            found["mlp_out", layer] = found["mlp_post", layer] @ of("mlp.W_out") + of("mlp.b_out")
            residual = residual + found["mlp_out", layer]
        found["resid_post", layer] = residual
    found["logits", shape.n_layers - 1] = residual @ weights["unembed.W_U"]
    return found


def turned(shape: Shape, x: Array) -> Array:
    """Turn dimensions ``2k`` and ``2k + 1`` as one complex number; the others stay."""
    dims = shape.rotary_dims or shape.d_head
    out = x.astype(float)
    for token in range(len(x)):
        for pair in range(dims // 2):
            angle = token * float(shape.rotary_base) ** (-2 * pair / dims)
            z = (x[token, :, 2 * pair] + 1j * x[token, :, 2 * pair + 1]) * np.exp(1j * angle)
            out[token, :, 2 * pair], out[token, :, 2 * pair + 1] = z.real, z.imag
    return out


def activate(name: str, x: Array) -> Array:
    """Apply an activation function."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "silu":
        return np.asarray(x / (1 + np.exp(-x)))
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
