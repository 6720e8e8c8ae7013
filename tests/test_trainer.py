"""transformers' `Trainer`, its arguments left at their defaults."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from e2evit.modeling import modeling_e2e
from e2evit.modeling.modeling_trainer import INPUT_COLUMNS
from models import MODELS, batch, make
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_pt_utils import LabelSmoother

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.training.collate import E2ECollator

TARGETS = {"labels": ["labels"], "mass_labels": ["mass_labels"], "both": ["labels", "mass_labels"]}


def arguments(folder, **fields) -> TrainingArguments:
    fixed = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}
    return TrainingArguments(str(folder), **fixed | fields)


def accuracy(prediction):
    logits, masses = prediction.predictions
    assert masses.shape == prediction.label_ids.shape
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


def losses_of(trainer, monkeypatch) -> list:
    """The losses that the model gives in training, collected while it runs."""
    kept, plain = [], modeling_e2e.e2e_loss

    def keep(*inputs):
        kept.append(plain(*inputs))
        return kept[-1]

    monkeypatch.setattr(modeling_e2e, "e2e_loss", keep)
    trainer.train()
    return kept


@pytest.mark.parametrize("mass_column", ["mass_labels", "m_sd"])
def test_rows_keep_their_columns(mass_column, jets_dir, tmp_path, monkeypatch):
    rows = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    collator = E2ECollator(E2EImageProcessor(find_schema("simulated").channel_names), mass_column)
    model = make("xcit", image_size=125, num_aux_features=0, num_labels=5)
    trainer = Trainer(model, arguments(tmp_path), collator, rows, rows.select(range(8)), compute_metrics=accuracy)
    if mass_column != "mass_labels":
        with pytest.raises(ValueError, match=r"Rows need m_sd, got .*`remove_unused_columns=False`"):
            trainer.train()
        return
    losses = losses_of(trainer, monkeypatch)
    assert all(mass_loss > 0 for _, _, mass_loss in losses)
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    assert 0 <= metrics["eval_accuracy"] <= 1


@pytest.mark.parametrize("names", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_each_kind_of_target(kind, names, tmp_path, monkeypatch):
    inputs = {key: value for key, value in batch(8).items() if key in (*names, "pixel_values", "aux_values")}
    rows = kind([{key: value[number].tolist() for key, value in inputs.items()} for number in range(8)])
    trainer = Trainer(make("xcit"), arguments(tmp_path), None, rows, rows, compute_metrics=accuracy)
    losses = losses_of(trainer, monkeypatch)
    assert all((classification is not None) == ("labels" in names) for _, classification, _ in losses)
    assert all((mass is not None) == ("mass_labels" in names) for _, _, mass in losses)
    assert ("eval_loss" in trainer.evaluate()) == ("eval_accuracy" in trainer.evaluate()) == ("labels" in names)
    predictions = trainer.predict(rows)
    logits, masses = predictions.predictions
    assert (logits.shape, masses.shape) == ((8, 2), (8,))


@pytest.mark.parametrize("names", [["labels"], ["labels", "mass_labels"]], ids=["labels", "both"])
@pytest.mark.parametrize("name", MODELS)
def test_smoothed_labels_keep_the_mass(name, names, tmp_path):
    """`Trainer` takes the labels away for a loss of its own."""
    inputs = {key: value for key, value in batch().items() if key in (*names, "pixel_values", "aux_values")}
    model, expected = make(name), make(name, label_smoothing=0.1)
    smoothed = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.1))
    loss = smoothed.compute_loss(model.train(), dict(inputs))
    torch.testing.assert_close(loss, expected.train()(**inputs).loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert model.head.mass_output.weight.grad.any() == ("mass_labels" in names)


def test_smoothed_labels_of_other_models():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    assert make("xcit").accepts_loss_kwargs is False  # what a `Trainer` reads
    loss = LabelSmoother(0.1)(ImageClassifierOutput(loss=torch.tensor(5.0), logits=logits), labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("target", ["labels", "mass_labels"])
@pytest.mark.parametrize("name", MODELS)
def test_one_target_gives_every_parameter_a_gradient(name, target):
    """Default DDP fails otherwise; the other head's are zero."""
    model, inputs = make(name).train(), batch()
    del inputs[target]
    model(**inputs).loss.backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    idle = model.head.classifier if target == "labels" else model.head.mass_output
    assert not idle.weight.grad.any()


def test_the_collator_reads_what_a_trainer_keeps():
    processor = E2EImageProcessor(["ecal"], aux_names=["log_pt", "ieta", "iphi"], aux_mean=[0] * 3, aux_std=[1] * 3)
    assert set(E2ECollator(processor).columns) <= {"row", "labels", "mass_labels", *INPUT_COLUMNS}
    names = make("xcit").forward.__signature__.parameters
    assert {"labels", "mass_labels", "mass_weights", "aux_values", *INPUT_COLUMNS} <= set(names)
    assert torch.export.export(make("xcit"), (), batch(2) | {"labels": None})
