"""Files that lie: each is refused by name, in little time and memory, by data sets and by pipelines alike."""

import json
import mmap
import re
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2evit.modeling.files_e2e import file_channels, read_images
from hostile_files import (
    HOSTILE,
    SHAPE,
    described_as,
    in_hdf5,
    one_long_text,
    rows,
    text_behind_a_modest_footer,
    zeros,
)
from test_data_storage import IMAGES, LABELS, assert_complete, external_link, rows_of, schema, virtual, write_master

from e2evit.data.draft import draft_schema
from e2evit.data.files import list_pieces, read_rows
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.prepare import prepare
from e2evit.data.schema import read_schema
from e2evit.data.sparse import dense_to_sparse

SECONDS, BYTES = 5, 300 * 2**20
FORMATS = {".h5": "hdf5", ".npz": "npz", ".parquet": "rows"}


def read_as_data_set(path):
    of_schema = schema(format=FORMATS[path.suffix])
    return [row for piece in list_pieces(str(path), path.name, of_schema, 1000) for row in read_rows(piece, of_schema)]


def read_in_pipeline(path):
    file_channels(path)
    return list(read_images(path, SHAPE))


READERS = {".h5": [read_as_data_set, read_in_pipeline], ".npz": [read_as_data_set], ".npy": [read_in_pipeline]}
READERS[".parquet"] = READERS[".h5"]


