"""One batch through one host: signals go to every analysis that wants them, layer by layer.

A signal lives only until the analyses that wait for it have seen it, so that nothing keeps an
attention pattern longer than its layer.
"""

from __future__ import annotations

import cmath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from resonance_lens.arrangement import Arrangement
from resonance_lens.batches import front_tokens
from resonance_lens.contract import Analysis, Where
from resonance_lens.errors import ActivationError, AdapterError, AnalysisError
from resonance_lens.facts import Batch
from resonance_lens.features import Array, Features, stack_layers
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.signal import Signal
from resonance_lens.tasks import Task

SMALLEST_ROW_SUM = 0.5
"""A softmax sums to one in any precision; far below it is none."""


@dataclass
class _Layer:
    """The signals of a layer that have come, and the analyses that still wait for some."""

    signals: dict[str, Signal] = field(default_factory=dict)
    waiting: list[Analysis] = field(default_factory=list)


def require_tokenizer(adapter: Adapter, analysis: Analysis) -> None:
    """Raise `AdapterError` if an analysis needs a tokenizer and the host has none."""
    if "tokenizer" in analysis.needs and adapter.tokenizer is None:
        raise AdapterError(
            f"{adapter.facts.model_name} ({adapter.facts.host}) has no tokenizer, which {analysis.name} "
            "needs to count or label tokens with; set model.tokenizer, or leave it out."
        )


def layers_of(adapter: Adapter, analyses: Sequence[Analysis]) -> dict[str, tuple[int, ...]]:
    """Return for each analysis the layers that serve all its sites, or raise `AdapterError`."""
    return {analysis.name: adapter.layers(analysis.observes) for analysis in analyses}


def observe_batch(
    adapter: Adapter,
    batch: Batch,
    analyses: Sequence[Analysis],
    layers: Mapping[str, tuple[int, ...]],
    *,
    groups: Sequence[int],
    seed: int,
    shortest: int,
    condition: str = "plain",
    task: Task | None = None,
    arrangement: Arrangement | None = None,
) -> dict[str, Features]:
    """Run one batch and return the joined features of each analysis.

    Parameters
    ----------
    adapter
        What serves the signals.
    batch
        The prompts.
    analyses
        That look on.
    layers
        Of each analysis: see `layers_of`.
    groups
        The jackknife group of every prompt of the run: see `resonance_lens.features.deal`.
    seed
        Of the run.
    shortest
        Tokens of the shortest prompt of the run.
    condition
        What the batch is run under.
    task
        What the prompts stand for.
    arrangement
        Of the tokens of the batch, which it was made in: analyses are told.

    Raises
    ------
    ActivationError
        If an activation is not a number or infinite: the site and the layer are named.
    AnalysisError
        If an analysis returns such a number from activations that are all finite.
    """
    where = where_of(
        adapter, batch, groups=groups, seed=seed, shortest=shortest, condition=condition, task=task
    )
    where = replace(where, arrangement=arrangement)
    pending: dict[int, _Layer] = {}
    for analysis in analyses:
        for layer in layers[analysis.name]:
            pending.setdefault(layer, _Layer()).waiting.append(analysis)
    seen: dict[str, dict[int, Features]] = {analysis.name: {} for analysis in analyses}

    def receive(signal: Signal) -> None:
        layer = signal.layer
        assert layer is not None
        here = pending[layer]
        if signal.values.ndim == 3:
            require_finite(signal)
        elif signal.site == "pattern":
            _require_rows(signal)
        here.signals[signal.site] = signal
        ready = [a for a in here.waiting if all(site in here.signals for site in a.observes)]
        for analysis in ready:
            signals = {site: here.signals[site] for site in analysis.observes}
            at = replace(where, layer=layer, layers=layers[analysis.name])
            seen[analysis.name][layer] = observed_by(analysis, signals, at)
            here.waiting.remove(analysis)
        wanted = {site for analysis in here.waiting for site in analysis.observes}
        here.signals = {site: s for site, s in here.signals.items() if site in wanted}

    wanted: dict[int, list[str]] = {}
    for layer, here in pending.items():
        wanted[layer] = sorted({site for analysis in here.waiting for site in analysis.observes})
    adapter.run(batch, wanted, receive)

    joined = {}
    for analysis in analyses:
        found = seen[analysis.name]
        missing = [layer for layer in layers[analysis.name] if layer not in found]
        if missing:
            raise AnalysisError(
                f"{analysis.name} received no signal at layer {missing[0]}: the host did not fire its hook."
            )
        ordered = [found[layer] for layer in layers[analysis.name]]
        joined[analysis.name] = joined_by(analysis, ordered, replace(where, layers=layers[analysis.name]))
    return joined


