"""Blocks on patches between HitViT's blocks on pixels: pixels resolve tracks, patches the shape of showers.

Each token gets back what its patch has learned. Empty patches are computed too: the cost does not depend on the number
of tokens.
"""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_xcit import XCiTConfig
from .modeling_activations import gelu, relu
from .modeling_depthwise import wrap_columns
from .modeling_layers import FourierPositionEncoding
from .modeling_local import Surroundings
from .modeling_packed import from_segments, sum_over_cells
from .modeling_precision import LayerNorm
from .modeling_stem import pixel_features
from .modeling_tokens import PackedTokens
from .modeling_xcit import XCiTBlock

__all__ = ["PatchBlocks", "PatchStem"]


class PatchStem(nn.Module):
    """Tokens to patches, in two convolutions: a depthwise one over cells of `patch_size` pixels, computed for occupied
    pixels only, then, as in XCiT's stem, batch norm, GELU and a 3 x 3 one of stride `patch_stride`.

    A token contributes its state and, separately, its pixel: the mass needs energies that add up, and the layer norm
    has removed their scale from the state.

    Raises:
        ValueError: with `config.periodic_columns`, if the patches do not divide the image's columns.
    """

    def __init__(self, config):
        super().__init__()
        width = config.patch_hidden_size
        self.side, self.stride, self.has_features = config.patch_size, config.patch_stride, config.pixel_features
        self.periodic = config.periodic_columns
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.of_state = nn.Linear(config.hidden_size, width)
        self.of_pixel = nn.Linear(config.num_pixel_features, width)
        self.place_weight = nn.Parameter(torch.empty(self.side**2, width))
        self.batch_norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=self.stride, padding=(1, 0 if self.periodic else 1))
        self.reset_parameters()

    def reset_parameters(self):
        init.ones_(self.place_weight)

    def forward(
        self, hidden_states: torch.Tensor, tokens: PackedTokens, grid: tuple[int, int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches `(B, D, R, C)`, and the number `(T,)` of the patch below each token among those of all images."""
        (_, height, width), side, stride = grid, self.side, self.stride
        if self.periodic and width % (side * stride):
            raise ValueError(
                f"Patches of {side * stride} pixels do not fit around an image of {width} columns: choose "
                f"`patch_size` times `patch_stride` so that it divides {width}."
            )
        row, column = tokens.pixel // width, tokens.pixel % width
        place = (row % side * side + column % side).flatten()
        rows, columns = -(-height // side), -(-width // side)  # the last cells may overhang the image
        image = tokens.image.unsqueeze(1)
        cell = row // side * columns + column // side
        pixels = tokens.values.flatten(0, 1)
        pixels = pixel_features(pixels) if self.has_features else pixels
        values = gelu(self.of_state(self.norm(hidden_states))).flatten(0, 1)
        values = values + relu(self.of_pixel(pixels.to(values.dtype)))
        values = values * from_segments(self.place_weight.to(values.dtype), place)
        cells = sum_over_cells(values.unflatten(0, cell.shape), cell, rows * columns, tokens)
        cells = cells.to(self.batch_norm.weight.dtype).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        cells = gelu(self.batch_norm(cells))
        if self.periodic:
            cells = wrap_columns(cells.permute(0, 2, 3, 1), 1).permute(0, 3, 1, 2)
        patches = self.conv(cells)
        patch = (image * patches.shape[2] + row // (side * stride)) * patches.shape[3] + column // (side * stride)
        return patches, patch.flatten()


class PatchBlocks(nn.Module):
    """XCiT's blocks on the grid of patches, called as one [`HitViTBlock`] with tokens in the first order."""

    window = None

    def __init__(self, config):
        super().__init__()
        own = XCiTConfig(
            hidden_size=config.patch_hidden_size,
            num_hidden_layers=config.num_patch_layers,
            num_attention_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
            drop_path_rate=config.drop_path_rate / 2,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.stem = PatchStem(config)
        # with periodic columns, patches have no position of their column: tokens bring theirs if `absolute_columns`
        self.pos_embed = FourierPositionEncoding(own.hidden_size, of_columns=not config.periodic_columns)
        self.blocks = nn.ModuleList(XCiTBlock(own, config.periodic_columns) for _ in range(own.num_hidden_layers))
        self.norm = LayerNorm(own.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(own.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, tokens: PackedTokens, around: Surroundings, grid: tuple[int, int, int]
    ) -> torch.Tensor:
        patches, patch = self.stem(hidden_states, tokens, grid)
        rows, columns = patches.shape[2:]
        patches = (patches + self.pos_embed(rows, columns, patches.device)).flatten(2).transpose(1, 2)  # [B, N, D]
        for block in self.blocks:
            patches = block(patches, rows, columns)
        learned = from_segments(self.up(self.norm(patches)).flatten(0, 1), patch)
        return hidden_states + learned.view(hidden_states.shape)
