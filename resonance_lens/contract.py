"""What an analysis is: sites in, small features out, named results, and everything it says as data.

An analysis is one frozen dataclass in one file. Its fields are its parameters. It sees one layer
of one batch at a time (:meth:`Analysis.observe`), may look at the layers of a batch together
(:meth:`Analysis.join`), and concludes from what has accumulated (:meth:`Analysis.conclude`).
What should be drawn, patched or driven it returns as data; it never sees a model.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from torch import Tensor

from resonance_lens.arrangement import Arrangement
from resonance_lens.design import Design, Drive
from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.facts import Facts
from resonance_lens.features import Features, deal, stack_layers
from resonance_lens.prompts import EVERYTHING
from resonance_lens.registry import EVIDENCE as EVIDENCE
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.inference import Correction
from resonance_lens.stats.samples import AnySample
from resonance_lens.tasks import Task

Evidence = Literal["measured", "proxy", "synthetic"]

NEEDS: dict[str, str] = {
    "forward": "a model that can be run, not only a cache of one pass",
    "second_model": "a second model to compare with",
    "task": "a task with right answers",
    "tokenizer": "a tokenizer, to count or label tokens with",
    "weights": "the model's weights",
    "gradients": "gradients",
}


def parameter(
    default: Any,
    *,
    help: str,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    files: tuple[str, ...] = (),
    takes: type | None = None,
) -> Any:
    """Declare a parameter of an analysis: a dataclass field with a default, a range and a meaning.

    Parameters
    ----------
    default
        Its value unless the user says otherwise; its type is the parameter's type.
    help
        One phrase for listings and the command line.
    choices
        The values allowed, for a parameter that is a choice.
    minimum, maximum
        Bounds, both included, for a number.
    files
        Endings of the names of files that are allowed besides the choices.
    takes
        A type whose instances are allowed besides the choices.
    """
    metadata = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata={**metadata, "files": files, "takes": takes})


def require_parameters(declared: Any, owner: str) -> None:
    """Raise `ParameterError` unless the fields of a dataclass are in the ranges declared by `parameter`.

    Parameters
    ----------
    declared
        An instance of the dataclass.
    owner
        What the message calls it.
    """
    for field in dataclasses.fields(declared):
        value = getattr(declared, field.name)
        problem = _outside(value, field)
        if problem:
            raise ParameterError(wrong_parameter(owner, field.name, problem, value))


def _outside(value: Any, field: dataclasses.Field[Any]) -> str | None:
    """Return what the value must be, if it is not."""
    about = field.metadata
    if not about:
        return None
    if about["choices"] is not None:
        choices = ", ".join(repr(choice) for choice in about["choices"])
        files, takes = about.get("files", ()), about.get("takes")
        if takes is not None and isinstance(value, takes):
            return None
        if value in about["choices"] or (files and isinstance(value, str) and value.endswith(files)):
            return None
        return f"one of {choices}" + (f", or a file ending in {' or '.join(files)}" if files else "")
    kind = type(field.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        return f"of type {kind.__name__}"
    low, high = about["minimum"], about["maximum"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        if high is None:
            return f"at least {low}"
        return f"at most {high}" if low is None else f"between {low} and {high}"
    return None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that an analysis says with a p: a value that differs from its null.

    The engine makes the variables of the result: beside the value ``x`` its bounds, its null with the
    band in which 95 % of means would lie under it, ``x_effect`` (value minus null) with bounds, its size in
    standard deviations, p and q.

    Attributes
    ----------
    variable
        Name ``x`` of the value.
    long_name, units
        Of the value.
    null
        Name of the null; one of the analysis's ``nulls``.
    against
        What the null is, as a phrase: ``the same weights on permuted keys, the first key fixed``.
    dims
        Of one value: of what :meth:`Analysis.samples` returns, without the unit.
    family
        The dims whose places are tested together; each place along another dim, and each category, is
        a family of its own.
    places
        What the family counts, in the plural: ``heads``, ``layers``.
    minimum_effect
        The smallest effect that counts as one, in ``units``, said beforehand.
    reading
        Where counts are read off along dims outside the family: ``(("first_position", "drop"),)``.
    undefined
        What not-a-number means, where the value may be it.
    correction
        ``maximum``: q by the largest statistic of the family. ``false_discovery``: Benjamini-Hochberg.
    """

    variable: str
    long_name: str
    units: str
    null: str
    against: str
    dims: tuple[str, ...]
    family: tuple[str, ...]
    places: str
    minimum_effect: float
    reading: tuple[tuple[str, str], ...] = ()
    undefined: str = ""
    correction: Correction = "maximum"


