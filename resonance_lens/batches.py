"""Prompts become token ids, and token ids become batches under a budget; nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resonance_lens.contract import Analysis
from resonance_lens.errors import PromptError
from resonance_lens.facts import Batch, Facts
from resonance_lens.prompts import Prompt


@dataclass(frozen=True)
class Tokenized:
    """A prompt as the model will see it.

    Attributes
    ----------
    prompt
        Where it came from.
    tokens
        Its ids, a beginning-of-sequence token in front where one is wanted.
    """

    prompt: Prompt
    tokens: tuple[int, ...]


def tokenize(
    prompts: Sequence[Prompt], facts: Facts, tokenizer: Any, prepend_bos: bool | None
) -> list[Tokenized]:
    """Return the token ids of prompts.

    Parameters
    ----------
    prompts
        Texts, or ids that are taken as they are.
    facts
        Of the model.
    tokenizer
        The model's; needed for texts only.
    prepend_bos
        Whether texts get a beginning-of-sequence token; ``None`` follows the model's habit.

    Raises
    ------
    PromptError
        If there is no tokenizer or no such token, a prompt has no tokens, an id is outside the
        vocabulary, or a prompt is longer than the model's context.
    """
    prepend = facts.prepends_bos and facts.bos_token is not None if prepend_bos is None else prepend_bos
    if prepend and facts.bos_token is None and any(p.tokens is None for p in prompts):
        raise PromptError(
            f"{facts.model_name} has no beginning-of-sequence token; leave prepend_bos at its default."
        )
    done = []
    for prompt in prompts:
        if prompt.tokens is not None:
            ids = list(prompt.tokens)
        elif tokenizer is None:
            raise PromptError(
                f"{facts.model_name} has no tokenizer; give prompts as token ids, or set model.tokenizer."
            )
        else:
            ids = list(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
            if prepend and (not ids or ids[0] != facts.bos_token):
                ids = [int(facts.bos_token or 0), *ids]
        if not ids:
            raise PromptError(f"Prompt {prompt.id!r} has no tokens; leave it out.")
        outside = [i for i in ids if not 0 <= i < facts.d_vocab]
        if outside:
            raise PromptError(
                f"Prompt {prompt.id!r} has the token id {outside[0]}, and {facts.model_name} has ids up to "
                f"{facts.d_vocab - 1}."
            )
        if len(ids) > facts.n_ctx:
            raise PromptError(
                f"Prompt {prompt.id!r} has {len(ids)} tokens, and the context of {facts.model_name} holds "
                f"{facts.n_ctx}; shorten or split it (prompts are never cut off)."
            )
        done.append(Tokenized(prompt, tuple(int(i) for i in ids)))
    return done


def token_strings(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text of each token, or its id where there is no tokenizer."""
    return tuple(str(i) if tokenizer is None else str(tokenizer.decode([i])) for i in ids)


def require_long_enough(prompts: Sequence[Tokenized], analyses: Collection[Analysis]) -> None:
    """Raise `PromptError` if a prompt is too short for an analysis: which, and what would do."""
    for analysis in analyses:
        for prompt in prompts:
            if len(prompt.tokens) < analysis.min_tokens:
                has = f"{len(prompt.tokens)} token" + ("s" if len(prompt.tokens) != 1 else "")
                raise PromptError(
                    f"Prompt {prompt.prompt.id!r} has {has}, and {analysis.name} needs at least "
                    f"{analysis.min_tokens}; leave the prompt out or lengthen it."
                )


def make_batches(
    prompts: Sequence[Tokenized], budget: int, padding_side: str = "right", done: Collection[int] = ()
) -> list[Batch]:
    """Return batches of prompts of similar length, each of at most ``budget`` tokens with padding.

    The longest prompts come first, so that memory runs out at once if it does. A prompt longer than
    the budget is a batch of its own. Prompts whose index is in ``done`` are left out.
    """
    left = (index for index in range(len(prompts)) if index not in done)
    order = sorted(left, key=lambda i: (-len(prompts[i].tokens), i))
    groups: list[list[int]] = []
    for index in order:
        width = len(prompts[groups[-1][0]].tokens) if groups else 0
        if groups and (len(groups[-1]) + 1) * width <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_batch(prompts, group, padding_side) for group in groups]


def _batch(prompts: Sequence[Tokenized], group: Sequence[int], padding_side: str) -> Batch:
    lengths = [len(prompts[index].tokens) for index in group]
    width = max(lengths)
    tokens = np.zeros((len(group), width), dtype=np.int64)
    for row, index in enumerate(group):
        ids = prompts[index].tokens
        tokens[row, slice(width - len(ids), None) if padding_side == "left" else slice(len(ids))] = ids
    return Batch(torch.as_tensor(tokens), torch.tensor(lengths), tuple(group), padding_side)


def front_tokens(batch: Batch) -> torch.Tensor:
    """Return the ids of a batch with real tokens first, whatever side the padding is on."""
    if batch.padding_side == "right":
        return batch.tokens
    tokens = torch.zeros_like(batch.tokens)
    for row, length in enumerate(batch.lengths.tolist()):
        tokens[row, :length] = batch.tokens[row, batch.tokens.shape[1] - length :]
    return tokens
