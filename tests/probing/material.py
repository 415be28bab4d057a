"""Documents and features made up for tests: no model, and a truth that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.probing.controls import labellings
from resonance_lens.probing.documents import Documents, Window, split
from resonance_lens.probing.labels import Labels
from resonance_lens.probing.material import Material, Reader
from resonance_lens.text_labels import Kind, Level, Text


def documents(n: int = 24, n_windows: int = 2, tokens: int = 64, vocabulary: int = 40) -> Documents:
    """Return documents of random words."""
    rng = np.random.default_rng(5)
    ids = tuple(f"doc-{i}" for i in range(n))
    rows = [tuple(rng.integers(vocabulary, size=n_windows * tokens).tolist()) for _ in range(n)]
    windows = tuple(
        Window(i, k * tokens, (k + 1) * tokens, rows[i][k * tokens : (k + 1) * tokens], k * tokens)
        for i in range(n)
        for k in range(n_windows)
    )
    texts = tuple(Text(f"text {i}", tuple((0, 1) for _ in row)) for i, row in enumerate(rows))
    return Documents(ids, texts, tuple(rows), windows, 0)


def material(
    docs: Documents,
    values: NDArray[np.float64],
    *,
    kind: Kind = "classes",
    level: Level = "token",
    classes: tuple[str, ...] = ("a", "b"),
    n_shuffles: int = 2,
    seed: int = 0,
) -> Material:
    """Return material with labels ``[row]`` of every token."""
    labels = Labels("made", kind, level, "made up", classes if kind == "classes" else (), values)
    part = split(docs, seed=seed)
    columns, names = labellings(labels, docs, part >= 0, n_shuffles=n_shuffles, seed=seed)
    return Material(docs, labels, columns, names, part, "dct", seed)


def reader(features: NDArray[Any]) -> Reader:
    """Return a reader of features ``[window, token, feature]``."""

    def read(wanted: Sequence[int]) -> Iterator[tuple[list[int], NDArray[Any]]]:
        for start in range(0, len(wanted), 7):
            some = list(wanted[start : start + 7])
            yield some, features[some].astype(np.float32)

    return read
