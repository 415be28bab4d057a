"""Prompts and documents: everything that a run can be fed with, read into one shape.

``read_prompts`` turns whatever a user has (a string, a list, categories, a file, token ids) into a
list of :class:`Prompt`; ``demo_prompts`` and ``corpus`` are what the package ships. Nothing here
loads torch or a tokenizer: arrays are recognised by their ``tolist`` method, and text stays text
until an adapter tokenises it. (Longer than 400 lines, because a third of it is docstrings and each way
of being wrong has a sentence of its own.)
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, Literal, Protocol, TypeAlias

from resonance_lens.errors import ParameterError, PromptError, wrong_parameter

DEMO = "demo"
SUFFIXES = (".jsonl", ".txt")
PER_CATEGORY = 24

EVERYTHING = "all"
"""What results call all prompts together; no category can have this name."""


@dataclass(frozen=True)
class Prompt:
    """One text, or one sequence of token ids, to be run through a model.

    Parameters
    ----------
    text
        The text, or None where the prompt is given as tokens.
    category
        The group that the prompt belongs to; in one set, every prompt has one or none has.
    id
        A name that is unique in its set. Left empty, :func:`read_prompts` makes it ``prompt-000``,
        ``prompt-001`` and so on, by position.
    tokens
        The token ids, or None where the prompt is given as text. They are used exactly as they
        are: nothing is put before them.
    """

    text: str | None
    category: str | None = None
    id: str = ""
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Document:
    """One long document of the shipped corpus, with where it comes from.

    Parameters
    ----------
    id
        A name that is unique in the corpus, such as ``prose-001``.
    kind
        ``"prose"`` or ``"code"``.
    text
        The document. Prose has one line per paragraph: line breaks at a fixed width would be a
        rhythm that no author meant.
    source
        The package and version that it was taken from.
    licence
        The licence of the text; the notices are in the folder ``data/LICENSES`` of the package.
    title
        Author and work, or project and file.
    """

    id: str
    kind: Literal["prose", "code"]
    text: str
    source: str
    licence: str
    title: str


class Array(Protocol):
    """What a torch tensor and a numpy array have in common, as far as this module is concerned."""

    def tolist(self) -> Any:
        """Return the values as numbers in nested lists."""


PromptSource: TypeAlias = (
    str
    | Path
    | Prompt
    | Array
    | Mapping[str, Sequence[str]]
    | Mapping[str, Sequence[Sequence[int]]]
    | Sequence[str]
    | Sequence[Prompt]
    | Sequence[Sequence[int]]
    | Sequence[Array]
)


def read_prompts(source: PromptSource) -> list[Prompt]:
    """Read prompts from whatever a user has.

    Parameters
    ----------
    source
        One of:

        - a string: one prompt; or ``"demo"``: the shipped set; or the name of a ``.jsonl`` or
          ``.txt`` file. A single word that ends in one of these is always taken for a file name,
          anything else only where such a file exists (put a text in a list to have it taken
          literally);
        - a list of strings, or of :class:`Prompt`;
        - a mapping from category to a list of prompts;
        - a path of a ``.jsonl`` file, one object a line with ``text`` or ``tokens`` and perhaps
          ``category`` and ``id`` (other keys are ignored), or of a ``.txt`` file, one prompt per
          line that is not blank;
        - token ids: a list of lists of integers, a list of 1-D tensors, or a 2-D integer tensor or
          array, one prompt a row. Rows are taken whole, padding included, so give rows of unequal
          length as a list.

    Returns
    -------
    list of Prompt
        In the order given, with ids that are unique.

    Raises
    ------
    PromptError
        Where a prompt is empty, a file cannot be read, an id occurs twice, only some prompts have a
        category, or token ids are not integers from zero up. The message says which prompt or line.

    Examples
    --------
    >>> from resonance_lens.prompts import read_prompts
    >>> [p.id for p in read_prompts(["One thing", "Another"])]
    ['prompt-000', 'prompt-001']
    >>> read_prompts({"short": ["Yes"], "long": ["Well, it depends"]})[1].category
    'long'
    >>> read_prompts([[504, 2644, 314]])[0].tokens
    (504, 2644, 314)
    """
    if isinstance(source, str):
        if source == DEMO:
            return demo_prompts()
        path = _file_named(source)
        return _finish([_prompt(source, "The prompt")] if path is None else _read_file(path))
    if isinstance(source, Path):
        return _finish(_read_file(source))
    if isinstance(source, Prompt):
        return _finish([_prompt(source, "The prompt")])
    if isinstance(source, Mapping):
        return _finish(_read_mapping(source))
    items = _items(source)
    if items is None:
        raise PromptError(
            f"Prompts must be a string, a list, a mapping from category to list, a path or token "
            f"ids; got {type(source).__name__}."
        )
    if items and all(isinstance(_plain(item), (int, float)) for item in items):
        return _finish([Prompt(None, tokens=_tokens(items, "The prompt"))])
    return _finish([_prompt(item, f"Prompt {index}") for index, item in enumerate(items)])


def demo_prompts(per_category: int | None = None) -> list[Prompt]:
    """Return the shipped prompts: four categories of 24, alike in their lengths in tokens.

    Parameters
    ----------
    per_category
        How many of each category, from 1 to 24; None for all. The choice is spread evenly over the
        lengths and is the same in each category, so that a smaller set is matched in length too.

    Returns
    -------
    list of Prompt
        Factual, narrative, technical and philosophical prompts, in this order.

    Raises
    ------
    ParameterError
        Where ``per_category`` is not an integer from 1 to 24.

    Examples
    --------
    >>> from resonance_lens.prompts import demo_prompts
    >>> len(demo_prompts()), len(demo_prompts(per_category=3))
    (96, 12)
    """
    prompts = _demo()
    if per_category is None:
        return list(prompts)
    if per_category not in range(1, PER_CATEGORY + 1):
        wanted = f"an integer from 1 to {PER_CATEGORY}"
        raise ParameterError(wrong_parameter("demo_prompts", "per_category", wanted, per_category))
    if per_category == 1:
        chosen = {PER_CATEGORY // 2}
    else:
        step = (PER_CATEGORY - 1) / (per_category - 1)
        chosen = {round(index * step) for index in range(per_category)}
    return [prompt for index, prompt in enumerate(prompts) if index % PER_CATEGORY in chosen]


def corpus(kind: Literal["prose", "code"] | None = None) -> list[Document]:
    """Return the shipped corpus: long documents, for spectra that short prompts cannot resolve.

    Parameters
    ----------
    kind
        ``"prose"`` or ``"code"``; None for both, prose first.

    Returns
    -------
    list of Document
        Each of 600 to 3,000 SmolLM2 tokens; about 200,000 in all, two thirds of them prose.

    Raises
    ------
    ParameterError
        Where ``kind`` is neither.

    Examples
    --------
    >>> from resonance_lens.prompts import corpus
    >>> corpus("prose")[0].title
    'Jane Austen, Pride and Prejudice, chapter 1'
    """
    if kind not in (None, "prose", "code"):
        raise ParameterError(wrong_parameter("corpus", "kind", "'prose', 'code' or None", kind))
    return [document for document in _corpus() if kind is None or document.kind == kind]


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """Return the SHA-256 of a set of prompts, as 64 hexadecimal digits.

    Parameters
    ----------
    prompts
        The prompts; their ids, categories, texts, tokens and order all count.

    Returns
    -------
    str
        Equal for equal sets, on every machine and Python.

    Examples
    --------
    >>> from resonance_lens.prompts import prompts_digest, read_prompts
    >>> prompts_digest(read_prompts("Hello"))[:12]
    '7d441169b12b'
    """
    rows = [[p.id, p.category, p.text, None if p.tokens is None else [*p.tokens]] for p in prompts]
    canonical = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def token_digests(rows: Iterable[Sequence[int]]) -> list[str]:
    """Return a digest of each row of token ids, so that one can see later whether two sets share a row.

    Parameters
    ----------
    rows
        Token ids as a model sees them, whatever beginning they were given included.

    Returns
    -------
    list of str
        The first 12 hexadecimal digits of the SHA-256 of each row; equal rows have equal ones.

    Examples
    --------
    >>> from resonance_lens.prompts import token_digests
    >>> token_digests([[1, 2], [1, 3], [1, 2]])
    ['49a64717d5d4', '2335c54ffe37', '49a64717d5d4']
    """
    texts = [json.dumps([int(token) for token in row], separators=(",", ":")) for row in rows]
    return [hashlib.sha256(text.encode("ascii")).hexdigest()[:12] for text in texts]


def _finish(prompts: list[Prompt]) -> list[Prompt]:
    """Give ids to the prompts that have none, and check what concerns the set as a whole."""
    if not prompts:
        raise PromptError("There are no prompts: the list is empty; give at least one.")
    named = [p if p.id else replace(p, id=f"prompt-{i:03d}") for i, p in enumerate(prompts)]
    first: dict[str, int] = {}
    for index, prompt in enumerate(named):
        if prompt.id in first:
            raise PromptError(
                f"Prompts {first[prompt.id]} and {index} have the same id {prompt.id!r}; ids must be unique."
            )
        first[prompt.id] = index
    if any(prompt.category == EVERYTHING for prompt in named):
        raise PromptError(
            f"No category can be called {EVERYTHING!r}, which stands for all prompts together; rename it."
        )
    without = [index for index, prompt in enumerate(named) if prompt.category is None]
    if without and len(without) < len(named):
        index = without[0]
        raise PromptError(
            f"Category missing: prompt {index} ({named[index].id!r}) has none, but other prompts "
            f"have one; give every prompt a category, or none."
        )
    return named


def _prompt(item: object, where: str) -> Prompt:
    """Make one prompt of a string, a Prompt or a sequence of token ids."""
    if isinstance(item, str):
        return Prompt(_text(item, where))
    if isinstance(item, Prompt):
        return _from_fields(item.text, item.category, item.id, item.tokens, where)
    values = _items(item)
    if values is None:
        raise PromptError(
            f"{where} must be a string, a Prompt or a list of token ids; got {type(item).__name__}."
        )
    return Prompt(None, tokens=_tokens(values, where))


def _from_fields(text: object, category: object, id_: object, tokens: object, where: str) -> Prompt:
    """Check the four fields of a prompt that somebody else has put together."""
    if text is None and tokens is None:
        raise PromptError(f"{where} has neither 'text' nor 'tokens'; give one of them.")
    if text is not None and tokens is not None:
        raise PromptError(f"{where} has both 'text' and 'tokens'; give only one of them.")
    if category is not None and (not isinstance(category, str) or not category.strip()):
        raise PromptError(
            f"The category of {_inside(where)} must be a string, not empty; got {shortened(category)}."
        )
    if not isinstance(id_, str):
        raise PromptError(f"The id of {_inside(where)} must be a string; got {shortened(id_)}.")
    if tokens is None:
        return Prompt(_text(text, where), category, id_)
    values = _items(tokens)
    if values is None:
        raise PromptError(
            f"The tokens of {_inside(where)} must be a list of integers; got {type(tokens).__name__}."
        )
    return Prompt(None, category, id_, _tokens(values, where))


def _text(value: object, where: str) -> str:
    """Return a text that has something in it."""
    if not isinstance(value, str):
        raise PromptError(f"The text of {_inside(where)} must be a string; got {type(value).__name__}.")
    if not value.strip():
        raise PromptError(f"{where} is empty; give it some text or leave it out.")
    return value


def _tokens(values: Sequence[object], where: str) -> tuple[int, ...]:
    """Return token ids as plain integers."""
    if not values:
        raise PromptError(f"{where} is empty; give it at least one token or leave it out.")
    ids = []
    for position, value in enumerate(values):
        token = _plain(value)
        if not isinstance(token, int) or isinstance(token, bool):
            raise PromptError(
                f"The tokens of {_inside(where)} must be integers; got {shortened(token)} "
                f"at position {position}."
            )
        if token < 0:
            raise PromptError(
                f"The tokens of {_inside(where)} must not be negative; got {token} at position {position}."
            )
        ids.append(token)
    return tuple(ids)


def _read_mapping(source: Mapping[Any, Any]) -> list[Prompt]:
    """Read a mapping from category to a list of prompts."""
    prompts: list[Prompt] = []
    for category, value in source.items():
        if not isinstance(category, str) or not category.strip():
            raise PromptError(
                f"The keys of a mapping of prompts must be category names, strings that are not "
                f"empty; got {category!r} ({type(category).__name__})."
            )
        items = None if isinstance(value, str) else _items(value)
        if items is None:
            raise PromptError(
                f"Category {category!r} must hold a list of prompts; got {type(value).__name__}."
            )
        if not items:
            raise PromptError(f"Category {category!r} is empty; give it a prompt or leave it out.")
        for index, item in enumerate(items):
            prompt = _prompt(item, f"Prompt {index} of category {category!r}")
            if prompt.category not in (None, category):
                raise PromptError(
                    f"Prompt {index} of category {category!r} says that its category is "
                    f"{prompt.category!r}; the two must agree."
                )
            prompts.append(replace(prompt, category=category))
    return prompts


def _read_file(path: Path) -> list[Prompt]:
    """Read a file of prompts, by its suffix."""
    if path.suffix not in SUFFIXES:
        raise PromptError(
            f"Cannot read prompts from {str(path)!r}: its name must end in .jsonl (one object a "
            f"line) or .txt (one prompt a line)."
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PromptError(f"Cannot read prompts from {str(path)!r}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"Cannot read prompts from {str(path)!r}: not UTF-8 text.") from error
    # Not splitlines: U+2028 and its like may stand inside a JSON string.
    lines = [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise PromptError(f"Cannot read prompts from {str(path)!r}: the file holds no prompt.")
    if path.suffix == ".txt":
        return [Prompt(line.strip()) for _, line in lines]
    return [_read_line(line, f"Line {number} of {str(path)!r}") for number, line in lines]


def _read_line(line: str, where: str) -> Prompt:
    """Read one line of a JSONL file."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
        raise PromptError(f"{where} is not JSON: {reason}.") from error
    if not isinstance(record, dict):
        raise PromptError(
            f"{where} must be a JSON object with 'text' or 'tokens'; got {type(record).__name__}."
        )
    return _from_fields(
        record.get("text"),
        record.get("category"),
        record.get("id", ""),
        record.get("tokens"),
        where,
    )


