"""Components of made-up documents: what is planted is found, and what is not there is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, stats

from resonance_lens.discovering.learning import Bands, learn, prism_bands
from resonance_lens.discovering.measuring import courses, measure, signed_ranks
from resonance_lens.discovering.naming import context, moments, words
from resonance_lens.errors import ActivationError, ParameterError, RecordError
from tests.discovering import planted
from tests.discovering.planted import BANDS, FEATURES, TOKENS


@pytest.mark.parametrize("band", range(len(BANDS.names)))
def test_a_planted_component_is_found_in_its_band_and_no_other(band: int) -> None:
    rng = np.random.default_rng([4, band])
    documents = planted.shared(rng, 24, band)
    direction = planted.unit(np.random.default_rng([4, band]))
    learned, measured = planted.looked(documents)
    found = planted.recurs(measured, 0)
    expected = np.zeros_like(found)
    expected[band, 0] = True
    assert found.tolist() == expected.tolist()
    # What it writes is what was planted.
    writes = learned.writes[band, 0].numpy()
    assert abs(writes @ direction) / np.linalg.norm(writes) > 0.97
    assert learned.reads[band, 0] @ learned.writes[band, 0] == pytest.approx(1)


NOTHING = (planted.nothing, planted.nothing_red, planted.nothing_heavy, planted.own, planted.own_uneven)


@pytest.mark.parametrize("make", NOTHING, ids=lambda make: make.__name__)
def test_where_nothing_comes_back_it_is_found_no_more_often_than_the_level(make: planted.Make) -> None:
    trials = 100
    made = [make(np.random.default_rng([7, seed]), 14) for seed in range(trials)]
    found = sum(bool(planted.recurs(planted.looked(each)[1], 0).any()) for each in made)
    assert found <= stats.binom.ppf(0.99, trials, 0.05), found


def test_a_rhythm_of_a_single_document_is_none_that_comes_back() -> None:
    rng = np.random.default_rng(0)
    documents = planted.shared(rng, 24, share=0.0)
    for at in (0, 1):
        documents[at] = documents[at] + torch.from_numpy(6 * planted.rhythm(rng, 2) * planted.unit(rng))
    assert not planted.recurs(planted.looked(documents)[1], 0).any()


def test_components_are_those_of_the_covariances_by_hand() -> None:
    rng = np.random.default_rng(3)
    documents = planted.shared(rng, 12, band=1)
    learned, measured = planted.looked(documents, n_components=3)
    raw = [each.numpy() for each in documents[:6]]
    common = np.median(np.concatenate(raw), axis=0)
    raw = [each - common for each in raw]
    flat = np.concatenate([(each - each.mean(1, keepdims=True)).reshape(-1, FEATURES) for each in raw])
    scale = flat.std(0)
    np.testing.assert_allclose(learned.scale.numpy(), scale, rtol=1e-10)
    total = np.zeros((FEATURES, FEATURES))
    inside = BANDS.members[1]
    for each in raw:
        z = fft.dct(each / scale, axis=1, norm="ortho")[:, 1:]
        whole = np.einsum("wkf,wkg->fg", z, z)
        part = np.einsum("wkf,wkg->fg", z[:, inside], z[:, inside])
        total += (part / np.trace(part) - whole / np.trace(whole)) / len(raw)
    values, vectors = np.linalg.eigh(total)
    np.testing.assert_allclose(learned.gained[1], values[::-1][:3], rtol=1e-8)
    for number, vector in enumerate(vectors.T[::-1][:3]):
        assert abs(vector @ learned.weights[1, number].numpy()) == pytest.approx(1, abs=1e-8)
    # And what they do elsewhere, with the course made by filtering.
    course = (documents[6].numpy() - common) @ learned.reads[1, 0].numpy()
    z = fft.dct(course, axis=1, norm="ortho")[:, 1:]
    concentration = (z[:, inside] ** 2).sum() / (z**2).sum()
    assert measured.concentration[0, 1, 0] == pytest.approx(concentration)
    everything = fft.dct((documents[6].numpy() - common) / scale, axis=1, norm="ortho")[:, 1:]
    whole_share = (everything[:, inside] ** 2).sum() / (everything**2).sum()
    expected = max(whole_share, inside.mean())
    assert measured.expected[0, 1] == pytest.approx(expected)
    assert measured.excess[0, 1, 0] == pytest.approx((concentration - expected) / (1 - expected))
    assert measured.share[0, 1, 0] == pytest.approx(
        (z[:, inside] ** 2).sum() / (everything[:, inside] ** 2).sum()
    )
    assert measured.spectrum.sum(-1) == pytest.approx(np.ones((4, 3)))


def test_courses_are_the_band_of_the_projection() -> None:
    from resonance_lens.dsp.cosine import dct_band

    documents = planted.shared(np.random.default_rng(1), 12, band=2)
    learned, _ = planted.looked(documents)
    projected = ((documents[7] - learned.common) @ learned.reads[2].T).double()
    expected = dct_band(projected, 1, "mid-high")
    torch.testing.assert_close(courses(documents[7], learned, BANDS, 2), expected)


def test_ranks_have_signs_and_what_is_missing_stays_missing() -> None:
    difference = np.array([[0.5, 1.0], [-2.0, np.nan], [0.0, -3.0], [1.0, 2.0]])
    expected = np.array([[2.0, 1.0], [-4.0, np.nan], [0.0, -3.0], [3.0, 2.0]])
    np.testing.assert_array_equal(signed_ranks(difference), expected)


def test_activations_in_another_order_have_the_share_of_white_noise() -> None:
    """The null of the excess in closed form: its mean over all orders of the tokens."""
    rng = np.random.default_rng(5)
    documents = planted.shared(rng, 12, band=1)
    learned = learn(lambda: documents[:6], BANDS, 1)
    record = documents[6] - learned.common
    orders = [torch.from_numpy(rng.permutation(TOKENS)) for _ in range(400)]
    shuffled = [record[:, order] + learned.common for order in orders]
    found = measure(shuffled, learned, BANDS).concentration[:, :, 0]
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - BANDS.white) < 4 * error).all()


def test_a_rotation_of_its_own_leaves_a_random_share() -> None:
    """The null of the share in closed form."""
    rng = np.random.default_rng(6)
    documents = planted.shared(rng, 12, band=1)
    learned = learn(lambda: documents[:6], BANDS, 1, "none")
    record = documents[6] - learned.common
    turned = []
    for _ in range(600):
        rotation = stats.special_ortho_group.rvs(FEATURES, random_state=rng)
        turned.append(record @ torch.from_numpy(rotation) + learned.common)
    found = measure(turned, learned, BANDS).share[:, :, 0]
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - 1 / FEATURES) < 4 * error).all()


def test_a_massive_feature_gains_nothing_and_a_dead_one_is_left_out() -> None:
    rng = np.random.default_rng(8)
    documents = planted.shared(rng, 24, band=2)
    for each in documents:
        each[..., 0] *= 1000
        each[..., 1] = 7.0
    learned, measured = planted.looked(documents)
    assert learned.weights[:, :, 1].abs().max() < 1e-12 and bool(torch.isinf(learned.scale[1]))
    assert (learned.reads[..., 1] == 0).all() and (learned.writes[..., 1] == 0).all()
    assert planted.recurs(measured, 0)[2, 0]
    bare = learn(lambda: documents[:12], BANDS, 1, "none")
    assert bare.gained.max() < 0.01 < 0.3 * learned.gained[2, 0]  # one feature is all there is, in every band


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_sizes_and_what_is_common_at_positions_do_not_matter(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    documents = planted.shared(rng, 6, band=2)
    fixed = torch.from_numpy(rng.normal(size=(TOKENS, FEATURES)) * 10)
    scales = torch.from_numpy(np.exp(rng.normal(size=FEATURES)))
    _, measured = planted.looked(documents)
    _, again = planted.looked([size * each * scales + fixed for each in documents])
    np.testing.assert_allclose(again.excess, measured.excess, atol=1e-6)
    np.testing.assert_allclose(again.share, measured.share, atol=1e-6)


def test_bands_are_those_of_prism_and_what_cannot_be_resolved_is_refused() -> None:
    assert prism_bands() == ("mid-low", "mid", "mid-high", "high")
    assert Bands.of(prism_bands(), 512).members.sum(1).tolist() == [7, 25, 96, 382]
    assert Bands.of(["0.1-0.25"], 100).members[0].nonzero()[0].tolist() == list(range(19, 49))
    with pytest.raises(RecordError, match="'low' cannot be resolved in windows of 96 .* but their mean"):
        Bands.of(["low"], TOKENS)
    with pytest.raises(RecordError, match="'0.1-0.101' cannot be resolved"):
        Bands.of(["0.1-0.101"], 24)
    for bad in ((), "mid", ("mid", "mid")):
        with pytest.raises(ParameterError, match="'bands' parameter of discover must be names"):
            Bands.of(bad, TOKENS)
    with pytest.raises(ParameterError, match="There is no band 'middle'"):
        Bands.of(["middle"], TOKENS)


def test_contrast_is_the_power_in_a_band_over_that_of_the_stronger_octave_beside_it() -> None:
    members = np.zeros((2, 16), dtype=np.bool_)
    members[0, :2] = members[1, 4:8] = True  # indices 1 and 2, and 5 to 8
    power = np.ones((1, 2, 1, 16))
    power[0, 0, 0, 1:4] = (6, 3, 1)  # beside 1 and 2 are 3 and 4
    power[0, 1, 0, 2:8] = (2, 4, 9, 9, 9, 9)  # beside 5 to 8 are 3 and 4, and 9 to 16
    found = Bands(("low", "high"), 17, members).contrast(power)
    np.testing.assert_allclose(found[0, :, 0], [3.5 / 2, 9 / 3])
    assert np.isnan(Bands(("all",), 17, np.ones((1, 16), dtype=np.bool_)).contrast(power[:, :1])).all()


def test_where_nothing_changes_there_are_no_components() -> None:
    still = [torch.ones(2, TOKENS, FEATURES) for _ in range(3)]
    with pytest.raises(ActivationError, match="Nothing changes along tokens"):
        learn(lambda: still, BANDS, 1)


# --------------------------------------------------------------------------------------- names


def test_moments_are_the_largest_values_half_a_period_apart() -> None:
    course = np.zeros((2, 20))
    course[0, 4], course[0, 5], course[1, 9], course[0, 15] = 3.0, -2.9, -4.0, 1.0
    found = moments(course, 5, apart=2)
    assert [(each.window, each.token, each.value) for each in found] == [
        (1, 9, -4.0),
        (0, 4, 3.0),
        (0, 15, 1.0),
    ]
    assert [each.value for each in moments(course, 5, apart=0.4)] == [
        -4.0,
        3.0,
        1.0,
    ]  # a neighbour is too near
    assert course[0, 4] == 3.0  # not touched


def test_words_are_named_that_come_up_often_in_several_documents() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(10, size=(6, 40))
    course = rng.normal(size=ids.shape)
    course[ids == 3] += 3
    course[ids == 5] -= 3
    ids[0, :8], course[0, :8] = 99, 50.0  # strong, often, in one document
    ids[:4, 10], course[:4, 10] = 98, 50.0  # strong, in several, too seldom
    above, below = words(course, ids, np.arange(6))
    assert above[0] == 3 and below[0] == 5 and not {98, 99} & {*above, *below}


def test_a_moment_is_shown_in_its_text() -> None:
    text = "a" * 40 + " word, and what comes after it"
    assert context(text, [(0, 40), (40, 45)], 1) == (" word", "a" * 32 + "\u27e6 word\u27e7, and what comes")
