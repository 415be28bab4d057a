"""The page about the testbed says what holds, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resonance_lens import testbed

PAGE = (Path(__file__).parents[2] / "docs" / "testbed.md").read_text().split("## Modular addition")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.host
def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        exec(block, names)  # the page's own code
    measured = names["measured"].values
    assert abs(measured - names["planted"]["effect"]).max() < 0.2
    assert "[[0]] [[1]]" in capsys.readouterr().out
    assert names["model"].cfg.model_name == "uniform attention"
    assert not np.isnan(measured).any()


def test_every_circuit_is_described_with_what_its_truth_adds() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE, flags=re.MULTILINE)
    described = dict(row for row in rows if row[0] in {info.name for info in testbed.list_circuits()})
    assert list(described) == [info.name for info in testbed.list_circuits()]
    for name, facts in described.items():
        truth = testbed.load_circuit(name).truth
        assert all(fact in truth for fact in re.findall(r"`(\w+)`", facts))
