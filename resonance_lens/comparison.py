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
from resonance_lens.stats.inference import EXACT_UNITS, FLIPS, infer
from resonance_lens.stats.intervals import bootstrap_difference, unit_interval
from resonance_lens.stats.samples import Sample, Unit
from resonance_lens.stats.streams import stream
from resonance_lens.stats.two_samples import infer_labels, labels_words, welch_difference

ROWS: tuple[Unit, ...] = ("prompt", "group")
"""Endings of the names of variables that hold one row for each prompt, or for each jackknife group."""

READ_APART = ("first_position",)
"""Dims whose entries are families of their own: the same places, read in two ways."""

WORDS = {
    "a": ", first",
    "b": ", second",
    "difference": ", second minus first",
    "difference_low": ", second minus first, lower 95 % bound",
    "difference_high": ", second minus first, upper 95 % bound",
    "effect_size": ", second minus first, in standard deviations; not-a-number: no spread",
    "p": ", p of the difference; not-a-number: no test",
    "q": ", q of the difference over its family; not-a-number: no test",
}
"""What a comparison says of each variable, by the end of its name."""

ABOUT = {
    "units_a": "units of the first",
    "units_b": "units of the second",
    "smallest": "smallest p that could come out",
    "refused": "why there is no test",
}
"""What it says of each test, for each category."""


@overload
def compare(a: Run, b: Run, *, seed: int = 0) -> dict[str, xr.Dataset]: ...
@overload
def compare(a: Result, b: Result, *, seed: int = 0) -> xr.Dataset: ...
def compare(a: Run | Result, b: Run | Result, *, seed: int = 0) -> dict[str, xr.Dataset] | xr.Dataset:
    """Return what differs between two runs, or between two results of one analysis.

    Where both were made of the same prompts, the prompts are paired: the differences within each are
    resampled, and their signs are flipped for p. Otherwise the prompts of each side are resampled, and the
    labels of the two sides are permuted.

    Parameters
    ----------
    a, b
        Two runs, or two results of one analysis, with the same parameters, layers and heads.
    seed
        Of the resampling.

    Returns
    -------
    dict of Dataset, or Dataset
        For runs by analysis. Of each variable ``x`` that is kept for each prompt, and of the effect of each
        claim (``x_effect``: value minus null, also where it is kept for each jackknife group), over
        ``category`` (``all``, and the categories that both have) and its other dimensions: ``x_a`` and
        ``x_b`` (means), ``x_difference`` (b minus a) with its 95 % interval ``x_difference_low`` and
        ``x_difference_high``, ``x_effect_size`` (the difference over the standard deviation of the
        differences within prompts if paired, or over the pooled standard deviation of prompts), ``x_p``,
        and ``x_q`` by the largest statistic of all layers and heads together. Over ``category`` alone:
        ``x_units_a``, ``x_units_b``, ``x_smallest`` (p attainable) and ``x_refused``: why p and q are
        not-a-number, with the numbers that could find something. The attributes say what is ``paired``,
        and ``methods`` how all this was done.

    Raises
    ------
    ResultError
        If there is nothing to compare, or versions, parameters, layers or heads are not the same.

    Notes
    -----
    Each interval is for its own head and layer: of 270 heads, 13 exclude zero by chance alone. Read q, and
    how many of those that differ also exceed the smallest effect that counts (attribute ``minimum_effect``
    of ``x_difference``). The null of p and q is that the two sides have one distribution or, of pairs, that
    differences are symmetric around zero; `resonance_lens.stats.two_samples` says what else they hold for.
    Numbers that are kept by group are compared for all prompts together only.
    """
    if isinstance(a, Run) and isinstance(b, Run):
        return {name: compare(a[name], b[name], seed=seed) for name in _shared(a, b)}
    if isinstance(a, Result) and isinstance(b, Result):
        _require_alike(a, b)
        return _compare(a, b, _groups(a, b), paired=_same_prompts(a, b), seed=seed)
    raise ResultError("compare takes two runs, or two results; got one of each.")


