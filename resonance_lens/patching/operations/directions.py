"""Take directions of the features out, in a band along tokens: what a probe reads, or a component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.errors import ParameterError
from resonance_lens.patching.operations.bands import RemoveBand
from resonance_lens.patching.operations.base import Operation, Scene


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoveDirections(RemoveBand):
    """Take what a band along tokens has along some directions out, and keep the rest.

    It is not in listings: its directions are data, that no command line could spell. With ``band="all"``
    directions go at all frequencies, and nothing looks ahead.

    Attributes
    ----------
    reads
        ``[feature, direction]``: the course of each direction is ``values @ reads``.
    writes
        ``[feature, direction]``: what is subtracted, for each unit of the course. ``reads.T @ writes`` is the
        identity, so that nothing is left to read; for an orthogonal projection both are the same.
    """

    name: ClassVar[str] = "remove_directions"

    reads: Tensor
    writes: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        shapes = tuple(self.reads.shape), tuple(self.writes.shape)
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not shapes[0][1]:
            raise ParameterError(
                f"{self.name} reads and writes directions [feature, direction], at least one and as many "
                f"of each; got shapes {shapes[0]} and {shapes[1]}."
            )
        product = self.reads.double().T @ self.writes.double()
        if not torch.allclose(product, torch.eye(len(product), dtype=torch.float64), atol=1e-4):
            raise ParameterError(
                f"{self.name} takes out what it reads only if reads.T @ writes is the identity; scale its "
                "directions so that it is."
            )

    @property
    def label(self) -> str:
        """How many directions, and the band."""
        return f"{self.name} {self.reads.shape[1]} band={self.band} method={self.method}"

    def taken(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the part of values in the band and along the directions: float64, shaped like the values."""
        if values.shape[-1] != len(self.reads):
            raise ParameterError(
                f"{self.name} has directions of {len(self.reads)} features, and {scene.site!r} has "
                f"{values.shape[-1]}."
            )
        courses = super().taken(values.double() @ self.reads.to(values.device, torch.float64), scene)
        return courses @ self.writes.to(values.device, torch.float64).T

    def complement(self) -> Operation | None:
        """There is none: what is left alone is the rest of the features, and other bands of these."""
        return None
