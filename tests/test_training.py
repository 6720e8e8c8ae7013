"""Recipes, the training loop, checkpoints: in one process here, in several in test_scripts.py."""

import json
from pathlib import Path
from unittest.mock import Mock

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file
from samples import random_images
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoModelForMaskedImageModeling

from e2evit.cli.parser import parse
from e2evit.cli.train import GROUPS
from e2evit.data import find_schema, load_e2e
from e2evit.training import (
    DataArguments,
    MaskArguments,
    MassWeightArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    check_output_dir,
    end_processes,
    make_loader,
    new_model,
    pieces,
    predict,
    pretrained_model,
    read_model_config,
    start_accelerator,
    train,
)
from e2evit.training.collate import E2ECollator
from e2evit.training.guards import check_splits
from e2evit.training.tasks import Supervised
from e2evit.training.weights import measure_batch_norms

ROOT = Path(__file__).parents[1]
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def model_json(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL))
    return str(path)


@pytest.fixture
def run(jets_dir, model_json, tmp_path):
    """A function that trains in this process and returns model, history and output folder."""

    def start(name="run", **overrides):
        settings = {"output_dir": str(tmp_path / name), "num_train_epochs": 2, "per_device_batch_size": 16}
        settings |= {"mixed_precision": "no", "report_to": "none"}
        data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
        targets = TargetArguments(mass_column="jet_mass")
        found = train(model_json, data, TrainArguments(**settings | overrides), targets=targets)
        return found.model, found.history, found.output_dir

    return start


def test_learns_and_saves_a_folder_that_loads(run):
    """Label 1 has five times the energy: any training that works tells them apart."""
    model, history, folder = run(num_train_epochs=8, learning_rate=5e-3)
    assert max(entry["validation_accuracy"] for entry in history.epochs) > 0.85
    assert min(entry["loss"] for entry in history.epochs) < 0.5 * history.epochs[0]["loss"]
    assert history.best_loss == min(entry["validation_loss"] for entry in history.epochs)
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key])
    assert loaded.config.id2label == {0: "qcd", 1: "top"}
    assert loaded.config.channel_names == list(find_schema("simulated").channel_names)
    assert AutoImageProcessor.from_pretrained(folder).channel_scale[5] > 0
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["learning_rate"] == 5e-3
    info = json.loads((folder / "run_info.json").read_text())
    assert info["data"]["train"]["rows"] > info["data"]["test"]["rows"] > 0
    assert info["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert not list(folder.glob("*incomplete*"))


def train_on(name, folder):
    """One epoch of a small model on the files in `folder / "data"`."""
    (folder / "model.json").write_text(json.dumps(MODEL))
    data = DataArguments(dataset_name=name, data_dir=str(folder / "data"), cache_dir=str(folder / "cache"))
    settings = TrainArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=1,
        per_device_batch_size=16,
        mixed_precision="no",
        report_to="none",
    )
    found = train(folder / "model.json", data, settings)
    assert all(parameter.isfinite().all() for parameter in found.model.parameters())
    return found.history.epochs[0]


def test_trains_on_classes_without_masses(tmp_path):
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data/set.h5", "w") as file:
        file["jet"] = np.moveaxis(random_images(60), 1, -1)
        file["Y"] = (np.arange(60) % 2).astype(np.float32)[:, None]
    epoch = train_on("labelled", tmp_path)
    assert epoch["mass_loss"] == 0
    assert epoch["classification_loss"] > 0


def test_trains_on_masses_without_classes(tmp_path):
    """`top_mass` has null labels: the classifier learns nothing, and no NaN appears."""
    images = random_images(60)
    columns = {key: np.linspace(100, 400, 60) for key in ("m", "pt")} | {
        key: np.full(60, 20.0) for key in ("ieta", "iphi")
    }
    (tmp_path / "data").mkdir()
    table = pa.table({"X_jet": pa.array(images.tolist())} | columns)
    pq.write_table(table, tmp_path / "data/top.parquet", row_group_size=1)
    epoch = train_on("top_mass", tmp_path)
    assert epoch["classification_loss"] == 0
    assert epoch["mass_loss"] > 0


