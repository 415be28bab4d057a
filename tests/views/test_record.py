"""The content of every view, without drawing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from resonance_lens.result import Result, ViewSpec
from resonance_lens.runs import Run
from resonance_lens.views import record
from resonance_lens.views.build import build
from resonance_lens.views.content import Lines
from resonance_lens.views.lines import belongs
from resonance_lens.views.means import mean_over_heads, share_of_mean
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
        "phase coherence, random weights",
        "phase coherence, shuffled tokens, keep",
        "phase coherence, shuffled tokens, drop",
    ]
    roles = ["baseline", "baseline", "random_weights", "shuffled_tokens", "shuffled_tokens"]
    assert [line["role"] for line in references] == roles


def _lines(view: ViewSpec, result: Result) -> Lines:
    drawn = build(view, result)
    assert isinstance(drawn, Lines)
    return drawn


def _percentile_interval(rows: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """Plain percentiles of resampled means, ``[2, layer]``: close to ours for many prompts."""
    rng = np.random.default_rng(7)
    means = [rows[rng.integers(0, len(rows), len(rows))].mean(axis=0) for _ in range(n)]
    return np.asarray(np.quantile(means, [0.025, 0.975], axis=0))


def test_the_interval_of_a_mean_over_heads_is_that_of_the_mean(run: Run) -> None:
    result = run["phase_coherence"]
    rng = np.random.default_rng(3)
    # Two heads that go up and down together and two that mirror them: their mean hardly moves.
    shared = rng.normal(0, 0.2, (200, 2, 6, 1)) * np.array([1, 1, -1, -1])
    rows = 0.6 + shared + rng.normal(0, 0.01, (200, 2, 6, 4))
    data = result.data.drop_dims("prompt").assign_coords(prompt=np.arange(200))
    data["coherence_prompt"] = (("prompt", "first_position", "layer", "head"), rows)
    data["coherence"] = data["coherence"].copy(data=np.broadcast_to(rows.mean(0), (5, 2, 6, 4)))
    drawn = _lines(result.views[0], dataclasses.replace(result, data=data))
    keep, drop = (line for line in drawn.panels[0].lines if not line.reference)
    for line, at in ((keep, 0), (drop, 1)):
        assert line.low is not None and line.high is not None
        expected = _percentile_interval(rows[:, at].mean(axis=-1), 4000)
        np.testing.assert_allclose([line.low, line.high], expected, atol=2.5e-4)
        assert float((line.high - line.low).max()) < 0.01  # that of one head is 0.06 wide
    assert "95 % interval over prompts of the mean over heads" in drawn.legend


def test_shares_of_a_mean_over_heads_have_its_mean_when_values_are_missing() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3, 5))
    np.testing.assert_allclose(share_of_mean(rows), rows.mean(axis=-1))
    rows[rng.random(rows.shape) < 0.3] = np.nan
    rows[:, 1, 2] = np.nan  # a head that has no value
    rows[:, 2] = np.nan
    expected = [
        np.mean([np.nanmean(rows[:, place, head]) for head in range(5) if (place, head) != (1, 2)])
        for place in range(2)
    ]
    np.testing.assert_allclose(share_of_mean(rows)[:, :2].mean(axis=0), expected)
    assert np.isnan(share_of_mean(rows)[:, 2]).all()


def test_without_the_rows_of_prompts_a_mean_over_heads_has_no_band_and_says_so(run: Run) -> None:
    result = run["phase_coherence"]
    bare = dataclasses.replace(result, data=result.data.drop_vars("coherence_prompt"))
    drawn = _lines(result.views[0], bare)
    assert all(line.low is None for line in drawn.panels[0].lines)
    assert "values of single prompts were not kept" in drawn.notes[0]
    one = dataclasses.replace(result.views[0], select={"category": "factual"})
    assert "category of each prompt was not kept" in _lines(one, result).notes[0]


def test_the_null_of_a_mean_over_heads_has_the_band_of_that_mean(run: Run) -> None:
    result = run["phase_coherence"]
    view = ViewSpec(
        kind="lines", title="x", says="", misleads="", variables=("coherence_squared",),
        references=("coherence_squared_null",), select={"first_position": "drop"},
    )  # fmt: skip
    (null,) = [line for line in _lines(view, result).panels[0].lines if line.role == "null"]
    assert null.short == "null: permuted keys"
    differences = (
        result.data["coherence_squared_effect_prompt"].sel(first_position="drop").mean("head").values
    )
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 1.0], size=(20_000, len(differences)))
    spread = (signs @ differences / len(differences)).std(axis=0)
    assert null.low is not None and null.high is not None
    np.testing.assert_allclose(null.high - null.y, 1.96 * spread, rtol=0.03)
    np.testing.assert_allclose(null.y - null.low, 1.96 * spread, rtol=0.03)


def test_the_null_of_a_claim_over_layers_has_its_own_band(records: dict[str, Any], run: Run) -> None:
    result = run["head_sync"]
    drawn = _lines(result.views[0], result)
    (null,) = [line for line in drawn.panels[1].lines if line.role == "null"]
    assert null.low is not None and null.high is not None
    np.testing.assert_allclose(null.low, 0.25 - 0.07, atol=1e-6)
    np.testing.assert_allclose(null.high, 0.25 + 0.07, atol=1e-6)
    assert "grey band: where 95 % of such means lie under the null" in drawn.legend


def test_a_baseline_that_was_not_run_is_left_out_and_said(records: dict[str, Any]) -> None:
    entry = records["Do heads agree"]
    assert not [line for p in entry["panels"] for line in p["lines"] if line["role"] == "random_weights"]
    assert entry["notes"] == ["Without the random-weight twin: this host cannot be given other weights."]


def test_panels_along_a_dimension_share_their_variable(run: Run) -> None:
    result = run["phase_coherence"]
    view = dataclasses.replace(result.views[0], series=None, panels="first_position")
    drawn = _lines(view, result)
    assert [panel.title for panel in drawn.panels] == ["with the first position", "first position left out"]
    for panel, position in zip(drawn.panels, ("keep", "drop"), strict=True):
        expected = result.data["coherence"].sel(category="all", first_position=position).mean("head")
        (value,) = [line for line in panel.lines if not line.reference]
        np.testing.assert_allclose(value.y, expected.values, rtol=1e-6)
        assert value.colour == ("keep", "drop").index(position)
        assert [line.role for line in panel.lines] == [
            "baseline", "random_weights", "shuffled_tokens", "value",
        ]  # fmt: skip


def test_layers_are_marked_by_what_the_claim_found(run: Run) -> None:
    result = run["head_sync"]
    view = ViewSpec(
        kind="lines", title="x", says="", misleads="", variables=("consistency",),
        select={"first_position": "drop"}, claim="consistency",
    )  # fmt: skip
    (line,) = record_view(view, result)["panels"][0]["lines"]
    assert [(meaning.replace("\u00a0", " "), at) for meaning, at in line["marks"].items()] == [
        ("differs from its null, q \u2264 0.05", ["0", "1", "2", "3", "4"]),
        ("also surely by more than 0.05", ["0", "1", "2"]),
        ("also by that much beyond shuffled text", ["0"]),
    ]
    kept = record_view(dataclasses.replace(view, select={"first_position": "keep"}), result)
    assert set(map(tuple, kept["panels"][0]["lines"][0]["marks"].values())) == {()}


def test_heads_are_marked_by_what_the_claim_found(records: dict[str, Any]) -> None:
    (marks,) = records["Which heads exceed the null"]["marks"]
    flat = [f"L{i // 4}H{i % 4}" for i in range(24)]
    assert [sorted(at) for at in marks.values()] == [sorted(flat[:n]) for n in (10, 6, 2)]


def test_each_panel_of_a_map_has_marks_of_its_own(run: Run) -> None:
    result = run["phase_coherence"]
    keep, drop = record_view(dataclasses.replace(result.views[1], select={}), result)["marks"]
    assert [len(at) for at in keep.values()] == [0, 0, 0]
    assert [len(at) for at in drop.values()] == [10, 6, 2]


def test_a_refused_test_marks_nothing_and_says_why(run: Run) -> None:
    result = run["attention_entropy"]
    view = ViewSpec(
        kind="layer_head_map", title="x", says="", misleads="", variables=("distance_effect",),
        select={"first_position": "drop"}, claim="distance",
    )  # fmt: skip
    entry = record_view(view, result)
    assert [at for marks in entry["marks"] for at in marks.values()] == [[], []]
    assert "there was no test: 3 prompts can reach no p below 0.25" in entry["notes"][0]


def test_lines_over_another_dimension_have_its_units() -> None:
    step = np.arange(0, 500, 100)
    data = xr.Dataset(
        {
            "loss": ("step", 2.0 - step / 400, {"long_name": "loss", "units": "nat"}),
            "loss_low": ("step", 1.9 - step / 400),
            "loss_high": ("step", 2.1 - step / 400),
            "loss_chance": ("step", np.full(5, 4.7), {"long_name": "chance"}),
        },
        {"step": ("step", step, {"long_name": "training step", "units": "optimizer updates"})},
    )
    view = ViewSpec(
        kind="lines", title="x", says="", misleads="", variables=("loss",), references=("loss_chance",),
        over="step",
    )  # fmt: skip
    drawn = _lines(view, Result(name="training", data=data, provenance={}))
    assert drawn.x_label == "training step (optimizer updates)"
    chance, loss = drawn.panels[0].lines
    assert loss.low is not None and loss.x.tolist() == step.tolist()
    assert (chance.short, chance.role) == ("chance", "baseline")


def test_what_not_a_number_means_is_not_part_of_a_label(run: Run) -> None:
    result = run["belief_collapse"]
    data = result.data.copy()
    data["entropy"] = data["entropy"].assign_attrs(long_name="entropy; not-a-number: no layer before")
    entry = record_view(result.views[0], dataclasses.replace(result, data=data))
    assert entry["panels"][0]["y"] == "entropy"


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
        (
            {"over": "first_position", "series": None, "select": {"layer": 0}, "references": ()},
            "lines need numbers along 'first_position'",
        ),
        ({"over": "depth", "references": ()}, "'coherence' needs the dimension 'depth'"),
        ({"claim": "coherense_squared", "kind": "layer_head_map"}, "Did you mean 'coherence_squared'?"),
        ({"kind": "pie"}, "Known: attention_heads, bode, colored_tokens, image, layer_head_map"),
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
