"""Mixing of nearby tokens: softmax attention in windows along a curve, and depthwise convolution of occupied pixels.

Tokens are `(M, W, D)`, as in `modeling_tokens.py`.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_curves import CELL
from .modeling_tokens import PackedTokens

__all__ = [
    "Surroundings",
    "TokenConvolution",
    "WindowAttention",
    "convolve_tokens",
    "reorder",
    "rotary_table",
    "surroundings",
]


class Surroundings(NamedTuple):
    """What local mixing needs to know of tokens in one of their two orders.

    Args:
        pixel: `(M, W)` as in [`PackedTokens`].
        cosine, sine: `(M, 1, W, d)`, factors of [`rotate`] for windows' heads.
        bias: `(M, 1, 1, W)` or `(M, 1, W, W)`, added to scores: 0 where a token may look, very small elsewhere.
        neighbours: `(T, K K)` as in [`PackedTokens`].
        at: `(T,)`, number of each token's pixel among those of all images; beyond them for an empty place.
    """

    pixel: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor
    bias: torch.Tensor
    neighbours: torch.Tensor | None
    at: torch.Tensor | None


class _Reorder(torch.autograd.Function):
    """`values[order]`; its gradient is collected by the inverse order, not scattered."""

    @staticmethod
    def forward(values, order, inverse):
        return values.index_select(0, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(0, *ctx.saved_tensors), None, None


def reorder(hidden_states: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Tokens `(M, W, D)` in another order: place i gets the token at `order[i]`."""
    return _Reorder.apply(hidden_states.flatten(0, 1), order, inverse).view(hidden_states.shape)


