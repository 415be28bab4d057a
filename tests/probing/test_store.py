"""Features on disk: those of the model, the same after a run was killed, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resonance_lens.errors import ActivationError, ParameterError, ResultError
from resonance_lens.probing import store as module
from resonance_lens.probing.documents import Documents
from resonance_lens.probing.store import Store, fill, plan_store, width_of
from tests.probing.test_documents import adapter, made, many, words


class Killed(BaseException):
    """What a killed process is in a test."""


def documents() -> Documents:
    return made([words(33), words(18, 7), words(7, 3), *many(3, 25)], window=12)


def store(folder: Path, docs: Documents, site: str = "resid_post", **kwargs: Any) -> Store:
    wanted: dict[str, Any] = {"layers": (0, 1), "dtype": "float32", "fingerprint": "f", "shard_rows": 30}
    width = width_of(site, adapter().facts, adapter())
    return plan_store(folder, adapter(), docs, site=site, width=width, **{**wanted, **kwargs})


@pytest.mark.host
@pytest.mark.parametrize("site", ["resid_post", "z", "mlp_post"])
def test_features_are_the_activations_of_the_model(site: str, tmp_path: Path) -> None:
    docs = documents()
    stored = store(tmp_path, docs, site)
    fill(stored, adapter(), docs, batch_tokens=30)
    name = {"resid_post": "hook_resid_post", "z": "attn.hook_z", "mlp_post": "mlp.hook_post"}[site]
    model = adapter().model
    for layer in (0, 1):
        seen = []
        for group, values in stored.windows(layer, range(len(docs.windows))):
            for window, features in zip(group, values, strict=True):
                tokens = torch.tensor([docs.windows[window].tokens])
                _, cache = model.run_with_cache(tokens)
                wanted = cache[f"blocks.{layer}.{name}"][0, -docs.windows[window].measured :].flatten(1)
                np.testing.assert_allclose(features, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
                seen.append(window)
        assert sorted(seen) == list(range(len(docs.windows)))
    shards = [np.load(stored.path(i)).nbytes for i in range(len(stored.shards))]
    assert sum(shards) == stored.nbytes and len(shards) > 2


def test_a_killed_run_is_taken_up_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = documents()
    whole, killed = store(tmp_path / "whole", docs), store(tmp_path / "killed", docs)
    fill(whole, adapter(), docs, batch_tokens=30)
    save, calls = np.save, []

    def dies(file: Any, values: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half of a shard")
            raise Killed
        save(file, values, **kwargs)

    monkeypatch.setattr(np, "save", dies)
    with pytest.raises(Killed):
        fill(killed, adapter(), docs, batch_tokens=30)
    monkeypatch.undo()
    kept = {p.name: p.stat().st_mtime_ns for p in killed.folder.glob("shard-*.npy")}
    assert len(kept) == 2
    fill(store(tmp_path / "killed", docs), adapter(), docs, batch_tokens=30)
    for path in whole.folder.iterdir():
        assert (killed.folder / path.name).read_bytes() == path.read_bytes()
    assert {n: (killed.folder / n).stat().st_mtime_ns for n in kept} == kept  # not made again
    assert {p.name for p in killed.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}


def test_half_precision_takes_half_of_the_space(tmp_path: Path) -> None:
    docs = documents()
    full, half = (store(tmp_path / d, docs, dtype=d) for d in ("float32", "float16"))
    for each in (full, half):
        fill(each, adapter(), docs, batch_tokens=50)
    assert half.nbytes * 2 == full.nbytes
    every = range(len(docs.windows))
    for (_, one), (_, other) in zip(full.windows(1, every), half.windows(1, every), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
        assert other.dtype == np.float32


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.LARGEST_HALF == np.finfo(np.float16).max
    monkeypatch.setattr(module, "LARGEST_HALF", 0.5)
    docs = documents()
    with pytest.raises(
        ActivationError, match="'resid_post' at layer 0 are too large for float16; store them as"
    ):
        fill(store(tmp_path, docs, dtype="float16"), adapter(), docs, batch_tokens=50)
    fill(store(tmp_path / "full", docs), adapter(), docs, batch_tokens=50)


def test_other_settings_and_damage_are_refused(tmp_path: Path) -> None:
    docs = documents()
    mine = store(tmp_path, docs)
    fill(mine, adapter(), docs, batch_tokens=50)
    with pytest.raises(ResultError, match="holds features with other weights_fingerprint; choose another"):
        fill(store(tmp_path, docs, fingerprint="g"), adapter(), docs, batch_tokens=50)
    with pytest.raises(ResultError, match="with other layers"):
        fill(store(tmp_path, docs, layers=(1,)), adapter(), docs, batch_tokens=50)
    np.save(mine.path(0), np.zeros((2, 3, 4), dtype=np.float32))
    with pytest.raises(ResultError, match="shard-00000.npy is not of shape"):
        fill(mine, adapter(), docs, batch_tokens=50)
    mine.path(0).write_bytes(b"nothing")
    with pytest.raises(ResultError, match="delete it, and it is made again"):
        fill(mine, adapter(), docs, batch_tokens=50)
    mine.path(0).unlink()
    fill(mine, adapter(), docs, batch_tokens=50)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultError, match="delete the folder to start again"):
        fill(mine, adapter(), docs, batch_tokens=50)


def test_the_manifest_says_what_the_features_are_of(tmp_path: Path) -> None:
    docs = documents()
    fill(store(tmp_path, docs), adapter(), docs, batch_tokens=50)
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert about["tokens"] == docs.measured == sum(about["shards"])
    assert about["model"] == "gpt2" and about["tokens_digest"] == docs.digest and about["dtype"] == "float32"


def test_sites_and_types_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'pattern' is none; choose q, k, v, z"):
        width_of("pattern", adapter().facts, adapter())
    with pytest.raises(ParameterError, match="float16 or float32; got 'int8'"):
        store(tmp_path, documents(), dtype="int8")
