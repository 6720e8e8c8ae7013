"""Mutated files: whatever the damage, they give rows or one clear error, never a crash."""

import itertools

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from e2evit.data.files import list_pieces, read_rows
from e2evit.data.formats import FileError
from e2evit.data.schema import parse_schema, row_features
from e2evit.data.sparse import COLUMN_ENCODINGS, dense_to_sparse, sparse_to_dense

MUTANTS = 125  # for each of four formats
FIELDS = {
    "description": "small",
    "source": "tests",
    "licence": "CC0",
    "channel_names": ["trk_pt", "trk_d0"],
    "image_size": [4, 6],
    "labels": {"no": "", "yes": ""},
    "mass_range": [0, 1000],
}
COLUMNS = {"image": "x", "labels": "y", "mass_labels": "m"}


def schema_of(kind):
    more = {"format": "rows"} if kind == "rows" else {"format": kind, "pattern": "*", "columns": COLUMNS}
    return parse_schema("custom", FIELDS | more, "here")[0]


def write(kind, path, images, labels, masses):
    """Write a file that matches the schema: six rows in three row groups or chunks."""
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=images, chunks=(min(2, len(images)), *images.shape[1:]), compression="gzip")
            file["y"], file["m"] = labels, masses
    elif kind == "npz":
        np.savez_compressed(path, x=images, y=labels, m=masses)
    elif kind == "parquet":
        table = pa.table({"x": images.astype(float).tolist(), "y": labels, "m": masses})
        pq.write_table(table, path, row_group_size=2)
    else:
        index, value = dense_to_sparse(images)
        events = [f"event {row}" for row in range(len(images))]
        columns = {"pixel_index": index, "pixel_value": value, "labels": labels, "event_id": events}
        target = row_features(schema_of("rows")).arrow_schema
        columns |= {"mass_labels": masses.astype(np.float32)}
        table = pa.table({name: columns.get(name, pa.nulls(len(images))) for name in target.names}).cast(target)
        pq.write_table(table, path, row_group_size=2, **COLUMN_ENCODINGS)


def read(kind, path, on_bad_rows=None):
    schema = schema_of(kind)
    more = () if on_bad_rows is None else (on_bad_rows,)
    pieces = list_pieces(str(path), path.name, schema, 2)
    empty = row_features(schema).arrow_schema.empty_table()
    return pa.concat_tables([empty, *itertools.chain(*(read_rows(piece, schema, *more) for piece in pieces))])


def mutate(data: bytes, rng) -> bytes:
    """Damage the bytes in one or several ways: flip, zero, repeat, remove or insert some, or truncate."""
    mutated = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        first = int(rng.integers(0, max(1, len(mutated))))
        length = int(min(rng.geometric(0.05), 400))
        match rng.integers(0, 7):
            case 0:
                mutated[first : first + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                mutated[first : first + length] = bytes(length)
            case 2:
                del mutated[first : first + length]
            case 3:
                mutated[first:first] = mutated[first : first + length]
            case 4:
                mutated[first : first + length] = rng.bytes(length)
            case 5:
                del mutated[first:]
            case 6:  # near footers and headers, where damage breaks more than in pixels
                place = len(mutated) - 1 - first // 20 if rng.random() < 0.5 else first // 20
                mutated[place : place + 1] = bytes([int(rng.integers(0, 256))])
    return bytes(mutated)


@pytest.mark.parametrize("kind", ["rows", "parquet", "hdf5", "npz"])
def test_mutated_files_give_rows_or_clean_errors(kind, tmp_path):
    rng = np.random.default_rng(0)
    images = (rng.normal(size=(6, 2, 4, 6)) * (rng.random((6, 2, 4, 6)) < 0.4)).astype(np.float32)
    path = tmp_path / f"whole.{kind}.npz"  # NumPy insists on its ending
    write(kind, path, images, np.arange(6) % 2, np.linspace(10, 500, 6))
    data, outcomes = path.read_bytes(), {"rows": 0, "skipped": 0}
    messages = []
    assert read(kind, path).num_rows == 6
    for number in range(MUTANTS):
        mutant = tmp_path / f"{number}.{kind}"
        mutant.write_bytes(mutate(data, rng))
        bad = []
        for skip in (None, bad.append):
            try:
                rows = read(kind, mutant, skip)
            except FileError as error:
                messages.append((mutant.name, str(error)))
                continue
            # whatever was read is fit for training
            values = rows["pixel_value"].combine_chunks().flatten().to_numpy()
            index = rows["pixel_index"].combine_chunks().flatten().to_numpy()
            assert np.isfinite(values).all()
            assert (index < 48).all()
            assert set(rows["labels"].to_pylist()) <= {0, 1, None}
            outcomes["skipped" if bad else "rows"] += 1
        mutant.unlink()
    assert all(name in message and len(message) < 3000 for name, message in messages)
    assert len(messages) > MUTANTS / 5
    assert outcomes["rows"] > 0, outcomes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["rows", "parquet", "hdf5", "npz"]))
