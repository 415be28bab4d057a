"""Rows of weights brought to another resultant by the smallest change that does it."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 200
"""Newton steps; ten do for ordinary rows, and rows with weights of 1e-30 need more."""

HALVINGS = 30
"""Of a step that goes too far."""

LONGEST_STEP = 200.0
"""In units of the logarithm of a weight: a longer step of Newton is cut to this."""

SMALLEST_WEIGHT = 1e-300
REACHED = 1e-9


def tilted(rows: Tensor, angles: Tensor, length: float, smallest: float) -> tuple[Tensor, Tensor]:
    """Return the rows of given resultant length and unchanged direction that are nearest in relative entropy.

    Parameters
    ----------
    rows
        ``[row, key]``, float64, at least 0, each with sum 1.
    angles
        ``[row, key]``: where the keys lie on the circle, in radians.
    length
        The resultant length wanted, 0 to 1.
    smallest
        A row with a resultant below this has no direction, and is reached at length 0 alone.

    Returns
    -------
    tuple of tensors
        The rows, and booleans ``[row]``: which of them have the resultant. One has not where the point
        lies outside of the polygon of the keys that have weight, or on its edge.

    Notes
    -----
    The row is ``p_k exp(a cos t_k + b sin t_k) / Z`` with angles t from its mean direction, where a and b
    minimise the convex ``log Z - a length``; its gradient is the resultant less the one wanted. Newton's
    method with a step that is halved until the value falls.
    """
    resultant = torch.complex((rows * angles.cos()).sum(-1), (rows * angles.sin()).sum(-1))
    turned = angles - resultant.angle()[:, None]
    cos, sin = turned.cos(), turned.sin()
    log = torch.where(rows > 0, rows.clamp_min(SMALLEST_WEIGHT).log(), -torch.inf)
    made, error = rows.clone(), torch.full_like(rows[:, 0], torch.inf)
    tilt = rows.new_zeros(len(rows), 2)
    open_ = torch.arange(len(rows), device=rows.device)
    for _ in range(STEPS):
        weights = torch.softmax(_scores(log, cos, sin, tilt), -1)
        mean = torch.stack([(weights * cos).sum(-1), (weights * sin).sum(-1)], dim=-1)  # [row, 2]
        gradient = mean - mean.new_tensor([length, 0.0])
        made[open_], error[open_] = weights, gradient.norm(dim=-1)
        far = error[open_] > REACHED / 10
        if not bool(far.any()):
            break
        if not bool(far.all()):
            parts = (open_, log, cos, sin, tilt, weights, mean, gradient)
            open_, log, cos, sin, tilt, weights, mean, gradient = (part[far] for part in parts)
        step = _newton(weights, cos - mean[:, :1], sin - mean[:, 1:], gradient)
        tilt = tilt + _shortened(step, log, cos, sin, tilt, gradient, length)
    directed = (resultant.abs() > smallest) | (length == 0)
    return made, (error <= REACHED) & directed


def _scores(log: Tensor, cos: Tensor, sin: Tensor, tilt: Tensor) -> Tensor:
    return log + tilt[:, :1] * cos + tilt[:, 1:] * sin


def _newton(weights: Tensor, cos: Tensor, sin: Tensor, gradient: Tensor) -> Tensor:
    """Return Newton's step ``[row, 2]``: the curvature is the covariance of the centred phasors."""
    xx, xy, yy = ((weights * part).sum(-1) for part in (cos * cos, cos * sin, sin * sin))
    # It may be singular, where few keys hold weight.
    ridge = (1e-12 * (xx + yy)).clamp_min(1e-300)
    xx, yy = xx + ridge, yy + ridge
    x, y = gradient.unbind(-1)
    step = -torch.stack([yy * x - xy * y, xx * y - xy * x], dim=-1)
    # Divided by the determinant only where the step would not be too long.
    size, area = step.norm(dim=-1), (xx * yy - xy * xy).clamp_min(0)
    return step / torch.maximum(area, size / LONGEST_STEP).clamp_min(1e-300)[:, None]


def _shortened(
    step: Tensor, log: Tensor, cos: Tensor, sin: Tensor, tilt: Tensor, gradient: Tensor, length: float
) -> Tensor:
    """Return steps halved until each lets ``log Z - a length`` fall as its slope says (Armijo's rule)."""

    def value(tilt: Tensor) -> Tensor:
        return torch.logsumexp(_scores(log, cos, sin, tilt), -1) - length * tilt[:, 0]

    before = value(tilt)
    slope = (step * gradient).sum(-1)
    rounding = 1e-14 * before.abs().clamp_min(1)
    size = torch.ones_like(before)
    for _ in range(HALVINGS):
        enough = value(tilt + size[:, None] * step) <= before + 1e-4 * size * slope + rounding
        if bool(enough.all()):
            break
        size = torch.where(enough, size, size / 2)
    return size[:, None] * step
