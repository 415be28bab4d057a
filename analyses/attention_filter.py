"""Each attention head as a filter along the tokens: its kernel, its response, and how much it explains.

Longer than most: what it says of one kernel (classes, delays, pairs, responses) it says as named variables.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention, kernels
from resonance_lens.dsp.query_grid import query_grid
from resonance_lens.errors import AdapterError, AnalysisError
from resonance_lens.features import Features
from resonance_lens.labels import Labelled, rank_heads
from resonance_lens.planting import attention_facts, permuted_rows, softmax_rows
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.intervals import unit_interval
from resonance_lens.stats.samples import AnySample, Surrogates, estimates_of, of_jackknife, of_prompts
from resonance_lens.stats.streams import stream

Array = NDArray[Any]

CLASSES = ("sink", "content", "mixed", "delay", "comb", "low_pass", "unjudged")
"""What a head can be; `classify` has the rules. The code of a class is its place in this list."""

FREQUENCIES = np.linspace(0, 0.5, 129)
"""In cycles per token."""

SMALLEST_INFORMATION = 0.01
"""In nat per query: attention that is nearer to uniform leaves nothing to explain."""

PSEUDO_ROWS = 1.0
"""Queries of uniform attention that are added to a kernel before other prompts are held against it."""

FLIPS = 999
"""Draws of the null: ways of flipping the signs of prompts."""

COMB_RISE = 0.25
"""By how much the gain of a comb rises again after it fell."""

EXACT_ROWS = ("float32", "float64")
"""Types of a model whose attention rows sum to one but for rounding."""

NEAR = 24
"""Lags of a kernel that are drawn."""

BEST = 6
"""Heads whose kernels and responses are drawn."""

PEAK_ABOVE_ENDS = 1.25
"""How often the gain of a band-pass at its peak is that at frequency 0 and at 1/2, at least."""

PAIRS = 5
"""Band-pass pairs that are listed."""

BOUNDS = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}


@register
@dataclass(frozen=True, kw_only=True)
class AttentionFilter(Analysis):
    """Each attention head as a filter along the tokens.

    At lag ``d`` (query minus key) a head that looks at places alone has a kernel ``k(d) >= 0``: a causal
    filter with the frequency response ``H(f) = sum_d k(d) exp(-2 pi i f d)``, a gain ``abs(H)`` and a group
    delay. The kernel is the one of greatest likelihood, where each query sees the lags of its window and the
    prompt's first key is taken out. How much of the pattern it explains is the Toeplitz fraction,
    ``1 - KL(A || k) / KL(A || U)``, with uniform attention U and a kernel k from the *other* prompts: 1 if
    attention depends on the lag alone, 0 if the lag says nothing, below 0 if other prompts mislead.

    Notes
    -----
    Because weights are not negative, no head alone has a band-pass: ``abs(H(f)) <= H(0)``. A kernel is
    worth its name where the Toeplitz fraction is high; a head that looks for content has an average lag, and
    that is no filter. A sink's kernel is that of the little which it does not leave on the first token, and
    a response along tokens says nothing of what a head moves. Uniform causal attention is a long moving
    average: compare with the random-weight twin. Long lags are seen by few queries (``rows_at_lag``), of
    which, beyond the first 64 of a prompt, one in ``every`` is looked at and counts for as many.
    """

    name: ClassVar[str] = "attention_filter"
    title: ClassVar[str] = "Heads as filters along the tokens"
    version: ClassVar[str] = "2"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_causal", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("permuted_keys",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="toeplitz_fraction",
            long_name="Toeplitz fraction: how much of the pattern a kernel from other prompts explains",
            units="1",
            null="permuted_keys",
            against="the same weights on permuted keys, the first key fixed",
            dims=("layer", "head"),
            family=("layer", "head"),
            places="heads",
            minimum_effect=0.05,
            undefined="attention is uniform or all on the first key, or there is no other prompt",
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "toeplitz_fraction"
    source: ClassVar[str] = (
        "Maximum likelihood of right-truncated data (Lynden-Bell 1971; Woodroofe 1985); group delay of "
        "linear filters; the Toeplitz fraction and the use of these for attention are this library's."
    )
    undefined: ClassVar[tuple[str, ...]] = ("mean_lag", "sink")

    min_keys: int = parameter(
        8, minimum=4, help="leave out queries that see fewer keys: their windows are too short"
    )
    max_lag: int = parameter(
        512, minimum=8, maximum=8192, help="lags from here on are left out of the kernel"
    )
    min_rows: int = parameter(
        32, minimum=1, help="cut the kernel where fewer queries, of all prompts, reach the lag"
    )
    every: int = parameter(
        4,
        minimum=1,
        maximum=16,
        help="beyond the first 64 queries of a prompt, look at one in so many, which counts for all of them",
    )
    sink_above: float = parameter(
        0.8, minimum=0.0, maximum=1.0, help="a head that leaves more than this on the first key is a sink"
    )
    content_below: float = parameter(
        0.25, minimum=0.0, maximum=1.0, help="a smaller Toeplitz fraction makes a content head"
    )
    filter_above: float = parameter(
        0.5, minimum=0.0, maximum=1.0, help="a larger Toeplitz fraction makes a filter; between them is mixed"
    )
    delay_above: float = parameter(
        0.5, minimum=0.0, maximum=1.0, help="a filter with more than this at one lag is a delay"
    )
    comb_above: float = parameter(
        0.7, minimum=0.0, maximum=1.0, help="a filter whose gain falls and comes back above this is a comb"
    )
    opposed_below: float = parameter(
        -0.3, minimum=-1.0, maximum=0.0, help="heads whose OV cosine is below this are opposed"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    # ---------------------------------------------------------------------------------- observing

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the sums over keys of each row, and those over queries at equal lag."""
        facts, pattern = where.facts, signals["pattern"]
        if not facts.causal:
            raise AnalysisError(
                f"attention_filter measures causal filters, and {facts.model_name} looks ahead of the query."
            )
        grid = query_grid(pattern.size("query"), self.every)
        seen = attention.window(pattern, causal=True, sliding=facts.sliding_windows[where.layer or 0])
        seen, beyond = _looked_at(seen, self.every, self.max_lag)
        rows_of = [pattern.values[:, :, part] for part in grid.parts]
        first = torch.cat([part[..., 0] for part in rows_of], dim=-1)  # [batch, head, query]
        # A row of single precision sums to one within 1e-7, which is not worth another reading of it.
        whole = 1 if facts.dtype in EXACT_ROWS else torch.cat([part.sum(-1) for part in rows_of], dim=-1)
        free = whole - first
        real = pattern.mask("query")[:, grid.index.to(free.device)]
        rows = attention.Rows(attention.Moments(torch.stack([first, free])), seen, real, {})
        counted = (real & (seen.size >= self.min_keys))[:, None] & (free >= attention.SMALLEST_FREE_WEIGHT)
        counts = counted * grid.counts.to(free)
        weights = counts / free.clamp_min(attention.SMALLEST_FREE_WEIGHT)
        shares = weights.split([part.shape[2] for part in rows_of], dim=-1)
        masses = [
            kernels.lag_sums(pattern, share, first=part.start, step=part.step)
            for part, share in zip(grid.parts, shares, strict=True)
        ]
        return Features.of(
            where.prompts,
            carry=rows.carry(
                entropy=attention.row_entropy(pattern, seen, grid.parts),
                mass=torch.stack(masses).sum(0),
                counts=counts,
                oldest=kernels.oldest_keys(pattern, seen, beyond, grid.parts) * weights,
            ),
        )

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return, for each prompt and head, what its rows hold in bins of lags, and sums at single lags."""
        rows = attention.Rows.fold([features.carry for features in layers])
        seen = rows.window
        mass, counted, oldest = (rows.extra[name].double() for name in ("mass", "counts", "oldest"))
        mass = mass.clamp_min(0)
        n_free, n_queries = seen.free.clamp_min(1), mass.shape[-1]
        edges = _edges(self.max_lag, mass.device)
        bins = _whole_bins(seen, edges)  # [row, query]
        n_bins = len(edges) - 1

        # What a row holds beyond its last whole bin says nothing about that bin, and is left out.
        lag = torch.arange(n_queries, device=mass.device)
        inside = (lag[:, None] >= edges[:-1]) & (lag[:, None] < edges[1:])  # [lag, bin]
        partial = torch.nn.functional.one_hot(bins, n_bins + 1)[..., :n_bins].double()
        last = torch.nn.functional.one_hot((bins - 1).clamp_min(0), n_bins).double()
        held = (counted - oldest).clamp_min(0) * (bins >= 1)[:, None]

        def by_bin(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            """Return ``[batch, head, bin]``: values of queries, added up by the bin of each query."""
            return values @ (places[0] if len(places) == 1 else places)

        in_bins = (mass @ inside.double() - by_bin(oldest, partial)).clamp_min(0)
        first = rows.moments.first.double().clamp_min(0)
        free = rows.moments.free.double().clamp_min(attention.SMALLEST_FREE_WEIGHT)
        entropy = (rows.extra["entropy"].double() + torch.special.xlogy(first, first)) / free + free.log()
        information = torch.where(counted > 0, n_free.double().log()[:, None] - entropy, 0.0) * counted
        n_rows = counted.sum(-1)

        # The kernel at single lags: rows by how many lags below max_lag they see.
        shown = min(n_queries, self.max_lag)
        furthest = (n_free.clamp_max(self.max_lag) - 1)[:, None].expand_as(counted)
        within = torch.where((n_free > self.max_lag)[:, None], held, counted)
        reach = torch.zeros_like(mass).scatter_add_(-1, furthest, within)[..., :shown]
        seeing = torch.zeros_like(mass).scatter_add_(-1, furthest, counted)[..., :shown]

        def each(values: torch.Tensor) -> torch.Tensor:
            return attention.unfold(values, len(layers))

        def total(values: torch.Tensor) -> torch.Tensor:
            return each(values).sum(0)

        grid = query_grid(n_queries, self.every)
        whole = (rows.real & (seen.size >= self.min_keys)) * grid.counts.to(first)  # [row, query]
        sink = (first * whole[:, None]).sum(-1) / whole.sum(-1)[:, None]
        return Features.of(
            where.prompts,
            rows={
                "mass": each(in_bins),  # [prompt, layer, head, bin]
                "held": each(by_bin(held, last)),
                "even": each(by_bin(counted / n_free[:, None], last)),
                "rows": each(n_rows),  # [prompt, layer, head]
                "information": each(information.sum(-1)),
                "mean_lag": each((mass @ lag.double()) / n_rows),
                "sink": each(sink),
            },
            sums={
                "mass": total(mass[..., :shown]),  # [layer, head, lag]
                "reach": total(reach),
                "seeing": total(seeing),
                **self._aligned(where),
            },
        )

    def _aligned(self, where: Where) -> dict[str, Any]:
        """Return the OV cosines of the heads of each layer, added up over prompts as a sum must be."""
        try:
            cosines = torch.stack([where.ov_alignment(layer) for layer in where.layers]).double()
        except AdapterError:
            return {}  # a host without weights: there are no pairs, and the result says so
        return {"aligned": cosines * len(where.prompts)}  # [layer, head, head]

    # --------------------------------------------------------------------------------- concluding

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return kernels, responses, delays, classes and pairs."""
        rows, sums = seen.plain.rows, seen.plain.sums
        cut = self._cut(sums["seeing"])
        kernel = self._kernel(sums, cut)  # [layer, head, lag]
        fraction = _mean(self._fractions(rows)[0])
        sink = _mean(rows["sink"])
        frequencies = torch.from_numpy(FREQUENCIES)
        h = kernels.response(torch.from_numpy(kernel), -1, frequencies).numpy()
        gain = np.abs(h)
        delays = kernels.group_delay(torch.from_numpy(kernel), -1, frequencies).numpy()
        known = kernel.sum(-1) > 0
        alone = len(seen.prompt_ids) < 2  # then no kernel of other prompts says what a head's is worth
        code = self._classify(sink, fraction, kernel, gain, known, alone)
        lags = np.arange(kernel.shape[-1])
        best = self._best(sink, fraction, seen)
        out = Labelled(
            seen,
            self.name,
            {
                "lag": lags.tolist(),
                "near_lag": lags[:NEAR].tolist(),
                "frequency": FREQUENCIES.tolist(),
                "class_name": list(CLASSES),
                "best_head": [f"L{seen.layers[layer]}H{head}" for layer, head in best],
                "other_head": list(range(seen.facts.n_heads)),
                "pair": list(range(PAIRS)),
            },
        )
        uniform = _uniform(sums["seeing"][..., :cut])  # [layer, lag]
        h_uniform = kernels.response(torch.from_numpy(uniform), -1, frequencies).numpy()
        half = kernels.half_power_frequency(torch.from_numpy(kernel), -1).numpy()
        members = [gain[(code == which) & known] for which in range(len(CLASSES))]
        of_class = [m.mean(0) if len(m) else np.full(len(FREQUENCIES), np.nan) for m in members]
        places = tuple(np.array(best).T)
        head, nothing = ("layer", "head"), "; not-a-number: all attention is on the first key"

        def add(name: str, dims: tuple[str, ...], values: Array, words: str, units: str = "1") -> None:
            exact = values.ndim < 3 or values.dtype.kind != "f"
            out.add(name, dims, values if exact else values.astype(np.float32), words, units)

        what = "weight by lag, the first key taken out"
        add("kernel", (*head, "lag"), kernel, f"kernel: {what}; zero where all attention is on it")
        add("gain", (*head, "frequency"), gain, "gain of the kernel")
        small = f"; not-a-number: the gain is below {kernels.SMALLEST_GAIN}"
        add("delay", (*head, "frequency"), delays, f"group delay by frequency{small}", "tokens")
        reached = _at_least(sums["seeing"]).max((0, 1))[: len(lags)]
        add(
            "rows_at_lag",
            ("lag",),
            reached,
            "queries of all prompts that see the lag, those included that others count for",
            "queries",
        )
        words = "group delay at frequency zero: mean lag of the kernel"
        for end, values in self._delay_interval(rows, kernel, cut, seen).items():
            add(f"group_delay{end}", head, values, words + BOUNDS[end] + nothing, "tokens")
        mean = np.where(known, (uniform @ lags)[:, None], np.nan)
        add("group_delay_uniform", head, mean, f"mean lag of a uniform kernel{nothing}", "tokens")
        words = "frequency at which the power has fallen to half; not-a-number: it never falls so low"
        add("half_power_frequency", head, half, words, "cycles per token")
        add("peak_lag", head, kernel.argmax(-1), "lag with the largest weight", "tokens")
        add("peak_share", head, kernel.max(-1), "largest weight of the kernel")
        named = ", ".join(f"{number} {name}" for number, name in enumerate(CLASSES))
        add("head_class", head, code, f"class of the head: {named}")
        counts = np.bincount(code.ravel(), minlength=len(CLASSES))
        add("heads_of_class", ("class_name",), counts, "heads of the class", "heads")
        words = "mean gain of the heads of a class; not-a-number: there are none"
        add("gain_of_class", ("class_name", "frequency"), np.stack(of_class), words)
        add("gain_of_layer", ("layer", "frequency"), gain.mean(1), "mean gain of the heads of a layer")
        words = "gain of a uniform kernel, a moving average over all lags"
        add("gain_of_layer_uniform", ("layer", "frequency"), np.abs(h_uniform), words)
        add("gain_of_best", ("best_head", "frequency"), gain[places], "gain of the kernel")
        add("kernel_of_best", ("best_head", "near_lag"), kernel[places][:, :NEAR], f"kernel: {what}")
        self._add_pairs(out, seen, h * (1 - sink)[..., None], len(lags))
        with np.errstate(invalid="ignore"):
            information = np.where(
                rows["rows"] > 0, rows["information"] / np.maximum(rows["rows"], 1), np.nan
            )
        out.add_mean("sink_mass", head, rows["sink"], "attention to the first key", "1", by_prompt=True)
        words = f"divergence of attention from uniform attention{nothing}"
        out.add_mean("information", head, information, words, "nat")
        words = f"mean attended lag{nothing}"
        out.add_mean("mean_lag", head, rows["mean_lag"], words, "tokens", by_prompt=True)
        data = out.dataset()
        data["head_class"].attrs["flag_meanings"] = " ".join(CLASSES)
        data["frequency"].attrs = {"long_name": "frequency", "units": "cycles per token"}
        for name in ("lag", "near_lag"):
            data[name].attrs = {"long_name": "lag", "units": "tokens"}
        return data

    def _best(self, sink: Array, fraction: Array, seen: Accumulated) -> list[tuple[int, int]]:
        """Return the heads whose kernels explain most, sinks last: indices of layer and head."""
        order = np.argsort(-(np.nan_to_num(fraction) - (sink > self.sink_above)).ravel(), kind="stable")
        at = np.unravel_index(order[:BEST], fraction.shape)
        return [(int(layer), int(head)) for layer, head in zip(*at, strict=True)]

    def _classify(
        self, sink: Array, fraction: Array, kernel: Array, gain: Array, known: Array, alone: bool
    ) -> Array:
        """Return the class of each head, as its place in `CLASSES`; the first rule that holds decides.

        ``sink``: more than ``sink_above`` on the first key, or nothing elsewhere. ``unjudged``: all others,
        if there is one prompt ``alone``, and so no Toeplitz fraction to judge by. ``content`` and ``mixed``:
        a Toeplitz fraction below ``content_below`` and up to ``filter_above``. ``delay``: more than
        ``delay_above`` of the kernel at one lag. ``comb``: the gain falls, and rises again by `COMB_RISE` to
        above ``comb_above``. ``low_pass``: all others, which average; also attention that is uniform.
        """
        lowest = np.minimum.accumulate(gain, axis=-1)
        comb = ((gain > self.comb_above) & (gain - lowest > COMB_RISE)).any(-1)
        rules = {
            "sink": (sink > self.sink_above) | ~known,
            "unjudged": np.full(sink.shape, alone),
            "content": fraction < self.content_below,
            "mixed": fraction <= self.filter_above,
            "delay": kernel.max(-1) > self.delay_above,
            "comb": comb,
        }
        chosen = np.select(list(rules.values()), [CLASSES.index(name) for name in rules], -1)
        return np.where(chosen < 0, CLASSES.index("low_pass"), chosen)

    def _delay_interval(
        self, rows: Mapping[str, Array], kernel: Array, cut: int, seen: Accumulated
    ) -> dict[str, Array]:
        """Return the mean lag of the kernel, and its bounds from kernels that leave groups of prompts out."""
        lags = np.arange(kernel.shape[-1])
        unknown = kernel.sum(-1) == 0
        found = {"": np.where(unknown, np.nan, kernel @ lags)}
        if not seen.intervals:
            return found
        edges = np.array(kernels.lag_edges(self.max_lag))
        edges = edges[edges <= cut]
        # In bins, each standing for the mean lag that the kernel has in it.
        weight = np.add.reduceat(kernel, edges[:-1], axis=-1)
        middle = (edges[:-1] + edges[1:] - 1) / 2
        moment = np.add.reduceat(kernel * lags, edges[:-1], axis=-1)
        place = np.where(weight > 0, moment / np.where(weight > 0, weight, 1.0), middle)

        def mean_lag(kept: NDArray[np.bool_]) -> Array:
            mass, held = (torch.from_numpy(rows[name][kept].sum(0)) for name in ("mass", "held"))
            all_edges = torch.tensor(kernels.lag_edges(self.max_lag))
            hazard = kernels.lag_hazard(mass, held, all_edges)[..., : len(edges) - 1]
            return np.asarray((kernels.kernel_from(hazard).numpy() * place).sum(-1))

        block = seen.jackknife
        used = np.unique(block)
        whole = mean_lag(np.ones(len(block), dtype=bool))
        without = [mean_lag(block != b) for b in used] if len(used) > 1 else []
        sample = of_jackknife(whole, np.zeros_like(whole), without, [np.zeros_like(whole) for _ in without])
        mean, low, high = unit_interval(sample.value, "group", np.random.default_rng(0))
        for end, bound in (("_low", low), ("_high", high)):
            found[end] = np.where(unknown, np.nan, found[""] + bound - mean)
        return found

    def _add_pairs(self, out: Labelled, seen: Accumulated, h: Array, n_lags: int) -> None:
        """Add what opposed heads of a layer pass together: the difference of their responses.

        Responses are weighted by what heads leave for keys beyond the first. A pair is a band-pass if the
        gain has a peak inside that exceeds both of its ends.
        """
        shape = (len(seen.layers), seen.facts.n_heads, seen.facts.n_heads)
        sums = seen.plain.sums
        aligned = sums["aligned"] / len(seen.prompt_ids) if "aligned" in sums else np.full(shape, np.nan)
        gain = np.abs(h[:, :, None] - h[:, None, :])  # [layer, head, other_head, frequency]
        ends = np.maximum(gain[..., 0], gain[..., -1])
        # A period of which the kernel holds less than two is not told apart from frequency zero.
        first = int(np.searchsorted(FREQUENCIES, 2 / n_lags))
        inside = gain[..., first:-1]
        peak = inside.max(-1, initial=0.0)
        rises = (peak > PEAK_ABOVE_ENDS * ends) & (inside[..., :1].max(-1, initial=0.0) < peak)
        strength = np.where((aligned < self.opposed_below) & rises, peak - ends, 0.0)
        strength = np.where(np.isnan(aligned), np.nan, strength)
        dims = ("layer", "head", "other_head")
        why = "; not-a-number: the host does not give its weights"
        out.add(
            "ov_alignment", dims, aligned, f"cosine between what two heads write for what they read{why}", "1"
        )
        words = "peak of the gain of two opposed heads together, above both of its ends"
        out.add("band_pass", dims, strength, f"{words}; zero: none{why}", "1")
        upper = np.triu(np.nan_to_num(strength), 1)
        order = np.argsort(-upper.ravel(), kind="stable")[:PAIRS]
        order = order[upper.ravel()[order] > 0]
        layer, a, b = np.unravel_index(order, shape)
        none = np.full(PAIRS - len(order), -1)
        for name, values in (("layer", np.array(seen.layers)[layer]), ("head_a", a), ("head_b", b)):
            words = f"{name.replace('_', ' ')} of the strongest band-pass pairs; -1: there are fewer"
            out.add(f"pair_{name}", ("pair",), np.concatenate([values, none]), words, "1")
        missing = np.full((PAIRS - len(order), gain.shape[-1]), np.nan)
        passed = np.concatenate([gain[layer, a, b], missing])
        out.add(
            "pair_gain", ("pair", "frequency"), passed, "gain of the pair; not-a-number: there are fewer", "1"
        )
        at = FREQUENCIES[first + inside[layer, a, b].argmax(-1)] if len(order) else missing[:0, 0]
        peak = np.concatenate([at, missing[:, 0]])
        words = "frequency that the pair passes best; not-a-number: there are fewer pairs"
        out.add("pair_frequency", ("pair",), peak, words, "cycles per token")

    def _cut(self, seeing: Array) -> int:
        """Return how many lags are reached by enough queries, up to an edge of the bins."""
        reached = _at_least(seeing).max((0, 1), initial=0)  # [lag]
        enough = reached >= min(self.min_rows, reached.max(initial=1))
        n = int(enough.sum()) or 1
        edges = np.array(kernels.lag_edges(self.max_lag))
        return int(edges[edges <= n].max(initial=1))

    def _kernel(self, sums: Mapping[str, Array], cut: int) -> Array:
        """Return the kernel of greatest likelihood, zero for heads without any rows."""
        mass, reach = (torch.from_numpy(sums[name]) for name in ("mass", "reach"))
        edges = torch.arange(mass.shape[-1] + 1)
        # A lag that too few queries reach is cut off, with what rows hold there.
        hazard = kernels.lag_hazard(mass, reach, edges)[..., :cut]
        found = kernels.kernel_from(hazard).numpy()
        return np.asarray(np.where(sums["seeing"].sum(-1, keepdims=True) > 0, found, 0.0))

    def _fractions(self, rows: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the Toeplitz fraction of each prompt, and its mean over permuted keys.

        Both are ``[prompt, layer, head]``.

        The kernel is that of all other prompts. With its share h of each bin in itself and the smaller lags,
        and u that of uniform attention, a row gains ``D ln(h / u) + (R - D) ln((1 - h) / (1 - u))`` over
        uniform attention, added up over bins. That is linear in the row, so that its mean over permutations
        of the keys is what a uniform row gains.
        """
        edges = torch.tensor(kernels.lag_edges(self.max_lag))
        u = kernels.uniform_hazard(edges).numpy().astype(np.float64)[1:]
        widths = edges.diff().numpy()
        even, even_held = _at_least(rows["even"]) * widths, rows["even"] * edges[1:].numpy()
        found = []
        totals = {name: rows[name].sum(0) for name in ("mass", "held")}
        for p, (mass, held) in enumerate(zip(rows["mass"], rows["held"], strict=True)):
            d_others, t_others = (torch.from_numpy(totals[n] - rows[n][p]) for n in ("mass", "held"))
            h = kernels.lag_hazard(d_others, t_others, edges, pseudo=PSEUDO_ROWS).numpy()[..., 1:]
            at, below = np.log(h / u), np.log((1 - h) / (1 - u))
            gains = []
            for d, t in ((mass, held), (even[p], even_held[p])):
                r = _at_least(t) - (_at_least(d) - d)
                gains.append((d[..., 1:] * at + (r - d)[..., 1:] * below).sum(-1))
            found.append(gains)
        gain = np.stack(found, axis=1) if found else np.zeros((2, *rows["information"].shape))
        enough = rows["information"] >= SMALLEST_INFORMATION * np.maximum(rows["rows"], 1)
        enough &= (rows["rows"].sum(0) - rows["rows"]) > 0  # another prompt
        value, null = np.where(enough, gain / np.where(enough, rows["information"], 1.0), np.nan)
        return value, null

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the fractions beside their null, and draws: deviations of prompts with their signs flipped.

        The kernel that a prompt is held against is made of prompts that are held against this one's. So the
        differences of prompts are not independent of each other, and flipping the signs of these would reject
        too often (.17 of the time at .05). What is flipped is the deviation of each prompt's lags from
        their mean over permuted keys, before any kernel is fitted.
        """
        rows = seen.plain.rows
        value, null = self._fractions(rows)
        estimates = of_prompts(value, null, seen.groups)
        edges = np.array(kernels.lag_edges(self.max_lag))
        n_rows = np.maximum(rows["rows"], 1)[..., None]
        even = _at_least(rows["even"]) * np.diff(edges) / n_rows
        deviation = rows["mass"] / n_rows - even  # [prompt, layer, head, bin]
        known = ~np.isnan(value)
        size = np.sqrt(np.where(known, rows["information"] / n_rows[..., 0], 1.0))
        deviation = np.where(known[..., None], deviation / size[..., None], 0.0)
        out: dict[str, AnySample] = {}
        for category, members in seen.groups.items():
            some = deviation[members]
            # To first order a prompt gains the product of its deviation and that of the others, divided by
            # the kernel; here by what no flip of signs changes, the even weight and the mean deviation.
            spread = (even[members] + np.abs(deviation[members] * size[members][..., None])).mean(0)
            scaled = some / np.sqrt(np.where(spread > 0, spread, 1.0))
            rng = stream(seen.seed, self.name, "flips", category)
            signs = np.concatenate(
                [np.ones((1, len(some))), 1.0 - 2.0 * rng.integers(0, 2, (FLIPS, len(some)))]
            )
            summed = (signs @ scaled.reshape(len(some), -1)).reshape(len(signs), *scaled.shape[1:])
            n = known[members].sum(0)
            pairs = np.where(n > 1, n * (n - 1.0), np.nan)
            effects = ((summed**2).sum(-1) - (scaled**2).sum((0, -1))) / pairs
            draws = effects + _mean(null[members])
            out[category] = Surrogates(draws[0], draws[1:], estimates_of(estimates[category]))
        return {"toeplitz_fraction": out}

    def units(self, n_prompts: int) -> tuple[str, int]:
        """Return that the units are draws: ways of flipping the signs of prompts."""
        return "draw", FLIPS

    # -------------------------------------------------------------------------------- as data

    def summary(self, result: Result) -> str:
        """Return how many heads are of each class, and what the strongest are."""
        data = result.data
        code, counts = data.head_class, data.heads_of_class
        named = ", ".join(
            f"{int(n)} {name.replace('_', '-')}" for name, n in zip(CLASSES, counts.values, strict=True) if n
        )
        sentences = [f"Of {code.size} heads, by stated rules: {named}."]
        where = code == CLASSES.index("delay")
        if bool(where.any()):
            lags, heads = np.unique(data.peak_lag.values[where.values], return_counts=True)
            each = ", ".join(f"{n} of {lag}" for lag, n in zip(lags, heads, strict=True))
            sentences.append(f"The delays, in tokens: {each}.")
        fraction = data.toeplitz_fraction.sel(category="all")
        if bool(fraction.notnull().any()):
            sentences.append(
                f"A kernel from other prompts explains {float(fraction.median()):.0%} of what is not "
                f"uniform in the median head (permuted keys: "
                f"{float(data.toeplitz_fraction_null.sel(category='all').median()):.0%})."
            )
        n_pairs = int((data.pair_layer >= 0).sum())
        if n_pairs:
            layer, a, b = (int(data[f"pair_{name}"][0]) for name in ("layer", "head_a", "head_b"))
            sentences.append(
                f"The opposed heads L{layer}H{a} and L{layer}H{b} pass frequencies around "
                f"{float(data.pair_frequency[0]):.2f} cycles per token together."
            )
        return " ".join(sentences)

    def views(self, result: Result) -> list[ViewSpec]:
        """Return responses, kernels, maps of the Toeplitz fraction, delay and class, pairs, and patterns."""
        data = result.data
        best = [str(name) for name in data.best_head.values]
        places = tuple((int(layer), int(head)) for layer, head in (name[1:].split("H") for name in best))
        views = [
            ViewSpec(
                kind="layer_head_map",
                title="What kind of filter each head is",
                says="The class of each head: "
                + ", ".join(f"{number} {name.replace('_', '-')}" for number, name in enumerate(CLASSES))
                + ".",
                misleads="classes have edges, and a head near one could be on its other side: see fractions.",
                variables=("head_class",),
                limits=(0.0, float(len(CLASSES) - 1)),
            ),
            ViewSpec(
                kind="layer_head_map",
                title="How much of the pattern the lag explains",
                says="Toeplitz fraction of each head: the share of what is not uniform in its attention that "
                "a kernel from other prompts accounts for.",
                misleads="where attention is nearly uniform, or nearly all on the first token, a large share "
                "is a share of next to nothing.",
                variables=("toeplitz_fraction",),
                select={"category": "all"},
                claim="toeplitz_fraction",
                colours="diverging",
                limits=(-1.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Toeplitz fraction over depth",
                says="Mean over heads of the Toeplitz fraction at each layer, beside the same weights on "
                "permuted keys, random weights and shuffled text.",
                misleads="the mean over heads hides single heads that are nearly pure filters: see the map.",
                variables=("toeplitz_fraction",),
                references=(
                    "toeplitz_fraction_null",
                    "toeplitz_fraction_random_weights",
                    "toeplitz_fraction_shuffled_tokens",
                ),
                select={"category": "all"},
            ),
            ViewSpec(
                kind="lines",
                title="Frequency responses of the heads that are most like filters",
                says="Gain by frequency of the kernel of single heads. 1 everywhere is a pure delay; what "
                "falls is an average.",
                misleads="the gain is that of the kernel alone, with the first token taken out; content is "
                "not in it.",
                variables=("gain_of_best",),
                over="frequency",
                series="best_head",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Kernels of the heads that are most like filters",
                says="Weight by lag, the first token taken out; the nearest lags.",
                misleads="the many small weights further back, which are not shown, can hold a good part.",
                variables=("kernel_of_best",),
                over="near_lag",
                series="best_head",
            ),
            ViewSpec(
                kind="lines",
                title="Mean response of each class",
                says="Mean gain by frequency of the heads of each class.",
                misleads="sinks and content heads have a kernel on paper only.",
                variables=("gain_of_class",),
                over="frequency",
                x_scale="log",
                series="class_name",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="image",
                title="Gain over depth",
                says="Mean gain of the heads of each layer, by frequency.",
                misleads="uniform attention is a low-pass too: compare with the random-weight twin.",
                variables=("gain_of_layer",),
                over="frequency",
                x_scale="log",
                down="layer",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="layer_head_map",
                title="Group delay",
                says="Mean lag of the kernel of each head, in tokens: by how much it delays slow changes.",
                misleads="uniform attention has a delay of half of the kernel; long prompts, long delays.",
                variables=("group_delay",),
            ),
            ViewSpec(
                kind="attention_heads",
                title="The heads that are most like filters",
                says="Attention of each query (row) to each key (column) on example prompts: a filter has "
                "stripes along the diagonal.",
                misleads="one prompt is an illustration, not evidence.",
                heads=places,
            ),
        ]
        if bool((data.pair_layer >= 0).any()):
            views.append(
                ViewSpec(
                    kind="lines",
                    title="What opposed heads pass together",
                    says="Gain of the difference of two heads of a layer that write opposite things, "
                    "strongest first: a band-pass, which no head alone can be.",
                    misleads="opposed is said by the cosine of their OV matrices; what tokens they read "
                    "decides how much there is to pass.",
                    variables=("pair_gain",),
                    over="frequency",
                    series="pair",
                )
            )
        return views

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the heads whose Toeplitz fraction exceeds that on permuted keys most surely."""
        low = result.data.toeplitz_fraction_effect_low.sel(category="all")
        return [
            Target(
                site="pattern",
                layer=layer,
                head=head,
                score=score,
                reason="Toeplitz fraction above permuted keys (lower 95 % bound)",
            )
            for layer, head, score in rank_heads(low, k)
        ]

    # ----------------------------------------------------------------------------------- planting

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a delay, a moving average, a comb and a sink, beside heads that look at content."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = torch.tensor([44, 30, 37, 40, 28, 48, 33, 46])
        n = int(lengths.max())
        query, key = np.mgrid[:n, :n]
        lag = query - key
        wanted = np.stack(
            [lag == 2, (lag >= 0) & (lag < 4), (lag >= 0) & (lag < 12) & (lag % 4 == 0), key == 0]
        )
        scores = 9.0 * wanted + rng.normal(0, 0.1, size=(len(lengths), 4, n, n))
        filters = softmax_rows(scores, facts, lengths)
        content = permuted_rows(rng, facts, lengths)

        def expect(data: xr.Dataset) -> None:
            codes = [CLASSES[int(code)] for code in data.head_class.sel(layer=0)]
            assert codes == ["delay", "low_pass", "comb", "sink"], f"the planted filters are called {codes}"
            effect = data.toeplitz_fraction_effect_low.sel(category="all")
            assert float(effect.sel(layer=0, head=[0, 1, 2]).min()) > self.minimum_effect, (
                "filters were missed"
            )
            delay = data.group_delay.sel(layer=0, head=[0, 1, 2]).values
            assert np.allclose(delay, [2.0, 1.5, 4.0], atol=0.1), f"the delays are {delay}"
            assert not bool((effect.sel(layer=1) > self.minimum_effect).any()), "content was called a filter"

        def aligned(layer: int) -> torch.Tensor:
            return torch.eye(facts.n_heads)

        layers = [{"pattern": filters}, {"pattern": content}]
        return Planted(layers, lengths, facts, expect, ov_alignment=aligned)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads whose weights stand on keys in random order."""
        facts = attention_facts(n_layers=2, n_heads=4)
        lengths = torch.tensor([44, 30, 37, 40, 28, 48, 33, 46])
        layers = [{"pattern": permuted_rows(rng, facts, lengths)} for _ in range(2)]

        def expect(data: xr.Dataset) -> None:
            low = data.toeplitz_fraction_effect_low.sel(category="all")
            assert not bool((low > self.minimum_effect).any()), "a filter was found in noise"

        def aligned(layer: int) -> torch.Tensor:
            return torch.eye(facts.n_heads)

        return Planted(layers, lengths, facts, expect, ov_alignment=aligned)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads whose keys can be exchanged, some with a peak: see `worlds.heads`."""
        planted = worlds.heads(rng, world, strength, "toeplitz_fraction")
        return replace(planted, ov_alignment=lambda layer: torch.eye(planted.facts.n_heads))


@functools.lru_cache(maxsize=16)
def _looked_at(seen: attention.Window, every: int, max_lag: int) -> tuple[attention.Window, torch.Tensor]:
    """Return the windows of the queries that are looked at, and how many keys each has beyond whole bins.

    Every layer of a batch asks for the same window.
    """
    some = seen.at(query_grid(seen.size.shape[-1], every).index.to(seen.size.device))
    edges = _edges(max_lag, seen.size.device)
    return some, (some.free - edges[_whole_bins(some, edges)]).clamp_min(0)


def _edges(max_lag: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(kernels.lag_edges(max_lag), device=device)


def _whole_bins(seen: attention.Window, edges: torch.Tensor) -> torch.Tensor:
    """Return how many bins of lags lie wholly in the window of each query, ``[row, query]``."""
    return torch.searchsorted(edges[1:], seen.free.contiguous(), right=True)


def _at_least(values: Array) -> Array:
    """Return for each index along the last axis the sum over it and those above."""
    return np.asarray(values[..., ::-1].cumsum(-1)[..., ::-1])


def _uniform(seeing: Array) -> Array:
    """Return the kernel of uniform attention at each layer, over the lags that any of its rows see."""
    seen = _at_least(seeing).max(1) > 0  # [layer, lag]
    seen[:, 0] = True
    return np.asarray(seen / seen.sum(-1, keepdims=True))


def _mean(rows: Array) -> Array:
    """Return the mean over prompts, those left out whose value is not-a-number."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, rows, 0.0).sum(0) / known.sum(0))
