"""HDF5 chunks compressed with gzip, measured before HDF5 unpacks them.

HDF5 does not compare the length of an unpacked chunk with its shape: it reads beyond the end of one that is too short,
which ends in a crash, or in pixels made of other memory.
"""

import zlib
from itertools import product

import h5py
import numpy as np

__all__ = ["CheckedChunks", "is_gzip"]

PIECE = 2**20  # bytes unpacked at once


def _filters(array: h5py.Dataset) -> list[int]:
    properties = array.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]


def is_gzip(array: h5py.Dataset) -> bool:
    """Whether the chunks end in a gzip stream, with or without a checksum behind it."""
    codes = [code for code in _filters(array) if code != h5py.h5z.FILTER_FLETCHER32]
    return codes[-1:] == [h5py.h5z.FILTER_DEFLATE]


class CheckedChunks:
    """Rows of an array whose chunks are checked when a row of them is read first."""

    def __init__(self, array: h5py.Dataset):
        self.array = array
        self.chunks: tuple[int, ...] = array.chunks or ()
        self.chunk_bytes = int(np.prod(self.chunks)) * array.dtype.itemsize
        self.gzip = 1 << _filters(array).index(h5py.h5z.FILTER_DEFLATE)  # its bit in the mask of skipped filters
        self.checked: set[int] = set()  # by their first row

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.array.shape[0])
        step = self.chunks[0]
        for first in range(start // step * step, stop, step):
            if first not in self.checked:
                self._check(first)
                self.checked.add(first)
        return self.array[start:stop]

    def _check(self, first: int) -> None:
        """Raise an OSError, as HDF5 does for damage, if a chunk that begins at row `first` has the wrong length."""
        sides = zip(self.array.shape[1:], self.chunks[1:])
        for offset in product(*(range(0, side, chunk) for side, chunk in sides)):
            skipped, packed = self.array.id.read_direct_chunk((first, *offset))
            length = len(packed) if skipped & self.gzip else self._unpacked_length(packed)
            if length < self.chunk_bytes:
                raise OSError(f"a chunk holds {length} bytes instead of {self.chunk_bytes}")

    def _unpacked_length(self, packed: bytes) -> int:
        stream, length = zlib.decompressobj(), 0
        try:
            while not stream.eof and length <= self.chunk_bytes:
                piece = stream.decompress(packed, PIECE)
                packed, length = stream.unconsumed_tail, length + len(piece)
                if not piece and not packed:
                    break
        except zlib.error as error:
            raise OSError(f"a chunk cannot be unpacked ({error})") from error
        return length
