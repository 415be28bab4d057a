"""Which places are patched: every head, every layer, a site, or targets that an analysis named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from resonance_lens.errors import AdapterError, ParameterError, unknown, wrong_parameter
from resonance_lens.facts import SITE_AXES, Facts
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.hooks.writing import heads_at, why_not_write
from resonance_lens.result import Target

HEADS, LAYERS = "heads", "layers"
"""Words for every head, where it has mixed values by its pattern, and for what attention and MLP of every
layer write."""

Targets = str | Sequence[Target]


@dataclass(frozen=True)
class Place:
    """Where something is done to a model.

    Attributes
    ----------
    site, layer
        Where.
    head
        ``None`` for a whole layer; of key-value heads at ``k``, ``v`` and ``rot_k`` where they are grouped.
    positions
        As of a `Target`.
    """

    site: str
    layer: int
    head: int | None = None
    positions: tuple[int, ...] | None = None

    @property
    def at(self) -> str:
        """Layer and head: ``L3H2``, or ``L3`` for a whole layer."""
        return f"L{self.layer}" + ("" if self.head is None else f"H{self.head}")

    @property
    def where(self) -> str:
        """Positions as text: ``all``, ``-1``, ``3,4``."""
        return "all" if self.positions is None else ",".join(map(str, self.positions))


def places_of(targets: Targets, adapter: ModelAdapter) -> list[Place]:
    """Return the places that ``targets`` names; see `resonance_lens.patch`.

    Raises
    ------
    ParameterError
        If a name is unknown, a target does not exist in this model, or is named twice.
    AdapterError
        If a place cannot be written to: which, and why.
    """
    if isinstance(targets, str):
        return _named(targets, adapter)
    places = []
    for target in targets:
        if not isinstance(target, Target):
            raise ParameterError(
                wrong_parameter("patch", "targets", "'heads', 'layers', a site or a list of Target", target)
            )
        positions = None if target.positions is None else tuple(map(int, target.positions))
        place = Place(target.site, target.layer, target.head, positions)
        _require_there(place, adapter.facts)
        why = why_not_write(adapter, place.site, place.layer)
        if why is not None:
            raise AdapterError(f"Target {place.at} cannot be patched: {why}")
        if place in places:
            raise ParameterError(
                f"Target {place.at} at {place.site!r} is given twice; leave one of them out."
            )
        places.append(place)
    if not places:
        raise ParameterError("There are no targets to patch: the list is empty.")
    return places


def labels_of(places: Sequence[Place]) -> list[str]:
    """Return a label for each place: ``L3H2``, with the site where sites differ, and positions if given."""
    mixed = len({place.site for place in places}) > 1
    return [
        place.at
        + (f" {place.site}" if mixed else "")
        + ("" if place.positions is None else f" @{place.where}")
        for place in places
    ]


def others_of(place: Place, facts: Facts, layers: Collection[int]) -> list[Place]:
    """Return the places of the same kind that a place is held against.

    They are the other heads of its layer; for a whole layer the other layers.

    Parameters
    ----------
    place
        The one in question.
    facts
        Of the model.
    layers
        Those at which the site can be written to.
    """
    if place.head is not None:
        heads = heads_at(place.site, facts) or 0
        return [
            Place(place.site, place.layer, head, place.positions)
            for head in range(heads)
            if head != place.head
        ]
    return [Place(place.site, layer, None, place.positions) for layer in layers if layer != place.layer]


def _named(name: str, adapter: ModelAdapter) -> list[Place]:
    facts = adapter.facts
    if name not in (HEADS, LAYERS, *SITE_AXES):
        raise ParameterError(unknown("site or set of targets", name, (HEADS, LAYERS, *SITE_AXES)))
    sites = {HEADS: ("z",), LAYERS: ("attn_out", "mlp_out")}.get(name, (name,))
    places, reasons = [], []
    for layer in range(facts.n_layers):
        for site in sites:
            why = why_not_write(adapter, site, layer)
            if why is not None:
                reasons.append(why)
                continue
            heads = heads_at(site, facts)
            places += [Place(site, layer, head) for head in (range(heads) if heads else (None,))]
    if not places:
        raise AdapterError(reasons[0])
    return places


def _require_there(place: Place, facts: Facts) -> None:
    """Raise `ParameterError` unless the model has such a place."""
    if place.site not in SITE_AXES:
        raise ParameterError(unknown("site", place.site, SITE_AXES))
    if not 0 <= place.layer < facts.n_layers:
        raise ParameterError(
            f"Target {place.at} is not in {facts.model_name}: its layers are 0 to {facts.n_layers - 1}."
        )
    heads = heads_at(place.site, facts)
    if place.head is None:
        return
    if heads is None:
        raise ParameterError(
            f"Target {place.at} names a head, and {place.site!r} has none; leave the head out, or name 'z'."
        )
    if not 0 <= place.head < heads:
        kind = "key-value heads" if heads != facts.n_heads else "heads"
        raise ParameterError(
            f"Target {place.at} is not in {facts.model_name}: the {kind} at {place.site!r} are 0 to "
            f"{heads - 1}."
        )
