"""Interference of tokens as waves, against loops over prompts, layers, heads and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from resonance_lens.analyses.zipf_wave_interference import ZipfWaveInterference
from resonance_lens.contract import Planted
from resonance_lens.dsp import waves
from resonance_lens.errors import AdapterError, ParameterError, PromptError
from resonance_lens.prompts import EVERYTHING
from resonance_lens.result import Result
from resonance_lens.testing import PlantedAdapter, measure, result_of
from tests.by_hand import Floats, attention_from, facts, keys_of, one_key, random_attention

LENGTHS = [9, 14, 23, 11]
MAPPINGS = ("common_low", "common_high")


def planted(
    layers: Sequence[torch.Tensor],
    lengths: Sequence[int],
    rarity: Floats,
    *,
    causal: bool = True,
    sliding: Sequence[int | None] | None = None,
) -> Planted:
    """Return attention over tokens whose rarity is given, ``[prompt, token]``; each has an id of its own."""
    about = facts(len(layers), layers[0].shape[1], causal=causal, d_vocab=rarity.size)
    if sliding is not None:
        about = replace(about, sliding_windows=tuple(sliding))
    table = torch.tensor(rarity.ravel())
    return Planted(
        [{"pattern": layer} for layer in layers],
        torch.tensor(list(lengths)),
        about,
        lambda data: None,
        tokens=torch.arange(rarity.size).reshape(rarity.shape),
        token_rarity=lambda corpus, tokens: table[tokens],
    )


def rarities(seed: int = 0, n_prompts: int = len(LENGTHS), width: int = max(LENGTHS)) -> Floats:
    """Return how rare words are: few kinds, so that they recur, and some that have no place."""
    rng = np.random.default_rng(seed)
    found = rng.choice(np.r_[rng.uniform(0, 1, 7), np.nan], size=(n_prompts, width))
    return np.asarray(found)


def result(source: Planted, categories: Sequence[str] | None = None, **parameters: Any) -> Result:
    adapter = PlantedAdapter(source)
    return result_of(ZipfWaveInterference(**parameters), adapter, adapter.tokens(), categories=categories)


def by_hand(
    pattern: torch.Tensor,
    lengths: Sequence[int],
    rarity: Floats,
    *,
    causal: bool = True,
    sliding: int | None = None,
    turning: bool = True,
) -> dict[str, Floats]:
    """Return means over heads and queries of each prompt, ``[prompt, mapping]``, from the definitions."""
    names = ("interference", "null", "keep", "drop", "rarity", "octaves")
    out = {name: np.full((len(lengths), 2), np.nan) for name in names}
    for p, n in enumerate(lengths):
        places = rarity[p, :n]
        phase = np.exp(2j * np.pi * np.arange(n) / n) if turning else np.ones(n)
        for mapping, place in enumerate((places, 1 - places)):
            frequencies = 0.1 * 100 ** np.nan_to_num(place)
            overlap = waves.overlaps(torch.tensor(frequencies)).numpy()
            each: dict[str, list[float]] = {name: [] for name in names}
            spectra = []
            for h in range(pattern.shape[1]):
                for i in range(n):
                    keys = keys_of(i, n, causal, sliding)
                    if len(keys) < 8:
                        continue
                    known = [j for j in keys if not np.isnan(place[j])]
                    free = [j for j in known if j > 0]
                    row = pattern[p, h, i].double().numpy()
                    z = row[:n] * phase
                    powers = [(z[s].conj() @ overlap[np.ix_(s, s)] @ z[s]).real for s in (known, free)]
                    if len(free) > 1 and row[known].sum() >= 1e-3:
                        each["keep"].append(np.sqrt(powers[0]) / row[known].sum())
                    if row[free].sum() < 1e-3 or len(free) < 2:
                        continue
                    square = (row[free] ** 2).sum()
                    each["interference"].append(powers[1] / square)
                    each["null"].append(
                        dealt_anew(z[free], place[free], overlap[np.ix_(free, free)]) / square
                    )
                    each["drop"].append(np.sqrt(powers[1]) / row[free].sum())
                    share = np.zeros(n)
                    share[free] = row[free] ** 2 / square
                    spectra.append(share)
            for name, values in each.items():
                if values:
                    out[name][p, mapping] = np.mean(values)
            share = np.mean(spectra, axis=0)
            out["rarity"][p, mapping] = (share * np.nan_to_num(places)).sum()
            power = np.multiply.outer(share, 1 / np.arange(1, 5) ** 2)
            power /= power.sum()
            logs = np.log2(np.multiply.outer(frequencies, np.arange(1, 5)))
            out["octaves"][p, mapping] = np.sqrt((power * (logs - (power * logs).sum()) ** 2).sum())
    return out


def dealt_anew(z: Any, places: Floats, overlap: Floats) -> float:
    """Return the power when words overlap as others do on average that recur as often."""
    kinds, which, times = np.unique(places, return_inverse=True, return_counts=True)
    edges = np.searchsorted([1, 2, 3, 4, 6, 10], times, side="right")
    even = np.ones((len(z), len(z)))
    for a, b in np.ndindex(len(kinds), len(kinds)):
        if a == b:
            continue
        alike = [
            overlap[np.flatnonzero(which == c)[0], np.flatnonzero(which == d)[0]]
            for c, d in np.ndindex(len(kinds), len(kinds))
            if c != d and edges[c] == edges[a] and edges[d] == edges[b]
        ]
        even[np.ix_(which == a, which == b)] = np.mean(alike)
    return float((z.conj() @ even @ z).real)


def assert_matches(data: xr.Dataset, layer: int, expected: Mapping[str, Floats]) -> None:
    found = data.sel(layer=layer)
    np.testing.assert_allclose(found.interference_prompt, expected["interference"], rtol=2e-5)
    effect = expected["interference"] - expected["null"]
    np.testing.assert_allclose(found.interference_effect_prompt, effect, atol=2e-5)
    for place in ("keep", "drop"):
        got = found.coherence_prompt.sel(first_position=place)
        np.testing.assert_allclose(got, expected[place], rtol=2e-5)
    np.testing.assert_allclose(found.bandwidth_prompt, expected["octaves"][:, 0], rtol=2e-5)
    np.testing.assert_allclose(expected["octaves"][:, 1], expected["octaves"][:, 0])
    np.testing.assert_allclose(found.attended_rarity_prompt, expected["rarity"][:, 0], rtol=2e-5)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("offsets", ["position", "none"])
def test_numbers_are_those_of_a_loop(causal: bool, offsets: str) -> None:
    rarity = rarities()
    layers = [random_attention(LENGTHS, 3, seed=s, causal=causal) for s in range(2)]
    data = result(planted(layers, LENGTHS, rarity, causal=causal), queries=64, offsets=offsets).data
    for layer, pattern in enumerate(layers):
        expected = by_hand(pattern, LENGTHS, rarity, causal=causal, turning=offsets == "position")
        assert_matches(data, layer, expected)


def test_layers_with_windows_of_their_own_are_told_apart() -> None:
    rarity = rarities(1)
    windows = (8, None, 8, 10)
    layers = [random_attention(LENGTHS, 2, seed=s, sliding=w) for s, w in enumerate(windows)]
    data = result(planted(layers, LENGTHS, rarity, sliding=windows), queries=64).data
    for layer, (pattern, window) in enumerate(zip(layers, windows, strict=True)):
        assert_matches(data, layer, by_hand(pattern, LENGTHS, rarity, sliding=window))


def test_layers_are_taken_in_pieces_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [random_attention(LENGTHS, 2, seed=s) for s in range(5)]
    source = planted(layers, LENGTHS, rarities(2))
    whole = result(source).data
    monkeypatch.setattr("resonance_lens.analyses.zipf_wave_interference.WEIGHTS_AT_ONCE", 600)
    # An effect is a small difference: rounding of 2e-8 is 6e-5 of its size.
    xr.testing.assert_allclose(result(source).data, whole, rtol=2e-4, atol=1e-6)


def test_few_queries_are_the_first_the_last_and_those_between() -> None:
    rarity, lengths = rarities(3), [14]
    pattern = random_attention(lengths, 2, seed=3)
    for n, wanted in ((2, [7, 13]), (3, [7, 10, 13])):
        data = result(planted([pattern], lengths, rarity[:1]), queries=n).data
        expected = []
        for query in wanted:
            alone = pattern.clone()
            alone[:, :, [i for i in range(14) if i != query]] = 0
            expected.append(by_hand(alone, lengths, rarity[:1])["interference"])
        np.testing.assert_allclose(data.interference_prompt[:, :, 0], np.mean(expected, axis=0), rtol=2e-5)


# ------------------------------------------------------------------------------ what must come out


def test_attention_on_one_token_interferes_with_nothing() -> None:
    lengths = [20, 30]
    rarity = np.random.default_rng(0).uniform(0, 1, (2, 30))
    data = result(planted([one_key(lambda i: max(i - 1, 1), lengths, 2)], lengths, rarity)).data
    chosen = data.sel(category="all", layer=0)
    np.testing.assert_allclose(chosen.interference, 1, rtol=1e-6)
    np.testing.assert_allclose(chosen.interference_effect, 0, atol=1e-6)
    np.testing.assert_allclose(chosen.coherence, 1, rtol=1e-6)


def test_coherence_depends_on_the_attention() -> None:
    """The defect of the first experiments: waves divided by their modulus are as coherent at every layer."""
    lengths = [40] * 4
    rarity = np.random.default_rng(1).uniform(0, 1, (4, 40))

    def recent(sharp: float) -> torch.Tensor:
        return attention_from(lambda p, h, i, j: -sharp * (i - j), lengths, 2)

    layers = [recent(sharp) for sharp in (0.0, 0.3, 3.0)]
    data = result(planted(layers, lengths, rarity)).data.sel(category="all", mapping="common_low")
    broad, middle, narrow = data.coherence.sel(first_position="drop").values
    assert broad < middle - 0.1 < narrow - 0.3
    np.testing.assert_allclose(data.interference[0], data.interference_uniform[0], rtol=1e-5)
    np.testing.assert_allclose(data.coherence[:, 0], data.coherence_uniform[:, 0], rtol=1e-5)


def test_a_sink_is_coherent_and_says_nothing_else() -> None:
    lengths = [20, 24]
    rarity = np.random.default_rng(2).uniform(0, 1, (2, 24))
    data = result(planted([one_key(lambda i: 0, lengths, 2)], lengths, rarity)).data.sel(category="all")
    np.testing.assert_allclose(data.coherence.sel(first_position="keep"), 1, rtol=1e-6)
    for name in ("interference", "bandwidth", "spectral_entropy", "attended_rarity"):
        assert bool(data[name].isnull().all()), name
    assert bool(data.coherence.sel(first_position="drop").isnull().all())


def test_one_word_again_and_again_has_the_bandwidth_of_its_harmonics() -> None:
    lengths = [16, 20]
    data = result(planted([random_attention(lengths, 2)], lengths, np.full((2, 20), 0.4))).data
    power = np.array([1, 1 / 4, 1 / 9, 1 / 16]) / (1 + 1 / 4 + 1 / 9 + 1 / 16)
    octaves = np.log2([1, 2, 3, 4])
    own = np.sqrt((power * octaves**2).sum() - (power * octaves).sum() ** 2)
    np.testing.assert_allclose(data.bandwidth, own, rtol=1e-6)
    np.testing.assert_allclose(data.bandwidth_shuffled, own, rtol=1e-6)
    # There is one frequency, and no other way to deal it.
    np.testing.assert_allclose(data.interference_effect, 0, atol=1e-6)


def test_prompts_without_a_known_word_have_no_numbers() -> None:
    lengths, rarity = [12, 12], np.full((2, 12), np.nan)
    rarity[0] = np.random.default_rng(0).uniform(0, 1, 12)
    data = result(planted([random_attention(lengths, 2)], lengths, rarity)).data
    assert bool(
        data.interference_prompt.isnull().any("layer").any("mapping").values.tolist() == [False, True]
    )
    assert float(data.coverage.sel(category="all")) == 0.5
    nothing = result(planted([random_attention(lengths, 2)], lengths, np.full((2, 12), np.nan)))
    assert nothing.summary.startswith("No token that is attended to has a frequency.")


def test_the_categories_of_the_hypothesis_get_an_effect_with_an_interval() -> None:
    """Factual prompts of words that are alike, philosophical ones of all: the text, and not the model."""
    rng = np.random.default_rng(4)
    lengths = [20, 24] * 8
    rarity = rng.uniform(0, 1, (16, 24))
    rarity[::2] = rng.uniform(0.45, 0.55, (8, 24))
    source = planted([random_attention(lengths, 2, seed=s) for s in range(2)], lengths, rarity)
    found = result(source, ["factual", "philosophical"] * 8)
    name = "bandwidth_factual_minus_philosophical"
    rows = found.data.bandwidth_prompt.mean("layer").values
    assert float(found.data[name]) == pytest.approx(rows[::2].mean() - rows[1::2].mean(), rel=1e-6)
    assert float(found.data[f"{name}_high"]) < -0.5
    even = found.data.bandwidth_uniform_factual_minus_philosophical
    assert abs(float(even) - float(found.data[name])) < 0.3
    assert "philosophical ones is -" in found.summary
    for other in ("spectral_entropy", "linear_bandwidth"):
        assert found.data[f"{other}_factual_minus_philosophical"].dims == ("mapping",)
    others = result(source, ["factual", "narrative"] * 8).data
    assert name not in others
    few = result(
        planted([random_attention([20] * 3, 2)], [20] * 3, rarity[:3]),
        ["factual", "philosophical", "factual"],
    )
    assert name not in few.data


def test_the_specimen_is_the_last_query_of_the_first_prompt() -> None:
    rarity = rarities(5)
    layers = [random_attention(LENGTHS, 3, seed=s) for s in range(2)]
    data = result(planted(layers, LENGTHS, rarity)).data
    n = LENGTHS[0]
    free = [j for j in range(1, n) if not np.isnan(rarity[0, j])]
    frequencies = torch.tensor(0.1 * 100 ** rarity[0, free])
    made = waves.waves(frequencies, torch.tensor(data.time.values)).numpy()
    phase = np.exp(2j * np.pi * np.array(free) / n)
    for layer, pattern in enumerate(layers):
        row = pattern[0, :, n - 1].double().numpy()[:, free]
        weights = (row / row.sum(-1, keepdims=True)).mean(0)
        np.testing.assert_allclose(
            data.waves_specimen.sel(layer=layer), ((weights * phase) @ made).real, atol=1e-5
        )
    np.testing.assert_allclose(data.frequency_specimen, 0.1 * 100 ** rarity[0, :n], rtol=1e-6)
    assert data.sizes["token"] == n and float(data.time[0]) == -5
    assert 1 / float(data.time[1] - data.time[0]) > 2 * 40  # the last harmonic is drawn as it is


def test_a_conclusion_that_turns_with_the_mapping_is_told_as_one() -> None:
    found = result(ZipfWaveInterference().plant(np.random.default_rng(0)))
    assert "sure and opposite in 1." in found.summary
    data = found.data.sel(category=EVERYTHING)
    effect = data.interference_effect
    np.testing.assert_allclose(
        data.mapping_dependence,
        effect.sel(mapping="common_low") - effect.sel(mapping="common_high"),
        atol=1e-6,
    )
    assert float(data.mapping_dependence_high.sel(layer=1)) < 0
    assert [target.layer for target in found.targets(5)] == [1]


# ------------------------------------------------------------------------------------ what is refused


def test_without_a_tokenizer_it_is_refused_in_a_sentence() -> None:
    from resonance_lens.hooks import attach
    from tests.models import build
    from tests.reference_transformer import GPT2

    adapter = attach(build(GPT2))
    with pytest.raises(AdapterError, match="has no tokenizer to count tokens with"):
        result_of(ZipfWaveInterference(), adapter, [[1, 2, 3] * 4])


def test_a_corpus_is_a_choice_or_a_file() -> None:
    assert ZipfWaveInterference(corpus="mine/words.txt").corpus == "mine/words.txt"
    with pytest.raises(
        ParameterError,
        match=r"'corpus' .* one of 'bundled', 'wordfreq', or a file ending in .txt or .jsonl; got",
    ):
        ZipfWaveInterference(corpus="brown")


def test_short_prompts_are_refused() -> None:
    source = planted([random_attention([7, 9], 2)], [7, 9], rarities(0, 2, 9))
    with pytest.raises(PromptError, match="zipf_wave_interference.* 8"):
        measure(ZipfWaveInterference(), source)
