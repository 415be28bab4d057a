"""The report: everything that must be on it, nothing from outside, everything escaped."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views import circuits, page, show, tables
from resonance_lens.views.page import render, write_report
from resonance_lens.views.text import number
from tests.views.example_run import make_run
from tests.views.example_signals import TOKENS


class Reader(HTMLParser):
    """Text, tags and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._raw = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = int(tag in ("script", "style"))

    def handle_endtag(self, tag: str) -> None:
        self._raw = 0

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return render(run)


@pytest.fixture(scope="module")
def small(run: Run) -> Run:
    """One analysis of the run, for what does not depend on how many there are."""
    return dataclasses.replace(run, results={"belief_collapse": run["belief_collapse"]})


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def test_every_analysis_is_there_with_summary_evidence_and_comparisons(read: Reader, run: Run) -> None:
    for name in run:
        result = run[name]
        assert name in read.text
        assert result.summary in read.text
        for names in (result.provenance["baselines"], result.provenance["nulls"]):
            for one in names:
                assert one.replace("_", " ") in read.text
        assert f"{result.provenance['minimum_effect']:g}" in read.text
    badges = [attrs for tag, attrs in read.tags if (attrs.get("class") or "").startswith("badge ")]
    assert {attrs["title"] for attrs in badges} >= {
        "measured: the model's own activations on an axis that has an order",
        "proxy: measured, in a coordinate that we chose",
    }


def test_every_view_says_what_it_shows_and_when_it_misleads(read: Reader, run: Run) -> None:
    for name in run:
        for view in run[name].views:
            assert view.title in read.text
            assert view.says in read.text
            assert f"Misleads when {view.misleads}" in read.text


def test_the_facts_of_the_run(read: Reader) -> None:
    for fact in (
        "smollm2-135m, 6 layers, 4 heads, 576 dimensions",
        "96 prompts, 3712 tokens",
        "factual 24, narrative 24",
        "float32, digest 5af571cbf074, processing: none",
        "torch 2.13.0",
        "2026-11-22 06:30, took 41.7 s",
    ):
        assert fact in read.text


def test_targets_of_all_analyses_are_merged(run: Run) -> None:
    merged = tables.places(run)
    assert {place.label for place in merged} >= {"L2", run["phase_coherence"].ranked[0].label}
    shared = dataclasses.replace(run["head_sync"], ranked=run["phase_coherence"].ranked[3:4])
    both = dataclasses.replace(run, results={**run.results, "head_sync": shared})
    by_label = {place.label: [entry[0] for entry in place.named] for place in tables.places(both)}
    assert by_label[shared.ranked[0].label][:2] == ["phase_coherence", "head_sync"]
    far = dataclasses.replace(run["head_sync"], ranked=tuple(run["phase_coherence"].ranked[:1]) * 40)
    assert len(tables.places(dataclasses.replace(run, results={"head_sync": far}))[0].named) == 10
    counts = [len(named) for named in by_label.values()]
    assert counts == sorted(counts, reverse=True)


def test_every_figure_has_words_for_those_who_do_not_see_it(read: Reader) -> None:
    figures = [attrs for tag, attrs in read.tags if tag == "svg"]
    assert len(figures) > 10
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in figures)


def test_ids_are_unique_and_references_resolve(html: str, read: Reader) -> None:
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | {
        (attrs[key] or "")[1:]
        for _, attrs in read.tags
        for key in ("xlink:href", "href")
        if (attrs.get(key) or "").startswith("#")
    }
    assert used <= set(ids)


