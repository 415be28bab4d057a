"""Phases, amplitudes and shifts along tokens, against numpy's Fourier transform and slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.patching.operations import Operation
from resonance_lens.patching.operations.phases import (
    ScrambleAmplitude,
    ScramblePhase,
    Shift,
    SwapAmplitude,
    SwapPhase,
)
from tests.patching.scenes import scene_of, values_of

Complex = NDArray[np.complex128]


def spectrum(values: Tensor, row: int, length: int) -> Complex:
    """Return numpy's transform ``[frequency, feature]`` of a record from position 1 on."""
    found: Complex = np.fft.rfft(values[row, 1:length].numpy(), axis=0)
    return found


def free(length: int) -> slice:
    """Return the frequencies that have a phase, in a prompt whose record begins at position 1."""
    return slice(1, (length - 2) // 2 + 1)


def edited(done: Operation, lengths: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    values, donor = values_of(lengths, 3, seed), values_of(lengths, 3, seed + 1)
    scene = scene_of(lengths, donor=donor if done.donor else None, seed=seed)
    return values, donor, done.edit(values, scene)


LENGTHS = st.lists(st.integers(4, 33), min_size=1, max_size=3)


@given(LENGTHS, st.integers(0, 99))
@settings(max_examples=40)
def test_scrambled_phases_keep_the_amplitude_of_every_feature(lengths: list[int], seed: int) -> None:
    values, _, made = edited(ScramblePhase(), lengths, seed)
    for row, length in enumerate(lengths):
        before, after = spectrum(values, row, length), spectrum(made, row, length)
        np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-10)
        # One angle for all features, none for the mean and the highest frequency of an even number.
        turn = after / before
        np.testing.assert_allclose(turn, turn[:, :1].repeat(3, axis=1), atol=1e-8)
        fixed = np.ones(len(turn), dtype=bool)
        fixed[free(length)] = False
        np.testing.assert_allclose(turn[fixed], 1, atol=1e-8)
        assert torch.equal(made[row, 0], values[row, 0])
    assert not torch.allclose(made[0, 1 : lengths[0]], values[0, 1 : lengths[0]])


@given(LENGTHS, st.integers(0, 99))
@settings(max_examples=40)
def test_scrambled_amplitudes_keep_phases_and_power(lengths: list[int], seed: int) -> None:
    values, _, made = edited(ScrambleAmplitude(), lengths, seed)
    for row, length in enumerate(lengths):
        before, after = spectrum(values, row, length), spectrum(made, row, length)
        ratio = after / before
        np.testing.assert_allclose(ratio.imag, 0, atol=1e-7)
        assert (ratio.real > 0).all()
        amplitudes = [np.linalg.norm(each[free(length)], axis=1) for each in (before, after)]
        np.testing.assert_allclose(np.sort(amplitudes[1]), np.sort(amplitudes[0]), rtol=1e-9)
        torch.testing.assert_close(made[row, 1:length].square().sum(), values[row, 1:length].square().sum())


@given(LENGTHS, st.integers(0, 99))
@settings(max_examples=40)
def test_swapped_phases_and_amplitudes_are_those_of_the_vectors(lengths: list[int], seed: int) -> None:
    values, donor, phased = edited(SwapPhase(), lengths, seed)
    _, _, sized = edited(SwapAmplitude(), lengths, seed)
    for row, length in enumerate(lengths):
        mine, theirs, phase, size = (
            spectrum(each, row, length)[free(length)] for each in (values, donor, phased, sized)
        )
        norm = {name: np.linalg.norm(each, axis=1, keepdims=True)
                for name, each in {"mine": mine, "theirs": theirs}.items()}  # fmt: skip
        np.testing.assert_allclose(phase, theirs / norm["theirs"] * norm["mine"], atol=1e-9)
        np.testing.assert_allclose(size, mine / norm["mine"] * norm["theirs"], atol=1e-9)
        for made in (phased, sized):
            torch.testing.assert_close(made[row, 1:length].mean(0), values[row, 1:length].mean(0))


def test_a_rotation_of_the_features_goes_through() -> None:
    values, donor = values_of((24, 17), 4), values_of((24, 17), 4, seed=1)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())[0]
    for done in (SwapPhase(), SwapAmplitude(), ScramblePhase(), ScrambleAmplitude()):
        before = done.edit(values, scene_of((24, 17), seed=3, donor=donor))
        after = done.edit(values @ turn, scene_of((24, 17), seed=3, donor=donor @ turn))
        torch.testing.assert_close(after[0], before[0] @ turn, rtol=1e-9, atol=1e-9)


def test_a_donor_without_amplitude_leaves_the_phase_that_there_is() -> None:
    values = values_of((16,))
    constant = torch.full_like(values, 3.0)
    made = SwapPhase().edit(values, scene_of((16,), donor=constant))
    torch.testing.assert_close(made, values)
    dead = torch.zeros_like(values)
    for done in (ScramblePhase(), ScrambleAmplitude()):
        assert torch.equal(done.edit(dead, scene_of((16,), seed=0)), dead)


def test_another_seed_draws_something_else() -> None:
    values = values_of((16,))
    for done in (ScramblePhase(), ScrambleAmplitude()):
        first, again, other = (done.edit(values, scene_of((16,), seed=seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("m", [-3, -1, 0, 1, 4])
def test_a_shift_is_a_slice(m: int, first: int) -> None:
    lengths = (9, 7)
    values = values_of(lengths)
    shift = Shift(tokens=m, first_position="keep" if first else "edit")
    made = shift.edit(values, scene_of(lengths))
    for row, n in enumerate(lengths):
        wanted = values[row].numpy().copy()
        record = values[row, first:n].numpy()
        if m >= 0:
            wanted[first + m : n] = record[: len(record) - m]
        else:
            wanted[first : n + m] = record[-m:]
        np.testing.assert_array_equal(made[row].numpy(), wanted)
