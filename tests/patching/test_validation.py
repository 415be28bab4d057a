"""Does a number predict effects: what is planted is found at its size, and else no more often than chance."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import signal, stats

import resonance_lens as rl
from resonance_lens.calibration import most
from resonance_lens.errors import ParameterError, ResultError
from resonance_lens.patching.patched import PatchResult
from resonance_lens.patching.validation.columns import Column, Kind
from resonance_lens.patching.validation.correlations import Places, bounds, resampled
from resonance_lens.patching.validation.numbers import Number
from resonance_lens.patching.validation.predictors import MIN_KEYS, measure_predictors
from resonance_lens.prompts import token_digests
from resonance_lens.registry import catalogue
from resonance_lens.result import Result
from resonance_lens.stats.ranks import design, infer_ranks, spearman
from resonance_lens.validating import HEADS as HELD_HEADS
from resonance_lens.validating import LAYERS as HELD_LAYERS
from resonance_lens.validating import LEFT_OUT, main, outdated, read_record
from resonance_lens.views.validation import BEGIN, END, overview, section, write_block
from tests.models import build
from tests.reference_transformer import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
Floats = NDArray[np.float64]
LAYERS, HEADS, SHARED = 12, 6, 3
PLACES = LAYERS * HEADS
PAIRS = 16

MODEL = {"model_name": "imagined", "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": HEADS // SHARED}


def layer_of(places: int = PLACES) -> NDArray[np.int64]:
    return np.arange(places) // HEADS


# Results made by hand -----------------------------------------------------------------------------------


def swept(
    task: str,
    effect: Floats,
    *,
    rng: np.random.Generator,
    noise: float = 0.1,
    rows: tuple[str, ...] = (),
    site: str = "z",
    fingerprint: str = "a",
    operations: tuple[str, ...] = ("patch",),
) -> PatchResult:
    """Return a sweep whose effects are given: what `validate` reads of one."""
    n = len(effect)
    metric = np.asarray(effect)[:, None] + noise * rng.normal(size=(n, PAIRS))
    beyond = metric - noise * rng.normal(size=(n, PAIRS))
    p = stats.ttest_1samp(beyond, 0.0, axis=1).pvalue
    of_heads = n == PLACES
    layer = layer_of() if of_heads else np.arange(n)
    head = np.arange(n) % HEADS if of_heads else np.full(n, -1)
    dims = ("operation", "target")
    data = xr.Dataset(
        {
            "metric": ((*dims, "pair"), np.stack([metric] * len(operations)), {"units": "logits"}),
            "metric_base": ("pair", np.zeros(PAIRS)),
            "metric_clean": ("pair", np.full(PAIRS, 4.0)),
            "metric_corrupted": ("pair", np.zeros(PAIRS)),
            "effect": (dims, np.stack([metric.mean(1)] * len(operations))),
            "effect_beyond": (dims, np.stack([beyond.mean(1)] * len(operations))),
            "effect_beyond_p": (dims, np.stack([p] * len(operations))),
        },
        coords={
            "operation": list(operations),
            "target": [f"L{a}H{b}" if of_heads else f"L{a}" for a, b in zip(layer, head, strict=True)],
            "site": ("target", [site] * n),
            "target_layer": ("target", layer),
            "target_head": ("target", head),
            "position": ("target", ["all"] * n),
        },
    )
    about = {
        "model": MODEL,
        "weights_fingerprint": fingerprint,
        "prompts": {"rows": list(rows), "digest": task},
        "task": {"name": task, "digest": task, "accuracy": 0.9, "tried": 20},
        "patch": {"metric": "logit_difference"},
        "parameters": {"direction": "denoise", "operation": ", ".join(operations)},
    }
    return PatchResult(name="patch", data=data, provenance=about)


def measured(values: Floats, *, rows: tuple[str, ...] = ("m",), prompts: Floats | None = None) -> Result:
    """Return a result with one number for each head, or each layer."""
    dims = ("layer", "head") if values.size == PLACES else ("layer",)
    shape = (LAYERS, HEADS) if values.size == PLACES else (LAYERS,)
    made: dict[str, Any] = {
        "sharpness": (("category", *dims), values.reshape(1, *shape), {"long_name": "sharpness; no unit"})
    }
    if prompts is not None:
        made["sharpness_prompt"] = (("prompt", *dims), prompts.reshape(-1, *shape))
    coords: dict[str, Any] = {"category": ["all"], "layer": np.arange(LAYERS)}
    if "head" in dims:
        coords["head"] = np.arange(HEADS)
    about = {
        "model": MODEL,
        "weights_fingerprint": "a",
        "headline": "sharpness",
        "version": "1",
        "parameters": {},
        "prompts": {"rows": list(rows), "digest": "metric"},
    }
    return Result(name="imagined", data=xr.Dataset(made, coords=coords), provenance=about)


def known(rng: np.random.Generator, values: Floats | None = None) -> xr.Dataset:
    values = rng.normal(size=(2, PLACES)) if values is None else values
    names = ("attention_entropy", "output_norm")
    shaped = values.reshape(2, LAYERS, HEADS)
    return xr.Dataset(
        {name: (("layer", "head"), one) for name, one in zip(names, shaped, strict=True)},
        coords={"layer": np.arange(LAYERS), "head": np.arange(HEADS)},
        attrs={"rows": ["p"]},
    )


def two(effect: Floats, rng: np.random.Generator, **about: Any) -> list[Result]:
    return [swept("a", effect, rng=rng, **about), swept("b", rng.normal(size=len(effect)), rng=rng, **about)]


def validate(*arguments: Any, **settings: Any) -> Result:
    """Validate with few rearrangements."""
    return rl.validate(*arguments, **{"n_draws": 199, **settings})


def of(validation: Result, test: str, task: str = "a") -> float:
    return float(validation.data[test].sel(task=task, of="size")[0])


# What is planted is found, and nothing else --------------------------------------------------------------


def test_a_number_that_drives_the_effect_within_layers_is_credited_with_it() -> None:
    rng = np.random.default_rng(0)
    x, entropy, norm = rng.normal(size=(3, PLACES))
    effect = np.exp(x + 0.5 * entropy + 0.5 * rng.normal(size=PLACES) + 0.1 * layer_of())
    found = validate(measured(x), two(effect, rng), predictors=known(rng, np.stack([entropy, norm])))
    assert of(found, "beyond_predictors_q") <= 0.05 < of(found, "beyond_predictors_q", "b")
    assert of(found, "beyond_predictors") > 0.7
    # Together with the number the effect is foretold better than without.
    before = found.data.predictor_correlation.sel(predictor="together", task="a")
    assert float(found.data.with_number.sel(task="a")[0]) > float(before) + 0.2
    assert "predicts how large the effect is on a (rank correlation ." in found.summary
    assert ", but not surely on b (" in found.summary
    assert "; it adds to layer, attention entropy and output norm on a (what is left ." in found.summary


def test_a_number_that_merely_follows_the_layer_is_not_credited() -> None:
    rng = np.random.default_rng(1)
    depth = 4 * np.exp(-0.5 * (layer_of() - 5) ** 2)
    effect = depth + 0.3 * np.abs(rng.normal(size=PLACES))
    x = depth + 0.3 * rng.normal(size=PLACES)
    found = validate(measured(x), two(effect, rng), predictors=known(rng))
    assert of(found, "rank_correlation") > 0.5 and of(found, "rank_correlation_q") <= 0.05
    assert abs(of(found, "beyond_depth")) < 0.3 and of(found, "beyond_depth_q") > 0.05
    assert (
        "and only as depth does: it adds nothing sure to layer, attention entropy and output norm"
        in found.summary
    )


def test_a_number_that_follows_what_is_known_adds_nothing_to_it() -> None:
    rng = np.random.default_rng(2)
    entropy, norm = rng.normal(size=(2, PLACES))
    effect = np.exp(entropy + 0.5 * rng.normal(size=PLACES))
    x = entropy + 0.5 * rng.normal(size=PLACES)
    found = validate(measured(x), two(effect, rng), predictors=known(rng, np.stack([entropy, norm])))
    assert of(found, "beyond_depth_q") <= 0.05 < of(found, "beyond_predictors_q")
    assert "within layers something of it is left on a (" in found.summary
    assert "but it adds nothing sure to layer, attention entropy and output norm." in found.summary


def imagined(effect: Floats) -> Column:
    matters = np.zeros(len(effect), dtype=bool)
    words = dict.fromkeys(("label", "task", "operation", "site", "direction", "metric", "units"), "")
    return Column(**words, rows=effect[None], scale=1.0, matters=matters)


@pytest.mark.parametrize("kind", ["heads", "layers"])
def test_where_there_is_nothing_something_is_found_no_more_often_than_the_level(kind: Kind) -> None:
    """Effects and numbers share nothing; heads that share keys, or neighbouring layers, are alike."""
    rng, n_trials = np.random.default_rng(3), 400
    n = PLACES if kind == "heads" else 24
    layer = layer_of() if kind == "heads" else np.arange(n)
    block = (np.arange(n) % HEADS) // SHARED if kind == "heads" else np.zeros(n, dtype=int)
    wrong = dict.fromkeys(("beyond_depth", "beyond_predictors"), 0)
    for _ in range(n_trials):
        alike = signal.lfilter([1], [1, -0.8], rng.normal(size=(6, n)))
        if kind == "heads":
            alike = np.repeat(rng.normal(size=(6, n // SHARED)), SHARED, axis=1) + rng.normal(size=(6, n))
        x, y, entropy = alike[:2], alike[2:4], alike[4:]
        places = Places(
            kind=kind,
            labels=("",) * n,
            layer=layer,
            block=block,
            numbers=[Number(label="", long_name="", values=np.stack([one, one])) for one in x],
            columns=[imagined(one) for one in y],
            known={"attention_entropy": entropy},
            left_out=0,
        )
        values = np.stack([one.values for one in places.numbers])
        for test in wrong:
            found = infer_ranks(values, np.abs(y), places.bases(test), places.shuffle(test), rng, n_draws=199)
            wrong[test] += int((found.q <= 0.05).any())
    assert max(wrong.values()) <= most(0.05, n_trials), wrong
    assert min(wrong.values()) > 0  # a test that never rejects proves nothing


def test_intervals_hold_the_mean_correlation_over_drawings_of_the_pairs() -> None:
    """Of one set of heads, with pairs drawn anew: what the intervals are said to be about."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=PLACES)
    effect = x + rng.normal(size=PLACES)

    def drawn() -> Floats:
        return effect + rng.normal(size=(PAIRS, PLACES))

    true = np.mean([spearman(x, drawn().mean(0)) for _ in range(300)])
    held, basis = [], [design([np.zeros(PLACES)])]
    for _ in range(100):
        column = replace(imagined(effect), rows=drawn())
        places = Places(
            kind="heads",
            labels=("",) * PLACES,
            layer=layer_of(),
            block=np.zeros(PLACES, dtype=int),
            numbers=[Number(label="", long_name="", values=x[None])],
            columns=[column],
            known={},
            left_out=0,
        )
        found = np.array([abs(column.mean), column.mean])
        correlation = spearman(x, found)[None, None]
        low, high = bounds(correlation, resampled(places, rng), basis, places)
        held.append(low[0, 0, 1] <= true <= high[0, 0, 1])
    assert 0.88 <= np.mean(held)


