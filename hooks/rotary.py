"""What hosts say of their rotary positions: which dimensions turn together, and how fast each pair turns."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from resonance_lens.dsp.rotary import pair_frequencies

Pairs = Literal["halves", "adjacent"]
Frequencies = tuple[float, ...]

HELD = re.compile(r"(^|[._])inv_freq$")
"""Names of buffers that hold the radians per token of each pair, in models of Hugging Face. Those of one
kind of layer only begin with its name."""


def of_bridge(model: Any, dims: int, base: float) -> tuple[Pairs, Frequencies | None]:
    """Return the layout and the frequencies of the model behind a TransformerBridge.

    Parameters
    ----------
    model
        The bridge.
    dims, base
        How many dimensions turn, and the base of their frequencies where the model holds none.
    """
    inner, cfg = model.original_model, model.cfg
    rotate = _rotation(inner)
    adjacent = getattr(cfg, "rotary_adjacent_pairs", False) or getattr(
        cfg, "rotary_interleaved_cos_sin", False
    )
    if rotate is not None and not adjacent:
        # (0, 1, 2, 3) by a quarter turn: (-1, 0, -3, 2) where neighbours are a pair.
        adjacent = float(rotate(torch.arange(4.0).reshape(1, 1, 1, 4)).flatten()[0]) == -1.0
    pairs: Pairs = "adjacent" if adjacent else "halves"
    return pairs, _common(_held(inner, dims), dims, base)


def of_hooked_transformer(model: Any, dims: int, base: float) -> tuple[Pairs, Frequencies | None]:
    """Return the layout and the frequencies of a HookedTransformer; see `of_bridge`."""
    adjacent = bool(getattr(model.cfg, "rotary_adjacent_pairs", False))
    angles = [_angles(block.attn.rotary_sin, block.attn.rotary_cos) for block in model.blocks]
    found = [each[0::2] if adjacent else each[: dims // 2] for each in angles]
    return "adjacent" if adjacent else "halves", _common(found, dims, base)


def _rotation(inner: Any) -> Any:
    """Return the function that turns every pair by a quarter, where the model's code has one."""
    own = getattr(getattr(inner, "rotary", None), "_rotate_half", None)  # TransformerLens's own module
    code = sys.modules.get(type(inner).__module__)
    return own or getattr(code, "rotate_every_two", None) or getattr(code, "rotate_half", None)


def _held(inner: Any, dims: int) -> list[Tensor]:
    """Return the frequencies that a model holds, from each buffer that holds some."""
    found: list[Tensor] = []
    for name, buffer in inner.named_buffers():
        last = name.rpartition(".")[2]
        if HELD.search(last) and "original" not in last:
            found.append(buffer)
        elif last == "embed_positions":  # GPT-J
            found.append(_angles(*buffer.chunk(2, dim=-1)))
        elif last == "cos_cached":  # TransformerLens's own module
            found.append(_angles(inner.get_buffer(name.replace("cos", "sin")), buffer)[0::2])
    # A model of text and images may turn what it sees as well.
    return [each for each in found if tuple(each.shape) == (dims // 2,)]


def _angles(sin: Tensor, cos: Tensor) -> Tensor:
    """Return the angles at the second position of tables ``[position, angle]``, if they reach so far."""
    return torch.atan2(sin[1:2].double(), cos[1:2].double()).flatten()


def _common(found: Sequence[Tensor], dims: int, base: float) -> Frequencies | None:
    """Return the frequencies that all layers have in common; powers of the base where none are held."""
    if not found:
        return tuple(pair_frequencies(dims, base).tolist())
    first = found[0].double()
    if any(not torch.allclose(each.double(), first, rtol=1e-6, atol=0) for each in found):
        return None
    return tuple(first.tolist()) if bool((first > 0).all()) else None
