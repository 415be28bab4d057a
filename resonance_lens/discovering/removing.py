"""What a component is worth to the model: it is taken out in its band, and the next tokens are predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.discovering.asked import Asked
from resonance_lens.errors import ActivationError, RecordError
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.writing import write
from resonance_lens.patching.ground import batch_of, record
from resonance_lens.patching.operations.bands import band_matrix
from resonance_lens.patching.operations.base import Scene
from resonance_lens.patching.operations.directions import RemoveDirections
from resonance_lens.patching.places import Place
from resonance_lens.patching.sweep import generator, put, taken

Floats = NDArray[np.float64]

READ_AT_ONCE = 1024
"""Tokens whose logits are held at one time."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """A component that is taken out, and what stands in for it in the placebo.

    Attributes
    ----------
    layer, band, component
        Which; the band by its number.
    operation
        Takes it out.
    scale
        ``[feature]``: what features are multiplied by to leave the scale on which components are unit
        vectors; zero for a feature that never changes.
    """

    layer: int
    band: int
    component: int
    operation: RemoveDirections
    scale: Tensor
    seed: int

    def removed(self, values: Tensor, scene: Scene, rows: Sequence[str]) -> Tensor:
        """Return values ``[row, token, feature]`` without the component's part of the band."""
        return self.operation.edit(values, scene)

    def placebo(self, values: Tensor, scene: Scene, rows: Sequence[str]) -> Tensor:
        """Return values with as much taken out along a random direction, one for each row.

        The course is that of the component, so that the change has its spectrum, and on scaled features its
        power at every token.
        """
        course = self.operation.taken(values, scene) @ self.operation.reads.double()  # [row, token, 1]
        place = Place(scene.site, self.layer)
        what = f"component {self.band} {self.component}"
        generators = [generator(self.seed, what, place, row) for row in rows]
        drawn = torch.stack([
            torch.randn(len(self.scale), generator=each, dtype=torch.float64) for each in generators
        ])  # fmt: skip
        drawn = torch.where(self.scale > 0, drawn, 0.0)
        other = drawn / drawn.norm(dim=1, keepdim=True) * self.scale
        changed: Tensor = values.double() - course * other[:, None]
        return changed.to(values.dtype)


def why_not(asked: Asked, band: str) -> str:
    """Return why a band cannot be taken out of windows, or an empty string."""
    try:
        band_matrix(band, asked.method, asked.bands.tokens)
    except RecordError as error:
        return str(error)
    return ""


def losses(
    asked: Asked, ablations: Sequence[Ablation], windows: Sequence[int], progress: Callable[[int], object]
) -> Floats:
    """Return the mean loss of next tokens in windows, as they are, without each component, and with placebos.

    Parameters
    ----------
    asked
        What is measured.
    ablations
        Components.
    windows
        Of held-out documents, as many as one pass takes.
    progress
        Told how many windows have been run once more.

    Returns
    -------
    array
        ``[window, 1 + 2 * ablation]`` in nats: as it is, then without each, then the placebo of each.

    Raises
    ------
    ActivationError
        If a loss is not finite.
    """
    rows = [asked.documents.windows[at].tokens for at in windows]
    ids = [f"{asked.documents.ids[asked.documents.windows[at].document]} {at}" for at in windows]
    found = np.full((len(rows), 1 + 2 * len(ablations)), np.nan)
    for column, loss in _Pass(asked, rows, ids, ablations).losses():
        if not bool(torch.isfinite(loss).all()):
            raise ActivationError(
                "The loss is not finite after a component is taken out; load the model in float32."
            )
        found[:, column] = loss.numpy()
        progress(len(rows))
    return found


class _Pass:
    """Some windows: one pass as they are, and one for each change, from its layer on."""

    def __init__(
        self,
        asked: Asked,
        rows: Sequence[Sequence[int]],
        ids: Sequence[str],
        ablations: Sequence[Ablation],
    ) -> None:
        self.asked, self.ids, self.ablations = asked, ids, ablations
        self.adapter: ModelAdapter = asked.adapter
        self.batch = batch_of(rows, range(len(rows)))
        last = self.adapter.facts.n_layers - 1
        layers = sorted({0, *(each.layer for each in ablations)})
        spots = [*(("resid_pre", layer) for layer in layers), ("resid_post", last)]
        kept = record(self.adapter, rows, spots, asked.batch_tokens)
        self.end = kept.pop(("resid_post", last))
        self.entering = {layer: kept["resid_pre", layer] for layer in layers}
        deepest = layers[-1]
        self.resumes = deepest in self.adapter.resumed or self.adapter.resumes(
            self.batch, deepest, self.entering[deepest], self.end
        )
        if self.resumes:
            self.adapter.resumed.add(deepest)

    def losses(self) -> Iterator[tuple[int, Tensor]]:
        """Yield columns of `losses`, as they are made."""
        yield 0, self._loss(self.end)
        n = len(self.ablations)
        for at, each in enumerate(self.ablations):
            for column, change in ((1 + at, each.removed), (1 + n + at, each.placebo)):
                yield column, self._loss(self._changed(each, change))

    def _changed(self, ablation: Ablation, change: Callable[..., Tensor]) -> Tensor:
        place = Place(self.asked.site, ablation.layer)
        scene = Scene(
            site=place.site,
            layer=place.layer,
            head=None,
            facts=self.adapter.facts,
            lengths=self.batch.lengths.to(self.adapter.device),
        )

        def edit(values: Tensor) -> Tensor:
            return put(values, change(taken(values, place), scene, self.ids), place)

        hooks: list[Hook] = write(self.adapter, place.site, place.layer, self.batch, edit)
        start = ablation.layer if self.resumes else 0
        end = self.adapter.resume(self.batch, start, self.entering[start], hooks)
        return self.adapter.common("resid_post", self.adapter.facts.n_layers - 1, end, self.batch)

    def _loss(self, end: Tensor) -> Tensor:
        """Return the mean loss of each window, of what follows each token but the first: ``[window]``."""
        residual, wanted = end[:, 1:-1], self.batch.tokens[:, 2:].to(end.device)
        per_token = [
            torch.nn.functional.cross_entropy(self.adapter.readout(some).float(), ids, reduction="none")
            for some, ids in zip(
                residual.flatten(0, 1).split(READ_AT_ONCE), wanted.flatten().split(READ_AT_ONCE), strict=True
            )
        ]
        return torch.cat(per_token).reshape(wanted.shape).double().mean(1).cpu()
