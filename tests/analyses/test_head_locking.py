"""Phase locking of heads, against loops over prompts, heads and segments, and on circuits of known truth."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray

from resonance_lens import testbed
from resonance_lens.analyses.head_locking import HeadLocking
from resonance_lens.dsp.series import Segments
from resonance_lens.errors import AnalysisError
from resonance_lens.hooks import attach
from resonance_lens.stats.directions import head_directions
from resonance_lens.trials import result_of
from tests.by_hand import facts, measure, observe

Floats = NDArray[np.float64]
Spectra = dict[tuple[int, int, int], NDArray[np.complex128]]
"""By prompt, head and segment."""


def written(lengths: list[int], n_heads: int, seed: int = 0) -> torch.Tensor:
    """Return z [batch, token, head, d_head]: something of the position, something of the prompt, noise."""
    rng = np.random.default_rng(seed)
    n = max(lengths)
    z = rng.normal(size=(len(lengths), n, n_heads, 4))
    z += rng.normal(size=(1, n, 1, 4)) + rng.normal(size=(len(lengths), n, 1, 4)) + 3
    for row, length in enumerate(lengths):
        z[row, length:] = 0
    return torch.from_numpy(z)


def series_of(z: torch.Tensor, layer: int, kind: str) -> Floats:
    """Return [prompt, head, token]."""
    if kind == "norm":
        return np.moveaxis(np.linalg.norm(z.numpy(), axis=-1), 1, 2)
    v = head_directions(0, layer, z.shape[2], 4).numpy()
    return np.stack([z[:, :, h].numpy() @ v[h] for h in range(z.shape[2])], axis=1)


def spectra_of(x: Floats, lengths: list[int], segments: Segments, band: int) -> Spectra:
    """Return the spectrum of each prompt, head and segment that the prompt reaches, in the band's window."""
    size = segments.windows[band]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    found = {}
    for p, length in enumerate(lengths):
        for h in range(x.shape[1]):
            for s, start in enumerate(segments.starts):
                if start + segments.length <= length:
                    at = start + (segments.length - size) // 2
                    piece = x[p, h, at : at + size]
                    found[p, h, s] = np.fft.rfft((piece - piece.mean()) * hann)
    return found


def expected(layers: list[torch.Tensor], lengths: list[int], kind: str) -> dict[str, Floats]:
    """Return every quantity from its definition."""
    segments = Segments.of(min(lengths), max(lengths))
    n, n_heads, n_layers = len(lengths), layers[0].shape[2], len(layers)
    series = np.concatenate([series_of(z, layer, kind) for layer, z in enumerate(layers)], axis=1)
    spectra = spectra_of(series, lengths, segments, 0)
    reach = {p: sum((p, 0, s) in spectra for s in range(len(segments.starts))) for p in range(n)}
    shared = sorted(reach.values())[-2]

    def u(p: int, g: int, q: int, h: int, s: int, f: int) -> complex:
        product = spectra[p, g, s][f] * spectra[q, h, s][f].conj()
        return complex(product / abs(product))

    def alike(p: int, g: int, q: int, h: int, n_segments: int, bins: tuple[int, ...]) -> list[float]:
        """Return the cosines of one pair of heads over pairs of segments and frequencies."""
        pairs = [(a, b) for b in range(n_segments) for a in range(b)]
        return [(u(p, g, q, h, a, f) * u(p, g, q, h, b, f).conjugate()).real for a, b in pairs for f in bins]

    n_bands = len(segments.bands)
    rows, value, null = (np.zeros((n, n_bands, n_layers)) for _ in range(3))
    total = n_layers * n_heads
    pair, excess, msc = (np.zeros((n_bands, total, total)) for _ in range(3))
    for band, bins in enumerate(segments.bands):
        spectra = spectra_of(series, lengths, segments, band)
        for layer in range(n_layers):
            heads = [layer * n_heads + h for h in range(n_heads)]
            for p in range(n):
                for out, upto in ((rows, reach[p]), (value, min(reach[p], shared))):
                    out[p, band, layer] = np.mean(
                        [alike(p, g, p, h, upto, bins) for g, h in permutations(heads, 2)]
                    )
                cosines = []
                for b in range(min(reach[p], shared)):
                    both = [q for q in range(n) if reach[q] > b]
                    for a in range(b):
                        cosines.append(
                            np.mean([
                                (u(q, g, r, h, a, f) * u(q, g, r, h, b, f).conjugate()).real
                                for q, r in permutations(both, 2)
                                for g, h in permutations(heads, 2)
                                for f in bins
                            ])
                        )  # fmt: skip
                null[p, band, layer] = np.mean(cosines)
        for g in range(total):
            for h in range(total):
                own = [alike(p, g, p, h, reach[p], bins) for p in range(n)]
                pair[band, g, h] = np.concatenate(own).mean()
                top, weights = 0.0, 0
                for b in range(max(reach.values())):
                    both = [p for p in range(n) if reach[p] > b]
                    for a in range(b if len(both) > 1 else 0):
                        within = np.mean([(u(p, g, p, h, a, f) * u(p, g, p, h, b, f).conjugate()).real
                                          for p in both for f in bins])  # fmt: skip
                        swapped = np.mean([(u(p, g, q, h, a, f) * u(p, g, q, h, b, f).conjugate()).real
                                           for p, q in permutations(both, 2) for f in bins])  # fmt: skip
                        top += (len(both) - 1) * float(within - swapped)
                        weights += len(both) - 1
                excess[band, g, h] = 0 if g == h else top / weights
                ours = np.concatenate([spectra[key][list(bins)] for key in spectra if key[1] == g])
                theirs = np.concatenate([spectra[key][list(bins)] for key in spectra if key[1] == h])
                cross = abs((ours * theirs.conj()).sum()) ** 2
                msc[band, g, h] = cross / (abs(ours) ** 2).sum() / (abs(theirs) ** 2).sum()
    return {"rows": rows, "value": value, "null": null, "pair": pair, "excess": excess, "msc": msc}


