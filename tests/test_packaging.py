"""The package as it is installed, what it imports of itself, and what importing it loads."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "resonance_lens"
FOLDERS = ("hooks", "analyses")


def files_of_the_package() -> dict[str, Path]:
    """Map each file's name as installed to the file, the two links not followed twice."""
    files = {}
    for folder, prefix in ((PACKAGE, ""), *((ROOT / name, f"{name}/") for name in FOLDERS)):
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            linked = folder == PACKAGE and inside.parts[0] in FOLDERS
            if path.is_file() and not linked and "__pycache__" not in inside.parts:
                files[f"resonance_lens/{prefix}{inside.as_posix()}"] = path
    return files


# ------------------------------------------------------------------------------- what is installed


def test_every_package_is_listed() -> None:
    config: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = [
        name.removesuffix("/__init__.py").replace("/", ".")
        for name in files_of_the_package()
        if name.endswith("/__init__.py")
    ]
    assert sorted(config["tool"]["setuptools"]["packages"]) == sorted(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_link_points_at_the_folder(folder: str) -> None:
    link = PACKAGE / folder
    if link.is_symlink():  # a checkout without links (Windows) has a small text file here
        assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_not_importable_on_its_own(folder: str) -> None:
    run = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert f"import resonance_lens.{folder}" in run.stderr


@pytest.mark.slow
def test_wheel_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that no build/ is left behind, or found
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("resonance_lens", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    build = subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(files_of_the_package())


# ----------------------------------------------------------------------------- imports run one way

# A module may import from its own row and from the rows above it. A name stands for a module or a
# folder of modules alike. A new one is added here first, where it belongs.
ORDER = (
    ("__version__", "errors", "files", "prompts", "tasks", "pairs", "data"),
    ("signal", "facts", "token_counts", "text_labels", "token_labels", "word_lists"),
    ("dsp", "nn"),
    ("stats",),
    ("features", "result", "runs", "comparison", "arrangement", "rhythms", "directions", "design"),
    ("response_views", "response_words"),
    ("contract", "registry", "plugins"),
    ("labels", "planting", "worlds", "claims", "counts", "methods", "calibration"),
    ("hooks", "analyses"),
    # The engine's parts.
    ("batches", "observing", "driving", "partial", "preparing", "plan", "provenance", "exhibits"),
    ("engine", "testbed", "models", "bundled", "loading"),
    ("patching", "carrying", "discovering", "driver", "direction_finding", "probing", "views"),
    # Views of an analysis are checked by making them.
    ("trials", "calibrating", "validating", "checks", "testing"),
    ("__init__",),
    # The command line's parts.
    (
        "arguments",
        "settings",
        "listings",
        "patch_settings",
        "patch_listings",
        "carriers_settings",
        "discover_settings",
        "probe_settings",
        "probe_listings",
    ),
    ("cli", "__main__"),
)
ROW = {unit: row for row, units in enumerate(ORDER) for unit in units}

# Neighbours in a row that must not see each other, on top of the order.
STRANGERS = {("hooks", "analyses"), ("analyses", "hooks"), ("dsp", "nn"), ("nn", "dsp")}

# Imports against the order that are made only when a method is called, each for a reason.
LATE = {
    ("result", "views"): "Result.plot() and .view() are short for what views/ does",
    ("result", "patching"): "Result.load() returns what patch() wrote as the PatchResult that it was",
    ("runs", "views"): "Run.report() is short for what views/ does",
    ("pairs", "patching"): "PromptPairs.from_texts() and .from_file() are short for what patching/ does",
}

# Up to the contract, and in analyses/, nothing knows of a host.
HOST_FREE = {unit for unit in ROW if ROW[unit] <= ROW["contract"]} | {"analyses"}


class Import(NamedTuple):
    """One import statement's target, by its full name."""

    target: str
    late: bool  # inside a function, or for type checkers only


def imports_of(source: str, package_names: set[str]) -> Iterator[Import]:
    def walk(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                for alias in child.names:
                    full = f"{module}.{alias.name}"  # `from resonance_lens import dsp`: a module
                    named = full in package_names or full == "resonance_lens.__version__"
                    yield Import(full if named else module, late)
            else:
                typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, late or function or typing_only)

    yield from walk(ast.parse(source), False)


def unit_of(module: str) -> str:
    """Return the row entry of a module of ours: `resonance_lens.dsp.spectra` is of `dsp`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def breaches(sources: dict[str, str]) -> list[str]:
    """Say every import that runs against the order, for sources by full module name."""
    found = []
    for module, source in sources.items():
        unit = unit_of(module)
        if unit not in ROW:
            found.append(f"{module} has no place in ORDER")
            continue
        for target, late in set(imports_of(source, set(sources))):
            if target.split(".")[0] == "transformer_lens" and unit in HOST_FREE:
                found.append(f"{module} imports {target}")
            if target.split(".")[0] != "resonance_lens":
                continue
            other = unit_of(target)
            upward = ROW.get(other, len(ORDER)) > ROW[unit] or (unit, other) in STRANGERS
            if upward and not (late and (unit, other) in LATE):
                found.append(f"{module} imports {target}")
            if unit == other == "analyses" and module.count(".") > 1 and target != module:
                found.append(f"{module} imports {target}: an analysis stands alone")
    return sorted(found)


def sources_of_the_package() -> dict[str, str]:
    sources = {}
    for name, path in files_of_the_package().items():
        if name.endswith(".py"):
            module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            sources[module] = path.read_text()
    return sources


def test_imports_run_one_way() -> None:
    assert breaches(sources_of_the_package()) == []


def test_late_imports_are_still_made() -> None:
    sources = sources_of_the_package()
    made = {
        (unit_of(module), unit_of(target))
        for module, source in sources.items()
        for target, late in imports_of(source, set(sources))
        if late and target.startswith("resonance_lens.")
    }
    assert set(LATE) - made == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("signal", "import resonance_lens.engine"),
        ("dsp.spectra", "from resonance_lens.stats import nulls"),
        ("dsp.spectra", "from resonance_lens import nn"),
        ("stats.nulls", "def f():\n    from resonance_lens import views"),
        ("result", "from resonance_lens.views import page"),  # late it may, at the top it may not
        ("result", "from resonance_lens import load_model"),
        ("contract", "import transformer_lens"),
        ("hooks.bridge", "from resonance_lens.analyses import entropy"),
        ("analyses.entropy", "from resonance_lens.hooks import bridge"),
        ("analyses.entropy", "def f():\n    from transformer_lens.utilities import get_act_name"),
        ("analyses.entropy", "from resonance_lens.analyses.synchrony import f"),
        ("analyses.entropy", "from resonance_lens.analyses import synchrony"),
        ("engine", "if TYPE_CHECKING:\n    from resonance_lens.cli import main"),
        ("unheard_of", "import math"),
    ],
)
def test_an_import_against_the_order_is_found(module: str, source: str) -> None:
    others = ("nn", "views", "analyses", "analyses.synchrony", "hooks", "hooks.bridge")
    sources = {f"resonance_lens.{name}": "" for name in others} | {"resonance_lens": ""}
    assert breaches(sources) == []
    assert len(breaches(sources | {f"resonance_lens.{module}": source})) == 1


def test_an_import_along_the_order_is_let_pass() -> None:
    sources = {
        "resonance_lens": "from resonance_lens.errors import AxisError",
        "resonance_lens.cli": "import resonance_lens",
        "resonance_lens.hooks": "",
        "resonance_lens.hooks.bridge": "import transformer_lens\nfrom resonance_lens import facts",
        "resonance_lens.facts": "",
        "resonance_lens.errors": "import difflib\nfrom resonance_lens import __version__",
        "resonance_lens.result": "def plot(self):\n    from resonance_lens import views",
        "resonance_lens.views": "from resonance_lens.result import Result",
        "resonance_lens.analyses": "from resonance_lens.analyses.entropy import Entropy",
        "resonance_lens.analyses.entropy": "from resonance_lens.contract import Analysis",
    }
    assert breaches(sources) == []


# ---------------------------------------------------------------------------- what an import loads

HEAVY = {
    "circuitsvis",
    "matplotlib",
    "pandas",
    "scipy",
    "torch",
    "transformer_lens",
    "transformers",
    "xarray",
}

COMMAND = """
import sys
from resonance_lens.cli import main
sys.argv = ["resonance-lens", {argument!r}]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""


@pytest.mark.parametrize(
    "code",
    [
        "import resonance_lens",
        "import resonance_lens; resonance_lens.list_analyses()",
        COMMAND.format(argument="--help"),
        COMMAND.format(argument="list"),
    ],
    ids=["import", "list_analyses", "--help", "list"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    tell = "\nimport sys\nprint('loaded:', *sorted(sys.modules), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code + tell], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stderr.splitlines()[-1].removeprefix("loaded: ").split())
    assert "resonance_lens" in loaded
    assert loaded & HEAVY == set()
