"""What the checks have in common: instances, planted input, and how results are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.contract import Analysis, Planted
from resonance_lens.result import Result
from resonance_lens.trials import PlantedAdapter, result_of

Subject = Analysis | type[Analysis]
"""An analysis class, whose defaults are checked, or an instance with parameters."""

SEEDS = (0, 1, 2)
"""Of what is planted, where one might be luck."""

SEEDED = ("_low", "_high", "_p", "_q", "_null", "_effect", "_effect_size")
"""Ends of the names of variables that may depend on the seed: bounds, tests, and nulls that are drawn."""

DEALT = (*SEEDED, "_effect_group", "_specimen", "scope_drive", "scope_response")
"""Those that may depend on which prompts share a jackknife group, and on which prompt is the first."""

STEEP = ("_p", "_q", "_effect_size", "_correlation_prompt")
"""Those that rounding may move far: steps, and ratios to a spread that may be next to nothing. What they are
made of is compared beside them."""

EXACTLY = 0.0
CLOSELY = 1e-5
"""Relative to the largest value of a variable: what may differ between a batch and its rows."""


def made(subject: Subject) -> Analysis:
    """Return an instance."""
    return subject() if isinstance(subject, type) else subject


def class_of(subject: Subject) -> type[Analysis]:
    """Return the class."""
    return subject if isinstance(subject, type) else type(subject)


def require(condition: object, sentence: str) -> None:
    """Raise `AssertionError` with a sentence unless a condition holds."""
    if not condition:
        raise AssertionError(sentence)


def planted(analysis: Analysis, seed: int = 0) -> Planted:
    """Return input with something to find."""
    return analysis.plant(np.random.default_rng(seed))


def empty(analysis: Analysis, seed: int = 0) -> Planted:
    """Return input with nothing to find."""
    return analysis.null(np.random.default_rng(seed))


def concluded_from(analysis: Analysis, source: Planted, *, by_category: bool = False) -> Result:
    """Return the whole result of planted input, every other prompt in another category if wanted."""
    adapter = PlantedAdapter(source)
    rows = adapter.tokens()
    categories = [("even", "odd")[row % 2] for row in range(len(rows))] if by_category else None
    return result_of(analysis, adapter, rows, categories=categories)


def attempt(what: str, act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns; an error becomes a sentence that starts with ``what``."""
    try:
        return act()
    except Exception as error:
        raise AssertionError(f"{what} fails with {type(error).__name__}: {error}") from error


def difference(
    one: xr.Dataset,
    other: xr.Dataset,
    tolerance: float,
    *,
    smallest: float = 0.0,
    without: tuple[str, ...] = (),
) -> str | None:
    """Return how two results differ, as a phrase, or ``None`` if they do not.

    Parameters
    ----------
    one, other
        The datasets.
    tolerance
        Relative to the largest value of each variable; above zero, `STEEP` variables are left out.
    smallest
        A scale below which no variable is taken to be; the smallest effect that counts is one.
    without
        Ends of the names of variables that are left out.
    """
    if set(one.data_vars) != set(other.data_vars):
        names = ", ".join(sorted(map(str, set(one.data_vars) ^ set(other.data_vars))))
        return f"only one of them has {names}"
    for name in map(str, one.data_vars):
        if name.endswith(without) or (tolerance > 0 and name.endswith(STEEP)):
            continue
        a, b = one[name], other[name]
        if a.dims != b.dims or a.shape != b.shape:
            return f"{name!r} has shape {a.shape} in one and {b.shape} in the other"
        found = differing(a.values, b.values, tolerance, smallest)
        if found:
            return f"{name!r} {found}"
    return None


def differing(
    a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], tolerance: float, smallest: float = 0.0
) -> str | None:
    """Return how two arrays differ, as a phrase, or ``None``; see `difference`."""
    if a.dtype.kind not in "fciub":
        return None if np.array_equal(a, b) else "is not the same"
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return "is not-a-number in one and a number in the other"
    known = ~np.isnan(a)
    if np.array_equal(a[known], b[known]):
        return None
    if not (np.isfinite(a[known]).all() and np.isfinite(b[known]).all()):
        return "is infinite"
    scale = max(float(np.abs(a[known]).max()), smallest)
    worst = float(np.abs(a[known] - b[known]).max())
    if worst <= tolerance * scale:
        return None
    return f"differs by {worst:.2g} where it is up to {scale:.2g}"
