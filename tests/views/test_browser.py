"""The pages in a real browser: everything drawn, nothing fetched, nothing executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resonance_lens.runs import Run
from resonance_lens.views import show
from resonance_lens.views.page import render
from resonance_lens.views.text import visible
from tests.views.chromium import Opened, in_frame, open_page, with_probe
from tests.views.example_run import HOSTILE
from tests.views.example_signals import texts

pytestmark = pytest.mark.browser

ATTENTION_HEADS, PROMPTS = 4, 4

TRACK_GROUPS, TRACKS = 2, 4
"""Views of CircuitsVis for values of tokens, and strips of text for them: two of angles have no such view."""


STRIPS = ("colored_tokens", "token_values")
"""Kinds of view whose still picture is text, not a figure."""


@pytest.fixture(scope="module")
def opened(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The page as users have it, every box open."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    hostile_run.report(path)
    return open_page(path)


@pytest.fixture(scope="module")
def probed(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the page looks like from inside."""
    path = tmp_path_factory.mktemp("probed") / "report.html"
    path.write_text(with_probe(render(hostile_run)), encoding="utf-8")
    return open_page(path).probed


def test_no_console_error(opened: Opened) -> None:
    assert opened.errors == ()


def test_no_network_request(opened: Opened) -> None:
    assert opened.requests == ()


def test_every_interactive_view_is_mounted(opened: Opened) -> None:
    assert opened.dom.count('data-mounted="yes"') == 2 * PROMPTS + TRACK_GROUPS


def test_nothing_executed(probed: Any) -> None:
    # Without its policy: the escaping alone must hold.
    assert probed["alerted"] == ""
    assert probed["injected"] == 0
    assert probed["resources"] == []


def test_every_attention_view_is_drawn(probed: Any) -> None:
    drawn = [view for view in probed["views"] if view["canvases"]]
    assert [view["canvases"] for view in drawn] == [ATTENTION_HEADS + 1] * PROMPTS
    assert [view["blank"] for view in drawn] == [0] * PROMPTS


def test_tokens_are_shown_as_text_in_circuitsvis(probed: Any, hostile_run: Run) -> None:
    views = [view for view in probed["views"] if view["tokens"]]
    assert len(views) == PROMPTS + TRACK_GROUPS
    shown = [token.replace("\u2060", "") for token in views[0]["tokens"]]
    assert shown == _expected(hostile_run)
    assert {"<script>alert(1)</script>", "</script>", "<s>", "&amp;", "two¶lines"} <= set(shown)


def test_tokens_are_shown_as_text_in_the_still_picture(probed: Any, hostile_run: Run) -> None:
    assert len(probed["strips"]) == 2 * PROMPTS + TRACKS
    assert probed["strips"][0] == _expected(hostile_run)
    assert "·\U0001f642\U0001f44d\U0001f3fd" in probed["strips"][0]
    assert "·\u05e9\u05dc\u05d5\u05dd" in probed["strips"][0]


def test_values_of_tokens_are_on_the_text_of_the_prompt(probed: Any, hostile_run: Run) -> None:
    expected = [visible(token) for token in texts(HOSTILE)]
    views = [view["tokens"] for view in probed["views"] if view["tokens"]][-TRACK_GROUPS:]
    for tokens in views:
        assert [token.replace("\u2060", "") for token in tokens] == expected
    assert probed["strips"][-TRACKS:] == [expected] * TRACKS


def test_ids_are_shown_as_text(probed: Any) -> None:
    assert any("<b onmouseover=alert(1)>id</b>" in text for text in probed["summaries"])


def test_every_box_opens_and_every_figure_shows(probed: Any, run: Run) -> None:
    assert probed["closed"] == 0
    still = [v for result in run.results.values() for v in result.views if v.kind not in STRIPS]
    assert probed["figures"] == len(still)


def test_headings_descend_one_level_at_a_time(probed: Any) -> None:
    levels = probed["headings"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_narrow_screen_scrolls_only_inside_boxes(run: Run, tmp_path: Path, dark: bool) -> None:
    path = tmp_path / "report.html"
    path.write_text(with_probe(render(run)), encoding="utf-8")
    seen: Any = open_page(in_frame(path, width=400), dark=dark).probed
    assert seen["width"] == 400
    assert seen["scrollWidth"] <= seen["width"]
    assert seen["dark"] is dark
    assert seen["figures"] == 17


def test_the_view_of_a_notebook_cell(hostile_run: Run, tmp_path: Path) -> None:
    cell = show(hostile_run["attention_entropy"])._repr_html_()
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>cell</title>{cell}<p>after</p>")
    seen = open_page(path)
    assert seen.errors == ()
    assert seen.requests == ()
    assert "<p>after</p>" in seen.dom


def test_the_view_of_signals_in_a_notebook_cell(hostile_run: Run, tmp_path: Path) -> None:
    path = show(hostile_run["signals"]).save(tmp_path / "view.html")
    seen = open_page(path)
    assert seen.errors == ()
    assert seen.requests == ()
    assert seen.dom.count('data-mounted="yes"') == TRACK_GROUPS


def test_the_saved_view_of_a_result(hostile_run: Run, tmp_path: Path) -> None:
    path = show(hostile_run["attention_entropy"]).save(tmp_path / "view.html")
    seen = open_page(path)
    assert seen.errors == ()
    assert seen.dom.count('data-mounted="yes"') == PROMPTS


def _expected(run: Run) -> list[str]:
    assert run.exhibits is not None
    length = int(run.exhibits["length"][0])
    return [visible(HOSTILE[i % len(HOSTILE)]) for i in range(length)]


# The checks themselves, on pages with the faults that they look for.


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ('console.error("boom Error")', "boom Error"),
        ('throw new Error("late")', "Uncaught Error: late"),
        ("CircuitsVis.render()", "Uncaught ReferenceError"),
    ],
)
def test_sabotage_errors_are_seen(tmp_path: Path, fault: str, seen: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>x</title><script>{fault}</script>")
    assert any(seen in error for error in open_page(path).errors)


def test_sabotage_requests_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<!doctype html><title>x</title><img src="http://example.org/a.png">')
    assert open_page(path).requests == ("http://example.org/a.png",)


def test_sabotage_injected_markup_is_seen(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = with_probe(render(run)).replace("</h1>", "<img src=x onerror=alert(1)></h1>")
    path.write_text(page, encoding="utf-8")
    seen: Any = open_page(path).probed
    assert seen["alerted"] == "yes"
    assert seen["injected"] == 1


def test_the_policy_stops_what_escaping_would_miss(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    script = "<script>document.body.dataset.ran = 'yes'</script>"
    path.write_text(render(run).replace("</h1>", f"{script}</h1>"), encoding="utf-8")
    seen = open_page(path, fragment="")
    assert 'data-ran="yes"' not in seen.dom
    assert any("Content Security Policy" in error for error in seen.errors)


def test_sabotage_an_empty_chart_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = (
        '<!doctype html><html><head><meta http-equiv="Content-Security-Policy" content=""><title>x</title>'
        '</head><body><details open data-view="v"><div class="circuits"><div id="v"><canvas></canvas>'
        "</div></div></details></body></html>"
    )
    path.write_text(with_probe(page))
    seen: Any = open_page(path).probed
    assert seen["views"][0]["blank"] == 1
