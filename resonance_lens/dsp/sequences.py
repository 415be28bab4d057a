"""Bands, entropies and spreads of sequences of weights, such as a row of attention over its keys.

Short sequences of one length, ``[record, position]``, each looked at as a whole: no segments, no smoothing.
`Records.summary` takes records of unequal length apart. Spectra are made in float32, the mean taken out
before, so that what is beside it keeps its precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

EDGES = (0.25, 0.75)
"""Of the bands low, mid and high, as fractions of the Nyquist frequency, which is 0.5 cycles per token."""

SMALLEST_POWER = 1e-8
"""A sequence whose power beside its mean is a smaller share than this is even, up to rounding in float32."""


def band_edges(n: int) -> tuple[int, int]:
    """Return the first index of the middle and of the high band in the spectrum of n positions.

    Index k is ``k / n`` cycles per token, the fraction ``2 k / n`` of the Nyquist frequency.
    """
    low, high = (math.ceil(edge * n / 2) for edge in EDGES)
    return low, high


def power(rows: Tensor, windows: Sequence[str] = ("none",), *, zero_padding: int = 1) -> Tensor:
    """Return the one-sided power under each window: what lies at both signs of a frequency is added.

    Parameters
    ----------
    rows
        ``[record, position]``.
    windows
        ``none``, or ``hann``: symmetric, so that it is zero at the first and the last position.
    zero_padding
        How many times its length a record is lengthened to. Above 1 frequencies lie closer and say no more.

    Returns
    -------
    Tensor
        Float32 ``[window, record, frequency]``, ``n * zero_padding // 2 + 1`` frequencies from 0 to 0.5
        cycles per token. Without padding and window they add up to ``n sum x^2`` (Parseval).
    """
    n = rows.shape[-1]
    tapers = torch.stack([_taper(window, n) for window in windows]).to(rows.device)
    tapered = tapers[:, None] * rows.float()  # [window, record, position]
    total = tapered.sum(-1, keepdim=True)
    if zero_padding == 1:
        tapered = tapered - total / n
    squares = _squared(torch.fft.rfft(tapered, n=n * zero_padding))
    squares[..., 1 : (n * zero_padding - 1) // 2 + 1] *= 2
    squares[..., :1] = total.square()
    return squares


@lru_cache(maxsize=64)
def _taper(window: str, n: int) -> Tensor:
    """Return the float32 weights of a window."""
    if window == "none":
        return torch.ones(n)
    return torch.hann_window(n, periodic=False, dtype=torch.float32)


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy in nat of numbers that are not negative, divided by their sum: ``[...]``."""
    total = shares.sum(-1)
    logarithms = shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
    found: Tensor = total.log() - torch.linalg.vecdot(shares, logarithms) / total
    return found


def spectral(squares: Tensor, n: int) -> Tensor:
    """Return seven columns ``[..., 7]`` from one-sided power ``[..., frequency]`` on the grid of n positions.

    The shares of the bands low, mid and high; the share of the mean (frequency 0); the selectivity
    ``max P / (sum P - max P)``; the entropy of the shares of power in nat; the mean frequency of the power
    beside the mean in cycles per token. Not-a-number for a record of zeros; selectivity where one frequency
    holds all power, and the mean frequency where the mean does.
    """
    total = squares.sum(-1)
    low, high = band_edges(n)
    parts = (squares[..., :low], squares[..., low:high], squares[..., high:])
    strongest = squares.amax(-1)
    others = squares[..., 1:]
    frequency = torch.arange(1, squares.shape[-1], dtype=squares.dtype, device=squares.device) / n
    columns = [
        *(part.sum(-1) / total for part in parts),
        squares[..., 0] / total,
        _unless_little(strongest, total - strongest, total),
        entropy(squares),
        _unless_little(others @ frequency, others.sum(-1), total),
    ]
    return torch.stack(columns, dim=-1)


