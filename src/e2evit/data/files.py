"""Files of each format to tables of rows; whatever is wrong with a row is caught here, before anything is kept."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features

from .batches import bad_spans
from .colliderml import read_events
from .entries import check_labels, check_lists, check_numbers, check_pixels, check_scalars, renumbered
from .event_tables import find_tables_mismatch
from .formats import BadRows, Batch, DataFile, FileError, holds_text, open_data_file
from .ntuple import count_entries, find_ntuple_mismatch, read_ntuple
from .parquet import ParquetFile
from .schema import DatasetSchema, Source, row_features
from .sparse import dense_to_sparse

__all__ = ["Piece", "find_mismatch", "list_pieces", "read_rows"]

ROWS_AT_ONCE = 1000  # of sparse Parquet


@dataclass(frozen=True)
class Piece:
    """Rows (entries, in a ROOT file) `[start, stop)` of a file; `name` is its path within the data set, with which its
    event ids begin."""

    path: str
    name: str
    start: int
    stop: int

    @property
    def root(self) -> str:
        """The folder of the data set, where links of the file may lead."""
        return self.path.removesuffix(self.name).rstrip("/")


def _refuse(bad: BadRows) -> None:
    raise FileError(f"{bad}. Fix the file, or skip such rows: `e2evit prepare ... --on_bad_rows skip`.")


def find_mismatch(path: str, schema: DatasetSchema, root: str | None = None) -> str | None:
    """How a file differs from a schema, in its keys, their shapes or types; None if it fits.

    Args:
        root: Folder that the links of the file may lead to, by default its own.

    Raises:
        FileError: if it cannot be opened.
    """
    if schema.format == "rows":
        available = Counter(_open_rows(path).file.schema_arrow.names)
        if twice := [name for name, times in available.items() if times > 1]:
            return f"several columns have the name {_listed(twice)}"
        lists = [name for group in schema.list_groups for name in group]
        needed = (*lists, "event_id", *(("eta", "phi") * schema.particles))
        missing = [name for name in needed if name not in available]
        return f"missing key {_listed(missing)}; the file has {_listed(sorted(available))}" if missing else None
    if schema.format == "root":
        return find_ntuple_mismatch(path, schema)
    if schema.format == "colliderml":
        return find_tables_mismatch(path)
    file = open_data_file(path, schema.format, root)
    facts = file.facts
    if present := [key for key in schema.absent if key in facts]:
        return f"it has {', '.join(present)}, which only other versions have"
    missing = [repr(key) for key in schema.present if key not in facts]
    for name, source in schema.sources.items():
        present = [key for key in source.stack or source.keys if key in facts]
        for key in source.stack or source.keys:
            if key in file.unusable and (source.stack or not present):
                return f"`{key}` ({name}): {file.unusable[key]}"
        if len(present) < (len(source.stack) or 1) and name not in schema.optional:
            missing.append(" or ".join(map(repr, source.keys)) or _listed(source.stack))
        if len(present) > 1 and not source.stack:
            return f"both {_listed(present)} could be {name}"
    if missing:
        return f"missing key {', '.join(missing)}; the file has {_listed(sorted(facts)) or 'none'}"
    image, number = schema.columns["image"], None
    if not _num_rows(file, schema) and facts[image.find(facts) or ""][0]:
        return None  # an empty file has no types or shapes to speak of
    for name, source in ({"image": image} | schema.sources).items():  # the others are compared with it
        for key in source.stack or filter(None, [source.find(facts)]):
            shape, kind = facts[key]
            text = holds_text(kind) and (name == "event_id" or (name == "labels" and not source.one_hot))
            if kind.kind not in "fiub" and not text and name != "event_id":
                return f"`{key}` ({name}) holds {'text' if holds_text(kind) else kind}, not numbers"
            if not shape:
                return f"`{key}` ({name}) is a single number, not one for each row"
            if number is not None and shape[0] != number:
                return f"`{key}` has {shape[0]} rows and the images have {number}"
            if source is image:
                number = shape[0]
                expected = schema.image_size if source.stack else _stored_shape(schema)
                flat = len(shape) == 2 and shape[1] == int(np.prod(expected))
                if shape[1:] != tuple(expected) and not flat and -1 not in shape:  # no row has settled that side
                    return _wrong_shape(shape[1:], expected, schema)
            elif wanted := source.one_hot or (() if source.column is None else (source.column,)):
                if len(shape) != 2 or max(wanted) >= shape[1]:
                    return f"`{key}` ({name}) has shape {shape}: there is no column {max(wanted)}"
            elif any(side not in (1, -1) for side in shape[1:]):
                return f"`{key}` ({name}) has shape {shape}, expected one number for each row"
    return None


def _stored_shape(schema: DatasetSchema) -> tuple[int, ...]:
    channels, height, width = schema.image_shape
    return (height, width, channels) if schema.channels_last else (channels, height, width)


def _wrong_shape(shape, expected, schema: DatasetSchema) -> str:
    order = "eta; phi; channels" if schema.channels_last else "channels; eta; phi"
    return (
        f"expected images of shape {tuple(expected)} ({order}: {', '.join(schema.channel_names)}), got {tuple(shape)}"
    )


def _open_rows(path: str) -> ParquetFile:
    file = open_data_file(path, "parquet")
    assert isinstance(file, ParquetFile)
    return file


def _num_rows(file: DataFile, schema: DatasetSchema) -> int:
    key = "" if schema.format in ("rows", "colliderml") else schema.columns["image"].find(file.facts)
    return file.num_rows(key or "")


def list_pieces(path: str, name: str, schema: DatasetSchema, rows: int) -> list[Piece]:
    """A file in pieces of about `rows` rows, each beginning where reading can begin.

    Raises:
        FileError: if the file cannot be opened or does not fit the schema.
    """
    root = Piece(path, name, 0, 0).root
    if (mismatch := find_mismatch(path, schema, root)) is not None:
        raise FileError(f"{path} does not fit the data set {schema.name!r}: {mismatch}.")
    if schema.format == "root":
        number, borders = count_entries(path, schema), None
    else:
        of_rows = schema.format in ("rows", "colliderml")
        file = _open_rows(path) if of_rows else open_data_file(path, schema.format, root)
        number, borders = _num_rows(file, schema), file.borders("")
    starts = np.arange(0, number, rows)
    if borders is not None and number:
        starts = np.unique(borders[np.searchsorted(borders, starts)])
        starts = starts[starts < number]
    stops = [*starts[1:].tolist(), number]
    return [Piece(path, name, start, stop) for start, stop in zip(starts.tolist(), stops)]


def read_rows(
    piece: Piece, schema: DatasetSchema, on_bad_rows: Callable[[BadRows], None] = _refuse
) -> Iterator[pa.Table]:
    """Tables with the columns of [`row_features`], a few dozen to some thousand rows each.

    Args:
        on_bad_rows: Called with rows that cannot be read, or that hold a NaN or infinite pixel, an index outside the
            image, an unknown label or a mass out of range; they are skipped. By default they are an error.

    Raises:
        FileError: for a row that does not fit, naming file and row.
    """
    target, label = row_features(schema).arrow_schema, _class_of_file(piece.name, schema)
    known_bad = [
        span
        for glob, spans in schema.bad_rows.items()
        if fnmatch(piece.name, glob) or fnmatch(piece.path, glob)
        for span in spans
    ]
    reader = {"rows": _read_sparse, "root": _read_jets, "colliderml": _read_tables}.get(schema.format, _read_dense)
    for batch in reader(piece, schema, target):
        if isinstance(batch, BadRows):
            for bad in batch.without(known_bad):
                on_bad_rows(bad)
            continue
        start, table, problems = batch
        numbers = start if isinstance(start, np.ndarray) else np.arange(start, start + table.num_rows)
        for first, last in known_bad:
            inside = np.flatnonzero((numbers >= first) & (numbers <= last)).tolist()
            problems |= dict.fromkeys(inside, None)  # known and announced: not worth an error
        if label is not None:
            labels = pa.repeat(pa.scalar(label, target.field("labels").type), table.num_rows)
            table = table.set_column(table.column_names.index("labels"), "labels", labels)
        check_scalars(table, schema, problems)
        for bad in bad_spans(problems, piece.path, numbers, schema.format == "root"):
            on_bad_rows(bad)
        if problems:
            table = table.filter(pa.array(~np.isin(np.arange(table.num_rows), list(problems))))
        if table.num_rows:
            yield table.select(target.names).cast(target)


def _class_of_file(name: str, schema: DatasetSchema) -> int | None:
    """The class of all jets in a file, if the schema has one for each file."""
    if not schema.class_of_files:
        return None
    fitting = [label for label, pattern in schema.class_of_files.items() if fnmatch(name, pattern)]
    if len(fitting) != 1:
        told = f"is of the classes {' and '.join(fitting)}" if fitting else "has no class"
        raise FileError(f"{name} {told} by `class_of_files`: write globs of which one fits each file.")
    return schema.label_names.index(fitting[0])


def _read_dense(piece: Piece, schema: DatasetSchema, target: pa.Schema):
    file = open_data_file(piece.path, schema.format, piece.root)
    keys = {name: source.find(file.facts) for name, source in schema.sources.items()}
    wanted = list(dict.fromkeys([*schema.columns["image"].stack, *filter(None, keys.values())]))
    stored = [key for key in schema.columns["image"].stack or [keys["image"]] if key is not None]
    if any(-1 in file.facts[key][0] for key in stored):
        yield BadRows(piece.path, piece.start, piece.stop - 1, "the images are null, empty or ragged")
        return
    for batch in file.read(piece.start, piece.stop, wanted):
        if isinstance(batch, BadRows):
            yield batch
            continue
        problems: dict[int, str | None] = dict(batch.problems)
        images, channels_last = _images(batch, schema)
        index, value = dense_to_sparse(images, channels_last)
        check_pixels(index, value, schema, problems)
        data = {"pixel_index": index, "pixel_value": value}
        for name in target.names:
            if name == "event_id":
                data[name] = _event_ids(piece, batch, keys.get(name), len(images))
            elif name not in data:
                data[name] = _column(batch, schema, target.field(name), keys.get(name), problems, len(images))
        yield batch.start, pa.table(data), problems


def _read_jets(piece: Piece, schema: DatasetSchema, target: pa.Schema):
    for batch in read_ntuple(piece.path, piece.start, piece.stop, schema):
        if isinstance(batch, BadRows):
            yield batch
            continue
        columns, problems = batch.columns, batch.problems
        keys = {name: source.find(columns) for name, source in schema.sources.items()}
        check_pixels(batch.index, batch.value, schema, problems)
        data = {"pixel_index": batch.index, "pixel_value": batch.value}
        for name in target.names:
            if name == "event_id":
                source = schema.columns.get(name, Source())
                parts = [columns[key].tolist() for key in source.stack or source.keys if key in columns]
                if not parts or len(parts) < len(source.stack):
                    data[name] = [f"{piece.name}:{number}" for number in batch.entries.tolist()]
                else:
                    data[name] = [":".join(map(str, numbers)) for numbers in zip(*parts)]
            elif name not in data:
                field = target.field(name)
                data[name] = _column(columns, schema, field, keys.get(name), problems, len(batch.entries))
        yield batch.entries, pa.table(data), problems


def _read_tables(piece: Piece, schema: DatasetSchema, target: pa.Schema):
    return read_events(piece.path, piece.start, piece.stop, schema, target)


def _images(batch: Batch, schema: DatasetSchema) -> tuple[np.ndarray, bool]:
    """The batch's images, and whether their channels come last."""
    source = schema.columns["image"]
    if source.stack:
        return np.stack([batch[key].reshape(-1, *schema.image_size) for key in source.stack], axis=1), False
    key = source.find(batch)
    assert key is not None, "find_mismatch has looked for it"
    return batch[key].reshape(-1, *_stored_shape(schema)), schema.channels_last


