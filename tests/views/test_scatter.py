"""One variable against another: the points, their names and crosses, in figures, records and pages."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views import svg
from resonance_lens.views.build import build
from resonance_lens.views.figures import draw, draw_result, save
from resonance_lens.views.page import render
from resonance_lens.views.record import describe, record_view
from resonance_lens.views.scatters import CROSSES, NAMED, Scatter
from resonance_lens.views.theme import DARK, LIGHT
from tests.views.chromium import open_page, with_probe
from tests.views.example_patch import CAUSES, patch
from tests.views.example_run import provenance

BESIDE, METRIC = "Effect beside its placebo", "Metric and effect"


@pytest.fixture(scope="module")
def result() -> Result:
    """24 heads, of which two matter."""
    return patch(np.random.default_rng(0))


@pytest.fixture(scope="module")
def large() -> Result:
    """270 heads, of which two matter."""
    return patch(np.random.default_rng(0), 30, 9)


def view(result: Result, title: str, **changes: Any) -> ViewSpec:
    found = next(one for one in result.views if one.title == title)
    return dataclasses.replace(found, **changes)


def shown(spec: ViewSpec, result: Result) -> Scatter:
    content = build(spec, result)
    assert isinstance(content, Scatter)
    return content


def drawn(spec: ViewSpec, result: Result, theme: str = "light") -> Figure:
    figure = draw(spec, result, theme=theme)
    figure.draw_without_rendering()
    return figure


def points(figure: Figure, panel: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Where the points of each group of a panel stand, by the group's id."""
    found = [one for one in figure.axes[panel].collections if isinstance(one, PathCollection)]
    return {str(one.get_gid()): np.asarray(one.get_offsets()) for one in found}


def test_points_stand_where_the_data_says(result: Result) -> None:
    data = result.data
    figure = drawn(view(result, BESIDE), result)
    for panel in range(2):
        (at,) = points(figure, panel).values()
        part = data.isel(operation=panel)
        np.testing.assert_allclose(at, np.column_stack([part["placebo"], part["effect"]]), rtol=1e-6)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == [
        "operation: patch",
        "operation: remove_band band=high",
    ]


def test_axes_say_what_they_are_in_which_units(result: Result) -> None:
    ax = drawn(view(result, METRIC), result).axes[0]
    assert ax.get_xlabel() == "share explained by the lag (dimensionless)"
    assert ax.get_ylabel() == "effect on the logit difference\n(nats)"


def test_layer_and_head_are_places_as_well_as_targets(result: Result) -> None:
    by_target = shown(view(result, METRIC, series="target_layer"), result)
    effect = result.data["effect"].isel(operation=0).values.reshape(6, 4)
    metric = result.data["metric_of_heads"].values.reshape(6, 4)
    dims = ("layer", "head")
    # Heads first in one of them: the places are told by name, not by order.
    data = xr.Dataset(
        {"x": (dims, metric), "y": (dims[::-1], effect.T)},
        {"layer": np.arange(6), "head": np.arange(4)},
    )
    other = dataclasses.replace(result, data=data)
    by_layer = shown(ViewSpec(kind="scatter", title="t", says="", misleads="", variables=("x", "y")), other)
    (a,), (b,) = by_target.clouds, by_layer.clouds
    assert by_layer.places == "heads" and by_target.places == "targets"
    assert dict(zip(a.labels, zip(a.x, a.y, strict=True), strict=True)) == dict(
        zip(b.labels, zip(b.x, b.y, strict=True), strict=True)
    )
    assert by_layer.shades == by_target.shades == ("layer", 0.0, 5.0)  # a target's layer was named, here not
    assert b.shade is not None
    assert {label: shade for label, shade in zip(b.labels, b.shade, strict=True)}["L5H0"] == 1.0


def test_whole_layers_are_places(result: Result) -> None:
    data = xr.Dataset({"x": ("layer", [1.0, 2, 3]), "y": ("layer", [3.0, 1, 2])}, {"layer": [0, 4, 9]})
    spec = ViewSpec(kind="scatter", title="t", says="", misleads="", variables=("x", "y"))
    (cloud,) = shown(spec, dataclasses.replace(result, data=data)).clouds
    assert cloud.labels == ("L0", "L4", "L9")


def test_the_extreme_points_are_named_and_those_that_the_view_names(large: Result) -> None:
    for title in (BESIDE, METRIC):
        for cloud in shown(view(large, title), large).clouds:
            named = [cloud.labels[i] for i in cloud.named]
            assert len(named) == NAMED and set(CAUSES) <= set(named)
    spec = view(large, METRIC, heads=((7, 7),))
    (cloud,) = shown(spec, large).clouds
    assert cloud.labels[cloud.named[0]] == "L7H7" and len(cloud.named) <= NAMED + 1
    figure = drawn(spec, large)
    written = {text.get_text() for text in figure.axes[0].texts}
    assert written == {cloud.labels[i] for i in cloud.named}


