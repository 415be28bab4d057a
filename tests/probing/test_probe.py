"""`probe`, from a model and texts to a result that is saved, loaded, compared and drawn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resonance_lens as rl
from resonance_lens.errors import ModelError, ParameterError, PromptError, RecordError, ResultError
from resonance_lens.probing import probe as module
from resonance_lens.probing.places import fit_and_score
from resonance_lens.probing.probe import plan
from resonance_lens.probing.saving import load_probe
from resonance_lens.text_labels import Rule, Text, Values
from tests import models
from tests.probing.test_documents import adapter
from tests.probing.test_store import Killed
from tests.reference_transformer import GPT2

BANDS = ("all", "0-0.05", "0.05-0.5")


def texts(n: int = 18, length: int = 60) -> dict[str, list[str]]:
    """Return documents of ten words, of two halves of the vocabulary, one more frequent in each category."""
    made: dict[str, list[str]] = {"first": [], "second": []}
    rng = random.Random(3)
    for i in range(n):
        share = 0.65 if i % 2 else 0.35
        words = [f"w{rng.randrange(5) + 25 * (rng.random() < share)}" for _ in range(length)]
        made["second" if i % 2 else "first"].append(" ".join(words))
    return made


def _half(text: Text) -> Values:
    return ["high" if int(text.text[a:b].strip()[1:]) >= 25 else "low" for a, b in text.offsets]


HALF = Rule("half", "classes", "token", "which half of the vocabulary the word is of", _half)


def probed(label: Any = HALF, **kwargs: Any) -> Any:
    wanted: dict[str, Any] = {"window": 20, "bands": BANDS, "progress": False, "n_shuffles": 2}
    return rl.probe(adapter().model, kwargs.pop("corpus", texts()), label, **{**wanted, **kwargs})


@pytest.mark.host
def test_a_label_of_tokens_is_read_in_the_fast_band_beside_its_controls() -> None:
    result = probed()
    data = result.data
    assert data["score"].dims == ("probe", "band", "layer") and data["band"].values.tolist() == list(BANDS)
    at = data.sel(probe="linear", layer=0)
    assert float(at["score"].sel(band="all")) > 0.8
    assert float(at["score"].sel(band="0.05-0.5")) > float(at["score"].sel(band="0-0.05")) + 0.05
    assert float(at["score_random_features"].sel(band="all")) > 0.8  # it is in the words themselves
    assert 0.3 < float(at["score_shuffled"].sel(band="all")) < 0.65
    assert float(at["score_majority"].sel(band="all")) < 0.65
    assert (data["score_low"] <= data["score"]).all() and (data["score"] <= data["score_high"]).all()
    np.testing.assert_allclose(data["score_prompt"].mean("prompt"), data["score"], atol=1e-6)
    np.testing.assert_allclose(data["selectivity"], data["score"] - data["score_control_task"], atol=1e-9)
    n_features = 2 * adapter().facts.d_model + 2
    assert (data["n_parameters"] == n_features).all()
    split = result.provenance["probe"]["split"]
    assert not set(split["train"]) & set(split["test"])
    assert data["prompt"].values.tolist() == split["test"]
    best = result.provenance["best"]["linear"]
    chosen = data["score_validation"].sel(layer=best["layer"], band=best["band"])
    assert float(chosen.squeeze()) == float(data["score_validation"].max())
    assert f"at layer {best['layer']} in the band {best['band']}" in result.summary


def test_a_label_of_documents_has_no_control_task_and_is_split_by_class() -> None:
    result = probed("category", bands=("all",), layers=(1,))
    assert "score_control_task" not in result.data
    assert float(result.data["score_low"].min()) >= 0 and float(result.data["score_high"].max()) <= 1
    np.testing.assert_allclose(
        result.data["selectivity"], result.data["score"] - result.data["score_shuffled"]
    )
    for part in result.provenance["probe"]["split"].values():
        numbers = {int(name.split("-")[1]) < 9 for name in part}
        assert numbers == {True, False}  # both categories in each part


def test_a_label_of_documents_cannot_be_read_without_the_mean_and_the_summary_says_why() -> None:
    data = (result := probed("category", layers=(1,), bands=("0-0.05", "0.05-0.5"))).data
    # The mean of each class is zero in that band, but for rounding.
    assert abs(float(data["balanced"].sel(band="0.05-0.5").squeeze()) - 0.5) < 0.15
    assert "cannot read a label of documents there" in result.summary


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, True),
        ({"method": "wavelet", "bands": ("level1",)}, True),
        ({"method": "causal", "bands": ("0.2-0.3",)}, False),
        ({"bands": ("all",)}, False),
    ],
)
def test_it_is_said_where_a_filter_tells_of_the_following_token(settings: dict[str, Any], said: bool) -> None:
    following = Rule("next_half", "classes", "token", "the next word's half", lambda t: [*_half(t)[1:], None])
    assert ("look ahead" in probed(following, layers=(1,), **settings).summary) is said


def test_a_result_is_saved_loaded_compared_and_drawn(tmp_path: Path) -> None:
    one = probed(out=tmp_path / "one")
    loaded = rl.load(tmp_path / "one")["probe"]
    assert loaded.summary == one.summary and loaded.data.equals(one.data)
    assert loaded.views == one.views and loaded.targets(2) == one.targets(2)
    other = models.build(GPT2, seed=1, text=True)
    two = rl.probe(other, texts(), HALF, window=20, bands=BANDS, progress=False, n_shuffles=2)
    difference = rl.compare(one, two)
    np.testing.assert_allclose(
        difference["score_difference"].sel(category="all"), two.data["score"] - one.data["score"], atol=1e-6
    )
    assert difference.attrs["paired"]
    assert len(one.plot().axes) >= len(one.views)
    assert "half" in one.summary and one.methods and (tmp_path / "one" / "run.json").exists()
    assert rl.load(tmp_path / "one").report(tmp_path / "page.html").stat().st_size > 10_000
    fitted, card = load_probe(tmp_path / "one" / "probes" / "linear-L01-0.05-0.5")
    assert card["band"] == "0.05-0.5" and card["classes"] == ["high", "low"] and card["layer"] == 1
    assert fitted.n_parameters == 2 * adapter().facts.d_model + 2
    assert not (tmp_path / "one" / "partial").exists()
    assert probed(out=tmp_path / "one").summary == one.summary  # it is there, and read


def test_a_killed_probe_is_resumed_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probed(layers=(0, 1))
    done = []

    def dies(*args: Any) -> Any:
        done.append(1)
        if len(done) == 4:
            raise Killed
        return fit_and_score(*args)

    monkeypatch.setattr(module, "fit_and_score", dies)
    with pytest.raises(Killed):
        probed(layers=(0, 1), out=tmp_path / "run")
    with pytest.raises(ResultError, match="was not finished"):
        rl.load(tmp_path / "run")
    with pytest.raises(ResultError, match="holds probes with other probe"):
        probed("category", out=tmp_path / "run", bands=("all",))
    resumed = probed(layers=(0, 1), out=tmp_path / "run")
    assert len(done) == 4 + 6 + 3 - 3  # three places were there; three more are of random features
    assert resumed.data.equals(whole.data)
    with pytest.raises(ResultError, match="with other seed"):
        probed(layers=(0, 1), out=tmp_path / "run", seed=1)


def test_features_that_are_kept_serve_another_label(tmp_path: Path) -> None:
    first = probed(features=tmp_path / "f")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "f").iterdir()}
    probed("category", features=tmp_path / "f")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "f").iterdir()} == before
    assert json.loads((tmp_path / "f" / "manifest.json").read_text())["dtype"] == "float16"
    assert first.provenance["features"]["bytes"] == sum(
        np.load(p).nbytes for p in before if p.suffix == ".npy"
    )


def test_the_twin_and_other_probes_stand_beside() -> None:
    result = probed(
        layers=(1,), baselines=("random_weights",), probes=("linear", "logistic"), bands=("all", "0.05-0.5")
    )
    assert np.isfinite(result.data["score_random_weights"]).all()
    assert "with random weights" in result.summary and "logistic " in result.summary
    both = result.data["score"].sel(band="all", layer=1)
    assert abs(float(both[0] - both[1])) < 0.1


def test_probes_that_look_along_tokens_see_whole_records_alone() -> None:
    from resonance_lens.probing.learned import oscillator_bank, spectral_filter

    probes = [spectral_filter(epochs=2, labellings=1), oscillator_bank(epochs=1, labellings=1)]
    data = probed(layers=(0,), probes=probes).data
    assert np.isfinite(data["score"].sel(band="all")).all()
    assert data["score"].sel(band="0-0.05").isnull().all()


def test_the_plan_is_what_is_done(tmp_path: Path) -> None:
    made = plan(adapter().model, texts(), HALF, window=20, bands=BANDS, out=tmp_path / "o")
    result = probed(out=tmp_path / "o", dtype="float16")
    assert made.disk_bytes == result.provenance["features"]["bytes"]
    assert made.places == result.data["score"].size and made.tokens == 18 * 60
    assert made.documents == {k: len(v) for k, v in result.provenance["probe"]["split"].items()}
    assert "GiB of features" in str(made) and not (tmp_path / "o" / "x").exists()
    assert made.as_dict()["classes"] == 2


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"corpus": [" ".join(["w1 w30"] * 9)] * 2}, PromptError, "2 documents are too few"),
        ({"label": "category", "corpus": texts()["first"]}, PromptError, "has no class with at least 3"),
        ({"label": "word_clas"}, ParameterError, "Did you mean 'word_class'"),
        ({"probes": "linea"}, ParameterError, "There is no probe 'linea'.*Did you mean 'linear'"),
        ({"probes": "fourier_head"}, ParameterError, "fourier_head is for ordered labels"),
        ({"bands": ("mid-low",)}, RecordError, "'mid-low' cannot be read from windows of 20 measured tokens"),
        ({"bands": ("loww",)}, ParameterError, "There is no band 'loww'"),
        ({"bands": ("none",)}, ParameterError, "'none' has nothing in it"),
        ({"method": "fft"}, ParameterError, "Bands are made by dct, wavelet, causal; got 'fft'"),
        ({"site": "pattern"}, ParameterError, "Probes read a site of tokens"),
        ({"layers": (7,)}, ParameterError, "'layers' parameter of probe must be layers out of 0 to"),
        ({"baselines": ("twin",)}, ParameterError, "no baseline of probe 'twin'"),
        ({"n_shuffles": 0}, ParameterError, "'n_shuffles' parameter"),
        ({"batch_tokens": 0}, ParameterError, "'batch_tokens' parameter"),
        ({"split": {"train": ["prompt-000"], "test": ["prompt-000"]}}, PromptError, "The split leaks"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_sentence(kwargs: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        probed(**kwargs)


def test_a_cache_is_refused() -> None:
    _, cache = adapter().model.run_with_cache("w1 w2 w3")
    with pytest.raises(ModelError, match="probe needs a model that can be run"):
        rl.probe(cache, texts(), HALF)


def test_a_disk_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1000)
    with pytest.raises(ResultError, match="are free there; give another folder as features"):
        probed()
