"""Two runs side by side: what differs between models, checkpoints, prompts or categories, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.errors import ResultError, unknown
from resonance_lens.result import Result
from resonance_lens.runs import Run
from resonance_lens.stats.intervals import bootstrap_difference, bootstrap_mean
from resonance_lens.stats.streams import stream

ROWS = "_prompt"
"""Ending of the names of variables that hold one row for each prompt."""


@overload
def compare(a: Run, b: Run, *, seed: int = 0) -> dict[str, xr.Dataset]: ...
@overload
def compare(a: Result, b: Result, *, seed: int = 0) -> xr.Dataset: ...
def compare(a: Run | Result, b: Run | Result, *, seed: int = 0) -> dict[str, xr.Dataset] | xr.Dataset:
    """Return what differs between two runs, or between two results of one analysis.

    Where both were made of the same prompts, the prompts are paired and the differences within each
    are resampled; otherwise the prompts of each side are.

    Parameters
    ----------
    a, b
        Two runs, or two results of one analysis, with the same parameters, layers and heads.
    seed
        Of the resampling.

    Returns
    -------
    dict of Dataset, or Dataset
        For runs by analysis. Of each variable ``x`` that is kept for each prompt, over ``category``
        (``all``, and the categories that both have) and its other dimensions: ``x_a`` and ``x_b`` (means),
        ``x_difference`` (b minus a) with its 95 % interval ``x_difference_low`` and
        ``x_difference_high``, and ``x_effect_size``: the difference over the standard deviation of the
        differences within prompts (paired), or over the pooled standard deviation of prompts. The
        attributes say which: ``paired``.

    Raises
    ------
    ResultError
        If there is nothing to compare, or versions, parameters, layers or heads are not the same.

    Notes
    -----
    Each interval is for its own head and layer. Of 270 heads, 13 exclude zero by chance alone: read
    how many exceed the smallest effect that counts (attribute ``minimum_effect``), not which one does.
    """
    if isinstance(a, Run) and isinstance(b, Run):
        shared = [name for name in a if name in b.results]
        if not shared:
            raise ResultError(
                f"The two runs have no analysis in common: {', '.join(a)} in the first, {', '.join(b)} "
                "in the second."
            )
        usable = [name for name in shared if _row_names(a[name]) and _row_names(b[name])]
        if not usable:
            raise _no_rows(shared[0])
        return {name: compare(a[name], b[name], seed=seed) for name in usable}
    if isinstance(a, Result) and isinstance(b, Result):
        _require_alike(a, b)
        paired = _digest(a) is not None and _digest(a) == _digest(b)
        return _compare(a, b, _groups(a, b), paired=paired, seed=seed)
    raise ResultError("compare takes two runs, or two results; got one of each.")


def compare_categories(result: Result, a: str, b: str, *, seed: int = 0) -> xr.Dataset:
    """Return what differs between two categories of prompts within one result.

    Parameters
    ----------
    result
        Of a run with categories.
    a, b
        Names of two categories.
    seed
        Of the resampling.

    Returns
    -------
    Dataset
        As of `compare`, without the dimension ``category``; never paired.

    Raises
    ------
    ResultError
        If there is no such category, or nothing is kept for each prompt.
    """
    if not _row_names(result):
        raise _no_rows(result.name)
    members = _members(result)
    for category in (a, b):
        if category not in members or category == "all":
            raise ResultError(unknown("category", category, [name for name in members if name != "all"]))
    group = _Group(f"{b} minus {a}", members[a], members[b])
    compared = _compare(result, result, [group], paired=False, seed=seed)
    only: xr.Dataset = compared.sel(category=group.name, drop=True)
    return only


@dataclass(frozen=True, eq=False)
class _Group:
    """Which prompts of each side are compared, and what that is called."""

    name: str
    a: NDArray[np.bool_]
    b: NDArray[np.bool_]


def _compare(a: Result, b: Result, groups: list[_Group], *, paired: bool, seed: int) -> xr.Dataset:
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {"category": [group.name for group in groups]}
    for name in _row_names(a):
        rows_a, rows_b = _rows(a, name), _rows(b, name)
        found: dict[str, list[NDArray[Any]]] = {}
        for group in groups:
            rng = stream(seed, "compare", a.name, name, group.name)
            one = _differ(rows_a.values[group.a], rows_b.values[group.b], rng, paired=paired)
            for suffix, values in one.items():
                found.setdefault(suffix, []).append(values)
        attrs = {key: rows_a.attrs[key] for key in ("long_name", "units") if key in rows_a.attrs}
        if "long_name" in attrs:
            attrs["long_name"] = attrs["long_name"].removesuffix(" of each prompt")
        for suffix, stacked in found.items():
            about = attrs | ({"units": "1"} if suffix == "effect_size" else {})
            variables[f"{name}_{suffix}"] = (("category", *rows_a.dims[1:]), np.stack(stacked), about)
        coords |= {str(dim): rows_a[dim].values for dim in rows_a.dims[1:] if dim in rows_a.coords}
    return xr.Dataset(
        variables,
        coords=coords,
        attrs={
            "analysis": a.name,
            "headline": a.provenance.get("headline", ""),
            "minimum_effect": float(a.provenance.get("minimum_effect", 0.0)),
            "paired": int(paired),
            "interval": "95 %, resampling "
            + ("prompts, with the difference within each" if paired else "the prompts of each side"),
            "seed": seed,
        },
    )


def _differ(
    a: NDArray[Any], b: NDArray[Any], rng: np.random.Generator, *, paired: bool
) -> dict[str, NDArray[Any]]:
    """Return means, difference, interval and effect size of rows ``[prompt, ...]`` of two sides."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if paired:
        a, b = np.where(np.isnan(b), np.nan, a), np.where(np.isnan(a), np.nan, b)
        difference, low, high = bootstrap_mean(b - a, rng)
        _, variance, _ = _moments(b - a)
    else:
        difference, low, high = bootstrap_difference(a, b, rng)
        (count_a, variance_a, _), (count_b, variance_b, _) = _moments(a), _moments(b)
        with np.errstate(invalid="ignore", divide="ignore"):
            pooled = np.nan_to_num(variance_a) * (count_a - 1) + np.nan_to_num(variance_b) * (count_b - 1)
            variance = pooled / (count_a + count_b - 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = difference / np.sqrt(variance)
    return {
        "a": _moments(a)[2],
        "b": _moments(b)[2],
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        # No spread: the same numbers have no effect size, and neither have constants apart.
        "effect_size": np.where(np.isfinite(effect), effect, np.nan),
    }


def _moments(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return count, variance and mean over prompts, not-a-number left out."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, rows, 0.0).sum(axis=0) / count
        squares = np.where(known, (rows - mean) ** 2, 0.0).sum(axis=0)
        return count, squares / (count - 1), mean


def _row_names(result: Result) -> list[str]:
    names = [str(name) for name in result.data if str(name).endswith(ROWS)]
    return [n.removesuffix(ROWS) for n in names if result.data[n].dims[:1] == ("prompt",)]


def _rows(result: Result, name: str) -> xr.DataArray:
    return result.data[f"{name}{ROWS}"]


def _no_rows(name: str) -> ResultError:
    return ResultError(f"{name} keeps no numbers for each prompt, so that there is nothing to compare.")


def _digest(result: Result) -> str | None:
    found = result.provenance.get("prompts", {}).get("digest")
    return None if found is None else str(found)


def _members(result: Result) -> dict[str, NDArray[np.bool_]]:
    """Return which rows belong to ``all`` and to each category."""
    members = {"all": np.ones(result.data.sizes["prompt"], dtype=bool)}
    if "prompt_category" in result.data.coords:
        categories = result.data["prompt_category"].values
        members |= {str(name): categories == name for name in dict.fromkeys(categories) if name}
    return members


def _groups(a: Result, b: Result) -> list[_Group]:
    of_a, of_b = _members(a), _members(b)
    return [_Group(name, rows, of_b[name]) for name, rows in of_a.items() if name in of_b]


def _require_alike(a: Result, b: Result) -> None:
    """Raise `ResultError` unless the numbers of two results mean the same thing in the same places."""
    if a.name != b.name:
        raise ResultError(f"Results of one analysis can be compared; these are of {a.name} and of {b.name}.")
    versions = a.provenance.get("version"), b.provenance.get("version")
    if versions[0] != versions[1]:
        raise ResultError(
            f"The first result is of version {versions[0]} of {a.name} and the second of version "
            f"{versions[1]}, whose numbers differ; run both with one version of resonance_lens."
        )
    for name, mine, theirs in _unlike(a.provenance.get("parameters"), b.provenance.get("parameters")):
        raise ResultError(
            f"{a.name} ran with {name}={mine!r} in the first run and {name}={theirs!r} in the second; "
            "run both with the same parameters."
        )
    names = _row_names(a)
    if not names or not _row_names(b):
        raise _no_rows(a.name)
    if set(names) != set(_row_names(b)):
        raise ResultError(
            f"The two results of {a.name} hold different variables for each prompt: {', '.join(names)} and "
            f"{', '.join(_row_names(b))}."
        )
    for name in names:
        rows_a, rows_b = _rows(a, name), _rows(b, name)
        if rows_a.dims != rows_b.dims:
            raise ResultError(
                f"{a.name} has {name} over {', '.join(map(str, rows_a.dims))} in the first run and over "
                f"{', '.join(map(str, rows_b.dims))} in the second."
            )
        for dim in rows_a.dims[1:]:
            if rows_a.sizes[dim] != rows_b.sizes[dim]:
                raise ResultError(
                    f"{a.name} has {rows_a.sizes[dim]} entries along {dim!r} in the first run and "
                    f"{rows_b.sizes[dim]} in the second; only models of one shape can be compared place by "
                    "place."
                )
            if not np.array_equal(rows_a[dim].values, rows_b[dim].values):
                raise ResultError(f"The two results of {a.name} do not have the same entries along {dim!r}.")


def _unlike(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> Iterator[tuple[str, Any, Any]]:
    mine, theirs = dict(a or {}), dict(b or {})
    for name in dict.fromkeys((*mine, *theirs)):
        if mine.get(name) != theirs.get(name):
            yield name, mine.get(name), theirs.get(name)
