"""Linear-attention vision transformers for CMS end-to-end (E2E) detector images.

Importing it makes the models known to the Auto classes and pipelines of transformers (`hub/registration.py`), but
loads neither transformers nor torch until they are needed: a process that prepares data would take three times the
memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .hub.registration import register_when_needed

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from .data import load_e2e
    from .hub.conversion import convert_reference
    from .modeling import (  # pyright: ignore[reportMissingImports] # the top-level folder, in an editable install
        BaselineConfig,
        BaselineForImageClassification,
        BaselineModel,
        E2EImageProcessor,
        E2EOutput,
        HitViTConfig,
        HitViTForImageClassification,
        HitViTForJetsInEvents,
        HitViTForMaskedImageModeling,
        HitViTModel,
        LinearViTBackbone,
        LinearViTConfig,
        LinearViTForImageClassification,
        LinearViTForMaskedImageModeling,
        LinearViTModel,
        XCiTBackbone,
        XCiTConfig,
        XCiTForImageClassification,
        XCiTForMaskedImageModeling,
        XCiTModel,
    )
    from .results.record import Result
    from .simulation import simulate
    from .training import DataArguments, TargetArguments, TrainArguments, evaluate, train

__version__ = "0.1.0"

__all__ = [
    "BaselineConfig",
    "BaselineForImageClassification",
    "BaselineModel",
    "DataArguments",
    "E2EImageProcessor",
    "E2EOutput",
    "HitViTConfig",
    "HitViTForImageClassification",
    "HitViTForJetsInEvents",
    "HitViTForMaskedImageModeling",
    "HitViTModel",
    "LinearViTBackbone",
    "LinearViTConfig",
    "LinearViTForImageClassification",
    "LinearViTForMaskedImageModeling",
    "LinearViTModel",
    "Result",
    "TargetArguments",
    "TrainArguments",
    "XCiTBackbone",
    "XCiTConfig",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
    "convert_reference",
    "evaluate",
    "load_e2e",
    "simulate",
    "train",
]

_HOMES = {  # the others are models
    "convert_reference": "hub.conversion",
    "load_e2e": "data",
    "DataArguments": "training",
    "Result": "results.record",
    "TargetArguments": "training",
    "TrainArguments": "training",
    "evaluate": "training",
    "simulate": "simulation",
    "train": "training",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'modeling')}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
