"""Scalars that the heads read besides the image: learned, saved, measured, and refused where there are none."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from samples import row_table
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from e2evit import load_e2e
from e2evit.data.statistics import moments_of_auxiliary
from e2evit.hub.export import ExportModule
from e2evit.training import (
    AugmentationArguments,
    ContrastiveArguments,
    DataArguments,
    DecorrelationArguments,
    MaskArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    evaluate,
    train,
)

NUMBER = 160
MODEL = {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def jets(tmp_path_factory):
    """A folder of jets of a few pixels, whose mass is a fifth of their pT, which these do not show."""
    folder, rng = tmp_path_factory.mktemp("jets"), np.random.default_rng(0)
    pt = rng.uniform(400, 1000, NUMBER).astype(np.float32)
    pixels = {"pixel_index": [np.sort(rng.choice(8 * 125 * 125, 9, replace=False)) for _ in range(NUMBER)]}
    pixels["pixel_value"] = [*rng.exponential(2.0, (NUMBER, 9)).astype(np.float32)]
    pq.write_table(row_table(NUMBER, pt=pt, jet_mass=pt / 5, **pixels), folder / "part.parquet")
    return folder


@pytest.fixture(scope="module")
def run(jets, tmp_path_factory):
    """A function that trains in this process."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name, checkpoint=None, model=MODEL, data_dir=jets, event_jets=None, **more):
        (folder / f"{model['model_type']}.json").write_text(json.dumps(model))
        settings = {"num_train_epochs": 10, "per_device_batch_size": 16, "learning_rate": 1e-2}
        settings |= {"mixed_precision": "no", "report_to": "none", "validation_interval": 10}
        settings |= more.pop("settings", {})
        return train(
            None if checkpoint else folder / f"{model['model_type']}.json",
            DataArguments(data_dir=str(data_dir), cache_dir=str(folder / "cache"), event_jets=event_jets),
            TrainArguments(output_dir=str(folder / name), **settings),
            model_name_or_path=checkpoint,
            targets=TargetArguments(mass_column="jet_mass"),
            **more,
        )

    return start


@pytest.fixture(scope="module")
def with_pt(run):
    return run("with_pt", aux_names=["log_pt"])


def test_training_uses_them(run, with_pt, jets):
    rows = load_e2e("simulated", jets, split="test")
    errors = {}
    for name, trained in {"with": with_pt, "without": run("without")}.items():
        predictions = pipeline("e2e-jets", model=str(trained.output_dir))(rows, batch_size=16)
        errors[name] = np.abs(np.array(rows["jet_mass"]) - [one["mass"] for one in predictions]).mean()
    constant = np.abs(np.array(rows["jet_mass"]) - np.mean(rows["jet_mass"])).mean()
    assert errors["with"] < 0.5 * constant
    assert errors["without"] > 0.8 * constant


def test_a_checkpoint_says_what_it_reads(with_pt, jets):
    processor = AutoImageProcessor.from_pretrained(with_pt.output_dir)
    train_split = load_e2e("simulated", jets, split="train")
    logarithms = np.log(train_split["pt"])
    assert processor.aux_names == ["log_pt"]
    assert processor.aux_mean == pytest.approx([np.mean(logarithms)])
    assert processor.aux_std == pytest.approx([np.std(logarithms)])
    assert evaluate(with_pt, DataArguments(data_dir=str(jets))).aux_names == ["log_pt"]
    model = AutoModelForImageClassification.from_pretrained(with_pt.output_dir)
    assert model.config.num_aux_features == 1
    with pytest.raises(ValueError, match="reads 1 scalars besides the image"):
        ExportModule(model, processor)


def test_pipelines_need_rows_that_have_them(with_pt, jets):
    rows = load_e2e("simulated", jets, split="test")
    predict = pipeline("e2e-jets", model=str(with_pt.output_dir))
    with pytest.raises(ValueError, match=r"this model's `aux_values` need `pt`, got nan"):
        predict({"pixel_index": [4], "pixel_value": [1.0]})
    with pytest.raises(ValueError, match=r"needs `aux_values` of shape \(1, 1\)"):
        predict(np.zeros((8, 125, 125), np.float32))
    features = pipeline("e2e-features", model=str(with_pt.output_dir))(rows)
    assert next(iter(features)).shape == (16,)


