"""Frequencies and scales of attention, against loops over prompts and heads with numpy and PyWavelets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.analyses.attention_wavelets import AttentionWavelets, tiling
from resonance_lens.planting import attention_facts, permuted_rows
from tests.by_hand import Floats, attention_from, facts, keys_of, measure, one_key, random_attention

LENGTHS = [26, 40, 33]
SIGNALS = ("query_mean", "last_row")
LEVEL = 3
"""Of records of at least 25 positions, with four taps."""


def signals(
    pattern: Floats, length: int, causal: bool, sliding: int | None
) -> dict[str, tuple[Floats, bool]]:
    """Return both signals of one head, over the keys that are seen, and whether the first is one of them."""
    keys = keys_of(length - 1, length, causal, sliding)
    return {
        "query_mean": (pattern[:length, :length].mean(0), True),
        "last_row": (pattern[length - 1, keys], 0 in keys),
    }


def spectrum(x: Floats, window: str, padding: int = 1) -> tuple[Floats, Floats]:
    """Return frequencies and one-sided power."""
    x = x * np.hanning(len(x)) if window == "hann" else x
    size = len(x) * padding
    power = np.abs(np.fft.fft(x, size)) ** 2
    frequency = np.minimum(np.arange(size), size - np.arange(size)) / size
    grid = np.unique(frequency)
    return grid, np.array([power[frequency == f].sum() for f in grid])


def entropy(x: Floats) -> float:
    p = x[x > 0] / x.sum()
    return float(-(p * np.log(p)).sum())


def scale_shares(x: Floats, level: int) -> tuple[Floats, list[Floats]]:
    """Return the shares of energy of the levels, finest first and the approximation last, and the scales."""
    import pywt

    scales = pywt.wavedec(x, "db2", mode="symmetric", level=level)[::-1]
    energy = np.array([np.sum(scale**2) for scale in scales])
    return energy / energy.sum(), scales


def by_hand(x: Floats, window: str, padding: int = 1) -> dict[str, float]:
    grid, power = spectrum(x, window, padding)
    total, rest = power.sum(), power[1:].sum()
    shares, scales = scale_shares(x, LEVEL)
    thinned, _ = scale_shares(x[::2], 2)
    whole = np.array([shares[0], shares[1], shares[2:].sum()])
    cosine = np.sqrt(whole) @ np.sqrt(thinned)  # of two vectors of length 1
    unit, t = x / np.sqrt(np.sum(x**2)), np.arange(len(x))
    middle = np.sum(unit**2 * t)
    fine = (np.arange(4096) - 2048) / 4096
    spectral = np.abs(np.exp(-2j * np.pi * np.outer(fine, t)) @ unit) ** 2
    spread, bandwidth = math.sqrt(np.sum(unit**2 * (t - middle) ** 2)), math.sqrt(np.mean(fine**2 * spectral))
    return {
        "low": power[grid < 0.125].sum() / total,
        "mid": power[(grid >= 0.125) & (grid < 0.375)].sum() / total,
        "high": power[grid >= 0.375].sum() / total,
        "dc_share": power[0] / total,
        "selectivity": power.max() / (total - power.max()),
        "spectral_entropy": entropy(power),
        "centroid": (grid * power).sum() / rest,
        "positional_entropy": entropy(x),
        "position_spread": spread,
        "bandwidth": bandwidth,
        "spread_product": spread * bandwidth,
        "spread_product_bound": abs(1 - abs(np.sum(unit * (-1.0) ** t)) ** 2) / (4 * np.pi),
        "approximation": shares[-1],
        "scale_centroid": shares[:-1] @ np.arange(1, LEVEL + 1) / shares[:-1].sum(),
        "wavelet_entropy": entropy(np.concatenate(scales) ** 2),
        "scale_sensitivity": 1 - cosine,
        **{f"energy {j}": shares[j] for j in range(LEVEL)},
        **{f"entropy {j}": entropy(scales[j] ** 2) for j in range(LEVEL)},
    }


WITH_WINDOW = ("dc_share", "selectivity", "spectral_entropy", "centroid")


@pytest.mark.parametrize(
    "causal, sliding", [(True, None), (True, 30), (False, None)], ids=["causal", "sliding", "bidirectional"]
)
@pytest.mark.parametrize("padding", [1, 2])
def test_numbers_are_those_of_a_loop(causal: bool, sliding: int | None, padding: int) -> None:
    pattern = random_attention(LENGTHS, 2, causal=causal, sliding=sliding)
    about = facts(n_heads=2, causal=causal, sliding=sliding)
    data = measure(AttentionWavelets(zero_padding=padding), [{"pattern": pattern}], LENGTHS, about)
    data = data.sel(category="all", layer=0)
    assert data.scale.values.tolist() == [2, 4, 8]
    for head, signal, window, first in itertools.product(
        range(2), SIGNALS, ("none", "hann"), ("keep", "drop")
    ):
        each = []
        for p, length in enumerate(LENGTHS):
            values = pattern[p, head].double().numpy()
            x, holds_first = signals(values, length, causal, sliding)[signal]
            each.append(by_hand(x[1:] if first == "drop" and holds_first else x, window, padding))
        expected = {name: np.mean([one[name] for one in each]) for name in each[0]}
        found = data.sel(head=head, signal=signal, first_position=first)
        about_it = f"{signal} {window} {first}"
        for band in ("low", "mid", "high"):
            value = float(found.share.sel(window=window, band=band))
            assert value == pytest.approx(expected[band], rel=1e-4, abs=1e-6), about_it
        for j in range(LEVEL):
            assert float(found.scale_energy[j]) == pytest.approx(expected[f"energy {j}"], rel=1e-4), about_it
            assert float(found.scale_entropy[j]) == pytest.approx(expected[f"entropy {j}"], rel=1e-4), (
                about_it
            )
        for name in expected:
            if name in data:
                value = found[name].sel(window=window) if name in WITH_WINDOW else found[name]
                assert float(value) == pytest.approx(expected[name], rel=5e-4, abs=1e-6), f"{name} {about_it}"


def test_what_is_claimed_is_the_last_row_beside_its_mean_whatever_the_padding() -> None:
    pattern = random_attention(LENGTHS, 2)
    for padding in (1, 2):
        data = measure(
            AttentionWavelets(zero_padding=padding), [{"pattern": pattern}], LENGTHS, facts(n_heads=2)
        )
        for p, head, first in itertools.product(range(3), range(2), (0, 1)):
            row = pattern[p, head, LENGTHS[p] - 1, first : LENGTHS[p]].double().numpy()
            grid, power = spectrum(row, "none")
            low = (grid > 0) & (grid < 0.125)
            n = len(row)
            found = data.isel(prompt=p, first_position=first, layer=0, head=head)
            assert float(found.low_share_prompt) == pytest.approx(
                power[low].sum() / power[1:].sum(), rel=1e-4
            )
            assert float(found.low_share_prompt - found.low_share_effect_prompt) == pytest.approx(
                2 * low.sum() / (n - 1), rel=1e-4
            )


@pytest.mark.parametrize("sliding", [None, 30])
def test_uniform_attention_has_the_shares_of_its_baseline(sliding: int | None) -> None:
    even = attention_from(lambda p, h, i, j: 0.0, LENGTHS, 2, sliding=sliding)
    data = measure(AttentionWavelets(), [{"pattern": even}], LENGTHS, facts(n_heads=2, sliding=sliding))
    data = data.sel(category="all")
    np.testing.assert_allclose(data.share, data.share_uniform, atol=1e-5)
    last = data.sel(signal="last_row", window="none")
    np.testing.assert_allclose(last.dc_share, 1, atol=1e-6)  # even: nothing but its mean
    assert bool(data.low_share.isnull().all()) and bool(last.centroid.isnull().all())
    assert bool(last.selectivity.isnull().all())
    # Averaged over queries it falls off, and that is low frequency beside the mean as well.
    averaged = data.sel(signal="query_mean", window="none", first_position="drop")
    if sliding is None:
        assert float(averaged.share.sel(band="low").min()) > 0.85  # published as a finding: .60 to .80


def test_the_window_deletes_the_sink() -> None:
    """Half on the first key and half evenly looks like all evenly; only without a window do they differ."""
    lengths = [32, 40]
    even = attention_from(lambda p, h, i, j: 0.0, lengths, 1)
    sink = 0.5 * even + 0.5 * one_key(lambda i: 0, lengths, 1)
    layers = [{"pattern": even}, {"pattern": sink}]
    data = measure(AttentionWavelets(), layers, lengths, facts(n_layers=2, n_heads=1)).sel(
        category="all", head=0
    )
    data = data.sel(first_position="keep", signal="last_row")
    for name in ("share", "dc_share", "spectral_entropy", "centroid"):
        one, other = (data[name].sel(layer=layer) for layer in (0, 1))
        np.testing.assert_allclose(other.sel(window="hann"), one.sel(window="hann"), rtol=1e-4, atol=1e-5)
    dc = data.dc_share.sel(window="none")
    assert float(dc.sel(layer=0)) > 0.99 and float(dc.sel(layer=1)) < 0.2


def test_a_pure_sink_has_nothing_beyond() -> None:
    data = measure(
        AttentionWavelets(), [{"pattern": one_key(lambda i: 0, LENGTHS, 2)}], LENGTHS, facts(n_heads=2)
    )
    keep, drop = (data.sel(category="all", first_position=f, layer=0) for f in ("keep", "drop"))
    for name in (
        "share",
        "spectral_entropy",
        "positional_entropy",
        "scale_energy",
        "low_share",
        "spread_product",
    ):
        assert bool(drop[name].isnull().all()), name
    # One key: the same power at all frequencies, no width in position, and no bound but 0.
    last = keep.sel(signal="last_row")
    np.testing.assert_allclose(last.position_spread, 0, atol=1e-6)
    np.testing.assert_allclose(last.bandwidth, 1 / math.sqrt(12), rtol=1e-4)
    np.testing.assert_allclose(last.spread_product_bound, 0, atol=1e-6)
    assert float(last.spectral_entropy.sel(window="none").min()) > 2


def test_the_correlation_of_entropies_is_as_negative_with_permuted_keys() -> None:
    """Independent softmax rows of heads of different sharpness, and nothing else."""
    about = attention_facts(n_layers=1, n_heads=40)
    rng = np.random.default_rng(0)
    lengths = [40, 48, 56, 44, 52, 60]
    sharpness = np.linspace(0.3, 4, 40)[None, :, None, None]
    scores = rng.normal(size=(len(lengths), 40, 60, 60)) * sharpness
    pattern = attention_from(lambda p, h, i, j: scores[p, h, i, j], lengths, 40)
    data = measure(AttentionWavelets(), [{"pattern": pattern}], lengths, about)
    data = data.sel(category="all", signal="last_row")
    assert float(data.correlation.max()) < -0.6
    np.testing.assert_allclose(data.correlation, data.correlation_null, atol=0.1)
    # The order of the keys has no part in the entropy of their weights.
    np.testing.assert_allclose(data.layer_correlation.sel(layer=0), data.correlation, atol=1e-9)


def test_spread_products_are_above_their_bound() -> None:
    pattern = random_attention(LENGTHS, 4)
    data = measure(AttentionWavelets(), [{"pattern": pattern}], LENGTHS, facts(n_heads=4))
    assert bool((data.spread_product >= data.spread_product_bound - 1e-6).all())


def test_a_smooth_signal_is_coarse_and_a_comb_is_fine() -> None:
    lengths = [40, 48]
    smooth = attention_from(lambda p, h, i, j: -0.5 * ((j - 0.5 * i) / 6) ** 2, lengths, 1)
    comb = attention_from(lambda p, h, i, j: 3.0 * (j % 2), lengths, 1)
    layers = [{"pattern": smooth}, {"pattern": comb}]
    data = measure(AttentionWavelets(), layers, lengths, facts(n_layers=2, n_heads=1)).sel(
        category="all", head=0
    )
    last = data.sel(signal="last_row", first_position="drop")
    assert int(last.scale_energy.sel(layer=0).argmax("scale")) == LEVEL - 1
    assert int(last.scale_energy.sel(layer=1).argmax("scale")) == 0
    assert float(last.scale_centroid.sel(layer=1)) < 1.3 < float(last.scale_centroid.sel(layer=0))
    assert float(last.share.sel(layer=1, window="none", band="high")) > 0.4
    # Every second key of the comb is even.
    sensitivity = last.scale_sensitivity
    assert float(sensitivity.sel(layer=1)) > 5 * float(sensitivity.sel(layer=0))


def test_single_rows_are_measured_one_by_one() -> None:
    """Each as if the prompt ended there."""
    lengths = [40]
    pattern = random_attention(lengths, 2)
    found = measure(AttentionWavelets(rows=4), [{"pattern": pattern}], lengths, facts(n_heads=2))
    assert found.signal.values.tolist() == [*SIGNALS, "row_mean"]
    ends = [20, 26, 33, 39]  # evenly from the middle to the last
    rows = found.sel(signal="row_mean", category="all", layer=0)
    for head, first in itertools.product(range(2), (0, 1)):
        each = [pattern[0, head, end, first : end + 1].double().numpy() for end in ends]
        here = rows.isel(first_position=first).sel(head=head)
        for window in ("none", "hann"):
            spectra = [spectrum(row, window) for row in each]
            low = np.mean([power[grid < 0.125].sum() / power.sum() for grid, power in spectra])
            assert float(here.share.sel(window=window, band="low")) == pytest.approx(low, rel=1e-4)
            mean = np.mean([entropy(power) for _, power in spectra])
            assert float(here.spectral_entropy.sel(window=window)) == pytest.approx(mean, rel=1e-4)
        assert float(here.positional_entropy) == pytest.approx(
            np.mean([entropy(row) for row in each]), rel=1e-4
        )
        energy = np.mean([scale_shares(row, found.sizes["scale"])[0][:-1] for row in each], axis=0)
        np.testing.assert_allclose(here.scale_energy, energy, rtol=1e-4)
    plain = measure(AttentionWavelets(), [{"pattern": pattern}], lengths, facts(n_heads=2))
    np.testing.assert_allclose(found.share.sel(signal=list(SIGNALS)), plain.share, rtol=1e-6)
    np.testing.assert_allclose(found.low_share, plain.low_share, rtol=1e-6)


def test_a_window_too_short_for_wavelets_has_no_last_row() -> None:
    pattern = random_attention(LENGTHS, 2, sliding=8)
    data = measure(AttentionWavelets(), [{"pattern": pattern}], LENGTHS, facts(n_heads=2, sliding=8))
    data = data.sel(category="all")
    assert bool(data.share.sel(signal="last_row").isnull().all())
    assert bool(data.share.sel(signal="query_mean").notnull().all())
    assert bool(data.low_share.isnull().all())


def test_tiling_is_that_of_all_draws_of_heads() -> None:
    rng = np.random.default_rng(1)
    energy = rng.dirichlet(np.full(4, 0.4), size=(1, 2, 3, 3)).transpose(
        0, 1, 4, 2, 3
    )  # three layers of three heads
    found = tiling(energy)
    for first in range(2):
        shares = energy[0, first].reshape(4, 9).T  # [head, scale]
        drawn = []
        for chosen in itertools.combinations(range(9), 3):
            heads = shares[list(chosen)]
            pairs = [np.minimum(a, b).sum() for a, b in itertools.combinations(heads, 2)]
            levels = heads @ np.arange(1, 5)
            drawn.append((len(set(heads.argmax(1))) / 4, np.mean(pairs), levels.var(ddof=1)))
        expected = np.mean(drawn, axis=0)
        for layer in range(3):
            at = (0, first, layer)
            assert found["coverage_random_heads"][at] == pytest.approx(expected[0])
            assert found["overlap_random_heads"][at] == pytest.approx(expected[1])
            assert found["centroid_spread_random_heads"][at] == pytest.approx(math.sqrt(expected[2]))
            heads = energy[0, first, :, layer].T
            pairs = [np.minimum(a, b).sum() for a, b in itertools.combinations(heads, 2)]
            assert found["overlap"][at] == pytest.approx(np.mean(pairs))
            assert found["coverage"][at] == len(set(heads.argmax(1))) / 4
            assert found["centroid_spread"][at] == pytest.approx((heads @ np.arange(1, 5)).std(ddof=1))


def test_heads_that_divide_the_scales_are_told_from_heads_that_share_one() -> None:
    """Heads with one scale each: all scales in every layer, or one for each layer."""
    divided = np.zeros((1, 2, 3, 3, 3))
    alike = np.zeros((1, 2, 3, 3, 3))
    for layer, head in itertools.product(range(3), range(3)):
        divided[..., head, layer, head] = 1
        alike[..., layer, layer, head] = 1
    one, other = tiling(divided), tiling(alike)
    assert (one["coverage"] == 1).all() and (other["coverage"] == 1 / 3).all()
    assert (one["overlap"] == 0).all() and (other["overlap"] == 1).all()
    for name in ("coverage", "overlap", "centroid_spread"):
        np.testing.assert_allclose(one[f"{name}_random_heads"], other[f"{name}_random_heads"])
    assert (one["coverage"] > one["coverage_random_heads"]).all()
    assert (other["centroid_spread"] < other["centroid_spread_random_heads"]).all()


@pytest.mark.parametrize("batches", [[[0], [1], [2]], [[2, 0], [1]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    layers = [{"pattern": random_attention(LENGTHS, 3, seed=s)} for s in range(2)]
    about = facts(n_layers=2, n_heads=3)
    one = measure(AttentionWavelets(), layers, LENGTHS, about)
    other = measure(AttentionWavelets(), layers, LENGTHS, about, batches=batches)
    xr.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_a_category_has_the_values_of_its_own_prompts() -> None:
    lengths = [26, 40, 26, 33]
    pattern, about = random_attention(lengths, 3), facts(n_heads=3)
    categories = ["a", "b", "a", "b"]
    data = measure(AttentionWavelets(), [{"pattern": pattern}], lengths, about, categories=categories)
    rows = [0, 2]
    alone = measure(AttentionWavelets(), [{"pattern": pattern[rows]}], [26, 26], about)
    for name in ("share", "low_share_effect", "overlap", "scale_energy", "share_uniform"):
        np.testing.assert_allclose(data[name].sel(category="a"), alone[name].sel(category="all"), rtol=1e-4)


def test_the_null_is_not_rejected_for_a_sharp_head_on_random_keys() -> None:
    about = attention_facts(n_layers=1, n_heads=2)
    lengths = torch.tensor([30, 36, 42, 33, 39, 45, 48, 31])
    pattern = permuted_rows(np.random.default_rng(2), about, lengths)
    data = measure(AttentionWavelets(), [{"pattern": pattern}], lengths.tolist(), about)
    assert float(data.low_share_q.sel(category="all", first_position="drop").min()) > 0.05
