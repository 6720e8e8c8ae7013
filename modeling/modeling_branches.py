"""Residual branches: what a block adds to its tokens, and which kernel computes it.

Each function returns `x + drop_path(gamma * module(norm(x)))`, which [`residual`] writes out. In compiled inference a
branch that meets its kernel's conditions runs as one kernel (`modeling_kernels.py`) instead.
"""

import torch
from torch import nn

from .modeling_cross_covariance import cross_covariance_attention_in_blocks
from .modeling_depthwise import on_grid
from .modeling_kernels import (
    LANES,
    SIDES,
    can_fuse,
    fused_depthwise_residual,
    fused_linear_attention,
    fused_local_interaction,
    fused_mlp,
    fused_project,
    fused_project_back,
    fused_window_attention,
)

__all__ = ["attention_branch", "depthwise_branch", "local_branch", "mlp_branch", "residual"]


def residual(
    hidden_states: torch.Tensor,
    norm: nn.Module,
    module: nn.Module,
    gamma: torch.Tensor | None = None,
    drop_path: nn.Module | None = None,
) -> torch.Tensor:
    """`x + drop_path(gamma * module(norm(x)))`; `gamma` `(D,)` is LayerScale."""
    branch = module(norm(hidden_states))
    branch = branch if gamma is None else gamma * branch
    return hidden_states + (branch if drop_path is None else drop_path(branch))


def mlp_branch(hidden_states, norm, mlp, gamma=None, drop_path=None) -> torch.Tensor:
    """The residual of an `Mlp`; tokens `(B, ..., D)`."""
    if can_fuse(hidden_states, norm, mlp) and mlp.fc1.out_features % LANES == 0:
        return fused_mlp(hidden_states, norm, mlp, gamma)
    return residual(hidden_states, norm, mlp, gamma, drop_path)


def local_branch(hidden_states, norm, module, gamma=None, drop_path=None) -> torch.Tensor:
    """The residual of a `LocalInteraction`; a grid `(B, H, W, D)`."""
    # the kernel pads with zeros: it does not go around
    if not module.periodic and can_fuse(hidden_states, norm, module) and module.conv1.kernel_size[0] in SIDES:
        return fused_local_interaction(hidden_states, norm, module, gamma)
    return residual(hidden_states, norm, module, gamma, drop_path)


def depthwise_branch(hidden_states: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """`x + convolution(x)`, depthwise on a grid `(B, H, W, D)`."""
    if can_fuse(hidden_states, convolution) and convolution.kernel_size[0] in SIDES:
        return fused_depthwise_residual(hidden_states, convolution)
    return hidden_states + on_grid(convolution, hidden_states)


def attention_branch(hidden_states, norm, attention, gamma=None, drop_path=None) -> torch.Tensor:
    """The residual of any attention module; one with a kernel names it (`kernel_name`)."""
    kernel_name = getattr(attention, "kernel_name", None)
    if kernel_name is not None and can_fuse(hidden_states, norm, attention):
        if kernel_name == "cross_covariance":
            return _cross_covariance(hidden_states, norm, attention, gamma)
        # heads are read in pairs of channels; these two kernels have no LayerScale
        if gamma is None and hidden_states.shape[-1] // attention.num_heads % 2 == 0:
            fused = {"window": fused_window_attention, "linear": fused_linear_attention}[kernel_name]
            return fused(hidden_states, norm, attention)
    return residual(hidden_states, norm, attention, gamma, drop_path)


def _cross_covariance(hidden_states, norm, attention, gamma):
    query, key, value = (part.flatten(1, -2) for part in fused_project(hidden_states, norm, attention.qkv))
    context = cross_covariance_attention_in_blocks(query, key, value, attention.temperature)
    return fused_project_back(hidden_states, context.view(hidden_states.shape), attention.proj, gamma)
