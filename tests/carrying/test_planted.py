"""Systems whose carriers are known: holding a head takes away what the closed form says, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.dsp.excitation import Timing
from resonance_lens.result import Result, Target
from resonance_lens.testbed import Circuit
from tests.models import hosts

N_TOKENS = 128
TIMING = Timing.fit(N_TOKENS)
F = TIMING.frequencies(TIMING.lines).numpy()
BANDS = [[line - 1 for line in TIMING.lines if low <= line < 2 * low] for low in (1, 2, 4, 8)]


def wave_of(circuit: Circuit) -> np.ndarray:
    """A direction in which a circuit carries what is put there."""
    first, last = circuit.facts.get("carries", (0, 16))
    vector = np.zeros(circuit.shape.d_model)
    vector[first:last] = np.random.default_rng(0).standard_normal(last - first)
    return vector


def carriers(circuit: Circuit, *, host: str | None = None, n: int = 4, **settings: Any) -> Result:
    rows = circuit.tokens(np.random.default_rng(1), n, N_TOKENS)
    model = circuit.model() if host is None else circuit.model(host=host)
    settings = {"vectors": [wave_of(circuit)], "epsilon": 0.1, "progress": False, "layer": 0, **settings}
    return rl.carriers(model, [list(row) for row in rows], **settings)


def share(whole: np.ndarray, left: np.ndarray) -> list[float]:
    """The share of the root mean square that is gone, by band."""
    power = [[(abs(each[band]) ** 2).sum() for band in BANDS] for each in (whole, left)]
    return [float(1 - np.sqrt(rest / all_)) for all_, rest in zip(*power, strict=True)]


@pytest.mark.host
@pytest.mark.parametrize("host", [host.name for host in hosts()])
def test_each_delay_of_a_chain_carries_its_share(host: str) -> None:
    """Over three layers of ``1 + z^-1 / 2``: without one of them two are left, whichever it is."""
    circuit = testbed.load_circuit("delay_chain", n_ctx=N_TOKENS)
    result = carriers(circuit, host=host)
    data = result.data
    one = 1 + 0.5 * np.exp(-2j * np.pi * F)
    for layer in range(3):
        found = data.carried.sel(layer=layer)
        np.testing.assert_allclose(found.sel(head=0), share(one**3, one**2), atol=2e-3)
        np.testing.assert_allclose(found.sel(head=1), 0, atol=1e-4)
        np.testing.assert_allclose(data.carried_others.sel(layer=layer, head=1), found.sel(head=0))
        attention = data.carried_by_layer.sel(part="attn_out", layer=layer)
        np.testing.assert_allclose(attention, found.sel(head=0), atol=1e-4)
        gain = data.carried_by.sel(layer=layer)
        np.testing.assert_allclose(gain.sel(intervention="plain"), abs(one) ** (layer + 1), rtol=2e-3)
        # Patterns depend on places alone: held, they do what they did. Values carry everything.
        held = gain.sel(intervention="attention_held")
        np.testing.assert_allclose(held, gain.sel(intervention="plain"), rtol=1e-4)
        for name in ("values_held", "heads_held"):
            np.testing.assert_allclose(gain.sel(intervention=name), 1, rtol=1e-4)
    np.testing.assert_allclose(data.carried_coherent, data.carried, atol=1e-4)
    assert data.band.values.tolist() == ["16-32", "8-16", "4-8", "2-4"]
    # Its kernels say everything about it, and uniform attention does not.
    assert float(data.kernel_chain.min()) > 0.999
    assert float(data.chain_share.sel(intervention="uniform_chain", layer=2)) < 0.8
    assert float(data.kernels_of_patterns.min()) > 0.999
    assert float(data.kernels_of_patterns_coherent.min()) > 0.999
    alone = 1 - abs(one**3 - 1) ** 2 / abs(one**3) ** 2
    np.testing.assert_allclose(data.kernels_of_patterns_untouched.sel(layer=2), alone, atol=5e-3)
    untouched = 1 - (abs(one**3 - 1) ** 2).sum() / (abs(one**3) ** 2).sum()
    assert float(data.chain_share_untouched.sel(layer=2)) == pytest.approx(untouched, abs=2e-3)
    same = data.kernels_of_patterns_coherent_untouched.sel(layer=2)
    assert float(same) == pytest.approx(untouched, abs=2e-3)
    assert result.provenance["left_out"].keys() == {"mlp_held"}
    best = result.targets(4)
    assert {each.label for each in best[:3]} == {"L0H0", "L1H0", "L2H0"}
    assert all(each.site == "z" for each in best)


def test_two_heads_beside_each_other_carry_a_band_against_each_other() -> None:
    """A resonator is two heads of opposite sign: what comes through them adds up, what is gone does not."""
    circuit = testbed.load_circuit("opposed_pair", n_ctx=N_TOKENS)
    data = carriers(circuit).data
    lag = np.arange(N_TOKENS)
    first, second = (
        np.asarray(kernel) @ np.exp(-2j * np.pi * lag[:, None] * F)
        for kernel in circuit.facts["kernels"].values()
    )
    whole = 1 + first - second
    for head, left in ((0, 1 - second), (1, 1 + first)):
        expected = share(whole, left)
        np.testing.assert_allclose(data.carried.sel(layer=0, head=head), expected, atol=0.01)
        part = [
            (((whole - left) * whole.conj()).real[band]).sum() / (abs(whole[band]) ** 2).sum()
            for band in BANDS
        ]
        np.testing.assert_allclose(data.through.sel(layer=0, head=head), part, atol=0.01)
    assert float(data.carried.sel(head=0).max()) > 0.1  # near its frequency the first head carries
    assert float(data.carried.sel(head=1).min()) < -0.1  # and the second takes away
    both = data.through.sel(layer=0).sum("head")
    np.testing.assert_allclose(both, data.through_by_layer.sel(part="attn_out", layer=0), atol=1e-3)


def test_uniform_attention_is_its_kernel() -> None:
    """It averages over a growing window, and so does its kernel where it is renormalised."""
    circuit = testbed.load_circuit("lag_kernels", n_ctx=N_TOKENS, kernels=[[1.0] * N_TOKENS])
    data = carriers(circuit).data
    assert float(data.kernel_chain.min()) > 0.999
    assert float(data.chain_share.sel(intervention="uniform_chain", layer=0)) > 0.999


def test_what_an_mlp_carries_is_not_a_heads() -> None:
    """The limiter's MLP doubles a small wave in a dimension that no head reads."""
    circuit = testbed.load_circuit("limiter", n_ctx=N_TOKENS)
    data = carriers(circuit).data.sel(layer=0)
    np.testing.assert_allclose(data.carried, 0, atol=1e-4)
    np.testing.assert_allclose(data.carried_by_layer.sel(part="attn_out"), 0, atol=1e-4)
    np.testing.assert_allclose(data.carried_by_layer.sel(part="mlp_out"), 0.5, atol=1e-4)
    np.testing.assert_allclose(data.through_by_layer.sel(part="mlp_out"), 0.5, atol=1e-4)
    expected = {"plain": 2.0, "mlp_held": 1.0, "heads_held": 2.0, "kernel_chain": 1.0, "heads_kernels": 2.0}
    for name, gain in expected.items():
        np.testing.assert_allclose(data.carried_by.sel(intervention=name), gain, rtol=1e-4)
    # The chain without its MLP hands on one half: its error is one half as large, one quarter in power.
    np.testing.assert_allclose(data.kernel_chain, 0.75, atol=1e-3)
    np.testing.assert_allclose(data.kernel_chain_mlps_alive, 1, atol=1e-3)
    np.testing.assert_allclose(data.explained.sel(intervention="kernel_chain"), 0.75, atol=1e-3)


