"""The published variants have the authors' numbers of parameters, our mass and aux branches apart."""

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
