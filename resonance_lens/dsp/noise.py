"""Closed forms of noise along the tokens: what a spectrum looks like without any structure but memory."""

from __future__ import annotations

import torch
from torch import Tensor

from resonance_lens.dsp.vector_spectra import correlations, expected_power

LARGEST_MEMORY = 0.99
GRID = 397
"""Memories that are tried when one is matched: steps of .005."""


def autoregressive(memory: Tensor, n: int) -> Tensor:
    """Return the covariances ``memory^lag`` of noise that keeps so much of the value before.

    Parameters
    ----------
    memory
        ``[...]``, between -1 and 1; 0 is white noise.
    n
        Lags, from 0.

    Returns
    -------
    Tensor
        ``[..., n]``; the variance is 1.
    """
    return memory[..., None] ** torch.arange(n, device=memory.device)


def of_steps(covariances: Tensor) -> Tensor:
    """Return the covariances ``[..., lag]`` of ``x(t + 1) - x(t)`` from those of x, one lag fewer.

    ``2 r(lag) - r(lag + 1) - r(lag - 1)``. Their power is that of x times ``4 sin^2(pi f)``.
    """
    before = torch.cat([covariances[..., 1:2], covariances[..., :-2]], dim=-1)
    return 2 * covariances[..., :-1] - covariances[..., 1:] - before


def matched_memory(seen: Tensor, segment: int) -> Tensor:
    """Return the memory of the noise that shows such a correlation of neighbours in a spectrum of segments.

    Parameters
    ----------
    seen
        ``[...]``: lag 1 of `resonance_lens.dsp.vector_spectra.correlations`.
    segment
        Positions of a segment. Since it loses its mean, the correlation seen is below that of the noise.

    Returns
    -------
    Tensor
        ``[...]``, float64, at most `LARGEST_MEMORY` in size; not-a-number stays what it is.
    """
    grid = torch.linspace(-LARGEST_MEMORY, LARGEST_MEMORY, GRID, dtype=torch.float64, device=seen.device)
    shown = correlations(expected_power(autoregressive(grid, segment), segment), segment)[:, 1].contiguous()
    wanted = seen.double().clamp(shown[0], shown[-1])
    above = torch.searchsorted(shown, wanted.nan_to_num().contiguous()).clamp(1, GRID - 1)
    part = (wanted - shown[above - 1]) / (shown[above] - shown[above - 1])
    return grid[above - 1] + part * (grid[above] - grid[above - 1])
