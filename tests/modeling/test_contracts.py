"""What users of transformers expect of any model: overrides, kinds of targets, hidden states and keywords."""

import json

import numpy as np
import pytest
import torch
from e2evit.modeling import FAMILIES
from e2evit.modeling.modeling_attention_pooling import AttentionPooling
from models import MODELS, batch, make
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    BertConfig,
    BertLMHeadModel,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
)

from e2evit import E2EImageProcessor, LinearViTBackbone, LinearViTConfig, XCiTBackbone, XCiTConfig

FAMILY_NAMES = ["linearvit", "xcit", "vit"]
every_family = pytest.mark.parametrize("name", FAMILY_NAMES)
CHANNELS = [f"layer{number}" for number in range(8)]


@pytest.fixture(params=FAMILY_NAMES)
def checkpoint(request, tmp_path):
    """A folder with a model of named channels, and its image processor."""
    make(request.param, channel_names=CHANNELS).save_pretrained(tmp_path)
    E2EImageProcessor(CHANNELS, 50, np.arange(1.0, 9.0)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_channels": 13}, "each of the 13 channels"),
        ({"channel_names": ["a"]}, "each of the 8 channels"),
        ({"num_labels": 3, "class_weights": [1.0, 2.0]}, "each of the 3 classes"),
        ({"mass_std": -1.0}, "positive"),
        ({"image_size": [50]}, "height, width"),
        ({"problem_type": "regression", "label_smoothing": 0.1}, "one class each"),
        ({"mass_loss": "gaussian", "loss_weighting": "uncertainty"}, "no lower bound"),
        ({"num_inputs": 3}, "num_inputs.* has no setter"),
        ({"problem_type": "regresion"}, "`problem_type` is one of"),
        ({"num_labels": 4, "id2label": {0: "a", 1: "b", 2: "c"}}, "4, but `id2label` names 3"),
        ({"label2id": {"a": 0, "b": 2}}, "number its 2 classes from 0 to 1"),
    ],
)
def test_wrong_overrides_are_refused_at_once(checkpoint, overrides, message):
    """transformers sets them on a finished configuration, which nothing checks before it is saved."""
    with pytest.raises(ValueError, match=message):
        AutoModelForImageClassification.from_pretrained(checkpoint, ignore_mismatched_sizes=True, **overrides)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(checkpoint, **overrides)


@every_family
def test_a_changed_configuration_is_checked_when_a_model_is_made(name):
    config = MODELS[name](channel_names=CHANNELS)
    config.num_channels = 13
    with pytest.raises(ValueError, match="13"):
        AutoModelForImageClassification.from_config(config)


def test_right_overrides_load_train_and_save(checkpoint, tmp_path):
    names = [f"new{number}" for number in range(13)]
    overrides = {"num_channels": 13, "channel_names": names, "id2label": {0: "a", 1: "b", 2: "c"}}
    if "backbone_config" in (checkpoint / "config.json").read_text(encoding="utf-8"):
        overrides["backbone_config"] = {"num_channels": 13}
    model = AutoModelForImageClassification.from_pretrained(checkpoint, ignore_mismatched_sizes=True, **overrides)
    inputs = batch() | {"pixel_values": torch.rand(3, 13, 50, 50)}
    model(**inputs).loss.backward()
    model.save_pretrained(tmp_path / "again")
    config = AutoConfig.from_pretrained(tmp_path / "again")
    assert config.channel_names == names
    assert config.label2id == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_labels": 3, "class_weights": [1.0, 2.0, 3.0]},
        {"label2id": {"a": 0, "b": 1, "c": 2}},
        {"image_size": 40},
        {"image_size": (50, 40)},
        {"pixel_features": True},
        {"num_channels": 3, "channel_names": None},
    ],
)
@every_family
def test_one_override_is_enough(name, overrides, tmp_path):
    """Labels named in the checkpoint, and the image of a wrapped model, follow it."""
    make(name, id2label={0: "qcd", 1: "top"}, channel_names=CHANNELS).save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **overrides)
    model.save_pretrained(tmp_path / "again")
    config = AutoConfig.from_pretrained(tmp_path / "again")
    inputs = {"pixel_values": torch.rand(2, config.num_channels, *config.image_shape), "aux_values": torch.rand(2, 2)}
    changes_labels = overrides.keys() & {"num_labels", "label2id"}
    assert model(**inputs).logits.shape[1] == config.num_labels == (3 if changes_labels else 2)
    assert config.label2id == overrides.get("label2id", {label: i for i, label in config.id2label.items()})


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (XCiTConfig(), {"num_hidden_layers": 2}),
        (LinearViTConfig(), dict(zip(("depths", "hidden_sizes", "num_attention_heads", "mlp_ratios"), [[2, 2]] * 4))),
    ],
)
def test_what_follows_from_an_override_is_derived_anew(config, overrides, tmp_path):
    config.save_pretrained(tmp_path)
    changed = type(config).from_pretrained(tmp_path, **overrides)
    assert changed.stage_names == ["stem", "stage1", "stage2"]
    assert changed.out_features == ["stage2"]
    assert type(config).from_pretrained(tmp_path, out_features=["stem"]).out_indices == [0]


