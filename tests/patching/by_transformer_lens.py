"""TransformerLens's own sweeps, with what their metric saw of each pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resonance_lens.pairs import PromptPairs
from resonance_lens.result import Target
from tests.reference_transformer import Architecture

LENGTH, N_PAIRS = 7, 3


def random_pairs(n_pairs: int = N_PAIRS) -> PromptPairs:
    """Return random prompts of one length, which TransformerLens's sweeps need."""
    rng = np.random.default_rng(1)
    clean = rng.integers(1, 53, size=(n_pairs, LENGTH))
    corrupted = clean.copy()
    corrupted[:, [1, 4]] = (clean[:, [1, 4]] + 7) % 53
    right = rng.integers(1, 26, size=n_pairs)
    return PromptPairs(
        name="random", clean=clean.tolist(), corrupted=corrupted.tolist(), right=right, wrong=right + 26
    )


class ByTransformerLens:
    """Runs TransformerLens's sweeps, and keeps what its metric saw of each pair."""

    def __init__(self, model: Any, pairs: PromptPairs) -> None:
        self.model, self.pairs = model, pairs
        self.clean, self.corrupted = torch.tensor(pairs.clean), torch.tensor(pairs.corrupted)
        self.read, self.right, self.wrong = (
            torch.tensor(each.tolist()) for each in (pairs.read, pairs.right, pairs.wrong)
        )
        self.seen: list[Tensor] = []

    def metric(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(self.pairs))
        answer = logits[rows, self.read]
        values = answer[rows, self.right] - answer[rows, self.wrong]
        self.seen.append(values)
        return values.mean()

    def sweep(self, function: Callable[..., Any], **kwargs: Any) -> np.ndarray[Any, Any]:
        """Return the metric of each patch, in the order in which they were made: ``[patch, pair]``."""
        self.seen = []
        with torch.no_grad():
            _, cache = self.model.run_with_cache(self.clean)
            function(self.model, self.corrupted, cache, self.metric, **kwargs)
        return torch.stack(self.seen).double().numpy()


def by_position(site: str, architecture: Architecture) -> list[Target]:
    return [
        Target(site=site, layer=layer, positions=(position,), score=0.0, reason="")
        for layer in range(architecture.n_layers)
        for position in range(LENGTH)
    ]
