"""What attention superposes when tokens are taken as waves whose frequency says how rare they are.

(Longer than 400 lines, because a third of it is what to draw and when that misleads.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens import worlds
from resonance_lens.contract import Accumulated, Analysis, Claim, Evidence, Planted, Where, parameter
from resonance_lens.dsp import attention, waves
from resonance_lens.dsp.surrogates import ChosenRows
from resonance_lens.dsp.wave_rows import Rows, Words, spectral_numbers
from resonance_lens.features import Features
from resonance_lens.labels import Labelled
from resonance_lens.planting import attention_facts, softmax_rows
from resonance_lens.registry import register
from resonance_lens.result import Result, Target, ViewSpec
from resonance_lens.signal import Signal
from resonance_lens.stats.intervals import bootstrap_difference
from resonance_lens.stats.samples import AnySample, of_prompts
from resonance_lens.stats.streams import stream

MAPPINGS = ("common_low", "common_high")

NARROW, BROAD = "factual", "philosophical"
"""The categories of the hypothesis: the first is said to have the narrower spectrum."""

WEIGHTS_AT_ONCE = 1_500_000
"""Of attention, looked at together: larger temporaries cost more to come by than to fill."""

TIMES = 1025
"""Points of the waves that are drawn: enough for the last harmonic of the highest frequency."""

VOCABULARY, N_HEADS, STRETCH = 400, 3, 3
"""Of plants and trials: tokens, heads, and how many times as long as elsewhere prompts are."""


@register
@dataclass(frozen=True, kw_only=True)
class ZipfWaveInterference(Analysis):
    """What attention superposes when tokens are taken as waves whose frequency says how rare they are.

    Tokens are ranked by how often they occur in a corpus. The token at position j of a record of N gets the
    wave ``w_j(t) = exp(2 pi i j / N) sum_h (1/h) exp(2 pi i h f_j t)``, with ``f_j`` from 0.1 for the
    commonest to 10 for the rarest on a logarithmic scale of rank, in cycles per unit of an invented time,
    scaled to unit mean power over a window. A query superposes them: ``W(t) = sum_j A_j w_j(t)``.
    Interference is ``<abs(W)^2> / sum_j A_j^2``: above 1 constructive, below 1 cancelling. It is
    **synthetic**: an analogy that computes. Nothing in the model oscillates.

    Notes
    -----
    What carries over to the model is which tokens attention brings together: common ones, rare ones, near
    ones. The rest is choice. So numbers have a dimension ``mapping`` (``mapping="common_high"``: the
    commonest token at 10) and stand beside their mean over shuffled mappings. A conclusion whose sign changes
    with the mapping is one about the mapping: low frequencies lie closer together and overlap in a
    finite window, so that whatever is put there interferes. Neighbouring positions have neighbouring phases,
    so that any head that looks at neighbours is constructive: only the effect above the null is about words.

    The prompt's first key is left out (of ``coherence`` too, where ``first_position="drop"``): a head that
    parks there superposes nothing. Measured at up to ``queries`` evenly spaced queries of each prompt, the
    last one among them.
    """

    name: ClassVar[str] = "zipf_wave_interference"
    title: ClassVar[str] = "Interference of tokens as waves of Zipf frequency"
    version: ClassVar[str] = "1"
    sites: ClassVar[tuple[str, ...]] = ("pattern",)
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    evidence: ClassVar[Evidence] = "synthetic"
    baselines: ClassVar[tuple[str, ...]] = ("uniform_causal", "random_weights", "shuffled_tokens")
    nulls: ClassVar[tuple[str, ...]] = ("shuffled_mapping",)
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            variable="interference",
            long_name="power of the superposed waves over the sum of their powers",
            units="1",
            null="shuffled_mapping",
            against="the same attention with the frequencies dealt anew among words that recur as often",
            dims=("mapping", "layer"),
            family=("layer",),
            places="layers",
            minimum_effect=0.02,
            reading=(("mapping", "common_low"),),
            undefined="no head looks at keys that have a frequency, beyond the first",
        ),
    )
    minimum_effect: ClassVar[float] = 0.02
    headline: ClassVar[str] = "interference"
    source: ClassVar[str] = (
        "The project's first experiments (SCIENCE 1), without their defect: waves are not divided by their "
        "own modulus, which cancels the attention. Means over the window and over mappings in closed form."
    )
    undefined: ClassVar[tuple[str, ...]] = (
        "interference", "null", "shuffled", "uniform", "coherence", "coherence_uniform",
        "entropy", "entropy_uniform", "entropy_shuffled",
        "linear", "linear_uniform", "linear_shuffled",
        "octaves", "octaves_uniform", "octaves_shuffled",
        "rarity", "rarity_uniform",
    )  # fmt: skip

    corpus: str = parameter(
        "bundled",
        choices=("bundled", "wordfreq"),
        files=(".txt", ".jsonl"),
        help="what tokens are counted in with the model's tokenizer: the shipped corpus, or a file of yours "
        "(.txt, .jsonl); or the word list of the package wordfreq",
    )
    harmonics: int = parameter(4, minimum=1, maximum=16, help="of each wave, with amplitudes 1/h")
    duration: float = parameter(
        10.0,
        minimum=1.0,
        maximum=1000.0,
        help="length of the window, in units of the invented time: frequencies closer than its inverse are "
        "not told apart",
    )
    offsets: str = parameter(
        "position",
        choices=("position", "none"),
        help="let the phase of a wave go once around over the record, or start all waves alike",
    )
    queries: int = parameter(8, minimum=2, maximum=512, help="look at up to so many queries of each prompt")
    min_keys: int = parameter(
        8, minimum=4, help="leave out queries that see fewer keys: their windows are too short"
    )
    shuffles: int = parameter(
        16, minimum=1, maximum=999, help="shuffled mappings that spectra are drawn under"
    )

    @property
    def min_tokens(self) -> int:
        """A prompt needs at least one query that sees ``min_keys`` keys."""
        return self.min_keys

    def observe(self, signals: Mapping[str, Signal], where: Where) -> Features:
        """Carry the attention rows of some queries of each prompt."""
        pattern = signals["pattern"]
        sliding = where.facts.sliding_windows[where.layer or 0]
        seen = attention.window(pattern, causal=where.facts.causal, sliding=sliding)
        counts = pattern.mask("query") & (seen.size >= self.min_keys)
        chosen = ChosenRows.read(pattern, seen, counts, self.queries)
        # The weights once more, as they are: the engine looks whether what is carried is finite.
        return Features.of(where.prompts, carry={"chosen": chosen, "weights": chosen.weights})

    def join(self, layers: Sequence[Features], where: Where) -> Features:
        """Return what each prompt's waves do at each layer, and what the first prompt's last query weighs."""
        chosen = [features.carry["chosen"] for features in layers]
        found: list[dict[str, Tensor]] = []
        specimen: dict[str, Any] = {
            "specimen_weights": torch.zeros(len(layers), 1),
            "specimen_rarity": torch.zeros(1),
            "specimen_known": torch.zeros(1, dtype=torch.long),
        }
        for row, length in enumerate(where.lengths.tolist()):
            rarity = where.token_rarity(self.corpus, where.tokens[row : row + 1, :length])[0]
            rarity = rarity.to(chosen[0].weights.device)
            measured, last = self._of_prompt(chosen, row, rarity, where.seed)
            found.append(measured)
            if where.prompts[row] == 0:
                specimen = {
                    "specimen_weights": last,  # [layer, token]
                    "specimen_rarity": rarity.nan_to_num(0.0),
                    "specimen_known": (~rarity.isnan()).long(),
                }
        return Features.of(
            where.prompts,
            rows={name: torch.stack([each[name] for each in found]) for name in found[0]},
            sums=specimen,
        )

    def _of_prompt(
        self, chosen: Sequence[ChosenRows], row: int, rarity: Tensor, seed: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the numbers of one prompt, ``[layer, ...]``, and the mean weights of its last query."""
        words = Words.of(
            rarity,
            harmonics=self.harmonics,
            duration=self.duration,
            turning=self.offsets == "position",
        )
        orders = np.tile(np.arange(words.n_kinds), (1 + self.shuffles, 1))
        # Draws need not differ between prompts: they make a mean, and no test.
        orders[1:] = stream(seed, "shuffled mapping", words.n_kinds).permuted(orders[1:], axis=1)
        dealt = torch.from_numpy(orders).to(rarity.device)
        parts: dict[str, list[Tensor]] = {}
        groups = list(_taken_together(chosen, words.known.numel()))
        for alike in groups:
            rows = Rows.read([chosen[layer] for layer in alike], row, words)
            numbers = rows.interference()
            for of, shares in (("", rows.shares()), ("_uniform", rows.shares_uniform())):
                numbers[f"rarity{of}"] = shares @ words.rarity
                draws = dealt if not of else dealt[:1]
                for name, values in spectral_numbers(shares, words, draws).items():
                    numbers[name + of] = values[0]
                    if not of:
                        numbers[f"{name}_shuffled"] = values[1:].mean(0)
            for name, values in (numbers | {"last": rows.last()}).items():
                parts.setdefault(name, []).append(values)
        back = np.argsort(np.concatenate(groups)).tolist()
        joined = {name: torch.cat(values)[back] for name, values in parts.items()}
        last = joined.pop("last")
        joined["known"] = words.known.double().mean()
        return joined, last

    def conclude(self, seen: Accumulated) -> xr.Dataset:
        """Return what the waves do beside its baselines, and the categories that the hypothesis is about."""
        rows = seen.plain.rows
        coords: dict[str, Any] = {"mapping": list(MAPPINGS)}
        out = Labelled(seen, self.name, coords)

        def moved(name: str) -> NDArray[Any]:
            values = rows[name]  # [prompt, layer] or [prompt, layer, mapping, ...]
            return np.moveaxis(values, 1, -1) if values.ndim > 2 else values

        by_mapping, by_layer = ("mapping", "layer"), ("layer",)
        for of, words in (
            ("shuffled", "mean over mappings of frequencies to tokens"),
            ("uniform", "uniform attention"),
        ):
            out.add_mean(
                f"interference_{of}", by_mapping, moved(of),
                f"power of the superposed waves over the sum of their powers, {words}"
                + UNDEFINED, "1", interval=False,
            )  # fmt: skip
        effect = moved("interference") - moved("null")
        out.add_mean(
            "mapping_dependence", by_layer, effect[:, 0] - effect[:, 1],
            "interference minus its null with common tokens low, minus the same with them high" + UNDEFINED,
            "1",
        )  # fmt: skip
        places = ("first_position", *by_mapping)
        for name, words, interval in (
            ("coherence", "", True),
            ("coherence_uniform", ", uniform attention", False),
        ):
            out.add_mean(
                name, places, np.moveaxis(moved(name), 2, 1),
                f"rms of the superposed waves over that of waves in phase{words}" + UNDEFINED,
                "1", interval=interval, by_prompt=interval,
            )  # fmt: skip
        for feature, (name, long_name, units, dims) in SPECTRA.items():
            out.add_mean(name, dims, moved(feature), long_name + UNDEFINED, units, by_prompt=True)
            for of, words in (("uniform", "uniform attention"), ("shuffled", "mean over shuffled mappings")):
                if f"{feature}_{of}" in rows:
                    out.add_mean(
                        f"{name}_{of}", dims, moved(f"{feature}_{of}"), f"{long_name}, {words}" + UNDEFINED,
                        units, interval=False,
                    )  # fmt: skip
        out.add_mean("coverage", (), rows["known"], "share of the tokens that have a frequency", "1")
        self._add_categories(out, seen, moved)
        return self._with_specimen(out, seen)

    def _add_categories(self, out: Labelled, seen: Accumulated, moved: Any) -> None:
        """Add factual minus philosophical prompts, each prompt averaged over layers, if there are both."""
        groups = seen.groups
        if not seen.intervals or not all(groups.get(c, np.zeros(1)).sum() >= 2 for c in (NARROW, BROAD)):
            return
        for feature, (name, long_name, units, dims) in SPECTRA.items():
            for of, words in (("", ""), ("_uniform", ", uniform attention")):
                values = moved(feature + of).mean(axis=-1)  # over layers
                rng = stream(seen.seed, self.name, name, NARROW, BROAD)
                ends = bootstrap_difference(values[groups[BROAD]], values[groups[NARROW]], rng)
                what = f"{long_name}{words}, averaged over layers: {NARROW} minus {BROAD} prompts"
                for end, bound, number in zip(
                    ("", "_low", "_high"), ("", ", lower 95 % bound", ", upper 95 % bound"), ends, strict=True
                ):
                    out.add(
                        f"{name}{of}_{NARROW}_minus_{BROAD}{end}",
                        dims[:-1],
                        number,
                        what + bound + UNDEFINED,
                        units,
                    )

    def _with_specimen(self, out: Labelled, seen: Accumulated) -> xr.Dataset:
        """Return the dataset with the waves that the first prompt's last query superposes at each layer."""
        sums = seen.plain.sums
        rarity, known = torch.from_numpy(sums["specimen_rarity"]), torch.from_numpy(sums["specimen_known"])
        frequencies = waves.wave_frequencies(rarity)
        n = len(rarity)
        times = torch.linspace(-self.duration / 2, self.duration / 2, TIMES, dtype=torch.float64)
        made = waves.waves(frequencies, times, harmonics=self.harmonics, duration=self.duration)
        phases = waves.position_phases(n) * (self.offsets == "position")
        turned = torch.polar(torch.from_numpy(sums["specimen_weights"]), phases.expand(len(seen.layers), -1))
        out.coords |= {"time": times.numpy(), "token": np.arange(n)}
        out.add(
            "waves_specimen", ("layer", "time"), (turned @ made).real.numpy().astype(np.float32),
            "sum of the waves that the last query attends to, first prompt, mean over heads", "1",
        )  # fmt: skip
        out.add(
            "frequency_specimen", ("token",), np.where(known.numpy() > 0, frequencies.numpy(), np.nan),
            "frequency of each token, common ones low; not-a-number: it has none", CYCLES,
        )  # fmt: skip
        data: xr.Dataset = out.dataset()
        data["time"].attrs |= {"long_name": "time, invented", "units": "unit of time"}
        data["token"].attrs |= {"long_name": "position", "units": "tokens"}
        texts = seen.specimen[:n] if len(seen.specimen) >= n else tuple(map(str, range(n)))
        data.coords["token_text"] = ("token", list(texts))
        return data

    def samples(self, seen: Accumulated) -> Mapping[str, Mapping[str, AnySample]]:
        """Return the interference of each prompt beside its mean under the null."""
        value, null = (np.moveaxis(seen.plain.rows[name], 1, 2) for name in ("interference", "null"))
        return {"interference": of_prompts(value, null, seen.groups)}

    def summary(self, result: Result) -> str:
        """Return where words interfere, whether the mapping decides it, and what became of the hypothesis."""
        data = result.data.sel(category="all")
        effect, n = data.interference_effect, data.sizes["layer"]
        if "interference_effect_low" not in data or bool(data.interference_effect_low.isnull().all()):
            low, high = (float(effect.sel(mapping=m).mean()) for m in MAPPINGS)
            text = (
                f"Averaged over layers, interference is {low:+.2f} from that of shuffled mappings with "
                f"common tokens low and {high:+.2f} with common tokens high; one prompt gives no bounds."
            )
            return text if np.isfinite([low, high]).all() else "No token that is attended to has a frequency."
        above = data.interference_effect_low > self.minimum_effect
        below = data.interference_effect_high < -self.minimum_effect
        counts = [int((above | below).sel(mapping=m).sum()) for m in MAPPINGS]
        sign = (data.interference_effect_low > 0).astype(int) - (data.interference_effect_high < 0).astype(
            int
        )
        both = sign.prod("mapping")
        text = (
            f"Interference is more than {self.minimum_effect} from that of shuffled mappings (95 % bound) in "
            f"{counts[0]} of {n} layers with common tokens low and in {counts[1]} with common tokens high; "
            f"its sign is sure and the same in {int((both > 0).sum())} layers, sure and opposite in "
            f"{int((both < 0).sum())}."
        )
        name = f"bandwidth_{NARROW}_minus_{BROAD}"
        if name in data:
            value, low, high = (float(data[name + end]) for end in ("", "_low", "_high"))
            even = float(data[f"bandwidth_uniform_{NARROW}_minus_{BROAD}"])
            if np.isfinite([value, low, high, even]).all():
                text += (
                    f" The bandwidth of {NARROW} prompts minus that of {BROAD} ones is {value:+.2f} octaves "
                    f"({low:+.2f} to {high:+.2f}); even attention gives {even:+.2f}."
                )
        return text

    def views(self, result: Result) -> list[ViewSpec]:
        """Return interference, coherence and spectra over depth, and the waves of one prompt."""
        everything = {"category": "all"}
        return [
            ViewSpec(
                kind="lines",
                title="Interference over depth, under both mappings",
                says="Power of what attention superposes over the sum of the powers, mean over heads, beside "
                "shuffled mappings, uniform attention, random weights and shuffled text. Above 1 waves add "
                "up.",
                misleads="it is read without its null: neighbours in the text have neighbouring phases, and "
                "add up whatever their words are.",
                variables=("interference",),
                references=(
                    "interference_null",
                    "interference_uniform",
                    "interference_random_weights",
                    "interference_shuffled_tokens",
                ),
                select=everything,
                panels="mapping",
                claim="interference",
            ),
            ViewSpec(
                kind="lines",
                title="What the words add to interference",
                says="Interference minus its null at each layer, for common tokens at low frequencies and at "
                "high ones. Lines on two sides of zero say that the conclusion belongs to the mapping.",
                misleads="one of the mappings is taken for the right one: both are invented.",
                variables=("interference_effect",),
                select=everything,
                series="mapping",
            ),
            ViewSpec(
                kind="lines",
                title="Coherence over depth, with and without the first position",
                says="Root mean square of the superposed waves over that of as many waves in phase: 1 if "
                "attention is on one token.",
                misleads="it is taken for agreement of waves: attention on one token is coherent by itself, "
                "and a sink makes it so in every layer.",
                variables=("coherence",),
                references=("coherence_uniform", "coherence_random_weights", "coherence_shuffled_tokens"),
                select={**everything, "mapping": "common_low"},
                panels="first_position",
                limits=(0.0, 1.0),
            ),
            ViewSpec(
                kind="lines",
                title="Spectral entropy over depth, under both mappings",
                says="How evenly the power that attention gives to tokens is spread over bins of an eighth "
                "of a decade, beside uniform attention and shuffled mappings.",
                misleads="prompts of different lengths are compared: more tokens fill more bins.",
                variables=("spectral_entropy",),
                references=(
                    "spectral_entropy_shuffled",
                    "spectral_entropy_uniform",
                    "spectral_entropy_random_weights",
                    "spectral_entropy_shuffled_tokens",
                ),
                select=everything,
                panels="mapping",
            ),
            ViewSpec(
                kind="lines",
                title="Bandwidth over depth",
                says="Standard deviation of the binary logarithm of frequency under that power; the same "
                "under both mappings, which mirror each other.",
                misleads="the harmonics' own share of it, the same everywhere, is forgotten: it is not zero "
                "for one token.",
                variables=("bandwidth",),
                references=(
                    "bandwidth_shuffled",
                    "bandwidth_uniform",
                    "bandwidth_random_weights",
                    "bandwidth_shuffled_tokens",
                ),
                select=everything,
            ),
            ViewSpec(
                kind="image",
                title="Superposed Zipf waves per layer",
                says="The sum of the waves that the last query of the first prompt attends to, over the "
                "window, common tokens low; mean over heads, first position left out.",
                misleads="the pattern is taken for activity of the model: time here is invented.",
                variables=("waves_specimen",),
                over="time",
                down="layer",
                colours="diverging",
            ),
            ViewSpec(
                kind="token_values",
                title="Frequency of each token",
                says="Where the tokens of the first prompt lie between 0.1 (the commonest of the corpus) and "
                "10.",
                misleads="a piece of a word is taken for its word: pieces are counted as they come.",
                variables=("frequency_specimen",),
                over="token",
            ),
        ]

    def targets(self, result: Result, k: int) -> list[Target]:
        """Return the layers that are surest to differ from the null, common tokens low."""
        data = result.data.sel(category="all", mapping="common_low")
        if "interference_effect_low" not in data:
            return []
        surely = np.maximum(data.interference_effect_low, -data.interference_effect_high)
        ranked = sorted(
            (
                (float(score), int(layer))
                for layer, score in zip(data.layer, surely, strict=True)
                if score > 0
            ),
            key=lambda each: (-each[0], each[1]),
        )
        return [
            Target(
                site="pattern",
                layer=layer,
                score=score,
                reason="interference away from its shuffled mapping (nearer 95 % bound)",
            )
            for score, layer in ranked[:k]
        ]

    def plant(self, rng: np.random.Generator) -> Planted:
        """Return a layer of heads that prefer rare tokens, beside one of heads that do not know words."""

        def expect(data: xr.Dataset) -> None:
            chosen = data.sel(category="all")
            high = chosen.interference_effect_high.sel(mapping="common_low", layer=1)
            assert float(high) < 0, "the heads that prefer rare tokens were not found"
            low = chosen.interference_effect_low.sel(mapping="common_high", layer=1)
            assert float(low) > self.minimum_effect, "the inverse mapping does not turn the sign around"
            found = chosen.attended_rarity - chosen.attended_rarity_uniform
            assert float(found.sel(layer=1)) > 0.05 > float(abs(found.sel(layer=0))), "rarity is not followed"

        return _imagined(rng, "iid", (0.0, 6.0), expect)

    def null(self, rng: np.random.Generator) -> Planted:
        """Return heads that do not know words."""

        def expect(data: xr.Dataset) -> None:
            chosen = data.sel(category="all")
            low, high = chosen.interference_effect_low, chosen.interference_effect_high
            found = bool((low > self.minimum_effect).any()) or bool((high < -self.minimum_effect).any())
            assert not found, "an effect of words was found in heads that do not know them"

        return _imagined(rng, "iid", (0.0, 0.0), expect)

    def trial(self, rng: np.random.Generator, world: str, strength: float) -> Planted:
        """Return heads that do not know words, in some layers with a preference for rare ones.

        Words are drawn by Zipf's law, so that common ones recur. In the persistent world a head has a
        preference for each word, another in each prompt, that has nothing to do with how rare it is.
        """
        return _imagined(rng, world, (0.0, 0.0, 0.0, 0.0, strength, strength))


