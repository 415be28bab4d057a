"""The oscillator bank: spheres, closed forms of its frequencies, causality, unequal lengths, gradients."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.nn import OscillatorBank, last_token

KINDS: list[tuple[Literal["kuramoto", "akorn"], int]] = [("kuramoto", 2), ("akorn", 2), ("akorn", 4)]


def bank_of(update: Literal["kuramoto", "akorn"], dimension: int, **options: float) -> OscillatorBank:
    bank = OscillatorBank(3, 4, 2, update=update, dimension=dimension, seed=1, **options).double()
    with torch.no_grad():
        bank.coupling.mul_(10)
    return bank


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_states_stay_on_the_sphere(update: Literal["kuramoto", "akorn"], dimension: int) -> None:
    bank = bank_of(update, dimension)
    states = bank._states(bank._drive(1e4 * noise(5, 200, 3)))
    norms = states.detach().abs().square().sum(-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-10, atol=1e-10)
    seen = bank.synchrony(noise(5, 200, 3))
    for values in (seen.coherence, seen.order):
        assert (values >= 0).all() and (values <= 1 + 1e-9).all()


@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_alone_an_oscillator_turns_at_its_frequency(
    update: Literal["kuramoto", "akorn"], dimension: int
) -> None:
    bank = bank_of(update, dimension, fmax=0.4)
    with torch.no_grad():
        bank.coupling.zero_()
        bank.strength.zero_()
    seen = bank.synchrony(noise(2, 50, 3))
    torch.testing.assert_close(seen.rates, bank.frequencies.expand(2, -1, -1))
    t = torch.arange(1, 51)[:, None, None]
    wanted = torch.polar(torch.ones(1).double(), 2 * math.pi * bank.frequencies * t)
    torch.testing.assert_close(torch.polar(torch.ones(1).double(), seen.phases[0]), wanted)


@pytest.mark.parametrize("update", ["kuramoto", "akorn"])
def test_locks_to_a_drive_within_its_strength(update: Literal["kuramoto", "akorn"]) -> None:
    """A rotating drive of strength s captures a detuning below s radians per token, and none above."""
    bank = OscillatorBank(2, 1, 1, update=update, fmin=0.1, fmax=0.2).double()
    with torch.no_grad():
        bank.coupling.zero_()
        bank.drive.copy_(1e6 * torch.eye(2)[None])  # saturated: a drive of modulus one
        bank.strength.fill_(0.2)
    t = torch.arange(2000)

    def rate(detuning: float) -> float:
        angle = (2 * math.pi * 0.1 + detuning) * t
        x = torch.stack([angle.cos(), angle.sin()], dim=-1)[None].double()
        return float(bank.synchrony(x).rates.detach()) - 0.1

    assert rate(0.15) == pytest.approx(0.15 / (2 * math.pi), abs=2e-4)
    assert rate(0.4) < 0.95 * 0.4 / (2 * math.pi)


@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_causal_and_blind_to_what_lies_beyond(update: Literal["kuramoto", "akorn"], dimension: int) -> None:
    bank = bank_of(update, dimension)
    x = noise(3, 30, 3)
    lengths = torch.tensor([30, 12, 1])
    changed = x.clone()
    changed[1, 12:] = torch.nan
    changed[2, 1:] = torch.inf
    got = bank(changed, lengths)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(got[row, :n], bank(x[row : row + 1, :n])[0])
        assert not got[row, n:].any()
    torch.testing.assert_close(last_token(got, lengths)[1], got[1, 11])


@pytest.mark.parametrize(("update", "dimension"), KINDS)
def test_gradients(update: Literal["kuramoto", "akorn"], dimension: int) -> None:
    bank = bank_of(update, dimension)
    names = [name for name, _ in bank.named_parameters()]

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        found = torch.func.functional_call(bank, dict(zip(names, values, strict=True)), (x,))
        assert isinstance(found, Tensor)
        return found[:, 1:]

    x = noise(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(outputs, (x, *bank.parameters()))


def test_couplings_synchronise() -> None:
    bank = OscillatorBank(1, 8, 1, fmin=0.1, fmax=0.12)
    with torch.no_grad():
        bank.strength.zero_()
        bank.coupling.fill_(0.3 / 8)
    assert bank.synchrony(torch.zeros(1, 300, 1)).order[0, -1].item() > 0.9
    with torch.no_grad():
        bank.coupling.zero_()
    assert bank.synchrony(torch.zeros(1, 300, 1)).order[0, -1].item() < 0.6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dimension": 3}, "even, and 2 for 'kuramoto'"),
        ({"fmax": 0.6}, "0 < fmin < fmax < 0.5"),
        ({"update": "euler"}, "one of 'kuramoto', 'akorn'"),
        ({"window": 0.0}, "above 0 tokens"),
    ],
)
def test_what_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        OscillatorBank(3, 4, 2, **change)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'lengths'"):
        OscillatorBank(3, 4, 2)(torch.zeros(2, 5, 3), torch.tensor([5, 6]))
