"""The engine: what it makes of prompts, that it measures each once, and what it says of bad input."""

from __future__ import annotations

import gc
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import resonance_lens as rl
from resonance_lens.batches import Tokenized, front_tokens, make_batches, tokenize
from resonance_lens.contract import (
    Accumulated,
    Analysis,
    Evidence,
    Planted,
    Where,
    parameter,
)
from resonance_lens.design import Condition, Design
from resonance_lens.engine import choose_analyses, plan
from resonance_lens.errors import (
    ActivationError,
    AdapterError,
    AnalysisError,
    ModelError,
    ParameterError,
    PromptError,
    ResonanceLensError,
    ResultError,
)
from resonance_lens.facts import Batch
from resonance_lens.features import Features
from resonance_lens.hooks import attach
from resonance_lens.hooks.adapter import Receive, Wanted
from resonance_lens.hooks.twin import random_twin
from resonance_lens.prompts import Prompt
from resonance_lens.runs import Run
from resonance_lens.signal import Signal
from tests.models import batch_of, build, prompts
from tests.reference_transformer import GPT2, LLAMA

OURS = ("attention_entropy", "belief_collapse", "head_sync", "phase_coherence")
ROWS = prompts(lengths=(12, 30, 9, 21, 30, 17))
IDS = [f"prompt-{i:03d}" for i in range(len(ROWS))]


@cache
def gpt2() -> Any:
    return build(GPT2, text=True)


def counting(model: Any) -> Any:
    """Return the model's adapter, made to write down its passes in ``passes`` and ``forwards``."""
    cls: Any = type(attach(model))

    class Counting(cls):  # type: ignore[misc]
        def __init__(self, host: Any) -> None:
            self.passes: list[tuple[int, ...]] = []
            self.forwards: list[tuple[int, ...]] = []
            super().__init__(host)

        def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
            self.passes.append(batch.prompts)
            super().run(batch, wanted, receive)

        def forward(self, tokens: Tensor, mask: dict[str, Tensor], unembed: bool) -> Any:
            self.forwards.append(tuple(tokens.shape))
            return super().forward(tokens, mask, unembed)

    return Counting(model)


def measured(model: Any, rows: Any = ROWS, analyses: Any = OURS, **kwargs: Any) -> Run:
    return rl.run(model, rows, analyses, **{"progress": False, "check": False, "baselines": (), **kwargs})


def assert_same(one: Run, other: Run, atol: float = 0.0) -> None:
    assert list(one) == list(other)
    for name in one:
        if atol:
            xr.testing.assert_allclose(one[name].data, other[name].data, atol=atol, rtol=1e-5)
        else:
            xr.testing.assert_identical(one[name].data, other[name].data)
            assert one[name].summary == other[name].summary
            assert one[name].ranked == other[name].ranked


# Batches ---------------------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=25)


def tokenized(sizes: list[int]) -> list[Tokenized]:
    rng = np.random.default_rng(len(sizes))
    return [
        Tokenized(Prompt(text=None, id=f"p{i}"), tuple(int(t) for t in rng.integers(1, 50, size=n)))
        for i, n in enumerate(sizes)
    ]


@given(lengths, st.integers(1, 150), st.sampled_from(["right", "left"]), st.sets(st.integers(0, 24)))
def test_batches_hold_every_token_of_every_prompt_once(
    sizes: list[int], budget: int, side: str, done: set[int]
) -> None:
    given_ = tokenized(sizes)
    batches = make_batches(given_, budget, side, done)
    order = [p for batch in batches for p in batch.prompts]
    assert sorted(order) == sorted(set(range(len(sizes))) - done)
    for batch in batches:
        rows, width = batch.tokens.shape
        assert rows * width <= budget or rows == 1
        assert width == int(batch.lengths.max())
        assert batch.padding_side == side
        front = front_tokens(batch)
        for row, prompt in enumerate(batch.prompts):
            length = int(batch.lengths[row])
            assert tuple(front[row, :length].tolist()) == given_[prompt].tokens
            assert bool((front[row, length:] == 0).all())
            real = batch.tokens[row][batch.attention_mask()[row].bool()]
            assert tuple(real.tolist()) == given_[prompt].tokens


@given(lengths, st.integers(1, 150))
def test_the_longest_prompts_come_first_and_batches_are_full(sizes: list[int], budget: int) -> None:
    batches = make_batches(tokenized(sizes), budget)
    order = [sizes[p] for batch in batches for p in batch.prompts]
    assert order == sorted(sizes, reverse=True)
    for batch, after in zip(batches, batches[1:], strict=False):
        assert after.prompts and (batch.tokens.shape[0] + 1) * batch.tokens.shape[1] > budget