def _event_ids(piece: Piece, batch: Batch, key: str | None, number: int) -> list[str | None]:
    if key is None:
        return [f"{piece.name}:{row}" for row in range(batch.start, batch.start + number)]
    return list(map(decode, batch[key].reshape(-1).tolist()))


def decode(entry) -> str | None:
    """Text from what a file holds: bytes, strings or numbers."""
    if entry is None:
        return None
    return entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry)


def _column(
    batch: Batch, schema: DatasetSchema, field: pa.Field, key: str | None, problems: dict, number: int
) -> pa.Array:
    """One of our columns, with the type it has in rows; what is not finite, or stands for nothing, becomes null."""
    name, kind = field.name, field.type
    if key is None:
        return pa.nulls(number, kind)
    source, values = schema.sources[name], batch[key]
    if name == "labels" and values.dtype.kind in "SUO":
        return _numbers_of_names(values, schema, key, problems)
    if source.one_hot:
        chosen = values[:, list(source.one_hot)]
        for row in np.flatnonzero((np.sort(chosen, axis=1)[:, :-1] != 0).any(axis=1) | (chosen.max(axis=1) != 1)):
            problems.setdefault(int(row), f"no class or several: {name} {chosen[row].tolist()}")
        values = chosen.argmax(axis=1)
    else:
        values = values[:, source.column] if source.column is not None else values.reshape(number, -1)[:, 0]
    values = values.astype(np.float64)
    values[source.is_missing(values)] = np.nan
    if pa.types.is_integer(kind):
        for row in np.flatnonzero(np.isfinite(values) & ((values != np.round(values)) | (np.abs(values) > 2**31 - 1))):
            problems.setdefault(int(row), f"{values[row]:g} as `{key}` ({name}), which is not a whole number")
        usable = np.isfinite(values) & (np.abs(values) < 2**31)
        return pa.array(np.where(usable, values, 0).astype(np.int64), mask=~usable).cast(kind)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    for row in np.flatnonzero(np.isinf(single)):
        problems.setdefault(int(row), f"{values[row]:g} as `{key}` ({name})")
    if pa.types.is_boolean(kind):
        return pa.array(values == 1, mask=np.isnan(values))
    return pa.array(single, mask=~np.isfinite(single))


