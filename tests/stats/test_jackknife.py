"""Samples whose units are groups of prompts, against a jackknife by hand."""

from __future__ import annotations

import numpy as np
import pytest

from resonance_lens.stats.jackknife import of_groups
from resonance_lens.stats.samples import Sample


def test_units_are_pseudo_values_of_the_groups_that_a_category_has() -> None:
    rng = np.random.default_rng(0)
    block = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    rows = rng.normal(size=(8, 2))
    groups = {"all": np.ones(8, dtype=bool), "a": np.isin(np.arange(8), [0, 4, 5])}

    def paired(left_out: int | None) -> tuple[np.ndarray, np.ndarray]:
        kept = np.ones(8, dtype=bool) if left_out is None else block != left_out
        return rows, np.broadcast_to((rows[kept] ** 2).mean(0), rows.shape)

    found = of_groups(paired, block, groups)
    for name, inside in (("all", [0, 1, 2, 3]), ("a", [0, 1])):
        sample, members = found[name], groups[name]
        assert isinstance(sample, Sample) and sample.unit == "group" and len(sample.value) == len(inside)
        whole, null = rows[members].mean(0), (rows**2).mean(0)
        without = np.stack([rows[members & (block != b)].mean(0) for b in inside])
        nulls = np.stack([(rows[block != b] ** 2).mean(0) for b in inside])
        g = len(inside)
        np.testing.assert_allclose(sample.value, whole + (g - 1) * (without.mean(0) - without))
        np.testing.assert_allclose(sample.null, null + (g - 1) * (nulls.mean(0) - nulls))
        assert sample.value.mean(0) == pytest.approx(whole)


def test_two_groups_are_one_unit() -> None:
    rows = np.arange(4.0)[:, None]
    found = of_groups(lambda _: (rows, rows), np.array([0, 1, 0, 1]), {"all": np.ones(4, dtype=bool)})
    sample = found["all"]
    assert isinstance(sample, Sample) and sample.value.tolist() == [[1.5]]