@overload
def compare_categories(
    result: Run, a: str, b: str, *, other: Run | None = None, seed: int = 0
) -> dict[str, xr.Dataset]: ...
@overload
def compare_categories(
    result: Result, a: str, b: str, *, other: Result | None = None, seed: int = 0
) -> xr.Dataset: ...
def compare_categories(
    result: Run | Result, a: str, b: str, *, other: Run | Result | None = None, seed: int = 0
) -> dict[str, xr.Dataset] | xr.Dataset:
    """Return what differs between two categories of prompts.

    Parameters
    ----------
    result
        Of a run with categories, or such a run.
    a, b
        Names of two categories.
    other
        What category ``b`` is of, if it is not of ``result``.
    seed
        Of the resampling.

    Returns
    -------
    dict of Dataset, or Dataset
        As of `compare`, without the dimension ``category``. Paired only if both are one category of the
        same prompts.

    Raises
    ------
    ResultError
        If there is no such category, a category would be compared with itself, or nothing is kept for
        each prompt.
    """
    other = result if other is None else other
    if isinstance(result, Run) and isinstance(other, Run):
        names = _shared(result, other)
        return {n: compare_categories(result[n], a, b, other=other[n], seed=seed) for n in names}
    if not (isinstance(result, Result) and isinstance(other, Result)):
        raise ResultError("compare_categories takes two runs, or two results; got one of each.")
    if not _row_names(result, "prompt"):
        raise _no_rows(result.name)
    _require_alike(result, other)
    for category, side in ((a, _members(result)), (b, _members(other))):
        if category not in side or category == "all":
            raise ResultError(unknown("category", category, [name for name in side if name != "all"]))
    if other is result and a == b:
        raise ResultError(f"The category {a!r} would be compared with itself; name another.")
    name = a if a == b else f"{b} minus {a}"
    group = _Group(name, _members(result)[a], _members(other)[b])
    paired = a == b and _same_prompts(result, other)
    only: xr.Dataset = _compare(result, other, [group], paired=paired, seed=seed).sel(
        category=name, drop=True
    )
    return only


@dataclass(frozen=True, eq=False)
class _Group:
    """Which prompts of each side are compared, and what that is called."""

    name: str
    a: NDArray[np.bool_]
    b: NDArray[np.bool_]

    @property
    def whole(self) -> bool:
        """Whether these are all the prompts of both sides, which is what jackknife groups are of."""
        return self.name == "all"


