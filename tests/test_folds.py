"""Test folds: fixed, disjoint, together all rows; equal images and rows of one event stay together."""

import json

import numpy as np
import pyarrow as pa
import pytest
from public_files import channels_last, jets, max_scaled, write_hdf5, write_parquet
from samples import HDF5_SCHEMA

from e2evit import load_e2e
from e2evit.data import SplitRule
from e2evit.data.prepare import MANIFEST_FILE, prepare
from e2evit.data.schema import parse_schema
from e2evit.data.splits import _with_pixels, pixel_ids
from e2evit.data.unseen import check_training
from e2evit.training import DataArguments, TargetArguments, TrainArguments, TrainedOn, evaluate, load_data, train
from e2evit.training.data import with_test_fold

MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHORT = {"num_train_epochs": 1, "report_to": "none", "mixed_precision": "no"}
NUMBER, COPIES = 60, 20  # images of a file, the last of which repeat the first


@pytest.fixture
def labelled(tmp_path):
    """The folder of a labelled file with masses, in which some images come twice."""
    images = max_scaled(jets("labelled", NUMBER))
    images[NUMBER - COPIES :] = images[:COPIES]
    numbers = np.arange(NUMBER, dtype=np.float32)[:, None]
    columns = {"jet": channels_last(images), "Y": numbers % 2, "m": 80 + numbers, "pT": 400 + numbers}
    (tmp_path / "labelled").mkdir()
    write_hdf5(tmp_path / "labelled/jets.h5", columns, "jet")
    return tmp_path / "labelled"


def numbers_of(rows) -> list[int]:
    """Row numbers in the file."""
    return [int(row["event_id"].rsplit(":", 1)[1]) for row in rows]


def test_folds_are_fixed():
    """Anyone who names a fold means the same events."""
    ids = [f"event {number}" for number in range(16)]
    folds = [SplitRule(test_fold=fold).assign(ids) for fold in range(5)]
    assert [[splits[row] for splits in folds].index("test") for row in range(16)] == [
        *(2, 4, 4, 4, 2, 4, 4, 4),
        *(1, 1, 4, 2, 3, 3, 1, 2),
    ]
    assert all([splits[row] for splits in folds].count("test") == 1 for row in range(16))


def test_sizes_and_the_fold_for_validation():
    ids = [f"event {number}" for number in range(5000)]
    splits = SplitRule(test_fold=2).assign(ids)
    shares = {name: (splits == name).mean() for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.02)
    both = SplitRule(test_fold=2, fold=1).assign(ids)
    np.testing.assert_array_equal(both == "test", splits == "test")
    assert (both == "validation").mean() == pytest.approx(0.16, abs=0.02)


def test_equal_images_are_never_in_two_splits(labelled, tmp_path):
    tested = []
    for fold in range(5):
        parts = load_e2e("labelled", labelled, test_fold=fold, cache_dir=tmp_path / "cache")
        split_of = {number: name for name, rows in parts.items() for number in numbers_of(rows)}
        assert sorted(split_of) == list(range(NUMBER))
        assert all(split_of[number] == split_of[NUMBER - COPIES + number] for number in range(COPIES))
        tested += numbers_of(parts["test"])
        streamed = load_e2e("labelled", labelled, test_fold=fold, streaming=True)
        assert {name: numbers_of(rows) for name, rows in streamed.items()} == {
            name: numbers_of(rows) for name, rows in parts.items()
        }
    assert sorted(tested) == list(range(NUMBER))


def test_ids_of_pixels_know_nothing_but_the_image(labelled, tmp_path):
    parts = load_e2e("labelled", labelled, cache_dir=tmp_path / "cache")
    ids = {n: i for rows in parts.values() for n, i in zip(numbers_of(rows), pixel_ids(rows.with_format("arrow")[:]))}
    assert all(ids[number] == ids[NUMBER - COPIES + number] for number in range(COPIES))
    assert len(set(ids.values())) == NUMBER - COPIES
    some = parts["train"].with_format("arrow")[:]
    assert pixel_ids(some.slice(3, 2)) == pixel_ids(some)[3:5]


def test_rows_with_event_ids_are_divided_by_them(jets_dir, tmp_path):
    rows = load_e2e("simulated", jets_dir, test_fold=3, cache_dir=tmp_path / "cache")
    for split, own in rows.items():
        assert set(SplitRule(test_fold=3).assign(own["event_id"])) == {split}


def test_data_with_splits_of_its_own_is_refused(labelled, tmp_path):
    images = {"X_jets": jets("quark_gluon", 4), "pt": np.full(4, 90.0), "m0": np.full(4, 9.0), "y": np.arange(4) % 2}
    (tmp_path / "own").mkdir()
    for part in ("train", "test"):
        write_parquet(tmp_path / f"own/QCD.{part}.snappy.parquet", images)
    with pytest.raises(ValueError, match=r"own has its own splits \(train, test\), which `test_fold` would mix"):
        load_e2e("quark_gluon", tmp_path / "own", test_fold=0)
    prepared = prepare("labelled", labelled, tmp_path / "prepared")
    with pytest.raises(ValueError, match=r"own splits .* or read the files that the data was prepared from"):
        load_data(DataArguments(dataset_name="labelled", data_dir=str(prepared), test_fold=0))
    with pytest.raises(ValueError, match="`test_fold` is 0 to num_folds - 1, got 5 of 5"):
        DataArguments(test_fold=5)


