"""How complex series along tokens are, by layer and site, and whether there is a maximum inside the depth."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp.complexity import (
    lempel_ziv_scale,
    lempel_ziv_words,
    median_split,
    participation_ratio,
    permutation_entropy,
    permuted_lempel_ziv,
)
from resonance_lens.dsp.spectra import periodogram
from resonance_lens.dsp.spectral_shape import spectral_entropy
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.profiles import inner_maximum
from resonance_lens.stats.samples import AnySample, of_prompts
from resonance_lens.stats.streams import stream

Floats = NDArray[np.float64]

SERIES = ("whitened", "projection", "norm")
"""Projections of the vectors with every dimension divided by its deviation in the prompt; of the vectors as
they are; the Euclidean norm of the vectors."""

ORDER = 3
"""Values of an ordinal pattern."""

SHORTEST = 16
"""Tokens of a prompt, the first one included."""

RESOLUTION = 1e-6
"""Relative to the size of the vectors: a series that varies less is constant in float32."""

INNER = {"lempel_ziv": 0.05, "permutation_entropy": 0.02, "participation_ratio": 1.0}
"""By how much an inner maximum must surely exceed both ends, in the units of each quantity."""


@register
@dataclass(frozen=True, kw_only=True)
class Complexity(Analysis):
    """How complex series along tokens are, by layer and site, and whether depth has a maximum inside.

    Of what each site holds, the first position left out, a handful of series along tokens is taken: random
    unit projections, always the same ones, of the vectors as they are (``series="projection"``) and with each
    dimension divided by its deviation in the prompt (``series="whitened"``), and the norm
    (``series="norm"``). Of each: the number of words that Lempel and Ziv's parsing (LZ76) makes of it when
    split at its median, over ``n / log2 n``; the entropy of the orders that three neighbouring values stand
    in; the entropy of its spectrum. Of the vectors: how many directions they fill, ``tr(C)^2 / ||C||^2``.

    Notes
    -----
    Complexity is not quality: white noise has the most. The number of words depends on the number of tokens,
    so it stands beside that of the same symbols in random order, in which a series without any order along
    tokens lies. A few dimensions hold most of the power of a residual stream, and then all projections are
    nearly one series: read ``series="whitened"`` first. An inner maximum ("edge of chaos") is one only if
    it surely exceeds both the first and the last layer, whichever of the inner layers is the highest.
    """

    name: ClassVar[str] = "complexity"
    title: ClassVar[str] = "Complexity of series along tokens, by layer and site"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_post", "attn_out", "mlp_out")
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = ("random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("permuted_tokens",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="lempel_ziv",
            long_name="Lempel-Ziv complexity (LZ76) over n / log2 n",
            units="1",
            null="permuted_tokens",
            against="the same symbols in random order of the tokens",
            dims=("series", "site", "layer"),
            family=("site", "layer"),
            places="layers and sites",
            minimum_effect=0.05,
            reading=(("series", "whitened"),),
        ),
    )
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "lempel_ziv"
    source: ClassVar[str] = (
        "Lempel and Ziv 1976, parsed as by Kaspar and Schuster 1987; permutation entropy: Bandt and Pompe "
        "2002; Zhang et al. 2024 (2410.02536) on complexity and the edge of chaos; SCIENCE 11."
    )
    undefined: ClassVar[tuple[str, ...]] = ("spectral_entropy", "participation_ratio")

    projections: int = parameter(
        8, minimum=1, maximum=64, help="how many random directions the vectors are projected on"
    )

    cloud: int = parameter(
        128,
        minimum=8,
        maximum=4096,
        help="tokens, evenly spaced, that the participation ratio is of, if a prompt has more",
    )

    @property
    def min_tokens(self) -> int:
        """A dozen symbols make a few words."""
        return SHORTEST

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the series of each site, and keep how many directions its vectors fill."""
        taken = [self._take(signals[site], where.lengths.tolist()) for site in self.sites]
        series = torch.stack([each for each, _ in taken], dim=1)
        clouds = zip(*(each for _, each in taken), strict=True)  # by prompt, of one size in each
        ratio = torch.stack([participation_ratio(torch.stack(each), 1, 2) for each in clouds])
        return Features.of(where.prompts, rows={"participation_ratio": ratio}, carry={"series": series})

    def _take(self, signal: Signal, lengths: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return series ``[batch, series, token]`` without the first position, and vectors of some tokens.

        Prompt by prompt, so that none depends on what it is padded to.
        """
        values = signal.values
        axes = directions(values.shape[2], self.projections).to(values)
        series = values.new_zeros(len(values), 2 * self.projections + 1, max(lengths) - 1)
        clouds = []
        for row, length in enumerate(lengths):
            vectors = values[row, 1:length]
            size = torch.linalg.vector_norm(vectors, dim=1)
            mean = vectors.mean(dim=0)
            centred = vectors - mean
            spread = (centred * centred).mean(dim=0).sqrt()  # a third of the time of torch.std_mean
            varies = spread > RESOLUTION * mean.abs()
            scale = torch.where(varies, 1 / torch.where(varies, spread, 1.0), 0.0)
            made = centred @ torch.cat([axes * scale[:, None], axes], dim=1)  # [token, series]
            made = torch.cat([made, (size - size.mean())[:, None]], dim=1).T
            # Whitened dimensions are of the size of one; what is left of others may be rounding.
            unit = size.amax().expand(len(made), 1).clone()
            unit[: self.projections] = 1.0
            flat = made.abs().amax(dim=1, keepdim=True) <= RESOLUTION * unit
            series[row, :, : length - 1] = torch.where(flat, 0.0, made)
            clouds.append(vectors[spaced(length - 1, self.cloud)])
        return series, clouds

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return the complexities of all layers, averaged over projections."""
        series = torch.stack([features.carry["series"] for features in layers], dim=2)
        # [batch, site, layer, series, token] -> [batch, series, site, layer, token]
        series = series.permute(0, 3, 1, 2, 4)
        lengths = (where.lengths - 1).to(series.device)[:, None, None, None]
        words, permuted = _words(median_split(series, -1, lengths=lengths), where.lengths - 1)
        measured = {
            "lempel_ziv": words,
            "lempel_ziv_null": permuted,
            "permutation_entropy": permutation_entropy(series, -1, order=ORDER, lengths=lengths),
            "spectral_entropy": _spectral_entropy(series, where.lengths - 1),
        }
        ratio = np.stack([features.rows["participation_ratio"] for features in layers], axis=2)
        rows = {name: self._means(values) for name, values in measured.items()}
        return Features.of(where.prompts, rows={**rows, "participation_ratio": ratio})

    def _means(self, values: Tensor) -> Tensor:
        """Return ``[batch, 3, site, layer]`` from values of each series, in the order of `SERIES`."""
        whitened, projection, norm = values.split([self.projections, self.projections, 1], dim=1)
        return torch.stack([whitened.mean(dim=1), projection.mean(dim=1), norm.squeeze(1)], dim=1)

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return each quantity over depth, and the inner maximum of those that could have one."""
        rows = seen.plain.rows
        out = Labelled(seen, self.name, {"series": list(SERIES), "site": list(self.sites)})
        dims = ("series", "site", "layer")
        out.add_mean(
            "permutation_entropy", dims, rows["permutation_entropy"],
            f"permutation entropy of order {ORDER} over its maximum", "1", by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "spectral_entropy", dims, rows["spectral_entropy"],
            "spectral entropy over its maximum; not-a-number: no spread", "1", by_prompt=True,
        )  # fmt: skip
        out.add_mean(
            "participation_ratio", ("site", "layer"), rows["participation_ratio"],
            "directions that the vectors fill; not-a-number: no spread", "directions", by_prompt=True,
        )  # fmt: skip
        for condition in seen.features if seen.intervals else ():
            self._add_inner(out, seen, condition)
        return out.dataset()

    def _add_inner(self, out: Labelled, seen: Accumulated, condition: str) -> None:
        """Add where each quantity has an inner maximum, and by how much it exceeds the ends."""
        end = "" if condition == "plain" else f"_{condition}"
        under = "" if condition == "plain" else f", {condition.replace('_', ' ')}"
        rows = seen.features[condition].rows
        for name, smallest in INNER.items():
            dims = ("category", *(("site",) if name == "participation_ratio" else ("series", "site")))
            found = []
            for members in seen.groups.values():
                values = rows[name][members]
                places = values.reshape(len(values), -1, values.shape[-1])
                each = [inner_maximum(places[:, place], smallest) for place in range(places.shape[1])]
                found.append(np.array(each).reshape(*values.shape[1:-1], 4))
            layer, gain, low, high = np.moveaxis(np.stack(found), -1, 0)
            at = np.array([np.nan, *seen.layers], dtype=float)[layer.astype(int) + 1]
            what = name.replace("_", " ")
            out.add(
                f"{name}_inner_layer{end}", dims, at,
                f"layer of the inner maximum of the {what}{under}; not-a-number: none", "layer",
            )  # fmt: skip
            about = f"{what} of the best inner layer minus that of the higher end{under}"
            about += "; not-a-number: fewer than three layers or prompts"
            units = "directions" if name == "participation_ratio" else "1"
            for bound, values in (("", gain), ("_low", low), ("_high", high)):
                words = {"": "", "_low": ", lower 95 % bound", "_high": ", upper 95 % bound"}[bound]
                first, *rest = about.split(";")
                out.add(
                    f"{name}_inner_gain{end}{bound}", dims, values, ";".join([first + words, *rest]), units
                )

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the words of each prompt beside the mean over random orders of its tokens."""
        rows = seen.plain.rows
        return {"lempel_ziv": of_prompts(rows["lempel_ziv"], rows["lempel_ziv_null"], seen.groups)}

    def summary(self, result: Result) -> str:
        """Return how ordered the residual stream is over depth, and which inner maxima it has."""
        data = result.data.sel(category="all", series="whitened", site="resid_post")
        effect = data.lempel_ziv_effect.values
        least = int(data.layer[int(effect.argmin())])
        said = (
            "Against random order of the tokens, the Lempel-Ziv complexity of the whitened residual stream "
            f"is {effect[0]:+.3f} after the first layer and {effect[-1]:+.3f} after the last; it is furthest "
            f"below at layer {least} ({effect.min():+.3f})."
        )
        if np.isnan(float(data.lempel_ziv_inner_gain)):
            return f"{said} Fewer than three layers, or prompts, cannot show an inner maximum."
        verdicts = []
        for name, what in (("lempel_ziv", "it"), ("participation_ratio", "the participation ratio")):
            layer, gain, low, high = (
                float(data[f"{name}_inner_{end}"]) for end in ("layer", "gain", "gain_low", "gain_high")
            )
            where = "no inner maximum" if np.isnan(layer) else f"an inner maximum at layer {layer:.0f}"
            verdicts.append(
                f"{what} has {where} (best inner layer minus the higher end: {gain:.2g}, "
                f"95 % interval {low:.2g} to {high:.2g})"
            )
        return f"{said} Inside the depth {'; '.join(verdicts)}."

    def views(self, result: Result) -> list[ViewSpec]:
        """Return each quantity over depth, beside its null and baselines."""

        def beside(name: str) -> tuple[str, ...]:
            return (f"{name}_random_weights", f"{name}_shuffled_tokens")

        whitened = {"category": "all", "series": "whitened"}
        return [
            ViewSpec(
                kind="lines",
                title="Lempel-Ziv complexity over depth",
                says="Words of the whitened series of each layer over n / log2 n, beside the same symbols in "
                "random order of the tokens, random weights and shuffled text. Below the null: neighbouring "
                "tokens have something in common.",
                misleads="it depends on the length of the prompts, and most of it is on any series: read the "
                "distance from the null.",
                variables=("lempel_ziv",),
                references=("lempel_ziv_null", *beside("lempel_ziv")),
                select=whitened,
                panels="site",
                claim="lempel_ziv",
            ),
            ViewSpec(
                kind="lines",
                title="Complexity of projections and of the norm",
                says="The same for the vectors as they are, whitened, and for their norm, in the residual "
                "stream.",
                misleads="where a few dimensions hold most of the power, all raw projections are one series.",
                variables=("lempel_ziv_effect",),
                select={"category": "all", "site": "resid_post"},
                series="series",
            ),
            ViewSpec(
                kind="lines",
                title="Permutation entropy over depth",
                says="Entropy of the orders that three neighbouring values of the whitened series stand in; "
                "1: every order as often.",
                misleads="it is the finest grain only: a slow wave with a little noise on it has all orders.",
                variables=("permutation_entropy",),
                references=beside("permutation_entropy"),
                select=whitened,
                panels="site",
            ),
            ViewSpec(
                kind="lines",
                title="Spectral entropy over depth",
                says="Entropy of the periodogram of the whitened series; white noise of many tokens is near "
                "1 - 0.42 / ln(n / 2).",
                misleads="a periodogram is as noisy in a long prompt as in a short one.",
                variables=("spectral_entropy",),
                references=beside("spectral_entropy"),
                select=whitened,
                panels="site",
            ),
            ViewSpec(
                kind="lines",
                title="Directions that the vectors fill",
                says="Participation ratio of the covariance over tokens, of at most as many tokens as set.",
                misleads="one dimension with most of the variance makes it 1 whatever the others do, and few "
                "tokens keep it small.",
                variables=("participation_ratio",),
                references=beside("participation_ratio"),
                select={"category": "all"},
                panels="site",
                y_scale="log",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers whose whitened series are surest below random order of the tokens."""
        bound = result.data.lempel_ziv_effect_high.sel(category="all", series="whitened")
        places = [
            (-float(value), str(value.site.item()), int(value.layer.item()))
            for row in bound
            for value in row
            if float(value) < 0
        ]
        best = sorted(places, key=lambda place: -place[0])[:k]
        return [
            Target(
                site=site,
                layer=layer,
                score=score,
                reason="Lempel-Ziv complexity below that of random order of the tokens, at least",
            )
            for score, site, layer in best
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return series whose order along tokens is strongest at the ends of the depth."""
        lengths = torch.tensor([60, 44, 52, 70, 48, 65, 57, 50])
        following = (0.95, 0.6, 0.0, 0.6, 0.95)
        layers = _layers(rng, lengths, [{site: rho for site in self.sites} for rho in following])
        facts = attention_facts(n_layers=len(following), n_heads=1, d_model=D_MODEL)

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all", series="whitened", site="resid_post")
            effect = data.lempel_ziv_effect.values
            assert bool((effect[[0, 4]] < -self.minimum_effect).all()), "the order along tokens was not found"
            assert abs(effect[2]) < self.minimum_effect, "order was found where there is none"
            found = float(data.lempel_ziv_inner_layer)
            assert found == 2, f"the planted inner maximum is at layer 2, not at {found}"

        return Planted(layers, lengths, facts, expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return series without any order along tokens, at any layer."""
        lengths = torch.tensor([60, 44, 52, 70, 48, 65, 57, 50])
        layers = _layers(rng, lengths, [{site: 0.0 for site in self.sites}] * 5)
        facts = attention_facts(n_layers=5, n_heads=1, d_model=D_MODEL)

        def expect(data: xr.Dataset) -> None:
            data = data.sel(category="all")
            far = data.lempel_ziv_effect_high.sel(series="whitened") < -self.minimum_effect
            assert not bool(far.any()), "order along tokens was found in noise"
            assert bool(data.lempel_ziv_inner_layer.isnull().all()), "an inner maximum was found in noise"

        return Planted(layers, lengths, facts, expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return vectors whose tokens can be exchanged, in some layers and sites with order along them.

        Layers are independent; follow the layer before (``autocorrelated``); come in prompts of very unequal
        lengths; or hold mostly one number for each token, the same at all layers and sites (``persistent``).
        """
        n_layers = 4
        lengths = worlds.lengths(rng, world, worlds.PROMPTS)
        if world == "unequal":
            lengths = torch.as_tensor(np.geomspace(SHORTEST, 64, worlds.PROMPTS).round().astype(np.int64))
        facts = attention_facts(n_layers=n_layers, n_heads=1, d_model=D_MODEL)
        rho = strength / (1 + strength)
        truth = np.zeros((len(self.sites), n_layers), dtype=bool)
        if strength > 0:
            truth[0, -2:] = truth[2, -1] = True
        places = [
            {site: rho if truth[at, layer] else 0.0 for at, site in enumerate(self.sites)}
            for layer in range(n_layers)
        ]
        layers = _layers(rng, lengths, places, world)
        return Planted(layers, lengths, facts, _nothing, truth={"lempel_ziv": truth})


D_MODEL = 16
"""Of the models that are imagined for what is planted."""


@functools.lru_cache(maxsize=16)
def directions(d_model: int, n: int) -> Tensor:
    """Return random unit vectors ``[d_model, n]``, the same in every run."""
    drawn = stream(0, "complexity", "directions", d_model).normal(size=(n, d_model)).T
    return torch.from_numpy(np.ascontiguousarray(drawn / np.linalg.norm(drawn, axis=0)))


def spaced(n: int, most: int) -> Tensor:
    """Return at most so many of n positions, evenly spaced, the last one included."""
    count = min(n, most)
    return ((torch.arange(1, count + 1) * n) // count) - 1


def _words(symbols: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return words over their scale, and the mean over orders: both ``[batch, series, site, layer]``."""
    shape, counts = symbols.shape[:-1], lengths.cpu().numpy()
    each = np.repeat(counts, int(np.prod(shape[1:])))
    flat = symbols.reshape(len(each), -1).cpu().numpy()
    scale = lempel_ziv_scale(each)
    ones = flat.sum(axis=1)
    pairs, which = np.unique(np.stack([each, ones]), axis=1, return_inverse=True)
    permuted = np.array([permuted_lempel_ziv(int(n), int(k)) for n, k in pairs.T])[which.ravel()]
    found = (lempel_ziv_words(flat, each) / scale, permuted / scale)
    words, mean = (torch.from_numpy(values).reshape(shape) for values in found)
    return words, mean


def _spectral_entropy(series: Tensor, lengths: Tensor) -> Tensor:
    """Return the entropy of the periodogram of each series, the mean left out, over its maximum."""
    out = series.new_full(series.shape[:-1], torch.nan, dtype=torch.float64)
    for length in torch.unique(lengths).tolist():
        which = torch.nonzero(lengths == length).squeeze(1).to(series.device)
        power = periodogram(series[which][..., :length], -1).power[..., 1:]
        some = power.sum(dim=-1) > 0
        found = spectral_entropy(torch.where(some[..., None], power, 1.0), normalise=True).double()
        out[which] = torch.where(some, found, torch.nan)
    return out


def _layers(
    rng: np.random.Generator,
    lengths: Tensor,
    places: Sequence[Mapping[str, float]],
    world: str = "iid",
) -> list[dict[str, Tensor]]:
    """Return vectors of each layer and site, whose tokens follow each other as much as ``places`` says."""
    shape = (len(lengths), int(lengths.max()), D_MODEL)
    own = shared = np.zeros(shape)
    if world == "persistent":
        own = 3 * rng.normal(size=(shape[0], 1, D_MODEL))
        shared = 4 * rng.normal(size=(*shape[:2], 1)) * rng.normal(size=(shape[0], 1, D_MODEL))
    layers: list[dict[str, Tensor]] = []
    before: dict[str, Floats] = {}
    for place in places:
        made: dict[str, Tensor] = {}
        for site, rho in place.items():
            noise = rng.normal(size=shape)
            if world == "autocorrelated" and site in before:
                keep = worlds.FOLLOWING
                noise = keep * before[site] + np.sqrt(1 - keep**2) * noise
            before[site] = noise
            drawn = _following(noise + shared, rho) + own
            size = _following(rng.normal(size=(*shape[:2], 1)), rho)
            made[site] = torch.as_tensor(drawn * np.exp(0.7 * size), dtype=torch.float32)
        layers.append(made)
    return layers


def _following(drawn: Floats, rho: float) -> Floats:
    """Return numbers ``[prompt, token, ...]`` that follow each other along tokens: AR(1), stationary."""
    out: Floats = drawn.copy()
    for t in range(1, drawn.shape[1]):
        out[:, t] = rho * out[:, t - 1] + np.sqrt(1 - rho**2) * drawn[:, t]
    return out


def _nothing(data: object) -> None:
    """Expect nothing: what a trial found is counted, not judged."""
