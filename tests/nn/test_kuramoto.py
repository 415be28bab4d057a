"""Coupled phases: Lorentzian frequencies have a closed form; two oscillators have another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.nn import kuramoto_phases

HALF_WIDTH = 0.5  # radians per unit of time, at half of the height
CRITICAL = 2 * HALF_WIDTH
N = 2000


def lorentzian_quantiles(n: int) -> Tensor:
    """Return frequencies in cycles per unit of time: the quantiles of a Lorentzian, no draw."""
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return HALF_WIDTH * torch.tan(math.pi * (share - 0.5)) / (2 * math.pi)


def order_parameter(coupling: float) -> float:
    phases = kuramoto_phases(lorentzian_quantiles(N), coupling, 700, step=0.1, seed=1)
    units = torch.polar(torch.ones_like(phases), phases)
    return float(units[350:].mean(1).abs().mean())


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0])
def test_order_above_the_critical_coupling(ratio: float) -> None:
    assert order_parameter(ratio * CRITICAL) == pytest.approx(math.sqrt(1 - 1 / ratio), abs=0.02)


def test_no_order_below_the_critical_coupling() -> None:
    assert order_parameter(0.5 * CRITICAL) < 0.08  # of independent phases: sqrt(pi / 4 N) = 0.02


def test_two_oscillators() -> None:
    """The difference of two phases obeys d phi / dt = D - K sin(phi): it locks at asin(D / K)."""
    difference, coupling = 0.3, 0.5
    frequencies = torch.tensor([0.1, 0.1 + difference / (2 * math.pi)], dtype=torch.float64)
    phases = kuramoto_phases(frequencies, coupling, 2000, start=torch.zeros(2))
    last = phases[-1, 1] - phases[-1, 0]
    assert float(last) == pytest.approx(math.asin(difference / coupling), abs=1e-9)
    together = (phases[-1] - phases[-101]) / (2 * math.pi * 5)  # cycles per unit of time over 100 steps
    torch.testing.assert_close(together, frequencies.mean().expand(2))


def test_matrix_of_couplings_against_scipy() -> None:
    from scipy.integrate import solve_ivp

    rng = np.random.default_rng(0)
    frequencies, coupling, start = rng.normal(size=6) / 10, rng.normal(size=(6, 6)), rng.uniform(0, 6, 6)

    def velocity(_: float, phases: np.ndarray) -> np.ndarray:
        pulls = coupling * np.sin(phases[None, :] - phases[:, None])
        return np.asarray(2 * math.pi * frequencies + pulls.sum(1))

    wanted = solve_ivp(velocity, (0, 3), start, rtol=1e-10, atol=1e-10).y[:, -1]
    got = kuramoto_phases(
        torch.from_numpy(frequencies),
        torch.from_numpy(coupling),
        300,
        step=0.01,
        start=torch.from_numpy(start),
    )
    np.testing.assert_allclose(got[-1], wanted, atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(ParameterError, match="'step' parameter of kuramoto_phases must be above 0"):
        kuramoto_phases(torch.zeros(3), 1.0, 5, step=0.0)
    with pytest.raises(ParameterError, match="a matrix"):
        kuramoto_phases(torch.zeros(3), torch.zeros(2, 2), 5)
