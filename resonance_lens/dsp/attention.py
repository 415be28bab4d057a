"""Sums over the rows of an attention pattern, each read once, in pieces that fit the cache.

A pattern of H heads and N tokens is the largest thing in a forward pass (H N^2 numbers a layer).
Every quantity here is linear in the pattern, or in its squares or logarithms, so each block of
queries is read once and only the keys that a causal model can see are touched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resonance_lens.signal import Signal

Circle = Literal["full", "half"]
QUERIES_PER_BLOCK = 64
SMALLEST_FREE_WEIGHT = 1e-3
"""A query that leaves less than this for keys beyond the first says nothing about where they lie."""


@dataclass(frozen=True, eq=False)
class Window:
    """The keys that each query can see: ``start .. start + size - 1``.

    Attributes
    ----------
    start, size
        Integers ``[row, query]``; one row if all prompts of the batch share them, else one each.
    causal
        Whether nothing beyond the query is seen.
    """

    start: Tensor
    size: Tensor
    causal: bool

    @property
    def holds_first(self) -> Tensor:
        """Booleans ``[row, query]``: whether the first key of the prompt is in the window."""
        return self.start == 0

    @property
    def free(self) -> Tensor:
        """Integers ``[row, query]``: keys in the window other than the prompt's first."""
        return self.size - self.holds_first.long()

    def at(self, queries: Tensor) -> Window:
        """Return the windows of some queries, integers ``[query]``."""
        return Window(self.start[:, queries], self.size[:, queries], self.causal)


def window(pattern: Signal, *, causal: bool, sliding: int | None) -> Window:
    """Return the window of every query of an attention pattern.

    Parameters
    ----------
    pattern
        Axes ``batch, head, query, key``.
    causal
        Whether query i sees keys up to i only; else it sees the whole prompt.
    sliding
        How many keys back from the query are seen, itself included; ``None`` for all.
    """
    n, device = pattern.size("query"), pattern.values.device
    if causal:
        return _causal_window(n, sliding, device)
    query = torch.arange(n, device=device)[None, :]
    lengths = pattern.prompt_lengths().to(device)[:, None]
    return Window(
        start=torch.zeros_like(query).expand(len(lengths), n),
        size=lengths.expand(-1, n).clamp_min(1),
        causal=False,
    )


@functools.lru_cache(maxsize=16)
def _causal_window(n: int, sliding: int | None, device: torch.device) -> Window:
    """Return the window of n queries; every layer of a batch asks for the same, whatever is padding."""
    query = torch.arange(n, device=device)[None, :]
    size = query + 1
    if sliding is not None:
        size = size.clamp(max=sliding)
    return Window(start=query + 1 - size, size=size, causal=True)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the keys of each attention row.

    Attributes
    ----------
    sums
        ``[7, batch, head, query]``: what the properties below name, real and imaginary parts apart.
    """

    sums: Tensor

    @property
    def first(self) -> Tensor:
        """Weight of the prompt's first key, ``[batch, head, query]``."""
        return self.sums[0]

    @property
    def free(self) -> Tensor:
        """Weight of all other keys; ``first + free`` is 1 up to rounding."""
        return self.sums[1]

    @property
    def position(self) -> Tensor:
        """Mean key position, counted from the prompt's first token, which adds nothing to it."""
        return self.sums[2]

    @property
    def phasor(self) -> Tensor:
        """``sum_j A_ij exp(i a_ij)`` with the keys of the window laid out on the circle."""
        return torch.complex(self.sums[3], self.sums[4])

    @property
    def free_phasor(self) -> Tensor:
        """The same over keys other than the first, laid out on a circle of their own."""
        return torch.complex(self.sums[5], self.sums[6])


@dataclass(frozen=True, eq=False)
class Rows:
    """What is kept of the attention rows of one layer, or of several layers one after another.

    An analysis takes this out of each layer, and does the rest for all layers at once: a few large
    operations in place of many small ones.

    Attributes
    ----------
    moments
        Sums over keys; the batch axis is ``layer * batch`` for several layers.
    window
        Which keys each query sees.
    real
        Booleans ``[batch, query]``: which queries are not padding.
    extra
        Other tensors ``[batch, head, query]`` by name.
    """

    moments: Moments
    window: Window
    real: Tensor
    extra: Mapping[str, Tensor]

    @staticmethod
    def read(pattern: Signal, *, causal: bool, sliding: int | None, circle: Circle) -> Rows:
        """Read the moments of a pattern with axes ``batch, head, query, key``, once for a signal."""

        def compute(signal: Signal) -> Rows:
            seen = window(signal, causal=causal, sliding=sliding)
            return Rows(moments(signal, seen, circle), seen, signal.mask("query"), {})

        return pattern.memo(("rows", causal, sliding, circle), compute)

    def carry(self, **extra: Tensor) -> dict[str, Any]:
        """Return the parts by name, with further tensors of the layer."""
        return {"moments": self.moments.sums, "window": self.window, "real": self.real, **extra}

    @staticmethod
    def fold(carried: Sequence[Mapping[str, Any]]) -> Rows:
        """Return the rows of several layers, laid one after another along the batch axis."""
        parts = {name: [layer[name] for layer in carried] for name in carried[0]}
        sums = torch.cat(parts.pop("moments"), dim=1)
        windows, real = parts.pop("window"), parts.pop("real")
        batch = real[0].shape[0]
        seen = windows[0]
        if seen.start.shape[0] > 1 or any(not torch.equal(seen.start, w.start) for w in windows):
            start = torch.cat([w.start.expand(batch, -1) for w in windows])
            size = torch.cat([w.size.expand(batch, -1) for w in windows])
            seen = Window(start=start, size=size, causal=seen.causal)
        extra = {name: torch.cat(values) for name, values in parts.items()}
        return Rows(Moments(sums), seen, torch.cat(real), extra)


