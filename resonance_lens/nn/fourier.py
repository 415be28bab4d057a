"""A head for ordered targets: a density as a Fourier series, read at the centres of bins."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.nn.cards import CardModule, drawn, require, seeded

LOG_OFFSET = 1e-5
"""Added to the probability of a bin before its logarithm: no bin has a logit below ln(1e-5)."""

PUBLISHED_DIVISOR = 100
"""What the published start divides weights and biases by."""

SMOOTHING_WIDTHS = 100
"""Standard deviations, in bins from 1 up, that `smoothness` smooths with."""

Start = Literal["uniform", "published"]


class FourierHead(CardModule):
    """Logits of ordered bins, from a density on [-1, 1] whose Fourier coefficients are a linear map.

    Takes the place of a linear head when neighbouring bins mean neighbouring things: a count, a position, the
    next value. The density is smooth by construction: it has no frequency above ``n_frequencies / 2`` per
    unit.

    Parameters
    ----------
    in_features
        Features.
    n_bins
        Bins m; their centres are ``-1 + (2 j + 1) / m``.
    n_frequencies
        N, at least 1. Parameters: ``2 (N + 1) (in_features + 1)``. The interval closes to a circle: densities
        at -1 and 1 are equal. A target that may not wrap around is better mapped to a part of the interval.
    gamma
        Weight of `regularisation`; 1e-6 in the paper's experiments with it, 0 in those without.
    start
        ``uniform``: all zero but the bias of Re a_0, which is 1: the density is 1/2 for every input, whatever
        its size. ``published``: even in ``+- 1 / sqrt(in_features)``, then divided by 100, as the authors'
        code does: since only ratios of coefficients count, far from uniform.
    seed
        Of the published start.

    Raises
    ------
    ParameterError
        If a number is out of range.

    Notes
    -----
    A linear map gives real and imaginary parts of ``a_0 .. a_N``; ``c_k = sum_l a_(l+k) conj(a_l)``; the
    density is ``p(z) = 1/2 + Re sum_(k>=1) (c_k / c_0) exp(i pi k z)``. That is
    ``abs(sum_l a_l exp(i pi l z))^2 / (2 c_0)``, which is how it is computed: nowhere negative, not even by
    rounding, and without complex numbers, so that half precision works. It integrates to 1.

    References
    ----------
    Gillman, Aggarwal, Freeman, Singh, Sun (2024), "Fourier head: helping large language models learn complex
    probability distributions", arXiv 2410.22269.
    """

    def __init__(
        self, in_features: int, n_bins: int, n_frequencies: int, *, gamma: float = 1e-6,
        start: Start = "uniform", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        require("FourierHead", "in_features", in_features)
        require("FourierHead", "n_bins", n_bins, 2)
        require("FourierHead", "n_frequencies", n_frequencies)
        require("FourierHead", "gamma", gamma, 0)
        if start not in ("uniform", "published"):
            raise ParameterError(
                wrong_parameter("FourierHead", "start", "one of 'uniform', 'published'", start)
            )
        self.in_features, self.n_bins, self.n_frequencies = in_features, n_bins, n_frequencies
        self.gamma, self.start, self.seed = gamma, start, seed
        rows = 2 * (n_frequencies + 1)  # real parts, then imaginary parts
        if start == "published":
            generator, bound = seeded(seed), 1 / math.sqrt(in_features) / PUBLISHED_DIVISOR
            self.weight = drawn((rows, in_features), bound, generator)
            self.bias = drawn((rows,), bound, generator)
        else:
            self.weight = nn.Parameter(torch.zeros(rows, in_features))
            self.bias = nn.Parameter(torch.zeros(rows))
            with torch.no_grad():
                self.bias[0] = 1.0

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary parts of ``c_0 .. c_N``, each ``[..., N + 1]``."""
        real, imaginary = self._amplitudes(x)
        # A sum of waves up to N is given by its values at any 2 N + 1 points that divide the circle evenly.
        n = 2 * self.n_frequencies + 1
        z = 2 * torch.arange(n, device=real.device, dtype=real.dtype) / n
        power = self._power(real, imaginary, z)
        cosine, sine = self._waves(z)
        return power @ cosine.T / n, -(power @ sine.T) / n

    def density(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the density at points of [-1, 1].

        Parameters
        ----------
        x
            Features ``[..., in_features]``.
        z
            Points ``[point]``, the same for all.

        Returns
        -------
        Tensor
            ``[..., point]``, at least 0; its integral over [-1, 1] is 1.
        """
        real, imaginary = self._amplitudes(x)
        total = (real.square() + imaginary.square()).sum(-1, keepdim=True)
        return self._power(real, imaginary, z) / (2 * total)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``ln(y + 1e-5)``, ``[..., n_bins]``: y is the density at the centres over its sum."""
        real, imaginary = self._amplitudes(x)
        power = self._power(real, imaginary, bin_centres(self.n_bins, real.dtype, real.device))
        return torch.log(power / power.sum(-1, keepdim=True) + LOG_OFFSET).to(x.dtype)

    def regularisation(self, x: Tensor) -> Tensor:
        """Return the penalty to add to a loss: ``gamma 2 mean sum_k 2 pi^2 k^2 abs(c_k)^2``, over inputs.

        The coefficients are not divided by c_0: it holds down the scale of the map as well.
        """
        real, imaginary = self.coefficients(x)
        k = torch.arange(self.n_frequencies + 1, device=x.device, dtype=real.dtype)
        square = real.square() + imaginary.square()
        return self.gamma * 2 * (2 * math.pi**2 * k.square() * square).sum(-1).mean()

    def _amplitudes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary parts of ``a_0 .. a_N``, in single precision at least."""
        both = functional.linear(x, self.weight, self.bias)
        if both.dtype in (torch.float16, torch.bfloat16):
            both = both.float()
        return both[..., : self.n_frequencies + 1], both[..., self.n_frequencies + 1 :]

    def _power(self, real: Tensor, imaginary: Tensor, z: Tensor) -> Tensor:
        """Return ``abs(sum_l a_l exp(i pi l z))^2`` at points ``[point]``."""
        cosine, sine = self._waves(z.to(real))
        return (real @ cosine - imaginary @ sine).square() + (real @ sine + imaginary @ cosine).square()

    def _waves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of ``pi l z``, each ``[l, point]``."""
        order = torch.arange(self.n_frequencies + 1, device=z.device, dtype=z.dtype)
        angle = math.pi * order[:, None] * z[None, :]
        return angle.cos(), angle.sin()


def bin_centres(
    n_bins: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Return the centres ``-1 + (2 j + 1) / m`` of m bins of [-1, 1]."""
    return (2 * torch.arange(n_bins, dtype=dtype, device=device) + 1) / n_bins - 1


def smoothness(y: Tensor) -> Tensor:
    """Return how far a distribution over ordered bins is from smooth; 0 for a uniform one.

    Parameters
    ----------
    y
        ``[..., bin]``, at least 2 bins.

    Returns
    -------
    Tensor
        ``[...]``: ``sum over s = 1 .. 100 of 6 / (pi s)^2 L2(y - gauss_s * y)``. The smoothing is circular,
        with a Gaussian of s bins that is cut off after ``n_bins - 1`` on either side. A measure, not a
        loss: it has no gradient at a uniform distribution.

    References
    ----------
    Gillman et al. (2024), arXiv 2410.22269.
    """
    n_bins = y.shape[-1]
    offset = torch.arange(-(n_bins - 1), n_bins, dtype=torch.float64, device=y.device)
    width = torch.arange(1, SMOOTHING_WIDTHS + 1, dtype=torch.float64, device=y.device)[:, None]
    kernels = torch.softmax(-0.5 * (offset / width) ** 2, dim=1)  # [s, offset]: normalised Gaussians
    folded = kernels[:, n_bins - 1 :].clone()  # offsets from 0 on
    folded[:, 1:] += kernels[:, : n_bins - 1]  # offset d - n_bins is d on a circle
    removed = 1 - torch.fft.fft(folded).real  # [s, frequency]: symmetric kernels have real responses
    power = torch.fft.fft(y.double()).abs().square() / n_bins
    distance = torch.sqrt(power @ removed.square().T)  # [..., s], by Parseval
    weights = 6 / (math.pi * width[:, 0]) ** 2
    return torch.mv(distance.reshape(-1, SMOOTHING_WIDTHS), weights).reshape(y.shape[:-1]).to(y.dtype)
