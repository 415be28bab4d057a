"""Documents to probe: their tokens, the windows that a model sees of them, and which are for what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resonance_lens.errors import ParameterError, PromptError, wrong_parameter
from resonance_lens.facts import Facts
from resonance_lens.probing.offsets import tokens_of
from resonance_lens.prompts import Document, Prompt, corpus, read_prompts, token_digests
from resonance_lens.stats.streams import stream
from resonance_lens.text_labels import Text

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)
"""Of documents in each part, unless the user says otherwise."""

FEWEST = 6
"""Documents below which there is no split worth the name: two for each part."""

WINDOW = 256
"""Tokens that the model sees at a time, unless the user says otherwise."""


@dataclass(frozen=True)
class Window:
    """A run of tokens of one document that the model sees at once.

    Attributes
    ----------
    document
        Index of the document.
    start, stop
        Which of its tokens.
    tokens
        Ids as the model sees them: with a beginning-of-sequence token in front where it is used to one.
    first
        Index, in the document, of the first token that is measured. The first position of a window never is.
    """

    document: int
    start: int
    stop: int
    tokens: tuple[int, ...]
    first: int

    @property
    def measured(self) -> int:
        """How many tokens are measured."""
        return self.stop - self.first


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents with their tokens, cut into windows.

    Attributes
    ----------
    ids
        Names of the documents.
    texts
        Texts with the spans of their tokens.
    tokens
        Ids of each, whole.
    windows
        In order.
    left_out
        Tokens at the ends of documents that no window holds: a rest of less than half a window.
    """

    ids: tuple[str, ...]
    texts: tuple[Text, ...]
    tokens: tuple[tuple[int, ...], ...]
    windows: tuple[Window, ...]
    left_out: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def measured(self) -> int:
        """How many tokens are measured, of all documents."""
        return sum(window.measured for window in self.windows)

    @property
    def digest(self) -> str:
        """The SHA-256 of the tokens of all windows, as the model sees them."""
        rows = token_digests(window.tokens for window in self.windows)
        return hashlib.sha256("".join(rows).encode()).hexdigest()


def read_documents(source: Any) -> list[Document | Prompt]:
    """Return what a user gives as a corpus: ``"corpus"``, documents of it, or prompts of any kind.

    Raises
    ------
    PromptError
        If there is a prompt without text, or two documents share an id.
    """
    items: Sequence[Any]
    if isinstance(source, str) and source == "corpus":
        items = corpus()
    elif isinstance(source, list | tuple) and source and all(isinstance(d, Document) for d in source):
        items = source
    else:
        items = read_prompts(source)
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise PromptError(f"Two documents have the id {item.id!r}; ids must be unique.")
        seen.add(item.id)
        if item.text is None:
            raise PromptError(
                f"Document {item.id!r} is given as token ids, and labels are read off texts; give its text."
            )
    return list(items)


def make_documents(
    source: Any, tokenizer: Any, facts: Facts, *, window: int = WINDOW, prepend_bos: bool | None = None
) -> Documents:
    """Tokenise documents and cut them into windows.

    Parameters
    ----------
    source
        See `read_documents`.
    tokenizer, facts
        Of the model.
    window
        Tokens of a window, at least 2; a beginning-of-sequence token comes on top. A rest of less than half
        of one, after at least one whole window, is left out and counted. A shorter document is one window.
    prepend_bos
        As in `resonance_lens.run`.

    Raises
    ------
    ParameterError
        If a window is too short, or longer than the model's context.
    PromptError
        If a document has fewer than two tokens to measure, or tokens outside the vocabulary.
    """
    if tokenizer is None:
        raise PromptError(
            f"{facts.model_name} has no tokenizer to put labels on tokens with; set model.tokenizer."
        )
    bos = facts.prepends_bos and facts.bos_token is not None if prepend_bos is None else prepend_bos
    if bos and facts.bos_token is None:
        raise PromptError(
            f"{facts.model_name} has no beginning-of-sequence token; leave prepend_bos at its default."
        )
    front = (int(facts.bos_token),) if bos and facts.bos_token is not None else ()
    if not (type(window) is int and 2 <= window <= facts.n_ctx - len(front)):
        wanted = f"an integer from 2 to {facts.n_ctx - len(front)}, what the model's context holds"
        raise ParameterError(wrong_parameter("probe", "window", wanted, window))
    items = read_documents(source)
    texts, all_tokens, windows = [], [], []
    left_out = 0
    for index, item in enumerate(items):
        tokens, offsets = tokens_of(tokenizer, str(item.text), f"document {item.id!r}")
        outside = next((t for t in tokens if t >= facts.d_vocab), None)
        if outside is not None:
            raise PromptError(
                f"Document {item.id!r} has the token id {outside}, and {facts.model_name} has ids up to "
                f"{facts.d_vocab - 1}."
            )
        if len(tokens) < 2:
            raise PromptError(f"Document {item.id!r} has one token; give at least two.")
        category = item.kind if isinstance(item, Document) else item.category
        source_of = item.source if isinstance(item, Document) else None
        texts.append(Text(str(item.text), offsets, category, source_of))
        all_tokens.append(tokens)
        for start in range(0, len(tokens), window):
            stop = min(start + window, len(tokens))
            if start and stop - start < window / 2:
                left_out += stop - start
                break
            # Without a token in front, the first of the document's own is the first position.
            first = start if front else start + 1
            windows.append(Window(index, start, stop, (*front, *tokens[start:stop]), first))
    ids = tuple(item.id for item in items)
    return Documents(ids, tuple(texts), tuple(all_tokens), tuple(windows), left_out)


