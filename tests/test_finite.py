"""Settings, labels, predictions and losses are finite, or an error says which is not."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from e2evit import XCiTConfig, load_e2e
from e2evit.data import find_schema
from e2evit.metrics.mass import coverage_temperature
from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    MaskArguments,
    MassWeightArguments,
    TrainArguments,
    make_loader,
    new_model,
    pieces,
    predict,
)
from e2evit.training.collate import E2ECollator
from e2evit.training.guards import check_targets

MODEL = XCiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


@pytest.mark.parametrize("label", [2, -1])
def test_labels_are_numbers_of_classes(jets_dir, tmp_path, label):
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    table = dataset["validation"].with_format("arrow")[:]
    place = table.column_names.index("labels")
    wrong = pa.array([label] + [0] * (len(table) - 1), pa.int64())
    dataset["validation"] = datasets.Dataset(table.set_column(place, "labels", wrong))
    with pytest.raises(ValueError, match=f"labels of the validation split go from .*{label}.* names 2 classes"):
        check_targets(dataset, "jet_mass", False)


@pytest.mark.parametrize(
    ("labels", "masses", "said"),
    [
        ([0, 1], [172.0, 173.0, 172.4], "spread"),
        ([0, 1], [60.0, 90.0, 172.0], ""),
        ([1], [60.0, 90.0, 172.0], "class"),
        ([1], [172.0, 173.0, 172.4], "class spread"),
    ],
)
def test_targets_that_teach_little_are_reported(caplog, labels, masses, said):
    features = datasets.Features(labels=datasets.ClassLabel(names=["qcd", "top"]), jet_mass=datasets.Value("float32"))
    rows = {"labels": np.resize(labels, 30), "jet_mass": np.resize(masses, 30)}
    dataset = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features))
    check_targets(dataset, "jet_mass", False)
    assert ("all training jets are of one class" in caplog.text.lower()) == ("class" in said)
    assert ("predicting the same mass for every jet" in caplog.text) == ("spread" in said)
    caplog.clear()
    check_targets(dataset, "jet_mass", False, with_labels=False)
    assert "of one class" not in caplog.text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((TrainArguments, name) for name in ("learning_rate", "weight_decay", "max_grad_norm", "layer_decay")),
        *((TrainArguments, name) for name in ("ema_decay", "warmup_ratio")),
        *((DataArguments, name) for name in ("train_fraction", "validation_fraction", "test_fraction")),
        *((MassWeightArguments, name) for name in ("flat_max_weight", "flat_bins")),
        *((AugmentationArguments, name) for name in ("tower_shift", "energy_smearing", "dead_towers", "noise_hits")),
        *((AugmentationArguments, name) for name in ("dead_crystals", "layer_drop")),
        (MaskArguments, "mask_ratio"),
    ],
)
def test_settings_are_finite(kind, name, number):
    with pytest.raises(ValueError, match=name):
        kind(**{name: number})


@pytest.mark.parametrize(
    ("name", "number"), [("head.classifier.bias", float("nan")), ("head.mass_output.bias", float("inf"))]
)
def test_an_output_that_is_not_finite_is_an_error(jets_dir, tmp_path, monkeypatch, name, number):
    """The first row is named, also where predictions are made piece by piece."""
    dataset = load_e2e("simulated", jets_dir, cache_dir=tmp_path / "cache")
    model, processor = new_model(MODEL, find_schema("simulated", jets_dir), dataset["train"], "jet_mass")
    accelerator, collator, rows = Accelerator(cpu=True), E2ECollator(processor, "jet_mass"), dataset["train"]
    rows = rows.select(range(12))
    output = {"head.classifier.bias": "logits", "head.mass_output.bias": "mass_preds"}[name]
    broken, seen = torch.full_like(model.state_dict()[name], number), []

    def break_later(module, inputs):
        seen.append(len(inputs[0]))
        if sum(seen) > 8:
            model.state_dict()[name].copy_(broken)

    monkeypatch.setattr(pieces, "PIECE", 8)
    for predicted in (
        lambda: predict(accelerator, model, make_loader(rows, collator, 4)),
        lambda: pieces.predict_in_pieces(accelerator, model, rows, collator, 4, tmp_path / "pieces"),
    ):
        intact, hook = model.state_dict()[name].clone(), model.head.register_forward_pre_hook(break_later)
        with pytest.raises(FloatingPointError, match=f"Row 8: the model's `{output}` is .*{number}"):
            predicted()
        hook.remove()
        model.state_dict()[name].copy_(intact)
        seen.clear()


def test_an_uncertainty_that_cannot_be_calibrated():
    """Exact predictions, an uncertainty of zero, or no mass: the factor stays a positive number."""
    known = np.array([80.0, 100.0]), np.array([80.0, 90.0])
    for scale, expected in (([5.0, 5.0], 2 * 0.6827), ([0.0, 5.0], 2.0), ([5.0, 0.0], 1.0), ([0.0, 0.0], 1.0)):
        assert coverage_temperature(*known, np.array(scale)) == pytest.approx(expected)
    assert coverage_temperature(*np.full((3, 2), np.nan)) == 1
