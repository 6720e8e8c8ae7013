"""Rows to training batches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.nn import functional as F

from e2evit.data.statistics import MassWeights
from e2evit.modeling.image_processing_e2e import AUX_COLUMNS, compress, to_numpy
from e2evit.modeling.modeling_constants import constant
from e2evit.modeling.modeling_tokens import Pixels
from e2evit.transforms.augment import Augmentation, without_lost

from .particles import PreparedImages

__all__ = ["MASS_COLUMN", "E2ECollator", "RowTables", "check_lengths", "flat_numbers", "split_pixels"]

PIXELS = {"pixel_index": pa.list_(pa.int64()), "pixel_value": pa.list_(pa.float64())}
LISTS = ("pixel_index", "pixel_value", "row_offsets")
UNSEEDED = -(2**62)
MASS_COLUMN = "mass_labels"


class RowTables(torch.utils.data.Dataset):
    """A data set whose batches are Arrow tables for [`E2ECollator`]; no row becomes a Python object.

    Args:
        dataset: Rows of [`load_e2e`].
        columns: Columns to read, if the data set has them, and `"row"` for row numbers. Default: all columns.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str] | None = None):
        if columns is not None:
            dataset = dataset.select_columns([name for name in columns if name in dataset.column_names])
        self.numbered = columns is not None and "row" in columns
        self.table, mapping = dataset.data, dataset._indices
        # a split is a selection, which `Dataset` would look up row by row: slower than reading the rows
        self.rows = np.arange(len(dataset)) if mapping is None else mapping.column(0).to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> pa.Table:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> pa.Table:
        table = self.table.fast_gather(self.rows[indices])
        return table.append_column("row", pa.array(indices)) if self.numbered else table


