"""Series of heads and segments that prompts share."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from resonance_lens.dsp.series import SEGMENTS, Segments, head_series, power
from resonance_lens.errors import RecordError
from resonance_lens.signal import Signal

ONES = torch.ones(3, 4, dtype=torch.float64)


def heads_of(seed: int = 0) -> Signal:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 9, 3, 4)))
    return Signal(values, ("batch", "token", "head", "d_head"))


def test_series_are_projections_and_norms() -> None:
    z = heads_of()
    v = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4)))
    by_hand = np.stack([z.values[:, :, h].numpy() @ v[h].numpy() for h in range(3)], axis=-1)
    np.testing.assert_allclose(head_series(z, "projection", 0, lambda: v), by_hand, atol=1e-12)
    np.testing.assert_allclose(head_series(z, "norm", 0, lambda: v), np.linalg.norm(z.values, axis=-1))


def test_series_are_calculated_once_for_each_draw() -> None:
    z = heads_of()
    first = head_series(z, "projection", 0, lambda: ONES)
    assert head_series(z, "projection", 0, lambda: 2 * ONES) is first
    assert head_series(z, "projection", 1, lambda: 2 * ONES) is not first


@given(st.integers(12, 3000), st.integers(0, 3000))
def test_segments_fit_and_those_of_a_shorter_prompt_begin_those_of_a_longer_one(n: int, more: int) -> None:
    short, long = Segments.of(n, n), Segments.of(n, n + more)
    assert short.length == long.length and long.starts[: len(short.starts)] == short.starts
    assert long.pairs[: len(short.pairs)] == short.pairs
    assert 2 <= len(short.starts) <= SEGMENTS and short.starts[0] == 1
    assert short.starts[-1] + short.length <= n
    assert min(np.diff(short.starts)) >= short.length * 3 // 8
    assert short.length in (8, 16, 32, 64)


@given(st.integers(12, 3000))
def test_bands_are_octaves_and_their_frequencies_lie_inside(n: int) -> None:
    segments = Segments.of(n, n)
    edges = segments.edges
    assert edges[0][0] == 2 / segments.length and edges[-1][1] == 0.5
    for (low, high), bins, size in zip(edges, segments.bands, segments.windows, strict=True):
        assert high == 2 * low and max(np.diff(bins)) <= 2
        assert bins[0] == low * size and high * size - 2 <= bins[-1] < high * size
    assert [high for _, high in edges[:-1]] == [low for low, _ in edges[1:]]


def test_spectra_are_those_of_scipy() -> None:
    segments = Segments.of(170, 200)
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 200)))
    found = segments.spectra(x)
    assert segments.length == 64 and segments.windows == (64, 64, 64, 32)
    for place, start in enumerate(segments.starts):
        by_scipy = []
        for size, bins in zip(segments.windows, segments.bands, strict=True):
            at = start + (64 - size) // 2
            piece = scipy_signal.detrend(x[:, at : at + size].numpy(), type="constant")
            window = scipy_signal.get_window("hann", size)  # periodic
            by_scipy.append(np.fft.rfft(piece * window)[:, bins])
        np.testing.assert_allclose(found[:, place], np.concatenate(by_scipy, axis=1), atol=1e-12)


def test_a_constant_has_no_spectrum() -> None:
    assert not Segments.of(50, 50).spectra(torch.full((1, 50), 0.1)).any()


def test_segments_that_a_prompt_does_not_reach() -> None:
    segments = Segments.of(41, 80)
    reached = segments.reached(torch.tensor([41, 80]))
    assert reached.sum(1).tolist() == [4, 6] and bool(reached[0, :4].all())


@pytest.mark.parametrize(("shortest", "length"), [(11, 0), (40, 32)])
def test_short_prompts_are_refused(shortest: int, length: int) -> None:
    size = length or 8
    sentence = (
        f"Two segments of {size} positions need prompts of {size * 11 // 8 + 1} tokens; the shortest has"
    )
    with pytest.raises(RecordError, match=re.escape(sentence)):
        Segments.of(shortest, 100, length)


def test_power_is_the_squared_modulus() -> None:
    x = torch.complex(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0]))
    assert power(x).tolist() == [25.0, 0.0]
