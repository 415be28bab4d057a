"""From what was found to a result: tests over documents, names, effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens.discovering.asked import RANDOM, SHUFFLED, Asked
from resonance_lens.discovering.finding import NOWHERE, Found, centroid
from resonance_lens.discovering.measuring import signed_ranks
from resonance_lens.discovering.naming import context
from resonance_lens.discovering.removing import Ablation, why_not
from resonance_lens.discovering.telling import best, methods, summary, targets, views
from resonance_lens.patching.operations.directions import RemoveDirections
from resonance_lens.result import Result
from resonance_lens.stats.inference import LEVEL, infer
from resonance_lens.stats.intervals import bootstrap_mean
from resonance_lens.stats.samples import Sample
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]

NAME, VERSION = "discovery", "1"
MINIMUM_EFFECT = 0.05
"""Of a component's power, beyond what is expected in its band, of what could be: less counts as nothing."""

DIMS = ("layer", "band", "component")
ENDS = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}


@dataclass(frozen=True, eq=False)
class Tested:
    """Variables ``[layer, band, component]`` with what they are, and which components are found.

    Attributes
    ----------
    variables
        By name: values and long names.
    recurs
        Booleans: concentrated in the band, and more of the band than chance, both over all places.
    found
        Booleans: these, and beyond shuffled text if that was read.
    """

    variables: dict[str, tuple[NDArray[Any], str]]
    recurs: NDArray[np.bool_]
    found: NDArray[np.bool_]


def made_of(asked: Asked, found: Mapping[int, Found], twin: Mapping[int, Found]) -> Tested:
    """Return means over held-out documents, bounds and tests.

    Parameters
    ----------
    asked
        What was looked for.
    found, twin
        What `find` gave of each layer, of the model and of its random-weight twin (or nothing).
    """
    ours = {name: _stacked(found, name) for name in ("excess", "share")}
    made: dict[str, tuple[NDArray[Any], str]] = {}
    _tell(asked, made, "excess", ours["excess"], "power in the band beyond what is expected")
    _tell(asked, made, "share", ours["share"], "share of the band's power that the component holds")
    null = 1 / asked.width
    made["share_null"] = (
        np.full(ours["share"].shape[1:], null),
        "share of the band's power in a random direction",
    )
    recurs = _recurs(asked, made, ours, "")
    sure = recurs.copy()
    if SHUFFLED in asked.baselines:
        other = _stacked(found, f"excess_{SHUFFLED}")
        words = "power in the band beyond what is expected, shuffled text"
        _tell(asked, made, f"excess_{SHUFFLED}", other, words)
        words = "share of the band's power that the component holds, shuffled text"
        _tell(asked, made, f"share_{SHUFFLED}", _stacked(found, f"share_{SHUFFLED}"), words)
        name, beyond = f"beyond_{SHUFFLED}", ours["excess"] - other
        _tell(
            asked, made, name, beyond, "power in the band beyond what is expected, less that in shuffled text"
        )
        q = _test(asked, made, name, ours["excess"], other)
        sure &= (q <= LEVEL) & (made[name][0] > 0)
    if twin:
        theirs = {name: _stacked(twin, name) for name in ("excess", "share")}
        for name, rows in theirs.items():
            _tell(
                asked, made, f"{name}_{RANDOM}", rows, f"{made[name][1]}, random weights: its own components"
            )
        made[f"recurs_{RANDOM}"] = (
            _recurs(asked, made, theirs, f"_{RANDOM}"),
            "concentrated in its band and more of it than chance, random weights: its own components",
        )
    made["recurs"] = (recurs, "concentrated in its band and more of it than chance")
    made["found"] = (
        sure,
        "comes back in its band" + (", beyond shuffled text" if SHUFFLED in asked.baselines else ""),
    )
    return Tested(made, recurs, sure)


def _stacked(found: Mapping[int, Found], name: str) -> Floats:
    """Return ``[document, layer, ...]``."""
    return np.stack([each[name] for each in found.values()], axis=1)


