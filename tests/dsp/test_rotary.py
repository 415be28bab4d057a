"""Rotary pairs against complex numbers, and what they add to scores against scores multiplied out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.dsp.rotary import (
    Layout,
    contributions,
    pair_frequencies,
    pair_norms,
    rotate,
    split_pairs,
)
from resonance_lens.errors import ParameterError
from tests.by_hand import keys_of

Floats = NDArray[np.float64]

each_layout = pytest.mark.parametrize("layout", ["halves", "adjacent"])


def members(dims: int, layout: str) -> list[tuple[int, int]]:
    """Return which two dimensions are a pair, spelled out."""
    half = dims // 2
    return [(k, k + half) if layout == "halves" else (2 * k, 2 * k + 1) for k in range(half)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_frequencies_are_a_geometric_series() -> None:
    found = pair_frequencies(8, 10_000.0)
    np.testing.assert_allclose(found, [1, 0.1, 0.01, 0.001], rtol=1e-12)
    assert pair_frequencies(2, 50).tolist() == [1.0]


@each_layout
def test_pairs_are_views_of_the_dimensions_that_turn_together(layout: Layout) -> None:
    values = torch.arange(10.0).expand(2, 3, 10)
    first, second = split_pairs(values, 6, layout)
    assert list(zip(first[0, 0].tolist(), second[0, 0].tolist(), strict=True)) == members(6, layout)
    assert first.data_ptr() == values.data_ptr()


@each_layout
def test_a_turn_is_a_product_of_complex_numbers(layout: Layout) -> None:
    values, speed = drawn(2, 9, 3, 8), [1.0, 0.2, 0.03]
    found = rotate(values, speed, layout)
    np.testing.assert_array_equal(found[..., 6:], values[..., 6:])
    for (a, b), w in zip(members(6, layout), speed, strict=True):
        before = values[..., a].numpy() + 1j * values[..., b].numpy()
        turn = np.exp(1j * w * np.arange(9))[None, :, None]
        after = found[..., a].numpy() + 1j * found[..., b].numpy()
        np.testing.assert_allclose(after, before * turn, atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(["halves", "adjacent"]))
def test_a_turn_keeps_the_norm_of_every_pair(seed: int, layout: Layout) -> None:
    values = drawn(1, 12, 2, 10, seed=seed)
    norms = pair_norms(values, 8, layout)
    np.testing.assert_allclose(pair_norms(rotate(values, [1.0, 0.3, 0.1, 0.01], layout), 8, layout), norms)
    together = norms.square().sum(-1) + values[..., 8:].square().sum(-1)
    np.testing.assert_allclose(together, values.square().sum(-1))


def multiplied_out(
    q: Floats, k: Floats, dims: int, layout: str, length: int, causal: bool, sliding: int | None
) -> tuple[list[Floats], list[Floats]]:
    """Return mean and variance of each pair, and of the rest, from scores made one by one.

    Of 64 queries, and of every fourth beyond, which counts for four.
    """
    chosen = [*range(min(length, 64)), *[i for i in range(67, length, 4) for _ in range(4)]]
    places = [list(pair) for pair in members(dims, layout)] + [list(range(dims, q.shape[-1]))]
    means, variances = [], []
    for at in places:
        rows = [np.array([q[i, at] @ k[j, at] for j in keys_of(i, length, causal, sliding)]) for i in chosen]
        means.append(np.concatenate(rows).mean())
        variances.append(np.concatenate([(row - row.mean()) ** 2 for row in rows]).mean())
    return means, variances


@each_layout
@pytest.mark.parametrize(("causal", "sliding"), [(True, None), (True, 3), (True, 50), (False, None)])
@pytest.mark.parametrize("dims", [4, 8])
@pytest.mark.parametrize("lengths", [[11, 4, 7], [90, 64, 71], [1, 2, 3]], ids=str)
def test_contributions_are_those_of_scores_multiplied_out(
    layout: Layout, causal: bool, sliding: int | None, dims: int, lengths: list[int]
) -> None:
    n = max(lengths)
    q, k = drawn(3, n, 4, 8), drawn(3, n, 2, 8, seed=1) + 3
    found = contributions(
        q, k, dims=dims, layout=layout, causal=causal, sliding=sliding, lengths=torch.tensor(lengths)
    )
    for row, length in enumerate(lengths):
        for head in range(4):
            mean, variance = multiplied_out(
                q[row, :, head].numpy(), k[row, :, head // 2].numpy(), dims, layout, length, causal, sliding
            )
            np.testing.assert_allclose(found.mean[row, head], mean[:-1], atol=1e-12)
            np.testing.assert_allclose(found.variance[row, head], variance[:-1], atol=1e-12)
            np.testing.assert_allclose(found.rest_mean[row, head], mean[-1], atol=1e-12)
            np.testing.assert_allclose(found.rest_variance[row, head], variance[-1], atol=1e-12)


def test_the_grid_stands_for_all_queries() -> None:
    """Against every query of a long record, in pairs of all periods, whose queries are all independent."""
    speed = pair_frequencies(16, 1000.0)
    q, k = (rotate(drawn(1, 500, 20, 16, seed=s) + 1, speed, "halves") for s in (0, 1))
    found = contributions(q, k, dims=16, layout="halves").variance[0].mean(0)
    for pair, at in enumerate(members(16, "halves")):
        scores = torch.einsum("ihd,jhd->hij", q[0][..., at], k[0][..., at])
        rows = [scores[:, i, : i + 1] for i in range(500)]
        wanted = torch.cat([(row - row.mean(1, keepdim=True)) ** 2 for row in rows], dim=1).mean()
        assert float(found[pair]) == pytest.approx(float(wanted), rel=0.08)


def test_padding_and_other_prompts_do_not_matter() -> None:
    q, k = drawn(2, 30, 4, 8).float(), drawn(2, 30, 4, 8, seed=1).float()
    q[0, 20:] = k[0, 20:] = 1e6
    together = contributions(q, k, dims=6, layout="halves", lengths=torch.tensor([20, 30]))
    for row, length in ((0, 20), (1, 30)):
        alone = contributions(q[row : row + 1, :length], k[row : row + 1, :length], dims=6, layout="halves")
        for name in ("mean", "variance", "rest_mean", "rest_variance"):
            one, other = getattr(together, name)[row], getattr(alone, name)[0]
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_keys_with_a_large_common_part_are_told_apart_in_single_precision() -> None:
    """As biases of keys make them: the scores of a query differ by a millionth of their size."""
    q, k = drawn(1, 200, 2, 4), 1e-1 * drawn(1, 200, 2, 4, seed=1) + 300
    double = contributions(q, k, dims=4, layout="halves")
    single = contributions(q.float(), k.float(), dims=4, layout="halves")
    torch.testing.assert_close(single.variance.double(), double.variance, rtol=1e-3, atol=0)
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-5, atol=1e-4)


@given(st.integers(0, 10_000))
def test_single_precision_is_that_of_double(seed: int) -> None:
    q, k = drawn(1, 300, 2, 8, seed=seed), drawn(1, 300, 1, 8, seed=seed + 1)
    double = contributions(q, k, dims=8, layout="adjacent")
    single = contributions(q.float(), k.float(), dims=8, layout="adjacent")
    for name in ("mean", "variance"):
        got, wanted = getattr(single, name).double(), getattr(double, name)
        assert float((got - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@each_layout
def test_one_turning_pair_adds_a_cosine_of_the_lag(layout: Layout) -> None:
    """q = k = one constant pair: s_ij = a^2 cos(w (i - j)), and an exact mean and variance."""
    w, n, size = 2 * math.pi / 25, 50, 1.7
    constant = torch.zeros(1, n, 1, 4, dtype=torch.float64)
    constant[..., members(4, layout)[1][0]] = size
    turned = rotate(constant, [1.0, w], layout)
    found = contributions(turned, turned, dims=4, layout=layout)
    rows = [size**2 * np.cos(w * (i - np.arange(i + 1))) for i in range(n)]
    assert float(found.mean[0, 0, 1]) == pytest.approx(np.concatenate(rows).mean(), rel=1e-9)
    spread = np.concatenate([(row - row.mean()) ** 2 for row in rows]).mean()
    assert float(found.variance[0, 0, 1]) == pytest.approx(spread, rel=1e-9)
    assert float(found.variance[0, 0, 0]) == float(found.mean[0, 0, 0]) == 0


def test_gradients_flow() -> None:
    q, k = (drawn(1, 6, 2, 4, seed=s).requires_grad_() for s in (0, 1))

    def total(q: Tensor, k: Tensor) -> Tensor:
        found = contributions(q, k, dims=2, layout="adjacent")
        return found.variance.sum() + found.mean.sum() + found.rest_variance.sum()

    assert torch.autograd.gradcheck(total, (q, k))


def test_what_cannot_be_is_refused() -> None:
    values = torch.zeros(1, 2, 1, 6)
    with pytest.raises(ParameterError, match="so their number is even; got 5"):
        pair_frequencies(5, 10.0)
    with pytest.raises(ParameterError, match="is above 1; got 1"):
        pair_frequencies(4, 1.0)
    with pytest.raises(
        ParameterError, match="Of 6 dimensions an even number turns, at least 2 and not more; got 8"
    ):
        split_pairs(values, 8, "halves")
    with pytest.raises(ParameterError, match="'halves' or 'adjacent'; got 'thirds'"):
        split_pairs(values, 4, "thirds")  # type: ignore[arg-type]
