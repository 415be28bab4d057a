"""Values, lengths and scenes of an imagined model, for the tests of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resonance_lens.facts import Facts
from resonance_lens.patching.operations import Operation, Scene
from resonance_lens.planting import attention_facts

FACTS = attention_facts(n_layers=2, n_heads=2, d_model=16, rotary_dims=6)


def scene_of(lengths: Sequence[int], site: str = "z", facts: Facts = FACTS, **about: Any) -> Scene:
    """Return a scene at head 1 of layer 0, with a generator for each row if ``seed`` is given."""
    seed = about.pop("seed", None)
    about.setdefault("head", 1)
    if seed is not None:
        about["generators"] = generators(len(lengths), seed)
    return Scene(site=site, layer=0, facts=facts, lengths=torch.tensor(lengths), **about)


def generators(n_rows: int, seed: int = 0) -> tuple[torch.Generator, ...]:
    """Return a fresh generator for each row."""
    return tuple(torch.Generator().manual_seed(1000 * seed + row) for row in range(n_rows))


def values_of(
    lengths: Sequence[int], n_features: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return random values whose first position is a hundred times as large; padding holds a 7."""
    made = torch.full((len(lengths), max(lengths), n_features), 7.0, dtype=torch.float64)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        made[row, :length] = torch.randn(length, n_features, generator=generator, dtype=torch.float64)
        made[row, 0] *= 100
    return made.to(dtype)


def pattern_of(
    lengths: Sequence[int],
    n_heads: int = 1,
    seed: int = 0,
    sharp: float = 1.0,
    sliding: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return random causal attention; what is beyond the length of a row is zero."""
    width = max(lengths)
    made = torch.zeros(len(lengths), n_heads, width, width, dtype=torch.float64)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        scores = sharp * torch.randn(n_heads, length, length, generator=generator, dtype=torch.float64)
        scores = scores.masked_fill(~seen(length, sliding), -torch.inf)
        made[row, :, :length, :length] = scores.softmax(-1)
    return made.to(dtype)


def seen(n: int, sliding: int | None = None) -> Tensor:
    """Return booleans ``[query, key]``: what a causal query sees."""
    at = torch.arange(n)
    lag = at[:, None] - at
    return (lag >= 0) & (lag < (sliding or n))


def sliding_facts(window: int) -> Facts:
    """Return the facts of a model whose layers see so many tokens back."""
    return replace(FACTS, sliding_windows=(window,) * FACTS.n_layers)


def edit_alone(operation: Operation, values: Tensor, scene: Scene, row: int, seed: int | None) -> Tensor:
    """Return what an operation makes of one row without the others, cut to its length."""
    length = int(scene.lengths[row])
    inside = (slice(row, row + 1), *(slice(None) for _ in values.shape[1:]))
    square = values.ndim == 4

    def cut(each: Tensor | None) -> Tensor | None:
        if each is None:
            return None
        return each[inside][..., :length, :length] if square else each[inside][:, :length]

    alone = replace(
        scene,
        lengths=scene.lengths[row : row + 1],
        donor=cut(scene.donor),
        generators=None if seed is None else (generators(len(values), seed)[row],),
    )
    made = operation.edit(cut(values), alone)  # type: ignore[arg-type]
    return made[0]
