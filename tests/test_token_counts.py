"""How rare tokens are: counts of a tokenizer over a corpus, kept on disk, and words put together again."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens import token_counts
from resonance_lens.errors import AdapterError, PromptError
from resonance_lens.hooks import attach
from resonance_lens.prompts import corpus
from resonance_lens.token_counts import rarity_of, special_ids, token_rarity, words
from tests.models import build, tokenizer
from tests.reference_transformer import GPT2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep counts in a folder of the test's own, and forget those of others."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(folder))
    token_counts._table.cache_clear()
    return folder


def byte_level(texts: list[str], size: int = 600) -> Any:
    """Return a byte-level BPE tokenizer, as GPT-2 and SmolLM2 have one, trained on some texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def word_pieces(pieces: list[str]) -> Any:
    """Return a WordPiece tokenizer, as BERT has one: ``##`` continues a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate(["[UNK]", *pieces])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def fake_wordfreq(monkeypatch: pytest.MonkeyPatch, scores: dict[str, float]) -> list[str]:
    """Put a word list in the place of wordfreq, which lower-cases too; return what it is asked for."""
    asked: list[str] = []

    def zipf_frequency(word: str, lang: str, wordlist: str = "best", minimum: float = 0.0) -> float:
        assert lang == "en"
        asked.append(word)
        return scores.get(word.lower(), minimum)

    module = ModuleType("wordfreq")
    module.zipf_frequency = zipf_frequency  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wordfreq", module)
    return asked


# --------------------------------------------------------------------------------------- the scale


def test_rarity_is_the_logarithm_of_the_rank() -> None:
    found = rarity_of(np.array([5, 90, 0, 5, 7, 0]), special=[3])
    expected = {1: 1, 4: 2, 0: 3, 2: 4, 5: 5}  # ties by id; what has no count last
    for token, rank in expected.items():
        assert found[token] == pytest.approx(math.log(rank) / math.log(5))
    assert math.isnan(found[3])


def test_a_vocabulary_of_one_token_has_a_commonest() -> None:
    np.testing.assert_allclose(rarity_of(np.array([3])), [0.0])


# --------------------------------------------------------------------------------------- counting


def test_counts_are_those_of_the_tokens_of_each_text(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2 w1\nw1 w50")
    counts = token_counts.token_counts(tokenizer(), str(path))
    expected = Counter({"w1": 3, "w2": 1, "w50": 1})
    vocabulary = tokenizer().get_vocab()
    assert len(counts) == len(vocabulary)
    assert {token: counts[index] for token, index in vocabulary.items() if counts[index]} == expected


def test_lines_of_json_are_texts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("w3 w4", "w3")))
    counts = token_counts.token_counts(tokenizer(), str(path))
    vocabulary = tokenizer().get_vocab()
    assert counts[vocabulary["w3"]] == 2 and counts[vocabulary["w4"]] == 1 and counts.sum() == 3


def test_the_shipped_corpus_is_counted_whole() -> None:
    byte = byte_level([document.text for document in corpus("code")][:3])
    counts = token_counts.token_counts(byte, "bundled")
    expected = Counter(i for document in corpus() for i in byte.backend_tokenizer.encode(document.text).ids)
    assert {i: int(n) for i, n in enumerate(counts) if n} == dict(expected)


def test_rarity_of_prompts_masks_what_has_no_rank(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w7 w7 w9")
    vocabulary = tokenizer().get_vocab()
    first, second = token_rarity(
        tokenizer(), str(path), [[vocabulary["w9"], vocabulary["<bos>"]], [vocabulary["w7"], 900, -1]]
    )
    assert first[0] == pytest.approx(math.log(2) / math.log(51)) and math.isnan(first[1])
    assert second[0] == 0 and np.isnan(second[1:]).all()
    assert special_ids(tokenizer()) == [vocabulary["<pad>"], vocabulary["<bos>"]]


def test_counts_are_kept_and_read_back(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2 w1")
    counts = token_counts.token_counts(tokenizer(), str(path))
    (kept,) = cache.rglob("*.npz")

    def never(*_: object) -> Any:
        raise AssertionError("it was counted again")

    monkeypatch.setattr(token_counts, "count", never)
    np.testing.assert_array_equal(token_counts.token_counts(tokenizer(), str(path)), counts)
    assert not list(kept.parent.glob(".*"))  # nothing half-written is left


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "another vocabulary", "text"])
def test_a_damaged_file_is_made_again(tmp_path: Path, cache: Path, damage: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2 w1 " * 50)
    counts = token_counts.token_counts(tokenizer(), str(path))
    (kept,) = cache.rglob("*.npz")
    whole = kept.read_bytes()
    if damage == "another vocabulary":
        np.savez(kept, counts=counts[:-1])
    else:
        middle = len(whole) // 3
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        kept.write_bytes({"empty": b"", "cut": whole[:60], "flipped": flipped, "text": b"no archive"}[damage])
    np.testing.assert_array_equal(token_counts.token_counts(tokenizer(), str(path)), counts)
    np.testing.assert_array_equal(np.load(kept)["counts"], counts)


def test_another_corpus_or_tokenizer_has_another_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2")
    token_counts.token_counts(tokenizer(), str(path))
    token_counts.token_counts(byte_level(["w1 w2"], 300), str(path))
    path.write_text("w1 w2 w2")
    counts = token_counts.token_counts(tokenizer(), str(path))
    assert counts[tokenizer().get_vocab()["w2"]] == 2
    assert len(list(cache.rglob("*.npz"))) == 3


def test_a_corpus_that_changes_is_counted_again(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    ids = [[tokenizer().get_vocab()["w2"]]]
    path.write_text("w1 w1 w2")
    assert token_rarity(tokenizer(), str(path), ids)[0][0] > 0
    path.write_text("w1 w2 w2 w2")
    assert token_rarity(tokenizer(), str(path), ids)[0][0] == 0


def test_padding_of_an_earlier_call_does_not_matter(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2")
    byte = byte_level(["w1 w2"], 300)
    byte.pad_token = "<|end|>"
    token_counts.token_counts(byte, str(path))
    byte(["w1", "w1 w2 w1"], padding=True, truncation=True, max_length=2)
    token_counts.token_counts(byte, str(path))
    assert len(list(cache.rglob("*.npz"))) == 1


def test_where_nothing_can_be_kept_it_is_counted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESONANCE_LENS_CACHE", str(tmp_path / "file"))  # no folder can be made there
    path = tmp_path / "corpus.txt"
    path.write_text("w1 w2 w1")
    assert token_counts.token_counts(tokenizer(), str(path)).sum() == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.txt", None, "missing.txt cannot be read .*give 'bundled', or a file"),
        ("empty.txt", b" \n", "empty.txt holds no text"),
        ("latin.txt", b"\xe9t\xe9", "latin.txt cannot be read .it is not UTF-8"),
        ("ids.jsonl", b'{"tokens": [1, 2]}', "ids.jsonl holds token ids; give it texts"),
        ("broken.jsonl", b"{", "broken.jsonl"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptError, match=says):
        token_rarity(tokenizer(), str(tmp_path / name), [[1]])


# ------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("kind", ["byte pairs", "word pieces"])
def test_words_are_put_together_from_their_pieces(kind: str) -> None:
    text = "the owl didn't harness 42 na\u00efve caf\u00e9s, the end"
    if kind == "byte pairs":
        made = byte_level(["the end of the owl"], 270)
    else:
        letters = "abcdefghijklmnopqrstuvwxyz\u00ef\u00e9'42,"
        made = word_pieces(["the", "har", "##ness", *letters, *(f"##{c}" for c in letters)])
    ids = made(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 20  # hardly a word is one piece
    found = list(words(made, ids))
    apart = kind == "word pieces"  # its text has blanks around the apostrophe
    wanted = ["the", "owl", *(["didn", "t"] if apart else ["didn't"]), "harness", "na\u00efve", "caf\u00e9s"]
    assert [word for _, word in found] == [*wanted, "the", "end"]
    for pieces, word in found:
        assert pieces == list(range(pieces[0], pieces[-1] + 1))
        spelled = made.decode([ids[piece] for piece in pieces]).strip().removeprefix("##")
        assert spelled.replace(" ", "").replace("##", "") == word
    inside = {piece for pieces, _ in found for piece in pieces}
    outside = "".join(made.decode([i]) for at, i in enumerate(ids) if at not in inside)
    assert not any(letter.isalpha() for letter in outside)


def test_special_tokens_end_words_and_are_none() -> None:
    made = byte_level(["the end of the owl"], 270)
    ids = made("the owl", add_special_tokens=False)["input_ids"]
    found = list(words(made, [made.eos_token_id, *ids, made.eos_token_id, *ids]))
    assert [word for _, word in found] == ["the", "owl", "the", "owl"]
    assert all(0 not in pieces and len(ids) + 1 not in pieces for pieces, _ in found)


def test_every_piece_gets_the_score_of_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_wordfreq(monkeypatch, {"the": 7.73, "owl": 3.9, "ness": 4.5, "har": 2.5, "rare": 0.9})
    made = byte_level(["the owl"], 262)
    text = "The owl, harness 7 rare"
    ids = made(text, add_special_tokens=False)["input_ids"]
    (found,) = token_rarity(made, "wordfreq", [ids])
    assert asked == ["The", "owl", "harness", "rare"]  # and never a piece
    pieces = dict((word, those) for those, word in words(made, ids))
    np.testing.assert_allclose(found[pieces["The"]], (8 - 7.73) / 7)
    np.testing.assert_allclose(found[pieces["owl"]], (8 - 3.9) / 7)
    np.testing.assert_allclose(found[pieces["rare"]], 1.0)
    known = {piece for word in ("The", "owl", "rare") for piece in pieces[word]}
    # 0.0 says that a word is not listed: it is masked, and so are digits and commas.
    assert all(math.isnan(value) == (at not in known) for at, value in enumerate(found))


def test_without_wordfreq_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)  # as if it were not installed
    with pytest.raises(
        AdapterError, match=r"pip install 'resonance-lens\[words\]'`, or use corpus='bundled'"
    ):
        token_rarity(tokenizer(), "wordfreq", [[1]])


# --------------------------------------------------------------------------------------- the hosts


@pytest.mark.host
def test_a_host_counts_with_its_own_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("w5 w5 w6")
    adapter = attach(build(GPT2, text=True))
    vocabulary = tokenizer().get_vocab()
    ids = torch.tensor([[vocabulary["w5"], vocabulary["w6"]], [vocabulary["<bos>"], vocabulary["w5"]]])
    found = adapter.token_rarity(str(path), ids)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, [[0, math.log(2) / math.log(51)], [np.nan, 0]])


@pytest.mark.host
def test_a_host_without_a_tokenizer_says_so() -> None:
    with pytest.raises(AdapterError, match="has no tokenizer to count tokens with; set model.tokenizer"):
        attach(build(GPT2)).token_rarity("bundled", torch.tensor([[1]]))


@pytest.mark.host
def test_a_cache_needs_the_ids_of_its_tokens() -> None:
    model = build(GPT2, text=True)
    ids = torch.tensor([[5, 6, 7]])
    adapter = attach(model.run_with_cache(ids)[1])
    assert adapter.token_rarity("bundled", ids).shape == (1, 3)
    with pytest.raises(AdapterError, match="give them to analyze as tokens="):
        adapter.token_rarity("bundled", torch.zeros_like(ids))
