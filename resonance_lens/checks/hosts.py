"""Checks on a real model: the numbers do not depend on batches, and the model is left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from resonance_lens.checks.common import CLOSELY, Subject, difference, made, require
from resonance_lens.contract import Analysis, Where
from resonance_lens.errors import AdapterError
from resonance_lens.features import Features
from resonance_lens.hooks.adapter import Adapter, ModelAdapter
from resonance_lens.observing import layers_of, require_tokenizer
from resonance_lens.trials import result_of

EXTRA_TOKENS = (9, 0, 14, 4)
"""Lengths of the prompts, beyond the shortest that the analysis can measure."""


def check_host_batches(subject: Subject, host: Adapter | None) -> None:
    """Prompts of mixed length give what they give one by one, padded on the left or on the right."""
    analysis = made(subject)
    if host is None or not _served(analysis, host):
        return
    rows = _prompts(analysis, host)
    alone = result_of(analysis, host, rows, batch_size=1).data
    for side in ("right", "left"):
        together = result_of(analysis, host, rows, padding_side=side).data
        found = difference(alone, together, CLOSELY, smallest=analysis.minimum_effect)
        require(
            found is None, f"A batch padded on the {side} gives other results than prompts alone: {found}."
        )


def check_host_left_alone(subject: Subject, host: Adapter | None) -> None:
    """Hooks, modes, gradients, weights and random state of the user's model are as they were."""
    analysis = made(subject)
    if host is None or not _served(analysis, host):
        return
    _require_untouched(host, partial(result_of, analysis, host, _prompts(analysis, host)))


def check_host_left_alone_after_error(subject: Subject, host: Adapter | None) -> None:
    """The same when the analysis stops with an error inside the pass."""
    analysis = made(subject)
    if host is None or not _served(analysis, host):
        return
    stopped, rows = _stopping(analysis), _prompts(analysis, host)

    def run() -> None:
        try:
            result_of(stopped, host, rows)
        except _Stop:
            return
        raise AssertionError("An error inside observe does not reach the user.")

    _require_untouched(host, run)


class _Stop(Exception):
    """Stands for any error of an analysis."""


def _stopping(analysis: Analysis) -> Analysis:
    """Return an analysis that does the same, and then stops with an error inside the pass."""

    def observe(self: Any, signals: Any, where: Where) -> Features:
        type(analysis).observe(analysis, signals, where)
        raise _Stop

    cls: Any = type("Stopping", (type(analysis),), {"observe": observe})
    stopped: Analysis = cls(**analysis.parameters())
    return stopped


def _served(analysis: Analysis, host: Adapter) -> bool:
    """Return whether the host serves the analysis on prompts; a refusal says so in a sentence."""
    if "task" in analysis.needs:
        return False  # prompts that stand for nothing have no values
    try:
        require_tokenizer(host, analysis)
        layers_of(host, [analysis])
    except AdapterError:
        return False
    return host.runs


def _prompts(analysis: Analysis, host: Adapter) -> list[list[int]]:
    rng = np.random.default_rng(0)
    longest = host.facts.n_ctx
    lengths = [min(analysis.min_tokens + extra, longest) for extra in EXTRA_TOKENS]
    return [[int(i) for i in rng.integers(host.facts.d_vocab, size=length)] for length in lengths]


def _require_untouched(host: Adapter, act: Callable[[], Any]) -> None:
    with _in_use(host):
        before = _state(host)
        act()
        after = _state(host)
    for name, value in before.items():
        require(_same(value, after[name]), f"After a run, {name} of the model is not as it was.")


@contextmanager
def _in_use(host: Adapter) -> Iterator[None]:
    """Put the model in a state that a user may have it in, and out of it again.

    Some modules in training mode, a weight that needs no gradient and one that has one, a hook.
    """
    if not isinstance(host, ModelAdapter):
        yield
        return
    modules = list(dict.fromkeys(host.modules()))
    weights = list(host.model.parameters())
    modes = [module.training for module in modules]
    wanted = [(weight.requires_grad, weight.grad) for weight in weights]
    handle = modules[-1].register_forward_hook(lambda *_: None)
    try:
        for index, module in enumerate(modules):
            module.training = index % 3 == 0
        weights[0].requires_grad_(False)
        weights[-1].requires_grad_(True)
        weights[-1].grad = torch.ones_like(weights[-1])
        yield
    finally:
        handle.remove()
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for weight, (needs, grad) in zip(weights, wanted, strict=True):
            weight.requires_grad_(needs)
            weight.grad = grad


def _state(host: Adapter) -> dict[str, Any]:
    """Return what of the world must not change, by name."""
    kind, key, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "the random state": (torch.get_rng_state().tolist(), kind, np.asarray(key).tolist(), rest),
        "Python's random state": random.getstate(),
        "whether gradients are on": torch.is_grad_enabled(),
    }
    if not isinstance(host, ModelAdapter):
        return state
    modules = list(dict.fromkeys(host.modules()))
    weights = list(host.model.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    state["the hooks"] = [
        *(sorted(getattr(module, kind, ())) for module in modules for kind in kinds),
        *([len(getattr(module, kind, ())) for kind in ("fwd_hooks", "bwd_hooks")] for module in modules),
    ]
    state["the training mode"] = [module.training for module in modules]
    state["requires_grad"] = [weight.requires_grad for weight in weights]
    state["the gradient"] = [(id(weight.grad), _sum(weight.grad)) for weight in weights]
    state["a weight"] = [(weight.data_ptr(), _sum(weight)) for weight in weights]
    state["the config"] = {
        name: value
        for name, value in vars(host.model.cfg).items()
        if isinstance(value, bool | int | float | str | None)
    }
    return state


def _sum(values: torch.Tensor | None) -> tuple[float, float]:
    if values is None:
        return 0.0, 0.0
    flat = values.detach().double()
    return float(flat.sum()), float((flat * flat).sum())


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


CHECKS: tuple[Callable[[Subject, Adapter | None], None], ...] = (
    check_host_batches,
    check_host_left_alone,
    check_host_left_alone_after_error,
)
