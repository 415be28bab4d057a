"""The tokens of a prompt as waves, and the attention rows that add them up, for `zipf_wave_interference`.

What depends on frequencies depends on the kinds of tokens alone, and is the same for every layer and head
of a prompt. Rows are added up by kind once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.dsp import waves
from resonance_lens.dsp.attention import SMALLEST_FREE_WEIGHT
from resonance_lens.dsp.surrogates import ChosenRows


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of one prompt as waves, those beyond the first that have a frequency.

    Attributes
    ----------
    known
        Booleans ``[position]``: which tokens have a frequency.
    places
        Positions of the tokens, ``[token]``.
    kinds, n_kinds
        Which wave each token is, in order of first occurrence, and how many there are.
    rarity
        Of each kind.
    phases
        Of each token, in radians.
    frequencies
        Of each kind, common tokens low and common tokens high.
    overlaps
        Of either, ``[1 + kind, 1 + kind]``: the first is the token at the first position.
    bins
        Of either, ``[kind, bin]``: see `waves.binned`.
    harmonics
        Of each wave.
    """

    known: Tensor
    places: Tensor
    kinds: Tensor
    n_kinds: int
    rarity: Tensor
    phases: Tensor
    frequencies: tuple[Tensor, Tensor]
    overlaps: tuple[Tensor, Tensor]
    bins: tuple[Tensor, Tensor]
    harmonics: int

    @staticmethod
    def of(rarity: Tensor, *, harmonics: int, duration: float, turning: bool) -> Words:
        """Make waves of tokens.

        Parameters
        ----------
        rarity
            Of the token at each position, ``[position]``; see `waves.wave_frequencies`. Tokens of the same
            rarity are of one kind.
        harmonics, duration
            As of `waves.overlaps`.
        turning
            Whether phases go once around over the record; else they are all zero.
        """
        known = ~rarity.isnan()
        places = torch.nonzero(known[1:]).squeeze(1) + 1
        values, kinds = rarity[places].unique(return_inverse=True)
        order = torch.arange(len(places), device=kinds.device)
        first = torch.full_like(values, len(places), dtype=torch.long)
        first = first.scatter_reduce(0, kinds, order, "amin")
        rank = first.argsort().argsort()  # so that the kinds that an early query sees come first
        by_kind = torch.empty_like(values).scatter_(0, rank, values)
        all_waves = torch.cat([rarity[:1].nan_to_num(0.0), by_kind])
        low, high = (waves.wave_frequencies(all_waves, common=common) for common in waves.COMMON)
        phases = waves.position_phases(len(rarity)).to(rarity.device)[places]
        overlaps = [waves.overlaps(f, harmonics=harmonics, duration=duration) for f in (low, high)]
        bins = [waves.binned(f[1:], harmonics=harmonics) for f in (low, high)]
        return Words(
            known=known,
            places=places,
            kinds=rank[kinds],
            n_kinds=len(values),
            rarity=by_kind,
            phases=phases if turning else torch.zeros_like(phases),
            frequencies=(low[1:], high[1:]),
            overlaps=(overlaps[0], overlaps[1]),
            bins=(bins[0], bins[1]),
            harmonics=harmonics,
        )

    def by_kind(self, of_tokens: Tensor) -> Tensor:
        """Return ``[..., kind]``: values of tokens, ``[..., token]``, added up."""
        sums = of_tokens.new_zeros(*of_tokens.shape[:-1], self.n_kinds)
        return sums.index_add_(-1, self.kinds, of_tokens)