def test_names_do_not_cover_each_other(large: Result) -> None:
    figure = drawn(view(large, METRIC), large)
    names = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(text) for text in names]
    assert len(boxes) == NAMED
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across < 2 or up < 2  # pixels: letters are not all of one width


def test_intervals_are_crosses(result: Result) -> None:
    ax = drawn(view(result, BESIDE), result).axes[0]
    across, up = (one.get_segments() for one in ax.collections if isinstance(one, LineCollection))
    part = result.data.isel(operation=0)
    assert len(across) == len(up) == part.sizes["target"]
    ends = np.array([segment[:, 0] for segment in across])
    np.testing.assert_allclose(ends.T, [part["placebo_low"], part["placebo_high"]], rtol=1e-6)
    ends = np.array([segment[:, 1] for segment in up])
    np.testing.assert_allclose(ends.T, [part["effect_low"], part["effect_high"]], rtol=1e-6)


def test_of_many_points_only_the_named_have_their_cross_and_it_says_so(large: Result) -> None:
    assert large.data.sizes["target"] > CROSSES
    content = shown(view(large, METRIC), large)
    assert "crosses: 95 % intervals of those named" in content.caption
    (lines,) = (
        one
        for one in drawn(view(large, METRIC), large).axes[0].collections
        if isinstance(one, LineCollection)
    )
    assert len(lines.get_segments()) == NAMED


def test_axes_in_one_unit_have_a_diagonal(result: Result) -> None:
    def diagonals(spec: ViewSpec) -> int:
        lines = [np.asarray(line.get_xydata()) for line in drawn(spec, result).axes[0].lines]
        return sum(bool(np.allclose(xy[:, 0], xy[:, 1])) and xy[0, 0] != xy[1, 0] for xy in lines)

    assert diagonals(view(result, BESIDE)) == 1
    assert "dotted: as much upwards as to the right" in shown(view(result, BESIDE), result).caption
    assert diagonals(view(result, METRIC)) == 0
    assert "dotted" not in shown(view(result, METRIC), result).caption


def test_zero_is_a_line_where_the_axis_has_it(result: Result) -> None:
    ax = drawn(view(result, METRIC), result).axes[0]
    flat = [line for line in ax.lines if np.array_equal(line.get_ydata(), [0, 0])]
    assert len(flat) == 1
    shifted = result.data.assign(effect=result.data["effect"] + 10).drop_vars(["effect_low", "effect_high"])
    high = dataclasses.replace(result, data=shifted)
    ax = drawn(view(high, METRIC), high).axes[0]
    assert not [line for line in ax.lines if np.array_equal(line.get_ydata(), [0, 0])]


def test_a_coordinate_may_be_an_axis_and_has_no_zero_and_no_units(result: Result) -> None:
    spec = view(result, METRIC, variables=("target_layer", "effect"), series=None)
    content = shown(spec, result)
    assert content.clouds[0].x.tolist() == np.repeat(np.arange(6.0), 4).tolist()
    ax = drawn(spec, result).axes[0]
    assert ax.get_xlabel() == "layer"
    assert not [line for line in ax.lines if np.array_equal(line.get_xdata(), [0, 0])]
    assert "layer 1; effect on the logit difference" in content.tip(content.clouds[0], 6)


def test_classes_differ_in_shape_and_are_counted(result: Result) -> None:
    figure = drawn(view(result, METRIC), result)
    groups = points(figure)
    assert [len(at) for at in groups.values()] == [22, 2]
    no, yes = (one for one in figure.axes[0].collections if isinstance(one, PathCollection))
    assert np.shape(no.get_paths()[0].vertices) != np.shape(yes.get_paths()[0].vertices)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["no (22)", "yes (2)"]
    assert legend.get_title().get_text() == "more than its controls"


def test_classes_may_be_words_or_flags(result: Result) -> None:
    words = np.array([*["delay"] * 4, *["low pass"] * 20])
    data = result.data.assign_coords(kind=("target", words))
    flags = np.repeat([0, 2, 1], 8)
    data["flag"] = (("target",), flags, {"long_name": "class", "flag_meanings": "sink delay low_pass"})
    changed = dataclasses.replace(result, data=data)
    content = shown(view(result, METRIC, series="kind"), changed)
    assert content.classes == ("delay", "low pass")
    entry = record_view(view(result, METRIC, series="flag"), changed)
    assert entry["panels"][0]["classes"] == {"sink": 8, "delay": 8, "low pass": 8}
    assert entry["grouped"] == "class"


def test_points_without_a_value_are_left_out_and_it_is_said(result: Result) -> None:
    data = result.data.copy(deep=True)
    data["effect"][0, :5] = np.nan
    entry = record_view(view(result, BESIDE), dataclasses.replace(result, data=data))
    assert entry["notes"] == ["5 of 24 points in operation: patch have no value on an axis and are left out."]
    assert [panel["points"] for panel in entry["panels"]] == [19, 24]


