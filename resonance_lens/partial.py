"""A run while it goes on: features accumulate, on disk too, so that a killed run loses one batch."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resonance_lens.contract import Analysis
from resonance_lens.errors import ResultError
from resonance_lens.features import Features
from resonance_lens.files import make_folder, write_bytes
from resonance_lens.runs import Run, read_description

SETTINGS = ("model", "weights_fingerprint", "prompts", "prepend_bos", "seed")
"""What must be the same for a run to be resumed; versions and batch size may differ."""


class Partial:
    """Features by analysis and condition, and the folder that mirrors them.

    Attributes
    ----------
    features
        ``{analysis: {condition: Features}}``.
    done
        Indices of the prompts that are in them.
    finished
        The run, if the folder already holds it whole.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self.features: dict[str, dict[str, Features]] = {}
        self.done: set[int] = set()
        self.finished: Run | None = None

    @staticmethod
    def open(folder: Path | None, record: Mapping[str, Any], analyses: Sequence[Analysis]) -> Partial:
        """Start in a new folder, or take up what a stopped run of the same settings left.

        Raises
        ------
        ResultError
            If the folder cannot be written, or holds a run of other settings.
        """
        settings = {key: record[key] for key in SETTINGS} | {
            "analyses": {a.name: [a.version, a.parameters(), record["conditions"][a.name]] for a in analyses}
        }
        settings = json.loads(json.dumps(settings))
        partial = Partial(folder, settings)
        if folder is None:
            return partial
        partial.finished = finished_in(folder, settings)
        if partial.finished is None and partial._file.exists():
            partial._take_up()
        return partial

    def add(self, features: Mapping[str, Mapping[str, Features]]) -> None:
        """Merge the features of a batch, and write everything down if there is a folder."""
        for name, conditions in features.items():
            mine = self.features.setdefault(name, {})
            for condition, found in conditions.items():
                mine[condition] = mine[condition].merge(found) if condition in mine else found
                self.done.update(found.prompts.tolist())
        if self._folder is not None:
            make_folder(self._folder / "partial")
            write_bytes(self._file, self._packed())

    def finish(self, run: Run) -> Run:
        """Save the run if there is a folder, and clear away what was partial."""
        if self._folder is None:
            return run
        whole = save_finished(run, self._folder, self._settings)
        shutil.rmtree(self._folder / "partial", ignore_errors=True)
        return whole

    @property
    def _file(self) -> Path:
        assert self._folder is not None
        return self._folder / "partial" / "features.zip"

    def _packed(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("settings.json", json.dumps(self._settings))
            for name, conditions in self.features.items():
                for condition, found in conditions.items():
                    archive.writestr(f"{name}/{condition}", found.to_bytes())
        return buffer.getvalue()

    def _take_up(self) -> None:
        try:
            with zipfile.ZipFile(self._file) as archive:
                settings = json.loads(archive.read("settings.json"))
                if settings != self._settings:
                    raise other_settings(self._folder, self._settings, settings)
                for entry in archive.namelist():
                    if entry != "settings.json":
                        name, condition = entry.split("/", 1)
                        found = Features.from_bytes(archive.read(entry))
                        self.features.setdefault(name, {})[condition] = found
                        self.done.update(found.prompts.tolist())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ResultError(
                f"The unfinished run in {self._folder} cannot be read ({error}); delete the folder "
                f"{self._file.parent} to start again."
            ) from error


def finished_in(folder: Path, settings: Mapping[str, Any]) -> Run | None:
    """Make a folder if it is not there, and return the run that it holds whole, if it does.

    Raises
    ------
    ResultError
        If the folder cannot be written, or holds a run of other settings.
    """
    make_folder(folder)
    if not (folder / "run.json").exists():
        return None
    theirs = read_description(folder)["provenance"].get("settings") or {}
    if theirs != settings:
        raise other_settings(folder, settings, theirs)
    return Run.load(folder)


def save_finished(run: Run, folder: Path, settings: Mapping[str, Any]) -> Run:
    """Save a run with the settings that `finished_in` will ask for, and return it as it is there."""
    whole = dataclasses.replace(run, provenance={**run.provenance, "settings": settings}, folder=folder)
    whole.save(folder)
    return whole


def other_settings(folder: Path | None, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> ResultError:
    """Return the error of a folder that holds a run of other settings: which of them."""
    keys = [key for key in mine if mine[key] != theirs.get(key)]
    return ResultError(
        f"The folder {folder} holds a run with other {' and '.join(keys)}; choose another folder, "
        "or delete that one."
    )
