"""Tokens as strips of HTML text with colour, and what each colour stands for."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from resonance_lens.views.exhibits import Exhibit
from resonance_lens.views.plotting import CIRCLE, ink_on, turns
from resonance_lens.views.text import number
from resonance_lens.views.token_values import TokenValues, Track, Tracks

PROMPTS, HEADS, TOKENS = 4, 3, 160
"""Most prompts, heads and tokens of coloured tokens."""

TRACK_TOKENS = 256
"""Most tokens of a track of values."""

FULL = 60
"""How much of the full colour, in percent, the strongest token gets, so that its text stays readable."""

STOPS = 12
"""Colours that a circle of colours is drawn through."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Tokens in one colour each.

    Attributes
    ----------
    label
        Which head or series; empty where the name of the strips says it.
    key
        What the full colours stand for.
    tokens
        Text, CSS of the token, and what is said of it when pointed at.
    """

    label: str
    key: str
    tokens: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The strips of one prompt.

    Attributes
    ----------
    name
        Of the prompt, or of the group of tracks.
    length, cut
        Tokens of the prompt, and whether only the first are shown.
    circle
        CSS colours of the angles from the first to the last of ``marks``; empty without angles.
    """

    name: str
    length: int
    cut: bool
    strips: tuple[Strip, ...]
    circle: str = ""
    marks: tuple[str, ...] = ()


def of_exhibit(exhibit: Exhibit) -> Strips:
    """Return a prompt's tokens by the attention that they receive from each head."""
    strips = []
    for j, head in enumerate(exhibit.heads[:HEADS]):
        end = float(exhibit.scale[j])
        shares = np.minimum(1.0, exhibit.received[j] / end)
        tokens = zip(exhibit.tokens[:TOKENS], shares, exhibit.received[j], strict=False)
        strips.append(
            Strip(
                label=head,
                key=f"full colour: {number(end)} and above",
                tokens=tuple((token, mixed(float(share)), number(float(v))) for token, share, v in tokens),
            )
        )
    return Strips(name=exhibit.name, length=exhibit.length, cut=exhibit.length > TOKENS, strips=tuple(strips))


def of_values(shown: TokenValues) -> tuple[Strips, ...]:
    """Return the tokens of a prompt by their values, for each group of tracks."""
    return tuple(_of_group(shown, group) for group in shown.groups)


def _of_group(shown: TokenValues, group: Tracks) -> Strips:
    ticks, marks = turns(*group.limits) if shown.cyclic else ([], [])
    circle = ", ".join(to_hex(matplotlib.colormaps[CIRCLE](i / STOPS)) for i in range(STOPS + 1))
    return Strips(
        name=f"{group.label} ({group.units})",
        length=len(shown.tokens),
        cut=len(shown.tokens) > TRACK_TOKENS,
        strips=tuple(_of_track(shown, group, track) for track in group.tracks),
        circle=circle if ticks else "",
        marks=tuple(marks),
    )


def _of_track(shown: TokenValues, group: Tracks, track: Track) -> Strip:
    key = _key(group, cyclic=shown.cyclic)
    # A track of its own is named by its group.
    label = "" if track.label == group.label else track.label
    return Strip(label=label, key=key, tokens=_tokens(shown, group, track))


def _key(group: Tracks, *, cyclic: bool) -> str:
    low, high = (number(limit) for limit in group.limits)
    if cyclic:
        return ""
    return f"full blue: {high}" + (f", full orange: {low}" if group.signed else "")


def _tokens(shown: TokenValues, group: Tracks, track: Track) -> tuple[tuple[str, str, str], ...]:
    low, high = group.limits
    said = []
    for token, value in zip(shown.tokens[:TRACK_TOKENS], track.values.tolist(), strict=False):
        if not np.isfinite(value):
            css = "background:none"
        elif shown.cyclic:
            face = matplotlib.colormaps[CIRCLE]((value - low) / (high - low) % 1.0)
            css = f"background:{to_hex(face)};color:{ink_on(face)}"
        else:
            end = high if value >= 0 else low
            css = mixed(min(1.0, value / end) if end else 0.0, "2" if value < 0 else "4")
        said.append((token, css, number(value)))
    return tuple(said)


def mixed(share: float, series: str = "4") -> str:
    """Return the CSS of a share of one of the theme's series colours: blue unless another is asked for."""
    colour = "" if series == "4" else f";--c:var(--series-{series})"
    return f"--v:{round(FULL * share)}%{colour}"
