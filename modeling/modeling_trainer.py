"""What transformers' `Trainer` reads off a model if its arguments are left at their defaults."""

from collections.abc import Callable
from inspect import Parameter, signature

import torch

__all__ = ["ROW_COLUMNS", "reach", "shown_to_trainer"]

# of data sets of detector images, from which a collator makes the model's inputs; targets are arguments themselves
ROW_COLUMNS = ("pixel_index", "pixel_value", "pt", "ieta", "iphi")


class _OptionalTarget(str):
    """The name of a target that may be missing: `Trainer` evaluates only batches with every argument that has "label"
    in its name."""

    def __contains__(self, part: str) -> bool:
        return part != "label" and super().__contains__(part)


def shown_to_trainer(forward: Callable) -> Callable:
    """Complete the signature of `forward`, by which `Trainer` decides which columns of a data set to remove, and which
    targets an evaluation needs: `labels` only."""
    shown = signature(forward)
    parameters = [
        parameter.replace(name=_OptionalTarget(name)) if name == "mass_labels" else parameter
        for name, parameter in shown.parameters.items()
    ]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in ROW_COLUMNS]
    parameters.sort(key=lambda parameter: parameter.kind)
    forward.__signature__ = shown.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return forward


def reach(outputs: torch.Tensor) -> torch.Tensor:
    """Zero, with gradients of zero for all that `outputs` depend on: DDP waits for a gradient of every parameter."""
    return outputs.where(torch.zeros_like(outputs, dtype=torch.bool), 0.0).sum()
