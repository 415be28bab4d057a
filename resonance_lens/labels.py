"""Putting names on numbers: the dimensions and variables that results have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.contract import Accumulated
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

FIRST_POSITION = ("keep", "drop")
"""With the prompt's first key as the model has it, and with it taken out and the rest renormalised."""


class Labelled:
    """Builds the dataset of a result, variable by variable.

    Attributes
    ----------
    coords
        Coordinates by dimension; those that no variable uses are left out.

    Parameters
    ----------
    seen
        What was accumulated.
    name
        Of the analysis; it keys the random streams.
    coords
        Coordinates beyond ``prompt``, ``category``, ``layer``, ``head`` and ``first_position``.
    """

    def __init__(
        self, seen: Accumulated, name: str, coords: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self._seen = seen
        self._name = name
        self.coords: dict[str, Any] = {
            "prompt": list(seen.prompt_ids),
            "category": list(seen.groups),
            "layer": list(seen.layers),
            "head": np.arange(seen.facts.n_heads),
            "first_position": list(FIRST_POSITION),
            **(coords or {}),
        }
        self._variables: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]] = {}

    def add(self, name: str, dims: Sequence[str], values: Any, long_name: str, units: str) -> None:
        """Add a variable."""
        attrs = {"long_name": long_name, "units": units}
        self._variables[name] = (tuple(dims), np.asarray(values), attrs)

    def add_mean(
        self,
        name: str,
        dims: Sequence[str],
        rows: NDArray[Any],
        long_name: str,
        units: str,
        *,
        interval: bool = True,
        by_prompt: bool = False,
    ) -> None:
        """Add the mean over the prompts of each category of ``rows`` (``[prompt, *dims]``).

        With ``interval`` the variables ``<name>_low`` and ``<name>_high`` stand beside it (95 %, by
        resampling prompts), with ``by_prompt`` the rows themselves as ``<name>_prompt``.
        """
        interval = interval and self._seen.intervals
        means, lows, highs = [], [], []
        for category, members in self._seen.groups.items():
            if interval:
                rng = stream(self._seen.seed, self._name, name, category)
                mean, low, high = bootstrap_mean(rows[members], rng)
            else:
                mean, low, high = bootstrap_mean(rows[members], np.random.default_rng(0), n_resamples=1)
            means.append(mean)
            lows.append(low)
            highs.append(high)
        dims = ("category", *dims)
        self.add(name, dims, np.stack(means), long_name, units)
        if interval:
            self.add(f"{name}_low", dims, np.stack(lows), f"{long_name}, lower 95 % bound", units)
            self.add(f"{name}_high", dims, np.stack(highs), f"{long_name}, upper 95 % bound", units)
        if by_prompt:
            each = rows.astype(np.float32)
            self.add(f"{name}_prompt", ("prompt", *dims[1:]), each, f"{long_name} of each prompt", units)

    def dataset(self, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
        """Return the dataset, with the coordinates that its variables use."""
        used = {dim for dims, _, _ in self._variables.values() for dim in dims}
        coords = {name: values for name, values in self.coords.items() if name in used}
        if "prompt" in used and any(self._seen.categories):
            coords["prompt_category"] = ("prompt", [category or "" for category in self._seen.categories])
        return xr.Dataset(self._variables, coords=coords, attrs=dict(attrs or {}))


def rank_heads(values: xr.DataArray, k: int, *, smallest: bool = False) -> list[tuple[int, int, float]]:
    """Return the ``k`` largest (or smallest) entries over ``layer`` and ``head``: layer, head, value.

    Only entries above zero (below it, for the smallest) count: a bound on the other side of zero
    names no place. Entries that are not-a-number are left out.
    """
    flat = values.stack(place=("layer", "head"))
    flat = flat[flat.values < 0 if smallest else flat.values > 0]
    order = np.argsort(flat.values if smallest else -flat.values, kind="stable")[:k]
    layers, heads = flat["layer"].values[order], flat["head"].values[order]
    return [
        (int(layer), int(head), float(value))
        for layer, head, value in zip(layers, heads, flat.values[order], strict=True)
    ]
