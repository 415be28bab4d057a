"""A filter over frequencies along tokens that is learned together with a linear probe (Spectral Probing)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from resonance_lens.nn.cards import CardModule, drawn, real_tokens, require, seeded


class SpectralFilter(CardModule):
    """Logits of a linear probe behind a filter along tokens, both learned.

    Parameters
    ----------
    in_features
        Features; all of them go through one filter.
    n_outputs
        Logits at each token.
    n_indices
        K, at least 2: gains are learned at the frequencies ``k / (2 K)`` cycles per token, index k of the
        cosine transform of K tokens. No more than the tokens of usual records: more are only read in
        averages.
    gamma
        Weight of `regularisation`, which closes what is of no use; without it, 0, a frequency at which there
        is neither signal nor noise stays as open as it was at the start.
    seed
        Of the start of the probe. The filter starts half open at every frequency.

    Raises
    ------
    ParameterError
        If a number is out of range.

    Notes ----- Each record goes through the orthonormal DCT-II of its own length, is multiplied by the gains
    at the frequencies of its indices, and comes back. In a record of N tokens index j is the frequency ``j /
    (2 N)``: gains are interpolated linearly there for ``N >= K``, and averaged over a triangle as wide as the
    record can resolve for ``N < K``. The filter has zero phase and looks ahead: it describes, it is not for
    interventions. The linear map and the filter commute, so that only ``n_outputs`` series are filtered.

    References
    ----------
    Müller-Eberstein, van der Goot, Plank (2022), "Spectral probing", arXiv 2210.11860.
    """

    def __init__(
        self, in_features: int, n_outputs: int, *, n_indices: int = 128, gamma: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        require("SpectralFilter", "in_features", in_features)
        require("SpectralFilter", "n_outputs", n_outputs)
        require("SpectralFilter", "n_indices", n_indices, 2)
        require("SpectralFilter", "gamma", gamma, 0)
        self.in_features, self.n_outputs, self.n_indices = in_features, n_outputs, n_indices
        self.gamma, self.seed = gamma, seed
        generator, bound = seeded(seed), 1 / math.sqrt(in_features)
        self.gain_logit = nn.Parameter(torch.zeros(n_indices))
        self.weight = drawn((n_outputs, in_features), bound, generator)
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    @property
    def gains(self) -> Tensor:
        """What the filter lets through, ``[index]`` in [0, 1]."""
        return torch.sigmoid(self.gain_logit)

    @property
    def frequencies(self) -> Tensor:
        """Frequencies of the gains in cycles per token, ``[index]``: 0 to just below 0.5."""
        like = self.gain_logit
        return torch.arange(self.n_indices, device=like.device, dtype=like.dtype) / (2 * self.n_indices)

    @property
    def periods(self) -> Tensor:
        """Periods of the gains in tokens, ``[index]``; infinite for the first, the mean of a record."""
        return 1 / self.frequencies

    def gains_at(self, n_tokens: int) -> Tensor:
        """Return the gains that records of a length see, at the frequencies ``index / (2 n_tokens)``."""
        gains = self.gains
        wanted = torch.arange(n_tokens, device=gains.device, dtype=gains.dtype) / (2 * n_tokens)
        known = self.frequencies
        width = 1 / (2 * min(n_tokens, self.n_indices))
        nearness = (1 - (wanted[:, None] - known[None, :]).abs() / width).clamp_min(0)
        return (nearness / nearness.sum(1, keepdim=True)) @ gains

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits ``[batch, token, n_outputs]``, zero beyond a record.

        Parameters
        ----------
        x
            Features ``[batch, token, in_features]``.
        lengths
            Real tokens of each record, integers ``[batch]``; what lies beyond is not looked at. All of them
            if not said.
        """
        real = real_tokens(x, lengths)
        series = functional.linear(torch.where(real, x, 0.0), self.weight)
        logits = self.filtered(series, lengths) + self.bias
        return torch.where(real, logits, 0.0)

    def filtered(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return series ``[batch, token, feature]`` behind the filter, zero beyond a record; as `forward`."""
        real_tokens(x, lengths)
        if lengths is None:
            return self._filtered(x)
        out = torch.zeros_like(x)
        for n in torch.unique(lengths).tolist():
            of_this_length = lengths.to(x.device) == n
            out[of_this_length, :n] = self._filtered(x[of_this_length, :n])
        return out

    def regularisation(self) -> Tensor:
        """Return the penalty to add to a loss: ``gamma`` times the mean gain."""
        return self.gamma * self.gains.mean()

    def _filtered(self, x: Tensor) -> Tensor:
        basis = cosine_basis(x.shape[1]).to(x)
        return basis.T @ (self.gains_at(x.shape[1])[:, None].to(x.dtype) * (basis @ x))


def cosine_basis(n: int) -> Tensor:
    """Return the orthonormal DCT-II of n tokens as a matrix ``[index, token]``, in float64."""
    index = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * index[:, None] * (index[None, :] + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
