"""Where bytes may come from, and odd but valid files: links, virtual data sets, groups, no rows, paths."""

import os
import zlib

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import HDF5_SCHEMA

from e2evit import load_e2e
from e2evit.data.formats import FileError
from e2evit.data.prepare import prepare
from e2evit.data.schema import parse_schema
from e2evit.data.sparse import sparse_to_dense

RNG = np.random.default_rng(0)
IMAGES = (RNG.exponential(2.0, (12, 2, 6, 6)) * (RNG.random((12, 2, 6, 6)) < 0.3)).astype(np.float32)
LABELS = np.arange(12) % 2


def schema(**changes):
    fields = HDF5_SCHEMA | {
        "image_size": [6, 6],
        "columns": {"image": "x", "labels": "y"},
        "labels": {"background": "", "signal": ""},
    }
    return parse_schema("custom", fields | changes, "here")[0]


def rows_of(folder, of_schema, **more):
    dataset = load_e2e("custom", folder, schema=of_schema, cache_dir=folder.parent / "cache", **more)
    return [row for part in dataset.values() for row in part]


def assert_complete(rows):
    assert len(rows) == 12
    for row in rows:
        number = int(row["event_id"].rsplit(":", 1)[1])
        assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], (2, 6, 6)), IMAGES[number])
        assert row["labels"] == LABELS[number]


def external_link(file, sources):
    file["x"] = h5py.ExternalLink(f"{sources}/source.hdf", "/group/x")


def link_to_a_link(file, sources):
    file["far"] = h5py.ExternalLink(f"{sources}/source.hdf", "/")
    file["x"] = h5py.SoftLink("/far/group/x")


def virtual(file, sources):
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(f"{sources}/source.hdf", "group/x", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def interleaved(file, sources):
    layout, source = (
        h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype),
        h5py.VirtualSource(f"{sources}/source.hdf", "group/x", IMAGES.shape),
    )
    layout[::2], layout[1::2] = source[::2], source[1::2]
    file.create_virtual_dataset("x", layout)


def raw_storage(file, sources):
    file.create_dataset("x", IMAGES.shape, IMAGES.dtype, external=[(f"{sources}/source.raw", 0, IMAGES.nbytes)])


def write_master(folder, sources, make):
    """A file that only points to its images in `sources`; at the same place in the file itself lie shifted ones."""
    target = folder / sources
    target.mkdir(parents=True, exist_ok=True)
    with h5py.File(target / "source.hdf", "w") as file:
        file["group/x"] = IMAGES
    IMAGES.tofile(target / "source.raw")
    with h5py.File(folder / "master.h5", "w") as file:
        make(file, sources)
        file["y"], file["decoy"] = LABELS, IMAGES[::-1]


MASTERS = pytest.mark.parametrize("make", [external_link, link_to_a_link, virtual, interleaved, raw_storage])