def _file_named(source: str) -> Path | None:
    """Return the file that a string names, or None where the string is a prompt."""
    if not source.endswith(SUFFIXES):
        return None
    path = Path(source)
    if len(source.split()) == 1:
        return path
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # too long for a name, or a zero byte in it: surely a text
        return None


def _plain(value: Any) -> Any:
    """Return an array or a scalar of any library as Python lists and numbers; others as they are."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _items(value: object) -> Sequence[object] | None:
    """Return the members of a list, a tuple or an array, or None for anything else."""
    value = _plain(value)
    return value if isinstance(value, (list, tuple)) else None


def _inside(where: str) -> str:
    """Put the name of a place into the middle of a sentence."""
    return where[0].lower() + where[1:]


def _data(name: str) -> bytes:
    """Read a file that the package ships."""
    return (files("resonance_lens") / "data" / name).read_bytes()


@lru_cache(maxsize=1)
def _demo() -> tuple[Prompt, ...]:
    lines = _data("prompts.jsonl").decode("utf-8").strip().split("\n")
    return tuple(Prompt(**json.loads(line)) for line in lines)


@lru_cache(maxsize=1)
def _corpus() -> tuple[Document, ...]:
    lines = gzip.decompress(_data("corpus.jsonl.gz")).decode("utf-8").strip().split("\n")
    return tuple(Document(**json.loads(line)) for line in lines)
