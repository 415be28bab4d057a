"""A sweep while it goes on, on disk: a killed one loses at most the layer in flight."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.errors import ResultError
from resonance_lens.files import make_folder, write_bytes
from resonance_lens.partial import finished_in, other_settings, save_finished
from resonance_lens.patching.sweep import Measured
from resonance_lens.runs import Run

SETTINGS = ("model", "weights_fingerprint", "seed", "task", "patch")
"""What must be the same for a sweep to be resumed; versions and batch size may differ."""


class Kept:
    """The folder of a sweep.

    Attributes
    ----------
    finished
        The run in it, if the folder holds it whole.
    """

    def __init__(self, folder: Path | None, record: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = json.loads(json.dumps({key: record[key] for key in SETTINGS}))
        self.finished: Run | None = None

    @staticmethod
    def open(folder: Path | None, record: Mapping[str, Any]) -> Kept:
        """Return the folder of a sweep, which may be finished.

        Parameters
        ----------
        folder
            Where, or ``None`` for nowhere.
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
        return kept

    def take_up(self, measured: Measured) -> None:
        """Fill in what a stopped sweep of the same settings left.

        Raises
        ------
        ResultError
            If it cannot be read, or is of other settings.
        """
        if self._folder is None or not self._file.exists():
            return
        try:
            with np.load(self._file, allow_pickle=False) as stored:
                theirs = json.loads(str(stored["settings"]))
                if theirs != self._settings:
                    raise other_settings(self._folder, self._settings, theirs)
                measured.values[:] = stored["values"]
                measured.sides[:] = stored["sides"]
                measured.resumes = bool(stored["resumes"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(
                f"The unfinished sweep in {self._folder} cannot be read ({error}); delete the folder "
                f"{self._file.parent} to start again."
            ) from error

    def keep(self, measured: Measured) -> None:
        """Write down what has been measured so far, if there is a folder."""
        if self._folder is None:
            return
        make_folder(self._file.parent)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            settings=np.array(json.dumps(self._settings)),
            values=measured.values,
            sides=measured.sides,
            resumes=np.array(measured.resumes),
        )
        write_bytes(self._file, buffer.getvalue())

    def finish(self, run: Run) -> Run:
        """Save the run if there is a folder, and clear away what was partial."""
        if self._folder is None:
            return run
        whole = save_finished(run, self._folder, self._settings)
        shutil.rmtree(self._file.parent, ignore_errors=True)
        return whole

    @property
    def _file(self) -> Path:
        assert self._folder is not None
        return self._folder / "partial" / "sweep.npz"
