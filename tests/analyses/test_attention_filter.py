"""Heads as filters: against loops over rows, all permutations of small rows, and planted circuits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.analyses.attention_filter import CLASSES, FREQUENCIES, AttentionFilter
from resonance_lens.contract import Planted
from resonance_lens.dsp.kernels import lag_edges
from resonance_lens.errors import AdapterError, AnalysisError
from resonance_lens.facts import Facts
from resonance_lens.testing import measure
from tests.by_hand import attention_from, facts, keys_of, one_key, random_attention

Floats = NDArray[np.float64]
LENGTHS = [20, 44, 31, 9]


def planted(
    layers: Sequence[torch.Tensor], lengths: Sequence[int], about: Facts, cosines: torch.Tensor | None = None
) -> Planted:
    def aligned(layer: int) -> torch.Tensor:
        return torch.eye(about.n_heads) if cosines is None else cosines

    patterns: list[Mapping[str, torch.Tensor]] = [{"pattern": pattern} for pattern in layers]
    return Planted(patterns, torch.tensor(lengths), about, lambda data: None, ov_alignment=aligned)


def result(
    layers: Sequence[torch.Tensor],
    lengths: Sequence[int],
    cosines: torch.Tensor | None = None,
    sliding: int | None = None,
    batch_size: int | None = None,
    **parameters: Any,
) -> xr.Dataset:
    about = facts(len(layers), layers[0].shape[1], sliding=sliding)
    analysis = AttentionFilter(**parameters)
    return measure(analysis, planted(layers, lengths, about, cosines), batch_size=batch_size)


# --------------------------------------------------------------------------- against loops


class Row:
    """One row of attention without the first key: its weight by lag, and by the bins that it sees whole."""

    def __init__(
        self, row: Floats, query: int, length: int, sliding: int | None, edges: Sequence[int]
    ) -> None:
        keys = [key for key in keys_of(query, length, sliding=sliding) if key > 0]
        self.n = len(keys)
        by_lag = np.array([row[query - lag] for lag in range(self.n)])
        self.free = float(by_lag.sum())
        self.by_lag = by_lag / self.free if self.free > 0 else by_lag
        self.edges = [edge for edge in edges if edge <= self.n]

    def bins(self, by_lag: Floats | None = None) -> Floats:
        values = self.by_lag if by_lag is None else by_lag
        return np.array([values[a:b].sum() for a, b in itertools.pairwise(self.edges)])

    def information(self) -> float:
        used = self.by_lag[self.by_lag > 0]
        return float((used * np.log(used * self.n)).sum())

    def gain(self, kernel: Floats, by_lag: Floats | None = None) -> float:
        """Return what the kernel, cut off at the bins that are whole, says better than uniform attention."""
        bins = self.bins(by_lag)
        k = kernel[: len(bins)] / kernel[: len(bins)].sum()
        u = np.diff(self.edges) / self.edges[-1]
        return float((bins * np.log(k / u)).sum())


def rows_by_hand(
    pattern: torch.Tensor,
    lengths: Sequence[int],
    head: int,
    sliding: int | None,
    max_lag: int,
    every: int = 4,
) -> list[list[Row]]:
    """Return the rows of each prompt: the first 64, and every so many-th beyond, as often as it counts."""
    edges = lag_edges(max_lag)
    found = []
    for p, length in enumerate(lengths):
        rows = [Row(pattern[p, head, i].double().numpy(), i, length, sliding, edges) for i in range(length)]
        sizes = [len(keys_of(i, length, sliding=sliding)) for i in range(length)]
        times = [1 if i < 64 else every * ((i - 63) % every == 0) for i in range(length)]
        kept = zip(rows, sizes, times, strict=True)
        found.append([row for row, size, n in kept if size >= 8 and row.free >= 1e-3 for _ in range(n)])
    return found


def kernel_by_hand(rows: Sequence[Row], max_lag: int, pseudo: float) -> Floats:
    """Return the kernel over bins: from the largest lag down, what share is at it among what is up to it."""
    edges = lag_edges(max_lag)
    kernel, left = np.zeros(len(edges) - 1), 1.0
    for b in range(len(edges) - 2, 0, -1):
        seeing = [row.bins() for row in rows if len(row.edges) > b + 1]
        at = sum(bins[b] for bins in seeing) + pseudo * (edges[b + 1] - edges[b]) / edges[b + 1]
        up_to = sum(bins[: b + 1].sum() for bins in seeing) + pseudo
        kernel[b] = left * at / up_to
        left -= kernel[b]
    kernel[0] = left
    return kernel


@pytest.mark.parametrize("sliding", [None, 12, 40])
@pytest.mark.parametrize("max_lag", [512, 34, 16])
def test_fractions_are_those_of_loops_over_rows(sliding: int | None, max_lag: int) -> None:
    pattern = random_attention(LENGTHS, 2, sliding=sliding)
    data = result([pattern], LENGTHS, sliding=sliding, max_lag=max_lag, min_rows=1)
    for head in range(2):
        prompts = rows_by_hand(pattern, LENGTHS, head, sliding, max_lag)
        fractions, information = [], []
        for p, rows in enumerate(prompts):
            others = [row for q, each in enumerate(prompts) if q != p for row in each]
            kernel = kernel_by_hand(others, max_lag, 1.0)
            total = sum(row.information() for row in rows)
            fractions.append(sum(row.gain(kernel) for row in rows) / total)
            information.append(total / len(rows))
        found = data.toeplitz_fraction_prompt.sel(layer=0, head=head)
        np.testing.assert_allclose(found, fractions, atol=2e-5)
        mean = data.information.sel(category="all", layer=0, head=head)
        assert float(mean) == pytest.approx(np.mean(information), abs=1e-5)
        lags = [np.mean([row.by_lag @ np.arange(row.n) for row in rows]) for rows in prompts]
        np.testing.assert_allclose(data.mean_lag_prompt.sel(layer=0, head=head), lags, rtol=1e-5)


@pytest.mark.parametrize(("every", "sliding"), [(4, None), (4, 50), (1, None), (7, None)])
def test_of_long_prompts_every_so_many_queries_count(every: int, sliding: int | None) -> None:
    lengths = [100, 71, 64, 93]
    pattern = random_attention(lengths, 1, sliding=sliding)
    data = result([pattern], lengths, sliding=sliding, min_rows=1, every=every)
    prompts = rows_by_hand(pattern, lengths, 0, sliding, 512, every)
    for p, rows in enumerate(prompts):
        others = [row for q, each in enumerate(prompts) if q != p for row in each]
        kernel = kernel_by_hand(others, 512, 1.0)
        total = sum(row.information() for row in rows)
        fraction = sum(row.gain(kernel) for row in rows) / total
        assert float(data.toeplitz_fraction_prompt[p, 0, 0]) == pytest.approx(fraction, abs=2e-5)
        lag = np.mean([row.by_lag @ np.arange(row.n) for row in rows])
        assert float(data.mean_lag_prompt[p, 0, 0]) == pytest.approx(lag, rel=1e-5)
    counts = [sum(row.n > lag for rows in prompts for row in rows) for lag in range(data.sizes["lag"])]
    np.testing.assert_array_equal(data.rows_at_lag, counts)
    information = np.mean([np.mean([row.information() for row in rows]) for rows in prompts])
    assert float(data.information.sel(category="all", layer=0, head=0)) == pytest.approx(
        information, abs=1e-5
    )


def test_the_queries_looked_at_stand_for_all_of_them() -> None:
    """Rows are independent here: a kernel is off by chance, and not to one side."""
    lengths = [256] * 6
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(6, 4, 256, 256)) - 0.02 * (np.arange(256)[:, None] - np.arange(256))
    hidden = np.triu(np.full((256, 256), np.inf), 1)
    pattern = torch.softmax(torch.tensor(scores - hidden), -1).float()
    some, every = (result([pattern], lengths, every=step) for step in (4, 1))
    for low, high in ((0, 16), (16, 64), (64, 160)):
        one, other = (d.kernel.isel(lag=slice(low, high)).sum("lag").mean() for d in (some, every))
        assert float(one) == pytest.approx(float(other), rel=0.05)
    np.testing.assert_allclose(some.toeplitz_fraction, every.toeplitz_fraction, atol=0.02)
    np.testing.assert_allclose(some.rows_at_lag, every.rows_at_lag, atol=6 * 4)


@pytest.mark.parametrize("sliding", [None, 4])
def test_the_null_is_the_mean_over_all_permutations_of_keys(sliding: int | None) -> None:
    lengths = [6, 7, 6]
    pattern = random_attention(lengths, 1, seed=3, sliding=sliding)
    data = result([pattern], lengths, sliding=sliding, min_keys=4, min_rows=1, max_lag=8)
    prompts = []
    for p, length in enumerate(lengths):
        rows = [
            Row(pattern[p, 0, i].double().numpy(), i, length, sliding, lag_edges(8)) for i in range(length)
        ]
        sizes = [len(keys_of(i, length, sliding=sliding)) for i in range(length)]
        prompts.append([row for row, size in zip(rows, sizes, strict=True) if size >= 4])
    nulls = []
    for p, rows in enumerate(prompts):
        others = [row for q, each in enumerate(prompts) if q != p for row in each]
        kernel = kernel_by_hand(others, 8, 1.0)
        gains = [
            np.mean([row.gain(kernel, np.array(order)) for order in itertools.permutations(row.by_lag)])
            for row in rows
        ]
        nulls.append(sum(gains) / sum(row.information() for row in rows))
    found = data.toeplitz_fraction_null.sel(category="all", layer=0, head=0)
    assert float(found) == pytest.approx(np.mean(nulls), abs=1e-5)
    effects = data.toeplitz_fraction_effect_prompt.sel(layer=0, head=0)
    fractions = data.toeplitz_fraction_prompt.sel(layer=0, head=0)
    np.testing.assert_allclose(fractions - effects, nulls, atol=1e-5)


def test_the_kernel_is_that_of_all_prompts_at_single_lags() -> None:
    pattern = random_attention(LENGTHS, 2)
    data = result([pattern], LENGTHS, min_rows=1)
    n_lags = data.sizes["lag"]
    for head in range(2):
        rows = [row for rows in rows_by_hand(pattern, LENGTHS, head, None, 512) for row in rows]
        kernel, left = np.zeros(64), 1.0
        for lag in range(43, 0, -1):
            seeing = [row.by_lag for row in rows if row.n > lag]
            if seeing:
                kernel[lag] = left * sum(r[lag] for r in seeing) / sum(r[: lag + 1].sum() for r in seeing)
                left -= kernel[lag]
        kernel[0] = left
        wanted = kernel[:n_lags] / kernel[:n_lags].sum()
        np.testing.assert_allclose(data.kernel.sel(layer=0, head=head), wanted, atol=1e-5)
        delay = float(data.group_delay.sel(layer=0, head=head))
        assert delay == pytest.approx(wanted @ np.arange(n_lags), rel=1e-4)
    counts = [sum(length - 1 - max(7, lag + 1) + 1 for length in LENGTHS if length - 1 >= max(7, lag + 1))
              for lag in range(n_lags)]  # fmt: skip
    np.testing.assert_array_equal(data.rows_at_lag, counts)


# ------------------------------------------------------------------------------- what must hold


def test_attention_by_lag_alone_is_explained_whole() -> None:
    """But for the oldest keys of each row, which make less than a bin: they count as not explained."""
    lengths = [30, 44, 60, 37]
    pattern = attention_from(lambda p, h, i, j: -0.3 * (i - j) * (h + 1), lengths, 2)
    data = result([pattern], lengths)
    fraction = data.toeplitz_fraction.sel(category="all", layer=0)
    assert bool((fraction > 0.97).all()) and bool((fraction <= 1).all())
    for head, slope in enumerate((0.3, 0.6)):
        decay = math.exp(-slope)
        kernel = decay ** np.arange(data.sizes["lag"])
        np.testing.assert_allclose(data.kernel.sel(layer=0, head=head), kernel / kernel.sum(), atol=1e-4)


def test_a_sink_before_the_rest_changes_nothing() -> None:
    lengths = [30, 44, 38, 37]
    plain = attention_from(lambda p, h, i, j: -0.3 * (i - j), lengths, 1)
    sunk = attention_from(lambda p, h, i, j: 3.2 if j == 0 else -0.3 * (i - j), lengths, 1)
    one, other = (result([pattern], lengths) for pattern in (plain, sunk))
    np.testing.assert_allclose(one.kernel, other.kernel, atol=1e-5)
    np.testing.assert_allclose(one.toeplitz_fraction, other.toeplitz_fraction, atol=1e-4)
    assert float(other.sink_mass.max()) > 0.8 and class_of(other, 0) == "sink"


def test_uniform_attention_has_nothing_to_explain() -> None:
    lengths = [30, 44, 38]
    data = result([attention_from(lambda p, h, i, j: 0.0, lengths, 2)], lengths)
    assert bool(data.toeplitz_fraction.isnull().all())
    np.testing.assert_allclose(data.kernel, 1 / data.sizes["lag"], atol=1e-5)
    even = data.gain_of_layer_uniform.transpose("layer", "frequency")
    np.testing.assert_allclose(data.gain.mean("head"), even, atol=1e-5)
    np.testing.assert_allclose(data.group_delay, data.group_delay_uniform, rtol=1e-5)
    assert {CLASSES[int(code)] for code in data.head_class.values.ravel()} == {"low_pass"}


def test_a_pure_sink_has_no_kernel() -> None:
    lengths = [30, 44, 38]
    data = result([one_key(lambda i: 0, lengths, 1)], lengths)
    assert float(data.kernel.max()) == 0 and class_of(data, 0) == "sink"
    assert bool(data.group_delay.isnull().all()) and bool(data.toeplitz_fraction.isnull().all())
    assert "1 sink" in measure_summary([one_key(lambda i: 0, lengths, 1)], lengths)


def measure_summary(layers: Sequence[torch.Tensor], lengths: Sequence[int]) -> str:
    from resonance_lens.trials import PlantedAdapter, result_of

    about = facts(len(layers), layers[0].shape[1])
    adapter = PlantedAdapter(planted(layers, lengths, about))
    return result_of(AttentionFilter(), adapter, adapter.tokens()).summary


def test_one_prompt_has_a_kernel_and_no_fraction() -> None:
    data = result([random_attention([40], 2)], [40])
    assert bool(data.toeplitz_fraction.isnull().all()) and bool(data.toeplitz_fraction_p.isnull().all())
    assert float(data.kernel.sum("lag").min()) == pytest.approx(1.0, abs=1e-5)
    assert bool(data.group_delay_low.isnull().all())
    # Its kernel fits its own words: without another prompt nothing says what it is worth.
    assert set(data.head_class.values.ravel()) <= {CLASSES.index("sink"), CLASSES.index("unjudged")}
    assert CLASSES.index("unjudged") in data.head_class


def test_no_head_passes_more_than_at_frequency_zero() -> None:
    data = result([random_attention(LENGTHS, 3, seed=s) for s in range(2)], LENGTHS)
    assert float(data.gain.max()) <= 1 + 1e-6
    np.testing.assert_allclose(data.gain.sel(frequency=0.0), 1.0, atol=1e-6)
    np.testing.assert_allclose(data["delay"].sel(frequency=0.0), data.group_delay, rtol=1e-5)


def test_lags_that_few_queries_see_are_cut_off() -> None:
    lengths = [20, 44]
    pattern = random_attention(lengths, 1)
    data = result([pattern], lengths, min_rows=20)
    assert int(data.rows_at_lag.min()) >= 20 and data.sizes["lag"] == 24
    assert result([pattern], lengths, min_rows=10_000).sizes["lag"] == 7  # as far as every query sees
    assert result([pattern], lengths, min_rows=1, max_lag=16).sizes["lag"] == 16


@pytest.mark.parametrize("sizes", [1, 3])
def test_batches_do_not_matter(sizes: int) -> None:
    lengths = [9, 100, 12, 30, 140]
    layers = [random_attention(lengths, 2, seed=s) for s in range(2)]
    one, other = result(layers, lengths), result(layers, lengths, batch_size=sizes)
    xr.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_model_that_looks_ahead_is_refused() -> None:
    pattern = random_attention([12, 14], 2, causal=False)
    about = facts(1, 2, causal=False)
    with pytest.raises(AnalysisError, match="measures causal filters, and by hand looks ahead of the query"):
        measure(AttentionFilter(), planted([pattern], [12, 14], about))


def test_a_host_without_weights_has_filters_and_no_pairs() -> None:
    pattern = random_attention([30, 34], 2)

    def refuse(layer: int) -> torch.Tensor:
        raise AdapterError("no weights here")

    source = Planted(
        [{"pattern": pattern}], torch.tensor([30, 34]), facts(1, 2), lambda d: None, ov_alignment=refuse
    )
    data = measure(AttentionFilter(), source)
    assert bool(data.ov_alignment.isnull().all()) and bool((data.pair_layer == -1).all())
    assert bool(data.kernel.notnull().all())


# --------------------------------------------------------------------- what is claimed with a p


def test_differences_of_prompts_are_not_independent_of_each_other() -> None:
    """Why signs are flipped before a kernel is fitted: flipped after, .05 comes out three times as often."""
    from resonance_lens.dsp.large import one_thread
    from resonance_lens.stats.inference import infer
    from resonance_lens.stats.samples import Sample, estimates_of
    from resonance_lens.stats.streams import stream
    from resonance_lens.trials import PlantedAdapter, accumulated, observe

    analysis = AttentionFilter()
    ours, naive = [], []
    with one_thread():
        for trial in range(16):
            source = analysis.trial(stream(11, trial), "iid", 0.0)
            adapter = PlantedAdapter(source)
            (features,) = observe(analysis, adapter, adapter.tokens())
            sample = analysis.samples(accumulated(analysis, adapter, features))["toeplitz_fraction"]["all"]
            estimates = estimates_of(sample)
            assert estimates is not None
            ours.append(infer(sample, [0, 1], stream(0)).p)
            naive.append(infer(Sample(estimates.value, estimates.null), [0, 1], stream(0)).p)
    assert 0.02 < np.mean(np.array(ours) <= 0.05) < 0.09
    assert np.mean(np.array(naive) <= 0.05) > 0.12


# ------------------------------------------------------------------------- circuits, through a run


def run(circuit: testbed.Circuit, n_prompts: int = 24, length: int = 48, **parameters: Any) -> xr.Dataset:
    rows = circuit.tokens(np.random.default_rng(0), n_prompts, length)
    found = rl.run(
        circuit.model(),
        rows,
        "attention_filter",
        parameters={"attention_filter": parameters},
        baselines=(),
        progress=False,
    )
    return found["attention_filter"].data


def class_of(data: xr.Dataset, head: int, layer: int = 0) -> str:
    return CLASSES[int(data.head_class.sel(layer=layer, head=head))]


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_a_delay_of_some_tokens(lag: int) -> None:
    data = run(testbed.load_circuit("previous_token", lag=lag))
    assert class_of(data, 0) == "delay" and int(data.peak_lag.sel(layer=0, head=0)) == lag
    assert float(data.group_delay.sel(layer=0, head=0)) == pytest.approx(lag, abs=0.01)
    np.testing.assert_allclose(data["delay"].sel(layer=0, head=0), lag, atol=0.02)
    np.testing.assert_allclose(data.gain.sel(layer=0, head=0), 1, atol=0.01)
    assert float(data.toeplitz_fraction.sel(category="all", layer=0, head=0)) > 0.97
    assert float(data.toeplitz_fraction_q.sel(category="all", layer=0, head=0)) <= 0.05
    assert bool(data.half_power_frequency.sel(layer=0, head=0).isnull())
    assert class_of(data, 1) == "low_pass"  # it looks everywhere


@pytest.mark.host
def test_a_moving_average_an_integrator_a_bump_and_a_comb() -> None:
    circuit = testbed.load_circuit("lag_kernels")
    data = run(circuit)
    assert [class_of(data, head) for head in range(4)] == ["low_pass", "low_pass", "low_pass", "comb"]
    for head in range(4):
        wanted = np.array(circuit.truth["kernels"][f"0.{head}"])
        found = data.kernel.sel(layer=0, head=head).values
        assert abs(found[: len(wanted)] - wanted[: len(found)]).max() < 0.01
        delay = float(data.group_delay.sel(layer=0, head=head))
        assert delay == pytest.approx(wanted @ np.arange(len(wanted)), abs=0.1)
    assert bool((data.toeplitz_fraction.sel(category="all", layer=0) > 0.9).all())
    # The moving average of four: half of the power at sin(4 pi f) / (4 sin(pi f)) = sqrt(1/2).
    assert float(data.half_power_frequency.sel(layer=0, head=0)) == pytest.approx(0.11406, abs=1e-3)
    assert float(data.gain.sel(layer=0, head=3, frequency=0.25)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.host
@pytest.mark.parametrize("frequency", [0.125, 0.25])
def test_an_opposed_pair_passes_a_band(frequency: float) -> None:
    circuit = testbed.load_circuit("opposed_pair", frequency=frequency, n_ctx=128)
    data = run(circuit, length=96)
    assert float(data.ov_alignment.sel(layer=0, head=0, other_head=1)) == pytest.approx(-1.0, abs=1e-5)
    pair = [int(data[f"pair_{name}"][0]) for name in ("layer", "head_a", "head_b")]
    assert pair == [0, 0, 1] and int((data.pair_layer >= 0).sum()) == 1
    step = float(FREQUENCIES[1])
    assert float(data.pair_frequency[0]) == pytest.approx(circuit.truth["frequency"], abs=step)
    gain = data.pair_gain.sel(pair=0)
    assert float(gain.max()) == pytest.approx(circuit.truth["peak_gain"], abs=0.03)
    assert float(gain.max()) > 1.5 * max(float(gain[0]), float(gain[-1]))
    # Each alone passes frequency zero best.
    assert bool((data.gain.sel(layer=0).argmax("frequency") == 0).all())


@pytest.mark.host
def test_heads_that_are_not_opposed_are_no_pair() -> None:
    data = run(testbed.load_circuit("lag_kernels"))
    assert bool((data.pair_layer == -1).all()) and float(data.band_pass.max()) == 0
    np.testing.assert_allclose(data.ov_alignment, 1.0, atol=1e-5)


@pytest.mark.host
def test_sinks_keep_their_mass() -> None:
    circuit = testbed.load_circuit("sinks")
    data = run(circuit)
    for head, mass in enumerate(circuit.parameters["masses"]):
        assert float(data.sink_mass.sel(category="all", layer=0, head=head)) == pytest.approx(mass, abs=1e-4)
    assert [class_of(data, head) for head in range(4)] == ["low_pass", "low_pass", "low_pass", "sink"] or [
        class_of(data, head) for head in range(4)
    ] == ["low_pass", "low_pass", "sink", "sink"]


@pytest.mark.host
def test_heads_that_follow_content() -> None:
    data = run(testbed.load_circuit("content_rule"))
    assert [class_of(data, head) for head in range(2)] == ["content", "low_pass"]
    assert float(data.toeplitz_fraction.sel(category="all", layer=0, head=0)) < 0.1
    induction = run(testbed.load_circuit("induction"), length=40)
    assert class_of(induction, 0, layer=0) == "delay" and int(induction.peak_lag[0, 0]) == 1


@pytest.mark.host
def test_the_idle_model_is_found_idle() -> None:
    data = run(testbed.load_circuit("idle"))
    assert {class_of(data, head, layer) for head in range(2) for layer in range(2)} == {"content"}
    assert float(data.toeplitz_fraction_q.min()) > 0.05
