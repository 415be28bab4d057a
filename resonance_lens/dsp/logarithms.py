"""Natural logarithms of many numbers at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def logarithms(values: Tensor) -> Tensor:
    """Return the natural logarithms of positive numbers, written over the numbers where that can be.

    On the CPU they are numpy's: torch calls those of Intel's Math Kernel Library, which on processors of AMD
    take ten times as long. Differentiable, by torch's own.
    """
    if values.requires_grad or values.device.type != "cpu" or values.dtype not in _OF_NUMPY:
        return values.log()
    array = values.numpy()
    np.log(array, out=array)
    return values


_OF_NUMPY = (torch.float32, torch.float64)
