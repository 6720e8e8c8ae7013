"""XCiT (https://arxiv.org/abs/2106.09681): attention between channels instead of tokens, at a cost linear in N.

Tokens stay `(B, N, D)`. Equations and quirks follow the authors' code, whose weights these modules load.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from .configuration_xcit import XCiTConfig
from .modeling_activations import gelu
from .modeling_attention import cross_covariance_attention, cross_covariance_attention_in_blocks, cross_covariance_map
from .modeling_depthwise import DepthwiseConv
from .modeling_e2e import (
    DropPath,
    E2EBackbone,
    E2EForImageClassification,
    E2EModelOutput,
    E2EPreTrainedModel,
    FourierPositionEncoding,
    Mlp,
)
from .modeling_head import E2EHead
from .modeling_kernels import can_fuse, fused_local_concentration, fused_mlp, fused_project, fused_project_back
from .modeling_masked import E2EForMaskedImageModeling, stem_tokens
from .modeling_mixers import MOST_IN_BLOCKS, split_heads
from .modeling_norm import LayerNorm
from .modeling_stem import ConvStem

__all__ = [
    "XCiTBackbone",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
    "XCiTPreTrainedModel",
]


class XCiTCrossCovarianceAttention(nn.Module):
    """Multi-head `cross_covariance_attention` with one learned temperature per head."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):  # `_init_weights` calls it again: `from_pretrained` discards values set in `__init__`
        init.ones_(self.temperature)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states)
        if hidden_states.shape[-1] <= MOST_IN_BLOCKS:
            return self.proj(cross_covariance_attention_in_blocks(*qkv.chunk(3, dim=-1), self.temperature))
        context = cross_covariance_attention(*split_heads(qkv, self.num_heads), self.temperature)  # [B, h, N, d]
        return self.proj(context.transpose(1, 2).reshape(hidden_states.shape))

    def add_fused(self, hidden_states: torch.Tensor, norm: nn.LayerNorm, gamma: torch.Tensor) -> torch.Tensor:
        """`hidden_states + gamma * self(norm(hidden_states))` for compiled inference in bfloat16."""
        parts = fused_project(hidden_states, norm, self.qkv)
        context = cross_covariance_attention_in_blocks(*parts, self.temperature)
        return fused_project_back(hidden_states, context, self.proj, gamma)

    def attention_map(self, hidden_states, grid, place):
        """The weights between channels, `(B, h, d, d)`."""
        query, key, _ = split_heads(self.qkv(hidden_states), self.num_heads)
        return cross_covariance_map(query, key, self.temperature).detach()


class XCiTLocalPatchInteraction(nn.Module):
    """Local patch interaction (LPI), XCiT section 3.3: depthwise, GELU, BatchNorm, depthwise, each 3 x 3."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.conv1 = DepthwiseConv(hidden_size, 3)
        self.bn = nn.BatchNorm2d(hidden_size)
        self.conv2 = DepthwiseConv(hidden_size, 3)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        grid = gelu(self.conv1(hidden_states.unflatten(1, (height, width))))
        return self.conv2(self.bn(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).flatten(1, 2)


class XCiTBlock(GradientCheckpointingLayer):
    """Cross-covariance attention, local patch interaction and MLP, each with LayerScale and drop-path."""

    def __init__(self, config):
        super().__init__()
        self.layer_scale_init_value = config.layer_scale_init_value
        hidden_size = config.hidden_size
        self.norm1 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attn = XCiTCrossCovarianceAttention(hidden_size, config.num_attention_heads)
        self.norm3 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.local_mp = XCiTLocalPatchInteraction(hidden_size)
        self.norm2 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * config.mlp_ratio))
        self.drop_path = DropPath(config.drop_path_rate)
        self.gamma1, self.gamma2, self.gamma3 = (nn.Parameter(torch.empty(hidden_size)) for _ in range(3))
        self.reset_parameters()

    def reset_parameters(self):
        for gamma in (self.gamma1, self.gamma2, self.gamma3):
            init.constant_(gamma, self.layer_scale_init_value)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if can_fuse(self, hidden_states):
            hidden_states = self.attn.add_fused(hidden_states, self.norm1, self.gamma1)
            grid = hidden_states.unflatten(1, (height, width))
            grid = fused_local_concentration(grid, self.norm3, self.local_mp, self.gamma3)
            return fused_mlp(grid, self.norm2, self.mlp, self.gamma2).flatten(1, 2)
        hidden_states = hidden_states + self.drop_path(self.gamma1 * self.attn(self.norm1(hidden_states)))
        local = self.local_mp(self.norm3(hidden_states), height, width)
        hidden_states = hidden_states + self.drop_path(self.gamma3 * local)
        return hidden_states + self.drop_path(self.gamma2 * self.mlp(self.norm2(hidden_states)))


class XCiTClassAttention(nn.Module):
    """Attention whose only query is the class token (CaiT, https://arxiv.org/abs/2103.17239)."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.proj = nn.Linear(hidden_size, hidden_size)

    def heads(self, tokens):
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, h, N, d]

    def attention_map(self, hidden_states, grid, place):
        """The class token's weights of the patches, `(B, h, H, W)`."""
        query, key = self.heads(self.q(hidden_states[:, :1])), self.heads(self.k(hidden_states))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)  # [B, h, 1, 1 + N]
        return weights[:, :, 0, 1:].unflatten(-1, grid).detach()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        class_token = hidden_states[:, :1]
        query, key, value = self.q(class_token), self.k(hidden_states), self.v(hidden_states)
        context = F.scaled_dot_product_attention(self.heads(query), self.heads(key), self.heads(value))
        return self.proj(context.transpose(1, 2).reshape(class_token.shape))  # [B, 1, D]


