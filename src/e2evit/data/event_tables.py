"""The four tables of ColliderML, one row an event each, joined by the number of the event and never by the row.

Numbers repeat between samples, so a sample's tables are only joined with each other. A shard can be a single row group
of a thousand events: it is read forward, a few at a time.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa

from .batches import BadRows, FileError
from .budget import MAX_PIXELS
from .parquet import ParquetFile
from .storage import absolute, file_stamp, is_remote, list_files

__all__ = [
    "FIRST",
    "TABLES",
    "EventError",
    "EventTable",
    "check_events",
    "find_tables_mismatch",
    "joined_files",
    "other_files",
    "read_table",
    "sample_of",
    "table_files",
]

FIRST = "particles"  # the table whose files and rows are counted
TABLES = {  # the columns that are read
    FIRST: (
        *("particle_id", "parent_id", "pdg_id", "primary", "vertex_primary"),
        *("px", "py", "pz", "energy", "mass", "vx", "vy", "vz"),
    ),
    "calo_hits": ("detector", "total_energy", "x", "y", "z"),
    "tracker_hits": ("detector", "x", "y", "z"),
    "tracks": ("d0", "z0", "phi", "theta", "qop"),
}
FLAGS, CODES = ("primary",), ("particle_id", "parent_id", "pdg_id", "vertex_primary", "detector")
BUFFER, EVENTS, FILES = 2**20, 4, 10_000  # bytes of a column and events read at a time; files whose events are known


class EventError(Exception):
    """An event cannot be read, or joined, or become an image; the message says why."""


def sample_of(path: str) -> str:
    """The sample that a file of particles belongs to: `ttbar_pu0` in `ttbar_pu0_particles/` or `ttbar_pu0/particles/`.

    Raises:
        FileError: for a file in a folder of another name.
    """
    above, folder, _ = _parts(path)
    if folder == FIRST:
        return above.rsplit("/", 1)[-1]
    if not folder.endswith(f"_{FIRST}"):
        raise FileError(f"{path}: its folder is {folder}, expected SAMPLE_{FIRST}, the table that names the events")
    return folder.removesuffix(f"_{FIRST}")


def _parts(path: str) -> tuple[str, str, str]:
    """What is above the folder of a file, the folder's name and the file's."""
    *above, folder, name = absolute(path).split("/")
    return "/".join(above), folder, name


def table_files(path: str, table: str) -> list[str]:
    """Files of a table beside a file of particles; that of the same name first.

    Raises:
        FileError: if there are none.
    """
    above, folder, name = _parts(path)
    folder = f"{above}/{folder.removesuffix(FIRST)}{table}"
    try:
        files = _list(folder, "" if is_remote(folder) else file_stamp(folder))
    except FileNotFoundError:
        files = ()
    if not files:
        raise FileError(f"{folder}: no Parquet files, but the events of {path} need this table")
    return sorted(files, key=lambda file: file.rsplit("/", 1)[1] != name)


@lru_cache(maxsize=64)
def _list(folder: str, stamp: str) -> tuple[str, ...]:
    return tuple(list_files(folder, "*.parquet"))


def other_files(paths: Iterable[str]) -> list[str]:
    """The files that those of particles are joined with."""
    one_of_each_folder = {path.rsplit("/", 1)[0]: path for path in paths}.values()
    others = [table for table in TABLES if table != FIRST]
    return [file for path in one_of_each_folder for table in others for file in table_files(path, table)]


def joined_files(path: str) -> list[str]:
    """The files in which the events of a file of particles are looked up: those of the same name if they have all,
    else all of their table.

    Raises:
        FileError: if a file cannot be opened, or has an event twice.
    """
    numbers, _ = _numbers(path, file_stamp(path))
    joined = []
    for table in (table for table in TABLES if table != FIRST):
        first, *others = table_files(path, table)
        same_name = _parts(first)[2] == _parts(path)[2]
        has_all = same_name and np.isin(numbers, _numbers(first, file_stamp(first))[0]).all()
        joined += [first] if has_all else [first, *others]
    return joined


def find_tables_mismatch(path: str) -> str | None:
    """What the tables of a file of particles lack; None if they have all that is read.

    Raises:
        FileError: if a file cannot be opened, or there is none.
    """
    sample_of(path)
    for table, columns in TABLES.items():
        other = path if table == FIRST else table_files(path, table)[0]
        schema = ParquetFile(other).file.schema_arrow
        if missing := [name for name in ("event_id", *columns) if name not in schema.names]:
            return f"{table} lacks the column {', '.join(missing)}"
        for name in columns:
            kind = schema.field(name).type
            held = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else pa.null()
            fits, expected = pa.types.is_integer(held), "whole numbers"
            if name in FLAGS:
                fits, expected = fits or pa.types.is_boolean(held), "true or false"
            elif name not in CODES:
                fits, expected = fits or pa.types.is_floating(held), "numbers"
            if not fits:
                return f"`{name}` of {table} is {kind}, expected a list of {expected} for each event"
        if not pa.types.is_integer(schema.field("event_id").type):
            return f"`event_id` of {table} is {schema.field('event_id').type}, expected the number of the event"
    return None


def read_table(
    path: str, table: str, start: int, stop: int
) -> Iterator[tuple[int, int, dict[str, np.ndarray] | str] | BadRows]:
    """Rows `[start, stop)` of a file, which begin with a row group: their numbers, those of their events, and columns
    or what is wrong with them."""
    columns, file = TABLES[table], ParquetFile(path, BUFFER)
    for first, batch in file.tables(start, stop, ["event_id", *columns], EVENTS, MAX_PIXELS):
        if isinstance(batch, BadRows):
            yield batch
            continue
        for row in range(batch.num_rows):
            yield first + row, batch.column(0)[row].as_py(), _columns(batch.slice(row, 1), table, columns)


def _columns(event: pa.RecordBatch, table: str, names: tuple[str, ...]) -> dict[str, np.ndarray] | str:
    """Columns of one event, or what is wrong with them."""
    columns: dict[str, np.ndarray] = {}
    for name in names:
        values = event.column(name).flatten()
        if event.column(name).null_count or values.null_count:
            return f"a null in `{name}` of {table}"
        columns[name] = values.to_numpy(zero_copy_only=False)
        if name in FLAGS:
            columns[name] = columns[name].astype(bool)
        if columns[name].dtype.kind == "f":
            columns[name] = columns[name].astype(np.float64)
            if not np.isfinite(columns[name]).all():
                return f"NaN or infinity in `{name}` of {table}"
        elif columns[name].dtype.kind in "iu":
            columns[name] = columns[name].astype(np.int64)
    first, *others = names
    for name in others:
        if len(columns[name]) != len(columns[first]):
            told = f"{len(columns[first])} entries in `{first}` and {len(columns[name])} in `{name}`"
            return f"{told} of {table}"
    return columns


class EventTable:
    """One table of a sample; its events are found wherever they are, and fastest in the order of the files.

    Args:
        path: A file of the sample's particles.
        table: Name of the table.
    """

    def __init__(self, path: str, table: str):
        self.table, self.files = table, table_files(path, table)
        self.other_particles = [file for file in table_files(path, FIRST) if file != path]
        self.named = [file for file in self.files if _parts(file)[2] == _parts(path)[2]]
        self.path, self.rows, self.next = "", iter(()), 0
        self.numbers: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def event(self, number: int) -> dict[str, np.ndarray]:
        """The columns of an event.

        Raises:
            EventError: if the table lacks it, has it twice, or its row is damaged.
            FileError: if a file cannot be opened.
        """
        path, row = self._find(number)
        if path != self.path or row < self.next:  # backwards: from the beginning of its row group
            borders = ParquetFile(path).borders("")
            self.next = int(borders[np.searchsorted(borders, row, side="right") - 1])
            self.path, self.rows = path, read_table(path, self.table, self.next, int(borders[-1]))
        for found in self.rows:
            if isinstance(found, BadRows):
                self.next = found.last + 1
                if found.first <= row <= found.last:
                    raise EventError(f"it cannot be read from {path}: {found.reason}")
                continue
            self.next = found[0] + 1
            if found[0] == row:
                if isinstance(found[2], str):
                    raise EventError(found[2])
                return found[2]
        raise EventError(f"it cannot be read from {path}")

    def _find(self, number: int) -> tuple[str, int]:
        """File and row of an event: in the file of the same name, or else in any, if only one has it."""
        for files in (self.named, self.files):
            places = [(file, row) for file in files if (row := self._row(file, number)) is not None]
            if len(places) > 1:
                raise EventError(f"it is in {places[0][0]} and {places[1][0]}: cannot tell which to join")
            if places and files is self.files:
                twice = [file for file in self.other_particles if self._row(file, number) is not None]
                if twice:
                    raise EventError(f"{twice[0]} has one of that number, too: cannot tell which {places[0][0]} holds")
            if places:
                return places[0]
        raise EventError(f"it is in none of the {len(self.files)} files of {'/'.join(_parts(self.files[0])[:2])}")

    def _row(self, file: str, number: int) -> int | None:
        if file not in self.numbers:
            self.numbers[file] = _numbers(file, file_stamp(file))
        numbers, rows = self.numbers[file]
        place = int(np.searchsorted(numbers, number))
        return int(rows[place]) if place < len(numbers) and numbers[place] == number else None


def check_events(path: str) -> None:
    """Check that the events of a file have different numbers.

    Raises:
        FileError: naming one that occurs twice.
    """
    _numbers(path, file_stamp(path))


@lru_cache(maxsize=FILES)
def _numbers(path: str, stamp: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a file's events, ascending, and their rows."""
    file, numbers, rows = ParquetFile(path), [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first, batch in file.tables(0, file.num_rows(""), ["event_id"], 10_000, 1):
        if isinstance(batch, BadRows):
            continue
        column = batch.column(0)
        rows.append(first + np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)))
        numbers.append(column.drop_null().to_numpy(zero_copy_only=False).astype(np.int64))
    number, row = np.concatenate(numbers), np.concatenate(rows)
    order = np.argsort(number, kind="stable")
    number, row = number[order], row[order]
    if len(twice := np.flatnonzero(number[1:] == number[:-1])):
        pair = f"{row[twice[0]]} and {row[twice[0] + 1]}"
        raise FileError(f"{path}: event {number[twice[0]]} is in the rows {pair}: cannot tell which to join")
    return number, row