def rotary_table(pixel: torch.Tensor, width: int, periods, num_pairs: int, periodic: bool = False) -> torch.Tensor:
    """Angles `(..., num_pairs)` of pixels, given by row-major numbers; half from the row, half from the column.

    Args:
        width: Pixels in a row.
        periods: The shortest and the longest, in pixels; those between are in geometric progression.
        periodic: Whether a row is a circle, which those of columns then divide.
    """
    steps = torch.linspace(0, 1, num_pairs // 2, device=pixel.device)
    frequencies = 2 * pi / periods[0] * (periods[0] / periods[1]) ** steps
    of_columns = frequencies
    if periodic:
        of_columns = (frequencies * width / (2 * pi)).round().clamp(min=1) * (2 * pi / width)
    row, column = pixel // width, pixel % width
    return torch.cat([row.unsqueeze(-1) * frequencies, column.unsqueeze(-1) * of_columns], dim=-1)


def surroundings(config, tokens: PackedTokens, width: int, height: int, dtype, in_second: bool) -> Surroundings:
    """Those of the tokens in the first or the second order."""
    pixel, shift = tokens.pixel, 0
    if in_second:
        pixel, shift = pixel.flatten()[tokens.to_second].view(pixel.shape), config.curve_shift
    num_pairs = config.hidden_size // config.num_attention_heads // 2
    angles = rotary_table(pixel, width, config.rotary_periods, num_pairs, config.periodic_columns)
    may_look = tokens.is_token.unsqueeze(1)  # [M, 1, W]
    if config.curve == "grid":
        column = pixel % width + shift
        column = column % width if config.periodic_columns else column
        cell = (pixel // width + shift) // CELL * width + column // CELL
        may_look = may_look & (cell.unsqueeze(1) == cell.unsqueeze(2))
    bias = torch.zeros_like(may_look, dtype=dtype).masked_fill(~may_look, torch.finfo(dtype).min / 2)
    neighbours, at = tokens.neighbours, None
    if neighbours is not None and in_second:
        to_first = torch.cat([tokens.to_first, tokens.to_first.new_full((1,), tokens.to_first.shape[0])])
        neighbours = to_first[neighbours][tokens.to_second]
    if config.convolution == "scatter":
        size = height * width
        at = tokens.image.unsqueeze(1) * size + pixel
        at = torch.where(tokens.is_token, at, tokens.counts.shape[0] * size).flatten()
    cosine, sine = angles.cos(), angles.sin()
    factors = torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)
    cosine, sine = (part.to(dtype).unsqueeze(1) for part in factors)
    return Surroundings(pixel, cosine, sine, bias.unsqueeze(1), neighbours, at)


def rotate(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Channel i and channel i + d / 2 of heads `(M, h, W, d)` rotated by the i-th angle (arXiv 2104.09864).

    Args:
        cosine, sine: `(M, 1, W, d)`: the cosines twice, and the sines first negated, then as they are.
    """
    return heads * cosine + heads.roll(heads.shape[-1] // 2, -1) * sine


class WindowAttention(nn.Module):
    """Softmax attention inside each window, with rotary positions of rows and columns."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, around: Surroundings) -> torch.Tensor:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # one copy, which halves the time of what follows
        query, key, value = qkv.unbind()  # not by indices, whose gradients are as large as all three
        query, key = (rotate(part, around.cosine, around.sine) for part in (query, key))
        context = attend(query, key, value, around.bias)
        return self.proj(context.transpose(1, 2).flatten(2))


def attend(query, key, value, bias):
    """softmax(q kᵀ / √d + bias) v of heads `(M, h, W, d)`, as plain products: see `softmax_attention`."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2) + bias
    return scores.softmax(dim=-1).to(value.dtype) @ value


def _gathered(values: torch.Tensor, weight: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    values = F.pad(values, (0, 0, 0, 1))  # an empty pixel
    return sum(values[neighbours[:, place]] * weight[place] for place in range(len(weight)))  # pyright: ignore


class _Gather(torch.autograd.Function):
    """Σ_o w_o x[neighbour o]. If j is the o-th neighbour of i, then i is the neighbour of j on the opposite side."""

    @staticmethod
    def forward(values, weight, neighbours):
        return _gathered(values, weight, neighbours)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        values, weight, neighbours = ctx.saved_tensors
        padded = F.pad(values, (0, 0, 0, 1))
        to_weight = [(gradient * padded[places]).sum(0, dtype=weight.dtype) for places in neighbours.unbind(1)]
        return _gathered(gradient, weight.flip(0), neighbours), torch.stack(to_weight), None


def convolve_tokens(hidden_states, weight, around: Surroundings, grid: tuple[int, int, int], periodic: bool = False):
    """Depthwise convolution of the image at occupied pixels, `(M, W, D)`; `weight` `(D, 1, K, K)`.

    Args:
        grid: Images, height and width.
        periodic: Whether the last column touches the first.
    """
    values, flat = hidden_states.flatten(0, 1), weight.flatten(1).t()  # [T, D], [K K, D]
    if around.neighbours is not None:
        result = _Gather.apply(values, flat.to(values.dtype), around.neighbours)
    else:
        dense = values.new_zeros(grid[0] * grid[1] * grid[2] + 1, values.shape[1]).index_put((around.at,), values)
        images = dense[:-1].unflatten(0, grid).permute(0, 3, 1, 2)
        reach = weight.shape[-1] // 2
        images = F.pad(images, (reach, reach, 0, 0), mode="circular" if periodic else "constant")
        images = F.conv2d(images, weight.to(values.dtype), padding=(reach, 0), groups=len(weight))
        result = F.pad(images.permute(0, 2, 3, 1).flatten(0, 2), (0, 0, 0, 1))[around.at]
    return result.view(hidden_states.shape)


class TokenConvolution(nn.Module):
    """x + a depthwise convolution that sees occupied pixels only, as the empty ones are zero."""

    def __init__(self, config):
        super().__init__()
        self.periodic = config.periodic_columns
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 1, config.kernel_size, config.kernel_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))
        self.reset_parameters()

    def reset_parameters(self):
        bound = self.weight[0].numel() ** -0.5
        init.uniform_(self.weight, -bound, bound)
        init.zeros_(self.bias)

    def forward(self, hidden_states: torch.Tensor, around: Surroundings, grid: tuple[int, int, int]) -> torch.Tensor:
        mixed = convolve_tokens(hidden_states, self.weight, around, grid, self.periodic)
        return hidden_states + mixed + self.bias
