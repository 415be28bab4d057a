"""The sweep: every edit of every place of a layer, times every pair, in passes that begin at that layer.

A pass is a batch of rows; a row is one edit of one place on one pair. Rows share a layer, enter the model
there with the residual stream of the base run, and only the positions that the metric reads are unembedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ActivationError, AdapterError
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import SQUARE_SITES, Hook, ModelAdapter
from resonance_lens.hooks.writing import write
from resonance_lens.patching.ground import (
    Ground,
    Rows,
    Spot,
    another,
    base_run,
    chunks_of,
    means,
    record,
)
from resonance_lens.patching.metrics import Answers, NamedMetric, require_metric
from resonance_lens.patching.operations import Operation, Scene
from resonance_lens.patching.places import Place
from resonance_lens.stats.samples import RESOLUTION

if TYPE_CHECKING:
    from resonance_lens.pairs import PromptPairs

VARIANTS = ("exact", "placebo", "complement")
"""What is done at a place: the operation, its placebo, or the operation on all that it leaves alone."""

Array = NDArray[np.float64]
Wanted = NDArray[np.bool_]
Placebo = Callable[[Tensor, Tensor, Scene], Tensor]
"""Takes the values of a place, what an operation made of them, and the scene; returns another change of the
same size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """What is swept.

    Attributes
    ----------
    adapter
        Of the model.
    pairs
        Of prompts.
    base
        Which side is run and patched: ``clean`` or ``corrupted``; the other one is the donor.
    places
        Where.
    operations
        What.
    metric
        What is read.
    placebo
        Makes the change that a placebo is.
    kernels
        Attention by lag of each head ``[layer, head, lag]``, for operations that want it.
    seed
        Of everything drawn.
    batch_tokens
        Tokens of one pass, padding included.
    """

    adapter: ModelAdapter
    pairs: PromptPairs
    base: str
    places: Sequence[Place]
    operations: Sequence[Operation]
    metric: NamedMetric
    placebo: Placebo
    kernels: Tensor | None = None
    seed: int = 0
    batch_tokens: int = 2048

    @property
    def base_rows(self) -> Rows:
        """The prompts that are patched."""
        return self.pairs.clean if self.base == "clean" else self.pairs.corrupted

    @property
    def donor_rows(self) -> Rows:
        """The prompts that values are taken from."""
        return self.pairs.corrupted if self.base == "clean" else self.pairs.clean

    def operation(self, variant: str, index: int) -> Operation:
        """Return what is done in a variant; a placebo has the size of what its operation does."""
        operation = self.operations[index]
        if variant == "complement":
            complement = operation.complement()
            assert complement is not None  # such a row is not wanted
            return complement
        return operation


@dataclass(eq=False)
class Measured:
    """What a sweep has measured so far; not-a-number where it has not.

    Attributes
    ----------
    values
        The metric ``[variant, operation, place, pair]``.
    sides
        The metric of the unpatched runs ``[2, pair]``: base and donor.
    """

    values: Array
    sides: Array
    resumes: bool = True

    @staticmethod
    def nothing(sweep: Sweep) -> Measured:
        """Return what is known before the first pass."""
        n = len(sweep.pairs)
        shape = (len(VARIANTS), len(sweep.operations), len(sweep.places), n)
        return Measured(np.full(shape, np.nan), np.full((2, n), np.nan))


def run_sweep(
    sweep: Sweep,
    wanted: Wanted,
    measured: Measured,
    *,
    keep: Callable[[Measured], None],
    progress: Callable[[int], object],
) -> None:
    """Measure what is wanted and not yet known, layer by layer in chunks of pairs.

    Parameters
    ----------
    sweep
        What is swept.
    wanted
        Booleans ``[variant, operation, place, pair]``.
    measured
        Is filled in.
    keep
        Called after each layer of each chunk.
    progress
        Called with the number of rows of each pass.
    """
    spots: dict[str, set[Spot]] = {"other": set(), "another": set(), "mean": set()}
    for variant, operation, place in np.argwhere(wanted.any(-1)).tolist():
        done = sweep.operation(VARIANTS[variant], operation)
        spot = (sweep.places[place].site, sweep.places[place].layer)
        for source, needed in (
            ("other", done.donor),
            ("another", done.resamples),
            ("mean", "mean" in done.wants),
        ):
            if needed:
                spots[source].add(spot)
    rows = sweep.base_rows
    others = another(rows, sweep.pairs.ids, sweep.seed) if spots["another"] else list(range(len(rows)))
    mean = means(sweep.adapter, rows, sorted(spots["mean"]), sweep.batch_tokens) if spots["mean"] else {}
    layers = sorted({sweep.places[place].layer for place in np.argwhere(wanted.any((0, 1, 3)))[:, 0]})
    at_layer = {
        layer: np.array([place.layer == layer for place in sweep.places])[:, None] for layer in layers
    }
    sources = {
        "other": sweep.donor_rows,
        "another": [rows[index] for index in others],
    }
    kept = spots["other"] | spots["another"]
    n_sources = bool(spots["other"]) + bool(spots["another"])
    for chunk in chunks_of(rows, len(layers), kept, n_sources, sweep.adapter.facts):
        missing = wanted & np.isnan(measured.values)
        unread = np.isnan(measured.sides[:, chunk]).any()
        left = [layer for layer in layers if (missing & at_layer[layer])[..., chunk].any()]
        if not left and not unread:
            continue
        ground = base_run(
            sweep.adapter, [rows[i] for i in chunk], sweep.pairs.read[chunk], left, sweep.batch_tokens
        )
        measured.resumes = measured.resumes and ground.resumes
        for source, wherefrom in sources.items():
            here = sorted(spot for spot in spots[source] if spot[1] in left)
            if here:
                ground.donors[source] = record(
                    sweep.adapter, [wherefrom[i] for i in chunk], here, sweep.batch_tokens
                )
        base_logits = _read_sides(sweep, chunk, ground, measured)
        for layer in left:
            _sweep_layer(sweep, chunk, ground, base_logits, mean, layer, missing, measured, progress)
            keep(measured)


