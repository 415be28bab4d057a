"""Autocorrelation along an ordered axis, and the time over which it lasts."""

from __future__ import annotations

from typing import Literal

import torch
from scipy import fft
from torch import Tensor

from resonance_lens.dsp.records import real_records
from resonance_lens.dsp.segments import level, require_choice, require_whole, square
from resonance_lens.errors import RecordError
from resonance_lens.signal import Signal

Rule = Literal["positive", "sokal"]


def autocorrelation(
    x: Signal | Tensor,
    dim: str | int,
    *,
    n_lags: int | None = None,
    normalise: bool = True,
    unbiased: bool = False,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return how much a record resembles itself some positions later.

    Parameters
    ----------
    x, dim, lengths
        As in `periodogram`. The mean of each record is taken out.
    n_lags
        The lags are 0 to this, below the length of the shortest record; all of them if not said.
    normalise
        Whether to divide by the value at lag 0, the variance.
    unbiased
        Whether the sum over the ``N - lag`` pairs is divided by their number and not by N. By N the estimate
        is smaller at large lags, never a covariance that cannot be, and of smaller error.

    Returns
    -------
    Tensor
        ``[..., lag]``.

    Raises
    ------
    AxisError
        If the axis has no order.
    RecordError
        If a record is constant and its correlation is asked for, or shorter than the lags.
    ParameterError
        If ``n_lags`` is below 0.

    Notes
    -----
    By Fourier transforms of records with as many zeros after them as there are lags, so that the end does not
    meet the beginning: a way to compute sums of products, and no spectrum. Taking out the mean of the record
    lowers it by about (autocorrelation time) / N. Differentiable.
    """
    records = real_records(x, dim, "an autocorrelation", lengths)
    shortest = int(records.lengths.min())
    n_lags = shortest - 1 if n_lags is None else n_lags
    require_whole("autocorrelation", "n_lags", n_lags, 0)
    records.at_least(n_lags + 1, "an autocorrelation")

    def correlations(rows: Tensor) -> Tensor:
        n = rows.shape[1]
        centred = rows - rows.mean(dim=1, keepdim=True)
        if normalise and bool((level(rows, centred)).any()):
            raise RecordError("An autocorrelation needs records that vary; one is constant.")
        padded = fft.next_fast_len(n + n_lags, real=True)
        power = square(torch.fft.rfft(centred, n=padded))
        products: Tensor = torch.fft.irfft(power, n=padded)[:, : n_lags + 1]
        pairs = n - torch.arange(n_lags + 1, device=rows.device) if unbiased else n
        covariance = products / pairs
        return covariance / covariance[:, :1] if normalise else covariance

    return records.summary(correlations)


def autocorrelation_time(
    x: Signal | Tensor,
    dim: str | int,
    *,
    rule: Rule = "positive",
    n_lags: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the integrated autocorrelation time in tokens: ``1 + 2 sum of r(lag)``.

    A mean of N tokens is as uncertain as that of N / time independent ones. For independent tokens it is 1,
    for r(lag) = a^lag it is ``(1 + a) / (1 - a)``.

    Parameters
    ----------
    x, dim, lengths, n_lags
        As in `autocorrelation`.
    rule
        Where the sum ends; see `integrated_time`.

    Returns
    -------
    Tensor
        ``[...]``.

    Raises
    ------
    AxisError, RecordError, ParameterError
        As `autocorrelation`.

    Notes
    -----
    Of a record shorter than some twenty autocorrelation times it is too small.
    """
    return integrated_time(autocorrelation(x, dim, n_lags=n_lags, lengths=lengths), rule=rule)


def integrated_time(correlations: Tensor, *, rule: Rule = "positive") -> Tensor:
    """Return the integrated autocorrelation time ``[...]`` from correlations ``[..., lag]``, lag 0 first.

    Parameters
    ----------
    correlations
        Divided by that at lag 0.
    rule
        Where the sum ends, since noise at large lags would drown it. ``positive``: before the first pair
        ``r(2m) + r(2m + 1)`` that is not above zero (Geyer 1992, the initial positive sequence). ``sokal``:
        at the first lag of at least five that is at least five times the sum so far (Sokal 1997). If there is
        none, at the last lag: the time is then too small.

    Raises
    ------
    ParameterError
        If there is no such rule.
    """
    require_choice("integrated_time", "rule", rule, ("positive", "sokal"))
    n_lags = correlations.shape[-1]
    if rule == "positive":
        whole = torch.nn.functional.pad(correlations, (0, n_lags % 2))
        pairs: Tensor = whole.unflatten(-1, (-1, 2)).sum(dim=-1)  # [..., pair]
        before = (pairs > 0).to(pairs.dtype).cumprod(dim=-1)
        return 2 * (pairs * before).sum(dim=-1) - 1
    sums = 2 * correlations.cumsum(dim=-1) - 1
    lags = torch.arange(n_lags, device=sums.device)
    ends = lags >= 5 * sums.clamp_min(1.0)
    last = torch.where(ends.any(dim=-1), ends.to(torch.uint8).argmax(dim=-1), n_lags - 1)
    return sums.gather(-1, last[..., None]).squeeze(-1)
