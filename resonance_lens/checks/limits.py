"""Checks of an analysis at its limits: other precisions and devices, small input, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resonance_lens.checks.common import (
    EXACTLY,
    Subject,
    attempt,
    concluded_from,
    difference,
    empty,
    made,
    planted,
    require,
)
from resonance_lens.contract import Planted
from resonance_lens.errors import ActivationError, PromptError, ResonanceLensError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.signal import POSITION_AXES
from resonance_lens.trials import measure, part_of

SINGLE_PRECISION = 1e-4
"""Relative to the largest value of a variable: how far float32 may be from float64."""

POSITIONS = 8
"""How many random places of each site hold a bad value, one after the other."""


# ---------------------------------------------------------------------------------------- precision


def check_single_precision(subject: Subject, host: Adapter | None = None) -> None:
    """Activations in float32 give what they give in float64, within `SINGLE_PRECISION`."""
    analysis = made(subject)
    for source in (planted(analysis), empty(analysis)):
        double = measure(analysis, source, dtype=torch.float64)
        single = attempt("Measuring in float32", partial(measure, analysis, source, dtype=torch.float32))
        found = difference(double, single, SINGLE_PRECISION, smallest=analysis.minimum_effect)
        require(found is None, f"In float32 the results are not those of float64: {found}.")


def check_gpu(subject: Subject, host: Adapter | None = None) -> None:
    """A GPU, where there is one, gives what the CPU gives."""
    if not torch.cuda.is_available():
        return
    analysis = made(subject)
    source = planted(analysis)
    gpu = attempt("Measuring on a GPU", lambda: measure(analysis, source, device="cuda"))
    found = difference(measure(analysis, source), gpu, SINGLE_PRECISION, smallest=analysis.minimum_effect)
    require(found is None, f"A GPU gives other results than the CPU: {found}.")


# ---------------------------------------------------------------------------------- small, bad input


def check_shortest_prompts(subject: Subject, host: Adapter | None = None) -> None:
    """Prompts of ``min_tokens`` can be measured, and shorter ones are refused in a sentence."""
    analysis = made(subject)
    least = analysis.min_tokens
    require(type(least) is int and least >= 1, f"min_tokens is a whole number above zero; got {least!r}.")
    source = planted(analysis)
    if source.task is not None:
        return  # what a prompt stands for would be cut off with its end
    what = f"Measuring prompts of min_tokens ({least}) tokens"
    data = attempt(what, lambda: measure(analysis, part_of(source, length=least)))
    headline = data[analysis.headline]
    require(bool(headline.notnull().any()), f"{what} gives no {analysis.headline} at all.")
    if least == 1:
        return
    try:
        measure(analysis, part_of(source, length=least - 1))
    except PromptError as error:
        said = analysis.name in str(error) and str(least) in str(error)
        require(said, f"The refusal of a short prompt does not say what is needed: {error}")
    else:
        raise AssertionError(f"Prompts of {least - 1} tokens are measured, and min_tokens is {least}.")


def check_small_models(subject: Subject, host: Adapter | None = None) -> None:
    """One prompt can be measured; one head, one layer too, or they are refused in a sentence."""
    analysis = made(subject)
    source = planted(analysis)
    last = source.facts.n_layers - 1
    parts = {
        "one prompt": part_of(source, prompts=[0]),
        "one head": part_of(source, heads=[0]),
        "one layer": part_of(source, layers=[last]),
        "one prompt, head and layer": part_of(source, prompts=[0], heads=[0], layers=[last]),
    }
    for what, part in parts.items():
        try:
            result = concluded_from(analysis, part)
        except ResonanceLensError as error:
            require(
                what != "one prompt" and "error in the analysis" not in str(error),
                f"Measuring {what} fails with {type(error).__name__}: {error}",
            )
            continue
        except Exception as error:
            raise AssertionError(f"Measuring {what} fails with {type(error).__name__}: {error}") from error
        words = result.summary.lower().replace(",", " ").replace(".", " ").split()
        require(
            not {"nan", "inf", "none"} & set(words),
            f"The summary of {what} speaks of numbers that do not exist: {result.summary}",
        )
        require(
            not any(bool(np.isinf(v).any()) for v in result.data.values() if v.dtype.kind == "f"),
            f"Measuring {what} gives infinite numbers.",
        )


def check_bad_activations(subject: Subject, host: Adapter | None = None) -> None:
    """A value that is not finite is refused with its site and layer named, or is not looked at."""
    analysis = made(subject)
    source = planted(analysis)
    clean = measure(analysis, source)
    rng = np.random.default_rng(0)
    for site, kind in product(analysis.observes, ("nan", "inf")):
        served = [layer for layer, sites in enumerate(source.layers) if site in sites]
        for place in range(POSITIONS):
            layer = int(rng.choice(served))
            bad = source.layers[layer][site].clone()
            row = int(rng.integers(len(bad)))
            # The last of them is not a number everywhere in one prompt, where all must look.
            at: Any = row if place == POSITIONS - 1 else _somewhere(rng, site, bad, row, source)
            bad[at] = float(kind)
            layers = [dict(sites) for sites in source.layers]
            layers[layer][site] = bad
            what = f"A value of {site!r} at layer {layer} that is {kind}"
            try:
                data = measure(analysis, replace(source, layers=layers))
            except ActivationError as error:
                named = repr(site) in str(error) and f"layer {layer} " in str(error)
                require(named, f"{what} is refused without naming the two: {error}")
            except Exception as error:
                raise AssertionError(f"{what} raises {type(error).__name__}: {error}") from error
            else:
                ignored = isinstance(at, tuple) and difference(clean, data, EXACTLY) is None
                require(ignored, f"{what} is neither refused nor left out: it goes into the result.")


def _somewhere(
    rng: np.random.Generator, site: str, values: Tensor, row: int, source: Planted
) -> tuple[int, ...]:
    """Return the index of a random real value of a prompt."""
    at = [row]
    for axis, size in zip(SITE_AXES[site][1:], values.shape[1:], strict=True):
        size = int(source.lengths[row]) if axis in POSITION_AXES else size
        if axis == "key" and source.facts.causal:
            size = at[-1] + 1
        at.append(int(rng.integers(size)))
    return tuple(at)


CHECKS: tuple[Callable[[Subject, Adapter | None], None], ...] = (
    check_single_precision,
    check_gpu,
    check_shortest_prompts,
    check_small_models,
    check_bad_activations,
)