@dataclass(frozen=True, eq=False)
class _Rows:
    """One variable of both sides.

    Attributes
    ----------
    name
        Without the unit at its end.
    unit
        What a row is of.
    a, b
        ``[unit, ...]``.
    family
        Dims whose places are tested together.
    places
        What the family counts.
    minimum_effect
        The smallest difference that counts, if the analysis states one for this variable.
    """

    name: str
    unit: Unit
    a: xr.DataArray
    b: xr.DataArray
    family: tuple[str, ...]
    places: str
    minimum_effect: float | None

    @staticmethod
    def of(a: Result, b: Result) -> Iterator[_Rows]:
        """Yield the variables that two results have for each prompt or group."""
        claims = {f"{claim['variable']}_effect": claim for claim in a.provenance.get("claims", ())}
        for unit in ROWS:
            for name in _row_names(a, unit):
                rows_a, rows_b = a.data[f"{name}_{unit}"], b.data[f"{name}_{unit}"]
                dims = [str(dim) for dim in rows_a.dims[1:]]
                family = tuple(dim for dim in dims if dim not in READ_APART)
                places = next((f"{dim}s" for dim in ("head", "layer") if dim in family), "places")
                minimum = a.provenance.get("minimum_effect") if name == a.provenance.get("headline") else None
                if name in claims:
                    family, places = tuple(claims[name]["family"]), claims[name]["places"]
                    minimum = claims[name]["minimum_effect"]
                yield _Rows(name, unit, rows_a, rows_b, family, places, minimum)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of one row."""
        return tuple(map(str, self.a.dims[1:]))

    def words(self) -> tuple[str, str]:
        """Return the long name of one row, and after it what not-a-number means."""
        long_name = str(self.a.attrs.get("long_name", self.name))
        what, mark, undefined = long_name.partition(";")
        for end in (f", of each {self.unit}", f" of each {self.unit}"):
            what = what.removesuffix(end)
        return what, mark + undefined


def _compare(a: Result, b: Result, groups: list[_Group], *, paired: bool, seed: int) -> xr.Dataset:
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {"category": [group.name for group in groups]}
    methods = []
    for rows in _Rows.of(a, b):
        if rows.unit == "group" and not any(group.whole for group in groups):
            continue
        found: dict[str, list[Any]] = {}
        for group in groups:
            for suffix, value in _differ(a.name, rows, group, paired=paired, seed=seed).items():
                found.setdefault(suffix, []).append(value)
        what, undefined = rows.words()
        units = {"units": rows.a.attrs["units"]} if "units" in rows.a.attrs else {}
        for suffix, words in WORDS.items():
            dimensionless = suffix in ("effect_size", "p", "q")
            about = {"long_name": what + words + ("" if dimensionless else undefined)}
            about |= {"units": "1"} if dimensionless else units
            values = np.stack(found[suffix])
            variables[f"{rows.name}_{suffix}"] = (("category", *rows.dims), values, about)
        for suffix, words in ABOUT.items():
            about = {"long_name": f"{what}, {words}"}
            variables[f"{rows.name}_{suffix}"] = ("category", np.array(found[suffix]), about)
        if rows.minimum_effect is not None:
            variables[f"{rows.name}_difference"][2]["minimum_effect"] = float(rows.minimum_effect)
        sentence = _method(rows, {suffix: those[0] for suffix, those in found.items()}, paired=paired)
        variables[f"{rows.name}_q"][2].update(
            family=", ".join(rows.family), places=rows.places, unit=rows.unit, methods=sentence
        )
        methods.append(sentence)
        coords |= {dim: rows.a[dim].values for dim in rows.dims if dim in rows.a.coords}
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
            "methods": " ".join(dict.fromkeys(methods)),
            "seed": seed,
        },
    )


def _differ(analysis: str, rows: _Rows, group: _Group, *, paired: bool, seed: int) -> dict[str, Any]:
    """Return what one group of prompts says of one variable, by the end of its name."""
    a, b = (side.values.astype(np.float64) for side in (rows.a, rows.b))
    if rows.unit == "group" and not group.whole:
        return _kept_apart(rows)
    if rows.unit == "prompt":
        a, b = a[group.a], b[group.b]
    family = [rows.dims.index(dim) for dim in rows.family]
    rng = stream(seed, "compare", analysis, rows.name, group.name)
    draws = stream(seed, "compare", analysis, rows.name, group.name, "test")
    tested: Any
    if paired:
        a, b = np.where(np.isnan(b), np.nan, a), np.where(np.isnan(a), np.nan, b)
        difference, low, high = unit_interval(b - a, rows.unit, rng)
        _, variance, _ = _moments(b - a)
        tested = infer(Sample(b, a, rows.unit), family, draws)
    else:
        if rows.unit == "prompt":
            difference, low, high = bootstrap_difference(a, b, rng)
        else:
            difference, low, high = welch_difference(a, b)
        (count_a, variance_a, _), (count_b, variance_b, _) = _moments(a), _moments(b)
        with np.errstate(invalid="ignore", divide="ignore"):
            pooled = np.nan_to_num(variance_a) * (count_a - 1) + np.nan_to_num(variance_b) * (count_b - 1)
            variance = pooled / (count_a + count_b - 2)
        tested = infer_labels(a, b, family, draws, unit=rows.unit)
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
        "p": tested.p,
        "q": tested.q,
        "units_a": len(a),
        "units_b": len(b),
        "smallest": tested.smallest,
        "refused": tested.refused,
    }


def _kept_apart(rows: _Rows) -> dict[str, Any]:
    """Return what a category says of a variable that is kept by jackknife group: nothing, and why."""
    nothing = np.full(rows.a.shape[1:], np.nan)
    why = "groups of prompts are kept for all prompts together, not for each category"
    refused = {"units_a": 0, "units_b": 0, "smallest": np.nan, "refused": why}
    return dict.fromkeys(WORDS, nothing) | refused


def _method(rows: _Rows, found: Mapping[str, Any], *, paired: bool) -> str:
    """Return how a variable was compared, as a sentence or two."""
    what = {"prompt": "prompts", "group": "jackknife groups of prompts"}[rows.unit]
    n_a, n_b = found["units_a"], found["units_b"]
    if paired:
        lead = f"The second minus the first over {n_a} {what}, paired, for the prompts are the same"
        flips = f"all {2**n_a:,} sign flips" if n_a <= EXACT_UNITS else f"{FLIPS:,} random sign flips"
        test = f"{flips} of the paired differences"
    else:
        lead = f"The second ({n_b} {what}) minus the first ({n_a}), not paired"
        test = f"{labels_words(n_a, n_b)} of the labels, with Welch's t"
    if found["refused"]:
        return f"{lead}, was not tested: {found['refused']}."
    apart = [dim for dim in rows.dims if dim not in rows.family]
    axes = tuple(rows.dims.index(dim) for dim in rows.family)
    size = int((~np.isnan(found["q"])).sum(axis=axes).max(initial=0))
    places = rows.places.removesuffix("s") if size == 1 else rows.places
    each = f", each {' and '.join(apart)} for itself" if apart else ""
    return (
        f"{lead}: p by {test} (smallest attainable {found['smallest']:.2g}); q is corrected by the largest "
        f"studentised statistic of a family of {size} {places}{each}."
    )


def _moments(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return count, variance and mean over prompts, not-a-number left out."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, rows, 0.0).sum(axis=0) / count
        squares = np.where(known, (rows - mean) ** 2, 0.0).sum(axis=0)
        return count, squares / (count - 1), mean


def _shared(a: Run, b: Run) -> list[str]:
    """Return the analyses that two runs have in common, with numbers for each prompt or group."""
    shared = [name for name in a if name in b.results]
    if not shared:
        raise ResultError(
            f"The two runs have no analysis in common: {', '.join(a)} in the first, {', '.join(b)} "
            "in the second."
        )
    usable = [name for name in shared if _all_names(a[name]) and _all_names(b[name])]
    if not usable:
        raise _no_rows(shared[0])
    return usable


def _row_names(result: Result, unit: Unit) -> list[str]:
    """Return the variables that are kept for each unit, without it at the end of their names."""
    names = [str(name) for name in result.data if result.data[name].dims[:1] == (unit,)]
    return [name.removesuffix(f"_{unit}") for name in names if name.endswith(f"_{unit}")]


def _all_names(result: Result) -> list[str]:
    return [name for unit in ROWS for name in _row_names(result, unit)]


def _same_prompts(a: Result, b: Result) -> bool:
    return _digest(a) is not None and _digest(a) == _digest(b)


def _no_rows(name: str) -> ResultError:
    return ResultError(f"{name} keeps no numbers for each prompt, so that there is nothing to compare.")


def _digest(result: Result) -> str | None:
    found = result.provenance.get("prompts", {}).get("digest")
    return None if found is None else str(found)


def _members(result: Result) -> dict[str, NDArray[np.bool_]]:
    """Return which rows belong to ``all`` and to each category."""
    members = {"all": np.ones(result.data.sizes.get("prompt", 0), dtype=bool)}
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
    names = _all_names(a)
    if not names or not _all_names(b):
        raise _no_rows(a.name)
    if set(names) != set(_all_names(b)):
        raise ResultError(
            f"The two results of {a.name} hold different variables for each prompt: {', '.join(names)} and "
            f"{', '.join(_all_names(b))}."
        )
    for rows in _Rows.of(a, b):
        name, rows_a, rows_b = rows.name, rows.a, rows.b
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