UNDEFINED = "; not-a-number: no head looks at keys that have a frequency, beyond the first"
CYCLES = "cycles per unit of time"

SPECTRA: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "entropy": (
        "spectral_entropy",
        "entropy of the power that attention gives to bins of an eighth of a decade",
        "nat",
        ("mapping", "layer"),
    ),
    "octaves": (
        "bandwidth",
        "standard deviation of the binary logarithm of frequency under the power that attention gives",
        "octaves",
        ("layer",),
    ),
    "linear": (
        "linear_bandwidth",
        "standard deviation of frequency under the power that attention gives",
        CYCLES,
        ("mapping", "layer"),
    ),
    "rarity": (
        "attended_rarity",
        "mean rarity of the tokens under the power that attention gives: 0 the commonest, 1 the rarest",
        "1",
        ("layer",),
    ),
}
"""By row feature: variable, long name, units, dimensions."""


def _taken_together(chosen: Sequence[ChosenRows], n: int) -> Iterator[list[int]]:
    """Yield layers that look at the same queries through the same windows, as many as fit the cache."""
    heads, queries = chosen[0].weights.shape[1:3]
    at_once = max(1, WEIGHTS_AT_ONCE // (heads * queries * n))
    rest = list(range(len(chosen)))
    while rest:
        alike = [layer for layer in rest if chosen[layer].alike(chosen[rest[0]])]
        yield from (alike[start : start + at_once] for start in range(0, len(alike), at_once))
        rest = [layer for layer in rest if layer not in alike]


def _imagined(
    rng: np.random.Generator,
    world: str,
    preferences: Sequence[float],
    expect: Callable[[xr.Dataset], None] = lambda data: None,
) -> Planted:
    """Return prompts of words drawn by Zipf's law, and layers of heads that prefer rare ones so much.

    Heads differ in sharpness, in how much they prefer the first key, and in how much they prefer recent ones.

    Parameters
    ----------
    rng, world
        As of `Analysis.trial`; prompts are `STRETCH` times as long as elsewhere.
    preferences
        Of each layer: nat of the score between the commonest and the rarest word.
    expect
        Of the plant.
    """
    facts = attention_facts(n_layers=len(preferences), n_heads=N_HEADS, d_vocab=VOCABULARY)
    lengths = STRETCH * worlds.lengths(rng, world, worlds.PROMPTS)
    n, n_prompts = int(lengths.max()), len(lengths)
    rank = np.arange(1, VOCABULARY + 1)
    table = torch.as_tensor(np.log(rank) / np.log(VOCABULARY))
    tokens = rng.choice(VOCABULARY, size=(n_prompts, n), p=(1 / rank) / (1 / rank).sum())
    rarity = table.numpy()[tokens][:, None, None, :]  # [prompt, 1, 1, key]
    back = np.arange(n)[:, None] - np.arange(n)[None, :]
    layers = []
    for preference in preferences:
        if world == "persistent":
            of_word = rng.normal(size=(n_prompts, N_HEADS, VOCABULARY))
            at = np.repeat(tokens[:, None, :], N_HEADS, axis=1)
            drawn = np.take_along_axis(of_word, at, axis=2)[:, :, None, :]
        else:
            drawn = worlds.scores(rng, world, (n_prompts, N_HEADS, n, n))
        spans = (worlds.SHARPNESS, (0.0, 4.0), (0.0, 0.2))
        sharp, first, recent = (rng.uniform(low, high, size=(N_HEADS, 1, 1)) for low, high in spans)
        scores = drawn * sharp + first * (np.arange(n) == 0) - recent * back + preference * rarity
        layers.append({"pattern": softmax_rows(scores, facts, lengths)})
    return Planted(
        layers,
        lengths,
        facts,
        expect,
        tokens=torch.as_tensor(tokens),
        token_rarity=lambda corpus, ids: table[ids],
        truth={"interference": np.array([preference > 0 for preference in preferences])},
    )
