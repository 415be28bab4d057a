"""Interventions on the pairs of dimensions of queries and keys that rotary positions turn together."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import parameter
from resonance_lens.dsp.rotary import split_pairs
from resonance_lens.errors import AdapterError, ParameterError
from resonance_lens.facts import Facts
from resonance_lens.patching.operations.base import Operation, Scene, operation

_PART = re.compile(r"(\d+)(?:-(\d+))?")


def pair_numbers(pairs: str) -> tuple[int, ...]:
    """Return the numbers of pairs that a text names: ``0``, ``0+3``, ``4-7``; ``none`` is no pair.

    Raises
    ------
    ParameterError
        If it is not of that form.
    """
    found: set[int] = set()
    for part in [] if pairs == "none" else pairs.split("+"):
        numbers = _PART.fullmatch(part)
        if numbers is None or (numbers[2] and int(numbers[2]) < int(numbers[1])):
            raise ParameterError(
                f"Rotary pairs go by numbers from 0, the fastest, such as 0, 0+3 or 4-7, or none; got "
                f"{pairs!r}."
            )
        found.update(range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1))
    return tuple(sorted(found))


@operation
@dataclass(frozen=True, kw_only=True)
class RemoveRotaryPair(Operation):
    """Take pairs of rotary dimensions out of queries or keys, so that they add nothing to any score.

    Both dimensions of a pair are set to zero at every token, the first position included: zero stays zero
    when it is turned. Which dimensions make a pair is a fact of the model. In models that normalise
    queries and keys of a head after ``q`` and ``k``, the other dimensions grow by that; use ``rot_q``
    and ``rot_k`` there.
    """

    name: ClassVar[str] = "remove_rotary_pair"
    sites: ClassVar[tuple[str, ...]] = ("q", "k", "rot_q", "rot_k")

    pairs: str = parameter(
        "0", help="numbers of the pairs from 0, the fastest, joined by '+', with ranges such as 4-7; or none"
    )
    rest: bool = parameter(
        False, help="take out everything but the pairs, the dimensions that do not turn included"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        pair_numbers(self.pairs)

    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return the values without the pairs; see `Operation.edit`.

        Raises
        ------
        AdapterError
            If the model has no rotary positions, or its host does not tell how pairs are laid out.
        """
        self.require(values, scene)
        chosen = self._dimensions(scene.facts).to(values.device)  # [d_head]
        removed = (~chosen if self.rest else chosen).repeat(values.shape[-1] // scene.facts.d_head)
        return values.masked_fill(scene.mask(values) & removed, 0.0)

    def _dimensions(self, facts: Facts) -> Tensor:
        """Return booleans ``[d_head]``: the dimensions of the pairs."""
        if facts.rotary_dims is None:
            raise AdapterError(
                f"{facts.model_name} has no rotary pairs: its positions are {facts.positions}, not rotary."
            )
        if facts.rotary_pairs is None:
            raise AdapterError(
                f"{facts.model_name} ({facts.host}) does not tell which of its rotary dimensions are a pair."
            )
        numbers = pair_numbers(self.pairs)
        if numbers and numbers[-1] >= facts.rotary_dims // 2:
            raise ParameterError(
                f"{facts.model_name} has {facts.rotary_dims // 2} rotary pairs, numbered from 0; got "
                f"{numbers[-1]}."
            )
        chosen = torch.zeros(facts.d_head, dtype=torch.bool)
        for half in split_pairs(chosen, facts.rotary_dims, facts.rotary_pairs):
            half[list(numbers)] = True  # a view
        return chosen

    def complement(self) -> Operation:
        """Return the operation that takes out everything else."""
        return replace(self, rest=not self.rest)