# What else it says --------------------------------------------------------------------------------------


def test_auroc_is_of_the_places_that_surely_exceed_their_placebo() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=PLACES)
    effect = np.where(x > 1, 2.0, 0.0)
    both = [swept(task, effect, rng=rng, noise=0.05) for task in "ab"]
    found = validate(measured(x), both, smallest=0.25)
    assert found.data.n_matter.values.tolist() == [int((x > 1).sum())] * 2
    assert (found.data.auroc == 1.0).all()
    few = validate(measured(x), both, smallest=0.9)
    assert np.isnan(few.data.auroc).all()
    assert "There is no AUROC on a and b, where none does." in few.summary
    every = [swept(task, np.full(PLACES, 2.0), rng=rng) for task in "ab"]
    assert "There is no AUROC on a and b, where all do." in validate(measured(x), every).summary


def test_the_sign_of_an_effect_is_held_apart_from_its_size() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=PLACES)
    data = validate(measured(x), two(x, rng, noise=0.01)).data.isel(variable=0).sel(task="a")
    assert float(data.rank_correlation.sel(of="sign")) > 0.99
    size = float(spearman(x, np.abs(x)))
    assert float(data.rank_correlation.sel(of="size")) == pytest.approx(size, abs=0.02)


def test_a_number_that_is_a_predictor_leaves_nothing_beyond_it() -> None:
    rng = np.random.default_rng(7)
    x, norm = rng.normal(size=(2, PLACES))
    found = validate(measured(x), two(x, rng), predictors=known(rng, np.stack([x, norm])))
    assert np.isnan(found.data.beyond_predictors).all() and not np.isnan(found.data.beyond_depth).any()


