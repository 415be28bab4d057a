"""Documents made up of numbers, with a component in them, or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, signal

from resonance_lens.discovering.learning import Bands, Learned, learn, prism_bands
from resonance_lens.discovering.measuring import Measured, measure, signed_ranks
from resonance_lens.stats.inference import infer
from resonance_lens.stats.samples import Sample

TOKENS, FEATURES, WINDOWS = 96, 16, 2
BANDS = Bands.of(prism_bands(), TOKENS)

Make = Callable[[np.random.Generator, int], list[torch.Tensor]]


def unit(rng: np.random.Generator, n: int = FEATURES) -> NDArray[np.float64]:
    """Return a random direction."""
    made = rng.normal(size=n)
    return np.asarray(made / np.linalg.norm(made))


def rhythm(rng: np.random.Generator, band: int, n_windows: int = WINDOWS) -> NDArray[np.float64]:
    """Return noise in a band, ``[window, token, 1]``, of variance one, with phases of its own."""
    made = np.zeros((n_windows, TOKENS))
    inside = np.flatnonzero(BANDS.members[band]) + 1
    made[:, inside] = rng.normal(size=(n_windows, len(inside))) * np.sqrt(TOKENS / len(inside))
    return np.asarray(fft.idct(made, norm="ortho")[..., None])


def white(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(size=(WINDOWS, TOKENS, FEATURES))


def red(rng: np.random.Generator) -> NDArray[np.float64]:
    """All features with the same memory."""
    drawn = rng.normal(size=(WINDOWS, TOKENS + 40, FEATURES))
    return np.asarray(signal.lfilter([1.0], [1.0, -0.8], drawn, axis=1)[:, 40:])


def shared(rng: np.random.Generator, n: int, band: int = 2, share: float = 0.9) -> list[torch.Tensor]:
    """One direction has a rhythm in most documents."""
    direction = unit(rng)
    return [
        torch.from_numpy(white(rng) + (3 * rhythm(rng, band) * direction if rng.random() < share else 0))
        for _ in range(n)
    ]


def nothing(rng: np.random.Generator, n: int) -> list[torch.Tensor]:
    """White noise, with a covariance that all documents share."""
    mixed = rng.normal(size=(FEATURES, FEATURES)) * np.exp(rng.normal(size=FEATURES))
    return [torch.from_numpy(white(rng) @ mixed) for _ in range(n)]


def nothing_red(rng: np.random.Generator, n: int) -> list[torch.Tensor]:
    """Red noise, with a covariance that all documents share."""
    mixed = rng.normal(size=(FEATURES, FEATURES)) * np.exp(rng.normal(size=FEATURES))
    return [torch.from_numpy(red(rng) @ mixed) for _ in range(n)]


def nothing_heavy(rng: np.random.Generator, n: int) -> list[torch.Tensor]:
    """Noise with outliers."""
    return [torch.from_numpy(rng.standard_t(3, size=(WINDOWS, TOKENS, FEATURES))) for _ in range(n)]


def own(rng: np.random.Generator, n: int) -> list[torch.Tensor]:
    """Each document has a rhythm in a direction of its own."""
    return [torch.from_numpy(white(rng) + 3 * rhythm(rng, 2) * unit(rng)) for _ in range(n)]


def own_uneven(rng: np.random.Generator, n: int) -> list[torch.Tensor]:
    """The same, over features of which some are quiet in all documents."""
    mixed = 0.3 * rng.normal(size=(FEATURES, FEATURES)) * np.exp(rng.normal(size=FEATURES))
    return [torch.from_numpy(white(rng) @ mixed + 3 * rhythm(rng, 1) * unit(rng)) for _ in range(n)]


def looked(documents: list[torch.Tensor], n_components: int = 2) -> tuple[Learned, Measured]:
    """Return components of the first half of documents, and what they do in the others."""
    half = len(documents) // 2
    learned = learn(lambda: documents[:half], BANDS, n_components)
    return learned, measure(documents[half:], learned, BANDS)


def recurs(measured: Measured, seed: int) -> NDArray[np.bool_]:
    """Return which components of one layer come back: both tests, without `discover`'s least effect."""
    q = [
        infer(Sample(ranks, np.zeros_like(ranks)), (0, 1), np.random.default_rng(seed)).q
        for ranks in (signed_ranks(measured.excess), signed_ranks(measured.share - 1 / FEATURES))
    ]
    above = (measured.excess.mean(0) > 0) & (measured.share.mean(0) > 1 / FEATURES)
    return np.asarray((q[0] <= 0.05) & (q[1] <= 0.05) & above)
