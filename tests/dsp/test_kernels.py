"""Kernels by lag, against loops, direct optimisation of their likelihood, and closed forms of filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, signal

from resonance_lens.dsp import attention, kernels
from resonance_lens.errors import AxisError
from resonance_lens.signal import Signal
from tests.by_hand import keys_of, random_attention
from tests.by_hand import signal as attention_signal

Floats = NDArray[np.float64]

FREQUENCIES = torch.linspace(0, 0.5, 129, dtype=torch.float64)


# ------------------------------------------------------------------------------------ sums by lag


@given(st.integers(1, 140), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_sums_over_queries_at_equal_lag(n: int, seed: int, double: bool) -> None:
    rng = np.random.default_rng(seed)
    dtype = torch.float64 if double else torch.float32
    pattern = torch.tensor(np.tril(rng.uniform(0, 1, (2, 3, n, n))), dtype=dtype)
    weights = torch.tensor(rng.uniform(0, 1, (2, 3, n)), dtype=dtype)
    before = pattern.clone()
    found = kernels.lag_sums(attention_signal(pattern), weights)
    wanted = np.zeros((2, 3, n))
    for i in range(n):
        for j in range(1, i + 1):
            wanted[..., i - j] += (weights[..., i] * pattern[..., i, j]).double().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12 if double else 2e-5)
    assert torch.equal(pattern, before)


@given(st.integers(1, 140), st.integers(0, 20), st.sampled_from([1, 2, 4, 7]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_sums_over_every_so_many_queries(n: int, ahead: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pattern = torch.tensor(np.tril(rng.uniform(0, 1, (2, 2, n, n))))
    queries = range(min(ahead, n - 1), n, step)
    weights = torch.tensor(rng.uniform(0, 1, (2, 2, len(queries))))
    found = kernels.lag_sums(attention_signal(pattern), weights, first=queries.start, step=step)
    wanted = np.zeros((2, 2, n))
    for at, i in enumerate(queries):
        for j in range(1, i + 1):
            wanted[..., i - j] += (weights[..., at] * pattern[..., i, j]).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_a_view_into_a_larger_tensor_is_read_where_it_stands() -> None:
    values = torch.rand(2, 3, 4, 50, 50, generator=torch.Generator().manual_seed(0)).tril()
    weights = torch.ones(3, 4, 50)
    for part in (values[1], values[1].transpose(0, 1).contiguous().transpose(0, 1)):
        found = kernels.lag_sums(attention_signal(part), weights)
        torch.testing.assert_close(found, kernels.lag_sums(attention_signal(part.clone()), weights))


def test_a_first_key_that_holds_all_but_a_thousandth_leaves_no_trace() -> None:
    """Weighted by a thousand it would be a thousand, beside sums whose last digit is a millionth."""
    n = 80
    rest = torch.rand(1, 1, n, n, generator=torch.Generator().manual_seed(1)).tril()
    rest[..., 0] = 0.0
    rest = 1e-3 * rest / rest.sum(-1, keepdim=True).clamp_min(1e-9)
    sink = rest.clone()
    sink[..., 0] = 1 - rest.sum(-1)
    weights = torch.full((1, 1, n), 1000.0)
    with_sink, without = (kernels.lag_sums(attention_signal(p), weights) for p in (sink, rest))
    assert torch.equal(with_sink, without)


@pytest.mark.parametrize("sliding", [None, 7])
def test_weight_on_the_oldest_keys(sliding: int | None) -> None:
    pattern = random_attention([70, 40], 2, sliding=sliding)
    s = attention_signal(pattern, [70, 40])
    seen = attention.window(s, causal=True, sliding=sliding)
    counts = torch.arange(70)[None, :] % 9
    counts = torch.minimum(counts, seen.free)
    found = kernels.oldest_keys(s, seen, counts)
    for i in range(70):
        keys = [key for key in keys_of(i, 70, sliding=sliding) if key > 0][: int(counts[0, i])]
        np.testing.assert_allclose(found[..., i], pattern[:, :, i, keys].sum(-1), atol=1e-6)


def test_parts_of_the_queries_are_read_as_the_whole_is() -> None:
    s = attention_signal(random_attention([200, 150], 2), [200, 150])
    seen = attention.window(s, causal=True, sliding=None)
    parts = (slice(0, 64), slice(67, 200, 4))
    index = torch.cat([torch.arange(200)[part] for part in parts])
    counts = torch.minimum(torch.arange(200)[None, :] % 30, seen.free)
    whole = kernels.oldest_keys(s, seen, counts)
    found = kernels.oldest_keys(s, seen.at(index), counts[:, index], parts)
    torch.testing.assert_close(found, whole[..., index])
    torch.testing.assert_close(
        attention.row_entropy(s, seen, parts), attention.row_entropy(s, seen)[..., index]
    )


@pytest.mark.parametrize("max_lag", [8, 31, 32, 33, 36, 40, 64, 100, 512, 8192])
def test_bins_of_lags(max_lag: int) -> None:
    edges = np.array(kernels.lag_edges(max_lag))
    assert edges[0] == 0 and edges[-1] == max_lag and (np.diff(edges) > 0).all()
    assert edges[: min(32, max_lag)].tolist() == list(range(min(32, max_lag)))
    ratios = edges[33:] / edges[32:-1]
    assert (ratios < 2 ** (1 / 6) * 1.02).all()


# ------------------------------------------------------------------------------------- the kernel


def rows_of(kernel: Floats, windows: list[int], rng: np.random.Generator, spread: float) -> list[Floats]:
    """Return rows that follow a kernel within their windows, each with noise of its own."""
    rows = []
    for window in windows:
        cut = kernel[:window] * np.exp(rng.normal(0, spread, window))
        rows.append(cut / cut.sum())
    return rows


def sums_of(rows: list[Floats], n_lags: int) -> tuple[Floats, Floats]:
    mass, held = np.zeros(n_lags), np.zeros(n_lags)
    for row in rows:
        mass[: len(row)] += row
        held[len(row) - 1] += 1.0
    return mass, held


@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_is_the_one_of_greatest_likelihood(seed: int) -> None:
    """Against a direct optimisation of the likelihood of all rows over the logarithms of the kernel."""
    rng = np.random.default_rng(seed)
    n_lags = 9
    true = rng.dirichlet(np.ones(n_lags))
    windows = [int(w) for w in rng.integers(2, n_lags + 1, size=30)] + [n_lags] * 3
    rows = rows_of(true, windows, rng, 1.0)
    mass, held = sums_of(rows, n_lags)

    def loss(logarithms: Floats) -> float:
        k = np.exp(logarithms)
        return -sum(float(row @ np.log(k[: len(row)] / k[: len(row)].sum())) for row in rows)

    best = optimize.minimize(loss, np.zeros(n_lags), method="BFGS", options={"gtol": 1e-8})
    wanted = np.exp(best.x) / np.exp(best.x).sum()
    edges = torch.arange(n_lags + 1)
    hazard = kernels.lag_hazard(torch.from_numpy(mass), torch.from_numpy(held), edges)
    found = kernels.kernel_from(hazard).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert loss(np.log(found)) <= best.fun + 1e-9
    # The likelihood by lags is the likelihood by rows.
    h = hazard.numpy()[1:]
    below = held[::-1].cumsum()[::-1] - (mass[::-1].cumsum()[::-1] - mass)
    by_lag = (mass[1:] * np.log(h) + (below - mass)[1:] * np.log(1 - h)).sum()
    assert by_lag == pytest.approx(-loss(np.log(found)), abs=1e-9)


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_rows_that_are_a_kernel_give_it_back(n_lags: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.full(n_lags, 0.7)) + 1e-6
    kernel /= kernel.sum()
    rows = rows_of(kernel, [*range(1, n_lags + 1), n_lags], rng, 0.0)
    mass, held = (torch.from_numpy(x) for x in sums_of(rows, n_lags))
    found = kernels.kernel_from(kernels.lag_hazard(mass, held, torch.arange(n_lags + 1)))
    np.testing.assert_allclose(found, kernel, atol=1e-9)
    assert float(found.sum()) == pytest.approx(1.0)


def test_where_nothing_is_known_a_kernel_is_uniform() -> None:
    edges = torch.tensor([0, 1, 2, 4, 8])
    nothing = torch.zeros(4, dtype=torch.float64)
    found = kernels.kernel_from(kernels.lag_hazard(nothing, nothing, edges))
    np.testing.assert_allclose(found, [1 / 8, 1 / 8, 2 / 8, 4 / 8])


def test_added_rows_leave_no_share_at_zero_or_one() -> None:
    edges = torch.arange(6)
    mass = torch.tensor([0.0, 10.0, 0, 0, 0], dtype=torch.float64)
    held = torch.tensor([0.0, 0, 0, 0, 10.0], dtype=torch.float64)
    hazard = kernels.lag_hazard(mass, held, edges, pseudo=1.0)
    assert float(hazard[0]) == 1.0
    assert bool(((hazard[1:] > 0) & (hazard[1:] < 1)).all())
    # One row of uniform attention beside ten: (10 + 1/2) / 11, then (0 + 1/3) / 11, ...
    np.testing.assert_allclose(hazard[1:], [10.5 / 11, 1 / 33, 1 / 44, 1 / 55])


# ------------------------------------------------------------------------------ frequency response


@pytest.mark.parametrize("m", [1, 2, 4, 7])
def test_a_moving_average(m: int) -> None:
    kernel = torch.full((m,), 1 / m, dtype=torch.float64)
    f = FREQUENCIES.numpy()[1:]
    gain = kernels.response(kernel, 0, FREQUENCIES).abs().numpy()
    np.testing.assert_allclose(gain[1:], abs(np.sin(np.pi * f * m) / (m * np.sin(np.pi * f))), atol=1e-12)
    assert gain[0] == pytest.approx(1.0)
    delay = kernels.group_delay(kernel, 0, FREQUENCIES).numpy()
    np.testing.assert_allclose(delay[~np.isnan(delay)], (m - 1) / 2, atol=1e-9)
    assert np.isnan(delay).sum() == (gain < kernels.SMALLEST_GAIN).sum()


@pytest.mark.parametrize("m", [0, 1, 5, 40])
def test_a_pure_delay_passes_all_and_delays_by_itself(m: int) -> None:
    kernel = torch.zeros(64)
    kernel[m] = 1.0
    np.testing.assert_allclose(kernels.response(kernel, 0, FREQUENCIES).abs(), 1.0, atol=1e-12)
    np.testing.assert_allclose(kernels.group_delay(kernel, 0, FREQUENCIES), m, atol=1e-9)
    assert bool(kernels.half_power_frequency(kernel, 0).isnan())


@pytest.mark.parametrize("r", [0.5, 0.8, 0.95])
def test_a_leaky_integrator(r: float) -> None:
    """``(1 - r) r^d``: gain ``(1 - r) / abs(1 - r e^(-iw))``, and half the power at its closed form."""
    kernel = (1 - r) * r ** torch.arange(600, dtype=torch.float64)
    w = 2 * np.pi * FREQUENCIES.numpy()
    gain = kernels.response(kernel, 0, FREQUENCIES).abs()
    np.testing.assert_allclose(gain, (1 - r) / abs(1 - r * np.exp(-1j * w)), atol=1e-10)
    assert float(kernels.group_delay(kernel, 0, FREQUENCIES)[0]) == pytest.approx(r / (1 - r), rel=1e-6)
    half = np.arccos((4 * r - 1 - r**2) / (2 * r)) / (2 * np.pi) if 4 * r - 1 - r**2 >= -2 * r else np.nan
    assert float(kernels.half_power_frequency(kernel, 0)) == pytest.approx(half, abs=2e-5)


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_against_scipy(n_lags: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.ones(n_lags), size=3)
    _, h = signal.freqz(kernel[1], worN=2 * np.pi * FREQUENCIES.numpy())
    found = kernels.response(torch.from_numpy(kernel), -1, FREQUENCIES)[1].numpy()
    np.testing.assert_allclose(found, h, atol=1e-12)
    delay = kernels.group_delay(torch.from_numpy(kernel), -1, FREQUENCIES)[1].numpy()
    large = abs(h) > 2 * kernels.SMALLEST_GAIN
    _, wanted = signal.group_delay((kernel[1], [1.0]), w=2 * np.pi * FREQUENCIES.numpy()[large])
    np.testing.assert_allclose(delay[large], wanted, atol=1e-6)
    assert (abs(found) <= 1 + 1e-12).all()  # no weight is negative


def test_single_precision_is_near_double() -> None:
    kernel = torch.rand(5, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel /= kernel.sum(-1, keepdim=True)
    for function in (kernels.response, kernels.group_delay):
        one, other = (function(kernel.to(t), -1, FREQUENCIES) for t in (torch.float32, torch.float64))
        known = ~(one.isnan() | other.isnan())
        assert float((one - other)[known].abs().max()) < 1e-4 * float(other[known].abs().max())


def test_a_response_is_over_an_axis_that_has_an_order() -> None:
    values = torch.rand(2, 3, 8)
    lags = Signal(values, ("batch", "head", "lag"))
    found = kernels.response(lags, "lag", FREQUENCIES)
    torch.testing.assert_close(found, kernels.response(values, 2, FREQUENCIES))
    for function, what in ((kernels.response, "frequency response"), (kernels.group_delay, "group delay")):
        with pytest.raises(AxisError, match=f"There is no {what} over 'head'.*use 'lag' instead"):
            function(lags, "head", FREQUENCIES)


def test_a_response_can_be_differentiated() -> None:
    kernel = torch.rand(6, dtype=torch.float64, requires_grad=True)

    def gain(values: torch.Tensor) -> torch.Tensor:
        return kernels.response(values, 0, FREQUENCIES[::16]).abs()

    assert torch.autograd.gradcheck(gain, (kernel,))
