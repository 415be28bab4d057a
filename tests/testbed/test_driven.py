"""Planted systems answer waves as their closed forms say, on every host, whichever way they are driven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import at_lines, nonlinear_share, of_impulses
from resonance_lens.testbed import Circuit
from tests.models import hosts

N_TOKENS = 256
TIMING = Timing.fit(N_TOKENS)
LINES = TIMING.lines


def wave_of(circuit: Circuit) -> tuple[float, ...]:
    """A direction in which a circuit carries what is put there."""
    first, last = circuit.facts.get("carries", (0, 16))
    vector = np.zeros(circuit.shape.d_model)
    vector[first:last] = np.random.default_rng(0).standard_normal(last - first)
    return tuple(vector)


def run(model: Any, circuit: Circuit, hooks: list[Any]) -> torch.Tensor:
    """Run one row of tokens with hooks, and return what is in the stream after each layer, float64."""
    ids = torch.tensor(circuit.tokens(np.random.default_rng(1), 1, N_TOKENS))
    found: list[torch.Tensor] = []
    last = circuit.shape.n_layers - 1
    listen = (f"blocks.{last}.hook_resid_post", lambda values, hook: found.append(values[0].double()))
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[*hooks, listen])
    return found[0]


def responses(
    model: Any, circuit: Circuit, drivers: list[rl.Driver]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Responses [driver, token, d_model], what went in [driver, token], and the unit vector of the drive."""
    before = run(model, circuit, [])
    out = [run(model, circuit, driver.hooks(model)) - before for driver in drivers]
    entered: list[torch.Tensor] = []

    def listen(values: torch.Tensor, hook: Any) -> None:
        entered.append(values[0].double())

    run(model, circuit, [("blocks.0.hook_resid_pre", listen)])
    norm = entered[0][1:].norm(dim=-1).median()
    went_in = torch.stack([driver.drive.amplitude * norm * driver.signal() for driver in drivers])
    return torch.stack(out), went_in, drivers[0].direction(circuit.shape.d_model)


def response_of(kernels: list[list[float]], signs: list[float]) -> np.ndarray:
    """1 + the sum of signs times the transforms of kernels, at every line."""
    f = TIMING.frequencies(LINES).numpy()
    parts = [
        sign * (np.asarray(kernel) @ np.exp(-2j * np.pi * np.arange(len(kernel))[:, None] * f))
        for kernel, sign in zip(kernels, signs, strict=True)
    ]
    return np.asarray(1 + sum(parts))


def systems() -> dict[str, tuple[Circuit, np.ndarray]]:
    def filters(kernel: list[float]) -> Circuit:
        return testbed.load_circuit("lag_kernels", n_ctx=N_TOKENS, kernels=[kernel])

    made: dict[str, tuple[Circuit, np.ndarray]] = {}
    for name, kernel in {
        "delay of 3": [0.0, 0, 0, 1],
        "moving average of 4": [1.0] * 4,
        "leaky integrator": [0.8**lag for lag in range(40)],
        "comb": [1.0, 0, 0, 0, 1],
    }.items():
        normalised = np.asarray(kernel) / np.sum(kernel)
        made[name] = (filters(kernel), response_of([normalised.tolist()], [1.0]))
    pair = testbed.load_circuit("opposed_pair", n_ctx=N_TOKENS)
    made["resonator"] = (pair, response_of(list(pair.facts["kernels"].values()), [1.0, -1.0]))
    chain = testbed.load_circuit("delay_chain", n_ctx=N_TOKENS)
    made["chain of delays"] = (chain, response_of([chain.facts["response"]], [1.0]) - 1)
    return made


SYSTEMS = systems()


@pytest.mark.host
@pytest.mark.parametrize("host", [host.name for host in hosts()])
@pytest.mark.parametrize("name", SYSTEMS)
def test_three_roads_give_the_planted_response(name: str, host: str) -> None:
    """Gains within 3 % and phases within .05 rad of the closed form, at all 31 lines, by each road."""
    circuit, expected = SYSTEMS[name]
    model = circuit.model(host=host)
    options: dict[str, Any] = {"layer": 0, "tokens": N_TOKENS, "direction": wave_of(circuit), "epsilon": 0.1}
    roads = {"multisine": [rl.drive(**options)]}
    roads["tone"] = [rl.drive(**options, frequency=line / TIMING.period) for line in LINES]
    for road, drivers in roads.items():
        out, went_in, v = responses(model, circuit, drivers)
        entered = at_lines(went_in[..., None], TIMING, LINES)[..., 0]
        h = at_lines(out, TIMING, LINES) @ v.to(torch.complex128) / entered
        found = h[0] if road == "multisine" else h.diagonal()
        _require_close(found.numpy(), expected, road)
    if name != "moving average of 4":
        return  # 255 passes for each system are many; the other roads are the same system
    drivers = [rl.drive(**options, kind="impulse", at=at) for at in range(1, N_TOKENS)]
    out, went_in, v = responses(model, circuit, drivers)
    unit = out @ v / went_in.amax(-1, keepdim=True)
    _require_close(of_impulses(unit[..., None], TIMING, LINES)[:, 0].numpy(), expected, "impulses")


def _require_close(found: np.ndarray, expected: np.ndarray, road: str) -> None:
    gain = abs(abs(found) / abs(expected) - 1)
    assert gain.max() < 0.03, (road, gain.max())
    phase = abs(np.angle(found / expected))
    assert phase.max() < 0.05, (road, phase.max())


