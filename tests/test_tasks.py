"""Tasks: what is accepted, what is refused and with which sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens.errors import ParameterError
from resonance_lens.prompts import read_prompts
from resonance_lens.tasks import Task


def sums(**changed: Any) -> Task:
    """Return addition of two numbers below three, ``a b =``, some prompts with a token in front."""
    a, b = np.divmod(np.arange(9), 3)
    about: dict[str, Any] = {
        "name": "sums",
        "tokens": [[9] * (i % 2) + [x, y, 5] for i, (x, y) in enumerate(zip(a, b, strict=True))],
        "values": np.stack([a, b], axis=1),
        "inputs": ("a", "b"),
        "input_positions": (-3, -2),
        "n_values": 3,
        "cyclic": False,
        "answers": a + b,
        "answer_tokens": range(5),
        "train": a > 0,
    }
    return Task(**{**about, **changed})


def test_positions_are_counted_from_the_first_token() -> None:
    task = sums()
    shift = np.arange(9) % 2
    np.testing.assert_array_equal(task.input_positions, np.stack([shift, shift + 1], axis=1))
    np.testing.assert_array_equal(task.read_position, shift + 2)
    for row, places, read, values in zip(
        task.tokens, task.input_positions, task.read_position, task.values, strict=True
    ):
        assert [row[place] for place in places] == values.tolist()
        assert row[read] == 5
    fixed = sums(input_positions=task.input_positions.tolist(), read_position=task.read_position)
    np.testing.assert_array_equal(fixed.input_positions, task.input_positions)
    np.testing.assert_array_equal(fixed.read_position, task.read_position)


def test_one_input_is_enough() -> None:
    task = Task(
        name="next", tokens=[[k] for k in range(4)], values=np.arange(4)[:, None], inputs=("k",),
        input_positions=np.array([0]), n_values=4, cyclic=True, answers=(np.arange(4) + 1) % 4,
        answer_tokens=np.array([10, 11, 12, 13]),
    )  # fmt: skip
    assert task.train is None and task.complete() and len(task) == 4
    assert [prompt.id for prompt in task.prompts()] == ["k=0", "k=1", "k=2", "k=3"]


def test_prompts_are_those_of_the_library_and_have_names_of_their_own() -> None:
    task = sums()
    prompts = task.prompts()
    assert read_prompts(prompts) == prompts
    assert prompts[5].id == "a=1 b=2" and prompts[5].tokens == (9, 1, 2, 5)
    twice = task.take([4, 4, 4]).prompts()
    assert [prompt.id for prompt in twice] == ["a=1 b=1", "a=1 b=1 #1", "a=1 b=1 #2"]


def test_complete_is_every_combination_once() -> None:
    task = sums()
    assert task.complete() and task.complete(range(9)) and task.complete([8, 0, 1, 2, 3, 7, 6, 5, 4])
    assert not task.complete(range(8))
    assert not task.complete([0, 0, 1, 2, 3, 4, 5, 6, 7])
    assert not task.complete([*range(9), 0])


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_a_part_holds_what_belongs_to_its_prompts(chosen: list[int]) -> None:
    task = sums()
    part = task.take(chosen)
    assert part.train is not None and task.train is not None
    for row, index in enumerate(chosen):
        assert part.tokens[row] == task.tokens[index]
        for name in ("values", "answers", "train", "input_positions", "read_position"):
            np.testing.assert_array_equal(getattr(part, name)[row], getattr(task, name)[index])


def test_a_task_does_not_change() -> None:
    values = np.stack(np.divmod(np.arange(9), 3), axis=1)
    task = sums(values=values)
    values[:] = 0
    assert task.values.max() == 2
    with pytest.raises(ValueError, match="read-only"):
        task.values[0, 0] = 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": " "}, "'name' parameter of Task must be a name"),
        ({"inputs": ("a", "a")}, "one name for each input"),
        ({"inputs": ()}, "one name for each input"),
        ({"n_values": 1}, "'n_values' parameter of Task must be an integer of at least 2"),
        ({"tokens": []}, "no prompt at all"),
        ({"tokens": [[1, 2, 5]] * 8 + [[]]}, "a prompt without tokens"),
        ({"tokens": [[1, 2, -5]] * 9}, "one of them is negative"),
        ({"tokens": [[1, 2, 0.5]] * 9}, "The 'tokens' of a task must be a list of integers"),
        ({"tokens": [[[1], 2, 5]] * 9}, "The 'tokens' of a task must be a list of integers"),
        ({"values": np.zeros((9, 3), int)}, r"'values' of this task need the shape \(9, 2\); got \(9, 3\)"),
        ({"values": np.full((9, 2), 3)}, "'values' of this task count from 0 to 2; got 3 to 3"),
        ({"values": np.zeros((9, 2))}, "The 'values' of a task must be a table of integers"),
        ({"answers": np.arange(9)}, "'answers' of this task count from 0 to 4; got 0 to 8"),
        ({"answers": [0, 1]}, r"'answers' of this task need the shape \(9,\); got \(2,\)"),
        ({"answer_tokens": [0, 1, 2, 3, 3]}, "no two the same"),
        ({"answer_tokens": [0]}, "at least two token ids"),
        ({"answer_tokens": [-1, 0, 1, 2, 3]}, "one is negative"),
        ({"input_positions": (0, 1, 2)}, "one integer for each input, or of shape"),
        ({"input_positions": (0, 7)}, "The 'input_positions' of this task lie outside a prompt"),
        ({"input_positions": (-4, 0)}, "The 'input_positions' of this task lie outside a prompt"),
        ({"read_position": 0.5}, "The 'read_position' of this task must be an integer"),
        ({"read_position": 3}, "The 'read_position' of this task lie outside a prompt"),
        ({"train": np.arange(9)}, "must be None, or 9 booleans"),
        ({"train": np.ones(8, dtype=bool)}, "must be None, or 9 booleans"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        sums(**changed)