def _tell(
    asked: Asked, made: dict[str, tuple[NDArray[Any], str]], name: str, rows: Floats, words: str
) -> None:
    """Add the mean over documents of rows ``[document, layer, band, component]`` with its bounds."""
    # One set of resamples, so that intervals are comparable.
    values = bootstrap_mean(rows, stream(asked.seed, NAME, "intervals"))
    for (end, says), each in zip(ENDS.items(), values, strict=True):
        made[name + end] = (each, words + says)


def _test(
    asked: Asked, made: dict[str, tuple[NDArray[Any], str]], name: str, value: Floats, null: Floats
) -> Floats:
    """Add p and q of values against their null, over all places together, and return q."""
    difference = Sample(value, null, scale=1e-3).difference
    ranks = signed_ranks(difference)
    tested = infer(Sample(ranks, np.zeros_like(ranks)), (0, 1, 2), stream(asked.seed, NAME, name, "flips"))
    made[f"{name}_p"] = (tested.p, f"p of {name}; not-a-number: no test")
    made[f"{name}_q"] = (
        tested.q,
        f"q of {name} over all layers, bands and components; not-a-number: no test",
    )
    return tested.q


def _recurs(
    asked: Asked, made: dict[str, tuple[NDArray[Any], str]], rows: Mapping[str, Floats], end: str
) -> NDArray[np.bool_]:
    """Return which components lie in their band and hold more of it than chance."""
    excess, share = rows["excess"], rows["share"]
    null = np.full_like(share, 1 / asked.width)
    concentrated = _test(asked, made, f"excess{end}", excess, np.zeros_like(excess)) <= LEVEL
    shared = _test(asked, made, f"share{end}", share, null) <= LEVEL
    return np.asarray(
        concentrated
        & (made[f"excess{end}_low"][0] > MINIMUM_EFFECT)
        & shared
        & (share.mean(0) > 1 / asked.width)
    )


def to_take_out(asked: Asked, found: Mapping[int, Found], made: Tested) -> list[Ablation]:
    """Return the components that are taken out of the model: the best found of each band in turn.

    Best is what gained most in the documents that it was learned from: what it does in the others has no part
    in the choice.
    """
    order: list[list[tuple[int, int, int]]] = []
    for band, name in enumerate(asked.bands.names):
        if why_not(asked, name):
            continue
        there = np.argwhere(made.found[:, band])
        places = [(asked.layers[layer], band, int(component)) for layer, component in there]
        order.append(sorted(places, key=lambda at: -found[at[0]]["gained"][at[1], at[2]]))
    chosen: list[tuple[int, int, int]] = []
    while any(order) and len(chosen) < asked.n_ablations:
        for places in order:
            if places and len(chosen) < asked.n_ablations:
                chosen.append(places.pop(0))
    return [_ablation(asked, found[layer], layer, band, component) for layer, band, component in chosen]


def _ablation(asked: Asked, found: Found, layer: int, band: int, component: int) -> Ablation:
    reads, writes = (torch.from_numpy(found[name][band, component])[:, None] for name in ("reads", "writes"))
    operation = RemoveDirections(
        reads=reads, writes=writes, band=asked.bands.names[band], method=asked.method
    )
    return Ablation(layer, band, component, operation, torch.from_numpy(found["scale"]), asked.seed)


def conclude(
    asked: Asked,
    found: Mapping[int, Found],
    made: Tested,
    chosen: Sequence[Ablation],
    losses: Floats,
    record: Mapping[str, Any],
) -> Result:
    """Return the result of `resonance_lens.discover`."""
    data = _dataset(asked, found, made)
    data = data.assign(_effects(asked, chosen, losses))
    data = data.assign(_on_text(asked, found, data))
    provenance = {
        **record,
        "analysis": NAME,
        "version": VERSION,
        "title": f"Components of {asked.site} that come back in a band",
        "headline": "excess",
        "evidence": "measured",
        "baselines": list(asked.baselines),
        "conditions": ["plain", *asked.baselines],
        "baselines_missing": {},
        "nulls": ["shuffled_order", "own_rotation"],
        "claims": [],
        "tests": {},
        "calibrated": {},
        "minimum_effect": MINIMUM_EFFECT,
        "source": "SCIENCE 3, 7; Nikulin, Nolte and Curio 2011 (spatio-spectral decomposition)",
        "parameters": {
            name: record["discover"][name]
            for name in ("site", "bands", "n_components", "scaling", "window", "method")
        },
        "not_taken_out": {name: why for name in asked.bands.names if (why := why_not(asked, name))}
        if asked.n_ablations
        else {},
    }
    bare = Result(name=NAME, data=data, provenance=provenance)
    bare = replace(bare, ranked=tuple(targets(bare)))
    return replace(bare, summary=summary(bare), methods=methods(bare), views=tuple(views(bare)))


