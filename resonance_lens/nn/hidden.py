"""A hidden layer with a head for ordered targets behind it."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from resonance_lens.nn.cards import CardModule, drawn, require, seeded
from resonance_lens.nn.fourier import FourierHead
from resonance_lens.nn.linear import LinearHead


class HiddenHead(CardModule):
    """Logits of ordered bins: a hidden layer of rectified units, then a `FourierHead` or a `LinearHead`.

    A density whose Fourier coefficients are a linear map of the features cannot follow them far: to move a
    peak, coefficients must turn as ``exp(i pi k z)`` with its place. The networks of the Fourier head's paper
    have hidden layers for that.

    Parameters
    ----------
    in_features
        Features; standardise them.
    n_hidden
        Units of the hidden layer.
    n_bins
        Bins.
    n_frequencies
        Of the Fourier head; 0 for a linear head.
    rank
        Of the linear head: see `LinearHead`.
    gamma
        Of the Fourier head's penalty.
    seed
        Of the start: even in ``+- 1 / sqrt(features)``, as `torch.nn.Linear` does; a Fourier head starts
        uniform.

    Raises
    ------
    ParameterError
        If a number is out of range.
    """

    def __init__(
        self, in_features: int, n_hidden: int, n_bins: int, *, n_frequencies: int = 0, rank: int = 0,
        gamma: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        require("HiddenHead", "in_features", in_features)
        require("HiddenHead", "n_hidden", n_hidden)
        require("HiddenHead", "n_frequencies", n_frequencies, 0)
        self.in_features, self.n_hidden, self.n_bins = in_features, n_hidden, n_bins
        self.n_frequencies, self.rank, self.gamma, self.seed = n_frequencies, rank, gamma, seed
        generator, bound = seeded(seed), 1 / math.sqrt(in_features)
        self.weight = drawn((n_hidden, in_features), bound, generator)
        self.bias = drawn((n_hidden,), bound, generator)
        self.head: nn.Module = (
            FourierHead(n_hidden, n_bins, n_frequencies, gamma=gamma, seed=seed)
            if n_frequencies
            else LinearHead(n_hidden, n_bins, rank=rank, seed=seed)
        )

    @classmethod
    def as_large_as(cls, other: HiddenHead) -> HiddenHead:
        """Return the same hidden layer, from the same start, with a linear head as large as the Fourier head.

        How near the two numbers of parameters come: see `LinearHead.as_large_as`.
        """
        head = LinearHead.as_large_as(FourierHead(other.n_hidden, other.n_bins, other.n_frequencies))
        return cls(other.in_features, other.n_hidden, other.n_bins, rank=head.rank, seed=other.seed)

    def hidden(self, x: Tensor) -> Tensor:
        """Return what the hidden layer says, ``[..., n_hidden]``."""
        return functional.relu(functional.linear(x, self.weight, self.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[..., n_bins]`` of features ``[..., in_features]``."""
        found: Tensor = self.head(self.hidden(x))
        return found

    def regularisation(self, x: Tensor) -> Tensor:
        """Return the penalty to add to a loss: that of the Fourier head, or 0."""
        if isinstance(self.head, FourierHead):
            return self.head.regularisation(self.hidden(x))
        return x.new_zeros(())
