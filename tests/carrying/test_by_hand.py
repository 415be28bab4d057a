"""Responses with a part held, against passes of plain TransformerLens with hooks, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.carrying.measuring import measure
from resonance_lens.carrying.planning import plan
from resonance_lens.design import Drive
from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import ModelError, ParameterError, PromptError, RecordError, ResultError
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.result import Result, Target
from tests.models import Host, build, hosts
from tests.reference_transformer import ARCHITECTURES, Architecture

LLAMA = next(arch for arch in ARCHITECTURES if arch.rms and arch.n_kv_heads != arch.n_heads)
PARALLEL = next(arch for arch in ARCHITECTURES if arch.parallel)
ROWS = [[2 + (7 * i + 3 * j + j * j) % 45 for j in range(31 + i)] for i in range(3)]
TIMING = Timing.fit(31, period=8)
EPSILON, SEED = 0.05, 3


def settings(**given: Any) -> dict[str, Any]:
    return {"layer": 0, "period": 8, "epsilon": EPSILON, "seed": SEED, "progress": False, **given}


def run(model: Any, row: list[int], hooks: list[Any], names: list[str]) -> dict[str, torch.Tensor]:
    """Values of hook points in one pass of TransformerLens."""
    seen: dict[str, torch.Tensor] = {}

    def listen(values: torch.Tensor, hook: Any, name: str) -> None:
        seen[name] = values.clone()

    listeners = [(name, lambda values, hook, name=name: listen(values, hook, name)) for name in names]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([row]), fwd_hooks=[*hooks, *listeners])
    return seen


def response(
    model: Any, prompt: int, layer: int, hooks_of: Any, zero: list[Any], direction: int
) -> np.ndarray:
    """``H(f)`` ``[line, d_model]`` after the last layer, with hooks made of the undriven values."""
    row = ROWS[prompt]
    n_layers = model.cfg.n_layers
    entered, left = f"blocks.{layer}.hook_resid_pre", f"blocks.{n_layers - 1}.hook_resid_post"
    sites = [
        f"blocks.{at}.{name}"
        for at in range(n_layers)
        for name in ("attn.hook_z", "attn.hook_pattern", "attn.hook_v", "hook_mlp_out", "hook_attn_out")
    ]
    before = run(model, row, zero, [entered, left, *sites])
    drive = Drive(layer=layer, timing=TIMING, lines=TIMING.lines, amplitude=EPSILON, direction=direction)
    norms = np.sort(before[entered][0, 1:].norm(dim=-1).numpy())
    rho = norms[(len(norms) - 1) // 2]
    s, v = drive.signal(SEED, prompt), drive.unit(model.cfg.d_model, SEED)
    wave = torch.zeros(len(row), model.cfg.d_model)
    wave[: len(s)] = (EPSILON * float(rho) * s[:, None] * v).float()
    added = (entered, lambda values, hook: values + wave)
    after = run(model, row, [added, *zero, *hooks_of(before)], [left])
    heard = (after[left] - before[left])[0, TIMING.window].double().numpy() / (EPSILON * float(rho))
    bins = [line * TIMING.periods for line in TIMING.lines]
    went_in = np.fft.rfft(s[TIMING.window].numpy())[bins]
    return np.asarray(np.fft.rfft(heard, axis=0)[bins] / went_in[:, None])


def responses(
    model: Any, hooks_of: Any, layer: int = 0, zero: list[Any] | None = None, directions: int = 2
) -> np.ndarray:
    """``[prompt, direction, line, d_model]``."""
    return np.stack(
        [
            [response(model, prompt, layer, hooks_of, zero or [], d) for d in range(directions)]
            for prompt in range(len(ROWS))
        ]
    )


def put(value: torch.Tensor, head: int | None = None) -> Any:
    def hook(values: torch.Tensor, hook: Any) -> torch.Tensor:
        out = values.clone()
        shape = values[:, :, head].shape if head is not None else values.shape
        if head is None:
            return value.reshape(shape)
        out[:, :, head] = value[:, :, head].reshape(shape)
        return out

    return hook


def power(h: np.ndarray) -> np.ndarray:
    return np.asarray((abs(h) ** 2).sum(-1))


@pytest.mark.host
@pytest.mark.parametrize("architecture", [LLAMA, PARALLEL], ids=lambda arch: arch.name)
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_what_is_held_is_held(host: Host, architecture: Architecture) -> None:
    """Heads, layers and interventions, with keys and values grouped and with parallel blocks."""
    model = host.build(architecture)
    n_layers = architecture.n_layers
    data = rl.carriers(model, ROWS, **settings(layer=1)).data
    plain = responses(model, lambda before: [], layer=1)
    held = {
        "attention_held": ["attn.hook_pattern"],
        "values_held": ["attn.hook_v"],
        "mlp_held": ["hook_mlp_out"],
        "heads_held": ["hook_attn_out"],
        "patterns_alone": ["attn.hook_pattern", "hook_mlp_out"],
    }
    for name, sites in {"plain": [], **held}.items():

        def hooks_of(before: dict[str, torch.Tensor], sites: list[str] = sites) -> list[Any]:
            names = [f"blocks.{at}.{site}" for at in range(1, n_layers) for site in sites]
            return [(each, put(before[each])) for each in names]

        h = responses(model, hooks_of, layer=1)
        gain = np.sqrt(power(h).mean(1)).mean(0)
        found = data.sel(intervention=name, layer=n_layers - 1)
        np.testing.assert_allclose(found.carried_by, gain, rtol=2e-3)
        explained = 1 - (power(plain - h).sum(1) / power(plain).sum(1)).mean(0)
        np.testing.assert_allclose(found.explained, explained, atol=2e-3)
        pairs = sum(
            (h[m] * h[n].conj()).real.sum(-1).mean(0) for m in range(3) for n in range(3) if m != n
        ) / 6  # fmt: skip
        coherent = np.sign(pairs) * np.sqrt(abs(pairs))
        np.testing.assert_allclose(found.carried_by_coherent, coherent, rtol=5e-3, atol=2e-3)
        left = plain - h
        rest = sum(
            (left[m] * left[n].conj()).real.sum((-1, -2)).mean(0)
            for m in range(3) for n in range(3) if m != n
        )  # fmt: skip
        whole = sum(
            (plain[m] * plain[n].conj()).real.sum((-1, -2)).mean(0)
            for m in range(3) for n in range(3) if m != n
        )  # fmt: skip
        if bool(found.chain_share.notnull()):
            np.testing.assert_allclose(found.chain_share, 1 - rest / whole, atol=5e-3)
    bands = [[0], [1, 2]]
    for layer, head in ((1, 0), (n_layers - 1, architecture.n_heads - 1)):
        name = f"blocks.{layer}.attn.hook_z"
        h = responses(model, lambda before, name=name, head=head: [(name, put(before[name], head))], layer=1)
        for at, band in enumerate(bands):
            ratio = power(h)[..., band].sum((1, 2)) / power(plain)[..., band].sum((1, 2))
            found = data.isel(band=at).sel(layer=layer, head=head)
            np.testing.assert_allclose(found.carried, (1 - np.sqrt(ratio)).mean(), atol=1e-3)
            np.testing.assert_allclose(found.carried_prompt, 1 - np.sqrt(ratio), atol=1e-3)
            along = ((plain - h) * plain.conj()).real.sum(-1)[..., band].sum((1, 2))
            through = along / power(plain)[..., band].sum((1, 2))
            np.testing.assert_allclose(found.through, through.mean(), atol=1e-3)
    name = f"blocks.{n_layers - 1}.hook_mlp_out"
    h = responses(model, lambda before: [(name, put(before[name]))], layer=1)
    ratio = power(h).sum((1, 2)) / power(plain).sum((1, 2))
    found = data.carried_by_layer.sel(part="mlp_out", layer=n_layers - 1)
    by_band = [
        1 - np.sqrt(power(h)[..., band].sum((1, 2)) / power(plain)[..., band].sum((1, 2))) for band in bands
    ]
    np.testing.assert_allclose(found, [each.mean() for each in by_band], atol=1e-3)
    assert ratio.shape == (3,)


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_an_ablated_head_is_ablated_in_both_passes(host: Host) -> None:
    model = host.build(LLAMA)
    place = Target(site="z", layer=0, head=1, score=1.0, reason="a test")
    data = rl.carriers(model, ROWS, **settings(targets="none", interventions=[], ablate=[place])).data
    zero = [("blocks.0.attn.hook_z", put(torch.zeros(1, 1, LLAMA.n_heads, LLAMA.d_head), 1))]

    def gone(values: torch.Tensor, hook: Any) -> torch.Tensor:
        out = values.clone()
        out[:, :, 1] = 0
        return out

    zero = [("blocks.0.attn.hook_z", gone)]
    h = responses(model, lambda before: [], zero=zero)
    found = data.carried_by.sel(intervention="ablated", layer=LLAMA.n_layers - 1)
    np.testing.assert_allclose(found, np.sqrt(power(h).mean(1)).mean(0), rtol=2e-3)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(LLAMA)


def test_a_result_is_saved_loaded_compared_shown_and_planned(model: Any, tmp_path: Path) -> None:
    given = settings(baselines=["random_weights"], out=tmp_path / "a")
    told = {name: value for name, value in given.items() if name != "progress"}
    planned = plan(model, ROWS, **told)
    assert not (tmp_path / "a").exists()
    result = rl.carriers(model, ROWS, **given)
    n_heads, n_layers = LLAMA.n_heads, LLAMA.n_layers
    assert planned.heads == n_heads * n_layers and planned.layers == 2 * n_layers
    assert planned.files == tuple(
        str(tmp_path / "a" / name) for name in ("run.json", "frequency_carriers.nc")
    )
    assert result.name == "frequency_carriers" and result.provenance["evidence"] == "measured"
    run = rl.load(tmp_path / "a")
    assert run["frequency_carriers"].data.identical(result.data)
    assert run["frequency_carriers"].summary == result.summary != ""
    assert not (tmp_path / "a" / "partial").exists()
    for name in ("carried", "through", "carried_by", "explained", "kernel_chain", "chain_share"):
        assert name in result.data and f"{name}_low" in result.data
        assert f"{name}_random_weights" in result.data
    page = run.report(tmp_path / "page.html").read_text()
    assert "Which head carries which band" in page and "cannot be drawn" not in page
    assert result.plot().axes
    again = rl.carriers(model, ROWS, **settings())
    compared = rl.compare(result, again)
    np.testing.assert_array_equal(compared.carried_difference.fillna(0), 0)
    assert result.data.carried.identical(again.data.carried)
    assert result.targets(1)[0].score == pytest.approx(float(result.data.carried.max()))
    # What is planned is what is made.
    counted = _rows_of(model, settings(baselines=["random_weights"]))
    assert planned.rows == counted[1] and planned.passes == counted[0]


def _rows_of(model: Any, given: dict[str, Any]) -> tuple[int, int]:
    """Count passes and rows, of the model and of its twin, without those that fit kernels."""
    passes: list[int] = []
    measuring = [False]
    resume, look = ModelAdapter.resume, ModelAdapter.look

    def measured(*args: Any, **kwargs: Any) -> Any:
        measuring[0] = True
        try:
            return measure(*args, **kwargs)
        finally:
            measuring[0] = False

    def counted(function: Any) -> Any:
        def call(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
            if measuring[0]:
                passes.append(len(batch.prompts))
            return function(self, batch, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resonance_lens.carrying.carriers.measure", measured)
        patch.setattr(ModelAdapter, "resume", counted(resume))
        patch.setattr(ModelAdapter, "look", counted(look))
        rl.carriers(model, ROWS, **given)
    return len(passes), sum(passes)


def test_a_stopped_call_resumes(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    seen: list[int] = []

    def stops(setup: Any, adapter: Any, tokens: Any, prompt: int, *rest: Any) -> Any:
        if prompt == 2 and not seen:
            raise KeyboardInterrupt
        seen.append(prompt)
        return measure(setup, adapter, tokens, prompt, *rest)

    given = settings(targets="layers")
    expected = rl.carriers(model, ROWS, **given)
    with monkeypatch.context() as patch:
        patch.setattr(
            "resonance_lens.carrying.carriers.measure",
            lambda *args: stops(*args) if args[3] != 2 else _stop(),
        )
        with pytest.raises(KeyboardInterrupt):
            rl.carriers(model, ROWS, **given, out=tmp_path / "a")
    assert seen == [0, 1]
    with pytest.raises(ResultError, match="other carriers"):
        rl.carriers(model, ROWS, **{**given, "epsilon": 0.1}, out=tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr("resonance_lens.carrying.carriers.measure", stops)
        result = rl.carriers(model, ROWS, **given, out=tmp_path / "a")
    assert seen == [0, 1, 2]
    assert result.data.identical(expected.data)
    with monkeypatch.context() as patch:
        patch.setattr(
            "resonance_lens.carrying.carriers.measure", lambda *args: _stop()
        )  # nothing is measured again
        assert rl.carriers(model, ROWS, **given, out=tmp_path / "a").data.identical(result.data)


def _stop() -> Any:
    raise KeyboardInterrupt


def test_batches_change_nothing_but_rounding(model: Any) -> None:
    one = rl.carriers(model, ROWS, **settings(batch_tokens=1)).data
    all_ = rl.carriers(model, ROWS, **settings(batch_tokens=8192)).data
    np.testing.assert_allclose(one.carried, all_.carried, atol=1e-4)


def test_one_prompt_says_what_it_can(model: Any) -> None:
    result = rl.carriers(model, ROWS[:1], **settings(targets="layers"))
    assert {"heads_kernels", "kernel_chain"} == set(result.provenance["left_out"])
    assert bool(result.data.carried_by.notnull().all()) and bool(result.data.carried_by_low.isnull().all())
    with pytest.raises(PromptError, match="there is one prompt"):
        rl.carriers(model, ROWS[:1], **settings(interventions=["kernel_chain"]))


def _target(site: str, layer: int, head: int | None = None) -> list[Target]:
    return [Target(site=site, layer=layer, head=head, score=1.0, reason="a test")]


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "layer": ({"layer": 9}, ParameterError, "Layer 9 cannot be driven"),
    "heard": (
        {"layer": 1, "heard": 0},
        ParameterError,
        "'heard' parameter of carriers must be a layer from 1",
    ),
    "nothing": ({"epsilon": 0.0}, ParameterError, "a drive of nothing has no response"),
    "rounding": ({"epsilon": 1e-6}, ParameterError, "is lost in float32"),
    "short": ({"period": 16}, RecordError, "too short to drive with a period of 16"),
    "intervention": ({"interventions": ["mlps_held"]}, ParameterError, "Did you mean 'mlp_held'"),
    "interventions": ({"interventions": "mlp_held"}, ParameterError, "must be a list of names"),
    "baseline": ({"baselines": ["shuffled_tokens"]}, ParameterError, "no baseline of carriers"),
    "targets": ({"targets": "head"}, ParameterError, "Did you mean 'heads'"),
    "site": ({"targets": _target("resid_pre", 1)}, ParameterError, "target L1 is at 'resid_pre'"),
    "below": ({"layer": 1, "targets": _target("z", 0, 0)}, ParameterError, "below layer 1"),
    "above": ({"heard": 0, "targets": _target("z", 1, 0)}, ParameterError, "above layer 0"),
    "ablation": ({"ablation": "patch"}, ParameterError, "no ablation 'patch'"),
    "ablated": ({"layer": 1, "ablate": _target("z", 0, 0)}, ParameterError, "below layer 1"),
    "directions": ({"directions": 0}, ParameterError, "an integer of at least 1"),
    "vector": ({"vectors": [[1.0, 2.0]]}, ParameterError, "needs .* numbers"),
    "no vector": ({"vectors": []}, ParameterError, "the list of 'vectors' is empty"),
    "batch": ({"batch_tokens": 0}, ParameterError, "'batch_tokens' parameter of carriers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said_in_a_sentence(model: Any, name: str) -> None:
    given, error, words = REFUSED[name]
    with pytest.raises(error, match=words) as raised:
        rl.carriers(model, ROWS, **settings(**given))
    assert str(raised.value).endswith((".", ".)")) or "Did you mean" in str(raised.value)


def test_a_cache_is_refused(model: Any) -> None:
    _, cache = model.run_with_cache(torch.tensor([ROWS[0]]))
    with pytest.raises(ModelError, match="an ActivationCache holds one pass"):
        rl.carriers(cache, ROWS, **settings())


def test_given_kernels_are_those_of_this_model(model: Any) -> None:
    other = build(PARALLEL)
    wrong: Result = rl.run(other, ROWS, "attention_filter", baselines=(), progress=False)["attention_filter"]
    if (PARALLEL.n_layers, PARALLEL.n_heads) != (LLAMA.n_layers, LLAMA.n_heads):
        with pytest.raises(ParameterError, match="measure them on this model"):
            rl.carriers(model, ROWS, **settings(kernels=wrong))
    by_prompts = rl.carriers(model, ROWS[:2], **settings(targets="none", kernels=ROWS[2:]))
    fitted = rl.run(model, ROWS[2:], "attention_filter", baselines=(), seed=SEED, progress=False)
    by_result = rl.carriers(model, ROWS[:2], **settings(targets="none", kernels=fitted["attention_filter"]))
    assert by_prompts.data.identical(by_result.data)
