"""What a call of `probe` asks for, checked before any pass: model, documents, labels, split, probes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resonance_lens import provenance
from resonance_lens.batches import Tokenized
from resonance_lens.errors import ModelError, ParameterError, PromptError, unknown, wrong_parameter
from resonance_lens.hooks import ModelAdapter, attach
from resonance_lens.probing.controls import labellings
from resonance_lens.probing.documents import PARTS, make_documents, split
from resonance_lens.probing.examples import require_band
from resonance_lens.probing.labels import make_labels
from resonance_lens.probing.learned import fourier_head, linear_softmax, oscillator_bank, spectral_filter
from resonance_lens.probing.linear import Linear, Logistic
from resonance_lens.probing.material import Material
from resonance_lens.probing.names import ALL, BAND_MEANINGS
from resonance_lens.probing.protocol import Probe
from resonance_lens.probing.sparse import Sparse
from resonance_lens.probing.store import width_of
from resonance_lens.prompts import Prompt
from resonance_lens.text_labels import Rule

PROBES: Mapping[str, Callable[[], Probe]] = {
    "linear": Linear,
    "logistic": Logistic,
    "sparse": Sparse,
    "fourier_head": fourier_head,
    "linear_softmax": linear_softmax,
    "spectral_filter": spectral_filter,
    "oscillator_bank": oscillator_bank,
}
"""Probes by name, with their usual settings."""

BANDS = tuple(BAND_MEANINGS)
"""Bands that are probed unless the user says otherwise: everything, then Prism's, low to high."""

RANDOM_WEIGHTS = "random_weights"
BASELINES = (RANDOM_WEIGHTS,)
"""Baselines that cost as much as the probes themselves."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is probed, and how.

    Attributes
    ----------
    adapter
        Of the model.
    material
        Documents with labels and their split; features come later.
    probes
        In order.
    site, layers, width
        Where, and features of a token there.
    bands
        Names, in order.
    baselines
        Out of `BASELINES`.
    prepend_bos
        As it was asked for.
    """

    adapter: ModelAdapter
    material: Material
    probes: tuple[Probe, ...]
    site: str
    layers: tuple[int, ...]
    width: int
    bands: tuple[str, ...]
    baselines: tuple[str, ...]
    prepend_bos: bool | None

    def bands_of(self, probe: Probe) -> tuple[str, ...]:
        """Return the bands that a probe is fitted in."""
        return (ALL,) if probe.whole_records else self.bands

    @property
    def places(self) -> list[tuple[Probe, int, str]]:
        """Every probe at every layer, in every band."""
        return [(p, layer, band) for layer in self.layers for p in self.probes for band in self.bands_of(p)]

    def record(self, batch_tokens: int) -> dict[str, Any]:
        """Return what a result is made of, as plain data."""
        documents, labels = self.material.documents, self.material.labels
        prompts = [
            Prompt(text.text, text.category, id_)
            for text, id_ in zip(documents.texts, documents.ids, strict=True)
        ]
        tokenized = [Tokenized(p, t) for p, t in zip(prompts, documents.tokens, strict=True)]
        record = provenance.of_run(
            self.adapter,
            prompts,
            tokenized,
            seed=self.material.seed,
            prepend_bos=self.prepend_bos,
            batch_tokens=batch_tokens,
        )
        parts = {
            name: [documents.ids[i] for i in np.flatnonzero(self.material.part == number)]
            for number, name in enumerate(PARTS)
        }
        return {
            **record,
            "probe": {
                "label": labels.name,
                "says": labels.says,
                "kind": labels.kind,
                "level": labels.level,
                "classes": list(labels.classes),
                "classes_left_out": list(labels.left_out),
                "labels_digest": hashlib.sha256(self.material.labellings.tobytes()).hexdigest(),
                "labellings": list(self.material.names),
                "site": self.site,
                "layers": list(self.layers),
                "bands": list(self.bands),
                "method": self.material.method,
                "windows": len(documents.windows),
                "windows_digest": documents.digest,
                "tokens_left_out": documents.left_out,
                "split": parts,
                "probes": {probe.name: settings_of(probe) for probe in self.probes},
                "baselines": list(self.baselines),
            },
        }


