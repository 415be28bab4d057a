"""Ready tasks: pairs that differ in what decides the answer only, with any tokenizer, solved by the model."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens import PromptPairs, testbed
from resonance_lens.errors import AdapterError, ParameterError, PromptError
from resonance_lens.hooks.attach import attach
from resonance_lens.patching.ready import agreement, counting, facts, names
from resonance_lens.patching.ready.drawing import Texts
from resonance_lens.patching.ready.texts import Encoder
from tests.models import build, hosts, smollm2, tokenizer
from tests.reference_transformer import GPT2

NAMES = [task.name for task in rl.list_pairs()]
TEXTS = [name for name in NAMES if name != "induction"]


def sentences() -> list[str]:
    """Return texts in which every word of the tasks stands after a space."""
    relations = facts.RELATIONS.values()
    words = [
        *names.PEOPLE, *names.PLACES, *names.THINGS, *agreement.ATTRACTORS, *agreement.PLACES,
        *(noun + end for noun in agreement.NOUNS for end in ("", "s")), *sum(agreement.VERBS, ()),
        *(word for series in counting.SERIES for word in series.words),
        *(word for _, table in relations for pair in table.items() for word in pair),
    ]  # fmt: skip
    frames = [*names.TEMPLATES, *agreement.FRAMES, *(template for template, _ in relations)]
    series = ["\n".join(each.words) + "\n" for each in counting.SERIES]
    return [*(f"It is {word}, {word}" for word in words), *frames, *series] * 3


@cache
def trained(kind: str) -> Any:
    """Return a small tokenizer that knows the words of the tasks, in one of two ways of writing spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet: list[str] = []
    if kind == "bytes":  # as GPT-2 and Llama 3: a space is the first byte of a word
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:  # as Llama 2: every text begins with a space that is not there
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        inner.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<unk>", "<bos>", "<pad>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(sentences(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", unk_token="<unk>", pad_token="<pad>"
    )


@cache
def model(kind: str = "bytes") -> Any:
    """Return a model with random weights, which solves a pair by chance."""
    made = build(dataclasses.replace(GPT2, d_vocab=3050))
    made.tokenizer = trained(kind)
    return made


@cache
def drawn(name: str, kind: str = "bytes") -> PromptPairs:
    return rl.prompt_pairs(name, model(kind), n_pairs=24, seed=3, keep_unsolved=True)


def words(pairs: PromptPairs, side: str) -> list[str]:
    """Return the prompts of one side as texts, without the beginning token."""
    rows = getattr(pairs, side)
    return [str(model().tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


# --------------------------------------------------------------------------------------- every task


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_equal_in_length_and_have_two_answers(name: str, kind: str) -> None:
    pairs = drawn(name, kind)
    assert (pairs.name, len(pairs), pairs.tried) == (name, 24, 24)
    assert pairs.ids[0] == f"{name}-000"
    assert [len(row) for row in pairs.clean] == [len(row) for row in pairs.corrupted]
    assert (pairs.right != pairs.wrong).all()
    assert len(set(zip(pairs.clean, pairs.corrupted, strict=True))) == 24, "a pair comes twice"
    bos = trained(kind).bos_token_id
    assert all(row[0] == bos and bos not in row[1:] for row in pairs.clean + pairs.corrupted)  # type: ignore[operator]
    assert pairs.read.tolist() == [len(row) - 1 for row in pairs.clean]
    assert pairs.notes and all(note.endswith(".") for note in pairs.notes)


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("name", TEXTS)
def test_tokens_are_those_of_the_texts_and_answers_continue_them(name: str, kind: str) -> None:
    pairs, tokens = drawn(name, kind), trained(kind)
    for rows in (pairs.clean, pairs.corrupted):
        for row, *answers in zip(rows, pairs.right, pairs.wrong, strict=True):
            for answer in ((), *((int(each),) for each in answers)):
                ids = [*row[1:], *answer]
                assert tokens(tokens.decode(ids), add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_makes_the_pairs_and_fewer_are_the_first_of_more(name: str) -> None:
    again = rl.prompt_pairs(name, attach(model()), n_pairs=24, seed=3, keep_unsolved=True, batch_tokens=100)
    assert again.digest() == drawn(name).digest()
    few = rl.prompt_pairs(name, model(), n_pairs=5, seed=3, keep_unsolved=True)
    assert few.digest() == again.take(range(5)).digest()
    other = rl.prompt_pairs(name, model(), n_pairs=5, seed=4, keep_unsolved=True)
    assert other.digest() != few.digest()


@pytest.mark.host
@pytest.mark.parametrize("name", ["induction", "counting"])
def test_solved_is_what_the_whole_logits_say(name: str) -> None:
    """A random model solves some by chance: those that are kept are those that every prompt alone says."""
    everything = drawn(name)
    solved = []
    for index in range(24):
        margins = []
        for rows in (everything.clean, everything.corrupted):
            with torch.no_grad():
                logits = model()(torch.tensor([rows[index]]), return_type="logits")[0, -1]
            margins.append(float(logits[everything.right[index]] - logits[everything.wrong[index]]))
        solved.append(margins[0] > 0 > margins[1])
    assert 0 < sum(solved) < 24
    assert everything.accuracy == pytest.approx(np.mean(solved))
    kept = rl.prompt_pairs(name, model(), n_pairs=1, seed=3)
    first = solved.index(True)
    assert (kept.clean[0], kept.corrupted[0]) == (everything.clean[first], everything.corrupted[first])
    assert kept.tried == first + 1 and kept.accuracy == pytest.approx(1 / (first + 1))


def test_listing() -> None:
    for task in rl.list_pairs():
        assert task.description.endswith(".")
        assert "\n" not in task.description
    options = {task.name: dict(task.options) for task in rl.list_pairs()}
    assert options["induction"] == {"segment": 8, "first_token": None}
    assert options["counting"] == {"n_items": 4} and options["names"] == {}


# --------------------------------------------------------------------------------------- one by one


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_the_induction_circuit_solves_every_pair(host: Any) -> None:
    circuit = testbed.load_circuit("induction")
    pairs = rl.prompt_pairs("induction", circuit.model(host.name), first_token=0, segment=6)
    assert (pairs.accuracy, pairs.tried) == (1.0, 32)
    assert {row[0] for row in pairs.clean + pairs.corrupted} == {0}  # type: ignore[operator]
    without = rl.prompt_pairs("induction", circuit.model(host.name), keep_unsolved=True)
    assert {len(row) for row in without.clean} == {23}, "a model without a beginning token got one"


def test_induction_changes_where_the_repeated_part_stands_and_nothing_else() -> None:
    back = set()
    for clean, corrupted, right, wrong in zip(
        *(getattr(drawn("induction"), part) for part in ("clean", "corrupted", "right", "wrong")), strict=True
    ):
        assert sorted(clean) == sorted(corrupted) and clean != corrupted
        assert clean[17:] == corrupted[17:] and len(clean[17:]) == 7
        assert {clean.index(right), clean.index(wrong)} == {8, 16}
        assert (clean[8], clean[16]) == (corrupted[8], corrupted[16])
        for row, answer in ((clean, right), (corrupted, wrong)):
            assert row.count(answer) == 1
            before = row.index(answer)
            assert row[before - 7 : before] == row[17:], "the answer does not follow what is repeated"
        back.add(len(clean) - clean.index(right))
        assert max(np.unique(clean, return_counts=True)[1]) == 2
    assert back == {8, 16}


def test_names_differ_in_who_gives() -> None:
    pairs, orders = drawn("names"), set()
    tokens = model().tokenizer
    for clean, corrupted, right, wrong in zip(
        pairs.clean, pairs.corrupted, pairs.right, pairs.wrong, strict=True
    ):
        (place,) = np.flatnonzero(np.array(clean) != np.array(corrupted)).tolist()
        assert (clean[place], corrupted[place]) == (wrong, right)
        assert (list(clean).count(right), list(clean).count(wrong)) == (1, 2)
        assert tokens.decode([right]).strip() in names.PEOPLE
        orders.add(clean.index(right) < clean.index(wrong))
    assert orders == {True, False}, "one of the orders ABBA and BABA is missing"


def test_facts_are_those_of_the_table() -> None:
    table = {
        template.format(subject=subject): answer
        for template, subjects in facts.RELATIONS.values()
        for subject, answer in subjects.items()
    }
    pairs, tokens = drawn("facts"), model().tokenizer
    for side, answers in (("clean", pairs.right), ("corrupted", pairs.wrong)):
        said = [tokens.decode([answer]) for answer in answers]
        assert said == [f" {table[text]}" for text in words(pairs, side)]
    for clean, corrupted in zip(words(pairs, "clean"), words(pairs, "corrupted"), strict=True):
        assert sum(a == b for a, b in zip(clean.split(), corrupted.split(), strict=False)) >= 4
    assert len(table) >= 40


def test_agreement_is_with_the_first_noun() -> None:
    pairs, tokens = drawn("agreement"), model().tokenizer
    numbers, attractors = set(), set()
    for side, answers in (("clean", pairs.right), ("corrupted", pairs.wrong)):
        for text, answer in zip(words(pairs, side), answers, strict=True):
            subject = next(word for word in text.split() if word.rstrip("s") in agreement.NOUNS)
            several = [verbs[1] for verbs in agreement.VERBS]
            assert (tokens.decode([answer]).strip() in several) is subject.endswith("s")
            numbers.add((side, subject[-1] == "s"))
            attractors.add(text[-1] == "s")
    assert len(numbers) == 4 and len(attractors) == 2
    for clean, corrupted in zip(words(pairs, "clean"), words(pairs, "corrupted"), strict=True):
        assert {
            a.rstrip("s") == b.rstrip("s") for a, b in zip(clean.split(), corrupted.split(), strict=True)
        } == {True}


def test_counting_goes_on_where_the_series_does() -> None:
    pairs, tokens = drawn("counting"), model().tokenizer
    after = {
        (a, b)
        for series in counting.SERIES
        for a, b in zip(
            series.words, (*series.words[1:], series.words[0] if series.cyclic else ""), strict=True
        )
    }
    for side, answers in (("clean", pairs.right), ("corrupted", pairs.wrong)):
        for text, answer in zip(words(pairs, side), answers, strict=True):
            items = [*text.replace(",", " ").split(), tokens.decode([answer]).strip()]
            assert len(items) == 5 and {*zip(items, items[1:], strict=False)} <= after


@pytest.mark.parametrize("n_items", [2, 5])
def test_counting_takes_as_many_items_as_asked_for(n_items: int) -> None:
    pairs = rl.prompt_pairs("counting", model(), n_pairs=3, keep_unsolved=True, n_items=n_items)
    assert {len(text.replace(",", " ").split()) for text in words(pairs, "clean")} == {n_items}


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("inductoin", {}, "no ready task 'inductoin'.*Did you mean 'induction'"),
        (
            "induction",
            {"segments": 3},
            "'induction' has no option 'segments'; it has segment, first_token. Did",
        ),
        ("names", {"segment": 3}, "'names' has no option 'segment'; it has none"),
        ("induction", {"segment": 1}, "'segment' parameter of the task 'induction' must be an integer of at"),
        ("induction", {"first_token": 3050}, "must be None or a token id from 0 to 3049; got 3050"),
        ("counting", {"n_items": 6}, "must be an integer from 2 to 5; got 6"),
        ("names", {"n_pairs": 0}, "'n_pairs' parameter of prompt_pairs must be an integer of at least 1"),
        ("names", {"batch_tokens": 0}, "'batch_tokens' parameter of prompt_pairs must be an integer of at"),
        ("names", {"seed": 0.5}, "'seed' parameter of prompt_pairs must be an integer"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence) as error:
        rl.prompt_pairs(name, model(), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("names", "needs 10 names that are single tokens, and of its 61 the tokenizer of gpt2 has 0"),
        ("facts", "needs 10 facts that have a single token .* of its 70 the tokenizer of gpt2 has 0"),
        ("agreement", "needs 10 nouns that are single tokens, and of its 39 the tokenizer of gpt2 has 0"),
        ("counting", "needs 2 series that are single tokens, and of its 6 the tokenizer of gpt2 has 0"),
    ],
)
def test_a_tokenizer_without_the_words_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        rl.prompt_pairs(name, build(GPT2, text=True))


def test_too_few_tokens_pairs_or_solved_ones_are_refused() -> None:
    circuit = testbed.load_circuit("induction", n_tokens=12).model()
    with pytest.raises(PromptError, match="needs 16 different tokens, and testbed:induction has 11 that are"):
        rl.prompt_pairs("induction", circuit, first_token=0)
    with pytest.raises(PromptError, match=r"has no more than \d+ different pairs .* and 2000 are wanted"):
        rl.prompt_pairs("counting", model(), n_pairs=2000)
    with pytest.raises(
        PromptError, match=r"solves \d+ of 64 pairs of the task 'names' \(accuracy 0\.\d\d\), and 8"
    ):
        rl.prompt_pairs("names", model(), n_pairs=8)  # what it prefers hardly depends on who gives


def test_a_cache_and_a_model_without_tokenizer_are_refused() -> None:
    _, cache = model().run_with_cache(torch.tensor([[1, 2, 3]]))
    with pytest.raises(AdapterError, match="holds one pass and cannot make another; give the model"):
        rl.prompt_pairs("induction", cache)
    with pytest.raises(PromptError, match="gpt2 has no tokenizer"):
        rl.prompt_pairs("names", build(GPT2))


def test_texts_that_are_no_pair_with_this_tokenizer_are_none() -> None:
    encoder = Encoder(tokenizer(), "words", None)
    assert encoder.tokens(Texts("w1 w2", "w1 w3", " w4", " w5")) is not None
    for no_pair in (
        Texts("w1 w2", "w1", " w4", " w5"),
        Texts("w1 w2", "w1 w3", " w4 w4", " w5"),
        Texts("w1 w2", "w1 w3", " w4", ""),
        Texts("w1 w2", "w1 w3", " w4", " w4"),
    ):
        assert encoder.tokens(no_pair) is None
    assert encoder.single("w1") and not encoder.single("w1 w2") and not encoder.single("unheard")
    assert encoder.continuation("w1", " unheard") is None, "what is not known is one token too"


# ------------------------------------------------------------------------------------ on a real model

# Bounds set after the accuracy of 256 pairs was seen (docs/patching.md): they guard it.
BOUNDS = {"induction": 0.8, "names": 0.8, "facts": 0.9, "agreement": 0.75, "counting": 0.9}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smollm2_solves_most_pairs(name: str) -> None:
    pairs = rl.prompt_pairs(name, smollm2(), n_pairs=24, seed=1)
    assert len(pairs) == 24 and pairs.accuracy is not None
    assert pairs.accuracy >= BOUNDS[name]
    for side, sign in (("clean", 1), ("corrupted", -1)):
        row = torch.tensor([getattr(pairs, side)[0]])
        with torch.no_grad():
            logits = smollm2()(row, return_type="logits")[0, int(pairs.read[0])]
        assert sign * float(logits[pairs.right[0]] - logits[pairs.wrong[0]]) > 0
