"""Coupled phases (Kuramoto 1975), simulated: what an oscillator bank is checked against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.nn.cards import require, seeded


def kuramoto_phases(
    frequencies: Tensor, coupling: float | Tensor, n_steps: int, *, step: float = 0.05,
    start: Tensor | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Return phases of coupled oscillators over time.

    Parameters
    ----------
    frequencies
        Natural frequencies ``[oscillator]``, in cycles per unit of time.
    coupling
        One number K, each oscillator pulled by ``K / n sum_j sin(theta_j - theta_i)``; or a matrix
        ``[oscillator, oscillator]`` with ``K_ij`` what i receives from j, not divided by n. In radians per
        unit of time.
    n_steps
        Steps of the fourth-order Runge-Kutta rule.
    step
        Length of a step in units of time.
    start
        Phases at the start in radians, ``[oscillator]``; even over the circle, drawn from ``seed``, if not
        said.
    seed
        Of the start.

    Returns
    -------
    Tensor
        ``[time, oscillator]``, ``n_steps + 1`` times, in radians, not wrapped; of the type of
        ``frequencies``.

    Raises
    ------
    ParameterError
        If shapes do not go together or a number is out of range.

    Notes
    -----
    ``d theta_i / dt = 2 pi f_i + sum_j K_ij sin(theta_j - theta_i)``. With one K, phases agree above
    ``K_c = 2 / (pi g(0))`` for a symmetric density g of angular frequencies; for a Lorentzian of half width D
    (at half of its height) ``K_c = 2 D``, and the order parameter is ``sqrt(1 - K_c / K)``.
    """
    require("kuramoto_phases", "n_steps", n_steps)
    if not step > 0:
        raise ParameterError(wrong_parameter("kuramoto_phases", "step", "above 0", step))
    n = len(frequencies)
    if frequencies.ndim != 1 or (isinstance(coupling, Tensor) and coupling.shape != (n, n)):
        raise ParameterError(
            "Kuramoto needs frequencies [oscillator] and one coupling or a matrix [oscillator, oscillator]."
        )
    if start is None:
        start = 2 * math.pi * torch.rand(n, generator=seeded(seed), dtype=frequencies.dtype)
    angular = 2 * math.pi * frequencies

    def velocity(phases: Tensor) -> Tensor:
        units = torch.polar(torch.ones_like(phases), phases)
        if isinstance(coupling, Tensor):
            field = coupling.to(units.dtype) @ units
        else:
            field = coupling * units.mean()
        return angular + pull(units, field)

    path = [start.to(frequencies)]
    for _ in range(n_steps):
        here = path[-1]
        first = velocity(here)
        second = velocity(here + step / 2 * first)
        third = velocity(here + step / 2 * second)
        fourth = velocity(here + step * third)
        path.append(here + step / 6 * (first + 2 * second + 2 * third + fourth))
    return torch.stack(path)


def pull(units: Tensor, field: Tensor) -> Tensor:
    """Return how fast a field turns phases, ``Im(conj(u) F)``: ``abs(F) sin(arg F - theta)``, in radians."""
    return (units.conj() * field).imag
