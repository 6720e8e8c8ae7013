"""Checkpoints define their targets; other classes get a new classifier; user-defined architectures train like ours."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forked import run_python
from transformers import AutoModelForImageClassification, AutoModelForMaskedImageModeling, pipeline

from e2evit import E2EImageProcessor
from e2evit.cli.export import main as export
from e2evit.data import find_schema
from e2evit.training import (
    DataArguments,
    TargetArguments,
    TrainArguments,
    TrainedOn,
    checkpoint,
    find_checkpoint,
    load_data,
    targets_of,
    train,
)
from e2evit.training.checkpoint import read_model_config
from e2evit.training.optim import make_optimizer

ROOT = Path(__file__).parents[1]
XCIT, MODELS = ROOT / "checkpoints/xcit", ROOT / "recipes/models"
TINY = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def settings(folder, **changes):
    defaults = {"num_train_epochs": 1, "per_device_batch_size": 16, "mixed_precision": "no", "report_to": "none"}
    return TrainArguments(output_dir=str(folder), **defaults | changes)


@pytest.fixture(scope="module")
def w_and_z(simulated_jets, tmp_path_factory):
    """A folder of W and Z jets only."""
    folder = tmp_path_factory.mktemp("w_and_z")
    for name in ("w-00000-20.parquet", "z-00000-20.parquet", "simulation.json"):
        (folder / name).symlink_to(simulated_jets / name)
    return folder


def test_a_bundled_checkpoint_learns_z_against_w(w_and_z, tmp_path, caplog):
    """Without options, the checkpoint sets transverse energies, channels and mass column; the classifier is new."""
    caplog.set_level(logging.INFO)
    before = AutoModelForImageClassification.from_pretrained(XCIT)
    found = train(
        None,
        DataArguments(data_dir=str(w_and_z), cache_dir=str(tmp_path / "cache")),
        settings(tmp_path / "run", learning_rate=1e-9),
        model_name_or_path=XCIT,
    )
    labels = find_schema("simulated", w_and_z).label_names
    assert set(labels) == {"w", "z"}
    assert found.model.config.id2label == dict(enumerate(labels))
    assert found.model.head.classifier.out_features == 2
    assert "a new classifier for" in caplog.text
    assert "`mass_classes` is taken from" in caplog.text
    for name, tensor in before.head.state_dict().items():  # hardly trained: the mass head comes from the checkpoint
        if name.startswith("mass"):
            torch.testing.assert_close(found.model.head.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert (recipe["transverse"], recipe["mass_classes"], recipe["mass_column"]) == (True, ["none"], "mass_labels")
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run").config.label2id == {
        name: number for number, name in enumerate(labels)
    }


def test_targets_come_from_the_checkpoint(simulated_jets, w_and_z, tmp_path):
    trained_on = TrainedOn.of(XCIT)
    data = DataArguments(data_dir=str(simulated_jets), cache_dir=str(tmp_path))
    targets = targets_of(trained_on, data, TargetArguments())
    assert targets == TargetArguments("mass_labels", ["qcd", "top", "w", "z", "h"], ["x_qq"], None)
    dataset, schema = load_data(data, targets, trained_on.channel_names)
    assert "ecal_et" in schema.channel_names
    assert schema.label_names == ("qcd", "top", "w", "z", "h")
    gun = dataset["train"].filter(lambda row: row["mass_labels"] is not None)
    assert len(gun)
    assert set(gun["labels"]) == {None}
    own = TargetArguments("jet_mass", ["w", "z"], ["w"])
    assert targets_of(trained_on, data, own) == own
    some = targets_of(trained_on, DataArguments(data_dir=str(w_and_z)), TargetArguments())
    assert (some.classes, some.mass_classes) == (None, ["none"])
    masses = load_data(DataArguments(data_dir=str(w_and_z), cache_dir=str(tmp_path)), some, trained_on.channel_names)
    assert masses[0]["train"]["mass_labels"][:] == [None] * len(masses[0]["train"])


def test_none_of_the_checkpoints_classes(w_and_z):
    other = TrainedOn("runs/other", (), ("quark", "gluon"), TargetArguments())
    with pytest.raises(ValueError, match=r"has the classes .*; runs/other knows quark, gluon"):
        targets_of(other, DataArguments(data_dir=str(w_and_z)), TargetArguments())
    assert targets_of(other, DataArguments(data_dir=str(w_and_z)), TargetArguments(), True).classes is None


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "{folder}/nowhere"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(path, tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint folder"):
        find_checkpoint(path.format(folder=tmp_path))


def test_the_hub_is_asked_once(monkeypatch):
    """`an-owner/x` may be a Hub id; a misspelt folder must not cost the minutes of transformers' retries."""
    asked = []
    monkeypatch.setattr(checkpoint, "file_exists", lambda *names: asked.append(names))
    with pytest.raises(ValueError, match="no checkpoint folder an-owner/x, and no model of that name on the Hub"):
        TrainedOn.of("an-owner/x")
    monkeypatch.setattr(checkpoint, "file_exists", lambda *names: 1 / 0)
    with pytest.raises(OSError, match="no checkpoint folder an-owner/x, and the Hub does not answer"):
        TrainedOn.of("an-owner/x")
    assert asked == [("an-owner/x", "config.json")]


