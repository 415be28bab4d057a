"""Whether heads keep to each other in phase, in a band of frequencies along the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp.hilbert import analytic_signal
from resonance_lens.dsp.series import Segments, head_series, power
from resonance_lens.errors import AnalysisError
from resonance_lens.features import N_BLOCKS, Features, block_sums
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.directions import head_directions
from resonance_lens.stats.jackknife import of_groups
from resonance_lens.stats.samples import AnySample
from resonance_lens.stats.streams import stream

Array = NDArray[Any]


@register
@dataclass(frozen=True, kw_only=True)
class HeadLocking(Analysis):
    """Whether heads keep to each other in phase, in a band of frequencies along the tokens.

    Each head is one series along tokens: what its `z` is along a direction of the head's own, drawn once. The
    first position is left out. Segments under a Hann window have spectra X; ``u = X_g conj(X_h)`` of modulus
    one is the phase of head g against head h. The pairwise phase consistency is the mean cosine between u in
    two segments of a prompt, at one frequency, over the pairs of segments and the frequencies of a band: 1
    if the phase of the two heads is the same from segment to segment, 0 on average if it is not.

    Notes
    -----
    Everything is locked to what heads share. They see the same positions and the same words, in a model of
    random weights too. ``consistency_null`` takes the two heads from different prompts, at the same places:
    what exceeds it belongs to the prompt. That is no evidence of an oscillation, nor that one head drives the
    other: the words of the prompt drive both. ``pair_excess`` is ranked beside the random-weight twin.
    Prompts that differ in how regular they are exceed the null too. A direction is drawn and has no
    sign that means anything: a phase of pi is as good as 0. Another ``draw`` shows how much depends on it.
    """

    name: ClassVar[str] = "head_locking"
    title: ClassVar[str] = "Phase locking of heads in bands along the tokens"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("z",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("paired_across_prompts",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="consistency",
            long_name="pairwise phase consistency of the heads of a layer",
            units="1",
            null="paired_across_prompts",
            against="pairs of heads from different prompts, in the same segments",
            dims=("band", "layer"),
            family=("layer",),
            places="layers",
            minimum_effect=0.02,
            undefined="one prompt has no other to be paired with",
        ),
    )
    minimum_effect: ClassVar[float] = 0.02
    headline: ClassVar[str] = "consistency"
    source: ClassVar[str] = (
        "Pairwise phase consistency (Vinck et al. 2010) and magnitude-squared coherence of segments under a "
        "Hann window (Welch 1967)."
    )

    series: str = parameter(
        "projection",
        choices=("projection", "norm"),
        help="what of each head is followed along tokens: a fixed random direction of z, or its norm",
    )
    draw: int = parameter(0, minimum=0, maximum=9_999, help="which random directions")
    segment: int = parameter(
        0, choices=(0, 8, 16, 32, 64, 128, 256), help="tokens of a segment; 0: chosen by the shortest prompt"
    )
    surrogates: int = parameter(
        0,
        minimum=0,
        maximum=999,
        help="shift the series of every head against each other, in a circle, so many times in each prompt",
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs two segments, overlapping by five eighths, and a first position that is left out."""
        return Segments.least(self.segment or 8)

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the series of each head."""
        if where.facts.n_heads < 2:
            raise AnalysisError(
                f"head_locking compares the heads of a layer, and {where.facts.model_name} has one head."
            )
        z = signals["z"]

        def directions() -> Tensor:
            return head_directions(self.draw, where.layer or 0, z.size("head"), z.size("d_head"))

        series = head_series(z, self.series, self.draw, directions)  # type: ignore[arg-type]
        return Features.of(where.prompts, carry={"series": series})

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return consistency in layers, and the sums that pair heads with each other and across prompts."""
        carried = torch.stack([features.carry["series"] for features in layers], dim=1).mT
        n_heads = carried.shape[2]
        lengths = where.lengths.to(carried.device)
        segments = Segments.of(where.shortest, int(lengths.max()), self.segment)
        reached = segments.reached(lengths)
        # What is left without the mean is small beside it: only now is single precision enough.
        level = carried.double().sum(-1, keepdim=True) / lengths[:, None, None, None]
        series = (carried - level).float()
        spectra = segments.spectra(series, level.abs()) * reached[:, None, None, :, None]
        turns = differences(spectra, segments)  # [batch, layer, head, pair, bin]
        first, second = np.array(segments.pairs).T
        there = (reached[:, first] & reached[:, second]).to(torch.float64)  # [batch, pair]
        own = own_pairs(turns).double()  # [batch, layer, pair, bin]
        own = torch.stack([part.sum(-1) for part in of_bands(own, segments)], dim=2)  # ..., band, pair
        rows = own.sum(-1) / (there.sum(1)[:, None, None] * compared(segments, n_heads).to(own))

        heads = turns.flatten(1, 2)  # [batch, head of any layer, pair, bin]
        sums = {
            "cross": cross_spectra(spectra.flatten(1, 2), segments),
            **self._pairs(heads, segments, there.sum(1)),
            **_specimen(carried.double(), where),
        }
        if self.surrogates:
            sums["shifted"] = self._shifted(carried.double(), where, segments)
        return Features.of(
            where.prompts,
            rows={"consistency": rows, "pairs": there.sum(1)},
            sums=sums,
            blocks={
                "turns": block_sums(turns, where.groups),  # [block, layer, head, pair, bin]
                "own_pairs": block_sums(own, where.groups),  # [block, layer, band, pair]
                "prompts": block_sums(there, where.groups),  # [block, pair]
            },
        )

    def _pairs(self, heads: Tensor, segments: Segments, n_pairs: Tensor) -> dict[str, Tensor]:
        """Return sums over prompts of the consistency of all pairs of heads, and of its squares.

        Two heads' consistency is the inner product of their phase differences between segments.
        """
        parts = [part.flatten(2) for part in of_bands(heads, segments)]
        n_bins = [len(band) for band in segments.bands]
        shape = (len(parts), heads.shape[1], heads.shape[1])
        total, squares = torch.zeros(2, *shape, dtype=torch.float64, device=heads.device)
        for band, part in enumerate(parts):
            vectors = torch.view_as_real(part.to(torch.complex64)).flatten(2)  # [batch, head, 2 pair bin]
            for one, n in zip(vectors, (n_pairs * n_bins[band]).tolist(), strict=True):
                found = one @ one.mT
                total[band] += found
                squares[band] += (found / n).square()
        return {"pair_total": total, "pair_squares": squares}

    def _shifted(self, series: Tensor, where: Where, segments: Segments) -> Tensor:
        """Return consistency of series that were shifted in a circle, summed over prompts, draw by draw."""
        n_layers, n_heads = series.shape[1:3]
        found = series.new_zeros(self.surrogates, n_layers, len(segments.bands))
        for row, (prompt, length) in enumerate(zip(where.prompts, where.lengths.tolist(), strict=True)):
            rng = stream(where.seed, "circular shift", prompt)
            mine = Segments.of(where.shortest, length, self.segment)
            place = torch.arange(length - 1, device=series.device)
            for each in range(self.surrogates):
                shift = torch.from_numpy(rng.integers(length - 1, size=(n_layers, n_heads, 1))).to(place)
                moved = series[row, :, :, 1:length].gather(-1, (place + shift) % (length - 1))
                moved = torch.nn.functional.pad(moved, (1, 0))
                own = own_pairs(differences(mine.spectra(moved), mine))
                parts = [part.sum((-2, -1)) for part in of_bands(own, mine)]
                found[each] += torch.stack(parts, -1) / (len(mine.pairs) * compared(mine, n_heads).to(found))
        return found

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return consistency by layer and prompt, the pairs of heads, and the traces of the closest pair."""
        features = seen.plain
        n_prompts, _, n_bands = features.rows["consistency"].shape
        n_heads = seen.facts.n_heads
        labels = [f"L{layer}H{head}" for layer in seen.layers for head in range(n_heads)]
        low, high = band_edges(n_bands)
        bands = [f"{1 / b:g} to {1 / a:g} tokens" for a, b in zip(low, high, strict=True)]
        out = Labelled(seen, self.name, {"head_a": labels, "head_b": labels, "band": bands})
        out.add("lowest_frequency", ("band",), low, "lower edge of the band", "cycles per token")
        out.add("highest_frequency", ("band",), high, "upper edge of the band", "cycles per token")
        rows = np.swapaxes(features.rows["consistency"], 1, 2).astype(np.float32)
        what = "pairwise phase consistency of the heads of a layer of each prompt"
        out.add("consistency_prompt", ("prompt", "band", "layer"), rows, what, "1")
        pairs = ("band", "head_a", "head_b")
        found, excess = pair_consistency(features)
        out.add("pair_consistency", pairs, found, "pairwise phase consistency of two heads", "1")
        out.add("pair_coherence", pairs, coherence(features), "magnitude-squared coherence of two heads", "1")
        if n_prompts > 1:
            words = "consistency of two heads minus that across prompts"
            out.add("pair_excess", pairs, excess, words, "1")
            if "random_weights" in seen.features:
                other = pair_consistency(seen.features["random_weights"])[1]
                words += ", minus the same in the random-weight twin"
                out.add("pair_beyond_random_weights", pairs, excess - other, words, "1")
                excess = excess - other
            members = np.stack([self._communities(*each, n_prompts) for each in zip(
                excess, found, features.sums["pair_squares"], strict=True)])  # fmt: skip
            out.add("community", pairs[:2], members, "community of heads; -1: none", "1")
        if "shifted" in features.sums:
            draws = np.swapaxes(features.sums["shifted"], 1, 2) / n_prompts
            levels = np.quantile(draws, (0.025, 0.975), axis=0)
            for end, values in zip(("", "_low", "_high"), (draws.mean(0), *levels), strict=True):
                bound = {"": "", "_low": ", 2.5 % of draws below", "_high": ", 2.5 % of draws above"}[end]
                words = f"consistency of series shifted in a circle{bound}"
                out.add(f"consistency_shifted{end}", ("band", "layer"), values, words, "1")
        self._add_traces(out, seen, excess if n_prompts > 1 else found, labels, (low, high))
        return out.dataset()

    def _communities(self, excess: Array, found: Array, squares: Array, n_prompts: int) -> Array:
        """Return the connected components of the pairs that surely exceed the smallest effect; -1: alone."""
        n = len(excess)
        spread = np.sqrt(np.maximum(squares / n_prompts - found**2, 0) / max(n_prompts - 1, 1))
        surely = scipy_stats.norm.isf(0.05 / (n * (n - 1)))  # one-sided, over all pairs
        tied = excess - surely * spread > self.minimum_effect
        np.fill_diagonal(tied, False)
        _, component = connected_components(tied, directed=False)
        sizes = np.bincount(component)
        ranks = np.empty(len(sizes), dtype=np.int64)
        ranks[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
        return np.where(sizes[component] > 1, ranks[component], -1)

    def _add_traces(
        self, out: Labelled, seen: Accumulated, strength: Array, labels: list[str], edges: tuple[Array, Array]
    ) -> None:
        """Add the band-passed series of the two heads with the strongest pair, in the first prompt."""
        length = int(seen.plain.sums["specimen_length"][0])
        upper = np.where(np.triu(np.ones(strength.shape[1:], dtype=bool), 1), strength, -np.inf)
        band, one, other = np.unravel_index(int(upper.argmax()), upper.shape)
        series = torch.from_numpy(seen.plain.sums["specimen"].reshape(len(labels), -1))
        between = (float(edges[0][band]), min(float(edges[1][band]), 0.499))
        passed = analytic_signal(series[[int(one), int(other)], 1:length], -1, band=between).real
        about = {"long_name": "token", "units": "tokens"}
        out.coords["token"] = ("token", np.arange(1, length), about)
        out.coords["pair_member"] = [labels[int(one)], labels[int(other)]]
        out.coords["strongest_band"] = [out.coords["band"][int(band)]]
        words = "series of the closest pair in the first prompt, band-passed"
        out.add(
            "trace_specimen",
            ("strongest_band", "pair_member", "token"),
            passed.numpy()[None],
            words,
            "activation",
        )

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are jackknife groups: what pairs prompts has no value for each prompt."""
        return "group", min(n_prompts, N_BLOCKS) if n_prompts > 2 else 1

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return consistency beside that across prompts, as estimates that leave groups of prompts out."""
        features = seen.plain
        rows = np.swapaxes(features.rows["consistency"], 1, 2)  # [prompt, band, layer]
        n_pairs = features.rows["pairs"].astype(int)
        whole = {name: values.sum(0) for name, values in features.blocks.items()}

        def paired(left_out: int | None) -> tuple[Array, Array]:
            """Return value and null of each prompt, from the prompts of all groups or of all but one."""
            parts = whole
            if left_out is not None:
                parts = {n: total - features.blocks[n][left_out] for n, total in whole.items()}
            return match(parts, rows, n_pairs)

        return {"consistency": of_groups(paired, seen.jackknife, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return consistency over the layers in the band where it is largest, and that across prompts."""
        data = result.data.sel(category="all")
        mean = data.consistency.mean("layer")
        band = str(mean.band.values[int(mean.values.argmax())])
        said = (
            f"Averaged over layers, the consistency of heads is largest in the band of {band}: "
            f"{float(mean.max()):.3f}"
        )
        null = data.consistency_null.sel(band=band).mean("layer")
        return said + ("." if np.isnan(null) else f", and {float(null):.3f} between prompts.")

    def views(self, result: Result) -> list[ViewSpec]:
        """Return consistency over depth, the pairs as a matrix and as a network, and the closest pair."""
        data = result.data
        band = str(data.strongest_band.values[0])
        pairs = next(
            name for name in ("pair_beyond_random_weights", "pair_excess", "pair_consistency") if name in data
        )
        return [
            ViewSpec(
                kind="lines",
                title="Consistency of heads over depth",
                says="Mean phase consistency of the pairs of heads of each layer, band by band, beside that "
                "of heads from different prompts at the same places.",
                misleads="it is read as heads that drive each other: they read the same words.",
                variables=("consistency",),
                references=(
                    "consistency_null",
                    "consistency_random_weights",
                    "consistency_shuffled_tokens",
                ),
                select={"category": "all"},
                panels="band",
                claim="consistency",
            ),
            ViewSpec(
                kind="matrix",
                title=f"Pairs of heads in the band of {band}",
                says="Phase consistency of each pair of heads, less what heads share through positions and, "
                "where it was run, less that of the random-weight twin.",
                misleads="heads that copy the same tokens are in step without any exchange between them.",
                variables=(pairs,),
                select={"band": band},
                colours="diverging",
            ),
            ViewSpec(
                kind="network",
                title=f"The closest pairs in the band of {band}",
                says="The pairs of heads with the largest excess, between heads at their layers. A community "
                "is what pairs that surely exceed the smallest effect hold together.",
                misleads="one pair joins two communities; and of few prompts no pair is sure.",
                variables=(pairs, *(("community",) if "community" in data else ())),
                select={"band": band},
            ),
            ViewSpec(
                kind="oscilloscope",
                title="The closest pair of heads",
                says="The series of the two heads along the first prompt, band-passed, and one against the "
                "other: a line if they are in step or opposed, an ellipse if one follows.",
                misleads="any two series look alike for a few cycles in a narrow band; the filter takes the "
                "record for a circle, so that the ends know of each other.",
                variables=("trace_specimen",),
                select={"strongest_band": band},
                over="token",
                series="pair_member",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers whose heads exceed other prompts most surely, each in its best band."""
        low = result.data.consistency_effect_low.sel(category="all").fillna(-1.0).max("band")
        low = low[low.values > 0]
        low = low[np.argsort(-low.values, kind="stable")[:k]]
        return [
            Target(
                site="attn_out",
                layer=int(value.layer),
                score=float(value),
                reason="phase consistency of heads above that across prompts (lower 95 % bound)",
            )
            for value in low
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer whose heads share a wave of 5 tokens in each prompt, and one of noise."""
        facts = attention_facts(n_layers=2, n_heads=4)
        size = self.segment or 16
        lengths = torch.as_tensor(3 * size + rng.permutation(12) + 2)
        n = int(lengths.max())
        noise = rng.normal(size=(2, 12, n, facts.n_heads, facts.d_head))
        # A wave whose phase wanders, so that it belongs to the prompt, and its spectrum to one octave.
        phase = 2 * np.pi * (np.arange(n) / 5 + rng.uniform(0, 1, (12, 1)))
        phase = phase + rng.normal(0, 0.25, (12, n)).cumsum(1)
        noise[0] += (9 + 3 * np.cos(phase))[..., None, None] * rng.normal(size=(facts.n_heads, facts.d_head))
        layers = [{"z": torch.as_tensor(each, dtype=torch.float32)} for each in noise]

        def expect(data: xr.Dataset) -> None:
            low = data.consistency_effect_low.sel(category="all")
            inside = (data.lowest_frequency <= 0.2) & (data.highest_frequency >= 0.2)
            assert bool((low.sel(layer=0)[inside.values] > self.minimum_effect).all()), (
                "heads that share a wave were not found"
            )
            assert bool((low.sel(layer=1) < self.minimum_effect).all()), "independent heads were found locked"

        return Planted(layers, lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads that are alike because they follow the position in every prompt."""
        facts = attention_facts(n_layers=2, n_heads=4)
        size = self.segment or 16
        lengths = torch.as_tensor(3 * size + rng.permutation(12) + 2)
        n = int(lengths.max())
        noise = rng.normal(size=(2, 12, n, facts.n_heads, facts.d_head))
        noise[0] += 3 * rng.normal(size=(n, 1, 1)) * rng.normal(size=(facts.n_heads, facts.d_head))
        layers = [{"z": torch.as_tensor(each, dtype=torch.float32)} for each in noise]

        def expect(data: xr.Dataset) -> None:
            low = data.consistency_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), (
                "heads that share positions were found locked beyond that"
            )

        return Planted(layers, lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads alike by position alone, and layers driven together: `worlds.writing_heads`."""
        return worlds.writing_heads(rng, world, strength, "consistency")


def differences(spectra: Tensor, segments: Segments) -> Tensor:
    """Return how far the phase of each head turns from segment to segment, as phasors of modulus one.

    The inner product of those of two heads is the sum of cosines between their phase differences in the
    two segments: ``Re((u_g(s) conj u_h(s)) conj(u_g(s') conj u_h(s')))``.

    Parameters
    ----------
    spectra
        Complex ``[..., segment, bin]``.
    segments
        Their pairs.

    Returns
    -------
    Tensor
        ``[..., pair, bin]``; zero where one of the two has no phase.
    """
    strength = power(spectra)
    units = spectra * torch.where(strength > 0, strength.rsqrt(), 0.0)
    first, second = np.array(segments.pairs).T
    return units[..., first, :] * units[..., second, :].conj()


def own_pairs(turns: Tensor) -> Tensor:
    """Return the sum of cosines over ordered pairs of different heads, from ``[..., head, pair, bin]``."""
    return power(turns.sum(-3)) - power(turns).sum(-3)


def of_bands(values: Any, segments: Segments) -> list[Any]:
    """Return the parts of ``[..., bin]`` that belong to each band."""
    return list(torch.split(values, [len(band) for band in segments.bands], dim=-1))


def compared(segments: Segments, n_heads: int) -> Tensor:
    """Return ``[band]``: how many ordered pairs of heads and frequencies a pair of segments compares."""
    return torch.tensor([len(band) * n_heads * (n_heads - 1) for band in segments.bands])


def cross_spectra(spectra: Tensor, segments: Segments) -> Tensor:
    """Return ``[band, head, head]``: the sum of ``X_g conj(X_h)`` over prompts, segments and frequencies."""
    parts = of_bands(spectra, segments)  # [batch, head, segment, bin]
    flat = [part.transpose(0, 1).flatten(1).to(torch.complex64) for part in parts]
    return torch.stack([part @ part.mH for part in flat])


def band_edges(n_bands: int) -> tuple[Array, Array]:
    """Return the edges of octaves up to 0.5 cycles per token, the lowest first."""
    high = 0.5 ** np.arange(n_bands, 0, -1)
    return high / 2, high


def bins_of(n_bands: int, n_bins: int) -> list[slice]:
    """Return where the frequencies of each band are, of all that were read."""
    counts = [len(band) for band in Segments(2 ** (n_bands + 2), (1,)).bands]
    assert sum(counts) == n_bins
    ends = np.cumsum(counts)
    return [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]


def pair_consistency(features: Features) -> tuple[Array, Array]:
    """Return the consistency of all pairs of heads, and by how much it exceeds that across prompts.

    Over pairs of segments that n prompts reach, the sum within prompts less 1/n of the sum over all pairs of
    prompts, the same one among them, is n - 1 times the difference of the means.

    Returns
    -------
    tuple of arrays
        Both ``[band, head, head]``; a head with itself has consistency 1 and no excess. The excess is zero if
        there is one prompt.
    """
    total = features.sums["pair_total"]  # [band, head, head]
    n = features.blocks["prompts"].sum(0)  # [pair]
    turns = features.blocks["turns"].sum(0)  # [layer, head, pair, bin]
    heads = turns.reshape(-1, *turns.shape[2:]) / np.sqrt(n)[:, None]
    slices = bins_of(len(total), turns.shape[-1])
    found, excess = np.empty((2, *total.shape), dtype=np.float32)
    for band, at in enumerate(slices):
        flat = heads[..., at].reshape(len(heads), -1)
        flat = np.concatenate([flat.real, flat.imag], axis=1)
        n_bins = at.stop - at.start
        found[band] = total[band] / (n.sum() * n_bins)
        excess[band] = (total[band] - flat @ flat.T) / max(((n - 1) * n_bins).sum(), 1)
        np.fill_diagonal(excess[band], 0.0)
    return found, excess


def coherence(features: Features) -> Array:
    """Return magnitude-squared coherence ``[band, head, head]``; 0 for a head that is constant."""
    cross = features.sums["cross"]
    power = np.diagonal(cross, axis1=1, axis2=2).real
    both = power[:, :, None] * power[:, None, :]
    return np.asarray(np.where(both > 0, abs(cross) ** 2 / np.where(both > 0, both, 1), 0), dtype=np.float32)


def match(parts: Mapping[str, Array], rows: Array, n_pairs: Array) -> tuple[Array, Array]:
    """Return consistency within each prompt, and across prompts over the same pairs of segments.

    For each pair of segments, the sum over ordered pairs of prompts p, q and of heads g, h, both different,
    of the cosine between g's turn in p and h's in q is what the sums over prompts give, less the
    same-prompt terms.

    Parameters
    ----------
    parts
        ``turns`` [layer, head, pair, bin], ``own_pairs`` [layer, band, pair] and ``prompts`` [pair]: sums
        over prompts.
    rows
        ``[prompt, band, layer]``: consistency over all pairs of segments of each prompt.
    n_pairs
        ``[prompt]``: how many pairs of segments each prompt has; they are the first ones.

    Returns
    -------
    tuple of arrays
        Value and null, both ``[prompt, band, layer]``, over the pairs of segments that two prompts reach.
        What only one reaches is taken out of its value. If there is none the null is not-a-number.
    """
    turns, own, n = parts["turns"], parts["own_pairs"], parts["prompts"]
    shared = int((n >= 2).sum())
    if shared == 0:
        return rows, np.full_like(rows, np.nan)
    n_heads, n_bands = turns.shape[1], own.shape[1]
    crossed = abs(turns.sum(1)) ** 2 - (abs(turns) ** 2).sum(1)  # [layer, pair, bin]
    slices = bins_of(n_bands, turns.shape[-1])
    sizes = np.array([(at.stop - at.start) * n_heads * (n_heads - 1) for at in slices])[:, None]
    across = np.stack([crossed[..., at].sum(-1) for at in slices], axis=1) - own  # [layer, band, pair]
    across = across[..., :shared] / ((n * (n - 1))[:shared] * sizes)
    null = np.cumsum(across, axis=-1) / np.arange(1, shared + 1)  # over the first 1, 2, ... pairs
    null = null[..., np.minimum(n_pairs, shared) - 1]  # [layer, band, prompt]
    alone = (own[..., shared:].sum(-1) / sizes[:, 0]).T  # [band, layer]
    reach = n_pairs[:, None, None]
    value = np.where(reach > shared, (rows * reach - alone) / shared, rows)
    return value, np.moveaxis(null, -1, 0).swapaxes(1, 2)


def _specimen(series: Tensor, where: Where) -> dict[str, Tensor]:
    """Return the series of the first prompt of the run, ``[layer, head, token]``, and its length."""
    if 0 not in where.prompts:
        return {"specimen": series.new_zeros(*series.shape[1:3], 1), "specimen_length": torch.zeros(1)}
    row = where.prompts.index(0)
    length = int(where.lengths[row])
    return {"specimen": series[row, ..., :length], "specimen_length": torch.tensor([float(length)])}