def peak_memory():
    """In bytes, since `forget_peak`."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak():
    """The peak of an earlier test would hide that of this one."""
    Path("/proc/self/clear_refs").write_text("5")


def test_a_peak_is_seen_after_a_higher_one():
    for number in (2**27, 2**26):
        forget_peak()
        before = peak_memory()
        with mmap.mmap(-1, number) as memory:  # new memory, not what an earlier test freed
            for _ in range(number // 2**20):
                memory.write(bytes(2**20))
        assert number * 0.9 < peak_memory() - before < number * 1.1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_lie_is_refused(name, tmp_path):
    write, message = HOSTILE[name]
    path = tmp_path / name
    write(path)
    for read in READERS[path.suffix]:
        forget_peak()
        began, memory = time.monotonic(), peak_memory()
        with pytest.raises(ValueError, match=rf"{name}.*({message})") as refused:
            read(path)
        assert len(str(refused.value)) < 1000
        assert time.monotonic() - began < SECONDS
        assert peak_memory() - memory < BYTES


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"channel_names": 1}', "\xff"])
def test_damaged_descriptions(text, tmp_path):
    described_as(text)(tmp_path / "own.parquet")
    with pytest.raises(FileError, match=r"own\.parquet: its description"):
        rows_of(tmp_path, None)
    with pytest.raises(ValueError, match=r"own\.parquet: its description of the images is damaged"):
        file_channels(tmp_path / "own.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (one_long_text, r"`event_id` holds a text of 2\.0 MB, more than 65536 bytes"),
        (text_behind_a_modest_footer, r"`event_id`: pages of 12 entries \(\d{8} bytes\), but .* \(1000 bytes\)"),
    ],
)
def test_text_of_rows_is_limited(write, message, tmp_path):
    write(tmp_path / "own.parquet")
    with pytest.raises(FileError, match=message):
        read_as_data_set(tmp_path / "own.parquet")


@pytest.mark.parametrize("name", ["1e12_rows.h5", "short_gzip.h5", "shape.npz", "bomb.parquet"])
def test_every_command_refuses(name, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    HOSTILE[name][0](raw / name)
    of_schema = schema(format=FORMATS[name[name.index(".") :]], pattern=name)
    if of_schema.format != "rows":
        draft = tmp_path / "own.yaml"
        draft.write_text(json.dumps(of_schema.to_dict()))
        shown = "\n".join(inspect_file(raw / name, schema=draft)[0])
        assert "custom: `x` (image): it declares" in shown or "unreadable" in shown
        if name != "short_gzip.h5":  # whose shapes are no lie
            with pytest.raises(ValueError, match=name):
                draft_schema(raw / name)
    of_schema = None if of_schema.format == "rows" else of_schema
    with pytest.raises(FileError, match=name):
        rows_of(raw, of_schema)
    with pytest.raises(FileError, match=name):
        prepare("custom", raw, tmp_path / "out", schema=of_schema)
    assert not (tmp_path / "out").exists()


ORDINARY = {
    "contiguous": {},
    "chunks": {"chunks": (5, 1, 6, 6)},
    "gzip": {"chunks": (5, 2, 6, 6), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (5, 1, 4, 6), "compression": "lzf", "shuffle": True},
    "big-endian": {"dtype": ">f4", "chunks": (5, 2, 6, 6)},
    "double": {"dtype": "f8", "compression": "gzip"},
}


@pytest.mark.parametrize("options", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_storage_is_read(options, tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw/own.h5"
    in_hdf5(lambda file: file.create_dataset("x", data=IMAGES, **options))(path)
    assert_complete(rows_of(tmp_path / "raw", schema()))
    assert np.array_equal(np.stack(read_in_pipeline(path)), IMAGES)


def test_numbers_that_numpy_lacks_are_converted(tmp_path):
    """A float with another exponent bias has the size of a float32, and other bits."""
    (tmp_path / "raw").mkdir()
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(120)

    def write(file):
        array = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(IMAGES.shape))
        h5py.Dataset(array)[...] = IMAGES

    in_hdf5(write)(tmp_path / "raw/own.h5")
    assert_complete(rows_of(tmp_path / "raw", schema()))


@pytest.mark.parametrize("make", [external_link, virtual])
def test_the_cache_notices_a_changed_source(make, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_master(folder, "sources", make)
    before = rows_of(folder, schema())
    assert rows_of(folder, schema()) == before
    with h5py.File(folder / "sources/source.hdf", "r+") as file:
        file["group/x"][...] = 2 * IMAGES
    after = rows_of(folder, schema())
    assert [row["pixel_index"] for row in after] == [row["pixel_index"] for row in before]
    assert after[0]["pixel_value"] == [2 * value for value in before[0]["pixel_value"]]


def test_a_bad_column_that_nobody_needs(tmp_path):
    (tmp_path / "raw").mkdir()
    unneeded = pa.concat_arrays([zeros(2**24 + 100, "u1"), *[zeros(1, "u1")] * 11])
    pq.write_table(pa.table({"x": IMAGES.tolist(), "y": LABELS, "z": unneeded}), tmp_path / "raw/own.parquet")
    assert_complete(rows_of(tmp_path / "raw", schema(format="parquet", pattern="*.parquet")))
    np.savez(tmp_path / "raw/own.npz", x=IMAGES, y=LABELS, z=np.array([{}]))
    assert_complete(rows_of(tmp_path / "raw", schema(format="npz", pattern="*.npz")))


def test_one_flipped_bit_of_a_page_is_noticed(tmp_path):
    path = tmp_path / "own.parquet"
    index, value = dense_to_sparse(IMAGES)
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(rows(index, value), path, **options)
    data, row = bytearray(path.read_bytes()), IMAGES[IMAGES != 0][:4].tobytes()
    assert row in data
    data[data.index(row) + 1] ^= 1
    path.write_bytes(data)
    for read in READERS[".parquet"]:
        with pytest.raises(ValueError, match=r"own\.parquet.*CRC checksum"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 50_000, "nested too deep"),
        ("a: " + "1" * 300_000, "has 300003 bytes; at most 262144"),
        ("\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(9)), "stands for more"),
        ("a: &a [*a]", "stands for more than 262144 values"),
        ("a: " + "1" * 5000, "is not YAML"),
        ("a: 2001-13-41", "is not YAML"),
        ("image_size: [100000, 100000]", "more than 16777216 values"),
    ],
)
def test_schemas_are_limited(text, message, tmp_path):
    path = tmp_path / "own.yaml"
    known = {} if text.startswith("a") else schema().to_dict() | {"image_size": [10**5, 10**5]}
    path.write_text(json.dumps(known) if known else text)
    with pytest.raises(ValueError, match=rf"own\.yaml.*{message}"):
        read_schema(path)
