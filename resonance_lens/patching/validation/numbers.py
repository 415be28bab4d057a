"""Numbers of an analysis, and what else is known, at the places where effects were measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from resonance_lens.errors import ParameterError, ResultError, unknown, wrong_parameter
from resonance_lens.patching.validation.columns import Column, Floats, Kind
from resonance_lens.result import Result

SELECTED = {"category": "all", "first_position": "drop"}
"""Where a number is read along dims that every analysis means alike, unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Number:
    """A number of an analysis at the places of the effects.

    Attributes
    ----------
    label, long_name
        What it is called, and what it is.
    values
        ``[column, place]``: the same in each column, but for numbers that differ between sites.
    rows
        ``[prompt, column, place]``, whose mean it is; ``None`` where the result keeps none.
    """

    label: str
    long_name: str
    values: Floats
    rows: Floats | None = None


def read_numbers(
    result: Result,
    variable: str | Sequence[str] | Mapping[str, xr.DataArray] | None,
    select: Mapping[str, str],
    kind: Kind,
    columns: Sequence[Column],
) -> list[Number]:
    """Return the numbers to validate, at the places of the effects; see `resonance_lens.validate`.

    Raises
    ------
    ResultError
        If there is no such variable, or it is not of the places that were patched.
    """
    if isinstance(variable, Mapping):
        return [
            number
            for name, array in variable.items()
            for number in _numbers(name, array, None, result, select, kind, columns)
        ]
    names = [variable] if isinstance(variable, str) else list(variable or _default(result, kind))
    numbers = []
    for name in names:
        if name not in result.data:
            raise ResultError(unknown(f"variable of {result.name!r}", name, map(str, result.data.data_vars)))
        rows = result.data.get(f"{name}_prompt")
        numbers += _numbers(name, result.data[name], rows, result, select, kind, columns)
    return numbers


def _default(result: Result, kind: Kind) -> list[str]:
    """Return the headline, and the effects against baseline and nulls, which rank the targets."""
    headline = str(result.provenance["headline"])
    claimed = [f"{claim['variable']}_effect" for claim in result.provenance.get("claims", ())]
    names = dict.fromkeys([headline, f"{headline}_effect", *claimed])
    found = [name for name in names if name in result.data and _fits(result.data[name], kind)]
    if not found:
        other = "layers" if kind == "heads" else "heads"
        raise ResultError(
            f"{result.name!r} ranks no {kind}, and the effects are of {kind}; patch {other} "
            f"(targets='{other}'), or name a variable."
        )
    return found


def _fits(array: xr.DataArray, kind: Kind) -> bool:
    return "layer" in array.dims and ("head" in array.dims) == (kind == "heads")


def _numbers(
    name: str,
    array: xr.DataArray,
    rows: xr.DataArray | None,
    result: Result,
    select: Mapping[str, str],
    kind: Kind,
    columns: Sequence[Column],
) -> list[Number]:
    """Return one number for each place along the dims that are neither selected nor of the model."""
    if not _fits(array, kind):
        dims = ", ".join(map(str, array.dims))
        raise ResultError(f"{name!r} of {result.name!r} is over {dims}, and the effects are of {kind}.")
    if rows is None and "prompt" in array.dims:  # the user's own, prompt by prompt
        array, rows = array.mean("prompt"), array
    chosen = {dim: value for dim, value in {**SELECTED, **select}.items() if dim in array.dims}
    for dim, value in chosen.items():
        if value not in array[dim].values.tolist():
            raise ResultError(unknown(f"{dim} of {name!r}", value, map(str, array[dim].values)))
    array = array.sel(chosen)
    others = [str(dim) for dim in array.dims if dim not in ("layer", "head", "site")]
    made = []
    for at in itertools.product(*(array[dim].values.tolist() for dim in others)):
        place = dict(zip(others, at, strict=True))
        which = ", ".join(f"{dim} {value}" for dim, value in place.items())
        long_name = str(array.attrs.get("long_name", name)).partition(";")[0]
        one = Number(
            label=f"{name} ({which})" if which else name,
            long_name=long_name,
            values=_at_places(name, array.sel(place), result, kind, columns),
        )
        if rows is not None:
            there = {dim: value for dim, value in {**chosen, **place}.items() if dim in rows.dims}
            by_prompt = _at_places(name, rows.sel(there), result, kind, columns)
            # A number that is no mean over prompts cannot be resampled by them.
            with np.errstate(invalid="ignore"):
                counted = np.isfinite(by_prompt).sum(axis=0)
                means = np.where(np.isnan(by_prompt), 0.0, by_prompt).sum(axis=0) / counted
            size = np.nanmax(np.abs(one.values), initial=0.0)
            if np.allclose(means, one.values, rtol=1e-4, atol=1e-5 * size, equal_nan=True):
                one = replace(one, rows=by_prompt)
        made.append(one)
    return made


def _at_places(
    name: str, array: xr.DataArray, result: Result, kind: Kind, columns: Sequence[Column]
) -> Floats:
    """Return ``[(prompt,) column, place]`` of an array over layers (and heads, and sites)."""
    model = result.provenance["model"]
    array = array.reindex(layer=np.arange(int(model["n_layers"])))
    if "head" in array.dims:
        array = array.reindex(head=np.arange(int(model["n_heads"])))
    dims = ["layer", "head"] if kind == "heads" else ["layer"]
    leading = ["prompt"] if "prompt" in array.dims else []
    stacked = []
    for column in columns:
        here = array
        if "site" in array.dims:
            sites = array["site"].values.astype(str).tolist()
            if column.site not in sites:
                listing = ", ".join(sites)
                raise ResultError(
                    f"{name!r} is of {listing}, and the effects on {column.task!r} are at {column.site}."
                )
            here = array.sel(site=column.site)
        values = here.transpose(*leading, *dims).values.astype(np.float64)
        stacked.append(values.reshape(*values.shape[: len(leading)], -1))
    return np.stack(stacked, axis=len(leading))


def read_predictors(
    predictors: xr.Dataset | None, result: Result, kind: Kind, columns: Sequence[Column]
) -> dict[str, Floats]:
    """Return what else is known of the places, ``[column, place]`` by name.

    Raises
    ------
    ResultError
        If something is not of the places that were patched.
    """
    if predictors is None:
        return {}
    if not isinstance(predictors, xr.Dataset):
        wanted = "a Dataset over layer and head, or site and layer"
        raise ParameterError(wrong_parameter("validate", "predictors", wanted, type(predictors).__name__))
    found = {}
    for name, array in predictors.data_vars.items():
        if not _fits(array, kind):
            dims = ", ".join(map(str, array.dims))
            raise ResultError(f"The predictor {name!r} is over {dims}, and the effects are of {kind}.")
        found[str(name)] = _at_places(str(name), array, result, kind, columns)
    return found