def settings_of(probe: Probe) -> dict[str, Any]:
    """Return the settings of a probe that are numbers or words."""
    if not dataclasses.is_dataclass(probe):
        return {}
    found = {field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def ask(
    model: Any,
    corpus: Any,
    label: str | Path | Rule,
    *,
    site: str,
    layers: Sequence[int] | None,
    probes: Sequence[str | Probe] | str | Probe,
    bands: Sequence[str],
    method: str,
    shares: Sequence[float] | Mapping[str, Sequence[str]],
    window: int,
    n_shuffles: int,
    baselines: Sequence[str],
    seed: int,
    prepend_bos: bool | None,
) -> Asked:
    """Return what a call asks for; arguments as those of `resonance_lens.probe`.

    Raises
    ------
    ResonanceLensError
        In one sentence, for everything that cannot be.
    """
    adapter = attach(model)
    if not isinstance(adapter, ModelAdapter):
        raise ModelError("probe needs a model that can be run; an ActivationCache holds one pass.")
    chosen = _probes(probes)
    served = adapter.layers([site])
    wanted = served if layers is None else tuple(dict.fromkeys(layers))
    outside = [layer for layer in wanted if layer not in served]
    if outside or not wanted:
        raise ParameterError(
            wrong_parameter("probe", "layers", f"layers out of {served[0]} to {served[-1]}", layers)
        )
    width = width_of(site, adapter.facts, adapter)
    if type(n_shuffles) is not int or n_shuffles < 1:
        raise ParameterError(wrong_parameter("probe", "n_shuffles", "an integer of at least 1", n_shuffles))
    names = tuple([bands] if isinstance(bands, str) else bands)
    if not names or len(set(names)) < len(names):
        raise ParameterError(wrong_parameter("probe", "bands", "names, each once", bands))
    for baseline in baselines:
        if baseline not in BASELINES:
            raise ParameterError(unknown("baseline of probe", str(baseline), BASELINES))
    documents = make_documents(
        corpus, adapter.tokenizer, adapter.facts, window=window, prepend_bos=prepend_bos
    )
    for band in names:
        require_band(band, method, [w.measured for w in documents.windows])
    labels = make_labels(label, documents)
    for probe in chosen:
        why = probe.why_not(labels.kind, labels.classes)
        if why is not None:
            raise ParameterError(f"The label {labels.name!r} has {labels.kind}, and {why}.")
    part = split(documents, shares=shares, classes=labels.document_classes, seed=seed)
    columns, meanings = labellings(labels, documents, part >= 0, n_shuffles=n_shuffles, seed=seed)
    material = Material(documents, labels, columns, meanings, part, method, seed)
    _require_learnable(material)
    return Asked(adapter, material, chosen, site, tuple(wanted), width, names, tuple(baselines), prepend_bos)


def _probes(probes: Sequence[str | Probe] | str | Probe) -> tuple[Probe, ...]:
    items: list[Any] = list(probes) if isinstance(probes, list | tuple) else [probes]
    found: list[Probe] = []
    for item in items:
        if isinstance(item, str):
            if item not in PROBES:
                raise ParameterError(unknown("probe", item, PROBES))
            found.append(PROBES[item]())
        else:
            found.append(item)
    names = [probe.name for probe in found]
    if not names or len(set(names)) < len(names):
        raise ParameterError(wrong_parameter("probe", "probes", "at least one, each name once", names))
    return tuple(found)


def _require_learnable(material: Material) -> None:
    """Raise `PromptError` unless every part has labels, and training two classes or values."""
    for name in PARTS:
        windows = material.windows_of(name)
        values = {
            value
            for window in windows
            for value in np.unique(material.labellings[material.rows[window] : material.rows[window + 1], 0])
            if not np.isnan(value)
        }
        if len(values) < (2 if name == "train" else 1):
            labels = material.labels
            there = "one class" if len(values) == 1 and labels.kind == "classes" else "too few values"
            what = "no token with a label" if not values else there
            raise PromptError(
                f"The {name} part has {what} of {labels.name!r}; give more documents, or another split."
            )
