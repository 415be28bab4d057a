"""Spectra along tokens, against the estimators for single records, closed forms, and planted series."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import fft
from scipy import signal as scipy_signal

from resonance_lens.analyses.token_spectrum import SITES, TokenSpectrum
from resonance_lens.contract import Planted
from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.dsp.spectral_shape import spectral_slope
from resonance_lens.dsp.vector_spectra import spread_hop
from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.planting import attention_facts
from resonance_lens.testing import measure
from resonance_lens.worlds import WORLDS

Floats = NDArray[np.float64]


def planted(layers: list[dict[str, Floats]], lengths: list[int]) -> Planted:
    width = layers[0]["resid_post"].shape[-1]
    facts = attention_facts(n_layers=len(layers), n_heads=1, d_model=width)
    tensors = [{site: torch.from_numpy(x.copy()) for site, x in sites.items()} for sites in layers]
    return Planted(tensors, torch.tensor(lengths), facts, lambda data: None)


def alike(x: Floats) -> dict[str, Floats]:
    return dict.fromkeys(SITES, x)


def noise(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def remembering(rng: np.random.Generator, shape: tuple[int, int, int], rho: float) -> Floats:
    """Return noise ``[prompt, token, feature]`` in which each value keeps rho of the one before."""
    drawn = rng.standard_normal((shape[0], shape[1] + 200, shape[2]))
    return np.asarray(scipy_signal.lfilter([np.sqrt(1 - rho**2)], [1.0, -rho], drawn, axis=1)[:, 200:])


def power_law(b: float, n: int, features: int, prompts: int) -> Floats:
    """Return ``[prompt, token, feature]``, noise whose power falls as 1/f^b."""
    rng = np.random.default_rng(1)
    frequencies = np.fft.rfftfreq(16 * n)
    size = np.zeros_like(frequencies)
    size[1:] = frequencies[1:] ** (-b / 2)
    drawn = rng.standard_normal((2, prompts, features, len(size)))
    made = np.fft.irfft(size * (drawn[0] + 1j * drawn[1]), n=16 * n)[..., :n]
    return np.asarray(np.swapaxes(made, 1, 2))


def white(data: xr.Dataset, site: str = "resid_post") -> xr.Dataset:
    found: xr.Dataset = data.sel(category="all", scaling="whitened", site=site)
    return found


# ------------------------------------------------------------------------------- against definitions


def test_every_number_is_that_of_its_definition() -> None:
    lengths = [60, 41]
    sizes = np.arange(1, 6)
    layers = [
        {site: noise(10 * layer + i, 2, 60, 5) * sizes + 3 for i, site in enumerate(SITES)}
        for layer in (0, 1)
    ]
    data = measure(TokenSpectrum(), planted(layers, lengths)).sel(category="all")
    assert data.attrs["segment"] == 32
    assert data.attrs["bandwidth"] == pytest.approx(1.5 / 32)
    raw = np.zeros((2, 3, 2, 17))
    whitened, shares, dc = np.zeros_like(raw), np.zeros((2, 3, 2, 5)), np.zeros((2, 3, 2))
    for p, n in enumerate(lengths):
        for layer in (0, 1):
            for s, site in enumerate(SITES):
                x = layers[layer][site][p, 1:n]
                hop = spread_hop(n - 1, 32)
                each = scipy_signal.welch(x, nperseg=32, noverlap=32 - hop, axis=0)[1]
                raw[p, s, layer], whitened[p, s, layer] = each.mean(1), (each / x.var(0)).mean(1)
                cosines = fft.dct(x - x.mean(0), type=2, norm="ortho", axis=0) ** 2 / x.var(0)
                for b, band in enumerate(PRISM_BANDS):
                    first, stop = band.indices(n - 1)
                    part = cosines[max(first, 1) : stop].sum()
                    shares[p, s, layer, b] = part / cosines[1:].sum() if stop > max(first, 1) else np.nan
                dc[p, s, layer] = (x.mean(0) ** 2).mean() / x.var(0).mean()
    np.testing.assert_allclose(data.power, raw.mean(0)[..., 1:-1], rtol=1e-6)
    np.testing.assert_allclose(data.whitened_power, whitened.mean(0)[..., 1:-1], rtol=1e-6)
    found = data.band_share_prompt.sel(scaling="whitened")
    np.testing.assert_allclose(found, shares, rtol=1e-5, atol=1e-7)
    assert np.isnan(found.sel(band="low")).all()  # 59 tokens hold no wave of 683
    np.testing.assert_allclose(data.mean_ratio.sel(scaling="raw"), dc.mean(0), rtol=1e-6)
    gain = 10 * np.log10(raw[:, 0, 1] / raw[:, 0, 0]).mean(0)[1:-1]
    np.testing.assert_allclose(data.gain.sel(scaling="raw", layer=1), gain, rtol=1e-6)
    assert np.isnan(data.gain.sel(layer=0)).all()
    written = (raw[:, 1] / (raw[:, 1] + raw[:, 2])).mean(0)[..., 1:-1]
    np.testing.assert_allclose(data.attention_share, written, rtol=1e-6)
    slow = np.nansum(shares[..., :4], -1)
    np.testing.assert_allclose(data.slow_share, slow.mean(0), rtol=1e-6)
    counts = [sum(len(range(*b.indices(n - 1))) for b in PRISM_BANDS[:4]) - 1 for n in lengths]
    null = np.mean([c / (n - 2) for c, n in zip(counts, lengths, strict=True)])
    np.testing.assert_allclose(data.slow_share_null, null, rtol=1e-6)


def test_null_is_the_mean_over_orders_of_the_tokens() -> None:
    x = remembering(np.random.default_rng(2), (1, 30, 4), 0.95)
    rng = np.random.default_rng(3)
    drawn = []
    orders = np.stack([x[0, np.append(0, 1 + rng.permutation(29))] for _ in range(400)])
    data = measure(TokenSpectrum(), planted([alike(orders)], [30] * 400))
    drawn = data.slow_share_prompt.sel(site="resid_post", layer=0).values
    null = float(data.slow_share_null.sel(category="all", site="resid_post", layer=0))
    assert abs(drawn.mean() - null) < 4 * drawn.std() / 20
    # What is slow lies far above it.
    assert float(measure(TokenSpectrum(), planted([alike(x)], [30])).slow_share.max()) > null + 0.2


# ------------------------------------------------------------------------------------ planted series


@pytest.mark.parametrize("b", [0.0, 1.0, 5 / 3, 2.0])
def test_planted_slopes_come_back(b: float) -> None:
    x = power_law(b, 513, 40, 4)
    data = measure(TokenSpectrum(highest=0.4), planted([alike(x)], [513] * 4))
    assert data.attrs["segment"] == 128
    for scaling in ("raw", "whitened"):
        found = data.slope.sel(category="all", scaling=scaling, site="mlp_out", layer=0)
        assert float(found) == pytest.approx(-b, abs=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_noise_that_remembers_one_token_is_its_own_baseline(rho: float) -> None:
    x = remembering(np.random.default_rng(4), (6, 513, 40), rho)
    data = white(measure(TokenSpectrum(), planted([alike(x)], [513] * 6))).isel(layer=0)
    assert float(data.memory) == pytest.approx(rho, abs=0.04)
    assert float(data.slope) == pytest.approx(float(data.slope_autoregressive_noise), abs=0.06)
    steps, theirs = float(data.step_slope), float(data.step_slope_autoregressive_noise)
    assert steps == pytest.approx(theirs, abs=0.06)
    time, noise_of = (float(data[f"autocorrelation_time{end}"]) for end in ("", "_autoregressive_noise"))
    assert time == pytest.approx(noise_of, rel=0.1)
    # Segments of 128 lose their mean: of 9 tokens two are lost.
    assert time == pytest.approx((1 + rho) / (1 - rho), rel=0.25, abs=0.1)
    if rho == 0:
        assert steps == pytest.approx(float(data.step_slope_white_noise), abs=0.06)
        assert float(data.spectral_entropy) > 0.998


def test_steps_of_noise_pass_five_thirds_by_themselves() -> None:
    """Differences of white noise have power 4 sin^2(pi f): slope 2 at low f, less over the whole range."""
    x = remembering(np.random.default_rng(5), (2, 513, 4), 0.5)
    data = white(measure(TokenSpectrum(), planted([alike(x)], [513] * 2))).isel(layer=0)
    f = torch.arange(2, 64, dtype=torch.float64) / 128
    expected = float(spectral_slope(f, torch.sin(torch.pi * f) ** 2))
    assert float(data.step_slope_white_noise) == pytest.approx(expected, abs=0.03)
    assert 1.8 < expected < 1.95
    low = white(measure(TokenSpectrum(highest=0.25), planted([alike(x)], [513] * 2))).isel(layer=0)
    for name in ("step_slope", "step_slope_autoregressive_noise"):
        assert float(low[name]) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(
    "period, band", [(4, "high"), (16, "mid-high"), (64, "mid"), (256, "mid-low"), (1022, "low")]
)
def test_planted_waves_fall_into_their_bands(period: int, band: str) -> None:
    t = np.arange(513) - 1
    x = np.cos(2 * np.pi * (t + 0.5) / period)[None, :, None] * np.ones((1, 1, 3))
    data = white(measure(TokenSpectrum(), planted([alike(x)], [513])))
    assert float(data.band_share.sel(band=band, layer=0)) > 0.9
    if period <= 64:
        peak = float(data.frequency[np.argmax(data.whitened_power.values[0])])
        assert abs(peak - 1 / period) <= data.attrs["bandwidth"]


def test_first_position_is_left_out() -> None:
    x = noise(6, 3, 40, 6)
    loud = x.copy()
    loud[:, 0] *= 1e4
    one, other = (measure(TokenSpectrum(), planted([alike(v)], [40, 33, 25])) for v in (x, loud))
    xr.testing.assert_identical(one, other)


def test_single_loud_features_do_not_move_the_whitened_mean() -> None:
    x = noise(7, 4, 200, 20)
    loud = x.copy()
    loud[..., 3] = 100 * remembering(np.random.default_rng(8), (4, 200, 1), 0.95)[..., 0]
    data = measure(TokenSpectrum(), planted([alike(loud)], [200] * 4)).sel(
        category="all", layer=0, site="attn_out"
    )
    assert float(data.slope.sel(scaling="raw")) < -1
    assert abs(float(data.slope.sel(scaling="whitened"))) < 0.4


# ------------------------------------------------------------------------------------------- limits


def test_a_site_that_writes_nothing_has_no_shape() -> None:
    layers = [alike(noise(9, 2, 30, 4)) for _ in range(2)]
    layers[1] = {**layers[1], "attn_out": np.full((2, 30, 4), 0.1)}
    data = measure(TokenSpectrum(), planted(layers, [30, 26]))
    silent = data.sel(category="all", site="attn_out", layer=1)
    for name in ("slope", "spectral_entropy", "autocorrelation_time", "slow_share", "memory"):
        assert np.isnan(silent[name]).all(), name
        assert not np.isnan(data[name].sel(category="all", layer=0)).any(), name
    assert (silent.power == 0).all()
    assert (data.attention_share.sel(category="all", layer=1) == 0).all()


def test_segments_follow_the_shortest_prompt_or_the_user() -> None:
    assert [TokenSpectrum().segment_of(n) for n in (18, 33, 34, 130, 5000)] == [16, 16, 32, 128, 128]
    x = noise(10, 2, 60, 3)
    data = measure(TokenSpectrum(segment=20), planted([alike(x)], [60, 40]))
    assert data.sizes["frequency"] == 9
    assert data.period.values[0] == 20
    with pytest.raises(PromptError, match="22"):
        measure(TokenSpectrum(segment=20), planted([alike(x)], [60, 21]))
    for segment in (2, 15, 17):
        with pytest.raises(
            ParameterError, match="'segment' parameter of token_spectrum must be 0, or an even"
        ):
            TokenSpectrum(segment=segment)


def test_trials_plant_where_they_say() -> None:
    for world in WORLDS:
        input_ = TokenSpectrum().trial(np.random.default_rng(11), world, 4.0)
        found = measure(TokenSpectrum(), input_).slow_share_effect.sel(category="all")
        assert (found.sel(layer=input_.truth["slow_share"]).mean("layer") > 0.02).all(), world
    with pytest.raises(ParameterError, match="no world"):
        TokenSpectrum().trial(np.random.default_rng(0), "flat", 0.0)
