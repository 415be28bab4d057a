"""Belief over depth, against scipy's entropies on a readout made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import special
from scipy import stats as scipy_stats

from resonance_lens.analyses.belief_collapse import BeliefCollapse, collapse, spread_positions
from resonance_lens.engine import run
from resonance_lens.errors import AnalysisError
from tests.by_hand import facts, measure, observe
from tests.models import build
from tests.reference_transformer import GPT2, LLAMA, NEOX, Architecture, make_weights, readout
from tests.reference_transformer import run as reference

LENGTHS = [9, 2, 14, 6, 3]
VOCAB = 16


def unembedding() -> NDArray[np.float64]:
    return np.random.default_rng(9).normal(0, 1.2, (8, VOCAB))


def read_out(residual: torch.Tensor) -> torch.Tensor:
    return torch.tanh(residual.double()) @ torch.as_tensor(unembedding())


def residuals(n_layers: int, lengths: list[int] = LENGTHS, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.7, (n_layers, len(lengths), max(lengths), 8)).cumsum(0)
    return [{"resid_post": torch.tensor(each, dtype=torch.float32)} for each in steps]


def places(length: int, count: int) -> list[int]:
    return [max(1, 1 + round((length - 2) * k / count)) for k in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_numbers_are_those_of_scipy(count: int) -> None:
    layers = residuals(3)
    data = measure(
        BeliefCollapse(positions=count), layers, LENGTHS, facts(3, 1, d_vocab=VOCAB), readout=read_out
    ).sel(category="all")
    entropy, kl, rank = (np.zeros((len(LENGTHS), 3)) for _ in range(3))
    for p, length in enumerate(LENGTHS):
        at = places(length, count)
        assert at[-1] == length - 1
        final = special.softmax(
            np.tanh(layers[-1]["resid_post"][p, at].double().numpy()) @ unembedding(), axis=-1
        )
        for layer in range(3):
            logits = np.tanh(layers[layer]["resid_post"][p, at].double().numpy()) @ unembedding()
            lens = special.softmax(logits, axis=-1)
            entropy[p, layer] = scipy_stats.entropy(lens, axis=-1).mean()
            kl[p, layer] = special.rel_entr(final, lens).sum(-1).mean()
            best = final.argmax(-1)
            ranks = [sorted(row, reverse=True).index(row[b]) + 1 for row, b in zip(lens, best, strict=True)]
            rank[p, layer] = np.log(ranks).mean()
    np.testing.assert_allclose(data.entropy, entropy.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.entropy_prompt, entropy, rtol=1e-5)
    np.testing.assert_allclose(data.kl_to_final, kl.mean(0), atol=1e-6)
    np.testing.assert_allclose(data.log_rank, rank.mean(0), atol=1e-6)
    np.testing.assert_allclose(data.entropy_uniform, np.log(VOCAB))
    np.testing.assert_allclose(data.entropy_effect, entropy.mean(0) - np.log(VOCAB), atol=1e-5)
    assert float(data.kl_to_final[-1]) == pytest.approx(0, abs=1e-9)
    assert float(data.log_rank[-1]) == 0


@pytest.mark.parametrize("architecture", [GPT2, LLAMA, NEOX], ids=str)
def test_the_final_norm_is_applied_once(architecture: Architecture) -> None:
    """The second defect of SCIENCE 1: applied twice, the last entropy is not that of the model's logits."""
    prompts = [[5, 9, 2, 40, 17, 3, 8], [1, 1, 30, 22]]
    given = {"belief_collapse": {"positions": 1}}
    found = run(build(architecture), prompts, "belief_collapse", parameters=given, progress=False)
    data = found["belief_collapse"].data
    weights = make_weights(architecture)
    entropies = np.zeros((2, architecture.n_layers))
    for p, tokens in enumerate(prompts):
        sites = reference(architecture, weights, tokens)
        for layer in range(architecture.n_layers):
            logits = readout(architecture, weights, sites["resid_post", layer][-1])
            entropies[p, layer] = scipy_stats.entropy(special.softmax(logits))
        last = scipy_stats.entropy(special.softmax(sites["logits", architecture.n_layers - 1][-1]))
        assert float(data.entropy_prompt[p, -1]) == pytest.approx(last, abs=1e-4)
    np.testing.assert_allclose(data.entropy_prompt, entropies, atol=1e-4)


