"""An undescribed file: inspect it, draft its schema, load it with the draft."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import random_images

from e2evit import load_e2e
from e2evit.data.formats import FileError
from e2evit.data.inspect import draft_schema, inspect_file
from e2evit.data.schema import read_schema
from e2evit.data.sparse import sparse_to_dense

CLASSES = ["W", "Z", "no"]  # YAML reads an unquoted `no` as false
NAMES = [CLASSES[row % 3] for row in range(12)]
MASSES = np.linspace(60, 200, 12)


def write(kind, folder, images, names, masses):
    """A user's own file: images in the format's natural layout, labels as text, one column unknown to us."""
    if kind == "hdf5 strings":
        with h5py.File(folder / "own.h5", "w") as file:
            file["images"], file["label"], file["mass"] = images, names, masses
            file["num_vertices"] = np.arange(len(images))
    elif kind == "hdf5 bytes":
        with h5py.File(folder / "own.h5", "w") as file:
            file["images"], file["label"] = np.moveaxis(images, 1, -1), np.array(names, "S8")
            file["mass"], file["num_vertices"] = masses[:, None], np.arange(len(images))
    elif kind == "npz":
        arrays = {"images": images, "label": np.array(names), "mass": masses, "num_vertices": np.arange(len(images))}
        np.savez(folder / "own.npz", **arrays)
    else:
        labels = pa.array(names).dictionary_encode() if kind == "parquet dictionary" else names
        columns = {"images": images.tolist(), "label": labels, "mass": masses}
        pq.write_table(pa.table(columns | {"num_vertices": range(len(images))}), folder / "own.parquet")
    return next(folder.glob("own.*"))


@pytest.mark.parametrize("kind", ["hdf5 strings", "hdf5 bytes", "npz", "parquet strings", "parquet dictionary"])
def test_a_file_of_ones_own_is_loaded_with_its_draft(kind, tmp_path):
    images = random_images(12, shape=(3, 64, 64))
    path = write(kind, tmp_path, images, NAMES, MASSES)
    assert inspect_file(path)[2] is None
    assert f"e2evit inspect {path} --schema_out my.yaml" in inspect_file(path)[0][-1]
    draft = tmp_path / "own.yaml"
    draft.write_text(draft_schema(path), encoding="utf-8")
    (schema,) = read_schema(draft)
    assert schema.image_shape == (3, 64, 64)
    assert schema.label_names == ("W", "Z", "no")
    assert [schema.channel(name).signed for name in schema.channel_names] == [False, True, True]
    assert schema.normalisation == "scaled", "nobody has said what the numbers mean"
    assert '# extra: {"num_vertices": "num_vertices"}' in draft.read_text()
    assert inspect_file(path, schema=draft)[2] == schema
    dataset = load_e2e("custom", tmp_path, schema=draft, cache_dir=tmp_path / "cache")
    assert dataset["train"].features["labels"].names == CLASSES
    rows = {int(row["event_id"].rsplit(":", 1)[1]): row for part in dataset.values() for row in part}
    assert sorted(rows) == list(range(12))
    for number, row in rows.items():
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], (3, 64, 64))
        assert np.array_equal(image, images[number])
        assert CLASSES[row["labels"]] == NAMES[number]
        assert row["mass_labels"] == np.float32(MASSES[number])


def test_unknown_and_missing_names_of_classes(tmp_path):
    path = write("parquet strings", tmp_path, random_images(12, shape=(3, 64, 64)), [None, *NAMES[1:]], MASSES)
    draft = tmp_path / "own.yaml"
    draft.write_text(draft_schema(path))
    dataset = load_e2e("custom", tmp_path, schema=draft, cache_dir=tmp_path / "cache")
    labels = {row["event_id"]: row["labels"] for part in dataset.values() for row in part}
    assert labels["own.parquet:0"] is None
    assert labels["own.parquet:1"] == 1
    draft.write_text(draft.read_text().replace('"Z"', '"H"'))
    with pytest.raises(FileError, match="row 1: the label 'Z' as `label`; known ones: W, H, no"):
        load_e2e("custom", tmp_path, schema=draft, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"y": np.arange(6) % 2}, {"labels": ("class_0", "class_1")}),
        ({"y": np.eye(3)[np.arange(6) % 3]}, {"labels": ("class_0", "class_1", "class_2")}),
        ({"y": np.where(np.arange(6) % 2, 1, -1)}, {"labels": (), "text": "no labels: `y` holds -1, 1"}),
        ({"m": np.full(6, 8e4)}, {"range": (0.0, 8e4), "text": "the file has 8e+04 to 8e+04, in GeV?"}),
        ({"m": np.full(6, np.nan)}, {"text": "which mass; no row has one"}),
    ],
)
def test_how_a_draft_maps_columns(columns, expected, tmp_path):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        file["x"] = random_images(6, shape=(3, 9, 7))
        for name, values in columns.items():
            file[name] = values
    text = draft_schema(path)
    (tmp_path / "own.yaml").write_text(text)
    (schema,) = read_schema(tmp_path / "own.yaml")
    assert schema.label_names == expected.get("labels", ())
    assert schema.mass_range == expected.get("range", (0.0, 2000.0))
    assert expected.get("text", "") in text
    dataset = load_e2e("custom", tmp_path, schema=tmp_path / "own.yaml", cache_dir=tmp_path / "cache")
    assert sum(map(len, dataset.values())) == 6


def test_one_array_for_each_channel(tmp_path):
    images = random_images(5, shape=(3, 20, 20))
    np.savez(tmp_path / "own.npz", ecal=images[:, 0], hcal=images[:, 1], small=np.zeros((5, 3, 2)))
    (tmp_path / "own.yaml").write_text(draft_schema(tmp_path / "own.npz"))
    (schema,) = read_schema(tmp_path / "own.yaml")
    assert schema.columns["image"].stack == ("ecal", "hcal")


def test_max_scaled_images_are_noticed(tmp_path):
    images = random_images(5, shape=(3, 20, 20))
    np.savez(tmp_path / "own.npz", images=images / np.abs(images).max(axis=(2, 3), keepdims=True) * 255)
    assert 'normalisation: "max_scaled_255"' in draft_schema(tmp_path / "own.npz")


def test_files_that_get_no_draft(tmp_path, simulated_jets):
    np.savez(tmp_path / "flat.npz", x=np.ones((5, 400)), y=np.arange(5), version=3)
    with pytest.raises(FileError, match=r"flat\.npz: no array of images.*holds x \(5, 400\); y \(5,\); version \(\)"):
        draft_schema(tmp_path / "flat.npz")
    with pytest.raises(FileError, match="holds prepared rows, which need no schema"):
        draft_schema(next(simulated_jets.glob("**/*.parquet")))
    with pytest.raises(FileError, match="There is no file"):
        draft_schema(tmp_path / "nothing.h5")
