"""Kernels that patterns are replaced by, each fitted on other prompts than those that it is put into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resonance_lens.batches import Tokenized
from resonance_lens.engine import run
from resonance_lens.hooks.adapter import ModelAdapter
from resonance_lens.patching.asked import kernels_of
from resonance_lens.prompts import Prompt
from resonance_lens.result import Result

ANALYSIS = "attention_filter"


def fit(
    adapter: ModelAdapter, prompts: Sequence[Tokenized], kernels: Any, *, seed: int, batch_tokens: int
) -> list[Tensor]:
    """Return for each prompt the kernels ``[layer, head, lag]`` that replace its patterns.

    Parameters
    ----------
    adapter
        Of the model, or of its twin.
    prompts
        Two at least, unless kernels are given.
    kernels
        A result of `attention_filter`, whose kernels serve all prompts; other prompts to measure it on; or
        ``None``: it is measured on every second prompt, and on the others, and each half gets the kernels of
        the other half.
    seed, batch_tokens
        As of `resonance_lens.run`.

    Raises
    ------
    ParameterError
        If the result has no kernels, or those of another model.
    """
    if isinstance(kernels, Result):
        return [kernels_of(kernels, adapter.facts)] * len(prompts)
    if kernels is not None:
        return [_measured(adapter, kernels, seed, batch_tokens)] * len(prompts)
    plain = [Prompt(text=None, tokens=one.tokens, id=one.prompt.id) for one in prompts]
    halves = [_measured(adapter, plain[start::2], seed, batch_tokens) for start in (0, 1)]
    return [halves[(number + 1) % 2] for number in range(len(prompts))]


def _measured(adapter: ModelAdapter, prompts: Any, seed: int, batch_tokens: int) -> Tensor:
    made = run(
        adapter.model,
        prompts,
        ANALYSIS,
        baselines=(),
        seed=seed,
        batch_tokens=batch_tokens,
        progress=False,
        check=False,
    )
    return kernels_of(made[ANALYSIS], adapter.facts)