def test_angles_of_tokens_are_colours_of_a_circle_and_say_why_there_is_no_other_view(html: str) -> None:
    section = _section(html, "signals").split("<h3>Phase of tokens</h3>")[1]
    assert "CircuitsVis has no colours that meet at the ends of a circle" in section
    assert "<details data-view" not in section.split("</section>")[0]
    assert 'class="circle"' in section
    ends = re.findall(r"linear-gradient\(90deg, (#\w+), .*?, (#\w+)\)", section)
    assert len(ends) == 1 and _near(*ends[0])
    faces = re.findall(r'<bdi style="background:(#\w+);color:(#\w+)" title="([^"]+)">', section)
    assert len(faces) == 2 * TOKENS
    for face, ink, _ in faces:
        assert abs(_light(face) - _light(ink)) > 0.3
    # A token's colour is its angle's: twelve tokens later it is the same.
    assert _near(faces[0][0], faces[12][0]) and not _near(faces[0][0], faces[6][0])


def _light(colour: str) -> float:
    return float(np.dot([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], (0.299, 0.587, 0.114)))


def _near(one: str, other: str) -> bool:
    return all(abs(int(one[i : i + 2], 16) - int(other[i : i + 2], 16)) < 6 for i in (1, 3, 5))


def test_values_of_tokens_are_said_when_pointed_at(html: str, run: Run) -> None:
    section = _section(html, "signals").split("<h3>Power and surprise of tokens</h3>")[1]
    surprise = run["signals"].data["surprise"].values
    tokens = re.findall(r'<bdi style="--v:(\d+)%(;--c:var\(--series-2\))?" title="([^"]+)">', section)
    assert len(tokens) >= 2 * TOKENS
    for (share, orange, said), value in zip(tokens[TOKENS : 2 * TOKENS], surprise, strict=True):
        assert bool(orange) == (value < 0)
        assert int(share) == pytest.approx(60 * abs(value) / np.abs(surprise).max(), abs=0.51)
        assert said == number(float(value))


def test_a_token_without_a_value_has_no_colour(run: Run) -> None:
    result = run["signals"]
    data = result.data.copy(deep=True)
    data["band_power"][:3] = np.nan
    changed = dataclasses.replace(result, data=data, views=result.views[-2:-1])
    html = render(dataclasses.replace(run, results={"signals": changed}))
    assert html.count('<bdi style="background:none" title="no value">') == 3


def test_a_track_alone_in_its_group_is_named_once(html: str) -> None:
    section = Reader(_section(html, "signals").split("<h3>Power and surprise of tokens</h3>")[1]).text
    shown = section.split("Explore in CircuitsVis")[0]
    assert shown.count("power in the band") == 1
    assert f"power in the band (dimensionless), {TOKENS} tokens" in shown


def test_the_small_trace_of_a_spectrum_is_on_its_axes(html: str) -> None:
    card = html.split('<a href="#signals">')[1].split("</article>")[0]
    points = re.findall(r'class="series-1" points="([^"]+)"', card)[0].split()
    x = np.array([float(point.split(",")[0]) for point in points])
    frequency = np.arange(1, 33) / 64
    expected = 200 * np.log(frequency / frequency[0]) / np.log(frequency[-1] / frequency[0])
    np.testing.assert_allclose(x, expected, atol=0.06)
    assert "over frequency (cycles per token) 0.0156 to 0.5" in card


def test_one_copy_of_the_bundle(html: str) -> None:
    assert html.count("var CircuitsVis=") == 1


def test_nothing_comes_from_outside(read: Reader) -> None:
    for tag, attrs in read.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attrs.get(key) or ""
            assert not re.match(r"(https?:)?//", value), (tag, key, value)
    assert not [tag for tag, _ in read.tags if tag in ("link", "base", "object", "embed", "iframe")]


