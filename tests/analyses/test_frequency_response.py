"""The response of the residual stream, against a system of known shares and passes by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.analyses.frequency_response import AMPLITUDES, FrequencyResponse
from resonance_lens.contract import Planted
from resonance_lens.directions import Directions
from resonance_lens.driver import Driver
from resonance_lens.errors import ParameterError, PromptError, RecordError
from resonance_lens.hooks import attach
from resonance_lens.planting import attention_facts
from resonance_lens.response_words import said_of_response
from resonance_lens.trials import measure, result_of
from tests.by_hand import as_first_row
from tests.models import smollm2

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
    np.testing.assert_allclose(here.gain_floor, np.sqrt(power.mean((0, 1)) / m), rtol=1e-4)
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


def test_the_methods_say_what_bounds_are_over(model: Any) -> None:
    result = result_of(FrequencyResponse(directions=2, layer=1), attach(model), ROWS)
    assert "bounds are 95 % intervals over prompts and directions." in result.methods


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
    model = smollm2()
    rows = [ids[:128] for p in rl.corpus() if len(ids := model.tokenizer(p.text)["input_ids"]) >= 128][:2]
    data = result_of(FrequencyResponse(directions=1, layer=5), attach(model), rows).data.sel(driven=5)
    assert float(data.before_onset) == 0
    last = data.isel(layer=-1)
    assert float(last.nonlinear) < 0.1
    assert float(data.time_invariant.sel(layer=5)) > 0.5 > 0.2 > float(last.time_invariant)
    slow, fast = last.gain_rms.sel(category="all").values[[0, -1]]
    assert slow > 1.3 * fast
    assert math.isfinite(float(last.nonlinear_doubled.sel(category="all")))


# ------------------------------------------------------------------------ planted systems, every signal


def system(
    analysis: FrequencyResponse, answer: Callable[[torch.Tensor], torch.Tensor], lengths: tuple[int, ...]
) -> xr.Dataset:
    """The result of a planted system of one layer, whose response to what is added is known."""
    facts = attention_facts(n_layers=1, n_heads=2, d_model=12)
    shapes = {"head_out": (2, 12), "logits": (16,)}
    rng = np.random.default_rng(0)
    n, width = len(lengths), max(lengths)
    sites = dict.fromkeys(("resid_pre", analysis.listen))
    layer = {
        site: torch.from_numpy(rng.standard_normal((n, width, *shapes.get(site, (12,))))) for site in sites
    }

    def respond(at: int, added: torch.Tensor, prompts: tuple[int, ...]) -> dict[int, dict[str, torch.Tensor]]:
        return {0: {analysis.listen: answer(added)}}

    planted = Planted([layer], torch.tensor(lengths), facts, lambda data: None, respond=respond)
    data: xr.Dataset = measure(analysis, planted).isel(driven=0, layer=0)
    return data


def average(added: torch.Tensor) -> torch.Tensor:
    """A moving average of three tokens, half as large."""
    padded = torch.nn.functional.pad(added, (0, 0, 2, 0))
    return (padded[:, 2:] + padded[:, 1:-1] + padded[:, :-2]) / 6


PERIODIC = (64, 70, 66, 64)


def test_bounds_know_of_prompts_and_of_directions() -> None:
    """Both variances and Student's t, written out; the gain differs by text and by direction."""
    factors, stretch = np.array([1.0, 1.3, 0.8, 1.1]), np.linspace(0.5, 2.0, 12)
    vectors = np.random.default_rng(1).standard_normal((3, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    analysis = FrequencyResponse(layer=0, vectors=vectors)  # type: ignore[arg-type]

    def respond(at: int, added: torch.Tensor, prompts: tuple[int, ...]) -> dict[int, dict[str, torch.Tensor]]:
        factor = torch.from_numpy(factors[list(prompts)]).repeat(len(added) // len(prompts))
        return {0: {"resid_post": added * factor[:, None, None] * torch.from_numpy(stretch)}}

    rng = np.random.default_rng(0)
    layer = {site: torch.from_numpy(rng.standard_normal((4, 70, 12))) for site in ("resid_pre", "resid_post")}
    facts = attention_facts(n_layers=1, n_heads=2, d_model=12)
    planted = Planted([layer], torch.tensor(PERIODIC), facts, lambda data: None, respond=respond)
    data = measure(analysis, planted).sel(category="all").isel(driven=0, layer=0)
    power = np.square(factors[:, None] * np.linalg.norm(stretch * vectors, axis=1))  # [prompt, direction]
    by_prompt = np.sqrt(power.mean(1))
    left_out = [np.sqrt(np.delete(power, d, 1).mean(1)).mean() for d in range(3)]
    of_prompts, of_directions = (
        by_prompt.var(ddof=1) / 4,
        2 / 3 * np.square(left_out - np.mean(left_out)).sum(),
    )
    freedom = (of_prompts + of_directions) ** 2 / (of_prompts**2 / 3 + of_directions**2 / 2)
    width = stats.t.ppf(0.975, freedom) * np.sqrt(of_prompts + of_directions)
    np.testing.assert_allclose(data.gain_rms, by_prompt.mean(), rtol=1e-5)
    np.testing.assert_allclose(data.gain_rms_high - data.gain_rms, width, rtol=1e-4)
    np.testing.assert_allclose(data.gain_rms - data.gain_rms_low, width, rtol=1e-4)
    assert data.gain_rms_low.attrs["over"] == "prompts and directions"


@pytest.mark.parametrize("signal", ["multisine", "tone", "chirp", "impulse", "noise"])
def test_every_signal_finds_the_filter(signal: str) -> None:
    analysis = FrequencyResponse(layer=0, signal=signal, directions=2, pulses=0, tones=7)
    data = system(analysis, average, PERIODIC)
    f = data.frequency.values
    expected = abs(np.sin(3 * np.pi * f) / np.sin(np.pi * f)) / 6
    # What went in before a record is heard is not known of noise, nor does it come round again.
    close = 0.15 if signal == "noise" else 1e-6
    for name in ("gain", "gain_mean"):
        values = data[name] if name == "gain" else data[name].sel(category="all")
        np.testing.assert_allclose(values, expected, atol=close)
    if signal == "noise":
        return
    np.testing.assert_allclose(np.exp(1j * data.phase), np.exp(-2j * np.pi * f) * np.sign(
        np.sin(3 * np.pi * f) / np.sin(np.pi * f)), atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(data.gain_rms.sel(category="all"), expected, atol=1e-6)
    if signal == "impulse":
        np.testing.assert_allclose(data.impulse[:4], [1 / 6, 1 / 6, 1 / 6, 0], atol=1e-6)
    else:
        assert float(data.time_invariant) == pytest.approx(1, abs=5e-3)
        np.testing.assert_allclose(data.describing.sel(category="all"), [expected] * 3, atol=1e-6)


def test_pulses_here_and_there_find_what_stays_the_same_everywhere() -> None:
    analysis = FrequencyResponse(layer=0, signal="impulse", directions=1, pulses=9)
    data = system(analysis, average, PERIODIC)
    np.testing.assert_allclose(data.impulse[:4], [1 / 6, 1 / 6, 1 / 6, 0], atol=1e-6)
    facts = attention_facts(n_layers=1, n_heads=2)
    (condition,) = analysis.design(facts, 64).conditions
    assert len(condition.drives[0]) == 9 and "harmonic" not in data and "nonlinear" not in data


def test_a_third_harmonic_grows_as_the_square_and_moved_power_does_not() -> None:
    """A cubic part has a third harmonic; a gain that turns along the tokens makes a second one of its own."""
    analysis = FrequencyResponse(layer=0, signal="tone", directions=1, tones=1, epsilon=0.1)
    cubic = system(analysis, lambda x: x + 0.05 * x**3, PERIODIC)
    np.testing.assert_allclose(cubic.harmonic_growth.sel(order=3), 2, atol=0.1)
    assert float(cubic.harmonic.sel(order=2).max()) < 1e-6 < float(cubic.harmonic.sel(order=3)[0])
    assert float(cubic.nonlinear) > 1e-5
    turning = 1 + 0.5 * torch.cos(2 * math.pi * torch.arange(70) / 16)[None, :, None]
    moving = system(analysis, lambda x: x * turning[:, : x.shape[1]], PERIODIC)
    assert float(moving.harmonic.sel(order=2).min()) > 0.2, "a quarter of the amplitude is moved to 2 f"
    np.testing.assert_allclose(moving.harmonic_growth.sel(order=2), 0, atol=1e-6)
    assert float(moving.nonlinear) < 1e-10 < float(moving.time_invariant) < 0.9


def test_a_limiter_has_a_describing_function() -> None:
    analysis = FrequencyResponse(layer=0, directions=2, epsilon=1.0)
    limited = system(analysis, lambda x: x.clamp(-0.5, 0.5), PERIODIC)
    gain = limited.describing.sel(category="all").mean("frequency").values
    assert gain[0] > gain[1] > gain[2]
    words = said_of_response(limited.expand_dims(driven=[0], layer=[0]))
    assert "gain depends on amplitude beyond its interval at 1 of 1 layers" in words
    straight = system(analysis, average, PERIODIC).expand_dims(driven=[0], layer=[0])
    assert "no gain moves beyond its interval" in said_of_response(straight)


def test_heads_are_heard_one_by_one_and_logits_in_sums_of_their_own() -> None:
    heads = FrequencyResponse(layer=0, listen="head_out", directions=2)
    gains_ = torch.tensor([0.5, 2.0])[:, None]
    data = system(heads, lambda x: x[:, :, None] * gains_, PERIODIC)
    assert data.gain.dims == ("head", "frequency")
    np.testing.assert_allclose(data.gain.mean("frequency"), [0.5, 2], rtol=1e-5)
    assert "gain_rms_untouched" not in data
    logits = FrequencyResponse(layer=0, listen="logits", directions=2)
    data = system(logits, lambda x: torch.nn.functional.pad(x, (0, 4)), PERIODIC)
    np.testing.assert_allclose(data.gain_rms.sel(category="all"), 1, rtol=1e-5)
    assert "phase" not in data, "a direction of the stream has no place among logits"


def test_a_trace_is_kept_of_one_prompt() -> None:
    data = system(FrequencyResponse(layer=0, directions=2), average, PERIODIC)
    sent = data.scope_drive.values
    assert not sent[0] and math.isclose((sent[-32:] ** 2).mean(), 1, rel_tol=0.2)
    expected = np.convolve(sent, np.ones(3) / 6)[: len(sent)]
    np.testing.assert_allclose(data.scope_response, expected, atol=1e-6)


# -------------------------------------------------------------------------------------- on real models


@pytest.mark.parametrize("listen", ["head_out", "logits"])
def test_other_places_are_those_of_passes_by_hand(model: Any, listen: str) -> None:
    """One prompt, one direction: the root mean square gain at a line, from two passes."""
    analysis = FrequencyResponse(directions=1, layer=0, listen=listen)
    got = result_of(analysis, attach(model), ROWS[:1]).data.isel(layer=-1, driven=0)
    (condition,) = analysis.design(attach(model).facts, len(ROWS[0])).conditions
    drive = condition.drives[0][1]
    ids, timing = torch.tensor([ROWS[0]]), drive.timing
    seen: list[np.ndarray] = []
    entered: list[np.ndarray] = []
    model.set_use_attn_result(True)
    for hooks in ([], Driver(drive, 0).hooks(model)):
        with torch.no_grad():
            logits = model.run_with_hooks(
                ids,
                fwd_hooks=[
                    ("blocks.0.hook_resid_pre", lambda v, hook: entered.append(v[0].double().numpy().copy())),
                    *hooks,
                    ("blocks.1.attn.hook_result", lambda v, hook: seen.append(v[0].double().numpy().copy())),
                ],
            )
        if listen == "logits":
            seen[-1] = logits[0].double().numpy()[:, None]
    model.set_use_attn_result(False)
    norms = np.linalg.norm(entered[0], axis=-1)[1:]
    change = (seen[1] - seen[0])[timing.window] / np.sort(norms)[(len(norms) - 1) // 2] / analysis.epsilon
    bins = [line * timing.periods for line in timing.lines]
    h = np.fft.rfft(change, axis=0)[bins] / np.fft.rfft(drive.signal(0, 0)[timing.window])[bins, None, None]
    expected = np.sqrt((abs(h) ** 2).sum(-1)).T  # [head, line]
    values = got.gain_rms.sel(category="all").values
    np.testing.assert_allclose(
        values, expected if listen == "head_out" else expected[0], rtol=2e-3, atol=1e-5
    )


def test_given_directions_are_driven_and_recorded(model: Any, tmp_path: Path) -> None:
    adapter = attach(model)
    d_model = adapter.facts.d_model
    vectors = Directions.of(np.random.default_rng(0).standard_normal((2, d_model)), ["one", "two"])
    vectors.save(tmp_path / "two.npz")
    one = result_of(FrequencyResponse(vectors=vectors, layer=1), adapter, ROWS)  # type: ignore[arg-type]
    again = result_of(FrequencyResponse(vectors=str(tmp_path / "two.npz"), layer=1), adapter, ROWS)
    assert one.provenance["parameters"]["vectors"] == f"one, two (sha256 {vectors.digest})"
    xr.testing.assert_identical(one.data, again.data)
    assert one.data.directions == 2
    with pytest.raises(
        ParameterError, match=f"3 numbers each, and the residual stream .* {d_model} dimensions"
    ):
        result_of(FrequencyResponse(vectors=[[1.0, 0, 0]]), adapter, ROWS)  # type: ignore[arg-type]


def test_places_that_hear_nothing_are_refused(model: Any) -> None:
    with pytest.raises(
        ParameterError, match="'resid_pre' of layer 1 is not heard at 'resid_pre' of any layer"
    ):
        result_of(FrequencyResponse(layer=1, listen="resid_pre"), attach(model), ROWS)
    with pytest.raises(RecordError, match="too short to drive with a period of 64"):
        FrequencyResponse(period=64).timing(100)


def test_a_model_that_sees_what_comes_is_said_to() -> None:
    data = system(FrequencyResponse(layer=0, directions=1), lambda x: x.roll(-1, dims=1), PERIODIC)
    assert float(data.before_onset) > 0
    whole = data.expand_dims(driven=[0], layer=[0])
    assert "Something is heard before the drive begins" in said_of_response(whole)
    assert "causality does not hold" in said_of_response(whole)
