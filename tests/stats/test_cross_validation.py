"""Predictions for held-out rows, against scikit-learn, and that nothing of what is held out is looked at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from resonance_lens.stats import cross_validation
from resonance_lens.stats.cross_validation import Labelling, deal_folds, held_out

ROWS, FEATURES, FOLDS = 150, 6, 5


def data(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], Labelling]:
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=ROWS)
    features = rng.standard_normal((ROWS, FEATURES)) * np.arange(1, FEATURES + 1) + 7
    features[:, :3] += 2 * np.eye(3)[classes]
    return features, np.arange(ROWS) % FOLDS, features @ rng.standard_normal(FEATURES), Labelling(classes, 3)


def test_it_is_scikit_learn_fold_by_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(cross_validation, "SHRINKAGES", (0.1,))
    monkeypatch.setattr(cross_validation, "PENALTIES", (0.5,))
    features, folds, values, classes = data()
    found = held_out(features, [classes, Labelling(values)], folds)
    for fold in range(FOLDS):
        test = folds == fold
        train = ~test & (folds != (fold + 1) % FOLDS)  # the next one chooses
        scaler = StandardScaler().fit(features[train])
        x, y = scaler.transform(features[train]), scaler.transform(features[test])
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, classes.values[train])
        np.testing.assert_array_equal(found[0, test], lda.predict(y))
        ridge = Ridge(alpha=0.5 * train.sum()).fit(x, values[train]).predict(y)
        wanted = np.clip(ridge, values[train].min(), values[train].max())
        np.testing.assert_allclose(found[1, test], wanted, rtol=1e-9)


def test_what_is_held_out_is_not_looked_at() -> None:
    features, folds, values, classes = data()
    found = held_out(features, [classes, Labelling(values)], folds)
    test = folds == 2
    other = classes.values.copy()
    other[test] = (other[test] + 1) % 3
    changed = held_out(features, [Labelling(other, 3), Labelling(np.where(test, 99.0, values))], folds)
    np.testing.assert_array_equal(found[0, test], changed[0, test])
    np.testing.assert_allclose(found[1, test], changed[1, test], rtol=1e-12)
    assert (found[1] != changed[1]).any()  # the other folds learned from it


def test_regularisation_is_chosen_on_the_next_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where values follow the features only in what is learned from, the strongest penalty is best."""
    features, folds, values, _ = data()
    noise = np.where(np.isin(folds, (0, 1)), np.random.default_rng(1).permutation(values), values)
    chosen = held_out(features, [Labelling(noise)], folds)[0]
    monkeypatch.setattr(cross_validation, "PENALTIES", (max(cross_validation.PENALTIES),))
    strongest = held_out(features, [Labelling(noise)], folds)[0]
    np.testing.assert_array_equal(chosen[folds == 0], strongest[folds == 0])
    assert (chosen[folds == 2] != strongest[folds == 2]).any()


def test_one_row_far_away_is_predicted_within_range() -> None:
    features, folds, values, _ = data()
    features[7] *= 1e4
    found = held_out(features, [Labelling(values)], folds)[0]
    assert values.min() <= found.min() and found.max() <= values.max()


def test_too_few_folds_predict_nothing() -> None:
    features, folds, _, classes = data()
    assert np.isnan(held_out(features, [classes], folds % 2)).all()
    assert not np.isnan(held_out(features, [classes], folds % 3)).any()


def test_folds_share_the_categories_and_keep_the_same_together() -> None:
    rng = np.random.default_rng(0)
    categories = ["a"] * 10 + ["b"] * 7 + ["c"] * 5
    lots = rng.random(len(categories))
    folds = deal_folds(lots, categories)
    for name in "abc":
        counts = np.bincount([f for f, c in zip(folds, categories, strict=True) if c == name], minlength=5)
        assert counts.max() - counts.min() <= 1
    order = rng.permutation(len(lots))
    np.testing.assert_array_equal(deal_folds(lots[order], [categories[i] for i in order]), folds[order])
    lots[3:6] = lots[3]
    assert len(set(deal_folds(lots, categories)[3:6].tolist())) == 1
    assert set(deal_folds(lots[:2], categories[:2]).tolist()) == {0, 1}
