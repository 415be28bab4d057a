"""Signals to drive a system with, and the stretch of a record in which the answer is listened to.

A drive begins at an onset, is given some tokens to settle, and is then listened to over whole periods, so
that every excited frequency falls on a line of the discrete Fourier transform and leaks nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from torch import Tensor

from resonance_lens.errors import ParameterError, RecordError, wrong_parameter

CREST_ROUNDS = 60
"""Rounds of clipping in which the phases of a multisine are bettered; more gain little."""

CLIP = 0.85
"""Share of the largest value at which a round clips."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a record is driven and when it is listened to.

    Tokens before ``onset`` are left alone; the drive then goes on to the end. After ``settle`` more tokens,
    in which what was before the onset dies away, ``periods`` whole periods are listened to.

    Attributes
    ----------
    onset
        First driven token, at least 0. The first token of a prompt is unlike all others: 1 leaves it alone.
    settle
        Tokens, at least 0, between the onset and the first that is listened to.
    period
        Tokens of a period, at least 2: what a multisine repeats after, and the longest wave.
    periods
        How many are listened to, at least 1. Between the lines of two or more periods stand frequencies that
        are not driven: what is heard there was moved by the system.

    Raises
    ------
    ParameterError
        If a number is out of its range.

    Examples
    --------
    >>> timing = Timing(onset=1, settle=63, period=64, periods=3)
    >>> timing.tokens, timing.window, timing.lines[:3]
    (256, slice(64, 256, None), (1, 2, 3))
    """

    onset: int = 1
    settle: int
    period: int
    periods: int

    def __post_init__(self) -> None:
        for name, least in (("onset", 0), ("settle", 0), ("period", 2), ("periods", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ParameterError(
                    wrong_parameter("Timing", name, f"a whole number of at least {least}", value)
                )

    @property
    def tokens(self) -> int:
        """Tokens that a record needs."""
        return self.onset + self.settle + self.heard

    @property
    def heard(self) -> int:
        """Tokens that are listened to."""
        return self.period * self.periods

    @property
    def window(self) -> slice:
        """The tokens that are listened to."""
        return slice(self.onset + self.settle, self.tokens)

    @property
    def lines(self) -> tuple[int, ...]:
        """Every line that a wave can have: whole waves in a period, below the Nyquist frequency."""
        return tuple(range(1, (self.period + 1) // 2))

    def bins(self, lines: Sequence[int]) -> Tensor:
        """Return where lines stand in a real Fourier transform of what is heard."""
        return torch.tensor([line * self.periods for line in lines])

    def frequencies(self, lines: Sequence[int]) -> Tensor:
        """Return the frequencies of lines, in cycles per token, float64."""
        return torch.tensor(lines, dtype=torch.float64) / self.period

    @staticmethod
    def fit(tokens: int, *, period: int | None = None, onset: int = 1) -> Timing:
        """Return the timing that makes the most of records of so many tokens.

        Parameters
        ----------
        tokens
            Of the shortest record.
        period
            Tokens of a period; by default the largest power of two that leaves room for three periods and
            one to settle in, or failing that for two and half of one.
        onset
            First driven token.

        Raises
        ------
        RecordError
            If the record cannot hold the onset and two periods of at least eight tokens with half a period
            to settle in: how many tokens would do.
        """
        room = tokens - onset
        if period is None:
            period = next((p for p in (2**k for k in range(12, 2, -1)) if 4 * p <= room + 1), 8)
        if room < 2 * period + period // 2:
            raise RecordError(
                f"Records of {tokens} tokens are too short to drive with a period of {period}: two periods "
                f"and half of one to settle in need {onset + 2 * period + period // 2} tokens; lengthen the "
                "prompts, or shorten the period."
            )
        # What is left over settles: the longer, the less is left of the onset.
        periods = max(
            2, (room - period // 2) // period if room < 4 * period - 1 else (room + 1) // period - 1
        )
        return Timing(onset=onset, settle=room - periods * period, period=period, periods=periods)


def require_lines(timing: Timing, lines: Sequence[int]) -> None:
    """Raise `ParameterError` unless waves of so many periods can be driven and heard.

    Parameters
    ----------
    timing
        Of the drive.
    lines
        Whole numbers of waves in a period.
    """
    highest = timing.lines[-1] if timing.lines else 0
    for line in lines:
        if isinstance(line, int) and 1 <= line <= highest:
            continue
        below = not isinstance(line, int) or line < 1
        why = (
            f"below the resolution of a period of {timing.period} tokens, 1/{timing.period}"
            if below
            else "at or above the Nyquist frequency, one half"
        )
        raise ParameterError(
            f"Line {line!r} ({line}/{timing.period} cycles per token) cannot be driven: it is {why}; choose "
            f"lines from 1 to {highest}."
        )
    if not lines or len(set(lines)) < len(lines):
        raise ParameterError(f"The lines of a drive are at least one, no two the same; got {tuple(lines)!r}.")


def line_of(timing: Timing, frequency: float) -> int:
    """Return the line nearest to a frequency in cycles per token.

    Raises
    ------
    ParameterError
        If the frequency is below half a line or at or above one half.
    """
    line = round(frequency * timing.period)
    if not 0 < frequency < 0.5 or line < 1 or line > timing.lines[-1]:
        raise ParameterError(
            f"A frequency of {frequency:g} cycles per token cannot be driven with a period of "
            f"{timing.period} tokens: choose one from {1 / timing.period:.4g} to "
            f"{timing.lines[-1] / timing.period:.4g}."
        )
    return line


def tone(period: int, line: int, phase: float = 0.0) -> Tensor:
    """Return one period of a cosine of unit root mean square: ``[period]``, float64.

    ``sqrt(2) cos(2 pi line t / period + phase)``.
    """
    t = torch.arange(period, dtype=torch.float64)
    return math.sqrt(2) * torch.cos(2 * math.pi * line * t / period + phase)


def multisine(period: int, lines: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Return one period of a sum of cosines of equal size at several lines, with a low crest factor.

    The phases are drawn, then bettered by clipping the signal and taking the phases of what is left (Van der
    Ouderaa, Schoukens and Renneboog 1988); the best of the rounds is kept. Different draws stay different.

    Parameters
    ----------
    period
        Tokens.
    lines
        Whole numbers of waves in a period, below ``period / 2``.
    rng
        Where phases come from.

    Returns
    -------
    Tensor
        ``[period]``, float64, of unit root mean square; every line holds the same power, and no other any.
    """
    at = np.asarray(lines)
    phases = rng.uniform(0, 2 * np.pi, len(at))
    best: tuple[float, NDArray[np.float64]] = (math.inf, phases)
    for _ in range(CREST_ROUNDS):
        values = _of_phases(period, at, phases)
        crest = abs(values).max()
        best = min(best, (float(crest), phases), key=lambda each: each[0])
        phases = np.angle(np.fft.rfft(np.clip(values, -CLIP * crest, CLIP * crest))[at])
    return torch.from_numpy(_of_phases(period, at, best[1]))


