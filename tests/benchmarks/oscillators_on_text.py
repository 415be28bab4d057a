"""What an oscillator bank reads of a model on text: ``python -m tests.benchmarks.oscillators_on_text``.

`resonance_lens.probe` at one layer, with several splits: code or prose, the source of a document, and a
rhythm that is known, lists of nouns that come back after three or five words, or in no order. Beside the
bank: its shuffled labels, the most frequent class, a linear probe of single tokens (band ``all``) and of
means of windows (band ``low``), and for the first split a model with random weights. Activations stay in
``--folder``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resonance_lens as rl
from resonance_lens.hooks import attach
from resonance_lens.nn import OscillatorBank, locking
from resonance_lens.probing.asked import ask
from resonance_lens.probing.documents import Part
from resonance_lens.probing.learned import LearnedFitted
from resonance_lens.probing.saving import file_name, load_probe
from resonance_lens.probing.store import plan_store
from resonance_lens.prompts import Prompt
from resonance_lens.rhythms import NOUNS
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.streams import stream

CHARACTERS = 2400
"""Of each document of the corpus, from its beginning."""

PERIODS = (3, 5)
"""Of the lists of nouns, in tokens."""

WORDS = 80
"""Of a list."""

CLOSE = 0.02
"""How near a natural frequency has to be to a multiple of one over the period, as a share of it."""

PROBES = ("linear", "oscillator_bank")
BANDS = ("all", "low")


def lists(tokenizer: Any, n_each: int, seed: int = 0) -> list[Prompt]:
    """Return lists of nouns with categories: with a period of 3 or 5 words, each one token, or with none.

    A list without a period has three or five different words as well: what tells categories apart is order.
    """
    whole = [noun for noun in NOUNS if len(tokenizer(f" {noun}", add_special_tokens=False)["input_ids"]) == 1]
    names = [*(f"period {period}" for period in PERIODS), "no period"]
    found = []
    for i in range(n_each):
        rng = stream(seed, "lists of nouns", i)
        for name in names:
            period = PERIODS[i % 2] if name == "no period" else int(name.split()[1])
            words = rng.choice(whole, period, replace=False)
            order = rng.integers(period, size=WORDS) if name == "no period" else np.arange(WORDS) % period
            found.append(Prompt("".join(f" {words[k]}" for k in order), name, f"{name} {i:03d}"))
    return found


def corpus() -> list[Any]:
    """Return the shipped corpus, its documents cut."""
    return [replace(document, text=document.text[:CHARACTERS]) for document in rl.corpus()]


def probed(
    model: Any, documents: Any, label: str, layer: int, folder: Path, seed: int
) -> tuple[rl.Result, LearnedFitted]:
    """Return the result, with the twin for the first seed, and the bank."""
    out = folder / f"{label}-{layer}-{seed}"
    result = rl.probe(
        model,
        documents,
        label,
        layers=(layer,),
        probes=PROBES,
        bands=BANDS,
        features=folder / f"features-{layer}",
        baselines=("random_weights",) if seed == 0 else (),
        out=out,
        seed=seed,
        progress=False,
    )
    fitted, _ = load_probe(out / "probes" / file_name("oscillator_bank", layer, "all"))
    assert isinstance(fitted, LearnedFitted)
    return result, fitted


def scores(results: list[rl.Result], layer: int) -> dict[str, Any]:
    """Return accuracies over splits, with intervals over the test documents of all splits."""
    found: dict[str, Any] = {}
    for probe, band in (("oscillator_bank", "all"), ("linear", "all"), ("linear", "low")):
        at = [one.data.sel(probe=probe, band=band, layer=layer) for one in results]
        found[f"{probe} {band}"] = {
            name: [round(float(one[name]), 3) for one in at if name in one]
            for name in (
                "score",
                "score_shuffled",
                "score_majority",
                "score_random_features",
                "score_random_weights",
            )
        }
        for name in ("score", "selectivity"):
            rows = np.concatenate([one[f"{name}_prompt"].values for one in at])
            found[f"{probe} {band}"][f"{name}_interval"] = [
                round(float(x), 3) for x in bootstrap_mean(rows, np.random.default_rng(0))
            ]
    return found


def multiples() -> list[float]:
    """Return the frequencies of the lists, below one half."""
    return sorted({k / period for period in PERIODS for k in range(1, period) if k / period < 0.5})


def heard(fitted: LearnedFitted) -> list[tuple[float, float, bool]]:
    """Return frequency, importance and whether it is one of the lists', of oscillators from the first on."""
    bank = fitted.module
    assert isinstance(bank, OscillatorBank)
    return [
        (round(f, 4), round(i, 2), any(abs(f / wanted - 1) <= CLOSE for wanted in multiples()))
        for f, i in zip(bank.frequencies[:, 0].tolist(), bank.importance.tolist(), strict=True)
    ]


