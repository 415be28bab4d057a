"""Attribution: what patching would do, by the gradient at the unpatched run.

The estimate of an edit is the gradient of the metric at the place times what the edit changes there: one pass
forwards and one backwards for every place at once, where exact patching needs a pass for each. It is right
where the rest of the model is straight between the values before and after; where a softmax or a norm bends
in between, it is not, and exact patching says by how much.

Attribution patching is from Nanda (2023), "Attribution patching: activation patching at industrial scale";
when it errs, from Kramar et al. (2024), "AtP*: an efficient and scalable method for localizing LLM behaviour
to components". Averaging over runs between the two is from Hanna, Pezzelle and Belinkov (2024), "Have faith
in faithfulness: going beyond circuit overlap when finding model mechanisms" (EAP-IG, on inputs).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.hooks.gradients import Score, embeddings_of, with_gradients
from resonance_lens.patching.ground import Ground, Rows, Spot, another, batch_of, means, record
from resonance_lens.patching.metrics import Answers, NamedMetric, require_metric
from resonance_lens.patching.sweep import Sweep, edit_of

STEPS = 5
"""Runs between base and donor run over which a first pass averages, as in Hanna et al. (2024)."""

MOST_TOKENS = 1024
"""Tokens of a pass: the logits of all of them are kept for the way back."""

Array = NDArray[np.float64]


def require_first_order(metric: NamedMetric) -> None:
    """Raise `ParameterError` unless a gradient says how an edit moves the metric."""
    if metric.differentiable and metric.first_order:
        return
    why = "its gradient is zero where nothing is patched" if metric.differentiable else "it has no gradient"
    raise ParameterError(
        f"The metric {metric.name!r} cannot be attributed: {why}; use 'logit_difference' or 'loss', or leave "
        "prescreen out."
    )


def attribute(sweep: Sweep, *, steps: int = 0) -> Array:
    """Return the first-order estimate of the effect of every edit of a sweep.

    It is the gradient of the metric at the unpatched run, at the place, times what the edit changes there.
    Edits of a place are independent of each other, as in the sweep, and their estimates add up.

    Parameters
    ----------
    sweep
        What would be swept.
    steps
        Where an operation takes values from the other run, average the gradient over this many runs between
        the two, whose token embeddings are mixed, in place of that of the unpatched run. 0: do not. Where a
        softmax is saturated in the unpatched run its gradient tells nothing, and misses what matters most.

    Returns
    -------
    array
        ``[operation, place, pair]``, in units of the metric: metric minus unpatched metric, as estimated.

    Raises
    ------
    ParameterError
        If the metric has no gradient that tells.
    AdapterError
        If the model gives no gradients.
    """
    require_first_order(sweep.metric)
    rows = sweep.base_rows
    operations = range(len(sweep.operations))
    spots = sorted({(place.site, place.layer) for place in sweep.places})
    wherefrom, mean = _sources(sweep, spots)
    found = np.full((len(operations), len(sweep.places), len(rows)), np.nan)
    for chunk in _of_one_length(rows, MOST_TOKENS):
        here = [rows[pair] for pair in chunk]
        batch = batch_of(here, range(len(chunk)))
        score = partial(_score, sweep, chunk)
        known = with_gradients(sweep.adapter, batch, spots, score)
        between = _between(sweep, chunk, spots, score, steps) if "other" in wherefrom and steps else {}
        donors = {
            source: record(sweep.adapter, [others[pair] for pair in chunk], spots, MOST_TOKENS)
            for source, others in wherefrom.items()
        }
        ground = Ground(batch.tokens, batch.lengths, {}, torch.empty(0), donors)
        for index, place in itertools.product(operations, range(len(sweep.places))):
            where = sweep.places[place]
            spot = (where.site, where.layer)
            values, gradient = known[spot]
            if sweep.operations[index].donor:
                gradient = between.get(spot, gradient)
            edit = edit_of(sweep, chunk, ground, mean, "exact", index, where, torch.arange(len(chunk)))
            # Scores are minus infinity where nothing is seen, before and after.
            change = (edit(values) - values).nan_to_num(0.0)
            found[index, place, chunk] = (change.double() * gradient).flatten(1).sum(1).cpu().numpy()
    return found


def _between(
    sweep: Sweep, chunk: NDArray[np.int64], spots: Sequence[Spot], score: Score, steps: int
) -> dict[Spot, Tensor]:
    """Return the mean gradient of runs between the base and the donor run."""
    base, donor = (
        batch_of([rows[pair] for pair in chunk], range(len(chunk)))
        for rows in (sweep.base_rows, sweep.donor_rows)
    )
    start, end = (embeddings_of(sweep.adapter, each) for each in (base, donor))
    total: dict[Spot, Tensor] = {}
    for step in range(steps):
        mixed = torch.lerp(start, end, (step + 0.5) / steps)
        found = with_gradients(sweep.adapter, base, spots, score, embeddings=mixed)
        total = {spot: total.get(spot, 0.0) + gradient / steps for spot, (_, gradient) in found.items()}
    return total


def _sources(sweep: Sweep, spots: Sequence[Spot]) -> tuple[dict[str, Rows], dict[Spot, Tensor]]:
    """Return the prompts that donors come from, and the means of the spots, as far as they are needed."""
    rows = sweep.base_rows
    wherefrom: dict[str, Rows] = {}
    if any(operation.donor for operation in sweep.operations):
        wherefrom["other"] = sweep.donor_rows
    if any(operation.resamples for operation in sweep.operations):
        wherefrom["another"] = [rows[other] for other in another(rows, sweep.pairs.ids, sweep.seed)]
    wanted = any("mean" in operation.wants for operation in sweep.operations)
    return wherefrom, means(sweep.adapter, rows, spots, MOST_TOKENS) if wanted else {}


def _score(sweep: Sweep, chunk: NDArray[np.int64], logits: Tensor) -> Tensor:
    """Return the metric of each row's logits at the position that is read."""
    at = torch.as_tensor(sweep.pairs.read[chunk], device=logits.device)
    answer = logits[torch.arange(len(chunk), device=logits.device), at]
    answer = answer.to(torch.promote_types(answer.dtype, torch.float32))
    right, wrong = (torch.as_tensor(each[chunk]) for each in (sweep.pairs.right, sweep.pairs.wrong))
    values = sweep.metric.function(answer, Answers(right, wrong, answer.detach()))
    return require_metric(values, sweep.metric.name, len(chunk))


def _of_one_length(rows: Rows, budget: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of rows of the same length, as many as a budget of tokens holds."""
    lengths = np.array([len(row) for row in rows])
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        count = max(1, budget // int(length))
        yield from (alike[start : start + count] for start in range(0, len(alike), count))
