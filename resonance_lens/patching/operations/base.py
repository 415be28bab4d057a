"""What may be done to a place inside a model: an operation takes its values and gives others back.

An operation knows no model and no host. It sees the values of one place in the common form of the
adapters (float32 or float64, real tokens first) and returns values of the same shape, so that the same
operation serves a sweep, a hook of plain TransformerLens and a test on a bare tensor.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from resonance_lens.contract import require_parameters
from resonance_lens.errors import ParameterError, RecordError, nearest, unknown
from resonance_lens.facts import Facts
from resonance_lens.hooks.adapter import HOOK_NAMES, SQUARE_SITES
from resonance_lens.registry import RANGE, Entry

TOKEN_SITES: tuple[str, ...] = tuple(site for site in HOOK_NAMES if site not in SQUARE_SITES)
"""Sites whose values are ``[row, token, feature]``."""

FILES = ("classic", "bands", "phases", "rotary", "patterns")
"""Files of this folder that hold operations."""

GIVEN_BY = {
    "donor": "the values of the same place in another run: give donor",
    "mean": "the mean of the values over prompts: give mean, or a donor to take it from",
    "generators": "a random generator for each row: give generators, or a seed",
    "kernel": "the head's attention by lag: give kernels, of attention_filter",
}
"""What an operation may need in its `Scene`, in words."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Where an operation is at work, and what it may look at besides the values themselves.

    Attributes
    ----------
    site, layer, head
        The place; ``head`` is ``None`` for a whole layer, and counts key-value heads at ``k``, ``v`` and
        ``rot_k`` where these are grouped.
    facts
        Of the model.
    lengths
        Integers ``[row]``: real tokens of each row; values beyond them mean nothing and are kept.
    donor
        Values of the same place and rows in the other run, shaped like the values, or ``None``.
    mean
        Their mean over prompts: over tokens too, ``[feature]``, or by position, ``[token, feature]``; at
        ``pattern`` over the prompts that reach a query, ``[head, query, key]``; or ``None``.
    generators
        One random generator for each row, on the CPU: the same prompt and place draw the same numbers
        whatever else is in the batch. ``None`` where the operation draws nothing.
    kernel
        The head's attention by lag ``[lag]`` (`attention_filter`), or ``[head, lag]`` for a whole layer, or
        ``None``.
    """

    site: str
    layer: int
    head: int | None
    facts: Facts
    lengths: Tensor
    donor: Tensor | None = None
    mean: Tensor | None = None
    generators: tuple[torch.Generator, ...] | None = None
    kernel: Tensor | None = None

    @property
    def square(self) -> bool:
        """Whether the values are ``[row, head, query, key]``."""
        return self.site in SQUARE_SITES

    def real(self, width: int) -> Tensor:
        """Return booleans ``[row, token]``: which of ``width`` tokens are real."""
        return torch.arange(width, device=self.lengths.device) < self.lengths[:, None]

    def mask(self, values: Tensor, first_position: str = "edit") -> Tensor:
        """Return booleans that broadcast to the values of the place: what is real.

        Parameters
        ----------
        values
            Of the place.
        first_position
            ``keep`` takes the first token out as well.
        """
        real = self.real(values.shape[-2]).to(values.device)
        if self.square:
            return real[:, None, :, None] & real[:, None, None, :]  # [row, 1, query, key]
        if first_position == "keep":
            real = real & (torch.arange(real.shape[1], device=real.device) > 0)
        return real[:, :, None]  # [row, token, 1]

    def records(self, first_position: str) -> Iterator[tuple[Tensor, slice]]:
        """Yield rows of one length, and where the tokens of their records are: nothing is ever padded.

        Parameters
        ----------
        first_position
            ``keep``: records begin at position 1, ``edit``: at position 0.

        Raises
        ------
        RecordError
            If a record would have no token.
        """
        start = 1 if first_position == "keep" else 0
        for length in torch.unique(self.lengths).tolist():
            if length <= start:
                raise RecordError(
                    f"A prompt of {length} token{'s' * (length != 1)} has no record along tokens beyond its "
                    "first position; leave it out."
                )
            yield torch.nonzero(self.lengths == length).squeeze(1), slice(start, int(length))

    def generator(self, row: int) -> torch.Generator:
        """Return the random generator of a row."""
        assert self.generators is not None  # `Operation.require` has looked
        return self.generators[row]


@dataclass(frozen=True, kw_only=True)
class Operation(abc.ABC):
    """Something that is done to the values of a place.

    Its fields are its parameters, declared with `resonance_lens.contract.parameter`, so that the command
    line, the record of a result and the error messages all come from them.

    Attributes
    ----------
    name
        What it is called: in listings, on the command line, in results.
    sites
        Where it can be done.
    donor
        Whether it needs the other run's values of the same place.
    wants
        What else it needs in its `Scene`: any of ``mean``, ``generators``, ``kernel``.
    resamples
        Whether a sweep gives it the same place in another prompt of the same run, drawn at random, as donor.
    """

    name: ClassVar[str]
    sites: ClassVar[tuple[str, ...]]
    donor: ClassVar[bool] = False
    resamples: ClassVar[bool] = False
    wants: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        require_parameters(self, self.name)

    @property
    def looks_ahead(self) -> bool:
        """Whether what it does at a token depends on later tokens."""
        return False

    @property
    def label(self) -> str:
        """The name with the parameters that are not at their defaults: ``remove_band band=high``."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return " ".join([self.name, *changed])

    @abc.abstractmethod
    def edit(self, values: Tensor, scene: Scene) -> Tensor:
        """Return what stands in place of ``values``; they are not changed.

        Parameters
        ----------
        values
            ``[row, token, feature]`` at a site of tokens (the features of all heads of a layer in one, where
            ``scene.head`` is ``None``), ``[row, head, query, key]`` at ``pattern`` and ``scores``, with one
            head where ``scene.head`` says which.
        scene
            Where, and what else is known.

        Raises
        ------
        ParameterError
            If the operation cannot be done at the site, or the scene lacks what it needs.
        RecordError
            If a row is too short for it.
        """

    def require(self, values: Tensor, scene: Scene, wants: tuple[str, ...] | None = None) -> None:
        """Raise unless the operation can be done to these values with what the scene has; see `edit`.

        Parameters
        ----------
        values, scene
            As of `edit`.
        wants
            What must be there, where it is not `wants`.
        """
        given = {what for what in GIVEN_BY if getattr(scene, what) is not None}
        self.require_at(scene.site, given, wants)
        if scene.donor is not None and scene.donor.shape != values.shape:
            raise RecordError(
                f"{self.name} needs a donor of the shape of the values, {tuple(values.shape)}; got "
                f"{tuple(scene.donor.shape)}."
            )

    def require_at(self, site: str, given: Container[str], wants: tuple[str, ...] | None = None) -> None:
        """Raise unless the operation can be done at a site with what is given, before there are values.

        Parameters
        ----------
        site
            The site.
        given
            Which of ``donor``, ``mean``, ``generators`` and ``kernel`` a scene will have.
        wants
            As of `require`.
        """
        if site not in self.sites:
            raise ParameterError(
                f"{self.name} is done to {_listed(self.sites)}, and cannot be done to {site!r}."
            )
        for what in (*(("donor",) if self.donor else ()), *(self.wants if wants is None else wants)):
            if what not in given:
                raise ParameterError(f"{self.name} needs {GIVEN_BY[what]}.")

    def complement(self) -> Operation | None:
        """Return the operation on everything that this one leaves alone, or ``None`` if there is none."""
        return None


