"""Features on disk: the activations of a site at many layers, streamed to shards that are memory-mapped.

A shard holds all layers of some windows, ``[layer, row, feature]``, and is there whole or not at all; the
manifest says what the shards are of before the first is written. A stopped run takes up after the last shard
that is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resonance_lens.errors import ActivationError, ParameterError, ResonanceLensError, ResultError
from resonance_lens.facts import SITE_AXES, Batch, Facts
from resonance_lens.files import make_folder, write_atomically, write_text
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.observing import require_finite
from resonance_lens.probing.documents import Documents, Window
from resonance_lens.signal import Signal

FORMAT = 1
SHARD_ROWS = 4096
"""Tokens of one shard, about."""

Dtype = Literal["float16", "float32"]
LARGEST_HALF = 65504.0
"""The largest number of float16."""

DTYPES: tuple[Dtype, ...] = ("float16", "float32")


@dataclass(frozen=True, eq=False)
class Store:
    """Features of windows, in a folder.

    Attributes
    ----------
    folder
        Where.
    manifest
        What they are of, as plain data.
    shards
        Windows of each shard: first, and one after the last.
    rows
        ``[window + 1]``: measured tokens before each window.
    """

    folder: Path
    manifest: dict[str, Any]
    shards: tuple[tuple[int, int], ...]
    rows: NDArray[np.int64]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that are stored."""
        return tuple(self.manifest["layers"])

    @property
    def width(self) -> int:
        """Features of a token."""
        return int(self.manifest["features"])

    @property
    def nbytes(self) -> int:
        """What all shards take on disk, headers left out."""
        size = np.dtype(self.manifest["dtype"]).itemsize
        return int(self.rows[-1] * len(self.layers) * self.width * size)

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"shard-{shard:05d}.npy"

    def has(self, shard: int) -> bool:
        """Return whether a shard is there, and whole."""
        path = self.path(shard)
        if not path.exists():
            return False
        first, stop = self.shards[shard]
        wanted = (len(self.layers), int(self.rows[stop] - self.rows[first]), self.width)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it, and it is made again.") from error
        if found.shape != wanted or found.dtype != np.dtype(self.manifest["dtype"]):
            raise ResultError(f"{path} is not of shape {wanted}; delete it, and it is made again.")
        return True

    def windows(self, layer: int, wanted: Sequence[int]) -> Iterator[tuple[list[int], NDArray[Any]]]:
        """Yield the features of windows, a shard at a time.

        Parameters
        ----------
        layer
            Number of the layer.
        wanted
            Windows, in order.

        Yields
        ------
        tuple
            Windows of one shard and one length, and float32 ``[window, token, feature]``.
        """
        at = self.layers.index(layer)
        remaining = np.asarray(wanted)
        for shard, (first, stop) in enumerate(self.shards):
            here = remaining[(remaining >= first) & (remaining < stop)]
            if not len(here):
                continue
            stored = np.load(self.path(shard), mmap_mode="r", allow_pickle=False)[at]
            lengths = self.rows[here + 1] - self.rows[here]
            for length in np.unique(lengths):
                group = here[lengths == length]
                offsets = self.rows[group] - self.rows[first]
                values = [stored[start : start + length] for start in offsets]
                yield group.tolist(), np.stack(values).astype(np.float32)


def plan_store(
    folder: Path,
    adapter: Adapter,
    documents: Documents,
    *,
    site: str,
    layers: Sequence[int],
    width: int,
    dtype: Dtype,
    fingerprint: str | None,
    shard_rows: int = SHARD_ROWS,
) -> Store:
    """Return the store that a corpus would make, without writing anything.

    Parameters
    ----------
    folder
        Where it will be.
    adapter
        Of the model.
    documents
        In windows.
    site, layers
        What is stored.
    width
        Features of a token there: see `width_of`.
    dtype
        ``float16`` keeps three digits in half of the space; numbers beyond 65,504 are refused.
    fingerprint
        Of the weights.
    shard_rows
        Tokens of a shard, about.

    Raises
    ------
    ParameterError
        If there is no such type.
    """
    if dtype not in DTYPES:
        raise ParameterError(f"Features are stored as {' or '.join(DTYPES)}; got {dtype!r}.")
    rows = np.concatenate([[0], np.cumsum([window.measured for window in documents.windows])])
    shards: list[tuple[int, int]] = []
    first = 0
    for index in range(len(documents.windows)):
        if rows[index + 1] - rows[first] >= shard_rows or index + 1 == len(documents.windows):
            shards.append((first, index + 1))
            first = index + 1
    facts = adapter.facts
    manifest = {
        "format": FORMAT,
        "model": facts.model_name,
        "host": facts.host,
        "weight_processing": facts.weight_processing,
        "weights_fingerprint": fingerprint,
        "site": site,
        "layers": [int(layer) for layer in layers],
        "features": width,
        "dtype": dtype,
        "windows": len(documents.windows),
        "tokens": int(rows[-1]),
        "tokens_digest": documents.digest,
        "shards": [int(rows[stop] - rows[start]) for start, stop in shards],
    }
    return Store(folder, manifest, tuple(shards), rows)


