"""Probes on disk: what was learned as safetensors, a card of plain JSON beside it. Reading runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from resonance_lens.errors import ResonanceLensError, ResultError, unknown
from resonance_lens.files import write_bytes, write_text
from resonance_lens.probing.learned import LearnedFitted
from resonance_lens.probing.linear import LinearFitted
from resonance_lens.probing.protocol import Fitted

FORMAT = 1
KINDS: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], Fitted]] = {
    "linear": LinearFitted.made_of,
    "learned": LearnedFitted.made_of,
}
"""What a card may be of."""


def file_name(probe: str, layer: int, band: str) -> str:
    """Return what the file of a probe at a place is called, without its ending."""
    return f"{probe}-L{layer:02d}-{band}"


def save_probe(path: Path, fitted: Fitted, about: Mapping[str, Any]) -> None:
    """Write a probe as ``path.safetensors`` and ``path.json``.

    Parameters
    ----------
    path
        Without an ending.
    fitted
        The probe.
    about
        Where it was fitted and on what, as plain data: model, weights_fingerprint, site, layer, features,
        band, method, window, bos (whether windows begin with that token), label, classes.
    """
    write_bytes(_ending(path, ".safetensors"), save(fitted.tensors()))
    card = {"format": FORMAT, "probe": fitted.card(), **about}
    write_text(_ending(path, ".json"), json.dumps(card, indent=1) + "\n")


def load_probe(path: str | Path) -> tuple[Fitted, dict[str, Any]]:
    """Read a probe that `save_probe` wrote.

    Parameters
    ----------
    path
        With or without one of its two endings.

    Returns
    -------
    tuple
        The probe, and what is written about it.

    Raises
    ------
    ResultError
        If a file is missing or damaged, or of a newer version.
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix("")
    file = _ending(path, ".json")
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        if int(card["format"]) > FORMAT:
            raise ResultError(
                f"{file} has format {card['format']}, and this version of resonance_lens reads up to "
                f"{FORMAT}; upgrade resonance_lens to read it."
            )
        kind = str(card["probe"]["kind"])
        if kind not in KINDS:
            raise ResultError(unknown("kind of probe", kind, KINDS))
        return KINDS[kind](card["probe"], load_file(_ending(path, ".safetensors"))), card
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ResonanceLensError):
            raise
        raise ResultError(f"The probe {path} cannot be read: {error}.") from error


def _ending(path: Path, ending: str) -> Path:
    # Not with_suffix: a band such as 0.1-0.25 has a full stop in its name.
    return path.parent / (path.name + ending)
