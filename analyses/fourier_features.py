"""Which frequencies over its input values a model computes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.errors import AnalysisError, ParameterError, unknown
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import Surrogates
from resonance_lens.stats.streams import stream
from resonance_lens.tasks import Task
from resonance_lens.worlds import WORLDS

Array = NDArray[Any]

DEAD = 1e-6
"""A neuron whose spread is below this share of its size does not vary: it is rounding."""

NUMBERS_AT_ONCE = 2**21
"""Numbers that a transform of one relabelled table makes at one time."""

INPUTS = ("all", "train", "test")
UNMEASURED = "not-a-number: not every input was measured"


@register
@dataclass(frozen=True, kw_only=True)
class FourierFeatures(Analysis):
    """Which frequencies over its input values a model computes with.

    For a `Task` of one or two inputs, all of whose combinations are run. Embeddings are read from
    ``resid_pre`` of the first layer at each input, as a function of the input's value (what position
    adds is the same for all values). Neurons are ``mlp_post`` of every layer where the model answers. A
    neuron's share at frequency k is the part of its variance over all pairs (a, b) that waves of k cycles per
    value range hold: the components (k, 0), (0, k), (k, k) and (k, -k) of the two-dimensional
    Fourier transform, or k alone for one input. A frequency is a neuron's own if that share is above
    ``dominant``, and *key* if it is the own one of at least 1/K of the neurons that vary, at some layer: what
    each of the K frequencies would have if every neuron had one.

    Logits are those of the answers, read out of ``resid_post`` of the last layer; their part at the key
    frequencies is the projection onto the cosine and sine of the answer's value (in modular addition,
    of a + b), over all inputs. The excluded loss is that of the logits without this part, the restricted
    loss that of this part and the mean alone.

    Notes
    -----
    A spectrum finds waves in any function of few values: read shares beside those of relabelled values. What
    beats that null respects the order of the values, and need not be one wave: a neuron that follows
    ``(a + b) mod n`` in any manner beats it. If n is prime, multiplying all values by a number moves one
    frequency to another: which frequencies are key says nothing, how many says much. For the same reason a
    relabelling of fewer than eight values often keeps every share, and nothing can be found. An axis
    that is not cyclic has a jump at its end, which leaks into low frequencies. Every input is measured,
    nothing is sampled: there are no intervals.
    """

    name: ClassVar[str] = "fourier_features"
    title: ClassVar[str] = "Frequencies over input values"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_pre", "mlp_post", "resid_post")
    needs: ClassVar[tuple[str, ...]] = ("task",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_power", "random_weights")
    nulls: ClassVar[tuple[str, ...]] = ("relabelled_values",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="neuron_share",
            long_name="largest share of a neuron's power at one frequency",
            units="1",
            null="relabelled_values",
            against="the same activations with values relabelled at random, alike for inputs and neurons",
            dims=("layer", "neuron"),
            family=("layer", "neuron"),
            places="neurons",
            minimum_effect=0.5,
            undefined="no power",
        ),
    )
    minimum_effect: ClassVar[float] = 0.5
    headline: ClassVar[str] = "neuron_share"
    source: ClassVar[str] = (
        "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability (2301.05217)."
    )

    dominant: float = parameter(
        0.85,
        minimum=0.5,
        maximum=1.0,
        help="a frequency with more than this share of a neuron's power is the neuron's own",
    )
    surrogates: int = parameter(999, minimum=19, help="random relabellings of the values")

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Keep the neurons, and carry embeddings and the last residual, at the positions that count."""
        task = _task(where)
        if where.layers[0] != 0 or where.layers[-1] != where.facts.n_layers - 1:
            raise AnalysisError(
                "fourier_features reads embeddings at the first layer and logits at the last, and one of "
                "them was not observed."
            )
        prompts = list(where.prompts)
        batch = torch.arange(len(prompts))
        read = torch.tensor(task.read_position[prompts])
        carry = {}
        if where.layer == where.layers[0]:
            at = torch.tensor(task.input_positions[prompts])
            carry["embedding"] = signals["resid_pre"].values[batch[:, None], at]  # [batch, input, d_model]
        if where.layer == where.layers[-1]:
            carry["residual"] = signals["resid_post"].values[batch, read]  # [batch, d_model]
        neurons = signals["mlp_post"].values[batch, read]  # [batch, neuron]
        return Features.of(where.prompts, rows={"neurons": neurons}, carry=carry)

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Add up the embeddings of each value, and read out the logits of the answers."""
        task = _task(where)
        prompts = list(where.prompts)
        embedding = layers[0].carry["embedding"].double().cpu().numpy()  # [batch, input, d_model]
        answers = torch.tensor(task.answer_tokens, device=layers[-1].carry["residual"].device)
        logits = where.readout(layers[-1].carry["residual"])[:, answers]  # [batch, answer]
        n_inputs = len(task.inputs)
        sums = np.zeros((n_inputs, task.n_values, embedding.shape[-1]))
        seen = np.zeros((n_inputs, task.n_values))
        at = (np.arange(n_inputs), task.values[prompts])
        np.add.at(sums, at, embedding)
        np.add.at(seen, at, 1.0)
        return Features.of(
            where.prompts,
            rows={"neurons": np.stack([f.rows["neurons"] for f in layers], axis=1), "logits": logits},
            sums={"embedding": sums, "seen": seen},
        )

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return spectra, key frequencies, and losses with and without them."""
        task = _task(seen)
        n = task.n_values
        cycles = np.arange(1, n // 2 + 1)
        coords: dict[str, Any] = {
            "frequency": cycles / n,
            "input": list(task.inputs),
            "inputs": list(INPUTS),
            "neuron": np.arange(seen.plain.rows["neurons"].shape[-1]),
        }
        out = Labelled(seen, self.name, coords)
        self._add_embedding(out, seen, task)
        found = [self._numbers(seen, members, task) for members in seen.groups.values()]
        for name, (dims, about, units) in VARIABLES.items():
            values = np.stack([each[name] for each in found])
            out.add(name, ("category", *dims), values, about, units)
        data: xr.Dataset = out.dataset().assign_coords(cycles=("frequency", cycles))
        data["frequency"].attrs |= {"long_name": "frequency over values", "units": "cycles per value"}
        data["cycles"].attrs |= {"long_name": "frequency over values", "units": "cycles per value range"}
        return data

    def samples(self, seen: Accumulated) -> dict[str, dict[str, Surrogates]]:
        """Return each neuron's largest share, and what it is when the values are relabelled."""
        task = _task(seen)
        rng = stream(seen.seed, self.name, "relabelled_values")
        orders = [rng.permutation(task.n_values) for _ in range(self.surrogates)]
        given = np.arange(task.n_values)
        found = {}
        for category, members in seen.groups.items():
            table = _table(seen, members, task)
            shares = [_largest_shares(table, order) for order in (given, *orders)]
            found[category] = Surrogates(shares[0], np.stack(shares[1:]))
        return {"neuron_share": found}

    def _add_embedding(self, out: Labelled, seen: Accumulated, task: Task) -> None:
        """Add the spectrum of the embedding over the value of each input."""
        sums, count = seen.plain.sums["embedding"], seen.plain.sums["seen"]
        if (count > 0).all():
            vectors = sums / count[..., None]  # [input, value, d_model]
            power = np.stack([frequency_power(each - each.mean(0), np.arange(len(each))).sum(-1)
                              for each in vectors])  # fmt: skip
            total = ((vectors - vectors.mean(1, keepdims=True)) ** 2).sum((1, 2))
            with np.errstate(invalid="ignore", divide="ignore"):
                power = np.where(total > 0, (power.T / total), np.nan).T
        else:
            power = np.full((len(task.inputs), task.n_values // 2), np.nan)
        what = "share of the embedding's power over the values of an input"
        out.add("embedding_power", ("input", "frequency"), power, f"{what}; {UNMEASURED}", "1")
        uniform = uniform_shares(task.n_values, 1)
        about = f"{what}, if all components had the same"
        out.add(
            "embedding_power_uniform", ("input", "frequency"), np.tile(uniform, (len(power), 1)), about, "1"
        )

    def _numbers(self, seen: Accumulated, members: Array, task: Task) -> dict[str, Array]:
        """Return the variables of one category; see `VARIABLES`."""
        n, n_inputs = task.n_values, len(task.inputs)
        n_layers, n_neurons = seen.plain.rows["neurons"].shape[1:]
        cycles = np.arange(1, n // 2 + 1)
        share = _shares(_table(seen, members, task), np.arange(n))  # [frequency, layer, neuron]
        varies = ~np.isnan(share[0])
        own = np.where(varies, share.argmax(0), 0)
        n_varying = varies.sum(-1)
        holds = (share > self.dominant).sum(-1).T  # [layer, frequency]
        with np.errstate(invalid="ignore", divide="ignore"):
            holds = holds / n_varying[:, None]
        key = (holds >= 1 / len(cycles)).any(0)
        found = {
            "neuron_frequency": np.where(varies, cycles[own] / n, np.nan),
            "neuron_share_uniform": np.full((n_layers, n_neurons), uniform_shares(n, n_inputs)[0]),
            "varying_neurons": n_varying.astype(float),
            "neurons_at_frequency": holds,
            "single_frequency": holds.sum(-1),
        }
        rows = np.flatnonzero(members)
        if not task.complete(seen.plain.prompts[rows]):
            key_or_not = np.full(len(cycles), np.nan)
            return found | {"key_frequencies": key_or_not} | _unmeasured(len(cycles))
        found["key_frequencies"] = key.astype(float)
        return found | logit_numbers(
            seen.plain.rows["logits"][rows], task, seen.plain.prompts[rows], cycles, cycles[key]
        )

    def summary(self, result: Result) -> str:
        """Return the key frequencies, how many neurons have one, and the three losses."""
        data = result.data.sel(category="all")
        if bool(np.isnan(data.variance_explained)):
            return "Not every input of the task was measured, or all answers are alike: there is no spectrum."
        n = round(float(data.cycles[0] / data.frequency[0]))
        keys = [str(c) for c in data.cycles.values[data.key_frequencies.values == 1]]
        varying = int(data.varying_neurons.sum())
        single = float((data.single_frequency * data.varying_neurons).sum()) / max(varying, 1)
        loss, excluded, restricted = data.loss, data.excluded_loss, data.restricted_loss
        learnt = "train" if bool(np.isfinite(loss.sel(inputs="train"))) else "all"
        which = "training inputs" if learnt == "train" else "all inputs"
        guessing = f"guessing: {float(data.loss_uniform.sel(inputs='all')):.2f}"
        neurons = (
            f"{single:.0%} of the {varying} neurons that vary have more than {self.dominant:.0%} of their "
            "power at one frequency"
        )
        if not keys:
            return (
                f"No frequency is key: {neurons}. The loss is {float(loss.sel(inputs='all')):.2g} nat over "
                f"all inputs ({guessing})."
            )
        return (
            f"Key frequencies are {', '.join(keys)} cycles per {n} values; {neurons}. Waves of the answer at "
            f"key frequencies explain {float(data.variance_explained):.1%} of the variance of the logits. "
            f"The loss is {float(loss.sel(inputs='all')):.2g} nat over all inputs, "
            f"{float(restricted.sel(inputs='all')):.2g} from these waves alone, and "
            f"{float(excluded.sel(inputs=learnt)):.2g} without them on {which} ({guessing})."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return the spectra of embedding, neurons and logits."""
        layers = result.data.layer.values.tolist()
        one = len(layers) == 1
        return [
            ViewSpec(
                kind="lines",
                title="Spectrum of the embedding over values",
                says="Share of the power of each input's embedding at each frequency over its value.",
                misleads="values are few: the embedding of a random table has peaks too.",
                variables=("embedding_power",),
                references=("embedding_power_uniform",),
                over="frequency",
                series="input",
                stems=True,
            ),
            ViewSpec(
                kind="lines" if one else "matrix",
                title="Neurons by their own frequency",
                says=f"Share of neurons that have more than {self.dominant:.0%} of their power at a "
                "frequency.",
                misleads="neurons that hardly vary count as much as those that carry the computation.",
                variables=("neurons_at_frequency",),
                select={"category": "all", **({"layer": layers[0]} if one else {})},
                over="frequency",
                stems=one,
            ),
            ViewSpec(
                kind="lines",
                title="Spectrum of the logits over the answer",
                says="Share of the variance of the logits that waves of the answer's value explain.",
                misleads="what knows the answers by heart has waves in its logits too: read the losses with "
                "and without them.",
                variables=("logit_power",),
                references=("logit_power_uniform",),
                select={"category": "all"},
                over="frequency",
                stems=True,
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers with the largest share of neurons at a key frequency."""
        data = result.data.sel(category="all")
        score = data.neurons_at_frequency.where(data.key_frequencies == 1, 0.0).sum("frequency")
        score = score[score.values > 0]
        score = score[np.argsort(-score.values, kind="stable")[:k]]
        return [
            Target(
                site="mlp_post",
                layer=int(value.layer),
                score=float(value),
                reason="share of neurons at key frequencies",
            )
            for value in score
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer of noise, and one where half of the neurons have one of two frequencies."""
        keys = (2, 5)
        task = _sums(11)
        n_neurons = 8
        truth = np.zeros((2, n_neurons), dtype=bool)
        truth[1, : n_neurons // 2] = True
        neurons = rng.normal(0, 1, (len(task), 2, n_neurons))
        neurons += np.where(truth, 10 * _waves(rng, task, truth.shape, keys), 0.0)
        neurons[:, 1, -1] = 0.0  # one that does not vary
        numbers, answers = np.arange(11), task.answers[:, None] - np.arange(11)
        angles = 2 * np.pi * np.multiply.outer(np.array(keys), numbers) / 11
        logits = 3 * np.sum([np.cos(2 * np.pi * k * answers / 11) for k in keys], axis=0)
        embedding = np.concatenate([np.cos(angles), np.sin(angles)]).T @ rng.normal(0, 1, (4, 12))

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all")
            found = data.cycles.values[data.key_frequencies.values == 1].tolist()
            assert found == list(keys), f"the key frequencies are {keys}, and {found} were found"
            sure = (data.neuron_share_q <= 0.05) & (data.neuron_share_effect > self.minimum_effect)
            assert (sure.values == truth).all(), "the neurons that have a frequency were not found"
            assert float(data.variance_explained) > 0.99, "the logits are waves, and are not explained"
            power = data.embedding_power.sel(frequency=np.array(keys) / 11).sum("frequency")
            assert bool((power > 0.99).all()), "the embedding holds other frequencies than were planted"

        return _planted(task, neurons, embedding, logits, expect, truth)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return neurons, embeddings and logits that have nothing to do with the order of values."""
        task = _sums(11)
        neurons = rng.normal(0, 1, (len(task), 2, 8))

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all")
            assert not bool((data.key_frequencies == 1).any()), "noise has a key frequency"
            sure = (data.neuron_share_q <= 0.05) & (data.neuron_share_effect > self.minimum_effect)
            assert not bool(sure.any()), "a neuron of noise has a frequency"

        embedding, logits = rng.normal(0, 1, (11, 12)), rng.normal(0, 1, (len(task), 11))
        return _planted(task, neurons, embedding, logits, expect, np.zeros((2, 8), dtype=bool))

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return twelve neurons of noise, four of them with a wave of ``strength`` standard deviations.

        The noise is independent (``iid``), follows one input alone (``persistent``), is shared by neurons
        (``autocorrelated``), or is over another number of values (``unequal``).
        """
        if world not in WORLDS:
            raise ParameterError(unknown("world", world, WORLDS))
        task = _sums(14 if world == "unequal" else 11)
        shape = (1, 12)
        noise = rng.normal(0, 1, (len(task), *shape))
        if world == "persistent":
            of_value = rng.normal(0, 1, (task.n_values, *shape))
            noise = of_value[task.values[:, int(rng.integers(2))]]
        if world == "autocorrelated":
            shared = rng.normal(0, 1, (len(task), *shape))
            noise = (noise + 2 * shared.cumsum(-1) / np.sqrt(1 + np.arange(shape[1]))) / np.sqrt(5)
        truth = np.zeros(shape, dtype=bool)
        if strength > 0:
            truth[:, :4] = True
        neurons = noise + np.where(truth, strength * _waves(rng, task, shape, (1, 2, 3)), 0.0)
        n = task.n_values
        embedding, logits = rng.normal(0, 1, (n, n + 1)), rng.normal(0, 1, (len(task), n))
        return _planted(task, neurons, embedding, logits, lambda data: None, truth)


NEURON = ("layer", "neuron")
VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "neuron_frequency": (
        NEURON,
        "frequency with the largest share of a neuron's power; not-a-number: it does not vary",
        "cycles per value",
    ),
    "neuron_share_uniform": (NEURON, "share of power at one frequency, if all components had the same", "1"),
    "varying_neurons": (("layer",), "neurons that vary over the inputs", "neurons"),
    "neurons_at_frequency": (
        ("layer", "frequency"),
        "share of neurons whose own frequency it is; not-a-number: no neuron varies",
        "1",
    ),
    "single_frequency": (
        ("layer",),
        "share of neurons that have a frequency of their own; not-a-number: no neuron varies",
        "1",
    ),
    "key_frequencies": (("frequency",), f"1 where the frequency is key, 0 elsewhere; {UNMEASURED}", "1"),
    "logit_power": (
        ("frequency",),
        f"share of the variance of the logits that waves of the answer explain; {UNMEASURED}",
        "1",
    ),
    "logit_power_uniform": (("frequency",), f"the same, if all components had the same; {UNMEASURED}", "1"),
    "variance_explained": (
        (),
        f"share of the variance of the logits at key frequencies of the answer; {UNMEASURED}",
        "1",
    ),
    "variance_explained_uniform": ((), f"the same, if all components had the same; {UNMEASURED}", "1"),
    "loss": (("inputs",), "loss over the answers; not-a-number: no such inputs", "nat"),
    "excluded_loss": (
        ("inputs",),
        "loss without the key frequencies of the answer; not-a-number: no such inputs",
        "nat",
    ),
    "restricted_loss": (
        ("inputs",),
        "loss from the key frequencies of the answer alone; not-a-number: no such inputs",
        "nat",
    ),
    "loss_uniform": (("inputs",), "loss of guessing", "nat"),
    "accuracy": (("inputs",), "share of inputs answered rightly; not-a-number: no such inputs", "1"),
    "accuracy_uniform": (("inputs",), "share of inputs answered rightly by guessing", "1"),
}
"""Dimensions beside the category, what it is, and units."""


def frequency_power(table: Array, order: Array) -> Array:
    """Return the power of each frequency over values, from a table over one or two inputs.

    Parameters
    ----------
    table
        ``[value, ...]`` for one input or ``[value, value, column]`` for two, with zero mean over all values.
    order
        Integers ``[value]``: the place of each value on the axis; ``arange`` for the values as they are.

    Returns
    -------
    array
        ``[frequency, ...]``: the sum of squares that the waves of 1, 2, ... cycles hold. With two inputs
        these are (k, 0), (0, k), (k, k) and (k, -k).
    """
    n = len(order)
    cycles = np.arange(1, n // 2 + 1)
    angles = 2 * np.pi * np.multiply.outer(cycles, order) / n
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(table.dtype)  # [frequency, 2, value]
    # A wave and its mirror image at -k; with an even number of values the last has none.
    twice = np.where(2 * cycles == n, 1, 2).astype(table.dtype)[:, None]
    if table.ndim == 2:
        return np.asarray(twice * ((waves @ table) ** 2).sum(1) / n)
    flat = waves.reshape(-1, n)
    first = (flat @ table.reshape(n, -1)).reshape(len(cycles), 2, n, -1)  # [frequency, 2, value of b, column]
    of_a = (first.sum(2) ** 2).sum(1)
    of_b = ((waves @ table.sum(0)) ** 2).sum(1)
    both = waves[:, None] @ first  # [frequency, wave of a, wave of b, column]
    cc, cs, sc, ss = both[:, 0, 0], both[:, 0, 1], both[:, 1, 0], both[:, 1, 1]
    total = (cc - ss) ** 2 + (sc + cs) ** 2  # (k, k)
    mirrored = (cc + ss) ** 2 + (sc - cs) ** 2  # (k, -k), which is (k, k) where k has no mirror image
    total = total + np.where(twice == 2, mirrored, 0)
    return np.asarray(twice * (of_a + of_b + total) / n**2)


def uniform_shares(n_values: int, n_inputs: int) -> Array:
    """Return the share of each frequency if all components of a table but the mean had the same power."""
    cycles = np.arange(1, n_values // 2 + 1)
    components = np.where(2 * cycles == n_values, (1, 3)[n_inputs - 1], (2, 8)[n_inputs - 1])
    return np.asarray(components / (n_values**n_inputs - 1))


def answer_waves(task: Task, answers: Array, cycles: Array) -> Array:
    """Return orthonormal columns that span cosine and sine of the answers at some frequencies.

    Parameters
    ----------
    task
        It says how many values an input has.
    answers
        Integers ``[prompt]``: values of the answers.
    cycles
        Per value range.

    Returns
    -------
    array
        ``[prompt, column]``, of zero mean; fewer than two columns a frequency where they depend on each
        other.
    """
    angles = 2 * np.pi * np.multiply.outer(answers, cycles) / task.n_values
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    left, sizes, _ = np.linalg.svd(waves - waves.mean(0), full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9 * np.sqrt(len(answers))])


def logit_numbers(
    logits: Array, task: Task, prompts: Sequence[int] | Array, cycles: Array, keys: Array
) -> dict[str, Array]:
    """Return how much of the logits waves of the answer explain, and losses with and without them.

    Parameters
    ----------
    logits
        ``[prompt, answer]``, of every combination of values.
    task
        What the prompts stand for.
    prompts
        Which prompts of the task the rows are.
    cycles
        All frequencies, per value range.
    keys
        Those that are key.
    """
    at = np.asarray(prompts)
    answers = task.answers[at]
    centred = logits - logits.mean(1, keepdims=True)  # to which softmax is indifferent
    mean = centred.mean(0)
    varying = centred - mean
    total = (varying**2).sum()
    waves = answer_waves(task, answers, keys)
    part = waves @ (waves.T @ varying)
    each = [answer_waves(task, answers, cycles[i : i + 1]) for i in range(len(cycles))]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "variance_explained": np.asarray((part**2).sum() / total),
            "logit_power": np.array([((wave.T @ varying) ** 2).sum() for wave in each]) / total,
        }
    found["logit_power_uniform"] = np.array([wave.shape[1] for wave in each]) / (len(at) - 1)
    found["variance_explained_uniform"] = np.asarray(waves.shape[1] / (len(at) - 1))
    everything = np.ones(len(at), dtype=bool)
    nothing = np.zeros(len(at), dtype=bool)
    learnt = nothing if task.train is None else task.train[at]
    others = nothing if task.train is None else ~task.train[at]
    for name, some in (
        ("loss", centred),
        ("excluded_loss", centred - part),
        ("restricted_loss", mean + part),
    ):
        loss = _losses(some, answers)
        found[name] = np.array([_mean(loss[m]) for m in (everything, learnt, others)])
    right = (logits.argmax(1) == answers).astype(float)
    found["accuracy"] = np.array([_mean(right[m]) for m in (everything, learnt, others)])
    found["loss_uniform"] = np.full(len(INPUTS), np.log(logits.shape[1]))
    found["accuracy_uniform"] = np.full(len(INPUTS), 1 / logits.shape[1])
    return found


def _losses(logits: Array, answers: Array) -> Array:
    """Return the cross-entropy of each prompt in nats."""
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(answers)), answers]
    return np.asarray(np.log(np.exp(shifted).sum(1)) - chosen)


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else float("nan")


def _unmeasured(n_frequencies: int) -> dict[str, Array]:
    """Return the variables about logits where there is nothing to say."""
    sizes = {"frequency": n_frequencies, "inputs": len(INPUTS)}
    names = [name for name, (dims, _, _) in VARIABLES.items() if "layer" not in dims]
    return {
        name: np.full([sizes[dim] for dim in VARIABLES[name][0]], np.nan)
        for name in names
        if name != "key_frequencies"
    }


def _task(about: Where | Accumulated) -> Task:
    """Return the task, or say what is needed."""
    task = about.task
    if task is None:
        raise AnalysisError(
            "fourier_features needs a task: give run a resonance_lens.tasks.Task in the place of prompts."
        )
    if len(task.inputs) > 2:
        raise AnalysisError(
            f"fourier_features takes tasks of one or two inputs; {task.name} has {len(task.inputs)}."
        )
    return task


def _table(seen: Accumulated, members: Array, task: Task) -> Array:
    """Return centred activations by value, ``[value, (value,) layer, neuron]``; not-a-number if incomplete.

    Neurons that do not vary are not-a-number too.
    """
    rows = np.flatnonzero(members)
    neurons = seen.plain.rows["neurons"]
    table = np.full((*[task.n_values] * len(task.inputs), *neurons.shape[1:]), np.nan)
    prompts = seen.plain.prompts[rows]
    if not task.complete(prompts):
        return table
    table[tuple(task.values[prompts].T)] = neurons[rows]
    axes = tuple(range(len(task.inputs)))
    size = (table**2).mean(axes)
    table -= table.mean(axes)
    table[..., (table**2).mean(axes) <= DEAD**2 * size] = np.nan
    return table


def _shares(table: Array, order: Array) -> Array:
    """Return the share of power of each frequency, ``[frequency, layer, neuron]``."""
    n, places = len(order), table.shape[-2:]
    over_values = table.shape[:-2]
    flat = table.reshape(*over_values, -1)
    share = np.empty((n // 2, flat.shape[-1]))
    at_once = max(1, NUMBERS_AT_ONCE // n ** len(over_values))
    for start in range(0, flat.shape[-1], at_once):
        some = flat[..., start : start + at_once]
        total = (some**2).sum(tuple(range(len(over_values))))
        share[:, start : start + at_once] = frequency_power(some, order) / total
    return share.reshape(-1, *places)


def _largest_shares(table: Array, order: Array) -> Array:
    """Return the largest share of each neuron, ``[layer, neuron]``."""
    return np.asarray(_shares(table, order).max(0))


def _sums(n_values: int) -> Task:
    """Return addition modulo a number with some prompts one token longer, for what is planted."""
    a, b = np.divmod(np.arange(n_values**2), n_values)
    shift = (a + b) % 2
    rows = np.stack([a, b, np.full_like(a, n_values)], axis=1).tolist()
    return Task(
        name="planted addition",
        tokens=[[n_values] * int(more) + row for more, row in zip(shift, rows, strict=True)],
        values=np.stack([a, b], axis=1),
        inputs=("a", "b"),
        input_positions=shift[:, None] + np.arange(2),
        n_values=n_values,
        cyclic=True,
        answers=(a + b) % n_values,
        answer_tokens=np.arange(n_values),
        train=np.arange(len(a)) % 3 > 0,
    )


def _waves(rng: np.random.Generator, task: Task, shape: tuple[int, int], keys: Sequence[int]) -> Array:
    """Return ``[prompt, layer, neuron]``: each neuron a wave of unit variance, over a, b or their sum.

    Their frequencies are the keys in turn.
    """
    cycles = np.broadcast_to(np.resize(keys, shape[1]), shape)
    directions = np.array([(1, 0), (0, 1), (1, 1)])[rng.integers(3, size=shape)]  # [layer, neuron, input]
    turns = (task.values @ directions.reshape(-1, 2).T).reshape(-1, *shape) * cycles / task.n_values
    return np.asarray(np.sqrt(2) * np.cos(2 * np.pi * (turns + rng.uniform(0, 1, shape))))


def _planted(
    task: Task, neurons: Array, embedding: Array, logits: Array, expect: Any, truth: Array
) -> Planted:
    """Return arrays as sites of a model; its residual stream is its logits.

    Parameters
    ----------
    task
        What the prompts stand for.
    neurons
        ``[prompt, layer, neuron]`` where the model answers.
    embedding
        ``[value, d_model]``, with as many dimensions as there are tokens.
    logits
        ``[prompt, answer]``.
    expect, truth
        As in `Planted`.
    """
    lengths = torch.tensor([len(row) for row in task.tokens])
    n_layers, d_model = neurons.shape[1], task.n_values + 1
    facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=d_model, d_vocab=d_model)
    rows = np.arange(len(task))
    layers = []
    for layer in range(n_layers):
        pre = np.zeros((len(task), int(lengths.max()), d_model))
        pre[rows[:, None], task.input_positions] = embedding[task.values] + np.array([[0.5], [-0.5]])
        post, active = np.zeros_like(pre), np.zeros((*pre.shape[:2], neurons.shape[-1]))
        post[rows, task.read_position, : task.n_values] = logits
        active[rows, task.read_position] = neurons[:, layer]
        sites = {"resid_pre": pre, "mlp_post": active, "resid_post": post}
        layers.append({site: torch.as_tensor(values, dtype=torch.float32) for site, values in sites.items()})
    return Planted(
        layers,
        lengths,
        facts,
        expect,
        readout=lambda residual: residual,
        task=task,
        truth={"neuron_share": truth},
    )
