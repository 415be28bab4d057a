"""Interventions on attention patterns: rows stay shares of one over the keys that a query sees.

An operation never gives weight to a key that the query cannot see, sliding windows included, and leaves a row
as it is where there is nothing to work on: a query that sees a single key, say. All of them look at one row
at a time, so none looks ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import parameter
from resonance_lens.dsp.attention import SMALLEST_FREE_WEIGHT, Circle, Window, key_angles, window
from resonance_lens.dsp.circular import SMALLEST_RESULTANT
from resonance_lens.errors import ParameterError, RecordError
from resonance_lens.patching.operations.base import Operation, Scene, operation
from resonance_lens.patching.operations.tilt import tilted
from resonance_lens.signal import Signal


def windows(values: Tensor, scene: Scene) -> tuple[Window, Tensor]:
    """Return the window of every query of a pattern, and which keys it holds.

    Parameters
    ----------
    values
        ``[row, head, query, key]``.
    scene
        Where it is: causal or not, with or without a sliding window.

    Returns
    -------
    tuple
        The windows, and booleans ``[row, 1, query, key]``: real keys that a real query sees.
    """
    axes = ("batch", "head", "query", "key")
    pattern = Signal(values, axes, lengths=scene.lengths.to(values.device))
    facts = scene.facts
    seen = window(pattern, causal=facts.causal, sliding=facts.sliding_windows[scene.layer])
    key = torch.arange(values.shape[-1], device=values.device)
    start, size = seen.start[:, None, :, None], seen.size[:, None, :, None]  # [row, 1, query, 1]
    return seen, (key >= start) & (key < start + size) & scene.mask(values)


@dataclass(frozen=True, kw_only=True)
class _OfPattern(Operation):
    """What operations on patterns have in common: rows of weights put in place of rows."""

    sites: ClassVar[tuple[str, ...]] = ("pattern",)

    def replaced(self, values: Tensor, weights: Tensor, on: Tensor, first: Tensor | None = None) -> Tensor:
        """Return a pattern with the weights of keys divided by their sum in each row.

        Parameters
        ----------
        values
            The pattern.
        weights
            ``[row, head, query, key]``, at least 0, float64. A row whose weights are all zero is left as
            it is.
        on
            Booleans: the keys whose weights are replaced; others keep theirs.
        first
            ``[row, head, query, 1]``: how much of a row the replaced keys have together; all of it if not
            said.
        """
        weights = torch.where(on, weights, 0.0)
        total = weights.sum(-1, keepdim=True)
        share = weights / torch.where(total > 0, total, 1.0)
        if first is not None:
            share = share * first
        return torch.where(on & (total > 0), share.to(values.dtype), values)


@dataclass(frozen=True, kw_only=True)
class _OfFreeKeys(_OfPattern):
    """Operations that may leave the weight of the prompt's first key alone."""

    def free(self, values: Tensor, scene: Scene, first_key: str) -> tuple[Tensor, Tensor]:
        """Return which keys are replaced, and the weight that they get together in each row."""
        _, on = windows(values, scene)
        if first_key == "keep":
            on = on & (torch.arange(values.shape[-1], device=values.device) > 0)
            return on, torch.where(on, values.double(), 0.0).sum(-1, keepdim=True)
        return on, torch.ones_like(values[..., :1], dtype=torch.float64)


@operation
@dataclass(frozen=True, kw_only=True)
class Kernel(_OfFreeKeys):
    """Replace a pattern by the head's kernel by lag, renormalised in each window.

    A kernel of `attention_filter` says nothing of the prompt's first key, where heads park what they do not
    use: by default that key keeps its weight, and the kernel shares out the rest. A row in whose window the
    kernel is zero is left as it is.
    """

    name: ClassVar[str] = "kernel"
    wants: ClassVar[tuple[str, ...]] = ("kernel",)

    first_key: str = parameter(
        "keep", choices=("keep", "edit"), help="leave the weight of the prompt's first key alone, or edit it"
    )

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the kernel in every row; see `Operation.edit`."""
        self.require(values, scene)
        assert scene.kernel is not None
        kernel = scene.kernel.to(values.device).double()
        if (
            kernel.ndim > 2
            or not bool((kernel >= 0).all())
            or kernel.shape[:-1] not in ((), values.shape[1:2])
        ):
            raise RecordError(
                "kernel needs weights by lag, at least 0, of one head or of each head of the layer; got "
                f"shape {tuple(kernel.shape)} for {values.shape[1]} heads."
            )
        on, free = self.free(values, scene, self.first_key)
        at = torch.arange(values.shape[-1], device=values.device)
        lag = at[:, None] - at  # [query, key]
        known = (lag >= 0) & (lag < kernel.shape[-1])
        weights = torch.where(known, kernel[..., lag.clamp(0, kernel.shape[-1] - 1)], 0.0)
        return self.replaced(values, weights.expand(values.shape), on, free)


@operation
@dataclass(frozen=True, kw_only=True)
class Uniform(_OfFreeKeys):
    """Replace a pattern by equal weights on all keys of each window."""

    name: ClassVar[str] = "uniform"

    first_key: str = parameter(
        "edit", choices=("edit", "keep"), help="leave the weight of the prompt's first key alone, or edit it"
    )

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return uniform attention; see `Operation.edit`."""
        self.require(values, scene)
        on, free = self.free(values, scene, self.first_key)
        return self.replaced(values, torch.ones_like(values, dtype=torch.float64), on, free)


