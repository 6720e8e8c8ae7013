"""Dense files, HDF5, Parquet and npz, behind one interface: what they hold, and batches of their arrays.

Nothing is known here of channels or masses; see `files` for that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .storage import file_stamp, is_remote, open_file

__all__ = ["BATCH_SIZE", "BadRows", "Batch", "DataFile", "FileError", "file_format", "holds_text", "open_data_file"]

BATCH_SIZE = 32  # jets; nested Parquet is read fastest in batches that fit into a processor's cache
ARROW_ERRORS = (pa.ArrowException, OSError, MemoryError, OverflowError)
TEXT_TYPES = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)
MAGIC = {b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet", b"PK\x03\x04": "npz"}
OPEN_FILES, LARGE = 32, 4_000_000  # bytes of a footer
CHUNK_CACHE = 64 * 2**20  # bytes: a chunk of 128 jets is then decompressed once, not once a batch
# HDF5 reports damage to its trees of metadata as any of these
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)


class FileError(ValueError):
    """A file cannot be read, or does not fit; the message says which, where and what to do."""


@dataclass(frozen=True)
class BadRows:
    """Rows `first` to `last` of a file that cannot be read or do not fit, and why."""

    path: str
    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        rows = f"row {self.first}" if self.first == self.last else f"rows {self.first}-{self.last}"
        return f"{self.path}, {rows}: {self.reason}"


class Batch(dict[str, np.ndarray]):
    """Arrays by their key in the file, of the rows that begin at `start`.

    `problems` holds the numbers in the batch of rows that are null or ragged, with the reason.
    """

    def __init__(self, start: int, arrays: dict[str, np.ndarray], problems: dict[int, str] | None = None):
        super().__init__(arrays)
        self.start, self.problems = start, problems or {}


def holds_text(dtype: np.dtype) -> bool:
    """Whether an array of this type holds strings, or bytes that stand for them."""
    return dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None


def file_format(path: Path) -> str:
    """`"hdf5"`, `"parquet"` or `"npz"`, by the file's first bytes.

    Raises:
        FileError: for a missing file, or one of another kind.
    """
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(64)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        raise FileError(f"{path} is a web page: the link it was downloaded from has expired, or asks for a login.")
    raise FileError(f"{path} is neither HDF5, Parquet nor npz (it begins with {head[:8]!r}).")


def open_data_file(path: str, file_format: str):
    """An `HDF5File`, `ParquetFile` or `NpzFile`; small ones stay open, since rows are read in many pieces.

    Raises:
        FileError: for a file that is truncated, empty or of another kind.
    """
    key = (path, file_format, file_stamp(path))
    if (found := _open_files.pop(key, None)) is None:
        # a footer of one row group a jet takes hundreds of megabytes: only one such file at a time
        for other in [name for name, file in _open_files.items() if file.kept_bytes > LARGE]:
            del _open_files[other]
        while len(_open_files) >= OPEN_FILES:
            del _open_files[next(iter(_open_files))]
        found = {"hdf5": HDF5File, "parquet": ParquetFile, "npz": NpzFile}[file_format](path)
    _open_files[key] = found  # the last one used comes last
    return found


_open_files: dict[tuple[str, str, str], "HDF5File | ParquetFile | NpzFile"] = {}


class HDF5File:
    """Arrays of an HDF5 file that have one entry a row.

    Contiguous and uncompressed ones are mapped into memory: the pages of the file are the array. The file is open only
    while it is read, since HDF5 lets nobody write to an open one.
    """

    kept_bytes = 0

    def __init__(self, path: str):
        self.path, self.facts, self.offsets = path, {}, {}
        with self._open() as file:
            for key, array in _datasets(file):
                self.facts[key] = array.shape, array.dtype
                self.offsets[key] = array.id.get_offset() if array.chunks is None else None

    @contextmanager
    def _open(self):
        try:
            with h5py.File(open_file(self.path), "r", rdcc_nbytes=CHUNK_CACHE) as file:
                yield file
        except HDF5_ERRORS as error:
            raise FileError(
                f"{self.path}: not a readable HDF5 file ({error}); is it truncated, or an expired link?"
            ) from error

    def num_rows(self, key: str) -> int:
        shape = self.facts[key][0]
        return shape[0] if shape else 0

    def borders(self, key: str) -> None:
        """Pieces may begin at any row."""

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch | BadRows]:
        """Batches of rows `[start, stop)`."""
        with self._open() as file:
            arrays = {key: self._array(file, key) for key in keys}
            for first in range(start, stop, BATCH_SIZE):
                last = min(first + BATCH_SIZE, stop)
                try:
                    yield Batch(first, {key: np.asarray(array[first:last]) for key, array in arrays.items()})
                except HDF5_ERRORS:
                    yield from self._one_by_one(arrays, first, last)

    def _array(self, file: h5py.File, key: str):
        (shape, dtype), offset = self.facts[key], self.offsets[key]
        if offset is None or dtype.kind not in "fiu" or is_remote(self.path) or 0 in shape:
            return file[key]
        return _Mapped(self.path, dtype, offset, shape)

    def _one_by_one(self, arrays: dict, first: int, last: int) -> Iterator[Batch | BadRows]:
        """To say which rows are damaged, and keep the others."""
        for row in range(first, last):
            try:
                yield Batch(row, {key: np.asarray(array[row : row + 1]) for key, array in arrays.items()})
            except HDF5_ERRORS as error:
                yield BadRows(self.path, row, row, f"unreadable ({error})")


class _Mapped:
    """Rows of a contiguous array, mapped slice by slice: what has been read does not stay with the process."""

    def __init__(self, path: str, dtype: np.dtype, offset: int, shape: tuple[int, ...]):
        self.path, self.dtype, self.offset, self.shape = path, dtype, offset, shape
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:]))

    def __getitem__(self, rows: slice) -> np.memmap:
        start, stop, _ = rows.indices(self.shape[0])
        shape = (stop - start, *self.shape[1:])
        return np.memmap(self.path, self.dtype, "r", self.offset + start * self.row_bytes, shape)


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    for key in file:
        if isinstance(key, str) and isinstance(item := file[key], h5py.Dataset):  # damaged names are bytes
            yield key, item


class NpzFile:
    """Arrays of a NumPy archive, without pickles."""

    def __init__(self, path: str):
        try:
            # opened here, since NumPy leaves a damaged archive open
            with fsspec.open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            self.arrays = {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
        except Exception as error:  # zipfile, zlib, numpy and struct each have their own
            raise FileError(
                f"{path}: not a readable npz file ({error}); is it truncated, or an expired link?"
            ) from error
        self.facts = {key: (array.shape, array.dtype) for key, array in self.arrays.items()}
        self.kept_bytes = sum(array.nbytes for array in self.arrays.values())

    num_rows, borders = HDF5File.num_rows, HDF5File.borders

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch | BadRows]:
        """Batches of rows `[start, stop)`."""
        for first in range(start, stop, BATCH_SIZE):
            rows = slice(first, min(first + BATCH_SIZE, stop))
            yield Batch(first, {key: self.arrays[key][rows] for key in keys})


def _open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file that checks the checksums of its pages, where it has them.

    Raises:
        FileError: if it is truncated, or no Parquet.
    """
    try:
        return pq.ParquetFile(open_file(path), page_checksum_verification=True, pre_buffer=False)
    except (*ARROW_ERRORS, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: not a readable Parquet file ({error}); is it truncated, or an expired link?"
        ) from error


