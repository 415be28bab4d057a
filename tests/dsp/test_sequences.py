"""Bands, entropies and spreads of sequences, against loops, sums over all orders, and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resonance_lens.dsp.sequences import band_edges, entropy, low_share, power, spectral, spreads

Floats = NDArray[np.float64]


def weights(n_records: int, n: int, seed: int = 0) -> torch.Tensor:
    """Return softmax weights of records that differ in sharpness."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_records, n)) * rng.uniform(0.3, 3, size=(n_records, 1))
    return torch.from_numpy(scores).softmax(-1)


def by_hand(row: Floats, window: str, padding: int) -> Floats:
    """Return the columns of `spectral`, frequency by frequency."""
    n = len(row)
    if window == "hann":
        row = row * np.hanning(n)
    size = n * padding
    found: dict[float, float] = {}
    for k in range(size):  # both signs of a frequency, added up
        value = abs(sum(x * np.exp(-2j * np.pi * k * t / size) for t, x in enumerate(row))) ** 2
        frequency = min(k, size - k) / size
        found[frequency] = found.get(frequency, 0.0) + value
    total = sum(found.values())
    low = sum(p for f, p in found.items() if f / 0.5 < 0.25) / total
    high = sum(p for f, p in found.items() if f / 0.5 >= 0.75) / total
    most = max(found.values())
    shares = [p / total for p in found.values()]
    rest = total - found[0.0]
    return np.array(
        [
            low,
            1 - low - high,
            high,
            found[0.0] / total,
            most / (total - most),
            -sum(p * math.log(p) for p in shares if p > 0),
            sum(f * p for f, p in found.items()) / rest,
        ]
    )


@pytest.mark.parametrize("window", ["none", "hann"])
@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("n", [16, 21, 24])
def test_spectral_columns_are_those_of_a_loop(window: str, padding: int, n: int) -> None:
    rows = weights(4, n)
    squares = power(rows, (window,), zero_padding=padding)[0]
    found = spectral(squares, n * padding)
    expected = np.stack([by_hand(row, window, padding) for row in rows.numpy()])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@given(st.integers(0, 10**6), st.integers(9, 80))
@settings(max_examples=30, deadline=None)
def test_power_adds_up_to_that_of_the_record(seed: int, n: int) -> None:
    rows = weights(3, n, seed)
    np.testing.assert_allclose(power(rows)[0].sum(-1), n * rows.square().sum(-1), rtol=1e-5)


