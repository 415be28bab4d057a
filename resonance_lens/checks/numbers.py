"""Checks of what an analysis measures: the truth, whatever the batch, the order and the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import xarray as xr

from resonance_lens.checks.common import (
    CLOSELY,
    DEALT,
    EXACTLY,
    SEEDED,
    SEEDS,
    Subject,
    attempt,
    difference,
    differing,
    empty,
    made,
    planted,
    require,
)
from resonance_lens.contract import Analysis, Planted
from resonance_lens.facts import SITE_AXES, Batch
from resonance_lens.features import Features
from resonance_lens.hooks.adapter import Adapter, Receive, Wanted
from resonance_lens.signal import POSITION_AXES, Signal
from resonance_lens.trials import PlantedAdapter, concluded, measure, observe, part_of

MERGING = 1e-12
"""Relative: how far sums may depend on the order in which they are added."""


# -------------------------------------------------------------------------------------------- truth


def check_planted_input(subject: Subject, host: Adapter | None = None) -> None:
    """What is planted depends on nothing but its generator, fits its facts, and varies in length."""
    analysis = made(subject)
    for make, name in ((planted, "plant"), (empty, "null")):
        one, again = make(analysis), make(analysis)
        facts = one.facts
        require(
            len(one.layers) == facts.n_layers,
            f"{name}() has {len(one.layers)} layers, and its facts say {facts.n_layers}.",
        )
        sizes = {"batch": len(one.lengths), "head": facts.n_heads, "d_model": facts.d_model}
        sizes |= {"d_head": facts.d_head, "vocab": facts.d_vocab}
        sizes |= dict.fromkeys(POSITION_AXES, int(one.lengths.max()))
        for layer, sites in enumerate(one.layers):
            for site, values in sites.items():
                axes = SITE_AXES[site]
                wanted = tuple(sizes.get(axis, -1) for axis in axes)
                fits = len(values.shape) == len(wanted) and all(
                    w in (-1, s) for w, s in zip(wanted, values.shape, strict=True)
                )
                require(fits, f"{name}() has {site!r} of shape {tuple(values.shape)} at layer {layer}, "
                        f"and its axes ({', '.join(axes)}) have the sizes {wanted}.")  # fmt: skip
                require(
                    torch.equal(values, again.layers[layer][site]),
                    f"{name}() gives other numbers from the same generator.",
                )
        lengths = set(one.lengths.tolist())
        require(len(lengths) > 1, f"{name}() has prompts of one length only, so that padding is not tried.")
        require(
            min(lengths) >= analysis.min_tokens,
            f"{name}() has a prompt of {min(lengths)} tokens, and min_tokens is {analysis.min_tokens}.",
        )


def check_plant_is_found(subject: Subject, host: Adapter | None = None) -> None:
    """What is planted is found, whatever the seed."""
    analysis = made(subject)
    for seed in SEEDS:
        source = planted(analysis, seed)
        _expect(source, measure(analysis, source), f"What plant() hides with seed {seed}")


def check_null_is_not_found(subject: Subject, host: Adapter | None = None) -> None:
    """Where there is nothing, nothing is found, whatever the seed."""
    analysis = made(subject)
    for seed in SEEDS:
        source = empty(analysis, seed)
        _expect(source, measure(analysis, source), f"The nothing of null() with seed {seed}")


def check_expectations_discriminate(subject: Subject, host: Adapter | None = None) -> None:
    """What is expected of the plant is not true of the null, nor the other way round."""
    analysis = made(subject)
    pairs = ((planted, empty, "plant", "null"), (empty, planted, "null", "plant"))
    for mine, other, name, other_name in pairs:
        data = measure(analysis, other(analysis))
        try:
            mine(analysis).expect(data)
        except Exception:  # layers, heads or answers do not fit: that is what is wanted
            continue
        raise AssertionError(
            f"What {name}() expects is met by the result of {other_name}() too, so it tests nothing."
        )


def _expect(source: Planted, data: xr.Dataset, what: str) -> None:
    try:
        source.expect(data)
    except AssertionError as error:
        raise AssertionError(f"{what} is not answered as expected: {error}") from error


# --------------------------------------------------------------------------------------- invariance


def check_batch_of_one(subject: Subject, host: Adapter | None = None) -> None:
    """Prompts in one batch give what they give one by one."""
    analysis = made(subject)
    for source in (planted(analysis), empty(analysis)):
        together = measure(analysis, source)
        alone = measure(analysis, source, batch_size=1)
        found = difference(together, alone, CLOSELY, smallest=analysis.minimum_effect)
        require(found is None, f"A batch of prompts gives other results than the prompts alone: {found}.")


def check_padding(subject: Subject, host: Adapter | None = None) -> None:
    """Padding on the left, on the right, or none: the results are the same."""
    analysis = made(subject)
    source = planted(analysis)
    right = measure(analysis, source, padding_side="right")
    left = measure(analysis, source, padding_side="left")
    found = difference(right, left, CLOSELY, smallest=analysis.minimum_effect)
    require(found is None, f"Padding on the left gives other results than on the right: {found}.")
    longest = int(source.lengths.argmax())
    for prompt in range(len(source.lengths)):
        one, long = part_of(source, prompts=[prompt]), part_of(source, prompts=[prompt, longest])
        alone = _rows(analysis, one)
        padded = _rows(analysis, long)
        for name, values in alone.items():
            found = differing(values[0], padded[name][0], CLOSELY, analysis.minimum_effect)
            require(found is None, f"Beside a longer prompt, the row feature {name!r} of a prompt {found}: "
                    "padding is measured.")  # fmt: skip


def check_merge_order(subject: Subject, host: Adapter | None = None) -> None:
    """Features merge in any order and grouping, and batches can be taken up in any order."""
    analysis = made(subject)
    adapter = PlantedAdapter(planted(analysis))
    rows = adapter.tokens()
    n_batches = -(-len(rows) // 2)
    pieces = observe(analysis, adapter, rows, batch_size=2)
    backwards = [observe(analysis, adapter, rows, order=piece.prompts.tolist())[0] for piece in pieces[::-1]]
    first = attempt("Merging its features", lambda: _merged(pieces))
    orders = [np.random.default_rng(seed).permutation(n_batches) for seed in SEEDS]
    others = [_merged([pieces[i] for i in order]) for order in orders]
    others.append(pieces[0].merge(_merged(pieces[1:])) if len(pieces) > 1 else first)
    others.append(_merged(backwards))
    for other in others:
        found = _features_differ(first, other.sorted())
        require(found is None, f"Its features depend on the order in which batches come: {found}.")
    restored = Features.from_bytes(first.to_bytes())
    found = difference(
        concluded(analysis, adapter, first).data, concluded(analysis, adapter, restored).data, EXACTLY
    )
    require(found is None, f"Features that have been on disk give other results: {found}.")


def check_prompt_order(subject: Subject, host: Adapter | None = None) -> None:
    """Prompts in another order give their rows in that order, and the same means."""
    analysis = made(subject)
    source = planted(analysis)
    order = np.random.default_rng(0).permutation(len(source.lengths))
    data = measure(analysis, source)
    if "prompt" in data.dims:
        data = data.isel(prompt=order)
    permuted = measure(analysis, part_of(source, prompts=order.tolist()))
    found = difference(data, permuted, CLOSELY, smallest=analysis.minimum_effect, without=DEALT)
    require(found is None, f"The order of the prompts matters: {found}.")


def check_signals_unchanged(subject: Subject, host: Adapter | None = None) -> None:
    """What the analysis is given to look at, it leaves as it is."""
    analysis = made(subject)
    source = planted(analysis)
    for part in (source, part_of(source, prompts=[0])):
        adapter = _Watching(part)
        observe(analysis, adapter, adapter.tokens())
        require(not adapter.changed, f"It changes the values of {adapter.changed} in place.")


def check_seed(subject: Subject, host: Adapter | None = None) -> None:
    """The same seed gives the same result; another seed moves intervals and nothing else."""
    analysis = made(subject)
    adapter = PlantedAdapter(planted(analysis))
    features = _merged(observe(analysis, adapter, adapter.tokens()))
    one, again, other = (concluded(analysis, adapter, features, seed=seed) for seed in (0, 0, 1))
    found = difference(one.data, again.data, EXACTLY)
    require(found is None, f"The same seed gives another result the second time: {found}.")
    same = one.summary == again.summary and one.views == again.views and one.ranked == again.ranked
    require(same, "The same seed gives another summary, other views or other targets the second time.")
    found = difference(one.data, other.data, EXACTLY, without=SEEDED)
    require(found is None, f"Another seed moves more than intervals: {found}.")


def check_random_state(subject: Subject, host: Adapter | None = None) -> None:
    """The random state of torch, numpy and Python is the user's, and stays as it was."""
    analysis = made(subject)
    source = planted(analysis)
    before = _random_state()
    measure(analysis, source)
    for (name, one), (_, other) in zip(before, _random_state(), strict=True):
        require(one == other, f"It draws from the random state of {name}, which is the user's; use "
                "a generator of its own, made from the seed.")  # fmt: skip


