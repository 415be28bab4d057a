"""What a run is told: a TOML file and the options of the command line, in one shape."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resonance_lens.errors import ParameterError, ResonanceLensError, unknown, wrong_parameter
from resonance_lens.prompts import DEMO, Prompt, demo_prompts, read_prompts
from resonance_lens.registry import get_analysis

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str,), "a string"),
    "prompts": ((str, list, dict), "a file name, 'demo', a list of texts or a table of such lists"),
    "analyses": ((str, list), "a string or a list of names"),
    "out": ((str,), "a string"),
    "seed": ((int,), "an integer"),
    "batch_tokens": ((int,), "an integer"),
    "prepend_bos": ((bool,), "true or false"),
    "baselines": ((str, list), "'all', 'none' or a list of names"),
    "device": ((str,), "a string"),
    "dtype": ((str,), "a string"),
    "per_category": ((int,), "an integer"),
    "check": ((bool,), "true or false"),
    "parameters": ((dict,), "tables such as [parameters.phase_coherence]"),
}
"""Keys of a run file, and what each holds; on the command line the option of the same name."""

LAYERS = re.compile(r"(\d+)(?:-(\d+))?")


class SettingsError(ResonanceLensError):
    """A run file or an option cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that one run is told.

    Attributes
    ----------
    model, prompts, analyses, parameters, seed, batch_tokens, prepend_bos, baselines, device, dtype, check
        As `resonance_lens.run` takes them.
    out
        The folder for the results.
    named
        Whether the user named that folder; otherwise it is a new one in the current folder.
    per_category
        How many demo prompts of each category.
    """

    model: str
    prompts: Any
    analyses: list[str]
    parameters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    out: Path
    named: bool = True
    seed: int = 0
    batch_tokens: int | None = None
    prepend_bos: bool | None = None
    baselines: list[str]
    device: str | None = None
    dtype: str | None = None
    per_category: int | None = None
    check: bool = True

    def read_prompts(self) -> list[Prompt]:
        """Return the prompts; a string is a file, or ``demo``."""
        if self.prompts == DEMO:
            return demo_prompts(self.per_category)
        if self.per_category is not None:
            raise SettingsError(
                "per_category is for the demo prompts; leave it out with prompts of your own."
            )
        return read_prompts(Path(self.prompts) if isinstance(self.prompts, str) else self.prompts)

    def passes(self) -> dict[str, Any]:
        """Return the arguments that `run` and `plan` share."""
        given = {"prepend_bos": self.prepend_bos, "out": self.out, "baselines": self.baselines}
        return given if self.batch_tokens is None else given | {"batch_tokens": self.batch_tokens}


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a run: those of its file, overridden by the options that were given.

    Raises
    ------
    ResonanceLensError
        If a key, an analysis or a parameter does not exist, a value is of the wrong type, or there is
        no model or no prompts.
    """
    values = {} if arguments.file is None else read_run_file(Path(arguments.file))
    options = {key: getattr(arguments, key, None) for key in KINDS}
    values |= {key: value for key, value in options.items() if value is not None}
    for key, option in (("model", "MODEL"), ("prompts", "--prompts")):
        if key not in values:
            raise SettingsError(f"run needs {option}, or a run file with the key {key!r}.")
    if values["model"].endswith(".toml"):
        raise SettingsError(f"{values['model']!r} is a run file, not a model: give it with --file.")
    if values.get("batch_tokens", 1) < 1:
        needed = "an integer of at least 1"
        raise ParameterError(wrong_parameter("run", "batch_tokens", needed, values["batch_tokens"]))
    analyses = values.pop("analyses", "all")
    baselines = _baselines(values.pop("baselines", "all"))
    parameters = {name: dict(given) for name, given in values.pop("parameters", {}).items()}
    for name, given in parse_assignments(arguments.set or ()).items():
        parameters.setdefault(name, {}).update(given)
    named = "out" in values
    return Settings(
        **{**values, "out": Path(values["out"]) if named else new_folder(values["model"])},
        named=named,
        parameters=parameters,
        analyses=names_of(analyses),
        baselines=baselines,
    )


