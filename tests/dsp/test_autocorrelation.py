"""Autocorrelation against sums of products and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from resonance_lens.dsp.autocorrelation import autocorrelation, autocorrelation_time, integrated_time
from resonance_lens.errors import ParameterError, RecordError


def noise(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape) + 3.0 + 0.02 * np.arange(shape[-1])


def ar1(seed: int, rho: float, *shape: int) -> NDArray[np.float64]:
    drawn = np.random.default_rng(seed).standard_normal(shape)
    drawn[..., 0] /= np.sqrt(1 - rho**2)
    return np.asarray(scipy_signal.lfilter([1.0], [1.0, -rho], drawn))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 99), unbiased=st.booleans())
def test_autocorrelation_is_the_sum_of_products(n: int, seed: int, unbiased: bool) -> None:
    x = noise(seed, 2, n)
    centred = x - x.mean(-1, keepdims=True)
    full = np.stack([np.correlate(row, row, "full")[n - 1 :] for row in centred])
    expected = full / (n - np.arange(n) if unbiased else n)
    found = autocorrelation(torch.from_numpy(x), -1, normalise=False, unbiased=unbiased)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    shares = autocorrelation(torch.from_numpy(x), -1, n_lags=1, unbiased=unbiased)
    np.testing.assert_allclose(shares, expected[:, :2] / expected[:, :1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("rule", ["positive", "sokal"])
def test_time_of_an_autoregression(rho: float, rule: Any) -> None:
    x = torch.from_numpy(ar1(14, rho, 8, 40_000))
    expected = (1 + rho) / (1 - rho)
    found = float(autocorrelation_time(x, -1, rule=rule, n_lags=400).mean())
    assert found == pytest.approx(expected, rel=0.08)
    exact = rho ** torch.arange(400, dtype=torch.float64)
    cut = float(integrated_time(exact, rule=rule))
    # Sokal's window ends the sum where r has fallen to about exp(-5) of the time; Geyer's does not end it.
    assert cut == pytest.approx(expected, rel=1e-9 if rule == "positive" else 0.08)


def test_rules_end_the_sum_where_they_say() -> None:
    r = torch.tensor([1.0, 0.5, 0.2, 0.1, -0.3, 0.1, 0.9, 0.9])
    assert float(integrated_time(r)) == pytest.approx(1 + 2 * 0.8)
    odd = torch.tensor([1.0, 0.5, 0.2])
    assert float(integrated_time(odd)) == pytest.approx(1 + 2 * 0.7)
    assert float(integrated_time(torch.tensor([1.0, -0.2]))) == pytest.approx(0.6)
    flat = torch.tensor([1.0] + [0.1] * 19)
    # 1 + 0.2 lag is a fifth of the lag nowhere, so all lags count; of half as much at lag 10.
    assert float(integrated_time(flat, rule="sokal")) == pytest.approx(1 + 0.2 * 19)
    small = torch.tensor([1.0] + [0.05] * 19)
    assert float(integrated_time(small, rule="sokal")) == pytest.approx(1 + 0.1 * 10)
    falling = torch.tensor([1.0, -0.5, 0.25, -0.125, 0.0625, -0.03125, 0.5])
    assert float(integrated_time(falling, rule="sokal")) == pytest.approx(1 + 2 * float(falling[1:6].sum()))
    with pytest.raises(ParameterError, match="'rule' parameter"):
        integrated_time(r, rule="other")  # type: ignore[arg-type]


def test_autocorrelation_refuses_and_masks() -> None:
    with pytest.raises(RecordError, match="one is constant"):
        autocorrelation(torch.full((2, 9), 0.1), -1)
    with pytest.raises(RecordError, match="at least 6 positions"):
        autocorrelation(torch.ones(2, 5), -1, n_lags=5)
    with pytest.raises(ParameterError, match="'n_lags'"):
        autocorrelation(torch.ones(2, 5), -1, n_lags=-1)
    x = torch.from_numpy(noise(15, 3, 30))
    lengths = torch.tensor([30, 11, 20])
    found = autocorrelation(x, -1, n_lags=6, lengths=lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(found[row], autocorrelation(x[row, :length], 0, n_lags=6))
