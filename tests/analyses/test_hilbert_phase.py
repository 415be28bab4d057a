"""Instantaneous phase of heads, against scipy and loops over pairs of heads and pairs of prompts."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from resonance_lens.analyses.hilbert_phase import FAR, NEAR, HilbertPhase
from resonance_lens.dsp.circular import expected_resultant
from resonance_lens.errors import AnalysisError
from tests.by_hand import facts, measure, observe

Floats = NDArray[np.float64]


def written(lengths: list[int], n_heads: int, seed: int = 0) -> torch.Tensor:
    """Return z [batch, token, head, d_head]: something of the position, something of the prompt, noise."""
    rng = np.random.default_rng(seed)
    n = max(lengths)
    z = rng.normal(size=(len(lengths), n, n_heads, 4))
    z += rng.normal(size=(1, n, 1, 4)) + rng.normal(size=(len(lengths), n, 1, 4)) + 3
    for row, length in enumerate(lengths):
        z[row, length:] = 0
    return torch.from_numpy(z)


def waves_of(z: torch.Tensor, lengths: list[int], period: int) -> list[NDArray[np.complex128]]:
    """Return the analytic signal of each prompt, [head, token] without the first: band-passed, by scipy."""
    low, high = 0.5 / period, 1 / period
    skirt = (high - low) / 4
    found = []
    for p, length in enumerate(lengths):
        x = np.linalg.norm(z[p, 1:length].numpy(), axis=-1).T
        x = x - x.mean(1, keepdims=True)
        f = np.abs(np.fft.fftfreq(length - 1))
        beyond = np.clip(np.maximum((low - f) / skirt, (f - high) / skirt), 0, 1)
        passed = np.fft.ifft(np.fft.fft(x) * np.cos(np.pi / 2 * beyond) ** 2).real
        found.append(scipy_signal.hilbert(passed, axis=1))
    return found


def grid_of(length: int, period: int) -> list[int]:
    return list(range(2 * period, length - 1 - 2 * period, period))


@pytest.mark.parametrize("period", [3, 4])
def test_numbers_are_those_of_a_loop(period: int) -> None:
    lengths, n_heads = [41, 60, 33, 52], 3
    layers = [written(lengths, n_heads, seed) for seed in (0, 1)]
    analysis = HilbertPhase(period=period)
    data = measure(analysis, [{"z": z} for z in layers], lengths, facts(2, n_heads)).sel(category="all")
    shared = sorted(lengths)[-2]
    order, spread, value, null, strength, field = ({} for _ in range(6))
    for layer, z in enumerate(layers):
        waves = waves_of(z, lengths, period)
        units = [w / abs(w) for w in waves]
        for p, length in enumerate(lengths):
            grid = grid_of(length, period)
            r = abs(units[p][:, grid].mean(0))
            order[p, layer], spread[p, layer] = r.mean(), r.std()
            field[p, layer] = units[p][:, grid].mean(0)
            inside = slice(2 * period, length - 1 - 2 * period)
            strength[p, layer] = np.sqrt((abs(waves[p][:, inside]) ** 2).mean(1))
            both = grid_of(min(length, shared), period)
            pairs = list(permutations(range(n_heads), 2))
            value[p, layer] = np.mean([(units[p][g, both] * units[p][h, both].conj()).real for g, h in pairs])
            at = []
            for t in both:
                reach = [q for q in range(4) if t in grid_of(lengths[q], period)]
                at.append(
                    np.mean([
                        (units[a][g, t] * units[b][h, t].conj()).real
                        for a, b in permutations(reach, 2)
                        for g, h in pairs
                    ])
                )  # fmt: skip
            null[p, layer] = np.mean(at)

    def mean(rows: dict[tuple[int, int], Floats]) -> Floats:
        return np.array([np.mean([rows[p, layer] for p in range(4)], axis=0) for layer in (0, 1)])

    close = np.testing.assert_allclose
    close(data.order_parameter, mean(order), atol=1e-5)
    close(data.metastability, mean(spread), atol=1e-5)
    close(data.amplitude, mean(strength), atol=1e-5)
    close(data.consistency, mean(value), atol=1e-5)
    close(data.consistency_null, mean(null), atol=1e-5)
    steps = np.mean([(field[p, 1] * field[p, 0].conj()).mean() for p in range(4)])
    step = np.angle(steps) if abs(steps) > 0.05 else np.nan  # a shorter mean has no direction
    assert bool(data.phase_step[0].isnull())
    assert float(data.phase_step[1]) == pytest.approx(step, abs=1e-4, nan_ok=True)
    assert float(data.delay[1]) == pytest.approx(-step / (2 * np.pi * 0.75 / period), abs=1e-4, nan_ok=True)


def test_heads_that_swing_together_crest_at_the_same_tokens() -> None:
    """Every layer a token later than the one before: its delay is one token."""
    rng = np.random.default_rng(0)
    n = 120
    turns = 0.1875 * np.arange(-3, n) + rng.uniform(0, 1, (9, 1))
    phase = 2 * np.pi * turns + rng.normal(0, 0.05, (9, n + 3)).cumsum(1)
    layers = []
    for layer in range(3):
        wave = 5 + np.cos(phase[:, 3 - layer : n + 3 - layer])
        layers.append({"z": torch.from_numpy(wave[..., None, None] * rng.uniform(1, 2, (4, 1)) * np.ones(4))})
    data = measure(HilbertPhase(), layers, [n] * 9, facts(3, 4)).sel(category="all")
    np.testing.assert_allclose(data.order_parameter, 1, atol=1e-3)
    np.testing.assert_allclose(data.metastability, 0, atol=1e-3)
    np.testing.assert_allclose(data.delay[1:], 1, atol=0.05)
    assert float(data.consistency_effect_low.min()) > 0.5
    assert data.order_specimen.sel(layer=0)[8:-8].values == pytest.approx(1, abs=1e-3)


def test_heads_of_noise_are_at_chance() -> None:
    rng = np.random.default_rng(1)
    z = torch.from_numpy(5 + rng.normal(size=(40, 400, 5, 1)) * np.ones(4))
    data = measure(HilbertPhase(), [{"z": z}], [400] * 40, facts(1, 5)).sel(category="all")
    assert float(data.order_parameter_independent[0]) == pytest.approx(expected_resultant(5))
    assert float(data.order_parameter[0]) == pytest.approx(expected_resultant(5), abs=0.01)
    expected = np.sqrt(1 / 5 - expected_resultant(5) ** 2)
    assert float(data.metastability_independent[0]) == pytest.approx(expected)
    assert float(data.metastability[0]) == pytest.approx(expected, abs=0.01)
    assert float(abs(data.consistency[0])) < 0.01


def test_heads_that_follow_position_alone_do_not_exceed_other_prompts() -> None:
    lengths = [30, 55, 41, 41, 60, 60]
    z = written([60], 3).expand(6, -1, -1, -1)
    # Cut to their lengths their filters differ a little at the ends; of one length they do not at all.
    same = measure(HilbertPhase(), [{"z": z}], [60] * 6, facts(1, 3))
    assert float(same.consistency.mean()) > 0.05
    assert float(abs(same.consistency_effect).max()) < 1e-6
    cut = measure(HilbertPhase(), [{"z": z}], lengths, facts(1, 3))
    assert float(abs(cut.consistency_effect).max()) < 0.1


def test_a_head_that_is_constant_agrees_with_nobody() -> None:
    lengths = [40, 50, 44]
    z = written(lengths, 3)
    alone = measure(HilbertPhase(), [{"z": z[:, :, :2]}], lengths, facts(1, 2)).sel(category="all")
    z[:, :, 2] = 0.1
    data = measure(HilbertPhase(), [{"z": z}], lengths, facts(1, 3)).sel(category="all")
    np.testing.assert_allclose(data.order_parameter, alone.order_parameter * 2 / 3, atol=1e-5)
    np.testing.assert_allclose(data.consistency, alone.consistency / 3, atol=1e-5)


@pytest.mark.parametrize("batches", [[[i] for i in range(5)], [[4, 0], [1, 3, 2]]])
def test_batches_do_not_matter(batches: list[list[int]]) -> None:
    lengths = [27, 90, 35, 30, 60]
    layers = [{"z": written(lengths, 2, seed)} for seed in range(2)]
    one = measure(HilbertPhase(), layers, lengths, facts(2, 2))
    other = measure(HilbertPhase(), layers, lengths, facts(2, 2), batches=batches)
    xr.testing.assert_allclose(one, other, atol=1e-5)


def test_few_prompts() -> None:
    for n in (1, 2, 3):
        lengths = [27, 30, 41][:n]
        data = measure(HilbertPhase(), [{"z": written(lengths, 3)}], lengths, facts(1, 3)).sel(category="all")
        assert bool(data.consistency.notnull().all()) and bool(data.order_parameter.notnull().all())
        assert bool(data.consistency_null.notnull().all()) == (n > 1)
        assert bool(data.consistency_effect_low.notnull().all()) == (n > 2)


@pytest.mark.parametrize(("n", "period"), [(25, 4), (26, 4), (600, 4), (2000, 3)])
def test_the_grid_is_thin_far_from_the_start_and_stands_for_all(n: int, period: int) -> None:
    analysis = HilbertPhase(period=period)
    grid, steps = analysis._grid(n - 1)
    every = grid_of(n, period)
    near = [t for i, t in enumerate(every) if i < NEAR]
    assert grid.tolist()[: len(near)] == near
    assert set(grid.tolist()) <= set(every)
    assert abs(float(steps.sum()) - len(every)) < FAR
    shorter, _ = analysis._grid(max(n // 2, analysis.min_tokens) - 1)
    assert grid[: len(shorter)].tolist() == shorter.tolist()


def test_the_specimen_is_the_first_prompt() -> None:
    lengths = [40, 60, 33]
    z = written(lengths, 3)
    data = measure(HilbertPhase(), [{"z": z}], lengths, facts(1, 3), batches=[[1], [2, 0]])
    waves = waves_of(z, lengths, 4)[0]
    head = int(str(data.shown_head.values[0]).partition("H")[2])
    assert data.token.values.tolist() == list(range(1, 40))
    inside = slice(8, 39 - 8)
    np.testing.assert_allclose(data.amplitude_specimen[0, inside], abs(waves[head])[inside], atol=1e-5)
    turned = np.exp(1j * data.phase_specimen[0, inside].values)
    np.testing.assert_allclose(turned, (waves[head] / abs(waves[head]))[inside], atol=1e-4)
    assert bool(data.phase_specimen[:, :8].isnull().all()) and bool(
        data.trace_specimen[:, -8:].isnull().all()
    )
    empty = observe(HilbertPhase(), [{"z": z}], lengths, facts(1, 3), prompts=[2])
    assert not empty.sums["specimen"].any() and not empty.sums["specimen_length"].any()


def test_one_head_has_nobody_to_swing_with() -> None:
    with pytest.raises(AnalysisError, match="compares the heads of a layer, and by hand has one head"):
        measure(HilbertPhase(), [{"z": written([30], 1)}], [30], facts(1, 1))


def test_two_principal_components_turn_for_any_series_with_a_large_first_one() -> None:
    """The trap of the page: the phase in the plane of two components is the norm's, and not a rhythm."""
    rng = np.random.default_rng(0)
    resid = rng.normal(size=(2, 300, 16))  # two layers that share nothing but one large dimension
    resid[..., 0] += 50 + 5 * rng.normal(size=300)
    phases = []
    for x in resid:
        _, _, axes = np.linalg.svd(x, full_matrices=False)
        plane = x @ axes[:2].T
        plane = plane * np.sign(plane[:, 0].mean())
        phases.append(np.arctan2(plane[:, 1], plane[:, 0]))
    plane_order = abs(np.exp(1j * np.array(phases)).mean(0)).mean()
    assert plane_order > 0.9
    z = torch.from_numpy(np.moveaxis(resid[:, :, 1:5], 0, 1)[None])  # the rest of them as two heads
    data = measure(HilbertPhase(), [{"z": z}], [300], facts(1, 2)).sel(category="all")
    assert float(data.order_parameter[0]) == pytest.approx(expected_resultant(2), abs=0.1)
