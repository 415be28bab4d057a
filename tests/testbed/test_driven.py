"""Planted systems answer waves as their closed forms say, on every host, whichever way they are driven."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.dsp.excitation import Timing
from resonance_lens.dsp.identification import at_lines, nonlinear_share, of_impulses
from resonance_lens.testbed import Circuit
from tests.models import Host, cases, hosts
from tests.reference_transformer import Architecture

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


ROWS = [[1 + (7 * i + j * j) % 50 for j in range(64)] for i in range(2)]


@pytest.mark.host
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
def test_no_kind_of_causal_model_is_heard_before_the_onset(host: Host, arch: Architecture) -> None:
    """Bit for bit, wherever the onset is, and as the analysis says it."""
    model = host.build(arch)
    ids = torch.tensor(ROWS)
    ends = [f"blocks.{layer}.hook_resid_post" for layer in range(arch.n_layers)]
    plain = heard(model, ids, [], ends)
    for layer in range(arch.n_layers):
        for at in (1, 30, 63):
            driver = rl.drive(layer=layer, tokens=64, kind="impulse", at=at, seed=at)
            for before, after in zip(plain, heard(model, ids, driver.hooks(model), ends), strict=True):
                assert torch.equal(before[:, :at], after[:, :at])
            assert not torch.equal(before[:, at:], after[:, at:])
    given = {"frequency_response": {"directions": 1}}
    run = rl.run(model, ROWS, "frequency_response", parameters=given, baselines=(), progress=False)
    assert float(run["frequency_response"].data.before_onset.max()) == 0
    assert "causality" not in run["frequency_response"].summary


def heard(model: Any, ids: torch.Tensor, hooks: list[Any], names: list[str]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    listeners = [(name, lambda values, hook: found.append(values.clone())) for name in names]
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[*hooks, *listeners])
    return found


def bidirectional(host: str) -> Any:
    """A small model that looks both ways, of random weights."""
    torch.manual_seed(0)
    if host == "hooked_transformer":
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        given: dict[str, Any] = dict(n_layers=2, d_model=16, d_head=8, d_mlp=32, n_ctx=64, d_vocab=53)
        config = HookedTransformerConfig(**given, attention_dir="bidirectional", act_fn="relu", device="cpu")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
            return HookedTransformer(config).eval()
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import BertConfig, BertForMaskedLM

    sizes = dict(vocab_size=53, hidden_size=16, intermediate_size=32, max_position_embeddings=64)
    shape: dict[str, Any] = dict(sizes, num_hidden_layers=2, num_attention_heads=2)
    shape["attn_implementation"] = "eager"
    encoder = BertConfig(**shape)
    module = BertForMaskedLM(encoder).eval()
    return build_bridge_from_module(module, "BertForMaskedLM", hf_config=encoder, tokenizer=None).eval()


@pytest.mark.host
@pytest.mark.parametrize("host", [host.name for host in hosts()])
def test_of_a_model_that_looks_ahead_it_is_said(host: str) -> None:
    run = rl.run(bidirectional(host), ROWS, "frequency_response", baselines=(), progress=False)
    result = run["frequency_response"]
    assert (result.data.before_onset > 0).all()
    assert "causality does not hold in this model" in result.summary


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


# ------------------------------------------------------------------ the same through the analysis itself


def analysed(
    circuit: Circuit,
    *,
    n_prompts: int = 2,
    baselines: tuple[str, ...] = (),
    lines: tuple[int, ...] = LINES,
    **parameters: Any,
) -> xr.Dataset:
    """What `frequency_response` says of a circuit that is driven before layer 0 where it carries waves."""
    first, last = circuit.facts.get("carries", (0, 16))
    vectors = np.zeros((2, circuit.shape.d_model))
    vectors[:, first:last] = np.random.default_rng(0).standard_normal((2, last - first))
    given = {"frequency_response": {"layer": 0, "vectors": vectors, **parameters}}
    rows = circuit.tokens(np.random.default_rng(1), n_prompts, N_TOKENS)
    run = rl.run(
        circuit.model(), rows, "frequency_response", parameters=given, baselines=baselines, progress=False
    )
    data: xr.Dataset = run["frequency_response"].data.sel(driven=0)
    assert float(data.before_onset) == 0
    np.testing.assert_allclose(data.frequency, TIMING.frequencies(lines))
    return data


def filters(kernels: Sequence[Sequence[float]], gains: Sequence[float]) -> Circuit:
    """A finite impulse response and nothing else: the first head takes the token's own vector away."""
    return testbed.load_circuit(
        "lag_kernels", n_ctx=N_TOKENS, kernels=[[1.0], *kernels], gains=[-1.0, *gains]
    )


