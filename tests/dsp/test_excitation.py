"""What a drive is made of: lines, powers, crests, and when it is listened to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.dsp.excitation import (
    Timing,
    chirp,
    crest_factor,
    driven,
    line_of,
    multisine,
    noise,
    require_lines,
    tone,
)
from resonance_lens.errors import ParameterError, RecordError


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_multisine_has_equal_power_at_its_lines_and_none_elsewhere(data: st.DataObject) -> None:
    period = data.draw(st.integers(8, 96))
    lines = data.draw(st.lists(st.integers(1, (period - 1) // 2), min_size=1, unique=True))
    values = multisine(period, lines, np.random.default_rng(data.draw(st.integers(0, 99))))
    power = abs(np.fft.rfft(values.numpy())) ** 2 / period**2
    expected = np.zeros_like(power)
    expected[lines] = 0.5 / len(lines)  # the other half is at the negative frequency
    np.testing.assert_allclose(power, expected, atol=1e-12)
    assert float(values.square().mean()) == pytest.approx(1)


def test_a_multisine_is_flat_and_draws_differ() -> None:
    lines = range(1, 32)
    found = torch.stack([multisine(64, lines, np.random.default_rng(seed)) for seed in range(40)])
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (40, 31))
    t = 2 * np.pi * np.arange(64) / 64
    plain = torch.from_numpy(np.cos(np.arange(1, 32)[:, None] * t + phases[..., None]).sum(1))
    # A sine has 1.41; sums of many cosines with random phases about 2.7.
    assert crest_factor(plain).median() > 2.3
    assert crest_factor(found).median() < 1.75
    alike = np.corrcoef(found.numpy())[~np.eye(40, dtype=bool)]
    assert abs(alike.mean()) < 0.03 and abs(alike).max() < 0.9


@given(period=st.integers(3, 64), phase=st.floats(-3, 3), data=st.data())
def test_a_tone_is_one_line(period: int, phase: float, data: st.DataObject) -> None:
    line = data.draw(st.integers(1, (period - 1) // 2))
    spectrum = np.fft.rfft(tone(period, line, phase).numpy()) / period
    expected = np.zeros(len(spectrum), dtype=complex)
    expected[line] = np.exp(1j * phase) / np.sqrt(2)
    np.testing.assert_allclose(spectrum, expected, atol=1e-12)


def test_a_chirp_and_noise_have_unit_root_mean_square_and_all_lines() -> None:
    swept = chirp(64, range(1, 32))
    drawn = noise(4096, np.random.default_rng(1))
    assert float(swept.square().mean()) == pytest.approx(1) and float(drawn.square().mean()) == pytest.approx(
        1
    )
    power = abs(np.fft.rfft(swept.numpy()))[1:32] ** 2
    assert power.min() > 0.1 * power.mean() and abs(swept.mean()) < 1e-12
    assert abs(np.corrcoef(drawn[:-1].numpy(), drawn[1:].numpy())[0, 1]) < 0.05


@settings(max_examples=60)
@given(tokens=st.integers(2, 3000), onset=st.integers(0, 3))
def test_a_timing_fits_its_record_or_says_what_would(tokens: int, onset: int) -> None:
    try:
        timing = Timing.fit(tokens, onset=onset)
    except RecordError as error:
        assert tokens - onset < 20 and str(20 + onset) in str(error)
        return
    assert timing.tokens == tokens and timing.onset == onset
    assert timing.periods >= 2 and timing.settle >= timing.period // 2
    assert timing.heard == timing.window.stop - timing.window.start


def test_a_drive_is_silent_before_its_onset_and_whole_where_it_is_heard() -> None:
    timing = Timing(onset=3, settle=6, period=8, periods=2)
    period = multisine(8, (1, 3), np.random.default_rng(0))
    values = driven(timing, period)
    assert values.shape == (25,) and bool((values[:3] == 0).all()) and bool((values[3:] != 0).all())
    np.testing.assert_array_equal(values[timing.window], np.tile(period.numpy(), 2))
    np.testing.assert_array_equal(values[3:9], np.tile(period.numpy(), 2)[10:16])
    spectrum = np.fft.rfft(values[timing.window].numpy())
    np.testing.assert_allclose(np.flatnonzero(abs(spectrum) > 1e-9), timing.bins((1, 3)).numpy())
    assert timing.frequencies((1, 3)).tolist() == [1 / 8, 3 / 8]


def test_what_cannot_be_driven_is_said_in_a_sentence() -> None:
    timing = Timing.fit(256)
    assert (timing.period, timing.periods, timing.settle) == (64, 3, 63)
    with pytest.raises(ParameterError, match="Nyquist frequency, one half; choose lines from 1 to 31"):
        require_lines(timing, [1, 32])
    with pytest.raises(ParameterError, match="below the resolution of a period of 64 tokens"):
        require_lines(timing, [0])
    with pytest.raises(ParameterError, match="no two the same"):
        require_lines(timing, [2, 2])
    with pytest.raises(ParameterError, match="choose one from 0.01562 to 0.4844"):
        line_of(timing, 0.5)
    with pytest.raises(ParameterError, match="choose one from"):
        line_of(timing, 0.001)
    assert line_of(timing, 0.25) == 16
    with pytest.raises(RecordError, match="need 41 tokens; lengthen the prompts, or shorten the period"):
        Timing.fit(30, period=16)
    with pytest.raises(ParameterError, match="The 'periods' parameter of Timing must be"):
        Timing(settle=0, period=8, periods=0)
    with pytest.raises(ParameterError, match="needs as many values; got 7"):
        driven(timing, torch.zeros(7))
