"""A bank is tuned: it finds a planted rhythm, reports its frequency, and finds none where there is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.nn import OscillatorBank, locking
from tests.benchmarks.oscillator_bank import (
    KINDS,
    LEVEL,
    N_TRAIN,
    PLANTED,
    Update,
    accuracy,
    halves,
    records,
    shuffled,
)


@pytest.mark.parametrize("frequency", PLANTED)
@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_finds_a_planted_rhythm(update: Update, dimension: int, frequency: float) -> None:
    train, held_out = halves(records(frequency, N_TRAIN + 256, seed=0))
    bank = OscillatorBank(6, 4, 2, update=update, dimension=dimension, window=48)
    found = bank.tune(*train)
    assert found[0].label == 1
    assert bank.frequencies[0, 0].item() == pytest.approx(frequency, rel=0.02)
    assert accuracy(bank, *held_out) > 0.75
    seen = locking(bank, *held_out)
    assert seen.p[0] == pytest.approx(1 / 1000) and seen.classes[0] == 1
    assert float(seen.frequencies[0, 0]) == bank.frequencies[0, 0].item()
    # Under noise as strong as the rhythm a phase slips: the observed rate is the rougher figure.
    assert float(seen.rates[0, 0]) == pytest.approx(frequency, abs=0.003)


def test_a_read_out_of_every_token_is_right_before_the_end() -> None:
    """The rhythm ends before the records do: at the end no class has it, in the middle one does."""
    x, labels, lengths = records(0.167, N_TRAIN + 128, seed=2, amplitude=3.0)
    silent = records(0.167, N_TRAIN + 128, seed=2, amplitude=0.0)[0]
    x[:, 40:] = silent[:, 40:]
    train, (held_out, theirs, n_real) = halves((x, labels, lengths))
    right = {}
    for every_token in (False, True):
        bank = OscillatorBank(6, 4, 2, window=12)
        bank.tune(*train, every_token=every_token)
        with torch.no_grad():
            said = bank(held_out, n_real)[:, 20:40].argmax(-1)
        right[every_token] = float((said == theirs[:, None]).double().mean())
    assert right[True] > 0.9 and right[True] > right[False] + 0.05, right


def test_frequency_is_that_of_least_squares() -> None:
    """With no noise what is left is rounding, at two cycles in a record as well."""
    x, labels, lengths = records(0.04, 64, seed=3, amplitude=1e4)
    assert OscillatorBank(6, 1, 2).tune(x, labels, lengths)[0].frequency == pytest.approx(0.04, rel=1e-3)


def test_levels_of_records_do_not_matter() -> None:
    x, labels, lengths = records(0.04, 128, seed=0)
    levels = torch.randn(128, 1, 6, generator=torch.Generator().manual_seed(0))
    plain, moved = (OscillatorBank(6, 3, 2).tune(it, labels, lengths) for it in (x, x + 100 * levels))
    assert [one.frequency for one in moved] == pytest.approx([one.frequency for one in plain], rel=1e-4)
    assert [one.score for one in moved] == pytest.approx([one.score for one in plain], rel=1e-3)


@pytest.mark.parametrize("frequency", [0.1, 0.3])
def test_a_turning_pair_of_features_has_a_complex_direction(frequency: float) -> None:
    x, labels, lengths = records(frequency, 64, seed=1, amplitude=0.0)
    phases = 2 * math.pi * torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    angle = 2 * math.pi * frequency * torch.arange(64) + phases
    x[..., 2] += labels[:, None] * angle.cos()
    x[..., 4] += labels[:, None] * angle.sin()
    bank = OscillatorBank(6, 2, 2, window=48)
    rhythm = bank.tune(x, labels, lengths)[0]
    assert rhythm.frequency == pytest.approx(frequency, rel=0.02)
    wanted = torch.tensor([0, 0, 1, 0, -1j, 0], dtype=torch.complex128) / math.sqrt(2)
    assert abs(torch.vdot(wanted, rhythm.direction)) > 0.95
    # The drive turns as the oscillator does: half of its power is the rhythm's, and would be none mirrored.
    assert locking(bank, x, labels, lengths).contrast[0] > 0.4


def test_two_rhythms_of_three_classes() -> None:
    first, second = records(0.11, 90, seed=5), records(0.34, 90, seed=6)
    x = torch.cat([first[0], second[0][second[1] == 1]])
    labels = torch.cat([first[1], torch.full((45,), 2)])
    lengths = torch.cat([first[2], second[2][second[1] == 1]])
    found = OscillatorBank(6, 3, 3).tune(x, labels, lengths)
    clearest = {one.label: one.frequency for one in reversed(found) if one.label}
    assert clearest == pytest.approx({1: 0.11, 2: 0.34}, rel=0.02)


@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_shuffled_labels_are_found_no_more_often_than_the_level(update: Update, dimension: int) -> None:
    """Declared found: p of the first oscillator, on records that it was not tuned on, at most the level."""
    from scipy.stats import binom

    repetitions = 30
    declared = fooled = 0
    for repetition in range(repetitions):
        planted = records(PLANTED[repetition % 4], 128, seed=100 + repetition)
        train, held_out = halves(shuffled(planted, repetition), 64)
        bank = OscillatorBank(6, 2, 2, update=update, dimension=dimension, window=48)
        bank.tune(*train)
        declared += int(locking(bank, *held_out, n_permutations=199, seed=repetition).p[0] <= LEVEL)
        fooled += int(locking(bank, *train, n_permutations=199, seed=repetition).p[0] <= LEVEL)
    assert declared <= binom.ppf(0.99, repetitions, LEVEL)
    assert fooled > binom.ppf(0.99, repetitions, LEVEL)  # what the records of training would have said


def test_one_output_says_the_same_as_two() -> None:
    x, labels, lengths = records(0.2, 64, seed=2)
    two, one = OscillatorBank(6, 3, 2), OscillatorBank(6, 3, 1)
    for bank in (two, one):
        bank.tune(x, labels, lengths)
    with torch.no_grad():
        wanted = two(x, lengths) @ torch.tensor([[-1.0], [1.0]])
        torch.testing.assert_close(one(x, lengths), wanted, rtol=1e-3, atol=1e-3)


def test_discriminant_is_that_of_scikit_learn() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from resonance_lens.nn.tuning import discriminant

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (400,), generator=generator)
    features = torch.randn(400, 4, generator=generator, dtype=torch.float64) + labels[:, None]
    weight, bias = discriminant(features, labels, 3)
    ours = (features @ weight.T + bias).softmax(-1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features.numpy(), labels.numpy())
    torch.testing.assert_close(
        ours, torch.from_numpy(theirs.predict_proba(features.numpy())), rtol=0, atol=0.01
    )


def test_tuning_draws_nothing() -> None:
    x, labels, lengths = records(0.2, 32, seed=4)
    before = torch.get_rng_state()
    one, two = OscillatorBank(6, 3, 2), OscillatorBank(6, 3, 2)
    for bank in (one, two):
        bank.tune(x, labels, lengths)
    assert torch.equal(one(x, lengths), two(x, lengths))
    assert torch.equal(locking(one, x, labels, lengths).p, locking(two, x, labels, lengths).p)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1, 0, 2]), "from 0 to 1 at least twice"),
        (torch.tensor([0, 0, 0, 1]), r"got 'counts \[3, 1\]'"),
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), "4 integers"),
        (torch.tensor([0, 1, 0]), "4 integers"),
    ],
)
def test_labels_that_are_refused(labels: Tensor, said: str) -> None:
    bank = OscillatorBank(3, 2, 2)
    with pytest.raises(ParameterError, match=said):
        bank.tune(torch.zeros(4, 9, 3), labels)
    with pytest.raises(ParameterError, match=said):
        locking(bank, torch.zeros(4, 9, 3), labels)


def test_what_else_is_refused() -> None:
    bank, x, labels = OscillatorBank(3, 2, 2), torch.zeros(4, 9, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ParameterError, match="4 tokens or more each; got 3"):
        bank.tune(x, labels, torch.tensor([9, 3, 9, 9]))
    with pytest.raises(ParameterError, match="'n_permutations'"):
        locking(bank, x, labels, n_permutations=0)