def test_the_policy_allows_only_the_scripts_of_the_page(read: Reader) -> None:
    (policy,) = [a["content"] for t, a in read.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("sha256-") == 2
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_no_machine_paths(html: str, read: Reader) -> None:
    assert str(Path.home()) not in read.text
    assert os.getcwd() not in html


def test_figures_take_their_colours_from_the_page(html: str) -> None:
    assert "var(--series-1)" in html
    assert not re.search(r"#fe[0-9a-f]{4}", html)
    assert "prefers-color-scheme: dark" in html


def test_the_size_for_a_model_of_270_heads(tmp_path: Path) -> None:
    large = make_run(n_layers=30, n_heads=9, length=128)
    path = write_report(large, tmp_path / "report.html")
    assert path.stat().st_size < 4_000_000


def test_patterns_that_would_make_the_page_large_stay_pictures(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PATTERN_BUDGET", 6_000)
    assert "more of these prompts are shown only as pictures" in Reader(render(run)).text


def test_hostile_text_is_escaped(hostile_run: Run) -> None:
    data = _renamed(hostile_run)
    text = render(data)
    tags = {tag for tag, _ in Reader(text).tags}
    assert not tags & {"img", "b", "s", "marquee"}
    assert "<marquee" not in text
    assert "alert(1)</script>" not in text
    assert Reader(text).text.count("<marquee>") > 10


def _renamed(run: Run) -> Run:
    """The run with markup in every name that a user or a plug-in chooses."""
    bad = "<marquee>"
    result = run["phase_coherence"]
    data = result.data.assign_coords(category=["all", *(f"{bad}{i}" for i in range(4))])
    data["coherence"].attrs = {"long_name": f"{bad}long", "units": f"{bad}unit"}
    views = tuple(
        dataclasses.replace(v, title=v.title + bad, says=bad, misleads=bad, series=v.series and "category")
        for v in result.views
    )
    views = (dataclasses.replace(views[0], select={"first_position": "keep"}), *views[1:])
    claims = [
        {**claim, "long_name": bad, "against": bad, "null": bad, "places": bad, "units": bad}
        for claim in result.provenance["claims"]
    ]
    about = {**result.provenance, "title": bad, "baselines": [bad], "source": bad, "evidence": bad}
    about |= {"claims": claims, "calibrated": {"calibrated": False, "why": bad}}
    ranked = tuple(dataclasses.replace(t, reason=bad, site=bad) for t in result.ranked)
    changed = Result(
        name=f"{bad}name", data=data, provenance=about, summary=bad, methods=bad, views=views, ranked=ranked
    )
    provenance = {
        **run.provenance,
        "model": {"model_name": f"{bad}</title>", "host": bad},
        "versions": {bad: bad, "resonance_lens": bad},
        "prompts": {"categories": {bad: 1}},
    }
    return Run(results={changed.name: changed}, provenance=provenance, exhibits=run.exhibits)


def test_a_view_that_cannot_be_drawn_does_not_cost_the_page(run: Run) -> None:
    result = run["belief_collapse"]
    wrong = ViewSpec(kind="matrix", title="Wrong", says="", misleads="", variables=("nothing",))
    broken = dataclasses.replace(result, views=(wrong, *result.views))
    text = Reader(render(dataclasses.replace(run, results={"belief_collapse": broken}))).text
    assert "There is no variable 'nothing'" in text
    assert "When belief settles" in text


def test_a_run_that_says_nothing_about_itself() -> None:
    import xarray as xr

    data = xr.Dataset({"x": ("layer", [1.0, np.nan])}, {"layer": [0, 1]})
    view = ViewSpec(kind="lines", title="X", says="", misleads="", variables=("x",))
    bare = Result(name="bare", data=data, provenance={}, views=(view,))
    text = Reader(render(Run(results={"bare": bare}, provenance={}))).text
    assert "evidence: not stated" in text
    assert "No analysis of this run names a place." in text


def test_without_circuitsvis_the_pictures_stay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "find_spec", lambda name: None)
    text = render(run)
    assert "var CircuitsVis=" not in text
    assert circuits.MISSING in Reader(text).text
    assert "<details data-view" not in text
    assert len(text) < 1_000_000


def test_the_same_run_gives_the_same_page(run: Run, html: str) -> None:
    assert render(run) == html


def test_a_run_read_back_gives_the_same_page(run: Run, html: str, tmp_path: Path) -> None:
    run.save(tmp_path / "run")
    assert render(Run.load(tmp_path / "run")) == html


def test_writing_is_atomic(small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    assert small.report(path) == path
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(ResultError, match="No space left on device"):
            write_report(small, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_missing_folder_is_one_sentence(small: Run, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be written"):
        write_report(small, tmp_path / "no" / "report.html")


def test_half_a_surrogate_pair_does_not_stop_the_page(run: Run) -> None:
    broken = dataclasses.replace(run["belief_collapse"], summary="bad \ud800 text")
    text = render(dataclasses.replace(run, results={"belief_collapse": broken}))
    text.encode("utf-8")
    assert "bad ? text" in text


def test_numbers_per_layer(run: Run) -> None:
    table = tables.by_layer(run["head_sync"])
    assert table is not None
    assert [name for name, _ in table.groups] == [
        "",
        "first position: keep",
        "first position: drop",
        "by category, first position: drop",
    ]
    assert table.header[:4] == ("layer", "value", "interval", "independent heads")
    assert len(table.rows) == 6
    assert sum(width for _, width in table.groups) == len(table.header) == len(table.rows[0])
    value = float(
        run["head_sync"].data["order_parameter"].sel(category="all", first_position="keep", layer=2)
    )
    assert float(table.rows[2][1]) == pytest.approx(value, abs=6e-4)


def test_heads_are_averaged_in_the_table_and_it_says_so(run: Run) -> None:
    table = tables.by_layer(run["attention_entropy"])
    assert table is not None
    assert table.caption == "attention entropy, mean over heads (nats)"
    assert "heads from, to" in table.header


def test_the_method_names_version_parameters_and_definition(run: Run) -> None:
    said = tables.method(run["phase_coherence"])
    assert "phase_coherence, version 1 with circle = full and first_position = both." in said
    assert "Definition: SCIENCE 1." in said


def test_baselines_and_nulls_are_kept_apart_with_the_smallest_effect_of_each_claim(run: Run) -> None:
    assert tables.declared(run["phase_coherence"]) == [
        ("Nulls: a test, with p and q", "permuted keys, for squared coherence"),
        ("Baselines: an effect, no p", "uniform causal, random weights, shuffled tokens"),
        ("Smallest effect that counts", "squared coherence 0.05; coherence 0.05"),
    ]
    assert tables.declared(run["attention_entropy"])[2][1] == "attended distance 1 token; entropy 0.1"
    assert [text for _, text in tables.declared(run["belief_collapse"])] == ["none", "none", "entropy 0.5"]


def test_how_it_was_compared_is_on_the_page_and_not_folded(html: str, run: Run) -> None:
    for name in run:
        text = Reader(_section(html, name).split('<div class="fold">')[0]).text
        assert run[name].methods in text
        for _, said in tables.declared(run[name]):
            assert said in text


def _section(html: str, name: str) -> str:
    """The part of a page that is about one analysis."""
    return html.split(f'<section class="analysis" id="{name}"')[1].split('<section class="analysis"')[0]


def _tables(html: str) -> list[list[list[str]]]:
    """The text of every cell of every table of counts."""
    return [
        [
            [
                re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", cell))
                for cell in re.findall(r"<t[hd].*?</t[hd]>", row)
            ]
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        ]
        for table in re.findall(r'<table class="counts">.*?</table>', html, re.DOTALL)
    ]


def test_the_counts_of_a_claim_are_in_a_table(html: str) -> None:
    section = _section(html, "phase_coherence")
    assert _tables(section) == [
        [
            [
                "",
                "heads",
                "differ from their null (q \u2264 0.05)",
                "and surely by more than 0.05",
                "differ, and exceed the random-weight twin by that much",
                "differ, and exceed shuffled text by that much",
            ],
            ["The model", "24", "10", "6", "5", "2"],
            ["Shuffled text", "24", "9", "4", "", ""],
            ["The random-weight twin", "24", "12", "0", "", ""],
        ]
    ]
    assert (
        "Of the 10 heads that differ in the model, 2 differ in the random-weight twin as well, which is "
        "architecture (0 of all 24 differ there by more than 0.05); 5 exceed the random-weight twin by more "
        "than 0.05, which is learned; 2 exceed shuffled text by more than 0.05, which depends on the order "
        "of the words."
    ) in Reader(section).text


def test_a_baseline_that_was_not_run_says_so_in_its_row(html: str) -> None:
    section = _section(html, "head_sync")
    (table,) = _tables(section)
    assert table[1:] == [
        ["The model", "6", "5", "3", "1"],
        ["Shuffled text", "6", "6", "4"] + [""],
        ["The random-weight twin", "not run: this host cannot be given other weights."],
    ]
    text = Reader(section).text
    assert "it is not known how many are architecture, because the random-weight twin was not run" in text
    assert "which is learned" not in text


def test_a_refused_test_has_no_table_and_says_why(html: str) -> None:
    section = _section(html, "attention_entropy")
    assert _tables(section) == []
    said = (
        "No heads are counted, and nothing is claimed: 3 prompts can reach no p below 0.25; 6 prompts could."
    )
    assert said in Reader(section).text


def test_without_claims_there_is_no_table_and_nothing_about_calibration(html: str) -> None:
    section = _section(html, "belief_collapse")
    assert _tables(section) == []
    assert "calibrat" not in section.split("<details><summary>Parameters")[0]


def test_where_nothing_differs_there_is_nothing_to_divide(run: Run) -> None:
    result = run["phase_coherence"]
    data = result.data.copy()
    data["coherence_squared_q"] = data["coherence_squared_q"] * 0 + 1
    (found,) = tables.found(dataclasses.replace(result, data=data))
    assert found.rows[0] == ("The model", ("24", "0", "0", "0", "0"))
    assert found.sentence == "None of the 24 heads differs from its null, so there is nothing to divide."


def test_an_uncalibrated_analysis_is_loud_and_a_calibrated_one_quiet(html: str, run: Run) -> None:
    loud = _section(html, "head_sync")
    assert '<span class="badge plain uncalibrated"' in loud
    assert (
        "Uncalibrated. Do not trust the p of this analysis: it rejects 9 % of true nulls at the level of 5 %."
    ) in Reader(loud).text
    # On its card as well, where its summary is read first.
    assert html.count('<p class="doubt">') == 2
    assert '<span class="badge plain calibrated" title="Its p are calibrated: 2,000 trials' in html
    assert '<span class="badge plain calibration-not-known"' in _section(html, "attention_entropy")


def test_provenance_is_json(read: Reader, run: Run) -> None:
    assert json.loads(tables.provenance_json(run.provenance))["seed"] == 0
    assert '"weights_fingerprint": "5af571cbf074e6d2"' in read.text


def test_the_notebook_view_is_one_frame(run: Run, tmp_path: Path) -> None:
    view = show(run["phase_coherence"])
    frame = Reader(view._repr_html_())
    ((tag, attrs),) = frame.tags
    assert tag == "iframe"
    assert attrs["sandbox"] == "allow-scripts"
    assert attrs["srcdoc"] == view.page
    assert view.save(tmp_path / "view.html").read_text(encoding="utf-8") == view.page
    assert "Worth patching" not in Reader(view.page).text
    assert len(repr(view)) < 200


def test_the_notebook_view_without_a_run_says_what_it_lacks(run: Run) -> None:
    alone = dataclasses.replace(run["phase_coherence"], exhibits=None)
    text = Reader(show(alone).page).text
    assert "This run kept no attention patterns" in text


def test_the_notebook_view_of_a_run_is_the_report(run: Run, html: str) -> None:
    assert show(run).page == html
