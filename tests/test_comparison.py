"""Comparing runs: the intervals, what is paired, and what is no comparison."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import resonance_lens as rl
from resonance_lens.comparison import compare, compare_categories
from resonance_lens.errors import ResultError
from resonance_lens.result import Result
from resonance_lens.runs import Run
from resonance_lens.stats.intervals import bootstrap_difference, bootstrap_mean
from resonance_lens.stats.streams import stream
from resonance_lens.stats.two_samples import infer_labels

RNG = np.random.default_rng


def result(
    rows: Any,
    *,
    digest: str | None = "d",
    categories: list[str] | None = None,
    dims: tuple[str, ...] = ("layer", "head"),
    name: str = "sharpness",
    suffix: str = "_prompt",
    **provenance: Any,
) -> Result:
    """Return a result with rows ``[prompt, *dims]`` of one variable."""
    rows = np.asarray(rows, dtype=np.float32)
    coords: dict[str, Any] = {dim: np.arange(size) for dim, size in zip(dims, rows.shape[1:], strict=True)}
    coords["prompt"] = [f"prompt-{i:03d}" for i in range(len(rows))]
    if categories is not None:
        coords["prompt_category"] = ("prompt", categories)
    attrs = {"long_name": "sharpness of each prompt", "units": "nat"}
    data = xr.Dataset({f"width{suffix}": (("prompt", *dims), rows, attrs)}, coords=coords)
    told = {"prompts": {"digest": digest}, "version": "1", "headline": "width", "minimum_effect": 0.1}
    return Result(name=name, data=data, provenance=told | {"parameters": {"circle": "full"}} | provenance)


def rows_of(seed: int, prompts: int = 12, shift: float = 0.0) -> Any:
    return RNG(seed).normal(shift, 1.0, size=(prompts, 2, 3)).astype(np.float32)


# Intervals of the difference of two sets ------------------------------------------------------


def test_difference_equals_scipy_where_samples_are_large() -> None:
    rng = RNG(0)
    a, b = rng.gamma(2.0, 1.0, size=(400, 3)), rng.normal(1.0, 2.0, size=(250, 3))
    difference, low, high = bootstrap_difference(a, b, RNG(1), n_resamples=9999)
    expected = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: y.mean(axis) - x.mean(axis),
        axis=0,
        n_resamples=9999,
        method="percentile",
        vectorized=True,
        rng=RNG(2),
    ).confidence_interval
    np.testing.assert_allclose(difference, b.mean(0) - a.mean(0))
    width = expected.high - expected.low
    np.testing.assert_allclose((low - expected.low) / width, 0, atol=0.03)
    np.testing.assert_allclose((high - expected.high) / width, 0, atol=0.03)


@pytest.mark.parametrize(("n_a", "n_b", "spread"), [(4, 4, 1.0), (4, 12, 1.0), (5, 10, 3.0), (24, 24, 1.0)])
def test_difference_covers_the_truth_in_small_samples(n_a: int, n_b: int, spread: float) -> None:
    """Of 2,000 pairs of samples; Welch's interval is the yardstick."""
    rng = RNG(3)
    a, b = rng.normal(0, spread, size=(n_a, 2000)), rng.normal(0.7, 1, size=(n_b, 2000))
    _, low, high = bootstrap_difference(a, b, RNG(4), n_resamples=999)
    covered = ((low <= 0.7) & (0.7 <= high)).mean()
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    usual = ((welch.low <= 0.7) & (0.7 <= welch.high)).mean()
    assert abs(covered - usual) < 0.02 and covered > 0.92


def test_difference_leaves_out_what_is_undefined() -> None:
    a, b = rows_of(0, 9), rows_of(1, 8)
    a[3, 0, 0] = np.nan
    b[:7, 1, 1] = np.nan
    b[:, 1, 2] = np.nan
    difference, low, high = bootstrap_difference(a, b, RNG(0))
    np.testing.assert_allclose(
        difference[0, 0], b[:, 0, 0].mean() - np.delete(a[:, 0, 0], 3).mean(), rtol=1e-6
    )
    assert np.isfinite(difference[1, 1]) and np.isnan([low[1, 1], high[1, 1]]).all()
    assert np.isnan([difference[1, 2], low[1, 2], high[1, 2]]).all()
    fine = np.ones((2, 3), bool)
    fine[1, 1:] = False
    assert (low[fine] < difference[fine]).all() and (difference[fine] < high[fine]).all()


