"""The content of every view, without drawing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views import record
from resonance_lens.views.build import build
from resonance_lens.views.content import Lines
from resonance_lens.views.lines import belongs, mean_over_heads
from resonance_lens.views.record import describe, record_view
from tests.views.example_results import CATEGORIES
from tests.views.example_run import make_exhibits, make_run


@pytest.fixture(scope="module")
def records(run: Run) -> dict[str, dict[str, Any]]:
    return {entry["title"]: entry for entry in record(run)}


def test_every_view_of_every_result_is_there_and_is_plain_data(run: Run) -> None:
    entries = record(run)
    assert [(e["analysis"], e["title"]) for e in entries] == [
        (name, view.title) for name in run for view in run[name].views
    ]
    assert not any("error" in entry for entry in entries)
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_every_view_says_what_it_shows_when_it_misleads_and_its_evidence(run: Run) -> None:
    for entry in record(run):
        view = next(v for v in run[entry["analysis"]].views if v.title == entry["title"])
        assert entry["says"] == view.says
        assert entry["misleads"] == view.misleads
        assert entry["evidence"] == run[entry["analysis"]].provenance["evidence"]


def test_lines_with_heads_are_means_over_heads_and_say_so(records: dict[str, Any], run: Run) -> None:
    (panel,) = records["Coherence over the layers"]["panels"]
    assert panel["y"] == "phase coherence, mean over heads"
    assert panel["units"] == "dimensionless"
    values = [line for line in panel["lines"] if not line["reference"]]
    assert [line["label"] for line in values] == ["keep", "drop"]
    assert [line["heads"] for line in values] == [4, 4]
    view = run["phase_coherence"].views[0]
    drawn = build(view, run["phase_coherence"])
    assert isinstance(drawn, Lines)
    expected = (
        run["phase_coherence"].data["coherence"].sel(category="all", first_position="drop").mean("head")
    )
    np.testing.assert_allclose(drawn.panels[0].lines[-1].y, expected.values, rtol=1e-6)


def test_each_series_has_its_own_reference(records: dict[str, Any]) -> None:
    (panel,) = records["Coherence over the layers"]["panels"]
    references = [line for line in panel["lines"] if line["reference"]]
    assert [line["label"] for line in references] == [
        "uniform attention over the same window, keep",
        "uniform attention over the same window, drop",
    ]


def test_a_reference_that_all_series_share_is_one_line(records: dict[str, Any]) -> None:
    for panel in records["Do heads agree"]["panels"]:
        assert sum(line["reference"] for line in panel["lines"]) == 1


def test_many_series_have_one_band_of_references(run: Run) -> None:
    result = run["attention_entropy"]
    data = result.data.copy()
    data["entropy_uniform"] = data["entropy_uniform"] + np.arange(5)[:, None, None, None]
    data["entropy_uniform"].attrs = result.data["entropy_uniform"].attrs
    entry = record_view(result.views[0], dataclasses.replace(result, data=data))
    lines = entry["panels"][0]["lines"]
    (reference,) = [line for line in lines if line["reference"]]
    assert reference["label"] == "uniform attention over the same window (range over category)"
    assert reference["band"]
    assert [line["label"] for line in lines if not line["reference"]] == list(CATEGORIES)


def test_two_variables_are_two_panels_with_their_own_references(records: dict[str, Any]) -> None:
    panels = records["Do heads agree"]["panels"]
    assert [panel["y"] for panel in panels] == ["order parameter of the heads", "pairwise consistency"]
    assert [[line["variable"] for line in p["lines"] if line["reference"]] for p in panels] == [
        ["order_parameter_independent"],
        ["consistency_null"],
    ]
    assert all(line["band"] for p in panels for line in p["lines"] if not line["reference"])


def test_maps_have_their_size_units_and_framed_heads(records: dict[str, Any], run: Run) -> None:
    entry = records["Which heads exceed the null"]
    assert (entry["x"], entry["y"]) == ("layer", "head")
    assert (entry["columns"], entry["rows"], entry["cells"]) == (6, 4, [24])
    assert entry["selection"] == "category: all, first position: drop"
    low, high = entry["limits"]
    assert low == -high
    assert entry["framed"] == [t.label for t in run["phase_coherence"].targets(5)]


def test_a_dimension_that_is_not_selected_becomes_panels(records: dict[str, Any]) -> None:
    entry = records["Where on the circle"]
    assert entry["panels"] == ["first position: keep", "first position: drop"]
    assert entry["limits"] == pytest.approx([-np.pi, np.pi])
    assert entry["units"] == "radians"


def test_a_matrix_takes_its_colours_from_what_is_off_the_diagonal(records: dict[str, Any]) -> None:
    entry = records["Which heads move together"]
    assert (entry["columns"], entry["rows"]) == (24, 24)
    assert entry["limits"][1] < 1
    assert entry["notes"] == ["Values beyond the ends of the colour bar have the colour of its ends."]


def test_limits_of_the_view_are_kept(records: dict[str, Any]) -> None:
    assert records["Attention to the first token"]["limits"] == [0.0, 1.0]


def test_attention_views_have_tokens_heads_and_cells(records: dict[str, Any], run: Run) -> None:
    entry = records["What the top heads look at"]
    heads = [f"L{layer}H{head}" for layer, head in run["phase_coherence"].views[3].heads]
    assert [prompt["category"] for prompt in entry["prompts"]] == list(CATEGORIES[1:])
    first = entry["prompts"][0]
    assert first["heads"] == heads
    assert first["cells"] == 4 * 24 * 24
    assert first["tokens"][:3] == ["<|im_start|>", "The", "·pendulum"]
    assert first["causal"]
    assert [len(prompt["tokens"]) for prompt in entry["prompts"]] == [24, 21, 18, 15]


def test_without_exhibits_the_attention_views_say_so(run: Run) -> None:
    result = dataclasses.replace(run["phase_coherence"], exhibits=None)
    entry = record_view(result.views[3], result)
    assert entry["prompts"] == []
    assert entry["notes"] == ["This run kept no attention patterns, so there is nothing to show here."]


def test_heads_that_were_not_kept_are_named(run: Run) -> None:
    view = dataclasses.replace(
        run["phase_coherence"].views[3], heads=((99, 1), *run["phase_coherence"].views[3].heads)
    )
    entry = record_view(view, run["phase_coherence"])
    assert "The run kept no patterns of L99H1." in entry["notes"]


def test_long_prompts_are_block_averaged_and_say_so() -> None:
    long = make_run(length=300, exhibits=1)
    view = long["phase_coherence"].views[3]
    entry = record_view(view, long["phase_coherence"])
    assert entry["prompts"][0]["block"] == 3
    assert entry["prompts"][0]["cells"] == 4 * 100 * 100
    assert any("block-averaged" in note and "3 x 3" in note for note in entry["notes"])


def test_more_heads_than_can_be_drawn_are_cut_and_say_so() -> None:
    wide = make_run(n_layers=4, n_heads=8)
    heads = tuple((layer, head) for layer in range(4) for head in range(8))
    exhibits = make_exhibits(np.random.default_rng(0), list(heads), 8, 1)
    run = dataclasses.replace(wide, exhibits=exhibits)
    view = dataclasses.replace(wide["phase_coherence"].views[3], heads=heads)
    entry = record_view(view, run["phase_coherence"])
    assert len(entry["prompts"][0]["heads"]) == 12
    assert "The first 12 of 32 heads are shown." in entry["notes"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"variables": ("coherense",)}, "Did you mean 'coherence'?"),
        ({"variables": ()}, "names no variable"),
        ({"references": ("coherence_unifrom",)}, "Did you mean 'coherence_uniform'?"),
        ({"series": None}, "needs a selection along first_position"),
        ({"series": None, "select": {"first_position": "dorp"}}, "Did you mean 'drop'?"),
        (
            {"kind": "matrix", "variables": ("coherence_prompt",)},
            "needs a selection along prompt or first_position",
        ),
        ({"kind": "layer_head_map", "variables": ("coherence", "angle")}, "exactly one variable"),
        ({"kind": "pie"}, "Known: attention_heads, colored_tokens, layer_head_map"),
    ],
)
def test_a_view_that_cannot_be_drawn_says_why(run: Run, change: dict[str, Any], said: str) -> None:
    view = dataclasses.replace(run["phase_coherence"].views[0], **change)
    assert said in record_view(view, run["phase_coherence"])["error"]


def test_a_map_without_heads_says_so(run: Run) -> None:
    view = ViewSpec(kind="layer_head_map", title="x", says="", misleads="", variables=("order_parameter",))
    assert "has no dimension 'head'" in record_view(view, run["head_sync"])["error"]


def test_missing_values_are_left_open_and_said(run: Run) -> None:
    result = run["phase_coherence"]
    data = result.data.copy(deep=True)
    data["coherence"][:, :, 2] = np.nan
    data["coherence_squared_effect"][:, :, 2] = np.nan
    broken = Result(name=result.name, data=data, provenance=result.provenance)
    assert record_view(result.views[0], broken)["notes"] == ["Layers without a value are left open."]
    assert record_view(result.views[1], broken)["notes"] == ["Cells without a value are grey."]


def test_angles_are_averaged_as_directions() -> None:
    points = np.array([[np.pi - 0.1, -np.pi + 0.1], [0.1, np.nan], [np.nan, np.nan]])
    mean = mean_over_heads(points, cyclic=True)
    assert abs(mean[0]) == pytest.approx(np.pi)
    assert mean[1] == pytest.approx(0.1)
    assert np.isnan(mean[2])


def test_a_reference_belongs_to_the_longest_name_that_it_begins_with() -> None:
    names = ["coherence", "coherence_squared"]
    assert belongs("coherence_squared_null", "coherence_squared", names)
    assert not belongs("coherence_squared_null", "coherence", names)
    assert belongs("chance", "coherence", names)


def test_every_view_has_a_description_for_those_who_do_not_see_it(run: Run) -> None:
    for name in run:
        for view in run[name].views:
            sentence = describe(build(view, run[name]))
            assert sentence.endswith(".") and len(sentence) > 30
