"""Descriptors of the shape of a spectrum: entropy, slope, centroid, bandwidths, edge.

All take power ``[..., frequency]``, of which frequency 0 should be left out (it is the mean, not a wave), and
the frequencies in cycles per token, and return ``[...]``. A density and a power of bins of equal width give
the same. A spectrum without power has no shape and is refused.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from resonance_lens.dsp.segments import require_choice
from resonance_lens.errors import ParameterError, RecordError, wrong_parameter

PAIRS_AT_ONCE = 2**21
"""Slopes of pairs of frequencies that are held at one time."""

IRLS_STEPS = 50
TUKEY = 4.685
"""Residuals of more than so many robust standard deviations have no weight (95 % efficiency for noise)."""


def spectral_entropy(power: Tensor, *, normalise: bool = False) -> Tensor:
    """Return how evenly power is spread over frequencies: ``-sum p ln p`` with p the shares of power.

    Parameters
    ----------
    power
        ``[..., frequency]``, at least zero.
    normalise
        Whether to divide by the logarithm of the number of frequencies, the most that can be: it is then in
        [0, 1]. Otherwise it is in nat; its exponential is a number of frequencies.

    Raises
    ------
    RecordError
        If there is no power, some is below zero, or there is but one frequency to normalise by.

    Notes
    -----
    Equal to ``antropy.spectral_entropy`` on the same spectrum, in nat. The periodogram of white noise does
    not reach the maximum: its bins are exponential, and it stays ``1 - 0.5772`` = .423 nat below; means of
    many segments come near.
    """
    _require_power(power, "A spectral entropy")
    shares = power / power.sum(dim=-1, keepdim=True)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(dim=-1)
    if not normalise:
        return entropy
    if power.shape[-1] < 2:
        raise RecordError("A spectral entropy is normalised over at least two frequencies; there is one.")
    return entropy / math.log(power.shape[-1])


def spectral_slope(
    frequencies: Tensor,
    power: Tensor,
    *,
    low: float = 0.0,
    high: float = 0.5,
    method: Literal["theil_sen", "irls", "least_squares"] = "theil_sen",
    spacing: Literal["log", "linear"] = "log",
) -> Tensor:
    """Return the slope of log power over log frequency: -b for noise whose power falls as ``1 / f^b``.

    Parameters
    ----------
    frequencies
        ``[frequency]``, cycles per token.
    power
        ``[..., frequency]``, above zero in the range.
    low, high
        The range, both included; frequency 0 never counts.
    method
        ``theil_sen``: the median of the slopes of all pairs of frequencies, which a fourth of the frequencies
        can spoil no further (Sen 1968); ``irls``: least squares, weighted anew by Tukey's biweight until it
        stays; ``least_squares``.
    spacing
        ``log``: a frequency counts by 1/f, a pair by the product, as if frequencies were evenly spaced in the
        logarithm and every octave counted alike. ``linear``: all frequencies count alike, so that on a linear
        grid half of them lie in the highest octave.

    Raises
    ------
    RecordError
        If fewer than three frequencies lie in the range, or there is no power at one of them.
    ParameterError
        If there is no such method or the range is empty.

    Notes
    -----
    A spectrum that is no power law has no one slope: the number then depends on the range, and on the
    spacing. The power of differences of white noise, ``4 sin^2(pi f)``, rises with slope 2 at low
    frequencies; from 1/64 to 0.5 the number is 1.9 with ``log`` and 1.6 with ``linear``.
    """
    require_choice("spectral_slope", "method", method, ("theil_sen", "irls", "least_squares"))
    require_choice("spectral_slope", "spacing", spacing, ("log", "linear"))
    if not 0 <= low < high:
        raise ParameterError(wrong_parameter("spectral_slope", "low", "below 'high' and at least 0", low))
    slack = 1e-6
    inside = (frequencies > 0) & (frequencies >= low * (1 - slack)) & (frequencies <= high * (1 + slack))
    if int(inside.sum()) < 3:
        raise RecordError(
            f"A slope needs at least three frequencies between {low:g} and {high:g} cycles per token; "
            f"there are {int(inside.sum())}."
        )
    chosen = power[..., inside]
    if bool((chosen <= 0).any()):
        raise RecordError("A slope needs power at every frequency in its range; there is none at one.")
    x = frequencies[inside].double().log()
    y = chosen.double().log()
    shape, flat = y.shape[:-1], y.reshape(-1, y.shape[-1])
    weights = torch.exp(-x) if spacing == "log" else torch.ones_like(x)
    if method == "theil_sen":
        one, other = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
        run, counts = x[other] - x[one], weights[one] * weights[other]
        pieces = flat.split(max(1, PAIRS_AT_ONCE // len(run)))
        found = torch.cat([_median((rows[:, other] - rows[:, one]) / run, counts) for rows in pieces])
    else:
        found = _least_squares(x, flat, weights)
        for _ in range(IRLS_STEPS if method == "irls" else 0):
            found, moved = _reweighted(x, flat, found, weights)
            if not moved:
                break
    return found.reshape(shape).to(power.dtype)


def centroid(frequencies: Tensor, power: Tensor) -> Tensor:
    """Return the mean frequency, weighted by power, in cycles per token.

    Raises
    ------
    RecordError
        If there is no power, or some is below zero.
    """
    _require_power(power, "A centroid")
    return (frequencies * power).sum(dim=-1) / power.sum(dim=-1)


def bandwidth(frequencies: Tensor, power: Tensor) -> Tensor:
    """Return the standard deviation of frequency around the centroid, weighted by power, in cycles per token.

    Raises
    ------
    RecordError
        If there is no power, or some is below zero.
    """
    away = frequencies - centroid(frequencies, power)[..., None]
    return ((away.square() * power).sum(dim=-1) / power.sum(dim=-1)).sqrt()


def edge(frequencies: Tensor, power: Tensor, *, share: float = 0.95) -> Tensor:
    """Return the frequency below which a share of the power lies, in cycles per token.

    Parameters
    ----------
    frequencies
        ``[frequency]``, at least two, rising.
    power
        ``[..., frequency]``, a density. Between frequencies it is taken to go straight, so that the
        cumulative power is that of trapezoids.
    share
        Between 0 and 1; 0.5 gives the median frequency.

    Raises
    ------
    RecordError
        If there is no power, some is below zero, or there is but one frequency.
    ParameterError
        If the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ParameterError(wrong_parameter("edge", "share", "between 0 and 1", share))
    _require_power(power, "An edge")
    if power.shape[-1] < 2:
        raise RecordError("An edge needs at least two frequencies; there is one.")
    step = frequencies.diff()
    areas = (power[..., 1:] + power[..., :-1]) / 2 * step
    total = areas.cumsum(dim=-1)
    wanted = share * total[..., -1:]
    at = (total < wanted).sum(dim=-1, keepdim=True).clamp_max(len(step) - 1)  # the trapezoid it lies in
    below = torch.where(at > 0, total.gather(-1, (at - 1).clamp_min(0)), torch.zeros_like(wanted))
    first, last = power.gather(-1, at), power.gather(-1, at + 1)
    # From p0 t + (p1 - p0) t^2 / 2 = rest, t the part of the step, written so that p0 = p1 is no exception.
    rest = (wanted - below) / step[at]
    root = (first.square() + 2 * (last - first) * rest).clamp_min(0).sqrt()
    part = 2 * rest / (first + root).clamp_min(torch.finfo(power.dtype).tiny)
    return (frequencies[at] + part.clamp(0, 1) * step[at]).squeeze(-1)


