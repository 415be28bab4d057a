"""Run folders: whole or not there, and one sentence for everything that is wrong with one."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import resonance_lens
from resonance_lens.errors import ResultError
from resonance_lens.files import make_folder, write_atomically, write_bytes, write_text
from resonance_lens.result import Result
from resonance_lens.runs import FORMAT, Run, read_description
from tests.test_result import example


def example_run(exhibits: bool = True) -> Run:
    shown = xr.Dataset(
        {
            "pattern": (("exhibit", "head_label", "query", "key"), np.eye(3)[None, None]),
            "token": (("exhibit", "key"), np.array([["<s>", "é\n", ""]])),
        },
        coords={"length": ("exhibit", [2]), "head_label": ["L0H1"]},
    )
    result = example()
    other = Result(name="other", data=result.data[["each"]], provenance={"headline": "each"})
    return Run(
        results={"example": result, "other": other},
        provenance={"model": {"model_name": "modèle"}, "seed": 3},
        exhibits=shown if exhibits else None,
    )


@pytest.mark.parametrize("exhibits", [True, False])
def test_a_run_comes_back_as_it_was(tmp_path: Path, exhibits: bool) -> None:
    run = example_run(exhibits)
    folder = run.save(tmp_path / "deep" / "er")
    found = resonance_lens.load(str(folder))
    assert list(found) == ["example", "other"] and len(found) == 2
    assert found.provenance == run.provenance
    assert found.folder == folder
    for name in run:
        xr.testing.assert_identical(found[name].data, run[name].data)
        assert found[name].summary == run[name].summary
    if run.exhibits is None:
        assert found.exhibits is None
    else:
        assert found.exhibits is not None
        xr.testing.assert_identical(found.exhibits, run.exhibits)
    names = {"run.json", "example.nc", "other.nc"} | ({"exhibits.nc"} if exhibits else set())
    assert {path.name for path in folder.iterdir()} == names
    assert read_description(folder)["format"] == FORMAT


def test_an_unknown_result_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ResultError, match="no result 'exmple'. Known: example, other. Did you mean 'example'"
    ):
        example_run()["exmple"]


def test_a_newer_folder_is_refused(tmp_path: Path) -> None:
    folder = example_run().save(tmp_path)
    described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**described, "format": FORMAT + 1}))
    with pytest.raises(ResultError, match=f"has format {FORMAT + 1}, and .* reads up to {FORMAT}; upgrade"):
        Run.load(folder)


def test_no_folder_and_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="There is no run in .*: it holds no run.json"):
        Run.load(tmp_path / "nothing")
    (tmp_path / "partial").mkdir()
    with pytest.raises(ResultError, match="was not finished; give the same command again to resume it"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": null}',
        '{"format": "one"}',
        '{"format": 1}',
        '{"format": 1, "analyses": ["example"], "exhibits": false}',
        '{"format": 1, "exhibits": false, "provenance": {}}',
        '{"format": 1, "analyses": 3, "exhibits": false, "provenance": {}}',
        '{"format": 1, "analyses": [], "exhibits": false, "provenance": []}',
    ],
)
def test_a_description_that_was_damaged(tmp_path: Path, text: str) -> None:
    folder = example_run().save(tmp_path)
    (folder / "run.json").write_text(text)
    with pytest.raises(ResultError, match="run.json cannot be read"):
        Run.load(folder)
    with pytest.raises(ResultError, match="run.json cannot be read"):
        read_description(folder)


def test_a_description_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="run.json cannot be read"):
        Run.load(tmp_path)


@pytest.mark.parametrize("name", ["example.nc", "exhibits.nc"])
def test_a_file_that_is_missing_or_damaged(tmp_path: Path, name: str) -> None:
    folder = example_run().save(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ResultError, match=f"{name} cannot be read"):
        Run.load(folder)
    (folder / name).unlink()
    with pytest.raises(ResultError, match=f"{name}"):
        Run.load(folder)


def test_the_description_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has one is whole, whenever the computer was switched off."""
    moved: list[str] = []
    replace = os.replace

    def watch(source: Any, target: Any) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    example_run().save(tmp_path)
    assert moved[-1] == "run.json" and set(moved[:-1]) == {"example.nc", "other.nc", "exhibits.nc"}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the system refuse to let a file grow further, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path: Path, size: int) -> None:
    run = example_run()
    big = run["example"].data.assign(much=("x", np.random.default_rng(0).normal(size=9000)))
    result = Result(name="example", data=big, provenance=run["example"].provenance)
    with files_of_at_most(size), pytest.raises(ResultError, match="example.nc cannot be written"):
        Run(results={"example": result}, provenance={}).save(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    with (
        files_of_at_most(0),
        pytest.raises(ResultError, match="cannot be written: .*; choose another folder"),
    ):
        write_text(tmp_path / "text", "some text")
    assert not (tmp_path / "text").exists()


def test_what_stood_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"before")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"half of i")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResultError, match="cannot be written: No space left on device; choose"):
        write_atomically(path, half)

    def bug(temporary: Path) -> None:
        temporary.write_bytes(b"half of i")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, bug)
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_files_are_as_readable_as_the_user_s_others(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="The folder .* cannot be made: .*; choose another one"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(ResultError, match="cannot be made"):
        example_run().save(tmp_path / "file")
    with pytest.raises(ResultError, match="cannot be written"):
        write_text(tmp_path / "nothing" / "file", "")


def test_text_is_utf_8_whatever_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = example_run().save(tmp_path)
    assert "modèle" in (folder / "run.json").read_bytes().decode("utf-8")
    assert sys.getdefaultencoding() == "utf-8"
