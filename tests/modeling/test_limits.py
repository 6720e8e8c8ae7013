"""Configurations and processors refuse numbers that would give NaN or models that would never be built."""

import json
import re
from math import inf, nan

import pytest
import torch
from e2evit.modeling.limits_e2e import POSITIVE
from models import BACKBONES, MODELS
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig

from e2evit import BaselineConfig, E2EImageProcessor, LinearViTConfig, XCiTConfig, XCiTForImageClassification

INHERITED = PreTrainedConfig.__dataclass_fields__
CONFIGS = (LinearViTConfig, XCiTConfig, BaselineConfig)
NUMBERS = [
    (config, name, field)
    for config in CONFIGS
    for name, field in config.__dataclass_fields__.items()
    if "limits" in field.metadata
]
LABELS = [
    ({"num_labels": 20_000_000}, "`num_labels` must be a whole number from 1 to 10000, got 20000000"),
    ({"num_labels": 2e7}, "`num_labels` must be a whole number"),
    ({"num_labels": 0}, "from 1 to 10000, got 0"),
    ({"id2label": {"0": "qcd", "2": "top"}}, "`id2label` must number its 2 classes from 0 to 1, got 0, 2"),
    ({"id2label": {"a": "qcd"}}, "from 0 to 0, got a"),
    ({"id2label": {}}, "`num_labels` must be .*, got 0"),
    ({"id2label": {"0": "qcd", "1": "qcd"}}, "two classes one name, got qcd, qcd"),
    ({"id2label": ["qcd", "top"]}, "`id2label` must map numbers to class names"),
    ({"id2label": {"0": "qcd", "1": "top"}, "num_labels": 0}, "from 1 to 10000, got 0"),
    ({"dtype": "float99"}, "an invalid field: .*float99"),
    ({"use_return_dict": 5}, "an invalid field: .*use_return_dict"),
    ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "`label2id` must be the inverse"),
]
SIZES = [
    ({"model_type": "xcit", "hidden_size": 30_000, "num_hidden_layers": 500}, r"about 5.4e\+12 weights"),
    ({"model_type": "xcit", "mlp_ratio": 1e9}, "weights, more than 2e"),
    ({"model_type": "linearvit", "depths": [1_000_000]}, "Each number of `depths` must be .* to 512, got 1000000"),
    (
        {"model_type": "linearvit", **dict.fromkeys(("hidden_sizes", "depths", "mlp_ratios"), [8] * 17)},
        "one entry per",
    ),
    (
        {"model_type": "linearvit", "hidden_sizes": [8] * 2, "depths": [300] * 2, "mlp_ratios": [1.0] * 2}
        | {"num_attention_heads": [1] * 2},
        r"`sum\(depths\)` must be .* 512, got 600",
    ),
    (
        {"model_type": "linearvit", "hidden_sizes": [8] * 17, "depths": [0] * 17, "mlp_ratios": [1.0] * 17}
        | {"num_attention_heads": [1] * 17},
        r"`len\(depths\)` must be .* 16, got 17",
    ),
    ({"model_type": "xcit", "num_channels": 1000, "image_size": 4000}, r"`num_channels \* height \* width` must be"),
    ({"model_type": "xcit", "log_mass": True, "mass_mean": 100.0}, r"those of ln\(mass / GeV\)"),
]
SIZES += [
    ({"model_type": "e2e_baseline", "backbone_config": BACKBONES["vit"] | fields}, message)
    for fields, message in (
        ({"hidden_size": 10**9}, "`hidden_size` must be"),
        ({"num_hidden_layers": 10**6}, "`num_hidden_layers` must be .* 512"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be .*, got 0"),
        ({"patch_size": 0}, "`patch_size` must be .*, got 0"),
        ({"num_labels": 20_000_000}, "`num_labels` must be"),
        ({"layer_norm_eps": nan}, "`layer_norm_eps` must be .*, got nan"),
        ({"hidden_size": 30_000, "num_hidden_layers": 500}, "weights, more than"),
    )
]  # fmt: skip


def refuse_from_json(fields, message, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "xcit"} | fields), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        AutoConfig.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "name", "field"), NUMBERS, ids=lambda x: getattr(x, "__name__", x) if isinstance(x, (str, type)) else ""
)
def test_every_number_has_limits(config, name, field, tmp_path):
    """NaN, infinity and numbers beyond the limits: when the configuration is made, changed or loaded."""
    low, high, _ = field.metadata["limits"]
    known = config()
    below = low - max(1, abs(low))
    for number in (nan, inf, -inf, below, 10**9 if high < 10**9 else 1e30, *([0, 1e-45] if low > 0 else [])):
        value = [number] if isinstance(field.default, tuple) else number
        with pytest.raises(ValueError, match=name):
            config(**{name: value})
        refuse_from_json({"model_type": config.model_type, name: value}, name, tmp_path)
        if isinstance(number, type(getattr(known, name))):
            with pytest.raises(ValueError, match=f"`{name}` must be"):
                setattr(known, name, value)


