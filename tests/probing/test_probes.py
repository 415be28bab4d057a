"""Probes on features whose truth is known: found where it is planted, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens.dsp.cosine import dct_band
from resonance_lens.errors import ParameterError, ResultError
from resonance_lens.probing.controls import CONTROL_TASK, SHUFFLED, random_vectors
from resonance_lens.probing.documents import PARTS
from resonance_lens.probing.learned import fourier_head, linear_softmax, spectral_filter
from resonance_lens.probing.linear import Linear, Logistic
from resonance_lens.probing.material import Material
from resonance_lens.probing.places import Scored, fit_and_score
from resonance_lens.probing.protocol import Fitted, Probe
from resonance_lens.probing.saving import load_probe, save_probe
from resonance_lens.probing.sparse import Sparse
from resonance_lens.probing.tally import Tally
from resonance_lens.stats.intervals import bootstrap_mean
from tests.probing.material import documents, material, reader

BANDS = ("low", "mid-low", "mid", "mid-high", "high")


def fit(probe: Probe, made: Material, features: Any, band: str = "all") -> tuple[Scored, Fitted]:
    width = features.shape[2]
    train, validation, test = (
        made.examples(reader(features), width, band, part, n_labellings=probe.labellings) for part in PARTS
    )
    return fit_and_score(probe, train, validation, test, len(made.documents))


def planted(band: str) -> tuple[Material, np.ndarray[Any, Any]]:
    """Return a label that is the sign of a signal in one band, in features with noise in all bands."""
    docs = documents()
    rng = np.random.default_rng(3)
    n = len(docs.windows)
    signal = dct_band(torch.from_numpy(rng.standard_normal((n, 64, 1))), 1, band)
    noise = torch.from_numpy(rng.standard_normal((n, 64, 10)))
    hidden = noise - dct_band(noise, 1, band)  # nothing of the noise in the band, all of it elsewhere
    mixing = torch.from_numpy(rng.standard_normal((11, 11)))
    features = torch.cat([signal / signal.std(), 3 * hidden], dim=2) @ mixing
    # The first column is drowned in every other band as well.
    drowned = torch.from_numpy(rng.standard_normal((n, 64, 1)))
    features = features + 3 * (drowned - dct_band(drowned, 1, band)) @ mixing[:1]
    values = (signal[..., 0] > 0).double().numpy().ravel()
    return material(docs, values), features.numpy()


@pytest.mark.parametrize("band", BANDS[2:])
def test_a_label_in_one_band_is_found_there_and_in_no_other(band: str) -> None:
    made, features = planted(band)
    scores = {each: fit(Linear(), made, features, each)[0].test[0].score() for each in BANDS}
    assert scores[band] > 0.95
    assert max(score for each, score in scores.items() if each != band) < 0.62


def test_the_learned_filter_opens_where_the_label_is() -> None:
    made, features = planted("mid-high")
    scored, fitted = fit(spectral_filter(epochs=12, learning_rate=0.06, labellings=1), made, features)
    assert scored.test[0].score() > 0.85
    module: Any = fitted.module  # type: ignore[attr-defined]
    inside = (module.frequencies > 33.5 / 1024) & (module.frequencies < 129.5 / 1024)
    gains = module.gains.detach()
    assert gains[inside].mean() > 2 * gains[~inside].mean()


@pytest.mark.parametrize("kind", ["classes", "ordered"])
def test_random_labels_are_read_at_chance_over_twenty_seeds(kind: Any) -> None:
    docs = documents(n=20, n_windows=1)
    features = np.random.default_rng(0).standard_normal((20, 64, 8))
    inside, scores = 0, []
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        drawn = rng.integers(2, size=20 * 64) if kind == "classes" else rng.standard_normal(20 * 64)
        scored, _ = fit(Linear(), material(docs, drawn.astype(float), kind=kind, seed=seed), features)
        tally = scored.test[0]
        chance = 0.5 if kind == "classes" else 0.0
        scores.append(tally.score())
        _, low, high = bootstrap_mean(tally.rows(), np.random.default_rng(seed))
        inside += bool(low <= chance + 0.02 and high >= chance - 0.02)
    spread = 0.5 / np.sqrt(4 * 64) if kind == "classes" else 0.03
    assert abs(np.mean(scores) - (0.5 if kind == "classes" else 0.0)) < 3 * spread / np.sqrt(20)
    assert inside >= 18


def test_controls_keep_what_they_must_and_break_the_rest() -> None:
    docs = documents()
    rng = np.random.default_rng(0)
    values = np.where(rng.random(docs.measured) < 0.2, np.nan, rng.integers(3, size=docs.measured))
    made = material(docs, values, classes=("a", "b", "c"))
    assert made.names == ("label", CONTROL_TASK, SHUFFLED, SHUFFLED)
    known = ~np.isnan(values)
    for column in made.labellings.T:
        assert (np.isnan(column) == ~known).all()  # the same tokens are measured
    for column in made.labellings.T[2:]:
        assert sorted(column[known]) == sorted(values[known])
        assert (column[known] == values[known]).mean() < 0.5
    tokens = np.array([t for row in docs.tokens for t in row])
    for word in np.unique(tokens):
        assert len(set(made.labellings[(tokens == word) & known, 1])) == 1  # one class for each word
    by_document = np.repeat(rng.integers(2, size=len(docs)), 128).astype(float)
    whole = material(docs, by_document, level="document")
    assert CONTROL_TASK not in whole.names
    for column in whole.labellings.T:
        of_documents = column.reshape(len(docs), 128)
        assert (of_documents == of_documents[:, :1]).all()
        assert of_documents[:, 0].sum() == by_document.sum() / 128


def test_random_features_know_the_word_and_nothing_else() -> None:
    words, vectors = random_vectors([7, 3, 7, 9], 5, 0)
    assert words.tolist() == [3, 7, 9] and len(np.unique(vectors, axis=0)) == 3
    again = random_vectors([9, 9], 5, 0)[1]
    assert (again[0] == vectors[2]).all()  # whatever the corpus
    docs = documents()
    tokens = np.array([t for row in docs.tokens for t in row])
    made = material(docs, (tokens % 2).astype(float))
    wanted = made.windows_of("test")
    read = [values for _, values in made.random(64)(wanted)]
    assert sum(len(values) for values in read) == len(wanted)
    train, validation, test = (made.examples(made.random(64), 64, "all", part) for part in PARTS)
    scored, _ = fit_and_score(Linear(), train, validation, test, len(docs))
    assert scored.test[0].score() == 1.0  # 40 words in 64 dimensions


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score

    rng = np.random.default_rng(0)
    of = rng.integers(12, size=900)
    classes, guess = rng.choice(3, size=900, p=(0.7, 0.2, 0.1)), rng.integers(3, size=900)
    tally = Tally.empty("classes", 12, 3)
    tally.add(of[:400], classes[:400].astype(float), guess[:400].astype(float))
    tally.add(of[400:], classes[400:].astype(float), guess[400:].astype(float))
    assert tally.score() == pytest.approx(accuracy_score(classes, guess))
    assert tally.balanced() == pytest.approx(balanced_accuracy_score(classes, guess))
    assert tally.rows().mean() == pytest.approx(tally.score())
    assert tally.rows(balanced=True).mean() == pytest.approx(tally.balanced())
    values = rng.standard_normal(900) + of
    predicted = values + rng.standard_normal(900)
    ordered = Tally.empty("ordered", 12, 0)
    ordered.add(of, values, predicted)
    assert ordered.score() == pytest.approx(r2_score(values, predicted))
    assert ordered.rows().mean() == pytest.approx(ordered.score())


def test_the_interval_of_a_score_resamples_documents() -> None:
    # Against resampling the tokens of whole documents by hand.
    rng = np.random.default_rng(1)
    count = rng.integers(20, 60, size=40).astype(float)
    right = rng.binomial(count.astype(int), rng.beta(8, 3, size=40)).astype(float)
    tally = Tally("classes", right[:, None], count[:, None], np.zeros((40, 2)))
    _, low, high = bootstrap_mean(tally.rows(), np.random.default_rng(2))
    draws = rng.integers(40, size=(4000, 40))
    by_hand = np.quantile(right[draws].sum(1) / count[draws].sum(1), [0.025, 0.975])
    assert np.abs(np.array([low, high]) - by_hand).max() < 0.012


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    made, features = planted("mid")
    probe = Logistic(labellings=1)
    scored, fitted = fit(probe, made, features, "mid")
    filtered = dct_band(torch.from_numpy(features).float(), 1, "mid").numpy()
    part = np.repeat([made.part[w.document] for w in made.documents.windows], 64)
    x, y = filtered.reshape(-1, 11), made.labellings[:, 0].astype(int)
    scaler = StandardScaler().fit(x[part == 0])
    strength = fitted.card()["strength"]
    wanted = LogisticRegression(C=strength, max_iter=200).fit(scaler.transform(x[part == 0]), y[part == 0])
    score = wanted.score(scaler.transform(x[part == 2]), y[part == 2])
    assert scored.test[0].score() == pytest.approx(score, abs=0.01)
    # In closed form it is about as good.
    assert fit(Linear(), made, features, "mid")[0].test[0].score() == pytest.approx(score, abs=0.03)


def test_logistic_regression_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    made, features = planted("mid")
    with pytest.raises(ParameterError, match=r"pip install resonance-lens\[probes\]"):
        fit(Logistic(), made, features)


def test_the_sparse_probe_of_transformer_lens_needs_one_feature_where_one_is_enough() -> None:
    docs = documents()
    features = np.random.default_rng(0).standard_normal((len(docs.windows), 64, 70))
    made = material(docs, (features[..., 17] > 0).astype(float).ravel())
    scored, fitted = fit(Sparse(), made, features)
    assert scored.test[0].score() > 0.98 and scored.strength == 1 and fitted.n_parameters == 2
    assert fitted.tensors()["weight"].nonzero().tolist() == [[17, 1]]
    assert scored.test[2].score() < 0.56
    assert "two classes" in str(Sparse().why_not("classes", ("a", "b", "c")))


def ordered() -> tuple[Material, np.ndarray[Any, Any]]:
    docs = documents()
    rng = np.random.default_rng(8)
    features = rng.standard_normal((len(docs.windows), 64, 6))
    return material(docs, features[..., :2].sum(2).ravel() * 3 + 10, kind="ordered"), features


def test_ordered_labels_are_read_by_every_head() -> None:
    made, features = ordered()
    assert fit(Linear(), made, features)[0].test[0].score() > 0.999
    for make in (fourier_head, linear_softmax):
        probe = make(labellings=2, epochs=30, patience=15, learning_rate=0.05)
        scored, fitted = fit(probe, made, features)
        assert scored.test[0].score() > 0.9
        assert scored.n_parameters == fitted.n_parameters
        assert abs(scored.test[1].score()) < 0.2  # the control task


@pytest.mark.parametrize("probe", [Linear(), fourier_head(labellings=1, epochs=2)], ids=lambda p: p.name)
def test_a_saved_probe_says_the_same(probe: Probe, tmp_path: Path) -> None:
    made, features = ordered()
    _, fitted = fit(probe, made, features)
    save_probe(tmp_path / "x-L03-0.1-0.25", fitted, {"label": "made", "layer": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-L03-0.1-0.25.json", "x-L03-0.1-0.25.safetensors"]
    loaded, card = load_probe(tmp_path / "x-L03-0.1-0.25.json")
    some = torch.from_numpy(features[:3]).float()
    assert (loaded.predict(some) == fitted.predict(some)).all()
    assert card["layer"] == 3 and loaded.n_parameters == fitted.n_parameters


def test_probes_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        load_probe(tmp_path / "none")
    (tmp_path / "x.json").write_text('{"format": 1, "probe": {"kind": "pickle"}}')
    with pytest.raises(ResultError, match="no kind of probe 'pickle'"):
        load_probe(tmp_path / "x")
    (tmp_path / "x.json").write_text('{"format": 99, "probe": {"kind": "linear"}}')
    with pytest.raises(ResultError, match="upgrade resonance_lens"):
        load_probe(tmp_path / "x")
