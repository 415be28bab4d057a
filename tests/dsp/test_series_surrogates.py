"""Surrogates of series, by what they keep and lose, and by what a test with them says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal
from scipy import stats

from resonance_lens.dsp.filters import band_pass
from resonance_lens.dsp.series_surrogates import circular_shift, iaaft, phase_randomised
from resonance_lens.errors import AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal
from resonance_lens.stats.inference import infer
from resonance_lens.stats.surrogate_tests import of_surrogates
from tests.by_hand import Floats

Make = Callable[..., torch.Tensor]
ALL: list[Make] = [circular_shift, phase_randomised, iaaft]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def follow(noise: Floats, correlation: float) -> Floats:
    """Return stationary AR(1) series along the last axis."""
    first = noise[..., :1]
    rest = noise[..., 1:] * math.sqrt(1 - correlation**2)
    state = correlation * first
    later, _ = scipy_signal.lfilter([1.0], [1.0, -correlation], rest, zi=state)
    return np.concatenate([first, later], axis=-1)


def red(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(follow(rng(seed).normal(size=shape), 0.8))


# What is kept, and what is lost ----------------------------------------------------------------


def test_a_circular_shift_is_a_roll_and_every_draw_is_another() -> None:
    x = red(4, 37)
    made = circular_shift(x, 1, 36, rng())
    assert made.shape == (36, 4, 37)
    for row in range(4):
        rolls = [np.roll(x[row].numpy(), k) for k in range(1, 37)]
        found = sorted(next(k for k, r in enumerate(rolls) if np.array_equal(r, d)) for d in made[:, row])
        assert found == list(range(36))  # each of them once, and never the series as it was
    assert not torch.equal(made[0, 0] - x[0], made[0, 1] - x[1])


@pytest.mark.parametrize("n", [2, 3, 8, 31, 128])
def test_random_phases_keep_the_spectrum(n: int) -> None:
    x = red(3, n) + 4
    made = phase_randomised(x, 1, 20, rng())
    expected = np.abs(np.fft.rfft(x.numpy()))
    np.testing.assert_allclose(np.abs(np.fft.rfft(made.numpy())), np.tile(expected, (20, 1, 1)), atol=1e-10)
    np.testing.assert_allclose(made.mean(-1), x.mean(-1).expand(20, 3), atol=1e-12)
    if n > 8:
        phases = np.angle(np.fft.rfft(made.numpy())[..., 1:-1]).ravel()
        assert stats.kstest(phases, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_random_phases_make_values_normal() -> None:
    x = torch.from_numpy(rng().exponential(size=(1, 2048)) ** 2)
    made = phase_randomised(x, 1, 5, rng())
    assert stats.skew(x[0]) > 3
    assert abs(stats.skew(made[:, 0], axis=-1)).max() < 0.4


def test_phases_drawn_together_keep_cross_spectra_and_apart_they_do_not() -> None:
    x = red(2, 3, 64)
    x[:, 1] += torch.roll(x[:, 0], 3, -1)
    batch = Signal(x.permute(0, 2, 1).float(), ("batch", "token", "head"))
    spectrum = np.fft.rfft(x.numpy())
    expected = spectrum[:, :, None] * spectrum[:, None].conj()
    made = phase_randomised(batch, "token", 10, rng(), together="head")
    assert made.shape == (10, 2, 64, 3) and made.dtype == torch.float32
    drawn = np.fft.rfft(made.double().numpy(), axis=2).transpose(0, 1, 3, 2)
    found = drawn[:, :, :, None] * drawn[:, :, None].conj()
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-3)
    turned = np.angle(drawn[:, :, 0] / spectrum[None, :, 0])
    assert np.abs(turned[:, 0] - turned[:, 1]).max() > 1  # prompts do not share their phases
    apart = np.fft.rfft(phase_randomised(x, 2, 10, rng()).numpy())
    assert np.abs(apart[:, :, 0] * apart[:, :, 1].conj() - expected[:, 0, 1]).max() > 10


def test_shifts_drawn_together_keep_series_beside_each_other() -> None:
    x = red(2, 5, 20)
    made = circular_shift(x, 2, 6, rng(), together=1)
    both = x[:, 0] * x[:, 1]
    for draw in made:
        for row in range(2):
            products = sorted((draw[row, 0] * draw[row, 1]).tolist())
            np.testing.assert_allclose(products, sorted(both[row].tolist()))
    apart = circular_shift(x, 2, 6, rng())
    assert abs(sorted((apart[0, 0, 0] * apart[0, 0, 1]).tolist())[0] - min(both[0].tolist())) > 1e-6


@pytest.mark.parametrize("kind, within", [("red", 0.02), ("skewed", 0.2), ("binary", 0.3)])
def test_iaaft_keeps_values_exactly_and_the_spectrum_nearly(kind: str, within: float) -> None:
    x = red(6, 512)
    if kind == "skewed":
        x = x.exp()
    if kind == "binary":
        x = (x > 0).double()
    made = iaaft(x, 1, 5, rng())
    for draw in made:
        assert torch.equal(draw.sort(dim=1).values, x.sort(dim=1).values)
    wanted = np.abs(np.fft.rfft(x.numpy()))
    error = np.abs(np.abs(np.fft.rfft(made.numpy())) - wanted)
    relative = np.sqrt((error**2).sum(-1) / (wanted**2).sum(-1))
    assert relative.max() < within
    # Another order: surrogates do not resemble the series, nor each other.
    assert float((made == x).double().mean()) < (1.0 if kind == "binary" else 0.05)
    single = iaaft(x.float(), 1, 2, rng())
    assert torch.equal(single[0].sort(dim=1).values, x.float().sort(dim=1).values)


def test_iaaft_is_the_algorithm_written_out() -> None:
    x = red(1, 64)
    made = iaaft(x, 1, 1, rng(5))[0, 0].numpy()
    series = x[0].numpy()
    ordered, amplitude = np.sort(series), np.abs(np.fft.rfft(series))
    found = series[rng(5).permuted(np.tile(np.arange(64), (1, 1, 1)), axis=2)[0, 0]]
    before = None
    for _ in range(200):
        adjusted = np.fft.irfft(amplitude * np.exp(1j * np.angle(np.fft.rfft(found))), 64)
        ranks = np.argsort(np.argsort(adjusted))
        found = ordered[ranks]
        if before is not None and np.array_equal(before, ranks):
            break
        before = ranks
    np.testing.assert_array_equal(made, found)


# Records of their own lengths, and random streams ---------------------------------------------


@pytest.mark.parametrize("make", ALL)
def test_prompts_draw_by_themselves(make: Make) -> None:
    lengths = [30, 41, 30]
    x = red(3, 41, 2)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    batch = Signal(x, ("batch", "token", "d_model"), torch.tensor(lengths))
    made = make(batch, "token", 4, [rng(s) for s in range(3)])
    assert made.shape == (4, 3, 41, 2)
    for row, length in enumerate(lengths):
        alone = Signal(x[row : row + 1, :length], batch.axes)
        single = make(alone, "token", 4, [rng(row)])
        torch.testing.assert_close(made[:, row, :length], single[:, 0], rtol=0, atol=1e-12)
        assert bool((made[:, row, length:] == 0).all())
    again = make(batch, "token", 4, rng(7))
    torch.testing.assert_close(again, make(batch, "token", 4, rng(7)), rtol=0, atol=0)
    assert not torch.equal(again, make(batch, "token", 4, rng(8)))


@pytest.mark.parametrize("make", ALL)
@given(n=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_any_series_keeps_its_mean_and_power(make: Make, n: int, seed: int) -> None:
    x = torch.from_numpy(rng(seed).normal(size=(2, n)))
    made = make(x, 1, 1, rng(seed))
    torch.testing.assert_close(made.mean(-1)[0], x.mean(-1))
    torch.testing.assert_close((made**2).sum(-1)[0], (x**2).sum(-1))


@pytest.mark.parametrize("make", [phase_randomised, iaaft])
def test_a_constant_has_one_surrogate(make: Make) -> None:
    x = torch.full((2, 16), 3.5)
    torch.testing.assert_close(make(x, 1, 3, rng()), x.expand(3, 2, 16))
    one = torch.full((2, 1), 3.5)
    torch.testing.assert_close(make(one, 1, 3, rng()), one.expand(3, 2, 1))


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL)
def test_attention_is_refused_with_the_reason(make: Make) -> None:
    rows = torch.full((1, 2, 8, 8), 1 / 8)
    for signal, dim in (
        (Signal(rows, ("batch", "head", "query", "key")), "key"),
        (Signal(rows[:, :, 0], ("batch", "head", "key"), site="pattern"), "key"),
        (Signal(rows[:, :, 0], ("batch", "head", "token"), site="scores"), "token"),
    ):
        with pytest.raises(AxisError, match="sum of one .* causal mask.*surrogates.key_orders"):
            make(signal, dim, 2, rng())


def test_what_cannot_be_drawn_is_refused() -> None:
    x = red(2, 10)
    with pytest.raises(ParameterError, match="10 positions has 9 circular shifts; got n_surrogates = 10"):
        circular_shift(x, 1, 10, rng())
    with pytest.raises(ParameterError, match="'n_surrogates'"):
        phase_randomised(x, 1, 0, rng())
    with pytest.raises(ParameterError, match="one generator for each index of the first axis"):
        iaaft(x, 1, 2, [rng()])
    with pytest.raises(AxisError, match="no circular shift over 'd_model'"):
        circular_shift(Signal(x, ("batch", "d_model")), "d_model", 1, rng())
    with pytest.raises(AxisError, match="along another axis than their own"):
        phase_randomised(x, 1, 1, rng(), together=-1)
    with pytest.raises(RecordError, match="kept together need one length"):
        circular_shift(x, 1, 1, rng(), together=0, lengths=torch.tensor([10, 8]))
    with pytest.raises(RecordError, match="Surrogates of series of shape"):
        of_surrogates(lambda s: s.mean(), x, x)


# Inference -------------------------------------------------------------------------------------


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    found: torch.Tensor = (a * b).sum(-1) / (a**2).sum(-1).sqrt() / (b**2).sum(-1).sqrt()
    return found


def locking(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.exp(1j * (a - b)).mean(-1).abs()


def test_circular_shifts_of_slow_pairs_are_wrong_as_often_as_they_say() -> None:
    """SCIENCE 12: AR(1) pairs, 5 % +- 1.5 false positives; the raw correlation and PLV fail."""
    trials, n = 1000, 256
    a, b = torch.from_numpy(follow(rng(1).normal(size=(2, trials, n)), 0.9))
    sample = of_surrogates(lambda moved: correlation(a, moved), b, circular_shift(b, 1, 199, rng(2)))
    found = infer(sample, (), rng())
    assert found.units == 199
    assert abs(float((found.p <= 0.05).mean()) - 0.05) <= 0.015
    naive = 2 * stats.norm.sf(np.abs(np.arctanh(sample.value)) * math.sqrt(n - 3))
    assert float((naive <= 0.05).mean()) > 0.3


def test_circular_shifts_of_narrow_bands_are_wrong_as_often_as_they_say() -> None:
    trials, n = 1000, 256
    series = torch.from_numpy(follow(rng(3).normal(size=(2, trials, n)), 0.9))
    passed = band_pass(series, 2, 0.06, 0.1).numpy()
    a, b = torch.from_numpy(np.angle(scipy_signal.hilbert(passed)))
    sample = of_surrogates(lambda moved: locking(a, moved), b, circular_shift(b, 1, 199, rng(4)))
    found = infer(sample, (), rng())
    assert abs(float((found.p <= 0.05).mean()) - 0.05) <= 0.015
    rayleigh = np.exp(-n * sample.value**2)
    assert float((rayleigh <= 0.05).mean()) > 0.5


def test_series_in_step_are_found() -> None:
    a = torch.from_numpy(follow(rng(5).normal(size=(20, 256)), 0.9))
    b = a + red(20, 256, seed=6)
    sample = of_surrogates(lambda moved: correlation(a, moved), b, circular_shift(b, 1, 199, rng(7)))
    assert float((infer(sample, (), rng()).p <= 0.05).mean()) == 1.0
