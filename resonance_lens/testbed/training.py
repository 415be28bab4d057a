"""Training a transformer of one layer on a table of answers, in plain torch and to the digit.

The network is the one of Nanda et al. (2023): attention and an MLP without normalisation, read at the last
token. Nothing is drawn while it trains; it runs on one thread, because sums that are split among threads
round differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from resonance_lens.errors import ParameterError, wrong_parameter
from resonance_lens.stats.streams import stream
from resonance_lens.tasks import Task
from resonance_lens.testbed.building import Shape, weight_shapes

Parameters = dict[str, Tensor]
"""Weights by their names in a HookedTransformer."""

WARM_UP = 10
"""Epochs over which the learning rate rises to its full value."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs
        Steps of gradient descent, each over the whole training set.
    weight_decay
        Of AdamW, on every weight.
    seed
        Of the initial weights.
    learning_rate, betas
        Of AdamW.

    Raises
    ------
    ParameterError
        If ``epochs`` or ``weight_decay`` is out of its range.
    """

    epochs: int
    weight_decay: float = 1.0
    seed: int = 0
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)

    def __post_init__(self) -> None:
        if type(self.epochs) is not int or self.epochs < 1:
            raise ParameterError(wrong_parameter("Recipe", "epochs", "an integer of at least 1", self.epochs))
        if not 0 <= self.weight_decay < math.inf:
            raise ParameterError(
                wrong_parameter("Recipe", "weight_decay", "a number of at least 0", self.weight_decay)
            )


def initial_weights(shape: Shape, seed: int) -> Parameters:
    """Return normal weights of variance ``1 / d_model`` (the unembedding ``1 / d_vocab``) and zero biases."""
    weights = {}
    for name, size in weight_shapes(shape).items():
        if name.rpartition(".")[2].startswith("b_"):
            values = np.zeros(size)
        else:
            variance = shape.d_vocab if name == "unembed.W_U" else shape.d_model
            values = stream(seed, "training", name).normal(0, 1 / math.sqrt(variance), size)
        weights[name] = torch.tensor(values, dtype=torch.float32)
    return weights


def logits_at_the_end(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the logits ``[prompt, vocab]`` at the last token of prompts ``[prompt, token]``.

    The last token is the same in all prompts, so that there is one query. Keys and values are computed
    once for each token at each position, not for each prompt.
    """
    attention = {name[-3:]: value for name, value in weights.items() if ".attn." in name}
    mlp = {name.rpartition(".")[2]: value for name, value in weights.items() if ".mlp." in name}
    every = weights["embed.W_E"][:, None] + weights["pos_embed.W_pos"]  # [vocab, position, d_model]
    last = every[tokens[0, -1], -1]  # [d_model]
    query = torch.einsum("m,hmd->hd", last, attention["W_Q"]) + attention["b_Q"]
    keys = torch.einsum("vpm,hmd->vphd", every, attention["W_K"]) + attention["b_K"]
    values = torch.einsum("vpm,hmd->vphd", every, attention["W_V"]) + attention["b_V"]
    at = (tokens, torch.arange(tokens.shape[1]))
    scores = torch.einsum("hd,vphd->vph", query, keys)[at] / math.sqrt(query.shape[-1])
    z = torch.einsum("bph,bphd->bhd", scores.softmax(1), values[at])
    middle = last + torch.einsum("bhd,hdm->bm", z, attention["W_O"]) + attention["b_O"]
    neurons = (middle @ mlp["W_in"] + mlp["b_in"]).relu()  # [prompt, neuron]
    return (middle + neurons @ mlp["W_out"] + mlp["b_out"]) @ weights["unembed.W_U"]


def answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats; in float64, where losses of 1e-8 are still numbers."""
    return -logits.double().log_softmax(-1).gather(1, answers[:, None]).mean()


def train(
    task: Task,
    shape: Shape,
    recipe: Recipe,
    *,
    at: frozenset[int] = frozenset(),
    keep: Callable[[int, Parameters], None] = lambda step, weights: None,
    progress: bool = True,
) -> Parameters:
    """Train a network on a task, and return its weights.

    Parameters
    ----------
    task
        Its prompts are alike in length and end in one and the same token, at which they are answered;
        those of its ``train`` mask are learnt, or all of them.
    shape
        Of the network: one layer, learned positions, ReLU, as long a context as the prompts.
    recipe
        How.
    at
        Steps after which ``keep`` gets the step and the weights; 0 is the start.
    keep
        What to do with them.
    progress
        Whether to show a progress bar on standard error.
    """
    tokens = torch.tensor(task.tokens)
    answers = torch.tensor(task.answer_tokens[task.answers])
    if task.train is not None:
        tokens, answers = tokens[torch.tensor(task.train)], answers[torch.tensor(task.train)]
    with _one_thread():
        weights = initial_weights(shape, recipe.seed)
        # The last token asks by itself: the biases of queries and keys, and of attention's output, add
        # nothing that the others could not. They stay at zero, as in the paper.
        learnt = [w.requires_grad_() for name, w in weights.items() if ".attn.b_" not in name]
        optimiser = torch.optim.AdamW(
            learnt, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        bar = tqdm(total=recipe.epochs, unit="epoch", desc="training", disable=not progress)
        with bar:
            for step in range(recipe.epochs + 1):
                if step in at:
                    keep(step, _copies(weights))
                if step == recipe.epochs:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / WARM_UP)
                loss = answer_loss(logits_at_the_end(weights, tokens), answers)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                bar.update()
    return _copies(weights)


def _copies(weights: Parameters) -> Parameters:
    return {name: value.detach().clone() for name, value in weights.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, with gradients, and leave both settings as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)