def test_stages_of_the_first_checkpoints_keep_their_meaning(tmp_path):
    """XCiT named a stage after its block."""
    XCiTConfig(out_features=["stem", "stage2"]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text(encoding="utf-8").replace('"stage', '"block').replace("block_names", "stage_names")
    path.write_text(text, encoding="utf-8")
    assert json.loads(text)["out_features"] == ["stem", "block2"]
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.out_features == ["stem", "stage2"]
    assert config.stage_names[-1] == "stage4"


@pytest.mark.parametrize("chosen", [["layer3", "layer4"], ["layer4", "layer0", "layer7"]])
def test_a_processor_keeps_the_scales_of_the_chosen_channels(checkpoint, chosen):
    full, few = (
        AutoImageProcessor.from_pretrained(checkpoint, **options) for options in ({}, {"channel_names": chosen})
    )
    numbers = [CHANNELS.index(name) for name in chosen]
    images = np.random.default_rng(0).random((2, 8, 50, 50)).astype(np.float32)
    np.testing.assert_array_equal(few(images[:, numbers]).pixel_values, full(images).pixel_values[:, numbers])


def test_overrides_of_a_processor_are_checked(checkpoint):
    assert AutoImageProcessor.from_pretrained(checkpoint, image_size=64).image_shape == (8, 64, 64)
    with pytest.raises(ValueError, match=r"has layer0, .*, but no muons; pass `channel_scale` too"):
        AutoImageProcessor.from_pretrained(checkpoint, channel_names=["layer0", "muons"])
    new = AutoImageProcessor.from_pretrained(checkpoint, channel_names=["layer0", "muons"], channel_scale=[1.0, 2.0])
    assert new.channel_scale == [1.0, 2.0]
    with pytest.raises(ValueError, match="`channel_scale` needs one positive number for each of the 8"):
        AutoImageProcessor.from_pretrained(checkpoint, channel_scale=[1.0])


def test_changed_attributes_of_a_processor_are_checked():
    processor = E2EImageProcessor(CHANNELS[:3], np.int64(5), [1.0, 2.0, 3.0])
    processor.image_size = 4
    assert processor(np.ones((3, 4, 4))).pixel_values.shape == (1, 3, 4, 4)
    processor.channel_names = CHANNELS[1:3]
    with pytest.raises(ValueError, match="`channel_scale` needs one positive number for each of the 2"):
        processor(np.ones((2, 4, 4)))
    for wrong in ({"height": 4, "width": 4}, "4", 4.0, [4], None):
        with pytest.raises(ValueError, match="`image_size` is one side or"):
            E2EImageProcessor(CHANNELS, wrong)


def test_scalars_of_a_processor_are_chosen_by_name():
    fields = {"aux_names": ["log_pt", "ieta"], "aux_mean": [6.0, 1.0], "aux_std": [0.5, 20.0]}
    chosen = E2EImageProcessor.from_dict({"channel_names": CHANNELS} | fields, aux_names=["ieta"])
    assert (chosen.aux_mean, chosen.aux_std) == ([1.0], [20.0])


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.tensor([[1.0, 1, 0], [0, 0, 1]])),
        ({"num_labels": 3}, torch.tensor([[1.0, 1, 0], [0, 0, 1]])),
        ({"num_labels": 1, "problem_type": "regression"}, torch.tensor([0.3, 2.0])),
        ({"num_labels": 1}, torch.tensor([0, 3])),
        ({"num_labels": 2, "problem_type": "regression"}, torch.tensor([[0.3, 2.0], [1.0, -1.0]])),
        ({"num_labels": 3}, torch.tensor([0, 2])),
        ({"num_labels": 3, "problem_type": "single_label_classification"}, torch.tensor([0, 2])),
    ],
)
@every_family
def test_losses_of_all_kinds_of_labels_are_those_of_vit(name, fields, labels):
    peer = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=50, num_channels=8, **fields)
    )
    model, inputs = make(name, **fields), batch(2)
    outputs = model(**inputs | {"labels": labels})
    expected = peer.loss_function(labels, outputs.logits, peer.config)
    torch.testing.assert_close(outputs.classification_loss, expected)
    torch.testing.assert_close(outputs.loss, expected + outputs.mass_loss)
    outputs.loss.backward()
    assert model.head.mass_output.weight.grad.abs().sum() > 0
    if model.config.problem_type is not None:
        assert model.config.problem_type == peer.config.problem_type


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_classes_of_any_whole_type(dtype):
    model, inputs = make("xcit"), batch(2)
    expected = model(**inputs).loss
    for labels in (inputs["labels"].to(dtype), inputs["labels"].unsqueeze(1)):
        assert torch.equal(model(**inputs | {"labels": labels}).loss, expected)


