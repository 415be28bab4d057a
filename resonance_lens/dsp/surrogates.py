"""Attention whose keys stand in another order: draws of a null for a single prompt.

Within one prompt there are no units whose signs could be flipped, and a test can only ask whether the
weights would be as concentrated if the keys stood in another order. An order drawn anew for each query
forgets that a head stays on the same keys: draws then vary far less than heads do, and most such heads
come out as significant. Here each surrogate is one random order of all keys of the prompt. At every
query the keys of its window are put in that order: a key takes the place which is its rank among
those that the query sees.

- Each window is permuted uniformly, so `attention.permuted_square` is exactly the mean over surrogates.
- A row keeps its weights: nothing is renormalised, and no weight comes from keys that are not seen.
- A key keeps its place, relative to the window, from query to query, as persistent weights do.

The prompt's first key stays first. In a sliding window that no longer holds it, nothing is fixed.

Notes
-----
Exact where every query sees all keys. In a causal model an order is exchangeable with the one in which
the keys arrived at each query, not over all queries jointly: a new key arrives at the end of the
window but is put anywhere in it, and an old key's share of the window shrinks while its relative rank
stays. So where weights stay on several keys, draws vary a little more than the statistic does, and the test
errs on the safe side. Two-sided false positives at .05, in 4,000 simulated heads of 48 tokens that know
nothing of positions: on the full circle .025 to .05 in growing windows and .04 to .06 in sliding ones; on the
half circle down to less than .01 for persistent heads, because a true key passes through places that
count differently and evens them out. Such heads are hard to find there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resonance_lens.dsp.attention import SMALLEST_FREE_WEIGHT, Circle, Window
from resonance_lens.signal import Signal

QUERIES = 64
"""How many queries of a prompt are read, if more count."""

DRAWS_AT_ONCE = 1000
"""A thousand heads on windows of a thousand keys then need some 30 MB at a time."""


def key_orders(generators: Sequence[np.random.Generator], lengths: Tensor, n_surrogates: int) -> Tensor:
    """Return random orders of the keys of each prompt, the first one fixed.

    Parameters
    ----------
    generators
        One for each prompt: its orders depend on it and on the prompt's length, and on no other prompt.
    lengths
        Integers ``[prompt]``.
    n_surrogates
        How many to draw.

    Returns
    -------
    Tensor
        Integers ``[prompt, 1 + n_surrogates, key]``: the keys in their order. Draw 0 leaves them where
        they are. Padding comes last.
    """
    orders = np.tile(np.arange(int(lengths.max())), (len(generators), 1 + n_surrogates, 1))
    for rng, length, of_prompt in zip(generators, lengths.tolist(), orders, strict=True):
        of_prompt[1:, 1:length] = rng.permuted(of_prompt[1:, 1:length], axis=1)
    return torch.from_numpy(orders)


def key_places(orders: Tensor, start: int, size: int, circle: Circle) -> Tensor:
    """Return the place of each key of a window when its keys are put in order.

    Parameters
    ----------
    orders
        Integers ``[draw, key]``: the keys of a prompt in order.
    start, size
        The window: keys ``start .. start + size - 1``. A window that starts beyond key 1 slides: all
        windows that start at key 1 or beyond have this size.
    circle
        What the places are laid out on.

    Returns
    -------
    Tensor
        Integers ``[draw, size]`` in ``0 .. size - 1``: how many keys of the window come before each one.

    Notes
    -----
    In a sliding window ranks would jitter as keys come and go, while true places keep their distances. On
    the full circle, where turning all places changes no resultant, a new key therefore takes over the
    place of the one that leaves, and all places turn back with the window, as those in truth do. The
    half circle cannot be turned; there they are ranks in every window.
    """
    if start > 1 and circle == "full":
        turned = start - 1
        return (key_places(orders, 1, size, circle).roll(-turned, dims=1) - turned) % size
    seen = (orders >= start) & (orders < start + size)
    rank = seen.cumsum(dim=1, dtype=torch.int32) - 1  # in order; what is not seen is cut off below
    return torch.empty_like(rank).scatter_(1, orders, rank)[:, start : start + size]


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """The attention rows of one layer at some queries of each prompt.

    Attributes
    ----------
    weights
        ``[batch, head, chosen, key]``.
    counts
        Booleans ``[batch, chosen]``; false where a prompt has fewer queries that count than others.
    start, size
        The window of each query: integers ``[batch, chosen]``.
    """

    weights: Tensor
    counts: Tensor
    start: Tensor
    size: Tensor

    @staticmethod
    def read(pattern: Signal, seen: Window, counts: Tensor, n_queries: int = QUERIES) -> ChosenRows:
        """Read the rows of evenly spaced queries of each prompt.

        Parameters
        ----------
        pattern
            Axes ``batch, head, query, key``.
        seen
            The window of every query.
        counts
            Booleans ``[batch, query]``: which queries may be chosen.
        n_queries
            How many are chosen, the first and the last among them; all if no more count.
        """
        query, chosen = spaced(counts, n_queries)
        batch = torch.arange(len(query), device=query.device)[:, None]
        start, size = (window.expand(len(query), -1).gather(1, query) for window in (seen.start, seen.size))
        # Advanced indices apart from each other put their axes in front.
        weights = pattern.values[batch, :, query].transpose(1, 2)
        return ChosenRows(weights, chosen, start, size)

    def alike(self, other: ChosenRows) -> bool:
        """Return whether the rows of another layer are those of the same queries and windows."""
        mine, theirs = ((rows.counts, rows.start, rows.size) for rows in (self, other))
        return all(map(torch.equal, mine, theirs))


def spaced(counts: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return evenly spaced ones among the positions that count.

    Parameters
    ----------
    counts
        Booleans ``[batch, position]``.
    n
        How many to take of each row; all if no more count.

    Returns
    -------
    tuple of tensors
        Positions, integers ``[batch, chosen]``, and which of them are there, booleans alike.
    """
    available = counts.sum(dim=1, keepdim=True)
    taken = available.clamp(max=n)
    index = torch.arange(int(taken.max()), device=counts.device)[None, :]
    which = index * (available - 1) // (taken - 1).clamp_min(1)  # [batch, chosen]
    positions = (~counts).to(torch.int8).argsort(dim=1, stable=True)  # those that count come first
    there = index < taken
    return positions.gather(1, torch.where(there, which, 0)), there


