"""Repeated random tokens: what came after this the last time?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resonance_lens.errors import PromptError
from resonance_lens.patching.ready.drawing import Drawing, Tokens, require_option

if TYPE_CHECKING:
    from resonance_lens.hooks.adapter import Adapter

NAME = "induction"


def induction(adapter: Adapter, *, segment: int = 8, first_token: int | None = None) -> Drawing:
    """Random tokens, a part of which comes again: the next token is the one that followed the first time.

    A prompt is a beginning-of-sequence token where the model is used to one, two segments of random tokens,
    and one of them again up to its last token, which is the answer: ``s A t B s``, with ``A`` right, where
    ``s`` and ``t`` are strings of ``segment - 1`` tokens, and no token but those of ``s`` comes twice. In the
    other prompt of the pair ``s`` and ``t`` have changed places, ``t A s B s``, and ``B`` is right. Both
    prompts hold the same tokens, have ``A`` and ``B`` at the same places, and end in the same ``segment - 1``
    tokens: they differ in where that which the end repeats stands, and in nothing else. Which of the two
    is the clean one is drawn, so that the answer is not always equally far back.

    Parameters
    ----------
    adapter
        Of the model; no tokenizer is needed.
    segment
        Tokens in a segment, its answer included, at least 2. A prompt has ``3 * segment - 1``, and the
        first.
    first_token
        A token that every prompt begins with instead; it stands nowhere else.
    """
    facts, tokenizer = adapter.facts, adapter.tokenizer
    whole = type(segment) is int and segment >= 2
    require_option(NAME, "segment", whole, "an integer of at least 2", segment)
    inside = first_token is None or (type(first_token) is int and 0 <= first_token < facts.d_vocab)
    require_option(
        NAME, "first_token", inside, f"None or a token id from 0 to {facts.d_vocab - 1}", first_token
    )
    special: set[int] = set()
    size = facts.d_vocab
    if tokenizer is not None:
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        size = min(size, len(tokenizer))  # a vocabulary may be padded beyond what the tokenizer knows
    first = first_token if first_token is not None else facts.bos_token if facts.prepends_bos else None
    tokens = np.setdiff1d(np.arange(size), [*special, *([] if first is None else [first])])
    if len(tokens) < 2 * segment:
        raise PromptError(
            f"The task {NAME!r} needs {2 * segment} different tokens, and {facts.model_name} has "
            f"{len(tokens)} that are not special; make 'segment' smaller."
        )
    front = () if first is None else (first,)

    def draw(rng: np.random.Generator) -> Tokens:
        row = tuple(rng.choice(tokens, size=2 * segment, replace=False).tolist())
        s, a, t, b = row[: segment - 1], row[segment - 1], row[segment:-1], row[-1]
        far, near = (*front, *s, a, *t, b, *s), (*front, *t, a, *s, b, *s)
        if rng.integers(2):
            return Tokens(clean=far, corrupted=near, right=a, wrong=b)
        return Tokens(clean=near, corrupted=far, right=b, wrong=a)

    return Drawing(draw, (f"Tokens are drawn from {len(tokens)} of {facts.d_vocab} that are not special.",))
