"""A run: the results of several analyses on one set of prompts, and the folder that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr

from resonance_lens.errors import ResultError, unknown
from resonance_lens.files import make_folder, write_netcdf, write_text
from resonance_lens.result import Result

FORMAT = 1
"""Version of the run folder; a folder of a later version is refused."""


@dataclass(frozen=True, eq=False)
class Run:
    """Results by analysis name.

    Attributes
    ----------
    results
        One `Result` for each analysis, in the order asked for.
    exhibits
        Attention patterns of a few prompts, for the heads that the views ask for: dimensions
        ``exhibit, head_label, query, key`` with variable ``pattern``, and ``token`` strings; ``None``
        where no view asks for any.
    provenance
        What was run, on what, with what.
    """

    results: Mapping[str, Result]
    provenance: Mapping[str, Any]
    exhibits: xr.Dataset | None = None
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # A result shown on its own needs the patterns that its views ask for.
        shown = {name: replace(result, exhibits=self.exhibits) for name, result in self.results.items()}
        object.__setattr__(self, "results", shown)

    def __getitem__(self, name: str) -> Result:
        """Return the result of one analysis; an unknown name lists those there are."""
        if name not in self.results:
            raise ResultError(unknown("result", name, self.results))
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the analyses."""
        return iter(self.results)

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self.results)

    def save(self, folder: str | Path) -> Path:
        """Write ``run.json`` and one netCDF file for each analysis, and return the folder.

        ``run.json`` is written last, so that a folder that has one is whole.
        """
        folder = make_folder(Path(folder))
        for name, result in self.results.items():
            result.save(folder / f"{name}.nc")
        if self.exhibits is not None:
            write_netcdf(folder / "exhibits.nc", self.exhibits)
        described = {
            "format": FORMAT,
            "analyses": list(self.results),
            "exhibits": self.exhibits is not None,
            "provenance": dict(self.provenance),
        }
        write_text(folder / "run.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        return folder

    @staticmethod
    def load(folder: str | Path) -> Run:
        """Read a run folder.

        Raises
        ------
        ResultError
            If it is missing, unfinished, damaged, or written by a newer version.
        """
        folder = Path(folder)
        described = read_description(folder)
        exhibits = None
        if described["exhibits"]:
            try:
                with xr.open_dataset(folder / "exhibits.nc", engine="h5netcdf") as file:
                    exhibits = file.load()
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise ResultError(f"{folder / 'exhibits.nc'} cannot be read: {error}.") from error
        return Run(
            results={name: Result.load(folder / f"{name}.nc") for name in described["analyses"]},
            provenance=described["provenance"],
            exhibits=exhibits,
            folder=folder,
        )

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page, and return where it is."""
        from resonance_lens.views.page import write_report

        return write_report(self, Path(path))

    def _repr_html_(self) -> str:
        return "".join(result._repr_html_() for result in self.results.values())

    def __repr__(self) -> str:
        lines = "\n".join(f"  {result!r}" for result in self.results.values())
        return f"Run of {len(self)} analyses\n{lines}"


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``run.json`` of a run folder.

    Raises
    ------
    ResultError
        If there is none, it is damaged, or a newer version wrote it.
    """
    path = folder / "run.json"
    if not path.exists():
        if (folder / "partial").exists():
            raise ResultError(
                f"The run in {folder} was not finished; give the same command again to resume it."
            )
        raise ResultError(f"There is no run in {folder}: it holds no run.json.")
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(described["format"])
        if version <= FORMAT:
            _ = [*described["analyses"]], {**described["provenance"]}, described["exhibits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} cannot be read: {error}.") from error
    if version > FORMAT:
        raise ResultError(
            f"The run in {folder} has format {version}, and this version of resonance_lens reads up to "
            f"{FORMAT}; upgrade resonance_lens to read it."
        )
    return described
