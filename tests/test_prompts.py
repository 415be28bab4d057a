"""What can be read as prompts, what is refused and in which words, and what the package ships."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.prompts import (
    Document,
    Prompt,
    corpus,
    demo_prompts,
    prompts_digest,
    read_prompts,
)

DATA = Path(__file__).resolve().parents[1] / "resonance_lens" / "data"
CATEGORIES = ("factual", "narrative", "technical", "philosophical")
PERMISSIVE = {
    "Apache-2.0",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "PSF-2.0",
    "PostgreSQL",
    "Public domain",
    "Unlicense",
}
TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() != "")


def words(text: str) -> int:
    return len(text.split())


def pieces(text: str) -> int:
    """Count words and signs: near to what a tokenizer makes of prose, and below it for code."""
    return len(re.findall(r"\w+|[^\w\s]", text))


# What is shipped: the prompts


def test_demo_has_24_prompts_in_each_category() -> None:
    prompts = demo_prompts()
    assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, 24)
    assert [prompt.id for prompt in prompts] == [f"{c}-{i:02d}" for c in CATEGORIES for i in range(1, 25)]
    assert len({prompt.text for prompt in prompts}) == 96


def test_demo_categories_are_alike_in_length() -> None:
    lengths = {c: sorted(words(p.text or "") for p in demo_prompts() if p.category == c) for c in CATEGORIES}
    means = [mean(values) for values in lengths.values()]
    assert max(means) - min(means) < 2.0  # of about 42 words
    for ranks in zip(*lengths.values(), strict=True):  # the shortest of each, the second shortest, ...
        assert max(ranks) - min(ranks) <= 8
    for values in lengths.values():
        assert values[0] <= 24 and values[-1] >= 58


def test_demo_texts_are_clean_and_stop_where_something_must_follow() -> None:
    for prompt in demo_prompts():
        assert prompt.text is not None and prompt.tokens is None
        assert prompt.text == " ".join(prompt.text.split())
        assert prompt.text.isascii()
        assert prompt.text[-1].isalpha(), prompt.id


@pytest.mark.parametrize("per_category", [1, 2, 7, 12, 23, 24])
def test_smaller_demo_is_balanced_and_still_matched(per_category: int) -> None:
    prompts = demo_prompts(per_category)
    assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, per_category)
    assert [p for p in demo_prompts() if p in prompts] == prompts
    by_category = [mean(words(p.text or "") for p in prompts if p.category == c) for c in CATEGORIES]
    assert max(by_category) - min(by_category) <= 8
    if per_category > 1:
        assert prompts[0] == demo_prompts()[0] and prompts[-1] == demo_prompts()[-1]


@pytest.mark.parametrize("per_category", [0, 25, -1, 2.5, "all"])
def test_demo_refuses_other_numbers(per_category: Any) -> None:
    with pytest.raises(ParameterError, match=r"'per_category' .* integer from 1 to 24; got"):
        demo_prompts(per_category)


def test_demo_by_name_is_the_shipped_file() -> None:
    assert read_prompts("demo") == demo_prompts() == read_prompts(DATA / "prompts.jsonl")
    assert read_prompts(["demo"]) == [Prompt("demo", id="prompt-000")]


def test_what_is_returned_is_the_callers_own() -> None:
    demo_prompts().clear()
    corpus().clear()
    assert len(demo_prompts()) == 96 and corpus()


# What is shipped: the corpus


def test_corpus_is_small_reproducible_gzip() -> None:
    packed = (DATA / "corpus.jsonl.gz").read_bytes()
    assert len(packed) < 2_000_000
    assert packed[4:8] == bytes(4)  # no time of writing
    assert packed[3] & 0x08 == 0  # no file name


def test_corpus_documents_are_long_unique_and_licensed() -> None:
    documents = corpus()
    assert len({document.id for document in documents}) == len(documents)
    assert len({document.text for document in documents}) == len(documents)
    for document in documents:
        assert document.licence in PERMISSIVE, document
        assert document.source.split()[0] in {"Debian", "PyPI", "npm"} and document.title
        assert 500 <= pieces(document.text) <= 3000, document.id
        assert "\r" not in document.text and document.text == document.text.strip()


def test_corpus_has_the_promised_size_and_balance() -> None:
    size = {"prose": 0, "code": 0}
    for document in corpus():
        size[document.kind] += pieces(document.text)
    total = size["prose"] + size["code"]
    assert 150_000 <= total <= 220_000
    assert 0.6 <= size["prose"] / total <= 0.72
    assert len({document.source for document in corpus()}) >= 20


def test_corpus_prose_is_not_wrapped_at_a_fixed_width() -> None:
    # Wrapped lines would put a period of a dozen tokens into every spectrum. Verse and listings stay.
    for document in corpus("prose"):
        blocks = [block.split("\n") for block in document.text.split("\n\n")]
        wrapped = [b for b in blocks if len(b) > 3 and 60 <= mean(len(line) for line in b[:-1]) <= 80]
        assert sum(len("".join(b)) for b in wrapped) < 0.2 * len(document.text), document.title


def test_no_passage_stands_in_two_documents() -> None:
    owner: dict[str, str] = {}
    for document in corpus():
        parts = document.text.split()
        for start in range(0, len(parts) - 40):
            passage = " ".join(parts[start : start + 40])
            assert owner.setdefault(passage, document.id) == document.id, passage


def test_corpus_kinds() -> None:
    assert [*corpus("prose"), *corpus("code")] == corpus()
    assert all(isinstance(d, Document) and d.kind == "code" for d in corpus("code"))
    with pytest.raises(ParameterError, match="'kind' .* must be 'prose', 'code' or None; got 'poem'"):
        corpus("poem")  # type: ignore[arg-type]


def test_every_source_is_listed_and_its_notice_travels() -> None:
    listed = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    for document in corpus():
        assert document.id in listed, document.id
        assert document.source in listed, document.source
    notices = set(re.findall(r"LICENSES/([\w.-]+\.txt)", listed))
    assert notices == {path.name for path in (DATA / "LICENSES").iterdir()}


def test_shipped_texts_name_no_place_on_a_machine() -> None:
    shipped = [gzip.decompress((DATA / "corpus.jsonl.gz").read_bytes()).decode()]
    paths = [DATA / "prompts.jsonl", DATA / "SOURCES.md", *(DATA / "LICENSES").iterdir()]
    shipped += [path.read_text(encoding="utf-8") for path in paths]
    for text in shipped:
        assert not re.search(r"/(home|root|tmp/\w+|work)/|Project Gutenberg", text)


# What can be read


def test_a_string_is_one_prompt() -> None:
    assert read_prompts("Once upon a time") == [Prompt("Once upon a time", None, "prompt-000", None)]


def test_a_list_of_strings() -> None:
    assert read_prompts(["b", "a"]) == [Prompt("b", id="prompt-000"), Prompt("a", id="prompt-001")]
    assert read_prompts(np.array(["b", "a"])) == read_prompts(("b", "a")) == read_prompts(["b", "a"])


def test_a_mapping_gives_categories() -> None:
    prompts = read_prompts({"x": ["one", "two"], "y": ["three"]})
    assert [(p.text, p.category, p.id) for p in prompts] == [
        ("one", "x", "prompt-000"),
        ("two", "x", "prompt-001"),
        ("three", "y", "prompt-002"),
    ]
    assert read_prompts({"x": [[1, 2]]})[0] == Prompt(None, "x", "prompt-000", (1, 2))


@pytest.mark.parametrize("as_path", [True, False])
def test_a_jsonl_file(tmp_path: Path, as_path: bool) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '\ufeff{"text": "one\\u2028line", "category": "x", "id": "a", "note": "ignored"}\n\n'
        '{"tokens": [1, 0], "category": "y"}\n',
        encoding="utf-8",
    )
    expected = [Prompt("one\u2028line", "x", "a"), Prompt(None, "y", "prompt-001", (1, 0))]
    assert read_prompts(path if as_path else str(path)) == expected


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "my prompts.txt"
    path.write_bytes("  first \r\n\r\nsecond\u2028half\n".encode())
    assert [p.text for p in read_prompts(str(path))] == ["first", "second\u2028half"]


def test_a_text_that_only_looks_like_a_file_is_a_prompt() -> None:
    assert read_prompts("Please open notes.txt")[0].text == "Please open notes.txt"
    long = "word " * 2000 + "notes.txt"
    assert read_prompts(long)[0].text == long
    assert read_prompts("\0 a.txt")[0].text == "\0 a.txt"


@pytest.mark.parametrize(
    "tokens",
    [
        [[1, 2], [3, 4]],
        ((1, 2), (3, 4)),
        torch.tensor([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], dtype=np.uint16),
        [torch.tensor([1, 2]), torch.tensor([3, 4])],
        [np.array([1, 2]), [np.int64(3), torch.tensor(4)]],
    ],
)
def test_token_ids_of_every_kind(tokens: Any) -> None:
    prompts = read_prompts(tokens)
    assert [prompt.tokens for prompt in prompts] == [(1, 2), (3, 4)]
    assert all(type(token) is int for prompt in prompts for token in prompt.tokens or ())
    assert all(prompt.text is None for prompt in prompts)


def test_one_row_of_token_ids_is_one_prompt() -> None:
    for row in ([5, 6], torch.tensor([5, 6]), np.array([5, 6]), [np.int32(5), torch.tensor(6)]):
        assert [prompt.tokens for prompt in read_prompts(row)] == [(5, 6)]  # type: ignore[arg-type]
    rows = [torch.tensor([5]), torch.tensor([6])]
    assert [prompt.tokens for prompt in read_prompts(rows)] == [(5,), (6,)]


def test_prompts_come_back_as_they_are() -> None:
    assert read_prompts(demo_prompts()) == demo_prompts()
    assert read_prompts(Prompt("one", id="a")) == [Prompt("one", id="a")]
    assert read_prompts([Prompt("one"), Prompt("two", id="a")])[0].id == "prompt-000"


@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_texts_and_their_order_survive(texts: list[str]) -> None:
    prompts = read_prompts(texts)
    assert [prompt.text for prompt in prompts] == texts
    assert len({prompt.id for prompt in prompts}) == len(texts)
    assert read_prompts(prompts) == prompts


@given(st.lists(st.lists(st.integers(0, 49151), min_size=1), min_size=1, max_size=8))
def test_tokens_and_their_order_survive(rows: list[list[int]]) -> None:
    assert [[*(prompt.tokens or ())] for prompt in read_prompts(rows)] == rows


@given(st.dictionaries(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_set_survives_a_file(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, list[str]]) -> None:
    prompts = read_prompts(sets)
    path = tmp_path_factory.mktemp("set") / "set.jsonl"
    lines = [json.dumps({"text": p.text, "category": p.category, "id": p.id}) for p in prompts]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_prompts(path) == prompts
    assert prompts_digest(read_prompts(path)) == prompts_digest(prompts)


# What is refused, and in which words


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "The prompt is empty; give it some text or leave it out."),
        (["a", " \n"], "Prompt 1 is empty; give it some text or leave it out."),
        ([], "There are no prompts: the list is empty; give at least one."),
        ({}, "There are no prompts: the list is empty; give at least one."),
        (np.zeros((0, 4), dtype=int), "There are no prompts: the list is empty; give at least one."),
        ([[1], []], "Prompt 1 is empty; give it at least one token or leave it out."),
        ({"x": []}, "Category 'x' is empty; give it a prompt or leave it out."),
        ({"x": ["a", ""]}, "Prompt 1 of category 'x' is empty; give it some text or leave it out."),
        ({"x": "a"}, "Category 'x' must hold a list of prompts; got str."),
        (
            {3: ["a"]},
            "The keys of a mapping of prompts must be category names, strings that are not empty; "
            "got 3 (int).",
        ),
        (
            {"x": [Prompt("a", "y")]},
            "Prompt 0 of category 'x' says that its category is 'y'; the two must agree.",
        ),
        (
            [Prompt("a", "x"), Prompt("b")],
            "Category missing: prompt 1 ('prompt-001') has none, but other prompts have one; "
            "give every prompt a category, or none.",
        ),
        (
            [Prompt("a", id="p"), Prompt("b", id="p")],
            "Prompts 0 and 1 have the same id 'p'; ids must be unique.",
        ),
        (
            [Prompt("a", id="prompt-001"), Prompt("b")],
            "Prompts 0 and 1 have the same id 'prompt-001'; ids must be unique.",
        ),
        ([Prompt(None)], "Prompt 0 has neither 'text' nor 'tokens'; give one of them."),
        (
            [Prompt("a", tokens=(1,))],
            "Prompt 0 has both 'text' and 'tokens'; give only one of them.",
        ),
        ([Prompt("a", "")], "The category of prompt 0 must be a string, not empty; got ''."),
        ([[1, 2.5]], "The tokens of prompt 0 must be integers; got 2.5 at position 1."),
        ([[1, True]], "The tokens of prompt 0 must be integers; got True at position 1."),
        ([1, 2.5], "The tokens of the prompt must be integers; got 2.5 at position 1."),
        (torch.ones(1, 2), "The tokens of prompt 0 must be integers; got 1.0 at position 0."),
        ([[[1, 2]]], "The tokens of prompt 0 must be integers; got [1, 2] at position 0."),
        ([[1], [2, -100]], "The tokens of prompt 1 must not be negative; got -100 at position 1."),
        (["a", None], "Prompt 1 must be a string, a Prompt or a list of token ids; got NoneType."),
        (
            7,
            "Prompts must be a string, a list, a mapping from category to list, a path or token ids; "
            "got int.",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(source: Any, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        read_prompts(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nope", "Line 2 of {} is not JSON: Expecting property name enclosed in double quotes."),
        ('["a"]', "Line 2 of {} must be a JSON object with 'text' or 'tokens'; got list."),
        ('{"texts": "a"}', "Line 2 of {} has neither 'text' nor 'tokens'; give one of them."),
        ('{"text": 3}', "The text of line 2 of {} must be a string; got int."),
        ('{"text": " "}', "Line 2 of {} is empty; give it some text or leave it out."),
        ('{"text": "a", "id": 3}', "The id of line 2 of {} must be a string; got 3."),
        ('{"text": "a", "category": 3}', "The category of line 2 of {} must be a string, not empty; got 3."),
        ('{"tokens": "12"}', "The tokens of line 2 of {} must be a list of integers; got str."),
        ('{"tokens": [1.0]}', "The tokens of line 2 of {} must be integers; got 1.0 at position 0."),
        ('{"text": "b", "id": "a"}', "Prompts 0 and 1 have the same id 'a'; ids must be unique."),
        (
            '{"text": "b", "category": "x"}',
            "Category missing: prompt 0 ('a') has none, but other prompts have one; "
            "give every prompt a category, or none.",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine", "id": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    assert str(caught.value) == message.replace("{}", repr(str(path)))


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "folder.txt").mkdir()
    for name, reason in [
        ("absent.jsonl", ": No such file or directory."),
        ("folder.txt", ": Is a directory."),
        ("latin.txt", ": not UTF-8 text."),
        ("empty.jsonl", ": the file holds no prompt."),
        ("data.csv", ": its name must end in .jsonl (one object a line) or .txt (one prompt a line)."),
    ]:
        path = tmp_path / name
        with pytest.raises(PromptError) as caught:
            read_prompts(path)
        assert str(caught.value) == f"Cannot read prompts from {str(path)!r}{reason}"
    with pytest.raises(PromptError, match=r"Cannot read prompts from 'absent.txt': No such file"):
        read_prompts("absent.txt")


# The digest


def test_digest_is_fixed_and_sees_every_field() -> None:
    base = Prompt("a", "x", "p")
    assert prompts_digest([base]) == "79473c2dcc7513d24f0d402b636c2296a8fe7e096bc55ba4b62f7d038a7e2f83"
    others = [
        [Prompt("b", "x", "p")],
        [Prompt("a", "y", "p")],
        [Prompt("a", None, "p")],
        [Prompt("a", "x", "q")],
        [Prompt(None, "x", "p", (1, 2))],
        [Prompt(None, "x", "p", (12,))],
        [base, Prompt("b", "x", "q")],
        [Prompt("b", "x", "q"), base],
        [],
    ]
    assert len({prompts_digest(prompts) for prompts in [[base], *others]}) == len(others) + 1
    assert prompts_digest([Prompt("\ud800")])  # half a character is no reason to stop


def test_import_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, resonance_lens.prompts as p; p.read_prompts(['a']); p.demo_prompts(); p.corpus(); "
        "sys.exit(bool({'torch', 'numpy', 'transformer_lens'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=DATA.parents[1]).returncode == 0


def test_no_category_is_called_all() -> None:
    with pytest.raises(PromptError, match="No category can be called 'all'"):
        read_prompts({"all": ["One.", "Two."]})
