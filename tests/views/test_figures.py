"""The static figures: labels, units, counts, both themes, reproducible files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from resonance_lens.errors import ParameterError, ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views.figures import draw, draw_result, save
from resonance_lens.views.plots import MARKS, spread_out
from resonance_lens.views.plotting import drawable
from tests.views.example_results import FOUND
from tests.views.example_run import make_run

VIEWS = [
    (name, i)
    for name, count in (
        ("phase_coherence", 4),
        ("head_sync", 3),
        ("attention_entropy", 3),
        ("belief_collapse", 1),
        ("signals", 9),
    )
    for i in range(count)
]


def texts(figure: Figure) -> str:
    """Everything that is written in a figure."""
    figure.draw_without_rendering()
    found: list[Any] = figure.findobj(Text)
    return "\n".join(text.get_text() for text in found if text.get_visible())


def labelled(line: Line2D) -> bool:
    return str(line.get_label())[0] != "_"


def labelled_lines(figure: Figure) -> list[str]:
    return [str(line.get_label()) for ax in figure.axes for line in ax.lines if labelled(line)]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "index"), VIEWS)
def test_every_view_carries_its_title_its_evidence_and_its_units(
    run: Run, name: str, index: int, theme: str
) -> None:
    result = run[name]
    view = result.views[index]
    written = texts(draw(view, result, theme=theme))
    assert view.title in written
    assert f"evidence: {result.provenance['evidence']}" in written
    for variable in view.variables:
        units = result.data[variable].attrs["units"]
        assert ("dimensionless" if units == "1" else units) in written


def test_lines_have_labels_and_one_line_for_each_series_and_reference(run: Run) -> None:
    figure = draw(run["phase_coherence"].views[0], run["phase_coherence"])
    assert labelled_lines(figure) == [
        "uniform attention over the same window, keep",
        "uniform attention over the same window, drop",
        "phase coherence, random weights",
        "phase coherence, shuffled tokens, keep",
        "phase coherence, shuffled tokens, drop",
        "keep",
        "drop",
    ]
    (ax,) = figure.axes
    assert ax.get_xlabel() == "layer"
    assert "mean over heads" in ax.get_ylabel()
    assert "points: single heads" in texts(figure)


def test_intervals_are_bands(run: Run) -> None:
    figure = draw(run["head_sync"].views[0], run["head_sync"])
    # Two intervals, and beside the second variable the band of its null.
    assert [len(ax.collections) for ax in figure.axes] == [2, 3]
    written = texts(figure).replace("\n", " ")
    assert "shaded: 95 % interval over prompts" in written
    assert "grey band: where 95 % of such means lie under the null" in written


def test_each_baseline_and_null_has_dashes_and_a_name_of_its_own(run: Run) -> None:
    view = dataclasses.replace(run["phase_coherence"].views[0], series=None, panels="first_position")
    figure = draw(view, run["phase_coherence"])
    for ax, title in zip(figure.axes, ("with the first position", "first position left out"), strict=True):
        assert ax.get_title(loc="left") == title
        dashes = {
            str(line.get_label()): line._unscaled_dash_pattern  # type: ignore[attr-defined]
            for line in ax.lines
            if labelled(line)
        }
        assert len(dashes) == len({str(pattern) for pattern in dashes.values()}) == 4
        named = {text.get_text() for text in ax.texts}
        assert named == {"the model", "uniform", "random-weight twin", "shuffled text"}
    assert figure.axes[0].get_legend() is None


def test_labels_leave_room_for_each_other() -> None:
    assert spread_out([0.1, 0.8], [0.1, 0.1]) == pytest.approx([0.1, 0.8])
    places = spread_out([0.5, 0.5, 0.52, 0.9], [0.1, 0.2, 0.1, 0.1])
    gaps = np.diff(places)
    assert (gaps >= np.array([0.15, 0.15, 0.1]) - 1e-9).all()
    assert places[3] == pytest.approx(0.9)
    low, high = spread_out([0.0, 0.0], [0.1, 0.1])
    assert low >= -0.02 and high == pytest.approx(low + 0.1)


def _places(line: Line2D) -> list[tuple[int, int]]:
    """The cells, ``(layer, head)``, that a set of marks stands on."""
    x, y = (np.asarray(values, dtype=np.int64).tolist() for values in line.get_data())
    return list(zip(x, y, strict=True))


def _marked(figure: Figure) -> dict[tuple[float, bool], set[tuple[int, int]]]:
    """The marks of a map by size and whether they are filled."""
    found: dict[tuple[float, bool], set[tuple[int, int]]] = {}
    for line in figure.axes[0].lines:
        key = (float(line.get_markersize()), line.get_markerfacecolor() != "none")
        found.setdefault(key, set()).update(_places(line))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_heads_are_marked_by_what_the_claim_found(run: Run, theme: str) -> None:
    figure = draw(run["phase_coherence"].views[1], run["phase_coherence"], theme=theme)
    flat = [divmod(i, 4) for i in range(24)]
    dot, ring, disc = ((mark.size, mark.filled) for mark in MARKS)
    assert _marked(figure) == {
        dot: set(flat[FOUND["matter"] : FOUND["differ"]]),
        ring: set(flat[FOUND["shuffled_tokens"] : FOUND["matter"]]),
        disc: set(flat[: FOUND["shuffled_tokens"]]),
    }
    written = texts(figure).replace("\n", " ").replace("\u00a0", " ")
    assert "dot: differs from its null, q \u2264 0.05 (10)" in written
    assert "ring: also surely by more than 0.05 (6)" in written
    assert "disc: also by that much beyond the random-weight twin and shuffled text (2)" in written


def test_marks_stand_out_from_their_cells(run: Run) -> None:
    for theme in ("light", "dark"):
        figure = draw(run["phase_coherence"].views[1], run["phase_coherence"], theme=theme)
        ax = figure.axes[0]
        (image,) = ax.images
        faces: Any = image.cmap(image.norm(np.asarray(image.get_array())))
        for line in ax.lines:
            colour: Any = line.get_markeredgecolor()
            ink = float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))
            for layer, head in _places(line):
                cell = float(np.dot(faces[head, layer, :3], (0.299, 0.587, 0.114)))
                assert abs(ink - cell) > 0.35


def test_a_spectrum_stands_on_stems() -> None:
    data = xr.Dataset(
        {"power": ("frequency", [0.1, 0.7, 0.2], {"long_name": "power", "units": "1"})},
        {"frequency": ("frequency", [0.1, 0.2, 0.3], {"units": "cycles per number"})},
    )
    view = ViewSpec(
        kind="lines", title="S", says="", misleads="", variables=("power",), over="frequency", stems=True
    )
    (ax,) = draw(view, Result(name="spectrum", data=data, provenance={})).axes
    assert ax.get_xlabel() == "frequency (cycles per number)"
    (stems,) = ax.collections
    assert [path[:, 1].tolist() for path in stems.get_segments()] == [[0, 0.1], [0, 0.7], [0, 0.2]]  # type: ignore[attr-defined]
    assert ax.lines[0].get_linestyle() == "None"


def test_many_heads_are_a_ribbon() -> None:
    many = make_run(n_layers=3, n_heads=20)
    figure = draw(many["phase_coherence"].views[0], many["phase_coherence"])
    assert len(figure.axes[0].collections) == 2 * 2  # of each line the heads, and the interval of their mean
    assert "middle 80 % of heads" in texts(figure)


def test_a_map_has_labelled_axes_a_colour_bar_and_frames(run: Run) -> None:
    figure = draw(run["phase_coherence"].views[1], run["phase_coherence"])
    ax, bar = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "head")
    assert bar.get_ylabel().split("\n")[-1] == "(dimensionless)"
    (image,) = ax.images
    low, high = image.get_clim()
    assert low == -high
    assert len(ax.patches) == 2 * 5
    assert image.get_interpolation() == "nearest"


def test_a_diverging_map_is_blue_above_zero_and_neutral_at_zero(run: Run) -> None:
    for theme in ("light", "dark"):
        figure = draw(run["phase_coherence"].views[1], run["phase_coherence"], theme=theme)
        image = figure.axes[0].images[0]
        zero, high, low = image.cmap(0.5), image.cmap(0.8), image.cmap(0.2)
        assert max(zero[:3]) - min(zero[:3]) < 0.05
        assert high[2] > high[0]
        assert low[0] > low[2]


@pytest.mark.parametrize(
    ("limits", "labels"),
    [(None, ["−π", "−π/2", "0", "π/2", "π"]), ((0.0, 2 * np.pi), ["0", "π/2", "π", "3π/2", "2π"])],
)
def test_angles_are_ticked_in_quarter_turns(
    run: Run, limits: tuple[float, float] | None, labels: list[str]
) -> None:
    view = dataclasses.replace(run["phase_coherence"].views[2], limits=limits)
    figure = draw(view, run["phase_coherence"])
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == labels
    assert bar.get_ylim() == pytest.approx(limits or (-np.pi, np.pi))


def test_limits_of_a_line_view_are_those_of_its_axis(run: Run) -> None:
    view = dataclasses.replace(run["phase_coherence"].views[0], limits=(0.0, 1.0))
    (ax,) = draw(view, run["phase_coherence"]).axes
    assert ax.get_ylim() == pytest.approx((-0.03, 1.03))


def test_a_head_matrix_is_ticked_by_layer(run: Run) -> None:
    figure = draw(run["head_sync"].views[2], run["head_sync"])
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [f"L{layer}" for layer in range(6)]
    assert len(figure.axes[0].lines) == 2 * 5  # boundaries between six layers, on both axes


def test_attention_patterns_hide_what_a_causal_query_cannot_see(run: Run) -> None:
    figure = draw(run["phase_coherence"].views[3], run["phase_coherence"])
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 16
    hidden = np.ma.getmaskarray(np.ma.masked_invalid(np.ma.asarray(panels[0].images[0].get_array())))
    assert hidden[0, 1:].all() and not hidden[:, 0].any()


def test_tokens_are_text_with_colour(run: Run) -> None:
    written = texts(draw(run["attention_entropy"].views[2], run["attention_entropy"]))
    assert "·pendulum" in written


def test_hostile_text_is_drawn_as_text(hostile_run: Run) -> None:
    result = hostile_run["attention_entropy"]
    written = texts(draw(result.views[2], result))
    assert "</script>" in written
    assert "$x^2$" in written
    assert "[U+05E9]" in written  # no right-to-left shaping here: the code point


def test_names_are_never_read_as_mathematics(run: Run, tmp_path: Path) -> None:
    view = dataclasses.replace(run["belief_collapse"].views[0], title="a $\\frac{ b $ \U0001f600")
    save(draw(view, run["belief_collapse"]), tmp_path / "a.png")


def test_a_whole_result_is_one_figure(run: Run) -> None:
    written = texts(draw_result(run["phase_coherence"]))
    for view in run["phase_coherence"].views:
        assert view.title in written
    alone = texts(dataclasses.replace(run["phase_coherence"], exhibits=None).plot())
    assert "What the top heads look at" not in alone
    assert "Coherence over the layers" in alone


def test_a_result_without_views_says_so(run: Run) -> None:
    empty = dataclasses.replace(run["phase_coherence"], views=())
    with pytest.raises(ResultError, match="no view to draw"):
        draw_result(empty)


def test_one_layer_is_a_point(run: Run) -> None:
    result = run["belief_collapse"]
    one = dataclasses.replace(result, data=result.data.isel(layer=[0]))
    figure = draw(result.views[0], one)
    assert [line.get_marker() for line in figure.axes[0].lines if labelled(line)] == ["o"]


def test_a_value_between_two_gaps_is_a_point(run: Run) -> None:
    result = run["belief_collapse"]
    data = result.data.copy(deep=True)
    data["entropy"][:, [1, 3]] = np.nan
    figure = draw(result.views[0], dataclasses.replace(result, data=data))
    (line,) = [line for line in figure.axes[0].lines if labelled(line)]
    assert (line.get_marker(), line.get_markevery()) == ("o", [0, 2])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_equal_figures_give_equal_bytes(run: Run, tmp_path: Path, ending: str) -> None:
    view = run["phase_coherence"].views[1]
    paths = [save(draw(view, run["phase_coherence"]), tmp_path / f"{i}.{ending}") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_bytes()) < 200_000


def test_another_ending_is_refused(run: Run, tmp_path: Path) -> None:
    figure = draw(run["belief_collapse"].views[0], run["belief_collapse"])
    with pytest.raises(ParameterError, match=r"a file ending in \.png, \.svg, \.pdf"):
        save(figure, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_another_theme_is_refused(run: Run) -> None:
    with pytest.raises(ParameterError, match="one of 'light', 'dark'; got 'sepia'"):
        draw(run["belief_collapse"].views[0], run["belief_collapse"], theme="sepia")


def test_a_view_of_your_own(run: Run) -> None:
    view = ViewSpec(
        kind="lines", title="Mine", says="", misleads="", variables=("kl_to_final",), series="category"
    )
    assert len(labelled_lines(draw(view, run["belief_collapse"]))) == 5


def test_text_that_the_font_lacks_becomes_code_points() -> None:
    assert drawable("a\U0001f600\u4e2d", 50) == "a[U+1F600][U+4E2D]"
    assert drawable("abcdef", 4) == "abc…"


def test_importing_views_does_not_import_matplotlib() -> None:
    code = "import sys, resonance_lens.views; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_drawing_never_imports_pyplot() -> None:
    code = "import sys, resonance_lens.views.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
