"""What a run and its plan begin with: which analyses, of which prompts, in which passes, at which layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resonance_lens.batches import Tokenized, require_long_enough, tokenize
from resonance_lens.contract import Analysis
from resonance_lens.design import BASELINE_CONDITIONS, Condition, sequences
from resonance_lens.errors import AdapterError, AnalysisError, ParameterError, PromptError, unknown
from resonance_lens.facts import Facts
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.observing import layers_of, require_tokenizer
from resonance_lens.prompts import Prompt, read_prompts
from resonance_lens.registry import get_analysis
from resonance_lens.tasks import Task

EVERY = "all"


@dataclass(frozen=True)
class Ready:
    """What is known once the model is there, before any pass.

    Attributes
    ----------
    facts
        Of the model.
    prompts
        As the model will see them.
    task
        What they stand for, where they are a `Task`.
    analyses
        That will be made.
    layers
        Of each analysis, by name.
    conditions
        Of each analysis, by name: its design, and the baselines that are wanted and that it names.
    left_out
        Of ``all`` analyses those that cannot be made of this model and these prompts, and why.
    """

    facts: Facts
    prompts: tuple[Tokenized, ...]
    task: Task | None
    analyses: tuple[Analysis, ...]
    layers: Mapping[str, tuple[int, ...]]
    conditions: Mapping[str, list[Condition]]
    left_out: Mapping[str, str]

    @property
    def shortest(self) -> int:
        """Tokens of the shortest prompt."""
        return min(len(prompt.tokens) for prompt in self.prompts)


@dataclass(frozen=True)
class Wanted:
    """What was asked for, read and checked as far as is possible without a model.

    Attributes
    ----------
    analyses
        Instances, with their parameters.
    optional
        Names of those that were not asked for by name, but by ``all``.
    baselines
        Names of `BASELINE_CONDITIONS`.
    prompts, task
        What is measured.
    """

    analyses: tuple[Analysis, ...]
    optional: frozenset[str]
    baselines: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    task: Task | None

    @staticmethod
    def of(
        analyses: str | Analysis | Iterable[str | Analysis],
        parameters: Mapping[str, Mapping[str, Any]] | None,
        baselines: Iterable[str] | str,
        prompts: Any,
    ) -> Wanted:
        """Read what the user asked for; the arguments are those of `resonance_lens.run`."""
        task = prompts if isinstance(prompts, Task) else None
        items = [analyses] if isinstance(analyses, str | Analysis) else list(analyses)
        chosen = choose_analyses(items, parameters, task=task is not None)
        optional = {a.name for a in chosen} - set(parameters or ()) if items == [EVERY] else set()
        return Wanted(
            analyses=tuple(chosen),
            optional=frozenset(optional),
            baselines=tuple(_baselines(baselines)),
            prompts=tuple(read_prompts(prompts if task is None else task.prompts())),
            task=task,
        )

    def on(self, adapter: Adapter, prepend_bos: bool | None) -> Ready:
        """Return what can be made of a model.

        Raises
        ------
        ResonanceLensError
            If a prompt does not fit the model; if an analysis asked for by name cannot be made, or none
            of all of them can.
        """
        require_task(self.analyses, self.task)
        tokenized = tokenize(self.prompts, adapter.facts, adapter.tokenizer, prepend_bos)
        layers: dict[str, tuple[int, ...]] = {}
        left_out: dict[str, str] = {}
        conditions: dict[str, list[Condition]] = {}
        shortest = min(len(prompt.tokens) for prompt in tokenized)
        first: AdapterError | PromptError | None = None
        for analysis in self.analyses:
            try:
                require_tokenizer(adapter, analysis)
                require_long_enough(tokenized, [analysis])
                served = layers_of(adapter, [analysis])
                conditions[analysis.name] = conditions_of(analysis, adapter.facts, shortest, self.baselines)
            except (AdapterError, PromptError) as error:
                if analysis.name not in self.optional:
                    raise
                first = first or error
                left_out[analysis.name] = str(error)
                continue
            n = sequences(conditions[analysis.name])
            driven = any(c.drives or c.arrangements for c in conditions[analysis.name])
            if analysis.name in self.optional and driven:
                left_out[analysis.name] = (
                    f"It drives the model, which takes {n} sequences for each prompt; ask for it by name."
                )
                continue
            layers |= served
        if first is not None and not layers:
            raise first
        kept = tuple(analysis for analysis in self.analyses if analysis.name in layers)
        return Ready(
            facts=adapter.facts,
            prompts=tuple(tokenized),
            task=self.task,
            analyses=kept,
            layers=layers,
            conditions={a.name: conditions[a.name] for a in kept},
            left_out=left_out,
        )


def choose_analyses(
    analyses: str | Analysis | Iterable[str | Analysis],
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    task: bool = False,
) -> list[Analysis]:
    """Return instances for names and instances, with their parameters.

    ``all`` are those that can be run on prompts or, with ``task``, on a task.

    Raises
    ------
    AnalysisError
        If a name is unknown or given twice, or parameters are given for an analysis that is not.
    ParameterError
        If a parameter does not exist, or has a value outside its range.
    """
    from resonance_lens.registry import catalogue, usable_analyses

    items = [analyses] if isinstance(analyses, str | Analysis) else list(analyses)
    if items == [EVERY]:
        items = [name for name in usable_analyses() if task or "task" not in get_analysis(name).needs]
    if not items:
        raise AnalysisError(f"No analysis was named; there are {', '.join(catalogue())}.")
    given = dict(parameters or {})
    chosen = []
    for item in items:
        if isinstance(item, str):
            chosen.append(_with_parameters(get_analysis(item), given.pop(item, {})))
        else:
            chosen.append(item)
    if given:
        name = next(iter(given))
        raise AnalysisError(f"Parameters were given for {name!r}, which is not among the analyses to run.")
    names = [analysis.name for analysis in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise AnalysisError(f"{twice} was named twice; run it once with each setting.")
    return chosen


def _with_parameters(cls: type[Analysis], values: Mapping[str, Any]) -> Analysis:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise ParameterError(unknown(f"parameter of {cls.name}", name, known))
    return cls(**values)


def conditions_of(
    analysis: Analysis, facts: Facts, shortest: int, baselines: Collection[str]
) -> list[Condition]:
    """Return the conditions that an analysis is run under: its design, and the baselines that it names."""
    designed = analysis.design(facts, shortest).conditions
    named = [BASELINE_CONDITIONS[name] for name in BASELINE_CONDITIONS if name in analysis.baselines]
    wanted = [
        dataclasses.replace(condition, drives=designed[0].drives, arrangements=designed[0].arrangements)
        for condition in named
        if condition.name in baselines
    ]
    return list(dict.fromkeys([*designed, *wanted]))


def _baselines(baselines: Iterable[str] | str) -> list[str]:
    if baselines == EVERY:
        return list(BASELINE_CONDITIONS)
    names = [baselines] if isinstance(baselines, str) else list(baselines)
    for name in names:
        if name not in BASELINE_CONDITIONS:
            raise ParameterError(unknown("baseline", name, [*BASELINE_CONDITIONS, EVERY]))
    return names


def require_task(analyses: Sequence[Analysis], task: Task | None) -> None:
    for analysis in analyses:
        if task is None and "task" in analysis.needs:
            raise AnalysisError(
                f"{analysis.name} needs a task, whose inputs are ordered values, in place of prompts: "
                "see resonance_lens.Task."
            )
