"""Tokens arranged: what stays, what repeats, what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resonance_lens.arrangement import Arrangement
from resonance_lens.design import Condition, Drive
from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import ParameterError, PromptError
from resonance_lens.facts import Batch
from resonance_lens.observing import arranged

ROWS = st.lists(st.integers(0, 9), min_size=9, max_size=40)


@given(ROWS, st.integers(2, 8), st.booleans(), st.booleans())
def test_blocks_hold_what_they_should(row: list[int], block: int, repeated: bool, reordered: bool) -> None:
    found = Arrangement(block=block, repeated=repeated, reordered=reordered).of(row, seed=1)
    assert len(found) == len(row) and found[0] == row[0]
    whole = Arrangement(block=block, repeated=repeated).of(row, seed=1)
    for at in range(1, len(row), block):
        source = row[1 : block + 1] if repeated else row[at : at + block]
        assert list(whole[at : at + block]) == source[: len(row) - at]
        assert sorted(found[at : at + block]) == sorted(whole[at : at + block])
    if not reordered:
        assert found == whole


def test_every_block_has_an_order_of_its_own() -> None:
    row = list(range(17))
    found = Arrangement(block=16, repeated=True, reordered=True).of([*row, *row, *row], seed=0)
    blocks = [found[at : at + 16] for at in (1, 17, 33)]
    assert len(set(blocks)) == 3 and all(sorted(block) == row[1:] for block in blocks)


def test_what_is_drawn_depends_on_seed_and_tokens_alone() -> None:
    arrangement, row = Arrangement(block=8, reordered=True), tuple(range(33))
    first = arrangement.of(row, seed=0)
    assert first == arrangement.of(list(row), seed=0) != arrangement.of(row, seed=1)
    other = (*row[:-1], 99)
    assert arrangement.of(other, seed=0)[:17] != first[:17]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_stays_where_it_is(side: str) -> None:
    rows = [[7, *range(1, 9)], [5, 1, 2, 3, 4]]
    tokens = torch.zeros(2, 9, dtype=torch.long)
    for into, row in zip(tokens, rows, strict=True):
        start = 9 - len(row) if side == "left" else 0
        into[start : start + len(row)] = torch.tensor(row)
    batch = Batch(tokens.clone(), torch.tensor([9, 5]), (0, 1), side)
    found = arranged(batch, Arrangement(block=2, repeated=True), seed=0)
    assert torch.equal(batch.tokens, tokens), "the batch itself was changed"
    wanted = [[7, 1, 2, 1, 2, 1, 2, 1, 2], [5, 1, 2, 1, 2]]
    for got, row in zip(found.tokens.tolist(), wanted, strict=True):
        pad = [0] * (9 - len(row))
        assert got == (pad + row if side == "left" else row + pad)


@pytest.mark.parametrize(
    "given", [{"block": 1, "repeated": True}, {"reordered": True}, {"block": -1}, {"block": 2.0}]
)
def test_blocks_of_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="The 'block' parameter of Arrangement must be an integer"):
        Arrangement(**given)


def test_a_prompt_without_a_block_is_refused() -> None:
    with pytest.raises(PromptError, match="no block of 8 behind its first token"):
        Arrangement(block=8, repeated=True).of(range(8), seed=0)


def test_drives_and_arrangements_exclude_each_other() -> None:
    timing = Timing(onset=1, settle=0, period=4, periods=2)
    drive = Drive(layer=0, timing=timing, lines=(1,), amplitude=0.1)
    with pytest.raises(ParameterError, match="drives or arrangements"):
        Condition(drives=((drive,),), arrangements=(Arrangement(),))
