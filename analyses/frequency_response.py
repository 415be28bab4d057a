"""What a model does with a small wave along the tokens: gain, delay, coherence, and what is not a filter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens.contract import Accumulated, Analysis, Evidence, Planted, Where, parameter
from resonance_lens.design import Condition, Design, Drive
from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import (
    Gains,
    at_lines,
    by_order,
    delay,
    gains,
    half_power,
    resonances,
)
from resonance_lens.facts import Facts
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal

Floats = NDArray[np.float64]

AMPLITUDES = (0.5, 1.0, 2.0)
"""Of epsilon: a response is taken apart by how it grows from one to the next."""

SHORTEST = 42
"""Tokens: the first one, half a period of 16 to settle in, and two to listen to; see `Timing.fit`."""

SITE = "resid_post"

DELAY = 3
"""Tokens, of what is planted."""


@register
@dataclass(frozen=True, kw_only=True)
class FrequencyResponse(Analysis):
    """Drive the residual stream with small waves along the tokens, and listen at every later layer.

    At an early and a middle layer a multisine ``epsilon rho s(t) v`` is added to the residual stream: rho the
    median norm of a token there, s all frequencies at once with unit root mean square, v a random unit
    vector. The response is what each later layer has beyond the same prompt undriven, over ``epsilon rho``:
    an output of 1 is as large as what went in.

    A transformer on text is nearly linear for small waves and far from a filter: its response depends on the
    text and on the place. So three gains stand side by side. The coherent ``gain`` is that of the mean
    response over prompts (each with its own phases): the best filter in its place, without the bias of a mean
    of few in many dimensions. ``gain_mean`` and ``gain_rms`` are the mean size and the root mean square size
    of what comes out at the frequency that went in, whatever its direction and sign.

    ``time_invariant``, ``time_varying`` and ``nonlinear`` share out the power of the response: what the
    coherent response explains; what else grows as epsilon, moved to other frequencies or different in every
    text; and what does not grow so, from epsilon / 2, epsilon and 2 epsilon.

    Phases are of the response along v. The delay is that between neighbouring lines, of all dimensions.

    Parameters
    ----------
    layer
        Layer before which the drive enters; -1 for two of them, after a sixth and after a half of the depth.
    epsilon
        Amplitude in median norms.
    directions
        Random directions; gains are means over them, bounds those of the mean.
    period
        Tokens of the longest wave; 0 for the largest power of two that leaves three periods to listen to and
        one to settle in.

    Notes
    -----
    Even attention of a model that was never trained averages, which damps fast waves: compare with random
    weights, and take only the difference for what was learned. The measured gain of a residual stream is
    near 1 for nothing at all: what went in stays there until it is written over.
    """

    name: ClassVar[str] = "frequency_response"
    title: ClassVar[str] = "Response of the residual stream to small waves along the tokens"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    needs: ClassVar[tuple[str, ...]] = ("forward",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("untouched_stream", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.1
    headline: ClassVar[str] = "gain_rms"
    source: ClassVar[str] = (
        "SCIENCE 2b; best linear approximation: Pintelon and Schoukens 2012, System Identification, ch. 3-4"
    )

    layer: int = parameter(-1, minimum=-1, help="layer to drive; -1 for an early and a middle one")
    epsilon: float = parameter(0.03, minimum=1e-6, maximum=10.0, help="amplitude in median norms of a token")
    directions: int = parameter(5, minimum=1, maximum=64, help="random directions to drive in")
    period: int = parameter(
        0, minimum=0, maximum=4096, help="tokens of the longest wave; 0 to fit the prompts"
    )

    @property
    def min_tokens(self) -> int:
        """Two periods and half of one to settle in, behind the first token."""
        return SHORTEST if self.period == 0 else 1 + 2 * self.period + self.period // 2

    def timing(self, shortest: int) -> Timing:
        """Return when prompts are driven and listened to, for the shortest of them."""
        return Timing.fit(shortest, period=self.period or None)

    def driven_layers(self, n_layers: int) -> tuple[int, ...]:
        """Return the layers before which drives enter."""
        if self.layer >= 0:
            return (self.layer,)
        return tuple(sorted({n_layers // 6, n_layers // 2}))

    def design(self, facts: Facts, shortest: int) -> Design:
        """Return the plain condition, driven: each layer and direction at three amplitudes."""
        timing = self.timing(shortest)
        groups = tuple(
            tuple(
                Drive(
                    layer=layer,
                    timing=timing,
                    lines=timing.lines,
                    amplitude=self.epsilon * factor,
                    direction=direction,
                )
                for factor in AMPLITUDES
            )
            for layer in self.driven_layers(facts.n_layers)
            for direction in range(self.directions)
        )
        return Design((Condition(drives=groups),))

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return what one layer answers to one direction at three amplitudes."""
        assert where.driven_from is not None
        responses = signals[SITE].values  # [drive, batch, token, d_model]
        drive = where.drives[0]
        timing, lines = drive.timing, drive.lines
        scale = self.epsilon * where.driven_from.double()[:, None, None]
        half, whole, double = responses[..., timing.window, :].double() / scale  # [batch, heard, d_model]
        waves = torch.stack([drive.signal(where.seed, prompt) for prompt in where.prompts]).to(whole)
        waves = waves[:, timing.window, None]  # [batch, heard, 1]
        heard = replace(timing, onset=0, settle=0)
        coefficients = at_lines(whole, heard, lines)
        h = coefficients / at_lines(waves, heard, lines)  # [batch, line, d_model]
        v = drive.unit(h.shape[-1], where.seed).to(h)
        orders = by_order(half, whole, double)
        middle = timing.period * (timing.periods // 2)
        part = replace(heard, periods=timing.periods // 2)
        ends = [
            _power(at_lines(whole[:, here], part, lines) / at_lines(waves[:, here], part, lines))
            for here in (slice(0, middle), slice(timing.heard - middle, timing.heard))
        ]
        undriven = where.undriven[SITE][:, timing.window].double()
        rows = {
            "power": _power(h),
            "size": _power(h).sqrt(),
            "along": h @ v,
            "ends": torch.stack(ends, dim=-1),
            "orders": torch.stack(
                [_energy(each) for each in (orders.linear, orders.quadratic, orders.cubic)], dim=-1
            ),
            "doubling": torch.stack([_energy(double - 2 * whole), _energy(double)], dim=-1),
            "by_amplitude": torch.stack(
                [_energy(each / a) for each, a in zip((half, whole, double), AMPLITUDES, strict=True)], dim=-1
            ),
            "norm": undriven.norm(dim=-1).median(dim=-1).values / where.driven_from.double(),
            "early": responses[..., : timing.onset, :].abs().amax((0, 2, 3)).double(),
            "tokens": torch.full((len(where.prompts),), timing.tokens),
        }
        return Features.of(where.prompts, rows=rows, sums={"response": h.sum(0)})

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return gains, phases and delays by frequency, and shares of the response, at every later layer."""
        timing = self.timing(int(seen.plain.rows["tokens"].max()))
        rows = self._rows(seen, "plain")
        out = Labelled(seen, self.name, self._coords(seen, timing))
        dims = ("driven", "layer", "frequency")
        rms = np.sqrt(rows["power"].mean(3))
        out.add_mean(
            "gain_rms", dims, rms, f"root mean square gain over directions; {UNREACHED}", "1", by_prompt=True
        )
        out.add(
            "gain_rms_untouched", ("category", *dims),
            np.broadcast_to(np.where(np.isnan(rms[0]), np.nan, 1.0), (len(seen.groups), *rms.shape[1:])),
            f"gain of a residual stream that nothing is written to; {UNREACHED}", "1",
        )  # fmt: skip
        out.add_mean(
            "gain_mean",
            dims,
            rows["size"].mean(3),
            f"mean gain over directions; {UNREACHED}",
            "1",
            by_prompt=True,
        )
        first, second = np.moveaxis(rows["ends"].mean(3), -1, 0)
        out.add_mean(
            "gain_growth", dims, np.sqrt(second / first),
            f"root mean square gain late in the record over that early in it; {UNREACHED}", "1",
        )  # fmt: skip
        out.add_mean(
            "gain_relative", dims, rms / rows["norm"].mean(3)[..., None],
            f"root mean square gain over the growth of the norm of a token; {UNREACHED}", "1", by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "gain_total", (*dims[:2], "amplitude"), np.sqrt(rows["by_amplitude"].mean(3)),
            f"size of the whole response over that of the drive; {UNREACHED}", "1",
        )  # fmt: skip
        spent, doubled = np.moveaxis(rows["doubling"].mean(3), -1, 0)
        out.add_mean(
            "nonlinear_doubled", dims[:2], spent / np.where(doubled > 0, doubled, np.nan),
            f"share of the response to 2 epsilon that is not twice that to epsilon; {UNREACHED}", "1",
            by_prompt=True,
        )  # fmt: skip
        for condition in seen.features if seen.intervals else ("plain",):
            self._add_coherent(out, seen, condition, timing)
        if seen.intervals:
            self._add_peaks(out, seen, timing)
        early = np.nanmax(rows["early"], axis=(0, 2, 3))
        out.add(
            "before_onset",
            ("driven",),
            early,
            "largest response before the onset, at any later layer",
            "activation",
        )
        kept = {name: getattr(timing, name) for name in ("onset", "settle", "period", "periods")}
        return out.dataset({**kept, "epsilon": self.epsilon, "directions": self.directions})

    def summary(self, result: Result) -> str:
        """Return what the last layer hears of a slow and a fast wave, and how much of it is a filter's."""
        data = result.data
        said = []
        for driven in data.driven.values.tolist():
            last = data.sel(driven=driven).isel(layer=-1)
            gain = last.gain_rms.sel(category="all")
            slow, fast = (f"{float(gain[end]):.2g}" for end in (0, -1))
            said.append(
                f"A wave of {data.period} tokens that enters before layer {driven} comes out of the last "
                f"layer {slow} times as large (root mean square), one of about two tokens {fast} times."
            )
            filtered, moved, rest = (float(last[name]) for name in SHARES)
            if math.isnan(filtered):
                said.append("One prompt cannot tell a filter from its own text.")
            else:
                said.append(
                    f"Of the response to all frequencies {filtered:.0%} is what a filter would give, "
                    f"{moved:.0%} is linear but differs from text to text or moves to other frequencies, "
                    f"{rest:.1%} is not linear."
                )
        return " ".join(said)

    def views(self, result: Result) -> list[ViewSpec]:
        """Return Bode plots, waterfalls, the impulse response and the shares."""
        views: list[ViewSpec] = []
        curves: dict[str, Any] = {"kind": "lines", "over": "frequency", "x_scale": "log", "y_scale": "log"}
        for driven in result.data.driven.values.tolist():
            at = {"driven": driven}
            whole = {**at, "category": "all"}
            entered = f"driven before layer {driven}"
            last = int(result.data.layer[-1])
            views += [
                ViewSpec(
                    title=f"Coherent gain, {entered}",
                    says="Size of what all prompts have in common of the response, by frequency and layer: "
                    "the best filter in the place of the model.",
                    misleads="it falls with depth because responses differ from text to text, not because "
                    "nothing comes through: read it beside the root mean square gain.",
                    variables=("gain",),
                    select=at,
                    series="layer",
                    **curves,
                ),
                ViewSpec(
                    title=f"Root mean square gain, {entered}",
                    says="Size of what comes out at the frequency that went in, in any direction.",
                    misleads="random weights average too, and a residual stream hands on what it is given: "
                    "the difference from the twin is what training did.",
                    variables=("gain_rms",),
                    select=whole,
                    series="layer",
                    **curves,
                ),
                ViewSpec(
                    title=f"Gains at the last layer beside their baselines, {entered}",
                    says="The root mean square gain at the last layer, with random weights, on shuffled "
                    "text, and of a stream that nothing is written to.",
                    misleads="norms grow with depth: a gain above 1 need not be more than all else has "
                    "grown.",
                    variables=("gain_rms",),
                    references=(
                        "gain_rms_untouched",
                        "gain_rms_random_weights",
                        "gain_rms_shuffled_tokens",
                    ),
                    select={**whole, "layer": last},
                    **curves,
                ),
                ViewSpec(
                    kind="image",
                    title=f"Waterfall, {entered}",
                    says="Root mean square gain over the growth of the norm: which waves keep their place "
                    "in the stream, layer by layer.",
                    misleads="below the layer that is driven there is nothing.",
                    variables=("gain_relative",),
                    select=whole,
                    over="frequency",
                    down="layer",
                    x_scale="log",
                ),
                ViewSpec(
                    kind="lines",
                    title=f"Phase along the drive, {entered}",
                    says="Phase of the mean response along the driven direction; a delay of m tokens is a "
                    "line that falls by 2 pi m from 0 to one.",
                    misleads="where the coherent gain is in its noise the phase is a draw.",
                    variables=("phase",),
                    select=at,
                    over="frequency",
                    series="layer",
                    colours="cyclic",
                ),
                ViewSpec(
                    kind="image",
                    title=f"Impulse response, {entered}",
                    says="Mean response along the driven direction to one token, by lag: lag 0 is what "
                    "stays, later lags are what attention carries on.",
                    misleads="frequency 0 is not driven, so that the mean over a period is missing in it.",
                    variables=("impulse",),
                    select=at,
                    over="lag",
                    down="layer",
                    colours="diverging",
                ),
                ViewSpec(
                    kind="lines",
                    title=f"What the response is made of, {entered}",
                    says="Share of the power of the response that one filter for all texts explains, beside "
                    "that of random weights and shuffled text.",
                    misleads="of few prompts a share near zero is uncertain by about one over their number.",
                    variables=("time_invariant",),
                    references=("time_invariant_random_weights", "time_invariant_shuffled_tokens"),
                    select=at,
                ),
                ViewSpec(
                    kind="lines",
                    title=f"What does not grow with the drive, {entered}",
                    says="Share of the response to twice the drive that is not twice the response.",
                    misleads="moved power is not distortion: only how it grows tells them apart.",
                    variables=("nonlinear_doubled",),
                    references=("nonlinear_doubled_random_weights", "nonlinear_doubled_shuffled_tokens"),
                    select=whole,
                    y_scale="log",
                ),
                ViewSpec(
                    kind="lines",
                    title=f"Gain against amplitude, {entered}",
                    says="Size of the whole response over that of the drive, at three amplitudes: level "
                    "where the model is linear.",
                    misleads="three amplitudes show a trend, not where it ends.",
                    variables=("gain_total",),
                    select=whole,
                    over="amplitude",
                    series="layer",
                    x_scale="log",
                    y_scale="log",
                ),
            ]
        return views

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers that take away most of the filter: where the share that is one falls most."""
        found: dict[int, tuple[float, int]] = {}
        data = result.data
        for driven in data.driven.values.tolist():
            share = data.time_invariant.sel(driven=driven).values
            for before, after, layer in zip(
                share[:-1], share[1:], data.layer.values[1:].tolist(), strict=True
            ):
                if before > after:
                    found[layer] = max(found.get(layer, (0.0, 0)), (float(before - after), driven))
        return [
            Target(
                site="attn_out",
                layer=layer,
                score=score,
                reason=f"share of the response that is a filter falls here, driven before layer {driven}",
            )
            for layer, (score, driven) in sorted(found.items(), key=lambda each: (-each[1][0], each[0]))[:k]
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a system whose layers are a moving average, a delay and a half of each, on any text."""
        return _planted(rng, self, random=False)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return a system that answers every text in another direction: no filter at all."""
        return _planted(rng, self, random=True)

    # ------------------------------------------------------------------------------------------

    def _coords(self, seen: Accumulated, timing: Timing) -> dict[str, Any]:
        def axis(name: str, values: Any, long_name: str, units: str) -> xr.Variable:
            return xr.Variable(name, np.asarray(values), {"long_name": long_name, "units": units})

        frequencies = timing.frequencies(timing.lines).numpy()
        return {
            "driven": axis("driven", self.driven_layers(seen.facts.n_layers), "layer driven before", "layer"),
            "frequency": axis("frequency", frequencies, "frequency", "cycles per token"),
            "between": axis(
                "between",
                (frequencies[1:] + frequencies[:-1]) / 2,
                "frequency between lines",
                "cycles per token",
            ),
            "lag": axis("lag", np.arange(timing.period // 2), "lag", "tokens"),
            "amplitude": axis(
                "amplitude", self.epsilon * np.array(AMPLITUDES), "amplitude of the drive", "median norms"
            ),
        }

    def _rows(self, seen: Accumulated, condition: str) -> dict[str, NDArray[Any]]:
        """Return rows as ``[prompt, driven, layer, direction, ...]``, not-a-number where no drive reaches."""
        driven = self.driven_layers(seen.facts.n_layers)
        unreached = np.array([[layer < start for layer in seen.layers] for start in driven])
        found = {}
        for name, values in seen.features[condition].rows.items():
            if name == "tokens":
                continue
            places = values.reshape(*values.shape[:2], len(driven), self.directions, *values.shape[3:])
            places = np.swapaxes(places, 1, 2).copy()
            places[:, unreached] = np.nan
            found[name] = places
        return found

    def _gains(self, seen: Accumulated, condition: str) -> tuple[Gains, Tensor, Tensor]:
        """Return the gains ``[driven, layer, direction, line]``, the sums that they come from, and powers."""
        rows = self._rows(seen, condition)
        total = seen.features[condition].sums["response"]  # [layer, group, line, d_model]
        total = total.reshape(total.shape[0], -1, self.directions, *total.shape[2:]).swapaxes(0, 1)
        response = torch.from_numpy(np.ascontiguousarray(total))
        power, size = (torch.from_numpy(rows[name].sum(0)) for name in ("power", "size"))
        return gains(response, size, power, len(rows["power"])), response, power

    def _add_coherent(self, out: Labelled, seen: Accumulated, condition: str, timing: Timing) -> None:
        """Add what all prompts have in common of the response, under a condition."""
        end = "" if condition == "plain" else f"_{condition}"
        under = "" if condition == "plain" else f", {condition.replace('_', ' ')}"
        frequencies = timing.frequencies(timing.lines)
        found, response, power = self._gains(seen, condition)
        dims = ("driven", "layer", "frequency")
        coherent = found.coherent_power.numpy()  # [driven, layer, direction, line]
        for bound, values in _bounds(coherent, axis=2).items():
            words = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}[bound]
            out.add(
                f"gain{end}{bound}", dims, np.sign(values) * np.sqrt(abs(values)),
                f"coherent gain{under}{words}; below zero: chance alone; {UNREACHED}, or of one prompt", "1",
            )  # fmt: skip
        out.add(
            f"coherence{end}", dims, found.coherence.mean(2).numpy(),
            f"share of the power at a line that the coherent response explains{under}; {UNREACHED}, or of "
            "one prompt", "1",
        )  # fmt: skip
        rows = self._rows(seen, condition)
        along = rows["along"].mean((0, 3))  # [driven, layer, line]
        out.add(f"phase{end}", dims, np.angle(along), f"phase along the drive{under}; {UNREACHED}", "radians")
        turns = delay(
            response.movedim(2, -2).flatten(-2), power.sum(2), frequencies
        )  # of all directions at once
        out.add(
            f"delay{end}", (*dims[:2], "between"), turns.numpy(),
            f"group delay between neighbouring lines{under}; not-a-number: no more than chance, "
            f"{UNREACHED[14:]}",
            "tokens",
        )  # fmt: skip
        lags = np.exp(2j * np.pi * frequencies.numpy()[:, None] * np.arange(timing.period // 2))
        out.add(
            f"impulse{end}", (*dims[:2], "lag"), (along @ lags).real * 2 / timing.period,
            f"response along the drive to one token{under}; {UNREACHED}", "1",
        )  # fmt: skip
        parts = rows["orders"].mean((0, 3))  # [driven, layer, order]
        linear = parts[..., 0] / np.where(parts.sum(-1) > 0, parts.sum(-1), np.nan)
        filtered = coherent.mean((2, 3)) / np.where(parts[..., 0] > 0, parts[..., 0], np.nan)
        words = f"{under}; {UNREACHED}"
        out.add(
            f"time_invariant{end}", dims[:2], linear * filtered,
            f"share of the response that one filter for all texts explains{words}, or of one prompt", "1",
        )  # fmt: skip
        out.add(
            f"time_varying{end}", dims[:2], linear * (1 - filtered),
            f"share of the response that is linear and no such filter{words}, or of one prompt", "1",
        )  # fmt: skip
        out.add(
            f"nonlinear{end}", dims[:2], 1 - linear,
            f"share of the response that grows as the square or the cube of the drive{words}", "1",
        )  # fmt: skip

    def _add_peaks(self, out: Labelled, seen: Accumulated, timing: Timing) -> None:
        """Add the half-power frequency, and the resonance that beats random weights, if there is one."""
        frequencies = timing.frequencies(timing.lines)
        found, _, _ = self._gains(seen, "plain")
        power = found.coherent_power.numpy()
        gain = torch.from_numpy(np.sqrt(np.clip(_bounds(power, axis=2)[""], 0, None)))
        known = ~gain.isnan().any(-1)
        edge = torch.where(known, half_power(frequencies, gain.nan_to_num()), torch.nan)
        out.add(
            "half_power_frequency", ("driven", "layer"), edge.numpy(),
            "frequency at which the coherent gain has half of its largest power; not-a-number: it never "
            f"falls so low, {UNREACHED[14:]}", "cycles per token",
        )  # fmt: skip
        if "random_weights" not in seen.features:
            return
        twin = self._gains(seen, "random_weights")[0].coherent_power.numpy()
        above = np.sqrt(np.clip(np.fmax(_bounds(twin, axis=2)["_high"], 0), 0, None))
        low = np.sqrt(np.clip(_bounds(power, axis=2)["_low"], 0, None))
        best = np.full((2, *gain.shape[:2]), np.nan)
        for place in zip(*np.nonzero(known.numpy()), strict=True):
            sure = torch.from_numpy(np.where(low[place] > above[place], 0.0, np.inf))
            for peak in resonances(frequencies, gain[place], sure)[:1]:
                best[:, place[0], place[1]] = peak.frequency, peak.q
        why = f"not-a-number: no peak whose lower bound is above that of random weights, {UNREACHED[14:]}"
        out.add(
            "resonance",
            ("driven", "layer"),
            best[0],
            f"frequency of the largest peak; {why}",
            "cycles per token",
        )
        out.add("resonance_q", ("driven", "layer"), best[1], f"quality of the largest peak; {why}", "1")


UNREACHED = "not-a-number: below the layer that is driven"

SHARES = ("time_invariant", "time_varying", "nonlinear")


def _power(h: Tensor) -> Tensor:
    """Return the squared size of responses over features, ``[..., line]``."""
    return h.abs().square().sum(-1)


def _energy(response: Tensor) -> Tensor:
    """Return the mean over tokens of the squared size of a response ``[batch, token, feature]``."""
    return response.square().sum(-1).mean(-1)


def _bounds(values: Floats, axis: int) -> dict[str, Floats]:
    """Return the mean over directions and its 95 % bounds by Student's t; of one direction there are none."""
    n = values.shape[axis]
    mean = values.mean(axis)
    if n == 1:
        nothing = np.full_like(mean, np.nan)
        return {"": mean, "_low": nothing, "_high": nothing}
    width = stats.t.ppf(0.975, n - 1) * values.std(axis, ddof=1) / math.sqrt(n)
    return {"": mean, "_low": mean - width, "_high": mean + width}


def _planted(rng: np.random.Generator, analysis: FrequencyResponse, *, random: bool) -> Planted:
    """Return a system that delays; after its last layer half of the power, or all of it at every layer if
    ``random``, comes out in a direction that differs from prompt to prompt."""
    lengths = torch.tensor([80, 72, 64, 80, 66, 75])
    n_layers, d_model = 4, 24
    n_prompts, n_tokens = len(lengths), int(lengths.max())
    facts = attention_facts(n_layers=n_layers, n_heads=2, d_model=d_model)
    values = torch.from_numpy(rng.standard_normal((n_layers, n_prompts, n_tokens, d_model)))
    values = values.float() * (torch.arange(n_tokens) < lengths[:, None])[..., None]
    turns = torch.from_numpy(np.linalg.qr(rng.standard_normal((n_prompts, d_model, d_model)))[0]).float()

    def respond(layer: int, added: Tensor, prompts: tuple[int, ...]) -> dict[int, dict[str, Tensor]]:
        delayed = torch.nn.functional.pad(added, (0, 0, DELAY, 0))[:, : added.shape[1]]
        turn = turns[list(prompts)].repeat(len(added) // len(prompts), 1, 1).to(added)
        turned = torch.einsum("btd,bde->bte", delayed, turn)
        whole = turned if random else delayed
        half = turned if random else (delayed + turned) / math.sqrt(2)
        return {at: {SITE: half if at == n_layers - 1 else whole} for at in range(layer, n_layers)}

    def expect(data: xr.Dataset) -> None:
        assert float(data.before_onset.max()) == 0, "something was heard before the onset"
        for driven in data.driven.values.tolist():
            here = data.sel(driven=driven, layer=n_layers - 2)
            share, gain = float(here.time_invariant), float(here.gain[0])
            if random:
                assert abs(share) < 0.5, (
                    f"{share:.2f} of a response that differs by prompt is called a filter"
                )
                continue
            assert share > 0.99, f"a delay is a filter, and only {share:.2f} of its response is called one"
            assert abs(gain - 1) < 0.05, f"the gain of a delay is 1, not {gain:.3f}"
            turned = float(here.delay.median())
            assert abs(turned - DELAY) < 0.1, f"the delay is {DELAY} tokens, not {turned:.2f}"
            mixed = float(data.sel(driven=driven).isel(layer=-1).time_invariant)
            assert abs(mixed - 0.5) < 0.3, f"half of the last layer's response is a filter, not {mixed:.2f}"

    return Planted(
        layers=[{SITE: layer, "resid_pre": layer} for layer in values],
        lengths=lengths,
        facts=facts,
        expect=expect,
        respond=respond,
    )