def test_no_number_is_without_limits():
    for config in CONFIGS:
        own = {name: field for name, field in config.__dataclass_fields__.items() if name not in INHERITED}
        numeric = {name for name, field in own.items() if re.search(r"\b(int|float)\b", str(field.type))}
        assert numeric == {name for name, field in own.items() if "limits" in field.metadata}


@pytest.mark.parametrize(("fields", "message"), LABELS)
def test_classes_are_numbered_from_zero(fields, message, tmp_path):
    refuse_from_json(fields, message, tmp_path)


@pytest.mark.parametrize(("fields", "message"), SIZES)
def test_models_that_cannot_be_built(fields, message, tmp_path):
    refuse_from_json(fields, message, tmp_path)


def test_label2id_follows_from_id2label():
    assert XCiTConfig(id2label={0: "qcd", 1: "top"}).label2id == {"qcd": 0, "top": 1}


def test_a_chain_of_convolutions_has_a_width():
    with pytest.raises(ValueError, match="smaller `patch_size` than 256"):
        XCiTForImageClassification(XCiTConfig(patch_size=256, hidden_size=16))


PROCESSORS = [
    *[({"channel_scale": [1.0, x]}, f"Each number of `channel_scale` must be .*, got {x}") for x in (nan, inf, 0, -1)],
    ({"channel_scale": [1.0, 1e-45]}, "positive number from 1e-18"),
    ({"channel_scale": ["1", 1.0]}, "got 1"),
    ({"channel_scale": 1.0}, "`channel_scale` must be a list, got 1.0"),
    ({"image_size": "125"}, r"`image_size` is one side or \(height, width\), got '125'"),
    ({"image_size": 0}, "`image_size` must be"),
    ({"image_size": 10**6}, "from 1 to 4096, got 1000000"),
    ({"image_size": [5]}, "one side or"),
    ({"aux_names": ["pt"], "aux_mean": [nan], "aux_std": [1.0]}, "`aux_mean` must be"),
    ({"aux_names": ["pt"], "aux_mean": [0.0], "aux_std": [0.0]}, "`aux_std` must be a positive"),
    ({"aux_names": ["mass"], "aux_mean": [0.0], "aux_std": [1.0]}, "got mass"),
]


@pytest.mark.parametrize(("fields", "message"), PROCESSORS)
def test_processors(fields, message, tmp_path):
    known = {"channel_names": ["ecal", "hcal"], "image_size": 5}
    with pytest.raises(ValueError, match=message):
        E2EImageProcessor(**(known | fields))
    E2EImageProcessor(**known).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_limits_fit_into_float32():
    low, high, _ = POSITIVE
    for number in (low, high):
        assert 0 < float(torch.tensor(number) ** 2) < inf


@pytest.mark.parametrize("name", MODELS)
def test_real_models_are_within(name):
    assert MODELS[name]().num_weights < 1_000_000
