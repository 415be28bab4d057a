"""From the metric of every row to effects beside their controls, with bounds, p and q over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.stats.inference import Inference, infer
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.samples import RESOLUTION, Sample
from resonance_lens.stats.streams import stream

Array = NDArray[np.float64]

BOUNDS = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """The metric, row by row.

    Attributes
    ----------
    labels, looks_ahead, donors
        Of each operation: its label, whether it looks ahead, whether it takes values from the donor.
    exact
        ``[operation, place, pair]``: of the targets, and then of other places that they are held against.
    placebo, complement
        ``[operation, target, pair]``, not-a-number where there is none.
    base, donor, clean, corrupted
        ``[pair]``, of the unpatched runs.
    others
        By operation and target, the indices of the places that it is held against.
    units
        Of the metric.
    seed
        Of intervals and sign flips.
    """

    labels: Sequence[str]
    looks_ahead: Sequence[bool]
    donors: Sequence[bool]
    exact: Array
    placebo: Array
    complement: Array
    base: Array
    donor: Array
    clean: Array
    corrupted: Array
    others: Sequence[Sequence[Sequence[int]]]
    units: str
    seed: int


@dataclass(eq=False)
class _Variables:
    """Variables as they come."""

    units: str
    made: dict[str, xr.Variable] = field(default_factory=dict)

    def add(
        self, name: str, dims: tuple[str, ...], values: Any, words: str, units: str | None = None
    ) -> None:
        about = {"long_name": words, "units": self.units if units is None else units}
        self.made[name] = xr.Variable(dims, np.asarray(values, dtype=np.float64), about)


def effects(numbers: Numbers, target_coords: Mapping[str, Any], pair_ids: Sequence[str]) -> xr.Dataset:
    """Return the dataset of a `PatchResult`, but for the maps."""
    n_targets = len(numbers.others[0])
    out = _Variables(numbers.units)
    exact = numbers.exact[:, :n_targets]
    out.add("metric", ("operation", "target", "pair"), exact, "metric after the operation")
    out.add("metric_base", ("pair",), numbers.base, "metric of the run that is patched, unpatched")
    out.add("metric_clean", ("pair",), numbers.clean, "metric of the clean prompt, unpatched")
    out.add("metric_corrupted", ("pair",), numbers.corrupted, "metric of the corrupted prompt, unpatched")
    # What rounding alone can do is no effect: it is held against the size of the metric.
    scale = float(max(np.abs(numbers.donor - numbers.base).mean(), np.abs(numbers.base).mean()))
    base = numbers.base[:, None]
    columns: dict[str, list[Array]] = {}

    def keep(name: str, operation: str, sample: Sample, tested: bool) -> None:
        rng = stream(
            numbers.seed, "patch", operation, "intervals"
        )  # one for all, so that they resample alike
        for end, column in zip(BOUNDS, bootstrap_mean(sample.difference, rng), strict=True):
            columns.setdefault(name + end, []).append(column)
        if tested:
            found = test(sample, numbers.seed, operation, name)
            columns.setdefault(f"{name}_p", []).append(found.p)
            columns.setdefault(f"{name}_q", []).append(found.q)

    share = []
    for index, label in enumerate(numbers.labels):
        every = Sample(
            numbers.exact[index].T, np.broadcast_to(base, numbers.exact[index].T.shape), scale=scale
        )
        rows = every.difference  # [pair, place]
        sample = Sample(exact[index].T, np.broadcast_to(base, exact[index].T.shape), scale=scale)
        keep("effect", label, sample, True)
        whole = float((numbers.donor - numbers.base).mean())
        known = numbers.donors[index] and abs(whole) > RESOLUTION * scale
        share.append(sample.difference.mean(0) / whole if known else np.full(n_targets, np.nan))
        others = np.stack([_mean_of(rows, chosen) for chosen in numbers.others[index]], axis=1)
        keep("others", label, Sample(others, np.zeros_like(others)), False)
        for name, values in (("placebo", numbers.placebo), ("complement", numbers.complement)):
            control = Sample(values[index].T, np.broadcast_to(base, values[index].T.shape), scale=scale)
            keep(name, label, control, False)
        keep("effect_beyond", label, Sample(exact[index].T, numbers.placebo[index].T, scale=scale), True)

    dims = ("operation", "target")
    for name, words in WORDS.items():
        for end, bound in BOUNDS.items():
            out.add(name + end, dims, np.stack(columns[name + end]), words + bound)
        for end, what in (("_p", "p"), ("_q", "q over the targets of the operation")):
            if name + end in columns:
                text = f"{words}, {what}; not-a-number: no test"
                out.add(name + end, dims, np.stack(columns[name + end]), text, "1")
    out.add(
        "normalized", dims, np.stack(share),
        "effect as a share of the difference between donor and base run; not-a-number: no donor", "1",
    )  # fmt: skip
    coords = {
        "operation": ("operation", list(numbers.labels)),
        "looks_ahead": (
            "operation",
            np.array(numbers.looks_ahead, dtype=np.int8),
            {"long_name": "looks ahead"},
        ),
        "pair": ("pair", list(pair_ids)),
        **target_coords,
    }
    return xr.Dataset(out.made, coords=coords)


WORDS = {
    "effect": "effect on the metric",
    "others": "effect of the same operation at other targets of the same kind and layer",
    "placebo": "effect of a change of the same size in a random direction",
    "complement": "effect of the operation on everything that this one leaves alone",
    "effect_beyond": "effect on the metric beyond that of the placebo",
}
"""What each variable over operations and targets is."""


def test(sample: Sample, seed: int, *labels: str) -> Inference:
    """Return p and q of every target, over the targets together."""
    return infer(sample, [0], stream(seed, "patch", "flips", *labels))


def with_maps(data: xr.Dataset, n_layers: int, heads: Mapping[str, int | None]) -> xr.Dataset:
    """Return the dataset with effects over layers and heads, where all were patched.

    Parameters
    ----------
    data
        From `effects`.
    n_layers
        Of the model.
    heads
        How many heads each site has, or ``None`` if it has none.
    """
    sites = set(data.site.values.tolist())
    if len(sites) != 1 or set(data.position.values.tolist()) != {"all"}:
        return data
    n_heads = heads[sites.pop()]
    dims: tuple[str, ...]
    layer, head = data.target_layer.values, data.target_head.values
    if (head < 0).all() and sorted(layer.tolist()) == list(range(n_layers)):
        end, dims, sizes = "by_layer", ("operation", "layer"), [n_layers]
    elif n_heads is not None and len(layer) == n_layers * n_heads and (head >= 0).all():
        end, dims, sizes = "map", ("operation", "layer", "head"), [n_layers, n_heads]
    else:
        return data
    made = {}
    for name in [str(each) for each in data if data[each].dims == ("operation", "target")]:
        values = np.full((data.sizes["operation"], *sizes), np.nan)
        values[(slice(None), layer) if end == "by_layer" else (slice(None), layer, head)] = data[name].values
        made[mapped(name, end)] = xr.Variable(dims, values, data[name].attrs)
    with_them: xr.Dataset = data.assign(made)
    return with_them


def mapped(name: str, end: str) -> str:
    """Return what a variable over targets is called over layers: ``effect_low``, ``effect_map_low``."""
    for bound in ("_low", "_high", "_p", "_q"):
        if name.endswith(bound):
            return f"{name.removesuffix(bound)}_{end}{bound}"
    return f"{name}_{end}"


def _mean_of(rows: Array, chosen: Sequence[int]) -> Array:
    """Return the mean over some places ``[pair]``; not-a-number where there are none."""
    if not len(chosen):
        return np.full(len(rows), np.nan)
    return np.asarray(rows[:, list(chosen)].mean(axis=1))
