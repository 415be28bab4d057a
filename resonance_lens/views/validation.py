"""Sections of the docs that say whether numbers predict effects: blocks between markers, from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resonance_lens.errors import ResultError
from resonance_lens.files import write_text
from resonance_lens.stats.inference import LEVEL

BEGIN, END = "<!-- made by python -m resonance_lens.validating -->", "<!-- end of what is made -->"

Record = Mapping[str, Any]
"""What is kept of one validation: see `resonance_lens.validating.record_of`."""

TESTS = ("rank_correlation", "beyond_depth", "beyond_predictors")


def write_block(page: Path, text: str) -> None:
    """Put text between the markers of a page.

    Raises
    ------
    ResultError
        If there is no such page, or it has no markers.
    """
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    if before.count(BEGIN) != 1 or before.count(END) != 1:
        raise ResultError(f"{page} has no place for the table: a line {BEGIN!r} and below it {END!r}.")
    head, rest = before.split(BEGIN)
    write_text(page, f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}")


def section(record: Record) -> str:
    """Return what the page of an analysis says: the sentences, and the numbers behind them."""
    return "\n".join(_section(record))


def _section(record: Record) -> Iterator[str]:
    kind = record["kind"]
    where = f"{record['model']}, {record['places']} {kind}"
    yield f"Version {record['version']} on {where}; [how, and what it means](validation.md)."
    yield ""
    yield from (f"- {sentence}" for sentence in record["sentences"])
    yield ""
    depth = "within layers" if kind == "heads" else "beyond depth"
    others = " and ".join(name.replace("_", " ") for name in record["predictors"])
    heads = ["number", "effects on", "rank correlation", depth, f"and beyond {others}"]
    heads += ["AUROC", "known predictors together", "and with the number"]
    yield f"| {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * (len(heads) - 1)
    for row in record["rows"]:
        cells = [f"`{row['variable']}`", row["task"]]
        cells += [_cell(row[test]) for test in TESTS]
        cells += [_number(row["auroc"]), _number(row["together"]), _number(row["with_number"])]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"Bold: q at most {LEVEL:g} over all rows. In brackets 95 % over prompts."


def _cell(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "none left"
    text = f"{_number(found['value'])} ({_number(found['low'])} to {_number(found['high'])})"
    sure = found["q"] is not None and found["q"] <= LEVEL
    return f"**{text}**" if sure else text


def _number(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return "0" if text in (".00", "-.00") else text


def overview(records: Sequence[Record]) -> str:
    """Return the table of all analyses, and what else predicts the effects."""
    return "\n".join(_overview(records))


def _overview(records: Sequence[Record]) -> Iterator[str]:
    heads = ["analysis", "number", "of", "predicts the size of effects on", "beyond depth on"]
    yield f"| {' | '.join([*heads, 'adds to what is known on'])} |"
    yield "| --- |" + " --- |" * len(heads)
    for record in records:
        for variable in dict.fromkeys(row["variable"] for row in record["rows"]):
            rows = [row for row in record["rows"] if row["variable"] == variable]
            name = f"[{record['analysis']}]({record['analysis']}.md)"
            cells = [name, f"`{variable}`", record["kind"], *(_sure(rows, test) for test in TESTS)]
            yield f"| {' | '.join(cells)} |"
    yield ""
    for kind in ("heads", "layers"):
        # An analysis may lack a predictor that it is itself, or some places.
        those = [record for record in records if record["kind"] == kind]
        if those:
            yield from _known(max(those, key=lambda record: (len(record["predictors"]), record["places"])))


def _sure(rows: Sequence[Mapping[str, Any]], test: str) -> str:
    found = [row for row in rows if row[test]["q"] is not None and row[test]["q"] <= LEVEL]
    return ", ".join(f"{row['task']} ({_number(row[test]['value'])})" for row in found) or "none"


def _known(record: Record) -> Iterator[str]:
    """Yield what is known anyway of one kind of places."""
    names = ["layer", *record["predictors"], "together"]
    yield f"What is known of {record['kind']} anyway, by rank correlation with the size of the effect:"
    yield ""
    heads = ["effects on", "pairs", f"{record['kind']} that matter", "effects repeat"]
    yield f"| {' | '.join(heads + [name.replace('_', ' ') for name in names])} |"
    yield "| --- |" + " --- |" * (len(heads) + len(names) - 1)
    for task in record["tasks"]:
        cells = [task["task"], str(task["pairs"]), f"{task['n_matter']} of {record['places']}"]
        cells.append(_number(task["reliability"]))
        cells += [_number(task["predictors"].get(name)) for name in names]
        yield f"| {' | '.join(cells)} |"
    yield ""
