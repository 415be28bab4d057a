"""How many places differ: from their null after correction, by the smallest effect that counts, and from
the baselines. Read off a result, so that a result from disk can be counted as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.result import Result
from resonance_lens.stats.inference import LEVEL

SAID = {
    "plain": "the model",
    "random_weights": "the random-weight twin",
    "shuffled_tokens": "shuffled text",
}
"""What the conditions are called in sentences and tables."""

BASELINES = tuple(name for name in SAID if name != "plain")


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a claim found under one condition.

    Attributes
    ----------
    variable, condition
        Of the claim; ``plain`` or one of `BASELINES`.
    places
        Places of the family, those without a value left out.
    differ
        Those with q at most `LEVEL`; ``None`` if the test was refused.
    matter
        Those of them whose effect is surely (95 % bound) larger than the smallest that counts; where
        there are no bounds, whose effect is.
    beyond
        By baseline: those of ``differ`` whose effect surely exceeds, in its own direction, that under the
        baseline by the smallest effect that counts.
    """

    variable: str
    condition: str
    places: int
    differ: int | None
    matter: int
    beyond: Mapping[str, int]


def claims_of(result: Result) -> list[dict[str, Any]]:
    """Return the claims of the analysis that made a result, as plain data."""
    return [dict(claim) for claim in result.provenance.get("claims", ())]


def read_off(data: xr.Dataset, claim: Mapping[str, Any], category: str = "all") -> xr.Dataset:
    """Return the part of a result where a claim's counts are read off."""
    part: xr.Dataset = data.sel({"category": category, **dict(claim["reading"])})
    return part


def differing(data: xr.Dataset, claim: Mapping[str, Any], condition: str = "plain") -> xr.DataArray:
    """Return which places have q at most `LEVEL`."""
    found: xr.DataArray = data[_name(claim["variable"], "_q", condition)] <= LEVEL
    return found


def mattering(data: xr.Dataset, claim: Mapping[str, Any], condition: str = "plain") -> xr.DataArray:
    """Return which places have an effect that is surely larger than the smallest that counts."""
    return _exceeds(data, _name(claim["variable"], "_effect", condition), claim["minimum_effect"])


def beyond(data: xr.Dataset, claim: Mapping[str, Any], condition: str) -> xr.DataArray:
    """Return which places surely exceed a baseline, in the direction of their effect, by what counts."""
    sign: xr.DataArray = xr.apply_ufunc(np.sign, data[f"{claim['variable']}_effect"])
    return _exceeds(data, f"{claim['variable']}_beyond_{condition}", claim["minimum_effect"], sign)


def counts(result: Result, claim: Mapping[str, Any], category: str = "all") -> list[Count]:
    """Return what a claim found in the model and under each baseline that was run."""
    data = read_off(result.data, claim, category)
    x = claim["variable"]
    refused = bool(result.provenance["tests"][x][category]["refused"])
    made = []
    for condition in ("plain", *BASELINES):
        if _name(x, "_q", condition) not in data:
            continue
        differ = differing(data, claim, condition)
        others = {}
        if condition == "plain":
            for baseline in BASELINES:
                if f"{x}_beyond_{baseline}" in data:
                    others[baseline] = int((differ & beyond(data, claim, baseline)).sum())
        made.append(
            Count(
                variable=x,
                condition=condition,
                places=int(data[_name(x, "_effect", condition)].notnull().sum()),
                differ=None if refused else int(differ.sum()),
                matter=int((differ & mattering(data, claim, condition)).sum()),
                beyond=others,
            )
        )
    return made


def _name(variable: str, end: str, condition: str) -> str:
    return f"{variable}{end}" + ("" if condition == "plain" else f"_{condition}")


def _exceeds(data: xr.Dataset, name: str, minimum: float, sign: xr.DataArray | None = None) -> xr.DataArray:
    low = data.get(f"{name}_low", data[name])
    high = data.get(f"{name}_high", data[name])
    above, below = low > minimum, high < -minimum
    if sign is not None:
        above, below = above & (sign > 0), below & (sign < 0)
    either: xr.DataArray = above | below
    return either
