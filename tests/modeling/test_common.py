"""Properties of every model in tests/models.py."""

import json
from functools import partial

import pytest
import torch
from models import BACKBONES, MODELS, batch, make
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from e2evit import BaselineConfig, LinearViTConfig, LinearViTForImageClassification, XCiTConfig

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_outputs(name):
    outputs = make(name)(**batch(), output_hidden_states=True)
    assert outputs.logits.shape == (3, 2)
    assert outputs.mass_preds.shape == (3,)
    assert outputs.loss.isfinite()
    assert len(outputs.hidden_states) >= 2
    torch.testing.assert_close(outputs.loss, outputs.classification_loss + outputs.mass_loss)
    as_tuple = make(name)(**batch(), return_dict=False)
    assert torch.equal(as_tuple[1], outputs.logits)


@every_model
def test_every_parameter_gets_a_gradient(name):
    model = make(name).train()
    model(**batch()).loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without


@every_model
def test_a_sample_does_not_depend_on_its_batch(name):
    model, inputs = make(name), batch()
    with torch.no_grad():
        together, alone = model(**inputs), model(**{key: value[1:2] for key, value in inputs.items()})
    # matrix products of other sizes are summed in another order
    torch.testing.assert_close(together.logits[1:2], alone.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.mass_preds[1:2], alone.mass_preds, rtol=1e-5, atol=1e-4)


@every_model
def test_missing_targets_drop_out_of_the_loss(name):
    model, inputs = make(name, mass_loss="huber"), batch()
    full = model(**inputs)
    inputs["labels"], inputs["mass_labels"] = inputs["labels"].clone(), inputs["mass_labels"].clone()
    inputs["labels"][0], inputs["mass_labels"][1:] = -100, float("nan")
    partial = model(**inputs)
    expected = torch.nn.functional.cross_entropy(full.logits[1:], inputs["labels"][1:])
    torch.testing.assert_close(partial.classification_loss, expected)
    error = (full.mass_preds[0] - 80.0) / 40.0
    torch.testing.assert_close(partial.mass_loss, torch.nn.functional.smooth_l1_loss(error, error * 0))
    inputs["labels"][:], inputs["mass_labels"][:] = -100, float("nan")
    nothing = model(**inputs)
    nothing.loss.backward()
    assert nothing.loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_model
def test_mass_is_in_gev(name):
    """With zero weights, the prediction is the mean mass of the training jets."""
    model = make(name)
    torch.nn.init.zeros_(model.head.mass_output.weight)
    torch.nn.init.zeros_(model.head.mass_output.bias)
    assert torch.equal(model(**batch()).mass_preds, torch.full((3,), 120.0))


@every_model
def test_aux_values_enter_both_heads_and_are_checked(name):
    model, inputs = make(name), batch()
    changed = inputs | {"aux_values": inputs["aux_values"] + 1}
    with torch.no_grad():
        before, after = model(**inputs), model(**changed)
    assert not torch.equal(before.logits, after.logits)
    assert not torch.equal(before.mass_preds, after.mass_preds)
    del inputs["aux_values"]
    with pytest.raises(ValueError, match=r"aux_values.*\(3, 2\).*none"):
        model(**inputs)


@every_model
def test_save_and_load_is_exact(name, tmp_path):
    model, inputs = make(name), batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model.base_model)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
        assert torch.equal(model(**inputs).mass_preds, loaded(**inputs).mass_preds)