@dataclass(frozen=True, eq=False)
class Resultants:
    """Sums over prompts of the mean over queries of the resultant, under each surrogate.

    The second axis of readings is the prompt's first position, kept or dropped.

    Attributes
    ----------
    squares, lengths
        Of ``abs(z)^2`` and of ``abs(z)``: ``[1 + surrogate, layer, 2, head]`` in double precision.
        Draw 0 is what was observed, over the same queries.
    prompts
        Integers ``[layer, 2, head]``: how many prompts have a query that counts; the others add nothing.
    """

    squares: Tensor
    lengths: Tensor
    prompts: Tensor


def surrogate_resultants(layers: Sequence[ChosenRows], orders: Tensor, circle: Circle) -> Resultants:
    """Return the resultants of attention with the keys of each prompt in each of its orders.

    Parameters
    ----------
    layers
        Rows of each layer of a batch. All layers and heads of a prompt get the same orders.
    orders
        What `key_orders` returns: integers ``[batch, 1 + surrogate, key]``.
    circle
        How the keys of a window are laid out; see `attention.key_angles`.

    Notes
    -----
    The phasors of a query are made once for all layers and forgotten before the next query: memory
    grows with heads times draws, not with queries.
    """
    n_batch, n_heads = layers[0].weights.shape[:2]
    shape = (orders.shape[1], len(layers), 2, n_heads)
    sums = torch.zeros(2, *shape, dtype=torch.float64, device=orders.device)
    prompts = torch.zeros(shape[1:], dtype=torch.int64, device=orders.device)
    for alike in _groups(layers):
        for prompt in range(n_batch):
            rows = torch.cat(
                [layers[layer].weights[prompt] for layer in alike]
            )  # [layer * head, chosen, key]
            means, there = _of_prompt(rows, layers[alike[0]], prompt, orders[prompt], circle)
            # [2, draw, 2, layer, head] to [2, draw, layer, 2, head]
            sums[:, :, alike] += means.unflatten(-1, (len(alike), n_heads)).transpose(2, 3)
            prompts[alike] += there.unflatten(-1, (len(alike), n_heads)).transpose(0, 1)
    return Resultants(squares=sums[0], lengths=sums[1], prompts=prompts)


