"""Subject-verb agreement: one or several, whatever noun stands between?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resonance_lens.patching.ready.drawing import Drawing, Texts, pick, usable
from resonance_lens.patching.ready.texts import encoder_of

if TYPE_CHECKING:
    from resonance_lens.hooks.adapter import Adapter

NAME = "agreement"

NOUNS = (
    "key", "door", "book", "letter", "picture", "car", "teacher", "student", "doctor", "author", "manager",
    "player", "farmer", "guard", "pilot", "driver", "dog", "cat", "bird", "tree", "house", "bridge", "road",
    "river", "ship", "train", "table", "chair", "window", "computer", "phone", "song", "painting",
    "garden", "tower", "machine", "engine", "island", "village",
)  # fmt: skip
"""Their plurals are made with an s."""

ATTRACTORS = ("cabinet", "garden", "house", "school", "station", "bridge", "office", "museum", "hotel")
FRAMES = (
    "The {subject} {place} the {attractor}",
    "I know that the {subject} {place} the {attractor}",
    "We could all see that the {subject} {place} the {attractor}",
)
PLACES = ("near", "behind", "beside", "by", "in front of", "next to")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def agreement(adapter: Adapter) -> Drawing:
    """A noun, a place with another noun, and a verb: the next token is the verb in the number of the first.

    ``The keys near the cabinet`` with `` are`` right. In the corrupted prompt the subject has the other
    number, ``The key near the cabinet``, and `` is`` is right. The second noun is the same in both, so that
    in one of them it has the other number than the subject (an attractor: Linzen et al. 2016). Which number
    the clean prompt has, and which the attractor, is drawn. Only nouns whose singular and plural are
    single tokens after a space are used.

    Parameters
    ----------
    adapter
        Of the model; it needs a tokenizer.

    References
    ----------
    Linzen, Dupoux and Goldberg (2016), Assessing the ability of LSTMs to learn syntax-sensitive dependencies,
    Transactions of the ACL 4, arXiv:1611.01368.
    """
    encoder = encoder_of(adapter)
    nouns, of_nouns = usable({noun: (noun, f"{noun}s") for noun in NOUNS}, "nouns", NAME, encoder, least=10)
    verbs, of_verbs = usable({verbs: verbs for verbs in VERBS}, "pairs of verbs", NAME, encoder, least=1)

    def draw(rng: np.random.Generator) -> Texts:
        noun, verb = pick(rng, nouns), pick(rng, verbs)
        attractor = pick(rng, ATTRACTORS) + pick(rng, ("", "s"))
        frame, place = pick(rng, FRAMES), pick(rng, PLACES)
        one, several = (
            frame.format(subject=subject, place=place, attractor=attractor) for subject in (noun, f"{noun}s")
        )
        singular, plural = (f" {each}" for each in verb)
        if rng.integers(2):
            return Texts(several, one, right=plural, wrong=singular)
        return Texts(one, several, right=singular, wrong=plural)

    return Drawing(draw, (of_nouns, of_verbs))
