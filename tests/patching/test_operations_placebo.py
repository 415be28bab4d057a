"""Changes of the same size that mean nothing."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.errors import ParameterError
from resonance_lens.patching.operations.bands import RemoveBand
from resonance_lens.patching.operations.classic import Patch
from resonance_lens.patching.operations.patterns import SinkFree, Temperature, Uniform
from resonance_lens.patching.operations.placebo import Placebo, placebo
from tests.patching.scenes import pattern_of, scene_of, seen, sliding_facts, values_of


@given(st.lists(st.integers(9, 40), min_size=1, max_size=4), st.integers(1, 24), st.integers(0, 99))
@settings(max_examples=40)
def test_each_token_changes_by_as_much_and_timing_stays(
    lengths: list[int], n_features: int, seed: int
) -> None:
    values = values_of(lengths, n_features, seed)
    edit = RemoveBand(band="0.2-0.4", first_position="edit")
    edited = edit.edit(values, scene_of(lengths))
    made = placebo(values, edited, scene_of(lengths, seed=seed))
    for row, length in enumerate(lengths):
        change, other = (edited - values)[row, :length], (made - values)[row, :length]
        size = float(change.norm())
        torch.testing.assert_close(other.norm(dim=-1), change.norm(dim=-1), rtol=0, atol=1e-10 * size)
        torch.testing.assert_close(other @ other.T, change @ change.T, rtol=0, atol=1e-10 * size**2)
        assert torch.equal(made[row, length:], values[row, length:])


def test_directions_are_random_ones() -> None:
    """Cosines with the change itself have the mean 0 and the mean square 1/d of directions on a sphere."""
    d, n_rows = 16, 400
    lengths = (6,) * n_rows
    values = values_of(lengths, d)
    edited = Patch().edit(values, scene_of(lengths, donor=values_of(lengths, d, seed=1)))
    made = placebo(values, edited, scene_of(lengths, seed=2))
    change, other = edited - values, made - values
    cosine = torch.cosine_similarity(change, other, dim=-1)
    for token in range(6):
        assert float(cosine[:, token].mean().abs()) < 4 / np.sqrt(d * n_rows)
        assert abs(float(cosine[:, token].square().mean()) * d - 1) < 4 * np.sqrt(2 / n_rows)
    # No coordinate is preferred: of each the mean over rows is zero.
    units = torch.nn.functional.normalize(other, dim=-1)
    assert float(units.mean(0).abs().max()) < 5 / np.sqrt(d * n_rows)


def test_a_token_that_is_not_edited_stays_to_the_bit() -> None:
    values = values_of((12,), 8, dtype=torch.float32)
    made = placebo(values, RemoveBand(band="high").edit(values, scene_of((12,))), scene_of((12,), seed=0))
    assert torch.equal(made[:, 0], values[:, 0])
    assert torch.equal(placebo(values, values, scene_of((12,), seed=0)), values)


@pytest.mark.parametrize("sliding", [None, 5])
@pytest.mark.parametrize("done", [SinkFree(), Uniform(), Temperature(temperature=0.4)], ids=lambda d: d.name)
def test_rows_of_attention_change_by_the_same_entries_on_other_keys(
    done: SinkFree | Uniform | Temperature, sliding: int | None
) -> None:
    lengths = (14, 9)
    scene = scene_of(lengths, "pattern", sliding_facts(sliding or 99), head=None, seed=0)
    values = pattern_of(lengths, n_heads=3, sliding=sliding)
    edited = done.edit(values, scene)
    made = placebo(values, edited, scene)
    moved = 0
    for row, n in enumerate(lengths):
        before, change, other = (each[row, :, :n, :n] for each in (values, edited - values, made - values))
        assert not other[:, ~seen(n, sliding)].any()
        assert ((before + other) >= 0).all()
        torch.testing.assert_close(other.sort(-1)[0], change.sort(-1)[0], rtol=0, atol=1e-12)
        moved += int((~torch.isclose(other, change)).any(-1).sum())
    assert moved > (9 if sliding else 27)


def test_every_order_that_leaves_no_weight_negative_has_the_same_chance() -> None:
    weights = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    change = torch.tensor([-0.2, 0.25, -0.12, 0.07], dtype=torch.float64)
    allowed = {
        tuple(round(float(each), 6) for each in change[list(order)])
        for order in itertools.permutations(range(4))
        if bool((weights + change[list(order)] >= 0).all())
    }
    n_rows = 3000
    values = torch.zeros(n_rows, 1, 4, 4, dtype=torch.float64)
    values[:, :, :3, 0] = 1.0
    values[:, :, 3] = weights
    edited = values.clone()
    edited[:, :, 3] += change
    made = placebo(values, edited, scene_of((4,) * n_rows, "pattern", seed=1)) - values
    counts = Counter(tuple(round(float(each), 6) for each in row) for row in made[:, 0, 3])
    assert set(counts) == allowed and len(allowed) > 3
    expected = n_rows / len(allowed)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    from scipy import stats

    assert stats.chi2.sf(chi_square, len(allowed) - 1) > 1e-4


def test_a_row_that_leaves_no_choice_has_the_edit_for_its_placebo() -> None:
    values = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    values[..., 0] = 1.0
    scene = scene_of((6,), "pattern", seed=0)
    edited = Uniform().edit(values, scene)
    torch.testing.assert_close(placebo(values, edited, scene), edited)


def test_a_placebo_is_an_operation_too() -> None:
    values = values_of((12,), 8)
    remove = RemoveBand(band="high")
    made = Placebo(of=remove).edit(values, scene_of((12,), seed=0))
    wanted = placebo(values, remove.edit(values, scene_of((12,))), scene_of((12,), seed=0))
    assert torch.equal(made, wanted)
    assert Placebo(of=remove).looks_ahead and Placebo(of=remove).label == "placebo of remove_band"
    with pytest.raises(ParameterError, match="needs a random generator"):
        Placebo(of=remove).edit(values, scene_of((12,)))
    with pytest.raises(ParameterError, match="cannot be done to 'scores'"):
        Placebo(of=Patch()).edit(values, scene_of((12,), "scores", donor=values, seed=0))