def low_share(squares: Tensor, n: int) -> Tensor:
    """Return the share of the low band in the power beside the mean, and its mean over permutations.

    Over all orders of the n values, the first one standing still or not, every frequency but 0 has the same
    mean power, and their sum is always ``n sum x^2 - (sum x)^2``. So the mean of the share is that of the
    frequencies: those of the band, both signs counted, among ``n - 1``.

    Parameters
    ----------
    squares
        One-sided power without window or padding, ``[record, frequency]``.
    n
        Positions of the records.

    Returns
    -------
    Tensor
        ``[record, 2]``; not-a-number for an even record, and for fewer than 9 positions, which have no
        frequency in the low band.
    """
    low, _ = band_edges(n)
    rest = squares[:, 1:].sum(-1)
    known = (rest > SMALLEST_POWER * squares.sum(-1)) & (low > 1)
    share = squares[:, 1:low].sum(-1) / rest
    level = torch.full_like(share, 2 * (low - 1) / max(1, n - 1))
    return torch.where(known[:, None], torch.stack([share, level], dim=-1), torch.nan)


def spreads(rows: Tensor) -> Tensor:
    """Return how wide sequences are in position and frequency, and how narrow they could be, ``[record, 3]``.

    Of a sequence x with ``sum x^2 = 1`` and its transform X(f), f from -0.5 to 0.5 cycles per token: the
    standard deviation of position in tokens, weighted with ``x^2``; the root of the mean of ``f^2``
    weighted with ``abs(X)^2`` in cycles per token; and the smallest product of the two,

        abs(1 - abs(X(0.5))^2) / (4 pi).

    It is the bound ``1 / (4 pi)`` of continuous signals only where nothing lies at the Nyquist frequency: one
    position alone has no width, a bandwidth of ``1 / sqrt(12)``, and a bound of 0. Not-a-number for zeros.

    Notes
    -----
    ``int f^2 abs(X)^2 df`` is ``sum_k r_k c_k`` with the autocorrelation r and the Fourier coefficients of
    ``f^2``: ``c_0 = 1/12``, ``c_k = (-1)^k / (2 pi^2 k^2)``, so no grid of frequencies enters. The bound
    follows from Cauchy and Schwarz by partial integration, where the ends of the interval remain
    (Ishii and Furukawa 1986).
    """
    n = rows.shape[-1]
    position = torch.arange(n, dtype=torch.float64, device=rows.device)
    sign = 1 - 2 * position.remainder(2)
    # A narrow peak far from the middle is a small difference of large sums: in double precision.
    energy = rows.double().square()
    total, first, second = (energy @ torch.stack([torch.ones_like(position), position, position**2], 1)).T
    variance = second / total - (first / total).square()
    size = 2 ** math.ceil(math.log2(2 * n))
    squares = _squared(torch.fft.rfft(rows.float(), n=size))
    bandwidth = (squares @ _of_square_frequency(size).to(rows.device)) / total
    highest = (rows.double() @ sign).square()  # abs(X(0.5))^2
    bound = (1 - highest / total).abs() / (4 * math.pi)
    return torch.stack([variance.clamp_min(0).sqrt(), bandwidth.clamp_min(0).sqrt(), bound], dim=-1)


@lru_cache(maxsize=64)
def _of_square_frequency(size: int) -> Tensor:
    """Return float32 ``[size / 2 + 1]``: by what a squared spectrum adds to the integral of ``f^2``."""
    lag = torch.arange(size, dtype=torch.float64)
    lag = torch.minimum(lag, size - lag)
    far = lag.clamp_min(1)
    coefficients = torch.where(lag == 0, 1 / 12, (1 - 2 * lag.remainder(2)) / (2 * (math.pi * far).square()))
    weights: Tensor = torch.fft.rfft(coefficients).real / size
    weights[1 : size // 2] *= 2
    return weights.float()


def _squared(spectrum: Tensor) -> Tensor:
    """Return the squared modulus: of the numbers as they lie in memory, which takes half of the time."""
    parts = torch.view_as_real(spectrum)
    parts = parts * parts
    return parts[..., 0] + parts[..., 1]


def _unless_little(values: Tensor, by: Tensor, total: Tensor) -> Tensor:
    """Return ``values / by``; not-a-number where ``by`` is next to nothing of the total."""
    return torch.where(by > SMALLEST_POWER * total, values / by, torch.nan)
