"""Attention as a filter along tokens: sums over equal lags, the kernel they fit, and its frequency response.

At lag ``d = i - j`` (query minus key) a head that looks at places alone has a kernel ``k(d) >= 0``, a causal
filter. A query sees some lags only, so its row is the kernel cut off at its window and divided by what is
left: data that are truncated on the right, for which the kernel of greatest likelihood has a closed form.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from resonance_lens.dsp.attention import Window
from resonance_lens.dsp.records import Records
from resonance_lens.signal import Signal

QUERIES_AT_ONCE = 128
"""In whose rows the oldest keys are looked for together."""

EXACT_LAGS = 32
"""Lags below this have a bin each."""

BINS_PER_OCTAVE = 6
"""Of the lags above."""

SMALLEST_GAIN = 0.05
"""Relative to the gain at frequency zero: where a response is smaller, its delay is not looked at."""

FINE_FREQUENCIES = 2049
"""Steps from frequency zero to one half in which a half-power frequency is looked for."""


# ------------------------------------------------------------------------------------ sums by lag


def lag_sums(pattern: Signal, weights: Tensor, *, first: int = 0, step: int = 1) -> Tensor:
    """Return the weighted sum over queries of the attention at each lag, the prompt's first key left out.

    ``S(d) = sum_i w_i A_(i, i-d)`` over ``i - d >= 1``. The rows are copied, one after another. Read with
    ``step`` more than the length of a row between them, equal lags stand in columns, what lies before the
    first key of a row is what lies beyond the query of the row before, which is zero, and the sum is one
    product of matrices. In the copy the first key is zero, which may hold a thousand times what is left: so
    it is never added and taken away again.

    Parameters
    ----------
    pattern
        Axes ``batch, head, query, key``, causal: zero beyond the query.
    weights
        ``[batch, head, row]``, of the queries ``first, first + step, ...``.
    first, step
        Which queries.

    Returns
    -------
    Tensor
        ``[batch, head, lag]``, as many lags as queries of the pattern.
    """
    n_batch, n_heads, n, _ = pattern.values.shape
    n_rows, before = weights.shape[-1], n - 1 - first
    copied = pattern.values.new_empty(n_batch, n_heads, before + n_rows * n)
    copied[..., :before] = 0.0
    rows = copied[..., before:].unflatten(-1, (n_rows, n))
    rows.copy_(pattern.values[:, :, first::step][:, :, :n_rows])
    rows[..., 0] = 0.0
    # Row i from key i - n + 1 to key i: the largest lag first.
    skewed = copied.as_strided((n_batch, n_heads, n_rows, n), (*copied.stride()[:2], n + step, 1))
    return (weights[:, :, None] @ skewed)[:, :, 0].flip(-1)


# ------------------------------------------------------------------------------------- bins of lags


@functools.lru_cache(maxsize=8)
def lag_edges(max_lag: int) -> tuple[int, ...]:
    """Return where bins of lags begin, and ``max_lag``, where the last one ends.

    Each lag below `EXACT_LAGS` has a bin of its own; above, there are `BINS_PER_OCTAVE` to an octave, because
    long lags are seen by few queries.
    """
    octaves = math.log2(max(max_lag / EXACT_LAGS, 1.0))
    steps = range(int(octaves * BINS_PER_OCTAVE) + 1)
    above = [round(EXACT_LAGS * 2 ** (step / BINS_PER_OCTAVE)) for step in steps]
    return (*range(min(EXACT_LAGS, max_lag)), *(edge for edge in above if edge < max_lag), max_lag)


def oldest_keys(
    pattern: Signal, seen: Window, counts: Tensor, parts: tuple[slice, ...] = (slice(None),)
) -> Tensor:
    """Return the weight of each row on the oldest keys of its window, the prompt's first left out.

    Parameters
    ----------
    pattern
        Axes ``batch, head, query, key``.
    seen
        The windows of the queries in ``parts``.
    counts
        Integers ``[row, query]``: how many of the oldest.
    parts
        Which queries, one part after another.

    Returns
    -------
    Tensor
        ``[batch, head, query]``.
    """
    oldest = seen.start + seen.holds_first.long()  # [row, query]
    lows, highs = (tuple(map(tuple, ends.tolist())) for ends in (oldest, oldest + counts))
    values = pattern.values
    queries = tuple(range(values.shape[-2])[part] for part in parts)
    pieces = [
        (values[:, :, rows, keys] * wanted).sum(-1)
        for rows, keys, wanted in _spans(lows, highs, queries, values.dtype, values.device)
    ]
    return torch.cat(pieces, dim=-1)


Ends = tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=4)
def _spans(
    lows: Ends, highs: Ends, queries: tuple[range, ...], dtype: torch.dtype, device: torch.device
) -> list[tuple[slice, slice, Tensor]]:
    """Return blocks of queries, the keys that any of them wants, and which wants which.

    All layers of a batch ask for the same.
    """
    low, high = torch.tensor(lows, device=device), torch.tensor(highs, device=device)  # [row, query]
    found, before = [], 0
    for part in queries:
        for begin in range(0, len(part), QUERIES_AT_ONCE):
            some = part[begin : begin + QUERIES_AT_ONCE]
            at = slice(before, before + len(some))
            before += len(some)
            first, last = int(low[:, at].min()), int(high[:, at].max())
            key = torch.arange(first, max(first, last), device=device)
            wanted = (key >= low[:, at, None]) & (key < high[:, at, None])  # [row, query, key]
            rows = slice(some.start, some[-1] + 1, some.step)
            found.append((rows, slice(first, first + len(key)), wanted[:, None].to(dtype)))
    return found


# ------------------------------------------------------------------------------------- the kernel


def lag_hazard(mass: Tensor, held: Tensor, edges: Tensor, *, pseudo: float = 0.0) -> Tensor:
    """Return the share of each lag (or bin) in all that is at this lag or a smaller one.

    Row i holds weights ``a_i(d)`` at the lags ``d < n_i`` of its window. If they are a kernel cut off at the
    window, ``k(d) / F(n_i - 1)`` with ``F(m) = sum of k(d) over d <= m``, their likelihood ``prod_i prod_d
    (k(d) / F(n_i - 1))^a_i(d)`` is ``prod_d h(d)^D(d) (1 - h(d))^(R(d) - D(d))`` with the share
    ``h(d) = k(d) / F(d)``, ``D(d)`` the sum of ``a_i(d)`` and ``R(d)`` the sum of what rows that see lag d
    hold at d and below. So ``h = D / R`` (Lynden-Bell 1971; Woodroofe 1985), one lag at a time.

    Parameters
    ----------
    mass
        D: ``[..., lag]``.
    held
        ``[..., lag]``: the sum, over the rows that see this lag and none beyond, of what they hold in all.
    edges
        ``[lag + 1]``: where the lags, or bins of lags, begin, and where the last one ends.
    pseudo
        So many rows of uniform attention are added at each lag; with them no share is 0 or 1, but at lag 0.

    Returns
    -------
    Tensor
        Shares in ``[0, 1]``, 1 at the smallest lag; that of uniform attention where nothing is known.
    """
    reach = held.flip(-1).cumsum(-1).flip(-1)
    beyond = mass.flip(-1).cumsum(-1).flip(-1) - mass
    below = (reach - beyond).clamp_min(0)  # R
    even = uniform_hazard(edges).to(mass)
    mass = torch.minimum(mass.clamp_min(0), below)
    total = below + pseudo
    share = torch.where(total > 0, (mass + pseudo * even) / total.clamp_min(1e-300), even)
    return torch.cat([torch.ones_like(share[..., :1]), share[..., 1:]], dim=-1)


def uniform_hazard(edges: Tensor) -> Tensor:
    """Return the share of each bin of lags in itself and the smaller ones, for uniform attention."""
    return edges.diff() / edges[1:]


def kernel_from(hazard: Tensor) -> Tensor:
    """Return the kernel ``[..., lag]`` with sum 1 whose shares are given; see `lag_hazard`."""
    later = (1 - hazard).flip(-1).cumprod(-1).flip(-1)  # of this lag and the larger ones
    beyond = torch.cat([later[..., 1:], torch.ones_like(later[..., :1])], dim=-1)
    return hazard * beyond


# ------------------------------------------------------------------------------ frequency response


def response(kernel: Signal | Tensor, dim: str | int, frequencies: Tensor) -> Tensor:
    """Return ``H(f) = sum_d k(d) exp(-2 pi i f d)``, complex, frequencies last.

    Parameters
    ----------
    kernel
        Weights by lag, from lag 0 on. Where they are at least 0, ``abs(H(f)) <= H(0)``.
    dim
        The axis of lags: its name for a signal, its number for a tensor.
    frequencies
        In cycles per token.

    Raises
    ------
    AxisError
        If the axis has no order.
    """
    records = Records.of(kernel, dim, "a frequency response")
    waves = _waves(records.rows.shape[1], frequencies.to(records.rows.device))
    return (records.rows.to(waves.dtype) @ waves).reshape(*records.shape, -1)


def group_delay(kernel: Signal | Tensor, dim: str | int, frequencies: Tensor) -> Tensor:
    """Return ``Re[(sum_d d k(d) exp(-2 pi i f d)) / H(f)]`` in tokens, frequencies last.

    At frequency 0 it is the mean lag. Not-a-number where ``abs(H(f))`` is below `SMALLEST_GAIN` of ``H(0)``:
    a response that is nearly zero has no phase. Parameters and errors are those of `response`.
    """
    records = Records.of(kernel, dim, "a group delay")
    waves = _waves(records.rows.shape[1], frequencies.to(records.rows.device))
    rows = records.rows.to(waves.dtype)
    lags = torch.arange(rows.shape[1], device=rows.device)
    h = rows @ waves
    total = rows.abs().sum(-1, keepdim=True)
    large = (h.abs() >= SMALLEST_GAIN * total) & (total > 0)
    delay = ((rows * lags) @ waves / torch.where(large, h, 1.0)).real
    return torch.where(large, delay, torch.nan).reshape(*records.shape, -1)


def half_power_frequency(kernel: Signal | Tensor, dim: str | int) -> Tensor:
    """Return the lowest frequency at which the gain has fallen to ``H(0) / sqrt(2)``, in cycles per token.

    Looked for in steps of 1/4096 and interpolated between them. Not-a-number where it never falls so low, as
    for a pure delay, or where the kernel is zero.
    """
    frequencies = torch.linspace(0, 0.5, FINE_FREQUENCIES, dtype=torch.float64)
    power = response(kernel, dim, frequencies).abs() ** 2
    level = power[..., :1] / 2
    low = (power < level) & (level > 0)
    at = low.to(torch.int8).argmax(-1, keepdim=True).clamp_min(1)
    before, after = power.gather(-1, at - 1), power.gather(-1, at)
    part = (before - level) / torch.where(before > after, before - after, 1.0)
    found = (at - 1 + part) * (0.5 / (FINE_FREQUENCIES - 1))
    return torch.where(low.any(-1, keepdim=True), found, torch.nan).squeeze(-1)


def _waves(n_lags: int, frequencies: Tensor) -> Tensor:
    """Return ``exp(-2 pi i f d)``, ``[lag, frequency]``."""
    lags = torch.arange(n_lags, device=frequencies.device, dtype=torch.float64)
    angle = -2 * math.pi * lags[:, None] * frequencies.double()
    return torch.polar(torch.ones_like(angle), angle)