@dataclass(frozen=True, eq=False)
class Rows:
    """The attention of layers with the same windows at some queries of one prompt.

    Attributes
    ----------
    free
        Weights of the tokens that are waves, ``[query, token, row]``: rows are the heads of one layer after
        another, then one of ones on all keys that the query sees.
    first
        Weight of the first position, zero if it has no frequency: ``[query, row]``.
    squared
        The squares of the free weights.
    total, squares
        Sum of the free weights and of their squares, ``[query, row]``.
    words
        The tokens.
    layers
        How many.
    """

    free: Tensor
    first: Tensor
    squared: Tensor
    total: Tensor
    squares: Tensor
    words: Words
    layers: int

    @staticmethod
    def read(layers: Sequence[ChosenRows], row: int, words: Words) -> Rows:
        """Take the rows of one prompt, number ``row``, out of those of a batch."""
        one, n = layers[0], len(words.known)
        q = int(one.counts[row].sum())
        key = torch.arange(n, device=one.weights.device)
        start, size = one.start[row, :q, None], one.size[row, :q, None]
        seen = ((key >= start) & (key < start + size)).to(one.weights)
        weights = [each.weights[row, :, :q, :n].transpose(0, 1) for each in layers]  # [query, head, key]
        rows = torch.cat([*weights, seen[:, None]], dim=1)
        table = rows.new_empty(q, n, rows.shape[1])  # [query, key, row]
        for made, of_query in zip(table, rows, strict=True):
            made.copy_(of_query.T)  # a matrix at a time is transposed in blocks
        everything = len(words.places) == n - 1
        free = table[:, 1:] if everything else table.index_select(1, words.places)
        squared = free * free
        return Rows(
            free=free,
            first=table[:, 0] * words.known[0],
            total=free.sum(1),
            squared=squared,
            squares=squared.sum(1),
            words=words,
            layers=len(layers),
        )

    @property
    def seen(self) -> Tensor:
        """Ones where a query sees a token, ``[query, token]``."""
        return self.free[..., -1]

    def valid(self, *, first: bool = False) -> Tensor:
        """Return where something is superposed, booleans ``[query, row]``; the first position may count."""
        total = self.total + self.first if first else self.total
        return (total >= SMALLEST_FREE_WEIGHT) & (self.total[:, -1:] >= 2)

    def interference(self) -> dict[str, Tensor]:
        """Return how the waves interfere, ``[layer, mapping, ...]``.

        Returns
        -------
        dict
            ``interference``, the power over the sum of the powers of the tokens; ``shuffled``, its mean over
            all ways to deal the frequencies to the kinds that a query sees; ``null``, its mean over those
            that leave each kind among the kinds that recur as often (`waves.RECURRENCES`);
            ``uniform``, the interference of even attention. ``coherence`` and
            ``coherence_uniform`` ``[layer, mapping, 2]``, with the first position and without it: the root
            of the power over the sum of the weights.
        """
        words = self.words
        summed = waves.phasors(self.free, words.phases, words.kinds, words.n_kinds)  # [2, query, kind, row]
        present = words.by_kind(self.seen)  # [query, kind]
        squares = self.squares.clamp_min(torch.finfo(self.squares.dtype).tiny)
        # One class of all kinds that are there, and those that recur as often.
        classes = torch.cat([(present > 0).to(present)[:, None], waves.recurrence(present)], dim=1)
        added, own = waves.by_class(summed, classes)
        parts = (slice(0, 1), slice(1, None))
        total, with_first = (
            each.clamp_min(SMALLEST_FREE_WEIGHT) for each in (self.total, self.total + self.first)
        )
        found: dict[str, list[Tensor]] = {}
        for overlap in words.overlaps:
            power = _power(summed, overlap[1:, 1:], present)
            mean = waves.mean_overlaps(overlap[1:, 1:], classes)
            shuffled, null = (
                waves.dealt_power(mean[:, part, part], added[:, :, part], own[:, part]) for part in parts
            )
            beside = self.first * (overlap[0, 1:].to(power) @ summed[0])
            both = (power + 2 * beside + self.first**2).clamp_min(0).sqrt() / with_first
            without = power.clamp_min(0).sqrt() / total
            numbers = {
                "interference": self._mean(power / squares),
                "null": self._mean(null / squares),
                "shuffled": self._mean(shuffled / squares),
                "uniform": self._mean_uniform(power / squares),
                "coherence": torch.stack([self._mean(both, first=True), self._mean(without)], dim=-1),
                "coherence_uniform": torch.stack(
                    [self._mean_uniform(both), self._mean_uniform(without)], dim=-1
                ),
            }
            for name, values in numbers.items():
                found.setdefault(name, []).append(values)
        return {name: torch.stack(values, dim=1) for name, values in found.items()}

    def shares(self) -> Tensor:
        """Return the share of the power that attention gives each kind, ``[layer, kind]``.

        ``A_j^2 / sum_j A_j^2`` of each row, averaged over queries and heads; not-a-number where no row
        counts.
        """
        there = self.valid()
        tiny = torch.finfo(self.squares.dtype).tiny
        weight = torch.where(there, 1 / self.squares.clamp_min(tiny), 0.0)
        layer = torch.arange(self.layers, device=weight.device)
        heads = (weight.shape[1] - 1) // self.layers
        of_layer = torch.zeros(weight.shape[1], self.layers, device=weight.device, dtype=weight.dtype)
        of_layer[:-1] = layer.repeat_interleave(heads)[:, None] == layer
        parts = (self.squared @ (weight[..., None] * of_layer)).sum(0)  # [token, layer]
        count = there[:, :-1].unflatten(1, (self.layers, -1)).sum((0, 2))
        return self.words.by_kind(parts.T.double() / count[:, None])

    def shares_uniform(self) -> Tensor:
        """Return the same of even attention, ``[layer, kind]``."""
        there = self.valid()[:, -1]
        even = self.seen / self.total[:, -1:].clamp_min(1)
        each = torch.where(there[:, None], even, 0.0).double().sum(0)
        return self.words.by_kind((each / there.sum()).expand(self.layers, -1))

    def last(self) -> Tensor:
        """Return the weights of the last query, adding up to one, mean over heads: ``[layer, position]``."""
        there, free = self.valid()[-1, :-1], self.free[-1, :, :-1]
        even = torch.where(there, free / self.total[-1, :-1].clamp_min(SMALLEST_FREE_WEIGHT), 0.0)
        by_layer = even.unflatten(1, (self.layers, -1)).sum(2)
        count = there.unflatten(0, (self.layers, -1)).sum(1).clamp_min(1)
        placed = even.new_zeros(len(self.words.known), self.layers)
        return placed.index_copy_(0, self.words.places, by_layer / count).T

    def _mean(self, values: Tensor, *, first: bool = False) -> Tensor:
        """Return the mean over queries and heads, ``[layer]``; not-a-number where nothing is superposed."""
        there = self.valid(first=first)
        kept = torch.where(there, values, 0.0).double()
        mean: Tensor = kept[:, :-1].unflatten(1, (self.layers, -1)).sum((0, 2))
        mean = mean / there[:, :-1].unflatten(1, (self.layers, -1)).sum((0, 2))
        return mean

    def _mean_uniform(self, values: Tensor) -> Tensor:
        """Return the mean over queries of even attention, the same for every layer: ``[layer]``."""
        there = self.valid()[:, -1]
        mean = torch.where(there, values[:, -1], 0.0).double().sum() / there.sum()
        return mean.expand(self.layers)


