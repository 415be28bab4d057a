"""Closed-form classifiers and regressions against scikit-learn, which fits them from the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resonance_lens.stats.scatter import Scatter


def rows(seed: int = 0, n: int = 400, d: int = 12) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = rng.choice(4, size=n, p=(0.5, 0.3, 0.15, 0.05))
    mixing = rng.standard_normal((d, d))
    x = (rng.standard_normal((n, d)) + rng.standard_normal((4, d))[y]) @ mixing
    return x * rng.uniform(0.01, 50, d) + rng.uniform(-100, 100, d), y


def summed(x: NDArray[np.float64], targets: NDArray[np.float64], pieces: int = 3) -> Scatter:
    features, values = torch.from_numpy(x), torch.from_numpy(targets)
    sums = Scatter.like(features[:50], targets.shape[1])
    for part in np.array_split(np.arange(len(x)), pieces):
        sums.add(features[part], values[part])
    return sums


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 0.3, 1.0])
def test_discriminants_are_those_of_scikit_learn(strength: float) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler

    x, y = rows()
    solver = summed(x, np.eye(4)[y]).solver()
    [(weights, bias)] = solver.discriminant(range(4), [strength])
    scaled = StandardScaler().fit_transform(x)
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=strength).fit(scaled, y)
    ours, theirs = x @ weights + bias, wanted.decision_function(scaled)
    # Log-probabilities are known up to a constant of each row.
    np.testing.assert_allclose(ours - ours[:, :1], theirs - theirs[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_regressions_are_those_of_scikit_learn(strength: float) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, y = rows(1)
    other = np.random.default_rng(2).standard_normal(len(y))
    solver = summed(x, np.stack([y + 0.3 * other, other], axis=1)).solver()
    scaled = StandardScaler().fit_transform(x)
    for column, target in enumerate((y + 0.3 * other, other)):
        [(weights, bias)] = solver.ridge(column, [strength])
        wanted = Ridge(alpha=strength * len(y), solver="svd").fit(scaled, target).predict(scaled)
        np.testing.assert_allclose((x @ weights + bias)[:, 0], wanted, rtol=1e-7, atol=1e-7)


@settings(max_examples=15)
@given(st.integers(1, 399), st.integers(0, 1000))
def test_sums_of_parts_are_those_of_the_whole(cut: int, seed: int) -> None:
    x, y = rows(seed)
    targets = np.eye(4)[y]
    whole = summed(x, targets, 1)
    features, values = torch.from_numpy(x), torch.from_numpy(targets)
    one, other = (Scatter.like(features[:50], 4) for _ in range(2))
    one.add(features[:cut], values[:cut])
    other.add(features[cut:], values[cut:])
    merged = one.merge(other)
    assert merged.count == whole.count
    for name in ("x", "xx", "y", "xy", "yy"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-6)


def test_sums_of_different_shifts_are_not_added() -> None:
    x, y = rows()
    one, other = summed(x, np.eye(4)[y]), summed(x + 1, np.eye(4)[y])
    with pytest.raises(ValueError, match="different shifts"):
        one.merge(other)


def test_single_precision_keeps_a_small_variance_beside_a_large_mean() -> None:
    x, y = rows(3)
    x = x / x.std(0) + 3000.0
    exact = summed(x, np.eye(4)[y]).solver().discriminant(range(4), [1e-2])[0]
    features, targets = torch.from_numpy(x).float(), torch.eye(4)[torch.from_numpy(y)]
    sums = Scatter.like(features[:50], 4)
    sums.add(features, targets)
    single = sums.solver().discriminant(range(4), [1e-2])[0]
    ours, wanted = (x @ w + b for w, b in (single, exact))
    assert np.abs((ours - ours[:, :1]) - (wanted - wanted[:, :1])).max() < 0.02
    assert ((ours.argmax(1) == wanted.argmax(1)).mean()) > 0.995


def test_a_constant_feature_has_no_weight_and_a_class_without_rows_is_never_said() -> None:
    x, y = rows(4)
    x[:, 3] = 7.0
    targets = np.concatenate([np.eye(4)[y], np.zeros((len(y), 1))], axis=1)
    solver = summed(x, targets).solver()
    [(weights, bias)] = solver.discriminant(range(5), [1e-2])
    assert not weights[3].any() and bias[4] == -np.inf
    assert set((x @ weights + bias).argmax(1)) <= {0, 1, 2, 3}
    assert ((x @ weights + bias).argmax(1) == y).mean() > 0.6


def test_more_features_than_rows_are_solved() -> None:
    x, y = rows(5, n=20, d=40)
    [(weights, bias)] = summed(x, np.eye(4)[y]).solver().discriminant(range(4), [1e-4])
    assert np.isfinite(weights).all() and ((x @ weights + bias).argmax(1) == y).all()
