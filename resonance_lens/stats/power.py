"""What a number of prompts could have found: the smallest effect, before anything runs."""

from __future__ import annotations

import math

from scipy import optimize, stats

from resonance_lens.stats.inference import LEVEL

POWER = 0.8
"""The chance of finding it that an effect is called detectable at."""


def detectable_effect(
    n_units: int, n_places: int = 1, *, level: float = LEVEL, power: float = POWER
) -> float:
    """Return the smallest standardised effect that a family of places finds with the given power.

    The effect is in standard deviations between units (prompts). Of the two-sided Student test at
    ``level / n_places``, from its noncentral distribution (Cohen 1988, chapter 2). The q of
    `resonance_lens.stats.inference` finds such an effect less often where units are few, because it
    allows for skew: docs/inference.md has the figures.

    Parameters
    ----------
    n_units
        Prompts, or groups of prompts; at least 2.
    n_places
        Size of the family.
    level, power
        Between 0 and 1.

    Returns
    -------
    float
        Infinite for fewer than 2 units.
    """
    if n_units < 2:
        return math.inf
    freedom = n_units - 1
    critical = stats.t.isf(level / n_places / 2, df=freedom)

    def missing(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(n_units)) - power)

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high))
