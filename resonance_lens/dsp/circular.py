"""Statistics of directions: phasors, resultants and what chance makes of them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy import integrate, special
from torch import Tensor

SMALLEST_RESULTANT = 1e-5
"""A resultant below this is rounding error of single precision, and has no direction."""


def unit_phasors(phasors: Tensor, smallest: float = SMALLEST_RESULTANT) -> Tensor:
    """Return phasors of modulus one with the directions of ``phasors``; zero where there is none.

    A mean of directions that cancel (uniform attention) leaves a rounding error, which has the same
    direction in every head: below ``smallest`` there is none. Not-a-number stays what it is.
    """
    size = phasors.abs()
    return torch.where(size <= smallest, 0.0, phasors / size.clamp_min(smallest))


def resultant_length(units: Tensor, dim: int) -> Tensor:
    """Return the modulus of the mean of unit phasors along ``dim``: 1 if they agree, in [0, 1].

    Also the Kuramoto order parameter. For n independent uniform directions its mean is
    `expected_resultant` (n), about ``sqrt(pi / (4 n))``, not zero.
    """
    return units.mean(dim).abs()


def pairwise_phase_consistency(resultant: Tensor, n: int) -> Tensor:
    """Return the mean cosine between all pairs of n directions, from their resultant length.

    ``(n R^2 - 1) / (n - 1)`` (Vinck et al. 2010): zero on average for independent uniform directions
    whatever n is, 1 if all agree, at least ``-1 / (n - 1)``.
    """
    return (n * resultant**2 - 1) / (n - 1)


def circular_deviation(resultant: Tensor) -> Tensor:
    """Return the circular standard deviation ``sqrt(-2 ln R)`` in radians; 0 if all directions agree."""
    return torch.sqrt(-2 * torch.log(resultant.clamp(1e-12, 1.0)))


@functools.lru_cache(maxsize=256)
def expected_resultant(n: int, circle: str = "full") -> float:
    """Return the mean resultant length of n independent directions, uniform on the circle.

    On the half circle, ``[0, pi)``, it goes to 2/pi and not to zero; there it is the expansion in 1/n up
    to the second order, within .006 of the truth at n = 3 and .001 at n = 9. On the whole circle, exactly,
    ``E abs(S) = integral over t > 0 of (1 - J0(t)^n) / t^2`` for the sum S of n unit vectors in the plane
    (their characteristic function is ``J0(t)^n``), divided by n.
    """
    if n == 1:
        return 1.0
    if circle == "half":
        return float(8 / np.pi**2 if n == 2 else 2 / np.pi + np.pi / (8 * n) - 0.1407 / n**2)
    if n > 200:
        # The next term of the expansion around the Rayleigh mean is below 1e-7 from here on.
        return float(np.sqrt(np.pi / (4 * n)) * (1 + 1 / (16 * n)))
    upper = 200.0
    body, _ = integrate.quad(lambda t: (1 - special.j0(t) ** n) / t**2, 0, upper, limit=2000, epsabs=1e-10)
    # J0(t)^n decays like t^(-n/2), so that beyond the upper end the integrand is 1/t^2.
    tail = 1 / upper
    return float((body + tail) / n)
