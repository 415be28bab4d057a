"""What a claim found, place by place, as the marks of a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.counts import SAID, beyond, claims_of, differing, mattering
from resonance_lens.errors import ResultError, unknown
from resonance_lens.result import Result, ViewSpec
from resonance_lens.stats.inference import LEVEL
from resonance_lens.views.content import Levels, Marking
from resonance_lens.views.text import amount, listing

BASELINES = tuple(name for name in SAID if name != "plain")
"""The conditions that are baselines, as variables and provenance name them."""


def claim_of(view: ViewSpec, result: Result) -> Mapping[str, Any]:
    """Return the claim that a view names, or say which there are."""
    known = {claim["variable"]: claim for claim in claims_of(result)}
    if view.claim not in known:
        raise ResultError(
            f"The view {view.title!r} of {result.name} cannot be drawn: "
            + unknown("claim", str(view.claim), known)
        )
    return known[view.claim]


def levels(result: Result, claim: Mapping[str, Any], chosen: Mapping[str, str]) -> xr.DataArray:
    """Return what a claim found at the places that a selection leaves.

    1 where it differs from its null, 2 where the effect is also surely larger than the smallest that
    counts, 3 where it also exceeds that under every baseline that was run by as much; 0 elsewhere.
    """
    x = claim["variable"]
    data = result.data[[str(name) for name in result.data if str(name).startswith(f"{x}_")]]
    for dimension, value in chosen.items():
        if dimension in data.dims:
            values = [str(one) for one in data[dimension].values]
            data = data.isel({dimension: values.index(value)}, drop=True)
    differ = differing(data, claim)
    matter = differ & mattering(data, claim)
    found: xr.DataArray = differ.astype(int) + matter
    run = _baselines(result, claim)
    if run:
        every = matter
        for condition in run:
            every = every & beyond(data, claim, condition)
        found = found + every
    return found


def marking(result: Result, claim: Mapping[str, Any], found: Levels) -> Marking:
    """Return what the levels mean and how many places have them."""
    means = [
        f"differs from its null, q\u00a0\u2264\u00a0{LEVEL}",
        f"also surely by more than {amount(claim)}",
    ]
    run = [SAID[condition] for condition in _baselines(result, claim)]
    if run:
        means.append(f"also by that much beyond {listing(run)}")
    counts = tuple(int((found >= level).sum()) for level in range(1, len(means) + 1))
    return Marking(means=tuple(means), counts=counts)


def refused(result: Result, claim: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """Return why nothing of a claim is marked, or an empty string."""
    tests = result.provenance["tests"][claim["variable"]]
    why = tests[chosen.get("category", "all")]["refused"]
    return f"Nothing is marked, because there was no test: {why}." if why else ""


def of_line(
    found: xr.DataArray, over: str, at: Mapping[str, int]
) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Return the levels along one line, or `None` where the places of the claim are not its points."""
    found = found.isel({dimension: i for dimension, i in at.items() if dimension in found.dims})
    return np.asarray(found.values, dtype=np.int64) if found.dims == (over,) else None


def _baselines(result: Result, claim: Mapping[str, Any]) -> list[str]:
    return [c for c in BASELINES if f"{claim['variable']}_beyond_{c}" in result.data]
