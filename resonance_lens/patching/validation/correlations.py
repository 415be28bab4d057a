"""Rank correlations of numbers with effects, with intervals, p and q, beside what else predicts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from resonance_lens.errors import ResultError
from resonance_lens.patching.validation.columns import Column, Floats, Kind
from resonance_lens.patching.validation.numbers import Number
from resonance_lens.result import Result
from resonance_lens.stats.intervals import CONFIDENCE
from resonance_lens.stats.ranks import (
    Depth,
    Free,
    Heads,
    Integers,
    Shuffle,
    auroc,
    design,
    infer_ranks,
    partial_spearman,
    predicted,
    ranked,
    spearman,
)

FEWEST_PLACES = 12
RESAMPLES = 499
HALVES = 100
"""Splits of the pairs into halves, for how well effects repeat."""

TESTS = {
    "rank_correlation": "rank correlation with the effect",
    "beyond_depth": "rank correlation with the effect beyond depth",
    "beyond_predictors": "rank correlation with the effect beyond depth and other predictors",
}
"""The correlations, from the plainest."""

TOGETHER = "together"


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Everything at the places where all of it is known.

    Attributes
    ----------
    kind
        ``heads`` or ``layers``.
    labels
        ``L3H2`` or ``L3``.
    layer, block
        Integers ``[place]``: the layer, and which heads share keys and values.
    numbers, columns, known
        Numbers, effects and predictors, ``[..., place]``.
    left_out
        How many places lack a number.
    """

    kind: Kind
    labels: tuple[str, ...]
    layer: Integers
    block: Integers
    numbers: Sequence[Number]
    columns: Sequence[Column]
    known: Mapping[str, Floats]
    left_out: int

    @staticmethod
    def of(
        kind: Kind,
        result: Result,
        numbers: Sequence[Number],
        columns: Sequence[Column],
        known: Mapping[str, Floats],
    ) -> Places:
        """Leave out the places where a number or an effect is not-a-number."""
        model = result.provenance["model"]
        n_layers, n_heads = int(model["n_layers"]), int(model["n_heads"])
        shared = max(1, n_heads // int(model.get("n_kv_heads") or n_heads))
        of_layer = n_heads if kind == "heads" else 1
        layer, head = np.divmod(np.arange(n_layers * of_layer), of_layer)
        labels = [f"L{a}H{b}" if kind == "heads" else f"L{a}" for a, b in zip(layer, head, strict=True)]
        keep = np.ones(len(layer), dtype=bool)
        for number in numbers:
            keep &= np.isfinite(number.values).all(axis=0)
        for column in columns:
            keep &= np.isfinite(column.rows).all(axis=0)
        for values in known.values():
            # What is not-a-number at every place of a column does not exist there.
            exists = np.isfinite(values).any(axis=1)
            keep &= np.isfinite(values[exists]).all(axis=0)
        if keep.sum() < FEWEST_PLACES:
            raise ResultError(
                f"Only {keep.sum()} {kind} have all numbers and effects, and {FEWEST_PLACES} are needed."
            )
        return Places(
            kind=kind,
            labels=tuple(label for label, has in zip(labels, keep, strict=True) if has),
            layer=layer[keep],
            block=(head // shared)[keep],
            numbers=[
                Number(
                    label=one.label,
                    long_name=one.long_name,
                    values=one.values[:, keep],
                    rows=None if one.rows is None else one.rows[..., keep],
                )
                for one in numbers
            ],
            columns=[one.at(keep) for one in columns],
            known={name: values[:, keep] for name, values in known.items()},
            left_out=int((~keep).sum()),
        )

    @property
    def depth(self) -> list[Floats]:
        """The layer, and its square, around the middle."""
        middle = self.layer - self.layer.mean()
        return [middle, middle**2]

    def predictors(self, column: int) -> dict[str, Floats]:
        """Return the ranks of what is known in a column."""
        return {n: ranked(v[column]) for n, v in self.known.items() if np.isfinite(v[column]).all()}

    def bases(self, test: str) -> list[Floats]:
        """Return for each column what a test regresses out."""
        nothing = [np.zeros(len(self.layer))]
        if test == "rank_correlation":
            return [design(nothing)] * len(self.columns)
        layer = self.layer if self.kind == "heads" else None
        depth = nothing if self.kind == "heads" else self.depth
        more = test == "beyond_predictors"
        return [
            design([*depth, *(self.predictors(c).values() if more else ())], layer)
            for c in range(len(self.columns))
        ]

    def shuffle(self, test: str) -> Shuffle:
        """Return what a test leaves as likely."""
        if self.kind == "layers":
            return Depth(len(self.layer))
        return Free(len(self.layer)) if test == "rank_correlation" else Heads(self.layer, self.block)


OF = ("size", "sign")
"""The size of the effect, and the effect with its sign."""


def correlate(places: Places, rng: np.random.Generator, n_draws: int) -> xr.Dataset:
    columns, numbers = places.columns, places.numbers
    values = np.stack([number.values for number in numbers])  # [variable, column, place]
    effect = np.stack([column.mean for column in columns])
    made: dict[str, Any] = {}
    dims = ("variable", "task", "of")
    means = resampled(places, rng)
    for test, words in TESTS.items():
        bases, shuffle = places.bases(test), places.shuffle(test)
        found = [infer_ranks(values, y, bases, shuffle, rng, n_draws=n_draws) for y in (abs(effect), effect)]
        correlation = np.stack([one.correlation for one in found], axis=-1)
        low, high = bounds(correlation, means, bases, places)
        made[test] = (dims, correlation, {"long_name": words, "units": "1"})
        for end, bound in (("low", low), ("high", high)):
            about = {"long_name": f"{words}, {'lower' if end == 'low' else 'upper'} 95 % bound", "units": "1"}
            made[f"{test}_{end}"] = (dims, bound, about)
        for name, over in (("p", ""), ("q", " over variables and tasks")):
            tested = np.stack([getattr(one, name) for one in found], axis=-1)
            made[f"{test}_{name}"] = (dims, tested, {"long_name": f"{words}, {name}{over}", "units": "1"})
    matters = np.stack([column.matters for column in columns])
    area = np.stack([auroc(values[:, c], matters[c]) for c in range(len(columns))], axis=1)
    about = {
        "long_name": "how often a place that matters has the larger number; not-a-number: none or all do"
    }
    made["auroc"] = (("variable", "task"), area, {**about, "units": "1"})
    made["n_matter"] = (
        ("task",),
        matters.sum(1),
        {"long_name": f"{places.kind} that matter", "units": places.kind},
    )
    made |= _predictions(places, abs(effect), matters)
    reliability = [_reliability(column, rng) for column in columns]
    made["reliability"] = (("task",), reliability, {"long_name": "how well effects repeat", "units": "1"})
    made["value"] = (("variable", "task", "target"), values, {"long_name": "number", "units": "1"})
    unit = columns[0].units if len({column.units for column in columns}) == 1 else "1"
    made["effect"] = (("task", "target"), effect, {"long_name": "effect", "units": unit})
    made["effect_size"] = (
        ("task", "target"),
        abs(effect),
        {"long_name": "size of the effect", "units": unit},
    )
    made["matters"] = (("task", "target"), matters.astype(np.int8), _flags())
    coords = {
        "variable": [number.label for number in numbers],
        "task": [column.label for column in columns],
        "of": list(OF),
        "predictor": ["layer", *places.known, TOGETHER],
        "target": list(places.labels),
        "target_layer": ("target", places.layer),
    }
    return xr.Dataset(made, coords=coords)


def _flags() -> dict[str, Any]:
    return {
        "long_name": "surely more than the placebo, and large enough to count",
        "flag_values": np.array([0, 1], dtype=np.int8),
        "flag_meanings": "no yes",
    }


def _predictions(places: Places, size: Floats, matters: Any) -> dict[str, Any]:
    """Return what depth and the predictors say alone, and together with and without the number."""
    names = ["layer", *places.known, TOGETHER]
    shape = (len(places.columns), len(names))
    correlation, area = np.full(shape, np.nan), np.full(shape, np.nan)
    with_number = np.full((len(places.numbers), len(places.columns)), np.nan)
    for c in range(len(places.columns)):
        known = places.predictors(c)
        everything = [*places.depth, *known.values()]
        said = {"layer": predicted(size[c], places.depth, places.layer)}
        said |= known
        said[TOGETHER] = predicted(size[c], everything, places.layer)
        for name, values in said.items():
            correlation[c, names.index(name)] = spearman(values, size[c])
            area[c, names.index(name)] = auroc(values, matters[c])
        for v, number in enumerate(places.numbers):
            more = predicted(size[c], [*everything, ranked(number.values[c])], places.layer)
            with_number[v, c] = spearman(more, size[c])
    words = "of the size of the effect with what a predictor says of it"
    return {
        "predictor_correlation": (
            ("task", "predictor"), correlation, {"long_name": f"rank correlation {words}", "units": "1"},
        ),
        "predictor_auroc": (
            ("task", "predictor"), area,
            {"long_name": "how often a place that matters has the larger predictor", "units": "1"},
        ),
        "with_number": (
            ("variable", "task"), with_number,
            {"long_name": f"rank correlation {words}, all predictors and the number together", "units": "1"},
        ),
    }  # fmt: skip


def _reliability(column: Column, rng: np.random.Generator) -> float:
    """Return the rank correlation of effect sizes of halves of the pairs, stepped up to all of them."""
    n = len(column.rows)
    if n < 4:
        return float("nan")
    order = rng.random((HALVES, n)).argsort(axis=1)
    first, second = (
        np.abs(column.rows[some].mean(axis=1)) for some in (order[:, : n // 2], order[:, n // 2 :])
    )
    half = float(spearman(first, second).mean())
    return 2 * half / (1 + half)


# Intervals --------------------------------------------------------------------------------------------


def resampled(places: Places, rng: np.random.Generator) -> tuple[list[Floats], list[Floats | None]]:
    """Return effects ``[resample, place]`` of each column, and each number ``[resample, column, place]``."""
    effects = [_means(column.rows, rng) for column in places.columns]
    numbers = [None if number.rows is None else _means(number.rows, rng) for number in places.numbers]
    return effects, numbers


def _means(rows: Floats, rng: np.random.Generator) -> Floats:
    """Return means over resampled rows, their deviations widened for a small sample."""
    n = len(rows)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    there = np.isfinite(rows)
    mean = np.where(there, rows, 0.0).sum(axis=0) / there.sum(axis=0)
    deviation = np.where(there, rows - mean, 0.0)
    count = np.tensordot(weights, there.astype(np.float64), 1)
    drawn = np.tensordot(weights, deviation, 1) / np.maximum(count, 1.0)
    return np.asarray(mean + drawn * np.sqrt(n / max(1, n - 1)))


def bounds(
    correlation: Floats,
    means: tuple[list[Floats], list[Floats | None]],
    bases: Sequence[Floats],
    places: Places,
) -> tuple[Floats, Floats]:
    """Return 95 % bounds ``[variable, column, of]``: the spread over resamples, on Fisher's scale.

    The percentiles themselves would lie too near zero: a resample has the noise of the pairs twice.
    """
    effects, numbers = means
    spread = np.full(correlation.shape, np.nan)
    for c, basis in enumerate(bases):
        for o, drawn in enumerate((np.abs(effects[c]), effects[c])):
            for v, number in enumerate(places.numbers):
                again_drawn = numbers[v]
                x = number.values[c] if again_drawn is None else again_drawn[:, c]
                again = np.clip(partial_spearman(x, drawn, basis), -1 + 1e-12, 1 - 1e-12)
                spread[v, c, o] = np.arctanh(again).std(ddof=1)
    fewest = np.array([len(column.rows) for column in places.columns])
    rows = np.array([np.inf if one.rows is None else len(one.rows) for one in places.numbers])
    freedom = np.minimum(rows[:, None], fewest[None]) - 1
    half = stats.t.ppf((1 + CONFIDENCE) / 2, df=np.maximum(freedom, 1))[..., None] * spread
    middle = np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))
    return np.tanh(middle - half), np.tanh(middle + half)
