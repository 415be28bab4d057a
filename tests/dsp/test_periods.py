"""What repeats with a period: against periodograms, loops over pairs of periods, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resonance_lens.dsp.periods import periodic_power
from resonance_lens.errors import RecordError


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(("period", "m"), [(2, 9), (5, 4), (8, 3), (16, 2)])
def test_lines_are_those_of_a_periodogram(period: int, m: int) -> None:
    from scipy.signal import periodogram

    x = noise(period * m, 3).cumsum(0)
    found = periodic_power(x, period, 8)
    frequencies, power = periodogram(x, window="boxcar", detrend="constant", scaling="spectrum", axis=0)
    for h in range(1, 9):
        if 2 * h > period:
            assert float(found.lines[h - 1].abs().max()) == 0
            continue
        at = h * m
        assert math.isclose(frequencies[at], h / period)
        np.testing.assert_allclose(found.lines[h - 1], power[at], rtol=1e-10)
    np.testing.assert_allclose(found.total, x.var(0, correction=0), rtol=1e-12)


@pytest.mark.parametrize(("period", "m"), [(2, 9), (5, 4), (8, 2)])
def test_what_repeats_is_the_mean_product_of_two_periods(period: int, m: int) -> None:
    x = noise(period * m, 3).cumsum(0)
    blocks = x.numpy().reshape(m, period, 3)
    blocks = blocks - blocks.mean(1, keepdims=True)
    pairs = [(blocks[i] * blocks[j]).mean(0) for i in range(m) for j in range(m) if i != j]
    np.testing.assert_allclose(periodic_power(x, period, 1).repeated, np.mean(pairs, axis=0), rtol=1e-9)


def test_all_harmonics_are_the_mean_period() -> None:
    x = noise(6 * 8, 2)
    found = periodic_power(x, 8, 4)
    wave = (x - x.mean(0)).reshape(6, 8, 2).mean(0)
    np.testing.assert_allclose(found.lines.sum(0), wave.square().mean(0), rtol=1e-12)


def test_what_is_repeated_repeats_and_noise_does_not() -> None:
    block = noise(8, 400)
    repeated = periodic_power(block.repeat(5, 1), 8, 4)
    torch.testing.assert_close(repeated.repeated, repeated.total)
    # Signal and noise of equal power: half of it repeats, whatever the number of periods.
    for m in (2, 5, 20):
        mixed = periodic_power(block.repeat(m, 1) + noise(8 * m, 400, seed=1), 8, 4)
        assert abs(float(mixed.repeated.sum() / mixed.total.sum()) - 0.5) < 0.05
        nothing = periodic_power(noise(8 * m, 400, seed=2), 8, 4)
        assert abs(float(nothing.repeated.sum() / nothing.total.sum())) < 0.05


def test_a_drift_neither_repeats_nor_counts_against_it() -> None:
    steps = torch.arange(3.0, dtype=torch.float64).repeat_interleave(8)[:, None]
    found = periodic_power(steps, 8, 4)
    assert float(found.total) > 0.6 and abs(float(found.repeated)) < 1e-12


def test_a_feature_that_stays_has_no_power() -> None:
    x = torch.full((24, 2), 0.1, dtype=torch.float64)
    x[:, 1] = noise(24)
    found = periodic_power(x, 8, 2)
    assert float(found.total[0]) == float(found.repeated[0]) == float(found.lines[:, 0].abs().max()) == 0
    assert float(found.total[1]) > 0


@pytest.mark.parametrize(("n", "period"), [(8, 8), (17, 8), (4, 1), (0, 2)])
def test_whole_periods_are_asked_for(n: int, period: int) -> None:
    with pytest.raises(RecordError, match="at least two whole periods"):
        periodic_power(noise(n, 1), period, 1)
