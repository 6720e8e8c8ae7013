"""Tensors that depend on no input: made once for each device."""

from functools import lru_cache

import torch

__all__ = ["constant", "table"]


def constant(values: tuple, device: torch.device) -> torch.Tensor:
    """A tensor that is copied to a device once: each copy would wait for all that a GPU has been asked before."""
    return table(device, torch.tensor, values)


def table(device: torch.device, function, *arguments) -> torch.Tensor:
    """As [`constant`], of what a function returns."""
    if torch.compiler.is_compiling():  # or exporting: a graph has tensors of its own
        return torch.as_tensor(function(*arguments)).to(device)
    return _tables(device, function, *arguments)


@lru_cache(maxsize=64)
def _tables(device: torch.device, function, *arguments) -> torch.Tensor:
    with torch.inference_mode(False):  # a training may come after
        return torch.as_tensor(function(*arguments)).to(device)