def unfold(values: Tensor, n_layers: int) -> Tensor:
    """Return ``[batch, layer, ...]`` from ``[layer * batch, ...]``."""
    layers: Tensor = values.unflatten(0, (n_layers, -1))
    return layers.transpose(0, 1)


@dataclass(frozen=True, eq=False)
class Angles:
    """Where the keys of each window lie on the circle.

    Attributes
    ----------
    first
        Phasor of the first key in ``phasor``, complex ``[row, query]``.
    uniform, free_uniform
        Sum of the phasors of all keys of the window, and of all but the first on their own circle;
        complex ``[row, query]``.
    rest
        Sum of the phasors of all keys but the first, on the circle of all.
    """

    first: Tensor
    uniform: Tensor
    rest: Tensor
    free_uniform: Tensor


def key_angles(seen: Window, n_keys: int, circle: Circle, *, free: bool) -> tuple[Tensor, Tensor]:
    """Return the angle of every key for every query, and which keys are on the circle.

    The ``m`` keys of a window lie at ``2 pi k / m`` (``full``) or ``pi k / m`` (``half``),
    k = 0 for the oldest. With ``free`` the prompt's first key is taken out and the circle closes over
    those that remain: without that, a near-uniform head gains coherence from the gap.

    Returns
    -------
    tuple of tensors
        Angles in radians and booleans, both ``[row, query, key]``.
    """
    key = torch.arange(n_keys, device=seen.start.device)
    start, size = seen.start[..., None], seen.size[..., None]  # [row, query, 1]
    if free:
        start, size = start + seen.holds_first[..., None].long(), seen.free[..., None]
    index = (key - start).double()  # [row, query, key]
    on = (index >= 0) & (index < size)
    turn = 2 * math.pi if circle == "full" else math.pi
    return turn * index / size.clamp_min(1), on


def moments(pattern: Signal, seen: Window, circle: Circle) -> Moments:
    """Return sums over the keys of each row."""
    values = pattern.values
    basis = _basis(seen, values.shape[-1], circle, values.dtype)  # [row, query, 7, key]
    pieces = []
    for queries, keys in _blocks(pattern, seen):
        block = values[:, :, queries, keys]  # [batch, head, q, k]
        part = basis[:, queries, :, keys]  # [row, q, 7, k]
        if part.shape[0] == 1:
            rows = block.permute(2, 3, 0, 1).flatten(2)  # [q, k, batch * head]
            # This way round, thin times thin, it takes half of the time of rows times basis.
            sums = torch.bmm(part[0], rows)  # [q, 7, batch * head]
            pieces.append(sums.unflatten(2, block.shape[:2]).permute(1, 2, 3, 0))
        else:
            sums = part @ block.permute(0, 2, 3, 1)  # [batch, q, 7, head]
            pieces.append(sums.permute(2, 0, 3, 1))
    return Moments(torch.cat(pieces, dim=-1))  # [7, batch, head, query]


def angles(seen: Window, circle: Circle) -> Angles:
    """Return the sums of phasors that closed forms need; see `Angles`."""
    first = seen.holds_first.to(torch.complex128)  # the oldest key is at angle zero
    uniform = _sum_of_phasors(seen.size, circle)
    return Angles(
        first=first,
        uniform=uniform,
        rest=uniform - first,
        free_uniform=_sum_of_phasors(seen.free, circle),
    )


def _sum_of_phasors(n: Tensor, circle: Circle) -> Tensor:
    """Return the sum of the phasors of n keys laid out on the circle: a geometric series."""
    if circle == "full":
        return (n == 1).to(torch.complex128)
    step = torch.polar(torch.ones(()).double().to(n.device), math.pi / n.clamp_min(1).double())
    return torch.where(n > 0, 2 / (1 - step), 0.0)


