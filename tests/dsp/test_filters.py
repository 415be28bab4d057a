"""Filters and cosine bands, against scipy; causal ones against bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft as scipy_fft
from scipy import signal as scipy_signal

from resonance_lens.dsp import causal, filters
from resonance_lens.dsp.cosine import PRISM_BANDS, dct, dct_band, dct_band_shares
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal
from tests.by_hand import Floats

BANDS = [(0.0, 0.1), (0.1, 0.5), (0.1, 0.2), (0.05, 0.3), (0.04, 0.45)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def sections(low: float, high: float, order: int) -> Floats:
    if low == 0:
        found = scipy_signal.butter(order, high, "lowpass", output="sos", fs=1.0)
    elif high == 0.5:
        found = scipy_signal.butter(order, low, "highpass", output="sos", fs=1.0)
    else:
        found = scipy_signal.butter(order, [low, high], "bandpass", output="sos", fs=1.0)
    return np.asarray(found)


# Zero phase ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, 512, 1500])
@pytest.mark.parametrize("low, high", BANDS)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_butterworth_is_scipy_s_forwards_and_backwards(n: int, low: float, high: float, order: int) -> None:
    x = noise(3, n)
    expected = scipy_signal.sosfiltfilt(sections(low, high, order), x.numpy())
    found = filters.band_pass(x, 1, low, high, order=order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    single = filters.band_pass(x.float(), 1, low, high, order=order)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_a_short_record_is_continued_as_far_as_it_goes() -> None:
    x = noise(2, 27)
    expected = scipy_signal.sosfiltfilt(sections(0.1, 0.3, 4), x.numpy(), padlen=26)
    np.testing.assert_allclose(filters.band_pass(x, 1, 0.1, 0.3), expected, rtol=0, atol=1e-12)


def test_a_narrow_low_band_rings_as_long_as_it_has_to() -> None:
    x = noise(2, 3000)
    expected = scipy_signal.sosfiltfilt(sections(0.002, 0.003, 4), x.numpy())
    np.testing.assert_allclose(filters.band_pass(x, 1, 0.002, 0.003), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("low, high", BANDS)
@pytest.mark.parametrize("taps", [3, 21, 101])
def test_fir_is_a_convolution_of_the_reflected_record(low: float, high: float, taps: int) -> None:
    x = noise(3, 160)
    edges = [edge for edge in (low, high) if 0 < edge < 0.5]
    kernel = scipy_signal.firwin(taps, edges, pass_zero=low == 0, fs=1.0)
    half = taps // 2
    expected = []
    for row in x.numpy():
        before, after = 2 * row[0] - row[half:0:-1], 2 * row[-1] - row[-2 : -half - 2 : -1]
        expected.append(np.convolve(np.concatenate([before, row, after]), kernel, mode="valid"))
    found = filters.band_pass(x, 1, low, high, design="fir", taps=taps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(filters.fir_kernel(low, high, taps), kernel)


@pytest.mark.parametrize("design", ["butterworth", "fir"])
def test_a_tone_in_the_band_stays_where_it_is_and_one_outside_goes(design: filters.Design) -> None:
    t = torch.arange(512.0, dtype=torch.float64)
    inside, outside = torch.cos(2 * math.pi * 0.1 * t + 1), torch.cos(2 * math.pi * 0.3 * t)
    found = filters.band_pass(inside + outside + 3.0, 0, 0.06, 0.15, design=design)
    middle = slice(100, -100)
    assert float((found - inside)[middle].abs().max()) < 0.02  # no delay: it is subtracted as it stands
    low = filters.low_pass(inside + outside, 0, 0.2, design=design)
    high = filters.high_pass(inside + outside, 0, 0.2, design=design)
    assert float((low - inside)[middle].abs().max()) < 0.02
    assert float((high - outside)[middle].abs().max()) < 0.02


@pytest.mark.parametrize("design", ["butterworth", "fir"])
def test_an_edge_keeps_half_of_the_amplitude(design: filters.Design) -> None:
    t = torch.arange(2000.0, dtype=torch.float64)
    tone = torch.cos(2 * math.pi * 0.1 * t)
    found = filters.low_pass(tone, 0, 0.1, design=design)[500:-500].abs().max()
    assert float(found) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("design", ["butterworth", "fir"])
def test_each_record_is_filtered_in_its_own_length(design: filters.Design) -> None:
    lengths = [40, 75, 53, 75]
    values = noise(4, 75, 3)
    for row, length in enumerate(lengths):
        values[row, length:] = 0
    batch = Signal(values, ("batch", "token", "d_model"), torch.tensor(lengths))
    found = filters.band_pass(batch, "token", 0.1, 0.3, design=design, taps=21)
    assert isinstance(found, Signal) and found.axes == batch.axes and found.lengths is batch.lengths
    for row, length in enumerate(lengths):
        alone = filters.band_pass(values[row, :length], 0, 0.1, 0.3, design=design, taps=21)
        torch.testing.assert_close(found.values[row, :length], alone, rtol=0, atol=1e-13)
        assert bool((found.values[row, length:] == 0).all())


def test_a_filter_is_linear_and_has_gradients() -> None:
    for design in ("butterworth", "fir"):
        x = noise(2, 60).requires_grad_()

        def act(values: torch.Tensor, design: filters.Design = design) -> torch.Tensor:
            return filters.band_pass(values, 1, 0.1, 0.35, design=design, taps=21)

        assert torch.autograd.gradcheck(act, (x,))
    both = filters.band_pass(noise(1, 60) + 2 * noise(1, 60, seed=1), 1, 0.1, 0.3)
    apart = [filters.band_pass(noise(1, 60, seed=s), 1, 0.1, 0.3) for s in (0, 1)]
    torch.testing.assert_close(both, apart[0] + 2 * apart[1])


def test_what_a_record_cannot_resolve_is_refused_with_the_number_that_would_do() -> None:
    x = noise(2, 40)
    with pytest.raises(RecordError, match=r"asks for 0\.01; records of at least 100 positions"):
        filters.band_pass(x, 1, 0.01, 0.1)
    with pytest.raises(RecordError, match=r"asks for 0\.02; records of at least 50 positions"):
        filters.band_pass(x, 1, 0.1, 0.12)
    with pytest.raises(RecordError, match="set taps to 39 or less"):
        filters.band_pass(x, 1, 0.1, 0.3, design="fir", taps=41)
    filters.band_pass(x, 1, 0.1, 0.3, design="fir", taps=39)
    filters.band_pass(x, 1, 0.1, 0.125)  # 1/40 wide, to the last bit or not
    batch = Signal(noise(2, 40, 1), ("batch", "token", "d_model"), torch.tensor([40, 12]))
    with pytest.raises(RecordError, match="Records of 12 positions"):
        filters.band_pass(batch, "token", 0.05, 0.2)


@pytest.mark.parametrize("low, high", [(0.2, 0.1), (-0.1, 0.2), (0.1, 0.6), (0.1, 0.1), (math.nan, 0.2)])
def test_a_band_has_its_edges_in_order(low: float, high: float) -> None:
    with pytest.raises(ParameterError, match="0 <= low < high <= 0.5"):
        filters.band_pass(noise(1, 100), 1, low, high)


def test_what_is_no_filter_is_refused() -> None:
    x = noise(1, 100)
    with pytest.raises(ParameterError, match="leaves nothing out"):
        filters.band_pass(x, 1, 0.0, 0.5)
    with pytest.raises(ParameterError, match="'order' parameter .* between 1 and 12"):
        filters.band_pass(x, 1, 0.1, 0.2, order=0)
    with pytest.raises(ParameterError, match="'taps' parameter .* odd"):
        filters.band_pass(x, 1, 0.1, 0.2, design="fir", taps=20)
    with pytest.raises(ParameterError, match="'design' parameter"):
        filters.band_pass(x, 1, 0.1, 0.2, design="brickwall")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="needs real numbers"):
        filters.band_pass(x.to(torch.complex128), 1, 0.1, 0.2)
    with pytest.raises(ActivationError, match="finite"):
        filters.band_pass(x * math.nan, 1, 0.1, 0.2)
    with pytest.raises(AxisError, match="no band-pass filter over 'd_model'"):
        filters.band_pass(Signal(noise(1, 9, 60), ("batch", "token", "d_model")), "d_model", 0.1, 0.2)


def test_a_constant_passes_a_low_pass_alone() -> None:
    flat = torch.full((1, 60), 7.0)
    torch.testing.assert_close(filters.low_pass(flat, 1, 0.1), flat)
    assert float(filters.band_pass(flat, 1, 0.1, 0.3).abs().max()) < 1e-4


# Causal ----------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_what_comes_later_changes_no_bit_of_what_came_out(n: int, taps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(5, n)).astype(np.float32))
    kernel = torch.from_numpy(rng.normal(size=taps))
    t = int(rng.integers(n))
    other = x.clone()
    other[:, t + 1 :] = torch.from_numpy(rng.normal(size=(5, n - t - 1)).astype(np.float32) * 1e6)
    before, after = causal.causal_filter(x, 1, kernel), causal.causal_filter(other, 1, kernel)
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])


@pytest.mark.parametrize("n, taps", [(50, 7), (50, 80), (2500, 1300), (1, 1)])
def test_causal_filter_is_a_convolution_from_rest(n: int, taps: int) -> None:
    x, kernel = noise(3, n), noise(taps, seed=1) / taps
    expected = scipy_signal.lfilter(kernel.numpy(), [1.0], x.numpy())
    np.testing.assert_allclose(causal.causal_filter(x, 1, kernel), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("low, high", BANDS)
def test_a_butterworth_kernel_is_scipy_s_filter_for_records_no_longer(low: float, high: float) -> None:
    x = noise(3, 90)
    kernel = causal.butterworth_kernel(low, high, 90)
    expected = scipy_signal.sosfilt(sections(low, high, 4), x.numpy())
    np.testing.assert_allclose(causal.causal_filter(x, 1, kernel), expected, rtol=0, atol=1e-12)


def response(kernel: torch.Tensor, frequency: float) -> complex:
    d = np.arange(len(kernel))
    return complex((kernel.numpy() * np.exp(-2j * np.pi * frequency * d)).sum())


@pytest.mark.parametrize("cutoff", [0.01, 0.1, 0.3])
def test_a_leaky_integrator_has_half_of_the_power_at_its_cutoff(cutoff: float) -> None:
    kernel = causal.one_pole_kernel(cutoff, 2000)
    assert abs(response(kernel, 0.0)) == pytest.approx(1, abs=1e-12)
    assert abs(response(kernel, cutoff)) ** 2 == pytest.approx(0.5, abs=1e-12)
    ratio = kernel[1:20] / kernel[:19]
    torch.testing.assert_close(ratio, ratio[0].expand(19))


@pytest.mark.parametrize("frequency, quality", [(0.1, 5.0), (0.25, 2.0), (0.05, 20.0)])
def test_a_resonator_peaks_at_its_frequency_with_its_width(frequency: float, quality: float) -> None:
    kernel = causal.resonator_kernel(frequency, quality, 8000)
    power = np.abs(np.fft.rfft(kernel.numpy())) ** 2  # at multiples of 1/8000
    grid = np.arange(len(power)) / 8000
    assert grid[power.argmax()] == pytest.approx(frequency, abs=1e-3)
    assert power.max() == pytest.approx(1, abs=1e-3)
    half = grid[power >= 0.5]
    assert frequency / (half[-1] - half[0]) == pytest.approx(quality, rel=0.15)


def test_causal_filters_have_gradients_and_keep_to_lengths() -> None:
    x, kernel = noise(2, 12).requires_grad_(), noise(5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, k: causal.causal_filter(a, 1, k), (x, kernel))
    values = noise(2, 12, 1)
    values[1, 7:] = 0
    batch = Signal(values, ("batch", "token", "d_model"), torch.tensor([12, 7]))
    found = causal.causal_filter(batch, "token", kernel.detach())
    alone = causal.causal_filter(values[1, :7, 0], 0, kernel.detach())
    torch.testing.assert_close(found.values[1, :7, 0], alone)
    assert bool((found.values[1, 7:] == 0).all())


def test_kernels_that_are_none_are_refused() -> None:
    x = noise(1, 9)
    for kernel in (torch.ones(0), torch.ones(2, 2), torch.tensor([math.inf]), torch.ones(2) * 1j):
        with pytest.raises(ParameterError, match="vector of finite real numbers"):
            causal.causal_filter(x, 1, kernel)
    for cutoff in (0.0, 0.5, math.nan):
        with pytest.raises(ParameterError, match="above 0 and below 0.5"):
            causal.one_pole_kernel(cutoff, 5)
        with pytest.raises(ParameterError, match="above 0 and below 0.5"):
            causal.resonator_kernel(cutoff, 1.0, 5)
    with pytest.raises(ParameterError, match="'quality'"):
        causal.resonator_kernel(0.1, 0.0, 5)
    with pytest.raises(ParameterError, match="'n' parameter"):
        causal.one_pole_kernel(0.1, 0)
    with pytest.raises(AxisError, match="no causal filter over 'head'"):
        causal.causal_filter(Signal(x, ("batch", "head")), "head", torch.ones(2))


# Cosine bands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 30, 75, 511, 512, 700])
def test_the_cosine_transform_is_scipy_s(n: int) -> None:
    x = noise(3, n)
    expected = scipy_fft.dct(x.numpy(), type=2, norm="ortho")
    np.testing.assert_allclose(dct(x, 1), expected, rtol=0, atol=1e-12)
    single = dct(x.float(), 1)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("n", [512, 257, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bands_add_up_to_the_signal(n: int, dtype: torch.dtype) -> None:
    x = (noise(3, n) + 5).to(dtype)
    parts = [dct_band(x, 1, band) for band in PRISM_BANDS]
    torch.testing.assert_close(sum(parts), x, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    for a in range(5):
        for b in range(a):
            assert abs(float((parts[a] * parts[b]).sum())) < 1e-6 * float((x**2).sum())


def test_bands_at_512_tokens_are_those_of_the_paper() -> None:
    found = [band.indices(512) for band in PRISM_BANDS]
    assert found == [(0, 2), (2, 9), (9, 34), (34, 130), (130, 512)]
    x = noise(1, 512)
    kept = scipy_fft.dct(x.numpy(), norm="ortho")
    kept[:, :9], kept[:, 34:] = 0, 0
    expected = scipy_fft.idct(kept, norm="ortho")
    np.testing.assert_allclose(dct_band(x, 1, "mid"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "period, name", [(4, "high"), (16, "mid-high"), (64, "mid"), (256, "mid-low"), (1024, "low")]
)
def test_a_planted_period_falls_into_its_band(period: int, name: str) -> None:
    t = torch.arange(512.0)
    shares = dct_band_shares(torch.cos(2 * math.pi * (t + 0.5) / period), 0)
    assert float(shares[[band.name for band in PRISM_BANDS].index(name)]) > 0.999
    # Whatever its phase, most of it does (a cosine transform leaks where a wave does not close).
    rng = np.random.default_rng(0)
    if period < 1024:
        for phase in rng.uniform(0, 2 * math.pi, size=5):
            shares = dct_band_shares(torch.cos(2 * math.pi * t / period + phase), 0)
            assert PRISM_BANDS[int(shares.argmax())].name == name
    band = next(band for band in PRISM_BANDS if band.name == name)
    assert band.periods[0] <= period <= band.periods[1]
    assert band.nominal_periods[0] == pytest.approx(band.periods[0] / 4)


@given(st.integers(1, 3000))
def test_bands_share_the_indices_of_any_record(n: int) -> None:
    edges = [band.indices(n) for band in PRISM_BANDS]
    assert edges[0][0] == 0 and edges[-1][1] == n
    assert all(one[1] == other[0] for one, other in zip(edges, edges[1:], strict=False))
    for band, (first, stop) in zip(PRISM_BANDS, edges, strict=True):
        low, high = band.frequencies
        for k in (first, stop - 1) if stop > first else ():
            assert low <= k / (2 * n) and (k / (2 * n) < high or high == 0.5)


def test_shares_are_those_of_scipy_s_transform() -> None:
    lengths = [300, 75, 128]
    values = noise(3, 300, 2) + 3
    for row, length in enumerate(lengths):
        values[row, length:] = 0
    batch = Signal(values, ("batch", "token", "d_model"), torch.tensor(lengths))
    for mean in (False, True):
        found = dct_band_shares(batch, "token", mean=mean)
        assert found.shape == (3, 2, 5)
        for row, length in enumerate(lengths):
            power = scipy_fft.dct(values[row, :length, 1].numpy(), norm="ortho") ** 2
            power[0] *= mean
            frequency = np.arange(length) / (2 * length)
            edges = [0.0, 1.5 / 1024, 8.5 / 1024, 33.5 / 1024, 129.5 / 1024, 0.5]
            for at, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
                inside = (frequency >= low) & (frequency < high)
                counted = inside[0 if mean else 1 :].any()
                expected = power[inside].sum() / power.sum() if counted else math.nan
                np.testing.assert_allclose(found[row, 1, at], expected, rtol=1e-9, atol=1e-14)


def test_a_band_without_an_index_is_refused_and_has_no_share() -> None:
    x = noise(2, 30)
    with pytest.raises(RecordError, match="no index in the band 'mid-low' .* 61 positions would do"):
        dct_band(x, 1, "mid-low")
    dct_band(noise(1, 61), 1, "mid-low")
    shares = dct_band_shares(x, 1)
    assert shares.isnan().tolist() == [[True, True, False, False, False]] * 2
    assert bool(dct_band_shares(torch.full((1, 40), 3.3), 1).isnan().all())
    assert bool(dct_band_shares(torch.full((1, 512), 1e6), 1).isnan().all())
    with pytest.raises(ParameterError, match="no band 'mid-hi'.*mean 'mid-high'"):
        dct_band(x, 1, "mid-hi")
    with pytest.raises(AxisError, match="no cosine transform over 'neuron'"):
        dct(Signal(x, ("batch", "neuron")), "neuron")
    with pytest.raises(RecordError, match="no grid of frequencies"):
        dct(x, 1, lengths=torch.tensor([30, 20]))


def test_a_label_has_both_periods() -> None:
    assert PRISM_BANDS[2].label == "mid (31 to 114 tokens; nominal 7.8 to 28)"
    assert PRISM_BANDS[0].label == "low (1024 to inf tokens; nominal 256 to inf)"


def test_transforms_have_gradients() -> None:
    x = noise(1, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: dct(a, 1), (x,))
    assert torch.autograd.gradcheck(lambda a: dct_band(a, 1, "high"), (x,))