@dataclass(frozen=True, eq=False)
class Where:
    """Where an observation is made.

    Attributes
    ----------
    facts
        What the adapter says of the model.
    layer
        The layer of the signals; ``None`` in :meth:`Analysis.join`, which sees all of them.
    layers
        Every layer that the analysis observes.
    prompts
        Indices, in the run, of the prompts of this batch.
    lengths
        Integers ``[batch]``: real tokens of each prompt.
    tokens
        Integers ``[batch, token]``, real tokens first.
    groups
        For each prompt of the batch, the jackknife group that it is dealt to, below `N_BLOCKS`.
    seed
        Of the run, for draws that are made while observing: key them by prompt as well.
    condition
        Name of the `Condition` that the pass is made under.
    shortest
        Tokens of the shortest prompt of the run: what spectra of all prompts can share a grid up to.
    readout
        Turns residual-stream vectors ``[..., d_model]`` into logits ``[..., d_vocab]`` through the
        model's final norm, once, and its unembedding.
    ov_alignment
        Returns, for a layer, the cosines ``[head, head]`` between what its heads write for what they read:
        between the matrices ``W_V W_O``, as one vector each. -1: they write opposite things.
    token_rarity
        Returns, for the name of a corpus and ids ``[batch, token]``, how rare the tokens are, in double
        precision: their place on the scale of the logarithm of their frequency rank, 0 the commonest and 1
        the rarest; not-a-number where there is none. See `resonance_lens.token_counts`.
    token_labels
        Returns, for the name of a rule and ids ``[batch, token]``, the class of each token as a number from
        0, and -1 where the rule decides none. See `resonance_lens.token_labels`.
    task
        What the prompts stand for, where they are a `Task`.
    drives
        The group of drives whose responses the signals are; empty where nothing is driven.
    undriven
        By site, what was there without them, ``[batch, token, ...]``: norms are relative to it.
    driven_from
        Median norm of a token ``[batch]`` where they were put in, without them.
    arrangement
        How the tokens are arranged, where the analysis asks for arrangements.
    """

    facts: Facts
    layer: int | None
    layers: tuple[int, ...]
    prompts: tuple[int, ...]
    lengths: Tensor
    tokens: Tensor
    groups: tuple[int, ...]
    seed: int
    condition: str
    shortest: int
    readout: Callable[[Tensor], Tensor]
    ov_alignment: Callable[[int], Tensor]
    token_rarity: Callable[[str, Tensor], Tensor]
    token_labels: Callable[[str, Tensor], Tensor]
    task: Task | None = None
    drives: tuple[Drive, ...] = ()
    undriven: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    driven_from: Tensor | None = None
    arrangement: Arrangement | None = None