def row_squares(pattern: Signal, seen: Window) -> Tensor:
    """Return the sum of squared weights of each row over all keys but the prompt's first.

    Shape ``[batch, head, query]``.
    """

    def compute(signal: Signal) -> Tensor:
        pieces = []
        for queries, keys in _blocks(signal, seen):
            block = signal.values[:, :, queries, keys][..., 1:]
            pieces.append(torch.linalg.vecdot(block, block))
        return torch.cat(pieces, dim=-1)

    return pattern.memo("row_squares", compute)


def row_entropy(pattern: Signal, seen: Window, parts: tuple[slice, ...] = (slice(None),)) -> Tensor:
    """Return ``-sum_j A_ij ln A_ij`` in nats, ``[batch, head, query]``, with 0 ln 0 = 0.

    Of the queries in ``parts``, one after another.
    """

    def compute(signal: Signal) -> Tensor:
        smallest = torch.finfo(signal.values.dtype).tiny
        pieces = []
        for queries, keys in _blocks(signal, seen, parts):
            block = signal.values[:, :, queries, keys]
            # Weights below the smallest normal number add nothing, and clamping spares a mask.
            pieces.append(-torch.linalg.vecdot(block.clamp_min(smallest).log_(), block))
        return torch.cat(pieces, dim=-1)

    return pattern.memo(("row_entropy", *((p.start, p.stop, p.step) for p in parts)), compute)


def _blocks(
    pattern: Signal, seen: Window, parts: tuple[slice, ...] = (slice(None),)
) -> Iterator[tuple[slice, slice]]:
    n = pattern.size("query")
    for part in parts:
        queries = range(n)[part]
        for begin in range(0, len(queries), QUERIES_PER_BLOCK):
            some = queries[begin : begin + QUERIES_PER_BLOCK]
            yield slice(some.start, some[-1] + 1, some.step), slice(0, some[-1] + 1 if seen.causal else n)


_basis_cache: dict[object, Tensor] = {}


def _basis(seen: Window, n_keys: int, circle: Circle, dtype: torch.dtype) -> Tensor:
    """Return what each key adds to each sum, ``[row, query, 7, key]``.

    Every layer of a batch asks for the same one; the last two are kept.
    """
    key = (
        n_keys,
        circle,
        dtype,
        seen.causal,
        seen.start.device,
        *map(_digest, (seen.start, seen.size)),
    )
    if key not in _basis_cache:
        angle, on = key_angles(seen, n_keys, circle, free=False)
        free_angle, free_on = key_angles(seen, n_keys, circle, free=True)
        position = torch.arange(n_keys, device=angle.device).expand_as(angle)
        is_first = (position == 0) & on
        columns = (
            is_first,
            on & ~is_first,
            position * on,
            angle.cos() * on,
            angle.sin() * on,
            free_angle.cos() * free_on,
            free_angle.sin() * free_on,
        )
        while len(_basis_cache) >= 2:
            _basis_cache.pop(next(iter(_basis_cache)))
        _basis_cache[key] = torch.stack([column.to(dtype) for column in columns], dim=2)
    return _basis_cache[key]


def _digest(values: Tensor) -> tuple[int, ...]:
    return tuple(values.flatten().tolist())


def permuted_square(
    first: Tensor, free: Tensor, squares: Tensor, on: Tensor, rest: Tensor, n_free: Tensor
) -> Tensor:
    """Return the mean of ``abs(z)^2`` when the weights of all keys but the first are permuted.

    With the first key fixed (weight ``w0`` at phasor ``u0``, ``c = w0 u0``) and n free keys with
    ``W = sum w``, ``Q = sum w^2``, ``U = `` sum of their phasors, over all permutations:
    ``abs(c)^2 + 2 Re(conj(c) W U / n) + Q + (W^2 - Q)(abs(U)^2 - n) / (n (n - 1))``.
    It is a mean square, not a mean, and gives no tail.

    Parameters
    ----------
    first, free, squares
        ``w0``, ``W`` and ``Q``: real, ``[batch, head, query]``.
    on, rest
        ``u0`` and ``U``: complex, ``[row, query]``.
    n_free
        n: integers ``[row, query]``; not-a-number comes out where it is below 2.
    """
    n = torch.where(n_free >= 2, n_free.double(), torch.nan)
    # What depends on the window alone is small, and is worked out in double precision first.
    own = on.abs() ** 2
    cross = 2 * (on.conj() * rest).real / n
    pairs = (rest.abs() ** 2 - n) / (n * (n - 1))
    own, cross, pairs = (part[:, None].to(free.dtype) for part in (own, cross, pairs))
    return first**2 * own + first * free * cross + squares + (free**2 - squares) * pairs


def mean_over_queries(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over queries for which ``counts``; not-a-number where none does.

    Parameters
    ----------
    values
        ``[batch, head, query]`` or ``[batch, query]``; what it holds where ``counts`` is false is not
        looked at.
    counts
        Booleans that broadcast to ``values``.
    """
    counts = counts.expand_as(values)
    total = torch.where(counts, values, 0.0).double().sum(-1)
    return total / counts.sum(-1)
