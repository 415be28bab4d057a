"""Every module is rebuilt from plain JSON and safetensors, and leaves torch's random state alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from resonance_lens.errors import ParameterError
from resonance_lens.nn import (
    CardModule,
    CyclicFilter,
    FourierHead,
    HiddenHead,
    LinearHead,
    OscillatorBank,
    SpectralFilter,
    from_card,
)

MODULES: list[CardModule] = [
    CyclicFilter(6, 3, 9, gamma=0.1, seed=3),
    FourierHead(6, 10, 4, start="published", seed=3),
    HiddenHead(6, 5, 10, n_frequencies=3, gamma=0.5, seed=3),
    LinearHead(6, 10, rank=2, seed=3),
    OscillatorBank(6, 5, 3, update="akorn", dimension=4, seed=3),
    SpectralFilter(6, 3, n_indices=12, seed=3),
]


def test_every_module_is_here() -> None:
    assert {type(module) for module in MODULES} == set(CardModule.__subclasses__())


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_round_trip(module: CardModule, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    again = from_card(json.loads(json.dumps(module.card())))
    assert type(again) is type(module) and again.card() == module.card()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    x = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(x), module(x), rtol=0, atol=0)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_random_state_is_left_alone(module: CardModule) -> None:
    before = torch.get_rng_state()
    one, two = (from_card(module.card()).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_refused() -> None:
    with pytest.raises(ParameterError, match="There is no module 'Linear'"):
        from_card({"module": "Linear"})
    card = LinearHead(4, 3).card()
    with pytest.raises(ParameterError, match="has the fields"):
        from_card({name: value for name, value in card.items() if name != "rank"})
    with pytest.raises(ParameterError, match="of a FourierHead"):
        FourierHead.from_card(card)