def test_a_beginning_token_is_put_before_texts_and_never_before_ids() -> None:
    adapter = attach(gpt2())
    texts = [
        Prompt(text="w1 w2", id="text"),
        Prompt(text="<bos> w1", id="has one"),
        Prompt(text=None, tokens=(7, 8), id="ids"),
    ]

    def ids(prepend: bool | None) -> list[tuple[int, ...]]:
        return [each.tokens for each in tokenize(texts, adapter.facts, adapter.tokenizer, prepend)]

    assert adapter.facts.prepends_bos and adapter.facts.bos_token == 1
    assert ids(None) == ids(True) == [(1, 3, 4), (1, 3), (7, 8)]
    assert ids(False) == [(3, 4), (1, 3), (7, 8)]


# One pass for all ------------------------------------------------------------------------------


def test_one_forward_pass_serves_all_analyses() -> None:
    adapter = counting(gpt2())
    run = measured(adapter, batch_tokens=60)
    batches = make_batches(tokenized([len(row) for row in ROWS]), 60)
    exhibits = 1
    assert adapter.passes[:-1] == [batch.prompts for batch in batches]
    assert len(adapter.passes) == len(batches) + exhibits
    # The first pass of all listens which hook points fire.
    assert adapter.forwards[1:] == [tuple(b.tokens.shape) for b in batches] + [(4, 30)]
    assert list(run) == list(OURS)


