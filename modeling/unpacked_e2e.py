"""How much packed bytes unpack to, measured before HDF5 or Arrow unpack them, which believe what a file says.

Data sets read it too, without torch: `data/unpacked.py` loads this file.
"""

import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

__all__ = [
    "CACHE_SLOTS",
    "CHECKED_FILTERS",
    "CHUNK_RATIO",
    "COMPRESSORS",
    "HDF5_ERRORS",
    "MAX_UNPACKED",
    "chunk_length",
    "heap_problem",
    "mapped",
    "page_problem",
]

# bytes of one unpacked chunk, and of all chunks of a row unless the array compresses less than CHUNK_RATIO
MAX_UNPACKED = 2**29
CHUNK_RATIO = 300  # unpacked to packed size; jet images reach about 50 with gzip
CACHE_SLOTS = 16_411  # a prime, for the chunks of a row
# HDF5 reports damage to its trees of metadata as any of these
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000  # filters of HDF5, by their registered numbers
COMPRESSORS = {DEFLATE, LZF}
CHECKED_FILTERS = {*COMPRESSORS, SHUFFLE, FLETCHER32}
CHECKSUM_BYTES = 4
PIECE = 2**20  # bytes unpacked at once
HEAP, HEAP_HEADER, HEAP_OBJECT = b"GCOL\x01\0\0\0", 16, struct.Struct("<HHIQ")  # global heaps of HDF5
MAX_SCANNED = 2**26  # bytes of a file that is searched for them
# selections of blocks of which a map of virtual sources consists, with their rank and number of blocks (H5S_SEL_HYPER)
SELECTION = re.compile(
    rb"\x02\0\0\0(?=\x01\0\0\0.{8}[\x01-\x20]\0\0\0(.{4})|\x03\0\0\0\0(.)[\x01-\x20]\0\0\0(.{8}))", re.DOTALL
)
MAX_BLOCKS, MAX_SOURCES = 10_000, 2**32  # HDF5 takes up to their third power: a second for these
# fields of Parquet's PageHeader, and of the headers of data pages in it (parquet.thrift)
UNPACKED_SIZE, PACKED_SIZE, DATA_PAGE, DATA_PAGE_V2, NUM_VALUES = 2, 3, 5, 8, 1
SLACK = 100  # bytes that early writers did not count, as Arrow knows
HARMLESS = 2**20  # entries that need not agree with the footer
MAX_DEPTH, MAX_PAGES = 8, 100_000


def chunk_length(packed: bytes, filters: Sequence[int], skipped: int, expected: int) -> int:
    """Bytes of an HDF5 chunk once its filters are undone; some more than `expected` for one that is too long.

    HDF5 does not compare the length of an unpacked chunk with its shape: it reads beyond the end of one that is too
    short, which ends in a crash, or in pixels made of other memory.

    Args:
        filters: In the order in which they were applied, at most one of them a compressor.
        skipped: A bit for each filter that was not applied.

    Raises:
        OSError: as HDF5 does, if it cannot be unpacked.
    """
    length = len(packed)
    for number, code in reversed(list(enumerate(filters))):
        if skipped >> number & 1:
            continue
        if code == FLETCHER32:
            length -= CHECKSUM_BYTES
            packed = packed[: max(length, 0)]
        elif code == DEFLATE:
            length = _gzip_length(packed, expected + CHECKSUM_BYTES)
        elif code == LZF:
            length = _lzf_length(packed, expected + CHECKSUM_BYTES)
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