def test_a_constant_number_is_said_to_predict_nothing() -> None:
    rng = np.random.default_rng(8)
    found = validate(measured(np.ones(PLACES)), two(rng.normal(size=PLACES), rng))
    assert found.summary.startswith("`sharpness` is the same in all heads, and predicts nothing.")


def test_places_without_a_number_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=PLACES)
    x[:7] = np.nan
    effects = two(rng.normal(size=PLACES), rng)
    found = validate(measured(x), effects)
    assert found.data.sizes["target"] == PLACES - 7
    assert "7 heads lack a number and are left out." in found.methods
    x[5:] = np.where(np.arange(PLACES - 5) < 5, 1.0, np.nan)
    with pytest.raises(ResultError, match=r"Only 5 heads have all numbers and effects, and 12 are needed\."):
        validate(measured(x), effects)


def test_numbers_kept_by_prompt_are_resampled_and_others_are_said_not_to_be() -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(size=PLACES)
    rows = x + 2 * rng.normal(size=(12, PLACES))
    effects = two(x, rng)
    sure = validate(measured(rows.mean(0)), effects)
    by_prompt = validate(measured(rows.mean(0), prompts=rows), effects)
    assert "sharpness is not kept by prompt, and taken as sure" in sure.methods
    assert "and the prompts of sharpness" in by_prompt.methods
    wide, narrow = (
        of(one, "rank_correlation_high") - of(one, "rank_correlation_low") for one in (by_prompt, sure)
    )
    assert wide > 1.5 * narrow
    # Rows whose mean the number is not cannot be resampled.
    assert "taken as sure" in validate(measured(x, prompts=rows), effects).methods


