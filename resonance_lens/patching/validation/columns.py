"""Effects of several sweeps, place by place, beside what was measured of the same places on other prompts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from resonance_lens.errors import ResultError
from resonance_lens.result import Result
from resonance_lens.stats.inference import LEVEL

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Kind = Literal["heads", "layers"]

FEWEST_TASKS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """The effects of one operation of one sweep.

    Attributes
    ----------
    label
        Unique among the columns: the task, with what else tells it apart.
    task, operation, site, direction, metric, units
        Of the sweep.
    rows
        ``[pair, place]``: metric minus that of the unpatched run.
    scale
        The distance between the metric of clean and corrupted prompts, of which effects are a share.
    matters
        ``[place]``: whether the effect counts, and surely exceeds the placebo's (Benjamini-Hochberg).
    """

    label: str
    task: str
    operation: str
    site: str
    direction: str
    metric: str
    units: str
    rows: Floats
    scale: float
    matters: Booleans

    @property
    def mean(self) -> Floats:
        """The effects ``[place]``."""
        return np.asarray(self.rows.mean(axis=0))

    def at(self, keep: Booleans) -> Column:
        """Return the effects of some of the places."""
        return replace(self, rows=self.rows[:, keep], matters=self.matters[keep])


def read_columns(result: Result, effects: Sequence[Result], smallest: float) -> tuple[Kind, list[Column]]:
    """Return what kind of places was patched, and the effects.

    Parameters
    ----------
    result
        What they are held against.
    effects
        Of `resonance_lens.patch`.
    smallest
        The share of the scale above which an effect counts.

    Raises
    ------
    ResultError
        If they are no sweeps over all heads or all layers, of one model and at least two tasks, on other
        prompts than the result's: which, and what to do.
    """
    for index, each in enumerate(effects):
        if not isinstance(each, Result) or each.name != "patch":
            raise ResultError(f"Item {index} of effects is no result of rl.patch; give a list of those.")
        require_same_model(result.provenance, each)
        require_other_rows(f"the result {result.name!r}", result.provenance.get("prompts"), each)
    tasks = sorted({task_of(each) for each in effects})
    if len(tasks) < FEWEST_TASKS:
        of = f"one task ({tasks[0]})" if tasks else "no task"
        raise ResultError(
            f"The effects are of {of}; validate needs at least {FEWEST_TASKS}, for one may be luck."
        )
    kinds = {_kind(each) for each in effects}
    if len(kinds) > 1:
        raise ResultError("Some effects are of heads and some of layers; validate the two apart.")
    found = [column for each in effects for column in _columns(each, smallest)]
    telling = [name for name in ("operation", "site") if len({getattr(one, name) for one in found}) > 1]
    labelled = [
        replace(one, label=", ".join([one.task, *(getattr(one, name) for name in telling)])) for one in found
    ]
    names = [one.label for one in labelled]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ResultError(f"Two of the effects are of {twice}; give each once.")
    return kinds.pop(), labelled


def task_of(effect: Result) -> str:
    """Return the name of the task that effects are measured on."""
    return str(effect.provenance["task"]["name"])


def require_same_model(provenance: Mapping[str, Any], effect: Result) -> None:
    """Raise `ResultError` if effects are of another model."""
    ours, theirs = provenance.get("weights_fingerprint"), effect.provenance.get("weights_fingerprint")
    named = [str(p.get("model", {}).get("model_name")) for p in (provenance, effect.provenance)]
    differ = ours != theirs if ours and theirs else named[0] != named[1]
    if differ:
        other = named[1] if named[0] != named[1] else "other weights of it"
        raise ResultError(
            f"The result is of {named[0]} and the effects on {task_of(effect)!r} are of {other}; "
            "patch the model that was measured."
        )


def require_other_rows(what: str, prompts: Any, effect: Result) -> None:
    """Raise `ResultError` if effects share a prompt with what they are held against."""
    measured, patched = dict(prompts or {}), dict(effect.provenance.get("prompts") or {})
    shared = set(measured.get("rows") or ()) & set(patched.get("rows") or ())
    same = bool(measured.get("digest")) and measured.get("digest") == patched.get("digest")
    if shared or same:
        how_many = "the same prompts" if same else f"{len(shared)} of the same prompts"
        raise ResultError(
            f"The effects on {task_of(effect)!r} come from {how_many} as {what}; measure one of "
            "the two on others, so that a peculiarity of the prompts cannot pass for a prediction."
        )


def _kind(effect: Result) -> Kind:
    """Return what was patched, all of it."""
    data, model, task = effect.data, effect.provenance["model"], task_of(effect)
    heads = data.target_head.values
    kind: Kind = "layers" if (heads < 0).all() else "heads"
    n_layers, n_heads = int(model["n_layers"]), int(model["n_heads"])
    expected = {(layer, head) for layer in range(n_layers) for head in range(n_heads)}
    if kind == "layers":
        expected = {(layer, -1) for layer in range(n_layers)}
    for site in _sites(data):
        at = data.site.values.astype(str) == site
        places = list(zip(data.target_layer.values[at].tolist(), heads[at].tolist(), strict=True))
        whole = set(data.position.values[at].astype(str)) == {"all"} if "position" in data.coords else True
        if set(places) != expected or len(places) != len(expected) or not whole:
            raise ResultError(
                f"The effects on {task!r} are of {len(places)} places at {site}; patch all {len(expected)} "
                f"{kind}, at all tokens (targets='{kind}'), or what was left out stays unseen."
            )
    return kind


def _false_discovery(p: Floats) -> Floats:
    """Return q by Benjamini and Hochberg; 1 where there was no test.

    Which places matter is a set, of which some may be wrong. The q of the sweep, by the largest of all
    places, names those of which none may be, and leaves next to nothing to tell from the rest.
    """
    q = np.ones(p.shape)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def _sites(data: xr.Dataset) -> list[str]:
    return list(dict.fromkeys(data.site.values.astype(str).tolist()))


def _columns(effect: Result, smallest: float) -> list[Column]:
    data, about = effect.data, effect.provenance
    scale = abs(float(data.metric_clean.mean() - data.metric_corrupted.mean()))
    made = []
    for operation, site in itertools.product(data.operation.values.astype(str).tolist(), _sites(data)):
        here = data.sel(operation=operation).isel(target=np.flatnonzero(data.site.values.astype(str) == site))
        order = np.lexsort((here.target_head.values, here.target_layer.values))
        here = here.isel(target=order)
        rows = (here.metric - here.metric_base).transpose("pair", "target").values.astype(np.float64)
        beyond = here.effect_beyond.values
        matters = (
            (_false_discovery(here.effect_beyond_p.values) <= LEVEL)
            & (np.sign(beyond) == np.sign(here.effect.values))
            & (np.abs(here.effect.values) >= smallest * scale)
        )
        made.append(
            Column(
                label="",
                task=task_of(effect),
                operation=operation,
                site=site,
                direction=str(about["parameters"]["direction"]),
                metric=str(about["patch"]["metric"]),
                units=str(data.metric.attrs["units"]),
                rows=rows,
                scale=scale,
                matters=matters,
            )
        )
    return made
