"""What a probe's result shows along a text, and a saved probe on a new one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.errors import ModelError, PromptError, RecordError, ResultError
from resonance_lens.nn import OscillatorBank, SpectralFilter
from resonance_lens.patching.operations.bands import band_matrix
from resonance_lens.probing.learned import fourier_head, oscillator_bank, spectral_filter
from resonance_lens.probing.reading import windows
from resonance_lens.probing.saving import file_name, load_probe
from resonance_lens.views.build import build
from resonance_lens.views.images import Image
from resonance_lens.views.token_values import TokenValues
from tests import models
from tests.probing.test_documents import adapter, words
from tests.probing.test_probe import probed
from tests.reference_transformer import GPT2

BANDS = ("all", "0.05-0.5")
_kept: list[TemporaryDirectory[str]] = []


@cache
def folder(name: str) -> Path:
    """Return a folder with probes of the halves of the vocabulary, or of the position in the window."""
    _kept.append(TemporaryDirectory())
    out = Path(_kept[-1].name) / name
    if name == "half":
        probes = ("linear", spectral_filter(epochs=2), oscillator_bank(epochs=2))
        probed(out=out, bands=BANDS, layers=(0, 1), probes=probes)
    else:
        probed("position", out=out, bands=("all",), layers=(0,), probes=("linear", fourier_head(epochs=2)))
    return out


def activations(text: str, layer: int) -> Any:
    """Return the residual stream ``[token, feature]`` behind a layer, without the token in front."""
    model = adapter().model
    tokens = torch.tensor([[1, *adapter().tokenizer(text, add_special_tokens=False)["input_ids"]]])
    _, found = model.run_with_cache(tokens)
    return found["resid_post", layer][0, 1:].detach()


@pytest.mark.host
def test_a_saved_probe_reads_a_text_as_its_weights_say() -> None:
    text = words(17, 20)
    path = folder("half") / "probes" / file_name("linear", 1, "0.05-0.5")
    result = rl.read_probe(path, adapter().model, text)
    fitted, _ = load_probe(path)
    filtered = band_matrix("0.05-0.5", "dct", 17).float() @ activations(text, 1)
    outputs = filtered @ fitted.tensors()["weight"] + fitted.tensors()["bias"]
    wanted = outputs.softmax(-1).T
    np.testing.assert_allclose(result.data["probability"], wanted, atol=1e-4)
    np.testing.assert_allclose(result.data["probability"].sum("class"), 1, atol=1e-9)
    assert result.data["token_text"].values.tolist() == text.split()
    assert result.data["class"].values.tolist() == ["high", "low"]
    assert (result.data["predicted"] == outputs.argmax(-1)).all()


def test_a_folder_stands_for_its_best_probe_and_names_the_others() -> None:
    text, model = words(18, 20), adapter().model
    best = rl.load(folder("half"))["probe"].provenance["best"]
    for name in ("linear", "spectral_filter"):
        path = folder("half") / "probes" / file_name(name, best[name]["layer"], best[name]["band"])
        chosen = rl.read_probe(folder("half"), model, text, probe=name)
        assert chosen.data.equals(rl.read_probe(load_probe(path), model, text).data)
    assert rl.read_probe(folder("half"), model, text).data.equals(
        rl.read_probe(folder("half"), model, text, probe="linear").data
    )


def test_a_long_text_is_read_in_the_windows_of_training() -> None:
    saved = load_probe(folder("half") / "probes" / file_name("linear", 1, "0.05-0.5"))
    text, model = words(47), adapter().model
    each = text.split()
    whole = rl.read_probe(saved, model, text).data["probability"]
    for start, stop, kept in ((0, 20, 0), (20, 40, 0), (27, 47, 13)):
        part = rl.read_probe(saved, model, " ".join(each[start:stop])).data["probability"]
        np.testing.assert_allclose(whole[:, start + kept : stop], part[:, kept:], atol=1e-6)


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("n", [2, 20, 21, 39, 40, 41, 200])
def test_windows_leave_no_token_out(n: int, lead: int) -> None:
    found = windows(n, 20, lead)
    read = set().union(*(range(start + lead, stop) for start, stop in found))
    assert read == set(range(lead, n))
    assert {stop - start for start, stop in found} == {min(n, 20)}


def test_an_ordered_label_has_values_and_a_density_that_is_one() -> None:
    model, text = adapter().model, words(20, 7)
    result = rl.read_probe(folder("position"), model, text, probe="fourier_head")
    density, centres = result.data["density"], result.data["value_bin"].values
    np.testing.assert_allclose(density.sum("value_bin") * (centres[1] - centres[0]), 1, atol=1e-6)
    expected = (density * (centres[1] - centres[0]) * centres[:, None]).sum("value_bin")
    np.testing.assert_allclose(result.data["value"], expected, atol=1e-4)
    assert "density" not in rl.read_probe(folder("position"), model, text, probe="linear").data


def test_a_reading_is_seen_as_coloured_tokens_saved_and_loaded(tmp_path: Path) -> None:
    result = rl.read_probe(folder("half"), adapter().model, words(19))
    shown = build(result.views[0], result)
    assert isinstance(shown, TokenValues) and shown.tokens == tuple(words(19).split())
    np.testing.assert_allclose(
        shown.groups[0].tracks[0].values, result.data["probability"].sel({"class": "high"})
    )
    assert result.view()._repr_html_() and result.plot()
    result.save(tmp_path / "reading.nc")
    assert rl.Result.load(tmp_path / "reading.nc").data.equals(result.data)
    assert "half in resid_post" in result.summary and "19 tokens" in result.summary


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": 8}, ModelError, "reads 8 features of resid_post"),
        ({"layer": 30}, ModelError, "at layer 30 of"),
        ({"weights_fingerprint": "other"}, ModelError, "with other weights.*any_weights=True"),
        ({"window": None}, ResultError, "does not say its window; fit the probe again"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    fitted, card = load_probe(folder("half") / "probes" / file_name("linear", 1, "0.05-0.5"))
    changed = {key: value for key, value in {**card, **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        rl.read_probe((fitted, changed), adapter().model, words(20))


def test_other_weights_are_read_when_that_is_asked_for() -> None:
    other = models.build(GPT2, seed=1, text=True)
    with pytest.raises(ModelError, match="other weights"):
        rl.read_probe(folder("half"), other, words(20))
    theirs = rl.read_probe(folder("half"), other, words(20), any_weights=True)
    ours = rl.read_probe(folder("half"), adapter().model, words(20))
    assert not np.allclose(theirs.data["probability"], ours.data["probability"])


def test_texts_that_are_too_short_are_refused() -> None:
    saved = load_probe(folder("half") / "probes" / file_name("linear", 1, "0.05-0.5"))
    with pytest.raises(PromptError, match="no tokens"):
        rl.read_probe(saved, adapter().model, " ")
    with pytest.raises(RecordError, match="cannot be read from windows of 1 measured"):
        rl.read_probe(saved, adapter().model, "w3")
    with pytest.raises(ResultError, match="no probe in"):
        rl.read_probe(folder("half"), adapter().model, words(20), probe="logistic")


# ------------------------------------------------------------------------- what a probe's result shows


def test_the_specimen_is_of_a_test_document_and_says_what_saved_probes_say() -> None:
    result = rl.load(folder("half"))["probe"]
    about = result.provenance["probe"]
    document = result.data["token"].attrs["long_name"].rsplit(" ", 1)[1]
    assert document in about["split"]["test"]
    text = " ".join(result.data["token_text"].values)
    best = result.provenance["best"]
    for name in about["probes"]:
        read = rl.read_probe(folder("half"), adapter().model, text, probe=name)
        given = result.data["specimen_probability"].sel(probe=name)
        # Features of training were stored as float16.
        np.testing.assert_allclose(given, read.data["probability"], atol=0.02, err_msg=str(best[name]))
    high = np.array([int(word[1:]) >= 25 for word in text.split()])
    assert (result.data["specimen_is"].sel({"class": "high"}) == high).all()
    own = result.data["specimen_probability"].where(result.data["specimen_is"] == 1).sum("class")
    np.testing.assert_allclose(result.data["specimen_right"], own, atol=1e-6)


def test_a_learned_filter_stands_in_the_result_as_its_module_has_it() -> None:
    data = rl.load(folder("half"))["probe"].data
    for layer in (0, 1):
        fitted: Any = load_probe(folder("half") / "probes" / file_name("spectral_filter", layer, "all"))[0]
        assert isinstance(fitted.module, SpectralFilter)
        np.testing.assert_allclose(data["filter"].sel(layer=layer), fitted.module.gains.detach(), atol=1e-6)
        np.testing.assert_allclose(data["frequency"], fitted.module.frequencies, atol=1e-7)
    assert data["frequency"].attrs["units"] == "cycles per token"


def test_oscillators_stand_from_slow_to_fast_with_their_phases_and_couplings() -> None:
    result = rl.load(folder("half"))["probe"]
    place = result.provenance["best"]["oscillator_bank"]
    path = folder("half") / "probes" / file_name("oscillator_bank", place["layer"], "all")
    bank: Any = load_probe(path)[0].module  # type: ignore[attr-defined]
    assert isinstance(bank, OscillatorBank)
    data = result.data
    frequency = data["natural_frequency"].values
    assert (np.diff(frequency) >= 0).all()
    order = np.argsort(bank.frequencies[:, 0].detach().numpy(), kind="stable")
    np.testing.assert_allclose(frequency, bank.frequencies[order, 0].detach(), atol=1e-6)
    np.testing.assert_allclose(data["importance"], bank.importance[order].detach(), atol=1e-5)
    couplings = bank.couplings.detach().numpy()
    assert float(data["coupling"][2, 5]) == pytest.approx(couplings[order[2], order[5]], abs=1e-5)
    mean = np.exp(1j * data["phase"]).mean("oscillator")
    np.testing.assert_allclose(abs(mean), data["order_parameter"], atol=1e-5)
    assert data["coherence"].dims == ("class", "natural_frequency")
    assert float(data["coherence"].min()) >= 0 and float(data["coherence"].max()) <= 1
    view = next(v for v in result.views if v.title.startswith("Oscillators: phases"))
    shown = build(view, result)
    assert isinstance(shown, Image) and shown.limits == (-np.pi, np.pi)


def test_densities_stand_beside_the_true_value() -> None:
    result = rl.load(folder("position"))["probe"]
    data = result.data
    assert bool(data["density"].sel(probe="linear").isnull().all())
    step = float(data["value"][1] - data["value"][0])
    np.testing.assert_allclose(data["density"].sel(probe="fourier_head").sum("value") * step, 1, atol=1e-5)
    np.testing.assert_array_equal(data["specimen_value_true"], np.arange(20))
    view = next(v for v in result.views if v.title == "Densities at three tokens")
    assert view.select["token"] == [2, 10, 17] and view.select["probe"] == ["fourier_head"]
    panels: Any = build(view, result)
    assert [panel.uprights for panel in panels.panels] == [(("true value", float(t)),) for t in (2, 10, 17)]


def test_a_card_says_what_reading_needs() -> None:
    path = folder("half") / "probes" / (file_name("linear", 1, "all") + ".json")
    card = json.loads(path.read_text())
    assert card["window"] == 20 and card["bos"] is True and card["features"] == adapter().facts.d_model