class ParquetFile:
    """Columns of a Parquet file, nested lists as arrays: by their flat values, with no Python object a pixel."""

    def __init__(self, path: str):
        self.path, self.file = path, _open_parquet(path)
        metadata = self.file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.first_rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.kept_bytes = metadata.serialized_size

    @cached_property
    def facts(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and types of the columns, from the first row that can be read."""
        schema, found = self.file.schema_arrow, {}
        number = int(self.first_rows[-1])
        first = self._first_readable_row()
        for name in schema.names:
            shape, kind = [number], schema.field(name).type
            column = None if first is None else first.column(name)
            while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
                column = column.flatten() if column is not None and len(column) and not column.null_count else None
                shape.append(-1 if column is None else len(column) // max(1, int(np.prod(shape[1:]))))
                kind = kind.value_type
            found[name] = tuple(shape), _numpy_type(kind)
        return found

    def _first_readable_row(self) -> pa.RecordBatch | None:
        for group in np.flatnonzero(np.diff(self.first_rows)):
            try:
                return next(self.file.iter_batches(1, [int(group)], use_threads=False), None)
            except ARROW_ERRORS:
                continue  # reading will say what is wrong with it
        return None

    def num_rows(self, key: str) -> int:
        return int(self.first_rows[-1])

    def borders(self, key: str) -> np.ndarray:
        """Rows at which row groups, and so pieces, begin."""
        return self.first_rows

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch | BadRows]:
        """Batches of rows `[start, stop)`, which begin and end with a row group."""
        for first, found in self.tables(start, stop, keys):
            if isinstance(found, BadRows):
                yield found
                continue
            problems: dict[int, str] = {}
            arrays = {key: self._array(found.column(key), self.facts[key][0][1:], problems, key) for key in keys}
            yield Batch(first, arrays, problems)

    def tables(
        self, start: int, stop: int, keys: Sequence[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[int, pa.RecordBatch | BadRows]]:
        """Rows as Arrow holds them, with the number of the first; what is damaged as `BadRows`."""
        groups, first = list(range(*np.searchsorted(self.first_rows, [start, stop]).tolist())), start
        try:
            for batch in self.file.iter_batches(batch_size, groups, list(keys), use_threads=False):
                yield first, batch
                first += batch.num_rows
            yield from self._lacking(first, stop)
        except ARROW_ERRORS:
            # somewhere in what was read ahead: go on one row group at a time, to say which
            for group in groups:
                if self.first_rows[group + 1] > first:
                    yield from self._tables_of_group(group, keys, batch_size, first)
                    first = int(self.first_rows[group + 1])

    def _tables_of_group(self, group: int, keys: Sequence[str], batch_size: int, first: int):
        """The rows of a row group from row `first` of the file on."""
        begin, stop = self.first_rows[group : group + 2].tolist()
        try:
            for batch in self.file.iter_batches(batch_size, [group], list(keys), use_threads=False):
                new = batch.slice(max(0, first - begin))
                begin += batch.num_rows
                if new.num_rows:
                    yield begin - new.num_rows, new
                    first = begin
            yield from self._lacking(begin, stop)
        except ARROW_ERRORS as error:
            first = max(first, begin)
            yield first, BadRows(self.path, first, stop - 1, f"row group {group} is unreadable ({error})")

    def _lacking(self, first: int, stop: int) -> Iterator[tuple[int, BadRows]]:
        """Rows that the footer promises and the columns do not hold."""
        if first > stop:
            raise FileError(f"{self.path}: its columns hold more rows than its footer says; it is damaged.")
        if first < stop:
            yield first, BadRows(self.path, first, stop - 1, "the footer promises more rows than the columns hold")

    @staticmethod
    def _array(column: pa.Array, shape: tuple[int, ...], problems: dict[int, str], key: str) -> np.ndarray:
        number, flat = len(column), column
        if not shape:
            return column.to_numpy(zero_copy_only=False)
        fitting = True
        for depth in range(len(shape)):
            expected = number * int(np.prod(shape[: depth + 1]))
            fitting = fitting and not flat.null_count
            flat = flat.flatten()
            fitting = fitting and len(flat) == expected
        if fitting and _is_regular(column, shape):
            return flat.to_numpy(zero_copy_only=False).reshape(number, *shape)
        size = int(np.prod(np.maximum(shape, 0)))
        result = np.zeros((number, size), np.float32)
        for row in range(number):
            one, sizes = column.slice(row, 1), []
            if one.null_count:
                problems[row] = f"`{key}` is null"
                continue
            regular = _is_regular(one, shape)
            for _ in shape:
                one = one.flatten()
                sizes.append(len(one))
            if len(one) == size and regular:
                result[row] = one.to_numpy(zero_copy_only=False)
            else:
                problems[row] = f"`{key}` has another shape than {tuple(shape)}: lists of {sizes} in all"
        return result.reshape(number, *np.maximum(shape, 0))


def _numpy_type(kind: pa.DataType) -> np.dtype:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if any(is_text(kind) for is_text in TEXT_TYPES):
        return h5py.string_dtype()
    try:
        return np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        return np.dtype(object)


def _is_regular(column: pa.Array, shape: tuple[int, ...]) -> bool:
    """Whether the nested lists of `column` all have the lengths `shape`."""
    for length in shape:
        if not pa.types.is_fixed_size_list(column.type):
            offsets = column.offsets.to_numpy()
            if (np.diff(offsets) != length).any():
                return False
        column = column.flatten()
    return True


DataFile = HDF5File | ParquetFile | NpzFile
