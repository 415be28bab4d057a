"""What can be named to a probe: labels, bands, probes, and what each is. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from resonance_lens.text_labels import RULES, Rule

NEXT = "next_"
"""In front of the name of a rule of tokens: the value of the token that follows."""

POSITION = Rule("position", "ordered", "span", "position in the window, in tokens", lambda text: [])
"""The one label that is not of the text: where in its window the model sees the token."""

ALL = "all"
"""The band that is no band: features as they are."""

BAND_MEANINGS: Mapping[str, str] = {
    ALL: "everything, not filtered",
    "low": "0 to 0.00146 cycles per token: the mean alone, in windows of up to 341 tokens",
    "mid-low": "0.00146 to 0.0083 cycles per token",
    "mid": "0.0083 to 0.0327 cycles per token",
    "mid-high": "0.0327 to 0.126 cycles per token",
    "high": "0.126 to 0.5 cycles per token: periods of up to 8 tokens",
}
"""Bands that are probed unless the user says otherwise: everything, then Prism's, low to high."""

OTHER_BANDS: Mapping[str, str] = {
    "0.1-0.25": "a range in cycles per token",
    "level2": "a scale of a wavelet, with --method wavelet: periods of about 4 to 8 tokens",
    "approximation3": "what is slower than level 3 of a wavelet",
}
"""Examples of other bands; parts may be joined by ``+``."""

PROBE_MEANINGS: Mapping[str, str] = {
    "linear": "linear discriminants, or ridge regression for ordered labels, in closed form",
    "logistic": "logistic regression, for classes; needs the extra probes (scikit-learn)",
    "sparse": "a few features alone, for two classes; needs TransformerLens 4.1 or later",
    "fourier_head": "a hidden layer, then a Fourier series over the values; for ordered labels",
    "linear_softmax": "a hidden layer, then a linear head over the values; for ordered labels",
    "spectral_filter": "a learned filter along tokens, then a linear head; sees whole windows",
    "oscillator_bank": "coupled oscillators driven along tokens, read by synchrony; sees whole windows",
}
"""Probes by name."""


def list_labels() -> dict[str, Rule]:
    """Return the labels that there are by name."""
    return {**RULES, POSITION.name: POSITION}


def label_names() -> list[str]:
    """Return every name that a label may have, those of the following token too."""
    return [*list_labels(), *(NEXT + name for name, rule in RULES.items() if rule.level == "token")]
