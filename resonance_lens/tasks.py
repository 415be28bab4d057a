"""Tasks: prompts that stand for ordered values, and the answers that are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.prompts import Prompt

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Prompts whose inputs are ordered values, with a right answer to each.

    Attributes
    ----------
    name
        What the task is called.
    tokens
        Token ids of each prompt, used exactly as they are. Prompts may differ in length.
    values
        Integers ``[prompt, input]`` from 0 to ``n_values - 1``: the values behind the tokens, in an order
        that means something. A task over the years 1900 to 1999 counts them from 0.
    inputs
        Name of each input: ``("a", "b")``.
    input_positions
        Position of the token of each input: one number for each input, or ``[prompt, input]``. Negative
        positions count from the end of the prompt. Kept as ``[prompt, input]``, from 0.
    read_position
        Position at which the model answers, and internals are read: a number, or one for each prompt; the
        last token if not said. Kept as ``[prompt]``, from 0.
    n_values
        How many values an input can have, at least 2.
    cyclic
        Whether the value after the last is the first: hours of a day, numbers modulo ``n_values``.
    answers
        Integers ``[prompt]``: the right answers, as indices into ``answer_tokens``.
    answer_tokens
        Token id of each possible answer, in order.
    train
        Booleans ``[prompt]``: which prompts the model was trained on; ``None`` where that means nothing.

    Raises
    ------
    ParameterError
        If the parts do not fit each other: which, and what they must be.

    Examples
    --------
    Which number comes next, over four numbers, read where the number stands:

    >>> Task(
    ...     name="next number",
    ...     tokens=[[0], [1], [2], [3]],
    ...     values=[[0], [1], [2], [3]],
    ...     inputs=("number",),
    ...     input_positions=(0,),
    ...     n_values=4,
    ...     cyclic=True,
    ...     answers=[1, 2, 3, 0],
    ...     answer_tokens=[0, 1, 2, 3],
    ... ).prompts()[1].id
    'number=1'
    """

    name: str
    tokens: Sequence[Sequence[int]]
    values: Integers
    inputs: tuple[str, ...]
    input_positions: Integers
    read_position: Integers = field(default_factory=lambda: np.array(-1))
    n_values: int
    cyclic: bool
    answers: Integers
    answer_tokens: Integers
    train: Booleans | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ParameterError(wrong_parameter("Task", "name", "a name", self.name))
        if not self.inputs or len(set(self.inputs)) < len(self.inputs):
            raise ParameterError(wrong_parameter("Task", "inputs", "one name for each input", self.inputs))
        if type(self.n_values) is not int or self.n_values < 2:
            raise ParameterError(
                wrong_parameter("Task", "n_values", "an integer of at least 2", self.n_values)
            )
        rows = tuple(tuple(_whole(row, "tokens", 1).tolist()) for row in self.tokens)
        if not rows or not all(rows):
            raise ParameterError("The task has a prompt without tokens, or no prompt at all.")
        if min(map(min, rows)) < 0:
            raise ParameterError("The 'tokens' of a task are token ids, from 0 up; one of them is negative.")
        n, lengths = len(rows), np.array([len(row) for row in rows])
        values = self._shaped("values", self.values, (n, len(self.inputs)))
        self._within("values", values, self.n_values)
        answer_tokens = _whole(self.answer_tokens, "answer_tokens", 1)
        if answer_tokens.size < 2 or len(set(answer_tokens.tolist())) < answer_tokens.size:
            raise ParameterError("The 'answer_tokens' of a task are at least two token ids, no two the same.")
        if answer_tokens.min() < 0:
            raise ParameterError("The 'answer_tokens' of a task are token ids, from 0 up; one is negative.")
        answers = self._shaped("answers", self.answers, (n,))
        self._within("answers", answers, len(answer_tokens))
        places = _from_start("input_positions", self.input_positions, values.shape, lengths)
        read = _from_start("read_position", self.read_position, (n,), lengths)
        train = None if self.train is None else np.asarray(self.train)
        if train is not None and (train.dtype != np.bool_ or train.shape != (n,)):
            raise ParameterError(f"The 'train' mask of this task must be None, or {n} booleans.")
        fixed: dict[str, Any] = {
            "tokens": rows, "inputs": tuple(self.inputs), "values": values, "answers": answers,
            "answer_tokens": answer_tokens, "input_positions": places, "read_position": read, "train": train,
        }  # fmt: skip
        for name, value in fixed.items():
            if isinstance(value, np.ndarray):
                value = value.copy()
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.tokens)

    def prompts(self) -> list[Prompt]:
        """Return the prompts, each with the values of its inputs as its id: ``a=3 b=5``.

        Where several prompts have the same values, the id ends in their number: ``a=3 b=5 #1``.
        """
        ids: dict[str, int] = {}
        prompts = []
        for row, values in zip(self.tokens, self.values.tolist(), strict=True):
            words = " ".join(f"{name}={value}" for name, value in zip(self.inputs, values, strict=True))
            seen = ids[words] = ids.get(words, -1) + 1
            prompts.append(Prompt(None, id=f"{words} #{seen}" if seen else words, tokens=tuple(row)))
        return prompts

    def take(self, prompts: Sequence[int] | Integers) -> Task:
        """Return the task with only some of its prompts, in the order of their indices here."""
        chosen = np.asarray(prompts, dtype=np.int64)
        return Task(
            name=self.name,
            tokens=[self.tokens[index] for index in chosen],
            values=self.values[chosen],
            inputs=self.inputs,
            input_positions=self.input_positions[chosen],
            read_position=self.read_position[chosen],
            n_values=self.n_values,
            cyclic=self.cyclic,
            answers=self.answers[chosen],
            answer_tokens=self.answer_tokens,
            train=None if self.train is None else self.train[chosen],
        )

    def complete(self, prompts: Sequence[int] | Integers | None = None) -> bool:
        """Return whether every combination of values occurs exactly once, among some prompts or all."""
        values = self.values if prompts is None else self.values[np.asarray(prompts, dtype=np.int64)]
        n_cells = math.prod([self.n_values] * len(self.inputs))
        return len(values) == n_cells == len(np.unique(values, axis=0))

    @staticmethod
    def _shaped(name: str, values: Any, shape: tuple[int, ...]) -> Integers:
        array = _whole(values, name, len(shape))
        if array.shape != shape:
            raise ParameterError(f"The {name!r} of this task need the shape {shape}; got {array.shape}.")
        return array

    @staticmethod
    def _within(name: str, values: Integers, n: int) -> None:
        if values.min() < 0 or values.max() >= n:
            raise ParameterError(
                f"The {name!r} of this task count from 0 to {n - 1}; got {values.min()} to {values.max()}."
            )


def _whole(values: Any, name: str, ndim: int) -> Integers:
    """Return integers as an array of so many dimensions."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty((), dtype=object)  # rows of unequal length
    if array.ndim != ndim or (array.size and array.dtype.kind not in "iu"):
        of = ("an integer", "a list of integers", "a table of integers")[ndim]
        raise ParameterError(f"The {name!r} of a task must be {of}.")
    return array.astype(np.int64)


def _from_start(name: str, positions: Any, shape: tuple[int, ...], lengths: Integers) -> Integers:
    """Return positions of every prompt, counted from its first token."""
    given = np.asarray(positions)
    try:
        if given.size and given.dtype.kind not in "iu":
            raise ValueError
        array = np.broadcast_to(given, shape).astype(np.int64)
    except ValueError:
        what = "one integer for each input" if len(shape) == 2 else "an integer"
        raise ParameterError(f"The {name!r} of this task must be {what}, or of shape {shape}.") from None
    size = lengths.reshape(-1, *[1] * (len(shape) - 1))
    array = np.where(array < 0, array + size, array)
    if (array < 0).any() or (array >= size).any():
        raise ParameterError(f"The {name!r} of this task lie outside a prompt in places.")
    return array
