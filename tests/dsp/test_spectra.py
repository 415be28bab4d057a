"""Spectra against scipy, MNE and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from resonance_lens.dsp.segments import fourier_segments, series_segments
from resonance_lens.dsp.spectra import cross_spectra, cross_spectrum, multitaper, periodogram, welch
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal

DETREND: dict[str, Any] = {"none": False, "constant": "constant", "linear": "linear"}


def noise(seed: int, *shape: int) -> NDArray[np.float64]:
    """Return noise with a mean and a drift, so that detrending matters."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return drawn + 3.0 + 0.02 * np.arange(shape[-1])


# --------------------------------------------------------------------------------------------- Welch


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(16, 90),
    segment=st.integers(2, 16),
    hop=st.one_of(st.none(), st.integers(1, 20)),
    window=st.sampled_from(["hann", "boxcar", "hamming", "blackman"]),
    detrend=st.sampled_from(sorted(DETREND)),
    seed=st.integers(0, 99),
)
def test_welch_is_that_of_scipy(
    n: int, segment: int, hop: int | None, window: str, detrend: Any, seed: int
) -> None:
    if (detrend == "linear" and segment < 3) or (window == "blackman" and segment < 4):
        return  # what is left is rounding
    x = noise(seed, 2, 3, n)
    found = welch(torch.from_numpy(x), -1, segment=segment, hop=hop, window=window, detrend=detrend)
    step = segment - segment // 2 if hop is None else hop
    frequencies, power = scipy_signal.welch(
        x, nperseg=segment, noverlap=max(segment - step, 0), window=window, detrend=DETREND[detrend]
    )
    if step > segment:  # segments apart: scipy has none, so they are taken one by one
        starts = range(0, n - segment + 1, step)
        parts = [x[..., s : s + segment] for s in starts]
        made = [scipy_signal.periodogram(p, window=window, detrend=DETREND[detrend])[1] for p in parts]
        power = np.mean(made, axis=0)
    np.testing.assert_allclose(found.frequencies, frequencies, atol=1e-15)
    np.testing.assert_allclose(found.power, power, rtol=1e-11, atol=1e-12)
    assert int(found.segments[0, 0]) == 1 + (n - segment) // step


def test_single_precision_is_close_to_double() -> None:
    x = noise(0, 4, 600)
    double = welch(torch.from_numpy(x), -1, segment=128).power
    single = welch(torch.from_numpy(x).float(), -1, segment=128).power
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 1e-5 * float(double.max())


def test_many_records_are_taken_in_pieces() -> None:
    x = noise(1, 1100, 300)
    found = welch(torch.from_numpy(x), -1, segment=256).power
    np.testing.assert_allclose(found, scipy_signal.welch(x, nperseg=256)[1], rtol=1e-11, atol=1e-12)


def test_axis_goes_by_its_name_and_frequency_comes_last() -> None:
    x = noise(2, 2, 3, 40)
    laid = Signal(torch.from_numpy(x).movedim(-1, 1), ("batch", "token", "d_model"))
    found = welch(laid, "token", segment=16)
    np.testing.assert_allclose(found.power, scipy_signal.welch(x, nperseg=16)[1], rtol=1e-11)
    with pytest.raises(AxisError, match="no spectrum.*'d_model'|no Welch spectrum over 'd_model'"):
        welch(laid, "d_model", segment=2)