def _numbers_of_names(values: np.ndarray, schema: DatasetSchema, key: str, problems: dict) -> pa.Array:
    """Labels a file writes as text, by the names of the classes; None stays null."""
    names = list(map(decode, values.reshape(len(values), -1)[:, 0].tolist()))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(schema.label_names)}
    for row, name in enumerate(names):
        if name is not None and name not in numbers:
            known = ", ".join(schema.label_names)
            problems.setdefault(row, f"the label {name[:100]!r} as `{key}`; known ones: {known}")
    return pa.array([numbers.get(name) for name in names], pa.int64())


def _read_sparse(piece: Piece, schema: DatasetSchema, target: pa.Schema):
    file = _open_rows(piece.path)
    available = file.file.schema_arrow.names
    label_names = _label_names(piece, file.file.schema_arrow, schema)
    renumber = [schema.label_names.index(name) if name in schema.labels else None for name in label_names]
    names, entries = [name for name in target.names if name in available], prod(schema.image_shape)
    for start, batch in file.tables(piece.start, piece.stop, names, ROWS_AT_ONCE, entries):
        if isinstance(batch, BadRows):
            yield batch
            continue
        problems: dict[int, str | None] = {}
        table = pa.Table.from_batches([batch])
        for name in target.names:
            if name not in available:
                table = table.append_column(name, pa.nulls(table.num_rows, target.field(name).type))
        try:
            table = table.select(target.names).cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FileError(
                f"{piece.path}: the columns of the rows from {start} on have the wrong type ({error})."
            ) from error
        for group in schema.list_groups:
            check_lists(table, list(group), problems)
        if label_names != schema.label_names:
            check_labels(table, label_names, problems)
            labels = table["labels"].to_numpy()
            new = [renumber[int(label)] if label == label and 0 <= label < len(renumber) else None for label in labels]
            table = table.set_column(table.column_names.index("labels"), "labels", pa.array(new, pa.int64()))
        if "jets" in schema.lists:
            place, column = table.column_names.index("jets_labels"), table["jets_labels"].combine_chunks()
            table = table.set_column(place, "jets_labels", renumbered(column, renumber, problems))
        entry_problems: dict[int, str | None] = {}
        lists, good = {name: table[name].combine_chunks() for name in schema.list_columns}, np.arange(table.num_rows)
        if problems:
            good = np.setdiff1d(good, list(problems))
            lists = {name: column.take(pa.array(good)) for name, column in lists.items()}
        for group in schema.list_groups[1:]:
            check_numbers({name: table[name].combine_chunks().take(pa.array(good)) for name in group}, entry_problems)
        if schema.particles:
            check_numbers(lists, entry_problems)
        else:
            check_pixels(lists["pixel_index"], lists["pixel_value"], schema, entry_problems)
        yield start, table, problems | {int(good[row]): reason for row, reason in entry_problems.items()}


def _label_names(piece: Piece, arrow_schema: pa.Schema, schema: DatasetSchema) -> tuple[str, ...]:
    """The file's names of its labels 0, 1, ...; once loaded, classes that do not occur in a folder have no number."""
    if b"huggingface" not in (arrow_schema.metadata or {}):
        return schema.label_names
    try:
        labels = Features.from_arrow_schema(arrow_schema).get("labels")
    except Exception as error:  # whatever the damage does to the JSON in the footer
        raise FileError(f"{piece.path}: the description of its columns is damaged ({error}).") from error
    return tuple(labels.names) if isinstance(labels, ClassLabel) else schema.label_names


def _listed(names) -> str:
    return ", ".join(map(repr, names))
