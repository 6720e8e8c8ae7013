"""Files in each layout come back equal; bad ones give one clear error."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from public_files import write_public
from samples import pixels_of, random_images, row_table

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import builder, find_schema, training_statistics
from e2evit.data.files import find_mismatch
from e2evit.data.grid import ETA_EDGES, position_in_grid, window_centres
from e2evit.data.schema import row_features
from e2evit.data.sparse import dense_to_sparse, sparse_to_dense, table_to_dense
from e2evit.data.splits import assign_splits
from e2evit.training import DataArguments, load_data
from e2evit.training.collate import E2ECollator, RowTables
from e2evit.transforms.augment import Augmentation, mirror


def write_labelled(path, images, **columns):
    """The public layout: contiguous channels-last float32, labels of shape (N, 1)."""
    with h5py.File(path, "w") as file:
        file["jet"] = np.ascontiguousarray(np.moveaxis(images, 1, -1))
        for name, column in columns.items():
            file[name] = np.asarray(column, dtype=np.float32)[:, None]
    return path


def write_top_mass(path, images, columns, rows_per_group=1, dtype=np.float64):
    """The public layout: three-level nested doubles, one jet per row group, snappy."""
    nested = pa.array(images.astype(dtype).tolist())
    pq.write_table(pa.table({"X_jet": nested} | columns), path, row_group_size=rows_per_group, compression="snappy")
    return path


def gather(dataset):
    """Rows of all splits of a DatasetDict, keyed by event id."""
    return {row["event_id"]: row for part in dataset.values() for row in part}


def dense(row, name):
    return sparse_to_dense(row["pixel_index"], row["pixel_value"], find_schema(name).image_shape)


@pytest.mark.parametrize("chunks", [None, (4, 125, 125, 8)], ids=["contiguous", "gzip"])
def test_labelled_hdf5(tmp_path, chunks):
    images, labels = random_images(70), np.arange(70) % 2
    mass, pt = np.linspace(60, 200, 70), np.linspace(400, 1000, 70)
    path = write_labelled(tmp_path / "set.h5", images, Y=labels, m=mass, pT=pt)
    if chunks:
        with h5py.File(path, "r+") as file:
            jets = file["jet"][:]
            del file["jet"]
            file.create_dataset("jet", data=jets, chunks=chunks, compression="gzip")
    found = gather(load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache"))
    assert len(found) == 70
    for number in range(70):
        row = found[f"set.h5:{number}"]
        assert np.array_equal(dense(row, "labelled"), images[number])
        assert row["labels"] == labels[number]
        assert row["mass_labels"] == np.float32(mass[number])
        assert row["pt"] == np.float32(pt[number])
        assert row["ieta"] is None


def test_labelled_without_mass(tmp_path):
    write_labelled(tmp_path / "set.h5", random_images(3), Y=[0, 1, 1])
    rows = gather(load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache"))
    assert all(row["mass_labels"] is None and row["pt"] is None for row in rows.values())


@pytest.mark.parametrize(("rows_per_group", "dtype"), [(1, np.float64), (50, np.float32)])
def test_top_mass_parquet(tmp_path, rows_per_group, dtype):
    images = random_images(20)
    columns = {"m": np.linspace(85, 500, 20), "pt": np.linspace(400, 1000, 20)}
    columns |= {"iphi": np.arange(20.0), "ieta": np.arange(12.0, 32.0)}
    write_top_mass(tmp_path / "top_gun_opendata_0.parquet", images, columns, rows_per_group, dtype)
    found = gather(load_e2e("top_mass", tmp_path, cache_dir=tmp_path / "cache"))
    for number in range(20):
        row = found[f"top_gun_opendata_0.parquet:{number}"]
        assert np.array_equal(dense(row, "top_mass"), images[number])
        assert row["mass_labels"] == np.float32(columns["m"][number])
        assert (row["ieta"], row["iphi"], row["labels"]) == (12 + number, number, None)


def test_simulated_rows_and_splits(jets_dir, tmp_path):
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    assert sum(map(len, dataset.values())) == 160
    assert dataset["train"].features["labels"].names == ["qcd", "top"]
    original = row_table(80, seed=1).to_pylist()
    found = gather(dataset)
    assert all(found[row["event_id"]] == row for row in original)
    (only,) = [load_e2e("simulated", jets_dir, split="test", cache_dir=tmp_path / "cache")]
    assert only["event_id"][:] == dataset["test"]["event_id"][:]


def test_what_is_made_of_rows_is_found_again(jets_dir, tmp_path):
    """Rows have the same fingerprint when they are first read and later, so nothing cached is made twice."""
    first, later = (load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache") for _ in range(2))
    assert {name: part._fingerprint for name, part in first.items()} == {
        name: part._fingerprint for name, part in later.items()
    }


def test_plain_load_dataset_reads_simulated_rows(jets_dir):
    import datasets

    plain = datasets.load_dataset(str(jets_dir))["train"]
    assert len(plain) == 160
    assert plain.features["labels"].names == list(find_schema("simulated").label_names)


def test_folders_describe_themselves(tmp_path):
    """Channels, grid and classes come from the files; classes that do not occur get no number."""
    schema = replace(find_schema("simulated"), channel_names=("ecal", "hcal"), image_size=(280, 360))
    description = json.dumps(schema.description_of_rows(["qcd", "h"])).encode()
    table = row_table(20).set_column(2, "labels", pa.array([0, 4] * 10))
    table = table.cast(row_features(schema).arrow_schema)
    pq.write_table(
        table.replace_schema_metadata(table.schema.metadata | {b"e2evit": description}), tmp_path / "a.parquet"
    )
    found = find_schema("simulated", tmp_path)
    assert (found.channel_names, found.image_size, found.label_names) == (("ecal", "hcal"), (280, 360), ("qcd", "h"))
    rows = gather(load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache"))
    assert sorted(row["labels"] for row in rows.values()) == [0] * 10 + [1] * 10
    pq.write_table(row_table(5), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has channel_names.*different folders"):
        find_schema("simulated", tmp_path)


def test_columns_that_rows_lack_are_null(tmp_path):
    table = row_table(5)
    pq.write_table(table.drop_columns(["jet_mass", "parton"]), tmp_path / "a.parquet")
    rows = gather(load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache"))
    assert {row["jet_mass"] for row in rows.values()} == {None}
    pq.write_table(table.drop_columns(["event_id"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="missing key 'event_id'"):
        load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")


def test_changed_files_are_read_again(tmp_path):
    write_labelled(tmp_path / "set.h5", random_images(3), Y=[0, 1, 1])
    assert len(gather(load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache"))) == 3
    write_labelled(tmp_path / "set.h5", random_images(5), Y=[0, 1, 1, 0, 1])
    assert len(gather(load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache"))) == 5


def test_splits_are_stable_and_keep_events_together():
    ids = [f"event-{i // 2}" for i in range(20000)]
    splits = assign_splits(ids)
    assert (splits[::2] == splits[1::2]).all()
    assert (assign_splits(ids[::-1])[::-1] == splits).all()
    # 20 000 rows of 10 000 events: a fraction's standard deviation is 0.5 % at most
    for name, fraction in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert abs((splits == name).mean() - fraction) < 0.02


BAD_LABELLED = {
    "wrong shape": (
        lambda p: write_labelled(p, random_images(3)[:, :7], Y=[0, 1, 1]),
        r"\(125, 125, 8\).*\(125, 125, 7\)",
    ),
    "missing key": (lambda p: write_labelled(p, random_images(3)), "missing key 'Y'.*'jet'"),
    "label": (lambda p: write_labelled(p, random_images(3), Y=[0, 1, 2]), r"row 2: the label 2.*1 \(top\)"),
    "fraction": (lambda p: write_labelled(p, random_images(3), Y=[0, 0.5, 1]), "row 1: 0.5 as `Y`.*not a whole"),
    "mass": (
        lambda p: write_labelled(p, random_images(3), Y=[0, 1, 1], m=[80, 8e4, 90]),
        "row 1: a mass of 80000 GeV",
    ),
    "lengths": (lambda p: write_labelled(p, random_images(3), Y=[0, 1]), "2 rows and the images have 3"),
    "html": (lambda p: p.write_text("<html>link expired</html>"), "not a readable HDF5"),
}


@pytest.mark.parametrize("kind", BAD_LABELLED)
def test_bad_hdf5(tmp_path, kind):
    write, message = BAD_LABELLED[kind]
    write(tmp_path / "set.h5")
    with pytest.raises(ValueError, match=f"set.h5.*{message}"):
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")


def test_nan_pixel_names_row_and_channel(tmp_path):
    images = random_images(70)
    images[67, 3, 10, 10] = np.nan
    write_labelled(tmp_path / "set.h5", images, Y=np.zeros(70))
    with pytest.raises(ValueError, match=r"row 67: NaN.*ecal"):
        load_e2e("labelled", tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("layout", ["hdf5", "nested_parquet", "rows"])
def test_truncated_file(tmp_path, jets_dir, layout):
    if layout == "hdf5":
        name, path = "labelled", write_labelled(tmp_path / "set.h5", random_images(5), Y=np.zeros(5))
    elif layout == "nested_parquet":
        columns = {key: np.full(3, 300.0) for key in ("m", "pt", "iphi", "ieta")}
        name, path = "top_mass", write_top_mass(tmp_path / "set.parquet", random_images(3), columns)
    else:
        name, path = "simulated", tmp_path / "set.parquet"
        path.write_bytes((jets_dir / "part-0.parquet").read_bytes())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{path.name}.*truncated"):
        load_e2e(name, tmp_path, cache_dir=tmp_path / "cache")


def test_bad_rows(tmp_path):
    index, value = dense_to_sparse(random_images(4))
    outside = pa.array([row if i != 2 else [125000] * len(row) for i, row in enumerate(index.to_pylist())], index.type)
    infinite = pa.array(
        [row if i != 2 else [np.inf] * len(row) for i, row in enumerate(value.to_pylist())], value.type
    )
    for replaced, message in (
        ({"pixel_index": outside}, "row 2: a pixel index"),
        ({"pixel_value": infinite}, "row 2: NaN"),
    ):
        pq.write_table(
            row_table(4, pixel_index=index, pixel_value=value).drop(list(replaced)), tmp_path / "missing.parquet"
        )
        with pytest.raises(ValueError, match="missing key"):
            load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")
        (tmp_path / "missing.parquet").unlink()
        pq.write_table(
            row_table(4, **{"pixel_index": index, "pixel_value": value} | replaced), tmp_path / "set.parquet"
        )
        with pytest.raises(ValueError, match=message):
            load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="'jets'; known ones: boosted_top"):
        load_e2e("jets", tmp_path)
    with pytest.raises(ValueError, match="split 'dev'"):
        load_e2e("simulated", tmp_path, split="dev")
    with pytest.raises(FileNotFoundError, match=r"no \*\.h5"):
        load_e2e("labelled", tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        load_e2e("labelled", tmp_path / "nowhere")


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (2, 3, 5, 7), elements=st.floats(-1e6, 1e6, width=32), fill=st.just(np.float32(0))))
def test_sparse_round_trip(images):
    index, value = dense_to_sparse(images)
    for image, i, v in zip(images, index, value):
        assert np.array_equal(sparse_to_dense(i.as_py(), v.as_py(), (3, 5, 7)), image)
        assert i.as_py() == sorted(i.as_py())


@pytest.mark.parametrize("suffix", ["", "_sig"], ids=["run1", "run3"])
def test_flips_are_mirrors_that_change_the_right_sign(suffix):
    names = [name + suffix * name.startswith("trk_d") for name in find_schema("simulated").channel_names]
    image = random_images(1)[0]
    pixels = pixels_of(image[None])
    for axis, signed in ((1, f"trk_dz{suffix}"), (2, f"trk_d0{suffix}")):
        expected = np.flip(image, axis).copy()
        expected[names.index(signed)] *= -1
        chosen = torch.tensor([[axis == 1], [axis == 2]])
        flipped = mirror(pixels, names, (125, 125), chosen)
        for found, image_of in ((flipped, expected), (mirror(flipped, names, (125, 125), chosen), image)):
            assert np.array_equal(sparse_to_dense(found.index, found.value, image.shape), image_of)


def test_collator(jets_dir, tmp_path):
    train = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache").with_format("numpy")
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    rows = train.__getitems__(list(range(8)))
    batch = E2ECollator(processor)(rows)
    assert batch["pixel_values"].shape == (8, 8, 125, 125)
    assert batch["labels"].tolist() == [row["labels"] for row in rows]
    # QCD has no heavy particle: its mass is unknown, null or NaN alike
    assert (batch["mass_labels"].isnan() == (batch["labels"] == 0)).all()
    assert E2ECollator(processor, "jet_mass")(rows)["mass_labels"].isfinite().all()
    flipping = E2ECollator(processor, augmentation=Augmentation(flips=True))
    flipping.seed(0, 0)
    first = flipping(rows)["pixel_values"]
    assert first.equal(flipping(rows)["pixel_values"])
    assert not first.equal(batch["pixel_values"])


def test_tables_to_dense_images(jets_dir, tmp_path):
    train = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    chosen = [5, 0, 17, 5]
    images = table_to_dense(train.with_format("arrow")[chosen], (8, 125, 125))
    assert np.array_equal(images, np.stack([dense(train[number], "simulated") for number in chosen]))


@pytest.mark.parametrize("make", [lambda rows: rows, Dataset.flatten_indices], ids=["selected", "contiguous"])
def test_row_tables_are_the_rows(jets_dir, tmp_path, make):
    """They bypass the indexing of `datasets`."""
    train = make(load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache").shuffle(seed=1))
    tables, chosen = RowTables(train, ["event_id", "pt", "absent"]), [5, 0, 17, 5]
    assert len(tables) == len(train)
    assert tables.__getitems__(chosen).to_pydict() == train.select_columns(["pt", "event_id"])[chosen]
    assert tables[3]["event_id"].to_pylist() == [train[3]["event_id"]]
    with pytest.raises(IndexError):
        tables[len(train)]


def test_training_statistics(jets_dir, tmp_path):
    train = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    found = training_statistics(train, (8, 125, 125), "jet_mass")
    masses = np.array(train["jet_mass"])
    assert found.mass_mean == pytest.approx(masses.mean(), rel=1e-5)
    assert found.mass_std == pytest.approx(masses.std(), rel=1e-5)
    values = np.concatenate([dense(row, "simulated")[3].ravel() for row in train])
    assert found.channel_scale[3] == pytest.approx(np.median(values[values != 0]), rel=1e-5)


def test_grid():
    assert len(ETA_EDGES) == 281
    assert (np.diff(ETA_EDGES) > 0).all()
    np.testing.assert_allclose(ETA_EDGES, -ETA_EDGES[::-1], atol=1e-12)
    # every fifth edge is one of the HCAL's (e.g. 1.83, 2.5), the barrel's are 0.087 apart
    np.testing.assert_allclose(np.diff(ETA_EDGES[55:226:5]), 0.087, atol=1e-9)
    assert {1.566, 1.83, 2.5, 3.0} <= set(ETA_EDGES[::5].round(6).tolist())
    # crystal iphi = 1, column 0, covers [-10, -9) degrees
    _, column = position_in_grid(0.0, np.radians([-9.9, -9.1, -8.9, 349.1]))
    assert np.floor(column).tolist() == [0, 0, 1, 359]
    eta, phi = window_centres(28, 0)
    row, column = position_in_grid(eta, phi)
    assert np.floor(row).astype(int).tolist() == list(range(28 * 5 + 2 - 62, 28 * 5 + 2 + 63))
    assert np.floor(column)[62] == 2
    assert phi[1] - phi[0] == pytest.approx(np.radians(1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_several_processes_prepare_one_cache(jets_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "PIECE_ROWS", 50)
    alone = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "one")
    together = load_e2e("simulated", jets_dir, num_proc=2, cache_dir=tmp_path / "two")
    for split in alone:
        assert list(alone[split]) == list(together[split])
    write_labelled(tmp_path / "set.h5", random_images(3), Y=[0, 1, 2])
    with pytest.raises(ValueError, match=r"set\.h5, row 2: the label 2"):
        load_e2e("labelled", tmp_path, num_proc=2, cache_dir=tmp_path / "cache")


def test_fractions_of_the_jets(jets_dir, tmp_path):
    """Smaller fractions are subsets of larger ones, another seed draws others, and invalid ones are refused."""

    def events(split="train", **settings):
        data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path), **settings)
        return load_data(data)[0][split]["event_id"]

    everything = events()
    half, fifth = events(train_fraction=0.5), events(train_fraction=0.2)
    assert len(half) == round(0.5 * len(everything))
    assert set(fifth) < set(half) < set(everything)
    assert [event for event in everything if event in set(half)] == half
    assert set(events(train_fraction=0.5, fraction_seed=1)) != set(half)
    assert events("test", train_fraction=0.5) == events("test")
    assert len(events("validation", validation_fraction=1e-6)) == 1
    with pytest.raises(ValueError, match="train_fraction"):
        events(train_fraction=0.0)


def test_keys_that_mark_a_version(tmp_path):
    write_public("labelled", tmp_path)
    schema = find_schema("labelled")
    (path,) = tmp_path.iterdir()
    assert find_mismatch(str(path), replace(schema, present=("Y",))) is None
    assert find_mismatch(str(path), replace(schema, present=("Z",))).startswith("missing key 'Z'; the file has ")
    told = "it has Y, which only other versions have"
    assert find_mismatch(str(path), replace(schema, absent=("Y",))) == told
