"""A signal-processing instrument for transformer internals: a plugin for TransformerLens.

Importing this package loads neither torch nor TransformerLens; they come with the first call
that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from resonance_lens.carrying.carriers import carriers
    from resonance_lens.comparison import compare
    from resonance_lens.contract import Analysis
    from resonance_lens.direction_finding import (
        head_directions,
        principal_directions,
        unembedding_direction,
    )
    from resonance_lens.directions import Directions
    from resonance_lens.discovering.discover import discover
    from resonance_lens.driver import Driver, drive
    from resonance_lens.engine import analyze, run
    from resonance_lens.errors import ResonanceLensError
    from resonance_lens.models import list_models, load_model
    from resonance_lens.pairs import PromptPairs
    from resonance_lens.patching.patch import patch
    from resonance_lens.patching.patched import PatchResult
    from resonance_lens.patching.ready import list_pairs, prompt_pairs
    from resonance_lens.patching.validation import validate
    from resonance_lens.probing.probe import probe
    from resonance_lens.probing.reading import read_probe
    from resonance_lens.prompts import Prompt, corpus, demo_prompts, read_prompts
    from resonance_lens.registry import list_analyses, register
    from resonance_lens.result import Result, Target, ViewSpec
    from resonance_lens.rhythms import periodic_prompts
    from resonance_lens.runs import Run
    from resonance_lens.signal import Signal
    from resonance_lens.tasks import Task

_HOME = {
    "Analysis": "contract",
    "Directions": "directions",
    "Driver": "driver",
    "PatchResult": "patching.patched",
    "Prompt": "prompts",
    "PromptPairs": "pairs",
    "ResonanceLensError": "errors",
    "Result": "result",
    "Run": "runs",
    "Signal": "signal",
    "Target": "result",
    "Task": "tasks",
    "ViewSpec": "result",
    "analyze": "engine",
    "carriers": "carrying.carriers",
    "compare": "comparison",
    "corpus": "prompts",
    "demo_prompts": "prompts",
    "discover": "discovering.discover",
    "drive": "driver",
    "head_directions": "direction_finding",
    "list_analyses": "registry",
    "list_models": "models",
    "list_pairs": "patching.ready",
    "load_model": "models",
    "patch": "patching.patch",
    "periodic_prompts": "rhythms",
    "probe": "probing.probe",
    "principal_directions": "direction_finding",
    "prompt_pairs": "patching.ready",
    "read_probe": "probing.reading",
    "read_prompts": "prompts",
    "register": "registry",
    "run": "engine",
    "unembedding_direction": "direction_finding",
    "validate": "patching.validation",
}

__all__ = [
    "Analysis",
    "Directions",
    "Driver",
    "PatchResult",
    "Prompt",
    "PromptPairs",
    "ResonanceLensError",
    "Result",
    "Run",
    "Signal",
    "Target",
    "Task",
    "ViewSpec",
    "__version__",
    "analyze",
    "carriers",
    "compare",
    "corpus",
    "demo_prompts",
    "discover",
    "drive",
    "head_directions",
    "list_analyses",
    "list_models",
    "list_pairs",
    "load",
    "load_model",
    "patch",
    "periodic_prompts",
    "probe",
    "principal_directions",
    "prompt_pairs",
    "read_probe",
    "read_prompts",
    "register",
    "run",
    "unembedding_direction",
    "validate",
]


def load(folder: str | Path) -> Run:
    """Read the run in a folder; see `Run.load`."""
    from resonance_lens.runs import Run

    return Run.load(folder)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resonance_lens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resonance_lens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
