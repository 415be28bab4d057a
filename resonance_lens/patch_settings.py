"""What the command `patch` is told: where the model and the targets come from, what is done to them."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonance_lens.errors import ModelError, ParameterError, unknown, wrong_parameter
from resonance_lens.result import Result, Target
from resonance_lens.runs import Run
from resonance_lens.settings import SettingsError, names_of, new_folder, split_assignments, typed

if TYPE_CHECKING:
    from resonance_lens.pairs import PromptPairs
    from resonance_lens.patching.operations import Operation

CONTROLS = ("others", "placebo", "complement")
DIRECTIONS = ("denoise", "noise")
N_PAIRS = 32

PLACE = re.compile(r"(?:(?P<site>\w+):)?L(?P<layer>\d+)(?:H(?P<head>\d+))?")
TOP = re.compile(r"(?P<analysis>\w+):(?P<k>\d+)")
WORD = re.compile(r"\w+")

EXAMPLE = "operation.parameter=value, such as remove_band.band=high"

EXAMPLES = "heads, layers, resid_pre, attention_filter:20, L5H3,L7H1 or mlp_out:L5"


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Everything that one call of `patch` is told.

    Attributes
    ----------
    source
        The folder of a run, or a model's name or folder, as it was given.
    run
        The run, where it is one: its model is loaded again, and its analyses name targets.
    model
        Name or folder of the model.
    task, options, pairs
        A ready task with its options, or a file of pairs.
    n_pairs, targets, operations, metric, direction, controls, prescreen, seed, batch_tokens, look_ahead
        As `resonance_lens.patch` and `resonance_lens.prompt_pairs` take them.
    device, dtype
        As `resonance_lens.load_model` takes them.
    out
        The folder for the result.
    named
        Whether the user named that folder.
    """

    source: str
    run: Run | None
    model: str
    task: str | None
    options: Mapping[str, Any]
    pairs: str | None
    n_pairs: int
    targets: str | list[Target]
    operations: tuple[Operation, ...]
    metric: str
    direction: str | None
    controls: tuple[str, ...]
    prescreen: int | None
    seed: int
    batch_tokens: int | None
    look_ahead: bool
    device: str | None
    dtype: str | None
    out: Path
    named: bool

    @property
    def kernels(self) -> Result | None:
        """The result that holds the kernels of heads, if an operation puts them in place of something."""
        wanted = any("kernel" in operation.wants for operation in self.operations)
        return self.run["attention_filter"] if wanted and self.run is not None else None

    def load_model(self, progress: bool) -> Any:
        """Load the model.

        Raises
        ------
        ModelError
            If it cannot be loaded; of a run's model it is said how to name it.
        """
        from resonance_lens import models

        try:
            return models.load_model(self.model, device=self.device, dtype=self.dtype, progress=progress)
        except ModelError as error:
            if self.run is None or self.model != models.name_to_load(_recorded(self.run)["model_name"]):
                raise
            raise ModelError(
                f"The model of the run in {self.source} cannot be loaded again; name it with --model. {error}"
            ) from error

    def difference(self, model: Any) -> str:
        """Return what is to be said where the model is not the one that the run measured; else nothing."""
        if self.run is None:
            return ""
        from resonance_lens.provenance import weights_fingerprint

        then, now = self.run.provenance.get("weights_fingerprint"), weights_fingerprint(model)
        if then == now:
            return ""
        return (
            f"the weights of {self.model} (digest {now[:12]}) are not those that the run in {self.source} "
            f"measured (digest {str(then)[:12]}): its targets and kernels were found in other weights."
        )

    def read_pairs(self, model: Any) -> PromptPairs:
        """Return the pairs of prompts: drawn and checked with the model, or read from the file."""
        from resonance_lens.pairs import PromptPairs

        if self.pairs is not None:
            return PromptPairs.from_file(self.pairs, model)
        from resonance_lens.patching.ready import prompt_pairs

        assert self.task is not None  # `from_arguments` has looked
        return prompt_pairs(self.task, model, n_pairs=self.n_pairs, seed=self.seed, **self.options)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that `patch` and the plan of it share."""
        given = {
            "targets": self.targets,
            "operation": list(self.operations),
            "metric": self.metric,
            "direction": self.direction,
            "controls": self.controls,
            "prescreen": self.prescreen,
            "seed": self.seed,
            "allow_look_ahead": self.look_ahead,
            "kernels": self.kernels,
            "out": self.out,
        }
        return given if self.batch_tokens is None else given | {"batch_tokens": self.batch_tokens}


def from_arguments(arguments: argparse.Namespace) -> PatchSettings:
    """Return the settings of a call; what is misspelt is said before a model loads.

    Raises
    ------
    ResonanceLensError
        If there is no model, no pairs, no such target, operation, parameter, metric or control.
    """
    if arguments.source is None:
        raise SettingsError("patch needs RUN_OR_MODEL: the folder of a run, or the name of a model.")
    _require_pairs(arguments)
    if arguments.direction not in (None, *DIRECTIONS):
        raise ParameterError(unknown("direction", arguments.direction, DIRECTIONS))
    controls = _controls(arguments.controls)
    options, others = _options(arguments.task, arguments.set or ())
    operations = read_operations(arguments.operation or ["patch"], others)
    _require_metric(arguments.metric)
    if not arguments.allow_look_ahead:
        _require_no_look_ahead(operations)
    run = _run(arguments.source)
    targets = read_targets(arguments.targets, run, arguments.source, operations)
    if any("kernel" in each.wants for each in operations) and (run is None or "attention_filter" not in run):
        names = ", ".join(each.name for each in operations if "kernel" in each.wants)
        raise SettingsError(
            f"The operation {names!r} takes kernels from the folder of a run with attention_filter; "
            f"{arguments.source} {'is no run' if run is None else 'has no such analysis'}."
        )
    model, dtype = arguments.model, arguments.dtype
    if run is None:
        if model is not None:
            raise SettingsError(f"--model is for the folder of a run; {arguments.source!r} is none.")
        model = arguments.source
    else:
        from resonance_lens.models import name_to_load

        recorded = _recorded(run)
        model = model or name_to_load(recorded["model_name"])
        dtype = dtype or recorded.get("dtype")
    named = arguments.out is not None
    return PatchSettings(
        source=arguments.source,
        run=run,
        model=model,
        task=arguments.task,
        options=options,
        pairs=arguments.pairs,
        n_pairs=N_PAIRS if arguments.n_pairs is None else arguments.n_pairs,
        targets=targets,
        operations=operations,
        metric=arguments.metric,
        direction=arguments.direction,
        controls=controls,
        prescreen=arguments.prescreen,
        seed=arguments.seed or 0,
        batch_tokens=arguments.batch_tokens,
        look_ahead=arguments.allow_look_ahead,
        device=arguments.device,
        dtype=dtype,
        out=Path(arguments.out) if named else new_folder(f"{model}-patch"),
        named=named,
    )


def read_operations(names: Sequence[str], assignments: Iterable[str]) -> tuple[Operation, ...]:
    """Return operations with their parameters; several values of one parameter make as many operations.

    Parameters
    ----------
    names
        Of operations.
    assignments
        Texts such as ``remove_band.band=low`` or ``remove_band.band=low,high``.

    Raises
    ------
    ResonanceLensError
        If an operation or a parameter does not exist, a value is wrong, or a parameter is for an operation
        that was not named.
    """
    from resonance_lens.patching.operations import OPERATIONS, get_operation

    for name in names:
        get_operation(name)
    if len(set(names)) < len(names):
        raise SettingsError("An operation was named twice; give several values with commas in --set instead.")
    given: dict[str, dict[str, list[Any]]] = {}
    for name, parameter, text in split_assignments(assignments, EXAMPLE):
        if name not in names:
            get_operation(name)
            raise SettingsError(f"--set is given for {name}, which is not among the operations; name it too.")
        cls = OPERATIONS[name]
        choices = [typed(cls, parameter, value.strip()) for value in text.split(",")]
        given.setdefault(name, {})[parameter] = choices
    made = []
    for name in names:
        parameters = given.get(name, {})
        for values in itertools.product(*parameters.values()):
            made.append(get_operation(name, **dict(zip(parameters, values, strict=True))))
    return tuple(made)


def read_targets(
    text: str, run: Run | None, source: str, operations: Sequence[Operation]
) -> str | list[Target]:
    """Return targets as `patch` takes them.

    Parameters
    ----------
    text
        One word (``heads``, ``layers``, a site), or parts with commas between them: ``attention_filter:20``,
        the first twenty that an analysis of the run names, and places such as ``L5H3`` or ``mlp_out:L5``.
    run, source
        Of the run, if there is one, and what it was called.
    operations
        A head without a site is meant at its pattern where the operations are for patterns alone.

    Raises
    ------
    ResonanceLensError
        If a part is none of these, or its analysis is not in the run or names no places.
    """
    from resonance_lens.facts import SITE_AXES

    parts = names_of(text)
    if len(parts) == 1 and WORD.fullmatch(parts[0]) and not PLACE.fullmatch(parts[0]):
        words = ("heads", "layers", *SITE_AXES)
        if parts[0] not in words:
            raise ParameterError(unknown("site or set of targets", parts[0], words))
        return parts[0]
    found: list[Target] = []
    for part in parts:
        top, place = TOP.fullmatch(part), PLACE.fullmatch(part)
        if top:
            found += _of_analysis(top["analysis"], int(top["k"]), run, source)
        elif place:
            found.append(_place(part, place, operations))
        else:
            raise SettingsError(f"--targets takes {EXAMPLES}; got {part!r}.")
    if not found:
        raise SettingsError(f"--targets names nothing; it takes {EXAMPLES}.")
    unique = {(each.site, each.layer, each.head): each for each in reversed(found)}
    return list(reversed(unique.values()))


def _of_analysis(name: str, k: int, run: Run | None, source: str) -> list[Target]:
    if run is None:
        raise SettingsError(
            f"The targets '{name}:{k}' are of a run, and {source!r} is none; give the folder of a run that "
            f"has {name}."
        )
    targets = run[name].targets(k)
    if not targets:
        raise SettingsError(f"{name} names no targets in the run in {source}.")
    return targets


def _place(part: str, place: re.Match[str], operations: Sequence[Operation]) -> Target:
    site, head = place["site"], place["head"]
    if site is None and head is None:
        raise SettingsError(
            f"A whole layer needs its site, such as attn_out:{part}, mlp_out:{part} or resid_pre:{part}; got "
            f"{part!r}."
        )
    if site is None:
        site = "pattern" if all("z" not in each.sites for each in operations) else "z"
    return Target(
        site=site,
        layer=int(place["layer"]),
        head=None if head is None else int(head),
        score=1.0,
        reason="named by hand",
    )


def _require_pairs(arguments: argparse.Namespace) -> None:
    if (arguments.task is None) == (arguments.pairs is None):
        raise SettingsError(
            "patch needs prompts: either --task NAME or --pairs FILE; see `resonance-lens patch --list`."
        )
    if arguments.pairs is not None:
        if arguments.n_pairs is not None:
            raise SettingsError("--n-pairs is for a ready task; leave it out with pairs of your own.")
        return
    from resonance_lens.patching.ready import list_pairs

    names = [each.name for each in list_pairs()]
    if arguments.task not in names:
        raise ParameterError(unknown("task", arguments.task, names))
    if arguments.n_pairs is not None and arguments.n_pairs < 1:
        needed = "an integer of at least 1"
        raise ParameterError(wrong_parameter("prompt_pairs", "n_pairs", needed, arguments.n_pairs))


def _options(task: str | None, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a ready task, and the assignments that are of operations."""
    from resonance_lens.patching.ready import list_pairs

    known = {each.name: each.options for each in list_pairs()}
    found: dict[str, Any] = {}
    others = []
    for assignment, (owner, name, text) in zip(
        assignments, split_assignments(assignments, EXAMPLE), strict=True
    ):
        if owner not in known:
            others.append(assignment)
            continue
        if owner != task:
            raise SettingsError(f"--set is given for the task {owner}, which is not the one that was named.")
        if name not in known[owner]:
            raise ParameterError(unknown(f"option of the task {owner}", name, known[owner]))
        found[name] = int(text) if re.fullmatch(r"-?\d+", text) else text
    return found, others


def _require_metric(name: str) -> None:
    from resonance_lens.patching.metrics import get_metric

    get_metric(name)


def _require_no_look_ahead(operations: Sequence[Operation]) -> None:
    for operation in operations:
        if operation.looks_ahead:
            raise SettingsError(
                f"{operation.label} looks ahead: what it does at a token depends on later ones, which a "
                "causal model never sees; allow it with --allow-look-ahead, or choose a causal method."
            )


def _controls(text: str | None) -> tuple[str, ...]:
    names = names_of("all" if text is None else text)
    if names in (["all"], ["none"]):
        return CONTROLS if names == ["all"] else ()
    for name in names:
        if name not in CONTROLS:
            raise ParameterError(unknown("control", name, (*CONTROLS, "all", "none")))
    return tuple(names)


def _run(source: str) -> Run | None:
    folder = Path(source)
    found = any((folder / name).exists() for name in ("run.json", "partial"))
    return Run.load(folder) if found else None


def _recorded(run: Run) -> Mapping[str, Any]:
    recorded: Mapping[str, Any] = run.provenance["model"]
    return recorded
