"""Which analyses there are, ours and those of other packages, and how a name becomes a class.

Listing imports nothing: what an analysis says of itself is read from its source, and other packages
are known by the metadata of their entry points. A module is imported when its name is asked for.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resonance_lens.errors import AnalysisError, PluginWarning, ResonanceLensError, unknown
from resonance_lens.plugins import PLUGINS, Broken, cannot, left_out, package_of, source_of, survey

if TYPE_CHECKING:
    from resonance_lens.contract import Analysis

EVIDENCE: dict[str, str] = {
    "measured": "the model's own activations on an axis that has an order",
    "proxy": "measured, in a coordinate that we chose",
    "synthetic": "computed in a basis that we invented",
}
"""Levels of evidence, and what each means."""

DECLARED = (
    "name",
    "title",
    "version",
    "sites",
    "evidence",
    "baselines",
    "nulls",
    "minimum_effect",
    "headline",
    "source",
)
"""What every analysis says of itself."""

RANGE = ("help", "choices", "minimum", "maximum")
"""What every parameter says of itself, beside its default."""

CLAIM = ("variable", "long_name", "units", "null", "against", "places", "minimum_effect")
"""What the catalogue says of every claim."""

_registered: dict[str, type[Analysis]] = {}

A = TypeVar("A", bound="type[Any]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the catalogue.

    Attributes
    ----------
    name
        What to call it by.
    package
        The distribution that brings it.
    about
        What it says of itself; empty where another package's source cannot be read without importing it.
    parameters
        For each parameter its default, help text and range.
    """

    name: str
    package: str
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def register(cls: A) -> A:
    """Add an analysis class to the registry, having checked what it declares.

    Running a notebook cell again replaces its own class.

    Raises
    ------
    AnalysisError
        If something is missing or out of place, or another class has the name: both are named.
    """
    problem = _undeclared(cls)
    where = f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)
    if problem:
        raise AnalysisError(f"The analysis {where} cannot be registered: {problem}.")
    if cls.name in _built_in() and not _ours(cls):
        raise AnalysisError(
            f"The analysis {where} cannot be called {cls.name!r}: resonance_lens has one of that name; "
            "choose another."
        )
    known = _registered.get(cls.name)
    if known is not None and _place(known) != _place(cls):
        raise AnalysisError(
            f"Two analyses are called {cls.name!r}: {known.__module__}.{known.__qualname__} and "
            f"{where}; rename one."
        )
    _registered[cls.name] = cls
    return cls


def catalogue() -> dict[str, Entry]:
    """Return every analysis by name, without importing any: ours, other packages', this session's.

    What another package declares and cannot be used is left out, with one `PluginWarning` for each.
    """
    points, broken = survey(_built_in())
    _warn(broken)
    entries = dict(_built_in())
    for name, point in points.items():
        entries[name] = _entry_of(point)
    for name, cls in _registered.items():
        if name not in _built_in():
            theirs = name in points and points[name].module == cls.__module__
            entries[name] = _describe(cls, package_of(points[name]) if theirs else "this session")
    return entries


def list_analyses() -> list[Entry]:
    """Return every analysis, ours first, without importing any."""
    return list(catalogue().values())


def usable_analyses() -> list[str]:
    """Import every analysis and return the names of those that can be used; a broken one is a warning."""
    broken = broken_plugins()
    _warn(broken)
    useless = {each.name for each in broken}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        return [name for name in catalogue() if name not in useless]


def get_analysis(name: str) -> type[Analysis]:
    """Return the class of an analysis, importing its module if need be.

    Raises
    ------
    AnalysisError
        If there is no such analysis (the nearest name is suggested), two packages declare it (both are
        named), or it cannot be imported.
    """
    if name in _built_in():
        importlib.import_module(f"resonance_lens.analyses.{name}")
        return _registered[name]
    points, broken = survey(_built_in())
    if name in points:
        return _load(points[name])
    for each in broken:
        if each.name == name:
            raise AnalysisError(each.reason)
    if name in _registered:
        return _registered[name]
    excluded = left_out(name)
    if excluded:
        raise AnalysisError(excluded)
    raise AnalysisError(unknown("analysis", name, {*_built_in(), *points, *_registered}))


def broken_plugins() -> list[Broken]:
    """Import every other package's analysis, and return those that cannot be used, with the reason."""
    points, broken = survey(_built_in())
    found = list(broken)
    for name, point in points.items():
        try:
            _load(point)
        except AnalysisError as error:
            found.append(Broken(name=name, package=package_of(point), reason=str(error)))
    return found


# What a class declares -------------------------------------------------------------------------


def _undeclared(cls: Any) -> str | None:
    """Return what is missing or out of place in a class, or ``None``."""
    from resonance_lens.contract import Analysis

    if not (isinstance(cls, type) and issubclass(cls, Analysis)):
        return "it is not a subclass of Analysis"
    missing = [key for key in DECLARED if not hasattr(cls, key)]
    if missing:
        return f"it does not declare {', '.join(missing)}"
    if cls.__abstractmethods__:
        return f"it does not define {', '.join(sorted(cls.__abstractmethods__))}"
    if "__dataclass_fields__" not in vars(cls):
        return "it is not decorated with @dataclass(frozen=True, kw_only=True) below @register"
    if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        return "it has no docstring"
    for check in (_wrong_texts, _wrong_names, _wrong_parameters):
        problem = check(cls)
        if problem:
            return problem
    return None


