"""What a driven system does, by frequency: gains that differ, coherence, delay, peaks, and what is not a
filter.

A system that is linear but changes along the record, as a transformer on text is, has no one gain. Over
realisations m (prompts and draws of the drive), each with a response ``H_m(f)`` of many features:

- the **coherent** gain is the size of the mean of H_m: what all realisations have in common, the best
  time-invariant description;
- the **mean** gain is the mean of their sizes, and the **rms** gain the root mean square of them: what comes
  out at the frequency that went in, whatever its sign and direction.

Between them conclusions can reverse, so all are reported (SCIENCE 2b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import RecordError

FEWEST_FOR_COHERENCE = 2
"""Realisations without which coherence is 1 whatever the system is."""

HALF = 0.5


def at_lines(response: Tensor, timing: Timing, lines: tuple[int, ...]) -> Tensor:
    """Return Fourier coefficients of what is heard, at the lines that were driven.

    Parameters
    ----------
    response
        ``[..., token, feature]``: driven minus undriven, over the whole record.
    timing, lines
        Of the drive.

    Returns
    -------
    Tensor
        Complex ``[..., line, feature]``: ``(2 / heard) sum_t exp(-2 pi i f t) D(t)``, with t from the first
        token that is heard, so that a cosine of amplitude a at phase p is ``a exp(i p)``.
    """
    heard = response[..., timing.window, :]
    n = timing.heard
    # A handful of lines out of n: one product, cheaper than a transform of every feature.
    turns = torch.outer(timing.frequencies(lines), torch.arange(n, dtype=torch.float64)) * (2 * math.pi)
    cosines, sines = turns.cos().to(response), turns.sin().to(response)
    return torch.complex(cosines @ heard, -(sines @ heard)) * (2 / n)


@dataclass(frozen=True, eq=False)
class Gains:
    """Gains over realisations, by frequency.

    Attributes
    ----------
    coherent_power
        Square of the coherent gain, without its bias: unrelated responses have 0 on average, so that it may
        be below zero. Not-a-number for one realisation.
    mean
        Mean size of H_m.
    rms
        Root mean square size of H_m.
    coherence
        Share of the power at a line that the coherent response explains, without its bias; see
        `coherence_floor`. Not-a-number for one realisation.
    count
        Realisations.
    """

    coherent_power: Tensor
    mean: Tensor
    rms: Tensor
    coherence: Tensor
    count: Tensor

    @property
    def coherent(self) -> Tensor:
        """The coherent gain: the root of `coherent_power`, with its sign (below zero is chance alone)."""
        return self.coherent_power.sign() * self.coherent_power.abs().sqrt()


def gains(
    total: Tensor, size: Tensor, power: Tensor, count: Tensor | int, *, own: Tensor | None = None
) -> Gains:
    """Return gains from sums over realisations, which can be added up as realisations come.

    Parameters
    ----------
    total
        Complex ``[..., feature]``: sum of the responses ``H_m``.
    size, power
        ``[...]``: sums of the sizes ``norm(H_m)`` over features, and of their squares.
    count
        Realisations M, at least 1.
    own
        Sum of the squared sizes of what ``total`` is the sum of, where these are not the responses themselves
        but estimates with more scatter (of noise: its spectrum is not the same in every draw).

    Notes
    -----
    ``coherent_power = (norm(sum H)^2 - sum norm(H)^2) / (M (M - 1))``: the mean inner product of two
    different realisations. The square of the mean itself is biased upwards by the variance over M, which in
    hundreds of dimensions is most of it.
    """
    n = torch.as_tensor(count, dtype=power.dtype, device=power.device)
    if bool((n < 1).any()):
        raise RecordError("A gain needs at least one realisation.")
    together = total.abs().square().sum(-1)
    pairs = torch.where(n >= FEWEST_FOR_COHERENCE, n * (n - 1), torch.nan)
    coherent = (together - (power if own is None else own)) / pairs
    mean_power = power / n
    silent = mean_power == 0
    coherence = torch.where(
        silent, torch.zeros_like(coherent), coherent / torch.where(silent, 1.0, mean_power)
    )
    return Gains(coherent, size / n, mean_power.sqrt(), coherence, n)


def coherence_floor(count: int) -> float:
    """Return the coherence of unrelated responses before its bias is taken off: one over their number."""
    if count < 1:
        raise RecordError("A coherence needs at least one realisation.")
    return 1 / count


def delay(total: Tensor, power: Tensor, frequencies: Tensor) -> Tensor:
    """Return the group delay of a response of many features, in tokens, between neighbouring lines.

    Parameters
    ----------
    total
        Complex ``[..., line, feature]``: sum of the responses over realisations.
    power
        ``[..., line]``: sum of their squared sizes; where ``total`` is no larger than its chance value the
        delay is not-a-number.
    frequencies
        ``[line]``, rising, in cycles per token.

    Returns
    -------
    Tensor
        ``[..., line - 1]``: minus the angle of ``sum_features conj(H(f)) H(f')`` over ``2 pi (f' - f)``,
        features weighted by their power. It is known up to a multiple of ``1 / (f' - f)``: one period of the
        drive if neighbouring lines are.
    """
    inner = (total[..., :-1, :].conj() * total[..., 1:, :]).sum(-1)
    step = (frequencies[1:] - frequencies[:-1]).to(inner.real)
    turn = -inner.angle() / (2 * math.pi * step)
    sure = total.abs().square().sum(-1) > power
    return torch.where(sure[..., :-1] & sure[..., 1:], turn, torch.nan)


def of_impulses(responses: Tensor, timing: Timing, lines: tuple[int, ...]) -> Tensor:
    """Return the response at lines from impulses at every token that a drive of this timing reaches.

    Parameters
    ----------
    responses
        ``[position, token, feature]``: ``K(t, p)``, what is heard at t of a unit impulse at p, for each p
        from the onset to the end.
    timing, lines
        Of the drive that it is to be compared with.

    Returns
    -------
    Tensor
        Complex ``[line, feature]``: ``(1 / heard) sum_t sum_p K(t, p) exp(-2 pi i f (t - p))`` over the
        tokens that are heard. A drive ``exp(2 pi i f p)`` gives the same number by `at_lines`, if the system
        is linear: for any other set of impulses it would not.
    """
    n = timing.tokens - timing.onset
    if responses.shape[0] != n:
        raise RecordError(
            f"The response to impulses needs one at each of the {n} tokens from {timing.onset} to "
            f"{timing.tokens - 1}; got {responses.shape[0]}."
        )
    turns = (
        2 * math.pi * timing.frequencies(lines)[:, None] * torch.arange(timing.tokens, dtype=torch.float64)
    )
    waves = torch.polar(torch.ones_like(turns), turns)  # [line, token]
    here = responses[:, timing.window].to(waves.dtype)
    return (
        torch.einsum("lp,lt,ptf->lf", waves[:, timing.onset :], waves[:, timing.window].conj(), here)
        / timing.heard
    )


@dataclass(frozen=True, eq=False)
class Orders:
    """A response taken apart by how it grows with the amplitude e of the drive.

    Attributes
    ----------
    linear, quadratic, cubic
        The parts that grow as e, e^2 and e^3, at the middle amplitude.
    """

    linear: Tensor
    quadratic: Tensor
    cubic: Tensor


def order_weights() -> Tensor:
    """Return ``[order, amplitude]``: what responses to e/2, e and 2e are weighted by to get the first three
    orders of that to e, float64."""
    equations = torch.tensor([[a, a**2, a**3] for a in (0.5, 1.0, 2.0)], dtype=torch.float64)
    weights: Tensor = torch.linalg.inv(equations)
    return weights


def by_order(half: Tensor, whole: Tensor, double: Tensor) -> Orders:
    """Return the parts of responses to e/2, e and 2e that grow as the first three powers of e.

    Parameters
    ----------
    half, whole, double
        Responses of one shape to the same drive at three amplitudes.

    Notes
    -----
    Exact where the response is a polynomial of third degree in e without a constant: three equations for
    three parts. Higher orders fall to the parts of their own parity and below.
    """
    solved = order_weights().to(whole)
    stacked = torch.stack([half, whole, double])
    linear, quadratic, cubic = torch.einsum("oa,a...->o...", solved, stacked)
    return Orders(linear, quadratic, cubic)


def nonlinear_share(single: Tensor, double: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return ``norm(D(2e) - 2 D(e))^2 / norm(D(2e))^2`` over ``dims``: 0 for a linear system.

    Not-a-number where there is no response.
    """
    total = double.square().sum(dims)
    share = (double - 2 * single).square().sum(dims) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, share, torch.nan)


