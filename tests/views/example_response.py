"""A synthetic frequency response with the variables that its views draw, and a map of heads by band."""

from __future__ import annotations

import numpy as np
import xarray as xr

from resonance_lens.response_views import response_views
from resonance_lens.result import Result, ViewSpec
from tests.views.example_results import declared

PERIOD, LAYERS, SAMPLES, DELAY = 64, 12, 96, 2

HALF = 0.125
"""Planted: the frequency at which a layer's gain has fallen by 3 dB."""

BANDS = ("low", "middle", "high")


def frequency_response(*, name: str = "the drive") -> Result:
    """A low-pass that delays, driven before layers 2 and 6, with a tone's harmonics."""
    rng = np.random.default_rng(0)
    frequency = np.arange(1, PERIOD // 2) / PERIOD
    driven, layer, lag = np.array([2, 6]), np.arange(LAYERS), np.arange(PERIOD // 2)
    amplitude, order = np.array([0.015, 0.03, 0.06]), np.array([2, 3])
    deep = layer[None, :] - driven[:, None]  # [driven, layer]
    reached = np.where(deep >= 0, 1.0, np.nan)[..., None]
    size = (1 + 0.1 * deep)[..., None] * reached
    gain = size / np.sqrt(1 + (frequency / HALF) ** 2)
    sample = np.arange(SAMPLES)
    drive = np.sqrt(2) * np.sin(2 * np.pi * sample * 5 / PERIOD)
    late = np.roll(drive, DELAY)
    blend = np.clip(deep / 4, 0, 1)[..., None]
    response = size * ((1 - blend) * drive + blend * late)
    harmonic = amplitude[:, None] ** (order - 1) * 0.1
    dims = ("driven", "layer", "frequency")
    whole = ("category", *dims)

    def of(dims: tuple[str, ...], values: np.ndarray, long_name: str, units: str = "1") -> xr.Variable:
        return xr.Variable(dims, values, {"long_name": long_name, "units": units})

    phase = np.angle(np.exp(-2j * np.pi * frequency * DELAY)) * reached
    twin = np.full_like(gain, 1.4) * reached
    variables = {
        "gain_rms": of(whole, gain[None], "root mean square gain"),
        "gain_rms_low": of(whole, gain[None] * 0.9, "root mean square gain, lower 95 % bound"),
        "gain_rms_high": of(whole, gain[None] * 1.1, "root mean square gain, upper 95 % bound"),
        "gain_rms_random_weights": of(whole, twin[None], "root mean square gain, random weights"),
        "gain": of(dims, gain * 0.8, "coherent gain"),
        "gain_low": of(dims, gain * 0.8 - 0.3, "coherent gain, lower 95 % bound"),
        "gain_high": of(dims, gain * 0.8 + 0.3, "coherent gain, upper 95 % bound"),
        "gain_random_weights": of(dims, twin, "coherent gain, random weights"),
        "gain_random_weights_low": of(dims, twin - 0.2, "coherent gain, random weights, lower 95 % bound"),
        "gain_random_weights_high": of(dims, twin + 0.2, "coherent gain, random weights, upper 95 % bound"),
        "gain_floor": of(dims, gain / np.sqrt(6), "coherent gain of chance alone"),
        "phase": of(dims, phase, "phase along the drive", "radians"),
        "gain_relative": of(whole, (gain / size)[None], "gain over the growth of the norm"),
        "impulse": of(
            ("driven", "layer", "lag"), np.where(lag == 0, 1.0, -0.1 * 0.5**lag) * reached, "impulse"
        ),
        "time_invariant": of(("driven", "layer"), np.exp(-deep / 4) * reached[..., 0], "share of a filter"),
        "nonlinear_doubled": of(("category", "driven", "layer"), (0.01 * reached[..., 0])[None], "share"),
        "gain_total": of(("category", "driven", "layer", "amplitude"), (size + 0 * amplitude)[None], "size"),
        "harmonic": of(
            ("driven", "layer", "amplitude", "order"), harmonic * reached[..., None], "harmonic over the tone"
        ),
        "scope_drive": of(("driven", "sample"), np.stack([drive, drive]), name),
        "scope_response": of(("driven", "layer", "sample"), response, f"response along {name}"),
        "carried": of(
            ("layer", "head", "band"), rng.normal(0, 0.1, (LAYERS, 4, len(BANDS))), "share of the response"
        ),
    }
    variables["gain_low"].attrs["over"] = "directions"
    data = xr.Dataset(variables).assign_coords(
        category=["all"], driven=driven, layer=layer, frequency=frequency, lag=lag, amplitude=amplitude,
        order=order, sample=sample, head=np.arange(4), band=list(BANDS),
    )  # fmt: skip
    said = {
        "frequency": ("frequency", "cycles per token"),
        "lag": ("lag", "tokens"),
        "amplitude": ("amplitude of the drive", "median norms"),
        "sample": ("token", "1"),
        "order": ("harmonic", "1"),
        "driven": ("layer driven before", "layer"),
    }
    for coordinate, (long_name, units) in said.items():
        data[coordinate].attrs = {"long_name": long_name, "units": units}
    bands = ViewSpec(
        kind="layer_head_map",
        title="Which head carries which band",
        says="By how much the response loses in a band where a head is held.",
        misleads="heads make up for each other.",
        variables=("carried",),
        panels="band",
        colours="diverging",
    )
    return Result(
        name="frequency_response",
        data=data,
        provenance=declared("frequency_response", "measured", "gain_rms", title="Frequency response"),
        summary="Slow waves come out larger than fast ones.",
        views=(*response_views(data), bands),
    )
