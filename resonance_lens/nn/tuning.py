"""Rhythms that one class of records has and the others have not: what an oscillator bank is tuned to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.errors import ParameterError, wrong_parameter

STEPS = 48
"""Steps of the fine search round a peak, over the width of a record's resolution; a parabola goes between."""


@dataclass(frozen=True, eq=False)
class Rhythm:
    """A sinusoid in one direction of the features, stronger in one class.

    Attributes
    ----------
    frequency
        In cycles per token.
    direction
        ``[feature]``, complex, of norm 1: ``conj(direction) . x(t)`` is the signal.
    label
        The class that has it.
    score
        Welch's t of its power between that class and the others, on the records that it was looked for in:
        the largest of many, so no test.
    """

    frequency: float
    direction: Tensor
    label: int
    score: float


def rhythms(
    x: Tensor, lengths: Tensor, labels: Tensor, fmin: float, fmax: float, n_most: int
) -> list[Rhythm]:
    """Return the rhythms that tell classes of records apart, the clearest first.

    Parameters
    ----------
    x
        Features ``[record, token, feature]``, zero beyond a record.
    lengths
        Real tokens of each record.
    labels
        Classes ``[record]``, two or more, each of two records or more.
    fmin, fmax
        In cycles per token.
    n_most
        Rhythms that are wanted; there are fewer if the records cannot tell more apart.

    Notes
    -----
    The power of a record at a frequency is what a sinusoid beside a constant explains of it by least squares:
    neither the mean nor the mirror image at minus the frequency, which moves the peak of a Fourier transform
    of few cycles, plays a part. On a grid of half of a record's resolution, ``1 / (2 T)``, the direction is
    the first eigenvector of the mean cross-spectral matrix of a class minus that of the others. Frequencies
    with the largest t that lie at least ``1.5 / T`` apart are kept, and each is then placed where, in its
    direction, the difference in mean power is largest.
    """
    mean_length = float(lengths.double().mean())
    n_grid = math.ceil((fmax - fmin) * 2 * mean_length) + 1
    grid = torch.linspace(fmin, fmax, n_grid).to(x)
    at_grid = _coefficients(x, lengths, grid)  # [record, frequency, feature]
    classes = [int(one) for one in labels.unique()]
    found = [_of_class(at_grid, labels == one) for one in classes]
    scores, which = torch.stack([score for score, _ in found]).max(0)
    kept: list[Rhythm] = []
    free = torch.ones(n_grid, dtype=torch.bool, device=x.device)
    for k in scores.argsort(descending=True).tolist():
        if free[k] and len(kept) < n_most:
            free &= (grid - grid[k]).abs() >= 1.5 / mean_length
            one, direction = classes[int(which[k])], found[int(which[k])][1][k]
            near = grid[k] + torch.linspace(-0.5, 0.5, STEPS + 1).to(x) / mean_length
            near = near[(near > 0) & (near < 0.5)]
            frequency = _placed(x, lengths, labels == one, direction, near)
            kept.append(Rhythm(min(max(frequency, fmin), fmax), direction, one, float(scores[k])))
    return kept


def _coefficients(x: Tensor, lengths: Tensor, frequencies: Tensor) -> Tensor:
    """Return ``[record, frequency, feature]``, whose squared modulus is what a sinusoid explains."""
    t = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    angle = 2 * math.pi * frequencies.to(x)[:, None] * t
    basis = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], dim=-1)
    shape = (len(x), len(frequencies), x.shape[2])
    found = torch.zeros(shape, dtype=x.dtype.to_complex(), device=x.device)
    for n in lengths.unique().tolist():
        own = lengths == n
        q = torch.linalg.qr(basis[:, :n]).Q
        wave = torch.complex(q[..., 1], -q[..., 2])  # [frequency, token]
        found[own] = torch.einsum("ft,ntd->nfd", wave, x[own, :n].to(wave.dtype))
    return found


def _of_class(at_grid: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return Welch's t ``[frequency]`` of the power, and directions ``[frequency, feature]``, of a class."""
    inside, outside = at_grid[own], at_grid[~own]
    more = _cross(inside) - _cross(outside)
    directions = torch.linalg.eigh(more).eigenvectors[..., -1]
    power = torch.einsum("nfd,fd->nf", at_grid, directions.conj()).abs().square()
    a, b = power[own], power[~own]
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return (a.mean(0) - b.mean(0)) / error.clamp_min(torch.finfo(error.dtype).tiny), directions


def _cross(z: Tensor) -> Tensor:
    """Return the mean cross-spectral matrix ``[frequency, feature, feature]``."""
    return torch.einsum("nfd,nfe->fde", z, z.conj()) / len(z)


def _placed(x: Tensor, lengths: Tensor, own: Tensor, direction: Tensor, near: Tensor) -> float:
    """Return where the power in a direction differs most between a class and the others."""
    signal = x.to(direction.dtype) @ direction.conj()
    parts = torch.stack([signal.real, signal.imag], dim=-1)
    power = _coefficients(parts, lengths, near).abs().square().sum(-1)  # [record, frequency]
    more = power[own].mean(0) - power[~own].mean(0)
    k = int(more.argmax())
    if not 0 < k < len(near) - 1:
        return float(near[k])
    before, peak, after = more[k - 1 : k + 2].tolist()
    bend = before - 2 * peak + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(near[k]) + shift * float(near[1] - near[0])


def discriminant(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return weights ``[class, feature]`` and biases ``[class]`` of Fisher's linear discriminant.

    The covariance that classes share gets a thousandth of its mean variance on its diagonal: records may be
    fewer than features, and a feature may be constant.
    """
    counts = torch.bincount(labels, minlength=n_classes).to(features)
    means = torch.stack([features[labels == one].mean(0) for one in range(n_classes)])
    off = features - means[labels]
    shared = off.T @ off / len(features)
    ridge = 1e-3 * shared.diagonal().mean() + torch.finfo(shared.dtype).eps
    shared = shared + ridge * torch.eye(len(shared)).to(shared)
    weight = torch.linalg.solve(shared, means.T).T
    return weight, (counts / counts.sum()).log() - 0.5 * (weight * means).sum(1)


def require_classes(owner: str, labels: Tensor, n_records: int, n_classes: int) -> None:
    """Raise `ParameterError` unless labels are one for each record, and each class has two records."""
    wanted = f"{n_records} integers, each from 0 to {n_classes - 1} at least twice"
    whole = labels.shape == (n_records,) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        got = (tuple(labels.shape), labels.dtype) if not whole else labels.unique().tolist()
        raise ParameterError(wrong_parameter(owner, "labels", wanted, got))
    counts = torch.bincount(labels, minlength=n_classes)
    if int(counts.min()) < 2:
        raise ParameterError(wrong_parameter(owner, "labels", wanted, f"counts {counts.tolist()}"))
