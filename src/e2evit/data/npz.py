"""NumPy archives, without pickles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import fsspec
import numpy as np
from fsspec.core import OpenFile
from numpy.lib import format as npy

from .batches import BATCH_SIZE, Batch, FileError
from .budget import NPZ_RATIO, megabytes, row_problem
from .storage import file_size
from .unpacked import MAX_UNPACKED

__all__ = ["NpzFile"]

MAX_MEMBERS = 10_000
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpzFile:
    """Arrays of an archive; those that are read stay in memory."""

    def __init__(self, path: str):
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        self.facts: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self.unusable: dict[str, str] = {}  # arrays that cannot be read, with the reason
        self.size = file_size(path)
        with self._open() as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise FileError(f"{path}: {len(members)} arrays, more than {MAX_MEMBERS}.")
            for member in members:
                key = member.filename.removesuffix(".npy")
                fact = _describe(archive, member, self.size)
                if key in self.unusable or self.facts.pop(key, None) is not None:
                    fact = "the archive holds several arrays of this name"
                if isinstance(fact, str):
                    self.unusable[key] = fact
                else:
                    self.facts[key] = fact
        self.kept_bytes = sum(prod(shape) * dtype.itemsize for shape, dtype in self.facts.values())

    @contextmanager
    def _open(self) -> Iterator[ZipFile]:
        try:
            with cast(OpenFile, fsspec.open(self.path, "rb")) as stream, ZipFile(cast(BinaryIO, stream)) as archive:
                yield archive
        except FileError:
            raise
        except Exception as error:  # zipfile, zlib, numpy and struct each have their own
            raise FileError(
                f"{self.path}: not a readable npz file ({error}); is it truncated, or an expired link?"
            ) from error

    def num_rows(self, key: str) -> int:
        shape = self.facts[key][0]
        return shape[0] if shape else 0

    def borders(self, key: str) -> None:
        """Pieces may begin at any row."""

    def read(self, start: int, stop: int, keys: Sequence[str]) -> Iterator[Batch]:
        """Batches of rows `[start, stop)`."""
        if missing := [key for key in keys if key not in self.arrays]:
            unpacked = sum(prod(self.facts[key][0]) * self.facts[key][1].itemsize for key in {*self.arrays, *missing})
            if unpacked > max(MAX_UNPACKED, NPZ_RATIO * self.size):
                raise FileError(
                    f"{self.path}: {', '.join(keys)} unpack to {megabytes(unpacked)} from {megabytes(self.size)}: "
                    "save them in smaller files, or as HDF5."
                )
            with self._open() as archive:
                for key in missing:
                    with archive.open(f"{key}.npy") as stream:
                        self.arrays[key] = npy.read_array(stream, allow_pickle=False)
        for first in range(start, stop, BATCH_SIZE):
            rows = slice(first, min(first + BATCH_SIZE, stop))
            yield Batch(first, {key: self.arrays[key][rows] for key in keys})


def _describe(archive: ZipFile, member: ZipInfo, file_bytes: int) -> tuple[tuple[int, ...], np.dtype] | str:
    """Shape and type of a member, or why it cannot be read; nothing but its header is unpacked."""
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"it is compressed with method {member.compress_type}, and NumPy writes 0 and 8"
    if not member.filename.endswith(".npy"):
        return "it is not an array"
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in HEADERS:
            return f"it has version {version} of the npy format"
        shape, _, dtype = HEADERS[version](stream)
        begins = stream.tell()
    if dtype.hasobject:
        return "it holds Python objects, which only pickle reads: save numbers"
    declared, stored = prod(shape) * dtype.itemsize, member.file_size - begins
    if declared != stored:
        return f"it declares {megabytes(declared)} (shape {shape}), but {megabytes(stored)} are in the file"
    return row_problem(shape, dtype.itemsize, dtype.kind in "SU", file_bytes) or (shape, dtype)
