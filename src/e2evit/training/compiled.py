"""Compiled models. On a GPU they run as CUDA graphs: at a million parameters, most of a step is launching kernels."""

import logging
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .arguments import TrainArguments

__all__ = ["WholeBatches", "compile_model", "is_worth_compiling"]

logger = logging.getLogger(__name__)

GRAPHS = {"cuda"}  # devices that replay a step as one graph
MIN_IMAGES = 500_000  # fewer are trained eagerly in the time that compiling takes (estimated, not measured)
LOWEST_CAPABILITY = (7, 0)  # of a GPU that inductor writes kernels for


def is_worth_compiling(accelerator: Accelerator, model: nn.Module, settings: TrainArguments, num_images: int) -> bool:
    """Whether to compile the model of a run that sees `num_images` images. By default, only if it becomes CUDA graphs
    and the run is long enough to pay for compiling.
    """
    if settings.torch_compile is not None:
        return settings.torch_compile
    chosen = num_images >= MIN_IMAGES and _becomes_graphs(accelerator, model, settings) and _can_compile(accelerator)
    if chosen:
        logger.info("Compiling the model into CUDA graphs; `--torch_compile false` skips this")
    return chosen


def compile_model(
    accelerator: Accelerator, model: nn.Module, settings: TrainArguments, prepared: nn.Module
) -> "WholeBatches":
    """The compiled form of a model that Accelerate has `prepared`; both have the same weights."""
    options: dict = {}
    if _becomes_graphs(accelerator, model, settings):
        options = {"mode": "reduce-overhead", "dynamic": False}
    elif accelerator.device.type == "cpu":  # see `compile` in modeling_e2e.py
        options = {"options": {"layout_optimization": False}}
    return WholeBatches(prepared, settings.per_device_batch_size, **options)


class WholeBatches:
    """A model that is compiled for batches of `batch_size`, and runs others eagerly: the last one of an epoch is not
    worth a graph of its own.

    Args:
        options: Of `torch.compile`.
    """

    def __init__(self, model: nn.Module, batch_size: int, **options):
        torch.compiler.reset()  # it stops compiling code, shared by all models, that has seen too many of them
        self.model, self.batch_size, self.compiled = model, batch_size, torch.compile(model, **options)

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def __call__(self, **batch: torch.Tensor):
        images = next((batch[name] for name in ("pixel_values", "candidate_values") if name in batch), None)
        size = len(batch["row_offsets"]) - 1 if images is None else len(images)
        return (self.compiled if size == self.batch_size else self.model)(**batch)


def _becomes_graphs(accelerator: Accelerator, model: nn.Module, settings: TrainArguments) -> bool:
    """Not lists of pixels or candidates, whose batches differ in shape; nor gradients that outlive a step or are
    exchanged."""
    is_alone = accelerator.distributed_type == DistributedType.NO and settings.gradient_accumulation_steps == 1
    return accelerator.device.type in GRAPHS and is_alone and not (model.reads_rows or model.reads_candidates)


def _can_compile(accelerator: Accelerator) -> bool:
    """Whether there is what inductor and Triton need on a GPU: a GPU that is new enough, a C compiler and Python's
    headers.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    has_headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    is_new = torch.cuda.get_device_capability(accelerator.device) >= LOWEST_CAPABILITY
    return find_spec("triton") is not None and compiler is not None and has_headers and is_new
