"""What a system answers to a drive, as a few numbers for each record: power by line, by amplitude, by order.

Responses come as ``[drive, batch, head, token, feature]``: drives are one signal at several amplitudes, or
impulses at several tokens; where there are no heads there is one. What is returned are sums over features, so
that they can be taken in pieces: of a whole vocabulary there is never more than one copy.

In single precision the coefficients of a record are those of double precision within a few parts in a
million of the largest (a test holds them to 1e-5).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import order_weights

FEATURES_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class WentIn:
    """What drove each record.

    Attributes
    ----------
    timing, lines
        When, and at which lines.
    amplitudes
        Of the drives over that of the middle one; one of them is 1.
    spectrum
        Complex ``[batch, line]``: S, by the definition of `resonance_lens.dsp.identification.at_lines`.
    power
        ``[batch, line]``: mean of the squared size of S over draws; it is that of each unless the drive is
        noise.
    half_power
        The same over half of the periods.
    scale
        ``[batch]``: the amplitude of the middle drive.
    direction
        ``[feature]``, of unit length: where it went in; ``None`` if it has no place among these features.
    """

    timing: Timing
    lines: tuple[int, ...]
    amplitudes: tuple[float, ...]
    spectrum: Tensor
    power: Tensor
    half_power: Tensor
    scale: Tensor
    direction: Tensor | None


@functools.lru_cache(maxsize=64)
def _waves(period: int, lines: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``[2 line, time]``: cosines and minus sines of one period, times two over it."""
    turns = torch.outer(torch.tensor(lines, dtype=torch.float64), torch.arange(period)) * (
        2 * math.pi / period
    )
    return (torch.cat([turns.cos(), -turns.sin()]) * (2 / period)).to(device, dtype)


def period_coefficients(heard: Tensor, period: int, lines: tuple[int, ...]) -> Tensor:
    """Return Fourier coefficients at lines, period by period.

    Parameters
    ----------
    heard
        ``[..., time, feature]``: whole periods.
    period, lines
        Tokens of one, and whole waves in it.

    Returns
    -------
    Tensor
        Real ``[..., period, 2 line, feature]``, the real parts before the imaginary ones; their mean over
        periods is what `resonance_lens.dsp.identification.at_lines` returns.
    """
    waves = _waves(period, lines, heard.dtype, heard.device)
    found: Tensor = waves @ heard.unflatten(-2, (-1, period))
    return found


def power_of(coefficients: Tensor) -> Tensor:
    """Return squared sizes over features ``[..., line]`` of coefficients ``[..., 2 line, feature]``."""
    real, imaginary = coefficients.square().sum(-1).chunk(2, dim=-1)
    return real + imaginary


def as_complex(coefficients: Tensor) -> Tensor:
    """Return ``[..., line, feature]``, complex, of coefficients ``[..., 2 line, feature]``."""
    return torch.complex(*coefficients.chunk(2, dim=-2))


