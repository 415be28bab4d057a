"""Closed forms of noise against simulation and algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from resonance_lens.dsp.noise import LARGEST_MEMORY, autoregressive, matched_memory, of_steps
from resonance_lens.dsp.vector_spectra import VectorSeries, correlations, expected_power, mean_power


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.7])
def test_covariances_are_those_of_simulated_noise(rho: float) -> None:
    drawn = np.random.default_rng(0).standard_normal(400_000) * np.sqrt(1 - rho**2)
    x = scipy_signal.lfilter([1.0], [1.0, -rho], drawn)[100:]
    for made, n in ((x, 6), (np.diff(x), 5)):
        found = [float(np.mean(made[: len(made) - lag] * made[lag:])) for lag in range(n)]
        covariances = autoregressive(torch.tensor(rho, dtype=torch.float64), 6)
        expected = covariances if n == 6 else of_steps(covariances)
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_steps_have_the_power_of_a_difference() -> None:
    """Where nothing leaks and no mean is taken out: the power of all lags, summed up by hand."""
    covariances = autoregressive(torch.tensor(0.6, dtype=torch.float64), 200)
    steps = of_steps(covariances)
    f = np.arange(1, 50) / 100

    def power(r: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        lags = np.arange(1, len(r))
        return np.asarray(float(r[0]) + 2 * (np.cos(2 * np.pi * f[:, None] * lags) @ r[1:].numpy()))

    np.testing.assert_allclose(power(steps), power(covariances) * 4 * np.sin(np.pi * f) ** 2, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(memory=st.floats(-0.98, 0.98), segment=st.sampled_from([16, 32, 128]))
def test_a_memory_is_found_again(memory: float, segment: int) -> None:
    power = expected_power(autoregressive(torch.tensor([memory], dtype=torch.float64), segment), segment)
    found = matched_memory(correlations(power, segment)[:, 1], segment)
    assert float(found) == pytest.approx(memory, abs=1e-4)


def test_a_memory_is_found_in_simulated_noise() -> None:
    drawn = np.random.default_rng(1).standard_normal((700, 300))
    x = torch.from_numpy(scipy_signal.lfilter([1.0], [1.0, -0.8], drawn, axis=0)[100:].copy())
    for segment in (16, 64):
        series = VectorSeries.of([x])
        power = mean_power(series.values, segment, series.weights)[0, 1]
        assert float(matched_memory(correlations(power, segment)[1], segment)) == pytest.approx(0.8, abs=0.01)


def test_limits() -> None:
    found = matched_memory(torch.tensor([1.0, -1.0, torch.nan]), 16)
    np.testing.assert_allclose(found, [LARGEST_MEMORY, -LARGEST_MEMORY, np.nan])