class E2ECollator:
    """Rows to `pixel_values`, `labels`, `mass_labels` and, if the processor makes them, `aux_values`.

    Batches of [`RowTables`] also have `rows`, their row numbers; pop them before the model sees the batch.

    Args:
        processor: An `E2EImageProcessor`.
        mass_column: Column with the regression target [GeV]; null becomes NaN, which drops out of the loss.
        augmentation: Random changes to training images.
        mass_weights: Weights of jets in the mass loss; adds `mass_weights` to batches.
        with_labels: False makes all labels missing (-100).
        images: Makes new images in every epoch, of rows that are Arrow tables of particles.
        packed: Make lists of pixels instead of `pixel_values`, for models that read them (`reads_rows`).
        truth_columns: Columns with further targets, returned as `truth_labels` `(B, n)`; null becomes NaN.
        containment: Read `merged`, whether a jet contains all of the decay, as `containment_labels`; null becomes NaN.
    """

    inputs = PIXELS  # columns of lists that become the input of a model

    def __init__(
        self,
        processor,
        mass_column: str = MASS_COLUMN,
        augmentation: Augmentation | None = None,
        mass_weights: MassWeights | None = None,
        with_labels: bool = True,
        images: PreparedImages | None = None,
        packed: bool = False,
        truth_columns: Sequence[str] = (),
        containment: bool = False,
    ):
        self.packed, self.containment = packed, containment
        self.processor, self.mass_column, self.with_labels, self.images = processor, mass_column, with_labels, images
        self.augmentation, self.mass_weights, self.truth_columns = augmentation, mass_weights, truth_columns
        # shared with the worker processes, which live as long as the run
        self._seed = torch.full((2,), UNSEEDED).share_memory_()

    @property
    def columns(self) -> list[str]:
        """The columns it reads."""
        aux = AUX_COLUMNS if self.processor.aux_names else ("pt",) if self.mass_weights else ()
        inputs = self.inputs if self.images is None else self.images.columns
        return list(dict.fromkeys(["row", *inputs, "labels", self.mass_column, *aux, *self._truth]))

    @property
    def _truth(self) -> list[str]:
        """Columns with other targets than class and mass."""
        return [*self.truth_columns, *["merged"] * self.containment]

    def seed(self, seed: int, epoch: int) -> None:
        """Set the seed of an epoch: what happens to a jet then depends on it and on the jet, in any batch."""
        self._seed.copy_(torch.tensor([seed, epoch]))

    @property
    def seeds(self) -> tuple[int, int]:
        """Seed and epoch; random ones before [`seed`] is called, as by other trainers."""
        seed, epoch = self._seed.tolist()
        return (seed, epoch) if seed != UNSEEDED else (int(torch.randint(2**31, ())), 0)

    def __call__(self, rows: pa.Table | Sequence) -> dict[str, torch.Tensor]:
        """An Arrow table (the fastest), a list of tables, or a list of rows in any format of `datasets`.

        Raises:
            ValueError: for rows without pixels, labels that are not whole numbers, and as the processor.
        """
        return self.finish(self.read(rows))

    def read(self, rows: pa.Table | Sequence) -> dict[str, torch.Tensor]:
        """The first half of a call: lists of pixels in detector units, checked, and targets; 1 % of the images.

        Returns:
            `pixel_index` (int32) and `pixel_value` `(n,)`, `row_offsets` `(B + 1,)`, and all of a batch but images.
        """
        if self.images is not None:
            rows = self.images(rows, *self.seeds)
        rows = _as_table(rows, self.inputs, self.mass_column, self._truth)
        return self._read_inputs(rows) | self._read_targets(rows)

    def _read_inputs(self, rows: pa.Table) -> dict[str, torch.Tensor]:
        lists = {name: rows[name].combine_chunks() for name in PIXELS}
        offsets = check_lengths(lists)
        index, value = (values.flatten().to_numpy() for values in lists.values())
        pixels = {"pixel_index": index, "pixel_value": value, "row_offsets": offsets}
        if self.processor.aux_names:
            pixels |= {name: _numbers(rows, name, np.nan) for name in AUX_COLUMNS if name in rows.column_names}
        checked = self.processor.check_rows(pixels, self.processor.channel_names)
        checked["pixel_index"] = checked["pixel_index"].astype(np.int32)
        return {name: torch.tensor(values) for name, values in checked.items()}

    def _read_targets(self, rows: pa.Table) -> dict[str, torch.Tensor]:
        labels = _numbers(rows, "labels", -100) if self.with_labels else np.full(rows.num_rows, -100.0)
        if not (is_whole := np.isfinite(labels) & (labels == np.round(labels))).all():
            raise ValueError(f"`labels` are the numbers of classes, got {labels[~is_whole][0]}.")
        batch = {"labels": torch.from_numpy(labels.astype(np.int64))}
        masses = _numbers(rows, self.mass_column, np.nan)
        batch["mass_labels"] = torch.from_numpy(masses.astype(np.float32))
        if self.truth_columns:
            truth = [_numbers(rows, name, np.nan) for name in self.truth_columns]
            batch["truth_labels"] = torch.from_numpy(np.stack(truth, axis=1).astype(np.float32))
        if self.containment:
            batch["containment_labels"] = torch.from_numpy(_numbers(rows, "merged", np.nan).astype(np.float32))
        if "row" in rows.column_names:
            batch["rows"] = torch.tensor(rows["row"].to_numpy())
        if self.mass_weights is not None:
            weights = self.mass_weights(masses, _numbers(rows, "pt", np.nan))
            batch["mass_weights"] = torch.from_numpy(weights.astype(np.float32))
        return batch

    def finish(self, batch: dict[str, torch.Tensor], seeds: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """The second half of a call, on whichever device a batch of [`read`] lies: augmentation and images.

        Args:
            seeds: Those of the augmentation, if others than [`seeds`].
        """
        pixels, others = split_pixels(batch)
        offsets, processor = batch["row_offsets"], self.processor
        if self.augmentation:
            pixels = self.augmentation(pixels, processor.channel_names, processor.image_size, *(seeds or self.seeds))
            if self.packed and not self.augmentation.only_flips:  # models that read lists count them anyway
                pixels = without_lost(pixels)
                offsets = F.pad(torch.bincount(pixels.image, minlength=pixels.num_images).cumsum(0), (1, 0))
        channels, height, width = processor.image_shape
        index, scale = pixels.index.long(), constant(tuple(processor.channel_scale), pixels.value.device)
        value = compress(pixels.value, scale[index // (height * width)])
        if self.packed:
            return {"pixel_index": index, "pixel_value": value, "row_offsets": offsets} | others
        size = channels * height * width
        number = pixels.num_images * size
        images = value.new_zeros(number + 1)  # the last one takes what is zero, so that no pixel is written twice
        images.scatter_(0, torch.where(value == 0, number, pixels.image * size + index), value)
        return {"pixel_values": images[:number].view(-1, channels, height, width)} | others


def split_pixels(batch: dict[str, torch.Tensor]) -> tuple[Pixels, dict[str, torch.Tensor]]:
    """The pixels of a batch of [`E2ECollator.read`], and all else."""
    index, value, offsets = (batch[name] for name in LISTS)
    number = len(offsets) - 1
    image = torch.arange(number, device=index.device).repeat_interleave(offsets.diff(), output_size=len(index))
    others = {name: values for name, values in batch.items() if name not in LISTS}
    return Pixels(image, index, value, number), others


def check_lengths(lists: Mapping[str, pa.ListArray]) -> np.ndarray:
    """Where each row's entries start, of lists by column; refuses a row with lists of different lengths."""
    first, *others = ((name, values.offsets.to_numpy()) for name, values in lists.items())
    for name, offsets in others:
        lengths = np.diff(first[1]), np.diff(offsets)
        for row in np.flatnonzero(lengths[0] != lengths[1])[:1]:
            raise ValueError(f"Row {row}: {lengths[0][row]} entries in {first[0]} and {lengths[1][row]} in {name}.")
    return first[1] - first[1][0]


def flat_numbers(lists: pa.ListArray) -> np.ndarray:
    """The entries of all rows, in single precision; null becomes NaN."""
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)


def _as_table(
    rows: pa.Table | Sequence, inputs: Mapping[str, pa.ListType], mass_column: str, truth_columns: Sequence[str]
) -> pa.Table:
    if not isinstance(rows, pa.Table) and len(rows) and not isinstance(rows[0], Mapping):
        rows = pa.concat_tables([_frame_as_table(row) for row in rows])
    needed = [*inputs, *([] if mass_column == MASS_COLUMN else [mass_column]), *truth_columns]
    known = rows.column_names if isinstance(rows, pa.Table) else rows[0] if rows else needed
    if missing := [name for name in needed if name not in known]:
        raise ValueError(
            f"Rows need {' and '.join(missing)}, got {', '.join(known)}. transformers' `Trainer` removes columns that "
            "the model itself does not read: pass `remove_unused_columns=False` to its `TrainingArguments`."
        )
    if isinstance(rows, pa.Table):
        return rows
    columns = {name: _lists([row[name] for row in rows], name, kind) for name, kind in inputs.items()}
    for name in {"labels", mass_column, *AUX_COLUMNS, *truth_columns}:
        values = [np.nan if row.get(name) is None else float(row[name]) for row in rows]
        columns[name] = pa.array(values, pa.float64(), from_pandas=True)
    return pa.table(columns)


def _lists(rows: Sequence, name: str, kind: pa.ListType) -> pa.Array:
    arrays, are_integers = [to_numpy(values) for values in rows], pa.types.is_integer(kind.value_type)
    for row, values in enumerate(arrays):
        kinds, what = ("iu", "integers") if are_integers and values.size else ("iuf", "numbers")
        if values.ndim != 1 or values.dtype.kind not in kinds:
            raise ValueError(f"Row {row}: `{name}` must be a list of {what}, got {str(rows[row])[:80]}.")
    return pa.array(arrays, kind)


def _frame_as_table(frame) -> pa.Table:
    """A row as `datasets` returns it in the formats arrow, polars and pandas."""
    if isinstance(frame, pa.Table):
        return frame
    return frame.to_arrow() if hasattr(frame, "to_arrow") else pa.Table.from_pandas(frame, preserve_index=False)


def _numbers(table: pa.Table, name: str, missing: float) -> np.ndarray:
    """A column as doubles, with `missing` for null, which `datasets` returns as `None` or NaN."""
    column = table[name].to_numpy().astype(np.float64)
    return np.where(np.isnan(column), missing, column)
