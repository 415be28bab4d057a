"""One batch, driven: what comes back is the difference from the same prompts undriven, layer by layer.

The undriven pass is made once for a batch, and each group of drives resumes from it at the layer that it
enters: what is before a drive cannot have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from resonance_lens.batches import front_tokens
from resonance_lens.contract import Analysis, Where
from resonance_lens.design import Condition, Drive
from resonance_lens.errors import AdapterError, ParameterError, PromptError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.features import Features
from resonance_lens.hooks.adapter import Adapter, ModelAdapter
from resonance_lens.observing import joined_by, observe_batch, observed_by, require_finite, where_of
from resonance_lens.signal import Signal
from resonance_lens.tasks import Task

Group = tuple[Drive, ...]
Undriven = dict[tuple[str, int], Tensor]
"""Values in the common form by site and layer."""

MOST_ROUNDING = 0.01
"""Share of a response that rounding may be before it is refused: see `require_audible`."""


def observe_under(
    condition: Condition,
    adapter: Adapter,
    batch: Batch,
    analyses: Sequence[Analysis],
    layers: Mapping[str, tuple[int, ...]],
    *,
    groups: Sequence[int],
    seed: int,
    shortest: int,
    budget: int,
    task: Task | None = None,
) -> dict[str, Features]:
    """Run one batch under a condition, and return the joined features of each analysis.

    Without drives this is `resonance_lens.observing.observe_batch`. With them the batch is run undriven and
    driven, and what analyses see are the differences.

    Parameters
    ----------
    condition
        How: whether there are drives, and which.
    adapter, batch, analyses, layers, groups, seed, shortest, task
        As in `resonance_lens.observing.observe_batch`.
    budget
        Tokens of one pass, padding included: the drives of a group are run together, and as many prompts
        beside them as fit.

    Returns
    -------
    dict
        Features by analysis. Before layers are joined, rows are ``[prompt, group, ...]``, sums ``[group,
        ...]`` and blocks ``[N_BLOCKS, group, ...]``. Below the layer of its drives a group has no response:
        its features are zero there.

    Raises
    ------
    AdapterError
        If the host makes no passes, or a place cannot be driven: why.
    PromptError
        If a prompt is shorter than a drive.
    ParameterError
        If a drive is lost in rounding.
    ActivationError
        If a response is not finite.
    """
    if not condition.drives:
        return observe_batch(
            adapter,
            batch,
            analyses,
            layers,
            groups=groups,
            seed=seed,
            shortest=shortest,
            condition=condition.name,
            task=task,
        )
    require_drivable(adapter, condition.drives)
    require_length(batch, condition.drives)
    # A pass that resumes has real tokens first, as what it resumes from has.
    batch = Batch(front_tokens(batch), batch.lengths, batch.prompts)
    whole = where_of(
        adapter, batch, groups=groups, seed=seed, shortest=shortest, condition=condition.name, task=task
    )
    width = batch.tokens.shape[1]
    at_once = max(1, budget // (width * max(map(len, condition.drives))))
    found: dict[str, list[Features]] = {analysis.name: [] for analysis in analyses}
    for start in range(0, len(batch.prompts), at_once):
        rows = slice(start, start + at_once)
        part = Batch(batch.tokens[rows], batch.lengths[rows], batch.prompts[rows])
        where = replace(
            whole,
            prompts=part.prompts,
            lengths=part.lengths,
            tokens=whole.tokens[rows],
            groups=whole.groups[rows],
        )
        for analysis in analyses:
            observed = layers[analysis.name]
            here = replace(where, layers=observed)
            undriven = _undriven(adapter, part, analysis, observed, condition.drives)
            if start == 0:
                _require_resuming(adapter, part, condition.drives, undriven)
            by_group = [
                dict(_responses(adapter, part, analysis, observed, group, undriven, here))
                for group in condition.drives
            ]
            stacked = [_stack_groups([each.get(layer) for each in by_group], by_group) for layer in observed]
            found[analysis.name].append(joined_by(analysis, stacked, here))
    return {name: reduce(Features.merge, pieces) for name, pieces in found.items()}


def require_drivable(adapter: Adapter, groups: Collection[Group]) -> None:
    """Raise unless a host can be driven everywhere that groups ask for, above its rounding.

    Raises
    ------
    AdapterError
        If a site cannot be written, or is not one of the residual stream: why.
    ParameterError
        If there is no such layer, or an amplitude is lost in the rounding of the model's numbers.
    """
    facts = adapter.facts
    for drive in {drive for group in groups for drive in group}:
        if not 0 <= drive.layer < facts.n_layers:
            raise ParameterError(
                f"Layer {drive.layer} cannot be driven: {facts.model_name} has layers 0 to "
                f"{facts.n_layers - 1}."
            )
        if SITE_AXES.get(drive.site) != ("batch", "token", "d_model"):
            raise AdapterError(
                f"A drive is added to the residual stream or to what is written to it, and {drive.site!r} is "
                "neither; choose resid_pre, resid_mid, resid_post, attn_out or mlp_out."
            )
        why = adapter.why_not_drive(drive.site, drive.layer)
        if why is not None:
            raise AdapterError(why)
        require_audible(facts.dtype, drive.amplitude, facts.model_name)


def require_audible(dtype: str, amplitude: float, model: str) -> None:
    """Raise `ParameterError` if rounding hides what a drive does.

    A number of a token is rounded by half a unit in its last place, which is as large as the response of a
    drive of that amplitude; a response is taken to be hidden if rounding is more than `MOST_ROUNDING` of it.
    """
    rounding = torch.finfo(getattr(torch, dtype)).eps / 2
    if rounding > MOST_ROUNDING * abs(amplitude):
        raise ParameterError(
            f"A drive of {abs(amplitude):g} median norms is lost in {dtype}, in which {model} is and which "
            f"rounds by {rounding:.1g}: load the model in float32, or drive with at least "
            f"{rounding / MOST_ROUNDING:.2g}."
        )


def require_length(batch: Batch, groups: Sequence[Group]) -> None:
    """Raise `PromptError` unless every prompt is as long as the longest drive."""
    longest = max(drive.timing.tokens for group in groups for drive in group)
    shortest = int(batch.lengths.min())
    if shortest < longest:
        raise PromptError(
            f"A drive of {longest} tokens does not fit a prompt of {shortest}; shorten its period, or leave "
            "the prompt out."
        )


def _undriven(
    adapter: Adapter,
    batch: Batch,
    analysis: Analysis,
    layers: Sequence[int],
    groups: Sequence[Group],
) -> Undriven:
    """Return what is at the places that are listened to and driven, in a pass without any drive."""
    first = min(drive.layer for group in groups for drive in group)
    wanted: dict[int, set[str]] = {layer: set(analysis.sites) for layer in layers if layer >= first}
    wanted.setdefault(adapter.facts.n_layers - 1, set()).add("resid_post")
    for group in groups:
        for drive in group:
            wanted.setdefault(drive.layer, set()).update((drive.site, "resid_pre"))
    found: Undriven = {}

    def receive(signal: Signal) -> None:
        require_finite(signal)
        assert signal.layer is not None
        found[signal.site, signal.layer] = signal.values.clone()

    adapter.run(batch, {layer: sorted(sites) for layer, sites in wanted.items()}, receive)
    return found


def _require_resuming(adapter: Adapter, batch: Batch, groups: Sequence[Group], undriven: Undriven) -> None:
    """Raise `AdapterError` unless a pass that begins where drives enter ends like the whole one."""
    if not isinstance(adapter, ModelAdapter):
        return
    deepest = max(drive.layer for group in groups for drive in group)
    end = undriven["resid_post", adapter.facts.n_layers - 1]
    if not adapter.resumes(batch, deepest, undriven["resid_pre", deepest], end):
        raise AdapterError(
            f"{adapter.facts.model_name} ({adapter.facts.host}) cannot be driven: a pass that begins at "
            f"layer {deepest} does not end like the whole one, so blocks hand on more than that stream."
        )


def _responses(
    adapter: Adapter,
    batch: Batch,
    analysis: Analysis,
    layers: Sequence[int],
    group: Group,
    undriven: Undriven,
    where: Where,
) -> Iterator[tuple[int, Features]]:
    """Yield features of the response of each layer to a group of drives."""
    n = len(group)
    site, layer = group[0].site, group[0].layer
    if any((drive.site, drive.layer) != (site, layer) for drive in group):
        raise ParameterError("The drives of a group enter at one site of one layer.")
    base = undriven[site, layer]  # [batch, token, d_model]
    norms = median_norms(base, batch.lengths)
    added = torch.stack([added_by(drive, norms, base, batch.prompts, where.seed) for drive in group])
    rows = Batch(batch.tokens.repeat(n, 1), batch.lengths.repeat(n), batch.prompts * n)

    found: dict[int, Features] = {}
    heard: dict[int, dict[str, Signal]] = {}

    def receive(signal: Signal) -> None:
        assert signal.layer is not None
        at = signal.layer
        require_finite(signal)
        before = undriven[signal.site, at]
        response = signal.values.unflatten(0, (n, -1)) - before
        axes = ("drive", *signal.axes)
        here = heard.setdefault(at, {})
        here[signal.site] = Signal(
            response, axes, lengths=batch.lengths if batch.padded else None, site=signal.site, layer=at
        )
        if len(here) == len(analysis.sites):
            told = replace(
                where,
                layer=at,
                drives=group,
                undriven={name: undriven[name, at] for name in analysis.sites},
                driven_from=norms,
            )
            found[at] = observed_by(analysis, heard.pop(at), told)

    wanted = {at: analysis.sites for at in layers if at >= layer}
    residual = undriven["resid_pre", layer].repeat(n, 1, 1)
    adapter.drive(rows, site, layer, added.flatten(0, 1), residual, wanted, receive)
    yield from found.items()


def median_norms(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the median norm of the tokens of each prompt, the first left out: ``[batch]``."""
    norms = values.norm(dim=-1)
    return torch.stack([row[1:length].median() for row, length in zip(norms, lengths.tolist(), strict=True)])


