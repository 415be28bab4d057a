"""Prompts that are periodic by themselves, for any tokenizer: lists, counting, verse and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from resonance_lens.errors import ParameterError, PromptError, unknown, wrong_parameter
from resonance_lens.prompts import Prompt
from resonance_lens.stats.streams import stream

NOUNS = (
    "apple river stone bread house horse table chair garden window bridge letter winter summer "
    "morning evening silver golden copper iron wood paper glass water fire wind snow rain cloud star "
    "moon sun tree leaf flower grass hill valley lake island ship train road city village market "
    "school church castle tower door floor roof wall king queen child mother father brother sister "
    "friend teacher doctor farmer soldier sailor hunter music song dance story picture bird fish dog "
    "cat sheep wolf bear lion mouse"
).split()
ADJECTIVES = (
    "old young small great dark bright cold warm quiet strong poor happy white green red blue".split()
)
VERBS = "saw found left took kept lost held knew met called followed watched".split()
NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()

FEWEST = 8
"""Words of a list that have to be single tokens."""


@dataclass(frozen=True)
class PeriodicPrompts:
    """Prompts with a period of so many tokens, exactly.

    Attributes
    ----------
    kind
        What they are: see `periodic_prompts`.
    period
        In tokens of the tokenizer that they were made for.
    prompts
        Texts of whole periods.
    left_out
        Words of its lists that could not be used, because they are not one token of their own.
    """

    kind: str
    period: int
    prompts: tuple[Prompt, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Words:
    """The words that are one token, by list; numbers are those before the first that is not."""

    nouns: Sequence[str] = tuple(NOUNS)
    adjectives: Sequence[str] = tuple(ADJECTIVES)
    verbs: Sequence[str] = tuple(VERBS)
    numbers: Sequence[str] = tuple(NUMBERS)


Blocks = Callable[[_Words, np.random.Generator], Iterator[str]]


def _alternation(words: _Words, rng: np.random.Generator) -> Iterator[str]:
    first, second = rng.choice(words.nouns, 2, replace=False)
    while True:
        yield f" {first} {second}"


def _list(words: _Words, rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield f"- {rng.choice(words.nouns)}\n"


def _counting(words: _Words, rng: np.random.Generator) -> Iterator[str]:
    noun = rng.choice(words.nouns)
    while True:
        for number in words.numbers:
            yield f" {number} {noun},"


def _verse(words: _Words, rng: np.random.Generator) -> Iterator[str]:
    while True:
        who, what = rng.choice(words.nouns, 2, replace=False)
        yield f"The {rng.choice(words.adjectives)} {who} {rng.choice(words.verbs)} the {what},\n"


def _refrain(words: _Words, rng: np.random.Generator) -> Iterator[str]:
    refrain = rng.choice(words.nouns, 2, replace=False)
    while True:
        line = rng.choice(words.nouns, 2, replace=False)
        yield f"The {line[0]} and the {line[1]},\nthe {refrain[0]} and the {refrain[1]}.\n"


KINDS: dict[str, tuple[Blocks, int, tuple[str, ...]]] = {
    "alternation": (_alternation, 0, ("nouns",)),
    "list": (_list, 1, ("nouns",)),
    "counting": (_counting, 1, ("nouns", "numbers")),
    "verse": (_verse, 4, ("nouns", "adjectives", "verbs")),
    "refrain": (_refrain, 2, ("nouns",)),
}
"""How each kind of block is made, how many of its tokens may differ from period to period, of which words."""


def periodic_prompts(
    model: Any, kind: str, *, count: int = 8, tokens: int = 128, seed: int = 0
) -> PeriodicPrompts:
    """Return prompts that are periodic by themselves, their period exact in tokens of a model.

    Parameters
    ----------
    model
        A model with a tokenizer, or a tokenizer.
    kind
        ``alternation``: two words in turn. ``list``: one line for each word, with a dash before it.
        ``counting``: one sheep, two sheep, as far as numbers are single tokens, and from the beginning again.
        ``verse``: lines of the same build and different words. ``refrain``: two lines, of which the second
        returns.
    count
        How many prompts.
    tokens
        Tokens that each prompt has at least, filled up to whole periods.
    seed
        Of the words that are drawn.

    Returns
    -------
    PeriodicPrompts
        The prompts and their period. Only words that are one token were used.

    Raises
    ------
    ParameterError
        If there is no such kind, or a number is too small.
    PromptError
        If there is no tokenizer, or with this one no prompts of this kind have an exact period.

    Examples
    --------
    >>> class Words:
    ...     def __call__(self, text, add_special_tokens):
    ...         return {"input_ids": [sum(map(ord, word)) for word in text.split()]}
    >>> made = periodic_prompts(Words(), "alternation", tokens=6)
    >>> made.period, len(made.prompts[0].text.split())
    (2, 6)
    """
    if kind not in KINDS:
        raise ParameterError(unknown("kind of periodic prompt", str(kind), list(KINDS)))
    for name, value in (("count", count), ("tokens", tokens)):
        if type(value) is not int or value < 1:
            raise ParameterError(wrong_parameter("periodic_prompts", name, "an integer of at least 1", value))
    tokenizer = getattr(model, "tokenizer", model)
    if not callable(tokenizer):
        raise PromptError("There is no tokenizer to count tokens with; set model.tokenizer, or give one.")

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    make, n_free, lists = KINDS[kind]
    words, left_out = _single(ids, kind, lists)
    made: list[str] = []
    periods: set[int] = set()
    for index in range(count):
        draw = partial(_drawn, make, words, seed, kind, index)
        text, period = _exact(ids, draw, tokens, n_free, kind)
        made.append(text)
        periods.add(period)
    if len(periods) > 1:
        raise PromptError(_refusal(kind))
    prompts = (Prompt(text, id=f"{kind}-{index:03d}") for index, text in enumerate(made))
    return PeriodicPrompts(kind, periods.pop(), tuple(prompts), left_out)


def _drawn(make: Blocks, words: _Words, seed: int, kind: str, index: int) -> Iterator[str]:
    """Return the blocks of one prompt, from the beginning."""
    return make(words, stream(seed, "periodic prompts", kind, index))


def _single(
    ids: Callable[[str], Sequence[int]], kind: str, lists: Sequence[str]
) -> tuple[_Words, tuple[str, ...]]:
    """Return the words that are one token behind another word, none of them that of an unknown word, and
    those that are not."""
    whole, alone = _Words(), len(ids("the"))
    kept: dict[str, list[str]] = {}
    left_out: list[str] = []
    for name in lists:
        words = getattr(whole, name)
        found = [tuple(ids(f"the {word}")[alone:]) for word in words]
        good = [len(each) == 1 and found.count(each) == 1 for each in found]
        if name == "numbers" and not all(good):
            good = [index < good.index(False) for index in range(len(good))]
        kept[name] = [word for word, usable in zip(words, good, strict=True) if usable]
        left_out += [word for word, usable in zip(words, good, strict=True) if not usable]
        if len(kept[name]) < FEWEST:
            raise PromptError(_refusal(kind))
    return _Words(**kept), tuple(left_out)


def _exact(
    ids: Callable[[str], Sequence[int]],
    draw: Callable[[], Iterator[str]],
    tokens: int,
    n_free: int,
    kind: str,
) -> tuple[str, int]:
    """Return a text of whole periods and its period, with a space in front of it or without."""
    for begin in (str, str.lstrip):
        blocks = draw()
        two = begin(next(blocks) + next(blocks))
        period, odd = divmod(len(ids(two)), 2)
        if odd:
            continue
        times = max(2, -(-tokens // period))
        blocks = draw()
        text = begin("".join(next(blocks) for _ in range(times)))
        found = ids(text)
        if len(found) != period * times:
            continue
        rows = np.array(found).reshape(times, period)
        if (rows != rows[0]).any(axis=0).sum() <= n_free:
            return text, period
    raise PromptError(_refusal(kind))


def _refusal(kind: str) -> str:
    return (
        f"With this tokenizer no prompts of the kind {kind!r} have an exact period: too few words are single "
        "tokens, or it joins what stands between them; choose another kind, or give token ids."
    )
