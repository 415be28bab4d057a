"""Which of two answers a model prefers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resonance_lens.batches import Tokenized, make_batches, tokenize
from resonance_lens.errors import AdapterError, PromptError
from resonance_lens.facts import Batch
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.pairs import PromptPairs
from resonance_lens.signal import Signal


def require_next_token(adapter: Adapter) -> None:
    """Raise an error unless a model can be run and says what comes next."""
    facts = adapter.facts
    if not adapter.runs:
        raise AdapterError(
            f"Pairs of prompts are put to the model, and {facts.host} holds one pass and cannot make "
            "another; give the model."
        )
    if not facts.causal:
        raise PromptError(
            f"The ready tasks ask for the next token, and {facts.model_name} sees both ways; give pairs of "
            "your own."
        )


def solved(adapter: Adapter, pairs: PromptPairs, batch_tokens: int) -> NDArray[np.bool_]:
    """Return of each pair whether the model prefers the right answer after both of its prompts.

    Parameters
    ----------
    adapter
        Of the model.
    pairs
        The pairs.
    batch_tokens
        Tokens of a pass, padding included.
    """
    clean, corrupted = (
        _preference(adapter, pairs, tokenize(prompts, adapter.facts, None, None), batch_tokens)
        for prompts in (pairs.prompts("clean"), pairs.prompts("corrupted"))
    )
    found: NDArray[np.bool_] = (clean > 0) & (corrupted < 0)
    return found


def _preference(
    adapter: Adapter, pairs: PromptPairs, prompts: list[Tokenized], batch_tokens: int
) -> NDArray[np.float64]:
    """Return the logit of each pair's right answer minus that of its wrong one, after one of its prompts."""
    found = np.empty(len(pairs))
    for batch in make_batches(prompts, batch_tokens):
        chosen = list(batch.prompts)
        logits = _logits(adapter, batch, torch.from_numpy(pairs.read[chosen]))  # [pair, d_vocab]
        rows = torch.arange(len(chosen))
        right, wrong = (logits[rows, torch.from_numpy(ids[chosen])] for ids in (pairs.right, pairs.wrong))
        found[chosen] = (right - wrong).double().numpy()
    return found


def _logits(adapter: Adapter, batch: Batch, read: Tensor) -> Tensor:
    """Return the logits ``[prompt, d_vocab]`` at one position of each prompt.

    Nothing else is unembedded: a vocabulary is many times as wide as the model.
    """
    found: list[Tensor] = []

    def receive(signal: Signal) -> None:
        values = signal.values  # [prompt, token, d_model]
        found.append(values[torch.arange(len(read)), read.to(values.device)])

    adapter.run(batch, {adapter.facts.n_layers - 1: ("resid_post",)}, receive)
    return adapter.readout(found[0]).cpu()
