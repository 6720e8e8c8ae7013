"""Rows to training batches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from .augment import eta_flip, phi_flip

__all__ = ["E2ECollator", "RowTables"]

AUX_COLUMNS = ("pt", "ieta", "iphi")


class RowTables(torch.utils.data.Dataset):
    """A data set whose batches are Arrow tables, as [`E2ECollator`] takes them: no row becomes a Python object.

    Args:
        dataset: Rows of [`load_e2e`].
        columns: Those to read, where the data set has them; all if not given.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str] | None = None):
        if columns is not None:
            dataset = dataset.select_columns([name for name in columns if name in dataset.column_names])
        self.table, mapping = dataset.data, dataset._indices
        # a split is a selection, which `Dataset` looks up row by row: that would take longer than reading the rows
        self.rows = np.arange(len(dataset)) if mapping is None else mapping.column(0).to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> pa.Table:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> pa.Table:
        return self.table.fast_gather(self.rows[indices])


class E2ECollator:
    """Rows to `pixel_values`, `labels`, `mass_labels` and, if the processor makes them, `aux_values`.

    Args:
        processor: An `E2EImageProcessor`.
        mass_column: Column that is the regression target [GeV]; null becomes NaN, which drops out of the loss.
        flips: Mirror each image in eta and in phi with probability 1/2 (training only).
    """

    def __init__(self, processor, mass_column: str = "mass_labels", flips: bool = False):
        self.processor, self.mass_column, self.flips = processor, mass_column, flips
        self.seed(0)

    @property
    def columns(self) -> list[str]:
        """What it reads of rows."""
        aux = AUX_COLUMNS if self.processor.aux_names else ()
        return ["pixel_index", "pixel_value", "labels", self.mass_column, *aux]

    def seed(self, seed: int | tuple[int, ...]) -> None:
        """Start the random numbers of the flips anew."""
        self.rng = np.random.default_rng(seed)

    def __call__(self, rows: pa.Table | Sequence[pa.Table] | Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """An Arrow table (the fastest), a list of tables, or a list of rows."""
        if not isinstance(rows, pa.Table):
            rows = pa.concat_tables(rows) if isinstance(rows[0], pa.Table) else _as_table(rows, self.mass_column)
        index, value = (rows[name].combine_chunks() for name in ("pixel_index", "pixel_value"))
        offsets = index.offsets.to_numpy()
        index, value = index.flatten().to_numpy(), value.flatten().to_numpy()
        if self.flips:
            index, value = self._flip(index, value, offsets)
        pixels = {"pixel_index": index, "pixel_value": value, "row_offsets": offsets}
        if self.processor.aux_names:
            pixels |= {name: _numbers(rows, name, np.nan) for name in AUX_COLUMNS if name in rows.column_names}
        batch = dict(self.processor(pixels, return_tensors="pt"))
        batch["labels"] = torch.from_numpy(_numbers(rows, "labels", -100).astype(np.int64))
        batch["mass_labels"] = torch.from_numpy(_numbers(rows, self.mass_column, np.nan).astype(np.float32))
        return batch

    def _flip(self, index: np.ndarray, value: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.diff(offsets)
        for flip in (eta_flip, phi_flip):
            chosen = np.repeat(self.rng.random(len(lengths)) < 0.5, lengths)
            mirrored = flip(index, value, self.processor.channel_names, self.processor.image_size)
            index, value = np.where(chosen, mirrored[0], index), np.where(chosen, mirrored[1], value)
        return index, value


def _as_table(rows: Sequence[Mapping], mass_column: str) -> pa.Table:
    columns = {name: pa.array([np.asarray(row[name]) for row in rows]) for name in ("pixel_index", "pixel_value")}
    for name in {"labels", mass_column, *AUX_COLUMNS}:
        columns[name] = pa.array([row.get(name) for row in rows], pa.float64(), from_pandas=True)
    return pa.table(columns)


def _numbers(table: pa.Table, name: str, missing: float) -> np.ndarray:
    """A column as doubles, `missing` for a null, which the formats of `datasets` give as `None` or as NaN."""
    column = table[name].to_numpy().astype(np.float64)
    return np.where(np.isnan(column), missing, column)
