"""Checks of what an analysis concludes: labels, intervals, views, targets, summary, files."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from resonance_lens.contract import Analysis, Planted
from resonance_lens.counts import BASELINES
from resonance_lens.errors import ResultError
from resonance_lens.facts import SITE_AXES
from resonance_lens.hooks.adapter import Adapter
from resonance_lens.result import Result, ViewSpec
from resonance_lens.trials import part_of
from resonance_lens.views.build import Shown, build
from resonance_lens.views.figures import draw_content

NOT_A_NUMBER = "not-a-number"
"""A variable that may be it says so in its ``long_name``, and what it then means."""

COUNTED = ("layer", "head", "token", "step")
"""Coordinates that need no units to be read."""

HEAD_VIEWS = ("attention_heads", "colored_tokens")
MANY = 1000


def check_dimensions(subject: Subject, host: Adapter | None = None) -> None:
    """Every dimension has a coordinate, and layers, heads, prompts and categories are the real ones."""
    analysis = made(subject)
    source = planted(analysis)
    # Two layers as if they were others: coordinates are numbers of layers, not indices.
    result = concluded_from(analysis, source, by_category=True)
    data, n_prompts = result.data, len(source.lengths)
    for dim, size in data.sizes.items():
        require(dim in data.coords, f"The dimension {dim!r} has no coordinate.")
        values = data[dim].values.tolist()
        require(len(set(values)) == size, f"The coordinate {dim!r} repeats a value.")
    wanted: dict[str, list[Any]] = {
        "layer": [layer for layer, sites in enumerate(source.layers) if set(analysis.observes) <= set(sites)],
        "head": list(range(source.facts.n_heads)),
        "prompt": [f"prompt-{index:03d}" for index in range(n_prompts)],
        "category": ["all", "even", "odd"],
    }
    for dim, values in wanted.items():
        if dim in data.sizes:
            got = data[dim].values.tolist()
            require(got == values, f"The coordinate {dim!r} is {got}, and what was measured is {values}.")
    dims = data[analysis.headline].dims if analysis.headline in data else ()
    require(
        "category" in dims or "prompt" in dims,
        f"The headline {analysis.headline!r} has neither a category nor a prompt.",
    )


def check_units(subject: Subject, host: Adapter | None = None) -> None:
    """Every variable says what it is and in which units."""
    analysis = made(subject)
    for name, variable in concluded_from(analysis, planted(analysis)).data.items():
        for key in ("long_name", "units"):
            value = variable.attrs.get(key)
            require(isinstance(value, str) and value.strip(), f"The variable {name!r} has no {key}.")


def check_headline(subject: Subject, host: Adapter | None = None) -> None:
    """The headline is a variable of the result, and a reference or an effect stands beside one."""
    analysis = made(subject)
    data = concluded_from(analysis, planted(analysis)).data
    names = ", ".join(sorted(map(str, data.data_vars)))
    require(
        analysis.headline in data.data_vars,
        f"The headline {analysis.headline!r} is not in the result, which has {names}.",
    )
    ends = [f"_{name}" for name in ("effect", "null", *_words(analysis))]
    require(
        any(str(name).endswith(tuple(ends)) for name in data.data_vars),
        f"No variable holds a baseline, a null or an effect: none of {names} ends in {', '.join(ends)}.",
    )


def check_intervals(subject: Subject, host: Adapter | None = None) -> None:
    """Beside ``x_low`` stand ``x`` and ``x_high``, in this order."""
    analysis = made(subject)
    data = concluded_from(analysis, planted(analysis), by_category=True).data
    for name in map(str, data.data_vars):
        end = name[name.rfind("_") :]
        if end not in ("_low", "_high"):
            continue
        base = name.removesuffix(end)
        trio = [base, f"{base}_low", f"{base}_high"]
        missing = [n for n in trio if n not in data]
        require(not missing, f"Beside {name!r} there is no {', '.join(missing)}.")
        value, low, high = (data[n] for n in trio)
        require(low.dims == value.dims == high.dims, f"{base!r} and its bounds have different dimensions.")
        slack = 1e-9 * max(1.0, float(np.nanmax(np.abs(value.values), initial=0.0)))
        for below, above in ((low, value), (value, high)):
            require(
                not bool((below > above + slack).any()),
                f"{below.name!r} is above {above.name!r} in places.",
            )


def check_finite(subject: Subject, host: Adapter | None = None) -> None:
    """On good input every number is finite, but where ``long_name`` says what not-a-number means."""
    analysis = made(subject)
    for source, what in ((planted(analysis), "plant"), (empty(analysis), "null")):
        for name, variable in concluded_from(analysis, source).data.items():
            if variable.dtype.kind not in "fc":
                continue
            values = variable.values
            require(not np.isinf(values).any(), f"{name!r} is infinite in places, on {what}().")
            declared = NOT_A_NUMBER in variable.attrs.get("long_name", "")
            require(
                declared or not np.isnan(values).any(),
                f"{name!r} is not-a-number in places, on {what}(), and its long_name does not say what "
                "that means.",
            )


def check_round_trip(subject: Subject, host: Adapter | None = None) -> None:
    """A result that is saved and loaded is the same: data, views, targets, summary, provenance."""
    analysis = made(subject)
    result = concluded_from(analysis, planted(analysis), by_category=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.nc"
        attempt("Saving the result", lambda: result.save(path))
        loaded: Result = attempt("Loading the result", lambda: Result.load(path))
    found = difference(result.data, loaded.data, EXACTLY)
    require(found is None, f"After saving and loading, {found}.")
    for name in (*result.data.data_vars, *result.data.coords):
        one, other = result.data[name], loaded.data[name]
        same = dict(one.attrs) == dict(other.attrs)
        require(same, f"After saving and loading, {name!r} has other attributes.")
        require(
            one.values.tolist() == other.values.tolist() or one.dtype.kind == "f",
            f"After saving and loading, {name!r} has other values.",
        )
    same = dict(result.data.attrs) == dict(loaded.data.attrs)
    require(same, "After saving and loading, attributes differ.")
    for what in ("views", "ranked", "summary", "name"):
        same = getattr(result, what) == getattr(loaded, what)
        require(same, f"After saving and loading, {what} is not the same.")
    plain = json.loads(json.dumps(dict(result.provenance)))
    require(plain == dict(loaded.provenance), "After saving and loading, provenance is not the same.")


def check_views(subject: Subject, host: Adapter | None = None) -> None:
    """Every view can be drawn from the result, and says what it shows and when it misleads."""
    analysis = made(subject)
    for by_category in (False, True):
        result = concluded_from(analysis, planted(analysis), by_category=by_category)
        for view in result.views:
            content = _check_view(view, result)
            if content is not None and not by_category:
                attempt(f"Drawing the view {view.title!r}", partial(draw_content, content))


def _check_view(view: ViewSpec, result: Result) -> Shown | None:
    """Return what a view shows, unless that needs the exhibits of a run."""
    data = result.data
    for what in ("title", "says", "misleads"):
        require(str(getattr(view, what)).strip(), f"The view {view.title!r} leaves {what!r} empty.")
    named = [*view.variables, *(r for r in view.references if not _of_a_baseline(r, result))]
    missing = [name for name in named if name not in data]
    require(not missing, f"The view {view.title!r} names {', '.join(missing)}, which the result has not.")
    dims = {str(dim) for name in named for dim in data[name].dims}
    for dim in (*view.select, *(dim for dim in (view.series, view.panels) if dim)):
        require(dim in dims, f"The view {view.title!r} speaks of {dim!r}, which none of its variables has.")
    for dim, value in view.select.items():
        known = data[dim].values.tolist()
        chosen = list(value) if isinstance(value, list | tuple) else [value]
        require(
            set(chosen) <= set(known),
            f"The view {view.title!r} selects {dim}={value!r}, which does not exist.",
        )
    # Below the gain of a Bode plot stands a phase, beside which there is nothing.
    beside = [name for name in named if view.kind != "bode" or name not in view.variables[1:]]
    units = {data[name].attrs.get("units") for name in beside}
    require(
        not view.references or len(units) == 1,
        f"The view {view.title!r} puts variables of different units beside each other.",
    )
    if view.limits is not None:
        require(view.limits[0] < view.limits[1], f"The limits of the view {view.title!r} are {view.limits}.")
    facts = result.provenance["model"]
    for layer, head in view.heads:
        exists = 0 <= layer < facts["n_layers"] and 0 <= head < facts["n_heads"]
        require(exists, f"The view {view.title!r} shows L{layer}H{head}, which does not exist.")
    if view.kind in HEAD_VIEWS:
        require(view.heads, f"The view {view.title!r} shows no head.")
        return None
    try:
        shown = build(view, result)
    except ResultError as error:
        raise AssertionError(str(error)) from error
    axes = {"lines": (view.over,), "bode": (view.over,), "image": (view.over, view.down)}
    for dim in axes.get(view.kind, ()):
        require(
            dim in COUNTED or {"long_name", "units"} <= set(data[dim].attrs),
            f"The view {view.title!r} has an axis {dim!r} whose coordinate does not say its long_name and "
            "units.",
        )
    return shown


def check_targets(subject: Subject, host: Adapter | None = None) -> None:
    """Targets exist, are sorted by score, and say what the score is; the plant gives some."""
    analysis = made(subject)
    for source, some in ((planted(analysis), True), (empty(analysis), False)):
        result = concluded_from(analysis, source)
        found = analysis.targets(result, MANY)
        own = type(analysis).targets is not Analysis.targets
        require(found or not (some and own), "On plant() it names no target.")
        for target in found:
            require(target.site in SITE_AXES, f"A target is at {target.site!r}, which is no site.")
            exists = 0 <= target.layer < source.facts.n_layers
            exists &= target.head is None or 0 <= target.head < source.facts.n_heads
            require(exists, f"The target {target.label} does not exist.")
            require(np.isfinite(target.score), f"The score of the target {target.label} is {target.score}.")
            require(target.reason.strip(), f"The target {target.label} does not say what its score is.")
        scores = [target.score for target in found]
        require(scores == sorted(scores, reverse=True), "Targets are not sorted by score, highest first.")
        places = [(t.site, t.layer, t.head) for t in found]
        require(len(set(places)) == len(places), "A target is named twice.")
        require(analysis.targets(result, 1) == found[:1], "The best target is not the first of many.")


def check_summary(subject: Subject, host: Adapter | None = None) -> None:
    """The summary is a sentence with numbers that exist."""
    analysis = made(subject)
    sources: tuple[tuple[str, Planted], ...] = (
        ("plant()", planted(analysis)),
        ("null()", empty(analysis)),
        ("one prompt", part_of(planted(analysis), prompts=[0])),
    )
    for what, source in sources:
        summary = concluded_from(analysis, source).summary
        require(summary.strip(), f"On {what} the summary is empty.")
        require(summary.rstrip().endswith("."), f"On {what} the summary is not a sentence: {summary}")
        odd = re.search(r"\b(nan|inf|None)\b", summary)
        require(not odd, f"On {what} the summary speaks of a number that does not exist: {summary}")


def _of_a_baseline(reference: str, result: Result) -> bool:
    """Return whether a reference stands for a baseline that was not run, and is left out of the view."""
    made = result.provenance["conditions"]
    return any(reference.endswith(f"_{baseline}") for baseline in BASELINES if baseline not in made)


def _words(analysis: Analysis) -> list[str]:
    """Return the first words of the baselines and nulls, by which variables are named."""
    return [name.split("_")[0] for name in (*analysis.baselines, *analysis.nulls)]


CHECKS: tuple[Callable[[Subject, Adapter | None], None], ...] = (
    check_dimensions,
    check_units,
    check_headline,
    check_intervals,
    check_finite,
    check_round_trip,
    check_views,
    check_targets,
    check_summary,
)