def test_numbers_of_layers_are_held_against_effects_of_layers_at_the_same_site() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(2, LAYERS))
    data = xr.Dataset(
        {"power": (("category", "site", "layer"), x[None])},
        coords={"category": ["all"], "site": ["attn_out", "mlp_out"], "layer": np.arange(LAYERS)},
    )
    result = Result(name="i", data=data, provenance={**measured(x[0]).provenance, "headline": "power"})
    effects = [swept(task, x[0], rng=rng, site="attn_out", noise=0.01) for task in "ab"]
    assert validate(result, effects).data.rank_correlation.sel(of="sign").min() > 0.98
    with pytest.raises(ResultError, match="is of attn_out, mlp_out, and the effects on 'a' are at resid_pre"):
        validate(result, [swept(task, x[0], rng=rng, site="resid_pre") for task in "ab"])


def test_arrays_of_the_user_are_taken_as_numbers() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(5, LAYERS, HEADS))
    coords = {"layer": range(LAYERS), "head": range(HEADS)}
    mine = xr.DataArray(x, dims=("prompt", "layer", "head"), coords=coords)
    effects = two(x.mean(0).ravel(), rng, noise=0.01)
    found = validate(measured(x[0].ravel()), effects, variable={"mine": mine})
    assert found.data["variable"].values.tolist() == ["mine"]
    assert float(found.data.rank_correlation.sel(of="sign", task="a")[0]) > 0.99
    assert found.provenance["by_prompt"] == {"mine": True}


def test_it_is_a_result_like_any_other_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(size=PLACES)
    effects, predictors = two(x, rng), known(rng)
    found = validate(measured(x), effects, predictors=predictors)
    again = validate(measured(x), effects, predictors=predictors)
    xr.testing.assert_identical(found.data, again.data)
    found.save(tmp_path / "validation.nc")
    loaded = Result.load(tmp_path / "validation.nc")
    assert (loaded.name, loaded.summary, loaded.views) == ("validation", found.summary, found.views)
    assert len(found.to_dataframe()) == 4
    assert len(found.plot().axes) >= 2


# Refusals -----------------------------------------------------------------------------------------------


