"""What is measured: each task is given a model and token ids, and does one pass over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from resonance_lens.engine import choose_analyses
from resonance_lens.facts import Batch
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.observing import layers_of, observe_batch

ATTENTION = ("phase_coherence", "head_sync", "attention_entropy")
SIGNALS = (
    "attention_filter",
    "attention_wavelets",
    "rope_bands",
    "token_spectrum",
    "head_locking",
    "hilbert_phase",
    "zipf_wave_interference",
)
FOUR = (*ATTENTION, "belief_collapse")
Task = Callable[[torch.Tensor], object]


def bare(model: Any) -> Task:
    """Return a task that runs the model as our engine does, one row of logits kept, and nothing else."""
    adapter = attach(model)
    assert isinstance(adapter, ModelAdapter)

    def run(tokens: torch.Tensor) -> object:
        with torch.no_grad():
            return adapter.forward(tokens, {}, unembed=False)

    return run


def with_logits(model: Any) -> Task:
    """Return a task that runs the model as a user would: all logits, keys and values kept for more."""

    def run(tokens: torch.Tensor) -> object:
        with torch.no_grad():
            return model(tokens, return_type="logits")

    return run


def engine(model: Any, names: tuple[str, ...]) -> Task:
    """Return a task that runs the model through our engine, observing and joining."""
    adapter = attach(model)
    analyses = choose_analyses(names)
    layers = layers_of(adapter, analyses)

    def run(tokens: torch.Tensor) -> object:
        lengths = torch.full((len(tokens),), tokens.shape[1])
        batch = Batch(tokens, lengths, tuple(range(len(tokens))))
        groups = range(len(batch.prompts))
        return observe_batch(
            adapter, batch, analyses, layers, groups=groups, seed=0, shortest=tokens.shape[1]
        )

    return run


def by_hand(model: Any) -> Task:
    """Return a task that computes the same headline numbers as a user would: a cache, then numpy."""
    cfg = model.cfg

    def run(tokens: torch.Tensor) -> object:
        with torch.no_grad():
            _, cache = model.run_with_cache(
                tokens, names_filter=lambda name: name.endswith(("hook_pattern", "hook_resid_post"))
            )
        n = tokens.shape[1]
        query, key = np.arange(n)[:, None], np.arange(n)[None, :]
        circle = np.exp(2j * np.pi * key / (query + 1)) * (key <= query)
        found = []
        for layer in range(cfg.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"].numpy()
            z = (pattern * circle).sum(-1)
            coherence = np.abs(z)
            order = np.abs((z / np.maximum(coherence, 1e-12)).mean(1))
            entropy = -np.where(pattern > 0, pattern * np.log(np.maximum(pattern, 1e-38)), 0).sum(-1)
            distance = (pattern * (query - key)).sum(-1)
            found.append([a.mean() for a in (coherence, coherence**2, order, entropy, distance)])
            found.append([pattern[..., 0].mean(), np.exp(entropy).mean()])
        return found

    return run


def alone(name: str) -> Callable[[Any], Task]:
    """Return the task of one analysis."""
    return lambda model: engine(model, (name,))


TASKS: dict[str, Callable[[Any], Task]] = {
    "bare forward": bare,
    "bare forward with logits": with_logits,
    "three attention analyses": lambda model: engine(model, ATTENTION),
    **{name: alone(name) for name in FOUR},
    "all four analyses": lambda model: engine(model, FOUR),
    "signals along tokens": lambda model: engine(model, SIGNALS),
    **{name: alone(name) for name in (*SIGNALS, "complexity")},
    "run_with_cache and numpy": by_hand,
}