def split(
    documents: Documents,
    *,
    shares: Sequence[float] | Mapping[str, Sequence[str]] = SHARES,
    classes: Sequence[str | None] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Deal documents to train, validation and test.

    Parameters
    ----------
    documents
        To deal.
    shares
        Of the three parts; or a split that is given: ids of documents by part. Documents that it does not
        name are not used.
    classes
        Class of each document, where the label is one of documents: each class is dealt by itself. ``None``
        for a document without.
    seed
        Of the dealing.

    Returns
    -------
    array
        ``[document]``: 0, 1, 2 for train, validation, test; -1 for a document that is not used.

    Raises
    ------
    PromptError
        If there are too few documents, or the split leaks: two documents with the same text are in different
        parts, or one document is.
    ParameterError
        If shares are not three numbers above zero, or a part is unknown.
    """
    n = len(documents)
    if isinstance(shares, Mapping):
        part = _given(documents, shares)
    else:
        share = _shares(shares)
        if n < FEWEST:
            raise PromptError(
                f"{n} document{'s are' if n != 1 else ' is'} too few to split into train, validation and "
                f"test: probing needs at least {FEWEST}."
            )
        part = np.full(n, -1)
        # Documents of one text are one unit: they must not end up on two sides.
        units = _units(documents)
        labels = [None if classes is None else classes[members[0]] for members in units]
        for name in dict.fromkeys(labels):
            of_class = [unit for unit, label in zip(units, labels, strict=True) if label == name]
            if classes is not None and name is None:
                continue
            order = stream(seed, "split", str(name)).permutation(len(of_class))
            for rank, which in enumerate(order):
                part[list(of_class[which])] = _part_of(rank, len(of_class), share)
    _refuse_leaks(documents, part)
    for index, name in enumerate(PARTS):
        if not (part == index).any():
            raise PromptError(f"The {name} part of the split has no document; give more documents.")
    return part


def _shares(shares: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(shares, dtype=np.float64)
    if found.shape != (3,) or not (found > 0).all() or not np.isfinite(found).all():
        raise ParameterError(
            wrong_parameter("probe", "split", "three shares above zero, or ids of documents by part", shares)
        )
    return np.asarray(found / found.sum())


def _part_of(rank: int, n: int, share: NDArray[np.float64]) -> int:
    """Return the part of the document of a rank: each part has one as soon as there are three, two of six."""
    least = min(n // len(PARTS), FEWEST // len(PARTS))  # one test document has no interval
    counts = np.maximum(np.floor(share * n).astype(int), least)
    # Test and validation first: what is over is for training.
    test, validation = int(counts[2]), int(counts[1])
    return 2 if rank < test else 1 if rank < test + validation else 0


def _given(documents: Documents, parts: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    index = {name: number for number, name in enumerate(documents.ids)}
    found = np.full(len(documents), -1)
    for part, names in parts.items():
        if part not in PARTS:
            raise ParameterError(wrong_parameter("probe", "split", f"of the parts {', '.join(PARTS)}", part))
        for name in names:
            if name not in index:
                raise PromptError(f"The split names the document {name!r}, which is not in the corpus.")
            before = found[index[name]]
            if before >= 0:
                raise PromptError(
                    f"The split leaks: document {name!r} is in {PARTS[before]} and in {part}; put it on one "
                    "side."
                )
            found[index[name]] = PARTS.index(part)
    return found


def _digests(documents: Documents) -> list[str]:
    """Return a digest of the words of each document; white space does not count."""
    return [hashlib.sha256(" ".join(t.text.split()).encode()).hexdigest() for t in documents.texts]


def _units(documents: Documents) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for index, digest in enumerate(_digests(documents)):
        found.setdefault(digest, []).append(index)
    return list(found.values())


def _refuse_leaks(documents: Documents, part: NDArray[np.int64]) -> None:
    for members in _units(documents):
        used = [index for index in members if part[index] >= 0]
        apart = next((index for index in used if part[index] != part[used[0]]), None)
        if apart is not None:
            one, other = documents.ids[used[0]], documents.ids[apart]
            raise PromptError(
                f"The split leaks: documents {one!r} ({PARTS[part[used[0]]]}) and {other!r} "
                f"({PARTS[part[apart]]}) have the same text; put them on one side."
            )
