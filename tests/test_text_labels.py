"""Rules that label the tokens of a text, on sentences whose labels are plain, and laws for any text."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.text_labels import RULES, Text, Values, word_class_of
from resonance_lens.word_lists import CLOSED


def cut(text: str) -> Text:
    """Cut a text as byte-pair encodings do: white space before a word belongs to it."""
    return Text(text, tuple(match.span() for match in re.finditer(r" ?[^\W\d_]+| ?\d+| ?[^\w\s]|\s|_", text)))


def labelled(name: str, text: str) -> list[tuple[str, str | float | None]]:
    made = cut(text)
    values = RULES[name].of(made)
    pieces = [text[start:end].strip() for start, end in made.offsets]
    return [(piece, value) for piece, value in zip(pieces, values, strict=True) if piece]


def of(name: str, text: str) -> list[str | float | None]:
    return [value for _, value in labelled(name, text)]


def test_word_classes() -> None:
    found = labelled("word_class", "The famous nation will quickly become 3 boxes, she said.")
    assert found == [
        ("The", "determiner"),
        ("famous", "adjective"),
        ("nation", "noun"),
        ("will", "auxiliary"),
        ("quickly", "adverb"),
        ("become", None),  # no list and no ending decides
        ("3", "number"),
        ("boxes", None),
        (",", "punctuation"),
        ("she", "pronoun"),
        ("said", None),
        (".", "punctuation"),
    ]


def test_no_word_is_in_two_closed_classes_and_ambiguous_ones_are_in_none() -> None:
    for one, other in itertools.combinations(CLOSED.values(), 2):
        assert not one & other
    assert word_class_of("that") is word_class_of("her") is word_class_of("like") is None
    assert word_class_of("Don\u2019t") == "auxiliary"


def test_case_digits_and_punctuation() -> None:
    text = "Ada has 12 cats (two white)."
    assert [p for p, v in labelled("capital", text) if v == "yes"] == ["Ada"]
    assert [p for p, v in labelled("capital", text) if v is None] == ["12", "(", ")", "."]
    assert [p for p, v in labelled("digit", text) if v == "yes"] == ["12"]
    assert [p for p, v in labelled("punctuation", text) if v == "yes"] == ["(", ")", "."]
    assert [p for p, v in labelled("function_word", text) if v == "yes"] == ["has", "two"]


def test_a_later_piece_of_a_word_does_not_begin_it() -> None:
    text = Text("unhappy cat", ((0, 2), (2, 7), (7, 11)))
    assert RULES["word_initial"].of(text) == ["yes", "no", "yes"]
    assert RULES["word_class"].of(text) == [None, None, None]
    assert RULES["word_class"].of(Text("a nation", ((0, 1), (1, 5), (5, 8)))) == [
        "determiner",
        "noun",
        "noun",
    ]


def test_sentences_end_at_stops_and_lines_and_not_at_abbreviations() -> None:
    text = "Mr. Smith met J. Doe. He ran!  Why?\nA new line. 3.5 is no end"
    found = labelled("sentence", text)
    assert [(p, v) for p, v in found if p in ("Mr", "Doe", "He", "Why", "A", "3", "end")] == [
        ("Mr", 0.0),
        ("Doe", 0.0),
        ("He", 1.0),
        ("Why", 2.0),
        ("A", 3.0),
        ("3", 4.0),
        ("end", 4.0),
    ]


def test_places_in_a_sentence() -> None:
    text = "One two three four. Five six"
    assert of("position_in_sentence", text) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0, 0.5])
    assert of("sentence_length", text) == [0, 4, 8, 14, 18, 0, 5]


def test_quotations_and_brackets() -> None:
    text = 'He said "come (now [at] once)" and left. \u201cYes\u201d'
    assert [p for p, v in labelled("quotation", text) if v == "yes"] == [
        '"', "come", "(", "now", "[", "at", "]", "once", ")", '"', "\u201c", "Yes", "\u201d",
    ]  # fmt: skip
    depths = dict(labelled("bracket_depth", "f (a [b] c) d"))
    assert depths == {"f": 0, "(": 1, "a": 1, "[": 2, "b": 2, "]": 2, "c": 1, ")": 1, "d": 0}
    assert of("quotation", 'an "open one\nends here') == ["no", "yes", "yes", "yes", "no", "no"]


def test_numbers_months_and_counts() -> None:
    numbers = labelled("number", "about 1,000 or 99 of 1.5")
    assert [p for p, v in numbers if v is not None] == ["1", ",", "000", "99", "1", ".", "5"]
    assert [v for _, v in numbers if v is not None] == pytest.approx(np.log10([1001] * 3 + [100] + [2.5] * 3))
    assert of("month", "In May he may go in December") == [None, 5.0, None, None, None, None, 12.0]
    assert of("count", "the cat and The dog and the end") == [0, 0, 0, 1, 0, 1, 2, 0]


def test_what_is_known_of_the_document_is_said_of_every_token() -> None:
    text = Text("a b", ((0, 1), (1, 3)), category="prose", source="a book")
    assert RULES["category"].of(text) == ["prose", "prose"] and RULES["source"].of(text) == ["a book"] * 2


@settings(max_examples=60)
@given(st.text(alphabet="abc AB1.,\"(\n)[\u201c\u201d'\u00e9", max_size=60), st.data())
def test_every_rule_gives_a_value_of_its_kind_for_each_token(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    made = Text(text, tuple(zip(cuts, cuts[1:], strict=False)))
    for rule in RULES.values():
        values: Values = rule.of(made)
        assert len(values) == len(made.offsets)
        for value, (start, end) in zip(values, made.offsets, strict=True):
            assert value is None or isinstance(value, str if rule.kind == "classes" else float)
            if rule.level != "document" and not text[start:end].strip():
                assert value is None  # white space has no label
    depths = [v for v in RULES["bracket_depth"].of(made) if v is not None]
    assert all(0 <= float(depth) <= text.count("(") + text.count("[") for depth in depths)
    numbers = [float(v) for v in RULES["sentence"].of(made) if v is not None]
    assert numbers == sorted(numbers)
    shares = [float(v) for v in RULES["position_in_sentence"].of(made) if v is not None]
    assert all(0 <= share < 1 for share in shares)
