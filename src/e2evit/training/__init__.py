"""Training: recipes, the loops, checkpoints."""

from .arguments import DataArguments, ModelArguments, TrainArguments
from .checkpoint import check_output_dir, load_model, run_info, save_checkpoint
from .cost import model_cost, peak_memory_gib
from .loop import make_loader, train
from .pieces import predict_in_pieces
from .prediction import predict
from .process import end_processes, start_accelerator
from .recipe import as_flags, parse_recipe
from .run import run_training
from .state import PREEMPTED_EXIT_CODE, History, Preempted

__all__ = [
    "PREEMPTED_EXIT_CODE",
    "DataArguments",
    "History",
    "ModelArguments",
    "Preempted",
    "TrainArguments",
    "as_flags",
    "check_output_dir",
    "end_processes",
    "load_model",
    "make_loader",
    "model_cost",
    "parse_recipe",
    "peak_memory_gib",
    "predict",
    "predict_in_pieces",
    "run_info",
    "run_training",
    "save_checkpoint",
    "start_accelerator",
    "train",
]
