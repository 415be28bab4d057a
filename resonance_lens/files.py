"""Writing files so that nothing half-written is ever left under its final name."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resonance_lens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then move the file into place.

    Raises
    ------
    ResultError
        If the folder is missing or read-only, or the disk is full; what stood at ``path`` stays.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written: {error.strerror or error}; choose another folder or free some space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    write_atomically(path, lambda file: file.write_bytes(data))


def write_netcdf(path: Path, data: xr.Dataset) -> None:
    """Write a dataset as netCDF, whole or not at all.

    It is made in memory first: on a disk that is full the HDF5 library cannot close its files, and
    takes the process with it.
    """
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        data.dump_to_store(H5NetCDFStore(file))
    write_bytes(path, buffer.getvalue())


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, and return it.

    Raises
    ------
    ResultError
        If it cannot be made, or a file stands there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"The folder {path} cannot be made: {error.strerror or error}; choose another one."
        ) from error
    return path


def _umask() -> int:
    # The only way to read the mask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
