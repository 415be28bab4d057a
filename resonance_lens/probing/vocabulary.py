"""Classes of the tokens of a vocabulary by themselves: what a model's next token may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import RecordError
from resonance_lens.text_labels import Rule, Text
from resonance_lens.token_counts import special_ids

NONE = "none"
"""The class of tokens that a rule says nothing of."""


def vocabulary_classes(
    rule: Rule, tokenizer: Any, d_vocab: int, text: Iterable[int]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the classes of all tokens of a vocabulary, each by itself.

    Parameters
    ----------
    rule
        With `Rule.alone`.
    tokenizer
        Of the model.
    d_vocab
        Tokens that the model can say.
    text
        Tokens of some text: the first of them that says something by itself stands in front of each token,
        because tokenizers leave out white space at the beginning of what they decode.

    Returns
    -------
    tuple
        Names, `NONE` last, and ``[token]``: which.

    Raises
    ------
    RecordError
        If no token of the text says anything by itself.
    """
    assert rule.alone is not None  # the caller has looked
    known = range(min(d_vocab, len(tokenizer)))
    options = {"clean_up_tokenization_spaces": False}
    special = set(special_ids(tokenizer))
    said = ((token, tokenizer.decode([token], **options)) for token in text if token not in special)
    found = next(((token, own) for token, own in said if own.strip() and "\ufffd" not in own), None)
    if found is None:
        raise RecordError(
            "No token of the documents says anything by itself, so that tokens have no class of their own; "
            "leave out the causal check."
        )
    anchor, front = found
    texts = tokenizer.batch_decode([[anchor, token] for token in known], **options)
    values: list[str | None] = [None] * d_vocab
    for token, both in zip(known, texts, strict=True):
        own = both.removeprefix(front)
        if token in special or not own.strip() or "\ufffd" in own or own == both:
            continue  # nothing, a part of a character, or not after the anchor
        whole = Text(rule.alone + own, ((len(rule.alone), len(rule.alone) + len(own)),))
        value = rule.of(whole)[0]
        values[token] = None if value is None else str(value)
    names = (*sorted({value for value in values if value is not None}), NONE)
    number = {name: code for code, name in enumerate(names)}
    return names, np.array([number[NONE if value is None else value] for value in values])