def test_refused_labels_leave_no_trace():
    model, inputs = make("xcit"), batch(2)
    with pytest.raises(ValueError, match="shape of the logits"):
        model(**inputs | {"labels": torch.tensor([1.0, 0.0])})
    assert model.config.problem_type is None
    assert model(**inputs).loss.isfinite()


def test_missing_and_misshapen_targets_of_other_kinds():
    model, inputs = make("xcit", num_labels=3), batch(2)
    labels = torch.tensor([[1.0, 0, 0], [0, float("nan"), 1]])
    outputs = model(**inputs | {"labels": labels})
    known = ~labels.isnan()
    expected = F.binary_cross_entropy_with_logits(outputs.logits[known], labels[known])
    torch.testing.assert_close(outputs.classification_loss, expected)
    with pytest.raises(ValueError, match=r"shape of the logits, \(2, 3\); got \(2,\)"):
        model(**inputs | {"labels": torch.tensor([1.0, 0.0])})
    with pytest.raises(ValueError, match="one class each"):
        make("xcit", label_smoothing=0.1)(**inputs | {"labels": torch.rand(2, 2)})


def test_a_model_of_masses_alone_has_no_other_loss():
    """It has one class, and labels that are all missing."""
    model = make("xcit", num_labels=1)
    outputs = model(**batch() | {"labels": torch.full((3,), -100)})
    assert outputs.classification_loss == 0
    assert outputs.loss == outputs.mass_loss
    assert model.config.problem_type is None


@pytest.mark.parametrize("name", ["linearvit", "linearvit_rala", "xcit", "xcit_study", "vit", "swin", "resnet"])
def test_hidden_states_lie_on_the_gradient_path(name):
    """Grad-CAM asks for the gradient of a logit with respect to them."""
    model, pixel_values = make(name, num_aux_features=0), batch()["pixel_values"]
    outputs = model.base_model(pixel_values, output_hidden_states=True)
    states = [*outputs.hidden_states, *(outputs.feature_maps or ())]
    for state in states:
        state.retain_grad()
    logits = model.head(outputs.pooler_output, None, outputs.last_hidden_state, pixel_values)[0]
    logits.sum().backward()
    assert all(state.grad is not None and state.grad.abs().sum() > 0 for state in states)


@every_family
def test_hidden_states_change_no_number(name):
    model = make(name)
    with torch.no_grad():
        plain, recorded = model(**batch()), model(**batch(), output_hidden_states=True)
    assert torch.equal(plain.logits, recorded.logits)
    assert plain.hidden_states is None


@pytest.mark.parametrize(("cls", "config"), [(LinearViTBackbone, LinearViTConfig), (XCiTBackbone, XCiTConfig)])
def test_backbones_follow_the_configuration(cls, config):
    pixel_values = batch()["pixel_values"]
    assert cls(config(output_hidden_states=True))(pixel_values).hidden_states is not None
    assert cls(config())(pixel_values).hidden_states is None
    as_tuple = cls(config(return_dict=False))(pixel_values)
    assert isinstance(as_tuple, tuple)
    assert as_tuple[0][0].ndim == 4


@pytest.mark.parametrize("name", ["linearvit", "xcit"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32])
def test_masks_of_any_type(name, dtype):
    model = AutoModelForMaskedImageModeling.from_config(MODELS[name]()).eval()
    mask = torch.rand(3, 25) < 0.5
    expected = model(batch()["pixel_values"], bool_masked_pos=mask)
    assert torch.equal(model(batch()["pixel_values"], bool_masked_pos=mask.to(dtype)).loss, expected.loss)


