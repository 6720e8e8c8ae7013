"""Files that lie, by their names: what writes each, and what readers say about it (data sets | pipelines)."""

import io
import json
import struct
import warnings
import zipfile
import zlib

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from test_data_storage import IMAGES, LABELS, schema

SHAPE, PIXELS = IMAGES.shape[1:], IMAGES.tobytes()


def in_hdf5(write, **more):
    def write_file(path):
        with h5py.File(path, "w", **more) as file:
            write(file)
            file["y"] = LABELS

    return write_file


def declared(rows, row_chunk, shape=SHAPE):
    return in_hdf5(lambda file: file.create_dataset("x", (rows, *shape), "u1", chunks=(row_chunk, *shape)))


def one_chunk(packed, mask=0, **more):
    """A data set of a single chunk, whose bytes are these."""

    def write(file):
        array = file.create_dataset("x", IMAGES.shape, "f4", chunks=IMAGES.shape, **more)
        array.id.write_direct_chunk((0, 0, 0, 0), packed, filter_mask=mask)

    return in_hdf5(write)


def twice_packed(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(IMAGES.shape)
    properties.set_deflate(4)
    properties.set_deflate(4)
    space = h5py.h5s.create_simple(IMAGES.shape)
    array = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)
    array.write_direct_chunk((0, 0, 0, 0), zlib.compress(zlib.compress(IMAGES.tobytes())))


def virtual_source_of_one_short_chunk(file):
    array = file.create_dataset("short", IMAGES.shape, "f4", chunks=IMAGES.shape, compression="gzip")
    array.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(100)))
    layout = h5py.VirtualLayout(IMAGES.shape, "f4")
    layout[...] = h5py.VirtualSource(".", "short", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def nested_groups(file):
    group = file
    for _ in range(3000):
        group = group.create_group("g")


def group_in_itself(file):
    for name in "abcde":
        file[name] = file["/"]


def twice_from_the_array_before(file):
    """Each virtual array has two sources, so that the last has a million, one behind the other."""
    file["x0"] = IMAGES
    for number in range(20):
        source, layout = h5py.VirtualSource(".", f"x{number}", IMAGES.shape), h5py.VirtualLayout(IMAGES.shape, "f4")
        layout[:6], layout[6:] = source[:6], source[6:]
        file.create_virtual_dataset("x" if number == 19 else f"x{number + 1}", layout)


def twice_through_the_link_before(file):
    file["l0"] = h5py.SoftLink("/")
    for number in range(20):
        file["x" if number == 19 else f"l{number + 1}"] = h5py.SoftLink(f"l{number}/l{number}")


def external_at(target):
    return in_hdf5(lambda file: file.create_dataset("x", IMAGES.shape, "u1", external=[(target, 0, IMAGES.size)]))


def name_with_a_slash(path):
    """`other/x` is a name here, and would be a path through a link."""
    with h5py.File(path.with_suffix(".outside"), "w") as file:
        file["x"] = IMAGES
    with h5py.File(path, "w", libver="earliest") as file:
        file["y"], file["other"] = LABELS, h5py.ExternalLink(str(path.with_suffix(".outside")), "/")
        file["otherZx"] = IMAGES[:, :, :5]
    path.write_bytes(path.read_bytes().replace(b"otherZx", b"other/x"))


def short_in_the_index(path):
    """The tree of chunks says that an unpacked one has 100 bytes."""
    in_hdf5(lambda file: file.create_dataset("x", data=IMAGES, chunks=(4, *SHAPE)), libver="earliest")(path)
    entry = struct.pack("<II", IMAGES.nbytes // 3, 0)
    assert entry in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(entry, struct.pack("<II", 100, 0), 1))


def endless_heap(path):
    """The rest of the heap that holds the map of a virtual array is free, and of no size."""
    in_hdf5(virtual_source_of_one_short_chunk)(path)
    data = path.read_bytes()
    place = data.index(b"GCOL") + 16
    place += 16 + -(-int.from_bytes(data[place + 8 : place + 16], "little") // 8) * 8
    path.write_bytes(data[:place] + bytes(16) + data[place + 16 :])


def many_blocks(file):
    """Every second row: HDF5 before 1.10 lists them one by one, and takes the third power of their number."""
    number, properties = 20_000, h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    wide, narrow = (h5py.h5s.create_simple((rows, *SHAPE)) for rows in (2 * number, number))
    wide.select_hyperslab((0, 0, 0, 0), (number, 1, 1, 1), (2, *SHAPE), (1, *SHAPE))
    properties.set_virtual(wide, b".", b"source", narrow)
    file.create_dataset("source", (number, *SHAPE), "u1")
    h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((2 * number, *SHAPE)), properties)


def overlapping_heaps(path):
    """Each of half a million heaps claims the rest of the file."""
    in_hdf5(lambda file: file.create_dataset("x", data=IMAGES))(path)
    heap = b"GCOL\1\0\0\0" + struct.pack("<QHHIQ", 2**24, 1, 0, 0, 16)
    path.write_bytes(path.read_bytes() + heap * 2**19 + bytes(32))


def truncated(path):
    in_hdf5(lambda file: file.create_dataset("x", data=IMAGES))(path)
    path.write_bytes(path.read_bytes()[:-500])


def npy(of_shape, data=PIXELS, kind="<f4"):
    buffer = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": of_shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def endless_header(filler):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 9001) + filler * 9000 + b"1"


def one_column_twice(path):
    table = rows([[1]] * 12, [[1.0]] * 12)
    pq.write_table(table.append_column("pixel_value", table["pixel_value"]), path)


def one_name_twice(path):
    in_npz(npy(IMAGES.shape))(path)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", npy(IMAGES.shape, bytes(IMAGES.nbytes)))


def in_npz(data, method=zipfile.ZIP_DEFLATED):
    def write(path):
        labels = io.BytesIO()
        np.save(labels, LABELS)
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x.npy", data)
            archive.writestr("y.npy", labels.getvalue())

    return write


def whole(path, data):
    path.write_bytes(data)


def rows(index, value, **metadata):
    columns = {"pixel_index": index, "pixel_value": value, "labels": pa.array([0] * len(index), pa.int64())}
    columns["event_id"] = [f"event {row}" for row in range(len(index))]
    about = {
        "schema": schema(format="rows", columns={}).to_dict(),
        "channel_names": ["ecal", "hcal"],
        "image_size": [6, 6],
        "label_names": ["background", "signal"],
    }
    return pa.table(columns).replace_schema_metadata({"e2evit": json.dumps(about | metadata)})


def zeros(number, kind):
    return pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), pa.array(np.zeros(number, kind)))


