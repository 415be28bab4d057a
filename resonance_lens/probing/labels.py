"""Labels of the tokens of a corpus: by rule, from a table of the user's, or by a function of their own."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ParameterError, PromptError, nearest, unknown
from resonance_lens.probing.documents import Documents
from resonance_lens.probing.names import NEXT, POSITION, label_names
from resonance_lens.text_labels import RULES, Kind, Level, Rule, Text, Values

Floats = NDArray[np.float64]

FEWEST_OF_CLASS = 3
"""Documents that a class of documents needs: one for each part of the split."""

COLUMNS = ("document", "start", "end")


@dataclass(frozen=True, eq=False)
class Labels:
    """A label of every measured token of a corpus.

    Attributes
    ----------
    name, kind, level, says
        As of the `Rule` that they are made by.
    classes
        Names; empty for ordered values.
    values
        ``[row]``, in the order of the windows: the number of the class, or the value; not-a-number where the
        label is missing, which is never measured.
    document_classes
        Class of each document, for a label of documents.
    left_out
        Classes of documents with too few of them, which are not measured.
    alone
        The rule that says the label of a token by itself, the same for a label of the following token;
        ``None`` where there is none.
    """

    name: str
    kind: Kind
    level: Level
    says: str
    classes: tuple[str, ...]
    values: Floats
    document_classes: tuple[str | None, ...] | None = None
    left_out: tuple[str, ...] = ()
    alone: Rule | None = None


def make_labels(label: str | Path | Rule, documents: Documents) -> Labels:
    """Return the labels of a corpus.

    Parameters
    ----------
    label
        A name (`resonance_lens.probing.names.list_labels`); ``next_`` and such a name for the label of the
        following token; a rule of your own (`resonance_lens.text_labels.Rule`); or a table: see `read_table`.
    documents
        Of the corpus.

    Raises
    ------
    ParameterError
        If there is no such label.
    PromptError
        If a rule does not give one value for each token, there is one class alone, or values are all the
        same.
    """
    if isinstance(label, Rule):
        rule = label
    elif label == POSITION.name:
        rule = POSITION
    # A name comes first: the folder of a result may be called as the label is.
    elif label not in label_names() and (
        isinstance(label, Path) or label.endswith(".csv") or Path(label).is_dir()
    ):
        rule = table_rule(Path(label), documents)
    else:
        rule = _named(str(label))
    if rule is POSITION:
        values: list[Values] = [[float(i) for i in range(w.measured)] for w in documents.windows]
    else:
        named = zip(documents.texts, documents.ids, strict=True)
        of_documents = [_checked(rule, text, name) for text, name in named]
        values = [of_documents[w.document][w.first : w.stop] for w in documents.windows]
    named_one = RULES.get(rule.name.removeprefix(NEXT)) if str(label) in label_names() else None
    single = rule if isinstance(label, Rule) else named_one
    has = single is not None and single.alone is not None and rule.kind == "classes"
    return replace(_coded(rule, values, documents), alone=single if has else None)


def _named(name: str) -> Rule:
    if name not in label_names():
        raise ParameterError(unknown("label", name, label_names()))
    base = name.removeprefix(NEXT)
    rule = RULES[base]
    if name == base:
        return rule

    def following(text: Text) -> Values:
        return [*rule.of(text)[1:], None]

    return replace(rule, name=name, says=f"{rule.says}, of the next token", of=following)


def _checked(rule: Rule, text: Text, where: str) -> list[str | float | None]:
    found = list(rule.of(text))
    if len(found) != len(text.offsets):
        raise PromptError(
            f"The label {rule.name!r} does not align with the tokens of document {where!r}: it has "
            f"{len(found)} values for {len(text.offsets)} tokens; give one for each, None for no label."
        )
    for value in found:
        wrong = (
            not isinstance(value, str)
            if rule.kind == "classes"
            else isinstance(value, bool)
            or not isinstance(value, int | float | np.integer | np.floating)
            or not math.isfinite(value)
        )
        if value is not None and wrong:
            wanted = "names of classes" if rule.kind == "classes" else "finite numbers"
            raise PromptError(
                f"The label {rule.name!r} of document {where!r} must be {wanted}, or None; got {value!r}."
            )
    return found


def _coded(rule: Rule, values: Sequence[Values], documents: Documents) -> Labels:
    flat = [value for window in values for value in window]
    if rule.kind == "ordered":
        numbers = np.array([math.nan if v is None else float(v) for v in flat])
        known = numbers[~np.isnan(numbers)]
        if not len(known) or bool((known == known[0]).all()):
            what = f"the same value everywhere ({known[0]:g})" if len(known) else "no value anywhere"
            raise PromptError(f"The label {rule.name!r} has {what}, so that there is nothing to predict.")
        return Labels(rule.name, rule.kind, rule.level, rule.says, (), numbers)
    of_documents: tuple[str | None, ...] | None = None
    left_out: tuple[str, ...] = ()
    if rule.level == "document":
        of_documents, left_out = _of_documents(rule, values, documents)
        by_window = [of_documents[window.document] for window in documents.windows]
        flat = [
            None if by_window[index] is None else value
            for index, window in enumerate(values)
            for value in window
        ]
    classes = tuple(sorted({str(value) for value in flat if value is not None}))
    if len(classes) < 2:
        enough = f" with at least {FEWEST_OF_CLASS} documents" if rule.level == "document" else ""
        there = f"one class ({classes[0]!r})" if classes else "no class"
        raise PromptError(f"The label {rule.name!r} has {there}{enough} in this corpus; a probe needs two.")
    number = {name: float(i) for i, name in enumerate(classes)}
    codes = np.array([math.nan if value is None else number[str(value)] for value in flat])
    return Labels(rule.name, rule.kind, rule.level, rule.says, classes, codes, of_documents, left_out)


def _of_documents(
    rule: Rule, values: Sequence[Values], documents: Documents
) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """Return the class of each document, ``None`` for classes with too few, and which those are."""
    found: list[str | None] = [None] * len(documents)
    for window, of_window in zip(documents.windows, values, strict=True):
        for value in of_window:
            if value is not None and found[window.document] not in (None, value):
                raise PromptError(
                    f"The label {rule.name!r} is one of documents, and {documents.ids[window.document]!r} "
                    f"has both {found[window.document]!r} and {value!r}."
                )
            found[window.document] = str(value) if value is not None else found[window.document]
    counts = {name: found.count(name) for name in found if name is not None}
    few = tuple(sorted(name for name, count in counts.items() if count < FEWEST_OF_CLASS))
    return tuple(None if name in few else name for name in found), few


def table_rule(path: Path, documents: Documents) -> Rule:
    """Return the labels of a table as a rule: see `read_table`.

    A row labels the tokens that its span holds; one that begins or ends inside of a token is refused. White
    space at the ends of tokens and spans does not count.

    Raises
    ------
    PromptError
        If a document is unknown, a span lies outside of it or does not align with tokens, or two rows label
        one token.
    """
    name, kind, rows = read_table(path)
    index = {id_: number for number, id_ in enumerate(documents.ids)}
    values: list[list[str | float | None]] = [[None] * len(text.offsets) for text in documents.texts]
    for line, document, start, end, value in rows:
        where = f"Row {line} of {path.name}"
        if document not in index:
            raise PromptError(f"{where} names the document {document!r}.{nearest(document, index)}")
        text, mine = documents.texts[index[document]], values[index[document]]
        if not 0 <= start < end <= len(text.text):
            raise PromptError(
                f"{where} labels characters {start} to {end} of {document!r}, which has {len(text.text)}."
            )
        for token in _tokens_in(text, start, end, where, document):
            if mine[token] is not None:
                raise PromptError(f"{where} labels a token of {document!r} that another row has labelled.")
            mine[token] = value
    by_text = {id(text): mine for text, mine in zip(documents.texts, values, strict=True)}
    return Rule(name, kind, "token", f"{name} in {path.name}", lambda text: by_text[id(text)])


def _tokens_in(text: Text, start: int, end: int, where: str, document: str) -> list[int]:
    inside = text.text[start:end]
    if not inside.strip():
        raise PromptError(f"{where} labels white space of {document!r}, which has no tokens of its own.")
    first, last = start + len(inside) - len(inside.lstrip()), end - (len(inside) - len(inside.rstrip()))
    found = []
    for token, (begin, (_, stop)) in enumerate(zip(text.starts, text.offsets, strict=True)):
        if begin is None or begin >= last:
            continue
        piece = text.text[begin:stop]
        stop = begin + len(piece.rstrip())
        if stop <= first:
            continue
        if begin < first or stop > last:
            raise PromptError(
                f"{where} does not align with tokens: {inside!r} of {document!r} begins or ends inside of "
                f"the token {piece!r} (characters {begin} to {stop}); label whole tokens."
            )
        found.append(token)
    return found


def read_table(path: Path) -> tuple[str, Kind, list[tuple[int, str, int, int, str | float]]]:
    """Read a table of labels.

    Parameters
    ----------
    path
        A CSV file, or the folder of a dataset that ``datasets.Dataset.save_to_disk`` wrote, with the columns
        ``document`` (id), ``start`` and ``end`` (characters, the end not included), and one more: ``label``
        for classes, ``value`` for ordered values.

    Returns
    -------
    tuple
        Name (that of the file), kind, and rows: number from 1, document, start, end, label.

    Raises
    ------
    PromptError
        If it cannot be read, lacks a column, or holds a value that is none.
    """
    rows: Iterable[Mapping[str, Any]]
    try:
        if path.is_dir():
            from datasets import load_from_disk

            rows = list(load_from_disk(str(path)))
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise PromptError(f"The table of labels {path} cannot be read: {error}.") from error
    if not rows:
        raise PromptError(f"The table of labels {path} has no rows.")
    found = []
    kind: Kind = "ordered" if "value" in next(iter(rows)) else "classes"
    column = "value" if kind == "ordered" else "label"
    for number, row in enumerate(rows, 1):
        missing = [name for name in (*COLUMNS, column) if row.get(name) is None]
        if missing:
            raise PromptError(
                f"Row {number} of {path.name} has no {missing[0]!r}; a table of labels has the columns "
                f"{', '.join(COLUMNS)} and label or value."
            )
        try:
            value = float(row[column]) if kind == "ordered" else str(row[column])
            found.append((number, str(row["document"]), int(row["start"]), int(row["end"]), value))
        except ValueError as error:
            raise PromptError(f"Row {number} of {path.name} cannot be read: {error}.") from error
    return path.stem, kind, found
