"""Phase coherence, against loops over prompts, heads, queries and permutations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.analyses.phase_coherence import PhaseCoherence
from resonance_lens.planting import peaked_rows, permuted_rows
from tests.by_hand import (
    Floats,
    attention_from,
    facts,
    keys_of,
    measure,
    one_key,
    phasor,
    random_attention,
    without_first,
)

TURN = {"full": 2 * math.pi, "half": math.pi}
LENGTHS = [9, 14, 6, 11]


def mean_square_permuted(row: Floats, keys: list[int], turn: float, fixed: bool) -> float:
    """Return the mean of abs(z)^2 over all orders of the weights, the first standing still if fixed."""
    units = [np.exp(1j * turn * place / len(keys)) for place in range(len(keys))]
    weights = [row[key] for key in keys]
    head, moving = ([weights[0]], weights[1:]) if fixed else ([], weights)
    found = [
        abs(sum(w * u for w, u in zip([*head, *order], units, strict=True))) ** 2
        for order in itertools.permutations(moving)
    ]
    return float(np.mean(found))


def by_hand(
    pattern: torch.Tensor, lengths: list[int], circle: str, min_keys: int, *, causal: bool = True,
    sliding: int | None = None, permute: bool = False,
) -> dict[str, Floats]:  # fmt: skip
    """Return ``[first_position, prompt, head]`` means over queries, from the definitions."""
    n_heads = pattern.shape[1]
    names = ("R", "R2", "null", "uniform", "re", "im", "centroid")
    out = {name: np.full((2, len(lengths), n_heads), np.nan) for name in names}
    for p, length in enumerate(lengths):
        for h in range(n_heads):
            for f in range(2):
                each: dict[str, list[float]] = {name: [] for name in names}
                for i in range(length):
                    row = pattern[p, h, i].double().numpy()
                    keys = keys_of(i, length, causal, sliding)
                    if len(keys) < min_keys:
                        continue
                    holds_first = 0 in keys
                    if f and row[1:].sum() < 1e-3:
                        continue
                    if f:
                        row, keys = without_first(row, keys)
                    z = phasor(row, keys, TURN[circle])
                    each["R"].append(abs(z))
                    each["R2"].append(abs(z) ** 2)
                    even = np.full(len(row), 1 / len(keys))
                    each["uniform"].append(abs(phasor(even, keys, TURN[circle])))
                    each["re"].append(z.real)
                    each["im"].append(z.imag)
                    # Where the direction points, counted back from the newest key in whole windows.
                    place = np.angle(z) / TURN[circle] * len(keys)
                    back = len(keys) - 1 - place
                    while back < -0.5:
                        back += len(keys)
                    while back >= len(keys) - 0.5:
                        back -= len(keys)
                    each["centroid"].append(back)
                    if permute:
                        fixed = holds_first and not f
                        each["null"].append(mean_square_permuted(row, keys, TURN[circle], fixed))
                for name, values in each.items():
                    if values:
                        out[name][f, p, h] = np.mean(values)
    return out


def assert_matches(data: xr.Dataset, expected: dict[str, Floats], atol: float = 5e-6) -> None:
    data = data.sel(category="all", layer=0)
    pairs = {"coherence": "R", "coherence_squared": "R2", "coherence_uniform": "uniform"}
    for variable, name in pairs.items():
        np.testing.assert_allclose(data[variable], expected[name].mean(1), atol=atol, err_msg=variable)
    np.testing.assert_allclose(data.coherence_prompt, np.moveaxis(expected["R"], 1, 0), atol=atol)
    np.testing.assert_allclose(data.centroid, expected["centroid"].mean(1), atol=1e-3)
    mean = (expected["re"] + 1j * expected["im"]).mean(1)
    np.testing.assert_allclose(np.exp(1j * data.angle), mean / abs(mean), atol=1e-3)


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize(
    "causal, sliding", [(True, None), (True, 5), (False, None)], ids=["causal", "sliding", "bidirectional"]
)
def test_numbers_are_those_of_a_loop(circle: str, causal: bool, sliding: int | None) -> None:
    pattern = random_attention(LENGTHS, 3, causal=causal, sliding=sliding)
    about = facts(n_heads=3, causal=causal, sliding=sliding)
    analysis = PhaseCoherence(circle=circle, min_keys=4)
    data = measure(analysis, [{"pattern": pattern}], LENGTHS, about)
    assert_matches(data, by_hand(pattern, LENGTHS, circle, 4, causal=causal, sliding=sliding))


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("sliding", [None, 4])
def test_null_is_the_mean_over_all_permutations(circle: str, sliding: int | None) -> None:
    lengths = [6, 5]
    pattern = random_attention(lengths, 2, seed=3, sliding=sliding)
    about = facts(n_heads=2, sliding=sliding)
    data = measure(PhaseCoherence(circle=circle, min_keys=4), [{"pattern": pattern}], lengths, about)
    expected = by_hand(pattern, lengths, circle, 4, sliding=sliding, permute=True)
    found = data.sel(category="all", layer=0)
    np.testing.assert_allclose(found.coherence_squared_null, expected["null"].mean(1), atol=1e-5)
    effect = (expected["R2"] - expected["null"]).mean(1)
    np.testing.assert_allclose(found.coherence_squared_effect, effect, atol=1e-5)
    np.testing.assert_allclose(
        found.coherence_squared_effect_prompt, np.moveaxis(expected["R2"] - expected["null"], 1, 0), atol=1e-5
    )


def test_uniform_attention_has_the_coherence_of_its_baseline() -> None:
    lengths = [20, 40, 33]
    even = attention_from(lambda p, h, i, j: 0.0, lengths, 2)
    for circle in ("full", "half"):
        data = measure(PhaseCoherence(circle=circle), [{"pattern": even}], lengths, facts(n_heads=2))
        data = data.sel(category="all")
        np.testing.assert_allclose(data.coherence, data.coherence_uniform, atol=1e-5)
        assert float(abs(data.coherence_squared_effect).max()) < 1e-5
        if circle == "half":
            assert float(abs(data.coherence - 2 / math.pi).max()) < 0.02
        else:
            assert float(data.coherence.max()) < 1e-5
            # It points nowhere, and rounding error is no direction.
            assert bool(data.centroid.isnull().all()) and bool(data.angle.isnull().all())


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("back", [0, 1, 3])
def test_a_head_that_looks_back_by_some_tokens_is_found_there(circle: str, back: int) -> None:
    lengths = [20, 35]
    pattern = one_key(lambda i: max(i - back, 0), lengths, 2)
    data = measure(PhaseCoherence(circle=circle), [{"pattern": pattern}], lengths, facts(n_heads=2))
    data = data.sel(category="all", layer=0, head=0)
    np.testing.assert_allclose(data.coherence, 1, atol=1e-6)
    np.testing.assert_allclose(data.centroid, back, atol=1e-4)
    units = [[np.exp(1j * TURN[circle] * (i - back) / (i + 1)) for i in range(7, n)] for n in lengths]
    expected = np.angle(np.mean([np.mean(each) for each in units])) % (2 * math.pi)
    assert float(data.angle.sel(first_position="keep")) == pytest.approx(expected, abs=1e-5)


def test_a_pure_sink_is_coherent_and_has_nothing_beyond() -> None:
    lengths = [12, 20, 16]
    pattern = one_key(lambda i: 0, lengths, 2)
    data = measure(PhaseCoherence(), [{"pattern": pattern}], lengths, facts(n_heads=2)).sel(category="all")
    keep, drop = (data.sel(first_position=f, layer=0) for f in ("keep", "drop"))
    np.testing.assert_allclose(keep.coherence, 1)
    np.testing.assert_allclose(keep.coherence_squared_effect, 0, atol=1e-6)
    np.testing.assert_allclose(keep.angle, 0, atol=1e-6)
    for name in ("coherence", "coherence_squared", "centroid", "angle", "coherence_uniform"):
        assert bool(drop[name].isnull().all()), name


def test_two_opposite_peaks_cancel_on_the_whole_circle_only() -> None:
    """Half of the attention on the oldest key, half on the one at half a turn from it."""
    lengths = [24]
    pattern = torch.zeros(1, 1, 24, 24)
    for i in range(24):
        pattern[0, 0, i, 0] += 0.5
        pattern[0, 0, i, (i + 1) // 2] += 0.5
    for circle, expected in (("full", 0.0), ("half", math.sqrt(0.5))):
        analysis = PhaseCoherence(circle=circle, min_keys=24)
        data = measure(analysis, [{"pattern": pattern}], lengths, facts(n_heads=1))
        found = float(data.coherence.sel(category="all", first_position="keep", layer=0, head=0))
        assert found == pytest.approx(expected, abs=1e-6)


def test_coherence_follows_the_attention_weights() -> None:
    """The first defect of SCIENCE 1: waves divided by their own modulus gave every layer one coherence."""
    lengths = [20, 30]
    layers = []
    for sharpness in (0.0, 4.0, 30.0, 300.0):

        def score(p: int, h: int, i: int, j: int, sharpness: float = sharpness) -> float:
            return -sharpness * (j / (i + 1) - 0.5) ** 2

        layers.append({"pattern": attention_from(score, lengths, 1)})
    data = measure(PhaseCoherence(), layers, lengths, facts(n_layers=4, n_heads=1)).sel(
        category="all", head=0
    )
    for f in ("keep", "drop"):
        rising = data.coherence.sel(first_position=f)
        assert bool((rising.diff("layer") > 0.1).all())


def test_a_baseline_is_over_the_queries_that_the_head_s_mean_is_over() -> None:
    """A pure sink until query 30 that is uniform from there on is uniform where it is defined."""
    lengths = [45, 45]
    pattern = attention_from(lambda p, h, i, j: 0.0 if i >= 30 or j == 0 else -60.0, lengths, 1)
    data = measure(PhaseCoherence(circle="half"), [{"pattern": pattern}], lengths, facts(n_heads=1))
    drop = data.sel(category="all", first_position="drop", layer=0, head=0)
    assert float(drop.coherence) == pytest.approx(float(drop.coherence_uniform), abs=1e-6)


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    lengths = [9, 70, 12, 30]
    layers = [{"pattern": random_attention(lengths, 2, seed=s)} for s in range(2)]
    about = facts(n_layers=2, n_heads=2)
    one = measure(PhaseCoherence(), layers, lengths, about)
    other = measure(PhaseCoherence(), layers, lengths, about, batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-5)


def test_a_category_has_the_values_of_its_own_prompts() -> None:
    categories = ["a", "b", "a", "b"]
    pattern = random_attention(LENGTHS, 2)
    about = facts(n_heads=2)
    data = measure(PhaseCoherence(min_keys=4), [{"pattern": pattern}], LENGTHS, about, categories=categories)
    assert data.category.values.tolist() == ["all", "a", "b"]
    for name, rows in (("a", [0, 2]), ("b", [1, 3])):
        alone = measure(
            PhaseCoherence(min_keys=4), [{"pattern": pattern[rows]}], [LENGTHS[r] for r in rows], about
        )
        for variable in ("coherence", "coherence_squared_effect", "angle", "centroid", "coherence_uniform"):
            np.testing.assert_allclose(
                data[variable].sel(category=name), alone[variable].sel(category="all"), atol=1e-6
            )


def test_queries_that_see_too_few_keys_are_left_out() -> None:
    pattern = random_attention([16], 1)
    about = facts(n_heads=1)
    data = measure(PhaseCoherence(min_keys=16), [{"pattern": pattern}], [16], about)
    expected = abs(phasor(pattern[0, 0, 15].double().numpy(), range(16), 2 * math.pi))
    found = data.coherence.sel(category="all", first_position="keep", layer=0, head=0)
    assert float(found) == pytest.approx(expected, abs=1e-6)
    assert PhaseCoherence(min_keys=16).min_tokens == 16


# One prompt ------------------------------------------------------------------------------------


def test_one_prompt_is_tested_by_orders_of_its_keys() -> None:
    """A head with a peak differs from its own weights in other orders, one without does not."""
    rng = np.random.default_rng(3)
    about, lengths = facts(1, 2), torch.tensor([50])
    peaked = peaked_rows(rng, about, lengths, width=0.05, place=0.4)
    peaked[:, 1] = permuted_rows(rng, about, lengths)[:, 1]
    analysis = PhaseCoherence(surrogates=499)
    data = measure(analysis, [{"pattern": peaked}], [50], about)
    data = data.sel(category="all", layer=0, first_position="drop")
    smallest = data.coherence_squared_p.attrs["smallest"]
    assert float(data.coherence_squared_q.sel(head=0)) == 1 / 500 == smallest
    assert float(data.coherence_squared_q.sel(head=1)) > 0.05
    # The mean over orders is the closed form, here over the same queries: fewer than 64 count.
    closed = measure(PhaseCoherence(), [{"pattern": peaked}], [50], about)
    closed = closed.sel(category="all", layer=0, first_position="drop")
    np.testing.assert_allclose(data.coherence_squared, closed.coherence_squared, rtol=1e-5)
    np.testing.assert_allclose(data.coherence_squared_null, closed.coherence_squared_null, atol=0.03)
    assert np.isnan(closed.coherence_squared_q).all()


def test_orders_of_keys_do_not_depend_on_the_batch() -> None:
    lengths = [30, 22, 41, 35]
    pattern, about = random_attention(lengths, 3), facts(1, 3)
    analysis = PhaseCoherence(surrogates=49)
    one = measure(analysis, [{"pattern": pattern}], lengths, about)
    other = measure(analysis, [{"pattern": pattern}], lengths, about, batches=[[2], [0, 3], [1]])
    xr.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    categories = ["a", "b", "a", "b"]
    split = measure(analysis, [{"pattern": pattern}], lengths, about, categories=categories)
    np.testing.assert_array_equal(split.coherence_squared_q.sel(category="all"), one.coherence_squared_q[0])
    assert np.isnan(split.coherence_squared_q.sel(category="a")).all()
