"""A signal knows what its axes mean: which have an order, and which positions are real."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resonance_lens.errors import AxisError, ResonanceLensError
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.signal import ORDERED_AXES, POSITION_AXES, UNORDERED_AXES, Signal


def signal(*axes: str, size: int = 2, lengths: list[int] | None = None) -> Signal:
    """Return a signal of ones."""
    values = torch.ones([size] * len(axes))
    return Signal(values, axes, None if lengths is None else torch.tensor(lengths))


def test_no_axis_is_both() -> None:
    assert not set(ORDERED_AXES) & set(UNORDERED_AXES)
    assert set(POSITION_AXES) <= set(ORDERED_AXES)
    for axes in SITE_AXES.values():
        signal(*axes)


@pytest.mark.parametrize("axis", ORDERED_AXES)
def test_an_axis_with_order_may_be_transformed(axis: str) -> None:
    assert signal("batch", axis, "head").ordered(axis, "a spectrum") == 1


@pytest.mark.parametrize("axis", UNORDERED_AXES)
def test_an_axis_without_order_is_refused(axis: str) -> None:
    """The sentence says which axis, why, and what to use instead."""
    with pytest.raises(AxisError) as found:
        signal("query", axis, "key").ordered(axis, "a spectrum")
    assert str(found.value) == (
        f"There is no spectrum over {axis!r}: {UNORDERED_AXES[axis]}; use 'query' or 'key' instead."
    )
    with pytest.raises(AxisError) as found:
        signal(axis).ordered(axis, "an envelope")
    assert str(found.value) == (
        f"There is no envelope over {axis!r}: {UNORDERED_AXES[axis]}; take the signal at a site that "
        "has a token axis instead."
    )
    assert isinstance(found.value, ResonanceLensError) and isinstance(found.value, ValueError)


@pytest.mark.parametrize(
    ("values", "axes", "lengths", "sentence"),
    [
        (torch.ones(2), ("batch", "token"), None,
         "A signal with axes (batch, token) needs a tensor of 2 dimensions; got shape (2,)."),
        (torch.ones(2), ("time",), None, "There is no axis 'time'. Known: query, key, token"),
        (torch.ones(2, 2), ("token", "token"), None,
         "A signal names each axis once; got (token, token)."),
        (torch.ones(2), ("token",), torch.tensor([1, 2]),
         "A signal with lengths needs a batch axis that they belong to."),
        (torch.ones(2, 3), ("batch", "token"), torch.tensor([1, 2, 3]),
         "A signal over 2 prompts needs as many lengths; got shape (3,)."),
    ],
)  # fmt: skip
def test_what_is_no_signal(
    values: Tensor, axes: tuple[str, ...], lengths: Tensor | None, sentence: str
) -> None:
    with pytest.raises(AxisError, match=f"^{re.escape(sentence)}"):
        Signal(values, axes, lengths)


def test_an_axis_that_is_not_there() -> None:
    made = signal("batch", "token")
    for ask in (made.dim, made.size, partial(made.ordered, operation="a filter")):
        with pytest.raises(AxisError, match=r"^This signal has axes \(batch, token\) and no axis 'head'"):
            ask("head")


def test_sizes() -> None:
    made = Signal(torch.ones(2, 3, 4), ("batch", "token", "head"))
    assert [made.size(axis) for axis in made.axes] == [2, 3, 4]
    assert [made.dim(axis) for axis in made.axes] == [0, 1, 2]


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(lengths, st.sampled_from(POSITION_AXES))
def test_a_mask_counts_to_the_length(lengths: list[int], axis: str) -> None:
    width = max(lengths)
    made = Signal(torch.zeros(len(lengths), width), ("batch", axis), torch.tensor(lengths))
    mask = made.mask(axis)
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == lengths
    assert (mask.long().diff(dim=1) <= 0).all()  # real positions come first
    assert torch.equal(made.prompt_lengths(), torch.tensor(lengths))


@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from(POSITION_AXES))
def test_without_lengths_everything_is_real(batch: int, width: int, axis: str) -> None:
    made = Signal(torch.zeros(batch, width), ("batch", axis))
    assert made.mask(axis).shape == (batch, width) and made.mask(axis).all()
    assert made.prompt_lengths().tolist() == [width] * batch


def test_what_has_no_padding() -> None:
    with pytest.raises(AxisError, match="^Only token, query, key have padding; 'head' has none.$"):
        signal("batch", "head").mask("head")
    with pytest.raises(AxisError, match=r"^Axes \(batch, head\) do not count positions of a prompt.$"):
        signal("batch", "head").prompt_lengths()
    assert signal("batch", "head", lengths=[1, 2]).prompt_lengths().tolist() == [1, 2]


def test_another_precision() -> None:
    made = Signal(torch.ones(2, 3), ("batch", "token"), torch.tensor([1, 3]), site="z", layer=4)
    made.memo("sum", lambda s: s.values.sum())
    double = made.to(torch.float64)
    assert double.values.dtype == torch.float64 and made.values.dtype == torch.float32
    assert (double.axes, double.site, double.layer) == (made.axes, "z", 4)
    assert double.lengths is made.lengths
    assert double.memo("sum", lambda s: s.values.sum()).dtype == torch.float64


def test_a_memo_is_computed_once() -> None:
    made, other = signal("batch", "token"), signal("batch", "token")
    seen: list[Signal] = []

    def compute(given: Signal) -> Tensor:
        seen.append(given)
        return given.values.sum()

    first = made.memo(("moment", 1), compute)
    assert made.memo(("moment", 1), compute) is first
    assert seen == [made]
    made.memo(("moment", 2), compute)
    other.memo(("moment", 1), compute)
    assert seen == [made, made, other]


@given(lengths, st.sampled_from(["left", "right"]))
def test_an_attention_mask_counts_to_the_length(lengths: list[int], side: str) -> None:
    width = max(lengths)
    batch = Batch(torch.zeros(len(lengths), width), torch.tensor(lengths), tuple(lengths), side)
    mask = batch.attention_mask()
    assert mask.sum(1).tolist() == lengths
    assert (mask.diff(dim=1) * (1 if side == "left" else -1) >= 0).all()
    assert batch.padded == (min(lengths) < width)