def half_power_bandwidth(frequencies: Tensor, power: Tensor) -> Tensor:
    """Return the width of the highest peak where it has fallen to half its power, in cycles per token.

    Between frequencies power is taken to go straight. A side on which it does not fall so far ends with the
    frequencies: a low-pass is as wide as its cut-off.

    Raises
    ------
    RecordError
        If there is no power, or some is below zero.
    """
    _require_power(power, "A half-power bandwidth")
    n = power.shape[-1]
    peak = power.argmax(dim=-1, keepdim=True)
    half = power.gather(-1, peak) / 2
    at = torch.arange(n, device=power.device).expand_as(power)
    under = power < half
    right = torch.where(under & (at > peak), at, n).amin(dim=-1, keepdim=True)  # n where it never falls
    left = torch.where(under & (at < peak), at, -1).amax(dim=-1, keepdim=True)
    upper = _crossing(frequencies, power, half, right - 1, right.clamp_max(n - 1))
    lower = _crossing(frequencies, power, half, left + 1, left.clamp_min(0))
    return (upper - lower).squeeze(-1)


def _crossing(frequencies: Tensor, power: Tensor, half: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Return where power falls to half between two frequencies; the inner one if they are the same."""
    high, low = power.gather(-1, inner), power.gather(-1, outer)
    fell = high - low
    part = torch.where(fell > 0, (high - half) / torch.where(fell > 0, fell, 1.0), 0.0)
    return frequencies[inner] + part * (frequencies[outer] - frequencies[inner])


def _least_squares(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return slopes ``[row]`` of the lines through ``y`` (``[row, frequency]``)."""
    total = weights.sum(dim=-1, keepdim=True)
    dx = x - (weights * x).sum(dim=-1, keepdim=True) / total
    return (weights * dx * y).sum(dim=-1) / (weights * dx.square()).sum(dim=-1)


def _reweighted(x: Tensor, y: Tensor, slope: Tensor, weights: Tensor) -> tuple[Tensor, bool]:
    """Return slopes by least squares with Tukey's weights of the residuals, and whether one has moved."""
    residuals = y - slope[:, None] * x
    residuals = residuals - _median(residuals, weights)[:, None]
    spread = _median(residuals.abs(), weights)[:, None] / 0.6745
    size = residuals.abs() / (TUKEY * spread).clamp_min(1e-12)
    made = _least_squares(x, y, weights * (1 - size.square()).clamp_min(0).square())
    return made, bool(((made - slope).abs() > 1e-9).any())


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted median along the last axis, the mean of two where the half lies between them."""
    ordered, order = values.sort(dim=-1)
    total = weights[order].cumsum(dim=-1)
    half = total[..., -1:] / 2
    slack = 1e-12 * half
    low, high = ((total < bound).sum(dim=-1, keepdim=True) for bound in (half - slack, half + slack))
    last = values.shape[-1] - 1
    middle = ordered.gather(-1, low.clamp_max(last)) + ordered.gather(-1, high.clamp_max(last))
    return middle.squeeze(-1) / 2


def _require_power(power: Tensor, what: str) -> None:
    if bool((power < 0).any()):
        raise RecordError(f"{what} needs power of at least zero; some is below.")
    if bool((power.sum(dim=-1) <= 0).any()):
        raise RecordError(f"{what} needs a spectrum with power; one has none.")
