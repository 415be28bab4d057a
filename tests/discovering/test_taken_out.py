"""What is taken out, and what is put in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from resonance_lens.discovering import concluding
from resonance_lens.discovering.removing import Ablation
from resonance_lens.patching.operations.base import Scene
from resonance_lens.patching.operations.directions import RemoveDirections
from resonance_lens.planting import attention_facts
from tests.discovering import planted
from tests.discovering.planted import BANDS


def test_the_placebo_has_the_course_of_the_component_in_another_direction() -> None:
    rng = np.random.default_rng(1)
    scale = torch.tensor([0.5, 20.0, 1.0, 3.0, 0.1, 0.0], dtype=torch.float64)
    weight = torch.from_numpy(planted.unit(rng, 5))
    reads, writes = (
        torch.cat([w, torch.zeros(1)])[:, None] for w in (weight / scale[:5], weight * scale[:5])
    )
    operation = RemoveDirections(reads=reads, writes=writes, band="0.1-0.25", method="causal")
    facts = attention_facts(n_layers=1, n_heads=1, d_model=6)
    scene = Scene(site="resid_pre", layer=0, head=None, facts=facts, lengths=torch.tensor([24, 24]))
    values = torch.from_numpy(rng.normal(size=(2, 24, 6)))
    one = Ablation(0, 0, 0, operation, scale, 0)
    taken, other = (values - change(values, scene, ["a", "b"]) for change in (one.removed, one.placebo))
    assert (other[..., 5] == 0).all()
    for change in (taken, other):
        scaled = change[..., :5] / scale[:5]
        course = (operation.taken(values, scene) @ reads)[..., 0]
        torch.testing.assert_close(scaled.norm(dim=-1), course.abs())
        assert torch.linalg.matrix_rank(scaled).tolist() == [1, 1]
    assert abs(torch.nn.functional.cosine_similarity(taken.flatten(), other.flatten(), dim=0)) < 0.95


def test_the_best_found_of_each_band_in_turn_are_taken_out() -> None:
    asked: Any = SimpleNamespace(bands=BANDS, layers=(3, 7), method="dct", n_ablations=3, seed=0)
    n, width = len(BANDS.names), 4
    layers = {
        layer: {
            "gained": gained,
            "reads": np.ones((n, 2, width)),
            "writes": np.full((n, 2, width), 0.25),
            "scale": np.ones(width),
        }
        for layer, gained in ((3, np.full((n, 2), 0.2)), (7, np.full((n, 2), 0.1)))
    }
    layers[7]["gained"][1] = [0.4, 0.3]
    found = np.zeros((2, n, 2), dtype=np.bool_)
    found[:, 1] = True
    found[1, 3, 0] = True
    chosen = concluding.to_take_out(asked, layers, concluding.Tested({}, found, found))
    assert [(each.layer, each.band, each.component) for each in chosen] == [(7, 1, 0), (7, 3, 0), (7, 1, 1)]
