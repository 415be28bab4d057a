"""Amplitude and phase of heads at every token, in one octave, and whether heads swing together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp.circular import SMALLEST_RESULTANT, expected_resultant, unit_phasors
from resonance_lens.dsp.hilbert import analytic_signal
from resonance_lens.dsp.series import head_series, power
from resonance_lens.errors import AnalysisError
from resonance_lens.features import N_BLOCKS, Features, block_sums
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.across_prompts import match, own_pairs
from resonance_lens.stats.directions import head_directions
from resonance_lens.stats.jackknife import of_groups
from resonance_lens.stats.samples import AnySample

Array = NDArray[Any]

NEAR = 128
"""Places of the grid that are one step apart; those beyond are `FAR` steps apart, and count for as many."""

FAR = 8

SHOWN = 4
"""Heads that are shown token by token."""

LEAST_STEP = 0.05
"""A mean of phase steps that is shorter has no direction worth telling."""


@register
@dataclass(frozen=True, kw_only=True)
class HilbertPhase(Analysis):
    """Amplitude and phase of heads at every token, in one octave, and whether they swing together.

    Each head is one series along tokens, by default the norm of its `z`. It is band-passed to the octave of
    ``period`` to twice as many tokens; the analytic signal (Hilbert) then has an amplitude and a phase at
    every token. The order parameter of a layer is the modulus of the mean unit phasor of its heads: 1 when
    all crest at the same token. Its standard deviation along tokens is the metastability.

    Notes
    -----
    A phase means something in a narrow band only: of a broad one it is that of whatever is loudest. Any noise
    has one, and a narrow band makes any two noises look alike for a few cycles. H independent heads have an
    order parameter of about ``sqrt(pi / (4 H))`` (``order_parameter_independent``), and heads that follow
    positions or words more: ``consistency_null`` pairs heads of different prompts at the same tokens. The
    filter looks ahead and takes a record for a circle; a cycle at both ends is left out. With
    ``series="projection"`` the sign of each head is drawn, so that heads in step may stand opposed.
    """

    name: ClassVar[str] = "hilbert_phase"
    title: ClassVar[str] = "Instantaneous phase of heads along the tokens"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("z",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("independent_heads", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("paired_across_prompts",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="consistency",
            long_name="mean cosine of the phase difference of two heads of a layer",
            units="1",
            null="paired_across_prompts",
            against="pairs of heads from different prompts at the same tokens",
            dims=("layer",),
            family=("layer",),
            places="layers",
            minimum_effect=0.05,
            undefined="one prompt has no other to be paired with",
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "order_parameter"
    source: ClassVar[str] = (
        "Analytic signal (Gabor 1946); Kuramoto order parameter; metastability (Shanahan 2010); pairwise "
        "phase consistency (Vinck et al. 2010)."
    )

    period: int = parameter(
        4, minimum=3, maximum=128, help="the octave from this period to twice as much, in tokens"
    )
    series: str = parameter(
        "norm",
        choices=("norm", "projection"),
        help="what of each head is followed along tokens: the norm of z, or a fixed random direction of it",
    )
    draw: int = parameter(0, minimum=0, maximum=9_999, help="which random directions")

    @property
    def band(self) -> tuple[float, float]:
        """The octave in cycles per token."""
        return 0.5 / self.period, 1 / self.period

    @property
    def edge(self) -> int:
        """Tokens that are left out at both ends: a cycle of the longest period."""
        return 2 * self.period

    @property
    def min_tokens(self) -> int:
        """A prompt needs a period between its edges, beside the first position."""
        return 2 * self.edge + self.period + 1

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the series of each head."""
        if where.facts.n_heads < 2:
            raise AnalysisError(
                f"hilbert_phase compares the heads of a layer, and {where.facts.model_name} has one head."
            )
        z = signals["z"]

        def directions() -> Tensor:
            return head_directions(self.draw, where.layer or 0, z.size("head"), z.size("d_head"))

        series = head_series(z, self.series, self.draw, directions)  # type: ignore[arg-type]
        return Features.of(where.prompts, carry={"series": series})

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return the order of each layer, how it passes on, and sums that pair heads across prompts."""
        carried = torch.stack([features.carry["series"] for features in layers], dim=1)
        carried = carried[:, :, 1:].mT  # [batch, layer, head, token], without the first position
        lengths = where.lengths.to(carried.device) - 1
        real = (torch.arange(carried.shape[-1], device=carried.device) < lengths[:, None])[:, None, None]
        level = carried.double().sum(-1, keepdim=True) / real.sum(-1, keepdim=True)
        # What is left without the mean is small beside it: only now is single precision enough.
        series = ((carried - level) * real).float()
        waves = analytic_signal(series, -1, band=self.band, lengths=lengths[:, None, None])
        grid, steps = (each.to(series.device) for each in self._grid(series.shape[-1]))
        there = (grid < lengths[:, None] - self.edge).to(torch.float64)  # [batch, grid]
        at = waves[..., grid].to(torch.complex128)
        # Of a constant the filter leaves a rounding error, which has no phase.
        loud = power(at) > (SMALLEST_RESULTANT * level.abs()) ** 2
        units = unit_phasors(at, smallest=0.0) * (loud & (there > 0)[:, None, None])
        weights = (there * steps)[:, None]  # [batch, 1, grid]
        field = units.mean(2)  # [batch, layer, grid]
        order = field.abs()
        own = own_pairs(units)
        total = weights.sum(-1)

        def mean(values: Tensor) -> Tensor:
            return (values * weights).sum(-1) / total  # [batch, layer]

        passed = mean(field[:, 1:] * field[:, :-1].conj())
        return Features.of(
            where.prompts,
            rows={
                "order_parameter": mean(order),
                "metastability": (mean((order - mean(order)[..., None]) ** 2)).sqrt(),
                "consistency": mean(own) / (units.shape[2] * (units.shape[2] - 1)),
                "amplitude": self._amplitude(waves, lengths),
                "real": passed.real,  # [prompt, layer - 1]
                "imag": passed.imag,
                "places": there.sum(1),  # [prompt]
            },
            sums=_specimen(waves, where),
            blocks={
                "phasors": block_sums(units, where.groups),  # [block, layer, head, grid]
                "own_pairs": block_sums(own, where.groups),  # [block, layer, grid]
                "prompts": block_sums(there, where.groups),  # [block, grid]
            },
        )

    def _grid(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the tokens at which phases are compared, and for how many steps each one counts.

        A step is the period: phases in an octave change over twice as much. Sums over prompts are kept
        for each place, so that far from the start there are fewer. Those of a shorter prompt begin those of
        a longer one.
        """
        places = torch.arange((max(n - 2 * self.edge, 1) + self.period - 1) // self.period)
        places = places[(places < NEAR) | (places % FAR == 0)]
        return self.edge + self.period * places, torch.where(places < NEAR, 1.0, FAR).double()

    def _amplitude(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Return the root mean square amplitude of each head between the edges, ``[batch, layer, head]``."""
        place = torch.arange(waves.shape[-1], device=waves.device)
        inside = (place >= self.edge) & (place < lengths[:, None] - self.edge)  # [batch, token]
        total = (power(waves) * inside[:, None, None]).sum(-1)
        return (total / inside.sum(1)[:, None, None]).sqrt()

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return order and metastability beside those of independent heads, and how phases pass on."""
        rows = seen.plain.rows
        n_prompts, n_layers = rows["order_parameter"].shape
        n_heads = seen.facts.n_heads
        out = Labelled(seen, self.name)
        chance = expected_resultant(n_heads)
        spread = math.sqrt(max(1 / n_heads - chance**2, 0.0))
        about = (
            ("order_parameter", "order parameter over the heads of a layer", chance),
            ("metastability", "standard deviation of the order parameter along tokens", spread),
        )
        for name, words, level in about:
            out.add_mean(name, ("layer",), rows[name], words, "1", by_prompt=name == self.headline)
            even = np.full((n_prompts, n_layers), level)
            out.add_mean(
                f"{name}_independent", ("layer",), even, f"{words}, independent heads", "1", interval=False
            )
        words = "root mean square amplitude in the band"
        out.add_mean("amplitude", ("layer", "head"), rows["amplitude"], words, "activation")
        passed = rows["real"] + 1j * rows["imag"]  # [prompt, layer - 1]
        mean = np.stack([passed[members].mean(0) for members in seen.groups.values()])
        angle = np.where(abs(mean) > LEAST_STEP, np.angle(mean), np.nan)
        angle = np.pad(angle, ((0, 0), (1, 0)), constant_values=np.nan)
        delay = -angle / (2 * np.pi * sum(self.band) / 2)
        dims, none = ("category", "layer"), "; not-a-number: no layer before, or no phase"
        out.add(
            "phase_step", dims, angle, f"phase of a layer minus that of the layer before{none}", "radians"
        )
        out.add("delay", dims, delay, f"delay against the layer before, at the band's centre{none}", "tokens")
        return self._with_specimen(out, seen)

    def _with_specimen(self, out: Labelled, seen: Accumulated) -> xr.Dataset:
        """Return the dataset with the first prompt: the order of each layer, and some heads of one."""
        n = int(seen.plain.sums["specimen_length"][0])
        waves = seen.plain.sums["specimen"][..., :n]  # [layer, head, token]
        size = abs(waves)
        units = np.where(size > 0, waves / np.where(size > 0, size, 1), 0)
        inside = np.zeros(n, dtype=bool)
        inside[self.edge : n - self.edge] = True
        order = np.where(inside, abs(units.mean(1)), np.nan)
        layer = int(np.nanmean(order, axis=1).argmax())
        with_field = (units[layer] * units[layer].mean(0).conj()).real[:, inside].mean(-1)
        heads = np.argsort(-with_field, kind="stable")[:SHOWN]
        about = {"long_name": "token", "units": "tokens"}
        out.coords["token"] = ("token", np.arange(1, n + 1), about)
        labels = [f"L{seen.layers[layer]}H{head}" for head in heads]
        out.coords["shown_head"], out.coords["pair_member"] = labels, labels[:2]
        shown = waves[layer, heads]
        why = "in the first prompt; not-a-number: within a cycle of an end"
        out.add("order_specimen", ("layer", "token"), order.astype(np.float32), f"order parameter {why}", "1")
        dims = ("shown_head", "token")
        amplitude = np.where(inside, abs(shown), np.nan).astype(np.float32)
        out.add("amplitude_specimen", dims, amplitude, f"amplitude in the band {why}", "activation")
        phase = np.where(inside, np.angle(shown), np.nan).astype(np.float32)
        out.add("phase_specimen", dims, phase, f"phase {why}", "rad")
        trace = np.where(inside, shown[:2].real, np.nan).astype(np.float32)
        out.add(
            "trace_specimen", ("pair_member", "token"), trace, f"band-passed series {why}", "activation"
        )  # fmt: skip
        texts = seen.specimen[1 : n + 1] if len(seen.specimen) > n else tuple(map(str, range(1, n + 1)))
        data: xr.Dataset = out.dataset().assign_coords(token_text=("token", list(texts)))
        return data

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are jackknife groups: what pairs prompts has no value for each prompt."""
        return "group", min(n_prompts, N_BLOCKS) if n_prompts > 2 else 1

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return consistency beside that across prompts, as estimates that leave groups of prompts out."""
        features = seen.plain
        rows, places = features.rows["consistency"], features.rows["places"].astype(int)
        whole = {name: values.sum(0) for name, values in features.blocks.items()}
        index = np.arange(whole["prompts"].size)
        steps = np.where(index < NEAR, 1.0, FAR)

        def paired(left_out: int | None) -> tuple[Array, Array]:
            """Return value and null of each prompt, from the prompts of all groups or of all but one."""
            parts = whole
            if left_out is not None:
                parts = {n: total - features.blocks[n][left_out] for n, total in whole.items()}
            return match(parts, rows, places, steps)

        return {"consistency": of_groups(paired, seen.jackknife, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return the order parameter beside chance, and in how many layers it is at chance."""
        data = result.data.sel(category="all")
        order, chance = float(data.order_parameter.mean()), float(data.order_parameter_independent.mean())
        said = (
            f"Between {self.period} and {2 * self.period} tokens, averaged over layers, the order parameter "
            f"of heads is {order:.2f}; independent heads would give {chance:.2f}."
        )
        if "order_parameter_low" not in data or bool(data.order_parameter_low.isnull().any()):
            return said
        at_chance = int((data.order_parameter_low <= data.order_parameter_independent).sum())
        n = data.sizes["layer"]
        how = "In all layers it" if at_chance == n else f"In {at_chance} of {n} layers it"
        return f"{said} {how} is not surely above chance (lower 95 % bound)."

    def views(self, result: Result) -> list[ViewSpec]:
        """Return order, consistency and metastability over depth, and the first prompt token by token."""
        data = result.data
        layer = int(str(data.shown_head.values[0]).partition("H")[0].removeprefix("L"))
        return [
            ViewSpec(
                kind="lines",
                title="Order parameter of the heads over depth",
                says="How far the heads of each layer crest at the same tokens, beside independent heads.",
                misleads="it is read as synchrony: heads that react to the same words crest together.",
                variables=("order_parameter",),
                references=(
                    "order_parameter_independent",
                    "order_parameter_random_weights",
                    "order_parameter_shuffled_tokens",
                ),
                select={"category": "all"},
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Consistency within prompts and across prompts",
                says="Mean cosine of the phase difference of two heads of a layer, beside that of heads from "
                "different prompts at the same tokens.",
                misleads="heads follow positions: that is in both lines.",
                variables=("consistency",),
                references=(
                    "consistency_null",
                    "consistency_random_weights",
                    "consistency_shuffled_tokens",
                ),
                select={"category": "all"},
                claim="consistency",
            ),
            ViewSpec(
                kind="lines",
                title="Metastability over depth",
                says="How much the order parameter changes along the tokens, beside independent heads.",
                misleads="the record is short: it then holds few independent values, and changes less.",
                variables=("metastability",),
                references=("metastability_independent",),
                select={"category": "all"},
            ),
            ViewSpec(
                kind="lines",
                title="How phases pass from layer to layer",
                says="How many tokens the mean phase of a layer lies behind that of the layer before.",
                misleads="heads have no phase in common: the mean of directions that cancel points anywhere.",
                variables=("delay",),
                select={"category": "all"},
            ),
            ViewSpec(
                kind="token_values",
                title="Order of the heads on the text",
                says="The order parameter of one layer at each token of the first prompt.",
                misleads="single tokens are read: the filter spreads each over some "
                f"{2 * self.period} tokens, backwards too.",
                variables=("order_specimen",),
                select={"layer": layer},
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="token_values",
                title="Phases of some heads on the text",
                says="The phase of the heads of that layer that follow its mean most closely; 0 is a crest.",
                misleads="a head is next to silent in the band: it has a phase all the same.",
                variables=("phase_specimen",),
                series="shown_head",
                colours="cyclic",
            ),
            ViewSpec(
                kind="token_values",
                title="Amplitudes of some heads on the text",
                says="The amplitude of the same heads in the band, at each token.",
                misleads="heads of different scale are compared.",
                variables=("amplitude_specimen",),
                series="shown_head",
            ),
            ViewSpec(
                kind="oscilloscope",
                title="Two heads along the text",
                says="The band-passed series of the two heads that follow their layer's mean most closely, "
                "and one against the other: a line if they crest together, a circle a quarter cycle apart.",
                misleads="they were chosen for it, in this prompt; two noises agree for a few cycles.",
                variables=("trace_specimen",),
                over="token",
                series="pair_member",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers whose heads agree most beyond what other prompts give."""
        low = result.data.consistency_effect_low.sel(category="all")
        low = low[low.values > 0]
        low = low[np.argsort(-low.values, kind="stable")[:k]]
        return [
            Target(
                site="attn_out",
                layer=int(value.layer),
                score=float(value),
                reason="agreement of phases above that across prompts (lower 95 % bound)",
            )
            for value in low
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer whose heads swing together in the band, at times of each prompt's own, and noise."""
        planted, waves = self._noise(rng, 12)
        planted[0] += waves[..., None, None] * rng.normal(2, 0.3, size=(4, 1))

        def expect(data: xr.Dataset) -> None:
            low = data.consistency_effect_low.sel(category="all")
            assert float(low.sel(layer=0)) > self.minimum_effect, "heads that swing together were not found"
            assert float(low.sel(layer=1)) < self.minimum_effect, "independent heads were found to agree"
            order = data.order_parameter.sel(category="all")
            assert float(order[0]) > 0.8 > 0.6 > float(order[1]), "the order parameter is not that planted"

        return self._planted(planted, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads that swing together because they follow the position in every prompt."""
        planted, waves = self._noise(rng, 12)
        planted[0] += waves[:1, ..., None, None] * rng.normal(2, 0.3, size=(4, 1))

        def expect(data: xr.Dataset) -> None:
            low = data.consistency_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), (
                "heads that share positions were found to agree by more than that"
            )

        return self._planted(planted, expect)

    def _noise(self, rng: np.random.Generator, n_prompts: int) -> tuple[Array, Array]:
        """Return what heads of two layers write, and a wave inside the band for each prompt."""
        n = self._lengths(n_prompts)[-1]
        noise = np.full((2, n_prompts, n, 4, 4), 6.0) + rng.normal(size=(2, n_prompts, n, 4, 4))
        turns = np.arange(n) * 0.75 / self.period + rng.uniform(0, 1, (n_prompts, 1))
        return noise, np.cos(2 * np.pi * turns + rng.normal(0, 0.2, (n_prompts, n)).cumsum(1))

    def _lengths(self, n_prompts: int) -> list[int]:
        return [self.min_tokens + 3 * self.edge + index for index in range(n_prompts)]

    def _planted(self, values: Array, expect: Any) -> Planted:
        facts = attention_facts(n_layers=2, n_heads=4)
        layers = [{"z": torch.as_tensor(each, dtype=torch.float32)} for each in values]
        return Planted(layers, torch.tensor(self._lengths(values.shape[1])), facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads alike by position alone, and layers driven together: `worlds.writing_heads`."""
        return worlds.writing_heads(rng, world, strength, "consistency")


def _specimen(waves: Tensor, where: Where) -> dict[str, Tensor]:
    """Return the waves of the first prompt of the run, ``[layer, head, token]``, and how many tokens."""
    if 0 not in where.prompts:
        return {"specimen": waves.new_zeros(*waves.shape[1:3], 1), "specimen_length": torch.zeros(1)}
    row = where.prompts.index(0)
    length = int(where.lengths[row]) - 1
    return {"specimen": waves[row, ..., :length], "specimen_length": torch.tensor([float(length)])}
