"""What there is to see of a result of patching: effects in the model's shape, and beside their controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from resonance_lens.result import Result, ViewSpec

CONTROLS = {
    "placebo": (
        "Effect beside its placebo",
        "Each point is a target. Near the dotted line a change of the same size in a random direction does "
        "as much, and the effect says nothing about what was changed.",
        "a placebo of a large change leaves what the model is used to, and breaks it in ways of its own.",
    ),
    "complement": (
        "Effect beside that of everything else",
        "Each point is a target: to the right what the operation on all that it leaves alone does. The part "
        "that matters is the one with the larger effect.",
        "the two need not add up: the model is not linear.",
    ),
    "attribution": (
        "Effect beside its estimate by gradient",
        "Each point is a target that was patched. On the dotted line the gradient was right.",
        "only the targets with the highest estimates, and some at random, were patched.",
    ),
}
"""What effects are drawn against: title, what it says, and when it misleads."""

HEADS = 4
"""Heads whose attention is shown."""


def views(result: Result) -> list[ViewSpec]:
    """Return what to draw of the result of `patch`: only what it has numbers for."""
    data = result.data
    operations = data.sizes["operation"]
    made = [*_of_places(data, operations)]
    panels = "operation" if operations > 1 else None
    for name, (title, says, misleads) in CONTROLS.items():
        if _known(data, name):
            made.append(
                ViewSpec(
                    kind="scatter",
                    title=title,
                    says=says,
                    misleads=misleads,
                    variables=(name, "effect"),
                    panels=panels,
                )
            )
    heads = tuple((t.layer, t.head) for t in result.ranked if t.head is not None)[:HEADS]
    if heads and not {"k", "v", "rot_k"} & set(data["site"].values.tolist()):
        made.append(
            ViewSpec(
                kind="attention_heads",
                title="What the strongest heads look at",
                says="Attention of the heads with the largest effects on both prompts of a pair, and, where "
                "patterns were edited, after it.",
                misleads="these are a few pairs of many.",
                heads=heads,
            )
        )
    return made


def _of_places(data: xr.Dataset, operations: int) -> Iterator[ViewSpec]:
    """Yield what shows effects where they are: in the model's shape, or by layer."""
    if "effect_map" in data:
        for name, title, says in (
            ("effect", "Effect by layer and head", "What changing each head does to the metric."),
            (
                "effect_beyond",
                "Effect beyond the placebo",
                "The same, less what a change of the same size in a random direction does.",
            ),
        ):
            if _known(data, f"{name}_map"):
                yield ViewSpec(
                    kind="layer_head_map",
                    title=title,
                    says=says,
                    misleads="two heads do the same: then neither has an effect alone.",
                    variables=(f"{name}_map",),
                    colours="diverging",
                    limits=_limits(data["effect_map"]),
                )
    elif "effect_by_layer" in data:
        also = [name for name in ("placebo_by_layer",) if _known(data, name)]
        yield ViewSpec(
            kind="lines",
            title="Effect over depth",
            says="What changing each layer does to the metric, and a change of the same size at random.",
            misleads="what the residual stream hands on unchanged counts at every layer that it passes.",
            variables=("effect_by_layer", *also),
            series="operation",
        )
        if operations > 1:
            yield ViewSpec(
                kind="matrix",
                title="Effect by operation and layer",
                says="Rows are operations, such as bands; columns are layers.",
                misleads="operations differ in how much they change: compare each with its placebo.",
                variables=("effect_by_layer",),
                colours="diverging",
            )
    else:
        yield ViewSpec(
            kind="scatter",
            title="Effect of each target",
            says="Targets by their layer, with 95 % intervals over pairs.",
            misleads="a change of any kind may have an effect: see the placebo.",
            variables=("target_layer", "effect"),
            series="site" if len(set(data["site"].values.tolist())) > 1 else None,
            panels="operation" if operations > 1 else None,
        )


def _known(data: xr.Dataset, name: str) -> bool:
    return name in data and bool(data[name].notnull().any())


def _limits(effect: xr.DataArray) -> tuple[float, float] | None:
    """Return the range of colours: that of the effect, so that maps can be compared."""
    largest = float(np.abs(effect.values[np.isfinite(effect.values)]).max(initial=0.0))
    return (-largest, largest) if largest else None
