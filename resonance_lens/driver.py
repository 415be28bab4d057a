"""A drive as a hook function: put a small wave into any model of TransformerLens, in your own passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resonance_lens.design import Drive, DriveKind
from resonance_lens.driving import added_by, median_norms, require_drivable, require_length
from resonance_lens.dsp.excitation import Timing, line_of
from resonance_lens.errors import AdapterError, ParameterError
from resonance_lens.facts import Batch
from resonance_lens.hooks import attach
from resonance_lens.hooks.adapter import Hook, ModelAdapter
from resonance_lens.hooks.writing import write_anywhere


@dataclass(frozen=True)
class Driver:
    """A drive that can be hooked into a model; made by `drive`.

    Attributes
    ----------
    drive
        What is put in, as data.
    seed
        Of its phases and of its random direction.
    """

    drive: Drive
    seed: int

    def signal(self, prompt: int = 0) -> Tensor:
        """Return s, what row ``prompt`` of a batch is driven with: ``[token]``, of unit root mean square."""
        return self.drive.signal(self.seed, prompt)

    def direction(self, d_model: int) -> Tensor:
        """Return v: ``[d_model]``, of unit length."""
        return self.drive.unit(d_model, self.seed)

    def hooks(
        self, model: Any, *, lengths: Tensor | Sequence[int] | None = None, padding_side: str = "right"
    ) -> list[Hook]:
        """Return hooks for ``model.run_with_hooks(tokens, fwd_hooks=...)``.

        Parameters
        ----------
        model
            A TransformerBridge or a HookedTransformer.
        lengths
            Real tokens of each prompt, where some are padded.
        padding_side
            Where they are padded.

        Returns
        -------
        list of tuple
            Names of hook points and functions, for any number of passes. Row i of a pass is driven with
            ``signal(i)``.

        Raises
        ------
        AdapterError
            If the place cannot be written to.
        ParameterError
            If there is no such layer, or the drive is lost in the model's rounding.
        PromptError
            When the hooks are called, if a prompt is shorter than the drive.
        """
        adapter = attach(model)
        if not isinstance(adapter, ModelAdapter):
            raise AdapterError(
                f"A drive is for a model, and {adapter.facts.model_name} ({adapter.facts.host}) makes no "
                "passes."
            )
        require_drivable(adapter, [(self.drive,)])

        def change(values: Tensor, batch: Batch) -> Tensor:
            require_length(batch, [(self.drive,)])
            norms = median_norms(values, batch.lengths)
            return values + added_by(self.drive, norms, values, batch.prompts, self.seed)

        return write_anywhere(
            adapter,
            self.drive.site,
            self.drive.layer,
            change,
            lengths=None if lengths is None else torch.as_tensor(lengths),
            padding_side=padding_side,
        )


def drive(
    *,
    layer: int,
    tokens: int,
    site: str = "resid_pre",
    kind: DriveKind | None = None,
    frequency: float | None = None,
    epsilon: float = 0.03,
    direction: int | Sequence[float] | Tensor = 0,
    period: int | None = None,
    at: int | None = None,
    seed: int = 0,
) -> Driver:
    """Return a small wave along the tokens that can be hooked into a model.

    Parameters
    ----------
    layer, site
        Where it is added: a site of the residual stream, or of what is written to it.
    tokens
        How long it goes on: at most the length of the shortest prompt.
    kind
        ``multisine`` (all frequencies at once, the default), ``tone`` (the default where a frequency is
        given), ``chirp``, ``noise``, or ``impulse`` at the token ``at``.
    frequency
        Of a tone, in cycles per token; the nearest that makes whole waves in a period is taken.
    epsilon
        Amplitude, in median norms of a token at that place.
    direction
        Number of a random direction of the seed, or a vector ``[d_model]``.
    period
        Tokens of the longest wave; by default the largest power of two that leaves three periods to listen to
        and one to settle in.
    at
        Token of an impulse.
    seed
        Of phases and random directions.

    Raises
    ------
    ParameterError
        If a frequency is at or above the Nyquist frequency or below the resolution, the amplitude is zero, or
        parts do not go together.
    RecordError
        If ``tokens`` are too few for two periods.

    Examples
    --------
    >>> import resonance_lens as rl
    >>> wave = rl.drive(layer=2, tokens=256, frequency=0.25, epsilon=0.05)
    >>> wave.drive.kind, wave.drive.timing.window
    ('tone', slice(64, 256, None))

    With a model: ``model.run_with_hooks(ids, fwd_hooks=wave.hooks(model))``.
    """
    timing = Timing.fit(tokens, period=period)
    chosen: DriveKind = kind or ("multisine" if frequency is None else "tone")
    if (frequency is not None) != (chosen == "tone"):
        raise ParameterError(
            f"A tone, and nothing else, has one frequency; got kind {chosen!r} with frequency {frequency!r}."
        )
    lines = timing.lines if frequency is None else (line_of(timing, frequency),)
    vector = None if isinstance(direction, int) else tuple(float(x) for x in direction)
    return Driver(
        Drive(
            site=site,
            layer=layer,
            timing=timing,
            amplitude=epsilon,
            direction=direction if isinstance(direction, int) else 0,
            vector=vector,
            kind=chosen,
            lines=lines,
            at=at,
        ),
        seed,
    )
