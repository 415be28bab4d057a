"""What a linear probe reads, as something that can be taken out of activations, and as much of anything else.

Taking out the span of a probe's weights would leave what features that go with it still tell, and take out
more than the label wants. Here that part of the features goes which the label explains: along the
differences between class means, as much of it as the probe's weights see. Afterwards the probe says the same
of every token, and all classes have one mean, so that on the tokens of training no linear probe can do
better than a constant (Belrose et al. 2023). With weights of the closed form without shrinkage it is their
least-squares concept erasure (LEACE).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

from resonance_lens.errors import PromptError
from resonance_lens.patching.operations.base import Scene
from resonance_lens.patching.operations.directions import RemoveDirections
from resonance_lens.probing.linear import LinearFitted
from resonance_lens.stats.scatter import Scatter

Floats = NDArray[np.float64]

FAINT = 1e-6
"""Relative to the strongest: what single precision cannot tell from nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoveRead(RemoveDirections):
    """Take directions out of a band along tokens, down to what they are on average.

    Attributes
    ----------
    mean
        ``[feature]``: what stays of the directions at every token.
    """

    mean: Tensor

    def taken(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the part of the values, less their mean; see `RemoveDirections.taken`."""
        return super().taken(values.double() - self.mean.to(values.device), scene)

    def power(self, sums: Scatter) -> float:
        """Return the mean square of what is taken out, over the rows of the sums of a band."""
        reads, writes = self.reads.numpy(), self.writes.numpy()
        seen = reads.T @ sums.covariance() @ reads
        return float(np.trace(writes @ seen @ writes.T))


def remove_read(fitted: LinearFitted, sums: Scatter, band: str, method: str) -> RemoveRead:
    """Return the operation that takes out what a linear probe reads its label from.

    Parameters
    ----------
    fitted
        The probe.
    sums
        Of the tokens that it was trained on, in its band, the label itself first among the targets.
    band, method
        Of the features.

    Raises
    ------
    PromptError
        If the probe reads nothing.

    Notes
    -----
    With weights W and differences D between class means and the overall mean, both ``[feature, class]`` and
    reduced to one dimension less than there are classes, ``D (W'D)^+ W'`` of the features' deviation from
    their mean goes. For an ordered label D is its covariance with the features.
    """
    weight = fitted.weight.double().numpy()
    mean = sums.x / sums.count
    if fitted.kind == "ordered":
        differences = sums.xy[:, :1] / sums.count - mean[:, None] * sums.y[:1] / sums.count
    else:
        counts = sums.y[: weight.shape[1]]
        there = counts > 0
        differences = sums.xy[:, : len(counts)][:, there] / counts[there] - mean[:, None]
        # What all classes have in common decides nothing.
        contrasts = linalg.null_space(np.ones((1, int(there.sum()))))
        weight, differences = weight[:, there] @ contrasts, differences @ contrasts
    left, values, right = np.linalg.svd(weight.T @ differences)
    seen = values > FAINT * values.max(initial=0.0)
    if not bool(seen.any()):
        raise PromptError(
            f"There is nothing to take out in the band {band!r}: the probe's weights there are all zero."
        )
    return _operation(sums, weight @ left[:, seen], differences @ right[seen].T / values[seen], band, method)


def remove_at_random(
    sums: Scatter, power: float, rng: np.random.Generator, band: str, method: str
) -> RemoveRead:
    """Return the operation that takes out directions drawn among those that features vary in.

    Each is what the erasure of a label of random numbers would take out. A direction drawn with equal chances
    from all would mostly hold nothing that the model ever sees.

    Parameters
    ----------
    sums
        Of the features.
    power
        Mean square of what goes: as many directions are drawn as hold at least so much, if there is as much.
    rng
        Random stream.
    band, method
        Of the features.
    """
    values, vectors = np.linalg.eigh(sums.covariance())
    moving = values > np.finfo(np.float64).eps * len(values) * values.max(initial=0.0)
    drawn = np.linalg.qr(rng.standard_normal((int(moving.sum()),) * 2))[0]
    reads = (vectors[:, moving] / np.sqrt(values[moving])) @ drawn
    writes = (vectors[:, moving] * np.sqrt(values[moving])) @ drawn
    held = np.cumsum((writes**2).sum(0))
    rank = min(int(np.searchsorted(held, power)) + 1, len(held))
    return _operation(sums, reads[:, :rank], writes[:, :rank], band, method)


def _operation(sums: Scatter, reads: Floats, writes: Floats, band: str, method: str) -> RemoveRead:
    mean = sums.shift.double() + torch.from_numpy(sums.x / sums.count)
    return RemoveRead(
        band=band, method=method, mean=mean, reads=torch.from_numpy(reads), writes=torch.from_numpy(writes)
    )