@pytest.mark.parametrize("kind", ["projection", "norm"])
@pytest.mark.parametrize("lengths", [[27, 41, 30, 55], [13, 15]], ids=str)
def test_numbers_are_those_of_a_loop(kind: str, lengths: list[int]) -> None:
    layers = [written(lengths, 3, seed) for seed in (0, 1)]
    data = measure(HeadLocking(series=kind), [{"z": z} for z in layers], lengths, facts(2, 3))
    by_hand = expected(layers, lengths, kind)
    found = data.sel(category="all")
    close = np.testing.assert_allclose
    close(data.consistency_prompt, by_hand["rows"], atol=1e-5)
    close(found.consistency, by_hand["value"].mean(0), atol=1e-5)
    close(found.consistency_null, by_hand["null"].mean(0), atol=1e-5)
    close(data.pair_consistency, by_hand["pair"], atol=1e-5)
    close(data.pair_excess, by_hand["excess"], atol=1e-5)
    close(data.pair_coherence, by_hand["msc"], atol=1e-5)


def test_bounds_are_those_of_a_jackknife_over_groups_of_prompts() -> None:
    lengths = [27, 30, 26, 41, 28, 33, 29] * 3
    z = written(lengths, 3, seed=4)
    data = measure(HeadLocking(), [{"z": z}], lengths, facts(1, 3)).sel(category="all")
    everyone = list(range(21))
    without = []
    for group in range(20):
        kept = [p for p in everyone if p % 20 != group]
        part = measure(HeadLocking(), [{"z": z[kept]}], [lengths[p] for p in kept], facts(1, 3))
        without.append(part.consistency_effect.sel(category="all").values)
    left = np.stack(without)
    half = 2.093024 * np.sqrt(0.95 * ((left - left.mean(0)) ** 2).sum(0))  # t of 19 degrees of freedom
    np.testing.assert_allclose(data.consistency_effect_high - data.consistency_effect, half, atol=1e-5)


def test_heads_that_follow_position_alone_do_not_exceed_other_prompts() -> None:
    lengths = [30, 55, 41, 41, 27, 60]
    z = written([60], 3).expand(6, -1, -1, -1)
    data = measure(HeadLocking(), [{"z": z}], lengths, facts(1, 3))
    assert float(data.consistency.mean()) > 0.05
    assert float(abs(data.consistency_effect).max()) < 1e-9
    assert float(abs(data.pair_excess).max()) < 1e-5


