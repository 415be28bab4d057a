"""Documents cut into windows, put on tokens and dealt to parts; every way of being wrong has a sentence."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.hooks import attach
from resonance_lens.probing.documents import Documents, make_documents, split
from resonance_lens.probing.offsets import by_decoding, tokens_of
from resonance_lens.prompts import corpus
from tests import models
from tests.reference_transformer import GPT2


@cache
def adapter() -> Any:
    return attach(models.build(GPT2, text=True))


def made(texts: Any, **kwargs: Any) -> Documents:
    return make_documents(texts, adapter().tokenizer, adapter().facts, **kwargs)


def words(n: int, first: int = 0) -> str:
    return " ".join(f"w{(first + i) % 50}" for i in range(n))


def many(n: int, length: int = 20) -> list[str]:
    return [words(length, 3 * i) + f" w{i % 50} w{i // 50}" for i in range(n)]


# ------------------------------------------------------------------------------------------ offsets


@cache
def byte_tokenizer() -> Any:
    """Return a tokenizer of bytes, in which one character may be several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "\u0120t", "he"])}
    inner = Tokenizer(models.BPE(vocabulary, [("\u0120", "t"), ("h", "e")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


@settings(max_examples=60)
@given(st.text(alphabet="the a.\n\u00e9\u20ac\U0001f600", min_size=1, max_size=30))
def test_offsets_found_by_decoding_are_those_of_the_fast_tokenizer(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids, wanted = tokens_of(tokenizer, text, "it")
    found = by_decoding(tokenizer, ids, text, "it")
    covered = {i for start, end in wanted for i in range(start, end)}
    assert covered == set(range(len(text)))
    for (start, end), (low, high) in zip(wanted, found, strict=True):
        assert low <= start and end <= high  # the same, or a run of pieces that share a character
        assert (low, high) == (start, end) or not text[low:high].isascii()


def test_tokens_that_do_not_decode_to_the_text_are_refused() -> None:
    tokenizer = byte_tokenizer()
    ids, _ = tokens_of(tokenizer, "the a", "it")
    with pytest.raises(PromptError, match=r"The tokens of it do not decode to its text from character 4 on"):
        by_decoding(tokenizer, ids, "the b", "it")


# ------------------------------------------------------------------------------------------ windows


@settings(max_examples=15)
@given(st.lists(st.integers(2, 90), min_size=1, max_size=5), st.integers(4, 60), st.booleans())
def test_windows_hold_every_token_once_or_say_that_they_do_not(
    lengths: list[int], window: int, bos: bool
) -> None:
    docs = made([words(n, i) for i, n in enumerate(lengths)], window=window, prepend_bos=bos)
    left = 0
    for index, length in enumerate(lengths):
        of = [w for w in docs.windows if w.document == index]
        assert [w.start for w in of] == [window * i for i in range(len(of))]
        assert all(a.stop == b.start for a, b in zip(of, of[1:], strict=False))
        assert all(w.tokens[bos:] == docs.tokens[index][w.start : w.stop] for w in of)
        # The first position of what the model sees is never measured.
        assert all(w.measured == len(w.tokens) - 1 for w in of)
        left += length - of[-1].stop
        assert length - of[-1].stop < window / 2
    assert docs.left_out == left


def test_the_shipped_corpus_keeps_what_is_known_of_it() -> None:
    docs = make_documents(corpus("code")[:2], byte_tokenizer(), adapter_of_bytes(), window=60)
    assert {text.category for text in docs.texts} == {"code"} and docs.texts[0].source


def adapter_of_bytes() -> Any:
    from dataclasses import replace

    return replace(adapter().facts, d_vocab=300)


@pytest.mark.parametrize(
    ("texts", "kwargs", "says"),
    [
        ([words(5)], {"window": 1}, "'window' parameter of probe must be an integer from 2"),
        ([words(5)], {"window": 65}, "what the model's context holds; got 65"),
        (["w1"], {}, "Document 'prompt-000' has one token; give at least two."),
        ([[1, 2, 3]], {}, "is given as token ids, and labels are read off texts; give its text."),
        ([*corpus("code")[:1], *corpus("code")[:1]], {}, "Two documents have the id 'code-001'"),
    ],
)
def test_documents_that_cannot_be_probed_are_refused(texts: Any, kwargs: Any, says: str) -> None:
    with pytest.raises((PromptError, ParameterError), match=says):
        made(texts, **{"window": 20, **kwargs})


# -------------------------------------------------------------------------------------------- splits


def test_a_split_is_by_document_the_same_for_a_seed_and_holds_the_shares() -> None:
    docs = made(many(40), window=10)
    part = split(docs, seed=3)
    assert Counter(part.tolist()) == {0: 24, 1: 8, 2: 8}
    assert (split(docs, seed=3) == part).all() and (split(docs, seed=4) != part).any()


def test_classes_of_documents_are_dealt_one_by_one() -> None:
    docs = made(many(23), window=10)
    classes = ["rare" if i % 7 == 0 else None if i == 5 else "often" for i in range(23)]
    part = split(docs, classes=classes, seed=1)
    for name in ("rare", "often"):
        assert {int(part[i]) for i, c in enumerate(classes) if c == name} == {0, 1, 2}
    assert part[5] == -1


def test_documents_of_one_text_are_on_one_side() -> None:
    texts = many(8)
    docs = made([text for text in texts for _ in range(3)], window=10)
    for seed in range(10):
        part = split(docs, seed=seed).reshape(8, 3)
        assert (part == part[:, :1]).all()


def test_a_given_split_is_taken_and_documents_that_it_does_not_name_are_not() -> None:
    docs = made(many(6), window=10)
    ids = docs.ids
    part = split(docs, shares={"train": ids[:2], "validation": ids[2:3], "test": [ids[4]]})
    assert part.tolist() == [0, 0, 1, -1, 2, -1]


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"train": [0, 1], "validation": [2], "test": [0]}, "document 'prompt-000' is in train and in test"),
        ({"train": [0], "validation": [2], "test": [6]}, "'prompt-000' .train. and 'prompt-006' .test. have"),
        ({"train": [0], "test": [1]}, "The validation part of the split has no document"),
        ({"train": [0], "dev": [1]}, "of the parts train, validation, test; got 'dev'"),
        ({"train": ["x"]}, "names the document 'x', which is not in the corpus"),
        ((1, 0, 1), "'split' parameter of probe must be three shares above zero"),
    ],
)
def test_leaks_and_wrong_splits_are_refused(shares: Any, says: str) -> None:
    texts = many(6)
    docs = made([*texts, texts[0].replace(" ", "  ")], window=10)  # white space does not make a new text
    if isinstance(shares, dict):
        shares = {p: [docs.ids[i] if isinstance(i, int) else i for i in of] for p, of in shares.items()}
    with pytest.raises((PromptError, ParameterError), match=says):
        split(docs, shares=shares)


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(PromptError, match="5 documents are too few to split .* at least 6"):
        split(made(many(5), window=10))
    for n in range(6, 12):
        counts = Counter(split(made(many(n), window=10)).tolist())
        assert set(counts) == {0, 1, 2} and min(counts.values()) >= 2  # one has no interval
