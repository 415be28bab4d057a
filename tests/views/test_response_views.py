"""The views of a frequency response: Bode plots, waterfalls, distortion, bands of heads, figures of waves."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

import resonance_lens as rl
from resonance_lens import testbed
from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views.build import build
from resonance_lens.views.content import Lines
from resonance_lens.views.figures import draw
from resonance_lens.views.page import render
from resonance_lens.views.record import record_view
from resonance_lens.views.svg import inline
from resonance_lens.views.sweeps import MOST_SCREENS, SCALE, Sweep, packed
from tests.views.chromium import open_page
from tests.views.example_response import BANDS, DELAY, HALF, LAYERS, PERIOD, frequency_response

HOSTILE = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def result() -> Result:
    return frequency_response()


@pytest.fixture(scope="module")
def records(result: Result) -> dict[str, dict[str, Any]]:
    return {view.title: record_view(view, result) for view in result.views}


@pytest.fixture(scope="module")
def waves(result: Result) -> Result:
    """The result with one figure of waves alone, so that its page is soon there."""
    return dataclasses.replace(result, views=(view(result, "Drive against response, driven before layer 2"),))


def view(result: Result, title: str, **changes: Any) -> ViewSpec:
    found = next(one for one in result.views if one.title.startswith(title))
    return dataclasses.replace(found, **changes)


def drawn(spec: ViewSpec, result: Result, theme: str = "light") -> Any:
    figure = draw(spec, result, theme=theme)
    figure.draw_without_rendering()
    return figure


def page(result: Result) -> str:
    return render(Run(results={result.name: result}, provenance=result.provenance))


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def test_every_view_can_be_drawn_and_says_when_it_misleads(
    result: Result, records: dict[str, dict[str, Any]]
) -> None:
    assert [title for title, entry in records.items() if "error" in entry] == []
    for title, entry in records.items():
        assert entry["evidence"] == "measured"
        assert entry["says"].endswith(".") and entry["misleads"].endswith("."), title
        json.dumps(entry)
    kinds = {view.kind for view in result.views}
    assert kinds == {"bode", "image", "lines", "oscilloscope", "layer_head_map"}


# Bode plots


def test_a_bode_plot_has_its_gain_in_decibels_over_its_phase(result: Result) -> None:
    spec = view(result, "What a filter would give")
    gain, phase, bar = drawn(spec, result).axes
    assert (gain.get_xscale(), phase.get_xscale()) == ("log", "log")
    assert gain.get_xlim() == phase.get_xlim()
    assert gain.get_position().y0 > phase.get_position().y1
    assert "(dB)" in gain.get_ylabel() and "(radians)" in phase.get_ylabel()
    assert (gain.get_xlabel(), phase.get_xlabel()) == ("", "frequency (cycles per token)")
    frequency = np.arange(1, PERIOD // 2) / PERIOD
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in gain.lines}
    # A one-pole low-pass is 3 dB down at its half-power frequency; layer 2 has 0.8 of it.
    expected = 20 * np.log10(0.8) - 10 * np.log10(1 + (frequency / HALF) ** 2)
    np.testing.assert_allclose(lines["2"], expected, atol=1e-9)
    at_half = lines["2"][frequency == HALF][0] - 20 * np.log10(0.8)
    assert at_half == pytest.approx(-3.0103, abs=1e-3)
    assert bar.get_ylabel() == "layer"
    periods = gain.child_axes[0]
    assert periods.get_xlabel() == "period (tokens)"
    assert {"2", "8", "64"} <= set(labels(periods.xaxis))


def test_a_phase_that_goes_around_the_circle_is_cut_where_it_does(result: Result) -> None:
    phase = drawn(view(result, "What a filter would give"), result).axes[1]
    (line,) = (line for line in phase.lines if line.get_label() == "2")
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    known = np.isfinite(y)
    np.testing.assert_allclose(np.exp(1j * y[known]), np.exp(-2j * np.pi * x[known] * DELAY), atol=1e-9)
    # Two tokens of delay turn the phase by 4 pi f: it passes -pi at 1/4, and only there.
    assert x[~known] == pytest.approx([0.25], abs=1 / PERIOD)
    assert labels(phase.yaxis) == ["\u2212\u03c0", "\u2212\u03c0/2", "0", "\u03c0/2", "\u03c0"]
    assert labels(phase.child_axes[0].yaxis) == ["\u2212180\u00b0", "\u221290\u00b0", "0\u00b0", "90\u00b0",
                                                 "180\u00b0"]  # fmt: skip
    small = result.data.assign(phase=result.data.phase * 0 + 0.3)
    axis = drawn(view(result, "What a filter would give"), dataclasses.replace(result, data=small)).axes[1]
    assert labels(axis.yaxis)[-1] == "\u03c0/8"


def test_the_twin_and_the_floor_stand_at_the_last_layer(
    result: Result, records: dict[str, dict[str, Any]]
) -> None:
    entry = records["What a filter would give, driven before layer 2"]
    gain, phase = entry["panels"]
    twin, floor = (line for line in gain["lines"] if line["reference"])
    assert twin["role"] == "random_weights" and twin["band"]
    assert f"layer {LAYERS - 1}" in twin["label"]
    assert floor["variable"] == "gain_floor" and not floor["band"]
    assert not any(line["reference"] for line in phase["lines"])
    shown = build(view(result, "What a filter would give"), result)
    assert isinstance(shown, Lines)
    lines = {line.name: line for line in shown.panels[0].lines if line.reference}
    assert lines["gain_random_weights"].y == pytest.approx(20 * np.log10(1.4))
    at = result.data.gain_floor.sel(driven=2, layer=LAYERS - 1)
    assert lines["gain_floor"].y == pytest.approx(20 * np.log10(at.values))


def test_of_many_layers_the_first_and_last_keep_their_interval_and_say_over_what(
    result: Result, records: dict[str, dict[str, Any]]
) -> None:
    entry = records["What a filter would give, driven before layer 2"]
    layers = [line for line in entry["panels"][0]["lines"] if not line["reference"]]
    assert [line["label"] for line in layers] == [str(i) for i in range(2, LAYERS)]
    assert [line["label"] for line in layers if line["band"]] == ["2", str(LAYERS - 1)]
    assert "shaded: 95 % interval over directions" in entry["legend"]
    other = records["What comes out, in any direction, driven before layer 2"]
    assert "shaded: 95 % interval over prompts" in other["legend"]
    assert other["shades"] == ["layer", 2.0, LAYERS - 1.0]
    # Bounds that reach down to zero leave the panel and do not stretch it.
    low, _ = drawn(view(result, "What a filter would give"), result).axes[0].get_ylim()
    assert low > -25


def test_few_layers_are_told_apart_by_name_each_with_its_interval_and_its_twin(result: Result) -> None:
    few = {"driven": 2, "layer": [2, 9]}
    spec = view(result, "What a filter would give", reference_select={}, select=few)
    entry = record_view(spec, result)
    lines = entry["panels"][0]["lines"]
    assert entry["shades"] is None
    assert [line["label"] for line in lines if not line["reference"]] == ["2", "9"]
    assert all(line["band"] for line in lines if line["variable"] == "gain")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variables": ("gain", "phase", "phase")}, "a Bode plot needs a gain, and may have a phase"),
        ({"variables": ("gain", "gain_rms")}, "a phase is in radians, and 'gain_rms' is in 'dimensionless'"),
        ({"panels": "driven"}, "a Bode plot has no panels"),
        ({"select": {"driven": 2, "layer": [2, 99]}}, "There is no layer '99'"),
        ({"select": {"driven": 2, "layer": []}}, "nothing is selected along layer"),
        ({"reference_select": {"layer": 99}}, "There is no layer '99'"),
    ],
)
def test_what_a_bode_plot_cannot_draw(result: Result, changes: dict[str, Any], problem: str) -> None:
    assert problem in record_view(view(result, "What a filter would give", **changes), result)["error"]


# Waterfall, distortion, bands of heads


def test_a_waterfall_is_in_decibels_with_periods_above(result: Result) -> None:
    entry = record_view(view(result, "Waterfall"), result)
    assert (entry["units"], entry["x"]["scale"], entry["y"]["label"]) == ("dB", "log", "layer")
    assert entry["x"]["periods"] == "period (tokens)"
    assert (entry["rows"], entry["missing"]) == (LAYERS - 2, [0])
    frequency = np.arange(1, PERIOD // 2) / PERIOD
    assert entry["limits"] == pytest.approx([-10 * np.log10(1 + (frequency[i] / HALF) ** 2) for i in (-1, 0)])


def test_an_impulse_response_is_centred_on_zero_and_coloured_for_later_lags(result: Result) -> None:
    entry = record_view(view(result, "Impulse response"), result)
    assert entry["colours"] == "diverging"
    assert entry["limits"] == pytest.approx([-0.05, 0.05])
    assert "Values beyond the ends of the colour bar have the colour of its ends." in entry["notes"]


def test_distortion_stands_beside_guides_of_its_powers(result: Result) -> None:
    spec = view(result, "Distortion against amplitude", panels=None, select={"driven": 2, "layer": 11})
    (ax,) = drawn(spec, result).axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    lines = [np.log(np.array(line.get_data())) for line in ax.lines if len(line.get_xdata()) == 3]
    slopes = [(y[-1] - y[0]) / (x[-1] - x[0]) for x, y in lines]
    # Two guides, and the second and third harmonic over the tone, which follow them.
    assert sorted(slopes) == pytest.approx([1, 1, 2, 2])
    assert {"slope 1", "slope 2"} <= {text.get_text() for text in ax.texts}
    straight = record_view(dataclasses.replace(spec, y_scale="linear"), result)
    assert "its axes are not both logarithmic" in straight["error"]
    twice = record_view(dataclasses.replace(spec, decibels=True), result)
    assert "decibels are logarithms already" in twice["error"]


def test_heads_by_band_are_panels_with_one_diverging_scale(records: dict[str, dict[str, Any]]) -> None:
    entry = records["Which head carries which band"]
    assert entry["panels"] == [f"band: {band}" for band in BANDS]
    low, high = entry["limits"]
    assert low == -high
    assert (entry["rows"], entry["columns"]) == (4, LAYERS)


# Drive against response


def test_the_screens_are_the_data_with_one_scale(result: Result) -> None:
    shown = build(view(result, "Drive against response, driven before layer 2"), result)
    assert isinstance(shown, Sweep)
    assert shown.titles == tuple(str(layer) for layer in range(2, LAYERS))
    assert len({screen.limits for screen in shown.screens}) == 1
    data = result.data.sel(driven=2)
    for title, screen in zip(shown.titles, shown.screens, strict=True):
        expected = np.stack([data.scope_drive, data.scope_response.sel(layer=int(title))])
        np.testing.assert_allclose(screen.traces, expected)
    assert len(shown.still) == MOST_SCREENS and {0, len(shown.screens) - 1} <= set(shown.still)
    assert any("8 of 10 screens" in note for note in shown.notes)


def test_the_still_picture_has_several_layers_beside_each_other(result: Result) -> None:
    figure = drawn(view(result, "Drive against response, driven before layer 2"), result, theme="dark")
    assert [ax.get_title(loc="left") for ax in figure.axes][::7] == ["layer 2", f"layer {LAYERS - 1}"]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    first = figure.axes[0]
    beam = next(one for one in first.collections if isinstance(one, LineCollection))
    points = np.concatenate([np.asarray(segment) for segment in beam.get_segments()])
    # Nothing has happened yet: the response is the drive, a straight line.
    np.testing.assert_allclose(points[:, 0], points[:, 1], atol=1e-9)


def test_the_page_has_the_same_curves_as_whole_numbers(result: Result) -> None:
    shown = build(view(result, "Drive against response, driven before layer 2"), result)
    assert isinstance(shown, Sweep)
    given = packed(shown)
    for values, screen in zip(given["responses"], shown.screens, strict=True):
        low, high = screen.limits[1]
        curve = (low + high) / 2 + np.asarray(values) / SCALE * (high - low) / 2
        np.testing.assert_allclose(curve, screen.curves[1], atol=(high - low) / SCALE)
    assert max(map(abs, given["drive"])) <= SCALE
    assert given["ends"] == [0.0, 95.0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"variables": ("scope_drive", "scope_response", "gain")},
            "needs one variable or two",
        ),
        ({"series": "frequency"}, "'scope_response' has no dimension 'frequency' for its screens"),
        ({"select": {}}, "'scope_drive' needs a selection along driven"),
        ({"variables": ("gain_floor", "scope_response")}, "'gain_floor' needs the dimension 'sample'"),
    ],
)
def test_what_screens_cannot_draw(result: Result, changes: dict[str, Any], problem: str) -> None:
    spec = view(result, "Drive against response", **changes)
    assert problem in record_view(spec, result)["error"]


def test_a_trace_with_a_gap_is_refused(result: Result) -> None:
    data = result.data.copy(deep=True)
    data.scope_response[0, 5, 3] = np.nan
    entry = record_view(view(result, "Drive against response"), dataclasses.replace(result, data=data))
    assert "has places without a value" in entry["error"]


# The page


def test_the_page_has_a_scope_that_can_be_reached_by_keyboard_and_a_still_twin(waves: Result) -> None:
    html = page(waves)
    scopes = re.findall(r'<div class="scope" data-sweep="([^"]+)" hidden>(.*?)</output>', html, re.DOTALL)
    assert len(scopes) == 1
    for key, inside in scopes:
        assert re.search(r'<button type="button"', inside)
        assert re.search(r'<label>layer <input type="range"', inside)
        assert html.count(f'"{key}"') >= 2
    data = json.loads(re.search(r'id="view-data">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    assert set(data["sweeps"]) == {key for key, _ in scopes}
    assert "prefers-reduced-motion" in html
    assert html.count("unsafe-eval") == 0 and "script-src 'sha256-" in html
    for theme, text in inline(build(waves.views[0], waves), key="k", description="d"):
        assert theme == "any" and "var(--beam-1)" in text


def test_a_page_without_waves_has_no_script_for_them(result: Result) -> None:
    bands = dataclasses.replace(result, views=result.views[-1:])
    assert "prefers-reduced-motion" not in page(bands)


def test_names_that_would_be_markup_are_text() -> None:
    hostile = frequency_response(name=HOSTILE)
    html = page(dataclasses.replace(hostile, views=(view(hostile, "Drive against"),)))
    assert HOSTILE not in html and "<img" not in html
    assert "&lt;img" in html and "\\u003cimg" in html


def test_views_survive_being_written_down(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "r.nc")
    read = Result.load(tmp_path / "r.nc")
    assert read.views == result.views
    for one in read.views:
        assert record_view(one, read) == record_view(one, result)


# In a browser

PLAY = """
<script>
const root = document.querySelector(".scope"), button = root.querySelector("button");
const slider = root.querySelector("input"), screen = root.querySelector(".against");
const seen = {};
function look(name) {
  const data = screen.getContext("2d").getImageData(0, 0, screen.width, screen.height).data;
  let sum = 0, lit = 0;
  for (let i = 0; i < data.length; i += 4) {
    sum = (sum * 31 + data[i] + 7 * data[i + 3]) % 1e9;
    lit += data[i + 3] > 0;
  }
  const layer = root.querySelector("output").textContent;
  seen[name] = { sum: sum, lit: lit, layer: layer, says: button.textContent };
}
setTimeout(function () {
  seen.focus = [button, slider].map(function (e) { e.focus(); return document.activeElement === e; });
  look("still"); setTimeout(function () { look("waiting"); button.click(); }, 500);
}, 500);
setTimeout(function () { look("early"); }, 1800);
setTimeout(function () { look("later"); }, 3400);
setTimeout(function () { look("next"); button.click(); look("paused"); }, 9000);
setTimeout(function () {
  look("rests"); slider.value = "5"; slider.dispatchEvent(new Event("input")); look("fifth");
  seen.valued = slider.getAttribute("aria-valuetext");
  document.title = encodeURIComponent(JSON.stringify(seen));
}, 10000);
</script>
"""


FRAMES = """
<script>
// Time is virtual here and no frame is ever due.
window.requestAnimationFrame = function (f) {
  return setTimeout(function () { f(performance.now()); }, 100);
};
</script>
"""

REDUCED = """
<script>
const known = window.matchMedia;
window.matchMedia = function (query) {
  const motion = { matches: true, addEventListener: function () {} };
  return query.includes("motion") ? motion : known.call(window, query);
};
</script>
"""


def played(result: Result, path: Path, *, reduced: bool) -> Any:
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page(result))
    html = html.replace("<head>", f"<head>{FRAMES}{REDUCED if reduced else ''}", 1)
    path.write_text(html.replace("</body>", f"{PLAY}</body>"), encoding="utf-8")
    opened = open_page(path)
    assert opened.errors == ()
    return opened.probed


@pytest.mark.browser
def test_the_beam_moves_when_it_is_set_going_and_goes_on_to_the_next_layer(
    waves: Result, tmp_path: Path
) -> None:
    seen = played(waves, tmp_path / "page.html", reduced=False)
    assert seen["focus"] == [True, True]
    assert seen["still"]["lit"] > 1000
    assert seen["still"]["sum"] == seen["waiting"]["sum"]
    assert [seen[at]["says"] for at in ("still", "early", "paused")] == ["Play", "Pause", "Play"]
    assert len({seen[at]["sum"] for at in ("still", "early", "later")}) == 3
    assert (seen["early"]["layer"], seen["next"]["layer"]) == ("2", "3")
    assert seen["paused"]["sum"] == seen["rests"]["sum"]
    assert seen["fifth"]["layer"] == "7" and seen["valued"] == "layer 7"
    assert seen["fifth"]["sum"] != seen["rests"]["sum"]


@pytest.mark.browser
def test_where_motion_is_to_be_reduced_whole_figures_follow_each_other(waves: Result, tmp_path: Path) -> None:
    seen = played(waves, tmp_path / "page.html", reduced=True)
    # Within one layer nothing moves: the figure is that of the still screen.
    assert seen["early"]["layer"] == "2" and seen["early"]["sum"] == seen["still"]["sum"]
    assert seen["later"]["layer"] == "3" and int(seen["next"]["layer"]) > 5


@pytest.mark.browser
def test_the_page_itself_runs_under_its_policy(waves: Result, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(waves), encoding="utf-8")
    opened = open_page(path, dark=True)
    assert opened.errors == () and opened.requests == ()
    assert 'class="scope" data-sweep="a0v0">' in opened.dom.replace(' hidden=""', "")


# Of real runs

ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"signal": "tone", "tones": 2},
    {"signal": "impulse", "pulses": 4},
    {"listen": "head_out"},
    {"listen": "head_out", "signal": "tone", "tones": 2},
    {"listen": "logits"},
    {"layer": 0, "site": "attn_out", "signal": "noise"},
)


@pytest.fixture(scope="module")
def circuit() -> Any:
    return testbed.load_circuit("delay_chain")


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_whatever_was_put_in_and_heard_can_be_drawn(circuit: Any, asked: dict[str, Any]) -> None:
    rows = circuit.tokens(np.random.default_rng(0), 2, 64)
    given = {"frequency_response": {"directions": 2, **asked}}
    run = rl.run(circuit.model(), rows, "frequency_response", parameters=given, baselines=(), progress=False)
    result = run["frequency_response"]
    assert len(result.views) >= 2
    for one in result.views:
        assert "error" not in record_view(one, result), one.title
