"""Logarithms against those of torch and numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resonance_lens.dsp.logarithms import logarithms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logarithms_in_every_precision(dtype: torch.dtype) -> None:
    smallest, largest = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    x = torch.logspace(-30, 30, 999, dtype=torch.float64).to(dtype)
    x = torch.cat([x, torch.tensor([smallest, 1.0, largest], dtype=dtype)])
    expected = np.log(x.double().numpy())
    error = (logarithms(x.clone()).double().numpy() - expected) / np.maximum(np.abs(expected), 1)
    assert np.abs(error).max() < 2 * torch.finfo(dtype).eps
    rows = x[:900].reshape(3, 300).clone()[:, ::3]  # not side by side in memory
    np.testing.assert_allclose(
        logarithms(rows).double(), expected[:900].reshape(3, 300)[:, ::3], rtol=2 * torch.finfo(dtype).eps
    )


def test_what_is_no_number_stays_none() -> None:
    found = logarithms(torch.tensor([1.0, torch.nan, torch.inf]))
    np.testing.assert_array_equal(found, [0.0, np.nan, np.inf])


def test_gradients_are_those_of_a_logarithm() -> None:
    x = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    logarithms(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.5]
    assert x.tolist() == [0.5, 2.0]  # a leaf is left as it was