def observe_arranged(
    arrangements: Sequence[Arrangement],
    adapter: Adapter,
    batch: Batch,
    analyses: Sequence[Analysis],
    layers: Mapping[str, tuple[int, ...]],
    *,
    groups: Sequence[int],
    seed: int,
    shortest: int,
    condition: str = "plain",
    task: Task | None = None,
) -> dict[str, Features]:
    """Run one batch in each of several arrangements of its tokens; parameters as in `observe_batch`.

    Returns
    -------
    dict
        Features by analysis: rows are ``[prompt, arrangement, ...]``, sums ``[arrangement, ...]`` and blocks
        ``[N_BLOCKS, arrangement, ...]``.
    """
    found = [
        observe_batch(
            adapter,
            arranged(batch, arrangement, seed),
            analyses,
            layers,
            groups=groups,
            seed=seed,
            shortest=shortest,
            condition=condition,
            task=task,
            arrangement=arrangement,
        )
        for arrangement in arrangements
    ]
    # As layers are stacked, only that it is arrangements here.
    return {analysis.name: stack_layers([each[analysis.name] for each in found]) for analysis in analyses}


def arranged(batch: Batch, arrangement: Arrangement, seed: int) -> Batch:
    """Return the batch with the tokens of each prompt arranged, padded on its side."""
    tokens = torch.zeros_like(batch.tokens)
    width = tokens.shape[1]
    rows = zip(tokens, front_tokens(batch).tolist(), batch.lengths.tolist(), strict=True)
    for row, ids, length in rows:
        start = width - length if batch.padding_side == "left" else 0
        row[start : start + length] = torch.tensor(arrangement.of(ids[:length], seed))
    return replace(batch, tokens=tokens)


def where_of(
    adapter: Adapter,
    batch: Batch,
    *,
    groups: Sequence[int],
    seed: int,
    shortest: int,
    condition: str,
    task: Task | None,
) -> Where:
    """Return what an analysis is told of a batch; parameters as in `observe_batch`."""
    return Where(
        facts=adapter.facts,
        layer=None,
        layers=(),
        prompts=batch.prompts,
        lengths=batch.lengths,
        tokens=front_tokens(batch),
        groups=tuple(int(groups[prompt]) for prompt in batch.prompts),
        seed=seed,
        condition=condition,
        shortest=shortest,
        readout=adapter.readout,
        ov_alignment=adapter.ov_alignment,
        token_rarity=adapter.token_rarity,
        token_labels=adapter.token_labels,
        task=task,
    )


def observed_by(analysis: Analysis, signals: Mapping[str, Signal], where: Where) -> Features:
    """Return what an analysis makes of the signals of a layer, or raise where it is not finite."""
    try:
        features = analysis.observe(signals, where)
    except ActivationError:
        for each in signals.values():
            require_finite(each)  # which says where
        raise
    if _finite(features):
        return features
    for each in signals.values():
        require_finite(each)
    if not _finite(features, analysis.undefined):
        raise AnalysisError(
            f"{analysis.name} returned a number that is not finite at layer {where.layer}, from activations "
            "that are; this is an error in the analysis."
        )
    return features


def joined_by(analysis: Analysis, layers: Sequence[Features], where: Where) -> Features:
    """Return what an analysis makes of all layers of a batch, or raise if it is not finite."""
    features = analysis.join(layers, where)
    if not _finite(features, analysis.undefined):
        raise AnalysisError(
            f"{analysis.name} made a number that is not finite of activations that are; this is an error "
            "in the analysis."
        )
    return features


def _finite(features: Features, undefined: Collection[str] = ()) -> bool:
    """Return whether all numbers are finite; rows that may be undefined are looked at for infinity."""
    for name, values in features.rows.items():
        bad = np.isinf(values) if name in undefined else ~np.isfinite(values)
        if bad.any():
            return False
    arrays = [*features.sums.values(), *features.blocks.values()]
    tensors = [values for values in features.carry.values() if isinstance(values, torch.Tensor)]
    return all(map(_all_finite_array, arrays)) and all(map(_all_finite, tensors))


def _all_finite_array(values: Array) -> bool:
    # As of a tensor: most blocks are zeros, which a sum runs through in half of the time.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _all_finite(values: torch.Tensor) -> bool:
    # A sum is not finite if a term is not, and takes a fourth of the time; if it overflowed, look again.
    return cmath.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def require_finite(signal: Signal) -> None:
    """Raise `ActivationError` if a signal holds a value that is not finite: what, and where."""
    values = signal.values
    if signal.site == "scores":
        values = values.masked_fill(values == float("-inf"), 0.0)
    if _all_finite(values):
        return
    what = "not-a-number" if bool(values.isnan().any()) else "infinite"
    raise ActivationError(
        f"The activations of {signal.site!r} at layer {signal.layer} hold {what} values; "
        "nothing measured from them would mean anything. Run the model in float32, or leave out the prompt."
    )


def _require_rows(pattern: Signal) -> None:
    """Raise if the last query of a prompt attends to nothing: some hosts make zeros of not-a-number.

    One row tells at no cost: what breaks in a causal model breaks for every later query.
    """
    if pattern.lengths is None:
        rows = pattern.values[:, :, -1]  # [batch, head, key]
    else:
        last = pattern.lengths - 1
        rows = pattern.values[torch.arange(len(last), device=last.device), :, last]
    if bool((rows.sum(-1) < SMALLEST_ROW_SUM).any()):
        raise ActivationError(
            f"The activations of 'pattern' at layer {pattern.layer} hold rows that are all zero, as a host "
            "makes of not-a-number values; nothing measured from them would mean anything. Run the model "
            "in float32, or leave out the prompt."
        )