@every_family
def test_keywords_of_other_models_are_accepted_and_typing_errors_are_not(name):
    model, inputs = make(name), batch()
    for return_dict in (True, False, None):
        outputs = model(**inputs, output_attentions=False, return_dict=return_dict, interpolate_pos_encoding=None)
        assert isinstance(outputs, tuple) is (return_dict is False)
    with pytest.raises(TypeError, match="does not know mass_label"):
        model(**inputs, mass_label=inputs["mass_labels"])
    if name != "vit":
        with pytest.raises(ValueError, match="`attention_maps`"):
            model(**inputs, output_attentions=True)


def test_a_wrapped_model_returns_its_attentions():
    model = make("vit")
    model.set_attn_implementation("eager")
    assert model(**batch(), output_attentions=True).attentions
    model.config.output_attentions = True
    assert model(**batch()).attentions


@every_family
def test_return_dict_of_the_configuration(name):
    outputs = make(name, return_dict=False)(**batch())
    assert isinstance(outputs, tuple)
    assert torch.equal(outputs[1], make(name)(**batch()).logits)


@every_family
def test_a_model_is_the_encoder_of_a_decoder(name):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=11,
        is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    encoder = FAMILIES[MODELS[name]().model_type].model(MODELS[name]())
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=BertLMHeadModel(config))
    model.config.decoder_start_token_id = model.config.pad_token_id = 0
    outputs = model(pixel_values=batch()["pixel_values"], labels=torch.randint(11, (3, 4)))
    outputs.loss.backward()
    assert encoder.config.hidden_size == encoder(batch()["pixel_values"]).pooler_output.shape[-1]


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
@pytest.mark.parametrize("kind", ["numpy", "list", "torch", "bfloat16", "float16", "sparse", "gradient", "pil"])
def test_images_of_any_kind(kind, order):
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 200, (2, 3, 20, 30)).astype(np.float32)
    processor = E2EImageProcessor(CHANNELS[:3], (20, 30))
    expected = processor(images).pixel_values
    given = images if order == "channels_first" else np.moveaxis(images, 1, -1)
    as_tensor = torch.from_numpy(given.copy())
    kinds = {
        "numpy": lambda: given,
        "list": lambda: list(given),
        "torch": lambda: as_tensor,
        "bfloat16": lambda: list(as_tensor.to(torch.bfloat16)),
        "float16": lambda: as_tensor.half(),
        "sparse": lambda: as_tensor.to_sparse(),
        "gradient": lambda: as_tensor.requires_grad_(),
        "pil": lambda: [Image.fromarray(image.astype(np.uint8)) for image in np.moveaxis(images, 1, -1)],
    }
    order = "channels_last" if kind == "pil" else order
    for options in ({}, {"input_data_format": order}, {"data_format": order}):
        np.testing.assert_allclose(processor(kinds[kind](), **options).pixel_values, expected, rtol=0.01)


def test_orders_are_checked():
    processor, square = E2EImageProcessor(CHANNELS[:3], 3), np.arange(27.0).reshape(3, 3, 3)
    last = E2EImageProcessor(CHANNELS[:3], 3, input_data_format="channels_last")
    np.testing.assert_array_equal(
        last(square).pixel_values, processor(square, input_data_format="channels_last").pixel_values
    )
    assert last.to_dict()["data_format"] == "channels_last"
    for name in ("input_data_format", "data_format"):
        with pytest.raises(ValueError, match=r"`input_data_format` .* is channels_first or channels_last, got 'nchw'"):
            processor(square, **{name: "nchw"})
    with pytest.raises(ValueError, match=r"Expected images of shape \(3, 3, 3\) .* got \(4, 3, 3\)"):
        processor([square, np.zeros((4, 3, 3))])
    with pytest.raises(ValueError, match=r"Expected images .* got \(2, 3, 3, 3\)"):
        processor([np.zeros((2, 3, 3, 3))])


def test_attention_pooling_of_a_grid_is_a_mean_with_weights():
    torch.manual_seed(0)
    pooling, tokens = AttentionPooling(16, 2, 2.0, 1e-5).eval(), torch.randn(3, 9, 16, requires_grad=True)
    weights = (15 * (pooling.score(tokens) / 15).tanh()).softmax(1)  # [B, N, h]
    heads = pooling.value(tokens).unflatten(2, (2, 8))
    context = pooling.proj((weights.unsqueeze(3) * (heads - pooling.value.bias.view(2, 8))).sum(1).flatten(1))
    context = context + pooling.value.bias @ pooling.proj.weight.T
    twin = pooling.norm2(context + pooling.mlp(pooling.norm1(context)))
    torch.testing.assert_close(pooling(tokens), twin, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(one.square().sum(), tokens, retain_graph=True)[0] for one in (pooling(tokens), twin)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