def test_a_loss_that_is_not_finite_can_be_replayed(run, monkeypatch, jets_dir, model_json, tmp_path):
    from e2evit.modeling import modeling_e2e

    loss = modeling_e2e.e2e_loss
    monkeypatch.setattr(modeling_e2e, "e2e_loss", lambda *a: tuple(x * float("nan") for x in loss(*a)))
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1"):
        run("sick")
    monkeypatch.undo()
    folder = tmp_path / "sick/not_finite_process_0"
    where = json.loads((folder / "step.json").read_text())
    batch = load_file(folder / "batch.safetensors")
    events = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")["event_id"]
    assert len(where["event_ids"]) == 16
    assert set(where["event_ids"]) <= set(events)
    # replay the step
    model = AutoModelForImageClassification.from_config(read_model_config(model_json))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    torch.set_rng_state(batch.pop("random_state"))
    assert model.train()(**batch).loss.isfinite()


def test_fine_tuning_starts_from_the_checkpoint(run, jets_dir, tmp_path):
    model, _, folder = run()
    train_split = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    loaded, _ = pretrained_model(folder, find_schema("simulated", jets_dir), train_split)
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)
    with pytest.raises(ValueError, match="trk_dz, trk_d0"):
        pretrained_model(folder, find_schema("top_mass"), train_split)


def test_precision_changes_after_an_interrupted_run(run, monkeypatch):
    """As in a notebook: Accelerate alone keeps the first run's precision until the process ends."""
    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "validate", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(mixed_precision="bf16")
    run("second", num_train_epochs=1, mixed_precision="no")


def test_output_folder(tmp_path):
    assert check_output_dir(str(tmp_path / "new"), False, False) == tmp_path / "new"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--resume_from_checkpoint"):
        check_output_dir(str(tmp_path), False, False)
    with pytest.raises(ValueError, match="is a file"):
        check_output_dir(str(tmp_path / "file"), False, True)
    with pytest.raises(ValueError, match="--output_dir"):
        check_output_dir(None, False, False)
    assert check_output_dir(str(tmp_path), True, False) == check_output_dir(str(tmp_path), False, True) == tmp_path


def test_model_arguments(tmp_path, jets_dir):
    with pytest.raises(ValueError, match="either"):
        train(None, jets_dir, TrainArguments(output_dir=str(tmp_path / "run")))
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL | {"hiden_size": 3}))
    with pytest.raises(ValueError, match="no field hiden_size"):
        read_model_config(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="model_type"):
        read_model_config(path)
    with pytest.raises(ValueError, match=r"no file .*no packaged recipe"):
        read_model_config(tmp_path / "nowhere.json")


def test_muon_on_sharded_weights_is_refused(run, monkeypatch):
    monkeypatch.setattr(Accelerator, "is_fsdp2", True)
    with pytest.raises(ValueError, match="Muon needs whole matrices"):
        run(optimizer="muon")
    with pytest.raises(ValueError, match="`optimizer` must be adamw or muon, got 'sgd'"):
        TrainArguments(optimizer="sgd")


def test_head_first_leaves_the_backbone_alone(run):
    model, _, _ = run(num_train_epochs=2, head_first_epochs=2, weight_decay=0.5)
    set_seed(0)
    fresh = AutoModelForImageClassification.from_config(model.config)
    for (name, trained), initial in zip(model.named_parameters(), fresh.parameters()):
        assert torch.equal(trained, initial) != name.startswith("head."), name


def test_the_average_is_what_is_saved(run):
    plain, _, _ = run("plain")
    averaged, history, _ = run("averaged", ema_decay=0.9)
    assert history.epochs[0]["loss"] == pytest.approx(run("again")[1].epochs[0]["loss"])
    assert not torch.equal(plain.head.classifier.weight, averaged.head.classifier.weight)


