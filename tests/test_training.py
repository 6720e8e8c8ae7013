"""Recipes, the loop, checkpoints: in one process here, in several in test_scripts.py."""

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from samples import random_images
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.data import find_schema, load_e2e
from e2evit.training import (
    DataArguments,
    ModelArguments,
    TrainArguments,
    check_output_dir,
    load_model,
    parse_recipe,
    run_info,
    save_checkpoint,
    train,
)
from e2evit.training.checkpoint import latest_state, read_model_config
from e2evit.training.optim import make_optimizer, make_schedule

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
        data_args = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"), mass_column="jet_mass")
        train_args = TrainArguments(
            **{"output_dir": str(tmp_path / name), "num_train_epochs": 2, "per_device_batch_size": 16} | overrides
        )
        accelerator = Accelerator(cpu=True)
        set_seed(train_args.seed)
        dataset = load_e2e("simulated", jets_dir, cache_dir=data_args.cache_dir)
        model_args = ModelArguments(model_config=model_json)
        model, processor = load_model(model_args, data_args, find_schema("simulated", jets_dir), dataset["train"])
        history = train(accelerator, model, dataset, processor, data_args, train_args)
        info = run_info(accelerator, dataset, model)
        arguments = (data_args, model_args, train_args)
        save_checkpoint(accelerator, model, processor, Path(train_args.output_dir), arguments, info)
        return model, history, Path(train_args.output_dir)

    return start


def test_learns_and_saves_a_folder_that_loads(run):
    """Label 1 has five times the energy: anything that trains at all tells them apart."""
    model, history, folder = run(num_train_epochs=8, learning_rate=5e-3)
    assert max(entry["validation_accuracy"] for entry in history.epochs) > 0.85
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
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
    data_args = DataArguments(dataset_name=name, data_dir=str(folder / "data"))
    train_args = TrainArguments(output_dir=str(folder / "run"), num_train_epochs=1, per_device_batch_size=16)
    dataset = load_e2e(name, folder / "data", cache_dir=folder / "cache")
    model_args = ModelArguments(model_config=str(folder / "model.json"))
    model, processor = load_model(model_args, data_args, find_schema(name), dataset["train"])
    history = train(Accelerator(cpu=True), model, dataset, processor, data_args, train_args)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return history.epochs[0]


def test_trains_on_classes_without_masses(tmp_path):
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data/set.h5", "w") as file:
        file["jet"] = np.moveaxis(random_images(60), 1, -1)
        file["Y"] = (np.arange(60) % 2).astype(np.float32)[:, None]
    epoch = train_on("labelled", tmp_path)
    assert epoch["mass_loss"] == 0
    assert epoch["classification_loss"] > 0


def test_trains_on_masses_without_classes(tmp_path):
    """`top_mass` has no labels: they are null, and the classifier learns nothing, without a NaN."""
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


def test_resuming_gives_the_same_weights(run, monkeypatch):
    whole, history, _ = run("whole", num_train_epochs=3)

    from e2evit.training import loop

    def killed(accelerator, folder, epoch, save=loop.save_state):
        save(accelerator, folder, epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        run("parts", num_train_epochs=3)
    monkeypatch.undo()
    resumed, resumed_history, _ = run("parts", num_train_epochs=3, resume_from_checkpoint=True)
    assert len(resumed_history.epochs) == 3
    assert resumed_history.images_seen == history.images_seen
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_only_the_newest_complete_state_stays(run):
    _, _, folder = run()
    assert latest_state(folder / "state").name == "epoch-00002"
    assert [path.name for path in (folder / "state").iterdir()] == ["epoch-00002"]


def test_starting_anew_forgets_the_old_state(run, monkeypatch):
    from e2evit.training import loop

    _, _, folder = run()

    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(overwrite_output_dir=True)
    assert latest_state(folder / "state") is None


def test_a_loss_that_is_not_finite_stops_the_run(run, monkeypatch):
    from e2evit.modeling import modeling_e2e

    loss = modeling_e2e.e2e_loss
    monkeypatch.setattr(modeling_e2e, "e2e_loss", lambda *a: tuple(x * float("nan") for x in loss(*a)))
    with pytest.raises(FloatingPointError, match="step 1 of epoch 1"):
        run()


def test_fine_tuning_starts_from_the_checkpoint(run, jets_dir, tmp_path):
    model, _, folder = run()
    train_split = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    model_args, schema = ModelArguments(model_name_or_path=str(folder)), find_schema("simulated", jets_dir)
    loaded, _ = load_model(model_args, DataArguments(), schema, train_split)
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)
    with pytest.raises(ValueError, match=r"tells qcd, top apart; 'simulated' has qcd, top, w"):
        load_model(model_args, DataArguments(), find_schema("simulated"), train_split)
    with pytest.raises(ValueError, match="trk_dz, trk_d0"):
        load_model(model_args, DataArguments(), find_schema("top_mass"), train_split)


def test_recipe_defaults_file_command_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-4\nflips: false\nnum_train_epochs: 3\n")
    data, training = parse_recipe(DataArguments, TrainArguments, arguments=[str(path), "--num_train_epochs", "5"])
    assert (training.learning_rate, training.num_train_epochs, data.flips) == (1e-4, 5, False)
    assert training.weight_decay == TrainArguments().weight_decay


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\n", "unknown key learning_rte; known ones:.*learning_rate"),
        ("- 1\n", "key: value"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_recipe(DataArguments, TrainArguments, arguments=[str(path)])
    with pytest.raises(ValueError, match="no recipe"):
        parse_recipe(TrainArguments, arguments=["nowhere.yaml"])


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
        load_model(ModelArguments(), DataArguments(), find_schema("simulated"), None)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL | {"hiden_size": 3}))
    with pytest.raises(ValueError, match="no field hiden_size"):
        read_model_config(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="model_type"):
        read_model_config(path)
    with pytest.raises(ValueError, match="no model configuration"):
        read_model_config(tmp_path / "nowhere.json")


def test_weight_decay_spares_vectors(model_json):
    model = AutoModelForImageClassification.from_config(read_model_config(model_json))
    decayed, spared = make_optimizer(model, 1e-3, 0.05).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make_schedule(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates[:10], np.linspace(0.2, 2.0, 10))
    assert rates[10] == 2.0
    assert (np.diff(rates[10:]) < 0).all()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/models").glob("*.json")), ids=lambda path: path.stem)
def test_model_files_build(path):
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(read_model_config(path))
    if path.stem.endswith("_nano"):
        assert sum(parameter.numel() for parameter in model.parameters()) <= 1.5e6


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/*_nano.yaml")), ids=lambda path: path.stem)
def test_recipes_parse_and_repeat_no_default(path):
    groups = parse_recipe(DataArguments, ModelArguments, TrainArguments, arguments=[str(path)])
    defaults = {
        k: v for group in (DataArguments(), ModelArguments(), TrainArguments()) for k, v in vars(group).items()
    }
    resolved = {k: v for group in groups for k, v in vars(group).items()}
    for key in yaml.safe_load(path.read_text()):
        assert resolved[key] != defaults[key], key
    assert (ROOT / groups[1].model_config).is_file()
