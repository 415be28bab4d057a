"""Features merge in any order, grow with zeros, and come back from bytes as they were."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from resonance_lens.errors import AnalysisError
from resonance_lens.features import N_BLOCKS, Features, as_array, block_sums, deal, stack_layers


def made(prompts: Sequence[int], reach: int, seed: int) -> Features:
    """Return features whose sums reach so far; whole numbers, so that sums are exact."""
    rng = np.random.default_rng([seed, len(prompts), reach])
    row = np.array([[p, p**2] for p in prompts], dtype=float).reshape(len(prompts), 2)
    return Features.of(
        prompts,
        rows={"row": row},
        sums={"sum": rng.integers(-9, 9, (3, reach)), "phasor": rng.integers(-9, 9, reach) * 1j},
        blocks={"block": rng.integers(-9, 9, (N_BLOCKS, reach)).astype(float)},
    )


@st.composite
def parts(draw: st.DrawFn) -> list[Features]:
    """Return the features of batches that share out some prompts."""
    prompts = draw(st.permutations(range(draw(st.integers(2, 9)))))
    cuts = sorted(draw(st.sets(st.integers(1, len(prompts) - 1), max_size=4)))
    pieces = [prompts[a:b] for a, b in zip([0, *cuts], [*cuts, len(prompts)], strict=True)]
    return [made(piece, draw(st.integers(0, 5)), i) for i, piece in enumerate(pieces)]


def assert_same(one: Features, other: Features) -> None:
    np.testing.assert_array_equal(one.prompts, other.prompts)
    for kind in ("rows", "sums", "blocks"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert list(mine) == list(theirs)
        for name, values in mine.items():
            assert values.dtype == theirs[name].dtype
            np.testing.assert_array_equal(values, theirs[name])


def merged(features: Sequence[Features]) -> Features:
    return reduce(lambda a, b: a.merge(b), features)


@given(parts(), st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_order(features: list[Features], shuffler: object) -> None:
    shuffled = list(features)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert_same(merged(features).sorted(), merged(shuffled).sorted())


@given(parts(), st.data())
def test_merging_is_associative(features: list[Features], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(features)))
    grouped = [merged(features[:cut]), *features[cut:]]
    backwards = reduce(lambda a, b: b.merge(a), reversed(grouped))
    assert_same(merged(grouped), merged(features))
    assert_same(backwards, merged(features))


@given(parts())
def test_merging_keeps_every_row_and_adds_every_sum(features: list[Features]) -> None:
    whole = merged(features).sorted()
    assert whole.prompts.tolist() == list(range(len(whole.prompts)))
    np.testing.assert_array_equal(whole.rows["row"][:, 1], np.arange(len(whole.prompts)) ** 2)
    assert whole.sums["sum"].sum() == sum(part.sums["sum"].sum() for part in features)
    assert whole.sums["phasor"].dtype == np.complex128
    np.testing.assert_array_equal(
        whole.blocks["block"].sum(1), np.sum([part.blocks["block"].sum(1) for part in features], axis=0)
    )


def test_shorter_sums_grow_with_zeros_at_the_end_of_each_axis() -> None:
    short = Features.of([0], sums={"s": np.array([[1.0, 2.0]])})
    long = Features.of([1], sums={"s": np.ones((2, 3))})
    for total in (short.merge(long), long.merge(short)):
        np.testing.assert_array_equal(total.sums["s"], [[2.0, 3.0, 1.0], [1.0, 1.0, 1.0]])


@given(parts())
def test_bytes_hold_everything(features: list[Features]) -> None:
    for part in features:
        assert_same(Features.from_bytes(part.to_bytes()), part)


def test_names_with_slashes_and_not_a_number_come_back() -> None:
    rows = {"a/b": np.array([np.nan, 1.0]), "c": np.array([True, False])}
    found = Features.from_bytes(Features.of([4, 2], rows=rows).to_bytes())
    np.testing.assert_array_equal(found.rows["a/b"], [np.nan, 1.0])
    assert found.rows["c"].dtype == np.int64


def test_bytes_that_would_run_code_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, prompts=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Features.from_bytes(buffer.getvalue())


def test_features_are_double_precision_and_off_the_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    found = Features.of([0, 1], rows={"x": weight * 2, "z": torch.complex(torch.ones(2), torch.ones(2))})
    assert found.rows["x"].dtype == np.float64
    assert found.rows["z"].dtype == np.complex128
    assert as_array(np.float32(3)).dtype == np.float64
    with pytest.raises(AnalysisError, match="Features are numbers; got an array of type <U1"):
        as_array(["a"])


def test_what_has_the_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"row feature 'x' needs one row for each of 2 prompts.*\(3,\)"):
        Features.of([0, 1], rows={"x": np.ones(3)})
    with pytest.raises(AnalysisError, match=r"block feature 'x' needs 20 rows; got shape \(3,\)"):
        Features.of([0, 1], blocks={"x": np.ones(3)})


def test_features_of_two_kinds_do_not_merge() -> None:
    one = Features.of([0], rows={"x": np.ones(1)}, sums={"s": np.ones(2)})
    with pytest.raises(AnalysisError, match=r"same rows; got \['x'\] and \['y'\]"):
        one.merge(Features.of([1], rows={"y": np.ones(1)}, sums={"s": np.ones(2)}))
    with pytest.raises(AnalysisError, match=r"shapes \(2,\) and \(2, 1\) cannot be added"):
        one.merge(Features.of([1], rows={"x": np.ones(1)}, sums={"s": np.ones((2, 1))}))


def test_layers_stack_behind_prompts_and_blocks() -> None:
    layers = [
        Features.of(
            [5, 3],
            rows={"r": np.full((2, 4), layer)},
            sums={"s": np.full(3, layer)},
            blocks={"b": np.full((N_BLOCKS, 2), layer)},
        )
        for layer in range(6)
    ]
    whole = stack_layers(layers)
    assert whole.prompts.tolist() == [5, 3]
    assert whole.rows["r"].shape == (2, 6, 4)
    assert whole.sums["s"].shape == (6, 3)
    assert whole.blocks["b"].shape == (N_BLOCKS, 6, 2)
    np.testing.assert_array_equal(whole.rows["r"][1, :, 0], range(6))


def test_what_is_carried_must_be_joined() -> None:
    carrying = Features.of([0], carry={"vectors": torch.ones(1)})
    with pytest.raises(AnalysisError, match="carries vectors from layer to layer needs a join of its own"):
        stack_layers([carrying])


@given(
    array_shapes(min_dims=1, max_dims=2, max_side=4),
    st.lists(st.integers(0, N_BLOCKS - 1), min_size=1, max_size=30),
)
def test_blocks_add_up_the_prompts_of_each_group(shape: tuple[int, ...], groups: list[int]) -> None:
    values = np.random.default_rng(0).integers(0, 9, (len(groups), *shape))
    found = block_sums(values, groups)
    for block in range(N_BLOCKS):
        mine = [row for row, group in zip(values, groups, strict=True) if group == block]
        np.testing.assert_array_equal(found[block], np.sum(mine, axis=0) if mine else np.zeros(shape))


@given(st.lists(st.sampled_from(["verse", "code", None]), min_size=1, max_size=90))
def test_every_category_is_dealt_to_the_groups_evenly(categories: list[str | None]) -> None:
    groups = deal(categories)
    for category in {*categories}:
        mine = [int(group) for group, c in zip(groups, categories, strict=True) if c == category]
        sizes = np.bincount(mine, minlength=N_BLOCKS)
        assert sizes.max() - sizes.min() <= 1
    sizes = np.bincount(groups, minlength=N_BLOCKS)
    assert sizes.max() - sizes.min() <= 1
