"""Runs to draw."""

from __future__ import annotations

import pytest

from resonance_lens.runs import Run
from tests.views.example_run import make_run


@pytest.fixture(scope="session")
def run() -> Run:
    """A run of ordinary prompts."""
    return make_run()


@pytest.fixture(scope="session")
def hostile_run() -> Run:
    """A run whose tokens, ids and categories try to become markup."""
    return make_run(hostile=True)
