"""What a model loses without what a probe reads: found where it is used, and not where it is only there."""

from __future__ import annotations

import functools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import resonance_lens as rl
from resonance_lens.errors import AdapterError, ParameterError, RecordError
from resonance_lens.facts import Batch
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.patching.operations.base import Scene
from resonance_lens.probing.effect_telling import _verdict
from resonance_lens.probing.erasing import remove_at_random, remove_read
from resonance_lens.probing.linear import Linear, LinearFitted, sums_of
from resonance_lens.probing.names import label_names
from resonance_lens.probing.vocabulary import vocabulary_classes
from resonance_lens.testbed.building import Shape, build_model, empty_weights
from resonance_lens.text_labels import RULES, Rule, Text, Values
from tests import models
from tests.probing.material import documents, material, reader
from tests.reference_transformer import LLAMA

N_WORDS = 40
STAYS = 0.9
"""How often a word is followed by one of its own half of the vocabulary."""

SHAPE = Shape(n_layers=2, n_heads=1, d_model=8, d_head=2, d_vocab=53, n_ctx=32)


def _half(text: Text) -> Values:
    words = [text.text[a:b].strip() for a, b in text.offsets]
    return ["high" if int(word[1:]) >= N_WORDS // 2 else "low" for word in words]


HALF = Rule("half", "classes", "token", "which half of the vocabulary the word is of", _half, alone="")


def texts(n: int = 30) -> list[str]:
    """Return documents in which halves persist."""
    rng, made = random.Random(1), []
    for _ in range(n):
        half, words = rng.randrange(2), []
        for _ in range(60):
            words.append(f"w{half * N_WORDS // 2 + rng.randrange(N_WORDS // 2)}")
            half = half if rng.random() < STAYS else 1 - half
        made.append(" ".join(words))
    return made


@functools.cache
def model(used: bool) -> Any:
    """Return a model whose stream holds the half of each word, and that predicts by it, or by something else.

    What it predicts by otherwise lies along a direction of its own, and says nothing of the half.
    """
    tokenizer = models.tokenizer()
    ids = [tokenizer(f"w{i}")["input_ids"][0] for i in range(N_WORDS)]
    others = [i for i in range(SHAPE.d_vocab) if i not in ids]
    half = np.where(np.arange(N_WORDS) >= N_WORDS // 2, 1.0, -1.0)
    odd = np.where(np.arange(N_WORDS) % 2, 1.0, -1.0)
    weights = empty_weights(SHAPE)
    noise = np.random.default_rng(0).standard_normal((N_WORDS, SHAPE.d_model - 3))
    weights["embed.W_E"][ids] = np.column_stack([half, odd, np.ones(N_WORDS), noise])
    weights["unembed.W_U"][0 if used else 1, ids] = half * math.log(STAYS / (1 - STAYS)) / 2
    weights["unembed.W_U"][2, others] = -30.0  # never said
    return build_model(SHAPE, weights, name="halves", tokenizer=tokenizer)


def probed(used: bool, **kwargs: Any) -> rl.Result:
    wanted: dict[str, Any] = {
        "window": 20,
        "bands": ("all", "0.05-0.5"),
        "layers": (0,),
        "n_shuffles": 1,
        "dtype": "float32",
        "split": (0.4, 0.2, 0.4),
        "causal": True,
        "progress": False,
    }
    return rl.probe(model(used), texts(), HALF, **{**wanted, **kwargs})


@pytest.mark.host
def test_what_a_model_predicts_by_costs_what_the_closed_form_says() -> None:
    result = probed(used=True)
    data = result.data.sel(place="linear L0 all", removed="directions")
    by_id = dict(zip((f"prompt-{i:03d}" for i in range(30)), texts(), strict=True))
    halves = {
        name: np.array([1.0 if int(word[1:]) >= N_WORDS // 2 else -1.0 for word in text.split()])
        for name, text in by_id.items()
    }
    split = result.provenance["probe"]["split"]
    # Windows of twenty words, of which the first is not measured and the last has no next one.
    pairs = [
        (halves[name][at], halves[name][at + 1])
        for name in split["test"]
        for start in (0, 20, 40)
        for at in range(start + 1, start + 19)
    ]
    now, then = np.array(pairs).T
    rest = np.mean(
        [halves[name][start + 1 : start + 20].mean() for name in split["train"] for start in (0, 20, 40)]
    )
    gap = math.log(STAYS / (1 - STAYS))

    def surprise(seen: Any) -> float:
        return float(np.log1p(np.exp(-gap * seen * then)).mean())

    assert float(data["effect_unedited"]) == pytest.approx(surprise(now), abs=1e-5)
    assert float(data["effect"]) == pytest.approx(surprise(rest) - surprise(now), abs=0.03)
    # Within a half the model has no opinion, before and after.
    assert float(data["effect_rest_unedited"]) == pytest.approx(math.log(N_WORDS / 2), abs=1e-5)
    assert float(data["effect_rest"]) == pytest.approx(0, abs=1e-5)
    assert float(data["effect_beyond_placebo_low"]) > 0 and float(data["effect_beyond_others_low"]) > 0
    assert ": the model uses it." in result.summary
    # The probe sees nothing any more: it always says the same.
    labels = np.mean(now > 0)
    assert float(data["score_unedited"]) > 0.99
    assert min(abs(float(data["score_edited"]) - share) for share in (labels, 1 - labels)) < 1e-6
    assert data["effect_by_document"].mean() == pytest.approx(float(data["effect"]), abs=1e-5)
    assert data["prompt"].values.tolist() == split["test"]


def test_what_is_there_and_not_used_costs_nothing() -> None:
    result = probed(used=False)
    data = result.data.sel(place="linear L0 all", removed="directions")
    assert float(result.data["score"].sel(band="all").squeeze()) > 0.99  # it is read as well
    # What it predicts by goes along by chance, and this model is better off without.
    assert -0.1 < float(data["effect"]) < 0.02
    assert abs(float(data["effect_others"])) > 0.1  # others do something
    assert "nothing shows that the model uses it" in result.summary
    assert "the model uses it." not in result.summary.replace("that the model uses it", "")
    assert result.data["removed"].values.tolist() == ["directions", "band"]
    assert bool(result.data["effect"].sel(place="linear L0 all", removed="band").isnull())
    assert bool(result.data["effect"].sel(place="linear L0 0.05-0.5").notnull().all())
    assert "looks ahead" in result.summary


def test_a_finished_folder_gets_its_effects_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = probed(used=True, out=tmp_path / "one")
    before = probed(used=True, out=tmp_path / "two", causal=False)
    assert "effect" not in before.data
    later = probed(used=True, out=tmp_path / "two")
    assert later.data.equals(at_once.data) and later.summary == at_once.summary
    loaded = rl.load(tmp_path / "two")["probe"]
    assert loaded.data.equals(at_once.data) and loaded.provenance["effect"]["windows"] == 36
    assert rl.compare(at_once, before)["score_difference"].notnull().any()
    elsewhere = probed(used=True, out=tmp_path / "two", causal=[(0, "0.05-0.5")])
    assert elsewhere.data["place"].values.tolist() == ["linear L0 0.05-0.5"]
    assert elsewhere.summary.count("Taking what linear reads") == 1
    monkeypatch.setattr("resonance_lens.probing.probe.add_effects", None)  # nothing is measured again
    again = probed(used=True, out=tmp_path / "two", causal=[(0, "0.05-0.5")])
    assert again.data.equals(elsewhere.data)
    assert probed(used=True, out=tmp_path / "two", causal=False).data.equals(elsewhere.data)


def test_losses_of_a_real_architecture_are_those_of_transformer_lens() -> None:
    from transformer_lens.utilities import lm_cross_entropy_loss

    host = models.build(LLAMA, text=True)
    result = rl.probe(
        host, texts(9), HALF, window=20, bands=("all",), layers=(1,), n_shuffles=1,
        split=(0.5, 0.2, 0.3), causal=True, progress=False,
    )  # fmt: skip
    adapter = attach(host)
    assert isinstance(adapter, ModelAdapter)
    test = [int(name.split("-")[1]) for name in result.provenance["probe"]["split"]["test"]]
    bos = [adapter.facts.bos_token] if adapter.facts.prepends_bos else []
    found = []
    for number in test:
        ids = adapter.tokenizer(texts(9)[number], add_special_tokens=False)["input_ids"]
        for start in (0, 20, 40):
            tokens = torch.tensor([[*bos, *ids[start : start + 20]]])
            with torch.no_grad():
                logits = adapter.logits(Batch(tokens, torch.tensor([tokens.shape[1]]), (0,)))
            found.append(lm_cross_entropy_loss(logits, tokens, per_token=True)[0, 1:])
    data = result.data.sel(place="linear L1 all")
    whole = float(data["effect_unedited"] + data["effect_rest_unedited"])
    assert whole == pytest.approx(float(torch.cat(found).mean()), abs=1e-4)
    kept = float(data["effect"].sel(removed="directions") + data["effect_rest"].sel(removed="directions"))
    counts = data["effect_by_class"].sel(removed="directions")
    assert float(counts.min()) - 1e-9 <= kept <= float(counts.max()) + 1e-9


# What goes -------------------------------------------------------------------------------------


def _fitted(kind: Any = "classes") -> tuple[Any, LinearFitted, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return sums and a probe of three classes, with features and labels of the training part."""
    docs, rng = documents(), np.random.default_rng(4)
    n = len(docs.windows) * 64
    codes = rng.integers(3, size=n)
    features = rng.standard_normal((n, 12)) @ rng.standard_normal((12, 12)) + 5
    features += rng.standard_normal((3, 12))[codes]
    values = codes.astype(float) if kind == "classes" else features @ rng.standard_normal(12) + codes
    made = material(docs, values, kind=kind, classes=("a", "b", "c"))
    wide = features.reshape(len(docs.windows), 64, 12)
    train, validation = (
        made.examples(reader(wide), 12, "all", part, n_labellings=1) for part in ("train", "validation")
    )
    rows = np.concatenate([windows.rows()[0].double().numpy() for windows in train])
    labels = np.concatenate([windows.rows()[1][:, 0] for windows in train])
    return sums_of(train), Linear().fit(train, validation)[0], rows, labels


def _edited(operation: Any, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return rows after an edit, behind a first position that stays."""
    values = torch.from_numpy(np.concatenate([rows[:1], rows]))[None]
    scene = Scene(
        site="resid_post", layer=0, head=None, facts=attach(model(True)).facts,
        lengths=torch.tensor([values.shape[1]]),
    )  # fmt: skip
    out = operation.edit(values, scene)[0].numpy()
    assert np.array_equal(out[0], rows[0])
    return np.asarray(out[1:])


def test_without_what_is_read_classes_have_one_mean_and_the_rest_is_that_of_least_squares() -> None:
    sums, fitted, rows, labels = _fitted()
    operation = remove_read(fitted, sums, "all", "dct")
    after = _edited(operation, rows)
    assert operation.reads.shape == (12, 2)
    for code in range(3):
        np.testing.assert_allclose(after[labels == code].mean(0), rows.mean(0), atol=1e-4)
    outputs = after @ fitted.weight.double().numpy()
    contrasts = outputs - outputs.mean(1, keepdims=True)
    np.testing.assert_allclose(contrasts, np.broadcast_to(contrasts[0], contrasts.shape), atol=1e-3)
    # Belrose et al. 2023: whiten, project the cross-covariance with the label away, colour again.
    centred = rows - rows.mean(0)
    ones = (labels[:, None] == np.arange(3)) - (labels[:, None] == np.arange(3)).mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    whiten = vectors / np.sqrt(values) @ vectors.T
    directions = np.linalg.svd(whiten @ centred.T @ ones)[0][:, :2]
    gone = centred @ whiten @ directions @ directions.T @ np.linalg.inv(whiten)
    # Shrinkage, which validation chose, moves it a little.
    assert np.linalg.norm(after - (rows - gone)) < 0.05 * np.linalg.norm(gone)
    assert operation.power(sums) == pytest.approx(float(((after - rows) ** 2).sum(1).mean()), rel=1e-4)


def test_without_what_is_read_an_ordered_label_is_uncorrelated_with_every_feature() -> None:
    sums, fitted, rows, labels = _fitted("ordered")
    after = _edited(remove_read(fitted, sums, "all", "dct"), rows)
    correlations = [np.corrcoef(column, labels)[0, 1] for column in after.T]
    np.testing.assert_allclose(correlations, 0, atol=1e-3)
    assert max(abs(np.corrcoef(column, labels)[0, 1]) for column in rows.T) > 0.2


def test_drawn_directions_hold_at_least_the_power_that_is_asked_for() -> None:
    sums, _, rows, _ = _fitted()
    whole = float(rows.var(0).sum())
    for share in (0.01, 0.2, 0.9):
        found = remove_at_random(sums, share * whole, np.random.default_rng(1), "all", "dct")
        gone = rows - _edited(found, rows)
        assert float((gone**2).sum(1).mean()) >= share * whole * (1 - 1e-6)
        fewer = found.writes[:, :-1]
        assert float((fewer**2).sum()) < share * whole
    everything = remove_at_random(sums, 2 * whole, np.random.default_rng(1), "all", "dct")
    np.testing.assert_allclose(
        _edited(everything, rows), np.broadcast_to(rows.mean(0), rows.shape), atol=1e-3
    )


def test_at_most_four_windows_of_a_document_are_measured_from_its_first_to_its_last() -> None:
    result = probed(used=True, window=10, bands=("all",))
    assert result.provenance["effect"]["windows"] == 4 * result.data.sizes["prompt"]


def test_where_a_pass_cannot_begin_at_a_layer_it_is_made_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layer of the effect is 1, so that a pass from there is another one than the whole."""
    settings: dict[str, Any] = {"window": 20, "bands": "all", "layers": (1,), "n_shuffles": 1}

    def effect() -> xr.Dataset:
        loaded = models.build(LLAMA, text=True)
        return rl.probe(loaded, texts(12), HALF, causal=True, progress=False, **settings).data

    resumed = effect()
    entered = []
    adapter: Any = type(attach(models.build(LLAMA, text=True)))
    whole = adapter.resume

    def watched(self: Any, batch: Any, layer: int, *rest: Any) -> Any:
        entered.append(layer)
        return whole(self, batch, layer, *rest)

    monkeypatch.setattr(adapter, "resumes", lambda *_: False)
    monkeypatch.setattr(adapter, "resume", watched)
    again = effect()
    assert set(entered) == {0}
    np.testing.assert_allclose(again["effect"], resumed["effect"], atol=1e-5)


@pytest.mark.parametrize(
    ("effect", "placebo", "others", "says"),
    [
        (0.2, 0.1, 0.1, "the model uses it"),
        (0.2, 0.1, -0.1, "no more than anything else that it holds as much of"),
        (0.2, -0.1, 0.1, "nothing shows that the model uses it"),
        (0.009, 0.001, 0.001, "nothing shows that the model uses it"),
        (math.nan, 0.1, 0.1, "nothing shows that the model uses it"),
    ],
)
def test_a_use_is_more_than_next_to_nothing_and_than_both_controls(
    effect: float, placebo: float, others: float, says: str
) -> None:
    cost = {"effect": effect, "effect_beyond_placebo_low": placebo, "effect_beyond_others_low": others}
    assert _verdict(xr.Dataset(cost)).endswith(says)


# Vocabularies ----------------------------------------------------------------------------------


def test_tokens_of_the_bundled_model_have_the_classes_that_they_have_in_a_text() -> None:
    loaded = rl.load_model("smollm2-135m")
    tokenizer = loaded.tokenizer
    text = tokenizer("\nThe")["input_ids"]  # what is white space alone says nothing

    with pytest.raises(RecordError, match="No token of the documents says anything by itself"):
        vocabulary_classes(RULES["word_class"], tokenizer, loaded.cfg.d_vocab, text[:2])

    def classes(label: str, *words: str) -> list[str]:
        names, codes = vocabulary_classes(RULES[label], tokenizer, loaded.cfg.d_vocab, text)
        assert codes.shape == (loaded.cfg.d_vocab,)
        return [names[codes[tokenizer(word)["input_ids"][-1]]] for word in words]

    assert classes("word_class", " the", " quickly", ".", "7", "\n") == [
        "determiner", "adverb", "punctuation", "number", "none",
    ]  # fmt: skip
    assert classes("word_initial", " the", "ing", ".") == ["yes", "no", "none"]
    assert classes("digit", "7", " the", "<|endoftext|>") == ["yes", "no", "none"]


def test_labels_that_tokens_have_by_themselves_are_those_of_tokens_alone() -> None:
    alone = {name for name in label_names() if name in RULES and RULES[name].alone is not None}
    assert alone == {"word_class", "function_word", "capital", "digit", "punctuation", "word_initial"}


# What cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"probes": "spectral_filter"}, ParameterError, "none of the probes is one; add 'linear'"),
        ({"causal": [(1, "all")]}, ParameterError, "pairs of a layer and a band that are probed; got"),
        ({"causal": [(0, "high")]}, ParameterError, "pairs of a layer and a band that are probed; got"),
        ({"causal": []}, ParameterError, "true, or at least one layer and band; got"),
        ({"causal": None}, ParameterError, "true, or pairs of a layer and a band that are probed; got None"),
        ({"causal": [0]}, ParameterError, "pairs of a layer and a band that are probed; got 0"),
    ],
)
def test_what_cannot_be_checked_is_said_before_any_pass(
    kwargs: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        probed(used=True, out=tmp_path / "x", **kwargs)
    assert not list(tmp_path.iterdir())


def test_grouped_keys_cannot_be_written_and_the_sentence_says_what_can() -> None:
    with pytest.raises(AdapterError, match="whose heads share keys and values; probe 'z'"):
        rl.probe(
            models.build(LLAMA, text=True),
            texts(9),
            HALF,
            window=20,
            bands="all",
            site="k",
            causal=True,
            progress=False,
        )
