"""Complexity by layer and site, against loops over series and the words of a definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import signal as scipy_signal

from resonance_lens.analyses.complexity import SERIES, Complexity, directions, spaced
from resonance_lens.contract import Accumulated
from resonance_lens.features import Features
from resonance_lens.trials import PlantedAdapter, accumulated, observe, result_of
from tests.by_hand import Floats, facts, measure

LENGTHS = [24, 41, 30, 18]
SITES = Complexity.sites


def vectors(lengths: list[int], d_model: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    made = {}
    for site in SITES:
        drawn = rng.normal(size=(len(lengths), max(lengths), d_model)).cumsum(1) + 5
        drawn[..., 0] *= 30  # one dimension holds most of the power
        made[site] = torch.as_tensor(drawn, dtype=torch.float32)
    return made


def n_words(series: Floats) -> int:
    text = "".join("1" if value else "0" for value in series > np.median(series))
    start = count = 0
    while start < len(text):
        size = 1
        while start + size <= len(text) and text[start : start + size] in text[: start + size - 1]:
            size += 1
        start, count = start + size, count + 1
    return count


def patterns(series: Floats) -> float:
    orders = [tuple(np.argsort(series[t : t + 3], kind="stable")) for t in range(len(series) - 2)]
    share = np.array([orders.count(order) for order in set(orders)]) / len(orders)
    return float(-(share * np.log(share)).sum() / math.log(6))


def evenness(series: Floats) -> float:
    _, power = scipy_signal.periodogram(series)
    share = power[1:] / power[1:].sum()
    return float(-(share * np.log(share)).sum() / math.log(len(share)))


def by_hand(values: torch.Tensor, lengths: list[int], n: int, cloud: int) -> dict[str, Floats]:
    """Return ``[series, prompt]`` means over projections of one site, from the definitions."""
    axes = directions(values.shape[2], n).numpy()
    np.testing.assert_allclose(np.linalg.norm(axes, axis=0), 1)
    found: dict[str, list[list[float]]] = {}
    for row, length in enumerate(lengths):
        x = values[row, 1:length].double().numpy()
        kinds = [
            (x / x.std(axis=0) @ axes).T,
            (x @ axes).T,
            np.linalg.norm(x, axis=1)[None],
        ]
        m = length - 1
        for name, of in (
            ("lempel_ziv", lambda s, m=m: n_words(s) / (m / math.log2(m))),
            ("permutation_entropy", patterns),
            ("spectral_entropy", evenness),
        ):
            means = [float(np.mean([of(series) for series in kind])) for kind in kinds]
            found.setdefault(name, []).append(means)
        chosen = x[[math.floor((k + 1) * m / min(m, cloud)) - 1 for k in range(min(m, cloud))]]
        values_of = np.linalg.eigvalsh(np.cov(chosen.T))
        found.setdefault("participation_ratio", []).append([values_of.sum() ** 2 / (values_of**2).sum()])
    return {name: np.array(rows).T for name, rows in found.items()}


@pytest.mark.parametrize("n, cloud", [(8, 128), (3, 16)])
def test_numbers_are_those_of_loops(n: int, cloud: int) -> None:
    analysis = Complexity(projections=n, cloud=cloud)
    layers = [vectors(LENGTHS, 8, seed) for seed in range(3)]
    data = measure(analysis, layers, LENGTHS, facts(n_layers=3))
    assert data.series.values.tolist() == list(SERIES)
    for layer in range(3):
        for site in SITES:
            expected = by_hand(layers[layer][site], LENGTHS, n, cloud)
            found = data.sel(layer=layer, site=site)
            for name in ("lempel_ziv", "permutation_entropy", "spectral_entropy"):
                np.testing.assert_allclose(found[f"{name}_prompt"].T, expected[name], atol=2e-5, err_msg=name)
                mean = found[name].sel(category="all")
                np.testing.assert_allclose(mean, expected[name].mean(1), atol=2e-5, err_msg=name)
            np.testing.assert_allclose(
                found.participation_ratio_prompt, expected["participation_ratio"][0], rtol=1e-3
            )


def test_the_first_position_and_the_padding_do_not_count() -> None:
    layers = [vectors(LENGTHS, 8)]
    one = measure(Complexity(), layers, LENGTHS, facts())
    changed = {}
    for site, values in layers[0].items():
        changed[site] = values.clone()
        changed[site][:, 0] = 1e4
        for row, length in enumerate(LENGTHS):
            changed[site][row, length:] = -77.0
    xr.testing.assert_identical(one, measure(Complexity(), [changed], LENGTHS, facts()))


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    layers = [vectors(LENGTHS, 8, seed) for seed in range(2)]
    one = measure(Complexity(), layers, LENGTHS, facts(n_layers=2))
    xr.testing.assert_identical(
        one, measure(Complexity(), layers, LENGTHS, facts(n_layers=2), batches=batches)
    )


def test_the_null_is_the_mean_over_orders_of_the_tokens() -> None:
    layer = vectors([30], 8)
    data = measure(Complexity(), [layer], [30], facts()).sel(category="all", layer=0)
    rng = np.random.default_rng(1)
    orders = np.stack([np.concatenate([[0], 1 + rng.permutation(29)]) for _ in range(400)])
    # Each order as a prompt of its own.
    shuffled = {site: values[0, orders] for site, values in layer.items()}
    each = measure(Complexity(), [shuffled], [30] * 400, facts()).lempel_ziv_prompt.sel(layer=0)
    error = each.std("prompt") / 20
    # Eight projections share the order of a prompt; the mean over orders is that of each.
    assert bool((np.abs(each.mean("prompt") - data.lempel_ziv_null) < 4.5 * error + 2e-3).all())


def test_whitening_shows_what_one_large_dimension_hides() -> None:
    rng = np.random.default_rng(0)
    lengths = [120] * 8
    values = rng.normal(size=(8, 120, 16))
    t = np.arange(120)
    values[..., 0] = 1e4 * np.sin(2 * np.pi * t / 40)
    layer = {site: torch.as_tensor(values, dtype=torch.float32) for site in SITES}
    data = measure(Complexity(), [layer], lengths, facts(d_model=16)).sel(category="all", layer=0)
    effect = data.lempel_ziv_effect.sel(site="resid_post")
    assert float(effect.sel(series="projection")) < -0.7
    assert float(effect.sel(series="whitened")) > -0.2
    assert float(data.participation_ratio.sel(site="resid_post")) == pytest.approx(1, abs=1e-3)


def test_vectors_that_never_change_have_two_words_and_no_spectrum() -> None:
    layer = {site: torch.full((6, 20, 8), 3.3) for site in SITES}
    data = measure(Complexity(), [layer] * 3, [20] * 6, facts(n_layers=3)).sel(category="all")
    assert bool((data.lempel_ziv * (19 / math.log2(19)) - 2 < 1e-9).all())
    assert float(abs(data.lempel_ziv_effect).max()) == 0
    assert bool((data.permutation_entropy == 0).all())
    for name in ("spectral_entropy", "participation_ratio", "participation_ratio_inner_gain"):
        assert bool(data[name].isnull().all()), name
    assert bool(data.lempel_ziv_inner_layer.isnull().all())


def test_spaced_positions_are_even_and_hold_the_last() -> None:
    for n, most in ((10, 20), (10, 10), (10, 3), (511, 128), (129, 128), (1, 8)):
        found = spaced(n, most).tolist()
        assert len(found) == min(n, most) and found[-1] == n - 1 and len(set(found)) == len(found)
        steps = np.diff(found)
        assert not len(steps) or steps.max() - steps.min() <= 1


# Inner maxima ----------------------------------------------------------------------------------


def test_baselines_have_inner_maxima_of_their_own() -> None:
    analysis = Complexity()
    source = analysis.plant(np.random.default_rng(0))
    adapter = PlantedAdapter(source)
    empty = PlantedAdapter(analysis.null(np.random.default_rng(0)))
    pieces = [observe(analysis, each, each.tokens())[0] for each in (adapter, empty)]
    seen = accumulated(analysis, adapter, pieces[0])
    both: dict[str, Features] = {"plain": pieces[0], "random_weights": pieces[1]}
    data = analysis.conclude(
        Accumulated(both, seen.facts, seen.layers, seen.prompt_ids, seen.categories, 0)
    ).sel(category="all", series="whitened", site="resid_post")
    assert float(data.lempel_ziv_inner_layer) == 2
    assert bool(data.lempel_ziv_inner_layer_random_weights.isnull())
    assert abs(float(data.lempel_ziv_inner_gain_random_weights)) < 0.1


# What it says ----------------------------------------------------------------------------------


def test_summary_and_targets_say_what_was_planted() -> None:
    analysis = Complexity()
    adapter = PlantedAdapter(analysis.plant(np.random.default_rng(0)))
    result = result_of(analysis, adapter, adapter.tokens())
    assert "inner maximum at layer 2" in result.summary
    best = result.targets(6)
    assert {target.layer for target in best} == {0, 4} and best[0].score > best[-1].score > 0.2
    assert {target.site for target in best} == set(SITES)
    nothing = PlantedAdapter(analysis.null(np.random.default_rng(0)))
    flat = result_of(analysis, nothing, nothing.tokens())
    assert "no inner maximum" in flat.summary
    assert all(target.score < analysis.minimum_effect for target in flat.targets(20))


def test_one_prompt_and_one_layer_cannot_show_a_maximum() -> None:
    data = measure(Complexity(), [vectors([20], 8)], [20], facts())
    assert bool(data.lempel_ziv_inner_gain.isnull().all()) and bool(data.lempel_ziv.notnull().all())
