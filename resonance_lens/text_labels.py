"""What can be said of the tokens of a text by rule: word class, case, quotation, sentences, numbers.

A rule is a function of a text and of where its tokens begin and end. It says a class or a number for each
token, or nothing (``None``): what no rule decides is not measured. Nothing here loads torch or a tokenizer.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from resonance_lens.word_lists import ABBREVIATIONS, CLOSED, MONTHS, SUFFIXES

Offsets = Sequence[tuple[int, int]]
Values = Sequence[str | float | None]
Kind = Literal["classes", "ordered"]
Level = Literal["token", "span", "document"]

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)|\n\s*\n|\n(?=\s*\S)")
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Text:
    """A text with its tokens.

    Attributes
    ----------
    text
        The text.
    offsets
        Where each token begins and ends, in characters; a token may begin with white space.
    category, source
        What is known of the document: see `resonance_lens.prompts`.
    """

    text: str
    offsets: tuple[tuple[int, int], ...]
    category: str | None = None
    source: str | None = None

    @cached_property
    def starts(self) -> tuple[int | None, ...]:
        """The first character of each token that is not white space, or ``None``."""
        found: list[int | None] = []
        for start, end in self.offsets:
            inside = self.text[start:end]
            found.append(start + len(inside) - len(inside.lstrip()) if inside.strip() else None)
        return tuple(found)

    @cached_property
    def words(self) -> tuple[tuple[int, int], ...]:
        """Where words of letters begin and end, an apostrophe inside allowed."""
        return tuple(match.span() for match in _WORD.finditer(self.text))

    @cached_property
    def sentences(self) -> tuple[int, ...]:
        """Where sentences begin.

        A sentence ends with a full stop, a question or an exclamation mark before white space, unless the
        stop belongs to an abbreviation or an initial; and with its line.
        """
        begins = [0]
        for match in _END.finditer(self.text):
            if match.group().startswith(".") and _abbreviated(self.text, match.start()):
                continue
            begins.append(match.end())
        spans = zip(begins, [*begins[1:], len(self.text)], strict=True)
        parts = [(begin, self.text[begin:following]) for begin, following in spans]
        # White space belongs to no sentence, and is none.
        return tuple(begin + len(part) - len(part.lstrip()) for begin, part in parts if part.strip())

    def word_at(self, place: int) -> tuple[int, int] | None:
        """Return the word that holds a character, or ``None``."""
        index = bisect.bisect_right(self.words, (place, len(self.text) + 1)) - 1
        return self.words[index] if index >= 0 and self.words[index][1] > place else None

    def sentence_at(self, place: int) -> int:
        """Return the number of the sentence that holds a character."""
        return max(bisect.bisect_right(self.sentences, place) - 1, 0)


@dataclass(frozen=True)
class Rule:
    """A property of tokens that can be read off a text.

    Attributes
    ----------
    name
        Such as ``word_class``.
    kind
        ``classes``, or ``ordered``: numbers.
    level
        What it changes with: ``token``, ``span`` (several tokens) or ``document``.
    says
        What it is, as a phrase.
    of
        The rule: a class, a number or ``None`` for each token.
    alone
        What a token stands behind when the rule is asked about it by itself, as of a vocabulary; ``None``
        where a token has no such property by itself.
    """

    name: str
    kind: Kind
    level: Level
    says: str
    of: Callable[[Text], Values]
    alone: str | None = None


def _each(rule: Callable[[Text, int], str | float | None]) -> Callable[[Text], Values]:
    """Make a rule for texts of a rule for the first character of a token; white space has no value."""
    return lambda text: [None if start is None else rule(text, start) for start in text.starts]


def word_class_of(word: str) -> str | None:
    """Return the class of a word by list and by ending, or ``None`` where neither decides.

    This is a rule and not a tagger: a word has one class wherever it stands. docs/probes.md says how often a
    tagger agrees. Words that often belong to two classes ("that", "her", "like") have none.
    """
    lower = word.lower().replace("\u2019", "'")
    for name, members in CLOSED.items():
        if lower in members:
            return name
    for ending, name, shortest in SUFFIXES:
        if lower.endswith(ending) and len(lower) >= shortest:
            return name
    return None


def _word_class(text: Text, start: int) -> str | None:
    character = text.text[start]
    if character.isdigit():
        return "number"
    word = text.word_at(start)
    if word is not None:
        return word_class_of(text.text[slice(*word)])
    return None if character.isalnum() else "punctuation"


def _function_word(text: Text, start: int) -> str | None:
    word = text.word_at(start)
    if word is None:
        return None
    lower = text.text[slice(*word)].lower().replace("\u2019", "'")
    closed = any(lower in members for name, members in CLOSED.items() if name != "adverb")
    return _yes(closed)


def _capital(text: Text, start: int) -> str | None:
    return _yes(text.text[start].isupper()) if text.text[start].isalpha() else None


def _word_initial(text: Text, start: int) -> str | None:
    word = text.word_at(start)
    return None if word is None else _yes(word[0] == start)


def _holds(test: Callable[[str], bool]) -> Callable[[Text], Values]:
    """Make a rule of a test that any character of the token may pass."""

    def rule(text: Text) -> Values:
        return [
            None if start is None else _yes(any(map(test, text.text[start:end])))
            for start, (_, end) in zip(text.starts, text.offsets, strict=True)
        ]

    return rule


def _quotation(text: Text) -> Values:
    inside, now, spans = False, [], text.text
    for character in spans:
        if character == "\n":
            inside = False  # a quotation that nobody closed ends with its line
        closing = character == "\u201d" or (character == '"' and inside)
        opening = character == "\u201c" or (character == '"' and not inside)
        now.append(inside or opening)
        inside = (inside or opening) and not closing
    return [None if start is None else _yes(now[start]) for start in text.starts]


def _bracket_depth(text: Text) -> Values:
    depth, now = 0, []
    for character in text.text:
        depth += character in _OPEN
        now.append(depth)
        depth = max(depth - (character in _CLOSE), 0)
    return [None if start is None else float(now[start]) for start in text.starts]


def _in_sentence(value: Callable[[int, int, int, int], float]) -> Callable[[Text], Values]:
    """Make a rule of the number of the sentence, tokens before it there, tokens there, characters before."""

    def rule(text: Text) -> Values:
        numbers = [None if start is None else text.sentence_at(start) for start in text.starts]
        totals: dict[int, int] = {}
        for number in numbers:
            if number is not None:
                totals[number] = totals.get(number, 0) + 1
        seen: dict[int, int] = {}
        values: list[float | None] = []
        for number, start in zip(numbers, text.starts, strict=True):
            if number is None or start is None:
                values.append(None)
                continue
            before = seen.get(number, 0)
            seen[number] = before + 1
            values.append(value(number, before, totals[number], start - text.sentences[number]))
        return values

    return rule


def _count(text: Text) -> Values:
    seen: dict[str, int] = {}
    counts: dict[tuple[int, int], float] = {}
    for word in text.words:
        lower = text.text[slice(*word)].lower()
        counts[word] = float(seen.get(lower, 0))
        seen[lower] = seen.get(lower, 0) + 1
    found = [None if start is None else text.word_at(start) for start in text.starts]
    return [None if word is None else counts[word] for word in found]


def _number(text: Text) -> Values:
    spans = [match.span() for match in _NUMBER.finditer(text.text)]
    values: list[float | None] = []
    for start in text.starts:
        index = bisect.bisect_right(spans, (start, len(text.text) + 1)) - 1 if start is not None else -1
        if start is None or index < 0 or spans[index][1] <= start:
            values.append(None)
        else:
            values.append(math.log10(1 + float(text.text[slice(*spans[index])].replace(",", ""))))
    return values


def _month(text: Text, start: int) -> float | None:
    word = text.word_at(start)
    return None if word is None else MONTHS.get(text.text[slice(*word)])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _abbreviated(text: str, stop: int) -> bool:
    """Return whether the full stop at a place belongs to the word before it."""
    word = re.search(r"[^\W\d_]+$", text[max(0, stop - 20) : stop])
    return word is not None and (len(word.group()) == 1 or word.group().lower() in ABBREVIATIONS)


def _document(value: Callable[[Text], str | None]) -> Callable[[Text], Values]:
    return lambda text: [value(text)] * len(text.offsets)


_RULES = (
    Rule("word_class", "classes", "token", "word class, by a rule", _each(_word_class), alone=""),
    Rule(
        "function_word",
        "classes",
        "token",
        "whether the word is a function word",
        _each(_function_word),
        alone="",
    ),
    Rule(
        "capital",
        "classes",
        "token",
        "whether the token begins with a capital letter",
        _each(_capital),
        alone="",
    ),
    Rule("digit", "classes", "token", "whether the token holds a digit", _holds(str.isdigit), alone=""),
    Rule(
        "punctuation",
        "classes",
        "token",
        "whether the token holds punctuation",
        _holds(lambda c: not c.isalnum() and not c.isspace()),
        alone="",
    ),
    # Behind a letter a token begins a word only if it brings its white space along.
    Rule(
        "word_initial",
        "classes",
        "token",
        "whether the token begins its word",
        _each(_word_initial),
        alone="x",
    ),
    Rule("number", "ordered", "token", "log10(1 + n) of the number that the token is in", _number),
    Rule("month", "ordered", "token", "which month of the year the word names", _each(_month)),
    Rule("count", "ordered", "token", "how often the word came before in the document", _count),
    Rule("quotation", "classes", "span", "whether the token is in double quotes", _quotation),
    Rule("bracket_depth", "ordered", "span", "how many brackets are open", _bracket_depth),
    Rule("sentence", "ordered", "span", "number of the sentence", _in_sentence(lambda n, *_: float(n))),
    Rule(
        "position_in_sentence",
        "ordered",
        "span",
        "share of the sentence that came before, in tokens",
        _in_sentence(lambda _, before, total, __: before / total),
    ),
    Rule(
        "sentence_length",
        "ordered",
        "span",
        "characters of the sentence so far",
        _in_sentence(lambda _, __, ___, characters: float(characters)),
    ),
    Rule("category", "classes", "document", "category of the document", _document(lambda t: t.category)),
    Rule("source", "classes", "document", "source of the document", _document(lambda t: t.source)),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}
"""Every rule by its name."""
