"""The static figures: labels, units, counts, both themes, reproducible files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from resonance_lens.errors import ParameterError, ResultError
from resonance_lens.result import ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views.figures import draw, draw_result, save
from resonance_lens.views.plots import drawable
from tests.views.example_run import make_run

VIEWS = [
    (name, i)
    for name, count in (
        ("phase_coherence", 4),
        ("head_sync", 3),
        ("attention_entropy", 3),
        ("belief_collapse", 1),
    )
    for i in range(count)
]


def texts(figure: Figure) -> str:
    """Everything that is written in a figure."""
    figure.draw_without_rendering()
    found: list[Any] = figure.findobj(Text)
    return "\n".join(text.get_text() for text in found if text.get_visible())


def labelled_lines(figure: Figure) -> list[str]:
    return [
        str(line.get_label()) for ax in figure.axes for line in ax.lines if str(line.get_label())[0] != "_"
    ]


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
        "keep",
        "drop",
    ]
    (ax,) = figure.axes
    assert ax.get_xlabel() == "layer"
    assert "mean over heads" in ax.get_ylabel()
    assert "points: single heads" in texts(figure)


def test_intervals_are_bands(run: Run) -> None:
    figure = draw(run["head_sync"].views[0], run["head_sync"])
    assert [len(ax.collections) for ax in figure.axes] == [2, 2]
    assert "shaded: interval over prompts" in texts(figure)


def test_many_heads_are_a_ribbon() -> None:
    many = make_run(n_layers=3, n_heads=20)
    figure = draw(many["phase_coherence"].views[0], many["phase_coherence"])
    assert len(figure.axes[0].collections) == 2
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
    assert figure.axes[0].lines[-1].get_marker() == "o"


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
        kind="layer_lines", title="Mine", says="", misleads="", variables=("kl_to_final",), series="category"
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
