"""Random streams that are a function of a seed and of what they are for, and of nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a generator keyed by a seed and labels; other streams never move it.

    The convention is that of ``transformer_lens.utilities.statistics.derive_generator`` (SHA-256
    over the labels), with numpy's generator.
    """
    text = "\x1f".join(str(label) for label in (seed, *labels))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