def bomb(path, number=2**24 + 100):
    pq.write_table(rows(zeros(number, "u4"), zeros(number, "f4")), path, compression="zstd")


def varint(number, length):
    """A signed integer of Thrift in that many bytes."""
    number, data = 2 * number if number >= 0 else -2 * number - 1, bytearray()
    for place in range(length):
        data.append(number >> 7 * place & 127 | (128 if place < length - 1 else 0))
    return bytes(data)


def change_footer(path, old, new):
    data = path.read_bytes()
    begins = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert old in data[begins:]
    path.write_bytes(data[:begins] + data[begins:].replace(old, new))


def bomb_behind_a_modest_footer(path):
    bomb(path)
    change_footer(path, varint(2**24 + 100, 4), varint(2, 4))


def rows_in_the_footer(number):
    def write(path):
        pq.write_table(rows([[1]] * 1000, [[1.0]] * 1000), path)
        change_footer(path, varint(1000, 2), varint(number, 2))

    return write


def one_long_text(path):
    table = rows([[1]] * 1000, [[1.0]] * 1000)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["a" * 2_000_000])
    pq.write_table(table.set_column(3, "event_id", text), path, compression="zstd")


def text_behind_a_modest_footer(path):
    table = rows([[1]] * 12, [[1.0]] * 12)
    table = table.set_column(3, "event_id", pa.array(["a" * 2**24] + [""] * 11))
    pq.write_table(table, path, compression="brotli", use_dictionary=False, write_statistics=False)
    change_footer(
        path, varint(pq.read_metadata(path).row_group(0).column(3).total_uncompressed_size, 4), varint(1000, 4)
    )


def no_bytes_in_the_footer(path):
    pq.write_table(rows([[1]] * 500, [[1.0]] * 500), path, compression="none", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(0)
    sizes = [varint(size, 2) for size in (column.total_uncompressed_size, column.total_compressed_size)]
    change_footer(path, b"\x16".join(sizes), b"\x16".join([sizes[0], varint(0, 2)]))


def encrypted(path):
    pq.write_table(rows([[1]], [[1.0]]), path)
    path.write_bytes(b"PARE" + path.read_bytes()[4:-4] + b"PARE")


def deep_lists(path, depth=200):
    index = pa.array([1], pa.int32())
    for _ in range(depth):
        index = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), index)
    pq.write_table(rows(index, [[1.0]]), path)


def null_list(path):
    pq.write_table(rows([None, [1]], [[1.0], [1.0]]), path)


def described_as(text):
    def write(path):
        pq.write_table(rows([[1]], [[1.0]]).replace_schema_metadata({"e2evit": text}), path)

    return write