def _read_sides(sweep: Sweep, chunk: NDArray[np.int64], ground: Ground, measured: Measured) -> Tensor:
    """Measure the unpatched runs, and return the logits of the base run where they are read."""
    base = sweep.adapter.readout(ground.last)
    donor_rows = [sweep.donor_rows[i] for i in chunk]
    donor = base_run(sweep.adapter, donor_rows, sweep.pairs.read[chunk], (), sweep.batch_tokens)
    for side, logits in enumerate((base, sweep.adapter.readout(donor.last))):
        measured.sides[side, chunk] = _measure(sweep, logits, chunk, base)
    return base


def _measure(sweep: Sweep, logits: Tensor, pairs: NDArray[np.int64], base: Tensor) -> Array:
    answers = Answers(
        torch.as_tensor(sweep.pairs.right[pairs], device=logits.device),
        torch.as_tensor(sweep.pairs.wrong[pairs], device=logits.device),
        base,
    )
    values = sweep.metric.function(logits, answers)
    return np.asarray(require_metric(values, sweep.metric.name, len(pairs)).detach().cpu(), dtype=np.float64)


def _sweep_layer(
    sweep: Sweep,
    chunk: NDArray[np.int64],
    ground: Ground,
    base_logits: Tensor,
    mean: Mapping[Spot, Tensor],
    layer: int,
    missing: Wanted,
    measured: Measured,
    progress: Callable[[int], object],
) -> None:
    here = np.array([place.layer == layer for place in sweep.places])
    # Pairs of a chunk come by length, so that rows of a pass are about equally long.
    rows = np.argwhere((missing & here[:, None])[..., chunk])  # [row, (variant, operation, place, pair)]
    lengths = ground.lengths.numpy()
    rows = rows[np.argsort(-lengths[rows[:, 3]], kind="stable")]
    for some in passes_of(rows, lengths, sweep.batch_tokens):
        local = torch.as_tensor(some[:, 3])
        width = int(ground.lengths[local].max())
        batch = Batch(ground.tokens[local, :width], ground.lengths[local], tuple(range(len(some))))
        hooks = _hooks(sweep, chunk, ground, mean, layer, some, batch)
        enter = layer if ground.resumes else 0
        end = sweep.adapter.resume(batch, enter, ground.residual[layer][local, :width], hooks)
        end = sweep.adapter.common("resid_post", sweep.adapter.facts.n_layers - 1, end, batch)
        pairs = chunk[some[:, 3]]
        at = torch.as_tensor(sweep.pairs.read[pairs])
        logits = sweep.adapter.readout(end[torch.arange(len(some)), at])
        found = _measure(sweep, logits, pairs, base_logits[local])
        measured.values[some[:, 0], some[:, 1], some[:, 2], pairs] = found
        progress(len(some))


