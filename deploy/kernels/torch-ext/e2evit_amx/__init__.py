"""Inference of whole residual branches in bfloat16 on x86-64 processors with AMX, and depthwise convolutions.

A branch reads and writes its tokens once; sums are float32. Tokens are bfloat16 `(..., D)` or a grid `(B, H, W, D)`,
contiguous; widths are multiples of 32. Weights of products come as [`panels`], all vectors are float32. Source of the
kernels: e2evit, which has slow twins of each in its tests.
"""

import torch

if not (torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()):
    raise ImportError("e2evit_amx needs an x86-64 processor with AMX, such as Intel's Sapphire Rapids, and Linux.")

from ._ops import add_op_namespace_prefix, ops

__all__ = [
    "depthwise",
    "depthwise_gradient",
    "linear_attention",
    "local_interaction",
    "mlp",
    "panels",
    "project",
    "project_back",
    "window_attention",
]


def panels(weight: torch.Tensor) -> torch.Tensor:
    """The weight `(N, K)` of a linear layer as `(N / 32, K / 2, 32, 2)` in bfloat16, as tiles read it."""
    weight = weight.to(torch.bfloat16)
    return weight.unflatten(0, (-1, 32)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def mlp(x, norm_weight, norm_bias, eps, panels1, bias1, panels2, bias2, gamma):
    """x + gamma (GELU(norm(x) W1 + b1) W2 + b2)."""
    return ops.mlp(x, norm_weight, norm_bias, eps, panels1, bias1, panels2, bias2, gamma)


def project(x, norm_weight, norm_bias, eps, panels, bias):
    """norm(x) W + b, `(parts, ..., D)`: query, key and value each contiguous."""
    return ops.project(x, norm_weight, norm_bias, eps, panels, bias)


def project_back(x, context, panels, bias, gamma):
    """x + gamma (context W + b)."""
    return ops.project_back(x, context, panels, bias, gamma)


def window_attention(x, norm_weight, norm_bias, eps, panels_qkv, bias_qkv, panels, bias, num_heads, side):
    """x + softmax attention of norm(x) in windows of `side` x `side` tokens of a grid."""
    return ops.window_attention(x, norm_weight, norm_bias, eps, panels_qkv, bias_qkv, panels, bias, num_heads, side)


def linear_attention(
    x, norm_weight, norm_bias, eps, panels_qkv, bias_qkv, key_weight, temperature, floor, panels, bias
):
    """x + ReLU linear attention of norm(x), tokens `(B, N, D)`.

    Args:
        key_weight: The rows of the weight that make the key, `(D, D)` in bfloat16.
        temperature: `(heads,)`.
        floor: The smallest denominator.
    """
    return ops.linear_attention(
        x, norm_weight, norm_bias, eps, panels_qkv, bias_qkv, key_weight, temperature, floor, panels, bias
    )


def depthwise(x, kernel, bias, side):
    """Depthwise convolution of a grid with `kernel` `(side * side, D)`."""
    return ops.depthwise(x, kernel, bias, side)


def depthwise_gradient(gradient, x, side):
    """Gradients of kernel and bias of [`depthwise`], `(side * side + 1, D)` in float32."""
    return ops.depthwise_gradient(gradient, x, side)


def local_interaction(x, norm_weight, norm_bias, eps, kernel1, bias1, scale, shift, kernel2, bias2, gamma, side):
    """x + gamma LPI(norm(x)) of a grid: depthwise, GELU, `scale` and `shift` of a batch norm, depthwise."""
    return ops.local_interaction(
        x, norm_weight, norm_bias, eps, kernel1, bias1, scale, shift, kernel2, bias2, gamma, side
    )


def _like_the_tokens(x, *arguments):
    return torch.empty_like(x)


for _name in ("depthwise", "linear_attention", "local_interaction", "mlp", "project_back", "window_attention"):
    torch.library.register_fake(add_op_namespace_prefix(_name))(_like_the_tokens)


@torch.library.register_fake(add_op_namespace_prefix("project"))
def _project(x, norm_weight, norm_bias, eps, panels, bias):
    return x.new_empty(len(bias) // x.shape[-1], *x.shape)


@torch.library.register_fake(add_op_namespace_prefix("depthwise_gradient"))
def _depthwise_gradient(gradient, x, side):
    return x.new_empty(side**2 + 1, x.shape[-1], dtype=torch.float)
