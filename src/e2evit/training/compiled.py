"""Compiled models, on a GPU as CUDA graphs: launching kernels is what takes long there at a million parameters."""

import logging
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .arguments import TrainArguments

__all__ = ["WholeBatches", "compile_model", "eagerly", "is_worth_compiling", "undo_compiling"]

logger = logging.getLogger(__name__)

GRAPHS = {"cuda"}  # devices that replay a step as one graph
PAYS = 500_000  # images: run eagerly, they take about as long as compiling


def is_worth_compiling(accelerator: Accelerator, model: nn.Module, settings: TrainArguments, num_images: int) -> bool:
    """Whether to compile a model for a run that sees `num_images` images; where the settings leave it open, if it
    becomes CUDA graphs.
    """
    if settings.torch_compile is not None:
        return settings.torch_compile
    chosen = num_images >= PAYS and _becomes_graphs(accelerator, model, settings) and _has_compiler()
    if chosen:
        logger.info("The model is compiled into CUDA graphs first; `--torch_compile false` runs it as it is")
    return chosen


def compile_model(
    accelerator: Accelerator, model: nn.Module, settings: TrainArguments, prepared: nn.Module
) -> "WholeBatches":
    """Compile in place what a call of `model` does, which Accelerate has `prepared`; [`undo_compiling`] undoes it."""
    graphs = _becomes_graphs(accelerator, model, settings)
    model.compile(**({"mode": "reduce-overhead", "dynamic": False} if graphs else {}))
    return WholeBatches(prepared, settings.per_device_batch_size)


def undo_compiling(model: nn.Module) -> None:
    """A graph overwrites its outputs in the next call, which users of a model would not expect."""
    model._compiled_call_impl = None


def eagerly(model: nn.Module) -> AbstractContextManager:
    """Within this, calls of a model make no graph, even if it is compiled."""
    return nullcontext() if model._compiled_call_impl is None else torch.compiler.set_stance("force_eager")


class WholeBatches:
    """A compiled model that runs batches of another size than `batch_size` eagerly: the last one of an epoch is not
    worth a graph of its own.
    """

    def __init__(self, model: nn.Module, batch_size: int):
        self.model, self.batch_size = model, batch_size

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def __call__(self, **batch: torch.Tensor):
        size = len(batch["pixel_values"]) if "pixel_values" in batch else len(batch["row_offsets"]) - 1
        with torch.compiler.set_stance("default" if size == self.batch_size else "force_eager"):
            return self.model(**batch)


def _becomes_graphs(accelerator: Accelerator, model: nn.Module, settings: TrainArguments) -> bool:
    """Not lists of pixels, whose batches differ in shape; nor gradients that outlive a step or are exchanged."""
    is_alone = accelerator.distributed_type == DistributedType.NO and settings.gradient_accumulation_steps == 1
    return accelerator.device.type in GRAPHS and is_alone and not model.reads_rows


def _has_compiler() -> bool:
    """What inductor needs on a GPU: Triton, and a compiler of C for what launches its kernels."""
    return find_spec("triton") is not None and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
