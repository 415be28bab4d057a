"""Directions drawn once: what is measured along one is the same in every prompt and every pass."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from resonance_lens.stats.streams import stream


@functools.lru_cache(maxsize=1024)
def head_directions(draw: int, layer: int, n_heads: int, d_head: int) -> Tensor:
    """Return a random unit vector for each head of a layer, ``[head, d_head]``, in double precision.

    Each is a function of the draw, the layer, the head and the width of heads, and of nothing else. Do not
    write into it: it is kept.
    """
    rows = [stream(draw, "head direction", layer, head).normal(size=d_head) for head in range(n_heads)]
    drawn = np.stack(rows)
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