def test_what_a_checkpoint_is(tmp_path):
    assert find_checkpoint("ORG/NAME") == "ORG/NAME"
    with pytest.raises(ValueError, match=r"no config\.json"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"mass_column": "labels"}, "'labels' does not hold numbers: choose `mass_column` from mass_labels, jet_mass"),
        ({"mass_column": "mass"}, "'mass' is not in the data"),
        ({"mass_column": "eta"}, "No training jet has a mass in `eta`; columns with values: mass_labels, jet_mass"),
        ({"mass_column": "mass_labels"}, "are 173 GeV, and a constant cannot be learned.*jet_mass"),
        (
            {"mass_column": "jet_mass", "mass_classes": ["none"], "classes": ["qcd"]},
            "nothing to learn: .* one class only",
        ),
    ],
)
def test_there_must_be_something_to_learn(targets, message, jets_dir, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(TINY))
    data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "model.json", data, settings(tmp_path / "run"), targets=TargetArguments(**targets))
    assert not (tmp_path / "run").exists()


def test_an_empty_split(jets_dir, tmp_path, monkeypatch):
    from e2evit.training import run

    def without_validation(*arguments, **options):
        dataset, schema = load_data(*arguments, **options)
        dataset["validation"] = dataset["validation"].select([])
        return dataset, schema

    monkeypatch.setattr(run, "load_data", without_validation)
    (tmp_path / "model.json").write_text(json.dumps(TINY))
    data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"The validation split is empty \(train 1\d\d, validation 0, test"):
        train(tmp_path / "model.json", data, settings(tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["logging_steps", "gradient_accumulation_steps", "per_device_batch_size", "num_train_epochs"]
)
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be 1 or more, got 0"):
        TrainArguments(**{name: 0})
    with pytest.raises(ValueError, match="`max_grad_norm` must be 0 or more, got -1"):
        TrainArguments(max_grad_norm=-1)


def test_gradients_are_clipped_or_not(jets_dir, tmp_path):
    """A norm of 0 means no clipping, not gradients of length 0."""
    (tmp_path / "model.json").write_text(json.dumps(TINY))
    data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"), train_fraction=0.3)
    targets = TargetArguments(mass_column="jet_mass")
    losses = {
        norm: train(
            tmp_path / "model.json", data, settings(tmp_path / str(norm), max_grad_norm=norm), targets=targets
        ).history.epochs[0]["loss"]
        for norm in (0.0, 1e9)
    }
    assert losses[0.0] == losses[1e9]


def test_an_architecture_of_ones_own(jets_dir, tmp_path):
    """The one of the site: by `--model_module` alone in a process of its own, and in Python."""
    (tmp_path / "own_model.py").write_text((ROOT / "docs/own_model.py").read_text())
    (tmp_path / "model.json").write_text(json.dumps({"model_type": "deep_set", "hidden_size": 4}))
    command = [ROOT / "scripts/train.py", "--model_config", "model.json", "--data_dir", jets_dir]
    command += ["--cache_dir", "cache", "--mass_column", "jet_mass", "--output_dir", "run", "--num_train_epochs", 1]
    command += ["--mixed_precision", "no", "--report_to", "none"]

    def call(*more):
        return run_python(*command, *more, cwd=tmp_path)

    refused = call()
    assert refused.returncode
    assert "'deep_set' is not registered: import the module that registers it" in refused.stderr
    refused = call("--model_module", "own_model", "--push_to_hub", "org/deep_set")
    assert refused.returncode
    assert "Only models of e2evit can be published: model.json holds a 'deep_set'" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = call("--model_module", "own_model")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "e2evit eval run " in done.stdout
    assert " --model_module own_model --results results/run.json" in done.stdout

    with pytest.raises(ValueError, match="is not registered: import the module"):
        TrainedOn.of(tmp_path / "run")
    sys.path.insert(0, str(tmp_path))
    import own_model

    sys.path.remove(str(tmp_path))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(model) is own_model.DeepSetForImageClassification
    assert TrainedOn.of(tmp_path / "run").label_names == ("qcd", "top")
    with pytest.raises(ValueError, match="layer_decay needs blocks, and DeepSetForImageClassification names none"):
        make_optimizer(model, 1e-3, 0.0, layer_decay=0.5)
    config = own_model.DeepSetConfig(hidden_size=4)
    data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
    targets = TargetArguments(mass_column="jet_mass")
    again = train(config, data, settings(tmp_path / "again", per_device_batch_size=64), targets=targets)
    for name, tensor in again.model.state_dict().items():  # the same training, to the last bit
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_model_without_trained_heads_predicts_nothing(tmp_path):
    folder = tmp_path / "pretrained"
    names = list(find_schema("simulated").channel_names)
    config = read_model_config(MODELS / "xcit_nano.json", channel_names=names, num_channels=8, image_size=[125, 125])
    AutoModelForMaskedImageModeling.from_config(config).save_pretrained(folder)
    E2EImageProcessor(names).save_pretrained(folder)
    for use in (
        lambda: checkpoint.load_model(folder),
        lambda: export([str(folder), "--output_dir", str(tmp_path / "onnx"), "--data_dir", "none"]),
        lambda: pipeline("e2e-jets", model=str(folder)),
    ):
        with pytest.raises(ValueError, match="pre-trained and predicts no classes: fine-tune it first"):
            use()


def test_weights_of_another_configuration_are_refused(tmp_path):
    config = read_model_config(MODELS / "xcit_nano.json", num_hidden_layers=1)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"do not fit its config\.json: .* is missing"):
        checkpoint.load_model(tmp_path)


def test_other_kinds_of_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a 'bert' of transformers, not a model of detector images"):
        TrainedOn.of(tmp_path)