F = TIMING.frequencies(LINES).numpy()
DECAY, CENTRE = 0.85, 0.125


def delayed(m: int) -> np.ndarray:
    return np.asarray(np.exp(-2j * np.pi * F * m))


def damped(f: np.ndarray) -> np.ndarray:
    """The transform of ``r^d cos(2 pi f0 d)``."""
    sides = [1 / (1 - DECAY * np.exp(-2j * np.pi * (f - shift))) for shift in (CENTRE, -CENTRE)]
    return np.asarray(np.mean(sides, axis=0))


def require_filter(data: xr.Dataset, expected: np.ndarray) -> None:
    """Gains within 3 % and phases within .05 rad of a filter's, where it lets anything through."""
    heard = abs(expected) > 1e-3
    _require_close((data.gain.values * np.exp(1j * data.phase.values))[heard], expected[heard], "analysis")
    assert abs(data.gain.values[~heard]).max(initial=0) < 1e-3
    rms = data.gain_rms.sel(category="all").values
    np.testing.assert_allclose(rms, abs(expected), rtol=0.03, atol=1e-3)
    assert heard.sum() >= 20
    shares = [float(data[name]) for name in ("time_invariant", "time_varying", "nonlinear")]
    np.testing.assert_allclose(shares, [1, 0, 0], atol=1e-4)


def test_a_delay_comes_back() -> None:
    """Gain 1, phase -2 pi f m, m tokens of group delay, and one spike at lag m."""
    m = 3
    data = analysed(filters([[0.0] * m + [1.0]], [1.0])).sel(layer=0)
    require_filter(data, delayed(m))
    np.testing.assert_allclose(data.delay, m, atol=1e-3)
    # The mean over a period and what alternates are not driven: their neighbours in frequency stand for them.
    lags = data.lag.values
    missing = (1 - np.cos(2 * np.pi * F[0] * m)) * (1 + (-1.0) ** (lags - m)) / TIMING.period
    np.testing.assert_allclose(data.impulse, (lags == m) - missing, atol=1e-3)


def test_a_moving_average_comes_back() -> None:
    m = 5
    data = analysed(filters([[1.0] * m], [1.0])).sel(layer=0)
    dirichlet = np.sin(np.pi * F * m) / (m * np.sin(np.pi * F))
    require_filter(data, dirichlet * np.exp(-1j * np.pi * F * (m - 1)))


def test_a_leaky_integrator_comes_back() -> None:
    r = 0.6
    data = analysed(filters([[r**lag for lag in range(40)]], [1.0])).sel(layer=0)
    require_filter(data, (1 - r) / (1 - r * delayed(1)))
    # Half of the power of the slowest wave, of gain (1 - r)^2 / (1 - 2 r cos(2 pi f) + r^2).
    level = 2 * (1 - 2 * r * np.cos(2 * np.pi * F[0]) + r**2)
    edge = np.arccos((1 + r**2 - level) / (2 * r)) / (2 * np.pi)
    assert float(data.half_power_frequency) == pytest.approx(edge, abs=0.1 / TIMING.period)


def test_a_chain_of_previous_token_heads_comes_back() -> None:
    """Layer by layer another factor of ``1 + a z^-1``."""
    data = analysed(testbed.load_circuit("delay_chain", n_ctx=N_TOKENS, gain=-0.6))
    for layer in data.layer.values:
        require_filter(data.sel(layer=layer), (1 - 0.6 * delayed(1)) ** (layer + 1))
    assert bool(data.half_power_frequency.isnull().all())  # what rises to the end has no edge


def test_a_resonator_comes_back_and_beats_the_twin() -> None:
    """Two opposed heads, weighted by what they were divided by: its centre within a quarter of a line of
    the closed form's, and Q within a tenth."""
    lag = np.arange(128)
    kernels = np.stack([DECAY**lag * (1 + np.cos(2 * np.pi * CENTRE * lag)), DECAY**lag])
    sums = kernels.sum(-1)
    circuit = filters(kernels.tolist(), [sums[0], -sums[1]])
    data = analysed(circuit, baselines=("random_weights",)).sel(layer=0)
    require_filter(data, damped(F))
    fine = np.linspace(0, 0.5, 100001)
    power = abs(damped(fine)) ** 2
    top, half = fine[power.argmax()], fine[power > power.max() / 2]
    q = top / (half[-1] - half[0])
    assert q == pytest.approx(np.pi * CENTRE / -np.log(DECAY), rel=0.01)
    assert float(data.resonance) == pytest.approx(top, abs=0.25 / TIMING.period)
    assert float(data.resonance_q) == pytest.approx(q, rel=0.1)
    assert float(data.gain.max()) > 3 * float(data.gain_random_weights_high.max())


