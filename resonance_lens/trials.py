"""Analyses tried on input made by hand, or on rows of tokens, through the engine's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
import xarray as xr
from torch import Tensor

from resonance_lens.batches import Tokenized, front_tokens, require_long_enough
from resonance_lens.contract import Accumulated, Analysis, Planted
from resonance_lens.design import Condition
from resonance_lens.driving import observe_under
from resonance_lens.engine import BATCH_TOKENS, conclude
from resonance_lens.errors import AnalysisError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.features import Features, deal
from resonance_lens.hooks.adapter import Adapter, Receive, Wanted
from resonance_lens.observing import layers_of
from resonance_lens.prompts import Prompt
from resonance_lens.result import Result
from resonance_lens.signal import POSITION_AXES
from resonance_lens.stats.streams import stream
from resonance_lens.tasks import Task

TOKENS_AT_ONCE = 8 * BATCH_TOKENS
"""Of one driven pass: models and prompts are small here, and few passes cost less than many."""

Rows = Sequence[Sequence[int]]
"""Token ids of prompts."""


class PlantedAdapter(Adapter):
    """Serves arrays made by hand as a host would serve a model: batched, padded, layer by layer.

    What a host leaves in the padding must not matter; here it is not-a-number.

    Parameters
    ----------
    planted
        The arrays, real tokens first.
    dtype
        Serve them in this type, instead of their own.
    device
        Serve them from this device.
    """

    def __init__(self, planted: Planted, *, dtype: torch.dtype | None = None, device: str = "cpu") -> None:
        self.planted = planted
        self.facts = planted.facts
        self._dtype = dtype
        self._device = device

    @classmethod
    def matches(cls, host: object) -> bool:
        """Return whether ``host`` is planted."""
        return isinstance(host, Planted)

    def why_not(self, site: str, layer: int) -> str | None:
        """Return why a site cannot be served at a layer, or ``None`` if it can."""
        if site in self.planted.layers[layer]:
            return None
        return f"What was planted holds no {site!r} at layer {layer}."

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Hand out the planted values of the prompts of ``batch``, layer by layer."""
        for layer in sorted(wanted):
            for site in wanted[layer]:
                receive(self.signal(site, layer, self._as_served(site, layer, batch), batch))

    def why_not_drive(self, site: str, layer: int) -> str | None:
        """Return why what was planted cannot be driven, or ``None`` if it can."""
        if self.planted.respond is None:
            return "This analysis drives, so what it plants needs to respond."
        return None

    def drive(
        self,
        batch: Batch,
        site: str,
        layer: int,
        added: Tensor,
        residual: Tensor,
        wanted: Wanted,
        receive: Receive,
    ) -> None:
        """Hand out the planted values with what the planted system adds to them."""
        assert self.planted.respond is not None  # `why_not_drive` was asked
        prompts = tuple(dict.fromkeys(batch.prompts))
        responses = self.planted.respond(layer, added, prompts)
        for at in sorted(wanted):
            for each in wanted[at]:
                values = self._as_served(each, at, batch)
                signal = self.signal(each, at, values + responses[at][each].to(values), batch)
                receive(signal)

    def readout(self, residual: Tensor) -> Tensor:
        """Return what the planted readout makes of residual vectors."""
        if self.planted.readout is None:
            raise AnalysisError("This analysis reads out logits, so what it plants needs a readout.")
        return self.planted.readout(residual)

    def ov_alignment(self, layer: int) -> Tensor:
        """Return the planted alignment of the heads of a layer."""
        if self.planted.ov_alignment is None:
            raise AnalysisError(
                "This analysis asks what heads write, so what it plants needs an ov_alignment."
            )
        return self.planted.ov_alignment(layer)

    def token_rarity(self, corpus: str, tokens: Tensor) -> Tensor:
        """Return how rare the tokens were said to be."""
        if self.planted.token_rarity is None:
            raise AnalysisError(
                "This analysis asks how rare tokens are, so what it plants needs a token_rarity."
            )
        return self.planted.token_rarity(corpus, tokens)

    def token_labels(self, rule: str, tokens: Tensor) -> Tensor:
        """Return which classes the tokens were said to have."""
        if self.planted.token_labels is None:
            raise AnalysisError(
                "This analysis asks for classes of tokens, so what it plants needs a token_labels."
            )
        return self.planted.token_labels(rule, tokens)

    def tokens(self) -> list[list[int]]:
        """Return ids of the right lengths; they stand for nothing unless some were planted."""
        if self.planted.tokens is not None:
            given = zip(self.planted.tokens.tolist(), self.planted.lengths.tolist(), strict=True)
            return [ids[:length] for ids, length in given]
        lengths = self.planted.lengths.tolist()
        rngs = [stream(0, "planted", row) for row in range(len(lengths))]
        d_vocab = self.facts.d_vocab
        return [[int(i) for i in rng.integers(d_vocab, size=n)] for rng, n in zip(rngs, lengths, strict=True)]

    def _rearranged(self, site: str, layer: int, batch: Batch) -> Tensor:
        """Return what is planted of the prompts, and what is read where their tokens are arranged anew."""
        values = self.planted.layers[layer][site][list(batch.prompts)]
        if self.planted.read is None:
            return values
        given = self.tokens()
        rows = zip(front_tokens(batch).tolist(), batch.lengths.tolist(), batch.prompts, strict=True)
        for place, (ids, length, prompt) in enumerate(rows):
            if ids[:length] == given[prompt]:
                continue
            read = self.planted.read(tuple(ids[:length]))[layer][site]
            grown = [0, 0] * (read.ndim - 1) + [0, values.shape[1] - length]
            values[place] = torch.nn.functional.pad(read, grown)
        return values

    def _as_served(self, site: str, layer: int, batch: Batch) -> Tensor:
        """Return fresh values, with the padding on the side of the batch and nonsense in it."""
        values = self._rearranged(site, layer, batch).to(self._device, self._dtype)
        width = batch.tokens.shape[1]
        dims = [dim for dim, axis in enumerate(SITE_AXES[site]) if axis in POSITION_AXES]
        for dim in dims:
            values = values.narrow(dim, 0, width)
        values = values.clone()
        for row, length in zip(values, batch.lengths.tolist(), strict=True):
            for dim in dims:
                row.narrow(dim - 1, length, width - length).fill_(float("nan"))
            if batch.padding_side == "left":
                at = [dim - 1 for dim in dims]
                row.copy_(row.roll([width - length] * len(at), at))
        return values


