"""Driven passes: what an analysis sees is what two passes by hand differ by, on every host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens import engine
from resonance_lens.contract import Analysis, Evidence, Planted, Where
from resonance_lens.design import Condition, Design, Drive
from resonance_lens.driver import Driver
from resonance_lens.driving import median_norms, observe_under, require_audible
from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import AdapterError, ParameterError, PromptError
from resonance_lens.facts import Facts
from resonance_lens.features import Features
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.signal import Signal
from resonance_lens.trials import make_batch
from tests.by_hand import as_first_row
from tests.models import Host, cases
from tests.reference_transformer import Architecture

TIMING = Timing(settle=4, period=8, periods=2)
ROWS = [[5, 9, 2, 7, 1, 3, 8, 4, 6, 11, 10, 2, 7, 9, 3, 1, 5, 8, 6, 4, 2, 9, 7], [3, 1, 4, 1, 5, 9, 2, 6] * 3]


@dataclass(frozen=True, kw_only=True)
class Listening(Analysis):
    """Keeps every response whole."""

    name: ClassVar[str] = "listening"
    title: ClassVar[str] = "Whole responses"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("attn_out", "resid_post")
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ()
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.0
    headline: ClassVar[str] = "response"
    source: ClassVar[str] = "a test"

    drives: ClassVar[tuple[tuple[Drive, ...], ...]] = ()

    def design(self, facts: Facts, shortest: int) -> Design:
        return Design((Condition(drives=self.drives),))

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        width = TIMING.tokens
        rows = {
            site: signal.values[:, :, :width].transpose(0, 1) for site, signal in signals.items()
        }  # [batch, drive, token, d_model]
        assert all(signal.axes[0] == "drive" for signal in signals.values())
        assert where.driven_from is not None and set(where.undriven) == set(signals)
        return Features.of(where.prompts, rows={**rows, "norm": where.driven_from})

    def conclude(self, seen: Any) -> Any:
        raise NotImplementedError

    def plant(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError

    def null(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError


def drives(layer: int, *sites: str) -> tuple[tuple[Drive, ...], ...]:
    one = Drive(layer=layer, timing=TIMING, lines=TIMING.lines, amplitude=0.3)
    return tuple((replace(one, site=site), replace(one, site=site, amplitude=0.6)) for site in sites)


@pytest.mark.host
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_responses_are_differences_of_passes_by_hand(host: Host, arch: Architecture, side: str) -> None:
    model = host.build(arch)
    adapter = attach(model)
    groups = (*drives(1, "resid_pre", "attn_out"), *drives(0, "mlp_out"))

    class Chosen(Listening):
        drives = groups

    batch = make_batch(ROWS, [0, 1], side)
    layers = tuple(range(arch.n_layers))
    seen = observe_under(
        Condition(drives=groups),
        adapter,
        batch,
        [Chosen()],
        {"listening": layers},
        groups=[0, 0],
        seed=4,
        shortest=23,
        budget=64,
    )["listening"]
    assert seen.rows["resid_post"].shape == (2, arch.n_layers, 3, 2, TIMING.tokens, arch.d_model)
    for prompt, row in enumerate(ROWS):
        ids = torch.tensor([row])
        before = listen(model, ids, [], layers)
        for index, group in enumerate(groups):
            for which, drive in enumerate(group):
                # A row by itself is row 0: its phases are those of its number in the run.
                hooks = Driver(as_first_row(drive, prompt), 4).hooks(model)
                after = listen(model, ids, hooks, layers)
                for (site, layer), values in after.items():
                    got = seen.rows[site][prompt, layer, index, which]
                    if layer < drive.layer:
                        assert not got.any()
                        continue
                    expected = (values - before[site, layer])[0, : TIMING.tokens].numpy()
                    if not (site == drive.site == "attn_out" and layer == drive.layer):
                        np.testing.assert_allclose(got, expected, atol=2e-5)
                    assert abs(got[: TIMING.onset]).max() == 0


def listen(
    model: Any, ids: torch.Tensor, hooks: list[Any], layers: tuple[int, ...]
) -> dict[tuple[str, int], torch.Tensor]:
    found: dict[tuple[str, int], torch.Tensor] = {}

    def keep(site: str, layer: int) -> Any:
        return lambda values, hook: found.__setitem__((site, layer), values.detach().clone())

    names = {"attn_out": "hook_attn_out", "resid_post": "hook_resid_post"}
    listeners = [
        (f"blocks.{layer}.{name}", keep(site, layer)) for layer in layers for site, name in names.items()
    ]
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[*hooks, *listeners])
    return found


def test_the_first_token_and_padding_are_out_of_the_median_norm() -> None:
    """The first token of a prompt is up to 200 times as long as the others."""
    norms = torch.tensor([[100.0, 1, 2, 3, 9], [100.0, 5, 1, 70, 80]])
    values = norms[..., None] * torch.tensor([0.6, 0.8])
    torch.testing.assert_close(median_norms(values, torch.tensor([5, 3])), torch.tensor([2.0, 1.0]))


# ------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_driven_is_said_in_a_sentence() -> None:
    model = rl.load_model("testbed:locked")
    with pytest.raises(ParameterError, match="a drive of nothing has no response"):
        rl.drive(layer=0, tokens=64, epsilon=0.0)
    with pytest.raises(ParameterError, match=r"0.5 cycles per token cannot be driven .* choose one from"):
        rl.drive(layer=0, tokens=64, frequency=0.5)
    with pytest.raises(ParameterError, match=r"0.001 cycles per token cannot be driven"):
        rl.drive(layer=0, tokens=64, frequency=0.001)
    with pytest.raises(ParameterError, match="A tone, and nothing else, has one frequency"):
        rl.drive(layer=0, tokens=64, kind="noise", frequency=0.25)
    with pytest.raises(ParameterError, match="'at' parameter of Drive must be a token from 1 to 63"):
        rl.drive(layer=0, tokens=64, kind="impulse")
    with pytest.raises(ParameterError, match="Layer 9 cannot be driven"):
        rl.drive(layer=9, tokens=64).hooks(model)
    with pytest.raises(AdapterError, match="'pattern' is neither; choose resid_pre"):
        rl.drive(layer=0, tokens=64, site="pattern").hooks(model)
    with pytest.raises(ParameterError, match="needs .* numbers, as many as the residual stream has; got 3"):
        rl.drive(layer=0, tokens=32, direction=[1.0, 0.0, 0.0]).direction(16)
    with pytest.raises(ParameterError, match="finite numbers, not all of them zero"):
        rl.drive(layer=0, tokens=32, direction=[0.0, 0.0])
    with pytest.raises(PromptError, match="A drive of 64 tokens does not fit a prompt of 40"):
        hooks: list[Any] = rl.drive(layer=0, tokens=64).hooks(model)
        model.run_with_hooks(torch.ones(1, 40, dtype=torch.long), fwd_hooks=hooks)


def test_a_model_that_hands_on_more_than_its_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resume = ModelAdapter.resume

    def unlike(self: Any, batch: Any, layer: int, residual: torch.Tensor, hooks: Any = ()) -> torch.Tensor:
        return resume(self, batch, layer, residual, hooks) + 1

    monkeypatch.setattr(ModelAdapter, "resume", unlike)
    rows = [[1 + (7 * i + j) % 15 for j in range(48)] for i in range(2)]
    with pytest.raises(
        AdapterError, match="cannot be driven: a pass that begins at layer 1 does not end like"
    ):
        rl.run(rl.load_model("testbed:locked"), rows, "frequency_response", baselines=(), progress=False)


def test_rounding_that_hides_a_response_is_refused() -> None:
    require_audible("float32", 0.001, "a model")
    require_audible("float16", 0.5, "a model")
    with pytest.raises(
        ParameterError, match="lost in bfloat16.*load the model in float32, or drive with at least"
    ):
        require_audible("bfloat16", 0.03, "a model")
    with pytest.raises(ParameterError, match="lost in float16"):
        require_audible("float16", 0.03, "a model")


def test_all_leaves_out_what_drives_and_says_what_it_would_take() -> None:
    rows = [[1 + (7 * i + j) % 15 for j in range(48)] for i in range(3)]
    plan = engine.plan(rl.load_model("testbed:locked"), rows, "all")
    assert "frequency_response" in plan.left_out
    assert "sequences for each prompt; ask for it by name" in plan.left_out["frequency_response"]
    named = engine.plan(rl.load_model("testbed:locked"), rows, "frequency_response", baselines=())
    # Five directions at three amplitudes before each of two layers, and undriven.
    assert named.sequences == 3 * (1 + 2 * 3 * 5)
