"""What is read from bands: definitions, planted labels, arithmetic, and input in which there is little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import fft

import resonance_lens as rl
from resonance_lens.analyses.spectral_probe import SpectralProbe, _Label, _majority, _of_categories
from resonance_lens.contract import Planted
from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.planting import attention_facts
from resonance_lens.result import Result
from resonance_lens.testing import PlantedAdapter, result_of
from resonance_lens.trials import observe, part_of
from tests.models import smollm2

Floats = NDArray[np.float64]

WORDS = 64


def planted(values: Floats, lengths: Sequence[int], tokens: NDArray[np.int64] | None = None) -> Planted:
    """Return values ``[prompt, token, feature]`` of one layer; every word has one of two classes."""
    rng = np.random.default_rng(99)
    given = rng.integers(WORDS, size=values.shape[:2]) if tokens is None else tokens
    return Planted(
        [{"resid_post": torch.from_numpy(values)}],
        torch.tensor(lengths),
        attention_facts(n_layers=1, n_heads=1, d_model=values.shape[-1], d_vocab=WORDS),
        lambda data: None,
        token_labels=lambda rule, ids: ids % 2,
        tokens=torch.from_numpy(given),
    )


def found(source: Planted, analysis: SpectralProbe | None = None, categories: Sequence[str] = ()) -> Result:
    adapter = PlantedAdapter(source)
    rows = adapter.tokens()
    return result_of(analysis or SpectralProbe(), adapter, rows, categories=list(categories) or None)


def scores(result: Result, label: str) -> xr.DataArray:
    values: xr.DataArray = result.data.score.sel(category="all", label=label).isel(layer=0)
    return values


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------- against definitions


@pytest.mark.parametrize("sketch", [8, 20])
def test_features_are_bands_of_the_record_in_a_sketch(sketch: int) -> None:
    lengths = [40, 90]
    x = noise(2, 90, 12)
    analysis = SpectralProbe(sketch=sketch, tokens=10)
    source = planted(x, lengths)
    adapter = PlantedAdapter(source)
    rows = observe(analysis, adapter, adapter.tokens())[0].rows
    assert rows["values"].shape == (2, 1, 5, 10, min(sketch, 12))
    for p, n in enumerate(lengths):
        drawn = rows["position"][p, 0] - 1
        assert len(set(drawn)) == 10 and drawn.min() >= 0 and drawn.max() < n - 1
        record = x[p, 1:n]
        # What the sketch is shows where there is no filter: all bands together are the record.
        whole = rows["values"][p, 0].sum(0)
        if sketch == 20:
            np.testing.assert_allclose(record[drawn], whole, atol=1e-9)
        cosines = fft.dct(record, type=2, norm="ortho", axis=0)
        sizes = []
        for b, band in enumerate(PRISM_BANDS):
            first, stop = band.indices(n - 1)
            part = np.zeros_like(cosines)
            part[first:stop] = cosines[first:stop]
            wanted = fft.idct(part, type=2, norm="ortho", axis=0)[drawn]
            if sketch == 20:
                np.testing.assert_allclose(rows["values"][p, 0, b], wanted, atol=1e-9)
            sizes.append(np.linalg.norm(rows["values"][p, 0, b]))
            assert (sizes[-1] > 0) == (stop > first)
    assert (rows["values"][0, 0, 1] == 0).all()  # 39 tokens hold no wave of mid-low


def test_r_squared_is_of_the_variance_within_prompts() -> None:
    """A trend that is the same in all prompts is read; where prompts stand does not count."""
    lengths = [30 + 5 * i for i in range(12)]
    x = 1e-3 * noise(12, max(lengths), 6)
    x[..., 0] += np.arange(max(lengths))  # the position itself
    read = scores(found(planted(x, lengths)), "position")
    assert float(read.sel(band="all")) > 0.98
    # The mean of a record tells its length, and nothing of where in it a token stands.
    assert abs(float(read.sel(band="low"))) < 1e-6


# --------------------------------------------------------------------------------- what is planted


def test_a_class_is_read_in_the_band_where_it_is() -> None:
    lengths = [70 + i for i in range(20)]
    tokens = np.random.default_rng(1).integers(WORDS, size=(20, 90))
    x = noise(20, 90, 8)
    for p, n in enumerate(lengths):
        cosines = fft.dct(2.0 * (tokens[p, 1:n] % 2) - 1, type=2, norm="ortho")
        cosines[: PRISM_BANDS[-1].indices(n - 1)[0]] = 0
        x[p, 1:n, 3] += 6 * fft.idct(cosines, type=2, norm="ortho")
    result = found(planted(x, lengths, tokens))
    read = scores(result, "word_class")
    assert float(read.sel(band="high")) > 0.9
    assert float(read.sel(band=["low", "mid-low", "mid", "mid-high"]).max()) < 0.65
    assert "word_class is read best from the band 'high'" in result.summary
    assert "No band reads position" in result.summary
    # Random vectors of the words know their classes too, where the words are few.
    assert float(result.data.score_random_features.sel(label="word_class", band="low").max()) < 0.65
    assert [target.layer for target in result.ranked] == [0]


def test_over_depth_stands_the_band_from_which_most_is_read() -> None:
    x = noise(20, 90, 8)
    x[..., 3] += 6 * np.cos(np.pi * np.arange(90) / 90)  # half a wave a prompt
    result = found(planted(x, [90] * 20))
    assert "position is read best from the band 'mid-low'" in result.summary
    over_depth = next(spec for spec in result.views if spec.title == "position: R squared over depth")
    assert over_depth.select["band"] == ["all", "low", "mid-low", "high"]


def test_a_category_is_read_from_the_low_band_alone_however_large() -> None:
    """Elsewhere the values of a prompt add up to zero: it is arithmetic, and is said."""
    lengths = [40 + i for i in range(24)]
    x = noise(24, 64, 8)
    categories = ["prose", "code"] * 12
    x[::2] += 50 * np.eye(8)[2]
    x[1::2] *= 1.5  # which no linear probe sees
    result = found(planted(x, lengths), categories=categories)
    read = scores(result, "category")
    assert float(read.sel(band="low")) == float(read.sel(band="all")) == 1.0
    assert float(read.sel(band=["mid", "mid-high", "high"]).max()) < 0.65
    assert "category is read best from the band 'low'" in result.summary
    assert "there the values of each prompt add up to zero" in result.summary
    kept = result.data.score_prompt.sel(label="category", band="low").isel(layer=0)
    assert set(kept.values.tolist()) == {1.0}


def test_random_labels_are_at_chance() -> None:
    means = []
    for seed in range(4):
        tokens = np.random.default_rng(seed).integers(WORDS, size=(16, 60))
        source = planted(noise(16, 60, 8, seed=100 + seed), [45 + i % 15 for i in range(16)], tokens)
        result = found(source, categories=["a", "b"] * 8)
        for label in ("word_class", "category"):
            means.append(float(scores(result, label).mean()) - 0.5)
            assert float(abs(result.data.selectivity.sel(label=label, category="all").mean())) < 0.15
    assert abs(np.mean(means)) < 0.04


# ------------------------------------------------------------------------- where there is little


def test_few_prompts_one_prompt_and_prompts_that_are_the_same() -> None:
    x, lengths = noise(12, 40, 6), [30 + i % 7 for i in range(12)]
    source = planted(x, lengths)
    for part in (part_of(source, prompts=[0]), part_of(source, prompts=range(7))):
        result = found(part)
        assert result.summary == "Nothing is read: a probe needs 8 prompts that differ, and labels that do."
        assert result.data.score.isnull().all() and result.views == () and result.ranked == ()
    same = np.repeat(np.random.default_rng(0).integers(WORDS, size=(1, 40)), 12, axis=0)
    alike = replace(source, tokens=torch.from_numpy(same), lengths=torch.full((12,), 30))
    assert found(alike).summary.startswith("Nothing is read")


def test_one_class_and_one_category_and_rare_ones() -> None:
    x, lengths = noise(12, 40, 6), [30 + i % 7 for i in range(12)]
    source = planted(x, lengths)
    none = replace(source, token_labels=lambda rule, ids: torch.full_like(ids, -1))
    one = replace(source, token_labels=lambda rule, ids: torch.zeros_like(ids))
    for without in (none, one):
        result = found(without, categories=["a"] * 12)
        assert result.data.label.values.tolist() == ["word_class", "position"]
        assert "word_class is not read: it needs two classes, in 8 prompts." in result.summary
        assert "No category is read: the prompts do not have two." in result.summary
        assert bool(scores(result, "position").sel(band="high").notnull())
    rare = found(source, categories=["a"] * 10 + ["b"] * 2)
    assert "category is not read: it needs two classes, each of 3 prompts, in 8 prompts." in rare.summary
    left = found(source, categories=["a"] * 5 + ["b"] * 5 + ["c"] * 2)
    assert int(left.data.n_prompts.sel(label="category", band="high")) == 10
    assert int(left.data.n_classes.sel(label="category")) == 2


def test_a_band_is_read_where_enough_prompts_are_long_enough() -> None:
    lengths = [30] * 12 + [80] * 9
    data = found(planted(noise(21, 80, 6), lengths)).data
    assert data.n_prompts.sel(label="position").to_series().to_dict() == {
        "all": 21, "low": 21, "mid-low": 9, "mid": 12 + 9, "mid-high": 21, "high": 21,
    }  # fmt: skip
    short = found(planted(noise(12, 9, 6), [9] * 12)).data
    read = short.score.sel(category="all", label="position").isel(layer=0)
    assert read.notnull().sel(band=["all", "low", "mid-high", "high"]).all()
    assert read.isnull().sel(band=["mid-low", "mid"]).all()


# ------------------------------------------------------------------------------------- a real model


def test_smollm2_has_words_in_the_high_band() -> None:
    texts = [prompt.text for prompt in rl.demo_prompts() if prompt.text is not None][::8]
    run = rl.run(smollm2(), texts, "spectral_probe", baselines=(), progress=False)
    result = run["spectral_probe"]
    read = result.data.score.sel(category="all", label="word_class").isel(layer=3)
    assert float(read.sel(band="high")) > float(read.sel(band="low")) + 0.2
    assert "word_class is read best from the band 'high'" in result.summary
    assert "No category is read" in result.summary


def test_the_most_frequent_class_is_that_of_other_folds_in_the_band() -> None:
    values = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    resolved = np.array([[True, True], [True, True], [True, False], [True, True]])
    found = _majority(_Label(values[None], 2, np.arange(4)[None]), resolved)
    wanted = np.array([[1 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 0], [0, 1]])
    np.testing.assert_allclose(found, wanted)


def test_random_vectors_know_which_word_stands_where() -> None:
    tokens = np.random.default_rng(2).integers(4, size=(16, 60))
    data = found(planted(noise(16, 60, 8), [45 + i % 15 for i in range(16)], tokens)).data
    random = data.score_random_features.sel(category="all", label="word_class").isel(layer=0)
    assert float(random.sel(band="all")) > 0.95 and float(random.sel(band="low")) < 0.7


def test_a_band_of_one_category_is_not_read_and_shuffles_keep_the_categories_of_a_band() -> None:
    categories = ["code"] * 12 + ["prose"] * 15
    for extra, sure in ((0, None), (3, 0.0)):
        lengths = [80] * (12 + extra) + [30] * (15 - extra)
        data = found(planted(noise(27, 80, 6), lengths), categories=categories).data
        here = data.sel(label="category", band="mid-low").isel(layer=0)
        if sure is None:
            assert here.score.isnull().all()
        else:
            assert float(here.score_majority.sel(category="all")) == 12 / 15
            assert float(here.selectivity_low.sel(category="all")) <= 0.05


def test_shuffled_categories_are_dealt_to_folds_as_evenly_as_the_categories_are() -> None:
    """A fold with more of a class leaves less of it to learn from: what knows nothing were below chance."""
    rng = np.random.default_rng(0)
    rows = {
        "length": np.full(23, 80),
        "lots": rng.integers(2**62, size=(23, 4)),
        "position": np.zeros((23, 1)),
    }
    label = _of_categories(["code"] * 13 + ["prose"] * 10, rows)
    assert len({values[:, 0].tobytes() for values in label.values}) == 4  # the categories, and three deals
    for values, folds in zip(label.values[..., 0], label.folds, strict=True):
        for each in (0, 1):
            held = np.bincount(folds[values == each], minlength=5)
            assert held.max() - held.min() <= 1, held
