"""NumPy archives, without pickles."""

from collections.abc import Iterator, Sequence
from typing import cast

import fsspec
import numpy as np
from fsspec.core import OpenFile

from .batches import BATCH_SIZE, Batch, FileError

__all__ = ["NpzFile"]


class NpzFile:
    """Arrays of an archive, all of them in memory."""

    def __init__(self, path: str):
        try:
            # opened here because NumPy leaves a damaged archive open
            with cast(OpenFile, fsspec.open(path, "rb")) as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            self.arrays = {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
        except Exception as error:  # zipfile, zlib, numpy and struct each have their own
            raise FileError(
                f"{path}: not a readable npz file ({error}); is it truncated, or an expired link?"
            ) from error
        self.facts = {key: (array.shape, array.dtype) for key, array in self.arrays.items()}
        self.unusable: dict[str, str] = {}
        self.kept_bytes = sum(array.nbytes for array in self.arrays.values())

    def num_rows(self, key: str) -> int:
        shape = self.facts[key][0]
        return shape[0] if shape else 0

    def borders(self, key: str) -> None:
        """Pieces may begin at any row."""

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch]:
        """Batches of rows `[start, stop)`."""
        for first in range(start, stop, BATCH_SIZE):
            rows = slice(first, min(first + BATCH_SIZE, stop))
            yield Batch(first, {key: self.arrays[key][rows] for key in keys})
