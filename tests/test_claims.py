"""Claims: variables made of samples, baselines beside them, counts and sentences read off results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from resonance_lens.claims import with_baselines, with_claims
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted
from resonance_lens.counts import claims_of, counts
from resonance_lens.errors import AnalysisError
from resonance_lens.features import Features
from resonance_lens.methods import findings, methods
from resonance_lens.planting import attention_facts
from resonance_lens.provenance import of_result
from resonance_lens.result import Result
from resonance_lens.stats.inference import infer
from resonance_lens.stats.samples import AnySample, Sample, Surrogates, of_prompts
from resonance_lens.stats.streams import stream

N = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widths(Analysis):
    """How wide heads are, as rows say."""

    name: ClassVar[str] = "widths"
    title: ClassVar[str] = "Widths"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("nothing",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="width", long_name="width", units="tokens", null="nothing", against="heads of no width",
            dims=("layer", "head"), family=("layer", "head"), places="heads", minimum_effect=0.5,
        ),
    )  # fmt: skip
    minimum_effect: ClassVar[float] = 0.5
    headline: ClassVar[str] = "width"
    source: ClassVar[str] = "made up"
    drawn: bool = False

    def observe(self, signals: Any, where: Any) -> Features:
        raise NotImplementedError

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        rows = seen.plain.rows["width"]
        return xr.Dataset(
            {
                "other_prompt": (("prompt", "layer", "head"), rows, {"long_name": "other", "units": "1"}),
                "other": (
                    ("category", "layer", "head"),
                    rows.mean(0)[None],
                    {"long_name": "other", "units": "1"},
                ),
            },
            coords={"prompt": np.arange(len(rows)), "layer": list(seen.layers), "head": np.arange(3)},
        )

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        rows = seen.plain.rows["width"]
        if self.drawn:
            draws = np.random.default_rng(0).normal(size=(199, *rows.shape[1:]))
            return {"width": {"all": Surrogates(rows.mean(0) * 4, draws)}}
        return {"width": of_prompts(rows, np.zeros_like(rows), seen.groups)}

    def plant(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError

    def null(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError


def rows(shift: Any, seed: int = 0, n: int = N) -> Features:
    values = np.random.default_rng(seed).normal(size=(n, 2, 3)) + np.asarray(shift)
    return Features.of(range(n), rows={"width": values})


SHIFT = np.array([[2.0, 0.3, 0.0], [-2.0, 2.0, 0.0]])
TWIN = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def seen(n: int = N, **conditions: Features) -> Accumulated:
    return Accumulated(
        features={"plain": rows(SHIFT, n=n), **conditions},
        facts=attention_facts(n_layers=2, n_heads=3),
        layers=(0, 1),
        prompt_ids=tuple(map(str, range(n))),
        categories=(None,) * n,
        seed=0,
    )


def result(about: Accumulated, analysis: Analysis | None = None, **record: Any) -> Result:
    analysis = analysis or Widths()
    data, tests, samples = with_claims(analysis.conclude(about), analysis, about)
    data = with_baselines(data, analysis, about, samples)
    return Result(name="widths", data=data, provenance=of_result(analysis, record, about, tests))


def test_variables_are_those_of_the_sample() -> None:
    about = seen()
    data = result(about).data.sel(category="all")
    values = about.plain.rows["width"]
    tested = infer(
        Sample(values, np.zeros_like(values)), (0, 1), stream(0, "widths", "width", "flips", "all")
    )
    np.testing.assert_allclose(data.width, values.mean(0))
    np.testing.assert_allclose(data.width_effect, values.mean(0))
    np.testing.assert_allclose(data.width_null, 0, atol=1e-12)
    np.testing.assert_allclose(data.width_effect_prompt, values, rtol=1e-6)
    np.testing.assert_array_equal(data.width_q, tested.q)
    half = stats.t.ppf(0.975, N - 1) * values.std(0, ddof=1) / np.sqrt(N)
    np.testing.assert_allclose(data.width_effect_high - data.width_effect, half, rtol=0.15)
    np.testing.assert_array_equal(data.width_low, data.width_effect_low)  # the null is zero throughout
    assert data.width_p.attrs["smallest"] == 1e-4
    assert data.width_effect.attrs == {"long_name": "width minus its null (nothing)", "units": "tokens"}


def test_the_difference_from_a_baseline_is_paired() -> None:
    """The twin has the same noise in the same prompts: paired, the difference is sure to the last digit."""
    about = seen(random_weights=rows(TWIN))
    data = result(about).data.sel(category="all")
    np.testing.assert_allclose(data.width_beyond_random_weights, SHIFT - TWIN, atol=1e-9)
    np.testing.assert_allclose(data.width_beyond_random_weights_low, SHIFT - TWIN, atol=1e-9)
    np.testing.assert_allclose(data.other_random_weights, rows(TWIN).rows["width"].mean(0))
    assert "width_beyond_shuffled_tokens" not in data


def test_counts_are_those_of_what_was_planted() -> None:
    """Four heads differ, of which three by what counts; the one that the twin has too is not beyond it."""
    found = result(seen(random_weights=rows(TWIN, seed=1), shuffled_tokens=rows(SHIFT, seed=2)))
    (claim,) = claims_of(found)
    model, twin, shuffled = counts(found, claim)
    assert (model.places, model.differ, model.matter) == (6, 3, 3) or model.differ == 4
    assert model.beyond == {"random_weights": 2, "shuffled_tokens": 0}
    assert (twin.condition, twin.differ, twin.matter) == ("random_weights", 1, 1)
    assert shuffled.matter == 3
    text = findings(found)
    assert f"{model.differ} of 6 heads differ (q <= 0.05), 3 of them by more than 0.5 tokens" in text
    assert "2 by more than 0.5 tokens beyond the random-weight twin, 0 beyond shuffled text" in text
    assert "in the random-weight twin 1 differ, 1 by that much" in text


def test_methods_say_what_was_done() -> None:
    text = methods(result(seen(random_weights=rows(TWIN))))
    assert text.startswith(
        "Width was compared with heads of no width over 40 prompts, with 9,999 random sign"
    )
    assert "smallest p attainable 0.0001" in text and "a family of 6 heads" in text
    assert "The smallest effect that counts is 0.5 tokens, said beforehand." in text
    assert text.endswith("Baselines from passes of their own: the random-weight twin, on the same prompts.")
    exact = methods(result(seen(8)))
    assert "over 8 prompts, with all 256 sign flips" in exact and "attainable 0.0078" in exact
    missing = methods(result(seen(), baselines_missing={"random_weights": "it is quantised."}))
    assert missing.endswith("Without the random-weight twin: it is quantised.")


def test_a_refused_test_is_said_and_leaves_values_and_bounds() -> None:
    found = result(seen(5))
    data = found.data
    assert np.isnan(data.width_q).all() and np.isnan(data.width_p).all()
    assert np.isfinite(data.width_effect_low).all()
    (claim,) = claims_of(found)
    assert counts(found, claim)[0].differ is None
    why = "5 prompts can reach no p below 0.062; 6 prompts could"
    assert findings(found) == f"No claim is made of width against heads of no width: {why}."
    assert f"and not tested: {why}." in methods(found)


def test_surrogates_have_no_bounds_and_are_counted() -> None:
    found = result(seen(), Widths(drawn=True))
    assert "width_low" not in found.data and "width_effect_prompt" not in found.data
    (claim,) = claims_of(found)
    assert counts(found, claim)[0].differ == 3
    assert "with 199 surrogates that are the same draw for all heads" in methods(found)


def test_a_claim_without_a_sample_is_the_analysis_s_fault() -> None:
    class Silent(Widths):
        def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
            return {}

    with pytest.raises(
        AnalysisError, match="claims 'width' and gives no sample of it for the category 'all'"
    ):
        result(seen(), Silent())


def test_a_sample_of_another_shape_is_the_analysis_s_fault() -> None:
    class Flat(Widths):
        def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
            return {"width": {"all": Sample(np.zeros((4, 2)), np.zeros((4, 2)))}}

    with pytest.raises(AnalysisError, match=r"of shape \(2,\) in each unit; its claim says \(layer, head\)"):
        result(seen(), Flat())


def test_sentences_survive_the_disk(tmp_path: Path) -> None:
    found = dataclasses.replace(result(seen(random_weights=rows(TWIN))), methods="How.")
    found.save(tmp_path / "widths.nc")
    loaded = Result.load(tmp_path / "widths.nc")
    assert loaded.methods == "How."
    assert findings(loaded) == findings(found) and methods(loaded) == methods(found)
