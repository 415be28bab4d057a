"""Which queries of a long prompt are looked at, and for how many each of them counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

DENSE = 64
"""So many queries from the start are all looked at."""

STEP = 4
"""Beyond them every so many-th is, and counts for those that end with it."""


@dataclass(frozen=True, eq=False)
class QueryGrid:
    """The queries that are looked at.

    Attributes
    ----------
    parts
        Slices of the queries: the first ones, and those beyond, if there are any.
    index, counts
        Integers ``[looked]``: the queries of all parts, and how many each of them stands for.
    """

    parts: tuple[slice, ...]
    index: Tensor
    counts: Tensor


@lru_cache(maxsize=64)  # every layer of a batch asks for the same
def query_grid(n: int, step: int = STEP) -> QueryGrid:
    """Return the grid of n queries.

    The grid of a short record begins that of a longer one, so that padding does not matter. Fewer queries
    than ``step`` are left out at the end.
    """
    ranges = [range(min(n, DENSE)), range(DENSE + step - 1, n, step)]
    used = [part for part in ranges if part]
    return QueryGrid(
        parts=tuple(slice(part.start, part.stop, part.step) for part in used),
        index=torch.cat([torch.tensor(part, dtype=torch.long) for part in ranges]),
        counts=torch.cat([torch.full((len(r),), s) for r, s in zip(ranges, (1, step), strict=True)]),
    )