def observe(
    analysis: Analysis,
    adapter: Adapter,
    rows: Rows,
    *,
    batch_size: int | None = None,
    padding_side: str = "right",
    order: Sequence[int] | None = None,
    categories: Sequence[str | None] | None = None,
) -> list[Features]:
    """Return the features of each batch.

    Parameters
    ----------
    analysis
        An instance, with its parameters.
    adapter
        What serves the signals.
    rows
        Token ids of the prompts.
    batch_size
        Prompts of one batch; all in one if not said.
    padding_side
        ``right`` or ``left``.
    order
        In which order the prompts are taken up.
    categories
        Of the prompts, if they have any.

    Raises
    ------
    AnalysisError
        If the analysis has conditions other than the plain one, which cannot be planted.
    """
    shortest = min(len(row) for row in rows)  # of the run, whichever of its prompts are taken up here
    condition, *others = analysis.design(adapter.facts, shortest).conditions
    plain = Condition(drives=condition.drives, arrangements=condition.arrangements)
    if others or condition != plain:
        raise AnalysisError(
            f"{analysis.name} runs its prompts under conditions of its own, which cannot be tried here."
        )
    indices = list(range(len(rows)) if order is None else order)
    dealt = deal(categories or [None] * len(rows))
    size = batch_size or len(indices)
    layers = layers_of(adapter, [analysis])
    pieces = []
    for start in range(0, len(indices), size):
        batch = make_batch(rows, indices[start : start + size], padding_side)
        observed = observe_under(
            condition,
            adapter,
            batch,
            [analysis],
            layers,
            groups=dealt,
            seed=0,
            shortest=shortest,
            budget=TOKENS_AT_ONCE,
            task=_task(adapter),
        )
        pieces.append(observed[analysis.name])
    return pieces


def make_batch(rows: Rows, indices: Sequence[int], padding_side: str = "right") -> Batch:
    """Return some of the prompts as one batch, padded with token 0."""
    lengths = [len(rows[index]) for index in indices]
    tokens = torch.zeros(len(indices), max(lengths), dtype=torch.long)
    for place, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        start = tokens.shape[1] - length if padding_side == "left" else 0
        tokens[place, start : start + length] = torch.tensor([int(i) for i in rows[index]])
    return Batch(tokens, torch.tensor(lengths), tuple(indices), padding_side)


