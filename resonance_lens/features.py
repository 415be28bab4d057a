"""What an analysis keeps of a batch: small numbers that merge in any order.

There are three kinds, so that any engine can combine the work of any number of batches,
processes or machines: *rows*, one per prompt, because prompts are the unit of inference;
*sums*, which are added; and *blocks*, sums kept apart for `N_BLOCKS` groups of prompts, from
which a jackknife gives an interval for what is too large to keep once per prompt.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import AnalysisError

N_BLOCKS = 20
"""Groups of prompts for the jackknife; see `deal`."""

Array = NDArray[Any]


def as_array(values: Any) -> Array:
    """Return numbers as a numpy array on the CPU: float64, complex128 or int64."""
    shared = hasattr(values, "detach")  # with what the model computes on; an array is the caller's own
    if shared:
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=shared)
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=shared)
    if array.dtype.kind in "iub":
        return array.astype(np.int64, copy=shared)
    raise AnalysisError(f"Features are numbers; got an array of type {array.dtype}.")


@dataclass(frozen=True, eq=False)
class Features:
    """Accumulated observations of one analysis.

    Attributes
    ----------
    prompts
        Integers ``[prompt]``: which prompts the rows belong to.
    rows
        Arrays ``[prompt, ...]``.
    sums
        Arrays of any shape, added when features merge. Where two shapes differ along an axis
        (longer prompts reach further positions) the smaller is extended with zeros.
    blocks
        Arrays ``[N_BLOCKS, ...]``, added like sums.
    carry
        Tensors of one layer that only :meth:`Analysis.join` sees, and that it must consume.
    """

    prompts: Array
    rows: Mapping[str, Array] = field(default_factory=dict)
    sums: Mapping[str, Array] = field(default_factory=dict)
    blocks: Mapping[str, Array] = field(default_factory=dict)
    carry: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        prompts: Sequence[int],
        *,
        rows: Mapping[str, Any] | None = None,
        sums: Mapping[str, Any] | None = None,
        blocks: Mapping[str, Any] | None = None,
        carry: Mapping[str, Any] | None = None,
    ) -> Features:
        """Make features from tensors or arrays, and check their leading axes.

        Raises
        ------
        AnalysisError
            If a row array does not have one row per prompt, or a block array not `N_BLOCKS` rows.
        """
        features = Features(
            prompts=np.asarray(prompts, dtype=np.int64),
            rows={name: as_array(values) for name, values in (rows or {}).items()},
            sums={name: as_array(values) for name, values in (sums or {}).items()},
            blocks={name: as_array(values) for name, values in (blocks or {}).items()},
            carry=dict(carry or {}),
        )
        for name, values in features.rows.items():
            if values.shape[:1] != (len(prompts),):
                raise AnalysisError(
                    f"The row feature {name!r} needs one row for each of {len(prompts)} prompts; "
                    f"got shape {values.shape}."
                )
        for name, values in features.blocks.items():
            if values.shape[:1] != (N_BLOCKS,):
                raise AnalysisError(
                    f"The block feature {name!r} needs {N_BLOCKS} rows; got shape {values.shape}."
                )
        return features

    def merge(self, other: Features) -> Features:
        """Return what both hold together; associative and, once sorted, independent of order."""
        for kind in ("rows", "sums", "blocks"):
            mine, theirs = set(getattr(self, kind)), set(getattr(other, kind))
            if mine != theirs:
                raise AnalysisError(
                    f"Features merge only when both hold the same {kind}; got {sorted(mine)} "
                    f"and {sorted(theirs)}."
                )
        return Features(
            prompts=np.concatenate([self.prompts, other.prompts]),
            rows={n: np.concatenate([v, other.rows[n]]) for n, v in self.rows.items()},
            sums={n: _add(v, other.sums[n]) for n, v in self.sums.items()},
            blocks={n: _add(v, other.blocks[n]) for n, v in self.blocks.items()},
        )

    def sorted(self) -> Features:
        """Return the same features with rows in the order of the prompts."""
        order = np.argsort(self.prompts, kind="stable")
        return Features(
            prompts=self.prompts[order],
            rows={name: values[order] for name, values in self.rows.items()},
            sums=self.sums,
            blocks=self.blocks,
        )

    def to_bytes(self) -> bytes:
        """Return the features as the bytes of a numpy archive; reading it back runs no code."""
        buffer = io.BytesIO()
        arrays: dict[str, Array] = {"prompts": self.prompts}
        for kind in ("rows", "sums", "blocks"):
            arrays |= {f"{kind}/{name}": v for name, v in getattr(self, kind).items()}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Features:
        """Return the features that :meth:`to_bytes` wrote."""
        kinds: dict[str, dict[str, Array]] = {"rows": {}, "sums": {}, "blocks": {}}
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            prompts = archive["prompts"]
            for key in archive.files:
                if key != "prompts":
                    kind, name = key.split("/", 1)
                    kinds[kind][name] = archive[key]
        return Features(prompts=prompts, **kinds)


def stack_layers(layers: Sequence[Features]) -> Features:
    """Return the features of several layers of one batch with ``layer`` as a new axis.

    Rows become ``[prompt, layer, ...]``, sums ``[layer, ...]``, blocks ``[N_BLOCKS, layer, ...]``.
    """
    first = layers[0]
    carried = sorted({name for features in layers for name in features.carry})
    if carried:
        raise AnalysisError(
            f"An analysis that carries {', '.join(carried)} from layer to layer needs a join of its own."
        )
    return Features(
        prompts=first.prompts,
        rows={n: np.stack([f.rows[n] for f in layers], axis=1) for n in first.rows},
        sums={n: np.stack([f.sums[n] for f in layers], axis=0) for n in first.sums},
        blocks={n: np.stack([f.blocks[n] for f in layers], axis=1) for n in first.blocks},
    )


def deal(categories: Sequence[str | None]) -> tuple[int, ...]:
    """Return the jackknife group of each prompt: dealt in turn, the prompts of a category one after another.

    So every group has its share of every category, however the categories are interleaved.
    """
    names = list(dict.fromkeys(categories))
    order = np.argsort([names.index(category) for category in categories], kind="stable")
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = np.arange(len(order)) % N_BLOCKS
    return tuple(groups.tolist())


def block_sums(per_prompt: Any, groups: Sequence[int]) -> Array:
    """Return ``[N_BLOCKS, ...]``: the rows of ``per_prompt`` (``[prompt, ...]``) added up by group."""
    values = as_array(per_prompt)
    blocks = np.zeros((N_BLOCKS, *values.shape[1:]), dtype=values.dtype)
    np.add.at(blocks, np.asarray(groups), values)
    return blocks


def _add(a: Array, b: Array) -> Array:
    if a.shape == b.shape:
        return a + b
    if a.ndim != b.ndim:
        raise AnalysisError(f"Sums of shapes {a.shape} and {b.shape} cannot be added.")
    shape = tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))
    total = np.zeros(shape, dtype=np.result_type(a, b))
    total[tuple(slice(n) for n in a.shape)] += a
    total[tuple(slice(n) for n in b.shape)] += b
    return total