def read_run_file(path: Path) -> dict[str, Any]:
    """Return the keys of a run file; relative paths in it are relative to the file.

    Raises
    ------
    SettingsError
        If it cannot be read, is not TOML, or has a key or a type that it should not.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"Cannot read the run file {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:  # not UTF-8, or not TOML: which, and where
        raise SettingsError(f"The run file {str(path)!r} is not TOML: {error}.") from error
    for key, value in values.items():
        if key not in KINDS:
            raise SettingsError(f"The run file {str(path)!r} is wrong. {unknown('key', key, KINDS)}")
        kinds, wanted = KINDS[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise SettingsError(f"In the run file {str(path)!r}, {key} must be {wanted}; got {value!r}.")
    for name, given in values.get("parameters", {}).items():
        if not isinstance(given, dict):
            raise SettingsError(
                f"In the run file {str(path)!r}, parameters must be {KINDS['parameters'][1]}; got "
                f"{name} = {given!r}."
            )
    for key in ("analyses", "baselines"):
        if not all(isinstance(name, str) for name in values.get(key, ())):
            raise SettingsError(f"In the run file {str(path)!r}, {key} must be {KINDS[key][1]}.")
    folder = path.parent
    if isinstance(values.get("prompts"), str) and values["prompts"] != DEMO:
        values["prompts"] = str(folder / values["prompts"])
    if "out" in values:
        values["out"] = str(folder / values["out"])
    if "model" in values and (values["model"].startswith(".") or (folder / values["model"]).is_dir()):
        values["model"] = str((folder / values["model"]).resolve())
    return values


def parse_assignments(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return parameters by analysis from texts such as ``phase_coherence.circle=half``.

    Each value is read as the type of the parameter's default.

    Raises
    ------
    ResonanceLensError
        If a text is not of that form, or names an analysis or a parameter that does not exist.
    """
    found: dict[str, dict[str, Any]] = {}
    example = "analysis.parameter=value, such as phase_coherence.circle=half"
    for analysis, name, value in split_assignments(texts, example):
        found.setdefault(analysis, {})[name] = typed(get_analysis(analysis), name, value)
    return found


def split_assignments(texts: Iterable[str], example: str) -> Iterator[tuple[str, str, str]]:
    """Yield owner, parameter and value of texts such as ``phase_coherence.circle=half``.

    Raises
    ------
    SettingsError
        If a text is not of that form, of which ``example`` is one.
    """
    for text in texts:
        place, equals, value = text.partition("=")
        owner, dot, name = place.strip().partition(".")
        if not (equals and dot and owner and name):
            raise SettingsError(f"--set takes {example}; got {text!r}.")
        yield owner, name, value.strip()


def new_folder(model: str) -> Path:
    """Return a folder name that is not taken: the model's, with date and time."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip("-.") or "model"
    wanted = Path(f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    number = 1
    folder = wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def names_of(given: str | list[str]) -> list[str]:
    """Return names from a list, or from a text with commas between them."""
    names = given.split(",") if isinstance(given, str) else given
    return [name.strip() for name in names if name.strip()]


def layers_of(text: str | None) -> list[int] | None:
    """Return the layers that ``0,10,20-29`` names; ``None`` for all."""
    if text in (None, "all"):
        return None
    found: list[int] = []
    for part in names_of(str(text)):
        numbers = LAYERS.fullmatch(part)
        last = None if numbers is None else int(numbers[2] or numbers[1])
        if numbers is None or last is None or last < int(numbers[1]):
            raise SettingsError(
                f"--layers takes numbers and ranges such as 0,10,20-29, or all; got {part!r}."
            )
        found += range(int(numbers[1]), last + 1)
    return found


def _baselines(given: str | list[str]) -> list[str]:
    """Return names of baselines, before a model is loaded for one that there is not."""
    from resonance_lens.design import BASELINE_CONDITIONS

    names = names_of(given)
    if names in (["all"], ["none"]):
        return [*BASELINE_CONDITIONS] if names == ["all"] else []
    for name in names:
        if name not in BASELINE_CONDITIONS:
            raise ParameterError(unknown("baseline", name, [*BASELINE_CONDITIONS, "all", "none"]))
    return names


def typed(cls: type[Any], name: str, text: str) -> Any:
    """Return a parameter of an analysis or operation, read as the type of its default.

    Raises
    ------
    ParameterError
        If there is no such parameter, or the text is not of its type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if name not in fields:
        raise ParameterError(unknown(f"parameter of {cls.name}", name, fields))
    kind = type(fields[name].default)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    if kind is str:
        return text
    wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
    raise ParameterError(wrong_parameter(cls.name, name, wanted, text))
