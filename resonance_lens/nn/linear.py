"""A linear softmax head, as large as another head: what a head for ordered targets is held against."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from resonance_lens.nn.cards import CardModule, drawn, require, seeded
from resonance_lens.nn.fourier import FourierHead


class LinearHead(CardModule):
    """Logits that are a linear map of the features, of full or of low rank.

    Parameters
    ----------
    in_features
        Features.
    n_bins
        Classes, or bins of an ordered target.
    rank
        0: a full matrix, ``n_bins (in_features + 1)`` parameters. Else the map goes through as many numbers:
        ``rank (in_features + n_bins) + n_bins`` parameters.
    seed
        Of the start: even in ``+- 1 / sqrt(features)``, as `torch.nn.Linear` does.

    Raises
    ------
    ParameterError
        If a number is out of range: a rank is below both ``in_features`` and ``n_bins``.
    """

    def __init__(self, in_features: int, n_bins: int, *, rank: int = 0, seed: int = 0) -> None:
        super().__init__()
        require("LinearHead", "in_features", in_features)
        require("LinearHead", "n_bins", n_bins, 2)
        require("LinearHead", "rank", rank, 0, min(in_features, n_bins) - 1)
        self.in_features, self.n_bins, self.rank, self.seed = in_features, n_bins, rank, seed
        generator = seeded(seed)
        width = rank or in_features
        if rank:
            self.down = drawn((rank, in_features), 1 / math.sqrt(in_features), generator)
        self.weight = drawn((n_bins, width), 1 / math.sqrt(width), generator)
        self.bias = drawn((n_bins,), 1 / math.sqrt(width), generator)

    @classmethod
    def as_large_as(cls, head: FourierHead, *, seed: int = 0) -> LinearHead:
        """Return a linear head for the same features and bins, with as near as can be as many parameters.

        A Fourier head of N frequencies has ``2 (N + 1) (in_features + 1)``, a full linear head
        ``n_bins (in_features + 1)``: equal for ``N = n_bins / 2 - 1``. With fewer frequencies the linear head
        is of low rank (off by at most half of ``in_features + n_bins``, say both counts); with more it is
        full, and smaller: more parameters before a softmax would express nothing more.
        """
        return cls(head.in_features, head.n_bins, rank=_nearest_rank(head), seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[..., n_bins]`` of features ``[..., in_features]``."""
        if self.rank:
            x = functional.linear(x, self.down)
        return functional.linear(x, self.weight, self.bias)


def _nearest_rank(head: FourierHead) -> int:
    n_features, n_bins = head.in_features, head.n_bins
    wanted = 2 * (head.n_frequencies + 1) * (n_features + 1)
    full = n_bins * (n_features + 1)
    low = {rank: rank * (n_features + n_bins) + n_bins for rank in range(1, min(n_features, n_bins))}
    counts = {0: full} | {rank: count for rank, count in low.items() if count < full}
    return min(counts, key=lambda rank: (abs(counts[rank] - wanted), rank))
