"""What `patch` was asked for, and whether it can be done: every refusal that needs no pass."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from resonance_lens.batches import tokenize
from resonance_lens.errors import ModelError, ParameterError, PromptError, unknown, wrong_parameter
from resonance_lens.facts import Facts
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.operations import Operation, get_operation
from resonance_lens.patching.places import Place
from resonance_lens.result import Result

CONTROLS = ("others", "placebo", "complement")
DIRECTIONS = {"denoise": "corrupted", "noise": "clean"}
"""Which prompt is run and patched, by direction."""

Operations: TypeAlias = str | Operation | Sequence[str | Operation]


def adapter_of(model: Any) -> ModelAdapter:
    """Return the adapter of a model, or raise `ModelError` if it is one that makes no passes."""
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("patch needs a model that can be run; an ActivationCache holds one pass.")
    return adapter


def require_settings(controls: Collection[str], batch_tokens: int, direction: str | None) -> None:
    """Raise `ParameterError` unless these are as they must be."""
    if isinstance(controls, str):
        raise ParameterError(wrong_parameter("patch", "controls", f"names out of {CONTROLS}", controls))
    for control in controls:
        if control not in CONTROLS:
            raise ParameterError(unknown("control", str(control), CONTROLS))
    if type(batch_tokens) is not int or batch_tokens < 1:
        raise ParameterError(
            wrong_parameter("patch", "batch_tokens", "an integer of at least 1", batch_tokens)
        )
    if direction is not None and direction not in DIRECTIONS:
        raise ParameterError(wrong_parameter("patch", "direction", "'denoise', 'noise' or None", direction))


def require_pairs(pairs: object, adapter: ModelAdapter) -> None:
    """Raise unless these are pairs that the model can be given.

    Raises
    ------
    ParameterError
        If it is not `PromptPairs`.
    PromptError
        If a token is outside the vocabulary, or a prompt longer than the context.
    """
    if not isinstance(pairs, PromptPairs):
        raise ParameterError(wrong_parameter("patch", "pairs", "PromptPairs or the name of a task", pairs))
    for side in ("clean", "corrupted"):
        tokenize(pairs.prompts(side), adapter.facts, adapter.tokenizer, None)
    for name, answers in (("right", pairs.right), ("wrong", pairs.wrong)):
        outside = np.flatnonzero(answers >= adapter.facts.d_vocab)
        if len(outside):
            raise PromptError(
                f"The {name} answer of pair {pairs.ids[outside[0]]!r} is token {answers[outside[0]]}, and "
                f"{adapter.facts.model_name} has ids up to {adapter.facts.d_vocab - 1}."
            )


def operations_of(asked: Operations) -> list[Operation]:
    """Return the operations that were asked for.

    Raises
    ------
    ParameterError
        If there is none, one is unknown, or two are the same.
    """
    given = [asked] if isinstance(asked, str | Operation) else list(asked)
    for each in given:
        if not isinstance(each, str | Operation):
            raise ParameterError(
                wrong_parameter("patch", "operation", "a name, an Operation or a list of these", each)
            )
    operations = [get_operation(each) if isinstance(each, str) else each for each in given]
    labels = [each.label for each in operations]
    if not labels:
        raise ParameterError("There is no operation to make: the list is empty.")
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise ParameterError(f"The operation {label!r} is given twice; leave one of them out.")
    return operations


def require_operations(
    operations: Sequence[Operation], facts: Facts, allow_look_ahead: bool, kernels: bool
) -> None:
    """Raise `ParameterError` unless the operations may be made, and what they want is there."""
    for each in operations:
        if each.looks_ahead and facts.causal and not allow_look_ahead:
            raise ParameterError(
                f"{each.label} lets {facts.model_name}, which is causal, see later tokens; choose an "
                "operation that does not look ahead, or set allow_look_ahead=True (the result says so)."
            )
        if "kernel" in each.wants and not kernels:
            raise ParameterError(
                f"{each.label} needs the kernels of the heads: give kernels=run['attention_filter'], "
                "measured on other prompts."
            )


def base_of(operations: Sequence[Operation], direction: str | None) -> str:
    """Return which side of the pairs is run and patched.

    Raises
    ------
    ParameterError
        If operations with and without a donor are mixed and nothing says which.
    """
    if direction is not None:
        return DIRECTIONS[direction]
    donors = {each.donor for each in operations}
    if len(donors) > 1:
        raise ParameterError(
            "Operations that take values from the other prompt denoise, and all others are done to the clean "
            "prompt; to make both in one call set direction='noise' (all on the clean prompt) or 'denoise'."
        )
    return DIRECTIONS["denoise" if donors == {True} else "noise"]


def require_places(places: Sequence[Place], operations: Sequence[Operation], pairs: PromptPairs) -> None:
    """Raise `ParameterError` unless every operation can be made at every place of every pair."""
    for operation in operations:
        for place in places:
            if place.site not in operation.sites:
                raise ParameterError(
                    f"{operation.name} is done to {', '.join(operation.sites)}, and target {place.at} is at "
                    f"{place.site!r}; name another operation, or targets at one of these sites."
                )
    lengths = [len(row) for row in pairs.clean]
    shortest = int(np.argmin(lengths))
    for place in places:
        for position in place.positions or ():
            if not -lengths[shortest] <= position < lengths[shortest]:
                raise ParameterError(
                    f"Target {place.at} names position {position}, and the prompts of pair "
                    f"{pairs.ids[shortest]!r} have {lengths[shortest]} tokens."
                )


def kernels_of(result: Result, facts: Facts) -> Tensor:
    """Return the kernels in a result of ``attention_filter``: ``[layer, head, lag]``.

    Raises
    ------
    ParameterError
        If it has none, or those of another model.
    """
    if not isinstance(result, Result) or "kernel" not in result.data:
        raise ParameterError(
            wrong_parameter(
                "patch", "kernels", "a result of attention_filter", getattr(result, "name", result)
            )
        )
    kernel = result.data["kernel"].transpose("layer", "head", "lag")
    if kernel.shape[:2] != (facts.n_layers, facts.n_heads):
        raise ParameterError(
            f"The kernels are of {kernel.sizes['layer']} layers with {kernel.sizes['head']} heads, and "
            f"{facts.model_name} has {facts.n_layers} with {facts.n_heads}; measure them on this model."
        )
    return torch.as_tensor(kernel.values)


def digest_of(result: Result) -> str:
    """Return the SHA-256 of the kernels in a result."""
    return hashlib.sha256(np.ascontiguousarray(result.data["kernel"].values).tobytes()).hexdigest()
