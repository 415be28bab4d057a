"""The guard in conftest.py holds: a test cannot leave this machine."""

from __future__ import annotations

import os
import socket

import pytest

from tests.conftest import NetworkAccess


def test_offline_is_said_to_the_hub() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_name_cannot_be_looked_up() -> None:
    with pytest.raises(NetworkAccess, match="looked up 'example.org'"):
        socket.create_connection(("example.org", 80))


@pytest.mark.parametrize("way", ["connect", "connect_ex"])
def test_an_address_cannot_be_reached(way: str) -> None:
    with socket.socket() as ours, pytest.raises(NetworkAccess, match=r"192\.0\.2\.1"):
        getattr(ours, way)(("192.0.2.1", 80))  # an address reserved for documentation


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()