@MASTERS
def test_links_below_the_folder_are_followed(make, tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_master(folder, "sources", make)
    monkeypatch.chdir(tmp_path)  # HDF5 looks for raw storage in the current folder
    assert_complete(rows_of(folder, schema()))


@MASTERS
def test_links_out_of_the_folder_are_refused(make, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_master(folder, "../elsewhere", make)
    with pytest.raises(FileError, match=rf"master\.h5.*`x` \(image\).*\.\./elsewhere/source.*outside {folder}"):
        rows_of(folder, schema())


@MASTERS
def test_missing_sources_are_an_error_not_zeros(make, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_master(folder, "sources", make)
    for path in (folder / "sources").iterdir():
        path.unlink()
    with pytest.raises(FileError, match=r"`x` \(image\).*sources/source\.(hdf|raw), and there is no such file"):
        rows_of(folder, schema())


def escaped_name(file):
    """HDF5 reads `%%` as `%`."""
    file["source%%"], file["source%"] = IMAGES, h5py.ExternalLink("../elsewhere.hdf", "x")
    return "source%%"


def raw_storage_behind(file):
    """HDF5 would look for the bytes in the current folder."""
    raw_storage(file, "sources")
    file["source"] = file.pop("x")
    return "source"


@pytest.mark.parametrize(
    ("make", "message"), [(escaped_name, "without %"), (raw_storage_behind, "bytes in other files")]
)
def test_virtual_sources_that_hdf5_would_find_elsewhere(make, message, tmp_path, monkeypatch):
    for folder in ("raw/sources", "sources"):
        (tmp_path / folder).mkdir(parents=True)
        (IMAGES * ("raw" in folder)).tofile(tmp_path / folder / "source.raw")
    with h5py.File(tmp_path / "elsewhere.hdf", "w") as file:
        file["x"] = IMAGES * 0
    with h5py.File(tmp_path / "raw/master.h5", "w") as file:
        layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
        layout[...] = h5py.VirtualSource(".", make(file), IMAGES.shape)
        file.create_virtual_dataset("x", layout)
        file["y"] = LABELS
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=rf"`x` \(image\).*{message}"):
        rows_of(tmp_path / "raw", schema())


def half_written(file):
    file.create_dataset("x", IMAGES.shape, "f4", chunks=(2, 2, 6, 6), compression="gzip")[:6] = IMAGES[:6]


def never_written(file):
    file.create_dataset("x", (10**12, 2, 6, 6), "f4", chunks=(1, 2, 6, 6), compression="gzip")


def short_source(file):
    file["short"] = IMAGES[:6]
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[:6] = h5py.VirtualSource(".", "short", (6, 2, 6, 6))
    file.create_virtual_dataset("x", layout)


def overlapping_sources(file):
    """They have as many values as the array, and leave a part of it empty."""
    file["short"] = IMAGES[:6]
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[:6] = layout[1:7] = h5py.VirtualSource(".", "short", (6, 2, 6, 6))
    file.create_virtual_dataset("x", layout)


def shrunk_source(file):
    file["shrunk"] = IMAGES[:6]
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "shrunk", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def short_raw(file):
    IMAGES[:6].tofile(f"{os.path.dirname(file.filename)}/short.raw")
    file.create_dataset("x", IMAGES.shape, "f4", external=[("short.raw", 0, IMAGES.nbytes)])


def huge_chunk(file):
    data = file.create_dataset("x", (12, 2, 9000, 9000), "f4", chunks=(12, 2, 9000, 9000), compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), b"small")


def many_blocks(file):
    """At every second row, but for one of them."""
    file["source"] = np.zeros((600, 2, 6, 6), "f4")
    layout = h5py.VirtualLayout((1200, 2, 6, 6), "f4")
    layout[np.r_[0, 3:1200:2]] = h5py.VirtualSource(".", "source", (600, 2, 6, 6))
    file.create_virtual_dataset("x", layout)


def endless(file):
    file["x"], file["z"] = h5py.SoftLink("/z"), h5py.SoftLink("/x")


def unknown_filter(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2, 2, 6, 6))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # optional: the file is written without the filter
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple(IMAGES.shape), properties)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (half_written, "declares 12 rows .*not all were written"),
        (never_written, "declares 1000000000000 rows .*not all were written"),
        (short_source, "its virtual sources hold 432 of 864 values"),
        (overlapping_sources, "its virtual sources hold 504 of 864 values"),
        (many_blocks, "fills 600 separate blocks of it, more than 500"),
        (shrunk_source, r"its virtual source shrunk in \. has shape \(6, 2, 6, 6\)"),
        (short_raw, "short.raw, which is too short"),
        (huge_chunk, r"its chunks of 12 rows unpack to 7.8 GB \(0.0 MB are in the file\)"),
        (endless, "its links never end"),
        (unknown_filter, "compressed with filter 32015 .*not installed here: repack"),
    ],
)
def test_bytes_that_hdf5_would_make_up(write, message, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    with h5py.File(folder / "own.h5", "w") as file:
        write(file)
        file["y"] = LABELS
    with pytest.raises(FileError, match=rf"own\.h5.*`x` \(image\): .*{message}"):
        rows_of(folder, schema())


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "fletcher32": True}])
def test_a_short_chunk_is_an_error_not_stale_memory(options, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    with h5py.File(folder / "own.h5", "w") as file:
        file.create_dataset("x", data=IMAGES, chunks=(4, 1, 6, 6), compression="gzip", **options)
        file["y"] = LABELS
    assert_complete(rows_of(folder, schema()))
    with h5py.File(folder / "own.h5", "r+") as file:
        file["x"].id.write_direct_chunk((4, 1, 0, 0), zlib.compress(IMAGES[0, 0].tobytes()))
    with pytest.raises(FileError, match=r"own\.h5, row 4: unreadable \(a chunk holds 144 bytes instead of 576\)"):
        rows_of(folder, schema())


def test_arrays_in_groups_and_unused_dangling_links(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    with h5py.File(folder / "own.h5", "w") as file:
        file["jets/calo/X"], file["jets/y"] = IMAGES, LABELS
        file["jets/up"], file["lost"] = h5py.SoftLink("/jets"), h5py.ExternalLink("gone.h5", "/x")
    assert_complete(rows_of(folder, schema(columns={"image": "jets/calo/X", "labels": "jets/y"})))


def test_files_without_rows_among_full_ones(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, rows in (("a", slice(0, 0)), ("b", slice(None)), ("c", slice(0, 0))):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["x"], file["y"] = IMAGES[rows], LABELS[rows]
    assert_complete(rows_of(folder, schema()))
    assert prepare("custom", folder, tmp_path / "out", schema=schema()).is_dir()


@pytest.mark.parametrize("bad", [None, [], "ragged", "short"])
def test_an_incomplete_first_row_is_just_a_bad_row(bad, tmp_path):
    nested = IMAGES.tolist()
    if bad == "ragged":
        nested[0][1].pop()
    elif bad == "short":
        nested[0] = [channel[:5] for channel in nested[0]]
    else:
        nested[0] = bad
    masses = [[50.0] if row not in (0, 3) else None for row in range(12)]
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"x": nested, "y": LABELS, "m": masses}), tmp_path / "raw/own.parquet")
    columns = {"image": "x", "labels": "y", "mass_labels": "m"}
    of_schema = schema(format="parquet", pattern="*.parquet", columns=columns)
    out = prepare("custom", tmp_path / "raw", tmp_path / "out", schema=of_schema, on_bad_rows="skip")
    rows = [row for part in load_e2e("custom", out, cache_dir=tmp_path / "cache").values() for row in part]
    assert sorted(int(row["event_id"].rsplit(":", 1)[1]) for row in rows) == list(range(1, 12))
    masses = {row["event_id"]: row["mass_labels"] for row in rows}
    assert masses.pop("own.parquet:3") is None
    assert set(masses.values()) == {50.0}
    with pytest.raises(FileError, match="row 0: `x`"):
        rows_of(tmp_path / "raw", of_schema)


