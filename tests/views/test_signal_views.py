"""The views that signals need: their content, their drawings, their refusals."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from PIL import Image as Picture

from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views import images, svg
from resonance_lens.views.axes import Axis, round_periods
from resonance_lens.views.build import build
from resonance_lens.views.figures import draw, save
from resonance_lens.views.images import Image, block_means
from resonance_lens.views.networks import Network
from resonance_lens.views.oscilloscopes import FINEST, LOBES, Oscilloscope, finer
from resonance_lens.views.plotting import plain
from resonance_lens.views.record import record_view
from resonance_lens.views.theme import DARK, LIGHT
from resonance_lens.views.token_values import TokenValues
from tests.views.example_signals import NEEDLE, TOKENS


@pytest.fixture(scope="module")
def result(run: Run) -> Result:
    return run["signals"]


@pytest.fixture(scope="module")
def records(result: Result) -> dict[str, dict[str, Any]]:
    return {view.title: record_view(view, result) for view in result.views}


def view(result: Result, title: str, **changes: Any) -> ViewSpec:
    found = next(one for one in result.views if one.title == title)
    return dataclasses.replace(found, **changes)


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def drawn(spec: ViewSpec, result: Result, theme: str = "light") -> Figure:
    figure = draw(spec, result, theme=theme)
    figure.draw_without_rendering()
    return figure


def with_values(result: Result, name: str, values: Any) -> Result:
    data = result.data.copy()
    data[name] = data[name].copy(data=np.broadcast_to(values, data[name].shape))
    return dataclasses.replace(result, data=data)


# Lines over frequency


def test_periods_stand_above_frequencies_where_they_belong(result: Result) -> None:
    for scale in ("linear", "log"):
        (ax,) = drawn(view(result, "Power by frequency", x_scale=scale), result).axes
        (periods,) = ax.child_axes
        assert periods.get_xlabel() == "period (tokens)"
        ticks, labels = periods.get_xticks(), tick_labels(periods.xaxis)
        assert len(labels) >= 6
        np.testing.assert_allclose(1 / np.asarray(ticks), [float(label) for label in labels], rtol=1e-3)
        assert {"2", "4", "8", "16"} <= set(labels)
        # None is longer than the longest period of the data.
        assert max(map(float, labels)) <= 64


def test_a_frequency_that_is_not_over_tokens_has_other_periods(result: Result) -> None:
    data = result.data.copy()
    data["frequency"] = data["frequency"].assign_attrs(units="cycles per value")
    changed = dataclasses.replace(result, data=data)
    assert record_view(view(result, "Power by frequency"), changed)["periods"] == "period (values)"
    data["frequency"] = data["frequency"].assign_attrs(units="hertz")
    assert record_view(view(result, "Power by frequency"), changed)["periods"] == ""


def test_what_a_logarithmic_axis_has_no_place_for_is_left_open_and_said(result: Result) -> None:
    power = result.data["power"].values.copy()
    power[0, 5] = 0.0
    changed = with_values(result, "power", power)
    entry = record_view(view(result, "Power by frequency"), changed)
    assert entry["notes"] == [
        "The logarithmic axis has no place for frequency 0.",
        "Values that are not above 0 have no place on a logarithmic axis and are left open.",
    ]
    (panel,) = entry["panels"]
    assert [line["points"] for line in panel["lines"]] == [32, 32, 32]
    (ax,) = drawn(view(result, "Power by frequency"), changed).axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    lines = {str(line.get_label()): line for line in ax.lines}
    assert np.flatnonzero(np.isnan(np.asarray(lines["attn_out"].get_ydata(), dtype=float))).tolist() == [4]


def test_labels_stand_at_the_ends_of_lines_on_logarithmic_axes_too(result: Result) -> None:
    (ax,) = drawn(view(result, "Power by frequency"), result).axes
    places = {text.get_text(): float(text.get_position()[1]) for text in ax.texts}
    low, high = np.log(ax.get_ylim())
    for label, value in (("attn_out", 1.0), ("mlp_out", 0.4)):
        end = (np.log(value / 0.52**1.2) - low) / (high - low)
        assert places[label] == pytest.approx(end, abs=0.08)


def test_over_many_decades_ticks_and_periods_stay_apart(result: Result) -> None:
    frequency = np.geomspace(2e-6, 0.16, 33)
    data = result.data.assign_coords(frequency=frequency)
    data["frequency"].attrs = result.data["frequency"].attrs
    changed = dataclasses.replace(result, data=data)
    for title in ("Power by frequency", "Phase by layer and frequency"):
        ax = drawn(view(result, title), changed).axes[0]
        (periods,) = ax.child_axes
        for axis in (ax.xaxis, periods.xaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            boxes.sort(key=lambda box: box.x0)
            assert len(boxes) >= 4
            assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_lines_in_many_panels_are_named_once(result: Result) -> None:
    sites = ["a", "b", "c"]
    power = result.data["power"].isel(site=[0, 1, 0]).assign_coords(site=sites)
    data = result.data.drop_dims("site").assign(power=power, power_null=result.data["power_null"])
    spec = view(result, "Power by frequency", series=None, panels="site")
    figure = drawn(spec, dataclasses.replace(result, data=data))
    named = [{text.get_text() for text in ax.texts} for ax in figure.axes]
    assert named == [set(), set(), {"the model", "null"}]


def test_ticks_of_logarithmic_axes_are_plain_numbers(result: Result) -> None:
    (ax,) = drawn(view(result, "Power by frequency"), result).axes
    assert tick_labels(ax.xaxis) == ["0.02", "0.05", "0.1", "0.2", "0.5"]
    assert [plain(10.0**power) for power in (-5, -1, 0, 6)] == ["10\u207b\u2075", "0.1", "1", "10\u2076"]


@given(st.floats(1e-4, 0.4), st.floats(1e-3, 0.5))
def test_marked_periods_lie_between_the_frequencies(low: float, width: float) -> None:
    high = min(0.5, low + width)
    for period in round_periods(low, high):
        assert low * 0.999 <= 1 / period <= high * 1.001


def test_many_lines_along_a_number_are_shaded_by_it(result: Result) -> None:
    wide = result.data["gain"].isel(layer=[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]).assign_coords(layer=np.arange(10))
    data = result.data.drop_dims("layer").assign(gain=wide + 1, gain_null=wide.isel(layer=0, drop=True))
    data["gain"].attrs = result.data["gain"].attrs
    data["gain_low"], data["gain_high"] = data["gain"] - 1, data["gain"] + 1
    spec = ViewSpec(
        kind="lines", title="x", says="", misleads="", variables=("gain",), references=("gain_null",),
        over="frequency", series="layer",
    )  # fmt: skip
    changed = dataclasses.replace(result, data=data)
    entry = record_view(spec, changed)
    assert entry["shades"] == ["layer", 0.0, 9.0]
    assert "Intervals are drawn of the first and the last of 10 lines." in entry["notes"]
    ax, bar = drawn(spec, changed).axes
    colours = [line.get_color() for line in ax.lines if str(line.get_label()) in set("0123456789")]
    assert len(set(colours)) == 10
    assert bar.get_ylabel() == "layer"
    assert ax.get_legend() is None
    assert [text.get_text() for text in ax.texts] == ["null"]
    few = dataclasses.replace(changed, data=data.isel(layer=slice(8)))
    assert record_view(spec, few)["shades"] is None


def test_classes_are_told_apart_by_name(result: Result) -> None:
    attrs = {"long_name": "class", "units": "1", "flag_meanings": "sink low_pass delay"}
    codes = np.array([[0, 1, 2, 1]] * 6)
    data = result.data.assign(kind=(("layer", "head"), codes, attrs)).assign_coords(head=np.arange(4))
    spec = ViewSpec(kind="layer_head_map", title="x", says="", misleads="", variables=("kind",))
    changed = dataclasses.replace(result, data=data)
    assert record_view(spec, changed)["classes"] == ["sink", "low pass", "delay"]
    ax, bar = drawn(spec, changed).axes
    assert tick_labels(bar.yaxis) == ["sink (6)", "low pass (12)", "delay (6)"]
    faces: Any = ax.images[0].cmap(ax.images[0].norm(np.arange(3)))
    assert len(np.unique(faces, axis=0)) == 3
    data["kind"][0, 0] = 3
    assert "has values that are none of its 3 classes" in record_view(spec, changed)["error"]


# Images


def test_an_image_has_its_axes_size_and_colours(records: dict[str, Any]) -> None:
    entry = records["Gain by layer and frequency"]
    assert (entry["columns"], entry["rows"], entry["missing"]) == (33, 6, [0])
    assert entry["x"] == {
        "label": "frequency (cycles per token)", "scale": "linear", "first": 0.0, "last": 0.5,
        "periods": "period (tokens)",
    }  # fmt: skip
    assert (entry["y"]["label"], entry["y"]["periods"]) == ("layer", "")
    assert (entry["colour"], entry["units"]) == ("gain", "decibels")
    memory = records["Memory by layer and lag"]
    assert memory["panels"] == ["site: attn_out", "site: mlp_out"]
    assert memory["x"]["label"] == "lag (tokens)"
    assert memory["limits"][0] == -memory["limits"][1]
    assert records["Phase by layer and frequency"]["limits"] == pytest.approx([-np.pi, np.pi])
    assert "no place for frequency 0" in records["Phase by layer and frequency"]["notes"][0]


def test_cells_of_one_size_are_one_pixel_each_and_stand_on_their_coordinates(result: Result) -> None:
    figure = drawn(view(result, "Gain by layer and frequency"), result)
    ax = figure.axes[0]
    (image,) = ax.images
    assert image.get_interpolation() == "nearest"
    values = np.asarray(image.get_array())
    assert values.shape == (6, 33)
    row, column = np.unravel_index(values.argmax(), values.shape)
    left, right, bottom, top = image.get_extent()
    assert left + (column + 0.5) / 33 * (right - left) == pytest.approx(NEEDLE / 64)
    assert bottom + (row + 0.5) / 6 * (top - bottom) == pytest.approx(2)
    assert image.origin == "lower"


def test_cells_of_a_logarithmic_axis_meet_half_way_on_it(result: Result) -> None:
    figure = drawn(view(result, "Scalogram"), result)
    ax = figure.axes[0]
    (cells,) = ax.collections
    assert cells.get_rasterized()
    edges = np.asarray(cells.get_coordinates())[:, 0, 1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(edges, 2.0 ** np.arange(0.5, 6), rtol=1e-9)
    assert tick_labels(ax.yaxis) == ["2", "4", "8", "16", "32"]


def test_columns_out_of_order_are_put_in_order(result: Result) -> None:
    mixed = result.data.isel(frequency=np.random.default_rng(0).permutation(33))
    spec = view(result, "Gain by layer and frequency")
    one, other = build(spec, result), build(spec, dataclasses.replace(result, data=mixed))
    assert isinstance(one, Image) and isinstance(other, Image)
    np.testing.assert_array_equal(one.x.values, other.x.values)
    np.testing.assert_array_equal(one.grids[0].values, other.grids[0].values)


def test_the_axis_of_an_angle_is_ticked_in_quarter_turns_and_its_ends_are_one_colour(result: Result) -> None:
    figure = drawn(view(result, "Phase by layer and frequency"), result)
    assert tick_labels(figure.axes[-1].yaxis) == ["−π", "−π/2", "0", "π/2", "π"]
    assert "(radians)" in figure.axes[-1].get_ylabel()
    (cells,) = figure.axes[0].collections
    np.testing.assert_allclose(cells.cmap(0.0), cells.cmap(1.0), atol=0.02)


def test_frequencies_that_run_up_have_periods_on_the_right(result: Result) -> None:
    spec = view(result, "Gain by layer and frequency", over="layer", down="frequency")
    ax = drawn(spec, result).axes[0]
    (periods,) = ax.child_axes
    assert periods.get_ylabel() == "period (tokens)"
    np.testing.assert_allclose(
        1 / np.asarray(periods.get_yticks()), [float(t) for t in tick_labels(periods.yaxis)], rtol=1e-3
    )


def test_many_cells_are_block_averaged_and_say_so(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    monkeypatch.setattr(images, "MOST_CELLS", 20)
    shown = build(view(result, "Scalogram"), result)
    assert isinstance(shown, Image)
    assert shown.notes[0] == "Block-averaged: each cell is the mean of up to 4 x 1 cells."
    values = result.data["scalogram"].values
    np.testing.assert_allclose(shown.grids[0].values[:, 3], values[:, 12:16].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(shown.grids[0].values[:, -1], values[:, 72:].mean(axis=1), rtol=1e-6)
    assert shown.x.values[3] == pytest.approx(13.5)
    assert shown.grids[0].values.shape == (5, 19)


def test_block_means_of_angles_are_directions_and_leave_out_what_has_no_value() -> None:
    angles = np.array([[np.pi - 0.1, -np.pi + 0.1, 0.2, np.nan], [np.nan, np.nan, 0.4, np.nan]])
    means = block_means(angles, 1, 2, cyclic=True)
    assert abs(means[0, 0]) == pytest.approx(np.pi)
    assert means[:, 1] == pytest.approx([0.2, 0.4])
    assert np.isnan(means[1, 0])
    assert block_means(np.array([[1.0, np.nan, 3.0]]), 1, 3)[0, 0] == pytest.approx(2.0)


def test_an_axis_of_one_place_has_a_cell() -> None:
    assert Axis(label="x", values=np.array([3.0])).edges.tolist() == [2.5, 3.5]
    edges = Axis(label="x", values=np.array([8.0]), scale="log").edges
    np.testing.assert_allclose(edges, [8 / np.sqrt(2), 8 * np.sqrt(2)])
    assert Axis(label="x", values=np.array([0.0, 1.0, 3.0])).edges.tolist() == [-0.5, 0.5, 2.0, 4.0]
    assert not Axis(label="x", values=np.array([0.0, 1.0, 3.0])).even
    assert Axis(label="x", values=np.array([1.0, 2.0, 4.0]), scale="log").even


def test_an_image_in_a_page_is_pixels(result: Result) -> None:
    shown = build(view(result, "Gain by layer and frequency"), result)
    ((_, text),) = svg.inline(shown, key="k", description="d")
    pictures = [
        Picture.open(io.BytesIO(base64.b64decode(found)))
        for found in re.findall(r"data:image/png;base64,([^\"]+)", text)
    ]
    assert (33, 6) in [picture.size for picture in pictures]
    assert len(text) < 40_000


@pytest.mark.parametrize("title", ["Phase by layer and frequency", "Scalogram"])
def test_uneven_cells_in_a_page_are_not_polygons(result: Result, title: str) -> None:
    for _, text in svg.inline(build(view(result, title), result), key="k", description="d"):
        assert text.count("<path") < 60
        assert len(text) < 80_000


# Oscilloscope


def test_the_traces_and_the_figure_are_the_data(result: Result) -> None:
    figure = drawn(view(result, "Two heads against each other"), result)
    first, second, against = figure.axes
    values = result.data["trace_value"].values
    for ax, trace in ((first, values[0]), (second, values[1])):
        points = next(line for line in ax.lines if line.get_marker() == ".")
        np.testing.assert_allclose(np.asarray(points.get_ydata(), dtype=float), trace, rtol=1e-6)
    points = next(line for line in against.lines if line.get_marker() == ".")
    np.testing.assert_allclose(np.array(points.get_data(), dtype=float), values, rtol=1e-6)
    assert against.get_box_aspect() == 1
    assert against.get_xlim() == against.get_ylim() == first.get_ylim() == second.get_ylim()
    assert (against.get_xlabel(), against.get_ylabel()) == ("L1H0", "L3H2")
    assert second.get_xlabel() == "token"


def test_colour_runs_along_time_in_the_traces_and_the_figure_alike(result: Result) -> None:
    for theme, colours in (("light", LIGHT), ("dark", DARK)):
        figure = drawn(view(result, "Two heads against each other"), result, theme)
        faces = [np.asarray(ax.collections[1].get_color())[:, :3] for ax in figure.axes]  # type: ignore[attr-defined]
        for one in faces[1:]:
            np.testing.assert_allclose(one, faces[0])
        np.testing.assert_allclose(faces[0][0], to_rgb(colours.beam[0]), atol=0.03)
        np.testing.assert_allclose(faces[0][-1], to_rgb(colours.beam[-1]), atol=0.03)


@pytest.mark.parametrize("period", [3.0, 5.5, 12.0, 40.0])
def test_between_tokens_a_band_limited_trace_is_followed(period: float) -> None:
    t = np.arange(120)
    between, curve = finer(np.sin(2 * np.pi * t / period + 0.3)[None])
    expected = np.sin(2 * np.pi * between / period + 0.3)
    inside = (between > LOBES) & (between < 119 - LOBES)
    assert np.abs(curve[0] - expected)[inside].max() < 0.01
    np.testing.assert_allclose(curve[0, ::FINEST], np.sin(2 * np.pi * t / period + 0.3), atol=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=13, max_size=40))
def test_a_curve_goes_through_every_token(values: list[float]) -> None:
    trace = np.array([values])
    _, curve = finer(trace)
    np.testing.assert_allclose(curve[:, ::FINEST], trace, atol=1e-9)
    constant = finer(np.full((1, 20), values[0]))[1]
    np.testing.assert_allclose(constant, values[0], atol=1e-9)


def test_an_oscilloscope_says_how_it_is_drawn(records: dict[str, Any], result: Result) -> None:
    entry = records["Two heads against each other"]
    assert entry["traces"] == ["L1H0", "L3H2"]
    assert (entry["points"], entry["curve"]) == (TOKENS, (TOKENS - 1) * FINEST + 1)
    assert "as a digital oscilloscope does" in entry["notes"][0]
    (low, high), second = entry["limits"]
    assert low == -high and second == [low, high]
    values = result.data["trace_value"].values.copy()
    values[0, 7] = np.nan
    broken = record_view(
        view(result, "Two heads against each other"), with_values(result, "trace_value", values)
    )
    assert broken["notes"] == ["Tokens without a value are left open."]
    assert broken["curve"] == TOKENS


def test_open_ends_of_a_trace_do_not_stop_its_curve(result: Result) -> None:
    values = result.data["trace_value"].values.copy()
    values[:, :9] = np.nan
    values[1, -5:] = np.nan
    changed = with_values(result, "trace_value", values)
    shown = build(view(result, "Two heads against each other"), changed)
    assert isinstance(shown, Oscilloscope)
    assert (shown.between[0], shown.between[-1]) == (9, TOKENS - 6)
    np.testing.assert_allclose(shown.curves[:, ::FINEST], values[:, 9:-5], atol=1e-9)
    drawn(view(result, "Two heads against each other"), changed)
    nothing = with_values(result, "trace_value", np.nan)
    drawn(view(result, "Two heads against each other"), nothing)


def test_a_trace_that_is_much_smaller_has_a_scale_of_its_own(result: Result) -> None:
    values = result.data["trace_value"].values * np.array([[0.1], [1.0]])
    spec = view(result, "Two heads against each other")
    entry = record_view(spec, with_values(result, "trace_value", values))
    (_, small), (_, large) = entry["limits"]
    assert small == pytest.approx(0.1, rel=0.02) and large == pytest.approx(0.8, rel=0.02)
    assert entry["notes"][-1] == "Each trace has a scale of its own."
    first, second, against = drawn(spec, with_values(result, "trace_value", values)).axes
    assert (against.get_xlim(), against.get_ylim()) == (first.get_ylim(), second.get_ylim())
    fixed = record_view(
        dataclasses.replace(spec, limits=(-2.0, 2.0)), with_values(result, "trace_value", values)
    )
    assert fixed["limits"] == [[-2.0, 2.0]] * 2


def test_angles_on_an_oscilloscope_do_not_cross_the_screen(result: Result) -> None:
    t = np.arange(TOKENS)
    phases = np.angle(np.exp(2j * np.pi * np.stack([t / 12, t / 9])))
    changed = with_values(result, "trace_value", phases)
    spec = view(result, "Two heads against each other", colours="cyclic")
    figure = drawn(spec, changed)
    for ax in figure.axes:
        pieces = [np.asarray(path.vertices) for path in ax.collections[1].get_paths()]
        assert all((np.isnan(steps) | (steps < np.pi)).all() for steps in map(_steps, pieces))
        assert sum(np.isnan(piece).any() for piece in pieces) > 5
    assert tick_labels(figure.axes[-1].yaxis) == ["−π", "−π/2", "0", "π/2", "π"]


def _steps(piece: Any) -> Any:
    return np.abs(np.diff(piece, axis=0))


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_few_tokens_on_an_oscilloscope(result: Result, n: int) -> None:
    short = dataclasses.replace(result, data=result.data.isel(token=slice(n)))
    drawn(view(result, "Two heads against each other"), short)


def test_a_long_record_on_an_oscilloscope_stays_small(result: Result) -> None:
    data = result.data.isel(token=np.arange(512) % TOKENS).assign_coords(token=np.arange(512))
    shown = build(view(result, "Two heads against each other"), dataclasses.replace(result, data=data))
    assert shown.notes[0].endswith("(windowed sin x / x).")
    figures = svg.inline(shown, key="k", description="d")
    # One figure for both themes: its colours are those of the page.
    ((theme, text),) = figures
    assert theme == "any" and {f"var(--beam-{i})" for i in range(1, 25)} <= set(
        re.findall(r"var\([^)]*\)", text)
    )
    assert len(text) < 200_000


# Network


def test_the_strongest_pairs_are_drawn_and_counted(records: dict[str, Any], result: Result) -> None:
    entry = records["Pairs that are locked"]
    values = result.data["excess"].values
    labels = [str(label) for label in result.data["head_a"].values]
    rows, columns = np.triu_indices(24, 1)
    order = np.argsort(-values[rows, columns])[:30]
    assert [(a, b) for a, b, _ in entry["pairs"]] == [(labels[rows[i]], labels[columns[i]]) for i in order]
    assert entry["possible"] == 24 * 23 // 2
    assert "arcs: the strongest 30 of 276 pairs" in entry["legend"]
    assert entry["communities"]["heads"] == [labels[:8], labels[8:16]]
    figure = drawn(view(result, "Pairs that are locked"), result)
    arcs = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arcs) == 30
    widths = [arc.get_linewidth() for arc in arcs]
    assert widths == sorted(widths) and widths[0] < widths[-1]  # the strongest last, above the others


def test_heads_stand_at_their_layer_and_communities_differ_in_shape_too(result: Result) -> None:
    (ax,) = drawn(view(result, "Pairs that are locked"), result).axes
    places = {
        (int(x), int(y)) for line in ax.lines for x, y in zip(*map(np.asarray, line.get_data()), strict=True)
    }
    assert places == {(layer, head) for layer in range(6) for head in range(4)}
    looks = {
        (int(x) // 2): (line.get_marker(), line.get_color())
        for line in ax.lines
        for x in np.asarray(line.get_xdata())
    }
    assert len({shape for shape, _ in looks.values()}) >= 2
    assert len({colour for _, colour in looks.values()}) == 3
    names = {text.get_text() for text in ax.texts}
    strongest = record_view(view(result, "Pairs that are locked"), result)["pairs"][0][:2]
    assert set(strongest) <= names


def test_a_pair_may_stand_in_one_triangle_and_weak_ones_may_be_few(result: Result) -> None:
    values = result.data["excess"].values.copy()
    upper = np.where(np.triu(np.ones_like(values), 1) > 0, values, np.nan)
    spec = view(result, "Pairs that are locked")
    whole, half = build(spec, result), build(spec, with_values(result, "excess", upper))
    assert isinstance(whole, Network) and isinstance(half, Network)
    assert whole.arcs == half.arcs
    zero = build(spec, with_values(result, "excess", 0.0))
    assert isinstance(zero, Network)
    assert zero.arcs == () and zero.legend == "none of 276 pairs is drawn"
    drawn(spec, with_values(result, "excess", 0.0))


def test_negative_pairs_are_dashed_and_said(result: Result) -> None:
    values = -result.data["excess"].values
    spec = view(result, "Pairs that are locked", variables=("excess",))
    figure = drawn(spec, with_values(result, "excess", values))
    assert {arc.get_linestyle() for arc in figure.axes[0].patches} == {"dashed"}
    written = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "dashed: below 0" in written.replace("\n", " ")


# Values of tokens


def test_tokens_have_values_in_groups_of_one_unit(records: dict[str, Any], result: Result) -> None:
    entry = records["Power and surprise of tokens"]
    assert [(group["units"], group["tracks"]) for group in entry["groups"]] == [
        ("dimensionless", ["power in the band"]),
        ("nats", ["log-probability less its mean"]),
    ]
    assert len(entry["tokens"]) == TOKENS
    assert entry["tokens"][1] == "·pendulum"
    (low, high), (below, above) = (group["limits"] for group in entry["groups"])
    assert (low, high) == (0.0, pytest.approx(float(result.data["band_power"].max())))
    assert (-below, above) == (above, pytest.approx(float(np.abs(result.data["surprise"]).max())))
    phase = records["Phase of tokens"]
    assert phase["colours"] == "cyclic"
    assert phase["groups"][0]["tracks"] == ["L1H0", "L3H2"]


def test_tokens_are_drawn_as_text_in_the_colour_of_their_value(result: Result) -> None:
    figure = drawn(view(result, "Power and surprise of tokens"), result)
    strips = [ax for ax in figure.axes if ax.texts]
    assert [len(ax.patches) for ax in strips] == [TOKENS, TOKENS]
    strongest = int(np.abs(result.data["surprise"].values).argmax())
    faces = np.array([patch.get_facecolor()[:3] for patch in strips[1].patches])
    farthest = np.abs(faces - np.array(to_rgb(LIGHT.panel))).sum(axis=1)
    assert int(farthest.argmax()) == strongest


def test_a_figure_of_a_long_prompt_says_that_it_is_cut(result: Result) -> None:
    data = result.data.isel(token=np.arange(300) % TOKENS).assign_coords(token=np.arange(300))
    long = dataclasses.replace(result, data=data)
    figure = drawn(view(result, "Phase of tokens"), long)
    assert "the first 160 of 300 tokens" in " ".join(t.get_text() for t in figure.findobj(Text))


def test_tokens_without_a_value_have_no_colour(result: Result) -> None:
    values = result.data["band_power"].values.copy()
    values[:5] = np.nan
    changed = with_values(result, "band_power", values)
    spec = view(result, "Power and surprise of tokens", variables=("band_power",))
    assert record_view(spec, changed)["notes"] == ["Tokens without a value have no colour."]
    ax = drawn(spec, changed).axes[0]
    assert len(ax.patches) == TOKENS - 5


def test_hostile_tokens_are_drawn_as_text(hostile_run: Run) -> None:
    hostile = hostile_run["signals"]
    for spec in hostile.views[-2:]:
        shown = build(spec, hostile)
        assert isinstance(shown, TokenValues)
        written = "\n".join(text.get_text() for text in drawn(spec, hostile).findobj(Text))
        assert "</script>" in written and "[U+05E9]" in written


# All of them


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_kind_has_a_static_twin(result: Result, tmp_path: Path, ending: str, theme: str) -> None:
    seen = set()
    for spec in result.views:
        if spec.kind not in seen:
            seen.add(spec.kind)
            path = save(draw(spec, result, theme=theme), tmp_path / f"{spec.kind}.{ending}")
            assert 3_000 < path.stat().st_size < 400_000
    assert seen == {"lines", "image", "oscilloscope", "network", "token_values"}


@pytest.mark.parametrize(
    ("title", "change", "said"),
    [
        ("Gain by layer and frequency", {"variables": ("gain", "phase")}, "exactly one variable; it names 2"),
        ("Gain by layer and frequency", {"over": "lag"}, "'gain' needs the dimension 'lag'"),
        ("Gain by layer and frequency", {"over": "layer"}, "both of its axes are 'layer'"),
        (
            "Memory by layer and lag",
            {"over": "site"},
            "images need numbers along 'site'",
        ),
        ("Memory by layer and lag", {"panels": None, "over": "site"}, "need numbers"),
        ("Two heads against each other", {"series": None}, "has no dimension None for the two traces"),
        ("Two heads against each other", {"over": "lag"}, "needs the dimension 'lag'"),
        ("Two heads against each other", {"variables": ()}, "needs one variable or two; it names 0"),
        ("Pairs that are locked", {"variables": ("community",)}, "'community' needs the dimension 'head_b'"),
        ("Pairs that are locked", {"variables": ("excess", "gain")}, "'gain' needs the dimension 'head_a'"),
        ("Pairs that are locked", {"variables": ()}, "it names 0"),
        ("Pairs that are locked", {"pairs": 0}, "'pairs' must be at least 1; it is 0"),
        ("Power and surprise of tokens", {"variables": ("gain",)}, "'gain' needs the dimension 'token'"),
        ("Power and surprise of tokens", {"variables": ()}, "names no variable"),
        ("Power and surprise of tokens", {"variables": ("token_phase",)}, "needs a selection along trace"),
        ("Power by frequency", {"limits": (0.0, 1.0)}, "limits begin at 0, and its vertical axis is"),
    ],
)
def test_a_view_that_cannot_be_drawn_says_why(
    result: Result, title: str, change: dict[str, Any], said: str
) -> None:
    problem = record_view(view(result, title, **change), result)["error"]
    assert said in problem and problem.count(". ") == 0


def test_three_traces_are_refused(result: Result) -> None:
    wide = xr.concat([result.data["trace_value"]] * 2, "trace").assign_coords(trace=list("abcd"))
    data = result.data.drop_dims("trace").assign(trace_value=wide.isel(trace=slice(3)))
    said = record_view(view(result, "Two heads against each other"), dataclasses.replace(result, data=data))
    assert "needs two coordinates of 'trace'; it has 3" in said["error"]


def test_values_of_tokens_without_their_text_are_refused(result: Result) -> None:
    bare = dataclasses.replace(result, data=result.data.drop_vars("token_text"))
    said = record_view(view(result, "Phase of tokens"), bare)["error"]
    assert "the result has no coordinate 'token_text' along 'token'" in said


def test_pairs_that_depend_on_their_order_are_refused(result: Result) -> None:
    values = result.data["excess"].values.copy()
    values[0, 1] += 1
    said = record_view(view(result, "Pairs that are locked"), with_values(result, "excess", values))["error"]
    assert "'excess' depends on the order of the heads of a pair" in said


def test_heads_with_other_labels_are_refused(result: Result) -> None:
    labels = [f"head {i}" for i in range(24)]
    data = result.data.assign_coords(head_a=labels, head_b=labels)
    said = record_view(view(result, "Pairs that are locked"), dataclasses.replace(result, data=data))["error"]
    assert "heads are labelled as L3H2; 'head 0' is not" in said


def test_nothing_above_zero_is_refused_on_a_logarithmic_axis(result: Result) -> None:
    data = result.data.isel(frequency=[0])
    changed = dataclasses.replace(result, data=data)
    for title in ("Phase by layer and frequency", "Power by frequency"):
        said = record_view(view(result, title), changed)["error"]
        assert "nothing along 'frequency' is above 0" in said


def test_equal_coordinates_are_refused(result: Result) -> None:
    data = result.data.assign_coords(frequency=np.zeros(33))
    changed = dataclasses.replace(result, data=data)
    said = record_view(view(result, "Gain by layer and frequency"), changed)["error"]
    assert "the coordinates of 'frequency' are not distinct numbers" in said


def test_an_oscilloscope_is_a_class_of_its_own(result: Result) -> None:
    shown = build(view(result, "Two heads against each other"), result)
    assert isinstance(shown, Oscilloscope)
    assert shown.caption == "signals  ·  evidence: measured"
