"""An independent transformer in float64 numpy: what every host must agree with, at every site.

Nothing here is shared with the adapters but the names of the sites. Prompts run one by one, so
that there is no padding that could go wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]
"""Arrays by name: ``embed``, ``unembed``, ``final.w``, ``0.W_Q``, ``0.ln1.w``, ..."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What distinguishes one transformer from another.

    Attributes
    ----------
    name
        Of the model family.
    n_kv_heads
        Heads of keys and values.
    rotary_base, rotary_dims
        Of rotary positions; positions are learned when they are ``None``.
    rms
        Whether norms divide by the root mean square only, without mean and bias.
    activation
        ``gelu_new``, ``gelu`` or ``silu``.
    gated
        Whether the MLP multiplies its activation with a second projection.
    parallel
        Whether attention and MLP read the same residual.
    biases
        Whether linear maps have biases.
    tied
        Whether the unembedding is the embedding.
    """

    name: str
    n_kv_heads: int = 4
    rotary_base: float | None = None
    rotary_dims: int | None = None
    rms: bool = False
    activation: str = "gelu_new"
    gated: bool = False
    parallel: bool = False
    biases: bool = True
    tied: bool = False
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 32
    d_head: int = 8
    d_mlp: int = 48
    d_vocab: int = 53
    n_ctx: int = 64
    eps: float = 1e-5

    def __str__(self) -> str:
        return self.name


GPT2 = Architecture(name="gpt2", tied=True)
LLAMA = Architecture(
    name="llama",
    n_kv_heads=2,
    rotary_base=5000.0,
    rotary_dims=8,
    rms=True,
    activation="silu",
    gated=True,
    biases=False,
    d_model=24,
)
NEOX = Architecture(name="neox", rotary_base=2500.0, rotary_dims=4, activation="gelu", parallel=True)
ARCHITECTURES = (GPT2, LLAMA, NEOX)


def make_weights(arch: Architecture, seed: int = 0) -> Weights:
    """Return random weights, large enough that attention is far from uniform."""
    rng = np.random.default_rng(seed)

    def normal(std: float, *shape: int) -> Array:
        # What single precision can hold, so that hosts start from exactly these numbers.
        return rng.normal(0.0, std, shape).astype(np.float32).astype(np.float64)

    def norm(name: str) -> Weights:
        scale = {f"{name}.w": 1 + np.round(normal(0.3, arch.d_model), 2)}
        return scale if arch.rms else scale | {f"{name}.b": normal(0.2, arch.d_model)}

    def linear(name: str, std: float, *shape: int) -> Weights:
        matrix = {f"W_{name}": normal(std, *shape)}
        if not arch.biases:
            return matrix
        bias = (shape[0], shape[2]) if name in ("Q", "K", "V") else shape[-1:]
        return matrix | {f"b_{name}": normal(0.2, *bias)}

    heads, d_model, d_head, d_mlp = arch.n_heads, arch.d_model, arch.d_head, arch.d_mlp
    weights = {"embed": normal(0.4, arch.d_vocab, d_model)}
    if arch.rotary_dims is None:
        weights["positions"] = normal(0.3, arch.n_ctx, d_model)
    weights["unembed"] = weights["embed"].T if arch.tied else normal(0.25, d_model, arch.d_vocab)
    weights |= norm("final")
    for layer in range(arch.n_layers):
        block = norm("ln1") | norm("ln2")
        block |= linear("Q", 0.25, heads, d_model, d_head)
        block |= linear("K", 0.25, arch.n_kv_heads, d_model, d_head)
        block |= linear("V", 0.25, arch.n_kv_heads, d_model, d_head)
        block |= linear("O", 0.15, heads, d_head, d_model)
        block |= linear("in", 0.2, d_model, d_mlp)
        block |= linear("out", 0.15, d_mlp, d_model)
        if arch.gated:
            block |= linear("gate", 0.2, d_model, d_mlp)
        weights |= {f"{layer}.{name}": value for name, value in block.items()}
    return weights


def run(
    arch: Architecture,
    weights: Weights,
    tokens: Sequence[int],
    driven: tuple[int, Array] | None = None,
) -> dict[tuple[str, int], Array]:
    """Return what is found at each site and layer for one prompt, without a batch axis.

    ``driven`` is a layer, and what is added to what enters it ``[token, d_model]``.

    Sites that the architecture does not have are missing: ``resid_mid`` of a parallel block,
    ``rot_q`` and ``rot_k`` without rotary positions. Logits belong to the last layer.
    """
    found: dict[tuple[str, int], Array] = {}
    group = arch.n_heads // arch.n_kv_heads
    n = len(tokens)
    residual = weights["embed"][list(tokens)]  # [token, d_model]
    if arch.rotary_dims is None:
        residual = residual + weights["positions"][:n]
    for layer in range(arch.n_layers):
        block = {
            name.removeprefix(f"{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"{layer}.")
        }

        def put(site: str, value: Array, layer: int = layer) -> Array:
            found[site, layer] = value
            return value

        if driven is not None and driven[0] == layer:
            residual = residual + driven[1]
        put("resid_pre", residual)
        x = _norm(arch, block, "ln1", residual)
        q = put("q", _heads(x, block, "Q"))  # [token, head, d_head]
        k = put("k", np.repeat(_heads(x, block, "K"), group, axis=1))
        v = put("v", np.repeat(_heads(x, block, "V"), group, axis=1))
        if arch.rotary_dims is not None:
            q = put("rot_q", _rotate(arch, q))
            k = put("rot_k", _rotate(arch, k))
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(arch.d_head)
        scores = put("scores", np.where(np.tri(n, dtype=bool), scores, -np.inf))
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        pattern = put("pattern", weight / weight.sum(-1, keepdims=True))
        z = put("z", np.einsum("hqk,khd->qhd", pattern, v))
        head_out = put("head_out", np.einsum("qhd,hdm->qhm", z, block["W_O"]))
        attn_out = put("attn_out", head_out.sum(1) + block.get("b_O", 0.0))
        middle = residual + attn_out
        if not arch.parallel:
            put("resid_mid", middle)
        x = _norm(arch, block, "ln2", residual if arch.parallel else middle)
        inner = x @ block["W_in"] + block.get("b_in", 0.0)
        if arch.gated:
            post = _activate(arch, x @ block["W_gate"]) * inner
        else:
            post = _activate(arch, inner)
        put("mlp_post", post)
        mlp_out = put("mlp_out", post @ block["W_out"] + block.get("b_out", 0.0))
        residual = put("resid_post", middle + mlp_out)
    found["logits", arch.n_layers - 1] = readout(arch, weights, residual)
    return found


def readout(arch: Architecture, weights: Weights, residual: Array) -> Array:
    """Return the logits of residual vectors: the final norm, then the unembedding."""
    logits: Array = _norm(arch, weights, "final", residual) @ weights["unembed"]
    return logits


def ov_alignment(arch: Architecture, weights: Weights, layer: int) -> Array:
    """Return the cosines ``[head, head]`` between the matrices ``W_V W_O`` of the heads of a layer."""
    read = np.repeat(weights[f"{layer}.W_V"], arch.n_heads // arch.n_kv_heads, axis=0)
    products = np.einsum("hmd,hdn->hmn", read, weights[f"{layer}.W_O"]).reshape(arch.n_heads, -1)
    units = products / np.linalg.norm(products, axis=1, keepdims=True)
    cosines: Array = units @ units.T
    return cosines


def _heads(x: Array, block: Weights, name: str) -> Array:
    heads: Array = np.einsum("tm,hmd->thd", x, block[f"W_{name}"]) + block.get(f"b_{name}", 0.0)
    return heads


def _norm(arch: Architecture, weights: Weights, name: str, x: Array) -> Array:
    if not arch.rms:
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + arch.eps)
    scaled: Array = x * weights[f"{name}.w"] + weights.get(f"{name}.b", 0.0)
    return scaled


def _rotate(arch: Architecture, x: Array) -> Array:
    """Rotate dimension ``i`` against dimension ``i + dims/2`` by position times ``base^(-2i/dims)``."""
    dims, base = arch.rotary_dims, arch.rotary_base
    assert dims is not None and base is not None
    half = dims // 2
    speed = base ** (-2 * np.arange(half) / dims)
    angle = np.arange(x.shape[0])[:, None, None] * speed  # [token, 1, half]
    first, second, rest = x[..., :half], x[..., half:dims], x[..., dims:]
    return np.concatenate(
        [
            first * np.cos(angle) - second * np.sin(angle),
            second * np.cos(angle) + first * np.sin(angle),
            rest,
        ],
        axis=-1,
    )


def _activate(arch: Architecture, x: Array) -> Array:
    share: Array
    if arch.activation == "silu":
        share = 1 / (1 + np.exp(-x))
    elif arch.activation == "gelu":
        share = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    else:
        share = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * share
