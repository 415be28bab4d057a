"""What an adapter says of the model that it is attached to, and a batch of prompts as a model sees it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

SITE_AXES: dict[str, tuple[str, ...]] = {
    "pattern": ("batch", "head", "query", "key"),
    "scores": ("batch", "head", "query", "key"),
    "q": ("batch", "token", "head", "d_head"),
    "k": ("batch", "token", "head", "d_head"),
    "v": ("batch", "token", "head", "d_head"),
    "z": ("batch", "token", "head", "d_head"),
    "rot_q": ("batch", "token", "head", "d_head"),
    "rot_k": ("batch", "token", "head", "d_head"),
    "head_out": ("batch", "token", "head", "d_model"),
    "resid_pre": ("batch", "token", "d_model"),
    "resid_mid": ("batch", "token", "d_model"),
    "resid_post": ("batch", "token", "d_model"),
    "attn_out": ("batch", "token", "d_model"),
    "mlp_out": ("batch", "token", "d_model"),
    "mlp_post": ("batch", "token", "neuron"),
    "logits": ("batch", "token", "vocab"),
}
"""The vocabulary of sites: logical places in a transformer, and the axes of what is found there."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of a model, whatever host runs it.

    Attributes
    ----------
    host
        Name of the adapter: ``transformer_bridge``, ``hooked_transformer``, ``activation_cache``.
    model_name
        What the host calls the model.
    n_layers, n_heads, n_kv_heads, d_model, d_head, d_vocab, n_ctx
        Sizes; ``n_kv_heads`` equals ``n_heads`` where keys and values are not grouped, ``n_ctx``
        is the longest prompt in tokens.
    causal
        Whether a position sees only itself and what came before.
    sliding_windows
        One entry per layer: how many tokens back it sees, or ``None`` for all.
    positions
        ``rotary``, ``learned``, ``alibi``, ... as the host names its position encoding.
    rotary_base, rotary_dims
        Base and number of rotated dimensions per head; ``None`` without rotary positions.
    rotary_pairs
        Which of the rotated dimensions turn together: ``halves``, j and j + rotary_dims / 2; ``adjacent``,
        2 j and 2 j + 1; ``None`` without rotary positions, or where the host does not tell.
    rotary_frequencies
        Radians per token of each pair, as the model turns them: scaled rotary positions differ from powers
        of the base. ``None`` without rotary positions, or where layers turn at different frequencies.
    parallel
        Whether attention and MLP read the same residual (there is then no ``resid_mid``).
    normalization
        Kind of norm, as the host names it.
    prepends_bos
        Whether the model is used to a beginning-of-sequence token.
    bos_token
        Its id, or ``None``.
    dtype
        Of the weights, such as ``float32``.
    weight_processing
        ``none`` for raw weights, else what the host did to them (folding norms, centring).
    """

    host: str
    model_name: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    causal: bool
    sliding_windows: tuple[int | None, ...]
    positions: str
    rotary_base: float | None
    rotary_dims: int | None
    parallel: bool
    normalization: str
    prepends_bos: bool
    bos_token: int | None
    dtype: str
    weight_processing: str
    rotary_pairs: Literal["halves", "adjacent"] | None = None
    rotary_frequencies: tuple[float, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain data for a provenance record."""
        facts = asdict(self)
        return {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one forward pass, as the engine makes them: ids and mask are ours, never the host's.

    Attributes
    ----------
    tokens
        Integers ``[batch, token]``, padded at ``padding_side``.
    lengths
        Integers ``[batch]``: real tokens of each prompt.
    prompts
        Indices of the prompts in the run, one per row.
    padding_side
        ``right`` or ``left``.
    """

    tokens: Tensor
    lengths: Tensor
    prompts: tuple[int, ...]
    padding_side: str = "right"

    @cached_property
    def padded(self) -> bool:
        """Whether any row holds padding."""
        return bool((self.lengths < self.tokens.shape[1]).any())

    def attention_mask(self) -> Tensor:
        """Return integers ``[batch, token]``: one on real tokens, zero on padding."""
        import torch

        width = self.tokens.shape[1]
        positions = torch.arange(width, device=self.tokens.device)
        if self.padding_side == "left":
            return (positions >= width - self.lengths[:, None]).long()
        return (positions < self.lengths[:, None]).long()