def test_any_image_comes_back_equal(data, kind, tmp_path):
    number = data.draw(st.integers(1, 4))
    elements = st.floats(-(2.0**100), 2.0**100, width=32)
    images = data.draw(arrays(np.float32, (number, 2, 4, 6), elements=elements, fill=st.just(np.float32(0))))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=number, max_size=number)))
    masses = np.array(data.draw(st.lists(st.floats(0, 1000), min_size=number, max_size=number)))
    path = tmp_path / f"{data.draw(st.uuids())}.npz"
    write(kind, path, images, labels, masses)
    rows = read(kind, path).to_pylist()
    for image, label, mass, row in zip(images, labels, masses, rows, strict=True):
        assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], (2, 4, 6)), image)
        assert row["pixel_index"] == sorted(set(row["pixel_index"]))
        assert 0 not in row["pixel_value"]
        assert (row["labels"], row["mass_labels"]) == (label, np.float32(mass))
    path.unlink()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (3, 2, 4, 6), elements=st.floats(-1e300, 1e300), fill=st.just(0.0)),
    st.booleans(),
    st.booleans(),
)
def test_layouts_agree(images, channels_last, as_float32):
    """Channels first or last, single or double precision: the same rows."""
    with np.errstate(over="ignore"):
        single = images.astype(np.float32)
    stored = single if as_float32 else images
    stored = np.moveaxis(stored, 1, -1) if channels_last else stored
    index, value = dense_to_sparse(stored, channels_last)
    for image, i, v in zip(single, index, value, strict=True):
        assert np.array_equal(sparse_to_dense(i.as_py(), v.as_py(), (2, 4, 6)), image)
        assert i.as_py() == sorted(i.as_py())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_value": [[1.0, 2.0], [3.0]]}, r"row 1: 2 entries in pixel_index and 1 in pixel_value"),
        ({"pixel_index": [[5, 4], [1, 2]]}, "row 0: pixel_index is not ascending"),
        ({"pixel_index": [[4, 4], [1, 2]]}, "row 0: pixel_index is not ascending"),
        ({"pixel_index": [[4, 5], [1, 48]]}, r"row 1: a pixel index of 48, but .*\(2, 4, 6\) has 48 pixels"),
        ({"pixel_value": [[1.0, 2.0], [3.0, float("nan")]]}, "row 1: NaN or infinite pixels in channel trk_pt"),
        ({"pixel_index": [[4, None], [1, 2]]}, "row 0: a null in pixel_index"),
        ({"pixel_index": [None, [1, 2]]}, "row 0: nan entries in pixel_index and 2 in pixel_value"),
        ({"event_id": ["a", None]}, "row 1: no event_id"),
        ({"labels": [0, 2]}, "row 1: the label 2; known ones: 0 .no., 1 .yes."),
        ({"mass_labels": [1001.0, 1.0]}, "row 0: a mass of 1001 GeV, outside 0-1000"),
        ({"pixel_index": [["a", "b"], ["c", "d"]]}, "the rows from 0 on have the wrong type"),
    ],
)
def test_rows_that_do_not_fit(change, message, tmp_path):
    columns = {"pixel_index": [[4, 5], [1, 2]], "pixel_value": [[1.0, 2.0], [3.0, 4.0]], "event_id": ["a", "b"]}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns | {"labels": [0, 1], "mass_labels": [1.0, 2.0]} | change), path)
    with pytest.raises(FileError, match=rf"rows\.parquet.*{message}"):
        read("rows", path)
