"""What the command `patch` prints: what can be chosen, and what was found."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resonance_lens.listings import parameter_lines
from resonance_lens.views.effects import strongest

if TYPE_CHECKING:
    from resonance_lens.result import Result

STRONGEST = 10
"""How many targets of each operation are printed."""


def choices() -> tuple[dict[str, Any], str]:
    """Return the operations, ready tasks and metrics, as data and as text."""
    from resonance_lens.patching.metrics import METRICS
    from resonance_lens.patching.operations import list_operations
    from resonance_lens.patching.ready import list_pairs

    operations, tasks = list_operations(), list_pairs()
    data = {
        "operations": [
            {"name": each.name, "package": each.package, **each.about, "parameters": each.parameters}
            for each in operations
        ],
        "tasks": [dataclasses.asdict(each) for each in tasks],
        "metrics": [
            {
                "name": each.name,
                "description": (inspect.getdoc(each.function) or "").partition("\n")[0],
                "units": each.units,
            }
            for each in METRICS.values()
        ],
    }
    blocks = []
    for operation in operations:
        about = operation.about
        lines = [f"{operation.name}  {about['title']}", f"    {'sites':<10} {_sites(about['sites'])}"]
        needs = [*(["the other prompt's values"] if about["donor"] else []), *map(_need, about["wants"])]
        if needs:
            lines.append(f"    {'needs':<10} {', '.join(needs)}")
        if about["looks_ahead"]:
            lines.append(f"    {'looks ahead':<10} by default: needs --allow-look-ahead")
        lines += parameter_lines(operation.name, operation.parameters)
        blocks.append("\n".join(lines))
    for task in tasks:
        options = [f"    --set {task.name}.{name}={value}" for name, value in task.options.items()]
        blocks.append("\n".join([f"--task {task.name}  {task.description}", *options]))
    lines = [f"--metric {each['name']}  {each['description']}" for each in data["metrics"]]
    blocks.append("\n".join(lines))
    return data, "\n\n".join(blocks)


def result_data(result: Result, folder: Path) -> dict[str, Any]:
    """Return what was found, in short, and where the rest is."""
    about = result.provenance
    return {
        "folder": str(folder),
        "model": about["model"]["model_name"],
        "task": about["task"],
        "metric": about["patch"]["metric"],
        "units": about["patch"]["units"],
        "direction": about["parameters"]["direction"],
        "seconds": about.get("seconds"),
        "summary": result.summary,
        "methods": result.methods,
        "operations": {
            str(label): [{"label": name, **numbers} for name, numbers in strongest(result, index)]
            for index, label in enumerate(result.data["operation"].values)
        },
        "file": str(folder / f"{result.name}.nc"),
    }


def result_text(result: Result, folder: Path) -> str:
    """Return what was found: sentences, the strongest targets beside controls, and where the rest is."""
    about = result.provenance
    task, metric = about["task"], about["patch"]["metric"].replace("_", " ")
    lines = [
        f"{about['model']['model_name']}: {task['name']}, {task['pairs']} pairs, {metric}, "
        f"{about['parameters']['direction']}, {about['seconds']:.0f} s",
        "",
        f"patch [{about['evidence']}] {result.summary}",
    ]
    for index, label in enumerate(result.data["operation"].values):
        lines += [
            "",
            f"{label}: the strongest of {result.data.sizes['target']} targets",
            *_table(result, index),
        ]
    where = shlex.quote(str(folder))
    return "\n".join([*lines, "", f"results  {folder}", f"page     resonance-lens report {where}"])


def _table(result: Result, index: int) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("", "effect", "95 % interval", "q", "placebo", "others", "complement"),
    ]
    for _, (name, found) in zip(range(STRONGEST), strongest(result, index), strict=False):
        interval = f"[{found['effect_low']:+.3g}, {found['effect_high']:+.3g}]"
        controls = (found.get(control, np.nan) for control in ("placebo", "others", "complement"))
        rows.append(
            (name, f"{found['effect']:+.3g}", interval, _or_dash(found["effect_q"], ".2g"),
             *(_or_dash(value, "+.3g") for value in controls))
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            (
                f"    {row[0]:<{widths[0]}}",
                *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
            )
        )
        for row in rows
    ]


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"


def _sites(sites: tuple[str, ...]) -> str:
    from resonance_lens.patching.operations import TOKEN_SITES

    if set(sites) >= set(TOKEN_SITES):
        return ", ".join(["all of tokens", *(site for site in sites if site not in TOKEN_SITES)])
    return ", ".join(sites)


def _need(want: str) -> str:
    return {
        "mean": "the mean over prompts",
        "generators": "a seed",
        "kernel": "a run with attention_filter",
    }.get(want, want)
