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


def mean_phasor(units: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Return the weighted mean of unit phasors along ``dim``; zero where the weights add up to zero.

    Over a head axis, weights all alike, it is the mean field ``r exp(i psi)`` of Kuramoto: its modulus the
    order parameter, its angle the phase of the layer.

    Parameters
    ----------
    units
        Complex.
    dim
        What the mean is over.
    weights
        Real, at least 0, broadcast to ``units``: booleans leave phasors out. All 1 if not said.
    """
    if weights is None:
        return units.mean(dim)
    weights = weights.to(units.real.dtype).expand_as(units)
    total = weights.sum(dim)
    return (units * weights).sum(dim) / torch.where(total > 0, total, 1.0)


def circular_mean(units: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Return the direction of the weighted mean of unit phasors, in radians in (-pi, pi].

    Not-a-number where they cancel. Parameters as of `mean_phasor`.
    """
    mean = mean_phasor(units, dim, weights)
    return torch.where(mean.abs() > SMALLEST_RESULTANT, mean.angle(), torch.nan)


def circular_dispersion(units: Tensor, dim: int) -> Tensor:
    """Return the circular dispersion ``(1 - R2) / (2 R^2)`` (Fisher 1993, eq. 2.28); 0 if all agree.

    R2 is the resultant length of the doubled angles about the mean direction,
    ``Re(mean(u^2) conj(mean u)^2) / R^2``. For large n the mean direction has the standard error
    ``sqrt(dispersion / n)`` radians; for a von Mises distribution it is ``1 / (kappa A(kappa))``.
    Not-a-number where directions cancel.
    """
    first, second = units.mean(dim), units.square().mean(dim)
    length = first.abs()
    about = (second * first.conj().square()).real / length.square()
    found = (1 - about).clamp_min(0) / (2 * length.square())
    return torch.where(length > SMALLEST_RESULTANT, found, torch.nan)


def rayleigh_p(resultant: Tensor, n: int) -> Tensor:
    """Return p of the Rayleigh test: how often n independent uniform directions have so large an R.

    ``exp(sqrt(1 + 4 n + 4 (n^2 - (n R)^2)) - (1 + 2 n))`` (Zar 2010, eq. 27.4), at most 1: within .001 of
    the truth from n = 10 on. It sees one preferred direction; two that are opposite cancel. Directions
    must be independent: the phases of neighbouring tokens of a narrow band are not.
    """
    square = (n * resultant.clamp(0.0, 1.0)) ** 2
    return torch.exp(torch.sqrt(1 + 4 * n + 4 * (n**2 - square)) - (1 + 2 * n)).clamp(max=1.0)


def order_parameter(units: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Return Kuramoto's order parameter r in [0, 1]: the modulus of `mean_phasor`, along a head axis.

    Of H independent heads r^2 is 1/H on average, and r `expected_resultant` (H).
    """
    return mean_phasor(units, dim, weights).abs()


def metastability(order: Tensor, dim: int, there: Tensor | None = None) -> Tensor:
    """Return the standard deviation of the order parameter along an ordered axis (Shanahan 2010).

    Parameters
    ----------
    order
        Order parameters.
    dim
        The axis of tokens.
    there
        Booleans, broadcast to ``order``: which tokens count. All of them if not said.

    Notes
    -----
    The population's: divided by n. Of H independent heads it is ``sqrt(1/H - E(R)^2)`` in a long record, and
    less in one that holds few independent values. Not-a-number where no token counts.
    """
    counts = torch.ones_like(order) if there is None else there.to(order.dtype).expand_as(order)
    n = counts.sum(dim, keepdim=True)
    mean = (order * counts).sum(dim, keepdim=True) / n
    return (((order - mean).square() * counts).sum(dim, keepdim=True) / n).sqrt().squeeze(dim)


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
