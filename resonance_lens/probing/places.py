"""One probe at one place: fitted, chosen on validation, scored once on test, kept so that a run resumes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ResultError
from resonance_lens.files import write_bytes
from resonance_lens.nn import SpectralFilter
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
    untrained
        Of the label, by the probe as it is before training.
    validation
        The score of the label itself on validation, by which places are chosen.
    n_parameters
        Of one fitted probe.
    strength
        Of its regularisation; not-a-number where it has none.
    gains
        Of its filter along tokens, at ``k / (2 K)`` cycles per token; empty where it learned none.
    """

    test: tuple[Tally, ...]
    untrained: Tally
    validation: float
    n_parameters: int
    strength: float
    gains: Floats = field(default_factory=lambda: np.zeros(0))

    def to_bytes(self) -> bytes:
        """Return it as an npz archive."""
        buffer = io.BytesIO()
        tallies = (*self.test, self.untrained)
        np.savez(
            buffer,
            kind=np.array(self.untrained.kind),
            right=np.stack([tally.right for tally in tallies]),
            count=np.stack([tally.count for tally in tallies]),
            values=np.stack([tally.values for tally in tallies]),
            numbers=np.array([self.validation, self.n_parameters, self.strength]),
            gains=self.gains,
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
                gains = np.asarray(stored["gains"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ResultError(f"{path} cannot be read ({error}); delete it, and it is made again.") from error
        return Scored(tallies[:-1], tallies[-1], validation, int(n_parameters), strength, gains)


def fit_and_score(
    probe: Probe, train: Examples, validation: Examples, test: Examples, n_documents: int
) -> tuple[Scored, Fitted]:
    """Fit a probe at a place and return its scores, and the probe that learned the label itself."""
    fitted = probe.fit(train, validation)
    before = probe.untrained(train)
    *by_labelling, untrained = tallies(
        [*fitted, before], test, n_documents, labellings=[*range(len(fitted)), 0]
    )
    on_validation = tallies(fitted[:1], validation, n_documents)[0].score()
    first = fitted[0]
    strength = float(getattr(first, "strength", float("nan")))
    scored = Scored(
        tuple(by_labelling), untrained, on_validation, first.n_parameters, strength, gains_of(first)
    )
    return scored, first


def gains_of(fitted: Fitted) -> Floats:
    """Return the gains of a learned filter, at ``k / (2 K)`` cycles per token; none of other probes."""
    module = getattr(fitted, "module", None)
    if isinstance(module, SpectralFilter):
        return np.asarray(module.gains.detach().double().numpy())
    return np.zeros(0)


def tallies(
    fitted: Sequence[Fitted],
    examples: Examples,
    n_documents: int,
    *,
    labellings: Sequence[int] | None = None,
) -> tuple[Tally, ...]:
    """Return what fitted probes predict, each of its own labelling: in order, if it is not said which."""
    which = range(len(fitted)) if labellings is None else labellings
    found = tuple(Tally.empty(examples.kind, n_documents, len(examples.classes)) for _ in fitted)
    for windows in examples:
        known = windows.measured
        documents = np.broadcast_to(windows.documents[:, None], known.shape)[known]
        for labelling, one, tally in zip(which, fitted, found, strict=True):
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
        What must be the same for places to be taken up, as plain data.
    probes
        Settings of each probe by its name. Those that another call had besides do not matter: a call that
        failed for one of its probes is taken up without it.

    Raises
    ------
    ResultError
        If the folder holds scores of other settings.
    """

    def __init__(
        self, folder: Path | None, settings: Mapping[str, object], probes: Mapping[str, object]
    ) -> None:
        self._folder = folder
        if folder is None:
            return
        mine = json.loads(json.dumps({**settings, "probes": probes}))
        path = folder / "settings.json"
        if path.exists() and any(folder.glob("*.npz")):
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
                differing = [key for key in settings if theirs.get(key) != mine[key]]
                others = dict(theirs["probes"])
                differing += [
                    f"settings of {name}"
                    for name, own in mine["probes"].items()
                    if others.get(name, own) != own
                ]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ResultError(f"{path} cannot be read ({error}); delete {folder}.") from error
            if differing:
                raise ResultError(
                    f"The folder {folder.parent} holds probes with other {' and '.join(differing)}; choose "
                    "another folder, or delete that one."
                )
            mine["probes"] = others | mine["probes"]
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


def leave_nothing_empty(folder: Path, existed: bool) -> None:
    """Clear away what a call leaves that has failed before it had features or a score."""
    partial = folder / "partial"
    if not any(partial.glob("*.npz")) and not any(partial.rglob("shard-*.npy")):
        shutil.rmtree(partial, ignore_errors=True)
    for each in (folder / "probes", *(() if existed else (folder,))):
        with contextlib.suppress(OSError):  # missing, or not empty
            each.rmdir()


def settings_of_places(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what must be the same for places to be taken up, and the settings of each probe."""
    about = settings["probe"]
    common = {key: value for key, value in about.items() if key not in ("probes", "bands", "baselines")}
    return {**settings, "probe": common}, about["probes"]
