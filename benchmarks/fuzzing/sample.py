"""Eight jets in every format, and which bytes of each file a checksum covers."""

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.data import DatasetSchema
from e2evit.data.schema import parse_schema, row_features
from e2evit.data.sparse import COLUMN_ENCODINGS, dense_to_sparse

__all__ = [
    "CHANNELS",
    "FORMATS",
    "IMAGES",
    "LABELS",
    "MASSES",
    "SHAPE",
    "Intact",
    "row_columns",
    "schema",
    "write_rows",
]

CHANNELS, SHAPE = ("trk_pt", "ecal", "hcal"), (3, 8, 10)
_RNG = np.random.default_rng(0)
IMAGES = (_RNG.exponential(2.0, (8, *SHAPE)) * (_RNG.random((8, *SHAPE)) < 0.3)).astype(np.float32)
LABELS, MASSES = np.arange(8) % 2, np.linspace(10, 500, 8, dtype=np.float32)
Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class Intact:
    """A whole file.

    Attributes:
        file_name: Its name; readers go by the ending.
        format: That of its schema; `npy` and `rows` have none.
        covered: Half-open ranges of bytes whose damage a checksum reveals.
        rows: How many it holds.
    """

    file_name: str
    format: str
    data: bytes
    covered: Ranges
    rows: int = len(IMAGES)


def schema(file_format: str) -> DatasetSchema:
    """Of all files of one format."""
    fields = {
        "description": "eight jets",
        "source": "benchmarks/fuzz.py",
        "licence": "CC0",
        "format": file_format,
        "pattern": "jets.*",
        "channel_names": list(CHANNELS),
        "image_size": list(SHAPE[1:]),
        "columns": {} if file_format == "rows" else {"image": "x", "labels": "y", "mass_labels": "m"},
        "labels": {"qcd": "", "top": ""},
        "mass_range": [0, 1000],
    }
    return parse_schema("custom", fields, "benchmarks/fuzz.py")[0]


def row_columns() -> dict:
    """Prepared rows, by column."""
    index, value = dense_to_sparse(IMAGES)
    columns = {"pixel_index": index, "pixel_value": value, "labels": LABELS, "mass_labels": MASSES}
    return columns | {"event_id": [f"jets:{row}" for row in range(len(IMAGES))]}


def write_rows(columns: dict, target, metadata: bytes | None = None, cast: bool = True, **options) -> None:
    """Prepared rows that describe themselves, as `e2evit prepare` writes them."""
    own = schema("rows")
    arrow = row_features(own).arrow_schema
    description = json.dumps(own.description_of_rows(own.label_names) | {"schema": own.to_dict()}).encode()
    number = len(next(iter(columns.values())))
    table = pa.table({name: columns.get(name, pa.nulls(number)) for name in arrow.names})
    table = table.cast(arrow) if cast else table
    table = table.replace_schema_metadata(
        (arrow.metadata or {}) | {b"e2evit": description if metadata is None else metadata}
    )
    pq.write_table(table, target, **{"row_group_size": 2} | options)


def _hdf5(options: dict, **file_options) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **file_options) as file:
        for name, values in (("x", IMAGES), ("y", LABELS), ("m", MASSES)):
            chunks = {"chunks": (2, *values.shape[1:])} if options else {}
            file.create_dataset(name, data=values, **options, **chunks)
    return buffer.getvalue()


def _chunks(data: bytes) -> Ranges:
    with h5py.File(io.BytesIO(data), "r") as file:
        infos = [file[name].id.get_chunk_info(number) for name in "xym" for number in range(len(IMAGES) // 2)]
    return [(info.byte_offset, info.byte_offset + info.size) for info in infos]


def _parquet(**options) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"x": IMAGES.astype(float).tolist(), "y": LABELS, "m": MASSES})
    pq.write_table(table, buffer, row_group_size=2, use_dictionary=False, **options)
    return buffer.getvalue()


def _rows(**changes) -> bytes:
    buffer = io.BytesIO()
    write_rows(row_columns(), buffer, **COLUMN_ENCODINGS | changes)
    return buffer.getvalue()


def _pages(data: bytes) -> Ranges:
    """The bodies of pages; each column chunk of a sample is a header and one page, whose CRC the header holds."""
    metadata, ranges = pq.read_metadata(io.BytesIO(data)), []
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            first, last = column.data_page_offset, column.data_page_offset + column.total_compressed_size
            for body in range(first, last):
                if _varint(zlib.crc32(data[body:last])) in data[first:body]:
                    ranges.append((body, last))
                    break
    return ranges


def _varint(checksum: int) -> bytes:
    """A checksum as Thrift's compact protocol writes it: a signed number, zigzag, seven bits a byte."""
    signed = checksum - 2**32 if checksum >= 2**31 else checksum
    left, encoded = (signed << 1) ^ (signed >> 31), bytearray()
    while left > 127:
        encoded.append(left & 127 | 128)
        left >>= 7
    return bytes([*encoded, left])


def _npz(write: Callable) -> bytes:
    buffer = io.BytesIO()
    write(buffer, x=IMAGES, y=LABELS, m=MASSES)
    return buffer.getvalue()


def _members(data: bytes) -> Ranges:
    ranges = []
    for member in zipfile.ZipFile(io.BytesIO(data)).infolist():
        name, extra = (int.from_bytes(data[member.header_offset + at :][:2], "little") for at in (26, 28))
        first = member.header_offset + 30 + name + extra
        ranges.append((first, first + member.compress_size))
    return ranges


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    return buffer.getvalue()


def _formats() -> dict[str, Intact]:
    checked = _hdf5({"fletcher32": True}, libver="latest")  # its metadata has checksums too
    gzip, plain = _hdf5({"compression": "gzip"}), _hdf5({})
    parquet, rows = _parquet(compression="zstd", write_page_checksum=True), _rows()
    npz = _npz(np.savez_compressed)
    return {
        "hdf5, checksums": Intact("jets.h5", "hdf5", checked, [(0, len(checked))]),
        "hdf5, gzip": Intact("jets.h5", "hdf5", gzip, _chunks(gzip)),
        "hdf5, contiguous": Intact("jets.h5", "hdf5", plain, []),
        "parquet, checksums": Intact("jets.parquet", "parquet", parquet, _pages(parquet)),
        "parquet": Intact("jets.parquet", "parquet", _parquet(), []),
        "rows": Intact("jets.parquet", "rows", rows, _pages(rows)),
        "rows, no checksums": Intact("jets.parquet", "rows", _rows(write_page_checksum=False), []),
        "npz": Intact("jets.npz", "npz", npz, _members(npz)),
        "npz, stored": Intact("jets.npz", "npz", stored := _npz(np.savez), _members(stored)),
        "npy": Intact("jets.npy", "npy", _npy(), []),
    }


FORMATS = _formats()
