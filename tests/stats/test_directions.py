"""Directions of heads: unit vectors that depend on their names alone."""

from __future__ import annotations

import torch

from resonance_lens.stats.directions import head_directions


def test_directions_are_unit_vectors_of_each_head() -> None:
    found = head_directions(0, 3, 9, 64)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(9, dtype=torch.float64))
    cosines = found @ found.T
    assert float((cosines - torch.eye(9)).abs().max()) < 0.6  # random in 64 dimensions: about 1/8


def test_a_head_has_its_direction_however_many_there_are() -> None:
    assert torch.equal(head_directions(0, 3, 9, 64)[:4], head_directions(0, 3, 4, 64))
    assert not torch.equal(head_directions(1, 3, 4, 64), head_directions(0, 3, 4, 64))
    assert not torch.equal(head_directions(0, 2, 4, 64), head_directions(0, 3, 4, 64))
