"""Hold every analysis against the effects of patching SmolLM2, and write the records and pages of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens import __version__
from resonance_lens.engine import run
from resonance_lens.errors import AnalysisError, ResonanceLensError
from resonance_lens.files import make_folder, write_text
from resonance_lens.models import load_model
from resonance_lens.patching.patch import patch
from resonance_lens.patching.ready import prompt_pairs
from resonance_lens.patching.validation import validate
from resonance_lens.patching.validation.columns import Kind
from resonance_lens.patching.validation.predictors import measure_predictors
from resonance_lens.patching.validation.verdicts import sentence
from resonance_lens.prompts import corpus
from resonance_lens.registry import get_analysis
from resonance_lens.result import Result
from resonance_lens.views.validation import TESTS, overview, section, write_block

MODEL = "smollm2-135m"
TASKS = ("induction", "names", "facts")
PAIRS = 16
DOCUMENTS, TOKENS = 24, 192
"""Of prose, that the analyses and the predictors are measured on."""

BUILT_IN = Path(__file__).parent / "data" / "validation"

HEADS: tuple[str, ...] = (
    "attention_entropy", "attention_filter", "attention_wavelets", "phase_coherence", "rope_bands",
)  # fmt: skip
"""Analyses whose targets are heads."""

LAYERS: dict[str, tuple[str, ...]] = {
    "belief_collapse": ("attn_out", "mlp_out"),
    "complexity": ("attn_out", "mlp_out"),
    "head_locking": ("attn_out",),
    "head_sync": ("attn_out",),
    "hilbert_phase": ("attn_out",),
    "token_spectrum": ("attn_out", "mlp_out"),
    "zipf_wave_interference": ("attn_out",),
}
"""Analyses whose targets are layers, and what of a layer is patched: those of heads say nothing of MLPs."""

LEFT_OUT: dict[str, str] = {
    "fourier_features": "its places are layers of a model of modular arithmetic, which has one",
    "frequency_response": "it is made of drives, and not of prompts",
    "natural_drives": "it makes prompts of its own of those that it is given",
    "spectral_probe": "it says what can be read from the residual stream, and not what of it is used",
}
"""Analyses that are not put to this test, and why."""

ITSELF: dict[str, tuple[str, ...]] = {"attention_entropy": ("attention_entropy",)}
"""Predictors that an analysis is not held against, for they are what it measures."""


def _of_belief_collapse(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the fall of the divergence, which ranks its targets and is no variable, beside its variables."""
    fall = -data.kl_to_final_prompt.diff("layer")
    return {
        "kl_to_final, fall": fall.assign_attrs(
            long_name="fall of the divergence from the final distribution"
        ),
        "entropy_drop_effect": data.entropy_drop_effect_prompt,
        "entropy": data.entropy_prompt,
    }


VARIABLES: dict[str, Callable[[xr.Dataset], dict[str, xr.DataArray]]] = {
    "belief_collapse": _of_belief_collapse
}
"""Numbers of analyses that are ranked by something else than their variables."""


@dataclasses.dataclass
class Measured:
    """What all analyses are held against; each part is measured when it is first asked for.

    Attributes
    ----------
    folder
        Where what is measured is kept, so that what was stopped goes on, or ``None``.
    progress
        Whether to show progress bars.
    """

    folder: Path | None
    progress: bool = True
    _model: Any = None
    _effects: dict[Kind, list[Result]] = dataclasses.field(default_factory=dict)
    _predictors: dict[Kind, xr.Dataset] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = load_model(MODEL, progress=False)
        return self._model

    def rows(self) -> list[list[int]]:
        """Return the beginnings of documents of prose."""
        ids = (self.model.tokenizer(document.text)["input_ids"] for document in corpus("prose"))
        return [row[:TOKENS] for row in ids if len(row) >= TOKENS][:DOCUMENTS]

    def result(self, name: str) -> Result:
        """Return what an analysis measures on the documents."""
        out = None if self.folder is None else self.folder / name
        return run(self.model, self.rows(), name, baselines=(), out=out, progress=self.progress)[name]

    def effects(self, kind: Kind, sites: Sequence[str]) -> list[Result]:
        """Return the effects on every task at some sites."""
        if kind not in self._effects:
            self._effects[kind] = [self._swept(task, kind) for task in TASKS]
        return [_at_sites(each, sites) for each in self._effects[kind]]

    def predictors(self, kind: Kind) -> xr.Dataset:
        """Return attention entropy and output norm on the documents."""
        if kind not in self._predictors:
            self._predictors[kind] = measure_predictors(self.model, self.rows(), kind)
        return self._predictors[kind]

    def _swept(self, task: str, kind: Kind) -> Result:
        return patch(
            self.model,
            prompt_pairs(task, self.model, n_pairs=PAIRS),
            kind,
            controls=("others", "placebo"),
            batch_tokens=4096,
            out=None if self.folder is None else self.folder / f"{task}-{kind}",
            progress=self.progress,
        )


