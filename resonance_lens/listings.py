"""What the commands print: text for people, plain data for programs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
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

COMPARED = ("a", "b", "difference", "difference_low", "difference_high", "effect_size")
"""Endings of the variables of a comparison, in the order of the columns of its table."""

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
        for name, told in entry.parameters.items():
            allowed = f"; {_range(told)}" if _range(told) else ""
            lines.append(f"    --set {entry.name}.{name}={_plain(told['default'])}")
            lines.append(f"               {told.get('help') or ''}{allowed}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


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
        "analyses": {
            name: {
                "evidence": run[name].provenance["evidence"],
                "summary": run[name].summary,
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


def comparison_data(compared: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Return, for the headline variable of each analysis, how many places differ and which most."""
    return {name: _differences(data) for name, data in compared.items()}


def comparison_text(compared: Mapping[str, xr.Dataset]) -> str:
    """Return, for each analysis, how many places differ by more than its smallest effect that counts."""
    blocks = []
    for name, data in comparison_data(compared).items():
        how = "the same prompts, paired" if data["paired"] else "prompts not paired"
        lines = [f"{name}  {data['variable']}, second minus first; {how}"]
        for part in data["parts"]:
            where = "".join(f" ({key} {value})" for key, value in part["at"].items())
            lines.append(
                f"    {part['count']} of {part['of']} {data['places']} differ by more than "
                f"{data['minimum_effect']:g}{where}"
            )
            lines += [
                f"        {top['label']:<7} {top['difference']:+.3g} [{top['low']:.3g}, {top['high']:.3g}]"
                for top in part["top"]
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


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


def headline(data: xr.Dataset) -> str:
    """Return the variable of a comparison that is printed: the headline's, if prompts have it."""
    names = [str(v).removesuffix("_difference") for v in data if str(v).endswith("_difference")]
    wanted = str(data.attrs["headline"])
    return wanted if wanted in names else names[0]


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers in short: ``0-3, 5``."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)


def _differences(data: xr.Dataset) -> dict[str, Any]:
    """Return the count and the largest differences at each value of what is neither layer nor head."""
    name, smallest = headline(data), data.attrs["minimum_effect"]
    table = data.sel(category="all")
    dims = table[f"{name}_difference"].dims
    place = [dim for dim in ("layer", "head") if dim in dims]
    others = [str(dim) for dim in dims if dim not in place]
    labels = [_label(at) for at in product(*(table[dim].values.tolist() for dim in place))]
    parts = []
    for values in product(*(table[dim].values.tolist() for dim in others)):
        at = dict(zip(others, values, strict=True))
        difference, low, high = (
            table[f"{name}_{key}"].sel(at).transpose(*place).values.ravel()
            for key in ("difference", "difference_low", "difference_high")
        )
        beyond = (low > smallest) | (high < -smallest)
        top = [i for i in (-abs(difference)).argsort(kind="stable") if beyond[i]][:TARGETS]
        parts.append(
            {
                "at": at,
                "count": int(beyond.sum()),
                "of": len(labels),
                "top": [
                    {
                        "label": labels[i],
                        "difference": float(difference[i]),
                        "low": float(low[i]),
                        "high": float(high[i]),
                    }
                    for i in top
                ],
            }
        )
    return {
        "variable": name,
        "places": "heads" if "head" in place else "layers",
        "minimum_effect": smallest,
        "paired": bool(data.attrs["paired"]),
        "parts": parts,
    }


def _label(at: Sequence[int]) -> str:
    return "".join(f"{letter}{number}" for letter, number in zip("LH", at, strict=False))


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