SHORT = zlib.compress(bytes(100))
HOSTILE = {
    "doubled.h5": (
        in_hdf5(twice_from_the_array_before),
        "more than 50000 virtual sources|its values lie in other files",
    ),
    "doubled_links.h5": (in_hdf5(twice_through_the_link_before), "missing key|a link, which is not followed"),
    "external.h5": (external_at("/etc/passwd"), "in /etc/passwd, which is outside|its values lie in other files"),
    "name_with_a_slash.h5": (name_with_a_slash, "missing key|a link, which is not followed"),
    "nested.h5": (in_hdf5(nested_groups), "missing key|expected a data set of images"),
    "cycle.h5": (in_hdf5(group_in_itself), "missing key|more than 1000 groups"),
    "1e9_rows.h5": (
        declared(10**9, 1),
        r"declares 1000000000 rows \(72.0 GB\).*0.0 MB|declares 72000.0 MB, but 0.0 MB",
    ),
    "1e12_rows.h5": (declared(10**12, 1), "declares 1000000000000 rows .*0.0 MB|declares 72000000.0 MB, but 0.0 MB"),
    "huge_chunk.h5": (declared(10**8, 10**7), r"unpack to 720.0 MB \(0.0 MB are|declares 7200.0 MB, but 0.0 MB"),
    "short_gzip.h5": (one_chunk(SHORT, compression="gzip"), "a chunk .*holds 100 bytes instead of 3456"),
    "short_shuffled.h5": (one_chunk(SHORT, compression="gzip", shuffle=True), "100 bytes instead of 3456"),
    "short_lzf.h5": (one_chunk(b"\x03abcd" * 25, compression="lzf"), "100 bytes instead of 3456"),
    "cut_lzf.h5": (one_chunk(b"\x1fabcd", compression="lzf"), "it ends within a run"),
    "short_unfiltered.h5": (one_chunk(bytes(100), 1, compression="gzip"), "100 bytes instead of 3456"),
    "short_checksummed.h5": (one_chunk(bytes(104), fletcher32=True), "100 bytes instead of 3456"),
    "long_gzip.h5": (one_chunk(zlib.compress(bytes(2**28)), compression="gzip"), "1048576 bytes instead of 3456"),
    "short_scaled.h5": (one_chunk(bytes(64), scaleoffset=2), "scale-offset|its compression is none that can"),
    "packed_twice.h5": (in_hdf5(twice_packed), "compressed twice|its compression is none that can"),
    "short_source.h5": (in_hdf5(virtual_source_of_one_short_chunk), "100 bytes instead of 3456"),
    "short_in_the_index.h5": (short_in_the_index, "holds 100 bytes instead of 1152"),
    "endless_heap.h5": (endless_heap, "a damaged heap at byte"),
    "many_blocks.h5": (in_hdf5(many_blocks, libver="earliest"), "more than 10000 separate blocks"),
    "overlapping_heaps.h5": (overlapping_heaps, "a damaged heap at byte"),
    "truncated.h5": (truncated, "not a readable HDF5 file .*truncated file"),
    "wide_text.h5": (
        in_hdf5(lambda file: file.create_dataset("x", data=np.array([b"a"] * 12, "S70000"))),
        "its text takes 0.1 MB an entry|expected a data set of images",
    ),
    "shape.npz": (in_npz(npy((10**9, *SHAPE))), r"declares 288.0 GB .*but 0.0 MB"),
    "negative.npz": (in_npz(npy((-12, *SHAPE))), r"shape \(-12, 2, 6, 6\)"),
    "overflow.npz": (in_npz(npy((2**62, *SHAPE))), "but 0.0 MB are in the file"),
    "bomb.npz": (
        in_npz(npy((10**6, *SHAPE), bytes(10**6 * 72), "|u1")),
        "declares 1000000 rows .*in a file of 0.1 MB",
    ),
    "packed_by_lzma.npz": (in_npz(npy(IMAGES.shape), zipfile.ZIP_LZMA), "compressed with method 14"),
    "twice.npz": (one_name_twice, "several arrays of this name"),
    "pickle.npz": (lambda path: np.savez(path, x=np.array([{}] * 12)), "only pickle reads"),
    "header.npz": (in_npz(endless_header(b"-")), "not a readable npz file"),
    "shape.npy": (lambda path: whole(path, npy((10**9, *SHAPE))), "declares 288000.0 MB .*but 0.0 MB"),
    "negative.npy": (lambda path: whole(path, npy((-12, *SHAPE))), r"shape \(-12, 2, 6, 6\)"),
    "archive.npy": (in_npz(npy(IMAGES.shape)), "not a readable array"),
    "open_header.npy": (lambda path: whole(path, endless_header(b"(")), "not a readable array"),
    "header.npy": (lambda path: whole(path, endless_header(b"-")), "not a readable array"),
    "twice.parquet": (one_column_twice, "several columns have the name 'pixel_value'|several of its columns have one"),
    "bomb.parquet": (bomb, r"declares 16777316 entries .*0.0 MB"),
    "modest_footer.parquet": (bomb_behind_a_modest_footer, r"pages of 16777316 entries .*the footer says 2"),
    "many_rows.parquet": (
        rows_in_the_footer(8191),
        "pages of 1000 entries, but the footer says 8191",
    ),
    "no_bytes.parquet": (no_bytes_in_the_footer, "pages of 0 entries, but the footer says 500"),
    "negative.parquet": (rows_in_the_footer(-1000), "declares"),
    "encrypted.parquet": (encrypted, "not a readable Parquet file .*decryption"),
    "deep.parquet": (deep_lists, "not a readable Parquet file .*deeply nested"),
    "nested.parquet": (lambda path: pq.write_table(rows([[[1]]], [[1.0]]), path), "wrong type|holds list<.*list<"),
    "fraction.parquet": (
        lambda path: pq.write_table(rows([[5.5]], [[1.0]]), path),
        "5.5.* truncated|not lists of whole",
    ),
    "null.parquet": (null_list, "row 0: (nan|None) entries"),
}
