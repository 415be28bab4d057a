"""Short lists of English: words of the closed classes, endings that tell a class, months, abbreviations."""

from __future__ import annotations

CLOSED: dict[str, frozenset[str]] = {
    "determiner": frozenset(
        "the a an this these those every each either neither another some any no my your his its our their "
        "whose which what".split()
    ),
    "pronoun": frozenset(
        "i you he she it we they me him us them myself yourself himself herself itself ourselves yourselves "
        "themselves mine yours hers ours theirs who whom nobody nothing somebody something anybody anything "
        "everybody everything someone anyone everyone".split()
    ),
    "preposition": frozenset(
        "of in on at by with from into onto upon for about against between among through during without "
        "within toward towards across behind beyond beneath below above under over near despite except via "
        "per amid amidst beside besides throughout along".split()
    ),
    "conjunction": frozenset(
        "and or but nor yet if because although though unless whereas while whether until lest".split()
    ),
    "auxiliary": frozenset(
        "is are was were be been being am has have had having do does did will would shall should can could "
        "may might must ought isn't aren't wasn't weren't hasn't haven't hadn't don't doesn't didn't won't "
        "wouldn't shan't shouldn't can't couldn't cannot mustn't".split()
    ),
    "adverb": frozenset(
        "not never always often sometimes seldom rarely very too quite rather almost perhaps soon now then "
        "here there again already also only just even ever thus hence therefore however moreover "
        "nevertheless indeed instead once twice away together".split()
    ),
    "number": frozenset(
        "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty "
        "seventy eighty ninety hundred thousand million billion".split()
    ),
}
"""Words by class; no word is in two."""

SUFFIXES: tuple[tuple[str, str, int], ...] = (
    ("ly", "adverb", 5),
    ("tion", "noun", 6),
    ("sion", "noun", 6),
    ("ment", "noun", 6),
    ("ness", "noun", 6),
    ("ity", "noun", 5),
    ("ance", "noun", 6),
    ("ence", "noun", 6),
    ("ship", "noun", 6),
    ("ism", "noun", 5),
    ("ist", "noun", 6),
    ("ous", "adjective", 5),
    ("ful", "adjective", 5),
    ("less", "adjective", 6),
    ("able", "adjective", 6),
    ("ible", "adjective", 6),
    ("ical", "adjective", 6),
    ("ive", "adjective", 6),
    ("ic", "adjective", 5),
    ("ing", "verb", 5),
    ("ed", "verb", 4),
    ("ise", "verb", 6),
    ("ize", "verb", 5),
    ("ify", "verb", 5),
)
"""Ending, the class that it tells, and how long a word with it must be; the first that fits counts."""

MONTHS: dict[str, float] = {
    name: float(number)
    for number, name in enumerate(
        "January February March April May June July August September October November December".split(), 1
    )
}
"""Names with a capital letter alone: "may" and "march" are other words."""

ABBREVIATIONS = frozenset(
    "mr mrs ms dr st jr sr prof rev gen col capt lieut messrs esq vol ch fig sec cf eg ie etc".split()
)
"""Words, in small letters, whose full stop ends no sentence."""