def test_batch_norm_statistics_match_the_saved_weights(run, jets_dir, tmp_path):
    """At this learning rate, running statistics lag behind the weights."""
    model, _, folder = run(learning_rate=0.1, ema_decay=0.5)
    norm = model.xcit.patch_embed.norms[0]
    saved = norm.running_mean.clone(), norm.running_var.clone()
    dataset = load_e2e("simulated", jets_dir, cache_dir=str(tmp_path / "cache"))
    collator = E2ECollator(AutoImageProcessor.from_pretrained(folder), "jet_mass")
    measure_batch_norms(Accelerator(cpu=True), model, make_loader(dataset["train"], collator, len(dataset["train"])))
    assert ((saved[0] - norm.running_mean) / norm.running_var.sqrt()).abs().max() < 0.05
    assert (saved[1] / norm.running_var - 1).abs().max() < 0.2  # differs by flips and batches of 16


def test_an_epoch_without_validation(run, model_json):
    """The last epoch is always validated; validation leaves training unchanged, even its random numbers."""
    Path(model_json).write_text(json.dumps(MODEL | {"drop_path_rate": 0.3}))
    _, history, _ = run("rarely", num_train_epochs=3, validation_interval=2)
    assert ["validation_loss" in epoch for epoch in history.epochs] == [False, True, True]
    _, always, _ = run("always", num_train_epochs=3)
    assert [epoch["loss"] for epoch in history.epochs] == [epoch["loss"] for epoch in always.epochs]
    with pytest.raises(ValueError, match="1 or more"):
        TrainArguments(validation_interval=0)
    with pytest.raises(ValueError, match="before it is validated"):
        TrainArguments(validation_interval=5, early_stopping_epochs=3)


def test_early_stopping(run, monkeypatch):
    from e2evit.training import tasks

    same = {"loss": 1.0, "accuracy": 0.5, "mass_mae_gev": 1.0}
    monkeypatch.setattr(tasks, "summarise", lambda *a: same)
    _, history, _ = run(num_train_epochs=6, early_stopping_epochs=2)
    assert len(history.epochs) == 3


@pytest.mark.parametrize("mass_loss", ["gaussian", "quantile"])
def test_widths_are_calibrated_on_validation_jets(jets_dir, tmp_path, mass_loss):
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"mass_loss": mass_loss, "log_mass": True}))
    trained = train(
        tmp_path / "model.json",
        DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache")),
        TrainArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=2,
            per_device_batch_size=16,
            mixed_precision="no",
            report_to="none",
        ),
        targets=TargetArguments(mass_column="jet_mass"),
        mass_weights=MassWeightArguments(flat_in="mass_pt", flat_bins=5),
    )
    model, processor, accelerator = trained.model, trained.processor, Accelerator(cpu=True)
    assert 2 < model.config.mass_mean < 6
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    loader = make_loader(dataset["validation"], E2ECollator(processor, "jet_mass"), 16)
    found = predict(accelerator, model, loader)
    assert model.config.mass_temperature != 1.0
    inside = np.abs(found["mass_preds"] - found["mass_labels"]) < found["mass_scale_preds"]
    assert inside.mean() == pytest.approx(0.683, abs=2 / len(inside))


def test_predictions_resume_after_an_interruption(jets_dir, model_json, tmp_path, monkeypatch):
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    model, processor = new_model(model_json, find_schema("simulated", jets_dir), dataset["train"], "jet_mass")
    accelerator, collator, rows = Accelerator(cpu=True), E2ECollator(processor, "jet_mass"), dataset["train"]
    whole = predict(accelerator, model, make_loader(rows, collator, 16))
    monkeypatch.setattr(pieces, "PIECE", 32)
    made = []

    def counted(*arguments, **more):
        if len(made) == 2:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(arguments[-1])
        return predict(*arguments, **more)

    monkeypatch.setattr(pieces, "predict", counted)
    arguments = accelerator, model, rows, collator, 16, tmp_path / "pieces"
    with pytest.raises(KeyboardInterrupt):
        pieces.predict_in_pieces(*arguments)
    found = pieces.predict_in_pieces(*arguments)
    assert made == [f"Predicting from {start}" for start in (0, 32)] + ["killed"] + [
        f"Predicting from {start}" for start in range(64, len(rows), 32)
    ]
    assert set(found) == set(whole) - {"labels", "mass_labels"}
    for name, values in found.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        model.head.classifier.bias += 1
    moved = pieces.predict_in_pieces(*arguments)  # another model: nothing from the old one is left
    np.testing.assert_allclose(moved["logits"], whole["logits"] + 1, rtol=1e-5, atol=1e-5)


