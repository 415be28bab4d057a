"""Lines over an ordered dimension, with their intervals and with the baselines and nulls beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from resonance_lens.counts import SAID, claims_of
from resonance_lens.errors import ResultError, unknown
from resonance_lens.methods import bounds_over
from resonance_lens.result import Result, ViewSpec
from resonance_lens.stats.inference import infer
from resonance_lens.stats.intervals import unit_interval
from resonance_lens.stats.samples import Sample
from resonance_lens.stats.streams import stream
from resonance_lens.views.axes import axis_label, left_out, period_label, refusal
from resonance_lens.views.content import (
    Levels,
    Line,
    Lines,
    Marking,
    Numbers,
    Panel,
    Role,
    along,
    array,
    beside,
    common,
    in_words,
    long_name,
    lookup,
    select,
    units,
)
from resonance_lens.views.decibels import in_decibels
from resonance_lens.views.marks import BASELINES, claim_of, levels, marking, of_line, refused
from resonance_lens.views.means import mean_over_heads, share_of_mean
from resonance_lens.views.text import plural, words

SEPARATE_REFERENCES = 3
"""Up to this many series each has its own reference line; above, the references become one band."""

POINTS = 16
"""Up to this many heads are drawn as points; above, as the range that holds the middle 80 %."""

MOST_NAMED = 8
"""Up to this many series are told apart by name; more are shaded, where their coordinates are numbers."""

MOST_SPREADS = 2
"""Up to this many series show their single heads; above, only the means."""


@dataclass
class _Drawing:
    """A view being made: what it has chosen, what it has to say, and which levels its lines have."""

    view: ViewSpec
    result: Result
    chosen: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)

    def error(self, problem: str) -> ResultError:
        return refusal(self.view, self.result, problem)


def lines(view: ViewSpec, result: Result) -> Lines:
    """Return what a view of kind ``lines`` shows: panels for its variables, or along a dimension."""
    if not view.variables:
        raise ResultError(f"The view {view.title!r} of {result.name} names no variable.")
    drawing = _Drawing(view, result)
    if view.y_scale == "log" and view.limits is not None and view.limits[0] <= 0:
        raise drawing.error(f"its limits begin at {view.limits[0]:g}, and its vertical axis is logarithmic.")
    if view.decibels and view.y_scale == "log":
        raise drawing.error("decibels are logarithms already, and its vertical axis is logarithmic.")
    if view.slopes and (view.x_scale, view.y_scale) != ("log", "log"):
        raise drawing.error("slopes are those of powers, and its axes are not both logarithmic.")
    panels = []
    for name in view.variables:
        references = [r for r in view.references if belongs(r, name, view.variables)]
        variable = lookup(view, result, name)
        for at, title in along(view.panels, variable):
            panels.append(_panel(drawing, name, references, at, title))
    if view.decibels:
        panels = [in_decibels(panel) for panel in panels]
    every = [line for panel in panels for line in panel.lines]
    first = lookup(view, result, view.variables[0])
    return Lines(
        **common(view, result),
        selection=in_words(drawing.chosen),
        x_label=axis_label(first, view.over),
        periods=period_label(first, view.over),
        shades=_shades(first, view.series),
        series="" if view.series is None else words(view.series),
        band=_band(panels, result),
        panels=tuple(panels),
        marking=_marking(drawing, every),
        notes=tuple(drawing.notes),
    )


def belongs(reference: str, name: str, variables: Sequence[str]) -> bool:
    """Whether a reference belongs to a variable: the longest one it begins with, else the first.

    Examples
    --------
    >>> belongs("coherence_squared_null", "coherence_squared", ["coherence", "coherence_squared"])
    True
    """
    owners = [v for v in variables if reference.startswith(f"{v}_")]
    return name == (max(owners, key=len) if owners else variables[0])


def role(reference: str) -> Role:
    """Return which baseline or null a reference is, by the end of its name.

    Examples
    --------
    >>> role("consistency_null"), role("coherence_random_weights"), role("coherence_uniform")
    ('null', 'random_weights', 'baseline')
    """
    if reference.endswith("_null"):
        return "null"
    if reference.endswith("_random_weights"):
        return "random_weights"
    return "shuffled_tokens" if reference.endswith("_shuffled_tokens") else "baseline"


def _band(panels: Sequence[Panel], result: Result) -> str:
    """Return what the points and bands of a figure are."""
    every = [line for panel in panels for line in panel.lines]
    plain = max(sum(not line.reference for line in panel.lines) for panel in panels)
    spread = [line.points for line in every if line.points is not None and not line.reference]
    said = []
    if spread and plain <= MOST_SPREADS:
        n_heads = spread[0].shape[1]
        said.append("points: single heads" if n_heads <= POINTS else "pale: middle 80 % of heads")
    banded = [line for line in every if line.low is not None]
    if any(not line.reference for line in banded):
        over = {bounds_over(result, line.name) for line in banded if not line.reference}
        of = " of the mean over heads" if spread else ""
        said.append(f"shaded: 95 % interval over {' or '.join(sorted(over))}{of}")
    if any(line.role == "null" and not line.ranged for line in banded):
        said.append("grey band: where 95 % of such means lie under the null")
    if any(line.ranged for line in every):
        along = next(line.ranged for line in every if line.ranged)
        said.append(f"grey lines: mean and range over {along}")
    return ", ".join(said)


def _marking(drawing: _Drawing, every: Sequence[Line]) -> Marking | None:
    marked = [line.levels for line in every if line.levels is not None]
    if not marked:
        return None
    claim = claim_of(drawing.view, drawing.result)
    return marking(drawing.result, claim, np.concatenate(marked))


def _panel(
    drawing: _Drawing, name: str, references: Sequence[str], at: Mapping[str, int], title: str
) -> Panel:
    view, result = drawing.view, drawing.result
    variable = lookup(view, result, name)
    series = _series(view, variable)
    shown: list[Line] = []
    uprights: list[tuple[str, float]] = []
    for reference in references:
        if role(reference) in BASELINES and reference not in result.data:
            drawing.note(_missing(result, role(reference)))
            continue
        if view.over not in lookup(view, result, reference).dims:
            uprights += _upright(drawing, reference, at)
            continue
        short = _short(result, reference, name)
        shown += _reference(drawing, reference, len(series), at, short)
    for i, label in enumerate(series or [long_name(variable)]):
        place = {**at, **({str(view.series): i} if series else {})}
        short = label if series else SAID["plain"]
        # Along panels, a coordinate keeps the colour that it has as a series.
        colour = i if series else next(iter(at.values()), 0)
        line = _line(drawing, name, label=label, short=short, colour=colour, at=place)
        shades = _shades(variable, view.series)
        if shades is not None:
            _, low, high = shades
            share = (float(variable[view.series].values[i]) - low) / (high - low)
            line = replace(line, shade=share)
            if line.low is not None and 0 < share < 1:
                drawing.note(f"Intervals are drawn of the first and the last of {len(series)} lines.")
                line = replace(line, low=None, high=None)
        shown.append(line)
    averaged = any(line.points is not None for line in shown)
    lowest = min(float(np.nanmin(line.y, initial=0.0)) for line in shown)
    return Panel(
        title=title,
        label=long_name(variable) + (", mean over heads" if averaged else ""),
        units=units(variable),
        lines=tuple(shown),
        zero=lowest < 0 or name.endswith("_effect"),
        uprights=tuple(uprights),
    )


def _upright(drawing: _Drawing, name: str, at: Mapping[str, int]) -> list[tuple[str, float]]:
    """Return the place on the horizontal axis that a reference without that axis is; none without a value."""
    variable, _ = select(drawing.view, drawing.result, name, tuple(at))
    value = variable.isel({d: i for d, i in at.items() if d in variable.dims})
    if value.ndim:
        left = ", ".join(map(str, value.dims))
        raise drawing.error(
            f"the reference {name!r} needs {drawing.view.over!r}, or a selection along {left}."
        )
    return [(long_name(variable), float(value))] if np.isfinite(float(value)) else []


def _shades(variable: xr.DataArray, series: str | None) -> tuple[str, float, float] | None:
    """Return label and ends of what many lines are shaded by: a series whose coordinates are numbers."""
    if series is None or series not in variable.dims or variable.sizes[series] <= MOST_NAMED:
        return None
    values = variable[series].values
    if not np.issubdtype(values.dtype, np.number) or values.min() == values.max():
        return None
    return axis_label(variable, series), float(values.min()), float(values.max())


def _missing(result: Result, condition: str) -> str:
    why = (result.provenance.get("baselines_missing") or {}).get(condition, "it was not run.")
    return f"Without {SAID[condition]}: {why}"


def _short(result: Result, reference: str, name: str) -> str:
    """Return what a reference is called beside the end of its line."""
    kind = role(reference)
    if kind in BASELINES:
        return SAID[kind].removeprefix("the ")
    claims = {f"{claim['variable']}_null": words(claim["null"]) for claim in claims_of(result)}
    if reference in claims:
        return f"null: {claims[reference]}"
    return words(reference.removeprefix(f"{name}_"))


def _series(view: ViewSpec, variable: xr.DataArray) -> list[str]:
    """Return the coordinates that become separate lines; none where there is no such dimension."""
    if view.series is None or view.series not in variable.dims:
        return []
    return [str(value) for value in variable[view.series].values]


def _line(
    drawing: _Drawing,
    name: str,
    *,
    label: str,
    short: str,
    colour: int | None,
    at: Mapping[str, int],
    kind: Role = "value",
) -> Line:
    view, result, over = drawing.view, drawing.result, drawing.view.over
    keep = [over, "head", *(d for d in (view.series, view.panels) if d)]

    def one(variable_name: str) -> tuple[xr.DataArray, dict[str, str]]:
        variable, chosen = select(view, result, variable_name, keep)
        return variable.isel({d: i for d, i in at.items() if d in variable.dims}), chosen

    variable, chosen = one(name)
    left = [str(d) for d in variable.dims if d not in (over, "head")]
    if left or over not in variable.dims:
        missing = over not in variable.dims
        lacking = f"the dimension {over!r}" if missing else f"a selection along {', '.join(left)}"
        raise drawing.error(f"{name!r} needs {lacking}.")
    x = variable[over].values
    if not np.issubdtype(x.dtype, np.number):
        raise drawing.error(f"lines need numbers along {over!r}; its coordinates are {x.dtype.name}.")
    line = Line(
        name=name, label=label, short=short, x=np.asarray(x, dtype=np.float64), y=np.empty(0),
        colour=colour, role=kind,
    )  # fmt: skip
    if kind == "value":
        drawing.chosen |= chosen
    if "head" in variable.dims:
        points = array(variable, over, "head")
        y = mean_over_heads(points, cyclic=view.colours == "cyclic")
        low, high = _bounds_of_mean(drawing, name, points, chosen, at, kind)
        return _on_scales(drawing, replace(line, y=y, points=points, low=low, high=high))
    line = replace(line, y=array(variable, over), levels=_levels(drawing, name, chosen, at, kind))
    if beside(result, name):
        low, high = (array(one(f"{name}_{end}")[0], over) for end in ("low", "high"))
        line = replace(line, low=low, high=high)
    return _on_scales(drawing, line)


def _on_scales(drawing: _Drawing, line: Line) -> Line:
    """Return a line without what its axes have no place for, and say what that is."""
    view = drawing.view
    if not np.isfinite(line.y).all():
        drawing.note(f"{plural(words(view.over)).capitalize()} without a value are left open.")
    if view.y_scale == "log":
        if (line.y <= 0).any():
            drawing.note("Values that are not above 0 have no place on a logarithmic axis and are left open.")
        line = replace(line, y=np.where(line.y > 0, line.y, np.nan))
    if view.x_scale == "linear":
        return line
    keep = line.x > 0
    if not keep.any():
        raise drawing.error(f"nothing along {view.over!r} is above 0, for a logarithmic axis.")
    drawing.note(left_out(words(view.over), line.x[~keep]))
    parts = ("x", "y", "low", "high", "points", "levels")
    known = {part: getattr(line, part) for part in parts}
    return replace(line, **{part: value[keep] for part, value in known.items() if value is not None})


def _levels(
    drawing: _Drawing, name: str, chosen: Mapping[str, str], at: Mapping[str, int], kind: Role
) -> Levels | None:
    """Return what the view's claim found at the points of a line that shows its value or effect."""
    view, result = drawing.view, drawing.result
    if view.claim is None or kind != "value" or name not in (view.claim, f"{view.claim}_effect"):
        return None
    claim = claim_of(view, result)
    place = dict(chosen)
    for dimension, i in at.items():
        if dimension in result.data.dims:
            place[dimension] = str(result.data[dimension].values[i])
    drawing.note(refused(result, claim, place))
    return of_line(levels(result, claim, chosen), view.over, at)


