"""One probe at one place: fitted, chosen on validation, scored once on test, kept so that a run resumes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ResultError
from resonance_lens.files import write_bytes
from resonance_lens.probing.examples import Examples
from resonance_lens.probing.protocol import Fitted, Probe
from resonance_lens.probing.tally import Tally
from resonance_lens.text_labels import Kind

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a probe scored at a place.

    Attributes
    ----------
    test
        A tally for each labelling that it learned.
    validation
        The score of the label itself on validation, by which places are chosen.
    n_parameters
        Of one fitted probe.
    strength
        Of its regularisation; not-a-number where it has none.
    """

    test: tuple[Tally, ...]
    validation: float
    n_parameters: int
    strength: float

    def to_bytes(self) -> bytes:
        """Return it as an npz archive."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            kind=np.array(self.test[0].kind),
            right=np.stack([tally.right for tally in self.test]),
            count=np.stack([tally.count for tally in self.test]),
            values=np.stack([tally.values for tally in self.test]),
            numbers=np.array([self.validation, self.n_parameters, self.strength]),
        )
        return buffer.getvalue()

    @staticmethod
    def of_file(path: Path) -> Scored:
        """Read one back.

        Raises
        ------
        ResultError
            If it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                kind: Kind = "classes" if str(stored["kind"]) == "classes" else "ordered"
                columns = zip(stored["right"], stored["count"], stored["values"], strict=True)
                validation, n_parameters, strength = stored["numbers"].tolist()
                tallies = tuple(Tally(kind, *each) for each in columns)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it, and it is made again.") from error
        return Scored(tallies, validation, int(n_parameters), strength)


def fit_and_score(
    probe: Probe, train: Examples, validation: Examples, test: Examples, n_documents: int
) -> tuple[Scored, Fitted]:
    """Fit a probe at a place and return its scores, and the probe that learned the label itself."""
    fitted = probe.fit(train, validation)
    by_labelling = tallies(fitted, test, n_documents)
    on_validation = tallies(fitted[:1], validation, n_documents)[0].score()
    first = fitted[0]
    strength = float(getattr(first, "strength", float("nan")))
    return Scored(by_labelling, on_validation, first.n_parameters, strength), first


def tallies(fitted: Sequence[Fitted], examples: Examples, n_documents: int) -> tuple[Tally, ...]:
    """Return what fitted probes predict, each of its own labelling."""
    found = tuple(Tally.empty(examples.kind, n_documents, len(examples.classes)) for _ in fitted)
    for windows in examples:
        known = windows.measured
        documents = np.broadcast_to(windows.documents[:, None], known.shape)[known]
        for labelling, (one, tally) in enumerate(zip(fitted, found, strict=True)):
            labels = windows.labels[..., labelling][known]
            tally.add(documents, labels, one.predict(windows.features)[known])
    return found


class Kept:
    """Scores of places on disk: a place is there whole or not at all.

    Parameters
    ----------
    folder
        Where, or ``None`` for nowhere.
    settings
        What must be the same for a run to be taken up, as plain data.

    Raises
    ------
    ResultError
        If the folder holds scores of other settings.
    """

    def __init__(self, folder: Path | None, settings: dict[str, object]) -> None:
        self._folder = folder
        if folder is None:
            return
        mine = json.loads(json.dumps(settings))
        path = folder / "settings.json"
        if path.exists():
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
                differing = [key for key in mine if theirs.get(key) != mine[key]]
            except (OSError, ValueError, AttributeError) as error:
                raise ResultError(f"{path} cannot be read ({error}); delete {folder}.") from error
            if differing:
                raise ResultError(
                    f"The folder {folder.parent} holds probes with other {' and '.join(differing)}; choose "
                    "another folder, or delete that one."
                )
        else:
            write_bytes(path, json.dumps(mine, indent=1).encode())

    def get(self, place: str) -> Scored | None:
        """Return the scores of a place, if they are there."""
        if self._folder is None or not (path := self._folder / f"{place}.npz").exists():
            return None
        return Scored.of_file(path)

    def keep(self, place: str, scored: Scored) -> None:
        """Write down the scores of a place."""
        if self._folder is not None:
            write_bytes(self._folder / f"{place}.npz", scored.to_bytes())