def test_positions_are_spread_and_the_last_is_always_read() -> None:
    found = spread_positions(torch.tensor([2, 3, 6, 100]), 4)
    assert found[:, -1].tolist() == [1, 2, 5, 99]
    assert found[3].tolist() == [1 + round(98 * k / 4) for k in (1, 2, 3, 4)]
    assert bool((found >= 1).all()) and bool((found.diff(dim=1) >= 0).all())


def belief(drop_at: int, n_layers: int, n_prompts: int, noise: float, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    level = np.where(np.arange(n_layers) < drop_at, 8.0, 3.0)
    return level + rng.normal(0, noise, (n_prompts, n_layers))


def test_a_drop_that_all_prompts_share_is_found() -> None:
    layer, low, high, drop = collapse(belief(5, 12, 20, 0.3), np.random.default_rng(0), 0.5)
    assert (layer, low, high) == (5, 5, 5)
    assert drop == pytest.approx(5, abs=0.4)


def test_there_is_none_in_noise_in_a_gentle_slope_or_where_prompts_disagree() -> None:
    rng = np.random.default_rng(0)
    slope = np.linspace(8, 3, 30) + rng.normal(0, 0.05, (24, 30))
    assert collapse(slope, np.random.default_rng(0), 0.5)[0] == -1
    rising = np.linspace(3, 8, 12) + rng.normal(0, 0.05, (24, 12))
    assert collapse(rising, np.random.default_rng(0), 0.5)[0] == -1
    disagreeing = np.stack([belief(2 + 7 * (p % 2), 12, 1, 0.1, p)[0] for p in range(24)])
    layer, low, high, _ = collapse(disagreeing, np.random.default_rng(0), 0.5)
    assert (layer, low, high) == (-1, 2, 9)
    found = [
        collapse(np.random.default_rng(s).normal(5, 1, (24, 30)), np.random.default_rng(0), 0.5, 499)[0]
        for s in range(40)
    ]
    assert sum(layer != -1 for layer in found) <= 2


def test_what_cannot_say_where() -> None:
    assert collapse(np.ones((5, 1)), np.random.default_rng(0), 0.5)[:3] == (-1, -1, -1)
    assert collapse(belief(2, 5, 1, 0.0), np.random.default_rng(0), 0.5) == (-1, -1, -1, 5.0)


def test_the_collapse_layer_has_the_number_of_the_layer_after_the_drop() -> None:
    """Layers before it are certain of nothing, it and those after it of one token."""
    lengths, n_layers = [9, 12, 6, 10, 8, 7], 8
    layers = []
    for layer in range(n_layers):
        values = torch.zeros(len(lengths), max(lengths), 8)
        if layer >= 3:
            values[..., 2] = 20
        layers.append({"resid_post": values + 0.1 * torch.as_tensor(
            np.random.default_rng(layer).normal(size=tuple(values.shape)), dtype=torch.float32
        )})  # fmt: skip
    about = facts(n_layers, 1, d_vocab=8)
    categories = ["a", "b", "a", "b", "a", "b"]
    data = measure(BeliefCollapse(), layers, lengths, about, categories=categories, readout=lambda r: r)
    assert data.collapse_layer.values.tolist() == [3, 3, 3]
    assert data.collapse_layer_low.values.tolist() == [3, 3, 3]
    assert float(data.collapse_drop[0]) == pytest.approx(np.log(8), abs=0.05)
    for name, rows in (("a", [0, 2, 4]), ("b", [1, 3, 5])):
        each = data.entropy_prompt[rows].mean("prompt")  # kept in single precision
        np.testing.assert_allclose(data.entropy.sel(category=name), each, rtol=1e-6)


@pytest.mark.parametrize("batches", [[[i] for i in range(5)], [[4, 0], [1, 3, 2]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    layers, about = residuals(3), facts(3, 1, d_vocab=VOCAB)
    one = measure(BeliefCollapse(), layers, LENGTHS, about, readout=read_out)
    other = measure(BeliefCollapse(), layers, LENGTHS, about, readout=read_out, batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-6)


def test_the_last_layer_is_needed() -> None:
    with pytest.raises(AnalysisError, match="the last layer was not observed"):
        observe(BeliefCollapse(), residuals(2), LENGTHS, facts(3, 1), readout=read_out)


def test_a_token_alone_has_no_prediction_to_read() -> None:
    assert BeliefCollapse().min_tokens == 2
