"""Layer norms whose gradients are right in mixed precision on CPUs."""

import torch
from torch import nn

__all__ = ["LayerNorm", "widen_layer_norms"]


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`; on CPUs bfloat16 tokens are normalised in float32, and returned in bfloat16.

    PyTorch's kernel adds the gradients of weight and bias up in bfloat16, one token after the other: of 30 000 tokens
    a sum keeps little but its beginning.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _has_bad_gradients(self, hidden_states):
            return super().forward(hidden_states)
        return super().forward(hidden_states.float()).to(hidden_states.dtype)


def widen_layer_norms(model: nn.Module) -> None:
    """The same for a model that is not ours; its norms then return float32, as they do under autocast on GPUs."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_widen_input)


def _widen_input(module: nn.LayerNorm, inputs: tuple) -> tuple:
    return (inputs[0].float(), *inputs[1:]) if _has_bad_gradients(module, inputs[0]) else inputs


def _has_bad_gradients(norm: nn.LayerNorm, hidden_states: torch.Tensor) -> bool:
    is_mixed = hidden_states.dtype == torch.bfloat16 and norm.weight is not None and norm.weight.dtype == torch.float
    return is_mixed and hidden_states.device.type == "cpu" and torch.is_grad_enabled()