def _bounds_of_mean(
    drawing: _Drawing,
    name: str,
    points: Numbers,
    chosen: Mapping[str, str],
    at: Mapping[str, int],
    kind: Role,
) -> tuple[Numbers | None, Numbers | None]:
    """Return the band around a mean over heads: of a value its interval, of a null where means lie.

    Neither is the mean of the heads' own bands, which share their prompts and partly cancel. Both are
    made from the rows of single prompts (or groups of them) where the result keeps these.
    """
    view, result = drawing.view, drawing.result
    if view.colours == "cyclic" or kind not in ("value", "null"):
        return None, None
    rows_of = f"{name.removesuffix('_null')}_effect" if kind == "null" else name
    unit = next((unit for unit in ("prompt", "group") if f"{rows_of}_{unit}" in result.data), None)
    whole = chosen.get("category", "all") == "all" and "category" not in at
    if unit is None or not whole:
        if kind == "null" or beside(result, name):
            kept = "values of single prompts were" if unit is None else "category of each prompt was"
            drawing.note(
                f"The mean over heads of {long_name(result.data[name])} has no band here: the {kept} not "
                "kept, and the mean of the heads' own bands is not the band of their mean."
            )
        return None, None
    rows = result.data[f"{rows_of}_{unit}"]
    for dimension, value in chosen.items():
        if dimension in rows.dims:
            rows = rows.isel({dimension: [str(v) for v in rows[dimension].values].index(value)})
    rows = rows.isel({d: i for d, i in at.items() if d in rows.dims})
    shares = share_of_mean(array(rows, unit, view.over, "head"))
    rng = stream(int(result.provenance.get("seed", 0)), "views", result.name, rows_of)
    if kind == "null":
        tested = infer(Sample(shares, np.zeros_like(shares), "prompt"), (0,), rng)
        centre = mean_over_heads(points)
        return centre + tested.null_low, centre + tested.null_high
    _, low, high = unit_interval(shares, unit, rng)
    return low, high


