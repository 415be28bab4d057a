"""Gains, delays, peaks and orders against systems whose response has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from resonance_lens.dsp.excitation import Timing, driven, multisine, tone
from resonance_lens.dsp.identification import (
    at_lines,
    by_order,
    coherence_floor,
    delay,
    gains,
    half_power,
    nonlinear_share,
    of_impulses,
    resonances,
)
from resonance_lens.errors import RecordError

TIMING = Timing(onset=1, settle=63, period=64, periods=3)
LINES = TIMING.lines


def filtered(b: list[float], a: list[float], values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(scipy_signal.lfilter(b, a, values.numpy(), axis=-1))


def response(b: list[float], a: list[float], seed: int = 0) -> torch.Tensor:
    """H at every line, from one multisine through a filter."""
    drive = driven(TIMING, multisine(64, LINES, np.random.default_rng(seed)))
    heard = at_lines(filtered(b, a, drive)[:, None], TIMING, LINES)
    return heard / at_lines(drive[:, None], TIMING, LINES)


@pytest.mark.parametrize(
    ("b", "a"),
    [([0, 0, 0, 1.0], [1.0]), ([0.2] * 5, [1.0]), ([1.0], [1.0, -0.6]), ([1.0, 0, -0.5], [1.0, -0.5, 0.7])],
    ids=["delay", "moving average", "leaky integrator", "resonator"],
)
def test_three_roads_give_the_response_of_a_filter(b: list[float], a: list[float]) -> None:
    _, expected = scipy_signal.freqz(b, a, 2 * np.pi * TIMING.frequencies(LINES).numpy())
    by_multisine = response(b, a)[:, 0].numpy()
    np.testing.assert_allclose(by_multisine, expected, atol=1e-4)
    for line in (1, 7, 31):
        drive = driven(TIMING, tone(64, line, 0.3))
        heard = at_lines(filtered(b, a, drive)[:, None], TIMING, (line,))
        ratio = (heard / at_lines(drive[:, None], TIMING, (line,))).item()
        assert ratio == pytest.approx(expected[line - 1], abs=1e-4)
    pulses = torch.eye(TIMING.tokens, dtype=torch.float64)[TIMING.onset :]
    by_impulses = of_impulses(filtered(b, a, pulses)[..., None], TIMING, LINES)[:, 0].numpy()
    np.testing.assert_allclose(by_impulses, expected, atol=1e-4)


def test_roads_agree_on_a_system_that_changes_along_the_record() -> None:
    """Any linear system: the impulses at all positions are what makes a tone, so the roads agree exactly."""
    rng = np.random.default_rng(3)
    kernel = np.tril(rng.standard_normal((256, 256)))  # [token, position]
    pulses = np.eye(256)[TIMING.onset :]
    by_impulses = of_impulses(torch.from_numpy(pulses @ kernel.T)[..., None], TIMING, LINES)[:, 0]
    for line in (2, 19):
        wave = np.exp(2j * np.pi * line / 64 * np.arange(256)) * (np.arange(256) >= 1)
        heard = (kernel @ wave)[TIMING.window]
        expected = (heard * np.exp(-2j * np.pi * line / 64 * np.arange(64, 256))).mean()
        assert by_impulses[line - 1].item() == pytest.approx(expected, abs=1e-10)
    with pytest.raises(RecordError, match="one at each of the 255 tokens from 1 to 255; got 7"):
        of_impulses(torch.zeros(7, 256, 1), TIMING, LINES)


@settings(max_examples=30, deadline=None)
@given(amplitude=st.floats(0.1, 10), phase=st.floats(-3, 3), line=st.sampled_from(LINES))
def test_a_cosine_is_its_amplitude_and_phase(amplitude: float, phase: float, line: int) -> None:
    t = torch.arange(TIMING.tokens, dtype=torch.float64) - TIMING.window.start
    wave = amplitude * torch.cos(2 * np.pi * line * t / 64 + phase)
    found = at_lines(wave[:, None], TIMING, LINES)[:, 0]
    expected = torch.zeros(len(LINES), dtype=torch.complex128)
    expected[line - 1] = amplitude * np.exp(1j * phase)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def drawn(rng: np.random.Generator, common: float, m: int, d: int) -> torch.Tensor:
    """Responses [trial, m, d] with a common part of size ``common`` and unit variance in each dimension."""
    shape = (2000, m, d)
    noise = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    return torch.from_numpy(noise + common / np.sqrt(d))


@pytest.mark.parametrize("common", [0.0, 3.0])
def test_the_coherent_gain_is_without_bias_in_many_dimensions(common: float) -> None:
    h = drawn(np.random.default_rng(5), common, 8, 50)
    size = h.abs().square().sum(-1).sqrt()
    found = gains(h.sum(1), size.sum(1), size.square().sum(1), 8)
    spread = float(found.coherent_power.std()) / np.sqrt(2000)
    assert float(found.coherent_power.mean()) == pytest.approx(common**2, abs=4 * spread)
    naive = h.mean(1).abs().square().sum(-1).mean()
    assert float(naive) == pytest.approx(common**2 + 50 / 8, rel=0.02)  # what it would be
    assert float(found.rms.square().mean()) == pytest.approx(common**2 + 50, rel=0.01)
    assert bool((found.mean <= found.rms + 1e-12).all())
    expected = common**2 / (common**2 + 50)
    assert float(found.coherence.mean()) == pytest.approx(expected, abs=0.01)
    # As it is before its bias is taken off, of unrelated responses: 1 / M.
    raw = h.sum(1).abs().square().sum(-1) / (8 * size.square().sum(1))
    if common == 0:
        assert float(raw.mean()) == pytest.approx(coherence_floor(8), rel=0.02)


def test_gains_of_one_realisation_have_no_coherence_and_agreeing_ones_have_one() -> None:
    h = torch.complex(torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64))
    size = h.abs().square().sum(-1).sqrt()
    one = gains(h, size, size.square(), 1)
    assert bool(one.coherence.isnan().all()) and bool(one.coherent.isnan().all())
    four = gains(4 * h, 4 * size, 4 * size.square(), 4)
    torch.testing.assert_close(four.coherence, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(four.coherent, four.rms)
    silent = gains(0 * h, 0 * size, 0 * size, 2)
    assert bool((silent.coherence == 0).all())
    with pytest.raises(RecordError, match="at least one realisation"):
        gains(h, size, size, 0)
    with pytest.raises(RecordError, match="at least one realisation"):
        coherence_floor(0)


@given(shift=st.integers(0, 31), seed=st.integers(0, 20))
def test_a_pure_delay_has_its_delay_in_any_number_of_features(shift: int, seed: int) -> None:
    direction = torch.from_numpy(np.random.default_rng(seed).standard_normal(5))
    f = TIMING.frequencies(LINES)
    h = torch.polar(torch.ones_like(f), -2 * np.pi * f * shift)[:, None] * direction
    found = delay(3 * h, 3 * h.abs().square().sum(-1), f)
    np.testing.assert_allclose(found, shift, atol=1e-9)
    weak = delay(h, 3 * h.abs().square().sum(-1), f)  # no larger than chance would make it
    assert bool(weak.isnan().all())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), amplitude=st.floats(0.1, 2))
def test_orders_come_apart(seed: int, amplitude: float) -> None:
    first, second, third = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 7)))

    def respond(e: float) -> torch.Tensor:
        response: torch.Tensor = e * first + e**2 * second + e**3 * third
        return response

    found = by_order(respond(amplitude / 2), respond(amplitude), respond(2 * amplitude))
    torch.testing.assert_close(found.linear, amplitude * first)
    torch.testing.assert_close(found.quadratic, amplitude**2 * second)
    torch.testing.assert_close(found.cubic, amplitude**3 * third)
    assert float(nonlinear_share(amplitude * first, 2 * amplitude * first, (0,))) < 1e-25
    # Of a pure cube D(2e) = 8 D(e): (8 - 2)^2 / 8^2.
    assert float(nonlinear_share(third, 8 * third, (0,))) == pytest.approx(36 / 64)
    assert bool(nonlinear_share(0 * third, 0 * third, (0,)).isnan())


def test_the_half_power_frequency_of_a_leaky_integrator() -> None:
    """abs(H)^2 = 1 / (1 - 2 r cos w + r^2), half of it where cos w = (1 + r^2 - 2 (1 - r)^2) / 2r."""
    r = 0.6
    w = np.arccos((1 + r**2 - 2 * (1 - r) ** 2) / (2 * r))
    f = torch.linspace(0, 0.5, 2001, dtype=torch.float64)
    gain = 1 / torch.sqrt(1 - 2 * r * torch.cos(2 * np.pi * f) + r**2)
    assert float(half_power(f, gain)) == pytest.approx(w / (2 * np.pi), abs=1e-6)
    assert bool(half_power(f, torch.ones_like(f)).isnan())
    assert resonances(f, gain, torch.zeros_like(f)) == []


@pytest.mark.parametrize(("centre", "q"), [(0.1, 20.0), (0.25, 8.0)])
def test_a_resonance_has_its_centre_and_quality_and_beats_its_null(centre: float, q: float) -> None:
    b, a = scipy_signal.iirpeak(2 * centre, q)
    f = torch.linspace(0, 0.5, 4001, dtype=torch.float64)
    _, h = scipy_signal.freqz(b, a, 2 * np.pi * f.numpy())
    gain = torch.from_numpy(abs(h))
    (found,) = resonances(f, gain, torch.full_like(f, 0.5))
    assert found.frequency == pytest.approx(centre, abs=2e-4)
    assert found.q == pytest.approx(q, rel=0.01)
    assert resonances(f, gain, torch.full_like(f, 1.1)) == []
