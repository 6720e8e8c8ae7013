"""What transformers' `Trainer` reads off a model unless its arguments say otherwise."""

from collections.abc import Callable
from functools import cache
from inspect import Parameter, signature

import torch
from transformers.trainer_pt_utils import LabelSmoother

from .image_processing_e2e import AUX_COLUMNS

__all__ = ["INPUT_COLUMNS", "add_loss_to_smoothed", "shown_to_trainer", "zero_loss"]

# columns of rows from which a collator makes the model's inputs and, of `merged`, a target
INPUT_COLUMNS = ("pixel_index", "pixel_value", "merged", *AUX_COLUMNS)
OPTIONAL_TARGETS = ("mass_labels", "containment_labels")


class _OptionalTarget(str):
    """The name of a target that may be missing: `Trainer` evaluates only batches that have every argument with "label"
    in its name."""

    def __contains__(self, part: str) -> bool:
        return part != "label" and super().__contains__(part)


def shown_to_trainer(forward: Callable) -> Callable:
    """Complete the signature of `forward`, which tells `Trainer` the columns to keep, and that an evaluation needs
    `labels` only."""
    shown = signature(forward)
    parameters = [
        parameter.replace(name=_OptionalTarget(name)) if name in OPTIONAL_TARGETS else parameter
        for name, parameter in shown.parameters.items()
    ]
    columns = [name for name in INPUT_COLUMNS if name not in shown.parameters]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in columns]
    parameters.sort(key=lambda parameter: parameter.kind)  # `**kwargs` last
    forward.__signature__ = shown.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return forward


def zero_loss(outputs: torch.Tensor) -> torch.Tensor:
    """Zero, with zero gradients for all that `outputs` depend on: DDP waits for a gradient of every parameter."""
    return outputs.where(torch.zeros_like(outputs, dtype=torch.bool), 0.0).sum()


@cache
def add_loss_to_smoothed(output_class: type) -> None:
    """With `label_smoothing_factor`, add the loss of our outputs, that of the mass, to `Trainer`'s own.

    `Trainer` withholds `labels` from the model and smooths them with the logits alone, so only its smoother sees both
    losses. What it returns for other models stays the same.
    """
    smooth = LabelSmoother.__call__

    def smooth_and_add(smoother, model_output, *args, **kwargs):
        loss = smooth(smoother, model_output, *args, **kwargs)
        if not isinstance(model_output, output_class):
            return loss
        if model_output.loss is not None:
            return loss + model_output.loss
        idle = model_output.mass_outputs, model_output.containment_logits
        return loss + sum(zero_loss(outputs) for outputs in idle if outputs is not None)

    LabelSmoother.__call__ = smooth_and_add  # pyright: ignore[reportAttributeAccessIssue]
