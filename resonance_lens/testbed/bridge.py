"""A TransformerBridge with weights that are given, whose attention computes in the open.

TransformerLens builds its own ("native") module for a bridge that has no Hugging Face model. Its
attention is closed: in 3.x what a hook on the pattern returns is not used, in 3.x and 4.x the hook
on attention scores is handed the pattern, and rotated queries and keys and each head's own output are
shown nowhere. Here the module's forward is replaced by one that passes each of these
through its hook point, as the bridges of Hugging Face models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from resonance_lens.testbed.building import Shape, settings_of


def build_bridge(shape: Shape, tensors: Mapping[str, Tensor], name: str, tokenizer: Any, device: str) -> Any:
    """Return a TransformerBridge with these weights, which are named as in a HookedTransformer."""
    bridge: Any = TransformerBridge  # which is given this method when it is imported
    model = bridge.boot_native(settings_of(shape, name), tokenizer=tokenizer, device=device, model_name=name)
    state = model.state_dict()
    for key, value in _native(shape, tensors).items():
        if state[key].shape != value.shape:
            raise AssertionError(f"{key} has size {tuple(state[key].shape)}, not {tuple(value.shape)}")
        with torch.no_grad():
            state[key].copy_(value)
    for block in model.blocks:
        attention = block.attn
        attention.supports_attn_result = True  # `set_use_attn_result` asks before it agrees
        inner = attention.original_component
        inner.accepts_pattern_fn = False  # in 4.x: the pattern meets its hook here, not twice
        inner.forward = partial(_attend, inner, attention)
    return model


def _native(shape: Shape, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names and in the layout ``[out, in]`` of the native module."""
    out = {"embed.weight": tensors["embed.W_E"], "unembed.weight": tensors["unembed.W_U"].T}
    if shape.positions == "learned":
        out["pos_embed.weight"] = tensors["pos_embed.W_pos"]
    for layer in range(shape.n_layers):
        at = f"blocks.{layer}"
        for name in "QKV":
            weight = tensors[f"{at}.attn.W_{name}"]  # [head, d_model, d_head]
            out[f"{at}.attn.{name.lower()}.weight"] = weight.transpose(1, 2).flatten(0, 1)
            out[f"{at}.attn.{name.lower()}.bias"] = tensors[f"{at}.attn.b_{name}"].flatten()
        out[f"{at}.attn.o.weight"] = tensors[f"{at}.attn.W_O"].flatten(0, 1).T
        out[f"{at}.attn.o.bias"] = tensors[f"{at}.attn.b_O"]
        if shape.d_mlp is not None:
            for name in ("in", "out"):
                out[f"{at}.mlp.{name}.weight"] = tensors[f"{at}.mlp.W_{name}"].T
                out[f"{at}.mlp.{name}.bias"] = tensors[f"{at}.mlp.b_{name}"]
    return out


def _attend(
    inner: Any,
    attention: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention, every step through its hook point.

    Parameters
    ----------
    inner
        The native module: its projections, its rotation and its mask.
    attention
        The bridge around it, which has the hook points.
    hidden_states
        ``[batch, token, d_model]``.
    attention_mask
        Ones on real tokens and zeros on padding, ``[batch, token]``.
    position_ids
        Position of each token, ``[batch or 1, token]``.
    others
        What the bridge passes on and attention has no use for.

    Returns
    -------
    tuple
        The output ``[batch, token, d_model]``, and nothing in the place of the pattern.
    """
    batch, n, _ = hidden_states.shape
    # [batch, head, token, d_head]
    q, k, v = (
        project(hidden_states).view(batch, n, inner.n_heads, inner.d_head).transpose(1, 2)
        for project in (inner.q, inner.k, inner.v)
    )
    if inner.rotary is not None:
        q, k = inner.rotary.apply_rope(q, k, position_ids=position_ids)
        q, k = attention.hook_rot_q(q), attention.hook_rot_k(k)
    hidden = inner.causal_mask[:n, :n]
    if attention_mask is not None:
        hidden = inner._combine_attention_mask(hidden, attention_mask, batch=batch)
    scores = q @ k.transpose(-2, -1) / inner.scale
    # Not minus infinity: the rows of padding see nothing, and would have no gradient that is finite.
    scores = attention.hook_attn_scores(scores.masked_fill(hidden, torch.finfo(scores.dtype).min))
    pattern = attention.hook_pattern(scores.softmax(-1))
    z = (pattern @ v).transpose(1, 2).flatten(2)  # [batch, token, head * d_head]
    if attention.config.use_attn_result:
        z = inner.o.hook_in(z).view(batch, n, inner.n_heads, inner.d_head)
        return attention._compute_per_head_result(z, inner.n_heads, inner.d_head), None
    return inner.o(z), None
