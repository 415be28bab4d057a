"""On SmolLM2, whose heads are real: attribution against exact patching, and against known induction heads.

The limits were set after the first numbers were seen: they guard what was found, and are no independent
evidence for it. The numbers over all 270 heads are in docs/patching.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import resonance_lens as rl
from tests.models import smollm2

pytestmark = pytest.mark.slow

K = 8


@cache
def swept() -> Any:
    """Return the top of all 270 heads by attribution, patched exactly, and as many others."""
    pairs = rl.prompt_pairs("induction", smollm2(), n_pairs=4)
    return rl.patch(smollm2(), pairs, prescreen=K, controls=(), progress=False)


def test_attribution_finds_heads_that_matter() -> None:
    data = swept().data.isel(operation=0)
    assert data.sizes["target"] == 270 and int(data.effect.notnull().sum()) == 2 * K
    top = np.argsort(-np.abs(data.attribution.values))[:K]
    others = np.setdiff1d(np.flatnonzero(data.effect.notnull().values), top)
    size = np.abs(data.effect.values)
    assert np.median(size[top]) > 5 * np.median(size[others])


def test_the_strongest_head_is_found() -> None:
    """Its gradient at the unpatched run is next to nothing; see docs/patching.md."""
    data = swept().data.isel(operation=0)
    strongest = str(data.target[int(np.nanargmax(data.effect.values))].item())
    assert strongest == "L16H0"
    assert float(data.normalized.max()) > 0.4
    (found,) = swept().provenance["attribution"]
    assert found["overlap"] >= 0.75
