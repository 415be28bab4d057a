"""Features and labels of a corpus brought together: what each place and part gives to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resonance_lens.probing.controls import random_vectors
from resonance_lens.probing.documents import PARTS, Documents, Part
from resonance_lens.probing.examples import Examples, Windows, in_band
from resonance_lens.probing.labels import Labels
from resonance_lens.probing.store import Store

Floats = NDArray[np.float64]
Reader = Callable[[Sequence[int]], Iterator[tuple[list[int], NDArray[Any]]]]
"""Features of windows, some at a time and of one length: see `Store.windows`."""

WINDOWS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Material:
    """What there is to probe.

    Attributes
    ----------
    documents
        In windows.
    labels
        Of every measured token.
    labellings
        ``[row, labelling]``: the label and its controls; see `resonance_lens.probing.controls.labellings`.
    names
        What each labelling is.
    part
        ``[document]``: see `resonance_lens.probing.documents.split`.
    method
        What bands are made by.
    seed
        Of everything random.
    """

    documents: Documents
    labels: Labels
    labellings: Floats
    names: tuple[str, ...]
    part: NDArray[np.int64]
    method: str
    seed: int
    rows: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        measured = [window.measured for window in self.documents.windows]
        object.__setattr__(self, "rows", np.concatenate([[0], np.cumsum(measured)]))

    def windows_of(self, part: Part, documents: NDArray[np.bool_] | None = None) -> list[int]:
        """Return the windows of a part that have a label, perhaps of some documents alone."""
        number = PARTS.index(part)
        return [
            index
            for index, window in enumerate(self.documents.windows)
            if self.part[window.document] == number
            and (documents is None or documents[window.document])
            and not np.isnan(self.labellings[self.rows[index] : self.rows[index + 1], 0]).all()
        ]

    def examples(
        self,
        reader: Reader,
        width: int,
        band: str,
        part: Part,
        *,
        n_labellings: int | None = None,
        documents: NDArray[np.bool_] | None = None,
    ) -> Examples:
        """Return what a part of the split gives at a place.

        Parameters
        ----------
        reader
            Gives the features.
        width
            How many a token has.
        band, part
            Which.
        n_labellings
            How many labellings, from the first on; ``None`` for all.
        documents
            ``[document]``: only these.
        """
        wanted = self.windows_of(part, documents)
        columns = self.labellings[:, :n_labellings]

        def stream() -> Iterator[Windows]:
            for group, values in reader(wanted):
                n = values.shape[1]
                labels = np.stack([columns[self.rows[w] : self.rows[w] + n] for w in group])
                of = np.array([self.documents.windows[w].document for w in group])
                yield Windows(in_band(torch.from_numpy(values), band, self.method), labels, of)

        return Examples(
            stream, self.labels.kind, self.labels.classes, width, columns.shape[1], seed=self.seed
        )

    def stored(self, store: Store, layer: int) -> Reader:
        """Return a reader of a layer of a store."""
        return lambda wanted: store.windows(layer, wanted)

    def random(self, width: int) -> Reader:
        """Return a reader of random features: a vector for each word of the vocabulary."""
        ids = [
            np.asarray(self.documents.tokens[w.document][w.first : w.stop]) for w in self.documents.windows
        ]
        words, vectors = random_vectors(np.concatenate(ids).tolist(), width, self.seed)

        def reader(wanted: Sequence[int]) -> Iterator[tuple[list[int], NDArray[Any]]]:
            lengths = np.array([len(ids[w]) for w in wanted])
            for length in np.unique(lengths):
                group = np.asarray(wanted)[lengths == length]
                for start in range(0, len(group), WINDOWS_AT_ONCE):
                    some = group[start : start + WINDOWS_AT_ONCE].tolist()
                    yield some, np.stack([vectors[np.searchsorted(words, ids[w])] for w in some])

        return reader
