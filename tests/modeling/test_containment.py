"""The estimate of containment: its own head and loss in every family, and nothing where it is off."""

import pytest
import torch
from e2evit.modeling.modeling_head import containment_loss
from models import batch, make
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from e2evit import HitViTConfig, HitViTForJetsInEvents

FAMILIES = ["linearvit", "xcit", "hitvit", "hitvit_patches", "vit", "resnet_study"]
every_family = pytest.mark.parametrize("name", FAMILIES)
LABELS = torch.tensor([1.0, 0.0, float("nan")])


@every_family
def test_the_loss_of_known_targets(name):
    model = make(name, containment=True).train()
    outputs = model(**batch(), containment_labels=LABELS)
    assert outputs.containment_logits.shape == (3,)
    expected = F.binary_cross_entropy_with_logits(outputs.containment_logits[:2], LABELS[:2])
    torch.testing.assert_close(outputs.containment_loss, expected)
    torch.testing.assert_close(
        outputs.loss, outputs.classification_loss + outputs.mass_loss + outputs.containment_loss
    )
    outputs.loss.backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert model.head.containment.weight.grad.any()


@every_family
def test_off_is_as_before(name):
    """No parameter and no output; and a target is refused rather than ignored."""
    model = make(name)
    assert not [key for key in model.state_dict() if "containment" in key]
    assert not [key for key in model(**batch()) if "containment" in key]
    with pytest.raises(ValueError, match="targets of a model with `containment: true`"):
        model(**batch(), containment_labels=LABELS)


def test_each_target_alone_gives_every_parameter_a_gradient():
    """Default DDP fails otherwise."""
    targets = {"labels", "mass_labels", "containment_labels"}
    for kept in targets:
        model, inputs = make("xcit", containment=True).train(), batch() | {"containment_labels": LABELS}
        model(**{key: value for key, value in inputs.items() if key not in targets - {kept}}).loss.backward()
        assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
        assert model.head.containment.weight.grad.any() == (kept == "containment_labels")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_targets_of_any_type_and_shape(dtype):
    logits, labels = torch.tensor([0.3, -2.0]), torch.tensor([1, 0])
    expected = F.binary_cross_entropy_with_logits(logits, labels.float())
    for shaped in (labels, labels.unsqueeze(1)):
        torch.testing.assert_close(containment_loss(logits, shaped.to(dtype)), expected)
    with pytest.raises(ValueError, match=r"`containment_labels` of shape \(2,\), one for each image, got \(3,\)"):
        containment_loss(logits, torch.ones(3).to(dtype))


def test_no_known_target():
    """A batch of QCD jets alone: no loss, no NaN in the gradient."""
    logits = torch.zeros(3, requires_grad=True)
    loss = containment_loss(logits, torch.full((3,), torch.nan))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    assert containment_loss(logits, None) is None


def test_a_checkpoint_keeps_it(tmp_path):
    model = make("xcit", containment=True)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    inputs = batch()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).containment_logits, model(**inputs).containment_logits)
    make("xcit").save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"lacks 2 of its weights, such as head\.containment"):
        type(model).from_pretrained(tmp_path / "plain", containment=True)


def test_jets_in_events():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pixel_hidden_size": 8}
    model = HitViTForJetsInEvents(HitViTConfig(**sizes, image_size=(50, 60), containment=True, periodic_columns=True))
    images = torch.rand(2, 8, 50, 60) * (torch.rand(2, 8, 50, 60) < 0.05)
    jets = torch.tensor([[[500.0, 20, 30], [400, 10, 5]], [[600, 25, 40], [0, 0, 0]]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the last one is no jet
    outputs = model(images, jets, containment_labels=labels)
    assert outputs.containment_logits.shape == (2, 2)
    is_jet = jets[..., 0] > 0
    expected = F.binary_cross_entropy_with_logits(outputs.containment_logits[is_jet], labels[is_jet])
    torch.testing.assert_close(outputs.loss, expected)
    assert torch.equal(model(images, jets, containment_labels=labels.bool()).loss, outputs.loss)
    with pytest.raises(ValueError, match=r"Expected `containment_labels` of shape \(2, 2\), for each event and jet"):
        model(images, jets, containment_labels=labels[0])


def test_transformers_trainer(tmp_path):
    """It evaluates rows without this target, and its smoothing of labels keeps the loss."""
    inputs = batch() | {"containment_labels": LABELS}
    rows = [{key: value[number] for key, value in inputs.items()} for number in range(3)]
    options = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
    model = make("xcit", containment=True)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), **options), None, rows, rows)
    trainer.train()
    without = [{key: value for key, value in row.items() if key != "containment_labels"} for row in rows]
    assert {"eval_loss"} <= trainer.evaluate().keys() & trainer.evaluate(without).keys()
    smoothed = Trainer(model, TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, **options))
    loss = smoothed.compute_loss(model.train(), dict(inputs))
    expected = make("xcit", containment=True, label_smoothing=0.1).train()
    expected.load_state_dict(model.state_dict())
    torch.testing.assert_close(loss, expected(**inputs).loss)
    model.zero_grad()
    smoothed.compute_loss(model, {key: value for key, value in inputs.items() if "_labels" not in key}).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
