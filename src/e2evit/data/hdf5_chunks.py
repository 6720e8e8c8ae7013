"""HDF5 chunks, measured before HDF5 unpacks them."""

from itertools import product
from math import prod

import h5py
import numpy as np

from .unpacked import CHECKED_FILTERS, COMPRESSORS, chunk_length

__all__ = ["CheckedChunks", "filter_problem", "unpacked_chunk_problem"]

NAMES = {h5py.h5z.FILTER_SZIP: "szip", h5py.h5z.FILTER_NBIT: "n-bit", h5py.h5z.FILTER_SCALEOFFSET: "scale-offset"}
PLUGINS = range(256, 2**31)  # filters that the user has installed, and so trusts: their chunks are not measured


def filter_problem(properties: h5py.h5p.PropDCID) -> str | None:
    """Why chunks with these properties cannot be read safely; None if they can."""
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    for code, _, _, name in filters:
        if not h5py.h5z.filter_avail(code):
            return (
                f"it is compressed with filter {code} ({name.decode(errors='replace') or 'unnamed'}), which is "
                "not installed here: repack the file with `h5repack -f GZIP=4 IN OUT`, or install hdf5plugin "
                "and set HDF5_PLUGIN_PATH to its plugins"
            )
        if code in NAMES:
            return (
                f"it is compressed with {NAMES[code]}, which gives arbitrary numbers for damaged chunks: repack the "
                "file with `h5repack -f GZIP=4 IN OUT`"
            )
    if len([code for code, *_ in filters if code in COMPRESSORS or code in PLUGINS]) > 1:
        return "it is compressed twice: repack the file with `h5repack -f GZIP=4 IN OUT`"
    return None


def unpacked_chunk_problem(array: h5py.Dataset) -> str | None:
    """Why chunks without a filter cannot be read: one of them has another length than its shape."""
    expected, lengths = prod(array.chunks or ()) * array.id.get_type().get_size(), set()
    if array.chunks and not array.id.get_create_plist().get_nfilters():
        array.id.chunk_iter(lambda chunk: lengths.add(chunk.size))
    wrong = lengths - {expected}
    return f"a chunk of it holds {min(wrong)} bytes instead of {expected}" if wrong else None


class CheckedChunks:
    """Rows of an array whose packed chunks are checked when a row of them is first read."""

    def __init__(self, array: h5py.Dataset):
        properties = array.id.get_create_plist()
        self.array = array
        self.filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        self.chunks: tuple[int, ...] = array.chunks or ()
        self.chunk_bytes = prod(self.chunks) * array.id.get_type().get_size()
        self.checked: set[int] = set()  # by their first row

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.array.shape[0])
        self.check(start, stop)
        return self.array[start:stop]

    def check(self, start: int, stop: int) -> None:
        """Raise an OSError, as HDF5 does for damage, if a chunk of these rows has the wrong length."""
        step = self.chunks[0]
        if not self.filters or not CHECKED_FILTERS.issuperset(self.filters):
            return
        for first in range(start // step * step, stop, step):
            if first not in self.checked:
                sides = zip(self.array.shape[1:], self.chunks[1:])
                for offset in product(*(range(0, side, chunk) for side, chunk in sides)):
                    skipped, packed = self.array.id.read_direct_chunk((first, *offset))
                    length = chunk_length(packed, self.filters, skipped, self.chunk_bytes)
                    if length != self.chunk_bytes:
                        raise OSError(f"a chunk holds {length} bytes instead of {self.chunk_bytes}")
                self.checked.add(first)