def test_a_head_that_lags_is_locked_all_the_same() -> None:
    """A delay of two tokens turns every frequency by another angle, the same in every segment."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(8, 202))
    z = torch.zeros(8, 200, 2, 4, dtype=torch.float64)
    z[:, :, 0] = torch.from_numpy(common[:, 2:])[..., None]
    z[:, :, 1] = torch.from_numpy(common[:, :-2])[..., None]
    data = measure(HeadLocking(), [{"z": z}], [200] * 8, facts(1, 2)).sel(category="all", layer=0)
    assert float(data.consistency.min()) > 0.75
    assert float(data.consistency_effect_low.min()) > 0.7


def test_a_head_that_is_constant_agrees_with_nobody() -> None:
    lengths = [30, 40, 33]
    z = written(lengths, 3)
    z[:, :, 1] = 0.1
    data = measure(HeadLocking(), [{"z": z}], lengths, facts(1, 3))
    for name in ("pair_consistency", "pair_coherence", "pair_excess"):
        assert not data[name].sel(head_a="L0H1").any(), name


@pytest.mark.parametrize("batches", [[[i] for i in range(5)], [[4, 0], [1, 3, 2]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    lengths = [27, 90, 35, 30, 60]
    layers = [{"z": written(lengths, 2, seed)} for seed in range(2)]
    one = measure(HeadLocking(), layers, lengths, facts(2, 2))
    other = measure(HeadLocking(), layers, lengths, facts(2, 2), batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-5)


def test_few_prompts() -> None:
    for n in (1, 2, 3):
        lengths = [27, 30, 41][:n]
        data = measure(HeadLocking(), [{"z": written(lengths, 3)}], lengths, facts(1, 3)).sel(category="all")
        assert bool(data.consistency.notnull().all())
        assert bool(data.consistency_null.notnull().all()) == (n > 1)
        assert ("pair_excess" in data) == (n > 1)
        assert bool(data.consistency_effect_low.notnull().all()) == (n > 2)


def test_what_is_kept_does_not_grow_with_the_record() -> None:
    sizes = []
    for length in (600, 1500):
        analysis, z = HeadLocking(), written([length, length], 2)
        features = observe(analysis, [{"z": z}], [length, length], facts(1, 2), prompts=[1])
        arrays = [*features.rows.values(), *features.sums.values(), *features.blocks.values()]
        sizes.append(sum(array.nbytes for array in arrays))
    assert sizes[0] == sizes[1]


def test_series_that_are_shifted_lose_what_they_share() -> None:
    rng = np.random.default_rng(3)
    z = torch.from_numpy(rng.normal(size=(6, 70, 1, 1)) * np.ones((1, 1, 3, 4)))
    z = z + 0.1 * torch.from_numpy(rng.normal(size=(6, 70, 3, 4)))
    data = measure(HeadLocking(surrogates=40), [{"z": z}], [70] * 6, facts(1, 3))
    assert float(data.consistency.min()) > 0.5
    # Shifts by a few tokens are delays, and keep some of it.
    assert float((data.consistency_shifted / data.consistency.isel(category=0)).max()) < 0.3
    assert bool((data.consistency_shifted_high > data.consistency_shifted_low).all())


def test_one_head_has_nobody_to_be_locked_to() -> None:
    with pytest.raises(AnalysisError, match="compares the heads of a layer, and by hand has one head"):
        measure(HeadLocking(), [{"z": written([30], 1)}], [30], facts(1, 1))


@pytest.mark.host
@pytest.mark.parametrize("frequency", [0.1875, 0.375, 0.09375])
def test_heads_of_one_source_are_locked_in_its_band_and_no_other(frequency: float) -> None:
    """The pair is found where its frequency is, and nothing else anywhere; of shuffled rows in all alike."""
    circuit = testbed.load_circuit("band_locked", n_ctx=256, frequency=frequency)
    adapter = attach(circuit.model())
    rows = circuit.tokens(np.random.default_rng(0), 48, 200)
    data = result_of(HeadLocking(), adapter, rows).data
    inside = (data.lowest_frequency <= frequency) & (frequency < data.highest_frequency)
    assert int(inside.sum()) == 1
    ((layer, one), (_, other)) = circuit.truth["locked_in_band"][0]
    pair = {"head_a": f"L{layer}H{one}", "head_b": f"L{layer}H{other}"}
    excess = data.pair_excess.sel(pair).values
    strongest = excess[inside.values].min()
    assert strongest > 0.08 and abs(excess[~inside.values]).max() < strongest / 3
    for (a, g), (b, h) in circuit.truth["independent_pairs"]:
        alone = data.pair_excess.sel(head_a=f"L{a}H{g}", head_b=f"L{b}H{h}").values
        assert abs(alone).max() < 0.06
    q = data.consistency_q.sel(category="all", layer=0).values
    assert inside.values[q.argmin()]  # one pair of six is locked, and the claim is about all of them
    members = data.community.isel(band=int(inside.values.argmax())).values
    assert members.tolist() == [0, 0, -1, -1]
    assert (data.community.values[~inside.values] == -1).all()
    rng = np.random.default_rng(1)
    shuffled = result_of(HeadLocking(), adapter, [rng.permutation(row).tolist() for row in rows]).data
    # A source in random order is white: what is left of it is in all bands alike.
    strength = shuffled.pair_excess.sel(pair).values
    assert np.ptp(strength) < 0.08 < np.ptp(excess)
