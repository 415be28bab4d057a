"""Words as waves: a synthetic basis, and what happens when attention adds such waves up.

Every token is given a frequency by how rare it is, with a few harmonics, and a phase by its position. None
of it is in the model: the basis is invented, its unit of time too (frequencies are in cycles per unit of
time, which has nothing to do with tokens). What is real is which tokens attention brings together, and with
which weights. A wave is never divided by its own modulus: the weights would then cancel.

The wave of kind ``a`` at frequency ``f_a`` is ``u_a(t) = sum_h (1/h) exp(2 pi i h f_a t)`` over the
harmonics, scaled to unit mean power over a window of length T, ``abs(t) <= T / 2``. Tokens of one kind (one
frequency) have one wave; the token at position j has it times ``exp(i phi_j)``. Over the window all means
have a closed form: that of ``exp(2 pi i d t)`` is ``sinc(d T) = sin(pi d T) / (pi d T)``. Frequencies closer
than ``1 / T`` are not told apart.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from resonance_lens.errors import ParameterError, RecordError, wrong_parameter

Common = Literal["low", "high"]
COMMON: tuple[Common, Common] = ("low", "high")
"""Where the commonest token is: at the lowest frequency, or at the highest."""

LOWEST, HIGHEST = 0.1, 10.0
"""Frequencies of the commonest and of the rarest token, or the other way round; cycles per unit of time."""

HARMONICS = 4

DURATION = 10.0
"""Units of time: one period of the lowest frequency."""

BINS_PER_DECADE = 8
"""Of a spectrum on a logarithmic axis."""

RECURRENCES = (1, 2, 3, 4, 6, 10)
"""Words recur once, twice, three times, four or five times, six to nine times, more often."""

SAME = 1e-4
"""Radians: below it ``sin(x) / x`` is one, to 2e-9, and its two sines cancel."""


def wave_frequencies(rarity: Tensor, *, common: Common = "low") -> Tensor:
    """Return the frequency of each token.

    Parameters
    ----------
    rarity
        Place of each token on the scale of the logarithm of its frequency rank: 0 the commonest, 1 the
        rarest. Not-a-number stays what it is.
    common
        ``low``: common tokens have low frequencies; ``high``: the inverse.

    Returns
    -------
    Tensor
        ``LOWEST (HIGHEST / LOWEST)^rarity``, in cycles per unit of time; the inverse mirrors it on the
        logarithmic axis.

    Raises
    ------
    ParameterError
        If ``common`` is neither.
    """
    if common not in COMMON:
        raise ParameterError(wrong_parameter("wave_frequencies", "common", "'low' or 'high'", common))
    place = rarity if common == "low" else 1 - rarity
    return LOWEST * (HIGHEST / LOWEST) ** place


def position_phases(n: int) -> Tensor:
    """Return the phase ``2 pi j / n`` of the wave at each position j of a record, in radians, ``[n]``."""
    return 2 * math.pi * torch.arange(n, dtype=torch.float64) / n


def overlaps(frequencies: Tensor, *, harmonics: int = HARMONICS, duration: float = DURATION) -> Tensor:
    """Return the mean product over the window of every two waves of unit power.

    Parameters
    ----------
    frequencies
        ``[kind]``, in cycles per unit of time.
    harmonics
        How many, the fundamental included, with amplitudes 1, 1/2, 1/3, ...
    duration
        T, the length of the window.

    Returns
    -------
    Tensor
        ``[kind, kind]``, real and symmetric in double precision, ones on the diagonal: ``<u_a conj(u_b)>`` is
        ``sum_hk sinc((h f_a - k f_b) T) / (h k)``, divided by the root of the two powers. Waves
        whose frequencies or harmonics coincide overlap; those of which none are within ``1 / T`` hardly do.

    Notes
    -----
    ``sin(x - y)`` is taken apart, so that sines are as many as kinds and not as pairs of kinds.
    """
    _require_window(harmonics, duration, "overlaps")
    angle = math.pi * duration * frequencies.double()
    multiples = [(h, h * angle, (h * angle).sin(), (h * angle).cos()) for h in range(1, harmonics + 1)]
    total = angle.new_zeros(len(angle), len(angle))
    for h, x, sin_x, cos_x in multiples:
        for k, y, sin_y, cos_y in multiples[h - 1 :]:
            apart = x[:, None] - y[None, :]
            part = torch.stack([sin_x, -cos_x], dim=1) @ torch.stack([cos_y, sin_y])  # sine of the difference
            part.div_(apart).masked_fill_(apart.abs_() < SAME, 1.0)
            total.add_(part, alpha=1 / (h * k))
            if k > h:
                total.add_(part.T, alpha=1 / (h * k))
    scale = total.diagonal().rsqrt()
    return total * scale[:, None] * scale[None, :]


def waves(
    frequencies: Tensor, times: Tensor, *, harmonics: int = HARMONICS, duration: float = DURATION
) -> Tensor:
    """Return the waves themselves, of unit mean power over the window: complex ``[kind, time]``.

    Parameters
    ----------
    frequencies
        ``[kind]``.
    times
        ``[time]``; the window is centred on 0.
    harmonics, duration
        As of `overlaps`.
    """
    _require_window(harmonics, duration, "waves")
    angle = 2 * math.pi * frequencies.double()[:, None] * times.double()[None, :]
    turn = torch.polar(torch.ones_like(angle), angle)
    total, multiple = turn.clone(), turn
    for h in range(2, harmonics + 1):
        multiple = multiple * turn
        total = total + multiple / h
    return total * wave_power(frequencies, harmonics=harmonics, duration=duration).rsqrt()[:, None]


def wave_power(frequencies: Tensor, *, harmonics: int = HARMONICS, duration: float = DURATION) -> Tensor:
    """Return the mean power over the window of waves whose fundamental has amplitude one, ``[kind]``.

    ``sum_hk sinc((h - k) f T) / (h k)``, which is ``sum_h 1 / h^2`` over whole periods.
    """
    _require_window(harmonics, duration, "wave_power")
    periods = duration * frequencies.double()
    total = torch.zeros_like(periods)
    for h in range(1, harmonics + 1):
        for k in range(1, harmonics + 1):
            total = total + torch.sinc((h - k) * periods) / (h * k)
    return total


def phasors(weights: Tensor, phases: Tensor, kinds: Tensor, n_kinds: int) -> Tensor:
    """Return the weights times ``exp(i phi_j)``, added up by kind: real and imaginary part.

    Parameters
    ----------
    weights
        ``[..., token, row]``.
    phases
        Of each token, in radians, ``[token]``.
    kinds
        Integers ``[token]`` in ``0 .. n_kinds - 1``: which wave each token is.
    n_kinds
        How many there are.

    Returns
    -------
    Tensor
        ``[2, ..., kind, row]``.
    """
    *beside, _, n_rows = weights.shape
    sums = weights.new_zeros(2, *beside, n_kinds, n_rows)
    for part, turn in zip(sums, (phases.cos(), phases.sin()), strict=True):
        part.index_add_(-2, kinds, weights * turn.to(weights)[:, None])
    return sums


def superposed_power(summed: Tensor, overlap: Tensor) -> Tensor:
    """Return the mean power over the window of sums of waves, ``[..., row]``.

    Parameters
    ----------
    summed
        What `phasors` returns: z, ``[2, ..., kind, row]``.
    overlap
        What `overlaps` returns: S, ``[kind, kind]``.

    Returns
    -------
    Tensor
        ``sum_ab Re(z_a conj(z_b)) S_ab``.
    """
    return ((overlap.to(summed) @ summed) * summed).sum((0, -2))


def recurrence(counts: Tensor) -> Tensor:
    """Return which kinds recur as often as each other.

    Parameters
    ----------
    counts
        How many tokens there are of each kind, ``[..., kind]``.

    Returns
    -------
    Tensor
        Ones and zeros ``[..., class, kind]``, one class for each of `RECURRENCES`; kinds that are not there
        are in none.
    """
    edges = torch.tensor(RECURRENCES, device=counts.device)
    which = torch.bucketize(counts.contiguous(), edges.to(counts), right=True)  # 0: not there
    classes = torch.arange(1, len(edges) + 1, device=which.device)
    return (which[..., None, :] == classes[:, None]).to(counts)


def by_class(summed: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return phasors added up over the kinds of each class, and their powers.

    Parameters
    ----------
    summed
        What `phasors` returns: z, ``[2, ..., kind, row]``.
    classes
        Ones and zeros ``[..., class, kind]``.

    Returns
    -------
    tuple of tensors
        ``sum_a z_a`` over the kinds of a class, ``[2, ..., class, row]``, and ``sum_a abs(z_a)^2``,
        ``[..., class, row]``.
    """
    return classes @ summed, classes @ (summed * summed).sum(0)


