"""Shapes of spectra against antropy, scipy and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from resonance_lens.dsp.spectra import welch
from resonance_lens.dsp.spectral_shape import (
    bandwidth,
    centroid,
    edge,
    half_power_bandwidth,
    spectral_entropy,
    spectral_slope,
)
from resonance_lens.errors import ParameterError, RecordError

GRID = torch.arange(1, 129, dtype=torch.float64) / 256


def power_law_noise(b: float, n: int, count: int, seed: int = 0) -> torch.Tensor:
    """Return ``[record, position]``, cut from longer records so that their ends do not meet."""
    rng = np.random.default_rng(seed)
    m = 16 * n
    frequencies = np.fft.rfftfreq(m)
    size = np.zeros_like(frequencies)
    size[1:] = frequencies[1:] ** (-b / 2)
    drawn = rng.standard_normal((count, len(size))) + 1j * rng.standard_normal((count, len(size)))
    return torch.from_numpy(np.fft.irfft(size * drawn, n=m)[:, :n].copy())


@pytest.mark.parametrize("b", [0.0, 1.0, 5 / 3, 2.0])
@pytest.mark.parametrize("method", ["theil_sen", "irls", "least_squares"])
def test_slope_of_power_law_noise_comes_back(b: float, method: Any) -> None:
    spectrum = welch(power_law_noise(b, 512, 400), -1, segment=256)
    mean = spectrum.power.mean(0)
    found = spectral_slope(spectrum.frequencies, mean, low=2 * spectrum.bandwidth, high=0.4, method=method)
    assert float(found) == pytest.approx(-b, abs=0.05)


@pytest.mark.parametrize("b", [-2.0, 0.0, 5 / 3])
def test_slope_of_an_exact_power_law_is_exact(b: float) -> None:
    power = torch.stack([GRID**-b, 7 * GRID**-b])
    for method in ("theil_sen", "irls", "least_squares"):
        found = spectral_slope(GRID, power, low=0.05, high=0.3, method=method)
        np.testing.assert_allclose(found, [-b, -b], atol=1e-9)


def test_slope_is_that_of_scipy() -> None:
    drawn = torch.from_numpy(np.random.default_rng(1).exponential(size=(3, 128)))
    x = np.log(GRID.numpy())
    for row, found in zip(drawn, spectral_slope(GRID, drawn, spacing="linear"), strict=True):
        assert float(found) == pytest.approx(scipy_stats.theilslopes(np.log(row.numpy()), x).slope, abs=1e-12)
    line = spectral_slope(GRID, drawn, method="least_squares", spacing="linear")
    for row, found in zip(drawn, line, strict=True):
        assert float(found) == pytest.approx(scipy_stats.linregress(x, np.log(row.numpy())).slope, abs=1e-12)


def test_robust_slope_is_where_tukeys_weights_stay() -> None:
    """By hand, with a line and an offset fitted together by numpy."""
    rng = np.random.default_rng(2)
    x = np.log(GRID.numpy())
    y = -1.5 * x + 0.3 * rng.standard_normal(128)
    y[60:75] += 6.0
    slope = np.polyfit(x, y, 1)[0]
    for _ in range(500):
        residuals = y - slope * x
        residuals -= np.median(residuals)
        size = np.abs(residuals) / (4.685 * scipy_stats.median_abs_deviation(residuals, scale="normal"))
        weights = np.where(size < 1, (1 - size**2) ** 2, 0.0)
        slope = np.polyfit(x, y, 1, w=np.sqrt(weights))[0]
    found = spectral_slope(GRID, torch.from_numpy(np.exp(y)), method="irls", spacing="linear")
    assert float(found) == pytest.approx(slope, abs=1e-4)
    assert slope == pytest.approx(-1.5, abs=0.1)


def test_a_peak_does_not_move_a_robust_slope() -> None:
    power = GRID**-1.5
    power[30:45] *= 50
    for method in ("theil_sen", "irls"):
        assert float(spectral_slope(GRID, power, method=method)) == pytest.approx(-1.5, abs=0.05)
    assert abs(float(spectral_slope(GRID, power, method="least_squares")) + 1.5) > 0.12


def test_every_octave_counts_alike() -> None:
    """A grid that is even in the logarithm, each of its points as often as its weight says."""
    drawn = torch.from_numpy(np.random.default_rng(6).exponential(size=(3, 16)))
    frequencies = torch.arange(1, 17, dtype=torch.float64) / 32
    copies = np.rint(5040 * 16 / 16 / np.arange(1, 17) / 21).astype(int)
    for row in drawn:
        found = float(spectral_slope(frequencies, row, method="least_squares"))
        x, y = (np.log(v.numpy()) for v in (frequencies, row))
        assert found == pytest.approx(np.polyfit(x, y, 1, w=np.arange(1, 17) ** -0.5)[0], abs=1e-9)
        repeated = np.repeat(np.arange(16), copies)
        pairs = [(i, j) for i in range(16) for j in range(i)]
        slopes = np.array([(y[i] - y[j]) / (x[i] - x[j]) for i, j in pairs])
        counts = np.bincount(repeated)
        many = np.repeat(slopes, [counts[i] * counts[j] for i, j in pairs])
        assert float(spectral_slope(frequencies, row)) == pytest.approx(np.median(many), abs=1e-9)


def test_slope_of_differences_of_white_noise() -> None:
    power = 4 * torch.sin(torch.pi * GRID) ** 2
    assert float(spectral_slope(GRID, power, high=0.05)) == pytest.approx(2.0, abs=0.02)
    assert float(spectral_slope(GRID, power, low=1 / 64)) == pytest.approx(1.9, abs=0.05)
    assert float(spectral_slope(GRID, power, low=1 / 64, spacing="linear")) == pytest.approx(1.6, abs=0.05)


def test_slope_refuses() -> None:
    with pytest.raises(RecordError, match="three frequencies between 0.1 and 0.105"):
        spectral_slope(GRID, GRID, low=0.1, high=0.105)
    with pytest.raises(RecordError, match="power at every frequency"):
        spectral_slope(GRID, torch.zeros(128))
    with pytest.raises(ParameterError, match="'low'"):
        spectral_slope(GRID, GRID, low=0.4, high=0.3)
    with pytest.raises(ParameterError, match="'method'"):
        spectral_slope(GRID, GRID, method="other")  # type: ignore[arg-type]


def test_entropy_is_that_of_scipy_and_of_closed_forms() -> None:
    drawn = np.random.default_rng(3).exponential(size=(4, 65))
    found = spectral_entropy(torch.from_numpy(drawn))
    np.testing.assert_allclose(found, scipy_stats.entropy(drawn, axis=-1), rtol=1e-12)
    flat = torch.ones(2, 64)
    np.testing.assert_allclose(spectral_entropy(flat), np.log(64), rtol=1e-6)
    np.testing.assert_allclose(spectral_entropy(flat, normalise=True), 1.0, rtol=1e-6)
    line = torch.zeros(9)
    line[3] = 5.0
    assert float(spectral_entropy(line)) == 0.0
    white = torch.from_numpy(np.random.default_rng(4).exponential(size=(200, 4096)))
    assert float(np.log(4096) - spectral_entropy(white).mean()) == pytest.approx(1 - 0.5772, abs=0.01)


def test_entropy_is_that_of_antropy() -> None:
    from antropy import spectral_entropy as theirs
    from scipy.signal import periodogram

    x = np.random.default_rng(5).standard_normal((3, 100))
    power = torch.from_numpy(periodogram(x)[1])
    for normalise in (False, True):
        expected = theirs(x, sf=1.0, method="fft", normalize=normalise)
        found = spectral_entropy(power, normalise=normalise)
        np.testing.assert_allclose(found, expected * (1 if normalise else np.log(2)), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(0.01, 0.2),
    width=st.floats(0.05, 0.25),
    share=st.floats(0.05, 0.95),
    scale=st.floats(0.1, 9),
)
def test_shape_of_a_flat_band(low: float, width: float, share: float, scale: float) -> None:
    frequencies = torch.linspace(low, low + width, 400, dtype=torch.float64)
    power = scale * torch.ones(400, dtype=torch.float64)
    assert float(centroid(frequencies, power)) == pytest.approx(low + width / 2, abs=1e-9)
    assert float(bandwidth(frequencies, power)) == pytest.approx(width / np.sqrt(12), rel=0.01)
    assert float(edge(frequencies, power, share=share)) == pytest.approx(low + share * width, abs=1e-9)
    assert float(half_power_bandwidth(frequencies, power)) == pytest.approx(width, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.02, 0.98))
def test_edge_has_the_share_below_it(seed: int, share: float) -> None:
    power = np.random.default_rng(seed).exponential(size=40)
    frequencies = np.linspace(0.01, 0.5, 40)
    at = float(edge(torch.from_numpy(frequencies), torch.from_numpy(power), share=share))
    inside = np.append(frequencies[frequencies < at], at)
    below = np.trapezoid(np.interp(inside, frequencies, power), inside)
    assert below / np.trapezoid(power, frequencies) == pytest.approx(share, abs=1e-9)


def half(centre: float, width: float) -> NDArray[np.float64]:
    return 1 / (1 + ((GRID.numpy() - centre) / width) ** 2)


def test_half_power_bandwidth_of_resonance_and_low_pass() -> None:
    peak = torch.from_numpy(half(0.25, 0.02))
    assert float(half_power_bandwidth(GRID, peak)) == pytest.approx(0.04, rel=0.01)
    low_pass = torch.from_numpy(half(float(GRID[0]), 0.05))
    assert float(half_power_bandwidth(GRID, low_pass)) == pytest.approx(0.05, rel=0.01)
    triangle = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])
    at = torch.arange(5) * 0.1
    assert float(half_power_bandwidth(at, triangle)) == pytest.approx(0.2)
    batch = half_power_bandwidth(GRID, torch.stack([peak, low_pass]))
    assert batch[0] == half_power_bandwidth(GRID, peak)


def test_spectra_without_power_are_refused() -> None:
    nothing = torch.zeros(2, 128)
    calls: list[Any] = [
        spectral_entropy,
        lambda p: centroid(GRID, p),
        lambda p: bandwidth(GRID, p),
        lambda p: edge(GRID, p),
        lambda p: half_power_bandwidth(GRID, p),
    ]
    for call in calls:
        with pytest.raises(RecordError, match="needs a spectrum with power"):
            call(nothing)
        with pytest.raises(RecordError, match="some is below"):
            call(nothing - 1)
    with pytest.raises(ParameterError, match="'share'"):
        edge(GRID, nothing + 1, share=1.0)
