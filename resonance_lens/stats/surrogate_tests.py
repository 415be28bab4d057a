"""Surrogates of series into the inference: one statistic, of the series and of each draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from resonance_lens.errors import RecordError
from resonance_lens.stats.samples import Surrogates


def of_surrogates(
    statistic: Callable[[Tensor], Tensor], series: Tensor, surrogates: Tensor, *, scale: float = 0.0
) -> Surrogates:
    """Return what a statistic is, and what it is for surrogates, for `resonance_lens.stats.inference.infer`.

    Parameters
    ----------
    statistic
        Returns a tensor of places from series laid out as ``series``: a coherence of each pair, say. What
        stays as it is (the other series of a pair) it holds itself.
    series
        Values ``[...]``.
    surrogates
        ``[draw, ...]``, from `resonance_lens.dsp.series_surrogates`. One draw is measured at a time.
    scale
        As of `Surrogates`.

    Raises
    ------
    RecordError
        If the draws are not laid out as the series.

    Examples
    --------
    Are two series in step, or is each only slow?

    >>> import numpy as np, torch
    >>> from resonance_lens.dsp.series_surrogates import circular_shift
    >>> from resonance_lens.stats.inference import infer
    >>> one, other = torch.randn(2, 128, generator=torch.Generator().manual_seed(0)).cumsum(1)
    >>> shifted = circular_shift(other, 0, 99, np.random.default_rng(0))
    >>> sample = of_surrogates(lambda b: torch.corrcoef(torch.stack([one, b]))[0, 1], other, shifted)
    >>> found = infer(sample, (), np.random.default_rng(0))
    >>> bool(0 < found.p <= 1), found.units
    (True, 99)
    """
    if surrogates.shape[1:] != series.shape:
        raise RecordError(
            f"Surrogates of series of shape {tuple(series.shape)} are [draw, ...] of that shape; got "
            f"{tuple(surrogates.shape)}."
        )
    value = statistic(series).detach().cpu().numpy()
    draws = [statistic(draw).detach().cpu().numpy() for draw in surrogates]
    return Surrogates(value, np.stack(draws) if draws else np.empty((0, *value.shape)), scale=scale)
