"""What the analyses of attention should find, worked out from planted attention.

The definitions are those in the docstrings of the analyses, written down once more in plain numpy
and double precision: nothing here is shared with the analyses, so that one can be held against the
other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resonance_lens.testbed.building import Array

Place = tuple[int, int]
"""A layer and a head."""

MINIMUM_EFFECTS = {
    "phase_coherence.coherence_squared": 0.05,  # 1
    "attention_entropy.distance": 1.0,  # tokens
    "head_sync.consistency": 0.05,  # 1
}
"""The claims that are worked out, with the smallest effect that each counts."""

MIN_KEYS = 8
"""Queries that see fewer keys are left out, as the analyses do unless told otherwise."""

SMALLEST_FREE_WEIGHT = 1e-3
SMALLEST_RESULTANT = 1e-5
NO_EFFECT = 1e-4
"""An effect below this in every prompt is what the floor of a softmax leaves."""


def claims(
    planted: Array, exchangeable: Sequence[Place], independent: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Return what each claim should say of planted attention.

    Parameters
    ----------
    planted
        Attention ``[prompt, layer, head, query, key]`` of prompts of one length.
    exchangeable
        Heads whose keys are exchangeable.
    independent
        Layers whose heads are independent of each other.

    Returns
    -------
    dict
        As in `Circuit.truth`; empty if no query sees enough keys.
    """
    n_prompts, _, n_heads, n, _ = planted.shape
    if n < MIN_KEYS:
        return {}
    constant = (planted == planted[:1]).all(axis=(0, 2, 3, 4))  # [layer]: in all prompts the same
    found: dict[str, dict[str, Any]] = {}

    def add(
        claim: str,
        first_position: str,
        effect: Array,
        known: NDArray[np.bool_],
        silent: Collection[tuple[int, ...]],
    ) -> None:
        smallest = MINIMUM_EFFECTS[claim]
        none = known.copy()
        for place in silent:
            none[place] = True
        large = ~none & (abs(effect) >= smallest)
        found.setdefault(claim, {"minimum_effect": smallest})[first_position] = {
            "effect": _plain(np.where(none, 0.0, effect)),
            "finds": np.argwhere(large).tolist(),
            "nothing": np.argwhere(none).tolist(),
        }

    for first_position in ("keep", "drop"):
        kept, counts = _rows(planted, first_position == "drop")
        for claim, (value, null) in {
            "phase_coherence.coherence_squared": _squared_resultant(kept),
            "attention_entropy.distance": _distance(kept),
        }.items():
            effects = _mean_over_queries(value - null, counts)  # [prompt, layer, head]
            # What is zero in every prompt was not sampled.
            zero = (np.nan_to_num(abs(effects)).max(0) < NO_EFFECT) & ~np.isnan(effects).all(0)
            add(claim, first_position, _mean_over_prompts(effects), zero, exchangeable)
        if n_heads > 1 and n_prompts > 1:
            add(
                "head_sync.consistency",
                first_position,
                _consistency(kept, counts),
                constant,
                [(layer,) for layer in independent],
            )
    return found


class _Kept:
    """Attention over the keys from ``first`` on, laid out on a circle.

    Attributes
    ----------
    weights
        ``[prompt, layer, head, query, key]``.
    first
        0 with the prompt's first key, 1 without it.
    seen
        Which keys are on the circle of each query, ``[query, key]``.
    lag
        How far back each key is, in tokens.
    units, phasors
        The phasor of each key, and of each row of attention ``[prompt, layer, head, query]``.
    """

    def __init__(self, weights: Array, first: int) -> None:
        n = weights.shape[-1]
        query, key = np.mgrid[:n, :n]
        self.weights, self.first = weights, first
        self.seen = (key <= query) & (key >= first)
        self.lag = query - key
        angle = 2 * np.pi * (key - first) / np.maximum(self.seen.sum(-1, keepdims=True), 1)
        self.units = np.exp(1j * angle) * self.seen  # [query, key]
        self.phasors = np.einsum("plhqk,qk->plhq", weights, self.units)