def test_difference_of_constants_is_sure() -> None:
    found = bootstrap_difference(np.ones((5, 2)), np.full((4, 2), 3.0), RNG(0))
    assert [values.tolist() for values in found] == [[2.0, 2.0]] * 3


# Two results -----------------------------------------------------------------------------------


def test_the_same_prompts_are_paired() -> None:
    a = rows_of(0) * 10
    b = a + rows_of(1, shift=0.5)
    compared = compare(result(a), result(b), seed=5)
    rng = stream(5, "compare", "sharpness", "width", "all")
    mean, low, high = bootstrap_mean(b.astype(float) - a.astype(float), rng)
    data = compared.sel(category="all")
    for name, expected in {
        "a": a.mean(0),
        "b": b.mean(0),
        "difference": mean,
        "difference_low": low,
        "difference_high": high,
        "effect_size": mean / (b - a).std(0, ddof=1),
    }.items():
        np.testing.assert_allclose(data[f"width_{name}"], expected, rtol=1e-4, err_msg=name)
        assert data[f"width_{name}"].dims == ("layer", "head")
    assert compared.attrs["paired"] == 1 and "within each" in compared.attrs["interval"]
    assert compared.attrs["minimum_effect"] == 0.1 and compared.attrs["headline"] == "width"
    assert compared.width_a.attrs == {"long_name": "sharpness, first", "units": "nat"}
    assert compared.width_effect_size.attrs["units"] == "1"
    # What prompts have in common cancels; without pairing it does not.
    apart = compare(result(a), result(b, digest="other"))
    assert apart.attrs["paired"] == 0 and "each side" in apart.attrs["interval"]
    assert float((apart.width_difference_high - apart.width_difference_low).min()) > float((high - low).max())


def test_other_prompts_are_not_paired() -> None:
    a, b = rows_of(0, 12), rows_of(1, 9, shift=2.0)
    data = compare(result(a), result(b, digest="e"), seed=1).sel(category="all")
    rng = stream(1, "compare", "sharpness", "width", "all")
    difference, low, high = bootstrap_difference(a, b, rng)
    np.testing.assert_allclose(data.width_difference, difference)
    np.testing.assert_allclose(data.width_difference_low, low)
    np.testing.assert_allclose(data.width_difference_high, high)
    pooled = np.sqrt((11 * a.var(0, ddof=1) + 8 * b.var(0, ddof=1)) / 19)
    np.testing.assert_allclose(data.width_effect_size, difference / pooled, rtol=1e-4)
    assert bool((data.width_difference_low > 0).all())


def test_results_that_do_not_say_their_prompts_are_not_paired() -> None:
    assert compare(result(rows_of(0), digest=None), result(rows_of(1), digest=None)).attrs["paired"] == 0


def test_the_same_numbers_do_not_differ() -> None:
    compared = compare(result(rows_of(0)), result(rows_of(0)))
    for name in ("difference", "difference_low", "difference_high"):
        assert bool((compared[f"width_{name}"] == 0).all())
    assert bool(compared.width_effect_size.isnull().all())


