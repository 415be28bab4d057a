"""A sweep in the form of TransformerLens's ``PatchingResult``: its own class where it has it, ours elsewhere.

TransformerLens has it from 4.2 on. Ours has the same fields and means the same by them, with the methods that
need nothing but the values: intervals and p stand in the dataset of the result anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

AXES = ("layer", "pos", "head")
"""The axes of a sweep, in the order that TransformerLens has them in."""


@dataclass
class PatchingResult:
    """What patching did, cell by cell and pair by pair, as TransformerLens 4.2 describes it.

    Attributes
    ----------
    values
        The metric after each patch: ``[*axes, pair]``.
    axis_names
        Names of the axes, or an empty list where the cells are no grid: values are then ``[cell, pair]``.
    index_df
        One row for each cell, in the order of the values.
    metric_names
        The name of the metric.
    reduced
        Whether the mean over pairs was taken; never.
    baseline
        The metric of the unpatched run ``[pair]``.
    has_metric_axis
        Whether there are several metrics; never.
    patch_type_names
        The operations, where there are several: the axis ``patch_type``.
    """

    values: Tensor
    axis_names: list[str]
    index_df: pd.DataFrame
    metric_names: list[str]
    reduced: bool = False
    baseline: Tensor | None = None
    has_metric_axis: bool = False
    patch_type_names: list[str] | None = None

    def mean(self) -> Tensor:
        """Return the mean over pairs."""
        return self.values.mean(dim=-1)

    def stderr(self) -> Tensor:
        """Return the standard error of the mean over pairs."""
        error: Tensor = self.values.std(dim=-1) / self.values.shape[-1] ** 0.5
        return error

    def effect(self) -> Tensor:
        """Return the change that each patch makes, pair by pair."""
        assert self.baseline is not None
        return self.values - self.baseline

    def normalized(self, clean_baseline: Tensor) -> Tensor:
        """Return the change as a share of the one to the other run, pair by pair."""
        assert self.baseline is not None
        return self.effect() / (clean_baseline.to(self.values) - self.baseline)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each cell and pair."""
        flat = self.values.reshape(len(self.index_df), -1)
        cells, pairs = (each.ravel() for each in np.indices(flat.shape))
        table = self.index_df.iloc[cells].reset_index(drop=True)
        table.insert(0, "metric", self.metric_names[0])
        if self.patch_type_names is not None:
            table["patch_type_name"] = [self.patch_type_names[index] for index in table["patch_type"]]
        return table.assign(example=pairs, value=flat.numpy().ravel())


def patching_result(data: xr.Dataset, metric: str) -> Any:
    """Return a sweep in the form of TransformerLens's ``PatchingResult``.

    Parameters
    ----------
    data
        Of a `PatchResult`.
    metric
        The name of its metric.

    Returns
    -------
    transformer_lens.patching.PatchingResult or PatchingResult
        TransformerLens's own if the installed version has it.
    """
    cells = _cells(data)
    values = np.asarray(data.metric, dtype=np.float32)  # [operation, target, pair]
    names, order, shape = _grid(cells)
    values, cells = values[:, order], cells.iloc[order].reset_index(drop=True)
    several = data.sizes["operation"] > 1
    if several:
        n, tables = len(cells), data.sizes["operation"]
        cells = pd.concat([cells] * tables, ignore_index=True)
        cells.insert(0, "patch_type", np.repeat(np.arange(tables), n))
        names, shape = (["patch_type", *names], (tables, *shape)) if names else ([], (tables * n,))
    made: dict[str, Any] = dict(
        values=torch.from_numpy(values.reshape(*shape, values.shape[-1])),
        axis_names=names,
        index_df=cells,
        metric_names=[metric],
        reduced=False,
        baseline=torch.from_numpy(np.asarray(data.metric_base, dtype=np.float32)),
        has_metric_axis=False,
        patch_type_names=[str(label) for label in data.operation.values] if several else None,
    )
    try:
        from transformer_lens.patching import PatchingResult as theirs  # noqa: N813
    except ImportError:  # before 4.2
        return PatchingResult(**made)
    return theirs(**made)


def _cells(data: xr.Dataset) -> pd.DataFrame:
    """Return a row for each target, with the columns that say something."""
    columns: dict[str, Any] = {}
    if len(set(data.site.values.tolist())) > 1:
        columns["site"] = data.site.values
    columns["layer"] = data.target_layer.values
    position = data.position.values
    if (position != "all").any():
        single = all(text.lstrip("-").isdigit() for text in position)
        columns["pos"] = position.astype(np.int64) if single else position
    if (data.target_head.values >= 0).any():
        columns["head"] = data.target_head.values
    return pd.DataFrame(columns)


def _grid(cells: pd.DataFrame) -> tuple[list[str], list[int], tuple[int, ...]]:
    """Return the axes, the order of the cells and the shape, if they fill a grid that counts from 0."""
    names = list(cells.columns)
    whole = list(range(len(cells)))
    if "site" in names or any(cells[name].dtype.kind != "i" for name in names) or (cells < 0).any(axis=None):
        return [], whole, (len(cells),)
    shape = tuple(int(cells[name].max()) + 1 for name in names)
    order = sorted(whole, key=lambda index: tuple(cells.iloc[index]))
    if len(cells) != np.prod(shape) or cells.duplicated().any():
        return [], whole, (len(cells),)
    return names, order, shape
