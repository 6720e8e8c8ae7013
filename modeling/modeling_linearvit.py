"""LinearViT (L2ViT, https://arxiv.org/abs/2501.16182): local-window attention alternating with linear attention.

Tokens stay a contiguous grid `(B, H, W, D)` throughout: that is the channels-last layout in which the depthwise
convolutions are fastest. Where paper and code differ, this follows the authors' code.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from .configuration_linearvit import LinearViTConfig
from .modeling_attention import softmax_attention
from .modeling_attention_pooling import AttentionPooling
from .modeling_branches import attention_branch, depthwise_branch, local_branch, mlp_branch
from .modeling_checkpointing import update_statistics_once
from .modeling_depthwise import DepthwiseConv
from .modeling_e2e import E2EBackbone, E2EForImageClassification, E2EModelOutput, E2EPreTrainedModel, TokenStates
from .modeling_head import E2EHead
from .modeling_layers import DropPath, FourierPositionEncoding, LocalInteraction, Mlp
from .modeling_masked import E2EForMaskedImageModeling, embed_masked
from .modeling_mixers import make_global_attention
from .modeling_precision import LayerNorm, residual_stream
from .modeling_sizes import cut, has_any_size, in_order, pad_to_multiple
from .modeling_stem import ConvStem
from .modeling_wrapped import is_plain

__all__ = [
    "LinearViTBackbone",
    "LinearViTForImageClassification",
    "LinearViTForMaskedImageModeling",
    "LinearViTModel",
    "LinearViTPreTrainedModel",
]


def window_partition(qkv, side, num_heads):
    """Split a grid (B, H, W, 3D) into windows; return query, key and value, each (B * windows, h, side * side, d).

    `side` must divide H and W.
    """
    batch_size, height, width, channels = qkv.shape
    grid = qkv.view(batch_size, height // side, side, width // side, side, 3, num_heads, channels // (3 * num_heads))
    # one copy, after which each of the three is contiguous
    return in_order(grid.permute(5, 0, 1, 3, 6, 2, 4, 7)).flatten(1, 3).flatten(3, 4).unbind()


def window_merge(context, side, height, width):
    """Heads in windows `(B * windows, h, side * side, d)` back to the grid `(B, height, width, D)`."""
    num_heads, head_dim = context.shape[1], context.shape[3]
    rows, columns = height // side, width // side
    windows = context.view(context.shape[0] // (rows * columns), rows, columns, num_heads, side, side, head_dim)
    return in_order(windows.permute(0, 1, 4, 2, 5, 3, 6)).flatten(5, 6).flatten(3, 4).flatten(1, 2)


class ConditionalPositionEncoding(nn.Module):
    """x + depthwise 3 x 3 (CPE, https://arxiv.org/abs/2102.10882)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.proj = DepthwiseConv.of(hidden_size, 3)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return depthwise_branch(hidden_states, self.proj)


class LinearViTWindowAttention(nn.Module):
    """Softmax attention inside each window of a grid `(B, H, W, D)`.

    Windows that overhang the grid on the right or at the bottom are filled with zero tokens that take part, as in the
    authors' code; their query, key and value are the bias, so nothing is multiplied for them.
    """

    kernel_name = "window"

    def __init__(self, hidden_size: int, num_heads: int, window_size: int):
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        height, width = hidden_states.shape[1:3]
        side = self.window_size
        overhangs = not has_any_size(hidden_states) and bool(height % side or width % side)
        if overhangs and is_plain(self.qkv):
            qkv = pad_to_multiple(F.linear(hidden_states, self.qkv.weight), side, dims=(1, 2))
            qkv = qkv + self.qkv.bias.to(qkv.dtype)
        else:
            qkv = self.qkv(pad_to_multiple(hidden_states, side, dims=(1, 2)))
        query, key, value = window_partition(qkv, self.window_size, self.num_heads)
        context = softmax_attention(query, key, value)
        context = window_merge(context, self.window_size, *qkv.shape[1:3])
        return self.proj(cut(context, height, width))


class LinearViTLocalBlock(GradientCheckpointingLayer):
    """Window attention and MLP, each behind a conditional position encoding."""

    def __init__(self, config, hidden_size: int, num_heads: int, mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        self.cpe1 = ConditionalPositionEncoding(hidden_size)
        self.norm1 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attn = LinearViTWindowAttention(hidden_size, num_heads, config.window_size)
        self.cpe2 = ConditionalPositionEncoding(hidden_size)
        self.norm2 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.cpe1(hidden_states)
        hidden_states = attention_branch(hidden_states, self.norm1, self.attn, drop_path=self.drop_path)
        hidden_states = self.cpe2(hidden_states)
        return mlp_branch(hidden_states, self.norm2, self.mlp, drop_path=self.drop_path)


class LinearViTGlobalBlock(GradientCheckpointingLayer):
    """Position encoding, global attention, local concentration of the residual stream (equation 8), MLP."""

    def __init__(self, config, hidden_size: int, num_heads: int, mlp_ratio: float, drop_path_rate: float):
        super().__init__()
        self.cpe1 = ConditionalPositionEncoding(hidden_size)
        self.norm1 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attn = make_global_attention(config, hidden_size, num_heads)
        self.norm3 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.local_mp = LocalInteraction(hidden_size, config.local_kernel_size)
        self.norm2 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.cpe1(hidden_states)
        hidden_states = attention_branch(hidden_states, self.norm1, self.attn, drop_path=self.drop_path)
        hidden_states = local_branch(hidden_states, self.norm3, self.local_mp, drop_path=self.drop_path)
        return mlp_branch(hidden_states, self.norm2, self.mlp, drop_path=self.drop_path)


class LinearViTStem(nn.Module):
    """Convolutional stem and layer norm."""

    def __init__(self, config):
        super().__init__()
        self.proj = ConvStem(config, config.hidden_sizes[0], activation=F.relu, bias=True, pad=True)
        self.norm = LayerNorm(config.hidden_sizes[0], eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(pixel_values))


class LinearViTDownsample(nn.Module):
    """Layer norm, then a 2 x 2 convolution of stride 2; odd sides are padded with zeros after the norm."""

    def __init__(self, config, in_size: int, out_size: int):
        super().__init__()
        self.norm = LayerNorm(in_size, eps=config.layer_norm_eps)
        self.proj = nn.Conv2d(in_size, out_size, kernel_size=2, stride=2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.norm(hidden_states)
        hidden_states = pad_to_multiple(hidden_states, 2, dims=(1, 2))
        return self.proj(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class LinearViTPreTrainedModel(E2EPreTrainedModel):
    config: LinearViTConfig
    config_class = LinearViTConfig
    base_model_prefix = "linearvit"
    _no_split_modules = ["LinearViTLocalBlock", "LinearViTGlobalBlock"]


class LinearViTModel(LinearViTPreTrainedModel):
    """Stem, stages of alternating local and global blocks, layer norm, mean over tokens or attention to them."""

    def __init__(self, config, use_mask_token: bool = False):
        super().__init__(config)
        self.initializer_range = config.initializer_range
        self.mask_token = nn.Parameter(torch.empty(config.hidden_sizes[0])) if use_mask_token else None
        sizes = config.hidden_sizes
        self.pos_embed = FourierPositionEncoding(sizes[0]) if config.fourier_positions else None
        stem = LinearViTStem(config)
        self.total_stride = stem.proj.total_stride * 2 ** (len(sizes) - 1)
        self.downsample_layers = nn.ModuleList([stem])
        self.downsample_layers.extend(LinearViTDownsample(config, *pair) for pair in pairwise(sizes))
        num_blocks = sum(config.depths)
        rates = iter([config.drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)])
        self.stages = nn.ModuleList()
        for depth, *shape in zip(config.depths, sizes, config.num_attention_heads, config.mlp_ratios):
            kinds = [LinearViTGlobalBlock if i % 2 else LinearViTLocalBlock for i in range(depth)]
            blocks = [block(config, *shape, next(rates)) for block in kinds]  # pyright: ignore[reportCallIssue]
            self.stages.append(nn.Sequential(*blocks))
        self.norm = LayerNorm(sizes[-1], eps=config.layer_norm_eps)
        pooled = sizes[-1], config.num_attention_heads[-1], config.mlp_ratios[-1], config.layer_norm_eps
        self.pooling = AttentionPooling(*pooled) if config.attention_pooling and not use_mask_token else None
        update_statistics_once(self)
        self.post_init()

    def reset_parameters(self):
        if self.mask_token is not None:
            init.trunc_normal_(self.mask_token, std=self.initializer_range)

    def get_input_embeddings(self):
        return self.downsample_layers[0]

    def block_names(self):
        return [f"stages.{i}.{j}" for i, depth in enumerate(self.config.depths) for j in range(depth)]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> E2EModelOutput:
        """`pixel_values` `(B, C, H, W)` of any size; `bool_masked_pos` `(B, N)` hides tokens of the stem's grid."""
        states = TokenStates(self.wants_hidden_states(output_hidden_states, kwargs))
        hidden_states = embed_masked(self.downsample_layers[0], pixel_values, bool_masked_pos, self.mask_token)
        if self.pos_embed is not None:
            positions = self.pos_embed(*hidden_states.shape[1:3], hidden_states.device)
            hidden_states = hidden_states + positions.permute(0, 2, 3, 1)
        hidden_states = states.keep(hidden_states)  # [B, H', W', D]
        for i, stage in enumerate(self.stages):
            hidden_states = stage(residual_stream(self.downsample_layers[i](hidden_states) if i else hidden_states))
            hidden_states = states.keep(hidden_states)
        tokens = self.norm(hidden_states).flatten(1, 2)  # [B, N, D]
        pooled = tokens.mean(dim=1) if self.pooling is None else self.pooling(tokens)
        return E2EModelOutput(last_hidden_state=tokens, pooler_output=pooled, **states.fields())


class LinearViTBackbone(E2EBackbone, LinearViTPreTrainedModel):
    """LinearViT for `AutoBackbone`."""

    def __init__(self, config):
        super().__init__(config)
        self.linearvit = LinearViTModel(config)
        self.num_features = [config.hidden_sizes[0], *config.hidden_sizes]
        self.post_init()


class LinearViTForImageClassification(LinearViTPreTrainedModel, E2EForImageClassification):
    """LinearViT with class and mass heads."""

    def __init__(self, config):
        super().__init__(config)
        self.linearvit = LinearViTModel(config)
        self.head = E2EHead(config, config.hidden_size, self.linearvit.total_stride)
        self.post_init()


class LinearViTForMaskedImageModeling(LinearViTPreTrainedModel, E2EForMaskedImageModeling):
    """LinearViT with a linear decoder from the last stage to the pixels of each token."""

    def __init__(self, config):
        super().__init__(config)
        self.linearvit = LinearViTModel(config, use_mask_token=True)
        self.stride = self.linearvit.total_stride
        self.decoder = nn.Linear(config.hidden_sizes[-1], 2 * config.num_channels * self.stride**2)
        self.post_init()

    @property
    def stem(self) -> LinearViTStem:
        stem = self.linearvit.downsample_layers[0]
        assert isinstance(stem, LinearViTStem)
        return stem