@dataclass(frozen=True, eq=False)
class Accumulated:
    """Everything observed, and what is needed to name it.

    Attributes
    ----------
    features
        By condition name, rows sorted by prompt.
    facts, layers
        As in `Where`.
    prompt_ids, categories
        One per row; categories are ``None`` where none were given.
    seed
        For resampling: results are a function of the features and of this number.
    specimen
        The tokens of the first prompt of the run, as text: what is kept token by token is kept of that one.
    task
        What the prompts stand for, where they are a `Task`.
    intervals
        Whether bounds are wanted; of a baseline only the means are.
    """

    features: Mapping[str, Features]
    facts: Facts
    layers: tuple[int, ...]
    prompt_ids: tuple[str, ...]
    categories: tuple[str | None, ...]
    seed: int
    specimen: tuple[str, ...] = ()
    task: Task | None = None
    intervals: bool = True

    def under(self, condition: str) -> Accumulated:
        """Return what was observed under another condition as if it were the plain one, for its means."""
        return dataclasses.replace(self, features={"plain": self.features[condition]}, intervals=False)

    @property
    def plain(self) -> Features:
        """The features of the plain condition."""
        return self.features["plain"]

    @property
    def jackknife(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The jackknife group of each row."""
        return np.array(deal(self.categories))

    @property
    def groups(self) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Which rows belong to ``all`` and to each category, in order of appearance."""
        groups = {EVERYTHING: np.ones(len(self.prompt_ids), dtype=bool)}
        for category in dict.fromkeys(c for c in self.categories if c is not None):
            groups[category] = np.array([c == category for c in self.categories])
        return groups


Respond = Callable[[int, Tensor, tuple[int, ...]], Mapping[int, Mapping[str, Tensor]]]
"""See `Planted.respond`."""


@dataclass(frozen=True, eq=False)
class Planted:
    """Input whose right answer is known, for the common checks.

    Attributes
    ----------
    layers
        For each layer the values of the analysis's sites, ``{site: [batch, ...]}``.
    lengths
        Integers ``[batch]``.
    facts
        Of the model that is imagined around them.
    expect
        Called with the result; raises `AssertionError` with a sentence if the answer is wrong.
    readout, ov_alignment, token_rarity, token_labels, task
        As in `Where`, where the analysis needs one.
    tokens
        Ids ``[batch, token]``, where the analysis looks at them; else they are drawn at random.
    truth
        By claim variable, booleans over the claim's family: the places where something was planted.
    respond
        For an analysis that drives: called with the layer that is driven, what is added
        ``[drive * prompt, token, d_model]`` and the prompts; returns by layer and site what that adds there.
    read
        For an analysis that arranges tokens: called with the ids of one prompt in another arrangement;
        returns for each layer the values of the analysis's sites, as in ``layers`` but of this prompt alone.
    """

    layers: Sequence[Mapping[str, Tensor]]
    lengths: Tensor
    facts: Facts
    expect: Callable[[xr.Dataset], None]
    readout: Callable[[Tensor], Tensor] | None = None
    ov_alignment: Callable[[int], Tensor] | None = None
    token_rarity: Callable[[str, Tensor], Tensor] | None = None
    token_labels: Callable[[str, Tensor], Tensor] | None = None
    tokens: Tensor | None = None
    task: Task | None = None
    truth: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]] = dataclasses.field(default_factory=dict)
    respond: Respond | None = None
    read: Callable[[Sequence[int]], Sequence[Mapping[str, Tensor]]] | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis(abc.ABC):
    """Base class of every named analysis. See ``docs/write-an-analysis.md`` for a guide and a template.

    Class attributes
    ----------------
    name
        What users call it; also the name of its file.
    title
        One line for listings.
    version
        Moves when numbers move.
    sites
        Which sites it observes, at every layer that serves all of them; with other parameters than its
        defaults it may be others: see `observes`.
    needs
        Of `NEEDS`: what it requires of a host beyond serving its sites.
    evidence
        Of `EVIDENCE`.
    baselines
        What its numbers are without learning or content: effects and intervals, no p. Those of
        `BASELINE_CONDITIONS` are passes that the engine makes; the others the analysis computes.
    nulls
        Names of what its claims are tested against.
    claims
        What it says with a p, each against one of the nulls.
    minimum_effect
        The smallest effect that counts as one, in units of the headline variable, said beforehand.
    headline
        The variable of the result that targets and comparisons are about.
    source
        Where the definition comes from.
    undefined
        Row features that may be not-a-number, where the quantity does not exist (attention beyond
        the first key, in a head that looks nowhere else).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[str]
    sites: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    evidence: ClassVar[Evidence]
    baselines: ClassVar[tuple[str, ...]]
    nulls: ClassVar[tuple[str, ...]]
    claims: ClassVar[tuple[Claim, ...]] = ()
    minimum_effect: ClassVar[float]
    headline: ClassVar[str]
    source: ClassVar[str]
    undefined: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        require_parameters(self, self.name)

    @property
    def observes(self) -> tuple[str, ...]:
        """The sites that it observes with its parameters; by default its ``sites``."""
        return self.sites

    @property
    def min_tokens(self) -> int:
        """The shortest prompt, in tokens, that this analysis can say something about."""
        return 1

    def design(self, facts: Facts, shortest: int) -> Design:
        """Return the conditions to run the prompts under; by default the plain one alone.

        Parameters
        ----------
        facts
            Of the model.
        shortest
            Tokens of the shortest prompt.
        """
        return Design()

    @abc.abstractmethod
    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return the features of one layer of one batch, from inside the forward pass."""

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return the features of one batch with all its layers; by default they are stacked."""
        return stack_layers(layers)

    @abc.abstractmethod
    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return the result, labelled, from everything observed."""

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return what each claim is tested on, by its variable and by category.

        Values and nulls are ``[unit, *claim.dims]``. Every category of ``seen.groups`` has a sample.
        """
        return {}

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return what the units of the samples are, and how many of them so many prompts give."""
        return "prompt", n_prompts

    def summary(self, result: Result) -> str:
        """Return one or two sentences that say what the result says, with its numbers."""
        return ""

    def views(self, result: Result) -> list[ViewSpec]:
        """Return what should be drawn, as data."""
        return []

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the ``k`` places most worth patching, best first."""
        return []

    @abc.abstractmethod
    def plant(self, rng: np.random.Generator) -> Planted:
        """Return input in which this analysis must find something, with the answer."""

    @abc.abstractmethod
    def null(self, rng: np.random.Generator) -> Planted:
        """Return input in which this analysis must find nothing."""

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return input for one trial of the calibration of the claims.

        Parameters
        ----------
        rng
            Everything random comes from it.
        world
            One of `resonance_lens.worlds.WORLDS`: how the nulls of the claims are true.
        strength
            0: they are true everywhere. Above it: something is planted, in some places, so strongly;
            ``truth`` says where.

        Raises
        ------
        NotImplementedError
            If the analysis has claims and does not say how to try them.
        """
        raise NotImplementedError(f"{self.name} has claims, and no trial() to calibrate them with")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters and their values, as plain data."""
        return dataclasses.asdict(self)
