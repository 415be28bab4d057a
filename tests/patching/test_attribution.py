"""Attribution: the gradient estimate of an edit, against finite differences and TransformerLens's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from resonance_lens.errors import AdapterError, ParameterError
from resonance_lens.hooks import attach, gradients
from resonance_lens.hooks.adapter import HOOK_NAMES
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching import attribution
from resonance_lens.patching.attribution import attribute
from resonance_lens.patching.metrics import NamedMetric, get_metric
from resonance_lens.patching.operations import Operation, Scene, get_operation
from resonance_lens.patching.operations.placebo import placebo
from resonance_lens.patching.places import Place, places_of
from resonance_lens.patching.sweep import Measured, Sweep, run_sweep
from resonance_lens.result import Target
from tests.models import Host, build, cases, hosts
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture

LENGTHS = (9, 7, 9, 7)


def pairs(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> PromptPairs:
    """Return random prompts, the corrupted ones with another token third from the end."""
    rng = np.random.default_rng(seed)
    clean = [rng.integers(1, 53, size=length).tolist() for length in lengths]
    corrupted = [[*row[:-3], (row[-3] + 5) % 53, *row[-2:]] for row in clean]
    right = rng.integers(1, 26, size=len(lengths))
    return PromptPairs(name="random", clean=clean, corrupted=corrupted, right=right, wrong=right + 26)


def sweep_of(
    model: Any,
    targets: str | Sequence[Target],
    *operations: Operation,
    of: PromptPairs | None = None,
    metric: str | NamedMetric = "logit_difference",
    base: str = "corrupted",
) -> Sweep:
    adapter = attach(model)
    return Sweep(
        adapter=adapter,  # type: ignore[arg-type]
        pairs=pairs() if of is None else of,
        base=base,
        places=places_of(targets, adapter),  # type: ignore[arg-type]
        operations=operations or (get_operation("patch"),),
        metric=get_metric(metric),
        placebo=placebo,
    )


def exact(sweep: Sweep) -> np.ndarray[Any, Any]:
    """Return the effects of exact patching ``[operation, place, pair]``."""
    measured = Measured.nothing(sweep)
    wanted = np.zeros(measured.values.shape, dtype=np.bool_)
    wanted[0] = True
    run_sweep(sweep, wanted, measured, keep=lambda _: None, progress=lambda _: None)
    return np.asarray(measured.values[0] - measured.sides[0])


@dataclass(frozen=True, kw_only=True)
class Part(Operation):
    """A part of the way to what another operation does."""

    name: ClassVar[str] = "part"
    sites: ClassVar[tuple[str, ...]] = tuple(HOOK_NAMES)

    whole: Operation
    share: float

    def __post_init__(self) -> None:
        for name in ("donor", "wants", "resamples"):
            object.__setattr__(self, name, getattr(self.whole, name))

    @property
    def label(self) -> str:
        return self.whole.label  # what is drawn depends on it

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        change = self.whole.edit(values, scene) - values
        return values + self.share * change.nan_to_num(0.0)  # scores: minus infinity before and after


def slope(model: Any, targets: str | Sequence[Target], operation: Operation, **kwargs: Any) -> Any:
    """Return the slope at no edit, by steps to both sides: four of them, so that bends hardly count."""
    step = 2e-2  # norms of some hosts work in single precision
    shares = (-2 * step, -step, step, 2 * step)
    parts = [Part(whole=operation, share=share) for share in shares]
    far_back, back, on, far_on = exact(sweep_of(model, targets, *parts, **kwargs))
    return (far_back - 8 * back + 8 * on - far_on) / (12 * step)


# ----------------------------------------------------------------------------------- finite differences


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern", "scores", "mlp_out", "resid_pre"])
def test_is_the_slope_of_exact_patching(host: Host, architecture: Architecture, site: str) -> None:
    model = host.build(architecture, dtype=torch.float64)
    found = attribute(sweep_of(model, site))[0]
    expected = slope(model, site, get_operation("patch"))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("mean_ablate", "z"),
        ("zero_ablate", "z"),
        ("resample_ablate", "v"),
        ("mean_ablate", "pattern"),
        ("remove_band", "z"),
        ("scramble_phase", "v"),
    ],
)
def test_any_operation_has_a_slope(name: str, site: str) -> None:
    model = build(LLAMA, dtype=torch.float64)
    operation = get_operation(name)
    found = attribute(sweep_of(model, site, operation, base="clean"))[0]
    expected = slope(model, site, operation, base="clean")
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_positions_are_those_of_the_target() -> None:
    model = build(GPT2, dtype=torch.float64)
    places = [(6,), (-1,), (0, -2), None]
    targets = [
        Target(site="z", layer=0, head=2, score=0.0, reason="", positions=positions) for positions in places
    ]
    found = attribute(sweep_of(model, targets))[0]
    expected = slope(model, targets, get_operation("patch"))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert not np.allclose(found[0], found[3])


def test_a_metric_of_ones_own() -> None:
    def entropy(logits: Tensor, answers: Any) -> Tensor:
        assert answers.base is not None
        values: Tensor = torch.distributions.Categorical(logits=logits).entropy()
        return values

    model = build(GPT2, dtype=torch.float64)
    metric = get_metric(entropy)
    found = attribute(sweep_of(model, "z", metric=metric))[0]
    expected = slope(model, "z", get_operation("patch"), metric=metric)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


# ------------------------------------------------------------------------------- between the two runs


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
def test_along_the_whole_way_nothing_is_missing(host: Host, architecture: Architecture) -> None:
    """What enters the first layer goes straight from run to run: its path integral is the effect."""
    model = host.build(architecture)
    targets = [Target(site="resid_pre", layer=0, score=0.0, reason="")]
    sweep = sweep_of(model, targets)
    expected = exact(sweep)
    errors = [np.abs(attribute(sweep, steps=steps) - expected).max() for steps in (0, 32)]
    assert errors[1] < 5e-3 * np.abs(expected).max()
    assert errors[1] < 0.05 * errors[0]  # the gradient at one end alone is far off


def test_an_operation_without_donor_is_at_the_unpatched_run() -> None:
    sweep = sweep_of(build(LLAMA), "z", get_operation("zero_ablate"), get_operation("patch"))
    plain, between = attribute(sweep), attribute(sweep, steps=3)
    np.testing.assert_array_equal(plain[0], between[0])
    assert np.abs(plain[1] - between[1]).max() > 1e-3


# --------------------------------------------------------------------------------- TransformerLens's own


def has_tool() -> bool:
    return tuple(map(int, version("transformer-lens").split(".")[:2])) >= (3, 9)


@pytest.mark.host
@pytest.mark.parametrize("architecture", [GPT2, LLAMA, NEOX], ids=str)
def test_equals_transformer_lens_node_by_node(architecture: Architecture) -> None:
    model = build(architecture)
    if not has_tool():  # then there is nothing of TransformerLens's to equal, nor to use
        assert gradients._tool(attach(model)) is None  # type: ignore[arg-type]
        return
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    of = pairs()
    for head_site, kind in (("z", "attn_head_out"), ("mlp_out", "mlp_out")):
        sweep = sweep_of(model, head_site, of=of)
        found = attribute(sweep)[0]
        for index in range(len(of)):

            def metric(logits: Tensor, index: int = index) -> Tensor:
                answer = logits[0, of.read[index]]
                return answer[of.right[index]] - answer[of.wrong[index]]

            clean, corrupted = (torch.tensor([rows[index]]) for rows in (of.clean, of.corrupted))
            scores = attribution_patch(model, clean, corrupted, metric).node_scores
            expected = np.zeros(len(sweep.places))
            for node, score in scores.items():
                if node.kind == kind and node.layer is not None:
                    place = Place(head_site, node.layer, node.head)
                    expected[list(sweep.places).index(place)] += score
            np.testing.assert_allclose(found[:, index], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
def test_both_ways_to_a_gradient_agree(
    host: Host, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = host.build(architecture)
    sites = ("z", "q", "pattern", "scores", "attn_out", "resid_post")
    first = [attribute(sweep_of(model, site)) for site in sites]
    assert (gradients._tool(attach(model)) is None) is not (has_tool() and "bridge" in host.name)  # type: ignore[arg-type]
    monkeypatch.setattr(gradients, "_tool", lambda adapter: None)
    for site, expected in zip(sites, first, strict=True):
        np.testing.assert_allclose(attribute(sweep_of(model, site)), expected, atol=2e-5, err_msg=site)


# -------------------------------------------------------------------------------------------- batches


def test_a_pair_is_attributed_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, of = build(LLAMA), pairs()
    together = attribute(sweep_of(model, "z", of=of))
    monkeypatch.setattr(attribution, "MOST_TOKENS", 1)
    alone = attribute(sweep_of(model, "z", of=of))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    some = attribute(sweep_of(model, "z", of=of.take([3, 0])))
    np.testing.assert_allclose(some, together[..., [3, 0]], atol=1e-5)


def test_no_edit_no_effect() -> None:
    of = pairs()
    same = PromptPairs(name="same", clean=of.clean, corrupted=of.clean, right=of.right, wrong=of.wrong)
    assert np.abs(attribute(sweep_of(build(GPT2), "z", of=same))).max() < 1e-5


# -------------------------------------------------------------------------------------- leaves no trace


def hooks_on(model: Any) -> int:
    points = model.hook_dict.values()
    return sum(len(point._forward_hooks) + len(point._backward_hooks) for point in points)


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_nothing_is_left_behind(host: Host, mode: Callable[[], Any]) -> None:
    model = host.build(LLAMA)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.blocks[1].train()
    before = {name: module.training for name, module in model.named_modules()}
    hooks = hooks_on(model)
    with mode():
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = attribute(sweep_of(model, "z"))
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (grad, inference)
    assert np.abs(found).max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert hooks_on(model) == hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_nothing_is_left_behind_after_an_error(host: Host) -> None:
    def broken(logits: Tensor, answers: Any) -> Tensor:
        raise RuntimeError("of the metric")

    model = host.build(GPT2)
    hooks, grad = hooks_on(model), torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="of the metric"):
        attribute(sweep_of(model, "z", metric=get_metric(broken)))
    assert (hooks_on(model), torch.is_grad_enabled()) == (hooks, grad)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_frozen_weights_do_not_matter(host: Host) -> None:
    model = host.build(GPT2)
    expected = attribute(sweep_of(model, "z"))
    model.requires_grad_(False)
    np.testing.assert_allclose(attribute(sweep_of(model, "z")), expected, atol=2e-5)
    assert not any(parameter.requires_grad for parameter in model.parameters())


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("metric", ["rank", "kl"])
def test_a_metric_without_a_gradient_is_refused(metric: str) -> None:
    with pytest.raises(ParameterError, match=f"'{metric}' cannot be attributed: .*'logit_difference'"):
        attribute(sweep_of(build(GPT2), "z", metric=metric))


def test_a_metric_that_cuts_its_gradient_is_refused() -> None:
    def cut(logits: Tensor, answers: Any) -> Tensor:
        return logits.detach()[:, 0]

    with pytest.raises(AdapterError, match="gives no gradients: the score .* does not depend"):
        attribute(sweep_of(build(GPT2), "z", metric=get_metric(cut)))


@pytest.mark.host
@pytest.mark.parametrize("host", hosts(), ids=str)
def test_a_model_made_in_inference_mode_is_refused(host: Host) -> None:
    with torch.inference_mode():
        model = host.build(GPT2)
    with pytest.raises(AdapterError, match="gives no gradients: its weights were made in inference mode"):
        attribute(sweep_of(model, "z"))


def test_a_batch_of_several_lengths_is_refused() -> None:
    from tests.models import batch_of, prompts

    adapter: Any = attach(build(GPT2))
    with pytest.raises(AdapterError, match="one length"):
        gradients.with_gradients(adapter, batch_of(prompts()), [("z", 0)], lambda logits: logits[:, 0, 0])
