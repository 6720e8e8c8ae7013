"""The published variants have the authors' parameter counts, apart from our mass and aux branches."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from e2evit.training.checkpoint import read_model_config

RECIPES = Path(__file__).parents[2] / "recipes/models"
PUBLISHED = {
    "xcit_nano_12_p16": 3_053_224,
    "xcit_nano_12_p8": 3_049_016,
    "xcit_tiny_12_p16": 6_716_272,
    "xcit_tiny_12_p8": 6_706_504,
    "xcit_tiny_24_p16": 12_116_896,
    "xcit_tiny_24_p8": 12_107_128,
    "xcit_small_12_p16": 26_253_304,
    "xcit_small_12_p8": 26_213_032,
    "xcit_small_24_p16": 47_671_384,
    "xcit_small_24_p8": 47_631_112,
    "xcit_medium_24_p16": 84_395_752,
    "xcit_medium_24_p8": 84_323_624,
    "xcit_large_24_p16": 189_096_136,
    "xcit_large_24_p8": 188_932_648,
    "l2vit_tiny": 28_596_781,
    "l2vit_small": 50_199_157,
    "l2vit_base": 88_577_188,
    "l2vit_base_384": 88_577_188,
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items(), ids=PUBLISHED)
def test_parameters(name, expected):
    config = read_model_config(RECIPES / f"{name}.json", num_labels=1000)
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    assert sum(size for key, size in sizes.items() if "mass" not in key and "aux" not in key) == expected


@pytest.mark.parametrize(
    "path", sorted(RECIPES.parent.rglob("*.json")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_recipe_is_a_model(path):
    with torch.device("meta"):
        AutoModelForImageClassification.from_config(read_model_config(path))


DETECTOR = {  # first tokens of LinearViT and of XCiT, which has no later stages with fewer; millions of parameters
    "nano": ((169, 169), (0.5, 1.5)),
    "tiny": ((625, 169), (2, 4)),
    "small": ((625, 169), (8, 15)),
    "pixel": ((15_625, 15_625), (0.05, 0.2)),
    "full_detector": ((25_200, 25_200), (0.1, 0.3)),
}


@pytest.mark.parametrize("family", ["linearvit", "xcit"])
@pytest.mark.parametrize("variant", DETECTOR)
def test_detector_variants(family, variant):
    """Sizes for detector images, built and run on the meta device; both families of a variant are equally large."""
    num_tokens, (least, most) = DETECTOR[variant]
    expected = dict(zip(("linearvit", "xcit"), num_tokens, strict=True))[family]
    config = read_model_config(RECIPES / f"{family}_{variant}.json")
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
        outputs = model(torch.empty(1, 8, *config.image_shape), output_hidden_states=True)
    assert least <= sum(parameter.numel() for parameter in model.parameters()) / 1e6 <= most
    assert outputs.hidden_states[0].shape[1] == expected
