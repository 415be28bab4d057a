"""What a frequency response has drawn: Bode plots, waterfalls, impulses, figures, shares, distortion."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from resonance_lens.result import ViewSpec

OTHERS = ("random_weights", "shuffled_tokens")
"""Baselines that lines stand beside; they are drawn where they were run."""

BANDS = 4
"""Frequencies at which maps of heads are drawn, from the slowest to the fastest."""

SHADED = 8
"""Least layers that are told apart by shade; the twin of fewer stands at each of them."""


def response_views(data: xr.Dataset) -> list[ViewSpec]:
    """Return the views of what a dataset has of the variables of `frequency_response`."""
    views: list[ViewSpec] = []
    for driven in data.driven.values.tolist():
        views += _bode(data, driven)
        views += _heads(data, driven) if "head" in data.gain_rms.dims else _by_layer(data, driven)
    if data.sizes["layer"] > 1:
        views += _shares(data)
    return views + _amplitudes(data)


def _from(data: xr.Dataset, driven: int | None = None) -> list[int]:
    """Return the layers that a drive reaches, or that any does."""
    reached = data.gain_rms.notnull() if driven is None else data.gain_rms.sel(driven=driven).notnull()
    others = [dim for dim in reached.dims if dim != "layer"]
    layers: list[int] = data.layer.values[reached.any(others).values].tolist()
    return layers


def _entered(data: xr.Dataset, driven: int) -> str:
    site = data.attrs.get("site", "resid_pre")
    return f"driven before layer {driven}" if site == "resid_pre" else f"driven at {site} of layer {driven}"


def _bode(data: xr.Dataset, driven: int) -> list[ViewSpec]:
    """Return gain and phase of one drive: of all layers, and of the last beside the twin and its noise."""
    layers = _from(data, driven)
    entered = _entered(data, driven)
    every: dict[str, Any] = {"kind": "bode", "over": "frequency", "series": "layer"}
    if len(layers) > SHADED:
        every["reference_select"] = {"layer": layers[-1]}
    of_all = {"driven": driven, "layer": layers}
    floor = ("gain_floor",) if "gain_floor" in data else ()
    return [
        ViewSpec(
            title=f"What comes out, in any direction, {entered}",
            says="Root mean square gain: how large the response is at the frequency that went in, layer by "
            "layer, beside that of random weights at the last layer. 0 dB: as large as what went in.",
            misleads="norms grow with depth, and random weights hand on waves too: what training did is the "
            "distance from the twin, and how it changes with frequency.",
            variables=("gain_rms",),
            references=tuple(f"gain_rms_{other}" for other in OTHERS),
            select={**of_all, "category": "all"},
            **every,
        ),
        ViewSpec(
            title=f"What a filter would give, {entered}",
            says="Coherent gain and phase: what the responses to all texts have in common, the best filter "
            "in the place of the model, beside that of random weights at the last layer. A delay of m tokens "
            "turns the phase by -2 pi f m.",
            misleads="it falls with depth because responses differ from text to text, not because nothing "
            "comes through; where it is in its noise the phase is a draw.",
            variables=("gain", *(["phase"] if "phase" in data else [])),
            references=("gain_random_weights", *floor) if "gain_random_weights" in data else floor,
            select=of_all,
            **every,
        ),
    ]


def _heads(data: xr.Dataset, driven: int) -> list[ViewSpec]:
    """Return which heads answer slow and fast waves."""
    chosen = np.unique(np.linspace(0, data.sizes["frequency"] - 1, BANDS).round().astype(int))
    return [
        ViewSpec(
            kind="layer_head_map",
            title=f"Which heads answer which waves, {_entered(data, driven)}",
            says="Root mean square gain of what each head writes, at a few frequencies in cycles per token.",
            misleads="what a head writes may be taken back by others: a large answer is no effect.",
            variables=("gain_rms",),
            select={
                "driven": driven,
                "category": "all",
                "layer": _from(data, driven),
                "frequency": data.frequency.values[chosen].tolist(),
            },
        )
    ]


def _by_layer(data: xr.Dataset, driven: int) -> list[ViewSpec]:
    """Return waterfall, impulse response and figures of one drive."""
    layers, entered = _from(data, driven), _entered(data, driven)
    views: list[ViewSpec] = []
    if len(layers) > 1 and data.sizes["frequency"] > 1:
        views.append(
            ViewSpec(
                kind="image",
                title=f"Waterfall, {entered}",
                says="Root mean square gain over the growth of the norm of a token: which waves keep their "
                "place in the stream, layer by layer, and which lose it.",
                misleads="norms grow with depth, so that what only stays seems to be lost; random weights "
                "lose waves too.",
                variables=("gain_relative",),
                select={"driven": driven, "category": "all", "layer": layers},
                over="frequency",
                down="layer",
                x_scale="log",
                decibels=True,
            )
        )
    if len(layers) > 1 and "impulse" in data:
        later = data.impulse.sel(driven=driven, layer=layers).isel(lag=slice(1, None))
        largest = float(np.abs(later).max())
        views.append(
            ViewSpec(
                kind="image",
                title=f"Impulse response, {entered}",
                says="Mean response along the driven direction to one token, by lag: lag 0 is what stays "
                "where it entered, later lags are what attention carries on, and colours are made for these.",
                misleads="what is carried on in other directions than the driven one is not in it.",
                variables=("impulse",),
                select={"driven": driven, "layer": layers},
                over="lag",
                down="layer",
                colours="diverging",
                limits=(-largest, largest) if largest > 0 else None,
            )
        )
    if "scope_response" in data:
        views.append(
            ViewSpec(
                kind="oscilloscope",
                title=f"Drive against response, {entered}",
                says="What an oscilloscope shows with the drive to the right and the response along it "
                "upwards, for one prompt and one direction, at every later layer: a line for what stays, an "
                "ellipse for a delay, a cloud where the answer depends on the text.",
                misleads="it is one prompt and one direction of hundreds, and nothing of what comes out in "
                "others.",
                variables=("scope_drive", "scope_response"),
                select={"driven": driven, "layer": layers},
                over="sample",
                series="layer",
            )
        )
    return views


def _shares(data: xr.Dataset) -> list[ViewSpec]:
    """Return how much of the response is a filter's, and how much is not linear, by layer."""
    layers = _from(data)
    views: list[ViewSpec] = []
    if "time_invariant" in data:
        views.append(
            ViewSpec(
                kind="lines",
                title="How much of it is a filter",
                says="Share of the power of the response that one filter for all texts explains, beside that "
                "of random weights and shuffled text.",
                misleads="of few prompts a share near zero is uncertain by about one over their number.",
                variables=("time_invariant",),
                references=tuple(f"time_invariant_{other}" for other in OTHERS),
                select={"layer": layers},
                panels="driven",
            )
        )
    if "nonlinear_doubled" in data:
        views.append(
            ViewSpec(
                kind="lines",
                title="What does not grow with the drive",
                says="Share of the response to twice the drive that is not twice the response.",
                misleads="moved power is not distortion: only how it grows tells them apart.",
                variables=("nonlinear_doubled",),
                references=tuple(f"nonlinear_doubled_{other}" for other in OTHERS),
                select={"category": "all", "layer": layers},
                panels="driven",
                y_scale="log",
            )
        )
    return views


