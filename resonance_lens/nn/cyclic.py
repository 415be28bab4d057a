"""A learned filter along a cyclic axis: a gain for each number of cycles, and a linear probe behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.nn.cards import CardModule, drawn, require, seeded


class CyclicFilter(CardModule):
    """A filter over an axis whose end is its beginning, learned with the linear probe behind it.

    `SpectralFilter` is for records along tokens, which begin and end. Where the value after the last is the
    first (numbers modulo ``period``, hours of a day), waves go round: they have a whole number of cycles and
    any phase, and the discrete Fourier transform is the one that has a single line for each.

    Parameters
    ----------
    in_features, n_outputs
        Features of each value, and logits that are wanted.
    period
        Values of the axis, at least 2: the length of every record.
    gamma
        How strong the penalty on the mean gain is, at least 0: see `regularisation`.
    seed
        Of the start of the linear probe. Gains start at 0.5.

    Attributes
    ----------
    gain_logit
        ``[cycles]``: the gains before the sigmoid, at 0 to ``period // 2`` cycles.
    weight, bias
        ``[n_outputs, in_features]`` and ``[n_outputs]``.

    Raises
    ------
    ParameterError
        If a number is out of range.

    Notes
    -----
    The linear map and the filter commute, so that only ``n_outputs`` series are filtered. A filter has zero
    phase. Gains can be made up for by weights, so that it is their proportions that say something.
    """

    def __init__(
        self, in_features: int, n_outputs: int, period: int, *, gamma: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        require("CyclicFilter", "in_features", in_features)
        require("CyclicFilter", "n_outputs", n_outputs)
        require("CyclicFilter", "period", period, 2)
        require("CyclicFilter", "gamma", gamma, 0)
        self.in_features, self.n_outputs, self.period = in_features, n_outputs, period
        self.gamma, self.seed = gamma, seed
        self.gain_logit = nn.Parameter(torch.zeros(period // 2 + 1))
        self.weight = drawn((n_outputs, in_features), 1 / math.sqrt(in_features), seeded(seed))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    @property
    def gains(self) -> Tensor:
        """What the filter lets through, ``[cycles]`` in [0, 1], from no cycle (the mean) on."""
        return torch.sigmoid(self.gain_logit)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, value, n_outputs]`` of features ``[batch, value, in_features]``.

        Raises
        ------
        ParameterError
            If there are no three axes, or not ``period`` values.
        """
        return self.filtered(functional.linear(x, self.weight)) + self.bias

    def filtered(self, x: Tensor) -> Tensor:
        """Return series ``[batch, value, feature]`` behind the filter; raises as `forward`."""
        if x.ndim != 3 or x.shape[1] != self.period:
            wanted = f"[batch, value, feature] with {self.period} values"
            raise ParameterError(wrong_parameter("CyclicFilter", "x", wanted, tuple(x.shape)))
        kept = self.gains[:, None].to(x.dtype) * torch.fft.rfft(x, dim=1)
        back: Tensor = torch.fft.irfft(kept, n=self.period, dim=1)
        return back

    def regularisation(self) -> Tensor:
        """Return the penalty to add to a loss: ``gamma`` times the mean gain."""
        return self.gamma * self.gains.mean()