def test_an_event_in_two_splits_is_refused(jets_dir, tmp_path):
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    leaking = datasets.DatasetDict(
        dataset | {"test": datasets.concatenate_datasets([dataset["test"], dataset["train"]])}
    )
    check_splits(dataset)
    with pytest.raises(ValueError, match=f"{len(dataset['train'])} rows of test"):
        check_splits(leaking)


@pytest.mark.parametrize(("accuracy", "mae", "is_said"), [(1.0, 0.0, True), (0.0, 0.0, False), (1.0, 1e6, False)])
def test_an_epoch_no_better_than_a_constant_is_reported(run, monkeypatch, caplog, accuracy, mae, is_said):
    monkeypatch.setattr(Supervised, "constants", lambda *_: {"accuracy": accuracy, "mass_mae_gev": mae})
    run(num_train_epochs=1)
    assert ("Not better than a constant prediction" in caplog.text) == is_said


def test_pretraining_and_fine_tuning(jets_dir, model_json, tmp_path):
    """One loop serves both; the backbone is kept, the heads are new."""
    data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
    targets = TargetArguments(mass_column="jet_mass")

    def settings(name, **more):
        shared = {"per_device_batch_size": 32, "num_train_epochs": 2, "report_to": "none", "mixed_precision": "no"}
        return TrainArguments(output_dir=str(tmp_path / name), **shared | more)

    masked = train(model_json, data, settings("pretrained", save_steps=2), targets=targets, mask=MaskArguments())
    epochs = masked.history.epochs
    assert epochs[1]["loss"] < epochs[0]["loss"]
    assert set(epochs[0]) >= {"occupancy_loss", "validation_value_loss"}
    pretrained = AutoModelForMaskedImageModeling.from_pretrained(tmp_path / "pretrained")
    schema, train_split = find_schema("simulated", jets_dir), load_e2e("simulated", jets_dir, split="train")
    model, _ = pretrained_model(tmp_path / "pretrained", schema, train_split, "jet_mass")
    backbone = model.base_model.state_dict()
    assert all(torch.equal(tensor, pretrained.base_model.state_dict()[name]) for name, tensor in backbone.items())
    assert model.config.id2label == {0: "qcd", 1: "top"}
    assert model.config.mass_mean > 20
    tuned = train(None, data, settings("tuned"), model_name_or_path=tmp_path / "pretrained")  # the same mass column
    assert len(tuned.history.epochs) == 2
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "tuned").config.mass_mean > 20


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/models").glob("*.json")), ids=lambda path: path.stem)
def test_model_files_build(path):
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(read_model_config(path))
    if path.stem.endswith("_nano"):
        assert sum(parameter.numel() for parameter in model.parameters()) <= 1.5e6


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/quickstart").glob("*_nano.yaml")), ids=lambda path: path.stem)
def test_recipes_parse_and_repeat_no_default(path):
    recipe = Recipe(*parse("e2evit train", "", [str(path)], *GROUPS))
    for key in yaml.safe_load(path.read_text()):
        assert recipe.flat()[key] != Recipe().flat()[key], key
    assert (ROOT / recipe.model.model_config).is_file()


@pytest.mark.parametrize(
    ("name", "has_amx", "has_bf16", "expected"),
    [
        ("Intel(R) Xeon(R)", True, True, True),
        ("Intel(R) Xeon(R)", False, True, False),
        ("AMD EPYC", False, True, True),
        ("AMD EPYC", False, False, False),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(name, has_amx, has_bf16, expected, monkeypatch):
    cpu = {"cpu_name": name, "avx512_bf16": has_bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    accelerator = start_accelerator("auto")
    assert accelerator.mixed_precision == ("bf16" if expected else "no")
    end_processes(accelerator)