def tested(
    model: Any, documents: Any, label: str, layer: int, folder: Path, seed: int, fitted: LearnedFitted
) -> dict[str, Any]:
    """Return for each category the oscillator that locks to it most on validation, and its test on test.

    Each document is one window there, so that documents are what labels are shuffled over.
    """
    asked = ask(
        model, documents, label, site="resid_post", layers=(layer,), probes=PROBES, bands=BANDS,
        method="dct", shares=(0.6, 0.2, 0.2), window=256, n_shuffles=3, baselines=(), seed=seed,
        prepend_bos=None,
    )  # fmt: skip
    store = plan_store(
        folder / f"features-{layer}", asked.adapter, asked.material.documents, site=asked.site,
        layers=asked.layers, width=asked.width, dtype="float16", fingerprint=None,
    )  # fmt: skip
    bank = fitted.module
    assert isinstance(bank, OscillatorBank)
    seen = {}
    parts: tuple[Part, ...] = ("validation", "test")
    for part in parts:
        reader = asked.material.stored(store, layer)
        examples = list(asked.material.examples(reader, asked.width, "all", part, n_labellings=1))
        x = torch.cat([fitted.standardised(windows.features) for windows in examples])
        labels = np.concatenate([windows.labels[:, 0, 0] for windows in examples])
        seen[part] = locking(bank, x, torch.from_numpy(labels).long())
    found = {}
    for number, name in enumerate(asked.material.labels.classes):
        own = seen["validation"].classes == number
        if bool(own.any()):
            k = int(torch.where(own, seen["validation"].contrast, -1.0).argmax())
            test = seen["test"]
            found[name] = {
                "frequency": round(float(test.frequencies[k, 0]), 4),
                "same class on test": int(test.classes[k]) == number,
                "contrast": round(float(test.contrast[k]), 3),
                "p": round(float(test.p[k]), 4),
            }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.oscillators_on_text", description=__doc__
    )
    parser.add_argument("--model", default="smollm2-135m", help="a name for load_model")
    parser.add_argument("--folder", type=Path, required=True, help="for activations and results")
    parser.add_argument("--properties", nargs="+", default=["rhythm", "category", "source"])
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="splits, shuffles and starts")
    parser.add_argument("--lists", type=int, default=60, help="lists of nouns of each kind")
    options = parser.parse_args()
    model = rl.load_model(options.model, progress=False)
    for name in options.properties:
        label = "category" if name == "rhythm" else name
        documents: Any = lists(attach(model).tokenizer, options.lists) if name == "rhythm" else corpus()
        folder = options.folder / ("lists" if name == "rhythm" else "corpus")
        results = []
        for seed in range(options.seeds):
            result, fitted = probed(model, documents, label, options.layer, folder, seed)
            results.append(result)
            line: dict[str, Any] = {"start": fitted.start, "oscillators": heard(fitted)}
            if name == "rhythm":
                line["locked"] = tested(model, documents, label, options.layer, folder, seed, fitted)
            print(f"{name}, split {seed}: {json.dumps(line)}", flush=True)
        for probe, found in scores(results, options.layer).items():
            print(f"{name}, {probe}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
