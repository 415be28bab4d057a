"""What there is to see of a probe's result, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.result import ViewSpec
from resonance_lens.text_labels import Kind

REFERENCES = (
    "score_majority",
    "score_untrained",
    "score_shuffled",
    "score_control_task",
    "score_random_features",
    "score_random_weights",
)

MOST_CLASSES = 2
"""Classes that tokens are coloured by: those that most tokens of the window have."""

AT_QUANTILES = (0.1, 0.5, 0.9)
"""Of the label in the window: tokens whose densities are drawn."""


def views(data: xr.Dataset, kind: Kind, best: Mapping[str, Mapping[str, Any]]) -> list[ViewSpec]:
    """Return what to draw.

    Scores by band and layer, selectivity and the learning curve; what probes say along a test window; and
    what a filter, a density or oscillators learned.

    Parameters
    ----------
    data
        Of the result.
    kind
        Of the label.
    best
        Layer and band of each probe, as validation chose.
    """
    made = _scores(data, kind)
    made += _classes(data) if kind == "classes" else _values(data)
    if "filter" in data:
        made += _filter(data, best)
    if "phase" in data:
        made += oscillator_views()
    if "coherence" in data:
        made.append(
            ViewSpec(
                kind="lines",
                title="Oscillators: coherence by class",
                says="How constant each drive's phase is against its oscillator, on the test tokens of each "
                "class: what the read-out goes by.",
                misleads="with a drive that varies slowly every slow oscillator is coherent: what counts is "
                "how classes differ.",
                variables=("coherence",),
                over="natural_frequency",
                series="class",
            )
        )
    return made


def _scores(data: xr.Dataset, kind: Kind) -> list[ViewSpec]:
    unit = "accuracy" if kind == "classes" else "R squared"
    references = tuple(name for name in REFERENCES if name in data)
    made = []
    for probe in data["probe"].values.tolist():
        here = data["score"].sel(probe=probe)
        bands = [b for b in data["band"].values.tolist() if bool(here.sel(band=b).notnull().any())]
        if len(bands) == data.sizes["band"] > 1 and data.sizes["layer"] > 1:
            made += [
                ViewSpec(
                    kind="matrix",
                    title=f"{probe}: {unit} by band and layer",
                    says="What a probe reads of the label on documents that it has not seen, in each band.",
                    misleads="bands differ in how much noise they hold, and a probe that reads the words "
                    "themselves does well: see selectivity and random features.",
                    variables=("score",),
                    select={"probe": probe},
                ),
                ViewSpec(
                    kind="matrix",
                    title=f"{probe}: selectivity by band and layer",
                    says="The same, less what the probe scores on labels that mean nothing.",
                    misleads="a control task is harder for some labels than for others.",
                    variables=("selectivity",),
                    colours="diverging",
                    select={"probe": probe},
                ),
            ]
        if data.sizes["layer"] > 1:
            made += [
                ViewSpec(
                    kind="lines",
                    title=f"{probe}: {unit} over depth, {band}",
                    says="The score beside those of labels that mean nothing and of features that know the "
                    "word alone.",
                    misleads="layers are not independent: what the stream hands on can be read again.",
                    variables=("score",),
                    references=references,
                    select={"probe": probe, "band": band},
                )
                for band in bands[:1]
            ]
    made.append(
        ViewSpec(
            kind="lines",
            title="Learning curve",
            says="The score on validation at the best place, for a growing share of the training documents.",
            misleads="a curve that still rises says that more documents would read more.",
            variables=("learning_curve",),
            over="fraction",
            series="probe",
        )
    )
    return made


def _classes(data: xr.Dataset) -> list[ViewSpec]:
    """Return views of the probabilities of classes along the test window."""
    share = data["specimen_is"].mean("token").values
    first = [str(data["class"].values[i]) for i in np.argsort(-share, kind="stable")]
    # Of two classes one says all: the rarer one is the one to find.
    shown = first[1:] if len(first) == 2 else first[:MOST_CLASSES]
    made = [
        ViewSpec(
            kind="token_values",
            title="Where probes are right along a test text",
            says="The probability that each probe gives the right class, token by token, in a document that "
            "none was trained on; at the best place of each.",
            misleads="this is one window, there to be looked at: scores are over all test documents. "
            "Probabilities are as sharp as a probe was trained to be, and are not calibrated.",
            variables=("specimen_right",),
            series="probe",
            limits=(0.0, 1.0),
        )
    ]
    made += [
        ViewSpec(
            kind="token_values",
            title=f"Probability of {name} along a test text",
            says=f"Which tokens are {name} by the label, and how probable each probe finds it.",
            misleads="this is one window, there to be looked at; probabilities are not calibrated.",
            variables=("specimen_is", "specimen_probability"),
            series="probe",
            select={"class": name},
            limits=(0.0, 1.0),
        )
        for name in shown
    ]
    return made


def _values(data: xr.Dataset) -> list[ViewSpec]:
    """Return views of the values, and of the densities, along the test window."""
    made = [
        ViewSpec(
            kind="lines",
            title="What probes read along a test text",
            says="The value that each probe reads at its best place, beside the true one, in a document that "
            "none was trained on.",
            misleads="this is one window, there to be looked at: scores are over all test documents.",
            variables=("specimen_value",),
            references=("specimen_value_true",),
            over="token",
            series="probe",
        ),
        ViewSpec(
            kind="token_values",
            title="Values of probes on a test text",
            says="The same on the text: first the true value of each token, then what probes read.",
            misleads="this is one window, there to be looked at: scores are over all test documents.",
            variables=("specimen_value_true", "specimen_value"),
            series="probe",
        ),
    ]
    if "density" not in data:
        return made
    probes = _given(data["density"], "probe")
    made += [
        ViewSpec(
            kind="image",
            title=f"{probe}: density of the label along a test text",
            says="What the head holds possible at each token, and the true value as a point.",
            misleads="values beyond the outermost bins count as these, and a density is not calibrated.",
            variables=("density",),
            references=("specimen_value_true",),
            over="token",
            down="value",
            select={"probe": probe},
        )
        for probe in probes
    ]
    made.append(
        ViewSpec(
            kind="lines",
            title="Densities at three tokens",
            says="What the heads hold possible at tokens whose labels are small, middling and large.",
            misleads="three tokens are three tokens; and a head of few waves cannot be sharp.",
            variables=("density",),
            references=("specimen_value_true",),
            over="value",
            series="probe",
            panels="token",
            select={"token": _at_quantiles(data["specimen_value_true"]), "probe": probes},
        )
    )
    return made


def _given(variable: xr.DataArray, dimension: str) -> list[Any]:
    """Return the coordinates along a dimension at which a variable has values."""
    others = [d for d in variable.dims if d != dimension]
    there = variable.notnull().any(others)
    return list(variable[dimension].values[there.values].tolist())


def _at_quantiles(label: xr.DataArray) -> list[int]:
    """Return the tokens whose labels lie at some quantiles, each once, in the order of the text."""
    known = label.dropna("token")
    ranked = known["token"].values[np.argsort(known.values, kind="stable")]
    return sorted({int(ranked[round(q * (len(ranked) - 1))]) for q in AT_QUANTILES})


def _filter(data: xr.Dataset, best: Mapping[str, Mapping[str, Any]]) -> list[ViewSpec]:
    name = str(data["filter"].attrs["probe"])
    layer = best[name]["layer"]
    made = [
        ViewSpec(
            kind="lines",
            title=f"{name}: the filter at layer {layer}",
            says="What the learned filter lets through along tokens, by frequency: 1 all of it, 0 nothing.",
            misleads="a frequency at which nothing helps and nothing hurts stays half open, where it began.",
            variables=("filter",),
            over="frequency",
            select={"layer": layer},
            limits=(0.0, 1.0),
        )
    ]
    if data.sizes["layer"] > 1:
        made.append(
            ViewSpec(
                kind="image",
                title=f"{name}: the filter over depth",
                says="The filters of all layers, each learned by itself.",
                misleads="where a layer holds little of the label, its filter means little: see the score.",
                variables=("filter",),
                over="frequency",
                limits=(0.0, 1.0),
            )
        )
    return made


def oscillator_views() -> Sequence[ViewSpec]:
    """Return views of what an oscillator bank learned, and of what it does along a window."""
    return [
        ViewSpec(
            kind="lines",
            title="Oscillators: how much the read-out hangs on each",
            says="The natural frequencies that the bank learned, and the weight of each in the read-out.",
            misleads="a large weight on an oscillator that is never coherent says nothing.",
            variables=("importance",),
            over="natural_frequency",
            stems=True,
        ),
        ViewSpec(
            kind="image",
            title="Oscillators: phases along a text",
            says="Where each oscillator is in its cycle, token by token, slow ones below.",
            misleads="an oscillator turns by itself as well: only coherence with its drive is read out.",
            variables=("phase",),
            over="token",
            down="oscillator",
            colours="cyclic",
        ),
        ViewSpec(
            kind="lines",
            title="Oscillators: order parameter along a text",
            says="How far the phases of all oscillators agree: 0 not at all, 1 entirely.",
            misleads="few oscillators agree by chance: of n independent ones about 1 / sqrt(n).",
            variables=("order_parameter",),
            over="token",
            limits=(0.0, 1.0),
        ),
        ViewSpec(
            kind="matrix",
            title="Oscillators: couplings",
            says="How much each oscillator (column) pulls another (row), slow ones first.",
            misleads="a coupling between oscillators of far frequencies averages out.",
            variables=("coupling",),
            colours="diverging",
        ),
    ]
