"""How rare the tokens of a model are: its tokenizer counted over a corpus, or words looked up in wordfreq.

A count needs the whole corpus tokenized, which takes a second or two, so that it is made once for each
tokenizer and corpus and kept, in memory and in the user's cache folder. Nothing is taken from the counts
but the order of the tokens: where they are on the scale of the logarithm of their rank.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from resonance_lens import prompts
from resonance_lens.errors import AdapterError, PromptError, ResultError
from resonance_lens.files import make_folder, write_bytes

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BUNDLED = "bundled"
"""The shipped corpus, prose and code: `resonance_lens.prompts.corpus`."""

WORDFREQ = "wordfreq"
"""No corpus, but the English word list of the package wordfreq: an extra, whose data are not ours to ship."""

CORPORA = (BUNDLED, WORDFREQ)

FILES = (".txt", ".jsonl")
"""What the name of a corpus ends in that is a file of the user's."""

ZIPF_TOP, ZIPF_SPAN = 8.0, 7.0
"""A word of Zipf score 8 would be every tenth, one of 1 is every hundred millionth, the rarest listed."""

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")

KEPT = 8
"""Tables held in memory at one time."""


def token_rarity(tokenizer: Any, corpus: str, tokens: Sequence[Sequence[int]]) -> list[Floats]:
    """Return how rare each token is, in prompts of ids.

    Parameters
    ----------
    tokenizer
        The model's.
    corpus
        One of `CORPORA`, or the name of a file: text, or JSON lines with a ``text`` each.
    tokens
        The ids of each prompt.

    Returns
    -------
    list of arrays
        One for each prompt, ``[token]``: the place of the token on the scale of the logarithm of its rank,
        0 the commonest and 1 the rarest. Not-a-number for what has no place: special tokens, ids that the
        tokenizer does not know and, with wordfreq, what is no word or absent from its list.

    Raises
    ------
    AdapterError
        If wordfreq is asked for and not installed.
    PromptError
        If the file cannot be read, or holds no text.
    """
    if corpus == WORDFREQ:
        return [_of_words(tokenizer, ids) for ids in tokens]
    table = _table(tokenizer, len(tokenizer), corpus, _stamp(corpus))
    return [_look_up(table, ids) for ids in tokens]


def rarity_of(counts: Counts, special: Sequence[int] = ()) -> Floats:
    """Return where tokens are on the scale of the logarithm of their rank: ``ln rank / ln n``.

    Parameters
    ----------
    counts
        Of each token, ``[d_vocab]``. Those with one count are ranked by their id: byte-pair tokenizers
        number tokens in the order in which they were merged, by how common they were where it was trained.
        So those that the corpus lacks come last.
    special
        Ids that stand for no text; they have no rank.

    Returns
    -------
    array
        ``[d_vocab]``: 0 for rank 1, 1 for the last of n; not-a-number for special ids.
    """
    place = np.full(len(counts), np.nan)
    ordinary = np.setdiff1d(np.arange(len(counts)), np.asarray(special, dtype=np.int64))
    order = ordinary[np.argsort(-counts[ordinary], kind="stable")]
    place[order] = np.log(np.arange(1, len(order) + 1)) / math.log(max(len(order), 2))
    return place


def token_counts(tokenizer: Any, corpus: str) -> Counts:
    """Return how often each token occurs in a corpus, ``[d_vocab]``; counted once and then kept on disk.

    Parameters
    ----------
    tokenizer
        The model's.
    corpus
        ``bundled``, or the name of a file.

    Raises
    ------
    PromptError
        If the file cannot be read, or holds no text.
    """
    texts = _texts(corpus)
    size = max(tokenizer.get_vocab().values()) + 1
    key = _digest(_described(tokenizer), *texts)
    counts = _load(key, size)
    if counts is None:
        counts = count(tokenizer, texts, size)
        _save(key, counts)
    return counts


def count(tokenizer: Any, texts: Sequence[str], size: int) -> Counts:
    """Return how often each of ``size`` tokens occurs in some texts, nothing put before or after them."""
    counts = np.zeros(size, dtype=np.int64)
    for text in texts:
        # verbose=False: that a text is longer than the model's context is no matter here.
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=size)
    return counts


def special_ids(tokenizer: Any) -> list[int]:
    """Return the ids that stand for no text: beginning, end, padding, markers of a chat."""
    return sorted({int(i) for i in getattr(tokenizer, "all_special_ids", ())})


@lru_cache(maxsize=KEPT)
def _table(tokenizer: Any, size: int, corpus: str, stamp: object) -> Floats:
    """Return `rarity_of` a corpus; the arguments say when it is another one."""
    return rarity_of(token_counts(tokenizer, corpus), special_ids(tokenizer))


def _stamp(corpus: str) -> object:
    """Return what changes when a file does."""
    try:
        status = Path(corpus).expanduser().stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


# The corpus --------------------------------------------------------------------------------------


