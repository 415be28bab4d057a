"""Gains in decibels: 20 times the logarithm of a ratio of sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resonance_lens.views.content import Line, Numbers, Panel

DECIBELS = "dB"

NOTHING = -400.0
"""Decibels of a bound that reaches down to zero: far below every axis."""


def decibels(ratios: Numbers) -> Numbers:
    """Return ratios of sizes in decibels; what is not above zero has none.

    Examples
    --------
    >>> decibels(np.array([1.0, 10.0, 0.5, 0.0])).round(2).tolist()
    [0.0, 20.0, -6.02, nan]
    """
    return 20 * np.log10(np.where(ratios > 0, ratios, np.nan))


def in_decibels(panel: Panel) -> Panel:
    """Return a panel of gains in decibels, its zero that what comes out is as large as what went in."""
    return replace(panel, units=DECIBELS, lines=tuple(map(_line, panel.lines)), zero=True)


def _line(line: Line) -> Line:
    points = None if line.points is None else decibels(line.points)
    return replace(line, y=decibels(line.y), low=_bound(line.low), high=_bound(line.high), points=points)


def _bound(ratios: Numbers | None) -> Numbers | None:
    """Return a bound in decibels, which unlike a value may reach down to zero."""
    if ratios is None:
        return None
    return np.where(ratios <= 0, NOTHING, decibels(ratios))
