"""Pairs of prompts: what is accepted, what is refused and with which sentence; texts and files of pairs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens import PromptPairs
from resonance_lens.errors import PromptError
from resonance_lens.prompts import read_prompts
from tests.models import build, tokenizer
from tests.reference_transformer import GPT2


def pairs(**changed: Any) -> PromptPairs:
    about: dict[str, Any] = {
        "name": "copy",
        "clean": [[0, 1, 2, 1], [0, 4, 5, 6, 4]],
        "corrupted": [[0, 1, 3, 1], [0, 4, 7, 6, 4]],
        "right": np.array([2, 5]),
        "wrong": np.array([3, 7]),
    }
    return PromptPairs(**{**about, **changed})


@cache
def model() -> Any:
    return build(GPT2, text=True)


# ------------------------------------------------------------------------------------------ the class


def test_pairs_are_as_given_and_read_at_their_last_token() -> None:
    found = pairs()
    assert len(found) == 2
    assert found.clean == ((0, 1, 2, 1), (0, 4, 5, 6, 4))
    assert found.corrupted[1] == (0, 4, 7, 6, 4)
    assert found.ids == ("copy-000", "copy-001")
    assert found.read.tolist() == [3, 4]
    assert pairs(read=np.array([0, -2])).read.tolist() == [0, 3]
    assert (found.accuracy, found.tried, found.notes) == (None, None, ())
    with pytest.raises(ValueError, match="read-only"):
        found.right[0] = 9


def test_prompts_are_those_of_the_library() -> None:
    clean, corrupted = pairs().prompts(), pairs().prompts("corrupted")
    assert read_prompts(clean) == clean
    assert [p.id for p in clean] == [p.id for p in corrupted] == ["copy-000", "copy-001"]
    assert [p.tokens for p in corrupted] == [(0, 1, 3, 1), (0, 4, 7, 6, 4)]
    with pytest.raises(PromptError, match="'side' parameter of prompts must be 'clean' or 'corrupted'"):
        pairs().prompts("both")  # type: ignore[arg-type]


@given(st.permutations(range(6)), st.integers(1, 6))
def test_taking_is_indexing(order: list[int], n: int) -> None:
    rows = [[1, *range(i + 1)] for i in range(6)]
    whole = pairs(
        clean=rows, corrupted=rows, right=np.arange(6), wrong=np.arange(6) + 1, accuracy=0.5, tried=12
    )
    some = whole.take(order[:n])
    for name in ("clean", "corrupted", "ids"):
        assert getattr(some, name) == tuple(getattr(whole, name)[i] for i in order[:n])
    for name in ("read", "right", "wrong"):
        assert getattr(some, name).tolist() == [getattr(whole, name)[i] for i in order[:n]]
    assert (some.accuracy, some.tried) == (0.5, 12)
    assert (some.digest() == whole.digest()) is (order[:n] == list(range(6)))


@pytest.mark.parametrize(
    "changed",
    [
        {"clean": [[0, 1, 2, 2], [0, 4, 5, 6, 4]]},
        {"corrupted": [[0, 1, 3, 1], [0, 4, 7, 6, 5]]},
        {"read": np.array(-2)},
        {"right": np.array([2, 6])},
        {"wrong": np.array([3, 6])},
        {"ids": ("copy-000", "other")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_is_measured_is_in_the_digest(changed: dict[str, Any]) -> None:
    assert pairs().digest() == pairs(accuracy=0.25, notes=("a note",)).digest()
    assert len(pairs().digest()) == 64
    assert pairs(**changed).digest() != pairs().digest()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"clean": [[0, 1, 2, 1], [4]]},
            "clean prompt of pair 'copy-001' has 1 tokens and the corrupted one 5",
        ),
        ({"clean": [], "corrupted": []}, "There are no pairs"),
        ({"clean": [[0, 1, 2, 1]]}, "1 clean prompts and 2 corrupted prompts"),
        ({"clean": [[0, 1, 2, 1], []]}, "clean prompt of pair 1 must be a list of token ids"),
        ({"corrupted": [[0, 1, 2, 1], [1.5]]}, "corrupted prompt of pair 1 must be a list of token ids"),
        ({"corrupted": [[0, 1, 2, 1], [-1]]}, "corrupted prompt of pair 1 must be a list of token ids"),
        ({"clean": [[[0], [1, 2]], [1]]}, "clean prompt of pair 0 must be a list of token ids"),
        ({"right": np.array([2, 7])}, "answer of pair 'copy-001' are the same token, 7"),
        ({"right": np.array([2.0, 5.0])}, "'right' of these pairs must be 2 integers"),
        ({"right": np.array(2)}, "'right' of these pairs must be 2 integers"),
        ({"wrong": np.array([2])}, "'wrong' of these pairs must be 2 integers"),
        ({"wrong": np.array([-1, 3])}, "answer of pair 'copy-000' is negative"),
        ({"read": np.array([0, 5])}, "'copy-001' is to be read at position 5, and its prompts have 5"),
        ({"read": np.array([-5, 0])}, "'copy-000' is to be read at position -5"),
        ({"ids": ("a", "a")}, "Pairs 0 and 1 have the same id 'a'"),
        ({"ids": ("a",)}, "2 clean prompts and 1 ids"),
        ({"ids": ("a", "")}, "id of pair 1 must be a string"),
        ({"name": " "}, "'name' parameter of PromptPairs"),
    ],
)
def test_what_is_no_pair_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence) as error:
        pairs(**changed)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ from texts


@pytest.mark.parametrize("host", ["model", "tokenizer"])
def test_texts_become_the_tokens_of_the_tokenizer(host: str) -> None:
    source = model() if host == "model" else tokenizer()
    texts = ["w1 w2 w3", "w7"], ["w1 w4 w3", "w8"]
    found = PromptPairs.from_texts(source, *texts, [" w9", 9], [" w10", " w11"], name="words", ids=["a", "b"])
    front = (1,) if host == "model" else ()  # a model is used to its beginning token, a tokenizer to nothing
    words = {f"w{i}": i + 2 for i in range(51)}
    for rows, side in zip((found.clean, found.corrupted), texts, strict=True):
        assert rows == tuple((*front, *(words[word] for word in text.split())) for text in side)
    assert (found.right.tolist(), found.wrong.tolist()) == ([11, 9], [12, 13])
    assert (found.name, found.ids) == ("words", ("a", "b"))
    bare = PromptPairs.from_texts(source, *texts, [3, 3], [4, 4], prepend_bos=host == "tokenizer")
    assert (bare.clean[0][0] == 1) is (host == "tokenizer")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"clean": ["w1 w2"]}, "clean prompt of pair 'pairs-000' has 3 tokens and the corrupted one 4"),
        ({"right": [" w9 w9"]}, r"right answer of pair 'pairs-000', ' w9 w9', does not continue .* \(2 more"),
        ({"right": ["w9"]}, r"onto the last word of a prompt, 'w3w9'; give it with its space, ' w9'"),
        (
            {"clean": ["w1 w2 "], "corrupted": ["w1 w3 "], "wrong": [""]},
            "wrong answer of pair 'pairs-000' must be",
        ),
        ({"wrong": [" w9"]}, "wrong answer of pair 'pairs-000' are the same token, 11"),
        ({"wrong": [53]}, "answer of pair 'pairs-000' is the token id 53, and gpt2 has ids up to 52"),
        ({"wrong": [" w10", " w10"]}, "1 clean prompts and 2 entries of 'wrong'"),
        ({"clean": "w1 w2 w3"}, "'clean' must be a list, one entry for each pair"),
        ({"clean": [" "]}, "clean prompt of pair 'pairs-000' must be a text or a list"),
        ({"ids": ["a", "b"]}, "1 pairs and 2 ids"),
    ],
)
def test_texts_that_are_no_pair_are_refused(changed: dict[str, Any], sentence: str) -> None:
    about: dict[str, Any] = {
        "clean": ["w1 w2 w3"], "corrupted": ["w1 w4 w3"], "right": [" w9"], "wrong": [" w10"],
    }  # fmt: skip
    with pytest.raises(PromptError, match=sentence) as error:
        PromptPairs.from_texts(model(), **{**about, **changed})
    assert "\n" not in str(error.value)


def test_a_model_without_tokenizer_and_a_missing_beginning_are_refused() -> None:
    texts: Any = (["w1"], ["w2"], [" w3"], [" w4"])
    with pytest.raises(PromptError, match="has no tokenizer to read texts with"):
        PromptPairs.from_texts(build(GPT2), *texts)
    endless = ["w1 " * 65], ["w2 " * 65]
    with pytest.raises(PromptError, match="context of .* holds 64"):
        PromptPairs.from_texts(model(), *endless, [3], [4])


# ------------------------------------------------------------------------------------------ from a file

GOOD = {"clean": "w1 w2", "corrupted": "w1 w3", "right": " w9", "wrong": " w10"}


def written(folder: Path, *lines: Any, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines))
    return path


def test_a_file_of_pairs_is_read(tmp_path: Path) -> None:
    tokens = {"clean": [5, 6], "corrupted": [5, 7], "right": 8, "wrong": 9, "id": "by tokens", "remark": "-"}
    found = PromptPairs.from_file(written(tmp_path, GOOD, "", tokens), model())
    assert found.name == "mine" and found.ids == ("mine-000", "by tokens")
    assert found.clean == ((1, 3, 4), (5, 6))
    assert found.right.tolist() == [11, 8]
    named = PromptPairs.from_file(str(tmp_path / "mine.jsonl"), model(), name="other")
    assert named.ids[0] == "other-000"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "There is no JSON in line 3 of .*mine.jsonl"),
        ([1], "There is no 'clean' in line 3"),
        ({"clean": "w1"}, "There is no 'corrupted' in line 3"),
        ({**GOOD, "corrupted": "w1"}, "clean prompt of line 3 of .* has 3 tokens and the corrupted one 2"),
        ({**GOOD, "right": "w9 w9"}, "onto the last word"),
        ({**GOOD, "right": " w9 w9"}, "right answer of line 3 of .* does not continue"),
        ({**GOOD, "right": -1}, "right answer of line 3 of .* must be a text or a token id"),
        ({**GOOD, "right": True}, "right answer of line 3 of .* must be a text or a token id"),
        ({**GOOD, "wrong": " w9"}, "wrong answer of line 3 of .* are the same token"),
        ({**GOOD, "clean": [1, "w2"]}, "clean prompt of line 3 of .* must be a text or a list"),
        ({**GOOD, "clean": [1, 2, 3]}, "prompts of line 3 of .* are token ids, so its answers must be too"),
        ({**GOOD, "id": 7}, "id in line 3 of .* must be a string"),
        ({**GOOD, "id": "mine-000"}, "id 'mine-000' in line 3 of .* is also that of line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: Any, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence) as error:
        PromptPairs.from_file(written(tmp_path, GOOD, "", line), model())
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="No such file"):
        PromptPairs.from_file(tmp_path / "none.jsonl", model())
    with pytest.raises(PromptError, match="its name must end in .jsonl"):
        PromptPairs.from_file(written(tmp_path, GOOD, name="mine.txt"), model())
    with pytest.raises(PromptError, match="holds no pair"):
        PromptPairs.from_file(written(tmp_path, "", " "), model())
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PromptError, match="not UTF-8"):
        PromptPairs.from_file(tmp_path / "latin.jsonl", model())
