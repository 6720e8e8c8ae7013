"""Jets of whole events: as rows of their own, as windows, as queries of one pass, and in other events."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import event_tables
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset
from e2evit.modeling import E2EImageProcessor
from forked import TWICE, run_python
from transformers import pipeline

import e2evit
from e2evit.data import find_schema
from e2evit.data.columns import LISTS
from e2evit.data.grid import COLUMNS, ROWS, WINDOW, eta_centres
from e2evit.data.schema import row_features
from e2evit.data.sparse import list_array, sparse_to_dense, table_to_dense
from e2evit.results.predictions import MODEL
from e2evit.training.arguments import AugmentationArguments, DecorrelationArguments
from e2evit.training.events import EventCollator
from e2evit.training.resident import ResidentRows
from e2evit.transforms.event_jets import (
    in_other_events,
    jets_in_other_events,
    jets_of_events,
    positions,
    windows_of_events,
)
from e2evit.transforms.targets import select_targets

ROOT = Path(__file__).parents[1]
SCHEMA = replace(find_schema("simulated"), image_size=(ROWS, COLUMNS), lists=("jets",))
IS_TOWER = [name == "hcal" for name in SCHEMA.channel_names]
CLASSES = ["qcd", "top"]
SHAPE = (len(SCHEMA.channel_names), ROWS, COLUMNS)


def event_table(number: int, seed: int = 0, num_jets=None) -> pa.Table:
    """Events of random pixels; those around jets of class 1 hold more energy. Some jets lie at the seam in phi."""
    rng = np.random.default_rng(seed)
    num_jets = rng.integers(0, 4, number) if num_jets is None else np.array(num_jets)
    event = np.repeat(np.arange(number), num_jets)
    row = rng.integers(70, 200, len(event))
    column = rng.integers(0, COLUMNS, len(event)) if len(event) < 2 else np.r_[0, rng.integers(0, 360, len(event) - 1)]
    labels = rng.integers(0, 2, len(event))
    images = []
    for one in range(number):
        index = rng.choice(np.prod(SHAPE), 4000, replace=False)
        channel, place = np.divmod(np.sort(index), ROWS * COLUMNS)
        value = rng.exponential(1.0, len(index)) * np.where(channel == 3, 5.0, 1.0)
        for jet in np.flatnonzero(event == one):
            across = (place % COLUMNS - column[jet] + 180) % 360 - 180
            near = (abs(place // COLUMNS - row[jet]) < 30) & (abs(across) < 30)
            value[near] *= 1 + 9 * labels[jet]
        images.append((np.sort(index), value))
    counts = [len(index) for index, _ in images]
    values = {
        "jets_pt": rng.uniform(400, 1000, len(event)),
        "jets_eta": eta_centres(row),
        "jets_phi": np.radians(column + 0.5 - 10.0),
        "jets_labels": labels,
        "jets_mass_labels": np.where(labels, 173.0, np.nan),
        "jets_mass": 80 + 90 * labels + rng.normal(0, 5, len(event)),
        "jets_merged": labels.astype(bool),
    }
    columns = {
        "pixel_index": list_array(np.concatenate([i for i, _ in images]).astype("uint32"), counts),
        "pixel_value": list_array(np.concatenate([v for _, v in images]).astype("float32"), counts),
        "labels": np.arange(number) % 2,
        "jet_mass": rng.uniform(80, 180, number),
        "pt": np.full(number, 500.0),
        "ieta": np.full(number, 28),
        "iphi": np.zeros(number, int),
        "num_pileup": np.arange(number),
        "event_id": [f"event-{seed}-{one}" for one in range(number)],
    }
    columns |= {name: list_array(values[name].astype(kind), num_jets) for name, kind in LISTS["jets"].items()}
    schema = replace(SCHEMA, labels={name: SCHEMA.labels[name] for name in CLASSES})
    target = row_features(schema).arrow_schema
    columns |= {name: pa.nulls(number) for name in target.names if name not in columns}
    table = pa.table(columns).select(target.names).cast(target)
    description = json.dumps(schema.description_of_rows(CLASSES)).encode()
    return table.replace_schema_metadata(target.metadata | {b"e2evit": description})


@pytest.fixture(scope="module")
def events_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    pq.write_table(event_table(60), folder / "top-00000-60.parquet")
    return folder


@pytest.fixture(scope="module")
def data(events_dir, tmp_path_factory):
    return e2evit.DataArguments(data_dir=str(events_dir), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def events(data):
    return e2evit.load_e2e("simulated", data.data_dir, cache_dir=data.cache_dir)


def test_a_row_for_each_jet(events, data):
    jets, (windows, schema) = (
        jets_of_events(events),
        windows_of_events(events, find_schema("simulated", data.data_dir)),
    )
    assert (schema.image_size, schema.lists) == ((WINDOW, WINDOW), ())
    for split, rows in events.items():
        counts = [len(pt) for pt in rows["jets_pt"]]
        assert 0 in counts
        for made in (jets[split], windows[split]):
            assert made["event_id"] == [name for name, n in zip(rows["event_id"], counts) for _ in range(n)]
            assert made["pt"] == [pt for of in rows["jets_pt"] for pt in of]
            assert made.features["labels"] == rows.features["jets_labels"].feature
            for label, mass in zip(made["labels"], made["mass_labels"]):
                assert mass == (173 if label else None)
    assert "pixel_index" not in jets["train"].column_names


def test_windows_are_cut_around_the_tower_at_the_axis(events, data):
    windows, _ = windows_of_events(events, find_schema("simulated", data.data_dir))
    table = events["train"].with_format("arrow")[:]
    event, row, column = positions(table)
    images, at_seam = table_to_dense(table, SHAPE), 0
    found = table_to_dense(windows["train"].with_format("arrow")[:], (SHAPE[0], WINDOW, WINDOW))
    for number, window in enumerate(found):
        top, left = (int(place[number]) // 5 * 5 - 60 for place in (row, column))
        at_seam += left < 0
        expected = np.roll(images[event[number]], -left, axis=2)[:, top : top + WINDOW, :WINDOW]
        np.testing.assert_array_equal(window, expected)
    assert at_seam


@pytest.mark.parametrize("classes", [["top"], ["top", "qcd"]])
def test_targets_of_jets_in_lists(events, classes):
    chosen, schema = select_targets(events, replace(SCHEMA, labels=dict.fromkeys(CLASSES, "")), "mass_labels", classes)
    number = {old: classes.index(name) if name in classes else None for old, name in enumerate(CLASSES)}
    for before, after in zip(events["train"]["jets_labels"], chosen["train"]["jets_labels"]):
        assert after == [number[label] for label in before]
    none, _ = select_targets(events, SCHEMA, "mass_labels", mass_classes=["none"])
    assert not any(mass for of in none["train"]["jets_mass_labels"] for mass in of)
    assert schema.label_names == tuple(classes)


@pytest.fixture(scope="module")
def processor():
    return E2EImageProcessor(channel_names=list(SCHEMA.channel_names), image_size=[ROWS, COLUMNS])


def test_batches_of_events(events, processor):
    table = events["train"].with_format("arrow")[:8]
    collator = EventCollator(processor, "jet_mass", truth_columns=["pt", "jet_mass"])
    batch, (event, row, column) = collator(table), positions(table)
    is_jet = batch["jets"][..., 0] > 0
    assert is_jet.sum(1).tolist() == np.bincount(event, minlength=8).tolist()
    np.testing.assert_allclose(batch["jets"][is_jet][:, 1:], np.stack([row, column], axis=1), rtol=1e-6)
    assert batch["labels"][is_jet].tolist() == [label for of in table["jets_labels"].to_pylist() for label in of]
    np.testing.assert_allclose(batch["mass_labels"][is_jet], table["jets_mass"].combine_chunks().flatten())
    assert (batch["labels"][~is_jet] == -100).all()
    assert batch["mass_labels"][~is_jet].isnan().all()
    expected = torch.stack([batch["jets"][..., 0], batch["mass_labels"]], dim=2)
    assert torch.equal(batch["truth_labels"][is_jet], expected[is_jet])
    assert batch["truth_labels"][~is_jet].isnan().all()
    assert (EventCollator(processor, with_labels=False)(table)["labels"] == -100).all()


def test_jets_move_with_mirrored_events(events, processor):
    """The image is mirrored as the jets' axes are; each mirror occurs, and both."""
    table = events["train"].with_format("arrow")[:30]
    table = table.filter(pa.array([len(jets) > 0 for jets in table["jets_pt"].to_pylist()]))
    random_state = torch.get_rng_state()
    plain = EventCollator(processor)(table)
    assert torch.equal(torch.get_rng_state(), random_state)  # validation leaves training's random numbers alone
    collator = EventCollator(processor, augmentation=AugmentationArguments(flips=True))
    collator.seed(0, 1)
    mirrored, seen = collator(table), set()
    for image, jets, before, axes in zip(
        mirrored["pixel_values"], mirrored["jets"], plain["pixel_values"], plain["jets"]
    ):
        flips = [dim for dim in (1, 2) if not torch.equal(jets[:, dim], axes[:, dim])]
        torch.testing.assert_close(image.abs(), before.abs().flip(flips), rtol=0, atol=0)
        seen.add(tuple(flips))
    assert seen == {(), (1,), (2,), (1, 2)}
    chosen = [1, 0, 2]
    resident = ResidentRows(Accelerator(cpu=True), Dataset(table), collator).__getitems__(chosen)
    found = collator.finish(resident)
    for name, expected in collator(table.take(chosen)).items():
        filled = torch.full_like(found[name], EventCollator.padding.get(name, 0))
        filled[:, : expected.shape[1]] = expected
        torch.testing.assert_close(found[name], filled, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="tower_shift"):
        EventCollator(processor, augmentation=AugmentationArguments(tower_shift=1))