def _reference(drawing: _Drawing, name: str, n_series: int, at: Mapping[str, int], short: str) -> list[Line]:
    """Return the lines of a baseline or null: one if all series share it, else each or a band."""
    view = drawing.view
    variable = lookup(view, drawing.result, name)
    series = _series(view, variable)
    label = long_name(variable)
    for dimension, value in view.reference_select.items():
        if dimension not in variable.dims:
            continue
        known = [str(one) for one in variable[dimension].values]
        if str(value) not in known:
            raise drawing.error(unknown(words(dimension), str(value), known))
        at = {**at, dimension: known.index(str(value))}
        label, short = (f"{said}, {words(dimension)} {value}" for said in (label, short))
        series = [] if dimension == view.series else series
    each = [
        _line(
            drawing,
            name,
            label=f"{label}, {value}" if value else label,
            short=f"{short}, {value}" if value else short,
            colour=i if series else None,
            at={**at, **({str(view.series): i} if series else {})},
            kind=role(name),
        )
        for i, value in enumerate(series or [""])
    ]
    first = each[0]
    same = all(np.allclose(line.y, first.y, equal_nan=True, atol=1e-9) for line in each)
    if not same and n_series <= SEPARATE_REFERENCES:
        return each
    shared = replace(first, label=label, short=short, colour=None)
    if same:
        return [shared]
    ys = np.stack([line.y for line in each])
    lows = np.stack([line.y if line.low is None else line.low for line in each])
    highs = np.stack([line.y if line.high is None else line.high for line in each])
    return [
        replace(
            shared,
            label=f"{label} (range over {words(str(view.series))})",
            ranged=words(str(view.series)),
            y=ys.mean(axis=0),
            low=lows.min(axis=0),
            high=highs.max(axis=0),
            points=None,
        )
    ]
