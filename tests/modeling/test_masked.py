"""Masked image modelling: hidden pixels stay hidden, and empty pixels do not dominate the loss."""

import pytest
import torch
from e2evit.modeling.modeling_masked import masked_image_loss, pixel_mask
from models import MODELS, batch
from transformers import AutoModelForImageClassification, AutoModelForMaskedImageModeling

both = pytest.mark.parametrize("name", ["linearvit", "xcit"])


def make(name, **overrides):
    torch.manual_seed(0)
    return AutoModelForMaskedImageModeling.from_config(MODELS[name](**overrides)).eval()


def mask(model, pixel_values, share=0.5):
    height, width = pixel_values.shape[-2:]
    stem = model.stem if hasattr(model.stem, "num_tokens") else model.stem.proj
    return torch.rand(len(pixel_values), stem.num_tokens(height) * stem.num_tokens(width)) < share


@both
@pytest.mark.parametrize("size", [(50, 50), (37, 64)])
def test_shapes_and_gradients(name, size):
    model, pixel_values = make(name).train(), batch(2, size)["pixel_values"]
    outputs = model(pixel_values, mask(model, pixel_values), output_hidden_states=True)
    assert outputs.reconstruction.shape == outputs.occupancy_logits.shape == pixel_values.shape
    torch.testing.assert_close(outputs.loss, outputs.occupancy_loss + outputs.value_loss)
    outputs.loss.backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


@both
def test_hidden_pixels_do_not_reach_the_output(name):
    model, pixel_values = make(name), batch(2)["pixel_values"]
    hidden = mask(model, pixel_values)
    pixels = pixel_mask(model.stem, pixel_values, hidden)
    changed = torch.where(pixels, torch.randn_like(pixel_values), pixel_values)
    with torch.no_grad():
        one, other = model(pixel_values, hidden), model(changed, hidden)
        assert torch.equal(one.reconstruction, other.reconstruction)
        seen = torch.where(pixels, pixel_values, torch.randn_like(pixel_values))
        assert not torch.equal(one.reconstruction, model(seen, hidden).reconstruction)


def test_loss_by_hand():
    pixel_values = torch.tensor([[[[0.0, 2.0, 3.0]]]])
    logits, reconstruction = torch.tensor([[[[0.0, 0.0, 9.0]]]]), torch.tensor([[[[7.0, 4.0, 0.0]]]])
    hidden = torch.tensor([[[[True, True, False]]]])
    occupancy, value = masked_image_loss(pixel_values, reconstruction, logits, hidden)
    # two masked pixels at even odds; the occupied one's value is off by 2, from which smooth L1 subtracts a half
    assert occupancy.item() == pytest.approx(0.6931472)
    assert value.item() == pytest.approx(1.5)
    nothing = masked_image_loss(pixel_values, reconstruction, logits, torch.zeros_like(hidden))
    assert [term.item() for term in nothing] == [0, 0]


@both
def test_weights_carry_over_to_the_classifier(name, tmp_path):
    model = make(name, num_aux_features=0)
    model.save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixel_values = batch(2)["pixel_values"]
    with torch.no_grad():
        expected = model.base_model(pixel_values).last_hidden_state
        assert torch.equal(classifier.base_model(pixel_values).last_hidden_state, expected)


@both
def test_bad_masks(name):
    model, pixel_values = make(name), batch(2)["pixel_values"]
    with pytest.raises(ValueError, match=r"bool_masked_pos.*\(2, 25\).*\(2, 24\)"):
        model(pixel_values, torch.zeros(2, 24, dtype=torch.bool))
    plain = AutoModelForImageClassification.from_config(MODELS[name](num_aux_features=0))
    with pytest.raises(ValueError, match="ForMaskedImageModeling"):
        plain.base_model(pixel_values, torch.zeros(2, 25, dtype=torch.bool))
