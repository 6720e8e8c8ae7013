"""Every family of `FAMILIES` passes the tests that transformers runs on each of its own models."""

import unittest

import torch
from e2evit.modeling import FAMILIES, E2EImageProcessor, LinearViTConfig
from e2evit.modeling.limits_e2e import strict_config
from models import BACKBONES, SMALL
from transformers_tests import load

modeling, backbones, configurations, images = map(load, ("modeling", "backbone", "configuration", "image_processing"))

FIELDS = SMALL | {"e2e_baseline": {"backbone_config": BACKBONES["vit"]}}  # one row for each family
FIELDS["hitvit"] = SMALL["hitvit"] | {"mask_size": 1}  # a mask of tokens, which are pixels
# tests that do not apply
EXCEPTIONS = {
    "test_call_numpy_4_channels": "no picture: it has no mean colour, and its channels have names",
    "test_model_get_set_embeddings": "an image is embedded by convolutions, not by an nn.Embedding",
    "test_new_models_require_torchvision_backend": "no picture: torchvision has nothing to do",
}
MODEL_KINDS = {  # names of classes by which the common tests know what a model is
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForMaskedImageModeling": "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
    "AutoBackbone": "MODEL_FOR_BACKBONE_MAPPING_NAMES",
}
for auto_class, mapping in MODEL_KINDS.items():
    classes = {name: family.auto_classes.get(auto_class) for name, family in FAMILIES.items()}
    ours = {name: cls.__name__ for name, cls in classes.items() if cls is not None}
    setattr(modeling, mapping, getattr(modeling, mapping) | ours)


class FamilyTester:
    """What the common tests ask about a family: a small model and a batch."""

    batch_size, num_channels, image_size, is_training = 2, 3, 40, True

    def __init__(self, family):
        self.family = family
        config = self.get_config()
        self.num_hidden_layers = getattr(config, "num_hidden_layers", 2)
        self.hidden_size = getattr(config, "hidden_sizes", [config.hidden_size])[0]
        # HitViT's tokens are pixels, here all of them
        self.patch_size = {"e2e_baseline": 5, "hitvit": 1}.get(config.model_type, 10)
        self.seq_length = (self.image_size // self.patch_size) ** 2 + (config.model_type == "e2e_baseline")

    def get_config(self):
        fields = FIELDS[self.family.config.model_type]
        backbone = {name: dict(fields[name]) for name in ("backbone_config",) if name in fields}
        image = {"image_size": self.image_size, "num_channels": self.num_channels}
        return self.family.config(**fields | backbone | image)

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": modeling.floats_tensor(shape)}


class _Family:
    """The small model of a `family`, and targets for all of its heads."""

    has_attentions = test_resize_embeddings = False

    def setUp(self):
        self.model_tester = FamilyTester(self.family)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if model_class is self.family.of_events:
            inputs["jets"] = torch.tensor([[[500.0, 20, 10]], [[450.0, 30, 20]]])
            if return_labels:
                inputs |= {"labels": torch.zeros(2, 1, dtype=torch.long), "mass_labels": torch.full((2, 1), 100.0)}
        elif "labels" in inputs:
            inputs["mass_labels"] = torch.linspace(80, 170, self.model_tester.batch_size)
        if "bool_masked_pos" in inputs:  # a mask that hides nothing asks nothing
            inputs["bool_masked_pos"][:, ::2] = 1
        return inputs


class _Configuration:
    def test_config(self):
        fields = {
            name: value for name, value in FIELDS[self.family.config.model_type].items() if name != "backbone_config"
        }
        configurations.ConfigTester(self, self.family.config, has_text_modality=False, **fields).run_common_tests()


@strict_config
class FourStages(LinearViTConfig):
    """With the four stages that the common tests expect of a default configuration."""

    hidden_sizes: tuple[int, ...] | list[int] = (16, 16, 16, 16)
    depths: tuple[int, ...] | list[int] = (1, 1, 1, 1)
    num_attention_heads: tuple[int, ...] | list[int] = (2, 2, 2, 2)
    mlp_ratios: tuple[float | int, ...] | list[float | int] = (2, 2, 2, 2)


class ImageTester(images.ImageProcessingTester):
    """Images of the size that a processor is made for, which it does not change."""

    def __init__(self, parent):
        super().__init__(parent, batch_size=2, min_resolution=20, max_resolution=20)

    def _get_image_processing_classes(self):
        return {"e2e": E2EImageProcessor}

    def prepare_image_processor_dict(self):
        return {"channel_names": ["trk_pt", "ecal", "hcal"], "image_size": [20, 20], "channel_scale": [4.0, 0.3, 0.1]}

    def prepare_image_inputs(self, **options):
        return super().prepare_image_inputs(**options | {"equal_resolution": True})

    def expected_output_image_shape(self, images):
        return (3, 20, 20)


def _make_test(name, *bases, **fields):
    tests = {test: getattr(bases[-1], test) for test in EXCEPTIONS if hasattr(bases[-1], test)}
    excepted = {test: unittest.skip(EXCEPTIONS[test])(function) for test, function in tests.items()}
    globals()[name] = type(name, (*bases, unittest.TestCase), {"__module__": __name__} | fields | excepted)


for family in FAMILIES.values():
    name = family.config.__name__.removesuffix("Config")
    fields = {"family": family, "all_model_classes": tuple(family.auto_classes.values())}
    _make_test(f"{name}Test", _Configuration, _Family, modeling.ModelTesterMixin, **fields)
    if family.backbone is not None:
        config_class = FourStages if family.config is LinearViTConfig else family.config
        fields |= {"all_model_classes": (family.backbone,), "config_class": config_class}
        _make_test(f"{name}BackboneTest", _Family, backbones.BackboneTesterMixin, **fields)
_make_test(
    "ImageProcessorTest",
    images.ImageProcessingTestMixin,
    image_processor_tester_class=ImageTester,
    test_cast_dtype=True,
)
