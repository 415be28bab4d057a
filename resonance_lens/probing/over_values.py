"""Probes along an axis of values: with which frequencies a model computes, found without being told any.

The inputs of a task have an order, and where they are cyclic the activations are a wave train along them. A
probe behind a filter that it learns, a gain for each number of cycles, is trained to say the answer. Where
the filter stays open is what the answer is read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens.batches import make_batches, tokenize
from resonance_lens.errors import ModelError, ParameterError, wrong_parameter
from resonance_lens.hooks import ModelAdapter, attach, proof
from resonance_lens.nn import CyclicFilter
from resonance_lens.probing.examples import Examples, Windows
from resonance_lens.probing.learned import Learned
from resonance_lens.probing.linear import Linear
from resonance_lens.probing.places import Scored, fit_and_score
from resonance_lens.probing.protocol import Fitted, Probe
from resonance_lens.signal import Signal
from resonance_lens.stats.streams import stream
from resonance_lens.tasks import Task
from resonance_lens.text_labels import Kind

Floats = NDArray[np.float64]

SHARES = (0.6, 0.2)
"""Of the values, for training and validation; the rest is for test."""

OPEN = 0.5
"""A filter is open where its gain is at least this share of its largest: only proportions say something."""

LEVEL = 0.001
"""Of the binomial test whether any answer is read; a filter that reads none is open nowhere."""

FEWEST = 5
"""Values: three to learn from, and one for validation and for test each."""

BATCH_TOKENS = 16_384


def probe_over_values(
    model: Any,
    task: Task,
    *,
    site: str = "mlp_post",
    layer: int | None = None,
    gamma: float = 1.0,
    epochs: int = 100,
    seed: int = 0,
) -> xr.Dataset:
    """Learn to read the answer through a filter along a cyclic input, and say where the filter is open.

    Parameters
    ----------
    model
        A model, or an adapter of one: `resonance_lens.hooks.twin.random_twin` for the control.
    task
        Two cyclic inputs, every pair of values once.
    site, layer
        Whose activations, where the model answers; the last layer if not said.
    gamma
        Penalty on the mean gain, in nats. It closes what is of no use.
    epochs
        Of training.
    seed
        Of the split, of the start and of the order of training.

    Returns
    -------
    xarray.Dataset
        Along ``cycles`` (0 to half of the values; 0 is the mean): ``gain`` of the filter, and whether it is
        ``open`` (nowhere if no answer is read); ``gain_shuffled`` of one that learned shuffled answers;
        ``r_squared`` of linear probes, in closed form and without a filter, for the cosine and sine of
        2 pi k answer / n (mean of both, not-a-number at 0). Beside them ``accuracy`` of the filtered
        probe, ``accuracy_shuffled``, ``accuracy_linear`` of linear discriminants without a filter, and
        ``chance``. Scores are of test.

    Raises
    ------
    ParameterError
        If the task has not two cyclic inputs with every pair and as many answers, or the layer does not serve
        the site.
    ModelError
        If the model cannot be run.

    Notes
    -----
    A record holds the activations along the first input for one value of the second. Values are split: in
    training both inputs are of training, in test the second is of test. So no pair of test was seen, and
    neither was its mirror image, which has the same answer where the order of inputs does not matter. What a
    linear probe can read, a model need not use: ReLU makes multiples of each frequency, and they are read as
    well. The filter closes them: they add nothing.
    """
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("probe_over_values runs a model; an ActivationCache holds one pass.")
    answers_too = len(task.answer_tokens) == task.n_values
    if len(task.inputs) != 2 or not (task.cyclic and task.complete() and answers_too):
        raise ParameterError(
            "Probes over values need two cyclic inputs, every pair of their values once, and as many answers "
            f"as values; the task {task.name!r} has not."
        )
    served = adapter.layers([site])
    at = served[-1] if layer is None else layer
    if at not in served:
        wanted = f"a layer out of {served[0]} to {served[-1]}"
        raise ParameterError(wrong_parameter("probe_over_values", "layer", wanted, layer))
    records, answers = _records(adapter, task, site, at)
    found = probe_records(records, answers, gamma=gamma, epochs=epochs, seed=seed)
    about = {"model": adapter.facts.model_name, "task": task.name, "site": site, "layer": at, "seed": seed}
    found.attrs.update(about)
    return found


def probe_records(
    records: Tensor,
    answers: NDArray[np.int64],
    *,
    gamma: float = 1.0,
    epochs: int = 100,
    seed: int = 0,
) -> xr.Dataset:
    """Learn to read answers from records along a cyclic axis: `probe_over_values`, for features at hand.

    Parameters
    ----------
    records
        float32 ``[record, value, feature]``: for each value of the second input, along the first.
    answers
        ``[record, value]``: integers, from 0 to the number of values less 1.
    gamma, epochs, seed
        As in `probe_over_values`.

    Raises
    ------
    ParameterError
        If there are not as many records as values, or fewer than five.
    """
    n, n_values, n_features = records.shape
    if n != n_values or n < FEWEST:
        raise ParameterError(
            f"Probes over values need as many records as values, and at least {FEWEST} to split them into "
            f"train, validation and test; got {n} records of {n_values} values."
        )
    sizes = np.round(np.cumsum(SHARES) * n)
    part = np.searchsorted(sizes, np.arange(n), side="right")
    part = stream(seed, "probe over values", "split").permutation(part)
    # A pair and its mirror image, which has the same answer, are never on two sides.
    counted = part[None, :] <= part[:, None]  # [record, value]
    shuffled = stream(seed, "probe over values", "shuffled").permutation(answers.ravel())
    classes = tuple(map(str, range(n)))

    def scored(probe: Probe, kind: Kind, labels: Floats) -> tuple[Scored, Fitted]:
        """Fit on labels ``[record, value, labelling]`` and score on test."""

        def part_of(number: int) -> Examples:
            def windows() -> Iterator[Windows]:
                chosen = np.flatnonzero(part == number)
                known = np.where(counted[chosen][..., None], labels[chosen], np.nan)
                yield Windows(records[torch.from_numpy(chosen)], known, chosen)

            wanted = classes if kind == "classes" else ()
            return Examples(windows, kind, wanted, n_features, labels.shape[2], seed=seed)

        return fit_and_score(probe, part_of(0), part_of(1), part_of(2), n)

    probe = Learned(
        "cyclic_filter",
        lambda features, outputs, seed: CyclicFilter(features, outputs, n, gamma=gamma, seed=seed),
        along=True,
        labellings=1,
        epochs=epochs,
        patience=epochs,
        learning_rate=0.02,
        batch_windows=9,
    )
    right = answers[..., None].astype(np.float64)
    found = []
    for labels in (right, shuffled.reshape(right.shape).astype(np.float64)):
        score, fitted = scored(probe, "classes", labels)
        module: Any = fitted.module  # type: ignore[attr-defined]
        found.append((module.gains.detach().double().numpy(), score.test[0]))
    (gain, read), (gain_shuffled, read_shuffled) = found
    reads = stats.binomtest(int(read.right.sum()), int(read.count.sum()), 1 / n, "greater").pvalue <= LEVEL
    linear, _ = scored(Linear(), "classes", right)
    cycles = np.arange(n // 2 + 1)
    angles = 2 * np.pi * right * cycles[1:] / n
    # Half of an even number of values has no sine.
    targets = np.concatenate([np.cos(angles), np.sin(angles[..., : (n - 1) // 2])], axis=2)
    waves, _ = scored(Linear(), "ordered", targets)
    r_squared = np.full(n // 2 + 1, np.nan)
    cosines, sines = np.split(np.array([each.score() for each in waves.test]), [n // 2])
    r_squared[1:] = cosines
    r_squared[1 : len(sines) + 1] = (cosines[: len(sines)] + sines) / 2

    def variable(dims: tuple[str, ...], values: Any, what: str) -> tuple[Any, ...]:
        return dims, values, {"long_name": what, "units": "1"}

    along = ("cycles",)
    return xr.Dataset(
        {
            "gain": variable(along, gain, "gain of the learned filter"),
            "open": (along, reads & (gain >= OPEN * gain.max()), {"long_name": "where the filter is open"}),
            "gain_shuffled": variable(along, gain_shuffled, "gain, learned from shuffled answers"),
            "r_squared": variable(along, r_squared, "R squared of linear probes of the answer's waves"),
            "accuracy": variable((), read.score(), "answers read through the filter"),
            "accuracy_shuffled": variable((), read_shuffled.score(), "shuffled answers read that way"),
            "accuracy_linear": variable((), linear.test[0].score(), "answers read without a filter"),
            "chance": variable((), 1 / n, "one over the answers"),
        },
        coords={"cycles": ("cycles", cycles, {"long_name": "cycles over the values"})},
        attrs={"seed": seed},
    )


def _records(adapter: ModelAdapter, task: Task, site: str, layer: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Return activations ``[value of the second input, of the first, feature]`` and the answers there."""
    proof.require(adapter, [site])
    prompts = tokenize(task.prompts(), adapter.facts, adapter.tokenizer, False)
    values: list[Tensor] = [torch.zeros(0)] * len(task)
    for batch in make_batches(prompts, BATCH_TOKENS):

        def receive(signal: Signal, indices: tuple[int, ...] = batch.prompts) -> None:
            for row, index in enumerate(indices):
                values[index] = signal.values[row, task.read_position[index]].flatten().float().cpu().clone()

        adapter.run(batch, {layer: [site]}, receive)
    order = np.lexsort((task.values[:, 0], task.values[:, 1]))
    n = task.n_values
    records = torch.stack([values[index] for index in order]).reshape(n, n, -1)
    return records, task.answers[order].reshape(n, n)
