"""Labels put on the tokens of a corpus: by name, by a user's rule, and from tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.probing.documents import Documents, Window
from resonance_lens.probing.labels import make_labels, table_rule
from resonance_lens.probing.names import list_labels
from resonance_lens.text_labels import Rule, Text, Values
from tests.test_text_labels import cut

TEXTS = (
    "The cat saw 12 dogs (in May).",
    'A "small" nation ran quickly.',
    "x = f(y) + 3",
    "Is it so? Yes it is.",
)


def documents(*texts: str, categories: tuple[str | None, ...] | None = None, window: int = 6) -> Documents:
    """Cut texts by a pattern; tokens are numbered by their first character."""
    made: list[Text] = []
    windows, tokens = [], []
    for index, text in enumerate(texts):
        plain = cut(text)
        category = None if categories is None else categories[index]
        made.append(Text(text, plain.offsets, category))
        ids = tuple(ord(text[start]) for start, _ in plain.offsets)
        tokens.append(ids)
        for start in range(0, len(ids), window):
            stop = min(start + window, len(ids))
            windows.append(Window(index, start, stop, ids[start:stop], start))
    names = tuple(f"doc-{i}" for i in range(len(texts)))
    return Documents(names, tuple(made), tuple(tokens), tuple(windows), 0)


def test_labels_stand_in_the_order_of_the_windows() -> None:
    docs = documents(*TEXTS)
    labels = make_labels("digit", docs)
    pieces = [text.text[a:b] for text in docs.texts for a, b in text.offsets]
    assert labels.classes == ("no", "yes") and len(labels.values) == docs.measured == len(pieces)
    for piece, value in zip(pieces, labels.values, strict=True):
        assert np.isnan(value) if not piece.strip() else value == any(c.isdigit() for c in piece)


def test_every_label_that_is_listed_can_be_made() -> None:
    rich = (
        *TEXTS,
        "In May and in June. the cat and the dog. It was 3 and 400.",
        'He said "no". (And (so)) it',
    )
    docs = documents(*rich, categories=("a", "b") * 3)
    for name in list_labels():
        if name not in ("source", "word_initial"):  # whose words are whole here
            labels = make_labels(name, docs)
            assert len(labels.values) == docs.measured and not np.isnan(labels.values).all()


def test_the_label_of_the_next_token() -> None:
    docs = documents(*TEXTS)
    here, following = make_labels("punctuation", docs), make_labels("next_punctuation", docs)
    at = 0
    for tokens in docs.tokens:
        n = len(tokens)
        np.testing.assert_array_equal(following.values[at : at + n - 1], here.values[at + 1 : at + n])
        assert np.isnan(following.values[at + n - 1])
        at += n


def test_classes_with_too_few_documents_are_left_out_and_named() -> None:
    docs = documents(*(f"text {i} here" for i in range(8)), categories=(*"aaabbb", "c", None))
    labels = make_labels("category", docs)
    assert labels.classes == ("a", "b") and labels.left_out == ("c",)
    assert labels.document_classes == (*"aaabbb", None, None)
    last = sum(len(tokens) for tokens in docs.tokens[:6])
    assert np.isnan(labels.values[last:]).all() and not np.isnan(labels.values[:last]).any()


def of(value: Any, kind: Any = "classes", level: Any = "token") -> Rule:
    def rule(text: Text) -> Values:
        return [value] * len(text.offsets) if not isinstance(value, list) else value

    return Rule("mine", kind, level, "mine", rule)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (of("same"), "The label 'mine' has one class .'same'. in this corpus; a probe needs two."),
        (of(None), "The label 'mine' has no class in this corpus"),
        (of(2.0, "ordered"), "has the same value everywhere .2."),
        (of(None, "ordered"), "has no value anywhere"),
        (of(["a", "b"]), "does not align with the tokens of document 'doc-0': it has 2 values for 15 tokens"),
        (of(1.0), "must be names of classes, or None; got 1.0"),
        (of(float("inf"), "ordered"), "must be finite numbers, or None; got inf"),
        ("category", "has no class with at least 3 documents"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(label: Any, says: str) -> None:
    docs = documents(*TEXTS) if label != "category" else documents(*TEXTS, categories=("a", "a", "b", "b"))
    if isinstance(label, Rule) and "align" in says:
        says = says.replace("15", str(len(docs.tokens[0])))
    with pytest.raises(PromptError, match=says):
        make_labels(label, docs)


def test_a_document_with_two_classes_is_refused() -> None:
    mixed = Rule(
        "mine",
        "classes",
        "document",
        "",
        lambda t: ["a", "b"] * (len(t.offsets) // 2) + ["a"] * (len(t.offsets) % 2),
    )
    with pytest.raises(PromptError, match="is one of documents, and 'doc-0' has both 'a' and 'b'"):
        make_labels(mixed, documents(*TEXTS))


def test_an_unknown_label_is_met_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="Did you mean 'word_class'"):
        make_labels("word_clas", documents(*TEXTS))
    with pytest.raises(ParameterError, match="There is no label 'next_quotation'"):
        make_labels("next_quotation", documents(*TEXTS))


# -------------------------------------------------------------------------------------------- tables


def table(folder: Path, *rows: str, column: str = "label") -> Path:
    path = folder / "animal.csv"
    path.write_text("\n".join([f"document,start,end,{column}", *rows]) + "\n")
    return path


def test_a_table_labels_the_tokens_of_its_spans(tmp_path: Path) -> None:
    docs = documents(*TEXTS)
    # White space at the ends of a span does not count, and a span may hold several tokens.
    path = table(tmp_path, "doc-0,3,8,cat", "doc-0,15,19,dog", "doc-1,2,9,small")
    rule = table_rule(path, docs)
    assert rule.name == "animal" and rule.kind == "classes"
    found = [
        (text.text[a:b], value)
        for text in docs.texts
        for (a, b), value in zip(text.offsets, rule.of(text), strict=True)
        if value is not None
    ]
    assert found == [(" cat", "cat"), (" dogs", "dog"), (' "', "small"), ("small", "small"), ('"', "small")]
    numbers = make_labels(table(tmp_path, "doc-0,3,8,1.5", "doc-1,2,9,2", column="value"), docs)
    assert numbers.kind == "ordered" and set(numbers.values[~np.isnan(numbers.values)]) == {1.5, 2.0}


def test_a_dataset_on_disk_is_read_as_a_table_is(tmp_path: Path) -> None:
    from datasets import Dataset

    docs = documents(*TEXTS)
    columns = {"document": ["doc-0", "doc-1"], "start": [4, 10], "end": [7, 16], "label": ["cat", "land"]}
    Dataset.from_dict(columns).save_to_disk(str(tmp_path / "animal"))
    same = table(tmp_path, "doc-0,4,7,cat", "doc-1,10,16,land")
    np.testing.assert_array_equal(
        make_labels(tmp_path / "animal", docs).values, make_labels(same, docs).values
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["doc-0,5,8,x"], "Row 1 of animal.csv does not align with tokens: 'at ' of 'doc-0' begins or ends "
         "inside of the token 'cat' .characters 4 to 7.; label whole tokens."),
        (["doc-0,4,7,x", "doc-0,4,11,y"], "Row 2 of animal.csv labels a token of 'doc-0' that another row"),
        (["doc-9,0,3,x"], "Row 1 of animal.csv names the document 'doc-9'. Did you mean"),
        (["doc-0,0,99,x"], "labels characters 0 to 99 of 'doc-0', which has 29"),
        (["doc-0,3,4,x"], "labels white space of 'doc-0'"),
        (["doc-0,a,4,x"], "Row 1 of animal.csv cannot be read"),
        (["doc-0,0"], "Row 1 of animal.csv has no 'end'"),
        ([], "has no rows"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(rows: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=says):
        make_labels(table(tmp_path, *rows), documents(*TEXTS))


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        make_labels(tmp_path / "none.csv", documents(*TEXTS))