def _at_sites(effect: Result, sites: Sequence[str]) -> Result:
    """Return the effects at some of the sites."""
    chosen = np.flatnonzero(np.isin(effect.data.site.values.astype(str), sites))
    return dataclasses.replace(effect, data=effect.data.isel(target=chosen))


def validated(names: Sequence[str], measured: Measured) -> list[Result]:
    """Return the validation of each analysis."""
    found = []
    for name in names:
        kind: Kind = "heads" if name in HEADS else "layers"
        sites = ("z",) if kind == "heads" else LAYERS[name]
        result = measured.result(name)
        variable = VARIABLES[name](result.data) if name in VARIABLES else None
        found.append(
            validate(
                result,
                measured.effects(kind, sites),
                variable=variable,
                predictors=measured.predictors(kind).drop_vars(ITSELF.get(name, ())),
            )
        )
    return found


def record_of(validation: Result) -> dict[str, Any]:
    """Return what is kept of a validation, as plain data."""
    data, about = validation.data, validation.provenance
    rows = []
    for variable in data["variable"].values.astype(str):
        for task in data["task"].values.astype(str):
            here = data.sel(variable=variable, task=task)
            row: dict[str, Any] = {"variable": str(variable), "task": str(task)}
            for test in TESTS:
                ends = {"value": "", "low": "_low", "high": "_high", "p": "_p", "q": "_q"}
                row[test] = {k: _plain(here[f"{test}{end}"].sel(of="size")) for k, end in ends.items()}
            row["signed"] = _plain(here.rank_correlation.sel(of="sign"))
            row["auroc"] = _plain(here.auroc)
            row["together"] = _plain(here.predictor_correlation.sel(predictor="together"))
            row["with_number"] = _plain(here.with_number)
            rows.append(row)
    pairs = {each["task"]: each["pairs"] for each in about["effects"]}
    tasks = []
    for task in data["task"].values.astype(str):
        here = data.sel(task=task)
        said = {str(p): _plain(here.predictor_correlation.sel(predictor=p)) for p in data["predictor"].values}
        tasks.append(
            {
                "task": str(task),
                "pairs": pairs[str(task).partition(",")[0]],
                "n_matter": int(here.n_matter),
                "reliability": _plain(here.reliability),
                "predictors": {name: value for name, value in said.items() if value is not None},
            }
        )
    return {
        "analysis": about["of"]["analysis"],
        "version": about["of"]["version"],
        "parameters": about["of"]["parameters"],
        "validation": about["version"],
        "library": __version__,
        "model": str(about["model"]["model_name"]).rpartition("/")[2],
        "prompts": {k: v for k, v in about["prompts"].items() if k in ("count", "tokens", "digest")},
        "effects": list(about["effects"]),
        "kind": about["kind"],
        "places": about["places"],
        "left_out": about["left_out"],
        "smallest": about["minimum_effect"],
        "predictors": about["predictors"],
        "seed": about["seed"],
        "sentences": [sentence(validation, str(name)) for name in data["variable"].values],
        "methods": validation.methods,
        "tasks": tasks,
        "rows": rows,
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return round(number, 4) if np.isfinite(number) else None


def read_record(name: str) -> Mapping[str, Any]:
    """Return the record of a built-in analysis.

    Raises
    ------
    AnalysisError
        If there is none.
    """
    path = BUILT_IN / f"{name}.json"
    if not path.is_file():
        raise AnalysisError(
            f"{name} was not held against effects; do it with `python -m resonance_lens.validating {name}`."
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def outdated(record: Mapping[str, Any]) -> str:
    """Return what else a record is of than its analysis as it is, as a phrase, or an empty string."""
    now = get_analysis(str(record["analysis"])).version
    return "" if record["version"] == now else f"version {record['version']}, and this is version {now}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make records and pages."""
    parser = argparse.ArgumentParser(prog="python -m resonance_lens.validating", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*HEADS, *LAYERS))}")
    parser.add_argument("--all", action="store_true", help="all of them, and the page of all")
    parser.add_argument("--page", action="store_true", help="only the pages, from the records that are there")
    parser.add_argument("--effects", type=Path, help="a folder to keep what is measured in")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of the pages")
    options = parser.parse_args(arguments)
    if bool(options.names) + options.all + options.page != 1:
        parser.error("name analyses, or say --all or --page")
    every = (*HEADS, *LAYERS)
    names = options.names or list(every)
    try:
        for name in names:
            if name not in every:
                why = LEFT_OUT.get(name, f"it is none of {', '.join(every)}")
                raise AnalysisError(f"{name} is not held against effects: {why}.")
        if not options.page:
            make_folder(BUILT_IN)
            for validation in validated(names, Measured(options.effects)):
                record = record_of(validation)
                write_text(BUILT_IN / f"{record['analysis']}.json", json.dumps(record, indent=1) + "\n")
                sys.stdout.write(f"{record['analysis']}: {validation.summary}\n")
        for name in names:
            write_block(options.docs / f"{name}.md", section(read_record(name)))
        if not options.names:
            write_block(options.docs / "validation.md", overview([read_record(name) for name in every]))
    except ResonanceLensError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