def _texts(corpus: str) -> list[str]:
    if corpus == BUNDLED:
        return [document.text for document in prompts.corpus()]
    path = Path(corpus).expanduser()
    if path.suffix == ".jsonl":
        read = prompts.read_prompts(path)
        if any(prompt.text is None for prompt in read):
            raise PromptError(f"Tokens are counted over texts, and {path} holds token ids; give it texts.")
        return [prompt.text for prompt in read if prompt.text is not None]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise PromptError(
            f"The corpus {corpus} cannot be read ({why}); give {BUNDLED!r}, or a file ending in "
            f"{' or '.join(FILES)}."
        ) from error
    if not text.strip():
        raise PromptError(f"The corpus {corpus} holds no text, so that no token is commoner than another.")
    return [text]


def _described(tokenizer: Any) -> str:
    """Return everything that decides which tokens a text becomes."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is not None:
        about = json.loads(inner.to_str())
        # How the last call padded or cut off is no part of it.
        return json.dumps(
            {name: value for name, value in about.items() if name not in ("padding", "truncation")}
        )
    return json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        piece = part.encode()
        digest.update(str(len(piece)).encode() + b":" + piece)
    return digest.hexdigest()


# What is remembered on disk ----------------------------------------------------------------------


def _file(key: str) -> Path:
    chosen = os.environ.get("RESONANCE_LENS_CACHE")
    cache = Path(chosen or platformdirs.user_cache_dir("resonance_lens")).expanduser().absolute()
    return cache / "token_counts" / f"{key}.npz"


def _load(key: str, size: int) -> Counts | None:
    """Return the counts that were kept, or ``None`` where there are none or the file is damaged."""
    try:
        with np.load(io.BytesIO(_file(key).read_bytes()), allow_pickle=False) as archive:
            counts = archive["counts"]  # the archive has a checksum of each member
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return counts if counts.dtype == np.int64 and counts.shape == (size,) else None


def _save(key: str, counts: Counts) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts)
    with contextlib.suppress(ResultError):  # where nothing can be kept, they are counted again next time
        write_bytes(make_folder(_file(key).parent) / f"{key}.npz", buffer.getvalue())


# Words -------------------------------------------------------------------------------------------


def _of_words(tokenizer: Any, ids: Sequence[int]) -> Floats:
    """Return for each piece how rare its whole word is: ``(8 - zipf) / 7``, the scale of Zipf's law."""
    zipf_frequency = _wordfreq().zipf_frequency
    rarity = np.full(len(ids), np.nan)
    for pieces, word in words(tokenizer, ids):
        score = float(zipf_frequency(word, "en"))
        if score > 0:  # zero says that the word is not listed, not that it is rare
            rarity[pieces] = min(max((ZIPF_TOP - score) / ZIPF_SPAN, 0.0), 1.0)
    return rarity


def _wordfreq() -> Any:
    try:
        return importlib.import_module(WORDFREQ)
    except ImportError as error:
        raise AdapterError(
            "The corpus 'wordfreq' needs the package wordfreq, which is not installed: run "
            "`pip install 'resonance-lens[words]'`, or use corpus='bundled'."
        ) from error


def words(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Yield the words that tokens spell, each with the indices of its pieces.

    Parameters
    ----------
    tokenizer
        The model's.
    ids
        Of one prompt.

    Notes
    -----
    A word is a run of letters, apostrophes inside it included; digits and punctuation are no words. A
    piece belongs to the word that it has most letters of. Which letters a piece brings is found by decoding
    ever longer beginnings of the text, which holds for every kind of tokenizer.
    """
    for start, stop in between_special(tokenizer, ids):
        yield from _words_between(tokenizer, ids, start, stop)


def between_special(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where each stretch of ids that holds no special token begins, and where it ends."""
    special = np.isin(np.asarray(ids), special_ids(tokenizer))
    edges = [0, *(np.flatnonzero(np.diff(special)) + 1).tolist(), len(ids)]
    for start, stop in itertools.pairwise(edges):
        if start < stop and not special[start]:
            yield start, stop


def spelled(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Return the text that ids spell, none of which is special, and how far each of them reaches in it.

    Returns
    -------
    tuple
        The text, and ``[token + 1]`` numbers of characters: token i lies between numbers i and i + 1. A token
        that ends inside of a character adds nothing.
    """
    text, ends = "", [0]
    for stop in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False)
        ends.append(max(ends[-1], len(text.rstrip("\ufffd"))))  # half of a character adds nothing yet
    return text, ends


def _words_between(
    tokenizer: Any, ids: Sequence[int], start: int, stop: int
) -> Iterator[tuple[list[int], str]]:
    text, ends = spelled(tokenizer, ids[start:stop])
    found = list(WORD.finditer(text))
    pieces: list[list[int]] = [[] for _ in found]
    for index in range(len(ends) - 1):
        begin = ends[index]
        end = next((later for later in ends[index + 1 :] if later > begin), begin)
        shares = [min(end, word.end()) - max(begin, word.start()) for word in found]
        if max(shares, default=0) > 0:
            pieces[shares.index(max(shares))].append(start + index)
    for word, those in zip(found, pieces, strict=True):
        if those:
            yield those, word.group()


def _look_up(table: Floats, ids: Sequence[int]) -> Floats:
    index = np.asarray(ids, dtype=np.int64)
    known = (index >= 0) & (index < len(table))
    return np.where(known, table[np.where(known, index, 0)], np.nan)
