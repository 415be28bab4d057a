"""The page on writing an analysis: its template works as it stands, and so does the rest of its code."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resonance_lens import registry
from resonance_lens.contract import EVIDENCE
from resonance_lens.dsp.large import one_thread
from resonance_lens.facts import SITE_AXES
from resonance_lens.testing import check_analysis
from tests.models import build
from tests.reference_transformer import GPT2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "write-an-analysis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TEMPLATE = next(code for language, code in BLOCKS if "@register" in code)


@pytest.fixture
def template(tmp_path: Path) -> Iterator[ModuleType]:
    """Import the template as the file that a user would make of it, and forget it afterwards."""
    path = tmp_path / "attention_at_lag.py"
    path.write_text(TEMPLATE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("a_users_attention_at_lag", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]
        registry._registered.pop("attention_at_lag", None)


def test_the_template_is_registered_and_passes_every_check(template: ModuleType) -> None:
    cls: Any = template.AttentionAtLag
    assert registry.catalogue()["attention_at_lag"].package == "this session"
    check_analysis(cls, build(GPT2))
    check_analysis(cls(lag=3))
    assert registry.get_analysis("attention_at_lag") is cls


def test_the_other_code_runs(template: ModuleType) -> None:
    names: dict[str, Any] = vars(template)
    others = [code for language, code in BLOCKS if language == "python" and code != TEMPLATE]
    assert len(others) == 2
    with one_thread():
        for code in others:
            exec(code, names)
    assert names["data"].weight.dims == ("category", "layer", "head")


def test_the_entry_point_is_one(template: ModuleType) -> None:
    (toml,) = (code for language, code in BLOCKS if language == "toml")
    (group,) = tomllib.loads(toml)["project"]["entry-points"]
    assert group == "resonance_lens.analyses"
    (point,) = tomllib.loads(toml)["project"]["entry-points"][group].items()
    assert point[0] == template.AttentionAtLag.name
    assert point[1].endswith(f"{template.AttentionAtLag.name}:AttentionAtLag")


def test_what_the_page_names_exists() -> None:
    declared = re.findall(r"^\| `(\w+)` \|", PAGE.split("## 2.")[0], re.MULTILINE)
    assert set(registry.DECLARED) | {"undefined"} == set(declared)
    sites = next(line for line in PAGE.splitlines() if line.startswith("| `sites`"))
    assert set(re.findall(r"`(\w+)`", sites)) - {"sites"} <= set(SITE_AXES)
    evidence = next(line for line in PAGE.splitlines() if line.startswith("| `evidence`"))
    assert set(re.findall(r"`(\w+)`", evidence)) - {"evidence"} == set(EVIDENCE)
