"""Layers that several models share."""

from math import pi

import torch
from torch import nn

from .modeling_activations import gelu
from .modeling_depthwise import DepthwiseConv, on_grid, wrap_columns

__all__ = ["DropPath", "FourierPositionEncoding", "LocalInteraction", "Mlp", "fourier_positions"]


def fourier_positions(height: int, width: int, num_frequencies: int, device) -> torch.Tensor:
    """Sines and cosines of the row, then of the column, `(1, 4 * num_frequencies, height, width)`, float32.

    Positions count from 1 and are scaled so that the last one is 2π (XCiT appendix A): any grid has the same range.
    """
    index = torch.arange(2 * num_frequencies, device=device, dtype=torch.float32)
    periods = 10000 ** (2 * (index // 2) / (2 * num_frequencies))

    def encode(length):
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + 1e-6) * 2 * pi
        angle = position[:, None] / periods
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # [length, 2 F]

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).permute(2, 0, 1)[None]


class FourierPositionEncoding(nn.Module):
    """A learned projection of `fourier_positions` to `(1, D, H, W)`, computed for the current grid.

    Args:
        of_columns: Whether columns have positions too, besides rows.
    """

    num_frequencies = 16

    def __init__(self, hidden_size: int, of_columns: bool = True):
        super().__init__()
        self.num_positions = (4 if of_columns else 2) * self.num_frequencies
        self.token_projection = nn.Conv2d(self.num_positions, hidden_size, kernel_size=1)

    def forward(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        positions = fourier_positions(height, width, self.num_frequencies, device)
        positions = positions[:, : self.num_positions]
        return self.token_projection(positions.to(self.token_projection.weight.dtype))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(hidden_states)))


class LocalInteraction(nn.Module):
    """Depthwise, GELU, BatchNorm, depthwise on a grid `(B, H, W, D)`.

    XCiT's local patch interaction (LPI, section 3.3) with 3 x 3 kernels; L2ViT's local concentration module (LCM,
    equation 7) with 7 x 7.

    Args:
        periodic: Whether the last column touches the first.
    """

    def __init__(self, hidden_size: int, kernel_size: int, periodic: bool = False):
        super().__init__()
        self.periodic, self.reach = periodic, kernel_size // 2
        self.conv1 = DepthwiseConv.of(hidden_size, kernel_size)
        self.bn = nn.BatchNorm2d(hidden_size)
        self.conv2 = DepthwiseConv.of(hidden_size, kernel_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = gelu(self._convolve(self.conv1, hidden_states))
        return self._convolve(self.conv2, self.bn(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def _convolve(self, convolution: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.periodic:
            return on_grid(convolution, hidden_states)
        wrapped = on_grid(convolution, wrap_columns(hidden_states, self.reach))
        return wrapped[:, :, self.reach : self.reach + hidden_states.shape[2]]


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drops a sample's residual branch and rescales the rest."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        keep = hidden_states.new_empty(hidden_states.shape[0], *[1] * (hidden_states.ndim - 1))
        return hidden_states * keep.bernoulli_(1 - self.rate).div_(1 - self.rate)
