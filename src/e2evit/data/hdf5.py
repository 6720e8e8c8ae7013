"""HDF5: the arrays of a file, in groups and behind links too, and batches of their rows.

Where the bytes lie is decided in `hdf5_storage`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import h5py
import numpy as np

from .batches import BATCH_SIZE, BadRows, Batch, FileError
from .budget import BATCH_BYTES
from .hdf5_chunks import CheckedChunks
from .hdf5_storage import StoredArray, find_arrays, open_dataset, open_hdf5
from .storage import file_stamp, is_remote
from .unpacked import HDF5_ERRORS

__all__ = ["HDF5File"]


class HDF5File:
    """Arrays of an HDF5 file.

    Contiguous, uncompressed arrays are mapped into memory: the pages of the file are the array. The file is open only
    while it is read, because HDF5 locks open files against writing.

    Args:
        path: Path of the file.
        root: Folder that links and virtual data sets may read from.
    """

    kept_bytes = 0

    def __init__(self, path: str, root: str):
        self.path = path
        self.stored: dict[str, StoredArray] = {}
        self.unusable: dict[str, str] = {}  # arrays that cannot be read, with the reason
        arrays, self.linked = find_arrays(path, root)  # other files, with their stamps
        for key, array in arrays.items():
            if isinstance(array, StoredArray):
                self.stored[key] = array
            else:
                self.unusable[key] = array
        self.facts = {key: (array.shape, array.dtype) for key, array in self.stored.items()}

    def is_current(self) -> bool:
        """Whether the files that this one links to are as they were."""
        try:
            return all(file_stamp(path) == stamp for path, stamp in self.linked.items())
        except OSError:
            return False

    def num_rows(self, key: str) -> int:
        shape = self.facts[key][0]
        return shape[0] if shape else 0

    def borders(self, key: str) -> None:
        """Pieces may begin at any row."""

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch | BadRows]:
        """Batches of rows `[start, stop)`."""
        with ExitStack() as stack:
            files: dict[str, h5py.File] = {}
            arrays = {key: self._open(self.stored[key], files, stack) for key in keys}
            row_bytes = sum(self.stored[key].dtype.itemsize * prod(self.stored[key].shape[1:]) for key in keys)
            step = max(1, min(BATCH_SIZE, BATCH_BYTES // max(1, row_bytes)))
            for first in range(start, stop, step):
                last = min(first + step, stop)
                try:
                    yield Batch(first, {key: np.asarray(array[first:last]) for key, array in arrays.items()})
                except HDF5_ERRORS:
                    yield from self._one_by_one(arrays, first, last)

    def _open(self, array: StoredArray, files: dict[str, h5py.File], stack: ExitStack):
        if array.offset is not None and array.dtype.kind in "fiu" and not is_remote(array.path):
            return _Mapped(array)
        if array.path not in files:
            files[array.path] = stack.enter_context(open_hdf5(array.path))
        try:
            dataset = open_dataset(files[array.path], array)
            if array.parts:
                return _Virtual(dataset, array, lambda origin: self._open(origin, files, stack))
            return CheckedChunks(dataset) if dataset.chunks else dataset
        except HDF5_ERRORS as error:
            raise FileError(f"{array.path}: `{array.key}` cannot be opened ({error}).") from error

    def _one_by_one(self, arrays: dict, first: int, last: int) -> Iterator[Batch | BadRows]:
        """Read row by row, to name the damaged rows and keep the others."""
        for row in range(first, last):
            try:
                yield Batch(row, {key: np.asarray(array[row : row + 1]) for key, array in arrays.items()})
            except HDF5_ERRORS as error:
                yield BadRows(self.path, row, row, f"unreadable ({error})")


class _Mapped:
    """Rows of a contiguous array, mapped slice by slice, so that the process does not keep what it has read."""

    def __init__(self, array: StoredArray):
        self.array = array
        self.row_bytes = array.dtype.itemsize * prod(array.shape[1:])

    def __getitem__(self, rows: slice) -> np.memmap:
        start, stop, _ = rows.indices(self.array.shape[0])
        offset = (self.array.offset or 0) + start * self.row_bytes
        return np.memmap(self.array.path, self.array.dtype, "r", offset, (stop - start, *self.array.shape[1:]))


class _Virtual:
    """Rows of a virtual array, once the chunks that they come from have been checked."""

    def __init__(self, dataset: h5py.Dataset, array: StoredArray, open_array: Callable[[StoredArray], Any]):
        self.dataset, self.array, self.open_array = dataset, array, open_array
        self.origins: dict[StoredArray, Any] = {}

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.array.shape[0])
        self.check(start, stop)
        return self.dataset[start:stop]

    def check(self, start: int, stop: int) -> None:
        """Check the chunks behind rows `[start, stop)`."""
        for part in self.array.parts:
            first, last = part.origin_rows(start, stop)
            if first < last and (part.origin.parts or part.origin.is_chunked):
                if part.origin not in self.origins:
                    self.origins[part.origin] = self.open_array(part.origin)
                self.origins[part.origin].check(first, last)
