"""Periodic prompts, against passes by hand and circuits that are known to follow one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.analyses.natural_drives import NaturalDrives
from resonance_lens.arrangement import Arrangement
from resonance_lens.engine import plan
from resonance_lens.errors import AnalysisError, ParameterError, PromptError
from resonance_lens.hooks import attach
from resonance_lens.rhythms import NOUNS, periodic_prompts
from resonance_lens.trials import result_of
from tests.models import tokenizer

ROWS = [
    [0, *(1 + np.random.default_rng(i).permutation(31)).tolist(), *range(1, 30 - 2 * i)] for i in range(4)
]


@pytest.fixture(scope="module")
def model() -> Any:
    circuit = testbed.load_circuit("induction", n_ctx=64)
    circuit.weights["unembed.W_U"] *= 3  # surer of what it predicts
    return circuit.model()


@pytest.fixture(scope="module")
def data(model: Any) -> xr.Dataset:
    return result_of(NaturalDrives(), attach(model), ROWS).data


@pytest.mark.parametrize(("period", "reordered"), [(4, False), (16, False), (16, True)])
def test_numbers_are_those_of_passes_by_hand(
    model: Any, data: xr.Dataset, period: int, reordered: bool
) -> None:
    shortest = min(map(len, ROWS))
    n = (shortest - 1) // period
    here = data.sel(period=period)
    losses, shares, gains = [], [], []
    for row in ROWS:
        block = row[1 : 1 + period]
        ids = [row[0], *np.resize(block, len(row) - 1).tolist()]
        if reordered:
            ids = list(Arrangement(block=period, repeated=True, reordered=True).of(row, 0))
        else:
            assert ids == list(Arrangement(block=period, repeated=True).of(row, 0))
        with torch.no_grad():
            logits, cache = model.run_with_cache(torch.tensor([ids]))
        log_p = logits[0].double().log_softmax(-1).numpy()
        each = np.array([-log_p[at - 1, ids[at]] for at in range(1, 1 + n * period)]).reshape(n, period)
        losses.append(each.mean(1))
        into = cache["blocks.0.hook_resid_pre"][0].double().numpy()[1 + period : 1 + n * period]
        out = cache["blocks.1.hook_resid_post"][0].double().numpy()[1 + period : 1 + n * period]
        blocks = (out - out.mean(0)).reshape(n - 1, period, -1)
        level = blocks - blocks.mean(1, keepdims=True)
        pairs = [level[i] * level[j] for i in range(n - 1) for j in range(n - 1) if i != j]
        shares.append(np.mean(pairs, axis=0).sum() / np.square(blocks).mean(0).sum())
        line = [np.abs(np.fft.rfft(x, axis=0)[2 * (n - 1)]) ** 2 for x in (into, out)]
        gains.append(np.sqrt(line[1].sum() / line[0].sum()))
    late = np.mean(losses, axis=0)[max(1, n // 2) :].mean()
    end = "_reordered" if reordered else ""
    carried = here.sel(category="all", site="resid_post", scaling="raw", layer=1)
    np.testing.assert_allclose(carried[f"locked{end}"], np.mean(shares), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(carried[f"gain{end}"].sel(harmonic=2), np.mean(gains), rtol=1e-5)
    np.testing.assert_allclose(here[f"late_loss{end}"].sel(category="all"), late, rtol=1e-5)
    curve = here[f"loss{end}"].sel(category="all").values
    np.testing.assert_allclose(curve[: min(n, 8)], np.mean(losses, axis=0)[:8], rtol=1e-5, atol=1e-7)
    assert np.isnan(curve[n:]).all()


def test_an_induction_head_follows_every_period(data: xr.Dataset) -> None:
    whole = data.sel(category="all")
    assert whole.period.values.tolist() == [2, 4, 8, 16]
    assert float(whole.following.min()) > 0.9
    assert float(whole.longest_followed) == float(whole.longest_followed_low) == 16
    # The first repetition is new to it.
    assert float(whole.loss.sel(period=16, repetition=1)) > 10 * float(
        whole.loss.sel(period=16, repetition=2)
    )


def test_a_delay_follows_its_period_and_what_divides_it() -> None:
    """A head that copies what stood 3 tokens back predicts the next token of a period of 4 or 2."""
    circuit = testbed.load_circuit("previous_token", n_ctx=64, lag=3)
    circuit.weights["unembed.W_U"] *= 6
    n_vocab = circuit.shape.d_vocab
    rng = np.random.default_rng(0)
    rows = [np.resize(rng.permutation(n_vocab), 64).tolist() for _ in range(9)]
    whole = result_of(NaturalDrives(), attach(circuit.model()), rows).data.sel(category="all")
    followed = whole.following > 0.5
    assert followed.sel(period=[2, 4]).all() and not followed.sel(period=[8, 16]).any()
    assert [float(whole[f"longest_followed{end}"]) for end in ("_low", "", "_high")] == [4, 4, 4]


def test_of_a_text_with_a_period_of_its_own_the_period_is_given(model: Any) -> None:
    rows = [[0, *np.resize(row[1:9], 49).tolist()] for row in ROWS]
    own = result_of(NaturalDrives(period=8), attach(model), rows).data.sel(category="all")
    made = result_of(NaturalDrives(), attach(model), rows).data.sel(category="all", period=8)
    assert own.period.values.tolist() == [8] and "locked_text" not in own
    for name in ("locked", "following", "late_loss", "gain"):
        # These prompts are what is made of them, and so are the orders that are drawn.
        xr.testing.assert_allclose(own[name].sel(period=8), made[name])


def test_prompts_that_are_periodic_by_themselves(model: Any) -> None:
    """From the words of a tokenizer to the numbers."""

    known = {noun: index for index, noun in enumerate(NOUNS[:30], 2)}

    def words(text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [known.get(word, 1) for word in text.split()]}

    made = periodic_prompts(words, "alternation", count=3, tokens=24)
    rows = [[0, *words(str(prompt.text))["input_ids"]] for prompt in made.prompts]
    whole = result_of(NaturalDrives(period=made.period), attach(model), rows).data.sel(category="all")
    assert made.period == 2 and set(made.left_out) == set(NOUNS[30:])
    assert float(whole.locked_input.sel(scaling="raw", period=2)) > 0.2
    assert float(whole.late_loss[0]) < float(whole.late_loss_reordered[0])


def test_random_weights_stand_beside_and_passes_are_counted(model: Any) -> None:
    planned = plan(model, ROWS, "natural_drives", baselines=["random_weights"])
    assert (planned.passes, planned.sequences) == (18, 18 * len(ROWS))  # the text, four periods twice; twin
    run = rl.run(model, ROWS, "natural_drives", baselines=["random_weights"], progress=False)
    found = run["natural_drives"].data.sel(category="all")
    for name in ("locked", "gain", "following", "late_loss", "loss"):
        assert found[f"{name}_random_weights"].dims == found[name].dims
    assert float(abs(found.following_random_weights).max()) < 0.3
    drawn = found.locked.sel(scaling="raw", site="resid_post", period=8)
    assert float(drawn.min()) > 0.5 > float(drawn.sel(layer=1)) - 1


def test_all_analyses_leave_it_out_and_say_why(model: Any) -> None:
    planned = plan(model, ROWS, "all", baselines=[])
    assert "9 sequences for each prompt" in planned.left_out["natural_drives"]


def test_short_prompts_and_wrong_periods_are_refused(model: Any) -> None:
    with pytest.raises(PromptError, match="natural_drives needs at least 13"):
        rl.run(model, [row[:12] for row in ROWS], "natural_drives", progress=False)
    with pytest.raises(ParameterError, match="'period'"):
        NaturalDrives(period=1)
    assert NaturalDrives(period=5).min_tokens == 16
    with pytest.raises(AnalysisError, match="needs a model that can be run"):
        rl.analyze(model.run_with_cache(torch.tensor([ROWS[0]]))[1], "natural_drives")


@pytest.mark.parametrize("kind", ["list", "verse"])
def test_a_tokenizer_that_joins_words_is_refused(kind: str) -> None:
    with pytest.raises(PromptError, match=f"the kind '{kind}' have an exact period"):
        periodic_prompts(tokenizer(), kind)