def _groups(layers: Sequence[ChosenRows]) -> list[list[int]]:
    """Return the layers that share their queries and windows."""
    groups: list[list[int]] = []
    for index, rows in enumerate(layers):
        for group in groups:
            if rows.alike(layers[group[0]]):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _of_prompt(
    weights: Tensor, about: ChosenRows, prompt: int, orders: Tensor, circle: Circle
) -> tuple[Tensor, Tensor]:
    """Return means over queries and whether there is one.

    Parameters
    ----------
    weights
        ``[head, chosen, key]``, the heads of all layers.

    Returns
    -------
    tuple of tensors
        Of ``abs(z)^2`` and ``abs(z)``, ``[2, draw, 2, head]``, zero where no query counts; booleans
        ``[2, head]``.
    """
    weights = weights[:, about.counts[prompt]].to(torch.promote_types(weights.dtype, torch.float32))
    windows = torch.stack([about.start, about.size], dim=-1)[prompt, about.counts[prompt]].tolist()
    free = weights[..., 1:].sum(dim=-1)  # a window without the first key gives it no weight
    enough = free >= SMALLEST_FREE_WEIGHT
    scales = torch.stack([torch.ones_like(free), torch.where(enough, 1 / free, 0.0)])  # [2, head, chosen]
    found = scales.gt(0).sum(dim=-1)  # [2, head]
    pieces = []
    for some in orders.split(DRAWS_AT_ONCE):
        sums = weights.new_zeros(2, 2, len(weights), len(some))  # [statistic, reading, head, draw]
        for index, (start, size) in enumerate(windows):
            rows = weights[:, index, start : start + size]
            places = key_places(some, start, size, circle)
            laid = _laid_out(start, size, circle).to(rows)
            for reading, (cosines, sines) in enumerate(laid):
                real, imaginary = (rows @ _look_up(table, places).T for table in (cosines, sines))
                square = real.square_().addcmul_(imaginary, imaginary)  # [head, draw]
                scale = scales[reading, :, index, None]
                sums[0, reading].addcmul_(square, scale**2)
                sums[1, reading].addcmul_(square.sqrt_(), scale)
        pieces.append(sums.permute(0, 3, 1, 2).double())
    return torch.cat(pieces, dim=1) / found.clamp_min(1), found > 0


def _laid_out(start: int, size: int, circle: Circle) -> Tensor:
    """Return the phasors of the places of a window, with the first position kept and dropped.

    Shape ``[2, 2, place]``: reading, then cosine and sine. The prompt's first key has no phasor where it
    is dropped, and the circle closes over the others.
    """
    turn = 2 * math.pi if circle == "full" else math.pi
    fixed = 1 if start == 0 else 0
    place = torch.arange(size, dtype=torch.float64)
    kept = turn * place / size
    dropped = turn * (place - fixed) / max(size - fixed, 1)
    there = place >= fixed
    return torch.stack([
        torch.stack([kept.cos(), kept.sin()]),
        torch.stack([dropped.cos() * there, dropped.sin() * there]),
    ])  # fmt: skip


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]``, by the fastest way there is."""
    return table.index_select(0, index.flatten()).view_as(index)