def test_fine_tuning_keeps_them_and_new_heads_may_read_others(run, with_pt):
    short = {"settings": {"num_train_epochs": 1, "validation_interval": 1}}
    tuned = run("tuned", with_pt.output_dir, **short)
    assert tuned.processor.aux_names == ["log_pt"]
    with pytest.raises(ValueError, match="with_pt reads log_pt besides the image, and its heads cannot change"):
        run("other", with_pt.output_dir, aux_names=["pt"])
    masked = run("masked", with_pt.output_dir, mask=MaskArguments(), **short)  # which learns from images alone
    assert (masked.processor.aux_names, masked.model.config.num_aux_features) == ([], 0)
    tuned = run("tuned_masked", masked.output_dir, aux_names=["log_pt", "pt"], **short)
    assert tuned.model.config.num_aux_features == 2
    with pytest.raises(ValueError, match="tuned_masked reads log_pt, pt besides the image"):
        run("more", tuned.output_dir, aux_names=["log_pt"])


def test_jets_without_them_are_refused_before_the_work(run, with_pt, tmp_path):
    pt = [None if row % 10 == 0 else 500.0 + row for row in range(60)]
    pq.write_table(row_table(60, pt=pt, event_id=[f"other-{row}" for row in range(60)]), tmp_path / "some.parquet")
    with pytest.raises(ValueError, match=r"reads log_pt, and \d of \d+ jets of the train split have no `pt` above 0"):
        run("few", data_dir=tmp_path, aux_names=["log_pt"])
    with pytest.raises(ValueError, match=r"reads log_pt, and \d+ of 60 jets of the all split have no `pt` above 0"):
        evaluate(with_pt, DataArguments(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache")), split="all")
    with pytest.raises(ValueError, match="`aux_names` has pt twice"):
        run("twice", aux_names=["pt", "pt"])


def test_moments():
    rows = Dataset.from_dict({"pt": [100.0, 200.0, None, -1.0], "ieta": [3] * 4})
    means, widths = moments_of_auxiliary(rows, ["log_pt", "pt", "ieta"])
    assert means == pytest.approx([np.log([100, 200]).mean(), np.mean([100, 200, -1]), 3.0])
    assert widths == pytest.approx([np.log([100, 200]).std(), np.std([100, 200, -1]), 1.0])  # 1 for a constant
    assert moments_of_auxiliary(Dataset.from_dict({"pt": [500.0] * 1000}), ["log_pt"])[1] == [1.0]


@pytest.mark.parametrize(
    "made",
    [
        {"mask": MaskArguments()},
        {"contrastive": ContrastiveArguments(0.1)},
    ],
)
def test_pretraining_refuses_them(made):
    views = AugmentationArguments(dead_crystals=0.1)
    with pytest.raises(ValueError, match=r"learns from images alone: leave out aux_names\."):
        Recipe(model=ModelArguments(aux_names=["log_pt"]), augmentation=views, **made)
    with pytest.raises(ValueError, match=r"leave out decorrelation_weight\."):
        Recipe(decorrelation=DecorrelationArguments(1.0), augmentation=views, **made)


def test_a_mirrored_image_would_contradict_its_position(run):
    with pytest.raises(ValueError, match="`flips` mirror the image, but not ieta, which the model reads"):
        run("mirrored", aux_names=["pt", "ieta"])


def test_unknown_names_and_inputs_that_have_none(run):
    with pytest.raises(ValueError, match=r"`aux_names` are log_pt, pt, ieta, iphi; got mass\."):
        run("unknown", aux_names=["mass"])
    with pytest.raises(ValueError, match="leave them out for a model that reads candidates"):
        run("candidates", model={"model_type": "particle_flow_network"}, aux_names=["pt"])
    with pytest.raises(ValueError, match="leave them out for `event_jets: queries`"):
        run("queries", model=MODEL | {"model_type": "hitvit"}, event_jets="queries", aux_names=["pt"])
