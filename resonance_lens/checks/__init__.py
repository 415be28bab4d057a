"""What every analysis must hold to, one small function for each thing; `resonance_lens.testing` runs them.

A check takes an analysis (a class, or an instance with parameters) and an adapter of a host, and
raises `AssertionError` with a sentence that says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from resonance_lens.checks import calibrated, declared, hosts, limits, numbers, results
from resonance_lens.checks.common import Subject
from resonance_lens.hooks.adapter import Adapter

Check = Callable[[Subject, Adapter | None], None]

CHECKS: tuple[Check, ...] = (
    *declared.CHECKS,
    *numbers.CHECKS,
    *limits.CHECKS,
    *results.CHECKS,
    *calibrated.CHECKS,
)
"""Checks on input that the analysis plants itself; they need no model."""

HOST_CHECKS: tuple[Check, ...] = hosts.CHECKS
"""Checks on a real model."""
