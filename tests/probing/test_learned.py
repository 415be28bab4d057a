"""Probes that are trained by gradient: what a hidden layer and a tuned start are for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from resonance_lens.nn import FourierHead, HiddenHead, OscillatorBank
from resonance_lens.probing.bins import BINS, bin_edges, bin_of
from resonance_lens.probing.learned import (
    DRAWN,
    TUNED,
    Learned,
    LearnedFitted,
    fourier_head,
    linear_softmax,
    oscillator_bank,
)
from resonance_lens.probing.material import Material
from resonance_lens.probing.saving import load_probe, save_probe
from resonance_lens.probing.specimen import _coherence
from resonance_lens.probing.tuned import _components, tuned_bank
from tests.probing.material import documents, material, reader
from tests.probing.test_probes import fit, ordered

TOKENS = 48


def rhythmic(frequency: float, amplitude: float = 2.0) -> tuple[Material, NDArray[np.float64]]:
    """Return documents of two classes, of which one has a cosine of random phase in one direction."""
    docs = documents(n=60, n_windows=1, tokens=TOKENS)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(60) % 2)
    phases = rng.uniform(0, 2 * np.pi, (60, 1))
    wave = amplitude * np.cos(2 * np.pi * frequency * np.arange(TOKENS) + phases) * labels[:, None]
    x = rng.standard_normal((60, TOKENS, 8)) + wave[..., None] * rng.standard_normal(8) / np.sqrt(8)
    return material(docs, np.repeat(labels, TOKENS).astype(float), level="document"), x * rng.uniform(1, 9, 8)


@pytest.mark.parametrize("frequency", [0.04, 0.293])
def test_a_tuned_bank_beats_its_shuffled_control_and_finds_the_frequency(
    frequency: float, tmp_path: Path
) -> None:
    made, x = rhythmic(frequency)
    scored, fitted = fit(oscillator_bank(labellings=2, epochs=1), made, x)
    assert isinstance(fitted, LearnedFitted) and isinstance(fitted.module, OscillatorBank)
    assert fitted.start == TUNED
    of_label, shuffled = (tally.score() for tally in scored.test)
    assert of_label > 0.85 and shuffled < 0.65
    assert fitted.module.frequencies[0, 0].item() == pytest.approx(frequency, rel=0.02)
    assert int(fitted.module.importance.argmax()) == 0
    save_probe(tmp_path / "bank", fitted, {})
    loaded, _ = load_probe(tmp_path / "bank")
    assert isinstance(loaded, LearnedFitted) and loaded.start == TUNED
    some = torch.from_numpy(x[:3]).float()
    assert (loaded.predict(some) == fitted.predict(some)).all()


def test_without_a_rhythm_a_bank_is_at_chance() -> None:
    scored, _ = fit(oscillator_bank(labellings=1, epochs=1), *rhythmic(0.2, amplitude=0.0))
    assert scored.test[0].score() < 0.65


def test_the_start_is_an_epoch_too() -> None:
    """A bank whose first steps destroy what tuning found goes back to it: the start is an epoch, too."""
    made, x = rhythmic(0.2)
    _, fitted = fit(oscillator_bank(labellings=1, epochs=1, learning_rate=1e3), made, x)
    assert isinstance(fitted, LearnedFitted) and isinstance(fitted.module, OscillatorBank)
    assert fitted.module.frequencies[0, 0].item() == pytest.approx(0.2, rel=0.02)


def test_labels_that_change_within_a_window_are_not_tuned_to() -> None:
    docs = documents(n=12, n_windows=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 64, 5))
    made = material(docs, (x[..., 0] > 0).astype(float).ravel())
    _, fitted = fit(oscillator_bank(labellings=1, epochs=1), made, x)
    assert isinstance(fitted, LearnedFitted) and fitted.start == DRAWN


def test_the_tuned_start_does_with_features_what_it_was_tuned_to_do_with_their_components() -> None:
    made, x = rhythmic(0.2)
    train = made.examples(reader(x), 8, "all", "train", n_labellings=1)
    bank = tuned_bank(OscillatorBank(8, 3, 2, seed=1), lambda features: features, train, 0)
    assert bank is not None and bank.in_features == 8
    # Levels do not count: the same rhythms with a number added to each feature of each window.
    moved = x + 5 * np.random.default_rng(1).standard_normal((60, 1, 8))
    other = made.examples(reader(moved), 8, "all", "train", n_labellings=1)
    again = tuned_bank(OscillatorBank(8, 3, 2, seed=1), lambda features: features, other, 0)
    assert again is not None
    torch.testing.assert_close(again.frequencies[0], bank.frequencies[0], rtol=1e-3, atol=0)


def test_of_two_starts_validation_takes_the_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_bank(*given: Any) -> OscillatorBank | None:
        bank = tuned_bank(*given)
        assert bank is not None
        with torch.no_grad():
            bank.weight.neg_()
            bank.bias.neg_()
        return bank

    monkeypatch.setattr("resonance_lens.probing.learned.tuned_bank", reversed_bank)
    _, fitted = fit(oscillator_bank(labellings=1, epochs=1, learning_rate=1e-9), *rhythmic(0.2))
    assert isinstance(fitted, LearnedFitted) and fitted.start == DRAWN


def test_components_are_of_what_varies_within_windows_and_of_variance_one() -> None:
    made, x = rhythmic(0.2)
    moved = x + 5 * np.random.default_rng(1).standard_normal((60, 1, 8))
    train, other = (made.examples(reader(each), 8, "all", "train", n_labellings=1) for each in (x, moved))
    projection = _components(lambda features: features, train, 3)
    within = torch.cat([w.features - w.features.mean(1, keepdim=True) for w in train]).flatten(0, 1)
    torch.testing.assert_close((within @ projection).square().mean(0), torch.ones(3), rtol=1e-3, atol=0)
    again = _components(lambda features: features, other, 3)
    torch.testing.assert_close(again.abs(), projection.abs(), rtol=1e-2, atol=1e-4)


def test_coherence_of_a_class_is_the_mean_over_its_test_tokens_slow_oscillators_first() -> None:
    made, x = rhythmic(0.2)
    _, fitted = fit(oscillator_bank(labellings=1, epochs=1), made, x)
    assert isinstance(fitted, LearnedFitted) and isinstance(fitted.module, OscillatorBank)
    material = SimpleNamespace(labels=made.labels, stored=lambda *_: reader(x), examples=made.examples)
    asked: Any = SimpleNamespace(material=material, width=8)
    store: Any = None
    found = _coherence(asked, store, fitted, ("oscillator_bank", 0, "all"))["coherence"]
    order = fitted.module.frequencies[:, 0].argsort()
    for number in range(len(made.labels.classes)):
        rows = []
        for windows in made.examples(reader(x), 8, "all", "test", n_labellings=1):
            coherence = fitted.module.synchrony(fitted.standardised(windows.features)).coherence.detach()
            rows.append(coherence[torch.from_numpy(windows.labels[..., 0] == number)])
        np.testing.assert_allclose(found[number], torch.cat(rows).mean(0)[order], atol=1e-6)


def test_a_hidden_layer_is_what_a_fourier_head_needs() -> None:
    made, x = ordered()
    settings: dict[str, Any] = {"labellings": 1, "epochs": 20, "learning_rate": 0.02}
    fourier, linear = (fit(make(**settings), made, x) for make in (fourier_head, linear_softmax))
    assert fourier[0].n_parameters == linear[0].n_parameters
    assert fourier[0].test[0].score() > 0.9 and linear[0].test[0].score() > 0.9
    direct = Learned(
        "direct", lambda n, bins, seed: FourierHead(n, bins, 8, seed=seed), along=False, **settings
    )
    assert fit(direct, made, x)[0].test[0].score() < 0.7


def test_densities_of_the_fourier_head_are_smoother() -> None:
    from resonance_lens.nn import smoothness

    made, x = ordered()
    rough = []
    for make in (fourier_head, linear_softmax):
        _, fitted = fit(make(labellings=1, epochs=6, learning_rate=0.01), made, x)
        assert isinstance(fitted, LearnedFitted)
        assert isinstance(fitted.module, HiddenHead)
        density = fitted.probabilities(torch.from_numpy(x[:4]).float())
        rough.append(float(smoothness(torch.from_numpy(density)).mean()))
    assert rough[0] < rough[1]


@given(st.lists(st.integers(-50, 400), min_size=2, max_size=60).filter(lambda v: len(set(v)) > 1))
def test_bins_of_whole_numbers_hold_equally_many(values: list[int]) -> None:
    edges = bin_edges(np.array(values, dtype=float))
    width = edges[1] - edges[0]
    assert len(edges) % 2 == 1 and len(edges) - 1 <= BINS
    assert (np.diff(edges) == width).all() and width == int(width)
    assert (edges % 1 == 0.5).all()  # no number on an edge
    inside = np.arange(edges[0] + 0.5, edges[-1])
    assert (np.bincount(bin_of(inside, edges)) == width).all()
    low, high = np.quantile(values, [0.01, 0.99])
    assert edges[0] < low and high < edges[-1]


def test_bins_of_other_numbers_are_of_one_width_with_a_margin() -> None:
    values = np.random.default_rng(0).uniform(0, 2, 1000)
    edges = bin_edges(values)
    assert len(edges) == BINS + 1 and edges[0] == pytest.approx(-0.5, abs=0.05)
    assert bin_of(np.array([-99.0, 99.0]), edges).tolist() == [0, BINS - 1]