def half_power(frequencies: Tensor, gain: Tensor) -> Tensor:
    """Return the frequency above its largest gain at which the square of the gain has fallen to half of it.

    Parameters
    ----------
    frequencies
        ``[line]``, rising.
    gain
        ``[..., line]``, at least 0.

    Returns
    -------
    Tensor
        ``[...]``, interpolated between lines in power; not-a-number where it never falls so low.
    """
    return _crossing(frequencies, gain.square(), gain.argmax(-1), upward=True)


@dataclass(frozen=True)
class Resonance:
    """A peak of a gain.

    Attributes
    ----------
    frequency
        Of the peak, in cycles per token.
    gain
        There.
    q
        Frequency over the width between the points of half power: the quality factor.
    """

    frequency: float
    gain: float
    q: float


def resonances(frequencies: Tensor, gain: Tensor, above: Tensor) -> list[Resonance]:
    """Return the peaks of a gain that are resonances, the largest first.

    Parameters
    ----------
    frequencies
        ``[line]``, rising.
    gain
        ``[line]``, at least 0.
    above
        ``[line]``: what a gain has to exceed to be one: the upper bound of its null.

    Returns
    -------
    list of Resonance
        Largest gains between two smaller ones, above the bound, which fall to half their power on both
        sides: a low-pass, whose largest gain is at one end, has none (its Q is 0).
    """
    power = gain.square()
    found = []
    for line in range(1, len(gain) - 1):
        peak = bool(gain[line] > gain[line - 1]) and bool(gain[line] >= gain[line + 1])
        if not (peak and bool(gain[line] > above[line])):
            continue
        at = torch.tensor(line)
        upper = float(_crossing(frequencies, power, at, upward=True))
        lower = float(_crossing(frequencies, power, at, upward=False))
        higher = frequencies.lt(lower) | frequencies.gt(upper)
        if math.isnan(upper) or math.isnan(lower) or bool((power[~higher] > power[line]).any()):
            continue
        centre = float(frequencies[line])
        found.append(Resonance(frequency=centre, gain=float(gain[line]), q=centre / (upper - lower)))
    return sorted(found, key=lambda each: -each.gain)


def _crossing(frequencies: Tensor, power: Tensor, start: Tensor, *, upward: bool) -> Tensor:
    """Return where power falls to half of that at ``start``, going up or down in frequency."""
    n = power.shape[-1]
    lines = torch.arange(n, device=power.device)
    level = power.gather(-1, start[..., None]) * HALF
    beyond = lines > start[..., None] if upward else lines < start[..., None]
    low = beyond & (power < level)
    position = torch.where(low, lines, n if upward else -1)
    at = position.amin(-1) if upward else position.amax(-1)
    there = low.any(-1)
    at = at.clamp(0, n - 1)
    near = (at - 1 if upward else at + 1).clamp(0, n - 1)
    here, before = (power.gather(-1, each[..., None]).squeeze(-1) for each in (at, near))
    part = (before - level.squeeze(-1)) / torch.where(before > here, before - here, 1.0)
    grid = frequencies.to(power)
    return torch.where(there, grid[near] + part * (grid[at] - grid[near]), torch.nan)
