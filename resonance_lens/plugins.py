"""What other packages bring, as far as their metadata tell: nothing of theirs is imported here."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "resonance_lens.analyses"
"""Entry-point group under which a package declares an analysis class of its own."""

PLUGINS = "RESONANCE_LENS_PLUGINS"
"""Environment variable that restricts packages: ``none``, or names separated by commas."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An analysis of another package that cannot be used.

    Attributes
    ----------
    name
        What the package calls it.
    package
        The distribution, or several where they claim one name.
    reason
        One sentence.
    """

    name: str
    package: str
    reason: str


def permitted(package: str) -> bool:
    """Return whether ``RESONANCE_LENS_PLUGINS`` lets a package bring something."""
    wanted = os.environ.get(PLUGINS)
    return wanted is None or _plain(package) in {_plain(name) for name in wanted.split(",")}


def _plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package.strip()).lower()


def survey(own: Collection[str]) -> tuple[dict[str, EntryPoint], list[Broken]]:
    """Return other packages' entry points by name, and those that their metadata show to be broken.

    Parameters
    ----------
    own
        Names that no package may take.
    """
    claims: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if permitted(package_of(point)):
            claims.setdefault(point.name, {}).setdefault(package_of(point), point)
    points, broken = {}, []
    for name, by_package in claims.items():
        packages = sorted(by_package)
        if name in own:
            reason = (
                f"The package {' and '.join(packages)} declares an analysis {name!r}, which is one of "
                "resonance_lens's own; it is left out."
            )
        elif len(packages) > 1:
            reason = (
                f"Two packages declare an analysis {name!r}: {' and '.join(packages)}; uninstall one, or "
                f"set {PLUGINS} to the one that you want."
            )
        else:
            try:
                source_of(by_package[packages[0]])
            except (ImportError, ValueError, AttributeError) as error:
                reason = cannot(name, packages[0], error)
            else:
                points[name] = by_package[packages[0]]
                continue
        broken.append(Broken(name=name, package=", ".join(packages), reason=reason))
    return points, broken


def left_out(name: str) -> str | None:
    """Return the sentence for an analysis whose package is not permitted, or ``None``."""
    for point in entry_points(group=GROUP):
        if point.name == name and not permitted(package_of(point)):
            return (
                f"The analysis {name!r} of {package_of(point)} is left out, because {PLUGINS} is "
                f"{os.environ.get(PLUGINS)!r}."
            )
    return None


def source_of(point: EntryPoint) -> Path | None:
    """Return the file that an entry point means, or ``None`` where only importing would tell.

    Raises
    ------
    ImportError
        If there is no such module.
    """
    if not point.pattern.match(point.value) or not point.attr:
        raise ValueError(f"{point.value!r} is not of the form package.module:Class")
    top, *rest = point.module.split(".")
    spec = importlib.util.find_spec(top)  # a top-level name is found without importing it
    if spec is None:
        raise ModuleNotFoundError(f"No module named {top!r}")
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        stem = Path(folder, *rest)
        for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None


def package_of(point: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    return point.dist.name if point.dist else "an unknown package"


def cannot(name: str, package: str, error: BaseException) -> str:
    """Return the sentence for an analysis of another package that raised an error."""
    what = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"The analysis {name!r} of {package} cannot be used: {what}."
