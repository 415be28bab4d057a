"""The filter along a cyclic axis: numpy's Fourier transform, no beginning, gradients, a planted wave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resonance_lens.errors import ParameterError
from resonance_lens.nn import CyclicFilter


def random_filter(period: int, *, gamma: float = 0.0) -> CyclicFilter:
    module = CyclicFilter(3, 2, period, gamma=gamma, seed=1).double()
    with torch.no_grad():
        module.gain_logit.copy_(torch.randn(period // 2 + 1, generator=torch.Generator().manual_seed(0)))
    return module


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("period", [2, 11, 12])
def test_waves_of_each_number_of_cycles_are_scaled_by_its_gain(period: int) -> None:
    module = random_filter(period)
    value = np.arange(period)
    for cycles in range(period // 2 + 1):
        wave = torch.from_numpy(np.cos(2 * np.pi * cycles * value / period - 0.7))[None, :, None]
        torch.testing.assert_close(module.filtered(wave), module.gains[cycles] * wave)
    x = noise(4, period, 3)
    spectrum = np.fft.fft(x.numpy(), axis=1)
    cycles_of = np.minimum(value, period - value)  # negative frequencies have the gain of their mirror images
    kept = np.fft.ifft(spectrum * module.gains.detach().numpy()[cycles_of][:, None], axis=1).real
    np.testing.assert_allclose(module.filtered(x).detach(), kept, atol=1e-12)
    torch.testing.assert_close(module(x), torch.from_numpy(kept) @ module.weight.T + module.bias)


def test_there_is_no_beginning() -> None:
    module, x = random_filter(11), noise(2, 11, 3)
    torch.testing.assert_close(module(x.roll(4, dims=1)), module(x).roll(4, dims=1))


def test_gradients_and_the_penalty() -> None:
    module, x = random_filter(7, gamma=0.3), noise(2, 7, 3).requires_grad_()
    parameters = (module.gain_logit, module.weight, module.bias)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *parameters))
    torch.testing.assert_close(module.regularisation(), 0.3 * module.gains.mean())


def test_what_is_refused() -> None:
    with pytest.raises(ParameterError, match="'period' parameter of CyclicFilter must be at least 2"):
        CyclicFilter(3, 2, 1)
    with pytest.raises(ParameterError, match="with 7 values"):
        CyclicFilter(3, 2, 7)(torch.zeros(1, 8, 3))
    with pytest.raises(ParameterError, match="with 7 values"):
        CyclicFilter(3, 2, 7)(torch.zeros(7, 3))
