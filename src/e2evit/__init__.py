"""Linear-attention vision transformers for CMS end-to-end (E2E) detector images."""

from .conversion import convert_reference
from .data import load_e2e
from .modeling import (
    BaselineConfig,
    BaselineForImageClassification,
    E2EImageProcessor,
    E2EOutput,
    LinearViTConfig,
    LinearViTForImageClassification,
    LinearViTForMaskedImageModeling,
    LinearViTModel,
    XCiTConfig,
    XCiTForImageClassification,
    XCiTForMaskedImageModeling,
    XCiTModel,
)
from .simulation import simulate
from .training import predict, train

__version__ = "0.1.0"

__all__ = [
    "BaselineConfig",
    "BaselineForImageClassification",
    "E2EImageProcessor",
    "E2EOutput",
    "LinearViTConfig",
    "LinearViTForImageClassification",
    "LinearViTForMaskedImageModeling",
    "LinearViTModel",
    "XCiTConfig",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
    "convert_reference",
    "load_e2e",
    "predict",
    "simulate",
    "train",
]