@pytest.mark.parametrize("arch", [GPT2, LLAMA], ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_gives_what_the_prompts_give_one_by_one(arch: Any, side: str) -> None:
    model = build(arch)
    alone = measured(model, batch_tokens=1)
    assert_same(measured(model, batch_tokens=1000, padding_side=side), alone, atol=1e-5)


def test_a_run_is_the_same_again_and_its_seed_moves_intervals_only() -> None:
    rows = ROWS + prompts(1, lengths=(12, 9, 20))
    one, other = measured(gpt2(), rows), measured(gpt2(), rows)
    assert_same(one, other)
    moved = measured(gpt2(), rows, seed=1)
    for name in ("phase_coherence", "attention_entropy"):
        headline = str(one[name].provenance["headline"])
        xr.testing.assert_identical(moved[name].data[headline], one[name].data[headline])
        with pytest.raises(AssertionError):
            xr.testing.assert_allclose(moved[name].data[f"{headline}_low"], one[name].data[f"{headline}_low"])


def test_parameters_reach_the_analysis() -> None:
    given_ = {"phase_coherence": {"circle": "half", "min_keys": 9, "surrogates": 0}}
    run = measured(gpt2(), analyses=["phase_coherence"], parameters=given_)
    assert run["phase_coherence"].provenance["parameters"] == given_["phase_coherence"]
    assert float(run["phase_coherence"].data.coherence_uniform.min()) > 0.6


@dataclass(frozen=True, kw_only=True)
class Echo(Analysis):
    """Says what it was shown."""

    name: ClassVar[str] = "echo"
    title: ClassVar[str] = "What was seen"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_pre",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ()
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.0
    headline: ClassVar[str] = "tokens"
    source: ClassVar[str] = "A test."

    shuffled: bool = parameter(False, help="whether to run the prompts shuffled too")

    def design(self, facts: Any, shortest: int) -> Design:
        conditions = (Condition("mixed", "shuffled"),) if self.shuffled else ()
        return Design((Condition(), *conditions))

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        signal = signals["resid_pre"]
        assert signal.values.dtype == torch.float32
        tokens = torch.zeros(len(where.prompts), 64, dtype=torch.long)
        tokens[:, : where.tokens.shape[1]] = where.tokens
        at_last = where.lengths - 1
        last = signal.values[torch.arange(len(tokens)), at_last]
        return Features.of(where.prompts, rows={"tokens": tokens, "lengths": where.lengths, "last": last})

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        variables = {
            f"{condition}_{name}": (("prompt", *(f"{name}_{i}" for i in range(values.ndim - 1))), values)
            for condition, features in seen.features.items()
            for name, values in features.rows.items()
        }
        return xr.Dataset(variables, coords={"prompt": list(seen.prompt_ids)})

    def plant(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError

    def null(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError


def echoed(**kwargs: Any) -> xr.Dataset:
    data = measured(gpt2(), analyses=[Echo(shuffled=True)], **kwargs)["echo"].data
    first_layer: xr.Dataset = data.isel(tokens_0=0)
    return first_layer


def test_a_shuffled_condition_keeps_the_first_token_and_every_other_once() -> None:
    data = echoed()
    moved = 0
    for row, prompt in enumerate(ROWS):
        plain = data.plain_tokens[row].values[: len(prompt)].tolist()
        mixed = data.mixed_tokens[row].values[: len(prompt)].tolist()
        assert plain == prompt
        assert mixed[0] == prompt[0]
        assert sorted(mixed) == sorted(prompt)
        assert int(data.mixed_tokens[row, len(prompt) :].sum()) == 0
        moved += sum(a != b for a, b in zip(plain, mixed, strict=True))
    assert moved > 0.5 * sum(map(len, ROWS))
    # The model saw them too, not only the analysis.
    assert not np.allclose(data.plain_last, data.mixed_last)
    np.testing.assert_array_equal(data.plain_lengths.squeeze(), data.mixed_lengths.squeeze())


def test_a_shuffle_depends_on_the_seed_and_the_prompt_and_on_nothing_else() -> None:
    one = echoed()
    for other in (echoed(batch_tokens=1), echoed(padding_side="left"), echoed(batch_tokens=50)):
        np.testing.assert_array_equal(one.mixed_tokens, other.mixed_tokens)
        np.testing.assert_allclose(one.mixed_last, other.mixed_last, atol=1e-5)
    assert not np.array_equal(one.mixed_tokens, echoed(seed=1).mixed_tokens)
    twice = echoed(rows=[ROWS[1], ROWS[1]])
    assert not np.array_equal(twice.mixed_tokens[0], twice.mixed_tokens[1])


def test_conditions_share_passes_with_analyses_that_want_the_same() -> None:
    adapter = counting(gpt2())
    measured(adapter, analyses=[Echo(shuffled=True), "attention_entropy", "head_sync"], batch_tokens=1000)
    assert len(adapter.passes) == 2 + 1  # plain, shuffled, exhibits


# Memory ----------------------------------------------------------------------------------------


def test_no_pattern_outlives_its_layer() -> None:
    model = gpt2()
    cls: Any = type(attach(model))
    patterns: list[StorageWeakRef] = []
    alive: list[int] = []

    class Watching(cls):  # type: ignore[misc]
        def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
            def watch(signal: Signal) -> None:
                if signal.site == "pattern":
                    gc.collect()
                    alive.append(sum(not each.expired() for each in patterns))
                    patterns.append(StorageWeakRef(signal.values.untyped_storage()))
                receive(signal)

            super().run(batch, wanted, watch)
            del watch
            gc.collect()
            alive.append(sum(not each.expired() for each in patterns))

    measured(Watching(model), batch_tokens=1000)
    assert len(patterns) >= 6
    # When a layer's pattern arrives, at most the one before it is still held by the host itself.
    assert max(alive) <= 1
    gc.collect()
    assert not any(not each.expired() for each in patterns)


def test_what_is_kept_does_not_grow_with_prompts_but_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[tuple[str, int], tuple[int, float]] = {}
    for analysis in choose_analyses(OURS):
        conclude = type(analysis).conclude

        def weigh(self: Analysis, seen: Accumulated, conclude: Any = conclude) -> xr.Dataset:
            features = seen.plain
            sums = sum(v.size for v in (*features.sums.values(), *features.blocks.values()))
            per_prompt = sum(v.size for v in features.rows.values()) / len(seen.prompt_ids)
            sizes[self.name, len(seen.prompt_ids)] = (sums, per_prompt)
            found: xr.Dataset = conclude(self, seen)
            return found

        monkeypatch.setattr(type(analysis), "conclude", weigh)
    for n in (3, 6, 12):
        measured(gpt2(), [ROWS[1]] * n, batch_tokens=64)
    for name in OURS:
        assert sizes[name, 3] == sizes[name, 6] == sizes[name, 12]
        assert sizes[name, 3][1] < 300  # numbers for 3 layers of 4 heads


# Resuming --------------------------------------------------------------------------------------


class Interrupted(Exception):
    """As if the machine had been switched off."""


def interrupting(model: Any, after: int, error: BaseException) -> Any:
    """Return an adapter whose pass number ``after`` fails half-way, on top of a `counting` one."""
    adapter = counting(model)
    cls: Any = type(adapter)

    class Failing(cls):  # type: ignore[misc]
        def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
            def fail(signal: Signal) -> None:
                if len(self.passes) > after and signal.layer == 1:
                    raise error
                receive(signal)

            super().run(batch, wanted, fail)

    return Failing(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, after: int, error: BaseException) -> None:
    whole = measured(gpt2(), batch_tokens=60)
    with pytest.raises(type(error)):
        measured(interrupting(gpt2(), after, error), batch_tokens=60, out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    if after:
        with pytest.raises(ResultError, match="was not finished; give the same command again"):
            rl.load(tmp_path / "run")
    adapter = counting(gpt2())
    resumed = measured(adapter, batch_tokens=60, out=tmp_path / "run")
    expected = [b.prompts for b in make_batches(tokenized([len(row) for row in ROWS]), 60)]
    assert adapter.passes[:-1] == expected[after:]
    assert_same(resumed, whole)
    assert_same(rl.load(tmp_path / "run"), whole)
    assert not (tmp_path / "run" / "partial").exists()


def test_a_stopped_run_goes_on_with_another_batch_size_and_measures_nothing_twice(tmp_path: Path) -> None:
    whole = measured(gpt2(), batch_tokens=1)
    with pytest.raises(Interrupted):
        measured(interrupting(gpt2(), 1, Interrupted()), batch_tokens=30, out=tmp_path)
    adapter = counting(gpt2())
    resumed = measured(adapter, batch_tokens=1000, out=tmp_path)
    assert sorted(adapter.passes[0]) == [0, 2, 3, 4, 5]  # prompt 1 was done before
    assert_same(resumed, whole, atol=1e-5)


def test_a_hook_of_the_user_s_can_stop_a_run_and_is_left_in_place(tmp_path: Path) -> None:
    model = build(GPT2)
    calls = 0

    def stop(values: Tensor, hook: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Interrupted

    with pytest.raises(Interrupted), model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", stop)]):
        measured(model, batch_tokens=60, out=tmp_path)
    adapter = counting(model)
    resumed = measured(adapter, batch_tokens=60, out=tmp_path)
    assert_same(resumed, measured(model, batch_tokens=60))
    assert len(adapter.passes) < 4 + 1


def test_a_finished_folder_is_read_without_a_pass(tmp_path: Path) -> None:
    whole = measured(gpt2(), out=tmp_path)
    adapter = counting(gpt2())
    again = measured(adapter, out=tmp_path, check=True)
    assert adapter.passes == []
    assert_same(again, whole)
    assert whole.folder == again.folder == tmp_path


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change, what",
    [
        ({"seed": 1}, "seed"),
        ({"rows": ROWS[:-1]}, "prompts"),
        ({"prepend_bos": False}, "prepend_bos"),
        ({"analyses": OURS[:2]}, "analyses"),
        ({"parameters": {"head_sync": {"min_keys": 9}}}, "analyses"),
    ],
    ids=["seed", "prompts", "bos", "analyses", "parameters"],
)
def test_a_folder_of_other_settings_is_refused(
    tmp_path: Path, finished: bool, change: dict[str, Any], what: str
) -> None:
    if finished:
        measured(gpt2(), out=tmp_path)
    else:
        with pytest.raises(Interrupted):
            measured(interrupting(gpt2(), 1, Interrupted()), batch_tokens=60, out=tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    adapter = counting(gpt2())
    with pytest.raises(ResultError, match=f"holds a run with other {what}; choose another folder, or delete"):
        measured(adapter, out=tmp_path, **change)
    assert adapter.passes == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    measured(gpt2(), out=tmp_path)
    with pytest.raises(ResultError, match="holds a run with other weights_fingerprint"):
        measured(build(GPT2, seed=1, text=True), out=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "no settings", "cut member"])
def test_damaged_partial_results_are_one_sentence(tmp_path: Path, damage: str) -> None:
    with pytest.raises(Interrupted):
        measured(interrupting(gpt2(), 1, Interrupted()), batch_tokens=60, out=tmp_path)
    file = tmp_path / "partial" / "features.zip"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "garbage":
        file.write_bytes(b"garbage")
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                if damage == "no settings" and name == "settings.json":
                    continue
                cut = damage == "cut member" and name != "settings.json"
                archive.writestr(name, content[:200] if cut else content)
    with pytest.raises(
        ResultError, match=r"unfinished run in .* cannot be read .*; delete the folder .*partial"
    ):
        measured(gpt2(), batch_tokens=60, out=tmp_path)


# A cache of the user's -------------------------------------------------------------------------


def cached(model: Any, rows: list[list[int]], side: str) -> tuple[Any, Batch]:
    batch = batch_of(rows, side)
    kwargs = {"attention_mask": batch.attention_mask()} if side == "left" else {}
    with torch.no_grad():
        _, found = model.run_with_cache(batch.tokens, **kwargs)
    return found, batch


@pytest.mark.parametrize("arch", [GPT2, LLAMA], ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_cache_gives_what_a_run_gives(arch: Any, side: str) -> None:
    model = build(arch)
    run = measured(model, rows=ROWS)
    cache_, batch = cached(model, ROWS, side)
    for name in OURS:
        result = rl.analyze(cache_, name, attention_mask=batch.attention_mask())
        xr.testing.assert_allclose(result.data, run[name].data, atol=1e-5, rtol=1e-5)
        assert result.data.prompt.values.tolist() == IDS
        assert result.provenance["model"]["host"] == "activation_cache"
        assert result.provenance["prompts"]["count"] == len(ROWS)


def test_a_cache_without_padding_needs_no_mask_and_takes_parameters() -> None:
    model, rows = gpt2(), prompts(lengths=(20, 20, 20))
    cache_, batch = cached(model, rows, "right")
    given_ = {"circle": "half", "min_keys": 10, "surrogates": 0}
    run = measured(model, rows=rows, analyses="phase_coherence", parameters={"phase_coherence": given_})
    result = rl.analyze(cache_, "phase_coherence", tokens=batch.tokens, parameters=given_)
    xr.testing.assert_allclose(result.data, run["phase_coherence"].data, atol=1e-6)
    assert result.provenance["parameters"] == given_
    assert result.provenance["prompts"]["tokens"] == 60


@pytest.mark.parametrize(
    "mask, message",
    [
        ([[1, 0, 1], [1, 1, 1]], "must have its ones in one piece, at the left or at the right"),
        ([[1, 1, 0], [0, 1, 1]], "must have its ones in one piece"),
        ([[0, 0, 0], [1, 1, 1]], "must have its ones in one piece"),
        ([[1, 1], [1, 1]], r"mask has shape \(2, 2\), and the tokens have \(2, 3\)"),
    ],
)
def test_a_mask_that_is_none(mask: list[list[int]], message: str) -> None:
    cache_, _ = cached(gpt2(), [[1, 2, 3], [4, 5, 6]], "right")
    with pytest.raises(PromptError, match=message):
        rl.analyze(cache_, "belief_collapse", attention_mask=torch.tensor(mask))


def test_what_a_cache_cannot_do() -> None:
    cache_, _ = cached(gpt2(), ROWS[:1], "right")
    with pytest.raises(ModelError, match=r"run needs a model; for an ActivationCache call analyze"):
        measured(cache_)
    with pytest.raises(AnalysisError, match="analyze makes one analysis of a cache"):
        rl.analyze(cache_, "all")
    with pytest.raises(AnalysisError, match="no analysis 'head_sink'"):
        rl.analyze(cache_, "head_sink")
    (chosen,) = choose_analyses("head_sync")
    with pytest.raises(AnalysisError, match="head_sync was given as an instance"):
        rl.analyze(cache_, chosen, parameters={"min_keys": 9})
    short, _ = cached(gpt2(), [[1, 2, 3]], "right")
    with pytest.raises(PromptError, match="'prompt-000' has 3 tokens, and head_sync needs at least 8"):
        rl.analyze(short, "head_sync")


# Numbers that are none -------------------------------------------------------------------------


@pytest.fixture
def spoilt() -> Any:
    """A model of which one head of layer 1 has a weight that is not a number."""
    model = build(LLAMA)
    weight = next(w for n, w in model.named_parameters() if ".1." in n and "q_proj" in n)
    with torch.no_grad():
        weight[2 * LLAMA.d_head] = float("nan")
    return model


@pytest.mark.parametrize("name", ["attention_entropy", "head_sync", "phase_coherence"])
def test_a_weight_that_is_no_number_is_named_by_site_and_layer(
    spoilt: Any, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ActivationError, match="activations of 'pattern' at layer 1 hold not-a-number values"):
        measured(spoilt, analyses=name, out=tmp_path)
    assert not list(tmp_path.rglob("*.nc")) and not (tmp_path / "run.json").exists()


def test_residuals_that_are_no_numbers_are_named_by_site_and_layer(spoilt: Any) -> None:
    with pytest.raises(ActivationError, match="activations of 'resid_post' at layer 1 hold not-a-number"):
        measured(spoilt, analyses="belief_collapse")


def test_one_head_of_the_last_layer_is_enough() -> None:
    """Nothing that comes after it would show."""
    model = build(GPT2)

    def spoil(values: Tensor, hook: Any) -> Tensor:
        values = values.clone()
        values[0, 3, -1, :] = float("nan")
        return values

    for name in ("phase_coherence", "head_sync", "attention_entropy"):
        with (
            model.hooks(fwd_hooks=[("blocks.2.attn.hook_pattern", spoil)]),
            pytest.raises(ActivationError, match="'pattern' at layer 2 hold not-a-number"),
        ):
            measured(model, rows=ROWS[:2], analyses=name)


def test_an_infinite_residual_is_called_that() -> None:
    model = build(GPT2)

    def spoil(values: Tensor, hook: Any) -> Tensor:
        values = values.clone()
        values[0, 0, 0] = float("inf")
        return values

    with (
        model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", spoil)]),
        pytest.raises(ActivationError, match="'resid_post' at layer 2 hold infinite values"),
    ):
        measured(model, analyses="belief_collapse")


def test_an_analysis_that_makes_numbers_that_are_none_is_to_blame() -> None:
    class Wrong(Echo):
        def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
            return Features.of(where.prompts, rows={"x": np.full(len(where.prompts), np.nan)})

    with pytest.raises(AnalysisError, match="echo returned a number that is not finite at layer 0"):
        measured(gpt2(), analyses=[Wrong()])


def test_what_does_not_exist_is_no_error_of_the_analysis() -> None:
    """Heads that all look at the first key have nothing beyond it, in any prompt."""
    model = build(GPT2)

    def sink(values: Tensor, hook: Any) -> Tensor:
        values = torch.zeros_like(values)
        values[..., 0] = 1.0
        return values

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    with model.hooks(fwd_hooks=[(name, sink) for name in names]):
        run = measured(model)
    drop = run["phase_coherence"].data.coherence.sel(first_position="drop")
    assert bool(drop.isnull().all())
    assert bool((run["attention_entropy"].data.sink_mass == 1).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_is_measured_in_single(dtype: torch.dtype) -> None:
    half, full = build(GPT2, dtype=dtype), build(GPT2)
    run = measured(half, analyses=[*OURS, Echo()])  # Echo asserts what it is given
    whole = measured(full)
    for name, variable in (("phase_coherence", "coherence"), ("attention_entropy", "entropy")):
        assert run[name].data[variable].dtype == np.float64
        np.testing.assert_allclose(run[name].data[variable], whole[name].data[variable], atol=0.15)


# Bad input -------------------------------------------------------------------------------------


def refused(error: type[ResonanceLensError], message: str, *args: Any, **kwargs: Any) -> None:
    """Check that a run is refused with one line that says this, before any pass."""
    adapter = counting(kwargs.pop("model", None) or gpt2())
    with pytest.raises(error, match=message) as caught:
        rl.run(adapter, *args, **{"progress": False, **kwargs})
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"
    assert adapter.passes == []


def test_bad_prompts_are_one_sentence() -> None:
    refused(PromptError, "no prompt", [], "head_sync")
    refused(PromptError, r"'prompt-001' has 1 token, and belief_collapse needs at least 2", [[1, 2], [3]],
            "belief_collapse")  # fmt: skip
    refused(PromptError, r"'prompt-000' has 7 tokens, and head_sync needs at least 8; leave the prompt out",
            [[1] * 7], "head_sync")  # fmt: skip
    refused(PromptError, r"'prompt-000' has 65 tokens, and the context of gpt2 holds 64; .*never cut off",
            [[1] * 65], "head_sync")  # fmt: skip
    refused(PromptError, r"has the token id 53, and gpt2 has ids up to 52", [[1] * 9 + [53]], "head_sync")
    refused(PromptError, "gpt2 has no tokenizer; give prompts as token ids", ["w1 w2"], "belief_collapse",
            model=build(GPT2))  # fmt: skip
    refused(PromptError, "llama has no beginning-of-sequence token", ["w1 w2"], "belief_collapse",
            model=build(LLAMA), prepend_bos=True)  # fmt: skip


def test_bad_analyses_are_one_sentence() -> None:
    refused(AnalysisError, "no analysis 'head_sink'.*Did you mean 'head_sync'", ROWS, "head_sink")
    refused(AnalysisError, "No analysis was named; there are .*head_sync", ROWS, [])
    refused(AnalysisError, "head_sync was named twice", ROWS, ["head_sync", "head_sync"])
    refused(AnalysisError, "Parameters were given for 'phase_coherence', which is not", ROWS, "head_sync",
            parameters={"phase_coherence": {"min_keys": 9}})  # fmt: skip
    refused(ParameterError, "no parameter of head_sync 'min_key'.*Did you mean 'min_keys'", ROWS, "head_sync",
            parameters={"head_sync": {"min_key": 9}})  # fmt: skip
    refused(ParameterError, "'min_keys' parameter of head_sync must be at least 4; got 3", ROWS, "head_sync",
            parameters={"head_sync": {"min_keys": 3}})  # fmt: skip
    refused(ParameterError, "'circle' parameter .* must be one of 'full', 'half'; got 'round'", ROWS,
            "head_sync", parameters={"head_sync": {"circle": "round"}})  # fmt: skip


def test_bad_settings_are_one_sentence() -> None:
    for bad in (0, -5, 1.5, True, "8"):
        refused(ParameterError, "'batch_tokens' parameter of run must be an integer of at least 1", ROWS,
                "head_sync", batch_tokens=bad)  # fmt: skip
    refused(ParameterError, "'padding_side' .* must be 'right' or 'left'; got 'top'", ROWS, "head_sync",
            padding_side="top")  # fmt: skip
    refused(ModelError, "device and dtype are for a model given by name", ROWS, "head_sync", dtype="float16")


def test_a_folder_that_cannot_be_is_refused_before_any_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(ResultError, "The folder .* cannot be made", ROWS, "head_sync", out=tmp_path / "file" / "run",
            check=False)  # fmt: skip


# What comes with the results -------------------------------------------------------------------


def test_exhibits_are_the_patterns_that_the_views_ask_for() -> None:
    categories = {"a": ROWS[:3], "b": ROWS[3:]}
    run = measured(gpt2(), rows=categories)
    shown = run.exhibits
    assert shown is not None
    asked = [head for name in run for view in run[name].views for head in view.heads]
    assert shown.head_label.values.tolist() == [f"L{layer}H{head}" for layer, head in dict.fromkeys(asked)]
    assert shown.category.values.tolist() == ["a", "b"]
    assert shown.prompt.values.tolist() == ["prompt-000", "prompt-003"]
    assert shown.length.values.tolist() == [12, 21]
    for index, row in enumerate((ROWS[0], ROWS[3])):
        with torch.no_grad():
            _, cache_ = gpt2().run_with_cache(torch.tensor([row]))
        n = len(row)
        for label, layer, head in zip(
            shown.head_label.values, shown.layer.values, shown["head"].values, strict=True
        ):
            assert label == f"L{layer}H{head}"
            expected = cache_[f"blocks.{layer}.attn.hook_pattern"][0, head].numpy()
            found = shown.pattern.sel(head_label=label)[index].values
            np.testing.assert_allclose(found[:n, :n], expected, atol=1e-6)
            assert not found[n:].any() and not found[:, n:].any()
        words = [gpt2().tokenizer.decode([i]) for i in row]
        assert shown.token[index].values.tolist() == words + [""] * (shown.sizes["key"] - n)


def test_no_view_no_exhibits() -> None:
    adapter = counting(gpt2())
    run = measured(adapter, analyses=["belief_collapse"], batch_tokens=1000)
    assert run.exhibits is None
    assert len(adapter.passes) == 1


def test_provenance_says_what_was_run_on_what(tmp_path: Path) -> None:
    rows = {"a": ROWS[:2], "b": ROWS[2:]}
    run = measured(gpt2(), rows=rows, seed=5, batch_tokens=77, out=tmp_path, prepend_bos=False)
    about = run["head_sync"].provenance
    assert json.loads(json.dumps(dict(about))) == dict(about)
    assert about["model"]["model_name"] == "gpt2" and about["model"]["n_heads"] == 4
    assert about["analysis"] == "head_sync" and about["evidence"] == "proxy"
    assert about["parameters"] == {"circle": "full", "min_keys": 8}
    assert about["seed"] == 5 and about["batch_tokens"] == 77 and about["prepend_bos"] is False
    assert about["prompts"]["count"] == 6 and about["prompts"]["tokens"] == sum(map(len, ROWS))
    assert (about["prompts"]["shortest"], about["prompts"]["longest"]) == (9, 30)
    assert about["prompts"]["categories"] == {"a": 2, "b": 4}
    assert about["versions"]["torch"] == torch.__version__
    assert len(about["weights_fingerprint"]) == 64
    other = build(GPT2, seed=1, text=True)
    assert measured(other)["head_sync"].provenance["weights_fingerprint"] != about["weights_fingerprint"]
    digests = {
        measured(gpt2(), rows=each)["head_sync"].provenance["prompts"]["digest"]
        for each in (ROWS, ROWS[::-1])
    }
    assert len(digests) == 2
    assert rl.load(tmp_path)["head_sync"].provenance == dict(about)


def test_a_plan_says_what_a_run_does(tmp_path: Path) -> None:
    adapter = counting(gpt2())
    those: list[Any] = [*OURS, Echo(shuffled=True)]
    found = plan(adapter, ROWS, those, batch_tokens=60, out=tmp_path / "run", baselines=())
    assert adapter.passes == [] and not (tmp_path / "run").exists()
    assert (found.prompts, found.tokens) == (6, sum(map(len, ROWS)))
    assert found.largest_batch == (2, 30)
    run = measured(adapter, analyses=those, batch_tokens=60, out=tmp_path / "run")
    exhibits = 1
    assert found.passes == len(adapter.passes) - exhibits
    assert found.hooks == 3 * len({"pattern", "resid_post", "resid_pre"})
    assert found.largest_signal_bytes == 4 * 2 * 30 * 30 * 4  # floats, prompts, queries, keys, heads
    assert set(found.files) <= {str(path) for path in (tmp_path / "run").iterdir()}
    assert dict(found.analyses) == {name: 3 for name in run}
    text = str(found)
    assert "6 (119 tokens)" in text and "2 x 30 tokens" in text and "head_sync at 3 layers" in text
    assert json.dumps(found.as_dict())


def test_a_plan_counts_baselines_and_says_what_the_claims_can_find() -> None:
    whole = plan(gpt2(), ROWS, OURS, batch_tokens=60)
    bare = plan(gpt2(), ROWS, OURS, batch_tokens=60, baselines=())
    assert whole.passes == 3 * bare.passes
    assert whole.conditions["head_sync"] == ("plain", "random_weights", "shuffled_tokens")
    assert bare.conditions["head_sync"] == ("plain",)
    (coherence,) = [claim for claim in whole.claims if claim.startswith("phase_coherence")]
    assert "6 prompts find an effect of" in coherence and "a family of 12 heads" in coherence
    (fewer,) = [claim for claim in plan(gpt2(), ROWS[:5], "phase_coherence").claims]
    assert "cannot be tested: 5 prompts can reach no p below 0.062; 6 prompts could" in fewer


# Baselines -------------------------------------------------------------------------------------


def test_baselines_are_passes_of_their_own() -> None:
    run = measured(gpt2(), baselines="all")
    for name in OURS:
        data, about = run[name].data, run[name].provenance
        headline = str(about["headline"])
        assert about["conditions"] == ["random_weights", "shuffled_tokens"]
        for condition in ("random_weights", "shuffled_tokens"):
            assert not np.allclose(data[f"{headline}_{condition}"], data[headline], atol=1e-4)
            for claim in about["claims"]:
                assert f"{claim['variable']}_beyond_{condition}_low" in data
    one = run["attention_entropy"].data
    bare = measured(gpt2())["attention_entropy"].data
    xr.testing.assert_identical(one[list(bare.data_vars)], bare)


def test_a_baseline_is_what_a_run_on_it_measures() -> None:
    """The twin's numbers are those of a run of the twin; the difference is paired by prompt."""
    run = measured(gpt2(), analyses=["phase_coherence"], baselines=["random_weights"])
    twin = measured(random_twin(attach(gpt2()), 0).model, analyses=["phase_coherence"])
    ours, theirs = run["phase_coherence"].data, twin["phase_coherence"].data
    xr.testing.assert_allclose(ours.coherence_random_weights, theirs.coherence.drop_attrs())
    for name in ("coherence_squared_effect", "coherence_squared_q"):
        np.testing.assert_allclose(ours[f"{name}_random_weights"], theirs[name])
    paired = ours.coherence_squared_effect_prompt - theirs.coherence_squared_effect_prompt
    np.testing.assert_allclose(
        ours.coherence_squared_beyond_random_weights.sel(category="all"), paired.mean("prompt"), atol=1e-6
    )


def test_baselines_do_not_depend_on_the_batch() -> None:
    one = measured(gpt2(), baselines="all", analyses=["phase_coherence", "belief_collapse"])
    for kwargs in ({"batch_tokens": 1}, {"padding_side": "left"}):
        other = measured(gpt2(), baselines="all", analyses=["phase_coherence", "belief_collapse"], **kwargs)
        for name in one:
            for variable in one[name].data.data_vars:
                if not str(variable).endswith(("_q", "_p")):  # steps, which rounding may cross
                    np.testing.assert_allclose(
                        one[name].data[variable], other[name].data[variable], rtol=1e-3, atol=1e-4
                    )


def test_a_twin_that_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(adapter: Any, seed: int) -> Any:
        raise AdapterError("tiny has quantised weights, which cannot be drawn anew.")

    monkeypatch.setattr("resonance_lens.engine.random_twin", none)
    result = measured(gpt2(), analyses=["phase_coherence"], baselines="all")["phase_coherence"]
    assert result.provenance["conditions"] == ["shuffled_tokens"]
    assert "Without the random-weight twin: tiny has quantised weights" in result.methods
    assert "random_weights" not in "".join(map(str, result.data.data_vars))


def test_unknown_baselines_are_one_sentence() -> None:
    with pytest.raises(ParameterError, match="baseline 'random_weight'.*random_weights"):
        measured(gpt2(), baselines=["random_weight"])


def test_categories_are_those_of_the_prompts() -> None:
    run = measured(gpt2(), rows={"a": ROWS[:3], "b": ROWS[3:]})
    for name in OURS:
        assert run[name].data.category.values.tolist() == ["all", "a", "b"]
    alone = measured(gpt2(), rows=ROWS[3:])
    np.testing.assert_allclose(
        run["attention_entropy"].data.entropy.sel(category="b"),
        alone["attention_entropy"].data.entropy.sel(category="all"),
        atol=1e-6,
    )


def test_all_leaves_out_what_cannot_be_made_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A model without rotary positions has no rotary bands; asked for by name they are refused."""
    rows = prompts(seed=1, lengths=(40, 44, 52))
    model = build(GPT2)
    said = plan(model, rows, "all", baselines=())
    assert "not rotary" in said.left_out["rope_bands"] and "rope_bands" not in said.analyses
    assert "left out  rope_bands: gpt2 has no 'rot_" in str(said)
    with pytest.raises(AdapterError, match="not rotary"):
        plan(model, rows, ["rope_bands"], baselines=())
    with pytest.raises(AdapterError, match="not rotary"):
        plan(model, rows, "all", parameters={"rope_bands": {}}, baselines=())
    short = rl.run(model, prompts(lengths=(2, 3)), "all", baselines=())
    assert list(short) == ["belief_collapse"]
    assert "needs at least 8" in short.provenance["left_out"]["attention_entropy"]
    assert "attention_entropy is left out: Prompt 'prompt-000' has 2 tokens" in capsys.readouterr().err
    with pytest.raises(PromptError, match="Prompt 'prompt-000' has 1 token"):
        rl.run(model, prompts(lengths=(1,)), "all", baselines=(), progress=False)
