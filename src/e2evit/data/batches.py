"""What every reader of dense files returns: batches of arrays, the rows it could not read, one kind of error."""

from dataclasses import dataclass

import h5py
import numpy as np

__all__ = ["BATCH_SIZE", "BadRows", "Batch", "FileError", "holds_text"]

BATCH_SIZE = 32  # jets; nested Parquet is read fastest in batches that fit into a processor's cache


class FileError(ValueError):
    """A file cannot be read, or does not fit; the message says which file, where and what to do."""


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
    """Arrays by their key in the file, for the rows from `start` on.

    `problems` gives the reason for each row of the batch (counted from 0) that is null or ragged.
    """

    def __init__(self, start: int, arrays: dict[str, np.ndarray], problems: dict[int, str] | None = None):
        super().__init__(arrays)
        self.start, self.problems = start, problems or {}


def holds_text(dtype: np.dtype) -> bool:
    """Whether an array of this type holds strings, or bytes that stand for them."""
    return dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None
