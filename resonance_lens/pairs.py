"""Pairs of prompts: one with a right answer, and one changed in what decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import PromptError, wrong_parameter
from resonance_lens.prompts import Prompt

Integers = NDArray[np.int64]
Row = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPairs:
    """Pairs of a clean and a corrupted prompt, equally long in tokens, each with the answer to both.

    Attributes
    ----------
    name
        What the pairs are called: the name of a ready task, or the user's.
    clean, corrupted
        Token ids of each pair, used exactly as they are. The two prompts of a pair have equal length;
        pairs may differ in length.
    read
        Integers ``[pair]``: the position whose logits are the answer. One number for all is accepted, and
        negative numbers count from the end; the last token if not said. Kept as ``[pair]``, from 0.
    right
        Integers ``[pair]``: token id of the right answer to the clean prompt.
    wrong
        Integers ``[pair]``: token id of the answer to the corrupted prompt, wrong for the clean one.
    ids
        A name for each pair, unique: ``induction-000``. Made of ``name`` and a number if not said.
    accuracy
        Share of the drawn pairs that the model solved, before unsolved ones were left out (0 to 1), or
        ``None`` where nothing was tried. See `prompt_pairs` for what solved means.
    tried
        How many pairs that share is of.
    notes
        What a reader of the numbers must know of how the pairs were made, one sentence each: how many
        words were usable with this tokenizer, for instance.

    Raises
    ------
    PromptError
        If a pair's prompts differ in length, its two answers are the same token, or parts do not fit each
        other: which pair, and what is wrong.

    Examples
    --------
    >>> pairs = PromptPairs(name="copy", clean=[[0, 1, 2, 1]], corrupted=[[0, 1, 3, 1]], right=[2], wrong=[3])
    >>> pairs.ids, pairs.read.tolist()
    (('copy-000',), [3])
    """

    name: str
    clean: Sequence[Sequence[int]]
    corrupted: Sequence[Sequence[int]]
    read: Integers = field(default_factory=lambda: np.array(-1))
    right: Integers
    wrong: Integers
    ids: tuple[str, ...] = ()
    accuracy: float | None = None
    tried: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise PromptError(wrong_parameter("PromptPairs", "name", "a name", self.name))
        clean, corrupted = _rows("clean", self.clean), _rows("corrupted", self.corrupted)
        if not clean:
            raise PromptError("There are no pairs of prompts: the list is empty; give at least one.")
        n = len(clean)
        ids = tuple(self.ids) or tuple(f"{self.name}-{index:03d}" for index in range(n))
        for part, values in (("corrupted prompts", corrupted), ("ids", ids)):
            if len(values) != n:
                raise PromptError(f"There are {n} clean prompts and {len(values)} {part}; give one for each.")
        for index, each in enumerate(ids):
            if not isinstance(each, str) or not each:
                raise PromptError(f"The id of pair {index} must be a string, not empty; got {each!r}.")
            if each in ids[:index]:
                raise PromptError(
                    f"Pairs {ids.index(each)} and {index} have the same id {each!r}; ids must be unique."
                )
        for each, one, other in zip(ids, clean, corrupted, strict=True):
            if len(one) != len(other):
                raise PromptError(
                    f"The clean prompt of pair {each!r} has {len(one)} tokens and the corrupted one "
                    f"{len(other)}; change one of them until the numbers are equal."
                )
        lengths = np.array([len(row) for row in clean])
        right, wrong = _numbers("right", self.right, n), _numbers("wrong", self.wrong, n)
        read = _numbers("read", self.read, n)
        from_start = np.where(read < 0, read + lengths, read)
        for index, each in enumerate(ids):
            if min(right[index], wrong[index]) < 0:
                raise PromptError(
                    f"An answer of pair {each!r} is negative; answers are token ids, from 0 up."
                )
            if right[index] == wrong[index]:
                raise PromptError(
                    f"The right and the wrong answer of pair {each!r} are the same token, {right[index]}; "
                    "the corrupted prompt needs another answer."
                )
            if not 0 <= from_start[index] < lengths[index]:
                raise PromptError(
                    f"Pair {each!r} is to be read at position {read[index]}, and its prompts have "
                    f"{lengths[index]} tokens; give a position inside them."
                )
        fixed: dict[str, Any] = {
            "clean": clean, "corrupted": corrupted, "read": from_start, "right": right, "wrong": wrong,
            "ids": ids, "notes": tuple(self.notes),
        }  # fmt: skip
        for name, value in fixed.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.clean)

    def prompts(self, side: Literal["clean", "corrupted"] = "clean") -> list[Prompt]:
        """Return the prompts of one side, each with the id of its pair."""
        if side not in ("clean", "corrupted"):
            raise PromptError(wrong_parameter("prompts", "side", "'clean' or 'corrupted'", side))
        rows = self.clean if side == "clean" else self.corrupted
        return [Prompt(None, id=each, tokens=tuple(row)) for each, row in zip(self.ids, rows, strict=True)]

    def take(self, indices: Sequence[int] | Integers) -> PromptPairs:
        """Return some of the pairs, in the order of their indices here.

        The accuracy stays that of the drawing that they come from.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        return PromptPairs(
            name=self.name,
            clean=[self.clean[index] for index in chosen],
            corrupted=[self.corrupted[index] for index in chosen],
            read=self.read[chosen],
            right=self.right[chosen],
            wrong=self.wrong[chosen],
            ids=tuple(self.ids[index] for index in chosen),
            accuracy=self.accuracy,
            tried=self.tried,
            notes=self.notes,
        )

    def digest(self) -> str:
        """Return the SHA-256 of ids, tokens, positions and answers, as 64 hexadecimal digits.

        Equal for equal pairs in equal order, on every machine and Python.
        """
        rows = list(
            zip(
                self.ids, self.clean, self.corrupted,
                self.read.tolist(), self.right.tolist(), self.wrong.tolist(), strict=True,
            )
        )  # fmt: skip
        canonical = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @classmethod
    def from_texts(
        cls,
        model: Any,
        clean: Sequence[str],
        corrupted: Sequence[str],
        right: Sequence[str | int],
        wrong: Sequence[str | int],
        *,
        name: str = "pairs",
        ids: Sequence[str] = (),
        prepend_bos: bool | None = None,
    ) -> PromptPairs:
        """Return pairs of texts, read at their last token.

        Parameters
        ----------
        model
            A model or its adapter, or a tokenizer alone.
        clean, corrupted
            The prompts, as texts.
        right, wrong
            The answers to the clean and to the corrupted prompt: each a text that continues both prompts by
            exactly one token, its space included (``" Paris"``), or a token id.
        name
            What the pairs are called.
        ids
            A name for each; ``name-000`` and so on if not said.
        prepend_bos
            Whether a beginning-of-sequence token goes in front; ``None`` follows the model's habit, and
            puts none where only a tokenizer is given.

        Raises
        ------
        PromptError
            If the prompts of a pair differ in length, or an answer is not one token after them: which, and
            both lengths.
        """
        from resonance_lens.patching.ready.texts import pairs_of_texts

        return pairs_of_texts(model, clean, corrupted, right, wrong, name, tuple(ids), prepend_bos)

    @classmethod
    def from_file(
        cls, path: str | Path, model: Any, *, name: str | None = None, prepend_bos: bool | None = None
    ) -> PromptPairs:
        """Read pairs from a ``.jsonl`` file, one object a line.

        Parameters
        ----------
        path
            The file. Each line has ``clean`` and ``corrupted`` (texts, or lists of token ids, which are used
            exactly as they are), ``right`` and ``wrong`` (texts that continue the prompts by one token, or
            token ids) and perhaps ``id``; other keys are ignored.
        model, prepend_bos
            As in `from_texts`.
        name
            What the pairs are called; the name of the file without its ending if not said.

        Raises
        ------
        PromptError
            If the file cannot be read, or a line is no pair: which line, and what is wrong with it.
        """
        from resonance_lens.patching.ready.texts import pairs_of_file

        return pairs_of_file(Path(path), model, name, prepend_bos)


def _rows(name: str, rows: Any) -> tuple[Row, ...]:
    """Return rows of token ids as plain integers."""
    found = []
    for index, row in enumerate(rows):
        try:
            array = np.asarray(row)
        except ValueError:
            array = np.empty((), dtype=object)  # rows of unequal length inside
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iu" or array.min() < 0:
            raise PromptError(
                f"The {name} prompt of pair {index} must be a list of token ids, from 0 up and not empty."
            )
        found.append(tuple(int(token) for token in array))
    return tuple(found)


def _numbers(name: str, values: Any, n: int) -> Integers:
    """Return one integer for each pair; only of ``read`` may one number stand for all."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty((), dtype=object)
    if name == "read" and array.ndim == 0:
        array = np.full(n, array)
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise PromptError(f"The {name!r} of these pairs must be {n} integers, one for each pair.")
    return array.astype(np.int64)
