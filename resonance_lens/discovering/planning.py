"""What `discover` would cost, said before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens.discovering.asked import RANDOM, SHUFFLED, Asked
from resonance_lens.discovering.removing import why_not


@dataclass(frozen=True)
class DiscoverPlan:
    """What `resonance_lens.discover` would do.

    Attributes
    ----------
    documents, held_out
        How many, and how many of them components are tested on.
    windows, tokens
        What the model sees of them; ``left_out`` are tokens that fill no window.
    components
        Layers times bands times components.
    passes_tokens
        Tokens that go through the model for activations, those of baselines included.
    ablation_tokens
        Tokens that go through it, from the layer of a component on, if as many are found as would be taken
        out.
    disk_bytes
        What activations take on disk meanwhile.
    memory_bytes
        The largest things held at one time beside the model: covariances of a layer in all bands.
    not_taken_out
        Bands whose components cannot be taken out, and why.
    files
        What would be written, if a folder is given.
    """

    documents: int
    held_out: int
    windows: int
    tokens: int
    left_out: int
    components: int
    passes_tokens: int
    ablation_tokens: int
    disk_bytes: int
    memory_bytes: int
    not_taken_out: dict[str, str]
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"documents {self.documents}, {self.held_out} of them held out",
            f"tokens    {self.tokens} in {self.windows} windows; {self.left_out} fill no window",
            f"places    {self.components} components, by layer and band",
            f"passes    {self.passes_tokens} tokens for activations, {self.ablation_tokens} to take out",
            *(f"kept in   {name}: {why}" for name, why in self.not_taken_out.items()),
            f"disk      {self.disk_bytes / 2**20:.0f} MiB of activations, until it is done",
            f"memory    about {self.memory_bytes / 2**20:.0f} MiB, beside the model's own",
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def make_plan(asked: Asked, dtype: str, out: str | Path | None) -> DiscoverPlan:
    """Return the plan of a call."""
    windows = asked.documents.windows
    tokens = sum(len(window.tokens) for window in windows)
    of_held_out = sum(len(window.tokens) for window in windows if asked.held_out[window.document])
    stored = tokens * (1 + (RANDOM in asked.baselines)) + of_held_out * (SHUFFLED in asked.baselines)
    measured = windows[0].measured / len(windows[0].tokens)  # the first position is not stored
    on_disk = round(stored * measured)
    # Sums of all bands, and what finding their eigenvectors makes of them.
    sums = 8 * asked.width**2 * (3 * len(asked.bands.names) + 1)
    names = ("run.json", "discovery.nc")
    return DiscoverPlan(
        documents=len(asked.documents),
        held_out=int(asked.held_out.sum()),
        windows=len(windows),
        tokens=tokens,
        left_out=asked.documents.left_out,
        components=len(asked.layers) * len(asked.bands.names) * asked.n_components,
        passes_tokens=stored,
        ablation_tokens=of_held_out * (1 + 2 * asked.n_ablations) if asked.n_ablations else 0,
        disk_bytes=on_disk * asked.width * len(asked.layers) * np.dtype(dtype).itemsize,
        memory_bytes=sums,
        not_taken_out=(
            {name: why for name in asked.bands.names if (why := why_not(asked, name))}
            if asked.n_ablations
            else {}
        ),
        files=() if out is None else tuple(str(Path(out) / name) for name in names),
    )