def chirp(period: int, lines: Sequence[int]) -> Tensor:
    """Return one period of a sweep from the lowest of several lines to the highest, of unit root mean square.

    The frequency rises evenly with time (`scipy.signal.chirp`). Unlike a multisine it holds some power at
    every line, a little unevenly.
    """
    t = np.arange(period)
    swept = scipy_signal.chirp(t, min(lines) / period, period, max(lines) / period)
    swept = swept - swept.mean()
    return torch.from_numpy(swept / np.sqrt((swept**2).mean()))


def noise(length: int, rng: np.random.Generator) -> Tensor:
    """Return white Gaussian noise ``[length]`` of unit root mean square, float64."""
    values = rng.standard_normal(length)
    return torch.from_numpy(values / np.sqrt((values**2).mean()))


def crest_factor(values: Tensor) -> Tensor:
    """Return the largest size of signals ``[..., time]`` over their root mean square, at least 1."""
    return values.abs().amax(-1) / values.square().mean(-1).sqrt()


def driven(timing: Timing, period: Tensor) -> Tensor:
    """Return a periodic drive over a whole record: ``[..., token]``, zero before the onset.

    Parameters
    ----------
    timing
        When.
    period
        ``[..., period]``: what repeats. It is laid so that a period begins with the first token listened to.
    """
    if period.shape[-1] != timing.period:
        raise ParameterError(
            f"A drive with periods of {timing.period} tokens needs as many values; got {period.shape[-1]}."
        )
    t = torch.arange(timing.tokens) - timing.window.start
    values = period[..., t % timing.period]
    return torch.where(torch.arange(timing.tokens) >= timing.onset, values, torch.zeros_like(values))


def _of_phases(period: int, lines: NDArray[np.int64], phases: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.zeros(period // 2 + 1, dtype=complex)
    spectrum[lines] = np.exp(1j * phases) * period / np.sqrt(2 * len(lines))
    return np.asarray(np.fft.irfft(spectrum, period))
