"""Inner maxima: found where they are, not where the highest of many layers is luck."""

from __future__ import annotations

import numpy as np
import pytest

from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.profiles import inner_maximum
from tests.by_hand import Floats


def profile(rng: np.random.Generator, shape: list[float], spread: float, n: int = 20) -> Floats:
    return np.array(shape) + spread * rng.normal(size=(n, len(shape)))


def test_an_inner_maximum_is_one_that_exceeds_both_ends() -> None:
    rng = np.random.default_rng(0)
    found, gain, low, high = inner_maximum(profile(rng, [0, 0.5, 1, 0.6, 0.2], 0.2), 0.05)
    assert found == 2 and low < gain < high and gain == pytest.approx(0.8, abs=0.15)
    for shape in ([0, 0.2, 0.4, 0.6, 0.8], [1, 0.5, 0.3, 0.1, 0], [1, 0.2, 0.1, 0.3, 1], [0, 1, 1, 1, 1]):
        layer, gain, _, _ = inner_maximum(profile(rng, shape, 0.05), 0.05)  # type: ignore[arg-type]
        assert layer == -1 and gain < 0.05, shape


def test_no_inner_maximum_is_found_in_flat_profiles() -> None:
    """The highest of 28 inner layers of a mean exceeds both ends by chance alone, and no bound is fooled."""
    rng = np.random.default_rng(1)
    found = naive = 0
    for n in (8, 20):
        for _ in range(200):
            rows = profile(rng, [0.0] * 30, 1.0, n)
            highest = rows[:, 1 + rows.mean(0)[1:-1].argmax()]
            naive += bootstrap_mean(highest[:, None] - rows[:, [0, -1]], rng)[1].min() > 0
            layer, _, low, _ = inner_maximum(rows, 0.0)
            assert (layer >= 0) == (low > 0)
            found += layer >= 0
    assert naive / 400 > 0.05
    assert found / 400 < 0.01


def test_bounds_of_an_inner_maximum_hold() -> None:
    rng = np.random.default_rng(2)
    shape = [0.0, 0.3, 0.9, 1.0, 0.5, 0.2]
    held = powerful = 0
    for _ in range(300):
        layer, _, low, high = inner_maximum(profile(rng, shape, 0.4), 0.05)
        held += low <= 0.8 <= high
        powerful += layer in (2, 3)
    assert held / 300 > 0.93 and powerful / 300 > 0.95


def test_too_few_layers_or_prompts_have_none() -> None:
    rng = np.random.default_rng(0)
    for rows in (rng.normal(size=(8, 2)), rng.normal(size=(2, 6)), np.full((8, 5), np.nan)):
        layer, *numbers = inner_maximum(rows, 0.0)
        assert layer == -1 and np.isnan(numbers).all()
