"""Global attention modules that LinearViT can be built with (`LinearViTConfig.global_attention`), all else equal.

Each is a projection to query, key and value, one function of [`modeling_attention`], what its paper adds around it
(local enhancement, a gate), and a projection back; `(B, H, W, D)` in and out.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_attention import (
    cross_covariance_attention,
    focused_attention,
    inline_attention,
    linear_attention,
    linear_attention_in_blocks,
    magnitude_aware_attention,
    polarity_aware_attention,
    rank_augmented_attention,
)
from .modeling_depthwise import DepthwiseConv

__all__ = ["GLOBAL_ATTENTIONS", "GlobalAttention", "split_heads"]


def split_heads(qkv, num_heads):
    """`(B, N, 3 D)` to query, key and value, each `(B, h, N, d)`."""
    batch_size, num_tokens, width = qkv.shape
    return qkv.view(batch_size, num_tokens, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)


class GlobalAttention(nn.Module):
    """Projections around a mixer.

    `lepe_size` adds a depthwise convolution of v, `has_gate` multiplies by a linear map of the input, as the mixer's
    paper has it.
    """

    lepe_size = 0
    has_gate = False

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.lepe = DepthwiseConv(hidden_size, self.lepe_size) if self.lepe_size else None
        self.gate = nn.Linear(hidden_size, hidden_size) if self.has_gate else None

    def mix(self, query, key, value):
        raise NotImplementedError("A subclass says how tokens are mixed.")

    def mix_tokens(self, qkv):
        """`(B, N, 3 D)` to `(B, N, D)`."""
        return self.mix(*split_heads(qkv, self.num_heads)).transpose(1, 2).flatten(2)

    def enhance(self, context, value, hidden_states):
        """What the paper adds to the mixed tokens; `value` and `hidden_states` on the grid, `(B, H, W, D)`."""
        if self.lepe is not None:
            context = context + self.lepe(value)
        return context if self.gate is None else context * self.gate(hidden_states)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states)
        context = self.mix_tokens(qkv.flatten(1, 2)).view(hidden_states.shape)
        return self.proj(self.enhance(context, qkv.chunk(3, dim=-1)[2], hidden_states))


class ReluLinearAttention(GlobalAttention):
    """L2ViT's, with one learned temperature per head."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.denominator_floor = config.denominator_floor
        self.denominator_floor_per_token = config.denominator_floor_per_token
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):  # `_init_weights` calls it again: `from_pretrained` discards values set in `__init__`
        init.constant_(self.temperature, self.head_dim**-0.5)

    def mix(self, query, key, value):
        floor = self.denominator_floor * (key.shape[-2] if self.denominator_floor_per_token else 1)
        return linear_attention(query, key, value, floor) * self.temperature

    def mix_tokens(self, qkv):
        floor = self.denominator_floor * (qkv.shape[1] if self.denominator_floor_per_token else 1)
        return linear_attention_in_blocks(*qkv.chunk(3, dim=-1), self.temperature, floor)


class SoftmaxAttention(GlobalAttention):
    """The quadratic control, by PyTorch's fused kernel."""

    def mix(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


class CrossCovarianceAttention(GlobalAttention):
    """XCiT's, with one learned temperature per head."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):
        init.ones_(self.temperature)

    def mix(self, query, key, value):
        return cross_covariance_attention(query, key, value, self.temperature)


class RankAugmentedAttention(GlobalAttention):
    """RALA, without its rotary positions."""

    lepe_size, has_gate = 5, True

    def mix(self, query, key, value):
        return rank_augmented_attention(query, key, value)


class MagnitudeAwareAttention(GlobalAttention):
    """MALA, without its rotary positions."""

    lepe_size, has_gate = 5, True

    def mix(self, query, key, value):
        return magnitude_aware_attention(query, key, value)


class InlineAttention(GlobalAttention):
    """InLine, with a 3 x 3 depthwise residual of v whose kernels a small network makes from the mean token."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.kernels = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 9 * hidden_size)
        )

    def mix(self, query, key, value):
        return inline_attention(query, key, value)

    def mix_tokens(self, qkv):
        """`(B, N, 3 D)` to `(B, N, D)`."""
        return self.mix(*split_heads(qkv, self.num_heads)).transpose(1, 2).flatten(2)

    def enhance(self, context, value, hidden_states):
        batch_size, height, width, hidden_size = hidden_states.shape
        kernels = self.kernels(hidden_states.mean(dim=(1, 2))).view(batch_size * hidden_size, 1, 3, 3)
        image = value.permute(0, 3, 1, 2).flatten(0, 1)[None]  # [1, B D, H, W]
        local = F.conv2d(image, kernels, padding=1, groups=batch_size * hidden_size)
        return context + local.view(batch_size, hidden_size, height, width).permute(0, 2, 3, 1)


class FocusedAttention(GlobalAttention):
    """FLatten's focused linear attention, with one learned scale per channel."""

    lepe_size = 5

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.reset_parameters()

    def reset_parameters(self):
        init.zeros_(self.scale)

    def mix(self, query, key, value):
        query, key = ((x.relu() + 1e-6) / F.softplus(self.scale) for x in (query, key))
        return focused_attention(query, key, value)


class PolarityAwareAttention(GlobalAttention):
    """PolaFormer's, with a learned scale and power per channel."""

    lepe_size, has_gate = 5, True

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.power = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.reset_parameters()

    def reset_parameters(self):
        init.zeros_(self.scale)
        init.zeros_(self.power)

    def mix(self, query, key, value):
        query, key = (x / F.softplus(self.scale) for x in (query, key))
        return polarity_aware_attention(query, key, value, 1 + 4 * self.power.sigmoid())


GLOBAL_ATTENTIONS = {
    "relu_linear": ReluLinearAttention,
    "softmax": SoftmaxAttention,
    "xca": CrossCovarianceAttention,
    "rala": RankAugmentedAttention,
    "mala": MagnitudeAwareAttention,
    "inline": InlineAttention,
    "focused": FocusedAttention,
    "polaformer": PolarityAwareAttention,
}
