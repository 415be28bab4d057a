"""What can be read from each band along the tokens, at each layer: word class, position, category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.contract import Accumulated, Analysis, Evidence, Planted, Where, parameter
from resonance_lens.dsp.cosine import PRISM_BANDS, dct_band
from resonance_lens.features import Features, stack_layers
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.cross_validation import FEWEST_FOLDS, Labelling, deal_folds, held_out
from resonance_lens.stats.intervals import FEWEST
from resonance_lens.stats.streams import stream

Array = NDArray[Any]

ALL = "all"
BANDS = (ALL, *(band.name for band in PRISM_BANDS))
POSITION, CATEGORY = "position", "category"

SHUFFLES = 1
"""Labellings that mean nothing, whose scores are averaged."""

FEWEST_OF_CATEGORY = FEWEST_FOLDS
"""Prompts that a category needs; those of others are left out where the category is read."""

DIMS = ("label", "band", "layer")
SHOWN = (ALL, BANDS[1], BANDS[-1])
"""Bands over depth, beside the one from which most is read."""

MISLEADS = {
    POSITION: "what is slow is a smooth function of position in every prompt; it is read only where that "
    "function is the same in all of them.",
    CATEGORY: "in bands other than the low one the values of each prompt add up to zero, so that no linear "
    "probe of single tokens can read a label of all of it.",
}
MISLEADS_WORDS = "a label that the word decides is read from anything that knows the word."

MISSING = -1
UNREAD = "not-a-number: too few prompts or classes, or no prompts that are long enough for the band"


@register
@dataclass(frozen=True, kw_only=True)
class SpectralProbe(Analysis):
    """Read labels of tokens and prompts from each band along the tokens, at each layer, with linear probes.

    The residual stream of a prompt, its first position left out, is filtered into the five Prism bands of the
    cosine transform along the tokens; ``band="all"`` is their sum, the stream itself. Probes see some tokens
    of each prompt, through a fixed random sketch of so many directions. They read a class of each token by a
    rule (by default ``word_class``), its ``position`` and, where prompts have two categories or more, the
    ``category`` of its prompt.

    Probes are linear discriminants and ridge regressions. Prompts are dealt to five folds: each fold is
    predicted by probes that were learned on three others, with the regularisation that the fifth chose.
    ``score`` is the share of the tokens of a prompt that are predicted right; of the position, the share of
    its variance within the prompt that is explained, which is below zero where a constant would do better.
    Beside it stand the most frequent class (``_majority``), the same probe on shuffled labels
    (``_shuffled``): dealt anew to the tokens within each prompt, or to the prompts; and the same probe on
    random vectors of the words in the same bands (``_random_features``), which know what each token is and
    nothing else. ``selectivity`` is the score less that of shuffled labels.

    Notes
    -----
    A label that the word alone decides is read from anything that knows the word: compare with
    ``score_random_features``. In a band without frequency 0 the values of a prompt add up to zero, so that a
    label of the whole prompt has the same mean, zero, whatever it is, and no linear probe of single tokens
    can read it: that a category is read from ``band="low"`` is arithmetic before it is a finding. What is
    slow is a smooth function of the position by itself; a position is read across prompts only where that
    function is the same in all of them. The best of many places is too good: there is no p. A sketch loses
    some of what is there, a filter looks ahead, and what can be read need not be used.
    """

    name: ClassVar[str] = "spectral_probe"
    title: ClassVar[str] = "What can be read from each band along the tokens, layer by layer"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("resid_post",)
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    evidence: ClassVar[Evidence] = "measured"
    baselines: ClassVar[tuple[str, ...]] = (
        "majority",
        "shuffled",
        "random_features",
        "random_weights",
        "shuffled_tokens",
    )
    nulls: ClassVar[tuple[str, ...]] = ()
    minimum_effect: ClassVar[float] = 0.05
    headline: ClassVar[str] = "score"
    source: ClassVar[str] = (
        "Bands of Tamkin et al. (2020), arXiv 2011.04823; selectivity of Hewitt and Liang (2019), arXiv "
        "1909.03368, with labels shuffled within prompts."
    )

    rule: str = parameter(
        "word_class",
        choices=("word_class", "function_word", "capital", "digit", "punctuation", "word_initial"),
        help="what gives tokens classes",
    )
    site: str = parameter(
        "resid_post", choices=("resid_post", "attn_out", "mlp_out"), help="what is filtered and read"
    )
    tokens: int = parameter(
        16, minimum=4, maximum=256, help="tokens of each prompt that probes see, drawn at random"
    )
    sketch: int = parameter(
        48,
        minimum=8,
        maximum=1024,
        help="directions of the random sketch; or all features, if fewer",
    )

    @property
    def observes(self) -> tuple[str, ...]:
        """The site that is read."""
        return (self.site,)

    @property
    def min_tokens(self) -> int:
        """A record needs a few tokens behind the first one, so that it has a high and a middle band."""
        return 9

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Return the bands of some tokens of each prompt, in the sketch."""
        values = signals[self.site].values
        directions = _directions(where.seed, values.shape[-1], self.sketch).to(values.device)
        found = []
        for row, length in enumerate(where.lengths.tolist()):
            record = values[row, 1:length].double() @ directions  # [token, direction]
            found.append(self._in_bands(record, self._drawn(where, row)))
        return Features.of(where.prompts, rows={"values": torch.stack(found)})  # [prompt, band, token, ...]

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Stack the layers, and add what is known of the tokens, which is the same at all of them."""
        stacked = stack_layers(layers)
        width = stacked.rows["values"].shape[-1]
        rows: dict[str, list[Any]] = {"lots": [], POSITION: [], "class": [], "words": []}
        for row, length in enumerate(where.lengths.tolist()):
            ids, drawn = where.tokens[row, :length], self._drawn(where, row)
            classes = where.token_labels(self.rule, ids[None])[0].cpu().numpy()[1:][drawn]
            rng = _stream(where, row, "labels")
            rows["lots"].append(rng.random(1 + SHUFFLES))
            rows[POSITION].append(self._filled(_with_shuffled(rng, drawn + 1)))
            rows["class"].append(self._filled(_with_shuffled(rng, classes)))
            words = torch.stack([_vector(where.seed, int(i), width) for i in ids[1:]])
            rows["words"].append(self._in_bands(words, drawn).numpy())
        made: dict[str, Any] = {name: np.array(each) for name, each in rows.items()}
        added = Features.of(where.prompts, rows={"length": where.lengths, **made})
        return replace(stacked, rows={**stacked.rows, **added.rows})

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return what is read of each label in each band at each layer, and what stands beside it."""
        rows = seen.plain.rows
        labels = self._labels(seen)
        n = 1 + SHUFFLES if seen.intervals else 1  # of a baseline only the score is kept
        score, shuffled = _read(rows["values"], labels, _resolved(rows["length"]), n)
        out = Labelled(seen, self.name, {"label": list(labels), "band": list(BANDS)})
        words = f"accuracy, or R squared; {UNREAD}"
        out.add_mean("score", DIMS, score, words, "1", by_prompt=True)
        if seen.intervals:
            self._add_controls(out, seen, labels, score, shuffled)
        about = {"rule": self.rule, "site": self.site, "tokens": self.tokens}
        return out.dataset({**about, "sketch": rows["values"].shape[-1]})

    def summary(self, result: Result) -> str:
        """Return for each label in which band it is read best, or why it is not read."""
        data = result.data.sel(category="all")
        if not bool(data.score.notnull().any()):
            return f"Nothing is read: a probe needs {FEWEST} prompts that differ, and labels that do."
        labels = [str(label) for label in data.label.values]
        said = [_said(data.sel(label=label), label, self.minimum_effect) for label in labels]
        if CATEGORY not in labels:
            said.append("No category is read: the prompts do not have two.")
        said.append(_shape(data, self.rule, self.minimum_effect))
        return " ".join(each for each in said if each)

    def views(self, result: Result) -> list[ViewSpec]:
        """Return maps of bands and layers, and scores over depth beside their controls."""
        made = []
        for label in map(str, result.data.label.values):
            what = "R squared" if label == POSITION else "accuracy"
            whole: dict[str, Any] = {"category": "all", "label": label}
            here = result.data.score.sel(whole)
            bands = [band for band in BANDS if bool(here.sel(band=band).notnull().any())]
            if not bands:
                continue
            best = ALL if bands == [ALL] else str(_best(result.data.sel(whole)).band.values)
            shown = [band for band in bands if band in SHOWN or band == best]
            made += [
                ViewSpec(
                    kind="matrix",
                    title=f"{label}: {what} by band and layer",
                    says="What linear probes read of the label in each band, on prompts that they have not "
                    "seen.",
                    misleads=MISLEADS.get(label, MISLEADS_WORDS),
                    variables=("score",),
                    select=whole,
                ),
                ViewSpec(
                    kind="lines",
                    title=f"{label}: {what} over depth",
                    says="The same beside the most frequent class, shuffled labels, random vectors of the "
                    "words, random weights and shuffled tokens.",
                    misleads="layers are not independent: what the stream hands on can be read again.",
                    variables=("score",),
                    references=(
                        "score_majority",
                        "score_shuffled",
                        "score_random_features",
                        "score_random_weights",
                        "score_shuffled_tokens",
                    ),
                    select={**whole, "band": shown},
                    panels="band",
                ),
            ]
        return made

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers from which most is surely read that the words alone do not say.

        Of classes of tokens and prompts: positions are read from a model with random weights as well.
        """
        low = result.data.beyond_random_features_low.sel(category="all").drop_sel(label=POSITION)
        low = low.stack(place=("label", "band"))
        values = np.nan_to_num(low.transpose("layer", "place").values, nan=-1.0)
        found = []
        for at in np.argsort(-values.max(1), kind="stable")[:k]:
            if values[at].max() <= 0:
                break
            label, band = low.place.values[int(values[at].argmax())]
            reason = (
                f"{label} is read from the band {band!r}, above random vectors of words (lower 95 % bound)"
            )
            score = float(values[at].max())
            found.append(Target(site=self.site, layer=int(low.layer[at]), score=score, reason=reason))
        return found

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer with classes of words in the high band, and one with a trend along the tokens."""
        return _planted(rng, self, strength=3.0)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return vectors from which nothing can be read."""
        return _planted(rng, self, strength=0.0)

    # ------------------------------------------------------------------------------------------

    def _add_controls(
        self,
        out: Labelled,
        seen: Accumulated,
        labels: Mapping[str, _Label],
        score: Array,
        shuffled: Array,
    ) -> None:
        """Add what the scores are held against, and what is left of them."""
        rows, known = seen.plain.rows, ~np.isnan(score)
        words = f"the same on shuffled labels; {UNREAD}"
        out.add_mean("score_shuffled", DIMS, shuffled, words, "1", interval=False)
        random, _ = _read(rows["words"][:, None], labels, _resolved(rows["length"]), 1)
        random = np.where(known, random, np.nan)
        words = f"the same from random vectors of the words; {UNREAD}"
        out.add_mean("score_random_features", DIMS, random, words, "1", interval=False)
        resolved = _resolved(rows["length"])
        often = np.stack([_majority(label, resolved) for label in labels.values()], axis=1)
        often = np.where(known, often[..., None], np.nan)
        words = f"the same of the most frequent class, or of the mean position; {UNREAD}"
        out.add_mean("score_majority", DIMS, often, words, "1", interval=False)
        words = f"score less that on shuffled labels; {UNREAD}"
        out.add_mean("selectivity", DIMS, score - shuffled, words, "1")
        words = f"score less that from random vectors of the words; {UNREAD}"
        out.add_mean("beyond_random_features", DIMS, score - random, words, "1")
        counted = known.any(-1).sum(0)
        out.add("n_prompts", DIMS[:2], counted, "prompts that are measured", "prompts")
        classes = [label.n_found for label in labels.values()]
        out.add("n_classes", DIMS[:1], classes, "classes that occur; 0: ordered values", "classes")

    def _labels(self, seen: Accumulated) -> dict[str, _Label]:
        """Return the labels that there are, those of tokens first."""
        rows = seen.plain.rows
        classes = rows["class"].swapaxes(0, 1)  # [labelling, prompt, token]
        folds = np.tile(deal_folds(rows["lots"][:, 0], seen.categories), (len(classes), 1))
        found = {
            self.rule: _Label(classes, max(int(classes.max()) + 1, 1), folds),
            POSITION: _Label(rows[POSITION].swapaxes(0, 1), 0, folds),
        }
        if len({category for category in seen.categories if category is not None}) > 1:
            found[CATEGORY] = _of_categories(seen.categories, rows)
        return found

    def _drawn(self, where: Where, row: int) -> Array:
        """Return which tokens behind the first of a prompt are kept: the same at all layers."""
        n = int(where.lengths[row]) - 1
        return np.sort(_stream(where, row, "tokens").choice(n, size=min(self.tokens, n), replace=False))

    def _in_bands(self, record: Tensor, drawn: Array) -> Tensor:
        """Return the Prism bands of some tokens of a record: ``[band, token, feature]``, zeros at the end."""
        filters = _filters(len(record), tuple(drawn.tolist())).to(record.device)
        return torch.nn.functional.pad(filters @ record, (0, 0, 0, self.tokens - len(drawn)))

    def _filled(self, values: Array) -> Array:
        """Return labels ``[labelling, token]`` with the tokens that a short prompt has not."""
        return np.pad(values, ((0, 0), (0, self.tokens - values.shape[1])), constant_values=MISSING)


@dataclass(frozen=True, eq=False)
class _Label:
    """A label, and labels that mean nothing.

    Attributes
    ----------
    values
        ``[labelling, prompt, token]``: the label itself first; below zero where there is none.
    n_classes
        Of classes; 0 for ordered values.
    folds
        ``[labelling, prompt]``: what is held out together, with its share of each class of prompts.
    """

    values: Array
    n_classes: int
    folds: Array

    @property
    def n_found(self) -> int:
        """How many classes occur; 0 for ordered values."""
        return len(np.unique(self.values[0][self.values[0] >= 0])) if self.n_classes else 0


def _of_categories(categories: Sequence[str | None], rows: Mapping[str, Array]) -> _Label:
    """Return the category of each prompt at each of its tokens, and categories dealt anew to prompts.

    What is dealt to whom the lots of the prompts decide, and not their order.
    """
    names = sorted({name for name in categories if name is not None})
    enough = [name for name in names if list(categories).count(name) >= FEWEST_OF_CATEGORY]
    codes = np.array([enough.index(name) if name in enough else MISSING for name in categories])
    # Among prompts that are long enough for the same bands: no band has other classes than its own.
    alike = np.unique(_resolved(rows["length"]), axis=0, return_inverse=True)[1].ravel()
    groups = [np.flatnonzero((codes >= 0) & (alike == group)) for group in range(alike.max() + 1)]
    columns = [codes]
    for lots in rows["lots"].T[1:]:
        dealt = codes.copy()
        for members in groups:
            dealt[members[np.argsort(lots[members], kind="stable")]] = np.sort(codes[members])
        columns.append(dealt)
    # Each has folds of its own: a fold with more of a class leaves less of it to learn from, and a probe that
    # knows nothing would do worse than chance.
    folds = [deal_folds(rows["lots"][:, 0], [f"{code:09d}" for code in column]) for column in columns]
    there = rows[POSITION][:, 0] >= 0  # [prompt, token]
    values = np.where(there, np.array(columns)[..., None], MISSING)
    return _Label(values, max(len(enough), 1), np.array(folds))


def _read(
    values: Array, labels: Mapping[str, _Label], resolved: Array, n_labellings: int
) -> tuple[Array, Array]:
    """Return scores of prompts, ``[prompt, label, band, layer]``, and their mean over shuffled labels.

    Parameters
    ----------
    values
        ``[prompt, layer, band, token, feature]``, of the Prism bands.
    labels
        By name.
    resolved
        ``[prompt, band]``: which bands prompts are long enough for.
    n_labellings
        How many of each label are read; the first is the label itself.
    """
    n_prompts, n_layers = values.shape[:2]
    scores = np.full((n_labellings, n_prompts, len(labels), len(BANDS), n_layers), np.nan)
    those = list(labels.values())
    for band in range(len(BANDS)):
        # What is known of the same tokens, with the same folds, shares a decomposition.
        alike: dict[tuple[bytes, bytes], list[tuple[int, int]]] = {}
        for at, label in enumerate(those):
            known = (label.values[0] >= 0) & resolved[:, band, None]
            folds = label.folds[0][known.any(1)]
            few = label.n_classes and len(np.unique(label.values[0][known])) < 2
            if few or len(folds) < FEWEST or len(np.unique(folds)) < FEWEST_FOLDS:
                continue
            for which in range(n_labellings):
                key = (known.tobytes(), label.folds[which].tobytes())
                alike.setdefault(key, []).append((which, at))
        for (mask, dealt), places in alike.items():
            known = np.frombuffer(mask, dtype=bool).reshape(n_prompts, -1)
            prompts, tokens = np.nonzero(known)
            folds = np.frombuffer(dealt, dtype=np.int64)[prompts]
            labellings = [
                Labelling(those[at].values[which][known], those[at].n_classes) for which, at in places
            ]
            for layer in range(n_layers):
                here = values[:, layer]
                features = (here.sum(1) if BANDS[band] == ALL else here[:, band - 1])[prompts, tokens]
                predicted = held_out(features, labellings, folds)
                for (which, at), labelling, found in zip(places, labellings, predicted, strict=True):
                    scores[which, :, at, band, layer] = _scored(labelling, found, prompts, n_prompts)
    return scores[0], scores[1:].mean(0) if n_labellings > 1 else np.full_like(scores[0], np.nan)


def _scored(labelling: Labelling, predicted: Array, prompts: Array, n_prompts: int) -> Array:
    """Return the accuracy in each prompt, or the share of the variance within it that is explained."""

    def mean(values: Array) -> Array:
        count = np.bincount(prompts, minlength=n_prompts)
        total = np.bincount(prompts, weights=values, minlength=n_prompts)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    if labelling.n_classes:
        return mean(predicted == labelling.values)
    wrong = labelling.values - predicted
    left = mean((wrong - mean(wrong)[prompts]) ** 2)
    spread = mean((labelling.values - mean(labelling.values)[prompts]) ** 2)
    return np.asarray(1 - left / np.where(spread > 0, spread, np.nan))


def _majority(label: _Label, resolved: Array) -> Array:
    """Return how often the most frequent class of the other folds is right, ``[prompt, band]``.

    Of the prompts that are long enough for the band.
    """
    values, folds = label.values[0], label.folds[0]
    if not label.n_classes:
        return np.zeros(resolved.shape)
    counts = np.stack([(values == c).sum(1) for c in range(label.n_classes)], axis=1)  # [prompt, class]
    apart = folds[:, None] != folds  # [prompt, other prompt]
    others = np.einsum("po,ob,oc->pbc", apart.astype(np.int64), resolved.astype(np.int64), counts)
    right = np.take_along_axis(counts, others.argmax(-1), axis=1)  # [prompt, band]
    total = counts.sum(1)[:, None]
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def _resolved(lengths: Array) -> Array:
    """Return which bands prompts are long enough for, ``[prompt, band]``: all of them for the whole."""
    edges = [[band.indices(n - 1) for band in PRISM_BANDS] for n in lengths.tolist()]
    return np.array([[True, *(stop > first for first, stop in each)] for each in edges])


@lru_cache(maxsize=64)  # the prompts of a batch, whom every layer asks for
def _filters(n: int, drawn: tuple[int, ...]) -> Tensor:
    """Return what makes the Prism bands of some tokens of a record of n: ``[band, token, n]``."""
    chosen = torch.zeros(n, len(drawn), dtype=torch.float64)
    chosen[list(drawn), range(len(drawn))] = 1.0
    found = []
    for band in PRISM_BANDS:
        first, stop = band.indices(n)
        # A projection is its own transpose.
        found.append((dct_band(chosen, 0, band) if stop > first else torch.zeros_like(chosen)).T)
    return torch.stack(found)


@lru_cache(maxsize=4)
def _directions(seed: int, width: int, n: int) -> Tensor:
    """Return random directions ``[feature, direction]``, or all features if there are no more."""
    if n >= width:
        return torch.eye(width, dtype=torch.float64)
    drawn = stream(seed, SpectralProbe.name, "sketch", width).standard_normal((width, n))
    return torch.from_numpy(drawn / np.sqrt(n))


@lru_cache(maxsize=8192)
def _vector(seed: int, word: int, width: int) -> Tensor:
    """Return the random vector of a word."""
    return torch.from_numpy(stream(seed, SpectralProbe.name, "word", word).standard_normal(width))


def _stream(where: Where, row: int, what: str) -> np.random.Generator:
    """Return a stream of the words of a prompt, whatever their order and that of the prompts."""
    words = sorted(where.tokens[row, : int(where.lengths[row])].tolist())
    return stream(where.seed, SpectralProbe.name, what, *words)


def _with_shuffled(rng: np.random.Generator, values: Array) -> Array:
    """Return labels of tokens, and the same dealt anew to those that have one: ``[labelling, token]``."""
    known = np.flatnonzero(values >= 0)
    found = np.tile(values, (1 + SHUFFLES, 1))
    for row in found[1:]:
        row[known] = values[rng.permutation(known)]
    return found


# ---------------------------------------------------------------------------------------- sentences


def _said(data: xr.Dataset, label: str, least: float) -> str:
    """Return what is read of a label, in which band best, and beside what."""
    known = int(data.score.notnull().sum())
    if not known:
        few = f"two classes, each of {FEWEST_OF_CATEGORY} prompts" if label == CATEGORY else "two classes"
        return f"{label} is not read: it needs {few}, in {FEWEST} prompts."
    sure = int((data.selectivity_low > least).sum())
    if not sure:
        return (
            f"No band reads {label} by more than {least:g} above shuffled labels (lower 95 % bound), of "
            f"{known} bands and layers."
        )
    here = _best(data)
    text = (
        f"{label} is read best from the band {str(here.band.values)!r}: "
        f"{'R squared' if label == POSITION else 'accuracy'} {float(here.score):.2f} as a mean over layers, "
        f"{float(here.score_shuffled):.2f} on shuffled labels"
    )
    if label != POSITION:
        text += (
            f", {float(here.score_random_features):.2f} from random vectors of the words, "
            f"{float(here.score_majority):.2f} for the most frequent class"
        )
    return f"{text} ({sure} of {known} bands and layers surely by more than {least:g} above shuffled labels)."


def _best(data: xr.Dataset) -> xr.Dataset:
    """Return the means over layers in the single band that is most above shuffled labels."""
    means = data.sel(band=list(BANDS[1:])).mean("layer")
    best: xr.Dataset = means.isel(band=int(np.nanargmax(means.selectivity.values)))
    return best


def _shape(data: xr.Dataset, rule: str, least: float) -> str:
    """Return whether tokens are read from the high band and prompts from the low one, where both are read."""
    if CATEGORY not in data.label or not bool(data.score.sel(label=CATEGORY).notnull().any()):
        return ""
    arithmetic = (
        "From bands other than 'low' no linear probe of single tokens can read a category: there the values "
        "of each prompt add up to zero."
    )
    both = [data.sel(label=label) for label in (rule, CATEGORY)]
    if not all(bool((each.selectivity_low > least).any()) for each in both):
        return arithmetic
    seen = [str(_best(each).band.values) for each in both] == [BANDS[-1], BANDS[1]]
    shape = "Tokens are read best from the high band and prompts from the low one, as Prism has it."
    other = "Prism has tokens in the high band and prompts in the low one, which is not so here."
    return f"{shape if seen else other} {arithmetic}"


# ------------------------------------------------------------------------------------------ planted

WIDTH, N_WORDS = 12, 64
"""Features and vocabulary of what is planted."""


def _planted(rng: np.random.Generator, analysis: SpectralProbe, *, strength: float) -> Planted:
    """Return three layers: classes in the high band, a trend along the tokens, every other prompt moved."""
    lengths = analysis.min_tokens + torch.tensor(
        [30, 41, 26, 35, 28, 44, 31, 60, 38, 33, 29, 47, 64, 36, 40, 27, 34, 58, 32, 45]
    )
    n_prompts, width = len(lengths), int(lengths.max())
    tokens = torch.from_numpy(rng.integers(N_WORDS, size=(n_prompts, width)))
    classes = tokens % 4 - 1  # none in a quarter of the words
    towards = rng.standard_normal((3, WIDTH))
    noise = torch.from_numpy(rng.standard_normal((3, n_prompts, width, WIDTH)))
    layers = [{analysis.site: each} for each in noise]
    for row, n in enumerate(lengths.tolist()):
        of_class = torch.from_numpy(np.vstack([towards, np.zeros(WIDTH)]))[classes[row, 1:n]]
        high, trend, moved = (each[analysis.site][row, 1:n] for each in layers)
        high += strength * dct_band(of_class, 0, BANDS[-1])
        trend += strength * torch.from_numpy(np.outer(np.linspace(-1, 1, n - 1), towards[0]))
        moved += strength * (row % 2) * torch.from_numpy(towards[0])
    for each in layers:
        each[analysis.site] = each[analysis.site].float()

    def expect(data: xr.Dataset) -> None:
        score, low = (data[name].sel(category="all") for name in ("score", "selectivity_low"))
        words, places = low.sel(label=analysis.rule), low.sel(label=POSITION)
        if not strength:
            mean = float(abs(data.selectivity.sel(category="all")).mean())
            assert mean < 0.1, f"where there is nothing {mean:.2f} above shuffled labels was read"
            assert float(low.max()) < 0.3, f"nothing was surely read with {float(low.max()):.2f}"
            return
        assert float(words.sel(layer=0, band="high")) > 0.2, "classes were not read from the high band"
        assert float(words.sel(layer=0, band="low")) < 0.1, "classes were read from the low band"
        assert float(words.sel(layer=[1, 2]).max()) < 0.3, "classes were read where there are none"
        assert float(score.sel(label=POSITION, layer=1, band=ALL)) > 0.5, "the trend was not read"
        assert float(places.sel(layer=[0, 2]).max()) < 0.3, "positions were read where there is no trend"

    return Planted(
        layers,
        lengths,
        attention_facts(n_layers=3, n_heads=1, d_model=WIDTH, d_vocab=N_WORDS),
        expect,
        token_labels=lambda rule, ids: ids % 4 - 1,
        tokens=tokens,
    )
