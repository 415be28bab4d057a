"""What the command `probe` is told: the model, the documents, the label, where it is read and by what."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resonance_lens.errors import ParameterError, unknown
from resonance_lens.facts import SITE_AXES
from resonance_lens.probing.asked import BANDS, BASELINES, PROBES
from resonance_lens.probing.documents import read_documents
from resonance_lens.probing.examples import require_band
from resonance_lens.probing.labels import read_table
from resonance_lens.probing.names import label_names
from resonance_lens.prompts import DEMO, Document, Prompt
from resonance_lens.settings import SettingsError, layers_of, names_of, new_folder

CORPUS = "corpus"
LABEL = "word_class"

OPTIONS = {
    "site": "site",
    "method": "method",
    "window": "window",
    "n_shuffles": "n_shuffles",
    "features": "features",
    "features_dtype": "dtype",
    "seed": "seed",
    "batch_tokens": "batch_tokens",
    "prepend_bos": "prepend_bos",
}
"""Options that go to `resonance_lens.probe` as they are, if they are given, and their names there."""


@dataclass(frozen=True, kw_only=True)
class DocumentSettings:
    """What a command is told that looks at documents.

    Attributes
    ----------
    model, prompts
        As they were given.
    options
        The arguments that its function and the plan of it share.
    device, dtype
        As `resonance_lens.load_model` takes them.
    out
        The folder for the result.
    named
        Whether the user named that folder.
    """

    model: str
    prompts: str
    options: dict[str, Any]
    device: str | None
    dtype: str | None
    out: Path
    named: bool

    def read_documents(self) -> list[Document | Prompt]:
        """Return the documents of the file, or the shipped ones."""
        return read_documents(self.prompts if self.prompts in (CORPUS, DEMO) else Path(self.prompts))


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(DocumentSettings):
    """Everything that one call of `probe` is told.

    Attributes
    ----------
    label
        The name of one, or the file of a table.
    """

    label: str | Path


def from_arguments(arguments: argparse.Namespace) -> ProbeSettings:
    """Return what the command line says; what is misspelt is said before a model loads.

    Raises
    ------
    ResonanceLensError
        If something is missing, a name does not exist, or the file of labels cannot be read.
    """
    if arguments.model is None:
        raise SettingsError("probe needs MODEL: the name or the folder of a model.")
    if arguments.prompts is None:
        raise SettingsError("probe needs --prompts; see `resonance-lens probe --help`.")
    label = _label(arguments.label, arguments.labels_file)
    probes = _names(arguments.probes, "probe", PROBES) or ["linear"]
    baselines = [] if arguments.baselines == "none" else _names(arguments.baselines, "baseline", BASELINES)
    if arguments.site is not None and arguments.site not in SITE_AXES:
        raise ParameterError(unknown("site", arguments.site, SITE_AXES))
    bands = BANDS if arguments.bands is None else tuple(names_of(arguments.bands))
    for band in bands:
        require_band(band, arguments.method or "dct", ())
    named = arguments.out is not None
    out = Path(arguments.out) if named else new_folder(f"{arguments.model}-probe")
    given = {theirs: getattr(arguments, mine) for mine, theirs in OPTIONS.items()}
    return ProbeSettings(
        model=arguments.model,
        prompts=arguments.prompts,
        label=label,
        options={
            "layers": layers_of(arguments.layers),
            "bands": bands,
            "probes": probes,
            "baselines": baselines,
            "causal": arguments.causal,
            **({} if arguments.split is None else {"split": _split(arguments.split)}),
            "out": out,
            **{name: value for name, value in given.items() if value is not None},
        },
        device=arguments.device,
        dtype=arguments.dtype,
        out=out,
        named=named,
    )


def _label(name: str | None, file: str | None) -> str | Path:
    if file is None:
        wanted = LABEL if name is None else name
        if wanted not in label_names():
            raise ParameterError(unknown("label", wanted, label_names()))
        return wanted
    if name is not None:
        raise SettingsError("Labels come from --label or from --labels-file; give one of the two.")
    read_table(Path(file))  # what is wrong with it is said before a model loads
    return Path(file)


def _split(text: str) -> list[float] | dict[str, list[str]]:
    """Return shares, or ids of documents by part."""
    try:
        return [float(part) for part in names_of(text)]
    except ValueError:
        pass  # then it is a file
    try:
        parts = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--split takes three shares such as 0.6,0.2,0.2, or a JSON file; {text} cannot be read: {error}."
        ) from error
    fine = isinstance(parts, dict) and all(
        isinstance(ids, list) and all(isinstance(each, str) for each in ids) for ids in parts.values()
    )
    if not fine:
        raise SettingsError(
            f'The split {text} must be like {{"train": [ids], "validation": [ids], "test": [ids]}}.'
        )
    found: dict[str, list[str]] = parts
    return found


def _names(text: str | None, kind: str, known: Collection[str]) -> list[str]:
    names = [] if text is None else names_of(text)
    for name in names:
        if name not in known:
            raise ParameterError(unknown(kind, name, known))
    return names
