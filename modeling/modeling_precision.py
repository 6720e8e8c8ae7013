"""Computed in float32 although the tokens are not: normalisers, layer norms on CPUs, the float16 residual stream."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

__all__ = ["LayerNorm", "no_autocast", "residual_stream", "widen", "widen_layer_norms"]


def widen(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in float32; float64 tensors are kept."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


def no_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """Switches autocast off on the tensor's device; the meta device has none."""
    device_type = tensor.device.type
    return (
        torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()
    )


def residual_stream(hidden_states: torch.Tensor) -> torch.Tensor:
    """Tokens in float32 if autocast made them float16: the gradient of a sum of many branches soon exceeds 65504."""
    is_half = hidden_states.dtype == torch.float16
    return hidden_states.float() if is_half and torch.is_autocast_enabled(hidden_states.device.type) else hidden_states


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that, when training on CPUs, normalises bfloat16 tokens in float32 and returns bfloat16.

    PyTorch's kernel accumulates the gradients of weight and bias in bfloat16, token by token: summed over 30 000
    tokens, little but the first few hundred survives.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _loses_gradients(self, hidden_states):
            return super().forward(hidden_states)
        return super().forward(hidden_states.float()).to(hidden_states.dtype)


def widen_layer_norms(model: nn.Module) -> None:
    """The same for a model that we only wrap; its norms then return float32, as they do under autocast on GPUs."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_widen_input)


def _widen_input(module: nn.Module, inputs: tuple) -> tuple:
    return (inputs[0].float(), *inputs[1:]) if _loses_gradients(module, inputs[0]) else inputs


def _loses_gradients(norm: nn.Module, hidden_states: torch.Tensor) -> bool:
    weight = norm.weight
    is_mixed = hidden_states.dtype == torch.bfloat16 and weight is not None and weight.dtype == torch.float
    return is_mixed and hidden_states.device.type == "cpu" and torch.is_grad_enabled()
