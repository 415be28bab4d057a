"""What the command `discover` is told: the model, the documents, and where components are looked for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resonance_lens.discovering.asked import BASELINES
from resonance_lens.errors import ParameterError, unknown
from resonance_lens.patching.operations.bands import frequency_bands
from resonance_lens.probe_settings import CORPUS, layers_of
from resonance_lens.probing.documents import read_documents
from resonance_lens.prompts import DEMO, Document, Prompt
from resonance_lens.settings import SettingsError, names_of, new_folder

OPTIONS = {
    "site": "site",
    "n_components": "n_components",
    "n_ablations": "n_ablations",
    "n_moments": "n_moments",
    "scaling": "scaling",
    "method": "method",
    "held_out": "held_out",
    "window": "window",
    "features_dtype": "dtype",
    "seed": "seed",
    "batch_tokens": "batch_tokens",
    "prepend_bos": "prepend_bos",
}
"""Options that go to `resonance_lens.discover` as they are, if they are given, and their names there."""


@dataclass(frozen=True, kw_only=True)
class DiscoverSettings:
    """Everything that one call of `discover` is told.

    Attributes
    ----------
    model, prompts
        As they were given.
    options
        The arguments that `resonance_lens.discover` and the plan of it share.
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


def from_arguments(arguments: argparse.Namespace) -> DiscoverSettings:
    """Return what the command line says; what is misspelt is said before a model loads.

    Raises
    ------
    ResonanceLensError
        If something is missing, or a name does not exist.
    """
    if arguments.prompts is None:
        raise SettingsError("discover needs --prompts; see `resonance-lens discover --help`.")
    given = {theirs: getattr(arguments, mine) for mine, theirs in OPTIONS.items()}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.bands is not None:
        options["bands"] = names_of(arguments.bands)
        for band in options["bands"]:
            frequency_bands(band)
    if arguments.baselines is not None:
        names = [] if arguments.baselines == "none" else names_of(arguments.baselines)
        for name in names:
            if name not in BASELINES:
                raise ParameterError(unknown("baseline of discover", name, (*BASELINES, "none")))
        options["baselines"] = names
    named = arguments.out is not None
    out = Path(arguments.out) if named else new_folder(f"{arguments.model}-discover")
    return DiscoverSettings(
        model=arguments.model,
        prompts=arguments.prompts,
        options={**options, "layers": layers_of(arguments.layers), "out": out},
        device=arguments.device,
        dtype=arguments.dtype,
        out=out,
        named=named,
    )
