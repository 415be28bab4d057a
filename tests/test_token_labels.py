"""Classes of tokens of which only the ids are known, against the rules on the text itself."""

from __future__ import annotations

import pytest
import torch

from resonance_lens.contract import Planted
from resonance_lens.errors import AdapterError, AnalysisError, ParameterError
from resonance_lens.hooks import attach
from resonance_lens.planting import attention_facts
from resonance_lens.prompts import corpus, demo_prompts
from resonance_lens.testing import PlantedAdapter
from resonance_lens.text_labels import RULES, Text
from resonance_lens.token_labels import TOKEN_CLASSES, token_labels
from tests.models import build, tokenizer
from tests.reference_transformer import GPT2


@pytest.fixture(scope="module")
def words() -> object:
    """Return a byte-level tokenizer made here: it splits characters of several bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<bos>"],
        show_progress=False,
    )
    inner.train_from_iterator([prompt.text for prompt in demo_prompts()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>")


@pytest.mark.parametrize("rule", TOKEN_CLASSES)
def test_they_are_those_of_the_text(words: object, rule: str) -> None:
    text = "The caf\u00e9 in 1984 wasn't open \U0001f600, \u201cquickly\u201d said Anna: 3,141!\n\nHe went."
    made = words(text, return_offsets_mapping=True)  # type: ignore[operator]
    offsets = tuple((int(a), int(b)) for a, b in made["offset_mapping"])
    wanted = RULES[rule].of(Text(text, offsets))
    (found,) = token_labels(words, rule, [made["input_ids"]])
    assert len(found) == len(wanted) > 20
    names = [None if code < 0 else TOKEN_CLASSES[rule][code] for code in found]
    # Of a character that several tokens share only the last has a place, where the text alone is asked.
    shared = [offsets.count(span) > 1 for span in offsets]
    assert [n for n, s in zip(names, shared, strict=True) if not s] == [
        w for w, s in zip(wanted, shared, strict=True) if not s
    ]


def test_there_are_no_other_classes() -> None:
    text = " ".join(document.text[:3000] for document in corpus())
    offsets = tuple((i, i + 4) for i in range(0, len(text) - 4, 4))
    for rule, classes in TOKEN_CLASSES.items():
        assert (RULES[rule].kind, RULES[rule].level) == ("classes", "token")
        assert {value for value in RULES[rule].of(Text(text, offsets)) if value is not None} == set(classes)


def test_special_tokens_have_none_and_end_a_word(words: object) -> None:
    ids = words("quickly")["input_ids"]  # type: ignore[operator]
    (found,) = token_labels(words, "word_class", [[0, *ids, 0, 0, *ids]])
    adverb = TOKEN_CLASSES["word_class"].index("adverb")
    wanted = [-1, *[adverb] * len(ids), -1, -1, *[adverb] * len(ids)]
    assert found.tolist() == wanted
    assert token_labels(words, "word_class", [[0]])[0].tolist() == [-1]


def test_there_is_no_such_rule() -> None:
    with pytest.raises(ParameterError, match="'words'.*Did you mean|'words'"):
        token_labels(tokenizer(), "words", [[1]])


@pytest.mark.host
def test_a_host_asks_its_own_tokenizer() -> None:
    vocabulary = tokenizer().get_vocab()
    ids = torch.tensor([[vocabulary["<bos>"], vocabulary["w5"]], [vocabulary["w6"], vocabulary["w7"]]])
    found = attach(build(GPT2, text=True)).token_labels("word_initial", ids)
    assert found.dtype == torch.int64 and found.tolist() == [[-1, 1], [1, 1]]
    with pytest.raises(AdapterError, match="has no tokenizer to label tokens with; set model.tokenizer"):
        attach(build(GPT2)).token_labels("word_class", ids)


@pytest.mark.host
def test_a_cache_needs_the_ids_of_its_tokens() -> None:
    ids = torch.tensor([[5, 6, 7]])
    adapter = attach(build(GPT2, text=True).run_with_cache(ids)[1])
    assert adapter.token_labels("capital", ids).shape == (1, 3)
    with pytest.raises(AdapterError, match="give them to analyze as tokens="):
        adapter.token_labels("capital", torch.zeros_like(ids))


def test_planted_labels_are_asked_for() -> None:
    facts = attention_facts(n_layers=1, n_heads=1)
    planted = Planted([{}], torch.tensor([3]), facts, lambda data: None)
    with pytest.raises(AnalysisError, match="needs a token_labels"):
        PlantedAdapter(planted).token_labels("word_class", torch.zeros(1, 3, dtype=torch.long))