class _Watching(PlantedAdapter):
    """Looks whether the signals that it hands out come back as they were."""

    changed: str = ""

    def run(self, batch: Batch, wanted: Wanted, receive: Receive) -> None:
        """Hand out signals, and compare them with copies."""

        def watched(signal: Signal) -> None:
            before = signal.values.clone()
            receive(signal)
            if not torch.equal(before, signal.values):
                self.changed = f"{signal.site!r} at layer {signal.layer}"

        super().run(batch, wanted, watched)


def _merged(pieces: Sequence[Features]) -> Features:
    return reduce(Features.merge, pieces).sorted()


def _rows(analysis: Analysis, source: Planted) -> dict[str, Any]:
    adapter = PlantedAdapter(source)
    return dict(observe(analysis, adapter, adapter.tokens())[0].rows)


def _features_differ(one: Features, other: Features) -> str | None:
    if not np.array_equal(one.prompts, other.prompts):
        return "the prompts are not the same"
    for kind in ("rows", "sums", "blocks"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        if set(mine) != set(theirs):
            return f"the {kind} are not the same"
        for name, values in mine.items():
            found = differing(values, theirs[name], MERGING)
            if found:
                return f"{name!r} {found}"
    return None


def _random_state() -> list[tuple[str, Any]]:
    kind, key, *rest = np.random.get_state()
    return [
        ("torch", torch.get_rng_state().tolist()),
        ("numpy", (kind, np.asarray(key).tolist(), rest)),
        ("Python", random.getstate()),
    ]


CHECKS: tuple[Callable[[Subject, Adapter | None], None], ...] = (
    check_planted_input,
    check_plant_is_found,
    check_null_is_not_found,
    check_expectations_discriminate,
    check_batch_of_one,
    check_padding,
    check_merge_order,
    check_prompt_order,
    check_signals_unchanged,
    check_seed,
    check_random_state,
)
