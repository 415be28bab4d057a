"""Indirect-object names: which of two people is it given to?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resonance_lens.patching.ready.drawing import Drawing, Texts, pick, two, usable
from resonance_lens.patching.ready.texts import encoder_of

if TYPE_CHECKING:
    from resonance_lens.hooks.adapter import Adapter

NAME = "names"

PEOPLE = (
    "Adam", "Alan", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Ben", "Brian", "Carl", "Charles",
    "Chris", "Clara", "Daniel", "David", "Edward", "Elizabeth", "Emily", "Emma", "Eric", "Frank", "George",
    "Grace", "Henry", "Jack", "James", "Jane", "Jason", "John", "Joseph", "Julia", "Kate", "Kevin", "Laura",
    "Linda", "Lisa", "Lucy", "Maria", "Mark", "Martin", "Mary", "Matthew", "Michael", "Paul", "Peter",
    "Rachel", "Richard", "Robert", "Rose", "Ruth", "Ryan", "Sam", "Sarah", "Simon", "Sophie", "Steven",
    "Susan", "Thomas", "Tom", "William",
)  # fmt: skip

TEMPLATES = (
    "When {a} and {b} went to the {place}, {giver} gave a {thing} to",
    "After {a} and {b} came to the {place}, {giver} handed a {thing} to",
    "Then, {a} and {b} had a long day at the {place}, and {giver} gave a {thing} to",
    "While {a} and {b} were walking to the {place}, {giver} offered a {thing} to",
    "Last week {a} and {b} met at the {place}, and {giver} showed a {thing} to",
    "Once {a} and {b} had found the {place}, {giver} passed a {thing} to",
)
"""``giver`` is one of the two, and the answer is the other."""

PLACES = ("store", "school", "garden", "station", "market", "office", "hospital", "restaurant", "library")
THINGS = ("drink", "book", "letter", "ring", "flower", "phone", "ticket", "basketball", "picture", "present")


def names(adapter: Adapter) -> Drawing:
    """Two people, one of whom gives something to the other: the next token is the other's name.

    After Wang et al. (2022), with wordings of our own: ``When Mary and John went to the store, John gave a
    drink to`` with `` Mary`` right. In the corrupted prompt the other one gives, ``Mary gave a drink to``,
    and `` John`` is right: the prompts differ in one token. Who is named first, the one who gives or the
    other, is drawn (orders ABBA and BABA). Only names that are single tokens after a space are used.

    Parameters
    ----------
    adapter
        Of the model; it needs a tokenizer.

    References
    ----------
    Wang, Variengien, Conmy, Shlegeris and Steinhardt (2022), Interpretability in the wild: a circuit for
    indirect object identification in GPT-2 small, arXiv:2211.00593.
    """
    people, note = usable({name: (name,) for name in PEOPLE}, "names", NAME, encoder_of(adapter), least=10)

    def draw(rng: np.random.Generator) -> Texts:
        a, b = two(rng, people)
        giver, other = two(rng, (a, b))
        template, place, thing = pick(rng, TEMPLATES), pick(rng, PLACES), pick(rng, THINGS)
        clean, corrupted = (
            template.format(a=a, b=b, giver=who, place=place, thing=thing) for who in (giver, other)
        )
        return Texts(clean, corrupted, right=f" {other}", wrong=f" {giver}")

    return Drawing(draw, (note,))
