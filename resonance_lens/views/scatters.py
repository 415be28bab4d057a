"""One variable against another over the same places: a metric and an effect, an estimate and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from resonance_lens.errors import unknown
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views.axes import refusal
from resonance_lens.views.content import (
    Content,
    Levels,
    Numbers,
    along,
    beside,
    common,
    in_words,
    long_name,
    select,
    units,
)
from resonance_lens.views.maps import FACETS, MEANINGS
from resonance_lens.views.text import number, words

NAMED = 8
"""How many of the extreme points are named in each panel, besides those that the view names."""

CROSSES = 60
"""Up to this many points each have their cross of intervals; above, only those that are named."""

MOST_CLASSES = 6
"""Most classes that are told apart, by their shapes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cloud:
    """The points of one panel: arrays ``[point]``.

    Attributes
    ----------
    labels
        Of the places, such as ``L3H2``.
    x_low, x_high, y_low, y_high
        Bounds, where the variable has some.
    shade
        From 0 to 1, what points are shaded by, where that is a number.
    group
        Number of the class of each point, where it is a class.
    named
        Indices of the points that are named in the figure.
    """

    title: str
    labels: tuple[str, ...]
    x: Numbers
    y: Numbers
    x_low: Numbers | None = None
    x_high: Numbers | None = None
    y_low: Numbers | None = None
    y_high: Numbers | None = None
    shade: Numbers | None = None
    group: Levels | None = None
    named: tuple[int, ...] = ()

    @property
    def crossed(self) -> tuple[int, ...]:
        """Indices of the points whose intervals are drawn."""
        return tuple(range(len(self.labels))) if len(self.labels) <= CROSSES else self.named


@dataclass(frozen=True, kw_only=True, eq=False)
class Scatter(Content):
    """Points in panels that share their axes.

    Attributes
    ----------
    x_label, y_label, x_units, y_units
        Of the axes; a coordinate may have no units.
    places
        What a point is: ``heads``, ``layers``, ``targets``.
    shades
        Label and ends of what points are shaded by; ``None`` without.
    grouped, classes
        What the classes are called together, and one by one; empty without.
    equal
        Whether the axes are in the same units, so that points above the diagonal are larger upwards.
    """

    x_label: str
    y_label: str
    x_units: str
    y_units: str
    places: str
    shades: tuple[str, float, float] | None = None
    grouped: str = ""
    classes: tuple[str, ...] = ()
    equal: bool = False
    clouds: tuple[Cloud, ...]

    @property
    def bounded(self) -> bool:
        """Whether intervals are drawn."""
        return any(one.x_low is not None or one.y_low is not None for one in self.clouds)

    @property
    def legend(self) -> str:
        """What the points, crosses and the dotted line are."""
        most = max(len(one.labels) for one in self.clouds)
        parts = [f"points: {most} {self.places}"]
        if self.bounded:
            of_whom = "" if most <= CROSSES else " of those named"
            parts.append(f"crosses: 95 % intervals{of_whom}")
        if self.equal:
            parts.append("dotted: as much upwards as to the right")
        return "  \u00b7  ".join(parts)

    def tip(self, cloud: Cloud, i: int) -> str:
        """Return what a point says when it is pointed at."""
        said = [
            f"{label} {_with_bounds(values, low, high, i)}{unit}"
            for label, values, low, high, unit in (
                (self.x_label, cloud.x, cloud.x_low, cloud.x_high, _after(self.x_units)),
                (self.y_label, cloud.y, cloud.y_low, cloud.y_high, _after(self.y_units)),
            )
        ]
        if cloud.group is not None:
            said.append(self.classes[int(cloud.group[i])])
        return f"{cloud.labels[i]}: " + "; ".join(said)


