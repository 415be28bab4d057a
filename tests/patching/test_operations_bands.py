"""Bands along tokens, against scipy's cosine transform, PyWavelets and scipy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.dsp.cosine import PRISM_BANDS
from resonance_lens.errors import RecordError
from resonance_lens.patching.operations.bands import KeepBand, RemoveBand, SwapBand, band_matrix
from tests.patching.scenes import FACTS, scene_of, values_of

PARTS = [
    ("dct", ("low", "mid-low", "mid", "mid-high", "high"), 62),
    ("dct", ("0-0.1", "0.1-0.2", "0.2-0.35", "0.35-0.5"), 8),
    ("wavelet", ("level1", "level2", "approximation2"), 13),
    ("wavelet", ("level1", "approximation1"), 7),
]
"""Bands that tile everything, and the shortest prompt of at least a band of each."""

BANDS = st.sampled_from(
    [
        ("dct", "high"),
        ("dct", "low+high"),
        ("dct", "0.1-0.3"),
        ("dct", ".3-.5"),
        ("wavelet", "level1"),
        ("wavelet", "level2+approximation2"),
        ("causal", "0.1-0.3"),
        ("causal", "high"),
        ("causal", "0-0.2"),
    ]
)


@given(st.lists(st.integers(13, 70), min_size=1, max_size=3), BANDS, st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_a_band_and_the_rest_add_up_to_the_values(
    lengths: list[int], band: tuple[str, str], first: bool, seed: int
) -> None:
    values = values_of(lengths, 3, seed)
    scene = scene_of(lengths)
    remove = RemoveBand(method=band[0], band=band[1], first_position="edit" if first else "keep")
    keep = remove.complement()
    assert keep is not None
    rest, kept = remove.edit(values, scene), keep.edit(values, scene)
    for row, length in enumerate(lengths):
        start = 0 if first else 1
        together = (rest + kept)[row, start:length]
        torch.testing.assert_close(together, values[row, start:length], rtol=1e-12, atol=1e-12)
        assert torch.equal(rest[row, :start], values[row, :start])
        assert torch.equal(kept[row, :start], values[row, :start])


@pytest.mark.parametrize(("method", "parts", "shortest"), PARTS)
@pytest.mark.parametrize("longer", [0, 1, 2, 17])
def test_bands_that_tile_the_frequencies_add_up_to_the_values(
    method: str, parts: tuple[str, ...], shortest: int, longer: int
) -> None:
    n = shortest + longer
    total = sum(band_matrix(band, method, n - 1) for band in parts)
    torch.testing.assert_close(total, torch.eye(n - 1, dtype=torch.float64), rtol=0, atol=1e-12)
    # All of them taken out at once leave the first position alone: the mean goes with frequency 0.
    values = values_of((n,))
    left = RemoveBand(method=method, band="+".join(parts)).edit(values, scene_of((n,)))
    assert torch.equal(left[:, 0], values[:, 0])
    assert float(left[:, 1:].abs().max()) < 1e-12


@pytest.mark.parametrize("method", ["dct", "wavelet", "causal"])
def test_no_band_and_all_bands(method: str) -> None:
    values = values_of((9, 2), dtype=torch.float32)
    scene = scene_of((9, 2), donor=values_of((9, 2), seed=1, dtype=torch.float32))
    assert torch.equal(RemoveBand(method=method, band="none").edit(values, scene), values)
    assert torch.equal(KeepBand(method=method, band="all").edit(values, scene), values)
    assert torch.equal(SwapBand(method=method, band="none").edit(values, scene), values)
    assert not RemoveBand(method=method, band="all").edit(values, scene)[0, 1:].any()
    swapped = SwapBand(first_position="edit", method=method, band="all").edit(values, scene)
    assert scene.donor is not None
    torch.testing.assert_close(swapped[0], scene.donor[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("band", [each.name for each in PRISM_BANDS])
def test_a_band_of_the_cosine_transform_is_scipys(band: str) -> None:
    from scipy import fft

    n = 512
    values = values_of((n,), 2)
    made = KeepBand(band=band, first_position="edit").edit(values, scene_of((n,)))
    spectrum = fft.dct(values[0].numpy(), axis=0, norm="ortho")
    (known,) = [each for each in PRISM_BANDS if each.name == band]
    inside = (np.arange(n) >= known.first) & (np.arange(n) <= known.last)
    wanted = fft.idct(spectrum * inside[:, None], axis=0, norm="ortho")
    np.testing.assert_allclose(made[0], wanted, atol=1e-11)


def test_a_range_holds_its_lower_edge_and_not_its_upper_one() -> None:
    from scipy import fft

    n = 20  # index k is the frequency k / 40
    values = values_of((n,), 2)
    for low, high, inside in ((0.1, 0.25, range(4, 10)), (0.4, 0.5, range(16, 20)), (0.0, 0.025, range(1))):
        made = KeepBand(band=f"{low}-{high}", first_position="edit").edit(values, scene_of((n,)))
        spectrum = fft.dct(made[0].numpy(), axis=0, norm="ortho")
        there = np.flatnonzero(np.abs(spectrum).max(1) > 1e-9)
        assert there.tolist() == list(inside)


def test_a_scale_of_a_wavelet_is_pywavelets() -> None:
    import pywt

    n = 40
    values = values_of((n,), 2)
    coefficients = pywt.wavedec(values[0].numpy(), "db2", mode="symmetric", level=3, axis=0)
    for level in (1, 2, 3):
        alone = [np.zeros_like(each) for each in coefficients]
        alone[-level] = coefficients[-level]
        wanted = pywt.waverec(alone, "db2", mode="symmetric", axis=0)[:n]
        made = KeepBand(method="wavelet", band=f"level{level}", first_position="edit")
        np.testing.assert_allclose(made.edit(values, scene_of((n,)))[0], wanted, atol=1e-11)


def test_a_causal_band_is_scipys_filter_from_rest() -> None:
    from scipy import signal

    n = 60
    values = values_of((n,), 2)
    for low, high, kind, edges in (
        (0.1, 0.2, "bandpass", [0.1, 0.2]),
        (0.2, 0.5, "highpass", 0.2),
        (0.0, 0.3, "lowpass", 0.3),
    ):
        sections = signal.butter(4, edges, kind, output="sos", fs=1.0)
        made = KeepBand(method="causal", band=f"{low}-{high}").edit(values, scene_of((n,)))
        wanted = signal.sosfilt(sections, values[0, 1:].numpy(), axis=0)
        np.testing.assert_allclose(made[0, 1:], wanted, atol=1e-10)
        rest = RemoveBand(method="causal", band=f"{low}-{high}").edit(values, scene_of((n,)))
        np.testing.assert_allclose(rest[0, 1:], values[0, 1:].numpy() - wanted, atol=1e-10)


def test_neighbouring_bands_of_a_causal_filter_are_one_band() -> None:
    one, two = (band_matrix(band, "causal", 50) for band in ("0.1-0.4", "0.1-0.2+0.2-0.4"))
    torch.testing.assert_close(one, two)


def test_swapping_a_band_takes_it_from_the_donor_alone() -> None:
    """A cosine of 4 tokens in this run and one of 3 in the other, each on top of a slow trend of its own."""
    n = 41  # records of 40 tokens: index 20 has a period of 4 tokens
    at = torch.arange(n - 1, dtype=torch.float64) + 0.5
    mine = torch.cos(math.pi * 20 * at / 40)
    theirs = 2 * torch.cos(math.pi * 20 * at / 40) + 5 * torch.cos(math.pi * 2 * at / 40)
    trend = torch.cos(math.pi * at / 40)
    values, donor = (torch.zeros(1, n, 1, dtype=torch.float64) for _ in range(2))
    values[0, 1:, 0], donor[0, 1:, 0] = mine + trend, theirs
    scene = scene_of((n,), donor=donor)
    swap = SwapBand(band="0.24-0.26")
    torch.testing.assert_close(swap.edit(values, scene)[0, 1:, 0], 2 * mine + trend)
    rest = swap.complement().edit(values, scene)[0, 1:, 0]
    torch.testing.assert_close(rest, mine + 5 * torch.cos(math.pi * 2 * at / 40))


def test_mixing_the_features_before_or_after_makes_no_difference() -> None:
    values = values_of((20,), 4)
    mixed = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for method, band in (("dct", "high"), ("wavelet", "level1"), ("causal", "0.1-0.3")):
        remove = RemoveBand(method=method, band=band)
        after = remove.edit(values, scene_of((20,))) @ mixed
        torch.testing.assert_close(after, remove.edit(values @ mixed, scene_of((20,))))


def test_a_band_that_a_row_cannot_resolve_is_refused_for_the_whole_batch() -> None:
    values = values_of((80, 30))
    with pytest.raises(RecordError, match="Records of 29 positions have no index in the band 'mid-low'"):
        RemoveBand(band="mid-low").edit(values, scene_of((80, 30)))


def test_whole_layers_are_edited_as_their_heads_are() -> None:
    values = values_of((15,), 16)
    remove = RemoveBand(band="0.1-0.3")
    together = remove.edit(values, scene_of((15,), head=None))
    apart = [remove.edit(half, scene_of((15,))) for half in values.split(8, dim=-1)]
    torch.testing.assert_close(together, torch.cat(apart, dim=-1))
    assert FACTS.d_head == 8
