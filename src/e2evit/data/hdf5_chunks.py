"""HDF5 chunks, measured before HDF5 unpacks them.

HDF5 does not compare the length of an unpacked chunk with its shape: it reads beyond the end of one that is too short,
which ends in a crash, or in pixels made of other memory.
"""

import zlib
from collections.abc import Callable
from itertools import product
from math import prod

import h5py
import numpy as np

__all__ = ["CheckedChunks", "filter_problem"]

PIECE = 2**20  # bytes unpacked at once
CHECKSUM_BYTES = 4
NAMES = {h5py.h5z.FILTER_SZIP: "szip", h5py.h5z.FILTER_NBIT: "n-bit", h5py.h5z.FILTER_SCALEOFFSET: "scale-offset"}
PLUGINS = range(256, 2**31)  # filters that the user has installed, and so trusts


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
    if len([code for code, *_ in filters if code in UNPACKED_LENGTH or code in PLUGINS]) > 1:
        return "it is compressed twice: repack the file with `h5repack -f GZIP=4 IN OUT`"
    return None


class CheckedChunks:
    """Rows of an array whose chunks are checked when a row of them is first read."""

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
        for first in range(start // step * step, stop, step):
            if first not in self.checked:
                sides = zip(self.array.shape[1:], self.chunks[1:])
                for offset in product(*(range(0, side, chunk) for side, chunk in sides)):
                    length = self._length(*self.array.id.read_direct_chunk((first, *offset)))
                    if length != self.chunk_bytes:
                        raise OSError(f"a chunk holds {length} bytes instead of {self.chunk_bytes}")
                self.checked.add(first)

    def _length(self, skipped: int, packed: bytes) -> int:
        """Bytes of a chunk once its filters are undone; `skipped` has a bit for each filter that was not applied."""
        length = len(packed)
        for number, code in reversed(list(enumerate(self.filters))):
            if skipped >> number & 1:
                continue
            if code == h5py.h5z.FILTER_FLETCHER32:
                length -= CHECKSUM_BYTES
                packed = packed[: max(length, 0)]
            elif code in UNPACKED_LENGTH:
                length = UNPACKED_LENGTH[code](packed, self.chunk_bytes + CHECKSUM_BYTES)
            elif code in PLUGINS:
                return self.chunk_bytes  # its own business
        return length


def _gzip_length(packed: bytes, limit: int) -> int:
    stream, length = zlib.decompressobj(), 0
    try:
        while not stream.eof and length <= limit:
            piece = stream.decompress(packed, PIECE)
            packed, length = stream.unconsumed_tail, length + len(piece)
            if not piece and not packed:
                break
    except zlib.error as error:
        raise OSError(f"a chunk cannot be unpacked ({error})") from error
    return length


def _lzf_length(packed: bytes, limit: int) -> int:
    """Literal runs of up to 32 bytes, and copies of up to 264 earlier ones."""
    place, length, end = 0, 0, len(packed)
    while place < end and length <= limit:
        control = packed[place]
        if control < 32:
            place, length = place + control + 2, length + control + 1
        elif control < 224:
            place, length = place + 2, length + (control >> 5) + 2
        else:
            length += (packed[place + 1] if place + 1 < end else 0) + 9
            place += 3
    if place > end:
        raise OSError("a chunk cannot be unpacked (it ends within a run)")
    return length


UNPACKED_LENGTH: dict[int, Callable[[bytes, int], int]] = {
    h5py.h5z.FILTER_DEFLATE: _gzip_length,
    h5py.h5z.FILTER_LZF: _lzf_length,
}
