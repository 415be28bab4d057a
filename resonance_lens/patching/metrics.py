"""What an effect is measured in: numbers of the logits at the position where the answer stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from resonance_lens.errors import ActivationError, ParameterError, unknown


@dataclass(frozen=True, eq=False)
class Answers:
    """What the logits of a batch of pairs are held against.

    Attributes
    ----------
    right, wrong
        Integers ``[pair]``: token ids of the right answer and of the foil.
    base
        Logits ``[pair, d_vocab]`` of the unpatched run at the same position, for metrics that compare with
        it, or ``None``.
    """

    right: Tensor
    wrong: Tensor
    base: Tensor | None = None


Metric: TypeAlias = Callable[[Tensor, Answers], Tensor]
"""Takes logits ``[pair, d_vocab]`` (float32) and `Answers`; returns one number for each pair ``[pair]``."""


@dataclass(frozen=True)
class NamedMetric:
    """A metric, and what its numbers mean.

    Attributes
    ----------
    name
        What it is called in results.
    units
        Of its numbers; empty where they are not known.
    function
        Computes it.
    differentiable
        Whether it has a gradient.
    first_order
        Whether its gradient at the unpatched run says how a small change moves it, which attribution needs.
        That of ``kl`` is zero there: its least value is where nothing has changed.
    higher_is_better
        Whether more of it means a better answer; ``None`` where it means neither, as with ``kl``.
    needs_base
        Whether it compares with the logits of the unpatched run.
    """

    name: str
    units: str
    function: Metric
    differentiable: bool = True
    first_order: bool = True
    higher_is_better: bool | None = None
    needs_base: bool = False


def logit_difference(logits: Tensor, answers: Answers) -> Tensor:
    """Return the logit of the right answer minus that of the foil.

    In nats: it is the logarithm of how many times likelier the right answer is. Differentiable.

    Parameters
    ----------
    logits
        ``[pair, d_vocab]``.
    answers
        ``right`` and ``wrong`` of each pair.
    """
    return _of(logits, answers.right) - _of(logits, answers.wrong)


def loss(logits: Tensor, answers: Answers) -> Tensor:
    """Return the cross-entropy of the right answer in nats: 0 where it is certain. Differentiable.

    Parameters
    ----------
    logits
        ``[pair, d_vocab]``.
    answers
        ``right`` of each pair.
    """
    return -_of(_log_probabilities(logits), answers.right).to(logits.dtype)


def kl(logits: Tensor, answers: Answers) -> Tensor:
    """Return the Kullback-Leibler divergence of the answer from that of the unpatched run, in nats.

    It is ``sum p log(p / q)`` over the vocabulary, with ``p`` of the unpatched run and ``q`` of these
    logits: 0 where nothing has changed. Tokens that the unpatched run rules out (logit minus infinity)
    count nothing. Differentiable.

    Parameters
    ----------
    logits
        ``[pair, d_vocab]``.
    answers
        ``base``: the logits of the unpatched run, of the same shape.

    Raises
    ------
    ParameterError
        If ``base`` is missing or has another shape.
    """
    if answers.base is None or answers.base.shape != logits.shape:
        got = "none" if answers.base is None else f"shape {tuple(answers.base.shape)}"
        raise ParameterError(
            f"The metric 'kl' needs the unpatched run's logits of shape {tuple(logits.shape)} in "
            f"'Answers.base'; got {got}."
        )
    unpatched = _log_probabilities(answers.base.to(logits.device))
    possible = unpatched > -torch.inf
    # What counts nothing is replaced before the difference, so that no gradient is inf - inf.
    ratio = unpatched.masked_fill(~possible, 0.0) - _log_probabilities(logits).masked_fill(~possible, 0.0)
    divergence: Tensor = (unpatched.exp() * ratio).sum(-1).clamp_min(0.0)  # below 0 by rounding alone
    return divergence.to(logits.dtype)


def rank(logits: Tensor, answers: Answers) -> Tensor:
    """Return the rank of the right answer among all tokens, 0 for the first. Not differentiable.

    A token with the same logit counts half: where all logits are equal the answer stands in the middle, not
    first. Where a logit is not a number the rank is not a number.

    Parameters
    ----------
    logits
        ``[pair, d_vocab]``.
    answers
        ``right`` of each pair.
    """
    values = logits.detach()
    own = _of(values, answers.right)[:, None]
    above = (values > own).sum(-1)
    tied = (values == own).sum(-1) - 1  # without itself
    places = (above + 0.5 * tied).to(logits.dtype)
    return places.masked_fill(values.isnan().any(-1), torch.nan)


METRICS: dict[str, NamedMetric] = {
    metric.name: metric
    for metric in (
        NamedMetric("logit_difference", "nats", logit_difference, higher_is_better=True),
        NamedMetric("loss", "nats", loss, higher_is_better=False),
        NamedMetric("kl", "nats", kl, first_order=False, needs_base=True),
        NamedMetric("rank", "tokens", rank, differentiable=False, first_order=False, higher_is_better=False),
    )
}
"""The metrics by name."""


def get_metric(metric: str | Metric | NamedMetric) -> NamedMetric:
    """Return a metric by its name, or a function as a metric.

    Parameters
    ----------
    metric
        ``logit_difference``, ``loss``, ``kl`` or ``rank``; a `Metric` of one's own, which is taken to be
        differentiable, and given the unpatched logits; or a `NamedMetric`, which says more of itself.

    Raises
    ------
    ParameterError
        If there is none of this name: which there are.
    """
    if isinstance(metric, NamedMetric):
        return metric
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        return NamedMetric(name, "", metric, needs_base=True)
    if metric not in METRICS:
        raise ParameterError(unknown("metric", str(metric), METRICS))
    return METRICS[metric]


def require_metric(values: object, name: str, n: int) -> Tensor:
    """Return what a metric returned, if that is one finite number for each of ``n`` pairs.

    Parameters
    ----------
    values
        What the metric returned.
    name
        What it is called.
    n
        How many pairs it was given.

    Raises
    ------
    ParameterError
        If it is no tensor of floating-point numbers, or has another shape.
    ActivationError
        If a number is not finite: of which pair.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = f"a tensor of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise ParameterError(
            f"The metric {name!r} must return a tensor of floating-point numbers, one for each pair; got "
            f"{got}."
        )
    if values.shape != (n,):
        raise ParameterError(
            f"The metric {name!r} must return one number for each of {n} pairs, shape ({n},); got shape "
            f"{tuple(values.shape)}."
        )
    finite = values.detach().isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        raise ActivationError(
            f"The metric {name!r} is {float(values.detach()[first])} for pair {first} of {n}; use a metric "
            "that is a finite number for every pair, or leave such pairs out."
        )
    return values


def _of(values: Tensor, tokens: Tensor) -> Tensor:
    """Return the value of one token for each pair."""
    return values.gather(-1, tokens.to(values.device)[:, None])[:, 0]


def _log_probabilities(logits: Tensor) -> Tensor:
    # Effects are differences of these: single precision leaves them about 1e-6 of noise.
    exact = logits if logits.device.type == "mps" else logits.double()  # Metal has no double precision
    return exact.log_softmax(-1)