OPERATIONS: dict[str, type[Operation]] = {}
"""The operations by name."""


def operation(cls: type[Any]) -> type[Any]:
    """Enter an operation under its name (a class decorator)."""
    known = OPERATIONS.get(cls.name)
    # Running a notebook cell again replaces its own class.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ParameterError(f"Two operations are called {cls.name!r}: {known} and {cls}; rename one.")
    OPERATIONS[cls.name] = cls
    return cls


def get_operation(name: str, **parameters: Any) -> Operation:
    """Return an operation by its name.

    Parameters
    ----------
    name
        One of `list_operations`.
    **parameters
        Its parameters, where they are not at their defaults.

    Raises
    ------
    ParameterError
        If there is no such operation or parameter, or a value is out of its range.
    """
    _load()
    if name not in OPERATIONS:
        raise ParameterError(unknown("operation", name, OPERATIONS))
    known = [field.name for field in dataclasses.fields(OPERATIONS[name])]
    for parameter in parameters:
        if parameter not in known:
            takes = f"Its parameters: {', '.join(known)}." if known else "It has none."
            raise ParameterError(f"{name} has no parameter {parameter!r}. {takes}{nearest(parameter, known)}")
    return OPERATIONS[name](**parameters)


def list_operations() -> list[Entry]:
    """Return every operation: name, first line of its docstring, sites, what it needs, parameters."""
    _load()
    return [
        Entry(
            name=cls.name,
            package="resonance_lens" if cls.__module__.startswith("resonance_lens.") else "this session",
            about={
                "title": (cls.__doc__ or "").partition("\n")[0],
                "sites": cls.sites,
                "donor": cls.donor,
                "wants": cls.wants,
                "looks_ahead": cls().looks_ahead,
            },
            parameters={
                field.name: {"default": field.default, **{key: field.metadata[key] for key in RANGE}}
                for field in dataclasses.fields(cls)
            },
        )
        for cls in sorted(OPERATIONS.values(), key=_place)
    ]


def _place(cls: type[Operation]) -> int:
    """Return where a class stands in listings, whatever was imported first: those of others last."""
    modules = [f"{__package__}.{name}" for name in FILES]
    return modules.index(cls.__module__) if cls.__module__ in modules else len(modules)


def _load() -> None:
    for name in FILES:
        importlib.import_module(f"{__package__}.{name}")


def _listed(sites: tuple[str, ...]) -> str:
    if set(TOKEN_SITES) <= set(sites):
        others = [repr(site) for site in sites if site in SQUARE_SITES]
        return " and ".join(["the sites of tokens", *others])
    return ", ".join(repr(site) for site in sites)


Edit = Callable[[Tensor, Scene], Tensor]
"""`Operation.edit`, or anything that does the same."""
