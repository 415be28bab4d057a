"""What a result is made of: model, weights, versions, prompts, parameters, seed."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from resonance_lens import __version__
from resonance_lens.batches import Tokenized
from resonance_lens.calibration import plain_claims, uncalibrated
from resonance_lens.contract import Accumulated, Analysis
from resonance_lens.design import BASELINE_CONDITIONS
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.prompts import Prompt, prompts_digest, token_digests

LIBRARIES = ("transformer-lens", "transformers", "torch", "numpy", "scipy", "xarray", "circuitsvis")
SAMPLES_PER_WEIGHT = 1024


def of_run(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    tokenized: Sequence[Tokenized],
    *,
    seed: int,
    prepend_bos: bool | None,
    batch_tokens: int | None,
) -> dict[str, Any]:
    """Return the provenance that all results of a run share, as plain data."""
    model = getattr(adapter, "model", None)
    categories = Counter(p.category for p in prompts if p.category is not None)
    return {
        "model": adapter.facts.as_dict(),
        "weights_fingerprint": weights_fingerprint(model) if hasattr(model, "state_dict") else None,
        "versions": versions(),
        "prompts": {
            "count": len(prompts),
            "tokens": sum(len(p.tokens) for p in tokenized),
            "shortest": min(len(p.tokens) for p in tokenized),
            "longest": max(len(p.tokens) for p in tokenized),
            "categories": dict(categories),
            "digest": prompts_digest(prompts),
            "rows": token_digests(p.tokens for p in tokenized),
        },
        "prepend_bos": prepend_bos,
        "seed": seed,
        "device": str(getattr(adapter, "device", "cpu")),
        "batch_tokens": batch_tokens,
    }


def of_result(
    analysis: Analysis, record: Mapping[str, Any], seen: Accumulated, tests: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the provenance of one result: what the analysis says of itself, its tests, and the run's."""
    missing = record.get("baselines_missing", {})
    why_not = uncalibrated(analysis)
    return {
        **record,
        "analysis": analysis.name,
        "version": analysis.version,
        "title": analysis.title,
        "headline": analysis.headline,
        "evidence": analysis.evidence,
        "baselines": list(analysis.baselines),
        "conditions": [name for name in BASELINE_CONDITIONS if name in seen.features],
        "baselines_missing": {name: why for name, why in missing.items() if name in analysis.baselines},
        "nulls": list(analysis.nulls),
        "claims": [dict(claim) for claim in plain_claims(analysis)],
        "tests": tests,
        "calibrated": {"calibrated": not why_not, "why": why_not} if analysis.claims else {},
        "minimum_effect": analysis.minimum_effect,
        "source": analysis.source,
        "parameters": analysis.parameters(),
    }


def versions() -> dict[str, str]:
    """Return the versions of this library, of Python and of what the numbers depend on."""
    found = {"resonance_lens": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weights_fingerprint(model: Any) -> str:
    """Return a digest of the weights: names, shapes and a sample of each parameter's values.

    It tells models and checkpoints apart in a fraction of a second; it is not a digest of every byte.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if not hasattr(weight, "flatten") or not weight.numel():
            continue
        flat = weight.detach().flatten()
        step = max(1, flat.numel() // SAMPLES_PER_WEIGHT)
        sample = flat[::step].float().cpu().numpy().astype(np.float32)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
