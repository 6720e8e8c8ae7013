"""Training: recipes, the loops, checkpoints."""

from .arguments import DataArguments, ModelArguments, TrainArguments
from .checkpoint import check_output_dir, load_model, run_info, save_checkpoint
from .loop import History, make_loader, predict, train
from .process import start_accelerator
from .recipe import parse_recipe

__all__ = [
    "DataArguments",
    "History",
    "ModelArguments",
    "TrainArguments",
    "check_output_dir",
    "load_model",
    "make_loader",
    "parse_recipe",
    "predict",
    "run_info",
    "save_checkpoint",
    "start_accelerator",
    "train",
]