def _rows(planted: Array, drop: bool) -> tuple[_Kept, NDArray[np.bool_]]:
    """Return the rows to look at, and which of them count ``[prompt, layer, head, query]``."""
    n = planted.shape[-1]
    enough = np.broadcast_to(np.arange(1, n + 1) >= MIN_KEYS, planted.shape[:-1])
    if not drop:
        return _Kept(planted, 0), enough
    free = planted[..., 1:].sum(-1)
    rest = planted / np.maximum(free, SMALLEST_FREE_WEIGHT)[..., None]
    rest[..., 0] = 0.0
    return _Kept(rest, 1), enough & (free >= SMALLEST_FREE_WEIGHT)


def _squared_resultant(kept: _Kept) -> tuple[Array, Array]:
    """Return R^2 of each row, and its mean over permutations of all keys but the prompt's first.

    The mean follows from the first two moments of a permuted weight: over n keys with sum W and sum of
    squares Q, ``E w^2 = Q / n`` and ``E w w' = (W^2 - Q) / (n (n - 1))`` for two different keys.
    """
    free = kept.seen & (np.arange(kept.seen.shape[-1]) > 0)  # [query, key]
    n = np.maximum(free.sum(-1), 2)
    held = kept.weights[..., 0] * (kept.first == 0)
    total = (kept.weights * free).sum(-1)
    squares = (kept.weights**2 * free).sum(-1)
    units = (kept.units * free).sum(-1)
    pairs = (total**2 - squares) / (n * (n - 1)) * (abs(units) ** 2 - free.sum(-1))
    fixed = held * kept.units[:, 0]
    null = abs(fixed) ** 2 + 2 * (fixed.conj() * total / n * units).real + squares + pairs
    return abs(kept.phasors) ** 2, null


def _distance(kept: _Kept) -> tuple[Array, Array]:
    """Return the mean distance back of each row, and its mean over permutations."""
    distance = np.einsum("plhqk,qk->plhq", kept.weights, kept.lag * kept.seen)
    free = kept.seen & (np.arange(kept.seen.shape[-1]) > 0)
    mean_lag = (kept.lag * free).sum(-1) / np.maximum(free.sum(-1), 1)  # [query]
    held = kept.weights[..., 0] * (kept.first == 0)
    total = (kept.weights * free).sum(-1)
    return distance, held * np.arange(distance.shape[-1]) + total * mean_lag


def _consistency(kept: _Kept, counts: NDArray[np.bool_]) -> Array:
    """Return agreement of the heads of each layer in one prompt, minus that across prompts."""
    size = abs(kept.phasors)
    enough = np.arange(1, size.shape[-1] + 1) >= MIN_KEYS
    pointing = (size > SMALLEST_RESULTANT) & counts
    units = np.where(pointing, kept.phasors / np.maximum(size, SMALLEST_RESULTANT), 0)[..., enough]
    # The mean cosine between head g of prompt p and head h of prompt q at the same query.
    alike = np.einsum("plgi,qlhi->lpqgh", units.conj(), units).real / enough.sum()
    n_prompts, n_heads = units.shape[0], units.shape[2]
    same = np.eye(n_prompts, dtype=bool)
    pairs = ~np.eye(n_heads, dtype=bool)
    found = [layer[..., pairs] for layer in alike]  # of each layer [prompt, prompt, pair]
    return np.array([layer[same].mean() - layer[~same].mean() for layer in found])


def _mean_over_queries(values: Array, counts: NDArray[np.bool_]) -> Array:
    """Return the mean over queries that count ``[prompt, layer, head]``, not-a-number where none does."""
    n = counts.sum(-1)
    return np.asarray(np.where(n > 0, (values * counts).sum(-1) / np.maximum(n, 1), np.nan))


def _mean_over_prompts(values: Array) -> Array:
    """Return the mean over prompts that have one, not-a-number where none has."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.asarray(np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan))


def _plain(values: Array) -> list[Any]:
    """Return numbers that JSON has, rounded: not-a-number becomes ``None``."""
    rounded = (np.round(values, 6) + 0.0).astype(object)  # no minus zero
    rounded[np.isnan(values)] = None
    return rounded.tolist()  # type: ignore[no-any-return]