@every_model
def test_a_missing_key_is_initialised_as_in_a_fresh_model(name, tmp_path):
    """`from_pretrained` builds on the meta device: whatever is not initialised stays uninitialised memory.

    A checkpoint that names this very class is refused instead.
    """
    from safetensors.torch import load_file, save_file

    model = make(name)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": None}), encoding="utf-8")
    weights = load_file(tmp_path / "model.safetensors")
    # transformers saves some backbones under older names; those weights are not ours to test
    ours = [key for key in weights if key in model.state_dict()]
    if name.startswith("linearvit_"):  # another mixer in the blocks of linearvit
        ours = [key for key in ours if ".1.attn." in key]
    assert len(ours) >= 4
    for key in ours:
        kept = {other: tensor for other, tensor in weights.items() if other != key}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        torch.manual_seed(1)
        parameter = AutoModelForImageClassification.from_pretrained(tmp_path).state_dict()[key]
        fresh = make(name, seed=2).state_dict()[key]
        assert parameter.float().isfinite().all(), key
        other = make(name, seed=3).state_dict()[key]
        if torch.equal(fresh, other):  # a constant
            assert torch.equal(parameter, fresh), key
        else:  # random: same spread, none left at zero
            number, spread = fresh.numel(), (fresh.std() + other.std()).item() / 2
            assert (parameter != 0).all(), key
            # five standard errors of samples that are at most as wide as a normal distribution
            assert abs(parameter.mean() - fresh.mean()) <= 5 * spread * (2 / number) ** 0.5, key
            assert abs(parameter.std() - spread) <= 5 * spread * (1 / number) ** 0.5, key


@every_model
def test_bfloat16_is_finite_with_empty_and_hot_images(name):
    model = make(name).train()
    inputs = batch()
    inputs["pixel_values"][0] = 0.0
    inputs["pixel_values"][1] = 0.0
    inputs["pixel_values"][1, 3, 20, 20] = 1e4
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**inputs)
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["linearvit", "xcit", "linearvit_study", "xcit_study"])
@pytest.mark.parametrize("size", [(50, 50), (125, 125), (64, 96), (37, 53), (5, 5)])
def test_any_height_and_width(name, size):
    model = make(name)
    outputs = model(**batch(2, size))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 2)