def _dataset(asked: Asked, found: Mapping[int, Found], made: Tested) -> xr.Dataset:
    layers = list(found.values())
    variables: dict[str, Any] = {
        name: (DIMS, values, {"long_name": words, "units": "1"})
        for name, (values, words) in made.variables.items()
    }

    def add(name: str, dims: Sequence[str], values: Any, words: str, unit: str = "1") -> None:
        variables[name] = ((*DIMS, *dims), np.asarray(values), {"long_name": words, "units": unit})

    spectrum = np.stack([each["spectrum"] for each in layers])
    frequencies = np.array([
        [[centroid(row, asked.bands, band) for row in rows] for band, rows in enumerate(of_layer)]
        for of_layer in spectrum
    ])  # fmt: skip
    add("period", (), 1 / frequencies, "period at the mean frequency in the band", "tokens")
    add(
        "contrast", (), asked.bands.contrast(spectrum), "power at a frequency in the band over that beside it"
    )
    add("spectrum", ("frequency",), spectrum.astype(np.float32), "share of the component's power")
    gained = np.stack([each["gained"] for each in layers])
    add("gained", (), gained, "share of the band's power less share of all power, where it was learned")
    if asked.heads:
        heads = np.stack([each["head_weight"] for each in layers])
        add("head_weight", ("head",), heads, "share of the component in each head")
    for name, words in (("reads", "direction that is read"), ("writes", "direction that is written")):
        add(name, ("feature",), np.stack([each[name] for each in layers]).astype(np.float32), words)
    amplitude = np.stack([each["amplitude"] for each in layers])
    for name, dims, values, words in _names(asked, layers):
        add(name, dims, values, words)
    rows = {
        "excess": (_stacked(found, "excess"), "power in the band beyond what is expected"),
        "share": (_stacked(found, "share"), "share of the band's power that the component holds"),
        "amplitude": (np.moveaxis(amplitude, 1, 0), "root mean square over that of all documents"),
    }
    for name, (values, words) in rows.items():
        about = {"long_name": f"{words}, of each held-out document", "units": "1"}
        variables[f"{name}_prompt"] = (("prompt", *DIMS), values.astype(np.float32), about)
    coords = {
        "layer": ("layer", list(found), {"long_name": "layer"}),
        "band": ("band", list(asked.bands.names), {"long_name": "band along tokens"}),
        "component": ("component", np.arange(1, asked.n_components + 1), {"long_name": "component"}),
        "frequency": (
            "frequency",
            asked.bands.frequencies,
            {"long_name": "frequency", "units": "cycles per token"},
        ),
        "prompt": ("prompt", [asked.documents.ids[at] for at in asked.test]),
        "moment": ("moment", np.arange(1, asked.n_moments + 1), {"long_name": "strongest moments"}),
    }
    if asked.heads:
        coords["head"] = ("head", np.arange(asked.heads), {"long_name": "head"})
    return xr.Dataset(variables, coords=coords)


