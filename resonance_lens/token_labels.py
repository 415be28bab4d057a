"""Classes of the tokens of prompts by rule, where only their ids are known: the text is what they spell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ParameterError, unknown
from resonance_lens.text_labels import RULES, Text
from resonance_lens.token_counts import between_special, spelled
from resonance_lens.word_lists import CLOSED, SUFFIXES

Integers = NDArray[np.int64]

NO_LABEL = -1

TOKEN_CLASSES: Mapping[str, tuple[str, ...]] = {
    "word_class": tuple(sorted({"punctuation", *CLOSED, *(name for _, name, _ in SUFFIXES)})),
    **{name: ("no", "yes") for name in ("function_word", "capital", "digit", "punctuation", "word_initial")},
}
"""The classes of each rule of `text_labels` that gives tokens classes, in the order of their numbers."""


def token_labels(tokenizer: Any, rule: str, tokens: Sequence[Sequence[int]]) -> list[Integers]:
    """Return the class of each token by a rule, in prompts of ids.

    Parameters
    ----------
    tokenizer
        The model's.
    rule
        One of `TOKEN_CLASSES`.
    tokens
        The ids of each prompt.

    Returns
    -------
    list of arrays
        One for each prompt, ``[token]``: numbers of classes in `TOKEN_CLASSES`, and -1 for what the rule
        does not decide: special tokens, white space, halves of a character.

    Raises
    ------
    ParameterError
        If there is no such rule.
    """
    if rule not in TOKEN_CLASSES:
        raise ParameterError(unknown("rule for token classes", rule, TOKEN_CLASSES))
    return [_of_prompt(tokenizer, rule, ids) for ids in tokens]


def _of_prompt(tokenizer: Any, rule: str, ids: Sequence[int]) -> Integers:
    numbers = {name: number for number, name in enumerate(TOKEN_CLASSES[rule])}
    found = np.full(len(ids), NO_LABEL, dtype=np.int64)
    for start, stop in between_special(tokenizer, ids):
        text, ends = spelled(tokenizer, ids[start:stop])
        values = RULES[rule].of(Text(text, tuple(zip(ends, ends[1:], strict=False))))
        found[start:stop] = [NO_LABEL if value is None else numbers[str(value)] for value in values]
    return found