def fill(
    store: Store,
    adapter: Adapter,
    documents: Documents,
    *,
    batch_tokens: int,
    progress: Callable[[int], object] = lambda rows: None,
) -> None:
    """Make the passes whose shards are not there yet.

    Parameters
    ----------
    store
        See `plan_store`.
    adapter, documents
        What it was planned of.
    batch_tokens
        Tokens of one pass, padding included.
    progress
        Told how many measured tokens are done, those that were there first.

    Raises
    ------
    ResultError
        If the folder holds features of something else, or cannot be written.
    ActivationError
        If an activation is not finite, or too large for float16.
    """
    existed = store.folder.exists()
    make_folder(store.folder)
    try:
        _fill(store, adapter, documents, batch_tokens, progress)
    except ResonanceLensError:
        if not existed:  # the features of a wrong call would be in the way of a right one
            shutil.rmtree(store.folder, ignore_errors=True)
        raise


def _fill(
    store: Store,
    adapter: Adapter,
    documents: Documents,
    batch_tokens: int,
    progress: Callable[[int], object],
) -> None:
    path = store.folder / "manifest.json"
    text = json.dumps(store.manifest, indent=1) + "\n"
    if path.exists():
        _require_same(path, store.manifest)
    else:
        write_text(path, text)
    for shard, (first, stop) in enumerate(store.shards):
        if not store.has(shard):
            values = _shard(store, adapter, documents.windows[first:stop], batch_tokens)

            def write(temporary: Path, values: NDArray[Any] = values) -> None:
                with temporary.open("wb") as file:
                    np.save(file, values, allow_pickle=False)

            write_atomically(store.path(shard), write)
        progress(int(store.rows[stop] - store.rows[first]))


def _require_same(path: Path, manifest: dict[str, Any]) -> None:
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in manifest if theirs.get(key) != manifest[key]]
    except (OSError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} cannot be read ({error}); delete the folder to start again.") from error
    if differing:
        raise ResultError(
            f"The folder {path.parent} holds features with other {' and '.join(differing)}; choose another "
            "folder, or delete that one."
        )


def count_passes(store: Store, documents: Documents, batch_tokens: int) -> int:
    """Return how many passes fill a store that is empty."""
    return sum(len(_batches(documents.windows[first:stop], batch_tokens)) for first, stop in store.shards)


def _batches(windows: Sequence[Window], batch_tokens: int) -> list[list[int]]:
    """Return the windows of each pass, by number, the longest first."""
    batches: list[list[int]] = []
    for i in sorted(range(len(windows)), key=lambda i: (-len(windows[i].tokens), i)):
        widest = len(windows[batches[-1][0]].tokens) if batches else 0
        if batches and (len(batches[-1]) + 1) * widest <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _shard(store: Store, adapter: Adapter, windows: Sequence[Window], batch_tokens: int) -> NDArray[Any]:
    """Return the features of some windows: ``[layer, row, feature]``."""
    site, layers, dtype = store.manifest["site"], store.layers, np.dtype(store.manifest["dtype"])
    starts = np.concatenate([[0], np.cumsum([window.measured for window in windows])])
    values = np.empty((len(layers), int(starts[-1]), store.width), dtype=dtype)
    index = {layer: at for at, layer in enumerate(layers)}
    for members in _batches(windows, batch_tokens):
        lengths = torch.tensor([len(windows[i].tokens) for i in members])
        tokens = torch.zeros(len(members), int(lengths.max()), dtype=torch.long)
        for row, i in enumerate(members):
            tokens[row, : lengths[row]] = torch.tensor(windows[i].tokens)

        def receive(signal: Signal, members: Sequence[int] = members) -> None:
            require_finite(signal)
            assert signal.layer is not None
            kept = signal.values.flatten(2)  # [batch, token, feature]
            if dtype == np.float16 and float(kept[:, 1:].abs().max()) > LARGEST_HALF:
                raise ActivationError(
                    f"The activations of {site!r} at layer {signal.layer} are too large for float16; store "
                    "them as float32."
                )
            for row, i in enumerate(members):
                # The last ones: neither the first position nor a token in front.
                n, stop = windows[i].measured, len(windows[i].tokens)
                values[index[signal.layer], starts[i] : starts[i + 1]] = (
                    kept[row, stop - n : stop].cpu().numpy().astype(dtype)
                )

        adapter.run(Batch(tokens, lengths, tuple(members)), dict.fromkeys(layers, (site,)), receive)
    return values


def width_of(site: str, facts: Facts, adapter: Adapter) -> int:
    """Return how many features a token has at a site, heads laid side by side.

    Raises
    ------
    ParameterError
        If the site is not one of tokens.
    """
    axes = SITE_AXES[site]
    if axes[1] != "token" or site == "logits":
        fitting = [name for name, found in SITE_AXES.items() if found[1] == "token" and name != "logits"]
        raise ParameterError(
            f"Probes read a site of tokens, and {site!r} is none; choose {', '.join(fitting)}."
        )
    if "neuron" in axes:
        # The host does not say how many; a pass over two tokens does.
        widths: list[int] = []
        batch = Batch(torch.zeros(1, 2, dtype=torch.long), torch.tensor([2]), (0,))
        adapter.run(batch, {adapter.layers([site])[0]: (site,)}, lambda s: widths.append(s.values.shape[-1]))
        return widths[0]
    width = 1
    for axis in axes[2:]:
        width *= {"head": facts.n_heads, "d_head": facts.d_head, "d_model": facts.d_model}[axis]
    return width
