"""Directions: closed forms, and chance against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats

from resonance_lens.dsp.circular import (
    circular_deviation,
    circular_dispersion,
    circular_mean,
    expected_resultant,
    mean_phasor,
    metastability,
    order_parameter,
    pairwise_phase_consistency,
    rayleigh_p,
    resultant_length,
    unit_phasors,
)


def directions(angles: object) -> torch.Tensor:
    at = torch.as_tensor(np.asarray(angles, dtype=float))
    return torch.polar(torch.ones_like(at), at)


def simulated(n: int, turn: float = 2 * np.pi, draws: int = 200_000) -> tuple[float, float]:
    """Return the mean resultant length of n uniform directions, and its standard error."""
    angles = np.random.default_rng(n).uniform(0, turn, (draws, n))
    lengths = np.abs(np.exp(1j * angles).mean(1))
    return float(lengths.mean()), float(lengths.std() / np.sqrt(draws))


@pytest.mark.parametrize(
    "n, expected", [(1, 1.0), (2, 2 / np.pi), (3, 0.524866), (4, 0.449773), (9, 0.297508), (20, 0.198792)]
)
def test_expected_resultant_is_that_of_random_walks(n: int, expected: float) -> None:
    """A walk of n unit steps ends at a distance of 4/pi, 1.57460, 1.79909, ... (Borwein et al. 2011)."""
    assert expected_resultant(n) == pytest.approx(expected, abs=3e-6)


@pytest.mark.parametrize("n", [4, 9, 20, 50])
def test_expected_resultant_is_what_simulation_gives(n: int) -> None:
    mean, error = simulated(n)
    assert abs(expected_resultant(n) - mean) < 4 * error


def test_expected_resultant_goes_on_smoothly_where_the_expansion_takes_over() -> None:
    corrected = [expected_resultant(n) * np.sqrt(4 * n / np.pi) for n in (199, 200, 201, 202)]
    steps = np.diff(corrected)
    assert np.all(np.abs(steps) < 1e-5)
    assert expected_resultant(200) == pytest.approx(0.062685, abs=1e-6)
    assert expected_resultant(1000) < np.sqrt(np.pi / 4000) * (1 + 1e-4)
    assert expected_resultant(1000) > np.sqrt(np.pi / 4000)


@pytest.mark.parametrize("n, slack", [(2, 1e-3), (3, 6.5e-3), (4, 3.5e-3), (9, 1e-3), (30, 5e-4)])
def test_half_a_circle_has_its_own_chance_level(n: int, slack: float) -> None:
    mean, error = simulated(n, np.pi)
    assert abs(expected_resultant(n, "half") - mean) < slack + 3 * error
    assert expected_resultant(n, "half") > 2 / np.pi


def test_consistency_of_independent_directions_is_zero_on_average() -> None:
    angles = torch.as_tensor(np.random.default_rng(0).uniform(0, 2 * np.pi, (100_000, 5)))
    found = pairwise_phase_consistency(resultant_length(directions(angles), dim=1), 5)
    error = float(found.std()) / np.sqrt(len(found))
    assert abs(float(found.mean())) < 4 * error
    assert error < 1e-3


def test_consistency_of_a_von_mises_sample_is_the_square_of_its_concentration() -> None:
    for kappa, resultant in ((1.0, 0.446), (2.0, 0.698), (5.0, 0.893)):
        concentration = special.iv(1, kappa) / special.iv(0, kappa)
        assert concentration == pytest.approx(resultant, abs=5e-4)
        angles = np.random.default_rng(3).vonmises(1.0, kappa, (50_000, 4))
        found = pairwise_phase_consistency(resultant_length(directions(angles), dim=1), 4)
        assert float(found.mean()) == pytest.approx(concentration**2, abs=5e-3)


@given(st.lists(st.floats(0, 6.28), min_size=2, max_size=7))
def test_consistency_is_the_mean_cosine_over_pairs(angles: list[float]) -> None:
    n = len(angles)
    pairs = [np.cos(angles[a] - angles[b]) for a in range(n) for b in range(n) if a != b]
    found = pairwise_phase_consistency(resultant_length(directions(angles), dim=0), n)
    assert float(found) == pytest.approx(np.mean(pairs), abs=1e-9)


@given(st.lists(st.floats(0, 6.28), min_size=2, max_size=9), st.floats(-7, 7))
def test_resultant_is_between_zero_and_one_and_does_not_turn(angles: list[float], turn: float) -> None:
    plain = float(resultant_length(directions(angles), dim=0))
    turned = float(resultant_length(directions(np.asarray(angles) + turn), dim=0))
    assert -1e-12 <= plain <= 1 + 1e-12
    assert turned == pytest.approx(plain, abs=1e-9)


def test_circular_deviation_is_that_of_scipy() -> None:
    angles = np.random.default_rng(1).vonmises(0.3, 2.0, (6, 11))
    found = circular_deviation(resultant_length(directions(angles), dim=1))
    np.testing.assert_allclose(found, scipy_stats.circstd(angles, axis=1), rtol=1e-9)
    assert float(circular_deviation(torch.tensor(1.0))) == 0


def test_unit_phasors_keep_directions_and_nothing_else() -> None:
    angles = torch.linspace(0, 6, 13, dtype=torch.float64)
    sizes = torch.logspace(-4, 3, 13, dtype=torch.float64)
    units = unit_phasors(torch.polar(sizes, angles))
    torch.testing.assert_close(units, directions(angles))


def test_what_cancels_has_no_direction() -> None:
    """The rounding error of a uniform row must not become a direction in which all heads agree."""
    weights = torch.full((50,), 1 / 50)
    key = torch.arange(50) * (2 * torch.pi / 50)
    left_over = (weights * torch.polar(torch.ones(50), key)).sum()
    assert abs(left_over) > 0
    assert unit_phasors(left_over[None])[0] == 0


def test_not_a_number_is_not_taken_for_no_direction() -> None:
    assert unit_phasors(torch.tensor([complex("nan")])).isnan().all()


# ------------------------------------------------------------------ weighted means, tests, order over heads


def test_weighted_means_are_those_of_astropy() -> None:
    from astropy.stats import circstats

    rng = np.random.default_rng(0)
    angles, weights = rng.vonmises(1.0, 1.2, (5, 40)), rng.uniform(0, 3, (5, 40))
    units = directions(angles)
    found = circular_mean(units, 1, torch.from_numpy(weights))
    np.testing.assert_allclose(found, circstats.circmean(angles, axis=1, weights=weights), atol=1e-12)
    np.testing.assert_allclose(circular_mean(units, 1), circstats.circmean(angles, axis=1), atol=1e-12)
    plain = scipy_stats.circmean(angles, axis=1, low=-np.pi, high=np.pi)
    np.testing.assert_allclose(circular_mean(units, 1), plain, atol=1e-12)
    length = 1 - circstats.circvar(angles, axis=1, weights=weights)
    np.testing.assert_allclose(order_parameter(units, 1, torch.from_numpy(weights)), length, atol=1e-12)


def test_what_has_no_weight_is_not_there() -> None:
    units = directions(np.random.default_rng(1).uniform(0, 6, (3, 7)))
    there = torch.tensor([True, False, True, True, False, False, True])
    torch.testing.assert_close(mean_phasor(units, 1, there), units[:, there].mean(1))
    assert mean_phasor(units, 1, torch.zeros(7)).abs().max() == 0
    assert bool(circular_mean(units, 1, torch.zeros(7)).isnan().all())


def test_opposite_directions_have_no_mean_and_no_dispersion() -> None:
    units = directions([0.3, 0.3 + np.pi])
    assert bool(circular_mean(units, 0).isnan()) and bool(circular_dispersion(units, 0).isnan())


@given(st.lists(st.floats(0, 1.4), min_size=2, max_size=9), st.floats(-7, 7))
def test_dispersion_is_that_of_fisher_and_does_not_turn(angles: list[float], turn: float) -> None:
    at = np.asarray(angles)
    mean = np.exp(1j * at).mean()
    doubled = np.cos(2 * (at - np.angle(mean))).mean()
    expected = (1 - doubled) / (2 * abs(mean) ** 2)
    found = circular_dispersion(directions(at + turn), 0)
    assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kappa", [1.0, 2.0, 5.0])
def test_dispersion_of_a_von_mises_distribution(kappa: float) -> None:
    angles = np.random.default_rng(2).vonmises(0.5, kappa, 400_000)
    concentration = special.iv(1, kappa) / special.iv(0, kappa)
    assert float(circular_dispersion(directions(angles), 0)) == pytest.approx(
        1 / (kappa * concentration), rel=0.02
    )


@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_rayleigh_p_is_how_often_chance_gives_as_much(n: int) -> None:
    angles = np.random.default_rng(n).uniform(0, 2 * np.pi, (40_000, n))
    p = rayleigh_p(resultant_length(directions(angles), 1), n).numpy()
    for level in (0.01, 0.05, 0.3):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level / 40_000) + 1e-3
    assert float(rayleigh_p(torch.tensor(0.0), n)) == pytest.approx(1, abs=1e-12)


def test_rayleigh_p_is_near_the_other_approximation() -> None:
    from astropy.stats import circstats

    angles = np.random.default_rng(0).vonmises(0, 0.4, (20, 40))  # from 50 on astropy leaves corrections out
    found = rayleigh_p(resultant_length(directions(angles), 1), 40)
    theirs = [circstats.rayleightest(row) for row in angles]
    np.testing.assert_allclose(found, theirs, atol=5e-4)


def test_metastability_is_the_standard_deviation_and_that_of_independent_heads() -> None:
    rng = np.random.default_rng(0)
    units = directions(rng.uniform(0, 2 * np.pi, (9, 200_000)))
    order = order_parameter(units, 0)
    found = float(metastability(order, 0))
    assert found == pytest.approx(float(order.numpy().std()), abs=1e-12)
    assert found == pytest.approx(np.sqrt(1 / 9 - expected_resultant(9) ** 2), rel=0.01)
    rows = torch.from_numpy(rng.uniform(0, 1, (3, 8)))
    there = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    by_row = [row[:n].numpy().std() for row, n in zip(rows, (8, 5, 2), strict=True)]
    np.testing.assert_allclose(metastability(rows, 1, there), by_row, atol=1e-12)
    assert bool(metastability(rows, 1, there & False).isnan().all())


def test_the_levels_of_chance_that_science_states() -> None:
    for n, level in ((4, 0.4498), (9, 0.2975), (20, 0.1988), (50, 0.1255), (200, 0.0627)):
        assert expected_resultant(n) == pytest.approx(level, abs=6e-5)
