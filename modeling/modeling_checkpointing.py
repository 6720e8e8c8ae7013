"""BatchNorm under gradient checkpointing, which runs each block's forward pass a second time."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["OWN_HOOKS", "update_statistics_once"]


def update_statistics_once(model: nn.Module) -> None:
    """Let the BatchNorms of `model` update their running statistics in the first pass only.

    Whichever kind of checkpointing repeats a block, it does so within the backward pass.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_set_aside)
            module.register_forward_hook(_put_back)


def _is_repeated(module: nn.Module) -> bool:
    # a compiled graph updates once: its repetitions have no side effects
    return module.training and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _set_aside(module: nn.Module, inputs: tuple) -> None:
    if _is_repeated(module):
        kept = module.__dict__["_set_aside"] = dict(module._buffers)
        for name, buffer in kept.items():
            setattr(module, name, None if buffer is None else buffer.clone())


def _put_back(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
    if _is_repeated(module):
        for name, buffer in module.__dict__.pop("_set_aside").items():
            setattr(module, name, buffer)


OWN_HOOKS = (_set_aside, _put_back)