def test_a_switch_is_half_and_half_of_its_kernel() -> None:
    """A head that looks here and there in turn, by kernels of other prompts: all that prompts share."""
    circuit = testbed.load_circuit("alternating", n_ctx=N_TOKENS)
    others = circuit.tokens(np.random.default_rng(7), 2, N_TOKENS)
    every = rl.run(  # of one query in four, the sample of a kernel, all would look to the same side
        circuit.model(),
        [list(row) for row in others],
        "attention_filter",
        parameters={"attention_filter": {"every": 1}},
        baselines=(),
        progress=False,
    )
    given: dict[str, Any] = {"targets": "none", "interventions": ["kernel_chain"]}
    given["kernels"] = every["attention_filter"]
    data = carriers(circuit, n=16, **given).data.sel(layer=0)
    half, moved = ((1 + sign * np.exp(-2j * np.pi * F)) / 2 for sign in (1, -1))
    found = data.sel(intervention="kernel_chain")
    np.testing.assert_allclose(found.carried_by, abs(1 + half), rtol=0.02)
    # What it moves by one half falls on other lines, with the phases of each prompt: nothing in common.
    assert float(found.chain_share) == pytest.approx(1, abs=0.03)
    stays, goes = abs(1 + half) ** 2, abs(moved[::-1]) ** 2
    # The mean over phases p of 1 / abs(a + b exp(i p))^2 is 1 / (a^2 - b^2), for a > b.
    expected = 1 - goes / (stays - goes)
    both = carriers(circuit, n=16, **{**given, "interventions": ["kernel_chain", "patterns_alone"]}).data
    np.testing.assert_allclose(both.kernels_of_patterns[0], found.explained, atol=1e-3)
    np.testing.assert_allclose(both.kernels_of_patterns_coherent[0], found.chain_share, atol=1e-3)
    assert float(abs(found.explained - expected).mean()) < 0.07


@pytest.mark.parametrize("ablation", ["zero_ablate", "mean_ablate"])
def test_an_ablated_head_is_gone_in_both_passes(ablation: str) -> None:
    circuit = testbed.load_circuit("delay_chain", n_ctx=N_TOKENS)
    place = Target(site="z", layer=1, head=0, score=1.0, reason="planted")
    data = carriers(circuit, targets="none", interventions=[], ablate=[place], ablation=ablation).data
    one = abs(1 + 0.5 * np.exp(-2j * np.pi * F))
    assert data.intervention.values.tolist() == ["plain", "ablated"]
    found = data.carried_by.sel(intervention="ablated")
    for layer, power in ((0, 1), (1, 1), (2, 2)):
        np.testing.assert_allclose(found.sel(layer=layer), one**power, rtol=2e-3)
