"""Words as waves, against sums over sampled time and over all ways to deal the frequencies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resonance_lens.dsp import waves
from resonance_lens.dsp.surrogates import ChosenRows
from resonance_lens.dsp.wave_rows import Rows, Words, spectral_numbers
from resonance_lens.errors import ParameterError, RecordError
from tests.by_hand import Floats

SAMPLES = 40_000
"""Of the window: the mean of a product of waves is then right to 1e-5."""


def sampled(frequencies: Floats, *, harmonics: int, duration: float) -> Floats:
    """Return waves of unit mean power at midpoints of the window, from their definition: ``[kind, time]``."""
    time = (np.arange(SAMPLES) + 0.5) / SAMPLES * duration - duration / 2
    made = np.stack(
        [sum(np.exp(2j * np.pi * h * f * time) / h for h in range(1, harmonics + 1)) for f in frequencies]
    )
    return np.asarray(made / np.sqrt((np.abs(made) ** 2).mean(axis=1, keepdims=True)))


def test_frequencies_span_two_decades_and_the_inverse_mirrors_them() -> None:
    rarity = torch.tensor([0.0, 0.5, 1.0, float("nan")])
    low, high = (waves.wave_frequencies(rarity, common=c) for c in waves.COMMON)
    np.testing.assert_allclose(low, [0.1, 1, 10, np.nan], rtol=1e-6)
    np.testing.assert_allclose(high, [10, 1, 0.1, np.nan], rtol=1e-6)
    with pytest.raises(
        ParameterError, match="'common' parameter of wave_frequencies must be 'low' or 'high'"
    ):
        waves.wave_frequencies(rarity, common="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(("harmonics", "duration"), [(4, 10.0), (1, 3.0), (6, 2.5)])
def test_overlaps_are_means_over_the_window(harmonics: int, duration: float) -> None:
    # Equal ones, near ones, and ones of which a harmonic meets a harmonic.
    frequencies = np.array([0.1, 0.1, 0.1 + 1e-7, 0.2, 0.3, 1.37, 1.4, 4.1, 10.0])
    made = sampled(frequencies, harmonics=harmonics, duration=duration)
    expected = (made @ made.conj().T).real / SAMPLES
    found = waves.overlaps(torch.tensor(frequencies), harmonics=harmonics, duration=duration)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.diagonal(), 1)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-10  # means of products are no other matrix


def test_overlap_of_pure_tones_is_a_sinc() -> None:
    frequencies = torch.tensor([0.5, 0.62, 3.0], dtype=torch.float64)
    found = waves.overlaps(frequencies, harmonics=1, duration=7.0)
    expected = np.sinc(7 * (frequencies[:, None] - frequencies[None, :]).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_harmonics_overlap_where_they_meet() -> None:
    """A wave at 1 and one at 2: harmonics 2 and 4 of the first are 1 and 2 of the second."""
    found = waves.overlaps(torch.tensor([1.0, 2.0], dtype=torch.float64), harmonics=4, duration=10.0)
    powers = 1 + 1 / 4 + 1 / 9 + 1 / 16
    assert float(found[0, 1]) == pytest.approx((1 / 2 + 1 / (4 * 2)) / powers)


def test_waves_are_those_of_the_definition() -> None:
    frequencies = np.array([0.13, 2.0, 9.7])
    time = (np.arange(SAMPLES) + 0.5) / SAMPLES * 5 - 2.5
    found = waves.waves(torch.tensor(frequencies), torch.tensor(time), harmonics=3, duration=5.0)
    np.testing.assert_allclose(found, sampled(frequencies, harmonics=3, duration=5.0), atol=1e-6)
    whole = waves.wave_power(torch.tensor([2.0]), harmonics=3, duration=5.0)
    assert float(whole) == pytest.approx(1 + 1 / 4 + 1 / 9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 2**31))
def test_power_is_never_below_zero_nor_above_that_in_phase(rarity: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    frequencies = waves.wave_frequencies(torch.tensor(rarity, dtype=torch.float64))
    n = len(rarity)
    weights = torch.tensor(rng.dirichlet(np.ones(n)))[:, None]
    summed = waves.phasors(weights, waves.position_phases(n), torch.arange(n), n)
    power = float(waves.superposed_power(summed, waves.overlaps(frequencies)))
    assert -1e-12 <= power <= 1 + 1e-12


def test_tokens_of_one_kind_are_one_wave() -> None:
    """Whole turns of the phase cancel, and equal phases add up: the weights are not divided away."""
    overlap, same = torch.ones(1, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    weights = torch.tensor([[0.4, 0.25], [0.3, 0.25], [0.2, 0.25], [0.1, 0.25]], dtype=torch.float64)
    turning = waves.phasors(weights, waves.position_phases(4), same, 1)
    still = waves.phasors(weights, torch.zeros(4, dtype=torch.float64), same, 1)
    np.testing.assert_allclose(waves.superposed_power(still, overlap), 1)
    np.testing.assert_allclose(waves.superposed_power(turning, overlap), [0.2**2 + 0.2**2, 0], atol=1e-15)


def test_kinds_are_classed_by_how_often_they_recur() -> None:
    counts = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 9, 10, 80])
    classes = waves.recurrence(counts).T  # [kind, class]
    assert classes.sum(1).tolist() == [0.0] + [1.0] * 9
    assert classes[1:].argmax(1).tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5]


def test_mean_overlaps_are_over_pairs_of_different_kinds() -> None:
    rng = np.random.default_rng(0)
    overlap = waves.overlaps(torch.tensor(rng.uniform(0.1, 3, 6)))
    counts = torch.tensor([1.0, 2, 1, 0, 2, 1])
    found = waves.mean_overlaps(overlap, waves.recurrence(counts))
    once, twice = [0, 2, 5], [1, 4]
    for one, other, value in (
        (once, once, found[0, 0]),
        (once, twice, found[0, 1]),
        (twice, once, found[1, 0]),
        (twice, twice, found[1, 1]),
    ):
        expected = np.mean([float(overlap[a, b]) for a in one for b in other if a != b])
        assert float(value) == pytest.approx(expected)
    assert float(found[2:].abs().max()) == 0  # none recurs more often


# ------------------------------------------------------------------------------------------ spectra


def lines_of(shares: Floats, frequencies: Floats, harmonics: int) -> tuple[Floats, Floats]:
    """Return every line of a spectrum, and its power, from the definition."""
    order = np.arange(1, harmonics + 1)
    power = (1 / order**2) / (1 / order**2).sum()
    return (frequencies[:, None] * order).ravel(), (shares[:, None] * power).ravel()


@pytest.mark.parametrize("harmonics", [1, 4])
def test_bandwidths_are_standard_deviations(harmonics: int) -> None:
    rng = np.random.default_rng(1)
    shares, frequencies = rng.dirichlet(np.ones(9)), rng.uniform(0.1, 10, 9)
    at, power = lines_of(shares, frequencies, harmonics)
    octaves, linear = waves.line_spread(torch.tensor(shares), torch.tensor(frequencies), harmonics=harmonics)
    for found, values in ((octaves, np.log2(at)), (linear, at)):
        expected = stats.rv_discrete(values=(np.arange(len(at)), power / power.sum()))
        mean = expected.expect(lambda k, v=values: v[np.asarray(k, int)])
        square = expected.expect(lambda k, v=values, m=mean: (v[np.asarray(k, int)] - m) ** 2)
        assert float(found) == pytest.approx(math.sqrt(square), rel=1e-9)


def test_bandwidth_in_octaves_is_the_same_under_both_mappings() -> None:
    rng = np.random.default_rng(2)
    shares, rarity = torch.tensor(rng.dirichlet(np.ones(30))), torch.tensor(rng.uniform(0, 1, 30))
    low, high = (waves.line_spread(shares, waves.wave_frequencies(rarity, common=c)) for c in waves.COMMON)
    assert float(low[0]) == pytest.approx(float(high[0]), rel=1e-12)
    assert float(low[1]) != pytest.approx(float(high[1]), rel=0.01)


def test_spectral_entropy_is_scipys_over_histogram_bins() -> None:
    rng = np.random.default_rng(3)
    shares, frequencies = rng.dirichlet(np.ones(40)), 10 ** rng.uniform(-1, 1, 40)
    at, power = lines_of(shares, frequencies, 4)
    binned = waves.binned(torch.tensor(frequencies))
    np.testing.assert_allclose(binned.sum(1), 1)
    edges = 0.1 * 10 ** (np.arange(binned.shape[1] + 1) / 8)
    assert edges[-2] < 40 <= edges[-1]
    histogram, _ = np.histogram(at, bins=edges, weights=power)
    spectrum = torch.tensor(shares) @ binned
    np.testing.assert_allclose(spectrum, histogram, atol=1e-12)
    assert float(waves.spectral_entropy(spectrum)) == pytest.approx(stats.entropy(histogram))


def test_ends_of_the_scale_have_a_bin() -> None:
    for harmonics in (1, 4, 16):
        binned = waves.binned(torch.tensor([0.1, 10.0], dtype=torch.float64), harmonics=harmonics)
        assert float(binned[0, 0]) > 0 and float(binned[1, -1]) > 0


def test_windows_that_are_none_are_refused() -> None:
    for function in (waves.overlaps, waves.wave_power):
        with pytest.raises(ParameterError, match="'harmonics' parameter .* at least 1; got 0"):
            function(torch.tensor([1.0]), harmonics=0)
        with pytest.raises(RecordError, match="must be longer than nothing; got 0.0"):
            function(torch.tensor([1.0]), duration=0.0)
    with pytest.raises(RecordError, match="got nan"):
        waves.waves(torch.tensor([1.0]), torch.zeros(2), duration=float("nan"))


# ------------------------------------------------------------------------------- rows of attention


def chosen_rows(weights: Floats, starts: list[int], sizes: list[int]) -> ChosenRows:
    """Return rows ``[head, query, key]`` of one prompt."""
    there = torch.ones(1, len(starts), dtype=torch.bool)
    return ChosenRows(torch.tensor(weights)[None], there, torch.tensor([starts]), torch.tensor([sizes]))


def example(seed: int = 0) -> tuple[Floats, list[int], list[int], Floats]:
    """Return attention of two heads and three queries on nine tokens, one of them without a frequency."""
    rng = np.random.default_rng(seed)
    rarity = np.array([0.3, 0.1, 0.8, 0.1, 0.55, np.nan, 0.9, 0.8, 0.2])
    starts, sizes = [0, 0, 2], [5, 9, 7]  # the last window slides
    weights = np.zeros((2, 3, 9))
    for head in range(2):
        for query, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            weights[head, query, start : start + size] = rng.dirichlet(np.ones(size))
    return weights, starts, sizes, rarity


@pytest.mark.parametrize("turning", [True, False])
def test_interference_is_that_of_sampled_waves(turning: bool) -> None:
    weights, starts, sizes, rarity = example()
    n, seen = len(rarity), [range(s, s + m) for s, m in zip(starts, sizes, strict=True)]
    words = Words.of(torch.tensor(rarity), harmonics=4, duration=10.0, turning=turning)
    found = Rows.read([chosen_rows(weights, starts, sizes)], 0, words).interference()
    phase = np.exp(2j * np.pi * np.arange(n) / n) if turning else np.ones(n)
    for mapping, place in enumerate((rarity, 1 - rarity)):
        frequencies = 0.1 * 100 ** np.nan_to_num(place)
        made = sampled(frequencies, harmonics=4, duration=10.0) * phase[:, None]
        made[np.isnan(rarity)] = 0
        expected: dict[str, list[float]] = {}
        for head, query in itertools.product(range(3), range(3)):
            row = weights[head, query] if head < 2 else np.isin(np.arange(n), seen[query]) * 1.0
            row = np.where(np.isnan(rarity), 0, row)
            free = np.where(np.arange(n) > 0, row, 0)
            power = (np.abs(free @ made) ** 2).mean()
            of = "" if head < 2 else "_uniform"
            name = "interference" if head < 2 else "uniform"
            expected.setdefault(name, []).append(power / (free**2).sum())
            expected.setdefault(f"drop{of}", []).append(math.sqrt(power) / free.sum())
            whole = math.sqrt((np.abs(row @ made) ** 2).mean()) / row.sum()
            expected.setdefault(f"keep{of}", []).append(whole)
        means = {name: np.mean(values) for name, values in expected.items()}
        assert float(found["interference"][0, mapping]) == pytest.approx(means["interference"], rel=1e-4)
        assert float(found["uniform"][0, mapping]) == pytest.approx(means["uniform"], rel=1e-4)
        for of in ("", "_uniform"):
            np.testing.assert_allclose(
                found[f"coherence{of}"][0, mapping], [means[f"keep{of}"], means[f"drop{of}"]], rtol=1e-4
            )


def test_shuffled_is_the_mean_over_all_ways_to_deal_the_frequencies() -> None:
    """And the null the mean over those that leave a word among the words that recur as often."""
    weights, starts, sizes, rarity = example(1)
    n = len(rarity)
    words = Words.of(torch.tensor(rarity), harmonics=4, duration=10.0, turning=True)
    found = Rows.read([chosen_rows(weights, starts, sizes)], 0, words).interference()
    phase = np.exp(2j * np.pi * np.arange(n) / n)
    shuffled, null, recurring = [], [], 0
    for head, query in itertools.product(range(2), range(3)):
        window = [
            j for j in range(starts[query], starts[query] + sizes[query]) if j and not np.isnan(rarity[j])
        ]
        kinds = sorted({rarity[j] for j in window})
        overlap = waves.overlaps(torch.tensor([0.1 * 100**kind for kind in kinds])).numpy()
        which = [kinds.index(rarity[j]) for j in window]
        row = weights[head, query, window] * phase[window]
        square = (weights[head, query, window] ** 2).sum()
        times = [which.count(kind) for kind in range(len(kinds))]
        dealt, alike = [], []
        for order in itertools.permutations(range(len(kinds))):
            as_dealt = [order[k] for k in which]
            power = (row.conj() @ overlap[np.ix_(as_dealt, as_dealt)] @ row).real / square
            dealt.append(power)
            if all(times[kind] == times[other] for kind, other in enumerate(order)):
                alike.append(power)
        recurring += len(alike) < len(dealt)
        shuffled.append(np.mean(dealt))
        null.append(np.mean(alike))
    assert recurring > 2
    assert float(found["shuffled"][0, 0]) == pytest.approx(np.mean(shuffled), rel=1e-9)
    assert float(found["null"][0, 0]) == pytest.approx(np.mean(null), rel=1e-9)


def test_null_is_the_mean_over_all_orders_of_words_that_do_not_recur() -> None:
    rng = np.random.default_rng(5)
    rarity, weights = rng.uniform(0, 1, 7), rng.dirichlet(np.ones(7))[None, None]
    rows = chosen_rows(weights, [0], [7])

    def found(places: Floats) -> dict[str, torch.Tensor]:
        words = Words.of(torch.tensor(places), harmonics=4, duration=10.0, turning=True)
        return Rows.read([rows], 0, words).interference()

    orders = [found(np.r_[rarity[0], rarity[list(order)]]) for order in itertools.permutations(range(1, 7))]
    mean = torch.stack([each["interference"] for each in orders]).mean(0)
    np.testing.assert_allclose(found(rarity)["null"], mean, rtol=1e-9)
    np.testing.assert_allclose(found(rarity)["shuffled"], mean, rtol=1e-9)


def test_shares_are_squared_weights() -> None:
    weights, starts, sizes, rarity = example(2)
    words = Words.of(torch.tensor(rarity), harmonics=4, duration=10.0, turning=True)
    rows = Rows.read([chosen_rows(weights, starts, sizes)], 0, words)
    free = np.where((np.arange(9) > 0) & ~np.isnan(rarity), weights, 0)
    by_token = (free**2 / (free**2).sum(-1, keepdims=True)).mean((0, 1))
    order = list(dict.fromkeys(rarity[1:][~np.isnan(rarity[1:])].tolist()))  # of first occurrence
    expected = [by_token[rarity == kind].sum() for kind in order]
    np.testing.assert_allclose(rows.shares()[0], expected, rtol=1e-9)
    np.testing.assert_allclose(words.rarity, order)
    normalised = free[:, -1] / free[:, -1].sum(-1, keepdims=True)
    np.testing.assert_allclose(rows.last()[0], normalised.mean(0), rtol=1e-9)


def test_words_without_a_frequency_leave_nothing() -> None:
    weights, starts, sizes, _ = example()
    words = Words.of(torch.full((9,), float("nan")), harmonics=4, duration=10.0, turning=True)
    rows = Rows.read([chosen_rows(weights, starts, sizes)], 0, words)
    assert all(bool(values.isnan().all()) for values in rows.interference().values())
    assert not bool(rows.last().any())


def test_numbers_of_a_spectrum_follow_the_order_of_the_frequencies() -> None:
    rng = np.random.default_rng(4)
    words = Words.of(torch.tensor(rng.uniform(0, 1, 7)), harmonics=4, duration=10.0, turning=True)
    shares = torch.tensor(rng.dirichlet(np.ones(6), size=2))
    orders = torch.tensor(np.stack([np.arange(6), rng.permutation(6)]))
    found = spectral_numbers(shares, words, orders)
    dealt = words.frequencies[0][orders[1]]
    octaves, linear = waves.line_spread(shares, dealt)
    np.testing.assert_allclose(found["octaves"][1], octaves, rtol=1e-9)
    np.testing.assert_allclose(found["linear"][1, :, 0], linear, rtol=1e-9)
    np.testing.assert_allclose(
        found["entropy"][1, :, 0], waves.spectral_entropy(shares @ waves.binned(dealt)), rtol=1e-9
    )