@pytest.mark.parametrize("name", ["linearvit", "xcit"])
@pytest.mark.parametrize("patch_size", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("token_stride", [1, 2])
def test_stems(name, patch_size, token_stride):
    model = make(name, patch_size=patch_size, token_stride=token_stride)
    tokens = model.base_model(batch(1)["pixel_values"], output_hidden_states=True).hidden_states[0]
    first = -(-50 // patch_size)
    assert tokens.shape[1] == (-(-first // token_stride)) ** 2


@pytest.mark.parametrize("name", ["linearvit", "xcit", "vit", "swin"])
def test_gradient_checkpointing_changes_nothing(name):
    """Neither gradients nor BatchNorm's statistics, which a repeated forward pass must not update again."""
    gradients, buffers = [], []
    for checkpointing in (False, True):
        model = make(name).train()
        if checkpointing:
            # transformers renamed it between the releases that Python 3.10 and 3.11 get
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model(**batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        buffers.append(dict(model.named_buffers()))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*buffers, rtol=0, atol=0)


def logits_of(model, pixel_values):
    return model(pixel_values).logits


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", ["linearvit", "xcit", "resnet"])
def test_a_repeated_forward_pass_updates_no_statistics(name, use_reentrant):
    """Whoever checkpoints: here the user, a whole model, among them one that we only wrap."""
    pixel_values, buffers = batch()["pixel_values"].requires_grad_(), []
    for repeats in (False, True):
        model = make(name, num_aux_features=0).train()
        run = (
            partial(checkpoint, use_reentrant=use_reentrant)
            if repeats
            else lambda function, *inputs: function(*inputs)
        )
        run(logits_of, model, pixel_values).sum().backward()
        buffers.append(dict(model.named_buffers()))
    assert any(key.endswith("num_batches_tracked") and value == 1 for key, value in buffers[1].items())
    torch.testing.assert_close(*buffers, rtol=0, atol=0)


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_pixels_of_any_type(name, dtype):
    """Tensors that are not float32 are converted to the type of the weights."""
    model, pixel_values = make(name, num_aux_features=0), batch()["pixel_values"].to(dtype)
    with torch.no_grad():
        expected = model(pixel_values.float()).logits
        torch.testing.assert_close(model(pixel_values).logits, expected, rtol=0.05, atol=0.05)


@every_model
def test_an_empty_batch(name):
    model, none = make(name, num_aux_features=0), batch()["pixel_values"][:0]
    if name in BACKBONES or name.removesuffix("_study") in BACKBONES:
        with pytest.raises(ValueError, match="at least one image"):
            model(none)
    else:
        assert model(none).logits.shape == (0, 2)


@pytest.mark.parametrize("name", ["linearvit", "xcit"])
def test_drop_path_acts_only_in_training(name):
    model, plain = make(name, drop_path_rate=0.5), make(name)
    inputs = batch()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
        model.train(), plain.train()
        torch.manual_seed(0)
        assert not torch.equal(model(**inputs).logits, plain(**inputs).logits)


@every_model
def test_wrong_number_of_channels(name):
    with pytest.raises(ValueError, match="channel"):
        make(name)(**batch() | {"pixel_values": torch.zeros(3, 3, 50, 50)})


@every_model
def test_config_round_trip(name, tmp_path):
    config = MODELS[name](channel_names=["ecal", *(f"layer{i}" for i in range(1, 8))])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    expected, found = config.to_dict(), loaded.to_dict()
    for fields in (expected, found):
        fields.pop("_name_or_path")
    assert found == expected
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == config.model_type


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (LinearViTConfig, {"depths": [2, 2]}, "one entry per stage"),
        (LinearViTConfig, {"hidden_sizes": [97]}, "attention heads"),
        (LinearViTConfig, {"local_kernel_size": 6}, "odd"),
        (XCiTConfig, {"hidden_size": 97}, "attention heads"),
        (XCiTConfig, {"channel_names": ["a"]}, "8 channels"),
        (XCiTConfig, {"mass_std": 0.0}, "positive"),
        (XCiTConfig, {"mass_loss": "gaussian", "loss_weighting": "uncertainty"}, "no lower bound"),
        (XCiTConfig, {"label_smoothing": 1.0}, "below 1"),
        (XCiTConfig, {"class_weights": [1.0]}, "each of the 2 classes"),
        (XCiTConfig, {"mass_loss": "l2"}, "gaussian"),
        (XCiTConfig, {"image_size": [125]}, "height, width"),
        (XCiTConfig, {"drop_path_rate": 1.0}, "drop_path_rate"),
        (BaselineConfig, {"backbone_config": {"hidden_size": 3}}, "model_type"),
        (BaselineConfig, {"backbone_config": BACKBONES["vit"] | {"image_size": 50}}, r"\(50, 50\)"),
        (BaselineConfig, {"backbone_config": BACKBONES["resnet"] | {"num_channels": 3}}, "3 channels"),
    ],
)
def test_bad_configurations_are_explained(config_class, fields, message):
    with pytest.raises(ValueError, match=message):
        config_class(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"global_attention": "linear"}, "`global_attention` is one of relu_linear, softmax, .*, got 'linear'"),
        ({"global_attention": "softmax", "rotary_positions": True}, "work with rala and mala, got .* 'softmax'"),
        ({"global_attention": "mila", "hidden_sizes": [24]}, "multiple of 4 channels, got 6"),
        ({"global_attention": "rala", "hidden_sizes": [24], "rotary_positions": True}, "4 channels, got 6"),
    ],
)
def test_bad_mixers_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        LinearViTForImageClassification(LinearViTConfig(**fields))


@pytest.mark.parametrize("mixer", ["rala", "mala"])
def test_rotary_positions_change_the_result(mixer):
    plain, rotated = (make(f"linearvit_{mixer}", rotary_positions=value) for value in (False, True))
    with torch.no_grad():
        assert not torch.equal(plain(**batch()).logits, rotated(**batch()).logits)


@pytest.mark.parametrize("name", ["linearvit", "xcit", "resnet"])
def test_missing_weights_are_an_error_not_random(name, tmp_path):
    """A renamed weight is one; a checkpoint without heads may get new ones."""
    make(name).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = "head.classifier.weight"
    save_file({key + "x" * (key == lost): value for key, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks 1 of its weights, such as {lost}"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Another"]}))
    AutoModelForImageClassification.from_pretrained(tmp_path)