def heap_problem(path: str) -> str | None:
    """Why HDF5 would be caught in a global heap, where texts and maps of virtual arrays lie; None if it would not.

    HDF5 2.0 steps from object to object by their sizes, and never leaves free space of size 0. It does so before it
    opens a virtual array, and nothing tells earlier whether a file has one: small files are searched as a whole.
    """
    status = os.stat(path)
    return _heap_problem(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _heap_problem(path: str, size: int, _modified: int) -> str | None:
    if size > MAX_SCANNED:
        return None
    with open(path, "rb") as file:
        data = file.read()
    heap, walked, blocks = data.find(HEAP), 0, 0
    while heap >= 0:
        place = heap + HEAP_HEADER
        end = min(len(data), heap + int.from_bytes(data[heap + 8 : place], "little"))
        while place + HEAP_OBJECT.size <= end:
            index, _, _, size = HEAP_OBJECT.unpack_from(data, place)
            content = place + HEAP_OBJECT.size
            step = size if index == 0 else HEAP_OBJECT.size + -(-size // 8) * 8
            walked += step  # heaps do not overlap
            if step == 0 or size > end - place or walked > len(data):
                return f"a damaged heap at byte {heap}"
            blocks += _num_blocks(data, content, content + size) if index else 0
            if blocks > MAX_BLOCKS:
                return f"virtual sources in more than {MAX_BLOCKS} separate blocks"
            place += step
        heap = data.find(HEAP, heap + 1)
    return None


def _num_blocks(data: bytes, place: int, end: int) -> int:
    """Blocks in the selections of an object, beyond one in each, if it can be a map of virtual sources."""
    if (
        data[place : place + 1] > b"\x01"
        or not 0 < int.from_bytes(data[place + 1 : place + 9], "little") <= MAX_SOURCES
    ):
        return 0
    blocks = 0
    for early, length, late in (match.groups() for match in SELECTION.finditer(data, place, end)):
        number = early or late[: length[0]]
        blocks += max(0, int.from_bytes(number, "little") - 1)
    return blocks


@contextmanager
def mapped(path: str) -> Iterator[mmap.mmap]:
    """The bytes of a local file."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def page_problem(data: mmap.mmap, column) -> str | None:
    """How the pages of a Parquet column contradict the footer; None if they do not. Arrow unpacks what they say.

    Args:
        column: Metadata of the column in a row group.
    """
    place, values, unpacked = column.data_page_offset, 0, 0
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end = place + column.total_compressed_size + SLACK
    most = max(column.num_values, HARMLESS), max(column.total_uncompressed_size, 8 * HARMLESS)
    try:
        for _ in range(MAX_PAGES):
            if values >= column.num_values:
                return None
            if place >= end - SLACK:
                return f"pages of {values} entries, but the footer says {column.num_values}"
            header, place = _struct(data, place)
            place += header[PACKED_SIZE]
            unpacked += header[UNPACKED_SIZE]
            values += header.get(DATA_PAGE, header.get(DATA_PAGE_V2, {})).get(NUM_VALUES, 0)
            if min(header[PACKED_SIZE], header[UNPACKED_SIZE]) < 0 or place > end:
                return "a page that goes on beyond its column"
            if values > most[0] or unpacked > most[1]:
                return (
                    f"pages of {values} entries ({unpacked} bytes), but the footer says {column.num_values} "
                    f"({column.total_uncompressed_size} bytes)"
                )
    except (IndexError, KeyError, AttributeError, TypeError, RecursionError):
        return f"a damaged page header at byte {place}"
    return f"more than {MAX_PAGES} pages"


def _struct(data, place: int, depth: int = 0) -> tuple[dict, int]:
    """Fields of a struct in Thrift's compact protocol, by their numbers, and where it ends."""
    fields, number = {}, 0
    if depth > MAX_DEPTH:
        raise RecursionError
    while head := data[place]:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(data, place)
        fields[number], place = _value(data, place, head & 15, depth)
    return fields, place + 1


def _value(data, place: int, kind: int, depth: int):
    """A number or a struct; None for what no one asks for."""
    if kind in (1, 2):  # true, false
        return None, place
    if kind == 3:  # byte
        return None, place + 1
    if kind in (4, 5, 6):
        return _integer(data, place)
    if kind == 7:  # double
        return None, place + 8
    if kind == 8:  # bytes
        length, place = _varint(data, place)
        return None, place + length
    if kind == 12:
        return _struct(data, place, depth + 1)
    raise TypeError(f"type {kind}")  # page headers have no lists and maps


def _varint(data, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while (byte := data[place]) & 128:
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if shift > 63:
            raise TypeError("longer than 64 bits")
    return value | byte << shift, place + 1


def _integer(data, place: int) -> tuple[int, int]:
    """A signed number, whose sign is the last bit."""
    value, place = _varint(data, place)
    return (value >> 1) ^ -(value & 1), place
