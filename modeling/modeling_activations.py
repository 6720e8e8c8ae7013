"""GELU and ReLU in forms that are faster when compiled; eager code gets PyTorch's own."""

import torch
from torch.nn import functional as F

from .modeling_operators import define_operator

__all__ = ["gelu", "relu"]


def gelu(hidden_states: torch.Tensor) -> torch.Tensor:
    """x Φ(x), the exact GELU.

    Compiled training on CPUs calls PyTorch's kernels: inductor's take twice as long in bfloat16, the backward pass
    included, and 1.3 times as long in float32. Without gradients inductor fuses it into the matrix product before it.
    """
    is_training = torch.is_grad_enabled() and _is_compiling(hidden_states)
    if is_training and hidden_states.device.type == "cpu":
        return _gelu_operator(hidden_states)
    return F.gelu(hidden_states)


def relu(hidden_states: torch.Tensor) -> torch.Tensor:
    """max(x, 0)."""
    return _CompiledRelu.apply(hidden_states) if _is_compiling(hidden_states) else F.relu(hidden_states)


def _is_compiling(tensor) -> bool:
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting() and tensor.dtype != torch.double


def _gelu(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.gelu(hidden_states)


def _gelu_backward(gradient: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.gelu_backward(gradient, hidden_states)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gradient):
    return _gelu_backward_operator(gradient, *ctx.saved_tensors)


_gelu_backward_operator = define_operator("gelu_backward", _gelu_backward, lambda gradient, x: torch.empty_like(x))
_gelu_operator = define_operator("gelu", _gelu, torch.empty_like, _differentiate, _save)


class _CompiledRelu(torch.autograd.Function):
    """The backward pass reads the sign of the result: storing a boolean mask takes the CPU ten times as long."""

    @staticmethod
    def forward(ctx, hidden_states):
        result = hidden_states.clamp(min=0)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].sign()
