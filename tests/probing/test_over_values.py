"""A probe finds the key frequencies of modular addition without being told, and none where there are none."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.errors import ModelError, ParameterError
from resonance_lens.hooks import attach
from resonance_lens.hooks.twin import random_twin
from resonance_lens.probing.over_values import probe_over_values, probe_records
from resonance_lens.testbed.modular_addition import MODULUS, load_modular_addition, modular_addition_task

P = MODULUS


@cache
def probed(which: str) -> xr.Dataset:
    if which == "twin":
        twin = random_twin(attach(load_modular_addition()), 0)
        return probe_over_values(twin, modular_addition_task(), epochs=20)
    return probe_over_values(load_modular_addition(which), modular_addition_task(), epochs=60)


def neurons() -> NDArray[np.float64]:
    """Return the neurons over all pairs, ``[a, b, neuron]``, by a hook of TransformerLens alone."""
    model = load_modular_addition()
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(modular_addition_task().tokens))
    return np.asarray(cache["blocks.0.mlp.hook_post"][:, -1].double().reshape(P, P, -1))


def keys() -> list[int]:
    """Return the key frequencies by the rule of Nanda et al. 2023, in numpy: those of neurons with one.

    A neuron has a frequency if more than 0.85 of its power lies there, over both inputs and without the mean.
    """
    values = neurons()
    power = abs(np.fft.fft2(values - values.mean((0, 1)), axes=(0, 1))) ** 2  # [a, b, neuron]
    share = []
    for k in range(1, P // 2 + 1):
        at = {(i, j) for i in (0, k, P - k) for j in (0, k, P - k)} - {(0, 0)}
        share.append(sum(power[i, j] for i, j in at) / power.sum((0, 1)))
    own = np.argmax(share, axis=0)[np.max(share, axis=0) > 0.85] + 1
    return sorted(set(own.tolist()))


def test_the_filter_is_open_at_the_key_frequencies_and_nowhere_else() -> None:
    data = probed("final")
    assert data.cycles.values[data.open.values].tolist() == keys() == [5, 15, 16, 25]
    waves = data.gain[1:]
    assert float(waves.where(~data.open[1:]).max()) < 0.2 * float(waves.max())  # nothing is in between
    assert float(data.accuracy) > 0.99


def test_linear_probes_read_the_key_frequencies_and_what_relu_makes_of_them() -> None:
    """The four best are the keys; multiples and sums are read too, and so reading alone does not tell."""
    data = probed("final")
    ranked = data.r_squared.fillna(-1).argsort().values[::-1]
    assert sorted(ranked[:4].tolist()) == keys() and float(data.r_squared[keys()].min()) > 0.9
    others = {int(k) for k in ranked[4:] if float(data.r_squared[k]) > 0.5}
    made = {
        min((m * k + n * j) % P, -(m * k + n * j) % P)
        for k in keys()
        for j in keys()
        for m, n in ((2, 0), (3, 0), (1, 1), (1, -1))
    }
    assert others and others <= made


def test_shuffled_answers_and_random_weights_leave_chance() -> None:
    final, twin = probed("final"), probed("twin")
    for score in (final.accuracy_shuffled, twin.accuracy):
        assert float(score) < 0.04  # chance is 1 / 59 = 0.017, of 708 answers
    assert not bool(twin.open.any()) and float(twin.r_squared.max()) < 0.1


@pytest.mark.parametrize("planted", [(3, 11), (7,)])
def test_frequencies_that_are_planted_are_found(planted: tuple[int, ...]) -> None:
    """Neurons that add angles, in front of others, louder, that know one input alone."""
    p = 23
    b, a = np.mgrid[:p, :p]
    turn = 2 * np.pi / p
    answer = [wave(turn * k * (a + b)) for k in planted for wave in (np.cos, np.sin)]
    alone = [wave(turn * k * each) for k in (2, 5) for each in (a, b) for wave in (np.cos, np.sin)]
    values = np.stack([*answer, *(3 * each for each in alone)], axis=-1)
    mixed = values @ np.random.default_rng(0).standard_normal((values.shape[-1], 24))
    data = probe_records(torch.from_numpy(mixed).float(), (a + b) % p, epochs=200)
    assert data.cycles.values[data.open.values].tolist() == list(planted)
    # One wave alone hardly tells neighbouring answers apart: the filter finds it long before they are right.
    assert float(data.accuracy) > (0.95 if len(planted) > 1 else 0.13)
    assert float(data.accuracy_shuffled) < 0.12  # chance is 1 / 23 = 0.043


def test_what_cannot_be_probed_is_said_in_a_sentence() -> None:
    task = modular_addition_task()
    model = load_modular_addition()
    with pytest.raises(ParameterError, match="two cyclic inputs, every pair"):
        probe_over_values(model, task.take(range(100)))
    with pytest.raises(ParameterError, match="'layer' parameter of probe_over_values must be a layer out of"):
        probe_over_values(model, task, layer=1)
    _, cache = model.run_with_cache(torch.tensor(task.tokens[:2]))
    with pytest.raises(ModelError, match="an ActivationCache holds one pass"):
        probe_over_values(cache, task)
    with pytest.raises(ParameterError, match="got 4 records of 4 values"):
        probe_records(torch.zeros(4, 4, 2), np.zeros((4, 4), dtype=np.int64))
