"""A result: saved and read back whole, and one sentence for every file that is not one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from resonance_lens.errors import ResultError
from resonance_lens.result import Result, Target, ViewSpec


def example() -> Result:
    """Return a result that uses every field, with what is hard to store."""
    values = np.array([[0.5, np.nan, -1.0], [0.25, 2.0, 1e-12]])
    data = xr.Dataset(
        {
            "strength": (("layer", "head"), values, {"long_name": "strength", "units": "1"}),
            "strength_low": (("layer", "head"), values - 1, {"long_name": "lower", "units": "1"}),
            "by_category": (("category", "layer"), np.arange(4).reshape(2, 2)),
            "each": (("prompt",), np.array([1.5, 2.5], dtype=np.float32)),
        },
        coords={
            "layer": [3, 7],
            "head": [0, 1, 2],
            "category": ["all", "naïve <ü> & 詩"],
            "prompt": ["prompt-000", "émoji 🙂"],
            "first_position": ["keep", "drop"],
        },
        attrs={"note": "of its own"},
    )
    views = (
        ViewSpec(
            kind="layer_head_map",
            title="A map",
            says="It says.",
            misleads="It misleads.",
            variables=("strength",),
            references=("strength_low",),
            select={"category": "all"},
            series="first_position",
            colours="diverging",
            limits=(-1.0, 1.0),
            heads=((3, 1), (7, 0)),
        ),
        ViewSpec(kind="attention_heads", title="Heads", says="", misleads=""),
    )
    return Result(
        name="example",
        data=data,
        provenance={"headline": "strength", "evidence": "proxy <b>", "seed": 3, "nested": {"a": [1, None]}},
        summary="Two of six heads are strong — “really” <b>so</b>.",
        views=views,
        ranked=(
            Target(site="pattern", layer=3, head=1, score=0.75, reason="strong"),
            Target(site="resid_post", layer=7, score=0.5, reason="a layer"),
        ),
    )


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result = example()
    result.save(tmp_path / "example.nc")
    found = Result.load(tmp_path / "example.nc")
    xr.testing.assert_identical(found.data, result.data)
    for name in result.data.variables:
        assert found.data[name].dtype.kind == result.data[name].dtype.kind
    for field in dataclasses.fields(Result):
        if field.name != "data":
            assert getattr(found, field.name) == getattr(result, field.name), field.name
    assert found.views[0].heads == ((3, 1), (7, 0))


def test_saving_leaves_the_result_alone_and_replaces_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "example.nc"
    path.write_text("something else")
    result = example()
    result.save(path)
    result.save(str(path))
    assert result.data.attrs == {"note": "of its own"}
    assert Result.load(path).summary == result.summary
    assert [each.name for each in tmp_path.iterdir()] == ["example.nc"]


def test_targets_are_the_best_first() -> None:
    assert [target.label for target in example().targets()] == ["L3H1", "L7"]
    assert [target.label for target in example().targets(1)] == ["L3H1"]


def test_a_table_has_what_shares_the_headline_s_dimensions() -> None:
    table = example().to_dataframe()
    assert list(table.columns) == ["layer", "head", "strength", "strength_low"]
    assert len(table) == 6
    row = table[(table.layer == 7) & (table["head"] == 1)]
    assert float(row.strength.iloc[0]) == 2.0
    assert list(example().to_dataframe("each").columns) == ["prompt", "each"]
    with pytest.raises(ResultError, match="'example' has no variable 'nothing'. It has: by_category, each"):
        example().to_dataframe("nothing")


def test_what_is_shown_in_a_notebook_is_text_and_not_code() -> None:
    shown = example()._repr_html_()
    assert "&lt;b&gt;so&lt;/b&gt;" in shown and "<b>so</b>" not in shown
    assert "proxy &lt;b&gt;" in shown
    assert repr(example()).startswith("Result(example: Two of six heads")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="There is no result at"):
        Result.load(tmp_path / "nothing.nc")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(ResultError, match="cannot be read as netCDF"):
        Result.load(tmp_path / "text.nc")
    xr.Dataset({"a": ("x", [1])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ResultError, match="but resonance_lens did not write it"):
        Result.load(tmp_path / "other.nc")
    with pytest.raises(ResultError, match="cannot be read"):
        Result.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_off(tmp_path: Path, share: float) -> None:
    path = tmp_path / "example.nc"
    example().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ResultError, match="cannot be read"):
        Result.load(path)


def described(change: dict[str, Any]) -> str:
    about = example()._described()
    return json.dumps({k: v for k, v in {**about, **change}.items() if v != "gone"})


@pytest.mark.parametrize(
    "attribute",
    [
        "{",
        "[]",
        described({"views": "gone"}),
        described({"provenance": "gone"}),
        described({"views": [{"kind": "lines"}]}),
        described({"ranked": [{"place": 1}]}),
        described({"views": 3}),
    ],
)
def test_a_description_that_was_damaged(tmp_path: Path, attribute: str) -> None:
    path = tmp_path / "example.nc"
    example().data.assign_attrs(resonance_lens=attribute).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match="cannot be read"):
        Result.load(path)
