"""A synthetic result of patching: its schema, and numbers shaped like real ones."""

from __future__ import annotations

import numpy as np

from resonance_lens.result import Result, Target, ViewSpec
from tests.views.example_results import Builder, declared

CAUSES = {"L1H2": 0.8, "L4H0": -0.5}
"""Planted: the effects of two heads, in nats; those of all others are noise."""


def patch(rng: np.random.Generator, n_layers: int = 6, n_heads: int = 4) -> Result:
    """Return effects of two operations on every head, with their controls, intervals and estimates."""
    labels = [f"L{a}H{b}" for a in range(n_layers) for b in range(n_heads)]
    data = Builder(
        {
            "operation": ["patch", "remove_band band=high"],
            "target": labels,
            "layer": np.arange(n_layers),
            "head": np.arange(n_heads),
        }
    )
    dims = ("operation", "target")
    effect = rng.normal(0, 0.02, (2, len(labels)))
    for label, size in CAUSES.items():
        effect[:, labels.index(label)] += size * np.array([1.0, 0.4])
    data.add("effect", dims, effect, "effect on the logit difference", "nats", spread=0.05)
    data.add("placebo", dims, rng.normal(0, 0.02, effect.shape), "placebo", "nats", spread=0.03)
    data.add("attribution", dims, 0.8 * effect, "effect by attribution", "nats")
    data.add("metric_of_heads", ("target",), rng.uniform(0, 1, len(labels)), "share explained by the lag")
    shape = (2, n_layers, n_heads)
    data.add("effect_map", ("operation", "layer", "head"), effect.reshape(shape), "effect", "nats")
    layers = ("target", np.repeat(np.arange(n_layers), n_heads), {"long_name": "layer"})
    found = data.dataset().assign_coords(target_layer=layers)
    found["matters"] = (dims, np.abs(effect) > 0.2, {"long_name": "more than its controls"})
    return Result(
        name="patch",
        data=found,
        provenance=declared("patch", "measured", "effect", title="What changes when a place is changed"),
        summary="L1H2 matters most.",
        views=VIEWS,
        ranked=tuple(
            Target(site="z", layer=int(label[1]), head=int(label[3]), score=abs(size), reason="effect")
            for label, size in CAUSES.items()
        ),
    )


VIEWS = (
    ViewSpec(
        kind="layer_head_map",
        title="Effects by layer and head",
        says="Blue heads carry what tells the prompts apart.",
        misleads="two heads do the same thing: then neither has an effect alone.",
        variables=("effect_map",),
        select={"operation": "patch"},
        colours="diverging",
    ),
    ViewSpec(
        kind="scatter",
        title="Effect beside its placebo",
        says="Above the dotted line the change matters more than one of its size in any direction.",
        misleads="the placebo leaves the model's usual range.",
        variables=("placebo", "effect"),
        series="target_layer",
        panels="operation",
    ),
    ViewSpec(
        kind="scatter",
        title="Metric and effect",
        says="If it did, points would rise to the right.",
        misleads="few heads have an effect at all.",
        variables=("metric_of_heads", "effect"),
        select={"operation": "patch"},
        series="matters",
    ),
)
