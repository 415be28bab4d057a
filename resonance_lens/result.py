"""A result: labelled numbers with their provenance, and what to draw and patch, all as data.

A result read back from disk is complete without the analysis that made it: its summary, views
and targets were written down when it was concluded. Reading one runs no code.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from resonance_lens.errors import ResultError
from resonance_lens.files import write_netcdf

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from resonance_lens.views.notebook import NotebookView

ViewKind = Literal[
    "layer_head_map",
    "lines",
    "bode",
    "matrix",
    "image",
    "oscilloscope",
    "network",
    "scatter",
    "token_values",
    "attention_heads",
    "colored_tokens",
]
Colours = Literal["sequential", "diverging", "cyclic"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place worth patching.

    Attributes
    ----------
    site, layer, head
        Where; ``head`` is ``None`` for a whole layer.
    score
        The number that ranks it, higher first.
    reason
        One phrase that says what the number is.
    positions
        Which tokens, from 0, or from -1 for the last one on; ``None`` for all.
    """

    site: str
    layer: int
    head: int | None = None
    score: float
    reason: str
    positions: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """``L3H2`` for a head, ``L3`` for a layer."""
        return f"L{self.layer}" + ("" if self.head is None else f"H{self.head}")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """Something to draw, as data.

    Attributes
    ----------
    kind
        ``layer_head_map``: one variable with dimensions ``layer`` and ``head``. Where its attribute
        ``flag_meanings`` names classes, as the CF conventions do, its values 0, 1, 2, ... are drawn as these.
        ``lines``: variables over the dimension ``over``; bounds ``x_low`` and ``x_high`` become a band, and
        variables named in ``references`` become the baselines and nulls beside them, a null with its band.
        A reference without ``over`` is a place on that axis, and stands upright.
        More than eight series whose coordinates are numbers are shaded by these, and the first and last of
        them keep their band.
        ``bode``: a gain over frequencies, and below it its phase in radians where a second variable is
        named; otherwise as ``lines``. The gain is drawn in decibels.
        ``matrix``: one variable with two dimensions.
        ``image``: one variable over two dimensions whose coordinates are numbers, ``over`` to the right and
        ``down`` upwards: layer by frequency, scale by token. A reference over ``over`` alone is drawn as
        points at its height.
        ``oscilloscope``: one variable over ``over`` (tokens) for the two coordinates of ``series``: both
        traces, and the second against the first (a Lissajous figure). Or two variables, of which the second
        has the dimension ``series``: the figure that it draws against the first at each coordinate, beside
        each other; in a page one at a time, with a beam that can be set going.
        ``network``: one variable over ``head_a`` and ``head_b``, labelled ``L3H2``: its strongest pairs, by
        size, as arcs between heads that stand at their layer; a second variable over ``head_a`` numbers the
        communities of the heads, below 0 for none.
        ``scatter``: two variables over the same places, ``target`` or ``layer`` and ``head``: the first to
        the right, the second upwards, with a cross where ``x_low`` and ``x_high`` stand beside them. Points
        are coloured by the variable or coordinate that ``series`` names: a number, classes, or yes and no;
        by their layer where it names none. The extreme points, and ``heads``, are named.
        ``token_values``: variables over ``token``, and a track for each, or for each coordinate of
        ``series``, on the text of one prompt: the dataset has its tokens in the coordinate ``token_text``
        along ``token``. Tracks in one unit share their colours. CircuitsVis, but for angles, which it has no
        colours for; with a static twin.
        ``attention_heads``, ``colored_tokens``: CircuitsVis on the run's exhibits, for ``heads``.
    title, says, misleads
        What it is; one sentence on what it shows; one on when it misleads.
    variables
        Names in the result's dataset; their ``long_name`` and ``units`` label the axes.
    references
        Variables that hold a baseline or null; each belongs to the variable that its name begins with.
        ``x_random_weights`` and ``x_shuffled_tokens`` may be named whether or not their passes were made.
    reference_select
        Values at which references are taken where they are not each at the place of what it belongs to, such
        as ``{"layer": 29}``.
    select
        Values to select along other dimensions, such as ``{"category": "all"}``; a list of values keeps
        the dimension, and of it these.
    over
        For ``lines``: the horizontal axis, a dimension whose coordinates are numbers; their attributes
        ``long_name`` and ``units`` label it.
    down
        For ``image``: the vertical axis.
    series, panels
        For ``lines``: a dimension whose coordinates become separate lines, and one whose coordinates
        become panels side by side; for ``image`` and ``scatter`` the panels too, for ``oscilloscope`` the
        series.
    x_scale, y_scale
        For ``lines`` and ``scatter``: ``log`` where powers of ten are as far apart as each other; for
        ``image`` the axis ``over`` and the axis ``down``. An axis of frequencies always has periods in tokens
        beside it.
    decibels
        For ``lines``, ``image`` and maps: whether values are ratios of sizes (a gain) that are drawn as
        20 times their logarithm. Always so for the gain of ``bode``.
    slopes
        For ``lines`` on two logarithmic axes: powers of what is to the right, drawn as guides.
    pairs
        For ``network``: how many of the strongest pairs are drawn.
    stems
        For ``lines``: whether values stand on stems, as in a spectrum of a few frequencies.
    claim
        Variable of the claim whose findings are marked in a map of heads, or on lines over the places of
        the claim: where q is at most 0.05, and where the effect surely exceeds what counts.
    colours, limits
        Colour map family, and the range of the colours, or of the vertical axis of lines, where it is
        not that of the data.
    heads
        ``(layer, head)`` pairs to show.
    """

    kind: ViewKind
    title: str
    says: str
    misleads: str
    variables: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    reference_select: Mapping[str, Any] = field(default_factory=dict)
    select: Mapping[str, Any] = field(default_factory=dict)
    over: str = "layer"
    down: str = "layer"
    series: str | None = None
    panels: str | None = None
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    decibels: bool = False
    slopes: tuple[float, ...] = ()
    pairs: int = 60
    stems: bool = False
    claim: str | None = None
    colours: Colours = "sequential"
    limits: tuple[float, float] | None = None
    heads: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Result:
    """What one analysis found.

    Attributes
    ----------
    name
        Of the analysis.
    data
        Dataset with named dimensions and real coordinates. Beside a variable ``x`` stand, where they
        apply, ``x_low`` and ``x_high`` (interval over prompts), ``x_<baseline>``, and for what is claimed
        ``x_null``, ``x_effect``, ``x_effect_size``, ``x_p``, ``x_q``: see `resonance_lens.contract.Claim`.
    provenance
        Model, host, versions, prompts, parameters, seed, evidence, baselines, nulls, device, time.
    summary
        A few sentences: what was found.
    methods
        A few more: against which nulls and baselines, over how many prompts, in which families.
    views
        What to draw.
    ranked
        Places worth patching, best first.
    exhibits
        The attention patterns of the run that it comes from (see `Run`), or ``None``; they are saved
        with the run, not with the result.
    """

    name: str
    data: xr.Dataset
    provenance: Mapping[str, Any]
    summary: str = ""
    methods: str = ""
    views: tuple[ViewSpec, ...] = ()
    ranked: tuple[Target, ...] = ()
    exhibits: xr.Dataset | None = None

    def targets(self, k: int = 5) -> list[Target]:
        """Return the ``k`` places most worth patching, best first."""
        return list(self.ranked[:k])

    def to_dataframe(self, variable: str | None = None) -> pd.DataFrame:
        """Return one variable as a long table, or all variables that share the headline's dimensions.

        Raises
        ------
        ResultError
            If there is no such variable; the message lists those there are.
        """
        name = variable or str(self.provenance["headline"])
        if name not in self.data:
            known = ", ".join(sorted(map(str, self.data.data_vars)))
            raise ResultError(f"The result {self.name!r} has no variable {name!r}. It has: {known}.")
        dims = self.data[name].dims
        names = [name] if variable else [v for v in self.data if self.data[v].dims == dims]
        return self.data[names].to_dataframe().reset_index()

    def plot(self) -> Figure:
        """Return a matplotlib figure with every static view of this result."""
        from resonance_lens.views.figures import draw_result

        return draw_result(self)

    def view(self, *, height: int = 720) -> NotebookView:
        """Return every view of this result for a notebook, the CircuitsVis ones included.

        ``height`` is that of the frame in pixels; ``.save(path)`` writes the same as a file.
        """
        from resonance_lens.views.notebook import show

        return show(self, height=height)

    def save(self, path: str | Path) -> None:
        """Write the result as one netCDF file; what stood there is replaced only once it is whole."""
        stored = self.data.assign_attrs(resonance_lens=json.dumps(self._described()))
        write_netcdf(Path(path), stored)

    @staticmethod
    def load(path: str | Path) -> Result:
        """Read a result that :meth:`save` wrote.

        Raises
        ------
        ResultError
            If the file is missing, damaged, or not one of ours.
        """
        path = Path(path)
        if not path.exists():
            raise ResultError(f"There is no result at {path}.")
        try:
            with xr.open_dataset(path, engine="h5netcdf") as file:
                data = file.load()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ResultError(f"{path} cannot be read as netCDF: {error}.") from error
        if "resonance_lens" not in data.attrs:
            raise ResultError(f"{path} is a netCDF file, but resonance_lens did not write it.")
        try:
            return Result._described_by(json.loads(data.attrs.pop("resonance_lens")), data)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path} cannot be read: its description is damaged ({error}).") from error

    @staticmethod
    def _described_by(about: Mapping[str, Any], data: xr.Dataset) -> Result:
        views = [
            ViewSpec(
                **{
                    **view,
                    "variables": tuple(view["variables"]),
                    "references": tuple(view["references"]),
                    "slopes": tuple(view.get("slopes", ())),
                    "limits": None if view["limits"] is None else tuple(view["limits"]),
                    "heads": tuple((layer, head) for layer, head in view["heads"]),
                }
            )
            for view in about["views"]
        ]
        kind = Result
        if about["name"] == "patch":
            from resonance_lens.patching.patched import PatchResult

            kind = PatchResult
        return kind(
            name=about["name"],
            data=data,
            provenance=about["provenance"],
            summary=about["summary"],
            methods=about["methods"],
            views=tuple(views),
            ranked=tuple(Target(**{**target, "positions": _positions(target)}) for target in about["ranked"]),
        )

    def _described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "provenance": dict(self.provenance),
            "summary": self.summary,
            "methods": self.methods,
            "views": [dataclasses.asdict(view) for view in self.views],
            "ranked": [dataclasses.asdict(target) for target in self.ranked],
        }

    def _repr_html_(self) -> str:
        badge = html.escape(str(self.provenance.get("evidence", "")))
        summary = html.escape(self.summary)
        return f"<p><b>{html.escape(self.name)}</b> ({badge}): {summary}</p>{self.data._repr_html_()}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.data.sizes.items())
        return f"Result({self.name}: {self.summary or 'no summary'} [{sizes}])"


def _positions(target: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the positions of a target that was written down, perhaps before there were any."""
    positions = target.get("positions")
    return None if positions is None else tuple(positions)
