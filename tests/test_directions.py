"""Directions: files, what is refused, and where they come from, against numpy on the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.directions import Directions
from resonance_lens.errors import AdapterError, ParameterError
from tests.models import Host, cases
from tests.reference_transformer import Architecture


def test_a_file_gives_them_back(tmp_path: Path) -> None:
    found = Directions.of(np.arange(1, 7.0).reshape(2, 3), ["a", "b"])
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=-1), 1)
    found.save(tmp_path / "two.npz")
    again = Directions.load(tmp_path / "two.npz")
    assert again == found and hash(again) == hash(found)
    assert str(found) == f"a, b (sha256 {found.digest})"
    np.save(tmp_path / "two.npy", found.vectors)
    assert Directions.load(tmp_path / "two.npy").digest == found.digest
    assert Directions.of(torch.ones(4)).vectors.tolist() == [[0.5] * 4]


def test_what_is_no_direction_is_refused(tmp_path: Path) -> None:
    for wrong in (None, "abc", 3, [[[1.0]]], []):
        with pytest.raises(ParameterError, match="'vectors' must be an array"):
            Directions.of(wrong)
    with pytest.raises(ParameterError, match="not all of them zero; number 1 is not so"):
        Directions.of([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ParameterError, match="2 'vectors', and 1 labels"):
        Directions.of([[1.0, 0.0], [0.0, 1.0]], ["a"])
    with pytest.raises(ParameterError, match="cannot be read from"):
        Directions.load(tmp_path / "none.npz")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ParameterError, match="cannot be read from"):
        Directions.load(tmp_path / "text.npy")


@pytest.mark.host
@pytest.mark.parametrize(("host", "arch"), cases(), ids=str)
def test_they_are_those_of_the_weights(host: Host, arch: Architecture) -> None:
    model: Any = host.build(arch)
    pair = rl.unembedding_direction(model, 3, 5).vectors[0]
    eye = torch.eye(arch.d_model)[None]
    with torch.no_grad():  # rows of W_U, by the model's own unembedding
        logits = model.unembed(eye)[0] - model.unembed(torch.zeros_like(eye))[0]
    difference = (logits[:, 3] - logits[:, 5]).double().numpy()
    np.testing.assert_allclose(pair, difference / np.linalg.norm(difference), atol=1e-5)

    head = rl.head_directions(model, layer=1, head=1, k=2).vectors
    weights = model.blocks[1].attn.W_O[1].detach().double().numpy()
    values, vectors = np.linalg.eigh(weights.T @ weights)
    for found, expected in zip(head, vectors.T[::-1], strict=False):
        assert abs(found @ expected) == pytest.approx(1, abs=1e-6)

    rows = [[1 + (7 * i + j * j) % 11 for j in range(12 + i)] for i in range(4)]
    found_ = rl.principal_directions(model, rows, layer=1, k=2).vectors
    kept: list[np.ndarray] = []
    for row in rows:
        hook = ("blocks.1.hook_resid_pre", lambda values, hook: kept.append(values[0, 1:].double().numpy()))
        with torch.no_grad():
            model.run_with_hooks(torch.tensor([row]), fwd_hooks=[hook])
    _, _, wanted = np.linalg.svd(np.concatenate(kept) - np.concatenate(kept).mean(0), full_matrices=False)
    for one, other in zip(found_, wanted, strict=False):
        assert abs(one @ other) == pytest.approx(1, abs=1e-4)


def test_what_is_not_there_is_said() -> None:
    model = rl.load_model("testbed:locked")
    with pytest.raises(ParameterError, match="no head 99"):
        rl.head_directions(model, layer=0, head=99)
    with pytest.raises(ParameterError, match="no layer 9"):
        rl.head_directions(model, layer=9, head=0)
    with pytest.raises(ParameterError, match="no token 9999"):
        rl.unembedding_direction(model, 9999, 1)
    with pytest.raises(ParameterError, match="they are one token"):
        rl.unembedding_direction(model, 1, 1)
    with pytest.raises(AdapterError, match="not of 'pattern'"):
        rl.principal_directions(model, [[1, 2, 3]], layer=0, site="pattern")
    with pytest.raises(ParameterError, match="need more tokens than 2"):
        rl.principal_directions(model, [[1, 2, 3]], layer=0, k=5)
