"""Comparing runs: the intervals, what is paired, and what is no comparison."""

from __future__ import annotations

import dataclasses
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
    assert compared.width_a.attrs == {"long_name": "sharpness", "units": "nat"}
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
    with pytest.raises(ResultError, match="Known: none."):
        compare_categories(result(rows), "x", "y")
    with pytest.raises(ResultError, match="keeps no numbers for each prompt"):
        compare_categories(result(rows, suffix="_mean"), "x", "y")


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
