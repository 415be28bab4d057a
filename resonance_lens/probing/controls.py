"""What a score is held against: labels that mean nothing, features that know nothing of the context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resonance_lens.probing.documents import Documents
from resonance_lens.probing.labels import Labels
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]

CONTROL_TASK = "control task"
SHUFFLED = "shuffled"


def labellings(
    labels: Labels, documents: Documents, used: NDArray[np.bool_], *, n_shuffles: int, seed: int
) -> tuple[Floats, tuple[str, ...]]:
    """Return the label and its controls, for the same tokens.

    Parameters
    ----------
    labels
        Of every measured token.
    documents
        In the same windows.
    used
        ``[document]``: which are in the split.
    n_shuffles
        How many labellings are shuffled.
    seed
        Of the shuffling.

    Returns
    -------
    tuple
        Labels ``[row, labelling]``, and what each labelling is: ``label``; but for a label of documents, the
        ``control task``; then ``shuffled``, where labels of documents are dealt anew to documents, and
        others to tokens.

    Notes
    -----
    The control task gives each word of the vocabulary one class or value for good, drawn from those of the
    label (Hewitt and Liang 2019, "Designing and interpreting probes with control tasks"): a probe that does
    well on it learns the vocabulary by heart, and can do so for the label. For a label of documents that
    would be a class for each document, which nothing can know of a new one: as shuffled labels are.
    """
    of_row = np.repeat(
        [window.document for window in documents.windows], [w.measured for w in documents.windows]
    )
    values = np.where(used[of_row], labels.values, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    columns, names = [values], ["label"]
    if labels.level != "document":
        rng = stream(seed, CONTROL_TASK, labels.name)
        tokens = np.concatenate([documents.tokens[w.document][w.first : w.stop] for w in documents.windows])
        types, at = np.unique(tokens, return_inverse=True)
        drawn = rng.choice(values[known], size=len(types))
        columns.append(np.where(np.isnan(values), np.nan, drawn[at]))
        names.append(CONTROL_TASK)
    for shuffle in range(n_shuffles):
        rng = stream(seed, "shuffled labels", labels.name, shuffle)
        column = np.full(len(values), np.nan)
        if labels.level == "document":
            members, at = np.unique(of_row[known], return_inverse=True)
            of_document = np.empty(len(members))
            of_document[at] = values[known]
            column[known] = rng.permutation(of_document)[at]
        else:
            column[known] = rng.permutation(values[known])
        columns.append(column)
        names.append(SHUFFLED)
    return np.stack(columns, axis=1), tuple(names)


def random_vectors(
    tokens: Sequence[int], width: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return a random vector for each word of the vocabulary that occurs.

    Features made of these know which token stands where, and nothing else: what a probe reads from them, it
    does not need the model for.

    Returns
    -------
    tuple
        Ids in ascending order, ``[word]``, and vectors ``[word, feature]``.
    """
    words = np.unique(np.asarray(tokens, dtype=np.int64))
    vectors = [
        stream(seed, "random features", int(word)).standard_normal(width, dtype=np.float32) for word in words
    ]
    return words, np.stack(vectors)
