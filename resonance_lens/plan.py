"""What a run would cost, said before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resonance_lens.contract import Analysis, Claim
from resonance_lens.design import sequences
from resonance_lens.facts import SITE_AXES, Batch, Facts
from resonance_lens.preparing import Ready
from resonance_lens.stats.inference import LEVEL, refusal, smallest_p
from resonance_lens.stats.power import POWER, detectable_effect

SIZES = {"head": "n_heads", "d_head": "d_head", "d_model": "d_model", "vocab": "d_vocab"}


@dataclass(frozen=True)
class Plan:
    """What `run` would do.

    Attributes
    ----------
    prompts, tokens
        How many, padding left out.
    passes
        Forward passes, all conditions counted; driven ones, which begin at the driven layer, come on top.
    sequences
        Prompts times the ways in which each is run: undriven and driven, under all conditions.
    largest_batch
        ``(prompts, tokens)`` of the largest pass.
    hooks
        Hook points listened to in each pass.
    largest_signal_bytes
        The largest signal that is alive at one time: one layer of one batch.
    analyses
        Names, with the layers that each observes.
    conditions
        For each analysis the passes that each batch takes: ``plain``, and baselines of their own.
    left_out
        Of ``all`` analyses those that cannot be made of this model and these prompts, and why.
    claims
        One sentence for each claim: what its family could find with so many prompts, or why nothing.
    files
        What would be written, if a folder is given.
    """

    prompts: int
    tokens: int
    passes: int
    sequences: int
    largest_batch: tuple[int, int]
    hooks: int
    largest_signal_bytes: int
    analyses: Mapping[str, int]
    conditions: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]
    claims: tuple[str, ...]
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows, width = self.largest_batch
        lines = [
            f"prompts   {self.prompts} ({self.tokens} tokens)",
            f"passes    {self.passes}, the largest of {rows} x {width} tokens; {self.sequences} sequences",
            f"hooks     {self.hooks} in each pass",
            f"memory    {self.largest_signal_bytes / 2**20:.1f} MiB for the largest signal held at once, "
            "beside the model's own",
            *(
                f"analysis  {name} at {layers} layers: {', '.join(self.conditions[name])}"
                for name, layers in self.analyses.items()
            ),
            *(f"left out  {name}: {why}" for name, why in self.left_out.items()),
            *(f"claim     {claim}" for claim in self.claims),
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def make_plan(ready: Ready, batches: Sequence[Batch], out: str | Path | None) -> Plan:
    """Return the plan of a run."""
    facts, analyses, layers, conditions = ready.facts, ready.analyses, ready.layers, ready.conditions
    passes = {condition for those in conditions.values() for condition in those}
    listened = {(layer, site) for a in analyses for layer in layers[a.name] for site in a.observes}
    largest = max(batches, key=lambda batch: batch.tokens.numel())
    sites = {site for _, site in listened}
    signal_bytes = max(_bytes(site, facts, batch) for site in sites for batch in batches)
    n_prompts = sum(len(batch.prompts) for batch in batches)
    files: tuple[str, ...] = ()
    if out is not None:
        folder = Path(out)
        names = ["run.json", *(f"{a.name}.nc" for a in analyses)]
        if any("head" in SITE_AXES[site] for site in sites):
            names.append("exhibits.nc")  # patterns of a few heads, for the page
        files = tuple(str(folder / name) for name in names)
    return Plan(
        prompts=n_prompts,
        tokens=sum(int(batch.lengths.sum()) for batch in batches),
        passes=len(batches) * sum(condition.passes for condition in passes),
        sequences=n_prompts * sequences(list(passes)),
        largest_batch=(largest.tokens.shape[0], largest.tokens.shape[1]),
        hooks=len(listened),
        largest_signal_bytes=signal_bytes,
        analyses={a.name: len(layers[a.name]) for a in analyses},
        conditions={name: tuple(c.name for c in those) for name, those in conditions.items()},
        left_out=dict(ready.left_out),
        claims=tuple(
            _claim(analysis, claim, facts, len(layers[analysis.name]), n_prompts)
            for analysis in analyses
            for claim in analysis.claims
        ),
        files=files,
    )


def _claim(analysis: Analysis, claim: Claim, facts: Facts, n_layers: int, n_prompts: int) -> str:
    """Return what a claim could find with so many prompts."""
    sizes = {"layer": n_layers, "head": facts.n_heads}
    n_places = math.prod(sizes.get(dim, 1) for dim in claim.family)
    known = all(dim in sizes for dim in claim.family)
    unit, n_units = analysis.units(n_prompts)
    what = f"{analysis.name}: {claim.long_name}"
    refused = refusal(unit, n_units)
    if refused:
        return f"{what} cannot be tested: {refused}"
    family = f"a family of {n_places} {claim.places}" if known else f"its {claim.places}"
    if unit == "draw":
        return f"{what}: {n_units} surrogates can reach p = {1 / (n_units + 1):.2g} over {family}"
    effect = detectable_effect(n_units, n_places)
    words = {"prompt": "prompts", "group": "groups of prompts"}[unit]
    return (
        f"{what}: {n_units} {words} find an effect of {effect:.2f} standard deviations in {POWER:.0%} of "
        f"cases at best (Student's test at {LEVEL:g} / {n_places}; q asks more of fewer than 48), over "
        f"{family}; smallest p {smallest_p(n_units):.2g}"
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
