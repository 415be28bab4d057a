"""What the commands print: text for people, plain data for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonance_lens.registry import Broken, Entry

if TYPE_CHECKING:
    import xarray as xr

    from resonance_lens.facts import Facts
    from resonance_lens.hooks import Proof
    from resonance_lens.models import ModelInfo
    from resonance_lens.result import Result
    from resonance_lens.runs import Run

COLUMNS = {
    "a": "first",
    "b": "second",
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "effect_size": "effect_size",
    "p": "p",
    "q": "q",
}
"""Endings of the variables of a comparison and what they are called in JSON, in the order of its columns."""

COMPARED = tuple(COLUMNS)

TARGETS = 5
"""How many targets, and how many differences, are printed for each analysis."""


def analyses_text(entries: Iterable[Entry]) -> str:
    """Return what each analysis says of itself, with the parameters that ``--set`` takes."""
    blocks = []
    for entry in entries:
        about = entry.about
        badge = about.get("evidence", "not imported yet")
        lines = [f"{entry.name}  [{badge}]  {about.get('title', '')}".rstrip()]
        if entry.package != "resonance-lens":
            lines.append(f"    from       {entry.package}")
        for key in ("sites", "baselines", "nulls"):
            if key in about:
                lines.append(f"    {key:<10} {', '.join(about[key]) or 'none'}")
        lines += [f"    {'claim':<10} {_claim(claim)}" for claim in about.get("claims", ())]
        if about.get("nulls") and entry.package == "resonance-lens":
            lines.append(f"    {'trials':<10} {_trials(entry)}")
        lines += parameter_lines(entry.name, entry.parameters)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def parameter_lines(owner: str, parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return two lines for each parameter of an analysis or operation: how it is set, and what it is."""
    lines = []
    for name, told in parameters.items():
        allowed = f"; {_range(told)}" if _range(told) else ""
        lines.append(f"    --set {owner}.{name}={_plain(told['default'])}")
        lines.append(f"               {told.get('help') or ''}{allowed}")
    return lines


def _claim(claim: Mapping[str, Any]) -> str:
    """Return what an analysis says with a p."""
    return (
        f"{claim['variable']}: {claim['long_name']} against {claim['against']} ({claim['null']}); "
        f"{claim['minimum_effect']:g} {claim['units']} counts"
    ).replace(" 1 counts", " counts")


