"""One small model of every kind, and a batch for it."""

import torch
from transformers import AutoModelForImageClassification

from e2evit import BaselineConfig, LinearViTConfig, XCiTConfig

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
SHARED = {"image_size": 50, "num_aux_features": 2, "mass_mean": 120.0, "mass_std": 40.0}
STUDY = {"pixel_features": True, "energy_pooling": True}
MODELS = {
    "linearvit": lambda **k: LinearViTConfig(
        hidden_sizes=[16, 32], depths=[2, 2], num_attention_heads=[2, 2], mlp_ratios=[2, 2], **SHARED | k
    ),
    **{
        f"linearvit_{mixer}": lambda mixer=mixer, **k: LinearViTConfig(
            global_attention=mixer,
            hidden_sizes=[16],
            depths=[2],
            num_attention_heads=[2],
            mlp_ratios=[2],
            **SHARED | k,
        )
        for mixer in ("softmax", "xca", "rala", "mala", "inline", "focused", "polaformer", "mila", "ttt")
    },
    "xcit": lambda **k: XCiTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **SHARED | k),
    # with all that the study's models have beside their papers
    "linearvit_study": lambda **k: LinearViTConfig(
        hidden_sizes=[16],
        depths=[2],
        num_attention_heads=[2],
        mlp_ratios=[2],
        fourier_positions=True,
        **STUDY | SHARED | k,
    ),
    "xcit_study": lambda **k: XCiTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **STUDY | SHARED | k
    ),
    **{
        f"{name}_study": lambda name=name, **k: BaselineConfig(
            backbone_config=dict(BACKBONES[name]), **STUDY | SHARED | k
        )
        for name in ("resnet", "vit")
    },
    **{
        name: lambda backbone=backbone, **k: BaselineConfig(backbone_config=dict(backbone), **SHARED | k)
        for name, backbone in BACKBONES.items()
    },
}


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
