"""The circuits by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resonance_lens.errors import ModelError, ParameterError, nearest, unknown
from resonance_lens.models import TESTBED
from resonance_lens.testbed.band_locked import band_locked
from resonance_lens.testbed.circuit import Circuit
from resonance_lens.testbed.filters import content_rule, opposed_pair
from resonance_lens.testbed.idle import idle
from resonance_lens.testbed.induction import induction
from resonance_lens.testbed.locked import locked
from resonance_lens.testbed.positional import lag_kernels, previous_token, sinks
from resonance_lens.testbed.rotary import rotary
from resonance_lens.testbed.systems import alternating, delay_chain, limiter

CIRCUITS: dict[str, Callable[..., Circuit]] = {
    made.__name__: made
    for made in (
        previous_token,
        lag_kernels,
        opposed_pair,
        sinks,
        content_rule,
        induction,
        rotary,
        locked,
        band_locked,
        delay_chain,
        alternating,
        limiter,
        idle,
    )
}

TRAINED = {"modular_addition": "final", "modular_addition_control": "control"}
"""Models that were trained, not built, and which weights of `modular_addition` they have."""


@dataclass(frozen=True, kw_only=True)
class CircuitInfo:
    """What is known of a circuit before it is made.

    Attributes
    ----------
    name
        What `load_circuit` takes.
    description
        One sentence.
    parameters
        Its parameters with their defaults.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


def list_circuits() -> list[CircuitInfo]:
    """List the hand-built transformers, without making them.

    Examples
    --------
    >>> [circuit.name for circuit in list_circuits()][:4]
    ['previous_token', 'lag_kernels', 'opposed_pair', 'sinks']
    """
    return [
        CircuitInfo(
            name=name,
            description=(inspect.getdoc(made) or "")
            .split("\n\n")[0]
            .removeprefix("Return ")
            .replace("\n", " "),
            parameters={p.name: p.default for p in inspect.signature(made).parameters.values()},
        )
        for name, made in CIRCUITS.items()
    ]


def load_circuit(name: str, **parameters: Any) -> Circuit:
    """Make a hand-built transformer.

    Parameters
    ----------
    name
        One of those that `list_circuits` lists.
    **parameters
        Its parameters; what each means, its range and its unit are in its docstring.

    Returns
    -------
    Circuit
        Weights, tokens to run it on, and its truth; ``circuit.model()`` is the model.

    Raises
    ------
    ParameterError
        If there is no such circuit, or it has no such parameter, or a value is out of its range.

    Examples
    --------
    >>> circuit = load_circuit("induction", n_tokens=16)
    >>> circuit.truth["induction"]
    [[1, 0]]
    """
    if name not in CIRCUITS:
        raise ParameterError(unknown("circuit", name, CIRCUITS))
    made = CIRCUITS[name]
    known = list(inspect.signature(made).parameters)
    for parameter in parameters:
        if parameter not in known:
            raise ParameterError(
                f"The circuit {name!r} has no parameter {parameter!r}; it has {', '.join(known)}."
                f"{nearest(parameter, known)}"
            )
    return made(**parameters)


def load_model_named(name: str, *, device: str | None = None) -> Any:
    """Return a model whose truth is known, by a name such as ``testbed:induction``.

    Parameters
    ----------
    name
        ``testbed:`` and the name of a circuit, which has its defaults, or of a trained model.
    device
        Where the model runs; the CPU if not said.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    wanted = name.removeprefix(TESTBED)
    if wanted in TRAINED:
        from resonance_lens.testbed.modular_addition import load_modular_addition

        return load_modular_addition(TRAINED[wanted], device=device)
    if wanted not in CIRCUITS:
        raise ModelError(unknown("testbed model", wanted, [*CIRCUITS, *TRAINED]))
    return load_circuit(wanted).model(device=device)
