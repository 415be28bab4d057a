"""References that are places: points on an image, upright lines; and panels that are tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr

from resonance_lens.errors import ResultError
from resonance_lens.probing.showing import REFERENCES
from resonance_lens.result import Result, ViewSpec
from resonance_lens.views import images
from resonance_lens.views.build import build
from resonance_lens.views.content import Lines
from resonance_lens.views.figures import draw
from resonance_lens.views.images import Image
from resonance_lens.views.record import record_view

TRUE = np.array([1.0, np.nan, 3.0, 9.0])
VALUES = np.arange(6.0)


@pytest.fixture(scope="module")
def result() -> Result:
    """Return densities over six values at four tokens, and true values: one unknown, one beyond."""
    density = np.exp(-((VALUES[:, None] - np.nan_to_num(TRUE, nan=2.0)) ** 2))
    data = xr.Dataset(
        {
            "density": (("value", "token"), density, {"long_name": "density", "units": "1"}),
            "density_true": ("token", TRUE, {"long_name": "true value", "units": "1"}),
        },
        coords={"value": VALUES, "token": np.arange(10, 14), "token_text": ("token", [" a", "b", "\n", "d"])},
    )
    return Result(name="made", data=data, provenance={"evidence": "synthetic"})


IMAGE = ViewSpec(
    kind="image",
    title="Density",
    says="Where.",
    misleads="never.",
    variables=("density",),
    references=("density_true",),
    over="token",
    down="value",
)
LINES = dataclasses.replace(IMAGE, kind="lines", over="value", panels="token")


def test_a_reference_stands_as_points_at_its_height(result: Result) -> None:
    shown = build(IMAGE, result)
    assert isinstance(shown, Image) and shown.points is not None
    np.testing.assert_array_equal(shown.points, TRUE)
    assert shown.legend == "points: true value" and "1 of the points lie beyond" in " ".join(shown.notes)
    ax = draw(IMAGE, result).axes[0]
    drawn = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(drawn) == 2  # light inside of dark
    for line in drawn:
        np.testing.assert_array_equal(line.get_xdata(), np.arange(10, 14))
        np.testing.assert_array_equal(line.get_ydata(), TRUE)
    assert record_view(IMAGE, result)["points"] == "true value"


def test_points_are_averaged_with_their_cells(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    monkeypatch.setattr(images, "MOST_CELLS", 2)
    shown = build(IMAGE, result)
    assert isinstance(shown, Image)
    np.testing.assert_array_equal(shown.points, [1.0, 6.0])  # one unknown; 3 and 9


def test_a_reference_without_the_axis_stands_upright_at_its_place(result: Result) -> None:
    shown = build(LINES, result)
    assert isinstance(shown, Lines)
    assert [panel.title for panel in shown.panels] == [
        "token: 10 ·a",
        "token: 11 b",
        "token: 12 ¶",
        "token: 13 d",
    ]
    assert [panel.uprights for panel in shown.panels] == [
        (("true value", 1.0),),
        (),
        (("true value", 3.0),),
        (("true value", 9.0),),
    ]
    assert "upright line: true value" in shown.caption
    axes = draw(LINES, result).axes[:4]
    ends = [[np.asarray(line.get_xdata()).tolist() for line in ax.lines] for ax in axes]
    places = [[x[0] for x in each if len(x) == 2] for each in ends]
    assert places == [[1.0], [], [3.0], [9.0]]
    assert axes[3].get_xlim()[1] > 9 > VALUES[-1]
    assert record_view(LINES, result)["panels"][2]["uprights"] == [["true value", 3.0]]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (dataclasses.replace(IMAGE, references=("density_true", "density")), "points of one reference"),
        (dataclasses.replace(IMAGE, references=("density",)), "needs the dimension 'token' alone"),
        (
            dataclasses.replace(LINES, panels=None, series="token"),
            "the reference 'density_true' needs 'value', or a selection along token",
        ),
    ],
)
def test_references_that_are_no_place_are_refused(result: Result, view: ViewSpec, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        build(view, result)


def test_a_probe_is_held_against_each_control_once() -> None:
    assert len(set(REFERENCES)) == len(REFERENCES)
