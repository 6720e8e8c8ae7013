"""Contrastive pre-training: the loss against a slow twin, the two views, the trainer, resuming, fine-tuning."""

import json
import math

import pytest
import torch
from killed import resume_until_done
from models import MODELS
from samples import row_table
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification

from e2evit import E2EImageProcessor
from e2evit.cli.parser import parse
from e2evit.cli.pretrain import main as pretrain
from e2evit.cli.train import GROUPS
from e2evit.data import find_schema
from e2evit.training import (
    AugmentationArguments,
    ContrastiveArguments,
    DataArguments,
    MaskArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    evaluate,
    train,
)
from e2evit.training.collate import E2ECollator
from e2evit.training.contrastive import ContrastiveCollator, ContrastiveModel, contrastive_loss

MODEL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIEWS = AugmentationArguments(tower_shift=1, energy_smearing=0.2, dead_crystals=0.2, layer_drop=0.2)
CONTRASTIVE = ContrastiveArguments(contrastive_temperature=0.2)


def slow_loss(first, second, temperature):
    """Equation 1 of the SimCLR paper, view by view."""
    views = [*first, *second]
    number, losses, found = len(first), [], 0
    for place, view in enumerate(views):
        partner = (place + number) % (2 * number)
        others = [
            torch.dot(view, other) / (view.norm() * other.norm()) / temperature
            for k, other in enumerate(views)
            if k != place
        ]
        similarity = torch.dot(view, views[partner]) / (view.norm() * views[partner].norm()) / temperature
        losses.append(-torch.log(similarity.exp() / torch.stack(others).exp().sum()))
        found += bool(similarity == torch.stack(others).max())
    return torch.stack(losses).mean(), found / len(views)


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_and_its_gradients_are_those_of_the_slow_twin(number, temperature):
    generator = torch.Generator().manual_seed(number)
    views = torch.randn(2, number, 5, generator=generator, dtype=torch.float64)
    fast, slow = (views.clone().requires_grad_() for _ in range(2))
    loss, accuracy = contrastive_loss(*fast, temperature)
    expected, found = slow_loss(*slow, temperature)
    # double precision; the fast one adds in another order
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    assert accuracy.item() == pytest.approx(found)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-8, atol=1e-12)


def test_the_loss_is_that_of_chance_for_equal_views_of_all_and_small_for_views_that_match():
    same = torch.ones(8, 4)
    assert contrastive_loss(same, same, 0.5).loss.item() == pytest.approx(math.log(15))
    apart = torch.eye(8)
    matched = contrastive_loss(apart, 3 * apart, 0.1)  # lengths do not matter
    assert matched.loss < 1e-3
    assert matched.retrieval_accuracy == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_computed_in_float32(dtype):
    views = F.normalize(torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), dim=2).to(dtype)
    exact = contrastive_loss(*views.double(), 0.01).loss
    with torch.autocast("cpu", dtype=dtype):
        loss = contrastive_loss(*views, 0.01).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)  # cosines over 0.01: 1e-7 becomes 1e-5


@pytest.mark.parametrize("packed", [False, True])
def test_the_views_of_a_jet_differ_and_depend_on_seed_epoch_and_jet_alone(packed):
    table, processor = row_table(6), E2EImageProcessor(find_schema("simulated").channel_names)
    collator = ContrastiveCollator(E2ECollator(processor, "jet_mass", VIEWS, packed=packed))
    collator.seed(3, 1)
    batch = collator(table)
    names = ("pixel_index", "pixel_value", "row_offsets") if packed else ("pixel_values",)
    assert set(batch) == {*names, *(f"other_{name}" for name in names)}

    def views(batch):
        """Images of both views."""
        if not packed:
            return [batch["pixel_values"], batch["other_pixel_values"]]
        found = []
        for prefix in ("", "other_"):
            index, value, offsets = (batch[f"{prefix}{name}"] for name in names)
            images = torch.zeros(len(offsets) - 1, 8 * 125 * 125)
            rows = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
            found.append(images.index_put((rows, index), value).view(-1, 8, 125, 125))
        return found

    first, second = views(batch)
    assert all(not torch.equal(one, other) for one, other in zip(first, second))
    again = views(collator(table.take([4, 1])))
    assert torch.equal(again[0], first[[4, 1]])
    assert torch.equal(again[1], second[[4, 1]])
    collator.seed(3, 2)
    assert not torch.equal(views(collator(table))[0], first)


@pytest.mark.parametrize("name", ["linearvit", "xcit", "hitvit", "vit"])
def test_every_part_of_a_backbone_and_the_head_learn(name):
    torch.manual_seed(0)
    backbone = AutoModelForImageClassification.from_config(
        MODELS[name](image_size=125, num_channels=8, num_aux_features=0)
    ).base_model
    model = ContrastiveModel(backbone, 0.2, projection_size=7)
    assert model.head[-1].out_features == 7
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    collator = ContrastiveCollator(E2ECollator(processor, "jet_mass", VIEWS, packed=model.reads_rows))
    outputs = model(**collator(row_table(4)))
    outputs["loss"].backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    depths = model.parameter_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert depths["head.0.weight"] == max(depths.values())


