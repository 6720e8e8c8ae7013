"""Global attention modules that LinearViT can be built with (`LinearViTConfig.global_attention`), all else equal.

Each is a projection to query, key and value, one function of [`modeling_attention`], what its paper adds around it
(local enhancement, a gate), and a projection back; `(B, H, W, D)` in and out.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_attention import (
    axial_angles,
    convolve_each,
    cross_covariance_attention,
    cross_covariance_attention_in_blocks,
    cross_covariance_map,
    focused_attention,
    inline_attention,
    inner_convolution,
    inner_swiglu,
    linear_attention,
    linear_attention_in_blocks,
    magnitude_aware_attention,
    mamba_like_attention,
    polarity_aware_attention,
    rank_augmented_attention,
)
from .modeling_depthwise import DepthwiseConv
from .modeling_kernels import fused_linear_attention

MOST_IN_BLOCKS = 256  # width up to which copying heads costs more than multiplying blocks of zeros

__all__ = ["GLOBAL_ATTENTIONS", "MOST_IN_BLOCKS", "GlobalAttention", "split_heads"]


def split_heads(qkv, num_heads):
    """`(B, N, 3 D)` to query, key and value, each `(B, h, N, d)`."""
    batch_size, num_tokens, width = qkv.shape
    return qkv.view(batch_size, num_tokens, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)


class GlobalAttention(nn.Module):
    """Projections around a mixer.

    `lepe_size` adds a depthwise convolution of v, `has_gate` multiplies by a linear map of the input, as the mixer's
    paper has it; `can_rotate` says that it may have rotary positions (`config.rotary_positions`).
    """

    lepe_size = 0
    has_gate = False
    can_rotate = False

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.rotates = self.can_rotate and config.rotary_positions
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.lepe = DepthwiseConv(hidden_size, self.lepe_size) if self.lepe_size else None
        self.gate = nn.Linear(hidden_size, hidden_size) if self.has_gate else None

    def mix(self, query, key, value, **angles):
        raise NotImplementedError("A subclass says how tokens are mixed.")

    def mix_tokens(self, qkv):
        """The grid `(B, H, W, 3 D)` to `(B, N, D)`."""
        height, width = qkv.shape[1:3]
        heads = split_heads(qkv.flatten(1, 2), self.num_heads)
        rotary = {"angles": axial_angles(height, width, self.head_dim // 2, qkv.device)} if self.rotates else {}
        return self.mix(*heads, **rotary).transpose(1, 2).flatten(2)

    def attention_map(self, hidden_states, grid, place):
        """The row of weights of the token at `place` (shares of height and width), `(B, h, H, W)`.

        Every mixer here is linear in the values, so the derivative with respect to them is the weights; PolaFormer has
        two sets, one for each half of a head, and gives their mean.
        """
        height, width = hidden_states.shape[1:3]
        number = int(place[0] * height) * width + int(place[1] * width)
        with torch.no_grad():
            qkv = self.qkv(hidden_states)
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            qkv = qkv.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.mix_tokens(qkv)[:, number].sum(), qkv)
        to_values = gradient.chunk(3, dim=-1)[2].unflatten(-1, (self.num_heads, -1))  # [B, H, W, h, d]
        return to_values.mean(dim=-1).permute(0, 3, 1, 2)

    def enhance(self, context, value, hidden_states):
        """What the paper adds to the mixed tokens; `value` and `hidden_states` on the grid, `(B, H, W, D)`."""
        if self.lepe is not None:
            context = context + self.lepe(value)
        return context if self.gate is None else context * self.gate(hidden_states)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states)
        context = self.mix_tokens(qkv).view(hidden_states.shape)
        return self.proj(self.enhance(context, qkv.chunk(3, dim=-1)[2], hidden_states))

    def add_fused(self, hidden_states: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """`hidden_states + self(norm(hidden_states))` for compiled inference in bfloat16."""
        return hidden_states + self(norm(hidden_states))


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
        return linear_attention(query, key, value, self.floor_of(key.shape[-2])) * self.temperature

    def mix_tokens(self, qkv):
        if qkv.shape[-1] > 3 * MOST_IN_BLOCKS:
            return super().mix_tokens(qkv)
        tokens = qkv.flatten(1, 2)
        return linear_attention_in_blocks(*tokens.chunk(3, dim=-1), self.temperature, self.floor_of(tokens.shape[1]))

    def floor_of(self, num_tokens: int) -> float:
        return self.denominator_floor * (num_tokens if self.denominator_floor_per_token else 1)

    def add_fused(self, hidden_states, norm):
        floor = self.floor_of(hidden_states.shape[1] * hidden_states.shape[2])
        return fused_linear_attention(hidden_states, norm, self, floor)


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

    def attention_map(self, hidden_states, grid, place):
        """The weights between channels, `(B, h, d, d)`."""
        query, key, _ = split_heads(self.qkv(hidden_states).flatten(1, 2), self.num_heads)
        return cross_covariance_map(query, key, self.temperature).detach()

    def mix_tokens(self, qkv):
        if qkv.shape[-1] > 3 * MOST_IN_BLOCKS:
            return super().mix_tokens(qkv)
        return cross_covariance_attention_in_blocks(*qkv.flatten(1, 2).chunk(3, dim=-1), self.temperature)


class RankAugmentedAttention(GlobalAttention):
    """RALA."""

    lepe_size, has_gate, can_rotate = 5, True, True

    def mix(self, query, key, value, angles=None):
        return rank_augmented_attention(query, key, value, angles)


class MagnitudeAwareAttention(GlobalAttention):
    """MALA."""

    lepe_size, has_gate, can_rotate = 5, True, True

    def mix(self, query, key, value, angles=None):
        return magnitude_aware_attention(query, key, value, angles)


class InlineAttention(GlobalAttention):
    """InLine, with a 3 x 3 depthwise residual of v whose kernels a small network makes from the mean token."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.kernels = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 9 * hidden_size)
        )

    def mix(self, query, key, value):
        return inline_attention(query, key, value)

    def enhance(self, context, value, hidden_states):
        kernels = self.kernels(hidden_states.mean(dim=(1, 2))).view(-1, 1, 3, 3)
        return context + convolve_each(value, kernels.to(value.dtype))


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


