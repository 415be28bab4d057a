"""Factual recall: what is known of the subject?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resonance_lens.errors import PromptError
from resonance_lens.patching.ready.drawing import Drawing, Texts, pick
from resonance_lens.patching.ready.texts import encoder_of

if TYPE_CHECKING:
    from resonance_lens.hooks.adapter import Adapter

NAME = "facts"
LEAST = 10

RELATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "capitals": (
        "The capital of {subject} is the city of",
        {
            "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London",
            "Russia": "Moscow", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens",
            "Ireland": "Dublin", "Austria": "Vienna", "Portugal": "Lisbon", "Sweden": "Stockholm",
            "Poland": "Warsaw", "Hungary": "Budapest", "Turkey": "Ankara", "Iran": "Tehran",
            "Iraq": "Baghdad", "Syria": "Damascus", "Cuba": "Havana", "Peru": "Lima", "Canada": "Ottawa",
            "Kenya": "Nairobi", "Thailand": "Bangkok", "Scotland": "Edinburgh", "Belgium": "Brussels",
            "South Korea": "Seoul", "Czech Republic": "Prague", "Norway": "Oslo", "Finland": "Helsinki",
            "Denmark": "Copenhagen", "Netherlands": "Amsterdam", "Ukraine": "Kiev", "Israel": "Jerusalem",
        },
    ),
    "languages": (
        "In {subject}, most people speak the language called",
        {
            "France": "French", "Germany": "German", "Italy": "Italian", "Spain": "Spanish",
            "England": "English", "Russia": "Russian", "Japan": "Japanese", "China": "Chinese",
            "Greece": "Greek", "Portugal": "Portuguese", "Poland": "Polish", "Mexico": "Spanish",
            "Brazil": "Portuguese", "Egypt": "Arabic", "Austria": "German", "Australia": "English",
            "Sweden": "Swedish", "Turkey": "Turkish", "Hungary": "Hungarian", "Norway": "Norwegian",
        },
    ),
    "chemical symbols": (
        "The chemical symbol for {subject} is",
        {
            "hydrogen": "H", "carbon": "C", "nitrogen": "N", "oxygen": "O", "sulfur": "S", "iron": "Fe",
            "copper": "Cu", "gold": "Au", "silver": "Ag", "sodium": "Na", "lead": "Pb", "potassium": "K",
            "calcium": "Ca", "helium": "He", "zinc": "Zn",
        },
    ),
}  # fmt: skip
"""A prompt for each relation, and what its subjects are answered with."""


def facts(adapter: Adapter) -> Drawing:
    """Capitals, languages and chemical symbols: the next token is what is known of the subject.

    ``The capital of France is the city of`` with `` Paris`` right. In the corrupted prompt stands another
    subject of the same relation, of equal length in tokens and with another answer: ``The capital of Italy
    is the city of`` with `` Rome``. Only facts whose answer is a single token after a space are used.

    Parameters
    ----------
    adapter
        Of the model; it needs a tokenizer.
    """
    encoder = encoder_of(adapter)
    known: dict[tuple[str, int], list[tuple[str, str]]] = {}  # by relation and length of the prompt
    n_facts = 0
    for relation, (template, table) in RELATIONS.items():
        for subject, answer in table.items():
            n_facts += 1
            prompt = template.format(subject=subject)
            if encoder.single(answer):
                known.setdefault((relation, len(encoder.ids(prompt))), []).append((prompt, f" {answer}"))
    paired = []
    for alike in known.values():
        for one in alike:
            others = [other for other in alike if other[1] != one[1]]
            if others:
                paired.append((one, others))
    if len(paired) < LEAST:
        raise PromptError(
            f"The task {NAME!r} needs {LEAST} facts that have a single token for an answer and another fact "
            f"of equal length, and of its {n_facts} the tokenizer of {encoder.name} has {len(paired)}; use "
            "another task, or pairs of your own (PromptPairs.from_texts)."
        )

    def draw(rng: np.random.Generator) -> Texts:
        (clean, right), others = pick(rng, paired)
        corrupted, wrong = pick(rng, others)
        return Texts(clean, corrupted, right, wrong)

    note = (
        f"{len(paired)} of {n_facts} facts have a single token of this tokenizer for an answer, and another "
        "fact of equal length to go with; the rest is not used."
    )
    return Drawing(draw, (note,))
