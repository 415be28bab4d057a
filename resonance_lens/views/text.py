"""How names, numbers and tokens are written wherever a person reads them."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_WHITESPACE = {" ": "\u00b7", "\n": "\u00b6", "\t": "\u2192", "\r": "\u240d", "\x7f": "\u2421"}
# Characters that reorder or hide the text around them.
_INVISIBLE = {*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF}


def visible(token: str) -> str:
    """Return the text of a token with everything in it visible.

    A space becomes a middle dot, a newline a pilcrow, control characters their pictures, and
    characters that reorder text or have no width their code point.

    Examples
    --------
    >>> visible(" first\\nsecond")
    '·first¶second'
    >>> visible("\\u202eabc")
    '[U+202E]abc'
    """
    return "".join(_visible_character(character) for character in token) or "[empty]"


def _visible_character(character: str) -> str:
    code = ord(character)
    if character in _WHITESPACE:
        return _WHITESPACE[character]
    if code < 0x20:
        return chr(0x2400 + code)
    if 0xD800 <= code < 0xE000:
        return "\ufffd"
    # A zero-width joiner inside an emoji belongs to its picture.
    if code in _INVISIBLE and code != 0x200D:
        return f"[U+{code:04X}]"
    if unicodedata.category(character) in {"Zs", "Cc"}:
        return f"[U+{code:04X}]"
    return character


def words(name: str) -> str:
    """Return a name from code as words: ``first_position`` becomes ``first position``."""
    return name.replace("_", " ")


def plural(name: str) -> str:
    """Return the plural of a word.

    Examples
    --------
    >>> plural("layer"), plural("frequency")
    ('layers', 'frequencies')
    """
    return name[:-1] + "ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else name + "s"


def given(long_name: str) -> str:
    """Return a long name without what it says of not-a-number.

    Examples
    --------
    >>> given("distance; not-a-number: nobody looks"), given("share (not-a-number: no power)")
    ('distance', 'share')
    """
    return re.split(r"; not-a-number| \(not-a-number", long_name)[0]


def listing(names: list[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]


def number(value: float) -> str:
    """Return a number with three significant digits, a real minus sign, and words for no number.

    Examples
    --------
    >>> number(0.12345), number(-1.5), number(1234567.0), number(float("nan"))
    ('0.123', '−1.5', '1.23e+06', 'no value')
    """
    if math.isnan(value):
        return "no value"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 999.5:
        shown = f"{size:.3g}"
    elif 999.5 <= size < 1e6:
        shown = f"{size:.0f}"
    else:
        shown = f"{size:.2e}"
    return ("\u2212" if value < 0 else "") + shown


def duration(seconds: float) -> str:
    """Return ``0.42 s``, ``12.3 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a ``<script>`` element: nothing in it can end the element.

    Raises
    ------
    ValueError
        If a number is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def amount(claim: Mapping[str, Any]) -> str:
    """Return the smallest effect of a claim that counts, with its units: ``0.05`` or ``1 token``."""
    size, units = claim["minimum_effect"], str(claim["units"])
    if units == "1":
        return f"{size:g}"
    return f"{size:g} {units.removesuffix('s') if size == 1 else units}"