def answers(
    responses: Tensor,
    went_in: WentIn,
    *,
    harmonics: Sequence[int] = (),
    kept: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what records answer to one signal at three amplitudes.

    Parameters
    ----------
    responses
        ``[amplitude, batch, head, token, feature]``: at half of an amplitude, at it and at twice as much.
    went_in
        What drove them.
    harmonics
        Multiples of the one line that was driven whose power is wanted too; one beyond the Nyquist frequency
        gets 0.
    kept, seed
        How many numbers of each line are kept of the features, see `sketch`; all if not said.

    Returns
    -------
    dict
        In units of what went in, ``[batch, head, ...]``: ``power`` and ``size`` (of the response at a line,
        squared and not) and ``along`` (complex, on the driven direction) ``[line]``; ``ends`` (power in the
        first and in the last half of the periods) ``[2, line]``; ``by_line`` (power) ``[amplitude, line]``;
        ``by_amplitude`` (power of the whole response) ``[amplitude]``; ``orders`` (of its parts by order)
        ``[3]``; ``doubling`` (of ``D(2e) - 2 D(e)``, and of ``D(2e)``) ``[2]``; ``harmonics`` (power)
        ``[amplitude, multiple]``.
    Tensor
        Complex ``[batch, head, line, kept]``: the response at the lines.
    """
    return _in_pieces(functools.partial(_answers, harmonics=harmonics), responses, went_in, kept, seed)


def impulse_answers(
    responses: Tensor,
    at: Sequence[int],
    lags: int,
    went_in: WentIn,
    *,
    kept: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what records answer to impulses at some tokens, one after the other.

    Parameters
    ----------
    responses
        ``[impulse, batch, head, token, feature]``.
    at
        The tokens: all that a drive reaches, or some of them, evenly spread.
    lags
        Tokens that an answer is followed for.
    went_in, kept, seed
        As of `answers`.

    Returns
    -------
    dict
        As of `answers`: ``power``, ``size``, ``along``; and ``lags`` ``[lag]``, the mean response along the
        driven direction so many tokens after an impulse.
    Tensor
        As of `answers`. With impulses at all tokens it is `resonance_lens.dsp.identification.of_impulses`;
        of some it is an estimate of that.
    """
    one = functools.partial(_impulse_answers, at=at, lags=lags)
    return _in_pieces(one, responses, went_in, kept, seed)


def sketch(values: Tensor, first: int, kept: int, seed: int) -> Tensor:
    """Return random sums of features whose inner products are, on average, those of all features.

    Parameters
    ----------
    values
        ``[..., feature]``.
    first
        Number of the first of these features among all.
    kept
        How many sums: each feature goes into one of them, with a random sign (a count sketch, Charikar, Chen
        and Farach-Colton 2002).
    seed
        Of the sums.

    Returns
    -------
    Tensor
        ``[..., kept]``. The inner product of two of them is unbiased, with a standard deviation of at most
        ``sqrt(2 / kept)`` of the product of the sizes of both.
    """
    n = values.shape[-1]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
    place = torch.randint(kept, (n,), generator=generator).to(values.device)
    sign = (torch.randint(2, (n,), generator=generator) * 2 - 1).to(values)
    out = torch.zeros(*values.shape[:-1], kept, dtype=values.dtype, device=values.device)
    return out.index_add_(-1, place, values * sign)


def _in_pieces(
    one: functools.partial[tuple[dict[str, Tensor], Tensor]],
    responses: Tensor,
    went_in: WentIn,
    kept: int | None,
    seed: int,
) -> tuple[dict[str, Tensor], Tensor]:
    total: dict[str, Tensor] = {}
    response: Tensor | None = None
    n = responses.shape[-1]
    for first in range(0, n, FEATURES_AT_ONCE):
        here = slice(first, first + FEATURES_AT_ONCE)
        v = None if went_in.direction is None else went_in.direction[here]
        rows, h = one(responses[..., here], went_in, v)
        total = {name: values + total[name] if total else values for name, values in rows.items()}
        if kept is not None and kept < n:
            h = sketch(h, first, kept, seed)
            response = h if response is None else response + h
        else:
            response = h if response is None else torch.cat([response, h], dim=-1)
    assert response is not None
    total["size"] = total["own"].sqrt()
    del total["own"]
    return total, response


def _answers(
    responses: Tensor, went_in: WentIn, v: Tensor | None, *, harmonics: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    timing, lines = went_in.timing, went_in.lines
    heard = responses[..., timing.window, :]  # [amplitude, batch, head, heard, feature]
    middle = went_in.amplitudes.index(1.0)
    by_period = period_coefficients(heard, timing.period, lines)
    whole = by_period.mean(-3)  # [amplitude, batch, head, 2 line, feature]
    scale = went_in.scale.double()[:, None, None]  # [batch, 1, 1]
    strength = scale.square() * went_in.power[:, None]  # [batch, 1, line]
    by_line = power_of(whole).double() / strength  # [amplitude, batch, head, line]
    half = timing.periods // 2
    ends = [
        power_of(by_period[middle][..., part, :, :].mean(-3)).double()
        for part in (slice(0, half), slice(timing.periods - half, timing.periods))
    ]
    h = _normalised(as_complex(whole[middle]), went_in)
    mixed = torch.tensordot(
        _mixes(heard.dtype, heard.device), heard, dims=1
    )  # [order and doubling, batch, head, heard, feature]
    parts = _energy(mixed) / scale.square()
    levels = _energy(heard) / scale.square()  # [batch, head, amplitude]
    squares = torch.tensor(went_in.amplitudes, dtype=torch.float64, device=levels.device).square()
    rows = {
        "power": by_line[middle],
        "own": _size(h),
        "ends": torch.stack(ends, dim=2) / (scale.square() * went_in.half_power[:, None])[:, :, None],
        "by_line": by_line.movedim(0, 2) / squares[:, None],
        "by_amplitude": levels / squares,
        "orders": parts[..., :3],
        "doubling": torch.stack([parts[..., 3], levels[..., -1]], dim=-1),
    }
    if v is not None:
        rows["along"] = h @ v.to(h)
    if harmonics:
        rows["harmonics"] = _harmonics(heard, went_in, harmonics) / scale[..., None].square()
    return rows, h


def _impulse_answers(
    responses: Tensor, went_in: WentIn, v: Tensor | None, *, at: Sequence[int], lags: int
) -> tuple[dict[str, Tensor], Tensor]:
    timing = went_in.timing
    heard = responses[..., timing.window, :]
    each = as_complex(period_coefficients(heard, timing.period, went_in.lines).mean(-3))
    places = torch.tensor(at, dtype=torch.float64, device=heard.device)
    frequencies = timing.frequencies(went_in.lines).to(heard.device)
    turns = torch.outer(places - timing.window.start, frequencies) * (2 * math.pi)  # [impulse, line]
    weight = (timing.tokens - timing.onset) / len(at) / 2  # each stands for as many tokens
    waves = torch.polar(torch.full_like(turns, weight), turns).to(each)
    h = torch.einsum("jl,jbhlf->bhlf", waves, each) / went_in.scale[:, None, None, None].to(each.real)
    rows = {"own": _size(h), "power": _size(h)}
    if v is None:
        return rows, h
    rows["along"] = h @ v.to(h)
    along = (responses @ v.to(responses)).double() / went_in.scale.double()[:, None, None]  # [.., token]
    found = []
    for lag in range(lags):
        reached = [(j, token + lag) for j, token in enumerate(at) if token + lag < timing.tokens]
        found.append(torch.stack([along[j, :, :, token] for j, token in reached]).mean(0))
    rows["lags"] = torch.stack(found, dim=-1)
    return rows, h


def _normalised(whole: Tensor, went_in: WentIn) -> Tensor:
    """Return H ``[batch, head, line, feature]``: cross-spectrum with what went in over the power of that."""
    factor = went_in.spectrum.conj() / went_in.power / went_in.scale[:, None]
    return whole * factor[:, None, :, None].to(whole)


def _size(h: Tensor) -> Tensor:
    """Return squared sizes over features, ``[..., line]``, float64."""
    return torch.view_as_real(h).square().sum((-1, -2)).double()


def _energy(heard: Tensor) -> Tensor:
    """Return the mean over tokens of the squared size: ``[batch, head, first]`` of ``[first, ...]``."""
    norms: Tensor = torch.linalg.vector_norm(heard, dim=(-1, -2))
    return norms.double().square().movedim(0, -1) / heard.shape[-2]


@functools.lru_cache(maxsize=8)
def _mixes(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``[4, amplitude]``: three orders, and what is not doubled."""
    undoubled = torch.tensor([[0.0, -2.0, 1.0]], dtype=torch.float64)
    return torch.cat([order_weights(), undoubled]).to(device, dtype)


def _harmonics(heard: Tensor, went_in: WentIn, multiples: Sequence[int]) -> Tensor:
    """Return the power ``[batch, head, amplitude, multiple]`` of multiples of the one line that is driven."""
    (line,), period = went_in.lines, went_in.timing.period
    known = [m for m in multiples if m * line < period / 2]
    lines = tuple(m * line for m in known)
    power = power_of(period_coefficients(heard, period, lines).mean(-3)).double().movedim(0, 2)
    out = torch.zeros(*power.shape[:-1], len(multiples), dtype=torch.float64, device=power.device)
    out[..., [multiples.index(m) for m in known]] = power
    return out
