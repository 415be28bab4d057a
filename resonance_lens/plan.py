"""What a run would cost, said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resonance_lens.contract import Analysis
from resonance_lens.facts import SITE_AXES, Batch, Facts

SIZES = {"head": "n_heads", "d_head": "d_head", "d_model": "d_model", "vocab": "d_vocab"}


@dataclass(frozen=True)
class Plan:
    """What `run` would do.

    Attributes
    ----------
    prompts, tokens
        How many, padding left out.
    passes
        Forward passes, all conditions counted.
    largest_batch
        ``(prompts, tokens)`` of the largest pass.
    hooks
        Hook points listened to in each pass.
    largest_signal_bytes
        The largest signal that is alive at one time: one layer of one batch.
    analyses
        Names, with the layers that each observes.
    files
        What would be written, if a folder is given.
    """

    prompts: int
    tokens: int
    passes: int
    largest_batch: tuple[int, int]
    hooks: int
    largest_signal_bytes: int
    analyses: Mapping[str, int]
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows, width = self.largest_batch
        lines = [
            f"prompts   {self.prompts} ({self.tokens} tokens)",
            f"passes    {self.passes}, the largest of {rows} x {width} tokens",
            f"hooks     {self.hooks} in each pass",
            f"memory    {self.largest_signal_bytes / 2**20:.1f} MiB for the largest signal held at once, "
            "beside the model's own",
            *(f"analysis  {name} at {layers} layers" for name, layers in self.analyses.items()),
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def make_plan(
    facts: Facts,
    batches: Sequence[Batch],
    analyses: Sequence[Analysis],
    layers: Mapping[str, tuple[int, ...]],
    out: str | Path | None,
) -> Plan:
    """Return the plan of a run."""
    conditions = {c for analysis in analyses for c in analysis.design(facts).conditions}
    listened = {(layer, site) for a in analyses for layer in layers[a.name] for site in a.sites}
    largest = max(batches, key=lambda batch: batch.tokens.numel())
    sites = {site for _, site in listened}
    signal_bytes = max(_bytes(site, facts, batch) for site in sites for batch in batches)
    files: tuple[str, ...] = ()
    if out is not None:
        folder = Path(out)
        names = ["run.json", *(f"{a.name}.nc" for a in analyses)]
        if any("head" in SITE_AXES[site] for site in sites):
            names.append("exhibits.nc")  # patterns of a few heads, for the page
        files = tuple(str(folder / name) for name in names)
    return Plan(
        prompts=sum(len(batch.prompts) for batch in batches),
        tokens=sum(int(batch.lengths.sum()) for batch in batches),
        passes=len(batches) * len(conditions),
        largest_batch=(largest.tokens.shape[0], largest.tokens.shape[1]),
        hooks=len(listened),
        largest_signal_bytes=signal_bytes,
        analyses={a.name: len(layers[a.name]) for a in analyses},
        files=files,
    )


def _bytes(site: str, facts: Facts, batch: Batch) -> int:
    rows, width = batch.tokens.shape
    size = 4 * rows
    for axis in SITE_AXES[site][1:]:
        if axis in ("token", "query", "key"):
            size *= width
        elif axis == "neuron":
            size *= 4 * facts.d_model  # the usual width; the host does not say
        else:
            size *= getattr(facts, SIZES[axis])
    return size