def result_of(
    analysis: Analysis,
    adapter: Adapter,
    rows: Rows,
    *,
    batch_size: int | None = None,
    padding_side: str = "right",
    order: Sequence[int] | None = None,
    categories: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Result:
    """Return what an analysis concludes from prompts; parameters as in `observe`.

    Raises
    ------
    PromptError
        If a prompt is too short for the analysis.
    """
    require_long_enough([_tokenized(index, row) for index, row in enumerate(rows)], [analysis])
    pieces = observe(
        analysis,
        adapter,
        rows,
        batch_size=batch_size,
        padding_side=padding_side,
        order=order,
        categories=categories,
    )
    features = reduce(Features.merge, pieces)
    return concluded(analysis, adapter, features, categories=categories, seed=seed)


def concluded(
    analysis: Analysis,
    adapter: Adapter,
    features: Features,
    *,
    categories: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Result:
    """Return what an analysis concludes from features that have been merged."""
    seen = accumulated(analysis, adapter, features, categories=categories, seed=seed)
    return conclude(analysis, seen, {"model": adapter.facts.as_dict(), "seed": seed})


def accumulated(
    analysis: Analysis,
    adapter: Adapter,
    features: Features,
    *,
    categories: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Accumulated:
    """Return merged features with what an analysis needs to conclude from them."""
    n_prompts = len(features.prompts)
    return Accumulated(
        features={"plain": features.sorted()},
        facts=adapter.facts,
        layers=layers_of(adapter, [analysis])[analysis.name],
        prompt_ids=tuple(_name(index) for index in range(n_prompts)),
        categories=tuple(categories or (None,) * n_prompts),
        seed=seed,
        specimen=tuple(map(str, range(adapter.facts.n_ctx))),
        task=_task(adapter),
    )


def measure(
    analysis: Analysis,
    planted: Planted,
    *,
    batch_size: int | None = None,
    padding_side: str = "right",
    order: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> xr.Dataset:
    """Return the data that an analysis concludes from planted input.

    Parameters
    ----------
    analysis
        An instance, with its parameters.
    planted
        From its ``plant`` or ``null``, or made by hand.
    batch_size
        Prompts of one batch; all in one if not said.
    padding_side
        ``right`` or ``left``.
    order
        In which order the prompts are taken up.
    dtype, device
        Of the activations.
    seed
        Of the resampling.
    """
    adapter = PlantedAdapter(planted, dtype=dtype, device=device)
    return result_of(
        analysis,
        adapter,
        adapter.tokens(),
        batch_size=batch_size,
        padding_side=padding_side,
        order=order,
        seed=seed,
    ).data


def part_of(
    planted: Planted,
    *,
    prompts: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    length: int | None = None,
) -> Planted:
    """Return planted input with only some of its prompts, layers and heads, cut to a length.

    Attention that is not causal is cut to the keys that remain, and renormalised.
    """
    facts = planted.facts
    kept_layers = list(range(facts.n_layers)) if layers is None else list(layers)
    kept_prompts = list(range(len(planted.lengths))) if prompts is None else list(prompts)
    lengths = planted.lengths[kept_prompts]
    lengths = lengths if length is None else lengths.clamp(max=length)

    def cut(site: str, values: Tensor) -> Tensor:
        values = values[kept_prompts]
        for dim, axis in enumerate(SITE_AXES[site]):
            if axis == "head" and heads is not None:
                values = values.index_select(dim, torch.tensor(list(heads)))
            if axis in POSITION_AXES and length is not None:
                values = values.narrow(dim, 0, min(length, values.shape[dim]))
        if site == "pattern" and length is not None and not facts.causal:
            values = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        return values

    def aligned(layer: int) -> Tensor:
        assert planted.ov_alignment is not None
        cosines = planted.ov_alignment(kept_layers[layer])
        return cosines if heads is None else cosines[list(heads)][:, list(heads)]

    def respond(layer: int, added: Tensor, those: tuple[int, ...]) -> dict[int, Mapping[str, Tensor]]:
        assert planted.respond is not None
        found = planted.respond(kept_layers[layer], added, tuple(kept_prompts[index] for index in those))
        return {place: found[at] for place, at in enumerate(kept_layers) if at in found}

    def read(tokens: Sequence[int]) -> list[Mapping[str, Tensor]]:
        assert planted.read is not None
        found = planted.read(tokens)
        return [
            {site: _heads(site, values, heads) for site, values in found[layer].items()}
            for layer in kept_layers
        ]

    n_heads = facts.n_heads if heads is None else len(heads)
    return replace(
        planted,
        respond=None if planted.respond is None else respond,
        read=None if planted.read is None else read,
        ov_alignment=None if planted.ov_alignment is None else aligned,
        tokens=None if planted.tokens is None else planted.tokens[kept_prompts],
        task=None if planted.task is None else planted.task.take(kept_prompts),
        layers=[
            {site: cut(site, values) for site, values in planted.layers[layer].items()}
            for layer in kept_layers
        ],
        lengths=lengths,
        facts=replace(
            facts,
            n_layers=len(kept_layers),
            n_heads=n_heads,
            n_kv_heads=min(facts.n_kv_heads, n_heads),
            sliding_windows=tuple(facts.sliding_windows[layer] for layer in kept_layers),
        ),
    )


def _heads(site: str, values: Tensor, heads: Sequence[int] | None) -> Tensor:
    """Return the values of one prompt with only some heads."""
    axes = SITE_AXES[site][1:]
    if heads is None or "head" not in axes:
        return values
    return values.index_select(axes.index("head"), torch.tensor(list(heads)))


def _task(adapter: Adapter) -> Task | None:
    return adapter.planted.task if isinstance(adapter, PlantedAdapter) else None


def _name(index: int) -> str:
    return f"prompt-{index:03d}"


def _tokenized(index: int, row: Sequence[int]) -> Tokenized:
    ids = tuple(int(i) for i in row)
    return Tokenized(Prompt(text=None, tokens=ids, id=_name(index)), ids)