def passes_of(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], budget: int
) -> Iterator[NDArray[np.int64]]:
    """Yield rows, which come longest first, in groups under a budget of tokens."""
    start = 0
    while start < len(rows):
        count = max(1, budget // int(lengths[rows[start, 3]]))
        yield rows[start : start + count]
        start += count


def _hooks(
    sweep: Sweep,
    chunk: NDArray[np.int64],
    ground: Ground,
    mean: Mapping[Spot, Tensor],
    layer: int,
    rows: NDArray[np.int64],
    batch: Batch,
) -> list[Hook]:
    """Return the hooks of a pass: one edit of each site, which does its own thing to each group of rows."""
    edits: dict[str, list[tuple[Tensor, Callable[[Tensor], Tensor]]]] = {}
    for variant, operation, place in np.unique(rows[:, :3], axis=0).tolist():
        chosen = np.flatnonzero((rows[:, :3] == (variant, operation, place)).all(1))
        local = torch.as_tensor(rows[chosen, 3])
        where = sweep.places[place]
        edit = edit_of(sweep, chunk, ground, mean, VARIANTS[variant], operation, where, local)
        edits.setdefault(where.site, []).append((torch.as_tensor(chosen), edit))

    def change_of(parts: list[tuple[Tensor, Callable[[Tensor], Tensor]]]) -> Callable[[Tensor], Tensor]:
        def change(values: Tensor) -> Tensor:
            out = values.clone()
            for chosen, edit in parts:
                out[chosen] = edit(values[chosen])
            return out

        return change

    return [
        hook
        for site, parts in edits.items()
        for hook in write(sweep.adapter, site, layer, batch, change_of(parts))
    ]


def edit_of(
    sweep: Sweep,
    chunk: NDArray[np.int64],
    ground: Ground,
    mean: Mapping[Spot, Tensor],
    variant: str,
    index: int,
    place: Place,
    local: Tensor,
) -> Callable[[Tensor], Tensor]:
    """Return what is done to the values of a site in the rows of one place, in the common form."""
    operation = sweep.operation(variant, index)
    spot = (place.site, place.layer)
    source = "other" if operation.donor else "another" if operation.resamples else None
    ids = [sweep.pairs.ids[i] for i in chunk[local.numpy()]]

    def generators(what: str) -> tuple[torch.Generator, ...]:
        return tuple(generator(sweep.seed, what, place, each) for each in ids)

    def change(values: Tensor) -> Tensor:
        before = taken(values, place)
        donor = None
        if source is not None:
            donor = ground.donors[source][spot][local]
            # The batch of a pass is as wide as its longest row.
            donor = donor[tuple(slice(0, size) for size in values.shape)]
            donor = taken(donor, place)
        scene = Scene(
            site=place.site,
            layer=place.layer,
            head=place.head,
            facts=sweep.adapter.facts,
            lengths=ground.lengths[local].to(values.device),
            donor=donor,
            mean=taken(mean[spot][None], place)[0] if spot in mean else None,
            generators=generators(operation.label) if "generators" in operation.wants else None,
            kernel=_kernel(sweep, place) if "kernel" in operation.wants else None,
        )
        after = operation.edit(before, scene)
        if variant == "placebo":
            scene = replace(scene, generators=generators("placebo"))
            after = sweep.placebo(before, settled(before, after, place), scene)
        _require_edit(operation, place, before, after)
        if place.positions is not None:
            after = torch.where(at_positions(place, scene.lengths, before), after, before)
        return put(values, after, place)

    return change


def taken(values: Tensor, place: Place) -> Tensor:
    """Return the values of a place out of those of its site, in the form of `Operation.edit`."""
    if place.site in SQUARE_SITES:
        return values if place.head is None else values[:, place.head : place.head + 1]
    if values.ndim == 3:
        return values
    return values.flatten(2) if place.head is None else values[:, :, place.head]


def put(values: Tensor, after: Tensor, place: Place) -> Tensor:
    """Return the values of a site with those of a place in them; see `taken`."""
    if place.head is None:
        return after.reshape(values.shape)
    out = values.clone()
    if place.site in SQUARE_SITES:
        out[:, place.head : place.head + 1] = after
    else:
        out[:, :, place.head] = after
    return out


def settled(before: Tensor, after: Tensor, place: Place) -> Tensor:
    """Return what an edit made, and where it changed no more than rounding can, what was there before.

    A placebo turns directions of the change, and rounding has one like any other change.
    """
    change = (after - before).abs()
    if place.site in SQUARE_SITES:
        same = change <= RESOLUTION
    else:
        same = change.norm(dim=-1, keepdim=True) <= RESOLUTION * before.norm(dim=-1, keepdim=True)
    return torch.where(same, before, after)


def generator(seed: int, what: str, place: Place, pair: str) -> torch.Generator:
    """Return the random generator of one row: a function of what, where and on which pair, and the seed."""
    text = "\x1f".join(map(str, (seed, what, place.site, place.layer, place.head, place.where, pair)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(number >> 1)


def _kernel(sweep: Sweep, place: Place) -> Tensor:
    assert sweep.kernels is not None  # `resonance_lens.patch` has looked
    of_layer = sweep.kernels[place.layer]  # [head, lag]
    return of_layer if place.head is None else of_layer[place.head]


def at_positions(place: Place, lengths: Tensor, values: Tensor) -> Tensor:
    """Return booleans that broadcast to the values of a place: where its positions are.

    At ``pattern`` and ``scores`` a position is that of the query.
    """
    assert place.positions is not None
    steps = torch.arange(values.shape[-2], device=values.device)
    chosen = torch.zeros(len(lengths), len(steps), dtype=torch.bool, device=values.device)
    for position in place.positions:
        chosen |= steps == (lengths[:, None] + position if position < 0 else position)
    return chosen[:, None, :, None] if place.site in SQUARE_SITES else chosen[:, :, None]


def _require_edit(operation: Operation, place: Place, before: Tensor, after: Tensor) -> None:
    if after.shape != before.shape:
        raise AdapterError(
            f"{operation.label} must return values of the shape {tuple(before.shape)} that it was given at "
            f"{place.at} ({place.site!r}); it returned {tuple(after.shape)}."
        )
    fine = after.isfinite()
    if place.site == "scores":  # minus infinity: not seen
        fine = fine | (after == float("-inf"))
    if not bool(fine.all()):
        raise ActivationError(
            f"{operation.label} at {place.at} ({place.site!r}) made values that are not finite."
        )
