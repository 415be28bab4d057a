"""Metrics against scipy and torch, their gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resonance_lens.errors import ActivationError, ParameterError
from resonance_lens.patching.metrics import (
    METRICS,
    Answers,
    NamedMetric,
    get_metric,
    kl,
    logit_difference,
    loss,
    rank,
    require_metric,
)

N, VOCAB = 5, 31


def logits(seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(N, VOCAB, generator=generator, dtype=dtype)


def answers(base: Tensor | None = None) -> Answers:
    return Answers(right=torch.arange(N) * 3, wrong=torch.arange(N) * 3 + 1, base=base)


# ------------------------------------------------------------------- against an independent reference


def test_logit_difference_is_a_difference_of_log_probabilities() -> None:
    from scipy.special import log_softmax

    values = logits()
    sure = log_softmax(values.double().numpy(), axis=-1)
    wanted = [sure[i, 3 * i] - sure[i, 3 * i + 1] for i in range(N)]
    np.testing.assert_allclose(logit_difference(values, answers()), wanted, rtol=1e-5)


def test_loss_is_the_cross_entropy_of_torch() -> None:
    values = logits()
    wanted = torch.nn.functional.cross_entropy(values.double(), answers().right, reduction="none")
    torch.testing.assert_close(loss(values, answers()), wanted.float(), rtol=1e-6, atol=0)


def test_kl_is_the_relative_entropy_of_scipy() -> None:
    from scipy.special import softmax
    from scipy.stats import entropy

    values, base = logits(1), logits(2)
    wanted = entropy(
        softmax(base.double().numpy(), axis=-1), softmax(values.double().numpy(), axis=-1), axis=-1
    )
    np.testing.assert_allclose(kl(values, answers(base)), wanted, rtol=1e-5)
    other_way = entropy(
        softmax(values.double().numpy(), axis=-1), softmax(base.double().numpy(), axis=-1), axis=-1
    )
    assert np.abs(wanted - other_way).min() > 1e-2, "the test cannot tell the two directions apart"


def test_rank_is_that_of_scipy_ties_shared() -> None:
    from scipy.stats import rankdata

    values = logits().round()  # many ties
    wanted = rankdata(-values.numpy(), method="average", axis=-1)[np.arange(N), answers().right] - 1
    assert (wanted % 1 == 0.5).any(), "no tie in this draw"
    np.testing.assert_array_equal(rank(values, answers()), wanted)
    np.testing.assert_array_equal(rank(torch.zeros(N, VOCAB), answers()), np.full(N, (VOCAB - 1) / 2))


# -------------------------------------------------------------------------------- safe at the edges


def test_kl_is_zero_where_nothing_has_changed_and_small_where_little_has() -> None:
    base = logits(3, scale=30.0)
    assert kl(base, answers(base)).tolist() == [0.0] * N
    assert kl(base + 7.0, answers(base)).abs().max() < 1e-9  # logits are up to a constant
    small = kl(base + 1e-3 * logits(4), answers(base))
    # To second order it is half the variance of the change under p.
    change, p = 1e-3 * logits(4).double(), base.double().softmax(-1)
    variance = (p * change**2).sum(-1) - (p * change).sum(-1) ** 2
    np.testing.assert_allclose(small, variance / 2, rtol=0.05, atol=1e-12)
    assert (small >= 0).all()


def test_kl_leaves_out_what_the_unpatched_run_rules_out() -> None:
    base, values = logits(1), logits(2)
    base[:, 0], values[:, 0] = -torch.inf, -torch.inf
    values.requires_grad_()
    whole = kl(values, answers(base))
    torch.testing.assert_close(whole, kl(values[:, 1:], answers(base[:, 1:])))
    (gradient,) = torch.autograd.grad(whole.sum(), values)
    assert gradient.isfinite().all()
    only_base = kl(logits(2), answers(base))
    assert only_base.isfinite().all() and (only_base > 0).all()


def test_a_huge_logit_is_no_overflow() -> None:
    values = torch.zeros(N, VOCAB)
    values[:, 0] = 1e4
    found = loss(values, answers())
    assert found[0] == 0
    torch.testing.assert_close(found[1:], torch.full((N - 1,), 1e4))
    assert kl(values, answers(torch.zeros(N, VOCAB))).isfinite().all()


def test_rank_of_logits_that_are_no_numbers_is_no_number() -> None:
    values = logits()
    values[2, 7] = torch.nan
    assert rank(values, answers()).isnan().tolist() == [False, False, True, False, False]


# ------------------------------------------------------------------------------------- as declared


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_what_it_says(name: str) -> None:
    metric, base = get_metric(name), logits(5)
    values = logits(6).requires_grad_()
    found = require_metric(metric.function(values, answers(base)), name, N)
    assert found.dtype == values.dtype
    assert found.requires_grad is metric.differentiable
    better = values.detach().clone()
    better[torch.arange(N), answers().right] += 2.0
    change = metric.function(better, answers(base)) - found.detach()
    if metric.higher_is_better is not None:
        assert ((change if metric.higher_is_better else -change) >= 0).all()
        assert (change != 0).any()
    if metric.needs_base:
        with pytest.raises(ParameterError, match=r"needs the unpatched run's logits of shape \(5, 31\)"):
            metric.function(values, answers())
    else:
        metric.function(values, answers())


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.differentiable])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    values = logits(6, dtype=torch.float64).requires_grad_()
    base = logits(5, dtype=torch.float64)
    function = METRICS[name].function
    assert torch.autograd.gradcheck(lambda x: function(x, answers(base)), (values,))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.differentiable])
def test_first_order_says_whether_there_is_a_slope_where_nothing_has_changed(name: str) -> None:
    base = logits(5, dtype=torch.float64)
    values = base.clone().requires_grad_()
    (slope,) = torch.autograd.grad(METRICS[name].function(values, answers(base)).sum(), values)
    assert bool(slope.abs().max() > 1e-6) is METRICS[name].first_order


# --------------------------------------------------------------------------------- by name, refusals


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ParameterError, match=r"no metric 'logit_diference'.*kl, logit_difference, loss, rank.*"
    ):
        get_metric("logit_diference")
    with pytest.raises(ParameterError, match="Did you mean 'logit_difference'"):
        get_metric("logit_diference")


def test_a_function_and_a_named_metric_are_metrics() -> None:
    def margin(values: Tensor, answers: Answers) -> Tensor:
        return values.amax(-1)

    found = get_metric(margin)
    assert (found.name, found.units, found.function) == ("margin", "", margin)
    named = NamedMetric("margin", "nats", margin, differentiable=False)
    assert get_metric(named) is named


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        (
            torch.zeros(N, 2),
            ParameterError,
            r"one number for each of 5 pairs, shape \(5,\); got shape \(5, 2\)",
        ),
        (torch.tensor(0.0), ParameterError, r"got shape \(\)"),
        (torch.zeros(N, dtype=torch.long), ParameterError, "floating-point.*got a tensor of torch.int64"),
        ([0.0] * N, ParameterError, "floating-point.*got list"),
        (torch.tensor([0.0, 0, 0, torch.nan, 0]), ActivationError, "'mine' is nan for pair 3 of 5"),
        (torch.tensor([0.0, -torch.inf, 0, 0, 0]), ActivationError, "'mine' is -inf for pair 1 of 5"),
    ],
)
def test_what_is_no_metric_is_refused(values: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        require_metric(values, "mine", N)


@pytest.mark.parametrize("shape", [(N,), (N, VOCAB - 1)])
def test_kl_refuses_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    function: Callable[[Tensor, Answers], Tensor] = kl
    with pytest.raises(ParameterError, match="in 'Answers.base'; got shape"):
        function(logits(), answers(torch.zeros(shape)))
