"""Answers to a drive in one sweep, against the estimators of `identification` one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resonance_lens.dsp import answers as module
from resonance_lens.dsp.answers import WentIn, answers, impulse_answers, sketch
from resonance_lens.dsp.excitation import Timing, driven, multisine, tone
from resonance_lens.dsp.identification import at_lines, by_order, of_impulses

TIMING = Timing(settle=5, period=16, periods=3)
AMPLITUDES = (0.5, 1.0, 2.0)


def made(period: Tensor, lines: tuple[int, ...], scale: Tensor, n_features: int) -> WentIn:
    waves = driven(TIMING, period)
    spectrum = at_lines(waves[..., None], TIMING, lines)[..., 0]
    power = spectrum.abs().square()
    direction = torch.zeros(n_features, dtype=torch.float64)
    direction[0] = 1
    return WentIn(TIMING, lines, AMPLITUDES, spectrum, power, power, scale, direction)


@pytest.fixture
def went_in() -> WentIn:
    rngs = [np.random.default_rng(seed) for seed in range(2)]
    period = torch.stack([multisine(16, TIMING.lines, rng) for rng in rngs])
    return made(period, TIMING.lines, torch.tensor([0.3, 0.7], dtype=torch.float64), 10)


@pytest.fixture
def responses() -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).standard_normal((3, 2, 2, TIMING.tokens, 10)))


@pytest.mark.parametrize("at_once", [3, 4096])
def test_they_are_those_of_the_estimators(
    monkeypatch: pytest.MonkeyPatch, went_in: WentIn, responses: Tensor, at_once: int
) -> None:
    monkeypatch.setattr(module, "FEATURES_AT_ONCE", at_once)
    rows, response = answers(responses, went_in)
    scaled = responses / went_in.scale[:, None, None, None]
    each = at_lines(scaled, TIMING, TIMING.lines) / went_in.spectrum[:, None, :, None]
    torch.testing.assert_close(response, each[1])
    power = each.abs().square().sum(-1)
    torch.testing.assert_close(rows["power"], power[1])
    torch.testing.assert_close(rows["size"], power[1].sqrt())
    torch.testing.assert_close(rows["along"], each[1][..., 0])
    by_line = power / torch.tensor(AMPLITUDES)[:, None, None, None] ** 2
    torch.testing.assert_close(rows["by_line"], by_line.movedim(0, 2))
    heard = scaled[..., TIMING.window, :]
    orders = by_order(*heard)
    parts = [part.square().sum(-1).mean(-1) for part in (orders.linear, orders.quadratic, orders.cubic)]
    torch.testing.assert_close(rows["orders"], torch.stack(parts, dim=-1))
    spent = (heard[2] - 2 * heard[1]).square().sum(-1).mean(-1)
    torch.testing.assert_close(rows["doubling"][..., 0], spent)
    first = np.fft.rfft(heard[1, ..., :16, :].numpy(), axis=-2)[..., 1:8, :] / 8
    ends = (abs(first) ** 2).sum(-1) / went_in.power[:, None].numpy()
    np.testing.assert_allclose(rows["ends"][:, :, 0], ends)


def test_single_precision_is_close(went_in: WentIn, responses: Tensor) -> None:
    rows, response = answers(responses, went_in)
    single, response_single = answers(responses.float(), went_in)
    assert response_single.dtype == torch.complex64
    torch.testing.assert_close(response_single.to(response), response, atol=1e-5, rtol=1e-5)
    for name, values in rows.items():
        torch.testing.assert_close(single[name].to(values), values, atol=1e-5, rtol=1e-5)


def test_a_third_harmonic_is_where_it_must_be() -> None:
    """cos^3 = (3 cos + cos 3)/4: a cubic system of gain c has a third harmonic of c a^3 / 4."""
    went_in = made(tone(16, 2)[None], (2,), torch.ones(1, dtype=torch.float64), 1)
    wave = driven(TIMING, tone(16, 2))
    out = torch.stack([a * wave + 0.1 * (a * wave) ** 3 for a in AMPLITUDES])[:, None, None, :, None]
    rows, _ = answers(out, went_in, harmonics=(1, 2, 3, 4))
    power = rows["harmonics"][0, 0]  # [amplitude, multiple]
    sizes = np.array([0.1 * (a * 2**0.5) ** 3 / 4 for a in AMPLITUDES])
    np.testing.assert_allclose(power[:, 2].sqrt(), sizes, rtol=1e-9)
    assert float(power[:, 1].max()) < 1e-20
    assert not power[:, 3].any(), "line 8 is at the Nyquist frequency"


def test_impulses_everywhere_are_of_impulses(went_in: WentIn) -> None:
    n = TIMING.tokens
    rng = np.random.default_rng(5)
    kernel = torch.from_numpy(rng.standard_normal((n, n, 10))).tril_().float().double()
    kernel = kernel * torch.ones(n, n).tril().T[..., None]  # [impulse, token, feature]: none before it
    at = range(TIMING.onset, n)
    responses = kernel[list(at), None, None].expand(-1, 2, 1, -1, -1) * went_in.scale[:, None, None, None]
    rows, response = impulse_answers(responses, list(at), 4, went_in)
    expected = of_impulses(kernel[TIMING.onset :], TIMING, TIMING.lines)
    for prompt in range(2):
        torch.testing.assert_close(response[prompt, 0], expected)
    lag = [np.mean([float(kernel[p, p + d, 0]) for p in at if p + d < n]) for d in range(4)]
    np.testing.assert_allclose(rows["lags"][0, 0], lag)


def test_inner_products_of_sketches_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((2, 500)))
    y = x + y
    found = [float(sketch(x, 0, 32, seed) @ sketch(y, 0, 32, seed)) for seed in range(400)]
    size = float(x.norm() * y.norm())
    assert np.std(found) < 1.1 * (2 / 32) ** 0.5 * size
    assert abs(np.mean(found) - float(x @ y)) < 4 * np.std(found) / 20
