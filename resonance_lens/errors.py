"""The errors of this library: one base class, and the two sentences that most of them are made of.

Every message is one sentence that says what was wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ResonanceLensError(Exception):
    """Base class of every error that this library raises on purpose."""


class AxisError(ResonanceLensError, ValueError):
    """An operation needs an axis with order, or an axis that the signal does not have."""


class RecordError(ResonanceLensError, ValueError):
    """A record is too short, too unequal or too even for what was asked of it."""


class ActivationError(ResonanceLensError, ValueError):
    """A model produced values that cannot be measured: not-a-number or infinite."""


class AdapterError(ResonanceLensError):
    """A host cannot serve what was asked of it, or does not behave as its adapter says."""


class AnalysisError(ResonanceLensError):
    """An analysis cannot be found, is declared wrongly, or cannot be computed on this input."""


class ParameterError(ResonanceLensError, ValueError):
    """A parameter has a value outside its stated range."""


class ModelError(ResonanceLensError):
    """A model cannot be found, read or loaded."""


class PromptError(ResonanceLensError, ValueError):
    """A prompt, or a file of prompts, cannot be used."""


class ResultError(ResonanceLensError):
    """A result or a run folder cannot be read, written or compared."""


class PluginWarning(UserWarning):
    """A third-party analysis or adapter could not be used; the message names it and says why."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that does not exist: what exists, and what was probably meant."""
    names = sorted(known)
    listing = ", ".join(names) if names else "none"
    return f"There is no {kind} {name!r}. Known: {listing}.{nearest(name, names)}"


def wrong_parameter(owner: str, name: str, requirement: str, got: object) -> str:
    """Return the sentence for a parameter outside its range."""
    return f"The {name!r} parameter of {owner} must be {requirement}; got {got!r}."