@pytest.mark.parametrize("system", ["leaky integrator", "the same without gain"])
def test_what_does_not_resonate_is_not_said_to(system: str) -> None:
    """A low-pass has no peak; and a peak below what the twin does is none."""
    lag = np.arange(64)
    if system == "leaky integrator":
        circuit = filters([(3 * 0.6**lag).tolist()], [3.0])
    else:
        kernels = np.stack([DECAY**lag * (1 + np.cos(2 * np.pi * CENTRE * lag)), DECAY**lag])
        circuit = filters(kernels.tolist(), (0.2 * kernels.sum(-1) * [1, -1]).tolist())
    data = analysed(circuit, baselines=("random_weights",)).sel(layer=0)
    assert np.isnan(float(data.resonance)) and np.isnan(float(data.resonance_q))


def test_a_switch_has_its_shares_and_no_distortion() -> None:
    """What stays is ``(3 + exp(-2 pi i f)) / 2``, what is moved to 1/2 - f ``(1 - exp(-2 pi i f)) / 2``."""
    data = analysed(testbed.load_circuit("alternating", n_ctx=N_TOKENS), n_prompts=8).sel(layer=0)
    # Over all lines cosines cancel: |stays|^2 is 2.5, |moved|^2 is 0.5.
    assert float(data.time_invariant) == pytest.approx(5 / 6, abs=0.03)
    assert float(data.time_varying) == pytest.approx(1 / 6, abs=0.03)
    assert abs(float(data.nonlinear)) < 1e-6
    assert float(data.nonlinear_doubled.sel(category="all")) < 1e-6
    here = 2.5 + 1.5 * np.cos(2 * np.pi * F)
    arrives = 0.5 + 0.5 * np.cos(2 * np.pi * F)  # from the line at 1/2 - f
    assert abs(data.coherence.values - here / (here + arrives)).mean() < 0.04


@pytest.mark.parametrize("epsilon", [0.03, 0.5])
def test_a_limiter_has_its_share_of_distortion(epsilon: float) -> None:
    """Shares are those of numpy's own clipping; where nothing is clipped it is a filter."""
    data = analysed(testbed.load_circuit("limiter", n_ctx=N_TOKENS), epsilon=epsilon).sel(layer=0)
    parts = []
    for prompt in range(2):
        for direction in range(2):
            drive = rl.drive(layer=0, tokens=N_TOKENS, direction=direction)
            s = drive.signal(prompt)[TIMING.window].numpy()  # of one token in every prompt, so that rho is 1
            out = np.array([a * epsilon * s + np.clip(a * epsilon * s, -1, 1) for a in (0.5, 1.0, 2.0)])
            orders = np.linalg.solve([[a, a**2, a**3] for a in (0.5, 1.0, 2.0)], out)
            parts.append((orders**2).mean(-1))
    linear, *rest = np.mean(parts, axis=0)
    expected = sum(rest) / (linear + sum(rest))
    assert float(data.nonlinear) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert (expected > 0.005) if epsilon == 0.5 else expected < 1e-9


def clipped(peak: float, n: int) -> float:
    """The n-th harmonic, n odd, of ``peak sin(x)`` that is clipped at 1: its Fourier series."""
    if peak <= 1:
        return peak * (n == 1)
    corner = np.arcsin(1 / peak)
    below = corner if n == 1 else np.sin((n - 1) * corner) / (n - 1)
    below = peak / 2 * (below - np.sin((n + 1) * corner) / (n + 1))
    return float(4 / np.pi * (below + np.cos(n * corner) / n))


def test_a_limiter_has_the_third_harmonic_of_its_fourier_series() -> None:
    circuit = testbed.load_circuit("limiter", n_ctx=N_TOKENS)
    given: dict[str, Any] = {"epsilon": 1.0, "signal": "tone", "tones": 1, "listen": "mlp_out"}
    data = analysed(circuit, lines=(1,), **given).sel(layer=0)
    for amplitude in data.amplitude.values:
        here = data.sel(amplitude=amplitude)
        first, third = (clipped(amplitude * np.sqrt(2), n) for n in (1, 3))
        size = float(here.describing.sel(category="all").squeeze())
        assert size == pytest.approx(first / (amplitude * np.sqrt(2)), rel=0.01)
        assert float(here.harmonic.sel(order=3)) == pytest.approx(third / first, rel=0.01, abs=1e-4)
        assert float(here.harmonic.sel(order=2)) < 1e-3
