"""Sweeps on disk, what their results hold, and what is refused: one sentence each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.errors import ResonanceLensError
from resonance_lens.hooks import ModelAdapter
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching import patch as patch_module
from resonance_lens.patching.kept import Kept
from resonance_lens.patching.metrics import Answers
from resonance_lens.patching.operations import Operation, Scene, get_operation
from resonance_lens.stats.inference import infer
from resonance_lens.stats.samples import Sample
from tests.models import hosts
from tests.patching.small_pairs import induction_pairs, random_pairs
from tests.reference_transformer import GPT2, LLAMA


class Killed(BaseException):
    """Something that no code catches."""


@cache
def induction() -> Any:
    """Return the planted induction model."""
    return testbed.load_circuit("induction").model()


@cache
def gpt2() -> Any:
    """Return a tiny model with random weights."""
    return hosts()[0].build(GPT2)


def target(site: str, layer: int = 1, head: int | None = 0, **about: Any) -> rl.Target:
    """Return a target."""
    return rl.Target(site=site, layer=layer, head=head, score=0.0, reason="test", **about)


# ------------------------------------------------------------------------------------- on disk


def test_a_killed_sweep_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = hosts()[0].build(LLAMA), random_pairs(lengths=(7, 5, 9, 7, 5, 9, 6))
    whole = rl.patch(model, pairs, progress=False)
    keep = Kept.keep
    written: list[int] = []

    def killed(self: Kept, measured: Any) -> None:
        keep(self, measured)
        written.append(int(np.isfinite(measured.values).sum()))
        if len(written) == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "keep", killed)
        with pytest.raises(Killed):
            rl.patch(model, pairs, out=tmp_path, progress=False)
    with pytest.raises(ResonanceLensError, match="was not finished; give the same command again to resume"):
        rl.load(tmp_path)
    layers: list[int] = []
    original = ModelAdapter.resume

    def counted(self: Any, batch: Any, layer: int, residual: Tensor, hooks: Any = ()) -> Tensor:
        layers.append(layer)
        return original(self, batch, layer, residual, hooks)

    with monkeypatch.context() as patched:
        patched.setattr(ModelAdapter, "resume", counted)
        resumed = rl.patch(model, pairs, out=tmp_path, progress=False, batch_tokens=64)
    assert set(layers) == {2}  # two of three layers were there
    for name in whole.data:
        np.testing.assert_allclose(resumed.data[name], whole.data[name], atol=1e-4, err_msg=str(name))
    assert not (tmp_path / "partial").exists()

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished sweep was made again")

    monkeypatch.setattr(patch_module, "run_sweep", never)
    again = rl.patch(model, pairs, out=tmp_path, progress=False)
    assert again.data.identical(resumed.data) and again.summary == resumed.summary
    changed: list[dict[str, Any]] = [
        {"seed": 1}, {"operation": "zero_ablate"}, {"controls": ()}, {"targets": "v"}
    ]  # fmt: skip
    for other in changed:
        with pytest.raises(
            ResonanceLensError, match="holds a run with other (patch|seed); choose another folder"
        ):
            rl.patch(model, pairs, **{"out": tmp_path, "progress": False, **other})


def test_a_result_is_read_back_as_what_it_was(tmp_path: Path) -> None:
    targets = [target("z", positions=(-1, 0)), target("pattern")]
    found = rl.patch(induction(), induction_pairs(), targets, out=tmp_path, progress=False)
    read = rl.load(tmp_path)["patch"]
    assert isinstance(read, rl.PatchResult)
    assert read.data.identical(found.data)
    assert read.targets(2) == found.targets(2)
    assert {t.positions for t in read.targets(2)} == {(-1, 0), None}
    assert read.data.target.values.tolist() == ["L1H0 z @-1,0", "L1H0 pattern"]
    page = rl.load(tmp_path).report(tmp_path / "page.html").read_text()
    assert "Effect of patching" in page


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    rl.patch(induction(), induction_pairs(), controls=())
    out, err = capsys.readouterr()
    assert out == "" and "patching: 100%" in err and "48/48" in err  # 4 heads, 12 pairs


# ------------------------------------------------------------------------------- what is in it


def test_numbers_of_the_result() -> None:
    model, pairs = hosts()[0].build(LLAMA), random_pairs(lengths=(7, 5, 9, 7, 5, 9, 6, 8))
    found = rl.patch(model, pairs, operation=["patch", "zero_ablate"], direction="denoise", progress=False)
    data = found.data
    rows = (data.metric - data.metric_base).values
    np.testing.assert_array_equal(data.metric_base, data.metric_corrupted)
    np.testing.assert_allclose(data.effect, rows.mean(-1), atol=1e-9)
    whole = (data.metric_clean - data.metric_corrupted).values.mean()
    np.testing.assert_allclose(data.normalized[0], rows[0].mean(-1) / whole)
    assert bool(data.normalized[1].isnull().all())  # nothing comes from the other prompt
    others = rows.reshape(2, 3, 4, -1).mean(-1)
    np.testing.assert_allclose(
        data.others.values.reshape(2, 3, 4), (others.sum(-1, keepdims=True) - others) / 3, atol=1e-9
    )
    np.testing.assert_allclose(data.effect_beyond, data.effect - data.placebo, atol=1e-6)
    np.testing.assert_array_equal(data.effect_map.values.reshape(2, -1), data.effect)
    assert bool((data.effect_low < data.effect).all()) and bool((data.effect < data.effect_high).all())
    # The same test by another stream of flips: exact, for eight pairs.
    base = np.broadcast_to(data.metric_base.values[:, None], rows[0].T.shape)
    expected = infer(Sample(data.metric.values[0].T, base), [0], np.random.default_rng(9))
    np.testing.assert_allclose(data.effect_p[0], expected.p)
    assert bool(data.complement.isnull().all())
    assert found.provenance["controls_missing"] == {"complement": ["patch", "zero_ablate"]}


def test_the_summary_says_what_the_numbers_say() -> None:
    pairs = induction_pairs()
    found = rl.patch(induction(), pairs, operation="remove_band", allow_look_ahead=True, progress=False)
    effect, low, high = (
        float(found.data[f"effect{end}"].sel(target="L0H0").item()) for end in ("", "_low", "_high")
    )
    assert found.summary.startswith(
        "12 pairs of planted: logit difference is 4.00 nats on clean and -4.00 on corrupted prompts. "
        "remove_band of 4 targets on the clean prompts: strongest are "
        f"L0H0 {effect:+.2f} [{low:+.2f}, {high:+.2f}] (others +0.00, placebo "
    )
    assert "2 of 4 have an effect (q <= 0.05), 2 of them surely one of more than 1% of the" in found.summary
    assert "remove_band lets the model see later tokens, which it never does on its own." in found.summary
    assert found.data.looks_ahead.values.tolist() == [1]
    few = rl.patch(induction(), pairs.take([0, 1, 2]), progress=False)
    assert "Nothing is claimed: 3 pairs can reach no p below 0.25; 6 pairs could." in few.summary
    assert bool(few.data.effect_q.isnull().all())


def test_others_are_drawn_where_not_all_are_patched() -> None:
    model, pairs = hosts()[0].build(LLAMA), random_pairs(lengths=(7, 5, 9))
    every = rl.patch(model, pairs, controls=("others",), progress=False).data
    some = rl.patch(model, pairs, [target("z", head=2)], controls=("others",), progress=False).data
    np.testing.assert_allclose(some.others, every.others.sel(target=["L1H2"]), atol=1e-5)  # all three of them
    layers = rl.patch(model, pairs, [target("mlp_out", head=None)], controls=("others",), progress=False).data
    whole = rl.patch(model, pairs, "mlp_out", controls=(), progress=False).data
    expected = whole.effect.sel(target=["L0", "L2"]).mean()
    np.testing.assert_allclose(layers.others.item(), expected, atol=1e-5)


def test_prescreen_patches_the_top_and_a_sample() -> None:
    found = rl.patch(induction(), induction_pairs(), prescreen=1, controls=("placebo",), progress=False)
    patched = found.data.effect.notnull().values[0]
    assert patched.sum() == 2 and found.data.effect.sel(target="L1H0").notnull().item()
    assert found.data.attribution.notnull().all()
    assert "Attribution agrees with exact patching" in found.summary


# ---------------------------------------------------------------------------- what is refused


@dataclass(frozen=True, kw_only=True)
class Faulty(Operation):
    """An operation that does what none may."""

    name: ClassVar[str] = "faulty"
    sites: ClassVar[tuple[str, ...]] = ("z",)

    how: str = "shape"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        return values[:, :1] if self.how == "shape" else values * torch.nan


def nowhere(logits: Tensor, answers: Answers) -> Tensor:
    """A metric that is not a number."""
    return logits[:, 0] * torch.nan


def everywhere(logits: Tensor, answers: Answers) -> Tensor:
    """A metric with too many numbers."""
    return logits


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"targets": "heads of state"}, "There is no site or set of targets 'heads of state'. Known: "),
        ({"targets": []}, "There are no targets to patch: the list is empty."),
        ({"targets": [target("z", 5)]}, "Target L5H0 is not in gpt2: its layers are 0 to 2."),
        ({"targets": [target("z", 1, 4)]}, "Target L1H4 is not in gpt2: the heads at 'z' are 0 to 3."),
        (
            {"targets": [target("mlp_out")]},
            "Target L1H0 names a head, and 'mlp_out' has none; leave the head",
        ),
        ({"targets": [target("zz")]}, "There is no site 'zz'. Known: "),
        (
            {"targets": [target("z"), target("z")]},
            "Target L1H0 at 'z' is given twice; leave one of them out.",
        ),
        ({"targets": [target("rot_q")]}, "Target L1H0 cannot be patched: gpt2 has no 'rot_q': its positions"),
        (
            {"targets": [target("z", positions=(6,))]},
            "Target L1H0 names position 6, and the prompts of pair ",
        ),
        (
            {"targets": "logits"},
            "Nothing comes after 'logits'; patch 'resid_post' of the last layer instead.",
        ),
        ({"targets": "pattern", "operation": "zero_ablate"}, "zero_ablate is done to q, k, v, z,"),
        ({"operation": "remove"}, "There is no operation 'remove'. Known: "),
        ({"operation": "remove_band"}, "remove_band lets gpt2, which is causal, see later tokens; choose an"),
        (
            {"operation": "kernel", "targets": "pattern"},
            "kernel needs the kernels of the heads: give kernels=",
        ),
        (
            {"operation": ["patch", "zero_ablate"]},
            "Operations that take values from the other prompt denoise,",
        ),
        ({"operation": ["patch", "patch"]}, "The operation 'patch' is given twice; leave one of them out."),
        (
            {"operation": Faulty()},
            "faulty must return values of the shape (4, 9, 8) that it was given at L0H0",
        ),
        ({"operation": Faulty(how="nan")}, "faulty how=nan at L0H0 ('z') made values that are not finite."),
        ({"metric": "accuracy"}, "There is no metric 'accuracy'. Known: "),
        ({"metric": nowhere}, "The metric 'nowhere' is nan for pair 0 of 4; use a metric that is a finite"),
        ({"metric": everywhere}, "The metric 'everywhere' must return one number for each of 4 pairs, shape"),
        ({"controls": ("other",)}, "There is no control 'other'. Known: complement, others, placebo."),
        ({"direction": "up"}, "The 'direction' parameter of patch must be 'denoise', 'noise' or None; got"),
        (
            {"batch_tokens": 0},
            "The 'batch_tokens' parameter of patch must be an integer of at least 1; got 0.",
        ),
        (
            {"prescreen": 0},
            "The 'prescreen' parameter of patch must be an integer from 1 to 12, or None; got",
        ),
        ({"kernels": 3}, "The 'kernels' parameter of patch must be a result of attention_filter; got 3."),
        ({"pairs": "riddles"}, "There is no ready task 'riddles'"),
        (
            {"pairs": [1]},
            "The 'pairs' parameter of patch must be PromptPairs or the name of a task; got [1].",
        ),
    ],
    # Not the functions themselves, whose addresses differ from process to process.
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_refused(options: dict[str, Any], sentence: str) -> None:
    model = gpt2()
    given = {"pairs": random_pairs(lengths=(9, 6, 6, 7)), "progress": False, "controls": (), **options}
    with pytest.raises(ResonanceLensError, match="^" + re.escape(sentence)) as raised:
        rl.patch(model, **given)
    assert "\n" not in str(raised.value)


def test_prompts_that_do_not_fit() -> None:
    model = gpt2()
    with pytest.raises(
        ResonanceLensError, match="^Prompt 'pairs-000' has the token id 53, and gpt2 has ids up"
    ):
        rl.patch(model, _pairs([[1, 53]]), progress=False)
    with pytest.raises(
        ResonanceLensError, match="^The right answer of pair 'pairs-000' is token 99, and gpt2"
    ):
        rl.patch(model, _pairs([[1, 2]], right=99), progress=False)
    with pytest.raises(
        ResonanceLensError, match="^Pair 'pairs-001' has 3 tokens and no other pair has: there"
    ):
        rl.patch(model, _pairs([[1, 2], [1, 2, 3], [2, 2]]), operation="resample_ablate", progress=False)
    with pytest.raises(ResonanceLensError, match="^patch needs a model that can be run; an ActivationCache"):
        _, cache = model.run_with_cache(torch.tensor([[1, 2]]))
        rl.patch(cache, _pairs([[1, 2]]), progress=False)


def _pairs(rows: list[list[int]], right: int = 5) -> PromptPairs:
    answers = np.full(len(rows), right), np.full(len(rows), 6)
    return PromptPairs(name="pairs", clean=rows, corrupted=rows, right=answers[0], wrong=answers[1])


def test_an_operation_may_be_given_with_parameters() -> None:
    operation = get_operation("temperature", temperature=0.5)
    found = rl.patch(induction(), induction_pairs(), "pattern", operation=operation, progress=False)
    assert found.data.operation.values.tolist() == ["temperature temperature=0.5"]
    assert found.provenance["patch"]["operations"][0]["parameters"]["temperature"] == 0.5
