"""What of a series of vectors repeats itself with a period that is given, and the lines of its harmonics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.dsp.segments import ROUNDING
from resonance_lens.errors import RecordError


@dataclass(frozen=True, eq=False)
class PeriodicPower:
    """Power along tokens of each feature, in units^2, its mean taken out.

    Attributes
    ----------
    total
        ``[..., feature]``: mean square. 0 for a feature that does not vary beyond rounding.
    repeated
        ``[..., feature]``: what repeats from period to period: the mean product of two different periods,
        each without its own mean. Its expectation is 0 where they have nothing in common, so that it may be
        below.
    lines
        ``[..., harmonic, feature]``: at the frequency 1/period and its multiples, of the whole record. 0 at
        multiples above 1/2.
    """

    total: Tensor
    repeated: Tensor
    lines: Tensor


def periodic_power(values: Tensor, period: int, harmonics: int) -> PeriodicPower:
    """Return the power that repeats with a period, and that of its harmonics.

    Parameters
    ----------
    values
        ``[..., token, feature]``: whole periods, at least two.
    period
        Tokens, at least 2.
    harmonics
        How many lines: at 1/period, 2/period, ...

    Raises
    ------
    RecordError
        If the tokens are not at least two whole periods.

    Notes
    -----
    With m periods, w their mean and all harmonics up to 1/2 counted, the sum of the lines of the whole record
    is the mean square of w (Parseval): its share of the total is the coherence between periods, which is 1/m
    where they have nothing in common. ``repeated`` is that without the bias: ``(m w^2 - within) / (m - 1)``,
    where ``within`` is the mean square around the mean of each period. A drift from period to period is part
    of the total, and neither repeats nor counts as its opposite.
    """
    n = values.shape[-2]
    m, rest = divmod(n, period) if period >= 2 else (0, 0)
    if m < 2 or rest:
        raise RecordError(
            f"What repeats needs at least two whole periods of at least two tokens; got {n} tokens and a "
            f"period of {period}."
        )
    mean = values.mean(-2, keepdim=True)
    centred = (values - mean).unflatten(-2, (m, period))  # [..., m, period, feature]
    total = centred.square().mean((-3, -2))
    varies = total > (ROUNDING * torch.finfo(values.dtype).eps * mean[..., 0, :]).square()
    within = total - centred.mean(-2).square().mean(-2)
    wave = centred.mean(-3)  # [..., period, feature]
    repeated = (m * wave.square().mean(-2) - within) / (m - 1)
    steps = torch.arange(period, dtype=values.dtype, device=values.device)
    orders = torch.arange(1, harmonics + 1, dtype=values.dtype, device=values.device)
    angle = 2 * math.pi * orders[:, None] * steps / period  # [harmonic, period]
    power = (angle.cos() @ wave).square() + (angle.sin() @ wave).square()  # [..., harmonic, feature]
    # Both signs of a frequency, but of 1/2, which is its own mirror image.
    sides = torch.where(2 * orders < period, 2.0, torch.where(2 * orders == period, 1.0, 0.0))
    lines = power * sides.to(values.dtype)[:, None] / period**2
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return PeriodicPower(
        total=torch.where(varies, total, zero),
        repeated=torch.where(varies, repeated, zero),
        lines=torch.where(varies[..., None, :], lines, zero),
    )
