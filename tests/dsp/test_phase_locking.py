"""Phase locking of all pairs, against MNE-Connectivity, loops, and levels of chance in closed form."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from scipy import special

from resonance_lens.dsp.phase_locking import (
    MEASURES,
    corrected_imaginary_locking,
    debiased_weighted_phase_lag_index,
    pairwise_phase_consistency,
    phase_lag_index,
    phase_locking,
    phase_locking_value,
    weighted_phase_lag_index,
)
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal

Complex = NDArray[np.complex128]


def coupled(n_epochs: int, n_series: int, n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return series [epoch, series, position] that share a noise, some of them later than others."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_epochs, 1, n))
    later = np.roll(common, 3, -1) * rng.normal(size=(1, n_series, 1))
    return np.asarray(rng.normal(size=(n_epochs, n_series, n)) + 0.5 * common + 0.5 * later)


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))


def by_hand(x: Complex, g: int, h: int) -> dict[str, float]:
    """Return every measure of one pair of series from its definition, ``x`` [sample, series]."""
    s = x[:, g] * x[:, h].conj()
    u = s / abs(s)
    n, mean, aside = len(s), u.mean(), s.imag
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    return {
        "plv": abs(mean),
        "ppc": float(np.mean([(u[i] * u[j].conj()).real for i, j in pairs])),
        "ciplv": abs(mean.imag) / math.sqrt(1 - mean.real**2),
        "pli": abs(np.sign(aside).mean()),
        "wpli": abs(aside.mean()) / abs(aside).mean(),
        "wpli2_debiased": sum(aside[i] * aside[j] for i, j in pairs)
        / sum(abs(aside[i] * aside[j]) for i, j in pairs),
    }


@pytest.mark.parametrize("measure", MEASURES)
def test_all_pairs_are_those_of_mne(measure: str) -> None:
    from mne_connectivity import spectral_connectivity_epochs

    series = coupled(11, 19, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = spectral_connectivity_epochs(
            series, method=measure, mode="fourier", sfreq=1.0, fmin=0.0, fmax=0.5, verbose="error"
        )
    dense = np.moveaxis(np.asarray(theirs.get_data("dense")), -1, 0)  # the lower triangle
    window = np.hanning(64)  # MNE's: symmetric
    spectra = np.fft.rfft((series - series.mean(-1, keepdims=True)) * window)
    found = MEASURES[measure](torch.from_numpy(np.moveaxis(spectra, 1, -1)), None).numpy()
    found = found[-len(dense) :]
    i, j = np.tril_indices(19, -1)
    # Real bins, at 0 and 0.5, have no imaginary part: there MNE divides rounding errors.
    np.testing.assert_allclose(found[1:-1, i, j], dense[1:-1, i, j], atol=1e-6)
    np.testing.assert_allclose(found, np.swapaxes(found, 1, 2), atol=1e-14)


@pytest.mark.parametrize("measure", MEASURES)
def test_numbers_are_those_of_their_definitions(measure: str) -> None:
    x = samples(7, 2, 40)  # more series than are worked on at one time
    found = MEASURES[measure](x, None)
    assert found.shape == (2, 40, 40)
    for place, g, h in ((0, 0, 1), (1, 39, 3), (0, 17, 33), (1, 20, 16)):
        expected = by_hand(x[:, place].numpy(), g, h)[measure]
        assert float(found[place, g, h]) == pytest.approx(expected, abs=1e-12)
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert bool(((diagonal - float(measure in ("plv", "ppc"))).abs() < 1e-12).all())


@pytest.mark.parametrize("measure", MEASURES)
def test_samples_that_do_not_count_are_not_there(measure: str) -> None:
    x = samples(9, 3, 5)
    there = torch.zeros(9, 3, dtype=torch.bool)
    kept = ([0, 2, 3, 8], list(range(9)), [1, 5])
    for place, which in enumerate(kept):
        there[which, place] = True
    spoilt = torch.where(there[..., None], x, torch.full_like(x, complex(math.nan, 1)))
    found = MEASURES[measure](spoilt, there)
    for place, which in enumerate(kept):
        alone = MEASURES[measure](x[which, place], None)
        torch.testing.assert_close(found[place], alone, atol=1e-13, rtol=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_series_in_step_have_no_lag_not_even_by_rounding(measure: str) -> None:
    """Two copies of a series, and one that stands opposed: 0/0 is 0 where only a lag counts."""
    one = samples(12, 1)
    found = MEASURES[measure](torch.cat([one, one, -3 * one], dim=1), None)
    expected = 1.0 if measure in ("plv", "ppc") else 0.0
    assert bool(((found - expected).abs() < 1e-12).all())


@pytest.mark.parametrize("measure", MEASURES)
def test_single_precision_is_near_double(measure: str) -> None:
    x = samples(24, 3, 20)
    double, single = (MEASURES[measure](v, None) for v in (x, x.to(torch.complex64)))
    assert single.dtype == torch.float32
    if measure != "pli":  # signs
        assert float((double - single).abs().max()) < 1e-4


@given(st.integers(2, 12), st.integers(0, 1000))
def test_ranges_and_laws(n: int, seed: int) -> None:
    x = samples(n, 6, seed=seed)
    found = {name: measure(x, None) for name, measure in MEASURES.items()}
    for name in ("plv", "ciplv", "pli", "wpli"):
        assert float(found[name].min()) >= -1e-12 and float(found[name].max()) <= 1 + 1e-12
    torch.testing.assert_close(found["ppc"], (n * found["plv"] ** 2 - 1) / (n - 1), atol=1e-9, rtol=0)
    turned = MEASURES["plv"](x * torch.tensor(np.exp(1j * np.arange(6)) * 3), None)
    torch.testing.assert_close(found["plv"], turned, atol=1e-12, rtol=0)


CHANCE = {9: (0.273, 0.336), 20: (0.176, 0.225), 50: (0.112, 0.142)}
"""Of the phase lag index, plain and weighted, for independent samples with a Gaussian imaginary part."""


@pytest.mark.parametrize("n", CHANCE)
def test_levels_of_chance(n: int) -> None:
    """A mean sign is a walk of n steps; PLV is sqrt(pi / 4n) and a little more; the others are debiased."""
    rng = np.random.default_rng(n)
    draws = 8_000
    reference = torch.ones(n, draws, 1, dtype=torch.complex128)
    # Against a constant the imaginary part of S is the second series'.
    gaussian = torch.from_numpy(rng.normal(size=(n, draws, 1)) + 1j * rng.normal(size=(n, draws, 1)))
    x = torch.cat([gaussian, reference], dim=-1)
    of_pair = {name: measure(x, None)[:, 0, 1].numpy() for name, measure in MEASURES.items()}
    mean = {name: values.mean() for name, values in of_pair.items()}
    error = {name: 4 * values.std() / np.sqrt(draws) for name, values in of_pair.items()}
    m = n - 1 if n % 2 else n
    walk = special.comb(m, m // 2) / 2**m
    assert mean["pli"] == pytest.approx(walk, abs=error["pli"])
    pli, weighted = CHANCE[n]
    assert walk == pytest.approx(pli, abs=1e-3)
    assert mean["wpli"] == pytest.approx(weighted, abs=error["wpli"] + 1e-3)
    assert abs(mean["wpli2_debiased"]) < error["wpli2_debiased"] + 2e-3
    assert abs(mean["ppc"]) < error["ppc"]
    assert mean["plv"] == pytest.approx(np.sqrt(np.pi / (4 * n)), rel=0.02)


def test_heads_around_a_common_direction_agree_by_the_square_of_what_each_does() -> None:
    rng = np.random.default_rng(5)
    kappa = 2.0
    x = torch.from_numpy(np.exp(1j * rng.vonmises(0.4, kappa, size=(4, 40_000, 2))))
    found = pairwise_phase_consistency(x)[:, 0, 1].mean()
    concentration = special.iv(1, kappa) / special.iv(0, kappa)
    # The phase difference has the resultant A(kappa)^2, and consistency is its square.
    assert float(found) == pytest.approx(concentration**4, abs=5e-3)


def test_along_tokens_it_is_a_loop_over_pairs_of_analytic_signals() -> None:
    lengths = [60, 47]
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 60, 5)))
    x = Signal(values, ("batch", "token", "head"), lengths=torch.tensor(lengths))
    found = phase_locking(x, "token", "head", band=None, measure="plv")
    narrow = phase_locking(x, "token", "head", band=(0.1, 0.2), measure="ppc")
    plain = phase_locking(values, 1, 2, band=None, measure="plv", lengths=x.lengths)
    torch.testing.assert_close(found, plain)
    for row, length in enumerate(lengths):
        waves = scipy_signal.hilbert(values[row, :length].numpy(), axis=0)
        for g, h in ((0, 1), (4, 2)):
            assert float(found[row, g, h]) == pytest.approx(by_hand(waves, g, h)["plv"], abs=1e-12)
        alone = phase_locking(values[row, :length], 0, 1, band=(0.1, 0.2), measure="ppc")
        torch.testing.assert_close(narrow[row], alone, atol=1e-12, rtol=0)


def test_waves_of_one_frequency_are_locked_in_its_band_alone() -> None:
    rng = np.random.default_rng(1)
    phase = 2 * np.pi * 0.15 * np.arange(400) + rng.normal(0, 0.3, 400).cumsum()
    x = rng.normal(size=(3, 400))
    x[:2] += 2 * np.stack([np.cos(phase), np.sin(phase)])
    series = torch.from_numpy(x)
    inside = phase_locking(series, 1, 0, band=(0.1, 0.2), measure="ppc")
    outside = phase_locking(series, 1, 0, band=(0.3, 0.4), measure="ppc")
    assert float(inside[0, 1]) > 0.5 and float(inside[0, 2]) < 0.2 and float(outside[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: phase_locking_value(torch.ones(3, 2)), RecordError, "needs complex samples"),
        (lambda: phase_locking_value(samples(3)), RecordError, "needs complex samples"),
        (lambda: phase_locking_value(samples(0, 2)), RecordError, "at least one sample"),
        (lambda: phase_locking_value(samples(3, 2), samples(3).real > 9), RecordError, "at least"),
        (lambda: phase_locking_value(samples(3, 2) * math.nan), ActivationError, "needs finite numbers"),
        (lambda: pairwise_phase_consistency(samples(1, 2)), RecordError, "needs at least 2 samples"),
        (lambda: debiased_weighted_phase_lag_index(samples(1, 2)), RecordError, "at least 2 samples"),
        (lambda: phase_locking(samples(3, 40).real, 1, 0, band=None, measure="pvl"), ParameterError,  # type: ignore
         "There is no measure of phase locking 'pvl'. Known: ciplv, pli, plv, ppc, wpli, wpli2_debiased."),
        (lambda: phase_locking(samples(3, 40).real, 1, 1, band=None), AxisError, "other than their own"),
        (lambda: phase_locking(samples(3, 40).real, 1, "head", band=None), AxisError, "by their numbers"),
        (lambda: phase_locking(samples(3, 20).real, 1, 0, band=(0.1, 0.3)), RecordError, "one sample"),
    ],
)  # fmt: skip
def test_refusals(call: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize(
    "measure", [phase_locking_value, pairwise_phase_consistency, corrected_imaginary_locking]
)
def test_gradients_go_through_measures_of_mean_phases(measure: Any) -> None:
    assert torch.autograd.gradcheck(measure, samples(7, 2, 3).requires_grad_())


@pytest.mark.parametrize(
    "measure", [phase_lag_index, weighted_phase_lag_index, debiased_weighted_phase_lag_index]
)
def test_a_gradient_through_a_lag_index_is_refused(measure: Any) -> None:
    x = samples(7, 3).requires_grad_()
    with pytest.raises(ActivationError, match="have no gradient where phases agree.*detach the samples"):
        measure(x)
    with torch.no_grad():
        torch.testing.assert_close(measure(x), measure(x.detach()))


def test_series_that_are_silent_agree_with_nobody() -> None:
    x = samples(6, 3)
    x[:, 1] = 0
    for measure in (phase_locking_value, phase_lag_index, weighted_phase_lag_index):
        found = measure(x)
        assert not found[1, [0, 2]].any() and bool(torch.isfinite(found).all())
