"""What a sweep needs of the unpatched runs, for a chunk of pairs: recorded once, used by every pass.

Held at one time, for each pair of the chunk: the residual stream that enters each patched layer of the base
run, the values of the patched sites in the runs that give donors, and one row of logits of each side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ActivationError, PromptError
from resonance_lens.facts import SITE_AXES, Batch, Facts
from resonance_lens.hooks.adapter import SQUARE_SITES, ModelAdapter
from resonance_lens.hooks.writing import heads_at, read
from resonance_lens.stats.streams import stream

Rows = Sequence[Sequence[int]]
Spot = tuple[str, int]
"""A site at a layer."""

KEPT_BYTES = 2**30
"""How much a chunk of pairs may hold, unless a single pair needs more."""


@dataclass(frozen=True, eq=False)
class Ground:
    """The unpatched runs of a chunk of pairs.

    Attributes
    ----------
    tokens, lengths
        Of the base run: ``[pair, token]``, padded on the right, and ``[pair]``.
    residual
        What enters each layer: ``{layer: [pair, token, d_model]}``.
    last
        What leaves the last layer at the position that is read: ``[pair, d_model]``.
    donors
        ``{source: {(site, layer): [pair, token, ...]}}``.
    resumes
        Whether a pass that enters at a layer with its residual ends like the whole one.
    """

    tokens: Tensor
    lengths: Tensor
    residual: dict[int, Tensor]
    last: Tensor
    donors: dict[str, dict[Spot, Tensor]] = field(default_factory=dict)
    resumes: bool = True


def batches_of(rows: Rows, batch_tokens: int) -> Iterator[Batch]:
    """Yield the rows, as they come, in batches under a budget of tokens, padded on the right."""
    start = 0
    while start < len(rows):
        stop, width = start + 1, len(rows[start])
        while stop < len(rows):
            wider = max(width, len(rows[stop]))
            if wider * (stop + 1 - start) > batch_tokens:
                break
            stop, width = stop + 1, wider
        yield batch_of(rows[start:stop], range(start, stop))
        start = stop


def batch_of(rows: Rows, indices: Sequence[int]) -> Batch:
    """Return rows of token ids as one batch, padded on the right with token 0."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    return Batch(tokens, lengths, tuple(indices))


def chunks_of(
    rows: Rows, layers: int, spots: Collection[Spot], sources: int, facts: Facts
) -> list[NDArray[np.int64]]:
    """Return the indices of the pairs in chunks of which the recorded values fit in `KEPT_BYTES`.

    Pairs of one length stay together, the longest first.
    """
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    chunks: list[list[int]] = []
    held = 0
    for index in order:
        size = 4 * len(rows[index]) * layers * facts.d_model
        size += 4 * sources * sum(numbers_at(site, len(rows[index]), facts) for site, _ in spots)
        if not chunks or held + size > KEPT_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(index)
        held += size
    return [np.array(chunk, dtype=np.int64) for chunk in chunks]


def base_run(
    adapter: ModelAdapter,
    rows: Rows,
    positions: NDArray[np.int64],
    layers: Collection[int],
    batch_tokens: int,
) -> Ground:
    """Run the base prompts of a chunk and return what passes are resumed from."""
    last_layer = adapter.facts.n_layers - 1
    spots = [("resid_pre", layer) for layer in sorted(layers)] + [("resid_post", last_layer)]
    found = record(adapter, rows, spots, batch_tokens)
    end = found.pop(("resid_post", last_layer))
    residual = {layer: found[site, layer] for site, layer in found}
    whole = batch_of(rows, range(len(rows)))
    ground = Ground(
        tokens=whole.tokens,
        lengths=whole.lengths,
        residual=residual,
        last=end[torch.arange(len(rows)), torch.as_tensor(positions)],
    )
    if not layers:
        return ground
    first = next(batches_of(rows, batch_tokens))
    n, width = first.tokens.shape
    deepest = max(layers)
    if adapter.resumes(first, deepest, residual[deepest][:n, :width], end[:n, :width]):
        return ground
    entered = {layer: residual[0] for layer in residual} if 0 in residual else {}
    if not entered:
        entered = dict.fromkeys(
            residual, record(adapter, rows, [("resid_pre", 0)], batch_tokens)["resid_pre", 0]
        )
    return Ground(ground.tokens, ground.lengths, entered, ground.last, resumes=False)