@operation
@dataclass(frozen=True, kw_only=True)
class SinkFree(_OfPattern):
    """Take the prompt's first key out of a pattern, and divide each row by what is left.

    A row that has nothing on other keys is left as it is.
    """

    name: ClassVar[str] = "sink_free"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the pattern without its first key; see `Operation.edit`."""
        self.require(values, scene)
        _, on = windows(values, scene)
        free = torch.arange(values.shape[-1], device=values.device) > 0
        return self.replaced(values, values.double() * free, on)

    def complement(self) -> Operation:
        """Return the operation that leaves the first key alone in the row."""
        return SinkOnly()


@operation
@dataclass(frozen=True, kw_only=True)
class SinkOnly(_OfPattern):
    """Give all weight of each row to the prompt's first key, where it has some."""

    name: ClassVar[str] = "sink_only"

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the pattern with its first key alone; see `Operation.edit`."""
        self.require(values, scene)
        _, on = windows(values, scene)
        first = torch.arange(values.shape[-1], device=values.device) == 0
        return self.replaced(values, values.double() * first, on)

    def complement(self) -> Operation:
        """Return the operation that takes the first key out."""
        return SinkFree()


@operation
@dataclass(frozen=True, kw_only=True)
class Temperature(_OfPattern):
    """Sharpen (below 1) or soften (above 1) a pattern: each weight to the power 1/T, renormalised.

    What a softmax of the scores divided by T would be. Weights of exactly zero stay zero.
    """

    name: ClassVar[str] = "temperature"

    temperature: float = parameter(
        2.0, minimum=0.01, maximum=1000.0, help="T: below 1 sharpens, above 1 softens, 1 changes nothing"
    )

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the pattern at another temperature; see `Operation.edit`."""
        self.require(values, scene)
        _, on = windows(values, scene)
        weights = torch.where(on, values.double(), 0.0)
        highest = weights.amax(-1, keepdim=True)
        scaled = weights / torch.where(highest > 0, highest, 1.0)
        return self.replaced(values, scaled ** (1 / self.temperature), on)


@operation
@dataclass(frozen=True, kw_only=True)
class ClampCoherence(_OfFreeKeys):
    """Bring the phase coherence of each row to a given value, and change the row no more than that takes.

    The keys that a query sees lie on a circle, as in `phase_coherence`, and a row's resultant is the sum of
    their unit phasors, weighted. The row is multiplied by ``exp(a cos(theta) + b sin(theta))``, theta from
    its own mean direction, and renormalised, with a and b such that the resultant has the length that was
    asked for and the direction that it had: of all such rows the one of the smallest relative entropy to the
    row that was (a tilt by a alone would turn the resultant).

    By default the prompt's first key is taken out, keeps its weight, and the circle closes over the others,
    as in ``first_position="drop"`` of `phase_coherence`. Rows are left as they are that have fewer than
    ``min_keys`` keys on the circle, or less than 0.001 of their weight there.
    """

    name: ClassVar[str] = "clamp_coherence"

    coherence: float = parameter(
        0.5, minimum=0.0, maximum=1.0, help="resultant length that each row is brought to"
    )
    circle: str = parameter(
        "full",
        choices=("full", "half"),
        help="lay the keys out on the whole circle or on half of it",
    )
    first_key: str = parameter(
        "keep", choices=("keep", "edit"), help="leave the weight of the prompt's first key alone, or edit it"
    )
    min_keys: int = parameter(8, minimum=2, help="leave rows alone that see fewer keys")

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the pattern with the coherence asked for; see `Operation.edit`."""
        self.require(values, scene)
        circle: Circle = "half" if self.circle == "half" else "full"
        keep = self.first_key == "keep"
        seen, _ = windows(values, scene)
        on, free = self.free(values, scene, self.first_key)
        angle = key_angles(seen, values.shape[-1], circle, free=keep)[0][:, None].expand(values.shape)
        wanted = (on.sum(-1, keepdim=True) >= self.min_keys) & (free >= SMALLEST_FREE_WEIGHT)
        wanted = wanted.squeeze(-1).expand(values.shape[:-1])  # [row, head, query]
        rows = torch.where(on, values.double(), 0.0)[wanted]
        rows, angle = rows / rows.sum(-1, keepdim=True), angle[wanted]
        made, reached = tilted(rows, angle, self.coherence, SMALLEST_RESULTANT)
        if not bool(reached.all()):
            row, head, query = torch.nonzero(wanted)[int(torch.nonzero(~reached)[0])].tolist()
            head = head if scene.head is None else scene.head
            raise ParameterError(
                f"clamp_coherence cannot bring {int((~reached).sum())} of {len(reached)} rows of layer "
                f"{scene.layer} to a coherence of {self.coherence:g}, the first of them query {query} of "
                f"head {head} in row {row}: its keys with weight do not lie so, or it points nowhere; ask "
                "for another coherence, or for more keys with min_keys."
            )
        weights = torch.zeros_like(values, dtype=torch.float64)
        weights[wanted] = made
        return self.replaced(values, weights, on, free)
