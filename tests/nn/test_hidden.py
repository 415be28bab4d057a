"""A hidden layer with a head behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resonance_lens.errors import ParameterError
from resonance_lens.nn import FourierHead, HiddenHead, LinearHead, OscillatorBank


@pytest.mark.parametrize("kind", ["fourier", "linear", "low rank"])
def test_it_is_a_layer_a_rectifier_and_the_head(kind: str) -> None:
    sizes = {"fourier": {"n_frequencies": 3, "gamma": 0.1}, "linear": {}, "low rank": {"rank": 2}}[kind]
    ours = HiddenHead(5, 7, 12, seed=4, **sizes)  # type: ignore[arg-type]
    head = (
        FourierHead(7, 12, 3, gamma=0.1)
        if kind == "fourier"
        else LinearHead(7, 12, rank=2 * (kind != "linear"))
    )
    layer = nn.Linear(5, 7)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1)
        layer.weight.copy_(ours.weight)
        layer.bias.copy_(ours.bias)
    head.load_state_dict(ours.head.state_dict())
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), head(layer(x).relu()))
    penalty = head.regularisation(layer(x).relu()) if isinstance(head, FourierHead) else torch.zeros(())
    torch.testing.assert_close(ours.regularisation(x), penalty)


def test_the_linear_twin_is_as_large_and_starts_from_the_same_layer() -> None:
    fourier = HiddenHead(50, 20, 32, n_frequencies=15, seed=2)
    linear = HiddenHead.as_large_as(fourier)
    assert linear.n_parameters == fourier.n_parameters and linear.rank == 0
    assert torch.equal(linear.weight, fourier.weight)
    assert fourier(torch.randn(2, 50)).std() < 1e-5  # uniform at the start
    small = HiddenHead(50, 20, 32, n_frequencies=7)
    assert HiddenHead.as_large_as(small).n_parameters == pytest.approx(small.n_parameters, rel=0.03)


def test_what_is_refused() -> None:
    with pytest.raises(ParameterError, match="'n_hidden' parameter of HiddenHead"):
        HiddenHead(5, 0, 12)
    with pytest.raises(ParameterError, match="'n_frequencies' parameter of HiddenHead"):
        HiddenHead(5, 7, 12, n_frequencies=-1)


@pytest.mark.parametrize("update", ["kuramoto", "akorn"])
def test_a_bank_behind_a_projection_does_what_it_does_with_projected_features(update: str) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = OscillatorBank(3, 4, 2, update=update, window=9)  # type: ignore[arg-type]
    projection = torch.randn(6, 3, generator=generator)
    x = torch.randn(2, 30, 6, generator=generator)
    behind = bank.behind(projection)
    assert behind.in_features == 6 and behind.window == 9
    torch.testing.assert_close(behind(x), bank(x @ projection), rtol=1e-4, atol=1e-4)
