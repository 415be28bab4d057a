"""Analytic signals, against scipy, against waves that were made, and against closed forms."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from resonance_lens.dsp.hilbert import (
    analytic_signal,
    group_delay,
    instantaneous_amplitude,
    instantaneous_frequency,
    instantaneous_phase,
    kernel_group_delay,
)
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal

BAND = (0.1, 0.2)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def heads(lengths: list[int], seed: int = 0) -> Signal:
    values = noise(len(lengths), max(lengths), 3, seed=seed)
    return Signal(values, ("batch", "token", "head"), lengths=torch.tensor(lengths))


@given(st.integers(1, 90), st.integers(0, 1000))
def test_without_a_band_it_is_that_of_scipy(n: int, seed: int) -> None:
    x = noise(2, n, seed=seed)
    found = analytic_signal(x, -1)
    np.testing.assert_allclose(found, scipy_signal.hilbert(x.numpy(), axis=-1), atol=1e-13)
    torch.testing.assert_close(found.real, x, atol=1e-13, rtol=0)


@pytest.mark.parametrize("band", [None, BAND])
def test_a_masked_batch_is_its_single_records(band: tuple[float, float] | None) -> None:
    lengths = [40, 57, 33, 40]
    x = heads(lengths)
    found = analytic_signal(x, "token", band=band)
    assert found.axes == x.axes
    for row, length in enumerate(lengths):
        alone = analytic_signal(x.values[row, :length], 0, band=band)
        torch.testing.assert_close(found.values[row, :length], alone, atol=1e-12, rtol=0)
        assert not found.values[row, length:].any()
        if band is None:
            by_scipy = scipy_signal.hilbert(x.values[row, :length].numpy(), axis=0)
            np.testing.assert_allclose(alone, by_scipy, atol=1e-13)


def test_a_wave_in_the_band_comes_back_and_others_do_not() -> None:
    n = 200
    t = np.arange(n)
    inside = 3 * np.cos(2 * np.pi * 0.15 * t + 0.7)
    outside = 5 + 4 * np.cos(2 * np.pi * 0.05 * t) + 2 * np.cos(2 * np.pi * 0.4 * t)
    x = torch.from_numpy(inside + outside)
    amplitude = instantaneous_amplitude(x, 0, band=BAND)
    phase = instantaneous_phase(x, 0, band=BAND)
    frequency = instantaneous_frequency(x, 0, band=BAND)
    np.testing.assert_allclose(amplitude, 3, atol=1e-12)  # whole periods
    np.testing.assert_allclose(
        np.exp(1j * phase.numpy()), np.exp(1j * (2 * np.pi * 0.15 * t + 0.7)), atol=1e-12
    )
    np.testing.assert_allclose(frequency, 0.15, atol=1e-12)


def test_the_slopes_of_the_band_are_as_stated() -> None:
    """1 inside; a squared cosine over a quarter of the width beside it; nothing beyond."""
    n = 400
    t = np.arange(n)
    for frequency, gain in ((0.1, 1), (0.2, 1), (0.0875, 0.5), (0.2125, 0.5), (0.075, 0), (0.225, 0)):
        wave = torch.from_numpy(np.cos(2 * np.pi * frequency * t))
        found = instantaneous_amplitude(wave, 0, band=BAND)
        np.testing.assert_allclose(found, gain, atol=1e-9)


def test_an_amplitude_that_changes_slowly_is_followed() -> None:
    n = 512
    t = np.arange(n)
    envelope = 1 + 0.5 * np.cos(2 * np.pi * t / 128)
    x = torch.from_numpy(envelope * np.cos(2 * np.pi * 0.15625 * t))
    np.testing.assert_allclose(instantaneous_amplitude(x, 0, band=BAND), envelope, atol=1e-9)


def test_the_last_frequency_is_that_before_and_the_others_are_differences() -> None:
    x = noise(4, 60)
    phase = np.unwrap(np.angle(scipy_signal.hilbert(x.numpy())))
    found = instantaneous_frequency(x, 1)
    np.testing.assert_allclose(found[:, :-1], np.diff(phase) / (2 * np.pi), atol=1e-12)
    torch.testing.assert_close(found[:, -1], found[:, -2])


def test_single_precision_is_near_double() -> None:
    x = noise(5, 300)
    double, single = (analytic_signal(values, 1, band=BAND) for values in (x, x.float()))
    assert single.dtype == torch.complex64
    assert float((double - single).abs().max() / double.abs().max()) < 1e-5


def test_it_can_be_differentiated() -> None:
    x = noise(2, 31).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: analytic_signal(v, 1, band=(0.1, 0.3)).abs(), (x,))


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: analytic_signal(heads([40]), "head"), AxisError, "There is no analytic signal over 'head'"),
        (lambda: analytic_signal(noise(2, 9), 1, band=BAND), RecordError,
         "A band from 0.1 to 0.2 cycles per token needs records of at least 20 positions; the shortest, of 9,"
         " has a resolution of 0.111 and holds 1.4 cycles of the band's centre."),
        (lambda: analytic_signal(noise(2, 40), 1, band=(0.2, 0.21)), RecordError, "at least 100 positions"),
        (lambda: analytic_signal(noise(2, 40), 1, band=(0.2, 0.1)), ParameterError, "0 < low < high < 0.5"),
        (lambda: analytic_signal(noise(2, 40), 1, band=(0.0, 0.1)), ParameterError, "0 < low < high < 0.5"),
        (lambda: analytic_signal(noise(2, 40) * math.nan, 1), ActivationError, "needs finite numbers"),
        (lambda: analytic_signal(noise(2, 40).to(torch.complex64), 1), RecordError, "needs real numbers"),
        (lambda: instantaneous_frequency(noise(2, 1), 1), RecordError, "at least 2 positions"),
        (lambda: group_delay(noise(3), 0.1), RecordError, "needs complex numbers at two frequencies"),
        (lambda: group_delay(noise(3).to(torch.complex64), 0.7), ParameterError, "above 0 and below 0.5"),
    ],
)  # fmt: skip
def test_refusals(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=re.escape(sentence)):
        call()


def test_a_constant_has_no_amplitude_in_any_band() -> None:
    found = instantaneous_amplitude(torch.full((2, 50), 7.0, dtype=torch.float64), 1, band=BAND)
    assert float(found.max()) < 1e-12


@given(st.integers(0, 20), st.floats(0.05, 0.45))
def test_the_group_delay_of_a_pure_delay_is_the_delay(m: int, frequency: float) -> None:
    kernel = torch.zeros(24, dtype=torch.float64)
    kernel[m] = 2.0
    at = torch.tensor([frequency], dtype=torch.float64)
    assert float(kernel_group_delay(kernel, at)[0]) == pytest.approx(m, abs=1e-9)
    grid = np.arange(0, 0.5, 0.02)
    transfer = torch.from_numpy(np.exp(-2j * np.pi * grid * m))
    np.testing.assert_allclose(group_delay(transfer, 0.02), m, atol=1e-9)


def test_the_group_delay_of_a_kernel_is_that_of_scipy() -> None:
    kernel = np.abs(np.random.default_rng(3).normal(size=12)) + 0.1
    grid = np.linspace(0.01, 0.45, 40)
    _, delay = scipy_signal.group_delay((kernel, 1.0), w=2 * np.pi * grid)
    found = kernel_group_delay(torch.from_numpy(kernel), torch.from_numpy(grid))
    np.testing.assert_allclose(found, delay, atol=1e-9)


def test_where_nothing_passes_there_is_no_delay() -> None:
    two = torch.tensor([1.0, 1.0], dtype=torch.float64)  # nothing passes at 0.5
    found = kernel_group_delay(two, torch.tensor([0.25, 0.5]))
    assert float(found[0]) == pytest.approx(0.5) and bool(found[1].isnan())
    assert bool(group_delay(torch.tensor([1.0 + 0j, 0.0, 1.0]), 0.1).isnan().all())
