"""Depthwise convolutions of token grids `(B, H, W, D)`, otherwise most of a LinearViT's training step on CPUs.

Two things are slow there. oneDNN computes the gradient of a depthwise kernel quickly only if it has at most three
columns: 7 x 7 takes seven times as long as 7 x 3, in bfloat16 fifteen times. And a compiled model turns tokens into
images and back around each convolution. One operator with tokens in and out, opaque to `torch.compile`, avoids both.
In bfloat16 on CPUs with AMX our own kernels are faster still (`modeling_kernels.py`).
"""

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_kernels import can_convolve, convolve, convolve_backward
from .modeling_operators import define_operator, is_transformed

__all__ = ["DepthwiseConv", "depthwise_conv", "on_grid", "plain_depthwise_conv", "wrap_columns"]

USE_OPERATOR = True  # false: PyTorch's convolution on CPUs too


def plain_depthwise_conv(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """PyTorch's convolution of `(B, H, W, D)` with `weight` `(D, 1, K, K)`, K odd; the grid keeps its size."""
    image = hidden_states.permute(0, 3, 1, 2)  # contiguous tokens are an image in channels-last layout
    padding = [side // 2 for side in weight.shape[2:]]
    return F.conv2d(image, weight, bias, padding=padding, groups=len(weight)).permute(0, 2, 3, 1)


def depthwise_conv(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """As [`plain_depthwise_conv`], on CPUs by an operator without second derivatives that is not exported."""
    is_tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    is_exporting = torch.compiler.is_exporting() or is_tracing
    # without gradients there is nothing to cure, and inductor does better with what it can see
    is_inference = torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled()
    # an operator's derivative has no rule for torch.func
    if hidden_states.device.type != "cpu" or is_exporting or is_inference or is_transformed() or not USE_OPERATOR:
        return plain_depthwise_conv(hidden_states, weight, bias)
    if torch.is_autocast_enabled("cpu") and hidden_states.dtype != torch.float64:
        hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
    return _forward_operator(hidden_states.contiguous(), weight, bias)


def _forward(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if can_convolve(hidden_states, weight.shape[-1]):
        return convolve(hidden_states, weight, bias)
    dtype = hidden_states.dtype
    return plain_depthwise_conv(hidden_states, weight.to(dtype), bias.to(dtype)).contiguous()


def _backward(
    gradient: torch.Tensor, hidden_states: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if can_convolve(hidden_states, weight.shape[-1]):
        input_gradient, *parameter_gradients = convolve_backward(gradient, hidden_states, weight)
        kernel_gradient, bias_gradient = (part.to(weight.dtype) for part in parameter_gradients)
        return input_gradient, kernel_gradient, bias_gradient
    kernel = weight.to(hidden_states.dtype)
    # in bfloat16 oneDNN runs this forward pass in half the time of its backward pass
    input_gradient = plain_depthwise_conv(gradient, kernel.flip(2, 3), None).contiguous()
    images = gradient.permute(0, 3, 1, 2), hidden_states.permute(0, 3, 1, 2)
    is_narrow = kernel.shape[-1] <= 3
    kernel_gradient, bias_gradient = (_kernel_gradient if is_narrow else _kernel_gradient_in_columns)(*images, kernel)
    return input_gradient, kernel_gradient.to(weight.dtype), bias_gradient.to(weight.dtype)


def _kernel_gradient(gradient, image, kernel, with_bias: bool = True):
    padding, bias_sizes = [side // 2 for side in kernel.shape[2:]], [len(kernel)] if with_bias else None
    geometry = ([1, 1], padding, [1, 1], False, [0, 0], len(kernel))  # stride, padding, dilation, ..., groups
    mask = [False, True, with_bias]  # which gradients to compute
    return torch.ops.aten.convolution_backward(gradient, image, kernel, bias_sizes, *geometry, mask)[1:]


def _kernel_gradient_in_columns(gradient: torch.Tensor, image: torch.Tensor, kernel: torch.Tensor):
    """Gradients of kernel and bias, three columns of the kernel at a time.

    Columns away from the middle are the same convolution of an image shifted by two; the column that would read what
    the shift cut off is left to the neighbouring group.
    """
    width, half = image.shape[-1], kernel.shape[-1] // 2
    three_columns, result = kernel[..., :3].contiguous(), torch.zeros_like(kernel)
    for shift in range(-(half // 2 * 2), half + 1, 2):  # input column minus output column
        if abs(shift) >= width:  # these columns see nothing but padding
            continue
        from_left, from_right = max(0, shift), max(0, -shift)
        moved = image[..., from_left : width - from_right].contiguous(memory_format=torch.channels_last)
        seen = gradient[..., from_right : width - from_left].contiguous(memory_format=torch.channels_last)
        part, bias = _kernel_gradient(seen, moved, three_columns, with_bias=shift == 0)
        for column in (-1, 0, 1):
            if column * shift >= 0 and 0 <= half + shift + column < kernel.shape[-1]:
                result[..., half + shift + column] = part[..., 1 + column]
        if shift == 0:
            bias_gradient = bias
    return result, bias_gradient


def _fake_forward(hidden_states, weight, bias):
    return torch.empty_like(hidden_states, memory_format=torch.contiguous_format)


def _fake_backward(gradient, hidden_states, weight):
    return torch.empty_like(hidden_states), torch.empty_like(weight), weight.new_empty(len(weight))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx, gradient):
    hidden_states, weight = ctx.saved_tensors
    return _backward_operator(gradient.to(hidden_states.dtype).contiguous(), hidden_states, weight)


_backward_operator = define_operator("depthwise_conv_backward", _backward, _fake_backward)
_forward_operator = define_operator("depthwise_conv", _forward, _fake_forward, _differentiate, _save)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the image's size; `(B, D, H, W)` in and out, as of any convolution.

    [`on_grid`] applies it to tokens. `of` makes one; PEFT makes its adapters with the arguments of `nn.Conv2d`.
    """

    @classmethod
    def of(cls, hidden_size: int, kernel_size: int) -> "DepthwiseConv":
        return cls(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2, groups=hidden_size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.bias is None or self.groups < self.in_channels:  # an adapter
            return super().forward(input)
        return depthwise_conv(input.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def on_grid(convolution: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """A convolution that keeps the image's size, of tokens `(B, H, W, D)`."""
    return convolution(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def wrap_columns(hidden_states: torch.Tensor, reach: int) -> torch.Tensor:
    """`(B, H, W, D)` with the last `reach` columns before the first and the first ones after the last."""
    return torch.cat([hidden_states[:, :, -reach:], hidden_states, hidden_states[:, :, :reach]], dim=2)
