"""Responses while they are measured, on disk: memory stays flat, and a killed call loses one prompt."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.carrying.measuring import Responses
from resonance_lens.errors import ResultError
from resonance_lens.files import make_folder, write_bytes, write_text
from resonance_lens.partial import finished_in, other_settings, save_finished
from resonance_lens.runs import Run

SETTINGS = ("model", "weights_fingerprint", "seed", "prompts", "carriers")
"""What must be the same for a call to be resumed; versions and batch size may differ."""

NAMES = ("under", "held")


class Kept:
    """The folder that responses are kept in: part of that of the result, or one that goes away.

    Attributes
    ----------
    finished
        The run in the folder of the result, if it is whole.
    """

    def __init__(self, folder: Path | None, record: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = json.loads(json.dumps({key: record[key] for key in SETTINGS}))
        self._made: Path | None = None
        self.finished: Run | None = None

    @staticmethod
    def open(folder: Path | None, record: Mapping[str, Any]) -> Kept:
        """Return where responses are kept.

        Parameters
        ----------
        folder
            Of the result, or ``None`` for nowhere.
        record
            What the result is made of.

        Raises
        ------
        ResultError
            If the folder cannot be written, or holds something of other settings.
        """
        kept = Kept(folder, record)
        if folder is None:
            return kept
        kept.finished = finished_in(folder, kept._settings)
        if kept.finished is None and kept._described.exists():
            try:
                theirs = json.loads(kept._described.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ResultError(
                    f"The unfinished result in {folder} cannot be read ({error}); delete the folder "
                    f"{kept._described.parent} to start again."
                ) from error
            if theirs != kept._settings:
                raise other_settings(folder, kept._settings, theirs)
        return kept

    def __contains__(self, key: tuple[str, int]) -> bool:
        """Return whether the responses of a prompt, under some weights, are there."""
        return self._made_or_there() and all(self._file(*key, name).exists() for name in NAMES)

    def put(self, weights: str, prompt: int, responses: Responses) -> None:
        """Keep the responses of a prompt."""
        if not self._made_or_there():
            self._make()
        for name in NAMES:
            buffer = io.BytesIO()
            np.save(buffer, getattr(responses, name))
            write_bytes(self._file(weights, prompt, name), buffer.getvalue())

    def get(self, weights: str, prompt: int) -> Responses:
        """Return the responses of a prompt, read from disk where they are looked at.

        Raises
        ------
        ResultError
            If what a stopped call left cannot be read.
        """
        try:
            return Responses(*(np.load(self._file(weights, prompt, name), mmap_mode="r") for name in NAMES))
        except (OSError, ValueError, EOFError) as error:
            raise ResultError(
                f"The unfinished result in {self._folder} cannot be read ({error}); delete the folder "
                f"{self._made} to start again."
            ) from error

    def finish(self, run: Run) -> Run:
        """Save the run if there is a folder for it, and clear away what was partial."""
        if self._folder is None:
            return run
        return save_finished(run, self._folder, self._settings)

    def clear(self, *, whole: bool) -> None:
        """Clear away what was partial: all of it if the result is whole or has no folder."""
        if self._made is not None and (whole or self._folder is None):
            shutil.rmtree(self._made, ignore_errors=True)

    @property
    def _described(self) -> Path:
        assert self._folder is not None
        return self._folder / "partial" / "settings.json"

    def _made_or_there(self) -> bool:
        if self._made is None and self._folder is not None and self._described.exists():
            self._made = self._described.parent
        return self._made is not None

    def _make(self) -> None:
        if self._folder is None:
            self._made = Path(tempfile.mkdtemp(prefix="resonance-lens-"))
            return
        self._made = make_folder(self._described.parent)
        write_text(self._described, json.dumps(self._settings))

    def _file(self, weights: str, prompt: int, name: str) -> Path:
        assert self._made is not None
        return self._made / f"{weights}-{prompt:05d}-{name}.npy"
