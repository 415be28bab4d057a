"""Writing to a site: an edit of values in the common form becomes a hook of the host.

The common form is that of `resonance_lens.hooks.adapter`, real tokens first, with one difference: grouped
keys and values stay grouped, so that their heads are the key-value heads. What an edit returns goes back to
where the host has it: padding on the left, heads in one axis, half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resonance_lens.errors import AdapterError, RecordError
from resonance_lens.facts import SITE_AXES, Batch, Facts
from resonance_lens.hooks.adapter import GROUPED_SITES, SQUARE_SITES, Adapter, Hook, ModelAdapter

Change = Callable[[Tensor], Tensor]
"""A function of the values of a site in the common form, which it leaves as they are."""


def heads_at(site: str, facts: Facts) -> int | None:
    """Return how many heads a site has, key-value heads where these are grouped; ``None`` if it has none."""
    if "head" not in SITE_AXES[site]:
        return None
    return facts.n_kv_heads if site in GROUPED_SITES else facts.n_heads


def why_not_write(adapter: Adapter, site: str, layer: int) -> str | None:
    """Return why a site cannot be written at a layer, or ``None`` if it can."""
    facts = adapter.facts
    if not isinstance(adapter, ModelAdapter):
        return (
            f"Nothing can be patched in {facts.model_name} ({facts.host}): it makes no passes; give a model."
        )
    if site == "logits":
        return "Nothing comes after 'logits'; patch 'resid_post' of the last layer instead."
    why = adapter.why_not(site, layer)
    if why is not None:
        return why
    if len(adapter.sources(site, layer, adapter.firing)) > 1:
        return (
            f"{facts.model_name} ({facts.host}) cannot be patched at {site!r} of layer {layer}: its "
            "attention turns them where no hook can change them; patch "
            f"{site.removeprefix('rot_')!r} instead."
        )
    return None


def write(adapter: ModelAdapter, site: str, layer: int, batch: Batch, change: Change) -> list[Hook]:
    """Return hooks that put ``change`` of the values of a site in their place.

    Parameters
    ----------
    adapter
        Of the model.
    site, layer
        Where.
    batch
        The prompts of the pass that the hooks are for; they serve one pass after another.
    change
        Given the values in the common form, returns what is to be there, of the same shape. What it returns
        for padding, and for scores above a causal diagonal, is not used.

    Raises
    ------
    AdapterError
        When the hooks are called, if what ``change`` returns has another shape.
    """
    bypass: list[Tensor] = []

    def hook(values: Tensor, hook: Any) -> Tensor:
        before = adapter.common(site, layer, values, batch)
        after = change(before)
        if after.shape != before.shape:
            raise AdapterError(
                f"What is written to {site!r} of layer {layer} must have the shape {tuple(before.shape)} of "
                f"what is there; got {tuple(after.shape)}."
            )
        written = _as_host(site, after, values, batch, adapter.facts.causal)
        if site in adapter.bypassed:
            bypass[:] = [written - values]
        return written

    hooks: list[Hook] = [(adapter.hook_name(site, layer), hook)]
    if site in adapter.bypassed:
        hooks.append((adapter.hook_name("resid_post", layer), lambda values, hook: values + bypass.pop()))
    return hooks


def write_anywhere(
    adapter: ModelAdapter,
    site: str,
    layer: int,
    change: Callable[[Tensor, Batch], Tensor],
    *,
    lengths: Tensor | None = None,
    padding_side: str = "right",
) -> list[Hook]:
    """Return hooks as of `write` for passes that the user makes, whatever their prompts are.

    Parameters
    ----------
    adapter, site, layer
        As of `write`.
    change
        Given the values in the common form and a batch of their shape, whose tokens mean nothing.
    lengths
        Real tokens of each prompt; all of the width of the pass if not said.
    padding_side
        Where shorter ones are padded.

    Raises
    ------
    RecordError
        When the hooks are called, if the lengths do not fit the pass.
    """

    def hooks_for(batch: Batch) -> list[Hook]:
        return write(adapter, site, layer, batch, lambda values: change(values, batch))

    blank = Batch(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long), (0,))
    names = [name for name, _ in hooks_for(blank)]
    made: list[Callable[..., Any]] = []

    def first(values: Tensor, hook: Any) -> Any:
        batch = _batch_of(values, site, lengths, padding_side)
        made[:] = [function for _, function in hooks_for(batch)]
        return made[0](values, hook)

    def later(index: int) -> Callable[..., Any]:
        return lambda values, hook: made[index](values, hook)

    return [(names[0], first), *((name, later(at)) for at, name in enumerate(names[1:], start=1))]


def _batch_of(values: Tensor, site: str, lengths: Tensor | None, padding_side: str) -> Batch:
    """Return a batch of the shape of a pass; nobody looks at its tokens."""
    n_rows, width = values.shape[0], values.shape[-1 if site in SQUARE_SITES else 1]
    counts = torch.full((n_rows,), width) if lengths is None else lengths
    if tuple(counts.shape) != (n_rows,) or int(counts.max()) > width or int(counts.min()) < 1:
        raise RecordError(
            f"A pass over {n_rows} prompts of {width} tokens needs as many lengths, from 1 to {width}; "
            f"got {counts.tolist()}."
        )
    return Batch(torch.zeros(n_rows, width, dtype=torch.long), counts, tuple(range(n_rows)), padding_side)


def read(
    adapter: ModelAdapter, site: str, layer: int, batch: Batch, receive: Callable[[Tensor], None]
) -> Hook:
    """Return a hook that hands on the values of a site in the form in which `write` gives them."""

    def hook(values: Tensor, hook: Any) -> None:
        receive(adapter.common(site, layer, values.detach(), batch))

    return adapter.hook_name(site, layer), hook


def _as_host(site: str, after: Tensor, values: Tensor, batch: Batch, causal: bool) -> Tensor:
    """Return values of the common form as the host has them, in place of ``values``."""
    square = site in SQUARE_SITES
    lengths = batch.lengths.to(values.device)
    width = values.shape[-1 if square else 1]
    left = batch.padded and batch.padding_side == "left"
    if left:
        for dim in (2, 3) if square else (1,):
            after = _to_back(after, lengths, dim)
    after = after.reshape(values.shape).to(values.dtype)
    steps = torch.arange(width, device=values.device)
    keep: Tensor | None = None
    if batch.padded:
        real = steps >= width - lengths[:, None] if left else steps < lengths[:, None]  # [batch, token]
        if square:
            keep = real[:, None, :, None] & real[:, None, None, :]
        else:
            keep = real.reshape(*real.shape, *[1] * (values.ndim - 2))
    if site == "scores" and causal:  # hosts mask with numbers of their own
        seen = steps[:, None] >= steps  # [query, key]
        keep = seen if keep is None else keep & seen
    return after if keep is None else torch.where(keep, after, values)


def _to_back(values: Tensor, lengths: Tensor, dim: int) -> Tensor:
    """Move each row's first ``lengths`` entries along ``dim`` to its end."""
    width = values.shape[dim]
    index = torch.arange(width, device=values.device) - (width - lengths[:, None])  # [batch, width]
    shape = [1] * values.ndim
    shape[0], shape[dim] = values.shape[0], width
    return values.gather(dim, index.clamp(min=0).reshape(shape).expand_as(values))
