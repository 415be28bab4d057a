"""Interventions on when things happen along tokens: phases, amplitudes, and shifts.

Amplitude and phase are those of the Fourier transform of a record along tokens. The features of a place can
be rotated into one another without changing the model, so that a phase of each feature for itself would be an
accident of their numbering. Here the amplitude at a frequency is the norm of the vector of all features
there, and the phase is the unit vector that is left, which a rotation of the features turns along. A
scrambled phase is one angle for all features at each frequency: relations between features stay (Prichard and
Theiler 1994).

The mean of the record, and the highest frequency of an even number of tokens, have no phase, and stay as they
are in all of these; so values stay real. All of them see whole records; only a shift by m > 0 tokens does not
look ahead.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import parameter
from resonance_lens.errors import RecordError
from resonance_lens.patching.operations.base import TOKEN_SITES, Operation, Scene, operation

SMALLEST_AMPLITUDE = 1e-12
"""Relative to the record, its mean included: what is below is rounding, has no phase, and is set to zero."""

FEWEST_TOKENS = 3
"""A shorter record has no frequency with a phase."""


@dataclass(frozen=True, kw_only=True)
class _OfSpectrum(Operation):
    """What the operations on spectra have in common: records of one length, there and back."""

    sites: ClassVar[tuple[str, ...]] = TOKEN_SITES

    first_position: str = parameter(
        "keep", choices=("keep", "edit"), help="leave the first position alone, or make it part of the record"
    )

    @property
    def looks_ahead(self) -> bool:
        """A phase is one of a whole record."""
        return True

    @abc.abstractmethod
    def changed(self, spectrum: Tensor, other: Tensor | None, rows: Tensor, scene: Scene) -> Tensor:
        """Return other values for the frequencies that have a phase.

        Parameters
        ----------
        spectrum
            Complex ``[row, frequency, feature]``.
        other
            The donor's, or ``None``.
        rows, scene
            Which rows these are, and of what.
        """

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values with another spectrum; see `Operation.edit`."""
        self.require(values, scene)
        donor = scene.donor if self.donor else None
        out = values.clone()
        for rows, tokens in scene.records(self.first_position):
            n = tokens.stop - tokens.start
            if n < FEWEST_TOKENS:
                raise RecordError(
                    f"{self.name} needs records of at least {FEWEST_TOKENS} tokens; one has {n}"
                    f"{' beyond the first position' * tokens.start}."
                )
            phased = slice(1, (n - 1) // 2 + 1)
            spectrum = _spectrum(values[rows, tokens])
            other = None if donor is None else _spectrum(donor[rows, tokens])[:, phased]
            new = spectrum.clone()
            new[:, phased] = self.changed(spectrum[:, phased], other, rows, scene)
            out[rows, tokens] = torch.fft.irfft(new, n, dim=1).to(values.dtype)
        return out


def _spectrum(record: Tensor) -> Tensor:
    """Return the transform ``[row, frequency, feature]`` of records of one length."""
    spectrum: Tensor = torch.fft.rfft(record.double(), dim=1)
    amplitude = _amplitude(spectrum)
    rounding = amplitude <= SMALLEST_AMPLITUDE * torch.linalg.vector_norm(amplitude, dim=1, keepdim=True)
    return spectrum.masked_fill(rounding, 0.0)


def _amplitude(spectrum: Tensor) -> Tensor:
    """Return the norms ``[row, frequency, 1]`` of vectors of features."""
    norms: Tensor = torch.linalg.vector_norm(spectrum, dim=-1, keepdim=True)
    return norms


def _with_amplitude(phases: Tensor, amplitude: Tensor, otherwise: Tensor) -> Tensor:
    """Return the phases of one spectrum with the amplitude of another; where it has none, a third one's."""
    own = _amplitude(phases)
    there = own > 0
    return torch.where(there, phases * (amplitude / torch.where(there, own, 1.0)), otherwise)


@operation
@dataclass(frozen=True, kw_only=True)
class SwapPhase(_OfSpectrum):
    """Take the phases along tokens from the other run, and keep the amplitudes of this one.

    A frequency at which the donor has no amplitude keeps its phase.
    """

    name: ClassVar[str] = "swap_phase"
    donor: ClassVar[bool] = True

    def changed(self, spectrum: Tensor, other: Tensor | None, rows: Tensor, scene: Scene) -> Tensor:
        """Return the donor's phases with the amplitudes that there are."""
        assert other is not None
        return _with_amplitude(other, _amplitude(spectrum), spectrum)

    def complement(self) -> Operation:
        """Return the operation that takes the amplitudes instead."""
        return SwapAmplitude(first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class SwapAmplitude(_OfSpectrum):
    """Take the amplitudes along tokens from the other run, and keep the phases of this one.

    A frequency at which this run has no amplitude, and so no phase, stays without.
    """

    name: ClassVar[str] = "swap_amplitude"
    donor: ClassVar[bool] = True

    def changed(self, spectrum: Tensor, other: Tensor | None, rows: Tensor, scene: Scene) -> Tensor:
        """Return the phases that there are with the donor's amplitudes."""
        assert other is not None
        return _with_amplitude(spectrum, _amplitude(other), spectrum)

    def complement(self) -> Operation:
        """Return the operation that takes the phases instead."""
        return SwapPhase(first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class ScramblePhase(_OfSpectrum):
    """Turn each frequency along tokens by a random angle, the same for all features; amplitudes stay."""

    name: ClassVar[str] = "scramble_phase"
    wants: ClassVar[tuple[str, ...]] = ("generators",)

    def changed(self, spectrum: Tensor, other: Tensor | None, rows: Tensor, scene: Scene) -> Tensor:
        """Return the spectrum turned."""
        n_frequencies = spectrum.shape[1]
        drawn = [
            torch.rand(n_frequencies, generator=scene.generator(row), dtype=torch.float64)
            for row in rows.tolist()
        ]
        angle = 2 * math.pi * torch.stack(drawn).to(spectrum.device)  # [row, frequency]
        return spectrum * torch.polar(torch.ones_like(angle), angle)[:, :, None]

    def complement(self) -> Operation:
        """Return the operation that scrambles the amplitudes."""
        return ScrambleAmplitude(first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class ScrambleAmplitude(_OfSpectrum):
    """Put the amplitudes along tokens on other frequencies, in random order; phases and total power stay.

    A frequency without an amplitude has no phase, and keeps out of it.
    """

    name: ClassVar[str] = "scramble_amplitude"
    wants: ClassVar[tuple[str, ...]] = ("generators",)

    def changed(self, spectrum: Tensor, other: Tensor | None, rows: Tensor, scene: Scene) -> Tensor:
        """Return the phases with the amplitudes of other frequencies."""
        amplitude = _amplitude(spectrum)
        order = torch.arange(spectrum.shape[1], device=spectrum.device).repeat(len(rows), 1)
        for at, row in enumerate(rows.tolist()):
            chosen = torch.nonzero(amplitude[at, :, 0]).squeeze(1)
            drawn = torch.randperm(len(chosen), generator=scene.generator(row)).to(chosen.device)
            order[at, chosen] = chosen[drawn]
        return _with_amplitude(spectrum, amplitude.gather(1, order[:, :, None]), spectrum)

    def complement(self) -> Operation:
        """Return the operation that scrambles the phases."""
        return ScramblePhase(first_position=self.first_position)


@operation
@dataclass(frozen=True, kw_only=True)
class Shift(Operation):
    """Move values by m tokens: m above 0 delays them, below 0 brings them forward (and looks ahead).

    The m tokens at the end that nothing is moved to keep their own values.
    """

    name: ClassVar[str] = "shift"
    sites: ClassVar[tuple[str, ...]] = TOKEN_SITES

    tokens: int = parameter(1, help="m: above 0 delays, below 0 brings forward")
    first_position: str = parameter(
        "keep", choices=("keep", "edit"), help="leave the first position alone, or make it part of the record"
    )

    @property
    def looks_ahead(self) -> bool:
        """Values that are brought forward come from later tokens."""
        return self.tokens < 0

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values moved; see `Operation.edit`."""
        self.require(values, scene)
        out = values.clone()
        for rows, tokens in scene.records(self.first_position):
            n = tokens.stop - tokens.start
            if abs(self.tokens) >= n:
                raise RecordError(
                    f"shift by {self.tokens} tokens needs records of more than {abs(self.tokens)} tokens; "
                    f"one has {n}{' beyond the first position' * tokens.start}."
                )
            later, earlier = max(self.tokens, 0), max(-self.tokens, 0)
            out[rows, tokens.start + later : tokens.stop - earlier] = values[
                rows, tokens.start + earlier : tokens.stop - later
            ]
        return out
