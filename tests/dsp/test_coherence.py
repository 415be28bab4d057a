"""Coherence against scipy, MNE-Connectivity, closed forms and planted filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from resonance_lens.dsp.coherence import (
    all_pairs,
    coherence,
    coherence_matrix,
    imaginary_coherency,
    transfer,
)
from resonance_lens.errors import AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal
from tests.benchmarks.connectivity import CASES, compare


def pair(seed: int, *shape: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    return x, np.roll(x, 1, axis=-1) + 0.7 * rng.standard_normal(shape)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(30, 80), segment=st.integers(4, 12), seed=st.integers(0, 99))
def test_coherence_is_that_of_scipy(n: int, segment: int, seed: int) -> None:
    x, y = pair(seed, 3, n)
    found = coherence(torch.from_numpy(x), torch.from_numpy(y), -1, segment=segment)
    expected = scipy_signal.coherence(x, y, nperseg=segment)[1]
    np.testing.assert_allclose(found.values, expected, atol=1e-10)
    cross = scipy_signal.csd(x, y, nperseg=segment)[1].imag
    size = np.sqrt(scipy_signal.welch(x, nperseg=segment)[1] * scipy_signal.welch(y, nperseg=segment)[1])
    imaginary = imaginary_coherency(torch.from_numpy(x), torch.from_numpy(y), -1, segment=segment)
    np.testing.assert_allclose(imaginary.values, cross / size, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_pairs_are_those_of_mne(case: Any) -> None:
    x, y = pair(1, 6, 5, 32)
    _, _, gap = compare(case, np.concatenate([x, y], axis=1), repeats=1)
    assert gap < 1e-12


def test_all_pairs_are_the_pairs() -> None:
    x, y = pair(2, 4, 3, 60)  # epoch series position
    both = torch.from_numpy(np.concatenate([x, y], axis=1))
    for measure in ("squared", "imaginary"):
        found = coherence_matrix(both, -1, 1, segment=15, hop=7, measure=measure)
        # Segments of four epochs end to end are those of one long record that is never straddled.
        flat = torch.cat([both[:, :, s : s + 15] for s in range(0, 46, 7)], dim=0).movedim(0, 1).flatten(1)
        single = coherence if measure == "squared" else imaginary_coherency
        for i, j in ((0, 3), (4, 1), (2, 5)):
            one = single(flat[i], flat[j], 0, segment=15, hop=15)
            np.testing.assert_allclose(found.values[:, i, j], one.values, atol=1e-12)
        diagonal = found.values.diagonal(dim1=1, dim2=2)
        np.testing.assert_allclose(diagonal, 1.0 if measure == "squared" else 0.0, atol=1e-12)
        assert int(found.samples) == 28


def test_single_precision_is_close_to_double() -> None:
    x = torch.from_numpy(np.concatenate(pair(3, 9, 6, 64), axis=1))
    double = coherence_matrix(x, -1, 1, segment=32).values
    single = coherence_matrix(x.float(), -1, 1, segment=32).values
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 1e-5


def test_bias_of_unrelated_series_is_one_over_the_samples() -> None:
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((20, 60, 16)))
    values = coherence_matrix(x, -1, 1, segment=16, window="boxcar").values[1:-1]
    off = values[:, ~torch.eye(60, dtype=torch.bool)]
    assert float(off.mean()) == pytest.approx(1 / 20, rel=0.05)


@pytest.mark.parametrize("delay", [0, 1, 3, 7])
def test_a_delay_has_gain_one_and_its_group_delay(delay: int) -> None:
    x = np.random.default_rng(5).standard_normal(20_000 + delay)
    found = transfer(
        torch.from_numpy(x[delay:].copy()), torch.from_numpy(x[: len(x) - delay].copy()), 0, segment=128
    )
    inside = slice(4, -4)
    np.testing.assert_allclose(found.delay[inside], delay, atol=0.5)
    assert float(found.delay[inside].mean()) == pytest.approx(delay, abs=0.05)
    window = scipy_signal.get_window("hann", 128)
    kept = (window[delay:] * window[: 128 - delay]).sum() / (window**2).sum()
    assert float(found.gain[inside].mean()) == pytest.approx(kept, abs=0.01)
    if delay == 0:
        np.testing.assert_allclose(found.gain[inside], 1.0, atol=1e-10)
        np.testing.assert_allclose(found.coherence[inside], 1.0, atol=1e-10)


def test_a_filter_comes_back() -> None:
    x = np.random.default_rng(6).standard_normal(100_000)
    kernel = np.array([0.5, 0.3, 0.2])
    y = scipy_signal.lfilter(kernel, [1.0], x) + 0.3 * np.random.default_rng(7).standard_normal(len(x))
    found = transfer(torch.from_numpy(x), torch.from_numpy(y), 0, segment=256)
    _, expected = scipy_signal.freqz(kernel, worN=found.frequencies.numpy() * 2 * np.pi)
    np.testing.assert_allclose(found.response[1:-1], expected[1:-1], atol=0.06)
    np.testing.assert_allclose(found.phase[1:-1], np.angle(expected)[1:-1], atol=0.4)
    power = np.abs(expected) ** 2
    np.testing.assert_allclose(found.coherence[1:-1], (power / (power + 0.09))[1:-1], atol=0.12)


def test_imaginary_coherency_is_above_zero_where_x_follows() -> None:
    x = np.random.default_rng(8).standard_normal(4_000)
    later, earlier = torch.from_numpy(x[:-1].copy()), torch.from_numpy(x[1:].copy())
    assert float(imaginary_coherency(later, earlier, 0, segment=64).values[2:-2].mean()) > 0.3
    assert float(imaginary_coherency(earlier, later, 0, segment=64).values[2:-2].mean()) < -0.3
    same = imaginary_coherency(later, later, 0, segment=64).values
    assert float(same.abs().max()) < 1e-12


def test_signals_by_name_unequal_prompts_and_refusals() -> None:
    values = torch.from_numpy(np.random.default_rng(9).standard_normal((3, 40, 4)))
    x = Signal(values, ("batch", "token", "head"), torch.tensor([40, 24, 30]))
    found = coherence_matrix(x, "token", "head", segment=12)
    assert found.values.shape == (7, 4, 4)
    assert int(found.samples) == 5 + 3 + 4
    with pytest.raises(AxisError, match="'head'"):
        coherence_matrix(x, "head", "token", segment=2)
    with pytest.raises(RecordError, match="at least 2 segments"):
        coherence(values[0, :, 0], values[0, :, 1], 0, segment=40)
    with pytest.raises(ParameterError, match="'measure' parameter"):
        coherence_matrix(x, "token", "head", segment=12, measure="plv")  # type: ignore[arg-type]
    even = values.clone()
    even[..., 2] = 0.1
    with pytest.raises(RecordError, match="one is constant"):
        coherence_matrix(even, 1, 2, segment=12)
    with pytest.raises(RecordError, match="one is constant"):
        transfer(even[0, :, 2], even[0, :, 1], 0, segment=12)


def test_a_frequency_without_power_shares_nothing() -> None:
    n = torch.arange(64, dtype=torch.float64)
    wave = torch.stack([torch.cos(2 * torch.pi * n / 8), torch.sin(2 * torch.pi * n / 8)])
    values = coherence_matrix(wave, 1, 0, segment=16, window="boxcar").values
    np.testing.assert_allclose(values[2], np.ones((2, 2)), atol=1e-9)
    rest = torch.cat([values[:2], values[3:]])
    assert float(rest.abs().max()) == 0


def test_coefficients_of_any_scale() -> None:
    rng = np.random.default_rng(10)
    c = torch.from_numpy(rng.standard_normal((7, 5, 3)) + 1j * rng.standard_normal((7, 5, 3)))
    assert torch.allclose(all_pairs(c), all_pairs(c * torch.tensor([1e-6, 1.0, 1e6])))


def test_gradients_go_through() -> None:
    x, y = (torch.from_numpy(v).requires_grad_() for v in pair(11, 1, 24))
    assert torch.autograd.gradcheck(lambda a, b: coherence(a, b, -1, segment=8).values, (x, y))