def scatter(view: ViewSpec, result: Result) -> Scatter:
    """Return what a view of kind ``scatter`` shows: the first variable to the right, the second upwards."""
    if len(view.variables) != 2:
        raise refusal(view, result, f"a scatter needs two variables; it names {len(view.variables)}.")
    chosen: dict[str, str] = {}
    across, up = (_places(view, result, name, chosen) for name in view.variables)
    _same_places(view, result, across, up)
    panels = view.panels if view.panels in (*across.dims, *up.dims) else None
    facets = along(panels, up if panels in up.dims else across)
    notes = []
    if len(facets) > FACETS:
        notes.append(f"The first {FACETS} of {len(facets)} values of {words(str(panels))} are shown.")
        facets = facets[:FACETS]
    colour = _colour(view, result, up.isel({panels: 0}) if panels in up.dims else up, chosen)
    clouds = []
    for at, title in facets:
        cloud, left = _cloud(view, result, (across, up), at, title, colour, chosen)
        clouds.append(cloud)
        if left:
            where = f" in {title}" if title else ""
            which = "no value above 0" if "log" in (view.x_scale, view.y_scale) else "no value"
            of = left + len(cloud.labels)
            notes.append(f"{left} of {of} points{where} have {which} on an axis and are left out.")
    if not any(cloud.labels for cloud in clouds):
        raise refusal(view, result, "no place has a value of both variables.")
    x_units, y_units = (_units(result, one) for one in (across, up))
    return Scatter(
        **common(view, result),
        selection=in_words(chosen),
        notes=tuple(notes),
        x_label=long_name(across),
        y_label=long_name(up),
        x_units=x_units,
        y_units=y_units,
        places=_called(up, panels),
        shades=None if colour is None or colour.classes else (colour.label, colour.low, colour.high),
        grouped="" if colour is None or not colour.classes else colour.label,
        classes=() if colour is None else colour.classes,
        equal=x_units == y_units not in ("", "dimensionless"),
        clouds=tuple(clouds),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Colour:
    """What points are coloured by: numbers between two ends, or classes.

    ``values`` are over the places, and over the panels' dimension where they differ by it.
    """

    values: xr.DataArray
    label: str
    low: float = 0.0
    high: float = 1.0
    classes: tuple[str, ...] = ()


def _places(view: ViewSpec, result: Result, name: str, chosen: dict[str, str]) -> xr.DataArray:
    """Return a variable with its places, ``target`` or ``layer`` with ``head``, and the panels alone."""
    keep = ["target", "layer", "head", *([view.panels] if view.panels else [])]
    values, also = select(view, result, name, keep)
    chosen |= also
    left = [str(d) for d in values.dims if d not in keep]
    if left:
        raise refusal(view, result, f"{name!r} needs a selection along {' and '.join(left)}.")
    if not set(values.dims) & {"target", "layer", "head"}:
        raise refusal(view, result, f"{name!r} has no dimension 'target', 'layer' or 'head' for its points.")
    return values


def _same_places(view: ViewSpec, result: Result, across: xr.DataArray, up: xr.DataArray) -> None:
    first, second = ({str(d) for d in one.dims} - {str(view.panels)} for one in (across, up))
    if first != second:
        a, b = (" and ".join(sorted(dims)) for dims in (first, second))
        raise refusal(view, result, f"its variables have other places: {a}, and {b}.")


def _colour(view: ViewSpec, result: Result, up: xr.DataArray, chosen: dict[str, str]) -> _Colour | None:
    """Return what colours the points: ``series`` where the view names one, or else the layer."""
    name = view.series
    if name is None:
        layer = next((each for each in ("target_layer", "layer") if each in up.coords), None)
        if layer is None or layer in view.variables:
            return None
        values = up[layer]
    elif name in result.data.coords:
        values = result.data[name]
    elif name in result.data:
        values = _places(view, result, name, chosen)
    else:
        known = [*map(str, result.data.coords), *map(str, result.data.data_vars)]
        raise refusal(view, result, unknown("variable or coordinate", name, known))
    allowed = {*map(str, up.dims), str(view.panels)}
    if not set(map(str, values.dims)) <= allowed:
        raise refusal(view, result, f"{name!r} does not belong to its places.")
    label = long_name(values)
    classes = tuple(words(one) for one in str(values.attrs.get(MEANINGS, "")).split())
    if classes or values.dtype == bool:
        classes = classes or ("no", "yes")
        if len(classes) > MOST_CLASSES:
            raise refusal(view, result, f"{name!r} has {len(classes)} classes; {MOST_CLASSES} have a shape.")
        numbers = np.asarray(values.values, dtype=np.float64)
        if not np.isin(numbers, np.arange(len(classes))).all():
            raise refusal(view, result, f"{name!r} has values that are none of its {len(classes)} classes.")
        return _Colour(values=values, label=label, classes=classes)
    if not np.issubdtype(values.dtype, np.number):
        texts = [str(text) for text in np.unique(values.values)]
        if len(texts) > MOST_CLASSES:
            raise refusal(view, result, f"{name!r} has {len(texts)} classes; {MOST_CLASSES} have a shape.")
        codes = values.copy(data=np.searchsorted(texts, values.values.astype(str)))
        return _Colour(values=codes, label=label, classes=tuple(map(words, texts)))
    numbers = np.asarray(values.values, dtype=np.float64)
    known_numbers = numbers[np.isfinite(numbers)]
    low, high = float(known_numbers.min(initial=np.inf)), float(known_numbers.max(initial=-np.inf))
    return _Colour(values=values, label=label, low=low, high=high) if low < high else None


def _cloud(
    view: ViewSpec,
    result: Result,
    variables: tuple[xr.DataArray, xr.DataArray],
    at: Mapping[str, int],
    title: str,
    colour: _Colour | None,
    chosen: dict[str, str],
) -> tuple[Cloud, int]:
    """Return the points of one panel that have a value on both axes, and how many have not."""
    across, up = (_at(one, at) for one in variables)
    dims = tuple(str(d) for d in up.dims)

    def flat(values: xr.DataArray) -> Numbers:
        placed = values.broadcast_like(up) if set(values.dims) != set(dims) else values
        return np.asarray(placed.transpose(*dims).values, dtype=np.float64).ravel()

    x, y = flat(across), flat(up)
    known = np.isfinite(x) & np.isfinite(y)
    if view.x_scale == "log":
        known &= x > 0
    if view.y_scale == "log":
        known &= y > 0
    labels = [label for label, has in zip(_labels(up), known, strict=True) if has]
    bounds: dict[str, Numbers] = {}
    for axis, name in zip("xy", view.variables, strict=True):
        if beside(result, name):
            for end in ("low", "high"):
                values = _at(_places(view, result, f"{name}_{end}", chosen), at)
                bounds[f"{axis}_{end}"] = flat(values)[known]
    shade = group = None
    if colour is not None:
        numbers = flat(_at(colour.values, at))[known]
        if colour.classes:
            group = numbers.astype(np.int64)
        else:
            shade = (numbers - colour.low) / (colour.high - colour.low)
    asked = {f"L{layer}H{head}" for layer, head in view.heads}
    cloud = Cloud(
        title=title,
        labels=tuple(labels),
        x=x[known],
        y=y[known],
        x_low=bounds.get("x_low"),
        x_high=bounds.get("x_high"),
        y_low=bounds.get("y_low"),
        y_high=bounds.get("y_high"),
        shade=shade,
        group=group,
        named=_extremes(_placed(x[known], view.x_scale), _placed(y[known], view.y_scale), labels, asked),
    )
    return cloud, int((~known).sum())


def _at(variable: xr.DataArray, at: Mapping[str, int]) -> xr.DataArray:
    cut: xr.DataArray = variable.isel({d: i for d, i in at.items() if d in variable.dims})
    return cut


def _placed(values: Numbers, scale: str) -> Numbers:
    return np.log(values) if scale == "log" else values


def _labels(variable: xr.DataArray) -> list[str]:
    """Return ``L3H2``, or ``L3``, or the target, of each place in the order of the flattened variable."""
    dims = [str(d) for d in variable.dims]
    letters = {"layer": "L", "head": "H"}
    parts = [[f"{letters.get(d, '')}{value}" for value in variable[d].values] for d in dims]
    order = sorted(range(len(dims)), key=lambda i: dims[i] == "head")  # layer before head
    return [
        "".join(parts[i][place[i]] for i in order) for place in np.ndindex(*(len(part) for part in parts))
    ]


def _extremes(x: Numbers, y: Numbers, labels: list[str], asked: set[str]) -> tuple[int, ...]:
    """Return the points to name: those asked for, and those farthest from the middle of all."""
    if not labels:
        return ()
    distance = np.hypot(_standard(x), _standard(y))
    farthest = np.argsort(-distance, kind="stable")[:NAMED].tolist()
    wanted = [i for i, label in enumerate(labels) if label in asked]
    return tuple(dict.fromkeys([*wanted, *farthest]))


def _standard(values: Numbers) -> Numbers:
    """Return how far values are from their median, in units of their spread."""
    away = values - np.median(values)
    spread = float(np.sqrt(np.mean(away**2)))
    standard: Numbers = away / spread if spread > 0 else np.zeros_like(away)
    return standard


def _called(up: xr.DataArray, panels: str | None) -> str:
    dims = {str(d) for d in up.dims} - {str(panels)}
    if "target" in dims:
        return "targets"
    return "heads" if "head" in dims else "layers"


def _with_bounds(values: Numbers, low: Numbers | None, high: Numbers | None, i: int) -> str:
    said = number(float(values[i]))
    if low is None or high is None:
        return said
    return f"{said} [{number(float(low[i]))}, {number(float(high[i]))}]"


def _units(result: Result, variable: xr.DataArray) -> str:
    """Return the units of a variable; a coordinate that states none, such as a layer, has none."""
    counted = variable.name in result.data.coords and not variable.attrs.get("units")
    return "" if counted else units(variable)


def _after(unit: str) -> str:
    return "" if unit in ("", "dimensionless") else f" {unit}"