def mean_overlaps(overlap: Tensor, classes: Tensor) -> Tensor:
    """Return the mean overlap of a kind of one class with another of another or the same one.

    Parameters
    ----------
    overlap
        ``[kind, kind]``.
    classes
        Ones and zeros ``[..., class, kind]``.

    Returns
    -------
    Tensor
        ``[..., class, class]`` in double precision; zero where there are no such two.
    """
    there, overlap = classes.double(), overlap.double()
    summed = there @ overlap @ there.mT
    n = there.sum(-1)  # [..., class]
    itself = torch.diag_embed(there @ overlap.diagonal())
    pairs = n[..., :, None] * n[..., None, :] - torch.diag_embed(n)
    return (summed - itself) / pairs.clamp_min(1)


def dealt_power(mean: Tensor, added: Tensor, own: Tensor) -> Tensor:
    """Return the mean power over all ways to deal frequencies to the kinds of a class: ``[..., row]``.

    A kind keeps the power of its own; every two kinds overlap as two of their classes do on average. Exact,
    as the power is linear in the overlaps.

    Parameters
    ----------
    mean
        What `mean_overlaps` returns, ``[..., class, class]``.
    added, own
        What `by_class` returns.
    """
    mean = mean.to(added)
    itself = mean.diagonal(dim1=-2, dim2=-1)[..., None]  # [..., class, 1]
    return superposed_power(added, mean) + (own - itself * own).sum(-2)


