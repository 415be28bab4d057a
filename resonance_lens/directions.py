"""Directions in the residual stream, as data: unit vectors with names, in Python or in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ParameterError

ENDINGS = (".npz", ".npy")
"""Of files of directions: with names (`Directions.save`), or a plain array ``[direction, d_model]``."""


ROUNDING = 1e-14
"""How far from 1 the length of a vector of unit length may be."""


@dataclass(frozen=True, eq=False)
class Directions:
    """Unit vectors with names.

    Attributes
    ----------
    vectors
        ``[direction, d_model]``, float64, each of unit length; not to be written to.
    labels
        What each is called.

    Examples
    --------
    >>> found = Directions.of([[3.0, 4.0], [0.0, 2.0]])
    >>> found.vectors.tolist(), found.labels
    ([[0.6, 0.8], [0.0, 1.0]], ('vector 0', 'vector 1'))
    """

    vectors: NDArray[np.float64]
    labels: tuple[str, ...]

    @staticmethod
    def of(vectors: Any, labels: Sequence[str] | None = None) -> Directions:
        """Return vectors ``[direction, d_model]``, or one ``[d_model]``, as directions of unit length.

        Raises
        ------
        ParameterError
            If they are no such numbers: which is wrong.
        """
        if isinstance(vectors, Directions):
            return vectors
        detached = vectors.detach().cpu().double().numpy() if hasattr(vectors, "detach") else vectors
        try:
            values = np.array(detached, dtype=np.float64)  # a copy
        except (TypeError, ValueError):
            values = np.empty(0)
        values = values[None] if values.ndim == 1 and values.size else values
        if values.ndim != 2 or not values.size:
            raise ParameterError(
                "The 'vectors' must be an array [direction, d_model] or a vector [d_model]; got "
                f"{_brief(vectors)}."
            )
        sizes = np.linalg.norm(values, axis=-1)
        if not np.isfinite(sizes).all() or not sizes.all():
            bad = int(np.flatnonzero(~np.isfinite(sizes) | (sizes == 0))[0])
            raise ParameterError(
                f"The 'vectors' must be finite numbers, in each not all of them zero; number {bad} is not so."
            )
        names = tuple(f"vector {index}" for index in range(len(values))) if labels is None else tuple(labels)
        if len(names) != len(values):
            raise ParameterError(f"There are {len(values)} 'vectors', and {len(names)} labels for them.")
        # What has been put to unit length stays as it is, bit for bit, and so does its digest.
        values /= np.where(abs(sizes - 1) < ROUNDING, 1.0, sizes)[:, None]
        values.setflags(write=False)
        return Directions(values, names)

    @staticmethod
    def load(path: str | Path) -> Directions:
        """Read directions from a file that `save` wrote, or from a ``.npy`` file of an array.

        Raises
        ------
        ParameterError
            If the file cannot be read, or holds no such array.
        """
        try:
            with Path(path).open("rb") as file:  # no pickled objects: reading runs no code
                found = np.load(file, allow_pickle=False)
                if isinstance(found, np.ndarray):
                    return Directions.of(found)
                return Directions.of(found["vectors"], found["labels"].tolist())
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ParameterError(f"The 'vectors' cannot be read from {str(path)!r}: {error}.") from error

    def save(self, path: str | Path) -> None:
        """Write them to a ``.npz`` file, names and all."""
        with Path(path).open("wb") as file:
            np.savez(file, vectors=self.vectors, labels=np.array(self.labels))

    @property
    def digest(self) -> str:
        """The first 16 digits of the SHA-256 digest of the vectors in double precision."""
        return hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes()).hexdigest()[:16]

    def __str__(self) -> str:
        """Return names and digest, for a record of what was done."""
        return f"{', '.join(self.labels)} (sha256 {self.digest})"

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Directions):
            return NotImplemented
        return self.labels == other.labels and np.array_equal(self.vectors, other.vectors)

    def __hash__(self) -> int:
        return hash((self.labels, self.digest))


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value)[:60] if shape is None else f"an array of shape {tuple(shape)}"
