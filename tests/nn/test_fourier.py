"""The Fourier head: its identities for any input, numpy's autocorrelation, SciPy's filters, its starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resonance_lens.errors import ParameterError
from resonance_lens.nn import FourierHead, LinearHead, smoothness
from resonance_lens.nn.fourier import bin_centres

SEEDS = st.integers(0, 2**16)
SCALES = st.floats(1e-3, 1e3)


def random_head(seed: int, n_frequencies: int, n_bins: int = 20, scale: float = 1.0) -> FourierHead:
    head = FourierHead(5, n_bins, n_frequencies, start="published", seed=seed).double()
    with torch.no_grad():
        head.weight.mul_(scale * 100)
        head.bias.mul_(100)
    return head


def random_input(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n_frequencies=st.integers(1, 24), scale=SCALES)
def test_density_is_nowhere_negative_and_integrates_to_one(
    seed: int, n_frequencies: int, scale: float
) -> None:
    head = random_head(seed, n_frequencies, scale=scale)
    nodes, weights = np.polynomial.legendre.leggauss(120)  # exact far beyond 24 waves
    density = head.density(random_input(seed, 3, 5), torch.from_numpy(nodes))
    assert (density >= 0).all()
    torch.testing.assert_close(
        density @ torch.from_numpy(weights), torch.ones(3).double(), rtol=1e-9, atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n_frequencies=st.integers(1, 16))
def test_coefficients_are_the_autocorrelation(seed: int, n_frequencies: int) -> None:
    head = random_head(seed, n_frequencies)
    x = random_input(seed, 2, 5)
    real, imaginary = head.coefficients(x)
    both = (x @ head.weight.T + head.bias).detach().numpy()
    for row in range(2):
        a = both[row, : n_frequencies + 1] + 1j * both[row, n_frequencies + 1 :]
        wanted = np.correlate(a, a, mode="full")[n_frequencies:]  # lags 0 to N
        np.testing.assert_allclose(real[row].detach(), wanted.real, atol=1e-10)
        np.testing.assert_allclose(imaginary[row].detach(), wanted.imag, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n_frequencies=st.integers(1, 30), n_bins=st.integers(2, 40))
def test_logits_and_penalty_are_those_of_the_definition(seed: int, n_frequencies: int, n_bins: int) -> None:
    """The sum over coefficients written out, with more frequencies than bins as well."""
    head = random_head(seed, n_frequencies, n_bins)
    x = random_input(seed, 4, 5)
    real, imaginary = (part.detach().numpy() for part in head.coefficients(x))
    z = np.array([-1 + (2 * j + 1) / n_bins for j in range(n_bins)])
    density = np.full((4, n_bins), 0.5)
    penalty = np.zeros(4)
    for k in range(1, n_frequencies + 1):
        c = real[:, k] + 1j * imaginary[:, k]
        density += ((c / real[:, 0])[:, None] * np.exp(1j * math.pi * k * z)).real
        penalty += 2 * math.pi**2 * k**2 * abs(c) ** 2
    wanted = np.log(density / density.sum(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(head(x).detach(), wanted, atol=1e-7)
    np.testing.assert_allclose(head.density(x, torch.from_numpy(z)).detach(), density, atol=1e-9)
    assert head.regularisation(x).item() == pytest.approx(1e-6 * 2 * penalty.mean(), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=SCALES)
def test_uniform_start_is_uniform_for_every_input(seed: int, scale: float) -> None:
    head = FourierHead(5, 20, 12)
    x = scale * random_input(seed, 6, 5).float()
    torch.testing.assert_close(head(x).softmax(-1), torch.full((6, 20), 1 / 20))
    head(x)[:, 3].sum().backward()
    assert head.weight.grad is not None and float(head.weight.grad.abs().max()) > 0  # it can leave the start


def test_published_start_is_far_from_uniform() -> None:
    """Only ratios of coefficients count: dividing all of them by 100 changes nothing."""
    head = FourierHead(5, 20, 12, start="published").double()
    x = random_input(0, 200, 5)
    before = head.density(x, bin_centres(20, torch.float64))
    assert (before.amax(1) / before.amin(1)).median().item() > 5
    with torch.no_grad():
        head.weight.mul_(100)
        head.bias.mul_(100)
    torch.testing.assert_close(head.density(x, bin_centres(20, torch.float64)), before)


def test_gradients() -> None:
    head = random_head(0, 4, 6)
    x = random_input(0, 2, 5).requires_grad_()
    parameters = (head.weight, head.bias)

    def outputs(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return head(x), 1e6 * head.regularisation(x)

    assert torch.autograd.gradcheck(outputs, (x, *parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    head = random_head(1, 8)
    x = random_input(1, 3, 7, 5)
    wanted = head(x).softmax(-1)
    got = head.to(dtype)(x.to(dtype))
    assert got.dtype == dtype and got.shape == (3, 7, 20)
    torch.testing.assert_close(got.double().softmax(-1), wanted, rtol=0, atol=0.02)


def test_learns_a_smooth_density_from_few_samples() -> None:
    """A planted bump over x: after training, closer to the truth than a linear head trained alike."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 1))
    features = torch.tensor(np.concatenate([x**k for k in range(4)], axis=1)).float()
    draws = np.clip(rng.normal(0.6 * x[:, 0], 0.15), -0.99, 0.99)
    bins = torch.tensor(((draws + 1) * 20).astype(int))
    bump = np.exp(-0.5 * ((bin_centres(40).numpy() - 0.6 * x) / 0.15) ** 2)
    truth = torch.tensor(bump / bump.sum(1, keepdims=True))
    divergence = {}
    for head in (FourierHead(4, 40, 12), LinearHead(4, 40)):
        adam = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(150):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(head(features), bins).backward()
            adam.step()
        found = head(features).double().softmax(-1)
        divergence[type(head)] = (torch.xlogy(truth, truth) - truth * found.log()).sum(1).mean().item()
    assert divergence[FourierHead] < 0.1
    assert divergence[FourierHead] < divergence[LinearHead]


