"""How the power of what a model carries and writes is spread over frequencies along the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp.autocorrelation import integrated_time
from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.dsp.noise import autoregressive, matched_memory, of_steps
from resonance_lens.dsp.spectral_shape import spectral_entropy, spectral_slope
from resonance_lens.dsp.vector_spectra import (
    VectorSeries,
    band_indices,
    band_power,
    correlations,
    expected_power,
    mean_power,
)
from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, of_prompts

Array = NDArray[Any]

SITES = ("resid_post", "attn_out", "mlp_out")
"""The same in the class, which listings read without importing it."""
SCALINGS = ("raw", "whitened")
"""All features with the variance that they have, and each divided by it."""

SHORTEST_SEGMENT, LONGEST_SEGMENT = 16, 128
"""Between these an automatic segment is chosen."""

SLOW = len(PRISM_BANDS) - 1
"""All bands but the highest are slow: wavelengths of more than about 8 tokens."""

SILENT = "not-a-number: no power"
UNRESOLVED = "not-a-number: no prompt is long enough for the band, or no power"


@register
@dataclass(frozen=True, kw_only=True)
class TokenSpectrum(Analysis):
    """How the power of what a model carries and writes is spread over frequencies along the tokens.

    Each feature of ``resid_post``, ``attn_out`` and ``mlp_out`` is a series over tokens, the first position
    left out. Its density is the mean over Hann-windowed segments without their mean (Welch), in units^2 per
    cycle per token; what is kept is the mean over features, ``scaling="raw"``, and that of features divided
    by their variance, ``scaling="whitened"``. From these follow the slope of log power over log frequency
    (the median over pairs of frequencies, from two waves in a segment to ``highest``), the spectral entropy,
    and the autocorrelation time. The steps ``v(t) = x(t + 1) - x(t)`` have a spectrum and a slope of their
    own. The shares of the Prism bands, and of all slow ones together, are those of a cosine transform of the
    whole record.

    Notes
    -----
    A slope alone says little: the steps of white noise rise with slope nearly 2, and those of noise that
    remembers one token pass 5/3, without any cascade. Read it beside noise with the same correlation of
    neighbours (``_autoregressive_noise``), shuffled tokens and random weights. Single features hold much of
    the raw power; the whitened mean counts all alike. In a prompt of 30 tokens a segment has 16: nothing
    slower than 16 tokens is seen, and bands that hold no frequency of a record are not-a-number. A slope is
    no power law: look at the spectrum.
    """

    name: ClassVar[str] = "token_spectrum"
    title: ClassVar[str] = "Spectra along the tokens, layer by layer"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_post", "attn_out", "mlp_out")
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = (
        "white_noise",
        "autoregressive_noise",
        "random_weights",
        "shuffled_tokens",
    )
    nulls: ClassVar[tuple[str, ...]] = ("permuted_tokens",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="slow_share",
            long_name="share of whitened power at wavelengths of more than 8 tokens",
            units="1",
            null="permuted_tokens",
            against="the same vectors in random order, the first left out",
            dims=("site", "layer"),
            family=("layer",),
            places="layers",
            minimum_effect=0.05,
            reading=(("site", "resid_post"),),
            undefined="no power",
        ),
    )
    minimum_effect: ClassVar[float] = 0.1
    headline: ClassVar[str] = "slope"
    source: ClassVar[str] = (
        "Welch (1967); bands of Tamkin et al. (2020), arXiv 2011.04823; steps of Yang et al. (2026), arXiv "
        "2604.05536; mean under permutations in closed form."
    )

    segment: int = parameter(
        0,
        minimum=0,
        maximum=1024,
        help="tokens of a segment, even, at least 16; 0: the largest power of two up to 128 that the "
        "shortest prompt holds",
    )
    highest: float = parameter(
        0.5, minimum=0.25, maximum=0.5, help="slopes are read up to this frequency, in cycles per token"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment and (self.segment < SHORTEST_SEGMENT or self.segment % 2):
            wanted = f"0, or an even number of at least {SHORTEST_SEGMENT}"
            raise ParameterError(wrong_parameter(self.name, "segment", wanted, self.segment))

    @property
    def min_tokens(self) -> int:
        """A prompt needs one segment of steps after its first position."""
        return 2 + (self.segment or SHORTEST_SEGMENT)

    def segment_of(self, shortest: int) -> int:
        """Return the tokens of a segment where the shortest prompt of the run has so many."""
        return self.segment or int(min(LONGEST_SEGMENT, 2 ** int(np.log2(shortest - 2))))

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return densities averaged over features, those of the steps, and the power in bands."""
        segment = self.segment_of(where.shortest)
        found: dict[str, list[torch.Tensor]] = {"power": [], "bands": [], "dc": [], "steps": []}
        for row, length in enumerate(where.lengths.tolist()):
            series = VectorSeries.of([signals[site].values[row, 1:length] for site in SITES])
            found["power"].append(mean_power(series.values, segment, series.weights))
            found["bands"].append(band_power(series))
            found["dc"].append(series.dc)
            stream = SITES.index("resid_post")
            steps = series.values[stream].diff(dim=-1)
            found["steps"].append(mean_power(steps, segment, series.weights[stream]))
        # [prompt, site, scaling, ...]; steps [prompt, scaling, frequency]
        rows: dict[str, Any] = {name: torch.stack(each) for name, each in found.items()}
        rows["indices"] = np.array([band_indices(n - 1) for n in where.lengths.tolist()])  # [prompt, band]
        return Features.of(where.prompts, rows=rows)

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return spectra, their shapes beside those of noise, and what layers amplify and write."""
        rows = seen.plain.rows
        power = rows["power"].transpose(0, 3, 2, 1, 4)  # [prompt, scaling, site, layer, frequency]
        steps = rows["steps"].transpose(0, 2, 1, 3)  # [prompt, scaling, layer, frequency]
        bands = rows["bands"].transpose(0, 3, 2, 1, 4)
        segment = 2 * (power.shape[-1] - 1)
        frequencies = np.arange(1, segment // 2) / segment
        coords = {"scaling": list(SCALINGS), "site": list(SITES), "frequency": frequencies}
        out = Labelled(seen, self.name, {**coords, "band": [band.name for band in PRISM_BANDS]})
        places = ("scaling", "site", "layer")
        waves = power[..., 1:-1]  # at 0.5 a one-sided density counts half
        density = "mean density over features, without frequencies 0 and 0.5"
        out.add_mean("power", (*places[1:], "frequency"), waves[:, 0], density, "units^2 token / cycle")
        out.add_mean(
            "whitened_power", (*places[1:], "frequency"), waves[:, 1],
            "mean density over features divided by their variance", "token / cycle", by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "relative_power", (*places, "frequency"), _decibels(waves, waves.mean(-1, keepdims=True)),
            f"density beside its mean over frequencies; {SILENT}", "dB", interval=False,
        )  # fmt: skip

        lags = _lags(power, segment)
        memory = matched_memory(torch.from_numpy(lags[..., 1]), segment).numpy()
        self._add_slopes(out, waves, steps[..., 1:-1], memory, segment)
        words = f"correlation of neighbouring tokens; {SILENT}"
        out.add_mean("memory", places, memory, words, "1", interval=False)
        words = f"autocorrelation time, of lags up to {segment // 4} tokens; {SILENT}"
        out.add_mean("autocorrelation_time", places, _times(lags), words, "tokens", by_prompt=True)
        alike = autoregressive(torch.from_numpy(memory).nan_to_num(), segment)
        noise = expected_power(alike, segment).numpy()
        words = f"autocorrelation time of noise that remembers one token as much, seen alike; {SILENT}"
        theirs = np.where(np.isnan(memory), np.nan, _times(_lags(noise, segment)))
        out.add_mean(
            "autocorrelation_time_autoregressive_noise", places, theirs, words, "tokens", interval=False
        )
        entropy = _known(waves, lambda some: spectral_entropy(some, normalise=True))
        words = f"spectral entropy over its largest value; {SILENT}"
        out.add_mean("spectral_entropy", places, entropy, words, "1", by_prompt=True)
        dc = rows["dc"].transpose(0, 3, 2, 1)
        ratio = _ratio(dc, bands.sum(-1))
        out.add_mean(
            "mean_ratio", places, ratio, f"square of the mean over tokens by variance; {SILENT}", "1"
        )

        count = rows["indices"][:, None, None]  # [prompt, 1, 1, layer, band]
        share = np.where(count > 0, _ratio(bands, bands.sum(-1, keepdims=True)), np.nan)
        about = f"share of power in a band; {UNRESOLVED}"
        out.add_mean("band_share", (*places, "band"), share, about, "1", by_prompt=True)
        even = np.broadcast_to(np.where(count > 0, count / count.sum(-1, keepdims=True), np.nan), share.shape)
        about = f"share of white noise in a band; {UNRESOLVED}"
        out.add_mean("band_share_white_noise", (*places, "band"), even, about, "1", interval=False)

        stream = waves[:, :, 0]  # [prompt, scaling, layer, frequency]
        before = np.concatenate([np.full_like(stream[:, :, :1], np.nan), stream[:, :, :-1]], axis=2)
        out.add_mean(
            "gain", ("scaling", "layer", "frequency"), _decibels(stream, before),
            "power of the residual stream by that one layer before; not-a-number: no layer before", "dB",
        )  # fmt: skip
        written = _ratio(waves[:, 0, 1], waves[:, 0, 1] + waves[:, 0, 2])
        out.add_mean(
            "attention_share", ("layer", "frequency"), written,
            f"share of attention in the power that attention and MLP write; {SILENT}", "1",
        )  # fmt: skip
        return self._with_axes(out.dataset({"segment": segment, "bandwidth": 1.5 / segment}))

    def _add_slopes(self, out: Labelled, waves: Array, steps: Array, memory: Array, segment: int) -> None:
        """Add slopes of levels and of steps, each beside that of noise with the same correlation."""
        frequencies = torch.arange(1, segment // 2, dtype=torch.float64) / segment

        def slope(power: Array) -> Array:
            def found(some: torch.Tensor) -> torch.Tensor:
                return spectral_slope(frequencies, some, low=2 / segment, high=self.highest)

            return _known(power, found)

        def expected(covariances: torch.Tensor) -> Array:
            return np.asarray(expected_power(covariances, segment).numpy()[..., 1:-1])

        near = autoregressive(torch.from_numpy(memory).nan_to_num(), segment + 1)
        gone = np.where(np.isnan(memory), np.nan, 0.0)
        level, step = near[..., :-1], of_steps(near)
        words = "slope of log power over log frequency; not-a-number: no power at some frequency"
        places = ("scaling", "site", "layer")
        out.add_mean("slope", places, slope(waves), words, "1", by_prompt=True)
        words = f"slope of noise that remembers one token as much; {SILENT}"
        out.add_mean(
            "slope_autoregressive_noise", places, slope(expected(level)) + gone, words, "1", interval=False
        )
        stream = ("scaling", "layer")
        words = "slope of the steps of the residual stream; not-a-number: no power at some frequency"
        found = slope(steps)
        out.add_mean("step_slope", stream, found, words, "1", by_prompt=True)
        words = f"slope of the steps of noise that remembers one token as much; {SILENT}"
        theirs = slope(expected(step[:, :, 0])) + gone[:, :, 0]
        out.add_mean("step_slope_autoregressive_noise", stream, theirs, words, "1", interval=False)
        white = slope(expected(of_steps(autoregressive(torch.zeros(1, dtype=torch.float64), segment + 1))))
        words = "slope of the steps of white noise"
        out.add_mean(
            "step_slope_white_noise", stream, np.full(found.shape, white), words, "1", interval=False
        )

    def _with_axes(self, data: xr.Dataset) -> xr.Dataset:
        """Return the dataset with periods beside frequencies, and both labels of the bands."""
        data = data.assign_coords(
            period=("frequency", 1 / data.frequency.values),
            band_label=("band", [band.label for band in PRISM_BANDS]),
        )
        data["frequency"].attrs |= {"long_name": "frequency", "units": "cycles per token"}
        data["period"].attrs |= {"long_name": "period", "units": "tokens"}
        return data

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the slow share of each prompt beside its mean over all orders of its tokens.

        Under permutation every index of the cosine transform but 0 has the same mean power, so the mean share
        is that of the number of indices, exactly.
        """
        bands = seen.plain.rows["bands"][:, :, :, 1].swapaxes(1, 2)  # [prompt, site, layer, band]
        count = seen.plain.rows["indices"][:, None]  # [prompt, 1, layer, band]
        value = _ratio(bands[..., :SLOW].sum(-1), bands.sum(-1))
        null = count[..., :SLOW].sum(-1) / count.sum(-1)
        return {"slow_share": of_prompts(value, np.broadcast_to(null, value.shape).copy(), seen.groups)}

    def summary(self, result: Result) -> str:
        """Return how slopes change with depth, beside those of noise."""
        data = result.data.sel(category="all", scaling="whitened")
        third = max(1, data.sizes["layer"] // 3)

        def ends(name: str) -> str:
            values = data[name].sel(site="resid_post") if "site" in data[name].dims else data[name]
            first, last = (float(values[some].mean()) for some in (slice(third), slice(-third, None)))
            return "no slope" if np.isnan(first + last) else f"{first:.2f} to {last:.2f}"

        return (
            "From the first third of the layers to the last, the slope of the residual stream (whitened) "
            f"goes from {ends('slope')}; noise that remembers one token as much has "
            f"{ends('slope_autoregressive_noise')}. That of its steps goes from {ends('step_slope')}, of "
            f"such noise from {ends('step_slope_autoregressive_noise')}, of white noise "
            f"{float(data.step_slope_white_noise[0]):.2f}."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return spectra, what layers amplify and write, slopes and bands over depth."""
        whole: dict[str, Any] = {"category": "all"}
        white = {**whole, "scaling": "whitened"}
        last = int(result.data.layer[-1])
        return [
            ViewSpec(
                kind="lines",
                title=f"Spectra at layer {last}",
                says="Mean density over features that count alike, of the residual stream and of what "
                "attention and MLP write, beside random weights and shuffled tokens. Flat: no order along "
                "the tokens.",
                misleads="the lowest frequencies are read closely: they are as wide as the resolution.",
                variables=("whitened_power",),
                references=("whitened_power_random_weights", "whitened_power_shuffled_tokens"),
                select={**whole, "layer": last},
                over="frequency",
                panels="site",
                x_scale="log",
                y_scale="log",
            ),
            ViewSpec(
                kind="lines",
                title="Slope over depth",
                says="Slope of log power over log frequency at each layer, beside noise in which "
                "neighbouring tokens are as alike and nothing else is. Below it: more slow power than "
                "neighbours explain.",
                misleads="a slope is taken for a power law: noise that remembers one token has one too.",
                variables=("slope",),
                references=(
                    "slope_autoregressive_noise",
                    "slope_random_weights",
                    "slope_shuffled_tokens",
                ),
                select=white,
                panels="site",
            ),
            ViewSpec(
                kind="lines",
                title="Slope of the steps over depth",
                says="Slope of the spectrum of x(t + 1) - x(t), for which 5/3 has been claimed, beside the "
                "steps of white noise and of noise in which neighbours are as alike.",
                misleads="5/3 is read as a cascade: a difference of noise comes by itself to slopes around "
                "it.",
                variables=("step_slope",),
                references=(
                    "step_slope_white_noise",
                    "step_slope_autoregressive_noise",
                    "step_slope_random_weights",
                    "step_slope_shuffled_tokens",
                ),
                select=whole,
                panels="scaling",
            ),
            ViewSpec(
                kind="lines",
                title="Slow share over depth",
                says="Share of the power at wavelengths of more than 8 tokens, beside the same vectors in "
                "random order.",
                misleads="slow power is read as meaning: what depends on position alone is slow as well (see "
                "shuffled tokens).",
                variables=("slow_share",),
                references=("slow_share_null", "slow_share_random_weights", "slow_share_shuffled_tokens"),
                select=whole,
                panels="site",
                claim="slow_share",
            ),
            ViewSpec(
                kind="lines",
                title="Prism bands over depth",
                says="Share of the power of the residual stream in each band, from document (low) to word "
                "(high).",
                misleads="the record is short: bands that it does not resolve have no line.",
                variables=("band_share",),
                select={**white, "site": "resid_post"},
                series="band",
            ),
            ViewSpec(
                kind="image",
                title="Power by layer and frequency",
                says="Density of the residual stream beside its mean over frequencies, layer by layer.",
                misleads="layers are compared in size: each has its own mean.",
                variables=("relative_power",),
                select={**white, "site": "resid_post"},
                over="frequency",
                colours="diverging",
            ),
            ViewSpec(
                kind="image",
                title="Gain from layer to layer",
                says="Power of the residual stream at each frequency by that one layer before: what a layer "
                "amplifies or damps. Of features that count alike: how it changes the shape.",
                misleads="it is taken for the gain of a filter: a layer also writes what was not there.",
                variables=("gain",),
                select=white,
                over="frequency",
                colours="diverging",
            ),
            ViewSpec(
                kind="image",
                title="What attention writes, by frequency",
                says="Share of attention in the power that attention and MLP write, by layer and frequency.",
                misleads="a large share is read as a large part of the stream: both may write little.",
                variables=("attention_share",),
                select=whole,
                over="frequency",
                limits=(0.0, 1.0),
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the sites whose power is surely slower than that of the same tokens in random order."""
        low = result.data.slow_share_effect_low.sel(category="all")
        flat = low.stack(place=("site", "layer"))
        flat = flat[flat.values > 0]
        flat = flat[np.argsort(-flat.values, kind="stable")[:k]]
        reason = "slow share above that of permuted tokens (lower 95 % bound)"
        return [
            Target(site=str(site), layer=int(layer), score=float(score), reason=reason)
            for site, layer, score in zip(flat["site"].values, flat["layer"].values, flat.values, strict=True)
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer of white vectors and one of vectors that remember those before."""
        lengths = self.min_tokens + torch.tensor([22, 30, 41, 26, 35, 28, 44, 31])
        layers = [_layer(rng, lengths, memory) for memory in (0.0, 0.9)]

        def expect(data: xr.Dataset) -> None:
            found = data.sel(category="all", scaling="whitened")
            low, high = found.slow_share_effect_low, found.slope_high
            assert bool((low.sel(layer=1) > 0.05).all()), "slow vectors were not found"
            assert bool((high.sel(layer=1) < -0.5).all()), "the slope of slow vectors is not below -0.5"
            assert not bool((low.sel(layer=0) > 0.05).any()), "white vectors were found to be slow"

        return Planted(layers, lengths, attention_facts(n_layers=2, n_heads=1, d_model=WIDTH), expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return white vectors at both layers."""
        lengths = self.min_tokens + torch.tensor([22, 30, 41, 26, 35, 28, 44, 31])

        def expect(data: xr.Dataset) -> None:
            found = data.sel(category="all", scaling="whitened")
            assert not bool((found.slow_share_effect_low > 0.05).any()), "white vectors were found to be slow"
            assert not bool((found.slope_high < -0.5).any()), "white vectors were found to have a slope"

        layers = [_layer(rng, lengths, 0.0) for _ in range(2)]
        return Planted(layers, lengths, attention_facts(n_layers=2, n_heads=1, d_model=WIDTH), expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return vectors whose order is random, and slow ones in the last layers: see
        `worlds.token_series`."""
        return worlds.token_series(rng, world, strength, "slow_share", SITES)


WIDTH = 8
"""Features of what is planted."""


def _layer(rng: np.random.Generator, lengths: torch.Tensor, memory: float) -> dict[str, torch.Tensor]:
    """Return vectors that keep so much of the one before, at each site, the first position loud."""
    shape = (len(lengths), int(lengths.max()), WIDTH)
    sites = {}
    for site in SITES:
        x = rng.normal(size=shape)
        for at in range(1, shape[1]):
            x[:, at] = memory * x[:, at - 1] + np.sqrt(1 - memory**2) * x[:, at]
        x = x * np.arange(1, WIDTH + 1) + 2.0
        x[:, 0] *= 50.0
        sites[site] = torch.as_tensor(x, dtype=torch.float32)
    return sites


def _known(power: Array, function: Callable[[torch.Tensor], torch.Tensor]) -> Array:
    """Return a function of the spectra that have power at every frequency, not-a-number for the others."""
    known = (power > 0).all(axis=-1)
    found = np.full(known.shape, np.nan)
    if known.any():
        found[known] = function(torch.from_numpy(power[known])).numpy()
    return found


def _lags(power: Array, segment: int) -> Array:
    """Return autocorrelations ``[..., lag]``, not-a-number where there is no power."""
    known = power.sum(axis=-1) > 0
    found = np.full((*known.shape, segment // 4 + 1), np.nan)
    if known.any():
        found[known] = correlations(torch.from_numpy(power[known]), segment).numpy()
    return found


def _times(lags: Array) -> Array:
    return np.asarray(integrated_time(torch.from_numpy(lags)).numpy())


def _ratio(above: Array, below: Array) -> Array:
    """Return a quotient, not-a-number where there is nothing below."""
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan))


def _decibels(above: Array, below: Array) -> Array:
    """Return ten times the logarithm of a quotient, not-a-number where either is nothing."""
    some = (above > 0) & (below > 0)
    return np.asarray(10 * np.log10(np.where(some, above, np.nan) / np.where(some, below, np.nan)))
