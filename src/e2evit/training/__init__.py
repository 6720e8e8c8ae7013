"""Training: settings, the loop, checkpoints, predictions."""

import warnings
from importlib import import_module

from .arguments import (
    AugmentationArguments,
    ContrastiveArguments,
    DataArguments,
    DecorrelationArguments,
    MaskArguments,
    MassWeightArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
)
from .checkpoint import (
    TrainedOn,
    find_checkpoint,
    import_model_module,
    load_model,
    new_model,
    pretrained_model,
    read_config,
    read_model_config,
)
from .cost import model_cost, peak_memory_gib
from .data import load_data, targets_of, with_test_fold
from .evaluation import evaluate
from .loaders import make_loader
from .output import check_output_dir, claimed_output_dir, run_info, write_files
from .pieces import predict_in_pieces
from .prediction import predict
from .process import end_processes, is_first_process, start_accelerator
from .run import TrainedModel, run_recipe, train
from .state import PREEMPTED_EXIT_CODE, History, Preempted

__all__ = [
    "PREEMPTED_EXIT_CODE",
    "AugmentationArguments",
    "ContrastiveArguments",
    "DataArguments",
    "DecorrelationArguments",
    "History",
    "MaskArguments",
    "MassWeightArguments",
    "ModelArguments",
    "Preempted",
    "Recipe",
    "TargetArguments",
    "TrainArguments",
    "TrainedModel",
    "TrainedOn",
    "check_output_dir",
    "claimed_output_dir",
    "end_processes",
    "evaluate",
    "find_checkpoint",
    "import_model_module",
    "is_first_process",
    "load_data",
    "load_model",
    "make_loader",
    "model_cost",
    "new_model",
    "peak_memory_gib",
    "predict",
    "predict_in_pieces",
    "pretrained_model",
    "read_config",
    "read_model_config",
    "run_info",
    "run_recipe",
    "start_accelerator",
    "targets_of",
    "train",
    "with_test_fold",
    "write_files",
]


_MOVED = {"parse_recipe": "e2evit.cli.parser", "run_training": "e2evit.cli.train"}  # names from before 0.1


def __getattr__(name: str):
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is now in {_MOVED[name]}.", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
