"""Room and threads for large results, such as matrices of all pairs of heads at every frequency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def large_empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a tensor that holds nothing yet, of the type and on the device of ``like``.

    On the CPU the room is numpy's, which asks the system for large pages: to come by the 75 MB of all pairs
    of 270 heads in pages of 4 kB takes as long as to work out what goes into them.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.new_empty(0).numpy().dtype))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread, for loops over matrices that take well under a millisecond each.

    After each of them threads wait for the slowest: on two idle processors little is won by the second, and
    where something else ran as well, two threads took 25 times as long as one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