def test_undefined_in_one_leaves_the_prompt_out_of_both() -> None:
    a, b = rows_of(0), rows_of(1)
    b[2, 0, 0] = np.nan
    data = compare(result(a), result(b)).sel(category="all", layer=0, head=0)
    others = [i for i in range(len(a)) if i != 2]
    np.testing.assert_allclose(data.width_a, a[others, 0, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(data.width_difference, float(data.width_b - data.width_a), rtol=1e-6)


def test_shared_categories_are_compared_each() -> None:
    a, b = rows_of(0), rows_of(1)
    of_a = ["x"] * 6 + ["y"] * 6
    of_b = ["y"] * 4 + ["z"] * 8
    compared = compare(result(a, categories=of_a), result(b, categories=of_b, digest="e"))
    assert compared.category.values.tolist() == ["all", "y"]
    expected = b[:4].mean(0) - a[6:].mean(0)
    np.testing.assert_allclose(compared.sel(category="y").width_difference, expected, rtol=1e-5)
    assert compare(result(a, categories=of_a), result(b)).category.values.tolist() == ["all"]


def test_seed_decides() -> None:
    a, b = result(rows_of(0)), result(rows_of(1))
    assert compare(a, b, seed=1).identical(compare(a, b, seed=1))
    assert not compare(a, b, seed=1).identical(compare(a, b, seed=2))


def test_chance_alone_is_rarely_beyond_zero_and_never_a_large_effect() -> None:
    a, b = RNG(0).normal(size=(24, 30, 9)), RNG(1).normal(size=(24, 30, 9))
    compared = compare(result(a), result(b))
    apart = (compared.width_difference_low > 0) | (compared.width_difference_high < 0)
    assert 3 <= int(apart.sum()) <= 27  # 13 or 14 of 270 are expected


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (result(rows_of(0), name="order"), "these are of sharpness and of order"),
        (result(rows_of(0), version="2"), "version 1 of sharpness and the second of version 2"),
        (
            result(rows_of(0), parameters={"circle": "half"}),
            "sharpness ran with circle='full' in the first run and circle='half' in the second",
        ),
        (result(rows_of(0), parameters={}), "circle='full' in the first run and circle=None in the second"),
        (result(rows_of(0)[:, :1]), "2 entries along 'layer' in the first run and 1 in the second"),
        (result(rows_of(0)[:, :, :2]), "3 entries along 'head' in the first run and 2 in the second"),
        (result(rows_of(0)[:, 0], dims=("head",)), "over prompt, layer, head in the first run"),
        (result(rows_of(0), suffix="_mean"), "sharpness keeps no numbers for each prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(other: Result, sentence: str) -> None:
    with pytest.raises(ResultError, match=sentence) as error:
        compare(result(rows_of(0)), other)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_other_layers_of_the_same_number() -> None:
    a, b = result(rows_of(0)), result(rows_of(1))
    moved = dataclasses.replace(b, data=b.data.assign_coords(layer=[1, 2]))
    with pytest.raises(ResultError, match="do not have the same entries along 'layer'"):
        compare(a, moved)


def test_other_variables() -> None:
    a, b = result(rows_of(0)), result(rows_of(1))
    more = dataclasses.replace(b, data=b.data.assign(depth_prompt=b.data.width_prompt))
    with pytest.raises(ResultError, match="different variables for each prompt: width and width, depth"):
        compare(a, more)


# p and q -------------------------------------------------------------------------------------------


def test_p_of_paired_prompts_is_scipys_and_q_no_less_than_a_naive_loops() -> None:
    a = rows_of(0, 9)
    b = a + rows_of(1, 9, shift=0.6)
    data = compare(result(a), result(b)).sel(category="all")
    difference = b.astype(float) - a
    flips = [difference * np.array(signs)[:, None, None] for signs in product((1, -1), repeat=9)]
    t = [np.abs(scipy.stats.ttest_1samp(flip, 0).statistic) for flip in flips]
    for place in np.ndindex(2, 3):
        expected = scipy.stats.permutation_test(
            (difference[:, place[0], place[1]],),
            lambda x, axis: abs(x.mean(axis=axis)),
            permutation_type="samples",
            alternative="greater",
            n_resamples=np.inf,
            vectorized=True,
        ).pvalue
        assert float(data.width_p[place]) == pytest.approx(expected)
        largest = np.mean([flip.max() >= t[0][place] - 1e-9 for flip in t])
        assert largest - 1e-9 <= float(data.width_q[place]) <= 1  # or more, by resamples: see stats
    assert int(data.width_units_a) == int(data.width_units_b) == 9
    assert float(data.width_smallest) == 2**-8 and data.width_refused.item() == ""
    assert data.width_q.attrs["family"] == "layer, head" and data.width_q.attrs["units"] == "1"


def test_p_of_other_prompts_is_scipys() -> None:
    a, b = rows_of(0, 5), rows_of(1, 6, shift=1.0)
    compared = compare(result(a), result(b, digest="e"))
    for place in np.ndindex(2, 3):
        expected = scipy.stats.permutation_test(
            (a[:, place[0], place[1]].astype(float), b[:, place[0], place[1]].astype(float)),
            lambda x, y: -scipy.stats.ttest_ind(x, y, equal_var=False).pvalue,
            alternative="greater",
            n_resamples=np.inf,
        ).pvalue
        assert float(compared.width_p.sel(category="all")[place]) == pytest.approx(expected)
    assert bool((compared.width_q >= compared.width_p).all())
    assert compared.width_units_a.values.tolist() == [5] and compared.width_units_b.values.tolist() == [6]
    assert compared.width_smallest.values.tolist() == [1 / 462]
    assert compared.attrs["methods"] == (
        "The second (6 prompts) minus the first (5), not paired: p by all 462 arrangements of the labels, "
        "with Welch's t (smallest attainable 0.0022); q is corrected by the largest studentised statistic of "
        "a family of 6 heads."
    )


def test_families_are_all_layers_and_heads_and_readings_are_apart() -> None:
    dims = ("first_position", "layer", "head")
    a = RNG(0).normal(size=(10, 2, 3, 4))
    b = a + RNG(1).normal(size=a.shape)
    b[:, 1] += 5.0  # whatever is in one reading says nothing of the other
    compared = compare(result(a, dims=dims), result(b, dims=dims)).sel(category="all")
    alone = compare(result(a[:, 0]), result(b[:, 0])).sel(category="all")
    np.testing.assert_allclose(compared.width_q[0], alone.width_q)
    assert bool((compared.width_q[1] == 2**-9).all())
    assert "a family of 12 heads, each first_position for itself." in compared.attrs["methods"]


def test_what_cannot_find_anything_is_refused_with_the_number_that_could() -> None:
    categories = ["x"] * 4 + ["y"] * 8
    compared = compare(result(rows_of(0), categories=categories), result(rows_of(1), categories=categories))
    refused = dict(zip(compared.category.values, compared.width_refused.values, strict=True))
    assert refused == {"all": "", "x": "4 prompts can reach no p below 0.12; 6 prompts could", "y": ""}
    assert bool(compared.width_p.sel(category="x").isnull().all())
    assert bool(compared.width_difference_low.sel(category="x").notnull().all())
    assert compared.sel(category=["all", "y"]).width_q.notnull().all()
    apart = compare_categories(result(rows_of(0, 7), categories=["x"] * 4 + ["y"] * 3), "x", "y")
    assert apart.width_refused.item() == "" and bool(apart.width_q.notnull().all())
    apart = compare_categories(result(rows_of(0, 6), categories=["x"] * 3 + ["y"] * 3), "x", "y")
    sentence = "3 and 3 prompts can reach no p below 0.1; 4 on each side could"
    assert apart.width_refused.item() == sentence and bool(apart.width_q.isnull().all())
    assert apart.attrs["methods"].endswith(f", not paired, was not tested: {sentence}.")


def test_not_a_number_rows_do_not_count_in_p() -> None:
    a, b = rows_of(0), rows_of(1, shift=0.5)
    a[3:5, 0, 0] = np.nan
    b[:, 1, 2] = np.nan
    few = [i for i in range(12) if i not in (3, 4)]
    for digest in ("d", "e"):
        data = compare(result(a), result(b, digest=digest)).sel(category="all")
        assert np.isnan([data.width_p[1, 2], data.width_q[1, 2]]).all()
        assert int(data.width_q.notnull().sum()) == 5
    paired = compare(result(a), result(b)).sel(category="all")
    without = compare(result(a[few][:, :1, :1]), result(b[few][:, :1, :1])).sel(category="all")
    assert float(paired.width_p[0, 0]) == pytest.approx(float(without.width_p[0, 0]))


def test_the_same_numbers_have_p_one() -> None:
    compared = compare(result(rows_of(0)), result(rows_of(0)))
    assert bool((compared.width_p == 1).all()) and bool((compared.width_q == 1).all())


@pytest.mark.parametrize("digest", ["d", "e"], ids=["paired", "apart"])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_size_of_the_family_under_the_null(digest: str, draw: str) -> None:
    """Models that do not differ: some q is at most 0.05 in no more than that share of 400 families."""
    dims = ("first_position", "layer", "head")
    sides = [getattr(RNG(side), draw)(size=(7, 400, 2, 3)) for side in (0, 1)]
    compared = compare(result(sides[0], dims=dims), result(sides[1], dims=dims, digest=digest))
    found = compared.width_q.sel(category="all").min(("layer", "head")) <= 0.05
    assert int(found.sum()) <= scipy.stats.binom.ppf(0.9995, 400, 0.05)
    assert int((compared.width_p <= 0.05).sum()) <= 1.3 * 0.05 * compared.width_p.size


# Claims ---------------------------------------------------------------------------------------------

CLAIM = {
    "variable": "width",
    "family": ["layer"],
    "places": "layers",
    "minimum_effect": 0.3,
}


def claiming(rows: Any, unit: str, seed: int, **about: Any) -> Result:
    """Return a result with rows for each prompt, and the effect of a claim for each unit."""
    made = result(rows, **about)
    effects = np.asarray(RNG(seed).normal(seed, 1.0, size=(9 if unit == "group" else len(rows), 2, 3)))
    words = f"sharpness minus its null, of each {unit}; not-a-number: nothing"
    attrs = {"long_name": words, "units": "nat"}
    data = made.data.assign({f"width_effect_{unit}": ((unit, "layer", "head"), effects, attrs)})
    return dataclasses.replace(made, data=data, provenance={**made.provenance, "claims": [CLAIM]})


@pytest.mark.parametrize("unit", ["prompt", "group"])
def test_effects_of_claims_are_compared(unit: str) -> None:
    categories = ["x"] * 4 + ["y"] * 8
    a = claiming(rows_of(0), unit, 0, categories=categories)
    b = claiming(rows_of(1), unit, 1, categories=categories)
    compared = compare(a, b)
    data = compared.sel(category="all")
    rows = [side.data[f"width_effect_{unit}"].values for side in (a, b)]
    np.testing.assert_allclose(data.width_effect_difference, (rows[1] - rows[0]).mean(0))
    assert data.width_effect_difference.attrs == {
        "long_name": "sharpness minus its null, second minus first; not-a-number: nothing",
        "units": "nat",
        "minimum_effect": 0.3,
    }
    assert data.width_effect_q.attrs["family"] == "layer" and data.width_effect_q.attrs["unit"] == unit
    assert int(data.width_effect_units_a) == len(rows[0])
    if unit == "group":  # Student's interval of the paired differences
        error = scipy.stats.ttest_1samp(rows[1] - rows[0], 0).confidence_interval()
        np.testing.assert_allclose(data.width_effect_difference_low, error.low)
        assert "9 jackknife groups of prompts, paired" in data.width_effect_q.attrs["methods"]
        assert bool(compared.width_effect_q.sel(category="y").isnull().all())
        why = "groups of prompts are kept for all prompts together, not for each category"
        assert compared.width_effect_refused.sel(category="y").item() == why
        assert "width_effect_q" not in compare_categories(a, "x", "y")
    else:
        assert bool(compared.width_effect_q.sel(category="y").notnull().all())
        assert "width_effect_q" in compare_categories(a, "x", "y")


def test_groups_of_other_prompts_are_not_paired() -> None:
    a, b = claiming(rows_of(0), "group", 0), claiming(rows_of(1), "group", 1, digest="e")
    data = compare(a, b, seed=4).sel(category="all")
    rows = [side.data.width_effect_group.values for side in (a, b)]
    error = scipy.stats.ttest_ind(rows[1], rows[0], equal_var=False).confidence_interval()
    np.testing.assert_allclose(data.width_effect_difference_high, error.high)
    draws = stream(4, "compare", "sharpness", "width_effect", "all", "test")
    expected = infer_labels(rows[0], rows[1], (0,), draws, unit="group")
    np.testing.assert_allclose(data.width_effect_q, expected.q)


# Two categories, two runs ----------------------------------------------------------------------


def test_two_categories_of_one_result() -> None:
    rows = rows_of(0)
    one = result(rows, categories=["x"] * 5 + ["y"] * 7)
    compared = compare_categories(one, "x", "y")
    assert "category" not in compared.dims and compared.attrs["paired"] == 0
    np.testing.assert_allclose(compared.width_difference, rows[5:].mean(0) - rows[:5].mean(0), rtol=1e-5)
    for wrong in ("z", "all"):
        with pytest.raises(ResultError, match=f"There is no category '{wrong}'. Known: x, y."):
            compare_categories(one, "x", wrong)
    with pytest.raises(ResultError, match="'x' would be compared with itself"):
        compare_categories(one, "x", "x")
    with pytest.raises(ResultError, match="Known: none."):
        compare_categories(result(rows), "x", "y")
    with pytest.raises(ResultError, match="keeps no numbers for each prompt"):
        compare_categories(result(rows, suffix="_mean"), "x", "y")


def test_categories_of_two_results() -> None:
    categories = ["x"] * 5 + ["y"] * 7
    a, b = result(rows_of(0), categories=categories), result(rows_of(1), categories=categories)
    same = compare_categories(a, "y", "y", other=b)
    assert same.attrs["paired"] == 1
    xr.testing.assert_identical(same.drop_attrs(), compare(a, b).sel(category="y", drop=True).drop_attrs())
    crossed = compare_categories(a, "x", "y", other=b)
    assert crossed.attrs["paired"] == 0
    expected = b.data.width_prompt.values[5:].mean(0) - a.data.width_prompt.values[:5].mean(0)
    np.testing.assert_allclose(crossed.width_difference, expected, rtol=1e-5)
    runs = Run({"sharpness": a}, {}), Run({"sharpness": b}, {})
    of_runs = compare_categories(runs[0], "x", "y", other=runs[1])
    assert list(of_runs) == ["sharpness"] and of_runs["sharpness"].identical(crossed)
    with pytest.raises(ResultError, match="takes two runs, or two results"):
        compare_categories(a, "x", "y", other=runs[1])  # type: ignore[call-overload]


def test_a_comparison_can_be_written(tmp_path: Path) -> None:
    compared = compare(claiming(rows_of(0), "group", 0), claiming(rows_of(1), "group", 1))
    compared.to_netcdf(tmp_path / "compared.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "compared.nc", engine="h5netcdf") as read:
        np.testing.assert_allclose(read.width_effect_q, compared.width_effect_q)
        assert read.attrs["methods"] == compared.attrs["methods"]


def test_two_runs_are_compared_by_analysis() -> None:
    first = Run({"s": result(rows_of(0), name="s"), "t": result(rows_of(1), name="t")}, {})
    second = Run({"t": result(rows_of(2), name="t"), "u": result(rows_of(3), name="u")}, {})
    compared = compare(first, second)
    assert list(compared) == ["t"]
    assert compared["t"].identical(compare(first["t"], second["t"]))
    with pytest.raises(ResultError, match="no analysis in common: s, t in the first, x in the second"):
        compare(first, Run({"x": result(rows_of(0), name="x")}, {}))
    bare = Run({"t": result(rows_of(2), name="t", suffix="_mean")}, {})
    with pytest.raises(ResultError, match="t keeps no numbers for each prompt"):
        compare(first, bare)
    with pytest.raises(ResultError, match="takes two runs, or two results"):
        compare(first, second["t"])  # type: ignore[call-overload]


def test_runs_read_back_from_disk_are_compared_alike(tmp_path: Path) -> None:
    categories = ["x"] * 5 + ["y"] * 7
    runs = [Run({"sharpness": result(rows_of(i), categories=categories)}, {}) for i in range(2)]
    for i, run in enumerate(runs):
        run.save(tmp_path / str(i))
    compared = rl.compare(rl.load(tmp_path / "0"), rl.load(tmp_path / "1"))
    assert compared["sharpness"].identical(rl.compare(*runs)["sharpness"])
    assert compared["sharpness"].category.values.tolist() == ["all", "x", "y"]
