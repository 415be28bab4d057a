"""Gradients at sites: how a score of the logits would change with what is found there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import Hook, ModelAdapter

Place = tuple[str, int]
"""A site and a layer."""

Score = Callable[[Tensor], Tensor]
"""A function of logits ``[batch, token, d_vocab]`` to one number for each row, ``[batch]``."""

ENTRY = "hook_embed"
"""Hook point of the token embeddings, which everything else follows from."""


def with_gradients(
    adapter: ModelAdapter,
    batch: Batch,
    places: Collection[Place],
    score: Score,
    *,
    embeddings: Tensor | None = None,
) -> dict[Place, tuple[Tensor, Tensor]]:
    """Return what is found at places, and the gradient of each row's score there.

    One pass forwards and one backwards serve all places and rows: rows do not see each other, so the gradient
    of the sum of the scores at a row is that of its own score. Nothing is left behind: no gradient of a
    parameter, no hook, and the modes of the model and of autograd are as they were.

    Parameters
    ----------
    adapter
        Of the model.
    batch
        Prompts of one length.
    places
        Where. Each must be a site that the host lets write (`resonance_lens.hooks.writing.why_not_write`):
        what does not reach the logits has no gradient.
    score
        Of the logits, differentiable.
    embeddings
        What the pass begins with in place of the embeddings of the tokens, ``[batch, token, d_model]``.

    Returns
    -------
    dict
        Values and gradients of each place, in the form of `resonance_lens.hooks.writing`.

    Raises
    ------
    AdapterError
        If the model gives no gradients.

    Notes
    -----
    On a bridge TransformerLens (3.9 and later) takes them: ``cache_activation_and_gradient``. Where
    it cannot, a zero is added to what is found at each place, and the gradient is that at the zero.
    """
    if batch.padded:
        raise AdapterError("Gradients are taken over prompts of one length; make one batch of each length.")
    if any(weights.is_inference() for weights in adapter.model.parameters()):
        raise _none(adapter, "its weights were made in inference mode")
    names = {adapter.hook_name(site, layer): (site, layer) for site, layer in places}

    def total(logits: Tensor) -> Tensor:
        scores = score(logits)
        if not scores.requires_grad:
            raise _none(adapter, "the score of its logits does not depend on what is inside it")
        return scores.sum()

    # TransformerLens's needs embeddings that have a gradient themselves.
    tool = _tool(adapter) if embeddings is None else None
    begin: list[Hook] = [] if embeddings is None else [(ENTRY, lambda values, hook: embeddings.to(values))]
    take = _at_zeros if tool is None else partial(_by_transformer_lens, tool)
    with torch.inference_mode(False), adapter.model.hooks(fwd_hooks=begin):
        batch = replace(batch, tokens=batch.tokens.clone())  # which may have been made in inference mode
        found = take(adapter, batch, tuple(names), total)
    done = {}
    for name, (values, gradient) in found.items():
        if gradient is None:
            raise _none(adapter, f"what is found at {name} does not reach the logits")
        site, layer = names[name]
        values, gradient = (adapter.common(site, layer, each, batch) for each in (values, gradient))
        if site == "scores":  # above a causal diagonal the common form has minus infinity
            gradient = gradient.masked_fill(values == float("-inf"), 0.0)
        done[site, layer] = values, gradient
    return done


def embeddings_of(adapter: ModelAdapter, batch: Batch) -> Tensor:
    """Return the embeddings of the tokens of a batch, ``[batch, token, d_model]``, as the host has them."""
    found: list[Tensor] = []

    def keep(values: Tensor, hook: Any) -> None:
        found.append(values.detach().clone())

    adapter.look(batch, [(ENTRY, keep)])
    return found[0]


Found = dict[str, tuple[Tensor, Tensor | None]]


def _by_transformer_lens(
    tool: Callable[..., Any], adapter: ModelAdapter, batch: Batch, names: Collection[str], total: Score
) -> Found:
    def nothing(values: Tensor, hook: Any) -> None:
        """Have the host compute what is found here, if it would not."""

    hooks: list[Hook] = [(name, nothing) for name in names]
    with adapter.prepared(hooks), torch.enable_grad():
        # Its hook at the place furthest up is not called, so that is one whose gradient is not needed.
        cache = tool(adapter.model, batch.tokens.to(adapter.device), total, names_filter=[ENTRY, *names])
    return {name: (cache.activations[name], cache.gradients.get(name)) for name in names}


def _at_zeros(adapter: ModelAdapter, batch: Batch, names: Collection[str], total: Score) -> Found:
    values: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}

    def add_zero(here: Tensor, hook: Any, name: str) -> Tensor:
        values[name] = here.detach()
        zeros[name] = torch.zeros_like(values[name], requires_grad=True)
        return here + zeros[name]

    with adapter.prepared([(name, partial(add_zero, name=name)) for name in names]), torch.enable_grad():
        logits = adapter.forward(batch.tokens.to(adapter.device), {}, unembed=True)
        gradients = torch.autograd.grad(total(logits), [zeros[name] for name in names], allow_unused=True)
    return {name: (values[name], gradient) for name, gradient in zip(names, gradients, strict=True)}


def _tool(adapter: ModelAdapter) -> Callable[..., Any] | None:
    """Return TransformerLens's function that takes gradients, if there is one for this model.

    It is made for a bridge, and for weights that gradients are taken of: it starts at the embeddings.
    """
    frozen = not all(weights.requires_grad for weights in adapter.model.parameters())
    if frozen or adapter.facts.host != "transformer_bridge":
        return None
    try:
        from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient
    except ImportError:  # before 3.9
        return None
    found: Callable[..., Any] = cache_activation_and_gradient
    return found


def _none(adapter: ModelAdapter, why: str) -> AdapterError:
    facts = adapter.facts
    return AdapterError(
        f"{facts.model_name} ({facts.host}) gives no gradients: {why}; patch exactly, without attribution."
    )