def test_nothing_is_heard_before_the_onset() -> None:
    circuit, _ = SYSTEMS["leaky integrator"]
    model = circuit.model()
    driver = rl.drive(layer=0, tokens=N_TOKENS, direction=wave_of(circuit), kind="impulse", at=100)
    out, _, _ = responses(model, circuit, [driver])
    assert float(out[0, :100].abs().max()) == 0
    assert float(out[0, 100:].abs().max()) > 0


def test_a_switch_is_linear_and_no_filter() -> None:
    """The share of a filter is cos(pi f)^2, the rest is moved by one half, and none is distortion."""
    circuit = testbed.load_circuit("alternating", n_ctx=N_TOKENS)
    model = circuit.model()
    options: dict[str, Any] = {"layer": 0, "tokens": N_TOKENS, "direction": wave_of(circuit)}
    for line in (3, 10, 29):  # at 1/4 what is moved falls on what stays
        f = line / TIMING.period
        drivers = [rl.drive(**options, frequency=f, epsilon=e) for e in (0.05, 0.1)]
        out, went_in, v = responses(model, circuit, drivers)
        attention = (out @ v - went_in)[:, TIMING.window]  # the head alone, without what it is added to
        spectrum = (
            np.fft.rfft(attention[0].numpy())
            / np.fft.rfft(went_in[0, TIMING.window].numpy())[line * TIMING.periods]
        )
        here, moved = spectrum[line * TIMING.periods], spectrum[(32 - line) * TIMING.periods]
        assert here == pytest.approx((1 + np.exp(-2j * np.pi * f)) / 2, abs=1e-3)
        assert abs(moved) == pytest.approx(abs(1 - np.exp(-2j * np.pi * f)) / 2, abs=1e-3)
        share = abs(here) ** 2 / (abs(spectrum) ** 2).sum()
        assert share == pytest.approx(np.cos(np.pi * f) ** 2, abs=1e-3)
        assert float(nonlinear_share(attention[0], attention[1], (0,))) < 1e-5


@pytest.mark.parametrize(("epsilon", "clipped"), [(0.3, False), (2.0, True)])
def test_a_limiter_is_linear_until_it_is_not(epsilon: float, clipped: bool) -> None:
    """A tone comes out of the MLP as numpy clips it, with its third harmonic."""
    circuit = testbed.load_circuit("limiter", n_ctx=N_TOKENS)
    model = circuit.model()
    line = 4
    options: dict[str, Any] = {"layer": 0, "tokens": N_TOKENS, "direction": (0.0,) * 16 + (1.0,)}
    driver = rl.drive(**options, frequency=line / TIMING.period, epsilon=epsilon)
    out, went_in, v = responses(model, circuit, [driver])
    mlp = (out @ v - went_in)[0, TIMING.window].numpy()
    expected = np.clip(went_in[0, TIMING.window].numpy(), -1, 1)
    np.testing.assert_allclose(mlp, expected, atol=1e-5)
    spectrum = abs(np.fft.rfft(mlp))
    third = spectrum[3 * line * TIMING.periods] / spectrum[line * TIMING.periods]
    # A square wave has a third; a wave that is not clipped has none.
    assert (0.1 < third < 1 / 3) if clipped else third < 1e-5
    doubled = rl.drive(**options, frequency=line / TIMING.period, epsilon=2 * epsilon)
    two, went, _ = responses(model, circuit, [driver, doubled])
    single, double = (two @ v - went)[:, TIMING.window]
    share = float(nonlinear_share(single, double, (0,)))
    assert (share > 0.05) if clipped else share < 1e-8


@pytest.mark.host
@pytest.mark.parametrize("host", [host.name for host in hosts()])
def test_a_drive_is_hooked_as_it_is_said(host: str) -> None:
    """What a hook adds is epsilon rho s v, rho the median norm of the row's tokens, padded or not."""
    circuit = testbed.load_circuit("locked", n_ctx=64)
    model = circuit.model(host=host)
    rng = np.random.default_rng(2)
    rows = circuit.tokens(rng, 2, 50)
    ids = torch.tensor([[*rows[0]], [*rows[1][:42], *[0] * 8]])
    driver = rl.drive(layer=0, tokens=42, epsilon=0.2, seed=3)
    seen: list[torch.Tensor] = []

    def listen(values: torch.Tensor, hook: Any) -> None:
        seen.append(values.clone())

    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[("blocks.0.hook_resid_pre", listen)])
        hooks = driver.hooks(model, lengths=[50, 42])
        model.run_with_hooks(ids, fwd_hooks=[*hooks, ("blocks.0.hook_resid_pre", listen)])
    before, after = seen[0].double(), seen[-1].double()
    for row, length in enumerate((50, 42)):
        # torch's median is the lower of the two middle ones
        norms = np.sort(np.linalg.norm(before[row, 1:length].numpy(), axis=-1))
        rho = norms[(len(norms) - 1) // 2]
        added = (after - before)[row].numpy()
        s, v = driver.signal(row).numpy(), driver.direction(circuit.shape.d_model).numpy()
        np.testing.assert_allclose(added[:42], 0.2 * rho * s[:, None] * v, atol=1e-5)
        assert abs(added[42:]).max() == 0
    assert not torch.equal(driver.signal(0), driver.signal(1))