def spectral_numbers(shares: Tensor, words: Words, orders: Tensor) -> dict[str, Tensor]:
    """Return what spectra of lines look like, with the frequencies dealt to the kinds in each order.

    Parameters
    ----------
    shares
        Share of the power of each kind, ``[layer, kind]``.
    words
        The kinds.
    orders
        Integers ``[draw, kind]``: which kind's frequency each one gets.

    Returns
    -------
    dict
        ``entropy`` in nats and ``linear``, the bandwidth in cycles per unit of time: ``[draw, layer,
        mapping]``; ``octaves``, the bandwidth on a logarithmic axis: ``[draw, layer]``, the same under both
        mappings, which mirror each other.
    """
    entropies, linears, octaves = [], [], shares
    for frequencies, bins in zip(words.frequencies, words.bins, strict=True):
        octaves, linear = waves.line_spread(shares, frequencies[orders], harmonics=words.harmonics)
        entropies.append(waves.spectral_entropy(shares @ bins[orders]))
        linears.append(linear)
    return {
        "entropy": torch.stack(entropies, dim=-1),
        "linear": torch.stack(linears, dim=-1),
        "octaves": octaves,
    }


def _power(summed: Tensor, overlap: Tensor, present: Tensor) -> Tensor:
    """Return the power ``[query, row]``; each query is taken with no more kinds than it can have seen."""
    upto = [int(row.nonzero().max()) + 1 if bool(row.any()) else 0 for row in present]
    pieces = [waves.superposed_power(summed[:, query, :n], overlap[:n, :n]) for query, n in enumerate(upto)]
    return torch.stack(pieces)
