"""Counting and ordering: what comes next?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resonance_lens.errors import PromptError
from resonance_lens.patching.ready.drawing import Drawing, Texts, pick, require_option, two
from resonance_lens.patching.ready.texts import encoder_of

if TYPE_CHECKING:
    from resonance_lens.hooks.adapter import Adapter

NAME = "counting"


class Series(NamedTuple):
    """Words in an order that everybody knows.

    Attributes
    ----------
    name
        What they are.
    words
        In their order.
    between
        What stands between two of them.
    cyclic
        Whether the first follows the last.
    """

    name: str
    words: tuple[str, ...]
    between: str
    cyclic: bool = False


MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

SERIES = (
    Series("numbers", NUMBERS, ", "),
    Series("digits", tuple("123456789"), "\n"),
    Series("digits after a space", tuple("123456789"), " "),
    Series("letters", tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), ", "),
    Series("months", MONTHS, "\n", cyclic=True),
    Series("weekdays", WEEKDAYS, "\n", cyclic=True),
)


def counting(adapter: Adapter, *, n_items: int = 4) -> Drawing:
    """Some items of an order that everybody knows, numbers, letters, months or weekdays: the next one.

    ``three, four, five, six,`` with `` seven`` right. The corrupted prompt begins elsewhere in the same
    series, ``one, two, three, four,``, and `` five`` is right. Only series all of whose items are single
    tokens where they stand are used.

    Parameters
    ----------
    adapter
        Of the model; it needs a tokenizer.
    n_items
        How many items stand in a prompt, 2 to 5.
    """
    whole = type(n_items) is int and 2 <= n_items <= 5
    require_option(NAME, "n_items", whole, "an integer from 2 to 5", n_items)
    encoder = encoder_of(adapter)

    def texts(series: Series, start: int) -> tuple[str, str]:
        """Return the prompt that begins at an item, and its answer."""
        items = [series.words[(start + i) % len(series.words)] for i in range(n_items + 1)]
        prompt = "".join(item + series.between for item in items[:-1]).rstrip(" ")
        return prompt, " " * series.between.endswith(" ") + items[-1]

    found: list[tuple[str, list[tuple[str, str]]]] = []
    for series in SERIES:
        n_starts = len(series.words) - (0 if series.cyclic else n_items)
        known = [texts(series, start) for start in range(n_starts)]
        lengths = {len(encoder.ids(prompt)) for prompt, _ in known}
        if len(lengths) == 1 and all(encoder.continuation(*each) is not None for each in known):
            found.append((series.name, known))
    note = (
        f"{len(found)} of {len(SERIES)} series are single tokens of this tokenizer, and used: "
        f"{', '.join(name for name, _ in found) or 'none'}."
    )
    if len(found) < 2:
        raise PromptError(
            f"The task {NAME!r} needs 2 series that are single tokens, and of its {len(SERIES)} the "
            f"tokenizer of {encoder.name} has {len(found)}; use another task, or pairs of your own "
            "(PromptPairs.from_texts)."
        )

    def draw(rng: np.random.Generator) -> Texts:
        (clean, right), (corrupted, wrong) = two(rng, pick(rng, found)[1])
        return Texts(clean, corrupted, right, wrong)

    return Drawing(draw, (note,))
