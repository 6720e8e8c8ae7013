"""Containment from rows to results: what collators read, what runs learn, and what is measured."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from datasets import Dataset, DatasetDict, Value
from models import make
from samples import make_result, row_table
from test_event_jets import CLASSES, SCHEMA, event_table
from transformers import pipeline

import e2evit
from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.data.grid import COLUMNS, ROWS
from e2evit.data.sparse import sparse_to_dense
from e2evit.hub.export import check_parity, export_onnx
from e2evit.metrics.mass import coverage_temperature
from e2evit.results.predictions import MODEL
from e2evit.results.record import read_results
from e2evit.training import make_loader, predict
from e2evit.training.checkpoint import TrainedOn
from e2evit.training.collate import E2ECollator
from e2evit.training.data import targets_of
from e2evit.training.events import EventCollator
from e2evit.training.guards import check_containment
from e2evit.transforms.event_jets import contained_jets, jets_of_events, windows_of_events
from e2evit.transforms.targets import select_targets

TINY = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CHANNELS = find_schema("simulated").channel_names


def merged_rows(number: int, seed: int = 0) -> pa.Table:
    """Rows of QCD, contained and uncontained tops, by the number of the row."""
    kinds = np.arange(number) % 3
    masses = [None if kind == 0 else 173.0 for kind in kinds]
    merged = [[None, True, False][kind] for kind in kinds]
    return row_table(
        number, seed, labels=np.minimum(kinds, 1), merged=merged, mass_labels=pa.array(masses, pa.float32())
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("merged")
    for part in range(2):
        pq.write_table(merged_rows(90, seed=part), path / f"part-{part}.parquet")
    return path


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    return e2evit.DataArguments(data_dir=str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def rows(data):
    return load_e2e("simulated", data.data_dir, cache_dir=data.cache_dir)


@pytest.mark.parametrize("kind", ["table", "rows"])
def test_the_collator_reads_merged(kind):
    collator, table = E2ECollator(E2EImageProcessor(CHANNELS), containment=True), merged_rows(3)
    assert "merged" in collator.columns
    found = collator(table if kind == "table" else list(Dataset(table)))["containment_labels"]
    assert str(found.tolist()) == "[nan, 1.0, 0.0]"
    plain = E2ECollator(E2EImageProcessor(CHANNELS))
    assert "merged" not in plain.columns
    assert "containment_labels" not in plain(table)
    with pytest.raises(ValueError, match=r"Rows need merged, got pixel_index"):
        collator([{"pixel_index": [5], "pixel_value": [1.0]}])


def merged_events(number: int):
    """Events whose jets of class 1 alternate between contained and not; their lists hold false for QCD, too."""
    table = event_table(number)
    labels = table["jets_labels"].combine_chunks()
    flat = labels.flatten().to_numpy()
    merged = (flat == 1) & (np.cumsum(flat) % 2 == 0)
    lists = pa.ListArray.from_arrays(labels.offsets, pa.array(merged))
    number = table.column_names.index("jets_merged")
    return table.set_column(number, "jets_merged", lists.cast(table["jets_merged"].type)), flat, merged


@pytest.fixture(scope="module")
def events():
    return merged_events(12)


def test_qcd_jets_of_events_are_missing(events):
    table, labels, merged = events
    expected = [bool(one) if label else None for label, one in zip(labels, merged)]
    assert contained_jets(table).to_pylist() == expected
    dataset = DatasetDict(train=Dataset(table))
    for found in (jets_of_events(dataset), windows_of_events(dataset, SCHEMA)[0]):
        assert found["train"]["merged"][:] == expected
    collator = EventCollator(E2EImageProcessor(CHANNELS, image_size=[ROWS, COLUMNS]), containment=True)
    batch = collator(table)
    is_jet = batch["jets"][..., 0] > 0
    np.testing.assert_array_equal(batch["containment_labels"][is_jet], np.where(labels, merged, np.nan))
    assert batch["containment_labels"][~is_jet].isnan().all()
    # a selection removes the masses, by which jets of heavy particles are known
    chosen, _ = select_targets(dataset, SCHEMA, "mass_labels", mass_classes=["none"])
    assert contained_jets(chosen["train"].with_format("arrow")[:]).to_pylist() == expected
    assert jets_of_events(chosen)["train"]["merged"][:] == expected


def test_classes_of_contained_jets_only(rows):
    schema = find_schema("simulated")
    chosen, _ = select_targets(rows, schema, "jet_mass", contained_classes=True)
    before, after = rows["train"], chosen["train"]
    kept = [merged is not False for merged in before["merged"]]
    assert after["labels"][:] == [label if is_kept else None for label, is_kept in zip(before["labels"], kept)]
    for name in ("jet_mass", "mass_labels", "merged"):
        assert after[name][:] == before[name][:]
    assert after["process"][:] == before["labels"][:]
    assert not all(kept)
    without = Dataset(row_table(5))
    for train in (without, without.remove_columns("merged")):
        with pytest.raises(ValueError, match="`contained_classes` needs the column `merged`"):
            select_targets(DatasetDict(train=train), schema, "jet_mass", contained_classes=True)


def test_classes_of_contained_jets_in_events(events):
    table, labels, merged = events
    schema = replace(SCHEMA, labels=dict.fromkeys(CLASSES, ""))
    dataset = DatasetDict(train=Dataset(table).cast_column("merged", Value("bool")))
    with pytest.raises(ValueError, match="needs the column `merged`"):  # events of QCD alone
        select_targets(dataset, schema, "jet_mass", contained_classes=True)
    number = table.column_names.index("merged")
    dataset = DatasetDict(train=Dataset(table.set_column(number, "merged", pa.array([True, False] * 6))))
    chosen, _ = select_targets(dataset, schema, "jet_mass", ["top", "qcd"], contained_classes=True)
    expected = [None if label and not one else 1 - label for label, one in zip(labels, merged)]
    jets = jets_of_events(chosen)["train"]
    assert jets["labels"][:] == expected
    assert jets["process"][:] == labels.tolist()
    assert jets["jet_mass"][:] == jets_of_events(dataset)["train"]["jet_mass"][:]


def test_a_run_needs_both_kinds_of_jets(rows, caplog):
    with pytest.raises(ValueError, match="needs jets of heavy particles with the column `merged`"):
        check_containment(Dataset(row_table(5)))
    check_containment(rows["train"])
    assert not caplog.records
    check_containment(Dataset(row_table(5, merged=[True] * 5)))
    assert "`merged` is true for all training jets" in caplog.text


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Classes of contained jets, masses and containment of all."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.json").write_text(json.dumps(TINY | {"mass_loss": "quantile", "containment": True}))
    settings = e2evit.TrainArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=1,
        per_device_batch_size=16,
        mixed_precision="no",
        report_to="none",
    )
    targets = e2evit.TargetArguments(mass_column="jet_mass", contained_classes=True)
    return e2evit.train(folder / "model.json", data, settings, targets=targets)


def test_a_run_on_events(tmp_path):
    """All jets of an event at once; a selection of masses takes nothing from this target."""
    (tmp_path / "data").mkdir()
    pq.write_table(merged_events(40)[0], tmp_path / "data/top-00000-40.parquet")
    model = {"model_type": "hitvit", "periodic_columns": True, "num_query_layers": 1, "containment": True}
    model |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pixel_hidden_size": 8}
    (tmp_path / "model.json").write_text(json.dumps(model))
    data = e2evit.DataArguments(
        data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), event_jets="queries"
    )
    settings = e2evit.TrainArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=1, mixed_precision="no", report_to="none"
    )
    targets = e2evit.TargetArguments(mass_column="mass_labels", mass_classes=["none"])
    (epoch,) = e2evit.train(tmp_path / "model.json", data, settings, targets=targets).history.epochs
    assert epoch["mass_loss"] == 0
    assert epoch["containment_loss"] > 0
    result = e2evit.evaluate(tmp_path / "run", data, mixed_precision="no")
    merged, process = result.predictions["merged"], result.predictions["process"]
    np.testing.assert_array_equal(np.isnan(merged), process == "qcd")
    assert len(result.predictions[f"{MODEL} containment"]) == len(merged)
    assert "containment_calibration_error" in result.metrics[MODEL]
    assert "top_closure" in result.metrics[MODEL]


def test_the_log_has_its_loss(trained):
    (epoch,) = trained.history.epochs
    assert epoch["containment_loss"] > 0
    parts = ("classification_loss", "mass_loss", "containment_loss")
    assert epoch["loss"] == pytest.approx(sum(epoch[name] for name in parts), rel=1e-4)
    assert epoch["validation_containment_loss"] > 0
    assert 0 <= epoch["validation_containment_auc"] <= 1


def test_widths_are_calibrated_on_contained_and_other_jets(trained, rows):
    """On each that has a mass, whether or not it has a class."""
    collator = E2ECollator(trained.processor, "jet_mass")
    found = predict(Accelerator(cpu=True), trained.model, make_loader(rows["validation"], collator, 16))
    inside = np.abs(found["mass_preds"] - found["mass_labels"]) < found["mass_scale_preds"]
    assert inside.mean() == pytest.approx(0.683, abs=2 / len(inside))
    assert len(inside) == len(rows["validation"])


def test_the_temperature_counts_all_jets_with_a_target():
    """Half of the jets have errors of 1 and 3 widths each, and no class; without targets, or a mass of 0 that the
    logarithm cannot learn, a jet does not count."""
    masses, names = np.array([100.0, 100, 100, 100, np.nan, 0]), ("mass_labels", "mass_preds", "mass_scale_preds")
    predictions = {"mass_preds": np.array([101.0, 103, 101, 103, 900, 900]), "mass_labels": masses}
    predictions |= {"mass_scale_preds": np.ones(6), "labels": np.array([1, 1, -100, -100, 1, 1])}
    assert coverage_temperature(*(predictions[name] for name in names)) == pytest.approx(3)
    predictions["mass_preds"][2:4] = 101
    assert coverage_temperature(*(predictions[name] for name in names)) == pytest.approx(
        np.quantile([1, 1, 1, 3], 0.6827)
    )


def test_predictions_reach_the_user(trained, data, rows, tmp_path):
    result = e2evit.evaluate(trained, data, mixed_precision="no", pieces_dir=tmp_path / "pieces")
    columns = result.predictions
    assert result.contained_classes is True
    known = np.array([merged is not False for merged in rows["test"]["merged"]])
    assert ((columns["labels"] != -100) == known).all()
    jets = pipeline("e2e-jets", model=str(trained.output_dir))
    found = list(jets(rows["test"].select(range(4)), batch_size=2))
    assert list(found[0])[-1] == "containment"
    np.testing.assert_allclose([one["containment"] for one in found], columns[f"{MODEL} containment"][:4], rtol=1e-4)
    before = TrainedOn.of(trained.output_dir)
    assert targets_of(before, data, e2evit.TargetArguments()).contained_classes
    assert targets_of(before, data, e2evit.TargetArguments(contained_classes=False)).contained_classes is False


def test_results_of_other_classes_are_not_compared(tmp_path):
    paths = [tmp_path / f"{model}.json" for model in ("a", "b")]
    for path, contained in zip(paths, (True, None)):
        make_result(path.stem, 0, {"roc_auc": 0.5}, contained_classes=contained).to_json(path)
    with pytest.raises(ValueError, match="not measured on the same jets and targets: contained_classes True and None"):
        read_results(paths)


def test_onnx(rows, tmp_path):
    """Of a model without the output before it."""
    fields = {"image_size": 125, "num_aux_features": 0, "id2label": {0: "qcd", 1: "top"}, "mass_loss": "huber"}
    model = make("xcit", containment=True, **fields)
    processor = E2EImageProcessor(CHANNELS)
    path = export_onnx(model, processor, tmp_path / "model.onnx", "nchw")
    shape = find_schema("simulated").image_shape
    images = np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], shape) for row in rows["test"]])
    errors = check_parity(model, processor, path, images[:4])
    assert list(errors) == ["signal", "probabilities", "mass", "containment"]