def test_unequal_records_are_those_of_each_alone() -> None:
    lengths = [40, 16, 33, 25]
    x = torch.from_numpy(noise(3, 4, 2, 40)).movedim(-1, 1)
    for row, length in enumerate(lengths):
        x[row, length:] = torch.nan
    batch = Signal(x, ("batch", "token", "d_model"), torch.tensor(lengths))
    found = welch(batch, "token", segment=16, hop=5)
    assert found.segments.tolist() == [[1 + (n - 16) // 5] * 2 for n in lengths]
    for row, length in enumerate(lengths):
        alone = welch(x[row, :length], 0, segment=16, hop=5)
        assert torch.equal(found.power[row], alone.power)
        assert torch.equal(found.dc[row], alone.dc)
        coefficients = fourier_segments(batch, "token", segment=16, hop=5).coefficients[row]
        mean = (coefficients.abs() ** 2).sum(-2) / alone.segments[:, None]
        np.testing.assert_allclose(mean, alone.power, rtol=1e-12)


def test_density_integrates_to_the_variance_and_dc_stands_apart() -> None:
    x = torch.from_numpy(noise(4, 5, 64))
    found = periodogram(x, -1)
    variance = x.var(-1, correction=0)
    np.testing.assert_allclose(found.power.sum(-1) / 64, variance, rtol=1e-12)
    np.testing.assert_allclose(found.dc, x.mean(-1) ** 2, rtol=1e-12)
    assert float(found.power[:, 0].max()) < 1e-20
    assert found.bandwidth == pytest.approx(1 / 64)
    assert welch(x, -1, segment=32).bandwidth == pytest.approx(1.5 / 32)


def test_periodogram_is_that_of_scipy_and_needs_one_length() -> None:
    x = noise(5, 3, 51)
    detrend: Any
    for detrend, theirs in DETREND.items():
        found = periodogram(torch.from_numpy(x), -1, window="hann", detrend=detrend)
        expected = scipy_signal.periodogram(x, window="hann", detrend=theirs)[1]
        np.testing.assert_allclose(found.power, expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(RecordError, match="no grid of frequencies in common"):
        periodogram(torch.from_numpy(x), -1, lengths=torch.tensor([51, 40, 51]))


def test_constant_records_have_no_power() -> None:
    x = torch.full((2, 40), 1e3 / 3)
    for detrend in ("constant", "linear"):
        assert float(welch(x, -1, segment=16, detrend=detrend).power.abs().max()) == 0
    line = torch.linspace(-300.0, 700.0, 40)
    assert float(welch(line, 0, segment=16, detrend="linear").power.max()) == 0
    assert float(welch(line, 0, segment=16).power.max()) > 1


def test_gradients_go_through() -> None:
    x = torch.from_numpy(noise(6, 1, 30)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: welch(v, -1, segment=10).power, x)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"segment": 1}, "'segment' parameter of a spectrum must be a whole number, at least 2; got 1"),
        ({"segment": 8, "hop": 0}, "'hop' parameter"),
        ({"segment": 8, "window": "hunn"}, "'window' parameter.*get_window"),
        ({"segment": 8, "window": torch.ones(7)}, "'window' parameter.*8 weights"),
        ({"segment": 8, "detrend": "cubic"}, "'detrend' parameter.*'linear'; got 'cubic'"),
    ],
)
def test_bad_parameters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        welch(torch.randn(2, 20, generator=torch.Generator().manual_seed(0)), -1, **options)


def test_bad_records_are_refused() -> None:
    x = torch.from_numpy(noise(7, 2, 20))
    with pytest.raises(RecordError, match="at least 32 positions.*the shortest has 20"):
        welch(x, -1, segment=32)
    with pytest.raises(RecordError, match="the shortest has 5"):
        welch(x, -1, segment=8, lengths=torch.tensor([20, 5]))
    x[1, 3] = torch.nan
    with pytest.raises(ActivationError, match="finite"):
        welch(x, -1, segment=8)
    with pytest.raises(RecordError, match="real numbers"):
        welch(torch.ones(8, dtype=torch.complex64), 0, segment=8)


# ---------------------------------------------------------------------------------------- multitaper


@pytest.mark.parametrize("n", [128, 77])
@pytest.mark.parametrize("half_bandwidth", [2.5, 4.0])
def test_multitaper_is_that_of_mne(n: int, half_bandwidth: float) -> None:
    from mne.time_frequency import psd_array_multitaper

    x = noise(8, 3, n)
    for weights in ("eigenvalue", "adaptive"):
        found = multitaper(torch.from_numpy(x), -1, half_bandwidth=half_bandwidth, weights=weights)
        power, frequencies = psd_array_multitaper(
            x,
            sfreq=1.0,
            bandwidth=2 * half_bandwidth / n,
            adaptive=weights == "adaptive",
            low_bias=True,
            normalization="full",
            verbose="error",
        )
        np.testing.assert_allclose(found.frequencies, frequencies, atol=1e-15)
        np.testing.assert_allclose(found.power, power, rtol=1e-7 if weights == "adaptive" else 1e-10)
        assert found.bandwidth == pytest.approx(2 * half_bandwidth / n)


