"""One layer at a time: components learned from training documents, and what they do in the others."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.discovering.asked import SHUFFLED, Asked
from resonance_lens.discovering.learning import Bands, Learned, learn
from resonance_lens.discovering.measuring import Measured, courses, measure
from resonance_lens.discovering.naming import N_WORDS, moments, words
from resonance_lens.errors import ResultError
from resonance_lens.files import write_bytes
from resonance_lens.partial import other_settings
from resonance_lens.probing.documents import Documents
from resonance_lens.probing.store import Store

Found = dict[str, NDArray[Any]]
"""Arrays by name; see `find`."""

NOWHERE = -1
"""In place of a moment or word that there is not."""


def find(asked: Asked, store: Store, layer: int, shuffled: tuple[Documents, Store] | None = None) -> Found:
    """Return the components of a layer.

    Parameters
    ----------
    asked
        What is looked for.
    store
        Features of the documents' windows.
    layer
        Which.
    shuffled
        The documents with their tokens in random order, see `Asked.shuffled`, and features of the windows
        of those that are held out.

    Returns
    -------
    dict
        As learned: ``gained[band, component]``, ``reads`` and ``writes`` ``[band, component, feature]``,
        ``scale[feature]``, and ``head_weight[band, component, head]`` where there are heads. On held-out
        documents: ``excess``, ``share``, ``amplitude`` ``[document, band, component]``;
        ``spectrum[band, component, index]``; ``excess_shuffled_tokens`` and
        ``share_shuffled_tokens`` of the same components in shuffled windows. What they are named by:
        ``moment_value``, ``moment_window``, ``moment_token`` ``[band, component, moment]``; ``above`` and
        ``below`` ``[band, component, word]``, ids of words; ``course[band, component, token]`` of the window
        of the strongest moment, in root mean squares.
    """
    windows = _windows_by_document(asked.documents)
    learned = learn(
        lambda: _activations(store, layer, [windows[at] for at in asked.train]),
        asked.bands,
        asked.n_components,
        asked.scaling,
    )
    held_out = [windows[at] for at in asked.test]
    measured = measure(_activations(store, layer, held_out), learned, asked.bands)
    sign, named = _named(asked, _activations(store, layer, held_out), learned, measured)
    turned = torch.from_numpy(sign)[..., None]
    found: Found = {
        "gained": learned.gained,
        "reads": (learned.reads * turned).numpy(),
        "writes": (learned.writes * turned).numpy(),
        "scale": torch.where(torch.isfinite(learned.scale), learned.scale, 0.0).numpy(),
        "excess": measured.excess,
        "share": measured.share,
        "spectrum": measured.spectrum,
        **named,
    }
    if asked.heads:
        found["head_weight"] = learned.weights.unflatten(-1, (asked.heads, -1)).square().sum(-1).numpy()
    if shuffled is not None:
        documents, features = shuffled
        windows = _windows_by_document(documents)
        other = measure(
            _activations(features, layer, [windows[at] for at in asked.test]), learned, asked.bands
        )
        found |= {f"excess_{SHUFFLED}": other.excess, f"share_{SHUFFLED}": other.share}
    return found


def _windows_by_document(documents: Documents) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, window in enumerate(documents.windows):
        found.setdefault(window.document, []).append(at)
    return found


def _activations(store: Store, layer: int, documents: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Yield the windows of each document, given by their numbers: ``[window, token, feature]``."""
    for windows in documents:
        pieces = [values for _, values in store.windows(layer, windows)]
        yield torch.from_numpy(np.concatenate(pieces))


def _named(
    asked: Asked, documents: Iterator[Tensor], learned: Learned, measured: Measured
) -> tuple[NDArray[np.float64], Found]:
    """Return the sign of each component, and what it is named by; its strongest moment is above zero."""
    n_bands, n_components = learned.weights.shape[:2]
    pieces: list[list[NDArray[np.float64]]] = [[] for _ in range(n_bands)]
    for windows in documents:
        for band, kept in enumerate(pieces):
            kept.append(courses(windows, learned, asked.bands, band).numpy())
    held_out = [at for at, w in enumerate(asked.documents.windows) if asked.held_out[w.document]]
    chosen = [asked.documents.windows[at] for at in held_out]
    of = np.array([window.document for window in chosen])
    ids = np.array([asked.documents.tokens[w.document][w.first : w.stop] for w in chosen])
    shape = (n_bands, n_components)
    sign = np.ones(shape)
    found: Found = {
        "moment_value": np.full((*shape, asked.n_moments), np.nan),
        "moment_window": np.full((*shape, asked.n_moments), NOWHERE),
        "moment_token": np.full((*shape, asked.n_moments), NOWHERE),
        "above": np.full((*shape, N_WORDS), NOWHERE),
        "below": np.full((*shape, N_WORDS), NOWHERE),
        "amplitude": np.full((len(asked.test), *shape), np.nan),
        "course": np.full((*shape, asked.bands.tokens), np.nan),
    }
    for band, kept in enumerate(pieces):
        all_courses = np.concatenate(kept)  # [window, token, component]
        for component in range(n_components):
            course = all_courses[..., component]
            size = float(np.sqrt((course**2).mean()))
            if not size:
                continue
            course = course / size
            period = 1 / centroid(measured.spectrum[band, component], asked.bands, band)
            strongest = moments(course, asked.n_moments, period / 2)
            sign[band, component] = turn = 1.0 if strongest[0].value > 0 else -1.0
            found["course"][band, component] = turn * course[strongest[0].window]
            n = len(strongest)
            found["moment_value"][band, component, :n] = [turn * each.value for each in strongest]
            found["moment_window"][band, component, :n] = [held_out[each.window] for each in strongest]
            found["moment_token"][band, component, :n] = [each.token for each in strongest]
            for name, those in zip(("above", "below"), words(turn * course, ids, of), strict=True):
                found[name][band, component, : len(those)] = those
            found["amplitude"][:, band, component] = [
                np.sqrt((course[of == document] ** 2).mean()) for document in asked.test
            ]
    return sign, found


def centroid(spectrum: NDArray[np.float64], bands: Bands, band: int) -> float:
    """Return the mean frequency of a spectrum ``[index]`` within a band, by power, in cycles per token."""
    inside = np.where(bands.members[band], spectrum, 0.0)
    return float((inside * bands.frequencies).sum() / inside.sum())


class Kept:
    """What has been found, on disk: each piece is there whole or not at all.

    Parameters
    ----------
    folder
        Where, or ``None`` for nowhere.
    settings
        What must be the same for a call to be taken up, as plain data.

    Raises
    ------
    ResultError
        If the folder holds something of other settings, or cannot be read.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        mine = json.loads(json.dumps(settings))
        path = folder / "settings.json"
        if not path.exists():
            write_bytes(path, json.dumps(mine).encode())
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete {folder} to start again.") from error
        if theirs != mine:
            raise other_settings(folder.parent, mine, theirs)

    def get(self, name: str) -> Found | None:
        """Return a piece, if it is there."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it, and it is made again.") from error

    def keep(self, name: str, found: Found) -> None:
        """Keep a piece."""
        if self._folder is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **found)  # type: ignore[arg-type]
            write_bytes(self._folder / f"{name}.npz", buffer.getvalue())
