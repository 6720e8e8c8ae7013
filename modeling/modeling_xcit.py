"""XCiT (https://arxiv.org/abs/2106.09681): attention between channels instead of tokens, at a cost linear in N.

Tokens are `(B, N, D)` between blocks. Equations and quirks follow the authors' code, whose weights these modules load.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from .configuration_xcit import XCiTConfig
from .modeling_branches import attention_branch, local_branch, mlp_branch
from .modeling_checkpointing import update_statistics_once
from .modeling_cross_covariance import CrossCovarianceAttention
from .modeling_e2e import E2EBackbone, E2EForImageClassification, E2EModelOutput, E2EPreTrainedModel, TokenStates
from .modeling_head import E2EHead
from .modeling_layers import DropPath, FourierPositionEncoding, LocalInteraction, Mlp
from .modeling_masked import E2EForMaskedImageModeling, embed_masked
from .modeling_precision import LayerNorm
from .modeling_stem import ConvStem

__all__ = [
    "XCiTBackbone",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
    "XCiTPreTrainedModel",
]


class XCiTBlock(GradientCheckpointingLayer):
    """Cross-covariance attention, local patch interaction and MLP, each with LayerScale and drop-path.

    Args:
        periodic: Whether the last column of patches touches the first.
    """

    def __init__(self, config, periodic: bool = False):
        super().__init__()
        self.layer_scale_init_value = config.layer_scale_init_value
        hidden_size = config.hidden_size
        self.norm1 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attn = CrossCovarianceAttention(config, hidden_size, config.num_attention_heads)
        self.norm3 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.local_mp = LocalInteraction(hidden_size, kernel_size=3, periodic=periodic)
        self.norm2 = LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(hidden_size, int(hidden_size * config.mlp_ratio))
        self.drop_path = DropPath(config.drop_path_rate)
        self.gamma1, self.gamma2, self.gamma3 = (nn.Parameter(torch.empty(hidden_size)) for _ in range(3))
        self.reset_parameters()

    def reset_parameters(self):
        for gamma in (self.gamma1, self.gamma2, self.gamma3):
            init.constant_(gamma, self.layer_scale_init_value)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        hidden_states = attention_branch(hidden_states, self.norm1, self.attn, self.gamma1, self.drop_path)
        grid = hidden_states.unflatten(1, (height, width))
        grid = local_branch(grid, self.norm3, self.local_mp, self.gamma3, self.drop_path)
        return mlp_branch(grid, self.norm2, self.mlp, self.gamma2, self.drop_path).flatten(1, 2)


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

    As in the authors' code, patch tokens change too: their scaled norm is added, then they are doubled. The doubling
    matters from three blocks on, because layer norm hides it from the next block.
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
        # a chain of stride-2 convolutions needs no padding; without it a single patch convolution would drop pixels
        is_chain = config.patch_size & (config.patch_size - 1) == 0
        self.patch_embed = ConvStem(config, config.hidden_size, activation=F.gelu, bias=False, pad=not is_chain)
        self.pos_embed = FourierPositionEncoding(config.hidden_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.blocks = nn.ModuleList(XCiTBlock(config) for _ in range(config.num_hidden_layers))
        self.cls_attn_blocks = nn.ModuleList(
            XCiTClassAttentionBlock(config) for _ in range(config.num_class_attention_layers)
        )
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        update_statistics_once(self)
        self.post_init()

    def reset_parameters(self):
        init.trunc_normal_(self.cls_token, std=self.initializer_range)
        if self.mask_token is not None:
            init.trunc_normal_(self.mask_token, std=self.initializer_range)

    def get_input_embeddings(self):
        return self.patch_embed

    def block_names(self):
        blocks = [f"blocks.{i}" for i in range(len(self.blocks))]
        return blocks + [f"cls_attn_blocks.{i}" for i in range(len(self.cls_attn_blocks))]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> E2EModelOutput:
        """`pixel_values` `(B, C, H, W)` of any size; `bool_masked_pos` `(B, N)` hides tokens of the stem's grid.

        The first token returned is the class token.
        """
        states = TokenStates(self.wants_hidden_states(output_hidden_states, kwargs))
        hidden_states = embed_masked(self.patch_embed, pixel_values, bool_masked_pos, self.mask_token)
        height, width = hidden_states.shape[1:3]
        positions = self.pos_embed(height, width, hidden_states.device).permute(0, 2, 3, 1)
        hidden_states = states.keep(hidden_states + positions).flatten(1, 2)  # [B, N, D]
        for block in self.blocks:
            grid = block(hidden_states, height, width).unflatten(1, (height, width))
            hidden_states = states.keep(grid).flatten(1, 2)
        hidden_states = torch.cat([self.cls_token.expand(hidden_states.shape[0], -1, -1), hidden_states], dim=1)
        for block in self.cls_attn_blocks:
            hidden_states = block(hidden_states)
        hidden_states = self.norm(hidden_states)
        pooled = hidden_states[:, 0]
        return E2EModelOutput(last_hidden_state=hidden_states, pooler_output=pooled, **states.fields())


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
        self.head = E2EHead(config, config.hidden_size, self.xcit.patch_embed.total_stride)
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
