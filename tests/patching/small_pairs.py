"""Pairs of prompts for tiny models, drawn at random, and for the planted ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resonance_lens.pairs import PromptPairs


def random_pairs(
    seed: int = 0, lengths: Sequence[int] = (7, 5, 9, 7), n_tokens: int = 53, read: int | Sequence[int] = -1
) -> PromptPairs:
    """Return pairs of which two tokens differ, with answers drawn at random."""
    rng = np.random.default_rng(seed)
    clean, corrupted = [], []
    for length in lengths:
        row = rng.integers(1, n_tokens, size=length)
        other = row.copy()
        changed = rng.permutation(length - 1)[:2]
        other[changed] = (row[changed] + rng.integers(1, n_tokens - 1, size=2)) % n_tokens
        clean.append(row.tolist())
        corrupted.append(other.tolist())
    answers = np.stack([rng.permutation(n_tokens)[:2] for _ in lengths])
    return PromptPairs(
        name="random",
        clean=clean,
        corrupted=corrupted,
        read=np.broadcast_to(read, len(lengths)),
        right=answers[:, 0],
        wrong=answers[:, 1],
    )


def induction_pairs(seed: int = 0, n_pairs: int = 12, n_tokens: int = 32) -> PromptPairs:
    """Return prompts ``0 a b c a b`` for the planted induction circuit; corrupted ones have another c."""
    rng = np.random.default_rng(seed)
    clean, corrupted, right, wrong = [], [], [], []
    for index in range(n_pairs):
        row = (rng.permutation(n_tokens - 1) + 1).tolist()
        n = 5 + index % 3
        at = int(rng.integers(1, n))
        once, other = row[:n], [*row[:at], row[n], *row[at + 1 : n]]
        clean.append([0, *once, *once[:at]])
        corrupted.append([0, *other, *once[:at]])
        right.append(once[at])
        wrong.append(row[n])
    return PromptPairs(
        name="planted", clean=clean, corrupted=corrupted, right=np.array(right), wrong=np.array(wrong)
    )