@pytest.mark.parametrize("n", [9, 10, 16, 17, 24, 64, 511, 512])
def test_bands_have_the_frequencies_that_they_say(n: int) -> None:
    low, high = band_edges(n)
    fractions = np.arange(n // 2 + 1) / n / 0.5
    assert (fractions[:low] < 0.25).all() and (fractions[low:] >= 0.25).all()
    assert (fractions[:high] < 0.75).all() and (fractions[high:] >= 0.75).all()


@pytest.mark.parametrize("n, fixed", [(9, 0), (9, 1), (10, 1)])
def test_the_null_of_the_low_share_is_the_mean_over_all_orders(n: int, fixed: int) -> None:
    row = weights(1, n, seed=5)[0]
    row[0] += 1.0  # a sink
    orders = np.array(list(itertools.permutations(range(fixed, n))))
    orders = np.concatenate([np.tile(np.arange(fixed), (len(orders), 1)), orders], axis=1)
    squares = np.abs(np.fft.fft(row.numpy()[orders], axis=-1)) ** 2  # both signs
    frequency = np.minimum(np.arange(n), n - np.arange(n)) / n
    band = (frequency > 0) & (frequency < 0.125)
    shares = squares[:, band].sum(1) / squares[:, 1:].sum(1)
    share, level = low_share(power(row[None])[0], n)[0]
    assert float(level) == pytest.approx(shares.mean(), rel=1e-6)
    assert float(share) == pytest.approx(shares[0], rel=1e-4)


def test_the_low_share_is_not_a_number_where_it_does_not_exist() -> None:
    for n in (2, 5, 8):  # no frequency in the band
        assert bool(low_share(power(weights(2, n))[0], n).isnan().all())
    even = torch.full((1, 20), 1 / 20) + 1e-9 * torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    assert bool(low_share(power(even)[0], 20).isnan().all())
    assert bool(low_share(power(torch.zeros(1, 20))[0], 20).isnan().all())


def test_cosines_are_in_their_bands() -> None:
    t = torch.arange(48, dtype=torch.float64)
    for k, band in ((2, 0), (5, 0), (6, 1), (12, 1), (17, 1), (18, 2), (24, 2)):
        rows = (2 * math.pi * k * t / 48).cos()[None]
        found = spectral(power(rows)[0], 48)[0]
        assert float(found[band]) == pytest.approx(1, abs=1e-5)
        assert float(found[6]) == pytest.approx(k / 48, abs=1e-6)
        assert float(found[5]) == pytest.approx(0, abs=1e-4)  # one frequency: no entropy
        assert bool(found[4].isnan()) or float(found[4]) > 1e6


def test_entropy_is_that_of_scipy() -> None:
    from scipy import stats

    rows = weights(5, 40)
    np.testing.assert_allclose(entropy(3 * rows), stats.entropy(rows.numpy(), axis=-1), rtol=1e-10)
    one = torch.zeros(1, 12, dtype=torch.float64)
    one[0, 3] = 1
    assert float(entropy(one)) == pytest.approx(0, abs=1e-12)
    assert bool(entropy(torch.zeros(1, 12)).isnan())


@pytest.mark.parametrize("n", [1, 7, 12, 31])
def test_spreads_are_those_of_integrals(n: int) -> None:
    from scipy import integrate

    row = weights(1, n, seed=n)[0].numpy()
    unit = row / np.sqrt(np.sum(row**2))
    t = np.arange(n)

    def squared(f: float) -> float:
        return float(abs(np.sum(unit * np.exp(-2j * np.pi * f * t))) ** 2)

    variance = integrate.quad(lambda f: f**2 * squared(f), -0.5, 0.5, epsabs=1e-11, limit=400)[0]
    position = np.sum(unit**2 * t)
    expected = [
        np.sqrt(np.sum(unit**2 * (t - position) ** 2)),
        np.sqrt(variance),
        abs(1 - squared(0.5)) / (4 * np.pi),
    ]
    np.testing.assert_allclose(spreads(torch.from_numpy(row)[None])[0], expected, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_sequence_is_narrower_than_its_bound(seed: int, n: int, signed: bool) -> None:
    rows = weights(4, n, seed)
    if signed:
        rows = rows * torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size=(4, n)))
    position, frequency, bound = spreads(rows).unbind(-1)
    assert bool((position * frequency >= bound - 1e-6).all())


def test_a_gaussian_reaches_the_bound_and_one_position_has_none() -> None:
    t = torch.arange(201, dtype=torch.float64)
    gaussian = torch.exp(-((t - 100) ** 2) / (4 * 8.0**2))[None]
    position, frequency, bound = spreads(gaussian)[0]
    assert float(position) == pytest.approx(8, rel=1e-6)
    assert float(position * frequency) == pytest.approx(1 / (4 * math.pi), rel=1e-4)
    assert float(bound) == pytest.approx(1 / (4 * math.pi), rel=1e-6)
    one = torch.zeros(1, 40, dtype=torch.float64)
    one[0, 9] = 0.5
    np.testing.assert_allclose(spreads(one)[0], [0, 1 / math.sqrt(12), 0], atol=1e-5)


def test_single_precision_is_close() -> None:
    rows = weights(6, 50)
    torch.testing.assert_close(spreads(rows.float()).double(), spreads(rows).double(), rtol=1e-4, atol=1e-5)
    one, other = (spectral(power(each, ("hann",))[0], 50) for each in (rows.float(), rows))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
