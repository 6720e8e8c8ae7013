"""Pre-training of HitViT through the trainer: masks, truth columns, resuming, fine-tuning."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from killed import resume_until_done
from models import MODELS
from samples import row_table
from transformers import AutoModelForImageClassification, AutoModelForMaskedImageModeling

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.data.statistics import column_moments
from e2evit.training import DataArguments, MaskArguments, TargetArguments, TrainArguments, train
from e2evit.training.collate import E2ECollator
from e2evit.training.tasks import MaskedCollator

MODEL = {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRUTH = ["jet_mass", "pt"]


@pytest.fixture
def run(jets_dir, tmp_path):
    """A function that pre-trains in this process."""
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL))

    def start(name, mask=None, model_config=path, checkpoint=None, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 32, "mixed_precision": "no", "report_to": "none"}
        return train(
            model_config,
            DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache")),
            TrainArguments(output_dir=str(tmp_path / name), **settings | overrides),
            model_name_or_path=checkpoint,
            targets=TargetArguments(mass_column="jet_mass"),
            mask=mask,
        )

    return start


def test_resuming_after_any_step_gives_the_same_weights_and_a_backbone_to_fine_tune(run, monkeypatch, tmp_path):
    mask = MaskArguments(truth_columns=TRUTH)
    settings = {"save_steps": 1, "overwrite_output_dir": True}
    whole = run("whole", mask, **settings)
    parts = resume_until_done(lambda: run("parts", mask, resume_from_checkpoint=True, **settings), monkeypatch)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parts.model.state_dict()[name]), name
    first, last = whole.history.epochs
    assert last["loss"] < first["loss"]
    assert {"truth_loss", "validation_truth_loss"} <= last.keys()
    pretrained = AutoModelForMaskedImageModeling.from_pretrained(tmp_path / "whole")
    assert pretrained.config.truth_columns == TRUTH
    tuned = run("tuned", model_config=None, checkpoint=tmp_path / "whole", num_train_epochs=1, learning_rate=0.0)
    for name, tensor in pretrained.base_model.state_dict().items():
        assert torch.equal(tensor, tuned.model.base_model.state_dict()[name]), name
    assert type(tuned.model) is type(AutoModelForImageClassification.from_pretrained(tmp_path / "tuned"))
    with pytest.raises(ValueError, match=r"whole predicts jet_mass, pt, not pt\."):
        run("more", MaskArguments(truth_columns=["pt"]), model_config=None, checkpoint=tmp_path / "whole")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["tau5"], r"no column tau5 with numbers; those there are: mass_labels, jet_mass, pt"),
        (["pixel_value"], "no column pixel_value with numbers"),
        (["event_id"], "no column event_id with numbers"),
        (["num_pileup"], "nothing to learn from num_pileup"),
    ],
)
def test_columns_that_cannot_be_learned(run, columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run("run", MaskArguments(truth_columns=columns))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_other_models_learn_from_pixels_alone(run, tmp_path):
    (tmp_path / "xcit.json").write_text(json.dumps(MODEL | {"model_type": "xcit"}))
    with pytest.raises(ValueError, match="`truth_columns`: a 'xcit' learns from hidden pixels alone"):
        run("run", MaskArguments(truth_columns=TRUTH), tmp_path / "xcit.json")


def test_moments_leave_out_missing_numbers(jets_dir, tmp_path):
    rows = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path)
    masses = np.array(rows["jet_mass"])
    means, widths = column_moments(rows, TRUTH)
    assert (means[0], widths[0]) == pytest.approx((masses.mean(), masses.std()))
    some = rows.select(range(20)).to_dict()
    some["jet_mass"][3] = None
    (mean,), _ = column_moments(type(rows).from_dict(some, features=rows.features), ["jet_mass"])
    assert mean == pytest.approx(np.delete(masses[:20], 3).mean())


@pytest.mark.parametrize("as_lists", [False, True])
def test_the_collator_draws_the_same_masks_for_both_kinds_of_images(as_lists):
    table = row_table(6).append_column("row", pa.array(range(6)))
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    dense, collator = (
        MaskedCollator(E2ECollator(processor, "jet_mass", packed=packed, truth_columns=TRUTH), (25, 25), 0.75)
        for packed in (False, as_lists)
    )
    dense.seed(3, 1)
    collator.seed(3, 1)
    batch = collator(table)
    mask = batch["bool_masked_pos"]
    assert mask.sum(1).tolist() == [round(0.75 * 625)] * 6
    assert torch.equal(mask, dense(table)["bool_masked_pos"])
    assert batch["truth_labels"].shape == (6, 2)
    np.testing.assert_array_equal(batch["truth_labels"][:, 1], table["pt"].to_numpy())
    model = AutoModelForMaskedImageModeling.from_config(
        MODELS["hitvit"](image_size=125, truth_columns=TRUTH, truth_mean=[90.0, 600.0], truth_width=[40.0, 200.0])
    )
    batch.pop("rows")
    assert model(**batch).loss.isfinite()
    collator.seed(3, 2)
    assert not torch.equal(mask, collator(table)["bool_masked_pos"])
