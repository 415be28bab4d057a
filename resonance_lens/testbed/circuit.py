"""A hand-built transformer with a statement of its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.stats.streams import stream
from resonance_lens.testbed.building import Array, Shape, Weights, build_model
from resonance_lens.testbed.expectation import Place, claims

if TYPE_CHECKING:
    import torch

SHARPNESS = 16.0
"""Nats between a key that is looked at and one that is not: a weight of 1e-7 beside one of 1."""

N_PROMPTS = 128
"""Prompts over which effects are averaged."""

Draw = Callable[[np.random.Generator, int], Sequence[int]]
Patterns = Callable[[Sequence[int]], Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """A transformer whose weights were computed, not trained, and what is true of it.

    Attributes
    ----------
    name
        What it is loaded by.
    description
        One sentence.
    parameters
        What it was made with, as plain data.
    shape, weights
        The transformer; weights in double precision.
    heads
        What each head does, ``"layer.head": "a phrase"``.
    facts
        What else is true, as plain data: kernels, sink masses, frequencies, locked pairs.
    patterns
        Returns the planted attention ``[layer, head, query, key]`` of one row of token ids, in double
        precision and without running the model.
    draw
        Returns one row of token ids of a length, of the kind that the circuit is made for.
    exchangeable
        Heads whose scores are independent draws, one for each key, so that no statistic of their
        attention differs from that on permuted keys.
    independent
        Layers whose heads do not agree more within a prompt than across prompts, because what they look at
        is independent of each other.
    default_length
        Length of the prompts, in tokens, for which effects are stated.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    shape: Shape
    weights: Weights
    heads: Mapping[str, str]
    facts: Mapping[str, Any]
    patterns: Patterns
    draw: Draw
    exchangeable: Sequence[Place] = ()
    independent: Sequence[int] = ()
    default_length: int = 48

    def __str__(self) -> str:
        return self.name

    def model(self, host: str | None = None, *, device: str | torch.device | None = None) -> Any:
        """Return the model, fresh, for a host; see `resonance_lens.testbed.build_model`."""
        return build_model(self.shape, self.weights, name=f"testbed:{self.name}", host=host, device=device)

    def tokens(self, rng: np.random.Generator, n_prompts: int, length: int) -> list[list[int]]:
        """Return prompts as rows of token ids, of the kind that the circuit is made for.

        Parameters
        ----------
        rng
            Where they are drawn from.
        n_prompts
            How many, at least 1.
        length
            Tokens of each, from 2 to the context of the model.

        Raises
        ------
        ParameterError
            If a number is out of its range.
        """
        owner = f"{self.name}.tokens"
        require(owner, "n_prompts", n_prompts >= 1, "at least 1", n_prompts)
        longest = self.shape.n_ctx
        require(owner, "length", 2 <= length <= longest, f"from 2 to {longest} tokens", length)
        return [[int(token) for token in self.draw(rng, length)] for _ in range(n_prompts)]

    @cached_property
    def truth(self) -> dict[str, Any]:
        """What is true of the circuit, as plain data that can be written as JSON.

        Layers and heads count from 0 and stand as ``[layer, head]``; lags are in tokens, frequencies in
        cycles per token, scores in nats.

        ``heads``
            What each head does.
        ``claims``
            For each claim of an analysis, ``"phase_coherence.coherence_squared"`` for instance, its
            ``minimum_effect``, and for each of ``keep`` and ``drop`` (the first position): ``effect``, value
            minus null at each place, zero where there is none; ``finds``, the places where it is at
            least the smallest that counts, up or down; and ``nothing``, the places where there is no effect
            at all. Places are ``[layer, head]``, and ``[layer]`` for ``head_sync``. Effects are worked
            out from the planted attention, without running the model or the analysis.
        ``length``, ``prompts``
            Of the prompts that effects are averaged over.
        others
            As the circuit has them; see its function.
        """
        rng = stream(0, "testbed", self.name)
        length = min(self.default_length, self.shape.n_ctx)
        rows = self.tokens(rng, N_PROMPTS, length)
        planted = np.stack([self.patterns(row) for row in rows])  # [prompt, layer, head, query, key]
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
            "length": length,
            "prompts": N_PROMPTS,
            "heads": dict(self.heads),
            **self.facts,
            "claims": claims(planted, self.exchangeable, self.independent),
        }


def require(owner: str, name: str, right: bool, requirement: str, got: object) -> None:
    """Raise `ParameterError` unless a parameter is right."""
    if not right:
        raise ParameterError(wrong_parameter(owner, name, requirement, got))


def require_context(owner: str, n_ctx: int) -> None:
    """Raise `ParameterError` unless a context is one that a circuit can have."""
    require(owner, "n_ctx", isinstance(n_ctx, int) and 8 <= n_ctx <= 512, "from 8 to 512 tokens", n_ctx)


def causal_softmax(scores: Array) -> Array:
    """Return attention ``[..., query, key]`` from scores in nats, each query seeing itself and before."""
    n = scores.shape[-1]
    seen = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    weights = np.exp(seen - seen.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def copying(d_model: int, d_head: int, source: slice, target: slice, gain: float) -> tuple[Array, Array]:
    """Return value and output weights of a head that copies some dimensions to others.

    Parameters
    ----------
    d_model, d_head
        Sizes; the head is at least as wide as what it copies.
    source, target
        Dimensions of the residual stream, equally many.
    gain
        What is written is this times the attention-weighted mean of what is read.

    Returns
    -------
    tuple of arrays
        ``W_V`` [d_model, d_head] and ``W_O`` [d_head, d_model].
    """
    width = source.stop - source.start
    read, write = np.zeros((d_model, d_head)), np.zeros((d_head, d_model))
    read[source, :width] = np.eye(width)
    write[:width, target] = gain * np.eye(width)
    return read, write


def uniform_tokens(d_vocab: int) -> Draw:
    """Return a function that draws rows of independent tokens, each as likely as the others."""

    def draw(rng: np.random.Generator, length: int) -> Sequence[int]:
        return [int(token) for token in rng.integers(d_vocab, size=length)]

    return draw
