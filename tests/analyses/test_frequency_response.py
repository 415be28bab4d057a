"""The response of the residual stream, against a system of known shares and passes by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.analyses.frequency_response import AMPLITUDES, FrequencyResponse
from resonance_lens.driver import Driver
from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.hooks import attach
from resonance_lens.trials import result_of
from tests.by_hand import as_first_row

ROWS = [[1 + (5 * i + j * j) % 15 for j in range(84 - 4 * i)] for i in range(4)]


def by_hand(model: Any, analysis: FrequencyResponse, shortest: int, layer: int, heard: int) -> dict[str, Any]:
    """H [prompt, direction, line, d_model] and responses by amplitude, from passes with hooks and numpy."""
    (condition,) = analysis.design(attach(model).facts, shortest).conditions
    groups = [group for group in condition.drives if group[0].layer == layer]
    timing, lines = groups[0][0].timing, groups[0][0].lines
    found: list[list[Any]] = []
    bins = [line * timing.periods for line in lines]
    for prompt, row in enumerate(ROWS):
        ids = torch.tensor([row])
        before, norms = listen(model, ids, [], layer, heard)
        rho = np.sort(norms[1:])[(len(norms) - 2) // 2]
        found.append([])
        for group in groups:
            answers = []
            for drive in group:
                hooks = Driver(as_first_row(drive, prompt), 0).hooks(model)
                after, _ = listen(model, ids, hooks, layer, heard)
                answers.append((after - before)[: timing.tokens] / rho)
            window = answers[1][timing.window] / analysis.epsilon
            went_in = np.fft.rfft(group[1].signal(0, prompt)[timing.window].numpy())[bins]
            h = np.fft.rfft(window, axis=0)[bins] / went_in[:, None]
            found[-1].append((h, [answer[timing.window] for answer in answers]))
    h = np.array([[each[0] for each in row] for row in found])
    answers_ = np.array([[each[1] for each in row] for row in found])  # [prompt, direction, amplitude, t, d]
    return {"h": h, "answers": answers_, "n_lines": len(lines)}


def listen(
    model: Any, ids: torch.Tensor, hooks: list[Any], layer: int, heard: int
) -> tuple[np.ndarray, np.ndarray]:
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        return lambda values, hook: seen.__setitem__(name, values[0].double().numpy().copy())

    entered, left = f"blocks.{layer}.hook_resid_pre", f"blocks.{heard}.hook_resid_post"
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[(entered, keep("in")), *hooks, (left, keep("out"))])
    return seen["out"], np.linalg.norm(seen["in"], axis=-1)


@pytest.fixture(scope="module")
def model() -> Any:
    return testbed.load_circuit("induction", n_ctx=96).model()


@pytest.fixture(scope="module")
def data(model: Any) -> xr.Dataset:
    return result_of(FrequencyResponse(directions=2), attach(model), ROWS).data


@pytest.mark.parametrize(("layer", "heard"), [(0, 1), (1, 1)])
def test_numbers_are_those_of_passes_by_hand(model: Any, data: xr.Dataset, layer: int, heard: int) -> None:
    analysis = FrequencyResponse(directions=2)
    found = by_hand(model, analysis, len(ROWS[-1]), layer, heard)
    h, answers = found["h"], found["answers"]
    here = data.sel(driven=layer, layer=heard)
    power = (abs(h) ** 2).sum(-1)  # [prompt, direction, line]
    rms = np.sqrt(power.mean(1)).mean(0)
    np.testing.assert_allclose(here.gain_rms.sel(category="all"), rms, rtol=1e-4)
    np.testing.assert_allclose(here.gain_mean.sel(category="all"), np.sqrt(power).mean((0, 1)), rtol=1e-4)
    # The coherent power is the mean inner product of two different prompts.
    m = len(ROWS)
    pairs = [
        (h[i].conj() * h[j]).sum(-1).real for i in range(m) for j in range(m) if i != j
    ]  # [direction, line]
    coherent = np.mean(pairs, axis=0)
    signed = np.sign(coherent.mean(0)) * np.sqrt(abs(coherent.mean(0)))
    np.testing.assert_allclose(here.gain, signed, atol=2e-4)
    linear = by_orders(answers)
    total = sum(linear)
    np.testing.assert_allclose(here.nonlinear, 1 - linear[0] / total, atol=1e-4)
    # Every line holds the same share of a drive of unit power.
    filtered = coherent.mean() * analysis.epsilon**2 / total
    np.testing.assert_allclose(here.time_invariant, filtered, atol=1e-4)
    shares = here.time_invariant + here.time_varying + here.nonlinear
    assert float(shares) == pytest.approx(1)
    assert float(data.before_onset.max()) == 0


def by_orders(answers: np.ndarray) -> list[float]:
    """Mean power of the parts that grow as e, e^2 and e^3, in units of the drive's own."""
    vandermonde = np.array([[a, a**2, a**3] for a in AMPLITUDES])
    parts = np.einsum("oa,pdatf->opdtf", np.linalg.inv(vandermonde), answers)
    return [float((part**2).sum(-1).mean()) for part in parts]


def test_below_the_driven_layer_there_is_nothing(data: xr.Dataset) -> None:
    below = data.sel(driven=1, layer=0)
    for name in ("gain", "gain_rms", "phase", "delay", "time_invariant", "gain_rms_untouched"):
        assert bool(below[name].isnull().all()), name


def test_one_layer_one_prompt_and_bad_parameters(model: Any) -> None:
    adapter = attach(model)
    one = result_of(FrequencyResponse(directions=1, layer=1), adapter, ROWS[:1])
    assert one.data.driven.values.tolist() == [1]
    assert bool(one.data.gain.isnull().all()) and not bool(one.data.gain_rms.sel(layer=1).isnull().any())
    assert "One prompt cannot tell a filter" in one.summary
    with pytest.raises(PromptError, match="frequency_response needs at least 42"):
        result_of(FrequencyResponse(), adapter, [ROWS[0][:30]])
    with pytest.raises(ParameterError, match="Layer 7 cannot be driven"):
        result_of(FrequencyResponse(layer=7), adapter, ROWS)
    with pytest.raises(ParameterError, match="'epsilon' parameter of frequency_response must be between"):
        FrequencyResponse(epsilon=0.0)


@pytest.mark.slow
def test_smollm2_is_linear_for_small_waves_and_no_filter() -> None:
    """Two prompts of prose: what holds whatever the directions are."""
    model = rl.load_model("smollm2-135m", progress=False)
    rows = [ids[:128] for p in rl.corpus() if len(ids := model.tokenizer(p.text)["input_ids"]) >= 128][:2]
    data = result_of(FrequencyResponse(directions=1, layer=5), attach(model), rows).data.sel(driven=5)
    assert float(data.before_onset) == 0
    last = data.isel(layer=-1)
    assert float(last.nonlinear) < 0.1
    assert float(data.time_invariant.sel(layer=5)) > 0.5 > 0.2 > float(last.time_invariant)
    slow, fast = last.gain_rms.sel(category="all").values[[0, -1]]
    assert slow > 1.3 * fast
    assert math.isfinite(float(last.nonlinear_doubled.sel(category="all")))
