"""Which queries are looked at: in order, each once, and standing for all of them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens.dsp.query_grid import DENSE, query_grid


@given(st.integers(1, 700), st.integers(0, 300), st.sampled_from([1, 2, 4, 7, 16]))
def test_the_grid_of_a_shorter_record_begins_that_of_a_longer_one(n: int, more: int, step: int) -> None:
    grid = query_grid(n, step)
    short, counts = grid.index.tolist(), grid.counts.tolist()
    assert query_grid(n + more, step).index.tolist()[: len(short)] == short
    assert short == sorted(set(short)) and short[-1] < n
    assert n - step < sum(counts) <= n  # what is left out at the end is less than a step
    assert (np.diff([-1, *short]) == counts).all()  # each counts for those that end with it
    assert torch.cat([torch.arange(n)[part] for part in grid.parts]).tolist() == short


def test_short_records_and_steps_of_one_are_looked_at_whole() -> None:
    assert query_grid(DENSE).index.tolist() == list(range(DENSE))
    assert query_grid(300, 1).index.tolist() == list(range(300))
    assert set(query_grid(300, 1).counts.tolist()) == {1}
