"""What a sweep would cost, said before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.asked import CONTROLS, Operations, adapter_of
from resonance_lens.patching.attribution import require_first_order
from resonance_lens.patching.choosing import choose_rows, make_sweep
from resonance_lens.patching.ground import KEPT_BYTES, numbers_at
from resonance_lens.patching.metrics import Metric, NamedMetric
from resonance_lens.patching.places import Targets
from resonance_lens.patching.prescreen import screen
from resonance_lens.patching.sweep import VARIANTS, Sweep, Wanted, passes_of
from resonance_lens.result import Result


@dataclass(frozen=True)
class PatchPlan:
    """What `patch` would do.

    Attributes
    ----------
    pairs, tokens
        How many, and the tokens of their clean prompts.
    targets, operations
        How many targets there are, and what is done to them.
    patched
        Targets that would be patched exactly, by operation.
    rows
        Edited prompts, by what they are for: ``exact``, ``placebo``, ``complement``, ``others`` (which in a
        full sweep are among the exact ones).
    passes
        Passes that begin at the patched layer, the base runs left out.
    cost
        The same in whole passes over the prompts of the largest batch: a pass that begins half-way counts
        half.
    largest_batch
        ``(rows, tokens)`` of the largest pass.
    held_bytes
        What is kept of the unpatched runs at one time, beside the model itself.
    files
        What would be written.
    """

    pairs: int
    tokens: int
    targets: int
    operations: tuple[str, ...]
    patched: tuple[int, ...]
    rows: dict[str, int]
    passes: int
    cost: float
    largest_batch: tuple[int, int]
    held_bytes: int
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows, width = self.largest_batch
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.rows.items() if count)
        lines = [
            f"pairs     {self.pairs} ({self.tokens} tokens a side)",
            *(
                f"operation {name} at {patched} of {self.targets} targets"
                for name, patched in zip(self.operations, self.patched, strict=True)
            ),
            f"rows      {sum(self.rows.values())} edited prompts: {kinds}",
            f"passes    {self.passes}, the largest of {rows} x {width} tokens; as much work as "
            f"{self.cost:.0f} from the first layer",
            f"memory    {self.held_bytes / 2**20:.1f} MiB of the unpatched runs held at once, beside the "
            "model's own",
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def plan(
    model: Any,
    pairs: PromptPairs,
    targets: Targets = "heads",
    *,
    operation: Operations = "patch",
    metric: str | Metric | NamedMetric = "logit_difference",
    direction: str | None = None,
    controls: Collection[str] = CONTROLS,
    prescreen: int | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    allow_look_ahead: bool = False,
    kernels: Result | None = None,
    out: str | Path | None = None,
) -> PatchPlan:
    """Return what `resonance_lens.patch` would do with the same arguments, without a pass.

    With ``prescreen`` the targets that attribution would choose are not known yet: others stand in for them.

    Raises
    ------
    ResonanceLensError
        As `resonance_lens.patch`, for everything that it refuses before its first pass.
    """
    adapter = adapter_of(model)
    sweep = make_sweep(
        adapter,
        pairs,
        targets,
        operation=operation,
        metric=metric,
        direction=direction,
        controls=controls,
        seed=seed,
        batch_tokens=batch_tokens,
        allow_look_ahead=allow_look_ahead,
        kernels=kernels,
    )
    n = len(sweep.places)
    chosen = np.ones((len(sweep.operations), n), dtype=np.bool_)
    if prescreen is not None:
        require_first_order(sweep.metric)
        for index, each in enumerate(sweep.operations):
            unknown = np.ones((n, 1)) * np.arange(n)[:, None]
            chosen[index] = np.isin(np.arange(n), screen(unknown, prescreen, seed, each.label).confirmed)
    sweep, _, wanted = choose_rows(sweep, chosen, controls)
    count, cost, largest = _passes(sweep, wanted)
    folder = None if out is None else Path(out)
    names = ("run.json", "patch.nc", "exhibits.nc")  # the last one holds patterns of a few heads
    return PatchPlan(
        pairs=len(pairs),
        tokens=sum(map(len, pairs.clean)),
        targets=n,
        operations=tuple(each.label for each in sweep.operations),
        patched=tuple(int(patched.sum()) for patched in chosen),
        rows={
            **{name: int(wanted[i, :, :n].sum()) for i, name in enumerate(VARIANTS)},
            "others": int(wanted[:, :, n:].sum()),
        },
        passes=count,
        cost=cost,
        largest_batch=largest,
        held_bytes=_held(sweep),
        files=() if folder is None else tuple(str(folder / name) for name in names),
    )


def _passes(sweep: Sweep, wanted: Wanted) -> tuple[int, float, tuple[int, int]]:
    """Return how many passes there are, their cost in whole ones, and the largest batch."""
    lengths = np.array([len(row) for row in sweep.base_rows])
    depth = sweep.adapter.facts.n_layers
    count, tokens, largest = 0, 0.0, (0, 0)
    for layer in sorted({place.layer for place in sweep.places}):
        here = np.array([place.layer == layer for place in sweep.places])
        rows = np.argwhere(wanted & here[:, None])
        rows = rows[np.argsort(-lengths[rows[:, 3]], kind="stable")]
        for some in passes_of(rows, lengths, sweep.batch_tokens):
            width = int(lengths[some[:, 3]].max())
            count += 1
            tokens += len(some) * width * (depth - layer) / depth
            largest = max(largest, (len(some), width), key=lambda each: each[0] * each[1])
    return count, tokens / max(largest[0] * largest[1], 1), largest


def _held(sweep: Sweep) -> int:
    """Return what is kept at one time: what enters each patched layer, and the other prompt's values."""
    facts, layers = sweep.adapter.facts, {place.layer for place in sweep.places}
    spots = {(place.site, place.layer) for place in sweep.places}
    sources = len({each.donor for each in sweep.operations if each.donor or each.resamples})
    size = sum(
        4 * len(row) * len(layers) * facts.d_model
        + 4 * sources * sum(numbers_at(site, len(row), facts) for site, _ in spots)
        for row in sweep.base_rows
    )
    return min(size, KEPT_BYTES)
