"""A sweep in the form of TransformerLens's `PatchingResult`, and ours against it where it exists."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import resonance_lens as rl
from resonance_lens.patching.patching_result import PatchingResult
from resonance_lens.result import Target
from tests.models import build
from tests.patching.by_transformer_lens import LENGTH, ByTransformerLens, by_position, random_pairs
from tests.reference_transformer import LLAMA


def has_theirs() -> bool:
    return tuple(map(int, version("transformer-lens").split(".")[:2])) >= (4, 2)


def as_ours(result: Any) -> PatchingResult:
    return PatchingResult(**vars(result))


@pytest.mark.host
def test_heads_are_a_grid_of_layers_and_heads() -> None:
    from transformer_lens import patching

    model, pairs = build(LLAMA), random_pairs()
    data = rl.patch(model, pairs, controls=(), progress=False)
    found = data.patching_result()
    assert isinstance(found, patching.PatchingResult if has_theirs() else PatchingResult)
    assert found.axis_names == ["layer", "head"]
    assert tuple(found.values.shape) == (LLAMA.n_layers, LLAMA.n_heads, len(pairs))
    expected = ByTransformerLens(model, pairs).sweep(patching.get_act_patch_attn_head_out_all_pos)
    np.testing.assert_allclose(found.values.reshape(expected.shape), expected, atol=1e-5)
    np.testing.assert_allclose(found.effect().mean(-1), data.data.effect_map[0], atol=1e-5)
    np.testing.assert_allclose(
        found.normalized(torch.tensor(data.data.metric_clean.values)).shape, found.values.shape
    )


def test_equals_the_result_of_transformer_lens() -> None:
    from transformer_lens import patching

    model, pairs = build(LLAMA), random_pairs()
    by_theirs = ByTransformerLens(model, pairs)
    _, cache = model.run_with_cache(by_theirs.clean)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        by_theirs.metric(logits)
        return by_theirs.seen[-1].detach()

    clean = metric(model(by_theirs.clean))
    for name, targets in (
        ("attn_head_out_all_pos", "heads"),
        ("attn_head_k_all_pos", "k"),
        ("mlp_out", by_position("mlp_out", LLAMA)),
    ):
        sweep = getattr(patching, f"get_act_patch_{name}")
        expected = sweep(model, by_theirs.corrupted, cache, metric, reduce="none", baseline=True)
        found = rl.patch(model, pairs, targets, controls=(), progress=False).patching_result()
        assert found.axis_names == [{"head_index": "head"}.get(each, each) for each in expected.axis_names]
        assert (found.reduced, found.has_metric_axis) == (expected.reduced, expected.has_metric_axis)
        assert (found.index_df.to_numpy() == expected.index_df.to_numpy()).all()
        for one in (found, as_ours(found)):
            for method in ("mean", "stderr", "effect"):
                torch.testing.assert_close(
                    getattr(one, method)(), getattr(expected, method)(), atol=2e-5, rtol=1e-5
                )
            torch.testing.assert_close(
                one.normalized(clean), expected.normalized(clean), atol=1e-3, rtol=1e-3
            )
        table = as_ours(found).to_dataframe()
        pd.testing.assert_frame_equal(table, found.to_dataframe(), check_dtype=False)


def test_operations_are_patch_types() -> None:
    model, pairs = build(LLAMA), random_pairs()
    result = rl.patch(
        model, pairs, operation=["patch", "zero_ablate"], direction="denoise", controls=(), progress=False
    )
    found = result.patching_result()
    assert found.axis_names == ["patch_type", "layer", "head"]
    assert found.patch_type_names == ["patch", "zero_ablate"]
    np.testing.assert_allclose(found.values.reshape(2, -1, len(pairs)), result.data.metric, rtol=1e-6)
    table = found.to_dataframe()
    assert set(table.patch_type_name) == {"patch", "zero_ablate"}
    row = table.iloc[-1]
    assert (row.patch_type_name, row.layer, row["head"]) == ("zero_ablate", 2, 3)
    assert row.value == pytest.approx(float(result.data.metric[1, -1, -1]))


def test_targets_that_are_no_grid_stay_a_list() -> None:
    model, pairs = build(LLAMA), random_pairs()
    targets = [
        Target(site="z", layer=2, head=1, score=0.0, reason=""),
        Target(site="mlp_out", layer=0, positions=(LENGTH - 1,), score=0.0, reason=""),
    ]
    result = rl.patch(model, pairs, targets, controls=(), progress=False)
    found = result.patching_result()
    assert found.axis_names == []
    assert tuple(found.values.shape) == (2, len(pairs))
    assert found.index_df.site.tolist() == ["z", "mlp_out"]
    assert found.index_df["layer"].tolist() == [2, 0]
