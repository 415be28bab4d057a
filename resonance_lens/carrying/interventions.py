"""Driven passes in which something cannot respond: which places keep what they have undriven, as data.

A pass has the undriven prompt as its first row and driven copies of it behind. What is *held* takes, in every
driven row, the values of the first: it goes on working as it did, and hands no wave on. What is *replaced* is
given other values in the first row by an operation of `resonance_lens.patching.operations`, and held there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.writing import why_not_write, write
from resonance_lens.patching.ground import Spot
from resonance_lens.patching.operations import Operation, Scene, get_operation
from resonance_lens.patching.places import Place
from resonance_lens.patching.sweep import put, taken

PLAIN = "plain"
KERNELS = "heads_kernels"
CHAIN = "kernel_chain"
UNIFORM = "uniform_chain"
ABLATED = "ablated"
PATTERNS = "patterns_alone"

WORDS: dict[str, str] = {
    PLAIN: "nothing held",
    "attention_held": "patterns held: values and MLPs respond",
    "values_held": "values held: patterns and MLPs respond",
    "mlp_held": "MLPs held: attention responds",
    "heads_held": "heads held: MLPs alone respond",
    PATTERNS: "patterns and MLPs held: values alone respond",
    KERNELS: "patterns replaced by kernels of other prompts, MLPs respond",
    CHAIN: "patterns replaced by kernels of other prompts, MLPs held",
    UNIFORM: "patterns replaced by uniform attention, MLPs held",
    ABLATED: "the given places ablated",
}
"""Every intervention, and what it does, in the order in which results have them."""

HELD: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "attention_held": ("pattern",),
    "values_held": ("v",),
    "mlp_held": ("mlp_out",),
    "heads_held": ("attn_out",),
    PATTERNS: ("pattern", "mlp_out"),
    KERNELS: ("pattern",),
    CHAIN: ("pattern", "mlp_out"),
    UNIFORM: ("pattern", "mlp_out"),
}
"""Which sites are held, at every layer from the driven one on."""

REPLACED = {KERNELS: "kernel", CHAIN: "kernel", UNIFORM: "uniform"}
"""The operation that patterns are replaced by, where they are. The first key keeps its weight."""


@dataclass(frozen=True)
class Intervention:
    """What is held in a driven pass.

    Attributes
    ----------
    name
        One of `WORDS`.
    places
        What is held, each with the operation that is done to it first, if there is one.
    """

    name: str
    places: tuple[tuple[Place, Operation | None], ...] = ()

    @property
    def kernels(self) -> bool:
        """Whether it needs the kernels of heads."""
        return any(operation is not None and "kernel" in operation.wants for _, operation in self.places)

    @property
    def means(self) -> list[Spot]:
        """Sites whose means over prompts it needs."""
        return sorted(
            {
                (place.site, place.layer)
                for place, operation in self.places
                if operation is not None and "mean" in operation.wants
            }
        )

    def why_not(self, adapter: ModelAdapter) -> str | None:
        """Return why it cannot be made of a model, or ``None`` if it can."""
        reasons = (why_not_write(adapter, place.site, place.layer) for place, _ in self.places)
        return next((why for why in reasons if why is not None), None)


@dataclass(frozen=True, eq=False)
class Known:
    """What operations are told of the prompts.

    Attributes
    ----------
    kernels
        Attention by lag of each head, fitted on other prompts: ``[layer, head, lag]``.
    means
        Means over prompts by site and layer, as of `resonance_lens.patching.operations.Scene`.
    """

    kernels: Tensor | None = None
    means: Mapping[Spot, Tensor] = field(default_factory=dict)


def of_name(name: str, layers: Sequence[int], mlps: Collection[int] = ()) -> Intervention:
    """Return an intervention on all of the layers that a drive reaches.

    Parameters
    ----------
    name
        Of `HELD`.
    layers
        Those layers.
    mlps
        Those of them that have an MLP.
    """
    operation = get_operation(REPLACED[name], first_key="keep") if name in REPLACED else None
    return Intervention(
        name,
        tuple(
            (Place(site, layer), operation if site == "pattern" else None)
            for layer in layers
            for site in HELD[name]
            if site != "mlp_out" or layer in mlps
        ),
    )


def hooks_of(intervention: Intervention, adapter: ModelAdapter, batch: Batch, known: Known) -> list[Hook]:
    """Return the hooks of a pass whose first row is the undriven prompt.

    Parameters
    ----------
    intervention
        What is held.
    adapter
        Of the model.
    batch
        The undriven prompt, and driven copies of it.
    known
        What operations may need.
    """
    by_spot: dict[Spot, list[tuple[Place, Operation | None]]] = {}
    for place, operation in intervention.places:
        by_spot.setdefault((place.site, place.layer), []).append((place, operation))

    def change_of(those: Sequence[tuple[Place, Operation | None]]) -> Callable[[Tensor], Tensor]:
        def change(values: Tensor) -> Tensor:
            for place, operation in those:
                first = taken(values[:1], place)
                if operation is not None:
                    first = operation.edit(first, _scene(place, operation, adapter, batch, known))
                values = put(values, first.expand(len(values), *first.shape[1:]), place)
            return values

        return change

    return [
        hook
        for (site, layer), those in by_spot.items()
        for hook in write(adapter, site, layer, batch, change_of(those))
    ]


def _scene(place: Place, operation: Operation, adapter: ModelAdapter, batch: Batch, known: Known) -> Scene:
    mean = known.means.get((place.site, place.layer))
    kernel = None
    if "kernel" in operation.wants:
        assert known.kernels is not None  # `carriers` has looked
        kernel = known.kernels[place.layer]
        kernel = kernel if place.head is None else kernel[place.head]
    return Scene(
        site=place.site,
        layer=place.layer,
        head=place.head,
        facts=adapter.facts,
        lengths=batch.lengths[:1],
        mean=None if mean is None else taken(mean[None], place)[0],
        kernel=kernel,
    )


def holding(rows: Sequence[Place], site: str, undriven: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a change that holds one place in each row of a pass, where that place is at a site.

    Parameters
    ----------
    rows
        What is held in each row.
    site
        The site that is written.
    undriven
        Its values without a drive, ``[1, token, ...]``.
    """

    def change(values: Tensor) -> Tensor:
        out = values.clone()
        for row, place in enumerate(rows):
            if place.site == site:
                before = taken(undriven.to(values), place)
                out[row : row + 1] = put(out[row : row + 1], before, place)
        return out

    return change
