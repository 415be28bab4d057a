"""How the prompts of an analysis are run: conditions, and drives that are put into the model, as data."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from resonance_lens.arrangement import Arrangement
from resonance_lens.dsp import excitation
from resonance_lens.dsp.excitation import Timing
from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.stats.streams import stream

DriveKind = Literal["multisine", "tone", "chirp", "impulse", "noise"]
KINDS: tuple[DriveKind, ...] = get_args(DriveKind)


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A small signal along the tokens, added to the residual stream in one direction.

    What is added at token t is ``amplitude * rho * s(t) * v``: rho is the median norm of a token of the
    prompt at that place, the first left out; s has unit root mean square over whole periods (an impulse:
    height 1); v is a unit vector.

    Attributes
    ----------
    site, layer
        Where: a site of the residual stream or of what is written to it.
    timing
        When it begins, and when it is listened to.
    amplitude
        In median norms; not zero.
    direction
        Which of the random directions: the same number is the same vector in every pass of a seed.
    vector
        The direction, where it is not a random one: ``[d_model]``, of any length but zero.
    kind
        ``multisine``: equal power at every line, drawn phases, low crest. ``tone``: its one line. ``chirp``:
        a sweep from the lowest line to the highest, begun at a drawn place of it. ``impulse``: one token,
        ``at``. ``noise``: white.
    lines
        Whole numbers of waves in a period of ``timing``.
    draw
        Which draw of phases or noise. Every prompt has its own.
    at
        Token of an impulse.

    Raises
    ------
    ParameterError
        If a part is out of its range.
    """

    site: str = "resid_pre"
    layer: int
    timing: Timing
    amplitude: float
    direction: int = 0
    vector: tuple[float, ...] | None = field(default=None, repr=False)
    kind: DriveKind = "multisine"
    lines: tuple[int, ...] = ()
    draw: int = 0
    at: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            requirement = "one of " + ", ".join(map(repr, KINDS))
            raise ParameterError(wrong_parameter("Drive", "kind", requirement, self.kind))
        if not np.isfinite(self.amplitude) or self.amplitude == 0:
            raise ParameterError(
                f"The 'amplitude' of a drive must be a number other than 0, in median norms of a token; got "
                f"{self.amplitude!r}: a drive of nothing has no response."
            )
        if self.kind in ("multisine", "tone", "chirp"):
            excitation.require_lines(self.timing, self.lines)
        if self.kind == "tone" and len(self.lines) != 1:
            raise ParameterError(f"A tone has one line; got {self.lines!r}.")
        if self.kind == "impulse" and not (
            self.at is not None and self.timing.onset <= self.at < self.timing.tokens
        ):
            requirement = f"a token from {self.timing.onset} to {self.timing.tokens - 1}"
            raise ParameterError(wrong_parameter("Drive", "at", requirement, self.at))
        if self.vector is not None and not (np.isfinite(self.vector).all() and np.any(self.vector)):
            raise ParameterError("The 'vector' of a drive must be finite numbers, not all of them zero.")

    def signal(self, seed: int, prompt: int) -> Tensor:
        """Return s of one prompt, ``[token]``, float64: as many tokens as the timing needs."""
        timing = self.timing
        rng = stream(seed, "drive", self.kind, self.direction, self.draw, prompt)
        if self.kind == "impulse":
            values = torch.zeros(timing.tokens, dtype=torch.float64)
            values[self.at] = 1.0
            return values
        if self.kind == "noise":
            values = excitation.noise(timing.tokens, rng)
            values[: timing.onset] = 0.0
            return values
        if self.kind == "multisine":
            period = _multisine(timing.period, self.lines, seed, self.direction, self.draw, prompt)
        elif self.kind == "tone":
            period = excitation.tone(timing.period, self.lines[0], float(rng.uniform(0, 2 * np.pi)))
        else:
            # Begun anywhere: what a system moves between frequencies is then unlike in unlike prompts.
            period = excitation.chirp(timing.period, self.lines).roll(int(rng.integers(timing.period)))
        return excitation.driven(timing, period)

    def unit(self, d_model: int, seed: int) -> Tensor:
        """Return v: ``[d_model]``, float64.

        Raises
        ------
        ParameterError
            If a vector of another size was given.
        """
        if self.vector is None:
            values = stream(seed, "direction", self.direction).standard_normal(d_model)
        else:
            values = np.asarray(self.vector)
            if values.shape != (d_model,):
                raise ParameterError(
                    f"The 'vector' of a drive needs {d_model} numbers, as many as the residual stream has; "
                    f"got {values.size}."
                )
        return torch.from_numpy(values / np.linalg.norm(values))


@functools.lru_cache(maxsize=1024)
def _multisine(
    period: int, lines: tuple[int, ...], seed: int, direction: int, draw: int, prompt: int
) -> Tensor:
    """Return the period of one draw: every layer and amplitude asks for it, and making it takes rounds."""
    rng = stream(seed, "drive", "multisine", direction, draw, prompt)
    return excitation.multisine(period, lines, rng)


@dataclass(frozen=True)
class Condition:
    """One way of running the prompts.

    Attributes
    ----------
    name
        What the condition is called in ``Where.condition`` and in the accumulated features.
    tokens
        ``given``, or ``shuffled``: the tokens of each prompt in random order, the first kept.
    weights
        ``given``, or ``random``: a twin of the model whose weights are drawn anew.
    drives
        Groups of drives, each of the same number. The prompts are then run undriven once and with each drive,
        and what `Analysis.observe` sees is the difference, one group at a time: signals have the axis
        ``drive`` in front, and ``where.drives`` says which. What it returns for a group gets the groups as an
        axis, behind that of the prompts: see `resonance_lens.driving`.
    arrangements
        Of the tokens: the prompts are run once in each, and what `Analysis.observe` sees is one of them at a
        time, said in ``where.arrangement``. Features get the arrangements as an axis, behind that of the
        prompts: see `resonance_lens.observing.observe_arranged`.
    """

    name: str = "plain"
    tokens: Literal["given", "shuffled"] = "given"
    weights: Literal["given", "random"] = "given"
    drives: tuple[tuple[Drive, ...], ...] = ()
    arrangements: tuple[Arrangement, ...] = ()

    def __post_init__(self) -> None:
        if self.drives and self.arrangements:
            raise ParameterError("A condition has drives or arrangements, not both; make one of each.")

    @property
    def passes(self) -> int:
        """How often a prompt is run undriven."""
        return max(1, len(self.arrangements))


BASELINE_CONDITIONS: dict[str, Condition] = {
    "random_weights": Condition("random_weights", weights="random"),
    "shuffled_tokens": Condition("shuffled_tokens", tokens="shuffled"),
}
"""Baselines that take passes of their own; an analysis that names one in ``baselines`` is run under it, with
the drives and arrangements of its plain condition."""


@dataclass(frozen=True)
class Design:
    """The conditions that an analysis wants its prompts run under, the plain one first."""

    conditions: tuple[Condition, ...] = (Condition(),)


def sequences(conditions: Sequence[Condition]) -> int:
    """Return how many sequences each prompt is run as: undriven and driven, in all arrangements, under all
    conditions."""
    return sum(condition.passes + sum(map(len, condition.drives)) for condition in conditions)