def test_prepared_rows_can_be_those_of_a_fold(labelled, tmp_path):
    folder = prepare("labelled", labelled, tmp_path / "prepared", rule=SplitRule(test_fold=1))
    parts = load_e2e("labelled", labelled, test_fold=1, cache_dir=tmp_path / "cache")
    prepared = load_e2e("labelled", folder, cache_dir=tmp_path / "cache")
    assert {name: set(rows["event_id"]) for name, rows in prepared.items()} == {
        name: set(rows["event_id"]) for name, rows in parts.items()
    }
    plain = prepare("labelled", labelled, tmp_path / "plain")  # as earlier versions wrote it
    assert json.loads((plain / MANIFEST_FILE).read_text())["split"] == {
        "salt": "e2evit",
        "fold": None,
        "num_folds": 5,
    }


def test_a_checkpoint_is_measured_and_fine_tuned_on_its_own_fold(labelled, tmp_path, caplog):
    """On another fold, its training jets would be test jets."""
    data = {"dataset_name": "labelled", "data_dir": str(labelled), "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "model.json").write_text(json.dumps(MODEL))

    def start(name, fold, checkpoint=None):
        settings = TrainArguments(output_dir=str(tmp_path / name), **SHORT)
        config = None if checkpoint else tmp_path / "model.json"
        return train(config, DataArguments(**data, test_fold=fold), settings, model_name_or_path=checkpoint)

    first = start("first", 1)
    with caplog.at_level("INFO"):
        result = evaluate(first, DataArguments(**data))
    assert "`test_fold` is taken from" in caplog.text
    assert result.test_fold == 1
    parts = load_e2e("labelled", labelled, test_fold=1, cache_dir=tmp_path / "cache")
    assert result.predictions["event_id"] == parts["test"]["event_id"][:]
    with pytest.raises(ValueError, match=r"with `test_fold: 1`: jets of test fold 2 of 'labelled' may have been"):
        evaluate(first, DataArguments(**data, test_fold=2))
    with pytest.raises(ValueError, match="Leave `test_fold` out"):
        start("second", 2, tmp_path / "first")
    assert "test_fold: 1" in (start("third", None, tmp_path / "first").output_dir / "recipe.yaml").read_text()
    start("plain", None)
    with pytest.raises(ValueError, match="plain was trained without `test_fold`"):
        evaluate(tmp_path / "plain", DataArguments(**data, test_fold=0))


def test_events_of_other_folds_were_seen(jets_dir):
    """Whoever trains with a fold trains on test jets of the usual splits."""
    usual = load_e2e("simulated", jets_dir, split="test")["event_id"][:]
    fold = load_e2e("simulated", jets_dir, test_fold=0)["test"]["event_id"][:]
    recipe = {"dataset_name": "simulated", "data_dir": str(jets_dir)}
    check_training(usual, recipe)
    check_training(fold, recipe | {"test_fold": 0})
    with pytest.raises(ValueError, match=r"train split of .* events of the jets to measure on"):
        check_training(usual, recipe | {"test_fold": 0})
    with pytest.raises(ValueError, match="events of the jets to measure on"):
        check_training(fold, recipe)


def test_made_up_ids_are_no_ids(labelled, tmp_path):
    """Where files may have event ids, and these have none; jets of one event stay together."""
    images = np.zeros((60, 2, 4, 4), np.float32)
    images[:, 0, 0, 0] = np.tile(np.arange(30) + 1, 2)
    write_hdf5(tmp_path / "images.h5", {"x": images}, "")
    fields = HDF5_SCHEMA | {
        "image_size": [4, 4],
        "columns": {"image": "x", "event_id": "event"},
        "optional": ["event_id"],
    }
    (schema,) = parse_schema("custom", fields, "here")
    parts = load_e2e("custom", tmp_path / "images.h5", schema=schema, test_fold=0, cache_dir=tmp_path / "cache")
    split_of = {number: name for name, rows in parts.items() for number in numbers_of(rows)}
    assert len(split_of) == 60
    assert all(split_of[number] == split_of[number + 30] for number in range(30))
    assert len(set(split_of.values())) == 3
    pixels = {"pixel_index": [[1], [2], [1], [2], [1]], "pixel_value": [[1.0]] * 5}
    rows = pa.table({"event_id": ["a.root:0", "a.root:0", "b.root:7", "b.root:7", "1:2:3"]} | pixels)
    first, second, third, fourth, real = _with_pixels(rows["event_id"].to_pylist(), rows)
    assert first == second == third == fourth
    assert real == "1:2:3"


def test_another_path_of_the_same_schema_is_the_same_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    (tmp_path / "copy.yaml").write_text("a: 1\n")
    (tmp_path / "other.yaml").write_text("a: 2\n")
    checkpoint = TrainedOn(
        "run", (), (), TargetArguments(), recipe={"dataset_name": "custom", "schema": "mine.yaml", "test_fold": 0}
    )
    for schema in ("./mine.yaml", str(tmp_path / "mine.yaml"), "copy.yaml"):
        with pytest.raises(ValueError, match="jets of test fold 1 of 'custom' may have been"):
            with_test_fold(DataArguments("custom", "data", schema=schema, test_fold=1), checkpoint)
    other = DataArguments("custom", "data", schema="other.yaml", test_fold=1)
    assert with_test_fold(other, checkpoint) == other
