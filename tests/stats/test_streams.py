"""Random streams: the same in every process, and none moves another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resonance_lens.stats.streams import stream

ROOT = Path(__file__).resolve().parents[2]


def first_numbers(*key: str | int) -> list[int]:
    seed, *labels = key
    assert isinstance(seed, int)
    return [int(number) for number in stream(seed, *labels).integers(0, 2**62, 4)]


def test_a_stream_is_the_same_in_another_process() -> None:
    """Whatever the hash seed of the interpreter."""
    code = (
        "from resonance_lens.stats.streams import stream;"
        "print(stream(7, 'phase_coherence', 'all', 3).integers(0, 2**62, 4).tolist())"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout.strip() == str(first_numbers(7, "phase_coherence", "all", 3))


def test_a_stream_is_that_of_this_version_for_ever() -> None:
    """Numbers of saved results depend on it: a change is a change of every analysis's version."""
    assert first_numbers(0, "a") == [
        1370315572180319832,
        1260834367819914354,
        707511852348601524,
        900968735449149752,
    ]


@pytest.mark.parametrize(
    "one, other",
    [
        ((0, "a"), (1, "a")),
        ((0, "a"), (0, "b")),
        ((0, "a", "b"), (0, "ab")),
        ((0, "a", "b"), (0, "b", "a")),
        ((1, "1"), (11,)),
        ((0, "a"), (0, "a", "")),
    ],
)
def test_other_labels_are_other_streams(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    assert first_numbers(*one) != first_numbers(*other)


def test_streams_are_independent() -> None:
    drawn = np.stack([stream(0, "label", i).normal(size=2000) for i in range(40)])
    correlations = np.asarray(np.corrcoef(drawn))[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
    assert correlations.std() == pytest.approx(1 / np.sqrt(2000), rel=0.15)


def test_drawing_from_one_does_not_move_another() -> None:
    other = stream(0, "b")
    stream(0, "a").normal(size=100)
    np.testing.assert_array_equal(other.normal(size=5), stream(0, "b").normal(size=5))