def added_by(drive: Drive, norms: Tensor, base: Tensor, prompts: Sequence[int], seed: int) -> Tensor:
    """Return what a drive adds to values ``[batch, token, d_model]``, of their shape.

    Parameters
    ----------
    drive
        What is added.
    norms
        Median norm of a token of each prompt ``[batch]``: see `median_norms`.
    base
        The values.
    prompts
        Numbers of the prompts, which their phases are drawn by.
    seed
        Of what is drawn.
    """
    signals = torch.stack([drive.signal(seed, prompt) for prompt in prompts]).to(base)
    direction = drive.unit(base.shape[-1], seed).to(base)
    added = torch.zeros_like(base)
    added[:, : signals.shape[1]] = (drive.amplitude * norms[:, None] * signals)[..., None] * direction
    return added


def _stack_groups(
    groups: Sequence[Features | None], everything: Sequence[Mapping[int, Features]]
) -> Features:
    """Return the features of all groups at one layer; one that does not reach it has zeros."""
    like = next(each for found in everything for each in found.values())
    kinds: dict[str, dict[str, list[np.ndarray]]] = {"rows": {}, "sums": {}, "blocks": {}}
    for each in groups:
        for kind, names in kinds.items():
            for name, values in getattr(like, kind).items():
                names.setdefault(name, []).append(
                    np.zeros_like(values) if each is None else getattr(each, kind)[name]
                )
    return Features(
        prompts=like.prompts,
        rows={name: np.stack(values, axis=1) for name, values in kinds["rows"].items()},
        sums={name: np.stack(values, axis=0) for name, values in kinds["sums"].items()},
        blocks={name: np.stack(values, axis=1) for name, values in kinds["blocks"].items()},
    )
