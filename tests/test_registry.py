"""The registry: what a class must declare, what other packages bring, and what a listing imports."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from resonance_lens import engine, registry
from resonance_lens.cli import main
from resonance_lens.contract import Accumulated, Analysis, Planted, Where, parameter
from resonance_lens.errors import AnalysisError, PluginWarning
from resonance_lens.features import Features
from resonance_lens.registry import CLAIM, DECLARED, EVIDENCE, RANGE, catalogue, get_analysis, register

ROOT = Path(registry.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    """Forget what a test registered and imported, but our own."""
    modules = set(sys.modules)
    yield
    for name in set(registry._registered) - set(registry._built_in()):
        del registry._registered[name]
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


# What a class must declare ---------------------------------------------------------------------


class Methods(Analysis):
    """What every analysis defines; not registered."""

    def observe(self, signals: Any, where: Where) -> Features:
        raise NotImplementedError

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        raise NotImplementedError

    def plant(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError

    def null(self, rng: np.random.Generator) -> Planted:
        raise NotImplementedError


GOOD: dict[str, Any] = {
    "__doc__": "A quantity.",
    "__module__": "__main__",
    "name": "quantity",
    "title": "A quantity",
    "version": "1",
    "sites": ("pattern",),
    "evidence": "measured",
    "baselines": (),
    "nulls": (),
    "minimum_effect": 0.1,
    "headline": "quantity",
    "source": "Somebody (2001).",
}


def make(parameters: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return an analysis class; a change to ``None`` leaves a declaration out."""
    declared = {key: value for key, value in (GOOD | changes).items() if value is not None}
    fields = {name: given for name, given in (parameters or {}).items()}
    annotations = {name: type(getattr(given, "default", given)).__name__ for name, given in fields.items()}
    cls = type(
        changes.get("__qualname__", "Quantity"),
        (Methods,),
        declared | fields | {"__annotations__": annotations},
    )
    return dataclass(frozen=True, kw_only=True)(cls)


def test_what_is_complete_is_registered() -> None:
    cls = make(
        {
            "width": parameter(3, minimum=1, help="how wide"),
            "way": parameter("a", choices=("a", "b"), help="x"),
        }
    )
    assert register(cls) is cls and get_analysis("quantity") is cls
    entry = catalogue()["quantity"]
    assert entry.package == "this session" and entry.about["title"] == "A quantity"
    assert entry.parameters["width"] == {
        "default": 3,
        "help": "how wide",
        "choices": None,
        "minimum": 1,
        "maximum": None,
    }


def no_dataclass() -> Any:
    return type("Bare", (Methods,), dict(GOOD))


