"""Frequencies and scales of a head's attention over token positions, beside what makes them without wavelets.

Longer than most, because it has many measures, each with what it would be for no reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention, sequences, wavelets
from resonance_lens.dsp.records import Records
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts, peaked_rows, permuted_rows
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.samples import AnySample, of_prompts
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]

SIGNALS = ("query_mean", "last_row", "row_mean")
"""Attention averaged over queries; of the last query; and the measures of single queries, averaged."""

WINDOWS = ("none", "hann")
BANDS = ("low", "mid", "high")
QUERIES_AT_ONCE = 128
"""Rows added up together, with the keys that the last of them sees."""

SMALLEST_SPREAD = 0.01
"""Nats; entropies whose standard deviation over heads is less are alike, and have no correlation."""


@register
@dataclass(frozen=True, kw_only=True)
class AttentionWavelets(Analysis):
    """Which frequencies and scales a head's attention has as a function of token position.

    A head's attention over the keys of a prompt is taken as a signal along positions, in one of three ways
    (``signal``): ``query_mean``, the mean of its rows over all queries, by absolute position of the key;
    ``last_row``, the last query's attention; and, with ``rows`` above 0, ``row_mean``, where single rows are
    measured and the measures averaged. Of each signal: the shares of its power in three bands of frequency,
    its selectivity, entropies and spreads, and the energy and entropy of its wavelet scales (db2). It is
    **measured**: positions of tokens have an order.

    Notes
    -----
    Nearly all of it is what any sharp row has. Attention is not negative, so its mean alone (``dc_share``)
    puts power in the low band, by its sharpness and whatever its order; uniform causal attention averaged
    over queries falls off with position, which is low frequency too (``share_uniform``). The correlation of
    positional and spectral entropy is strongly negative for the same weights on permuted keys
    (``correlation_null``), and is no evidence of an uncertainty principle; ``spread_product`` and its bound
    are what such a principle is about. The symmetric Hann window of the published figures is zero at the
    first position: with ``window="hann"`` a pure sink and uniform attention look alike. What is claimed
    with a p is claimed of the one thing that depends on order: ``low_share``, the last row's power beside
    its mean.
    """

    name: ClassVar[str] = "attention_wavelets"
    title: ClassVar[str] = "Frequencies and wavelet scales of attention over positions"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = (
        "uniform_causal",
        "random_heads",
        "random_weights",
        "shuffled_tokens",
    )
    nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="low_share",
            long_name="share of the low band in the last row's power beside its mean",
            units="1",
            null="permuted_keys",
            against="the same weights on permuted keys, the first key fixed",
            dims=("first_position", "layer", "head"),
            family=("layer", "head"),
            places="heads",
            minimum_effect=0.05,
            reading=(("first_position", "drop"),),
            undefined="the row is even, leaves nothing for other keys, or is shorter than 9 keys",
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "low_share"
    source: ClassVar[str] = (
        "Bands, selectivity, entropies, scale sensitivity: Ruscio, Nanni and Silvestri (2025, "
        "arXiv 2410.18067v4). Mean under permutations in closed form by Parseval's theorem; discrete "
        "uncertainty bound by partial integration (Ishii and Furukawa 1986)."
    )
    undefined: ClassVar[tuple[str, ...]] = (
        "share",
        "dc_share",
        "selectivity",
        "spectral_entropy",
        "centroid",
        "low_share",
        "low_share_null",
        "positional_entropy",
        "position_spread",
        "bandwidth",
        "spread_product",
        "spread_product_bound",
        "wavelet_entropy",
        "scale_sensitivity",
        "scale_centroid",
        "scale_energy",
        "scale_entropy",
        "approximation",
        "correlation",
        "correlation_null",
        "layer_correlation",
        "layer_correlation_null",
        "uniform",
    )

    wavelet: str = parameter("db2", choices=("haar", "db2", "db4"), help="of the discrete wavelet transform")
    boundary: str = parameter(
        "symmetric",
        choices=("symmetric", "periodization", "zero"),
        help="how a record goes on beyond its edges in the wavelet transform",
    )
    step: int = parameter(
        2, minimum=2, maximum=4, help="scale sensitivity compares with one position in so many"
    )
    zero_padding: int = parameter(
        1,
        minimum=1,
        maximum=8,
        help="lengthen each record so many times with zeros before its spectrum, as published figures may be",
    )
    rows: int = parameter(
        0,
        minimum=0,
        maximum=64,
        help="measure so many queries of the later half of each prompt one by one as well (row_mean)",
    )

    @property
    def min_tokens(self) -> int:
        """Beside the first, a record has ``step`` times the positions of one level of wavelets."""
        needed = self._least + 1
        return 2 * needed if self.rows else needed

    @property
    def _least(self) -> int:
        """Positions of the shortest record that is measured."""
        return wavelets.shortest_record(1, self.wavelet) * self.step

    def _shortest(self, where: Where) -> int:
        """Return the positions of the shortest record of the run that is measured."""
        shortest = (where.shortest + 1) // 2 if self.rows else where.shortest
        sliding = [window for window in where.facts.sliding_windows if window is not None]
        return max(self._least, min([shortest, *(w for w in sliding if w > self._least)]) - 1)

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the attention of each head over positions: averaged, of the last query, of some queries."""
        pattern = signals["pattern"]
        seen = attention.window(
            pattern,
            causal=where.facts.causal,
            sliding=where.facts.sliding_windows[where.layer or 0],
        )
        lengths = pattern.prompt_lengths().to(pattern.values.device)
        queries = _chosen(lengths, self.rows)  # [batch, 1 + rows]
        at = torch.arange(len(lengths), device=queries.device)[:, None]
        # An index on either side of a slice comes first: [batch, row, head, key].
        rows = pattern.values[at, :, queries]
        mean = _column_means(pattern, seen, lengths)[:, None]
        start, size = (each.expand(len(lengths), -1)[at, queries] for each in (seen.start, seen.size))
        return Features.of(
            where.prompts,
            carry={
                "values": torch.cat([mean, rows], dim=1),  # [batch, signal, head, key]
                "start": torch.cat([torch.zeros_like(start[:, :1]), start], dim=1),  # [batch, signal]
                "size": torch.cat([lengths[:, None], size], dim=1),
                "window": seen,
            },
        )

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return the measures of every head and signal, of uniform attention, and correlations over heads."""
        carried = [features.carry for features in layers]
        start, size = (torch.stack([c[n] for c in carried], dim=2) for n in ("start", "size"))
        values = torch.stack([c["values"] for c in carried], dim=2)  # [batch, signal, layer, head, key]
        measure = _Measure(self.wavelet, self.boundary, self.step, self.zero_padding, self._shortest(where))
        table = _Table.of(values, start, size)
        rows = measure.of(table, self._least)
        # Layers that see the same keys have the same uniform attention.
        windows = [where.facts.sliding_windows[layer] for layer in where.layers]
        kinds = [windows.index(window) for window in dict.fromkeys(windows)]
        alike = [kinds.index(windows.index(window)) for window in windows]
        lengths = size[:, 0, 0]
        even = [
            _even(carried[k]["window"], lengths, start[:, 1:, k], size[:, 1:, k], values.shape[-1])
            for k in kinds
        ]
        uniform = _Table.of(torch.stack(even, dim=2)[..., None, :], start[:, :, kinds], size[:, :, kinds])
        level = measure.shares(uniform, self._least)[..., alike, :]
        rows["uniform"] = torch.where(rows["share"].isnan(), torch.nan, level)
        permuted = measure.entropies(table.permuted(where), self._least)
        rows |= _correlations(rows["positional_entropy"], rows["spectral_entropy"], permuted)
        found = {name: _over_rows(each) for name, each in rows.items()}
        # Of the last row alone: the other signals cannot be permuted.
        found |= {name: found[name][:, 1] for name in ("low_share", "low_share_null")}
        return Features.of(where.prompts, rows=found)

    # ------------------------------------------------------------------------------------ results

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return every measure, those of uniform attention, and how the heads of a layer tile the scales."""
        rows = seen.plain.rows
        n_levels = rows["scale_energy"].shape[3]
        about = {"long_name": "shortest period of the level", "units": "tokens"}
        scale = xr.Variable("scale", 2.0 ** np.arange(1, n_levels + 1), about)
        coords: dict[str, Any] = {
            "signal": list(SIGNALS[: rows["share"].shape[1]]),
            "window": list(WINDOWS),
            "band": list(BANDS),
            "scale": scale,
        }
        out = Labelled(seen, self.name, coords)
        plain, heads = ("signal", "first_position"), ("layer", "head")
        windowed = ("signal", "window", "first_position")
        empty = "; not-a-number: the head leaves nothing for these keys"
        even = "; not-a-number: the signal is even"

        def add(name: str, dims: tuple[str, ...], what: str, unit: str, **how: bool) -> None:
            out.add_mean(name, dims, rows[name], what, unit, **how)

        share = "share of the band in the power" + empty
        add("share", (*windowed, "band", *heads), share, "1", by_prompt=True)
        what = "share of the band in the power of uniform attention" + empty
        out.add_mean("share_uniform", (*windowed, "band", *heads), rows["uniform"], what, "1", interval=False)
        add("dc_share", (*windowed, *heads), "share of the mean in the power" + empty, "1", interval=False)
        what = "power of the strongest frequency over that of all others" + empty
        add("selectivity", (*windowed, *heads), what, "1", interval=False)
        what = "spectral entropy" + empty
        add("spectral_entropy", (*windowed, *heads), what, "nat", by_prompt=True)
        what = "mean frequency of the power beside the mean" + even
        add("centroid", (*windowed, *heads), what, "cycles per token", interval=False)
        what = "positional entropy" + empty
        add("positional_entropy", (*plain, *heads), what, "nat", interval=False)
        what = "standard deviation of position, weighted with squared attention" + empty
        add("position_spread", (*plain, *heads), what, "tokens", interval=False)
        what = "root mean square frequency of the spectrum" + empty
        add("bandwidth", (*plain, *heads), what, "cycles per token", interval=False)
        what = "position spread times bandwidth" + empty
        add("spread_product", (*plain, *heads), what, "1", by_prompt=True)
        what = "smallest product of spreads of a sequence with this power at the Nyquist frequency" + empty
        add("spread_product_bound", (*plain, *heads), what, "1", interval=False)
        self._add_scales(out, rows, plain, heads)
        self._add_correlations(out, rows, windowed)
        self._add_tiling(out, seen, plain)
        return out.dataset()

    def _add_scales(
        self, out: Labelled, rows: Mapping[str, Floats], plain: tuple[str, ...], heads: tuple[str, ...]
    ) -> None:
        """Add what the wavelet transform gives."""
        empty = "; not-a-number: the head leaves nothing for these keys"
        even = "; not-a-number: the scale holds nothing"
        energy = rows["scale_energy"]
        what = "share of the scale in the wavelet energy" + empty
        out.add_mean("scale_energy", (*plain, "scale", *heads), energy, what, "1", by_prompt=True)
        what = "mean over heads of the share of the scale in the wavelet energy" + empty
        mean = np.swapaxes(_mean_over(energy, -1), -1, -2)
        out.add_mean("layer_energy", (*plain, "layer", "scale"), mean, what, "1", interval=False)
        what = "share of the approximation in the wavelet energy" + empty
        out.add_mean("approximation", (*plain, *heads), rows["approximation"], what, "1", interval=False)
        what = "wavelet entropy of the scale" + even
        out.add_mean(
            "scale_entropy", (*plain, "scale", *heads), rows["scale_entropy"], what, "nat", interval=False
        )
        what = "wavelet entropy over all coefficients" + empty
        out.add_mean(
            "wavelet_entropy", (*plain, *heads), rows["wavelet_entropy"], what, "nat", interval=False
        )
        what = "mean scale of the details" + even
        out.add_mean("scale_centroid", (*plain, *heads), rows["scale_centroid"], what, "octaves")
        what = f"scale sensitivity, against every {self.step} positions" + empty
        out.add_mean("scale_sensitivity", (*plain, *heads), rows["scale_sensitivity"], what, "1")

    def _add_correlations(self, out: Labelled, rows: Mapping[str, Floats], windowed: tuple[str, ...]) -> None:
        """Add the correlation of both entropies over heads, beside the same with permuted keys."""
        few = "; not-a-number: fewer than three heads, or all alike"
        for name, dims in (("correlation", windowed), ("layer_correlation", (*windowed, "layer"))):
            over = "all heads" if name == "correlation" else "the heads of a layer"
            what = f"correlation of positional and spectral entropy over {over}"
            out.add_mean(name, dims, rows[name], what + few, "1", by_prompt=True)
            null = f"{what}, the keys of each prompt in one random order, the first fixed{few}"
            out.add_mean(f"{name}_null", dims, rows[f"{name}_null"], null, "1", interval=False)

    def _add_tiling(self, out: Labelled, seen: Accumulated, plain: tuple[str, ...]) -> None:
        """Add how the heads of a layer divide the scales among them, and as many heads of any layers."""
        found: dict[str, list[Floats]] = {}
        for members in seen.groups.values():
            for name, values in tiling(_mean_over(seen.plain.rows["scale_energy"][members], 0)).items():
                found.setdefault(name, []).append(values)
        words = {
            "coverage": ("share of scales on which some head of the layer is strongest", "1"),
            "overlap": ("overlap of the scales of two heads of the layer; not-a-number: one head", "1"),
            "centroid_spread": (
                "standard deviation of mean scales over the heads of the layer; not-a-number: one head",
                "octaves",
            ),
        }
        for name, (what, unit) in words.items():
            said, _, reason = what.partition(";")
            expected = f"{said}, as many heads of any layers" + (f";{reason}" if reason else "")
            out.add(name, ("category", *plain, "layer"), np.stack(found[name]), what, unit)
            drawn = np.stack(found[f"{name}_random_heads"])
            out.add(f"{name}_random_heads", ("category", *plain, "layer"), drawn, expected, unit)

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the low share of each prompt's last row beside its mean over permutations of the keys."""
        rows = seen.plain.rows
        return {"low_share": of_prompts(rows["low_share"], rows["low_share_null"], seen.groups)}

    def summary(self, result: Result) -> str:
        """Return the shares of the bands beside uniform attention, and the correlation beside its null."""
        data = result.data.sel(category="all", signal="query_mean", window="none")
        kept = [float(data.share.sel(first_position=f, band="low").mean()) for f in ("keep", "drop")]
        level = float(data.share_uniform.sel(first_position="drop", band="low").mean())
        text = (
            f"Averaged over heads, the low band holds {kept[0]:.0%} of the power of query-averaged attention "
            f"with the first position and {kept[1]:.0%} without it; uniform attention would give it "
            f"{level:.0%}."
        )
        rho, null = (float(data[n].sel(first_position="drop")) for n in ("correlation", "correlation_null"))
        if math.isfinite(rho) and math.isfinite(null):
            text += (
                f" Positional and spectral entropy correlate at {rho:.2f} over heads, and at {null:.2f} when "
                "the keys are permuted."
            )
        return text

    def views(self, result: Result) -> list[ViewSpec]:
        """Return bands and the claim over depth, maps and images of scales, and correlations beside nulls."""
        best = tuple((t.layer, t.head) for t in self.targets(result, 6) if t.head is not None)
        averaged = {"category": "all", "signal": "query_mean", "window": "none"}
        views = [
            ViewSpec(
                kind="lines",
                title="Power in the low band over depth",
                says="Mean over heads of the share of the low band (below a quarter of the Nyquist "
                "frequency) in the power of query-averaged attention, beside uniform attention over the "
                "same windows, the random-weight twin and shuffled text.",
                misleads="the mean counts as low: a row that is even, or a head that is like uniform "
                "attention, is at the top whatever it does. A sink, which is one key, is spread over all "
                "frequencies.",
                variables=("share",),
                references=("share_uniform", "share_random_weights", "share_shuffled_tokens"),
                select={**averaged, "band": "low"},
                panels="first_position",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Three bands over depth",
                says="Mean over heads of the share of each band, first position left out.",
                misleads="compared with published shares: these depend on the window, on the first position "
                "and on whether the mean counts.",
                variables=("share",),
                select={**averaged, "first_position": "drop"},
                series="band",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Neighbouring keys alike, beside the permuted-key null",
                says="Mean over heads of the share of the low band in the last row's power beside its mean, "
                "and what the same weights give in any order of the keys.",
                misleads="one query speaks for each prompt. A peak a few keys wide is enough.",
                variables=("low_share",),
                references=("low_share_null", "low_share_random_weights", "low_share_shuffled_tokens"),
                select={"category": "all", "first_position": "drop"},
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Heads smoother, or rougher, than their permuted keys",
                says="Low share of each head's last row minus its mean over permutations of the keys, first "
                "position left out. Above zero neighbouring keys get like weights, below zero unlike ones.",
                misleads="text that alternates makes rough rows of heads that look for content.",
                variables=("low_share_effect",),
                select={"category": "all", "first_position": "drop"},
                claim="low_share",
                colours="diverging",
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Mean wavelet scale of each head",
                says="Centroid of the wavelet energy over scales, in octaves: 1 is periods of 2 to 4 tokens.",
                misleads="the approximation, which is slower than the slowest scale, does not count in it.",
                variables=("scale_centroid",),
                select={"category": "all", "signal": "query_mean", "first_position": "drop"},
            ),
            ViewSpec(
                kind="lines",
                title="Positional against spectral entropy: their correlation, and its null",
                says="Correlation over the heads of each layer, beside that of the same weights on permuted "
                "keys.",
                misleads="read without the null: weights that are sharp in position are broad in frequency.",
                variables=("layer_correlation",),
                references=("layer_correlation_null", "layer_correlation_random_weights"),
                select={**averaged, "first_position": "drop"},
                limits=(-1.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Do the heads of a layer share the scales out?",
                says="Overlap of the scales of two heads of a layer, beside that of two heads of any layers: "
                "below it heads divide the scales among them.",
                misleads="scales of one octave are coarse, and few of them fit a short prompt.",
                variables=("overlap",),
                references=("overlap_random_heads",),
                select={"category": "all", "signal": "query_mean", "first_position": "drop"},
            ),
        ]
        if result.data.sizes["scale"] > 1 and result.data.sizes["layer"] > 1:
            views.append(
                ViewSpec(
                    kind="image",
                    title="Wavelet energy by layer and scale",
                    says="Mean over heads of the share of each scale in the wavelet energy.",
                    misleads="white noise has half of its energy in the finest scale and half of the rest in "
                    "the next.",
                    variables=("layer_energy",),
                    select={"category": "all", "signal": "query_mean"},
                    over="layer",
                    down="scale",
                    y_scale="log",
                    panels="first_position",
                )
            )
        if best:
            views.append(
                ViewSpec(
                    kind="attention_heads",
                    title="The heads smoothest beyond their null",
                    says="Attention of each query (row) to each key (column) on example prompts.",
                    misleads="one prompt is an illustration, not evidence.",
                    heads=best,
                )
            )
        return views

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads whose last row is most surely smoother than its weights in any order."""
        low = result.data.low_share_effect_low.sel(category="all", first_position="drop")
        reason = "low-frequency power above its permuted-key null (lower 95 % bound)"
        return [
            Target(site="pattern", layer=layer, head=head, score=score, reason=reason)
            for layer, head, score in rank_heads(low, k)
        ]

    # --------------------------------------------------------------------------------- known answers

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return heads with a broad peak, beside heads whose weights stand on keys in random order."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = self.min_tokens + torch.tensor([11, 17, 23, 15, 27, 20, 13, 19])
        layers = [
            {"pattern": peaked_rows(rng, facts, lengths, width=0.12, place=0.6)},
            {"pattern": permuted_rows(rng, facts, lengths)},
        ]

        def expect(data: xr.Dataset) -> None:
            effect = data.low_share_effect_low.sel(category="all", first_position="drop")
            assert float(effect.sel(layer=0).min()) > self.minimum_effect, "the smooth heads were not found"
            assert float(effect.sel(layer=1).max()) < self.minimum_effect, "a smooth head was found in noise"

        return Planted(layers, lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads whose weights stand on keys in random order."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = self.min_tokens + torch.tensor([11, 17, 23, 15, 27, 20, 13, 19])
        layers = [{"pattern": permuted_rows(rng, facts, lengths)} for _ in range(2)]

        def expect(data: xr.Dataset) -> None:
            low = data.low_share_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), "a smooth head was found in noise"

        return Planted(layers, lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads whose keys can be exchanged, some with a peak: see `worlds.heads`.

        The peak is half as high again as ``strength`` says: one row of each prompt has to show it.
        """
        return worlds.heads(rng, world, 1.5 * strength, "low_share")


# ----------------------------------------------------------------------------- signals of one layer


def _chosen(lengths: Tensor, n_rows: int) -> Tensor:
    """Return the queries measured one by one, ``[batch, 1 + rows]``: the last, then evenly spaced ones.

    Those begin in the middle of the prompt, so that every row has at least half of its keys.
    """
    last = lengths[:, None] - 1
    if not n_rows:
        return last
    first = lengths[:, None] // 2
    steps = torch.linspace(0, 1, n_rows, dtype=torch.float64, device=lengths.device)
    return torch.cat([last, (first + steps * (last - first)).round().long()], dim=1)


def _column_means(pattern: Signal, seen: attention.Window, lengths: Tensor) -> Tensor:
    """Return the mean of the rows of each head, ``[batch, head, key]``; rows of padding are zero."""

    def compute(signal: Signal) -> Tensor:
        values = signal.values
        n = values.shape[2]
        total = values.new_zeros(*values.shape[:2], values.shape[3])
        for begin in range(0, n, QUERIES_AT_ONCE):
            end = min(begin + QUERIES_AT_ONCE, n)
            keys = end if seen.causal else n
            total[..., :keys] += values[:, :, begin:end, :keys].sum(2)
        return total

    sums: Tensor = pattern.memo("column_sums", compute)
    return sums / lengths[:, None, None]


def _even(seen: attention.Window, lengths: Tensor, start: Tensor, size: Tensor, n_keys: int) -> Tensor:
    """Return the signals of uniform attention over the same windows, float64 ``[batch, signal, key]``."""
    query = torch.arange(seen.size.shape[1], device=lengths.device)
    real = query < lengths[:, None]  # [batch, query]
    weight = torch.where(real, 1 / seen.size.double(), 0.0)
    begin = seen.start.expand_as(weight)
    beyond = begin + seen.size.expand_as(weight)
    # Each query adds its weight from the start of its window to its end: sum up the steps.
    steps = weight.new_zeros(len(lengths), n_keys + 1)
    steps.scatter_add_(1, begin, weight).scatter_add_(1, beyond, -weight)
    mean = steps.cumsum(1)[:, :n_keys] / lengths[:, None]
    # What is left of the steps after the last one is rounding error.
    key = torch.arange(n_keys, device=lengths.device)
    mean = torch.where(key < lengths[:, None], mean, 0.0)[:, None]
    inside = (key >= start[..., None]) & (key < (start + size)[..., None])
    return torch.cat([mean, inside / size[..., None].double()], dim=1)


# ----------------------------------------------------------------------- records of all layers


@dataclass(frozen=True, eq=False)
class _Table:
    """The records of a batch, with the first position and without it.

    Attributes
    ----------
    values
        ``[batch, signal, 2, layer, head, position]``, cut to the keys that are seen, which come
        first.
    lengths
        Integers ``[batch, signal, 2, layer]``.
    """

    values: Tensor
    lengths: Tensor

    @staticmethod
    def of(values: Tensor, start: Tensor, size: Tensor) -> _Table:
        """Return the table of ``[batch, signal, layer, head, key]``, windows ``[batch, signal, layer]``."""
        if bool(start.any()):
            at = torch.arange(values.shape[-1], device=values.device) + start[..., None, None]
            values = values.gather(-1, at.clamp(max=values.shape[-1] - 1).expand_as(values))
        holds_first = start == 0
        shifted = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
        dropped = torch.where(holds_first[..., None, None], shifted, values)
        enough = dropped.sum(-1, keepdim=True) >= attention.SMALLEST_FREE_WEIGHT
        # A head that leaves nothing for other keys has no signal there; zeros stand for that.
        dropped = dropped * enough
        lengths = torch.stack([size, size - holds_first.long()], dim=2)
        return _Table(torch.stack([values, dropped], dim=2), lengths)

    def summary(self, function: Callable[[Tensor], Tensor], operation: str) -> Tensor:
        """Return ``[batch, signal, 2, layer, head, ...]``: a function of records of one length."""
        return Records.of(self.values, -1, operation, lengths=self.lengths[..., None]).summary(function)

    def permuted(self, where: Where) -> _Table:
        """Return the same weights with the keys of each prompt in one random order, the first fixed."""
        values = torch.zeros_like(self.values)
        for row, prompt in enumerate(where.prompts):
            drawn = stream(where.seed, "permuted keys", prompt).random(values.shape[-1])
            for first_position, fixed in enumerate((1, 0)):
                # [signal, layer] and [signal, layer, head, position]
                lengths, mine = self.lengths[row, :, first_position], self.values[row, :, first_position]
                for length in lengths.unique().tolist():
                    # One draw orders any number of keys; without the first they are the same keys.
                    order = fixed + np.argsort(drawn[1 : length + 1 - fixed])
                    at = torch.as_tensor([*range(fixed), *order.tolist()], device=values.device)
                    which = lengths == length
                    place = slice(None) if bool(which.all()) else which
                    some = mine[place].contiguous()  # of other tensors single places are slow to take
                    values[row, :, first_position, ..., :length][place] = some.index_select(-1, at)
        return _Table(values, self.lengths)


# ------------------------------------------------------------------------- measures of a record


@dataclass(frozen=True)
class _Measure:
    """What is measured of records of one length, ``[record, position]``, as columns of one table.

    Attributes
    ----------
    wavelet, boundary, step, zero_padding
        Parameters of the analysis.
    shortest
        Positions of the shortest record that is measured: it sets the number of levels of all.
    """

    wavelet: str
    boundary: str
    step: int
    zero_padding: int
    shortest: int

    @property
    def levels(self) -> tuple[int, int]:
        """Levels of the records, and of every ``step``-th position of them."""
        fewer = -(-self.shortest // self.step)
        return wavelets.max_level(self.shortest, self.wavelet), wavelets.max_level(fewer, self.wavelet)

    def of(self, table: _Table, least: int) -> dict[str, Tensor]:
        """Return every measure by name; not-a-number for records below ``least``.

        ``[batch, signal, 2, layer, head]`` with the first position kept and dropped; before that the window
        for what depends on it, after it the band or the scale for what has one.
        """
        n_levels = self.levels[0]
        sizes = [2, 7, 7, 1, 3, 3, n_levels, n_levels]

        def columns(rows: Tensor) -> Tensor:
            rows, n = rows.float(), rows.shape[-1]
            if n < least:
                order = sequences.low_share(sequences.power(rows)[0], n).double()
                return torch.cat([order, order.new_full((len(rows), sum(sizes[1:])), torch.nan)], dim=-1)
            squares = sequences.power(rows, WINDOWS, zero_padding=self.zero_padding)
            plain = squares[0] if self.zero_padding == 1 else sequences.power(rows)[0]
            parts = [
                sequences.low_share(plain, n),
                *sequences.spectral(squares, n * self.zero_padding),
                sequences.entropy(rows)[:, None],
                sequences.spreads(rows),
                self._scales(rows),
            ]
            return torch.cat([part.double() for part in parts], dim=-1)

        made = table.summary(columns, "a spectrum").permute(0, 1, 2, 5, 3, 4)
        order, none, hann, positional, spreads, waves, energy, entropy = made.split(sizes, dim=3)
        windowed = torch.stack([none, hann], dim=2)  # [batch, signal, window, 2, column, layer, head]
        return {
            "low_share": order[:, :, :, 0],
            "low_share_null": order[:, :, :, 1],
            "share": windowed[:, :, :, :, :3],
            **dict(zip(SPECTRAL, windowed[:, :, :, :, 3:].unbind(4), strict=True)),
            "positional_entropy": positional[:, :, :, 0],
            **dict(zip(SPREADS, spreads.unbind(3), strict=True)),
            "spread_product": spreads[:, :, :, 0] * spreads[:, :, :, 1],
            **dict(zip(WAVES, waves.unbind(3), strict=True)),
            "scale_centroid": _scale_centroid(energy),
            "scale_energy": energy,
            "scale_entropy": entropy,
        }

    def shares(self, table: _Table, least: int) -> Tensor:
        """Return the shares of the bands alone, ``[batch, signal, window, 2, band, layer, head]``."""

        def columns(rows: Tensor) -> Tensor:
            if rows.shape[-1] < least:
                return rows.new_full((len(rows), len(WINDOWS), len(BANDS)), torch.nan, dtype=torch.float32)
            squares = sequences.power(rows, WINDOWS, zero_padding=self.zero_padding)
            found = sequences.spectral(squares, rows.shape[-1] * self.zero_padding)
            return found.transpose(0, 1)[..., :3]

        return table.summary(columns, "a spectrum").permute(0, 1, 5, 2, 6, 3, 4)

    def entropies(self, table: _Table, least: int) -> Tensor:
        """Return the spectral entropies alone, ``[batch, signal, window, 2, layer, head]``."""

        def columns(rows: Tensor) -> Tensor:
            if rows.shape[-1] < least:
                return rows.new_full((len(rows), len(WINDOWS)), torch.nan, dtype=torch.float32)
            return sequences.entropy(sequences.power(rows, WINDOWS, zero_padding=self.zero_padding)).T

        return table.summary(columns, "a spectrum").permute(0, 1, 5, 2, 3, 4)

    def _scales(self, rows: Tensor) -> Tensor:
        """Return `WAVES`, then shares and entropies of the levels."""
        level, fewer = self.levels
        about: dict[str, Any] = {"wavelet": self.wavelet, "mode": self.boundary}
        made = wavelets.dwt(rows, -1, level=level, **about)
        thinned = wavelets.dwt(rows[:, :: self.step], -1, level=fewer, **about)
        shares = made.shares()
        # To as many levels: what is slower counts as one.
        whole = torch.cat([shares[:, :fewer], shares[:, fewer:].sum(-1, keepdim=True)], dim=-1)
        sensitivity = 1 - (whole * thinned.shares()).sqrt().sum(-1)
        columns = torch.stack([made.entropy(), sensitivity.clamp(min=0.0), shares[:, -1]], dim=-1)
        return torch.cat([columns, shares[:, :-1], made.scale_entropy()[:, :-1]], dim=-1)


SPECTRAL = ("dc_share", "selectivity", "spectral_entropy", "centroid")
SPREADS = ("position_spread", "bandwidth", "spread_product_bound")
WAVES = ("wavelet_entropy", "scale_sensitivity", "approximation")


def _scale_centroid(energy: Tensor) -> Tensor:
    """Return the mean number of the level, weighted with ``[..., level, layer, head]``."""
    level = torch.arange(1, energy.shape[3] + 1, dtype=energy.dtype, device=energy.device)
    details = energy.sum(3)
    mean = (energy * level[:, None, None]).sum(3) / details
    return torch.where(details > sequences.SMALLEST_POWER, mean, torch.nan)


# ------------------------------------------------------------------- over rows, heads and layers


def _over_rows(values: Tensor) -> Tensor:
    """Return ``[batch, signal, ...]`` with the signals beyond the second, single rows, averaged into one."""
    if values.shape[1] <= 2:
        return values
    return torch.cat([values[:, :2], values[:, 2:].nanmean(1, keepdim=True)], dim=1)


def _correlations(positional: Tensor, spectral: Tensor, permuted: Tensor) -> dict[str, Tensor]:
    """Return the correlation of both entropies over all heads and over those of each layer, with its null."""
    positional = positional[:, :, None].expand_as(spectral)  # [batch, signal, window, 2, layer, head]
    found = {}
    for end, entropies in (("", spectral), ("_null", permuted.double())):
        found[f"layer_correlation{end}"] = _correlation(positional, entropies)
        found[f"correlation{end}"] = _correlation(positional.flatten(-2), entropies.flatten(-2))
    return found


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation over the last axis, of places where both are numbers.

    Not-a-number for fewer than three of them, or where either spreads less than `SMALLEST_SPREAD`.
    """
    known = ~(a.isnan() | b.isnan())
    n = known.sum(-1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        mean = torch.where(known, values, 0.0).sum(-1, keepdim=True) / n
        return torch.where(known, values - mean, 0.0)

    one, other = centred(a), centred(b)
    spread, others = one.square().sum(-1), other.square().sum(-1)
    smallest = n[..., 0] * SMALLEST_SPREAD**2
    enough = (n[..., 0] >= 3) & (spread > smallest) & (others > smallest)
    return torch.where(enough, (one * other).sum(-1) / (spread * others).sqrt(), torch.nan)


def tiling(energy: Floats) -> dict[str, Floats]:
    """Return how the heads of each layer divide the scales, and how as many heads of any layers would.

    Coverage: the share of the scales on which some head of the layer has most of its energy. Overlap: the
    mean over pairs of heads of ``sum_scale min(p, q)``, with p the shares of a head's details. Centroid
    spread: the standard deviation over heads of the mean level. What heads drawn at random without
    replacement give is exact: the hypergeometric chance that a scale is not drawn, the mean over all pairs,
    the variance of all (whose root is taken).

    Parameters
    ----------
    energy
        ``[signal, 2, scale, layer, head]``: mean shares; a head without any is left out.

    Returns
    -------
    dict
        ``coverage``, ``overlap``, ``centroid_spread`` and each with ``_random_heads``, ``[signal, 2,
        layer]``; not-a-number where a layer has no head, or no two.
    """
    n_scales = energy.shape[2]
    total = energy.sum(2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.moveaxis(np.where(total > sequences.SMALLEST_POWER, energy / total, np.nan), 2, -1)
    names = ("coverage", "overlap", "centroid_spread")
    out = {
        f"{name}{end}": np.full(shares.shape[:3], np.nan) for name in names for end in ("", "_random_heads")
    }
    for at in np.ndindex(shares.shape[:2]):
        everywhere = shares[at].reshape(-1, n_scales)
        everywhere = everywhere[~np.isnan(everywhere).any(-1)]
        for layer, heads in enumerate(shares[at]):
            heads, place = heads[~np.isnan(heads).any(-1)], (*at, layer)
            if len(heads):
                out["coverage"][place] = len(set(heads.argmax(-1))) / n_scales
                out["coverage_random_heads"][place] = _coverage(everywhere, len(heads))
            if len(heads) > 1:
                out["overlap"][place] = _overlap(heads)
                out["centroid_spread"][place] = _spread(heads)
        several = ~np.isnan(out["overlap"][at])
        if several.any():
            out["overlap_random_heads"][at] = np.where(several, _overlap(everywhere), np.nan)
            out["centroid_spread_random_heads"][at] = np.where(several, _spread(everywhere), np.nan)
    return out


def _coverage(shares: Floats, n_heads: int) -> float:
    """Return the expected coverage of n heads drawn from all."""
    counts = np.bincount(shares.argmax(-1), minlength=shares.shape[-1])
    missed = [
        math.comb(len(shares) - int(count), n_heads) / math.comb(len(shares), n_heads) for count in counts
    ]
    return 1 - float(np.mean(missed))


def _overlap(shares: Floats) -> float:
    """Return the mean overlap of pairs of heads, ``[head, scale]``."""
    total = sum(float(np.minimum(head, shares).sum()) for head in shares) - len(shares)
    return total / (len(shares) * (len(shares) - 1))


def _spread(shares: Floats) -> float:
    """Return the standard deviation over heads of the mean level."""
    return float((shares @ np.arange(1, shares.shape[-1] + 1)).std(ddof=1))


def _mean_over(values: Floats, axis: int) -> Floats:
    """Return the mean over an axis of what is a number; not-a-number where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis) / known.sum(axis))
