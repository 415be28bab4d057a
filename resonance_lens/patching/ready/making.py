"""The ready tasks by name: candidates are drawn, put to the model, and kept where it solves them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from resonance_lens.errors import ParameterError, PromptError, nearest, unknown, wrong_parameter
from resonance_lens.pairs import PromptPairs
from resonance_lens.patching.ready.agreement import agreement
from resonance_lens.patching.ready.counting import counting
from resonance_lens.patching.ready.drawing import Drawing, Texts, Tokens
from resonance_lens.patching.ready.facts import facts
from resonance_lens.patching.ready.induction import induction
from resonance_lens.patching.ready.names import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonance_lens.hooks.adapter import Adapter

READY: dict[str, Callable[..., Drawing]] = {
    made.__name__: made for made in (induction, names, facts, agreement, counting)
}
"""The ready tasks: each takes an adapter and its options."""

ROUNDS = 8
"""Pairs are drawn until enough are solved, at most this many times as many as are wanted."""

REPEATS = 500
"""Candidates in a row that bring nothing new, after which a task is taken to have no more."""


@dataclass(frozen=True, kw_only=True)
class PairsInfo:
    """What is known of a ready task before it is made.

    Attributes
    ----------
    name
        What `prompt_pairs` takes.
    description
        One sentence.
    options
        Its options with their defaults.
    """

    name: str
    description: str
    options: Mapping[str, Any]


def list_pairs() -> list[PairsInfo]:
    """List the ready tasks, without making one; neither torch nor a model is loaded.

    Examples
    --------
    >>> [task.name for task in list_pairs()]
    ['induction', 'names', 'facts', 'agreement', 'counting']
    """
    return [
        PairsInfo(
            name=name,
            description=(inspect.getdoc(made) or "").split("\n\n")[0].replace("\n", " "),
            options={option: parameter.default for option, parameter in _options(made).items()},
        )
        for name, made in READY.items()
    ]


def prompt_pairs(
    name: str,
    model: Any,
    *,
    n_pairs: int = 32,
    seed: int = 0,
    keep_unsolved: bool = False,
    batch_tokens: int = 2048,
    **options: Any,
) -> PromptPairs:
    """Return pairs of prompts of a ready task, which the model solves.

    A pair is solved if the logit of its right answer is greater than that of its wrong one after the clean
    prompt, and smaller after the corrupted prompt, whose answer the wrong one is. Pairs are drawn, all
    different, in rounds of ``n_pairs``, until that many are solved; the first of these are returned. Of the
    same seed fewer pairs are the first of more, as long as the model is the same.

    Parameters
    ----------
    name
        ``induction``, ``names``, ``facts``, ``agreement`` or ``counting``.
    model
        A model, or its adapter. All tasks but ``induction`` need its tokenizer.
    n_pairs
        How many pairs, at least 1.
    seed
        Of the drawing.
    keep_unsolved
        Return the first ``n_pairs`` drawn, solved or not.
    batch_tokens
        Tokens of a pass of the model, padding included.
    **options
        Of the task; see `list_pairs`.

    Returns
    -------
    PromptPairs
        With ``accuracy``, the share that is solved of all ``tried``, and ``notes`` on how many words of the
        task could be used.

    Raises
    ------
    ParameterError
        If there is no such task, or it has no such option, or a value is out of its range.
    PromptError
        If too few words of the task are single tokens, there are not so many different pairs, or fewer than
        ``n_pairs`` of ``8 * n_pairs`` are solved.
    AdapterError
        If the model cannot be run.
    """
    from resonance_lens.hooks.attach import attach
    from resonance_lens.patching.ready.solving import require_next_token, solved
    from resonance_lens.stats.streams import stream

    if name not in READY:
        raise ParameterError(unknown("ready task", str(name), READY))
    known = _options(READY[name])
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ParameterError(
                f"The task {name!r} has no option {option!r}; {has}.{nearest(option, known)}"
            )
    for parameter, value in (("n_pairs", n_pairs), ("batch_tokens", batch_tokens)):
        if type(value) is not int or value < 1:
            requirement = "an integer of at least 1"
            raise ParameterError(wrong_parameter("prompt_pairs", parameter, requirement, value))
    if type(seed) is not int:
        raise ParameterError(wrong_parameter("prompt_pairs", "seed", "an integer", seed))
    adapter = attach(model)
    require_next_token(adapter)
    drawing = READY[name](adapter, **options)
    unequal: list[Texts] = []
    candidates = _different(drawing, adapter, stream(seed, "pairs", name), unequal)
    kept: list[Tokens] = []
    tried = n_solved = 0
    while len(kept) < n_pairs and tried < ROUNDS * n_pairs:
        drawn = list(islice(candidates, n_pairs))
        if not drawn:
            break
        right = solved(adapter, _pairs(name, drawn), batch_tokens)
        tried += len(drawn)
        n_solved += int(right.sum())
        kept += [pair for pair, solves in zip(drawn, right.tolist(), strict=True) if solves or keep_unsolved]
    if tried < n_pairs or (len(kept) < n_pairs and tried < ROUNDS * n_pairs):
        raise PromptError(
            f"The task {name!r} has no more than {tried} different pairs for this tokenizer, of which "
            f"{n_solved} are solved, and {n_pairs} are wanted; make 'n_pairs' smaller."
        )
    if len(kept) < n_pairs:
        raise PromptError(
            f"{adapter.facts.model_name} solves {n_solved} of {tried} pairs of the task {name!r} (accuracy "
            f"{n_solved / tried:.2f}), and {n_pairs} solved ones are wanted; make 'n_pairs' smaller, give "
            "keep_unsolved=True, or use another task."
        )
    made = _pairs(name, kept[:n_pairs])
    notes = drawing.notes
    if unequal:
        notes += (
            f"{len(unequal)} drawn texts are left out: with this tokenizer they are unequal in length, or an "
            "answer is not one token.",
        )
    return replace(made, accuracy=n_solved / tried, tried=tried, notes=notes)


def _options(made: Callable[..., Drawing]) -> dict[str, inspect.Parameter]:
    """Return the options of a task: all that its function takes besides the adapter."""
    return dict(list(inspect.signature(made).parameters.items())[1:])


def _pairs(name: str, drawn: list[Tokens]) -> PromptPairs:
    return PromptPairs(
        name=name,
        clean=[pair.clean for pair in drawn],
        corrupted=[pair.corrupted for pair in drawn],
        right=np.array([pair.right for pair in drawn]),
        wrong=np.array([pair.wrong for pair in drawn]),
    )


def _different(
    drawing: Drawing, adapter: Adapter, rng: np.random.Generator, unequal: list[Texts]
) -> Iterator[Tokens]:
    """Yield the candidates of a task, each once, until nothing new comes; what is no pair goes elsewhere."""
    from resonance_lens.patching.ready.texts import encoder_of

    seen: set[Texts | Tokens] = set()
    repeated = 0
    while repeated < REPEATS:
        drawn = drawing.draw(rng)
        repeated += 1
        if drawn in seen:
            continue
        seen.add(drawn)
        if isinstance(drawn, Texts):
            tokens = encoder_of(adapter).tokens(drawn)
            if tokens is None:
                unequal.append(drawn)
                continue
        else:
            tokens = drawn
        repeated = 0
        yield tokens