@pytest.mark.parametrize("bad", [None, []])
@pytest.mark.parametrize("number", [50, 12])
def test_many_images_that_are_not_there_are_bad_rows_too(bad, number, tmp_path):
    (tmp_path / "raw").mkdir()
    images = [bad] * number + IMAGES.tolist()[: 62 - number]
    pq.write_table(pa.table({"x": images, "y": [0] * len(images)}), tmp_path / "raw/bad.parquet")
    good = pa.table({"x": IMAGES.tolist(), "y": LABELS})
    pq.write_table(good, tmp_path / "raw/good.parquet")
    of_schema = schema(format="parquet", pattern="*.parquet")
    out = prepare("custom", tmp_path / "raw", tmp_path / "out", schema=of_schema, on_bad_rows="skip")
    assert len(rows_of(out, None)) == len(images) - number + 12
    with pytest.raises(FileError, match=r"`x` is null|the images are null|hold \[0, 0, 0\] entries"):
        rows_of(tmp_path / "raw", of_schema)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.h5"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = IMAGES, LABELS
    os.rename(tmp_path / "a.h5", path)
    for folder in (tmp_path, os.fsdecode(path)):
        with pytest.raises(ValueError, match="not UTF-8: rename it"):
            load_e2e("custom", folder, schema=schema())


@pytest.mark.parametrize("pattern", ["/etc/*.h5", "../*.h5", "a/../../*.h5", "", "***", "a**/*.h5"])
def test_patterns_stay_below_the_folder(pattern):
    with pytest.raises(ValueError, match=r"`pattern` must (?:name files below|be a glob)"):
        schema(pattern=pattern)


def test_a_folder_is_the_same_however_its_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    of_schema = schema(pattern="*/*.h5")
    for year in ("2015", "2016"):
        (tmp_path / "raw" / year).mkdir(parents=True)
        with h5py.File(tmp_path / "raw" / year / "jets.h5", "w") as file:
            file["x"], file["y"] = IMAGES, LABELS
    ids = {}
    for spelling in ("raw", "./raw", "raw/../raw/", "~/raw", str(tmp_path / "raw")):
        dataset = load_e2e("custom", spelling, schema=of_schema, cache_dir=tmp_path / "cache")
        ids[spelling] = {name: list(part["event_id"]) for name, part in dataset.items()}
    assert len({event for part in ids["raw"].values() for event in part}) == 24
    assert all(found == ids["raw"] for found in ids.values())
    out = prepare("custom", "./raw", "~/out", schema=of_schema)
    assert out == tmp_path / "out"
    assert not (tmp_path / "~").exists()


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is neither a folder nor a file"):
        load_e2e("custom", tmp_path / "nowhere")


def test_linked_folders_are_searched_and_each_file_is_read_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw").mkdir()
    with h5py.File(tmp_path / "elsewhere/part.h5", "w") as file:
        file["x"], file["y"] = IMAGES, LABELS
    (tmp_path / "raw/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/again.h5").symlink_to(tmp_path / "elsewhere/part.h5")
    for number in range(3):  # which multiply at each level
        (tmp_path / f"raw/loop{number}").symlink_to(tmp_path / "raw")
    assert_complete(rows_of(tmp_path / "raw", schema(pattern="**/*.h5")))
