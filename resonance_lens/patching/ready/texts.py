"""Pairs of texts and files of pairs, as token ids; and which texts are single tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resonance_lens.errors import AdapterError, PromptError
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.ready.drawing import Texts, Tokens

if TYPE_CHECKING:
    from resonance_lens.facts import Facts

CARRIER = "It is"
"""Text after which words are tried. Some tokenizers treat the beginning of a text in their own way."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns texts into the token ids that a model would be given.

    Attributes
    ----------
    tokenizer
        Its tokenizer.
    name
        What the model is called, or ``this tokenizer``.
    bos
        The token that goes in front, or ``None``.
    facts
        Of the model; ``None`` where there is a tokenizer alone.
    """

    tokenizer: Any
    name: str
    bos: int | None
    facts: Facts | None = None

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a prompt."""
        ids = tuple(int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids if self.bos is None or ids[:1] == (self.bos,) else (self.bos, *ids)

    def continuation(self, text: str, answer: str) -> int | None:
        """Return the token by which an answer continues a prompt, or ``None`` if there is no such token.

        It is one token more, and the answer can be read from it again, capitals aside: what a tokenizer does
        not know is one token for many too.
        """
        before, after = self.ids(text), self.ids(text + answer)
        if not answer or after[:-1] != before:
            return None
        again = str(self.tokenizer.decode([after[-1]]))
        return after[-1] if again.strip().casefold() == answer.strip().casefold() else None

    def single(self, word: str) -> bool:
        """Return whether a word after a space is one token."""
        return self.continuation(CARRIER, f" {word}") is not None

    def tokens(self, texts: Texts) -> Tokens | None:
        """Return a candidate as token ids, or ``None`` if it is no pair.

        Its prompts must be equally long, and each answer one token, the same after both, and another than
        the other answer.
        """
        clean, corrupted = self.ids(texts.clean), self.ids(texts.corrupted)
        right, wrong = (
            {self.continuation(prompt, answer) for prompt in (texts.clean, texts.corrupted)}
            for answer in (texts.right, texts.wrong)
        )
        if len(clean) != len(corrupted) or len(right) > 1 or len(wrong) > 1 or right == wrong:
            return None
        (one,), (other,) = right, wrong
        return None if one is None or other is None else Tokens(clean, corrupted, one, other)


def encoder_of(model: Any, prepend_bos: bool | None = None) -> Encoder:
    """Return the encoder of a model, an adapter or a tokenizer.

    Raises
    ------
    PromptError
        If there is no tokenizer, or no beginning-of-sequence token where one is wanted.
    """
    from resonance_lens.hooks.attach import attach

    try:
        adapter = attach(model)
    except AdapterError:
        if not callable(model) or not hasattr(model, "decode"):
            raise
        bos = getattr(model, "bos_token_id", None)
        encoder = Encoder(model, "this tokenizer", bos if prepend_bos else None)
    else:
        facts = adapter.facts
        if adapter.tokenizer is None:
            raise PromptError(
                f"{facts.model_name} has no tokenizer to read texts with; set model.tokenizer, or give "
                "token ids."
            )
        prepend = facts.prepends_bos if prepend_bos is None else prepend_bos
        encoder = Encoder(adapter.tokenizer, facts.model_name, facts.bos_token if prepend else None, facts)
    if prepend_bos and encoder.bos is None:
        raise PromptError(
            f"There is no beginning-of-sequence token in {encoder.name}; leave prepend_bos at its default."
        )
    return encoder


def pairs_of_texts(
    model: Any,
    clean: Sequence[str],
    corrupted: Sequence[str],
    right: Sequence[str | int],
    wrong: Sequence[str | int],
    name: str,
    ids: tuple[str, ...],
    prepend_bos: bool | None,
) -> PromptPairs:
    """Return pairs of texts; see `PromptPairs.from_texts`."""
    columns = {"clean": clean, "corrupted": corrupted, "right": right, "wrong": wrong}
    for column, values in columns.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise PromptError(f"{column!r} must be a list, one entry for each pair; got {values!r}.")
        if len(values) != len(clean):
            raise PromptError(
                f"There are {len(clean)} clean prompts and {len(values)} entries of {column!r}; give one for "
                "each pair."
            )
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    names = ids or tuple(f"{name}-{index:03d}" for index in range(len(records)))
    if len(names) != len(records):
        raise PromptError(f"There are {len(records)} pairs and {len(names)} ids; give one for each pair.")
    where = [f"pair {each!r}" for each in names]
    return _pairs(records, where, names, name, encoder_of(model, prepend_bos))


def pairs_of_file(path: Path, model: Any, name: str | None, prepend_bos: bool | None) -> PromptPairs:
    """Return the pairs of a file; see `PromptPairs.from_file`."""
    if path.suffix != ".jsonl":
        raise PromptError(
            f"Cannot read pairs from {str(path)!r}: its name must end in .jsonl (one object a line)."
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PromptError(f"Cannot read pairs from {str(path)!r}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"Cannot read pairs from {str(path)!r}: not UTF-8 text.") from error
    # Not splitlines: U+2028 and its like may stand inside a JSON string.
    lines = [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise PromptError(f"Cannot read pairs from {str(path)!r}: the file holds no pair.")
    called = name or path.stem
    where = [f"line {number} of {str(path)!r}" for number, _ in lines]
    records = [_record(line, place) for (_, line), place in zip(lines, where, strict=True)]
    names: list[str] = []
    for index, (record, place) in enumerate(zip(records, where, strict=True)):
        each = record.get("id", f"{called}-{index:03d}")
        if not isinstance(each, str) or not each:
            raise PromptError(f"The id in {place} must be a string, not empty; got {each!r}.")
        if each in names:
            raise PromptError(
                f"The id {each!r} in {place} is also that of {where[names.index(each)]}; ids must be unique."
            )
        names.append(each)
    return _pairs(records, where, tuple(names), called, encoder_of(model, prepend_bos))


def _record(line: str, where: str) -> dict[str, Any]:
    """Read one line of a file of pairs."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
        raise PromptError(f"There is no JSON in {where}: {reason}.") from error
    wanted = ("clean", "corrupted", "right", "wrong")
    missing = [key for key in wanted if not isinstance(record, dict) or key not in record]
    if missing:
        raise PromptError(
            f"There is no {missing[0]!r} in {where}; a pair is a JSON object with 'clean', 'corrupted', "
            "'right' and 'wrong'."
        )
    found: dict[str, Any] = record
    return found


def _pairs(
    records: Sequence[dict[str, Any]],
    where: Sequence[str],
    ids: tuple[str, ...],
    name: str,
    encoder: Encoder,
) -> PromptPairs:
    """Return pairs, each wrong one refused by the place where it stands."""
    from resonance_lens.batches import tokenize

    clean, corrupted, right, wrong = [], [], [], []
    for record, place in zip(records, where, strict=True):
        rows = [_row(record[side], side, place, encoder) for side in ("clean", "corrupted")]
        if len(rows[0]) != len(rows[1]):
            raise PromptError(
                f"The clean prompt of {place} has {len(rows[0])} tokens and the corrupted one "
                f"{len(rows[1])}; change one of them until the numbers are equal."
            )
        answers = [_answer(record, side, place, encoder) for side in ("right", "wrong")]
        if answers[0] == answers[1]:
            raise PromptError(
                f"The right and the wrong answer of {place} are the same token, {answers[0]}; the corrupted "
                "prompt needs another answer."
            )
        clean.append(rows[0])
        corrupted.append(rows[1])
        right.append(answers[0])
        wrong.append(answers[1])
    pairs = PromptPairs(
        name=name,
        clean=clean,
        corrupted=corrupted,
        right=np.array(right),
        wrong=np.array(wrong),
        ids=ids,
    )
    if encoder.facts is not None:
        for side in ("clean", "corrupted"):
            tokenize(pairs.prompts(side), encoder.facts, encoder.tokenizer, False)  # refuses what is outside
        largest = encoder.facts.d_vocab - 1
        for place, *answers in zip(where, right, wrong, strict=True):
            if max(answers) > largest:
                raise PromptError(
                    f"An answer of {place} is the token id {max(answers)}, and {encoder.name} has ids up to "
                    f"{largest}."
                )
    return pairs


def _row(prompt: Any, side: str, where: str, encoder: Encoder) -> tuple[int, ...]:
    """Return the token ids of a prompt given as a text or as ids."""
    if isinstance(prompt, str) and prompt.strip():
        return encoder.ids(prompt)
    if isinstance(prompt, (list, tuple)) and prompt:
        if all(type(token) is int and token >= 0 for token in prompt):
            return tuple(prompt)
    raise PromptError(
        f"The {side} prompt of {where} must be a text or a list of token ids, not empty; got {prompt!r}."
    )


def _answer(record: dict[str, Any], side: str, where: str, encoder: Encoder) -> int:
    """Return the token id of an answer, checked against both prompts of its pair."""
    answer = record[side]
    if type(answer) is int and answer >= 0:
        return answer
    if not isinstance(answer, str) or not answer:
        raise PromptError(
            f"The {side} answer of {where} must be a text or a token id, not empty; got {answer!r}."
        )
    found = set()
    for prompt in (record["clean"], record["corrupted"]):
        if not isinstance(prompt, str):
            raise PromptError(
                f"The prompts of {where} are token ids, so its answers must be too; got {answer!r}."
            )
        # In scripts with capitals words are set apart by spaces, and an answer without one would be
        # another token than the one that the model says.
        if prompt[-1].isalnum() and answer[0].lower() != answer[0].upper():
            raise PromptError(
                f"The {side} answer of {where} would be written onto the last word of a prompt, "
                f"{(prompt.split()[-1] + answer)!r}; give it with its space, {' ' + answer!r}, or as a token "
                "id."
            )
        token = encoder.continuation(prompt, answer)
        if token is None:
            space = "; a space at the end of a prompt belongs to the answer" if prompt[-1] == " " else ""
            n = len(encoder.ids(prompt + answer)) - len(encoder.ids(prompt))
            raise PromptError(
                f"The {side} answer of {where}, {answer!r}, does not continue a prompt by exactly one token "
                f"that stands for it ({n} more with it{space}); choose another answer or give a token id."
            )
        found.add(token)
    if len(found) > 1:
        raise PromptError(
            f"The {side} answer of {where}, {answer!r}, is another token after the clean prompt than after "
            "the corrupted one; end both prompts alike."
        )
    return found.pop()
