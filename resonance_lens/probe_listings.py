"""What `probe --list` prints: the labels, bands and probes that there are."""

from __future__ import annotations

from typing import Any

from resonance_lens.probing.names import BAND_MEANINGS, NEXT, OTHER_BANDS, PROBE_MEANINGS, list_labels


def choices_data() -> dict[str, Any]:
    """Return what can be chosen as plain data."""
    return {
        "labels": [
            {"name": name, "level": rule.level, "kind": rule.kind, "description": rule.says}
            for name, rule in list_labels().items()
        ],
        "bands": [{"name": name, "description": says} for name, says in BAND_MEANINGS.items()],
        "probes": [{"name": name, "description": says} for name, says in PROBE_MEANINGS.items()],
    }


def choices_text() -> str:
    """Return what can be chosen as text."""
    labels = {
        name: f"{rule.says} ({'classes' if rule.kind == 'classes' else 'ordered'}, {rule.level})"
        for name, rule in list_labels().items()
    }
    labels[f"{NEXT}..."] = f"a label of tokens, of the next token: {NEXT}word_class"
    parts = {"label": labels, "bands": {**BAND_MEANINGS, **OTHER_BANDS}, "probes": PROBE_MEANINGS}
    return "\n\n".join(
        "\n".join(f"--{option} {name:<{max(map(len, named))}}  {says}" for name, says in named.items())
        for option, named in parts.items()
    )
