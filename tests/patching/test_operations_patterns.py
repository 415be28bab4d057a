"""Operations on attention: rows stay rows, and equal closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resonance_lens.dsp import attention
from resonance_lens.errors import ParameterError
from resonance_lens.patching.operations import Operation
from resonance_lens.patching.operations.patterns import (
    ClampCoherence,
    Kernel,
    SinkFree,
    SinkOnly,
    Temperature,
    Uniform,
)
from resonance_lens.patching.operations.tilt import tilted
from resonance_lens.signal import Signal
from tests.patching.scenes import FACTS, pattern_of, scene_of, seen, sliding_facts

OPERATIONS: list[Operation] = [
    Kernel(),
    Kernel(first_key="edit"),
    Uniform(),
    Uniform(first_key="keep"),
    SinkFree(),
    SinkOnly(),
    Temperature(temperature=0.3),
    Temperature(temperature=5.0),
    ClampCoherence(coherence=0.4, min_keys=4),
    ClampCoherence(coherence=0.6, first_key="edit", min_keys=4),
]
KERNEL = torch.tensor([0.3, 0.4, 0.1, 0.1, 0.05, 0.05])


@pytest.mark.parametrize("sliding", [None, 6])
@pytest.mark.parametrize("done", OPERATIONS, ids=lambda done: done.label)
def test_rows_stay_shares_of_one_over_what_a_query_sees(done: Operation, sliding: int | None) -> None:
    lengths = (16, 11)
    facts = FACTS if sliding is None else sliding_facts(sliding)
    values = pattern_of(lengths, n_heads=3, sharp=2.0, sliding=sliding)
    made = done.edit(values, scene_of(lengths, "pattern", facts, head=None, kernel=KERNEL))
    for row, n in enumerate(lengths):
        rows = made[row, :, :n, :n]
        assert (rows >= 0).all()
        assert not rows[:, ~seen(n, sliding)].any()
        torch.testing.assert_close(rows.sum(-1), torch.ones(3, n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not torch.allclose(made, values)


def test_uniform_is_one_over_what_a_query_sees() -> None:
    for sliding in (None, 3):
        facts = FACTS if sliding is None else sliding_facts(sliding)
        values = pattern_of((7,), sliding=sliding)
        made = Uniform().edit(values, scene_of((7,), "pattern", facts))[0, 0]
        for i in range(7):
            start = 0 if sliding is None else max(0, i + 1 - sliding)
            wanted = np.zeros(7)
            wanted[start : i + 1] = 1 / (i + 1 - start)
            np.testing.assert_allclose(made[i], wanted, atol=1e-15)
        kept = Uniform(first_key="keep").edit(values, scene_of((7,), "pattern", facts))[0, 0]
        torch.testing.assert_close(kept[:, 0], values[0, 0, :, 0])


def test_attention_that_looks_both_ways_is_uniform_over_the_prompt() -> None:
    values = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = Uniform().edit(values, scene_of((5, 3), "pattern", replace(FACTS, causal=False)))
    torch.testing.assert_close(made[0], torch.full((1, 5, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(made[1, :, :3, :3], torch.full((1, 3, 3), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("sliding", [None, 4])
@pytest.mark.parametrize("first_key", ["keep", "edit"])
def test_a_kernel_is_divided_by_what_each_window_holds_of_it(first_key: str, sliding: int | None) -> None:
    n = 10
    facts = FACTS if sliding is None else sliding_facts(sliding)
    values = pattern_of((n,), sliding=sliding)
    made = Kernel(first_key=first_key).edit(values, scene_of((n,), "pattern", facts, kernel=KERNEL))[0, 0]
    for i in range(n):
        wanted, free = values[0, 0, i].numpy().copy(), 1.0
        start = 0 if sliding is None else max(0, i + 1 - sliding)
        if first_key == "keep" and start == 0:
            free -= wanted[0]
            start = 1
        keys = np.arange(start, i + 1)
        weights = np.array([float(KERNEL[i - j]) if i - j < len(KERNEL) else 0.0 for j in keys])
        if len(keys):
            wanted[keys] = free * weights / weights.sum()
        np.testing.assert_allclose(made[i], wanted, atol=1e-7)


def test_a_pattern_that_is_a_kernel_is_left_as_it_is_and_so_is_a_row_that_the_kernel_misses() -> None:
    n = 9
    exact = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1):
            exact[i, j] = KERNEL.double()[i - j] if i - j < len(KERNEL) else 0.0
    exact = (exact / exact.sum(-1, keepdim=True))[None, None]
    for first_key in ("keep", "edit"):
        made = Kernel(first_key=first_key).edit(exact, scene_of((n,), "pattern", kernel=KERNEL.double()))
        torch.testing.assert_close(made, exact)
    values = pattern_of((n,))
    previous = torch.tensor([0.0, 1.0])
    made = Kernel(first_key="edit").edit(values, scene_of((n,), "pattern", kernel=previous))[0, 0]
    assert torch.equal(made[0], values[0, 0, 0])  # it sees lag 0 alone
    torch.testing.assert_close(made[1:], torch.eye(n, dtype=torch.float64)[:-1])


def test_each_head_of_a_layer_has_its_own_kernel() -> None:
    values = pattern_of((8,), n_heads=2)
    kernels = torch.stack([KERNEL, KERNEL.flip(0)])
    made = Kernel().edit(values, scene_of((8,), "pattern", head=None, kernel=kernels))
    for head in (0, 1):
        scene = scene_of((8,), "pattern", head=head, kernel=kernels[head])
        torch.testing.assert_close(made[:, head : head + 1], Kernel().edit(values[:, head : head + 1], scene))


def test_temperature_is_a_softmax_of_scores_divided_by_it() -> None:
    n = 12
    scores = 3 * torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = scores.masked_fill(~seen(n), -torch.inf)
    for temperature in (0.1, 1.0, 3.0):
        made = Temperature(temperature=temperature).edit(
            scores.softmax(-1)[None, None], scene_of((n,), "pattern")
        )
        torch.testing.assert_close(made[0, 0], (scores / temperature).softmax(-1), rtol=0, atol=1e-12)


def test_the_first_key_alone_and_all_but_it_make_up_the_row() -> None:
    values = pattern_of((8,), sharp=2.0)
    scene = scene_of((8,), "pattern")
    free, first = SinkFree().edit(values, scene), SinkOnly().edit(values, scene)
    share = values[..., :1]
    torch.testing.assert_close((1 - share) * free + share * first, values)
    assert not free[0, 0, 1:, 0].any()
    assert torch.equal(free[0, 0, 0], values[0, 0, 0])  # a query that sees nothing else


# ---------------------------------------------------------------------------------- the coherence


def coherence(values: Tensor, circle: str, first_key: str) -> Tensor:
    """Return the phasor of each row as `phase_coherence` reads it."""
    signal = Signal(values, ("batch", "head", "query", "key"))
    rows = attention.Rows.read(signal, causal=True, sliding=None, circle=circle)  # type: ignore[arg-type]
    if first_key == "edit":
        return rows.moments.phasor
    return rows.moments.free_phasor / rows.moments.free


@pytest.mark.parametrize("circle", ["full", "half"])
@pytest.mark.parametrize("first_key", ["keep", "edit"])
@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.9])
def test_each_row_reaches_the_coherence_and_keeps_its_direction(
    circle: str, first_key: str, wanted: float
) -> None:
    if circle == "half" and wanted < 0.9:
        wanted += 0.6  # keys on half of a circle never cancel
    values = pattern_of((30,), n_heads=3, sharp=2.0)
    clamp = ClampCoherence(coherence=wanted, circle=circle, first_key=first_key, min_keys=10)
    made = clamp.edit(values, scene_of((30,), "pattern", head=None))
    before, after = coherence(values, circle, first_key), coherence(made, circle, first_key)
    clamped = slice(9 if first_key == "edit" else 10, None)
    torch.testing.assert_close(
        after.abs()[..., clamped], torch.full_like(after.abs()[..., clamped], wanted), rtol=0, atol=1e-8
    )
    if wanted:
        turn = (after / before)[..., clamped]
        torch.testing.assert_close(turn.angle(), torch.zeros_like(turn.angle()), rtol=0, atol=1e-7)
    assert torch.equal(made[:, :, : clamped.start], values[:, :, : clamped.start])
    if first_key == "keep":
        torch.testing.assert_close(made[..., 0], values[..., 0])


def test_a_clamped_row_is_the_nearest_in_relative_entropy() -> None:
    """Against a general optimiser over all rows of that resultant."""
    from scipy import optimize

    rng = np.random.default_rng(0)
    n, wanted = 9, 0.5
    row = rng.dirichlet(np.ones(n))
    angles = 2 * np.pi * np.arange(n) / n
    direction = np.angle((row * np.exp(1j * angles)).sum())
    found = optimize.minimize(
        lambda x: float((x * np.log(np.maximum(x, 1e-12) / row)).sum()),
        row,
        method="SLSQP",
        bounds=[(1e-9, 1)] * n,
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - 1},
            {"type": "eq", "fun": lambda x: (x * np.cos(angles - direction)).sum() - wanted},
            {"type": "eq", "fun": lambda x: (x * np.sin(angles - direction)).sum()},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    made, reached = tilted(torch.tensor(row)[None], torch.tensor(angles)[None], wanted, 1e-5)
    assert reached.all()
    np.testing.assert_allclose(made[0], found.x, atol=2e-6)


@given(st.integers(3, 60), st.floats(0.1, 60), st.floats(0, 0.999), st.integers(0, 999))
@settings(max_examples=40)
def test_a_row_is_reached_wherever_its_keys_allow(n: int, sharp: float, wanted: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = (sharp * torch.randn(4, n, generator=generator, dtype=torch.float64)).softmax(-1)
    angles = (2 * torch.pi * torch.arange(n, dtype=torch.float64) / n).expand(4, n)
    made, reached = tilted(rows, angles, wanted, 1e-5)
    torch.testing.assert_close(made.sum(-1), torch.ones(4, dtype=torch.float64))
    resultant = (made * torch.polar(torch.ones_like(angles), angles)).sum(-1).abs()
    assert (resultant[reached] - wanted).abs().max() < 1e-8 if reached.any() else True
    if wanted < np.cos(np.pi / n) - 0.02:  # the polygon of the keys holds this circle
        assert reached.all()
    # Beyond the polygon nothing is reached; its corners are on the circle.
    direction = (rows * torch.polar(torch.ones_like(angles), angles)).sum(-1).angle()
    off = (direction % (2 * np.pi / n) - np.pi / n).abs()  # from the middle of a side
    edge = np.cos(np.pi / n) / off.cos()
    assert not reached[edge < wanted - 1e-6].any()


def test_a_row_that_cannot_get_there_is_named() -> None:
    values = pattern_of((12,), n_heads=2)
    values[0, 1, 11] = 0.0
    values[0, 1, 11, 4] = 1.0  # a single key
    with pytest.raises(
        ParameterError, match="1 of 8 rows of layer 0 to a coherence of 0.5.*query 11 of head 1"
    ):
        ClampCoherence(coherence=0.5).edit(values, scene_of((12,), "pattern", head=None))
