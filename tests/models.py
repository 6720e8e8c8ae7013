"""One small model of each kind, and a matching batch."""

from functools import partial

import torch
from e2evit.modeling import FAMILIES
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from transformers import AutoModelForImageClassification

BACKBONES = {
    "vit": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"intermediate_size": 64, "patch_size": 5},
    "swin": {"model_type": "swin", "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 5}
    | {"patch_size": 5},
    "convnextv2": {"model_type": "convnextv2", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    | {"patch_size": 5},
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    | {"layer_type": "basic"},
}
CHANNELS = ["trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3"]  # as of jets
SHARED = {"image_size": 50, "num_aux_features": 2, "mass_mean": 120.0, "mass_std": 40.0}
STUDY = {"pixel_features": True, "energy_pooling": True, "mass_loss": "quantile"}
ONE_STAGE = {"hidden_sizes": [16], "depths": [2], "num_attention_heads": [2], "mlp_ratios": [2]}
# a small instance of each of our own families; baselines are built from their backbones' configs
SMALL = {
    "linearvit": {"hidden_sizes": [16, 32], "depths": [2, 2], "num_attention_heads": [2, 2], "mlp_ratios": [2, 2]},
    "xcit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "hitvit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pixel_hidden_size": 16},
}
OURS = list(SMALL)


def _config(model_type, fields, **overrides):
    backbone = {"backbone_config": dict(fields["backbone_config"])} if "backbone_config" in fields else {}
    return FAMILIES[model_type].config(**SHARED | fields | backbone | overrides)


_fields = {name: (name, fields) for name, fields in SMALL.items()}
_fields |= {
    f"linearvit_{mixer}": ("linearvit", ONE_STAGE | {"global_attention": mixer})
    for mixer in GLOBAL_ATTENTIONS
    if mixer != "relu_linear"  # that of "linearvit"
}
# with everything that the study adds to the papers' models
_fields |= {
    "linearvit_study": ("linearvit", ONE_STAGE | STUDY | {"fourier_positions": True, "attention_pooling": True}),
    "xcit_study": ("xcit", SMALL["xcit"] | STUDY),
    "hitvit_patches": (  # as the study's
        "hitvit",
        SMALL["hitvit"]
        | {"num_patch_layers": 1, "patch_size": 5, "patch_hidden_size": 16, "local_mixing": "none", "num_masses": 2},
    ),
    "hitvit_periodic": (
        "hitvit",
        SMALL["hitvit"]
        | {"num_patch_layers": 1, "patch_stride": 1, "patch_hidden_size": 16, "periodic_columns": True},
    ),
    "hitvit_convolution": ("hitvit", SMALL["hitvit"] | {"local_mixing": "both", "global_mixing": "relu_linear"}),
}
_fields |= {
    f"{name}_study": ("e2e_baseline", STUDY | {"backbone_config": BACKBONES[name]}) for name in ("resnet", "vit")
}
_fields |= {name: ("e2e_baseline", {"backbone_config": backbone}) for name, backbone in BACKBONES.items()}
MODELS = {name: partial(_config, model_type, fields) for name, (model_type, fields) in _fields.items()}


def make(name, seed=0, **overrides):
    torch.manual_seed(seed)
    return AutoModelForImageClassification.from_config(MODELS[name](**overrides)).eval()


def batch(number=3, size=(50, 50), seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.rand(number, 8, *size, generator=generator)
    pixel_values *= torch.rand(number, 8, *size, generator=generator) < 0.05
    return {
        "pixel_values": pixel_values,
        "aux_values": torch.randn(number, 2, generator=generator),
        "labels": torch.arange(number) % 2,
        "mass_labels": torch.linspace(80, 170, number),
    }


def jets(number=4, size=(50, 50), occupancy=0.02):
    """Images of [`CHANNELS`] of which each has other pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, 8, *size, generator=generator)
    return images * (torch.rand(images.shape, generator=generator) < occupancy)
