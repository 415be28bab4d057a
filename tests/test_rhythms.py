"""Prompts that are periodic by themselves: exact in tokens, of single words, or refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import resonance_lens as rl
from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.rhythms import KINDS, NUMBERS, periodic_prompts

SPLIT = {"apple": 2, "eleven": 3, "dark": 2}


class Tokenizer:
    """Words with the space before them, marks and line ends are tokens; some words are several."""

    def __init__(self, pattern: str = r" ?\w+|[^\w\s]|\n") -> None:
        self.pattern = pattern
        self.known: dict[str, int] = {}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        pieces = ["<bos>"] if add_special_tokens else []
        for piece in re.findall(self.pattern, text):
            pieces += [f"{piece}/{part}" for part in range(SPLIT.get(piece.strip(), 1))]
        return {"input_ids": [self.known.setdefault(piece, len(self.known)) for piece in pieces]}


@pytest.mark.parametrize(
    ("kind", "period", "free"),
    [("alternation", 2, 0), ("list", 3, 1), ("counting", 3, 1), ("verse", 8, 4), ("refrain", 14, 2)],
)
def test_the_period_is_exact(kind: str, period: int, free: int) -> None:
    tokenizer = Tokenizer()
    made = periodic_prompts(tokenizer, kind, count=5, tokens=50)
    assert (made.kind, made.period, len(made.prompts)) == (kind, period, 5)
    for prompt in made.prompts:
        ids = tokenizer(str(prompt.text), add_special_tokens=False)["input_ids"]
        assert len(ids) >= 50 and len(ids) % period == 0 and len(ids) - period < 50
        rows = np.array(ids).reshape(-1, period)
        assert ((rows == rows[0]).all(0)).sum() == period - free
        assert "apple" not in str(prompt.text) and "eleven" not in str(prompt.text)
    assert len({prompt.text for prompt in made.prompts}) == len({prompt.id for prompt in made.prompts}) == 5


def test_every_kind_is_tried() -> None:
    assert set(KINDS) == {"alternation", "list", "counting", "verse", "refrain"}


def test_what_is_left_out_is_said() -> None:
    assert periodic_prompts(Tokenizer(), "list").left_out == ("apple",)
    # Counting goes as far as numbers are single tokens.
    assert periodic_prompts(Tokenizer(), "counting").left_out == ("apple", *NUMBERS[10:])
    assert periodic_prompts(Tokenizer(), "verse").left_out == ("apple", "dark")


def test_words_are_drawn_by_the_seed() -> None:
    one, again = (periodic_prompts(Tokenizer(), "verse", seed=3) for _ in range(2))
    assert one == again != periodic_prompts(Tokenizer(), "verse", seed=4)


def test_they_can_be_run_as_they_are() -> None:
    made = rl.periodic_prompts(Tokenizer(), "list", count=2)
    assert [prompt.id for prompt in rl.read_prompts(list(made.prompts))] == ["list-000", "list-001"]


class Unknown(Tokenizer):
    """Knows one word only."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0 for _ in text.split()]}


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(r" ?\w"),  # every letter is a token
        Tokenizer(r"(?: ?\w+){1,2}|[^\w\s]|\n"),  # two words are
        Unknown(),
    ],
)
@pytest.mark.parametrize("kind", ["alternation", "verse"])
def test_other_tokenizers_are_refused(tokenizer: Any, kind: str) -> None:
    with pytest.raises(PromptError, match=f"no prompts of the kind '{kind}' have an exact period"):
        periodic_prompts(tokenizer, kind)


def test_lines_that_run_together_are_refused() -> None:
    """A token of a line end and the dash behind it: the first line has one more than the others."""
    with pytest.raises(PromptError, match="exact period"):
        periodic_prompts(Tokenizer(r"\n- \w+| ?\w+|[^\w\s]|\n"), "list")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(
        ParameterError, match="There is no kind of periodic prompt 'vers'.*Did you mean 'verse'"
    ):
        periodic_prompts(Tokenizer(), "vers")
    with pytest.raises(ParameterError, match="'count'"):
        periodic_prompts(Tokenizer(), "verse", count=0)
    with pytest.raises(PromptError, match="no tokenizer"):
        periodic_prompts(object(), "verse")
