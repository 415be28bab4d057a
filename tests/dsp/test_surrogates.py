"""Orders of keys: against loops, all orders of short prompts and closed forms; their false alarms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from resonance_lens.dsp import attention, surrogates
from resonance_lens.dsp.attention import Circle
from resonance_lens.dsp.surrogates import ChosenRows, Resultants
from tests.by_hand import Floats, attention_from, keys_of, phasor, random_attention, signal, without_first

TURN = {"full": 2 * math.pi, "half": math.pi}
MIN_KEYS = 4

SHAPES = [
    pytest.param([9, 5, 12], True, None, id="causal"),
    pytest.param([9, 5, 12], True, 5, id="sliding"),
    pytest.param([9, 5, 12], False, None, id="bidirectional"),
]


def read(
    weights: Tensor,
    lengths: Sequence[int],
    causal: bool = True,
    sliding: int | None = None,
    n_queries: int = surrogates.QUERIES,
) -> ChosenRows:
    """Return the rows of the queries that see enough keys."""
    pattern = signal(weights, lengths)
    seen = attention.window(pattern, causal=causal, sliding=sliding)
    return ChosenRows.read(pattern, seen, pattern.mask("query") & (seen.size >= MIN_KEYS), n_queries)


def orders_of(lengths: Sequence[int], n_surrogates: int, seed: int = 0) -> Tensor:
    """Return orders of the keys of each prompt, its generator keyed by its number."""
    generators = [np.random.default_rng([seed, prompt]) for prompt in range(len(lengths))]
    return surrogates.key_orders(generators, torch.tensor(lengths), n_surrogates)


def mean_squares(found: Resultants, layer: int = 0) -> Floats:
    """Return the mean over prompts of the square, ``[draw, 2, head]``."""
    return (found.squares / found.prompts)[:, layer].numpy()


def places_by_hand(order: Sequence[int], keys: list[int], sliding: int | None, circle: Circle) -> list[int]:
    """Return the place of each key: its rank, or where the key was that it took over from."""
    if circle == "full" and sliding is not None and keys[0] > 1:
        before = places_by_hand(order, [key - 1 for key in keys], sliding, circle)
        # The oldest key has left, its place is taken by the newest, and the circle is turned back by one.
        return [(place - 1) % len(keys) for place in (*before[1:], before[0])]
    return [sum(order.index(other) < order.index(key) for other in keys) for key in keys]


def moved(row: Floats, keys: list[int], places: list[int]) -> Floats:
    """Return the row with the weight of each key on the key whose place it takes."""
    found = np.zeros_like(row)
    for key, place in zip(keys, places, strict=True):
        found[keys[place]] = row[key]
    return found


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("lengths, causal, sliding", SHAPES)
def test_resultants_are_those_of_a_loop(
    lengths: list[int], causal: bool, sliding: int | None, circle: Circle
) -> None:
    weights = random_attention(lengths, 2, causal=causal, sliding=sliding).double()
    orders = orders_of(lengths, 6)
    found = surrogates.surrogate_resultants([read(weights, lengths, causal, sliding)], orders, circle)
    squares, resultants = np.zeros((2, 7, 2, 2))
    for p, length in enumerate(lengths):
        queries = [i for i in range(length) if len(keys_of(i, length, causal, sliding)) >= MIN_KEYS]
        for draw, order in enumerate(orders[p].tolist()):
            for h, i in itertools.product(range(2), queries):
                keys = keys_of(i, length, causal, sliding)
                places = places_by_hand(order, keys, sliding, circle)
                row = moved(weights[p, h, i].numpy(), keys, places)
                kept = abs(phasor(row, keys, TURN[circle]))
                dropped = abs(phasor(*without_first(row, keys), TURN[circle]))
                for reading, value in enumerate((kept, dropped)):
                    squares[draw, reading, h] += value**2 / len(queries)
                    resultants[draw, reading, h] += value / len(queries)
    np.testing.assert_allclose(found.squares[:, 0], squares, atol=1e-6)
    np.testing.assert_allclose(found.lengths[:, 0], resultants, atol=1e-6)
    assert found.prompts.tolist() == [[[3, 3], [3, 3]]]


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("lengths, causal, sliding", SHAPES)
def test_the_first_draw_is_what_the_moments_say(
    lengths: list[int], causal: bool, sliding: int | None, circle: Circle
) -> None:
    weights = random_attention(lengths, 3, causal=causal, sliding=sliding, seed=5)
    found = surrogates.surrogate_resultants(
        [read(weights, lengths, causal, sliding)], orders_of(lengths, 1), circle
    )
    pattern = signal(weights, lengths)
    seen = attention.window(pattern, causal=causal, sliding=sliding)
    sums = attention.moments(pattern, seen, circle)
    counts = (pattern.mask("query") & (seen.size >= MIN_KEYS))[:, None]
    for reading, z in enumerate((sums.phasor, sums.free_phasor / sums.free)):
        expected = attention.mean_over_queries(z.abs() ** 2, counts).sum(0)
        torch.testing.assert_close(found.squares[0, 0, reading], expected, atol=2e-6, rtol=0)
        expected = attention.mean_over_queries(z.abs(), counts).sum(0)
        torch.testing.assert_close(found.lengths[0, 0, reading], expected, atol=2e-6, rtol=0)


@given(
    st.integers(2, 30),
    st.one_of(st.none(), st.integers(2, 12)),
    st.sampled_from(["full", "half"]),
    st.integers(0, 99),
)
def test_each_window_is_permuted_alike_at_all_queries(
    n: int, sliding: int | None, circle: Circle, seed: int
) -> None:
    orders = orders_of([n], 5, seed)[0]
    before: dict[int, Tensor] = {}
    for i in range(n):
        keys = keys_of(i, n, True, sliding)
        places = surrogates.key_places(orders, keys[0], len(keys), circle)
        assert torch.equal(places.sort(dim=1).values, torch.arange(len(keys)).expand_as(places).int())
        assert places[0].tolist() == list(range(len(keys)))
        if keys[0] == 0:
            assert not places[:, 0].any()
        now = {key: places[:, at] for at, key in enumerate(keys)}
        both = sorted(before.keys() & now.keys())
        slides = keys[0] > 1
        for a, b in itertools.pairwise(both):
            if slides and circle == "full":
                assert torch.equal((now[a] - now[b]) % len(keys), (before[a] - before[b]) % len(keys))
            else:
                assert torch.equal(now[a] < now[b], before[a] < before[b])
        before = now


def test_orders_are_uniform_and_leave_the_first_key() -> None:
    orders = orders_of([4, 2], 6000)
    assert orders[:, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert not orders[..., 0].any()
    counts = np.unique(orders[0, 1:].numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.001
    assert orders[1].tolist() == [[0, 1, 2, 3]] * 6001  # one free key, then padding


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("sliding", [None, 3, 4])
def test_all_orders_of_a_short_prompt_have_the_closed_form_as_their_mean(
    sliding: int | None, circle: Circle
) -> None:
    n = 6
    weights = random_attention([n], 3, seed=7, sliding=sliding).double()
    every = [[0, *order] for order in itertools.permutations(range(1, n))]
    for i in range(2, n):
        keys = keys_of(i, n, True, sliding)
        one = ChosenRows(
            weights[:, :, [i]],
            torch.tensor([[True]]),
            torch.tensor([[keys[0]]]),
            torch.tensor([[len(keys)]]),
        )
        found = surrogates.surrogate_resultants([one], torch.tensor([every]), circle)
        expected = closed_form(weights, [n], sliding, circle)[:, :, :, i]
        np.testing.assert_allclose(found.squares.mean(0)[0], expected[0], atol=1e-7)


def closed_form(weights: Tensor, lengths: Sequence[int], sliding: int | None, circle: Circle) -> Floats:
    """Return the mean square under permutation as the analysis has it, ``[batch, 2, head, query]``."""
    pattern = signal(weights, lengths)
    seen = attention.window(pattern, causal=True, sliding=sliding)
    sums = attention.moments(pattern, seen, circle)
    laid = attention.angles(seen, circle)
    squares = attention.row_squares(pattern, seen)
    kept = attention.permuted_square(sums.first, sums.free, squares, laid.first, laid.rest, seen.free)
    dropped = attention.permuted_square(
        torch.zeros_like(sums.free),
        torch.ones_like(sums.free),
        squares / sums.free**2,
        torch.zeros_like(laid.first),
        laid.free_uniform,
        seen.free,
    )
    return torch.stack([kept, dropped], dim=1).numpy()


def iid(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0, 1.5, (n, n))


def sink(rng: np.random.Generator, n: int) -> Floats:
    scores = rng.normal(0, 1.5, (n, n))
    scores[:, 0] += 4
    return scores


def persistent(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0, 3, n) + rng.normal(0, 0.3, (n, n))


def drifting(rng: np.random.Generator, n: int) -> Floats:
    """Scores of each key that follow an autoregressive course over queries, half life 13 queries."""
    scores = rng.normal(0, 1, (n, n))
    for i in range(1, n):
        scores[i] = 0.95 * scores[i - 1] + math.sqrt(1 - 0.95**2) * scores[i]
    return 3 * scores


World = Callable[[np.random.Generator, int], Floats]


def attention_of(world: World, n_prompts: int, n_heads: int, n: int, sliding: int | None) -> Tensor:
    """Return attention with scores of a world, drawn anew for each head and prompt."""
    rng = np.random.default_rng(11)
    scores = np.stack([[world(rng, n) for _ in range(n_heads)] for _ in range(n_prompts)])
    back = np.arange(n)[:, None] - np.arange(n)
    scores[..., (back < 0) | (back >= (sliding or n))] = -np.inf
    return torch.tensor(scores).softmax(-1).float()


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize(
    "world, sliding", [(iid, None), (sink, None), (persistent, None), (iid, 9), (persistent, 9)]
)
def test_mean_over_surrogates_is_the_closed_form(world: World, sliding: int | None, circle: Circle) -> None:
    n, n_draws = 32, 2000
    weights = attention_of(world, 1, 4, n, sliding)
    found = surrogates.surrogate_resultants(
        [read(weights, [n], sliding=sliding)], orders_of([n], n_draws), circle
    )
    draws = mean_squares(found)[1:]
    expected = closed_form(weights, [n], sliding, circle)[0, :, :, MIN_KEYS - 1 :].mean(-1)
    error = draws.std(axis=0) / math.sqrt(n_draws)
    assert (abs(draws.mean(axis=0) - expected) < 4 * error + 1e-6).all()


def test_a_head_that_stays_on_a_key_has_the_spread_of_a_single_draw() -> None:
    """Half on the first key and half on another: the square is ``cos(angle / 2)^2``, of variance 1/8."""
    n, other = 60, 5
    weights = torch.zeros(1, 1, n, n)
    weights[..., 0] = weights[..., other] = 0.5
    rows = read(weights, [n])
    late = ChosenRows(rows.weights[:, :, 30:], rows.counts[:, 30:], rows.start[:, 30:], rows.size[:, 30:])
    coherent = mean_squares(surrogates.surrogate_resultants([late], orders_of([n], 1500), "full"))[1:, 0, 0]
    afresh = mean_squares(order_per_query(late, n, 1500, "full"))[1:, 0, 0]
    n_rows = late.counts.shape[1]
    assert coherent.mean() == pytest.approx(0.5, abs=0.04)
    assert coherent.std() == pytest.approx(math.sqrt(1 / 8), rel=0.06)
    assert afresh.std() == pytest.approx(math.sqrt(1 / 8 / n_rows), rel=0.1)


def order_per_query(rows: ChosenRows, n: int, n_surrogates: int, circle: Circle, seed: int = 0) -> Resultants:
    """Return what comes out when each query has an order of its own: the null that forgets the past."""
    parts = []
    for index in range(rows.counts.shape[1]):
        one = slice(index, index + 1)
        row = ChosenRows(rows.weights[:, :, one], rows.counts[:, one], rows.start[:, one], rows.size[:, one])
        orders = orders_of([n] * len(rows.counts), n_surrogates, seed * 1000 + index + 1)
        parts.append(surrogates.surrogate_resultants([row], orders, circle))
    squares = torch.stack([part.squares for part in parts]).sum(0)
    return replace(parts[0], squares=squares, prompts=torch.stack([part.prompts for part in parts]).sum(0))


def p_values(found: Sequence[Resultants]) -> Floats:
    """Return two-sided p of each prompt, reading and head, ``[prompt, 2, head]``."""
    values = np.stack([mean_squares(each) for each in found])  # [prompt, draw, 2, head]
    center = values[:, 1:].mean(axis=1, keepdims=True)
    away = abs(values - center)
    return np.asarray((away[:, 1:] >= away[:, :1] - 1e-9).mean(axis=1) * 199 / 200 + 1 / 200)


def trials(world: World, sliding: int | None, circle: Circle, *, per_query: bool = False) -> Floats:
    """Return p of 800 heads, 40 in each of 20 prompts of 40 tokens, none of which knows of positions."""
    n = 40
    weights = attention_of(world, 20, 40, n, sliding)
    found = []
    for prompt in range(20):
        rows = read(weights[[prompt]], [n], sliding=sliding, n_queries=20)
        if per_query:
            found.append(order_per_query(rows, n, 199, circle, seed=prompt))
        else:
            found.append(surrogates.surrogate_resultants([rows], orders_of([n], 199, prompt), circle))
    return p_values(found)


@pytest.mark.parametrize("sliding", [None, 12])
@pytest.mark.parametrize("world", [iid, drifting, persistent])
def test_false_alarms_are_as_many_as_were_allowed(world: World, sliding: int | None) -> None:
    p = trials(world, sliding, "full")
    for reading in range(2):
        for level in (0.05, 0.1):
            few, many = stats.binom.interval(0.99, 800, level)
            count = int((p[:, reading] <= level).sum())
            assert count <= many
            # Persistent weights in growing windows: draws vary more than the statistic, on the safe side.
            assert count >= (few if world is not persistent or sliding else 0.3 * level * 800)


@pytest.mark.parametrize("sliding", [None, 12])
def test_on_the_half_circle_false_alarms_are_fewer(sliding: int | None) -> None:
    p = trials(persistent, sliding, "half")
    assert (p <= 0.05).mean(axis=(0, 2)).max() <= stats.binom.ppf(0.995, 800, 0.05) / 800


def test_an_order_of_its_own_for_each_query_raises_false_alarms() -> None:
    p = trials(persistent, None, "full", per_query=True)
    assert (p <= 0.05).mean(axis=(0, 2)).min() > 0.3


def test_a_peak_is_found_in_a_single_prompt() -> None:
    n = 40
    weights = attention_from(lambda p, h, i, j: -30 * (j / (i + 1) - 0.6) ** 2, [n], 1)
    found = surrogates.surrogate_resultants([read(weights, [n])], orders_of([n], 199), "full")
    assert p_values([found]).max() == pytest.approx(1 / 200)


def test_padding_and_company_change_nothing() -> None:
    lengths = [21, 40, 33]
    weights = random_attention(lengths, 2, seed=3)
    weights[0, :, 21:] = weights[2, :, 33:] = 0.2  # what padding queries attend to is not looked at
    together = surrogates.surrogate_resultants(
        [read(weights, lengths, n_queries=16)], orders_of(lengths, 20), "full"
    )
    squares, numbers = torch.zeros(21, 1, 2, 2), torch.zeros(1, 2, 2)
    for p, length in enumerate(lengths):
        alone = surrogates.key_orders([np.random.default_rng([0, p])], torch.tensor([length]), 20)
        rows = read(weights[[p], :, :length, :length], [length], n_queries=16)
        found = surrogates.surrogate_resultants([rows], alone, "full")
        squares, numbers = squares + found.squares, numbers + found.prompts
    torch.testing.assert_close(together.squares, squares, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.prompts.double(), numbers.double())


def test_prompts_without_a_query_that_counts_add_nothing() -> None:
    lengths = [3, 12]
    weights = random_attention(lengths, 2)
    weights[1, 1] = 0.0
    weights[1, 1, :, 0] = 1.0  # a head with nothing left once the first key is dropped
    found = surrogates.surrogate_resultants([read(weights, lengths)], orders_of(lengths, 3), "full")
    assert found.prompts.tolist() == [[[1, 1], [1, 0]]]
    assert not found.squares[:, 0, 1, 1].any()
    torch.testing.assert_close(found.squares[:, 0, 0, 1], torch.ones(4).double())
    none = surrogates.surrogate_resultants([read(weights[:1], [3])], orders_of([3], 3), "full")
    assert not none.prompts.any()


def test_layers_keep_their_own_windows_and_share_their_orders() -> None:
    n = 20
    shapes = [None, 6, None, 6]
    layers = [
        read(random_attention([n], 2, seed=seed, sliding=sliding), [n], sliding=sliding)
        for seed, sliding in enumerate(shapes)
    ]
    orders = orders_of([n], 9)
    together = surrogates.surrogate_resultants(layers, orders, "full")
    for layer, rows in enumerate(layers):
        alone = surrogates.surrogate_resultants([rows], orders, "full")
        torch.testing.assert_close(together.squares[:, layer], alone.squares[:, 0], atol=1e-6, rtol=0)
        torch.testing.assert_close(together.lengths[:, layer], alone.lengths[:, 0], atol=1e-6, rtol=0)


def test_many_draws_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, orders = read(random_attention([15], 2), [15]), orders_of([15], 40)
    whole = surrogates.surrogate_resultants([rows], orders, "full")
    monkeypatch.setattr(surrogates, "DRAWS_AT_ONCE", 7)
    pieces = surrogates.surrogate_resultants([rows], orders, "full")
    torch.testing.assert_close(whole.squares, pieces.squares, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype, allowed", [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_single_precision_is_enough(dtype: torch.dtype, allowed: float) -> None:
    weights = attention_of(sink, 1, 3, 80, None).double()
    weights = weights / weights.sum(-1, keepdim=True)
    orders = orders_of([80], 30)
    exact = surrogates.surrogate_resultants([read(weights, [80])], orders, "full")
    rough = surrogates.surrogate_resultants([read(weights.to(dtype), [80])], orders, "full")
    torch.testing.assert_close(rough.squares, exact.squares, atol=allowed, rtol=0)


@given(
    st.lists(st.lists(st.booleans(), min_size=20, max_size=20), min_size=1, max_size=4), st.integers(2, 25)
)
def test_queries_are_spread_over_those_that_count(counts: list[list[bool]], n: int) -> None:
    positions, there = surrogates.spaced(torch.tensor(counts), n)
    for row, found, real in zip(counts, positions, there, strict=True):
        available = [i for i, counted in enumerate(row) if counted]
        taken = found[real].tolist()
        assert len(taken) == min(len(available), n)
        assert set(taken) <= set(available)
        if taken:
            assert (taken[0], taken[-1]) == (available[0], available[-1])
            gaps = np.diff([available.index(i) for i in taken])
            assert gaps.size == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