class XCiTClassAttentionBlock(GradientCheckpointingLayer):
    """Class attention and MLP of the class token.

    As in the authors' code, patch tokens move too: by their scaled norm here, then by doubling. The doubling
    matters with three blocks and more, because layer norm hides it from the next one.
    """

    def __init__(self, config):
        super().__init__()
        self.tokens_norm, self.layer_scale_init_value = config.tokens_norm, config.layer_scale_init_value
        hidden_size = config.hidden_size
        self.norm1 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attn = XCiTClassAttention(hidden_size, config.num_attention_heads)
        self.norm2 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * config.mlp_ratio))
        self.gamma1, self.gamma2 = (nn.Parameter(torch.empty(hidden_size)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self):
        for gamma in (self.gamma1, self.gamma2):
            init.constant_(gamma, self.layer_scale_init_value)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(hidden_states)
        hidden_states = hidden_states + self.gamma1 * torch.cat([self.attn(normed), normed[:, 1:]], dim=1)
        if self.tokens_norm:
            hidden_states = self.norm2(hidden_states)
            class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        else:
            class_token, patches = self.norm2(hidden_states[:, :1]), hidden_states[:, 1:]
        return torch.cat([class_token + self.gamma2 * self.mlp(class_token), 2 * patches], dim=1)


class XCiTPreTrainedModel(E2EPreTrainedModel):
    config: XCiTConfig
    config_class = XCiTConfig
    base_model_prefix = "xcit"
    _no_split_modules = ["XCiTBlock", "XCiTClassAttentionBlock"]
    _truncated_normal_convolutions = False


class XCiTModel(XCiTPreTrainedModel):
    """Stem, Fourier positions, cross-covariance blocks, class attention, layer norm."""

    def __init__(self, config, use_mask_token: bool = False):
        super().__init__(config)
        self.mask_token = nn.Parameter(torch.empty(config.hidden_size)) if use_mask_token else None
        self.initializer_range = config.initializer_range
        # the stride-2 convolutions of powers of two need no padding; a single patch convolution would drop pixels
        is_chain = config.patch_size & (config.patch_size - 1) == 0
        self.patch_embed = ConvStem(config, config.hidden_size, activation=F.gelu, bias=False, pad=not is_chain)
        self.pos_embed = FourierPositionEncoding(config.hidden_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.blocks = nn.ModuleList(XCiTBlock(config) for _ in range(config.num_hidden_layers))
        self.cls_attn_blocks = nn.ModuleList(
            XCiTClassAttentionBlock(config) for _ in range(config.num_class_attention_layers)
        )
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def reset_parameters(self):
        init.trunc_normal_(self.cls_token, std=self.initializer_range)
        if self.mask_token is not None:
            init.trunc_normal_(self.mask_token, std=self.initializer_range)

    def get_input_embeddings(self):
        return self.patch_embed

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> E2EModelOutput:
        """`pixel_values` `(B, C, H, W)` of any size; `bool_masked_pos` `(B, N)` hides tokens of the stem's grid.

        The first of the returned tokens is the class token.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = stem_tokens(self.patch_embed, pixel_values, bool_masked_pos, self.mask_token)
        height, width = hidden_states.shape[1:3]
        positions = self.pos_embed(height, width).permute(0, 2, 3, 1)
        hidden_states = (hidden_states + positions).flatten(1, 2)  # [B, N, D]
        collected = [hidden_states]
        for block in self.blocks:
            hidden_states = block(hidden_states, height, width)
            collected.append(hidden_states)
        hidden_states = torch.cat([self.cls_token.expand(hidden_states.shape[0], -1, -1), hidden_states], dim=1)
        for block in self.cls_attn_blocks:
            hidden_states = block(hidden_states)
        hidden_states = self.norm(hidden_states)
        return E2EModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, 0],
            hidden_states=tuple(collected) if output_hidden_states else None,
            feature_maps=tuple(tokens.transpose(1, 2).unflatten(2, (height, width)) for tokens in collected)
            if output_hidden_states
            else None,
        )


class XCiTBackbone(E2EBackbone, XCiTPreTrainedModel):
    """XCiT for `AutoBackbone`."""

    def __init__(self, config):
        super().__init__(config)
        self.xcit = XCiTModel(config)
        self.num_features = [config.hidden_size] * (1 + config.num_hidden_layers)
        self.post_init()


class XCiTForImageClassification(XCiTPreTrainedModel, E2EForImageClassification):
    """XCiT with class and mass heads."""

    def __init__(self, config):
        super().__init__(config)
        self.xcit = XCiTModel(config)
        self.head = E2EHead(config, config.hidden_size)
        self.post_init()


class XCiTForMaskedImageModeling(XCiTPreTrainedModel, E2EForMaskedImageModeling):
    """XCiT with a linear decoder from the patch tokens to their pixels."""

    def __init__(self, config):
        super().__init__(config)
        self.xcit = XCiTModel(config, use_mask_token=True)
        self.stride = self.stem.total_stride
        self.decoder = nn.Linear(config.hidden_size, 2 * config.num_channels * self.stride**2)
        self.post_init()

    @property
    def stem(self):
        return self.xcit.patch_embed
