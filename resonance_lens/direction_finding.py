"""Directions of a model to drive in: principal ones, differences of tokens, what a head writes.

Weights are as the host has them, and the scale of the final norm is not put into the unembedding here: where
a host has folded it in (`weight_processing` of the facts says so) it is in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resonance_lens.batches import make_batches, tokenize
from resonance_lens.directions import Directions
from resonance_lens.errors import AdapterError, ParameterError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks import attach
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.prompts import read_prompts
from resonance_lens.signal import Signal

BATCH_TOKENS = 2048


def principal_directions(
    model: Any, prompts: Any, *, layer: int, k: int = 5, site: str = "resid_pre"
) -> Directions:
    """Return the directions in which the tokens of some prompts differ most at a place.

    Parameters
    ----------
    model
        A TransformerBridge or a HookedTransformer.
    prompts
        As for `resonance_lens.run`.
    layer, site
        Where: a site of the residual stream, or of what is written to it.
    k
        How many, from the largest variance down.

    Returns
    -------
    Directions
        Eigenvectors of the covariance over tokens, the first token of each prompt left out: it is far longer
        than all others and would be the first of them. A sign means nothing.

    Raises
    ------
    AdapterError
        If the host does not serve the place.
    ParameterError
        If there are not so many.
    """
    adapter = _adapter(model)
    facts = adapter.facts
    if SITE_AXES.get(site) != ("batch", "token", "d_model"):
        raise AdapterError(
            f"Directions are of the residual stream or of what is written to it, not of {site!r}."
        )
    _require_layer(adapter, layer)
    if layer not in adapter.layers([site]):
        raise AdapterError(str(adapter.why_not(site, layer)))
    if not 1 <= k <= facts.d_model:
        raise ParameterError(f"There are {facts.d_model} principal directions, and 'k' is {k}.")
    count, total = 0, torch.zeros(facts.d_model, dtype=torch.float64)
    products = torch.zeros(facts.d_model, facts.d_model, dtype=torch.float64)

    def receive(signal: Signal) -> None:
        nonlocal count
        for row, length in zip(signal.values, signal.prompt_lengths().tolist(), strict=True):
            tokens = row[1:length].double().cpu()
            count += len(tokens)
            total.add_(tokens.sum(0))
            products.add_(tokens.T @ tokens)

    tokenized = tokenize(read_prompts(prompts), facts, adapter.tokenizer, None)
    for batch in make_batches(tokenized, BATCH_TOKENS):
        adapter.run(batch, {layer: [site]}, receive)
    if count <= k:
        raise ParameterError(f"{k} principal directions need more tokens than {count}.")
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    names = [f"principal {index} of {site} {layer}" for index in range(k)]
    return Directions.of(vectors.flip(-1)[:, :k].T, names)


def unembedding_direction(model: Any, token_a: int | str, token_b: int | str) -> Directions:
    """Return the direction that raises the logit of one token over that of another.

    Parameters
    ----------
    model
        A TransformerBridge or a HookedTransformer.
    token_a, token_b
        Ids, or texts that are one token each.

    Returns
    -------
    Directions
        The difference of their columns of W_U, to unit length. The scale of the final norm is in it only
        where the host has folded it in.

    Raises
    ------
    ParameterError
        If a text is not one token, or the two are the same.
    """
    adapter = _adapter(model)
    a, b = (_token(adapter, token) for token in (token_a, token_b))
    if a == b:
        raise ParameterError(
            f"Between {token_a!r} and {token_b!r} there is no direction: they are one token."
        )
    weights = adapter.model.W_U.detach()  # [d_model, vocab]
    return Directions.of(
        weights[:, a].double() - weights[:, b].double(), [f"logit {token_a!r} - {token_b!r}"]
    )


def head_directions(model: Any, *, layer: int, head: int, k: int = 1) -> Directions:
    """Return the directions that a head writes most in: leading right singular vectors of its W_O.

    Parameters
    ----------
    model
        A TransformerBridge or a HookedTransformer.
    layer, head
        Which head.
    k
        How many, from the largest singular value down. A sign means nothing.

    Raises
    ------
    ParameterError
        If there is no such head, or it has not so many.
    """
    adapter = _adapter(model)
    facts = adapter.facts
    _require_layer(adapter, layer)
    if not 0 <= head < facts.n_heads:
        raise ParameterError(f"{facts.model_name} has heads 0 to {facts.n_heads - 1}, and no head {head}.")
    if not 1 <= k <= facts.d_head:
        raise ParameterError(f"A head of {facts.model_name} writes in {facts.d_head} directions; 'k' is {k}.")
    weights: Tensor = adapter.model.blocks[layer].attn.W_O.detach()[head].double()  # [d_head, d_model]
    _, _, rows = np.linalg.svd(weights.cpu().numpy(), full_matrices=False)
    return Directions.of(rows[:k], [f"L{layer}H{head} output {index}" for index in range(k)])


def _adapter(model: Any) -> ModelAdapter:
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise AdapterError(
            f"Directions are found in a model, and {adapter.facts.model_name} ({adapter.facts.host}) is none."
        )
    return adapter


def _require_layer(adapter: ModelAdapter, layer: int) -> None:
    facts = adapter.facts
    if not 0 <= layer < facts.n_layers:
        raise ParameterError(
            f"{facts.model_name} has layers 0 to {facts.n_layers - 1}, and no layer {layer}."
        )


def _token(adapter: ModelAdapter, token: int | str) -> int:
    facts = adapter.facts
    if isinstance(token, str):
        if adapter.tokenizer is None:
            raise AdapterError(f"{facts.model_name} has no tokenizer; give ids in place of {token!r}.")
        ids = adapter.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ParameterError(f"The text {token!r} is {len(ids)} tokens, and a direction is of one.")
        return int(ids[0])
    if not 0 <= token < facts.d_vocab:
        raise ParameterError(f"{facts.model_name} has tokens 0 to {facts.d_vocab - 1}, and no token {token}.")
    return token
