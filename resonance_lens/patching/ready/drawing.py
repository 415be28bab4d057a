"""What a ready task gives: candidates for pairs, one at a time, as texts or as token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from resonance_lens.errors import ParameterError, PromptError, wrong_parameter

if TYPE_CHECKING:
    from resonance_lens.patching.ready.texts import Encoder

Item = TypeVar("Item")


@dataclass(frozen=True)
class Texts:
    """A candidate as texts: two prompts, and the text that continues each as it should.

    Attributes
    ----------
    clean, corrupted
        The prompts.
    right, wrong
        Their answers, with the space in front where one belongs there.
    """

    clean: str
    corrupted: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Tokens:
    """A candidate as token ids.

    Attributes
    ----------
    clean, corrupted
        The prompts, equally long.
    right, wrong
        Their answers.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    right: int
    wrong: int


Draw: TypeAlias = Callable[[np.random.Generator], Texts | Tokens]


@dataclass(frozen=True)
class Drawing:
    """Where the candidates of a task come from, for one model.

    Attributes
    ----------
    draw
        Returns one candidate; it may return the same one twice.
    notes
        What of the task is usable with this model, one sentence each.
    """

    draw: Draw
    notes: tuple[str, ...] = ()


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """Return one of some items, each as likely as any other."""
    return items[int(rng.integers(len(items)))]


def two(rng: np.random.Generator, items: Sequence[Item]) -> tuple[Item, Item]:
    """Return two different items, in random order."""
    first, second = rng.choice(len(items), size=2, replace=False).tolist()
    return items[first], items[second]


def usable(
    items: Mapping[Item, Sequence[str]], what: str, task: str, encoder: Encoder, least: int
) -> tuple[list[Item], str]:
    """Return the items whose words are all single tokens after a space, and the sentence that says how many.

    Parameters
    ----------
    items
        All that the task knows, each with the words that it is written in.
    what
        What they are, in the plural.
    task
        What the task is called.
    encoder
        Of the model.
    least
        How many the task needs.

    Raises
    ------
    PromptError
        If there are fewer.
    """
    found = [item for item, words in items.items() if all(encoder.single(word) for word in words)]
    if len(found) < least:
        raise PromptError(
            f"The task {task!r} needs {least} {what} that are single tokens, and of its {len(items)} the "
            f"tokenizer of {encoder.name} has {len(found)}; use another task, or pairs of your own "
            "(PromptPairs.from_texts)."
        )
    return found, f"{len(found)} of {len(items)} {what} are single tokens of this tokenizer, and used."


def require_option(task: str, name: str, right: bool, requirement: str, got: object) -> None:
    """Raise `ParameterError` unless an option of a task is right."""
    if not right:
        raise ParameterError(wrong_parameter(f"the task {task!r}", name, requirement, got))