# The linear head beside it ---------------------------------------------------------------------


@pytest.mark.parametrize(("n_frequencies", "rank"), [(24, 0), (30, 0), (12, 24), (3, 7)])
def test_linear_head_of_the_same_size(n_frequencies: int, rank: int) -> None:
    fourier = FourierHead(576, 50, n_frequencies)
    linear = LinearHead.as_large_as(fourier)
    assert linear.rank == rank
    assert fourier.n_parameters == 2 * (n_frequencies + 1) * 577
    if n_frequencies == 24:
        assert linear.n_parameters == fourier.n_parameters
    if rank:
        assert abs(linear.n_parameters - fourier.n_parameters) <= (576 + 50) / 2


def test_linear_head_is_linear() -> None:
    for rank in (0, 3):
        head = LinearHead(6, 8, rank=rank, seed=1).double()
        x = random_input(0, 40, 6)
        jacobian = head(torch.eye(6).double()) - head(torch.zeros(6).double())
        torch.testing.assert_close(head(x), x @ jacobian + head.bias)
        assert torch.linalg.matrix_rank(jacobian) == (rank or 6)


# Smoothness ------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n_bins=st.integers(2, 60))
def test_smoothness_against_scipy(seed: int, n_bins: int) -> None:
    from scipy.ndimage import gaussian_filter1d

    y = np.random.default_rng(seed).dirichlet(np.full(n_bins, 0.5), size=2)
    wanted = np.zeros(2)
    for s in range(1, 101):
        smoothed = gaussian_filter1d(y, s, axis=1, mode="wrap", radius=n_bins - 1)
        wanted += 6 / (math.pi * s) ** 2 * np.linalg.norm(y - smoothed, axis=1)
    np.testing.assert_allclose(smoothness(torch.from_numpy(y)), wanted, rtol=1e-9)


def test_smoothness_of_what_is_smooth() -> None:
    assert float(smoothness(torch.full((50,), 0.02))) < 1e-6
    wave = 0.02 * (1 + torch.cos(2 * math.pi * torch.arange(50) / 50))
    comb = 0.02 * (1 + torch.cos(2 * math.pi * 20 * torch.arange(50) / 50))
    assert smoothness(wave) < smoothness(comb)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_frequencies": 0}, "'n_frequencies' parameter of FourierHead must be at least 1; got 0"),
        ({"n_bins": 1}, "'n_bins' parameter of FourierHead must be at least 2"),
        ({"gamma": -1.0}, "'gamma'"),
        ({"start": "flat"}, "one of 'uniform', 'published'; got 'flat'"),
    ],
)
def test_what_is_refused(change: dict[str, object], said: str) -> None:
    fields: dict[str, object] = {"in_features": 4, "n_bins": 10, "n_frequencies": 3}
    with pytest.raises(ParameterError, match=said):
        FourierHead(**(fields | change))  # type: ignore[arg-type]


def test_no_bin_gets_more_than_frequencies_allow() -> None:
    """(N + 1) / n_bins, reached when all amplitudes point to one bin: what a sharp target costs."""
    head = FourierHead(4, 10, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        most = head(torch.randn(4000, 4, generator=generator)).exp().max()
        assert 0.3 < most <= 5 / 10 + 1e-4
        head.weight.zero_()
        angle = -torch.pi * torch.arange(5) * 0.5  # towards the centre of bin 7
        head.bias.copy_(torch.cat([angle.cos(), angle.sin()]))
        assert float(head(torch.zeros(4)).exp().max()) == pytest.approx(0.5, abs=1e-3)