def _amplitudes(data: xr.Dataset) -> list[ViewSpec]:
    """Return how the response grows with the drive: its size, and of a tone its harmonics."""
    layers = _from(data)
    views: list[ViewSpec] = []
    if "gain_total" in data:
        views.append(
            ViewSpec(
                kind="lines",
                title="Gain against amplitude",
                says="Size of the whole response over that of the drive: level where the model is linear.",
                misleads="three amplitudes show a trend, not where it ends.",
                variables=("gain_total",),
                select={"category": "all", "layer": layers},
                over="amplitude",
                series="layer",
                panels="driven",
                x_scale="log",
                decibels=True,
            )
        )
    if "harmonic" in data and bool(data.harmonic.sel(layer=layers[-1]).notnull().any()):
        views.append(
            ViewSpec(
                kind="lines",
                title="Distortion against amplitude",
                says="Harmonics of the tones that went in over the fundamental, at the last layer, by "
                "amplitude: distortion of second order follows the guide of slope 1, of third slope 2.",
                misleads="a linear model that changes along the text makes power at those frequencies too, "
                "and its share stays level: that is no distortion.",
                variables=("harmonic",),
                select={"layer": layers[-1]},
                over="amplitude",
                series="order",
                panels="driven",
                x_scale="log",
                y_scale="log",
                slopes=(1, 2),
            )
        )
    return views
