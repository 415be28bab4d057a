"""What a model does with a small wave along the tokens: gain, delay, coherence, and what is not a filter."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from resonance_lens.contract import Accumulated, Analysis, Evidence, Planted, Where, parameter
from resonance_lens.design import BASELINE_CONDITIONS, KINDS, Condition, Design, Drive
from resonance_lens.directions import ENDINGS, Directions
from resonance_lens.dsp import excitation
from resonance_lens.dsp.answers import WentIn, answers, impulse_answers
from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import Gains, at_lines, delay, gains, half_power, resonances
from resonance_lens.errors import ParameterError
from resonance_lens.facts import SITE_AXES, Facts
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.response_views import response_views
from resonance_lens.response_words import said_of_response
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.intervals import crossed_bounds

Floats = NDArray[np.float64]

AMPLITUDES = (0.5, 1.0, 2.0)
"""Of epsilon: a response is taken apart by how it grows from one to the next."""

SHORTEST = 42
"""Tokens: the first one, half a period of 16 to settle in, and two to listen to; see `Timing.fit`."""

IN_ORDER = ("resid_pre", "head_out", "attn_out", "resid_mid", "mlp_out", "resid_post", "logits")
"""Places of a block, as they come: a drive is heard behind the place that it enters at."""

STREAM = ("resid_pre", "resid_mid", "resid_post")

KEPT = {"head_out": 64, "logits": 4096}
"""Numbers of each line that the sum over prompts is kept in, where there are too many features."""

SIZES = {
    "gain_rms": "root mean square gain over directions",
    "gain_mean": "mean gain over directions",
    "gain_relative": "root mean square gain over the growth of the norm of a token",
}
"""Gains of single prompts, in words."""

MULTIPLES = (2, 3)
"""Of a tone, the harmonics that are looked at."""

SCOPE = 512
"""Tokens of the trace that is kept of one prompt."""

DELAY = 3
"""Tokens, of what is planted."""


class Found(NamedTuple):
    """Gains under a condition ``[*places, direction, line]``, the coherent sums and the rows behind them."""

    gains: Gains
    response: Tensor
    rows: dict[str, NDArray[Any]]


BY_LINE = ("power", "size", "along", "ends", "by_line", "went_in")
"""Row features whose last axis is the lines."""


@register
@dataclass(frozen=True, kw_only=True)
class FrequencyResponse(Analysis):
    """Drive the residual stream with small waves along the tokens, and listen at every later layer.

    At an early and a middle layer a wave ``epsilon rho s(t) v`` is added to the residual stream: rho the
    median norm of a token there, s a signal of unit root mean square (by default a multisine: all frequencies
    at once), v a unit vector. The response is what each later layer has beyond the same prompt undriven, over
    ``epsilon rho``: an output of 1 is as large as what went in.

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
        Layer at which the drive enters; -1 for two of them, after a sixth and after a half of the depth.
    site
        Where in it.
    listen
        Where it is heard, in every layer that has it behind the drive. ``listen="head_out"`` gives every
        head by itself, ``listen="logits"`` only the end, in all of the vocabulary. The sum over prompts is
        there kept in 64 random sums of each head and line and in 4,096 of the logits: coherent power is
        right on average, and scatters by at most sqrt(2 / 64) and sqrt(2 / 4096) of the power of a prompt,
        over the root of the number of directions and of pairs of prompts. All else is of all dimensions.
    epsilon
        Amplitude in median norms.
    signal
        ``multisine``; ``chirp`` and ``noise`` in its place (noise is not periodic and scatters most; a line
        of it is taken relative to how much was drawn there); ``tone``: some lines one by one (``tones``),
        with their harmonics; ``impulse``: one token at a time (``pulses``), at epsilon alone, so that nothing
        is said of what is linear.
    tones
        Lines of ``signal="tone"``, evenly spread over the logarithm of frequency.
    pulses
        Tokens of ``signal="impulse"``, evenly spread; 0 for all that a drive reaches, with which the gains
        are those of the other signals. Of fewer they are estimates that scatter more, and the root mean
        square gain is too large by that scatter.
    directions
        Random directions; gains are means over them, bounds those of the mean.
    vectors
        Directions of your own in their place: an array ``[direction, d_model]``, `resonance_lens.Directions`,
        or a file of either; bounds are then over these. They are put to unit length.
    period
        Tokens of the longest wave; 0 for the largest power of two that leaves three periods to listen to and
        one to settle in.

    Notes
    -----
    Even attention of a model that was never trained averages, which damps fast waves: compare with random
    weights, and take only the difference for what was learned. The measured gain of a residual stream is
    near 1 for nothing at all: what went in stays there until it is written over.

    A harmonic of a tone is distortion only where it grows as it must, the second with the amplitude, the
    third with its square, beside the fundamental (``harmonic_growth`` of 1 and 2): a linear system that
    changes along the text makes power at those frequencies too, which keeps its share (0).
    """

    name: ClassVar[str] = "frequency_response"
    title: ClassVar[str] = "Response of the residual stream to small waves along the tokens"
    version: ClassVar[str] = "2"
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
    site: str = parameter(
        "resid_pre",
        choices=("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"),
        help="place that is driven",
    )
    listen: str = parameter(
        "resid_post",
        choices=("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out", "logits"),
        help="place that is listened to",
    )
    epsilon: float = parameter(0.03, minimum=1e-6, maximum=10.0, help="amplitude in median norms of a token")
    signal: str = parameter(
        "multisine", choices=("multisine", "tone", "chirp", "impulse", "noise"), help="what is put in"
    )
    tones: int = parameter(4, minimum=1, maximum=64, help="frequencies of single tones, one after the other")
    pulses: int = parameter(16, minimum=0, maximum=4096, help="tokens of single impulses; 0 for all")
    directions: int = parameter(5, minimum=1, maximum=32, help="random directions to drive in")
    vectors: str = parameter(
        "random",
        choices=("random",),
        files=ENDINGS,
        takes=Directions,
        help="directions of your own, in a file",
    )
    period: int = parameter(
        0, minimum=0, maximum=4096, help="tokens of the longest wave; 0 to fit the prompts"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.vectors, str):
            object.__setattr__(self, "vectors", Directions.of(self.vectors))
        super().__post_init__()
        if isinstance(self.vectors, str) and self.vectors != "random":
            object.__setattr__(self, "vectors", Directions.load(self.vectors))

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as plain data: of directions their names and a digest."""
        fields = [field.name for field in dataclasses.fields(self)]
        mine = {name: getattr(self, name) for name in fields}
        return {**mine, "vectors": str(self.vectors)}

    @property
    def observes(self) -> tuple[str, ...]:
        """Where it listens."""
        return (self.listen,)

    @property
    def n_directions(self) -> int:
        """How many directions are driven."""
        return self.directions if self.vectors == "random" else len(self.vectors)

    @property
    def min_tokens(self) -> int:
        """Two periods and half of one to settle in, behind the first token."""
        return SHORTEST if self.period == 0 else 1 + 2 * self.period + self.period // 2

    def timing(self, shortest: int) -> Timing:
        """Return when prompts are driven and listened to, for the shortest of them."""
        return Timing.fit(shortest, period=self.period or None)

    def lines(self, timing: Timing) -> tuple[int, ...]:
        """Return the lines that gains are measured at."""
        if self.signal != "tone":
            return timing.lines
        return tuple(sorted(set(np.geomspace(1, timing.lines[-1], self.tones).round().astype(int).tolist())))

    def driven_layers(self, n_layers: int) -> tuple[int, ...]:
        """Return the layers at which drives enter."""
        if self.layer >= 0:
            return (self.layer,)
        return tuple(sorted({n_layers // 6, n_layers // 2}))

    def reached(self, driven: int, layer: int) -> bool:
        """Return whether what is listened to at a layer comes behind a drive."""
        behind = IN_ORDER.index(self.listen) > IN_ORDER.index(self.site)
        return layer > driven or (layer == driven and behind)

    def design(self, facts: Facts, shortest: int) -> Design:
        """Return the plain condition, driven: each layer and direction at three amplitudes."""
        timing = self.timing(shortest)
        for layer in self.driven_layers(facts.n_layers):
            if layer < facts.n_layers and not self.reached(layer, facts.n_layers - 1):
                raise ParameterError(
                    f"A drive at {self.site!r} of layer {layer} is not heard at {self.listen!r} of any "
                    f"layer of {facts.model_name}, which has {facts.n_layers}; drive an earlier layer, or "
                    "listen at 'resid_post'."
                )
        if isinstance(self.vectors, Directions) and self.vectors.vectors.shape[1] != facts.d_model:
            raise ParameterError(
                f"The 'vectors' have {self.vectors.vectors.shape[1]} numbers each, and the residual stream "
                f"of {facts.model_name} has {facts.d_model} dimensions."
            )
        groups = tuple(
            group
            for layer in self.driven_layers(facts.n_layers)
            for direction in range(self.n_directions)
            for group in self._groups(layer, direction, timing)
        )
        return Design((Condition(drives=groups),))

    def _groups(self, layer: int, direction: int, timing: Timing) -> list[tuple[Drive, ...]]:
        """Return what drives one layer in one direction: a group for each tone, else one."""
        given = self.vectors
        vector = tuple(given.vectors[direction].tolist()) if isinstance(given, Directions) else None
        lines = self.lines(timing)
        kind = next(kind for kind in KINDS if kind == self.signal)

        def one(amplitude: float, lines: tuple[int, ...], at: int | None = None) -> Drive:
            return Drive(
                site=self.site,
                layer=layer,
                timing=timing,
                lines=lines,
                amplitude=amplitude,
                direction=direction,
                vector=vector,
                kind=kind,
                at=at,
            )

        if kind == "impulse":
            reached = timing.tokens - timing.onset
            n = min(self.pulses or reached, reached)
            places = [timing.onset + int((index + 0.5) * reached / n) for index in range(n)]
            return [tuple(one(self.epsilon, lines, at) for at in places)]
        each = [(line,) for line in lines] if kind == "tone" else [lines]
        return [tuple(one(self.epsilon * factor, some) for factor in AMPLITUDES) for some in each]

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return what one layer answers to one direction."""
        assert where.driven_from is not None
        responses = signals[self.listen].values  # [drive, batch, token, (head,) feature]
        heads, n_features = "head" in SITE_AXES[self.listen], responses.shape[-1]
        responses = responses.movedim(-2, 2) if heads else responses.unsqueeze(2)
        group, n_drives = where.drives, len(where.drives)
        impulses = self.signal == "impulse"
        drive = group[0] if impulses else group[AMPLITUDES.index(1.0)]
        timing = drive.timing
        waves, spectrum, power, half_power = _put_in(drive, where.seed, where.prompts)
        scale = self.epsilon * where.driven_from
        like = responses.device
        went_in = WentIn(
            timing=timing,
            lines=drive.lines,
            amplitudes=(1.0,) * n_drives if impulses else AMPLITUDES,
            spectrum=spectrum.to(like),
            power=power.to(like),
            half_power=half_power.to(like),
            scale=scale,
            direction=None if self.listen == "logits" else drive.unit(n_features, where.seed).to(responses),
        )
        kept = KEPT.get(self.listen)
        if impulses:
            at = [each.at for each in group if each.at is not None]
            found, h = impulse_answers(responses, at, timing.period // 2, went_in, kept=kept)
        else:
            multiples = (1, *MULTIPLES) if self.signal == "tone" else ()
            found, h = answers(responses, went_in, harmonics=multiples, kept=kept)
        if self.signal == "noise":
            found["went_in"] = (spectrum.abs().square() / power)[:, None].expand_as(found["power"])
        norms = where.undriven[self.listen][:, timing.window].norm(dim=-1).median(dim=1).values
        norms = norms if heads else norms[:, None]
        found["norm"] = norms.double() / where.driven_from.double()[:, None]
        sums = {"response": h.sum(0)}
        if went_in.direction is not None:
            # A trace of the first prompt, in the first direction: of all others nothing is added.
            shown = slice(0, min(timing.tokens, SCOPE))
            first = drive.direction == 0 and drive.lines[0] == 1
            of_first = torch.tensor([float(first and prompt == 0) for prompt in where.prompts], device=like)
            heard = responses[group.index(drive), :, :, shown] @ went_in.direction  # [batch, head, sample]
            sums["scope_response"] = ((of_first / scale)[:, None, None] * heard).sum(0)
            sums["scope_drive"] = (of_first.cpu()[:, None] * waves[:, shown]).sum(0)
        rows = found if heads else {name: values[:, 0] for name, values in found.items()}
        early = responses[..., : timing.onset, :].abs().amax((0, 2, 3, 4)).double()
        rows |= {"early": early, "tokens": torch.full((len(where.prompts),), timing.tokens)}
        if not heads:
            sums |= {name: sums[name][0] for name in ("response", "scope_response") if name in sums}
        return Features.of(where.prompts, rows=rows, sums=sums)

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return gains, phases and delays by frequency, and shares of the response, at every later layer."""
        timing = self.timing(int(seen.plain.rows["tokens"].max()))
        conditions = seen.features if seen.intervals else ("plain",)
        found = {condition: self._gains(seen, condition) for condition in conditions}
        rows = found["plain"].rows
        out = Labelled(seen, self.name, self._coords(seen, timing))
        places = self._places
        dims = (*places, "frequency")
        each = self._over_directions(rows)
        if self.listen in STREAM:
            rms = each["power"]
            out.add(
                "gain_rms_untouched", ("category", *dims),
                np.broadcast_to(np.where(np.isnan(rms[0]), np.nan, 1.0), (len(seen.groups), *rms.shape[1:])),
                f"gain of a residual stream that nothing is written to; {UNREACHED}", "1",
            )  # fmt: skip
        self._add_sizes(out, seen, found)
        if self.signal != "impulse":
            self._add_amplitudes(out, each)
        if "harmonics" in each:
            self._add_harmonics(out, each["harmonics"])
        for condition in found:
            self._add_coherent(out, condition, timing, found[condition])
        if seen.intervals:
            self._add_peaks(out, timing, found)
            self._add_scope(out, seen)
        early = np.nanmax(rows["early"], axis=(0, *range(2, rows["early"].ndim)))
        out.add(
            "before_onset", ("driven",), early,
            "largest response before the onset, at any later layer", "activation",
        )  # fmt: skip
        kept = {name: getattr(timing, name) for name in ("onset", "settle", "period", "periods")}
        asked = {name: getattr(self, name) for name in ("epsilon", "signal", "listen", "site")}
        data = out.dataset({**kept, **asked, "directions": self.n_directions})
        over = dict.fromkeys((*SIZES, "gain_rms_random_weights"), "prompts and directions") | {
            f"gain{end}": "directions" for end in ("", *(f"_{other}" for other in BASELINE_CONDITIONS))
        }
        for name, units in over.items():
            for end in ("low", "high"):
                if f"{name}_{end}" in data:
                    data[f"{name}_{end}"].attrs["over"] = units
        return data

    def summary(self, result: Result) -> str:
        """Return what the last layer hears of a slow and a fast wave, and how much of it is a filter's."""
        return said_of_response(result.data)

    def views(self, result: Result) -> list[ViewSpec]:
        """Return Bode plots, waterfalls, the impulse response, shares, distortion and figures."""
        return response_views(result.data)

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers that take away most of the filter: where the share that is one falls most.

        Of heads and of what layers write, those whose response is largest.
        """
        data = result.data
        if self.listen == "logits":
            return []
        if self.listen not in STREAM:
            size = data.gain_rms.sel(category="all").mean("frequency").max("driven")
            flat = size.stack(place=[dim for dim in size.dims])
            best = [at for at in np.argsort(-flat.values, kind="stable") if flat.values[at] > 0][:k]
            return [
                Target(
                    site=self.listen,
                    layer=int(flat.layer[at]),
                    head=int(flat["head"][at]) if "head" in data.dims else None,
                    score=float(flat[at]),
                    reason="root mean square gain of its response, mean over frequencies",
                )
                for at in best
            ]
        found: dict[int, tuple[float, int]] = {}
        share = data.time_invariant if "time_invariant" in data else data.coherence.mean("frequency")
        for driven in data.driven.values.tolist():
            here = share.sel(driven=driven).values
            for before, after, layer in zip(here[:-1], here[1:], data.layer.values[1:].tolist(), strict=True):
                if before > after:
                    found[layer] = max(found.get(layer, (0.0, 0)), (float(before - after), driven))
        return [
            Target(
                site="attn_out",
                layer=layer,
                score=score,
                reason=f"share of the response that is a filter falls here, driven at layer {driven}",
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

    @property
    def _places(self) -> tuple[str, ...]:
        return ("driven", "layer", "head") if self.listen == "head_out" else ("driven", "layer")

    def _coords(self, seen: Accumulated, timing: Timing) -> dict[str, Any]:
        def axis(name: str, values: Any, long_name: str, units: str) -> xr.Variable:
            return xr.Variable(name, np.asarray(values), {"long_name": long_name, "units": units})

        frequencies = timing.frequencies(self.lines(timing)).numpy()
        amplitudes = self.epsilon * np.array(AMPLITUDES)
        shown = np.arange(min(timing.tokens, SCOPE))
        return {
            "driven": axis("driven", self.driven_layers(seen.facts.n_layers), "layer driven at", "layer"),
            "frequency": axis("frequency", frequencies, "frequency", "cycles per token"),
            "between": axis(
                "between",
                (frequencies[1:] + frequencies[:-1]) / 2,
                "frequency between lines",
                "cycles per token",
            ),
            "lag": axis("lag", np.arange(timing.period // 2), "lag", "tokens"),
            "amplitude": axis("amplitude", amplitudes, "amplitude of the drive", "median norms"),
            "order": axis("order", MULTIPLES, "multiple of the tone", "1"),
            "sample": axis("sample", shown, "token", "tokens"),
        }

    def _grouped(self, values: NDArray[Any], name: str, seen: Accumulated) -> NDArray[Any]:
        """Return ``[..., driven, layer, (head,) direction, ...]`` of ``[..., layer, group, (head,) ...]``.

        What is before the layers has no axis or one, of prompts; the tones of a direction become its lines.
        """
        lead = int(name in seen.plain.rows)
        n_driven = len(self.driven_layers(seen.facts.n_layers))
        shape = values.shape
        split = (n_driven, self.n_directions, -1)
        values = values.reshape(*shape[: lead + 1], *split, *shape[lead + 2 :])
        values = values.swapaxes(lead, lead + 1)  # [..., driven, layer, direction, part, (head,) ...]
        part = lead + 3
        if name in BY_LINE:  # of single tones each part has one
            values = np.moveaxis(values, part, -2).reshape(
                *values.shape[:part], *values.shape[part + 1 : -1], -1
            )
        elif name == "response":
            values = np.moveaxis(values, part, -3)
            values = values.reshape(*values.shape[:-3], -1, values.shape[-1])
        elif name == "harmonics":
            values = values.sum(part)
        else:
            values = values.mean(part)
        if self.listen == "head_out" and name not in ("early", "tokens"):
            values = np.moveaxis(values, lead + 2, lead + 3)  # directions behind the heads
        return values

    def _rows(self, seen: Accumulated, condition: str) -> dict[str, NDArray[Any]]:
        """Return rows ``[prompt, driven, layer, (head,) direction, ...]``, not-a-number where unreached."""
        driven = self.driven_layers(seen.facts.n_layers)
        unreached = np.array([[not self.reached(start, layer) for layer in seen.layers] for start in driven])
        found = {}
        for name, values in seen.features[condition].rows.items():
            if name == "tokens":
                continue
            found[name] = self._grouped(values, name, seen).copy()
            found[name][:, unreached] = np.nan
        return found

    def _over_directions(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return means over directions; of noise, relative to how much of it there was at each line."""
        axis = len(self._places) + 1
        each = {name: values.mean(axis) for name, values in rows.items() if name != "early"}
        if "went_in" in each:
            drawn = each.pop("went_in")
            each |= {"power": _over(each["power"], drawn), "size": _over(each["size"], drawn)}
            if "by_line" in each:
                each["by_line"] = _over(each["by_line"], drawn[..., None, :])
            each.pop("ends", None)  # of halves that were not equally strong
        return each

    def _size(self, name: str, rows: Mapping[str, NDArray[Any]]) -> Floats:
        """Return one of `SIZES` of each prompt, over directions."""
        each = self._over_directions(rows)
        if name == "gain_mean":
            return each["size"]
        rms = np.sqrt(each["power"])
        return rms if name == "gain_rms" else _over(rms, each["norm"][..., None])

    def _add_sizes(self, out: Labelled, seen: Accumulated, found: Mapping[str, Found]) -> None:
        """Add gains of single prompts, with bounds over prompts and directions."""
        dims = (*self._places, "frequency")
        for name, words in SIZES.items():
            about = f"{words}; {UNREACHED}"
            whole = self._size(name, found["plain"].rows)
            out.add_mean(name, dims, whole, about, "1", interval=False, by_prompt=True)
            self._add_bounds(out, seen, name, name, found["plain"].rows, about)
        # Of other conditions the engine makes means; the bounds of the twin are what lines are held against.
        if "random_weights" in found:
            twin = found["random_weights"].rows
            about = f"{SIZES['gain_rms']}, random weights; {UNREACHED}"
            self._add_bounds(out, seen, "gain_rms_random_weights", "gain_rms", twin, about)

    def _add_bounds(
        self,
        out: Labelled,
        seen: Accumulated,
        under: str,
        name: str,
        rows: Mapping[str, NDArray[Any]],
        about: str,
    ) -> None:
        """Add the bounds of one of `SIZES`, under the name that it has in the result."""
        if not seen.intervals:
            return
        axis, n = len(self._places) + 1, self.n_directions
        used = {key: rows[key] for key in ("power", "size", "norm", "went_in") if key in rows}
        whole = self._size(name, used)
        without = [
            self._size(name, {key: np.delete(values, left_out, axis) for key, values in used.items()})
            for left_out in range(n if n > 1 else 0)
        ]
        bounds = [
            crossed_bounds(whole[members], [one[members] for one in without])
            for members in seen.groups.values()
        ]
        dims = ("category", *self._places, "frequency")
        for end, values in zip(("low", "high"), zip(*bounds, strict=True), strict=True):
            which = {"low": "lower", "high": "upper"}[end]
            out.add(f"{under}_{end}", dims, np.stack(values), f"{about}, {which} 95 % bound", "1")

    def _gains(self, seen: Accumulated, condition: str) -> Found:
        """Return the gains under a condition, and what they come from."""
        rows = self._rows(seen, condition)
        total = self._grouped(seen.features[condition].sums["response"], "response", seen)
        response = torch.from_numpy(np.ascontiguousarray(total))
        power, size = (torch.from_numpy(rows[name].sum(0)) for name in ("power", "size"))
        own = torch.from_numpy(np.square(rows["size"]).sum(0))
        n = len(rows["power"])
        if "went_in" in rows and n > 1:  # as if every prompt had been given the mean of all draws
            drawn = torch.from_numpy(rows["went_in"])
            pairs = (drawn.sum(0).square() - drawn.square().sum(0)) / (n * (n - 1))
            response, own = response / pairs.sqrt()[..., None], own / pairs
            size, power = size / drawn.mean(0), power / drawn.mean(0)
        return Found(gains(response, size, power, n, own=own), response, rows)

    def _add_amplitudes(self, out: Labelled, each: Mapping[str, NDArray[Any]]) -> None:
        """Add what changes along the record and with the amplitude of the drive."""
        dims = (*self._places, "frequency")
        if "ends" in each:
            first, second = np.moveaxis(each["ends"], -2, 0)
            out.add_mean(
                "gain_growth", dims, np.sqrt(_over(second, first)),
                f"root mean square gain late in the record over that early in it; {UNREACHED}", "1",
            )  # fmt: skip
        out.add_mean(
            "gain_total", (*self._places, "amplitude"), np.sqrt(each["by_amplitude"]),
            f"size of the whole response over that of the drive; {UNREACHED}", "1",
        )  # fmt: skip
        out.add_mean(
            "describing", (*self._places, "amplitude", "frequency"), np.sqrt(each["by_line"]),
            f"describing function: root mean square gain by amplitude of the drive; {UNREACHED}", "1",
        )  # fmt: skip
        spent, doubled = np.moveaxis(each["doubling"], -1, 0)
        out.add_mean(
            "nonlinear_doubled", self._places, _over(spent, doubled),
            f"share of the response to 2 epsilon that is not twice that to epsilon; {UNREACHED}", "1",
            by_prompt=True,
        )  # fmt: skip

    def _add_harmonics(self, out: Labelled, rows: NDArray[Any]) -> None:
        """Add harmonics of tones, of rows ``[prompt, *places, amplitude, multiple]`` of their power."""
        power = rows.mean(0)
        harmonic = np.sqrt(_over(power[..., 1:], power[..., :1]))  # [*places, amplitude, order]
        why = f"not-a-number: no tone has one below the Nyquist frequency, {UNREACHED[14:]}"
        known = power[..., 1:].any(-2, keepdims=True)
        harmonic = np.where(known, harmonic, np.nan)
        out.add(
            "harmonic", (*self._places, "amplitude", "order"), harmonic,
            f"size of a harmonic over that of the fundamental, root mean square over tones; {why}", "1",
        )  # fmt: skip
        growth = np.log2(_over(harmonic[..., -1, :], harmonic[..., 0, :])) / math.log2(
            AMPLITUDES[-1] / AMPLITUDES[0]
        )
        out.add(
            "harmonic_growth", (*self._places, "order"), growth,
            "power of the amplitude that a harmonic grows as beside the fundamental: order minus 1 for "
            f"distortion, 0 for a linear system that changes; {why}", "1",
        )  # fmt: skip

    def _add_coherent(self, out: Labelled, condition: str, timing: Timing, under_it: Found) -> None:
        """Add what all prompts have in common of the response, under a condition."""
        end = "" if condition == "plain" else f"_{condition}"
        under = "" if condition == "plain" else f", {condition.replace('_', ' ')}"
        lines = self.lines(timing)
        frequencies = timing.frequencies(lines)
        found, response, rows = under_it
        places, n = self._places, len(self._places)
        dims = (*places, "frequency")
        words = f"{under}; {UNREACHED}"
        coherent = found.coherent_power.numpy()  # [*places, direction, line]
        for bound, values in _bounds(coherent, axis=n).items():
            which = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}[bound]
            out.add(
                f"gain{end}{bound}", dims, np.sign(values) * np.sqrt(abs(values)),
                f"coherent gain{under}{which}; below zero: chance alone; {UNREACHED}, or of one prompt", "1",
            )  # fmt: skip
        if condition == "plain":
            floor = np.sqrt((found.rms.square().mean(n) / found.count).numpy())
            out.add(
                "gain_floor", dims, floor,
                f"coherent gain of unrelated responses, before its bias is taken off; {UNREACHED}", "1",
            )  # fmt: skip
        out.add(
            f"coherence{end}", dims, found.coherence.mean(n).numpy(),
            f"share of the power at a line that the coherent response explains{words}, or of one prompt", "1",
        )  # fmt: skip
        if len(lines) > 1:
            total = rows["power"].sum((0, n + 1))
            turns = delay(response.movedim(-3, -2).flatten(-2), torch.from_numpy(total), frequencies)
            out.add(
                f"delay{end}", (*places, "between"), turns.numpy(),
                f"group delay between neighbouring lines{under}; not-a-number: no more than chance, "
                f"{UNREACHED[14:]}",
                "tokens",
            )  # fmt: skip
        if "along" in rows:
            along = rows["along"].mean((0, n + 1))  # [*places, line]
            out.add(f"phase{end}", dims, np.angle(along), f"phase along the drive{words}", "radians")
            if "lags" in rows:
                impulse = rows["lags"].mean((0, n + 1))
            else:
                lags = np.exp(2j * np.pi * frequencies.numpy()[:, None] * np.arange(timing.period // 2))
                impulse = (along @ lags).real * 2 / timing.period
                # Frequency 0 and one half are not driven; what is next to them stands for them.
                ends = along[..., :1].real + (-1.0) ** np.arange(timing.period // 2) * along[..., -1:].real
                impulse += ends / timing.period
            if self.signal != "tone":  # of which there are too few
                out.add(
                    f"impulse{end}", (*places, "lag"), impulse,
                    f"response along the drive to one token{words}", "1",
                )  # fmt: skip
        if "orders" not in rows:
            return
        parts = rows["orders"].mean((0, n + 1))  # [*places, order]
        linear = _over(parts[..., 0], parts.sum(-1))
        weights = _strength(self.signal, timing, lines)
        # What is coherent of a strong distortion is in the sum as well, which then is more than there is.
        filtered = np.minimum(_over((coherent.mean(n) * weights).sum(-1), parts[..., 0]), 1)
        for name, values, what in (
            ("time_invariant", linear * filtered, "that one filter for all texts explains"),
            ("time_varying", linear * (1 - filtered), "that is linear and no such filter"),
            ("nonlinear", 1 - linear, "that grows as the square or the cube of the drive"),
        ):
            one = "" if name == "nonlinear" else ", or of one prompt"
            out.add(f"{name}{end}", places, values, f"share of the response {what}{words}{one}", "1")

    def _add_peaks(self, out: Labelled, timing: Timing, found: Mapping[str, Found]) -> None:
        """Add the half-power frequency, and the resonance that beats random weights, if there is one."""
        frequencies = timing.frequencies(self.lines(timing))
        places, n = self._places, len(self._places)
        power = found["plain"].gains.coherent_power.numpy()
        gain = torch.from_numpy(np.sqrt(np.clip(_bounds(power, axis=n)[""], 0, None)))
        known = ~gain.isnan().any(-1)
        edge = torch.where(known, half_power(frequencies, gain.nan_to_num()), torch.nan)
        out.add(
            "half_power_frequency", places, edge.numpy(),
            "frequency at which the coherent gain has half of its largest power; not-a-number: it never "
            f"falls so low, {UNREACHED[14:]}", "cycles per token",
        )  # fmt: skip
        if "random_weights" not in found:
            return
        twin = found["random_weights"].gains.coherent_power.numpy()
        above = np.sqrt(np.clip(np.fmax(_bounds(twin, axis=n)["_high"], 0), 0, None))
        low = np.sqrt(np.clip(_bounds(power, axis=n)["_low"], 0, None))
        best = np.full((2, *gain.shape[:-1]), np.nan)
        for place in zip(*np.nonzero(known.numpy()), strict=True):
            sure = torch.from_numpy(np.where(low[place] > above[place], 0.0, np.inf))
            for peak in resonances(frequencies, gain[place], sure)[:1]:
                best[0][place], best[1][place] = peak.frequency, peak.q
        why = f"not-a-number: no peak whose lower bound is above that of random weights, {UNREACHED[14:]}"
        out.add("resonance", places, best[0], f"frequency of the largest peak; {why}", "cycles per token")
        out.add("resonance_q", places, best[1], f"quality of the largest peak; {why}", "1")

    def _add_scope(self, out: Labelled, seen: Accumulated) -> None:
        """Add drive and response along it of the first prompt in the first direction."""
        if "scope_drive" not in seen.plain.sums:
            return
        drives, responses = (seen.plain.sums[f"scope_{what}"] for what in ("drive", "response"))
        layers, driven = len(seen.layers), self.driven_layers(seen.facts.n_layers)
        drives = drives.reshape(layers, len(driven), -1, drives.shape[-1]).sum(2)[-1]
        responses = responses.reshape(layers, len(driven), -1, *responses.shape[2:]).sum(2).swapaxes(0, 1)
        reached = np.array([[self.reached(start, layer) for layer in seen.layers] for start in driven])
        responses = np.where(np.expand_dims(reached, tuple(range(2, responses.ndim))), responses, np.nan)
        what = "of the first prompt in the first direction"
        out.add("scope_drive", ("driven", "sample"), drives, f"drive {what}, over its amplitude", "1")
        out.add(
            "scope_response", (*self._places, "sample"), responses,
            f"response {what}, along it, over the amplitude of the drive; {UNREACHED}", "1",
        )  # fmt: skip


UNREACHED = "not-a-number: below the layer that is driven"


@functools.lru_cache(maxsize=64)
def _put_in(drive: Drive, seed: int, prompts: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return signals ``[batch, token]``, spectra ``[batch, line]``, their mean power, and that of half."""
    timing = drive.timing
    waves = torch.stack([drive.signal(seed, prompt) for prompt in prompts])
    spectrum = at_lines(waves[..., None], timing, drive.lines)[..., 0]
    power = spectrum.abs().square()
    if drive.kind != "noise":
        return waves, spectrum, power, power
    mean, half = (
        torch.full_like(power, 4 / n) for n in (timing.heard, timing.period * (timing.periods // 2))
    )
    return waves, spectrum, mean, half


def _strength(signal: str, timing: Timing, lines: tuple[int, ...]) -> Floats:
    """Return the share of the power of a drive that each line has."""
    if signal != "chirp":
        return np.full(len(lines), 1 / len(lines))
    power = np.abs(np.fft.rfft(excitation.chirp(timing.period, lines).numpy())[list(lines)]) ** 2
    return np.asarray(power / power.sum())


def _over(values: NDArray[Any], by: NDArray[Any]) -> NDArray[Any]:
    """Return a ratio, not-a-number where there is nothing to divide by."""
    return np.asarray(values / np.where(by > 0, by, np.nan))


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
    sites = dict.fromkeys(("resid_pre", analysis.site, analysis.listen))
    shapes = {"head_out": (n_prompts, n_tokens, facts.n_heads, d_model), "logits": (n_prompts, n_tokens, 16)}
    real = torch.arange(n_tokens) < lengths[:, None]  # [batch, token]

    def drawn(site: str) -> Tensor:
        values = torch.from_numpy(
            rng.standard_normal(shapes.get(site, (n_prompts, n_tokens, d_model)))
        ).float()
        return values * real.reshape(*real.shape, *[1] * (values.ndim - 2))

    layers = [
        {site: drawn(site) for site in sites if site != "logits" or layer == n_layers - 1}
        for layer in range(n_layers)
    ]
    turns = torch.from_numpy(np.linalg.qr(rng.standard_normal((n_prompts, d_model, d_model)))[0]).float()

    def respond(layer: int, added: Tensor, prompts: tuple[int, ...]) -> dict[int, dict[str, Tensor]]:
        delayed = torch.nn.functional.pad(added, (0, 0, DELAY, 0))[:, : added.shape[1]]
        turn = turns[list(prompts)].repeat(len(added) // len(prompts), 1, 1).to(added)
        turned = torch.einsum("btd,bde->bte", delayed, turn)
        whole = turned if random else delayed
        half = turned if random else (delayed + turned) / math.sqrt(2)

        def heard(values: Tensor) -> Tensor:
            if analysis.listen == "logits":
                return values[..., :16]
            return values[:, :, None].expand(-1, -1, 2, -1) if analysis.listen == "head_out" else values

        return {
            at: {analysis.listen: heard(half if at == n_layers - 1 else whole)}
            for at in range(layer, n_layers)
        }

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
        layers=layers,
        lengths=lengths,
        facts=facts,
        expect=expect,
        respond=respond,
    )
