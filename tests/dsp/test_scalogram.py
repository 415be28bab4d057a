"""Scalograms, against the Morlet kernels of MNE, PyWavelets' transform, and cosines."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.dsp.scalogram import HIGHEST_FREQUENCY, scalogram
from resonance_lens.errors import ActivationError, AxisError, ParameterError, RecordError
from resonance_lens.signal import Signal

GRID = [0.05, 0.1, 0.17, 0.25, 0.3]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("n_cycles", [3.0, 6.0, 8.5])
def test_values_are_those_of_mne_up_to_its_norm(n_cycles: float) -> None:
    """MNE gives its wavelets unit energy (times the root of 2), we give them unit gain."""
    from mne.time_frequency import morlet, tfr_array_morlet

    x = noise(2, 3, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wavelets longer than the record
        theirs = tfr_array_morlet(
            x.numpy(),
            sfreq=1.0,
            freqs=GRID,
            n_cycles=n_cycles,
            zero_mean=True,
            output="complex",
            verbose="error",
        )
        kernels = morlet(1.0, GRID, n_cycles, zero_mean=True)
    ours = scalogram(x, -1, frequencies=GRID, n_cycles=n_cycles, demean=False)
    for index, (frequency, kernel) in enumerate(zip(GRID, kernels, strict=True)):
        t = np.arange(len(kernel)) - len(kernel) // 2
        gain = np.sum(kernel * np.exp(-2j * np.pi * frequency * t)).real
        np.testing.assert_allclose(ours.values[:, :, index], 2 * theirs[:, :, index] / gain, atol=1e-10)


def test_values_are_those_of_pywavelets_within_its_steps() -> None:
    """`pywt.cwt` sums differences of an integrated wavelet: coarse where a period is a few tokens."""
    import pywt

    n_cycles = 6.0
    bandwidth = 2 * (n_cycles / (2 * math.pi)) ** 2  # of cmor<bandwidth>-1.0, with the same envelope
    x = noise(400)
    grid = np.array([0.02, 0.04, 0.08])
    theirs, frequencies = pywt.cwt(x.numpy(), 1 / grid, f"cmor{bandwidth}-1.0", precision=14)
    np.testing.assert_allclose(frequencies, grid, rtol=1e-6)
    ours = scalogram(x, 0, frequencies=grid.tolist(), n_cycles=n_cycles, demean=False).values
    for row, other in zip(ours.numpy(), theirs, strict=True):
        match = abs(np.vdot(other, row)) / np.linalg.norm(other) / np.linalg.norm(row)
        assert match > 0.99


@given(
    st.floats(0.06, HIGHEST_FREQUENCY), st.floats(0.1, 10), st.floats(-3, 3), st.sampled_from([4.0, 6.0, 9.0])
)
@settings(max_examples=40, deadline=None)
def test_a_cosine_has_its_amplitude_and_phase_inside_the_cone(
    frequency: float, amplitude: float, phase: float, n_cycles: float
) -> None:
    t = torch.arange(400, dtype=torch.float64)
    turns = 2 * math.pi * frequency * t + phase
    found = scalogram(amplitude * turns.cos(), 0, frequencies=[frequency], n_cycles=n_cycles, demean=False)
    deep = found.inside[0] & (torch.minimum(t, 399 - t) > 5 * found.widths[0])  # where no edge is felt at all
    expected = amplitude * torch.polar(torch.ones_like(turns), turns)
    # What is left at the negative frequency: exp(-2 n_cycles^2), and beyond Nyquist.
    assert float((found.values[0] - expected).abs()[deep].max()) < 2e-3 * amplitude
    np.testing.assert_allclose(found.power[0][deep], amplitude**2, rtol=4e-3)
    assert float(found.power[0].max()) < 1.5 * amplitude**2


def test_the_ridge_follows_a_chirp() -> None:
    t = torch.arange(512, dtype=torch.float64)
    frequency = 0.05 + 0.2 * t / 512
    grid = torch.linspace(0.04, 0.28, 49, dtype=torch.float64)
    found = scalogram((2 * math.pi * frequency.cumsum(0)).cos(), 0, frequencies=grid)
    ridge = grid[found.power.argmax(0)]
    middle = slice(80, 432)
    assert float((ridge - frequency)[middle].abs().max()) < 0.012


def test_the_cone_of_influence_is_where_edges_are_felt() -> None:
    """A step outside of the record changes what is in the cone, and next to nothing inside."""
    x = noise(300)
    longer = torch.cat([noise(200, seed=1), x, noise(200, seed=2)])
    alone = scalogram(x, 0, frequencies=GRID, demean=False)
    among = scalogram(longer, 0, frequencies=GRID, demean=False).values[:, 200:500]
    difference = (alone.values - among).abs()
    typical = among.abs().mean(-1, keepdim=True)
    edge = torch.minimum(torch.arange(300), 299 - torch.arange(300))
    for index, width in enumerate(alone.widths):
        cone = math.ceil(math.sqrt(2) * float(width))
        assert alone.inside[index].tolist() == (edge >= cone).tolist()
        assert float(difference[index][edge == 0].max()) > 0.3 * float(typical[index])
        assert float(difference[index][edge >= 4 * cone].max()) < 1e-4 * float(typical[index])


def test_records_of_unequal_length_are_what_they_are_alone() -> None:
    lengths = [120, 80, 120]
    x = noise(3, 2, 120)
    x[1, :, 80:] = torch.nan
    signal = Signal(x.transpose(1, 2), ("batch", "token", "d_model"), lengths=torch.tensor(lengths))
    together = scalogram(signal, "token", frequencies=GRID)
    assert tuple(together.values.shape) == (3, 2, len(GRID), 120)
    for row, length in enumerate(lengths):
        alone = scalogram(x[row, :, :length], -1, frequencies=GRID)
        torch.testing.assert_close(together.values[row, ..., :length], alone.values, rtol=0, atol=1e-12)
        assert torch.equal(together.inside[row, ..., :length], alone.inside)
        assert not together.values[row, ..., length:].any() and not together.inside[row, ..., length:].any()


def test_single_precision_is_close_and_gradients_are_right() -> None:
    x = noise(3, 200)
    double, single = scalogram(x, -1, frequencies=GRID), scalogram(x.float(), -1, frequencies=GRID)
    assert single.values.dtype == torch.complex64
    torch.testing.assert_close(single.values.to(torch.complex128), double.values, rtol=0, atol=1e-4)
    assert torch.autograd.gradcheck(
        lambda y: scalogram(y, -1, frequencies=[0.2]).power, noise(1, 24).requires_grad_()
    )


def test_a_constant_has_no_power() -> None:
    found = scalogram(torch.full((100,), 3.0), 0, frequencies=GRID)
    assert not bool(found.values.any())


def test_what_cannot_be_measured_is_refused() -> None:
    x = noise(60)
    with pytest.raises(ParameterError, match=r"up to 0.3 cycles per token.*fold; got 0.31"):
        scalogram(x, 0, frequencies=[0.1, 0.31])
    for bad in ([], [0.0, 0.1], [-0.1], [float("nan")]):
        with pytest.raises(ParameterError, match="'frequencies' parameter"):
            scalogram(x, 0, frequencies=bad)
    with pytest.raises(ParameterError, match="'n_cycles' parameter.*at least 2"):
        scalogram(x, 0, frequencies=GRID, n_cycles=1.5)
    with pytest.raises(
        RecordError, match=r"at 0.02 cycles per token with 6 cycles needs records of at least 137"
    ):
        scalogram(x, 0, frequencies=[0.02, 0.2])
    assert bool(scalogram(noise(137), 0, frequencies=[0.02]).inside.any())
    with pytest.raises(AxisError, match="no scalogram over 'head'"):
        scalogram(Signal(noise(1, 9, 60), ("batch", "head", "token")), "head", frequencies=GRID)
    with pytest.raises(ActivationError, match="finite"):
        scalogram(torch.full((60,), torch.inf), 0, frequencies=GRID)
