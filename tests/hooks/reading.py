"""Reading everything that an adapter serves, for the tests beside this file."""

from __future__ import annotations

from typing import Any

from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.hooks import Adapter, ModelAdapter, attach
from resonance_lens.signal import Signal
from tests.models import prompts

ROWS = prompts(lengths=(7, 1, 12, 5))
"""Prompts of mixed lengths, one of a single token."""


def model_adapter(model: Any) -> ModelAdapter:
    """Return the adapter of a model."""
    adapter = attach(model)
    assert isinstance(adapter, ModelAdapter)
    return adapter


def served(adapter: Adapter, but: tuple[str, ...] = ()) -> dict[int, list[str]]:
    """Return all that an adapter can serve."""
    layers = range(adapter.facts.n_layers)
    sites = [site for site in SITE_AXES if site not in but]
    return {layer: [s for s in sites if adapter.why_not(s, layer) is None] for layer in layers}


def collect(adapter: Adapter, batch: Batch) -> dict[tuple[str, int], Signal]:
    """Return every signal of a pass."""
    found: dict[tuple[str, int], Signal] = {}

    def keep(signal: Signal) -> None:
        assert signal.layer is not None and (signal.site, signal.layer) not in found
        found[signal.site, signal.layer] = signal

    adapter.run(batch, served(adapter), keep)
    return found
