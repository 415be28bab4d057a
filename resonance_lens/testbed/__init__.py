"""Hand-built transformers whose weights are computed, not trained, and whose truth is known.

They are there to hold analyses against: each comes with prompts that it is made for, and with a
statement, as plain data, of what its heads do and of what each claim of an analysis should find.

Examples
--------
>>> from resonance_lens import testbed
>>> circuit = testbed.load_circuit("previous_token")
>>> circuit.truth["heads"]["0.0"]
'looks 1 back'
"""

from __future__ import annotations

from resonance_lens.testbed.building import HOSTS, Shape, build_model, empty_weights, weight_shapes
from resonance_lens.testbed.circuit import Circuit
from resonance_lens.testbed.positional import Factors, delay_scores, factor, scores_of
from resonance_lens.testbed.registry import (
    CircuitInfo,
    list_circuits,
    load_circuit,
    load_model_named,
)

__all__ = [
    "HOSTS",
    "Circuit",
    "CircuitInfo",
    "Factors",
    "Shape",
    "build_model",
    "delay_scores",
    "empty_weights",
    "factor",
    "list_circuits",
    "load_circuit",
    "load_model_named",
    "scores_of",
    "weight_shapes",
]
