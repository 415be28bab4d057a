"""One batch, driven: what comes back is the difference from the same prompts undriven, layer by layer.

The undriven pass is made once for a batch, and each group of drives resumes from it at the layer that it
enters: what is before a drive cannot have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from resonance_lens.observing import (
    joined_by,
    observe_arranged,
    observe_batch,
    observed_by,
    require_finite,
    where_of,
)
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

    Without drives this is `resonance_lens.observing.observe_batch`, once for each arrangement. With them the
    batch is run undriven and driven, and what analyses see are the differences.

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
    if condition.arrangements:
        return observe_arranged(
            condition.arrangements,
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
    n_rows = len(batch.prompts)
    at_once = max(1, budget // (width * max(map(len, condition.drives))))
    at_once = -(-n_rows // -(-n_rows // at_once))  # parts of one size
    packs = _packed(condition.drives, most=budget // (width * at_once))
    found: dict[str, list[Features]] = {analysis.name: [] for analysis in analyses}
    for start in range(0, n_rows, at_once):
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
            _require_resuming(adapter, part, condition.drives, undriven)
            by_group = [
                each
                for pack in packs
                for each in _responses(adapter, part, analysis, observed, pack, undriven, here)
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


def _packed(groups: Sequence[Group], most: int) -> list[list[Group]]:
    """Return neighbouring groups that enter at one place together, as many as a pass has room for."""
    packs: list[list[Group]] = []
    for group in groups:
        last = packs[-1] if packs else []
        room = most - sum(map(len, last)) - len(group)
        if last and room >= 0 and _place(last[0]) == _place(group):
            last.append(group)
        else:
            packs.append([group])
    return packs


def _place(group: Group) -> tuple[str, int]:
    """Return the site and layer that the drives of a group enter at."""
    first = group[0]
    if any((drive.site, drive.layer) != (first.site, first.layer) for drive in group):
        raise ParameterError("The drives of a group enter at one site of one layer.")
    return first.site, first.layer


def _undriven(
    adapter: Adapter,
    batch: Batch,
    analysis: Analysis,
    layers: Sequence[int],
    groups: Sequence[Group],
) -> Undriven:
    """Return what is at the places that are listened to and driven, in a pass without any drive."""
    first = min(drive.layer for group in groups for drive in group)
    end = adapter.facts.n_layers - 1
    if max(layers) < first:
        raise ParameterError(
            f"{analysis.name} listens at layers up to {max(layers)}, and a drive before layer {first} is "
            "heard at none of them; drive an earlier layer."
        )
    wanted: dict[int, set[str]] = {layer: set(analysis.observes) for layer in layers if layer >= first}
    for group in groups:
        site, layer = _place(group)
        wanted.setdefault(layer, set()).update((site, "resid_pre"))
    logits = False
    if isinstance(adapter, ModelAdapter):
        last = wanted.setdefault(end, set())
        last.add("resid_post")
        logits = "logits" in last
        last.discard("logits")
    found: Undriven = {}

    def receive(signal: Signal) -> None:
        require_finite(signal)
        assert signal.layer is not None
        found[signal.site, signal.layer] = signal.values.clone()

    adapter.run(batch, {layer: sorted(sites) for layer, sites in wanted.items()}, receive)
    if logits:  # as those of a resumed pass are made
        found["logits", end] = adapter.readout(found["resid_post", end])
    return found


def _require_resuming(adapter: Adapter, batch: Batch, groups: Sequence[Group], undriven: Undriven) -> None:
    """Raise `AdapterError` unless a pass that begins where drives enter ends like the whole one.

    It is tried once for an adapter and a layer: on the first batch that is driven there.
    """
    if not isinstance(adapter, ModelAdapter):
        return
    deepest = max(drive.layer for group in groups for drive in group)
    if deepest in adapter.resumed:
        return
    end = undriven["resid_post", adapter.facts.n_layers - 1]
    if not adapter.resumes(batch, deepest, undriven["resid_pre", deepest], end):
        raise AdapterError(
            f"{adapter.facts.model_name} ({adapter.facts.host}) cannot be driven: a pass that begins at "
            f"layer {deepest} does not end like the whole one, so blocks hand on more than that stream."
        )
    adapter.resumed.add(deepest)


def _responses(
    adapter: Adapter,
    batch: Batch,
    analysis: Analysis,
    layers: Sequence[int],
    pack: Sequence[Group],
    undriven: Undriven,
    where: Where,
) -> list[dict[int, Features]]:
    """Return by group the features of the response of each layer; the groups of a pack share one pass."""
    site, layer = _place(pack[0])
    drives = [drive for group in pack for drive in group]
    n = len(drives)
    base = undriven[site, layer]  # [batch, token, d_model]
    norms = median_norms(base, batch.lengths)
    added = torch.stack([added_by(drive, norms, base, batch.prompts, where.seed) for drive in drives])
    rows = Batch(batch.tokens.repeat(n, 1), batch.lengths.repeat(n), batch.prompts * n)

    found: list[dict[int, Features]] = [{} for _ in pack]
    heard: dict[int, dict[str, Tensor]] = {}

    def receive(signal: Signal) -> None:
        assert signal.layer is not None
        at = signal.layer
        require_finite(signal)
        before = undriven[signal.site, at]
        here = heard.setdefault(at, {})
        here[signal.site] = signal.values.unflatten(0, (n, -1)) - before
        if len(here) < len(analysis.observes):
            return
        responses = heard.pop(at)
        told = replace(
            where,
            layer=at,
            undriven={name: undriven[name, at] for name in analysis.observes},
            driven_from=norms,
        )
        start = 0
        for index, group in enumerate(pack):
            part = slice(start, start + len(group))
            of_group = {name: _signal(name, at, each[part], batch) for name, each in responses.items()}
            found[index][at] = observed_by(analysis, of_group, replace(told, drives=group))
            start += len(group)

    wanted = {at: analysis.observes for at in layers if at >= layer}
    residual = undriven["resid_pre", layer].repeat(n, 1, 1)
    adapter.drive(rows, site, layer, added.flatten(0, 1), residual, wanted, receive)
    return found


def _signal(site: str, layer: int, responses: Tensor, batch: Batch) -> Signal:
    """Return responses ``[drive, batch, ...]`` at a site as a signal."""
    lengths = batch.lengths if batch.padded else None
    return Signal(responses, ("drive", *SITE_AXES[site]), lengths=lengths, site=site, layer=layer)


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