def test_logarithmic_axes_leave_out_what_is_not_above_zero(result: Result) -> None:
    spec = view(result, METRIC, x_scale="log", y_scale="log")
    above = int((result.data["effect"].isel(operation=0) > 0).sum())
    entry = record_view(spec, result)
    assert entry["panels"][0]["points"] == above
    assert entry["notes"] == [f"{24 - above} of 24 points have no value above 0 on an axis and are left out."]
    ax = drawn(spec, result).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_the_record_is_plain_data(result: Result) -> None:
    for title in (BESIDE, METRIC):
        entry = record_view(view(result, title), result)
        assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["units"] == ["dimensionless", "nats"]
    assert entry["selection"] == "operation: patch"
    assert entry["panels"][0]["crosses"] == 24


def test_the_sentence_for_those_who_do_not_see_it(result: Result) -> None:
    said = describe(build(view(result, METRIC), result))
    assert said.startswith(
        "effect on the logit difference (nats) against share explained by the lag (dimensionless) of 24 "
    )
    assert all(label in said for label in CAUSES)


def test_pointing_at_a_point_says_its_numbers(result: Result) -> None:
    for title, n in ((BESIDE, 48), (METRIC, 24)):
        ((theme, text),) = svg.inline(build(view(result, title), result), key="k", description="d")
        assert theme == "any"
        tips = re.findall(r"<title>([^<]+)</title>", text)
        assert len(tips) == n
    (said,) = (tip for tip in tips if tip.startswith("L1H2: "))
    part = result.data.sel(operation="patch", target="L1H2")
    assert f"effect on the logit difference {float(part['effect']):.3g} [" in said
    assert said.endswith(" nats; yes")
    # Each says its own numbers: the mark of the largest effect stands highest.
    marks = re.findall(r'y="([\d.]+)"[^>]*><title>(L\dH\d): ', svg_of(result))
    assert min(marks, key=lambda mark: float(mark[0]))[1] == "L1H2"


def svg_of(result: Result) -> str:
    spec = view(result, BESIDE, panels=None, select={"operation": "patch"})
    return svg.inline(build(spec, result), key="k", description="d")[0][1]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_static_twins(large: Result, tmp_path: Path, ending: str, theme: str) -> None:
    path = save(draw(view(large, BESIDE), large, theme=theme), tmp_path / f"s.{ending}")
    assert 10_000 < path.stat().st_size < 400_000
    ground = draw(view(large, BESIDE), large, theme=theme).axes[0].get_facecolor()
    from matplotlib.colors import to_rgba

    assert ground == to_rgba((LIGHT if theme == "light" else DARK).panel)


def test_a_whole_result_with_points_is_one_figure(result: Result) -> None:
    figure = draw_result(result)
    figure.draw_without_rendering()
    titles = {text.get_text() for text in figure.findobj(Text)}
    assert {BESIDE, METRIC} <= titles


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variables": ("effect",)}, "a scatter needs two variables; it names 1"),
        (
            {"variables": ("effect_map", "effect")},
            "its variables have other places: head and layer, and target",
        ),
        ({"variables": ("placebo", "efect")}, "There is no variable 'efect'"),
        ({"variables": ("placebo", "effect"), "select": {}}, "'placebo' needs a selection along operation"),
        ({"series": "matter"}, "There is no variable or coordinate 'matter'"),
        ({"series": "effect_map"}, "'effect_map' does not belong to its places"),
        ({"series": "operation"}, "'operation' does not belong to its places"),
    ],
)
def test_what_cannot_be_drawn_says_why(result: Result, changes: dict[str, Any], said: str) -> None:
    problem = record_view(view(result, METRIC, **changes), result)["error"]
    assert said in problem


def test_too_many_classes_and_no_values_are_refused(result: Result) -> None:
    data = result.data.assign_coords(kind=("target", [f"kind {i % 9}" for i in range(24)]))
    data["nothing"] = data["metric_of_heads"] * np.nan
    changed = dataclasses.replace(result, data=data)
    assert (
        "'kind' has 9 classes; 6 have a shape"
        in record_view(view(result, METRIC, series="kind"), changed)["error"]
    )
    spec = view(result, METRIC, variables=("nothing", "effect"))
    assert "no place has a value of both variables" in record_view(spec, changed)["error"]


@pytest.mark.browser
def test_the_page_shows_them_on_a_narrow_screen(large: Result, tmp_path: Path) -> None:
    shared = provenance(30, 9)
    whole = dataclasses.replace(large, provenance={**shared, **large.provenance})
    run = Run(results={"patch": whole}, provenance=shared)
    path = tmp_path / "report.html"
    path.write_text(with_probe(render(run)), encoding="utf-8")
    seen = open_page(path)
    assert seen.errors == () and seen.requests == ()
    assert seen.probed is not None and seen.probed["figures"] == 3
