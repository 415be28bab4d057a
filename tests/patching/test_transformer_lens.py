"""Exact patching equals TransformerLens's own, head by head and pair by pair, on every host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import resonance_lens as rl
from resonance_lens.pairs import PromptPairs
from resonance_lens.result import Target
from tests.models import Host, cases, smollm2
from tests.patching.by_transformer_lens import ByTransformerLens, by_position, random_pairs
from tests.reference_transformer import LLAMA, Architecture

TOLERANCE = 1e-5


def ours(model: Any, pairs: PromptPairs, targets: str | Sequence[Target]) -> np.ndarray[Any, Any]:
    """Return the metric of each patch, in the order of the targets: ``[patch, pair]``."""
    result = rl.patch(model, pairs, targets, controls=(), progress=False)
    assert result.data.target.size == result.data.metric.shape[1]
    return np.asarray(result.data.metric[0])


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
@pytest.mark.parametrize(
    ("site", "name"),
    [
        ("heads", "attn_head_out_all_pos"),
        ("q", "attn_head_q_all_pos"),
        ("k", "attn_head_k_all_pos"),
        ("v", "attn_head_v_all_pos"),
        ("pattern", "attn_head_pattern_all_pos"),
    ],
)
def test_heads(host: Host, architecture: Architecture, site: str, name: str) -> None:
    from transformer_lens import patching

    model, pairs = host.build(architecture), random_pairs()
    expected = ByTransformerLens(model, pairs).sweep(getattr(patching, f"get_act_patch_{name}"))
    n_heads = architecture.n_kv_heads if site in ("k", "v") else architecture.n_heads
    assert len(expected) == architecture.n_layers * n_heads
    found = ours(model, pairs, site)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE  # heads differ, so that order matters


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
def test_positions(host: Host, architecture: Architecture, site: str) -> None:
    from transformer_lens import patching

    model, pairs = host.build(architecture), random_pairs()
    expected = ByTransformerLens(model, pairs).sweep(getattr(patching, f"get_act_patch_{site}"))
    found = ours(model, pairs, by_position(site, architecture))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE


@pytest.mark.host
@pytest.mark.parametrize("host", [host for host, architecture in cases() if architecture is LLAMA], ids=str)
def test_no_phantom_heads(host: Host) -> None:
    from transformer_lens import patching

    model, pairs = host.build(LLAMA), random_pairs()
    theirs = ByTransformerLens(model, pairs)
    with torch.no_grad():
        _, cache = model.run_with_cache(theirs.clean)
        every: Any = patching.get_act_patch_attn_head_all_pos_every(
            model, theirs.corrupted, cache, theirs.metric
        )
    shape = (LLAMA.n_layers, LLAMA.n_heads)
    padded = every[2].double().numpy()  # [layer, head]: of keys, with zeros for heads that do not exist
    assert padded.shape == shape and (padded[:, LLAMA.n_kv_heads :] == 0).all()
    data = rl.patch(model, pairs, "k", controls=(), progress=False).data
    assert data.effect_map.sizes["head"] == LLAMA.n_kv_heads
    found = (data.effect_map[0] + data.metric_base.mean()).values
    np.testing.assert_allclose(found, padded[:, : LLAMA.n_kv_heads], atol=TOLERANCE)


@pytest.mark.host
@pytest.mark.parametrize(("host", "architecture"), cases(), ids=str)
def test_the_other_way_round(host: Host, architecture: Architecture) -> None:
    from transformer_lens import patching

    model, pairs = host.build(architecture), random_pairs()
    theirs = ByTransformerLens(model, pairs)
    theirs.clean, theirs.corrupted = theirs.corrupted, theirs.clean
    expected = theirs.sweep(patching.get_act_patch_attn_head_out_all_pos)
    found = rl.patch(model, pairs, direction="noise", controls=(), progress=False).data
    np.testing.assert_allclose(found.metric[0], expected, atol=TOLERANCE)


@pytest.mark.slow
def test_smollm2() -> None:
    import pandas as pd
    from transformer_lens import patching

    model = smollm2()
    pairs = rl.prompt_pairs("induction", model, n_pairs=2)
    # Theirs are whole passes, one for each: an early and a late head of each kind are enough.
    for site, name, places in (
        ("z", "z", [(0, 0), (17, 8)]),
        ("k", "k", [(0, 2), (29, 1)]),
        ("pattern", "pattern", [(9, 3), (29, 1)]),
    ):
        setter = (
            patching.layer_head_pattern_patch_setter
            if site == "pattern"
            else patching.layer_head_vector_patch_setter
        )
        expected = ByTransformerLens(model, pairs).sweep(
            patching.generic_activation_patch,
            patch_setter=setter,
            activation_name=name,
            index_df=pd.DataFrame(places, columns=["layer", "head"]),
        )
        targets = [Target(site=site, layer=layer, head=head, score=0.0, reason="") for layer, head in places]
        # Logits of some twenty: single precision leaves them about 2e-6 each way.
        np.testing.assert_allclose(ours(model, pairs, targets), expected, atol=3e-5, err_msg=site)
