"""Sums over attention rows, against loops over queries and keys in double precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.dsp import attention
from resonance_lens.dsp.attention import Circle, Window
from resonance_lens.signal import Signal
from tests.by_hand import Floats, keys_of, phasor, random_attention, signal, without_first

TURN = {"full": 2 * math.pi, "half": math.pi}

SHAPES = [
    pytest.param([9, 5, 12], True, None, id="causal"),
    pytest.param([9, 5, 12], True, 4, id="sliding"),
    pytest.param([9, 5, 12], True, 40, id="sliding-wider-than-the-prompt"),
    pytest.param([9, 5, 12], False, None, id="bidirectional"),
    pytest.param([70, 131], True, None, id="several-blocks-of-queries"),
    pytest.param([70, 131], True, 20, id="sliding-several-blocks"),
    pytest.param([70, 131], False, None, id="bidirectional-several-blocks"),
]


@pytest.mark.parametrize("lengths, causal, sliding", SHAPES)
def test_windows_hold_the_keys_that_a_query_sees(
    lengths: list[int], causal: bool, sliding: int | None
) -> None:
    pattern = signal(torch.zeros(len(lengths), 1, max(lengths), max(lengths)), lengths)
    seen = attention.window(pattern, causal=causal, sliding=sliding)
    for p, length in enumerate(lengths):
        row = p if seen.start.shape[0] > 1 else 0
        for i in range(length):
            start, size = int(seen.start[row, i]), int(seen.size[row, i])
            keys = keys_of(i, length, causal, sliding)
            assert list(range(start, start + size)) == keys
            assert bool(seen.holds_first[row, i]) == (0 in keys)
            assert int(seen.free[row, i]) == len([key for key in keys if key != 0])


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("lengths, causal, sliding", SHAPES)
def test_sums_are_those_of_a_loop(
    lengths: list[int], causal: bool, sliding: int | None, circle: Circle
) -> None:
    weights = random_attention(lengths, 2, causal=causal, sliding=sliding)
    pattern = signal(weights, lengths)
    seen = attention.window(pattern, causal=causal, sliding=sliding)
    sums = attention.moments(pattern, seen, circle)
    squares = attention.row_squares(pattern, seen)
    entropy = attention.row_entropy(pattern, seen)
    step = 1 if max(lengths) < 20 else 7
    for p, length in enumerate(lengths):
        for h in range(2):
            for i in range(0, length, step):
                row = weights[p, h, i].double().numpy()
                keys = keys_of(i, length, causal, sliding)
                free = [key for key in keys if key != 0]
                at = (p, h, i)
                assert float(sums.first[at]) == pytest.approx(row[0] if 0 in keys else 0, abs=1e-6)
                assert float(sums.free[at]) == pytest.approx(row[free].sum(), abs=1e-6)
                assert float(sums.position[at]) == pytest.approx(sum(j * row[j] for j in keys), abs=1e-4)
                assert abs(complex(sums.phasor[at]) - phasor(row, keys, TURN[circle])) < 2e-6
                assert abs(complex(sums.free_phasor[at]) - phasor(row, free, TURN[circle])) < 2e-6
                assert float(squares[at]) == pytest.approx((row[free] ** 2).sum(), abs=1e-6)
                expected = -sum(a * math.log(a) for a in row[keys] if a > 0)
                assert float(entropy[at]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("lengths, causal, sliding", SHAPES[:4])
def test_phasors_of_uniform_rows_are_those_of_a_loop(
    lengths: list[int], causal: bool, sliding: int | None, circle: Circle
) -> None:
    pattern = signal(torch.zeros(len(lengths), 1, max(lengths), max(lengths)), lengths)
    seen = attention.window(pattern, causal=causal, sliding=sliding)
    laid = attention.angles(seen, circle)
    ones = np.ones(max(lengths))
    for p, length in enumerate(lengths):
        row = p if seen.start.shape[0] > 1 else 0
        for i in range(length):
            keys = keys_of(i, length, causal, sliding)
            free = [key for key in keys if key != 0]
            all_of_them = phasor(ones, keys, TURN[circle])
            first = 1.0 if 0 in keys else 0.0
            assert abs(complex(laid.uniform[row, i]) - all_of_them) < 1e-9
            assert abs(complex(laid.first[row, i]) - first) < 1e-9
            assert abs(complex(laid.rest[row, i]) - (all_of_them - first)) < 1e-9
            assert abs(complex(laid.free_uniform[row, i]) - phasor(ones, free, TURN[circle])) < 1e-9


def test_padding_and_what_lies_beyond_a_prompt_change_nothing() -> None:
    short, long = random_attention([7], 2, seed=1), torch.zeros(2, 2, 80, 80)
    long[0, :, :7, :7] = short[0]
    long[1] = random_attention([80], 2, seed=2)[0]
    alone, among = signal(short, [7]), signal(long, [7, 80])
    for circle in ("full", "half"):
        one = attention.moments(alone, attention.window(alone, causal=True, sliding=None), circle)
        other = attention.moments(among, attention.window(among, causal=True, sliding=None), circle)
        torch.testing.assert_close(one.phasor[0], other.phasor[0, :, :7])
        torch.testing.assert_close(one.free_phasor[0], other.free_phasor[0, :, :7])
        torch.testing.assert_close(one.position[0], other.position[0, :, :7])


def test_each_length_has_its_own_window_when_nothing_is_causal() -> None:
    """Two batches of one width and other lengths must not share what is kept between batches."""
    for lengths in ([4, 9], [9, 4]):
        weights = random_attention(lengths, 1, causal=False)
        pattern = signal(weights, lengths)
        seen = attention.window(pattern, causal=False, sliding=None)
        sums = attention.moments(pattern, seen, "full")
        for p, length in enumerate(lengths):
            row = weights[p, 0, 2].double().numpy()
            expected = phasor(row, range(length), 2 * math.pi)
            assert abs(complex(sums.phasor[p, 0, 2]) - expected) < 2e-6


def test_uniform_attention_on_half_a_circle_has_a_resultant_of_two_over_pi() -> None:
    n = 400
    pattern = signal(torch.full((1, 1, n, n), 1.0).tril() / torch.arange(1, n + 1)[:, None])
    seen = attention.window(pattern, causal=True, sliding=None)
    half = attention.moments(pattern, seen, "half").phasor[0, 0, -1].abs()
    full = attention.moments(pattern, seen, "full").phasor[0, 0, 1:].abs()
    assert float(half) == pytest.approx(2 / math.pi, abs=1e-5)
    assert float(full.max()) < 1e-5


@pytest.mark.parametrize("circle", ["full", "half"])
def test_a_sink_leaves_the_free_coherence_of_a_uniform_head_as_it_is(circle: Circle) -> None:
    n = 30
    even = torch.ones(1, 1, n, n).tril() / torch.arange(1, n + 1)[:, None]
    sink = 0.1 * even
    sink[..., 0] += 0.9
    values = []
    for weights in (even, sink):
        pattern = signal(weights)
        sums = attention.moments(pattern, attention.window(pattern, causal=True, sliding=None), circle)
        values.append((sums.free_phasor.abs() / sums.free)[0, 0, 2:])
    torch.testing.assert_close(values[0], values[1], atol=2e-6, rtol=0)
    if circle == "full":
        assert float(values[1].max()) < 1e-5
    # Had the circle kept its gap, the uniform head would have coherence by artefact.
    gap = abs(phasor(np.full(n, 1 / (n - 1)), range(n), TURN[circle]) - 1 / (n - 1))
    assert abs(gap - float(values[0][-1])) > 1e-3


def test_entropy_without_the_first_key_is_that_of_the_renormalised_row() -> None:
    lengths = [11, 6]
    weights = random_attention(lengths, 2, seed=4)
    pattern = signal(weights, lengths)
    seen = attention.window(pattern, causal=True, sliding=None)
    sums = attention.moments(pattern, seen, "full")
    whole = attention.row_entropy(pattern, seen)
    found = (whole + torch.special.xlogy(sums.first, sums.first)) / sums.free + sums.free.log()
    for p, length in enumerate(lengths):
        for i in range(1, length):
            row, keys = without_first(weights[p, 0, i].double().numpy(), range(i + 1))
            expected = -sum(row[j] * math.log(row[j]) for j in keys)
            assert float(found[p, 0, i]) == pytest.approx(expected, abs=1e-4)


def permuted_by_hand(row: Floats, phasors: Sequence[complex]) -> float:
    """Return the mean of abs(z)^2 over all orders of the weights but the first."""
    found = []
    for order in itertools.permutations(range(1, len(row))):
        z = row[0] * phasors[0] + sum(
            row[k] * phasors[j] for j, k in zip(range(1, len(row)), order, strict=True)
        )
        found.append(abs(z) ** 2)
    return float(np.mean(found))


def closed(row: Floats, phasors: Sequence[complex]) -> float:
    """Return the same in closed form, as the analysis calls it."""
    free = torch.tensor(row[1:]).sum()[None, None, None]
    squares = (torch.tensor(row[1:]) ** 2).sum()[None, None, None]
    rest = torch.tensor([[sum(phasors[1:])]], dtype=torch.complex128)
    on = torch.tensor([[phasors[0]]], dtype=torch.complex128)
    first = torch.tensor([[[row[0]]]])
    n_free = torch.tensor([[len(row) - 1]])
    return float(attention.permuted_square(first, free, squares, on, rest, n_free))


@pytest.mark.parametrize("n", [3, 4, 5, 6])
@pytest.mark.parametrize("circle", ["full", "half"])
def test_permuted_square_is_the_mean_over_all_permutations(n: int, circle: Circle) -> None:
    rng = np.random.default_rng(n)
    row = rng.dirichlet(np.ones(n) * 0.5)
    phasors = [complex(np.exp(1j * TURN[circle] * j / n)) for j in range(n)]
    assert closed(row, phasors) == pytest.approx(permuted_by_hand(row, phasors), rel=1e-9)
    # On the whole circle it does not matter which weight stands still; on half of it, it does.
    moved = permuted_by_hand(np.roll(row, 1), phasors)
    assert (abs(moved - closed(row, phasors)) > 1e-4) == (circle == "half")


def test_permuted_square_is_what_random_permutations_give() -> None:
    n = 40
    rng = np.random.default_rng(0)
    row = rng.dirichlet(np.ones(n) * 0.3)
    angle = 2 * math.pi * np.arange(n) / n
    draws = np.array([
        abs(row[0] + (rng.permutation(row[1:]) * np.exp(1j * angle[1:])).sum()) ** 2 for _ in range(20_000)
    ])  # fmt: skip
    expected = closed(row, [complex(np.exp(1j * a)) for a in angle])
    assert abs(draws.mean() - expected) < 4 * draws.std() / math.sqrt(len(draws))


def test_permuted_square_needs_two_free_keys() -> None:
    assert math.isnan(closed(np.array([0.5, 0.5]), [1.0, -1.0]))
    assert closed(np.array([0.0, 1.0, 0.0]), [1.0, 1.0, -1.0]) == pytest.approx(1.0)


def test_mean_over_queries_ignores_what_does_not_count() -> None:
    values = torch.tensor([[[1.0, 2.0, float("nan"), float("inf")]], [[3.0, 5.0, 7.0, 9.0]]])
    counts = torch.tensor([[[True, True, False, False]], [[False] * 4]])
    found = attention.mean_over_queries(values, counts)
    assert found.dtype == torch.float64
    assert float(found[0, 0]) == 1.5
    assert bool(found[1, 0].isnan())


rows = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda row: sum(row) > 0.1)


def last_row(row: Sequence[float]) -> tuple[torch.Tensor, Window]:
    """Return attention whose last query has these weights, normalised, and its window."""
    n = len(row)
    pattern = torch.eye(n, dtype=torch.float64)[None, None].clone()
    pattern[0, 0, -1] = torch.tensor(row, dtype=torch.float64) / sum(row)
    return pattern, attention.window(signal(pattern), causal=True, sliding=None)


@given(rows, st.sampled_from(["full", "half"]))
def test_resultants_and_entropies_stay_within_their_bounds(row: list[float], circle: Circle) -> None:
    pattern, seen = last_row(row)
    sums = attention.moments(signal(pattern), seen, circle)
    entropy = attention.row_entropy(signal(pattern), seen)
    assert float(sums.phasor.abs().max()) <= 1 + 1e-9
    assert -1e-12 <= float(entropy[0, 0, -1]) <= math.log(len(row)) + 1e-9
    # Mean square of the resultant under permutation is a mean of squares of resultants.
    if len(row) > 2:
        weights = (np.asarray(row) / sum(row)).astype(float)
        n = len(row)
        phasors = [complex(np.exp(1j * TURN[circle] * j / n)) for j in range(n)]
        assert -1e-9 <= closed(weights, phasors) <= 1 + 1e-9


@settings(max_examples=60)
@given(rows, st.integers(0, 20))
def test_moving_all_weights_around_the_circle_turns_the_phasor(row: list[float], by: int) -> None:
    n = len(row)
    before = attention.moments(signal(last_row(row)[0]), last_row(row)[1], "full")
    moved = last_row(list(np.roll(row, by)))
    after = attention.moments(signal(moved[0]), moved[1], "full")
    turned = complex(before.phasor[0, 0, -1]) * np.exp(2j * math.pi * by / n)
    assert abs(complex(after.phasor[0, 0, -1]) - turned) < 1e-9


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(0, 8))
def test_moving_weights_back_moves_their_mean_position(row: list[float], by: int) -> None:
    short = [*row, *[0.0] * 8]
    moved = [*[0.0] * by, *row, *[0.0] * (8 - by)]
    positions = []
    for each in (short, moved):
        pattern, seen = last_row(each)
        positions.append(float(attention.moments(signal(pattern), seen, "full").position[0, 0, -1]))
    assert positions[1] - positions[0] == pytest.approx(by, abs=1e-9)


def test_layers_with_different_windows_keep_their_own_when_folded() -> None:
    values = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).tril()
    pattern = Signal(values, ("batch", "head", "query", "key"))
    read = [
        attention.Rows.read(pattern, causal=True, sliding=sliding, circle="full") for sliding in (None, 4)
    ]
    rows = attention.Rows.fold([layer.carry() for layer in read])
    query = torch.arange(9)
    assert rows.window.size.tolist() == 2 * [(query + 1).tolist()] + 2 * [(query + 1).clamp(max=4).tolist()]
    assert rows.window.start.tolist() == 2 * [[0] * 9] + 2 * [(query - 3).clamp(min=0).tolist()]
    folded = attention.unfold(rows.moments.free, 2)  # [batch, layer, head, query]
    for index, layer in enumerate(read):
        assert torch.equal(folded[:, index], layer.moments.free)
