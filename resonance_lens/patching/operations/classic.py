"""The classic interventions: put other values in place of a site's, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import parameter
from resonance_lens.errors import RecordError
from resonance_lens.hooks.adapter import HOOK_NAMES
from resonance_lens.patching.operations.base import TOKEN_SITES, Operation, Scene, operation

MEANT_SITES = (*TOKEN_SITES, "pattern")
"""Sites whose values have a mean over prompts; some scores are minus infinity."""


@operation
@dataclass(frozen=True, kw_only=True)
class Patch(Operation):
    """Put the other run's values in place of this run's."""

    name: ClassVar[str] = "patch"
    sites: ClassVar[tuple[str, ...]] = tuple(HOOK_NAMES)
    donor: ClassVar[bool] = True

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the donor's values; see `Operation.edit`."""
        self.require(values, scene)
        assert scene.donor is not None
        return torch.where(scene.mask(values), scene.donor.to(values), values)


@operation
@dataclass(frozen=True, kw_only=True)
class MeanAblate(Operation):
    """Put the mean over prompts in place of the values.

    A mean over tokens holds a share of the first position, whose norm is many times that of the others,
    unless it was made without it; ``first_position="keep"`` leaves the position itself alone. At
    ``pattern`` the mean is by query and key, and divided by its sum in the row.
    """

    name: ClassVar[str] = "mean_ablate"
    sites: ClassVar[tuple[str, ...]] = MEANT_SITES
    wants: ClassVar[tuple[str, ...]] = ("mean",)

    first_position: str = parameter(
        "edit", choices=("edit", "keep"), help="whether the first position is edited; always at pattern"
    )

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the mean at every token; see `Operation.edit`."""
        self.require(values, scene)
        assert scene.mean is not None
        mean, mask = scene.mean.to(values), scene.mask(values, self.first_position)
        wanted = values.shape[1:]
        by_position = scene.square or mean.ndim == 2
        if scene.square:
            mean = mean[..., : wanted[-2], : wanted[-1]]
        elif by_position:
            mean = mean[: wanted[0]]
        if mean.shape != (wanted if by_position else wanted[-1:]):
            raise RecordError(
                f"mean_ablate needs a mean for values of shape {tuple(wanted)} in each row; got one of shape "
                f"{tuple(scene.mean.shape)}."
            )
        if scene.square:
            mean = mean * mask
            total = mean.sum(-1, keepdim=True)
            mean, mask = mean / torch.where(total > 0, total, 1.0), mask & (total > 0)
        return torch.where(mask, mean, values)


@operation
@dataclass(frozen=True, kw_only=True)
class ResampleAblate(Operation):
    """Put the values of another prompt of the same length in place of this one's.

    The other prompt is the donor if there is one; else another row of the same length, drawn at random.
    """

    name: ClassVar[str] = "resample_ablate"
    sites: ClassVar[tuple[str, ...]] = tuple(HOOK_NAMES)
    resamples: ClassVar[bool] = True
    wants: ClassVar[tuple[str, ...]] = ("generators",)

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return another prompt's values; see `Operation.edit`."""
        self.require(values, scene, wants=self.wants if scene.donor is None else ())
        others = values[self._draw(scene)] if scene.donor is None else scene.donor.to(values)
        return torch.where(scene.mask(values), others, values)

    def _draw(self, scene: Scene) -> Tensor:
        lengths = scene.lengths.tolist()
        chosen = []
        for row, length in enumerate(lengths):
            alike = [other for other, n in enumerate(lengths) if n == length and other != row]
            if not alike:
                raise RecordError(
                    f"resample_ablate found no other prompt of {length} tokens to take values from; give "
                    "more prompts of that length, or a donor."
                )
            pick = torch.randint(len(alike), (1,), generator=scene.generator(row))
            chosen.append(alike[int(pick)])
        return torch.tensor(chosen, device=scene.lengths.device)


@operation
@dataclass(frozen=True, kw_only=True)
class ZeroAblate(Operation):
    """Put zeros in place of the values."""

    name: ClassVar[str] = "zero_ablate"
    sites: ClassVar[tuple[str, ...]] = TOKEN_SITES

    first_position: str = parameter(
        "edit", choices=("edit", "keep"), help="whether the first position is edited"
    )

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return zeros; see `Operation.edit`."""
        self.require(values, scene)
        return values.masked_fill(scene.mask(values, self.first_position), 0.0)