@pytest.mark.parametrize(
    "sym, demean, equal, factor, differs",
    [
        (True, True, False, 1.0, 1e-3),  # nitime
        (False, False, True, 1.0, 1e-3),  # elephant
        (True, True, True, 0.5, 1e-3),  # spectral_connectivity, two-sided
        (False, True, True, 1.0, 0.0),  # ours with equal weights
    ],
    ids=["nitime", "elephant", "spectral_connectivity", "equal"],
)
def test_conventions_of_other_libraries(
    sym: bool, demean: bool, equal: bool, factor: float, differs: float
) -> None:
    """LIBRARIES 2.2: each differs in tapers, mean, weights or sides, and by how much at least."""
    x = noise(9, 4, 200)
    tapers, shares = scipy_signal.windows.dpss(200, 4, 8, sym=sym, return_ratios=True)
    tapers, shares = tapers[shares > 0.9], shares[shares > 0.9]
    rows = x - x.mean(-1, keepdims=True) if demean else x
    each = np.abs(np.fft.rfft(rows[:, None] * tapers)) ** 2
    each[..., 1:-1] *= 2
    theirs = factor * np.average(each, axis=1, weights=np.ones_like(shares) if equal else shares)
    ours = multitaper(torch.from_numpy(x), -1, weights="equal" if equal and not differs else "eigenvalue")
    gap = np.abs(theirs - ours.power.numpy()).max() / theirs.max()
    assert gap > differs if differs else gap < 1e-12


def test_multitaper_refuses_what_it_cannot_resolve() -> None:
    with pytest.raises(RecordError, match="more than 8 positions; they have 8"):
        multitaper(torch.ones(2, 8), -1)
    with pytest.raises(ParameterError, match="'half_bandwidth' parameter of multitaper must be at least 1"):
        multitaper(torch.ones(2, 80), -1, half_bandwidth=0.5)
    with pytest.raises(ParameterError, match="'weights' parameter"):
        multitaper(torch.ones(2, 80), -1, weights="other")  # type: ignore[arg-type]
    assert float(multitaper(torch.ones(2, 80), -1, weights="adaptive").power.max()) == 0


# ------------------------------------------------------------------------------------- cross spectra


def test_cross_spectra_are_those_of_scipy() -> None:
    x = noise(10, 4, 3, 70)
    y = np.roll(x, 2, axis=-1) + noise(11, 4, 3, 70)
    found = cross_spectrum(torch.from_numpy(x), torch.from_numpy(y), -1, segment=20)
    np.testing.assert_allclose(found.xy, scipy_signal.csd(x, y, nperseg=20)[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.yy, scipy_signal.welch(y, nperseg=20)[1], rtol=1e-10, atol=1e-12)
    pairs = cross_spectra(torch.from_numpy(x), -1, 1, segment=20)
    every = scipy_signal.csd(x[:, :, None], x[:, None], nperseg=20)[1]  # [epoch, i, j, frequency]
    np.testing.assert_allclose(pairs, np.moveaxis(every.mean(0), -1, 0), rtol=1e-10, atol=1e-12)


def test_series_of_unequal_prompts_share_their_samples() -> None:
    values = torch.from_numpy(noise(12, 3, 2, 50)).movedim(-1, 1)  # batch token head
    lengths = torch.tensor([50, 20, 31])
    x = Signal(values, ("batch", "token", "head"), lengths)
    found = series_segments(x, "token", "head", segment=10).coefficients
    alone = [
        series_segments(values[row, :length], 0, 1, segment=10).coefficients
        for row, length in enumerate(lengths)
    ]
    np.testing.assert_allclose(found, torch.cat(alone, dim=1), rtol=1e-12)
    with pytest.raises(AxisError, match="along the same axis"):
        series_segments(values, 1, 1, segment=10)
    with pytest.raises(RecordError, match="same lengths"):
        series_segments(values[0], 0, 1, segment=10, lengths=torch.tensor([50, 30]))
    with pytest.raises(RecordError, match="as many and as long"):
        cross_spectrum(values[..., 0], values[:, :40, 0], 1, segment=10)
