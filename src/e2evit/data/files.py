"""Files of each layout to batches of rows; everything wrong with a file is found here, before anything is cached."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from .schema import DatasetSchema, row_features
from .sparse import dense_to_sparse

__all__ = ["check_images", "read_rows"]

BATCH_SIZE = 64


def read_rows(path: str | Path, schema: DatasetSchema) -> Iterator[pa.Table]:
    """Tables with the columns of [`row_features`], a few dozen to some thousand rows each.

    Raises:
        ValueError: for a file that is truncated or of another kind, a missing key, a wrong shape, a NaN or infinite
            pixel, an index outside the image, an unknown label or a mass out of range; the message names the file,
            and the row where one is at fault.
    """
    reader = {"rows": _read_sparse, "hdf5": _read_hdf5, "nested_parquet": _read_nested_parquet}[schema.layout]
    target = row_features(schema).arrow_schema
    first_row = 0
    for table in reader(Path(path), schema):
        _check_scalars(table, schema, path, first_row)
        first_row += table.num_rows
        yield table.select(target.names).cast(target)


def check_images(images: np.ndarray, schema: DatasetSchema, path: str | Path, first_row: int) -> None:
    """Reject dense images `(B, C, H, W)` that do not fit the schema, or hold NaN or infinite pixels."""
    if images.shape[1:] != schema.image_shape:
        raise ValueError(
            f"{path}: expected images of shape {schema.image_shape} (channels {', '.join(schema.channel_names)}; "
            f"eta; phi) for the data set {schema.name!r}, got {images.shape[1:]}."
        )
    finite = np.isfinite(images).all(axis=(2, 3))
    if not finite.all():
        image, channel = np.argwhere(~finite)[0]
        raise ValueError(
            f"{path}: row {first_row + image} holds NaN or infinite pixels in channel "
            f"{schema.channel_names[channel]}; drop it or fix the producer."
        )


def _check_scalars(table: pa.Table, schema: DatasetSchema, path, first_row: int) -> None:
    mass = np.asarray(table["mass_labels"].to_numpy(), dtype=np.float64)  # null becomes NaN
    low, high = schema.mass_range
    bad = np.flatnonzero((mass < low) | (mass > high) | np.isinf(mass))
    if bad.size:
        raise ValueError(
            f"{path}: row {first_row + bad[0]} has a mass of {mass[bad[0]]:g} GeV, outside {low:g}-{high:g}; "
            "are the masses in GeV?"
        )
    _check_labels(table, schema.label_names, path, first_row)


def _check_labels(table: pa.Table, label_names: tuple[str, ...], path, first_row: int) -> None:
    labels = np.asarray(table["labels"].to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isnan(labels) & ~np.isin(labels, range(len(label_names))))
    if bad.size:
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(label_names))
        raise ValueError(f"{path}: row {first_row + bad[0]} has the label {labels[bad[0]]:g}; known ones: {known}.")


def _table(path: Path, schema: DatasetSchema, images, columns: dict[str, np.ndarray], first_row: int) -> pa.Table:
    """Dense images and scalar columns, by our names, as sparse rows."""
    check_images(images, schema, path, first_row)
    index, value = dense_to_sparse(images)
    data = {"pixel_index": index, "pixel_value": value}
    for name in row_features(schema):
        column = columns.get(name)
        if column is None:
            data.setdefault(name, pa.nulls(len(images)))
        elif name in ("labels", "ieta", "iphi"):
            if (column != np.round(column)).any():
                raise ValueError(f"{path}: `{schema.columns[name]}` ({name}) holds numbers that are not whole.")
            data[name] = pa.array(column.astype(np.int64))
        else:
            data[name] = pa.array(column.astype(np.float32), from_pandas=True)
    data["event_id"] = [f"{path.name}:{first_row + row}" for row in range(len(images))]
    return pa.table(data)


def _require(available, path: Path, schema: DatasetSchema) -> dict[str, str]:
    """The columns of the schema that the file has, or an error if one that it needs is missing."""
    missing = [key for name, key in schema.columns.items() if key not in available and name not in schema.optional]
    if missing:
        raise ValueError(
            f"{path}: missing key {', '.join(map(repr, missing))} of the data set {schema.name!r}; "
            f"the file has {', '.join(map(repr, sorted(available))) or 'none'}."
        )
    return {name: key for name, key in schema.columns.items() if key in available}


def _read_hdf5(path: Path, schema: DatasetSchema) -> Iterator[pa.Table]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path}: not a readable HDF5 file ({error}); is it truncated, or an expired link?"
        ) from error
    with file:
        keys = _require(set(file), path, schema)
        images = file[keys.pop("image")]
        if images.ndim != 4:
            raise ValueError(f"{path}: `{images.name[1:]}` has shape {images.shape}, expected four dimensions.")
        columns = {name: np.asarray(file[key]).reshape(-1) for name, key in keys.items()}
        for name, column in columns.items():
            if len(column) != len(images):
                raise ValueError(
                    f"{path}: `{schema.columns[name]}` has {len(column)} rows and the images have {len(images)}."
                )
        if images.chunks is None and images.id.get_offset() is not None:
            # contiguous and uncompressed: the pages of the file are the array, without a copy through the library
            images = np.memmap(path, images.dtype, "r", images.id.get_offset(), images.shape)
        for start in range(0, len(images), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            batch = np.moveaxis(images[rows], -1, 1) if schema.channels_last else images[rows]
            yield _table(path, schema, batch, {name: column[rows] for name, column in columns.items()}, start)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path}: not a readable Parquet file ({error}); is it truncated, or an expired link?"
        ) from error


def _read_nested_parquet(path: Path, schema: DatasetSchema) -> Iterator[pa.Table]:
    file = _open_parquet(path)
    keys = _require(set(file.schema_arrow.names), path, schema)
    # the public files hold one jet a row group: read as many groups at once as make a batch
    rows_per_group = max(1, file.metadata.num_rows // max(1, file.num_row_groups))
    groups_at_once = max(1, BATCH_SIZE // rows_per_group)
    first_row = 0
    for start in range(0, file.num_row_groups, groups_at_once):
        groups = list(range(start, min(start + groups_at_once, file.num_row_groups)))
        try:
            table = file.read_row_groups(groups, columns=list(keys.values()))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: row groups {groups[0]}-{groups[-1]} cannot be read ({error}).") from error
        columns = {name: table[key].to_numpy().reshape(-1) for name, key in keys.items() if name != "image"}
        images = _unnest(table[keys["image"]].combine_chunks(), schema, path, first_row)
        yield _table(path, schema, images, columns, first_row)
        first_row += table.num_rows


def _unnest(column: pa.Array, schema: DatasetSchema, path: Path, first_row: int) -> np.ndarray:
    """A nested list column to `(B, C, H, W)`, by its flat values: no Python object per pixel."""
    shape = [len(column)]
    if column.null_count:
        raise ValueError(f"{path}: an image among rows {first_row}-{first_row + len(column) - 1} is null.")
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if lengths.size and (lengths != lengths[0]).any():
            raise ValueError(f"{path}: images among rows {first_row}-{first_row + shape[0] - 1} are ragged.")
        shape.append(int(lengths[0]) if lengths.size else 0)
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape)


def _read_sparse(path: Path, schema: DatasetSchema) -> Iterator[pa.Table]:
    file = _open_parquet(path)
    available, features = file.schema_arrow.names, row_features(schema)
    missing = [name for name in ("pixel_index", "pixel_value", "event_id") if name not in available]
    if missing:
        raise ValueError(f"{path}: missing key {', '.join(map(repr, missing))}; the file has {', '.join(available)}.")
    label_names = _label_names(file.schema_arrow, schema)
    batches, first_row = file.iter_batches(1000, columns=[name for name in features if name in available]), 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: rows from {first_row} on cannot be read ({error}).") from error
        if batch is None:
            return
        _check_sparse(batch, schema, path, first_row)
        table = pa.Table.from_batches([batch])
        for name in features:
            if name not in available:
                table = table.append_column(name, pa.nulls(len(table)))
        if label_names != schema.label_names:
            _check_labels(table, label_names, path, first_row)
            number = [
                schema.label_names.index(label) if label in schema.label_names else None for label in label_names
            ]
            labels = pa.array(number, pa.int64()).take(table["labels"].combine_chunks())
            table = table.set_column(table.column_names.index("labels"), "labels", labels)
        yield table
        first_row += batch.num_rows


def _label_names(arrow_schema: pa.Schema, schema: DatasetSchema) -> tuple[str, ...]:
    """What the file calls its labels 0, 1, ...: classes that do not occur in a folder have no number once loaded."""
    if b"huggingface" not in (arrow_schema.metadata or {}):
        return schema.label_names
    labels = Features.from_arrow_schema(arrow_schema).get("labels")
    return tuple(labels.names) if isinstance(labels, ClassLabel) else schema.label_names


def _check_sparse(batch: pa.RecordBatch, schema: DatasetSchema, path: Path, first_row: int) -> None:
    index, value = batch["pixel_index"], batch["pixel_value"]
    if not index.offsets.equals(value.offsets):
        raise ValueError(f"{path}: pixel_index and pixel_value differ in length from row {first_row} on.")
    row_of = np.repeat(np.arange(batch.num_rows), np.diff(index.offsets.to_numpy()))
    pixels, num_pixels = index.flatten().to_numpy(), int(np.prod(schema.image_shape))
    outside = pixels >= num_pixels
    if outside.any():
        raise ValueError(
            f"{path}: row {first_row + row_of[outside][0]} has a pixel index of {pixels[outside][0]}, "
            f"but an image of shape {schema.image_shape} has {num_pixels} pixels."
        )
    infinite = ~np.isfinite(value.flatten().to_numpy())
    if infinite.any():
        channel = schema.channel_names[pixels[infinite][0] // (num_pixels // len(schema.channel_names))]
        raise ValueError(
            f"{path}: row {first_row + row_of[infinite][0]} holds NaN or infinite pixels in channel {channel}; "
            "drop it or fix the producer."
        )
