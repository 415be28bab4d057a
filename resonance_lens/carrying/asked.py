"""What `carriers` was asked for, and whether it can be done: every refusal that needs no pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from resonance_lens.batches import Tokenized, tokenize
from resonance_lens.carrying.interventions import (
    ABLATED,
    HELD,
    PLAIN,
    Intervention,
    of_name,
)
from resonance_lens.carrying.measuring import Setup
from resonance_lens.design import Drive
from resonance_lens.driving import require_drivable
from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import (
    AdapterError,
    ModelError,
    ParameterError,
    PromptError,
    unknown,
    wrong_parameter,
)
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.hooks.writing import why_not_write
from resonance_lens.patching.operations import get_operation
from resonance_lens.patching.places import Place, Targets, places_of
from resonance_lens.prompts import read_prompts
from resonance_lens.result import Result, Target

HEADS, LAYERS, NONE = "heads", "layers", "none"
PARTS = ("attn_out", "mlp_out")
"""What a layer writes, by who writes it."""

BASELINES = ("random_weights",)
ABLATIONS = ("zero_ablate", "mean_ablate")

Kernels: TypeAlias = Result | Any
"""A result of ``attention_filter``, prompts to measure it on, or ``None``: the other half of the prompts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What is measured, of what.

    Attributes
    ----------
    adapter
        Of the model.
    prompts
        As the model sees them.
    setup
        What is measured on each of them.
    epsilon, directions, targets
        As they were asked for.
    kernels
        Where kernels come from.
    baselines
        Out of `BASELINES`.
    left_out
        Interventions that were not asked for by name and cannot be made, and why.
    """

    adapter: ModelAdapter
    prompts: tuple[Tokenized, ...]
    setup: Setup
    epsilon: float
    directions: int
    targets: str
    kernels: Kernels
    baselines: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def needs_kernels(self) -> bool:
        """Whether kernels of heads are needed."""
        return any(each.kernels for each in self.setup.interventions)


def make(
    model: Any,
    prompts: Any,
    *,
    layer: int,
    heard: int | None = None,
    targets: Targets = HEADS,
    interventions: Collection[str] | None = None,
    ablate: Sequence[Target] = (),
    ablation: str = "zero_ablate",
    kernels: Kernels = None,
    epsilon: float = 0.03,
    directions: int = 2,
    vectors: Sequence[ArrayLike] | None = None,
    period: int | None = None,
    baselines: Collection[str] = (),
    seed: int = 0,
    batch_tokens: int = 2048,
    prepend_bos: bool | None = None,
) -> Asked:
    """Return what is to be measured; the arguments are those of `resonance_lens.carriers`.

    Raises
    ------
    ResonanceLensError
        If it cannot be.
    """
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("carriers needs a model that can be run; an ActivationCache holds one pass.")
    facts = adapter.facts
    if not facts.causal:
        raise ModelError(
            f"carriers follows waves from earlier tokens to later ones, and {facts.model_name} looks ahead: "
            "its response has no onset and its heads no causal kernels."
        )
    _require_numbers(batch_tokens, directions)
    for name in baselines if not isinstance(baselines, str) else [baselines]:
        if name not in BASELINES:
            raise ParameterError(unknown("baseline of carriers", name, BASELINES))
    tokenized = tokenize(read_prompts(prompts), facts, adapter.tokenizer, prepend_bos)
    timing = Timing.fit(min(len(one.tokens) for one in tokenized), period=period)
    drives = tuple(
        Drive(layer=layer, timing=timing, lines=timing.lines, amplitude=epsilon, **each)
        for each in _directions(directions, vectors)
    )
    require_drivable(adapter, [drives])
    for drive in drives:
        drive.unit(facts.d_model, seed)
    last = facts.n_layers - 1
    heard = last if heard is None else heard
    if type(heard) is not int or not layer <= heard <= last:
        raise ParameterError(
            wrong_parameter(
                "carriers", "heard", f"a layer from {layer} to {last}, which the drive reaches", heard
            )
        )
    made, left_out = _interventions(adapter, layer, interventions, len(tokenized), kernels, bool(baselines))
    ablated = _ablated(adapter, layer, ablate, ablation)
    setup = Setup(
        drives=drives,
        interventions=(*made, *([ablated] if ablated else [])),
        places=tuple(_places(adapter, layer, heard, targets)),
        heard=heard,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    return Asked(
        adapter=adapter,
        prompts=tuple(tokenized),
        setup=setup,
        epsilon=epsilon,
        directions=len(drives),
        targets=targets if isinstance(targets, str) else f"{len(targets)} given",
        kernels=kernels,
        baselines=(baselines,) if isinstance(baselines, str) else tuple(baselines),
        left_out=left_out,
    )


def _require_numbers(batch_tokens: int, directions: int) -> None:
    for name, value in (("batch_tokens", batch_tokens), ("directions", directions)):
        if type(value) is not int or value < 1:
            raise ParameterError(wrong_parameter("carriers", name, "an integer of at least 1", value))


def _directions(count: int, vectors: Sequence[ArrayLike] | None) -> list[dict[str, Any]]:
    """Return what a drive needs to know of each direction."""
    if vectors is None:
        return [{"direction": number} for number in range(count)]
    given = [tuple(np.asarray(vector, dtype=np.float64).ravel().tolist()) for vector in vectors]
    if not given:
        raise ParameterError("There is no direction to drive in: the list of 'vectors' is empty.")
    return [{"direction": number, "vector": vector} for number, vector in enumerate(given)]


def _interventions(
    adapter: ModelAdapter,
    layer: int,
    names: Collection[str] | None,
    n_prompts: int,
    kernels: Kernels,
    twin: bool,
) -> tuple[list[Intervention], dict[str, str]]:
    """Return the interventions, the plain pass first, and why others that nobody named are left out."""
    facts = adapter.facts
    if isinstance(names, str):
        raise ParameterError(wrong_parameter("carriers", "interventions", "a list of names", names))
    for name in names or ():
        if name not in HELD:
            raise ParameterError(unknown("intervention", name, HELD))
    layers = range(layer, facts.n_layers)
    mlps = [at for at in layers if adapter.why_not("mlp_out", at) is None]
    made, left_out = [of_name(PLAIN, layers)], {}
    for name in HELD:
        if name == PLAIN or (names is not None and name not in names):
            continue
        each = of_name(name, layers, mlps)
        why: str | None = each.why_not(adapter)
        error: type[AdapterError | PromptError] = AdapterError
        if not each.places:
            why = f"{facts.model_name} has no MLP from layer {layer} on that could be held."
        own = kernels is None or (twin and isinstance(kernels, Result))
        if why is None and each.kernels and own and n_prompts < 2:
            error = PromptError
            why = (
                "Kernels are fitted on other prompts than those that they are put into, and there is one "
                "prompt; give more, or kernels."
            )
        if why is None:
            made.append(each)
        elif names is None:
            left_out[name] = why
        else:
            raise error(why)
    return made, left_out


def _ablated(
    adapter: ModelAdapter, layer: int, ablate: Sequence[Target], ablation: str
) -> Intervention | None:
    """Return the intervention in which places are ablated in both passes, if there are any."""
    if ablation not in ABLATIONS:
        raise ParameterError(unknown("ablation", ablation, ABLATIONS))
    if not ablate:
        return None
    operation = get_operation(ablation)
    places = places_of(list(ablate), adapter)
    for place in places:
        _require_reached(place, layer)
        if place.positions is not None:
            raise ParameterError(f"Target {place.at} names positions; carriers ablates all of them.")
        given = ("mean",) if ablation == "mean_ablate" else ()
        operation.require_at(place.site, given)
    return Intervention(ABLATED, tuple((place, operation) for place in places))


def _places(adapter: ModelAdapter, layer: int, heard: int, targets: Targets) -> list[Place]:
    """Return the places that are held one at a time: parts of layers, and heads."""
    facts = adapter.facts
    if targets == NONE:
        return []
    layers = range(layer, heard + 1)
    parts = [Place(site, at) for at in layers for site in PARTS if why_not_write(adapter, site, at) is None]
    if targets == LAYERS:
        return parts
    if isinstance(targets, str):
        if targets != HEADS:
            raise ParameterError(unknown("set of targets", targets, (HEADS, LAYERS, NONE)))
        for at in layers:
            why = why_not_write(adapter, "z", at)
            if why is not None:
                raise AdapterError(why)
        heads = [Place("z", at, head) for at in layers for head in range(facts.n_heads)]
        return [*parts, *heads]
    places = []
    for place in places_of(targets, adapter):
        _require_reached(place, layer)
        if place.head is None and place.site in PARTS:
            place = Place(place.site, place.layer)
        elif (
            place.head is not None
            and len(SITE_AXES[place.site]) == 4
            and place.site not in ("k", "v", "rot_k")
        ):
            place = Place("z", place.layer, place.head)
        else:
            raise ParameterError(
                f"carriers holds heads, or what attention or MLP of a layer write; target {place.at} is at "
                f"{place.site!r}."
            )
        if place.layer > heard:
            raise ParameterError(f"Target {place.at} is above layer {heard}, which is heard.")
        if place not in places:
            places.append(place)
    return places


def _require_reached(place: Place, layer: int) -> None:
    if place.layer < layer:
        raise ParameterError(
            f"Target {place.at} is below layer {layer}, where the drive enters: it hears nothing of it."
        )