@pytest.mark.parametrize("overlaid", [False, True])
def test_jets_in_other_events(overlaid):
    table, hosts = event_table(5, num_jets=[2, 1, 0, 1, 1]), event_table(5, seed=1)
    moved = jets_in_other_events(table, hosts, 62, IS_TOWER, overlaid)
    assert moved.drop_columns(["pixel_index", "pixel_value"]).equals(
        table.drop_columns(["pixel_index", "pixel_value"])
    )
    own, other, made = (table_to_dense(of, SHAPE) for of in (table, hosts, moved))
    event, row, column = positions(table)
    rows, columns = np.arange(ROWS)[:, None] + 0.5, np.arange(COLUMNS) + 0.5
    middles = rows // 5 * 5 + 2.5, columns // 5 * 5 + 2.5
    for number in range(5):
        near = np.zeros(SHAPE, bool)
        for y, x in zip(row[event == number], column[event == number]):
            of_pixels, of_towers = (
                (abs(down - y) <= 62) & (abs((across - x + 180) % 360 - 180) <= 62)
                for down, across in ((rows, columns), middles)
            )
            near |= np.where(np.array(IS_TOWER)[:, None, None], of_towers, of_pixels)
        assert near.any() == (number != 2)
        expected = np.where(near, own[number] + overlaid * other[number], other[number])
        np.testing.assert_allclose(made[number], expected, rtol=1e-6)
    index = moved["pixel_index"][0].as_py()
    np.testing.assert_array_equal(sparse_to_dense(index, moved["pixel_value"][0].as_py(), SHAPE), made[0])


