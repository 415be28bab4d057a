"""An adapter proves itself on the model that it is attached to.

Four things: each site has the shape that the facts say; attention rows sum to one and hold nothing
above a causal diagonal; reading leaves the logits as they are, bit for bit; and overwriting changes
them, so that a hook really is upstream of the output. (Queries and keys that an adapter rotates
itself are no hook of the host's; they must give the attention scores.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resonance_lens.errors import AdapterError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.hooks.adapter import Adapter, ModelAdapter
from resonance_lens.signal import Signal

N_TOKENS = 6
TOLERANCE = {"float16": 5e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Proof:
    """What was found at one site.

    Attributes
    ----------
    site
        Its name.
    layers
        Layers that serve it.
    problem
        What is wrong, as a sentence, or ``None``.
    missing
        Why no layer serves it, or ``None``; a missing site is not a problem.
    """

    site: str
    layers: tuple[int, ...]
    problem: str | None = None
    missing: str | None = None


def prove(adapter: Adapter, sites: Collection[str] | None = None) -> list[Proof]:
    """Return what holds at each of ``sites`` (all, if none are named).

    Parameters
    ----------
    adapter
        Attached to a model that can be run; what only a `ModelAdapter` can do, overwriting, is
        checked of those only.
    sites
        Names of sites.
    """
    facts = adapter.facts
    n_tokens = min(N_TOKENS, facts.n_ctx)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(facts.d_vocab, (1, n_tokens), generator=generator)
    batch = Batch(tokens, torch.tensor([n_tokens]), (0,))
    plain = adapter.logits(batch) if isinstance(adapter, ModelAdapter) else None
    proofs = []
    for site in SITE_AXES if sites is None else sites:
        try:
            layers = adapter.layers([site])
        except AdapterError as error:
            proofs.append(Proof(site, (), missing=str(error)))
            continue
        problem = _read(adapter, site, layers, batch, plain)
        if problem is None and plain is not None and site != "logits":
            assert isinstance(adapter, ModelAdapter)
            problem = _overwrite(adapter, site, layers, batch, plain)
        proofs.append(Proof(site, layers, problem=problem))
    return proofs


def require(adapter: Adapter, sites: Collection[str]) -> None:
    """Raise `AdapterError` unless every one of ``sites`` proves itself.

    What cannot be run, a cache, has nothing to prove but that it holds them.

    Raises
    ------
    AdapterError
        With the first problem found.
    """
    if not adapter.runs:
        adapter.layers(sites)
        return
    for proof in prove(adapter, sites):
        if proof.problem or proof.missing:
            raise AdapterError(
                f"{adapter.facts.model_name}: {proof.problem or proof.missing} "
                "Run resonance-lens check-model to see every site."
            )


def _read(
    adapter: Adapter, site: str, layers: tuple[int, ...], batch: Batch, plain: Tensor | None
) -> str | None:
    """Return what is wrong with what is read at a site, or with what reading does to the logits."""
    problems: list[str] = []

    def look(signal: Signal) -> None:
        found = _look(signal, adapter) if signal.site == site else None
        if found is not None:
            problems.append(found)
        # The host adds up the outputs of single heads in another order than it otherwise would.
        if signal.site == "logits" and plain is not None and site != "head_out":
            # Not-a-number equals itself here: it is the site that holds it first that has a problem.
            if not torch.equal(signal.values.nan_to_num(), plain.to(signal.values.dtype).nan_to_num()):
                problems.append(f"Reading {site!r} changes the logits.")

    wanted = {layer: [site] for layer in layers}
    if plain is not None and site != "logits":
        wanted.setdefault(adapter.facts.n_layers - 1, []).append("logits")
    adapter.run(batch, wanted, look)
    return problems[0] if problems else None


def _look(signal: Signal, adapter: Adapter) -> str | None:
    """Return what is wrong with a signal, or ``None``."""
    facts, site = adapter.facts, signal.site
    sizes = {
        "batch": 1,
        "head": facts.n_heads,
        "d_head": facts.d_head,
        "d_model": facts.d_model,
        "vocab": facts.d_vocab,
    }
    for axis, size in zip(signal.axes, signal.values.shape, strict=True):
        if size != sizes.get(axis, size):
            return (
                f"Site {site!r} of layer {signal.layer} has {size} entries along {axis!r}; the model's "
                f"facts say {sizes[axis]}."
            )
    values = (
        signal.values.masked_fill(signal.values == float("-inf"), 0) if site == "scores" else signal.values
    )
    if not bool(torch.isfinite(values).all()):
        what = "not-a-number" if bool(values.isnan().any()) else "infinite"
        return f"The activations of {site!r} at layer {signal.layer} hold {what} values."
    if site != "pattern":
        return None
    tolerance = TOLERANCE.get(facts.dtype, 1e-4)
    worst = float((signal.values.sum(-1) - 1).abs().max())
    if not worst < tolerance:
        return f"Attention rows of layer {signal.layer} sum to 1 only within {worst:.2g}."
    if facts.causal and bool(signal.values.triu(1).any()):
        return f"Layer {signal.layer} attends to the future although the model is called causal."
    return None


def _overwrite(
    adapter: ModelAdapter, site: str, layers: tuple[int, ...], batch: Batch, plain: Tensor
) -> str | None:
    """Return a complaint unless overwriting a site changes the logits."""

    def zeros(values: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(values)

    # Later layers first: most models show it there, and one that is met with is enough.
    for layer in reversed(layers):
        sources = adapter.sources(site, layer, adapter.firing)
        if len(sources) > 1:
            return _check_rotation(adapter, layers, batch)
        if not torch.equal(adapter.logits(batch, [(sources[0], zeros)]), plain):
            return None
    return (
        f"Overwriting {site!r} at any layer leaves the logits as they are, so its hook is not "
        "upstream of the output."
    )


def _check_rotation(adapter: ModelAdapter, layers: tuple[int, ...], batch: Batch) -> str | None:
    """Return a complaint unless rotated queries and keys, derived from unrotated ones, give the scores."""
    found: dict[tuple[str, int], Tensor] = {}

    def keep(signal: Signal) -> None:
        assert signal.layer is not None
        found[signal.site, signal.layer] = signal.values.double()

    adapter.run(batch, {layer: ["rot_q", "rot_k", "scores"] for layer in layers}, keep)
    for layer in layers:
        scores = found["scores", layer]
        products = torch.einsum("bqhd,bkhd->bhqk", found["rot_q", layer], found["rot_k", layer])
        seen = scores.isfinite()
        scores, products = scores[seen], products[seen]
        scale = (products @ scores) / (products @ products)  # one over the root of d_head, mostly
        worst = float((scale * products - scores).abs().max() / scores.abs().max())
        if not worst < TOLERANCE.get(adapter.facts.dtype, 1e-4):
            return (
                f"Rotated queries and keys of layer {layer} give its attention scores only within "
                f"{worst:.2g}."
            )
    return None
