"""What a probe would cost, said before anything runs."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.probing.asked import Asked
from resonance_lens.probing.documents import PARTS
from resonance_lens.probing.effect import Causal, bands_checked, variants_of, windows_checked
from resonance_lens.probing.store import Store, count_passes


@dataclass(frozen=True)
class ProbePlan:
    """What `resonance_lens.probe` would do.

    Attributes
    ----------
    documents
        How many are in each part.
    windows, tokens
        How many the model sees, and how many tokens are measured.
    labelled
        Tokens that have a label.
    passes
        Of the model that fill the features, those of the twin included.
    label, kind, classes
        What is read.
    labellings
        The label and its controls.
    places
        Probes times layers times bands, each with its controls.
    edited
        Windows that are run once more with something taken out, at most: those of a causal check.
    disk_bytes, free_bytes
        What the features take on disk while the call goes on, twins included, and what is free there.
    memory_bytes
        The largest things held at one time beside the model: a shard, and the sums of a linear probe.
    files
        What would be written, if a folder is given.
    """

    documents: dict[str, int]
    windows: int
    tokens: int
    labelled: int
    passes: int
    label: str
    kind: str
    classes: int
    labellings: tuple[str, ...]
    places: int
    edited: int
    disk_bytes: int
    free_bytes: int
    memory_bytes: int
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {name}" for name, count in self.documents.items())
        what = f"{self.classes} classes" if self.kind == "classes" else "ordered values"
        lines = [
            f"label     {self.label} ({what}), and {len(self.labellings) - 1} controls of it",
            f"documents {parts}",
            f"tokens    {self.tokens} measured in {self.windows} windows, {self.labelled} with a label",
            f"passes    {self.passes} of the model",
            f"places    {self.places} probes, by layer and band",
            *([f"removing  in up to {self.edited} windows, run once more"] if self.edited else []),
            f"disk      {self.disk_bytes / 2**30:.2f} GiB of features, of {self.free_bytes / 2**30:.0f} free",
            f"memory    about {self.memory_bytes / 2**20:.0f} MiB, beside the model's own",
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def make_plan(
    asked: Asked, store: Store, out: str | Path | None, batch_tokens: int, causal: Causal
) -> ProbePlan:
    """Return the plan of a call."""
    material = asked.material
    labels = material.labels
    targets = len(material.names) * max(len(labels.classes), 1)
    # float64 sums, and what solving makes of them; float32 features of a shard, twice.
    sums = 8 * (5 * asked.width**2 + 3 * asked.width * targets)
    shard = max(store.manifest["shards"]) * asked.width * (4 * 3 + 2 * len(asked.layers))
    names = ("run.json", "probe.nc", "probes/PROBE-LAYER-BAND.safetensors", "probes/PROBE-LAYER-BAND.json")
    return ProbePlan(
        documents={name: int((material.part == number).sum()) for number, name in enumerate(PARTS)},
        windows=len(material.documents.windows),
        tokens=material.documents.measured,
        labelled=int((~np.isnan(material.labellings[:, 0])).sum()),
        passes=count_passes(store, material.documents, batch_tokens) * (1 + len(asked.baselines)),
        label=labels.name,
        kind=labels.kind,
        classes=len(labels.classes),
        labellings=material.names,
        places=len(asked.places) * (1 + len(asked.baselines)),
        edited=len(windows_checked(asked)) * sum(map(len, map(variants_of, bands_checked(asked, causal)))),
        disk_bytes=store.nbytes * (1 + len(asked.baselines)),
        free_bytes=free_bytes(store.folder),
        memory_bytes=sums + shard,
        files=() if out is None else tuple(str(Path(out) / name) for name in names),
    )


def free_bytes(folder: Path) -> int:
    """Return what is free where a folder is, or would be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
