"""What every reader of dense files returns: batches of arrays, the rows it could not read, one kind of error."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import h5py
import numpy as np

__all__ = ["BATCH_SIZE", "BadRows", "Batch", "FileError", "bad_spans", "holds_text", "number_of_rows"]

BATCH_SIZE = 32  # jets; nested Parquet is read fastest in batches that fit into a processor's cache


class FileError(ValueError):
    """A file cannot be read, or does not fit; the message says which file, where and what to do."""


@dataclass(frozen=True)
class BadRows:
    """Rows `first` to `last` of a file that cannot be read or do not fit, and why; of a ROOT file `entries`."""

    path: str
    first: int
    last: int
    reason: str
    entries: bool = False

    @property
    def where(self) -> str:
        """Their numbers, for people."""
        if self.first == self.last:
            return f"{'entry' if self.entries else 'row'} {self.first}"
        return f"{'entries' if self.entries else 'rows'} {self.first}-{self.last}"

    def __str__(self) -> str:
        return f"{self.path}, {self.where}: {self.reason}"

    def without(self, known: Iterable[tuple[int, int]]) -> "Iterator[BadRows]":
        """Those of them outside some ranges, ends included."""
        first = self.first
        for start, stop in sorted(known):
            if first < start <= self.last:
                yield replace(self, first=first, last=start - 1)
            first = max(first, stop + 1) if start <= self.last else first
        if first <= self.last:
            yield replace(self, first=first)


def bad_spans(problems: dict[int, str | None], path: str, numbers: np.ndarray, entries: bool) -> Iterator[BadRows]:
    """Neighbouring rows with the same problem, as one range of their `numbers` in the file."""
    reasons = {row: why for row, why in problems.items() if why is not None}
    first = None
    for row in sorted(reasons):
        if first is None:
            first = row
        if reasons.get(row + 1) != reasons[row] or numbers[row + 1] > numbers[row] + 1:
            yield BadRows(path, int(numbers[first]), int(numbers[row]), reasons[row], entries)
            first = None


def number_of_rows(bad: Iterable[tuple[str, int, int]]) -> int:
    """How many rows (entries, of ROOT files) some ranges of files hold; those in several ranges count once."""
    number, file, reached = 0, None, -1
    for path, first, last in sorted(bad):
        reached = reached if path == file else -1
        number += max(0, last - max(first - 1, reached))
        file, reached = path, max(reached, last)
    return number


class Batch(dict[str, np.ndarray]):
    """Arrays by their key in the file, for the rows from `start` on.

    `problems` gives the reason for each row of the batch (counted from 0) that is null or ragged.
    """

    def __init__(self, start: int, arrays: dict[str, np.ndarray], problems: dict[int, str] | None = None):
        super().__init__(arrays)
        self.start, self.problems = start, problems or {}


def holds_text(dtype: np.dtype) -> bool:
    """Whether an array of this type holds strings, or bytes that stand for them."""
    return dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None