class MambaLikeAttention(nn.Module):
    """MILA's token mixer: attention between a depthwise convolution and a gate, as a Mamba block is built.

    W_o [attention(SiLU(DW(W_in x))) ⊙ SiLU(W_gate x)]; the value is the input of the attention itself, and its rotary
    positions have frequencies of their own in every channel.
    """

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.input, self.gate = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.conv = DepthwiseConv(hidden_size, 3)
        self.qk = nn.Linear(hidden_size, 2 * hidden_size)
        self.lepe = DepthwiseConv(hidden_size, 3)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        height, width, hidden_size = hidden_states.shape[1:]
        value = F.silu(self.conv(self.input(hidden_states)))
        query, key, heads = (
            x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (*self.qk(value).chunk(2, dim=-1), value)
        )
        angles = axial_angles(height, width, hidden_size // 2, value.device)  # [N, D / 2]
        angles = angles.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        context = mamba_like_attention(query, key, heads, angles)
        context = context.transpose(1, 2).reshape(hidden_states.shape) + self.lepe(value)
        return self.proj(context * F.silu(self.gate(hidden_states)))


class InnerTrainingAttention(nn.Module):
    """ViT³'s: heads whose inner model is a small gated map, and one more whose inner model is a convolution."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.initializer_range = config.initializer_range
        self.qkv = nn.Linear(hidden_size, 3 * (hidden_size + self.head_dim))
        self.weight = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))
        self.gate_weight = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))
        self.kernel = nn.Parameter(torch.empty(self.head_dim, 1, 3, 3))
        self.proj = nn.Linear(hidden_size + self.head_dim, hidden_size)
        self.reset_parameters()

    def reset_parameters(self):
        for parameter in (self.weight, self.gate_weight, self.kernel):
            init.trunc_normal_(parameter, std=self.initializer_range)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_size = hidden_states.shape[-1]
        of_heads, of_convolution = self.qkv(hidden_states).split([3 * hidden_size, 3 * self.head_dim], dim=-1)
        heads = split_heads(of_heads.flatten(1, 2), self.num_heads)
        context = inner_swiglu(*heads, self.weight, self.gate_weight)
        context = context.transpose(1, 2).reshape(hidden_states.shape)
        local = inner_convolution(*of_convolution.chunk(3, dim=-1), self.kernel)
        return self.proj(torch.cat([context, local], dim=-1))


GLOBAL_ATTENTIONS = {
    "relu_linear": ReluLinearAttention,
    "softmax": SoftmaxAttention,
    "xca": CrossCovarianceAttention,
    "rala": RankAugmentedAttention,
    "mala": MagnitudeAwareAttention,
    "inline": InlineAttention,
    "focused": FocusedAttention,
    "polaformer": PolarityAwareAttention,
    "mila": MambaLikeAttention,
    "ttt": InnerTrainingAttention,
}
