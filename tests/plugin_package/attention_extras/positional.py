"""A kind of model of our own, which is nothing but attention by position, and its adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.facts import Batch, Facts
from resonance_lens.hooks.adapter import Adapter, Receive, Wanted

N_CTX = 64


@dataclass
class PositionalModel:
    """A plain dict of arrays, which is all there is to this model.

    Attributes
    ----------
    scores
        By layer, ``[head, query - key]``: how much each head likes each distance back.
    """

    scores: dict[int, NDArray[np.float64]] = field(default_factory=dict)


class PositionalAdapter(Adapter):
    """Serves the attention of a `PositionalModel`."""

    def __init__(self, host: PositionalModel) -> None:
        self.host = host
        n_heads = len(host.scores[0])
        self.facts = Facts(
            host="positional",
            model_name="positional",
            n_layers=len(host.scores),
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_model=n_heads,
            d_head=1,
            d_vocab=100,
            n_ctx=N_CTX,
            causal=True,
            sliding_windows=(None,) * len(host.scores),
            positions="relative",
            rotary_base=None,
            rotary_dims=None,
            parallel=False,
            normalization="none",
            prepends_bos=False,
            bos_token=None,
            dtype="float64",
            weight_processing="none",
        )

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is one of ours."""
        return isinstance(host, PositionalModel)

    def why_not(self, site: str, layer: int) -> str | None:
        """Return why a site cannot be served at a layer, or ``None`` if it can."""
        return None if site == "pattern" else f"A positional model has attention and no {site!r}."

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Hand out the attention of every layer."""
        real = batch.attention_mask().bool()  # [batch, token]
        for layer in sorted(wanted):
            n = real.shape[1]
            back = torch.arange(n)[:, None] - torch.arange(n)  # [query, key]
            scores = torch.as_tensor(self.host.scores[layer])[:, back.clamp_min(0)]  # [head, query, key]
            hidden = (back < 0) | ~real[:, None, None, :]  # [batch, 1, query, key]
            pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            receive(self.signal("pattern", layer, pattern, batch))

    def readout(self, residual: Tensor) -> Tensor:
        """Return nothing of use: this model predicts no tokens."""
        raise NotImplementedError("a positional model predicts no tokens")
