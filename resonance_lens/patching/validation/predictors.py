"""What is known of every head and layer without any analysis: how sharp it looks, and how much it writes.

A number of an analysis that predicts effects is of interest only beyond these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from resonance_lens.batches import make_batches, tokenize
from resonance_lens.dsp import attention
from resonance_lens.errors import ModelError, ParameterError, wrong_parameter
from resonance_lens.facts import Facts
from resonance_lens.hooks import attach
from resonance_lens.patching.places import HEADS, LAYERS
from resonance_lens.prompts import read_prompts, token_digests
from resonance_lens.signal import Signal

MIN_KEYS = 8
"""Queries that see fewer keys are left out of the entropy, as in `attention_entropy`."""

SITES: dict[str, tuple[str, ...]] = {HEADS: ("head_out",), LAYERS: ("attn_out", "mlp_out")}
"""Where it is measured how much is written."""

WORDS = {
    "attention_entropy": ("attention entropy", "nat"),
    "output_norm": ("norm of what is written", "1"),
}


def measure_predictors(
    model: Any,
    prompts: Any,
    of: Literal["heads", "layers"] = "heads",
    *,
    batch_tokens: int = 2048,
) -> xr.Dataset:
    """Return attention entropy and output norm of every head, or of every layer.

    Parameters
    ----------
    model
        A TransformerBridge or HookedTransformer.
    prompts
        As for `resonance_lens.run`; others than those that effects are measured on.
    of
        ``heads`` or ``layers``.
    batch_tokens
        Tokens of one pass, padding included.

    Returns
    -------
    Dataset
        ``attention_entropy``: mean over the queries that see at least eight keys, and over prompts, in nat.
        ``output_norm``: mean Euclidean norm of what is written into the residual stream, over the tokens but
        the first, whose norm is often of another kind. Over ``layer`` and ``head``; or over ``site``
        (``attn_out``, ``mlp_out``) and ``layer``, the entropy being the mean of the heads and not-a-number
        at ``mlp_out``. The attribute ``rows`` has the digests of the prompts.

    Raises
    ------
    ResonanceLensError
        If the model serves no attention pattern or no output of its heads, or a prompt cannot be used.
    """
    if of not in SITES:
        raise ParameterError(wrong_parameter("measure_predictors", "of", "'heads' or 'layers'", of))
    adapter = attach(model)
    if not adapter.runs:
        raise ModelError("measure_predictors needs a model that can be run, not a cache of one pass.")
    facts = adapter.facts
    tokenized = tokenize(read_prompts(prompts), facts, adapter.tokenizer, None)
    sites = ("pattern", *SITES[of])
    layers = adapter.layers(sites)
    found: dict[tuple[str, int], list[torch.Tensor]] = {}

    def receive(signal: Signal) -> None:
        assert signal.layer is not None
        measured = _entropy(signal, facts) if signal.site == "pattern" else _norm(signal)
        found.setdefault((signal.site, signal.layer), []).append(measured)

    for batch in make_batches(tokenized, batch_tokens):
        adapter.run(batch, dict.fromkeys(layers, sites), receive)

    def mean(site: str, layer: int) -> np.ndarray[Any, Any]:
        return np.asarray(torch.cat(found[site, layer]).nanmean(0).double().cpu())

    entropy = np.stack([mean("pattern", layer) for layer in layers])  # [layer, head]
    norms = [np.stack([mean(site, layer) for layer in layers]) for site in SITES[of]]
    if of == HEADS:
        return _dataset(("layer", "head"), entropy, norms[0], layers, tokenized)
    nothing = np.full(len(layers), np.nan)
    by_site = _dataset(
        ("site", "layer"), np.stack([entropy.mean(1), nothing]), np.stack(norms), layers, tokenized
    )
    named: xr.Dataset = by_site.assign_coords(site=list(SITES[LAYERS]))
    return named


def _entropy(pattern: Signal, facts: Facts) -> torch.Tensor:
    """Return the mean entropy ``[prompt, head]`` of the queries that see enough keys."""
    assert pattern.layer is not None
    seen = attention.window(pattern, causal=facts.causal, sliding=facts.sliding_windows[pattern.layer])
    real = torch.arange(pattern.size("query"), device=seen.size.device) < pattern.prompt_lengths().to(
        seen.size.device
    ).unsqueeze(1)
    counts = (real & (seen.size >= MIN_KEYS))[:, None]
    return attention.mean_over_queries(attention.row_entropy(pattern, seen), counts)


def _norm(signal: Signal) -> torch.Tensor:
    """Return the mean norm ``[prompt]`` or ``[prompt, head]`` of the tokens but the first."""
    norms = signal.values.double().norm(dim=-1)  # [prompt, token] or [prompt, token, head]
    lengths = signal.prompt_lengths().to(norms.device)
    counted = (torch.arange(norms.shape[1], device=norms.device) < lengths[:, None]).double()
    counted[:, 0] = 0.0
    if norms.ndim == 2:
        by_layer: torch.Tensor = (norms * counted).sum(1) / counted.sum(1)
        return by_layer
    by_head: torch.Tensor = torch.einsum("pth,pt->ph", norms, counted) / counted.sum(1, keepdim=True)
    return by_head


def _dataset(
    dims: tuple[str, str], entropy: Any, norm: Any, layers: Sequence[int], tokenized: Sequence[Any]
) -> xr.Dataset:
    made = {
        name: (dims, values, {"long_name": WORDS[name][0], "units": WORDS[name][1]})
        for name, values in (("attention_entropy", entropy), ("output_norm", norm))
    }
    coords: dict[str, Any] = {"layer": list(layers)}
    if "head" in dims:
        coords["head"] = np.arange(entropy.shape[1])
    return xr.Dataset(made, coords, {"rows": token_digests(one.tokens for one in tokenized)})