@pytest.fixture
def run(jets_dir, tmp_path):
    """A function that pre-trains, or fine-tunes, in this process."""

    def start(name, contrastive=CONTRASTIVE, model_type="xcit", checkpoint=None, augmentation=VIEWS, **overrides):
        path = tmp_path / f"{model_type}.json"
        path.write_text(json.dumps(MODEL | {"model_type": model_type}))
        settings = {"num_train_epochs": 2, "per_device_batch_size": 32, "mixed_precision": "no", "report_to": "none"}
        return train(
            None if checkpoint else path,
            DataArguments(
                data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"), train_fraction=0.5, validation_fraction=0.5
            ),
            TrainArguments(output_dir=str(tmp_path / name), **settings | overrides),
            model_name_or_path=checkpoint,
            targets=TargetArguments(mass_column="jet_mass"),
            augmentation=augmentation,
            contrastive=contrastive,
        )

    return start


@pytest.mark.parametrize("model_type", ["xcit", pytest.param("hitvit", marks=pytest.mark.slow)])
def test_resuming_after_any_step_gives_the_same_weights_and_a_backbone_to_fine_tune(
    run, monkeypatch, tmp_path, model_type
):
    settings = {"save_steps": 1, "overwrite_output_dir": True, "model_type": model_type, "learning_rate": 3e-3}
    whole = run("whole", **settings)
    with monkeypatch.context() as patch:
        parts = resume_until_done(lambda: run("parts", resume_from_checkpoint=True, **settings), patch)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parts.model.state_dict()[name]), name
    first, last = whole.history.epochs
    assert last["loss"] < first["loss"]
    assert {"retrieval_accuracy", "validation_retrieval_accuracy"} <= last.keys()
    pretrained = AutoModel.from_pretrained(tmp_path / "whole")  # a bare backbone, without the projection
    assert type(pretrained) is type(whole.model)
    assert not [name for name in pretrained.state_dict() if name.startswith("head")]
    with pytest.raises(ValueError, match="has been pre-trained and predicts no classes: fine-tune it first"):
        evaluate(tmp_path / "whole", DataArguments(data_dir="nowhere"))
    short = {"num_train_epochs": 1, "learning_rate": 0.0, "checkpoint": tmp_path / "whole"}
    tuned = run("tuned", None, augmentation=None, **short)
    for name, tensor in pretrained.state_dict().items():
        assert name.endswith(("running_mean", "running_var", "num_batches_tracked")) or torch.equal(
            tensor, tuned.model.base_model.state_dict()[name]
        ), name
    assert tuned.model.config.id2label == {0: "qcd", 1: "top"}
    assert tuned.model.config.mass_mean > 20
    assert type(tuned.model) is type(AutoModelForImageClassification.from_pretrained(tmp_path / "tuned"))
    further = run("further", **short | {"learning_rate": 1e-3})
    assert type(further.model) is type(whole.model)


def test_command(jets_dir, tmp_path, capsys):
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"model_type": "xcit"}))
    words = ["--model_config", tmp_path / "model.json", "--data_dir", jets_dir, "--cache_dir", tmp_path / "cache"]
    words += ["--output_dir", tmp_path / "run", "--num_train_epochs", 1, "--report_to", "none"]
    pretrain([str(word) for word in (*words, "--contrastive_temperature", 0.3, "--dead_crystals", 0.3)])
    assert "retrieval accuracy" in capsys.readouterr().out
    recipe = (tmp_path / "run/recipe.yaml").read_text()
    assert "contrastive_temperature: 0.3" in recipe
    assert "mask_ratio" not in recipe
    groups = parse("", "", [str(tmp_path / "run/recipe.yaml")], *GROUPS, MaskArguments, ContrastiveArguments)
    assert Recipe(*groups).contrastive == ContrastiveArguments(0.3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveArguments(contrastive_temperature=0), "must be above 0 and finite, got 0"),
        (
            lambda: ContrastiveArguments(projection_size=3),
            "is for contrastive pre-training: set `contrastive_temperature`",
        ),
        (lambda: ContrastiveArguments(0.1, projection_size=0), "`projection_size` must be 1 or more, got 0"),
        (lambda: Recipe(contrastive=CONTRASTIVE), r"views that differ in more than `flips`: choose e\.g\."),
        (
            lambda: Recipe(mask=MaskArguments(0.5), contrastive=CONTRASTIVE, augmentation=VIEWS),
            "hides nothing: leave out mask_ratio",
        ),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_recipe_without_temperature_is_of_masked_images():
    assert Recipe(mask=MaskArguments(), contrastive=ContrastiveArguments()).contrastive is None
    chosen = Recipe(mask=MaskArguments(), contrastive=CONTRASTIVE, augmentation=VIEWS)
    assert chosen.mask is None
    assert chosen.is_pretraining


def test_models_of_candidates_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="needs images, and this model reads candidates"):
        run("run", model_type="particle_transformer")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
