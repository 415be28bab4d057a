"""What a report says of a result of patching: the strongest targets beside their controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resonance_lens.result import Result
from resonance_lens.views.content import units
from resonance_lens.views.tables import Found
from resonance_lens.views.text import listing, number, words

MOST = 12
"""Targets of each operation in a table."""

CONTROLS = {"placebo": "placebo", "others": "other targets", "complement": "everything else"}

NUMBERS = (
    "effect", "effect_low", "effect_high", "effect_q", "effect_beyond", "effect_beyond_q", "normalized",
    *CONTROLS,
)  # fmt: skip
"""What is said of each target."""


def patched(result: Result) -> bool:
    """Return whether a result is one of patching."""
    return "patch" in result.provenance


def strongest(result: Result, operation: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the targets that were patched and their numbers, those with the largest effects first."""
    data = result.data.isel(operation=operation)
    effect = data["effect"].values
    for i in np.argsort(-np.abs(effect), kind="stable"):  # not-a-number is last
        if np.isfinite(effect[i]):
            yield (
                str(data["target"].values[i]),
                {name: float(data[name].values[i]) for name in NUMBERS if name in data},
            )


def tables(result: Result) -> tuple[Found, ...]:
    """Return a table for each operation: effects with intervals, controls beside them."""
    return tuple(_table(result, index) for index in range(result.data.sizes["operation"]))


def _table(result: Result, index: int) -> Found:
    found = list(strongest(result, index))
    controls = [name for name in CONTROLS if any(np.isfinite(numbers[name]) for _, numbers in found)]
    tested = any(np.isfinite(numbers["effect_q"]) for _, numbers in found)
    beyond = any(np.isfinite(numbers["effect_beyond_q"]) for _, numbers in found)
    header = ("effect", "95 % interval", *(["q"] if tested else []))
    header += tuple(CONTROLS[name] for name in controls)
    header += ("q, beyond the placebo",) if beyond else ()
    rows = [
        (
            label,
            (
                number(numbers["effect"]),
                f"{number(numbers['effect_low'])} to {number(numbers['effect_high'])}",
                *([number(numbers["effect_q"])] if tested else []),
                *(number(numbers[name]) for name in controls),
                *([number(numbers["effect_beyond_q"])] if beyond else []),
            ),
        )
        for label, numbers in found[:MOST]
    ]
    label = str(result.data["operation"].values[index])
    less = f", the {MOST} with the largest effects" if len(found) > MOST else ""
    unit = units(result.data["effect"])
    return Found(
        title=f"{label} at {len(found)} targets{less}",
        header=header,
        rows=tuple(rows),
        sentence=f"Effects are changes of the {_metric(result)}"
        + ("." if unit == "dimensionless" else f", in {unit}."),
    )


def declared(result: Result) -> list[tuple[str, str]]:
    """Return what was changed, in which run, and what it is held against, as ``(term, text)``."""
    about, task = result.provenance["patch"], result.provenance["task"]
    solved = "" if task["accuracy"] is None else f", {task['accuracy']:.0%} of {task['tried']} solved"
    return [
        ("Prompts", f"{task['pairs']} pairs of {task['name']}{solved}"),
        ("Changed is the run on", f"{about['base']} prompts, at {listing(about['sites'])}"),
        ("Metric", _metric(result)),
        ("Controls", listing(about["controls"]) or "none"),
    ]


def _metric(result: Result) -> str:
    return words(str(result.provenance["patch"]["metric"]))
