"""Checks of what an analysis says of itself: declarations, documentation, parameters."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from resonance_lens.checks.common import (
    Subject,
    attempt,
    class_of,
    concluded_from,
    made,
    planted,
    require,
)
from resonance_lens.contract import Analysis
from resonance_lens.errors import ParameterError, ResonanceLensError
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.registry import _undeclared

SHORTEST_NOTES = 60
"""Characters; nobody says in fewer when a number misleads."""


def check_declarations(subject: Subject, host: Adapter | None = None) -> None:
    """What every analysis says of itself is there and makes sense."""
    cls = class_of(subject)
    problem = _undeclared(cls)
    require(problem is None, f"It cannot be registered: {problem}.")
    require("\n" not in cls.title, "The title is one line.")
    require(
        (*cls.baselines, *cls.nulls),
        "It names neither a baseline nor a null, and no number means something without one.",
    )
    finite = math.isfinite(cls.minimum_effect)
    require(finite, f"minimum_effect is the smallest effect that counts; got {cls.minimum_effect!r}.")


def check_docstring(subject: Subject, host: Adapter | None = None) -> None:
    """The docstring says what is measured, and under Notes when the number misleads."""
    text = inspect.cleandoc(class_of(subject).__doc__ or "")
    first = text.splitlines()[0] if text else ""
    require(first.endswith("."), f"The docstring begins with one sentence on one line; got {first!r}.")
    notes = re.search(r"^Notes\n-----\n(.*?)(\n\S[^\n]*\n-----|\Z)", text, re.DOTALL | re.MULTILINE)
    require(
        notes and len(notes[1].strip()) >= SHORTEST_NOTES,
        "The docstring has no section Notes that says when the number misleads.",
    )


def check_parameters_are_declared(subject: Subject, host: Adapter | None = None) -> None:
    """Every parameter has a help text and a range that its default lies in, and is plain data."""
    cls = class_of(subject)
    for field in dataclasses.fields(cls):
        about = field.metadata
        require(str(about["help"] or "").strip(), f"The parameter {field.name!r} has no help text.")
        if isinstance(field.default, str):
            require(about["choices"], f"The parameter {field.name!r} is a text and lists no choices.")
    default = attempt("Making it with its defaults", cls)
    values = default.parameters()
    require(
        json.loads(json.dumps(values)) == values and cls(**values) == default,
        "Its parameters are not plain data that make the same analysis again.",
    )


def check_parameters_are_refused(subject: Subject, host: Adapter | None = None) -> None:
    """A value outside the range of a parameter raises `ParameterError`, which names the parameter."""
    cls = class_of(subject)
    for field in dataclasses.fields(cls):
        for value in _outside(field):
            try:
                cls(**{field.name: value})
            except ParameterError as error:
                named = repr(field.name) in str(error)
                require(named, f"The refusal of {field.name}={value!r} does not name the parameter: {error}")
            except Exception as error:
                raise AssertionError(
                    f"The value {field.name}={value!r} raises {type(error).__name__}, not ParameterError."
                ) from error
            else:
                raise AssertionError(f"The value {field.name}={value!r} is accepted.")


def check_parameters_work(subject: Subject, host: Adapter | None = None) -> None:
    """Every choice of a parameter can be measured; an end of a range can, or is refused in a sentence."""
    analysis = made(subject)
    for field in dataclasses.fields(analysis):
        about = field.metadata
        ends = [about[end] for end in ("minimum", "maximum") if about[end] is not None]
        for value in [*(about["choices"] or ()), *ends]:
            at = f"{field.name}={value!r}"
            changed = attempt(f"Making it with {at}", partial(_with, analysis, field.name, value))
            try:
                concluded_from(changed, planted(changed))
            except ResonanceLensError as error:
                require(
                    value in ends and "error in the analysis" not in str(error),
                    f"Measuring with {at} fails with {type(error).__name__}: {error}",
                )
            except Exception as error:
                raise AssertionError(
                    f"Measuring with {at} fails with {type(error).__name__}: {error}"
                ) from error


def check_documented_values(subject: Subject, host: Adapter | None = None) -> None:
    """What the docstring and the help texts call ``name="value"`` exists: a parameter or a coordinate."""
    analysis = made(subject)
    texts = [type(analysis).__doc__ or "", *(f.metadata["help"] for f in dataclasses.fields(analysis))]
    mentioned = [found for text in texts for found in re.findall(r"``(\w+)=\"([^\"`]+)\"``", text)]
    if not mentioned:
        return
    data = concluded_from(analysis, planted(analysis)).data
    choices = {f.name: f.metadata["choices"] for f in dataclasses.fields(analysis)}
    for name, value in mentioned:
        if name in choices:
            known = choices[name] or ()
        else:
            require(name in data.coords, f"The docstring speaks of {name!r}, which is no parameter.")
            known = tuple(str(v) for v in data[name].values)
        require(value in known, f'The docstring speaks of {name}="{value}", and there is no such value.')


def _outside(field: dataclasses.Field[Any]) -> Iterator[Any]:
    """Yield values that a parameter must not take."""
    about = field.metadata
    kind: type[Any] = type(field.default)
    yield None
    if about["choices"] is not None:
        yield "none of these"
        return
    yield 3 if kind in (str, bool) else "3"
    if kind not in (int, float):
        return
    yield True
    if kind is int:
        yield 2.5
    step = 1 if kind is int else 1e-3
    if about["minimum"] is not None:
        yield kind(about["minimum"] - step)
    if about["maximum"] is not None:
        yield kind(about["maximum"] + step)
    if kind is float and (about["minimum"] is not None or about["maximum"] is not None):
        yield float("nan")


def _with(analysis: Analysis, name: str, value: Any) -> Analysis:
    return type(analysis)(**{**analysis.parameters(), name: value})


CHECKS = (
    check_declarations,
    check_docstring,
    check_parameters_are_declared,
    check_parameters_are_refused,
    check_parameters_work,
    check_documented_values,
)