def trials(entry: Entry) -> dict[str, Any] | None:
    """Return of which version the trials of an analysis of ours are on record, and how many each cell had.

    The record is read as plain JSON: its verdict takes what listing does not load. Of an analysis of another
    package the place of the record is not known before it is imported.
    """
    if entry.package != "resonance-lens":
        return None
    path = Path(__file__).parent / "data" / "calibration" / f"{entry.name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        fewest = min((cell["trials"] for cell in record["cells"]), default=0)
        return {"version": record["version"], "trials": fewest, "cells": len(record["cells"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _trials(entry: Entry) -> str:
    found = trials(entry)
    if found is None:
        return "none on record: its claims are not calibrated"
    if found["version"] != entry.about.get("version"):
        return f"on record for version {found['version']} only: its claims are not calibrated"
    return f"{found['trials']} or more in each of {found['cells']} settings, on record for this version"


def broken_text(broken: Sequence[Broken]) -> str:
    """Return the analyses of other packages that cannot be used, with the reasons."""
    if not broken:
        return "Every analysis of every installed package can be used."
    return "\n".join(f"{each.name} ({each.package}): {each.reason}" for each in broken)


def models_text(models: Iterable[ModelInfo]) -> str:
    """Return the models that can be loaded by name, and how to get those that are not there yet."""
    lines = []
    for model in models:
        ready = "ready" if model.available else "not installed"
        lines.append(f"{model.name}  [{ready}]  {model.description}")
        if model.layers is not None:
            lines.append(f"    {model.layers} layers, {model.heads} heads; licence {model.licence}")
        if not model.available or model.layers is None:
            lines.append(f"    {model.note}")
    return "\n".join(lines)


def run_data(run: Run, folder: Path) -> dict[str, Any]:
    """Return what a run found, in short, and where the rest is."""
    record = run.provenance
    return {
        "folder": str(folder),
        "model": record["model"]["model_name"],
        "prompts": record["prompts"],
        "seconds": record.get("seconds"),
        "baselines_missing": dict(record.get("baselines_missing", {})),
        "left_out": dict(record.get("left_out", {})),
        "analyses": {
            name: {
                "evidence": run[name].provenance["evidence"],
                "summary": run[name].summary,
                "methods": run[name].methods,
                "targets": [
                    {"label": target.label, **dataclasses.asdict(target)}
                    for target in run[name].targets(TARGETS)
                ],
                "file": str(folder / f"{name}.nc"),
            }
            for name in run
        },
    }


def run_text(run: Run, folder: Path) -> str:
    """Return what a run found: evidence, summary and targets of each analysis, and where the rest is."""
    from resonance_lens.counts import SAID
    from resonance_lens.views.tables import calibration

    record = run.provenance
    prompts = record["prompts"]
    kinds = f" in {len(prompts['categories'])} categories" if prompts["categories"] else ""
    lines = [
        f"{record['model']['model_name']}: {_count(prompts['count'], 'prompt')}{kinds}, "
        f"{_count(prompts['tokens'], 'token')}, {record['seconds']:.0f} s",
        "",
    ]
    for name in run:
        lines.append(f"{name} [{run[name].provenance['evidence']}] {run[name].summary}".rstrip())
        lines += _targets(run[name])
        lines += [
            f"    {sentence}"
            for state, sentence in [calibration(run[name]) or ("", "")]
            if state == "uncalibrated"
        ]
    for baseline, why in record.get("baselines_missing", {}).items():
        lines += ["", f"Without {SAID[baseline]}: {why}"]
    for name, why in record.get("left_out", {}).items():
        lines += ["", f"{name} is left out: {why}"]
    where = shlex.quote(str(folder))
    return "\n".join([*lines, "", f"results  {folder}", f"page     resonance-lens report {where}"])


def checks_data(facts: Facts, proofs: Iterable[Proof]) -> dict[str, Any]:
    """Return what was found at each site of a model."""
    found = list(proofs)
    return {
        "model": facts.as_dict(),
        "ok": not any(proof.problem for proof in found),
        "sites": [dataclasses.asdict(proof) for proof in found],
    }


def checks_text(facts: Facts, proofs: Iterable[Proof]) -> str:
    """Return a table of sites: layers that serve each, and whether it proved itself."""
    found = list(proofs)
    heads = f"{facts.n_heads} heads"
    if facts.n_kv_heads != facts.n_heads:
        heads += f" ({facts.n_kv_heads} of keys and values)"
    lines = [
        f"{facts.model_name} on {facts.host}: {facts.n_layers} layers, {heads}, d_model {facts.d_model}, "
        f"context {facts.n_ctx}, {facts.dtype}",
        "",
        f"{'site':<12} {'layers':<12} result",
    ]
    for proof in found:
        result = f"problem: {proof.problem}" if proof.problem else "ok"
        if proof.missing:
            result = f"missing: {proof.missing}"
        lines.append(f"{proof.site:<12} {ranges(proof.layers) or '-':<12} {result}")
    problems = sum(proof.problem is not None for proof in found)
    missing = sum(proof.missing is not None for proof in found)
    proved = len(found) - problems - missing
    lines += ["", f"{proved} sites proved themselves, {missing} are missing, {problems} have a problem."]
    return "\n".join(lines)


def sides(folder_a: str, folder_b: str, first: str | None, second: str | None) -> tuple[str, str]:
    """Return what the two sides of a comparison are called: folder, and category if one was named."""
    kinds = [f", category {category}" if category else "" for category in (first, second)]
    return f"{folder_a}{kinds[0]}", f"{folder_b}{kinds[1]}"


def comparison_data(compared: Mapping[str, xr.Dataset], named: tuple[str, str]) -> dict[str, Any]:
    """Return, for the headline and the claims of each analysis, how many places differ and which most."""
    return {
        "first": named[0],
        "second": named[1],
        "analyses": {
            name: {
                "paired": bool(data.attrs["paired"]),
                "variables": [_compared(data, variable) for variable in headlines(data)],
            }
            for name, data in compared.items()
        },
    }


def comparison_text(compared: Mapping[str, xr.Dataset], named: tuple[str, str]) -> str:
    """Return a table for each analysis: the differences, how sure they are, and how many there are."""
    found = comparison_data(compared, named)
    blocks = [f"first   {named[0]}\nsecond  {named[1]}; differences are second minus first"]
    for name, data in found["analyses"].items():
        how = "the same prompts, paired" if data["paired"] else "prompts not paired"
        lines = [f"{name}  ({how})"]
        for variable in data["variables"]:
            units = "" if variable["units"] == "1" else f", in {variable['units']}"
            lines += ["", f"  {variable['variable']}: {variable['long_name']}{units}"]
            for part in variable["parts"]:
                lines += ["", *_part(part, variable)]
        methods = dict.fromkeys(variable["methods"] for variable in data["variables"])
        lines += ["", *(f"  {sentence}" for sentence in methods)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _part(part: Mapping[str, Any], variable: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one table: the count, and the places that are surest to differ."""
    from resonance_lens.stats.inference import LEVEL

    where = "".join(f"{key} {value}: " for key, value in part["at"].items())
    smallest = variable["minimum_effect"]
    if part["differ"] is None:
        yield f"    {where}not tested: {variable['refused']}."
    else:
        beyond = "" if smallest is None else f", {part['matter']} of them by more than {smallest:g}"
        counted = f"{part['differ']} of {part['of']} {variable['places']}"
        yield f"    {where}{counted} differ (q <= {LEVEL}){beyond}"
    rows = [("", "first", "second", "difference", "95 % interval", "effect size", "q")]
    for top in part["top"]:
        numbers = (top["first"], top["second"])
        bounds = f"[{top['low']:.3g}, {top['high']:.3g}]"
        size, q = _or_dash(top["effect_size"]), _or_dash(top["q"])
        rows.append(
            (top["label"], *(f"{n:.3g}" for n in numbers), f"{top['difference']:+.3g}", bounds, size, q)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((f"        {row[0]:<{widths[0]}}", *cells))


def _or_dash(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.2g}"


def comparison_csv(compared: Mapping[str, xr.Dataset]) -> str:
    """Return every difference as one long table, a row for each variable and place."""
    import pandas as pd

    tables = []
    for name, data in compared.items():
        for variable in sorted(str(v) for v in data if str(v).endswith("_difference")):
            stem = variable.removesuffix("_difference")
            renamed = {f"{stem}_{key}": key for key in COMPARED}
            table = data[list(renamed)].rename(renamed).to_dataframe().reset_index()
            table.insert(0, "variable", stem)
            table.insert(0, "analysis", name)
            tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    for name in ("head", "layer"):  # not every analysis has them
        if name in whole:
            whole[name] = whole[name].astype("Int64")
    places = [column for column in whole if column not in COMPARED]
    text: str = whole[[*places, *COMPARED]].to_csv(index=False)
    return text


def headlines(data: xr.Dataset) -> list[str]:
    """Return the variables of a comparison that are printed: those with a smallest effect that counts.

    These are the headline, where prompts have it, and the claims; of an analysis with neither, the first.
    """
    names = [str(v).removesuffix("_difference") for v in data if str(v).endswith("_difference")]
    stated = [name for name in names if "minimum_effect" in data[f"{name}_difference"].attrs]
    return stated or names[:1]


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers in short: ``0-3, 5``."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)


def _compared(data: xr.Dataset, name: str) -> dict[str, Any]:
    """Return the count and the surest differences of a variable, for each family of places."""
    import numpy as np

    from resonance_lens.stats.inference import LEVEL

    table = data.sel(category="all") if "category" in data.dims else data
    variables = {suffix: table[f"{name}_{suffix}"] for suffix in COMPARED}
    difference = variables["difference"]
    about = data[f"{name}_q"].attrs
    smallest = difference.attrs.get("minimum_effect")
    family = [dim for dim in about["family"].split(", ") if dim]
    apart = [str(dim) for dim in difference.dims if dim not in family]
    labels = [_label(family, at) for at in product(*(table[dim].values.tolist() for dim in family))]
    refused = str(table[f"{name}_refused"].item())
    parts = []
    for values in product(*(table[dim].values.tolist() for dim in apart)):
        at = dict(zip(apart, values, strict=True))
        found = {s: v.sel(at).transpose(*family).values.ravel() for s, v in variables.items()}
        differ = found["q"] <= LEVEL
        beyond = 0.0 if smallest is None else smallest
        matter = differ & ((found["difference_low"] > beyond) | (found["difference_high"] < -beyond))
        order = np.lexsort((-abs(found["difference"]), found["q"]))  # not-a-number is last
        parts.append(
            {
                "at": at,
                "of": int((~np.isnan(found["difference"])).sum()),
                "differ": None if refused else int(differ.sum()),
                "matter": None if refused or smallest is None else int(matter.sum()),
                "top": [
                    {"label": labels[i], **{key: float(found[s][i]) for s, key in COLUMNS.items()}}
                    for i in order[:TARGETS]
                    if not np.isnan(found["difference"][i])
                ],
            }
        )
    return {
        "variable": name,
        "long_name": difference.attrs["long_name"].partition(";")[0].removesuffix(", second minus first"),
        "units": difference.attrs.get("units", "1"),
        "places": about["places"],
        "minimum_effect": smallest,
        "units_first": int(table[f"{name}_units_a"]),
        "units_second": int(table[f"{name}_units_b"]),
        "smallest": float(table[f"{name}_smallest"]),
        "refused": refused,
        "methods": about["methods"],
        "parts": parts,
    }


def _label(family: Sequence[str], at: Sequence[Any]) -> str:
    """Return ``L3H2`` of layer and head, and every other dim by name."""
    letters = {"layer": "L", "head": "H"}
    parts = [(letters.get(dim, f" {dim} "), place) for dim, place in zip(family, at, strict=True)]
    return "".join(f"{before}{place}" for before, place in parts).strip() or "all"


def _targets(result: Result) -> list[str]:
    lines = []
    for reason, group in groupby(result.targets(TARGETS), lambda target: target.reason):
        named = ", ".join(f"{target.label} {target.score:.3g}" for target in group)
        lines.append(f"    {named}  ({reason})")
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(told: Mapping[str, Any]) -> str:
    if told.get("choices"):
        return "one of " + ", ".join(map(_plain, told["choices"]))
    low, high = told.get("minimum"), told.get("maximum")
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else (f"at most {high}" if high is not None else "")
