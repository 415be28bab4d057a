"""What the strongest heads look at, before and after: patterns of both prompts of a few pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import xarray as xr
from torch import Tensor

from resonance_lens.batches import Tokenized
from resonance_lens.exhibits import MAX_TOKENS, show_heads
from resonance_lens.hooks.writing import read
from resonance_lens.patching.ground import batch_of
from resonance_lens.patching.hooks import operation_hooks
from resonance_lens.patching.operations import Operation
from resonance_lens.patching.sweep import Sweep
from resonance_lens.prompts import Prompt
from resonance_lens.result import Result, Target

Side = Literal["clean", "corrupted"]

PAIRS = 2
"""Pairs that are shown: each is two patterns or more for every head."""


def attention(sweep: Sweep, result: Result) -> xr.Dataset | None:
    """Return the patterns of the heads that a result wants to show, or ``None`` if there are none.

    Of each pair those on the clean and on the corrupted prompt, and after each operation that makes other
    patterns out of those of the prompt that is patched. Every head is edited alone. What an operation takes
    from another prompt stands there already.

    Parameters
    ----------
    sweep
        What was swept.
    result
        Its views name the heads.

    Returns
    -------
    xarray.Dataset
        As `resonance_lens.runs.Run.exhibits`.
    """
    short = [i for i, row in enumerate(sweep.pairs.clean) if 1 < len(row) <= MAX_TOKENS][:PAIRS]
    sides: tuple[Side, Side] = ("clean", "corrupted") if sweep.base == "clean" else ("corrupted", "clean")
    shown = show_heads(
        sweep.adapter,
        [_named(sweep.pairs.prompts(side)[i], side) for i in short for side in sides],
        [result],
    )
    if shown is None:
        return None
    heads = list(zip(shown["layer"].values.tolist(), shown["head"].values.tolist(), strict=True))
    made = [each for each in sweep.operations if _makes_patterns(each)]
    if not {(place.layer, place.head) for place in sweep.places if place.site == "pattern"}.issuperset(heads):
        made = []
    parts = []
    for number, index in enumerate(short):
        before, other = (shown.isel(exhibit=[2 * number + side]) for side in (0, 1))
        parts.append(before)
        for operation in made:
            row = sweep.base_rows[index]
            values = before["pattern"].values.copy()
            for column, (layer, head) in enumerate(heads):
                values[0, column, : len(row), : len(row)] = _edited(sweep, operation, row, layer, head)
            after = before.assign(pattern=before["pattern"].copy(data=values))
            parts.append(
                after.assign_coords(prompt=("exhibit", [f"{sweep.pairs.ids[index]}, {operation.label}"]))
            )
        parts.append(other)
    every: xr.Dataset = xr.concat(parts, "exhibit", data_vars="all")
    return every


def _named(prompt: Prompt, side: str) -> Tokenized:
    return Tokenized(replace(prompt, id=f"{prompt.id}, {side}"), tuple(prompt.tokens or ()))


def _makes_patterns(operation: Operation) -> bool:
    """Return whether an operation makes a pattern out of the pattern alone, not out of other prompts'."""
    others = operation.donor or operation.resamples or "mean" in operation.wants
    return "pattern" in operation.sites and not others


def _edited(
    sweep: Sweep, operation: Operation, row: Sequence[int], layer: int, head: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the pattern ``[query, key]`` of a head as the model has it after the operation."""
    batch = batch_of([tuple(row)], [0])
    target = Target(site="pattern", layer=layer, head=head, score=0.0, reason="")
    hooks = operation_hooks(sweep.adapter.model, operation, [target], kernels=sweep.kernels, seed=sweep.seed)
    found: list[Tensor] = []
    receive: Callable[[Tensor], None] = found.append
    sweep.adapter.look(batch, [*hooks, read(sweep.adapter, "pattern", layer, batch, receive)])
    return np.asarray(found[0][0, head].float().cpu().numpy(), dtype=np.float32)