def _names(asked: Asked, layers: Sequence[Found]) -> list[tuple[str, tuple[str, ...], NDArray[Any], str]]:
    """Return what components are named by, in words."""
    documents = asked.documents
    windows = np.stack([each["moment_window"] for each in layers])
    tokens = np.stack([each["moment_token"] for each in layers])
    text, around, where = (np.full(windows.shape, "", dtype=object) for _ in range(3))
    position = np.full(windows.shape, NOWHERE)
    for at in np.ndindex(windows.shape):
        if windows[at] == NOWHERE:
            continue
        window = documents.windows[windows[at]]
        position[at] = window.first + tokens[at]
        of = documents.texts[window.document]
        text[at], around[at] = context(of.text, of.offsets, int(position[at]))
        where[at] = documents.ids[window.document]
    above, below = (
        np.array([[[_listed(asked, row) for row in rows] for rows in each[name]] for each in layers])
        for name in ("above", "below")
    )
    values = np.stack([each["moment_value"] for each in layers])
    moment = ("moment",)
    return [
        ("moment_text", moment, text.astype(str), "token at a strong moment"),
        ("moment_context", moment, around.astype(str), "what stands around it"),
        ("moment_value", moment, values, "value of the component, in its root mean squares"),
        ("moment_document", moment, where.astype(str), "document of the moment"),
        ("moment_position", moment, position, "token of the document, from 0; -1: none"),
        ("words_above", (), above, "words at which it is surely above zero"),
        ("words_below", (), below, "words at which it is surely below zero"),
    ]


def _listed(asked: Asked, ids: NDArray[np.int64]) -> str:
    """Return words as they would be typed in a program, so that white space is seen."""
    decode = asked.adapter.tokenizer.decode
    return " ".join(repr(decode([int(each)])) for each in ids if each != NOWHERE)


def _effects(asked: Asked, chosen: Sequence[Ablation], losses: Floats) -> dict[str, Any]:
    """Return what taking components out costs, beside the placebo."""
    if not chosen:
        return {}
    windows = [w.document for w in asked.documents.windows if asked.held_out[w.document]]
    of = np.array(windows)
    n = len(chosen)
    by_document = np.stack([losses[of == document].mean(0) for document in asked.test])
    removed = by_document[:, 1 : 1 + n] - by_document[:, :1]
    placebo = by_document[:, 1 + n :] - by_document[:, :1]
    shape = (len(asked.layers), len(asked.bands.names), asked.n_components)
    made: dict[str, Any] = {}
    for name, rows, words in (
        ("loss_removed", removed, "loss that taking the component out of its band adds"),
        ("loss_placebo", placebo, "loss that as much taken out in random directions adds"),
        ("loss_beyond", removed - placebo, "loss that taking the component out adds beyond the placebo"),
    ):
        values = bootstrap_mean(rows, stream(asked.seed, NAME, "losses"))
        for (end, says), each in zip(ENDS.items(), values, strict=True):
            out = np.full(shape, np.nan)
            for at, one in enumerate(chosen):
                out[asked.layers.index(one.layer), one.band, one.component] = each[at]
            about = {"long_name": f"{words}{says}; not-a-number: not taken out", "units": "nats per token"}
            made[name + end] = (DIMS, out, about)
    q = infer(Sample(removed, placebo), (0,), stream(asked.seed, NAME, "losses", "flips")).q
    out = np.full(shape, np.nan)
    for at, one in enumerate(chosen):
        out[asked.layers.index(one.layer), one.band, one.component] = q[at]
    made["loss_beyond_q"] = (
        DIMS,
        out,
        {"long_name": "q of the loss beyond the placebo; not-a-number: not taken out", "units": "1"},
    )
    made["loss"] = (
        (),
        by_document[:, 0].mean(),
        {"long_name": "loss as the model is", "units": "nats per token"},
    )
    return made


def _on_text(asked: Asked, found: Mapping[int, Found], data: xr.Dataset) -> dict[str, Any]:
    """Return the course of the best component on the window in which it is strongest, with its tokens."""
    at = best(data)
    layer, band, component = (asked.layers[at[0]], *at[1:])
    window = asked.documents.windows[found[layer]["moment_window"][band, component, 0]]
    of = asked.documents.texts[window.document]
    text = [of.text[start:end] for start, end in of.offsets[window.first : window.stop]]
    words = f"L{layer} {asked.bands.names[band]} {component + 1} in {asked.documents.ids[window.document]}"
    about = {"long_name": words, "units": "root mean squares"}
    course = xr.DataArray(
        found[layer]["course"][band, component],
        dims="token",
        coords={
            "token": ("token", np.arange(window.first, window.stop), {"long_name": "token"}),
            "token_text": ("token", text),
        },
        attrs=about,
    )
    return {"course": course}
