"""What holds for every operation: rows are what they would be alone, padding stays, refusals say why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from resonance_lens.errors import ParameterError, ResonanceLensError
from resonance_lens.patching.operations import (
    OPERATIONS,
    TOKEN_SITES,
    Operation,
    Scene,
    get_operation,
    list_operations,
    operation,
)
from resonance_lens.patching.operations.placebo import Placebo
from tests.patching.scenes import FACTS, edit_alone, generators, pattern_of, scene_of, values_of

LENGTHS = (12, 7, 12, 9)

VARIANTS: dict[str, list[dict[str, object]]] = {
    "mean_ablate": [{}, {"first_position": "keep"}],
    "remove_band": [
        {"band": "low"},
        {"band": "0.2-0.4", "method": "causal"},
        {"band": "level1", "method": "wavelet", "first_position": "edit"},
    ],
    "swap_band": [{"band": "high", "rest": True}, {"band": "0.2-0.4", "method": "causal"}],
    "shift": [{"tokens": 2}, {"tokens": -3, "first_position": "edit"}],
    "remove_rotary_pair": [{"pairs": "0+2"}, {"pairs": "1-2", "rest": True}],
    "kernel": [{}, {"first_key": "edit"}],
    "temperature": [{"temperature": 0.5}, {}],
    "clamp_coherence": [{"min_keys": 4}, {"circle": "half", "first_key": "edit", "coherence": 0.8}],
}
"""Parameters that make a difference to how rows are treated."""

CASES = [(name, parameters) for entry in list_operations() for name in [entry.name]
         for parameters in VARIANTS.get(name, [{}])]  # fmt: skip


def case(name: str, parameters: dict[str, object], seed: int = 0) -> tuple[Operation, Tensor, Scene]:
    """Return an operation with values of unequal length and a scene that has all that it may want."""
    done = get_operation(name, **parameters)
    site = "z" if "z" in done.sites else done.sites[0]
    if site == "pattern":
        values, donor = pattern_of(LENGTHS, sharp=2.0), pattern_of(LENGTHS, seed=1)
        mean = pattern_of((12,), seed=2)[0]
    else:
        values, donor = values_of(LENGTHS, 8), values_of(LENGTHS, 8, seed=1)
        mean = torch.randn(8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    scene = scene_of(
        LENGTHS,
        site,
        donor=donor if done.donor or done.resamples else None,
        mean=mean if "mean" in done.wants else None,
        kernel=torch.tensor([0.1, 0.5, 0.2, 0.1, 0.05, 0.05]) if "kernel" in done.wants else None,
        generators=generators(len(LENGTHS), seed),
    )
    return done, values, scene


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_each_row_is_what_it_would_be_alone(name: str, parameters: dict[str, object]) -> None:
    done, values, scene = case(name, parameters)
    before = values.clone()
    made = done.edit(values, scene)
    assert torch.equal(values, before)
    assert made.dtype == values.dtype
    for row, length in enumerate(LENGTHS):
        alone = edit_alone(done, values, scene, row, 0)
        inside = made[row][..., :length, :length] if values.ndim == 4 else made[row, :length]
        torch.testing.assert_close(inside, alone, rtol=0, atol=1e-12)
        outside = torch.ones_like(made[row], dtype=torch.bool)
        outside[(..., slice(length), slice(length)) if values.ndim == 4 else slice(length)] = False
        assert torch.equal(made[row][outside], values[row][outside])


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_a_placebo_of_each_row_is_what_it_would_be_alone(name: str, parameters: dict[str, object]) -> None:
    done, values, scene = case(name, parameters)
    made = Placebo(of=done).edit(values, scene)
    for row, length in enumerate(LENGTHS):
        alone = edit_alone(Placebo(of=done), values, scene, row, 0)
        inside = made[row][..., :length, :length] if values.ndim == 4 else made[row, :length]
        torch.testing.assert_close(inside, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_single_precision_stays_and_is_near_double(name: str, parameters: dict[str, object]) -> None:
    done, values, scene = case(name, parameters)
    wanted = done.edit(values, scene)
    done, _, scene = case(name, parameters)
    made = done.edit(values.float(), scene)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_an_operation_sees_later_tokens_only_if_it_says_so(name: str, parameters: dict[str, object]) -> None:
    """Other values at and after token 6: whatever comes before must not move by a bit, or must move."""
    lengths = (12, 12, 12)
    done = get_operation(name, **parameters)
    site = "z" if "z" in done.sites else done.sites[0]
    made = partial(pattern_of, lengths) if site == "pattern" else partial(values_of, lengths, 8)
    early = (..., slice(6), slice(None))
    values, donor = made(seed=0), made(seed=1)
    other_values, other_donor = made(seed=5), made(seed=6)
    other_values[early], other_donor[early] = values[early], donor[early]

    def edited(values: Tensor, donor: Tensor) -> Tensor:
        scene = scene_of(
            lengths,
            site,
            donor=donor if done.donor or done.resamples else None,
            mean=made(seed=9)[0],
            kernel=torch.tensor([0.1, 0.5, 0.2, 0.1]),
            seed=0,
        )
        return done.edit(values, scene)[early]

    alike = torch.equal(edited(values, donor), edited(other_values, other_donor))
    assert alike != done.looks_ahead


@pytest.mark.parametrize("name", ["patch", "swap_band", "swap_phase", "swap_amplitude"])
def test_taking_from_itself_changes_nothing(name: str) -> None:
    values = values_of(LENGTHS, dtype=torch.float32)
    made = get_operation(name).edit(values, scene_of(LENGTHS, donor=values))
    torch.testing.assert_close(made, values, rtol=0, atol=1e-6)


def test_classic_operations_put_in_what_they_say() -> None:
    values, donor = values_of(LENGTHS), values_of(LENGTHS, seed=1)
    mean = torch.arange(5.0, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        patched = get_operation("patch").edit(values, scene_of(LENGTHS, donor=donor))
        assert torch.equal(patched[row, :length], donor[row, :length])
        zero = get_operation("zero_ablate", first_position="keep").edit(values, scene_of(LENGTHS))
        assert not zero[row, 1:length].any()
        assert torch.equal(zero[row, 0], values[row, 0])
        ablated = get_operation("mean_ablate").edit(values, scene_of(LENGTHS, mean=mean))
        assert torch.equal(ablated[row, :length], mean.expand(length, -1))
    by_position = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ablated = get_operation("mean_ablate").edit(values, scene_of(LENGTHS, mean=by_position))
    assert torch.equal(ablated[1, :7], by_position[:7])


def test_a_mean_pattern_is_divided_by_its_sum_in_each_row() -> None:
    values, mean = pattern_of((5, 4), n_heads=2), 0.3 * pattern_of((9,), n_heads=2, seed=1)[0]
    made = get_operation("mean_ablate").edit(values, scene_of((5, 4), "pattern", head=None, mean=mean))
    torch.testing.assert_close(made[0], mean[:, :5, :5] / 0.3)
    torch.testing.assert_close(made[1, :, :4, :4], mean[:, :4, :4] / 0.3)


def test_resampling_takes_another_row_of_the_same_length_or_the_donor() -> None:
    lengths = (6, 4, 6, 6, 4)
    values = values_of(lengths)
    drawn = set()
    for seed in range(40):
        made = get_operation("resample_ablate").edit(values, scene_of(lengths, seed=seed))
        assert torch.equal(made[1, :4], values[4, :4]) and torch.equal(made[4, :4], values[1, :4])
        (taken,) = [row for row in (0, 2, 3) if torch.equal(made[0], values[row])]
        drawn.add(taken)
    assert drawn == {2, 3}
    donor = values_of(lengths, seed=9)
    made = get_operation("resample_ablate").edit(values, scene_of(lengths, donor=donor))
    assert torch.equal(made[0], donor[0])


# --------------------------------------------------------------------------------- what is refused


def test_the_complement_of_a_complement_is_the_operation() -> None:
    pairs = [(entry.name, get_operation(entry.name).complement()) for entry in list_operations()]
    with_complement = {name: other for name, other in pairs if other is not None}
    assert {"remove_band", "swap_band", "swap_phase", "scramble_phase", "sink_free"} <= set(with_complement)
    for name, other in with_complement.items():
        back = other.complement()
        assert back == get_operation(name), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: get_operation("remove_bnad"), "no operation 'remove_bnad'.*Did you mean 'remove_band'?"),
        (lambda: get_operation("shift", token=1), "shift has no parameter 'token'.*Did you mean 'tokens'?"),
        (lambda: get_operation("shift", tokens=1.5), "'tokens' parameter of shift must be of type int"),
        (lambda: get_operation("temperature", temperature=0.0), "must be between 0.01 and 1000"),
        (lambda: get_operation("remove_band", method="fft"), "one of 'dct', 'wavelet', 'causal'"),
        (lambda: get_operation("remove_band", band="hihg"), "no band 'hihg'.*Did you mean 'high'?"),
        (lambda: get_operation("remove_band", band="0.3-0.2"), "0 <= low < high <= 0.5"),
        (lambda: get_operation("remove_band", band="low+0-0.1"), "overlap"),
        (lambda: get_operation("keep_band", band="low", method="wavelet"), "no scale 'low'"),
        (lambda: get_operation("keep_band", band="level3+approximation2", method="wavelet"), "overlap"),
        (lambda: get_operation("remove_rotary_pair", pairs="3-1"), "Rotary pairs go by numbers"),
    ],
)
def test_a_wrong_parameter_is_refused_in_a_sentence(make: Callable[[], Operation], says: str) -> None:
    with pytest.raises(ParameterError, match=says) as raised:
        make()
    assert_one_line(raised.value)


ZEROS, ROWS = torch.zeros(1, 6, 8), pattern_of((6,))


@pytest.mark.parametrize(
    ("name", "parameters", "site", "values", "about", "says"),
    [
        ("uniform", {}, "z", ZEROS, {}, "uniform is done to 'pattern', and cannot be done to 'z'"),
        ("remove_band", {}, "pattern", ROWS, {}, "the sites of tokens, and cannot be done to 'pattern'"),
        ("patch", {}, "z", ZEROS, {}, "patch needs the values of the same place"),
        ("patch", {}, "z", ZEROS, {"donor": torch.zeros(1, 5, 8)}, "donor of the shape of the values"),
        ("mean_ablate", {}, "z", ZEROS, {}, "mean_ablate needs the mean"),
        ("mean_ablate", {}, "z", ZEROS, {"mean": torch.zeros(7)}, "needs a mean for values of shape"),
        ("scramble_phase", {}, "z", ZEROS, {}, "needs a random generator"),
        ("kernel", {}, "pattern", ROWS, {}, "needs the head's attention by lag"),
        ("kernel", {}, "pattern", ROWS, {"kernel": -torch.ones(3)}, "weights by lag, at least 0"),
        ("resample_ablate", {}, "z", ZEROS, {"seed": 0}, "no other prompt of 6 tokens"),
        ("remove_band", {"band": "mid-low"}, "z", ZEROS, {}, "Records of 5 positions have no index in the"),
        ("remove_band", {"band": "0.21-0.22"}, "z", ZEROS, {}, "no index in the band '0.21 to 0.22'"),
        ("remove_band", {"band": "low", "method": "causal"}, "z", ZEROS, {}, "would do"),
        ("keep_band", {"band": "level2", "method": "wavelet"}, "z", ZEROS, {}, "at least 12 positions"),
        ("shift", {"tokens": 5}, "z", ZEROS, {}, "more than 5 tokens; one has 5 beyond the first"),
        ("scramble_phase", {}, "z", torch.zeros(1, 3, 8), {"seed": 0}, "at least 3 tokens; one has 2"),
        ("shift", {}, "z", torch.zeros(1, 1, 8), {}, "A prompt of 1 token has no record"),
        ("remove_rotary_pair", {"pairs": "3"}, "q", ZEROS, {}, "has 3 rotary pairs, numbered from 0; got 3"),
        ("clamp_coherence", {"coherence": 0.999, "min_keys": 3}, "pattern", ROWS, {}, "cannot bring"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    name: str,
    parameters: dict[str, object],
    site: str,
    values: Tensor,
    about: dict[str, object],
    says: str,
) -> None:
    scene = scene_of((values.shape[-2],), site, FACTS, **about)
    with pytest.raises(ResonanceLensError, match=re.escape(says)) as raised:
        get_operation(name, **parameters).edit(values, scene)
    assert_one_line(raised.value)


def assert_one_line(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 320 and text.endswith((".", "?")), text


# ---------------------------------------------------------------------------------- the catalogue


def test_everything_is_listed_with_what_it_takes() -> None:
    entries = {entry.name: entry for entry in list_operations()}
    assert set(entries) == set(OPERATIONS)
    for entry in entries.values():
        assert entry.about["title"].endswith("."), entry.name
        assert entry.about["sites"]
        for name, about in entry.parameters.items():
            assert about["help"], (entry.name, name)
    assert entries["shift"].parameters["tokens"]["default"] == 1
    assert get_operation("shift", tokens=-2).label == "shift tokens=-2"
    assert get_operation("shift", tokens=-2).looks_ahead and not get_operation("shift").looks_ahead


def test_two_operations_of_one_name_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Operation):
        name: ClassVar[str] = "patch"
        sites: ClassVar[tuple[str, ...]] = TOKEN_SITES

        def edit(self, values: Tensor, scene: Scene) -> Tensor:
            return values

    with pytest.raises(ParameterError, match="Two operations are called 'patch'"):
        operation(Mine)