def test_every_event_is_a_host_once(events):
    rows = events["train"]
    found, table = in_other_events(rows, 62, IS_TOWER), rows.with_format("arrow")[:]
    hosts = table.take(np.roll(np.arange(len(rows)), len(rows) // 2))
    expected = jets_in_other_events(table, hosts, 62, IS_TOWER)
    assert found.with_format("arrow")["pixel_index"].to_pylist() == expected["pixel_index"].to_pylist()
    assert found.features == rows.features
    with pytest.raises(ValueError, match="need another event to stand in, and there are 1"):
        in_other_events(rows.select([0]), 62, IS_TOWER)


MODELS = {
    "queries": {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"pixel_hidden_size": 8, "periodic_columns": True, "num_query_layers": 1, "window_size": 64},
    "windows": {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def train(kind, data, folder, decorrelation=None, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(MODELS[kind]))
    settings = {"output_dir": str(folder / "run"), "num_train_epochs": 1, "learning_rate": 5e-3} | settings
    settings = e2evit.TrainArguments(mixed_precision="no", report_to="none", per_device_batch_size=8, **settings)
    targets = e2evit.TargetArguments(mass_column="jet_mass")
    data = replace(data, event_jets=kind)
    return e2evit.train(folder / "model.json", data, settings, targets=targets, decorrelation=decorrelation)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """Both models, trained and measured on the same jets."""
    found = {}
    for kind in MODELS:
        trained = train(kind, data, tmp_path_factory.mktemp(kind))
        asked = data if kind == "queries" else replace(data, event_jets=kind)
        pieces = tmp_path_factory.mktemp("pieces")
        found[kind] = (
            trained,
            e2evit.evaluate(trained, asked, mixed_precision="no", per_device_batch_size=4, pieces_dir=pieces),
        )
    return found


def test_both_are_measured_on_the_same_jets(results, events):
    number = sum(map(len, events["test"]["jets_pt"]))
    queries, windows = (result for _, result in results.values())
    assert queries.data == windows.data
    for column in ("event_id", "labels", "pt", "jet_mass", "image mass mass"):
        np.testing.assert_array_equal(queries.predictions[column], windows.predictions[column])
    for result in (queries, windows):
        assert len(result.predictions[f"{MODEL} p_top"]) == result.data["test"]["rows"] == number
    assert (queries.image_size, windows.image_size) == ([ROWS, COLUMNS], [WINDOW, WINDOW])


def test_scores_of_jets_in_events_are_decorrelated(data, tmp_path):
    (epoch,) = train("queries", data, tmp_path, DecorrelationArguments(2.0)).history.epochs
    for prefix in ("", "validation_"):
        assert 0 < epoch[f"{prefix}decorrelation_loss"] < 1
    terms = epoch["classification_loss"] + epoch["mass_loss"] + 2 * epoch["decorrelation_loss"]
    assert epoch["loss"] == pytest.approx(terms, rel=1e-5)
    with pytest.raises(ValueError, match="'groomed_mass' is not in the data: choose `decorrelation_mass`"):
        train("queries", data, tmp_path / "refused", DecorrelationArguments(2.0, "groomed_mass"))


def test_predictions_are_those_of_the_jets(results, events):
    trained, result = results["queries"]
    table = events["test"].with_format("arrow")[:]
    batch = EventCollator(trained.processor)(table)
    with torch.no_grad():
        outputs = trained.model(batch["pixel_values"], batch["jets"])
    is_jet = batch["jets"][..., 0] > 0
    expected = outputs.logits[is_jet].softmax(-1)[:, 1]
    np.testing.assert_allclose(result.predictions[f"{MODEL} p_top"], expected, atol=1e-5)
    np.testing.assert_allclose(result.predictions[f"{MODEL} mass"], outputs.mass_preds[is_jet], rtol=1e-5)


def test_the_study_of_transplants(results, data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    options = {"data_dir": data.data_dir, "cache_dir": data.cache_dir, "results": tmp_path / "transplants.json"}
    options["checkpoint"] = results["queries"][0].output_dir
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["transplants.py", *arguments])
    import_module("transplants").main()
    measured = json.loads(options["results"].read_text())["conditions"]
    own, *others = (measured[name] for name in ("own event", "other event", "overlaid"))
    assert own["roc_auc"] == pytest.approx(results["queries"][1].metrics[MODEL]["roc_auc"], abs=1e-6)
    assert own["mean_change_of_score"] == 0 < min(other["mean_change_of_score"] for other in others)


@pytest.mark.thorough
def test_the_study_of_events(data, tmp_path):
    """One seed; a second call finds everything done."""
    plan = {"seeds": [3]}
    for kind, model in MODELS.items():
        recipe = yaml.safe_load((ROOT / f"recipes/events/{kind}.yaml").read_text())
        for name, content in (
            ("json", model),
            ("yaml", recipe | {"model_config": str(tmp_path / f"{kind}.json"), "num_train_epochs": 1}),
        ):
            (tmp_path / f"{kind}.{name}").write_text(json.dumps(content))
        plan[kind] = str(tmp_path / f"{kind}.yaml")
    (tmp_path / "study.yaml").write_text(json.dumps(plan))
    command = ["studies/events.py", "--study", tmp_path / "study.yaml", "--data_dir", data.data_dir]
    command += ["--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "runs", "--results_dir", tmp_path]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "train.py" not in done.stdout.split("second call")[1]
    assert "| windows" in event_tables.events(tmp_path)
    assert "| overlaid" in event_tables.transplants(tmp_path)


def test_wrong_requests(results, data, jets_dir, tmp_path, monkeypatch):
    windows = results["windows"][0]
    with pytest.raises(ValueError, match=r"125 x 125 pixels, and .* has 280 x 360: cut windows around"):
        e2evit.evaluate(windows, data, mixed_precision="no")
    settings = e2evit.TrainArguments(output_dir=str(tmp_path / "tuned"))
    with pytest.raises(ValueError, match="reads images of 125 x 125 pixels, and"):
        e2evit.train(None, data, settings, model_name_or_path=windows.output_dir)
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    options = ["--data_dir", data.data_dir, "--results", tmp_path / "t.json", "--checkpoint", windows.output_dir]
    monkeypatch.setattr(sys, "argv", ["transplants.py", *map(str, options)])
    with pytest.raises(ValueError, match="was not trained with `event_jets: queries`"):
        import_module("transplants").main()
    with pytest.raises(ValueError, match="predicts the jets of whole events"):
        pipeline("e2e-jets", model=str(results["queries"][0].output_dir))
    with pytest.raises(ValueError, match="queries or windows, got 'all'"):
        replace(data, event_jets="all")
    with pytest.raises(ValueError, match="was not trained with `event_jets: windows`"):
        e2evit.evaluate(results["queries"][0], replace(data, event_jets="windows"), mixed_precision="no")
    with pytest.raises(ValueError, match="was not trained with `event_jets: queries`"):
        e2evit.evaluate(results["windows"][0], replace(data, event_jets="queries"), mixed_precision="no")
    with pytest.raises(ValueError, match="125 x 125 pixels without jets: simulate with"):
        train("queries", replace(data, data_dir=str(jets_dir)), tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(MODELS["windows"]))
    settings = e2evit.TrainArguments(output_dir=str(tmp_path / "other"), mixed_precision="no", report_to="none")
    targets = e2evit.TargetArguments(mass_column="jet_mass")
    with pytest.raises(ValueError, match="needs a model of type hitvit, got 'xcit'"):
        e2evit.train(tmp_path / "model.json", replace(data, event_jets="queries"), settings, targets=targets)
