"""What the command `carriers` is told: the model, the prompts, where waves enter and what is held."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resonance_lens.errors import ParameterError, unknown
from resonance_lens.patch_settings import read_targets
from resonance_lens.prompts import DEMO, Prompt, demo_prompts, read_prompts
from resonance_lens.result import Result, Target
from resonance_lens.runs import Run
from resonance_lens.settings import SettingsError, names_of, new_folder

OPTIONS = ("heard", "epsilon", "directions", "period", "seed", "batch_tokens", "prepend_bos", "ablation")
"""Options that go to `resonance_lens.carriers` as they are, if they are given."""

BASELINES = ("random_weights",)


@dataclass(frozen=True, kw_only=True)
class CarriersSettings:
    """Everything that one call of `carriers` is told.

    Attributes
    ----------
    model, prompts
        As they were given.
    layer, targets, interventions, ablate, kernels, baselines
        As `resonance_lens.carriers` takes them.
    options
        Others that were given, by name.
    device, dtype
        As `resonance_lens.load_model` takes them.
    out
        The folder for the result.
    named
        Whether the user named that folder.
    """

    model: str
    prompts: str
    layer: int
    targets: str | list[Target]
    interventions: Sequence[str] | None
    ablate: Sequence[Target]
    kernels: Result | None
    baselines: Sequence[str]
    options: dict[str, Any]
    device: str | None
    dtype: str | None
    out: Path
    named: bool

    def read_prompts(self) -> list[Prompt]:
        """Return the prompts of the file, or the shipped ones."""
        return demo_prompts() if self.prompts == DEMO else read_prompts(Path(self.prompts))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that `carriers` and the plan of it share."""
        return {
            "layer": self.layer,
            "targets": self.targets,
            "interventions": self.interventions,
            "ablate": self.ablate,
            "kernels": self.kernels,
            "baselines": self.baselines,
            "out": self.out,
            **self.options,
        }


def from_arguments(arguments: argparse.Namespace) -> CarriersSettings:
    """Return what the command line says.

    Raises
    ------
    ResonanceLensError
        If something is missing, or a name does not exist.
    """
    from resonance_lens.patching.operations import get_operation

    for name in ("prompts", "layer"):
        if getattr(arguments, name) is None:
            raise SettingsError(f"carriers needs --{name}; see `resonance-lens carriers --help`.")
    operation = get_operation(arguments.ablation or "zero_ablate")
    ablate = () if arguments.ablate is None else read_targets(arguments.ablate, None, "MODEL", [operation])
    if isinstance(ablate, str):
        raise SettingsError(f"--ablate takes places such as L5H3,L7H1; got {arguments.ablate!r}.")
    targets = arguments.targets
    if targets not in ("heads", "layers", "none"):
        targets = read_targets(targets, None, "MODEL", [operation])
    baselines = names_of(arguments.baselines or "none")
    baselines = [] if baselines == ["none"] else baselines
    for name in baselines:
        if name not in BASELINES:
            raise ParameterError(unknown("baseline of carriers", name, (*BASELINES, "none")))
    named = arguments.out is not None
    given = {name: getattr(arguments, name) for name in OPTIONS}
    return CarriersSettings(
        model=arguments.model,
        prompts=arguments.prompts,
        layer=arguments.layer,
        targets=targets,
        interventions=None if arguments.interventions is None else names_of(arguments.interventions),
        ablate=ablate,
        kernels=None if arguments.kernels is None else Run.load(arguments.kernels)["attention_filter"],
        baselines=baselines,
        options={name: value for name, value in given.items() if value is not None},
        device=arguments.device,
        dtype=arguments.dtype,
        out=Path(arguments.out) if named else new_folder(f"{arguments.model}-carriers"),
        named=named,
    )
