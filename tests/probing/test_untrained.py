"""Probes before training: as they begin, on the scale of their features, and at chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens.probing.asked import PROBES
from resonance_lens.probing.examples import Examples
from resonance_lens.probing.linear import Linear, LinearFitted, untrained_linear
from resonance_lens.probing.places import Scored, fit_and_score, tallies
from tests.probing.material import documents, material, reader


def made(kind: Any, seed: int = 0) -> tuple[Examples, Examples, Examples]:
    """Return parts of an easy label, in features whose scales and means differ."""
    docs, rng = documents(n=20, n_windows=2, tokens=16), np.random.default_rng(seed)
    n = 40 * 16
    features = rng.standard_normal((n, 6))
    values = (features[:, 0] > 0).astype(float) if kind == "classes" else 7 + 3 * features[:, 0]
    wide = (features * 10.0 ** np.arange(6) + 100).reshape(40, 16, 6)
    found = material(docs, values, kind=kind, seed=seed)
    train, validation, test = (
        found.examples(reader(wide), 6, "all", part) for part in ("train", "validation", "test")
    )
    return train, validation, test


@pytest.mark.parametrize("name", PROBES)
def test_it_knows_nothing_is_the_same_every_time_and_looks_at_the_first_windows_alone(name: str) -> None:
    probe = PROBES[name]()
    # Some learn ordered labels alone. The sparse one can be drawn where it cannot be fitted.
    kind = "ordered" if name in ("fourier_head", "linear_softmax") else "classes"
    train, _, test = made(kind)
    pulled = []

    def counted() -> Any:
        for windows in train:
            pulled.append(1)
            yield windows

    watched = Examples(counted, train.kind, train.classes, 6, train.n_labellings, train.seed)
    one, two = probe.untrained(watched), probe.untrained(train)
    assert 1 <= len(pulled) <= 3  # mean and scale, and edges of bins
    for windows in test:
        np.testing.assert_array_equal(one.predict(windows.features), two.predict(windows.features))
    score = tallies([one], test, 20)[0].score()
    assert 0.1 < score < 0.9 if kind == "classes" else -1.5 < score < 0.5


def test_a_sparse_one_has_few_weights_and_favours_no_class() -> None:
    docs = documents(n=20, n_windows=2, tokens=16)
    features = 5 + np.random.default_rng(0).standard_normal((40, 16, 200))
    found = material(docs, np.tile([0.0, 1.0], 320), kind="classes", seed=0)
    train = found.examples(reader(features), 200, "all", "train")
    probe = PROBES["sparse"]().untrained(train)
    assert isinstance(probe, LinearFitted)
    assert int((probe.weight != 0).any(1).sum()) == probe.strength == 64
    rows = torch.cat([windows.rows()[0] for windows in train])
    assert float((rows @ probe.weight + probe.bias).mean(0).abs().max()) < 0.1


def test_over_seeds_it_is_at_chance_where_the_trained_one_is_not() -> None:
    scores, trained = [], []
    for seed in range(20):
        train, validation, test = made("classes", seed)
        scored, _ = fit_and_score(Linear(), train, validation, test, 20)
        scores.append(scored.untrained.score())
        trained.append(scored.test[0].score())
    assert min(trained) > 0.9
    # Each is a random direction: far from chance to either side, and at chance on average.
    assert abs(np.mean(scores) - 0.5) < 4 * np.std(scores) / np.sqrt(20)
    assert np.std(scores) > 0.05


def test_weights_are_drawn_as_those_of_a_linear_layer_for_standardised_features() -> None:
    train, _, _ = made("classes")
    fitted = untrained_linear(train)
    assert isinstance(fitted, LinearFitted)
    rows = next(iter(train)).rows()[0].double()
    outputs = rows @ fitted.weight.double() + fitted.bias.double()
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-2)  # no class is favoured
    drawn = fitted.weight.double() * rows.std(0, correction=0)[:, None]
    layer = torch.nn.Linear(6, 2)
    bound = float(layer.weight.detach().abs().max())
    assert float(drawn.abs().max()) <= 6**-0.5 + 1e-6 and bound <= 6**-0.5 + 1e-6
    assert float(drawn.abs().max()) > 0.5 * 6**-0.5


def test_an_ordered_label_is_around_its_mean() -> None:
    train, _, _ = made("ordered")
    windows = next(iter(train))
    values = untrained_linear(train).predict(windows.features)
    labels = windows.labels[..., 0]
    assert values.mean() == pytest.approx(labels.mean(), abs=0.05)
    assert 0.05 * labels.std() < values.std() < labels.std()


def test_it_is_kept_with_the_other_scores(tmp_path: Any) -> None:
    scored, _ = fit_and_score(Linear(), *made("classes"), 20)
    (tmp_path / "a.npz").write_bytes(scored.to_bytes())
    again = Scored.of_file(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.untrained.right, scored.untrained.right)
    assert len(again.test) == len(scored.test)
    assert again.untrained.score() == scored.untrained.score() != scored.test[0].score()
