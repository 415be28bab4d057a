"""What `carriers` would cost, said before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resonance_lens.carrying import asked
from resonance_lens.carrying.asked import PARTS
from resonance_lens.models import given_or_loaded

COMPLEX = 8
"""Bytes of a number that is kept."""


@dataclass(frozen=True)
class CarriersPlan:
    """What `resonance_lens.carriers` would do.

    Attributes
    ----------
    prompts, tokens
        How many, and their tokens.
    directions
        That are driven, one after the other.
    interventions
        That would be made; ``left_out`` says which cannot, and why.
    heads, layers
        Places that would be held one at a time: heads, and what attention or MLP of a layer writes.
    passes
        Passes, those of the twin included; all but one of each prompt begin at the layer that is held. The
        passes that fit kernels, one or two of each prompt, are left out.
    rows
        Driven and undriven copies of prompts in them.
    cost
        The same in whole passes over one prompt: a copy that begins half-way counts half.
    kept_bytes
        What is on disk while it is measured.
    files
        What would be written.
    left_out
        See `interventions`.
    """

    prompts: int
    tokens: int
    directions: int
    interventions: tuple[str, ...]
    heads: int
    layers: int
    passes: int
    rows: int
    cost: float
    kept_bytes: int
    files: tuple[str, ...]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"prompts   {self.prompts} ({self.tokens} tokens), driven in {self.directions} directions",
            f"under     {', '.join(self.interventions)}",
            f"held      {self.heads} heads and {self.layers} parts of layers, one at a time",
            *(f"left out  {name}: {why}" for name, why in self.left_out.items()),
            f"passes    {self.passes} over {self.rows} copies of prompts; as much work as {self.cost:.0f} "
            "from the first layer",
            f"disk      {self.kept_bytes / 2**20:.1f} MiB while it is measured",
            *(f"file      {name}" for name in self.files),
        ]
        return "\n".join(lines)


def plan(model: Any, prompts: Any, *, out: str | Path | None = None, **settings: Any) -> CarriersPlan:
    """Return what `resonance_lens.carriers` would do with the same arguments, without a pass.

    Parameters
    ----------
    model, prompts, out
        As of `resonance_lens.carriers`; a model given by name is loaded.
    **settings
        Its other arguments, but for ``progress``.

    Raises
    ------
    ResonanceLensError
        As `resonance_lens.carriers`, for everything that it refuses before its first pass.
    """
    model = given_or_loaded(model, False)
    what = asked.make(model, prompts, **settings)
    setup, facts = what.setup, what.adapter.facts
    depth = facts.n_layers
    twice = 1 + len(what.baselines)
    copies = 1 + len(setup.drives)
    passes, rows, cost = 0, 0, 0.0
    for one in what.prompts:
        held = list(setup.passes(len(one.tokens)))
        passes += 1 + len(setup.interventions) + len(held)
        rows += 1 + copies * len(setup.interventions) + sum(len(some) for _, some in held)
        cost += 1 + copies * len(setup.interventions) * (depth - setup.layer) / depth
        cost += sum(len(some) * (depth - layer) / depth for layer, some in held)
    numbers = len(setup.drives) * len(setup.lines) * facts.d_model
    per_prompt = len(setup.interventions) * (depth - setup.layer) + len(setup.places)
    parts = sum(place.site in PARTS for place in setup.places)
    folder = None if out is None else Path(out)
    return CarriersPlan(
        prompts=len(what.prompts),
        tokens=sum(len(one.tokens) for one in what.prompts),
        directions=len(setup.drives),
        interventions=tuple(each.name for each in setup.interventions),
        heads=len(setup.places) - parts,
        layers=parts,
        passes=passes * twice,
        rows=rows * twice,
        cost=cost * twice,
        kept_bytes=COMPLEX * numbers * per_prompt * len(what.prompts) * twice,
        files=()
        if folder is None
        else tuple(str(folder / name) for name in ("run.json", "frequency_carriers.nc")),
        left_out=dict(what.left_out),
    )
