"""Complexities, against antropy, textbook loops, eigenvalues and cellular automata."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.dsp.complexity import (
    compression_ratio,
    lempel_ziv,
    lempel_ziv_words,
    median_split,
    participation_ratio,
    permutation_entropy,
    permuted_lempel_ziv,
)
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal
from tests.by_hand import Floats


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def words(series: Iterable[Any]) -> list[list[int]]:
    """Return the words of LZ76, from the definition."""
    series, start, made = list(series), 0, []
    while start < len(series):
        size = 1
        while start + size <= len(series) and any(
            series[at : at + size] == series[start : start + size] for at in range(start)
        ):
            size += 1
        made.append(series[start : start + size])
        start += size
    return made


# Lempel-Ziv ------------------------------------------------------------------------------------


def test_the_example_of_kaspar_and_schuster() -> None:
    series = [int(symbol) for symbol in "0001101001000101"]
    assert ["".join(map(str, word)) for word in words(series)] == ["0", "001", "10", "100", "1000", "101"]
    assert lempel_ziv_words(np.array([series]))[0] == 6


@given(st.lists(st.integers(0, 2), min_size=1, max_size=140), st.integers(2, 3))
@settings(deadline=None, max_examples=150)
def test_words_are_those_of_the_definition(series: list[int], symbols: int) -> None:
    reduced = np.array([series]) % symbols
    assert lempel_ziv_words(reduced)[0] == len(words(reduced[0]))
    if symbols == 2:
        assert lempel_ziv_words(reduced.astype(bool))[0] == len(words(reduced[0]))


@pytest.mark.parametrize("n", [1, 2, 62, 63, 64, 65, 126, 127, 128, 129, 300])
def test_every_length_around_a_machine_word(n: int) -> None:
    rng = np.random.default_rng(n)
    series = rng.integers(0, 2, size=(20, n)) & (rng.integers(0, 4, size=(20, n)) > 0)
    assert lempel_ziv_words(series.astype(bool)).tolist() == [len(words(row)) for row in series]


def test_words_are_those_of_antropy() -> None:
    import antropy

    x = np.random.default_rng(0).normal(size=(60, 512))
    x[:20] = x[:20].cumsum(1)
    x[20:40] = np.sin(np.arange(512) / 7) + 0.3 * x[20:40]
    split = x > np.median(x, axis=1, keepdims=True)
    expected = [antropy.lziv_complexity(row) for row in split.astype(np.uint32)]
    assert lempel_ziv_words(split).tolist() == expected
    found = lempel_ziv(torch.from_numpy(x), 1)
    by_antropy = [antropy.lziv_complexity(row, normalize=True) for row in split.astype(np.uint32)]
    np.testing.assert_allclose(found, by_antropy, rtol=1e-12)
    np.testing.assert_array_equal(lempel_ziv(torch.from_numpy(x), 1, normalised=False), expected)


def test_many_series_of_many_lengths_are_parsed_side_by_side() -> None:
    rng = np.random.default_rng(0)
    series = rng.integers(0, 2, size=(5000, 70)).astype(bool)
    lengths = rng.integers(0, 71, size=5000)
    found = lempel_ziv_words(series, lengths)
    for row in range(0, 5000, 97):
        assert found[row] == len(words(series[row, : lengths[row]]))
    assert lempel_ziv_words(np.zeros((0, 5), dtype=bool)).shape == (0,)


def test_a_period_has_few_words_and_a_constant_two() -> None:
    assert lempel_ziv_words(np.zeros((1, 500), dtype=bool))[0] == 2
    assert lempel_ziv_words(np.tile([0, 1], 250)[None].astype(bool))[0] == 3
    constant = lempel_ziv(torch.full((1, 64), 2.0), 1, normalised=False)
    assert constant.tolist() == [2.0]


def test_median_split_is_that_of_numpy() -> None:
    for n in (1, 2, 7, 20):
        x = noise(4, n)
        x[2] = x[2].round()  # with ties
        expected = x.numpy() > np.median(x.numpy(), axis=1, keepdims=True)
        np.testing.assert_array_equal(median_split(x, 1), expected)


@pytest.mark.parametrize("n, ones", [(6, 3), (7, 2), (5, 0), (5, 5), (1, 1), (8, 4)])
def test_the_mean_over_orders_is_that_over_all_of_them(n: int, ones: int) -> None:
    row = [1] * ones + [0] * (n - ones)
    every = [len(words(order)) for order in set(itertools.permutations(row))]
    error = np.std(every) / math.sqrt(4000)
    assert permuted_lempel_ziv(n, ones) == pytest.approx(np.mean(every), abs=4 * error + 1e-12)
    assert permuted_lempel_ziv(n, ones) == permuted_lempel_ziv(n, ones)
    with pytest.raises(ParameterError, match="'ones' parameter"):
        permuted_lempel_ziv(5, 6)


def automaton(rule: int, seed: int, width: int = 128, steps: int = 192) -> Floats:
    cells = np.random.default_rng(seed).integers(0, 2, size=width)
    rows = []
    for _ in range(steps):
        rows.append(cells)
        cells = (rule >> (4 * np.roll(cells, 1) + 2 * cells + np.roll(cells, -1))) & 1
    return np.array(rows)


def test_cellular_automata_stand_in_the_order_of_their_classes() -> None:
    """SCIENCE 11: rules 0, 168 < 204, 179, 7 < 54, 110, 137 < 146, 22, 30, 150 (I < II < IV < III)."""
    classes = {"I": (0, 168), "II": (204, 179, 7), "IV": (54, 110, 137), "III": (146, 22, 30, 150)}
    found: dict[str, list[float]] = {}
    for name, rules in classes.items():
        for rule in rules:
            # Each cell over 128 steps, once it has settled.
            over_time = np.concatenate([automaton(rule, seed)[64:].T for seed in range(5)])
            mean = lempel_ziv_words(over_time.astype(bool)).mean() / (128 / 7)
            found.setdefault(name, []).append(float(mean))
    means = [np.mean(found[name]) for name in classes]
    assert means == sorted(means) and all(b > a + 0.1 for a, b in zip(means, means[1:], strict=False))
    assert max(found["I"]) <= min(found["II"]) and max(found["II"]) < min(found["IV"])
    assert max(found["IV"]) < min(found["III"])


# Ordinal patterns ------------------------------------------------------------------------------


@pytest.mark.parametrize("order, delay", [(2, 1), (3, 1), (3, 4), (4, 1), (5, 2), (7, 1)])
def test_permutation_entropy_is_antropy_s(order: int, delay: int) -> None:
    import antropy

    x = noise(6, 300)
    x[3:] = x[3:].cumsum(1)
    x[5] = x[5].round()  # with ties
    for normalised in (True, False):
        bits = [antropy.perm_entropy(row, order, delay, normalize=normalised) for row in x.numpy()]
        expected = np.array(bits) * (1.0 if normalised else math.log(2))
        found = permutation_entropy(x, 1, order=order, delay=delay, normalised=normalised)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert permutation_entropy(x.float(), 1).dtype == torch.float32
    np.testing.assert_allclose(permutation_entropy(x.float(), 1), permutation_entropy(x, 1), atol=1e-6)


def test_a_ramp_has_one_pattern_and_noise_all() -> None:
    assert float(permutation_entropy(torch.arange(20.0), 0)) == 0
    assert float(permutation_entropy(torch.zeros(20), 0)) == 0
    zigzag = torch.tensor([0.0, 1.0]).repeat(50) + torch.arange(100.0) * 1e-3
    assert float(permutation_entropy(zigzag, 0, order=2)) == pytest.approx(1, abs=1e-3)
    assert float(permutation_entropy(noise(20_000), 0)) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_complexities_do_not_change_with_scale(seed: int) -> None:
    x = noise(1, 60, seed=seed)
    for measure in (lempel_ziv, permutation_entropy, compression_ratio):
        torch.testing.assert_close(measure(x, 1), measure(3 * x + 7, 1))


# Compression -----------------------------------------------------------------------------------


def test_compression_ratio_is_zlib_s() -> None:
    x = noise(3, 400)
    x[1] = torch.arange(400) % 2
    for levels in (2, 16):
        found = compression_ratio(x, 1, levels=levels)
        for row, ratio in zip(x.numpy(), found, strict=True):
            rank = np.argsort(np.argsort(row, kind="stable"), kind="stable")
            raw = bytes((rank * levels // 400).tolist())
            # Two bytes of header and four of checksum come off.
            bits = 8 * (len(zlib.compress(raw, 9)) - 6)
            assert float(ratio) == pytest.approx(bits / (400 * math.log2(levels)))
    assert float(compression_ratio(noise(1, 4000), 1)) > 0.9
    assert float(compression_ratio(torch.arange(4000.0)[None], 1)) < 0.1


# Participation ratio ---------------------------------------------------------------------------


@pytest.mark.parametrize("n, d", [(40, 8), (8, 40), (2, 5)])
def test_participation_ratio_is_that_of_eigenvalues(n: int, d: int) -> None:
    x = noise(3, n, d) + 5
    expected = []
    for cloud in x.numpy():
        values = np.linalg.eigvalsh(np.cov(cloud.T))
        expected.append(values.sum() ** 2 / (values**2).sum())
    np.testing.assert_allclose(participation_ratio(x, 1, 2), expected, rtol=1e-10)
    np.testing.assert_allclose(participation_ratio(x.mT, -1, -2), expected, rtol=1e-10)
    np.testing.assert_allclose(participation_ratio(x.float(), 1, 2), expected, rtol=1e-4)


def test_participation_ratio_counts_directions() -> None:
    cloud = noise(5000, 10)
    cloud[:, 4:] = 0
    turn = torch.linalg.qr(noise(10, 10, seed=1)).Q
    assert float(participation_ratio(cloud @ turn, 0, 1)) == pytest.approx(4, rel=0.01)
    line = torch.arange(20.0)[:, None] * torch.ones(3)
    assert float(participation_ratio(line, 0, 1)) == pytest.approx(1)
    assert bool(participation_ratio(torch.full((6, 5), 0.1), 0, 1).isnan())


# Signals, lengths, refusals --------------------------------------------------------------------


def test_each_record_has_its_own_length() -> None:
    lengths = [40, 75, 53]
    values = noise(3, 75, 4)
    for row, length in enumerate(lengths):
        values[row, length:] = 0
    batch = Signal(values, ("batch", "token", "d_model"), torch.tensor(lengths))
    for measure in (lempel_ziv, permutation_entropy, compression_ratio):
        found = measure(batch, "token")
        assert found.shape == (3, 4)
        for row, length in enumerate(lengths):
            assert torch.equal(found[row], measure(values[row, :length], 0))
    found = participation_ratio(batch, "token", "d_model")
    same = participation_ratio(values, 1, 2, lengths=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = participation_ratio(values[row, :length], 0, 1)
        torch.testing.assert_close(found[row], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(same[row], alone, rtol=0, atol=1e-12)


def test_what_has_no_complexity_is_refused() -> None:
    x = noise(2, 9)
    nowhere = Signal(x, ("batch", "neuron"))
    for measure in (lempel_ziv, permutation_entropy, compression_ratio, median_split):
        with pytest.raises(AxisError, match="over 'neuron'"):
            measure(nowhere, "neuron")
        with pytest.raises(ActivationError, match="finite"):
            measure(x * math.nan, 1)
    with pytest.raises(RecordError, match="at least 2 positions; the shortest has 1"):
        lempel_ziv(x[:, :1], 1)
    assert lempel_ziv(x[:, :1], 1, normalised=False).tolist() == [1, 1]
    with pytest.raises(RecordError, match="at least 5 positions; the shortest has 4"):
        permutation_entropy(x[:, :4], 1, delay=2)
    for order in (1, 9):
        with pytest.raises(ParameterError, match="'order' parameter"):
            permutation_entropy(x, 1, order=order)
    with pytest.raises(ParameterError, match="'delay' parameter"):
        permutation_entropy(x, 1, delay=0)
    with pytest.raises(ParameterError, match="'levels' parameter"):
        compression_ratio(x, 1, levels=1)
    with pytest.raises(RecordError, match="at least 2 samples; the shortest has 1"):
        participation_ratio(x[:1], 0, 1)
    with pytest.raises(AxisError, match="got 1 for both"):
        participation_ratio(x, 1, -1)
    with pytest.raises(AxisError, match="no covariance over 'neuron'"):
        participation_ratio(nowhere, "neuron", "batch")
