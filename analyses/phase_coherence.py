"""How concentrated each head's attention is on the circle of positions, and where it points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention
from resonance_lens.dsp.circular import SMALLEST_RESULTANT
from resonance_lens.dsp.surrogates import ChosenRows, key_orders, surrogate_resultants
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts, peaked_rows, permuted_rows
from resonance_lens.prompts import EVERYTHING
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, Surrogates, estimates_of, of_prompts
from resonance_lens.stats.streams import stream


@register
@dataclass(frozen=True, kw_only=True)
class PhaseCoherence(Analysis):
    """How concentrated each head's attention is on the circle of positions, and where it points.

    The keys that a query sees are laid out on a circle, the oldest at angle 0, and the query's
    attention weights are added up as phasors: ``z_i = sum_j A_ij exp(i a_ij)`` with
    ``a_ij = 2 pi j / (i + 1)``. The coherence ``R = abs(z)`` is 1 when all attention is on one key and
    near 0 when it is spread evenly. It is a **proxy**: a position is given an angle by us; nothing
    in the model turns.

    Notes
    -----
    Raw coherence rises with depth in most models because attention parks on the first token. Read
    ``first_position="drop"``, where that key is taken out, the weights are renormalised and the
    circle closes over the keys that remain. A uniform row has coherence too at early queries:
    ``coherence_uniform`` is that level over the same windows. The full circle puts the newest key
    beside the oldest; the half circle (``a_ij = pi j / (i + 1)``) does not, and its uniform row has
    R = 2/pi.
    """

    name: ClassVar[str] = "phase_coherence"
    title: ClassVar[str] = "Concentration of attention on the circle of positions"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "proxy"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_causal", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="coherence_squared",
            long_name="mean square of R",
            units="1",
            null="permuted_keys",
            against="the same weights on permuted keys, the first key fixed",
            dims=("first_position", "layer", "head"),
            family=("layer", "head"),
            places="heads",
            minimum_effect=0.05,
            reading=(("first_position", "drop"),),
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "coherence"
    source: ClassVar[str] = (
        "Resultant length of directional statistics (Mardia and Jupp 2000), weighted by attention; "
        "null mean in closed form over permutations of the keys with the first key fixed."
    )
    undefined: ClassVar[tuple[str, ...]] = (
        "coherence",
        "squared",
        "null",
        "real",
        "imag",
        "centroid",
        "uniform",
    )

    circle: str = parameter(
        "full",
        choices=("full", "half"),
        help="lay the keys out on the whole circle or on half of it",
    )
    min_keys: int = parameter(
        8, minimum=4, help="leave out queries that see fewer keys: their windows are too short"
    )

    surrogates: int = parameter(
        0,
        minimum=0,
        maximum=9_999,
        help="test against so many key orders drawn in each prompt, at up to 64 queries, instead of over "
        "prompts: for fewer than six prompts",
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the sums over keys of each attention row."""
        pattern = signals["pattern"]
        rows = attention.Rows.read(
            pattern,
            causal=where.facts.causal,
            sliding=where.facts.sliding_windows[where.layer or 0],
            circle=self.circle,  # type: ignore[arg-type]
        )
        carry = rows.carry(squares=attention.row_squares(pattern, rows.window))
        if self.surrogates:
            seen = rows.window
            counted = rows.real & (seen.size >= self.min_keys)
            carry["chosen"] = ChosenRows.read(pattern, seen, counted)
        return Features.of(where.prompts, carry=carry)

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return the mean over queries of R, R^2, its null mean, the phasor and its place."""
        carried = [dict(features.carry) for features in layers]
        drawn = self._draw([carry.pop("chosen") for carry in carried], where) if self.surrogates else {}
        rows = attention.Rows.fold(carried)
        sums, seen, squares = rows.moments, rows.window, rows.extra["squares"]
        laid = attention.angles(seen, self.circle)  # type: ignore[arg-type]
        counts = (rows.real & (seen.size >= self.min_keys))[:, None]  # [batch, 1, query]

        free = sums.free.clamp_min(attention.SMALLEST_FREE_WEIGHT)
        enough = counts & (sums.free >= attention.SMALLEST_FREE_WEIGHT)
        z = torch.stack([sums.phasor, sums.free_phasor / free], dim=1)  # [batch, 2, head, query]
        valid = torch.stack([counts.expand_as(enough), enough], dim=1)
        null = torch.stack(
            [
                attention.permuted_square(sums.first, sums.free, squares, laid.first, laid.rest, seen.free),
                attention.permuted_square(
                    torch.zeros_like(free),
                    torch.ones_like(free),
                    squares / free**2,
                    torch.zeros_like(laid.first),
                    laid.free_uniform,
                    seen.free,
                ),
            ],
            dim=1,
        )
        uniform = torch.stack(
            [laid.uniform.abs() / seen.size, laid.free_uniform.abs() / seen.free.clamp_min(1)],
            dim=1,
        )  # [row, 2, query]
        resultant = z.abs()
        pointing = valid & (resultant > SMALLEST_RESULTANT)

        def mean(values: torch.Tensor, counted: torch.Tensor = valid) -> torch.Tensor:
            return attention.unfold(attention.mean_over_queries(values, counted), len(layers))

        return Features.of(
            where.prompts,
            rows={
                "coherence": mean(resultant),  # [prompt, layer, 2, head]
                "squared": mean(resultant**2),
                "null": mean(null),
                "real": mean(z.real),
                "imag": mean(z.imag),
                "centroid": mean(self._centroid(z, seen), pointing),
                # Over the queries that each head's own mean is over.
                "uniform": mean(uniform[:, :, None].expand_as(valid)),
            },
            sums=drawn,
        )

    def _draw(self, chosen: Sequence[ChosenRows], where: Where) -> dict[str, torch.Tensor]:
        """Return R^2 under each order of the keys, the true one first, summed over prompts, and how many."""
        generators = [stream(where.seed, "permuted keys", prompt) for prompt in where.prompts]
        orders = key_orders(generators, where.lengths, self.surrogates)
        found = surrogate_resultants(chosen, orders, self.circle)  # type: ignore[arg-type]
        return {"drawn": found.squares, "drawn_prompts": found.prompts}

    def _centroid(self, z: torch.Tensor, seen: attention.Window) -> torch.Tensor:
        """Return where each phasor points, as a distance back from the query in tokens."""
        sizes = torch.stack([seen.size, seen.free.clamp_min(1)], dim=1)[:, :, None]  # [row, 2, 1, query]
        turn = 2 * np.pi if self.circle == "full" else np.pi
        back = sizes * (1 - z.angle() / turn) - 1
        # Half a token of slack on both sides: the newest key is at 0, the oldest at size - 1.
        return (back + 0.5).remainder(sizes) - 0.5

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return coherence beside that of uniform attention, and where the mean phasor points."""
        rows = {name: np.moveaxis(v, 2, 1) for name, v in seen.plain.rows.items()}
        dims = ("first_position", "layer", "head")
        out = Labelled(seen, self.name)
        out.add_mean("coherence", dims, rows["coherence"], "phase coherence R", "1", by_prompt=True)
        out.add_mean(
            "coherence_uniform", dims, rows["uniform"], "R of uniform attention", "1", interval=False
        )
        phasor = np.stack([_mean(rows["real"] + 1j * rows["imag"], m) for m in seen.groups.values()])
        angle = np.where(abs(phasor) > SMALLEST_RESULTANT, np.mod(np.angle(phasor), 2 * np.pi), np.nan)
        out.add(
            "angle", ("category", *dims), angle,
            "direction of the mean phasor (0 is the oldest key)", "rad",
        )  # fmt: skip
        out.add_mean("centroid", dims, rows["centroid"], "distance back that the phasor points to", "tokens")
        return out.dataset()

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are prompts, or the orders that are drawn."""
        return ("draw", self.surrogates) if self.surrogates else ("prompt", n_prompts)

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the mean square of R of each prompt beside its mean over permutations of the keys.

        With ``surrogates`` the test is against the orders drawn, over the queries that were read for it.
        """
        value, null = (np.moveaxis(seen.plain.rows[name], 2, 1) for name in ("squared", "null"))
        samples = of_prompts(value, null, seen.groups)
        if self.surrogates:
            sums = seen.plain.sums
            with np.errstate(invalid="ignore"):
                means = np.moveaxis(sums["drawn"] / sums["drawn_prompts"], 2, 1)  # [draw, 2, layer, head]
            # Drawn once for all prompts: a category has the estimates, and no test.
            samples = {
                category: Surrogates(
                    means[0], means[1:] if category == EVERYTHING else means[:0], estimates_of(sample)
                )
                for category, sample in samples.items()
            }
        return {"coherence_squared": samples}

    def summary(self, result: Result) -> str:
        """Return how mean coherence changes with depth, with the first position and without it."""
        data = result.data.sel(category="all", first_position="drop")
        kept = result.data.coherence.sel(category="all", first_position="keep").mean("head")
        dropped = data.coherence.mean("head")
        third = max(1, kept.sizes["layer"] // 3)  # single layers differ too much to stand for depth
        kept, dropped = ([float(c[:third].mean()), float(c[-third:].mean())] for c in (kept, dropped))
        return (
            f"From the first third of the layers to the last, mean coherence goes from {kept[0]:.2f} to "
            f"{kept[1]:.2f} with the first position and from {dropped[0]:.2f} to {dropped[1]:.2f} without it."
        )

    def views(self, result: Result) -> list[ViewSpec]:
        """Return coherence over depth beside uniform attention, the map of effects, and patterns."""
        best = tuple((t.layer, t.head) for t in self.targets(result, 6) if t.head is not None)
        return [
            ViewSpec(
                kind="lines",
                title="Coherence over depth, with and without the first position",
                says="Mean over heads of the coherence R at each layer, as the model has it and with the "
                "first position taken out, beside uniform attention over the same windows, the same "
                "architecture with random weights, and the model on shuffled text.",
                misleads="the left panel is read alone: the first token collects attention, and a head that "
                "looks at one key is coherent whatever it does with the others.",
                variables=("coherence",),
                references=("coherence_uniform", "coherence_random_weights", "coherence_shuffled_tokens"),
                select={"category": "all"},
                panels="first_position",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Concentration beside the permuted-key null",
                says="Mean over heads of R^2, first position left out, beside that of the same weights on "
                "permuted keys. What lies between the two is a preference for neighbouring keys.",
                misleads="heads above and below the null cancel in a mean over heads: see the map.",
                variables=("coherence_squared",),
                references=(
                    "coherence_squared_null",
                    "coherence_squared_random_weights",
                    "coherence_squared_shuffled_tokens",
                ),
                select={"category": "all", "first_position": "drop"},
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Heads above the permuted-key null",
                says="Mean R^2 of each head minus the mean R^2 of the same weights on permuted keys, first "
                "position left out. Above zero: attention is on neighbouring keys.",
                misleads="a head that looks one token back is concentrated in this sense for a trivial "
                "reason; compare its centroid.",
                variables=("coherence_squared_effect",),
                select={"category": "all", "first_position": "drop"},
                claim="coherence_squared",
                colours="diverging",
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Direction of the mean phasor",
                says="Where on the circle of positions each head points: 0 is the oldest key, going up "
                "towards the newest.",
                misleads="the newest and the oldest key are neighbours on the full circle.",
                variables=("angle",),
                select={"category": "all", "first_position": "drop"},
                colours="cyclic",
                limits=(0.0, 2 * float(np.pi)),
            ),
            ViewSpec(
                kind="attention_heads",
                title="The heads farthest above the null",
                says="Attention of each query (row) to each key (column) on example prompts.",
                misleads="one prompt is an illustration, not evidence.",
                heads=best,
            ),
            ViewSpec(
                kind="colored_tokens",
                title="What these heads attend to",
                says="How much attention each token receives, on average over the queries that see it.",
                misleads="early tokens are seen by more queries, and the first one collects what heads "
                "have no use for.",
                heads=best,
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads that exceed the null most surely, by the lower bound of the effect."""
        low = result.data.coherence_squared_effect_low.sel(category="all", first_position="drop")
        return [
            Target(
                site="pattern",
                layer=layer,
                head=head,
                score=score,
                reason="mean R^2 above its permuted-key null (lower 95 % bound)",
            )
            for layer, head, score in rank_heads(low, k)
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return heads that look at one place of the window, beside heads that look everywhere."""
        facts = attention_facts(n_layers=2, n_heads=3)
        lengths = torch.tensor([24, 30, 36, 28, 40, 33])
        narrow = peaked_rows(rng, facts, lengths, width=0.05, place=0.6)
        broad = permuted_rows(rng, facts, lengths)

        def expect(data: xr.Dataset) -> None:
            effect = data.coherence_squared_effect_low.sel(category="all", first_position="drop")
            assert float(effect.sel(layer=0).min()) > self.minimum_effect, "the peaked heads were not found"
            assert float(effect.sel(layer=1).max()) < self.minimum_effect, "a head without a peak was found"
            coherence = data.coherence.sel(category="all", first_position="drop", layer=0)
            assert float(coherence.min()) > 0.8, "the peaked heads are not coherent"

        return Planted([{"pattern": narrow}, {"pattern": broad}], lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads whose weights stand on keys in random order."""
        facts = attention_facts(n_layers=2, n_heads=3)
        lengths = torch.tensor([24, 30, 36, 28, 40, 33])
        layers = [{"pattern": permuted_rows(rng, facts, lengths)} for _ in range(2)]

        def expect(data: xr.Dataset) -> None:
            low = data.coherence_squared_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), "a head above its null was found in noise"

        return Planted(layers, lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads whose keys can be exchanged, some with a peak: see `worlds.heads`."""
        return worlds.heads(rng, world, strength, "coherence_squared")


def _mean(values: NDArray[Any], members: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the mean over some prompts, those left out whose value is not-a-number."""
    known = ~np.isnan(values[members])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values[members], 0).sum(0) / known.sum(0))
