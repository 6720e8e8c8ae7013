"""Blocks on patches between HitViT's blocks on pixels: pixels resolve tracks, patches the shape of showers.

A patch is the sum of its tokens, and each token gets back what its patch has learned. Empty patches are computed too:
the cost does not depend on the number of tokens.
"""

import torch
from torch import nn

from .configuration_xcit import XCiTConfig
from .modeling_activations import gelu
from .modeling_layers import FourierPositionEncoding
from .modeling_local import Surroundings
from .modeling_packed import from_segments, segment_sum
from .modeling_precision import LayerNorm
from .modeling_tokens import PackedTokens
from .modeling_xcit import XCiTBlock

__all__ = ["PatchBlocks"]


class PatchBlocks(nn.Module):
    """XCiT's blocks on the grid of patches, called as one [`HitViTBlock`]."""

    window = None  # tokens may be in either order

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
        self.side = config.patch_size
        self.norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.down = nn.Linear(config.hidden_size, own.hidden_size)
        self.pos_embed = FourierPositionEncoding(own.hidden_size)
        self.blocks = nn.ModuleList(XCiTBlock(own) for _ in range(own.num_hidden_layers))
        self.norm2 = LayerNorm(own.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(own.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, tokens: PackedTokens, around: Surroundings, grid: tuple[int, int, int]
    ) -> torch.Tensor:
        (number, height, width), side = grid, self.side
        rows, columns = -(-height // side), -(-width // side)  # the last ones may overhang the image
        patch = around.pixel // width // side * columns + around.pixel % width // side
        patch = (patch + tokens.image.unsqueeze(1) * (rows * columns)).flatten()
        values = gelu(self.down(self.norm1(hidden_states))).masked_fill(~tokens.is_token.unsqueeze(2), 0.0)
        sums = segment_sum(values.flatten(0, 1), patch, number * rows * columns).to(hidden_states.dtype)
        positions = self.pos_embed(rows, columns, sums.device).flatten(2).transpose(1, 2)
        patches = sums.unflatten(0, (number, rows * columns)) + positions  # [B, N, D]
        for block in self.blocks:
            patches = block(patches, rows, columns)
        learned = from_segments(self.up(self.norm2(patches)).flatten(0, 1), patch)
        return hidden_states + learned.view(hidden_states.shape)