def no_methods() -> Any:
    return dataclass(frozen=True, kw_only=True)(type("Empty", (Analysis,), dict(GOOD)))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a text": (lambda: "phase", "it is not a subclass of Analysis"),
    "no analysis": (lambda: dict, "it is not a subclass of Analysis"),
    "no dataclass": (no_dataclass, "it is not decorated with @dataclass(frozen=True"),
    "no methods": (no_methods, "it does not define conclude, null, observe, plant"),
    "no docstring": (lambda: make(__doc__=None), "it has no docstring"),
    "empty docstring": (lambda: make(__doc__="  "), "it has no docstring"),
    **{f"no {key}": (partial(make, **{key: None}), f"it does not declare {key}") for key in DECLARED},
    "empty title": (lambda: make(title=" "), "its title must be a string that is not empty"),
    "version a number": (lambda: make(version=1), "its version must be a string that"),
    "name with a path": (lambda: make(name="../x"), "its name '../x' must be of lower-case letters, digits"),
    "name in capitals": (lambda: make(name="Phase"), "its name 'Phase' must be of lower-case"),
    "no effect": (lambda: make(minimum_effect=0), "its minimum_effect must be a number above zero"),
    "effect a text": (lambda: make(minimum_effect="0.1"), "its minimum_effect must be a number above zero"),
    "evidence": (lambda: make(evidence="guessed"), "its evidence 'guessed' is not one of"),
    "site": (lambda: make(sites=("patern",)), "its site 'patern' is not one of pattern, scores"),
    "sites a text": (lambda: make(sites="pattern"), "its sites must be a tuple of strings; one alone"),
    "no sites": (lambda: make(sites=()), "its sites are empty"),
    "nulls a list": (lambda: make(nulls=["permuted"]), "its nulls must be a tuple of strings"),
    "need": (lambda: make(needs=("luck",)), "its need 'luck' is not one of forward, second_model"),
    "bare field": (lambda: make({"width": 3}), "its parameter 'width' is not declared with parameter(...)"),
    "no range": (lambda: make({"width": parameter(3, help="x")}), "its parameter 'width' states no range"),
    "no type": (
        lambda: make({"width": parameter(None, help="x", choices=(None, 1))}),
        "the default of its parameter 'width' must be a bool, int, float or str",
    ),
    "own default": (
        lambda: make({"width": parameter(3, help="x", minimum=4)}),
        "it refuses its own defaults: The 'width' parameter of quantity must be at least 4; got 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_is_incomplete_is_refused(build: Callable[[], Any], problem: str) -> None:
    before = dict(registry._registered)
    with pytest.raises(AnalysisError, match=re.escape(f"cannot be registered: {problem}")) as error:
        register(build())
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert registry._registered == before


def test_what_is_advised_exists() -> None:
    """The words of "states no range: give choices, minimum or maximum"."""
    assert {"choices", "minimum", "maximum"} <= set(inspect.signature(parameter).parameters)
    given: dict[str, Any] = {"choices": (3, 4), "minimum": 3, "maximum": 3}
    for name, value in given.items():
        register(make({"width": parameter(3, help="x", **{name: value})}))


def test_a_built_in_name_is_refused_before_and_after_it_is_used() -> None:
    for _ in range(2):
        with pytest.raises(AnalysisError, match="'phase_coherence': resonance_lens has one of that name"):
            register(make(name="phase_coherence"))
        assert get_analysis("phase_coherence").__module__ == "resonance_lens.analyses.phase_coherence"


def test_running_a_cell_again_replaces_its_class_silently() -> None:
    first, second = make(), make(title="Better")
    register(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register(second)
    assert get_analysis("quantity") is second and catalogue()["quantity"].about["title"] == "Better"


def test_two_classes_of_one_name_are_both_named() -> None:
    register(make())
    with pytest.raises(AnalysisError, match=r"'quantity': __main__.Quantity and other.Quantity; rename one"):
        register(make(__module__="other"))
    with pytest.raises(AnalysisError, match=r"__main__.Quantity and __main__.Another; rename one"):
        register(make(__qualname__="Another"))


def test_unknown_name_says_what_there_is_once_and_what_was_meant() -> None:
    get_analysis("head_sync")  # both built in and registered
    with pytest.raises(AnalysisError, match="Did you mean 'head_sync'") as error:
        get_analysis("head_sink")
    known = re.findall("Known: (.*?)\\.", str(error.value))[0].split(", ")
    assert known == sorted(set(known)) and set(known) >= set(registry._built_in())


# The catalogue of our own ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(registry._built_in()))
def test_the_catalogue_equals_the_classes(name: str) -> None:
    """It is read from the sources, so that listing imports nothing."""
    cls = get_analysis(name)
    entry = catalogue()[name]
    assert entry.name == cls.name and entry.package == "resonance-lens"
    claims = [{key: getattr(claim, key) for key in CLAIM} for claim in cls.claims]
    assert entry.about == {key: getattr(cls, key) for key in DECLARED} | {"claims": claims}
    assert entry.parameters == {
        field.name: {"default": field.default, **{key: field.metadata[key] for key in RANGE}}
        for field in dataclasses.fields(cls)
    }
    assert dataclasses.asdict(entry) == dataclasses.asdict(registry._describe(cls, "resonance-lens"))


def test_every_file_of_analyses_is_one_analysis() -> None:
    files = {path.stem for path in (ROOT / "analyses").glob("*.py") if not path.stem.startswith("_")}
    assert files == set(registry._built_in())


def test_levels_of_evidence_are_said_in_one_way() -> None:
    assert all(entry.about["evidence"] in EVIDENCE for entry in registry._built_in().values())


# Other packages --------------------------------------------------------------------------------

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
from resonance_lens.contract import Analysis, Evidence, parameter
from resonance_lens.registry import register

ONE = 1

@register
@dataclass(frozen=True, kw_only=True)
class Found(Analysis):
    """A quantity of another package."""
    name: ClassVar[str] = "found"
    title: ClassVar[str] = "Another quantity"
    version: ClassVar[str] = str(ONE)
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "synthetic"
    baselines: ClassVar[tuple[str, ...]] = ()
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.1
    headline: ClassVar[str] = "found"
    source: ClassVar[str] = "Somebody (2002)."
    width: int = parameter(default=2, minimum=1, help="how wide")
    def observe(self, signals, where): ...
    def conclude(self, seen): ...
    def plant(self, rng): ...
    def null(self, rng): ...
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install small distributions into a folder of their own: metadata, and a module."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv(registry.PLUGINS, raising=False)

    def add(package: str, points: dict[str, str], **modules: str) -> None:
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[resonance_lens.analyses]\n{lines}\n")
        for module, source in modules.items():
            path = site / f"{module}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)

    return add


def told() -> list[str]:
    """List the analyses, and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        catalogue()
    assert all(each.category is PluginWarning for each in caught)
    return [str(each.message) for each in caught]


def test_another_package_is_listed_from_its_source_and_imported_when_asked_for(install: Install) -> None:
    install("plugin-found", {"found": "plugin_found:Found"}, plugin_found=SOURCE)
    entry = catalogue()["found"]
    assert "plugin_found" not in sys.modules
    assert entry.package == "plugin-found" and entry.about["evidence"] == "synthetic"
    assert "version" not in entry.about  # no literal; importing it tells
    assert entry.parameters["width"] == {
        "default": 2, "help": "how wide", "choices": None, "minimum": 1, "maximum": None
    }  # fmt: skip
    cls = get_analysis("found")
    assert cls.__module__ == "plugin_found" and told() == []
    assert catalogue()["found"].about["version"] == "1" and catalogue()["found"].package == "plugin-found"
    (chosen,) = engine.choose_analyses("found", {"found": {"width": 3}})
    assert chosen.parameters() == {"width": 3}
    assert "found" in [analysis.name for analysis in engine.choose_analyses("all", task=True)]


def test_module_inside_a_package(install: Install) -> None:
    package = {"plugin_house/__init__": "raise SystemExit('imported')", "plugin_house/found": SOURCE}
    install("plugin-house", {"found": "plugin_house.found:Found"}, **package)
    assert catalogue()["found"].about["evidence"] == "synthetic"
    with pytest.raises(AnalysisError, match="'found' of plugin-house cannot be used: imported."):
        get_analysis("found")


def test_two_packages_of_one_name_are_both_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("plugin-a", {"found": "plugin_a:Found"}, plugin_a=SOURCE)
    install("plugin-b", {"found": "plugin_b:Found"}, plugin_b=SOURCE)
    sentence = (
        "Two packages declare an analysis 'found': plugin-a and plugin-b; uninstall one, or set "
        "RESONANCE_LENS_PLUGINS to the one that you want."
    )
    assert told() == [sentence]
    assert "found" not in registry._built_in() and get_analysis("head_sync")  # others are not concerned
    with pytest.raises(AnalysisError, match=re.escape(sentence)):
        get_analysis("found")
    monkeypatch.setenv(registry.PLUGINS, "plugin-b")  # the advice
    assert told() == [] and get_analysis("found").__module__ == "plugin_b"


def test_a_built_in_name_cannot_be_taken_over(install: Install) -> None:
    install("plugin-thief", {"head_sync": "plugin_thief:Found"}, plugin_thief=SOURCE)
    (sentence,) = told()
    assert sentence.startswith("The package plugin-thief declares an analysis 'head_sync', which is one of")
    assert get_analysis("head_sync").__module__ == "resonance_lens.analyses.head_sync"


ODD = SOURCE.replace('("pattern",)', '"pattern"')
OTHER = SOURCE.replace('= "found"', '= "lost"')
BROKEN = {
    "missing module": ("plugin_nowhere:Found", "", "No module named 'plugin_nowhere'"),
    "no class": ("plugin_broken", SOURCE, "'plugin_broken' is not of the form package.module:Class"),
    "malformed": ("plugin broken: Found", SOURCE, "is not of the form package.module:Class"),
    "missing import": ("plugin_broken:Found", "import plugin_other", "No module named 'plugin_other'"),
    "missing class": ("plugin_broken:Lost", SOURCE, "module 'plugin_broken' has no attribute 'Lost'"),
    "syntax": ("plugin_broken:Found", "def f(:\n", "invalid syntax (plugin_broken.py, line 1)"),
    "raises": ("plugin_broken:Found", "raise ValueError", "cannot be used: ValueError."),
    "says much": ("plugin_broken:Found", "raise ValueError('one\\ntwo')", "cannot be used: one."),
    "leaves": ("plugin_broken:Found", "import sys; sys.exit(3)", "cannot be used: 3."),
    "incomplete": ("plugin_broken:Found", ODD, "cannot be registered: its sites must be a tuple"),
    "no analysis": ("plugin_broken:ONE", SOURCE, "its class is called None; use one name"),
    "other name": ("plugin_broken:Found", OTHER, "its class is called 'lost'; use one name"),
}


@pytest.mark.parametrize(("value", "source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_is_one_sentence_and_never_a_crash(
    value: str, source: str, reason: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("plugin-broken", {"found": value}, plugin_broken=source)
    assert main(["list"]) == 0
    listed = capsys.readouterr()
    assert "phase_coherence" in listed.out
    assert listed.err.count("\n") == listed.err.count("resonance-lens: warning: ") <= 1

    assert main(["list", "--broken"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("found (plugin-broken): ") and reason in said and said.count("\n") == 1

    with pytest.raises(AnalysisError, match=re.escape(reason)) as error:
        get_analysis("found")
    assert "plugin-broken" in str(error.value) and "\n" not in str(error.value)
    with pytest.warns(PluginWarning, match=re.escape(reason)) as caught:
        chosen = engine.choose_analyses("all", task=True)
    assert len(caught) == 1
    assert [analysis.name for analysis in chosen] == list(registry._built_in())


def test_nothing_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.PLUGINS, "none")
    assert main(["list", "--broken"]) == 0 and "can be used" in capsys.readouterr().out
    assert main(["list", "--broken", "--json"]) == 0 and capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (None, True),
        ("none", False),
        ("Plugin_Found", True),
        ("other, plugin.found", True),
        ("other", False),
    ],
)
def test_the_environment_restricts_packages(
    wanted: str | None, seen: bool, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("plugin-found", {"found": "plugin_found:Found"}, plugin_found=SOURCE)
    if wanted is not None:
        monkeypatch.setenv(registry.PLUGINS, wanted)
    assert ("found" in catalogue()) is seen
    if seen:
        assert get_analysis("found").name == "found"
    else:
        with pytest.raises(AnalysisError, match=f"is left out, because RESONANCE_LENS_PLUGINS is '{wanted}'"):
            get_analysis("found")


def test_another_package_is_listed_without_importing_anything(install: Install, tmp_path: Path) -> None:
    install("plugin-found", {"found": "plugin_found:Found"}, plugin_found=SOURCE)
    code = (
        "import sys; from resonance_lens.cli import main; main(['list'])\n"
        "assert not {'torch', 'numpy', 'plugin_found'} & set(sys.modules)"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "found  [synthetic]  Another quantity\n    from       plugin-found\n" in done.stdout
    assert "    --set found.width=2\n" in done.stdout
