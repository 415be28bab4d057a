"""Words, numbers, tokens and colours."""

from __future__ import annotations

import math

import pytest

from resonance_lens.views.tables import aligned
from resonance_lens.views.text import duration, listing, number, visible
from resonance_lens.views.theme import DARK, LIGHT, Theme


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("\n\n", "¶¶"),
        ("\t", "→"),
        ("", "[empty]"),
        ("\x00", "\u2400"),
        ("\u202e", "[U+202E]"),
        ("\u200b", "[U+200B]"),
        ("\xa0", "[U+00A0]"),
        ("\ud83d", "\ufffd"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("שלום", "שלום"),
    ],
)
def test_tokens_are_visible(token: str, shown: str) -> None:
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (999.7, "1000"),
        (12345.6, "12346"),
        (2.5e7, "2.50e+07"),
        (1e-5, "1.00e-05"),
        (math.nan, "no value"),
        (-math.inf, "minus infinite"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


def test_columns_share_their_decimals() -> None:
    assert aligned([0.5, 12.0, math.nan]) == ["0.5", "12.0", "no value"]
    assert aligned([]) == []
    assert aligned([0.0]) == ["0"]
    assert aligned([-0.25]) == ["−0.250"]


def test_durations() -> None:
    assert [duration(s) for s in (0.416, 41.72, 185, 7800)] == ["0.42 s", "41.7 s", "3 min 5 s", "2 h 10 min"]


def test_listings() -> None:
    assert [listing(list(names)) for names in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(theme: Theme) -> None:
    for ground in (theme.paper, theme.panel):
        for text in (theme.ink, theme.muted, theme.accent, theme.measured, theme.proxy, theme.synthetic):
            assert _contrast(text, ground) >= 4.5
    for line in (*theme.series, theme.null):
        assert _contrast(line, theme.panel) >= 3
