"""What conftest.py does: a test cannot leave this machine, and long files come first."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NetworkAccess, pytest_collection_modifyitems


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


def test_files_with_a_slow_test_come_first_in_order(request: pytest.FixtureRequest) -> None:
    items: list[Any] = []
    for name, file in zip("abcde", ("one", "two", "two", "three", "two"), strict=True):
        item: Any = pytest.Function.from_parent(request.node.parent, name=name, callobj=lambda: None)
        item.path = Path(file)
        items.append(item)
    items[2].add_marker("slow")
    pytest_collection_modifyitems(items)
    assert [each.name for each in items] == ["b", "c", "e", "a", "d"]
