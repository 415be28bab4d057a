"""What a component is named by: the moments at which it is strongest, and words that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BEFORE, AFTER = 32, 16
"""Characters of context on either side of a token."""

FEWEST_TIMES, FEWEST_DOCUMENTS = 5, 3
"""How often, and in how many documents, a word must come up to be named."""

N_WORDS = 6


@dataclass(frozen=True)
class Moment:
    """A token at which a component is strong.

    Attributes
    ----------
    window, token
        Where: index of the window, and of the token among those that are measured.
    value
        In root mean squares of the component over all windows, with its sign.
    """

    window: int
    token: int
    value: float


def moments(course: Floats, most: int, apart: float) -> list[Moment]:
    """Return where a component is strongest, in either direction, the strongest first.

    Parameters
    ----------
    course
        ``[window, token]``, in root mean squares.
    most
        How many.
    apart
        Tokens within which two strong values of a window are one moment: half of a period.
    """
    left = np.abs(course)
    found: list[Moment] = []
    while len(found) < most:
        window, token = np.unravel_index(int(left.argmax()), left.shape)
        if left[window, token] <= 0:
            break
        found.append(Moment(int(window), int(token), float(course[window, token])))
        reach = max(1, round(apart))
        left[window, max(0, token - reach) : token + reach + 1] = 0
    return found


def words(
    course: Floats, ids: NDArray[np.int64], documents: NDArray[np.int64]
) -> tuple[list[int], list[int]]:
    """Return the words at which a component is surely above and below zero, the surest first.

    Parameters
    ----------
    course
        ``[window, token]``, in root mean squares.
    ids
        Of the tokens, alike.
    documents
        Of each window.

    Notes
    -----
    By the mean over the word's occurrences, in standard errors, which take occurrences as independent: an
    order, and no test. A word that comes up fewer than `FEWEST_TIMES` times, or in fewer than
    `FEWEST_DOCUMENTS` documents, is not named.
    """
    values, tokens = course.ravel(), ids.ravel()
    of = np.repeat(documents, ids.shape[1])
    known, inverse, count = np.unique(tokens, return_inverse=True, return_counts=True)
    pairs = np.unique(np.stack([inverse, of]), axis=1)
    spread = np.bincount(pairs[0], minlength=len(known))
    sums = np.bincount(inverse, weights=values)
    mean = sums / count
    squares = np.bincount(inverse, weights=values**2) / count
    error = np.sqrt(np.maximum(squares - mean**2, 1e-12) / count)
    sure = np.where((count >= FEWEST_TIMES) & (spread >= FEWEST_DOCUMENTS), mean / error, 0.0)
    order = np.argsort(-sure, kind="stable")
    up = [int(known[at]) for at in order[:N_WORDS] if sure[at] > 2]
    down = [int(known[at]) for at in order[::-1][:N_WORDS] if sure[at] < -2]
    return up, down


def context(text: str, offsets: Sequence[tuple[int, int]], token: int) -> tuple[str, str]:
    """Return a token of a document as it is written, and the same with what stands around it, marked."""
    start, end = offsets[token]
    before, after = text[max(0, start - BEFORE) : start], text[end : end + AFTER]
    return text[start:end], f"{before}\u27e6{text[start:end]}\u27e7{after}"
