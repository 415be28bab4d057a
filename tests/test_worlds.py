"""The worlds are what they say: their nulls are true, and their plants are where they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from resonance_lens import worlds
from resonance_lens.contract import Planted
from resonance_lens.errors import ParameterError
from resonance_lens.worlds import WORLDS

Make = Callable[..., Planted]
MAKERS = (worlds.heads, worlds.layers_in_step, worlds.descents, worlds.writing_heads)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_world_has_its_words() -> None:
    assert set(worlds.WHERE) == set(WORLDS)


@pytest.mark.parametrize("make", MAKERS)
def test_an_unknown_world_is_refused(make: Make) -> None:
    with pytest.raises(ParameterError, match="no world 'pink'. Known: autocorrelated, iid"):
        make(rng(), "pink", 0.0, "x")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("world", WORLDS)
def test_everything_comes_from_the_generator(make: Make, world: str) -> None:
    one, same, other = (make(rng(seed), world, 1.0, "x") for seed in (0, 0, 1))
    for site, values in one.layers[-1].items():
        assert torch.equal(values, same.layers[-1][site])
        assert values.shape != other.layers[-1][site].shape or not torch.equal(values, other.layers[-1][site])


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("world", WORLDS)
def test_truth(make: Make, world: str) -> None:
    assert not make(rng(), world, 0.0, "x").truth["x"].any()
    truth = make(rng(), world, 1.0, "x").truth["x"]
    assert 0 < truth.mean() <= 0.5, "plants leave places to be wrong about"


@pytest.mark.parametrize("make", MAKERS)
def test_lengths(make: Make) -> None:
    equal, unequal = (make(rng(), world, 0.0, "x").lengths for world in ("iid", "unequal"))
    assert int(equal.max()) <= 2 * int(equal.min())
    assert int(unequal.max()) >= 5 * int(unequal.min())


@pytest.mark.parametrize("world", WORLDS)
def test_correlation_of_scores_from_query_to_query(world: str) -> None:
    drawn = worlds.scores(rng(), world, (4, 60, 60))
    assert drawn.mean() == pytest.approx(0, abs=0.15)
    assert drawn.std() == pytest.approx(1, abs=0.1)
    follows = np.corrcoef(drawn[:, 1:].ravel(), drawn[:, :-1].ravel())[0, 1]
    expected = {"iid": 0.0, "unequal": 0.0, "autocorrelated": worlds.FOLLOWING, "persistent": 1.0}
    assert follows == pytest.approx(expected[world], abs=0.04)
    between_keys = np.corrcoef(drawn[..., 1:].ravel(), drawn[..., :-1].ravel())[0, 1]
    assert between_keys == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("world", WORLDS)
def test_keys_can_be_exchanged(world: str) -> None:
    """Over many prompts, the last query gives every key but the first as much, to four standard errors."""
    planted = worlds.heads(rng(), world, 0.0, "x", n_prompts=2000, n_layers=1, n_heads=1)
    length = int(planted.lengths.mode().values)
    rows = planted.layers[0]["pattern"][planted.lengths == length, 0, length - 1, 1:length].double().numpy()
    error = rows.std(0) / np.sqrt(len(rows))
    assert len(rows) >= 40
    assert (abs(rows.mean(0) - rows.mean()) < 4.5 * error).all()


@pytest.mark.parametrize("make", (worlds.heads, worlds.layers_in_step))
def test_rows_are_attention(make: Make) -> None:
    planted = make(rng(), "unequal", 2.0, "x")
    pattern = planted.layers[-1]["pattern"]
    for row, length in zip(pattern, planted.lengths.tolist(), strict=True):
        assert torch.allclose(row[:, :length].sum(-1), torch.ones(row.shape[0], length), atol=1e-5)
        assert bool((row.triu(1) == 0).all()) and bool((row[:, length:] == 0).all())


def test_heads_in_step_move_with_the_prompt() -> None:
    """The place that all heads of a planted layer prefer differs between prompts."""
    planted = worlds.layers_in_step(rng(), "iid", 6.0, "x", n_prompts=40)
    for pattern, truth in zip(planted.layers, planted.truth["x"], strict=True):
        at = torch.arange(20.0)
        places = (pattern["pattern"][:, :, 19, :20] * at).sum(-1).numpy()  # [prompt, head]
        alike = np.corrcoef(places.T)[np.triu_indices(3, 1)]
        assert (alike > 0.6).all() if truth else (abs(alike) < 0.6).all()


def entropies(planted: Planted) -> np.ndarray:
    """Return ``[prompt, token, layer]``, with scipy."""
    logits = [layer["resid_post"].double().softmax(-1).numpy() for layer in planted.layers]
    return np.stack([stats.entropy(each, axis=-1) for each in logits], axis=-1)


@pytest.mark.parametrize("world", WORLDS)
def test_falls_have_the_same_mean_at_every_layer(world: str) -> None:
    falls = -np.diff(entropies(worlds.descents(rng(), world, 0.0, "x", n_prompts=800)), axis=-1)[:, 0]
    assert falls.min() > -1e-4
    error = falls.std(0) / np.sqrt(len(falls))
    assert (abs(falls.mean(0) - falls.mean()) < 4 * error).all()


@pytest.mark.parametrize("world", WORLDS)
def test_a_planted_fall_leaves_the_even_descent_as_it_is(world: str) -> None:
    without, planted = (entropies(worlds.descents(rng(), world, s, "x")) for s in (0.0, 2.0))
    more = -np.diff(planted, axis=-1) + np.diff(without, axis=-1)
    truth = worlds.descents(rng(), world, 2.0, "x").truth["x"]
    assert abs(more[..., ~truth[1:]]).max() < 1e-4
    assert np.allclose(abs(more[..., truth[1:]]), 2 * 0.4 / np.sqrt(12), atol=1e-4)
    assert abs(more.sum(-1)).max() < 1e-4


def test_one_token_logit() -> None:
    wanted = np.array([0.01, 0.5, 2.0, 4.0, np.log(worlds.VOCABULARY)])
    logits = np.zeros((5, worlds.VOCABULARY))
    logits[:, 7] = worlds.one_token_logit(wanted)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.allclose(stats.entropy(probability, axis=-1), wanted, atol=1e-4)


@pytest.mark.parametrize("world", WORLDS)
def test_heads_write_independent_noise_around_what_belongs_to_the_position(world: str) -> None:
    """Without the mean over prompts nothing is left in common between heads, but where they are driven."""
    planted = worlds.writing_heads(rng(), world, 4.0, "x", n_prompts=300, n_heads=2)
    n = int(planted.lengths.min())
    for driven, sites in zip(planted.truth["x"], planted.layers, strict=True):
        written = sites["z"][:, :n].double()  # [prompt, token, head, d_head], on a line
        series = written.norm(dim=-1) * torch.sign(written[..., :1]).squeeze(-1)
        series = (series * torch.sign(series.mean((0, 1)))).numpy()
        own = series - series.mean(0)
        assert abs(series.mean() - 5) < 0.5
        together = (own[..., 0] * own[..., 1]).mean() / own.var(axis=(0, 1)).prod() ** 0.5
        assert together == pytest.approx(1.6**2 / (1 + 1.6**2) if driven else 0.0, abs=0.05)
        follows = np.corrcoef(own[:, 1:, 0].ravel(), own[:, :-1, 0].ravel())[0, 1]
        if not driven:
            known = {"iid": 0.0, "unequal": 0.0, "autocorrelated": worlds.FOLLOWING}
            assert world == "persistent" or follows == pytest.approx(known[world], abs=0.04)