def harmonic_shares(harmonics: int = HARMONICS) -> Tensor:
    """Return the share of a wave's power in each harmonic, ``[harmonic]``: in proportion to ``1 / h^2``."""
    power = 1 / torch.arange(1, harmonics + 1, dtype=torch.float64) ** 2
    return power / power.sum()


def line_spread(shares: Tensor, frequencies: Tensor, *, harmonics: int = HARMONICS) -> tuple[Tensor, Tensor]:
    """Return the bandwidth of a spectrum of lines: in octaves, and in cycles per unit of time.

    Every kind adds a line at each of its harmonics. The bandwidth is the standard deviation of the
    frequency, or of its binary logarithm, under the power.

    Parameters
    ----------
    shares
        Share of the power of each kind, ``[kind]`` or ``[layer, kind]``; they add up to one.
    frequencies
        ``[kind]`` or ``[draw, kind]``.
    harmonics
        How many.

    Returns
    -------
    tuple of tensors
        Both ``[draw, layer]``, without what the two have not.
    """
    power = harmonic_shares(harmonics).to(shares)
    order = torch.arange(1, harmonics + 1).to(shares)
    octave, of_harmonic = frequencies.log2(), order.log2()
    within = (power * of_harmonic.square()).sum() - (power * of_harmonic).sum().square()
    octaves = torch.inner(octave.square(), shares) - torch.inner(octave, shares).square()
    first, second = (power * order).sum(), (power * order.square()).sum()
    square = second * torch.inner(frequencies.square(), shares)
    linear = square - (first * torch.inner(frequencies, shares)).square()
    return (octaves.clamp_min(0) + within).sqrt(), linear.clamp_min(0).sqrt()


def binned(frequencies: Tensor, *, harmonics: int = HARMONICS) -> Tensor:
    """Return the share of its power that each kind puts into each bin of a logarithmic axis, ``[kind, bin]``.

    There are `BINS_PER_DECADE` bins to a decade, from `LOWEST` up to the last harmonic of `HIGHEST`. Rows
    add up to one.
    """
    size = math.ceil(round(math.log10(harmonics * HIGHEST / LOWEST) * BINS_PER_DECADE, 9))
    lines = frequencies.double()[:, None] * torch.arange(1, harmonics + 1).to(frequencies)  # [kind, harmonic]
    index = ((lines / LOWEST).log10() * BINS_PER_DECADE).floor().long().clamp(0, size - 1)
    there = index[..., None] == torch.arange(size, device=index.device)  # [kind, harmonic, bin]
    shares: Tensor = (harmonic_shares(harmonics).to(lines)[:, None] * there).sum(1)
    return shares


def spectral_entropy(spectrum: Tensor) -> Tensor:
    """Return ``-sum_b p_b ln p_b`` of spectra that add up to one over the last axis, in nats; 0 ln 0 = 0."""
    entropy: Tensor = -torch.special.xlogy(spectrum, spectrum).sum(-1)
    return entropy


def _require_window(harmonics: int, duration: float, owner: str) -> None:
    if harmonics < 1:
        raise ParameterError(wrong_parameter(owner, "harmonics", "at least 1", harmonics))
    if not (math.isfinite(duration) and duration > 0):
        raise RecordError(f"The window of {owner} must be longer than nothing; got {duration!r}.")
