"""On labels that have nothing to do with the features, every probe is at chance: over twenty seeds.

Features are slow along tokens and have a mean of their own in each document, so that a probe which has seen a
document, or its neighbouring tokens, could know it again. Chance is by arithmetic: labels are fair coins,
tossed for each token, or for each document where the probe looks along tokens; how many of them are said
rightly is then binomial, whatever was learned.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.probing.asked import PROBES
from resonance_lens.probing.concluding import best_places
from resonance_lens.probing.documents import PARTS
from resonance_lens.probing.learned import Learned
from resonance_lens.probing.linear import Linear
from resonance_lens.probing.material import Material
from resonance_lens.probing.places import Scored, fit_and_score
from resonance_lens.probing.protocol import Probe
from resonance_lens.text_labels import Kind
from tests.probing.material import documents, material, reader

SEEDS = range(20)
N_DOCUMENTS, N_WINDOWS, N_TOKENS, N_FEATURES = 24, 2, 16, 16
SURE = 0.999
"""Of the binomial interval: a dozen probes, tried once each."""

DOCUMENTS = documents(N_DOCUMENTS, N_WINDOWS, N_TOKENS)
ALONG = tuple(name for name, make in PROBES.items() if make().whole_records)


def features(seed: int, place: int = 0) -> NDArray[np.float64]:
    """Return ``[window, token, feature]``: a mean for each document, and waves that forget in ten tokens."""
    rng = np.random.default_rng([seed, place, 1])
    noise = rng.standard_normal((N_DOCUMENTS, N_WINDOWS * N_TOKENS, N_FEATURES))
    for token in range(1, noise.shape[1]):
        noise[:, token] = 0.9 * noise[:, token - 1] + np.sqrt(1 - 0.9**2) * noise[:, token]
    means = 2 * rng.standard_normal((N_DOCUMENTS, 1, N_FEATURES))
    return (means + noise).reshape(N_DOCUMENTS * N_WINDOWS, N_TOKENS, N_FEATURES)


def labels(seed: int, kind: Kind, *, of_documents: bool) -> Material:
    """Return documents with labels that are coins, or normal numbers, and a split."""
    rng = np.random.default_rng([seed, 2])
    n = N_DOCUMENTS if of_documents else N_DOCUMENTS * N_WINDOWS * N_TOKENS
    values = rng.integers(2, size=n).astype(float) if kind == "classes" else rng.standard_normal(n)
    if of_documents:
        values = np.repeat(values, N_WINDOWS * N_TOKENS)
    # The level only says how controls are shuffled, and none is learned here.
    return material(DOCUMENTS, values, kind=kind, n_shuffles=1, seed=seed)


def scored(probe: Probe, made: Material, values: NDArray[np.float64]) -> Scored:
    train, validation, test = (
        made.examples(reader(values), N_FEATURES, "all", part, n_labellings=1) for part in PARTS
    )
    return fit_and_score(probe, train, validation, test, len(made.documents))[0]


def quick(name: str) -> Probe:
    """Return a probe with its usual settings, trained for few epochs where it is trained."""
    probe = PROBES[name]()
    return dataclasses.replace(probe, epochs=2) if isinstance(probe, Learned) else probe


def coins(found: list[Scored], *, of_documents: bool) -> tuple[float, int]:
    """Return the mean accuracy, and of how many coins."""
    tallies = [each.test[0] for each in found]
    counted = sum(int(tally.seen.sum() if of_documents else tally.count.sum()) for tally in tallies)
    right = sum(float(tally.right.sum()) for tally in tallies)
    return right / sum(float(tally.count.sum()) for tally in tallies), counted


def at_chance(found: list[Scored], *, of_documents: bool) -> bool:
    accuracy, n = coins(found, of_documents=of_documents)
    low, high = stats.binom.interval(SURE, n, 0.5)
    return bool(low <= accuracy * n <= high)


def may_be_learned(name: str, kind: Kind) -> bool:
    return quick(name).why_not(kind, ("a", "b") if kind == "classes" else ()) is None


def test_every_probe_learns_one_of_the_two_kinds() -> None:
    assert all(may_be_learned(name, "classes") or may_be_learned(name, "ordered") for name in PROBES)


@pytest.mark.parametrize("name", [name for name in PROBES if may_be_learned(name, "classes")])
def test_classes_are_at_chance(name: str) -> None:
    of_documents = name in ALONG
    found = [
        scored(quick(name), labels(seed, "classes", of_documents=of_documents), features(seed))
        for seed in SEEDS
    ]
    assert at_chance(found, of_documents=of_documents), coins(found, of_documents=of_documents)


@pytest.mark.parametrize(
    "name", ["linear", *(name for name in PROBES if not may_be_learned(name, "classes"))]
)
def test_ordered_labels_are_not_read(name: str) -> None:
    """R squared of what is not there is below 0 by as much as was learned for nothing."""
    found = [
        scored(quick(name), labels(seed, "ordered", of_documents=False), features(seed)).test[0].score()
        for seed in SEEDS
    ]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.mean(found) <= stats.t.ppf(SURE, len(found) - 1) * error, (np.mean(found), error)


def test_the_best_of_many_places_is_at_chance_if_validation_chooses_it() -> None:
    """And would not be if test chose: eight places are enough to be lucky."""
    by_validation, by_test = [], []
    asked: Any = SimpleNamespace(probes=(Linear(),))
    for seed in SEEDS:
        made = labels(seed, "classes", of_documents=False)
        at = {("linear", place, "all"): scored(Linear(), made, features(seed, place)) for place in range(8)}
        by_validation.append(at[best_places(asked, at)["linear"]])
        by_test.append(max(at.values(), key=lambda each: each.test[0].score()))
    assert at_chance(by_validation, of_documents=False), coins(by_validation, of_documents=False)
    assert not at_chance(by_test, of_documents=False)


def test_sabotage_windows_of_one_document_on_two_sides_are_noticed() -> None:
    """What `split` never does: with each window a document of its own, half of those of test are known."""
    apart = documents(N_DOCUMENTS * N_WINDOWS, 1, N_TOKENS)
    sound, leaky = [], []
    for seed in SEEDS:
        made = labels(seed, "classes", of_documents=True)
        sound.append(scored(Linear(), made, features(seed)))
        leaky.append(scored(Linear(), material(apart, made.labels.values, seed=seed), features(seed)))
    assert at_chance(sound, of_documents=True), coins(sound, of_documents=True)
    assert not at_chance(leaky, of_documents=True), coins(leaky, of_documents=True)
