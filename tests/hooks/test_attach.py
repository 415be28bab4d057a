"""Where adapters come from: ours, and those of other packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from resonance_lens.errors import AdapterError, PluginWarning
from resonance_lens.hooks import attach
from tests.models import build
from tests.reference_transformer import GPT2

pytestmark = pytest.mark.host


def test_what_no_adapter_serves() -> None:
    with pytest.raises(AdapterError, match="^No adapter serves a builtins.object; give a Transform"):
        attach(object())


def test_an_adapter_is_its_own() -> None:
    adapter = attach(build(GPT2))
    assert attach(adapter) is adapter


class Toy:
    """A host that only another package knows."""


PACKAGE = """
from resonance_lens.facts import Facts
from resonance_lens.hooks import Adapter

class ToyAdapter(Adapter):
    def __init__(self, host):
        self.facts = None

    @classmethod
    def matches(cls, host):
        return type(host).__name__ == "Toy"

    def why_not(self, site, layer): ...
    def run(self, batch, wanted, receive): ...
    def readout(self, residual): ...

not_an_adapter = dict
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs a distribution with one adapter entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("RESONANCE_LENS_PLUGINS", raising=False)
    (tmp_path / "toy_package.py").write_text(PACKAGE)

    def add(package: str, target: str) -> None:
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[resonance_lens.adapters]\ntoy = {target}\n")

    return add


def test_an_adapter_of_another_package(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    install("toy-host", "toy_package:ToyAdapter")
    assert type(attach(Toy())).__name__ == "ToyAdapter"
    monkeypatch.setenv("RESONANCE_LENS_PLUGINS", "others, Toy-Host")
    assert type(attach(Toy())).__name__ == "ToyAdapter"
    for restricted in ("none", "others"):
        monkeypatch.setenv("RESONANCE_LENS_PLUGINS", restricted)
        with pytest.raises(AdapterError, match="No adapter serves a tests.hooks.test_attach.Toy"):
            attach(Toy())


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Adapter", "No module named 'no_such_module'"),
        ("toy_package:NoSuchAdapter", "has no attribute 'NoSuchAdapter'"),
        ("toy_package:not_an_adapter", "is not a subclass of resonance_lens.hooks.Adapter"),
    ],
)
def test_a_broken_package_is_one_warning(install: Callable[..., None], target: str, reason: str) -> None:
    install("broken-host", target)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(AdapterError, match="No adapter serves"):
            attach(Toy())
        attach(build(GPT2))  # our own adapters ask nobody
    assert [warning.category for warning in seen] == [PluginWarning]
    message = str(seen[0].message)
    assert message.startswith("The adapter 'toy' of broken-host is left out: ") and reason in message


def test_two_packages_for_one_host(install: Callable[..., None]) -> None:
    install("toy-host", "toy_package:ToyAdapter")
    install("other-host", "toy_package:ToyAdapter")
    with pytest.raises(AdapterError, match="a .*Toy: other-host, toy-host; uninstall all but one"):
        attach(Toy())
