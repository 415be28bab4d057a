"""Records of signals and tensors: order, finiteness, lengths, and nothing filled with zeros."""

from __future__ import annotations

import pytest
import torch

from resonance_lens.dsp.records import Records, like
from resonance_lens.errors import ActivationError, AxisError, RecordError
from resonance_lens.signal import UNORDERED_AXES, Signal

LENGTHS = [7, 3, 5]


def residual(seed: int = 0) -> Signal:
    values = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(seed))
    for row, length in zip(values, LENGTHS, strict=True):
        row[length:] = float("nan")  # what is padding must not be looked at
    return Signal(values, ("batch", "token", "d_model"), lengths=torch.tensor(LENGTHS))


def test_a_signal_gives_one_record_for_each_prompt_and_dimension() -> None:
    signal = residual()
    records = Records.of(signal, "token", "a mean")
    assert records.shape == (3, 4)
    assert records.lengths.reshape(3, 4)[:, 0].tolist() == LENGTHS
    for prompt, length in enumerate(LENGTHS):
        for dimension in range(4):
            row = records.rows.reshape(3, 4, 7)[prompt, dimension]
            assert torch.equal(row[:length], signal.values[prompt, :length, dimension])


def test_a_summary_of_unequal_records_is_that_of_each_alone() -> None:
    signal = residual()
    together = Records.of(signal, "token", "a spread").summary(lambda rows: rows.std(dim=1))
    for prompt, length in enumerate(LENGTHS):
        assert torch.equal(together[prompt], signal.values[prompt, :length].T.std(dim=1))


def test_each_keeps_lengths_and_leaves_zeros_beyond() -> None:
    signal = residual()
    centred = Records.of(signal, "token", "a filter").each(lambda rows: rows - rows.mean(1, keepdim=True))
    back = like(signal, "token", centred)
    assert isinstance(back, Signal) and back.axes == signal.axes
    for prompt, length in enumerate(LENGTHS):
        alone = signal.values[prompt, :length]
        torch.testing.assert_close(back.values[prompt, :length], alone - alone.mean(0))
        assert not back.values[prompt, length:].any()


def test_records_of_a_tensor_go_by_number_and_broadcast_lengths() -> None:
    values = torch.arange(24.0).reshape(2, 4, 3)
    records = Records.of(values, 1, "a sum", lengths=torch.tensor([[4], [2]]))
    sums = records.summary(lambda rows: rows.sum(1))
    expected = torch.stack([values[0].sum(0), values[1, :2].sum(0)])
    assert torch.equal(sums, expected)
    assert torch.equal(like(values, 1, records.each(lambda rows: rows))[1, 2:], torch.zeros(2, 3))  # type: ignore[index]


@pytest.mark.parametrize("axis", sorted(UNORDERED_AXES))
def test_axes_without_order_are_refused_by_name(axis: str) -> None:
    other = "batch" if axis != "batch" else "prompt"
    signal = Signal(torch.zeros(2, 5, 3), (other, "token", axis))
    with pytest.raises(AxisError, match=f"There is no spectrum over '{axis}': .*; use 'token' instead"):
        Records.of(signal, axis, "a spectrum")
    with pytest.raises(AxisError, match=f"There is no spectrum over '{axis}': "):
        Records.of(torch.zeros(2, 5), axis, "a spectrum")


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(ActivationError, match="A spectrum needs finite numbers"):
        Records.of(torch.tensor([1.0, float("inf")]), 0, "a spectrum")
    with pytest.raises(RecordError, match="floating-point numbers; got torch.int64"):
        Records.of(torch.arange(4), 0, "a spectrum")
    with pytest.raises(RecordError, match="at least one position in every record"):
        Records.of(torch.zeros(2, 4), 1, "a spectrum", lengths=torch.tensor([4, 0]))
    with pytest.raises(RecordError, match="cannot have 5 real positions out of 4"):
        Records.of(torch.zeros(2, 4), 1, "a spectrum", lengths=torch.tensor([4, 5]))
    with pytest.raises(AxisError, match="has no dimension 2"):
        Records.of(torch.zeros(2, 4), 2, "a spectrum")
    with pytest.raises(AxisError, match="goes by its number; got 'token'"):
        Records.of(torch.zeros(2, 4), "token", "a spectrum")
    with pytest.raises(AxisError, match="goes by its name"):
        Records.of(residual(), 1, "a spectrum")
    records = Records.of(residual(), "token", "a spectrum")
    with pytest.raises(RecordError, match="records of 3 to 7 positions has no grid"):
        records.one_length("a periodogram")
    with pytest.raises(RecordError, match="needs records of at least 4 positions; the shortest has 3"):
        records.at_least(4, "a filter")


def test_half_precision_is_worked_on_in_single() -> None:
    assert Records.of(torch.zeros(2, 4, dtype=torch.bfloat16), 1, "a spectrum").rows.dtype == torch.float32


def test_gradients_pass_through() -> None:
    values = torch.randn(3, 6, requires_grad=True)
    Records.of(values, 1, "a sum", lengths=torch.tensor([6, 2, 4])).each(
        lambda rows: rows**2
    ).sum().backward()
    assert values.grad is not None and values.grad[1, :2].all() and not values.grad[1, 2:].any()
