"""What holds for every test: no network, no screen, one thread, and no clock in property tests."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so it is set first
os.environ["MPLBACKEND"] = "Agg"

import ipaddress
import socket
from typing import Any

import pytest
import torch
from hypothesis import settings

# Tiny models are slower on several threads than on one, and much slower on a busy machine.
torch.set_num_threads(1)
settings.register_profile("resonance_lens", deadline=None)
settings.load_profile("resonance_lens")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: what takes long must not begin when another process is done.

    By itself pytest-xdist begins with the files that have most tests, and ends with the slowest.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class NetworkAccess(AssertionError):
    """A test tried to leave this machine."""


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stay_local(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise NetworkAccess(f"A test may not reach the network; it tried {address!r}.")
        return connect(self, address)

    return guarded


def _look_up(getaddrinfo: Any) -> Any:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and not _is_local(name):
            raise NetworkAccess(f"A test may not reach the network; it looked up {host!r}.")
        return getaddrinfo(host, *args, **kwargs)

    return guarded


# In place before anything is imported by a test, so that imports cannot reach out either.
socket.socket.connect = _stay_local(socket.socket.connect)  # type: ignore[method-assign]
socket.socket.connect_ex = _stay_local(socket.socket.connect_ex)  # type: ignore[method-assign]
socket.getaddrinfo = _look_up(socket.getaddrinfo)
