"""The learned filter: SciPy's cosine transform, unequal lengths, gradients, a planted band."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resonance_lens.nn import SpectralFilter


def random_filter(n_indices: int) -> SpectralFilter:
    module = SpectralFilter(3, 2, n_indices=n_indices, seed=1).double()
    with torch.no_grad():
        module.gain_logit.copy_(torch.randn(n_indices, generator=torch.Generator().manual_seed(0)))
    return module


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_filter_against_scipy() -> None:
    from scipy import fft

    module, x = random_filter(20), noise(2, 20, 3)
    gains = module.gains.detach().numpy()
    kept = gains[:, None] * fft.dct(x.numpy(), axis=1, norm="ortho")
    wanted = fft.idct(kept, axis=1, norm="ortho")
    np.testing.assert_allclose(module.filtered(x).detach(), wanted, atol=1e-12)
    logits = torch.from_numpy(wanted) @ module.weight.T + module.bias
    torch.testing.assert_close(module(x), logits)


def test_gains_at_other_lengths_against_numpy() -> None:
    module = random_filter(16)
    wanted = np.interp(np.arange(40) / 80, np.arange(16) / 32, module.gains.detach().numpy())
    np.testing.assert_allclose(module.gains_at(40).detach(), wanted, atol=1e-12)
    for n in (1, 5, 16, 17):
        gains = module.gains_at(n)
        assert gains.shape == (n,) and (gains > 0).all() and (gains < 1).all()
    short = module.gains_at(4)  # a short record trains every gain
    short.sum().backward()
    assert module.gain_logit.grad is not None and (module.gain_logit.grad[:15] > 0).all()


def test_unequal_lengths() -> None:
    module, x = random_filter(16), noise(3, 25, 3)
    lengths = torch.tensor([25, 7, 1])
    changed = x.clone()
    changed[1, 7:] = torch.nan
    got = module(changed, lengths)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(got[row, :n], module(x[row : row + 1, :n])[0])
        assert not got[row, n:].any()


def test_gradients() -> None:
    module = random_filter(6)
    parameters = (module.gain_logit, module.weight, module.bias)
    x = noise(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x, torch.tensor([5, 3])), (x, *parameters))


def test_planted_band_is_found() -> None:
    """The label is the sign of what a feature does around 0.2 cycles per token; elsewhere it is noise."""
    rng = np.random.default_rng(0)
    n = 64
    spectrum = rng.normal(size=(100, n))
    inside = (np.arange(n) >= 22) & (np.arange(n) < 30)
    basis = np.cos(math.pi / n * np.arange(n)[:, None] * (np.arange(n)[None, :] + 0.5)) * math.sqrt(2 / n)
    labels = torch.tensor((spectrum * inside) @ basis > 0).long()
    x = torch.tensor(spectrum @ basis)[..., None].float()
    module = SpectralFilter(1, 2, n_indices=32, gamma=0.1)
    adam = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(150):
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x).transpose(1, 2), labels)
        (loss + module.regularisation()).backward()
        adam.step()
    gains = module.gains.detach()
    band = (module.frequencies >= 22 / 128) & (module.frequencies < 29.5 / 128)
    assert gains[band].min() > 0.7
    assert gains[~band].mean() < 0.3
    assert float(module.periods[int(gains.argmax())]) == pytest.approx(5, abs=0.9)
