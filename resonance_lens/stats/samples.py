"""What a claim is tested on: values beside their null, in units that can be exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["prompt", "group"]

RESOLUTION = 1e-5
"""Relative: a value and its null that agree to this are the same number in float32. Relative to the larger
of them, or to the scale of the claim where both are next to nothing."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A value and the mean of its null in every unit, tested by flipping the sign of their difference.

    Attributes
    ----------
    value, null
        ``[unit, ...]``, alike in shape; not-a-number where the quantity does not exist.
    unit
        What a unit is: a ``prompt``, or a ``group`` of prompts (the estimates of a jackknife).
    scale
        What is no smaller than a rounding error: the smallest effect that counts.
    """

    value: NDArray[Any]
    null: NDArray[Any]
    unit: Unit = "prompt"
    scale: float = 0.0

    @property
    def difference(self) -> NDArray[Any]:
        """Value minus null; exactly zero where they differ by less than float32 can tell."""
        difference = self.value - self.null
        size = np.maximum(np.maximum(np.abs(self.value), np.abs(self.null)), self.scale)
        return np.where(np.abs(difference) <= RESOLUTION * size, 0.0, difference)


@dataclass(frozen=True, eq=False)
class Surrogates:
    """A value and draws of its null, the same draw for every place.

    Attributes
    ----------
    value
        ``[...]``; not-a-number where the quantity does not exist.
    draws
        ``[draw, ...]``; none where the null was drawn for all prompts together, and not for a category.
    estimates
        Value and null by unit, of which effects and bounds are made. Without them the effect is the value
        minus the mean draw, and has no bounds.
    scale
        As of a `Sample`.
    """

    value: NDArray[Any]
    draws: NDArray[Any]
    estimates: Sample | None = None
    scale: float = 0.0

    unit: Literal["draw"] = "draw"


AnySample = Sample | Surrogates


def scaled(sample: AnySample, scale: float) -> AnySample:
    """Return a sample, and its estimates, with the scale of its claim."""
    if isinstance(sample, Sample):
        return replace(sample, scale=scale)
    estimates = None if sample.estimates is None else replace(sample.estimates, scale=scale)
    return replace(sample, estimates=estimates, scale=scale)


def estimates_of(sample: AnySample) -> Sample | None:
    """Return values beside their null by unit, where there are any."""
    return sample if isinstance(sample, Sample) else sample.estimates


def of_prompts(
    value: NDArray[Any], null: NDArray[Any], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, AnySample]:
    """Return the sample of each category from one row of value and null for each prompt.

    Parameters
    ----------
    value, null
        ``[prompt, ...]``.
    groups
        Which prompts belong to each category: ``Accumulated.groups``.
    """
    return {category: Sample(value[members], null[members]) for category, members in groups.items()}


def of_jackknife(
    value: NDArray[Any],
    null: NDArray[Any],
    value_without: Sequence[NDArray[Any]],
    null_without: Sequence[NDArray[Any]],
) -> Sample:
    """Return a sample of groups from estimates that each leave one group of prompts out.

    Each group counts as its pseudo-value, shifted so that their mean is the estimate from all prompts:
    ``whole + (g - 1) (mean - without_b)`` (Tukey 1958). They are nearly independent, and the Student
    interval around their mean is the jackknife's.

    Parameters
    ----------
    value, null
        The estimates from all prompts, ``[...]``.
    value_without, null_without
        One estimate for each group left out. For fewer than two there is one unit: the whole.
    """
    if len(value_without) < 2:
        return Sample(value[None], null[None], "group")
    return Sample(_pseudo(value, value_without), _pseudo(null, null_without), "group")


def _pseudo(whole: NDArray[Any], without: Sequence[NDArray[Any]]) -> NDArray[Any]:
    estimates = np.stack(without)
    return np.asarray(whole + (len(without) - 1) * (estimates.mean(axis=0) - estimates))
