"""Parquet: columns of nested lists as arrays, by their flat values, with no Python object for a pixel."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .batches import BATCH_SIZE, BadRows, Batch, FileError
from .budget import BATCH_BYTES, MAX_PIXELS, MAX_RATIO, MAX_TEXT, megabytes, row_problem
from .storage import file_size, is_remote, open_file
from .unpacked import MAX_UNPACKED, mapped, page_problem

__all__ = ["ParquetFile", "open_parquet"]

ARROW_ERRORS = (pa.ArrowException, OSError, MemoryError, OverflowError)
TEXT_TYPES = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)
SMALL = 4096  # bytes that cannot unpack to much, unless they are lengths of lists or packed well
SIMPLE = ("UNCOMPRESSED", "SNAPPY")  # compressions that pack a page to a twentieth at most
AGREEING_ROWS, SAMPLED_ROWS = 8, 1000  # rows that settle a shape; rows looked at where none is whole, or they disagree


def open_parquet(path: str, buffer_size: int = 0) -> pq.ParquetFile:
    """A Parquet file whose pages are checked against their checksums, where it has them.

    Args:
        buffer_size: Bytes of a column to read at a time; 0: all of a row group.

    Raises:
        FileError: if it is truncated, or not Parquet.
    """
    try:
        return pq.ParquetFile(
            open_file(path), page_checksum_verification=True, pre_buffer=False, buffer_size=buffer_size
        )
    except (*ARROW_ERRORS, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: not a readable Parquet file ({error}); is it truncated, or an expired link?"
        ) from error


@dataclass(frozen=True)
class _Claims:
    """Why a row group must not be read, or how many of its rows fit into memory together."""

    problem: str | None
    batch_size: int


class ParquetFile:
    """Columns of a Parquet file, nested lists as arrays: by their flat values, with no Python object a pixel."""

    def __init__(self, path: str, buffer_size: int = 0):
        self.path, self.file = path, open_parquet(path, buffer_size)
        metadata = self.file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if problem := row_problem((sum(counts) if min(counts, default=0) >= 0 else -1,), 0, False, file_size(path)):
            raise FileError(f"{path}: {problem}.")
        self.first_rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.kept_bytes = metadata.serialized_size
        self.unusable: dict[str, str] = {}

    @cached_property
    def facts(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and types of the columns; a shape is the commonest among the first rows that are whole."""
        schema, number = self.file.schema_arrow, int(self.first_rows[-1])
        facts = {}
        for name, times in Counter(schema.names).items():
            if times > 1:
                self.unusable[name] = f"the file has {times} columns of this name"
                continue
            depth, kind = _element(schema.field(name).type)
            facts[name] = (number, *self._commonest_shape(name, depth)), _numpy_type(kind)
        return {name: fact for name, fact in facts.items() if name not in self.unusable}

    def _commonest_shape(self, name: str, depth: int) -> tuple[int, ...]:
        """Shape of the lists of a column in its first whole rows, `depth` times -1 if there is none."""
        seen: Counter[tuple[int, ...]] = Counter()
        for _, row in zip(range(SAMPLED_ROWS), self._readable_rows(name) if depth else ()):
            if (shape := _regular_shape(row.column(0))) is not None:
                seen[shape] += 1
                if seen[shape] >= AGREEING_ROWS:
                    break
        return max(seen, key=seen.__getitem__, default=(-1,) * depth)

    def _readable_rows(self, name: str) -> Iterator[pa.RecordBatch]:
        problem, number = None, 0
        for group in np.flatnonzero(np.diff(self.first_rows)):
            (claims,) = self._claims([int(group)], [name], MAX_PIXELS)
            problem = claims.problem or problem
            if claims.problem is None:
                with suppress(*ARROW_ERRORS):  # reading will say what is wrong with it
                    for row in self.file.iter_batches(1, [int(group)], [name], use_threads=False):
                        number += 1
                        yield row
        if problem is not None and not number:
            self.unusable[name] = problem

    def num_rows(self, key: str) -> int:
        return int(self.first_rows[-1])

    def borders(self, key: str) -> np.ndarray:
        """Rows at which row groups, and so pieces, begin."""
        return self.first_rows

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch | BadRows]:
        """Batches of rows `[start, stop)`, which begin and end with a row group."""
        entries = max((prod(self.facts[key][0][1:]) for key in keys), default=1)
        for first, rows in self.tables(start, stop, keys, BATCH_SIZE, entries):
            if isinstance(rows, BadRows):
                yield rows
                continue
            problems: dict[int, str] = {}
            arrays = {key: self._array(rows.column(key), self.facts[key][0][1:], problems, key) for key in keys}
            yield Batch(first, arrays, problems)

    def tables(
        self, start: int, stop: int, keys: Sequence[str], batch_size: int, entries: int
    ) -> Iterator[tuple[int, pa.RecordBatch | BadRows]]:
        """Rows as Arrow holds them, with the number of the first; what is damaged as `BadRows`.

        Args:
            entries: How many a list of a row can have.
        """
        groups, first = list(range(*np.searchsorted(self.first_rows, [start, stop]).tolist())), start
        claims = list(self._claims(groups, keys, entries))
        batch_size = min([batch_size, *(claim.batch_size for claim in claims)])
        try:
            if any(claim.problem for claim in claims):
                raise OSError("not in one go")
            for batch in self.file.iter_batches(batch_size, groups, list(keys), use_threads=False):
                _check_text(batch)
                yield first, batch
                first += batch.num_rows
            yield from self._lacking(first, stop)
        except ARROW_ERRORS:
            # somewhere in what was read ahead: continue one row group at a time, to say which
            for group in groups:
                if self.first_rows[group + 1] > first:
                    yield from self._tables_of_group(group, keys, batch_size, first, entries)
                    first = int(self.first_rows[group + 1])

    def _tables_of_group(self, group: int, keys: Sequence[str], batch_size: int, first: int, entries: int):
        """The rows of a row group from row `first` of the file on."""
        begin, stop = self.first_rows[group : group + 2].tolist()
        try:
            for claim in self._claims([group], keys, entries):
                if claim.problem:
                    raise OSError(claim.problem)
            for batch in self.file.iter_batches(batch_size, [group], list(keys), use_threads=False):
                _check_text(batch)
                new = batch.slice(max(0, first - begin))
                begin += batch.num_rows
                if new.num_rows:
                    yield begin - new.num_rows, new
                    first = begin
            yield from self._lacking(begin, stop)
        except ARROW_ERRORS as error:
            first = max(first, begin)
            yield first, BadRows(self.path, first, stop - 1, f"row group {group} is unreadable ({error})")

    @cached_property
    def _leaves(self) -> dict[str, list[tuple[int, bool]]]:
        """Numbers of the flat columns that each column consists of, and whether they are in lists."""
        leaves: dict[str, list[tuple[int, bool]]] = {name: [] for name in self.file.schema_arrow.names}
        for number in range(len(self.file.schema)):
            column = self.file.schema.column(number)
            name = column.path
            while name not in leaves and "." in name:
                name = name.rpartition(".")[0]
            leaves.setdefault(name, []).append((number, column.max_repetition_level > 0))
        return leaves

    def _claims(self, groups: Sequence[int], keys: Sequence[str], entries: int) -> Iterator["_Claims"]:
        """What the footer claims of some columns of each row group; `entries` is the most that a row's list has."""
        with ExitStack() as stack:
            data = None if is_remote(self.path) else stack.enter_context(mapped(self.path))
            for group in groups:
                metadata = self.file.metadata.row_group(group)
                batch_size = MAX_PIXELS
                for name, (number, repeated) in ((key, leaf) for key in keys for leaf in self._leaves[key]):
                    column = metadata.column(number)
                    problem = _claim_problem(column, metadata.num_rows, entries if repeated else 1)
                    small = column.total_compressed_size <= SMALL and column.compression in SIMPLE
                    if data is not None and problem is None and (repeated or not small):
                        problem = page_problem(data, column)
                    if problem is not None:
                        yield _Claims(problem if len(keys) == 1 else f"`{name}`: {problem}", 1)
                        break
                    if repeated and 8 * column.num_values > BATCH_BYTES:
                        batch_size = min(batch_size, BATCH_BYTES // (8 * entries))
                    if column.physical_type == "BYTE_ARRAY":  # a dictionary may repeat its longest text in each row
                        batch_size = min(batch_size, MAX_UNPACKED // max(1, column.total_uncompressed_size))
                else:
                    yield _Claims(None, max(1, batch_size))

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
        # nulls are not numbers of any other type
        result = np.zeros((number, size), np.float32 if pa.types.is_float32(flat.type) else np.float64)
        for row in range(number):
            one, sizes = column.slice(row, 1), []
            if one.null_count and size == 1:
                result[row] = np.nan  # one number, like a null in a plain column
                continue
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
                problems[row] = (
                    f"`{key}` does not have the shape {tuple(shape)}: its lists hold {sizes} entries in all"
                )
        return result.reshape(number, *np.maximum(shape, 0))


def _check_text(batch: pa.RecordBatch) -> None:
    """Raise an OSError for text that is longer than labels and event ids are."""
    for name, column in zip(batch.schema.names, batch.columns):
        column = column.dictionary if isinstance(column, pa.DictionaryArray) else column
        if len(column) and any(is_text(column.type) for is_text in TEXT_TYPES):
            longest = pc.call_function("max", [pc.call_function("binary_length", [column])]).as_py() or 0
            if longest > MAX_TEXT:
                raise OSError(f"`{name}` holds a text of {megabytes(longest)}, more than {MAX_TEXT} bytes")


def _claim_problem(column: pq.ColumnChunkMetaData, rows: int, entries: int) -> str | None:
    """Why a column of a row group cannot hold, or must not be asked for, what the footer says."""
    declared, stored, unpacked = column.num_values, column.total_compressed_size, column.total_uncompressed_size
    if min(declared, stored, unpacked) < 0:
        return "it has a negative size"
    if declared > min(rows * entries + MAX_PIXELS, max(MAX_PIXELS, MAX_RATIO * stored)):
        return f"it declares {declared} entries in {rows} rows ({megabytes(stored)} are in the file)"
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * stored):
        return f"it unpacks to {megabytes(unpacked)} ({megabytes(stored)} are in the file)"
    return None


def _numpy_type(kind: pa.DataType) -> np.dtype:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if any(is_text(kind) for is_text in TEXT_TYPES):
        return h5py.string_dtype()
    try:
        return np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        return np.dtype(object)


def _regular_shape(column: pa.Array) -> tuple[int, ...] | None:
    """Shape of the nested lists of a single row; None if it is null, empty or ragged."""
    shape: list[int] = []
    while _is_list(column.type):
        lists = len(column)
        if column.null_count:
            return None
        column = column.flatten()
        shape.append(len(column) // lists)
        if not len(column) or shape[-1] * lists != len(column):
            return None
    return tuple(shape)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _element(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """How many lists are nested, and the type of what they hold."""
    depth = 0
    while _is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth, kind


def _is_regular(column: pa.Array, shape: tuple[int, ...]) -> bool:
    """Whether the nested lists of `column` all have the lengths `shape`."""
    for length in shape:
        if not pa.types.is_fixed_size_list(column.type):
            offsets = column.offsets.to_numpy()
            if (np.diff(offsets) != length).any():
                return False
        column = column.flatten()
    return True
