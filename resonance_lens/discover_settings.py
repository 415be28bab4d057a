"""What the command `discover` is told: the model, the documents, and where components are looked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from resonance_lens.discovering.asked import BASELINES
from resonance_lens.errors import ParameterError, unknown
from resonance_lens.patching.operations.bands import frequency_bands
from resonance_lens.probe_settings import DocumentSettings
from resonance_lens.settings import SettingsError, layers_of, names_of, new_folder

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


def from_arguments(arguments: argparse.Namespace) -> DocumentSettings:
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
    return DocumentSettings(
        model=arguments.model,
        prompts=arguments.prompts,
        options={**options, "layers": layers_of(arguments.layers), "out": out},
        device=arguments.device,
        dtype=arguments.dtype,
        out=out,
        named=named,
    )