def _wrong_texts(cls: type[Analysis]) -> str | None:
    for key in ("name", "title", "version", "headline", "source"):
        value = getattr(cls, key)
        if not isinstance(value, str) or not value.strip():
            return f"its {key} must be a string that is not empty"
    if not re.fullmatch("[a-z][a-z0-9_]*", cls.name):
        return f"its name {cls.name!r} must be of lower-case letters, digits and underscores"
    effect = cls.minimum_effect
    if isinstance(effect, bool) or not isinstance(effect, int | float) or not effect > 0:
        return "its minimum_effect must be a number above zero"
    return None


def _wrong_names(cls: type[Analysis]) -> str | None:
    from resonance_lens.contract import NEEDS
    from resonance_lens.facts import SITE_AXES

    for key in ("sites", "needs", "baselines", "nulls", "undefined"):
        value: Any = getattr(cls, key)
        if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
            return f"its {key} must be a tuple of strings; one alone is written ('x',)"
    if not cls.sites:
        return "its sites are empty: an analysis observes at least one"
    for kind, names, known in (
        ("evidence", (cls.evidence,), EVIDENCE),
        ("site", cls.sites, SITE_AXES),
        ("need", cls.needs, NEEDS),
    ):
        for name in names:
            if name not in known:
                return f"its {kind} {name!r} is not one of {', '.join(known)}"
    return None


def _wrong_parameters(cls: type[Analysis]) -> str | None:
    for field in dataclasses.fields(cls):
        if not set(field.metadata) >= set(RANGE):
            return f"its parameter {field.name!r} is not declared with parameter(...)"
        if not isinstance(field.default, bool | int | float | str):
            return f"the default of its parameter {field.name!r} must be a bool, int, float or str"
        ranged = any(field.metadata[key] is not None for key in ("choices", "minimum", "maximum"))
        if isinstance(field.default, int | float) and not isinstance(field.default, bool) and not ranged:
            return f"its parameter {field.name!r} states no range: give choices, minimum or maximum"
    try:
        cls()
    except ResonanceLensError as error:
        return f"it refuses its own defaults: {str(error).rstrip('.')}"
    return None


def _place(cls: type[Any]) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _ours(cls: type[Any]) -> bool:
    return bool(cls.__module__ == f"resonance_lens.analyses.{cls.name}")


def _describe(cls: type[Analysis], package: str) -> Entry:
    """Return what a class says of itself."""
    return Entry(
        name=cls.name,
        package=package,
        about={
            **{key: getattr(cls, key) for key in DECLARED},
            "claims": [{key: getattr(claim, key) for key in CLAIM} for claim in cls.claims],
        },
        parameters={
            field.name: {"default": field.default, **{key: field.metadata[key] for key in RANGE}}
            for field in dataclasses.fields(cls)
        },
    )


# What a source declares, without importing it ---------------------------------------------------


@functools.cache
def _built_in() -> dict[str, Entry]:
    folder = Path(__file__).parent / "analyses"
    files = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return {path.stem: _read(path, path.stem, "resonance-lens") for path in files}


def _read(path: Path, name: str, package: str, class_name: str | None = None) -> Entry:
    """Read what an analysis declares from its source; what is no literal is left out."""
    about: dict[str, Any] = {"claims": []}
    parameters: dict[str, dict[str, Any]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and (
            node.name == class_name if class_name else _is_registered(node)
        ):
            for item, value in _declarations(node):
                if item == "claims":
                    about["claims"] = _claims(value)
                elif item in DECLARED:
                    about |= _literals({item: value})
                elif isinstance(value, ast.Call) and getattr(value.func, "id", "") == "parameter":
                    given = {k.arg: k.value for k in value.keywords if k.arg in ("default", *RANGE)}
                    if value.args:
                        given["default"] = value.args[0]
                    parameters[item] = dict.fromkeys(("default", *RANGE)) | _literals(given)
    return Entry(name=name, package=package, about=about, parameters=parameters)


def _declarations(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value:
            yield item.target.id, item.value


def _literals(values: Mapping[str, ast.expr]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            continue
    return found


def _claims(value: ast.expr) -> list[dict[str, Any]]:
    """Return what each ``Claim(...)`` of a tuple says, its literals."""
    calls = [item for item in getattr(value, "elts", ()) if isinstance(item, ast.Call)]
    return [_literals({k.arg: k.value for k in call.keywords if k.arg in CLAIM}) for call in calls]


def _is_registered(node: ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "register" for d in node.decorator_list)


# Other packages --------------------------------------------------------------------------------


def _entry_of(point: EntryPoint) -> Entry:
    path, package = source_of(point), package_of(point)
    if path is not None:
        try:
            return _read(path, point.name, package, point.attr)
        except (OSError, SyntaxError, ValueError):
            pass  # importing it will say why
    return Entry(name=point.name, package=package)


def _load(point: EntryPoint) -> type[Analysis]:
    package = package_of(point)
    try:
        cls: type[Analysis] = point.load()
    except (Exception, SystemExit) as error:  # whatever a third party's module raises is reported
        raise AnalysisError(cannot(point.name, package, error)) from error
    if getattr(cls, "name", None) != point.name:
        if _registered.get(getattr(cls, "name", "")) is cls:  # by its own decorator
            del _registered[cls.name]
        raise AnalysisError(
            f"The package {package} declares an analysis {point.name!r}, but its class is called "
            f"{getattr(cls, 'name', None)!r}; use one name."
        )
    try:
        return register(cls)
    except AnalysisError as error:
        raise AnalysisError(cannot(point.name, package, error)) from error


def _warn(broken: list[Broken]) -> None:
    for each in broken:
        warnings.warn(each.reason, PluginWarning, stacklevel=3)


__all__ = [
    "DECLARED",
    "EVIDENCE",
    "PLUGINS",
    "RANGE",
    "Broken",
    "Entry",
    "broken_plugins",
    "catalogue",
    "get_analysis",
    "list_analyses",
    "register",
    "usable_analyses",
]
