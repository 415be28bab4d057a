"""Where tokens begin and end in a text, in characters."""

from __future__ import annotations

from typing import Any

from resonance_lens.errors import PromptError

LONGEST_RUN = 8
"""Tokens that one character may be spread over: what a tokenizer of bytes makes of it."""


def tokens_of(tokenizer: Any, text: str, where: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Return the ids of a text, without special tokens, and the span of each in characters.

    Parameters
    ----------
    tokenizer
        A fast tokenizer says the spans itself; with another they are found again by decoding.
    text
        The text.
    where
        What it is called, for messages.

    Returns
    -------
    tuple
        Ids and ``(start, end)``, one for each token. Several tokens that share one character have the same
        span.

    Raises
    ------
    PromptError
        If the text has no tokens, or decoding does not give it back.
    """
    if getattr(tokenizer, "is_fast", False):
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = tuple(int(i) for i in made["input_ids"])
        offsets = tuple((int(start), int(end)) for start, end in made["offset_mapping"])
    else:
        ids = tuple(int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"])
        offsets = by_decoding(tokenizer, ids, text, where)
    if not ids:
        raise PromptError(f"{where} has no tokens; leave it out.")
    return ids, offsets


def by_decoding(tokenizer: Any, ids: tuple[int, ...], text: str, where: str) -> tuple[tuple[int, int], ...]:
    """Return the span of each token, found by decoding it; see `tokens_of`.

    Raises
    ------
    PromptError
        If the tokens do not decode to the text: the first place where they do not.
    """
    found: list[tuple[int, int]] = []
    at = 0
    while len(found) < len(ids):
        for length in range(1, LONGEST_RUN + 1):
            piece = str(tokenizer.decode(list(ids[len(found) : len(found) + length])))
            if piece and text.startswith(piece, at):
                found += [(at, at + len(piece))] * len(ids[len(found) : len(found) + length])
                at += len(piece)
                break
        else:
            raise PromptError(
                f"The tokens of {where} do not decode to its text from character {at} on "
                f"({text[at : at + 12]!r}), so that labels cannot be put on them; use a fast tokenizer, or "
                "leave the text out."
            )
    return tuple(found)
