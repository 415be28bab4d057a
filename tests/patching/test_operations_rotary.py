"""Rotary pairs out of queries and keys, against scores made of turned vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from resonance_lens.dsp.rotary import pair_frequencies, rotate
from resonance_lens.errors import AdapterError
from resonance_lens.patching.operations.rotary import RemoveRotaryPair, pair_numbers
from resonance_lens.planting import attention_facts
from tests.patching.scenes import scene_of, values_of

N, DIMS, D_HEAD = 9, 6, 8
SPEEDS = pair_frequencies(DIMS, 100.0)


def dimensions(pair: int, layout: str) -> list[int]:
    """Return the two dimensions of a pair, by the words of `Facts`."""
    return [pair, pair + DIMS // 2] if layout == "halves" else [2 * pair, 2 * pair + 1]


@pytest.mark.parametrize("layout", ["halves", "adjacent"])
@pytest.mark.parametrize("site", ["q", "k", "rot_q", "rot_k"])
@pytest.mark.parametrize("pairs", ["1", "0+2"])
def test_scores_lose_what_the_pairs_add_and_nothing_else(
    layout: Literal["halves", "adjacent"], site: str, pairs: str
) -> None:
    facts = attention_facts(n_layers=1, n_heads=2, rotary_dims=DIMS, rotary_pairs=layout)
    q, k = values_of((N,), D_HEAD), values_of((N,), D_HEAD, seed=1)
    done, scene = RemoveRotaryPair(pairs=pairs), scene_of((N,), site, facts)

    def turned(values: torch.Tensor) -> np.ndarray:
        return np.asarray(rotate(values[:, :, None], SPEEDS, layout)[0, :, 0])

    if site in ("q", "k"):
        edited_q = turned(done.edit(q, scene) if site == "q" else q)
        edited_k = turned(done.edit(k, scene) if site == "k" else k)
    else:
        rot_q, rot_k = (torch.from_numpy(turned(each))[None] for each in (q, k))
        edited_q = (done.edit(rot_q, scene) if site == "rot_q" else rot_q)[0].numpy()
        edited_k = (done.edit(rot_k, scene) if site == "rot_k" else rot_k)[0].numpy()
    removed = [dim for pair in pair_numbers(pairs) for dim in dimensions(pair, layout)]
    left = [dim for dim in range(D_HEAD) if dim not in removed]
    wanted = turned(q)[:, left] @ turned(k)[:, left].T
    np.testing.assert_allclose(edited_q @ edited_k.T, wanted, atol=1e-9)


def test_the_pairs_and_the_rest_add_up() -> None:
    facts = attention_facts(n_layers=1, n_heads=2, rotary_dims=DIMS)
    values = values_of((N, 5), 2 * D_HEAD)  # two heads in one
    scene = scene_of((N, 5), "q", facts, head=None)
    done = RemoveRotaryPair(pairs="0-1")
    together = done.edit(values, scene) + done.complement().edit(values, scene)
    assert torch.equal(together[0], values[0]) and torch.equal(together[1, :5], values[1, :5])
    assert torch.equal(RemoveRotaryPair(pairs="none").edit(values, scene), values)


def test_models_without_pairs_are_refused() -> None:
    learned = attention_facts(n_layers=1, n_heads=2)
    with pytest.raises(AdapterError, match="has no rotary pairs: its positions are learned"):
        RemoveRotaryPair().edit(values_of((4,), 8), scene_of((4,), "q", learned))
    unknown = replace(attention_facts(n_layers=1, n_heads=2, rotary_dims=DIMS), rotary_pairs=None)
    with pytest.raises(AdapterError, match="does not tell which of its rotary dimensions are a pair"):
        RemoveRotaryPair().edit(values_of((4,), 8), scene_of((4,), "q", unknown))