@cache
def refused() -> dict[str, tuple[Any, str]]:
    rng = np.random.default_rng(14)
    x = rng.normal(size=PLACES)
    good, result = two(x, rng), measured(x)
    some = replace(good[0], data=good[0].data.isel(target=slice(0, 10)))
    layers = [swept(task, rng.normal(size=LAYERS), rng=rng, site="attn_out") for task in "ab"]
    same, of_others = two(x, rng, rows=("m", "n")), two(x, rng, fingerprint="b")

    def predicted_from_the_same() -> Result:
        return validate(result, two(x, rng, rows=("p",)), predictors=known(rng))

    return {
        "one task": (lambda: validate(result, good[:1]), r"one task \(a\); validate needs at least 2"),
        "no effects": (lambda: validate(result, []), "of no task; validate needs at least 2"),
        "a single one": (lambda: validate(result, good[0]), "of one task"),
        "twice": (
            lambda: validate(result, [*good, good[0]]),
            "Two of the effects are of a; give each once",
        ),
        "no effect": (lambda: validate(result, [result]), "Item 0 of effects is no result of rl.patch"),
        "some heads": (lambda: validate(result, [some, good[1]]), "of 10 places at z; patch all 72 heads"),
        "both kinds": (lambda: validate(result, [good[0], layers[1]]), "validate the two apart"),
        "layers": (lambda: validate(result, layers), "'imagined' ranks no layers, and the effects are of"),
        "model": (lambda: validate(result, of_others), "other weights of it; patch the model that was"),
        "prompts": (lambda: validate(result, same), "1 of the same prompts as the result 'imagined'"),
        "predictors": (predicted_from_the_same, "1 of the same prompts as the predictors"),
        "variable": (lambda: validate(result, good, variable="sharpnes"), "Did you mean 'sharpness'"),
        "no dataset": (lambda: validate(result, good, predictors=3), "'predictors' parameter of validate"),
        "smallest": (lambda: validate(result, good, smallest=2), "'smallest' parameter of validate"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_cannot_be_validated_is_refused_in_one_sentence(case: str) -> None:
    call, words = refused()[case]
    with pytest.raises((ResultError, ParameterError), match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# A real model, and what is shipped ------------------------------------------------------------------------


@pytest.mark.host
def test_predictors_are_those_of_the_cache_of_a_real_model() -> None:
    architecture = ARCHITECTURES[0]
    model = build(architecture)
    rows = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]]
    found = measure_predictors(model, rows)
    by_layer = measure_predictors(model, rows, "layers")
    layers = range(architecture.n_layers)
    entropy: list[torch.Tensor] = []
    norms: dict[str, list[torch.Tensor]] = {"attn_out": [], "mlp_out": []}
    for row in rows:
        _, kept = model.run_with_cache(torch.tensor([row]))
        pattern = torch.stack([kept[f"blocks.{n}.attn.hook_pattern"][0] for n in layers])
        entropy.append(-torch.special.xlogy(pattern, pattern).sum(-1)[..., MIN_KEYS - 1 :].mean(-1))
        for site, found_there in norms.items():
            out = torch.stack([kept[f"blocks.{n}.hook_{site}"][0] for n in layers])
            found_there.append(out[:, 1:].norm(dim=-1).mean(-1))
    np.testing.assert_allclose(found.attention_entropy, torch.stack(entropy).mean(0).detach(), rtol=1e-4)
    for site, found_there in norms.items():
        expected = torch.stack(found_there).mean(0).detach()
        np.testing.assert_allclose(by_layer.output_norm.sel(site=site), expected, rtol=1e-4)
    assert found.output_norm.shape == (architecture.n_layers, architecture.n_heads)
    assert (found.output_norm > 0).all()
    assert found.attrs["rows"] == token_digests(rows)


@pytest.mark.parametrize("name", (*HELD_HEADS, *HELD_LAYERS))
def test_every_analysis_was_held_against_effects_as_it_is_now(name: str) -> None:
    record = read_record(name)
    assert outdated(record) == "", f"make it anew: python -m resonance_lens.validating {name}"
    assert len({row["task"].partition(",")[0] for row in record["rows"]}) >= 2
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert section(record).strip() in page and "## Does it matter?" in page


def test_no_built_in_analysis_is_forgotten() -> None:
    built_in = {name for name, entry in catalogue().items() if entry.package == "resonance-lens"}
    assert {*HELD_HEADS, *HELD_LAYERS, *LEFT_OUT} == built_in


def test_the_page_of_all_is_that_of_the_records() -> None:
    records = [read_record(name) for name in (*HELD_HEADS, *HELD_LAYERS)]
    assert overview(records).strip() in (ROOT / "docs" / "validation.md").read_text()


def test_the_command_refuses_what_is_not_held_against_effects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fourier_features"]) == 2
    assert "fourier_features is not held against effects: its places are layers" in capsys.readouterr().err
    assert main(["unheard_of"]) == 2
    assert "it is none of attention_entropy, " in capsys.readouterr().err


def test_a_block_is_written_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_block(page, "new")
    write_block(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ResultError, match="has no place for the table"):
        write_block(page, "new")
