"""Parquet, npz and npy files that lie about their size, carry code, or are merely odd."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .case import Case, Payload
from .sample import FORMATS, IMAGES, LABELS, MASSES, row_columns, schema, write_rows

__all__ = ["npy_cases", "npz_cases", "other_cases", "parquet_cases", "rows_cases"]

ROWS = tuple(range(len(IMAGES)))
DENSE = {"x": IMAGES.astype(float).tolist(), "y": LABELS, "m": MASSES}


def _case(kind: str, file_name: str, name: str, write: Callable, images=IMAGES, readable=None) -> Case:
    return Case(f"crafted {kind} {name}", kind, file_name, partial(_write, write, file_name), True, images, readable)


def _write(write: Callable, file_name: str, folder: Path) -> None:
    write(folder / "data" / file_name)


def parquet_cases() -> Iterator[Case]:
    """Dense images as nested lists."""
    case = partial(_case, "parquet", "jets.parquet")
    for compression in ("none", "snappy", "gzip", "brotli", "lz4", "zstd"):
        yield case(f"with {compression}", partial(_table, DENSE, compression=compression), readable=ROWS)
    for name, table in _same_tables().items():
        yield case(name, partial(_table, table), readable=ROWS)
    nested = DENSE["x"]
    for number in (0, 3):
        for name, odd in {"null": None, "empty": [], "ragged": [[[1.0]], [[1.0, 2.0]]], "nan": float("nan")}.items():
            images = [*nested]
            images[number] = odd if name != "nan" else np.full(IMAGES[0].shape, odd).tolist()
            rest = tuple(row for row in ROWS if row != number)
            yield case(f"image {number} is {name}", partial(_table, DENSE | {"x": images}), readable=rest)
    yield case("no rows", partial(_table, {name: values[:0] for name, values in DENSE.items()}))
    yield case("images of strings", partial(_table, DENSE | {"x": [["a"]] * 8}))
    yield case("a struct as image", partial(_table, DENSE | {"x": [{"a": 1.0}] * 8}))
    yield case("a number as image", partial(_table, DENSE | {"x": np.arange(8.0)}))
    yield case("lists 200 deep", _deep_lists)
    yield case("20000 columns", _many_columns)
    yield case("two columns of one name", _two_names)
    yield case("rows of 10^8 zeros", partial(_repeated, 10**8))
    yield case("2 x 10^8 rows of nulls", _long_run)
    yield case("an encrypted footer", lambda path: path.write_bytes(b"PARE" + bytes(100) + b"PARE"))
    yield case(
        "a footer of 2 GB", lambda path: path.write_bytes(b"PAR1" + bytes(100) + struct.pack("<I", 2**31) + b"PAR1")
    )


def _table(columns: dict, path: Path, **options) -> None:
    pq.write_table(pa.table(columns), path, **options)


def _same_tables() -> dict[str, dict]:
    single = pa.array(IMAGES.reshape(-1))
    fixed = single
    for side in reversed(IMAGES.shape[1:]):
        fixed = pa.FixedSizeListArray.from_arrays(fixed, side)
    large = pa.array(DENSE["x"], pa.large_list(pa.large_list(pa.large_list(pa.float32()))))
    flat = pa.FixedSizeListArray.from_arrays(single, IMAGES[0].size)
    names = pa.array(["qcd", "top"] * 4).dictionary_encode()
    return {
        "fixed-size lists": DENSE | {"x": fixed},
        "large lists": DENSE | {"x": large},
        "flat lists": DENSE | {"x": flat},
        "labels as a dictionary of names": DENSE | {"y": names},
        "masses in lists of one": DENSE | {"m": MASSES[:, None].tolist()},
    }


def _deep_lists(path: Path) -> None:
    kind, value = pa.float32(), 1.0
    for _ in range(200):
        kind, value = pa.list_(kind), [value]
    pq.write_table(pa.table({"x": pa.array([value] * 8, kind), "y": LABELS, "m": MASSES}), path)


def _many_columns(path: Path) -> None:
    pq.write_table(pa.table(DENSE | {f"c{number}": LABELS for number in range(20_000)}), path)


def _two_names(path: Path) -> None:
    table = pa.table(DENSE)
    pq.write_table(table.append_column("y", pa.array(1 - LABELS)), path)


def _repeated(number: int, path: Path) -> None:
    images = pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), pa.array(np.zeros(number, np.float32)))
    pq.write_table(pa.table({"x": images, "y": [0], "m": [1.0]}), path, compression="zstd")


def _long_run(path: Path) -> None:
    """Row groups of a constant take some bytes each, whatever their rows."""
    target = pa.schema({"x": pa.list_(pa.float32()), "y": pa.int64(), "m": pa.float32()})
    group = pa.table(
        {
            "x": pa.nulls(10**7, target.field("x").type),
            "y": pa.nulls(10**7, pa.int64()),
            "m": pa.nulls(10**7, pa.float32()),
        }
    )
    with pq.ParquetWriter(path, target, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(group, row_group_size=10**7)


def rows_cases() -> Iterator[Case]:
    """Sparse rows that do not fit, or whose description does not."""
    case = partial(_case, "rows", "jets.parquet")
    columns = row_columns()
    index, value = columns["pixel_index"].to_pylist(), columns["pixel_value"].to_pylist()
    size, rest = IMAGES[0].size, tuple(row for row in ROWS if row != 3)
    third = {
        "an index too large": ([0, size], [1.0, 2.0]),
        "an index of 2^32 - 1": ([2**32 - 1], [1.0]),
        "an index twice": ([4, 4], [1.0, 2.0]),
        "more values than indices": ([4], [1.0, 2.0]),
        "no indices": (None, [1.0]),
        "no values": ([1], None),
        "a null index": ([None, 2], [1.0, 2.0]),
        "a null value": ([1, 2], [None, 2.0]),
        "a value of nan": ([1], [float("nan")]),
        "a value of inf": ([1], [float("inf")]),
    }
    for name, (indices, values) in third.items():
        changed = {"pixel_index": [*index], "pixel_value": [*value]}
        changed["pixel_index"][3], changed["pixel_value"][3] = indices, values
        yield case(name, partial(_rows, columns | changed), readable=rest)
    images = IMAGES.copy()
    images[3] = 0
    images[3, 0, 0, 4:6] = 2.0, 1.0
    changed = {"pixel_index": [*index[:3], [5, 4], *index[4:]], "pixel_value": [*value[:3], [1.0, 2.0], *value[4:]]}
    yield case("falling indices", partial(_rows, columns | changed), images=images)
    for name, number in {"1e38": 1e38, "-1e38": -1e38, "1e-45": 1e-45}.items():
        images = IMAGES.copy()
        images[3] = 0
        images[3, 0, 0, 1] = number
        changed = {"pixel_index": [*index], "pixel_value": [*value]}
        changed["pixel_index"][3], changed["pixel_value"][3] = [1], [number]
        yield case(f"a value of {name}", partial(_rows, columns | changed), images=images)
    other_types = {
        "indices of 5.5": {"pixel_index": [[i + 0.5 for i in row] for row in index]},
        "negative indices": {"pixel_index": [[i - 1000 for i in row] for row in index]},
        "indices that are strings": {"pixel_index": [[str(i) for i in row] for row in index]},
        "values that are strings": {"pixel_value": [[str(v) for v in row] for row in value]},
        "indices without lists": {"pixel_index": LABELS},
        "labels that are strings": {"labels": ["qcd"] * 8},
        "labels of 5": {"labels": [5] * 8},
        "labels of 0.5": {"labels": [0.5] * 8},
        "masses that are strings": {"mass_labels": ["heavy"] * 8},
        "masses of 10^6": {"mass_labels": [1e6] * 8},
        "no event ids": {"event_id": [None] * 8},
    }
    for name, changed in other_types.items():
        yield case(name, partial(_rows, columns | changed, cast=False))
    yield case("one event id for all", partial(_rows, columns | {"event_id": ["jets:0"] * 8}), images=None)
    truths = {"pixel_value": [[True for _ in row] for row in value]}
    yield case("values of true", partial(_rows, columns | truths, cast=False), images=(IMAGES != 0).astype(np.float32))
    wide = {"pixel_index": [[*row] for row in index], "pixel_value": pa.array(value, pa.list_(pa.float64()))}
    yield case("64-bit indices and values", partial(_rows, columns | wide, cast=False), readable=ROWS)
    large = {name: pa.array(columns[name].to_pylist(), pa.large_list(columns[name].type.value_type)) for name in wide}
    yield case("large lists", partial(_rows, columns | large, cast=False), readable=ROWS)
    for name, text in _descriptions().items():
        yield case(f"a description that {name}", partial(_rows, columns, metadata=text))
    yield case("one row of 3 x 10^7 zeros", partial(_zeros, 3 * 10**7))
    yield case(
        "empty images",
        partial(_rows, columns | {"pixel_index": [[]] * 8, "pixel_value": [[]] * 8}),
        images=np.zeros_like(IMAGES),
    )
    nothing = {name: values[:0] for name, values in columns.items()}
    yield case("two columns of one name", _two_labels)
    yield case("no rows", partial(_rows, nothing), images=IMAGES[:0])
    yield case("500 row groups", _many_groups, images=None)


def _two_labels(path: Path) -> None:
    write_rows(row_columns(), path)
    table = pq.read_table(path, page_checksum_verification=True)
    pq.write_table(table.append_column("labels", pa.array(1 - LABELS)), path)


def _rows(columns: dict, path: Path, **options) -> None:
    write_rows(columns, path, **options)


def _descriptions() -> dict[str, bytes]:
    own = schema("rows")
    good = own.description_of_rows(own.label_names) | {"schema": own.to_dict()}

    def changed(**fields) -> bytes:
        return json.dumps(good | fields).encode()

    return {
        "is no JSON": b"{",
        "is a list": b"[1, 2]",
        "is a number": b"1",
        "is not UTF-8": b"\xff\xfe{}",
        "nests 100000 deep": b"[" * 100_000,
        "has a number of 10000 digits": b'{"channel_names": ' + b"1" * 10_000 + b"}",
        "is empty": b"{}",
        "lacks its schema": json.dumps({key: v for key, v in good.items() if key != "schema"}).encode(),
        "names other channels": changed(channel_names=["ecal", "trk_pt", "hcal"]),
        "names two channels": changed(channel_names=["ecal", "hcal"]),
        "names no channels": changed(channel_names=None),
        "names channels by number": changed(channel_names=[1, 2, 3]),
        "has an image size of -1": changed(schema=own.to_dict() | {"image_size": [-1, 10]}),
        "has an image size of 10^9": changed(schema=own.to_dict() | {"image_size": [10**9, 10**9]}),
        "has a schema of null": changed(schema=None),
        "has a schema of text": changed(schema="custom"),
        "has another normalisation": changed(normalisation="none of ours"),
        "links to another folder": changed(schema=own.to_dict() | {"pattern": "../outside/*"}),
    }


def _zeros(number: int, path: Path) -> None:
    def column(kind):
        return pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), pa.array(np.zeros(number, kind)))

    columns = {"pixel_index": column("u4"), "pixel_value": column("f4"), "event_id": ["jets:0"]}
    write_rows(columns, path, compression="zstd")


def _many_groups(path: Path) -> None:
    columns = row_columns()
    empty = {"pixel_index": [[]] * 500, "pixel_value": [[]] * 500}
    empty |= {"labels": [0] * 500, "mass_labels": [1.0] * 500, "event_id": [f"other:{row}" for row in range(500)]}
    assert columns.keys() == empty.keys()
    write_rows(empty, path, row_group_size=1)


def npz_cases() -> Iterator[Case]:
    """NumPy archives."""
    case = partial(_case, "npz", "jets.npz")
    arrays = {"x": IMAGES, "y": LABELS, "m": MASSES}
    fortran = arrays | {"x": np.asfortranarray(IMAGES)}
    yield case("columns first", lambda path: np.savez(path, **fortran), readable=ROWS)
    yield case("big-endian", lambda path: np.savez(path, **arrays | {"x": IMAGES.astype(">f4")}), readable=ROWS)
    yield case("a pickle that runs code", lambda path: np.savez(path, **arrays | {"y": np.array([Payload()] * 8)}))
    yield case("a pickle that nobody needs", lambda path: np.savez(path, **arrays, z=np.array([Payload()] * 8)))
    yield case("a structured array", lambda path: np.savez(path, **arrays | {"y": np.zeros(8, "i4, f4")}))
    yield case(
        "strings as labels", lambda path: np.savez(path, **arrays | {"y": np.array(["qcd", "top"] * 4)}), readable=ROWS
    )
    yield case("a scalar as image", lambda path: np.savez(path, **arrays | {"x": np.float32(1)}))
    yield case("nothing in it", lambda path: np.savez(path))
    for name, header in _npy_headers().items():
        yield case(name, partial(_zip, {"x.npy": header, "y.npy": _npy(LABELS), "m.npy": _npy(MASSES)}))
    yield case("2.5 GB of zeros", _bomb)
    yield case("2.5 GB of zeros that nobody needs", partial(_bomb, key="z"))
    yield case("5000 members", partial(_zip, {f"a{number}.npy": _npy(LABELS[:1]) for number in range(50_000)}))
    yield case("a path in a name", partial(_zip, {"../../x.npy": _npy(IMAGES), "/y.npy": _npy(LABELS)}))
    yield case("members that are not arrays", partial(_zip, {"x": b"text", "y.npy": b"", "m.npy": b"\x93NUMPY"}))
    yield case("one name twice", _twice)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npy_headers() -> dict[str, bytes]:
    body = IMAGES.tobytes()
    shapes = {"10^12 rows": "(10**12,3,8,10)", "1000000000000 rows": "(1000000000000,3,8,10)"}
    shapes |= {
        "2^62 sides": "(4611686018427387904,4,8,10)",
        "a negative side": "(-8,3,8,10)",
        "a side of 8.5": "(8.5,3,8,10)",
    }
    headers = {
        name: _header(f"{{'descr':'<f4','fortran_order':False,'shape':{shape}}}") for name, shape in shapes.items()
    }
    headers["an expression"] = _header("{'descr':'<f4','fortran_order':False,'shape':__import__('os').getcwd()}")
    headers["a header of 30000 brackets"] = _header("(" * 30_000)
    headers["a type of objects"] = _header("{'descr':'|O','fortran_order':False,'shape':(8,3,8,10)}")
    headers["an unknown type"] = _header("{'descr':'<z9','fortran_order':False,'shape':(8,3,8,10)}")
    headers["an empty header"] = _header("")
    headers["version 9"] = b"\x93NUMPY\x09\x00" + bytes(100)
    headers["a header of 4 GB"] = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"
    return {f"{name} in a header": header + body for name, header in headers.items()}


def _header(text: str) -> bytes:
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(line)) + line


def _zip(members: dict[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _bomb(path: Path, key: str = "x") -> None:
    rows, zeros = 5 * 2**29 // IMAGES[0].nbytes, bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in {"x": IMAGES, "y": LABELS, "m": MASSES}.items():
            if name != key:
                archive.writestr(f"{name}.npy", _npy(array))
        with archive.open(f"{key}.npy", mode="w", force_zip64=True) as member:
            member.write(_header(f"{{'descr':'<f4','fortran_order':False,'shape':({rows},3,8,10)}}"))
            for _ in range(rows * IMAGES[0].nbytes // len(zeros)):
                member.write(zeros)


def _twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {"x": IMAGES, "y": LABELS, "m": MASSES}.items():
            archive.writestr(f"{name}.npy", _npy(array))
        archive.writestr("y.npy", _npy(1 - LABELS))


def npy_cases() -> Iterator[Case]:
    """Bare arrays, which the pipeline and the demo read."""
    case = partial(_case, "npy", "jets.npy")
    images = np.moveaxis(IMAGES, 1, -1)
    yield case("channels last", lambda path: np.save(path, images), readable=ROWS)
    yield case("columns first", lambda path: np.save(path, np.asfortranarray(IMAGES)), readable=ROWS)
    yield case("doubles", lambda path: np.save(path, IMAGES.astype(float)), readable=ROWS)
    yield case("big-endian", lambda path: np.save(path, IMAGES.astype(">f4")), readable=ROWS)
    yield case("a pickle that runs code", lambda path: np.save(path, np.array([Payload()] * 8)))
    yield case("only a pickle", lambda path: path.write_bytes(pickle.dumps(Payload())))
    yield case("no images", lambda path: np.save(path, IMAGES[:0]), images=IMAGES[:0])
    yield case("an archive", lambda path: path.write_bytes(FORMATS["npz"].data))
    for name, value in {"nan": np.nan, "inf": np.inf, "1e38": 1e38}.items():
        bad = IMAGES.copy()
        bad[0, 0, 0, 0] = value
        yield case(f"a pixel of {name}", partial(_save, bad), images=bad)
    for name, data in _npy_headers().items():
        yield case(name, partial(_bytes, data))


def _save(array: np.ndarray, path: Path) -> None:
    np.save(path, array)


def _bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def other_cases() -> Iterator[Case]:
    """Files that are not what their names say."""
    texts = {
        "empty": b"",
        "one byte": b"\0",
        "a web page": b"<!DOCTYPE html><html>Sign in</html>",
        "text": b"hello\n" * 99,
    }
    texts |= {f"magic of {intact.format}": intact.data[:8] for intact in FORMATS.values()}
    for ending, kind in {"h5": "hdf5", "parquet": "parquet", "npz": "npz", "npy": "npy"}.items():
        file_name = f"jets.{ending}"
        for name, data in texts.items():
            yield _case(kind, file_name, f"that is {name}", partial(_bytes, data))
        for name in ("hdf5, gzip", "parquet", "npz"):
            if kind != FORMATS[name].format:
                yield _case(kind, file_name, f"that is {name}", partial(_bytes, FORMATS[name].data))
        yield _case(kind, file_name, "that is a folder", lambda path: path.mkdir())
        if kind == "hdf5":
            yield _case(
                kind, file_name, "with noise behind it", partial(_bytes, FORMATS["hdf5, gzip"].data + b"noise")
            )
