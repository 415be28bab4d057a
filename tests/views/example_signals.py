"""A synthetic result with the kinds of view that signals along tokens need."""

from __future__ import annotations

import numpy as np
import xarray as xr

from resonance_lens.result import Result, ViewSpec
from tests.views.example_results import Builder, declared

TOKENS = 75

NEEDLE = 8
"""Planted: the layer and the frequency bin of the peak of the power."""


def texts(hostile: tuple[str, ...] = ()) -> list[str]:
    words = hostile or (" the", " pendulum", " swings", ",", " and", " the", " clock", " keeps", " time", ".")
    return [words[i % len(words)] for i in range(TOKENS)]


def signals(rng: np.random.Generator, n_layers: int, n_heads: int, hostile: tuple[str, ...] = ()) -> Result:
    """A spectrum, a heat map of each colour family, two traces, a network and values of tokens."""
    frequency = np.arange(0, 33) / 64
    labels = [f"L{a}H{b}" for a in range(n_layers) for b in range(n_heads)]
    n = len(labels)
    data = Builder(
        {
            "site": ["attn_out", "mlp_out"],
            "frequency": frequency,
            "lag": np.arange(16),
            "layer": np.arange(n_layers),
            "scale": 2.0 ** np.arange(1, 6),
            "token": np.arange(TOKENS),
            "trace": ["L1H0", "L3H2"],
            "head_a": labels,
            "head_b": labels,
        }
    )
    falling = 1 / (0.02 + frequency) ** 1.2
    power = falling * np.array([1.0, 0.4])[:, None]
    data.add("power", ("site", "frequency"), power, "power", "squared units per cycle/token", spread=0.4)
    data.add("power_null", ("frequency",), np.full(33, 2.0), "white noise", "squared units per cycle/token")
    depth = np.arange(n_layers)[:, None]
    gain = 6 * np.exp(-((depth - 2) ** 2) / 4 - ((np.arange(33) - NEEDLE) ** 2) / 20)
    data.add("gain", ("layer", "frequency"), gain, "gain", "decibels")
    lags = np.cos(2 * np.pi * np.arange(16) / 8) * np.exp(-np.arange(16) / 9)
    data.add("autocorrelation", ("site", "layer", "lag"), lags * (1 - depth / 12)[None], "autocorrelation")
    phase = np.angle(np.exp(1j * (2 * np.pi * frequency * 3 + depth * 0.4)))
    data.add("phase", ("layer", "frequency"), phase, "phase of the gain", "radians")
    data.add("scalogram", ("scale", "token"), rng.gamma(2, 1, (5, TOKENS)), "wavelet power", "1")
    t = np.arange(TOKENS)
    traces = np.stack([np.sin(2 * np.pi * t / 12), 0.8 * np.sin(2 * np.pi * t / 8 + 0.6)])
    data.add("trace_value", ("trace", "token"), traces, "output along its first direction", "1")
    group = np.repeat(np.arange(n_layers) // 2, n_heads)
    same = group[:, None] == group[None, :]
    noise = rng.gamma(1.5, 0.05, (n, n))
    strength = np.where(same, 0.3, 0.05) + (noise + noise.T) / 2
    data.add("excess", ("head_a", "head_b"), strength, "coherence above its null")
    data.add("community", ("head_a",), np.where(group < 2, group, -1), "community")
    band = np.sin(2 * np.pi * t / 12) * (1 + 0.3 * rng.normal(size=TOKENS))
    data.add("band_power", ("token",), band**2, "power in the band", "1")
    data.add("surprise", ("token",), rng.normal(0, 2, TOKENS), "log-probability less its mean", "nats")
    data.add(
        "token_phase",
        ("trace", "token"),
        np.angle(np.exp(2j * np.pi * t / 12)),
        "phase in the band",
        "radians",
    )
    made = data.dataset().assign_coords(token_text=("token", texts(hostile)))
    return Result(
        name="signals",
        data=with_units(made),
        provenance=declared(
            "signals", "measured", "power", title="Signals along tokens", baselines=("white",)
        ),
        summary="Power falls with frequency.",
        views=VIEWS,
    )


def with_units(data: xr.Dataset) -> xr.Dataset:
    """Say what the coordinates are."""
    known = {
        "frequency": ("frequency", "cycles per token"),
        "lag": ("lag", "tokens"),
        "scale": ("scale", "tokens"),
        "token": ("token", "1"),
    }
    for name, (long_name, units) in known.items():
        data[name].attrs = {"long_name": long_name, "units": units}
    return data


VIEWS = (
    ViewSpec(
        kind="lines",
        title="Power by frequency",
        says="How fast power falls with frequency.",
        misleads="frequencies above the resolution are not apart.",
        variables=("power",),
        references=("power_null",),
        over="frequency",
        series="site",
        x_scale="log",
        y_scale="log",
    ),
    ViewSpec(
        kind="image",
        title="Gain by layer and frequency",
        says="Where a layer amplifies.",
        misleads="layers differ in scale.",
        variables=("gain",),
        over="frequency",
        down="layer",
    ),
    ViewSpec(
        kind="image",
        title="Memory by layer and lag",
        says="How long a layer remembers.",
        misleads="the record is short.",
        variables=("autocorrelation",),
        over="lag",
        panels="site",
        colours="diverging",
    ),
    ViewSpec(
        kind="image",
        title="Phase by layer and frequency",
        says="By how much a layer delays.",
        misleads="gain is small; then phase is noise.",
        variables=("phase",),
        over="frequency",
        x_scale="log",
        colours="cyclic",
    ),
    ViewSpec(
        kind="image",
        title="Scalogram",
        says="When each scale is active.",
        misleads="ends are padded.",
        variables=("scalogram",),
        over="token",
        down="scale",
        y_scale="log",
    ),
    ViewSpec(
        kind="oscilloscope",
        title="Two heads against each other",
        says="A closed figure is a fixed relation of two frequencies.",
        misleads="any two band-limited series draw some figure.",
        variables=("trace_value",),
        over="token",
        series="trace",
    ),
    ViewSpec(
        kind="network",
        title="Pairs that are locked",
        says="Which heads share a rhythm beyond the null.",
        misleads="shared input locks all heads.",
        variables=("excess", "community"),
        pairs=30,
    ),
    ViewSpec(
        kind="token_values",
        title="Power and surprise of tokens",
        says="Where the band is strong.",
        misleads="one prompt only.",
        variables=("band_power", "surprise"),
    ),
    ViewSpec(
        kind="token_values",
        title="Phase of tokens",
        says="Where in its cycle each token lies.",
        misleads="amplitude is small; then phase is noise.",
        variables=("token_phase",),
        series="trace",
        colours="cyclic",
    ),
)