def record(
    adapter: ModelAdapter, rows: Rows, spots: Collection[Spot], batch_tokens: int
) -> dict[Spot, Tensor]:
    """Return the values of sites in a run over ``rows``: ``[row, token, ...]``, padding zero."""
    width = max(len(row) for row in rows)
    found: dict[Spot, Tensor] = {}

    def keep(spot: Spot, batch: Batch) -> Callable[[Tensor], None]:
        def receive(values: Tensor) -> None:
            if not bool(torch.isfinite(values).all()) and spot[0] != "scores":
                raise ActivationError(
                    f"The activations of {spot[0]!r} at layer {spot[1]} hold values that are not finite, "
                    "without any patch."
                )
            if spot not in found:
                shape = [
                    width if axis in ("token", "query", "key") else size for axis, size in _axes(spot, values)
                ]
                found[spot] = values.new_zeros(len(rows), *shape)
            inside = [slice(0, size) for size in values.shape[1:]]
            where = (slice(batch.prompts[0], batch.prompts[-1] + 1), *inside)
            found[spot][where] = values

        return receive

    for batch in batches_of(rows, batch_tokens):
        adapter.look(batch, [read(adapter, *spot, batch, keep(spot, batch)) for spot in spots])
    return found


def means(
    adapter: ModelAdapter, rows: Rows, spots: Collection[Spot], batch_tokens: int
) -> dict[Spot, Tensor]:
    """Return the mean of sites over prompts, as of `Scene.mean`.

    At a site of tokens it is over all tokens of all prompts but their first, whose mean stands apart in its
    own row: ``[token, ...]``. At ``pattern`` it is over the prompts that reach a query:
    ``[head, query, key]``.
    """
    width = max(len(row) for row in rows)
    sums: dict[Spot, Tensor] = {}
    counts = torch.zeros(width, dtype=torch.float64)
    for row in rows:
        counts[: len(row)] += 1

    def add(spot: Spot) -> Callable[[Tensor], None]:
        def receive(values: Tensor) -> None:
            total = values.sum(0, dtype=torch.float64)
            if spot not in sums:
                shape = [
                    width if axis in ("token", "query", "key") else size for axis, size in _axes(spot, values)
                ]
                sums[spot] = total.new_zeros(shape)
            sums[spot][tuple(slice(0, size) for size in total.shape)] += total

        return receive

    for batch in batches_of(rows, batch_tokens):
        adapter.look(batch, [read(adapter, *spot, batch, add(spot)) for spot in spots])
    found = {}
    for spot, total in sums.items():
        if spot[0] in SQUARE_SITES:
            mean = total / counts[:, None].to(total.device)
        else:
            rest = total[1:].sum(0) / counts[1:].sum().clamp(min=1)
            mean = torch.cat([total[:1] / counts[0], rest.expand(width - 1, *rest.shape)])
        found[spot] = mean.float()
    return found


def another(rows: Rows, ids: Sequence[str], seed: int) -> list[int]:
    """Return for each row the index of another one of the same length, drawn by seed.

    Raises
    ------
    PromptError
        If a row has no other of its length.
    """
    chosen = []
    for index, row in enumerate(rows):
        alike = [other for other, each in enumerate(rows) if len(each) == len(row) and other != index]
        if not alike:
            raise PromptError(
                f"Pair {ids[index]!r} has {len(row)} tokens and no other pair has: there is no prompt to "
                "resample from; give more pairs of that length, or leave it out."
            )
        chosen.append(int(stream(seed, "another prompt", ids[index]).choice(alike)))
    return chosen


def _axes(spot: Spot, values: Tensor) -> list[tuple[str, int]]:
    return list(zip(SITE_AXES[spot[0]][1:], values.shape[1:], strict=True))


def numbers_at(site: str, length: int, facts: Facts) -> int:
    """Return how many numbers a site has for one prompt."""
    sizes = {"d_head": facts.d_head, "d_model": facts.d_model, "neuron": 4 * facts.d_model}
    sizes |= {"head": heads_at(site, facts) or 1, "token": length, "query": length, "key": length}
    return int(np.prod([sizes[axis] for axis in SITE_AXES[site][1:]]))
