"""Spectra of vectors against the estimators for single records, scipy, and simulated noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft
from scipy import signal as scipy_signal

from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.dsp.vector_spectra import (
    VectorSeries,
    band_indices,
    band_power,
    correlations,
    expected_power,
    mean_power,
    spread_hop,
)
from resonance_lens.errors import ParameterError, RecordError


def vectors(seed: int, n: int, features: int = 7) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(3, 1, (n, features)) * np.arange(1, features + 1))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(16, 140), segment=st.sampled_from([4, 8, 10, 16]), seed=st.integers(0, 99))
def test_mean_power_is_the_mean_of_welch_spectra(n: int, segment: int, seed: int) -> None:
    x = vectors(seed, n)
    series = VectorSeries.of([x])
    hop = spread_hop(n, segment)
    each = scipy_signal.welch(x.numpy(), nperseg=segment, noverlap=max(segment - hop, 0), axis=0)[1]
    found = mean_power(series.values, segment, series.weights)[0]
    np.testing.assert_allclose(found[0], each.mean(1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], (each / x.numpy().var(0)).mean(1), rtol=1e-10, atol=1e-12)
    assert 1 + (n - segment) // hop >= -(-n // segment)
    assert segment + hop * ((n - segment) // hop) > n - segment  # little is left over


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 700), seed=st.integers(0, 99))
def test_bands_are_those_of_the_cosine_transform(n: int, seed: int) -> None:
    x = vectors(seed, n)
    series = VectorSeries.of([x])
    power = fft.dct((x - x.mean(0)).numpy(), type=2, norm="ortho", axis=0) ** 2 / n
    found = band_power(series)[0]
    indices = band_indices(n)
    for band, part, count in zip(PRISM_BANDS, found.T, indices, strict=True):
        first, stop = (max(edge, 1) for edge in band.indices(n))
        assert count == max(stop - first, 0)
        np.testing.assert_allclose(
            part, series.weights[0].numpy() @ power[first:stop].sum(0), rtol=1e-8, atol=1e-10
        )
    assert sum(indices) == n - 1
    np.testing.assert_allclose(found[1].sum(), 1.0, rtol=1e-10)


def test_shares_of_bands_under_permutations_are_those_of_indices() -> None:
    x = vectors(0, 40)
    x[:, 0] = torch.arange(40) ** 2
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(3000):
        shuffled = x[torch.from_numpy(rng.permutation(40))]
        drawn.append(band_power(VectorSeries.of([shuffled]))[0, 1].numpy())
    error = np.std(drawn, axis=0) / np.sqrt(3000)
    assert (np.abs(np.mean(drawn, axis=0) - np.array(band_indices(40)) / 39) < 4 * error + 1e-12).all()


def test_features_that_do_not_vary_have_no_weight() -> None:
    x = vectors(2, 50).float()
    x[:, 3] = 1e3 / 3
    weights = VectorSeries.of([x]).weights[0].T
    assert weights[3].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(
        weights[:, 1] * x.var(0, correction=0), np.where(np.arange(7) == 3, 0, 1 / 6), rtol=1e-5
    )
    silent = torch.full((50, 3), 0.1)
    series = VectorSeries.of([silent])
    power = mean_power(series.values, 16, series.weights)
    assert float(power.abs().max()) == 0


def test_single_precision_is_close_to_double() -> None:
    x = vectors(3, 300, 40) + 100.0
    both = [VectorSeries.of([v]) for v in (x, x.float())]
    double, single = (mean_power(v.values, 64, v.weights) for v in both)
    assert float((double - single).abs().max()) < 1e-5 * float(double.max())
    for v in (0, 1):
        one, other = (band_power(series)[0, v] for series in both)
        assert float((one - other).abs().max()) < 1e-5 * float(one.max())


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_expected_power_is_that_of_simulated_noise(rho: float) -> None:
    drawn = np.random.default_rng(4).standard_normal((32 + 300, 20_000))
    x = scipy_signal.lfilter([1.0], [1.0, -rho], drawn, axis=0)[300:]
    _, power = scipy_signal.welch(x, nperseg=32, axis=0)
    covariances = rho ** torch.arange(32, dtype=torch.float64) / (1 - rho**2)
    found = expected_power(covariances, 32)
    np.testing.assert_allclose(found, power.mean(1), rtol=0.05)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.8])
def test_correlations_come_back_from_a_spectrum(rho: float) -> None:
    covariances = rho ** torch.arange(128, dtype=torch.float64)
    found = correlations(expected_power(covariances, 128), 128)
    lost = (1 + rho) / (1 - rho) / 128  # what the mean of a segment takes out
    np.testing.assert_allclose(found, covariances[:33], atol=3 * lost + 0.003)


def test_sites_are_measured_side_by_side() -> None:
    sites = [vectors(seed, 60) for seed in (6, 7)]
    before = [x.clone() for x in sites]
    together = VectorSeries.of(sites)
    for at, x in enumerate(sites):
        alone = VectorSeries.of([x])
        for name in ("values", "weights", "variance", "dc"):
            torch.testing.assert_close(getattr(together, name)[at], getattr(alone, name)[0])
        for one, other in ((band_power(together)[at], band_power(alone)[0]),
                           (mean_power(together.values, 16, together.weights)[at],
                            mean_power(alone.values, 16, alone.weights)[0])):  # fmt: skip
            torch.testing.assert_close(one, other)
        assert torch.equal(x, before[at])
    # One feature stands in memory as its series does, and is left as it is all the same.
    single = vectors(8, 30, 1)
    mean = float(single.mean())
    VectorSeries.of([single])
    assert float(single.mean()) == mean != 0


def test_refusals() -> None:
    series = VectorSeries.of([vectors(5, 12)])
    with pytest.raises(RecordError, match="as many positions; there are 12"):
        mean_power(series.values, 16, series.weights)
    with pytest.raises(ParameterError, match="must be even; got 7"):
        mean_power(series.values, 7, series.weights)
